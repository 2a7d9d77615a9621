//! Who signs a mesh's certificates now, and what is to be known for handing that over: the Secrets with istiod's CA (their certificates only),
//! istio-csr and its issuer, the mesh's configuration, the cluster's token issuer.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::reader::{Metadata, Object, Reader, SecretObject};
use super::{tag_of, text};
use crate::cluster::api_server::ApiError;

/// What was found; parts that could not be read say why.
#[derive(Debug)]
pub struct Signing {
    /// The meshes' configuration, one for each revision.
    pub meshes: Result<Vec<MeshConfig>, ApiError>,
    /// For each of istiod's namespaces the Secrets that istiod may sign with.
    pub secrets: BTreeMap<String, Result<Vec<CaSecret>, ApiError>>,
    /// For each of them the Secret that istiod serves with.
    pub istiod_tls: BTreeMap<String, Result<Option<IstiodTls>, ApiError>>,
    /// istio-csr, where it runs.
    pub istio_csr: Result<Option<IstioCsr>, ApiError>,
    /// The issuer of the cluster's tokens.
    pub token_issuer: Result<String, ApiError>,
    /// The clusters that istiod knows from Secrets.
    pub remote_clusters: Result<Vec<String>, ApiError>,
}

/// istiod's configuration, as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MeshConfig {
    /// NAMESPACE/NAME of its ConfigMap.
    pub name: String,
    /// Empty: `cluster.local`.
    pub trust_domain: String,
    /// Variables of every proxy.
    pub proxy_metadata: BTreeMap<String, String>,
}

/// A Secret with a CA's certificates, PEM; its key is not read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaSecret {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whether its entries are called as in a Secret of the type `kubernetes.io/tls`, not as Istio calls them.
    pub is_tls: bool,
    /// The CA's certificate.
    pub certificate: Option<String>,
    /// Its chain.
    pub chain: Option<String>,
    /// The roots beside it.
    pub roots: Option<String>,
    /// Whether istiod made it itself, under the name of a plugged-in one.
    pub is_generated: bool,
    /// The Certificate of cert-manager's that keeps it.
    pub cert_manager: Option<String>,
}

/// Whose the Secret `istiod-tls` is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IstiodTls {
    /// meshmint's.
    Ours,
    /// A Certificate of cert-manager's.
    CertManager(String),
    /// Nobody says.
    Unknown,
}

/// istio-csr as it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IstioCsr {
    /// Its namespace.
    pub namespace: String,
    /// Its Deployment.
    pub name: String,
    /// Its Helm release.
    pub release: Option<String>,
    /// The tag of its image.
    pub tag: Option<String>,
    /// Its flags, without `--`.
    pub flags: BTreeMap<String, String>,
    /// What it has certificates signed by.
    pub issuer: Result<CertManagerIssuer, ApiError>,
}

/// An issuer of cert-manager's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertManagerIssuer {
    /// `Issuer`, `ClusterIssuer`, or of another group.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The Secret with its CA; `None` where the issuer is of another type, so that its key is elsewhere.
    pub secret: Option<Result<CaSecret, ApiError>>,
}

/// Where cert-manager looks for the Secrets of ClusterIssuers, unless it was told otherwise.
const CLUSTER_RESOURCES: &str = "cert-manager";

#[derive(Deserialize)]
struct MetadataOnly {
    metadata: Metadata,
}

