//! How a command ended, and in which form it prints: shared by all commands.

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Ok,
    /// It failed; stderr says why and what to do.
    Failed,
    /// It was called in a wrong way.
    Usage,
    /// It worked, and there are warnings.
    Warnings,
}

impl Outcome {
    /// The process's exit code: 0, 1, 2 or 3.
    pub fn exit_code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Warnings => 3,
        })
    }
}

/// The form in which data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}
