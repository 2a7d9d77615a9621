//! What is kept up in the clusters: the root ConfigMap in each namespace, istiod's certificate, the intermediates of
//! istiods that sign. All clusters together; no label names a namespace or a cluster.

use std::time::Duration;

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::{catch_up, register, whole};
use crate::controllers::{CacertsStatus, IstiodTlsStatus, RootMapStatus};

/// What a scrape sees.
#[derive(Debug)]
pub(in crate::server) struct ControllersSeen {
    pub(in crate::server) root_maps: Vec<RootMapStatus>,
    pub(in crate::server) istiod: IstiodTlsStatus,
    pub(in crate::server) cacerts: Vec<CacertsStatus>,
    /// On the monotonic clock.
    pub(in crate::server) now: Duration,
}

/// All of them.
#[derive(Debug)]
pub(super) struct ControllerMetrics {
    namespaces: IntGaugeVec,
    behind: IntGauge,
    writes: IntCounterVec,
    istiod_expiry: IntGauge,
    istiod_writes: IntCounterVec,
    istiod_webhooks: IntGaugeVec,
    cacerts: IntGaugeVec,
    cacerts_expiry: IntGauge,
    cacerts_writes: IntCounterVec,
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
            istiod_expiry: register(
                registry,
                IntGauge::new(
                    "meshmint_istiod_cert_expiry_timestamp",
                    "notAfter of istiod's certificate, Unix seconds; 0 where there is none or this replica doesn't see to it.",
                )?,
            )?,
            istiod_writes: register(
                registry,
                IntCounterVec::new(
                    Opts::new("meshmint_istiod_tls_writes_total", "New certificates for istiod, by what became of them."),
                    &["result"],
                )?,
            )?,
            istiod_webhooks: register(
                registry,
                IntGaugeVec::new(
                    Opts::new("meshmint_istiod_webhooks", "istiod's webhook configurations, by whether they show the trust bundle."),
                    &["state"],
                )?,
            )?,
            cacerts: register(
                registry,
                IntGaugeVec::new(
                    Opts::new("meshmint_cacerts", "istiods that shall sign below our root, by whether their Secret cacerts is as it shall be."),
                    &["state"],
                )?,
            )?,
            cacerts_expiry: register(
                registry,
                IntGauge::new(
                    "meshmint_cacerts_expiry_timestamp",
                    "notAfter of the intermediate of an istiod that ends first, Unix seconds; 0 where there is none or this replica doesn't see to it.",
                )?,
            )?,
            cacerts_writes: register(
                registry,
                IntCounterVec::new(Opts::new("meshmint_cacerts_writes_total", "Writes of Secrets cacerts, by what became of them."), &["result"])?,
            )?,
        };
        let nothing = ControllersSeen { root_maps: Vec::new(), istiod: IstiodTlsStatus::default(), cacerts: Vec::new(), now: Duration::ZERO };
        metrics.refresh(&nothing);
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
        let IstiodTlsStatus { not_after, webhooks, webhooks_behind, written, conflicts, failures, .. } = &seen.istiod;
        self.istiod_expiry.set(not_after.map_or(0, time::OffsetDateTime::unix_timestamp));
        for (result, count) in [("written", written), ("conflict", conflicts), ("failed", failures)] {
            catch_up(&self.istiod_writes.with_label_values(&[result]), *count);
        }
        self.istiod_webhooks.with_label_values(&["current"]).set(whole(webhooks.saturating_sub(*webhooks_behind)));
        self.istiod_webhooks.with_label_values(&["behind"]).set(whole(*webhooks_behind));
        self.refresh_cacerts(&seen.cacerts);
    }

    fn refresh_cacerts(&self, all: &[CacertsStatus]) {
        let left_alone = |status: &CacertsStatus| status.foreign || status.left_alone;
        let current = |status: &CacertsStatus| status.renew_at.is_some() || status.last;
        for (state, count) in [
            ("current", all.iter().filter(|status| current(status)).count()),
            ("left_alone", all.iter().filter(|status| left_alone(status)).count()),
            ("waiting", all.iter().filter(|status| !current(status) && !left_alone(status)).count()),
        ] {
            self.cacerts.with_label_values(&[state]).set(whole(count));
        }
        let first = all.iter().filter(|status| !status.foreign).filter_map(|status| status.not_after).min();
        self.cacerts_expiry.set(first.map_or(0, time::OffsetDateTime::unix_timestamp));
        let counted = |part: fn(&CacertsStatus) -> u64| all.iter().map(part).sum::<u64>();
        for (result, count) in [
            ("written", counted(|status| status.written)),
            ("conflict", counted(|status| status.conflicts)),
            ("failed", counted(|status| status.failures)),
        ] {
            catch_up(&self.cacerts_writes.with_label_values(&[result]), count);
        }
    }
}
