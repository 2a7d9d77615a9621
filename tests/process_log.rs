//! A log that can't be written, with real processes: whoever logs goes on, what is lost is counted, and SIGTERM ends the process as ever.
//! Needs root, to mount a small tmpfs: without it one of these tests fails.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/load.rs"]
mod load;
#[path = "common/process.rs"]
mod process;
#[path = "common/small_disk.rs"]
mod small_disk;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write, pipe};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::load::{Client, Key};
use crate::process::{address, begin_serve, get, issuer_folder, metric, serve_yaml, terminate, token, wait_for};
use crate::small_disk::SmallDisk;

/// Leaves and the serving certificate of 4 s; the issuing key is renewed after 4 of its 12 s.
const SECONDS: &str = "certificates: { defaultLifetime: 4s, maxLifetime: 4s, backdate: 0s, jitter: 0% }\n\
                       authority: { issuingLifetime: 12s }\n";
const LOST: &str = "meshmint_log_lines_lost_total";
/// What a pipe holds on Linux (pipe(7)).
const PIPE: usize = 65_536;

/// A `serve` that has said where it listens.
struct World {
    folder: TempDir,
    _issuer: TempDir,
    child: Child,
    csr: SocketAddr,
    health: SocketAddr,
    metrics: SocketAddr,
    runtime: Runtime,
    token: String,
}

impl World {
    /// `ready` gives the line of the log that says where it listens.
    fn start(stderr: impl Into<Stdio>, ready: impl FnOnce() -> Value) -> Self {
        let (folder, issuer) = (tempfile::tempdir().unwrap(), issuer_folder());
        let yaml = serve_yaml(folder.path(), issuer.path(), ", servingLifetime: 4s, requestTimeout: 1s", SECONDS);
        let child = begin_serve(folder.path(), &yaml, stderr);
        let ready = ready();
        Self {
            csr: address(&ready, "csr"),
            health: address(&ready, "health"),
            metrics: address(&ready, "metrics"),
            token: token(issuer.path(), "shop", "cart", &[]),
            runtime: Runtime::new().unwrap(),
            folder,
            _issuer: issuer,
            child,
        }
    }

    fn metric(&self, name: &str) -> f64 {
        metric(&self.metrics.to_string(), name)
    }

    /// Certificates leave through two renewals of the serving certificate and one of the issuing key, while lines are lost.
    fn goes_on_without_its_log(&self) {
        let state = std::fs::read(self.folder.path().join("state/authority.json")).unwrap();
        let state: Value = serde_json::from_slice(&state).unwrap();
        let roots = state["trust"][0]["certificate"].as_str().unwrap();
        let (lost, generation) = (self.metric(LOST), self.metric("meshmint_generation"));
        let mut servers = BTreeSet::new();
        wait_for("renewals while lines are lost", || {
            self.runtime.block_on(async {
                let mut client = Client::connect(self.csr, roots, None).await.expect("the serving certificate is always valid");
                servers.insert(client.server_serial());
                let answer = client.ask(Key::any(), Some(&self.token)).await.expect("no request fails");
                answer.verify().expect("it verifies");
            });
            let renewed = servers.len() >= 3 && self.metric("meshmint_generation") > generation;
            (renewed && self.metric(LOST) > lost).then_some(())
        });
        for path in ["/livez", "/readyz"] {
            assert_eq!(get(&self.health.to_string(), path).0, 200, "{path}");
        }
        assert_eq!(self.metric("meshmint_authority_failures"), 0.0);
    }

    /// SIGTERM; the exit code.
    fn terminate(mut self) -> Option<i32> {
        terminate(&self.child);
        self.child.wait().unwrap().code()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // It may be dead already.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Reads a log up to the line `ready`.
fn until_ready(log: impl BufRead) -> Value {
    let mut lines = log.lines().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    lines.find(|line| line["message"] == "ready").expect("it becomes ready")
}

/// The lines of a log in a file, without the last where it isn't whole.
fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::to_owned).collect()
}

#[test]
fn nobody_is_left_to_read_the_log() {
    let (reader, writer) = pipe().unwrap();
    let mut reader = BufReader::new(reader);
    let world = World::start(writer, || until_ready(&mut reader));
    assert_eq!(world.metric(LOST), 0.0);
    drop(reader);
    world.goes_on_without_its_log();
    assert_eq!(world.terminate(), Some(0));
}

