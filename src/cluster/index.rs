//! What the watches know, indexed for the questions that are asked: does the object of this name and UID live, and which accounts have a pod
//! on this node. Plain maps in memory; `watched` puts a lock around each and keeps them up to date.

use std::collections::HashMap;
use std::fmt::Debug;
use std::time::Duration;

use serde::de::DeserializeOwned;
use time::OffsetDateTime;

use super::objects::{Metadata, Named, Pod};

/// A deleted object counts for this long after its deletionTimestamp, as TokenReview has it.
pub(super) const DELETION_LEEWAY: Duration = Duration::from_secs(60);

/// A kind of object that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resource {
    /// Pods of all namespaces.
    Pods,
    /// Service accounts of all namespaces.
    ServiceAccounts,
    /// Nodes.
    Nodes,
    /// Secrets of one namespace: those that name other clusters, or one of a name.
    Secrets,
    /// Namespaces.
    Namespaces,
    /// ConfigMaps of one name in all namespaces.
    ConfigMaps,
    /// What the API server asks before it admits an object, and whom: those that may change it.
    MutatingWebhooks,
    /// The same: those that may refuse it.
    ValidatingWebhooks,
}

impl Resource {
    /// Those that are watched in each cluster.
    pub const ALL: [Self; 3] = [Self::Pods, Self::ServiceAccounts, Self::Nodes];

    /// As it is called in paths, rules of access and labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::ServiceAccounts => "serviceaccounts",
            Self::Nodes => "nodes",
            Self::Secrets => "secrets",
            Self::Namespaces => "namespaces",
            Self::ConfigMaps => "configmaps",
            Self::MutatingWebhooks => "mutatingwebhookconfigurations",
            Self::ValidatingWebhooks => "validatingwebhookconfigurations",
        }
    }

    /// The path of those in one namespace, or of all where that is empty.
    pub(crate) fn path(self, namespace: &str) -> String {
        let name = self.name();
        let group = match self {
            Self::MutatingWebhooks | Self::ValidatingWebhooks => "/apis/admissionregistration.k8s.io/v1",
            _ => "/api/v1",
        };
        if namespace.is_empty() { format!("{group}/{name}") } else { format!("{group}/namespaces/{namespace}/{name}") }
    }

    /// Whether the API server is to send metadata only.
    pub(super) fn metadata_only(self) -> bool {
        matches!(self, Self::ServiceAccounts | Self::Nodes | Self::Namespaces)
    }
}

/// What is kept of one kind of object.
pub(crate) trait Index: Default + Debug + Send + Sync + 'static {
    /// The object as it comes.
    type Object: DeserializeOwned + Clone + Send + 'static;
    /// What it is.
    const RESOURCE: Resource;

    fn metadata(object: &Self::Object) -> &Metadata;
    /// Takes an object in, in the place of an older state of it.
    fn put(&mut self, object: Self::Object);
    /// Forgets the object of this name, whichever UID it has.
    fn remove(&mut self, namespace: &str, name: &str);
    fn len(&self) -> usize;
}

/// What is known of an object by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Existing {
    pub(super) uid: Box<str>,
    pub(super) deleted_at: Option<OffsetDateTime>,
}

impl Existing {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self { uid: metadata.uid.as_str().into(), deleted_at: metadata.deletion_timestamp }
    }

    /// Whether it still counts: not deleted, or only a moment ago.
    pub(super) fn counts(&self, now: OffsetDateTime) -> bool {
        self.deleted_at.is_none_or(|deleted_at| deleted_at >= now - DELETION_LEEWAY)
    }
}

/// Objects by namespace and name.
type ByName<T> = HashMap<Box<str>, HashMap<Box<str>, T>>;

fn find<'a, T>(all: &'a ByName<T>, namespace: &str, name: &str) -> Option<&'a T> {
    all.get(namespace)?.get(name)
}

fn take<T>(all: &mut ByName<T>, namespace: &str, name: &str) -> Option<T> {
    let inside = all.get_mut(namespace)?;
    let taken = inside.remove(name);
    if inside.is_empty() {
        all.remove(namespace);
    }
    taken
}

