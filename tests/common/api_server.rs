//! A real kube-apiserver over a real etcd (`tests/setup cluster`), with RBAC, on free ports of 127.0.0.1 and in a temporary folder. There is no
//! controller, and of a kubelet only its port-forwarding: objects are what the test makes them, and nothing deletes for it.
//!
//! Both run below a shell that kills them when its standard input ends, so they end with the test's process however that ends.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "every suite uses its own part")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PublicKeyData as _};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::cluster::Client;
use super::csrs::{key_pem, pem};
use super::process::PATIENCE;
use super::tools::tool;

/// The issuer of its service-account tokens.
pub const CLUSTER_ISSUER: &str = "https://kubernetes.default.svc";
const ADMIN_TOKEN: &str = "admin-token-of-this-test";

/// Which key signs service-account tokens. Those of both are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SigningKey {
    /// RSA.
    First,
    /// P-256.
    Second,
}

/// What an API server is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    pub signing: SigningKey,
    /// Keys that it verifies with, and publishes.
    pub known: Vec<SigningKey>,
    /// The issuer of its tokens.
    pub issuer: &'static str,
    /// More flags.
    pub flags: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { signing: SigningKey::First, known: vec![SigningKey::First], issuer: CLUSTER_ISSUER, flags: Vec::new() }
    }
}

/// A process that ends with this value.
#[derive(Debug)]
struct Below {
    shell: Child,
    stdin: Option<ChildStdin>,
    pid: Pid,
}

impl Below {
    fn start(program: &Path, arguments: &[String], log: &Path) -> Self {
        let script = r#""$@" >>"$LOG" 2>&1 </dev/null & echo $!; read -r _; kill -9 $!; wait $!"#;
        let mut shell = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(program)
            .args(arguments)
            .env("LOG", log)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh");
        let mut pid = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        Self { stdin: shell.stdin.take(), shell, pid }
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }

    /// SIGSTOP; returns once every thread has stopped.
    fn freeze(&self) {
        self.signal(Signal::STOP);
        let threads = format!("/proc/{}/task", self.pid.as_raw_nonzero());
        let stopped = |stat: &str| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'));
        super::process::wait_for("every thread to stop", || {
            let all = std::fs::read_dir(&threads).unwrap().flatten();
            // A thread that ended meanwhile is as good.
            all.map(|thread| std::fs::read_to_string(thread.path().join("stat")).unwrap_or_else(|_| ") T".to_owned()))
                .all(|stat| stopped(&stat))
                .then_some(())
        });
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        drop(self.stdin.take());
        self.shell.wait().unwrap();
    }
}

