//! What is kept up in the clusters: the root ConfigMap in each namespace. All clusters together; no label names a namespace or a cluster.

use std::time::Duration;

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::{catch_up, register, whole};
use crate::controllers::RootMapStatus;

/// What a scrape sees.
#[derive(Debug)]
pub(in crate::server) struct ControllersSeen {
    pub(in crate::server) root_maps: Vec<RootMapStatus>,
    /// On the monotonic clock.
    pub(in crate::server) now: Duration,
}

/// All of them.
#[derive(Debug)]
pub(super) struct ControllerMetrics {
    namespaces: IntGaugeVec,
    behind: IntGauge,
    writes: IntCounterVec,
}

impl ControllerMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            namespaces: register(
                registry,
                IntGaugeVec::new(
                    Opts::new("meshmint_root_configmap_namespaces", "Namespaces that shall have the trust bundle, by whether they have it."),
                    &["state"],
                )?,
            )?,
            behind: register(
                registry,
                IntGauge::new(
                    "meshmint_root_configmap_behind_seconds",
                    "Since when not every namespace has had the trust bundle, 0 where all have it, -1 where this replica doesn't see to it.",
                )?,
            )?,
            writes: register(
                registry,
                IntCounterVec::new(
                    Opts::new("meshmint_root_configmap_writes_total", "Writes of root ConfigMaps, by what became of them."),
                    &["result"],
                )?,
            )?,
        };
        metrics.refresh(&ControllersSeen { root_maps: Vec::new(), now: Duration::ZERO });
        Ok(metrics)
    }

    pub(super) fn refresh(&self, seen: &ControllersSeen) {
        let of = |part: fn(&RootMapStatus) -> usize| seen.root_maps.iter().map(part).sum::<usize>();
        let (selected, current, left_alone, failing) =
            (of(|maps| maps.selected), of(|maps| maps.current), of(|maps| maps.left_alone), of(|maps| maps.failing));
        let waiting = selected.saturating_sub(current + left_alone + failing);
        for (state, count) in [("current", current), ("waiting", waiting), ("failing", failing), ("left_alone", left_alone)] {
            self.namespaces.with_label_values(&[state]).set(whole(count));
        }
        let behind = seen.root_maps.iter().map(|maps| maps.behind_since.map_or(0, |since| seen.now.saturating_sub(since).as_secs()));
        self.behind.set(behind.max().map_or(-1, whole));
        // A cluster that is left takes its counts along; a counter only grows.
        let counted = |part: fn(&RootMapStatus) -> u64| seen.root_maps.iter().map(part).sum::<u64>();
        for (result, count) in
            [("written", counted(|maps| maps.written)), ("conflict", counted(|maps| maps.conflicts)), ("failed", counted(|maps| maps.failures))]
        {
            catch_up(&self.writes.with_label_values(&[result]), count);
        }
    }
}
