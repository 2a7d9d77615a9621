//! Real Helm (`tests/setup`) over the chart: rendering with values, and whatever else Helm does. It reads nothing of this machine's user.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "every suite uses its own part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::tools::{repository, succeed, tool};

/// Where everybody's examples install it.
pub const NAMESPACE: &str = "meshmint-system";

/// The chart's folder.
pub fn chart() -> PathBuf {
    repository("deploy/helm/meshmint")
}

/// Helm with folders of its own.
pub struct Helm(TempDir);

impl Helm {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Runs it to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(tool("bin/helm"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HELM_")) {
            command.env_remove(name);
        }
        command
            .env("HOME", self.0.path())
            .env_remove("KUBECONFIG")
            .env_remove("XDG_CACHE_HOME")
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_DATA_HOME");
        command.args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// The same; it must succeed. Returns what it wrote.
    pub fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "helm {arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
        said
    }

    /// A file with these values.
    pub fn values(&self, values: &Value) -> PathBuf {
        let mut name = 0;
        let path = |name: i32| self.0.path().join(format!("values-{name}.json"));
        while path(name).exists() {
            name += 1;
        }
        std::fs::write(path(name), values.to_string()).unwrap();
        path(name)
    }

    /// The objects of a release `meshmint` with these values.
    pub fn render(&self, values: &Value) -> Vec<Value> {
        self.render_as("meshmint", NAMESPACE, values)
    }

    pub fn render_as(&self, release: &str, namespace: &str, values: &Value) -> Vec<Value> {
        objects(&self.render_text(release, namespace, values))
    }

    /// The same as Helm writes it.
    pub fn render_text(&self, release: &str, namespace: &str, values: &Value) -> String {
        let (chart, values) = (chart(), self.values(values));
        self.succeed(&template(release, namespace, &chart, &values))
    }

    /// What it says where it refuses these values.
    pub fn refusal(&self, values: &Value) -> String {
        let (chart, file) = (chart(), self.values(values));
        let output = self.run(&template("meshmint", NAMESPACE, &chart, &file));
        assert!(!output.status.success(), "these values were not refused: {values}");
        String::from_utf8(output.stderr).unwrap()
    }
}

fn template<'a>(release: &'a str, namespace: &'a str, chart: &'a Path, values: &'a Path) -> [&'a str; 7] {
    ["template", release, chart.to_str().unwrap(), "--namespace", namespace, "--values", values.to_str().unwrap()]
}

/// What real kustomize builds of a folder.
pub fn kustomize(folder: &Path) -> String {
    succeed(Command::new(tool("bin/kustomize")).arg("build").arg(folder))
}

/// The documents of a YAML stream that aren't empty.
pub fn objects(text: &str) -> Vec<Value> {
    let documents = format!("\n{text}");
    documents.split("\n---\n").map(|document| serde_saphyr::from_str::<Value>(document).unwrap()).filter(|object| !object.is_null()).collect()
}

/// The one object of this kind whose name ends so.
pub fn find<'a>(objects: &'a [Value], kind: &str, suffix: &str) -> &'a Value {
    let fits = |object: &&Value| object["kind"] == kind && object["metadata"]["name"].as_str().unwrap().ends_with(suffix);
    let found: Vec<_> = objects.iter().filter(fits).collect();
    assert_eq!(found.len(), 1, "{kind} …{suffix} in {:?}", names(objects));
    found[0]
}

/// Kinds and names.
pub fn names(objects: &[Value]) -> Vec<String> {
    objects.iter().map(|object| format!("{} {}", object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap())).collect()
}

/// What makes the pods, for each kind of them.
pub fn workloads(objects: &[Value]) -> Vec<&Value> {
    let found: Vec<_> = objects.iter().filter(|object| !object["spec"]["template"].is_null()).collect();
    assert!(!found.is_empty(), "{:?}", names(objects));
    found
}

/// The one thing that makes pods.
pub fn workload(objects: &[Value]) -> &Value {
    let found = workloads(objects);
    assert_eq!(found.len(), 1, "{:?}", names(objects));
    found[0]
}

/// The pod's template.
pub fn pod(objects: &[Value]) -> &Value {
    &workload(objects)["spec"]["template"]
}

/// meshmint.yaml of the ConfigMap that this pod has.
pub fn configuration_of(objects: &[Value], pod: &Value) -> String {
    let volume = pod["spec"]["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == "config").unwrap();
    let map = |object: &&Value| object["kind"] == "ConfigMap" && object["metadata"]["name"] == volume["configMap"]["name"];
    objects.iter().find(map).unwrap()["data"]["meshmint.yaml"].as_str().unwrap().to_owned()
}

/// meshmint.yaml of the one pod.
pub fn configuration(objects: &[Value]) -> String {
    configuration_of(objects, pod(objects))
}
