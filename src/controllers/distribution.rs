//! The trust bundle in every namespace of every cluster: our own, and those that are joined at run time. Works while this replica leads.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::leading::while_leading;
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
    at_work: Mutex<BTreeMap<String, Working>>,
}

/// One cluster that is being kept up to date, until this is dropped.
#[derive(Debug)]
struct Working {
    api: Arc<ApiServer>,
    maps: Arc<RootConfigMaps>,
    _task: JoinSet<()>,
}

impl Working {
    fn start(cluster: &str, api: Arc<ApiServer>, root_maps: RootMaps) -> Self {
        let maps = RootConfigMaps::new(cluster.to_owned(), api.clone(), root_maps);
        let mut task = JoinSet::new();
        task.spawn(maps.clone().run());
        Self { api, maps, _task: task }
    }
}

/// Ends all work when it is dropped.
struct Stop<'a>(&'a Mutex<BTreeMap<String, Working>>);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Distribution {
    /// Nothing is asked yet: [`Distribution::run`] begins.
    pub fn new(parts: DistributionParts) -> Arc<Self> {
        Arc::new(Self { parts, at_work: Mutex::default() })
    }

    /// Every cluster that is being kept up to date; none while another replica leads.
    pub fn status(&self) -> Vec<RootMapStatus> {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner).values().map(|working| working.maps.status()).collect()
    }

    /// Works whenever `leading` is true, until `shutdown` ends.
    pub async fn run(self: Arc<Self>, leading: watch::Receiver<bool>, shutdown: impl Future<Output = ()>) {
        tokio::select! {
            () = while_leading(leading, || self.lead()) => {}
            () = shutdown => {}
        }
    }

    async fn lead(&self) {
        let _end = Stop(&self.at_work);
        let DistributionParts { cluster, api, others, root_maps } = &self.parts;
        let mut others = others.clone();
        loop {
            let mut wanted = others.as_mut().map(|others| others.borrow_and_update().clone()).unwrap_or_default();
            wanted.insert(cluster.clone(), api.clone());
            {
                let mut at_work = self.at_work.lock().unwrap_or_else(PoisonError::into_inner);
                // Other credentials are another cluster.
                at_work.retain(|name, working| wanted.get(name).is_some_and(|api| Arc::ptr_eq(api, &working.api)));
                for (name, api) in wanted {
                    at_work.entry(name.clone()).or_insert_with(|| Working::start(&name, api, root_maps.clone()));
                }
            }
            let changed = async {
                match &mut others {
                    Some(others) => others.changed().await.is_ok(),
                    None => false,
                }
            };
            if !changed.await {
                // Nobody joins or leaves any more.
                std::future::pending::<()>().await;
            }
        }
    }
}
