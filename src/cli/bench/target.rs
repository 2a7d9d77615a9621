//! The CA that is loaded: its address, the name and roots it is verified by, and where our sockets come from.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ring::digest::{SHA256, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CipherSuite, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use serde::Deserialize;
use tokio_rustls::TlsConnector;

use crate::pki::{IssuerKey, certificates_from_pem};

/// Where the load goes.
pub(super) struct Target {
    /// The CA.
    pub(super) address: SocketAddr,
    /// `:authority`.
    pub(super) authority: String,
    /// The name that its certificate must have.
    pub(super) server_name: ServerName<'static>,
    /// How it is verified, and who we are.
    pub(super) tls: TlsConnector,
    sources: u32,
}

/// What of `DIR/endpoints.json` is needed.
#[derive(Debug, Deserialize)]
pub(super) struct DevEndpoints {
    /// The process.
    pub(super) pid: u32,
    /// The CSR API.
    pub(super) csr: SocketAddr,
}

/// Reads `DIR/endpoints.json` of a running `meshmint dev`.
///
/// # Errors
/// In words.
pub(super) fn dev_endpoints(dir: &Path) -> Result<DevEndpoints, String> {
    let file = dir.join("endpoints.json");
    let text = std::fs::read(&file)
        .map_err(|error| format!("can't read {}: {error}. Is `meshmint dev --dir {}` running?", file.display(), dir.display()))?;
    serde_json::from_slice(&text).map_err(|error| format!("{} can't be read: line {} column {}", file.display(), error.line(), error.column()))
}

/// How a target is verified and how it sees us.
#[derive(Debug)]
pub(super) struct Trust {
    /// PEM.
    pub(super) roots: String,
    /// A client certificate with its chain, PEM, and its key, PEM.
    pub(super) client: Option<(String, String)>,
}

impl Target {
    /// Looks up `address` (HOST:PORT) once. `sources` client addresses are used in turn; 1 leaves the choice to the kernel.
    ///
    /// # Errors
    /// In words.
    pub(super) async fn find(address: &str, name: Option<&str>, trust: &Trust, sources: u32) -> Result<Self, String> {
        let (host, _) = address.rsplit_once(':').ok_or_else(|| format!("the address {address:?} is not HOST:PORT"))?;
        let found = tokio::net::lookup_host(address).await.map_err(|error| format!("{address} can't be looked up: {error}"))?;
        let mut found: Vec<_> = found.collect();
        found.sort_by_key(SocketAddr::is_ipv6);
        let found = found.first().copied().ok_or_else(|| format!("{address} has no address"))?;
        if sources > 1 && !matches!(found.ip(), IpAddr::V4(ip) if ip.is_loopback()) {
            return Err(format!("--source-addresses is for CAs on 127.0.0.0/8 only: {found} isn't there"));
        }
        let name = name.unwrap_or_else(|| host.trim_matches(['[', ']']));
        let server_name = ServerName::try_from(name.to_owned()).map_err(|_| format!("the server name {name:?} is not a DNS name or IP address"))?;
        let tls = TlsConnector::from(Arc::new(client_config(trust)?));
        Ok(Self { address: found, authority: address.to_owned(), server_name, tls, sources })
    }

    /// Where the `index`th connection comes from: 127.0.0.1, 127.1.0.2, …, spread over 127.0.0.0/8, so that they are many also for a
    /// server that counts by network.
    pub(super) fn source(&self, index: usize) -> Option<SocketAddr> {
        let number = u32::try_from(index).unwrap_or(0).checked_rem(self.sources)?;
        (self.sources > 1).then(|| SocketAddr::new(IpAddr::V4(spread(number)), 0))
    }
}

/// Loopback addresses, a different second octet each as long as there are some left.
fn spread(number: u32) -> Ipv4Addr {
    let (second, rest) = (number % 256, number / 256);
    let [.., third, fourth] = (rest % 65_000 + 1).to_be_bytes();
    Ipv4Addr::new(127, u8::try_from(second).unwrap_or(0), third, fourth)
}

/// ring with AES-128 first, as pilot-agent (Go, on a machine with AES instructions) offers it. The server takes the first one that it knows.
pub(super) fn agents_provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

