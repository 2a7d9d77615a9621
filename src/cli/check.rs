//! `meshmint check`: asks a running server whether it is well, as far as it knows itself and as far as it can be seen from here.

mod client;
mod mesh;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::Resettable;

use self::client::Asker;
use self::mesh::{Expected, NEEDED, judge};
use self::report::Report;
use super::admin_client::Target;
use super::{Outcome, Output, answered, failed, screen};
use crate::clock::SystemClock;
use crate::cluster::{Access, survey};
use crate::config::{Config, parse_duration};
use crate::server::checkup::Check;

/// The pause between two tries of `--wait`.
const PAUSE: Duration = Duration::from_secs(1);

/// `meshmint check`
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    meshmint check\n  \
    meshmint check --config /etc/meshmint/meshmint.yaml\n  \
    meshmint check --admin /run/meshmint/admin.sock --wait 1m -o json\n  \
    meshmint check --kube --context staging\n  \
    meshmint check --kube --as-service-account alice\n  \
    meshmint check --kube --address localhost:8444 --server-name meshmint.meshmint-system.svc \
      --roots roots.pem --token-file token\n\n\
    Exit code 0: all is well. 1: something has failed. 3: warnings only. docs/checks.md explains each line.",
    mut_arg("kube", |kube| kube.conflicts_with(Resettable::Reset).conflicts_with("dir").help(
        "Look at the mesh in a cluster too, as the person that the kubeconfig names: before and after installing. The server that is asked is the \
        one that runs there, where it has an admin port, unless another is named (--admin, --address, --config)")))]
pub(super) struct Args {
    #[command(flatten)]
    target: Target,
    /// The configuration of the server: names its socket, and what its certificate should say
    #[arg(long, value_name = "FILE", conflicts_with = "dir")]
    config: Option<PathBuf>,
    /// The service account that meshmint runs as, for --kube
    #[arg(long, value_name = "NAMESPACE/NAME", default_value = "meshmint-system/meshmint")]
    account: String,
    /// Ask again every second until all is well, at most for so long (90s, 10m)
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    wait: Option<Duration>,
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(super) async fn run(args: Args) -> Outcome {
    let clock = SystemClock::shared();
    let until = clock.monotonic().saturating_add(args.wait.unwrap_or(Duration::ZERO));
    let report = loop {
        let report = look(&args).await;
        if report.outcome() == Outcome::Ok || clock.monotonic() >= until {
            break report;
        }
        clock.sleep_until((clock.monotonic() + PAUSE).min(until)).await;
    };
    let written = match args.output {
        Output::Text => answered(&report.text(screen::is_rich())),
        Output::Json => report.json().map_or_else(failed, |json| answered(&(json + "\n"))),
    };
    // What could not be written has no verdict.
    if written == Outcome::Ok { report.outcome() } else { written }
}

async fn look(args: &Args) -> Report {
    let mut report = Report::default();
    let config = match args.config.as_ref().map(|file| read(file)).transpose() {
        Ok(config) => config,
        Err(problem) => {
            report.failed(Check::ConfigReadable, "the configuration can't be used", problem);
            return report;
        }
    };
    let target = match &config {
        Some(config) => args.target.clone().or_socket(&config.admin_socket),
        None => args.target.clone(),
    };
    let cluster = target.cluster();
    let asked = Asker { target, config, clock: SystemClock::shared() }.ask(&mut report).await;
    if let Some(access) = cluster {
        let (bundle, hosts) = asked.unwrap_or_default();
        let expected = Expected { account: args.account.clone(), bundle, hosts };
        look_at_mesh(access, &expected, &mut report).await;
    }
    report
}

async fn look_at_mesh(access: Access, expected: &Expected, report: &mut Report) {
    let Some(account) = expected.account.split_once('/') else {
        return report.failed(Check::MeshReadable, "--account is NAMESPACE/NAME", expected.account.clone());
    };
    match survey(&access, account, NEEDED, SystemClock::shared()).await {
        Ok(found) => {
            report.ok(Check::MeshReadable, "the cluster answers");
            judge(&found, expected, report);
        }
        Err(error) => report.failed(Check::MeshReadable, "the cluster can't be looked at", error.to_string()),
    }
}

fn read(file: &std::path::Path) -> Result<Config, String> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|error| format!("can't read {name}: {error}"))?;
    Config::load(Some((&name, &text)), std::env::vars()).map_err(|error| error.to_string())
}
