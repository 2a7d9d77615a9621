//! From a decision to a certificate, in two steps: [`prepare`] makes the to-be-signed bytes and lints them, [`Prepared::sign`] signs them.
//!
//! A [`Prepared`] can only come from here, knows who signs it, and is consumed by signing: what was not linted can't be
//! signed, and nobody but the issuer that it was linted for can sign it. The lint reads the very bytes that are signed, not
//! the request that led to them (OpenBao's GHSA-g892-p242-8g86 looked at the request).

use rcgen::SigningKey;
use rustls_pki_types::{AlgorithmIdentifier, CertificateDer};

use super::der::{Der, tag};
use super::lint::{LintError, lint};
use super::subject::{IssuedBy, Serial, Subject};
use super::{Validity, tbs};

/// Why nothing may be signed. Each of these is a bug of ours or a mistake in the configuration, never a caller's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrepareError {
    /// A name that can't be written into a certificate.
    #[error("{0:?} can't be a name in a certificate")]
    Name(String),
    /// The issuer's key is of a kind that signs no certificates here.
    #[error("the issuer's key does not sign with the algorithm of the certificate")]
    SignatureAlgorithm,
    /// ring could not sign.
    #[error("the certificate could not be signed: {0}")]
    Signing(String),
    /// The lint found something.
    #[error(transparent)]
    Lint(#[from] LintError),
}

/// Linted to-be-signed bytes, good for one signature of the issuer that they name.
#[derive(Debug)]
pub struct Prepared<'i> {
    tbs: Vec<u8>,
    signature_algorithm: AlgorithmIdentifier,
    issuer: IssuedBy<'i>,
}

/// Makes the to-be-signed bytes of a certificate and lints them.
///
/// # Errors
/// [`PrepareError`].
pub fn prepare<'i>(subject: &Subject<'_>, serial: Serial, validity: Validity, issuer: IssuedBy<'i>) -> Result<Prepared<'i>, PrepareError> {
    let signature_algorithm = issuer.key().signature_algorithm().ok_or(PrepareError::SignatureAlgorithm)?;
    let tbs = tbs::write(subject, serial, validity, &issuer, signature_algorithm)?;
    lint(&tbs, subject, serial, validity, &issuer)?;
    Ok(Prepared { tbs, signature_algorithm, issuer })
}

