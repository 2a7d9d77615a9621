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
mod tests {
    use futures_util::FutureExt;
    use time::OffsetDateTime;

    use super::*;
    use crate::clock::Sleep;

    /// Stands still until it is moved; nobody sleeps by it.
    #[derive(Debug, Default)]
    struct HandClock(Mutex<Duration>);

    impl HandClock {
        fn advance(&self, by: Duration) {
            *self.0.lock().unwrap() += by;
        }
    }

    impl Clock for HandClock {
        fn now(&self) -> OffsetDateTime {
            OffsetDateTime::UNIX_EPOCH
        }

        fn monotonic(&self) -> Duration {
            *self.0.lock().unwrap()
        }

        fn sleep_until(&self, _: Duration) -> Sleep {
            Box::pin(std::future::pending())
        }
    }

    const PATIENCE: Duration = Duration::from_secs(1);

    fn queue(slots: usize, slots_per_key: usize, waiting: usize) -> (Arc<FairQueue<u8>>, Arc<HandClock>) {
        let clock = Arc::new(HandClock::default());
        (FairQueue::new(Limits { slots, slots_per_key, waiting, patience: PATIENCE }, clock.clone()), clock)
    }

    /// Stands in line and says where.
    fn stand(queue: &Arc<FairQueue<u8>>, key: u8) -> Result<Place<u8>, Full> {
        queue.stand_in_line(key)
    }

    fn served(place: Result<Place<u8>, Full>) -> Slot<u8> {
        match place {
            Ok(Place::Served(slot)) => slot,
            Ok(Place::Waiting(_)) => panic!("has to wait"),
            Err(Full) => panic!("is refused"),
        }
    }

    fn waiting(place: Result<Place<u8>, Full>) -> oneshot::Receiver<Slot<u8>> {
        match place {
            Ok(Place::Waiting(slot)) => slot,
            Ok(Place::Served(_)) => panic!("is served"),
            Err(Full) => panic!("is refused"),
        }
    }

    #[test]
    fn keys_take_turns_however_many_of_one_wait() {
        let (queue, _) = queue(1, usize::MAX, 100);
        let mut held = served(stand(&queue, 1));
        let mut greedy: Vec<_> = (0..10).map(|_| waiting(stand(&queue, 1))).collect();
        let mut modest = waiting(stand(&queue, 2));
        drop(held);
        held = greedy[0].try_recv().unwrap();
        assert!(modest.try_recv().is_err(), "one slot, one at a time");
        drop(held);
        held = modest.try_recv().expect("his turn comes after one of the greedy, not after ten");
        drop(held);
        assert!(greedy[1].try_recv().is_ok());
        drop(greedy);
        assert_eq!(queue.held(), 0, "those who left gave their places up");
        drop(served(stand(&queue, 3)));
        assert!(queue.lock().lines.is_empty(), "nothing is kept of keys that left");
    }

    #[test]
    fn a_key_holds_its_share_at_most_and_others_pass_it() {
        let (queue, _) = queue(3, 2, 100);
        let (one, two) = (served(stand(&queue, 1)), served(stand(&queue, 1)));
        let mut third = waiting(stand(&queue, 1));
        let other = served(stand(&queue, 2));
        assert!(third.try_recv().is_err());
        drop(other);
        assert!(third.try_recv().is_err(), "a slot is free, but not for this key");
        drop(one);
        let third = third.try_recv().unwrap();
        drop((two, third));
        assert_eq!((queue.held(), queue.waiting()), (0, 0));
    }

    #[test]
    fn a_line_that_cannot_be_served_in_time_takes_no_more() {
        let (queue, clock) = queue(1, usize::MAX, 100);
        let held = served(stand(&queue, 1));
        let mut first = waiting(stand(&queue, 1));
        clock.advance(PATIENCE * 9 / 10);
        assert!(!queue.is_refusing());
        assert!(queue.would_refuse(1) && stand(&queue, 1).is_err());
        assert!(queue.is_refusing());
        assert!(!queue.would_refuse(2), "another's line is another's");
        let mut other = waiting(stand(&queue, 2));
        clock.advance(PATIENCE / 5);
        drop(held);
        assert!(matches!(first.try_recv(), Err(oneshot::error::TryRecvError::Closed)), "refused after the time that anybody waits");
        assert!(other.try_recv().is_ok());
        assert!(!queue.would_refuse(1) && queue.is_refusing(), "it was a moment ago");
        clock.advance(PATIENCE);
        assert!(!queue.is_refusing());
    }

