//! One fetch of an issuer's key set: from a file, an https URL, the API server of our cluster, or by OIDC discovery. Bounded in bytes and time, no redirects, nothing but 200.
//!
//! [`super::KeySets`] decides when, and what a failure means. Files (also a CA file) are read anew each time, so that they can be replaced.

use std::fmt::Display;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::client::WantsClientCert;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use tokio::io::AsyncReadExt as _;

use super::api_server::{ApiError, ApiServer};
use crate::callers::{Json, KeySet, KeySetError, strict_object};
use crate::clock::{Clock, TlsTime, within};
use crate::pki::certificates_from_pem;

/// Where an issuer's keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A file with a JWK Set.
    File(PathBuf),
    /// An https URL of a JWK Set.
    Url {
        /// The URL.
        url: String,
        /// PEM roots to trust instead of the system's.
        ca_file: Option<PathBuf>,
    },
    /// The issuer's own document `{issuer}/.well-known/openid-configuration` says where (OpenID Connect Discovery §4).
    Discovery {
        /// PEM roots to trust instead of the system's.
        ca_file: Option<PathBuf>,
    },
    /// The API server of our cluster, asked with our own credentials.
    ApiServer,
}

/// Why a fetch brought no keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The file with the keys or with the roots.
    #[error("can't read {path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// No roots to verify the server with.
    #[error("no root certificates to verify the key server with: {0}")]
    Roots(String),
    /// Not an https URL with a host.
    #[error("{0:?} is not an https URL")]
    NotHttps(String),
    /// No answer: name resolution, connection, TLS, HTTP.
    #[error("no answer from {url}: {reason}")]
    NoAnswer {
        /// The URL.
        url: String,
        /// The client's words.
        reason: String,
    },
    /// An answer other than 200; redirects are not followed.
    #[error("{url} answered {status} instead of 200")]
    Status {
        /// The URL.
        url: String,
        /// The status.
        status: u16,
    },
    /// The answer or file is too large, or was cut off.
    #[error("the answer of {0} is larger than 1 MiB, or was cut off")]
    Body(String),
    /// It took too long.
    #[error("the keys were not there after {0:?}")]
    TimedOut(Duration),
    /// The discovery document isn't one.
    #[error("{0} is not an OpenID configuration with issuer and jwks_uri")]
    Discovery(String),
    /// The discovery document is of somebody else (OpenID Connect Discovery §4.3).
    #[error("{0} names another issuer than the one it was asked for")]
    OtherIssuer(String),
    /// The cluster's API server.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// What came is no key set.
    #[error(transparent)]
    KeySet(#[from] KeySetError),
}

/// Where the API server publishes the keys of its service-account tokens. Its discovery document names an address that need not be reachable.
const JWKS_PATH: &str = "/openid/v1/jwks";
/// The longest discovery document.
const MAX_DISCOVERY_BYTES: usize = 64 << 10;
const JWKS_TYPE: &str = "application/jwk-set+json, application/json";

/// Fetches the keys of `issuer` once; `api` is our cluster's, where there is one.
pub(super) async fn fetch(
    issuer: &str,
    source: &KeySource,
    api: Option<&ApiServer>,
    clock: &Arc<dyn Clock>,
    limit: Duration,
) -> Result<KeySet, FetchError> {
    let work = async {
        let document = match source {
            KeySource::File(path) => read(path).await?.into(),
            KeySource::Url { url, ca_file } => get(url, ca_file.as_deref(), clock).await?,
            KeySource::Discovery { ca_file } => {
                let jwks_uri = discover(issuer, ca_file.as_deref(), clock).await?;
                get(&jwks_uri, ca_file.as_deref(), clock).await?
            }
            KeySource::ApiServer => {
                let api = api.ok_or_else(|| ApiError::Access("no cluster is configured".to_owned()))?;
                api.document(JWKS_PATH, JWKS_TYPE, KeySet::MAX_BYTES, limit).await?
            }
        };
        Ok(KeySet::from_jwks(&document)?)
    };
    timely(clock.as_ref(), limit, work).await
}

/// The name of the cluster's token issuer, from its own discovery document.
pub(super) async fn issuer_of(api: &ApiServer, limit: Duration) -> Result<String, ApiError> {
    let document = api.document("/.well-known/openid-configuration", "application/json", MAX_DISCOVERY_BYTES, limit).await?;
    let issuer = strict_object(&document).ok().and_then(|document| document.get("issuer")?.as_str().map(str::to_owned));
    issuer.filter(|issuer| !issuer.is_empty()).ok_or_else(|| ApiError::Unreadable("an OpenID configuration without issuer".to_owned()))
}

