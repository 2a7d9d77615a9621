//! What the writer did so far, for [`Figures`] and for the one who looks on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::ledger::{CommitWatch, Figures};

/// Shared by the writer, which keeps them, and the ledger, which shows them.
#[derive(Debug)]
pub(super) struct Accounts {
    watch: Option<CommitWatch>,
    certificates: AtomicU64,
    unindexed: AtomicU64,
    pruned: AtomicU64,
}

impl Accounts {
    /// Of a ledger that was just opened, with so many certificates that are indexed and that are not.
    pub(super) fn new(watch: Option<CommitWatch>, indexed: u64, unindexed: usize) -> Self {
        let unindexed = u64::try_from(unindexed).unwrap_or(u64::MAX);
        Self { watch, certificates: AtomicU64::new(indexed + unindexed), unindexed: AtomicU64::new(unindexed), pruned: AtomicU64::new(0) }
    }

    /// A commit begins; [`Accounts::commit`] wants to know when that was.
    pub(super) fn begin(&self) -> Duration {
        self.watch.as_ref().map_or(Duration::ZERO, |watch| watch.clock.monotonic())
    }

    /// A commit of so many writes is over: how many certificates it recorded, or `None` where it failed.
    pub(super) fn commit(&self, writes: usize, began: Duration, recorded: Option<usize>) {
        if let Some(watch) = &self.watch {
            watch.observer.commit(writes, watch.clock.monotonic().saturating_sub(began), recorded.is_some());
        }
        let recorded = u64::try_from(recorded.unwrap_or(0)).unwrap_or(u64::MAX);
        self.certificates.fetch_add(recorded, Ordering::Relaxed);
        self.unindexed.fetch_add(recorded, Ordering::Relaxed);
    }

    /// So many were pruned, and so many are not indexed still.
    pub(super) fn chore(&self, pruned: u32, unindexed: usize) {
        let pruned = u64::from(pruned);
        // Only the writer's thread changes them.
        let certificates = self.certificates.load(Ordering::Relaxed);
        self.certificates.store(certificates.saturating_sub(pruned), Ordering::Relaxed);
        self.unindexed.store(u64::try_from(unindexed).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.pruned.fetch_add(pruned, Ordering::Relaxed);
    }

    pub(super) fn figures(&self, waiting: usize, waiting_limit: usize) -> Figures {
        let now = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        Figures {
            waiting,
            waiting_limit,
            certificates: now(&self.certificates),
            unindexed: now(&self.unindexed),
            pruned: now(&self.pruned),
            ..Figures::default()
        }
    }
}