impl Reader<'_> {
    pub(super) async fn signing(&self, istiods: &[&str]) -> Signing {
        let (mut secrets, mut istiod_tls) = (BTreeMap::new(), BTreeMap::new());
        for namespace in istiods {
            secrets.insert((*namespace).to_owned(), self.istiod_secrets(namespace).await);
            istiod_tls.insert((*namespace).to_owned(), self.istiod_tls(namespace).await);
        }
        Signing {
            meshes: self.meshes(istiods).await,
            secrets,
            istiod_tls,
            istio_csr: self.istio_csr().await,
            token_issuer: self.token_issuer().await,
            remote_clusters: self.remote_clusters(istiods).await,
        }
    }

    async fn meshes(&self, istiods: &[&str]) -> Result<Vec<MeshConfig>, ApiError> {
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct Mesh {
            trust_domain: String,
            default_config: DefaultConfig,
        }
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct DefaultConfig {
            proxy_metadata: BTreeMap<String, serde_json::Value>,
        }
        let maps: Vec<Object> = self.list("/api/v1/configmaps", "&labelSelector=istio.io%2Frev").await?;
        let mesh = |mut map: Object| {
            let yaml = map.data.remove("mesh")?;
            // What istiod can't read either has its defaults.
            let Mesh { trust_domain, default_config } = serde_saphyr::from_str(&yaml).unwrap_or_default();
            let words = |value: serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let proxy_metadata = default_config.proxy_metadata.into_iter().map(|(name, value)| (name, words(value))).collect();
            Some(MeshConfig { name: map.metadata.full_name(), trust_domain, proxy_metadata })
        };
        let of_istiod = |map: &Object| istiods.contains(&map.metadata.namespace.as_str());
        Ok(maps.into_iter().filter(of_istiod).filter_map(mesh).collect())
    }

    /// What istiod looks for, in its order.
    async fn istiod_secrets(&self, namespace: &str) -> Result<Vec<CaSecret>, ApiError> {
        let mut found = Vec::new();
        for name in ["cacerts", "istio-ca-secret"] {
            found.extend(self.ca_secret(namespace, name).await?);
        }
        Ok(found)
    }

    async fn ca_secret(&self, namespace: &str, name: &str) -> Result<Option<CaSecret>, ApiError> {
        let found: Option<SecretObject> = self.find(&format!("/api/v1/namespaces/{namespace}/secrets/{name}")).await?;
        let secret = |SecretObject { mut metadata, data }: SecretObject| {
            let text = |base64: Option<String>| base64.and_then(|base64| text(&base64)).filter(|pem| !pem.trim().is_empty());
            // istiod looks for this form first.
            let is_tls = data.tls.is_some();
            let (certificate, chain, roots) =
                if is_tls { (data.tls.clone(), data.tls, data.tls_root) } else { (data.ca_cert, data.chain, data.roots) };
            CaSecret {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                is_tls,
                certificate: text(certificate),
                chain: text(chain),
                roots: text(roots),
                is_generated: data.generated.is_some(),
                cert_manager: metadata.annotations.remove(CERTIFICATE_NAME),
            }
        };
        Ok(found.map(secret))
    }

    async fn istiod_tls(&self, namespace: &str) -> Result<Option<IstiodTls>, ApiError> {
        let found: Option<MetadataOnly> = self.find_metadata(&format!("/api/v1/namespaces/{namespace}/secrets/istiod-tls")).await?;
        Ok(found.map(|MetadataOnly { mut metadata }| match metadata.annotations.remove(CERTIFICATE_NAME) {
            _ if metadata.annotations.contains_key("meshmint.io/bundle-number") => IstiodTls::Ours,
            Some(certificate) => IstiodTls::CertManager(certificate),
            None => IstiodTls::Unknown,
        }))
    }

    /// Its Deployment is found by its image: the chart's name can be changed.
    async fn istio_csr(&self) -> Result<Option<IstioCsr>, ApiError> {
        let deployments: Vec<Object> = self.list("/apis/apps/v1/deployments", "").await?;
        for Object { mut metadata, spec, .. } in deployments {
            // One without pods signs nothing.
            if spec.replicas == Some(0) {
                continue;
            }
            let mut containers = spec.template.spec.containers.into_iter();
            let Some(container) = containers.find(|container| container.image.contains("istio-csr")) else { continue };
            let tag = tag_of(&container);
            let flag = |argument: String| argument.strip_prefix("--")?.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
            let flags: BTreeMap<String, String> = container.args.into_iter().filter_map(flag).collect();
            let issuer = self.issuer(&flags).await;
            let release = metadata.annotations.remove("meta.helm.sh/release-name");
            return Ok(Some(IstioCsr { namespace: metadata.namespace, name: metadata.name, release, tag, flags, issuer }));
        }
        Ok(None)
    }

    /// The issuer that its flags name, unless its run-time configuration names one.
    async fn issuer(&self, flags: &BTreeMap<String, String>) -> Result<CertManagerIssuer, ApiError> {
        #[derive(Deserialize)]
        struct Issuer {
            #[serde(default)]
            spec: IssuerSpec,
        }
        #[derive(Default, Deserialize)]
        struct IssuerSpec {
            ca: Option<CaSpec>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct CaSpec {
            #[serde(default)]
            secret_name: String,
        }
        let flag = |name: &str| flags.get(name).cloned().unwrap_or_default();
        let (mut name, mut kind, mut group) = (flag("issuer-name"), flag("issuer-kind"), flag("issuer-group"));
        let (map, namespace) = (flag("runtime-issuance-config-map-name"), flag("runtime-issuance-config-map-namespace"));
        if !map.is_empty() {
            let map: Option<Object> = self.find(&format!("/api/v1/namespaces/{namespace}/configmaps/{map}")).await?;
            if let Some(Object { mut data, .. }) = map {
                let mut take = |key: &str| data.remove(key).unwrap_or_default();
                (name, kind, group) = (take("issuer-name"), take("issuer-kind"), take("issuer-group"));
            }
        }
        let of_cert_manager = group.is_empty() || group == "cert-manager.io";
        let (path, namespace) = match kind.as_str() {
            "ClusterIssuer" => ("clusterissuers".to_owned(), CLUSTER_RESOURCES.to_owned()),
            _ => (format!("namespaces/{}/issuers", flag("certificate-namespace")), flag("certificate-namespace")),
        };
        let mut secret = None;
        if of_cert_manager && !name.is_empty() {
            let Issuer { spec } = self.get(&format!("/apis/cert-manager.io/v1/{path}/{name}")).await?;
            if let Some(CaSpec { secret_name }) = spec.ca {
                let missing = || ApiError::Status { code: 404, message: format!("secrets \"{secret_name}\" not found in {namespace}") };
                secret = Some(self.ca_secret(&namespace, &secret_name).await.and_then(|found| found.ok_or_else(missing)));
            }
        }
        let kind = if of_cert_manager { kind } else { format!("{kind}.{group}") };
        Ok(CertManagerIssuer { kind, name, secret })
    }

    async fn token_issuer(&self) -> Result<String, ApiError> {
        #[derive(Deserialize)]
        struct Discovery {
            issuer: String,
        }
        self.get("/.well-known/openid-configuration").await.map(|Discovery { issuer }| issuer)
    }

    /// By their annotation; the Secrets hold credentials, which are not asked for.
    async fn remote_clusters(&self, istiods: &[&str]) -> Result<Vec<String>, ApiError> {
        let mut secrets = Vec::new();
        for namespace in istiods {
            let path = format!("/api/v1/namespaces/{namespace}/secrets");
            secrets.extend(self.list_metadata::<MetadataOnly>(&path, "&labelSelector=istio%2FmultiCluster%3Dtrue").await?);
        }
        let name = |MetadataOnly { mut metadata }: MetadataOnly| metadata.annotations.remove("networking.istio.io/cluster").unwrap_or(metadata.name);
        Ok(secrets.into_iter().map(name).collect())
    }
}

/// cert-manager's mark of what it keeps.
const CERTIFICATE_NAME: &str = "cert-manager.io/certificate-name";
