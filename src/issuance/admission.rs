//! Step 3: whose turn it is. Requests stand in a queue that is fair by namespace, then by account, then by pod, so that one that never stops
//! asking takes nothing from the others, and whoever may make accounts gets no more turns by it. What can't be served in about a second is
//! turned away, because an agent that waits for a moment costs less than one that connects anew.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::Refusal;
use crate::bounds::{FairQueue, Limits, Share, Shares, Slot};
use crate::callers::{AccountHint, Caller};
use crate::clock::Clock;

/// The bounds of an [`Admission`].
#[derive(Debug, Clone, Copy)]
pub struct AdmissionLimits {
    /// Requests between authentication and answer at once, waiting ones included: a bound on memory.
    pub in_flight: usize,
    /// Requests that are checked and signed at once. That is computing only, so a few for each processor keep it busy, and more would
    /// only make everybody wait longer.
    pub working: usize,
    /// Signed certificates that wait for the ledger at once. A ledger that falls behind this fills the queue, which then refuses.
    pub recording: usize,
    /// How long a request waits for its turn at most.
    pub patience: Duration,
}

/// Lets requests in.
#[derive(Debug)]
pub struct Admission {
    in_flight: Semaphore,
    limits: AdmissionLimits,
    queue: Arc<FairQueue>,
    recording: Semaphore,
    shares: Shares,
}

/// The right to work on one request. It ends with [`Admission::recording`] or when it is dropped.
pub(super) type Turn = Slot;

impl Admission {
    /// An empty queue.
    pub fn new(limits: AdmissionLimits, clock: Arc<dyn Clock>) -> Self {
        // Less than what may be in flight: one that fills the queue is cut there, and others still get as far as that.
        let waiting = (limits.in_flight * 3 / 4).max(1);
        let line = Limits { slots: limits.working, waiting, patience: limits.patience };
        Self {
            in_flight: Semaphore::new(limits.in_flight),
            limits,
            queue: FairQueue::new(line, clock),
            recording: Semaphore::new(limits.recording),
            shares: Shares::default(),
        }
    }

    /// The cheap bound before anything is known of a caller.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`].
    pub(super) fn begin(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        self.in_flight.try_acquire().map_err(|_| Refusal::Overloaded)
    }

    /// Turns a token away whose line is closed, before its signature is checked. What it says of itself is unproved, so it can only ever
    /// count against it: whoever claims to be another is refused as that other would be.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`].
    pub(super) fn foresee(&self, hint: &AccountHint<'_>) -> Result<(), Refusal> {
        let share = self.shares.of_names(hint.namespace, hint.service_account, hint.pod_uid);
        if self.queue.would_refuse(share) { Err(Refusal::Overloaded) } else { Ok(()) }
    }

    /// Whether anybody was turned away by [`Admission::foresee`] a moment ago.
    pub(super) fn is_turning_away(&self) -> bool {
        self.queue.is_refusing()
    }

    /// Waits for the caller's turn.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`] where it wouldn't come in time.
    pub(super) async fn turn(&self, caller: &Caller) -> Result<Turn, Refusal> {
        self.queue.enter(self.share(caller)).await.map_err(|_| Refusal::Overloaded)
    }

    /// The place of one that waits for the ledger. It is taken before the turn ends, so that a slow ledger is felt by the queue.
    pub(super) async fn recording(&self, turn: Option<Turn>) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        let place = self.recording.acquire().await.ok();
        drop(turn);
        place
    }

    /// Whether every caller has to wait for long, so that no new connection should be let in.
    pub fn is_crowded(&self) -> bool {
        self.queue.is_crowded()
    }

    /// Requests that wait for their turn.
    pub fn waiting(&self) -> usize {
        self.queue.waiting()
    }

    /// Requests between authentication and answer.
    pub fn in_flight(&self) -> usize {
        self.limits.in_flight.saturating_sub(self.in_flight.available_permits())
    }

    /// Requests that are being checked and signed.
    pub fn working(&self) -> usize {
        self.queue.held()
    }

    /// Signed certificates that wait for the ledger.
    pub fn recordings(&self) -> usize {
        self.limits.recording.saturating_sub(self.recording.available_permits())
    }

    /// The bounds.
    pub fn limits(&self) -> AdmissionLimits {
        self.limits
    }

    /// On whose account a caller's requests go, and his connections.
    pub(super) fn share(&self, caller: &Caller) -> Share {
        self.shares.of_names(&caller.namespace, &caller.service_account, caller.pod.as_ref().map(|pod| pod.uid.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::clock::SystemClock;

    #[tokio::test]
    async fn a_slow_ledger_keeps_the_turn() {
        let limits = AdmissionLimits { in_flight: 8, working: 1, recording: 1, patience: Duration::from_secs(60) };
        let admission = Admission::new(limits, SystemClock::shared());
        let share = admission.shares.of_names("shop", "cart", None);
        let first = admission.queue.enter(share).await.unwrap();
        let place = admission.recording(Some(first)).await;
        assert_eq!(admission.queue.held(), 0, "the turn ended");
        let second = admission.queue.enter(share).await.unwrap();
        let waits = admission.recording(Some(second));
        tokio::pin!(waits);
        assert!(waits.as_mut().now_or_never().is_none());
        assert_eq!(admission.queue.held(), 1, "nobody else works while the ledger is behind");
        drop(place);
        waits.await;
        assert_eq!(admission.queue.held(), 0);
    }
}
