//! `meshmint serve` in a cluster, as its own service account with exactly the rules of deploy/kubernetes/rbac.yaml: none is missing, none is too
//! much, and no request for a certificate is a request to the API server.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/in_cluster.rs"]
mod common;

use std::path::Path;

use common::api_server::{ApiServer, CLUSTER_ISSUER, Settings};
use common::cluster::{BoundTo, Client, rbac};
use common::load::{self, Answer, Key, ask_once};
use common::process::{Serve, get, meshmint};
use common::{Shared, serve_yaml, wait_until};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::Code;

/// A server in a folder of its own.
struct World {
    serve: Serve,
    roots: String,
    folder: TempDir,
}

impl World {
    fn start(kubeconfig: &Path, verification: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let yaml = serve_yaml(folder.path(), "Kubernetes", kubeconfig, "", &format!(", verification: {verification}"));
        Self::with(folder, &yaml)
    }

    fn with(folder: TempDir, yaml: &str) -> Self {
        let serve = Serve::start(folder.path(), yaml);
        let socket = folder.path().join("admin.sock");
        let bundle = meshmint(&["bundle", "--admin", socket.to_str().unwrap()]);
        Self { serve, roots: String::from_utf8(bundle.stdout).unwrap(), folder }
    }

    async fn ask(&self, token: &str) -> Result<Answer, Code> {
        ask_once(self.serve.csr, &self.roots, Some(token)).await.map_err(|status| status.code())
    }

