//! The API server of a cluster, asked with our own credentials. Every question is bounded in time and bytes; no error carries a token.
//!
//! Everything in this folder that talks to a cluster goes through here. [`ApiServer::connect`] only reads credentials: nothing is asked yet.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt as _};
use http::{Request, Response, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Bytes;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError, LoadDataError};
use kube::core::WatchEvent;
use kube::core::response::Status;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::credentials::Validity;
use super::fetch::chain_of;
use super::forwarded::Forwarded;
use crate::clock::{Clock, within};

/// Where the API server is and who we are there.
#[derive(Clone, PartialEq, Eq)]
pub enum Access {
    /// The cluster that this runs in, as the pod's service account. Its token is read again as the kubelet renews it.
    InCluster,
    /// The current context of a kubeconfig file.
    Kubeconfig(PathBuf),
    /// What `kubectl` would use of this person: a kubeconfig file (by default `KUBECONFIG` or `~/.kube/config`) and a context of it (by default the
    /// current one).
    Person {
        /// The file.
        kubeconfig: Option<PathBuf>,
        /// The context.
        context: Option<String>,
    },
    /// The contents of a kubeconfig that somebody handed in: with credentials, and with nothing that reads files or starts programs.
    Contents(String),
}

/// Why a question had no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The credentials or the address can't be used.
    #[error("no access to the API server: {0}")]
    Access(String),
    /// No answer in time.
    #[error("the API server did not answer within {0:?}")]
    TimedOut(Duration),
    /// No connection, or it broke.
    #[error("no answer from the API server: {0}")]
    NoAnswer(String),
    /// An answer that is an error.
    #[error("the API server answered {code}: {message}")]
    Status {
        /// The HTTP status.
        code: u16,
        /// Its words, cut short.
        message: String,
    },
    /// More bytes than the answer to this question can have.
    #[error("the API server's answer is longer than {0} bytes, or was cut off")]
    Body(usize),
    /// Bytes that aren't what was asked for.
    #[error("the API server's answer can't be read: {0}")]
    Unreadable(String),
}

impl ApiError {
    /// Whether the object that was asked for isn't there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { code: 404, .. })
    }

    /// Whether another was faster: the object isn't as the writer knew it, or it is there already.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Status { code: 409, .. })
    }

    /// Whether nothing of the question is to blame: the API server is away or overloaded, so asking it something else won't help either.
    pub(crate) fn is_of_server(&self) -> bool {
        matches!(self, Self::TimedOut(_) | Self::NoAnswer(_) | Self::Status { code: 429 | 500 | 502..=504, .. })
    }

    /// Whether a watch was refused for what it wanted to go on from, so that only a list helps: a version that is no longer kept (410,
    /// RFC 9110 §15.5.11), that can't be read (400), or that a restored etcd hasn't reached (504, "too large resource version").
    pub(super) fn is_of_version(&self) -> bool {
        matches!(self, Self::Status { code: 400 | 410 | 504, .. })
    }
}

/// A client of one API server.
pub struct ApiServer {
    client: kube::Client,
    address: String,
    credentials: Option<Validity>,
    clock: Arc<dyn Clock>,
}

/// The longest error that is read.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// One change of a watch: an object of the largest size that etcd stores, and what is around it.
const MAX_CHANGE_BYTES: usize = 8 << 20;
/// How much of its message is kept.
const MAX_MESSAGE: usize = 300;

