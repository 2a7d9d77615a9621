//! What the writer did and saw so far, for [`Figures`] and for the one who looks on.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;

use super::calls::Greeting;
use crate::ledger::{CommitWatch, Figures, Standby};

/// Shared by the writer, which keeps them, and the ledger, which shows them.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    watch: Option<CommitWatch>,
    certificates: AtomicU64,
    pruned: AtomicU64,
    lost: AtomicU64,
    standby: AtomicU8,
    undrained: AtomicU64,
    lost_at: Mutex<Option<OffsetDateTime>>,
}

impl Accounts {
    pub(super) fn new(watch: Option<CommitWatch>) -> Self {
        Self { watch, ..Self::default() }
    }

    /// A commit begins; [`Accounts::commit`] wants to know when that was.
    pub(super) fn begin(&self) -> Duration {
        self.watch.as_ref().map_or(Duration::ZERO, |watch| watch.clock.monotonic())
    }

    /// A commit of so many writes is over: how many certificates it recorded, or `None` where it failed.
    pub(super) fn commit(&self, writes: usize, began: Duration, recorded: Option<u64>) {
        if let Some(watch) = &self.watch {
            watch.observer.commit(writes, watch.clock.monotonic().saturating_sub(began), recorded.is_some());
        }
        self.certificates.fetch_add(recorded.unwrap_or(0), Ordering::Relaxed);
    }

    /// What the database said of itself and of the other replicas.
    pub(super) fn seen(&self, said: &Greeting) {
        self.certificates.store(said.certificates, Ordering::Relaxed);
        self.standby.store(said.standby as u8, Ordering::Relaxed);
        *self.lost_at.lock().unwrap_or_else(PoisonError::into_inner) = said.lost_at;
    }

    pub(super) fn pruned(&self, count: u64) {
        self.pruned.fetch_add(count, Ordering::Relaxed);
    }

    /// So many certificates that were acknowledged to this replica are no longer there.
    pub(super) fn lost(&self, count: u64) {
        self.lost.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn known_lost(&self) -> i64 {
        i64::try_from(self.lost.load(Ordering::Relaxed)).unwrap_or(i64::MAX)
    }

    /// So many certificates wait to be drained here.
    pub(super) fn spools(&self, count: u64) {
        self.undrained.store(count, Ordering::Relaxed);
    }

    pub(super) fn undrained(&self) -> i64 {
        i64::try_from(self.undrained.load(Ordering::Relaxed)).unwrap_or(i64::MAX)
    }

    pub(super) fn figures(&self, waiting: usize, waiting_limit: usize) -> Figures {
        let now = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        let standby = match self.standby.load(Ordering::Relaxed) {
            found if found == Standby::Synchronous as u8 => Standby::Synchronous,
            found if found == Standby::Asynchronous as u8 => Standby::Asynchronous,
            found if found == Standby::Absent as u8 => Standby::Absent,
            _ => Standby::Unknown,
        };
        Figures {
            waiting,
            waiting_limit,
            certificates: now(&self.certificates),
            pruned: now(&self.pruned),
            lost: now(&self.lost),
            lost_at: *self.lost_at.lock().unwrap_or_else(PoisonError::into_inner),
            standby,
            ..Figures::default()
        }
    }
}