fn set<T>(all: &mut ByName<T>, metadata: &Metadata, value: T) {
    all.entry(metadata.namespace.as_str().into()).or_default().insert(metadata.name.as_str().into(), value);
}

/// Objects of which only existence matters.
#[derive(Debug, Default)]
pub(super) struct Names {
    all: ByName<Existing>,
    count: usize,
}

impl Names {
    pub(super) fn find(&self, namespace: &str, name: &str) -> Option<&Existing> {
        find(&self.all, namespace, name)
    }

    fn put(&mut self, metadata: &Metadata) {
        self.remove(&metadata.namespace, &metadata.name);
        set(&mut self.all, metadata, Existing::of(metadata));
        self.count += 1;
    }

    fn remove(&mut self, namespace: &str, name: &str) {
        if take(&mut self.all, namespace, name).is_some() {
            self.count -= 1;
        }
    }
}

/// Service accounts.
#[derive(Debug, Default)]
pub(super) struct ServiceAccounts(pub(super) Names);
/// Nodes; their namespace is empty.
#[derive(Debug, Default)]
pub(super) struct Nodes(pub(super) Names);

macro_rules! index_of_names {
    ($kind:ty, $resource:expr) => {
        impl Index for $kind {
            type Object = Named;
            const RESOURCE: Resource = $resource;

            fn metadata(object: &Named) -> &Metadata {
                &object.metadata
            }

            fn put(&mut self, object: Named) {
                self.0.put(&object.metadata);
            }

            fn remove(&mut self, namespace: &str, name: &str) {
                self.0.remove(namespace, name);
            }

            fn len(&self) -> usize {
                self.0.count
            }
        }
    };
}
index_of_names!(ServiceAccounts, Resource::ServiceAccounts);
index_of_names!(Nodes, Resource::Nodes);

/// A pod as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KnownPod {
    pub(super) existing: Existing,
    pub(super) service_account: Box<str>,
    pub(super) node: Option<Box<str>>,
    /// It has ended, so nobody speaks for it.
    pub(super) ended: bool,
}

impl KnownPod {
    pub(super) fn of(pod: &Pod) -> Self {
        Self {
            existing: Existing::of(&pod.metadata),
            service_account: pod.spec.service_account_name.as_str().into(),
            node: pod.spec.node_name.as_deref().filter(|node| !node.is_empty()).map(Into::into),
            ended: pod.status.has_ended(),
        }
    }
}

/// Pods, also by node, namespace and account.
#[derive(Debug, Default)]
pub(super) struct Pods {
    all: ByName<KnownPod>,
    /// node → namespace → account → how many pods that have not ended.
    on_node: HashMap<Box<str>, ByName<usize>>,
    count: usize,
}

impl Pods {
    pub(super) fn find(&self, namespace: &str, name: &str) -> Option<&KnownPod> {
        find(&self.all, namespace, name)
    }

    /// Whether a pod of this account that has not ended is on `node`.
    pub(super) fn runs_on(&self, node: &str, namespace: &str, service_account: &str) -> bool {
        self.on_node.get(node).is_some_and(|accounts| find(accounts, namespace, service_account).is_some())
    }

    fn count_up(&mut self, namespace: &str, pod: &KnownPod) {
        let (Some(node), false) = (&pod.node, pod.ended) else { return };
        let accounts = self.on_node.entry(node.clone()).or_default().entry(namespace.into()).or_default();
        *accounts.entry(pod.service_account.clone()).or_default() += 1;
    }

    fn count_down(&mut self, namespace: &str, pod: &KnownPod) {
        let (Some(node), false) = (&pod.node, pod.ended) else { return };
        let Some(accounts) = self.on_node.get_mut(node) else { return };
        if let Some(pods) = accounts.get_mut(namespace).and_then(|inside| inside.get_mut(&pod.service_account)) {
            *pods -= 1;
            if *pods == 0 {
                take(accounts, namespace, &pod.service_account);
            }
        }
        if accounts.is_empty() {
            self.on_node.remove(node);
        }
    }
}

