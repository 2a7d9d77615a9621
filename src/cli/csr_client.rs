//! A client of Istio's CSR API: makes a key and a request as Istio's agents do, and asks any CA that speaks it.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use clap::ValueEnum;
use hyper_util::rt::TokioIo;
use prost_types::value::Kind as ValueKind;
use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, SanType};
use rsa::pkcs8::EncodePrivateKey;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::Request;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::clock::{Clock, Entropy, NoEntropy, SystemClock, SystemEntropy, within};
use crate::pki::inspect::{printable, span};
use crate::pki::{IssuerKey, KeyAlgorithm, KeyError, PemError, certificates_from_pem};
use crate::server::proto::istio::IstioCertificateRequest;
use crate::server::proto::istio::istio_certificate_service_client::IstioCertificateServiceClient;
use crate::spiffe::{SpiffeId, TrustDomain};

/// How long connecting and answering may take, each.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which key to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum KeyType {
    /// ECDSA P-256, as ztunnel
    P256,
    /// ECDSA P-384
    P384,
    /// RSA with 2048 bits, as pilot-agent by default
    Rsa2048,
}

/// What to ask for.
#[derive(Debug, Clone)]
pub(super) struct CsrRequest {
    /// The CA, HOST:PORT.
    pub(super) address: String,
    /// The roots that its serving certificate must chain to, PEM.
    pub(super) roots: String,
    /// The name that its serving certificate must have; by default the host of `address`.
    pub(super) server_name: Option<String>,
    /// A service-account token.
    pub(super) token: Option<String>,
    /// A client certificate with its chain, PEM, and its key, PEM.
    pub(super) client: Option<(String, String)>,
    /// The key to make.
    pub(super) key_type: KeyType,
    /// The lifetime to ask for; `None` asks for the CA's default.
    pub(super) lifetime: Option<Duration>,
    /// The identity to speak for, as ztunnel does.
    pub(super) impersonate: Option<String>,
    /// Some CAs (istio-csr) want the identity in the CSR; this is the trust domain to write there.
    pub(super) trust_domain: TrustDomain,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Obtained {
    /// The new private key.
    pub(super) key: IssuerKey,
    /// The leaf and the intermediates, one PEM each.
    pub(super) chain: Vec<String>,
    /// The trust bundle.
    pub(super) bundle: String,
    /// What the CA calls the request in its log, where it says so.
    pub(super) request_id: Option<String>,
}

/// Why there is no certificate. Each says what to look at next.
#[derive(Debug, thiserror::Error)]
pub(super) enum CsrClientError {
    #[error("the address {0:?} is not HOST:PORT")]
    Address(String),
    #[error("the roots can't be used: {0}")]
    Roots(PemError),
    #[error("the client certificate can't be used: {0}")]
    ClientCertificate(PemError),
    #[error("the key can't be used: {0}")]
    Key(#[from] KeyError),
    #[error("no key could be made: {0}")]
    Generation(String),
    #[error("the server name {0:?} is not a DNS name or IP address")]
    ServerName(String),
    #[error("TLS can't be set up: {0}")]
    Tls(#[from] rustls::Error),
    #[error("can't reach {address}: {reason}")]
    Connect { address: String, reason: String },
    #[error("{address} did not answer within {PATIENCE:?}")]
    Silent { address: String },
    #[error("the CA refused: {code} {message}{}", in_its_log(.request_id.as_deref()))]
    Refused { code: &'static str, message: String, request_id: Option<String> },
    #[error("the CA's answer has {0} elements; at least a leaf and a bundle are expected")]
    Answer(usize),
}

/// Asks once. Nothing is retried: the caller sees what the CA said.
pub(super) async fn request(ask: &CsrRequest) -> Result<Obtained, CsrClientError> {
    let clock = SystemClock::shared();
    let key = make_key(ask.key_type)?;
    let identity = ask.impersonate.clone().or_else(|| identity_of_token(ask.token.as_deref()?, &ask.trust_domain));
    let csr = make_csr(&key, ask.key_type, identity)?;
    let client = ask.client.as_ref().map(|(chain, key)| (chain.as_str(), key.as_str()));
    let channel = connect(&ask.address, ask.server_name.as_deref(), client_config(&ask.roots, client)?, clock.as_ref()).await?;
    let strings = ask.impersonate.iter().map(|identity| ("ImpersonatedIdentity".to_owned(), identity.clone()));
    let fields = strings.map(|(name, text)| (name, prost_types::Value { kind: Some(ValueKind::StringValue(text)) })).collect();
    let mut request = Request::new(IstioCertificateRequest {
        csr,
        validity_duration: ask.lifetime.map_or(0, |lifetime| i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX)),
        metadata: Some(prost_types::Struct { fields }),
    });
    if let Some(token) = &ask.token {
        let bearer = format!("Bearer {token}").parse().map_err(|_| CsrClientError::Refused {
            code: "(not sent)",
            message: "the token has characters that no header may carry; is it the right file?".to_owned(),
            request_id: None,
        })?;
        request.metadata_mut().insert("authorization", bearer);
    }
    let mut client = IstioCertificateServiceClient::new(channel);
    let answer = within(clock.as_ref(), PATIENCE, client.create_certificate(request))
        .await
        .ok_or_else(|| CsrClientError::Silent { address: ask.address.clone() })?
        .map_err(|status| CsrClientError::Refused {
            code: code_name(status.code()),
            message: printable(status.message()),
            request_id: request_id(status.metadata()),
        })?;
    let request_id = request_id(answer.metadata());
    let mut chain = answer.into_inner().cert_chain;
    match (chain.len(), chain.pop()) {
        (2.., Some(bundle)) => Ok(Obtained { key, chain, bundle, request_id }),
        (elements, _) => Err(CsrClientError::Answer(elements)),
    }
}

fn request_id(metadata: &MetadataMap) -> Option<String> {
    metadata.get("x-request-id").and_then(|id| id.to_str().ok()).map(printable)
}

fn in_its_log(request_id: Option<&str>) -> String {
    request_id.map_or_else(String::new, |id| format!("\nThe CA's log has the reason, under request id {id}."))
}

/// What can be told of a token that was refused, from the token alone; nothing of it but its audiences is shown.
pub(super) fn trouble_of_token(token: &str, now: OffsetDateTime) -> Option<String> {
    let claims = token.split('.').nth(1).and_then(|claims| BASE64_URL_SAFE_NO_PAD.decode(claims).ok());
    let claims = claims.and_then(|claims| serde_json::from_slice::<serde_json::Value>(&claims).ok());
    let Some(claims) = claims else { return Some("the file holds no JSON web token".to_owned()) };
    if let Some(end) = claims.get("exp").and_then(serde_json::Value::as_i64).filter(|end| *end < now.unix_timestamp()) {
        return Some(format!("the token expired {} ago", span(now.unix_timestamp().abs_diff(end))));
    }
    let audiences: Vec<_> = match claims.get("aud") {
        Some(serde_json::Value::Array(all)) => all.iter().filter_map(serde_json::Value::as_str).map(printable).collect(),
        Some(serde_json::Value::String(one)) => vec![printable(one)],
        _ => Vec::new(),
    };
    let istio = audiences.iter().any(|audience| audience == "istio-ca");
    (!istio).then(|| format!("the token is for audience {}, and CAs of Istio expect istio-ca", audiences.join(", ")))
}

/// gRPC's own spelling of a code.
pub(super) fn code_name(code: tonic::Code) -> &'static str {
    use tonic::Code;
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// A new key.
pub(super) fn make_key(key_type: KeyType) -> Result<IssuerKey, CsrClientError> {
    match key_type {
        KeyType::P256 => Ok(IssuerKey::generate(KeyAlgorithm::P256)?),
        KeyType::P384 => Ok(IssuerKey::generate(KeyAlgorithm::P384)?),
        KeyType::Rsa2048 => {
            // ring signs with RSA keys but makes none.
            let failed = |error: &dyn std::fmt::Display| CsrClientError::Generation(error.to_string());
            let key = rsa::PrivateKey::new(&mut EntropyRng(SystemEntropy::shared()), 2048).map_err(|error| failed(&error))?;
            let pem = key.to_pkcs8_pem(rsa::pkcs8::LineEnding::LF).map_err(|error| failed(&error))?;
            Ok(IssuerKey::from_pem(&pem)?)
        }
    }
}

/// The request as Istio's agents make it: RSA with pilot-agent's `O=""`, others with ztunnel's empty subject; one URI SAN where the
/// identity can be told.
pub(super) fn make_csr(key: &IssuerKey, key_type: KeyType, identity: Option<String>) -> Result<String, CsrClientError> {
    let failed = |error: &dyn std::fmt::Display| CsrClientError::Generation(error.to_string());
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if key_type == KeyType::Rsa2048 {
        params.distinguished_name.push(DnType::OrganizationName, DnValue::Utf8String(String::new()));
    }
    if let Some(identity) = identity {
        params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into().map_err(|error| failed(&error))?)];
    }
    let request = params.serialize_request(key.pair()).map_err(|error| failed(&error))?;
    pem_rfc7468::encode_string("CERTIFICATE REQUEST", pem_rfc7468::LineEnding::LF, request.der()).map_err(|error| failed(&error))
}

/// The SPIFFE ID that a Kubernetes token stands for, read without checking it: the CA does that.
pub(super) fn identity_of_token(token: &str, trust_domain: &TrustDomain) -> Option<String> {
    let claims = token.split('.').nth(1)?;
    let claims: serde_json::Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    let (namespace, account) = claims.get("sub")?.as_str()?.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    SpiffeId::workload(trust_domain, namespace, account).ok().map(|id| id.to_string())
}

/// Connects to HOST:PORT; the server must have the name, by default the host.
pub(super) async fn connect(at: &str, server_name: Option<&str>, config: ClientConfig, clock: &dyn Clock) -> Result<Channel, CsrClientError> {
    let (host, _) = at.rsplit_once(':').ok_or_else(|| CsrClientError::Address(at.to_owned()))?;
    let name = server_name.unwrap_or_else(|| host.trim_matches(['[', ']']));
    let name = ServerName::try_from(name.to_owned()).map_err(|_| CsrClientError::ServerName(name.to_owned()))?;
    let tls = TlsConnector::from(Arc::new(config));
    let address = at.to_owned();
    let open = move || {
        let (tls, name, address) = (tls.clone(), name.clone(), address.clone());
        async move {
            let stream = TcpStream::connect(&address).await?;
            // As every client of a mesh has it: the first words after the handshake don't wait for its last ones to be acknowledged.
            stream.set_nodelay(true)?;
            tls.connect(name, stream).await
        }
    };
    channel(at, open, clock).await
}

/// A channel to HOST:PORT over streams that `open` opens, with TLS.
pub(super) async fn channel<S, F>(at: &str, open: impl Fn() -> F + Send + 'static, clock: &dyn Clock) -> Result<Channel, CsrClientError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
{
    let connector = service_fn(move |_: Uri| {
        let opening = open();
        async move { opening.await.map(TokioIo::new) }
    });
    // The URIs only fill the :authority and :scheme headers; the connector knows where to go, and that it speaks TLS. tonic would refuse https in
    // the first one where a feature of another crate has brought its own TLS.
    let authority = at.parse::<SocketAddr>().map_or_else(|_| at.to_owned(), |address| address.to_string());
    let not_one = || CsrClientError::Address(at.to_owned());
    let origin = Uri::try_from(format!("https://{authority}")).map_err(|_| not_one())?;
    let endpoint = Endpoint::from_shared(format!("http://{authority}")).map_err(|_| not_one())?.origin(origin);
    within(clock, PATIENCE, endpoint.connect_with_connector(connector))
        .await
        .ok_or_else(|| CsrClientError::Silent { address: at.to_owned() })?
        .map_err(|error| CsrClientError::Connect { address: at.to_owned(), reason: innermost(&error) })
}

/// TLS with ALPN h2 to a server that chains to these roots, PEM; `client` is a client certificate with its chain and its key, PEM.
pub(super) fn client_config(roots: &str, client: Option<(&str, &str)>) -> Result<ClientConfig, CsrClientError> {
    let pem = roots;
    let mut roots = RootCertStore::empty();
    for root in certificates_from_pem(pem).map_err(CsrClientError::Roots)? {
        roots.add(root)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_root_certificates(roots);
    let mut config = match client {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain: Vec<CertificateDer<'static>> = certificates_from_pem(chain).map_err(CsrClientError::ClientCertificate)?;
            builder.with_client_auth_cert(chain, PrivateKeyDer::Pkcs8(IssuerKey::from_pem(key)?.to_pkcs8_der()))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// The cause behind the causes: the only one that says something.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    printable(&cause.to_string())
}

/// Writes what came back: the key readable by its owner only, each file whole or not at all.
pub(super) fn write_files(directory: &Path, obtained: &Obtained) -> std::io::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(directory)?;
    let files = [
        ("key.pem", obtained.key.to_pem(), 0o600),
        ("cert-chain.pem", obtained.chain.concat(), 0o644),
        ("root-cert.pem", obtained.bundle.clone(), 0o644),
    ];
    files.into_iter().map(|(name, text, mode)| super::files::write_whole(&directory.join(name), text.as_bytes(), mode)).collect()
}

/// Our entropy for the key generator of the `rsa` crate.
struct EntropyRng(Arc<dyn Entropy>);

impl rsa::rand_core::TryRng for EntropyRng {
    type Error = NoEntropy;

    fn try_next_u32(&mut self) -> Result<u32, NoEntropy> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, NoEntropy> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), NoEntropy> {
        self.0.fill(bytes)
    }
}

impl rsa::rand_core::TryCryptoRng for EntropyRng {}