fn client_config(trust: &Trust) -> Result<ClientConfig, String> {
    let unusable = |what: &'static str| move |error: &dyn std::fmt::Display| format!("the {what} can't be used: {error}");
    let mut roots = RootCertStore::empty();
    for root in certificates_from_pem(&trust.roots).map_err(|error| unusable("roots")(&error))? {
        roots.add(root).map_err(|error| unusable("roots")(&error))?;
    }
    let provider = agents_provider();
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let inner = inner.build().map_err(|error| unusable("roots")(&error))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| format!("TLS can't be set up: {error}"))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Remembering { inner, known: Mutex::default() }));
    let mut config = match &trust.client {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let failed = unusable("client certificate");
            let chain: Vec<CertificateDer<'static>> = certificates_from_pem(chain).map_err(|error| failed(&error))?;
            let key = IssuerKey::from_pem(key).map_err(|error| failed(&error))?;
            builder.with_client_auth_cert(chain, PrivateKeyDer::Pkcs8(key.to_pkcs8_der())).map_err(|error| failed(&error))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    // Every handshake is a whole one, as it is for agents that were just started.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Verifies a server's chain fully when it first sees it, and knows it again by its SHA-256. The handshake's signature, which proves that
/// the server has the key, is checked each time. This is a load tool's economy: nothing else here may verify like this.
#[derive(Debug)]
struct Remembering {
    inner: Arc<WebPkiServerVerifier>,
    known: Mutex<HashSet<[u8; 32]>>,
}

impl ServerCertVerifier for Remembering {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mut context = ring::digest::Context::new(&SHA256);
        // Each by its own digest, so that no other chain has the same bytes in a row.
        std::iter::once(leaf).chain(others).for_each(|certificate| context.update(digest(&SHA256, certificate).as_ref()));
        let seen: [u8; 32] = context.finish().as_ref().try_into().unwrap_or_default();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(&seen) {
            return Ok(ServerCertVerified::assertion());
        }
        let verified = self.inner.verify_server_cert(leaf, others, name, ocsp, now)?;
        known.insert(seen);
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn source_addresses_are_all_different_and_loopback() {
        let all: BTreeSet<_> = (0..70_000).map(spread).collect();
        assert_eq!(all.len(), 70_000);
        assert!(all.iter().all(|address| address.is_loopback() && address.octets()[3] != 0 || address.octets()[2] != 0));
        assert_eq!(spread(0), Ipv4Addr::new(127, 0, 0, 1));
        assert_eq!(all.iter().map(|address| address.octets()[1]).collect::<BTreeSet<_>>().len(), 256);
    }

    #[test]
    fn a_chain_is_verified_once_and_never_another_for_it() {
        let made = |name: &str| rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap().cert;
        let (own, other) = (made("localhost"), made("localhost"));
        let mut roots = RootCertStore::empty();
        roots.add(own.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let verifier = Remembering { inner, known: Mutex::default() };
        let name = ServerName::try_from("localhost").unwrap();
        let verify =
            |leaf: &CertificateDer<'_>, others: &[CertificateDer<'_>]| verifier.verify_server_cert(leaf, others, &name, &[], UnixTime::now());
        verify(own.der(), &[]).unwrap();
        verify(own.der(), &[]).unwrap();
        assert_eq!(verifier.known.lock().unwrap().len(), 1);
        assert!(verify(other.der(), &[]).is_err());
        assert!(verify(other.der(), &[own.der().clone()]).is_err());
        assert_eq!(verifier.known.lock().unwrap().len(), 1);
    }

    #[test]
    fn without_a_running_dev_the_hint_says_so() {
        let folder = tempfile::tempdir().unwrap();
        assert!(dev_endpoints(folder.path()).unwrap_err().contains("running?"));
        std::fs::write(folder.path().join("endpoints.json"), r#"{"pid": 7, "csr": "127.0.0.1:1", "more": 1}"#).unwrap();
        let endpoints = dev_endpoints(folder.path()).unwrap();
        assert_eq!((endpoints.pid, endpoints.csr.port()), (7, 1));
    }
}
