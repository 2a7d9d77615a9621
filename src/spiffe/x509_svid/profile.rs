//! What RFC 5280 asks of every certificate, leaf or CA, as far as a mesh meets it: the part below the SPIFFE rules.

use std::collections::HashSet;

use x509_parser::certificate::TbsCertificate;
use x509_parser::extensions::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, GeneralName, KeyIdentifier, KeyUsage, NameConstraints, ParsedExtension,
    SubjectAlternativeName,
};
use x509_parser::oid_registry::OID_KEY_TYPE_EC_PUBLIC_KEY;
use x509_parser::x509::X509Version;

use super::{Findings, extension_name, is_critical_to_peers};

/// The extensions that the rules look at, each with its criticality; the first one where one is there twice.
#[derive(Default)]
pub(crate) struct Extensions<'c> {
    pub(crate) san: Option<(&'c SubjectAlternativeName<'c>, bool)>,
    pub(crate) basic_constraints: Option<(&'c BasicConstraints, bool)>,
    pub(crate) key_usage: Option<(&'c KeyUsage, bool)>,
    pub(crate) extended_key_usage: Option<(&'c ExtendedKeyUsage<'c>, bool)>,
    pub(crate) authority_key: Option<(&'c AuthorityKeyIdentifier<'c>, bool)>,
    pub(crate) subject_key: Option<(&'c KeyIdentifier<'c>, bool)>,
    pub(crate) name_constraints: Option<(&'c NameConstraints<'c>, bool)>,
}

impl<'c> Extensions<'c> {
    pub(crate) fn of(tbs: &'c TbsCertificate<'c>) -> Self {
        let mut all = Self::default();
        for extension in tbs.extensions() {
            let critical = extension.critical;
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(value) => _ = all.san.get_or_insert((value, critical)),
                ParsedExtension::BasicConstraints(value) => _ = all.basic_constraints.get_or_insert((value, critical)),
                ParsedExtension::KeyUsage(value) => _ = all.key_usage.get_or_insert((value, critical)),
                ParsedExtension::ExtendedKeyUsage(value) => _ = all.extended_key_usage.get_or_insert((value, critical)),
                ParsedExtension::AuthorityKeyIdentifier(value) => _ = all.authority_key.get_or_insert((value, critical)),
                ParsedExtension::SubjectKeyIdentifier(value) => _ = all.subject_key.get_or_insert((value, critical)),
                ParsedExtension::NameConstraints(value) => _ = all.name_constraints.get_or_insert((value, critical)),
                _ => {}
            }
        }
        all
    }

    pub(super) fn names_uri_constraints(&self) -> bool {
        self.name_constraints.is_some_and(|(constraints, _)| {
            let subtrees = [&constraints.permitted_subtrees, &constraints.excluded_subtrees];
            subtrees.into_iter().flatten().flatten().any(|subtree| matches!(subtree.base, GeneralName::URI(_)))
        })
    }
}

pub(super) fn check(tbs: &TbsCertificate<'_>, extensions: &Extensions<'_>, found: &mut Findings) {
    check_fields(tbs, found);
    check_extension_list(tbs, found);
    check_names(tbs, extensions, found);
    check_key_identifiers(tbs, extensions, found);
    check_authority(tbs, extensions, found);
}

