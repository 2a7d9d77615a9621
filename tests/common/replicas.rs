//! Several `meshmint serve` over one API server and one PostgreSQL, as in a cluster: state in Secrets, a Lease, and workloads that ask any of them.
//! Its file needs `in_cluster.rs` as the sibling module `common`, and `postgres.rs`.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "every suite uses its own part")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::{JoinHandle, block_in_place};

use super::common::api_server::ApiServer;
use super::common::cluster::{BoundTo, Client};
use super::common::load::{self, Answer, Key};
use super::common::process::{Serve, meshmint, wait_for};
use super::common::{Shared, serve_yaml};
use super::postgres::{Database, Postgres};

const RULES: &str = "deploy/kubernetes/state.yaml";
/// The namespace of everything.
pub const NAMESPACE: &str = "meshmint-system";

/// What the replicas share.
pub struct World {
    pub shared: Shared,
    pub admin: Client,
    pub postgres: Postgres,
    pub database: Database,
    /// Of a workload.
    pub token: String,
}

/// One of them.
pub struct Replica {
    pub serve: Serve,
    pub folder: TempDir,
    yaml: String,
}

impl World {
    pub async fn start() -> Self {
        let shared = Shared::over(ApiServer::start().await).await;
        let admin = shared.admin().await;
        admin.apply_rules(RULES).await;
        admin.workload("shop").await;
        let token = admin.workload_token("shop").await;
        let postgres = block_in_place(Postgres::start);
        let database = postgres.database();
        Self { shared, admin, postgres, database, token }
    }

