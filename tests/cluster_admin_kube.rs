//! `--kube`: the admin commands find a meshmint in a cluster, through a real API server and the kubelet's own port-forwarding, as a person with exactly
//! the Role of deploy/kubernetes/admin.yaml.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/in_cluster.rs"]
mod common;

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::api_server::{ApiServer, CLUSTER_ISSUER, Kubelet, Settings};
use common::cluster::{BoundTo, Client, objects};
use common::process::{PATIENCE, Serve, meshmint};
use common::{Shared, serve_yaml};
use serde_json::{Value, json};
use tempfile::TempDir;

const RULES: &str = "deploy/kubernetes/admin.yaml";
const OURS: &str = "meshmint.meshmint-system.svc";
const PODS: &str = "/api/v1/namespaces/meshmint-system/pods";
const ROOTS: &str = "/api/v1/namespaces/meshmint-system/configmaps/istio-ca-root-cert";

/// meshmint in a pod of a cluster, and alice, who may use `--kube`.
struct World {
    shared: Shared,
    admin: Client,
    serve: Serve,
    folder: TempDir,
    alice: PathBuf,
    token: String,
    _kubelet: Kubelet,
}

impl World {
    async fn start() -> Self {
        let shared = Shared::over(ApiServer::start().await).await;
        let admin = shared.admin().await;
        admin.apply_admin_rules().await;
        admin.account("meshmint-system", "alice").await;
        let binding = json!({
            "metadata": {"name": "meshmint-alice"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "meshmint-kube"},
            "subjects": [{"kind": "ServiceAccount", "name": "alice", "namespace": "meshmint-system"}],
        });
        admin.create("/apis/rbac.authorization.k8s.io/v1/namespaces/meshmint-system/rolebindings", &binding).await;
        let token = admin.token("meshmint-system", "alice", BoundTo::Nothing, CLUSTER_ISSUER, 3600).await;
        let alice = shared.server.kubeconfig("alice", &token, shared.server.port());

        let folder = tempfile::tempdir().unwrap();
        let yaml = serve_yaml(folder.path(), "Kubernetes", &shared.kubeconfig(shared.server.port()), "", "");
        let yaml = yaml.replace("admin: { socket: ", "admin: { listen: 127.0.0.1:0, socket: ");
        let serve = Serve::start(folder.path(), &yaml.replace("servingDNSNames: [localhost]", &format!("servingDNSNames: [{OURS}]")));
        let kubelet = shared.server.kubelet("node").await;
        let this = Self { shared, admin, serve, folder, alice, token, _kubelet: kubelet };
        this.pod("meshmint-0", Some(this.port()), true).await;
        this.put_roots(&this.local(&["bundle"])).await;
        this
    }

    fn port(&self) -> u16 {
        self.serve.start_log.last().unwrap()["admin_network"].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap()
    }

    /// A pod as the chart makes it.
    async fn pod(&self, name: &str, admin_port: Option<u16>, ready: bool) {
        let mut ports = vec![json!({"name": "tls-csr", "containerPort": self.serve.csr.port()})];
        ports.extend(admin_port.map(|port| json!({"name": "tls-admin", "containerPort": port})));
        let pod = json!({
            "metadata": {"name": name, "labels": {"app.kubernetes.io/component": "certificate-authority"}},
            "spec": {"nodeName": "node", "serviceAccountName": "meshmint", "containers": [{"name": "meshmint", "image": "image", "ports": ports}]},
        });
        self.admin.create(PODS, &pod).await;
        let ready = json!([{"type": "Ready", "status": if ready { "True" } else { "False" }}]);
        self.admin.patch(&format!("{PODS}/{name}/status"), &json!({"status": {"phase": "Running", "conditions": ready}})).await;
    }

    async fn put_roots(&self, roots: &str) {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio-ca-root-cert"}, "data": {"root-cert.pem": roots}});
        self.admin.ask("PATCH", &format!("{ROOTS}?fieldManager=test&force=true"), "application/apply-patch+yaml", &map).await.unwrap();
    }

