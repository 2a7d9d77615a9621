//! Roles apart, with exactly the rules of deploy/kubernetes: an authority that leads and has no CSR port, and issuers that face the mesh and can't read
//! the root key. Each rule is taken away in turn, and a named thing fails.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/in_cluster.rs"]
mod common;
#[path = "common/postgres.rs"]
mod postgres;
#[path = "common/replicas.rs"]
mod replicas;

use std::path::PathBuf;
use std::time::Duration;

use common::Shared;
use common::api_server::ApiServer;
use common::process::{Serve, get, meshmint, wait_for};
use replicas::{Load, NAMESPACE, Replica, World};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::block_in_place;

const ROLES: &str = "deploy/kubernetes/roles.yaml";
const STATE: &str = "deploy/kubernetes/state.yaml";
/// Leaves of 6 s; the issuing key is renewed after 40 of its 60 s, which leaves time for another start of who renews it.
const SECONDS: &str = "certificates: { defaultLifetime: 6s, maxLifetime: 6s, backdate: 0s, jitter: 0% }\nauthority: { issuingLifetime: 60s }\n";
/// Where the Secrets of other clusters are: not beside the root key.
const OTHERS: &str = "meshmint-clusters";

/// More of the section `server`.
const SERVER: &str = ", servingLifetime: 6s, requestTimeout: 1s";

/// What the roles share, with the rules of both, and the kubeconfigs of the authority and of issuers.
async fn apart() -> (World, PathBuf, PathBuf) {
    let world = World::start().await;
    world.admin.apply_rules(ROLES).await;
    world.admin.namespace(OTHERS).await;
    world.admin.apply_rules("deploy/kubernetes/issuer-remote-clusters.yaml").await;
    world.admin.apply_rules("deploy/kubernetes/remote-clusters.yaml").await;
    // Whoever leads needn't know who lives in the cluster.
    world.admin.delete("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/meshmint", 0).await;
    world.admin.until_may("meshmint", "", "list", ("", "pods", ""), false).await;
    let (authority, issuer) = (world.kubeconfig(), world.kubeconfig_of("meshmint-issuer").await);
    may(&world, "meshmint-issuer", "get", "secrets", "meshmint-issuing", true).await;
    (world, authority, issuer)
}

/// The authority's rules without this verb for this kind of object.
fn without(verb: &str, resource: &str) -> Value {
    let mut rules = common::cluster::objects(STATE)[0]["rules"].clone();
    for rule in rules.as_array_mut().unwrap().iter_mut().filter(|rule| rule["resources"] == json!([resource])) {
        rule["verbs"].as_array_mut().unwrap().retain(|each| each != verb);
    }
    rules.as_array_mut().unwrap().retain(|rule| !rule["verbs"].as_array().unwrap().is_empty());
    rules
}

