//! `meshmint check --kube` against a real API server: a mesh as Istio's charts make it, first all right, then each thing wrong in turn.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/in_cluster.rs"]
mod common;

use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use common::api_server::{ApiServer, CLUSTER_ISSUER};
use common::cluster::{BoundTo, Client};
use common::process::{Serve, meshmint};
use common::{Shared, serve_yaml};
use serde_json::{Value, json};
use tempfile::TempDir;

const OURS: &str = "meshmint.meshmint-system.svc";

struct World {
    shared: Shared,
    admin: Client,
    _serve: Serve,
    folder: TempDir,
    bundle: String,
}

/// What the command found.
struct Seen {
    code: Option<i32>,
    report: Value,
}

impl Seen {
    fn of(args: &[&str]) -> Self {
        let output = meshmint(&[&["check", "--kube", "-o", "json"], args].concat());
        let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
        Self { code: output.status.code(), report }
    }

    /// The lines of one check: severity, message, detail.
    fn lines(&self, check: &str) -> Vec<(String, String)> {
        let lines = self.report["checks"].as_array().unwrap().iter().filter(|line| line["check"] == check);
        let text = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
        lines.map(|line| (text(line, "severity"), format!("{} ({})", text(line, "message"), text(line, "detail")))).collect()
    }

    /// The only line of a check.
    fn one(&self, check: &str) -> (String, String) {
        let mut lines = self.lines(check);
        assert_eq!(lines.len(), 1, "{check}: {:#}", self.report);
        lines.remove(0)
    }

    fn assert_one(&self, check: &str, severity: &str, said: &str) {
        let (found, text) = self.one(check);
        assert!(found == severity && text.contains(said), "{check}: {found} {text}, not {severity} {said}");
    }
}

fn istiod(env: &[(&str, &str)]) -> Value {
    program("Deployment", "istiod", env)
}

fn program(kind: &str, name: &str, env: &[(&str, &str)]) -> Value {
    program_of("image", kind, name, env)
}

fn program_of(image: &str, kind: &str, name: &str, env: &[(&str, &str)]) -> Value {
    let env: Vec<_> = env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    // Charts also take variables from elsewhere.
    let pod = json!({"fieldRef": {"fieldPath": "metadata.name"}});
    let env = [env, vec![json!({"name": "POD_NAME", "valueFrom": pod})]].concat();
    json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "main", "image": image, "env": env}]}},
        },
    })
}

fn webhooks(kind: &str, name: &str, label: &str, ca_bundle: &str) -> Value {
    let client =
        json!({"caBundle": BASE64_STANDARD.encode(ca_bundle), "service": {"name": "istiod", "namespace": "istio-system", "path": "/inject"}});
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name, "labels": {"app": label}},
        "webhooks": [{
            "name": "it.istio.io", "clientConfig": client, "sideEffects": "None", "admissionReviewVersions": ["v1"], "failurePolicy": "Ignore",
            // None that this test makes.
            "objectSelector": {"matchLabels": {"never": "there"}},
        }],
    })
}

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/istio-system/deployments";
const DAEMON_SETS: &str = "/apis/apps/v1/namespaces/istio-system/daemonsets";
const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

