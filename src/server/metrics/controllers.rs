//! What is kept up in the clusters: the root ConfigMap in each namespace, the certificates of istiods, the intermediates of
//! istiods that sign. All clusters together; no label names a namespace or a cluster.

use std::time::Duration;

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::{catch_up, register, whole};
use crate::controllers::{IstiodTlsStatus, RootMapStatus, SecretStatus};

/// What a scrape sees.
#[derive(Debug)]
pub(in crate::server) struct ControllersSeen {
    pub(in crate::server) root_maps: Vec<RootMapStatus>,
    pub(in crate::server) istiod: Vec<IstiodTlsStatus>,
    pub(in crate::server) cacerts: Vec<SecretStatus>,
    /// On the monotonic clock.
    pub(in crate::server) now: Duration,
}

/// All of them.
#[derive(Debug)]
pub(super) struct ControllerMetrics {
    namespaces: IntGaugeVec,
    behind: IntGauge,
    writes: IntCounterVec,
    istiod_tls: SecretMetrics,
    istiod_webhooks: IntGaugeVec,
    cacerts: SecretMetrics,
}

/// A Secret for each of some istiods.
#[derive(Debug)]
struct SecretMetrics {
    secrets: IntGaugeVec,
    expiry: IntGauge,
    writes: IntCounterVec,
}

impl SecretMetrics {
    /// By their names and what they say.
    fn new(registry: &Registry, secrets: [&str; 2], expiry: [&str; 2], writes: [&str; 2]) -> Result<Self, prometheus::Error> {
        let opts = |[name, help]: [&str; 2]| Opts::new(name, help);
        Ok(Self {
            secrets: register(registry, IntGaugeVec::new(opts(secrets), &["state"])?)?,
            expiry: register(registry, IntGauge::with_opts(opts(expiry))?)?,
            writes: register(registry, IntCounterVec::new(opts(writes), &["result"])?)?,
        })
    }

    fn refresh(&self, all: &[&SecretStatus]) {
        let left_alone = |status: &SecretStatus| status.foreign || status.left_alone;
        let count = |state: fn(bool, bool) -> bool| all.iter().filter(|status| state(status.current, left_alone(status))).count();
        for (state, count) in [
            ("current", count(|current, _| current)),
            ("left_alone", count(|_, left_alone| left_alone)),
            ("waiting", count(|current, left_alone| !current && !left_alone)),
        ] {
            self.secrets.with_label_values(&[state]).set(whole(count));
        }
        let first = all.iter().filter(|status| !status.foreign).filter_map(|status| status.not_after).min();
        self.expiry.set(first.map_or(0, time::OffsetDateTime::unix_timestamp));
        // A cluster that is left takes its counts along; a counter only grows.
        let counted = |part: fn(&SecretStatus) -> u64| all.iter().map(|status| part(status)).sum::<u64>();
        for (result, count) in [
            ("written", counted(|status| status.written)),
            ("conflict", counted(|status| status.conflicts)),
            ("failed", counted(|status| status.failures)),
        ] {
            catch_up(&self.writes.with_label_values(&[result]), count);
        }
    }
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
            istiod_tls: SecretMetrics::new(
                registry,
                ["meshmint_istiod_tls", "istiods whose certificate is ours, by whether their Secret istiod-tls is as it shall be."],
                [
                    "meshmint_istiod_cert_expiry_timestamp",
                    "notAfter of the certificate of an istiod that ends first, Unix seconds; 0 where there is none or this replica doesn't see to it.",
                ],
                ["meshmint_istiod_tls_writes_total", "Writes of Secrets istiod-tls, by what became of them."],
            )?,
            istiod_webhooks: register(
                registry,
                IntGaugeVec::new(
                    Opts::new("meshmint_istiod_webhooks", "istiod's webhook configurations, by whether they show the trust bundle."),
                    &["state"],
                )?,
            )?,
            cacerts: SecretMetrics::new(
                registry,
                ["meshmint_cacerts", "istiods that shall sign below our root, by whether their Secret cacerts is as it shall be."],
                [
                    "meshmint_cacerts_expiry_timestamp",
                    "notAfter of the intermediate of an istiod that ends first, Unix seconds; 0 where there is none or this replica doesn't see to it.",
                ],
                ["meshmint_cacerts_writes_total", "Writes of Secrets cacerts, by what became of them."],
            )?,
        };
        let nothing = ControllersSeen { root_maps: Vec::new(), istiod: Vec::new(), cacerts: Vec::new(), now: Duration::ZERO };
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
        self.istiod_tls.refresh(&seen.istiod.iter().map(|status| &status.secret).collect::<Vec<_>>());
        let of = |part: fn(&IstiodTlsStatus) -> usize| seen.istiod.iter().map(part).sum::<usize>();
        let (webhooks, webhooks_behind) = (of(|status| status.webhooks), of(|status| status.webhooks_behind));
        self.istiod_webhooks.with_label_values(&["current"]).set(whole(webhooks.saturating_sub(webhooks_behind)));
        self.istiod_webhooks.with_label_values(&["behind"]).set(whole(webhooks_behind));
        self.cacerts.refresh(&seen.cacerts.iter().collect::<Vec<_>>());
    }
}
