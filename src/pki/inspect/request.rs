//! One certificate signing request (PKCS#10, RFC 2986): what it asks for, and whether it proves that its sender has the key.

use serde::Serialize;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{ParsedExtension, X509Extension};

use super::certificate::{KeyReport, general_name, key_report, name, purposes, signature_algorithm};

/// One CSR.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestReport {
    /// Its place in the input, from 1.
    pub position: usize,
    /// The subject asked for; empty where there is none.
    pub subject: String,
    /// The names asked for, each with its type.
    pub names: Vec<String>,
    /// The other extensions asked for, in words.
    pub extensions: Vec<String>,
    /// The public key.
    pub public_key: KeyReport,
    /// How it is signed.
    pub signature_algorithm: String,
    /// Whether it is signed by its own key.
    pub self_signature_verifies: bool,
}

impl RequestReport {
    pub(super) fn of(request: &X509CertificationRequest<'_>, position: usize) -> Self {
        let info = &request.certification_request_info;
        let (mut names, mut extensions) = (Vec::new(), Vec::new());
        for attribute in info.attributes() {
            match attribute.parsed_attribute() {
                ParsedCriAttribute::ExtensionRequest(asked) => {
                    for extension in &asked.extensions {
                        match extension.parsed_extension() {
                            ParsedExtension::SubjectAlternativeName(san) => names.extend(san.general_names.iter().map(general_name)),
                            _ => extensions.push(in_words(extension)),
                        }
                    }
                }
                ParsedCriAttribute::ChallengePassword(_) => extensions.push("challengePassword (not shown)".to_owned()),
                ParsedCriAttribute::UnsupportedAttribute => extensions.push(format!("attribute {}", attribute.oid)),
            }
        }
        Self {
            position,
            subject: name(&info.subject),
            names,
            extensions,
            public_key: key_report(&info.subject_pki),
            signature_algorithm: signature_algorithm(&request.signature_algorithm.algorithm),
            self_signature_verifies: request.verify_signature().is_ok(),
        }
    }
}

fn in_words(extension: &X509Extension<'_>) -> String {
    let what = match extension.parsed_extension() {
        ParsedExtension::BasicConstraints(constraints) => match (constraints.ca, constraints.path_len_constraint) {
            (true, Some(limit)) => format!("basicConstraints CA:TRUE, pathlen:{limit}"),
            (true, None) => "basicConstraints CA:TRUE".to_owned(),
            (false, _) => "basicConstraints CA:FALSE".to_owned(),
        },
        ParsedExtension::KeyUsage(usage) => format!("keyUsage {usage}"),
        ParsedExtension::ExtendedKeyUsage(usage) => format!("extendedKeyUsage {}", purposes(usage).join(", ")),
        ParsedExtension::SubjectKeyIdentifier(id) => format!("subjectKeyIdentifier {}", hex::encode(id.0)),
        ParsedExtension::NameConstraints(_) => "nameConstraints".to_owned(),
        ParsedExtension::ParseError { .. } => format!("{}, which can't be read", extension.oid),
        _ => extension.oid.to_string(),
    };
    if extension.critical { format!("{what} (critical)") } else { what }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, IsCa, KeyPair, KeyUsagePurpose};
    use x509_parser::prelude::FromDer;

    use super::*;
    use crate::spiffe::x509_svid::makers::{request_params, uri};

    /// As pilot-agent makes it: RSA-2048, the subject `O=` with an empty string, one critical URI.
    const PILOT_AGENT: &[u8] = include_bytes!("../../../tests/corpus/inspect/pilot-agent-rsa2048.csr.der");

    fn report(der: &[u8]) -> RequestReport {
        RequestReport::of(&X509CertificationRequest::from_der(der).unwrap().1, 1)
    }

    #[test]
    fn as_ztunnel_makes_it() {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri("spiffe://cluster.local/ns/shop/sa/cart")];
        let request = params.serialize_request(&KeyPair::generate().unwrap()).unwrap();
        let report = report(request.der());
        assert_eq!((report.subject.as_str(), report.self_signature_verifies), ("", true));
        assert_eq!(report.names, ["URI:spiffe://cluster.local/ns/shop/sa/cart"]);
        assert_eq!(report.public_key.algorithm, "ECDSA P-256");
    }

    #[test]
    fn as_pilot_agent_makes_it() {
        let report = report(PILOT_AGENT);
        assert_eq!((report.subject.as_str(), report.self_signature_verifies), ("O=", true));
        assert_eq!(report.names, ["URI:spiffe://cluster.local/ns/shop/sa/cart"]);
        assert_eq!((report.public_key.algorithm.as_str(), report.public_key.bits), ("RSA", Some(2048)));
        assert_eq!(report.signature_algorithm, "RSA with SHA-256");
    }

    #[test]
    fn shows_what_is_asked_for() {
        let mut params = request_params();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages.push(KeyUsagePurpose::KeyCertSign);
        let key = KeyPair::generate().unwrap();
        let mut der = params.serialize_request(&key).unwrap().der().to_vec();
        let all = report(&der).extensions.join("; ");
        for part in ["basicConstraints CA:TRUE, pathlen:1 (critical)", "Key Cert Sign", "extendedKeyUsage serverAuth, clientAuth"] {
            assert!(all.contains(part), "{part}: {all}");
        }
        let last = der.len() - 1;
        der[last] ^= 1;
        assert!(!report(&der).self_signature_verifies);
    }
}
