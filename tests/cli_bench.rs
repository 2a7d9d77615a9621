//! `meshmint bench` against a real `meshmint dev`: each way of loading, what its JSON says, and its exit codes. No figure is judged here: speed is
//! measured on a machine where nothing else runs (docs/performance.md).
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/process.rs"]
mod process;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::process::Output;

use serde_json::Value;

use crate::process::{Dev, meshmint};

/// Runs `meshmint bench --dev DIR … -o json` with few keys.
fn bench(dev: &Dev, more: &[&str]) -> (Option<i32>, Value) {
    let dir = dev.dir().to_str().unwrap();
    read(&meshmint(&[&["bench", "--dev", dir, "--keys", "4", "--threads", "2", "-o", "json"], more].concat()))
}

fn read(output: &Output) -> (Option<i32>, Value) {
    let json = serde_json::from_slice(&output.stdout);
    (output.status.code(), json.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr))))
}

/// 0, or 3 where the only thing to warn of is that this machine had no room for a load.
fn went_well(code: Option<i32>, report: &Value) {
    assert_eq!(code, Some(if report["void"] == true { 3 } else { 0 }), "{report:#}");
}

fn positive(report: &Value, pointer: &str) -> f64 {
    let number = report.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer} is no number: {report:#}"));
    assert!(number > 0.0, "{pointer} is {number}");
    number
}

#[test]
fn a_closed_loop_on_kept_connections_reports_everything() {
    let dev = Dev::start();
    let (code, report) =
        bench(&dev, &["--accounts", "3", "--connections", "2", "--in-flight", "3", "--requests", "40", "--verify", "10", "--floor", "--settle"]);
    went_well(code, &report);
    assert_eq!((&report["mode"], report["certificates"].as_u64()), (&Value::from("closed"), Some(40)));
    assert_eq!((report["handshakes"].as_u64(), report["verified"].as_u64()), (Some(2), Some(4)));
    assert_eq!((report["load"]["tokens"].as_u64(), report["load"]["keys"].as_u64()), (Some(15), Some(4)));
    let latency: Vec<_> =
        ["p50", "p90", "p99", "p999", "max"].map(|quantile| positive(&report, &format!("/latency_ms/{quantile}"))).into_iter().collect();
    assert!(latency.is_sorted(), "{latency:?}");
    for pointer in ["/certificates_per_second", "/seconds", "/client_core_share", "/server/cpu_us_per_certificate", "/server/resident_bytes"] {
        positive(&report, pointer);
    }
    assert_eq!(report["server"]["pid"], dev.endpoints["pid"]);
    assert_eq!(report["server"]["settled"], true);
    assert!(positive(&report, "/server/peak_resident_bytes") >= positive(&report, "/server/resident_bytes"));
    let sum: f64 = ["p256_verify_us", "p256_sign_us", "rs256_verify_us"].map(|piece| positive(&report, &format!("/floor/{piece}"))).iter().sum();
    let ratio = positive(&report, "/server/cpu_us_per_certificate") / sum;
    assert!((positive(&report, "/floor/ratio") / ratio - 1.0).abs() < 1e-6);
    for nothing in ["/refused/count", "/connection_errors/count", "/wrong_answers/count", "/not_sent", "/unanswered"] {
        assert_eq!(report.pointer(nothing), Some(&Value::from(0)), "{nothing}");
    }
    // The server saw the same.
    assert_eq!(dev.metric("citadel_server_success_cert_issuance_count"), 41.0, "40, and the one of dev's demonstration");
}

#[test]
fn new_connections_are_a_handshake_for_each_certificate() {
    let dev = Dev::start();
    let (code, report) =
        bench(&dev, &["--new-connections", "--connections", "2", "--in-flight", "2", "--requests", "20", "--source-addresses", "5", "--verify", "1"]);
    went_well(code, &report);
    assert_eq!((report["certificates"].as_u64(), report["handshakes"].as_u64(), report["verified"].as_u64()), (Some(20), Some(20), Some(20)));
}

#[test]
fn an_open_loop_sends_what_it_was_told_to() {
    let dev = Dev::start();
    for more in [&[][..], &["--new-connections"]] {
        let (code, report) = bench(&dev, &[&["--rate", "100", "--requests", "20", "--connections", "2"], more].concat());
        went_well(code, &report);
        assert_eq!((&report["mode"], report["certificates"].as_u64()), (&Value::from("open"), Some(20)));
        assert!(report["seconds"].as_f64().unwrap() >= 0.19, "20 requests, 10 ms apart: {report:#}");
    }
}

