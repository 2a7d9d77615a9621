//! A key together with the certificate that makes it an authority.

use ring::digest::{SHA256, digest};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

use super::IssuerKey;

/// An authority that can sign: its key, its certificate, and what goes from the certificate into every certificate below it.
#[derive(Debug, Clone)]
pub struct Signer {
    key: IssuerKey,
    certificate: CertificateDer<'static>,
    subject: Vec<u8>,
    key_identifier: Vec<u8>,
    not_after: OffsetDateTime,
    may_sign_authorities: bool,
    may_sign_crls: bool,
}

/// Why a certificate and a key don't make an authority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignerError {
    /// Not DER of a certificate.
    #[error("it is not an X.509 certificate")]
    Malformed,
    /// Certificate and key don't belong together.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// Not a CA (RFC 5280 §4.2.1.9).
    #[error("the certificate is not a CA certificate (basicConstraints CA:TRUE)")]
    NotAnAuthority,
    /// keyUsage is there without keyCertSign (RFC 5280 §4.2.1.3).
    #[error("the certificate's keyUsage does not allow signing certificates (keyCertSign)")]
    MayNotSign,
    /// No subject: nothing could name it as issuer (RFC 5280 §4.1.2.4).
    #[error("the certificate has an empty subject, so nothing can be issued below it")]
    NoSubject,
}

impl Signer {
    /// Puts a certificate and its key together.
    ///
    /// # Errors
    /// [`SignerError`].
    pub fn new(certificate: &[u8], key: IssuerKey) -> Result<Self, SignerError> {
        let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|_| SignerError::Malformed)?;
        if !rest.is_empty() {
            return Err(SignerError::Malformed);
        }
        if parsed.public_key().raw != key.public_key_info() {
            return Err(SignerError::KeyMismatch);
        }
        let constraints = parsed.basic_constraints().ok().flatten().ok_or(SignerError::NotAnAuthority)?.value;
        if !constraints.ca {
            return Err(SignerError::NotAnAuthority);
        }
        let usage = parsed.key_usage().map_err(|_| SignerError::Malformed)?.map(|usage| usage.value);
        if usage.is_some_and(|usage| !usage.key_cert_sign()) {
            return Err(SignerError::MayNotSign);
        }
        if parsed.subject().iter().next().is_none() {
            return Err(SignerError::NoSubject);
        }
        Ok(Self {
            subject: parsed.subject().as_raw().to_vec(),
            key_identifier: key_identifier(&parsed),
            not_after: parsed.validity().not_after.to_datetime(),
            may_sign_authorities: constraints.path_len_constraint != Some(0),
            may_sign_crls: usage.is_none_or(|usage| usage.crl_sign()),
            certificate: CertificateDer::from(certificate.to_vec()),
            key,
        })
    }

    /// The key.
    pub fn key(&self) -> &IssuerKey {
        &self.key
    }

    /// The certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The subject, DER: the issuer name of everything below (RFC 5280 §7.1: equal to the byte, to be on the safe side).
    pub fn subject(&self) -> &[u8] {
        &self.subject
    }

    /// The subject key identifier: the authority key identifier of everything below (RFC 5280 §4.2.1.1).
    pub fn key_identifier(&self) -> &[u8] {
        &self.key_identifier
    }

    /// notAfter.
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// Whether an authority may stand below it: false below `pathlen:0`.
    pub fn may_sign_authorities(&self) -> bool {
        self.may_sign_authorities
    }

    /// Whether it may sign revocation lists (keyUsage cRLSign).
    pub fn may_sign_crls(&self) -> bool {
        self.may_sign_crls
    }
}

/// The subject key identifier; where a certificate has none, SHA-256 of its key cut to 160 bits (RFC 7093 §2, method 1).
fn key_identifier(certificate: &X509Certificate<'_>) -> Vec<u8> {
    let written = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0.to_vec()),
        _ => None,
    });
    written.unwrap_or_else(|| {
        let digest = digest(&SHA256, certificate.public_key().subject_public_key.data.as_ref());
        digest.as_ref().get(..20).unwrap_or_default().to_vec()
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, IsCa, KeyUsagePurpose};

    use super::*;
    use crate::pki::KeyAlgorithm;

    fn made(spoil: impl FnOnce(&mut CertificateParams)) -> Result<Signer, SignerError> {
        let key = IssuerKey::generate(KeyAlgorithm::P256).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        spoil(&mut params);
        Signer::new(params.self_signed(key.pair()).unwrap().der(), key)
    }

    #[test]
    fn says_what_an_authority_can_do() {
        let plain = made(|_| {}).unwrap();
        assert!(plain.may_sign_authorities() && plain.may_sign_crls());
        let limited = made(|params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        });
        let limited = limited.unwrap();
        assert!(!limited.may_sign_authorities() && !limited.may_sign_crls());
        assert_eq!(limited.key_identifier().len(), 20);
    }

    #[test]
    fn refuses_what_is_no_authority() {
        assert_eq!(made(|params| params.is_ca = IsCa::ExplicitNoCa).unwrap_err(), SignerError::NotAnAuthority);
        assert_eq!(made(|params| params.is_ca = IsCa::NoCa).unwrap_err(), SignerError::NotAnAuthority);
        assert_eq!(made(|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]).unwrap_err(), SignerError::MayNotSign);
        assert_eq!(made(|params| params.distinguished_name = DistinguishedName::new()).unwrap_err(), SignerError::NoSubject);
        let good = made(|_| {}).unwrap();
        let other = IssuerKey::generate(KeyAlgorithm::P256).unwrap();
        assert_eq!(Signer::new(good.certificate(), other.clone()).unwrap_err(), SignerError::KeyMismatch);
        assert_eq!(Signer::new(b"x", other.clone()).unwrap_err(), SignerError::Malformed);
        assert_eq!(Signer::new(&[&good.certificate()[..], &[0]].concat(), other).unwrap_err(), SignerError::Malformed);
    }
}
