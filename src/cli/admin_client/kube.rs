//! `--kube`: the admin API of a meshmint that runs in a cluster, as the person that a kubeconfig names. The API server forwards to the admin port of
//! a pod; what that shows must chain to the roots in the installation's namespace, and it is shown a token of ten minutes of a service account.
//!
//! The person's own credentials never leave for the pod: whoever had them could act as that person in the whole cluster.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, Error as TlsError};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::Channel;

use super::super::csr_client::{CsrClientError, channel};
use super::{HEADING, Unreached};
use crate::clock::SystemClock;
use crate::cluster::{Access, ApiError, Forwarded, Installation};

/// Which cluster, and as whom.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub(in crate::cli) struct KubeArgs {
    /// Ask the meshmint that runs in a cluster, through the cluster's API server, as the person that the kubeconfig names
    #[arg(long, help_heading = HEADING, conflicts_with_all = ["dir", "admin", "address"])]
    pub(in crate::cli) kube: bool,
    /// The kubeconfig for --kube [default: KUBECONFIG, or ~/.kube/config]
    #[arg(long, help_heading = HEADING, value_name = "FILE", requires = "kube")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig for --kube [default: the current one]
    #[arg(long, help_heading = HEADING, value_name = "NAME", requires = "kube")]
    context: Option<String>,
    /// The namespace that meshmint runs in, for --kube
    #[arg(long, help_heading = HEADING, value_name = "NAMESPACE", requires = "kube", default_value = "meshmint-system", value_parser = name)]
    kube_namespace: String,
    /// For --kube: the service account that the admin API is asked as, by a token that is made for it; in the same namespace unless it has one
    #[arg(long, help_heading = HEADING, value_name = "[NAMESPACE/]NAME", requires = "kube", default_value = "meshmint-viewer", value_parser = account)]
    as_service_account: Account,
    /// For --kube: what the token is for (`admin.audience` of the server)
    #[arg(long, help_heading = HEADING, value_name = "TEXT", requires = "kube", default_value = "meshmint-admin")]
    audience: String,
}

/// A service account, with its namespace where one was written.
#[derive(Debug, Clone)]
pub(super) struct Account {
    namespace: Option<String>,
    name: String,
}

/// A part of a path at the API server: lower-case letters, digits, '-' and '.', as Kubernetes names have them (RFC 1123 §2.1).
fn name(text: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    let ends = |text: &str| text.starts_with(['-', '.']) || text.ends_with(['-', '.']);
    if text.is_empty() || text.len() > 253 || !text.bytes().all(fits) || ends(text) {
        return Err("a Kubernetes name has lower-case letters, digits, '-' and '.'".to_owned());
    }
    Ok(text.to_owned())
}

fn account(text: &str) -> Result<Account, String> {
    match text.split_once('/') {
        Some((namespace, account)) => Ok(Account { namespace: Some(name(namespace)?), name: name(account)? }),
        None => Ok(Account { namespace: None, name: name(text)? }),
    }
}

impl KubeArgs {
    /// What the API server is asked with.
    pub(in crate::cli) fn access(&self) -> Access {
        Access::Person { kubeconfig: self.kubeconfig.clone(), context: self.context.clone() }
    }

    /// The name that meshmint's certificate has by default.
    fn server_name(&self) -> String {
        format!("meshmint.{}.svc", self.kube_namespace)
    }

    /// Finds a pod to ask.
    pub(super) async fn find(&self) -> Result<Pod, Unreached> {
        let namespace = &self.kube_namespace;
        let connected = Installation::connect(&self.access(), namespace, SystemClock::shared()).await;
        let installation = connected.map_err(|error| Unreached::NoCluster(error.to_string()))?;
        let found = installation.pods().await;
        let pods = found.map_err(|error| refused(&error, &format!("it needs the verb list on pods in {namespace}")))?;
        if pods.is_empty() {
            return Err(Unreached::Absent(format!(
                "no pod of meshmint runs in namespace {namespace}. Name the one that it is in with --kube-namespace"
            )));
        }
        // One that isn't ready can say why it isn't.
        let Some((name, port)) = pods.into_iter().find_map(|pod| Some((pod.name, pod.admin_port?))) else {
            return Err(Unreached::Absent(format!(
                "meshmint's pods in namespace {namespace} have no admin port. Turn it on: app.admin.enabled of the chart"
            )));
        };
        Ok(Pod { installation, name, admin_port: port })
    }

