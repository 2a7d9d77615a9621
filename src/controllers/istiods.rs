//! A Secret for each istiod: in our own cluster and in those that are joined at run time. Which Secret that is, and how it is kept, its keeper knows
//! (`istiod_tls`, `plugged_ca`). Works while this replica leads.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::kept_secret::{Place, SecretStatus};
use super::leading::while_leading;
use super::per_cluster::PerCluster;
use crate::clock::{Clock, Entropy};
use crate::cluster::ApiServer;

/// Where istiods are that get something, and what that is.
#[derive(Debug)]
pub struct IstiodsParts<W> {
    /// The name of our own cluster.
    pub cluster: String,
    /// Its API server.
    pub api: Arc<ApiServer>,
    /// Those of the others, by name, as they are joined; `None`: there are none.
    pub others: Option<watch::Receiver<BTreeMap<String, Arc<ApiServer>>>>,
    /// The namespace of the istiods. It may not be there yet.
    pub namespace: String,
    /// Their clusters.
    pub clusters: BTreeSet<String>,
    /// This process, by a random id.
    pub writer: String,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance in pauses.
    pub entropy: Arc<dyn Entropy>,
    /// What they get.
    pub work: W,
}

/// Keeps one Secret of one istiod, until it is dropped.
pub trait SecretKeeper: Debug + Send + Sync + 'static {
    /// What is to be kept, in whichever cluster.
    type Work: Debug + Clone + Send + Sync;
    /// How it stands; from that of the Secret alone where its cluster isn't joined.
    type Status: From<SecretStatus>;

    /// Nothing is asked yet.
    fn new(place: Place, work: Self::Work) -> Arc<Self>;
    /// How it stands.
    fn status(&self) -> Self::Status;
    /// Keeps it until this is dropped.
    fn run(self: Arc<Self>) -> impl Future<Output = ()> + Send;
}

/// Keeps the Secrets of all these istiods.
#[derive(Debug)]
pub struct Istiods<K: SecretKeeper> {
    parts: IstiodsParts<K::Work>,
    at_work: PerCluster<Option<Arc<K>>>,
}

impl<K: SecretKeeper> Istiods<K> {
    /// Nothing is asked yet: [`Istiods::run`] begins.
    pub fn new(parts: IstiodsParts<K::Work>) -> Arc<Self> {
        Arc::new(Self { parts, at_work: PerCluster::default() })
    }

    /// Every istiod, by its cluster; none while another replica leads.
    pub fn status(&self) -> Vec<K::Status> {
        self.at_work.look(|at_work| {
            let kept = |cluster: &String| Some(at_work.get(cluster)?.work.as_ref()?.status());
            let not_joined = |cluster: &String| SecretStatus { cluster: cluster.clone(), ..SecretStatus::default() }.into();
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
        let IstiodsParts { cluster, api, others, clusters, namespace, writer, clock, entropy, work } = &self.parts;
        let start = |cluster: &str, api, tasks: &mut JoinSet<()>| {
            clusters.contains(cluster).then(|| {
                let place = Place {
                    cluster: cluster.to_owned(),
                    namespace: namespace.clone(),
                    api,
                    writer: writer.clone(),
                    clock: clock.clone(),
                    entropy: entropy.clone(),
                };
                let keeper = K::new(place, work.clone());
                tasks.spawn(keeper.clone().run());
                keeper
            })
        };
        self.at_work.keep_at_work((cluster, api), others.clone(), start).await;
    }
}
