//! Soak: one server under mixed load, with renewals of everything, pruning, bad clients and connections that come and go. No client that tries
//! again as pilot-agent does may see an error, and nothing of the server may grow.
//!
//! A quarter of a minute in each run of the tests, an hour with MESHMINT_TEST_LONG (`tests/run --all`); MESHMINT_TEST_SOAK_SECONDS sets another time.
//! All lifetimes go with it, so that each run has the same number of renewals at least. `--nocapture` shows the figures.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/api.rs"]
mod common;
#[path = "soak/gauges.rs"]
mod gauges;
#[path = "common/load.rs"]
mod load;
#[path = "soak/mesh.rs"]
mod mesh;
#[path = "soak/operator.rs"]
mod operator;
#[path = "soak/strangers.rs"]
mod strangers;
#[path = "soak/workloads.rs"]
mod workloads;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::process::{PATIENCE, Serve, meshmint, serve_yaml};
use common::tokens::TokenIssuer;
use gauges::{Gauges, Sample, assert_all_flat, median};
use load::{check_ledger, open_ledger};
use mesh::Mesh;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// How long everything takes, from the time of the load.
struct Times {
    load: Duration,
    /// A leaf's and the serving certificate's; the issuing key lives three times as long and is renewed after a third of that.
    lifetime: Duration,
    retention: Duration,
    connection_age: Duration,
}

impl Times {
    fn chosen() -> Self {
        let seconds = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number of seconds"));
        let long = std::env::var_os("MESHMINT_TEST_LONG").is_some();
        let load: u64 = seconds("MESHMINT_TEST_SOAK_SECONDS").unwrap_or(if long { 3600 } else { 14 });
        Self {
            load: Duration::from_secs(load),
            lifetime: Duration::from_secs((load / 16).clamp(6, 60)),
            retention: Duration::from_secs((load / 40).clamp(1, 90)),
            connection_age: Duration::from_secs((load / 16).clamp(3, 30)),
        }
    }

    /// The server's configuration.
    fn yaml(&self, folder: &Path) -> String {
        let Self { lifetime, retention, connection_age, .. } = self;
        let server = format!(
            ", servingLifetime: {}s, requestTimeout: 2s, handshakeTimeout: 2s, keepaliveInterval: 1s, connectionMaxAge: {}s",
            lifetime.as_secs(),
            connection_age.as_secs()
        );
        let more = format!(
            "certificates: {{ defaultLifetime: {0}s, maxLifetime: {0}s, backdate: 1s }}\n\
             authority: {{ issuingLifetime: {1}s }}\n",
            lifetime.as_secs(),
            3 * lifetime.as_secs()
        );
        let yaml = serve_yaml(folder, folder, &server, &more);
        yaml.replace("\nledger: { ", &format!("\nledger: {{ retention: {}s, ", retention.as_secs()))
    }

    /// How long a certificate may be on record: pruning looks every five seconds, and the log of this machine may stall for some.
    fn keep(&self) -> Duration {
        self.lifetime + self.retention + Duration::from_secs(5 + 5)
    }
}

/// Everybody who is there while the load lasts.
fn send_out(runtime: &Runtime, mesh: &Arc<Mesh>, socket: PathBuf) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let _inside = runtime.enter();
    workloads::send_out(mesh, &mut tasks);
    tasks.spawn(strangers::come(mesh.clone()));
    tasks.spawn(operator::asks(mesh.clone(), socket));
    tasks
}

/// Looks at the server once a second for as long as the load lasts; ends early where a client saw what it must not see.
fn watch(times: &Times, gauges: &Gauges, serve: &Serve, tasks: &mut JoinSet<()>) -> Vec<Sample> {
    let mut samples = Vec::new();
    while gauges.began.elapsed() < times.load {
        std::thread::sleep(Duration::from_secs(1).min(times.load / 30));
        samples.push(gauges.look());
        assert_no_fault(serve.log.try_iter());
        if let Some(ended) = tasks.try_join_next() {
            panic!("a client ended after {:?}: {ended:?}", gauges.began.elapsed());
        }
    }
    samples
}

