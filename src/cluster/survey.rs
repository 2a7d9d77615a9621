//! What a cluster says about a mesh, read once for `meshmint check --kube`, with the rights of whoever runs it. Only reading: verdicts are the
//! command's. Each part can fail by itself (a person may see Deployments and not webhooks), so each is a result of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::api_server::{Access, ApiError, ApiServer};
use crate::clock::Clock;

/// The ConfigMap that every namespace's workloads take their roots from, and its key.
pub(super) const ROOT_CONFIG_MAP: &str = "istio-ca-root-cert";
pub(super) const ROOT_KEY: &str = "root-cert.pem";
/// Objects on a page, pages of a list, bytes of a page, time for one.
const PAGE: u32 = 250;
const MOST_PAGES: u32 = 200;
const MAX_BYTES: usize = 16 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

/// What was found. Names are Kubernetes names.
#[derive(Debug)]
pub struct Survey {
    /// Namespaces that take part, each with the roots that it has (`istio-ca-root-cert`).
    pub namespaces: Result<Vec<NamespaceRoots>, ApiError>,
    /// istiod's Deployments, and ztunnel's DaemonSets.
    pub istiods: Result<Vec<Program>, ApiError>,
    /// See `istiods`.
    pub ztunnels: Result<Vec<Program>, ApiError>,
    /// Configurations of istiod's webhooks.
    pub webhooks: Result<Vec<Webhook>, ApiError>,
    /// What istiod's injectors tell sidecars to ask.
    pub injectors: Result<Vec<Injector>, ApiError>,
    /// What our own account lacks: `verb resource.group`.
    pub lacking: Result<Vec<String>, ApiError>,
}

/// One namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceRoots {
    /// Its name.
    pub name: String,
    /// The roots, PEM; `None` where there are none.
    pub roots: Option<String>,
}

/// A program of the mesh: the containers' environment as far as it is written there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// NAMESPACE/NAME.
    pub name: String,
    /// Its variables.
    pub env: BTreeMap<String, String>,
}

/// One configuration of webhooks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Its name.
    pub name: String,
    /// The roots that the API server verifies istiod with, PEM, of each webhook in it; empty where istiod has not written any.
    pub ca_bundles: Vec<String>,
}

/// One injector's values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injector {
    /// NAMESPACE/NAME of its ConfigMap.
    pub name: String,
    /// HOST:PORT that sidecars ask; empty: istiod.
    pub ca_address: String,
}

/// A permission: verb, API group, resource.
pub type Needed = (&'static str, &'static str, &'static str);

/// Namespaces that no mesh is in.
const NOT_IN_A_MESH: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// Reads everything. `account` is NAMESPACE/NAME of our service account, which needs `needed`.
///
/// # Errors
/// [`ApiError`] where the cluster can't be asked at all.
pub async fn survey(access: &Access, account: (&str, &str), needed: &[Needed], clock: Arc<dyn Clock>) -> Result<Survey, ApiError> {
    let api = ApiServer::connect(access, clock).await?;
    let reader = Reader(&api);
    // Whether it answers: anybody may ask for its version.
    let _: Value = reader.get("/version").await?;
    Ok(Survey {
        namespaces: reader.namespaces().await,
        istiods: reader.programs("deployments", "app=istiod").await,
        ztunnels: reader.programs("daemonsets", "app=ztunnel").await,
        webhooks: reader.webhooks().await,
        injectors: reader.injectors().await,
        lacking: reader.lacking(account, needed).await,
    })
}

struct Reader<'a>(&'a ApiServer);

