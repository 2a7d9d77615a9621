//! The key sets of all token issuers, kept fresh.
//!
//! Issuance asks for one key for each token; the answer is a lock-free read of the current set. An unknown `kid` causes one fetch for each
//! issuer and interval, however many ask. A failed fetch keeps the last good keys for a bounded age; after that there are none, and never
//! anything weaker. Nothing that a caller sends can make fetches come faster.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::future::{self, BoxFuture, Either, FutureExt as _, Shared};
use time::OffsetDateTime;
use tokio::sync::Semaphore;

use super::api_server::ApiServer;
use super::fetch::{FetchError, KeySource, fetch, issuer_of};
use crate::bounds::rate::Rate;
use crate::callers::{FaultyKey, KeySet, TokenError, VerificationKey};
use crate::clock::Clock;

/// An issuer whose tokens are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackedIssuer {
    /// `iss`, compared byte for byte.
    pub issuer: String,
    /// Where its keys are.
    pub source: KeySource,
    /// When its keys are fetched.
    pub timing: Timing,
}

/// How often and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From one fetch in the background to the next, for example 5 minutes. After a failure the next one comes after `refetch_interval`.
    pub refresh_interval: Duration,
    /// The least time between two fetches for the sake of an unknown `kid`, for example 10 seconds.
    pub refetch_interval: Duration,
    /// How long keys are believed after they were fetched, for example 24 hours.
    pub max_age: Duration,
    /// How long one fetch may take, for example 5 seconds.
    pub fetch_timeout: Duration,
}

/// Why there is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyTrouble {
    /// Nobody configured this issuer: a bad token.
    #[error("not one of our issuers")]
    UnknownIssuer,
    /// A fetch since the last interval succeeded and the key is not in what came. It may be newer than what that server knows: our trouble.
    #[error("the issuer has published no key of this kid")]
    UnknownKey,
    /// The key isn't in the last good set, and the latest fetch failed: our trouble.
    #[error("the key is not in the last good set, and the latest fetch failed")]
    RefetchFailed,
    /// No fetch ever succeeded: our trouble.
    #[error("the issuer's keys were never loaded")]
    NotLoaded,
    /// The last good keys are too old: our trouble.
    #[error("the issuer's keys are too old")]
    Stale,
}

/// What metrics and `/readyz?verbose` show of an issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerStatus {
    /// `iss`.
    pub issuer: String,
    /// When a fetch succeeded last.
    pub last_success: Option<OffsetDateTime>,
    /// How long ago that was, on the monotonic clock.
    pub age: Option<Duration>,
    /// When its keys are fetched.
    pub timing: Timing,
    /// How many keys can be used.
    pub keys: usize,
    /// Keys of the set that were skipped.
    pub skipped: usize,
    /// Those among them that can only be mistakes.
    pub faulty: Vec<FaultyKey>,
    /// Failed fetches since the start.
    pub failures: u64,
    /// The latest fetch's error, where it failed.
    pub last_error: Option<FetchError>,
    /// What the API server that its keys come from calls itself as an issuer, where it said.
    pub named_by_cluster: Option<String>,
}

/// The key sets. Shared by everything that authenticates.
pub struct KeySets {
    clock: Arc<dyn Clock>,
    issuers: BTreeMap<String, Arc<Tracked>>,
    waiting: Semaphore,
}

/// One issuer, and what is going on with it.
struct Tracked {
    issuer: TrackedIssuer,
    api: Option<Arc<ApiServer>>,
    current: ArcSwapOption<Loaded>,
    named_by_cluster: ArcSwapOption<String>,
    progress: Mutex<Progress>,
}

/// Tokens that may wait for a fetch at once; more are answered as if the fetch had failed.
const MAX_WAITING: usize = 64;
/// Keys that can't be used, in one line of the log.
const MAX_FAULTY_SHOWN: usize = 5;

struct Loaded {
    set: KeySet,
    /// On the monotonic clock: a wall clock that jumps back must not keep old keys alive.
    at: Duration,
    wall: OffsetDateTime,
}

