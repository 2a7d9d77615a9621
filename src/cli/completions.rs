//! `meshmint completions`: what a shell needs to complete our commands.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Outcome, answered};

/// `meshmint completions`
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    meshmint completions bash > /etc/bash_completion.d/meshmint\n  \
    meshmint completions zsh > ~/.zfunc/_meshmint\n  \
    meshmint completions fish > ~/.config/fish/completions/meshmint.fish")]
pub(super) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(args: &Args) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "meshmint", &mut script);
    answered(&String::from_utf8_lossy(&script))
}
