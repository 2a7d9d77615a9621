//! The other clusters: how many are joined, and when our credentials for one of them end.

use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};

use super::{register, whole};
use crate::cluster::RemoteStatus;

/// All of them.
#[derive(Debug)]
pub(super) struct RemoteMetrics {
    clusters: IntGaugeVec,
    credentials: IntGauge,
}

impl RemoteMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let clusters = Opts::new("meshmint_remote_clusters", "Other clusters that Secrets name, by whether they are joined.");
        let metrics = Self {
            clusters: register(registry, IntGaugeVec::new(clusters, &["state"])?)?,
            credentials: register(
                registry,
                IntGauge::new(
                    "meshmint_remote_credentials_expiry_timestamp",
                    "When the credentials for a joined cluster end, of those that end first, Unix seconds; 0 where none say so.",
                )?,
            )?,
        };
        metrics.refresh(&[]);
        Ok(metrics)
    }

    pub(super) fn refresh(&self, remotes: &[RemoteStatus]) {
        let joined = remotes.iter().filter(|remote| remote.joined).count();
        self.clusters.with_label_values(&["joined"]).set(whole(joined));
        self.clusters.with_label_values(&["waiting"]).set(whole(remotes.len() - joined));
        let first = remotes.iter().filter_map(|remote| remote.credentials).map(|validity| validity.until.unix_timestamp()).min();
        self.credentials.set(first.unwrap_or(0));
    }
}
