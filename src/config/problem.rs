//! What is wrong with a configuration: every wrong value at once, each with its key, its place, and what would be right.

use std::fmt;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The table of keys.
    Default,
    /// A line and column, from 1, of a file.
    File {
        /// The file's name as it was given.
        name: String,
        /// From 1.
        line: u64,
        /// From 1, in characters.
        column: u64,
    },
    /// An environment variable.
    Environment(String),
    /// The command line, or the command itself.
    Flag,
}

impl Source {
    /// The order in which a reader meets them: the lines of the file, then what goes over it, then what nobody gave.
    pub(super) fn cmp_place(&self, other: &Self) -> std::cmp::Ordering {
        let place = |source: &Self| match source {
            Self::File { line, column, .. } => (0, *line, *column),
            Self::Environment(_) => (1, 0, 0),
            Self::Flag => (2, 0, 0),
            Self::Default => (3, 0, 0),
        };
        place(self).cmp(&place(other))
    }
}

/// One wrong value, unknown key, or contradiction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key's path, for example `certificates.jitter`.
    pub key: String,
    /// Where it was given.
    pub source: Source,
    /// What it is, and what would be right.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Default => {}
            Source::File { name, line, column } => write!(formatter, "{name}:{line}:{column}: ")?,
            Source::Environment(name) => write!(formatter, "environment {name}: ")?,
            Source::Flag => formatter.write_str("command line: ")?,
        }
        write!(formatter, "{}: {}", self.key, self.reason)
    }
}

/// Why a configuration can't be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not YAML, or a key twice.
    #[error("{name}:{line}:{column}: not readable as YAML: {reason}")]
    Syntax {
        /// The file's name as it was given.
        name: String,
        /// From 1.
        line: u64,
        /// From 1, in characters.
        column: u64,
        /// The parser's words.
        reason: String,
    },
    /// Values that can't be taken, all of them.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Values(Vec<Problem>),
}
