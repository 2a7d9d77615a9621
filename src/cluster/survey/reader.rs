//! Reading objects for a survey: pages of lists, and of every object only the fields that matter. Of a Secret only certificates are taken out of the
//! answer; a private key in it is never part of a value here.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{Request, header};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use crate::cluster::api_server::{ApiError, ApiServer};

/// Objects on a page, pages of a list, bytes of a page, time for one.
const PAGE: u32 = 250;
const MOST_PAGES: u32 = 200;
pub(super) const MAX_BYTES: usize = 16 << 20;
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Whole objects, or what every object has.
const WHOLE: &str = "application/json";
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// Reads from one API server.
pub(super) struct Reader<'a>(pub(super) &'a ApiServer);

impl Reader<'_> {
    /// One object.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.get_as(path, WHOLE).await
    }

    async fn get_as<T: DeserializeOwned>(&self, path: &str, accept: &str) -> Result<T, ApiError> {
        let request = Request::get(path).header(header::ACCEPT, accept).body(Vec::new());
        self.0.read(request.map_err(|error| ApiError::Access(error.to_string()))?, MAX_BYTES, PATIENCE).await
    }

    /// One object; none where it isn't there.
    pub(super) async fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, ApiError> {
        or_none(self.get(path).await)
    }

    /// Its metadata only: the API server leaves out what a Secret holds.
    pub(super) async fn find_metadata<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, ApiError> {
        or_none(self.get_as(path, METADATA).await)
    }

    /// All objects of a kind that fit `selector` (`&labelSelector=…`, or nothing).
    pub(super) async fn list<T: DeserializeOwned>(&self, path: &str, selector: &str) -> Result<Vec<T>, ApiError> {
        self.list_as(path, selector, WHOLE).await
    }

    /// Their metadata only.
    pub(super) async fn list_metadata<T: DeserializeOwned>(&self, path: &str, selector: &str) -> Result<Vec<T>, ApiError> {
        self.list_as(path, selector, METADATA_LIST).await
    }

    async fn list_as<T: DeserializeOwned>(&self, path: &str, selector: &str, accept: &str) -> Result<Vec<T>, ApiError> {
        let (mut all, mut next) = (Vec::new(), String::new());
        for _ in 0..MOST_PAGES {
            let page: List<T> = self.get_as(&format!("{path}?limit={PAGE}{selector}&continue={next}"), accept).await?;
            all.extend(page.items);
            next = page.metadata.next;
            if next.is_empty() {
                return Ok(all);
            }
        }
        Err(ApiError::Body(MAX_BYTES))
    }

    /// A question by POST.
    pub(super) async fn ask<T: DeserializeOwned>(&self, path: &str, body: &serde_json::Value) -> Result<T, ApiError> {
        let request = Request::post(path).header("content-type", "application/json");
        let request = request.body(body.to_string().into_bytes()).map_err(|error| ApiError::Access(error.to_string()))?;
        self.0.read(request, MAX_BYTES, PATIENCE).await
    }
}

fn or_none<T>(found: Result<T, ApiError>) -> Result<Option<T>, ApiError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

#[derive(Deserialize)]
#[serde(bound = "T: Deserialize<'de>")]
struct List<T> {
    #[serde(default)]
    metadata: ListMetadata,
    // An API server writes an empty list of metadata as null.
    #[serde(deserialize_with = "null_is_empty")]
    items: Vec<T>,
}

fn null_is_empty<'de, D: Deserializer<'de>, T: Deserialize<'de>>(items: D) -> Result<Vec<T>, D::Error> {
    Option::deserialize(items).map(Option::unwrap_or_default)
}

#[derive(Default, Deserialize)]
struct ListMetadata {
    #[serde(default, rename = "continue")]
    next: String,
}

/// The few fields of any object that are looked at.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Object {
    pub(super) metadata: Metadata,
    #[serde(default)]
    pub(super) data: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) spec: Spec,
    #[serde(default)]
    pub(super) webhooks: Vec<WebhookObject>,
}

#[derive(Deserialize)]
pub(super) struct Metadata {
    pub(super) name: String,
    #[serde(default)]
    pub(super) namespace: String,
    #[serde(default, rename = "deletionTimestamp")]
    pub(super) deletion: Option<String>,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
}

impl Metadata {
    pub(super) fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// A Deployment's, a DaemonSet's and so on; a pod's is its `pod`.
#[derive(Default, Deserialize)]
pub(super) struct Spec {
    /// Of a Deployment; the API server fills it in.
    #[serde(default)]
    pub(super) replicas: Option<u32>,
    #[serde(default)]
    pub(super) template: Template,
}

#[derive(Default, Deserialize)]
pub(super) struct Template {
    #[serde(default)]
    pub(super) spec: PodSpec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodSpec {
    #[serde(default)]
    pub(super) service_account_name: String,
    #[serde(default)]
    pub(super) containers: Vec<Container>,
    #[serde(default)]
    pub(super) init_containers: Vec<Container>,
    #[serde(default)]
    pub(super) volumes: Vec<Volume>,
}

#[derive(Deserialize)]
pub(super) struct Container {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) image: String,
    #[serde(default)]
    pub(super) args: Vec<String>,
    #[serde(default)]
    pub(super) env: Vec<Variable>,
}

impl Container {
    /// A variable that is written there.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.env.iter().find(|variable| variable.name == name)?.value.as_deref()
    }
}

#[derive(Deserialize)]
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) value: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Volume {
    #[serde(default)]
    pub(super) config_map: Option<Source>,
}

#[derive(Deserialize)]
pub(super) struct Source {
    #[serde(default)]
    pub(super) name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WebhookObject {
    #[serde(default)]
    pub(super) client_config: ClientConfig,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ClientConfig {
    pub(super) ca_bundle: Option<String>,
}

/// A pod.
#[derive(Deserialize)]
pub(super) struct Pod {
    pub(super) metadata: Metadata,
    #[serde(default)]
    pub(super) spec: PodSpec,
}

/// A Secret with a CA, without its key.
#[derive(Deserialize)]
pub(super) struct SecretObject {
    pub(super) metadata: Metadata,
    #[serde(default)]
    pub(super) data: Certificates,
}

/// Its certificates, base64 of PEM, in Istio's form and in that of `kubernetes.io/tls`. No field takes a key in.
#[derive(Default, Deserialize)]
pub(super) struct Certificates {
    #[serde(default, rename = "ca-cert.pem")]
    pub(super) ca_cert: Option<String>,
    #[serde(default, rename = "cert-chain.pem")]
    pub(super) chain: Option<String>,
    #[serde(default, rename = "root-cert.pem")]
    pub(super) roots: Option<String>,
    #[serde(default, rename = "tls.crt")]
    pub(super) tls: Option<String>,
    #[serde(default, rename = "ca.crt")]
    pub(super) tls_root: Option<String>,
    /// There in a self-signed CA that istiod keeps under the name `cacerts`.
    #[serde(default, rename = "istio-generated")]
    pub(super) generated: Option<serde::de::IgnoredAny>,
}
