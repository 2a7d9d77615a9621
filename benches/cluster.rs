//! What a cluster costs: `cargo bench --bench cluster -- [SECONDS]`, on a machine that has nothing else to do. Real API server, etcd and PostgreSQL;
//! meshmint and `meshmint bench` on a core each, as docs/performance.md wants it. Plain figures for a person; nothing here is a test.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

#[path = "../tests/common/in_cluster.rs"]
mod common;
#[path = "../tests/common/postgres.rs"]
mod postgres;
#[path = "../tests/common/replicas.rs"]
mod replicas;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::common::cluster::BoundTo;
use crate::common::load::ask_once;
use crate::common::process::Serve;
use crate::common::serve_yaml;
use crate::replicas::{Replica, World};

/// Workloads that ask, in as many accounts.
const PODS: usize = 40;
/// A large cluster's.
const MANY_PODS: u32 = 10_000;
/// New pods whose first certificate is measured.
const NEW_PODS: usize = 300;

/// A server on this core, and its load.
fn pin(child: &mut Child, core: usize) {
    let done = Command::new("taskset").args(["-a", "-c", "-p", &core.to_string(), &child.id().to_string()]).stdout(Stdio::null()).status().unwrap();
    assert!(done.success());
}

struct Load {
    child: Child,
    _folder: TempDir,
}

/// Begins a load of `meshmint bench` on this core.
fn load(serve: &mut Serve, bundle: &str, tokens: &Path, core: usize, more: &[&str]) -> Load {
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, bundle).unwrap();
    let child = Command::new("taskset")
        .args(["-c", &core.to_string(), env!("CARGO_BIN_EXE_meshmint"), "bench", &serve.csr.to_string(), "--server-name", "localhost", "-o", "json"])
        .args(["--server-pid", &serve.child().id().to_string(), "--settle", "--warm-up", "2s"])
        .args(["--ca".as_ref(), roots.as_os_str(), "--token-file".as_ref(), tokens.as_os_str()])
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Load { child, _folder: folder }
}

impl Load {
    fn end(self) -> Value {
        let output = self.child.wait_with_output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(report["void"] == false && report["refused"]["count"] == 0, "{report:#}");
        report
    }
}

fn show(name: &str, report: &Value) -> f64 {
    let server = &report["server"];
    let each = server["cpu_us_per_certificate"].as_f64().unwrap();
    let ratio = report["floor"]["ratio"].as_f64().map_or_else(String::new, |ratio| format!(", {ratio:.2} times the floor"));
    let resident = server["resident_bytes"].as_f64().unwrap() / f64::from(1 << 20);
    let rate = report["certificates_per_second"].as_f64().unwrap();
    println!("{name:<58} {rate:7.0}/s  {each:6.1} µs each{ratio}, {resident:.0} MiB");
    each
}

/// Makes the workloads; returns the folder of their tokens.
async fn workloads(world: &World) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..PODS {
        let name = format!("load-{number}");
        world.admin.workload(&name).await;
        std::fs::write(folder.path().join(&name), world.admin.workload_token(&name).await).unwrap();
    }
    folder
}

/// One process with files and SQLite, its keys from a file: the figure that the others are compared with.
async fn standalone(world: &World, tokens: &Path, seconds: &str) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("jwks.json");
    std::fs::write(&keys, world.admin.text("/openid/v1/jwks").await.unwrap()).unwrap();
    let kubeconfig = world.kubeconfig();
    let yaml = serve_yaml(folder.path(), "Kubernetes", &kubeconfig, "", "")
        .replace("keys: { apiServer: true }", &format!("keys: {{ file: {} }}", keys.display()))
        .replace(&format!("cluster: {{ kubeconfig: {} }}\n", kubeconfig.display()), "")
        .replace("level: debug", "level: info");
    assert!(yaml.contains("keys: { file:") && !yaml.contains("kubeconfig"), "{yaml}");
    let mut serve = Serve::start(folder.path(), &yaml);
    let bundle = bundle(folder.path());
    pin(serve.child(), 0);
    show("standalone: keys from a file, SQLite", &load(&mut serve, &bundle, tokens, 1, &["--duration", seconds, "--floor"]).end())
}

fn bundle(folder: &Path) -> String {
    let socket = folder.join("admin.sock");
    String::from_utf8(common::process::meshmint(&["bundle", "--admin", socket.to_str().unwrap()]).stdout).unwrap()
}

