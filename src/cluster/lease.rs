//! Which of several replicas leads, by a Lease (coordination.k8s.io/v1).
//!
//! **Leading says who works, and nothing more.** A process can be frozen at any instruction and wake up when somebody else has led for an hour, still
//! in the middle of what a leader does. What keeps the state whole is that every change of it names the version that it was made from, and what
//! keeps certificates of a closed generation from leaving is the ledger's fence. Two leaders waste work; they can't corrupt anything.
//!
//! Times are measured on our own monotonic clock: a lease is over when *we* have seen it unchanged for its duration, whatever time of day
//! the holder or the API server believe in. A leader that can't renew stops before anybody could take over.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::sync::watch;

use super::api_server::{ApiError, ApiServer};
use super::own_objects::{Object, OwnObjects};
use crate::clock::{Clock, readable, within};

/// How long a lease is good, and when it is renewed.
#[derive(Debug, Clone, Copy)]
pub struct LeaseTiming {
    /// Others may take over once they have seen no renewal for so long. Whole seconds.
    pub duration: Duration,
    /// A leader that could not renew for so long stops leading. Shorter than `duration`.
    pub renew: Duration,
    /// The pause between two renewals, and between two looks of those who don't lead.
    pub retry: Duration,
}

impl LeaseTiming {
    /// A new leader within 15 seconds: 10 until the lease is over, 2 until its last renewal was seen, and the time of a question.
    pub const USUAL: Self = Self { duration: Duration::from_secs(10), renew: Duration::from_secs(7), retry: Duration::from_secs(2) };
}

/// The longest duration that is believed of somebody else's lease.
const LONGEST: Duration = Duration::from_secs(60);
/// How long one question may take.
const LIMIT: Duration = Duration::from_secs(2);
/// The pause after a renewal that failed.
const SOON: Duration = Duration::from_millis(500);
/// How often it is tried to let the Lease go.
const RELEASES: usize = 3;

/// What an [`Election`] is made of.
#[derive(Debug)]
pub struct ElectionParts {
    /// Where the Lease is.
    pub api: Arc<ApiServer>,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// This process; another one after each start.
    pub identity: String,
    /// How long it is good.
    pub timing: LeaseTiming,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// One candidate for a Lease.
#[derive(Debug)]
pub struct Election {
    leases: OwnObjects,
    parts: ElectionParts,
    leading: watch::Sender<bool>,
    seen: Mutex<Seen>,
}

/// What is known of the Lease.
#[derive(Debug, Default)]
struct Seen {
    /// Its `spec` when it was last seen to change, and when that was (monotonic).
    last: Option<(Value, Duration)>,
    /// When the question began by which we renewed it last (monotonic).
    renewed: Option<Duration>,
    /// When the Lease was read or written last (monotonic).
    answered: Option<Duration>,
    failures: u64,
    trouble: Option<ApiError>,
}

/// How a candidate stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseStatus {
    /// Whether this process leads.
    pub leading: bool,
    /// Who holds the Lease, as far as it was seen.
    pub holder: Option<String>,
    /// For how long the holder has not renewed it; `None` where there is no holder.
    pub unchanged: Option<Duration>,
    /// How long ago the API server answered; `None`: never.
    pub age: Option<Duration>,
    /// How often it didn't.
    pub failures: u64,
    /// Why it didn't the last time.
    pub trouble: Option<ApiError>,
}

/// What an attempt came to.
enum Outcome {
    /// It is ours; the question that says so began at this time.
    Ours(Duration),
    /// Somebody else's, for at least this long.
    Theirs(Duration),
    /// Somebody was faster: look again.
    Lost,
}

impl Election {
    /// A candidate; nothing is asked yet.
    pub fn new(parts: ElectionParts) -> Arc<Self> {
        let leases = OwnObjects::leases(parts.api.clone(), &parts.namespace, LIMIT.min(parts.timing.renew / 3));
        Arc::new(Self { leases, parts, leading: watch::Sender::new(false), seen: Mutex::default() })
    }

    /// Whether this process leads, as it changes.
    pub fn leading(&self) -> watch::Receiver<bool> {
        self.leading.subscribe()
    }