impl World {
    /// A mesh in which all is right.
    async fn start() -> Self {
        let shared = Shared::over(ApiServer::start().await).await;
        let admin = shared.admin().await;
        let folder = tempfile::tempdir().unwrap();
        let yaml = serve_yaml(folder.path(), "Kubernetes", &shared.kubeconfig(shared.server.port()), "", "");
        let serve = Serve::start(folder.path(), &yaml.replace("servingDNSNames: [localhost]", &format!("servingDNSNames: [localhost, {OURS}]")));
        let socket = folder.path().join("admin.sock");
        let bundle = String::from_utf8(meshmint(&["bundle", "--admin", socket.to_str().unwrap()]).stdout).unwrap();
        // istiod gives the last one no roots, as it gives kube-public and kube-node-lease none; kube-system has them.
        for namespace in ["istio-system", "shop", "local-path-storage"] {
            admin.namespace(namespace).await;
        }
        let this = Self { shared, admin, _serve: serve, folder, bundle };
        for namespace in ["default", "kube-system", "meshmint-system", "istio-system", "shop"] {
            this.put_roots(namespace, &this.bundle, true).await;
        }
        let address = format!("{OURS}:443");
        this.admin.create(DEPLOYMENTS, &istiod(&[("ENABLE_CA_SERVER", "false")])).await;
        this.admin.create(DAEMON_SETS, &program("DaemonSet", "ztunnel", &[("CA_ADDRESS", &address)])).await;
        this.admin.create("/api/v1/namespaces/istio-system/configmaps", &injector(&address)).await;
        this.admin.create(MUTATING, &webhooks("MutatingWebhookConfiguration", "istio-sidecar-injector", "sidecar-injector", &this.bundle)).await;
        this.admin.create(VALIDATING, &webhooks("ValidatingWebhookConfiguration", "istio-validator", "istiod", &this.bundle)).await;
        this
    }

    async fn put_roots(&self, namespace: &str, roots: &str, new: bool) {
        let map = json!({"metadata": {"name": "istio-ca-root-cert"}, "data": {"root-cert.pem": roots}});
        let path = format!("/api/v1/namespaces/{namespace}/configmaps");
        if new {
            self.admin.create(&path, &map).await
        } else {
            self.put(&format!("{path}/istio-ca-root-cert"), &map).await
        };
    }

    async fn put(&self, path: &str, object: &Value) -> Value {
        self.admin.ask("PUT", path, "application/json", object).await.unwrap()
    }

    /// As somebody who may see everything, with a server beside it.
    fn look(&self) -> Seen {
        self.look_as(&self.shared.server.admin_kubeconfig(), &["--admin", self.folder.path().join("admin.sock").to_str().unwrap()])
    }

    fn look_as(&self, kubeconfig: &Path, more: &[&str]) -> Seen {
        Seen::of(&[&["--kubeconfig", kubeconfig.to_str().unwrap()], more].concat())
    }
}

