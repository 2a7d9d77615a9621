//! Other clusters, by the Secrets that name them: what istiod calls remote secrets (label `istio/multiCluster=true`, one kubeconfig for each key,
//! which is the cluster's name). They are added, changed and removed while we run.
//!
//! A kubeconfig here comes from whoever may write Secrets in that namespace, so it may hold credentials and nothing that reads files or starts
//! programs. A cluster counts once its issuer and keys were read (where no callers are served: once it said its issuer); one whose Secret changes goes on
//! as it was until then. Its lists are waited for, not demanded: what isn't listed is looked at live.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug};
use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::api_server::{Access, ApiError, ApiServer};
use super::clusters::{Clusters, Member, Review};
use super::credentials::Validity;
use super::fetch::{KeySource, issuer_of};
use super::index::{Index, Resource};
use super::key_sets::{IssuerStatus, KeySets, Timing, TrackedIssuer};
use super::kubernetes::{ClusterStatus, Kubernetes, KubernetesParts};
use super::lookups::LookupLimits;
use super::objects::Metadata;
use super::token_review::Reviewer;
use super::watched::{Scope, WatchStatus, Watched};
use crate::callers::TokenRules;
use crate::clock::{Clock, Entropy, within};

/// The label of a Secret that names clusters.
const LABEL: &str = "istio/multiCluster=true";
/// Pause before a cluster that could not be joined is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How often a joined cluster is asked whether its tokens still have the same issuer.
const ISSUER_LOOKS: Duration = Duration::from_secs(300);
/// How long joining one may take before it counts without its lists; then what isn't listed is looked at live.
const FIRST_LISTS: Duration = Duration::from_secs(10);

/// What a [`Remotes`] is made of.
#[derive(Debug, Clone)]
pub struct RemoteParts {
    /// Where the Secrets are.
    pub api: Arc<ApiServer>,
    /// Their namespace.
    pub namespace: String,
    /// Names of our own cluster, which no Secret may take.
    pub own_names: BTreeSet<String>,
    /// Whether callers are served: then a cluster's keys are read and who lives in it is watched. Else its API server is for writing alone.
    pub serves_callers: bool,
    /// The rules for tokens, as our own cluster has them.
    pub rules: TokenRules,
    /// When keys are fetched.
    pub timing: Timing,
    /// Audiences that a reviewed token must be meant for.
    pub audiences: BTreeSet<String>,
    /// As for our own cluster.
    pub max_staleness: Duration,
    /// As for our own cluster.
    pub lookups: LookupLimits,
    /// Reviews of tokens whose key nobody published.
    pub reviews: LookupLimits,
    /// Each token is reviewed.
    pub always_review: bool,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance in pauses.
    pub entropy: Arc<dyn Entropy>,
}

/// Keeps the other clusters of a [`Clusters`] as the Secrets have them.
#[derive(Debug)]
pub struct Remotes {
    parts: RemoteParts,
    secrets: Arc<Watched<Kubeconfigs>>,
    clusters: Arc<Clusters>,
    joined: Mutex<BTreeMap<String, Joined>>,
    /// Whether everything that the first list named was tried.
    tried: watch::Sender<bool>,
    /// The API servers of those that are joined.
    reachable: watch::Sender<BTreeMap<String, Arc<ApiServer>>>,
}

/// What is there of one other cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteStatus {
    /// Its name.
    pub cluster: String,
    /// Whether it is reached, and its tokens count where callers are served.
    pub joined: bool,
    /// Why the latest attempt to join it failed.
    pub trouble: Option<ApiError>,
    /// How well it is known, where it is joined.
    pub known: Option<ClusterStatus>,
    /// The keys of its tokens, where it is joined and callers are served.
    pub keys: Vec<IssuerStatus>,
    /// How long our credentials for it are good, where it is joined and they say so.
    pub credentials: Option<Validity>,
}

/// One cluster that a Secret names.
#[derive(Debug, Default)]
struct Joined {
    /// Of the kubeconfig that was tried last, so that no change is missed and nothing secret is kept.
    digest: Option<[u8; 32]>,
    /// Its API server, once it counts.
    api: Option<Arc<ApiServer>>,
    /// What its callers are checked against, where callers are served.
    member: Option<Arc<Member>>,
    /// What keeps it up to date, for as long as it counts.
    work: JoinSet<()>,
    trouble: Option<ApiError>,
    /// Who signs its tokens, and who did before: for as long as those live, and nobody can tell how long that is, they count too.
    issuers: Vec<String>,
    /// Another one signs its tokens now, so it must be joined anew; what is there goes on until then.
    moved: bool,
}

