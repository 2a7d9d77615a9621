//! What the writer did so far, for [`Figures`] and for the one who looks on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::commands::Command;
use super::writer::{Answer, Job};
use crate::ledger::{CommitWatch, Figures};

/// Shared by the writer, which keeps them, and the ledger, which shows them.
#[derive(Debug)]
pub(super) struct Accounts {
    watch: Option<CommitWatch>,
    certificates: AtomicU64,
    pruned: AtomicU64,
}

impl Accounts {
    /// Of a ledger that was just opened, with so many certificates in it.
    pub(super) fn new(watch: Option<CommitWatch>, certificates: u64) -> Self {
        Self { watch, certificates: AtomicU64::new(certificates), pruned: AtomicU64::new(0) }
    }

    /// A commit begins; [`Accounts::commit`] wants to know when that was.
    pub(super) fn begin(&self) -> Duration {
        self.watch.as_ref().map_or(Duration::ZERO, |watch| watch.clock.monotonic())
    }

    /// A commit is over.
    pub(super) fn commit(&self, jobs: &[Job], began: Duration, outcome: &Result<Vec<Answer>, String>) {
        if let Some(watch) = &self.watch {
            watch.observer.commit(jobs.len(), watch.clock.monotonic().saturating_sub(began), outcome.is_ok());
        }
        let (mut recorded, mut pruned) = (0, 0);
        for (job, answer) in jobs.iter().zip(outcome.iter().flatten()) {
            match (&job.command, answer) {
                (Command::Record(_), Ok(_)) => recorded += 1,
                (Command::Prune { .. }, Ok(gone)) => pruned += u64::from(*gone),
                _ => {}
            }
        }
        // Only the writer's thread changes them.
        let certificates = self.certificates.load(Ordering::Relaxed);
        self.certificates.store((certificates + recorded).saturating_sub(pruned), Ordering::Relaxed);
        self.pruned.fetch_add(pruned, Ordering::Relaxed);
    }

    pub(super) fn figures(&self, waiting: usize, waiting_limit: usize) -> Figures {
        let (certificates, pruned) = (self.certificates.load(Ordering::Relaxed), self.pruned.load(Ordering::Relaxed));
        // Each index is kept up by the insert itself.
        Figures { waiting, waiting_limit, certificates, unindexed: 0, pruned }
    }
}
