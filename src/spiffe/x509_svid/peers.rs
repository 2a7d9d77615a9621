//! What verifiers of a mesh refuse in the certificate of an authority, whatever a reader of RFC 5280 thinks of it: Go (istiod, pilot-agent),
//! rustls-webpki (ztunnel) and openssl differ, and an authority is of use only where all of them take it.

use x509_parser::certificate::TbsCertificate;
use x509_parser::extensions::X509Extension;
use x509_parser::oid_registry::{
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_CERTIFICATE_POLICIES, OID_X509_EXT_CRL_DISTRIBUTION_POINTS, OID_X509_EXT_EXTENDED_KEY_USAGE,
    OID_X509_EXT_INHIBIT_ANY_POLICY, OID_X509_EXT_KEY_USAGE, OID_X509_EXT_NAME_CONSTRAINTS, OID_X509_EXT_POLICY_CONSTRAINTS,
    OID_X509_EXT_POLICY_MAPPINGS, OID_X509_EXT_SUBJECT_ALT_NAME, Oid,
};

use super::Extensions;

/// Why peers refuse a certificate of an authority, or everything below it. It reads on after the certificate's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerRefusal {
    /// Go 1.23 and later don't parse it (RFC 5280 §4.1.2.2).
    #[error("has a negative serial number, and Istio's agents (Go) don't read a bundle with such a certificate")]
    NegativeSerial,
    /// rustls-webpki knows only the extensions of TLS (RFC 5280 §4.2: a verifier must refuse what is critical and unknown to it).
    #[error("has the critical extension {0}, and ztunnel (rustls-webpki) rejects every chain with it; use an authority without it")]
    CriticalExtension(String),
    /// Chains are verified for both purposes, because each workload is server and client.
    #[error(
        "has an extendedKeyUsage without {0}, and Go, openssl and rustls-webpki refuse what is signed below it; use an authority with serverAuth and clientAuth, or without that extension"
    )]
    Purpose(&'static str),
    /// rustls-webpki refuses any URI where there are constraints on URIs.
    #[error("has URI name constraints, and ztunnel (rustls-webpki) rejects every chain with them; use an authority without them")]
    UriConstraints,
}

/// The first thing for which peers refuse this authority.
pub fn refused_by_peers(tbs: &TbsCertificate<'_>) -> Option<PeerRefusal> {
    let extensions = Extensions::of(tbs);
    if tbs.raw_serial().first().is_some_and(|octet| octet & 0x80 != 0) {
        return Some(PeerRefusal::NegativeSerial);
    }
    if let Some(extension) = tbs.extensions().iter().find(|extension| is_critical_to_peers(extension)) {
        return Some(PeerRefusal::CriticalExtension(extension_name(&extension.oid)));
    }
    if extensions.names_uri_constraints() {
        return Some(PeerRefusal::UriConstraints);
    }
    missing_purpose(&extensions).map(PeerRefusal::Purpose)
}

/// Whether an extension is critical and not one that rustls-webpki knows.
pub(crate) fn is_critical_to_peers(extension: &X509Extension<'_>) -> bool {
    let known = [
        OID_X509_EXT_KEY_USAGE,
        OID_X509_EXT_SUBJECT_ALT_NAME,
        OID_X509_EXT_BASIC_CONSTRAINTS,
        OID_X509_EXT_NAME_CONSTRAINTS,
        OID_X509_EXT_CRL_DISTRIBUTION_POINTS,
        OID_X509_EXT_EXTENDED_KEY_USAGE,
    ];
    extension.critical && !known.contains(&extension.oid)
}

/// Its name in RFC 5280 §4.2.1, or its number.
pub(crate) fn extension_name(oid: &Oid<'_>) -> String {
    let named = [
        (OID_X509_EXT_CERTIFICATE_POLICIES, "certificatePolicies"),
        (OID_X509_EXT_POLICY_MAPPINGS, "policyMappings"),
        (OID_X509_EXT_POLICY_CONSTRAINTS, "policyConstraints"),
        (OID_X509_EXT_INHIBIT_ANY_POLICY, "inhibitAnyPolicy"),
    ];
    named.iter().find(|(known, _)| known == oid).map_or_else(|| oid.to_string(), |(_, name)| (*name).to_owned())
}

