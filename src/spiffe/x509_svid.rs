//! The rules of an X509-SVID, as functions over a parsed certificate or over bytes that are still to be signed.
//!
//! Issuance lints every leaf with them before it is signed, and `inspect` shows a person what departs. Each rule names the
//! section that demands it, and whether it is a MUST or a SHOULD there. Where nothing departs, the list is empty and nothing
//! is put on the heap for it.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;
use x509_parser::certificate::TbsCertificate;
use x509_parser::extensions::{GeneralName, SubjectAlternativeName};

use super::{IdError, SpiffeId};

#[cfg(test)]
pub(crate) mod makers;
mod peers;
mod profile;

pub use peers::{PeerRefusal, refused_by_peers};
pub(crate) use peers::{extension_name, is_critical_to_peers};
pub(crate) use profile::Extensions;

/// One point in which a certificate doesn't hold to a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Departure {
    /// The rule's place, for example `X509-SVID §4.3` or `RFC 5280 §4.1.2.2`.
    pub section: &'static str,
    /// What is wrong, for a person.
    pub what: Cow<'static, str>,
    /// Whether the rule is a MUST; else it is a SHOULD.
    pub must: bool,
}

impl fmt::Display for Departure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({}, {})", self.what, self.section, if self.must { "MUST" } else { "SHOULD" })
    }
}

/// Why a certificate has no SPIFFE ID to take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    /// No subject alternative name of type URI.
    #[error("it has no URI among its names")]
    NoUri,
    /// More than one: a validator must refuse it (X509-SVID §2).
    #[error("it has more than one URI among its names")]
    SeveralUris,
    /// The names can't be read, or are there twice.
    #[error("its names can't be read")]
    Unreadable,
    /// The URI is not a SPIFFE ID.
    #[error("its URI is not a SPIFFE ID: {0}")]
    NotASpiffeId(#[from] IdError),
}

/// The SPIFFE ID of a certificate: the one URI among its names (X509-SVID §2).
///
/// # Errors
/// [`SvidError`].
pub fn svid_id(tbs: &TbsCertificate<'_>) -> Result<SpiffeId, SvidError> {
    match tbs.subject_alternative_name() {
        Err(_) => Err(SvidError::Unreadable),
        Ok(None) => Err(SvidError::NoUri),
        Ok(Some(san)) => Ok(only_uri(san.value)?.parse()?),
    }
}

/// In what a certificate departs from the rules for a leaf, which identifies a workload.
///
/// It covers X509-SVID §2 to §4 and what RFC 5280 asks of every certificate.
pub fn leaf_departures(tbs: &TbsCertificate<'_>) -> Vec<Departure> {
    let extensions = Extensions::of(tbs);
    let mut found = Findings::default();
    profile::check(tbs, &extensions, &mut found);
    check_leaf_id(&extensions, &mut found);
    match extensions.basic_constraints {
        Some((constraints, _)) if constraints.ca => found.must("X509-SVID §4.1", "it is a CA: a leaf has CA:FALSE"),
        Some(_) => {}
        None => found.should("X509-SVID §4.1", "no basicConstraints that say CA:FALSE"),
    }
    match extensions.key_usage {
        None => found.must("X509-SVID §4.3", "no keyUsage"),
        Some((usage, critical)) => {
            if !critical {
                found.must("X509-SVID §4.3", "keyUsage is not critical");
            }
            if !usage.digital_signature() {
                found.must("X509-SVID §4.3", "keyUsage lacks digitalSignature");
            }
            if usage.key_cert_sign() {
                found.must("X509-SVID §4.3", "keyUsage has keyCertSign, which is for signing certificates");
            }
            if usage.crl_sign() {
                found.must("X509-SVID §4.3", "keyUsage has cRLSign, which is for signing certificates");
            }
        }
    }
    match extensions.extended_key_usage {
        None => found.should("X509-SVID §4.4", "no extendedKeyUsage with serverAuth and clientAuth"),
        Some((usage, _)) => {
            if !usage.server_auth {
                found.must("X509-SVID §4.4", "extendedKeyUsage lacks serverAuth");
            }
            if !usage.client_auth {
                found.must("X509-SVID §4.4", "extendedKeyUsage lacks clientAuth");
            }
        }
    }
    found.0
}

