//! Live looks at the API server for what a watch hasn't seen (yet): one for everybody who asks the same, few at once, few in a second, and each
//! answer good for a moment. So neither a herd of new pods nor tokens of pods that are gone can turn into a herd of requests.

use std::collections::HashMap;
use std::fmt::{self, Debug};
use std::future::Future;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _, Shared};
use tokio::sync::Semaphore;

use super::api_server::ApiError;
use crate::bounds::rate::Rate;
use crate::clock::{Clock, within};

/// How many looks there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LookupLimits {
    /// At once.
    pub at_once: usize,
    /// In a second, on the long run.
    pub per_second: u32,
    /// Together after a pause.
    pub burst: u32,
    /// How long an answer is good, from when it came: whoever waited for it must find it.
    pub kept: Duration,
    /// How long one may take, and wait for its place before that.
    pub time: Duration,
}

/// Answers that are kept at once; the oldest way to more is to ask again.
const MOST_KEPT: usize = 10_000;

/// The looks of one kind. `K` says what is looked for, `V` is what was found.
pub(super) struct Lookups<K, V> {
    clock: Arc<dyn Clock>,
    limits: LookupLimits,
    places: Arc<Semaphore>,
    progress: Arc<Mutex<Progress<K, V>>>,
    counts: Arc<Counts>,
}

struct Progress<K, V> {
    flights: HashMap<K, Shared<BoxFuture<'static, Option<V>>>>,
    /// With the time until which they are good, on the monotonic clock.
    answers: HashMap<K, (Duration, V)>,
    /// Looks that may begin.
    allowance: Rate,
}

#[derive(Debug, Default)]
struct Counts {
    answered: AtomicU64,
    failed: AtomicU64,
    limited: AtomicU64,
}

/// How often the API server was looked at live.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LookupCounts {
    /// It answered.
    pub answered: u64,
    /// It did not.
    pub failed: u64,
    /// It was not asked, because too much was asked already.
    pub limited: u64,
}

impl<K, V> Lookups<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(super) fn new(clock: Arc<dyn Clock>, limits: LookupLimits) -> Self {
        let allowance = Rate::per_second(limits.per_second, limits.burst);
        let progress = Progress { flights: HashMap::new(), answers: HashMap::new(), allowance };
        Self { clock, limits, places: Arc::new(Semaphore::new(limits.at_once)), progress: Arc::new(Mutex::new(progress)), counts: Arc::default() }
    }

    /// What was found a moment ago.
    pub(super) fn known(&self, key: &K) -> Option<V> {
        let now = self.clock.monotonic();
        self.progress().answers.get(key).filter(|(until, _)| *until > now).map(|(_, found)| found.clone())
    }

    /// What was found a moment ago, or what `look` finds now; `None` where nobody can tell. `look` runs as a task of its own, so that it ends even
    /// where everybody who waited went away.
    pub(super) async fn find<F>(&self, key: K, look: impl FnOnce(Duration) -> F) -> Option<V>
    where
        F: Future<Output = Result<V, ApiError>> + Send + 'static,
    {
        let flight = {
            let now = self.clock.monotonic();
            let mut progress = self.progress();
            if let Some((_, found)) = progress.answers.get(&key).filter(|(until, _)| *until > now) {
                return Some(found.clone());
            }
            match progress.flights.get(&key) {
                Some(flight) => flight.clone(),
                None => {
                    if progress.allowance.take(now).is_err() {
                        self.counts.limited.fetch_add(1, Ordering::Relaxed);
                        return None;
                    }
                    let look = look(self.limits.time);
                    let (kept_as, kept_in, counts) = (key.clone(), self.progress.clone(), self.counts.clone());
                    let (places, clock, limits) = (self.places.clone(), self.clock.clone(), self.limits);
                    let work = async move {
                        let landing = Landing { key: kept_as, progress: kept_in };
                        let Some(Ok(_place)) = within(clock.as_ref(), limits.time, places.acquire()).await else {
                            counts.limited.fetch_add(1, Ordering::Relaxed);
                            return None;
                        };
                        match look.await {
                            Ok(found) => {
                                counts.answered.fetch_add(1, Ordering::Relaxed);
                                let now = clock.monotonic();
                                landing.keep(now, now.saturating_add(limits.kept), &found);
                                Some(found)
                            }
                            Err(error) => {
                                counts.failed.fetch_add(1, Ordering::Relaxed);
                                tracing::debug!(%error, "a live look at the API server failed");
                                None
                            }
                        }
                    };
                    let flight = tokio::spawn(work).map(|ended| ended.ok().flatten()).boxed().shared();
                    progress.flights.insert(key, flight.clone());
                    flight
                }
            }
        };
        flight.await
    }

    pub(super) fn counts(&self) -> LookupCounts {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counts { answered, failed, limited } = self.counts.as_ref();
        LookupCounts { answered: count(answered), failed: count(failed), limited: count(limited) }
    }

    /// No holder of this lock can leave it half changed; it is never held across a wait.
    fn progress(&self) -> MutexGuard<'_, Progress<K, V>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, V> Debug for Lookups<K, V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Lookups({:?}, {:?})", self.limits, self.counts)
    }
}