/// Which of the two purposes of a mesh an extendedKeyUsage leaves out (RFC 5280 §4.2.1.12).
pub(super) fn missing_purpose(extensions: &Extensions<'_>) -> Option<&'static str> {
    let (usage, _) = extensions.extended_key_usage?;
    match (usage.any || usage.server_auth, usage.any || usage.client_auth) {
        (true, true) => None,
        (true, false) => Some("clientAuth"),
        (false, _) => Some("serverAuth"),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, GeneralSubtree, NameConstraints};
    use x509_parser::certificate::X509Certificate;
    use x509_parser::prelude::FromDer;

    use super::super::makers::{Made, authority_params};
    use super::*;

    fn refusal(spoil: impl FnOnce(&mut CertificateParams)) -> Option<PeerRefusal> {
        let mut params = authority_params("ca");
        spoil(&mut params);
        refused_by_peers(&X509Certificate::from_der(&Made::self_signed(params).der).unwrap().1)
    }

    #[test]
    fn what_peers_refuse_in_an_authority() {
        let purposes = |purposes: &[ExtendedKeyUsagePurpose]| refusal(|params| params.extended_key_usages = purposes.to_vec());
        let critical = |oid: &[u64], content: &[u8]| {
            refusal(|params| {
                let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
                extension.set_criticality(true);
                params.custom_extensions.push(extension);
            })
        };
        let named = |name: &str| Some(PeerRefusal::CriticalExtension(name.to_owned()));
        assert_eq!(refusal(|_| ()), None);
        assert_eq!(refusal(|params| params.serial_number = Some(vec![0].into())), None, "lenient verifiers read it");
        // anyPolicy; requireExplicitPolicy 0; skip 0.
        assert_eq!(critical(&[2, 5, 29, 32], &[0x30, 8, 0x30, 6, 6, 4, 0x55, 0x1d, 0x20, 0]), named("certificatePolicies"));
        assert_eq!(critical(&[2, 5, 29, 33], &[0x30, 0]), named("policyMappings"));
        assert_eq!(critical(&[2, 5, 29, 36], &[0x30, 3, 0x80, 1, 0]), named("policyConstraints"));
        assert_eq!(critical(&[2, 5, 29, 54], &[2, 1, 0]), named("inhibitAnyPolicy"));
        assert_eq!(critical(&[1, 2, 3], &[5, 0]), named("1.2.3"));
        assert_eq!(purposes(&[ExtendedKeyUsagePurpose::ServerAuth]), Some(PeerRefusal::Purpose("clientAuth")));
        assert_eq!(purposes(&[ExtendedKeyUsagePurpose::ClientAuth]), Some(PeerRefusal::Purpose("serverAuth")));
        assert_eq!(purposes(&[ExtendedKeyUsagePurpose::OcspSigning]), Some(PeerRefusal::Purpose("serverAuth")));
        assert_eq!(purposes(&[ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]), None);
        assert_eq!(purposes(&[ExtendedKeyUsagePurpose::Any]), None);
        let constrained = |subtree: GeneralSubtree| {
            refusal(|params| params.name_constraints = Some(NameConstraints { permitted_subtrees: vec![subtree], excluded_subtrees: vec![] }))
        };
        assert_eq!(constrained(GeneralSubtree::DnsName("example".to_owned())), None);
    }

    #[test]
    fn a_negative_serial_is_seen_in_the_bytes() {
        let mut params = authority_params("ca");
        params.serial_number = Some(vec![0x7f, 1, 2, 3].into());
        let mut der = Made::self_signed(params).der;
        let at = der.windows(6).position(|window| window == [2, 4, 0x7f, 1, 2, 3]).unwrap();
        der[at + 2] = 0xff;
        assert_eq!(refused_by_peers(&X509Certificate::from_der(&der).unwrap().1), Some(PeerRefusal::NegativeSerial));
    }
}
