//! One watch: a kind of object, listed in pages and then followed change by change, for as long as the process lives.
//!
//! [`Watched::run`] is the only writer; questions read the index under a lock that is held for a lookup in memory and never across I/O. A list
//! is built beside the index and then exchanged with it, so that nothing seems to be gone while it is read anew. How old the knowledge is,
//! is counted from the last thing that the API server said in it: it sends a bookmark about once a minute where nothing happens.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::select;
use kube::core::params::{ListParams, WatchParams};
use kube::core::{Request, WatchEvent};
use tokio::sync::watch;

use super::api_server::{ApiError, ApiServer};
use super::index::{Index, Resource};
use super::objects::Page;
use crate::clock::{Clock, Entropy, fraction, within};

/// Objects in one answer of a list. A pod has 5 to 10 KB on the wire, so a page has a few megabytes.
const PAGE: u32 = 250;
/// The same where those objects are very large.
const SMALL_PAGE: u32 = 16;
/// A page that is longer is asked for again with fewer objects: one of the largest size that etcd stores has 1.5 MiB.
const MAX_PAGE_BYTES: usize = 32 << 20;
/// How long a page, or the beginning of a watch, may take.
const PAGE_TIME: Duration = Duration::from_secs(30);
/// A watch in which nothing is said for so long is dead: there is a bookmark about once a minute. Only an API server that was started a few minutes
/// ago may have none for objects that never change; a list then says that all is as it was.
const SILENCE: Duration = Duration::from_secs(150);
/// How long the API server keeps one watch open, in seconds; then the next one begins, perhaps with another server.
const WATCH_SECONDS: (f64, f64) = (300.0, 600.0);
/// Pauses after a failure: the first, doubling up to the last; each is cut by a random half at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// What is known of one kind of object, and how well.
#[derive(Debug)]
pub(crate) struct Watched<I> {
    scope: Scope,
    index: RwLock<I>,
    /// Milliseconds on the monotonic clock, plus one; 0 before the first list.
    heard: AtomicU64,
    lists: AtomicU64,
    failures: AtomicU64,
    trouble: Mutex<Option<ApiError>>,
    /// Whether there was a first list, or a first failure.
    attempted: watch::Sender<bool>,
    /// Grows with each change of the index.
    changes: watch::Sender<u64>,
    clock: Arc<dyn Clock>,
}

/// Which objects of the kind are watched.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scope {
    /// Empty: all.
    pub(crate) namespace: String,
    /// A label selector. An object that it doesn't choose any more counts as gone.
    pub(crate) labels: Option<String>,
    /// The only name. Rules of access may then name it too.
    pub(crate) name: Option<String>,
}

impl Scope {
    fn fields(&self) -> Option<String> {
        self.name.as_ref().map(|name| format!("metadata.name={name}"))
    }
}

/// What metrics and the checkup show of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchStatus {
    /// What is watched.
    pub resource: Resource,
    /// How long ago the API server said something in it; `None` before the first list.
    pub age: Option<Duration>,
    /// How many objects are known.
    pub objects: usize,
    /// How often all of them were listed.
    pub lists: u64,
    /// How often a list or a watch failed.
    pub failures: u64,
    /// Why the latest attempt failed; `None` where it goes well.
    pub trouble: Option<ApiError>,
}

/// A watch that held for so long was a good one: what comes after it begins at once.
const LASTING: Duration = Duration::from_secs(30);

/// How a watch ended.
enum Ended {
    /// The API server closed it: the next one goes on from there.
    AsPlanned,
    /// What it would go on from isn't kept any more, something came that can't be understood, or nothing did: only a list helps.
    ListAgain(ApiError),
    /// No connection, or it broke.
    Broken(ApiError),
}

