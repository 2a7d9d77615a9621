//! `meshmint serve`: the service.

use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};

use super::{Outcome, failed, limits, logging};
use crate::authority::MadeBy;
use crate::clock::{SystemClock, SystemEntropy};
use crate::config::Config;
use crate::server::Server;

/// `meshmint serve`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  meshmint config print > meshmint.yaml\n  meshmint config check meshmint.yaml\n  meshmint serve --config meshmint.yaml\n\n\
    Every key can be overridden by an environment variable, for example MESHMINT_SERVER_LISTEN=127.0.0.1:8443.\n\
    SIGTERM and SIGINT drain and exit 0."
)]
pub(super) struct Args {
    /// The configuration file (YAML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// A key's value over file and environment, for example server.listen=127.0.0.1:8443; may be given more than once
    #[arg(long, value_name = "KEY=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not KEY=VALUE, for example log.level=debug"))?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(super) async fn run(args: Args) -> Outcome {
    let name = args.config.display().to_string();
    let text = match std::fs::read_to_string(&args.config) {
        Ok(text) => text,
        Err(error) => return failed(format!("can't read {name}: {error}. `meshmint config print` prints one to begin with")),
    };
    let flags: Vec<(&str, String)> = args.set.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    let config = match Config::load_with_flags(Some((&name, &text)), std::env::vars(), &flags) {
        Ok(config) => config,
        Err(error) => return failed(error),
    };
    logging::start(&config);
    tracing::info!("effective configuration:\n{}", config.effective_yaml());
    limits::raise_open_files();
    let mut stop = match StopSignals::new() {
        Ok(stop) => stop,
        Err(error) => return failed(format!("signals can't be handled: {error}")),
    };
    let started = tokio::select! {
        started = Server::start(&config, MadeBy::Serve, SystemClock::shared(), SystemEntropy::shared()) => started,
        () = stop.received() => return Outcome::Ok,
    };
    let server = match started {
        Ok(server) => server,
        Err(error) => return failed(error),
    };
    let addresses = server.addresses();
    let csr = addresses.csr.map_or_else(|| "none".to_owned(), |address| address.to_string());
    let admin_network = addresses.admin_network.map(tracing::field::display);
    tracing::info!(csr, health = %addresses.health, metrics = %addresses.metrics, admin = %addresses.admin.display(), admin_network, "ready");
    stop.received().await;
    tracing::info!("draining");
    server.shut_down().await;
    tracing::info!("stopped");
    Outcome::Ok
}

/// SIGTERM and SIGINT.
#[derive(Debug)]
pub(super) struct StopSignals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl StopSignals {
    /// From now on they no longer kill the process.
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Ends at the first of them.
    pub(super) async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
