//! What a test does in a cluster: objects, tokens of every binding, and what the API server counted.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "every suite uses its own part")]

use std::path::Path;

use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

use super::tools::repository;

/// Somebody who asks the API server.
#[derive(Clone)]
pub struct Client(kube::Client);

/// An object that a token is bound to.
#[derive(Debug, Clone, Copy)]
pub enum BoundTo<'a> {
    Nothing,
    Pod(&'a str),
    Node(&'a str),
    Secret(&'a str),
}

impl Client {
    /// Whoever the kubeconfig names.
    pub async fn new(kubeconfig: &Path) -> Self {
        let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        Self(kube::Client::try_from(config).unwrap())
    }

    /// The answer as it is.
    pub async fn text(&self, path: &str) -> Result<String, kube::Error> {
        self.0.request_text(Request::get(path).body(Vec::new()).unwrap()).await
    }

    pub async fn ask(&self, method: &str, path: &str, kind: &str, body: &Value) -> Result<Value, kube::Error> {
        let request = Request::builder().method(method).uri(path).header("content-type", kind);
        self.0.request(request.body(body.to_string().into_bytes()).unwrap()).await
    }

    pub async fn create(&self, path: &str, object: &Value) -> Value {
        self.ask("POST", path, "application/json", object).await.unwrap()
    }

    /// What is there, if anything is.
    pub async fn find(&self, path: &str) -> Option<Value> {
        match self.text(path).await {
            Ok(text) => Some(serde_json::from_str(&text).unwrap()),
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            Err(error) => panic!("{path}: {error}"),
        }
    }

    /// A JSON merge patch.
    pub async fn patch(&self, path: &str, patch: &Value) -> Value {
        self.ask("PATCH", path, "application/merge-patch+json", patch).await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Value {
        serde_json::from_str(&self.text(path).await.unwrap()).unwrap()
    }

    /// Deletes with this grace; with none it is gone at once.
    pub async fn delete(&self, path: &str, grace_seconds: u32) {
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": grace_seconds});
        self.ask("DELETE", path, "application/json", &options).await.unwrap();
    }

    pub async fn namespace(&self, name: &str) {
        self.create("/api/v1/namespaces", &json!({"metadata": {"name": name}})).await;
    }

    /// Returns its UID, as the others do.
    pub async fn account(&self, namespace: &str, name: &str) -> String {
        uid(&self.create(&format!("/api/v1/namespaces/{namespace}/serviceaccounts"), &json!({"metadata": {"name": name}})).await)
    }

    pub async fn node(&self, name: &str) -> String {
        uid(&self.create("/api/v1/nodes", &json!({"metadata": {"name": name}})).await)
    }

    pub async fn secret(&self, namespace: &str, name: &str) -> String {
        uid(&self.create(&format!("/api/v1/namespaces/{namespace}/secrets"), &json!({"metadata": {"name": name}})).await)
    }

    /// A pod, on this node unless that is empty.
    pub async fn pod(&self, namespace: &str, name: &str, account: &str, node: &str) -> String {
        let mut spec = json!({"serviceAccountName": account, "containers": [{"name": "main", "image": "image"}]});
        if !node.is_empty() {
            spec["nodeName"] = json!(node);
        }
        uid(&self.create(&format!("/api/v1/namespaces/{namespace}/pods"), &json!({"metadata": {"name": name}, "spec": spec})).await)
    }

    /// What the scheduler does.
    pub async fn schedule(&self, namespace: &str, pod: &str, node: &str) {
        let binding = json!({"metadata": {"name": pod}, "target": {"kind": "Node", "name": node}});
        self.create(&format!("/api/v1/namespaces/{namespace}/pods/{pod}/binding"), &binding).await;
    }

    /// What the kubelet does.
    pub async fn phase(&self, namespace: &str, pod: &str, phase: &str) {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/status");
        self.ask("PATCH", &path, "application/merge-patch+json", &json!({"status": {"phase": phase}})).await.unwrap();
    }

    /// A namespace with an account, a node and a pod of that account on it, all of this name.
    pub async fn workload(&self, name: &str) {
        self.namespace(name).await;
        self.account(name, name).await;
        self.node(name).await;
        self.pod(name, name, name, name).await;
    }

    /// A token by the TokenRequest API.
    pub async fn token(&self, namespace: &str, account: &str, bound: BoundTo<'_>, audience: &str, seconds: u32) -> String {
        let (kind, name) = match bound {
            BoundTo::Nothing => ("", ""),
            BoundTo::Pod(name) => ("Pod", name),
            BoundTo::Node(name) => ("Node", name),
            BoundTo::Secret(name) => ("Secret", name),
        };
        let mut spec = json!({"audiences": [audience], "expirationSeconds": seconds});
        if !kind.is_empty() {
            spec["boundObjectRef"] = json!({"kind": kind, "apiVersion": "v1", "name": name});
        }
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let answer = self.create(&path, &json!({"spec": spec})).await;
        answer["status"]["token"].as_str().unwrap().to_owned()
    }

    /// The token of a [`Client::workload`].
    pub async fn workload_token(&self, name: &str) -> String {
        self.token(name, name, BoundTo::Pod(name), "istio-ca", 3600).await
    }

    /// What TokenReview says: whether the token is good.
    pub async fn review(&self, token: &str) -> bool {
        self.reviewed(token).await["authenticated"].as_bool().unwrap_or(false)
    }

    /// All that TokenReview says.
    pub async fn reviewed(&self, token: &str) -> Value {
        let review = json!({"spec": {"token": token, "audiences": ["istio-ca"]}});
        self.create("/apis/authentication.k8s.io/v1/tokenreviews", &review).await["status"].take()
    }

    /// The objects of deploy/kubernetes/rbac.yaml, and the account that they are for; returns its token.
    pub async fn install_rbac(&self) -> String {
        self.namespace("meshmint-system").await;
        self.account("meshmint-system", "meshmint").await;
        self.apply_rules("deploy/kubernetes/rbac.yaml").await;
        self.own_token().await
    }

    /// Creates the roles, bindings and accounts of a file.
    pub async fn apply_rules(&self, file: &str) {
        for object in objects(file) {
            self.create(&path_of(&object), &object).await;
        }
    }

    /// The same in a namespace of the test's own, which is made; accounts stay where they are.
    pub async fn apply_rules_in(&self, namespace: &str, file: &str) {
        self.namespace(namespace).await;
        for mut object in objects(file) {
            object["metadata"]["namespace"] = json!(namespace);
            self.create(&path_of(&object), &object).await;
        }
    }

    /// Replaces a role of a file, in this namespace, by one with these rules.
    pub async fn set_role(&self, namespace: &str, file: &str, name: &str, rules: &Value) {
        let mut role = objects(file).into_iter().find(|object| object["kind"] == "Role" && object["metadata"]["name"] == name).unwrap();
        role["metadata"]["namespace"] = json!(namespace);
        role["rules"] = rules.clone();
        self.ask("PUT", &format!("{}/{name}", path_of(&role)), "application/json", &role).await.unwrap();
    }

    /// So many pods of the account that is called like its namespace, on a hundred nodes: `pod-0` and so on.
    pub async fn pods(&self, namespace: &'static str, count: u32) {
        let makers = (0..16).map(|maker| {
            let admin = self.clone();
            tokio::spawn(async move {
                for number in (maker..count).step_by(16) {
                    admin.pod(namespace, &format!("pod-{number}"), namespace, &format!("node-{}", number % 100)).await;
                }
            })
        });
        for maker in makers.collect::<Vec<_>>() {
            maker.await.unwrap();
        }
    }

    /// Waits until the API server goes by this: whether an account of meshmint's may do something with an object: its group, kind and name.
    pub async fn until_may(&self, account: &str, namespace: &str, verb: &str, (group, resource, name): (&str, &str, &str), allowed: bool) {
        let attributes = json!({"namespace": namespace, "verb": verb, "group": group, "resource": resource, "name": name});
        let review = json!({"spec": {"user": format!("system:serviceaccount:meshmint-system:{account}"), "resourceAttributes": attributes}});
        let goes = async {
            while self.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await["status"]["allowed"] != json!(allowed) {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        assert!(tokio::time::timeout(super::process::PATIENCE, goes).await.is_ok(), "{review} is not {allowed}");
    }

    /// A token of meshmint's own account, for the API server.
    pub async fn own_token(&self) -> String {
        self.token("meshmint-system", "meshmint", BoundTo::Nothing, super::api_server::CLUSTER_ISSUER, 3600).await
    }

    /// Creates what admin.yaml has. What rbac.yaml has of it, too, is taken away, so that it is needed.
    pub async fn apply_admin_rules(&self) {
        let rules = rbac()[0]["rules"].as_array().unwrap().iter().filter(|rule| rule["resources"] != json!(["tokenreviews"])).cloned().collect();
        self.set_rules(&Value::Array(rules)).await;
        self.apply_rules("deploy/kubernetes/admin.yaml").await;
    }

    /// Replaces the ClusterRole by one with these rules.
    pub async fn set_rules(&self, rules: &Value) {
        self.set_rules_of(&rbac().remove(0), rules).await;
    }

    /// The same with another role.
    pub async fn set_rules_of(&self, role: &Value, rules: &Value) {
        let mut role = role.clone();
        role["rules"] = rules.clone();
        let path = format!("{}/{}", path_of(&role), role["metadata"]["name"].as_str().unwrap());
        self.ask("PUT", &path, "application/json", &role).await.unwrap();
    }

    /// Requests that the API server counted, by resource, verb and code; watches count when they end.
    pub async fn requests(&self) -> u64 {
        let metrics = self.text("/metrics").await.unwrap();
        let counted = metrics.lines().filter(|line| line.starts_with("apiserver_request_total{"));
        counted.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
    }
}

/// The objects of deploy/kubernetes/rbac.yaml: the ClusterRole first.
pub fn rbac() -> Vec<Value> {
    objects("deploy/kubernetes/rbac.yaml")
}

/// The objects of a file of manifests.
pub fn objects(file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(repository(file)).unwrap();
    text.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

fn path_of(object: &Value) -> String {
    let kind = object["kind"].as_str().unwrap().to_lowercase();
    if kind == "serviceaccount" {
        return format!("/api/v1/namespaces/{}/serviceaccounts", object["metadata"]["namespace"].as_str().unwrap());
    }
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/{kind}s"),
        None => format!("/apis/rbac.authorization.k8s.io/v1/{kind}s"),
    }
}

fn uid(object: &Value) -> String {
    object["metadata"]["uid"].as_str().unwrap().to_owned()
}
