//! The cryptography that no CA of this kind can avoid, measured on this machine, in this process: what the figures of `meshmint bench --floor` and
//! `cargo bench --bench cryptography` are compared with.
//!
//! For each certificate a CSR's signature is verified (P-256), a certificate is signed (P-256), and a token is verified (RS256); with a new
//! connection for each, there is also the server's half of a TLS 1.3 handshake. Each is ring's or rustls's own call and nothing around it, timed in
//! processor time of the calling thread.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair,
    UnparsedPublicKey,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use serde::Serialize;
use x509_parser::prelude::{FromDer, X509CertificationRequest};

use super::super::csr_client::{KeyType, make_key};
use super::process::thread_cpu;
use super::target::agents_provider;

/// Processor time of each piece, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Floor {
    /// Verifying the signature of a CSR with a P-256 key.
    pub p256_verify_us: f64,
    /// Signing a certificate with a P-256 key.
    pub p256_sign_us: f64,
    /// Verifying the signature of a token with an RSA key of 2048 bits.
    pub rs256_verify_us: f64,
    /// The server's half of a TLS 1.3 handshake: X25519, AES-128-GCM, a leaf and an intermediate with P-256 keys, no client certificate.
    pub handshake_us: f64,
}

/// Why it can't be measured: cryptography failed that can't fail, or the machine gives no randomness.
#[derive(Debug, thiserror::Error)]
#[error("the cryptography can't be measured: {0}")]
pub struct FloorError(String);

impl FloorError {
    fn of(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }

    fn unspecified(_: ring::error::Unspecified) -> Self {
        Self("ring refused".to_owned())
    }
}

/// Bytes of a token that are signed: header and claims of a bound service-account token, base64url.
const TOKEN_BYTES: usize = 1_000;
/// Bytes of a leaf that are signed.
const LEAF_BYTES: usize = 450;
/// Iterations between two readings of the time.
const ROUND: u32 = 16;

impl Floor {
    /// Measures each of the four pieces for as long as `each`, in processor time.
    ///
    /// # Errors
    /// [`FloorError`].
    pub fn measure(each: Duration) -> Result<Self, FloorError> {
        Ok(Self {
            p256_verify_us: p256_verify(each)?,
            p256_sign_us: p256_sign(each)?,
            rs256_verify_us: rs256_verify(each)?,
            handshake_us: handshake(each)?,
        })
    }

    /// The mean of two measurements, one from before a load and one from after it: a machine whose speed drifts shows in neither alone.
    pub fn mean(self, other: Self) -> Self {
        Self {
            p256_verify_us: f64::midpoint(self.p256_verify_us, other.p256_verify_us),
            p256_sign_us: f64::midpoint(self.p256_sign_us, other.p256_sign_us),
            rs256_verify_us: f64::midpoint(self.rs256_verify_us, other.rs256_verify_us),
            handshake_us: f64::midpoint(self.handshake_us, other.handshake_us),
        }
    }

    /// What each certificate needs on a kept connection: verify, sign, verify the token.
    pub fn sum_us(&self) -> f64 {
        self.p256_verify_us + self.p256_sign_us + self.rs256_verify_us
    }

    /// What it needs with a new connection.
    pub fn sum_with_handshake_us(&self) -> f64 {
        self.sum_us() + self.handshake_us
    }
}

/// Microseconds of processor time for each call of `work`, over at least `each`; the first rounds warm the caches and don't count.
fn time(each: Duration, mut work: impl FnMut() -> Result<(), FloorError>) -> Result<f64, FloorError> {
    for _ in 0..ROUND * 2 {
        work()?;
    }
    let (began, mut calls) = (thread_cpu(), 0_u32);
    loop {
        for _ in 0..ROUND {
            work()?;
        }
        calls += ROUND;
        let used = thread_cpu().saturating_sub(began);
        if used >= each {
            return Ok(used.as_secs_f64() * 1e6 / f64::from(calls));
        }
    }
}

fn p256_verify(each: Duration) -> Result<f64, FloorError> {
    let key = rcgen::KeyPair::generate().map_err(FloorError::of)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(FloorError::of)?;
    let (_, request) = X509CertificationRequest::from_der(request.der()).map_err(FloorError::of)?;
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, rcgen::PublicKeyData::der_bytes(&key));
    let (signed, signature) = (request.certification_request_info.raw, &request.signature_value.data);
    time(each, || public.verify(black_box(signed), black_box(signature)).map_err(FloorError::unspecified))
}

fn p256_sign(each: Duration) -> Result<f64, FloorError> {
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).map_err(FloorError::unspecified)?;
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.as_ref(), &random).map_err(FloorError::of)?;
    let leaf = [7; LEAF_BYTES];
    time(each, || key.sign(&random, black_box(&leaf)).map(|signature| _ = black_box(signature)).map_err(FloorError::unspecified))
}