fn assert_no_fault(lines: impl Iterator<Item = Value>) {
    lines.for_each(|line| assert!(line["level"] != "ERROR" && line["level"].is_string(), "{line}"));
}

#[test]
fn nothing_grows_and_nobody_sees_an_error() {
    let (times, folder, issuer) = (Times::chosen(), tempfile::tempdir().unwrap(), TokenIssuer::new());
    issuer.publish(folder.path());
    let (ledger, socket) = (folder.path().join("ledger.db"), folder.path().join("admin.sock"));
    let mut serve = Serve::start(folder.path(), &times.yaml(folder.path()));
    let bundle = meshmint(&["bundle", "--admin", socket.to_str().unwrap()]);
    let mesh = Arc::new(Mesh::around(serve.csr, issuer, String::from_utf8(bundle.stdout).unwrap()));
    let (pid, metrics, health) = (serve.child().id(), serve.metrics, serve.health);
    let gauges = Gauges { pid, metrics, health, ledger: ledger.clone(), began: Instant::now() };
    let before = gauges.look();

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut tasks = send_out(&runtime, &mesh, socket);
    let samples = watch(&times, &gauges, &serve, &mut tasks);
    mesh.stop();
    while let Some(ended) = runtime.block_on(tasks.join_next()) {
        ended.unwrap();
    }
    let loaded = gauges.look();
    report(&before, &samples, &loaded, &mesh);
    let seconds = loaded.at.as_secs();
    assert!(loaded.issued >= mesh.issued() && mesh.issued() > 20 * seconds, "{} certificates in {seconds} s are no load", mesh.issued());
    assert_all_flat(&samples, times.keep());

    // What the load took comes back: connections, files, and the ledger's rows once they are past their retention.
    let at_rest = |what: &str, enough: fn(&Sample, &Sample) -> bool| {
        let came = Instant::now();
        loop {
            let sample = gauges.look();
            if enough(&sample, &before) {
                return;
            }
            assert!(came.elapsed() < times.keep() + PATIENCE, "timed out waiting for {what}: {sample}");
            std::thread::sleep(Duration::from_millis(200));
        }
    };
    at_rest("no connection", |sample, _| sample.connections == 0);
    // The readers of the ledger stay open: four, with three files each.
    at_rest("the files of before", |sample, before| sample.open_files <= before.open_files + 12);
    at_rest("an empty ledger", |sample, _| sample.rows <= 20 && sample.unindexed <= 20);
    assert_no_fault(serve.log.try_iter());
    eprintln!("at rest  {}", gauges.look());

    let (code, log) = serve.terminate();
    assert_no_fault(log.into_iter());
    assert_eq!(code, Some(0));
    check_ledger(&open_ledger(&ledger));
}

fn report(before: &Sample, samples: &[Sample], loaded: &Sample, mesh: &Mesh) {
    eprintln!("before   {before}");
    for quarter in 1..=4 {
        eprintln!("quarter {quarter} {}", samples[quarter * samples.len() / 4 - 1]);
    }
    eprintln!("loaded   {loaded}");
    let medians = |of: fn(&Sample) -> u64| [1, 2, 3, 4].map(|quarter| median(samples, quarter, of));
    let [resident, files, threads] = [medians(|sample| sample.resident >> 10), medians(|sample| sample.open_files), medians(|sample| sample.threads)];
    let log = samples.iter().map(|sample| sample.log >> 10).max();
    eprintln!("medians: resident {resident:?} KiB, files {files:?}, threads {threads:?}; largest log {log:?} KiB");
    eprintln!("{} certificates to good clients; tried again: {:#?}; others: {:#?}", mesh.issued(), mesh.tried_again(), mesh.ends());
}
