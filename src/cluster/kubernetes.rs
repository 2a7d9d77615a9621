//! One Kubernetes cluster: what lives in it and where, by its watches, with a live look for what they haven't seen.
//!
//! [`super::Clusters`] asks [`Liveness`] for each token, and [`NodeFacts`] for each impersonation. On the usual path both are lookups in memory. The verdict
//! is TokenReview's: name *and* UID must fit, and a deleted object counts for 60 s after its deletionTimestamp. What a watch hasn't seen, or has
//! under another UID, is looked at live; so is everything while the watches are older than [`KubernetesParts::max_staleness`]. Where the API
//! server then doesn't answer, nobody can tell, which is our trouble and not the caller's.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future;
use kube::core::Request;
use kube::core::params::{GetParams, ListParams};

use super::api_server::{ApiError, ApiServer};
use super::index::{Existing, Index, KnownPod, Nodes, Pods, Resource, ServiceAccounts};
use super::liveness::{Bound, Life, Liveness, WhyGone};
use super::lookups::{LookupCounts, LookupLimits, Lookups};
use super::objects::{Named, Page, Pod};
use super::watched::{WatchStatus, Watched};
use crate::callers::{Caller, NodeFacts, ObjectRef, PodFact};
use crate::clock::{Clock, Entropy, within};

/// A cluster that is watched.
#[derive(Debug)]
pub struct Kubernetes {
    parts: KubernetesParts,
    pods: Arc<Watched<Pods>>,
    service_accounts: Arc<Watched<ServiceAccounts>>,
    nodes: Arc<Watched<Nodes>>,
    objects: Lookups<ObjectKey, Found>,
    placements: Lookups<PlacementKey, bool>,
}

/// What a [`Kubernetes`] is made of.
#[derive(Debug, Clone)]
pub struct KubernetesParts {
    /// The name that tokens and records have for it.
    pub cluster: String,
    /// Its API server.
    pub api: Arc<ApiServer>,
    /// How long the watches are believed after the API server was heard last.
    pub max_staleness: Duration,
    /// How much it is asked live.
    pub lookups: LookupLimits,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance in pauses.
    pub entropy: Arc<dyn Entropy>,
}

/// What metrics and the checkup show of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterStatus {
    /// Its name.
    pub cluster: String,
    /// Each watch.
    pub watches: Vec<WatchStatus>,
    /// How long the watches are believed.
    pub max_staleness: Duration,
    /// Live looks for objects by name.
    pub objects: LookupCounts,
    /// Live looks for pods of an account on a node.
    pub placements: LookupCounts,
}

/// An object that is looked for live. The UID is a part of it: a name may come again at any moment, a UID never does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ObjectKey {
    resource: Resource,
    namespace: String,
    name: String,
    /// None: any will do.
    uid: Option<String>,
}

/// An account on a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PlacementKey {
    node: String,
    namespace: String,
    service_account: String,
}

/// What a live look found.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    /// No object of that name and UID.
    Nothing,
    Object(Existing),
    Pod(KnownPod),
}

/// A pod may come to a node at any moment, and its proxy asks for it again soon.
const PLACEMENT_KEPT: Duration = Duration::from_secs(2);

/// More bytes than any object has.
const MAX_OBJECT_BYTES: usize = 4 << 20;

impl Kubernetes {
    /// Nothing is asked yet: [`Kubernetes::run`] begins.
    pub fn new(parts: KubernetesParts) -> Arc<Self> {
        let clock = || parts.clock.clone();
        Arc::new(Self {
            pods: Watched::new(clock()),
            service_accounts: Watched::new(clock()),
            nodes: Watched::new(clock()),
            objects: Lookups::new(clock(), parts.lookups),
            placements: Lookups::new(clock(), LookupLimits { kept: parts.lookups.kept.min(PLACEMENT_KEPT), ..parts.lookups }),
            parts,
        })
    }

    /// Watches until `shutdown` ends.
    pub async fn run(self: Arc<Self>, shutdown: impl Future<Output = ()>) {
        let KubernetesParts { api, entropy, .. } = &self.parts;
        let forever = future::pending::<()>;
        let watches = future::join3(
            self.pods.clone().run(api.clone(), entropy.clone(), forever()),
            self.service_accounts.clone().run(api.clone(), entropy.clone(), forever()),
            self.nodes.clone().run(api.clone(), entropy.clone(), forever()),
        );
        future::select(std::pin::pin!(watches), std::pin::pin!(shutdown)).await;
    }

