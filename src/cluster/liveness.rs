//! Whether the objects that a token is bound to still live: what TokenReview would look at, behind a seam that a cluster's watches fill.
//!
//! Issuance asks after [`crate::callers::TokenRules`] was held to; expiry and signature are not looked at again here.

use std::fmt::Debug;

use async_trait::async_trait;

use crate::callers::ObjectRef;

/// Knows which objects live.
#[async_trait]
pub trait Liveness: Send + Sync + Debug {
    /// Whether everything that `bound` names lives, with the same UIDs.
    async fn check(&self, bound: &Bound<'_>) -> Life;
}

/// What stands behind a caller: the objects that its token or its client certificate is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound<'a> {
    /// The cluster that they are in.
    pub cluster: &'a str,
    /// The namespace of account and pod.
    pub namespace: &'a str,
    /// The service account's name.
    pub service_account: &'a str,
    /// Its UID, which only a token names.
    pub service_account_uid: Option<&'a str>,
    /// The pod.
    pub pod: Option<&'a ObjectRef>,
    /// The node; what a token without a pod may be bound to.
    pub node: Option<&'a ObjectRef>,
}

/// What became of what a token is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// All of it lives.
    Alive,
    /// Something of it is gone: the token is no proof any more, UNAUTHENTICATED.
    Gone(WhyGone),
    /// Nobody can tell at the moment: our trouble, UNAVAILABLE.
    Unknown,
}

/// What is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhyGone {
    /// The service account doesn't exist, or another one has its name.
    ServiceAccount,
    /// The pod doesn't exist, another one has its name, or it is past the time that a deleted pod has.
    Pod,
    /// The node doesn't exist, or another one has its name.
    Node,
}

impl WhyGone {
    /// The label of this reason in metrics and logs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::ServiceAccount => "service_account_gone",
            Self::Pod => "pod_gone",
            Self::Node => "node_gone",
        }
    }
}

/// There is no cluster to ask. The token's own binding and expiry are all there is, so everything it names is taken to live.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCluster;

#[async_trait]
impl Liveness for NoCluster {
    async fn check(&self, _bound: &Bound<'_>) -> Life {
        Life::Alive
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_cluster_the_binding_is_all_there_is() {
        let bound = Bound { cluster: "east", namespace: "shop", service_account: "cart", service_account_uid: Some("u"), pod: None, node: None };
        let liveness: &dyn Liveness = &NoCluster;
        assert_eq!(liveness.check(&bound).await, Life::Alive);
    }
}
