//! The trust bundle in every namespace, as `meshmint serve` keeps it there with exactly the rules of deploy/kubernetes: made, repaired, never taken back
//! to an older one, in our own cluster and in one that is joined.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/in_cluster.rs"]
mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use common::api_server::ApiServer;
use common::cluster::{Client, objects};
use common::process::{PATIENCE, Serve, meshmint};
use common::slow_link::SlowLink;
use common::{Shared, foreign_root, serve_yaml, wait_until};
use serde_json::{Value, json};
use tempfile::TempDir;

const RULES: &str = "deploy/kubernetes/controllers.yaml";
const NUMBER: &str = "meshmint.io/bundle-number";

struct World {
    serve: Serve,
    bundle: String,
    folder: TempDir,
}

impl World {
    fn start(kubeconfig: &Path, more_of_cluster: &str, more_of_map: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let yaml = serve_yaml(folder.path(), "Kubernetes", kubeconfig, more_of_cluster, "");
        let serve = Serve::start(folder.path(), &format!("{yaml}controllers: {{ rootConfigMap: {{ enabled: true{more_of_map} }} }}\n"));
        let bundle = meshmint(&["bundle", "--admin", folder.path().join("admin.sock").to_str().unwrap()]);
        Self { serve, bundle: String::from_utf8(bundle.stdout).unwrap(), folder }
    }

    /// Lets a root of another CA join the bundle.
    fn add_trust(&mut self) {
        let (root, socket) = (self.folder.path().join("root.pem"), self.folder.path().join("admin.sock"));
        std::fs::write(&root, foreign_root("another")).unwrap();
        let (root, admin) = (root.to_str().unwrap(), ["--admin", socket.to_str().unwrap()]);
        let added = meshmint(&[&["authority", "trust", "add", root, "--reason", "a move"][..], &admin].concat());
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        let before = std::mem::replace(&mut self.bundle, String::from_utf8(meshmint(&[&["bundle"][..], &admin].concat()).stdout).unwrap());
        assert!(self.bundle.starts_with(&before) && self.bundle.len() > before.len(), "both roots");
    }

    fn namespaces(&self, state: &str) -> f64 {
        self.serve.metric(&format!("meshmint_root_configmap_namespaces{{state=\"{state}\"}}"))
    }

    fn writes(&self, result: &str) -> f64 {
        self.serve.metric(&format!("meshmint_root_configmap_writes_total{{result=\"{result}\"}}"))
    }

    async fn until_all(&self, count: usize) {
        wait_until("every namespace to have the bundle", || {
            self.namespaces("current") == count as f64 && self.serve.metric("meshmint_root_configmap_behind_seconds") == 0.0
        })
        .await;
    }

