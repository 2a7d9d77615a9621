//! The Helm chart as real Helm renders it, for many sets of values: every rendered configuration is accepted by `meshmint config check`, every pod
//! keeps to what a restricted namespace allows, the rules are those of deploy/kubernetes and deploy/prometheus, and values that can't be right are
//! refused (tests/corpus/chart: one bad set each, with Helm's words). `MESHMINT_TEST_WRITE=1 cargo test --test install_chart` writes these words
//! anew; review them then.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/chart_values.rs"]
mod chart_values;
#[path = "common/helm.rs"]
mod helm;
#[path = "common/process.rs"]
mod process;
#[path = "common/tools.rs"]
mod tools;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use chart_values::{value_sets, with_image};
use helm::{Helm, chart, configuration, configuration_of, find, names, objects, pod, workload, workloads};
use serde_json::{Value, json};

use crate::process::meshmint;
use crate::tools::{repository, same_as_file};

#[test]
fn helm_finds_nothing_to_complain_about() {
    let helm = Helm::new();
    for (name, values) in value_sets() {
        let path = helm.values(&with_image(&values));
        let said = helm.succeed(&["lint", chart().to_str().unwrap(), "--strict", "--namespace", helm::NAMESPACE, "--values", path.to_str().unwrap()]);
        assert!(!said.contains("[WARNING]") && !said.contains("[ERROR]"), "{name}: {said}");
    }
}

