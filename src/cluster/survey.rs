//! What a cluster says about a mesh, read once for `meshmint check --kube` and `meshmint migrate plan`, with the rights of whoever runs it. Only
//! reading: verdicts are the command's. Each part can fail by itself (a person may see Deployments and not webhooks), so each is a result of its own.

mod reader;
mod signing;

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;

use self::reader::{Container, MAX_BYTES, Object, PATIENCE, Pod, Reader};
pub use self::signing::{CaSecret, CertManagerIssuer, IstioCsr, IstiodTls, MeshConfig, Signing};
use super::api_server::{Access, ApiError, ApiServer, parsed};
use crate::clock::Clock;

/// The ConfigMap that every namespace's workloads take their roots from, and its key.
pub(super) const ROOT_CONFIG_MAP: &str = "istio-ca-root-cert";
pub(super) const ROOT_KEY: &str = "root-cert.pem";

/// Namespaces that istiod gives no roots, and nobody else does: no workload of a mesh is there. Not kube-system: ztunnel may live there.
pub const WITHOUT_ROOTS: [&str; 3] = ["kube-public", "kube-node-lease", "local-path-storage"];

/// What was found. Names are Kubernetes names.
#[derive(Debug)]
pub struct Survey {
    /// Namespaces that take part, each with the roots that it has (`istio-ca-root-cert`).
    pub namespaces: Result<Vec<NamespaceRoots>, ApiError>,
    /// istiod's Deployments, and ztunnel's DaemonSets.
    pub istiods: Result<Vec<Program>, ApiError>,
    /// See `istiods`.
    pub ztunnels: Result<Vec<Program>, ApiError>,
    /// Pods with one of Istio's proxies in them, that live.
    pub proxies: Result<Vec<Proxy>, ApiError>,
    /// Configurations of istiod's webhooks.
    pub webhooks: Result<Vec<Webhook>, ApiError>,
    /// What istiod's injectors tell sidecars to ask.
    pub injectors: Result<Vec<Injector>, ApiError>,
}

/// The API server itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiVersion {
    /// As it calls itself, for example `v1.34.1`.
    pub version: String,
    /// What its clock said when it answered, where it says that.
    pub date: Option<OffsetDateTime>,
}

/// One namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceRoots {
    /// Its name.
    pub name: String,
    /// The roots, PEM; `None` where there are none.
    pub roots: Option<String>,
}

/// A program of the mesh: its containers' environment, as far as it is written there, and what it was installed as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Program {
    /// Its namespace.
    pub namespace: String,
    /// Its name there.
    pub object: String,
    /// Its variables.
    pub env: BTreeMap<String, String>,
    /// The tag of its first container's image.
    pub tag: Option<String>,
    /// The service account of its pods.
    pub account: String,
    /// Its revision (label `istio.io/rev`).
    pub revision: Option<String>,
    /// The Helm release that it belongs to.
    pub release: Option<String>,
}

impl Program {
    /// NAMESPACE/NAME.
    pub fn name(&self) -> String {
        format!("{}/{}", self.namespace, self.object)
    }
}

/// A pod with a proxy of Istio's: a sidecar, a gateway or a waypoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Its namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// HOST:PORT that it asks for certificates; empty: istiod.
    pub ca_address: String,
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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Injector {
    /// NAMESPACE/NAME of its ConfigMap.
    pub name: String,
    /// HOST:PORT that sidecars ask; empty: istiod.
    pub ca_address: String,
    /// What the cluster is called; empty: `Kubernetes`.
    pub cluster_name: String,
    /// What agents ask tokens for; empty: `istio-ca`.
    pub audience: String,
}

/// A meshmint that is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// NAMESPACE/NAME of what makes its pods.
    pub name: String,
    /// The tag of its image.
    pub tag: Option<String>,
    /// Its configuration file.
    pub configuration: Option<String>,
}

/// A permission that an account needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Needed {
    /// What is done.
    pub verb: String,
    /// The API group; empty: the core.
    pub group: String,
    /// The resource.
    pub resource: String,
    /// The one object's name; empty: any.
    pub name: String,
    /// In this namespace; empty: in all.
    pub namespace: String,
}

impl std::fmt::Display for Needed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { verb, group, resource, name, namespace } = self;
        write!(formatter, "{verb} {resource}")?;
        if !group.is_empty() {
            write!(formatter, ".{group}")?;
        }
        if !name.is_empty() {
            write!(formatter, "/{name}")?;
        }
        if namespace.is_empty() { Ok(()) } else { write!(formatter, " in {namespace}") }
    }
}