    /// How it stands.
    pub fn status(&self) -> LeaseStatus {
        let (seen, now) = (self.seen.lock().unwrap_or_else(PoisonError::into_inner), self.parts.clock.monotonic());
        let last = seen.last.as_ref().and_then(|(spec, at)| Some((holder(spec)?.to_owned(), now.saturating_sub(*at))));
        let (holder, unchanged) = last.unzip();
        let age = seen.answered.map(|at| now.saturating_sub(at));
        LeaseStatus { leading: *self.leading.borrow(), holder, unchanged, age, failures: seen.failures, trouble: seen.trouble.clone() }
    }

    /// Stands for election until `shutdown` ends; then lets the Lease go, so that the next one need not wait for its end.
    pub async fn run(self: Arc<Self>, shutdown: impl Future<Output = ()>) {
        let clock = &self.parts.clock;
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let attempt = async {
                let pause = self.attempt().await;
                clock.sleep_until(clock.monotonic().saturating_add(pause)).await;
            };
            tokio::select! {
                () = attempt => {}
                () = &mut shutdown => break,
            }
        }
        if self.leading.send_replace(false) {
            tracing::info!("leads no longer: shutting down");
        }
        if let Err(error) = self.release().await {
            tracing::warn!(%error, "the lease was not let go: the next leader waits until it is over");
        }
    }

    /// Takes or renews the Lease where that may be; says when to try again.
    async fn attempt(&self) -> Duration {
        let clock = self.parts.clock.as_ref();
        // A process that was frozen finds first of all that its time is up. One that leads never waits beyond its time.
        let outcome = match self.left() {
            Some(left) => within(clock, left, self.acquire()).await.unwrap_or(Err(ApiError::TimedOut(left))),
            None => self.acquire().await,
        };
        let pause = self.note(outcome);
        self.left().map_or(pause, |left| pause.min(left))
    }

    /// How long this process may still lead; `None`, and noted, where it doesn't.
    fn left(&self) -> Option<Duration> {
        let renewed = self.seen.lock().unwrap_or_else(PoisonError::into_inner).renewed;
        let left = renewed.map(|at| (at + self.parts.timing.renew).saturating_sub(self.parts.clock.monotonic())).filter(|left| !left.is_zero());
        let leads = left.is_some();
        if self.leading.send_if_modified(|leading| std::mem::replace(leading, leads) != leads) {
            match leads {
                true => tracing::info!(identity = self.parts.identity, "leads"),
                false => tracing::warn!(identity = self.parts.identity, "leads no longer"),
            }
        }
        left
    }

    fn note(&self, outcome: Result<Outcome, ApiError>) -> Duration {
        let retry = self.parts.timing.retry;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(Outcome::Ours(at)) => {
                seen.renewed = Some(at);
                retry
            }
            Ok(Outcome::Theirs(rest)) => {
                seen.renewed = None;
                // Not long after its end, so that nobody waits for a leader longer than must be.
                rest.clamp(SOON / 10, retry)
            }
            Ok(Outcome::Lost) => {
                seen.renewed = None;
                SOON
            }
            Err(error) => {
                seen.failures += 1;
                if seen.trouble.is_none() {
                    tracing::warn!(%error, "the lease of the leader can't be read or written; trying again");
                }
                seen.trouble = Some(error);
                SOON
            }
        }
    }

    async fn acquire(&self) -> Result<Outcome, ApiError> {
        let ElectionParts { name, identity, timing, clock, .. } = &self.parts;
        let asked = clock.monotonic();
        let Some(lease) = self.leases.get(name).await? else {
            let spec = self.spec(clock.now(), None, 0);
            let object = json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": { "name": name, "namespace": self.parts.namespace, "labels": { "app.kubernetes.io/managed-by": "meshmint" } },
                "spec": spec,
            });
            return Ok(self.wrote(self.leases.create(name, &object).await?.as_ref(), asked));
        };
        let spec = lease.at("/spec").cloned().unwrap_or_default();
        let seen_at = self.saw(Some(&lease));
        let ours = holder(&spec) == Some(identity);
        let rest = match holder(&spec) {
            Some(_) if !ours => (seen_at + lasts(&spec, timing.duration)).saturating_sub(clock.monotonic()),
            _ => Duration::ZERO,
        };
        if !rest.is_zero() {
            return Ok(Outcome::Theirs(rest));
        }
        let transitions = spec.get("leaseTransitions").and_then(Value::as_u64).unwrap_or(0);
        let patch = json!({
            "metadata": { "resourceVersion": lease.version()? },
            "spec": match ours {
                true => self.spec(clock.now(), spec.get("acquireTime").and_then(Value::as_str), transitions),
                // The field is an int32: whoever sets it to the last one mustn't keep everybody from leading.
                false => self.spec(clock.now(), None, (transitions + 1).min(u64::from(i32::MAX.unsigned_abs()))),
            },
        });
        Ok(self.wrote(self.leases.change(name, &patch).await?.as_ref(), asked))
    }

    /// Lets the Lease go, if it is ours.
    async fn release(&self) -> Result<(), ApiError> {
        let ElectionParts { name, identity, .. } = &self.parts;
        // A renewal that was under way when this began may still arrive, and be faster.
        for _ in 0..RELEASES {
            let lease = match self.leases.get(name).await? {
                Some(lease) if lease.at("/spec/holderIdentity").and_then(Value::as_str) == Some(identity) => lease,
                _ => return Ok(()),
            };
            let patch = json!({"metadata": {"resourceVersion": lease.version()?}, "spec": {"holderIdentity": null, "leaseDurationSeconds": 1}});
            if self.leases.change(name, &patch).await?.is_some() {
                return Ok(());
            }
        }
        Err(ApiError::NoAnswer("it changed again and again".to_owned()))
    }

    fn wrote(&self, written: Option<&Object>, asked: Duration) -> Outcome {
        match written {
            Some(_) => {
                self.saw(written);
                Outcome::Ours(asked)
            }
            None => Outcome::Lost,
        }
    }

    /// Notes how the Lease is; returns since when it has been so, by our clock.
    fn saw(&self, lease: Option<&Object>) -> Duration {
        let now = self.parts.clock.monotonic();
        let spec = lease.and_then(|lease| lease.at("/spec")).cloned().unwrap_or_default();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        (seen.answered, seen.trouble) = (Some(now), None);
        match &seen.last {
            Some((last, at)) if *last == spec => *at,
            _ => {
                seen.last = Some((spec, now));
                now
            }
        }
    }

    fn spec(&self, now: OffsetDateTime, acquired: Option<&str>, transitions: u64) -> Value {
        let now = micro_time(now);
        json!({
            "holderIdentity": self.parts.identity,
            "leaseDurationSeconds": self.parts.timing.duration.as_secs(),
            "acquireTime": acquired.unwrap_or(&now),
            "renewTime": now,
            "leaseTransitions": transitions,
        })
    }
}