#[test]
fn every_configuration_is_one_that_meshmint_takes() {
    let helm = Helm::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meshmint.yaml");
    for (name, values) in value_sets() {
        let rendered = helm.render(&with_image(&values));
        for workload in workloads(&rendered) {
            fs::write(&path, configuration_of(&rendered, &workload["spec"]["template"])).unwrap();
            let output = meshmint(&["config", "check", "--elsewhere", path.to_str().unwrap()]);
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

#[test]
fn every_pod_is_as_restricted_as_can_be_and_out_of_the_mesh() {
    let helm = Helm::new();
    for (name, values) in value_sets() {
        let rendered = helm.render(&with_image(&values));
        let mut selected = 0;
        for workload in workloads(&rendered) {
            let configuration: Value = serde_saphyr::from_str(&configuration_of(&rendered, &workload["spec"]["template"])).unwrap();
            check_pod(&format!("{name}, {}", workload["metadata"]["name"]), workload, &configuration);
            selected += check_services(&format!("{name}, {}", workload["metadata"]["name"]), &rendered, &workload["spec"]["template"]);
        }
        assert_eq!(selected, rendered.iter().filter(|object| object["kind"] == "Service").count(), "{name}: each Service has its kind of pod");
        check_places(name, &rendered);
    }
}

/// What a pod may and where it writes, against its configuration.
fn check_pod(name: &str, workload: &Value, configuration: &Value) {
    let pod = &workload["spec"]["template"];
    let (labels, spec) = (&pod["metadata"]["labels"], &pod["spec"]);
    assert_eq!((&labels["sidecar.istio.io/inject"], &labels["istio.io/dataplane-mode"]), (&json!("false"), &json!("none")), "{name}");
    let context = &spec["securityContext"];
    assert_eq!((&context["runAsNonRoot"], &context["seccompProfile"]["type"]), (&json!(true), &json!("RuntimeDefault")), "{name}");
    for key in ["hostNetwork", "hostPID", "hostIPC"] {
        assert!(spec[key].is_null(), "{name}: {key}");
    }
    let containers = spec["containers"].as_array().unwrap();
    assert_eq!((containers.len(), &spec["initContainers"]), (1, &Value::Null), "{name}");
    let container = &containers[0];
    let context = &container["securityContext"];
    assert_eq!(context, &json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}}), "{name}");

    // Where it may write, and that this is where its files are.
    let mounts = container["volumeMounts"].as_array().unwrap();
    let writable: BTreeSet<_> = mounts.iter().filter(|mount| mount["readOnly"] != true).map(|mount| mount["mountPath"].as_str().unwrap()).collect();
    let volume = workload["kind"] == "StatefulSet";
    let expected = if volume { vec!["/run/meshmint", "/var/lib/meshmint"] } else { vec!["/run/meshmint"] };
    assert_eq!(writable, BTreeSet::from_iter(expected), "{name}");
    let ledger = &configuration["ledger"];
    let written = [&configuration["state"]["file"]["dir"], &ledger["sqlite"]["path"], &ledger["spool"]["path"], &configuration["admin"]["socket"]];
    for path in written.iter().filter_map(|path| path.as_str()) {
        assert!(writable.iter().any(|folder| path.starts_with(&format!("{folder}/"))), "{name}: {path}");
    }
    // Every file that it reads is below something that is mounted.
    for path in texts(configuration).iter().filter(|text| text.starts_with("/etc/")) {
        assert!(mounts.iter().any(|mount| path.starts_with(&format!("{}/", mount["mountPath"].as_str().unwrap()))), "{name}: {path}");
    }
    let mounted: BTreeSet<_> = mounts.iter().map(|mount| mount["name"].as_str().unwrap()).collect();
    let mut volumes: BTreeSet<_> = spec["volumes"].as_array().unwrap().iter().map(|volume| volume["name"].as_str().unwrap()).collect();
    let claims = workload["spec"]["volumeClaimTemplates"].as_array().cloned().unwrap_or_default();
    volumes.extend(claims.iter().map(|claim| claim["metadata"]["name"].as_str().unwrap()));
    assert_eq!(mounted, volumes, "{name}");
    if let Some(group) = spec["securityContext"]["fsGroup"].as_u64() {
        // Otherwise the kubelet opens the keys to the group, and meshmint refuses them.
        assert_eq!((group, &spec["securityContext"]["fsGroupChangePolicy"]), (65532, &json!("OnRootMismatch")), "{name}");
    }

    // It is killed only after it had time to drain.
    let drain: u64 = configuration["server"]["drainTimeout"].as_str().unwrap().strip_suffix('s').unwrap().parse().unwrap();
    assert!(spec["terminationGracePeriodSeconds"].as_u64().unwrap() >= drain + 10, "{name}");

    // Ports of pod, Services, probes and policy are those of the configuration.
    let port = |key: &str| -> u64 { configuration[key]["listen"].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap() };
    let ports: BTreeMap<_, _> =
        container["ports"].as_array().unwrap().iter().map(|port| (port["name"].as_str().unwrap(), port["containerPort"].as_u64().unwrap())).collect();
    let mut expected = BTreeMap::from([("health", port("health")), ("metrics", port("metrics"))]);
    if configuration["role"] != "authority" {
        expected.insert("tls-csr", port("server"));
    }
    if configuration["admin"]["listen"].is_string() {
        expected.insert("tls-admin", port("admin"));
    }
    assert_eq!(ports, expected, "{name}");
    for (probe, path) in [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
        assert_eq!(container[probe]["httpGet"], json!({"path": path, "port": "health"}), "{name}");
    }
}

/// How many Services select this pod; each of their ports is one of it.
fn check_services(name: &str, rendered: &[Value], pod: &Value) -> usize {
    let labels = &pod["metadata"]["labels"];
    let ports: BTreeSet<_> = pod["spec"]["containers"][0]["ports"].as_array().unwrap().iter().map(|port| port["name"].as_str().unwrap()).collect();
    let selects = |service: &&Value| service["spec"]["selector"].as_object().unwrap().iter().all(|(key, value)| &labels[key] == value);
    let services: Vec<_> = rendered.iter().filter(|object| object["kind"] == "Service").filter(selects).collect();
    for port in services.iter().flat_map(|service| service["spec"]["ports"].as_array().unwrap()) {
        assert!(ports.contains(port["targetPort"].as_str().unwrap()), "{name}: {port}");
    }
    services.len()
}

