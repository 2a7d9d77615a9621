//! What a certificate says, written to be signed: a TBSCertificate (RFC 5280 §4.1). [`super::lint`] reads it again by other means; the tests here
//! hold it, byte for byte, against what rcgen writes of the same facts.

use std::net::IpAddr;

use rustls_pki_types::AlgorithmIdentifier;
use time::{OffsetDateTime, UtcOffset};

use super::der::{Der, tag};
use super::public_key::{CheckedKey, PublicKeyAlgorithm};
use super::subject::{IssuedBy, Serial, Subject};
use super::{PrepareError, Validity};
use crate::spiffe::TrustDomain;

/// A leaf has about 400 bytes.
const CAPACITY: usize = 768;

/// Writes the TBSCertificate. The issuer's name is its subject, byte for byte, however that was encoded (RFC 5280 §7.1).
pub(super) fn write(
    subject: &Subject<'_>,
    serial: Serial,
    validity: Validity,
    issuer: &IssuedBy<'_>,
    signature_algorithm: AlgorithmIdentifier,
) -> Result<Vec<u8>, PrepareError> {
    if let Subject::Serving { dns_names, .. } = subject
        && let Some(name) = dns_names.iter().find(|name| !name.is_ascii())
    {
        return Err(PrepareError::Name(name.clone()));
    }
    let mut der = Der::with_capacity(CAPACITY);
    der.sequence(|tbs| {
        tbs.nested(tag::explicit(0), |version| version.value(tag::INTEGER, &[2]));
        tbs.value(tag::INTEGER, serial.as_bytes());
        tbs.value(tag::SEQUENCE, &signature_algorithm);
        match issuer {
            IssuedBy::Signer(signer) => tbs.raw(signer.subject()),
            IssuedBy::Itself(_) => name(tbs, subject),
        }
        tbs.sequence(|times| {
            time(times, validity.not_before);
            time(times, validity.not_after);
        });
        name(tbs, subject);
        tbs.raw(subject.key().der());
        tbs.nested(tag::explicit(3), |tbs| tbs.sequence(|list| extensions(list, subject, issuer)));
    });
    Ok(der.into_bytes())
}

/// Organisation and common name of an authority; everybody else has an empty name and is called by subjectAltName (RFC 5280 §4.1.2.6).
fn name(der: &mut Der, subject: &Subject<'_>) {
    const ORGANIZATION: [u8; 3] = [0x55, 4, 10];
    const COMMON_NAME: [u8; 3] = [0x55, 4, 3];
    let attribute = |name: &mut Der, kind: [u8; 3], value: &str| {
        name.nested(tag::SET, |set| {
            set.sequence(|attribute| {
                attribute.value(tag::OID, &kind);
                attribute.value(tag::UTF8_STRING, value.as_bytes());
            });
        });
    };
    der.sequence(|name| match subject {
        Subject::Leaf { .. } | Subject::Serving { .. } => {}
        Subject::Issuing { trust_domain, name: common_name, .. } | Subject::Root { trust_domain, name: common_name, .. } => {
            attribute(name, ORGANIZATION, trust_domain.as_str());
            attribute(name, COMMON_NAME, common_name);
        }
    });
}

/// UTCTime before 2050, GeneralizedTime from then on (RFC 5280 §4.1.2.5), to the second. A year that has no four digits comes out as another one,
/// and the lint refuses it.
fn time(der: &mut Der, at: OffsetDateTime) {
    let at = at.to_offset(UtcOffset::UTC);
    let year = u16::try_from(at.year()).unwrap_or(0);
    let (century, of_century) = ((year / 100 % 100) as u8, (year % 100) as u8);
    let short = (1950..2050).contains(&year);
    der.nested(if short { tag::UTC_TIME } else { tag::GENERALIZED_TIME }, |text| {
        let pairs = [century, of_century, u8::from(at.month()), at.day(), at.hour(), at.minute(), at.second()];
        pairs.iter().skip(usize::from(short)).for_each(|pair| text.raw(&[b'0' + pair / 10, b'0' + pair % 10]));
        text.raw(b"Z");
    });
}

