//! What stands around every request: a deadline, a catch for panics, a request id, and the metrics of gRPC. It also mends the codes
//! that tonic chooses by itself and that would tell an agent the wrong thing.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Request, Response};
use tonic::body::Body;
use tonic::{Code, Status};

use super::connection::RequestId;
use super::door::Unread;
use super::metrics::{Metrics, Rpc};
use super::refusals::guarded;
use super::traces::Traces;
use crate::clock::{Clock, within};

/// The name of gRPC's status header, which an error without a body carries in its headers.
const GRPC_STATUS: &str = "grpc-status";

/// How long its client waits for the answer, where it says so (gRPC over HTTP/2, `Timeout`): at most eight digits and a unit.
const GRPC_TIMEOUT: &str = "grpc-timeout";

/// Why a request reached no service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// It has more header fields than any client sends.
    TooManyFields,
    /// It was not read to its end.
    Unread(Unread),
}

/// Guards one service. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    deadline: Duration,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    traces: Traces,
    /// Request ids are this prefix and a count.
    id_prefix: Arc<str>,
    count: Arc<AtomicU64>,
}

impl Guard {
    pub(super) fn new(deadline: Duration, clock: Arc<dyn Clock>, metrics: Arc<Metrics>, traces: Traces, id_prefix: &str) -> Self {
        Self { deadline, clock, metrics, traces, id_prefix: id_prefix.into(), count: Arc::default() }
    }

    /// Has `service` answer `request`. Always gives a response: a panic ends one request, never the process.
    pub(super) async fn answer<B, F>(&self, mut request: Request<B>, service: impl FnOnce(Request<B>) -> F) -> Response<Body>
    where
        F: Future<Output = Result<Response<Body>, Unanswered>>,
    {
        let rpc = Rpc::of_path(request.uri().path());
        let began = self.clock.monotonic();
        let id = format!("{}-{}", self.id_prefix, self.count.fetch_add(1, Ordering::Relaxed));
        request.extensions_mut().insert(RequestId(id.clone()));
        self.metrics.rpc_started(rpc);
        // Nobody waits any longer for what comes after the client's own deadline.
        let deadline = timeout_of(request.headers()).map_or(self.deadline, |timeout| timeout.min(self.deadline));
        let trace = self.traces.begin(request.headers(), rpc, &id);

        // In a place of its own: whatever is wrapped around it would be as large again, for each request that waits.
        let work = AssertUnwindSafe(Box::pin(async { service(request).await })).catch_unwind();
        let mut response = match trace.around(within(self.clock.as_ref(), deadline, work)).await {
            Some(Ok(Ok(response))) => self.mended(response),
            Some(Ok(Err(Unanswered::TooManyFields))) => self.refused(guarded::too_many_fields(), "too_many_headers"),
            Some(Ok(Err(Unanswered::Unread(Unread::TooLarge)))) => self.refused(guarded::too_large(), "message_too_large"),
            Some(Ok(Err(Unanswered::Unread(Unread::Broken)))) => self.refused(guarded::broken_off(), "broken_off"),
            Some(Err(panic)) => {
                self.metrics.panicked();
                tracing::error!(request_id = id, panic = panic_text(panic.as_ref()), "a request panicked: this is a bug, please report it");
                self.refused(guarded::internal(), "panic")
            }
            None => self.refused(guarded::deadline_exceeded(), "deadline"),
        };
        if let Ok(mut value) = HeaderValue::from_str(&id) {
            // Never the same again: HPACK (RFC 7541 §6.2.3) must not make room for it in its table, where it would push out what is.
            value.set_sensitive(true);
            response.headers_mut().insert("x-request-id", value);
        }
        let code = code_of(&response);
        self.metrics.rpc_handled(rpc, code, self.clock.monotonic().saturating_sub(began));
        trace.end(code);
        response
    }

    /// tonic says OUT_OF_RANGE for a message over the limit, INTERNAL for one that is missing, cut off or wrongly framed, and
    /// INVALID_ARGUMENT (through our codec) for one that it can't decode; handlers of ours never say the first two. None of them
    /// reached a handler, so they are counted here.
    fn mended(&self, response: Response<Body>) -> Response<Body> {
        match code_of(&response) {
            Code::OutOfRange => self.refused(guarded::too_large(), "message_too_large"),
            Code::Internal => self.refused(guarded::malformed(), "malformed_message"),
            Code::InvalidArgument if says(&response, super::codec::MALFORMED_MESSAGE) => {
                self.metrics.refused_as(Code::InvalidArgument, "malformed_message");
                response
            }
            _ => response,
        }
    }

    fn refused(&self, status: Status, reason: &'static str) -> Response<Body> {
        self.metrics.refused_as(status.code(), reason);
        status.into_http()
    }
}

