//! deploy/kustomize: the base is what the Helm chart renders with its defaults, the components are what it renders for a value, and real kustomize
//! builds all of it. `MESHMINT_TEST_WRITE=1 cargo test --test install_kustomize` writes the generated files anew; review them then.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/helm.rs"]
mod helm;
#[path = "common/process.rs"]
mod process;
#[path = "common/tools.rs"]
mod tools;

use std::fs;

use helm::{Helm, configuration, find, kustomize, names, objects, pod};
use serde_json::{Value, json};

use crate::process::meshmint;
use crate::tools::repository;

const HEAD: &str = "# Generated from deploy/helm/meshmint by tests/install_kustomize.rs.\n";

/// Compares with a file in the repository, or writes it where that is asked for.
fn same_as_file(path: &str, text: &str) {
    let path = repository(path);
    if std::env::var_os("MESHMINT_TEST_WRITE").is_some() {
        fs::write(&path, text).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap_or_default(), text, "{}", path.display());
}

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
    same_as_file("deploy/kustomize/base/objects.yaml", &generated(&rest));
    let map: Value = serde_saphyr::from_str(&map[0]).unwrap();
    same_as_file("deploy/kustomize/base/meshmint.yaml", &format!("{HEAD}{}\n", map["data"]["meshmint.yaml"].as_str().unwrap().trim()));

    let beside = |values: &Value| -> Vec<String> { documents(values).into_iter().filter(|document| !base.contains(document)).collect() };
    let all = json!({"app": {"metrics": {"service": {"servicemonitor": {"enabled": true}}, "rules": {"enabled": true}}}});
    same_as_file("deploy/kustomize/components/monitoring/monitoring.yaml", &generated(&beside(&all)));
    let remote = beside(&json!({"app": {"multiCluster": {"enabled": true}}}));
    let remote: Vec<_> = remote.into_iter().filter(|document| document.contains("remote-clusters")).collect();
    same_as_file("deploy/kustomize/components/remote-clusters/access.yaml", &generated(&remote));
}

/// Builds a folder, and returns its objects with the configuration, which must be one that meshmint takes.
fn build(folder: &str) -> (Vec<Value>, Value) {
    let built = objects(&kustomize(&repository(folder)));
    let written = configuration(&built);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &written).unwrap();
    let checked = meshmint(&["config", "check", file.path().to_str().unwrap()]);
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