impl Index for Pods {
    type Object = Pod;
    const RESOURCE: Resource = Resource::Pods;

    fn metadata(object: &Pod) -> &Metadata {
        &object.metadata
    }

    fn put(&mut self, pod: Pod) {
        self.remove(&pod.metadata.namespace, &pod.metadata.name);
        let known = KnownPod::of(&pod);
        self.count_up(&pod.metadata.namespace, &known);
        set(&mut self.all, &pod.metadata, known);
        self.count += 1;
    }

    fn remove(&mut self, namespace: &str, name: &str) {
        if let Some(pod) = take(&mut self.all, namespace, name) {
            self.count_down(namespace, &pod);
            self.count -= 1;
        }
    }

    fn len(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::super::objects::{Annotations, Labels, PodSpec, PodStatus};
    use super::*;

    fn pod(name: &str, uid: &str, account: &str, node: Option<&str>, phase: &str) -> Pod {
        Pod {
            metadata: Metadata {
                name: name.into(),
                namespace: "shop".into(),
                uid: uid.into(),
                resource_version: "1".into(),
                deletion_timestamp: None,
                labels: Labels::default(),
                annotations: Annotations::default(),
            },
            spec: PodSpec { node_name: node.map(str::to_owned), service_account_name: account.into() },
            status: PodStatus { phase: phase.into() },
        }
    }

    #[test]
    fn pods_are_counted_by_node_and_account_through_all_that_happens_to_them() {
        let mut pods = Pods::default();
        let on = |pods: &Pods, account: &str| (pods.runs_on("node-1", "shop", account), pods.runs_on("node-2", "shop", account));
        pods.put(pod("a", "1", "cart", None, "Pending"));
        assert_eq!(on(&pods, "cart"), (false, false), "not scheduled");
        pods.put(pod("a", "1", "cart", Some("node-1"), "Pending"));
        pods.put(pod("b", "2", "cart", Some("node-1"), "Running"));
        assert_eq!(on(&pods, "cart"), (true, false), "a starting pod counts");
        pods.put(pod("b", "2", "cart", Some("node-1"), "Succeeded"));
        assert_eq!(on(&pods, "cart"), (true, false));
        pods.put(pod("a", "1", "cart", Some("node-1"), "Failed"));
        assert_eq!(on(&pods, "cart"), (false, false), "both have ended");
        pods.put(pod("a", "3", "pay", Some("node-2"), "Running"));
        assert_eq!((on(&pods, "cart"), on(&pods, "pay")), ((false, false), (false, true)), "another pod of the same name");
        assert_eq!((pods.len(), pods.find("shop", "a").map(|pod| &*pod.existing.uid)), (2, Some("3")));
        for name in ["a", "b", "b", "c"] {
            pods.remove("shop", name);
        }
        assert!(pods.len() == 0 && pods.all.is_empty() && pods.on_node.is_empty(), "{pods:?}");
    }

    #[test]
    fn a_deleted_object_counts_for_a_minute() {
        let deleted_at = datetime!(2026-11-25 12:00 UTC);
        let existing = Existing { uid: "u".into(), deleted_at: Some(deleted_at) };
        assert!(existing.counts(deleted_at - DELETION_LEEWAY) && existing.counts(deleted_at + DELETION_LEEWAY));
        assert!(!existing.counts(deleted_at + DELETION_LEEWAY + Duration::from_nanos(1)));
        assert!(Existing { deleted_at: None, ..existing }.counts(deleted_at));
    }

    #[test]
    fn names_are_found_by_namespace() {
        let mut accounts = ServiceAccounts::default();
        let named = |namespace: &str| Named { metadata: Metadata { namespace: namespace.into(), ..pod("cart", "1", "", None, "").metadata } };
        accounts.put(named("shop"));
        accounts.put(named("pay"));
        accounts.put(named("shop"));
        assert_eq!(accounts.len(), 2);
        accounts.remove("shop", "cart");
        assert_eq!((accounts.0.find("shop", "cart"), accounts.len()), (None, 1));
        assert!(accounts.0.find("pay", "cart").is_some());
    }
}