fn check_fields(tbs: &TbsCertificate<'_>, found: &mut Findings) {
    if tbs.version != X509Version::V3 {
        found.must("RFC 5280 §4.1.2.1", "it is not of version 3, which extensions need");
    }
    match tbs.raw_serial() {
        [] => found.must("RFC 5280 §4.1.2.2", "the serial number is empty"),
        [first, ..] if first & 0x80 != 0 => found.must("RFC 5280 §4.1.2.2", "the serial number is negative"),
        serial if serial.iter().all(|byte| *byte == 0) => found.must("RFC 5280 §4.1.2.2", "the serial number is zero"),
        serial if serial.len() > 20 => found.must("RFC 5280 §4.1.2.2", "the serial number is longer than 20 octets"),
        _ => {}
    }
    if tbs.issuer.iter_rdn().next().is_none() {
        found.must("RFC 5280 §4.1.2.4", "the issuer's name is empty");
    }
    if tbs.validity.not_before > tbs.validity.not_after {
        found.must("RFC 5280 §4.1.2.5", "notAfter lies before notBefore");
    }
    for time in [tbs.validity.not_before, tbs.validity.not_after] {
        if time.is_generalizedtime() && time.to_datetime().year() < 2050 {
            found.must("RFC 5280 §4.1.2.5", "a time before 2050 is not a UTCTime");
        }
    }
    if tbs.issuer_uid.is_some() || tbs.subject_uid.is_some() {
        found.must("RFC 5280 §4.1.2.8", "it has a unique identifier");
    }
}

fn check_extension_list(tbs: &TbsCertificate<'_>, found: &mut Findings) {
    for extension in tbs.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::UnsupportedExtension { oid } if extension.critical => {
                found.must("RFC 5280 §4.2", format!("a critical extension that validators don't know: {oid}"));
            }
            // These are never critical anyway (§4.2.1.1, §4.2.1.2).
            ParsedExtension::AuthorityKeyIdentifier(_) | ParsedExtension::SubjectKeyIdentifier(_) => {}
            _ if is_critical_to_peers(extension) => {
                let name = extension_name(&extension.oid);
                found.should("RFC 5280 §4.2", format!("{name} is critical, and ztunnel and others refuse the whole chain with it"));
            }
            ParsedExtension::ParseError { .. } => found.must("RFC 5280 §4.2", format!("an extension that can't be read: {}", extension.oid)),
            _ => {}
        }
    }
    let all = tbs.extensions();
    // A handful is compared pair by pair, which needs no memory; a list made to be long must not cost its square.
    let twice = if all.len() <= 16 {
        all.iter()
            .enumerate()
            .find(|(number, extension)| all.iter().take(*number).any(|other| other.oid == extension.oid))
            .map(|(_, extension)| extension)
    } else {
        let mut seen = HashSet::with_capacity(all.len());
        all.iter().find(|extension| !seen.insert(extension.oid.as_bytes()))
    };
    if let Some(extension) = twice {
        found.must("RFC 5280 §4.2", format!("the same extension twice: {}", extension.oid));
    }
}

fn check_names(tbs: &TbsCertificate<'_>, extensions: &Extensions<'_>, found: &mut Findings) {
    let unnamed = tbs.subject.iter_rdn().next().is_none();
    match extensions.san {
        None if unnamed => found.must("RFC 5280 §4.1.2.6", "neither a subject nor a subjectAltName"),
        None => {}
        Some((names, critical)) => {
            if names.general_names.is_empty() {
                found.must("RFC 5280 §4.2.1.6", "subjectAltName without a name");
            }
            if names.general_names.iter().any(|name| matches!(name, GeneralName::Invalid(..))) {
                found.must("RFC 5280 §4.2.1.6", "subjectAltName with a name that can't be read");
            }
            if unnamed && !critical {
                found.must("RFC 5280 §4.1.2.6", "subjectAltName is not critical although the subject is empty");
            }
            if !unnamed && critical {
                found.should("RFC 5280 §4.2.1.6", "subjectAltName is critical although there is a subject");
            }
        }
    }
}

fn check_key_identifiers(tbs: &TbsCertificate<'_>, extensions: &Extensions<'_>, found: &mut Findings) {
    let self_issued = tbs.subject.as_raw() == tbs.issuer.as_raw();
    match extensions.authority_key {
        Some((authority, critical)) => {
            if authority.key_identifier.is_none() && !self_issued {
                found.must("RFC 5280 §4.2.1.1", "authorityKeyIdentifier without a key identifier");
            }
            if critical {
                found.must("RFC 5280 §4.2.1.1", "authorityKeyIdentifier is critical");
            }
        }
        None if self_issued => {}
        None => found.must("RFC 5280 §4.2.1.1", "no authorityKeyIdentifier"),
    }
    if extensions.subject_key.is_some_and(|(_, critical)| critical) {
        found.must("RFC 5280 §4.2.1.2", "subjectKeyIdentifier is critical");
    }
}

