//! deploy/kustomize: the base is what the Helm chart renders with its defaults, the components are what it renders for a value, and real kustomize
//! builds all of it. `MESHMINT_TEST_WRITE=1 cargo test --test install_kustomize` writes the generated files anew; review them then.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/chart_values.rs"]
mod chart_values;
#[path = "common/helm.rs"]
mod helm;
#[path = "common/process.rs"]
mod process;
#[path = "common/tools.rs"]
mod tools;

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use chart_values::with_image;
use helm::{Helm, configuration, find, kustomize, names, objects, pod};
use serde_json::{Value, json};

use crate::process::meshmint;
use crate::tools::{repository, same_as_file};

const HEAD: &str = "# Generated from deploy/helm/meshmint by tests/install_kustomize.rs.\n";

/// What the chart renders, in documents, without what is Helm's.
fn documents(values: &Value) -> Vec<String> {
    let helm = Helm::new();
    let mut all = json!({"image": {"repository": "meshmint"}});
    all.as_object_mut().unwrap().extend(values.as_object().unwrap().clone());
    let text = helm.render_text("meshmint", helm::NAMESPACE, &all);
    // The configuration's hash is in the name of its ConfigMap here.
    let of_helm =
        ["# Source:", "helm.sh/chart:", "app.kubernetes.io/managed-by:", "checksum/configuration:", "# The configuration is read at start only."];
    let lines = text.lines().filter(|line| !of_helm.iter().any(|start| line.trim_start().starts_with(start)));
    let text = lines.collect::<Vec<_>>().join("\n");
    format!("\n{text}").split("\n---\n").map(str::trim).filter(|document| !document.is_empty()).map(str::to_owned).collect()
}

fn generated(documents: &[String]) -> String {
    format!("{HEAD}{}\n", documents.join("\n---\n"))
}