/// In what a certificate departs from the rules for a signing certificate (a root or an intermediate).
pub fn signing_departures(tbs: &TbsCertificate<'_>) -> Vec<Departure> {
    let extensions = Extensions::of(tbs);
    let mut found = Findings::default();
    profile::check(tbs, &extensions, &mut found);
    check_signing_id(&extensions, &mut found);
    if !extensions.basic_constraints.is_some_and(|(constraints, _)| constraints.ca) {
        found.must("X509-SVID §4.1", "it is not a CA: a signing certificate has CA:TRUE");
    }
    match extensions.key_usage {
        None => found.must("X509-SVID §4.3", "no keyUsage"),
        Some((usage, critical)) => {
            if !critical {
                found.must("X509-SVID §4.3", "keyUsage is not critical");
            }
            if !usage.key_cert_sign() {
                found.must("X509-SVID §4.3", "keyUsage lacks keyCertSign");
            }
            if !usage.crl_sign() {
                found.should("RFC 5280 §6.3.3", "keyUsage lacks cRLSign: no CRL of this CA can be verified");
            }
            if usage.digital_signature() || usage.key_encipherment() || usage.key_agreement() {
                found.should("X509-SVID Appendix A", "keyUsage has a usage that is for leaves; signing certificates never authenticate");
            }
        }
    }
    if extensions.names_uri_constraints() {
        found.should("X509-SVID §4.2", "name constraints on URIs, with which ztunnel and others refuse the whole chain");
    }
    if let Some(purpose) = peers::missing_purpose(&extensions) {
        found.should("RFC 5280 §4.2.1.12", format!("extendedKeyUsage lacks {purpose}, so that peers refuse what is signed below it"));
    }
    found.0
}

/// In what a certificate departs from RFC 5280, whatever it is for.
pub fn certificate_departures(tbs: &TbsCertificate<'_>) -> Vec<Departure> {
    let mut found = Findings::default();
    profile::check(tbs, &Extensions::of(tbs), &mut found);
    found.0
}

#[derive(Default)]
struct Findings(Vec<Departure>);

impl Findings {
    fn must(&mut self, section: &'static str, what: impl Into<Cow<'static, str>>) {
        self.0.push(Departure { section, what: what.into(), must: true });
    }

    fn should(&mut self, section: &'static str, what: impl Into<Cow<'static, str>>) {
        self.0.push(Departure { section, what: what.into(), must: false });
    }
}

fn only_uri<'a>(names: &SubjectAlternativeName<'a>) -> Result<&'a str, SvidError> {
    // A URI that isn't UTF-8 is still one: it must not hide behind a good one.
    const URI: u32 = 6;
    let mut uris = names.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(Ok(*uri)),
        GeneralName::Invalid(tag, _) if tag.0 == URI => Some(Err(SvidError::NotASpiffeId(IdError::Character))),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (None, _) => Err(SvidError::NoUri),
        (Some(uri), None) => uri,
        (Some(_), Some(_)) => Err(SvidError::SeveralUris),
    }
}

fn check_leaf_id(extensions: &Extensions<'_>, found: &mut Findings) {
    let uri = extensions.san.map_or(Err(SvidError::NoUri), |(names, _)| only_uri(names));
    match uri.and_then(|uri| Ok(uri.parse::<SpiffeId>()?)) {
        Ok(id) if id.path().is_empty() => found.must("X509-SVID §3.1", "its SPIFFE ID has no path"),
        Ok(_) => {}
        Err(SvidError::NotASpiffeId(error)) => found.must("SPIFFE-ID §2", format!("its URI is not a SPIFFE ID: {error}")),
        Err(error) => found.must("X509-SVID §2", error.to_string()),
    }
}