async fn timely<T>(clock: &dyn Clock, limit: Duration, work: impl Future<Output = Result<T, FetchError>>) -> Result<T, FetchError> {
    within(clock, limit, work).await.unwrap_or(Err(FetchError::TimedOut(limit)))
}

async fn discover(issuer: &str, ca_file: Option<&Path>, clock: &Arc<dyn Clock>) -> Result<String, FetchError> {
    let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let answer = get(&url, ca_file, clock).await?;
    let document = strict_object(&answer).map_err(|_| FetchError::Discovery(url.clone()))?;
    let member = |name| document.get(name).and_then(Json::as_str).ok_or_else(|| FetchError::Discovery(url.clone()));
    if member("issuer")? != issuer {
        return Err(FetchError::OtherIssuer(url));
    }
    Ok(member("jwks_uri")?.to_owned())
}

async fn read(path: &Path) -> Result<Vec<u8>, FetchError> {
    let failed = |error: std::io::Error| FetchError::File { path: path.to_owned(), reason: error.to_string() };
    let mut bytes = Vec::new();
    let most = KeySet::MAX_BYTES as u64 + 1;
    tokio::fs::File::open(path).await.map_err(failed)?.take(most).read_to_end(&mut bytes).await.map_err(failed)?;
    if bytes.len() > KeySet::MAX_BYTES { Err(FetchError::Body(path.display().to_string())) } else { Ok(bytes) }
}

async fn get(url: &str, ca_file: Option<&Path>, clock: &Arc<dyn Clock>) -> Result<Bytes, FetchError> {
    let no_answer = |error: &dyn std::error::Error| FetchError::NoAnswer { url: url.to_owned(), reason: chain_of(error) };
    let target: Uri = url.parse().map_err(|_| FetchError::NotHttps(url.to_owned()))?;
    let plain_authority = target.authority().is_some_and(|authority| !authority.host().is_empty() && !authority.as_str().contains('@'));
    if target.scheme_str() != Some("https") || !plain_authority {
        return Err(FetchError::NotHttps(url.to_owned()));
    }
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls(ca_file, clock).await?).https_only().enable_http1().build();
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let request = Request::get(target)
        .header(header::ACCEPT, JWKS_TYPE)
        .header(header::USER_AGENT, concat!("meshmint/", env!("CARGO_PKG_VERSION")))
        .body(Empty::new())
        .map_err(|error| no_answer(&error))?;
    let response = client.request(request).await.map_err(|error| no_answer(&error))?;
    if response.status() != http::StatusCode::OK {
        return Err(FetchError::Status { url: url.to_owned(), status: response.status().as_u16() });
    }
    let body = Limited::new(response.into_body(), KeySet::MAX_BYTES).collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|_| FetchError::Body(url.to_owned()))
}

async fn tls(ca_file: Option<&Path>, clock: &Arc<dyn Clock>) -> Result<ClientConfig, FetchError> {
    let roots = |reason: &dyn Display| FetchError::Roots(reason.to_string());
    let time = Arc::new(TlsTime(Arc::clone(clock)));
    let builder = ClientConfig::builder_with_details(Arc::new(rustls::crypto::ring::default_provider()), time)
        .with_safe_default_protocol_versions()
        .map_err(|error| roots(&error))?;
    let verified: ConfigBuilder<ClientConfig, WantsClientCert> = match ca_file {
        Some(path) => {
            let pem = read(path).await?;
            let unusable = |reason: &dyn Display| roots(&format_args!("{}: {reason}", path.display()));
            let mut store = RootCertStore::empty();
            for certificate in certificates_from_pem(&String::from_utf8_lossy(&pem)).map_err(|error| unusable(&error))? {
                store.add(certificate).map_err(|error| unusable(&error))?;
            }
            builder.with_root_certificates(store)
        }
        // The system's folder may hold hundreds of files.
        None => tokio::task::spawn_blocking(|| builder.with_native_roots()).await.map_err(|error| roots(&error))?.map_err(|error| roots(&error))?,
    };
    Ok(verified.with_no_client_auth())
}

/// An error and what caused it, in one line: the outermost one alone says only "client error".
pub(super) fn chain_of(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