impl Prepared<'_> {
    #[cfg(test)]
    pub(super) fn into_tbs(self) -> Vec<u8> {
        self.tbs
    }

    /// Signs.
    ///
    /// # Errors
    /// [`PrepareError::Signing`] where ring can't sign.
    pub fn sign(self) -> Result<CertificateDer<'static>, PrepareError> {
        let signature = self.issuer.key().pair().sign(&self.tbs).map_err(|error| PrepareError::Signing(error.to_string()))?;
        // What stands around them, tags, lengths and the algorithm, has 40 bytes at most.
        let mut der = Der::with_capacity(self.tbs.len() + signature.len() + 40);
        der.sequence(|certificate| {
            certificate.raw(&self.tbs);
            certificate.value(tag::SEQUENCE, &self.signature_algorithm);
            certificate.bit_string(&signature);
        });
        Ok(CertificateDer::from(der.into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyUsagePurpose};
    use time::macros::datetime;
    use x509_parser::certificate::X509Certificate;
    use x509_parser::prelude::FromDer;

    use super::*;
    use crate::clock::SystemEntropy;
    use crate::pki::{IssuerKey, KeyAlgorithm, Signer, check_csr};
    use crate::spiffe::TrustDomain;

    const NOW: time::OffsetDateTime = datetime!(2026-11-23 12:00:00 UTC);
    const LONG: Validity = Validity { not_before: NOW, not_after: datetime!(2027-11-23 12:00:00 UTC) };
    const SHORT: Validity = Validity { not_before: NOW, not_after: datetime!(2026-11-24 12:00:00 UTC) };

    fn key() -> IssuerKey {
        IssuerKey::generate(KeyAlgorithm::P256).unwrap()
    }

    fn serial() -> Serial {
        Serial::draw(SystemEntropy::shared().as_ref(), NOW).unwrap()
    }

    fn domain() -> TrustDomain {
        "cluster.local".parse().unwrap()
    }

    fn root() -> Signer {
        let root_key = key();
        let public_key = root_key.public_key().unwrap();
        let issuer = IssuedBy::Itself(&root_key);
        let subject = Subject::Root { trust_domain: &domain(), name: "root", key: &public_key };
        let certificate = prepare(&subject, serial(), LONG, issuer).unwrap().sign().unwrap();
        Signer::new(&certificate, root_key).unwrap()
    }

    fn leaf_below(signer: &Signer, validity: Validity) -> Result<CertificateDer<'static>, PrepareError> {
        let id = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
        let key = key().public_key().unwrap();
        let issuer = IssuedBy::Signer(signer);
        prepare(&Subject::Leaf { id: &id, key: &key }, serial(), validity, issuer)?.sign()
    }

    #[test]
    fn a_leaf_is_what_istio_and_spiffe_expect() {
        let root = root();
        let der = leaf_below(&root, SHORT).unwrap();
        let (_, leaf) = X509Certificate::from_der(&der).unwrap();
        assert!(leaf.verify_signature(Some(&X509Certificate::from_der(root.certificate()).unwrap().1.tbs_certificate.subject_pki)).is_ok());
        assert_eq!(leaf.subject().iter().count(), 0);
        let san = leaf.subject_alternative_name().unwrap().unwrap();
        assert!(san.critical && san.value.general_names.len() == 1);
        assert!(leaf.key_usage().unwrap().unwrap().critical && leaf.key_usage().unwrap().unwrap().value.flags == 1);
        let usage = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && usage.client_auth);
        assert!(!leaf.is_ca() && leaf.basic_constraints().unwrap().is_some());
        assert_eq!(leaf.raw_serial().len(), 20);
        assert!(leaf.raw_serial()[0] & 0x80 == 0);
    }

    #[test]
    fn a_serving_certificate_has_names_and_no_identity() {
        let root = root();
        let server = key().public_key().unwrap();
        let names = ["localhost".to_owned(), "istiod.istio-system.svc".to_owned()];
        let subject = Subject::Serving { dns_names: &names, ip_addresses: &["127.0.0.1".parse().unwrap()], key: &server };
        let issuer = IssuedBy::Signer(&root);
        let der = prepare(&subject, serial(), SHORT, issuer).unwrap().sign().unwrap();
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(certificate.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 3);
        assert!(!certificate.extended_key_usage().unwrap().unwrap().value.client_auth);
        let bad = Subject::Serving { dns_names: &["ä".to_owned()], ip_addresses: &[], key: &server };
        assert_eq!(prepare(&bad, serial(), SHORT, issuer).unwrap_err(), PrepareError::Name("ä".to_owned()));
    }

    #[test]
    fn nothing_outlives_its_issuer() {
        let validity = Validity { not_after: LONG.not_after + time::Duration::seconds(1), ..LONG };
        let error = leaf_below(&root(), validity).unwrap_err();
        assert!(matches!(error, PrepareError::Lint(LintError { section: "RFC 5280 §6.1.3", .. })), "{error}");
    }

    #[test]
    fn an_imported_issuers_name_is_taken_over_to_the_byte() {
        // Two values of one type and an old string type: rcgen could not write this name.
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationalUnitName, rcgen::DnValue::TeletexString("old".try_into().unwrap()));
        params.distinguished_name.push(DnType::CommonName, rcgen::DnValue::PrintableString("CA".try_into().unwrap()));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_after = LONG.not_after;
        let imported_key = key();
        let certificate = params.self_signed(imported_key.pair()).unwrap();
        let signer = Signer::new(certificate.der(), imported_key).unwrap();
        let der = leaf_below(&signer, SHORT).unwrap();
        let (_, leaf) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(leaf.issuer().as_raw(), X509Certificate::from_der(certificate.der()).unwrap().1.subject().as_raw());
    }

    #[test]
    fn every_kind_of_issuer_signs_with_its_own_algorithm() {
        let pems = [
            include_str!("../../tests/corpus/keys/p256-sec1.pem"),
            include_str!("../../tests/corpus/keys/p384-sec1.pem"),
            include_str!("../../tests/corpus/keys/ed25519-pkcs8.pem"),
            include_str!("../../tests/corpus/keys/rsa2048-pkcs1.pem"),
        ];
        let keys = pems.map(|pem| IssuerKey::from_pem(pem).unwrap());
        for key in &keys {
            let public_key = key.public_key().unwrap();
            let subject = Subject::Root { trust_domain: &domain(), name: "root", key: &public_key };
            let certificate = prepare(&subject, serial(), LONG, IssuedBy::Itself(key)).unwrap().sign().unwrap();
            let (rest, read) = X509Certificate::from_der(&certificate).unwrap();
            assert!(rest.is_empty() && read.verify_signature(None).is_ok(), "{key:?}");
            assert_eq!(read.signature_algorithm, read.tbs_certificate.signature);
        }
    }

    #[test]
    fn what_a_request_asks_for_never_reaches_a_certificate() {
        let root = root();
        let own = key();
        let mut wishes = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
        wishes.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        wishes.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let csr = wishes.serialize_request(own.pair()).unwrap();
        let csr = pem_rfc7468::encode_string("CERTIFICATE REQUEST", pem_rfc7468::LineEnding::LF, csr.der()).unwrap();
        let checked = check_csr(&csr).unwrap();
        let id = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
        let issuer = IssuedBy::Signer(&root);
        let der = prepare(&Subject::Leaf { id: &id, key: &checked }, serial(), SHORT, issuer).unwrap().sign().unwrap();
        let text = String::from_utf8_lossy(&der);
        assert!(!text.contains("evil.example"));
        assert!(!X509Certificate::from_der(&der).unwrap().1.is_ca());
    }
}