impl ApiServer {
    /// Reads the credentials.
    ///
    /// # Errors
    /// [`ApiError::Access`].
    pub async fn connect(access: &Access, clock: Arc<dyn Clock>) -> Result<Arc<Self>, ApiError> {
        let refused = |error: &dyn std::error::Error| ApiError::Access(chain_of(error));
        let mut config = match access {
            Access::InCluster => kube::Config::incluster().map_err(|error| refused(&error))?,
            Access::Kubeconfig(path) => {
                let kubeconfig = Kubeconfig::read_from(path).map_err(|error| unreadable(&error))?;
                let options = KubeConfigOptions::default();
                kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| unreadable(&error))?
            }
            Access::Person { kubeconfig, context } => {
                let read = kubeconfig.as_ref().map_or_else(Kubeconfig::read, Kubeconfig::read_from);
                let options = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
                kube::Config::from_custom_kubeconfig(read.map_err(|error| unreadable(&error))?, &options).await.map_err(|error| unreadable(&error))?
            }
            Access::Contents(text) => {
                let kubeconfig = Kubeconfig::from_yaml(text).map_err(|error| unreadable(&error))?;
                reads_nothing(&kubeconfig)?;
                let options = KubeConfigOptions::default();
                kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| unreadable(&error))?
            }
        };
        if config.cluster_url.scheme_str() != Some("https") || config.accept_invalid_certs {
            // Whoever stands between could say which pods live and which keys sign tokens.
            return Err(ApiError::Access("its certificate must be verified: an https address, and no insecure-skip-tls-verify".to_owned()));
        }
        // Who waits here has a limit of its own, and the watches have their own pauses.
        config.default_retry = false;
        let (address, credentials) = (config.cluster_url.to_string(), Validity::of(&config.auth_info));
        let client = kube::Client::try_from(config).map_err(|error| match error {
            // Its words may quote what it read.
            kube::Error::RustlsTls(_) => ApiError::Access("the certificates or the key of the kubeconfig can't be used: are they PEM?".to_owned()),
            error => refused(&error),
        })?;
        Ok(Arc::new(Self { client, address, credentials, clock }))
    }

    /// How long the credentials are good, where they say so and are no file that somebody keeps fresh.
    pub(super) fn credentials(&self) -> Option<Validity> {
        self.credentials
    }

    /// One question; the answer as bytes, `most` at most.
    ///
    /// # Errors
    /// [`ApiError`].
    pub(crate) async fn ask(&self, request: Request<Vec<u8>>, most: usize, limit: Duration) -> Result<Bytes, ApiError> {
        self.ask_dated(request, most, limit).await.map(|(body, _)| body)
    }

    /// The same, and when the API server says it answered (RFC 9110 §6.6.1), where it does.
    ///
    /// # Errors
    /// [`ApiError`].
    pub(super) async fn ask_dated(
        &self,
        request: Request<Vec<u8>>,
        most: usize,
        limit: Duration,
    ) -> Result<(Bytes, Option<OffsetDateTime>), ApiError> {
        let work = async {
            let response = self.send(request).await?;
            let date = response.headers().get(header::DATE).and_then(|date| OffsetDateTime::parse(date.to_str().ok()?, &Rfc2822).ok());
            let body = Limited::new(response.into_body(), most).collect().await;
            body.map(|body| (body.to_bytes(), date)).map_err(|_| ApiError::Body(most))
        };
        within(self.clock.as_ref(), limit, work).await.unwrap_or(Err(ApiError::TimedOut(limit)))
    }

    /// An answer that is no error.
    async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Body>, ApiError> {
        let response = self.client.send(request.map(Body::from)).await.map_err(no_answer)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let said = Limited::new(response.into_body(), MAX_ERROR_BYTES).collect().await.map(http_body_util::Collected::to_bytes);
        Err(refusal(status.as_u16(), &said.unwrap_or_default()))
    }

    /// One question; the answer as JSON.
    ///
    /// # Errors
    /// [`ApiError`].
    pub(crate) async fn read<T: DeserializeOwned>(&self, request: Request<Vec<u8>>, most: usize, limit: Duration) -> Result<T, ApiError> {
        parsed(&self.ask(request, most, limit).await?)
    }

    /// A document at a path, such as `/openid/v1/jwks`.
    ///
    /// # Errors
    /// [`ApiError`].
    pub(super) async fn document(&self, path: &str, accept: &'static str, most: usize, limit: Duration) -> Result<Bytes, ApiError> {
        let request = Request::get(path).header(header::ACCEPT, accept).body(Vec::new());
        self.ask(request.map_err(|error| ApiError::Access(error.to_string()))?, most, limit).await
    }

    /// A stream to a port of a pod, which the API server opens through the kubelet of the pod's node.
    ///
    /// # Errors
    /// [`ApiError`]. That nobody listens there is only seen in the stream.
    pub(super) async fn forward(&self, namespace: &str, pod: &str, port: u16, limit: Duration) -> Result<Forwarded, ApiError> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let opened = within(self.clock.as_ref(), limit, pods.portforward(pod, &[port])).await.ok_or(ApiError::TimedOut(limit))?;
        let forwarder = opened.map_err(|error| match error {
            kube::Error::Api(status) => ApiError::of_status(&status),
            other => no_answer(other),
        })?;
        Forwarded::of(forwarder, port).ok_or_else(|| ApiError::NoAnswer("no stream was opened".to_owned()))
    }

    /// A stream of changes, one in a line. It ends when the API server ends it, and after an error; its beginning is bounded in time here, and each
    /// change in bytes.
    ///
    /// # Errors
    /// [`ApiError`].
    pub(super) async fn watch<T: Clone + DeserializeOwned + Send + 'static>(
        &self,
        request: Request<Vec<u8>>,
        limit: Duration,
    ) -> Result<impl Stream<Item = Result<WatchEvent<T>, ApiError>> + Send + use<T>, ApiError> {
        let begun = within(self.clock.as_ref(), limit, self.send(request)).await;
        let body = begun.unwrap_or(Err(ApiError::TimedOut(limit)))?;
        let lines = Lines { body: body.into_body().into_data_stream(), read: Vec::new(), searched: 0 };
        Ok(stream::unfold(Some(lines), |lines| async {
            let mut lines = lines?;
            match lines.next().await? {
                Ok(line) => Some((change(&line), Some(lines))),
                Err(error) => Some((Err(error), None)),
            }
        }))
    }
}

