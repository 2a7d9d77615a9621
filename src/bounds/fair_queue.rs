//! A queue in front of scarce work that is fair by [`Share`]: whoever asks for much waits behind himself, never in front of others. Turns go
//! around the widest groups, in each around the groups in it, and so on: a namespace with a thousand accounts has one turn of its round, and
//! shares it. The CSR API stands in one by identity (step 3 of a request), handshakes stand in one by address.
//!
//! What nobody can be served in time isn't kept waiting: a line takes no more once, at the pace at which it moves, whoever came now
//! would wait for nearly as long as anybody may. So each line is bounded by time, whatever the speed of the machine and however many lines there are.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::share::Share;
use crate::clock::{Clock, within};

/// The bounds of a queue.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Slots that are out at once.
    pub slots: usize,
    /// Who may wait at once, of all shares: a bound on memory.
    pub waiting: usize,
    /// How long anybody waits at most.
    pub patience: Duration,
}

/// There is no slot in time: come again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// The queue. The lock inside is held for a few map operations, never while anything waits.
#[derive(Debug)]
pub struct FairQueue {
    limits: Limits,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

/// The right to do one piece of work; dropping it lets the next one in.
#[derive(Debug)]
pub struct Slot(Arc<FairQueue>);

/// Over this time the shortest wait is taken, which says whether everybody has to wait or only a few lines.
const WINDOW: Duration = Duration::from_millis(100);

/// Fewer lines than this are no crowd, however long they wait: they wait behind themselves. Nor is one group, however many lines it has.
const CROWD: usize = 8;

#[derive(Debug)]
struct State {
    free: usize,
    all: Group,
    window: Window,
    /// When somebody was refused last.
    refused_at: Option<Duration>,
}

/// Lines that belong together, or one line where it is the narrowest group. There is one for whoever waits, and until its next turn for whoever left.
#[derive(Debug, Default)]
struct Group {
    /// Who waits in all of it.
    waiting: usize,
    /// The groups in it, and whose turn it is: each of them stands there once.
    inner: HashMap<u64, Group>,
    turns: VecDeque<u64>,
    /// The line.
    waiters: VecDeque<Waiter>,
    /// How long each place took whoever was served last: of the line, or of the round of turns.
    pace: Duration,
}

#[derive(Debug)]
struct Waiter {
    since: Duration,
    /// How many stood before him when he came.
    ahead: usize,
    slot: oneshot::Sender<Slot>,
}

impl Waiter {
    /// Whether he has left, or waited for too long.
    fn is_gone(&self, now: Duration, patience: Duration) -> bool {
        self.slot.is_closed() || now.saturating_sub(self.since) > patience
    }
}

/// The shortest wait of a while, as CoDel (RFC 8289 §3) looks at queues: where even that is long, everybody waits.
#[derive(Debug, Clone, Copy)]
struct Window {
    began: Duration,
    shortest: Duration,
    crowded: bool,
}

impl FairQueue {
    /// An empty queue.
    pub fn new(limits: Limits, clock: Arc<dyn Clock>) -> Arc<Self> {
        let window = Window { began: clock.monotonic(), shortest: Duration::ZERO, crowded: false };
        let state = State { free: limits.slots, all: Group::default(), window, refused_at: None };
        Arc::new(Self { limits, clock, state: Mutex::new(state) })
    }

    /// A slot, at once or after waiting for the share's turn. Dropping the future gives the place up.
    ///
    /// # Errors
    /// [`Full`]: at once where the line can't be served in time, or after the time that anybody waits at most.
    pub async fn enter(self: &Arc<Self>, share: Share) -> Result<Slot, Full> {
        match self.stand_in_line(share)? {
            Place::Served(slot) => Ok(slot),
            Place::Waiting(slot) => match within(self.clock.as_ref(), self.limits.patience, slot).await {
                Some(Ok(slot)) => Ok(slot),
                _ => Err(Full),
            },
        }
    }

    /// Whether [`FairQueue::enter`] would refuse this share at once: for turning away what can't be served before it has cost much.
    pub fn would_refuse(&self, share: Share) -> bool {
        let mut state = self.lock();
        if state.all.waiting == 0 {
            return false;
        }
        let now = self.clock.monotonic();
        state.all.expire(share.path(), now, self.limits.patience);
        let closed = state.all.is_closed(share.path(), now, self.longest(), Duration::ZERO);
        if closed {
            state.refused_at = Some(now);
        }
        closed
    }