    /// The roots that are published in the installation's namespace.
    pub(super) async fn roots(&self, pod: &Pod) -> Result<String, Unreached> {
        let namespace = &self.kube_namespace;
        let found = pod.installation.roots().await;
        found
            .map_err(|error| refused(&error, &format!("it needs the verb get on configmaps/istio-ca-root-cert in {namespace}, or --roots")))?
            .ok_or_else(|| {
                Unreached::Unasked(format!(
                    "namespace {namespace} has no ConfigMap istio-ca-root-cert with the roots that meshmint is verified with. Let meshmint write it \
                     (app.controller.rootConfigMap of the chart), or name a file with --roots"
                ))
            })
    }

    /// A token for the admin API.
    pub(super) async fn token(&self, pod: &Pod) -> Result<String, Unreached> {
        let Account { namespace, name } = &self.as_service_account;
        let account = (namespace.as_deref().unwrap_or(&self.kube_namespace), name.as_str());
        let made = pod.installation.token(account, &self.audience).await;
        made.map_err(|error| {
            let (namespace, name) = account;
            let hint = if error.is_not_found() {
                "deploy/kubernetes/admin.yaml has the account meshmint-viewer; another one is named with --as-service-account".to_owned()
            } else {
                format!("it needs the verb create on serviceaccounts/token of {name} in {namespace}, or another account (--as-service-account)")
            };
            refused(&error, &hint)
        })
    }

    /// A channel to the pod's admin port.
    pub(super) async fn connect(&self, pod: &Pod, server_name: Option<&str>, config: ClientConfig) -> Result<Channel, Unreached> {
        let server_name = server_name.map_or_else(|| self.server_name(), str::to_owned);
        let name = ServerName::try_from(server_name.clone()).map_err(|_| Unreached::Trouble(format!("{server_name:?} is no DNS name")))?;
        let tls = TlsConnector::from(Arc::new(config));
        let port = pod.admin_port;
        let open = {
            let pod = pod.clone();
            move || {
                let (pod, tls, name) = (pod.clone(), tls.clone(), name.clone());
                async move { pod.shake_hands(tls, name).await }
            }
        };
        channel(&format!("{server_name}:{port}"), open, SystemClock::shared().as_ref()).await.map_err(|error| {
            Unreached::Trouble(match error {
                CsrClientError::Connect { reason, .. } => format!("{pod}: {reason}"),
                CsrClientError::Silent { .. } => format!("{pod} did not answer in time"),
                other => other.to_string(),
            })
        })
    }
}

/// A pod that runs and has an admin port.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Pod {
    installation: Installation,
    name: String,
    admin_port: u16,
}

impl fmt::Display for Pod {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "pod {}/{}", self.installation.namespace(), self.name)
    }
}

impl Pod {
    /// A stream to a port of it.
    pub(in crate::cli) async fn open(&self, port: u16) -> io::Result<Forwarded> {
        self.installation.open(&self.name, port).await.map_err(|error| {
            let needed = format!("it needs the verbs get and create on pods/portforward in {}", self.installation.namespace());
            io::Error::other(hinted(&error, &needed))
        })
    }

    async fn shake_hands(&self, tls: TlsConnector, name: ServerName<'static>) -> io::Result<TlsStream<Forwarded>> {
        let stream = self.open(self.admin_port).await?;
        tls.connect(name, stream).await.map_err(explained)
    }
}

/// A certificate that doesn't verify, with what to do.
fn explained(error: io::Error) -> io::Error {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    let hint = match cause {
        Some(TlsError::InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. })) => {
            "Say a name that it has with --server-name"
        }
        Some(TlsError::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "The roots are another CA's, as those in ConfigMap istio-ca-root-cert are while istiod writes it: name a file with --roots"
        }
        _ => return error,
    };
    io::Error::other(format!("{error}. {hint}"))
}

/// The cluster could not be asked, or said no: then with what would let it.
fn refused(error: &ApiError, hint: &str) -> Unreached {
    match error {
        ApiError::Status { .. } => Unreached::Unasked(hinted(error, hint)),
        other => Unreached::NoCluster(other.to_string()),
    }
}

fn hinted(error: &ApiError, hint: &str) -> String {
    match error {
        ApiError::Status { code: 403 | 404, .. } => format!("{error}: {hint}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_has_the_installations_namespace_or_its_own() {
        let read = |text: &str| account(text).map(|account| (account.namespace, account.name));
        assert_eq!(read("alice"), Ok((None, "alice".to_owned())));
        assert_eq!(read("people/alice.b"), Ok((Some("people".to_owned()), "alice.b".to_owned())));
        for bad in ["", "/", "a/", "/a", "a/b/c", "a?b", "..", "a/..", "Alice", "a b", "a%2Fb"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
