//! Counters by label, each looked up once. prometheus finds a counter behind a lock and by a hash of its labels; a request that is
//! turned away in a flood of them must cost less.

use std::collections::BTreeMap;

use arc_swap::ArcSwap;
use prometheus::{IntCounter, IntCounterVec};

/// Counters whose labels are all words of ours.
#[derive(Debug)]
pub(super) struct Counters<const N: usize> {
    family: IntCounterVec,
    /// Those that were counted already, or are there from the start.
    known: ArcSwap<BTreeMap<[&'static str; N], IntCounter>>,
}

impl<const N: usize> Counters<N> {
    /// Counters of a registered `family`; those of `first` are shown from the start, as 0: a rate sees the first event only where
    /// there was something before it.
    pub(super) fn new(family: IntCounterVec, first: &[[&'static str; N]]) -> Self {
        let known = first.iter().map(|labels| (*labels, family.with_label_values(labels))).collect();
        Self { family, known: ArcSwap::from_pointee(known) }
    }

    /// Counts one.
    pub(super) fn inc(&self, labels: [&'static str; N]) {
        if let Some(counter) = self.known.load().get(&labels) {
            return counter.inc();
        }
        let counter = self.family.with_label_values(&labels);
        counter.inc();
        self.known.rcu(|known| {
            let mut known = BTreeMap::clone(known);
            known.insert(labels, counter.clone());
            known
        });
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Opts;

    use super::*;

    #[test]
    fn every_event_counts_whether_its_labels_were_known_or_not() {
        let family = IntCounterVec::new(Opts::new("events_total", "Events."), &["kind", "reason"]).unwrap();
        let counters = Counters::new(family.clone(), &[["good", "none"]]);
        assert_eq!(family.with_label_values(&["good", "none"]).get(), 0);
        for _ in 0..3 {
            counters.inc(["good", "none"]);
            counters.inc(["bad", "late"]);
        }
        assert_eq!(family.with_label_values(&["good", "none"]).get(), 3);
        assert_eq!(family.with_label_values(&["bad", "late"]).get(), 3);
    }
}