    fn check(&self) -> Vec<Value> {
        let socket = self.folder.path().join("admin.sock");
        let output = meshmint(&["check", "-o", "json", "--admin", socket.to_str().unwrap()]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        report["checks"].as_array().unwrap_or_else(|| panic!("{report:#}")).clone()
    }

    fn ready(&self) -> String {
        get(&self.serve.health.to_string(), "/readyz?verbose").1
    }
}

/// Requests that the API server has counted so far for what meshmint could ask; watches count when they end.
async fn counted(admin: &Client) -> Vec<String> {
    let metrics = admin.text("/metrics").await.unwrap();
    let ours = ["\"pods\"", "\"serviceaccounts\"", "\"nodes\"", "\"tokenreviews\""];
    let about = |line: &&str| line.starts_with("apiserver_request_total{") && ours.iter().any(|resource| line.contains(resource));
    metrics.lines().filter(about).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_of_certificates_is_no_request_to_the_api_server() {
    let shared = Shared::over(ApiServer::start().await).await;
    let admin = shared.admin().await;
    admin.workload("shop").await;
    admin.namespace("istio-system").await;
    admin.account("istio-system", "ztunnel").await;
    admin.pod("istio-system", "ztunnel", "ztunnel", "shop").await;
    let world = World::start(&shared.kubeconfig(shared.server.port()), "local");
    let token = admin.workload_token("shop").await;
    world.ask(&token).await.unwrap().verify().unwrap();

    let (before, all, objects) = (counted(&admin).await, admin.requests().await, shared.server.objects());
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let mut client = load::Client::connect(world.serve.csr, &world.roots, None).await.unwrap();
        let token = token.clone();
        tasks.push(tokio::spawn(async move {
            for _ in 0..50 {
                client.ask(Key::any(), Some(&token)).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(counted(&admin).await, before, "400 certificates later");
    // The API server asks itself now and then; and nothing is kept in the cluster for a certificate.
    let (all, objects) = (admin.requests().await - all, shared.server.objects().saturating_sub(objects));
    assert!(all < 100 && objects < 100, "{all} requests about anything, {objects} new objects");
    assert_eq!(world.serve.metric("meshmint_cluster_questions_total{question=\"object\",result=\"answered\"}"), 0.0);
    assert_eq!(world.serve.metric("meshmint_cluster_objects{resource=\"pods\"}"), 2.0);
    assert_eq!(world.serve.metric("meshmint_cluster_lists_total{resource=\"pods\"}"), 1.0);

    // What an operator sees, with the cluster and without it.
    let of_cluster = |checks: Vec<Value>| -> Vec<Value> { checks.into_iter().filter(|check| check["check"] == "cluster-known").collect() };
    let well = of_cluster(world.check());
    assert!(well.len() == 3 && well.iter().all(|check| check["severity"] == "ok"), "{well:#?}");
    let mut shared = shared;
    shared.server.kill();
    wait_until("the report to say so", || world.ready().contains("[!]cluster-known warn: ")).await;
    assert!(get(&world.serve.health.to_string(), "/readyz").0 == 200, "another replica would share it");
    let away = of_cluster(world.check());
    assert!(away.iter().all(|check| check["severity"] == "warning"), "{away:#?}");
    assert!(world.serve.metric("meshmint_cluster_watch_failures_total{resource=\"pods\"}") >= 1.0);
    world.ask(&token).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_rule_is_needed_and_enough() {
    let shared = Shared::over(ApiServer::start().await).await;
    let admin = shared.admin().await;
    admin.workload("shop").await;
    let kubeconfig = shared.kubeconfig(shared.server.port());
    let pod = admin.workload_token("shop").await;
    let node = admin.token("shop", "shop", BoundTo::Node("shop"), "istio-ca", 3600).await;
    let rules = rbac()[0]["rules"].as_array().unwrap().clone();
    let all = World::start(&kubeconfig, "local");
    all.ask(&pod).await.unwrap();
    all.ask(&node).await.unwrap();
    World::start(&kubeconfig, "tokenReview").ask(&pod).await.unwrap();
    drop(all);

    // Without `list` nothing is known, and each question is asked live; without `get` none of those is answered.
    for (resource, token) in [("pods", &pod), ("serviceaccounts", &pod), ("nodes", &node)] {
        let without = |verbs: &[&str]| {
            let mut left = rules.clone();
            let rule = left.iter_mut().find(|rule| rule["resources"] == json!([resource])).unwrap();
            rule["verbs"].as_array_mut().unwrap().retain(|verb| !verbs.contains(&verb.as_str().unwrap()));
            json!(left)
        };
        may(&admin, &without(&["watch"])).await;
        let world = World::start(&kubeconfig, "local");
        world.ask(token).await.unwrap();
        let trouble = format!("{resource}\" in API group \"\" at the cluster scope");
        wait_until("the watch to be refused", || failed(&world).iter().any(|detail| detail.contains(&trouble) && detail.contains("cannot watch")))
            .await;
        may(&admin, &without(&["list"])).await;
        let world = World::start(&kubeconfig, "local");
        world.ask(token).await.unwrap();
        assert!(failed(&world).iter().any(|detail| detail.contains(&trouble) && detail.contains("cannot list")));
        may(&admin, &without(&["list", "get"])).await;
        let world = World::start(&kubeconfig, "local");
        assert_eq!(world.ask(token).await.err(), Some(Code::Unavailable), "{resource}");
    }
    let without = |what: &str| json!(rules.iter().filter(|rule| !rule.to_string().contains(what)).collect::<Vec<_>>());
    may(&admin, &without("tokenreviews")).await;
    assert_eq!(World::start(&kubeconfig, "tokenReview").ask(&pod).await.err(), Some(Code::Unavailable));
    may(&admin, &json!(rules)).await;
    World::start(&kubeconfig, "tokenReview").ask(&pod).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_may_have_two_issuers() {
    const NEW: &str = "https://new.example";
    let mut shared = Shared::over(ApiServer::start().await).await;
    let admin = shared.admin().await;
    admin.workload("shop").await;
    let old = admin.workload_token("shop").await;
    // As Kubernetes wants it done: the first issuer makes tokens, those of the second stay good.
    shared.server.kill();
    let flags = vec![format!("--service-account-issuer={CLUSTER_ISSUER}")];
    shared.server.start_again(&Settings { issuer: NEW, flags, ..Settings::default() }).await;
    let new = admin.workload_token("shop").await;
    assert!(admin.review(&old).await && admin.review(&new).await, "the API server accepts both");

    let kubeconfig = shared.kubeconfig(shared.server.port());
    for verification in ["local", "tokenReview"] {
        let one = World::start(&kubeconfig, verification);
        assert_eq!((one.ask(&old).await.err(), one.ask(&new).await.err()), (None, Some(Code::Unauthenticated)), "{verification}");
        let folder = tempfile::tempdir().unwrap();
        let keys = "keys: { apiServer: true } }";
        let yaml = serve_yaml(folder.path(), "Kubernetes", &kubeconfig, "", &format!(", verification: {verification}"));
        let both = World::with(folder, &yaml.replace(keys, &format!("{keys}, {{ issuer: '{NEW}', {keys}")));
        assert_eq!((both.ask(&old).await.err(), both.ask(&new).await.err()), (None, None), "{verification}");
    }
}

/// What is wrong with the watches, as an operator reads it.
fn failed(world: &World) -> Vec<String> {
    let checks = world.check();
    let cluster = checks.iter().filter(|check| check["check"] == "cluster-known" && check["severity"] != "ok");
    cluster.map(|check| check["detail"].as_str().unwrap().to_owned()).collect()
}

/// Replaces the rules, and waits until the API server goes by them.
async fn may(admin: &Client, rules: &Value) {
    admin.set_rules(rules).await;
    let reviews = |verb: &str, resource: &str, group: &str| json!({"spec": {"user": "system:serviceaccount:meshmint-system:meshmint", "resourceAttributes": {"verb": verb, "resource": resource, "group": group}}});
    let mut wanted = Vec::new();
    for (resource, group, verbs) in [
        ("pods", "", ["get", "list", "watch"].as_slice()),
        ("serviceaccounts", "", &["get", "list", "watch"]),
        ("nodes", "", &["get", "list", "watch"]),
        ("tokenreviews", "authentication.k8s.io", &["create"]),
    ] {
        for verb in verbs {
            let allowed = rules
                .as_array()
                .unwrap()
                .iter()
                .any(|rule| rule["resources"] == json!([resource]) && rule["verbs"].as_array().unwrap().contains(&json!(verb)));
            wanted.push((reviews(verb, resource, group), allowed));
        }
    }
    for (review, allowed) in wanted {
        let goes = async {
            while admin.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await["status"]["allowed"] != json!(allowed) {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        assert!(tokio::time::timeout(common::process::PATIENCE, goes).await.is_ok(), "{review} is not {allowed}");
    }
}

/// 10,000 pods with MESHMINT_TEST_LONG, else as many as need three pages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_pods_are_listed_in_pages_and_take_little_memory() {
    const MOST: f64 = 150.0 * 1024.0 * 1024.0;
    let count = if std::env::var_os("MESHMINT_TEST_LONG").is_some() { 10_000 } else { 600 };
    let shared = Shared::over(ApiServer::start().await).await;
    let admin = shared.admin().await;
    admin.workload("many").await;
    admin.pods("many", count).await;
    let world = World::start(&shared.kubeconfig(shared.server.port()), "local");
    assert_eq!(world.serve.metric("meshmint_cluster_objects{resource=\"pods\"}"), f64::from(count + 1));
    let token = admin.token("many", "many", BoundTo::Pod(&format!("pod-{}", count - 1)), "istio-ca", 3600).await;
    world.ask(&token).await.unwrap();
    assert_eq!(world.serve.metric("meshmint_cluster_questions_total{question=\"object\",result=\"answered\"}"), 0.0, "every page was read");
    let resident = world.serve.metric("process_resident_memory_bytes");
    assert!(resident > 0.0 && resident < MOST, "{resident} bytes");
}
