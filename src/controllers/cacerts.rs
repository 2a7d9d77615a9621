//! Intermediates for meshes that keep istiod signing: the Secrets `cacerts` by which istiod is a CA below our root, in our own cluster and in those
//! that are joined at run time. Works while this replica leads.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::leading::while_leading;
use super::per_cluster::PerCluster;
use super::plugged_ca::{PluggedCa, PluggedCaWork};
use crate::clock::{Clock, Entropy};
use crate::cluster::{ApiServer, WatchStatus};
use crate::pki::KeyAlgorithm;
use crate::rotation::Keeper;

/// What a [`Cacerts`] is made of.
#[derive(Debug)]
pub struct CacertsParts {
    /// The name of our own cluster.
    pub cluster: String,
    /// Its API server.
    pub api: Arc<ApiServer>,
    /// Those of the others, by name, as they are joined; `None`: there are none.
    pub others: Option<watch::Receiver<BTreeMap<String, Arc<ApiServer>>>>,
    /// The namespace of the istiods that sign. It may not be there yet.
    pub namespace: String,
    /// Their clusters.
    pub clusters: BTreeSet<String>,
    /// How long an intermediate lives; a new one is made at half of it.
    pub lifetime: Duration,
    /// Signs and records.
    pub keeper: Arc<Keeper>,
    /// The kind of the keys that they get.
    pub key_algorithm: KeyAlgorithm,
    /// This process, by a random id.
    pub writer: String,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance in pauses.
    pub entropy: Arc<dyn Entropy>,
}

/// What metrics and the checkup show of one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacertsStatus {
    /// Its cluster.
    pub cluster: String,
    /// Whether that cluster is joined; else everything else is empty.
    pub joined: bool,
    /// Somebody else made the Secret, and it is left alone.
    pub foreign: bool,
    /// Whoever wrote the Secret knows a newer bundle or generation, so it is left alone.
    pub left_alone: bool,
    /// When the intermediate in the Secret ends, whoever made it.
    pub not_after: Option<OffsetDateTime>,
    /// When it is to be renewed, where the Secret is as it shall be.
    pub renew_at: Option<OffsetDateTime>,
    /// The Secret is as it shall be, and nobody could give the intermediate a later end: what stands above it ends.
    pub last: bool,
    /// How often it was written.
    pub written: u64,
    /// Writes for which somebody else was faster.
    pub conflicts: u64,
    /// What could not be made or written.
    pub failures: u64,
    /// Why the latest try failed; `None` where none did since it went well.
    pub trouble: Option<String>,
    /// The watch.
    pub watch: Option<WatchStatus>,
}

/// Keeps the intermediates of all istiods that sign.
#[derive(Debug)]
pub struct Cacerts {
    parts: CacertsParts,
    at_work: PerCluster<Option<Arc<PluggedCa>>>,
}

impl Cacerts {
    /// Nothing is asked yet: [`Cacerts::run`] begins.
    pub fn new(parts: CacertsParts) -> Arc<Self> {
        Arc::new(Self { parts, at_work: PerCluster::default() })
    }

    /// Every istiod, by its cluster; none while another replica leads.
    pub fn status(&self) -> Vec<CacertsStatus> {
        self.at_work.look(|at_work| {
            let kept = |cluster: &String| Some(at_work.get(cluster)?.work.as_ref()?.status());
            let not_joined = |cluster: &String| CacertsStatus { cluster: cluster.clone(), ..CacertsStatus::default() };
            let clusters = self.parts.clusters.iter().filter(|_| !at_work.is_empty());
            clusters.map(|cluster| kept(cluster).unwrap_or_else(|| not_joined(cluster))).collect()
        })
    }

    /// Works whenever `leading` is true, until `shutdown` ends.
    pub async fn run(self: Arc<Self>, leading: watch::Receiver<bool>, shutdown: impl Future<Output = ()>) {
        tokio::select! {
            () = while_leading(leading, || self.lead()) => {}
            () = shutdown => {}
        }
    }

    async fn lead(&self) {
        let CacertsParts { cluster, api, others, clusters, namespace, lifetime, keeper, key_algorithm, writer, clock, entropy } = &self.parts;
        let work = PluggedCaWork {
            namespace: namespace.clone(),
            lifetime: *lifetime,
            keeper: keeper.clone(),
            key_algorithm: *key_algorithm,
            writer: writer.clone(),
            clock: clock.clone(),
            entropy: entropy.clone(),
        };
        let start = |cluster: &str, api, tasks: &mut JoinSet<()>| {
            clusters.contains(cluster).then(|| {
                let plugged = PluggedCa::new(cluster.to_owned(), api, work.clone());
                tasks.spawn(plugged.clone().run());
                plugged
            })
        };
        self.at_work.keep_at_work((cluster, api), others.clone(), start).await;
    }
}
