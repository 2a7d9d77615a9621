//! From a decision to a certificate, in two steps: [`prepare`] makes the to-be-signed bytes and lints them, [`Prepared::sign`] signs them.
//!
//! A [`Prepared`] can only come from here and is consumed by signing, so what was not linted can't be signed. The lint reads the
//! very bytes that are signed, not the request that led to them (OpenBao's GHSA-g892-p242-8g86 looked at the request).

use std::cell::RefCell;
use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SigningKey,
};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::TbsCertificate;
use x509_parser::prelude::FromDer;

use super::public_key::{CheckedKey, PublicKeyAlgorithm};
use super::{IssuerKey, Signer, Validity};
use crate::clock::{Entropy, NoEntropy};
use crate::spiffe::{SpiffeId, TrustDomain, x509_svid};

/// A serial number: four octets of time for locality in the ledger, then 128 random bits. Positive, 20 octets (RFC 5280 §4.1.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serial([u8; 20]);

impl Serial {
    /// Draws a serial.
    ///
    /// # Errors
    /// [`NoEntropy`].
    pub fn draw(entropy: &dyn Entropy, now: time::OffsetDateTime) -> Result<Self, NoEntropy> {
        let mut bytes = [0; 20];
        entropy.fill(&mut bytes)?;
        // In steps of four seconds the first bit stays 0, and the number positive, until the year 2242.
        let steps = u32::try_from(now.unix_timestamp() >> 2).unwrap_or(0) & 0x7fff_ffff;
        for (byte, prefix) in bytes.iter_mut().zip(steps.max(1 << 24).to_be_bytes()) {
            *byte = prefix;
        }
        Ok(Self(bytes))
    }

    /// The octets, big-endian.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What is to be certified. Everything that a certificate of each kind holds is decided here.
#[derive(Debug, Clone)]
pub enum Subject<'a> {
    /// A workload's X509-SVID: empty subject, one critical URI SAN.
    Leaf {
        /// Its identity.
        id: &'a SpiffeId,
        /// Its key.
        key: &'a CheckedKey,
    },
    /// A TLS server's certificate for clients that check a host name.
    Serving {
        /// DNS names; the host of Istio's `caAddress` among them.
        dns_names: &'a [String],
        /// IP addresses.
        ip_addresses: &'a [IpAddr],
        /// The server's key.
        key: &'a CheckedKey,
    },
    /// An authority that signs leaves only (`pathlen:0`).
    Issuing {
        /// Its trust domain (X509-SVID §4.1: a URI SAN without a path).
        trust_domain: &'a TrustDomain,
        /// Its common name, never used before: Go's verifier gives up on many issuers of one name.
        name: &'a str,
        /// Its key.
        key: &'a CheckedKey,
    },
    /// A self-signed root.
    Root {
        /// Its trust domain.
        trust_domain: &'a TrustDomain,
        /// Its common name, never used before.
        name: &'a str,
        /// Its key.
        key: &'a CheckedKey,
    },
}

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
    #[error("the certificate would break {section}: {what}")]
    Lint {
        /// The rule.
        section: &'static str,
        /// What is wrong.
        what: String,
    },
}

/// Linted to-be-signed bytes, good for one signature.
#[derive(Debug)]
pub struct Prepared {
    tbs: Vec<u8>,
    signature_algorithm: Vec<u8>,
}

/// Makes the to-be-signed bytes of a certificate and lints them. `issuer` is `None` for a root, which signs itself with `key_of_root`.
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

/// Who signs.
#[derive(Debug, Clone, Copy)]
pub enum IssuedBy<'a> {
    /// An authority.
    Signer(&'a Signer),
    /// The certified key itself.
    Itself(&'a IssuerKey),
}

impl IssuedBy<'_> {
    fn key(&self) -> &IssuerKey {
        match self {
            Self::Signer(signer) => signer.key(),
            Self::Itself(key) => key,
        }
    }
}

impl Prepared {
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

impl Subject<'_> {
    fn key(&self) -> &CheckedKey {
        match self {
            Self::Leaf { key, .. } | Self::Serving { key, .. } | Self::Issuing { key, .. } | Self::Root { key, .. } => key,
        }
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

/// Reads the bytes that will be signed and holds them against what was decided and against the rules.
fn lint(tbs: &[u8], subject: &Subject<'_>, serial: Serial, validity: Validity, issuer: &IssuedBy<'_>) -> Result<(), PrepareError> {
    let broken = |section, what: &str| Err(PrepareError::Lint { section, what: what.to_owned() });
    let (rest, read) = TbsCertificate::from_der(tbs).map_err(|error| PrepareError::Encoding(error.to_string()))?;
    if !rest.is_empty() {
        return broken("RFC 5280 §4.1", "something follows the TBSCertificate");
    }
    if read.raw_serial() != serial.as_bytes() {
        return broken("RFC 5280 §4.1.2.2", "not the serial that was drawn");
    }
    if (read.validity().not_before.to_datetime(), read.validity().not_after.to_datetime()) != (validity.not_before, validity.not_after) {
        return broken("RFC 5280 §4.1.2.5", "not the validity that was decided");
    }
    if let IssuedBy::Signer(signer) = issuer {
        if read.issuer().as_raw() != signer.subject() {
            return broken("RFC 5280 §4.1.2.4", "not the issuer's subject");
        }
        if validity.not_after > signer.not_after() {
            return broken("RFC 5280 §6.1.3", "outlives its issuer");
        }
    }
    if read.public_key().raw != subject.key().to_der() {
        return broken("RFC 5280 §4.1.2.7", "not the key that was checked");
    }
    let departures = match subject {
        Subject::Leaf { id, .. } => {
            if read.subject().iter().next().is_some() {
                return broken("RFC 5280 §4.1.2.6", "a leaf has no subject");
            }
            match x509_svid::svid_id(&read) {
                Ok(found) if found == **id => {}
                _ => return broken("X509-SVID §2", "not the identity that was decided"),
            }
            x509_svid::leaf_departures(&read)
        }
        Subject::Issuing { .. } | Subject::Root { .. } => x509_svid::signing_departures(&read),
        Subject::Serving { .. } => {
            if read.is_ca() {
                return broken("RFC 5280 §4.2.1.9", "a server is no CA");
            }
            return Ok(());
        }
    };
    match departures.into_iter().next() {
        Some(departure) => Err(PrepareError::Lint { section: departure.section, what: departure.what.to_string() }),
        None => Ok(()),
    }
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
