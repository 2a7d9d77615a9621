//! When each namespace may be written again: not while a write is under way, not before the watch has shown what was written, later and later where
//! writing fails, and no more than now and then where somebody else keeps writing something else there.

use std::collections::HashMap;
use std::time::Duration;

/// What was tried, by namespace. One that was left in peace for [`QUIET`] is forgotten.
#[derive(Debug, Default)]
pub(super) struct Attempts(HashMap<Box<str>, Attempt>);

#[derive(Debug, Default)]
struct Attempt {
    under_way: bool,
    /// When the latest write ended.
    ended: Duration,
    /// Not before this.
    until: Duration,
    /// What the watch showed when the latest write began, until it shows something else.
    replaced: Option<Box<str>>,
    /// What the watch showed when the latest write began, where that failed.
    failed_over: Option<Box<str>>,
    /// In a row.
    failures: u32,
    /// In a row.
    conflicts: u32,
    /// Writes that went through, since it was quiet last.
    writes: u32,
}

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is as it shall be.
    Written,
    /// Somebody else was faster.
    Conflict,
    /// It can't be written.
    Failed,
}

/// How long the watch may take to show what was written.
const SHOWN_WITHIN: Duration = Duration::from_secs(10);
/// After this a namespace that is written again is no longer one that is fought over.
const QUIET: Duration = Duration::from_secs(300);
/// So many writes before it is quiet go at once.
const AT_ONCE: u32 = 5;
/// Pauses of each kind: the first, doubling up to the last.
const AFTER_FAILURE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
const AFTER_CONFLICT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
const WHILE_FOUGHT_OVER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The pause after `times` (from 1) in a row.
fn pause((first, last): (Duration, Duration), times: u32) -> Duration {
    first.saturating_mul(1 << times.saturating_sub(1).min(16)).min(last)
}

impl Attempts {
    /// Whether this namespace, of which the watch shows this, may be written at `now`; else the time to look again.
    pub(super) fn may(&self, namespace: &str, shown: &str, now: Duration) -> Result<(), Duration> {
        let Some(attempt) = self.0.get(namespace) else { return Ok(()) };
        if attempt.under_way {
            return Err(Duration::MAX);
        }
        let is_shown = attempt.replaced.as_ref().is_none_or(|replaced| **replaced != *shown);
        // What stood in the way of a write may be gone, as an immutable object that somebody deletes; once a second that is worth a try.
        let is_changed = attempt.failed_over.as_ref().is_some_and(|failed_over| **failed_over != *shown);
        let until = if is_changed { attempt.until.min(attempt.ended + AFTER_FAILURE.0) } else { attempt.until };
        let earliest = if is_shown { until } else { until.max(attempt.ended + SHOWN_WITHIN) };
        if earliest > now { Err(earliest) } else { Ok(()) }
    }

    /// Whether the latest write of it failed.
    pub(super) fn is_failing(&self, namespace: &str) -> bool {
        self.0.get(namespace).is_some_and(|attempt| attempt.failures > 0)
    }

    /// Whether somebody else has written there again and again since it was quiet last.
    pub(super) fn is_fought_over(&self, namespace: &str) -> bool {
        self.0.get(namespace).is_some_and(|attempt| attempt.writes >= AT_ONCE)
    }

    pub(super) fn begin(&mut self, namespace: &str) {
        self.0.entry(namespace.into()).or_default().under_way = true;
    }

    /// Notes how a write ended that began when the watch showed this; `chance` (0 to 1) shortens a pause by up to a half, so that what failed together
    /// doesn't come again together.
    pub(super) fn end(&mut self, namespace: &str, shown: &str, outcome: Outcome, now: Duration, chance: f64) {
        let attempt = self.0.entry(namespace.into()).or_default();
        attempt.under_way = false;
        if now.saturating_sub(attempt.ended) > QUIET {
            attempt.writes = 0;
        }
        attempt.ended = now;
        let (mut failures, mut conflicts, mut replaced, mut failed_over) = (0, 0, None, None);
        let rest = match outcome {
            Outcome::Written => {
                replaced = Some(shown.into());
                attempt.writes += 1;
                if attempt.writes < AT_ONCE { Duration::ZERO } else { pause(WHILE_FOUGHT_OVER, attempt.writes - AT_ONCE + 1) }
            }
            Outcome::Conflict => {
                conflicts = attempt.conflicts + 1;
                pause(AFTER_CONFLICT, conflicts)
            }
            Outcome::Failed => {
                failures = attempt.failures.saturating_add(1);
                failed_over = Some(shown.into());
                pause(AFTER_FAILURE, failures)
            }
        };
        (attempt.failures, attempt.conflicts, attempt.replaced, attempt.failed_over) = (failures, conflicts, replaced, failed_over);
        attempt.until = now + rest.mul_f64(1.0 - chance.clamp(0.0, 1.0) / 2.0);
    }

