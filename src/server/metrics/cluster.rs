//! How well the callers' clusters are known: watches of each, and of our own live looks and reviews of tokens. The label `cluster` is the
//! configuration's name or what Secrets of ours say, one value for each cluster; no caller can make one.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::{catch_up, register, whole};
use crate::cluster::{ClusterStatus, LookupCounts, RemoteStatus, Resource, WatchStatus};

/// What a scrape sees of a cluster.
#[derive(Debug)]
pub(in crate::server) struct ClusterSeen {
    pub(in crate::server) status: ClusterStatus,
    pub(in crate::server) reviews: LookupCounts,
}

/// All of them.
#[derive(Debug)]
pub(super) struct ClusterMetrics {
    age: IntGaugeVec,
    /// Whose ages are shown.
    shown: Mutex<Vec<String>>,
    objects: IntGaugeVec,
    lists: IntCounterVec,
    failures: IntCounterVec,
    asked: IntCounterVec,
    past_warn_after: IntCounter,
}

/// What is asked of the API server beside watches: kinds of questions, and what became of them.
const QUESTIONS: [&str; 3] = ["object", "placement", "token_review"];

impl ClusterMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauges = |name: &str, help: &str, labels: &[&str]| register(registry, IntGaugeVec::new(Opts::new(name, help), labels)?);
        let counters = |name: &str, help: &str, labels: &[&str]| register(registry, IntCounterVec::new(Opts::new(name, help), labels)?);
        let metrics = Self {
            age: gauges(
                "meshmint_cluster_watch_age_seconds",
                "Time since the API server said something in this watch, -1 where nothing was listed yet; up to a minute is usual.",
                &["cluster", "resource"],
            )?,
            shown: Mutex::default(),
            objects: gauges("meshmint_cluster_objects", "Objects that are known of the cluster.", &["resource"])?,
            lists: counters("meshmint_cluster_lists_total", "How often all objects were listed.", &["resource"])?,
            failures: counters("meshmint_cluster_watch_failures_total", "Lists and watches that failed.", &["resource"])?,
            asked: counters(
                "meshmint_cluster_questions_total",
                "Live questions to the API server beside watches, by what was asked and what became of it.",
                &["question", "result"],
            )?,
            past_warn_after: register(
                registry,
                IntCounter::new("meshmint_tokens_past_warn_after_total", "Good tokens that their client should have read again long ago.")?,
            )?,
        };
        metrics.refresh(None, &[]);
        Ok(metrics)
    }

    pub(super) fn past_warn_after(&self) {
        self.past_warn_after.inc();
    }

    pub(super) fn refresh(&self, seen: Option<&ClusterSeen>, remotes: &[RemoteStatus]) {
        let own = seen.map(|seen| (seen.status.cluster.as_str(), seen.status.watches.as_slice())).unwrap_or_default();
        let others = remotes.iter().filter_map(|remote| Some((remote.cluster.as_str(), remote.known.as_ref()?.watches.as_slice())));
        self.ages(&others.chain([own]).collect());
        for resource in Resource::ALL {
            let watch = seen.and_then(|seen| seen.status.watches.iter().find(|watch| watch.resource == resource));
            let label = [resource.name()];
            self.objects.with_label_values(&label).set(watch.map_or(0, |watch| whole(watch.objects)));
            catch_up(&self.lists.with_label_values(&label), watch.map_or(0, |watch| watch.lists));
            catch_up(&self.failures.with_label_values(&label), watch.map_or(0, |watch| watch.failures));
        }
        let counts = seen.map(|seen| [seen.status.objects, seen.status.placements, seen.reviews]).unwrap_or_default();
        for (question, LookupCounts { answered, failed, limited }) in QUESTIONS.into_iter().zip(counts) {
            for (result, count) in [("answered", answered), ("failed", failed), ("limited", limited)] {
                catch_up(&self.asked.with_label_values(&[question, result]), count);
            }
        }
    }

    /// How old each watch of each of these clusters is; one that went leaves nothing behind.
    fn ages(&self, clusters: &BTreeMap<&str, &[WatchStatus]>) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = shown.iter().filter(|cluster| !clusters.contains_key(cluster.as_str()));
        for (cluster, resource) in gone.flat_map(|cluster| Resource::ALL.map(|resource| (cluster, resource))) {
            // An error says that it isn't there, which is what is wanted.
            self.age.remove_label_values(&[cluster.as_str(), resource.name()]).ok();
        }
        for (cluster, watches) in clusters {
            for resource in Resource::ALL {
                let age = watches.iter().find(|watch| watch.resource == resource).and_then(|watch| watch.age);
                self.age.with_label_values(&[*cluster, resource.name()]).set(age.map_or(-1, |age| whole(age.as_secs())));
            }
        }
        *shown = clusters.keys().map(|cluster| (*cluster).to_owned()).collect();
    }
}