/// The lines of a body. kube's own reader takes lines of any length, and an API server that isn't ours may send one that never ends.
struct Lines<B> {
    body: B,
    read: Vec<u8>,
    /// How much of `read` has no end of a line.
    searched: usize,
}

impl<B: Stream<Item = Result<Bytes, kube::Error>> + Unpin> Lines<B> {
    /// The next whole line; a last one that was cut off is none.
    async fn next(&mut self) -> Option<Result<Vec<u8>, ApiError>> {
        loop {
            if let Some(end) = self.read.iter().skip(self.searched).position(|byte| *byte == b'\n') {
                let line = self.read.drain(..=self.searched + end).collect();
                self.searched = 0;
                return Some(Ok(line));
            }
            self.searched = self.read.len();
            if self.searched > MAX_CHANGE_BYTES {
                return Some(Err(ApiError::Body(MAX_CHANGE_BYTES)));
            }
            match self.body.next().await? {
                Ok(bytes) => self.read.extend_from_slice(&bytes),
                Err(error) => return Some(Err(no_answer(error))),
            }
        }
    }
}

fn change<T: DeserializeOwned>(line: &[u8]) -> Result<WatchEvent<T>, ApiError> {
    serde_json::from_slice(line).map_err(|error| match serde_json::from_slice::<Status>(line) {
        Ok(status) if status.code != 0 => ApiError::of_status(&status),
        _ => ApiError::Unreadable(format!("column {}", error.column())),
    })
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ApiServer({})", self.address)
    }
}

/// Whoever wrote this kubeconfig gets nothing of our machine: no file is read for it and no program started.
fn reads_nothing(kubeconfig: &Kubeconfig) -> Result<(), ApiError> {
    let users = kubeconfig.auth_infos.iter().filter_map(|named| named.auth_info.as_ref());
    let clusters = kubeconfig.clusters.iter().filter_map(|named| named.cluster.as_ref());
    let reaching = |user: &kube::config::AuthInfo| {
        let files = [&user.token_file, &user.client_certificate, &user.client_key];
        files.iter().any(|file| file.is_some()) || user.exec.is_some() || user.auth_provider.is_some()
    };
    if users.into_iter().any(reaching) || clusters.into_iter().any(|cluster| cluster.certificate_authority.is_some()) {
        return Err(ApiError::Access("a kubeconfig in a Secret may name no file and no program (exec, authProvider)".to_owned()));
    }
    Ok(())
}