#[test]
fn base_and_components_are_what_the_chart_renders() {
    let base = documents(&json!({}));
    let (map, rest): (Vec<_>, Vec<_>) = base.iter().cloned().partition(|document| document.contains("\nkind: ConfigMap\n"));
    same_as_file(&repository("deploy/kustomize/base/objects.yaml"), &generated(&rest));
    let map: Value = serde_saphyr::from_str(&map[0]).unwrap();
    same_as_file(&repository("deploy/kustomize/base/meshmint.yaml"), &format!("{HEAD}{}\n", map["data"]["meshmint.yaml"].as_str().unwrap().trim()));

    let beside = |values: &Value| -> Vec<String> { documents(values).into_iter().filter(|document| !base.contains(document)).collect() };
    let all = json!({"app": {"metrics": {"service": {"servicemonitor": {"enabled": true}}, "rules": {"enabled": true}}}});
    same_as_file(&repository("deploy/kustomize/components/monitoring/monitoring.yaml"), &generated(&beside(&all)));
    for (component, values) in components() {
        let of_access = |document: &String| ["Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "ServiceAccount"].contains(&kind(document));
        let access: Vec<_> = beside(&values).into_iter().filter(of_access).collect();
        same_as_file(&repository(&format!("deploy/kustomize/components/{component}/access.yaml")), &generated(&access));
    }
}

/// Each component for a key of the configuration, with the value of the chart that does the same.
fn components() -> [(&'static str, Value); 4] {
    [
        ("remote-clusters", json!({"app": {"multiCluster": {"enabled": true}}})),
        ("controllers", json!({"app": {"controller": {"rootConfigMap": true}}})),
        ("istiod", json!({"app": {"tls": {"istiodCertificateEnable": true}}})),
        ("admin", json!({"app": {"admin": {"enabled": true}}})),
    ]
}

fn kind(document: &str) -> &str {
    document.lines().find_map(|line| line.strip_prefix("kind: ")).unwrap()
}

#[test]
fn with_a_component_the_base_is_what_the_chart_renders_with_its_value() {
    let folder = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-r").arg(repository("deploy/kustomize")).arg(folder.path()).status().unwrap();
    assert!(copied.success());
    let overlay = folder.path().join("kustomize/overlays/one");
    fs::create_dir(&overlay).unwrap();
    for (component, values) in components() {
        let rendered = Helm::new().render(&with_image(&values));
        fs::write(overlay.join("meshmint.yaml"), configuration(&rendered)).unwrap();
        let kustomization = json!({
            "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": ["../../base"], "components": [format!("../../components/{component}")],
            "configMapGenerator": [{"name": "meshmint", "namespace": "meshmint-system", "behavior": "replace", "files": ["meshmint.yaml"]}],
        });
        fs::write(overlay.join("kustomization.yaml"), kustomization.to_string()).unwrap();
        let built = objects(&kustomize(&overlay));
        let (built, rendered) = (comparable(built), comparable(rendered));
        assert_eq!(built.keys().collect::<Vec<_>>(), rendered.keys().collect::<Vec<_>>(), "{component}");
        for (name, object) in &built {
            assert_eq!(object, &rendered[name], "{component}: {name}");
        }
    }
}

/// The objects by kind and name, without what only Helm or only kustomize writes.
fn comparable(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let bare = |mut object: Value| {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let config = object["kind"] == "ConfigMap";
        let key = format!("{} {}", object["kind"].as_str().unwrap(), if config { "meshmint" } else { &name });
        object["metadata"] = json!({"namespace": object["metadata"]["namespace"]});
        if object["kind"] == "StatefulSet" {
            let pod = &mut object["spec"]["template"];
            pod["metadata"] = Value::Null;
            pod["spec"]["volumes"][0]["configMap"]["name"] = Value::Null;
            pod["spec"]["containers"][0]["image"] = Value::Null;
        }
        if config {
            object["data"]["meshmint.yaml"] = json!(object["data"]["meshmint.yaml"].as_str().unwrap().trim());
        }
        (key, object)
    };
    objects.into_iter().map(bare).collect()
}

/// Builds a folder, and returns its objects with the configuration, which must be one that meshmint takes.
fn build(folder: &str) -> (Vec<Value>, Value) {
    let built = objects(&kustomize(&repository(folder)));
    let written = configuration(&built);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &written).unwrap();
    let checked = meshmint(&["config", "check", "--elsewhere", file.path().to_str().unwrap()]);
    assert!(checked.status.success(), "{folder}: {}", String::from_utf8_lossy(&checked.stderr));
    // The pod has that ConfigMap, by its hashed name.
    let volumes = pod(&built)["spec"]["volumes"].as_array().unwrap().clone();
    let name = volumes.iter().find(|volume| volume["name"] == "config").unwrap()["configMap"]["name"].as_str().unwrap().to_owned();
    assert!(name.starts_with("meshmint-"), "{name}");
    find(&built, "ConfigMap", &name);
    (built, serde_saphyr::from_str(&written).unwrap())
}

#[test]
fn the_base_builds_to_the_charts_objects() {
    let (built, written) = build("deploy/kustomize/base");
    let rendered = Helm::new().render(&json!({"image": {"repository": "meshmint"}}));
    let kinds = |objects: &[Value]| {
        let mut kinds: Vec<_> = names(objects).iter().map(|name| name.split('-').next().unwrap().to_owned()).collect();
        kinds.sort();
        kinds
    };
    assert_eq!(kinds(&built), kinds(&rendered));
    let expected: Value = serde_saphyr::from_str(&configuration(&rendered)).unwrap();
    assert_eq!(written, expected);
    let spec = |objects: &[Value]| {
        let mut spec = pod(objects)["spec"].clone();
        spec["volumes"][0]["configMap"]["name"] = json!("meshmint");
        spec
    };
    assert_eq!(spec(&built), spec(&rendered));
}

#[test]
fn the_example_is_built_with_its_own() {
    let (built, written) = build("deploy/kustomize/overlays/example");
    assert_eq!(written["trustDomain"], "mesh.example");
    assert_eq!(pod(&built)["spec"]["containers"][0]["image"], "registry.example/meshmint:0.1.0");
    assert_eq!(find(&built, "StatefulSet", "")["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"], "50Gi");
    let rules: Value = serde_saphyr::from_str(&fs::read_to_string(repository("deploy/prometheus/meshmint.rules.yaml")).unwrap()).unwrap();
    assert_eq!(find(&built, "PrometheusRule", "")["spec"], rules);
    // It says that it keeps to the pod's paths and ports.
    let base: Value = serde_saphyr::from_str(&fs::read_to_string(repository("deploy/kustomize/base/meshmint.yaml")).unwrap()).unwrap();
    for key in ["state", "ledger", "cluster"] {
        assert_eq!(written[key], base[key]);
    }
}