    #[test]
    fn a_line_is_no_longer_than_it_can_be_served_at_its_pace() {
        let (queue, clock) = queue(1, usize::MAX, 1_000);
        let mut held = served(stand(&queue, 1));
        let mut line: VecDeque<_> = (0..10).map(|_| waiting(stand(&queue, 1))).collect();
        for _ in 0..5 {
            clock.advance(PATIENCE / 20);
            drop(held);
            held = line.pop_front().unwrap().try_recv().unwrap();
        }
        // A twentieth for each: 18 places in nine tenths of the time, 5 of them taken.
        let more = (0..100).take_while(|_| stand(&queue, 1).map(|place| line.push_back(waiting(Ok(place)))).is_ok()).count();
        assert_eq!(more, 12);
        assert!(queue.would_refuse(1) && !queue.would_refuse(2));
        for _ in 0..17 {
            clock.advance(PATIENCE / 20);
            drop(held);
            held = line.pop_front().unwrap().try_recv().expect("nobody waited in vain");
        }
        drop(held);
        drop(served(stand(&queue, 1)));
    }

    #[test]
    fn room_is_made_at_the_end_of_the_longest_line() {
        let (queue, _) = queue(1, usize::MAX, 3);
        let held = served(stand(&queue, 1));
        let mut long: Vec<_> = (0..3).map(|_| waiting(stand(&queue, 1))).collect();
        assert!(stand(&queue, 1).is_err(), "the longest line is his own");
        let mut other = waiting(stand(&queue, 2));
        assert!(long[2].try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed), "the last one made room");
        assert_eq!(queue.waiting(), 3);
        drop(held);
        drop(long[0].try_recv().unwrap());
        assert!(other.try_recv().is_ok());
    }

    #[test]
    fn crowded_means_that_everybody_waits() {
        let (queue, clock) = queue(1, usize::MAX, 100);
        let mut held = served(stand(&queue, 1));
        assert!(!queue.is_crowded());
        // Everybody's wait is long.
        let mut lines: Vec<_> = (0..16).map(|key| waiting(stand(&queue, key))).collect();
        clock.advance(PATIENCE * 3 / 5);
        for place in lines.iter_mut().take(4) {
            drop(held);
            held = place.try_recv().unwrap();
            clock.advance(WINDOW / 2);
        }
        assert!(queue.is_crowded());
        // Somebody new is served quickly: only the others' lines are long.
        let mut newcomer = waiting(stand(&queue, 99));
        for place in lines.iter_mut().skip(4) {
            drop(held);
            held = place.try_recv().unwrap();
        }
        drop(held);
        held = newcomer.try_recv().unwrap();
        let _wait: Vec<_> = (0..16).map(|key| waiting(stand(&queue, key))).collect();
        clock.advance(WINDOW);
        assert!(!queue.is_crowded());
        drop(held);
    }

    #[test]
    fn one_key_alone_is_no_crowd() {
        let (queue, clock) = queue(1, usize::MAX, 100);
        let mut held = served(stand(&queue, 1));
        let mut greedy: Vec<_> = (0..20).map(|_| waiting(stand(&queue, 1))).collect();
        clock.advance(PATIENCE * 3 / 5);
        for place in greedy.iter_mut().take(4) {
            drop(held);
            held = place.try_recv().unwrap();
            clock.advance(WINDOW / 2);
            assert!(!queue.is_crowded());
        }
        drop(held);
    }

    #[tokio::test]
    async fn who_gives_up_leaves_no_hole() {
        let (queue, _) = queue(1, usize::MAX, 10_000);
        let held = served(stand(&queue, 1));
        for _ in 0..5_000 {
            drop(waiting(stand(&queue, 2)));
        }
        let patient = queue.enter(2);
        tokio::pin!(patient);
        assert!(patient.as_mut().now_or_never().is_none());
        drop(held);
        assert!(patient.await.is_ok());
        assert_eq!((queue.held(), queue.waiting()), (0, 0));
    }
}