    /// A command over the socket.
    fn local(&self, args: &[&str]) -> String {
        let output = meshmint(&[args, &["--admin", self.folder.path().join("admin.sock").to_str().unwrap()]].concat());
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A command with `--kube`, as alice.
    fn ask(&self, args: &[&str]) -> Output {
        meshmint(&[args, &["--kube", "--kubeconfig", self.alice.to_str().unwrap()]].concat())
    }

    fn allowed(&self, args: &[&str]) -> String {
        let output = self.ask(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.allowed(&[args, &["-o", "json"]].concat())).unwrap()
    }

    /// What it says where it fails: all of `said`.
    fn fails(&self, args: &[&str], said: &[&str]) {
        let output = self.ask(args);
        let words = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {words}");
        assert!(said.iter().all(|part| words.contains(part)), "{args:?}: {words}, not {said:?}");
        assert!(!words.contains(&self.token), "{words}");
    }

    /// The lines of `check --kube`, and its exit code.
    fn check(&self, args: &[&str]) -> (Option<i32>, Vec<Value>) {
        let output = self.ask(&[&["check", "-o", "json"], args].concat());
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        (output.status.code(), report["checks"].as_array().unwrap().clone())
    }
}

fn line<'a>(lines: &'a [Value], check: &str) -> &'a Value {
    lines.iter().find(|line| line["check"] == check).unwrap_or_else(|| panic!("no {check} in {lines:#?}"))
}