/// Waits until the API server goes by this.
async fn may(world: &World, account: &str, verb: &str, resource: &str, name: &str, allowed: bool) {
    let group = if resource == "leases" { "coordination.k8s.io" } else { "" };
    world.admin.until_may(account, NAMESPACE, verb, (group, resource, name), allowed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_issuer_issues_and_can_not_read_the_root_key() {
    let (world, authority_config, issuer_config) = apart().await;

    // An issuer alone founds nothing, and says so.
    let folder = tempfile::tempdir().unwrap();
    let yaml = world.yaml(folder.path(), &issuer_config, &world.database, NAMESPACE, "role: issuer\n");
    let (code, said) = block_in_place(|| Serve::refused(folder.path(), &yaml));
    assert!(code == Some(1) && said.contains("a replica of role issuer makes none"), "{said}");

    let mut authority = world.replica_as(&authority_config, SERVER, &format!("role: authority\n{SECONDS}"));
    let mut issuers: Vec<_> = (0..2).map(|_| world.replica_as(&issuer_config, SERVER, &format!("role: issuer\n{SECONDS}"))).collect();
    assert!(authority.leads() && issuers.iter().all(|issuer| !issuer.leads()));
    let (status, report) = get(&authority.serve.health.to_string(), "/readyz?verbose");
    assert!(status == 200 && report.contains("no CSR port here") && !report.contains("[-]"), "{report}");
    assert_eq!(authority.serve.csr.port(), 0, "it has no CSR port");
    assert_eq!((authority.check("csr-answers")["severity"].as_str(), issuers[0].check("csr-answers")["severity"].as_str()), (Some("ok"), Some("ok")));

    // The root key is somebody else's to read, by every way to it.
    let as_issuer = common::cluster::Client::new(&issuer_config).await;
    let secrets = format!("/api/v1/namespaces/{NAMESPACE}/secrets");
    let forbidden = async |method: &str, path: &str| match as_issuer.ask(method, path, "application/merge-patch+json", &json!({})).await {
        Err(kube::Error::Api(status)) => assert_eq!(status.code, 403, "{method} {path}: {status:?}"),
        other => panic!("{method} {path}: {other:?}"),
    };
    for path in ["/meshmint-root", "?fieldSelector=metadata.name=meshmint-root", "?watch=true", ""] {
        forbidden("GET", &format!("{secrets}{path}")).await;
    }
    for name in ["meshmint-state", "meshmint-issuing", "meshmint-root"] {
        forbidden("PATCH", &format!("{secrets}/{name}")).await;
        forbidden("DELETE", &format!("{secrets}/{name}")).await;
    }
    forbidden("POST", &secrets).await;
    forbidden("GET", &format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/meshmint-leader")).await;
    as_issuer.get(&format!("{secrets}/meshmint-issuing")).await;
    assert_eq!(world.secret(NAMESPACE, "meshmint-root").await.len(), 1);
    // Nobody forges Helm's record of a release, whose next upgrade would do what it says: not an issuer, and not who founded the authority here.
    let as_authority = common::cluster::Client::new(&authority_config).await;
    let name = "sh.helm.release.v1.meshmint.v99";
    let forged = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "helm.sh/release.v1", "data": {"release": ""},
        "metadata": {"name": name, "labels": {"owner": "helm", "name": "meshmint", "status": "deployed", "version": "99"}},
    });
    for client in [&as_issuer, &as_authority] {
        for (method, path, kind) in [
            ("POST", secrets.clone(), "application/json"),
            ("PATCH", format!("{secrets}/{name}?fieldManager=thief"), "application/apply-patch+yaml"),
            ("PUT", format!("{secrets}/{name}"), "application/json"),
        ] {
            let refused = client.ask(method, &path, kind, &forged).await;
            assert!(matches!(&refused, Err(kube::Error::Api(status)) if status.code == 403), "{method} {path}: {refused:?}");
        }
    }
    // Nor does it change anything for an operator, who hears whom to ask.
    let root = issuers[0].folder.path().join("root.pem");
    std::fs::write(&root, issuers[0].bundle()).unwrap();
    let socket = issuers[0].folder.path().join("admin.sock");
    let add = ["authority", "trust", "add", root.to_str().unwrap(), "--reason", "a move", "--admin", socket.to_str().unwrap()];
    let refused = block_in_place(|| meshmint(&add));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && said.contains("ask one of role authority"), "{said}");

    // Issuing keys come and go under load, and while the authority is frozen nobody notices. An issuer is killed (SIGKILL) and comes again; so does the
    // authority, as soon as it has renewed.
    let load = Load::begin(&issuers, &world.token, 3);
    load.goes_on(20).await;
    authority.signal(Signal::STOP);
    load.goes_on(40).await;
    authority.signal(Signal::CONT);
    issuers[1].kill();
    load.goes_on(40).await;
    issuers[1].start_again();
    load.moved(&issuers);
    let has_come = |generation: f64| {
        block_in_place(|| {
            wait_for("another issuing key", || issuers.iter().all(|issuer| issuer.serve.metric("meshmint_generation") >= generation).then_some(()))
        });
    };
    has_come(2.0);
    authority.kill();
    load.goes_on(40).await;
    authority.start_again();
    has_come(3.0);
    load.goes_on(40).await;
    let seen = load.end().await;
    assert!(seen.failed.is_empty(), "{:#?}", seen.failed);
    assert!(seen.retries > 0, "the dead one was asked");
    world.assert_on_record(&seen.answers);
    assert!(world.assert_whole(NAMESPACE).await >= 3);

    // What an issuer finds lost, the authority, which lost nothing, notes in the state.
    assert_eq!(world.state(NAMESPACE).await["ledger"]["incompleteBefore"], Value::Null);
    world.admin.set_role(NAMESPACE, STATE, "meshmint-state", &without("patch", "secrets")).await;
    may(&world, "meshmint", "patch", "secrets", "meshmint-state", false).await;
    // Issuers have written more than that, and the authority less.
    let sql = "UPDATE meshmint.replicas SET written = written - 2 WHERE written > 20";
    block_in_place(|| world.postgres.sql(&world.database.name, sql));
    // While it can't be noted, each look has its pause.
    let failures = || authority.serve.metric("meshmint_authority_failures");
    let before = failures();
    block_in_place(|| wait_for("the loss not to be noted", || (failures() > before).then_some(())));
    let before = failures();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(failures() - before < 10.0, "{} looks in four seconds", failures() - before);
    world.admin.set_role(NAMESPACE, STATE, "meshmint-state", &common::cluster::objects(STATE)[0]["rules"]).await;
    let is_noted = || authority.check("ledger-complete")["severity"] == "warning";
    block_in_place(|| wait_for("the loss to be noted", || is_noted().then_some(())));
    let mark = world.state(NAMESPACE).await["ledger"].clone();
    assert!(mark["incompleteUntil"].as_str().unwrap() > mark["incompleteBefore"].as_str().unwrap(), "{mark}");
    let lost = |replica: &Replica| replica.serve.metric("meshmint_ledger_lost_total");
    assert!(lost(&authority) == 0.0 && issuers.iter().map(lost).sum::<f64>() >= 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_rule_is_needed() {
    let (world, authority_config, issuer_config) = apart().await;
    let authority = world.replica_as(&authority_config, SERVER, &format!("role: authority\n{SECONDS}"));
    let issuer = world.replica_as(&issuer_config, SERVER, &format!("role: issuer\n{SECONDS}"));
    let rule = |names: Value| json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": names, "verbs": ["get"]}]);
    world.admin.set_role(NAMESPACE, ROLES, "meshmint-issuer", &rule(json!(["meshmint-issuing"]))).await;
    may(&world, "meshmint-issuer", "get", "secrets", "meshmint-state", false).await;
    block_in_place(|| wait_for("the state to be missed", || (issuer.check("state-followed")["severity"] == "warning").then_some(())));
    world.admin.set_role(NAMESPACE, ROLES, "meshmint-issuer", &rule(json!(["meshmint-state"]))).await;
    may(&world, "meshmint-issuer", "get", "secrets", "meshmint-issuing", false).await;
    may(&world, "meshmint-issuer", "get", "secrets", "meshmint-state", true).await;
    block_in_place(|| wait_for("the state to be followed", || (issuer.check("state-followed")["severity"] == "ok").then_some(())));
    let failures = || issuer.serve.metric("meshmint_authority_failures");
    let before = failures();
    block_in_place(|| wait_for("the keys to be missed", || (failures() > before).then_some(())));
    world.admin.set_role(NAMESPACE, ROLES, "meshmint-issuer", &rule(json!(["meshmint-state", "meshmint-issuing"]))).await;
    may(&world, "meshmint-issuer", "get", "secrets", "meshmint-issuing", true).await;
    // Other clusters, in their namespace.
    let with_others = || {
        let others = |yaml: String| yaml.replace("cluster: { ", &format!("cluster: {{ remoteSecretsNamespace: {OTHERS}, "));
        world.replica_of(&issuer_config, SERVER, &format!("role: issuer\n{SECONDS}"), others).check("remote-clusters")
    };
    let found = with_others();
    assert_eq!(found["severity"], "ok", "{found}");
    let binding = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{OTHERS}/rolebindings/meshmint-issuer-remote-clusters");
    world.admin.delete(&binding, 0).await;
    world.admin.until_may("meshmint-issuer", OTHERS, "list", ("", "secrets", ""), false).await;
    let found = with_others();
    assert!(found["severity"] == "failed" && found["detail"].as_str().unwrap().contains("cannot list"), "{found}");
    // Without the binding an issuer that starts knows nobody.
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    world.admin.delete(&format!("{bindings}/meshmint-issuer"), 0).await;
    world.admin.until_may("meshmint-issuer", "", "list", ("", "pods", ""), false).await;
    let lost = world.replica_as(&issuer_config, SERVER, &format!("role: issuer\n{SECONDS}"));
    let known = lost.check("cluster-known");
    assert!(known["severity"] == "failed" && known["detail"].as_str().unwrap().contains("cannot list"), "{known}");
    let refused = replicas::once(lost.serve.csr, &lost.bundle(), &world.token).await.map(|_| ());
    assert!(refused.as_ref().is_err_and(|error| error.starts_with("Unavailable")), "{refused:?}");

    // And of the authority, by verb.
    let all = common::cluster::objects(STATE)[0]["rules"].clone();
    let leads = |leads: bool| block_in_place(|| wait_for("the Lease", || (authority.leads() == leads).then_some(())));
    leads(true);
    let lease = format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/meshmint-leader");
    for (verb, name) in [("get", "meshmint-leader"), ("patch", "meshmint-leader"), ("create", "meshmint-leader")] {
        world.admin.set_role(NAMESPACE, STATE, "meshmint-state", &without(verb, "leases")).await;
        may(&world, "meshmint", verb, "leases", name, false).await;
        if verb == "create" {
            // As before the first replica of all.
            world.admin.delete(&lease, 0).await;
        }
        leads(false);
        world.admin.set_role(NAMESPACE, STATE, "meshmint-state", &all).await;
        leads(true);
    }
    let failures = || authority.serve.metric("meshmint_authority_failures");
    for (verb, name) in [("get", "meshmint-state"), ("patch", "meshmint-state")] {
        world.admin.set_role(NAMESPACE, STATE, "meshmint-state", &without(verb, "secrets")).await;
        may(&world, "meshmint", verb, "secrets", name, false).await;
        let before = failures();
        block_in_place(|| wait_for("the state to be missed", || (failures() > before).then_some(())));
        world.admin.set_role(NAMESPACE, STATE, "meshmint-state", &all).await;
        may(&world, "meshmint", verb, "secrets", name, true).await;
    }
    // Founding makes Secrets.
    world.admin.apply_rules_in("founding", STATE).await;
    world.admin.set_role("founding", STATE, "meshmint-state", &without("create", "secrets")).await;
    world.admin.until_may("meshmint", "founding", "create", ("", "secrets", "meshmint-state"), false).await;
    world.admin.until_may("meshmint", "founding", "get", ("", "secrets", "meshmint-state"), true).await;
    world.admin.until_may("meshmint", "founding", "create", ("coordination.k8s.io", "leases", "meshmint-leader"), true).await;
    let (folder, database) = (tempfile::tempdir().unwrap(), world.postgres.database());
    let yaml = world.yaml(folder.path(), &authority_config, &database, "founding", "role: authority\n");
    let (code, said) = block_in_place(|| Serve::refused(folder.path(), &yaml));
    assert!(code == Some(1) && said.contains("cannot create resource \"secrets\""), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_authority_keeps_the_certificate_of_an_istiod_in_another_cluster() {
    const SECRET: &str = "/api/v1/namespaces/istio-system/secrets/istiod-tls";
    let (world, authority_config, issuer_config) = apart().await;
    let west = Shared::over(ApiServer::start().await).await;
    let there = west.admin().await;
    there.namespace("istio-system").await;
    there.apply_rules("deploy/kubernetes/istiod.yaml").await;
    let kubeconfig = west.server.admin_kubeconfig();
    let made = block_in_place(|| meshmint(&["cluster", "secret", "--cluster", "west", "--kubeconfig", kubeconfig.to_str().unwrap()]));
    let made: Value = serde_saphyr::from_str(&String::from_utf8(made.stdout).unwrap()).unwrap();
    world.admin.create(&format!("/api/v1/namespaces/{NAMESPACE}/secrets"), &made).await;
    // Issuers have their own, of an account that writes nothing.
    there.account(NAMESPACE, "meshmint-issuer").await;
    let account = ["--account", "meshmint-system/meshmint-issuer", "--namespace", OTHERS];
    let made = [&["cluster", "secret", "--cluster", "west", "--kubeconfig", kubeconfig.to_str().unwrap()][..], &account].concat();
    let made = block_in_place(|| meshmint(&made));
    let made: Value = serde_saphyr::from_str(&String::from_utf8(made.stdout).unwrap()).unwrap();
    world.admin.create(&format!("/api/v1/namespaces/{OTHERS}/secrets"), &made).await;

    let istiod = "controllers: { istiod: { namespace: istio-system, clusters: [west] } }\n";
    let start = |role: &str| {
        let (kubeconfig, others) = if role == "issuer" { (&issuer_config, OTHERS) } else { (&authority_config, NAMESPACE) };
        let others = format!(", remoteSecretsNamespace: {others} }}\ntokens:");
        let folder = tempfile::tempdir().unwrap();
        let yaml = world.yaml(folder.path(), kubeconfig, &world.database, NAMESPACE, &format!("role: {role}\n{istiod}"));
        (block_in_place(|| Serve::start(folder.path(), &yaml.replace(" }\ntokens:", &others))), folder)
    };
    let kept = |serve: &Serve| serve.metric("meshmint_istiod_tls{state=\"current\"}");
    let (authority, _folder) = start("authority");
    block_in_place(|| wait_for("istiod's certificate", || (kept(&authority) == 1.0).then_some(())));
    let secret = there.get(SECRET).await;
    assert!(secret["data"]["tls.crt"].is_string() && secret["data"]["tls.key"].is_string(), "{secret}");
    // Without one nobody keeps it.
    let (issuer, _folder) = start("issuer");
    assert_eq!(block_in_place(|| authority.terminate()).0, Some(0));
    there.delete(SECRET, 0).await;
    assert_eq!(issuer.metric("meshmint_leading"), 0.0);
    let (authority, _folder) = start("authority");
    block_in_place(|| wait_for("it again", || (kept(&authority) == 1.0).then_some(())));
    assert_ne!(there.get(SECRET).await["data"]["tls.key"], secret["data"]["tls.key"]);
    assert_eq!((kept(&issuer), issuer.metric("meshmint_istiod_tls_writes_total{result=\"written\"}")), (0.0, 0.0));
}