impl Remotes {
    /// Nothing is asked yet: [`Remotes::run`] begins.
    pub fn new(parts: RemoteParts, clusters: Arc<Clusters>) -> Arc<Self> {
        let scope = Scope { namespace: parts.namespace.clone(), labels: Some(LABEL.to_owned()), name: None };
        let secrets = Watched::scoped(scope, parts.clock.clone());
        Arc::new(Self { secrets, clusters, joined: Mutex::default(), tried: watch::Sender::new(false), reachable: watch::Sender::default(), parts })
    }

    /// The other clusters, by name.
    pub fn status(&self) -> Vec<RemoteStatus> {
        let joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        let status = |(cluster, joined): (&String, &Joined)| RemoteStatus {
            cluster: cluster.clone(),
            joined: joined.api.is_some(),
            trouble: joined.trouble.clone(),
            known: joined.member.as_ref().and_then(|member| Some(member.kubernetes.as_ref()?.status())),
            keys: joined.member.as_ref().map(|member| member.key_sets.status()).unwrap_or_default(),
            credentials: joined.api.as_ref().and_then(|api| api.credentials()),
        };
        joined.iter().map(status).collect()
    }

    /// The API servers of the clusters that are joined, by name; with other credentials it is another one.
    pub fn reachable(&self) -> watch::Receiver<BTreeMap<String, Arc<ApiServer>>> {
        self.reachable.subscribe()
    }

    /// The watch of the Secrets.
    pub fn watch(&self) -> WatchStatus {
        self.secrets.status()
    }

    /// Waits until everything that the Secrets name was joined or could not be, for at most `limit`; says whether it was so. Secrets that can't be
    /// listed are not waited for.
    pub async fn first_attempts(&self, limit: Duration) -> bool {
        let mut tried = self.tried.subscribe();
        let all = async {
            self.secrets.attempted().await;
            // An error means that the sender is gone, and it lives in here.
            self.secrets.age().is_some() && tried.wait_for(|tried| *tried).await.is_ok()
        };
        within(self.parts.clock.as_ref(), limit, all).await.unwrap_or(false)
    }

    /// Follows the Secrets until `shutdown` ends, or until what keeps some cluster up to date has ended, which only a bug does. What was known then
    /// goes on, for requests that are still under way.
    pub async fn run(self: Arc<Self>, shutdown: impl Future<Output = ()>) {
        let RemoteParts { api, entropy, .. } = &self.parts;
        let watching = self.secrets.clone().run(api.clone(), entropy.clone(), std::future::pending());
        tokio::select! {
            () = watching => {}
            () = self.follow() => {}
            () = shutdown => {}
        }
    }

    /// Ends where what keeps some cluster up to date has ended.
    async fn follow(&self) {
        let mut changes = self.secrets.changes();
        let mut looked_at = self.parts.clock.monotonic();
        loop {
            let clock = &self.parts.clock;
            if clock.monotonic().saturating_sub(looked_at) >= ISSUER_LOOKS {
                looked_at = clock.monotonic();
                self.look_at_issuers().await;
            }
            // Before the first list no name is known, and none is known not to be there.
            let listed = *changes.borrow_and_update() > 0;
            let waiting = listed && self.keep_up().await;
            if listed {
                self.tried.send_replace(true);
            }
            let next_look = looked_at.saturating_add(ISSUER_LOOKS);
            let next = if waiting { next_look.min(clock.monotonic().saturating_add(RETRY)) } else { next_look };
            tokio::select! {
                // An error means that the watch is gone, which lives as long as this.
                _ = changes.changed() => {}
                () = clock.sleep_until(next) => {}
                () = poll_fn(|context| self.poll_ended(context)) => return,
            }
        }
    }

    fn poll_ended(&self, context: &mut Context<'_>) -> Poll<()> {
        one_ended(&mut self.joined.lock().unwrap_or_else(PoisonError::into_inner), context)
    }

    /// Asks each joined cluster who signs its tokens: a new name would make every token of it a stranger's. One that doesn't answer stays as it is.
    async fn look_at_issuers(&self) {
        let known: Vec<_> = {
            let joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
            joined.iter().filter_map(|(name, joined)| Some((name.clone(), joined.issuers.first()?.clone(), joined.api.clone()?))).collect()
        };
        let looks = known.into_iter().map(|(name, known, api)| async move {
            let issuer = issuer_of(&api, self.parts.lookups.time).await.ok()?;
            (issuer != known).then_some((name, issuer))
        });
        for (name, issuer) in futures_util::future::join_all(looks).await.into_iter().flatten() {
            tracing::warn!(cluster = name, issuer, "another issuer signs the tokens of this cluster now: it is joined anew");
            let mut joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(joined) = joined.get_mut(&name) {
                joined.moved = true;
            }
        }
    }

