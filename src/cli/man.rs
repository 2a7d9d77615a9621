//! `meshmint man`: manual pages, made from the same table of commands as `--help`.

use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::files::write_whole;
use super::{Cli, Outcome, answered, failed};

/// `meshmint man`
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    meshmint man | man -l -\n  \
    meshmint man certs watch | man -l -\n  \
    meshmint man --dir /usr/local/share/man/man1")]
pub(super) struct Args {
    /// The command whose page is printed; meshmint's own where there is none
    #[arg(value_name = "COMMAND", conflicts_with = "dir")]
    command: Vec<String>,
    /// Write the page of every command into this folder instead
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Outcome {
    let mut root = Cli::command();
    root.build();
    if let Some(dir) = &args.dir {
        return match std::fs::create_dir_all(dir).and_then(|()| write_all(&root, "meshmint", dir)) {
            Ok(count) => answered(&format!("{count} pages are in {}\n", dir.display())),
            Err(error) => failed(format!("can't write to {}: {error}", dir.display())),
        };
    }
    let (mut command, mut name) = (&root, "meshmint".to_owned());
    for word in &args.command {
        let Some(found) = command.find_subcommand(word) else {
            _ = failed(format!("there is no command `{} {word}`; `meshmint --help` lists them", name.replace('-', " ")));
            return Outcome::Usage;
        };
        command = found;
        name = format!("{name}-{word}");
    }
    match page(command) {
        Ok(page) => answered(&String::from_utf8_lossy(&page)),
        Err(error) => failed(error),
    }
}

/// Writes the pages of a command and of all below it; returns how many.
fn write_all(command: &Command, name: &str, dir: &Path) -> std::io::Result<usize> {
    write_whole(&dir.join(format!("{name}.1")), &page(command)?, 0o644)?;
    let mut count = 1;
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        count += write_all(below, &format!("{name}-{}", below.get_name()), dir)?;
    }
    Ok(count)
}

fn page(command: &Command) -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command.clone()).source(concat!("meshmint ", env!("CARGO_PKG_VERSION"))).manual("meshmint").render(&mut page)?;
    Ok(page)
}