    /// Takes in what the watch shows: forgets namespaces that are gone, and those that were well for long; what is well was written and doesn't fail.
    pub(super) fn tidy(&mut self, now: Duration, settled: impl Fn(&str) -> Option<bool>) {
        self.0.retain(|namespace, attempt| match settled(namespace) {
            _ if attempt.under_way => true,
            None => false,
            Some(true) => {
                (attempt.failures, attempt.conflicts, attempt.replaced, attempt.failed_over) = (0, 0, None, None);
                now.saturating_sub(attempt.ended) <= QUIET
            }
            Some(false) => true,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn one_write_at_a_time_and_none_before_the_watch_shows_the_last() {
        let mut attempts = Attempts::default();
        assert_eq!(attempts.may("a", "-", S), Ok(()));
        attempts.begin("a");
        assert_eq!(attempts.may("a", "5", S), Err(Duration::MAX));
        attempts.end("a", "5", Outcome::Written, S, 0.0);
        assert_eq!(attempts.may("a", "5", S * 2), Err(S + SHOWN_WITHIN), "the watch lags");
        assert_eq!(attempts.may("a", "6", S * 2), Ok(()), "it shows something else, which may be wrong again");
        assert_eq!(attempts.may("a", "-", S * 2), Ok(()), "deleted");
        assert_eq!(attempts.may("a", "5", S + SHOWN_WITHIN), Ok(()), "it must have missed something");
        attempts.end("b", "-", Outcome::Written, S, 0.0);
        assert_eq!((attempts.may("b", "-", S).is_err(), attempts.may("b", "1", S)), (true, Ok(())));
        attempts.tidy(S, |_| Some(true));
        assert_eq!(attempts.may("b", "-", S), Ok(()), "it was shown, and then deleted");
    }

    #[test]
    fn failures_come_later_and_later_and_one_success_ends_them() {
        let mut attempts = Attempts::default();
        let mut waits = Vec::new();
        for _ in 0..7 {
            attempts.end("a", "-", Outcome::Failed, Duration::ZERO, 0.0);
            waits.push(attempts.may("a", "-", Duration::ZERO).unwrap_err().as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(attempts.may("a", "5", Duration::ZERO), Err(S), "what stood in the way may be gone");
        attempts.end("a", "-", Outcome::Failed, Duration::ZERO, 1.0);
        assert_eq!(attempts.may("a", "-", Duration::ZERO), Err(S * 15), "chance takes off a half at most");
        assert!(attempts.is_failing("a") && !attempts.is_failing("b"));
        attempts.end("a", "-", Outcome::Written, S, 0.0);
        assert!(!attempts.is_failing("a"));
        for _ in 0..100_000 {
            attempts.end("c", "-", Outcome::Conflict, Duration::ZERO, 0.0);
        }
        assert_eq!(attempts.may("c", "-", Duration::ZERO), Err(S * 5));
        assert!(!attempts.is_failing("c"));
    }

    #[test]
    fn a_namespace_that_is_fought_over_is_written_now_and_then_until_it_was_quiet() {
        let mut attempts = Attempts::default();
        let mut now = Duration::ZERO;
        let mut waits = Vec::new();
        for _ in 0..12 {
            attempts.end("a", "-", Outcome::Written, now, 0.0);
            let until = attempts.may("a", "theirs", now).err().unwrap_or(now);
            waits.push((until - now).as_secs());
            now = until;
        }
        assert_eq!(waits, [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60]);
        now += QUIET + S;
        attempts.end("a", "-", Outcome::Written, now, 0.0);
        assert_eq!(attempts.may("a", "theirs", now), Ok(()));
    }

    #[test]
    fn what_is_gone_or_well_is_forgotten() {
        let mut attempts = Attempts::default();
        for name in ["gone", "well", "recent", "waiting"] {
            let ended = if name == "recent" { QUIET } else { Duration::ZERO };
            attempts.end(name, "-", Outcome::Failed, ended, 0.0);
        }
        attempts.begin("under way");
        attempts.tidy(QUIET + S, |name| match name {
            "gone" | "under way" => None,
            name => Some(name != "waiting"),
        });
        let mut left: Vec<_> = attempts.0.keys().map(AsRef::as_ref).collect();
        left.sort_unstable();
        assert_eq!(left, ["recent", "under way", "waiting"]);
        assert!(!attempts.is_failing("recent") && attempts.is_failing("waiting"));
    }
}
