//! What is kept up in the clusters: the root ConfigMap in each namespace, the certificates of istiods, the intermediates of
//! istiods that sign. All clusters together; no label names a namespace or a cluster.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::{register, whole};
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
    writes: Writes,
    istiod_tls: SecretMetrics,
    istiod_webhooks: IntGaugeVec,
    cacerts: SecretMetrics,
}

/// A Secret for each of some istiods.
#[derive(Debug)]
struct SecretMetrics {
    secrets: IntGaugeVec,
    expiry: IntGauge,
    writes: Writes,
}

/// Writes by what became of them. What they are counted by begins anew with each term of a leader, and a cluster that is left takes its counts along; so
/// only what came since the last scrape is added.
#[derive(Debug)]
struct Writes {
    counters: IntCounterVec,
    seen: [AtomicU64; 3],
}

impl Writes {
    fn new(registry: &Registry, [name, help]: [&str; 2]) -> Result<Self, prometheus::Error> {
        let counters = register(registry, IntCounterVec::new(Opts::new(name, help), &["result"])?)?;
        Ok(Self { counters, seen: Default::default() })
    }

    /// Written, conflicts, failed. Only under the lock of a scrape.
    fn refresh(&self, counts: [u64; 3]) {
        for ((result, seen), count) in ["written", "conflict", "failed"].into_iter().zip(&self.seen).zip(counts) {
            self.counters.with_label_values(&[result]).inc_by(count.saturating_sub(seen.swap(count, Ordering::Relaxed)));
        }
    }
}

impl SecretMetrics {
    /// By their names and what they say.
    fn new(registry: &Registry, secrets: [&str; 2], expiry: [&str; 2], writes: [&str; 2]) -> Result<Self, prometheus::Error> {
        let opts = |[name, help]: [&str; 2]| Opts::new(name, help);
        Ok(Self {
            secrets: register(registry, IntGaugeVec::new(opts(secrets), &["state"])?)?,
            expiry: register(registry, IntGauge::with_opts(opts(expiry))?)?,
            writes: Writes::new(registry, writes)?,
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
        let counted = |part: fn(&SecretStatus) -> u64| all.iter().map(|status| part(status)).sum::<u64>();
        self.writes.refresh([counted(|status| status.written), counted(|status| status.conflicts), counted(|status| status.failures)]);
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
            writes: Writes::new(registry, ["meshmint_root_configmap_writes_total", "Writes of root ConfigMaps, by what became of them."])?,
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
        let counted = |part: fn(&RootMapStatus) -> u64| seen.root_maps.iter().map(part).sum::<u64>();
        self.writes.refresh([counted(|maps| maps.written), counted(|maps| maps.conflicts), counted(|maps| maps.failures)]);
        self.istiod_tls.refresh(&seen.istiod.iter().map(|status| &status.secret).collect::<Vec<_>>());
        let of = |part: fn(&IstiodTlsStatus) -> usize| seen.istiod.iter().map(part).sum::<usize>();
        let (webhooks, webhooks_behind) = (of(|status| status.webhooks), of(|status| status.webhooks_behind));
        self.istiod_webhooks.with_label_values(&["current"]).set(whole(webhooks.saturating_sub(webhooks_behind)));
        self.istiod_webhooks.with_label_values(&["behind"]).set(whole(webhooks_behind));
        self.cacerts.refresh(&seen.cacerts.iter().collect::<Vec<_>>());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_that_begin_anew_are_added_to_what_was() {
        let writes = Writes::new(&Registry::new(), ["writes_total", "Writes."]).unwrap();
        // Two terms, and nobody leads in between.
        for counts in [[3, 0, 0], [5, 1, 0], [0, 0, 0], [2, 0, 1], [2, 0, 4]] {
            writes.refresh(counts);
        }
        let counted = |result: &str| writes.counters.with_label_values(&[result]).get();
        assert_eq!(["written", "conflict", "failed"].map(counted), [7, 1, 4]);
    }
}
