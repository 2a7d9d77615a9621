//! A server in a cluster with its admin port open, beside attackers. Its file needs `common` (`in_cluster.rs`), `frames.rs` and `hostile.rs` as
//! sibling modules.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "every suite uses its own part")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use meshmint::server::proto::admin::ListCertificatesRequest;
use prost::Message;
use serde_json::json;
use tempfile::TempDir;

use super::common::api_server::ApiServer;
use super::common::cluster::{BoundTo, Client};
use super::common::csrs::request;
use super::common::grpc::{bearer, frame, tls};
use super::common::process::{Serve, meshmint};
use super::common::{Shared, serve_yaml};
use super::frames::{DATA, END_STREAM, grpc_headers, h2_frame};
use super::hostile::{Door, Raw, Seen, keep_up};

/// What tokens of workloads are for.
pub const CSR_AUDIENCE: &str = "istio-ca";
/// What tokens of operators are for.
pub const AUDIENCE: &str = "meshmint-admin";
const LIST: &str = "/meshmint.admin.v1.Admin/ListCertificates";
/// A short question.
pub const BUNDLE: &str = "/meshmint.admin.v1.Admin/GetBundle";

/// A namespace, and an account, a pod and a node of one name, as long as Kubernetes allows them: lists are long with it.
pub fn workload() -> (String, String) {
    ("n".repeat(63), "w".repeat(253))
}

pub struct World {
    pub admin: Client,
    pub serve: Serve,
    /// The trust bundle.
    pub roots: String,
    // They end after the server.
    _shared: Shared,
    _folder: TempDir,
}

impl World {
    /// With an account `viewer` that may read, and a workload.
    pub async fn start() -> Self {
        let shared = Shared::over(ApiServer::start().await).await;
        let admin = shared.admin().await;
        admin.apply_admin_rules().await;
        admin.account("meshmint-system", "viewer").await;
        let binding = json!({
            "metadata": {"name": "test-viewer"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "meshmint-viewer"},
            "subjects": [{"kind": "ServiceAccount", "name": "viewer", "namespace": "meshmint-system"}],
        });
        admin.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await;
        let (namespace, name) = workload();
        admin.namespace(&namespace).await;
        admin.account(&namespace, &name).await;
        admin.node(&name).await;
        admin.pod(&namespace, &name, &name, &name).await;
        let folder = tempfile::tempdir().unwrap();
        let yaml = serve_yaml(folder.path(), "Kubernetes", &shared.kubeconfig(shared.server.port()), "", "");
        let yaml = yaml.replace("admin: { socket: ", "admin: { listen: 127.0.0.1:0, socket: ").replace("level: debug", "level: info");
        let serve = Serve::start(folder.path(), &yaml);
        let bundle = meshmint(&["bundle", "--admin", folder.path().join("admin.sock").to_str().unwrap()]);
        Self { admin, serve, roots: String::from_utf8(bundle.stdout).unwrap(), _shared: shared, _folder: folder }
    }

    /// The admin port, from 127.0.0.2.
    pub fn admin_door(&self) -> Door {
        self.door(self.serve.start_log.last().unwrap()["admin_network"].as_str().unwrap().parse().unwrap())
    }

    /// The CSR port.
    pub fn csr_door(&self) -> Door {
        self.door(self.serve.csr)
    }

    fn door(&self, address: SocketAddr) -> Door {
        Door::new(address, tls(&self.roots, None, &[b"h2"]))
    }

    /// A token of the viewer.
    pub async fn viewer(&self) -> String {
        self.admin.token("meshmint-system", "viewer", BoundTo::Nothing, AUDIENCE, 3600).await
    }

    /// A token of the workload, for this audience.
    pub async fn workload_token(&self, audience: &str) -> String {
        let (namespace, name) = workload();
        self.admin.token(&namespace, &name, BoundTo::Pod(&name), audience, 3600).await
    }

    /// Puts so many certificates on record.
    pub async fn record(&self, certificates: usize) {
        const AT_ONCE: usize = 64;
        let (wire, token, request) = (self.csr_door().wire().await.unwrap(), bearer(&self.workload_token(CSR_AUDIENCE).await), request());
        let one = async || wire.ask(&[("authorization", &token)], &request).await.chain().len();
        one().await;
        let some = async |_| {
            for _ in 0..certificates.div_ceil(AT_ONCE) {
                one().await;
            }
        };
        join_all((0..AT_ONCE).map(&some)).await;
    }
}

/// Row 12: lists of a thousand certificates, asked as often as one connection may ask, on every connection that is let in; with room for all of it,
/// and nothing is read. Then once more.
pub async fn lists_unread(seen: Arc<Seen>, door: Door, viewer: String) {
    const LISTS: u32 = 60;
    let question = frame(&ListCertificatesRequest { page_size: 1000, ..ListCertificatesRequest::default() }.encode_to_vec());
    let lists: Arc<Vec<u8>> = {
        let bearer = bearer(&viewer);
        let one = |stream| [grpc_headers(stream, LIST, &[("authorization", &bearer)]), h2_frame(DATA, END_STREAM, stream, &question)].concat();
        Arc::new((0..LISTS).flat_map(|number| one(2 * number + 1)).collect())
    };
    keep_up(seen.clone(), 128, 200, move |_| {
        let (door, lists, seen) = (door.clone(), lists.clone(), seen.clone());
        async move {
            let mut raw = Raw::open(&door).await?;
            raw.send(&lists).await?;
            seen.count_sent(lists.len());
            seen.hold_unread(raw, Duration::from_secs(20)).await;
            Ok(())
        }
    })
    .await;
}
