//! One certificate, as a person or a program wants to see it.

use std::net::{Ipv4Addr, Ipv6Addr};

use ring::digest::{SHA256, digest};
use serde::Serialize;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName, KeyUsage, SubjectAlternativeName};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_PKCS1_RSASSAPSS, OID_PKCS1_SHA1WITHRSA, OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA,
    OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ECDSA_WITH_SHA512, OID_SIG_ED25519, Oid,
};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{SubjectPublicKeyInfo, X509Name};

use super::super::signed_by::names_another_key;
use super::printable::printable;
use crate::spiffe::x509_svid::{Departure, Extensions, certificate_departures, leaf_departures, signing_departures, svid_id};

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Not a CA, with a URI among its names: a workload's.
    Leaf,
    /// Not a CA, without a URI: a TLS server's.
    Serving,
    /// A CA signed by another.
    Intermediate,
    /// A CA whose issuer is itself.
    Root,
}

impl Kind {
    /// The kind of a certificate, by its basicConstraints and names.
    pub fn of(certificate: &X509Certificate<'_>) -> Self {
        let uri = |names: &SubjectAlternativeName<'_>| names.general_names.iter().any(|name| matches!(name, GeneralName::URI(_)));
        match certificate.is_ca() {
            true if certificate.subject.as_raw() == certificate.issuer.as_raw() && !names_another_key(certificate) => Self::Root,
            true => Self::Intermediate,
            false if Extensions::of(certificate).san.is_some_and(|(names, _)| uri(names)) => Self::Leaf,
            false => Self::Serving,
        }
    }

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leaf => "leaf",
            Self::Serving => "serving",
            Self::Intermediate => "intermediate",
            Self::Root => "root",
        }
    }
}

/// A public key: what it is, and how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyReport {
    /// For example `ECDSA P-256`, `RSA`, `Ed25519`, or an object identifier.
    pub algorithm: String,
    /// Bits, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits: Option<usize>,
}

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateReport {
    /// Its place in the input, from 1.
    pub position: usize,
    /// What it is for.
    pub kind: Kind,
    /// The SPIFFE ID, where it has exactly one URI and that is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spiffe_id: Option<String>,
    /// All its names, each with its type: `URI:…`, `DNS:…`, `IP:…`.
    pub names: Vec<String>,
    /// The serial number, lower-hex.
    pub serial: String,
    /// The subject; empty where there is none.
    pub subject: String,
    /// The issuer.
    pub issuer: String,
    /// The public key.
    pub public_key: KeyReport,
    /// How it is signed, for example `ECDSA with SHA-256`.
    pub signature_algorithm: String,
    /// Its keyUsage in RFC 5280's words (§4.2.1.3), where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_usage: Option<Vec<&'static str>>,
    /// Its extendedKeyUsage, by name or number, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extended_key_usage: Option<Vec<String>>,
    /// How many authorities may stand below it (pathLenConstraint), where that is limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_length: Option<u32>,
    /// Valid from.
    #[serde(with = "time::serde::rfc3339")]
    pub not_before: OffsetDateTime,
    /// Valid to.
    #[serde(with = "time::serde::rfc3339")]
    pub not_after: OffsetDateTime,
    /// Seconds to notAfter; negative once it has expired.
    pub remaining_seconds: i64,
    /// SHA-256 of the DER certificate, lower-hex.
    pub sha256: String,
    /// subjectKeyIdentifier, lower-hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_key_id: Option<String>,
    /// authorityKeyIdentifier, lower-hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority_key_id: Option<String>,
    /// Every departure from the rules for its kind.
    pub departures: Vec<Departure>,
}

impl CertificateReport {
    pub(super) fn of(certificate: &X509Certificate<'_>, position: usize, now: OffsetDateTime) -> Self {
        let extensions = Extensions::of(certificate);
        let kind = Kind::of(certificate);
        let not_after = certificate.validity.not_after.to_datetime();
        Self {
            position,
            kind,
            spiffe_id: svid_id(certificate).ok().map(|id| id.to_string()),
            names: extensions.san.map(|(names, _)| names.general_names.iter().map(general_name).collect()).unwrap_or_default(),
            serial: hex::encode(certificate.raw_serial().strip_prefix(&[0]).filter(|rest| !rest.is_empty()).unwrap_or(certificate.raw_serial())),
            subject: name(&certificate.subject),
            issuer: name(&certificate.issuer),
            public_key: key_report(certificate.public_key()),
            signature_algorithm: signature_algorithm(&certificate.signature_algorithm.algorithm),
            key_usage: extensions.key_usage.map(|(usage, _)| key_usages(usage)),
            extended_key_usage: extensions.extended_key_usage.map(|(usage, _)| purposes(usage)),
            path_length: extensions.basic_constraints.and_then(|(constraints, _)| constraints.path_len_constraint),
            not_before: certificate.validity.not_before.to_datetime(),
            not_after,
            remaining_seconds: (not_after - now).whole_seconds(),
            sha256: hex::encode(digest(&SHA256, certificate.as_raw())),
            subject_key_id: extensions.subject_key.map(|(id, _)| hex::encode(id.0)),
            authority_key_id: extensions.authority_key.and_then(|(key, _)| key.key_identifier.as_ref()).map(|id| hex::encode(id.0)),
            departures: match kind {
                Kind::Leaf => leaf_departures(certificate),
                Kind::Serving => certificate_departures(certificate),
                Kind::Intermediate | Kind::Root => signing_departures(certificate),
            },
        }
    }
}

