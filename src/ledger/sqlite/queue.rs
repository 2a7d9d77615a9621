//! The bounded queue in front of the writer. Who fills it never waits; the writer may ask for several jobs at once and is woken
//! once for all of them, because a wake-up for each costs more than the row that it brings.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Why a job was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// As many wait as may.
    Full,
    /// The other end is gone.
    Closed,
}

/// What [`Receiver::wait`] ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Woken {
    /// Something is there.
    Filled,
    /// The time was up, and nothing is there.
    Quiet,
    /// Nothing is there, and nothing will come.
    Closed,
}

/// A queue for at most `capacity` jobs.
pub(super) fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let shared =
        Arc::new(Shared { state: Mutex::new(State { jobs: VecDeque::new(), capacity, awaited: None, closed: false }), filled: Condvar::new() });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
}

#[derive(Debug)]
struct State<T> {
    jobs: VecDeque<T>,
    capacity: usize,
    /// With how many jobs the receiver wants to be woken, while it waits.
    awaited: Option<usize>,
    closed: bool,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }
}

/// The end that fills.
#[derive(Debug)]
pub(super) struct Sender<T>(Arc<Shared<T>>);

impl<T> Sender<T> {
    /// How many jobs wait.
    pub(super) fn len(&self) -> usize {
        self.0.lock().jobs.len()
    }

    /// Hands a job over, or refuses it at once.
    ///
    /// # Errors
    /// [`Refused`].
    pub(super) fn send(&self, job: T) -> Result<(), Refused> {
        let mut state = self.0.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        if state.jobs.len() >= state.capacity {
            return Err(Refused::Full);
        }
        state.jobs.push_back(job);
        if state.awaited.is_some_and(|awaited| state.jobs.len() >= awaited) {
            state.awaited = None;
            drop(state);
            self.0.filled.notify_one();
        }
        Ok(())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The end that empties.
#[derive(Debug)]
pub(super) struct Receiver<T>(Arc<Shared<T>>);

impl<T> Receiver<T> {
    /// Waits until `wanted` jobs are there, for `patience` at most; `None` waits for ever.
    pub(super) fn wait(&self, wanted: usize, patience: Option<Duration>) -> Woken {
        let mut state = self.0.lock();
        let short = |state: &mut State<T>| state.jobs.len() < wanted && !state.closed;
        state.awaited = Some(wanted);
        state = match patience {
            Some(patience) => self.0.filled.wait_timeout_while(state, patience, short).unwrap_or_else(PoisonError::into_inner).0,
            None => self.0.filled.wait_while(state, short).unwrap_or_else(PoisonError::into_inner),
        };
        state.awaited = None;
        match (state.jobs.is_empty(), state.closed) {
            (false, _) => Woken::Filled,
            (true, true) => Woken::Closed,
            (true, false) => Woken::Quiet,
        }
    }

    /// How many jobs are there now.
    pub(super) fn len(&self) -> usize {
        self.0.lock().jobs.len()
    }

    /// Moves what is there into `jobs`, at most `limit`.
    pub(super) fn take(&self, jobs: &mut Vec<T>, limit: usize) {
        let mut state = self.0.lock();
        let count = state.jobs.len().min(limit);
        jobs.extend(state.jobs.drain(..count));
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.close();
        // Whoever waits for an answer to these hears that nobody will give one.
        self.0.lock().jobs.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_comes_in_order_and_in_shares() {
        let (sender, receiver) = bounded(3);
        assert_eq!(receiver.wait(1, Some(Duration::ZERO)), Woken::Quiet);
        for job in 0..3 {
            sender.send(job).unwrap();
        }
        assert_eq!(sender.send(3), Err(Refused::Full));
        let mut jobs = Vec::new();
        assert_eq!(receiver.wait(1, None), Woken::Filled);
        receiver.take(&mut jobs, 2);
        assert_eq!(jobs, [0, 1]);
        assert_eq!(receiver.len(), 1);
        sender.send(4).unwrap();
        assert_eq!(receiver.wait(9, Some(Duration::ZERO)), Woken::Filled, "too few, but the time is up");
        receiver.take(&mut jobs, 9);
        assert_eq!(jobs, [0, 1, 2, 4]);
    }

    #[test]
    fn the_receiver_sleeps_until_enough_are_there() {
        let (sender, receiver) = bounded(10);
        let waiting = std::thread::spawn(move || {
            let woken = receiver.wait(3, None);
            let mut jobs = Vec::new();
            receiver.take(&mut jobs, 10);
            (woken, jobs)
        });
        for job in 0..3 {
            sender.send(job).unwrap();
        }
        assert_eq!(waiting.join().unwrap(), (Woken::Filled, vec![0, 1, 2]));
    }

    #[test]
    fn either_end_hears_when_the_other_goes() {
        let (sender, receiver) = bounded(3);
        sender.send(Arc::new(1)).unwrap();
        drop(sender);
        assert_eq!(receiver.wait(5, None), Woken::Filled, "what was sent is still taken");
        receiver.take(&mut Vec::new(), 5);
        assert_eq!(receiver.wait(1, None), Woken::Closed);

        let (sender, receiver) = bounded(3);
        let job = Arc::new(1);
        sender.send(Arc::clone(&job)).unwrap();
        drop(receiver);
        assert_eq!(Arc::strong_count(&job), 1, "it went with the receiver");
        assert_eq!(sender.send(job), Err(Refused::Closed));
    }
}
