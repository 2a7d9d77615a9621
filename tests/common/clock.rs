//! A clock that only a test moves. Nothing waits for real time on it.

use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use meshmint::clock::{Clock, Sleep};
use time::OffsetDateTime;

/// Stands at one instant until [`ManualClock::advance`].
#[derive(Clone)]
pub(crate) struct ManualClock(Arc<Mutex<State>>);

struct State {
    start: OffsetDateTime,
    elapsed: Duration,
    /// Who sleeps, and until when.
    sleepers: Vec<(Duration, Waker)>,
    /// Who waits for somebody to sleep.
    watchers: Vec<Waker>,
}

impl ManualClock {
    /// A clock that stands at `start`.
    pub(crate) fn at(start: OffsetDateTime) -> Self {
        Self(Arc::new(Mutex::new(State { start, elapsed: Duration::ZERO, sleepers: Vec::new(), watchers: Vec::new() })))
    }

    /// Moves wall time and monotonic time, and wakes everybody whose time has come.
    pub(crate) fn advance(&self, by: Duration) {
        let mut state = self.0.lock().unwrap();
        state.elapsed += by;
        let now = state.elapsed;
        let (due, rest) = state.sleepers.drain(..).partition(|(until, _)| *until <= now);
        state.sleepers = rest;
        due.into_iter().for_each(|(_, waker): (Duration, Waker)| waker.wake());
    }

    /// Puts wall time back, as somebody does whose clock was ahead; monotonic time stays.
    pub(crate) fn put_back(&self, by: Duration) {
        self.0.lock().unwrap().start -= by;
    }

    /// Ends once somebody sleeps until exactly `until` (on the monotonic clock).
    pub(crate) async fn asleep_until(&self, until: Duration) {
        poll_fn(|context| {
            let mut state = self.0.lock().unwrap();
            if state.sleepers.iter().any(|(each, _)| *each == until) {
                return Poll::Ready(());
            }
            state.watchers.push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> OffsetDateTime {
        let state = self.0.lock().unwrap();
        state.start + state.elapsed
    }

    fn monotonic(&self) -> Duration {
        self.0.lock().unwrap().elapsed
    }

    fn sleep_until(&self, at: Duration) -> Sleep {
        let clock = self.clone();
        Box::pin(poll_fn(move |context| {
            let mut state = clock.0.lock().unwrap();
            if state.elapsed >= at {
                return Poll::Ready(());
            }
            state.sleepers.push((at, context.waker().clone()));
            state.watchers.drain(..).for_each(Waker::wake);
            Poll::Pending
        }))
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ManualClock({})", self.now())
    }
}
