//! `meshmint check`: asks a running server whether it is well, as far as it knows itself and as far as it can be seen from here.

mod client;
mod mesh;
mod permissions;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::Resettable;

use self::client::Asker;
use self::mesh::{Expected, judge};
use self::report::Report;
use super::admin_client::Target;
use super::{Outcome, Output, answered, failed, screen};
use crate::clock::SystemClock;
use crate::cluster::{Access, ApiError, Installed, Surveyor};
use crate::config::{Config, parse_duration};
use crate::pki::certificates_from_pem;
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
    meshmint check --kube --bundle bundle.pem\n  \
    meshmint check --kube --as-service-account alice\n  \
    meshmint check --kube --address localhost:8444 --server-name meshmint.meshmint-system.svc \
      --roots roots.pem --token-file token\n\n\
    Exit code 0: all is well. 1: something has failed. 3: warnings only. `meshmint check --explain ledger-space` explains a line.",
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
    /// The trust bundle (`meshmint bundle`) that the mesh should have, for --kube where no server can be asked from here
    #[arg(long, value_name = "FILE", requires = "kube")]
    bundle: Option<PathBuf>,
    /// Ask again every second until all is well, at most for so long (90s, 10m)
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    wait: Option<Duration>,
    /// Print what this line of the report means and what to do, and ask nobody
    #[arg(long, value_name = "CHECK", value_parser = explained, exclusive = true)]
    explain: Option<String>,
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// The section of docs/checks.md for a check's id.
fn explained(id: &str) -> Result<String, String> {
    const PAGE: &str = include_str!("../../docs/checks.md");
    let unknown =
        || format!("no line of the report is called so; they are {}", Check::ALL.iter().map(|check| check.row().id).collect::<Vec<_>>().join(", "));
    let check = Check::find(id).ok_or_else(unknown)?;
    let (_, section) = PAGE.split_once(&format!("\n### {}\n", check.row().id)).ok_or_else(unknown)?;
    let end = ["\n### ", "\n## "].iter().filter_map(|heading| section.find(heading)).min().unwrap_or(section.len());
    Ok(format!("{}\n\n{}\n\nWhat to do: {}.\n", check.row().id, section.get(..end).unwrap_or_default().trim(), check.row().hint))
}

pub(super) async fn run(args: Args) -> Outcome {
    if let Some(section) = &args.explain {
        return answered(section);
    }
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
    let asked = Asker { target, config: config.clone(), clock: SystemClock::shared() }.ask(&mut report).await;
    if let Some(access) = cluster {
        let mut expected = Expected::default();
        (expected.bundle, expected.hosts) = asked.unwrap_or_default();
        match args.bundle.as_deref().map(bundle).transpose() {
            Ok(bundle) => expected.bundle = bundle.or(expected.bundle),
            Err(problem) => {
                report.failed(Check::MeshReadable, "the trust bundle can't be used", problem);
                return report;
            }
        }
        look_at_mesh(args, access, config.as_ref(), expected, &mut report).await;
    }
    report
}

async fn look_at_mesh(args: &Args, access: Access, config: Option<&Config>, mut expected: Expected, report: &mut Report) {
    let clock = SystemClock::shared();
    let Some(account) = args.account.split_once('/') else {
        return report.failed(Check::MeshReadable, "--account is NAMESPACE/NAME", args.account.clone());
    };
    let (surveyor, kubernetes) = match Surveyor::connect(&access, clock.clone()).await {
        Ok(connected) => connected,
        Err(error) => return report.failed(Check::MeshReadable, "the cluster can't be looked at", error.to_string()),
    };
    report.ok(Check::MeshReadable, "the cluster answers");
    mesh::clock(&kubernetes, clock.now(), report);
    let installed = surveyor.installed(account).await;
    let config = look_at_permissions(&surveyor, account, config, &installed, report).await;
    let cacerts = config.as_ref().and_then(|config| Some((config.controllers.cacerts.as_ref()?, &config.cluster_id)));
    expected.plugged_in = cacerts.is_some_and(|(cacerts, here)| cacerts.are_of(here));
    let found = surveyor.mesh().await;
    mesh::versions(&kubernetes, &found, installed.as_ref().ok().and_then(Option::as_ref), report);
    judge(&found, &expected, report);
}

/// What our account needs with the configuration of the file, else with the one that is installed, else in any case; returns that configuration.
async fn look_at_permissions(
    surveyor: &Surveyor,
    account: (&str, &str),
    config: Option<&Config>,
    installed: &Result<Option<Installed>, ApiError>,
    report: &mut Report,
) -> Option<Config> {
    let name = format!("{}/{}", account.0, account.1);
    let (config, for_what) = match (config, installed) {
        (Some(config), _) => (Some(Ok(config.clone())), "with this configuration"),
        (None, Ok(Some(Installed { configuration: Some(yaml), .. }))) => {
            // Not with the variables of this machine.
            (Some(Config::load(Some(("meshmint.yaml", yaml)), std::iter::empty())), "with its configuration")
        }
        (None, Ok(_)) => (None, "in any case"),
        (None, Err(_)) => (None, "in any case; its configuration can't be read"),
    };
    let config = match config.transpose() {
        Ok(config) => config,
        Err(error) => {
            report.warning(Check::MeshPermissions, format!("{name} has a configuration that this command can't read"), error.to_string());
            return None;
        }
    };
    match permissions::needed(config.as_ref(), account.0) {
        Ok(needed) => mesh::permissions(&surveyor.lacking(account, &needed).await, &name, for_what, report),
        Err(error) => report.failed(Check::MeshPermissions, "the rules that are needed can't be read", error),
    }
    config
}

/// A trust bundle from a file: at least one certificate.
fn bundle(file: &std::path::Path) -> Result<String, String> {
    let name = file.display().to_string();
    let pem = std::fs::read_to_string(file).map_err(|error| format!("can't read {name}: {error}"))?;
    certificates_from_pem(&pem).map(|_| pem).map_err(|error| format!("{name}: {error}"))
}

fn read(file: &std::path::Path) -> Result<Config, String> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|error| format!("can't read {name}: {error}"))?;
    Config::load(Some((&name, &text)), std::env::vars()).map_err(|error| error.to_string())
}
