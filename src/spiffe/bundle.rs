//! The SPIFFE bundle document: a JSON Web Key Set with one key for each root (SPIFFE Trust Domain and Bundle §4, X509-SVID §6).
//!
//! `bundle` and the bundle endpoint write it, `inspect` reads it. What is written is the same bytes for the same roots.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_SIG_ED25519};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Why a bundle document can't be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// A root that isn't one DER certificate.
    #[error("root {0} of the bundle is not a certificate")]
    NotACertificate(usize),
    /// A root whose key no JSON Web Key can carry.
    #[error("root {0} of the bundle has a key that is neither RSA nor on P-256, P-384, P-521 or Ed25519")]
    Key(usize),
    /// Not a JSON object with `keys`.
    #[error("not a SPIFFE bundle document: {0}")]
    NotABundle(String),
    /// An `x5c` that isn't base64.
    #[error("key {0} of the bundle document: x5c is not base64")]
    Base64(usize),
}

/// What a bundle document holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BundleDocument {
    /// The roots, DER, in the order of the document. Whether each is a certificate is not looked at.
    pub roots: Vec<Vec<u8>>,
    /// `spiffe_sequence`, which grows with every change.
    pub sequence: Option<u64>,
    /// `spiffe_refresh_hint`.
    pub refresh_hint: Option<Duration>,
    /// How many keys are for JWT-SVIDs.
    pub jwt_keys: usize,
    /// How many keys a reader must ignore: an unknown or missing `use`, or no `x5c`.
    pub ignored: usize,
    /// How many roots have a `kid`, which they must not (X509-SVID §6.1).
    pub roots_with_kid: usize,
    /// How many roots have more than one certificate in `x5c`, of which only the first counts (X509-SVID §6.2).
    pub roots_with_chain: usize,
}

/// Writes the bundle document of a trust domain: `roots_der` in their order, the bundle number, and how often to look again
/// (whole seconds, rounded up).
///
/// # Errors
/// [`BundleError::NotACertificate`] and [`BundleError::Key`]: a root is never left out silently. Positions count from 1.
pub fn bundle_json(roots_der: &[impl AsRef<[u8]>], sequence: u64, refresh_hint: Duration) -> Result<String, BundleError> {
    let keys = roots_der.iter().enumerate().map(|(index, der)| Key::of_root(der.as_ref(), index + 1)).collect::<Result<Vec<_>, _>>()?;
    let refresh_hint = refresh_hint.as_secs() + u64::from(refresh_hint.subsec_nanos() > 0);
    serde_json::to_string_pretty(&Document { keys, spiffe_sequence: sequence, spiffe_refresh_hint: refresh_hint })
        .map_err(|error| BundleError::NotABundle(error.to_string()))
}

/// Reads a bundle document, as X509-SVID §6.2 says: keys that aren't roots are passed over, and of an `x5c` the first counts.
///
/// # Errors
/// [`BundleError::NotABundle`] and [`BundleError::Base64`].
pub fn roots_of_bundle_json(json: &[u8]) -> Result<BundleDocument, BundleError> {
    // The parser's words may quote what it read; where it is, is enough.
    let place = |error: serde_json::Error| BundleError::NotABundle(format!("line {} column {}", error.line(), error.column()));
    let document: ReadDocument = serde_json::from_slice(json).map_err(place)?;
    let mut bundle = BundleDocument {
        sequence: document.spiffe_sequence,
        refresh_hint: document.spiffe_refresh_hint.map(Duration::from_secs),
        ..BundleDocument::default()
    };
    for (index, key) in document.keys.iter().enumerate() {
        match (key.r#use.as_deref(), key.x5c.as_slice()) {
            (Some("x509-svid"), [first, rest @ ..]) => {
                bundle.roots.push(STANDARD.decode(first).map_err(|_| BundleError::Base64(index + 1))?);
                bundle.roots_with_kid += usize::from(key.kid.is_some());
                bundle.roots_with_chain += usize::from(!rest.is_empty());
            }
            (Some("jwt-svid"), _) => bundle.jwt_keys += 1,
            _ => bundle.ignored += 1,
        }
    }
    Ok(bundle)
}