    /// Lines of `root-configmaps`: severity, message and detail.
    fn check(&self) -> Vec<(String, String)> {
        let output = meshmint(&["check", "-o", "json", "--admin", self.folder.path().join("admin.sock").to_str().unwrap()]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let lines = report["checks"].as_array().unwrap().iter().filter(|line| line["check"] == "root-configmaps");
        lines.map(|line| (line["severity"].as_str().unwrap().to_owned(), format!("{} {}", line["message"], line["detail"]))).collect()
    }

    async fn until_check(&self, severity: &str, what: &str) {
        wait_until(what, || self.check().iter().any(|(found, said)| found == severity && said.contains(what))).await;
    }

    /// Waits until the ConfigMap at this path is as it shall be, beside what others keep there; returns it, and how long that took.
    async fn until_right(&self, admin: &Client, path: &str) -> (Value, Duration) {
        let began = Instant::now();
        let mut last = None;
        let right = async {
            loop {
                last = admin.find(path).await;
                if let Some(map) = last.as_ref().filter(|map| self.is_right(map)) {
                    return map.clone();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, right).await {
            Ok(map) => (map, began.elapsed()),
            Err(_) => panic!("{path}: {last:#?}"),
        }
    }

    fn is_right(&self, map: &Value) -> bool {
        let number = format!("{}", self.serve.metric("meshmint_bundle_number"));
        let metadata = &map["metadata"];
        map["data"]["root-cert.pem"] == json!(self.bundle)
            && metadata["labels"]["istio.io/config"] == "true"
            && metadata["annotations"][NUMBER] == json!(number)
    }
}

fn map(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps/istio-ca-root-cert")
}

fn maps(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps")
}

async fn cluster() -> (Shared, Client) {
    let shared = Shared::over(ApiServer::start().await).await;
    let admin = shared.admin().await;
    admin.apply_rules(RULES).await;
    (shared, admin)
}

/// How many namespaces there are that count.
async fn selected(admin: &Client) -> usize {
    let all = admin.get("/api/v1/namespaces").await;
    let never = ["kube-public", "kube-node-lease", "local-path-storage"];
    let counts = |namespace: &&Value| {
        namespace["metadata"]["deletionTimestamp"].is_null() && !never.contains(&namespace["metadata"]["name"].as_str().unwrap())
    };
    all["items"].as_array().unwrap().iter().filter(counts).count()
}

/// All these are as they shall be, and no more than 200 were written in one second; `time` is when one was.
async fn assert_even(world: &World, admin: &Client, count: usize, time: fn(&Value) -> Option<&str>) {
    let found = admin.get("/api/v1/configmaps?fieldSelector=metadata.name%3Distio-ca-root-cert").await;
    let found = found["items"].as_array().unwrap();
    assert_eq!(found.len(), count);
    let mut seconds = BTreeMap::<&str, usize>::new();
    for map in found {
        assert!(world.is_right(map), "{map:#}");
        *seconds.entry(time(map).unwrap_or_else(|| panic!("{map:#}"))).or_default() += 1;
    }
    assert!(seconds.values().all(|written| *written <= 200), "{seconds:?}");
}

/// When our fields in it were changed last.
fn changed(map: &Value) -> Option<&str> {
    let fields = map["metadata"]["managedFields"].as_array()?;
    fields.iter().find(|fields| fields["manager"] == "meshmint" && fields["operation"] == "Update")?["time"].as_str()
}

/// 5,000 namespaces with MESHMINT_TEST_LONG, else 300: all of them in less than a minute, and never more than 200 in a second; and so it is again after a
/// new bundle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_namespaces_get_it_soon_and_evenly() {
    const MOST: f64 = 150.0 * 1024.0 * 1024.0;
    let count = if std::env::var_os("MESHMINT_TEST_LONG").is_some() { 5000 } else { 300 };
    let (shared, admin) = cluster().await;
    let makers: Vec<_> = (0..16)
        .map(|maker| {
            let admin = admin.clone();
            tokio::spawn(async move {
                for number in (maker..count).step_by(16) {
                    admin.namespace(&format!("many-{number}")).await;
                }
            })
        })
        .collect();
    for maker in makers {
        maker.await.unwrap();
    }
    let all = selected(&admin).await;
    assert!(all > count);
    let began = Instant::now();
    let mut world = World::start(&shared.kubeconfig(shared.server.port()), "", "");
    // One that is made meanwhile doesn't wait for the others.
    admin.namespace("meanwhile").await;
    let (_, took) = world.until_right(&admin, &map("meanwhile")).await;
    assert!(count > 300 || took < Duration::from_secs(2), "{took:?}");
    world.until_all(all + 1).await;
    let took = began.elapsed();
    eprintln!("{count} namespaces took {took:?}");
    assert!(took < Duration::from_secs(60), "{took:?}");

    assert_even(&world, &admin, all + 1, |map| map["metadata"]["creationTimestamp"].as_str()).await;
    assert_eq!((world.writes("written"), world.writes("failed")), ((all + 1) as f64, 0.0), "each once");

    let began = Instant::now();
    world.add_trust();
    wait_until("each to be written once more", || world.writes("written") >= (2 * (all + 1)) as f64).await;
    world.until_all(all + 1).await;
    let took = began.elapsed();
    eprintln!("a new bundle was in {count} namespaces after {took:?}");
    assert!(took < Duration::from_secs(60), "{took:?}");
    assert_even(&world, &admin, all + 1, changed).await;
    assert_eq!((world.writes("written"), world.writes("failed")), ((2 * (all + 1)) as f64, 0.0), "each once");
    let resident = world.serve.metric("process_resident_memory_bytes");
    eprintln!("resident: {} MiB", resident / 1024.0 / 1024.0);
    assert!(resident > 0.0 && resident < MOST, "{resident} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_do_to_it_is_repaired_and_what_is_theirs_is_kept() {
    let (shared, admin) = cluster().await;
    for name in ["shop", "kube-node-lease"] {
        if admin.find(&format!("/api/v1/namespaces/{name}")).await.is_none() {
            admin.namespace(name).await;
        }
    }
    // As istiod left it, with something of somebody else.
    let theirs = json!({"metadata": {"name": "istio-ca-root-cert", "labels": {"istio.io/config": "true", "theirs": "1"}, "annotations": {"theirs": "2"}},
        "data": {"root-cert.pem": "istiod's", "theirs": "3"}});
    admin.create(&maps("shop"), &theirs).await;
    let world = World::start(&shared.kubeconfig(shared.server.port()), "", "");
    world.until_all(selected(&admin).await).await;
    let shop = map("shop");
    let (found, _) = world.until_right(&admin, &shop).await;
    let of_theirs =
        |map: &Value| [&map["metadata"]["labels"]["theirs"], &map["metadata"]["annotations"]["theirs"], &map["data"]["theirs"]].map(Value::clone);
    assert_eq!(of_theirs(&found), ["1", "2", "3"].map(|text| json!(text)));
    assert_eq!(found["data"].as_object().unwrap().len(), 2);
    assert!(admin.find(&map("kube-system")).await.is_some(), "ztunnel may live there");
    assert!(admin.find(&map("kube-node-lease")).await.is_none() && admin.find(&map("kube-public")).await.is_none());

    // Each of these is undone.
    for patch in [
        json!({"data": {"root-cert.pem": "another root"}}),
        json!({"data": {"root-cert.pem": null}}),
        json!({"data": {"root-cert.pem": null}, "binaryData": {"root-cert.pem": "AAAA"}}),
        json!({"metadata": {"labels": {"istio.io/config": null}}}),
        json!({"metadata": {"annotations": {NUMBER: null}}}),
        json!({"metadata": {"annotations": {NUMBER: "0"}}}),
        json!({"metadata": {"annotations": {NUMBER: "many"}}, "data": {"root-cert.pem": "x"}}),
    ] {
        admin.patch(&shop, &patch).await;
        let (found, _) = world.until_right(&admin, &shop).await;
        assert_eq!((of_theirs(&found), &found["binaryData"]), (["1", "2", "3"].map(|text| json!(text)), &Value::Null), "{patch}");
    }
    admin.create("/api/v1/namespaces", &json!({"metadata": {"name": "new"}})).await;
    let (_, took) = world.until_right(&admin, &map("new")).await;
    assert!(took < Duration::from_secs(1), "a new namespace waited for {took:?}");
    admin.delete(&map("new"), 0).await;
    let (_, took) = world.until_right(&admin, &map("new")).await;
    assert!(took < Duration::from_secs(1), "a deleted one waited for {took:?}");

    // A higher number is another writer's, who knows more: for as long as a frozen leader might believe otherwise. Then it was never given.
    let newer = json!({"metadata": {"annotations": {NUMBER: "4000"}}, "data": {"root-cert.pem": "newer"}});
    admin.patch(&map("new"), &newer).await;
    wait_until("it to be left alone", || world.namespaces("left_alone") == 1.0).await;
    world.until_check("warning", "a bundle of a higher number").await;
    admin.namespace("after").await;
    world.until_right(&admin, &map("after")).await;
    assert_eq!(admin.get(&map("new")).await["data"]["root-cert.pem"], "newer");
    let (_, took) = world.until_right(&admin, &map("new")).await;
    assert!(took > Duration::from_secs(10), "{took:?}");
    // Seen to be right, so that what comes now begins anew. Whose it says it is changes nothing but what an operator reads.
    world.until_all(selected(&admin).await).await;
    let others = json!({"metadata": {"annotations": {NUMBER: "9000", "meshmint.io/authority": "cafe"}}, "data": {"root-cert.pem": "theirs"}});
    admin.patch(&map("new"), &others).await;
    world.until_check("warning", "a bundle of another authority, cafe").await;
    // One who never stops is told of.
    let fighting = async {
        loop {
            admin.patch(&map("after"), &json!({"data": {"root-cert.pem": "mine"}})).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = fighting => {}
        () = world.until_check("failed", "again and again") => {}
    }
    world.until_right(&admin, &map("after")).await;

    // Nothing is made in a namespace that is on its way out.
    admin.delete("/api/v1/namespaces/new", 0).await;
    wait_until("the namespace to be left", || world.namespaces("left_alone") == 0.0).await;
    admin.delete(&map("new"), 0).await;
    world.until_all(selected(&admin).await).await;
    assert!(admin.find(&map("new")).await.is_none());
    assert_eq!((world.writes("failed"), world.check().remove(0).0.as_str()), (0.0, "ok"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_chosen_namespaces_get_one_under_the_chosen_name() {
    let shared = Shared::over(ApiServer::start().await).await;
    let admin = shared.admin().await;
    let mut rules = objects(RULES);
    rules[0]["rules"][1]["resourceNames"] = json!(["roots"]);
    for object in &rules {
        let kind = object["kind"].as_str().unwrap().to_lowercase();
        admin.create(&format!("/apis/rbac.authorization.k8s.io/v1/{kind}s"), object).await;
    }
    let labelled = |name: &str| json!({"metadata": {"name": name, "labels": {"istio-discovery": "enabled"}}});
    admin.create("/api/v1/namespaces", &labelled("inside")).await;
    admin.namespace("outside").await;
    let world = World::start(&shared.kubeconfig(shared.server.port()), "", ", name: roots, namespaceSelector: istio-discovery=enabled");
    world.until_all(1).await;
    let at = |namespace: &str| format!("{}/roots", maps(namespace));
    world.until_right(&admin, &at("inside")).await;
    assert!(admin.find(&at("outside")).await.is_none());
    admin.patch("/api/v1/namespaces/outside", &labelled("outside")).await;
    world.until_right(&admin, &at("outside")).await;
    // One that isn't chosen any more is nobody's; nothing is taken away from it.
    admin.patch("/api/v1/namespaces/inside", &json!({"metadata": {"labels": {"istio-discovery": null}}})).await;
    world.until_all(1).await;
    admin.patch(&at("inside"), &json!({"data": {"root-cert.pem": "mine"}})).await;
    admin.patch(&at("outside"), &json!({"data": {"root-cert.pem": "drift"}})).await;
    world.until_right(&admin, &at("outside")).await;
    assert_eq!(admin.get(&at("inside")).await["data"]["root-cert.pem"], "mine");
}

/// Events reach the server late, so it acts on what was true before: that must never undo what a writer with a newer bundle did in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_knows_less_undoes_nothing() {
    let (shared, admin) = cluster().await;
    admin.namespace("shop").await;
    let link = SlowLink::to(shared.server.port()).await;
    let world = World::start(&shared.kubeconfig(link.port()), "", "");
    world.until_all(selected(&admin).await).await;
    world.until_right(&admin, &map("shop")).await;
    link.answer_late(Duration::from_millis(400));

    let newer = json!({"metadata": {"name": "istio-ca-root-cert", "annotations": {NUMBER: "77"}}, "data": {"root-cert.pem": "newer"}});
    // Changed, and then by the other one.
    admin.patch(&map("shop"), &json!({"data": {"root-cert.pem": "drift"}})).await;
    admin.patch(&map("shop"), &newer).await;
    wait_until("it to come too late", || world.writes("conflict") == 1.0).await;
    wait_until("it to be left alone", || world.namespaces("left_alone") == 1.0).await;
    assert_eq!(admin.get(&map("shop")).await["data"]["root-cert.pem"], "newer");

    // Deleted, and then made by the other one.
    admin.delete(&map("shop"), 0).await;
    admin.create(&maps("shop"), &newer).await;
    wait_until("it to come too late again", || world.writes("conflict") == 2.0).await;
    wait_until("it to be left alone again", || world.namespaces("left_alone") == 1.0).await;
    assert_eq!(admin.get(&map("shop")).await["data"]["root-cert.pem"], "newer");
    assert_eq!(world.writes("failed"), 0.0, "being late is no failure");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_can_not_be_written_holds_up_no_other() {
    let (shared, admin) = cluster().await;
    for name in ["full", "frozen", "shop"] {
        admin.namespace(name).await;
    }
    // Nothing more fits into this one …
    let hard = json!({"count/configmaps": "0"});
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": hard}});
    admin.create("/api/v1/namespaces/full/resourcequotas", &quota).await;
    let status = json!({"status": {"hard": hard, "used": {"count/configmaps": "0"}}});
    admin.patch("/api/v1/namespaces/full/resourcequotas/q/status", &status).await;
    // … and nobody can change this one.
    let frozen = json!({"metadata": {"name": "istio-ca-root-cert"}, "immutable": true, "data": {"root-cert.pem": "old"}});
    admin.create(&maps("frozen"), &frozen).await;
    let world = World::start(&shared.kubeconfig(shared.server.port()), "", "");
    let all = selected(&admin).await;
    wait_until("two to fail", || world.namespaces("failing") == 2.0 && world.namespaces("current") == all as f64 - 2.0).await;
    world.until_right(&admin, &map("shop")).await;
    world.until_check("failed", "2 of").await;
    admin.namespace("new").await;
    let (_, took) = world.until_right(&admin, &map("new")).await;
    assert!(took < Duration::from_secs(1), "{took:?}");

    admin.delete("/api/v1/namespaces/full/resourcequotas/q", 0).await;
    admin.delete(&map("frozen"), 0).await;
    world.until_all(all + 1).await;
    world.until_check("ok", "have the trust bundle").await;
    assert!(world.writes("failed") >= 2.0);
    let warnings =
        world.serve.terminate().1.into_iter().filter(|line| line["message"].as_str().is_some_and(|said| said.contains("could not be written")));
    assert_eq!(warnings.count(), 1, "one line for all, not one for each try");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_rule_is_needed() {
    let (shared, admin) = cluster().await;
    admin.namespace("shop").await;
    let kubeconfig = shared.kubeconfig(shared.server.port());
    let role = objects(RULES).remove(0);
    let without = |resource: &str, verb: &str| {
        let mut rules = role["rules"].clone();
        let rule = rules.as_array_mut().unwrap().iter_mut().find(|rule| rule["resources"] == json!([resource])).unwrap();
        rule["verbs"].as_array_mut().unwrap().retain(|each| each != verb);
        rules
    };
    let may = async |resource: &str, verb: &str, allowed: bool| {
        let name = if resource == "configmaps" { "istio-ca-root-cert" } else { "" };
        let attributes = json!({"verb": verb, "resource": resource, "name": name, "namespace": if name.is_empty() { "" } else { "shop" }});
        let review = json!({"spec": {"user": "system:serviceaccount:meshmint-system:meshmint", "resourceAttributes": attributes}});
        let goes = async {
            while admin.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await["status"]["allowed"] != json!(allowed) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, goes).await.is_ok(), "{verb} {resource} is not {allowed}");
    };
    for (resource, verb, outcome) in [
        ("namespaces", "list", ("failed", "namespaces were never listed")),
        ("configmaps", "list", ("failed", "configmaps were never listed")),
        ("namespaces", "watch", ("warning", "cannot watch resource")),
        ("configmaps", "watch", ("warning", "cannot watch resource")),
        ("configmaps", "create", ("failed", "can't be given the trust bundle")),
        ("configmaps", "patch", ("failed", "can't be given the trust bundle")),
    ] {
        if admin.find(&map("shop")).await.is_some() {
            admin.delete(&map("shop"), 0).await;
        }
        admin.set_rules_of(&role, &without(resource, verb)).await;
        may(resource, verb, false).await;
        let world = World::start(&kubeconfig, "", "");
        world.until_check(outcome.0, outcome.1).await;
        drop(world);
        admin.set_rules_of(&role, &role["rules"]).await;
        may(resource, verb, true).await;
    }
    // And with all of them nothing else can be made or changed.
    let own = Client::new(&kubeconfig).await;
    let other = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "other", "namespace": "shop"}});
    for (method, path) in [("POST", maps("shop")), ("PATCH", format!("{}/other?fieldManager=x", maps("shop")))] {
        let refused = own.ask(method, &path, if method == "POST" { "application/json" } else { "application/apply-patch+yaml" }, &other).await;
        assert!(matches!(&refused, Err(kube::Error::Api(status)) if status.code == 403), "{refused:?}");
    }
    assert!(
        own.text("/api/v1/configmaps").await.is_err()
            && own.text(&format!("{}/extension-apiserver-authentication", maps("kube-system"))).await.is_err()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_joined_has_it_too() {
    let ((east, here), (west, there)) = (cluster().await, cluster().await);
    here.apply_rules("deploy/kubernetes/remote-clusters.yaml").await;
    there.namespace("shop").await;
    let mut world = World::start(&east.kubeconfig(east.server.port()), ", remoteSecretsNamespace: meshmint-system", "");
    let own = selected(&here).await;
    world.until_all(own).await;
    assert!(there.find(&map("shop")).await.is_none());
    let made = meshmint(&["cluster", "secret", "--cluster", "west", "--kubeconfig", west.server.admin_kubeconfig().to_str().unwrap()]);
    let made: Value = serde_saphyr::from_str(&String::from_utf8(made.stdout).unwrap()).unwrap();
    here.create("/api/v1/namespaces/meshmint-system/secrets", &made).await;
    world.until_right(&there, &map("shop")).await;
    world.until_all(own + selected(&there).await).await;
    there.delete(&map("shop"), 0).await;
    world.until_right(&there, &map("shop")).await;
    // A new bundle is in both, and what others keep there stays.
    there.patch(&map("shop"), &json!({"data": {"theirs": "kept"}})).await;
    world.add_trust();
    world.until_right(&here, &map("kube-system")).await;
    let (found, _) = world.until_right(&there, &map("shop")).await;
    assert_eq!(found["data"]["theirs"], "kept");
    world.until_all(own + selected(&there).await).await;

    // It goes: what it has stays there, and nobody looks after it.
    here.delete(&format!("/api/v1/namespaces/meshmint-system/secrets/{}", made["metadata"]["name"].as_str().unwrap()), 0).await;
    world.until_all(own).await;
    there.delete(&map("shop"), 0).await;
    here.namespace("new").await;
    world.until_right(&here, &map("new")).await;
    assert!(there.find(&map("shop")).await.is_none());
}
