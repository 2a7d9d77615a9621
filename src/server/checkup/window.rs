//! What was counted in the last minutes: counters that only grow, looked at now and then.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Counts by reason since the start.
pub(super) type Counts = BTreeMap<String, u64>;

/// Counts as they were, oldest first; at most one of them is older than `span`.
#[derive(Debug)]
pub(super) struct Window {
    span: Duration,
    notes: VecDeque<(Duration, Counts)>,
}

impl Window {
    /// Looks so far back.
    pub(super) fn over(span: Duration) -> Self {
        Self { span, notes: VecDeque::new() }
    }

    /// Notes the counts of this moment.
    pub(super) fn note(&mut self, now: Duration, counts: Counts) {
        self.notes.push_back((now, counts));
        while self.notes.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= self.span) {
            self.notes.pop_front();
        }
    }

    /// What was counted since the oldest note, most first. Before the first note there was nothing.
    pub(super) fn since(&self, counts: &Counts) -> Vec<(String, u64)> {
        let before = |reason: &String| self.notes.front().and_then(|(_, counts)| counts.get(reason)).copied().unwrap_or(0);
        let mut grown: Vec<_> = counts.iter().map(|(reason, count)| (reason.clone(), count.saturating_sub(before(reason)))).collect();
        grown.retain(|(_, count)| *count > 0);
        grown.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
        grown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(overloaded: u64, other: u64) -> Counts {
        [("overloaded".to_owned(), overloaded), ("other".to_owned(), other)].into()
    }

    #[test]
    fn only_the_last_minute_counts() {
        let mut window = Window::over(Duration::from_secs(60));
        assert_eq!(window.since(&counts(0, 1)), [("other".to_owned(), 1)]);
        for second in 0..200 {
            window.note(Duration::from_secs(second), counts(second, 0));
        }
        assert_eq!(window.notes.len(), 61);
        assert_eq!(window.since(&counts(199, 2)), [("overloaded".to_owned(), 60), ("other".to_owned(), 2)]);
        window.note(Duration::from_secs(1000), counts(199, 2));
        window.note(Duration::from_secs(2000), counts(199, 2));
        assert_eq!(window.since(&counts(199, 2)), []);
    }
}
