//! Traces by OTLP over gRPC. Only what is written here becomes an attribute: names of ours, codes and request ids, never a token or an identity.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Span, SpanKind, Status, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use tonic::Code;

use crate::clock::Clock;
use crate::config::Tracing;
use crate::issuance::{Observer, Step};
use crate::server::metrics::Rpc;
use crate::server::refusals::code_label;

tokio::task_local! {
    /// The span of the request that this task works on.
    static CURRENT: Context;
}

/// Makes spans, where an endpoint is configured, and hands them to a thread that sends them. What can't be sent in time is dropped.
#[derive(Debug, Clone, Default)]
pub(in crate::server) struct Traces(Option<Exporting>);

#[derive(Debug, Clone)]
struct Exporting {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// The span of one request; nothing where it isn't sampled.
#[derive(Debug)]
pub(in crate::server) struct Trace(Option<Context>);

impl Traces {
    /// Connects when there is something to send: a collector that is away keeps nothing from starting. Needs a tokio runtime.
    ///
    /// # Errors
    /// The exporter's words.
    pub(in crate::server) fn start(config: Option<&Tracing>, replica: &str) -> Result<Self, String> {
        let Some(config) = config else { return Ok(Self(None)) };
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(&config.endpoint).build().map_err(|error| error.to_string())?;
        let resource = Resource::builder_empty().with_attributes([
            KeyValue::new("service.name", "meshmint"),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", replica.to_owned()),
        ]);
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            // By the trace's id alone, which is the caller's where it sent one: its flag "sampled" would let strangers decide what we spend.
            .with_sampler(Sampler::TraceIdRatioBased(f64::from(config.sample_percent) / 100.0))
            .with_resource(resource.build())
            .build();
        let tracer = provider.tracer("meshmint");
        Ok(Self(Some(Exporting { provider, tracer })))
    }

    /// A request begins. Only requests for certificates are traced.
    pub(in crate::server) fn begin(&self, headers: &HeaderMap, rpc: Rpc, request_id: &str) -> Trace {
        let (Some(Exporting { tracer, .. }), Rpc::CreateCertificate) = (&self.0, rpc) else { return Trace(None) };
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers));
        let [_, service, method] = rpc.labels();
        let builder = tracer.span_builder(format!("{service}/{method}")).with_kind(SpanKind::Server).with_attributes([
            KeyValue::new("rpc.system", "grpc"),
            KeyValue::new("rpc.service", service),
            KeyValue::new("rpc.method", method),
            KeyValue::new("meshmint.request_id", request_id.to_owned()),
        ]);
        let span = tracer.build_with_context(builder, &parent);
        Trace(span.span_context().is_sampled().then(|| parent.with_span(span)))
    }

    /// Tells `inner` of each step, and makes a span of it.
    pub(in crate::server) fn observer(&self, inner: Arc<dyn Observer>, clock: Arc<dyn Clock>) -> Arc<dyn Observer> {
        match &self.0 {
            None => inner,
            Some(Exporting { tracer, .. }) => Arc::new(StepSpans { inner, clock, tracer: tracer.clone() }),
        }
    }

    /// Sends what waits, for five seconds at most.
    pub(in crate::server) async fn shut_down(self) {
        let Some(Exporting { provider, .. }) = self.0 else { return };
        // It blocks.
        let ended = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(Duration::from_secs(5))).await;
        if let Ok(Err(error)) = ended {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

impl Trace {
    /// Steps that `work` takes belong to this trace.
    pub(in crate::server) async fn around<T>(&self, work: impl Future<Output = T>) -> T {
        match &self.0 {
            Some(context) => CURRENT.scope(context.clone(), work).await,
            None => work.await,
        }
    }

    /// The request is answered.
    pub(in crate::server) fn end(self, code: Code) {
        let Some(context) = self.0 else { return };
        let span = context.span();
        span.set_attribute(KeyValue::new("rpc.grpc.status_code", i64::from(code as i32)));
        // For a server, only what is its own fault is an error (OpenTelemetry's conventions for gRPC).
        if matches!(code, Code::Unknown | Code::DeadlineExceeded | Code::Unimplemented | Code::Internal | Code::Unavailable | Code::DataLoss) {
            span.set_status(Status::error(code_label(code)));
        }
        span.end();
    }
}

/// Makes spans of steps.
#[derive(Debug)]
struct StepSpans {
    inner: Arc<dyn Observer>,
    clock: Arc<dyn Clock>,
    tracer: SdkTracer,
}

impl Observer for StepSpans {
    fn step(&self, step: Step, took: Duration) {
        self.inner.step(step, took);
        // Outside of a traced request there is none, and nothing to do.
        let _ = CURRENT.try_with(|request| {
            let end = self.clock.now();
            let builder = self.tracer.span_builder(step.name()).with_start_time(end - took);
            self.tracer.build_with_context(builder, request).end_with_timestamp(end.into());
        });
    }

    fn past_warn_after(&self) {
        self.inner.past_warn_after();
    }
}

/// The headers of a request, as the propagator reads them.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
