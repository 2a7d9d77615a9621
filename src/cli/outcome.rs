//! How every command ends, and in which form it prints data.

use std::process::ExitCode;

/// How a command ended; `main` turns it into the process's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it was asked to (0).
    Ok,
    /// It couldn't, or what it looked at won't do (1).
    Failed,
    /// It was called in a wrong way (2, which clap uses as well).
    Usage,
    /// Nothing failed, but something is worth a look (3).
    Warnings,
}

impl Outcome {
    /// The process's exit code.
    pub fn exit_code(self) -> ExitCode {
        ExitCode::from(self.code())
    }

    fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Warnings => 3,
        }
    }
}

/// The form of what is printed on stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_a_contract() {
        assert_eq!([Outcome::Ok, Outcome::Failed, Outcome::Usage, Outcome::Warnings].map(Outcome::code), [0, 1, 2, 3]);
    }
}
