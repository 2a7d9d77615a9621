//! The trust bundle in every namespace of every cluster: our own, and those that are joined at run time. Works while this replica leads.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::leading::while_leading;
use super::per_cluster::PerCluster;
use super::root_config_maps::{RootConfigMaps, RootMapStatus, RootMaps};
use crate::cluster::ApiServer;

/// What a [`Distribution`] is made of.
#[derive(Debug)]
pub struct DistributionParts {
    /// The name of our own cluster.
    pub cluster: String,
    /// Its API server.
    pub api: Arc<ApiServer>,
    /// Those of the others, by name, as they are joined; `None`: there are none.
    pub others: Option<watch::Receiver<BTreeMap<String, Arc<ApiServer>>>>,
    /// What is written.
    pub root_maps: RootMaps,
}

/// Keeps every cluster's root ConfigMaps.
#[derive(Debug)]
pub struct Distribution {
    parts: DistributionParts,
    at_work: PerCluster<Arc<RootConfigMaps>>,
}

impl Distribution {
    /// Nothing is asked yet: [`Distribution::run`] begins.
    pub fn new(parts: DistributionParts) -> Arc<Self> {
        Arc::new(Self { parts, at_work: PerCluster::default() })
    }

    /// Every cluster that is being kept up to date; none while another replica leads.
    pub fn status(&self) -> Vec<RootMapStatus> {
        self.at_work.look(|at_work| at_work.values().map(|working| working.work.status()).collect())
    }

    /// Works whenever `leading` is true, until `shutdown` ends.
    pub async fn run(self: Arc<Self>, leading: watch::Receiver<bool>, shutdown: impl Future<Output = ()>) {
        tokio::select! {
            () = while_leading(leading, || self.lead()) => {}
            () = shutdown => {}
        }
    }

    async fn lead(&self) {
        let DistributionParts { cluster, api, others, root_maps } = &self.parts;
        let start = |cluster: &str, api, tasks: &mut JoinSet<()>| {
            let maps = RootConfigMaps::new(cluster.to_owned(), api, root_maps.clone());
            tasks.spawn(maps.clone().run());
            maps
        };
        self.at_work.keep_at_work((cluster, api), others.clone(), start).await;
    }
}