fn main() {
    let seconds: u64 = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(10);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(seconds));
}

async fn run(seconds: u64) {
    let duration = format!("{seconds}s");
    let world = World::start().await;
    let tokens = workloads(&world).await;
    let alone = standalone(&world, tokens.path(), &duration).await;

    let mut one = world.quiet_replica();
    let bundle = one.bundle();
    pin(one.serve.child(), 0);
    let report = load(&mut one.serve, &bundle, tokens.path(), 1, &["--duration", &duration, "--floor"]).end();
    let in_cluster = show("one replica: tokens of the cluster, PostgreSQL", &report);
    println!("{:<58} {:.2} times the standalone figure", "", in_cluster / alone);

    let idle = requests_during(&world, None).await;
    let busy = requests_during(&world, Some(load(&mut one.serve, &bundle, tokens.path(), 1, &["--duration", "58s"]))).await;
    println!("{:<58} {idle} idle, {busy} under load", "requests to the API server in a minute");

    let mut two = world.quiet_replica();
    pin(two.serve.child(), 1);
    let loads = [
        load(&mut one.serve, &bundle, tokens.path(), 1, &["--duration", &duration]),
        load(&mut two.serve, &bundle, tokens.path(), 0, &["--duration", &duration]),
    ];
    // A bench that shares its core with the other's server is late, and no measure of anything but CPU.
    let reports = loads.map(|load| serde_json::from_slice::<Value>(&load.child.wait_with_output().unwrap().stdout).unwrap());
    let sum = |what: fn(&Value) -> f64| reports.iter().map(what).sum::<f64>();
    let each = sum(|report| report["server"]["cpu_seconds"].as_f64().unwrap()) * 1e6 / sum(|report| report["certificates"].as_f64().unwrap());
    println!(
        "{:<58} {each:6.1} µs each: {:.0} % of one replica's certificates per CPU second",
        "two replicas, a core each",
        100.0 * in_cluster / each
    );

    first_certificates(&world, &one, &bundle, "a new pod's first certificate").await;
    drop((one, two));

    world.admin.workload("many").await;
    world.admin.pods("many", MANY_PODS).await;
    let mut many = world.quiet_replica();
    pin(many.serve.child(), 0);
    let name = format!("one replica that watches {MANY_PODS} pods");
    show(&name, &load(&mut many.serve, &bundle, tokens.path(), 1, &["--duration", &duration, "--floor"]).end());
    first_certificates(&world, &many, &bundle, "a new pod's first certificate there").await;
    drop(many);

    // Without `watch` no watch ever knows it, so each question is a live one.
    let rules = without_watch();
    world.admin.set_rules(&rules).await;
    let live = world.quiet_replica();
    first_certificates(&world, &live, &bundle, "the same, each after a live GET").await;
}

fn without_watch() -> Value {
    let mut rules = common::cluster::rbac()[0]["rules"].clone();
    for rule in rules.as_array_mut().unwrap() {
        rule["verbs"].as_array_mut().unwrap().retain(|verb| verb != "watch");
    }
    rules
}

/// Requests that the API server counts while this load runs, or a minute without any.
async fn requests_during(world: &World, load: Option<Load>) -> u64 {
    let before = world.admin.requests().await;
    let began = Instant::now();
    if let Some(load) = load {
        tokio::task::spawn_blocking(|| load.end()).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(62).saturating_sub(began.elapsed())).await;
    world.admin.requests().await - before
}

async fn first_certificates(world: &World, replica: &Replica, bundle: &str, name: &str) {
    let asked = |replica: &Replica| replica.serve.metric("meshmint_cluster_questions_total{question=\"object\",result=\"answered\"}");
    let before = asked(replica);
    let mut times = Vec::new();
    for number in 0..NEW_PODS {
        // Two measurements, each with pods of its own.
        let pod = format!("new-{number}-{}", replica.serve.csr.port());
        world.admin.pod("load-0", &pod, "load-0", "load-0").await;
        let token = world.admin.token("load-0", "load-0", BoundTo::Pod(&pod), "istio-ca", 3600).await;
        let began = Instant::now();
        ask_once(replica.serve.csr, bundle, Some(&token)).await.unwrap();
        times.push(began.elapsed());
    }
    times.sort();
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
    println!("{name:<58} p50 {:.1} ms, p99 {:.1} ms, the most {:.1} ms ({} live questions)", at(50), at(99), at(100), asked(replica) - before);
}