/// A kubelet, as far as port-forwarding goes (tests/go/kubelet). It ends with this value.
#[derive(Debug)]
pub struct Kubelet(#[expect(dead_code, reason = "it is held")] Below);

/// The API server.
#[derive(Debug)]
pub struct ApiServer {
    folder: TempDir,
    port: u16,
    etcd_port: u16,
    // Dropped in this order.
    server: Option<Below>,
    etcd: Below,
}

impl ApiServer {
    /// Starts one and waits until it is ready.
    pub async fn start() -> Self {
        Self::start_with(&Settings::default()).await
    }

    /// The same with other settings.
    pub async fn start_with(settings: &Settings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ports: [u16; 3] = free_ports();
        write_secrets(folder.path());
        let etcd = start_etcd(folder.path(), ports[1], ports[2]);
        let mut this = Self { folder, port: ports[0], etcd_port: ports[1], server: None, etcd };
        this.start_again(settings).await;
        this
    }

    /// Kills it (SIGKILL); etcd goes on.
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// Starts it on the same data and port after [`ApiServer::kill`], and waits until it is ready.
    pub async fn start_again(&mut self, settings: &Settings) {
        assert!(self.server.is_none(), "it runs");
        let at = |name: &str| self.folder.path().join(name).to_str().unwrap().to_owned();
        let key = |key: SigningKey, kind: &str| at(&format!("{}.{kind}", if key == SigningKey::First { "first" } else { "second" }));
        let mut flags = vec![
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.port),
            // A loopback address is refused as an advertised one otherwise.
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--cert-dir={}", at("certs")),
            format!("--tls-cert-file={}", at("server.pem")),
            format!("--tls-private-key-file={}", at("server-key.pem")),
            format!("--client-ca-file={}", at("ca.pem")),
            format!("--token-auth-file={}", at("tokens.csv")),
            format!("--service-account-issuer={}", settings.issuer),
            format!("--service-account-signing-key-file={}", key(settings.signing, "pem")),
            format!("--api-audiences={CLUSTER_ISSUER},istio-ca"),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            "--runtime-config=api/all=true".to_owned(),
            // A test compacts when it wants to.
            "--etcd-compaction-interval=0".to_owned(),
            "--profiling=false".to_owned(),
            format!("--kubelet-certificate-authority={}", at("ca.pem")),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
        ];
        flags.extend(settings.known.iter().map(|each| format!("--service-account-key-file={}", key(*each, "pub"))));
        flags.extend(settings.flags.iter().cloned());
        let log = self.folder.path().join("kube-apiserver.log");
        self.server = Some(Below::start(&tool("bin/kube-apiserver"), &flags, &log));
        let client = self.admin().await;
        let ready = async {
            while client.text("/readyz").await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, ready).await.is_err() {
            let end_of = |log: &Path| {
                let said = std::fs::read_to_string(log).unwrap();
                let last: Vec<_> = said.lines().rev().take(20).collect();
                last.join("\n")
            };
            let etcd = end_of(&self.folder.path().join("etcd.log"));
            panic!("kube-apiserver did not become ready; the end of its log, newest first:\n{}\nand of etcd's:\n{etcd}", end_of(&log));
        }
    }

    /// SIGSTOP: connections stay open, and nothing is answered. Returns once every thread has stopped: one that runs a moment longer may answer.
    pub fn freeze(&self) {
        self.server.as_ref().expect("it runs").freeze();
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.server.as_ref().expect("it runs").signal(Signal::CONT);
    }

    /// The same of etcd alone: what the API server knows by its own watches goes on, and it can read nothing else.
    pub fn freeze_etcd(&self) {
        self.etcd.freeze();
    }

    pub fn thaw_etcd(&self) {
        self.etcd.signal(Signal::CONT);
    }

    /// Makes etcd refuse whatever the API server asks, at once, as one whose certificate it no longer knows.
    pub fn refuse_at_etcd(&self) {
        for (path, body) in [
            ("/v3/auth/user/add", r#"{"name":"root","password":"secret"}"#),
            ("/v3/auth/role/add", r#"{"name":"root"}"#),
            ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
            ("/v3/auth/enable", "{}"),
        ] {
            self.ask_etcd(path, body);
        }
    }

    /// Ends [`ApiServer::refuse_at_etcd`].
    pub fn admit_at_etcd(&self) {
        let token = self.ask_etcd("/v3/auth/authenticate", r#"{"name":"root","password":"secret"}"#);
        self.ask_etcd_as(token["token"].as_str().unwrap(), "/v3/auth/disable", "{}");
        self.ask_etcd("/v3/auth/user/delete", r#"{"name":"root"}"#);
        self.ask_etcd("/v3/auth/role/delete", r#"{"role":"root"}"#);
    }

    /// Makes etcd forget everything but the newest state.
    pub fn compact(&self) {
        let status = self.ask_etcd("/v3/kv/range", r#"{"key":"AA=="}"#);
        let revision = status["header"]["revision"].as_str().unwrap();
        self.ask_etcd("/v3/kv/compaction", &format!(r#"{{"revision":"{revision}","physical":true}}"#));
    }

    /// How many objects etcd has.
    pub fn objects(&self) -> u64 {
        let counted = self.ask_etcd("/v3/kv/range", r#"{"key":"AA==","range_end":"AA==","count_only":true}"#);
        counted["count"].as_str().unwrap().parse().unwrap()
    }

    fn ask_etcd(&self, path: &str, body: &str) -> Value {
        self.ask_etcd_as("", path, body)
    }

    fn ask_etcd_as(&self, token: &str, path: &str, body: &str) -> Value {
        let mut stream = TcpStream::connect(("127.0.0.1", self.etcd_port)).unwrap();
        write!(stream, "POST {path} HTTP/1.0\r\nauthorization: {token}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(" 200 "), "{answer}");
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    /// A new node with what port-forwarding needs of a kubelet; its pods are processes of this machine.
    pub async fn kubelet(&self, node: &str) -> Kubelet {
        let [port] = free_ports();
        let at = |name: &str| self.folder.path().join(name).to_str().unwrap().to_owned();
        let flags = [
            format!("--listen=127.0.0.1:{port}"),
            format!("--tls-cert-file={}", at("server.pem")),
            format!("--tls-private-key-file={}", at("server-key.pem")),
        ];
        let kubelet = Kubelet(Below::start(&tool("bin/meshmint-kubelet"), &flags, &self.folder.path().join("kubelet.log")));
        let admin = self.admin().await;
        admin.node(node).await;
        let status = json!({"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}], "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}});
        admin.patch(&format!("/api/v1/nodes/{node}/status"), &json!({"status": status})).await;
        let listens = async {
            while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(
            tokio::time::timeout(PATIENCE, listens).await.is_ok(),
            "{}",
            std::fs::read_to_string(self.folder.path().join("kubelet.log")).unwrap()
        );
        kubelet
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What its clients verify it with, PEM.
    pub fn ca(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("ca.pem")).unwrap()
    }

    /// A client that may do everything.
    pub async fn admin(&self) -> Client {
        Client::new(&self.admin_kubeconfig()).await
    }

    /// The kubeconfig of somebody who may do everything.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.kubeconfig("admin", ADMIN_TOKEN, self.port)
    }

    /// A kubeconfig with this token; `port` may be a proxy's.
    pub fn kubeconfig(&self, name: &str, token: &str, port: u16) -> PathBuf {
        // Tests that run side by side must not read each other's half-written file.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let path = self.folder.path().join(format!("kubeconfig-{name}-{}", NEXT.fetch_add(1, Ordering::SeqCst)));
        let ca = self.folder.path().join("ca.pem");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: it\n\
             clusters: [{{ name: it, cluster: {{ server: 'https://127.0.0.1:{port}', certificate-authority: {} }} }}]\n\
             contexts: [{{ name: it, context: {{ cluster: it, user: it }} }}]\n\
             users: [{{ name: it, user: {{ token: {token} }} }}]\n",
            ca.display()
        );
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn start_etcd(folder: &Path, port: u16, peers: u16) -> Below {
    let flags = [
        format!("--data-dir={}", folder.join("etcd").display()),
        format!("--listen-client-urls=http://127.0.0.1:{port}"),
        format!("--advertise-client-urls=http://127.0.0.1:{port}"),
        format!("--listen-peer-urls=http://127.0.0.1:{peers}"),
        "--unsafe-no-fsync".to_owned(),
        "--log-level=error".to_owned(),
    ];
    Below::start(&tool("bin/etcd"), &flags, &folder.join("etcd.log"))
}

/// Ports that are free now, all at once, so that they differ; below those that the system gives to whoever connects or asks for any, which others do between
/// now and the start of whatever shall listen there.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let mut sockets = Vec::new();
    while sockets.len() < N {
        let somewhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        sockets.extend(TcpListener::bind(("0.0.0.0", 10_000 + somewhere % 20_000)));
    }
    let ports: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap().port()).collect();
    ports.try_into().unwrap()
}

fn write_secrets(folder: &Path) {
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    write("ca.pem", &pem("CERTIFICATE", ca.self_signed(&ca_key).unwrap().der()));
    let server_key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    write("server.pem", &pem("CERTIFICATE", server.signed_by(&server_key, &Issuer::new(ca, ca_key)).unwrap().der()));
    write("server-key.pem", &key_pem(&server_key));
    write("first.pem", include_str!("../corpus/tokens/rsa-2048.pem"));
    // A private key does for a public one where it is RSA's.
    write("first.pub", include_str!("../corpus/tokens/rsa-2048.pem"));
    let second = KeyPair::generate().unwrap();
    write("second.pem", &key_pem(&second));
    write("second.pub", &pem("PUBLIC KEY", &second.subject_public_key_info()));
    write("tokens.csv", &format!("{ADMIN_TOKEN},admin,admin,system:masters\n"));
}
