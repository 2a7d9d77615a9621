//! How well the callers' cluster is known: its watches, live looks, and reviews of tokens.

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::{catch_up, register, whole};
use crate::cluster::{ClusterStatus, LookupCounts, RemoteStatus, Resource};

/// What a scrape sees of a cluster.
#[derive(Debug)]
pub(in crate::server) struct ClusterSeen {
    pub(in crate::server) status: ClusterStatus,
    pub(in crate::server) reviews: LookupCounts,
    pub(in crate::server) remotes: Vec<RemoteStatus>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct ClusterMetrics {
    age: IntGaugeVec,
    objects: IntGaugeVec,
    lists: IntCounterVec,
    failures: IntCounterVec,
    asked: IntCounterVec,
    past_warn_after: IntCounter,
    remotes: IntGaugeVec,
}

/// What is asked of the API server beside watches: kinds of questions, and what became of them.
const QUESTIONS: [&str; 3] = ["object", "placement", "token_review"];

impl ClusterMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauges = |name: &str, help: &str| register(registry, IntGaugeVec::new(Opts::new(name, help), &["resource"])?);
        let counters = |name: &str, help: &str, labels: &[&str]| register(registry, IntCounterVec::new(Opts::new(name, help), labels)?);
        let metrics = Self {
            age: gauges(
                "meshmint_cluster_watch_age_seconds",
                "Time since the API server said something in this watch, -1 where nothing was listed yet; up to a minute is usual.",
            )?,
            objects: gauges("meshmint_cluster_objects", "Objects that are known of the cluster.")?,
            lists: counters("meshmint_cluster_lists_total", "How often all objects were listed.", &["resource"])?,
            failures: counters("meshmint_cluster_watch_failures_total", "Lists and watches that failed.", &["resource"])?,
            asked: counters(
                "meshmint_cluster_questions_total",
                "Live questions to the API server beside watches, by what was asked and what became of it.",
                &["question", "result"],
            )?,
            remotes: register(
                registry,
                IntGaugeVec::new(
                    Opts::new("meshmint_remote_clusters", "Other clusters that Secrets name, by whether their tokens count."),
                    &["state"],
                )?,
            )?,
            past_warn_after: register(
                registry,
                IntCounter::new("meshmint_tokens_past_warn_after_total", "Good tokens that their client should have read again long ago.")?,
            )?,
        };
        metrics.refresh(None);
        Ok(metrics)
    }

    pub(super) fn past_warn_after(&self) {
        self.past_warn_after.inc();
    }

    pub(super) fn refresh(&self, seen: Option<&ClusterSeen>) {
        for resource in Resource::ALL {
            let watch = seen.and_then(|seen| seen.status.watches.iter().find(|watch| watch.resource == resource));
            let label = [resource.name()];
            self.age.with_label_values(&label).set(watch.and_then(|watch| watch.age).map_or(-1, |age| whole(age.as_secs())));
            self.objects.with_label_values(&label).set(watch.map_or(0, |watch| whole(watch.objects)));
            catch_up(&self.lists.with_label_values(&label), watch.map_or(0, |watch| watch.lists));
            catch_up(&self.failures.with_label_values(&label), watch.map_or(0, |watch| watch.failures));
        }
        let remotes = seen.map(|seen| seen.remotes.as_slice()).unwrap_or_default();
        let joined = remotes.iter().filter(|remote| remote.joined).count();
        self.remotes.with_label_values(&["joined"]).set(whole(joined));
        self.remotes.with_label_values(&["waiting"]).set(whole(remotes.len() - joined));
        let counts = seen.map(|seen| [seen.status.objects, seen.status.placements, seen.reviews]).unwrap_or_default();
        for (question, LookupCounts { answered, failed, limited }) in QUESTIONS.into_iter().zip(counts) {
            for (result, count) in [("answered", answered), ("failed", failed), ("limited", limited)] {
                catch_up(&self.asked.with_label_values(&[question, result]), count);
            }
        }
    }
}
