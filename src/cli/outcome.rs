//! How a command ended, and in which form it prints.

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Ok,
    /// It failed.
    Failed,
    /// It was called wrongly.
    Usage,
    /// It did its work and found something to warn of.
    Warnings,
}

impl Outcome {
    /// 0 ok, 1 failed, 2 wrong usage, 3 warnings only.
    pub fn exit_code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Warnings => 3,
        })
    }
}

/// The form of what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}
