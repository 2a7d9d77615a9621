//! The root ConfigMap in every chosen namespace of one cluster, for as long as this replica leads.
//!
//! Whenever a watch or the bundle changes, all namespaces are compared with what they shall have (a few microseconds each thousand), and what differs is
//! written: namespaces that have none first, because pods hang without it; evenly spread; a few at once. One that can't be written waits for its
//! own next try and holds up nobody.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::StreamExt as _;
use futures_util::future::join3;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::attempts::{Attempts, Outcome};
use super::namespaces::Namespaces;
use super::pace::pace;
use super::root_map::{KEY, KnownRootMaps, Need, Wanted};
use super::writes;
use crate::authority::Generation;
use crate::clock::{Clock, Entropy, fraction};
use crate::cluster::{ApiError, ApiServer, Index as _, Resource, Scope, WatchStatus, Watched};

/// Writes under way at once.
const AT_ONCE: usize = 32;
/// Of these, for namespaces whose last write failed: slow failures leave room for the others.
const RETRIES_AT_ONCE: usize = 8;
/// The shortest time between two looks at everything, so that many changes cost one look.
const LOOK_PAUSE: Duration = Duration::from_millis(25);
/// The longest: the bundle may have changed.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How long a bundle of a higher number is left alone: longer than a leader that was frozen goes on leading, or believes an older state. Whoever leads for
/// so long has the newest state there is, so the number was never given: somebody wrote it by hand, it is of another authority, or from before a restore.
const NEWER_FOR: Duration = Duration::from_secs(20);
/// So many writes in a row that found the API server away, and everything waits.
const AWAY_AFTER: u32 = 16;
const AWAY_PAUSE: Duration = Duration::from_secs(5);

/// What is the same in all clusters.
#[derive(Debug, Clone)]
pub struct RootMaps {
    /// The ConfigMap's name.
    pub name: String,
    /// Chooses namespaces by their labels; `None`: all.
    pub namespace_selector: Option<String>,
    /// Whose bundle is written.
    pub generation: Arc<ArcSwap<Generation>>,
    /// This process, by a random id.
    pub writer: String,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance in pauses.
    pub entropy: Arc<dyn Entropy>,
}

/// What metrics and the checkup show of one cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RootMapStatus {
    /// Its name.
    pub cluster: String,
    /// Namespaces that shall have the bundle.
    pub selected: usize,
    /// Those that have it.
    pub current: usize,
    /// Those that have one of a higher number, which is left alone for a while.
    pub left_alone: usize,
    /// Those that don't have it because somebody else writes something else again and again.
    pub fought_over: usize,
    /// One of these or of those that are left alone, and the other authority that its bundle says it is of.
    pub rival: Option<(String, Option<String>)>,
    /// Those whose last write failed.
    pub failing: usize,
    /// Since when not all of them have it, on the monotonic clock; `None` where they do.
    pub behind_since: Option<Duration>,
    /// Writes that went through.
    pub written: u64,
    /// Writes for which somebody else was faster.
    pub conflicts: u64,
    /// Writes that failed.
    pub failures: u64,
    /// The latest of these: where, and why; `None` where nothing fails.
    pub trouble: Option<(String, ApiError)>,
    /// The watches of namespaces and of the ConfigMaps.
    pub watches: Vec<WatchStatus>,
}

/// Keeps one cluster's.
#[derive(Debug)]
pub(super) struct RootConfigMaps {
    parts: RootMaps,
    api: Arc<ApiServer>,
    namespaces: Arc<Watched<Namespaces>>,
    maps: Arc<Watched<KnownRootMaps>>,
    status: Mutex<RootMapStatus>,
}

/// One namespace that is to be written.
#[derive(Debug, PartialEq, Eq)]
struct Due {
    namespace: Box<str>,
    /// The version to change; none: there is no ConfigMap.
    version: Option<Box<str>>,
    /// What the watch shows.
    shown: Box<str>,
    retry: bool,
}

/// The outcome of looking at everything.
#[derive(Debug, Default)]
struct Look {
    selected: usize,
    current: usize,
    left_alone: usize,
    fought_over: usize,
    rival: Option<(String, Option<String>)>,
    failing: usize,
    due: Vec<Due>,
    /// When something is due next that isn't yet.
    next: Option<Duration>,
}

impl RootConfigMaps {
    pub(super) fn new(cluster: String, api: Arc<ApiServer>, parts: RootMaps) -> Arc<Self> {
        let namespaces = Watched::scoped(Scope { labels: parts.namespace_selector.clone(), ..Scope::default() }, parts.clock.clone());
        let maps = Watched::scoped(Scope { name: Some(parts.name.clone()), ..Scope::default() }, parts.clock.clone());
        let status = Mutex::new(RootMapStatus { cluster, behind_since: Some(parts.clock.monotonic()), ..RootMapStatus::default() });
        Arc::new(Self { parts, api, namespaces, maps, status })
    }

    pub(super) fn status(&self) -> RootMapStatus {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        RootMapStatus { watches: vec![self.namespaces.status(), self.maps.status()], ..status }
    }