/// Everything that is in a namespace is in the release's; nothing makes a namespace.
fn check_places(name: &str, rendered: &[Value]) {
    let configurations: Vec<Value> = workloads(rendered)
        .iter()
        .map(|workload| serde_saphyr::from_str(&configuration_of(rendered, &workload["spec"]["template"])).unwrap())
        .collect();
    for object in rendered {
        let cluster_wide = ["ClusterRole", "ClusterRoleBinding"].contains(&object["kind"].as_str().unwrap());
        // But for what istiod's Secrets and those of other clusters need.
        let own_name = object["metadata"]["name"].as_str().unwrap();
        // What is elsewhere is called after the release's namespace, too.
        let own_name = own_name.trim_end_matches("-meshmint-system");
        let of_istiod = ["istiod", "cacerts"].into_iter().find(|which| own_name == format!("meshmint-{which}"));
        let of_others = own_name.ends_with("-remote-clusters").then_some("/cluster/remoteSecretsNamespace");
        let key = of_istiod.map(|which| format!("/controllers/{which}/namespace")).or(of_others.map(str::to_owned));
        let of_issuers = own_name.ends_with("-issuer-remote-clusters");
        let theirs = configurations.iter().filter(|configuration| of_others.is_none() || of_issuers == (configuration["role"] == "issuer"));
        let namespace = key.and_then(|key| theirs.into_iter().find_map(|configuration| configuration.pointer(&key)?.as_str()));
        let namespace = namespace.unwrap_or(helm::NAMESPACE);
        assert_eq!(object["metadata"]["namespace"].as_str(), (!cluster_wide).then_some(namespace), "{name}: {object}");
        assert_eq!(object["metadata"]["labels"]["app.kubernetes.io/managed-by"], "Helm", "{name}: {object}");
    }
}

