//! Metrics under the names that Istio's users chart already, and our own. No label ever carries an identity or anything that a
//! caller can choose.

use std::time::Duration;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder, histogram_opts,
};
use tonic::Code;

use super::refusals::code_label;
use crate::issuance::{Refusal, RequestError, Trouble};

/// Every metric of a process, in a registry of its own.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    citadel_csr: IntCounter,
    citadel_authentication_failure: IntCounter,
    citadel_csr_parsing_error: IntCounter,
    citadel_csr_sign_error: IntCounterVec,
    citadel_issued: IntCounter,
    root_expiry: IntGauge,
    chain_expiry: IntGauge,
    grpc_started: IntCounterVec,
    grpc_handled: IntCounterVec,
    grpc_seconds: HistogramVec,
    grpc_received: IntCounterVec,
    grpc_sent: IntCounterVec,
    refusals: IntCounterVec,
    connections: IntGauge,
    connections_closed: IntCounterVec,
    handshakes: IntCounterVec,
    handshake_seconds: Histogram,
    panics: IntCounter,
    generation: IntGauge,
    bundle_number: IntGauge,
    serving_expiry: IntGauge,
    authority_failures: IntGauge,
    ledger_writable: IntGauge,
    key_set_age: IntGaugeVec,
    key_set_keys: IntGaugeVec,
}

const GRPC_LABELS: &[&str] = &["grpc_type", "grpc_service", "grpc_method"];

impl Metrics {
    /// Registers every metric.
    ///
    /// # Errors
    /// Where two of them had one name: a bug that the first start of any build shows.
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| register(&registry, IntCounter::new(name, help)?);
        let counters = |name: &str, help: &str, labels: &[&str]| register(&registry, IntCounterVec::new(Opts::new(name, help), labels)?);
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(name, help)?);
        let gauges = |name: &str, help: &str| register(&registry, IntGaugeVec::new(Opts::new(name, help), &["issuer"])?);
        let seconds = |name: &str, help: &str| -> HistogramOpts { histogram_opts!(name, help, BUCKETS.to_vec()) };
        let sign_errors = counters("citadel_server_csr_sign_err_count", "CSRs that were accepted and could not be answered, by error.", &["error"])?;
        for error in ["ledger_unavailable", "authority_unavailable", "no_entropy"] {
            // There from the start, so that a chart shows 0 and not a gap.
            sign_errors.with_label_values(&[error]);
        }
        Ok(Self {
            citadel_csr: counter("citadel_server_csr_count", "CSRs received.")?,
            citadel_authentication_failure: counter("citadel_server_authentication_failure_count", "Callers that could not be authenticated.")?,
            citadel_csr_parsing_error: counter("citadel_server_csr_parsing_err_count", "CSRs that could not be accepted.")?,
            citadel_csr_sign_error: sign_errors,
            citadel_issued: counter("citadel_server_success_cert_issuance_count", "Certificates that were issued.")?,
            root_expiry: gauge("citadel_server_root_cert_expiry_timestamp", "notAfter of the root that signs, Unix seconds.")?,
            chain_expiry: gauge("citadel_server_cert_chain_expiry_timestamp", "The earliest notAfter of the signing chain, Unix seconds.")?,
            grpc_started: counters("grpc_server_started_total", "RPCs started on the server.", GRPC_LABELS)?,
            grpc_handled: counters(
                "grpc_server_handled_total",
                "RPCs completed on the server, by code.",
                &["grpc_type", "grpc_service", "grpc_method", "grpc_code"],
            )?,
            grpc_seconds: register(
                &registry,
                HistogramVec::new(seconds("grpc_server_handling_seconds", "Time from the headers of an RPC to its answer."), GRPC_LABELS)?,
            )?,
            grpc_received: counters("grpc_server_msg_received_total", "RPC messages received.", GRPC_LABELS)?,
            grpc_sent: counters("grpc_server_msg_sent_total", "RPC messages sent.", GRPC_LABELS)?,
            refusals: counters(
                "meshmint_refusals_total",
                "Requests refused, by gRPC code and exact reason (docs/refusals.md).",
                &["code", "reason"],
            )?,
            connections: gauge("meshmint_connections", "TLS connections that are open on the CSR port.")?,
            connections_closed: counters(
                "meshmint_connections_closed_total",
                "Connections that ended, by reason: closed before a handshake, in it, or after it.",
                &["reason"],
            )?,
            handshakes: counters("meshmint_handshakes_total", "TLS handshakes, by result.", &["result"])?,
            handshake_seconds: register(&registry, Histogram::with_opts(seconds("meshmint_handshake_seconds", "Time of finished TLS handshakes."))?)?,
            panics: counter("meshmint_panics_total", "Requests that ended in a panic: each is a bug.")?,
            generation: gauge("meshmint_generation", "The generation that signs.")?,
            bundle_number: gauge("meshmint_bundle_number", "Number of the trust bundle.")?,
            serving_expiry: gauge("meshmint_serving_cert_expiry_timestamp", "notAfter of our own serving certificate, Unix seconds.")?,
            authority_failures: gauge(
                "meshmint_authority_failures",
                "How often renewing an issuing key or storing the state failed since the start.",
            )?,
            ledger_writable: gauge(
                "meshmint_ledger_writable",
                "1 where the last probe of the ledger could write, else 0: no certificate leaves then.",
            )?,
            key_set_age: gauges(
                "meshmint_key_set_age_seconds",
                "Age of the keys that tokens are checked with, -1 where none were ever loaded; numbered in the order of the issuers' names.",
            )?,
            key_set_keys: gauges("meshmint_key_set_keys", "Keys that tokens may be signed with, numbered in the order of the issuers' names.")?,
            registry,
        })
    }

    /// The text exposition format of everything.
    pub(super) fn render(&self) -> Vec<u8> {
        let mut text = Vec::new();
        // Writing into a Vec fails only for a metric without a sample, which the registry never gathers.
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics could not be encoded");
        }
        text
    }

    pub(super) fn csr_received(&self) {
        self.citadel_csr.inc();
    }

    pub(super) fn issued(&self) {
        self.citadel_issued.inc();
    }

    pub(super) fn refused(&self, refusal: &Refusal, code: Code) {
        match refusal {
            Refusal::Unauthenticated(_) | Refusal::UnusableCredential(_) | Refusal::Gone(_) => self.citadel_authentication_failure.inc(),
            Refusal::Request(RequestError::Csr(_)) => self.citadel_csr_parsing_error.inc(),
            Refusal::Unavailable(Trouble::Ledger(_) | Trouble::Authority(_) | Trouble::Entropy) => {
                self.citadel_csr_sign_error.with_label_values(&[refusal.reason()]).inc();
            }
            _ => {}
        }
        self.refused_as(code, refusal.reason());
    }

    /// A refusal that the guard decided, before or instead of the issuer.
    pub(super) fn refused_as(&self, code: Code, reason: &'static str) {
        self.refusals.with_label_values(&[code_label(code), reason]).inc();
    }

    pub(super) fn rpc_started(&self, rpc: &Rpc) {
        self.grpc_started.with_label_values(&rpc.labels()).inc();
        self.grpc_received.with_label_values(&rpc.labels()).inc();
    }

    pub(super) fn rpc_handled(&self, rpc: &Rpc, code: Code, took: Duration) {
        let [kind, service, method] = rpc.labels();
        self.grpc_handled.with_label_values(&[kind, service, method, code_label(code)]).inc();
        self.grpc_seconds.with_label_values(&rpc.labels()).observe(took.as_secs_f64());
        if code == Code::Ok {
            self.grpc_sent.with_label_values(&rpc.labels()).inc();
        }
    }

    pub(super) fn panicked(&self) {
        self.panics.inc();
    }

    pub(super) fn connection_opened(&self) {
        self.connections.inc();
    }

    pub(super) fn connection_closed(&self, reason: &'static str) {
        self.connections.dec();
        self.connection_refused(reason);
    }

    /// A connection that never came to its first request.
    pub(super) fn connection_refused(&self, reason: &'static str) {
        self.connections_closed.with_label_values(&[reason]).inc();
    }

    pub(super) fn handshake(&self, result: &'static str, took: Duration) {
        self.handshakes.with_label_values(&[result]).inc();
        if result == "ok" {
            self.handshake_seconds.observe(took.as_secs_f64());
        }
    }

    pub(super) fn serving_until(&self, unix_seconds: i64) {
        self.serving_expiry.set(unix_seconds);
    }

    pub(super) fn ledger_probed(&self, writable: bool) {
        self.ledger_writable.set(i64::from(writable));
    }

    pub(super) fn authority(&self, seen: &AuthorityGauges) {
        self.root_expiry.set(seen.root_expiry);
        self.chain_expiry.set(seen.chain_expiry);
        self.generation.set(seen.generation);
        self.bundle_number.set(seen.bundle_number);
        self.authority_failures.set(seen.failures);
    }

    /// Age in seconds (-1: never loaded) and size of one issuer's key set.
    pub(super) fn key_set(&self, issuer: usize, age: i64, keys: usize) {
        let issuer = issuer.to_string();
        self.key_set_age.with_label_values(&[&issuer]).set(age);
        self.key_set_keys.with_label_values(&[&issuer]).set(i64::try_from(keys).unwrap_or(i64::MAX));
    }
}

