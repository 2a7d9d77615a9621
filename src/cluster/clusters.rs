//! The clusters that callers may be in: our own, and others that come and go at run time (`remote`). A token is checked only against the cluster
//! that its bearer names, because issuers of different clusters may have the same name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::key_sets::KeySets;
use super::kubernetes::Kubernetes;
use super::liveness::{Bound, Life, Liveness as _, NoCluster};
use super::token_review::TokenReviewer;
use crate::callers::{Caller, NodeFacts, TokenRules};

/// Who says whether a token is good.
#[derive(Debug, Clone)]
pub enum Review {
    /// We do, by its issuer's published keys and by what lives; there is nobody else to ask.
    Never,
    /// We do, but a key that nobody published is for the cluster to know.
    UnknownKeys(Arc<dyn TokenReviewer>),
    /// The cluster.
    Always(Arc<dyn TokenReviewer>),
}

/// One cluster.
#[derive(Debug)]
pub struct Member {
    /// Keys of its token issuers.
    pub key_sets: Arc<KeySets>,
    /// What its tokens must say.
    pub rules: TokenRules,
    /// When it is asked about a token itself.
    pub review: Review,
    /// What lives in it; `None` where nobody looks, so that a token counts until it expires.
    pub kubernetes: Option<Arc<Kubernetes>>,
}

/// All of them. One lookup for a token; reading it waits for nobody.
#[derive(Debug)]
pub struct Clusters {
    /// Every name of our own.
    own_names: BTreeSet<String>,
    own: Arc<Member>,
    /// None: there is only our own, whatever a caller calls it.
    others: Option<ArcSwap<Others>>,
}

/// The clusters that are not ours.
#[derive(Debug, Default)]
struct Others {
    /// Whether every name that there is is known; not so before the first list.
    complete: bool,
    /// None: named, and not joined yet.
    named: BTreeMap<String, Option<Arc<Member>>>,
}

/// What there is under the name that a caller gives.
#[derive(Debug, Clone)]
pub enum Named {
    /// A cluster whose tokens count.
    Known(Arc<Member>),
    /// A cluster that isn't joined yet, or a name of which nobody can tell yet whether there is one: our trouble.
    NotYet,
    /// No cluster of ours.
    Unknown,
}

impl Clusters {
    /// Our own alone. The names that callers give are not looked at.
    pub fn alone(own: Member) -> Self {
        Self { own_names: BTreeSet::new(), own: Arc::new(own), others: None }
    }

    /// Our own under all of its names, and others ([`Clusters::set_others`]).
    pub fn several(own_names: BTreeSet<String>, own: Member) -> Self {
        Self { own_names, own: Arc::new(own), others: Some(ArcSwap::default()) }
    }

    /// The cluster of this name; a caller that names none is in our own.
    pub fn find(&self, name: Option<&str>) -> Named {
        let (Some(name), Some(others)) = (name, &self.others) else { return Named::Known(self.own.clone()) };
        if self.own_names.contains(name) {
            return Named::Known(self.own.clone());
        }
        let others = others.load();
        match others.named.get(name) {
            Some(Some(member)) => Named::Known(member.clone()),
            Some(None) => Named::NotYet,
            None if others.complete => Named::Unknown,
            None => Named::NotYet,
        }
    }

    fn member(&self, name: &str) -> Option<Arc<Member>> {
        if let Named::Known(member) = self.find(Some(name)) { Some(member) } else { None }
    }

    /// Our own.
    pub fn own(&self) -> &Member {
        &self.own
    }

    /// From now on these, and no more, are the others; `None` for one that isn't joined yet.
    pub fn set_others(&self, named: BTreeMap<String, Option<Arc<Member>>>) {
        if let Some(others) = &self.others {
            others.store(Arc::new(Others { complete: true, named }));
        }
    }

    /// Whether everything that `bound` names lives, with the same UIDs.
    pub async fn check(&self, bound: &Bound<'_>) -> Life {
        match self.member(bound.cluster) {
            // A certificate of a cluster that went away: it may come back.
            None => Life::Unknown,
            Some(member) => match &member.kubernetes {
                Some(kubernetes) => kubernetes.check(bound).await,
                None => NoCluster.check(bound).await,
            },
        }
    }

    /// What is known of the pods of this cluster; `None` where nobody looks.
    pub fn facts(&self, cluster: &str) -> Option<Arc<dyn NodeFacts>> {
        Some(self.member(cluster)?.kubernetes.clone()? as Arc<dyn NodeFacts>)
    }

    /// Asks the caller's cluster where its pod is, and whether a pod of this account is on its node; afterwards [`Clusters::facts`] tells what was
    /// found. False says that nobody can tell at the moment.
    pub async fn look(&self, caller: &Caller, namespace: &str, service_account: &str) -> bool {
        match self.member(&caller.cluster).and_then(|member| member.kubernetes.clone()) {
            Some(kubernetes) => kubernetes.look(caller, namespace, service_account).await,
            None => false,
        }
    }
}