    /// meshmint's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.shared.kubeconfig(self.shared.server.port())
    }

    /// The kubeconfig of another account of meshmint's, which is made.
    pub async fn kubeconfig_of(&self, account: &str) -> PathBuf {
        self.admin.account(NAMESPACE, account).await;
        let token = self.admin.token(NAMESPACE, account, BoundTo::Nothing, super::common::api_server::CLUSTER_ISSUER, 3600).await;
        self.shared.server.kubeconfig(account, &token, self.shared.server.port())
    }

    /// A configuration in `folder`; `more` is put behind it.
    pub fn yaml(&self, folder: &Path, kubeconfig: &Path, database: &Database, namespace: &str, more: &str) -> String {
        let dir = folder.display();
        let ledger = format!(
            "ledger: {{ postgres: {{ url: \"{}\", caFile: {}, passwordFile: {} }} }}",
            database.url(),
            database.ca_file.display(),
            database.password_file.display()
        );
        let yaml = serve_yaml(folder, "Kubernetes", kubeconfig, "", "")
            .replace(
                &format!("state: {{ file: {{ dir: {dir}/state }} }}"),
                &format!("state: {{ store: secrets, secrets: {{ namespace: {namespace} }} }}"),
            )
            .replace(&format!("ledger: {{ sqlite: {{ path: {dir}/ledger.db }} }}"), &ledger);
        format!("{yaml}{more}")
    }

    /// Starts one and waits until it is ready; `server` is more of that section, behind a comma.
    pub fn replica(&self, server: &str, more: &str) -> Replica {
        self.replica_as(&self.kubeconfig(), server, more)
    }

    pub fn replica_as(&self, kubeconfig: &Path, server: &str, more: &str) -> Replica {
        self.replica_of(kubeconfig, server, more, |yaml| yaml)
    }

    /// The same, with its configuration changed.
    pub fn replica_of(&self, kubeconfig: &Path, server: &str, more: &str, change: impl FnOnce(String) -> String) -> Replica {
        let folder = tempfile::tempdir().unwrap();
        let yaml = self.yaml(folder.path(), kubeconfig, &self.database, NAMESPACE, more);
        let yaml = yaml.replace("servingIPAddresses: [127.0.0.1]", &format!("servingIPAddresses: [127.0.0.1]{server}"));
        Replica::start(folder, change(yaml))
    }

    /// One that logs as an operator has it, for measurements.
    pub fn quiet_replica(&self) -> Replica {
        let folder = tempfile::tempdir().unwrap();
        let yaml = self.yaml(folder.path(), &self.kubeconfig(), &self.database, NAMESPACE, "").replace("level: debug", "level: info");
        Replica::start(folder, yaml)
    }

    /// The entries of a Secret, decoded.
    pub async fn secret(&self, namespace: &str, name: &str) -> BTreeMap<String, Vec<u8>> {
        let secret = self.admin.get(&format!("/api/v1/namespaces/{namespace}/secrets/{name}")).await;
        let data = secret["data"].as_object().cloned().unwrap_or_default();
        data.into_iter().map(|(entry, encoded)| (entry, STANDARD.decode(encoded.as_str().unwrap()).unwrap())).collect()
    }

    /// The authority state.
    pub async fn state(&self, namespace: &str) -> Value {
        serde_json::from_slice(&self.secret(namespace, "meshmint-state").await["authority.json"]).unwrap()
    }

    /// One root, each generation made once, and exactly the keys that the state names; returns how many generations there were.
    pub async fn assert_whole(&self, namespace: &str) -> usize {
        let state = self.state(namespace).await;
        assert_eq!(state["trust"].as_array().unwrap().len(), 1, "one root: {state:#}");
        let made = |what: &str| state["history"].as_array().unwrap().iter().filter(|entry| entry["what"].as_str().unwrap().ends_with(what)).count();
        let generations = made(" signs");
        for number in 1..=generations {
            assert_eq!(made(&format!("generation {number} signs")), 1, "{state:#}");
        }
        let named: BTreeSet<_> = state["authorities"].as_array().unwrap().iter().filter_map(|each| each["key"].as_str()).collect();
        let mut there = BTreeSet::new();
        for secret in ["meshmint-root", "meshmint-issuing"] {
            there.extend(self.secret(namespace, secret).await.into_keys().map(|key| format!("secret:{key}")));
        }
        assert!(named.iter().all(|key| there.contains(*key)), "{named:?} are not all in {there:?}");
        assert_eq!(there.iter().filter(|key| key.starts_with("secret:root-")).count(), 1, "one root key: {there:?}");
        generations
    }

    /// All of these are on record, once each, and no serial is there twice.
    pub fn assert_on_record(&self, answers: &[Answer]) {
        for some in answers.chunks(200) {
            let digests: Vec<_> = some.iter().map(|answer| format!("'\\x{}'::bytea", hex::encode(answer.sha256()))).collect();
            let sql = format!("SELECT count(*) FROM meshmint.leaves WHERE sha256 IN ({})", digests.join(","));
            assert_eq!(self.postgres.sql(&self.database.name, &sql), some.len().to_string());
        }
        let twice = self.postgres.sql(&self.database.name, "SELECT count(*) - count(DISTINCT serial) FROM meshmint.certificates");
        assert_eq!(twice, "0", "serials that are there twice");
    }
}

impl Replica {
    fn start(folder: TempDir, yaml: String) -> Self {
        Self { serve: block_in_place(|| Serve::start(folder.path(), &yaml)), folder, yaml }
    }

    pub fn leads(&self) -> bool {
        self.serve.metric("meshmint_leading") == 1.0
    }

    pub fn bundle(&self) -> String {
        let socket = self.folder.path().join("admin.sock");
        String::from_utf8(meshmint(&["bundle", "--admin", socket.to_str().unwrap()]).stdout).unwrap()
    }

