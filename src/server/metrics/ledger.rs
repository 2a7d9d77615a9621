//! The ledger's metrics: what its writer does, and how much there is.

use std::time::Duration;

use prometheus::{Error, Histogram, IntCounter, IntGauge, Registry, histogram_opts};

use super::{SECONDS, catch_up, register, whole};
use crate::ledger::{CommitObserver, Figures, Standby};

/// Upper bounds of the writes in one commit; it takes 2,000 at most.
const WRITES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0];

#[derive(Debug)]
pub(super) struct LedgerMetrics {
    writable: IntGauge,
    writes: Histogram,
    seconds: Histogram,
    failures: IntCounter,
    certificates: IntGauge,
    unindexed: IntGauge,
    pruned: IntCounter,
    lost: IntCounter,
    undrained: IntGauge,
    asynchronous: IntGauge,
}

impl LedgerMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, Error> {
        let gauge = |name: &str, help: &str| register(registry, IntGauge::new(name, help)?);
        let counter = |name: &str, help: &str| register(registry, IntCounter::new(name, help)?);
        let histogram =
            |name: &str, help: &str, bounds: &[f64]| register(registry, Histogram::with_opts(histogram_opts!(name, help, bounds.to_vec()))?);
        Ok(Self {
            writable: gauge("meshmint_ledger_writable", "1 where the last probe of the ledger could write, else 0: no certificate leaves then.")?,
            writes: histogram("meshmint_ledger_commit_writes", "Writes that one commit took to the disk together.", WRITES)?,
            seconds: histogram("meshmint_ledger_commit_seconds", "Time of a commit, from the first write to the flush.", SECONDS)?,
            failures: counter("meshmint_ledger_commit_failures_total", "Commits that failed: everybody who waited for one was refused.")?,
            certificates: gauge("meshmint_ledger_certificates", "Certificates on record, of every kind.")?,
            unindexed: gauge("meshmint_ledger_unindexed_rows", "Certificates on record that the indexes don't know yet.")?,
            lost: counter("meshmint_ledger_lost_total", "Certificates that were on record and are no longer: a standby without them took over.")?,
            undrained: gauge(
                "meshmint_ledger_undrained",
                "Certificates that left while the database was away and are only on this replica's volume.",
            )?,
            asynchronous: gauge("meshmint_ledger_standby_asynchronous", "1 where the database has a standby that no commit waits for, else 0.")?,
            pruned: counter("meshmint_ledger_pruned_total", "Certificates that were forgotten after their retention.")?,
        })
    }

    pub(super) fn probed(&self, writable: bool) {
        self.writable.set(i64::from(writable));
    }

    pub(super) fn figures(&self, figures: &Figures) {
        self.certificates.set(whole(figures.certificates));
        self.unindexed.set(whole(figures.unindexed));
        catch_up(&self.pruned, figures.pruned);
        catch_up(&self.lost, figures.lost);
        self.undrained.set(whole(figures.undrained));
        self.asynchronous.set(i64::from(figures.standby == Standby::Asynchronous));
    }
}

impl CommitObserver for LedgerMetrics {
    fn commit(&self, writes: usize, took: Duration, kept: bool) {
        #[expect(clippy::cast_precision_loss, reason = "a commit has a few thousand writes at most")]
        self.writes.observe(writes as f64);
        self.seconds.observe(took.as_secs_f64());
        if !kept {
            self.failures.inc();
        }
    }
}