impl fmt::Debug for Access {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InCluster => write!(formatter, "InCluster"),
            Self::Kubeconfig(path) => write!(formatter, "Kubeconfig({})", path.display()),
            Self::Person { kubeconfig, context } => write!(formatter, "Person({kubeconfig:?}, {context:?})"),
            Self::Contents(text) => write!(formatter, "Contents({} bytes)", text.len()),
        }
    }
}

/// An answer as JSON.
pub(super) fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    // The parser's words may quote the answer; where it is, is enough.
    serde_json::from_slice(body).map_err(|error| ApiError::Unreadable(format!("line {} column {}", error.line(), error.column())))
}

/// Why a kubeconfig can't be used. The parsers' words may quote what they read, and that may be a token or a key.
pub(super) fn unreadable(error: &KubeconfigError) -> ApiError {
    ApiError::Access(match error {
        KubeconfigError::Parse(_) => "not a kubeconfig".to_owned(),
        KubeconfigError::ParseClusterUrl(_) => "the server's address in the kubeconfig is not a URL".to_owned(),
        KubeconfigError::ParseProxyUrl(_) => "the proxy's address in the kubeconfig is not a URL".to_owned(),
        KubeconfigError::ParseCertificates(_) => "the certificate authority in the kubeconfig is not PEM".to_owned(),
        KubeconfigError::LoadCertificateAuthority(LoadDataError::DecodeBase64(_))
        | KubeconfigError::LoadClientCertificate(LoadDataError::DecodeBase64(_))
        | KubeconfigError::LoadClientKey(LoadDataError::DecodeBase64(_)) => "something in the kubeconfig that should be base64 isn't".to_owned(),
        other => chain_of(other),
    })
}

fn no_answer(error: kube::Error) -> ApiError {
    ApiError::NoAnswer(chain_of(&error))
}

fn refusal(code: u16, said: &[u8]) -> ApiError {
    let message = match serde_json::from_slice::<Status>(said) {
        Ok(status) if !status.message.is_empty() => shortened(&status.message),
        _ => "without a reason".to_owned(),
    };
    ApiError::Status { code, message }
}

fn shortened(message: &str) -> String {
    message.chars().take(MAX_MESSAGE).collect()
}

