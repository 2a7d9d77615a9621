//! What a ledger tells of its work, for whoever measures it.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;

use crate::clock::Clock;
use crate::tasks::Vigil;

/// The figures of a moment. They cost nothing to ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Writes that wait for their commit.
    pub waiting: usize,
    /// How many may wait; more are refused.
    pub waiting_limit: usize,
    /// Certificates on record, of every kind.
    pub certificates: u64,
    /// Of these, how many the indexes don't know yet: questions look at each of them.
    pub unindexed: u64,
    /// Certificates that were pruned since the ledger was opened.
    pub pruned: u64,
    /// Certificates that were on record, and are no longer: a standby took over that didn't have them. Counted since the ledger was opened.
    pub lost: u64,
    /// When another replica last said that it found records lost, by the engine's clock. It stays known when that replica is gone.
    pub lost_at: Option<OffsetDateTime>,
    /// What commits wait for beside the disk.
    pub standby: Standby,
    /// Certificates that left while the ledger was away and are not on record yet: the replica's own volume has them.
    pub undrained: u64,
    /// Whether certificates leave at the moment without being on record.
    pub away: bool,
    /// Whether they would, but this replica's own volume can't be written.
    pub spool_broken: bool,
}

/// Whether a second copy of the ledger is kept, and whether it can lack the latest records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Standby {
    /// The ledger has no such thing, or it isn't known yet.
    #[default]
    Unknown,
    /// There is none.
    Absent,
    /// There is one that no commit waits for: where it takes over, the latest records may be lost.
    Asynchronous,
    /// Each commit waits for one.
    Synchronous,
}

/// Looks on. It is called by the thread that writes, so it must be quick and never wait.
pub trait CommitObserver: Send + Sync + Debug {
    /// A commit of so many writes is over after this time; `kept` says whether they are on disk.
    fn commit(&self, writes: usize, took: Duration, kept: bool);
}

/// Who looks on, by which clock, and who notices that nobody writes any more.
#[derive(Debug)]
pub struct CommitWatch {
    /// Monotonic time.
    pub clock: Arc<dyn Clock>,
    /// Told of every commit.
    pub observer: Arc<dyn CommitObserver>,
    /// Notices when whoever writes is gone before the ledger is.
    pub vigil: Vigil,
}