fn injector(address: &str) -> Value {
    let values = json!({"global": {"caAddress": address, "other": 1}, "revision": ""}).to_string();
    json!({"metadata": {"name": "istio-sidecar-injector", "labels": {"istio.io/rev": "default"}}, "data": {"config": "x", "values": values}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_thing_that_is_wrong_is_told_and_what_is_right_is_not() {
    let world = World::start().await;
    let ids = [
        "mesh-readable",
        "mesh-clock",
        "mesh-versions",
        "mesh-permissions",
        "mesh-roots",
        "mesh-istiod",
        "mesh-address",
        "mesh-workloads",
        "mesh-webhooks",
    ];
    let well = |seen: &Seen, but: &[&str]| {
        for id in ids.iter().filter(|id| !but.contains(id)) {
            assert_eq!(seen.one(id).0, "ok", "{id}: {:#}", seen.report);
        }
        assert!(seen.lines("mesh-compliance").is_empty() || but.contains(&"mesh-compliance"), "{:#}", seen.report);
    };
    let seen = world.look();
    well(&seen, &[]);
    assert_eq!(seen.one("admin-answers").0, "ok", "the server is asked too");
    assert!(seen.one("mesh-roots").1.contains("all 5 namespaces have the trust bundle"), "{:#}", seen.report);

    // Roots.
    let stranger = common::csrs::pem("CERTIFICATE", rcgen::generate_simple_self_signed(vec!["x".to_owned()]).unwrap().cert.der());
    world.put_roots("shop", &stranger, false).await;
    let seen = world.look();
    well(&seen, &["mesh-roots"]);
    seen.assert_one("mesh-roots", "failed", "1 of 5 namespaces lack a root of the trust bundle (shop)");
    assert_eq!(seen.code, Some(1));
    world.put_roots("shop", &(stranger.clone() + &world.bundle), false).await;
    let beyond = "1 of 5 namespaces trust a root that isn't in the trust bundle (shop)";
    world.look().assert_one("mesh-roots", "warning", beyond);
    world.admin.delete("/api/v1/namespaces/shop/configmaps/istio-ca-root-cert", 0).await;
    world.look().assert_one("mesh-roots", "warning", "1 of 5 namespaces have no istio-ca-root-cert (shop)");
    world.put_roots("shop", &world.bundle, true).await;

    // istiod.
    for (env, said) in [(&[][..], "ENABLE_CA_SERVER is not set"), (&[("ENABLE_CA_SERVER", "true")], "ENABLE_CA_SERVER is true")] {
        world.put(&format!("{DEPLOYMENTS}/istiod"), &istiod(env)).await;
        let seen = world.look();
        well(&seen, &["mesh-istiod"]);
        seen.assert_one("mesh-istiod", "failed", said);
    }
    world.put(&format!("{DEPLOYMENTS}/istiod"), &istiod(&[("ENABLE_CA_SERVER", "false"), ("COMPLIANCE_POLICY", "pqc")])).await;
    let seen = world.look();
    well(&seen, &["mesh-compliance"]);
    seen.assert_one("mesh-compliance", "failed", "istio-system/istiod has COMPLIANCE_POLICY=pqc");
    world.put(&format!("{DEPLOYMENTS}/istiod"), &istiod(&[("ENABLE_CA_SERVER", "false"), ("COMPLIANCE_POLICY", "fips-140-2")])).await;
    let address = format!("{OURS}:443");
    let ztunnel = [("CA_ADDRESS", address.as_str()), ("COMPLIANCE_POLICY", "pqc")];
    world.put(&format!("{DAEMON_SETS}/ztunnel"), &program("DaemonSet", "ztunnel", &ztunnel)).await;
    let seen = world.look();
    well(&seen, &["mesh-compliance"]);
    seen.assert_one("mesh-compliance", "failed", "istio-system/ztunnel has COMPLIANCE_POLICY=pqc");
    world.put(&format!("{DAEMON_SETS}/ztunnel"), &program("DaemonSet", "ztunnel", &ztunnel[..1])).await;
    well(&world.look(), &[]);
    let page = include_str!("../docs/checks.md").split_once("\n## mesh\n").unwrap().1;
    let sections: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("### ")).filter(|id| *id != "mesh-compliance").collect();
    assert_eq!(sections, ids, "every check of the page is made");

    // Addresses.
    for (variables, said) in
        [(&[("CA_ADDRESS", "istiod.istio-system.svc:15012")][..], "ztunnel: istiod.istio-system.svc:15012"), (&[], "ztunnel: istiod")]
    {
        world.put(&format!("{DAEMON_SETS}/ztunnel"), &program("DaemonSet", "ztunnel", variables)).await;
        let seen = world.look();
        well(&seen, &["mesh-address"]);
        seen.assert_one("mesh-address", "failed", said);
    }
    world.put(&format!("{DAEMON_SETS}/ztunnel"), &program("DaemonSet", "ztunnel", &[("CA_ADDRESS", &format!("{OURS}:443"))])).await;
    world.put("/api/v1/namespaces/istio-system/configmaps/istio-sidecar-injector", &injector("other.example:443")).await;
    world.look().assert_one(
        "mesh-address",
        "failed",
        "1 of 2 programs of the mesh ask another CA (istio-system/istio-sidecar-injector: other.example:443)",
    );
    world.put("/api/v1/namespaces/istio-system/configmaps/istio-sidecar-injector", &injector(&format!("{OURS}:443"))).await;

    // Pods: whom a proxy asks is written into its pod, also where it is a sidecar of Kubernetes' own kind.
    let proxy = |name: &str, list: &str, address: Option<&str>| {
        let env: Vec<_> = address.iter().map(|address| json!({"name": "CA_ADDR", "value": address})).collect();
        let main = json!({"name": "main", "image": "image"});
        let mut pod = json!({"metadata": {"name": name}, "spec": {"containers": [main]}});
        let proxy = json!({"name": "istio-proxy", "image": "image", "env": env, "restartPolicy": "Always"});
        if list == "containers" {
            let mut proxy = proxy;
            proxy.as_object_mut().unwrap().remove("restartPolicy");
            pod["spec"][list].as_array_mut().unwrap().push(proxy);
        } else {
            pod["spec"][list] = json!([proxy]);
        }
        pod
    };
    const PODS: &str = "/api/v1/namespaces/shop/pods";
    world.admin.pod("shop", "without-proxy", "default", "").await;
    for list in ["containers", "initContainers"] {
        world.admin.create(PODS, &proxy(&list.to_lowercase(), list, Some(&format!("{OURS}:443")))).await;
    }
    world.look().assert_one("mesh-workloads", "ok", "all 2 proxies ask us");
    world.admin.create(PODS, &proxy("other", "containers", Some("ca.example:443"))).await;
    let seen = world.look();
    well(&seen, &["mesh-workloads"]);
    seen.assert_one("mesh-workloads", "warning", "1 of 3 proxies ask another CA (shop/other: ca.example:443)");
    world.admin.create(PODS, &proxy("old", "initContainers", None)).await;
    let seen = world.look();
    seen.assert_one("mesh-workloads", "failed", "2 of 4 proxies ask another CA, and istiod's is off");
    assert!(seen.one("mesh-workloads").1.contains("shop/old: istiod"), "{:#}", seen.report);
    world.put(&format!("{DEPLOYMENTS}/istiod"), &istiod(&[])).await;
    world.look().assert_one("mesh-workloads", "warning", "2 of 4 proxies ask another CA");
    world.put(&format!("{DEPLOYMENTS}/istiod"), &istiod(&[("ENABLE_CA_SERVER", "false")])).await;
    world.admin.delete(&format!("{PODS}/other"), 0).await;
    world.admin.phase("shop", "old", "Succeeded").await;
    well(&world.look(), &[]);

    // Versions.
    let ztunnel = |image: &str| program_of(image, "DaemonSet", "ztunnel", &[("CA_ADDRESS", &format!("{OURS}:443"))]);
    for (image, said) in
        [("host:5000/ztunnel:1.29.1-distroless", "ztunnel 1.29.1 must be restarted after every new root"), ("ztunnel:1.27.9", "older than 1.28.0")]
    {
        world.put(&format!("{DAEMON_SETS}/ztunnel"), &ztunnel(image)).await;
        let seen = world.look();
        well(&seen, &["mesh-versions"]);
        assert!(seen.lines("mesh-versions").iter().any(|(severity, text)| severity == "warning" && text.contains(said)), "{:#}", seen.report);
    }
    world.put(&format!("{DAEMON_SETS}/ztunnel"), &ztunnel("ztunnel:1.30.3@sha256:0")).await;
    world.look().assert_one("mesh-versions", "ok", ", ztunnel 1.30.3");

    // Webhooks.
    let put_webhook = async |bundle: &str| {
        let path = format!("{VALIDATING}/istio-validator");
        let mut object = webhooks("ValidatingWebhookConfiguration", "istio-validator", "istiod", bundle);
        object["metadata"]["resourceVersion"] = world.admin.get(&path).await["metadata"]["resourceVersion"].clone();
        world.put(&path, &object).await;
    };
    put_webhook(&stranger).await;
    let seen = world.look();
    well(&seen, &["mesh-webhooks"]);
    seen.assert_one("mesh-webhooks", "failed", "1 of istiod's 2 webhook configurations lack a root of the trust bundle (istio-validator)");
    put_webhook(&world.bundle).await;

    // Permissions of our account, and of one that has none.
    world.admin.set_rules(&json!([{"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]}])).await;
    common::wait_until("RBAC to go by it", || world.look().one("mesh-permissions").0 == "failed").await;
    let seen = world.look();
    well(&seen, &["mesh-permissions"]);
    let (_, said) = seen.one("mesh-permissions");
    assert!(said.contains("list serviceaccounts") && said.contains("create tokenreviews.authentication.k8s.io") && !said.contains("pods"), "{said}");
    let other = world.look_as(&world.shared.server.admin_kubeconfig(), &["--account", "shop/nobody"]);
    assert!(other.one("mesh-permissions").1.contains("shop/nobody lacks permissions"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn permissions_are_those_of_the_configuration_that_is_installed() {
    let world = World::start().await;
    let admin = world.shared.server.admin_kubeconfig();
    world.look_as(&admin, &[]).assert_one("mesh-permissions", "ok", "meshmint-system/meshmint may do what it needs in any case");

    // As Helm makes them; kustomize puts a digest behind the ConfigMap's name and leaves older ones beside it.
    const MAPS: &str = "/api/v1/namespaces/meshmint-system/configmaps";
    let configuration = |more: &str| {
        format!(
            "server: {{ servingDNSNames: [ca] }}\ncluster: {{ inCluster: true }}\n\
             tokens: {{ issuers: [{{ issuer: '{CLUSTER_ISSUER}', keys: {{ apiServer: true }} }}] }}\n{more}"
        )
    };
    let map = |name: &str, text: &str| json!({"metadata": {"name": name}, "data": {"meshmint.yaml": text}});
    world.admin.create(MAPS, &map("meshmint-1", &configuration(""))).await;
    let controllers = "controllers: { rootConfigMap: { enabled: true }, istiod: { namespace: istio-system } }\nadmin: { listen: '0.0.0.0:8444' }\n";
    world.admin.create(MAPS, &map("meshmint-2", &configuration(controllers))).await;
    let mut set = program_of("registry.example/meshmint:9.9.9", "StatefulSet", "meshmint", &[]);
    set["spec"]["serviceName"] = json!("meshmint");
    set["spec"]["template"]["spec"]["serviceAccountName"] = json!("meshmint");
    set["spec"]["template"]["spec"]["volumes"] = json!([{"name": "configuration", "configMap": {"name": "meshmint-2"}}]);
    world.admin.create("/apis/apps/v1/namespaces/meshmint-system/statefulsets", &set).await;
    let seen = world.look_as(&admin, &[]);
    let (severity, said) = seen.one("mesh-permissions");
    assert!(severity == "failed" && said.contains("lacks permissions with its configuration"), "{said}");
    let lacking = [
        "patch configmaps/istio-ca-root-cert",
        "create secrets/istiod-tls in istio-system",
        "list mutatingwebhookconfigurations",
        "create subjectaccessreviews",
    ];
    assert!(lacking.iter().all(|each| said.contains(each)) && !said.contains("pods"), "{said}");
    seen.assert_one("mesh-versions", "warning", "meshmint-system/meshmint is 9.9.9, this command is");

    // Exactly the files that are for it.
    for file in ["controllers", "istiod", "admin"] {
        world.admin.apply_rules(&format!("deploy/kubernetes/{file}.yaml")).await;
    }
    common::wait_until("RBAC to go by it", || world.look_as(&admin, &[]).one("mesh-permissions").0 == "ok").await;

    // The file that somebody is about to install goes before the one that is there.
    let file = world.folder.path().join("next.yaml");
    std::fs::write(
        &file,
        configuration("cluster: { inCluster: true, remoteSecretsNamespace: meshmint-system }\n").replacen("cluster: { inCluster: true }\n", "", 1),
    )
    .unwrap();
    let next = world.look_as(&admin, &["--config", file.to_str().unwrap(), "--admin", world.folder.path().join("admin.sock").to_str().unwrap()]);
    next.assert_one("mesh-permissions", "failed", "list secrets in meshmint-system");

    // Where istiod stays the CA below our root, it must be one, and may be asked.
    world.put(&format!("{MAPS}/meshmint-2"), &map("meshmint-2", &configuration("controllers: { cacerts: { namespace: istio-system } }\n"))).await;
    let seen = world.look_as(&admin, &[]);
    seen.assert_one("mesh-permissions", "failed", "create secrets/cacerts in istio-system");
    seen.assert_one("mesh-istiod", "failed", "istio-system/istiod has its own CA off, and controllers.cacerts is for one that is on");
    world.put(&format!("{DEPLOYMENTS}/istiod"), &istiod(&[])).await;
    world.put(&format!("{DAEMON_SETS}/ztunnel"), &program("DaemonSet", "ztunnel", &[])).await;
    let seen = world.look_as(&admin, &[]);
    seen.assert_one("mesh-istiod", "ok", "istio-system/istiod stays the CA, below our root");
    seen.assert_one("mesh-address", "ok", "ask us or istiod");

    world.put(&format!("{MAPS}/meshmint-2"), &map("meshmint-2", "attic: 1\n")).await;
    world.look_as(&admin, &[]).assert_one("mesh-permissions", "warning", "has a configuration that this command can't read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_from_a_file_stands_for_a_server_that_can_not_be_asked() {
    let world = World::start().await;
    let admin = world.shared.server.admin_kubeconfig();
    let file = world.folder.path().join("bundle.pem");
    let with = |pem: &str| {
        std::fs::write(&file, pem).unwrap();
        world.look_as(&admin, &["--bundle", file.to_str().unwrap()])
    };
    with(&world.bundle).assert_one("mesh-roots", "ok", "all 5 namespaces have the trust bundle");
    let stranger = common::csrs::pem("CERTIFICATE", rcgen::generate_simple_self_signed(vec!["x".to_owned()]).unwrap().cert.der());
    let seen = with(&(world.bundle.clone() + &stranger));
    seen.assert_one("mesh-roots", "failed", "5 of 5 namespaces lack a root");
    assert_eq!(seen.one("mesh-webhooks").0, "failed");
    for nothing in ["", "x", "-----BEGIN CERTIFICATE-----\n"] {
        with(nothing).assert_one("mesh-readable", "failed", "bundle.pem: ");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_there_is_a_server_and_for_people_who_may_see_little() {
    let world = World::start().await;
    // Without a server nobody knows our bundle and names, and no line is about a server.
    let admin = world.shared.server.admin_kubeconfig();
    let seen = world.look_as(&admin, &[]);
    assert_eq!(seen.code, Some(0), "{:#}", seen.report);
    assert!(seen.report["checks"].as_array().unwrap().iter().all(|line| line["group"] == "mesh"), "{:#}", seen.report);
    world.admin.delete(&format!("{DEPLOYMENTS}/istiod"), 0).await;
    let seen = world.look_as(&admin, &[]);
    seen.assert_one("mesh-istiod", "warning", "there is no istiod");
    assert_eq!(seen.code, Some(3));

    // Somebody who may see nothing: each part is a warning with the API server's words, and none is taken for well.
    world.admin.account("shop", "alice").await;
    let token = world.admin.token("shop", "alice", BoundTo::Nothing, CLUSTER_ISSUER, 3600).await;
    let alice = world.shared.server.kubeconfig("alice", &token, world.shared.server.port());
    let seen = world.look_as(&alice, &[]);
    for id in ["mesh-permissions", "mesh-roots", "mesh-istiod", "mesh-workloads", "mesh-webhooks"] {
        let (severity, said) = seen.one(id);
        assert!(severity == "warning" && said.contains("403") && said.contains("forbidden"), "{id}: {severity} {said}");
    }
    assert_eq!(seen.lines("mesh-address").len(), 2);
    assert!(seen.lines("mesh-address").iter().all(|(severity, _)| severity == "warning"), "{:#}", seen.report);

    // No cluster, no such context.
    let none = Seen::of(&["--kubeconfig", "/nowhere/at-all"]);
    assert_eq!((none.code, none.one("mesh-readable").0.as_str()), (Some(1), "failed"));
    let context = world.look_as(&admin, &["--context", "elsewhere"]);
    context.assert_one("mesh-readable", "failed", "elsewhere");
    let mut world = world;
    world.shared.server.kill();
    let away = world.look_as(&admin, &[]);
    assert_eq!(away.one("mesh-readable").0, "failed");
    assert_eq!(away.report["checks"].as_array().unwrap().len(), 1, "nothing else is looked at");
}