    /// Works for ever.
    pub(super) async fn run(self: Arc<Self>) {
        let entropy = &self.parts.entropy;
        let forever = std::future::pending::<()>;
        let namespaces = self.namespaces.clone().run(self.api.clone(), entropy.clone(), forever());
        let maps = self.maps.clone().run(self.api.clone(), entropy.clone(), forever());
        join3(namespaces, maps, self.keep_up()).await;
    }

    async fn keep_up(&self) {
        let clock = self.parts.clock.as_ref();
        let (mut namespaces, mut maps) = (self.namespaces.changes(), self.maps.changes());
        let (mut attempts, mut pace, mut under_way) = (Attempts::default(), pace(), FuturesUnordered::new());
        let (mut newer, mut retries, mut away) = (HashMap::new(), 0_usize, 0_u32);
        let mut quiet_until = Duration::ZERO;
        loop {
            namespaces.borrow_and_update();
            maps.borrow_and_update();
            let now = clock.monotonic();
            let mut wake = now + LONGEST_PAUSE;
            // Before both were listed nothing is known to be missing.
            if self.namespaces.age().is_some() && self.maps.age().is_some() {
                let wanted = Wanted::of(&self.parts.generation.load());
                let look = self.look(&wanted, &mut attempts, &mut newer, now);
                self.note(&look, now);
                wake = wake.min(look.next.unwrap_or(wake));
                if quiet_until > now {
                    wake = wake.min(quiet_until);
                } else {
                    for due in look.due {
                        if under_way.len() >= AT_ONCE || (due.retry && retries >= RETRIES_AT_ONCE) {
                            continue;
                        }
                        if let Err(again) = pace.take(now) {
                            wake = wake.min(again);
                            break;
                        }
                        attempts.begin(&due.namespace);
                        retries += usize::from(due.retry);
                        under_way.push(self.write(due, wanted.clone()));
                    }
                }
            }
            let look_again = clock.sleep_until(now + LOOK_PAUSE);
            let ended = wait(clock, wake, &mut under_way, &mut namespaces, &mut maps).await;
            // What ends until the next look is taken in with it.
            let more = async {
                let mut more = Vec::new();
                let mut look_again = std::pin::pin!(look_again);
                loop {
                    tokio::select! {
                        biased;
                        () = &mut look_again => return more,
                        Some(ended) = under_way.next(), if !under_way.is_empty() => more.push(ended),
                    }
                }
            };
            let more = more.await;
            for (due, result) in ended.into_iter().chain(more) {
                retries -= usize::from(due.retry);
                away = if matches!(&result, Err(error) if error.is_of_server()) { away + 1 } else { 0 };
                if away >= AWAY_AFTER {
                    quiet_until = clock.monotonic() + AWAY_PAUSE;
                }
                self.ended(due, result, &mut attempts);
            }
        }
    }

    /// Compares every namespace with what it shall have. `newer`: since when namespaces have a bundle of a higher number.
    fn look(&self, wanted: &Wanted, attempts: &mut Attempts, newer: &mut HashMap<Box<str>, Duration>, now: Duration) -> Look {
        self.namespaces.look(|namespaces| {
            self.maps.look(|maps| {
                newer.retain(|namespace, _| namespaces.contains(namespace) && matches!(maps.need(namespace, wanted), Need::Newer(_)));
                let settled = |namespace: &str| {
                    let waits = || newer.get(namespace).is_none_or(|since| now.saturating_sub(*since) < NEWER_FOR);
                    match namespaces.contains(namespace).then(|| maps.need(namespace, wanted))? {
                        Need::Nothing => Some(true),
                        Need::Newer(_) => Some(waits()),
                        Need::Create | Need::Change(_) => Some(false),
                    }
                };
                attempts.tidy(now, settled);
                let mut look = Look { selected: namespaces.len(), ..Look::default() };
                let (mut missing, mut changed) = (Vec::new(), Vec::new());
                for namespace in namespaces.iter() {
                    let need = maps.need(namespace, wanted);
                    let is_fought_over = !matches!(need, Need::Nothing) && attempts.is_fought_over(namespace);
                    look.fought_over += usize::from(is_fought_over);
                    if is_fought_over || matches!(need, Need::Newer(_)) {
                        look.rival = Some((namespace.to_owned(), maps.other_authority(namespace, wanted).map(str::to_owned)));
                    }
                    let version = match need {
                        Need::Nothing => {
                            look.current += 1;
                            continue;
                        }
                        Need::Newer(version) => {
                            let until = *newer.entry(namespace.into()).or_insert(now) + NEWER_FOR;
                            if until > now {
                                look.left_alone += 1;
                                look.next = Some(look.next.map_or(until, |next| next.min(until)));
                                continue;
                            }
                            Some(version)
                        }
                        Need::Create => None,
                        Need::Change(version) => Some(version),
                    };
                    let retry = attempts.is_failing(namespace);
                    look.failing += usize::from(retry);
                    let shown = maps.shows(namespace);
                    match attempts.may(namespace, &shown, now) {
                        Err(at) => look.next = Some(look.next.map_or(at, |next| next.min(at))),
                        Ok(()) => {
                            let list = if version.is_none() { &mut missing } else { &mut changed };
                            // More than can be begun at once is found again at the next look.
                            if list.len() < AT_ONCE * 2 {
                                list.push(Due { namespace: namespace.into(), version: version.map(Into::into), shown: shown.into(), retry });
                            }
                        }
                    }
                }
                // What failed before comes last in its kind, or it would take the places of what was never tried.
                missing.sort_by_key(|due: &Due| due.retry);
                changed.sort_by_key(|due: &Due| due.retry);
                look.due = missing.into_iter().chain(changed).collect();
                look
            })
        })
    }

