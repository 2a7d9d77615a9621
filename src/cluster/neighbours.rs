//! What is known of the pods of a cluster's nodes, behind a seam that a cluster's watches fill: who may speak for whom is decided over it
//! (`callers::may_speak_for`).

use std::fmt::Debug;

use async_trait::async_trait;

use super::NoCluster;
use crate::callers::{Caller, NodeFacts};

/// Knows which pods are where.
#[async_trait]
pub trait Neighbours: Send + Sync + Debug {
    /// What is known of this cluster; `None` where nothing ever will be.
    fn facts(&self, cluster: &str) -> Option<&dyn NodeFacts>;

    /// Asks the cluster itself where the caller's pod is, and whether a pod of this account is on its node; afterwards [`Neighbours::facts`] tells
    /// what was found. False says that nobody can tell at the moment.
    async fn look(&self, caller: &Caller, namespace: &str, service_account: &str) -> bool;
}

#[async_trait]
impl Neighbours for NoCluster {
    fn facts(&self, _cluster: &str) -> Option<&dyn NodeFacts> {
        None
    }

    async fn look(&self, _caller: &Caller, _namespace: &str, _service_account: &str) -> bool {
        false
    }
}