fn check_signing_id(extensions: &Extensions<'_>, found: &mut Findings) {
    let uri = extensions.san.map_or(Err(SvidError::NoUri), |(names, _)| only_uri(names));
    match uri.and_then(|uri| Ok(uri.parse::<SpiffeId>()?)) {
        Ok(id) if id.path().is_empty() => {}
        Ok(_) => found.must("X509-SVID §3.2", "its SPIFFE ID has a path: a signing certificate carries the trust domain alone"),
        Err(SvidError::NoUri) => found.should("X509-SVID §3.2", "it has no SPIFFE ID of its trust domain"),
        Err(SvidError::NotASpiffeId(error)) => found.must("SPIFFE-ID §2", format!("its URI is not a SPIFFE ID: {error}")),
        Err(error) => found.must("X509-SVID §2", error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyUsagePurpose, NameConstraints,
    };
    use x509_parser::certificate::X509Certificate;
    use x509_parser::prelude::FromDer;

    use super::makers::{Made, authority_params, leaf_params, uri};
    use super::*;

    fn sections(departures: &[Departure]) -> Vec<(&'static str, bool)> {
        departures.iter().map(|departure| (departure.section, departure.must)).collect()
    }

    fn leaf_sections(params: CertificateParams) -> Vec<(&'static str, bool)> {
        let made = Made::root("root").below(params);
        let (_, parsed) = X509Certificate::from_der(&made.der).unwrap();
        // The same verdict on the bytes that are still to be signed.
        let (_, to_be_signed) = TbsCertificate::from_der(parsed.tbs_certificate.as_ref()).unwrap();
        assert_eq!(leaf_departures(&parsed), leaf_departures(&to_be_signed));
        sections(&leaf_departures(&parsed))
    }

    fn spoilt_leaf(spoil: impl FnOnce(&mut CertificateParams)) -> Vec<(&'static str, bool)> {
        let mut params = leaf_params();
        spoil(&mut params);
        leaf_sections(params)
    }

    fn spoilt_authority(spoil: impl FnOnce(&mut CertificateParams)) -> Vec<(&'static str, bool)> {
        let mut params = authority_params("ca");
        spoil(&mut params);
        let made = Made::root("root").below(params);
        let (_, parsed) = X509Certificate::from_der(&made.der).unwrap();
        sections(&signing_departures(&parsed))
    }

    #[test]
    fn good_certificates_depart_in_nothing() {
        assert_eq!(leaf_sections(leaf_params()), []);
        assert_eq!(spoilt_authority(|_| ()), []);
        let root = Made::root("root");
        let (_, parsed) = X509Certificate::from_der(&root.der).unwrap();
        assert_eq!(signing_departures(&parsed), []);
    }

    #[test]
    fn each_departure_of_a_leaf_is_named() {
        type Spoil = fn(&mut CertificateParams);
        let cases: &[(Spoil, &[(&str, bool)])] = &[
            (|params| params.subject_alt_names = vec![uri("spiffe://cluster.local")], &[("X509-SVID §3.1", true)]),
            (|params| params.subject_alt_names = vec![uri("spiffe://Cluster.local/a")], &[("SPIFFE-ID §2", true)]),
            (|params| params.subject_alt_names = vec![uri("https://cluster.local/a")], &[("SPIFFE-ID §2", true)]),
            (|params| params.subject_alt_names.push(uri("spiffe://cluster.local/b")), &[("X509-SVID §2", true)]),
            (|params| params.subject_alt_names = vec![rcgen::SanType::DnsName("a.b".try_into().unwrap())], &[("X509-SVID §2", true)]),
            (|params| params.subject_alt_names.clear(), &[("RFC 5280 §4.1.2.6", true), ("X509-SVID §2", true)]),
            (|params| params.is_ca = IsCa::NoCa, &[("X509-SVID §4.1", false)]),
            (|params| params.key_usages.clear(), &[("X509-SVID §4.3", true)]),
            (|params| params.key_usages = vec![KeyUsagePurpose::KeyAgreement], &[("X509-SVID §4.3", true)]),
            (|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign), &[("RFC 5280 §4.2.1.9", true), ("X509-SVID §4.3", true)]),
            (|params| params.key_usages.push(KeyUsagePurpose::CrlSign), &[("X509-SVID §4.3", true)]),
            (|params| params.key_usages.push(KeyUsagePurpose::KeyEncipherment), &[("RFC 5480 §3", true)]),
            (|params| params.extended_key_usages.clear(), &[("X509-SVID §4.4", false)]),
            (|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth], &[("X509-SVID §4.4", true)]),
            (|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth], &[("X509-SVID §4.4", true)]),
            (
                |params| {
                    // A keyUsage of digitalSignature that isn't critical.
                    params.key_usages.clear();
                    params.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![3, 2, 7, 0x80]));
                },
                &[("X509-SVID §4.3", true)],
            ),
        ];
        for (number, (spoil, expected)) in cases.iter().enumerate() {
            assert_eq!(spoilt_leaf(spoil), *expected, "case {number}");
        }
    }

    #[test]
    fn a_ca_is_no_leaf() {
        let sections = spoilt_leaf(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
        assert!(sections.contains(&("X509-SVID §4.1", true)), "{sections:?}");
    }

    #[test]
    fn each_departure_of_a_signing_certificate_is_named() {
        type Spoil = fn(&mut CertificateParams);
        let cases: &[(Spoil, &[(&str, bool)])] = &[
            (|params| params.subject_alt_names.clear(), &[("X509-SVID §3.2", false)]),
            (|params| params.subject_alt_names = vec![uri("spiffe://cluster.local/ca")], &[("X509-SVID §3.2", true)]),
            (|params| params.subject_alt_names = vec![uri("spiffe://cluster.local/")], &[("SPIFFE-ID §2", true)]),
            (|params| params.subject_alt_names.push(uri("spiffe://other")), &[("X509-SVID §2", true)]),
            (|params| params.is_ca = IsCa::ExplicitNoCa, &[("RFC 5280 §4.2.1.9", true), ("X509-SVID §4.1", true)]),
            (|params| params.key_usages.clear(), &[("X509-SVID §4.3", true)]),
            (|params| params.key_usages = vec![KeyUsagePurpose::CrlSign], &[("X509-SVID §4.3", true)]),
            (|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign], &[("RFC 5280 §6.3.3", false)]),
            (|params| params.key_usages.push(KeyUsagePurpose::DigitalSignature), &[("X509-SVID Appendix A", false)]),
            (
                |params| {
                    params.name_constraints =
                        Some(NameConstraints { permitted_subtrees: vec![GeneralSubtree::DnsName("a.b".to_owned())], excluded_subtrees: vec![] });
                },
                &[],
            ),
            (
                |params| {
                    // Permits URIs below cluster.local.
                    let content = b"\x30\x13\xa0\x11\x30\x0f\x86\x0dcluster.local".to_vec();
                    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], content);
                    extension.set_criticality(true);
                    params.custom_extensions.push(extension);
                },
                &[("X509-SVID §4.2", false)],
            ),
            (
                |params| {
                    params.key_usages.clear();
                    params.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![3, 2, 1, 6]));
                },
                &[("X509-SVID §4.3", true)],
            ),
        ];
        for (number, (spoil, expected)) in cases.iter().enumerate() {
            assert_eq!(spoilt_authority(spoil), *expected, "case {number}");
        }
    }

    #[test]
    fn the_identity_is_the_one_uri() {
        let id = |names| {
            let mut params = leaf_params();
            params.subject_alt_names = names;
            let made = Made::root("root").below(params);
            let (_, parsed) = X509Certificate::from_der(&made.der).unwrap();
            svid_id(&parsed).map(|id| id.to_string())
        };
        let dns = || rcgen::SanType::DnsName("a.b".try_into().unwrap());
        assert_eq!(id(vec![dns(), uri("spiffe://td/a")]), Ok("spiffe://td/a".to_owned()));
        assert_eq!(id(vec![dns()]), Err(SvidError::NoUri));
        assert_eq!(id(vec![]), Err(SvidError::NoUri));
        assert_eq!(id(vec![uri("spiffe://td/a"), uri("https://td/a")]), Err(SvidError::SeveralUris));
        assert_eq!(id(vec![uri("https://td/a")]), Err(SvidError::NotASpiffeId(IdError::Scheme)));

        let mut twice = leaf_params();
        twice.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 17], vec![0x30, 0]));
        let made = Made::root("root").below(twice);
        let (_, parsed) = X509Certificate::from_der(&made.der).unwrap();
        assert_eq!(svid_id(&parsed), Err(SvidError::Unreadable));
    }

    #[test]
    fn a_uri_that_is_not_text_does_not_hide_behind_a_good_one() {
        let mut params = leaf_params();
        params.subject_alt_names.clear();
        let mut content = vec![0x30, 0x12, 0x86, 0x0d];
        content.extend(b"spiffe://td/a");
        content.extend([0x86, 1, 0xff]);
        params.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 17], content));
        let made = Made::root("root").below(params);
        let (_, parsed) = X509Certificate::from_der(&made.der).unwrap();
        assert_eq!(svid_id(&parsed), Err(SvidError::SeveralUris));
    }

    #[test]
    fn a_departure_reads_well() {
        let departure = Departure { section: "X509-SVID §4.3", what: "no keyUsage".into(), must: true };
        assert_eq!(departure.to_string(), "no keyUsage (X509-SVID §4.3, MUST)");
    }
}