    /// Waits until everything was listed once or could not be, for at most `limit`; says whether everything was listed.
    pub async fn first_lists(&self, limit: Duration) -> bool {
        let all = future::join3(self.pods.attempted(), self.service_accounts.attempted(), self.nodes.attempted());
        within(self.parts.clock.as_ref(), limit, all).await;
        [self.pods.age(), self.service_accounts.age(), self.nodes.age()].iter().all(Option::is_some)
    }

    /// How well it is known.
    pub fn status(&self) -> ClusterStatus {
        ClusterStatus {
            cluster: self.parts.cluster.clone(),
            watches: vec![self.pods.status(), self.service_accounts.status(), self.nodes.status()],
            max_staleness: self.parts.max_staleness,
            objects: self.objects.counts(),
            placements: self.placements.counts(),
        }
    }

    fn believes(&self, age: Option<Duration>) -> bool {
        age.is_some_and(|age| age <= self.parts.max_staleness)
    }

    /// Whether an object counts: by the watch where that knows it under this UID, else by a live look; `None` where nobody can tell.
    async fn counts<I: Index>(
        &self,
        watched: &Watched<I>,
        find: impl for<'a> FnOnce(&'a I) -> Option<&'a Existing>,
        (namespace, name, uid): (&str, &str, Option<&str>),
    ) -> Option<bool> {
        let now = self.parts.clock.now();
        if self.believes(watched.age()) {
            let known = |index: &I| find(index).filter(|existing| uid.is_none_or(|uid| *existing.uid == *uid)).map(|existing| existing.counts(now));
            if let Some(counts) = watched.look(known) {
                return Some(counts);
            }
        }
        match self.find(ObjectKey::new(I::RESOURCE, namespace, name, uid)).await? {
            Found::Nothing => Some(false),
            Found::Object(existing) | Found::Pod(KnownPod { existing, .. }) => Some(existing.counts(now)),
        }
    }

    /// The object of this name and UID as it is now.
    async fn find(&self, key: ObjectKey) -> Option<Found> {
        let (api, wanted) = (self.parts.api.clone(), key.clone());
        self.objects.find(key, |limit| async move { look_for(&api, &wanted, limit).await }).await
    }

    async fn account_counts(&self, namespace: &str, name: &str, uid: Option<&str>) -> Option<bool> {
        self.counts(&self.service_accounts, |accounts| accounts.0.find(namespace, name), (namespace, name, uid)).await
    }

    async fn pod_counts(&self, namespace: &str, pod: &ObjectRef) -> Option<bool> {
        self.counts(&self.pods, |pods| pods.find(namespace, &pod.name).map(|pod| &pod.existing), (namespace, &pod.name, Some(&pod.uid))).await
    }

    async fn node_counts(&self, node: &ObjectRef) -> Option<bool> {
        self.counts(&self.nodes, |nodes| nodes.0.find("", &node.name), ("", &node.name, Some(&node.uid))).await
    }
}

#[async_trait]
impl Liveness for Kubernetes {
    async fn check(&self, bound: &Bound<'_>) -> Life {
        match self.account_counts(bound.namespace, bound.service_account, bound.service_account_uid).await {
            Some(true) => {}
            Some(false) => return Life::Gone(WhyGone::ServiceAccount),
            None => return Life::Unknown,
        }
        // The node of a pod is no more than where it was when the token was made: TokenReview looks at it only where there is no pod.
        let (counts, why) = match (bound.pod, bound.node) {
            (Some(pod), _) => (self.pod_counts(bound.namespace, pod).await, WhyGone::Pod),
            (None, Some(node)) => (self.node_counts(node).await, WhyGone::Node),
            (None, None) => return Life::Alive,
        };
        match counts {
            Some(true) => Life::Alive,
            Some(false) => Life::Gone(why),
            None => Life::Unknown,
        }
    }
}

impl NodeFacts for Kubernetes {
    fn pod(&self, namespace: &str, pod: &ObjectRef) -> Option<PodFact> {
        let known = |pods: &Pods| pods.find(namespace, &pod.name).filter(|known| *known.existing.uid == *pod.uid).cloned();
        let watched = if self.believes(self.pods.age()) { self.pods.look(known) } else { None };
        let fact = match watched {
            // A pod that is on a node stays there.
            Some(pod) if pod.node.is_some() => pod,
            watched => match self.objects.known(&ObjectKey::new(Resource::Pods, namespace, &pod.name, Some(&pod.uid))) {
                Some(Found::Pod(pod)) => pod,
                _ => watched?,
            },
        };
        let node = fact.node.map(String::from);
        Some(PodFact { uid: fact.existing.uid.into(), service_account: fact.service_account.into(), node })
    }

