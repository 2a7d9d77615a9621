//! The Helm chart in a real API server with pod security enforced: every object of every set of values is taken, real Helm installs, upgrades, rolls
//! back and uninstalls, and meshmint runs in the chart's own pod with the chart's own configuration and access, and gives a workload its certificate.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/chart_values.rs"]
mod chart_values;
#[path = "common/in_cluster.rs"]
mod common;
#[path = "common/helm.rs"]
mod helm;
#[path = "common/sandbox.rs"]
mod sandbox;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;

use chart_values::{value_sets, with_image};
use common::api_server::{ApiServer, CLUSTER_ISSUER, free_ports};
use common::cluster::{BoundTo, Client};
use common::load::ask_once;
use common::{process, tools};
use helm::{Helm, NAMESPACE, chart, configuration, objects, pod, workload, workloads};
use sandbox::{Root, Sandbox};
use serde_json::{Value, json};

/// Makes the namespace, where only pods of the restricted kind may be.
async fn restricted(admin: &Client, name: &str) {
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    admin.create("/api/v1/namespaces", &json!({"metadata": {"name": name, "labels": labels}})).await;
}

/// The path of an object's kind, and of the object.
fn paths(object: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let version = text(&object["apiVersion"]);
    let group = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    let place = object["metadata"]["namespace"].as_str().map(|namespace| format!("/namespaces/{namespace}")).unwrap_or_default();
    let kind = text(&object["kind"]).to_lowercase();
    let plural = kind.strip_suffix('y').map_or_else(|| format!("{kind}s"), |stem| format!("{stem}ies"));
    let all = format!("{group}{place}/{plural}");
    (all.clone(), format!("{all}/{}", text(&object["metadata"]["name"])))
}

/// The kinds of the Prometheus operator: only their names, so that objects of them can be stored.
async fn operator_kinds(admin: &Client) {
    for (plural, kind) in [("servicemonitors", "ServiceMonitor"), ("prometheusrules", "PrometheusRule")] {
        let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
        let version = json!({"name": "v1", "served": true, "storage": true, "schema": schema});
        let names = json!({"plural": plural, "singular": kind.to_lowercase(), "kind": kind});
        let spec = json!({"group": "monitoring.coreos.com", "scope": "Namespaced", "names": names, "versions": [version]});
        let body = json!({"metadata": {"name": format!("{plural}.monitoring.coreos.com")}, "spec": spec});
        admin.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &body).await;
        until_there(admin, &format!("/apis/monitoring.coreos.com/v1/{plural}")).await;
    }
}

