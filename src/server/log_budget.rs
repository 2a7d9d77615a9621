//! A bound on log lines that strangers cause: what they may cost is bounded on the disk too. Metrics count every refusal all the same.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Lines in one second; more are left out.
const LINES_PER_SECOND: u64 = 100;

/// The budget.
#[derive(Debug, Default)]
pub(super) struct LogBudget {
    /// The second that is being counted (upper half), and its lines (lower half).
    window: AtomicU64,
}

impl LogBudget {
    /// Whether a line may be written at this monotonic time.
    pub(super) fn take(&self, now: Duration) -> bool {
        let second = now.as_secs() & u64::from(u32::MAX);
        let counted = self.window.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |window| {
            let lines = if window >> 32 == second { window & u64::from(u32::MAX) } else { 0 };
            (lines < LINES_PER_SECOND).then_some(second << 32 | (lines + 1))
        });
        counted.is_ok()
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
            let written = (0..LINES_PER_SECOND * 2).filter(|_| budget.take(now)).count();
            assert_eq!(written as u64, LINES_PER_SECOND);
        }
    }
}