/// All texts in a value.
fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(items) => items.iter().flat_map(texts).collect(),
        Value::Object(members) => members.values().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn values_become_what_they_say() {
    let helm = Helm::new();
    let sets = value_sets();
    let rendered = |name: &str| helm.render(&with_image(&sets[name]));
    let written = |name: &str| -> Value { serde_saphyr::from_str(&configuration(&rendered(name))).unwrap() };

    let defaults = written("defaults");
    assert_eq!(defaults["server"]["servingDNSNames"], json!(["meshmint.meshmint-system.svc"]));
    assert_eq!(defaults["certificates"], json!({"maxLifetime": "24h", "defaultLifetime": "24h"}));
    assert_eq!(defaults["tokens"]["trustedNodeAccounts"], json!(["istio-system/ztunnel"]));
    assert_eq!(defaults["cluster"], json!({"inCluster": true}));
    assert_eq!(written("sidecars only")["tokens"]["trustedNodeAccounts"], json!([]));
    assert_eq!(written("several node accounts")["tokens"]["trustedNodeAccounts"], json!(["istio-system/ztunnel", "kube-system/ztunnel"]));
    assert_eq!(written("short certificates")["certificates"], json!({"maxLifetime": "1h", "defaultLifetime": "1h"}));
    assert_eq!(written("two lifetimes")["certificates"], json!({"maxLifetime": "7d", "defaultLifetime": "12h30m"}));
    let issuers = written("managed cluster")["tokens"]["issuers"].clone();
    assert_eq!(issuers[0], json!({"issuer": "https://issuer.example/id/1", "keys": {"apiServer": true}}));
    assert_eq!(written("several clusters")["cluster"]["remoteSecretsNamespace"], "meshmint-system");
    let import = written("imported root")["authority"]["import"].clone();
    assert_eq!(import, json!({"certFile": "/etc/meshmint/import/ca-cert.pem", "keyFile": "/etc/meshmint/import/ca-key.pem"}));
    assert_eq!(written("imported chain")["authority"]["import"].as_object().unwrap().len(), 4);
    let more = written("more configuration");
    assert_eq!((&more["server"]["maxConnections"], &more["server"]["listen"]), (&json!(1_000_000), &json!("0.0.0.0:8443")));
    let both = written("import with configuration");
    assert!(both["authority"]["issuingLifetime"] == "60d" && both["authority"]["import"]["keyFile"].is_string());
    assert_eq!(written("postgres with a spool")["ledger"]["spool"]["path"], "/var/lib/meshmint/spool.db");
    assert!(written("postgres")["ledger"]["sqlite"].is_null());

    let image = |name: &str| pod(&rendered(name))["spec"]["containers"][0]["image"].clone();
    assert_eq!(image("defaults"), format!("registry.example/meshmint:{}", env!("CARGO_PKG_VERSION")), "the chart is of this version");
    assert_eq!(image("labels and files"), format!("registry.example/meshmint@sha256:{}", "0".repeat(64)));
    let named = rendered("names and ports");
    assert_eq!(find(&named, "Service", "mesh-ca")["spec"]["ports"][0]["port"], 15012);
    assert!(
        names(&named).iter().all(|name| name.split(' ').nth(1).unwrap().starts_with("mesh-ca") || name.starts_with("ServiceAccount")),
        "{named:#?}"
    );
    let storage = find(&rendered("storage"), "StatefulSet", "")["spec"]["volumeClaimTemplates"][0]["spec"].clone();
    assert_eq!((&storage["storageClassName"], &storage["resources"]["requests"]["storage"]), (&json!("fast"), &json!("100Gi")));
    let labelled = rendered("labels and files");
    assert!(labelled.iter().all(|object| object["metadata"]["labels"]["team"] == "mesh"), "{labelled:#?}");
    assert_eq!(pod(&labelled)["spec"]["serviceAccountName"], "ca");
    let narrow = find(&rendered("narrow network"), "NetworkPolicy", "")["spec"].clone();
    assert_eq!(narrow["policyTypes"], json!(["Ingress", "Egress"]));
    assert!(!names(&rendered("open network")).iter().any(|name| name.starts_with("NetworkPolicy")));
    let chosen = pod(&rendered("a platform that chooses users"))["spec"]["securityContext"].clone();
    assert!(chosen["runAsUser"].is_null() && chosen["fsGroup"].is_null() && chosen["runAsNonRoot"] == true, "{chosen}");

    let several = rendered("replicas");
    let deployment = workload(&several);
    assert_eq!((&deployment["kind"], &deployment["spec"]["replicas"]), (&json!("Deployment"), &json!(3)));
    assert_eq!(deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"], 0);
    assert_eq!(pod(&several)["spec"]["topologySpreadConstraints"].as_array().unwrap().len(), 2);
    assert_eq!(pod(&several)["spec"]["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"], 5);
    assert_eq!(pod(&several)["spec"]["terminationGracePeriodSeconds"], 35);
    assert_eq!(find(&several, "PodDisruptionBudget", "")["spec"]["maxUnavailable"], 1);
    let spool = rendered("replicas with a spool");
    assert_eq!((&workload(&spool)["kind"], &workload(&spool)["spec"]["replicas"]), (&json!("StatefulSet"), &json!(2)));
    let scaled = rendered("replicas by load");
    assert!(workload(&scaled)["spec"]["replicas"].is_null(), "their number is the autoscaler's");
    assert_eq!(find(&scaled, "HorizontalPodAutoscaler", "")["spec"]["scaleTargetRef"]["kind"], workload(&scaled)["kind"]);
    assert!(!names(&rendered("defaults")).iter().any(|name| name.starts_with("PodDisruptionBudget")), "it would keep a node from being emptied");
    let apart = rendered("roles apart");
    let [issuer, authority] = workloads(&apart).try_into().unwrap();
    let written_for = |workload: &Value| -> Value { serde_saphyr::from_str(&configuration_of(&apart, &workload["spec"]["template"])).unwrap() };
    let (of_issuer, of_authority) = (written_for(issuer), written_for(authority));
    assert_eq!((&issuer["metadata"]["name"], &issuer["spec"]["replicas"], &of_issuer["role"]), (&json!("meshmint"), &json!(3), &json!("issuer")));
    assert_eq!((&authority["spec"]["replicas"], &of_authority["role"]), (&json!(2), &json!("authority")));
    let account = |workload: &Value| workload["spec"]["template"]["spec"]["serviceAccountName"].clone();
    assert_eq!((account(issuer), account(authority)), (json!("ca-issuer"), json!("ca")));
    // What only whoever leads may do or read is not said to the others.
    for (section, key) in
        [("controllers", "rootConfigMap"), ("controllers", "istiod"), ("controllers", "cacerts"), ("authority", "import"), ("admin", "listen")]
    {
        assert!(of_issuer[section][key].is_null() && !of_authority[section][key].is_null(), "{section}.{key}");
    }
    assert_eq!(of_issuer["state"], of_authority["state"]);
    let others = |written: &Value| written["cluster"]["remoteSecretsNamespace"].clone();
    assert_eq!((others(&of_issuer), others(&of_authority)), (json!("clusters"), json!("meshmint-system")));
    // Each has the name of the Service before it, and all have the one that `--kube` asks for.
    let names = |written: &Value| written["server"]["servingDNSNames"].clone();
    assert_eq!(names(&of_issuer), json!(["meshmint.meshmint-system.svc"]));
    assert_eq!(names(&of_authority), json!(["meshmint.meshmint-system.svc", "meshmint-authority.meshmint-system.svc"]));
    assert!(!issuer["spec"]["template"]["spec"]["volumes"].to_string().contains("cacerts"));
    let budgets: Vec<_> = apart.iter().filter(|object| object["kind"] == "PodDisruptionBudget").collect();
    assert_eq!(budgets.len(), 2);
    let scaled = rendered("roles apart with a spool");
    assert_eq!(
        find(&scaled, "HorizontalPodAutoscaler", "")["spec"]["scaleTargetRef"],
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "meshmint"})
    );
    assert_eq!(scaled.iter().filter(|object| object["kind"] == "PodDisruptionBudget").count(), 1, "one that may lead can't be spared by a budget");
    let istiod = written("istiod's CA is off")["controllers"].clone();
    assert_eq!(
        istiod["istiod"],
        json!({"namespace": "istio-control", "clusters": [], "revisions": ["default", "canary"], "certificateLifetime": "24h"})
    );
    assert_eq!(written("istiods of several clusters")["controllers"]["istiod"]["clusters"], json!(["Kubernetes", "east"]));

    let signing = written("istiod stays the CA")["controllers"].clone();
    assert_eq!(signing, json!({"cacerts": {"namespace": "istio-control", "clusters": ["Kubernetes", "east"], "lifetime": "180d"}}));

    // A pod is made anew where its configuration changed, and only then.
    let checksum = |name: &str| pod(&rendered(name))["metadata"]["annotations"]["checksum/configuration"].clone();
    assert_eq!(checksum("defaults"), checksum("open network"));
    assert_ne!(checksum("defaults"), checksum("more configuration"));
}

