//! A queue in front of scarce work that is fair by key: whoever asks for much waits behind himself, never in front of others. The
//! CSR API stands in one by account (step 3 of a request), handshakes stand in one by address.
//!
//! What nobody can be served in time isn't kept waiting: a line takes no more once, at the pace at which it moves, whoever came now
//! would wait for nearly as long as anybody may. So each key is bounded by time, whatever the speed of the machine and however many keys there are.

use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::clock::{Clock, within};

/// The bounds of a queue.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Slots that are out at once.
    pub slots: usize,
    /// Slots that one key may hold.
    pub slots_per_key: usize,
    /// Who may wait at once, of all keys: a bound on memory.
    pub waiting: usize,
    /// How long anybody waits at most.
    pub patience: Duration,
}

/// There is no slot in time: come again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// The queue. The lock inside is held for a few map operations, never while anything waits.
#[derive(Debug)]
pub struct FairQueue<K: Key> {
    limits: Limits,
    clock: Arc<dyn Clock>,
    state: Mutex<State<K>>,
}

/// What a queue can be fair by.
pub trait Key: Copy + Eq + Hash + Debug + Send + 'static {}

impl<K: Copy + Eq + Hash + Debug + Send + 'static> Key for K {}

/// The right to do one piece of work; dropping it lets the next one in.
#[derive(Debug)]
pub struct Slot<K: Key> {
    queue: Arc<FairQueue<K>>,
    key: K,
}

/// Over this time the shortest wait is taken, which says whether everybody has to wait or only a few keys.
const WINDOW: Duration = Duration::from_millis(100);

/// Fewer keys than this are no crowd, however long they wait: they wait behind themselves.
const CROWD: usize = 8;

#[derive(Debug)]
struct State<K: Key> {
    free: usize,
    waiting: usize,
    /// Every key that holds a slot or waits.
    lines: HashMap<K, Line<K>>,
    /// The keys that have somebody waiting and may hold one slot more, in turn.
    turns: VecDeque<K>,
    window: Window,
    /// When somebody was refused last.
    refused_at: Option<Duration>,
}

#[derive(Debug)]
struct Line<K: Key> {
    held: usize,
    waiters: VecDeque<Waiter<K>>,
    has_turn: bool,
    /// How long each place of the line took whoever was served last.
    pace: Duration,
}

#[derive(Debug)]
struct Waiter<K: Key> {
    since: Duration,
    /// How many stood before him when he came.
    ahead: usize,
    slot: oneshot::Sender<Slot<K>>,
}

/// The shortest wait of a while, as CoDel (RFC 8289 §3) looks at queues: where even that is long, everybody waits.
#[derive(Debug, Clone, Copy)]
struct Window {
    began: Duration,
    shortest: Duration,
    crowded: bool,
}

impl<K: Key> FairQueue<K> {
    /// An empty queue.
    pub fn new(limits: Limits, clock: Arc<dyn Clock>) -> Arc<Self> {
        let window = Window { began: clock.monotonic(), shortest: Duration::ZERO, crowded: false };
        let state = State { free: limits.slots, waiting: 0, lines: HashMap::new(), turns: VecDeque::new(), window, refused_at: None };
        Arc::new(Self { limits, clock, state: Mutex::new(state) })
    }

    /// A slot, at once or after waiting for the key's turn. Dropping the future gives the place up.
    ///
    /// # Errors
    /// [`Full`]: at once where the key's line can't be served in time, or after the time that anybody waits at most.
    pub async fn enter(self: &Arc<Self>, key: K) -> Result<Slot<K>, Full> {
        match self.stand_in_line(key)? {
            Place::Served(slot) => Ok(slot),
            Place::Waiting(slot) => match within(self.clock.as_ref(), self.limits.patience, slot).await {
                Some(Ok(slot)) => Ok(slot),
                _ => Err(Full),
            },
        }
    }

    /// Whether [`FairQueue::enter`] would refuse this key at once: for turning away what can't be served before it has cost much.
    pub fn would_refuse(&self, key: K) -> bool {
        let mut state = self.lock();
        if state.waiting == 0 {
            return false;
        }
        let now = self.clock.monotonic();
        state.expire(key, now, self.limits.patience);
        let closed = state.lines.get(&key).is_some_and(|line| self.is_closed(line, now));
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

    /// Whether many keys wait, and even the shortest wait is long, so that no new work should be let in.
    pub fn is_crowded(&self) -> bool {
        let mut state = self.lock();
        if state.turns.len() < CROWD {
            return false;
        }
        state.roll_window(self.clock.monotonic(), self.limits.patience);
        state.window.crowded
    }

    /// How many wait, for metrics.
    pub fn waiting(&self) -> usize {
        self.lock().waiting
    }

    /// How many slots are out, for metrics.
    pub fn held(&self) -> usize {
        self.limits.slots.saturating_sub(self.lock().free)
    }

    /// The bounds.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    fn stand_in_line(self: &Arc<Self>, key: K) -> Result<Place<K>, Full> {
        let now = self.clock.monotonic();
        let mut state = self.lock();
        state.expire(key, now, self.limits.patience);
        let waiting = state.waiting;
        let nobody_has_a_turn = state.turns.is_empty();
        let free = state.free > 0;
        let line = state.lines.entry(key).or_default();
        if free && nobody_has_a_turn && line.held < self.limits.slots_per_key {
            line.held += 1;
            state.free -= 1;
            state.waited(Duration::ZERO, now, self.limits.patience);
            state.window.crowded = false;
            return Ok(Place::Served(Slot { queue: Arc::clone(self), key }));
        }
        if self.is_closed(line, now) {
            return Err(Full);
        }
        let length = line.waiters.len();
        if waiting >= self.limits.waiting && !state.make_room(length) {
            state.forget_if_idle(key);
            return Err(Full);
        }
        let (sender, receiver) = oneshot::channel();
        state.waiting += 1;
        if let Some(line) = state.lines.get_mut(&key) {
            line.waiters.push_back(Waiter { since: now, ahead: length, slot: sender });
        }
        state.give_turn(key, self.limits.slots_per_key);
        Ok(Place::Waiting(receiver))
    }