fn extensions(list: &mut Der, subject: &Subject<'_>, issuer: &IssuedBy<'_>) {
    let issuer_key = match issuer {
        IssuedBy::Signer(signer) => signer.key_identifier(),
        IssuedBy::Itself(_) => subject.key().identifier(),
    };
    authority_key_identifier(list, issuer_key);
    match subject {
        Subject::Leaf { id, key } => {
            alternative_names(list, true, |names| names.value(URI, id.to_string().as_bytes()));
            key_usage(list, end_entity_usage(key));
            extended_key_usage(list, &[SERVER_AUTH, CLIENT_AUTH]);
            subject_key_identifier(list, key);
            basic_constraints(list, |_| {});
        }
        Subject::Serving { dns_names, ip_addresses, key } => {
            alternative_names(list, true, |names| {
                dns_names.iter().for_each(|name| names.value(DNS_NAME, name.as_bytes()));
                ip_addresses.iter().for_each(|address| ip_address(names, *address));
            });
            key_usage(list, end_entity_usage(key));
            extended_key_usage(list, &[SERVER_AUTH]);
            subject_key_identifier(list, key);
            basic_constraints(list, |_| {});
        }
        Subject::Issuing { trust_domain, key, .. } => authority(list, trust_domain, key, Some(0)),
        Subject::Root { trust_domain, key, .. } => authority(list, trust_domain, key, None),
    }
}

fn authority(list: &mut Der, trust_domain: &TrustDomain, key: &CheckedKey, path_length: Option<u8>) {
    alternative_names(list, false, |names| names.value(URI, trust_domain.id().as_bytes()));
    key_usage(list, KEY_CERT_SIGN_AND_CRL_SIGN);
    subject_key_identifier(list, key);
    basic_constraints(list, |constraints| {
        constraints.value(tag::BOOLEAN, &[0xff]);
        if let Some(length) = path_length {
            constraints.value(tag::INTEGER, &[length]);
        }
    });
}

// --- one extension each -----------------------------------------------------------------------------------------------------------------

/// GeneralName (RFC 5280 §4.2.1.6).
const DNS_NAME: u8 = tag::implicit(2);
const URI: u8 = tag::implicit(6);
const IP_ADDRESS: u8 = tag::implicit(7);

