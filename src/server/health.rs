//! Whether this replica should get requests. Ready fails only for what another replica doesn't share: no certificate, its own disk, draining.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use time::OffsetDateTime;

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
    ledger_lost: AtomicBool,
    draining: AtomicBool,
    /// notAfter of our own serving certificate, Unix seconds; 0 before there is one.
    serving_until: AtomicI64,
}

impl Health {
    /// From now on this replica is not ready: it is going down.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// The serving certificate in use ends then.
    pub(super) fn serving_until(&self, unix_seconds: i64) {
        self.serving_until.store(unix_seconds, Ordering::Release);
    }

    /// What keeps this replica from being ready, for people; empty where nothing does.
    pub(super) fn troubles(&self, now: OffsetDateTime) -> Vec<&'static str> {
        let mut troubles = Vec::new();
        if self.serving_until.load(Ordering::Acquire) < now.unix_timestamp() {
            troubles.push("our own serving certificate has expired: clients can't connect");
        }
        if self.draining.load(Ordering::Acquire) {
            troubles.push("draining: the process is shutting down");
        }
        if self.ledger_lost.load(Ordering::Acquire) {
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
            let lost = failure.is_some();
            metrics.ledger_probed(!lost);
            match (self.ledger_lost.swap(lost, Ordering::AcqRel), failure) {
                (false, Some(reason)) => tracing::error!(reason, "the ledger can't be written: no certificate leaves until it can"),
                (true, None) => tracing::info!("the ledger can be written again"),
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
        let health = Health::default();
        assert_eq!(health.troubles(NOW).len(), 1, "no certificate yet");
        health.serving_until(NOW.unix_timestamp());
        assert!(health.troubles(NOW).is_empty());
        assert_eq!(health.troubles(NOW + Duration::from_secs(1)).len(), 1, "it has expired");
        health.ledger_lost.store(true, Ordering::Release);
        health.drain();
        assert_eq!(health.troubles(NOW).len(), 2);
    }
}
