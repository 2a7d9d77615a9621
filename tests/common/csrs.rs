//! Keys and requests of workloads, and what is read out of the answers.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "every suite uses its own part")]

use meshmint::server::proto::istio::IstioCertificateRequest;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

/// A P-256 key and a request for it as ztunnel makes it.
pub fn key_and_csr() -> (KeyPair, String) {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    let csr = pem("CERTIFICATE REQUEST", parameters.serialize_request(&key).unwrap().der());
    (key, csr)
}

/// A good request.
pub fn request() -> IstioCertificateRequest {
    request_for(&key_and_csr().1)
}

/// A request for this CSR with the default lifetime.
pub fn request_for(csr: &str) -> IstioCertificateRequest {
    IstioCertificateRequest { csr: csr.to_owned(), validity_duration: 0, metadata: None }
}

/// A private key as PEM.
pub fn key_pem(key: &KeyPair) -> String {
    pem("PRIVATE KEY", key.serialized_der())
}

pub fn pem(label: &str, der: &[u8]) -> String {
    pem_rfc7468::encode_string(label, pem_rfc7468::LineEnding::LF, der).unwrap()
}

pub fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// Reads one certificate.
pub fn read<T>(pem: &str, look: impl FnOnce(&X509Certificate<'_>) -> T) -> T {
    let der = der(pem);
    let (rest, certificate) = X509Certificate::from_der(&der).unwrap();
    assert!(rest.is_empty());
    look(&certificate)
}

/// The only name of a leaf; anything beside one URI fails the test.
pub fn spiffe_id(pem: &str) -> String {
    read(pem, |certificate| {
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        assert!(names.critical);
        match names.value.general_names.as_slice() {
            [GeneralName::URI(id)] => (*id).to_owned(),
            names => panic!("{names:?}"),
        }
    })
}

/// Seconds from now to notAfter, and from notBefore to now.
pub fn lifetime(pem: &str) -> (i64, i64) {
    let now = super::tokens::now();
    read(pem, |certificate| {
        let validity = certificate.validity();
        (validity.not_after.timestamp() - now, now - validity.not_before.timestamp())
    })
}

/// Fails unless a leaf is what we make of every request: nothing of what the CSR asked for.
pub fn assert_plain_leaf(pem: &str) {
    read(pem, |certificate| {
        assert_eq!(certificate.subject().iter().count(), 0);
        assert!(!certificate.is_ca());
        let usage = certificate.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign());
        let extended = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.server_auth && extended.client_auth && !extended.any && extended.other.is_empty());
        for extension in certificate.extensions() {
            let known = !matches!(extension.parsed_extension(), ParsedExtension::UnsupportedExtension { .. } | ParsedExtension::ParseError { .. });
            assert!(known, "{}", extension.oid);
        }
    });
}