struct Progress {
    /// The fetch under way, shared by everybody who waits for one.
    flight: Option<Shared<BoxFuture<'static, ()>>>,
    /// Fetches for the sake of an unknown `kid`.
    refetches: Rate,
    failures: u64,
    last_error: Option<FetchError>,
}

impl KeySets {
    /// Nothing is fetched yet: [`KeySets::run`] begins, and so does the first token. Of two entries with one issuer the last one counts.
    /// Keys that are [`KeySource::ApiServer`]'s come from `api`.
    pub fn new(clock: Arc<dyn Clock>, api: Option<Arc<ApiServer>>, issuers: impl IntoIterator<Item = TrackedIssuer>) -> Arc<Self> {
        let tracked = |issuer: TrackedIssuer| {
            let name = issuer.issuer.clone();
            let refetches = Rate::every(issuer.timing.refetch_interval, 1);
            let progress = Mutex::new(Progress { flight: None, refetches, failures: 0, last_error: None });
            (
                name,
                Arc::new(Tracked { issuer, api: api.clone(), current: ArcSwapOption::empty(), named_by_cluster: ArcSwapOption::empty(), progress }),
            )
        };
        Arc::new(Self { clock, waiting: Semaphore::new(MAX_WAITING), issuers: issuers.into_iter().map(tracked).collect() })
    }

    /// The key of `issuer` named `kid`. On the usual path this is one atomic read.
    ///
    /// # Errors
    /// [`KeyTrouble`].
    pub async fn key(&self, issuer: &str, kid: &str) -> Result<Arc<VerificationKey>, KeyTrouble> {
        let tracked = self.issuers.get(issuer).ok_or(KeyTrouble::UnknownIssuer)?;
        if let Ok(key) = self.current(tracked, kid) {
            return Ok(key);
        }
        // Waiting holds a place among the requests in progress; strangers with made-up key ids must not take them all.
        if let Ok(_place) = self.waiting.try_acquire()
            && let Some(flight) = self.refetch(tracked)
        {
            flight.await;
        }
        self.current(tracked, kid)
    }

    /// Fetches every issuer's keys once, now, side by side: at start, and for tests.
    pub async fn refresh(&self) {
        future::join_all(self.issuers.values().map(|tracked| self.join_or_begin(tracked, &mut tracked.progress()))).await;
    }

    /// Refreshes all, at the shortest interval of any, until `shutdown` ends.
    pub async fn run(self: Arc<Self>, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        loop {
            let round = async {
                self.refresh().await;
                let pauses = self.issuers.values().map(|tracked| {
                    let timing = tracked.issuer.timing;
                    let failed = tracked.progress().last_error.is_some();
                    if failed { timing.refetch_interval.min(timing.refresh_interval) } else { timing.refresh_interval }
                });
                let pause = pauses.min().unwrap_or(Duration::from_secs(60));
                self.clock.sleep_until(self.clock.monotonic().saturating_add(pause)).await;
            };
            match future::select(pin!(round), shutdown.as_mut()).await {
                Either::Left(_) => {}
                Either::Right(_) => return,
            }
        }
    }

    /// What there is of each issuer, in their order by name.
    pub fn status(&self) -> Vec<IssuerStatus> {
        let now = self.clock.monotonic();
        self.issuers.values().map(|tracked| tracked.status(now)).collect()
    }

    fn current(&self, tracked: &Tracked, kid: &str) -> Result<Arc<VerificationKey>, KeyTrouble> {
        let loaded = tracked.current.load();
        let loaded = loaded.as_ref().ok_or(KeyTrouble::NotLoaded)?;
        if self.clock.monotonic().saturating_sub(loaded.at) > tracked.issuer.timing.max_age {
            return Err(KeyTrouble::Stale);
        }
        loaded.set.key(kid).map(Arc::clone).ok_or_else(|| match tracked.progress().last_error {
            None => KeyTrouble::UnknownKey,
            Some(_) => KeyTrouble::RefetchFailed,
        })
    }