#[test]
fn the_disk_of_the_log_is_full_until_there_is_room_again() {
    let disk = SmallDisk::mount("2m");
    let path = disk.path().join("serve.log");
    let log = File::options().create(true).append(true).open(&path).unwrap();
    let ready = || {
        let ready = |line: &String| serde_json::from_str::<Value>(line).ok().filter(|line| line["message"] == "ready");
        wait_for("ready", || lines(&path).iter().find_map(ready))
    };
    let world = World::start(log, ready);
    for _ in 0..2 {
        let filler = disk.fill();
        world.goes_on_without_its_log();
        let before = lines(&path).len();
        std::fs::remove_file(filler).unwrap();
        // Told once it can be written again, and with it whatever comes then.
        wait_for("the log to go on", || {
            let new = lines(&path).split_off(before);
            let tells = |text: &str| new.iter().any(|line| line.contains(text));
            (tells("lines of the log could not be written") && tells("serving certificate issued")).then_some(())
        });
    }
    assert_eq!(world.terminate(), Some(0));

    let lines = lines(&path);
    let (whole, torn): (Vec<_>, Vec<_>) = lines.iter().map(|line| serde_json::from_str::<Value>(line)).partition(Result::is_ok);
    assert!(torn.len() <= 2, "each full disk tears one line at most: {}", torn.len());
    let whole: Vec<Value> = whole.into_iter().map(Result::unwrap).collect();
    assert_eq!(whole.last().unwrap()["message"], "stopped", "the last lines are written before the end");
    let ends: Vec<&str> =
        whole.iter().filter(|line| line["message"] == "serving certificate issued").map(|line| line["not_after"].as_str().unwrap()).collect();
    assert!(ends.len() >= 3 && ends.is_sorted(), "lines come in order: {ends:?}");
}

#[test]
fn nobody_reads_the_log_any_more() {
    let (reader, writer) = pipe().unwrap();
    let mut reader = BufReader::new(reader);
    let world = World::start(writer, || until_ready(&mut reader));
    // Each of these is a line: `handshake failed`.
    let (csr, enough) = (world.csr, AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !enough.load(Ordering::Relaxed) {
                    let mut stranger = TcpStream::connect(csr).unwrap();
                    // It may have been closed already.
                    _ = stranger.write_all(b"no TLS at all\r\n\r\n");
                    _ = std::io::copy(&mut stranger, &mut std::io::sink());
                }
            });
        }
        wait_for("lost lines", || (world.metric(LOST) > 0.0).then_some(()));
        world.goes_on_without_its_log();
        enough.store(true, Ordering::Relaxed);
    });
    assert_eq!(world.terminate(), Some(0));
    drop(reader);
}

/// A `meshmint dev` that says what it has to say there, once it runs.
fn dev(folder: &TempDir, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshmint"));
    command.arg("dev").args(["--csr-listen", "127.0.0.1:0", "--dir"]).arg(folder.path()).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    let mut child = command.spawn().unwrap();
    wait_for("endpoints.json", || {
        assert_eq!(child.try_wait().unwrap(), None);
        folder.path().join("endpoints.json").exists().then_some(())
    });
    child
}

#[test]
fn dev_needs_nobody_who_reads_either() {
    let gone = || pipe().unwrap().1;
    let folder = tempfile::tempdir().unwrap();
    let mut child = dev(&folder, gone(), gone());
    terminate(&child);
    assert_eq!(child.wait().unwrap().code(), Some(0));

    // Both are full, and stay so.
    let full = || {
        let (reader, mut writer) = pipe().unwrap();
        writer.write_all(&vec![b'\n'; PIPE]).unwrap();
        (reader, writer)
    };
    let ((_stdout, out), (_stderr, error)) = (full(), full());
    let folder = tempfile::tempdir().unwrap();
    let mut child = dev(&folder, out, error);
    terminate(&child);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_start_that_fails_says_so_by_its_exit_code_where_nobody_reads() {
    let folder = tempfile::tempdir().unwrap();
    let issuer = issuer_folder();
    let yaml = serve_yaml(folder.path(), issuer.path(), "", "");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let yaml = yaml.replace("health: { listen: 127.0.0.1:0 }", &format!("health: {{ listen: {} }}", taken.local_addr().unwrap()));
    let (reader, mut writer) = pipe().unwrap();
    writer.write_all(&vec![b'\n'; PIPE]).unwrap();
    let mut stuck = begin_serve(folder.path(), &yaml, writer);
    assert_eq!(stuck.wait().unwrap().code(), Some(1));
    drop(reader);
    let mut unread = begin_serve(folder.path(), &yaml, pipe().unwrap().1);
    assert_eq!(unread.wait().unwrap().code(), Some(1));
}