pub(crate) fn name(name: &X509Name<'_>) -> String {
    printable(&name.to_string())
}

/// RFC 5280 §4.2.1.3.
fn key_usages(usage: &KeyUsage) -> Vec<&'static str> {
    let all = [
        (usage.digital_signature(), "digitalSignature"),
        (usage.non_repudiation(), "nonRepudiation"),
        (usage.key_encipherment(), "keyEncipherment"),
        (usage.data_encipherment(), "dataEncipherment"),
        (usage.key_agreement(), "keyAgreement"),
        (usage.key_cert_sign(), "keyCertSign"),
        (usage.crl_sign(), "cRLSign"),
        (usage.encipher_only(), "encipherOnly"),
        (usage.decipher_only(), "decipherOnly"),
    ];
    all.into_iter().filter(|(set, _)| *set).map(|(_, name)| name).collect()
}

/// RFC 5280 §4.2.1.12.
pub(super) fn purposes(usage: &ExtendedKeyUsage<'_>) -> Vec<String> {
    let named = [
        (usage.any, "any"),
        (usage.server_auth, "serverAuth"),
        (usage.client_auth, "clientAuth"),
        (usage.code_signing, "codeSigning"),
        (usage.email_protection, "emailProtection"),
        (usage.time_stamping, "timeStamping"),
        (usage.ocsp_signing, "OCSPSigning"),
    ];
    let named = named.into_iter().filter(|(set, _)| *set).map(|(_, name)| name.to_owned());
    named.chain(usage.other.iter().map(ToString::to_string)).collect()
}

pub(super) fn general_name(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::URI(uri) => format!("URI:{}", printable(uri)),
        GeneralName::DNSName(dns) => format!("DNS:{}", printable(dns)),
        GeneralName::RFC822Name(address) => format!("email:{}", printable(address)),
        GeneralName::IPAddress(bytes) => match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
            (Ok(four), _) => format!("IP:{}", Ipv4Addr::from(four)),
            (_, Ok(sixteen)) => format!("IP:{}", Ipv6Addr::from(sixteen)),
            _ => format!("IP:{}", hex::encode(bytes)),
        },
        GeneralName::DirectoryName(directory) => format!("DirName:{}", self::name(directory)),
        GeneralName::RegisteredID(oid) => format!("RID:{oid}"),
        GeneralName::OtherName(oid, _) => format!("other:{oid}"),
        GeneralName::X400Address(_) => "X400".to_owned(),
        GeneralName::EDIPartyName(_) => "EDI".to_owned(),
        GeneralName::Invalid(tag, bytes) => format!("unreadable:[{}]{}", tag.0, hex::encode(bytes)),
    }
}

pub(super) fn key_report(info: &SubjectPublicKeyInfo<'_>) -> KeyReport {
    let curve = info.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    let (algorithm, bits) = match (info.parsed(), curve) {
        (Ok(PublicKey::RSA(key)), _) => {
            let significant = key.modulus.iter().skip_while(|byte| **byte == 0).count();
            let leading = key.modulus.iter().find(|byte| **byte != 0).map_or(0, |byte| byte.leading_zeros() as usize);
            ("RSA".to_owned(), Some((significant * 8).saturating_sub(leading)))
        }
        (Ok(PublicKey::EC(_)), Some(curve)) if curve == OID_EC_P256 => ("ECDSA P-256".to_owned(), Some(256)),
        (Ok(PublicKey::EC(_)), Some(curve)) if curve == OID_NIST_EC_P384 => ("ECDSA P-384".to_owned(), Some(384)),
        (Ok(PublicKey::EC(_)), Some(curve)) if curve == OID_NIST_EC_P521 => ("ECDSA P-521".to_owned(), Some(521)),
        (Ok(PublicKey::EC(_)), Some(curve)) => (format!("ECDSA on {curve}"), None),
        _ if info.algorithm.algorithm == OID_SIG_ED25519 => ("Ed25519".to_owned(), Some(256)),
        _ => (info.algorithm.algorithm.to_string(), None),
    };
    KeyReport { algorithm, bits }
}