fn check_authority(tbs: &TbsCertificate<'_>, extensions: &Extensions<'_>, found: &mut Findings) {
    let ca = extensions.basic_constraints.is_some_and(|(constraints, _)| constraints.ca);
    if let Some((constraints, critical)) = extensions.basic_constraints {
        if ca && !critical {
            found.must("RFC 5280 §4.2.1.9", "basicConstraints of a CA is not critical");
        }
        if !ca && constraints.path_len_constraint.is_some() {
            found.must("RFC 5280 §4.2.1.9", "a path length although it is not a CA");
        }
    }
    if ca && tbs.subject.iter_rdn().next().is_none() {
        found.must("RFC 5280 §4.1.2.6", "a CA without a subject");
    }
    if ca && extensions.subject_key.is_none() {
        found.must("RFC 5280 §4.2.1.2", "a CA without subjectKeyIdentifier");
    }
    let Some((usage, _)) = extensions.key_usage else { return };
    if usage.flags == 0 {
        found.must("RFC 5280 §4.2.1.3", "keyUsage without a usage");
    }
    if usage.key_cert_sign() && !ca {
        found.must("RFC 5280 §4.2.1.9", "keyCertSign although it is not a CA");
    }
    let elliptic = tbs.subject_pki.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY;
    if elliptic && (usage.key_encipherment() || usage.data_encipherment()) {
        found.must("RFC 5480 §3", "keyUsage has an encipherment that an elliptic-curve key can't do");
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CustomExtension, DistinguishedName, IsCa, KeyUsagePurpose};
    use time::macros::datetime;
    use x509_parser::certificate::X509Certificate;
    use x509_parser::prelude::FromDer;
    use x509_parser::time::ASN1Time;

    use super::super::makers::{Made, authority_params, leaf_params};
    use super::super::{Departure, certificate_departures};

    fn sections(departures: &[Departure]) -> Vec<(&'static str, bool)> {
        departures.iter().map(|departure| (departure.section, departure.must)).collect()
    }

    fn of_der(der: &[u8]) -> Vec<(&'static str, bool)> {
        sections(&certificate_departures(&X509Certificate::from_der(der).unwrap().1))
    }

    fn spoilt(mut params: CertificateParams, spoil: impl FnOnce(&mut CertificateParams)) -> Vec<(&'static str, bool)> {
        spoil(&mut params);
        of_der(&Made::root("root").below(params).der)
    }

    fn extension(oid: &[u64], content: &[u8], critical: bool) -> CustomExtension {
        let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
        extension.set_criticality(critical);
        extension
    }

    /// The certificate with the first `from` replaced by `to`, which is as long. Its signature breaks, which no rule looks at.
    fn patched(der: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
        assert_eq!(from.len(), to.len());
        let at = der.windows(from.len()).position(|window| window == from).unwrap();
        [&der[..at], to, &der[at + from.len()..]].concat()
    }

    #[test]
    fn serial_and_version() {
        let mut params = leaf_params();
        params.serial_number = Some(vec![0x11, 0x22, 0x33, 0x44].into());
        let good = Made::root("root").below(params).der;
        assert_eq!(of_der(&good), []);
        let serial = |bytes: [u8; 4]| of_der(&patched(&good, &[0x02, 0x04, 0x11, 0x22, 0x33, 0x44], &[&[0x02, 0x04], &bytes[..]].concat()));
        assert_eq!(serial([0x91, 0x22, 0x33, 0x44]), [("RFC 5280 §4.1.2.2", true)]);
        assert_eq!(serial([0, 0, 0, 0]), [("RFC 5280 §4.1.2.2", true)]);
        assert_eq!(serial([0, 0x81, 0, 0]), []);
        assert_eq!(of_der(&patched(&good, &[0xa0, 3, 2, 1, 2], &[0xa0, 3, 2, 1, 1])), [("RFC 5280 §4.1.2.1", true)]);
        for (serial, expected) in [(vec![0x7f; 20], vec![]), (vec![0x7f; 21], vec![("RFC 5280 §4.1.2.2", true)])] {
            assert_eq!(spoilt(leaf_params(), |params| params.serial_number = Some(serial.into())), expected);
        }
    }

    #[test]
    fn validity() {
        let (before, after) = (datetime!(2026-11-23 12:00 UTC), datetime!(2026-11-23 11:00 UTC));
        let turned = |params: &mut CertificateParams| (params.not_before, params.not_after) = (before, after);
        assert_eq!(spoilt(leaf_params(), turned), [("RFC 5280 §4.1.2.5", true)]);
        let made = Made::root("root").below(leaf_params());
        let (_, mut parsed) = X509Certificate::from_der(&made.der).unwrap();
        parsed.tbs_certificate.validity.not_after = ASN1Time::new_generalized(datetime!(2049-01-01 0:00 UTC));
        assert_eq!(sections(&certificate_departures(&parsed)), [("RFC 5280 §4.1.2.5", true)]);
        parsed.tbs_certificate.validity.not_after = ASN1Time::new_generalized(datetime!(2050-01-01 0:00 UTC));
        assert_eq!(sections(&certificate_departures(&parsed)), []);
    }

    #[test]
    fn names_and_unique_identifiers() {
        let made = Made::root("root").below(leaf_params());
        let (_, mut parsed) = X509Certificate::from_der(&made.der).unwrap();
        parsed.tbs_certificate.issuer = parsed.tbs_certificate.subject.clone();
        assert_eq!(sections(&certificate_departures(&parsed)), [("RFC 5280 §4.1.2.4", true)]);
        let (_, mut parsed) = X509Certificate::from_der(&made.der).unwrap();
        parsed.tbs_certificate.subject_uid = Some(x509_parser::certificate::UniqueIdentifier(parsed.signature_value.clone()));
        assert_eq!(sections(&certificate_departures(&parsed)), [("RFC 5280 §4.1.2.8", true)]);

        let san = [0x30, 5, 0x82, 3, b'a', b'.', b'b'];
        let replaced = |content: &[u8], critical| {
            let content = content.to_vec();
            spoilt(leaf_params(), move |params| {
                params.subject_alt_names.clear();
                params.custom_extensions.push(extension(&[2, 5, 29, 17], &content, critical));
            })
        };
        assert_eq!(replaced(&san, true), []);
        assert_eq!(replaced(&san, false), [("RFC 5280 §4.1.2.6", true)]);
        assert_eq!(replaced(&[0x30, 0], true), [("RFC 5280 §4.2.1.6", true)]);
        assert_eq!(replaced(&[0x30, 3, 0x82, 1, 0xff], true), [("RFC 5280 §4.2.1.6", true)]);
        let named = |params: &mut CertificateParams| {
            params.distinguished_name = authority_params("someone").distinguished_name;
            params.subject_alt_names.clear();
            params.custom_extensions.push(extension(&[2, 5, 29, 17], &san, true));
        };
        assert_eq!(spoilt(leaf_params(), named), [("RFC 5280 §4.2.1.6", false)]);
    }

    #[test]
    fn extensions_once_known_and_readable() {
        let with = |oid: &'static [u64], content: &'static [u8], critical| {
            spoilt(leaf_params(), |params| params.custom_extensions.push(extension(oid, content, critical)))
        };
        assert_eq!(with(&[1, 2, 3, 4], &[5, 0], false), []);
        assert_eq!(with(&[1, 2, 3, 4], &[5, 0], true), [("RFC 5280 §4.2", true)]);
        assert_eq!(with(&[2, 5, 29, 36], &[5, 0], false), [("RFC 5280 §4.2", true)]);
        assert_eq!(with(&[2, 5, 29, 15], &[3, 2, 7, 0x80], true), [("RFC 5280 §4.2", true)]);
        let many = |last| {
            spoilt(leaf_params(), |params| {
                for number in (0..40).chain([last]) {
                    params.custom_extensions.push(extension(&[1, 2, 3, number], &[5, 0], false));
                }
            })
        };
        assert_eq!(many(40), []);
        assert_eq!(many(7), [("RFC 5280 §4.2", true)]);
    }

    #[test]
    fn key_identifiers() {
        assert_eq!(spoilt(leaf_params(), |params| params.use_authority_key_identifier_extension = false), [("RFC 5280 §4.2.1.1", true)]);
        let replaced = |content: &'static [u8], critical| {
            spoilt(leaf_params(), move |params| {
                params.use_authority_key_identifier_extension = false;
                params.custom_extensions.push(extension(&[2, 5, 29, 35], content, critical));
            })
        };
        assert_eq!(replaced(&[0x30, 3, 0x80, 1, 7], false), []);
        assert_eq!(replaced(&[0x30, 3, 0x80, 1, 7], true), [("RFC 5280 §4.2.1.1", true)]);
        assert_eq!(replaced(&[0x30, 0], false), [("RFC 5280 §4.2.1.1", true)]);
        let subject_key = |params: &mut CertificateParams| {
            params.is_ca = IsCa::NoCa;
            params.custom_extensions.push(extension(&[2, 5, 29, 14], &[4, 1, 7], true));
        };
        assert_eq!(spoilt(leaf_params(), subject_key), [("RFC 5280 §4.2.1.2", true)]);
    }

    #[test]
    fn what_a_ca_must_have() {
        let constraints = |content: &'static [u8], critical: bool| {
            spoilt(authority_params("ca"), move |params| {
                params.is_ca = IsCa::NoCa;
                params.custom_extensions.push(extension(&[2, 5, 29, 19], content, critical));
                params.custom_extensions.push(extension(&[2, 5, 29, 14], &[4, 1, 7], false));
            })
        };
        assert_eq!(constraints(&[0x30, 3, 1, 1, 0xff], true), []);
        assert_eq!(constraints(&[0x30, 3, 1, 1, 0xff], false), [("RFC 5280 §4.2.1.9", true)]);
        assert_eq!(constraints(&[0x30, 3, 2, 1, 0], true), [("RFC 5280 §4.2.1.9", true), ("RFC 5280 §4.2.1.9", true)]);
        let no_subject_key = |params: &mut CertificateParams| {
            params.is_ca = IsCa::NoCa;
            params.custom_extensions.push(extension(&[2, 5, 29, 19], &[0x30, 3, 1, 1, 0xff], true));
        };
        assert_eq!(spoilt(authority_params("ca"), no_subject_key), [("RFC 5280 §4.2.1.2", true)]);
        assert_eq!(spoilt(authority_params("ca"), |params| params.distinguished_name = DistinguishedName::new()), [("RFC 5280 §4.1.2.6", true)]);
    }

    #[test]
    fn key_usage_fits() {
        let usage = |content: &'static [u8]| {
            spoilt(leaf_params(), move |params| {
                params.key_usages.clear();
                params.custom_extensions.push(extension(&[2, 5, 29, 15], content, true));
            })
        };
        assert_eq!(usage(&[3, 2, 7, 0x80]), []);
        assert_eq!(usage(&[3, 2, 7, 0]), [("RFC 5280 §4.2.1.3", true)]);
        assert_eq!(usage(&[3, 2, 2, 0x84]), [("RFC 5280 §4.2.1.9", true)]);
        assert_eq!(usage(&[3, 2, 4, 0x90]), [("RFC 5480 §3", true)]);
        assert_eq!(spoilt(leaf_params(), |params| params.key_usages.push(KeyUsagePurpose::KeyAgreement)), []);
    }
}