#[test]
fn names_follow_the_release_and_fit() {
    let helm = Helm::new();
    let name = |release: &str, values: Value| {
        find(&helm.render_as(release, "mesh", &with_image(&values)), "StatefulSet", "")["metadata"]["name"].as_str().unwrap().to_owned()
    };
    assert_eq!(name("meshmint", json!({})), "meshmint");
    assert_eq!(name("west", json!({})), "west-meshmint");
    assert_eq!(name("west", json!({"nameOverride": "ca"})), "west-ca");
    let long = "r".repeat(53);
    let rendered = helm.render_as(&long, "mesh", &with_image(&json!({})));
    // A Service's name is a DNS label, and so is what a StatefulSet puts on its pods.
    assert!(
        rendered.iter().all(|object| object["metadata"]["name"].as_str().unwrap().len() <= 63 || object["kind"].as_str().unwrap().contains("Role")),
        "{:?}",
        names(&rendered)
    );
    // Two releases with one name in two namespaces share nothing, also where both have something in a third.
    let elsewhere = |namespace: &str| -> Vec<String> {
        let values = json!({"app": {
            "multiCluster": {"enabled": true, "namespace": "clusters"}, "tls": {"istiodCertificateEnable": true}, "cacerts": {"enabled": true},
            "controller": {"rootConfigMap": true}, "admin": {"enabled": true},
        }});
        let rendered = helm.render_as("meshmint", namespace, &with_image(&values));
        names(&rendered.into_iter().filter(|object| object["metadata"]["namespace"] != namespace).collect::<Vec<_>>())
    };
    let (one, two) = (elsewhere("one"), elsewhere("two"));
    assert!(one.len() > 10 && one.iter().all(|name| !two.contains(name)), "{one:?} {two:?}");
    let binding = helm.render_as("meshmint", "one", &with_image(&json!({})));
    assert_eq!(find(&binding, "ClusterRoleBinding", "")["subjects"][0]["namespace"], "one");
}