#[test]
fn every_client_of_a_herd_is_served() {
    let dev = Dev::start();
    let (code, report) = bench(&dev, &["--accounts", "3", "--herd", "50", "--source-addresses", "10"]);
    went_well(code, &report);
    assert_eq!((report["herd"]["clients"].as_u64(), report["herd"]["served"].as_u64()), (Some(50), Some(50)));
    assert!(report["herd"]["tries"].as_u64().unwrap() >= 50);
    assert!(positive(&report, "/herd/seconds_until_last") <= positive(&report, "/seconds"));
    assert_eq!(report["load"]["tokens"].as_u64(), Some(51), "17 pods of 3 accounts");
}

#[test]
fn a_herd_that_nobody_serves_ends_with_a_failure() {
    let dev = Dev::start();
    let roots = dev.roots();
    let file = dev.dir().join("token");
    std::fs::write(&file, "no.such.token").unwrap();
    let (csr, roots, token) = (dev.csr(), roots.to_str().unwrap(), file.to_str().unwrap());
    let words = ["bench", &csr, "--ca", roots, "--token-file", token, "--keys", "1", "--herd", "2", "--duration", "1s", "-o", "json"];
    let (code, report) = read(&meshmint(&words));
    assert_eq!((code, report["herd"]["served"].as_u64()), (Some(1), Some(0)));
    assert_eq!(report["herd"]["seconds_until_last"], Value::Null);
    // Never tried again at once, and after about half a second on a new connection, which was made at once.
    let tries = report["herd"]["tries"].as_u64().unwrap();
    assert!((2..=6).contains(&tries), "{report:#}");
    assert_eq!(report["refused"]["codes"]["UNAUTHENTICATED"]["count"].as_u64(), Some(tries));
    let handshakes = report["handshakes"].as_u64().unwrap();
    assert!((tries..=tries + 2).contains(&handshakes), "{report:#}");
}

#[test]
fn idle_connections_are_held_and_weighed() {
    let dev = Dev::start();
    let (code, report) = bench(&dev, &["--idle", "20"]);
    went_well(code, &report);
    assert_eq!((report["idle"]["held"].as_u64(), report["certificates"].as_u64()), (Some(20), Some(20)));
    assert!(report["idle"]["server_bytes_per_connection"].is_f64(), "{report:#}");
}

#[test]
fn clients_can_ask_later_than_they_connect() {
    let dev = Dev::start();
    for more in [&["--herd", "5"][..], &["--new-connections", "--requests", "5", "--connections", "1", "--in-flight", "5"]] {
        let (code, report) = bench(&dev, &[&["--ask-later", "300ms"], more].concat());
        went_well(code, &report);
        assert_eq!((report["certificates"].as_u64(), report["load"]["ask_later_seconds"].as_f64()), (Some(5), Some(0.3)));
        assert!(positive(&report, "/latency_ms/p50") >= 300.0, "{report:#}");
    }
}

