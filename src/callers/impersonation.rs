//! Who may speak for whom: a node proxy (ztunnel) asks for the certificates of the pods on its node (istio-contract, "Impersonation").
//!
//! A pure decision over facts of the caller's cluster. Where there are none, nobody may speak for anybody.

use std::collections::BTreeSet;
use std::str::FromStr;

use super::caller::Caller;
use super::token::ObjectRef;
use crate::spiffe::{SpiffeId, TrustDomain};

/// What is known of the caller's cluster.
pub trait NodeFacts: Send + Sync {
    /// The pod of that name and UID, where it exists now.
    fn pod(&self, namespace: &str, pod: &ObjectRef) -> Option<PodFact>;

    /// Whether some pod with this namespace and service account is assigned to `node` and neither Succeeded nor Failed. A starting pod is Pending
    /// and counts.
    fn runs_on(&self, node: &str, namespace: &str, service_account: &str) -> bool;
}

/// A pod, as the cluster has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFact {
    /// Its UID.
    pub uid: String,
    /// Its service account's name.
    pub service_account: String,
    /// The node that it is assigned to.
    pub node: Option<String>,
}

/// A service account by namespace and name, as it is written in lists: `istio-system/ztunnel`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceAccountName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// The text is not `NAMESPACE/NAME`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a service account is written NAMESPACE/NAME, for example istio-system/ztunnel")]
pub struct ServiceAccountNameError;

impl FromStr for ServiceAccountName {
    type Err = ServiceAccountNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err(ServiceAccountNameError),
        }
    }
}

/// Why a caller may not have the identity that it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// Its service account is not on the list.
    #[error("the caller's service account may not impersonate")]
    NotTrusted,
    /// What it asks for is not a workload's SPIFFE ID.
    #[error("the requested identity is not spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT")]
    MalformedIdentity,
    /// It is in another trust domain.
    #[error("the requested identity is in another trust domain")]
    ForeignTrustDomain,
    /// Without a cluster nobody knows which pods are where.
    #[error("nothing is known of the caller's cluster")]
    NoFacts,
    /// Its credential names no pod.
    #[error("the caller's credential is bound to no pod")]
    NoPod,
    /// Its pod isn't there (any more), or another one has its name.
    #[error("the caller's pod doesn't exist")]
    PodGone,
    /// Its pod runs as somebody else.
    #[error("the caller's pod has another service account")]
    PodOfOtherAccount,
    /// Its pod is on no node, or not on the one that its credential names.
    #[error("the caller's pod is not on the node that its credential names")]
    WrongNode,
    /// No pod on its node has the requested identity.
    #[error("no pod on the caller's node has the requested identity")]
    NotOnNode,
}

/// Decides whether `caller` may have `requested`, and rebuilds that identity from our trust domain and the parsed names.
///
/// # Errors
/// [`Denial`]. Where [`Denial::may_be_lag`], it is worth one live look at the cluster before it is answered.
pub fn may_speak_for(
    caller: &Caller,
    requested: &str,
    trust_domain: &TrustDomain,
    trusted_accounts: &BTreeSet<ServiceAccountName>,
    facts: Option<&dyn NodeFacts>,
) -> Result<SpiffeId, Denial> {
    // 1. The caller's service account is on the list.
    let account = ServiceAccountName { namespace: caller.namespace.clone(), name: caller.service_account.clone() };
    if !trusted_accounts.contains(&account) {
        return Err(Denial::NotTrusted);
    }
    // 2. The requested identity parses, is in our trust domain, and is rebuilt by us.
    let asked: SpiffeId = requested.parse().map_err(|_| Denial::MalformedIdentity)?;
    let (namespace, service_account) = asked.namespace_and_service_account().map_err(|_| Denial::MalformedIdentity)?;
    if asked.trust_domain() != trust_domain {
        return Err(Denial::ForeignTrustDomain);
    }
    let identity = SpiffeId::workload(trust_domain, namespace, service_account).map_err(|_| Denial::MalformedIdentity)?;
    // 3. The caller's pod, by name and UID, exists and has that service account.
    let facts = facts.ok_or(Denial::NoFacts)?;
    let bound = caller.pod.as_ref().ok_or(Denial::NoPod)?;
    let pod = facts.pod(&caller.namespace, bound).filter(|pod| pod.uid == bound.uid).ok_or(Denial::PodGone)?;
    if pod.service_account != caller.service_account {
        return Err(Denial::PodOfOtherAccount);
    }
    let node = pod.node.ok_or(Denial::WrongNode)?;
    if caller.node.as_ref().is_some_and(|named| named.name != node) {
        return Err(Denial::WrongNode);
    }
    // 4. Some pod with the requested identity is on the caller's node.
    if facts.runs_on(&node, namespace, service_account) { Ok(identity) } else { Err(Denial::NotOnNode) }
}

impl Denial {
    /// Whether a watch that lags behind could be the reason: a pod that was scheduled a moment ago.
    pub fn may_be_lag(self) -> bool {
        matches!(self, Self::PodGone | Self::WrongNode | Self::NotOnNode)
    }

    /// The label of this reason in metrics and logs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotTrusted => "impersonation_not_trusted",
            Self::MalformedIdentity => "impersonation_malformed_identity",
            Self::ForeignTrustDomain => "impersonation_foreign_trust_domain",
            Self::NoFacts => "impersonation_no_facts",
            Self::NoPod => "impersonation_no_pod",
            Self::PodGone => "impersonation_pod_gone",
            Self::PodOfOtherAccount => "impersonation_pod_of_other_account",
            Self::WrongNode => "impersonation_wrong_node",
            Self::NotOnNode => "impersonation_not_on_node",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::caller::Credential;
    use super::*;

