//! Whether this replica should get requests. Ready fails only for what another replica doesn't share: no certificate, its own disk, draining.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use time::OffsetDateTime;

use super::checkup::ServingTimes;
use super::metrics::Metrics;
use crate::clock::{Clock, within};
use crate::ledger::Ledger;

/// The pause between two probes of the ledger: a probe for each question would let strangers write to our disk.
const PROBE_PAUSE: Duration = Duration::from_secs(2);
/// A probe that takes longer counts as failed.
const PROBE_TIME: Duration = Duration::from_secs(5);

/// What the health door shows.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Why the latest probe of the ledger failed; nothing where it went well.
    ledger_trouble: ArcSwapOption<String>,
    /// Whether other replicas have the same ledger, and so the same trouble with it: it is no reason to send a request to another one.
    shared_ledger: bool,
    /// Whether this replica's own stand-in for the shared ledger is needed and can't be written.
    spool_broken: AtomicBool,
    /// Whether workloads ask here.
    faces_mesh: bool,
    draining: AtomicBool,
    /// Our own serving certificate, once there is one.
    serving: ArcSwapOption<ServingTimes>,
}

impl Health {
    /// Of a replica that shares its ledger with others, or has one of its own; and whom workloads ask, or not.
    pub(super) fn of(shared_ledger: bool, faces_mesh: bool) -> Self {
        Self { shared_ledger, faces_mesh, ..Self::default() }
    }

    /// From now on this replica is not ready: it is going down.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// The serving certificate in use lives so long.
    pub(super) fn serves(&self, times: ServingTimes) {
        self.serving.store(Some(Arc::new(times)));
    }

    /// How long the serving certificate in use lives.
    pub(super) fn serving(&self) -> Option<ServingTimes> {
        self.serving.load().as_deref().copied()
    }

    /// Whether this replica is going down.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Why the ledger could not be written at the latest probe.
    pub(super) fn ledger_trouble(&self) -> Option<Arc<String>> {
        self.ledger_trouble.load_full()
    }

    /// What keeps this replica from being ready, for people; empty where nothing does.
    pub(super) fn troubles(&self, now: OffsetDateTime) -> Vec<&'static str> {
        let mut troubles = Vec::new();
        if self.faces_mesh && self.serving().is_none_or(|times| times.not_after.unix_timestamp() < now.unix_timestamp()) {
            troubles.push("our own serving certificate has expired: clients can't connect");
        }
        if self.is_draining() {
            troubles.push("draining: the process is shutting down");
        }
        if self.spool_broken.load(Ordering::Relaxed) {
            troubles.push("the ledger's database is away, and this replica's spool can't be written (disk full, file lost?)");
        }
        if !self.shared_ledger && self.ledger_trouble.load().is_some() {
            troubles.push("the ledger can't be written: no certificate leaves until it can (disk full, file lost?)");
        }
        troubles
    }

    /// Probes the ledger until `shutdown` ends.
    pub(super) async fn watch(&self, ledger: Arc<dyn Ledger>, metrics: Arc<Metrics>, clock: Arc<dyn Clock>, shutdown: impl Future<Output = ()>) {
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let failure = match within(clock.as_ref(), PROBE_TIME, ledger.check_writable()).await {
                Some(Ok(())) => None,
                Some(Err(error)) => Some(error.to_string()),
                None => Some("the probe took too long".to_owned()),
            };
            metrics.ledger_probed(failure.is_none());
            self.spool_broken.store(ledger.figures().spool_broken, Ordering::Relaxed);
            let failure = failure.map(Arc::new);
            match (self.ledger_trouble.swap(failure.clone()), failure) {
                (None, Some(reason)) => tracing::error!(%reason, "the ledger can't be written: no certificate leaves until it can"),
                (Some(_), None) => tracing::info!("the ledger can be written again"),
                _ => {}
            }
            tokio::select! {
                () = clock.sleep_until(clock.monotonic() + PROBE_PAUSE) => {}
                () = &mut shutdown => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-23 12:00:00 UTC);

    #[test]
    fn ready_means_a_certificate_a_ledger_and_not_draining() {
        let health = Health::of(false, true);
        assert_eq!(health.troubles(NOW).len(), 1, "no certificate yet");
        health.serves(ServingTimes { issued_at: NOW - Duration::from_secs(2), renew_at: NOW, not_after: NOW });
        assert!(health.troubles(NOW).is_empty());
        assert_eq!(health.troubles(NOW + Duration::from_secs(1)).len(), 1, "it has expired");
        health.ledger_trouble.store(Some(Arc::new("no space".to_owned())));
        health.drain();
        assert_eq!(health.troubles(NOW).len(), 2);
    }

    #[test]
    fn a_ledger_that_all_replicas_share_is_nobodys_own_trouble() {
        assert!(Health::of(true, false).troubles(NOW).is_empty(), "an authority needs no certificate of its own");
        let health = Health::of(true, true);
        health.serves(ServingTimes { issued_at: NOW, renew_at: NOW, not_after: NOW });
        health.ledger_trouble.store(Some(Arc::new("no answer".to_owned())));
        assert!(health.troubles(NOW).is_empty() && health.ledger_trouble().is_some());
    }
}