async fn until_there(admin: &Client, path: &str) {
    let served = async {
        while admin.text(path).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(process::PATIENCE, served).await.is_ok(), "{path}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restricted_namespace_takes_every_object_and_the_pod() {
    let server = ApiServer::start().await;
    let admin = server.admin().await;
    restricted(&admin, NAMESPACE).await;
    for other in ["istio-system", "istio-control", "clusters"] {
        admin.namespace(other).await;
    }
    operator_kinds(&admin).await;
    let helm = Helm::new();
    let create = async |kind: &str, object: &Value| {
        let path = format!("{kind}?dryRun=All&fieldValidation=Strict&fieldManager=test");
        admin.ask("POST", &path, "application/json", object).await
    };
    let as_pod = |workload: &Value| {
        let mut pod = workload["spec"]["template"].clone();
        (pod["apiVersion"], pod["kind"], pod["metadata"]["name"]) = (json!("v1"), json!("Pod"), json!("meshmint-0"));
        // The controller of the StatefulSet adds it from the claim's template.
        if workload["spec"]["volumeClaimTemplates"].is_array() {
            pod["spec"]["volumes"].as_array_mut().unwrap().push(json!({"name": "data", "persistentVolumeClaim": {"claimName": "data-meshmint-0"}}));
        }
        pod
    };
    let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    for (name, values) in value_sets() {
        let rendered = helm.render(&with_image(&values));
        for object in &rendered {
            // What belongs into the values of another file is no field: fieldValidation=Strict refuses it.
            let created = create(&paths(object).0, object).await;
            assert!(created.is_ok(), "{name}: {:?}\n{object:#}", created.err());
        }
        for workload in workloads(&rendered) {
            let pod = as_pod(workload);
            let created = create(&pods, &pod).await;
            assert!(created.is_ok(), "{name}: {:?}\n{pod:#}", created.err());
        }
    }
    // And that namespace does refuse.
    let mut careless = as_pod(workload(&helm.render(&with_image(&json!({})))));
    careless["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = json!(true);
    let refused = create(&pods, &careless).await.unwrap_err().to_string();
    assert!(refused.contains("violates PodSecurity \"restricted:latest\""), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn helm_installs_upgrades_rolls_back_and_uninstalls() {
    let server = ApiServer::start().await;
    let admin = server.admin().await;
    restricted(&admin, NAMESPACE).await;
    admin.namespace("istio-system").await;
    let helm = Helm::new();
    let kubeconfig = server.admin_kubeconfig();
    let run = |verb: &str, more: &[&str]| -> String {
        let mut arguments = vec![verb, "meshmint", "--namespace", NAMESPACE, "--kubeconfig", kubeconfig.to_str().unwrap()];
        arguments.extend(more);
        helm.succeed(&arguments)
    };
    let chart = chart();
    let chart = chart.to_str().unwrap();
    let written = async || {
        let map = admin.get(&format!("/api/v1/namespaces/{NAMESPACE}/configmaps/meshmint")).await;
        let set = admin.get(&format!("/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets/meshmint")).await;
        let configuration: Value = serde_saphyr::from_str(map["data"]["meshmint.yaml"].as_str().unwrap()).unwrap();
        (configuration, set["spec"]["template"]["metadata"]["annotations"]["checksum/configuration"].clone())
    };
    let role = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/roles/meshmint-remote-clusters");

    let first = helm.values(&with_image(&json!({})));
    let said = run("install", &[chart, "--values", first.to_str().unwrap()]);
    assert!(said.contains("kubectl -n meshmint-system exec statefulset/meshmint -- meshmint check"), "{said}");
    let (before, checksum) = written().await;
    assert_eq!(before["certificates"]["maxLifetime"], "24h");
    assert!(admin.text(&role).await.is_err());

    // Everything that can change while a release lives.
    let second = helm.values(&with_image(&json!({
        "app": {"server": {"maxCertificateDuration": "1h", "serving": {"port": 9443}}, "multiCluster": {"enabled": true}},
        "image": {"tag": "0.1.1"}, "commonLabels": {"team": "mesh"}, "resources": {"limits": {"memory": "2Gi"}}, "networkPolicy": {"enabled": false},
    })));
    run("upgrade", &[chart, "--values", second.to_str().unwrap()]);
    let (after, other_checksum) = written().await;
    assert_eq!((&after["certificates"]["maxLifetime"], &after["server"]["listen"]), (&json!("1h"), &json!("0.0.0.0:9443")));
    assert_ne!(checksum, other_checksum, "the pod must be made anew");
    assert!(admin.text(&role).await.is_ok());
    let policy = format!("/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/networkpolicies/meshmint");
    assert!(admin.text(&policy).await.is_err());

    run("rollback", &["1"]);
    assert_eq!(written().await, (before, checksum));
    assert!(admin.text(&role).await.is_err() && admin.text(&policy).await.is_ok());

    // What a StatefulSet's claim is, is not Helm's: the CA's keys stay.
    let claim =
        json!({"metadata": {"name": "data-meshmint-0"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    admin.create(&format!("/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims"), &claim).await;
    let kubeconfig = kubeconfig.to_str().unwrap();
    let manifest = helm.succeed(&["get", "manifest", "meshmint", "--namespace", NAMESPACE, "--kubeconfig", kubeconfig]);
    let made: Vec<String> = objects(&manifest).iter().map(|object| paths(object).1).collect();
    assert!(made.len() >= 8, "{made:?}");
    run("uninstall", &[]);
    for path in made {
        assert!(admin.text(&path).await.is_err(), "{path} is still there");
    }
    admin.get(&format!("/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims/data-meshmint-0")).await;
    admin.get(&format!("/api/v1/namespaces/{NAMESPACE}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_keeps_the_place_of_the_state_and_parts_the_roles_and_back() {
    let server = ApiServer::start().await;
    let admin = server.admin().await;
    for name in ["with-a-volume", NAMESPACE] {
        restricted(&admin, name).await;
    }
    // As it is where Istio was there first.
    admin.namespace("istio-system").await;
    let (helm, chart, kubeconfig) = (Helm::new(), chart(), server.admin_kubeconfig());
    let run = |verb: &str, namespace: &str, more: &[&str]| -> Output {
        let mut arguments = vec![verb, "meshmint", "--namespace", namespace, "--kubeconfig", kubeconfig.to_str().unwrap()];
        arguments.extend(more);
        helm.run(&arguments)
    };
    let with = |verb: &str, namespace: &str, values: &Value| {
        let file = helm.values(&with_image(values));
        run(verb, namespace, &[chart.to_str().unwrap(), "--values", file.to_str().unwrap()])
    };
    let accepted = |output: &Output| assert!(output.status.success(), "{}", text(output));
    let shared = json!({
        "state": {"store": "secrets"}, "postgres": {"url": "postgresql://meshmint@db.example/meshmint"}, "replicaCount": 2,
        "app": {"tls": {"istiodCertificateEnable": true}, "controller": {"rootConfigMap": true}},
    });
    let refused = "state.store can't be changed for a CA that has issued: it would begin with a new root";

    // From a volume to Secrets, and the other way once there is state.
    accepted(&with("install", "with-a-volume", &json!({})));
    let said = text(&with("upgrade", "with-a-volume", &shared));
    assert!(said.contains(refused), "{said}");
    accepted(&with("install", NAMESPACE, &shared));
    let deployment = async |name: &str| admin.find(&format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{name}")).await;
    let account = |deployment: Value| deployment["spec"]["template"]["spec"]["serviceAccountName"].as_str().unwrap().to_owned();
    assert_eq!(account(deployment("meshmint").await.unwrap()), "meshmint");
    let state = json!({"metadata": {"name": "meshmint-state"}});
    admin.create(&format!("/api/v1/namespaces/{NAMESPACE}/secrets"), &state).await;
    let said = text(&with("upgrade", NAMESPACE, &json!({})));
    assert!(said.contains(refused), "{said}");

    // The roles part, and come together again.
    let mut apart = shared.clone();
    apart["roles"] = json!({"apart": true});
    accepted(&with("upgrade", NAMESPACE, &apart));
    assert_eq!(account(deployment("meshmint").await.unwrap()), "meshmint-issuer");
    assert_eq!(account(deployment("meshmint-authority").await.unwrap()), "meshmint");
    let may_read = async |who: &str, secret: &str, allowed: bool| admin.until_may(who, NAMESPACE, "get", ("", "secrets", secret), allowed).await;
    may_read("meshmint-issuer", "meshmint-issuing", true).await;
    may_read("meshmint-issuer", "meshmint-root", false).await;
    may_read("meshmint", "meshmint-root", true).await;
    admin.until_may("meshmint", "", "list", ("", "pods", ""), false).await;
    accepted(&run("rollback", NAMESPACE, &["1"]));
    assert_eq!(account(deployment("meshmint").await.unwrap()), "meshmint");
    assert!(deployment("meshmint-authority").await.is_none());
    admin.until_may("meshmint", "", "list", ("", "pods", ""), true).await;
    accepted(&run("uninstall", NAMESPACE, &[]));
    admin.get(&format!("/api/v1/namespaces/{NAMESPACE}/secrets/meshmint-state")).await;
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Makes the pod that the StatefulSet's controller would make, as a node runs it.
async fn run_pod(admin: &Client, template: &Value, node: &str) {
    let mut pod = template.clone();
    (pod["apiVersion"], pod["kind"], pod["metadata"]["name"]) = (json!("v1"), json!("Pod"), json!("meshmint-0"));
    pod["spec"]["nodeName"] = json!(node);
    pod["spec"]["volumes"].as_array_mut().unwrap().push(json!({"name": "data", "persistentVolumeClaim": {"claimName": "data-meshmint-0"}}));
    let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    admin.create(&pods, &pod).await;
    let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    admin.patch(&format!("{pods}/meshmint-0/status"), &json!({"status": ready})).await;
}

/// With MESHMINT_TEST_IMAGE, the mounted root of an image of ours (`tests/image`), the pod runs that; else the program that was just built.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_charts_pod_gives_a_workload_its_certificate() {
    let server = ApiServer::start().await;
    let admin = server.admin().await;
    restricted(&admin, NAMESPACE).await;
    let helm = Helm::new();
    let [csr, health, metrics, port] = free_ports();
    let values = helm.values(&with_image(&json!({
        "app": {
            "server": {"serving": {"port": csr}}, "readinessProbe": {"port": health}, "metrics": {"port": metrics},
            "admin": {"enabled": true, "port": port}, "controller": {"rootConfigMap": true},
            "tls": {"certificateDNSNames": ["localhost", "meshmint.meshmint-system.svc"]}, "tokens": {"issuers": [CLUSTER_ISSUER]}, "multiCluster": {"enabled": true},
        },
    })));
    let kubeconfig = server.admin_kubeconfig();
    let (chart, values, kubeconfig) = (chart(), values.to_str().unwrap(), kubeconfig.to_str().unwrap());
    let notes =
        helm.succeed(&["install", "meshmint", chart.to_str().unwrap(), "--namespace", NAMESPACE, "--values", values, "--kubeconfig", kubeconfig]);
    let rendered = objects(&helm.succeed(&["get", "manifest", "meshmint", "--namespace", NAMESPACE, "--kubeconfig", kubeconfig]));

    // The account and its rules are what Helm made of the chart.
    let token = admin.own_token().await;
    let files = BTreeMap::from([("meshmint".to_owned(), BTreeMap::from([("meshmint.yaml".to_owned(), configuration(&rendered))]))]);
    let sandbox = Sandbox::new(pod(&rendered), &files, (&token, &server.ca(), server.port()));
    let image = std::env::var_os("MESHMINT_TEST_IMAGE");
    let program = image.as_ref().map_or(Root::Program(Path::new(env!("CARGO_BIN_EXE_meshmint"))), |image| Root::Image(Path::new(image)));
    let mut container = sandbox.start(&program);
    let health = format!("127.0.0.1:{health}");
    container.ready(&health);
    assert_eq!(container.status("Uid:"), "65532 65532 65532 65532");
    assert_eq!((container.status("CapEff:"), container.status("CapPrm:")), ("0".repeat(16), "0".repeat(16)));
    assert_eq!(container.status("NoNewPrivs:"), "1");

    // What an operator types, by kubectl exec.
    let check = sandbox.run(&program, &["check", "--admin", "/run/meshmint/admin.sock", "-o", "json", "--wait", "30s"]);
    let report: Value = serde_json::from_slice(&check.stdout).unwrap_or_else(|_| panic!("{}", text(&check)));
    // How much room there is on this machine's disk is its own affair.
    let is_room = |check: &Value| check["check"].as_str().unwrap().ends_with("-space");
    let unwell: Vec<_> = report["checks"].as_array().unwrap().iter().filter(|check| check["severity"] != "ok" && !is_room(check)).collect();
    assert!(unwell.is_empty(), "{unwell:#?}");
    let bundle = sandbox.run(&program, &["bundle", "--admin", "/run/meshmint/admin.sock"]);
    let roots = String::from_utf8(bundle.stdout).unwrap();

    // From outside, by way of the API server and a kubelet: as the account that the chart made for it, with the roots that meshmint wrote.
    until_there(&admin, &format!("/api/v1/namespaces/{NAMESPACE}/configmaps/istio-ca-root-cert")).await;
    let _kubelet = server.kubelet("node").await;
    run_pod(&admin, pod(&rendered), "node").await;
    let outside = process::meshmint(&["bundle", "--kube", "--kubeconfig", kubeconfig]);
    assert_eq!(text(&outside), roots);
    // As Helm's notes say it.
    let noted = notes.lines().find_map(|line| line.trim().strip_prefix("meshmint check --kube ")).unwrap_or_else(|| panic!("{notes}"));
    let words: Vec<_> = ["check", "--kube"].into_iter().chain(noted.split_whitespace()).chain(["--kubeconfig", kubeconfig, "-o", "json"]).collect();
    let check = process::meshmint(&words);
    let report: Value = serde_json::from_slice(&check.stdout).unwrap_or_else(|_| panic!("{}", text(&check)));
    let answers = report["checks"].as_array().unwrap().iter().find(|check| check["check"] == "admin-answers").unwrap();
    assert_eq!(answers["message"], "the server answers on pod meshmint-system/meshmint-0");

    admin.workload("shop").await;
    let workload = admin.workload_token("shop").await;
    let address = format!("127.0.0.1:{csr}").parse().unwrap();
    ask_once(address, &roots, Some(&workload)).await.unwrap().verify().unwrap();
    let unbound = admin.token("shop", "shop", BoundTo::Nothing, "another-audience", 3600).await;
    assert!(ask_once(address, &roots, Some(&unbound)).await.is_err());

    // Nothing was written but where it may, and the keys are for nobody else.
    let keys = std::fs::metadata(sandbox.path("/var/lib/meshmint/state")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&keys) & 0o777, 0o700);

    // The next pod on the same volume, after a change of nodes: the root and the record are still there.
    assert_eq!(container.stop(), Some(0));
    let mut container = sandbox.start(&program);
    container.ready(&health);
    let bundle = sandbox.run(&program, &["bundle", "--admin", "/run/meshmint/admin.sock"]);
    assert_eq!(String::from_utf8(bundle.stdout).unwrap(), roots);
    let listed = sandbox.run(&program, &["certs", "list", "--admin", "/run/meshmint/admin.sock"]);
    assert!(text(&listed).contains("spiffe://cluster.local/ns/shop/sa/shop"), "{}", text(&listed));
    drop(container);
}