/// Asks one cluster.
#[derive(Debug)]
pub struct Surveyor(Arc<ApiServer>);

impl Surveyor {
    /// Reads the credentials, and asks whether the cluster answers: anybody may ask for its version.
    ///
    /// # Errors
    /// [`ApiError`] where it can't be asked at all.
    pub async fn connect(access: &Access, clock: Arc<dyn Clock>) -> Result<(Self, ApiVersion), ApiError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Version {
            #[serde(default)]
            git_version: String,
        }
        let api = ApiServer::connect(access, clock).await?;
        let request = Request::get("/version").body(Vec::new()).map_err(|error| ApiError::Access(error.to_string()))?;
        let (body, date) = api.ask_dated(request, MAX_BYTES, PATIENCE).await?;
        let Version { git_version: version } = parsed(&body)?;
        Ok((Self(api), ApiVersion { version, date }))
    }

    fn reader(&self) -> Reader<'_> {
        Reader(&self.0)
    }

    /// Reads what there is of a mesh.
    pub async fn mesh(&self) -> Survey {
        let reader = self.reader();
        Survey {
            namespaces: reader.namespaces().await,
            istiods: reader.programs("deployments", "app%3Distiod").await,
            ztunnels: reader.programs("daemonsets", "app%3Dztunnel").await,
            proxies: reader.proxies().await,
            webhooks: reader.webhooks().await,
            injectors: reader.injectors().await,
        }
    }

    /// Reads who signs the mesh's certificates. `istiods` are the namespaces that istiod is in.
    pub async fn signing(&self, istiods: &[&str]) -> Signing {
        self.reader().signing(istiods).await
    }

    /// The meshmint that runs as this account.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn installed(&self, (namespace, account): (&str, &str)) -> Result<Option<Installed>, ApiError> {
        self.reader().installed(namespace, account).await
    }

    /// What of `needed` this account lacks.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn lacking<'a>(&self, account: (&str, &str), needed: &'a [Needed]) -> Result<Vec<&'a Needed>, ApiError> {
        let mut lacking = Vec::new();
        for each in needed {
            if !self.reader().may(account, each).await? {
                lacking.push(each);
            }
        }
        Ok(lacking)
    }
}