impl<I: Index> Watched<I> {
    /// All objects of the kind.
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Self::scoped(Scope::default(), clock)
    }

    /// Some of them.
    pub(crate) fn scoped(scope: Scope, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            scope,
            changes: watch::Sender::new(0),
            index: RwLock::default(),
            heard: AtomicU64::new(0),
            lists: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            trouble: Mutex::default(),
            attempted: watch::Sender::new(false),
            clock,
        })
    }

    /// Looks into the index.
    pub(crate) fn look<T>(&self, question: impl FnOnce(&I) -> T) -> T {
        // Every writer leaves the index whole, so a poisoned one is as good.
        question(&self.index.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// How long ago the API server said something in this watch; `None` before the first list.
    pub(crate) fn age(&self) -> Option<Duration> {
        let heard = self.heard.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.clock.monotonic().saturating_sub(Duration::from_millis(heard)))
    }

    pub(crate) fn status(&self) -> WatchStatus {
        WatchStatus {
            resource: I::RESOURCE,
            age: self.age(),
            objects: self.look(I::len),
            lists: self.lists.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            trouble: self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Tells of each change.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn change(&self, change: impl FnOnce(&mut I)) {
        change(&mut self.index.write().unwrap_or_else(PoisonError::into_inner));
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Ends once everything was listed, or could not be.
    pub(crate) async fn attempted(&self) {
        // An error means that the sender is gone, and it lives in here.
        let _ = self.attempted.subscribe().wait_for(|attempted| *attempted).await;
    }

    /// Keeps the index up to date until `shutdown` ends.
    pub(crate) async fn run(self: Arc<Self>, api: Arc<ApiServer>, entropy: Arc<dyn Entropy>, shutdown: impl Future<Output = ()>) {
        let work = pin!(self.keep_up(&api, entropy.as_ref()));
        select(work, pin!(shutdown)).await;
    }

    async fn keep_up(&self, api: &ApiServer, entropy: &dyn Entropy) {
        let mut pauses = Pauses { next: PAUSES.0, clock: self.clock.as_ref(), entropy };
        loop {
            let mut version = match self.list(api).await {
                Ok(version) => version,
                Err(error) => {
                    self.failed(error);
                    pauses.pause().await;
                    continue;
                }
            };
            loop {
                let began = self.clock.monotonic();
                let ended = self.follow(api, &mut version, entropy).await;
                let lasted = self.clock.monotonic().saturating_sub(began) >= LASTING;
                if lasted {
                    pauses.next = PAUSES.0;
                }
                match ended {
                    Ended::AsPlanned if lasted => {}
                    Ended::AsPlanned => {
                        self.failed(ApiError::NoAnswer("the watch ended as soon as it had begun".to_owned()));
                        pauses.pause().await;
                    }
                    Ended::ListAgain(error) => {
                        tracing::info!(resource = I::RESOURCE.name(), %error, "everything is listed anew");
                        if !lasted {
                            pauses.pause().await;
                        }
                        break;
                    }
                    Ended::Broken(error) => {
                        self.failed(error);
                        pauses.pause().await;
                    }
                }
            }
        }
    }

    /// Reads everything, page by page; returns the version that a watch goes on from.
    async fn list(&self, api: &ApiServer) -> Result<String, ApiError> {
        // The facts are as old as the question, not as the answer.
        let began = self.clock.monotonic();
        let request = Request::new(I::RESOURCE.path(&self.scope.namespace));
        let (mut index, mut version) = (I::default(), None);
        let mut params =
            ListParams { label_selector: self.scope.labels.clone(), field_selector: self.scope.fields(), ..ListParams::default().limit(PAGE) };
        loop {
            let page = if I::RESOURCE.metadata_only() { request.list_metadata(&params) } else { request.list(&params) };
            let page: Page<I::Object> = match api.read(page.map_err(unaskable)?, MAX_PAGE_BYTES, PAGE_TIME).await {
                Err(ApiError::Body(_)) if params.limit > Some(SMALL_PAGE) => {
                    params.limit = Some(SMALL_PAGE);
                    continue;
                }
                page => page?,
            };
            page.items.into_iter().flatten().for_each(|object| index.put(object));
            let version = version.get_or_insert(page.metadata.resource_version);
            match page.metadata.next.filter(|next| !next.is_empty()) {
                Some(next) => params.continue_token = Some(next),
                None => {
                    let version = version.clone();
                    self.change(|known| *known = index);
                    self.lists.fetch_add(1, Ordering::Relaxed);
                    self.hear(began);
                    self.recovered();
                    self.attempted.send_replace(true);
                    return Ok(version);
                }
            }
        }
    }

    /// Takes in changes from `version` on, which moves with them.
    async fn follow(&self, api: &ApiServer, version: &mut String, entropy: &dyn Entropy) -> Ended {
        // Without random bytes all replicas come back at the same time, and that is all.
        let share = fraction(entropy).unwrap_or(0.5);
        let seconds = WATCH_SECONDS.0 + (WATCH_SECONDS.1 - WATCH_SECONDS.0) * share;
        let (labels, fields) = (self.scope.labels.clone(), self.scope.fields());
        let params =
            WatchParams { timeout: Some(seconds as u32), bookmarks: true, label_selector: labels, field_selector: fields, ..WatchParams::default() };
        let request = Request::new(I::RESOURCE.path(&self.scope.namespace));
        let request = if I::RESOURCE.metadata_only() { request.watch_metadata(&params, version) } else { request.watch(&params, version) };
        let events = match request.map_err(unaskable) {
            Ok(request) => api.watch::<I::Object>(request, PAGE_TIME).await,
            Err(error) => Err(error),
        };
        let mut events = match events {
            Ok(events) => pin!(events),
            Err(error) if error.is_of_version() => return Ended::ListAgain(error),
            Err(error) => return Ended::Broken(error),
        };
        self.recovered();
        loop {
            let Some(next) = within(self.clock.as_ref(), SILENCE, events.next()).await else { return Ended::ListAgain(ApiError::TimedOut(SILENCE)) };
            match next {
                None => return Ended::AsPlanned,
                Some(Ok(WatchEvent::Bookmark(bookmark))) => *version = bookmark.metadata.resource_version,
                Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object))) => {
                    version.clone_from(&I::metadata(&object).resource_version);
                    self.change(|index| index.put(object));
                }
                Some(Ok(WatchEvent::Deleted(object))) => {
                    let metadata = I::metadata(&object);
                    version.clone_from(&metadata.resource_version);
                    self.change(|index| index.remove(&metadata.namespace, &metadata.name));
                }
                Some(Ok(WatchEvent::Error(status))) => return Ended::ListAgain(ApiError::of_status(&status)),
                Some(Err(error @ (ApiError::Unreadable(_) | ApiError::Status { .. }))) => return Ended::ListAgain(error),
                Some(Err(error)) => return Ended::Broken(error),
            }
            self.hear(self.clock.monotonic());
        }
    }

    fn hear(&self, at: Duration) {
        let millis = u64::try_from(at.as_millis()).unwrap_or(u64::MAX - 1);
        self.heard.store(millis + 1, Ordering::Relaxed);
    }

    fn recovered(&self) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.take().is_some() {
            tracing::info!(resource = I::RESOURCE.name(), "the API server is heard again");
        }
    }

    fn failed(&self, error: ApiError) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.as_ref() != Some(&error) {
            tracing::warn!(resource = I::RESOURCE.name(), %error, "nothing is heard from the API server: what was known last goes on");
        }
        *trouble = Some(error);
        self.attempted.send_replace(true);
    }
}

/// Growing pauses, so that a struggling API server is left alone, with a random part, so that replicas come one after the other.
struct Pauses<'a> {
    next: Duration,
    clock: &'a dyn Clock,
    entropy: &'a dyn Entropy,
}

impl Pauses<'_> {
    async fn pause(&mut self) {
        let pause = self.next.mul_f64(1.0 - fraction(self.entropy).unwrap_or(0.0) / 2.0);
        self.next = (self.next * 2).min(PAUSES.1);
        self.clock.sleep_until(self.clock.monotonic().saturating_add(pause)).await;
    }
}

/// Only a bug makes a question that can't be asked.
fn unaskable(error: kube::core::request::Error) -> ApiError {
    ApiError::Access(error.to_string())
}
