//! How a replica stands among the others: whether it leads, and how fresh what it knows of their common state is.

use std::time::Duration;

use prometheus::{IntCounter, IntGauge, Registry};

use super::{catch_up, register, whole};
use crate::cluster::LeaseStatus;

/// All of them.
#[derive(Debug)]
pub(super) struct ReplicaMetrics {
    leading: IntGauge,
    lease_failures: IntCounter,
    state_age: IntGauge,
}

/// What a scrape sees.
#[derive(Debug)]
pub(in crate::server) struct ReplicaSeen {
    /// None: this replica stands for no election.
    pub(in crate::server) lease: Option<LeaseStatus>,
    /// None: nobody else could change the state.
    pub(in crate::server) state_age: Option<Duration>,
}

impl ReplicaMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| register(registry, IntGauge::new(name, help)?);
        Ok(Self {
            leading: gauge("meshmint_leading", "1 where this replica leads or is the only one, else 0.")?,
            lease_failures: register(
                registry,
                IntCounter::new("meshmint_lease_failures_total", "Reads and writes of the leader's Lease that failed.")?,
            )?,
            state_age: gauge(
                "meshmint_state_age_seconds",
                "Time since the store said how the authority state is; 0 where nobody else could change it.",
            )?,
        })
    }

    pub(super) fn refresh(&self, seen: &ReplicaSeen) {
        let alone = seen.state_age.is_none();
        self.leading.set(i64::from(alone || seen.lease.as_ref().is_some_and(|lease| lease.leading)));
        catch_up(&self.lease_failures, seen.lease.as_ref().map_or(0, |lease| lease.failures));
        self.state_age.set(seen.state_age.map_or(0, |age| whole(age.as_secs())));
    }
}
