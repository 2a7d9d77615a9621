//! How often something may happen: a token bucket, kept as the one time at which it would be full again (the generic cell rate algorithm). Used wherever
//! something is bounded by time: live looks at an API server, writes to one, fetches of a key set, lines of the log, bad tokens of a connection.

use std::time::Duration;

/// A bucket that fills at an even pace. It has no clock of its own: all times are of one monotonic clock.
#[derive(Debug, Clone)]
pub struct Rate {
    /// The time between two turns of an even stream.
    step: Duration,
    /// How far ahead of the even stream turns may be.
    ahead: Duration,
    /// When the next turn would be due if all had been evenly spread.
    due: Duration,
}

impl Rate {
    /// One turn for each `step` on the long run, `together` of them at once after a pause (at least one). It begins full.
    pub const fn every(step: Duration, together: u32) -> Self {
        Self { step, ahead: step.saturating_mul(together.saturating_sub(1)), due: Duration::ZERO }
    }

    /// So many turns a second on the long run, `together` of them at once after a pause (at least one). It begins full; of 0 a second there are no more
    /// than those.
    pub const fn per_second(turns: u32, together: u32) -> Self {
        match Duration::from_secs(1).checked_div(turns) {
            Some(step) => Self::every(step, together),
            None => Self::every(ENDLESS, together),
        }
    }

    /// Takes a turn at `now`, or says when there is the next one.
    ///
    /// # Errors
    /// The time, not earlier than `now`, at which it is worth coming again.
    pub fn take(&mut self, now: Duration) -> Result<(), Duration> {
        let next = self.next(now);
        if next > now {
            return Err(next);
        }
        self.due = self.due.max(now).saturating_add(self.step);
        Ok(())
    }

    /// Whether there is a turn at `now`; it isn't taken.
    pub fn has_turn(&self, now: Duration) -> bool {
        self.next(now) <= now
    }

    fn next(&self, now: Duration) -> Duration {
        self.due.max(now).saturating_sub(self.ahead)
    }
}

/// Thirty years: longer than any process lives, and `u32::MAX` of them still have a sum.
const ENDLESS: Duration = Duration::from_secs(1_000_000_000);

#[cfg(test)]
mod tests {
    use super::*;

    /// How many turns there are at this time.
    fn turns(rate: &mut Rate, millis: u64) -> usize {
        (0..100_000).take_while(|_| rate.take(Duration::from_millis(millis)).is_ok()).count()
    }

    #[test]
    fn so_many_together_and_then_an_even_stream() {
        let mut rate = Rate::per_second(10, 5);
        assert_eq!(turns(&mut rate, 0), 5);
        assert_eq!(turns(&mut rate, 99), 0);
        assert_eq!(turns(&mut rate, 100), 1);
        assert_eq!(turns(&mut rate, 350), 2);
        assert_eq!(turns(&mut rate, 400), 1, "what was left of the time before isn't lost");
        assert_eq!(turns(&mut rate, 60_000), 5, "a pause never brings more than those");
        assert_eq!((0..10_000).filter(|millis| rate.take(Duration::from_millis(60_001 + millis)).is_ok()).count(), 100);
    }

    #[test]
    fn it_says_when_there_is_the_next_one() {
        let (mut rate, now) = (Rate::every(Duration::from_secs(10), 1), Duration::from_secs(3));
        assert!(rate.has_turn(now));
        assert_eq!(rate.take(now), Ok(()));
        assert!(!rate.has_turn(Duration::from_secs(12)));
        assert_eq!(rate.take(Duration::from_secs(12)), Err(Duration::from_secs(13)));
        assert_eq!(rate.take(Duration::from_secs(13)), Ok(()));
    }

    #[test]
    fn none_in_a_second_is_only_those_together() {
        let mut rate = Rate::per_second(0, 1_000);
        assert_eq!(turns(&mut rate, 0), 1_000);
        assert_eq!(turns(&mut rate, 1_000_000_000), 0);
        assert_eq!(turns(&mut Rate::per_second(0, u32::MAX), 0), 100_000);
        assert_eq!(turns(&mut Rate::every(Duration::MAX, 1), 7), 1);
    }
}
