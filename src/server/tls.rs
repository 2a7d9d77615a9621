//! TLS of the CSR port: our serving certificate, TLS 1.2 and 1.3, ALPN h2, and client certificates that are asked for, proved, and judged later.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, CipherSuite, DigitallySignedStruct, DistinguishedName, SignatureScheme};

use crate::clock::Clock;

/// The protocol that gRPC speaks (RFC 9113 §3.2).
pub(super) const ALPN_H2: &[u8] = b"h2";

/// Client certificates with their chain beyond this fail the handshake. One of ours has less than 2 KiB.
const MAX_CLIENT_CHAIN_BYTES: usize = 16 * 1024;

/// The current TLS configuration; replaced whole when the serving certificate is renewed.
pub(super) type CurrentTls = Arc<ArcSwap<ServerConfig>>;

/// A configuration that serves this chain.
///
/// Sessions are never resumed: a resumed session would skip the proof of the client certificate.
///
/// # Errors
/// Where rustls refuses the certificate or the key.
pub(super) fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    clock: Arc<dyn Clock>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(provider());
    let verifier = Arc::new(PresentedNotJudged { provider: provider.clone() });
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(ClockTime(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.ignore_client_order = true;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// ring's suites, those with AES-128 and SHA-256 first: clients put SHA-384 first, which ring computes without the processor's help, and that
/// is an eighth of a handshake. Nothing that is carried here needs more than 128 bits.
fn provider() -> CryptoProvider {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.sort_by_key(|suite| {
        let first = [CipherSuite::TLS13_AES_128_GCM_SHA256, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256];
        !first.contains(&suite.suite())
    });
    provider
}

/// Our clock for rustls.
#[derive(Debug)]
struct ClockTime(Arc<dyn Clock>);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().unix_timestamp()).ok()?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
    }
}

/// Takes any client certificate whose key the peer proves to hold, and none at all. An expired or unknown one must not fail the
/// handshake, because the token may be good: whether it counts is decided for each request (`issuance::Authenticator`).
#[derive(Debug)]
struct PresentedNotJudged {
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for PresentedNotJudged {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hints: agents send what they have, and a list would tell the world our roots' history.
        &[]
    }

    fn verify_client_cert(&self, leaf: &CertificateDer<'_>, chain: &[CertificateDer<'_>], _: UnixTime) -> Result<ClientCertVerified, rustls::Error> {
        // It is kept for as long as the connection lives.
        if leaf.len() + chain.iter().map(|certificate| certificate.len()).sum::<usize>() > MAX_CLIENT_CHAIN_BYTES {
            return Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure));
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
