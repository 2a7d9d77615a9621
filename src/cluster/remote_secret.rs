//! The Secret that names another cluster (`remote` reads it): a kubeconfig with a token of our account there, by the TokenRequest API. Called by
//! `meshmint cluster secret`, with the operator's credentials for that cluster.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::config::Kubeconfig;
use serde_json::json;

use super::api_server::{Access, ApiError, ApiServer};
use super::service_account_token::{self, Token};
use crate::clock::Clock;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct RemoteSecret<'a> {
    /// The operator's kubeconfig; its current context is the other cluster.
    pub kubeconfig: &'a Path,
    /// The name of that cluster, as its agents send it.
    pub cluster: &'a str,
    /// Its API server as we reach it, where that differs from the kubeconfig's.
    pub server: Option<&'a str>,
    /// Our account there.
    pub namespace: &'a str,
    /// Its name.
    pub service_account: &'a str,
    /// The namespace of the Secret here.
    pub secret_namespace: &'a str,
    /// How long the token shall live; the API server may cut it.
    pub lifetime: Duration,
}

/// A Secret, ready to be applied.
#[derive(Debug)]
pub struct MadeSecret {
    /// Its manifest (YAML), with the token in it.
    pub manifest: String,
    /// When the token expires, as the API server says.
    pub expires: String,
}

/// How long a question may take.
const PATIENCE: Duration = Duration::from_secs(15);

impl RemoteSecret<'_> {
    /// Asks for the token and writes the manifest.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn make(&self, clock: Arc<dyn Clock>) -> Result<MadeSecret, ApiError> {
        let refused = |reason: &str| ApiError::Access(reason.to_owned());
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if self.cluster.is_empty() || self.cluster.len() > 200 || !self.cluster.bytes().all(fits) {
            return Err(refused("a cluster's name has letters, digits, '-', '.' and '_'"));
        }
        let (server, authority) = self.place()?;
        let api = ApiServer::connect(&Access::Kubeconfig(self.kubeconfig.to_owned()), clock).await?;
        let account = (self.namespace, self.service_account);
        let Token { token, expiration_timestamp } = service_account_token::request(&api, account, None, self.lifetime, PATIENCE).await?;
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "remote",
            "clusters": [{"name": "remote", "cluster": {"server": server, "certificate-authority-data": authority}}],
            "contexts": [{"name": "remote", "context": {"cluster": "remote", "user": "meshmint"}}],
            "users": [{"name": "meshmint", "user": {"token": token}}],
        });
        // JSON is YAML: nothing of it needs another quoting.
        let manifest = format!(
            "apiVersion: v1\nkind: Secret\nmetadata:\n  name: meshmint-cluster-{}\n  namespace: {}\n  labels:\n    istio/multiCluster: \"true\"\n  \
             annotations:\n    networking.istio.io/cluster: \"{}\"\ntype: Opaque\ndata:\n  \"{}\": {}\n",
            self.cluster.to_lowercase().replace('_', "-"),
            self.secret_namespace,
            self.cluster,
            self.cluster,
            STANDARD.encode(kubeconfig.to_string())
        );
        Ok(MadeSecret { manifest, expires: expiration_timestamp })
    }

    /// The API server's address, and the roots that it is verified with (base64 of PEM).
    fn place(&self) -> Result<(String, String), ApiError> {
        let refused = |reason: &str| ApiError::Access(reason.to_owned());
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig).map_err(|error| super::api_server::unreadable(&error))?;
        let current = kubeconfig.current_context.as_deref().ok_or_else(|| refused("the kubeconfig has no current context"))?;
        let context = kubeconfig.contexts.iter().find(|named| named.name == current).and_then(|named| named.context.as_ref());
        let context = context.ok_or_else(|| refused("the kubeconfig lacks its current context"))?;
        let cluster = kubeconfig.clusters.iter().find(|named| named.name == context.cluster).and_then(|named| named.cluster.as_ref());
        let cluster = cluster.ok_or_else(|| refused("the kubeconfig lacks the cluster of its current context"))?;
        let server = self.server.map(str::to_owned).or_else(|| cluster.server.clone()).ok_or_else(|| refused("the kubeconfig has no server"))?;
        let authority = match (&cluster.certificate_authority_data, &cluster.certificate_authority) {
            (Some(encoded), _) => encoded.clone(),
            (None, Some(path)) => STANDARD.encode(std::fs::read(path).map_err(|error| ApiError::Access(format!("{path}: {error}")))?),
            (None, None) => return Err(refused("the kubeconfig has no certificate authority of the cluster")),
        };
        Ok((server, authority))
    }
}