/// Ends a flight however its task ends, by a panic too: the next one could never begin otherwise.
struct Landing<K: Eq + Hash, V> {
    key: K,
    progress: Arc<Mutex<Progress<K, V>>>,
}

impl<K: Clone + Eq + Hash, V: Clone> Landing<K, V> {
    fn keep(&self, now: Duration, until: Duration, found: &V) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if progress.answers.len() >= MOST_KEPT {
            progress.answers.retain(|_, (until, _)| *until > now);
        }
        if progress.answers.len() < MOST_KEPT {
            progress.answers.insert(self.key.clone(), (until, found.clone()));
        }
    }
}

impl<K: Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).flights.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::Notify;

    use super::*;
    use crate::clock::SystemClock;

    const LIMITS: LookupLimits =
        LookupLimits { at_once: 2, per_second: 1000, burst: 1000, kept: Duration::from_secs(60), time: Duration::from_millis(300) };

    fn lookups(limits: LookupLimits) -> Arc<Lookups<u32, u32>> {
        Arc::new(Lookups::new(SystemClock::shared(), limits))
    }

    #[tokio::test]
    async fn one_look_for_all_who_ask_the_same_and_few_at_once() {
        let lookups = lookups(LIMITS);
        let (open, looked) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let ask = |key: u32| {
            let (lookups, open, looked) = (lookups.clone(), open.clone(), looked.clone());
            async move {
                let look = |limit| async move {
                    looked.fetch_add(1, Ordering::SeqCst);
                    let opened = within(SystemClock::shared().as_ref(), limit, open.notified()).await;
                    opened.map(|()| key * 10).ok_or(ApiError::TimedOut(limit))
                };
                lookups.find(key, look).await
            }
        };
        let mut waiting: Vec<_> = [1, 1, 1, 2, 2].into_iter().map(|key| Box::pin(ask(key))).collect();
        for each in &mut waiting {
            assert!(futures_util::poll!(each.as_mut()).is_pending());
        }
        let mut third = Box::pin(ask(3));
        assert!(futures_util::poll!(third.as_mut()).is_pending());
        while looked.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(looked.load(Ordering::SeqCst), 2, "the third waits for its place");
        open.notify_waiters();
        let mut found = Vec::new();
        for each in waiting {
            found.push(each.await);
        }
        assert_eq!(found, [Some(10), Some(10), Some(10), Some(20), Some(20)]);
        assert_eq!((lookups.known(&1), lookups.known(&3)), (Some(10), None));
        assert_eq!(ask(1).await, Some(10), "good for a moment");
        assert_eq!(third.await, None, "nobody lets the third one go on: its time is up, and then it would be asked again");
        assert_eq!(lookups.counts(), LookupCounts { answered: 2, failed: 1, limited: 0 });
    }

    #[tokio::test]
    async fn an_answer_that_took_long_is_good_all_the_same() {
        let lookups = lookups(LookupLimits { kept: Duration::from_millis(250), ..LIMITS });
        let slow = |_| async {
            let clock = SystemClock::shared();
            clock.sleep_until(clock.monotonic() + Duration::from_millis(280)).await;
            Ok(7)
        };
        assert_eq!(lookups.find(1, slow).await, Some(7));
        assert_eq!(lookups.known(&1), Some(7));
    }

    #[tokio::test]
    async fn failures_and_panics_are_not_kept() {
        let lookups = lookups(LIMITS);
        assert_eq!(lookups.find(1, |time| async move { Err(ApiError::TimedOut(time)) }).await, None);
        assert_eq!(lookups.find(1, |_| async { panic!("a bug") }).await, None);
        assert_eq!(lookups.find(1, |_| async { Ok(1) }).await, Some(1));
        assert_eq!(lookups.counts(), LookupCounts { answered: 1, failed: 1, limited: 0 });
    }

    #[tokio::test]
    async fn few_in_a_second() {
        let lookups = lookups(LookupLimits { per_second: 0, burst: 3, ..LIMITS });
        for key in 0..3 {
            assert_eq!(lookups.find(key, |_| async { Ok(1) }).await, Some(1));
        }
        assert_eq!(lookups.find(9, |_| async { Ok(1) }).await, None);
        assert_eq!(lookups.find(2, |_| async { Ok(2) }).await, Some(1), "what is known costs nothing");
    }
}
