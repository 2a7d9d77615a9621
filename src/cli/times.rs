//! Times on the command line, RFC 3339: what an operator writes, also relative to now (`-2h`, `+30m`), and what he is shown.

use prost_types::Timestamp;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::config::parse_duration;

/// A point in time as an operator writes it.
#[derive(Debug, Clone, Copy)]
pub(super) enum When {
    /// Absolute.
    At(OffsetDateTime),
    /// Relative to now.
    In(time::Duration),
}

impl When {
    /// The point in time.
    pub(super) fn relative_to(self, now: OffsetDateTime) -> OffsetDateTime {
        match self {
            Self::At(at) => at,
            Self::In(offset) => now.saturating_add(offset),
        }
    }
}

/// A time for people, to the second; empty where it is not set.
pub(super) fn rfc3339(at: Option<&Timestamp>) -> String {
    at.and_then(|at| OffsetDateTime::from_unix_timestamp(at.seconds).ok()).and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
}

/// Reads one.
///
/// # Errors
/// In words.
pub(super) fn parse(text: &str) -> Result<When, String> {
    let usage = || format!("{text:?} is neither RFC 3339 (2026-11-23T18:00:00Z) nor relative to now (-2h, +30m)");
    let offset = |text: &str| {
        let duration = parse_duration(text).map_err(|_| usage())?;
        time::Duration::try_from(duration).map_err(|_| usage())
    };
    match text.split_at_checked(1) {
        Some(("-", past)) => Ok(When::In(-offset(past)?)),
        Some(("+", ahead)) => Ok(When::In(offset(ahead)?)),
        _ => OffsetDateTime::parse(text, &Rfc3339).map(When::At).map_err(|_| usage()),
    }
}