/// What the published generation shows.
#[derive(Debug, Clone, Copy)]
pub(super) struct AuthorityGauges {
    pub(super) root_expiry: i64,
    pub(super) chain_expiry: i64,
    pub(super) generation: i64,
    pub(super) bundle_number: i64,
    pub(super) failures: i64,
}

/// An RPC, as far as labels may name it: paths that nobody serves are all `unknown`, because a caller chooses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rpc {
    streaming: bool,
    service: &'static str,
    method: &'static str,
}

impl Rpc {
    /// The RPC of a request path.
    pub(super) fn of_path(path: &str) -> Self {
        let unary = |service, method| Self { streaming: false, service, method };
        match path {
            "/istio.v1.auth.IstioCertificateService/CreateCertificate" => unary("istio.v1.auth.IstioCertificateService", "CreateCertificate"),
            "/grpc.health.v1.Health/Check" => unary("grpc.health.v1.Health", "Check"),
            "/grpc.health.v1.Health/Watch" => Self { streaming: true, service: "grpc.health.v1.Health", method: "Watch" },
            path if path.starts_with("/grpc.reflection.") => Self { streaming: true, service: "grpc.reflection", method: "ServerReflectionInfo" },
            _ => unary("unknown", "unknown"),
        }
    }

    fn labels(&self) -> [&'static str; 3] {
        [if self.streaming { "server_stream" } else { "unary" }, self.service, self.method]
    }
}

/// Upper bounds in seconds, from a tenth of a millisecond (an issuance takes that) to the request timeout.
const BUCKETS: &[f64] = &[0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

fn register<T: prometheus::core::Collector + Clone + 'static>(registry: &Registry, metric: T) -> Result<T, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