    /// The fetch that somebody with an unknown `kid` may wait for; `None` where there was one a moment ago.
    fn refetch(&self, tracked: &Arc<Tracked>) -> Option<Shared<BoxFuture<'static, ()>>> {
        let mut progress = tracked.progress();
        if progress.flight.is_none() {
            progress.refetches.take(self.clock.monotonic()).ok()?;
        }
        Some(self.join_or_begin(tracked, &mut progress))
    }

    /// The fetch under way, or a new one. It runs as a task of its own, so that it ends even where everybody who waited went away.
    fn join_or_begin(&self, tracked: &Arc<Tracked>, progress: &mut Progress) -> Shared<BoxFuture<'static, ()>> {
        let begin = || {
            let work = Arc::clone(tracked).load(Arc::clone(&self.clock), tracked.issuer.timing.fetch_timeout);
            tokio::spawn(work).map(|_| ()).boxed().shared()
        };
        progress.flight.get_or_insert_with(begin).clone()
    }
}

impl Tracked {
    async fn load(self: Arc<Self>, clock: Arc<dyn Clock>, timeout: Duration) {
        let flight = Landing(&self);
        // The keys are as old as the question, not as the answer.
        let (at, wall) = (clock.monotonic(), clock.now());
        match fetch(&self.issuer.issuer, &self.issuer.source, self.api.as_deref(), &clock, timeout).await {
            Ok(set) => {
                self.warn_of_faulty(&set);
                self.current.store(Some(Arc::new(Loaded { set, at, wall })));
                self.progress().last_error = None;
            }
            Err(error) => {
                tracing::warn!(issuer = self.issuer.issuer, %error, "could not fetch the keys of a token issuer");
                let mut progress = self.progress();
                progress.failures += 1;
                progress.last_error = Some(error);
            }
        }
        drop(flight);
        // For people only; nobody waits for it.
        if let (KeySource::ApiServer, Some(api)) = (&self.issuer.source, &self.api)
            && let Ok(named) = issuer_of(api, timeout).await
        {
            self.named_by_cluster.store(Some(Arc::new(named)));
        }
    }

    /// Once for each change, not at each fetch.
    fn warn_of_faulty(&self, set: &KeySet) {
        let faulty = set.faulty();
        if faulty.is_empty() || self.current.load().as_ref().is_some_and(|before| before.set.faulty() == faulty) {
            return;
        }
        let shown: Vec<_> = faulty.iter().take(MAX_FAULTY_SHOWN).map(ToString::to_string).collect();
        let (issuer, keys) = (&self.issuer.issuer, shown.join("; "));
        tracing::warn!(issuer, count = faulty.len(), keys, "keys of a token issuer can't be used and are passed over");
    }

    fn status(&self, now: Duration) -> IssuerStatus {
        let loaded = self.current.load();
        let progress = self.progress();
        IssuerStatus {
            issuer: self.issuer.issuer.clone(),
            last_success: loaded.as_ref().map(|loaded| loaded.wall),
            age: loaded.as_ref().map(|loaded| now.saturating_sub(loaded.at)),
            timing: self.issuer.timing,
            keys: loaded.as_ref().map_or(0, |loaded| loaded.set.usable()),
            skipped: loaded.as_ref().map_or(0, |loaded| loaded.set.skipped()),
            faulty: loaded.as_ref().map_or_else(Vec::new, |loaded| loaded.set.faulty().to_vec()),
            failures: progress.failures,
            last_error: progress.last_error.clone(),
            named_by_cluster: self.named_by_cluster.load().as_deref().cloned(),
        }
    }

    /// No holder of this lock can leave it half changed, so a poisoned one is as good; it is never held across a wait.
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a flight however its task ends, by a panic too: the next one could never begin otherwise.
struct Landing<'a>(&'a Tracked);

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.0.progress().flight = None;
    }
}

impl From<KeyTrouble> for TokenError {
    fn from(trouble: KeyTrouble) -> Self {
        match trouble {
            KeyTrouble::UnknownIssuer => Self::WrongIssuer,
            KeyTrouble::UnknownKey => Self::UnknownKid,
            KeyTrouble::RefetchFailed | KeyTrouble::NotLoaded | KeyTrouble::Stale => Self::KeysUnavailable,
        }
    }
}

impl fmt::Debug for KeySets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.issuers.keys()).finish()
    }
}