pub(crate) fn signature_algorithm(oid: &Oid<'_>) -> String {
    let known: [(&Oid<'_>, &str); 9] = [
        (&OID_SIG_ECDSA_WITH_SHA256, "ECDSA with SHA-256"),
        (&OID_SIG_ECDSA_WITH_SHA384, "ECDSA with SHA-384"),
        (&OID_SIG_ECDSA_WITH_SHA512, "ECDSA with SHA-512"),
        (&OID_PKCS1_SHA256WITHRSA, "RSA with SHA-256"),
        (&OID_PKCS1_SHA384WITHRSA, "RSA with SHA-384"),
        (&OID_PKCS1_SHA512WITHRSA, "RSA with SHA-512"),
        (&OID_PKCS1_RSASSAPSS, "RSA-PSS"),
        (&OID_PKCS1_SHA1WITHRSA, "RSA with SHA-1"),
        (&OID_SIG_ED25519, "Ed25519"),
    ];
    known.iter().find(|(known, _)| *known == oid).map_or_else(|| oid.to_string(), |(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use rcgen::{DnType, KeyPair, SanType};
    use x509_parser::prelude::FromDer;

    use super::*;
    use crate::spiffe::x509_svid::makers::{Made, NOW, authority_params, leaf_params};

    fn report(der: &[u8]) -> CertificateReport {
        CertificateReport::of(&X509Certificate::from_der(der).unwrap().1, 1, NOW)
    }

    #[test]
    fn a_leaf() {
        let root = Made::root("root");
        let mut params = leaf_params();
        params.serial_number = Some(vec![0x81, 0x0a].into());
        let leaf = root.below(params);
        let report = report(&leaf.der);
        assert_eq!(report.kind, Kind::Leaf);
        assert_eq!(report.spiffe_id.as_deref(), Some("spiffe://cluster.local/ns/shop/sa/cart"));
        assert_eq!(report.names, ["URI:spiffe://cluster.local/ns/shop/sa/cart"]);
        assert_eq!((report.serial.as_str(), report.subject.as_str(), report.issuer.as_str()), ("810a", "", "CN=root"));
        assert_eq!(report.public_key, KeyReport { algorithm: "ECDSA P-256".to_owned(), bits: Some(256) });
        assert_eq!((report.signature_algorithm.as_str(), report.remaining_seconds), ("ECDSA with SHA-256", 86_400));
        assert_eq!(report.authority_key_id, self::report(&root.der).subject_key_id);
        assert_eq!(report.sha256, hex::encode(digest(&SHA256, &leaf.der)));
        assert_eq!(report.departures, []);
        assert_eq!(report.key_usage, Some(vec!["digitalSignature"]));
        assert_eq!((report.extended_key_usage, report.path_length), (Some(vec!["serverAuth".to_owned(), "clientAuth".to_owned()]), None));
        let mut params = authority_params("limited");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::Other(vec![1, 2, 3])];
        let authority = self::report(&root.below(params).der);
        assert_eq!((authority.key_usage, authority.path_length), (Some(vec!["keyCertSign", "cRLSign"]), Some(0)));
        assert_eq!(authority.extended_key_usage, Some(vec!["1.2.3".to_owned()]));
    }

    #[test]
    fn the_other_kinds() {
        let root = Made::root("root");
        assert_eq!(report(&root.der).kind, Kind::Root);
        assert_eq!(report(&root.below(authority_params("ca")).der).kind, Kind::Intermediate);
        let mut serving = leaf_params();
        let address = |text: &str| SanType::IpAddress(text.parse().unwrap());
        serving.subject_alt_names = vec![SanType::DnsName("localhost".try_into().unwrap()), address("127.0.0.1"), address("::1")];
        let report = report(&root.below(serving).der);
        assert_eq!((report.kind, report.spiffe_id, report.departures), (Kind::Serving, None, vec![]));
        assert_eq!(report.names, ["DNS:localhost", "IP:127.0.0.1", "IP:::1"]);
    }

    #[test]
    fn keys() {
        let of = |algorithm| report(authority_params("root").self_signed(&KeyPair::generate_for(algorithm).unwrap()).unwrap().der()).public_key;
        assert_eq!(of(&rcgen::PKCS_ECDSA_P384_SHA384), KeyReport { algorithm: "ECDSA P-384".to_owned(), bits: Some(384) });
        assert_eq!(of(&rcgen::PKCS_ED25519), KeyReport { algorithm: "Ed25519".to_owned(), bits: Some(256) });
    }

    #[test]
    fn names_can_not_steer_a_terminal() {
        let mut params = authority_params("root");
        params.distinguished_name.push(DnType::OrganizationName, "a\u{1b}[2Jb\u{202e}c\nd");
        let subject = report(&Made::self_signed(params).der).subject;
        assert_eq!(subject, "CN=root, O=a\\u{1b}[2Jb\\u{202e}c\\nd");
    }
}