    /// Whether anybody was refused a moment ago, so that asking [`FairQueue::would_refuse`] early is worth what it costs.
    pub fn is_refusing(&self) -> bool {
        let refused_at = self.lock().refused_at;
        refused_at.is_some_and(|at| self.clock.monotonic().saturating_sub(at) <= self.limits.patience)
    }

    /// Whether many lines of several groups wait, and even the shortest wait is long, so that no new work should be let in.
    pub fn is_crowded(&self) -> bool {
        let mut state = self.lock();
        if state.all.inner.values().filter(|group| group.waiting > 0).nth(1).is_none() || state.all.lines(CROWD) < CROWD {
            return false;
        }
        state.roll_window(self.clock.monotonic(), self.limits.patience);
        state.window.crowded
    }

    /// How many wait, for metrics.
    pub fn waiting(&self) -> usize {
        self.lock().all.waiting
    }

    /// How many slots are out, for metrics.
    pub fn held(&self) -> usize {
        self.limits.slots.saturating_sub(self.lock().free)
    }

    /// The bounds.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// A line is closed while its first has waited, or its next would wait, for nine tenths of what anybody may: whoever comes now would wait in vain.
    fn longest(&self) -> Duration {
        self.limits.patience * 9 / 10
    }

    fn stand_in_line(self: &Arc<Self>, share: Share) -> Result<Place, Full> {
        let now = self.clock.monotonic();
        let mut state = self.lock();
        if state.free > 0 && state.all.waiting > 0 {
            // Whoever still waits beside a free slot has left.
            state.all.expire_all(now, self.limits.patience);
        }
        if state.free > 0 && state.all.waiting == 0 {
            state.free -= 1;
            state.waited(Duration::ZERO, now, self.limits.patience);
            state.window.crowded = false;
            return Ok(Place::Served(Slot(Arc::clone(self))));
        }
        state.all.expire(share.path(), now, self.limits.patience);
        if state.all.is_closed(share.path(), now, self.longest(), Duration::ZERO) {
            return Err(Full);
        }
        if state.all.waiting >= self.limits.waiting && !state.all.make_room(share.path()) {
            return Err(Full);
        }
        let (sender, receiver) = oneshot::channel();
        state.all.push(share.path(), now, sender);
        Ok(Place::Waiting(receiver))
    }

