//! Who measures the way of a request. Issuance says what it did and how long that took; what becomes of it (metrics, traces) isn't its business.

use std::fmt::Debug;
use std::time::Duration;

use crate::clock::Clock;

/// A part of the way of a request that takes time worth knowing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Finding out who asks.
    Authenticate,
    /// Waiting for its turn.
    Admit,
    /// Checking what the caller may ask for, and the proof of its key.
    CheckKey,
    /// Making the to-be-signed bytes, and linting them.
    Prepare,
    /// Signing them.
    Sign,
    /// Waiting until the record is on disk.
    Record,
}

impl Step {
    /// All of them, in their order.
    pub const ALL: [Self; 6] = [Self::Authenticate, Self::Admit, Self::CheckKey, Self::Prepare, Self::Sign, Self::Record];

    /// For labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Authenticate => "authenticate",
            Self::Admit => "admit",
            Self::CheckKey => "check_key",
            Self::Prepare => "prepare",
            Self::Sign => "sign",
            Self::Record => "record",
        }
    }
}

/// Looks on. It is called by every request, so it must be quick and never wait.
pub trait Observer: Send + Sync + Debug {
    /// `step` is over, well or not, after this time.
    fn step(&self, step: Step, took: Duration);

    /// A good token was past its `warnafter`: its client doesn't read it again, and will fail once such tokens are no longer made to live long.
    fn past_warn_after(&self) {}
}

/// Nobody looks.
impl Observer for () {
    fn step(&self, _: Step, _: Duration) {}
}

/// Measures the steps of one request, each from the end of the one before: one look at the clock for each.
#[derive(Debug)]
pub(super) struct Stopwatch<'a> {
    observer: &'a dyn Observer,
    clock: &'a dyn Clock,
    since: Duration,
}

impl<'a> Stopwatch<'a> {
    /// The first step begins.
    pub(super) fn start(observer: &'a dyn Observer, clock: &'a dyn Clock) -> Self {
        Self { observer, clock, since: clock.monotonic() }
    }

    /// `step` is over with this `outcome`, and the next one begins.
    pub(super) fn over<T>(&mut self, step: Step, outcome: T) -> T {
        let now = self.clock.monotonic();
        self.observer.step(step, now.saturating_sub(self.since));
        self.since = now;
        outcome
    }
}
