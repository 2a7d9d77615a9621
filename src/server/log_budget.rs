//! A bound on log lines that strangers cause: what they may cost is bounded on the disk too. Each door has a budget of its own, so that a flood at one
//! doesn't silence another. Metrics count every refusal all the same, and lines that were left out.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::bounds::rate::Rate;

/// The budget of one door.
#[derive(Debug)]
pub(super) struct LogBudget(Mutex<Rate>);

impl LogBudget {
    /// So many lines a second, and as many at once after a pause; more are left out.
    pub(super) fn of(lines_per_second: u32) -> Self {
        Self(Mutex::new(Rate::per_second(lines_per_second, lines_per_second)))
    }

    /// Whether a line may be written at this monotonic time.
    pub(super) fn take(&self, now: Duration) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take(now).is_ok()
    }
}

impl Default for LogBudget {
    /// That of the CSR API.
    fn default() -> Self {
        Self::of(100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_has_its_lines() {
        let budget = LogBudget::default();
        for second in 0..3 {
            let now = Duration::from_millis(second * 1000 + 500);
            assert_eq!((0..200).filter(|_| budget.take(now)).count(), 100);
        }
    }
}
