//! The connections of one door: places for them, and bytes that are kept for them (of requests that are not decoded yet, of answers that they
//! haven't read). Where there is no room somebody has to go: not who comes now, but the oldest of whoever holds most, by address while
//! nobody knows who it is, then by namespace, account and pod.
//!
//! A connection that we are working for (its handshake is due, its request is being answered) goes after those that we wait for. A door
//! takes a [`Member`] for each connection, says of it what happens, and ends the connection when [`Member::departure`] says so.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::holders::{Holder, Holders};
use super::share::Share;
use crate::clock::Clock;

/// The bounds of a [`Crowd`].
#[derive(Debug, Clone, Copy)]
pub struct CrowdLimits {
    /// Connections.
    pub places: usize,
    /// Of these, strangers: nobody knows who they are.
    pub strangers: usize,
    /// Bytes that are kept for all of them. For a moment it may be more: who goes takes a moment to be gone.
    pub bytes: usize,
    /// Nobody who was waited for for less than this goes for another one of his own address: in a herd, whose clients are slow to go on, everybody would
    /// go just before his turn. Nothing where herds don't come.
    pub grace: Duration,
}

/// There is no room, and nobody who should go instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom;

/// Why a connection has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// Another one needs the place, and this one's share holds most.
    MadeRoom,
    /// Bytes are needed, and this one's share holds most.
    TooManyBytes,
    /// Its door doesn't want it any longer ([`Member::dismiss`]).
    Dismissed,
    /// Bytes were kept for it for too long: its peer doesn't read, or doesn't finish what it began to send.
    TooSlow,
}

/// The connections of one door. The lock inside is held for a few map operations; only where bytes ran out, for a look at every connection.
#[derive(Debug)]
pub struct Crowd {
    limits: CrowdLimits,
    clock: Arc<dyn Clock>,
    bytes: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    strangers: Holders,
    known: Holders,
    standings: HashMap<u64, Standing>,
}

/// How somebody stands in the order of those who go.
#[derive(Debug)]
struct Standing {
    seat: Arc<Seat>,
    share: Share,
    known: bool,
    since: Duration,
}

/// What is known of one connection.
#[derive(Debug)]
struct Seat {
    id: u64,
    known: AtomicBool,
    /// Pieces of work that are under way for it.
    working: AtomicUsize,
    /// Since when we have been waiting for it, in milliseconds on the monotonic clock; only right while nothing is under way.
    waited_for: AtomicU64,
    holds: Mutex<Holds>,
    departure: OnceLock<Departure>,
    told: Notify,
}

#[derive(Debug)]
struct Holds {
    next: u64,
    bytes: usize,
    /// Since when each is held.
    since: BTreeMap<u64, Duration>,
    /// Whether they count in the crowd: not any more once it is said that this one goes.
    counted: bool,
}