    /// A line is closed while its first has waited, or its next would wait, for nine tenths of what anybody may: whoever comes now would wait in vain.
    fn is_closed(&self, line: &Line<K>, now: Duration) -> bool {
        let longest = self.limits.patience * 9 / 10;
        let ahead = line.waiters.len();
        line.waiters.front().is_some_and(|first| now.saturating_sub(first.since) >= longest) || line.pace.saturating_mul(places(ahead)) >= longest
    }

    fn give_back(self: &Arc<Self>, key: K) {
        let granted = {
            let now = self.clock.monotonic();
            let mut state = self.lock();
            state.free += 1;
            if let Some(line) = state.lines.get_mut(&key) {
                line.held = line.held.saturating_sub(1);
            }
            state.give_turn(key, self.limits.slots_per_key);
            state.forget_if_idle(key);
            state.next_in_turn(now, &self.limits)
        };
        if let Some((key, waiter)) = granted {
            // Somebody who left in this very moment hands the slot back to us: it is dropped here, outside of the lock.
            drop(waiter.slot.send(Slot { queue: Arc::clone(self), key }));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place in the line of somebody who has so many before him, counted from 1.
fn places(ahead: usize) -> u32 {
    u32::try_from(ahead).unwrap_or(u32::MAX).saturating_add(1)
}

/// Where somebody stands.
enum Place<K: Key> {
    Served(Slot<K>),
    Waiting(oneshot::Receiver<Slot<K>>),
}

impl<K: Key> Drop for Slot<K> {
    fn drop(&mut self) {
        self.queue.give_back(self.key);
    }
}

impl<K: Key> Default for Line<K> {
    fn default() -> Self {
        Self { held: 0, waiters: VecDeque::new(), has_turn: false, pace: Duration::ZERO }
    }
}

impl<K: Key> State<K> {
    /// The next waiter who still wants his slot and hasn't waited too long; one slot is his then.
    fn next_in_turn(&mut self, now: Duration, limits: &Limits) -> Option<(K, Waiter<K>)> {
        if self.free == 0 {
            return None;
        }
        while let Some(key) = self.turns.pop_front() {
            let Some(line) = self.lines.get_mut(&key) else { continue };
            line.has_turn = false;
            while let Some(waiter) = line.waiters.pop_front() {
                self.waiting -= 1;
                let waited = now.saturating_sub(waiter.since);
                // Dropping the sender is the refusal.
                if waiter.slot.is_closed() || waited > limits.patience {
                    continue;
                }
                line.pace = waited / places(waiter.ahead);
                line.held += 1;
                self.free -= 1;
                self.give_turn(key, limits.slots_per_key);
                self.waited(waited, now, limits.patience);
                return Some((key, waiter));
            }
            self.forget_if_idle(key);
        }
        None
    }

    fn give_turn(&mut self, key: K, slots_per_key: usize) {
        if let Some(line) = self.lines.get_mut(&key)
            && !line.has_turn
            && !line.waiters.is_empty()
            && line.held < slots_per_key
        {
            line.has_turn = true;
            self.turns.push_back(key);
        }
    }

    /// Refuses those at the head of a line who waited for too long: nobody may have come by since.
    fn expire(&mut self, key: K, now: Duration, patience: Duration) {
        let Some(line) = self.lines.get_mut(&key) else { return };
        while line.waiters.front().is_some_and(|first| now.saturating_sub(first.since) > patience || first.slot.is_closed()) {
            line.waiters.pop_front();
            self.waiting -= 1;
        }
    }

    /// Turns the last one of the longest line away, if that line is longer than `length`; says whether it did.
    fn make_room(&mut self, length: usize) -> bool {
        let Some(longest) = self.lines.values_mut().max_by_key(|line| line.waiters.len()) else { return false };
        if longest.waiters.len() <= length {
            return false;
        }
        longest.waiters.pop_back();
        self.waiting -= 1;
        true
    }

    fn forget_if_idle(&mut self, key: K) {
        if self.lines.get(&key).is_some_and(|line| line.held == 0 && line.waiters.is_empty() && !line.has_turn) {
            self.lines.remove(&key);
        }
    }

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
