//! What is only looked at when somebody asks for `/metrics`. Nothing that serves a request pays for it.

use std::sync::Arc;

use super::metrics::{ClusterSeen, ControllersSeen, KeySetSeen, Metrics, ReplicaSeen, Seen};
use super::settings::Watching;
use crate::clock::Clock;
use crate::cluster::{Election, KeySets, Remotes};
use crate::controllers::{Cacerts, Distribution, IstiodTls};
use crate::ledger::Ledger;
use crate::rotation::Keeper;

/// The parts that are looked at.
#[derive(Debug)]
pub(super) struct Scrape {
    pub(super) keeper: Arc<Keeper>,
    /// None: this replica stands for no election.
    pub(super) election: Option<Arc<Election>>,
    pub(super) key_sets: Arc<KeySets>,
    /// None: there is no cluster.
    pub(super) watching: Option<Watching>,
    /// None: there may be no other clusters.
    pub(super) remotes: Option<Arc<Remotes>>,
    /// None: others see to the root ConfigMaps.
    pub(super) distribution: Option<Arc<Distribution>>,
    /// None: others see to istiod's certificate.
    pub(super) istiod_tls: Option<Arc<IstiodTls>>,
    /// None: no istiod has an intermediate of ours.
    pub(super) cacerts: Option<Arc<Cacerts>>,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Arc<dyn Clock>,
}

impl Scrape {
    /// Every metric as of now, in Prometheus's text format.
    pub(super) fn text(&self) -> Vec<u8> {
        let key_sets = self.key_sets.status().into_iter().map(|status| KeySetSeen {
            age: status.last_success.map(|at| (self.clock.now() - at).whole_seconds()),
            keys: status.keys,
            failures: status.failures,
        });
        let root_maps = self.distribution.as_ref().map(|distribution| distribution.status()).unwrap_or_default();
        let istiod = self.istiod_tls.as_ref().map(|istiod| istiod.status()).unwrap_or_default();
        let cacerts = self.cacerts.as_ref().map(|cacerts| cacerts.status()).unwrap_or_default();
        self.metrics.refresh(&Seen {
            controllers: ControllersSeen { root_maps, istiod, cacerts, now: self.clock.monotonic() },
            generation: self.keeper.published().load_full(),
            outlook: self.keeper.outlook(),
            failures: self.keeper.failures(),
            missing: self.keeper.missing(),
            ledger: self.ledger.figures(),
            key_sets: key_sets.collect(),
            replicas: ReplicaSeen { lease: self.election.as_ref().map(|election| election.status()), state_age: self.keeper.state_age() },
            cluster: self.watching.as_ref().map(|watching| ClusterSeen { status: watching.kubernetes.status(), reviews: watching.reviewer.counts() }),
            remotes: self.remotes.as_ref().map(|remotes| remotes.status()).unwrap_or_default(),
        });
        self.metrics.render()
    }
}