/// How many that turn out not to be waited for are passed over before one has to go all the same.
const TRIES: usize = 8;
impl Crowd {
    /// Nobody is there yet.
    pub fn new(limits: CrowdLimits, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { limits, clock, bytes: AtomicUsize::new(0), state: Mutex::default() })
    }

    /// A place for a stranger who has just come.
    ///
    /// # Errors
    /// [`NoRoom`] where the newcomer's own address holds most, and all of it are being worked for or came a moment ago.
    pub fn enter(self: &Arc<Self>, share: Share) -> Result<Arc<Member>, NoRoom> {
        let now = self.clock.monotonic();
        let mut state = self.lock();
        if state.strangers.weight() >= self.limits.strangers {
            state.make_room(false, share, (now, self.limits.grace), &self.bytes)?;
        } else if state.standings.len() >= self.limits.places {
            // Strangers have less than their part of the places, so those who are known have more than theirs.
            let known = state.known.weight() > 0;
            state.make_room(known, share, (now, self.limits.grace), &self.bytes)?;
        }
        let id = state.next;
        state.next += 1;
        let seat = Arc::new(Seat {
            id,
            known: AtomicBool::new(false),
            working: AtomicUsize::new(0),
            waited_for: AtomicU64::new(millis(now)),
            holds: Mutex::new(Holds { next: 0, bytes: 0, since: BTreeMap::new(), counted: true }),
            departure: OnceLock::new(),
            told: Notify::new(),
        });
        state.stand(Standing { seat: seat.clone(), share, known: false, since: now });
        drop(state);
        Ok(Arc::new(Member { crowd: self.clone(), seat }))
    }

    /// Sends away for whom bytes have been kept for longer than `longest`.
    pub fn send_slow_ones_away(&self, longest: Duration) {
        let now = self.clock.monotonic();
        let mut state = self.lock();
        let slow: Vec<u64> = state
            .standings
            .values()
            .filter(|standing| standing.seat.holds_since().is_some_and(|since| now.saturating_sub(since) > longest))
            .map(|standing| standing.seat.id)
            .collect();
        for id in slow {
            self.send_away(&mut state, id, Departure::TooSlow);
        }
    }

    /// Connections that are here.
    pub fn connections(&self) -> usize {
        self.lock().standings.len()
    }

    /// Of these, strangers.
    pub fn strangers(&self) -> usize {
        self.lock().strangers.weight()
    }

    /// Bytes that are kept.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The bounds.
    pub fn limits(&self) -> CrowdLimits {
        self.limits
    }

    /// Brings what is kept down to three quarters of what may be: looking for who holds most is worth more than one request.
    fn free_bytes(&self) {
        let mut state = self.lock();
        let mut holders = state.holders_of_bytes();
        // Counted anew: somebody else may have made room meanwhile.
        if holders.weight() <= self.limits.bytes {
            return;
        }
        while holders.weight() > self.limits.bytes / 4 * 3 {
            let Some((id, _)) = holders.take_first_to_go() else { return };
            self.send_away(&mut state, id, Departure::TooManyBytes);
        }
    }

    fn send_away(&self, state: &mut State, id: u64, departure: Departure) {
        let Some(standing) = state.leave(id) else { return };
        standing.seat.give_up_bytes(&self.bytes);
        standing.seat.depart(departure);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn holders(&mut self, known: bool) -> &mut Holders {
        if known { &mut self.known } else { &mut self.strangers }
    }

    fn stand(&mut self, standing: Standing) {
        let id = standing.seat.id;
        self.holders(standing.known).insert(standing.share.path(), Holder { since: standing.since, id, weight: 1 });
        self.standings.insert(id, standing);
    }

    fn leave(&mut self, id: u64) -> Option<Standing> {
        let standing = self.standings.remove(&id)?;
        self.holders(standing.known).remove(standing.share.path(), Holder { since: standing.since, id, weight: 1 });
        Some(standing)
    }

    /// Has the greediest's oldest go, of those that we wait for; after some tries one that we work for, but not for another of its own address.
    fn make_room(&mut self, known: bool, newcomer: Share, (now, grace): (Duration, Duration), bytes: &AtomicUsize) -> Result<(), NoRoom> {
        for attempt in 0..=TRIES {
            let Some(mut standing) = self.holders(known).first_to_go().and_then(|id| self.leave(id)) else { return Err(NoRoom) };
            let waited_for = standing.seat.waited_for();
            let first = waited_for.is_some_and(|since| since <= standing.since);
            let own = !known && standing.share == newcomer;
            let goes = if own { first && now.saturating_sub(standing.since) >= grace } else { first || attempt == TRIES };
            if goes {
                standing.seat.give_up_bytes(bytes);
                standing.seat.depart(Departure::MadeRoom);
                return Ok(());
            }
            standing.since = if first { standing.since } else { waited_for.unwrap_or(now) };
            self.stand(standing);
            if first {
                return Err(NoRoom);
            }
        }
        Err(NoRoom)
    }

    /// Everybody for whom bytes are kept, by how many they are, and since when.
    fn holders_of_bytes(&self) -> Holders {
        let mut holders = Holders::default();
        for (id, standing) in &self.standings {
            if let Some((bytes, since)) = standing.seat.held() {
                holders.insert(standing.share.path(), Holder { since, id: *id, weight: bytes });
            }
        }
        holders
    }
}

impl Seat {
    /// Since when we wait for it; nothing while we don't.
    fn waited_for(&self) -> Option<Duration> {
        let waiting = self.working.load(Ordering::Relaxed) == 0;
        waiting.then(|| Duration::from_millis(self.waited_for.load(Ordering::Relaxed)))
    }