impl Reader<'_> {
    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        let request = Request::get(path).body(Vec::new()).map_err(|error| ApiError::Access(error.to_string()))?;
        self.0.read(request, MAX_BYTES, PATIENCE).await
    }

    async fn list(&self, path: &str, selector: &str) -> Result<Vec<Object>, ApiError> {
        let (mut all, mut next) = (Vec::new(), String::new());
        for _ in 0..MOST_PAGES {
            let page: List = self.get(&format!("{path}?limit={PAGE}{selector}&continue={next}")).await?;
            all.extend(page.items);
            next = page.metadata.next;
            if next.is_empty() {
                return Ok(all);
            }
        }
        Err(ApiError::Body(MAX_BYTES))
    }

    async fn namespaces(&self) -> Result<Vec<NamespaceRoots>, ApiError> {
        let namespaces = self.list("/api/v1/namespaces", "").await?;
        let maps = self.list("/api/v1/configmaps", &format!("&fieldSelector=metadata.name%3D{ROOT_CONFIG_MAP}")).await?;
        let mut roots: BTreeMap<String, String> =
            maps.into_iter().filter_map(|mut map| Some((map.metadata.namespace, map.data.remove(ROOT_KEY)?))).collect();
        let live = |namespace: &Object| !NOT_IN_A_MESH.contains(&namespace.metadata.name.as_str()) && namespace.metadata.deletion.is_none();
        let found = namespaces.into_iter().filter(live).map(|namespace| namespace.metadata.name);
        Ok(found.map(|name| NamespaceRoots { roots: roots.remove(&name), name }).collect())
    }

    async fn programs(&self, kind: &str, labels: &str) -> Result<Vec<Program>, ApiError> {
        let labels = labels.replace('=', "%3D");
        let found = self.list(&format!("/apis/apps/v1/{kind}"), &format!("&labelSelector={labels}")).await?;
        let program = |object: Object| {
            let containers = object.spec.template.spec.containers.into_iter().flat_map(|container| container.env);
            let env = containers.filter_map(|variable| Some((variable.name, variable.value?))).collect();
            Program { name: object.metadata.full_name(), env }
        };
        Ok(found.into_iter().map(program).collect())
    }

    async fn webhooks(&self) -> Result<Vec<Webhook>, ApiError> {
        let mut all = Vec::new();
        for (kind, labels) in [("mutatingwebhookconfigurations", "app%3Dsidecar-injector"), ("validatingwebhookconfigurations", "app%3Distiod")] {
            let found = self.list(&format!("/apis/admissionregistration.k8s.io/v1/{kind}"), &format!("&labelSelector={labels}")).await?;
            all.extend(found.into_iter().map(|object| {
                let bundles = object.webhooks.into_iter().map(|webhook| webhook.client_config.ca_bundle.unwrap_or_default());
                // What isn't base64 of text isn't PEM either.
                let bundles = bundles.map(|bundle| STANDARD.decode(bundle).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default());
                Webhook { name: object.metadata.name, ca_bundles: bundles.collect() }
            }));
        }
        Ok(all)
    }

    /// The injector's values are JSON in a ConfigMap that is named after the revision.
    async fn injectors(&self) -> Result<Vec<Injector>, ApiError> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Values {
            global: Global,
        }
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct Global {
            ca_address: String,
        }
        let maps = self.list("/api/v1/configmaps", "&labelSelector=istio.io%2Frev").await?;
        let injector = |mut map: Object| {
            let values = map.data.remove("values").filter(|_| map.metadata.name.starts_with("istio-sidecar-injector"))?;
            let values: Values = serde_json::from_str(&values).unwrap_or_default();
            Some(Injector { name: map.metadata.full_name(), ca_address: values.global.ca_address })
        };
        Ok(maps.into_iter().filter_map(injector).collect())
    }

    async fn lacking(&self, (namespace, name): (&str, &str), needed: &[Needed]) -> Result<Vec<String>, ApiError> {
        #[derive(Deserialize)]
        struct Review {
            status: Status,
        }
        #[derive(Deserialize)]
        struct Status {
            #[serde(default)]
            allowed: bool,
        }
        let mut lacking = Vec::new();
        for (verb, group, resource) in needed {
            let body = json!({
                "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
                "spec": {
                    "user": format!("system:serviceaccount:{namespace}:{name}"),
                    "groups": ["system:serviceaccounts", format!("system:serviceaccounts:{namespace}"), "system:authenticated"],
                    "resourceAttributes": { "verb": verb, "group": group, "resource": resource },
                },
            });
            let request = Request::post("/apis/authorization.k8s.io/v1/subjectaccessreviews").header("content-type", "application/json");
            let request = request.body(body.to_string().into_bytes()).map_err(|error| ApiError::Access(error.to_string()))?;
            let Review { status } = self.0.read(request, MAX_BYTES, PATIENCE).await?;
            if !status.allowed {
                let dot = if group.is_empty() { "" } else { "." };
                lacking.push(format!("{verb} {resource}{dot}{group}"));
            }
        }
        Ok(lacking)
    }
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    metadata: ListMetadata,
    items: Vec<Object>,
}

#[derive(Default, Deserialize)]
struct ListMetadata {
    #[serde(default, rename = "continue")]
    next: String,
}

/// The few fields of any object that are looked at.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Object {
    metadata: Metadata,
    #[serde(default)]
    data: BTreeMap<String, String>,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    webhooks: Vec<WebhookObject>,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default, rename = "deletionTimestamp")]
    deletion: Option<String>,
}

impl Metadata {
    fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

#[derive(Default, Deserialize)]
struct Spec {
    #[serde(default)]
    template: Template,
}

#[derive(Default, Deserialize)]
struct Template {
    #[serde(default)]
    spec: PodSpec,
}

#[derive(Default, Deserialize)]
struct PodSpec {
    #[serde(default)]
    containers: Vec<Container>,
}

#[derive(Deserialize)]
struct Container {
    #[serde(default)]
    env: Vec<Variable>,
}

#[derive(Deserialize)]
struct Variable {
    name: String,
    value: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WebhookObject {
    #[serde(default)]
    client_config: ClientConfig,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientConfig {
    ca_bundle: Option<String>,
}
