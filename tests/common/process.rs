//! Real meshmint processes for tests: `meshmint dev`, `meshmint serve`, and any other command. Each lives in a folder of its own, on
//! ports that the system chose, and is killed by its process id when its value is dropped.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "every suite uses its own part")]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take to become ready on a machine that builds something else at the same time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a command of meshmint to its end.
pub fn meshmint<S: AsRef<OsStr>>(args: &[S]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_meshmint")).args(args).stdin(Stdio::null()).output().expect("meshmint runs")
}

/// Asks `ready` until it answers.
pub fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ready() {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "timed out waiting for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A running `meshmint dev`.
pub struct Dev {
    folder: TempDir,
    child: Child,
    /// DIR/endpoints.json.
    pub endpoints: Value,
}

impl Dev {
    /// Starts one in a new folder.
    pub fn start() -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary folder"))
    }

    /// Starts one in a folder that may hold an earlier one's state.
    pub fn start_in(folder: TempDir) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_meshmint"))
            .arg("dev")
            .args(["--csr-listen", "127.0.0.1:0", "--dir"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("meshmint dev starts");
        let pid = u64::from(child.id());
        let endpoints = wait_for("endpoints.json", || {
            if let Some(status) = child.try_wait().expect("meshmint dev is there") {
                panic!("meshmint dev ended with {status}");
            }
            let text = std::fs::read(folder.path().join("endpoints.json")).ok()?;
            // A process that was killed left its file behind; it is removed when the new one is about to write its own.
            let endpoints: Value = serde_json::from_slice(&text).ok()?;
            (endpoints["pid"].as_u64() == Some(pid)).then_some(endpoints)
        });
        Self { folder, child, endpoints }
    }

    /// DIR.
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// The CSR API, HOST:PORT.
    pub fn csr(&self) -> String {
        self.endpoints["csr"].as_str().expect("csr").to_owned()
    }

    /// DIR/root-cert.pem.
    pub fn roots(&self) -> PathBuf {
        self.dir().join("root-cert.pem")
    }

    /// A token by `meshmint token`, with more flags where wanted.
    pub fn token(&self, namespace: &str, service_account: &str, more: &[&str]) -> String {
        token(self.dir(), namespace, service_account, more)
    }

    /// The value of a metric with these labels (`name{label="value"}`); 0 where it isn't there yet.
    pub fn metric(&self, name: &str) -> f64 {
        metric(self.endpoints["metrics"].as_str().expect("metrics"), name)
    }

    /// The process.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// SIGKILL, as a crash; the folder stays.
    pub fn kill(mut self) -> TempDir {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
        let Self { folder, .. } = &mut self;
        std::mem::replace(folder, tempfile::tempdir().expect("a temporary folder"))
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // It may be dead already.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// A token of the built-in issuer of `dir`, by `meshmint token`.
pub fn token(dir: &Path, namespace: &str, service_account: &str, more: &[&str]) -> String {
    let mut args = vec!["token", "--dir", dir.to_str().expect("UTF-8"), "--namespace", namespace, "--service-account", service_account];
    args.extend(more);
    let output = meshmint(&args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

/// A plain HTTP GET; returns status and body.
pub fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").expect("write");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("read");
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

/// The value of a metric with its labels, as `/metrics` writes them; 0 where it isn't there.
pub fn metric(address: &str, name: &str) -> f64 {
    let (_, text) = get(address, "/metrics");
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map_or(0.0, |value| value.parse().expect("a number"))
}

/// A running `meshmint serve`, whose tokens come from the built-in issuer of a folder that `meshmint dev` made.
pub struct Serve {
    child: Child,
    /// The lines of its log (JSON), as they come, after those of the start.
    pub log: mpsc::Receiver<Value>,
    /// The lines up to and with `ready`.
    pub start_log: Vec<Value>,
    /// Where the CSR API, health and metrics listen.
    pub csr: SocketAddr,
    pub health: SocketAddr,
    pub metrics: SocketAddr,
}

/// SIGTERM.
pub fn terminate(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("SIGTERM");
}

fn lines(log: &[Value]) -> String {
    log.iter().map(Value::to_string).collect::<Vec<_>>().join("\n")
}

/// A folder whose `token-issuer.pem` and `jwks.json` were made by `meshmint dev`.
pub fn issuer_folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dir = folder.path().to_str().expect("UTF-8");
    let output = meshmint(&["dev", "--dir", dir, "--csr-listen", "127.0.0.1:0", "--exit-after-demo"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder
}

/// A configuration for `serve` in `dir`, with tokens of the issuer folder `issuer`; `more` is YAML that is put behind it (top-level keys
/// that aren't here: `certificates`, `authority`, …).
pub fn serve_yaml(dir: &Path, issuer: &Path, server: &str, more: &str) -> String {
    let (dir, issuer) = (dir.display(), issuer.display());
    format!(
        "trustDomain: cluster.local\n\
         server: {{ listen: 127.0.0.1:0, servingDNSNames: [localhost, istiod.istio-system.svc], servingIPAddresses: [127.0.0.1]{server} }}\n\
         tokens: {{ issuers: [{{ issuer: https://dev.meshmint.invalid, keys: {{ file: {issuer}/jwks.json }} }}] }}\n\
         state: {{ file: {{ dir: {dir}/state }} }}\n\
         ledger: {{ sqlite: {{ path: {dir}/ledger.db }} }}\n\
         admin: {{ socket: {dir}/admin.sock }}\n\
         health: {{ listen: 127.0.0.1:0 }}\n\
         metrics: {{ listen: 127.0.0.1:0 }}\n\
         log: {{ format: json, level: debug }}\n\
         {more}"
    )
}

/// Starts a `meshmint serve` with this configuration, which says what it has to say to `stderr`.
pub fn begin_serve(dir: &Path, yaml: &str, stderr: impl Into<Stdio>) -> Child {
    let config = dir.join("meshmint.yaml");
    std::fs::write(&config, yaml).expect("write");
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshmint"));
    command.arg("serve").arg("--config").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
    command.spawn().expect("meshmint serve starts")
}

/// Where something (`csr`, `health`, `metrics`) listens, from the line `ready` of the log.
pub fn address(ready: &Value, name: &str) -> SocketAddr {
    // A replica of role authority has no CSR port.
    ready[name].as_str().expect("an address").parse().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)))
}

impl Serve {
    /// Starts one with this configuration and waits until it says `ready`; the panic of a start that failed carries its log.
    pub fn start(dir: &Path, yaml: &str) -> Self {
        let mut child = begin_serve(dir, yaml, Stdio::piped());
        let stderr = BufReader::new(child.stderr.take().expect("stderr"));
        let (send, log) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let mut seen: Vec<Value> = Vec::new();
        let ready = loop {
            match log.recv_timeout(PATIENCE) {
                Ok(line) => seen.push(line),
                Err(_) => panic!("meshmint serve did not become ready:\n{}", lines(&seen)),
            }
            if let Some(line) = seen.last().filter(|line| line["message"] == "ready") {
                break line.clone();
            }
        };
        Self { csr: address(&ready, "csr"), health: address(&ready, "health"), metrics: address(&ready, "metrics"), child, log, start_log: seen }
    }

    /// Starts one that must refuse to; returns its exit code and what it said.
    pub fn refused(dir: &Path, yaml: &str) -> (Option<i32>, String) {
        let config = dir.join("refused.yaml");
        std::fs::write(&config, yaml).expect("write");
        let mut child = Command::new(env!("CARGO_BIN_EXE_meshmint"))
            .args(["serve", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.join("refused.log")).expect("a log"))
            .spawn()
            .expect("meshmint serve starts");
        let began = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().expect("it is there") {
                break status;
            }
            if began.elapsed() > PATIENCE {
                child.kill().expect("kill");
                panic!("it was not refused: {}", std::fs::read_to_string(dir.join("refused.log")).expect("a log"));
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        (status.code(), std::fs::read_to_string(dir.join("refused.log")).expect("a log"))
    }

    /// SIGTERM; waits for the end and returns the exit code and the rest of the log.
    pub fn terminate(mut self) -> (Option<i32>, Vec<Value>) {
        terminate(&self.child);
        let status = self.child.wait().expect("it ends");
        (status.code(), self.log.iter().collect())
    }

    /// The process.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The value of a metric with these labels.
    pub fn metric(&self, name: &str) -> f64 {
        metric(&self.metrics.to_string(), name)
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        // It may be dead already.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
