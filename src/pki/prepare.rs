//! From a decision to a certificate, in two steps: [`prepare`] makes the to-be-signed bytes and lints them, [`Prepared::sign`] signs them.
//!
//! A [`Prepared`] can only come from here and is consumed by signing, so what was not linted can't be signed. The lint reads the
//! very bytes that are signed, not the request that led to them (OpenBao's GHSA-g892-p242-8g86 looked at the request).

use std::cell::RefCell;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SigningKey,
};
use rustls_pki_types::CertificateDer;

use super::Validity;
use super::lint::{LintError, lint};
use super::public_key::{CheckedKey, PublicKeyAlgorithm};
use super::subject::{IssuedBy, Serial, Subject};
use crate::spiffe::TrustDomain;

/// Why nothing may be signed. Each of these is a bug of ours or a mistake in the configuration, never a caller's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrepareError {
    /// A name that can't be written into a certificate.
    #[error("{0:?} can't be a name in a certificate")]
    Name(String),
    /// The encoder failed.
    #[error("the certificate could not be encoded: {0}")]
    Encoding(String),
    /// The lint found something.
    #[error(transparent)]
    Lint(#[from] LintError),
}

/// Linted to-be-signed bytes, good for one signature.
#[derive(Debug)]
pub struct Prepared {
    tbs: Vec<u8>,
    signature_algorithm: Vec<u8>,
}

/// Makes the to-be-signed bytes of a certificate and lints them.
///
/// # Errors
/// [`PrepareError`].
pub fn prepare(subject: &Subject<'_>, serial: Serial, validity: Validity, issuer: &IssuedBy<'_>) -> Result<Prepared, PrepareError> {
    let mut params = parameters(subject)?;
    params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
    params.not_before = validity.not_before;
    params.not_after = validity.not_after;
    params.use_authority_key_identifier_extension = true;

    let key = subject.key();
    // rcgen's own identifier is a hash of the whole SubjectPublicKeyInfo, which no RFC describes.
    params.key_identifier_method = KeyIdMethod::PreSpecified(key.identifier());
    let identifier = match issuer {
        IssuedBy::Signer(signer) => signer.key_identifier().to_vec(),
        IssuedBy::Itself(_) => key.identifier(),
    };
    let mut issuer_params = CertificateParams::default();
    issuer_params.distinguished_name = DistinguishedName::new();
    issuer_params.key_identifier_method = KeyIdMethod::PreSpecified(identifier);
    let recorder = Recorder { algorithm: issuer.key().pair().algorithm(), tbs: RefCell::default() };
    params.signed_by(key.info(), &Issuer::from_params(&issuer_params, &recorder)).map_err(|error| PrepareError::Encoding(error.to_string()))?;

    let (tbs, signature_algorithm) = with_issuer_name(&recorder.tbs.into_inner(), issuer)?;
    lint(&tbs, subject, serial, validity, issuer)?;
    Ok(Prepared { tbs, signature_algorithm })
}

impl Prepared {
    #[cfg(test)]
    pub(super) fn into_tbs(self) -> Vec<u8> {
        self.tbs
    }

    /// Signs. The issuer must be the one that was prepared for: another key's algorithm is refused, another key of that algorithm
    /// makes a certificate that verifies nowhere.
    ///
    /// # Errors
    /// [`PrepareError::Encoding`] where ring can't sign.
    pub fn sign(self, issuer: &IssuedBy<'_>) -> Result<CertificateDer<'static>, PrepareError> {
        let signature = issuer.key().pair().sign(&self.tbs).map_err(|error| PrepareError::Encoding(error.to_string()))?;
        let der = yasna::construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_der(&self.tbs);
                writer.next().write_der(&self.signature_algorithm);
                writer.next().write_bitvec_bytes(&signature, signature.len() * 8);
            });
        });
        Ok(CertificateDer::from(der))
    }
}

fn parameters(subject: &Subject<'_>) -> Result<CertificateParams, PrepareError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    match subject {
        Subject::Leaf { id, key } => {
            params.subject_alt_names = vec![uri(&id.to_string())?];
            end_entity(&mut params, key);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        }
        Subject::Serving { dns_names, ip_addresses, key } => {
            let names = dns_names.iter().map(|name| name.as_str().try_into().map(SanType::DnsName).map_err(|_| PrepareError::Name(name.clone())));
            params.subject_alt_names = names.collect::<Result<Vec<_>, _>>()?;
            params.subject_alt_names.extend(ip_addresses.iter().copied().map(SanType::IpAddress));
            end_entity(&mut params, key);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        }
        Subject::Issuing { trust_domain, name, .. } => authority(&mut params, trust_domain, name, BasicConstraints::Constrained(0))?,
        Subject::Root { trust_domain, name, .. } => authority(&mut params, trust_domain, name, BasicConstraints::Unconstrained)?,
    }
    Ok(params)
}