    /// (namespace, pod name, UID, service account, node) of every pod that is neither Succeeded nor Failed.
    type Pod = (&'static str, &'static str, &'static str, &'static str, Option<&'static str>);

    struct World(Vec<Pod>);

    impl NodeFacts for World {
        fn pod(&self, namespace: &str, pod: &ObjectRef) -> Option<PodFact> {
            self.0.iter().find(|each| each.0 == namespace && each.1 == pod.name).map(|pod| PodFact {
                uid: pod.2.into(),
                service_account: pod.3.into(),
                node: pod.4.map(str::to_owned),
            })
        }

        fn runs_on(&self, node: &str, namespace: &str, service_account: &str) -> bool {
            self.0.iter().any(|pod| pod.4 == Some(node) && pod.0 == namespace && pod.3 == service_account)
        }
    }

    const ZTUNNEL: Pod = ("istio-system", "ztunnel-1", "u1", "ztunnel", Some("node-1"));
    const CART: Pod = ("shop", "cart-1", "u2", "cart", Some("node-1"));
    const CART_ID: &str = "spiffe://cluster.local/ns/shop/sa/cart";

    fn ztunnel() -> Caller {
        Caller {
            spiffe_id: "spiffe://cluster.local/ns/istio-system/sa/ztunnel".parse().unwrap(),
            cluster: "east".into(),
            namespace: "istio-system".into(),
            service_account: "ztunnel".into(),
            pod: Some(ObjectRef { name: "ztunnel-1".into(), uid: "u1".into() }),
            node: Some(ObjectRef { name: "node-1".into(), uid: "n1".into() }),
            credential: Credential::Token,
        }
    }

    fn ask(caller: &Caller, requested: &str, world: Option<Vec<Pod>>) -> Result<String, Denial> {
        let world = world.map(World);
        let trusted = ["istio-system/ztunnel".parse().unwrap()].into();
        let facts = world.as_ref().map(|world| world as &dyn NodeFacts);
        may_speak_for(caller, requested, &"cluster.local".parse().unwrap(), &trusted, facts).map(|id| id.to_string())
    }

    #[test]
    fn a_trusted_proxy_speaks_for_the_pods_of_its_node() {
        assert_eq!(ask(&ztunnel(), CART_ID, Some(vec![ZTUNNEL, CART])), Ok(CART_ID.to_owned()));
        let without_node_claim = Caller { node: None, ..ztunnel() };
        assert_eq!(ask(&without_node_claim, CART_ID, Some(vec![ZTUNNEL, CART])), Ok(CART_ID.to_owned()));
    }

    #[test]
    fn each_rule_denies_for_its_own_reason() {
        let world = || Some(vec![ZTUNNEL, CART]);
        for (namespace, name) in [("shop", "ztunnel"), ("istio-system", "ztunnel2"), ("istio-system", "ztunne")] {
            let other = Caller { namespace: namespace.into(), service_account: name.into(), ..ztunnel() };
            assert_eq!(ask(&other, CART_ID, world()), Err(Denial::NotTrusted));
        }
        for requested in ["", "cart", "spiffe://cluster.local", "spiffe://cluster.local/ns/shop/sa/cart/", "spiffe://cluster.local/ns/shop/sa/a,b"] {
            assert_eq!(ask(&ztunnel(), requested, world()), Err(Denial::MalformedIdentity), "{requested}");
        }
        assert_eq!(ask(&ztunnel(), "spiffe://cluster/ns/shop/sa/cart", world()), Err(Denial::ForeignTrustDomain));
        assert_eq!(ask(&ztunnel(), CART_ID, None), Err(Denial::NoFacts));
        assert_eq!(ask(&Caller { pod: None, ..ztunnel() }, CART_ID, world()), Err(Denial::NoPod));
        assert_eq!(ask(&ztunnel(), CART_ID, Some(vec![CART])), Err(Denial::PodGone));
        let again = ("istio-system", "ztunnel-1", "u9", "ztunnel", Some("node-1"));
        assert_eq!(ask(&ztunnel(), CART_ID, Some(vec![again, CART])), Err(Denial::PodGone));
        let disguised = ("istio-system", "ztunnel-1", "u1", "cart", Some("node-1"));
        assert_eq!(ask(&ztunnel(), CART_ID, Some(vec![disguised, CART])), Err(Denial::PodOfOtherAccount));
        for node in [None, Some("node-2")] {
            let moved = ("istio-system", "ztunnel-1", "u1", "ztunnel", node);
            assert_eq!(ask(&ztunnel(), CART_ID, Some(vec![moved, CART])), Err(Denial::WrongNode));
        }
        let elsewhere = ("shop", "cart-1", "u2", "cart", Some("node-2"));
        assert_eq!(ask(&ztunnel(), CART_ID, Some(vec![ZTUNNEL, elsewhere])), Err(Denial::NotOnNode));
        assert_eq!(ask(&ztunnel(), "spiffe://cluster.local/ns/shop/sa/car", world()), Err(Denial::NotOnNode));
    }

    #[test]
    fn reasons_differ_and_names_are_read_strictly() {
        use Denial::{ForeignTrustDomain, MalformedIdentity, NoFacts, NoPod, NotOnNode, NotTrusted, PodGone, PodOfOtherAccount, WrongNode};
        let all = [NotTrusted, MalformedIdentity, ForeignTrustDomain, NoFacts, NoPod, PodGone, PodOfOtherAccount, WrongNode, NotOnNode];
        assert_eq!(all.iter().map(|denial| denial.reason()).collect::<BTreeSet<_>>().len(), all.len());
        for text in ["", "a", "/a", "a/", "a/b/c"] {
            assert_eq!(text.parse::<ServiceAccountName>(), Err(ServiceAccountNameError), "{text}");
        }
    }
}