/// Until this is so: RBAC and what we found out before count for a while.
async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < PATIENCE, "timed out waiting for {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn stranger() -> String {
    common::csrs::pem("CERTIFICATE", rcgen::generate_simple_self_signed(vec!["x".to_owned()]).unwrap().cert.der())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_admin_command_reaches_it_and_is_who_it_says() {
    let world = World::start().await;
    assert_eq!(world.allowed(&["bundle"]), world.local(&["bundle"]));
    let list = world.json(&["certs", "list"]);
    world.allowed(&["certs", "show", list["certificates"][0]["serial"].as_str().unwrap()]);
    world.allowed(&["certs", "stats"]);
    let authorities = world.json(&["authority", "list"]);
    world.allowed(&["authority", "show", authorities["authorities"][0]["id"].as_str().unwrap()]);
    assert_eq!(world.json(&["audit", "list"])["entries"], Value::Null);

    // A watch stays open, and what is issued meanwhile comes through it.
    let mut watch = Command::new(env!("CARGO_BIN_EXE_meshmint"))
        .args(["certs", "watch", "--limit", "1", "--namespace", "shop", "--kube", "--kubeconfig"])
        .arg(&world.alice)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    world.admin.workload("shop").await;
    let (roots, token) = (world.folder.path().join("roots.pem"), world.folder.path().join("token"));
    std::fs::write(&roots, world.local(&["bundle"])).unwrap();
    std::fs::write(&token, world.admin.workload_token("shop").await).unwrap();
    let csr = world.serve.csr.to_string();
    let request = ["request", "--address", &csr, "--roots", roots.to_str().unwrap(), "--token-file", token.to_str().unwrap()];
    // Asked until the watch has seen one: nobody says when it has begun.
    until("the watch to end", || {
        let issued = meshmint(&[&request[..], &["--server-name", OURS, "--out-dir", world.folder.path().join("out").to_str().unwrap()]].concat());
        assert!(issued.status.success(), "{issued:?}");
        watch.try_wait().unwrap().is_some()
    })
    .await;
    let watched = watch.wait_with_output().unwrap();
    assert!(watched.status.success() && String::from_utf8(watched.stdout).unwrap().contains("/ns/shop/sa/shop"));

    // The account that is there by itself only reads; a change needs one's own, and the audit names it.
    let root = world.folder.path().join("other.pem");
    let mut parameters = rcgen::CertificateParams::default();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "other");
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    std::fs::write(&root, common::csrs::pem("CERTIFICATE", certificate.der())).unwrap();
    let add = ["authority", "trust", "add", root.to_str().unwrap(), "--reason", "a move"];
    world.fails(&add, &["PERMISSION_DENIED", "verb create on resource trustedroots"]);
    let own = [&add[..], &["--as-service-account", "alice"]].concat();
    world.fails(&own, &["serviceaccounts/token of alice in meshmint-system", "--as-service-account"]);
    let rules = json!([{"apiGroups": [""], "resources": ["serviceaccounts/token"], "resourceNames": ["alice"], "verbs": ["create"]}]);
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/meshmint-system";
    world.admin.create(&format!("{roles}/roles"), &json!({"metadata": {"name": "alice"}, "rules": rules})).await;
    let bind = |kind: &str, role: &str| {
        json!({
            "metadata": {"name": "alice"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": "alice", "namespace": "meshmint-system"}],
        })
    };
    world.admin.create(&format!("{roles}/rolebindings"), &bind("Role", "alice")).await;
    world.admin.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &bind("ClusterRole", "meshmint-operator")).await;
    until("alice to be an operator", || world.ask(&own).status.success()).await;
    let audit = world.json(&["audit", "list"]);
    assert_eq!(audit["entries"][0]["actor"], "kubernetes:system:serviceaccount:meshmint-system:alice");

    // Her own token never went to the pod, and nobody's is in the log.
    let (_, log) = world.serve.terminate();
    let log: String = log.iter().map(Value::to_string).collect();
    assert!(!log.contains(world.token.rsplit('.').next().unwrap()) && !log.contains("eyJ"), "a token is in the log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_right_is_needed_and_its_lack_is_told() {
    let world = World::start().await;
    let role = objects(RULES).into_iter().find(|object| object["metadata"]["name"] == "meshmint-kube").unwrap();
    let rights = [
        ("pods", "list", "the verb list on pods in meshmint-system"),
        ("pods/portforward", "get", "the verbs get and create on pods/portforward in meshmint-system"),
        ("pods/portforward", "create", "the verbs get and create on pods/portforward in meshmint-system"),
        ("configmaps", "get", "the verb get on configmaps/istio-ca-root-cert in meshmint-system, or --roots"),
        ("serviceaccounts/token", "create", "the verb create on serviceaccounts/token of meshmint-viewer in meshmint-system"),
    ];
    let all: usize = role["rules"].as_array().unwrap().iter().map(|rule| rule["verbs"].as_array().unwrap().len()).sum();
    assert_eq!(all, rights.len(), "each rule has its row");
    world.allowed(&["bundle"]);
    for (resource, verb, said) in rights {
        let mut rules = role["rules"].clone();
        let rules = rules.as_array_mut().unwrap();
        let rule = rules.iter_mut().find(|rule| rule["resources"] == json!([resource])).unwrap();
        rule["verbs"].as_array_mut().unwrap().retain(|each| each != verb);
        rules.retain(|rule| rule["verbs"] != json!([]));
        world.admin.set_rules_of(&role, &json!(rules)).await;
        until(&format!("{verb} {resource} to be missing"), || !world.ask(&["bundle"]).status.success()).await;
        world.fails(&["bundle"], &["403", said]);
        let (code, lines) = world.check(&[]);
        let admin = line(&lines, "admin-answers");
        // Who looks at the mesh may be somebody whom the server doesn't know.
        let severity = if resource == "pods/portforward" { "failed" } else { "warning" };
        assert!(admin["severity"] == severity && admin["detail"].as_str().unwrap().contains(said) && code != Some(0), "{admin:#}");
        world.admin.set_rules_of(&role, &role["rules"]).await;
        until(&format!("{verb} {resource} to be back"), || world.ask(&["bundle"]).status.success()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_the_way_is_told_with_what_to_do() {
    let mut world = World::start().await;
    let bundle = world.local(&["bundle"]);

    // Names and roots: nothing is believed that doesn't verify.
    world.fails(&["bundle", "--server-name", "other.example"], &["pod meshmint-system/meshmint-0", "not valid for name", OURS, "--server-name"]);
    let other = world.folder.path().join("stranger.pem");
    std::fs::write(&other, stranger()).unwrap();
    world.fails(&["bundle", "--roots", other.to_str().unwrap()], &["UnknownIssuer", "--roots"]);
    world.put_roots(&stranger()).await;
    world.fails(&["bundle"], &["UnknownIssuer", "istio-ca-root-cert", "--roots"]);
    world.put_roots("nothing").await;
    world.fails(&["bundle"], &["ConfigMap istio-ca-root-cert"]);
    world.admin.delete(ROOTS, 0).await;
    world.fails(&["bundle"], &["no ConfigMap istio-ca-root-cert", "rootConfigMap", "--roots"]);
    let roots = world.folder.path().join("own.pem");
    std::fs::write(&roots, &bundle).unwrap();
    assert_eq!(world.allowed(&["bundle", "--roots", roots.to_str().unwrap()]), bundle);
    world.put_roots(&bundle).await;

    // Tokens: of no such account, for another audience, and one that somebody brings.
    let admin = world.shared.server.admin_kubeconfig();
    let powerful = |args: &[&str]| {
        let output = meshmint(&[&["bundle", "--kube", "--kubeconfig", admin.to_str().unwrap()], args].concat());
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = powerful(&["--as-service-account", "shop/nobody"]);
    assert!(code == Some(1) && said.contains("404") && said.contains("--as-service-account"), "{said}");
    let (code, said) = powerful(&["--audience", "other"]);
    assert!(code == Some(1) && said.contains("UNAUTHENTICATED"), "{said}");
    let token = world.folder.path().join("token");
    std::fs::write(&token, world.admin.token("meshmint-system", "meshmint-viewer", BoundTo::Nothing, "meshmint-admin", 600).await).unwrap();
    world.allowed(&["bundle", "--as-service-account", "nobody", "--token-file", token.to_str().unwrap()]);

    // Pods: one that isn't ready is asked only where none is; one whose port nobody serves says so in the kubelet's words.
    world.pod("a-broken-one", Some(1), false).await;
    world.allowed(&["bundle"]);
    world.admin.delete(&format!("{PODS}/meshmint-0"), 0).await;
    world.fails(&["bundle"], &["pod meshmint-system/a-broken-one", "error forwarding port 1", "connection refused"]);
    world.admin.delete(&format!("{PODS}/a-broken-one"), 0).await;
    world.pod("no-admin-port", None, true).await;
    world.fails(&["bundle"], &["have no admin port", "app.admin.enabled"]);
    world.admin.delete(&format!("{PODS}/no-admin-port"), 0).await;
    world.fails(&["bundle"], &["no pod of meshmint runs in namespace meshmint-system", "--kube-namespace"]);
    let (_, lines) = world.check(&[]);
    assert!(lines.iter().all(|line| line["group"] == "mesh"), "before installing there is no server: {lines:#?}");

    // The cluster itself.
    world.fails(&["bundle", "--context", "elsewhere"], &["no access to the API server", "elsewhere"]);
    world.shared.server.kill();
    world.fails(&["bundle"], &["no answer from the API server"]);
    for wrong in [&["--admin", "socket"][..], &["--dir", "."], &["--kube-namespace", "a/b"], &["--as-service-account", "a/b/c"]] {
        assert_eq!(world.ask(&[&["bundle"], wrong].concat()).status.code(), Some(2), "{wrong:?}");
    }
    assert_eq!(meshmint(&["bundle", "--context", "x"]).status.code(), Some(2), "without --kube");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_of_the_cluster_asks_its_server_and_its_csr_port() {
    let world = World::start().await;
    let (code, lines) = world.check(&[]);
    assert_eq!(line(&lines, "admin-answers")["message"], "the server answers on pod meshmint-system/meshmint-0");
    let csr = line(&lines, "csr-answers");
    assert_eq!(csr["message"], format!("port {} of pod meshmint-system/meshmint-0 answers", world.serve.csr.port()));
    for id in ["csr-certificate", "csr-names", "clock-agrees"] {
        assert_eq!(line(&lines, id)["severity"], "ok", "{lines:#?}");
    }
    // Alice may not see the mesh; the server's bundle is what it is held against for who may.
    assert!(code == Some(3) && line(&lines, "mesh-roots")["severity"] == "warning", "{lines:#?}");
    let admin = world.shared.server.admin_kubeconfig();
    let output = meshmint(&["check", "--kube", "--kubeconfig", admin.to_str().unwrap(), "-o", "json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let roots = line(report["checks"].as_array().unwrap(), "mesh-roots");
    assert!(roots["message"].as_str().unwrap().contains("have no istio-ca-root-cert"), "{roots:#}");
    // Another server is asked where one is named.
    let socket = world.folder.path().join("admin.sock");
    let (_, lines) = world.check(&["--admin", socket.to_str().unwrap()]);
    assert_eq!(line(&lines, "admin-answers")["message"], format!("the server answers on {}", socket.display()));
}

/// API servers before 1.35 want only the verb `get` for a stream of this kind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_api_servers_do_with_less() {
    let mut world = World::start().await;
    world.shared.server.kill();
    let flags = vec!["--feature-gates=AuthorizePodWebsocketUpgradeCreatePermission=false".to_owned()];
    world.shared.server.start_again(&Settings { flags, ..Settings::default() }).await;
    let role = objects(RULES).into_iter().find(|object| object["metadata"]["name"] == "meshmint-kube").unwrap();
    let mut rules = role["rules"].clone();
    let rule = rules.as_array_mut().unwrap().iter_mut().find(|rule| rule["resources"] == json!(["pods/portforward"])).unwrap();
    rule["verbs"] = json!(["get"]);
    world.admin.set_rules_of(&role, &rules).await;
    until("it to answer", || world.ask(&["bundle"]).status.success()).await;
}