/// What may be done, by role: the names of a release are not those of the files.
fn access(objects: &[Value]) -> BTreeSet<String> {
    let roles = objects.iter().filter(|object| object["apiVersion"] == "rbac.authorization.k8s.io/v1");
    roles
        .map(|object| {
            let bare = |name: &Value| name.as_str().unwrap().trim_end_matches("-meshmint-system").to_owned();
            let mut object = object.clone();
            object["metadata"] = json!({"name": bare(&object["metadata"]["name"]), "namespace": object["metadata"]["namespace"]});
            if object["roleRef"].is_object() {
                object["roleRef"]["name"] = json!(bare(&object["roleRef"]["name"]));
            }
            object.to_string()
        })
        .collect()
}

#[test]
fn rules_of_access_and_alerts_are_those_of_the_files() {
    let helm = Helm::new();
    let files = |names: &[&str]| -> Vec<Value> {
        names.iter().flat_map(|name| objects(&fs::read_to_string(repository(&format!("deploy/kubernetes/{name}"))).unwrap())).collect()
    };
    let sets = value_sets();
    let rendered = |name: &str| helm.render(&with_image(&sets[name]));
    assert_eq!(access(&rendered("defaults")), access(&files(&["rbac.yaml"])));
    assert_eq!(access(&rendered("several clusters")), access(&files(&["rbac.yaml", "remote-clusters.yaml"])));

    let given = |values: Value| access(&helm.render(&with_image(&values)));
    assert_eq!(access(&rendered("replicas")), access(&files(&["rbac.yaml", "state.yaml"])));
    assert_eq!(access(&rendered("root ConfigMaps")), access(&files(&["rbac.yaml", "controllers.yaml"])));
    let istiod = given(json!({"app": {"tls": {"istiodCertificateEnable": true}}}));
    assert_eq!(istiod, access(&files(&["rbac.yaml", "istiod.yaml"])));
    let elsewhere = given(json!({"app": {"tls": {"istiodCertificateEnable": true}, "istio": {"namespace": "istio-control"}}}));
    assert_eq!(elsewhere.len(), istiod.len());
    assert!(elsewhere.iter().all(|rule| !rule.contains("istio-system")), "{elsewhere:#?}");
    assert_eq!(given(json!({"app": {"cacerts": {"enabled": true}}})), access(&files(&["rbac.yaml", "cacerts.yaml"])));
    // Where only istiods of other clusters are given something, there is nothing to do in istiod's namespace here.
    for (clusters, here) in [(json!(["east"]), false), (json!(["Kubernetes", "east"]), true)] {
        for (file, app) in [
            ("istiod.yaml", json!({"tls": {"istiodCertificateEnable": true, "istiodCertificateClusters": clusters}})),
            ("cacerts.yaml", json!({"cacerts": {"enabled": true, "clusters": clusters}})),
        ] {
            let expected = if here { files(&["rbac.yaml", file]) } else { files(&["rbac.yaml"]) };
            assert_eq!(given(json!({"app": app})), access(&expected), "{file} {clusters}");
        }
    }
    assert_eq!(access(&rendered("admin over the network")), access(&files(&["rbac.yaml", "admin.yaml"])));
    // The account that `--kube` acts as is the release's own, whatever that and its own account are called.
    let west = helm.render_as("west", "mesh", &with_image(&json!({"app": {"admin": {"enabled": true}}, "serviceAccount": {"name": "ca"}})));
    let viewer = find(&west, "ServiceAccount", "west-meshmint-viewer")["metadata"]["namespace"].clone();
    assert_eq!(viewer, "mesh");
    let subjects = |name: &str| find(&west, "ClusterRoleBinding", name)["subjects"].clone();
    assert_eq!(subjects("west-meshmint-viewer-mesh"), json!([{"kind": "ServiceAccount", "name": "west-meshmint-viewer", "namespace": "mesh"}]));
    assert_eq!(subjects("west-meshmint-admin-api-mesh"), json!([{"kind": "ServiceAccount", "name": "ca", "namespace": "mesh"}]));
    let token = find(&west, "Role", "west-meshmint-kube")["rules"]
        .as_array()
        .unwrap()
        .iter()
        .find_map(|rule| (rule["resources"] == json!(["serviceaccounts/token"])).then(|| rule["resourceNames"].clone()));
    assert_eq!(token, Some(json!(["west-meshmint-viewer"])));
    let apart = given(json!({"roles": {"apart": true}, "state": {"store": "secrets"}, "postgres": {"url": "postgresql://a@b/c"}}));
    // Without other clusters nothing about them; and who lives here is for issuers to know alone.
    let expected = access(&files(&["rbac.yaml", "state.yaml", "roles.yaml"]));
    let wanted = |rule: &&String| !(rule.contains("ClusterRoleBinding") && rule.contains(r#""name":"meshmint","namespace":null"#));
    assert_eq!(apart, expected.iter().filter(wanted).cloned().collect());
    assert_eq!(expected.len() - apart.len(), 1);
    // Issuers list nothing beside the root key, and nothing that lets them write in another cluster.
    let of_others = given(json!({
        "roles": {"apart": true, "issuerClustersNamespace": "clusters"}, "state": {"store": "secrets"}, "postgres": {"url": "postgresql://a@b/c"},
        "app": {"multiCluster": {"enabled": true}},
    }));
    let more: BTreeSet<_> = access(&files(&["remote-clusters.yaml", "issuer-remote-clusters.yaml"]))
        .into_iter()
        .map(|rule| rule.replace(r#""namespace":"meshmint-clusters""#, r#""namespace":"clusters""#))
        .collect();
    assert_eq!(of_others.difference(&apart).cloned().collect::<BTreeSet<_>>(), more);
    // Each file has its place: a new one must be given one.
    let mut all: Vec<_> =
        fs::read_dir(repository("deploy/kubernetes")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    assert_eq!(
        all,
        [
            "admin.yaml",
            "cacerts.yaml",
            "controllers.yaml",
            "issuer-remote-clusters.yaml",
            "istiod.yaml",
            "rbac.yaml",
            "remote-clusters.yaml",
            "roles.yaml",
            "state.yaml"
        ]
    );
    // The state's names are those of the configuration.
    let west = helm.render_as("west", helm::NAMESPACE, &with_image(&sets["replicas"]));
    let written: Value = serde_saphyr::from_str(&configuration(&west)).unwrap();
    assert_eq!(written["state"]["secrets"], json!({"namespace": helm::NAMESPACE, "prefix": "west-meshmint"}));
    let role = west.iter().find(|object| object["kind"] == "Role").unwrap();
    for named in role["rules"].as_array().unwrap().iter().filter_map(|rule| rule["resourceNames"].as_array()).flatten() {
        assert!(named.as_str().unwrap().starts_with("west-meshmint-"), "{named}");
    }

    // Whoever may create any Secret where Helm keeps its records may forge one, and the next upgrade does what it says.
    for values in sets.values() {
        for role in helm.render(&with_image(values)).iter().filter(|object| object["kind"].as_str().is_some_and(|kind| kind.ends_with("Role"))) {
            for rule in role["rules"].as_array().unwrap() {
                let (kinds, verbs) = (texts(&rule["resources"]), texts(&rule["verbs"]));
                let makes = verbs.iter().any(|verb| ["create", "update", "patch", "*"].contains(&verb.as_str()));
                let guarded = kinds.iter().any(|kind| ["secrets", "leases", "*"].contains(&kind.as_str()));
                let anything = texts(&rule["resourceNames"]).is_empty();
                assert!(!(makes && guarded && anything), "{} {rule}", role["metadata"]["name"]);
            }
        }
    }

    let monitoring = rendered("monitoring");
    let rules: Value = serde_saphyr::from_str(&fs::read_to_string(repository("deploy/prometheus/meshmint.rules.yaml")).unwrap()).unwrap();
    assert_eq!(find(&monitoring, "PrometheusRule", "")["spec"], rules);
    let dashboard: Value = serde_json::from_str(find(&monitoring, "ConfigMap", "-dashboard")["data"]["meshmint.json"].as_str().unwrap()).unwrap();
    assert_eq!(dashboard, serde_json::from_str::<Value>(&fs::read_to_string(repository("deploy/grafana/meshmint.json")).unwrap()).unwrap());
    // The monitor finds the metrics Service, and that alone.
    let monitor = find(&monitoring, "ServiceMonitor", "")["spec"].clone();
    let selects = |service: &&Value| {
        let labels = &service["metadata"]["labels"];
        monitor["selector"]["matchLabels"].as_object().unwrap().iter().all(|(key, value)| &labels[key] == value)
    };
    let found: Vec<_> = monitoring.iter().filter(|object| object["kind"] == "Service").filter(selects).collect();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["spec"]["ports"][0]["name"], monitor["endpoints"][0]["port"]);
    // With the roles apart, both, as one job: the alert on leaders looks at all replicas of one.
    let apart = rendered("roles apart");
    let services: Vec<_> = apart.iter().filter(|object| object["kind"] == "Service").filter(selects).collect();
    let jobs: BTreeSet<_> = services.iter().map(|service| service["metadata"]["labels"][monitor["jobLabel"].as_str().unwrap()].to_string()).collect();
    assert_eq!((services.len(), jobs), (2, [r#""meshmint""#.to_owned()].into()));
}

#[test]
fn a_packaged_chart_is_the_same_chart() {
    // Links of the folder are files in the package.
    let (helm, folder) = (Helm::new(), tempfile::tempdir().unwrap());
    helm.succeed(&["package", chart().to_str().unwrap(), "--destination", folder.path().to_str().unwrap()]);
    let package = folder.path().join(format!("meshmint-{}.tgz", env!("CARGO_PKG_VERSION")));
    let values = helm.values(&with_image(&value_sets()["monitoring"]));
    let render = |chart: &Path| {
        helm.succeed(&["template", "meshmint", chart.to_str().unwrap(), "--namespace", helm::NAMESPACE, "--values", values.to_str().unwrap()])
    };
    assert_eq!(render(&package), render(&chart()));
}

#[test]
fn bad_values_are_refused_in_these_words() {
    let helm = Helm::new();
    let mut seen = 0;
    for entry in fs::read_dir(repository("tests/corpus/chart")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let values: Value = serde_saphyr::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
            let values = if path.ends_with("no-image.yaml") { values } else { with_image(&values) };
            let said = helm.refusal(&values);
            let said: Vec<_> =
                said.lines().filter(|line| !line.contains("symbolic link")).map(|line| line.replace(repository("").to_str().unwrap(), "")).collect();
            same_as_file(&path.with_extension("expected"), &format!("{}\n", said.join("\n")));
            seen += 1;
        }
    }
    assert!(seen >= 20, "{seen}");
}
