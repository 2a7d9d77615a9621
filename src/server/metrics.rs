//! Metrics under the names that Istio's users chart already, and our own. No label ever carries an identity or anything that a
//! caller can choose.

mod cluster;
mod controllers;
mod counters;
mod expiries;
mod ledger;
mod places;
mod process;
mod remotes;
mod replicas;
mod rpcs;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use prometheus::proto::MetricFamily;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder, histogram_opts,
};
use time::OffsetDateTime;
use tonic::Code;

use self::cluster::ClusterMetrics;
pub(super) use self::cluster::ClusterSeen;
use self::controllers::ControllerMetrics;
pub(super) use self::controllers::ControllersSeen;
use self::counters::Counters;
use self::expiries::Expiries;
use self::ledger::LedgerMetrics;
pub(super) use self::places::Place;
use self::places::Places;
use self::process::Process;
use self::remotes::RemoteMetrics;
use self::replicas::ReplicaMetrics;
pub(super) use self::replicas::ReplicaSeen;
pub(super) use self::rpcs::Rpc;
use self::rpcs::Rpcs;
use super::refusals::code_label;
use crate::authority::{Generation, Outlook};
use crate::cluster::RemoteStatus;
use crate::issuance::{Observer, Refusal, RequestError, Step, Trouble};
use crate::ledger::{CommitObserver, Figures};
use crate::rotation::{Missing, Part};

/// Every metric of a process, in a registry of its own.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    citadel_csr: IntCounter,
    citadel_authentication_failure: IntCounter,
    citadel_csr_parsing_error: IntCounter,
    citadel_csr_sign_error: Counters<1>,
    citadel_issued: IntCounter,
    rpcs: Rpcs,
    steps: Vec<Histogram>,
    refusals: Counters<2>,
    connections: IntGauge,
    connections_closed: Counters<1>,
    handshakes: Counters<1>,
    handshake_seconds: Histogram,
    panics: IntCounter,
    authority_failures: IntGauge,
    state_missing: IntGaugeVec,
    key_set_age: IntGaugeVec,
    key_set_keys: IntGaugeVec,
    key_set_failures: IntGaugeVec,
    log_lines_left_out: IntCounter,
    log_lines_lost: IntCounter,
    /// How many those are.
    lost_lines: OnceLock<Arc<AtomicU64>>,
    admission_patience: Gauge,
    places: Places,
    cluster: ClusterMetrics,
    remotes: RemoteMetrics,
    controllers: ControllerMetrics,
    replicas: ReplicaMetrics,
    ledger: Arc<LedgerMetrics>,
    expiries: Expiries,
    process: Process,
    /// One scrape at a time brings the figures up to date.
    scrape: Mutex<()>,
}