    fn holds(&self) -> MutexGuard<'_, Holds> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn holds_since(&self) -> Option<Duration> {
        self.holds().since.first_key_value().map(|(_, since)| *since)
    }

    fn held(&self) -> Option<(usize, Duration)> {
        let holds = self.holds();
        holds.since.first_key_value().map(|(_, since)| (holds.bytes, *since))
    }

    /// From now on its bytes don't count in `sum` any more.
    fn give_up_bytes(&self, sum: &AtomicUsize) {
        let mut holds = self.holds();
        if std::mem::take(&mut holds.counted) {
            sum.fetch_sub(holds.bytes, Ordering::Relaxed);
        }
    }

    fn depart(&self, departure: Departure) {
        // The first reason stays.
        let _ = self.departure.set(departure);
        self.told.notify_one();
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A connection's place; it is given back when the last part of the connection is gone.
#[derive(Debug)]
pub struct Member {
    crowd: Arc<Crowd>,
    seat: Arc<Seat>,
}

impl Member {
    /// Somebody proved who he is: from now on he counts by that, and is no stranger.
    pub fn becomes_known(&self, share: Share) {
        if self.seat.known.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut state = self.crowd.lock();
        if let Some(standing) = state.leave(self.seat.id) {
            state.stand(Standing { share, known: true, ..standing });
        }
    }

    /// Whether somebody has.
    pub fn is_known(&self) -> bool {
        self.seat.known.load(Ordering::Relaxed)
    }

    /// Whether bytes are kept for it: of a request that is under way, or of an answer that it hasn't read.
    pub fn holds_bytes(&self) -> bool {
        self.seat.held().is_some()
    }

    /// While this lives it is us who have something to do, and not the peer.
    pub fn works(self: &Arc<Self>) -> Working {
        self.seat.working.fetch_add(1, Ordering::Relaxed);
        Working(self.clone())
    }

    /// Counts bytes that are kept for this connection; where they are too many, somebody has to go.
    pub fn holds(self: &Arc<Self>, bytes: usize) -> Held {
        let now = self.crowd.clock.monotonic();
        let number = {
            let mut holds = self.seat.holds();
            let number = holds.next;
            holds.next += 1;
            holds.since.insert(number, now);
            number
        };
        let mut held = Held { member: self.clone(), number, bytes: 0 };
        held.grow(bytes);
        held
    }

    /// The door sends it away.
    pub fn dismiss(&self) {
        let mut state = self.crowd.lock();
        self.crowd.send_away(&mut state, self.seat.id, Departure::Dismissed);
    }

    /// Ends when this connection has to go, and says why.
    pub async fn departure(&self) -> Departure {
        loop {
            if let Some(departure) = self.seat.departure.get() {
                return *departure;
            }
            self.seat.told.notified().await;
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.crowd.lock().leave(self.seat.id);
    }
}

/// Something is being done for a connection.
#[derive(Debug)]
pub struct Working(Arc<Member>);

impl Drop for Working {
    fn drop(&mut self) {
        let seat = &self.0.seat;
        seat.waited_for.store(millis(self.0.crowd.clock.monotonic()), Ordering::Relaxed);
        seat.working.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes that are kept for a connection, until this is dropped.
#[derive(Debug)]
pub struct Held {
    member: Arc<Member>,
    number: u64,
    bytes: usize,
}

impl Held {
    /// More of them.
    pub fn grow(&mut self, by: usize) {
        self.bytes += by;
        let (crowd, seat) = (&self.member.crowd, &self.member.seat);
        let too_many = {
            let mut holds = seat.holds();
            holds.bytes += by;
            // While it is locked, so that the sum has at any time what each one has.
            holds.counted && crowd.bytes.fetch_add(by, Ordering::Relaxed) + by > crowd.limits.bytes
        };
        if too_many {
            crowd.free_bytes();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let (crowd, seat) = (&self.member.crowd, &self.member.seat);
        let mut holds = seat.holds();
        holds.since.remove(&self.number);
        holds.bytes = holds.bytes.saturating_sub(self.bytes);
        if holds.counted {
            crowd.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