/// id-kp-serverAuth and id-kp-clientAuth (RFC 5280 §4.2.1.12).
const SERVER_AUTH: [u8; 8] = [0x2b, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_AUTH: [u8; 8] = [0x2b, 6, 1, 5, 5, 7, 3, 2];

/// KeyUsage (RFC 5280 §4.2.1.3): how many bits of the octet are unused, and the octet, of which the leftmost bit is number 0.
const DIGITAL_SIGNATURE: [u8; 2] = [7, 0b1000_0000];
const DIGITAL_SIGNATURE_AND_KEY_ENCIPHERMENT: [u8; 2] = [5, 0b1010_0000];
const KEY_CERT_SIGN_AND_CRL_SIGN: [u8; 2] = [1, 0b0000_0110];

fn end_entity_usage(key: &CheckedKey) -> [u8; 2] {
    match key.algorithm() {
        // RFC 4492 and TLS 1.3 never use it; RSA key exchange in old TLS 1.2 peers does.
        PublicKeyAlgorithm::Rsa { .. } => DIGITAL_SIGNATURE_AND_KEY_ENCIPHERMENT,
        _ => DIGITAL_SIGNATURE,
    }
}

/// One extension of those below id-ce, 2.5.29 (RFC 5280 §4.2).
fn extension(list: &mut Der, number: u8, critical: bool, value: impl FnOnce(&mut Der)) {
    list.sequence(|extension| {
        extension.value(tag::OID, &[0x55, 0x1d, number]);
        if critical {
            extension.value(tag::BOOLEAN, &[0xff]);
        }
        extension.nested(tag::OCTET_STRING, value);
    });
}

fn subject_key_identifier(list: &mut Der, key: &CheckedKey) {
    extension(list, 14, false, |value| value.value(tag::OCTET_STRING, key.identifier()));
}

fn key_usage(list: &mut Der, bits: [u8; 2]) {
    extension(list, 15, true, |value| value.value(tag::BIT_STRING, &bits));
}

fn alternative_names(list: &mut Der, critical: bool, names: impl FnOnce(&mut Der)) {
    extension(list, 17, critical, |value| value.sequence(names));
}

fn ip_address(names: &mut Der, address: IpAddr) {
    match address {
        IpAddr::V4(address) => names.value(IP_ADDRESS, &address.octets()),
        IpAddr::V6(address) => names.value(IP_ADDRESS, &address.octets()),
    }
}

fn basic_constraints(list: &mut Der, content: impl FnOnce(&mut Der)) {
    extension(list, 19, true, |value| value.sequence(content));
}

fn authority_key_identifier(list: &mut Der, issuer_key: &[u8]) {
    extension(list, 35, false, |value| value.sequence(|identifier| identifier.value(tag::implicit(0), issuer_key)));
}

fn extended_key_usage(list: &mut Der, purposes: &[[u8; 8]]) {
    extension(list, 37, false, |value| value.sequence(|list| purposes.iter().for_each(|purpose| list.value(tag::OID, purpose))));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{
        BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, SanType,
        SerialNumber,
    };
    use time::macros::datetime;
    use x509_parser::certificate::X509Certificate;
    use x509_parser::prelude::FromDer;

    use super::*;
    use crate::pki::{IssuerKey, Signer};

    /// One key of each kind that may sign or be certified.
    fn keys() -> Vec<IssuerKey> {
        let pems = [
            include_str!("../../tests/corpus/keys/p256-sec1.pem"),
            include_str!("../../tests/corpus/keys/p384-sec1.pem"),
            include_str!("../../tests/corpus/keys/ed25519-pkcs8.pem"),
            include_str!("../../tests/corpus/keys/rsa2048-pkcs1.pem"),
        ];
        pems.into_iter().map(|pem| IssuerKey::from_pem(pem).unwrap()).collect()
    }

    fn authority_params(trust_domain: &TrustDomain, name: &str, constraints: BasicConstraints) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, trust_domain.as_str());
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![SanType::URI(trust_domain.id().try_into().unwrap())];
        params.is_ca = IsCa::Ca(constraints);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }

    fn end_entity_params(key: &CheckedKey, names: Vec<SanType>, purposes: Vec<ExtendedKeyUsagePurpose>) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if matches!(key.algorithm(), PublicKeyAlgorithm::Rsa { .. }) {
            params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
        }
        params.extended_key_usages = purposes;
        params
    }

    /// What rcgen is told of the same facts.
    fn params(subject: &Subject<'_>) -> CertificateParams {
        use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
        match subject {
            Subject::Leaf { id, key } => end_entity_params(key, vec![SanType::URI(id.to_string().try_into().unwrap())], vec![ServerAuth, ClientAuth]),
            Subject::Serving { dns_names, ip_addresses, key } => {
                let dns_names = dns_names.iter().map(|name| SanType::DnsName(name.as_str().try_into().unwrap()));
                let names = dns_names.chain(ip_addresses.iter().copied().map(SanType::IpAddress)).collect();
                end_entity_params(key, names, vec![ServerAuth])
            }
            Subject::Issuing { trust_domain, name, .. } => authority_params(trust_domain, name, BasicConstraints::Constrained(0)),
            Subject::Root { trust_domain, name, .. } => authority_params(trust_domain, name, BasicConstraints::Unconstrained),
        }
    }

    fn written(subject: &Subject<'_>, serial: Serial, validity: Validity, issuer: &IssuedBy<'_>) -> Vec<u8> {
        write(subject, serial, validity, issuer, issuer.key().signature_algorithm().unwrap()).unwrap()
    }

    /// The to-be-signed bytes of rcgen, with `above` as issuer or signed by itself.
    fn by_rcgen(
        subject: &Subject<'_>,
        own: &IssuerKey,
        serial: Serial,
        validity: Validity,
        above: Option<(&CertificateParams, &IssuerKey)>,
    ) -> Vec<u8> {
        let mut params = params(subject);
        params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
        (params.not_before, params.not_after) = (validity.not_before, validity.not_after);
        params.use_authority_key_identifier_extension = true;
        params.key_identifier_method = KeyIdMethod::PreSpecified(subject.key().identifier().to_vec());
        let certificate = match above {
            Some((above, key)) => params.signed_by(own.pair(), &Issuer::from_params(above, key.pair())).unwrap(),
            None => params.self_signed(own.pair()).unwrap(),
        };
        X509Certificate::from_der(certificate.der()).unwrap().1.tbs_certificate.as_ref().to_vec()
    }

    fn some_time() -> impl Strategy<Value = OffsetDateTime> {
        let edges = [datetime!(1950-01-01 0:00 UTC), datetime!(2049-12-31 23:59:59 UTC), datetime!(2050-01-01 0:00 UTC)];
        prop_oneof![
            prop::sample::select(edges.to_vec()),
            (0_i64..253_402_300_800, -12_i8..=12).prop_map(|(second, hours)| {
                let at = OffsetDateTime::from_unix_timestamp(second).unwrap();
                at.checked_to_offset(UtcOffset::from_hms(hours, 0, 0).unwrap()).unwrap_or(at)
            }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn writes_what_rcgen_writes(
            times in (some_time(), some_time()),
            domain in "[a-z]{1,20}\\.[a-z]{1,100}",
            account in "[a-z0-9]{1,200}",
            ca_name in "\\PC{0,60}",
            dns_names in prop::collection::vec("[a-z.*]{1,60}", 0..20),
            ip_addresses in prop::collection::vec(any::<IpAddr>(), 0..4),
            chance in any::<[u8; 16]>(),
        ) {
            let validity = Validity { not_before: times.0, not_after: times.1 };
            let serial = Serial::of(times.0, chance);
            let trust_domain: TrustDomain = domain.parse().unwrap();
            let id = crate::spiffe::SpiffeId::workload(&trust_domain, "shop", &account).unwrap();
            for (own, above) in keys().iter().zip(keys().iter().cycle().skip(1)) {
                let key = &own.public_key().unwrap();
                let mut above_params = authority_params(&trust_domain, &ca_name, BasicConstraints::Unconstrained);
                above_params.key_identifier_method = KeyIdMethod::PreSpecified(vec![7; 20]);
                above_params.not_after = datetime!(9999-12-31 23:59:59 UTC);
                let signer = Signer::new(above_params.self_signed(above.pair()).unwrap().der(), above.clone()).unwrap();
                for subject in [
                    Subject::Leaf { id: &id, key },
                    Subject::Serving { dns_names: &dns_names, ip_addresses: &ip_addresses, key },
                    Subject::Issuing { trust_domain: &trust_domain, name: &ca_name, key },
                ] {
                    if matches!(subject, Subject::Serving { .. }) && dns_names.is_empty() && ip_addresses.is_empty() {
                        // rcgen leaves an empty subjectAltName out; a server without a name isn't made.
                        continue;
                    }
                    let written = written(&subject, serial, validity, &IssuedBy::Signer(&signer));
                    prop_assert_eq!(written, by_rcgen(&subject, own, serial, validity, Some((&above_params, above))), "{:?}", subject);
                }
                let subject = Subject::Root { trust_domain: &trust_domain, name: &ca_name, key };
                let written = written(&subject, serial, validity, &IssuedBy::Itself(own));
                prop_assert_eq!(written, by_rcgen(&subject, own, serial, validity, None));
            }
        }
    }

    #[test]
    fn a_year_without_four_digits_is_not_taken_for_another_instant() {
        let written = |at| {
            let mut der = Der::with_capacity(0);
            time(&mut der, at);
            der.into_bytes()
        };
        assert_eq!(written(datetime!(2026-11-23 1:02:03 UTC)), b"\x17\x0d261123010203Z");
        assert_eq!(written(datetime!(9999-12-31 23:59:59 UTC)), b"\x18\x0f99991231235959Z");
        assert_eq!(written(datetime!(-0044-03-15 0:00 UTC)), b"\x18\x0f00000315000000Z");
    }
}
