//! `meshmint config print` and `meshmint config check FILE`. Called by `main` through the commands; starts nothing and changes nothing.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::outcome::{Outcome, Output};
use crate::config::{Config, ConfigError, Problem, Source};

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
    #[command(
        after_help = "Example:\n  meshmint config check meshmint.yaml\n\nExit code 0: it can be used. 1: every problem is on stderr, with its line and column and what would be right."
    )]
    Check {
        /// The YAML file
        file: PathBuf,
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
        ConfigCommand::Check { file, output } => check(file, *output, env, out, err),
    };
    // Nobody reads on (a closed pipe): there is nobody to tell.
    done.unwrap_or(Outcome::Failed)
}

fn check(
    file: &std::path::Path,
    output: Output,
    env: impl Iterator<Item = (String, String)>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> std::io::Result<Outcome> {
    let name = file.display().to_string();
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => {
            writeln!(err, "error: can't read {name}: {error}\nA file to start from: meshmint config print > meshmint.yaml")?;
            return Ok(Outcome::Failed);
        }
    };
    let problems = match Config::load(Some((&name, &text)), env) {
        Ok(_) => Vec::new(),
        Err(ConfigError::Values(problems)) => problems,
        Err(ConfigError::Syntax { name, line, column, reason }) => {
            vec![Problem {
                key: "document".to_owned(),
                source: Source::File { name, line, column },
                reason: format!("not readable as YAML: {reason}"),
            }]
        }
    };
    for problem in &problems {
        writeln!(err, "{problem}")?;
    }
    match output {
        Output::Json => {
            writeln!(out, "{:#}", serde_json::json!({ "ok": problems.is_empty(), "problems": problems.iter().map(json).collect::<Vec<_>>() }))?
        }
        Output::Text if problems.is_empty() => writeln!(out, "{name}: ok")?,
        Output::Text => {}
    }
    if problems.is_empty() {
        return Ok(Outcome::Ok);
    }
    writeln!(err, "{name}: {} to put right; `meshmint config print` shows every key", problems.len())?;
    Ok(Outcome::Failed)
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