#[derive(Serialize)]
struct Document {
    keys: Vec<Key>,
    spiffe_sequence: u64,
    spiffe_refresh_hint: u64,
}

#[derive(Serialize)]
struct Key {
    #[serde(flatten)]
    numbers: Numbers,
    r#use: &'static str,
    x5c: [String; 1],
}

/// The public key, as RFC 7518 §6 and RFC 8037 §2 write it.
#[derive(Serialize)]
#[serde(tag = "kty")]
enum Numbers {
    #[serde(rename = "EC")]
    Elliptic { crv: &'static str, x: String, y: String },
    #[serde(rename = "RSA")]
    Rsa { n: String, e: String },
    #[serde(rename = "OKP")]
    Edwards { crv: &'static str, x: String },
}

impl Key {
    fn of_root(der: &[u8], position: usize) -> Result<Self, BundleError> {
        let Ok((&[], root)) = X509Certificate::from_der(der) else {
            return Err(BundleError::NotACertificate(position));
        };
        let numbers = Numbers::of_key(root.public_key()).ok_or(BundleError::Key(position))?;
        Ok(Self { numbers, r#use: "x509-svid", x5c: [STANDARD.encode(der)] })
    }
}

impl Numbers {
    fn of_key(info: &SubjectPublicKeyInfo<'_>) -> Option<Self> {
        match info.parsed().ok()? {
            PublicKey::RSA(key) => Some(Self::Rsa { n: unsigned(key.modulus), e: unsigned(key.exponent) }),
            PublicKey::EC(point) => {
                let curve = info.algorithm.parameters.as_ref()?.as_oid().ok()?;
                let (crv, bytes) = match curve {
                    _ if curve == OID_EC_P256 => ("P-256", 32),
                    _ if curve == OID_NIST_EC_P384 => ("P-384", 48),
                    _ if curve == OID_NIST_EC_P521 => ("P-521", 66),
                    _ => return None,
                };
                let (x, y) = point.data().strip_prefix(&[4])?.split_at_checked(bytes)?;
                (y.len() == bytes).then(|| Self::Elliptic { crv, x: URL_SAFE_NO_PAD.encode(x), y: URL_SAFE_NO_PAD.encode(y) })
            }
            _ if info.algorithm.algorithm == OID_SIG_ED25519 => {
                Some(Self::Edwards { crv: "Ed25519", x: URL_SAFE_NO_PAD.encode(&info.subject_public_key.data) })
            }
            _ => None,
        }
    }
}

/// base64url of a positive number without leading zeros (RFC 7518 §2, Base64urlUInt).
fn unsigned(mut number: &[u8]) -> String {
    while let [0, rest @ ..] = number {
        number = rest;
    }
    URL_SAFE_NO_PAD.encode(number)
}

#[derive(Deserialize)]
struct ReadDocument {
    keys: Vec<ReadKey>,
    spiffe_sequence: Option<u64>,
    spiffe_refresh_hint: Option<u64>,
}

#[derive(Deserialize)]
struct ReadKey {
    r#use: Option<String>,
    kid: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    x5c: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::super::x509_svid::makers::{Made, authority_params};
    use super::*;

    #[test]
    fn reads_back_what_it_writes() {
        let roots = [Made::root("one").der, Made::root("two").der];
        let json = bundle_json(&roots, 7, Duration::from_millis(299_500)).unwrap();
        let bundle = roots_of_bundle_json(json.as_bytes()).unwrap();
        let expected =
            BundleDocument { roots: roots.to_vec(), sequence: Some(7), refresh_hint: Some(Duration::from_secs(300)), ..BundleDocument::default() };
        assert_eq!(bundle, expected);
        assert_eq!(bundle_json(&roots, 7, Duration::from_millis(299_500)).unwrap(), json);
    }

    #[test]
    fn a_key_has_exactly_what_the_specification_names() {
        let root = Made::root("root");
        let json: serde_json::Value = serde_json::from_str(&bundle_json(&[&root.der], 1, Duration::from_secs(60)).unwrap()).unwrap();
        let key = json["keys"][0].as_object().unwrap();
        let mut members: Vec<_> = key.keys().map(String::as_str).collect();
        members.sort_unstable();
        assert_eq!(members, ["crv", "kty", "use", "x", "x5c", "y"]);
        assert_eq!((&key["kty"], &key["crv"], &key["use"]), (&"EC".into(), &"P-256".into(), &"x509-svid".into()));
        let (_, parsed) = X509Certificate::from_der(&root.der).unwrap();
        let point =
            [URL_SAFE_NO_PAD.decode(key["x"].as_str().unwrap()).unwrap(), URL_SAFE_NO_PAD.decode(key["y"].as_str().unwrap()).unwrap()].concat();
        assert_eq!(point, parsed.public_key().subject_public_key.data[1..]);
        assert_eq!((&json["spiffe_sequence"], &json["spiffe_refresh_hint"]), (&1.into(), &60.into()));
    }

    #[test]
    fn other_keys() {
        let of = |algorithm| {
            let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
            let der = authority_params("root").self_signed(&key).unwrap().der().to_vec();
            let json = bundle_json(&[der], 1, Duration::from_secs(60)).unwrap();
            serde_json::from_str::<serde_json::Value>(&json).unwrap()["keys"][0].clone()
        };
        let p384 = of(&rcgen::PKCS_ECDSA_P384_SHA384);
        assert_eq!((&p384["crv"], p384["x"].as_str().map(str::len)), (&"P-384".into(), Some(64)));
        let ed25519 = of(&rcgen::PKCS_ED25519);
        assert_eq!((&ed25519["kty"], &ed25519["crv"], ed25519["x"].as_str().map(str::len)), (&"OKP".into(), &"Ed25519".into(), Some(43)));
        // An RSA modulus is written without the zero that makes it positive in DER (RFC 7518 §2).
        assert_eq!((unsigned(&[0, 0xff, 1]), unsigned(&[1, 0, 1])), ("_wE".to_owned(), "AQAB".to_owned()));
    }

    #[test]
    fn a_root_that_can_not_be_carried_is_an_error() {
        let root = Made::root("root").der;
        assert_eq!(bundle_json(&[&root, &vec![0x30, 0]], 1, Duration::ZERO), Err(BundleError::NotACertificate(2)));
        let trailing = [root.as_slice(), &[0]].concat();
        assert_eq!(bundle_json(&[trailing], 1, Duration::ZERO), Err(BundleError::NotACertificate(1)));
        // The same certificate on a curve that has no name here.
        let p256 = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
        let at = root.windows(p256.len()).position(|window| window == p256).unwrap();
        let mut unknown = root;
        unknown[at + p256.len() - 1] = 0x05;
        assert_eq!(bundle_json(&[unknown], 1, Duration::ZERO), Err(BundleError::Key(1)));
    }

    #[test]
    fn passes_over_what_it_must() {
        let root = STANDARD.encode(Made::root("root").der);
        let json = format!(
            r#"{{"keys":[{{"use":"x509-svid","kid":"a","x5c":["{root}","AAAA"]}},{{"use":"jwt-svid","kid":"b"}},{{"use":"other"}},{{"use":"x509-svid"}},{{}}],"more":1}}"#
        );
        let bundle = roots_of_bundle_json(json.as_bytes()).unwrap();
        let counts = (bundle.roots.len(), bundle.jwt_keys, bundle.ignored, bundle.roots_with_kid, bundle.roots_with_chain, bundle.sequence);
        assert_eq!(counts, (1, 1, 3, 1, 1, None));
    }

    #[test]
    fn refuses_what_is_no_bundle() {
        for json in ["", "{}", "[]", r#"{"keys":1}"#, r#"{"keys":[],"spiffe_sequence":-1}"#] {
            assert!(matches!(roots_of_bundle_json(json.as_bytes()), Err(BundleError::NotABundle(_))), "{json}");
        }
        let json = br#"{"keys":[{"use":"x509-svid","x5c":["*"]}]}"#;
        assert_eq!(roots_of_bundle_json(json), Err(BundleError::Base64(1)));
    }
}
