//! What grpc-go costs a server, beside what `meshmint bench` costs it: `cargo bench --bench agents -- [SECONDS] [ROUNDS]`, and how long a herd of agents
//! waits: `cargo bench --bench agents -- herd [CLIENTS]`. On a machine with two cores that has nothing else to do: the server on one, its clients on
//! the other. Needs `tests/setup tests`. Plain figures for a person; nothing here is a test.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

#[path = "../tests/common/agents.rs"]
mod agents;
#[path = "../tests/common/load.rs"]
mod load;
#[path = "../tests/common/process.rs"]
mod process;
#[path = "../tests/common/tokens.rs"]
mod tokens;
#[path = "../tests/common/tools.rs"]
mod tools;

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::agents::Mesh;

/// Clients run here, the server on core 0.
const CLIENTS_CORE: [&str; 3] = ["taskset", "-c", "1"];

fn main() {
    let words: Vec<_> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let number = |index: usize, default: usize| words.get(index).map_or(default, |word| word.parse().expect("a number"));
    match words.first().map(String::as_str) {
        Some("herd") => herds(number(1, 10_000)),
        _ => both(number(0, 5), number(1, 3)),
    }
}

/// A fresh server on its core, and its process id.
fn start(pods: usize) -> (Mesh, String) {
    let mut mesh = Mesh::start(pods);
    let pid = mesh.serve.child().id().to_string();
    assert!(Command::new("taskset").args(["-a", "-c", "-p", "0", &pid]).stdout(Stdio::null()).status().unwrap().success());
    (mesh, pid)
}

fn figure(report: &Value, pointer: &str) -> f64 {
    report.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {pointer}: {report:#}"))
}

/// Agents as fast as they can, then `meshmint bench` at their rate, then as fast as it can: what a request costs a server depends on how many come
/// with it, so only equal rates compare.
fn both(seconds: usize, rounds: usize) {
    let (mesh, pid) = start(100);
    let duration = format!("{seconds}s");
    let common = ["--warm-up", "1s", "--duration", &duration, "--server-pid", &pid];
    println!("µs of server CPU for each certificate; agents are on grpc-go");
    for (name, agents, bench) in [
        ("kept connections", &["--kept", "8"][..], &[][..]),
        ("kept, grpc-go's own windows", &["--kept", "8", "--plain"], &[]),
        ("a new connection each", &["--new", "64", "--source-addresses", "16"], &["--new-connections", "--source-addresses", "16"]),
    ] {
        for _ in 0..rounds {
            let theirs = mesh.agents(&CLIENTS_CORE, &[&common, agents].concat());
            let rate = figure(&theirs, "/certificates_per_second");
            let paced = mesh.bench(&CLIENTS_CORE, &[&common[..], bench, &["--settle", "--rate", &rate.to_string()]].concat());
            let fast = mesh.bench(&CLIENTS_CORE, &[&common[..], bench, &["--settle"]].concat());
            let each = |report| figure(report, "/server/cpu_us_per_certificate");
            println!(
                "{name:<28} agents {rate:6.0}/s {:6.1}   bench {:6.0}/s {:6.1} ({:.2} ×)   bench {:6.0}/s {:6.1} ({:.2} ×)",
                each(&theirs),
                figure(&paced, "/certificates_per_second"),
                each(&paced),
                each(&theirs) / each(&paced),
                figure(&fast, "/certificates_per_second"),
                each(&fast),
                each(&theirs) / each(&fast),
            );
        }
    }
}

/// Herds from one address, each on a server of its own.
fn herds(clients: usize) {
    for more in [&[][..], &["--ask-later", "1s"], &["--ask-later", "5s"]] {
        let (mesh, pid) = start(clients);
        let words = ["--herd", &clients.to_string(), "--duration", "5m", "--server-pid", &pid];
        let report = mesh.agents(&CLIENTS_CORE, &[&words, more].concat());
        let last = report["seconds_until_last"].as_f64().map_or_else(|| "never".to_owned(), |seconds| format!("{seconds:.1} s"));
        println!(
            "{clients} agents from one address {}: {} served, the last after {last}, half within {:.1} s; {} tries, {} by one; {:.1} s of server CPU, {:.1} s of theirs",
            more.join(" "),
            report["served"],
            figure(&report, "/latency_ms/p50") / 1e3,
            report["tries"],
            report["most_tries"],
            figure(&report, "/server/cpu_seconds"),
            figure(&report, "/client_cpu_seconds"),
        );
    }
}
