//! Metrics under the names that Istio's users chart already, and our own. No label ever carries an identity or anything that a
//! caller can choose.

mod counters;
mod rpcs;

use std::time::Duration;

use prometheus::{Encoder, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder, histogram_opts};
use tonic::Code;

use self::counters::Counters;
pub(super) use self::rpcs::Rpc;
use self::rpcs::Rpcs;
use super::refusals::code_label;
use crate::issuance::{Observer, Refusal, RequestError, Step, Trouble};

/// Every metric of a process, in a registry of its own.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    citadel_csr: IntCounter,
    citadel_authentication_failure: IntCounter,
    citadel_csr_parsing_error: IntCounter,
    citadel_csr_sign_error: Counters<1>,
    citadel_issued: IntCounter,
    root_expiry: IntGauge,
    chain_expiry: IntGauge,
    rpcs: Rpcs,
    steps: Vec<Histogram>,
    refusals: Counters<2>,
    connections: IntGauge,
    connections_closed: Counters<1>,
    handshakes: Counters<1>,
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

/// Refusals that are our doing, by code and reason. They are alerted on, so they are shown before the first one.
const OUR_REFUSALS: &[[&str; 2]] = &[
    ["ResourceExhausted", "overloaded"],
    ["Unavailable", "ledger_unavailable"],
    ["Unavailable", "authority_unavailable"],
    ["Unavailable", "keys_unavailable"],
    ["Unavailable", "unknown_kid"],
    ["Unavailable", "liveness_unavailable"],
    ["Unavailable", "no_entropy"],
    ["DeadlineExceeded", "deadline"],
    ["Internal", "panic"],
];

impl Metrics {
    /// Registers every metric.
    ///
    /// # Errors
    /// Where two of them had one name: a bug that the first start of any build shows.
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| register(&registry, IntCounter::new(name, help)?);
        let counters = |name: &str, help: &str, label: &str| register(&registry, IntCounterVec::new(Opts::new(name, help), &[label])?);
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(name, help)?);
        let gauges = |name: &str, help: &str| register(&registry, IntGaugeVec::new(Opts::new(name, help), &["issuer"])?);
        let steps = histogram_opts!(
            "meshmint_issuance_step_seconds",
            "Time of each step of an issuance, whether it ended well or not (docs/architecture.md, \"The way of a request\").",
            STEP_SECONDS.to_vec()
        );
        let steps = register(&registry, HistogramVec::new(steps, &["step"])?)?;
        let refusals = Opts::new("meshmint_refusals_total", "Requests refused, by gRPC code and exact reason (docs/refusals.md).");
        Ok(Self {
            citadel_csr: counter("citadel_server_csr_count", "CSRs received.")?,
            citadel_authentication_failure: counter("citadel_server_authentication_failure_count", "Callers that could not be authenticated.")?,
            citadel_csr_parsing_error: counter("citadel_server_csr_parsing_err_count", "CSRs that could not be accepted.")?,
            citadel_csr_sign_error: Counters::new(
                counters("citadel_server_csr_sign_err_count", "CSRs that were accepted and could not be answered, by error.", "error")?,
                &[["ledger_unavailable"], ["authority_unavailable"], ["no_entropy"]],
            ),
            citadel_issued: counter("citadel_server_success_cert_issuance_count", "Certificates that were issued.")?,
            root_expiry: gauge("citadel_server_root_cert_expiry_timestamp", "notAfter of the root that signs, Unix seconds.")?,
            chain_expiry: gauge("citadel_server_cert_chain_expiry_timestamp", "The earliest notAfter of the signing chain, Unix seconds.")?,
            rpcs: Rpcs::new(&registry)?,
            steps: Step::ALL.map(|step| steps.with_label_values(&[step.name()])).to_vec(),
            refusals: Counters::new(register(&registry, IntCounterVec::new(refusals, &["code", "reason"])?)?, OUR_REFUSALS),
            connections: gauge("meshmint_connections", "TLS connections that are open on the CSR port.")?,
            connections_closed: Counters::new(
                counters(
                    "meshmint_connections_closed_total",
                    "Connections that ended, by reason: closed before a handshake, in it, or after it.",
                    "reason",
                )?,
                &[["closed_by_peer"], ["too_many_connections"], ["too_many_strangers"], ["too_many_handshakes"]],
            ),
            handshakes: Counters::new(
                counters("meshmint_handshakes_total", "TLS handshakes, by result.", "result")?,
                &[["ok"], ["failed"], ["timeout"]],
            ),
            handshake_seconds: register(
                &registry,
                Histogram::with_opts(histogram_opts!("meshmint_handshake_seconds", "Time of finished TLS handshakes.", SECONDS.to_vec()))?,
            )?,
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
                self.citadel_csr_sign_error.inc([refusal.reason()]);
            }
            _ => {}
        }
        self.refused_as(code, refusal.reason());
    }

    /// A refusal that the guard decided, before or instead of the issuer.
    pub(super) fn refused_as(&self, code: Code, reason: &'static str) {
        self.refusals.inc([code_label(code), reason]);
    }

    pub(super) fn rpc_started(&self, rpc: Rpc) {
        self.rpcs.started(rpc);
    }

    pub(super) fn rpc_handled(&self, rpc: Rpc, code: Code, took: Duration) {
        self.rpcs.handled(rpc, code, took);
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
        self.connections_closed.inc([reason]);
    }

    pub(super) fn handshake(&self, result: &'static str, took: Duration) {
        self.handshakes.inc([result]);
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

impl Observer for Metrics {
    fn step(&self, step: Step, took: Duration) {
        if let Some(seconds) = self.steps.get(step as usize) {
            seconds.observe(took.as_secs_f64());
        }
    }
}

/// Upper bounds in seconds, from a tenth of a millisecond (an issuance takes that) to the request timeout.
const SECONDS: &[f64] = &[0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// The same for a step, from a hundredth of a millisecond (a signature takes a few of them).
const STEP_SECONDS: &[f64] =
    &[0.000_01, 0.000_025, 0.000_05, 0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

fn register<T: prometheus::core::Collector + Clone + 'static>(registry: &Registry, metric: T) -> Result<T, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_has_its_own_histogram() {
        let metrics = Metrics::new().unwrap();
        for (place, step) in Step::ALL.into_iter().enumerate() {
            for _ in 0..=place {
                metrics.step(step, Duration::from_millis(1));
            }
        }
        let text = String::from_utf8(metrics.render()).unwrap();
        for (place, step) in Step::ALL.into_iter().enumerate() {
            let line = format!("meshmint_issuance_step_seconds_count{{step=\"{}\"}} {}\n", step.name(), place + 1);
            assert!(text.contains(&line), "{line}{text}");
        }
    }
}