fn end_entity(params: &mut CertificateParams, key: &CheckedKey) {
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if matches!(key.algorithm(), PublicKeyAlgorithm::Rsa { .. }) {
        // RFC 4492 and TLS 1.3 never use it; RSA key exchange in old TLS 1.2 peers does.
        params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
    }
}

fn authority(params: &mut CertificateParams, trust_domain: &TrustDomain, name: &str, constraints: BasicConstraints) -> Result<(), PrepareError> {
    params.distinguished_name.push(DnType::OrganizationName, trust_domain.as_str());
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![uri(&trust_domain.id())?];
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(())
}

fn uri(text: &str) -> Result<SanType, PrepareError> {
    text.try_into().map(SanType::URI).map_err(|_| PrepareError::Name(text.to_owned()))
}

/// The encoder gets no issuer name; here the issuer's subject takes that place, byte for byte, however it was encoded.
fn with_issuer_name(tbs: &[u8], issuer: &IssuedBy<'_>) -> Result<(Vec<u8>, Vec<u8>), PrepareError> {
    let mut parts = yasna::parse_der(tbs, |reader| {
        reader.read_sequence(|reader| {
            let mut parts = Vec::with_capacity(8);
            while let Some(part) = reader.read_optional(|reader| reader.read_der())? {
                parts.push(part);
            }
            Ok(parts)
        })
    })
    .map_err(|error| PrepareError::Encoding(error.to_string()))?;
    // version, serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo, extensions (RFC 5280 §4.1)
    let [_, _, signature_algorithm, issuer_name, _, subject, _, _] = parts.as_mut_slice() else {
        return Err(PrepareError::Encoding(format!("{} parts in a TBSCertificate", parts.len())));
    };
    *issuer_name = match issuer {
        IssuedBy::Signer(signer) => signer.subject().to_vec(),
        IssuedBy::Itself(_) => subject.clone(),
    };
    let signature_algorithm = signature_algorithm.clone();
    let whole = yasna::construct_der(|writer| writer.write_sequence(|writer| parts.iter().for_each(|part| writer.next().write_der(part))));
    Ok((whole, signature_algorithm))
}

/// Takes down what it is given to sign.
struct Recorder {
    algorithm: &'static SignatureAlgorithm,
    tbs: RefCell<Vec<u8>>,
}

impl PublicKeyData for Recorder {
    fn der_bytes(&self) -> &[u8] {
        &[]
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

impl SigningKey for Recorder {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        *self.tbs.borrow_mut() = message.to_vec();
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;
    use x509_parser::certificate::X509Certificate;
    use x509_parser::prelude::FromDer;

    use super::*;
    use crate::clock::SystemEntropy;
    use crate::pki::{IssuerKey, KeyAlgorithm, Signer, check_csr};

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
        let certificate = prepare(&subject, serial(), LONG, &issuer).unwrap().sign(&issuer).unwrap();
        Signer::new(&certificate, root_key).unwrap()
    }

    fn leaf_below(signer: &Signer, validity: Validity) -> Result<CertificateDer<'static>, PrepareError> {
        let id = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
        let key = key().public_key().unwrap();
        let issuer = IssuedBy::Signer(signer);
        prepare(&Subject::Leaf { id: &id, key: &key }, serial(), validity, &issuer)?.sign(&issuer)
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
        let der = prepare(&subject, serial(), SHORT, &issuer).unwrap().sign(&issuer).unwrap();
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(certificate.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 3);
        assert!(!certificate.extended_key_usage().unwrap().unwrap().value.client_auth);
        let bad = Subject::Serving { dns_names: &["ä".to_owned()], ip_addresses: &[], key: &server };
        assert_eq!(prepare(&bad, serial(), SHORT, &issuer).unwrap_err(), PrepareError::Name("ä".to_owned()));
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
        let der = prepare(&Subject::Leaf { id: &id, key: &checked }, serial(), SHORT, &issuer).unwrap().sign(&issuer).unwrap();
        let text = String::from_utf8_lossy(&der);
        assert!(!text.contains("evil.example"));
        assert!(!X509Certificate::from_der(&der).unwrap().1.is_ca());
    }
}
