//! The commands: one file for each.

mod admin_client;
mod audit;
mod authority;
mod bundle;
mod certs;
mod check;
mod cluster;
mod completions;
mod csr_client;
mod dev;
mod dev_issuer;
mod files;
mod istio;
mod json;
mod limits;
mod log_lines;
mod logging;
mod man;
mod migrate;
mod request;
mod screen;
mod serve;
mod times;
mod token;

use std::io::{ErrorKind, stderr, stdout};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use outcome::{Outcome, Output};

use crate::clock::{SystemClock, SystemEntropy};

pub mod bench;
pub mod config;
pub mod inspect;
pub mod outcome;

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "meshmint",
    version = env!("PROGRAM_VERSION"),
    about = "A SPIFFE certificate authority for Istio meshes",
    after_help = "Begin with:\n  meshmint dev      a CA on this machine, with a demonstration\n\nExit codes: 0 ok, 1 failed, 2 wrong usage, 3 warnings only."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a CA on this machine and show what it does (no cluster needed)
    Dev(dev::Args),
    /// Run the service
    Serve(serve::Args),
    /// Print every configuration key, or check a file
    Config(config::ConfigArgs),
    /// Mint a token of the built-in issuer of `meshmint dev`
    Token(token::TokenArgs),
    /// Get a certificate from any Istio CA
    Request(request::Args),
    /// Show a certificate, chain, bundle, CSR or live TLS server, and what is wrong with it
    Inspect(inspect::InspectArgs),
    /// List and show the certificates that were issued
    Certs(certs::Args),
    /// Show the authorities and the roots of the trust bundle, and let another root join it
    Authority(authority::Args),
    /// Show who changed what, and why
    Audit(audit::Args),
    /// Print the trust bundle
    Bundle(bundle::Args),
    /// Load any Istio CA and measure what it does
    Bench(bench::Args),
    /// Let a running server know another cluster
    Cluster(cluster::Args),
    /// Plan how a mesh moves to meshmint from istiod's CA or istio-csr, or back
    Migrate(migrate::Args),
    /// Ask a running server whether it is well, and what to do where it isn't
    Check(check::Args),
    /// Print what a shell needs to complete these commands
    Completions(completions::Args),
    /// Print or write manual pages
    Man(man::Args),
}

impl Cli {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        let runtime = match &self.command {
            Command::Bench(args) => bench::runtime(args),
            _ => tokio::runtime::Builder::new_multi_thread().enable_all().build(),
        };
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                return failed(format!("the async runtime could not start: {error}")).exit_code();
            }
        };
        let outcome = runtime.block_on(async {
            match self.command {
                Command::Dev(args) => dev::run(args).await,
                Command::Serve(args) => serve::run(args).await,
                Command::Config(args) => config::run(&args, std::env::vars(), &mut stdout(), &mut stderr()),
                Command::Token(args) => {
                    token::run(&args, SystemClock::shared().as_ref(), SystemEntropy::shared().as_ref(), &mut stdout(), &mut stderr())
                }
                Command::Request(args) => request::run(args).await,
                Command::Inspect(args) => inspect::run(&args, &SystemClock::shared()).await,
                Command::Certs(args) => certs::run(args).await,
                Command::Authority(args) => authority::run(args).await,
                Command::Audit(args) => audit::run(args).await,
                Command::Bundle(args) => bundle::run(args).await,
                Command::Bench(args) => bench::run(args).await,
                Command::Cluster(args) => cluster::run(args).await,
                Command::Migrate(args) => migrate::run(args).await,
                Command::Check(args) => check::run(args).await,
                Command::Completions(args) => completions::run(&args),
                Command::Man(args) => man::run(&args),
            }
        });
        // Whatever still waits for a terminal that stands still must not keep the process.
        runtime.shutdown_background();
        outcome.exit_code()
    }
}

/// Prints a command's answer. A reader that has gone (`| head`) is no failure.
fn answered(text: &str) -> Outcome {
    match screen::write(text) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => failed(format!("can't write the answer: {error}")),
        _ => Outcome::Ok,
    }
}

/// Says on stderr what went wrong and what to do next.
fn failed(message: impl std::fmt::Display) -> Outcome {
    // Where nobody can read it, the exit code still says it.
    screen::tell(&format!("error: {message}"));
    Outcome::Failed
}