    /// Joins what is new or changed and leaves what is gone; says whether something could not be joined.
    async fn keep_up(&self) -> bool {
        let wanted = self.secrets.look(Kubeconfigs::wanted);
        self.change(|joined| {
            joined.retain(|name, _| wanted.contains_key(name));
            for name in wanted.keys() {
                joined.entry(name.clone()).or_default();
            }
        });
        let due: Vec<_> = {
            let joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
            let is_due = |name: &str, kubeconfig: &Kubeconfig| {
                joined.get(name).is_none_or(|known| known.digest != Some(kubeconfig.digest()) || known.trouble.is_some() || known.moved)
            };
            wanted.into_iter().filter(|(name, kubeconfig)| is_due(name, kubeconfig)).collect()
        };
        let attempts = due.into_iter().map(|(name, kubeconfig)| async move {
            let digest = Some(kubeconfig.digest());
            let former = self.joined.lock().unwrap_or_else(PoisonError::into_inner).get(&name).and_then(|joined| joined.issuers.first().cloned());
            let outcome = self.join(&name, kubeconfig, former).await;
            (name, digest, outcome)
        });
        let mut attempts: FuturesUnordered<_> = attempts.collect();
        let mut waiting = false;
        while let Some((name, digest, outcome)) = attempts.next().await {
            waiting |= outcome.is_err();
            self.change(|joined| {
                let old = joined.remove(&name);
                let now = match outcome {
                    Ok(joined) => {
                        tracing::info!(cluster = name, "another cluster was joined");
                        Joined { digest, ..joined }
                    }
                    Err(error) => {
                        if old.as_ref().and_then(|old| old.trouble.as_ref()) != Some(&error) {
                            tracing::warn!(cluster = name, %error, "another cluster could not be joined");
                        }
                        // One that changed goes on as it was: its old credentials may still be good.
                        let old = old.unwrap_or_default();
                        Joined { digest, trouble: Some(error), ..old }
                    }
                };
                joined.insert(name, now);
            });
        }
        waiting
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Joined>)) {
        let mut joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut joined);
        let named = joined.iter().map(|(name, joined)| (name.clone(), joined.member.clone()));
        self.clusters.set_others(named.collect());
        let api = |(name, joined): (&String, &Joined)| Some((name.clone(), joined.api.clone()?));
        self.reachable.send_replace(joined.iter().filter_map(api).collect());
    }

    async fn join(&self, cluster: &str, kubeconfig: Kubeconfig, former: Option<String>) -> Result<Joined, ApiError> {
        if self.parts.own_names.contains(cluster) {
            return Err(ApiError::Access("this is a name of our own cluster, which no Secret may take".to_owned()));
        }
        let RemoteParts { rules, timing, audiences, max_staleness, lookups, reviews, clock, entropy, .. } = &self.parts;
        let text = String::from_utf8(kubeconfig.0).map_err(|_| ApiError::Access("the kubeconfig is no text".to_owned()))?;
        let api = ApiServer::connect(&Access::Contents(text), clock.clone()).await?;
        let issuer = issuer_of(&api, lookups.time).await?;
        let former = former.filter(|former| *former != issuer);
        let issuers: Vec<_> = [issuer].into_iter().chain(former).collect();
        if !self.parts.serves_callers {
            return Ok(Joined { api: Some(api), issuers, ..Joined::default() });
        }
        let tracked = |issuer: &String| TrackedIssuer { issuer: issuer.clone(), source: KeySource::ApiServer, timing: *timing };
        let key_sets = KeySets::new(clock.clone(), Some(api.clone()), issuers.iter().map(tracked));
        key_sets.refresh().await;
        let unread = key_sets.status().into_iter().find(|keys| keys.last_success.is_none());
        if let Some(error) = unread.and_then(|keys| keys.last_error) {
            return Err(ApiError::NoAnswer(error.to_string()));
        }
        let kubernetes = Kubernetes::new(KubernetesParts {
            cluster: cluster.to_owned(),
            api: api.clone(),
            max_staleness: *max_staleness,
            lookups: *lookups,
            clock: clock.clone(),
            entropy: entropy.clone(),
        });
        let reviewer = Arc::new(Reviewer::new(api.clone(), audiences.clone(), *reviews, clock.clone()));
        let review = if self.parts.always_review { Review::Always(reviewer) } else { Review::UnknownKeys(reviewer) };
        let forever = std::future::pending::<()>;
        let mut work = JoinSet::new();
        work.spawn(kubernetes.clone().run(forever()));
        work.spawn(key_sets.clone().run(forever()));
        kubernetes.first_lists(FIRST_LISTS).await;
        let member = Member { key_sets, rules: rules.for_cluster(&issuers, cluster), review, kubernetes: Some(kubernetes) };
        Ok(Joined { api: Some(api), member: Some(Arc::new(member)), work, issuers, ..Joined::default() })
    }
}