impl Reader<'_> {
    async fn namespaces(&self) -> Result<Vec<NamespaceRoots>, ApiError> {
        let namespaces: Vec<Object> = self.list("/api/v1/namespaces", "").await?;
        let maps: Vec<Object> = self.list("/api/v1/configmaps", &format!("&fieldSelector=metadata.name%3D{ROOT_CONFIG_MAP}")).await?;
        let mut roots: BTreeMap<String, String> =
            maps.into_iter().filter_map(|mut map| Some((map.metadata.namespace, map.data.remove(ROOT_KEY)?))).collect();
        let live = |namespace: &Object| !WITHOUT_ROOTS.contains(&namespace.metadata.name.as_str()) && namespace.metadata.deletion.is_none();
        let found = namespaces.into_iter().filter(live).map(|namespace| namespace.metadata.name);
        Ok(found.map(|name| NamespaceRoots { roots: roots.remove(&name), name }).collect())
    }

    async fn programs(&self, kind: &str, labels: &str) -> Result<Vec<Program>, ApiError> {
        let found: Vec<Object> = self.list(&format!("/apis/apps/v1/{kind}"), &format!("&labelSelector={labels}")).await?;
        Ok(found.into_iter().map(program).collect())
    }

    async fn proxies(&self) -> Result<Vec<Proxy>, ApiError> {
        let pods: Vec<Pod> = self.list("/api/v1/pods", "&fieldSelector=status.phase%21%3DSucceeded,status.phase%21%3DFailed").await?;
        let proxy = |Pod { metadata, spec }: Pod| {
            // A sidecar of Kubernetes' own kind is among the first.
            let container = spec.containers.iter().chain(&spec.init_containers).find(|container| container.name == "istio-proxy");
            // ztunnel's container has that name, too; it is told of elsewhere.
            let container = container.filter(|container| container.variable("CA_ADDRESS").is_none())?;
            let ca_address = container.variable("CA_ADDR").unwrap_or_default().to_owned();
            Some(Proxy { namespace: metadata.namespace, pod: metadata.name, ca_address })
        };
        Ok(pods.into_iter().filter_map(proxy).collect())
    }

    async fn webhooks(&self) -> Result<Vec<Webhook>, ApiError> {
        let mut all = Vec::new();
        for (kind, labels) in [("mutatingwebhookconfigurations", "app%3Dsidecar-injector"), ("validatingwebhookconfigurations", "app%3Distiod")] {
            let path = format!("/apis/admissionregistration.k8s.io/v1/{kind}");
            let found: Vec<Object> = self.list(&path, &format!("&labelSelector={labels}")).await?;
            all.extend(found.into_iter().map(|object| {
                let bundles = object.webhooks.into_iter().map(|webhook| webhook.client_config.ca_bundle.unwrap_or_default());
                Webhook { name: object.metadata.name, ca_bundles: bundles.map(|bundle| text(&bundle).unwrap_or_default()).collect() }
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
            multi_cluster: MultiCluster,
            sds: Sds,
        }
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct MultiCluster {
            cluster_name: String,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Sds {
            token: Token,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Token {
            aud: String,
        }
        let maps: Vec<Object> = self.list("/api/v1/configmaps", "&labelSelector=istio.io%2Frev").await?;
        let injector = |mut map: Object| {
            let values = map.data.remove("values").filter(|_| map.metadata.name.starts_with("istio-sidecar-injector"))?;
            let Global { ca_address, multi_cluster, sds } = serde_json::from_str::<Values>(&values).unwrap_or_default().global;
            Some(Injector { name: map.metadata.full_name(), ca_address, cluster_name: multi_cluster.cluster_name, audience: sds.token.aud })
        };
        Ok(maps.into_iter().filter_map(injector).collect())
    }

    /// The workload that runs as the account, and the configuration that it mounts: an installation leaves older ones beside it.
    async fn installed(&self, namespace: &str, account: &str) -> Result<Option<Installed>, ApiError> {
        for kind in ["statefulsets", "deployments"] {
            let found: Vec<Object> = self.list(&format!("/apis/apps/v1/namespaces/{namespace}/{kind}"), "").await?;
            for object in found {
                let spec = &object.spec.template.spec;
                if spec.service_account_name != account {
                    continue;
                }
                let mut configuration = None;
                for map in spec.volumes.iter().filter_map(|volume| volume.config_map.as_ref()) {
                    let path = format!("/api/v1/namespaces/{namespace}/configmaps/{}", map.name);
                    configuration = configuration.or(self.find(&path).await?.and_then(|mut map: Object| map.data.remove("meshmint.yaml")));
                }
                let program = program(object);
                return Ok(Some(Installed { name: program.name(), tag: program.tag, configuration }));
            }
        }
        Ok(None)
    }

    async fn may(&self, (namespace, name): (&str, &str), needed: &Needed) -> Result<bool, ApiError> {
        #[derive(Deserialize)]
        struct Review {
            status: Status,
        }
        #[derive(Deserialize)]
        struct Status {
            #[serde(default)]
            allowed: bool,
        }
        let body = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {
                "user": format!("system:serviceaccount:{namespace}:{name}"),
                "groups": ["system:serviceaccounts", format!("system:serviceaccounts:{namespace}"), "system:authenticated"],
                "resourceAttributes": {
                    "verb": needed.verb, "group": needed.group, "resource": needed.resource, "name": needed.name, "namespace": needed.namespace,
                },
            },
        });
        let Review { status } = self.ask("/apis/authorization.k8s.io/v1/subjectaccessreviews", &body).await?;
        Ok(status.allowed)
    }
}

fn program(object: Object) -> Program {
    let Object { mut metadata, spec, .. } = object;
    let spec = spec.template.spec;
    let tag = spec.containers.first().and_then(tag_of);
    let env = spec.containers.into_iter().flat_map(|container| container.env);
    Program {
        env: env.filter_map(|variable| Some((variable.name, variable.value?))).collect(),
        tag,
        account: spec.service_account_name,
        revision: metadata.labels.remove("istio.io/rev"),
        release: metadata.annotations.remove("meta.helm.sh/release-name"),
        namespace: metadata.namespace,
        object: metadata.name,
    }
}

/// The tag of `HOST:PORT/NAME:TAG@DIGEST`.
fn tag_of(container: &Container) -> Option<String> {
    let image = container.image.split('@').next()?;
    let name = image.rsplit('/').next()?;
    name.split_once(':').map(|(_, tag)| tag.to_owned())
}

/// What isn't base64 of text isn't PEM either.
fn text(base64: &str) -> Option<String> {
    String::from_utf8(STANDARD.decode(base64).ok()?).ok()
}