    fn give_back(self: &Arc<Self>) {
        let granted = {
            let now = self.clock.monotonic();
            let mut state = self.lock();
            state.free += 1;
            let granted = state.all.next(share_depth(), now, self.limits.patience);
            if let Some(waiter) = &granted {
                state.free -= 1;
                state.waited(now.saturating_sub(waiter.since), now, self.limits.patience);
            }
            granted
        };
        if let Some(waiter) = granted {
            // Somebody who left in this very moment hands the slot back to us: it is dropped here, outside of the lock.
            drop(waiter.slot.send(Slot(Arc::clone(self))));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn share_depth() -> usize {
    super::share::DEPTH
}

/// The place in the line of somebody who has so many before him, counted from 1.
fn places(ahead: usize) -> u32 {
    u32::try_from(ahead).unwrap_or(u32::MAX).saturating_add(1)
}

/// Where somebody stands.
enum Place {
    Served(Slot),
    Waiting(oneshot::Receiver<Slot>),
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

impl Group {
    /// Puts somebody at the end of his line.
    fn push(&mut self, path: &[u64], since: Duration, slot: oneshot::Sender<Slot>) {
        self.waiting += 1;
        match path.split_first() {
            None => {
                let ahead = self.waiters.len();
                self.waiters.push_back(Waiter { since, ahead, slot });
            }
            Some((key, rest)) => {
                let turns = &mut self.turns;
                let inner = self.inner.entry(*key).or_insert_with(|| {
                    turns.push_back(*key);
                    Self::default()
                });
                inner.push(rest, since, slot);
            }
        }
    }

    /// The next in turn, `depth` groups further down, who still wants his slot and hasn't waited too long. Dropping the others is their refusal.
    fn next(&mut self, depth: usize, now: Duration, patience: Duration) -> Option<Waiter> {
        if depth == 0 {
            while let Some(waiter) = self.waiters.pop_front() {
                self.waiting -= 1;
                if !waiter.is_gone(now, patience) {
                    self.pace = now.saturating_sub(waiter.since) / places(waiter.ahead);
                    return Some(waiter);
                }
            }
            return None;
        }
        while let Some(key) = self.turns.pop_front() {
            let around = places(self.turns.len());
            let Some(inner) = self.inner.get_mut(&key) else { continue };
            let before = inner.waiting;
            let next = inner.next(depth - 1, now, patience);
            let (after, pace) = (inner.waiting, inner.pace);
            self.waiting -= before - after;
            if after == 0 {
                self.inner.remove(&key);
            } else {
                self.turns.push_back(key);
            }
            if next.is_some() {
                self.pace = pace / around;
                return next;
            }
        }
        None
    }

    /// Refuses those at the head of a line who left or waited for too long: nobody may have come by since. The group stays for its turn.
    fn expire(&mut self, path: &[u64], now: Duration, patience: Duration) {
        let before = self.waiting;
        match path.split_first() {
            None => {
                while self.waiters.front().is_some_and(|first| first.is_gone(now, patience)) {
                    self.waiters.pop_front();
                    self.waiting -= 1;
                }
            }
            Some((key, rest)) => {
                if let Some(inner) = self.inner.get_mut(key) {
                    let inside = inner.waiting;
                    inner.expire(rest, now, patience);
                    self.waiting = before - (inside - inner.waiting);
                }
            }
        }
    }

    /// The same for every line.
    fn expire_all(&mut self, now: Duration, patience: Duration) {
        self.waiters.retain(|waiter| !waiter.is_gone(now, patience));
        self.inner.retain(|_, inner| {
            inner.expire_all(now, patience);
            inner.waiting > 0
        });
        let inner = &self.inner;
        self.turns.retain(|key| inner.contains_key(key));
        self.waiting = self.waiters.len() + self.inner.values().map(|inner| inner.waiting).sum::<usize>();
    }

    /// Whether whoever came to this line now would wait for longer than `longest`. A line that was never served takes the `pace` of the round it stands in.
    fn is_closed(&self, path: &[u64], now: Duration, longest: Duration, pace: Duration) -> bool {
        let pace = if self.pace.is_zero() { pace } else { self.pace };
        let Some((key, rest)) = path.split_first() else {
            return self.waiters.front().is_some_and(|first| now.saturating_sub(first.since) >= longest)
                || pace.saturating_mul(places(self.waiters.len())) >= longest;
        };
        match self.inner.get(key) {
            Some(inner) => inner.is_closed(rest, now, longest, pace.saturating_mul(places(self.turns.len().saturating_sub(1)))),
            None => !self.turns.is_empty() && pace.saturating_mul(places(self.turns.len())) >= longest,
        }
    }

    /// Turns the last one of the longest line of the largest group away, where that is larger than the one that `path` names; says whether it did.
    fn make_room(&mut self, path: &[u64]) -> bool {
        let Some((key, rest)) = path.split_first() else { return false };
        let own = self.inner.get(key).map_or(0, |inner| inner.waiting);
        let largest = self.inner.iter_mut().max_by_key(|(_, inner)| inner.waiting);
        let made = match largest {
            Some((other, inner)) if other != key && inner.waiting > own + 1 => inner.turn_last_away(),
            Some(_) if own > 0 => self.inner.get_mut(key).is_some_and(|inner| inner.make_room(rest)),
            _ => false,
        };
        self.waiting -= usize::from(made);
        made
    }

    fn turn_last_away(&mut self) -> bool {
        let made = match self.inner.values_mut().max_by_key(|inner| inner.waiting) {
            Some(inner) => inner.turn_last_away(),
            None => self.waiters.pop_back().is_some(),
        };
        self.waiting -= usize::from(made);
        made
    }

    /// How many lines somebody waits in; counting stops at `most`.
    fn lines(&self, most: usize) -> usize {
        if self.inner.is_empty() {
            return usize::from(self.waiting > 0);
        }
        let mut lines = 0;
        for inner in self.inner.values() {
            lines += inner.lines(most - lines);
            if lines >= most {
                break;
            }
        }
        lines
    }
}

impl State {
    fn waited(&mut self, waited: Duration, now: Duration, patience: Duration) {
        self.roll_window(now, patience);
        self.window.shortest = self.window.shortest.min(waited);
    }

    fn roll_window(&mut self, now: Duration, patience: Duration) {
        if now.saturating_sub(self.window.began) >= WINDOW {
            // In a window in which nobody was served the shortest wait is endless.
            self.window = Window { began: now, shortest: Duration::MAX, crowded: self.window.shortest > patience / 2 };
        }
    }
}

#[cfg(test)]
mod tests;
