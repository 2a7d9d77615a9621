//! A meshmint that runs in a cluster, as whoever operates it finds and reaches it, with his own credentials: its pods, the roots that its
//! certificates chain to, a token for its admin API, and streams to its ports. Used by the commands' `--kube`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::api_server::{Access, ApiError, ApiServer};
use super::forwarded::Forwarded;
use super::service_account_token;
use super::survey::{ROOT_CONFIG_MAP, ROOT_KEY};
use crate::clock::Clock;

/// What the chart and the kustomize base put on our pods, whatever the release is called; escaped for a URL.
const SELECTOR: &str = "app.kubernetes.io%2Fcomponent%3Dcertificate-authority";
/// What they call the port of the admin API.
const ADMIN_PORT: &str = "tls-admin";
/// How long a token lives: the shortest that the API server gives. It is shown once.
const TOKEN_LIFETIME: Duration = Duration::from_secs(600);
const PATIENCE: Duration = Duration::from_secs(10);
/// Our pods are few, and an object has 1.5 MiB at most.
const MOST_PODS: u32 = 50;
const MAX_BYTES: usize = 16 << 20;

/// The meshmint of one namespace.
#[derive(Debug, Clone)]
pub struct Installation {
    api: Arc<ApiServer>,
    namespace: String,
}

/// One of its pods, which runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningPod {
    /// Its name.
    pub name: String,
    /// Whether it says that it can serve.
    pub ready: bool,
    /// The port of its admin API, where it has one.
    pub admin_port: Option<u16>,
}

impl Installation {
    /// Reads the credentials; nothing is asked yet.
    ///
    /// # Errors
    /// [`ApiError::Access`].
    pub async fn connect(access: &Access, namespace: &str, clock: Arc<dyn Clock>) -> Result<Self, ApiError> {
        Ok(Self { api: ApiServer::connect(access, clock).await?, namespace: namespace.to_owned() })
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The pods that run, those that are ready first.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn pods(&self) -> Result<Vec<RunningPod>, ApiError> {
        let list: List = self.get(&format!("pods?labelSelector={SELECTOR}&limit={MOST_PODS}")).await?;
        let mut pods: Vec<_> = list.items.into_iter().filter_map(PodObject::running).collect();
        pods.sort_by(|one, other| (!one.ready, &one.name).cmp(&(!other.ready, &other.name)));
        Ok(pods)
    }

    /// The roots of the mesh, PEM, from the ConfigMap in its namespace; `None` where there are none.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn roots(&self) -> Result<Option<String>, ApiError> {
        match self.get::<ConfigMap>(&format!("configmaps/{ROOT_CONFIG_MAP}")).await {
            Ok(mut map) => Ok(map.data.remove(ROOT_KEY)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A token of a service account (namespace and name) for this audience, good for ten minutes.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn token(&self, account: (&str, &str), audience: &str) -> Result<String, ApiError> {
        Ok(service_account_token::request(&self.api, account, Some(audience), TOKEN_LIFETIME, PATIENCE).await?.token)
    }

    /// A stream to a port of one of its pods.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn open(&self, pod: &str, port: u16) -> Result<Forwarded, ApiError> {
        self.api.forward(&self.namespace, pod, port, PATIENCE).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        let request = Request::get(format!("/api/v1/namespaces/{}/{path}", self.namespace)).body(Vec::new());
        self.api.read(request.map_err(|error| ApiError::Access(error.to_string()))?, MAX_BYTES, PATIENCE).await
    }
}

#[derive(Deserialize)]
struct ConfigMap {
    #[serde(default)]
    data: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct List {
    items: Vec<PodObject>,
}

#[derive(Deserialize)]
struct PodObject {
    metadata: Metadata,
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    #[serde(rename = "deletionTimestamp")]
    deletion: Option<String>,
}

#[derive(Deserialize)]
struct Spec {
    containers: Vec<Container>,
}

#[derive(Deserialize)]
struct Container {
    #[serde(default)]
    ports: Vec<Port>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    #[serde(default)]
    name: String,
    container_port: u16,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    phase: String,
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

impl PodObject {
    fn running(self) -> Option<RunningPod> {
        if self.status.phase != "Running" || self.metadata.deletion.is_some() {
            return None;
        }
        let ready = self.status.conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True");
        let mut ports = self.spec.containers.into_iter().flat_map(|container| container.ports);
        let admin_port = ports.find(|port| port.name == ADMIN_PORT).map(|port| port.container_port);
        Some(RunningPod { name: self.metadata.name, ready, admin_port })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn seen(metadata: &Value, phase: &str, ready: &str) -> Option<RunningPod> {
        let object = json!({
            "metadata": metadata, "spec": {"containers": [{}, {"ports": [{"containerPort": 1}, {"name": "tls-admin", "containerPort": 8444}]}]},
            "status": {"phase": phase, "conditions": [{"type": "Other", "status": "True"}, {"type": "Ready", "status": ready}]},
        });
        serde_json::from_value::<PodObject>(object).unwrap().running()
    }

    #[test]
    fn only_what_runs_can_be_asked() {
        let pod = |ready| Some(RunningPod { name: "a".to_owned(), ready, admin_port: Some(8444) });
        assert_eq!(seen(&json!({"name": "a"}), "Running", "True"), pod(true));
        assert_eq!(seen(&json!({"name": "a"}), "Running", "False"), pod(false));
        assert_eq!(seen(&json!({"name": "a"}), "Pending", "False"), None);
        assert_eq!(seen(&json!({"name": "a"}), "Succeeded", "True"), None);
        assert_eq!(seen(&json!({"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"}), "Running", "True"), None);
        let bare = json!({"metadata": {"name": "a"}, "spec": {"containers": [{}]}, "status": {"phase": "Running"}});
        let bare = serde_json::from_value::<PodObject>(bare).unwrap().running();
        assert_eq!(bare, Some(RunningPod { name: "a".to_owned(), ready: false, admin_port: None }));
    }
}