/// Who holds a Lease; nobody where it was let go.
fn holder(spec: &Value) -> Option<&str> {
    spec.get("holderIdentity").and_then(Value::as_str).filter(|holder| !holder.is_empty())
}

/// How long a Lease is good, as its holder has it: another version may have another duration.
fn lasts(spec: &Value, ours: Duration) -> Duration {
    let said = spec.get("leaseDurationSeconds").and_then(Value::as_u64).map(Duration::from_secs);
    said.unwrap_or(ours).min(LONGEST)
}

/// A `MicroTime` of Kubernetes: RFC 3339 with six digits.
fn micro_time(at: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    at.to_offset(time::UtcOffset::UTC).format(&format).unwrap_or_else(|_| readable(at))
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn times_are_as_kubernetes_wants_them() {
        assert_eq!(micro_time(datetime!(2026-11-25 12:00:00.000_001_9 UTC)), "2026-11-25T12:00:00.000001Z");
        assert_eq!(micro_time(datetime!(2026-11-25 01:00 +2)), "2026-11-24T23:00:00.000000Z");
    }

    #[test]
    fn a_lease_is_as_long_as_its_holder_says_within_reason() {
        let ours = Duration::from_secs(10);
        let with = |value: Value| lasts(&json!({"leaseDurationSeconds": value}), ours);
        assert_eq!([with(json!(15)), with(json!(null)), with(json!(-3)), with(json!(4_000_000))], [Duration::from_secs(15), ours, ours, LONGEST]);
        assert_eq!((holder(&json!({})), holder(&json!({"holderIdentity": ""})), holder(&json!({"holderIdentity": "a"}))), (None, None, Some("a")));
    }
}