/// Refusals that somebody is woken for, by code and reason: shown before the first one.
const WATCHED_REFUSALS: &[[&str; 2]] = &[
    ["ResourceExhausted", "overloaded"],
    ["Unavailable", "ledger_unavailable"],
    ["Unavailable", "authority_unavailable"],
    ["Unavailable", "keys_unavailable"],
    ["Unavailable", "unknown_kid"],
    ["Unavailable", "liveness_unavailable"],
    ["Unavailable", "review_unavailable"],
    ["Unavailable", "cluster_not_joined"],
    ["Unavailable", "no_entropy"],
    ["DeadlineExceeded", "deadline"],
    ["Internal", "panic"],
    ["Unauthenticated", "certificate_unknown_to_ledger"],
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
            rpcs: Rpcs::new(&registry)?,
            steps: Step::ALL.map(|step| steps.with_label_values(&[step.name()])).to_vec(),
            refusals: Counters::new(register(&registry, IntCounterVec::new(refusals, &["code", "reason"])?)?, WATCHED_REFUSALS),
            connections: gauge("meshmint_connections", "TLS connections that are open on the CSR port.")?,
            connections_closed: Counters::new(
                counters(
                    "meshmint_connections_closed_total",
                    "Connections that ended, by reason: closed before a handshake, in it, or after it.",
                    "reason",
                )?,
                &[["closed_by_peer"], ["queue_full"], ["too_many_connections"], ["made_room"], ["too_many_bytes"], ["too_many_handshakes"]],
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
            authority_failures: gauge(
                "meshmint_authority_failures",
                "How often renewing an issuing key or storing the state failed since the start.",
            )?,
            state_missing: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new("meshmint_state_missing", "Parts of the state that the store lacks: the next start would fail."),
                    &["part"],
                )?,
            )?,
            key_set_age: gauges(
                "meshmint_key_set_age_seconds",
                "Age of the keys that tokens are checked with, -1 where none were ever loaded; numbered in the order of the issuers' names.",
            )?,
            key_set_keys: gauges("meshmint_key_set_keys", "Keys that tokens may be signed with, numbered in the order of the issuers' names.")?,
            key_set_failures: gauges("meshmint_key_set_fetch_failures", "Fetches of keys that failed since the start.")?,
            log_lines_left_out: counter(
                "meshmint_log_lines_left_out_total",
                "Lines about refusals that the log was spared; each refusal counts all the same.",
            )?,
            log_lines_lost: counter("meshmint_log_lines_lost_total", "Lines of the log that could not be written.")?,
            lost_lines: OnceLock::new(),
            admission_patience: register(
                &registry,
                Gauge::new("meshmint_admission_wait_limit_seconds", "How long a request waits for its turn at most.")?,
            )?,
            places: Places::new(&registry)?,
            cluster: ClusterMetrics::new(&registry)?,
            remotes: RemoteMetrics::new(&registry)?,
            controllers: ControllerMetrics::new(&registry)?,
            replicas: ReplicaMetrics::new(&registry)?,
            ledger: Arc::new(LedgerMetrics::new(&registry)?),
            expiries: Expiries::new(&registry)?,
            process: Process::new(&registry)?,
            scrape: Mutex::default(),
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

    /// Every metric as it is now.
    pub(super) fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
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

    pub(super) fn log_line_left_out(&self) {
        self.log_lines_left_out.inc();
    }

    /// From now on each scrape asks this for the lines of the log that could not be written. Only the first one counts.
    pub(super) fn count_lost_lines(&self, lost: Arc<AtomicU64>) {
        // An error means that somebody was the first.
        let _ = self.lost_lines.set(lost);
    }

    pub(super) fn serving_certificate(&self, not_after: OffsetDateTime, renewal_due: OffsetDateTime) {
        self.expiries.serving(not_after, renewal_due);
    }

    pub(super) fn ledger_probed(&self, writable: bool) {
        self.ledger.probed(writable);
    }

    /// Whom the ledger tells of its commits.
    pub(super) fn commit_observer(&self) -> Arc<dyn CommitObserver> {
        self.ledger.clone()
    }

    pub(super) fn started(&self, at: OffsetDateTime) {
        self.process.started(at);
    }

    pub(super) fn admission_patience(&self, patience: Duration) {
        self.admission_patience.set(patience.as_secs_f64());
    }

    /// From now on, each scrape asks `taken` how much of `limit` is taken.
    pub(super) fn watch(&self, place: Place, limit: usize, taken: impl Fn() -> usize + Send + Sync + 'static) {
        self.places.watch(place, limit, taken);
    }

    /// Brings everything up to date that is only looked at when somebody asks.
    pub(super) fn refresh(&self, seen: &Seen) {
        let _scrape = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        self.expiries.authority(&seen.generation, &seen.outlook);
        self.authority_failures.set(whole(seen.failures));
        for part in Part::ALL {
            let count = seen.missing.iter().filter(|each| each.part == part).count();
            self.state_missing.with_label_values(&[part.label()]).set(whole(count));
        }
        self.ledger.figures(&seen.ledger);
        for (issuer, set) in seen.key_sets.iter().enumerate() {
            let issuer = issuer.to_string();
            self.key_set_age.with_label_values(&[&issuer]).set(set.age.unwrap_or(-1));
            self.key_set_keys.with_label_values(&[&issuer]).set(whole(set.keys));
            self.key_set_failures.with_label_values(&[&issuer]).set(whole(set.failures));
        }
        self.cluster.refresh(seen.cluster.as_ref(), &seen.remotes);
        self.remotes.refresh(&seen.remotes);
        self.controllers.refresh(&seen.controllers);
        self.replicas.refresh(&seen.replicas);
        self.places.refresh();
        catch_up(&self.log_lines_lost, self.lost_lines.get().map_or(0, |lost| lost.load(Ordering::Relaxed)));
        self.process.refresh();
    }
}

/// What a scrape shows of the other parts.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) generation: Arc<Generation>,
    pub(super) outlook: Arc<Outlook>,
    /// How often the authority could not be kept up to date.
    pub(super) failures: u64,
    /// What the store lacks.
    pub(super) missing: Arc<[Missing]>,
    pub(super) ledger: Figures,
    /// In the order of the issuers' names.
    pub(super) key_sets: Vec<KeySetSeen>,
    /// None: there is no cluster.
    pub(super) cluster: Option<ClusterSeen>,
    /// The other clusters.
    pub(super) remotes: Vec<RemoteStatus>,
    pub(super) controllers: ControllersSeen,
    pub(super) replicas: ReplicaSeen,
}

/// One issuer's keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeySetSeen {
    /// In seconds; `None` where none were ever loaded.
    pub(super) age: Option<i64>,
    pub(super) keys: usize,
    pub(super) failures: u64,
}

impl Observer for Metrics {
    fn step(&self, step: Step, took: Duration) {
        if let Some(seconds) = self.steps.get(step as usize) {
            seconds.observe(took.as_secs_f64());
        }
    }

    fn past_warn_after(&self) {
        self.cluster.past_warn_after();
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

/// A number as prometheus holds it.
fn whole(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// Brings a counter to a count that is kept elsewhere. Only under the lock of a scrape: two at once would add the same twice.
fn catch_up(counter: &IntCounter, count: u64) {
    counter.inc_by(count.saturating_sub(counter.get()));
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