#[test]
fn idle_connections_are_held_beside_other_loads_for_as_long_as_wanted() {
    let dev = Dev::start();
    let (code, report) = bench(&dev, &["--idle", "10", "--accounts", "1", "--hold", "1s"]);
    went_well(code, &report);
    assert_eq!((report["idle"]["held"].as_u64(), report["idle"]["open_after_hold"].as_u64()), (Some(10), Some(10)));
    let mut server = Dev::start();
    let pid = server.child().id();
    let dir = server.dir().to_str().unwrap().to_owned();
    let mut held = std::process::Command::new(env!("CARGO_BIN_EXE_meshmint"))
        .args(["bench", "--dev", &dir, "--keys", "1", "--idle", "3", "--hold", "1s", "-o", "json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = std::io::BufReader::new(held.stderr.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    assert_eq!(line, "3 connections are held for 1 s\n", "said once all are open, so that something else can begin");
    server.child().kill().unwrap();
    let (_, report) = read(&held.wait_with_output().unwrap());
    assert_eq!((report["server"]["pid"].as_u64(), report["idle"]["open_after_hold"].as_u64()), (Some(pid.into()), Some(0)));
}

#[test]
fn answers_can_be_left_unread() {
    let dev = Dev::start();
    let (code, report) = bench(&dev, &["--read-nothing", "--connections", "3", "--in-flight", "4", "--duration", "1s"]);
    went_well(code, &report);
    assert_eq!((&report["mode"], report["certificates"].as_u64()), (&Value::from("read nothing"), Some(0)));
    assert_eq!((report["unread"]["connections"].as_u64(), report["unread"]["requests"].as_u64()), (Some(3), Some(12)));
    assert!(report["unread"]["server_bytes_per_connection"].is_f64(), "{report:#}");
    // It has asked for them, and the server has signed them.
    assert_eq!(dev.metric("citadel_server_success_cert_issuance_count"), 13.0, "12, and the one of dev's demonstration");
}

#[test]
fn accounts_can_be_chosen_so_that_two_loads_are_apart() {
    let dev = Dev::start();
    let (code, report) = bench(&dev, &["--accounts", "2", "--first-account", "7", "--pods", "1", "--token-signature", "es256", "--requests", "8"]);
    went_well(code, &report);
    let listed = meshmint(&["certs", "list", "--dir", dev.dir().to_str().unwrap(), "-o", "json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let all = listed["certificates"].as_array().unwrap().iter();
    let accounts: BTreeSet<_> = all.filter_map(|certificate| certificate["spiffeId"].as_str()).filter(|id| id.contains("/ns/bench-")).collect();
    let expected = ["spiffe://cluster.local/ns/bench-0/sa/account-8", "spiffe://cluster.local/ns/bench-3/sa/account-7"];
    assert_eq!(accounts, expected.into());
}

#[test]
fn refusals_are_counted_by_code() {
    let dev = Dev::start();
    let folder = dev.dir().join("tokens");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("good"), dev.token("shop", "cart", &[])).unwrap();
    let wrong = folder.join("wrong");
    std::fs::write(&wrong, dev.token("shop", "cart", &["--audience", "somebody-else"])).unwrap();
    let (csr, roots) = (dev.csr(), dev.roots());
    let run = |tokens: &std::path::Path| {
        let words = ["bench", &csr, "--ca", roots.to_str().unwrap(), "--token-file", tokens.to_str().unwrap()];
        read(&meshmint(&[&words[..], &["--keys", "2", "--connections", "1", "--in-flight", "2", "--requests", "10", "-o", "json"]].concat()))
    };
    let (code, report) = run(&wrong);
    assert_eq!((code, report["certificates"].as_u64(), report["refused"]["count"].as_u64()), (Some(1), Some(0), Some(10)));
    let unauthenticated = &report["refused"]["codes"]["UNAUTHENTICATED"];
    assert_eq!(unauthenticated["count"].as_u64(), Some(10));
    assert!(unauthenticated["first"].as_str().unwrap().contains("authentication failed"), "{report:#}");
    positive(&report, "/refused/latency_ms/p99");
    assert_eq!(report["latency_ms"], Value::Null);
    let (code, report) = run(&folder);
    assert_eq!((code, report["certificates"].as_u64(), report["refused"]["count"].as_u64()), (Some(3), Some(5), Some(5)));
}

#[test]
fn without_a_credential_one_refusal_is_enough() {
    let dev = Dev::start();
    let roots = dev.roots();
    let output = meshmint(&["bench", &dev.csr(), "--ca", roots.to_str().unwrap(), "--keys", "1", "--duration", "60s"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the CA refused a first request") && said.contains("UNAUTHENTICATED") && said.contains("--token-file"), "{said}");
    assert_eq!(dev.metric(r#"meshmint_refusals_total{code="Unauthenticated",reason="no_credential"}"#), 1.0);
}

#[test]
fn a_server_that_dies_takes_no_results_with_it() {
    let mut dev = Dev::start();
    let args = ["bench", "--dev", dev.dir().to_str().unwrap(), "--keys", "1", "--warm-up", "0s", "--duration", "3s", "-o", "json"];
    let mut bench = std::process::Command::new(env!("CARGO_BIN_EXE_meshmint"));
    let bench = bench.args(args).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    process::wait_for("certificates", || (dev.metric("citadel_server_success_cert_issuance_count") > 20.0).then_some(()));
    dev.child().kill().unwrap();
    dev.child().wait().unwrap();
    let output = bench.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert!(report["certificates"].as_u64().unwrap() > 0 && report["server"].is_null(), "{report:#}");
    assert!(said.contains("what the server used isn't known"), "{said}");
}

#[test]
fn what_cannot_be_measured_is_said_at_once() {
    let dev = Dev::start();
    let (dir, roots) = (dev.dir().to_str().unwrap(), dev.roots());
    let roots = roots.to_str().unwrap();
    // Bound and closed again: nobody listens there.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let csr = dev.csr();
    std::fs::write(dev.dir().join("other.pem"), rcgen_root()).unwrap();
    let other = dev.dir().join("other.pem");
    let cases: [(&[&str], &str); 6] = [
        (&[&nobody, "--ca", roots], "connect_refused"),
        (&[&csr, "--ca", other.to_str().unwrap()], "tls_failed"),
        (&[&csr, "--ca", "no-such-file"], "no-such-file"),
        (&["--dev", "no-such-folder"], "is `meshmint dev"),
        (&["--dev", dir, "--server-pid", "4294967295"], "4294967295"),
        (&["--dev", dir, "--herd", "10000000"], "don't fit"),
    ];
    for (words, expected) in cases {
        let output = meshmint(&[&["bench"], words].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{words:?}: {said}");
        assert!(said.to_lowercase().contains(expected), "{words:?}: {said}");
    }
    assert_eq!(meshmint(&["bench", &csr]).status.code(), Some(2));
}

/// A root that signed nothing here.
fn rcgen_root() -> String {
    let made = rcgen::generate_simple_self_signed(vec!["elsewhere".to_owned()]).unwrap();
    meshmint::pki::certificate_to_pem(made.cert.der())
}
