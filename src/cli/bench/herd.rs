//! A herd: all agents of a mesh start at once. Each has its own connection, wants one certificate, and tries again as pilot-agent does.
//!
//! pilot-agent (istio 1.31) has two loops. The inner one sends the same request up to five times, 100 ms apart and doubling, give or take a tenth, after
//! codes that gRPC may try again and after failures of the connection; it keeps the connection as long as that lasts. When it gives up, the
//! connection is closed and a new one is made *at once*; the outer loop asks on it after 0.5 s, half as long again each time up to 60 s, give or
//! take a half, for ever. There is no deadline.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

use super::connection::{Sender, Trouble, ask};
use super::load::Load;
use super::tally::Ended;

/// What a herd's clients count together.
#[derive(Debug, Default)]
pub(super) struct Herd {
    /// Clients that have their certificate.
    pub(super) served: AtomicUsize,
    /// Requests that were sent, or whose connection failed before.
    pub(super) tries: AtomicU64,
    /// When the last certificate came, in microseconds since the start.
    pub(super) last: AtomicU64,
    /// The connections of clients that were served: agents keep theirs.
    kept: Mutex<Vec<Sender>>,
}

/// Tries of the inner loop.
const TRIES: u32 = 5;

/// The pause before the inner loop's try of this number; the first is 0.
fn pause_before_try(number: u32) -> Duration {
    const FIRST: Duration = Duration::from_millis(100);
    number.checked_sub(1).map_or(Duration::ZERO, |before| FIRST.saturating_mul(1 << before))
}

/// The pause after the outer loop's round of this number; the first is 0.
fn pause_after_round(number: u32) -> Duration {
    const FIRST: f64 = 0.5;
    const LONGEST: f64 = 60.0;
    Duration::from_secs_f64((FIRST * 1.5_f64.powi(i32::try_from(number).unwrap_or(i32::MAX))).min(LONGEST))
}

/// How far pauses of the inner and of the outer loop are drawn from these, as shares of them.
const SPREAD: (f64, f64) = (0.1, 0.5);

/// Whether pilot-agent's inner loop tries again after this end.
fn is_tried_again(ended: &Ended) -> bool {
    use tonic::Code::{Aborted, Cancelled, DeadlineExceeded, Internal, ResourceExhausted, Unavailable};
    match ended {
        // gRPC calls a failed connection UNAVAILABLE.
        Ended::Broken { .. } => true,
        Ended::Refused { code, .. } => matches!(code, Cancelled | DeadlineExceeded | ResourceExhausted | Aborted | Internal | Unavailable),
        Ended::Served | Ended::Wrong(_) => false,
    }
}

/// Sends out the clients. A task ends when its client was served.
pub(super) fn send_out(load: &Arc<Load>, clients: usize, tasks: &mut JoinSet<()>) -> Arc<Herd> {
    let herd = Arc::new(Herd::default());
    let began = load.clock.monotonic();
    for client in 0..clients {
        let (load, herd) = (load.clone(), herd.clone());
        tasks.spawn(async move { until_served(&load, &herd, client, began).await });
    }
    herd
}

async fn until_served(load: &Load, herd: &Herd, client: usize, began: Duration) {
    // Whoever can't connect finds out when it asks.
    let mut connection = None;
    _ = sender(load, client, &mut connection).await;
    load.pause(load.ask_later, 0.0).await;
    for number in 0_u32.. {
        if round(load, herd, client, began, &mut connection).await {
            herd.served.fetch_add(1, Ordering::Relaxed);
            let after = load.clock.monotonic().saturating_sub(began);
            herd.last.fetch_max(u64::try_from(after.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
            herd.kept.lock().unwrap_or_else(PoisonError::into_inner).extend(connection);
            return;
        }
        connection = None;
        tokio::join!(load.pause(pause_after_round(number), SPREAD.1), async { _ = sender(load, client, &mut connection).await });
    }
}

/// The inner loop; whether it got the certificate.
async fn round(load: &Load, herd: &Herd, client: usize, began: Duration, connection: &mut Option<Sender>) -> bool {
    let Some(question) = load.questions.of(client) else { return false };
    for number in 0..TRIES {
        load.pause(pause_before_try(number), SPREAD.0).await;
        herd.tries.fetch_add(1, Ordering::Relaxed);
        let tried = load.clock.monotonic();
        let answer = match sender(load, client, connection).await {
            Ok(sender) => ask(sender, question).await,
            Err(trouble) => Err(trouble),
        };
        if answer.is_err() {
            *connection = None;
        }
        let ended = load.judge(question, answer);
        let (served, again) = (ended == Ended::Served, is_tried_again(&ended));
        // A certificate counts from the moment at which it was first wanted, a refusal from its own try.
        load.recorder.ended(ended, load.clock.monotonic().saturating_sub(if served { began } else { tried }));
        if served || !again {
            return served;
        }
    }
    false
}

async fn sender(load: &Load, client: usize, connection: &mut Option<Sender>) -> Result<Sender, Trouble> {
    if let Some(sender) = connection {
        return Ok(sender.clone());
    }
    let (sender, driver) = load.connect(client, true).await?;
    tokio::spawn(async move { drop(driver.await) });
    Ok(connection.insert(sender).clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_those_of_pilot_agent() {
        let tries: Vec<_> = (0..TRIES).map(|number| pause_before_try(number).as_millis()).collect();
        assert_eq!(tries, [0, 100, 200, 400, 800]);
        let rounds: Vec<_> = (0..5).map(|number| pause_after_round(number).as_millis()).collect();
        assert_eq!(rounds, [500, 750, 1125, 1687, 2531]);
        assert_eq!([11, 12, 40].map(|number| pause_after_round(number).as_secs()), [43, 60, 60]);
        assert_eq!(pause_after_round(u32::MAX), Duration::from_secs(60));
    }

    #[test]
    fn what_is_tried_again_is_what_pilot_agent_tries_again() {
        use tonic::Code;
        let refused = |code| is_tried_again(&Ended::Refused { code, message: String::new() });
        for code in [Code::Cancelled, Code::DeadlineExceeded, Code::ResourceExhausted, Code::Aborted, Code::Internal, Code::Unavailable] {
            assert!(refused(code), "{code:?}");
        }
        for code in [Code::Unauthenticated, Code::InvalidArgument, Code::PermissionDenied, Code::NotFound, Code::FailedPrecondition, Code::Unknown] {
            assert!(!refused(code), "{code:?}");
        }
        assert!(is_tried_again(&Ended::Broken { kind: "tls_closed", words: String::new() }));
        assert!(!is_tried_again(&Ended::Wrong(String::new())));
    }
}
