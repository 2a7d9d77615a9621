//! What the suites with a real API server share (`tests/cluster_*.rs`): the server, a CA in process that watches it, and questions to both.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "every suite uses its own part")]

pub(crate) mod api_server;
pub(crate) mod clock;
pub(crate) mod cluster;
pub(crate) mod csrs;
pub(crate) mod grpc;
pub(crate) mod issuer;
pub(crate) mod load;
pub(crate) mod process;
pub(crate) mod slow_link;
pub(crate) mod tokens;
pub(crate) mod tools;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use meshmint::clock::Clock;
use meshmint::issuance::{Ask, Issued, Refusal};
use meshmint::pki::certificate_to_pem;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
use time::OffsetDateTime;
use tokio::sync::OnceCell;

use self::api_server::{ApiServer, CLUSTER_ISSUER};
use self::clock::ManualClock;
use self::cluster::Client;
use self::issuer::{Choices, ClusterChoices, SeededEntropy, World, ask, plain_csr};
use self::process::PATIENCE;

/// An API server for all tests of one suite, with meshmint's rules of access. It ends with the process.
pub async fn shared() -> &'static Shared {
    static SHARED: OnceCell<Shared> = OnceCell::const_new();
    SHARED.get_or_init(|| async { Shared::over(ApiServer::start().await).await }).await
}

/// A configuration of `serve` in `dir`, over the cluster of a kubeconfig; with more keys of `cluster` and of `tokens`, each behind a comma.
pub fn serve_yaml(dir: &Path, cluster_id: &str, kubeconfig: &Path, cluster: &str, tokens: &str) -> String {
    let (dir, kubeconfig) = (dir.display(), kubeconfig.display());
    format!(
        "clusterID: {cluster_id}\n\
         server: {{ listen: 127.0.0.1:0, servingDNSNames: [localhost], servingIPAddresses: [127.0.0.1] }}\n\
         cluster: {{ kubeconfig: {kubeconfig}{cluster} }}\n\
         tokens: {{ issuers: [{{ issuer: '{CLUSTER_ISSUER}', keys: {{ apiServer: true }} }}]{tokens} }}\n\
         state: {{ file: {{ dir: {dir}/state }} }}\n\
         ledger: {{ sqlite: {{ path: {dir}/ledger.db }} }}\n\
         admin: {{ socket: {dir}/admin.sock }}\n\
         health: {{ listen: 127.0.0.1:0 }}\n\
         metrics: {{ listen: 127.0.0.1:0 }}\n\
         log: {{ format: json, level: debug }}\n"
    )
}

/// An API server, and the token of meshmint's account.
pub struct Shared {
    pub server: ApiServer,
    token: String,
}

impl Shared {
    pub async fn over(server: ApiServer) -> Self {
        let token = server.admin().await.install_rbac().await;
        Self { server, token }
    }

    /// meshmint's kubeconfig, through this port.
    pub fn kubeconfig(&self, port: u16) -> PathBuf {
        self.server.kubeconfig("meshmint", &self.token, port)
    }

    pub fn choices(&self) -> ClusterChoices {
        ClusterChoices::new(self.kubeconfig(self.server.port()), CLUSTER_ISSUER)
    }

    /// A CA that knows this cluster, on a clock that only the test moves.
    pub async fn world(&self) -> (World, ManualClock) {
        world(self.choices()).await
    }

    pub async fn admin(&self) -> Client {
        self.server.admin().await
    }
}

/// A CA that knows a cluster, on a clock that begins now.
pub async fn world(cluster: ClusterChoices) -> (World, ManualClock) {
    let clock = ManualClock::at(OffsetDateTime::now_utc());
    (world_on(cluster, Arc::new(clock.clone())).await, clock)
}

/// A CA that knows a cluster.
pub async fn world_on(cluster: ClusterChoices, clock: Arc<dyn Clock>) -> World {
    let choices = Choices { cluster: Some(cluster), ..Choices::default() };
    World::found(choices, clock, SeededEntropy::new(1)).await
}

/// A request with this token.
pub async fn issue(world: &World, token: &str) -> Result<Issued, Refusal> {
    world.issuer.issue(ask(token, &plain_csr(), 0)).await
}

/// The same for the identity of somebody else.
pub async fn speak_for(world: &World, token: &str, identity: &str) -> Result<Issued, Refusal> {
    let mut ask: Ask = ask(token, &plain_csr(), 0);
    ask.wants.impersonate = Some(identity.to_owned());
    world.issuer.issue(ask).await
}

/// "issued", or the reason of the refusal.
pub fn outcome(answer: Result<Issued, Refusal>) -> &'static str {
    match answer {
        Ok(_) => "issued",
        Err(refusal) => refusal.reason(),
    }
}

/// Waits until a request with this token comes out so: a watch takes a moment.
pub async fn until(world: &World, token: &str, wanted: &str) {
    let mut last = "";
    let reached = async {
        loop {
            last = outcome(issue(world, token).await);
            if last == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, reached).await.is_ok(), "{last} instead of {wanted}");
}

/// The root of another CA, PEM, which may join a trust bundle that has none of this name.
pub fn foreign_root(name: &str) -> String {
    let key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.distinguished_name.push(DnType::CommonName, name);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    root.not_after = OffsetDateTime::now_utc() + time::Duration::days(3650);
    certificate_to_pem(root.self_signed(&key).unwrap().der())
}

/// Waits until this is so.
pub async fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let reached = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, reached).await.is_ok(), "timed out waiting for {what}");
}

/// Lets a clock that a test moves also go on by itself, about as fast as a real one: a leap may end the time of a question that is under way,
/// and what pauses then must come back. Until the test's runtime ends.
pub fn goes_on(clock: &ManualClock) {
    const TICK: Duration = Duration::from_millis(20);
    let clock = clock.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(TICK).await;
            clock.advance(TICK);
        }
    });
}