/// What a client says in `grpc-timeout`; what isn't one counts as none, as with other servers.
fn timeout_of(headers: &HeaderMap) -> Option<Duration> {
    let (digits, unit) = headers.get(GRPC_TIMEOUT)?.to_str().ok()?.split_at_checked(headers.get(GRPC_TIMEOUT)?.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// The status in the headers: every error of a unary call is there. Otherwise the call went well as far as anybody knows.
fn code_of(response: &Response<Body>) -> Code {
    response.headers().get(GRPC_STATUS).map_or(Code::Ok, |value| Code::from_bytes(value.as_bytes()))
}

fn says(response: &Response<Body>, message: &str) -> bool {
    Status::from_header_map(response.headers()).is_some_and(|status| status.message() == message)
}

/// A panic's own words. They are ours (a message in the source, or of a library), never a caller's bytes: no panic message of ours quotes input.
fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    fn guard(deadline: Duration) -> Guard {
        Guard::new(deadline, SystemClock::shared(), Arc::new(Metrics::new().unwrap()), Traces::default(), "test")
    }

    fn request() -> Request<()> {
        Request::builder().uri("/istio.v1.auth.IstioCertificateService/CreateCertificate").body(()).unwrap()
    }

    fn text(guard: &Guard) -> String {
        String::from_utf8(guard.metrics.render()).unwrap()
    }

    #[tokio::test]
    async fn a_panic_ends_one_request() {
        let guard = guard(Duration::from_secs(60));
        let panics = |_| async { panic!("a bug") };
        for _ in 0..2 {
            assert_eq!(code_of(&guard.answer(request(), panics).await), Code::Internal);
        }
        let metrics = text(&guard);
        assert!(metrics.contains("meshmint_panics_total 2"), "{metrics}");
        assert!(metrics.contains(r#"meshmint_refusals_total{code="Internal",reason="panic"} 2"#), "{metrics}");
    }

    #[tokio::test]
    async fn a_request_that_hangs_is_told_so() {
        let guard = guard(Duration::from_millis(1));
        let hangs = |_| std::future::pending();
        let response = guard.answer(request(), hangs).await;
        assert_eq!(code_of(&response), Code::DeadlineExceeded);
        assert!(response.headers().contains_key("x-request-id"));
        assert!(text(&guard).contains(r#"grpc_code="DeadlineExceeded""#));
    }

    #[tokio::test]
    async fn the_earlier_of_both_deadlines_counts() {
        let hangs = |_| std::future::pending();
        let within = |timeout: &'static str| {
            let mut request = request();
            request.headers_mut().insert(GRPC_TIMEOUT, HeaderValue::from_static(timeout));
            request
        };
        // Ours would be an hour.
        let response = guard(Duration::from_secs(3600)).answer(within("1m"), hangs).await;
        assert_eq!(code_of(&response), Code::DeadlineExceeded);
        let response = guard(Duration::from_millis(1)).answer(within("99999999H"), hangs).await;
        assert_eq!(code_of(&response), Code::DeadlineExceeded);
    }

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        let read = |text: &str| timeout_of(&HeaderMap::from_iter([(http::HeaderName::from_static(GRPC_TIMEOUT), text.parse().unwrap())]));
        for (text, expected) in [
            ("2H", Duration::from_secs(7200)),
            ("3M", Duration::from_secs(180)),
            ("99999999S", Duration::from_secs(99_999_999)),
            ("0S", Duration::ZERO),
            ("250m", Duration::from_millis(250)),
            ("7u", Duration::from_micros(7)),
            ("00000009n", Duration::from_nanos(9)),
        ] {
            assert_eq!(read(text), Some(expected), "{text}");
        }
        for text in ["", "S", "5", "5s", "-5S", "+5S", "5 S", "5.5S", "123456789S", "5SS"] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(timeout_of(&HeaderMap::new()), None);
    }

    #[tokio::test]
    async fn tonics_own_codes_are_mended() {
        let guard = guard(Duration::from_secs(60));
        let too_large = |_| async { Ok(Status::out_of_range("tonic's words").into_http()) };
        assert_eq!(code_of(&guard.answer(request(), too_large).await), Code::InvalidArgument);
        assert!(text(&guard).contains(r#"reason="message_too_large""#));
        let cut_off = |_| async { Ok(Status::internal("tonic's words").into_http()) };
        assert_eq!(code_of(&guard.answer(request(), cut_off).await), Code::InvalidArgument);
        assert!(text(&guard).contains(r#"meshmint_refusals_total{code="InvalidArgument",reason="malformed_message"} 1"#));
    }

    #[tokio::test]
    async fn paths_of_a_callers_choice_are_no_labels() {
        let guard = guard(Duration::from_secs(60));
        let unknown = |_| async { Ok(Status::unimplemented("").into_http()) };
        let request = Request::builder().uri("/attacker/chosen").body(()).unwrap();
        guard.answer(request, unknown).await;
        assert!(!text(&guard).contains("attacker"));
    }
}
