//! `meshmint config print` and `meshmint config check FILE`. Called by `main` through the commands; starts nothing and changes nothing.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use super::outcome::{Outcome, Output};
use super::screen;
use crate::config::{Config, ConfigError, Problem, Source};

/// How much of a file is read.
const MAX_FILE: u64 = 4 << 20;

/// The arguments of `meshmint config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print every key with its default, meaning and bounds
    #[command(after_help = "Example:\n  meshmint config print > meshmint.yaml")]
    Print {
        /// Form: a file to start from, or the table of keys
        #[arg(short, long, value_enum, default_value_t)]
        output: PrintForm,
    },
    /// Check a configuration file, with the environment over it, without starting
    #[command(after_help = "Examples:\n  meshmint config check meshmint.yaml\n  \
            kubectl get configmap meshmint -o jsonpath='{.data.meshmint\\.yaml}' | meshmint config check --elsewhere -\n\n\
            Exit code 0: it can be used. 3: it can, but a file that it names isn't there. 1: every problem is on stderr, in the order of the \
            lines, with its column and what would be right.")]
    Check {
        /// The YAML file; - for stdin
        #[arg(value_name = "FILE|-")]
        file: PathBuf,
        /// It is for another machine: don't look for the files that it names
        #[arg(long)]
        elsewhere: bool,
        /// Form of the answer
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
}

/// The forms of `config print`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum PrintForm {
    /// A commented file that `config check` takes
    #[default]
    Yaml,
    /// The table of keys
    Json,
}

/// Runs the command; `env` is the environment, `out` and `err` where to print.
pub fn run(args: &ConfigArgs, env: impl Iterator<Item = (String, String)>, out: &mut dyn Write, err: &mut dyn Write) -> Outcome {
    let done = match &args.command {
        ConfigCommand::Print { output: PrintForm::Yaml } => write!(out, "{}", Config::default_yaml()).map(|()| Outcome::Ok),
        ConfigCommand::Print { output: PrintForm::Json } => writeln!(out, "{:#}", Config::default_json()).map(|()| Outcome::Ok),
        ConfigCommand::Check { file, elsewhere, output } => check(file, !elsewhere, *output, env, out, err),
    };
    // Nobody reads on (a closed pipe): there is nobody to tell.
    done.unwrap_or(Outcome::Failed)
}

fn check(
    file: &Path,
    look_for_files: bool,
    output: Output,
    env: impl Iterator<Item = (String, String)>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> std::io::Result<Outcome> {
    let is_stdin = file.as_os_str() == "-";
    let name = if is_stdin { "stdin".to_owned() } else { file.display().to_string() };
    let text = match if is_stdin { read_all(std::io::stdin().lock()) } else { File::open(file).and_then(read_all) } {
        Ok(text) => text,
        Err(error) => {
            writeln!(err, "error: can't read {}: {error}", screen::plain(&name))?;
            writeln!(err, "A file to start from: meshmint config print > meshmint.yaml")?;
            return Ok(Outcome::Failed);
        }
    };
    let (problems, missing) = match Config::load(Some((&name, &text)), env) {
        Ok(config) if look_for_files => (Vec::new(), config.missing_files(|path| File::open(path).map(|_| ()))),
        Ok(_) => (Vec::new(), Vec::new()),
        Err(ConfigError::Values(problems)) => (problems, Vec::new()),
        Err(ConfigError::Syntax { name, line, column, reason }) => {
            let (source, reason) = (Source::File { name, line, column }, format!("not readable as YAML: {reason}"));
            (vec![Problem { key: "document".to_owned(), source, reason }], Vec::new())
        }
    };
    for problem in problems.iter().chain(&missing) {
        writeln!(err, "{}", screen::plain(&problem.to_string()))?;
    }
    let name = screen::plain(&name);
    match output {
        Output::Json => {
            let all = |problems: &[Problem]| problems.iter().map(json).collect::<Vec<_>>();
            let answer = serde_json::json!({ "ok": problems.is_empty(), "problems": all(&problems), "missingFiles": all(&missing) });
            writeln!(out, "{}", screen::json_escaped(&format!("{answer:#}")))?;
        }
        Output::Text if !problems.is_empty() => {}
        Output::Text if missing.is_empty() => writeln!(out, "{name}: ok")?,
        Output::Text => writeln!(out, "{name}: can be used where the files are that it names ({} not here)", missing.len())?,
    }
    if problems.is_empty() {
        return Ok(if missing.is_empty() { Outcome::Ok } else { Outcome::Warnings });
    }
    writeln!(err, "{name}: {} to put right; `meshmint config print` shows every key", problems.len())?;
    Ok(Outcome::Failed)
}

/// A configuration has no megabytes.
fn read_all(from: impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    from.take(MAX_FILE).read_to_string(&mut text).map(|_| text)
}

fn json(problem: &Problem) -> serde_json::Value {
    let mut value = serde_json::json!({ "key": problem.key, "reason": problem.reason });
    let place = match &problem.source {
        Source::Default => None,
        Source::File { name, line, column } => Some(("file", serde_json::json!({ "name": name, "line": line, "column": column }))),
        Source::Environment(name) => Some(("environment", name.as_str().into())),
        Source::Flag => Some(("flag", true.into())),
    };
    if let (Some((name, place)), Some(fields)) = (place, value.as_object_mut()) {
        fields.insert(name.to_owned(), place);
    }
    value
}
