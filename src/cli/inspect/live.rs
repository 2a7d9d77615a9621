//! What a live TLS server presents. Every chain is accepted for looking, and verified afterwards by ourselves; nothing is sent
//! beyond the handshake.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::clock::{Clock, TlsTime, within};

/// For connection and handshake together.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why a server could not be looked at.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum LiveError {
    #[error("can't connect to {0}: {1}\nCheck host and port, and that the server runs.")]
    Connect(String, std::io::Error),
    #[error("{0} showed no certificate: {1}\nCheck that it speaks TLS 1.2 or 1.3.")]
    NoCertificate(String, std::io::Error),
    #[error("{0} didn't finish within 10 s\nCheck that it speaks TLS and that no firewall stands between.")]
    TooSlow(String),
    #[error("TLS can't be set up: {0}")]
    Setup(Error),
}

/// The connection's side of the report.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::cli) struct Server {
    pub(in crate::cli) address: String,
    pub(in crate::cli) server_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) cipher_suite: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) alpn: Option<String>,
    pub(in crate::cli) client_certificate_requested: bool,
    /// Why the handshake didn't end well although a certificate was shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) handshake_trouble: Option<String>,
}

/// What was seen.
#[derive(Debug)]
pub(in crate::cli) struct Seen {
    pub(in crate::cli) server: Server,
    /// DER, as presented.
    pub(in crate::cli) chain: Vec<Vec<u8>>,
}

/// Connects, shakes hands, and goes away.
pub(in crate::cli) async fn look(address: &str, name: ServerName<'static>, clock: &Arc<dyn Clock>) -> Result<Seen, LiveError> {
    look_over(address, TcpStream::connect(address), name, clock).await
}

/// The same over a stream that is opened in another way; `address` is what it is called.
pub(in crate::cli) async fn look_over<S: AsyncRead + AsyncWrite + Unpin>(
    address: &str,
    opening: impl Future<Output = io::Result<S>>,
    name: ServerName<'static>,
    clock: &Arc<dyn Clock>,
) -> Result<Seen, LiveError> {
    let work = async {
        let stream = opening.await.map_err(|error| LiveError::Connect(address.to_owned(), error))?;
        shake_hands(address, stream, name, clock).await
    };
    within(clock.as_ref(), DEADLINE, work).await.unwrap_or_else(|| Err(LiveError::TooSlow(address.to_owned())))
}

async fn shake_hands<S: AsyncRead + AsyncWrite + Unpin>(
    address: &str,
    stream: S,
    name: ServerName<'static>,
    clock: &Arc<dyn Clock>,
) -> Result<Seen, LiveError> {
    let provider = Arc::new(ring::default_provider());
    let onlooker = Arc::new(Onlooker { provider: provider.clone(), chain: Mutex::default(), asked: AtomicBool::new(false) });
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(TlsTime(clock.clone())))
        .with_safe_default_protocol_versions()
        .map_err(LiveError::Setup)?
        .dangerous()
        .with_custom_certificate_verifier(onlooker.clone())
        .with_client_cert_resolver(onlooker.clone());
    // A server of the web refuses a client that offers h2 alone.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let server_name = name.to_str().into_owned();
    let shaken = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let chain = onlooker.chain.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut server = Server {
        address: address.to_owned(),
        server_name,
        version: None,
        cipher_suite: None,
        alpn: None,
        client_certificate_requested: onlooker.asked.load(Ordering::Relaxed),
        handshake_trouble: None,
    };
    match shaken {
        Ok(stream) => {
            let (_, connection) = stream.get_ref();
            server.version = connection.protocol_version().and_then(|version| version.as_str()).map(|version| version.replace("TLSv1_", "TLS 1."));
            server.cipher_suite = connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).map(str::to_owned);
            server.alpn = connection.alpn_protocol().map(|protocol| String::from_utf8_lossy(protocol).into_owned());
        }
        Err(error) if chain.is_empty() => return Err(LiveError::NoCertificate(address.to_owned(), error)),
        Err(error) => server.handshake_trouble = Some(error.to_string()),
    }
    Ok(Seen { server, chain })
}

/// Accepts every chain and remembers it, and whether a client certificate was asked for.
#[derive(Debug)]
struct Onlooker {
    provider: Arc<CryptoProvider>,
    chain: Mutex<Vec<Vec<u8>>>,
    asked: AtomicBool,
}

impl ServerCertVerifier for Onlooker {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = std::iter::once(leaf).chain(others).map(|certificate| certificate.to_vec()).collect();
        *self.chain.lock().unwrap_or_else(PoisonError::into_inner) = chain;
        Ok(ServerCertVerified::assertion())
    }

    // That the server has the key is checked: else what it shows says nothing about it.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ResolvesClientCert for Onlooker {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}