fn rs256_verify(each: Duration) -> Result<f64, FloorError> {
    let key = make_key(KeyType::Rsa2048).map_err(FloorError::of)?;
    let key = RsaKeyPair::from_pkcs8(key.to_pkcs8_der().secret_pkcs8_der()).map_err(FloorError::of)?;
    let token = [b'a'; TOKEN_BYTES];
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), &token, &mut signature).map_err(FloorError::unspecified)?;
    let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_key().as_ref());
    time(each, || public.verify(black_box(&token), black_box(&signature)).map_err(FloorError::unspecified))
}

/// Both halves run here, without a network; only the calls of the server's are timed.
fn handshake(each: Duration) -> Result<f64, FloorError> {
    let (client, server) = tls_configs()?;
    let name = ServerName::try_from("localhost").map_err(FloorError::of)?;
    let once = |count: bool, used: &mut Duration| -> Result<(), FloorError> {
        let mut client = ClientConnection::new(client.clone(), name.clone()).map_err(FloorError::of)?;
        let mut timed = Duration::ZERO;
        let mut begin = thread_cpu();
        let mut connection = ServerConnection::new(server.clone()).map_err(FloorError::of)?;
        timed += thread_cpu().saturating_sub(begin);
        while client.is_handshaking() || connection.is_handshaking() {
            let (mut there, mut back) = (Vec::new(), Vec::new());
            client.write_tls(&mut there).map_err(FloorError::of)?;
            begin = thread_cpu();
            let mut unread = there.as_slice();
            while !unread.is_empty() {
                connection.read_tls(&mut unread).map_err(FloorError::of)?;
                connection.process_new_packets().map_err(FloorError::of)?;
            }
            while connection.wants_write() {
                connection.write_tls(&mut back).map_err(FloorError::of)?;
            }
            timed += thread_cpu().saturating_sub(begin);
            let mut unread = back.as_slice();
            while !unread.is_empty() {
                client.read_tls(&mut unread).map_err(FloorError::of)?;
                client.process_new_packets().map_err(FloorError::of)?;
            }
        }
        begin = thread_cpu();
        drop(connection);
        timed += thread_cpu().saturating_sub(begin);
        if count {
            *used += timed;
        }
        Ok(())
    };
    let (mut used, mut handshakes) = (Duration::ZERO, 0_u32);
    for _ in 0..ROUND {
        once(false, &mut used)?;
    }
    while used < each {
        once(true, &mut used)?;
        handshakes += 1;
    }
    Ok(used.as_secs_f64() * 1e6 / f64::from(handshakes))
}

/// A server with a chain in the shape of ours, leaf and intermediate, and as it is set up there (no tickets); a client that trusts its root.
fn tls_configs() -> Result<(Arc<ClientConfig>, Arc<ServerConfig>), FloorError> {
    let authority = || {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    };
    let generate = || rcgen::KeyPair::generate().map_err(FloorError::of);
    let root = CertifiedIssuer::self_signed(authority(), generate()?).map_err(FloorError::of)?;
    let intermediate = CertifiedIssuer::signed_by(authority(), generate()?, &root).map_err(FloorError::of)?;
    let mut params = CertificateParams::new(["localhost".to_owned()]).map_err(FloorError::of)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = generate()?;
    let leaf = params.signed_by(&key, &intermediate).map_err(FloorError::of)?;

    let chain: Vec<CertificateDer<'static>> = vec![leaf.der().clone(), intermediate.der().clone()];
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(FloorError::of)?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .map_err(FloorError::of)?;
    server.alpn_protocols = vec![b"h2".to_vec()];
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;

    let mut roots = RootCertStore::empty();
    roots.add(root.der().clone()).map_err(FloorError::of)?;
    let client = ClientConfig::builder_with_provider(agents_provider()).with_protocol_versions(&[&rustls::version::TLS13]).map_err(FloorError::of)?;
    let mut client = client.with_root_certificates(roots).with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec()];
    client.resumption = rustls::client::Resumption::disabled();
    Ok((Arc::new(client), Arc::new(server)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_measured() {
        let floor = Floor::measure(Duration::from_millis(1)).unwrap();
        for piece in [floor.p256_verify_us, floor.p256_sign_us, floor.rs256_verify_us, floor.handshake_us] {
            assert!(piece > 1.0, "{floor:?}");
        }
        let sum = floor.p256_verify_us + floor.p256_sign_us + floor.rs256_verify_us;
        let twice = Floor { p256_sign_us: floor.p256_sign_us * 3.0, ..floor };
        let mean = floor.mean(twice);
        assert!((mean.p256_sign_us / floor.p256_sign_us - 2.0).abs() < 1e-9 && (mean.handshake_us - floor.handshake_us).abs() < 1e-9);
        assert!((floor.sum_us() - sum).abs() < 1e-9 && (floor.sum_with_handshake_us() - sum - floor.handshake_us).abs() < 1e-9);
    }
}