    fn note(&self, look: &Look, now: Duration) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        (status.selected, status.current, status.left_alone, status.failing) = (look.selected, look.current, look.left_alone, look.failing);
        (status.fought_over, status.rival) = (look.fought_over, look.rival.clone());
        if look.failing == 0 {
            status.trouble = None;
        }
        if look.current == look.selected {
            if let Some(since) = status.behind_since.take() {
                let took = now.saturating_sub(since);
                tracing::info!(cluster = status.cluster, namespaces = look.selected, ?took, "every namespace has the trust bundle");
            }
        } else if status.behind_since.is_none() {
            status.behind_since = Some(now);
        }
    }

    async fn write(&self, due: Due, wanted: Wanted) -> (Due, Result<(), ApiError>) {
        let path = format!("{}/{}", Resource::ConfigMaps.path(&due.namespace), self.parts.name);
        let contents = contents(&wanted);
        let result = match &due.version {
            None => writes::create(&self.api, &path, &self.parts.writer, &created(contents, &due.namespace, &self.parts.name)).await,
            Some(version) => writes::change(&self.api, &path, &changed(contents, version)).await,
        };
        (due, result)
    }

    fn ended(&self, due: Due, result: Result<(), ApiError>, attempts: &mut Attempts) {
        let outcome = match &result {
            Ok(()) => Outcome::Written,
            // A ConfigMap or a namespace that is gone: the watches are about to say so.
            Err(error) if error.is_conflict() || error.is_not_found() => Outcome::Conflict,
            Err(_) => Outcome::Failed,
        };
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        match (outcome, result) {
            (Outcome::Failed, Err(error)) => {
                // One line for all until none fails any more: a thousand namespaces may fail alike.
                if status.trouble.is_none() {
                    tracing::warn!(cluster = status.cluster, namespace = &*due.namespace, %error, "the trust bundle could not be written here; trying again");
                }
                status.failures += 1;
                status.trouble = Some((due.namespace.to_string(), error));
            }
            (Outcome::Written, _) => {
                tracing::debug!(cluster = status.cluster, namespace = &*due.namespace, "the trust bundle was written");
                status.written += 1;
            }
            (_, _) => status.conflicts += 1,
        }
        drop(status);
        let chance = fraction(self.parts.entropy.as_ref()).unwrap_or(0.0);
        attempts.end(&due.namespace, &due.shown, outcome, self.parts.clock.monotonic(), chance);
    }
}

type Ended = (Due, Result<(), ApiError>);

/// Ends at `wake`, when a watch changes, or when a write ends, which is returned then.
async fn wait(
    clock: &dyn Clock,
    wake: Duration,
    under_way: &mut FuturesUnordered<impl Future<Output = Ended>>,
    namespaces: &mut watch::Receiver<u64>,
    maps: &mut watch::Receiver<u64>,
) -> Option<Ended> {
    tokio::select! {
        Some(ended) = under_way.next(), if !under_way.is_empty() => Some(ended),
        // Errors mean that the watches are gone, which live as long as this.
        Ok(()) = namespaces.changed() => None,
        Ok(()) = maps.changed() => None,
        () = clock.sleep_until(wake) => None,
    }
}

/// What is ours in a ConfigMap.
fn contents(wanted: &Wanted) -> Value {
    let number = wanted.number.to_string();
    json!({
        "metadata": {"labels": {"istio.io/config": "true"}, "annotations": {"meshmint.io/bundle-number": number, "meshmint.io/authority": wanted.authority.as_str()}},
        "data": {KEY: &*wanted.bundle},
    })
}

fn created(contents: Value, namespace: &str, name: &str) -> Value {
    let mut object = contents;
    writes::merge(&mut object, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": namespace, "name": name}}));
    object
}

fn changed(contents: Value, version: &str) -> Value {
    let mut patch = contents;
    // The API has a key only once, in `data` or in `binaryData`.
    writes::merge(&mut patch, json!({"metadata": {"resourceVersion": version}, "binaryData": {KEY: null}}));
    patch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_ours_is_named() {
        let contents = json!({"metadata": {"labels": {"a": "b"}}, "data": {KEY: "bundle"}});
        assert_eq!(
            created(contents.clone(), "shop", "roots"),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"labels": {"a": "b"}, "namespace": "shop", "name": "roots"}, "data": {KEY: "bundle"}})
        );
        assert_eq!(
            changed(contents, "7"),
            json!({"metadata": {"labels": {"a": "b"}, "resourceVersion": "7"}, "data": {KEY: "bundle"}, "binaryData": {KEY: null}})
        );
    }
}
