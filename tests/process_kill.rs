//! SIGKILL at any moment: what a client received is on record, the root stays, and the next start works.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/load.rs"]
mod load;
#[path = "common/process.rs"]
mod process;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::load::{Answer, Client, Key, check_ledger, on_record, open_ledger};
use crate::process::{Dev, meshmint, wait_for};

/// More rounds where there is time.
fn rounds(few: usize, many: usize) -> usize {
    if std::env::var_os("MESHMINT_TEST_LONG").is_some() { many } else { few }
}

/// A number below `bound` that nobody chose.
fn random(bound: u64) -> u64 {
    let mut bytes = [0; 8];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes).unwrap();
    u64::from_le_bytes(bytes) % bound
}

/// Where the load goes and what it brought back.
struct Load {
    target: Mutex<SocketAddr>,
    roots: String,
    token: String,
    received: Mutex<Vec<Answer>>,
    stop: AtomicBool,
}

impl Load {
    /// One client: connects, asks until the connection breaks, connects again.
    async fn run(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            let target = *self.target.lock().unwrap();
            let Ok(mut client) = Client::connect(target, &self.roots, None).await else {
                tokio::task::yield_now().await;
                continue;
            };
            while !self.stop.load(Ordering::Relaxed) {
                match client.ask(Key::any(), Some(&self.token)).await {
                    Ok(answer) => self.received.lock().unwrap().push(answer),
                    // A killed process can only end in a broken connection; a refusal would be a defect.
                    Err(status) if status.code() == tonic::Code::Unknown || status.code() == tonic::Code::Unavailable => break,
                    Err(status) => panic!("refused: {status:?}"),
                }
            }
        }
    }

    fn count(&self) -> usize {
        self.received.lock().unwrap().len()
    }
}

#[test]
fn what_was_received_is_on_record_after_every_kill() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut dev = Dev::start();
    let roots = std::fs::read_to_string(dev.roots()).unwrap();
    let load = Arc::new(Load {
        target: Mutex::new(dev.csr().parse().unwrap()),
        token: dev.token("shop", "cart", &["--pod", "cart-1"]),
        roots: roots.clone(),
        received: Mutex::default(),
        stop: AtomicBool::new(false),
    });
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let load = load.clone();
            runtime.spawn(async move { load.run().await })
        })
        .collect();

    let mut checked = 0;
    for round in 0..rounds(8, 100) {
        let enough = load.count() + 1 + usize::try_from(random(150)).unwrap();
        wait_for("certificates under load", || (load.count() >= enough).then_some(()));
        // Not always right behind an answer.
        std::thread::sleep(Duration::from_micros(random(5_000)));
        let folder = dev.kill();
        dev = Dev::start_in(folder);
        *load.target.lock().unwrap() = dev.csr().parse().unwrap();
        assert_eq!(std::fs::read_to_string(dev.roots()).unwrap(), roots, "round {round}: another root");

        let received: Vec<Answer> = load.received.lock().unwrap()[checked..].to_vec();
        let ledger = open_ledger(&dev.dir().join("ledger.db"));
        check_ledger(&ledger);
        for answer in &received {
            assert!(on_record(&ledger, answer), "round {round}: {} was answered and is not on record", answer.serial());
        }
        checked += received.len();
    }
    load.stop.store(true, Ordering::Relaxed);
    for client in clients {
        runtime.block_on(client).unwrap();
    }

    let received = load.received.lock().unwrap().clone();
    let serials: HashSet<String> = received.iter().map(Answer::serial).collect();
    assert_eq!(serials.len(), received.len(), "a serial was answered twice");
    let ledger = open_ledger(&dev.dir().join("ledger.db"));
    check_ledger(&ledger);
    for answer in &received {
        assert!(on_record(&ledger, answer), "{} is not on record", answer.serial());
    }
    // The operator's way to the same fact.
    let last = received.last().unwrap();
    let shown = meshmint(&["certs", "show", &last.serial(), "-o", "json", "--dir", dev.dir().to_str().unwrap()]);
    assert!(shown.status.success(), "{shown:?}");
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["certificates"][0]["sha256"], hex::encode(last.sha256()));
    eprintln!("{} certificates received over {} kills", received.len(), rounds(8, 100));
}

/// What a first start leaves on the way, in its order; the kill comes as soon as the file is there.
const MILESTONES: &[&str] = &[
    "token-issuer.pem",
    "jwks.json",
    "state",
    "state/lock",
    "state/keys",
    "ledger.db",
    "ledger.db-wal",
    "state/authority.json",
    "admin.sock",
    "root-cert.pem",
    "endpoints.json",
];

/// Starts `dev` in `dir`, kills it when `now` says so, and starts it again for good: one root, and the one that was there before.
fn killed_at_first_start(dir: &Path, what: &str, mut now: impl FnMut() -> bool) {
    let dev = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshmint"));
        command.args(["dev", "--csr-listen", "127.0.0.1:0", "--dir"]).arg(dir).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    let mut child = dev(&[]).spawn().unwrap();
    let began = Instant::now();
    while !now() {
        assert!(child.try_wait().unwrap().is_none(), "{what}: it ended by itself");
        assert!(began.elapsed() < process::PATIENCE, "{what}: never seen");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let state = || std::fs::read(dir.join("state/authority.json")).ok().map(|json| serde_json::from_slice::<Value>(&json).expect("whole JSON"));
    let before = state();

    let again = dev(&["--exit-after-demo"]).output().unwrap();
    assert!(again.status.success(), "{what}: {}", String::from_utf8_lossy(&again.stderr));
    let after = state().expect("a state");
    assert_eq!(after["trust"].as_array().unwrap().len(), 1, "{what}: one root");
    if let Some(before) = before {
        assert_eq!(before["trust"], after["trust"], "{what}: the root stays");
    }
    assert!(after["ledger"]["incompleteBefore"].is_null(), "{what}: nothing was lost, so nothing is said to be");
    check_ledger(&open_ledger(&dir.join("ledger.db")));
    let keys: HashSet<String> = after["authorities"].as_array().unwrap().iter().filter_map(|each| each["key"].as_str()).map(str::to_owned).collect();
    for key in keys {
        let file = dir.join("state/keys").join(format!("{}.pem", key.strip_prefix("file:").unwrap()));
        assert!(file.is_file(), "{what}: {key} is missing");
    }
}

#[test]
fn a_kill_during_the_very_first_start_leaves_one_root() {
    for milestone in MILESTONES {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(milestone);
        killed_at_first_start(folder.path(), milestone, || file.exists());
    }
    for _ in 0..rounds(8, 200) {
        let folder = tempfile::tempdir().unwrap();
        let (began, delay) = (Instant::now(), Duration::from_micros(random(150_000)));
        killed_at_first_start(folder.path(), &format!("after {delay:?}"), || began.elapsed() >= delay);
    }
}
