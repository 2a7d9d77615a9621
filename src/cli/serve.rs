//! `meshmint serve`: the service.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::{Outcome, failed, limits, logging};
use crate::authority::MadeBy;
use crate::clock::{SystemClock, SystemEntropy, within};
use crate::config::Config;
use crate::server::Server;

/// How long everything but requests may take to end, where a task is gone that others may wait for.
const LAST_TASKS: Duration = Duration::from_secs(10);

/// `meshmint serve`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  meshmint config print > meshmint.yaml\n  meshmint config check meshmint.yaml\n  meshmint serve --config meshmint.yaml\n\n\
    Every key can be overridden by an environment variable, for example MESHMINT_SERVER_LISTEN=127.0.0.1:8443.\n\
    SIGTERM and SIGINT drain and exit 0; SIGHUP changes nothing. Relative paths in the file begin at its folder. Exit code 1 while it serves says that a part of it is gone by a bug: start it anew."
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
    let log = match logging::start(&config) {
        Ok(log) => log,
        Err(error) => return failed(format!("the log can't be written: {error}")),
    };
    tracing::info!("effective configuration:\n{}", config.effective_yaml());
    limits::keep_memory_to_ourselves();
    limits::raise_open_files();
    let (mut stop, hangup) = match (StopSignals::new(), signal(SignalKind::hangup())) {
        (Ok(stop), Ok(hangup)) => (stop, hangup),
        (Err(error), _) | (_, Err(error)) => return log.failed(format!("signals can't be handled: {error}")),
    };
    tokio::spawn(answer_hangups(hangup));
    let started = tokio::select! {
        started = Server::start(&config, MadeBy::Serve, SystemClock::shared(), SystemEntropy::shared()) => started,
        () = stop.received() => return Outcome::Ok,
    };
    let server = match started {
        Ok(server) => server,
        Err(error) => return log.failed(error),
    };
    server.count_lost_lines(log.lost());
    let addresses = server.addresses();
    let csr = addresses.csr.map_or_else(|| "none".to_owned(), |address| address.to_string());
    let admin_network = addresses.admin_network.map(tracing::field::display);
    tracing::info!(csr, health = %addresses.health, metrics = %addresses.metrics, admin = %addresses.admin.display(), admin_network, "ready");
    serve(server, stop.received(), config.server.drain_timeout + LAST_TASKS).await
}

/// SIGHUP asks many a service to read its configuration anew, and ends a process that hasn't heard of it.
async fn answer_hangups(mut hangup: tokio::signal::unix::Signal) {
    while hangup.recv().await.is_some() {
        tracing::info!(
            "SIGHUP: nothing was read anew. The configuration is read once, at the start: restart for a change of it. Key sets, passwords, tokens and \
             what a cluster has are read again by themselves"
        );
    }
}

/// Serves until `stop` ends, or until a task that should live is gone; then drains, which in that case takes no longer than `longest`.
async fn serve(server: Server, stop: impl Future<Output = ()>, longest: Duration) -> Outcome {
    let outcome = until_stopped(&server, stop).await;
    tracing::info!("draining");
    if outcome == Outcome::Ok {
        server.shut_down().await;
    } else if within(SystemClock::shared().as_ref(), longest, server.shut_down()).await.is_none() {
        // Others wait for what is gone, and nobody else would end the process: it still says that it lives.
        tracing::error!("not everything could be ended in order");
        return outcome;
    }
    tracing::info!("stopped");
    outcome
}

/// Waits for `stop`, which is as it should be, or for the first task that ended before its time, which isn't.
pub(super) async fn until_stopped(server: &Server, stop: impl Future<Output = ()>) -> Outcome {
    tokio::select! {
        () = stop => Outcome::Ok,
        ended = server.ended() => {
            let how = if ended.panicked { "panicked" } else { "ended" };
            tracing::error!(
                task = ended.task,
                how,
                "a task that lives as long as the process is gone, so a part of the work would never be done again: the process goes down with exit \
                 code 1, and whoever keeps it starts it anew. This is a bug in meshmint: please report it with the lines before this one"
            );
            Outcome::Failed
        }
    }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::future::{pending, ready};
    use std::net::SocketAddr;

    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    async fn start(folder: &TempDir) -> Server {
        // Others of this process may have done it.
        _ = rustls::crypto::ring::default_provider().install_default();
        let dir = folder.path();
        std::fs::write(dir.join("jwks.json"), r#"{"keys":[]}"#).unwrap();
        let config = Config::for_dev(
            dir,
            &"cluster.local".parse().unwrap(),
            SocketAddr::from(([127, 0, 0, 1], 0)),
            &dir.join("admin.sock"),
            "https://issuer.invalid",
        )
        .unwrap();
        Server::start(&config, MadeBy::Serve, SystemClock::shared(), SystemEntropy::shared()).await.unwrap()
    }

    /// The first line of the answer; none where nobody listens.
    async fn readyz(health: SocketAddr) -> Option<String> {
        let mut stream = tokio::net::TcpStream::connect(health).await.ok()?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        answer.lines().next().map(str::to_owned)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn each_task_that_ends_takes_the_process_down_with_exit_code_1() {
        let folder = tempfile::tempdir().unwrap();
        let server = start(&folder).await;
        let tasks: BTreeSet<_> = server.vigil().tasks().into_iter().collect();
        let health = server.addresses().health;
        assert_eq!(readyz(health).await.as_deref(), Some("HTTP/1.1 200 OK"));
        assert_eq!(serve(server, ready(()), PATIENCE).await, Outcome::Ok, "what ends because it shall is no bug");
        let expected = [
            "CSR port",
            "admin socket",
            "checkup",
            "health port",
            "keeper",
            "key sets",
            "ledger probe",
            "metrics port",
            "pruning",
            "serving certificate",
        ];
        assert!(tasks.iter().eq(&expected), "{tasks:?}");

        for task in expected {
            let server = start(&folder).await;
            let health = server.addresses().health;
            assert!(server.vigil().abort(task));
            let ended = server.ended().await;
            assert_eq!((ended.task, ended.panicked), (task, false));
            let status = (task != "health port").then_some("HTTP/1.1 503 Service Unavailable");
            assert_eq!(readyz(health).await.as_deref(), status, "{task}");
            assert_eq!(serve(server, pending(), PATIENCE).await, Outcome::Failed, "{task}");
            assert_eq!(readyz(health).await, None, "{task}: nothing of it is left");
        }
    }
}
