//! What lives as long as the process in a cluster, with several replicas: each such task is watched, and its end is noticed by its name. Those of a
//! process alone are in `src/cli/serve.rs`, the ledgers' writers in `ledger_postgres.rs` and `ledger_sqlite.rs`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/in_cluster.rs"]
mod common;
#[path = "common/postgres.rs"]
mod postgres;
#[path = "common/replicas.rs"]
mod replicas;

use std::collections::BTreeSet;
use std::time::Duration;

use meshmint::authority::MadeBy;
use meshmint::clock::{SystemClock, SystemEntropy};
use meshmint::config::Config;
use meshmint::server::Server;
use replicas::{NAMESPACE, World};
use tempfile::TempDir;

/// Those of every process.
const EVERYWHERE: [&str; 9] =
    ["CSR port", "admin socket", "checkup", "health port", "key sets", "ledger probe", "metrics port", "pruning", "serving certificate"];

async fn start(yaml: &str) -> Server {
    let config = Config::load_with_flags(Some(("meshmint.yaml", yaml)), std::iter::empty(), &[]).unwrap();
    Server::start(&config, MadeBy::Serve, SystemClock::shared(), SystemEntropy::shared()).await.unwrap()
}

/// Ends each task of such a process but those of [`EVERYWHERE`]; it must have these of its own.
async fn each_is_noticed(yaml: &str, own: &[&'static str]) {
    let server = start(yaml).await;
    let mut tasks: BTreeSet<_> = server.vigil().tasks().into_iter().collect();
    server.shut_down().await;
    assert!(EVERYWHERE.iter().all(|task| tasks.remove(task)), "{tasks:?}");
    assert!(tasks.iter().eq(own), "{tasks:?}");
    for task in own {
        let server = start(yaml).await;
        assert!(server.vigil().abort(task));
        let ended = tokio::time::timeout(Duration::from_secs(60), server.ended()).await.expect("it is noticed");
        assert_eq!((ended.task, ended.panicked), (*task, false));
        tokio::time::timeout(Duration::from_secs(60), server.shut_down()).await.expect("it goes down");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_task_of_a_replica_is_noticed_where_it_ends() {
    rustls::crypto::ring::default_provider().install_default().unwrap();
    let world = World::start().await;
    let folder = TempDir::new().unwrap();
    let more = "controllers: { rootConfigMap: { enabled: true }, istiod: { namespace: istio-system } }\n";
    let spool = format!("ledger: {{ onOutage: spool, spool: {{ path: {}/spool.db }}, postgres: ", folder.path().display());
    let yaml = world
        .yaml(folder.path(), &world.kubeconfig(), &world.database, NAMESPACE, more)
        .replace("ledger: { postgres: ", &spool)
        .replace("cluster: { ", &format!("cluster: {{ remoteSecretsNamespace: {NAMESPACE}, "))
        .replace("admin: { ", "admin: { listen: 127.0.0.1:0, ");
    let own = [
        "admin port",
        "election",
        "istiod-tls",
        "keeper",
        "ledger's writer",
        "other clusters",
        "root ConfigMaps",
        "spool's draining",
        "watches of the cluster",
    ];
    each_is_noticed(&yaml, &own).await;

    let folder = TempDir::new().unwrap();
    let yaml = common::serve_yaml(folder.path(), "Kubernetes", &world.kubeconfig(), "", "");
    let yaml = format!("{yaml}controllers: {{ cacerts: {{ namespace: istio-system }} }}\n");
    each_is_noticed(&yaml, &["cacerts", "keeper", "watches of the cluster"]).await;
}