/// Ready where what keeps one of them up to date has ended.
fn one_ended(joined: &mut BTreeMap<String, Joined>, context: &mut Context<'_>) -> Poll<()> {
    let ended = joined.values_mut().any(|joined| matches!(joined.work.poll_join_next(context), Poll::Ready(Some(_))));
    if ended { Poll::Ready(()) } else { Poll::Pending }
}

/// The contents of a kubeconfig. It never shows itself.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Kubeconfig(Vec<u8>);

impl Kubeconfig {
    fn digest(&self) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(digest(&SHA256, &self.0).as_ref());
        out
    }
}

impl Debug for Kubeconfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Kubeconfig({} bytes)", self.0.len())
    }
}

/// A Secret with kubeconfigs.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct KubeconfigSecret {
    metadata: Metadata,
    #[serde(default)]
    data: BTreeMap<String, Encoded>,
}

/// Base64, as the API has it. It never shows itself.
#[derive(Clone, Deserialize)]
pub(super) struct Encoded(String);

impl Debug for Encoded {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Encoded({} bytes)", self.0.len())
    }
}

/// The Secrets that name clusters.
#[derive(Debug, Default)]
pub(super) struct Kubeconfigs {
    /// By the Secret's name.
    secrets: BTreeMap<String, BTreeMap<String, Kubeconfig>>,
}

impl Kubeconfigs {
    /// Every cluster with its kubeconfig. Of two Secrets that name the same one the first by name counts.
    fn wanted(&self) -> BTreeMap<String, Kubeconfig> {
        let all = self.secrets.values().rev().flatten();
        all.map(|(cluster, kubeconfig)| (cluster.clone(), kubeconfig.clone())).collect()
    }
}

impl Index for Kubeconfigs {
    type Object = KubeconfigSecret;
    const RESOURCE: Resource = Resource::Secrets;

    fn metadata(object: &KubeconfigSecret) -> &Metadata {
        &object.metadata
    }

    fn put(&mut self, secret: KubeconfigSecret) {
        let decode = |(cluster, encoded): (String, Encoded)| Some((cluster, Kubeconfig(STANDARD.decode(encoded.0).ok()?)));
        self.secrets.insert(secret.metadata.name, secret.data.into_iter().filter_map(decode).collect());
    }

    fn remove(&mut self, _namespace: &str, name: &str) {
        self.secrets.remove(name);
    }

    fn len(&self) -> usize {
        self.secrets.len()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn secret(name: &str, clusters: &[(&str, &str)]) -> KubeconfigSecret {
        let data: BTreeMap<_, _> = clusters.iter().map(|(cluster, text)| (*cluster, STANDARD.encode(text))).collect();
        let metadata = serde_json::json!({"name": name, "namespace": "n", "uid": "u", "resourceVersion": "1"});
        serde_json::from_value(serde_json::json!({"metadata": metadata, "data": data})).unwrap()
    }

    #[test]
    fn the_first_secret_that_names_a_cluster_counts() {
        let mut index = Kubeconfigs::default();
        index.put(secret("b", &[("west", "of b"), ("south", "of b")]));
        index.put(secret("a", &[("west", "of a")]));
        let wanted = |index: &Kubeconfigs| -> Vec<_> {
            index.wanted().into_iter().map(|(cluster, kubeconfig)| (cluster, String::from_utf8(kubeconfig.0).unwrap())).collect()
        };
        let pair = |cluster: &str, text: &str| (cluster.to_owned(), text.to_owned());
        assert_eq!(wanted(&index), [pair("south", "of b"), pair("west", "of a")]);
        index.remove("n", "a");
        assert_eq!(wanted(&index), [pair("south", "of b"), pair("west", "of b")]);
        index.put(secret("b", &[]));
        assert_eq!((wanted(&index), index.len()), (vec![], 1));
    }

    #[tokio::test]
    async fn work_that_ends_in_one_of_them_is_noticed() {
        let mut joined = BTreeMap::from(["not joined", "east", "west"].map(|cluster| (cluster.to_owned(), Joined::default())));
        joined.get_mut("east").unwrap().work.spawn(std::future::pending());
        let west = joined.get_mut("west").unwrap().work.spawn(std::future::pending());
        assert!(poll_fn(|context| one_ended(&mut joined, context)).now_or_never().is_none());
        west.abort();
        poll_fn(|context| one_ended(&mut joined, context)).await;
    }

    #[test]
    fn nothing_secret_shows_itself() {
        let shown = format!("{:?}", secret("a", &[("west", "hunter2")]));
        assert!(!shown.contains(&STANDARD.encode("hunter2")) && shown.contains("bytes"), "{shown}");
        let mut index = Kubeconfigs::default();
        index.put(secret("a", &[("west", "hunter2")]));
        assert!(!format!("{index:?}").contains("hunter2"));
    }
}