    fn runs_on(&self, node: &str, namespace: &str, service_account: &str) -> bool {
        if self.believes(self.pods.age()) && self.pods.look(|pods| pods.runs_on(node, namespace, service_account)) {
            return true;
        }
        self.placements.known(&PlacementKey::new(node, namespace, service_account)) == Some(true)
    }
}

impl Kubernetes {
    /// Asks the API server where the caller's pod is, and whether a pod of this account is on its node; afterwards [`NodeFacts`] tells what was found.
    /// False says that nobody can tell at the moment.
    pub(super) async fn look(&self, caller: &Caller, namespace: &str, service_account: &str) -> bool {
        let Some(pod) = &caller.pod else { return true };
        let node = match self.pod(&caller.namespace, pod).and_then(|fact| fact.node) {
            Some(node) => node,
            None => match self.find(ObjectKey::new(Resource::Pods, &caller.namespace, &pod.name, Some(&pod.uid))).await {
                None => return false,
                Some(Found::Pod(KnownPod { node: Some(node), .. })) => node.into(),
                // On no node, or gone: so is everything that it could speak for.
                Some(_) => return true,
            },
        };
        if self.runs_on(&node, namespace, service_account) {
            return true;
        }
        let key = PlacementKey::new(&node, namespace, service_account);
        let (api, wanted) = (self.parts.api.clone(), key.clone());
        self.placements.find(key, |limit| async move { is_placed(&api, &wanted, limit).await }).await.is_some()
    }
}

impl ObjectKey {
    fn new(resource: Resource, namespace: &str, name: &str, uid: Option<&str>) -> Self {
        Self { resource, namespace: namespace.to_owned(), name: name.to_owned(), uid: uid.map(str::to_owned) }
    }
}

impl PlacementKey {
    fn new(node: &str, namespace: &str, service_account: &str) -> Self {
        Self { node: node.to_owned(), namespace: namespace.to_owned(), service_account: service_account.to_owned() }
    }
}

/// GET, without a version: what is true now, not what a cache of the API server has.
async fn look_for(api: &ApiServer, wanted: &ObjectKey, limit: Duration) -> Result<Found, ApiError> {
    let request = Request::new(wanted.resource.path(&wanted.namespace));
    let get = GetParams::default();
    let found = if wanted.resource.metadata_only() {
        let request = request.get_metadata(&wanted.name, &get).map_err(|error| ApiError::Access(error.to_string()))?;
        api.read::<Named>(request, MAX_OBJECT_BYTES, limit).await.map(|named| Found::Object(Existing::of(&named.metadata)))
    } else {
        let request = request.get(&wanted.name, &get).map_err(|error| ApiError::Access(error.to_string()))?;
        api.read::<Pod>(request, MAX_OBJECT_BYTES, limit).await.map(|pod| Found::Pod(KnownPod::of(&pod)))
    };
    match found {
        Ok(Found::Object(existing) | Found::Pod(KnownPod { existing, .. })) if wanted.uid.as_deref().is_some_and(|uid| *existing.uid != *uid) => {
            Ok(Found::Nothing)
        }
        Err(error) if error.is_not_found() => Ok(Found::Nothing),
        found => found,
    }
}

/// LIST of the pods that count, one at most, chosen by the API server.
async fn is_placed(api: &ApiServer, wanted: &PlacementKey, limit: Duration) -> Result<bool, ApiError> {
    let PlacementKey { node, namespace, service_account } = wanted;
    let chosen = format!("spec.nodeName={node},spec.serviceAccountName={service_account},status.phase!=Succeeded,status.phase!=Failed");
    let request = Request::new(Resource::Pods.path(namespace)).list(&ListParams::default().fields(&chosen).limit(1));
    let request = request.map_err(|error| ApiError::Access(error.to_string()))?;
    let page: Page<Pod> = api.read(request, MAX_OBJECT_BYTES, limit).await?;
    // The API server has chosen; a proxy that drops what it doesn't know would make an identity out of any pod.
    let mut pods = Pods::default();
    page.items.into_iter().flatten().for_each(|pod| pods.put(pod));
    Ok(pods.runs_on(node, namespace, service_account))
}
