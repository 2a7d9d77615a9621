//! The line that shows how a load goes, once a second, on a terminal.

use std::time::Duration;

use super::tally::Second;

/// From one line to the next.
pub(super) const EACH: Duration = Duration::from_secs(1);

/// The line.
#[derive(Debug)]
pub(super) struct Progress {
    is_terminal: bool,
    began: Duration,
}

impl Progress {
    /// For a load that began at `began`.
    pub(super) fn new(is_terminal: bool, began: Duration) -> Self {
        Self { is_terminal, began }
    }

    /// Writes over the line that is there.
    pub(super) fn show(&self, at: Duration, second: Second) {
        if self.is_terminal {
            anstream::eprint!("\r\x1b[K{}", line(at.saturating_sub(self.began), second));
        }
    }

    /// Removes it.
    pub(super) fn clear(&self) {
        if self.is_terminal {
            anstream::eprint!("\r\x1b[K");
        }
    }
}

fn line(at: Duration, second: Second) -> String {
    format!("{:>5} s  {:>7} certificates/s  p99 {:>8.1} ms  {} errors", at.as_secs(), second.served, second.p99, second.errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_time_rate_latency_and_errors() {
        let line = line(Duration::from_millis(7900), Second { served: 4321, p99: 12.34, errors: 5 });
        assert_eq!(line, "    7 s     4321 certificates/s  p99     12.3 ms  5 errors");
    }
}