    /// How `meshmint check` finds this.
    pub fn check(&self, check: &str) -> Value {
        let socket = self.folder.path().join("admin.sock");
        let output = meshmint(&["check", "-o", "json", "--admin", socket.to_str().unwrap()]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        report["checks"].as_array().unwrap().iter().find(|line| line["check"] == check).unwrap().clone()
    }

    pub fn signal(&mut self, signal: Signal) {
        kill_process(Pid::from_child(self.serve.child()), signal).unwrap();
    }

    /// kill -9; the folder and the configuration stay.
    pub fn kill(&mut self) {
        self.serve.child().kill().unwrap();
        self.serve.child().wait().unwrap();
    }

    /// Starts it again after [`Replica::kill`].
    pub fn start_again(&mut self) {
        self.serve = block_in_place(|| Serve::start(self.folder.path(), &self.yaml));
    }
}

/// Which of them leads; waits for one that does.
pub fn leader(replicas: &[Replica]) -> usize {
    block_in_place(|| wait_for("a leader", || replicas.iter().position(Replica::leads)))
}

/// Workloads that ask as pilot-agent does: on a new connection after each failure, five times, from 100 ms on, at whatever replica the Service
/// chooses. It goes on choosing those that are dead.
pub struct Load {
    pub addresses: Arc<Mutex<Vec<SocketAddr>>>,
    stop: Arc<AtomicBool>,
    issued: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<Seen>>,
}

/// What they saw.
#[derive(Default)]
pub struct Seen {
    pub answers: Vec<Answer>,
    /// When each came.
    pub times: Vec<Instant>,
    /// Requests that failed for good, with the failure of each try.
    pub failed: Vec<Vec<String>>,
    pub retries: usize,
}

impl Load {
    pub fn begin(replicas: &[Replica], token: &str, workers: usize) -> Self {
        let roots = replicas[0].bundle();
        let addresses = Arc::new(Mutex::new(replicas.iter().map(|replica| replica.serve.csr).collect::<Vec<_>>()));
        let (stop, issued) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let tasks = (0..workers)
            .map(|worker| {
                let (addresses, stop, issued, roots, token) = (addresses.clone(), stop.clone(), issued.clone(), roots.clone(), token.to_owned());
                tokio::spawn(async move {
                    let (mut seen, mut turn) = (Seen::default(), worker);
                    while !stop.load(Ordering::SeqCst) {
                        let mut failures = Vec::new();
                        loop {
                            turn += 1;
                            let address = {
                                let addresses = addresses.lock().unwrap();
                                addresses[turn % addresses.len()]
                            };
                            match once(address, &roots, &token).await {
                                Ok(answer) => {
                                    // It may live for seconds only.
                                    answer.verify().unwrap();
                                    seen.answers.push(answer);
                                    seen.times.push(Instant::now());
                                    issued.fetch_add(1, Ordering::SeqCst);
                                    break;
                                }
                                Err(failure) => failures.push(failure),
                            }
                            if failures.len() == 5 {
                                seen.failed.push(failures.clone());
                                break;
                            }
                            seen.retries += 1;
                            tokio::time::sleep(Duration::from_millis(100) * (1 << (failures.len() - 1))).await;
                        }
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    seen
                })
            })
            .collect();
        Self { addresses, stop, issued, tasks }
    }

    /// Waits until so many more were issued.
    pub async fn goes_on(&self, more: usize) {
        let wanted = self.issued.load(Ordering::SeqCst) + more;
        super::common::wait_until("certificates", || self.issued.load(Ordering::SeqCst) >= wanted).await;
    }

    /// The addresses as the replicas have them now.
    pub fn moved(&self, replicas: &[Replica]) {
        *self.addresses.lock().unwrap() = replicas.iter().map(|replica| replica.serve.csr).collect();
    }

    /// Ends it; every answer verified against its bundle when it came, and that is the same in all.
    pub async fn end(self) -> Seen {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Seen::default();
        for task in self.tasks {
            let seen = task.await.unwrap();
            all.answers.extend(seen.answers);
            all.times.extend(seen.times);
            all.failed.extend(seen.failed);
            all.retries += seen.retries;
        }
        all.times.sort();
        for answer in &all.answers {
            assert_eq!(answer.bundle(), all.answers[0].bundle(), "one bundle, byte for byte");
        }
        all
    }
}

impl Seen {
    /// The longest time without any certificate.
    pub fn longest_pause(&self) -> Duration {
        self.times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}

/// One try. A replica that is frozen takes a connection and says nothing.
pub async fn once(address: SocketAddr, roots: &str, token: &str) -> Result<Answer, String> {
    let try_it = async {
        let mut client = load::Client::connect(address, roots, None).await?;
        client.ask(Key::any(), Some(token)).await.map_err(|status| format!("{:?}: {}", status.code(), status.message()))
    };
    tokio::time::timeout(Duration::from_secs(3), try_it).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}