impl ApiError {
    /// What a watch says instead of an event.
    pub(super) fn of_status(status: &Status) -> Self {
        Self::Status { code: status.code, message: shortened(&status.message) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    fn lines(chunks: &[&'static str]) -> Lines<impl Stream<Item = Result<Bytes, kube::Error>> + Unpin + use<>> {
        let chunks: Vec<_> = chunks.iter().map(|chunk| Ok(Bytes::from_static(chunk.as_bytes()))).collect();
        Lines { body: stream::iter(chunks), read: Vec::new(), searched: 0 }
    }

    #[tokio::test]
    async fn a_watch_is_read_line_by_line_and_a_line_has_an_end() {
        let mut body = lines(&["ab", "c\n\nd", "e", "f\ng\n", "cut off"]);
        for expected in ["abc\n", "\n", "def\n", "g\n"] {
            assert_eq!(body.next().await, Some(Ok(expected.as_bytes().to_vec())));
        }
        assert_eq!(body.next().await, None);
        let long: &'static str = "x".repeat(1 << 20).leak();
        assert_eq!(lines(&[long; 9]).next().await, Some(Err(ApiError::Body(MAX_CHANGE_BYTES))));
    }

    #[test]
    fn what_is_no_change_is_an_error() {
        let change = |line: &str| change::<serde_json::Value>(line.as_bytes()).map(|_| ());
        assert_eq!(change(r#"{"type":"ADDED","object":{}}"#), Ok(()));
        let gone = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"too old","reason":"Expired","code":410}"#;
        assert_eq!(change(gone), Err(ApiError::Status { code: 410, message: "too old".to_owned() }));
        assert!(matches!(change("{"), Err(ApiError::Unreadable(_))));
    }

    async fn connect(kubeconfig: &str) -> Result<Arc<ApiServer>, ApiError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubeconfig");
        std::fs::write(&path, kubeconfig).unwrap();
        ApiServer::connect(&Access::Kubeconfig(path), SystemClock::shared()).await
    }

    fn kubeconfig(cluster: &str) -> String {
        format!(
            "current-context: a\nclusters: [{{ name: a, cluster: {{ {cluster} }} }}]\ncontexts: [{{ name: a, context: {{ cluster: a, user: a }} }}]\n\
             users: [{{ name: a, user: {{ token: a-secret }} }}]\n"
        )
    }

    #[tokio::test]
    async fn an_api_server_that_can_not_be_verified_is_not_asked() {
        for cluster in ["server: 'http://127.0.0.1:1'", "server: 'https://127.0.0.1:1', insecure-skip-tls-verify: true"] {
            let error = connect(&kubeconfig(cluster)).await.unwrap_err();
            assert!(matches!(&error, ApiError::Access(_)) && error.to_string().contains("must be verified"), "{error}");
        }
        assert!(matches!(connect("clusters: 7").await, Err(ApiError::Access(_))));
        // Base64 of `a-secret`, which stands where something else is expected.
        let data = "certificate-authority-data: YS1zZWNyZXQ=";
        let server = "server: 'https://127.0.0.1:1'";
        for spoilt in [
            "a-secret".to_owned(),
            "clusters: a-secret".to_owned(),
            kubeconfig("server: 'a-secret\\a'"),
            kubeconfig(&format!("{server}, proxy-url: 'a-secret\\a'")),
            kubeconfig(&format!("{server}, {data}")),
            kubeconfig(&format!("{server}, certificate-authority-data: a-secret")),
            kubeconfig(server).replace("token: a-secret", "client-certificate-data: YS1zZWNyZXQ=, client-key-data: YS1zZWNyZXQ="),
            kubeconfig(server).replace("token: a-secret", "client-certificate-data: YS1zZWNyZXQ=, client-key-data: a-secret"),
            // -----BEGIN a-secret
            kubeconfig(&format!("{server}, certificate-authority-data: LS0tLS1CRUdJTiBhLXNlY3JldAo=")),
            kubeconfig(server)
                .replace("token: a-secret", "client-certificate-data: LS0tLS1CRUdJTiBhLXNlY3JldAo=, client-key-data: LS0tLS1CRUdJTiBhLXNlY3JldAo="),
        ] {
            // An authority that holds no certificate is taken, and then verifies nobody.
            let Err(error) = connect(&spoilt).await else { continue };
            let words = format!("{error} {error:?}");
            assert!(!words.contains("a-secret") && !words.contains("YS1z") && !words.contains("97, 45, 115"), "{spoilt}: {words}");
        }
        let missing = ApiServer::connect(&Access::Kubeconfig("/nowhere/kubeconfig".into()), SystemClock::shared()).await;
        assert!(matches!(missing, Err(ApiError::Access(_))));
    }

    #[test]
    fn errors_are_short_and_say_what_was_said() {
        let long = format!(r#"{{"kind":"Status","code":403,"message":"{}"}}"#, "x".repeat(1000));
        let ApiError::Status { code: 403, message } = refusal(403, long.as_bytes()) else { panic!("a status") };
        assert_eq!(message.len(), MAX_MESSAGE);
        assert_eq!(refusal(503, b"<html>"), ApiError::Status { code: 503, message: "without a reason".to_owned() });
        assert!(refusal(404, b"").is_not_found() && !refusal(404, b"").is_of_version());
        assert!([400, 410, 504].into_iter().all(|code| refusal(code, b"").is_of_version()));
        assert!(![401, 403, 429, 500, 503].into_iter().any(|code| refusal(code, b"").is_of_version()));
    }
}
