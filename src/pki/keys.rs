//! Private keys of authorities, and reading them in the forms that openssl and Istio write (PKCS#8, SEC1, PKCS#1).

use std::fmt;
use std::sync::Arc;

use ring::signature::RsaKeyPair;
use rustls_pki_types::{AlgorithmIdentifier, PrivatePkcs8KeyDer, alg_id};
use serde::{Deserialize, Serialize};

use super::pem::{Blocks, PemError};
use super::public_key::{CheckedKey, PublicKeyError};

/// Which key an authority or a server makes for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyAlgorithm {
    /// ECDSA on P-256, signing with SHA-256.
    P256,
    /// ECDSA on P-384, signing with SHA-384.
    P384,
}

/// A private key that signs certificates. Cheap to clone; it never shows itself.
#[derive(Clone)]
pub struct IssuerKey(Arc<rcgen::KeyPair>);

/// Why a private key can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No PEM block with a private key.
    #[error("no private key: expected one PEM block PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY")]
    NotAPrivateKey,
    /// Not PEM.
    #[error("no private key can be read: {0}")]
    Pem(#[from] PemError),
    /// An EC key that lacks its optional public part (RFC 5915 §3), as JDK 17 and `openssl ec -no_public` write it; ring wants both.
    #[error(
        "the EC private key comes without its public key, which is needed here: write it anew with both, for example with `openssl ec -in KEY -out WHOLE`"
    )]
    NoPublicKey,
    /// It is encrypted.
    #[error("the private key is encrypted: decrypt it first, for example with `openssl pkey -in KEY -out PLAIN`")]
    Encrypted,
    /// ring doesn't take it.
    #[error("the private key is not P-256, P-384, Ed25519 or RSA of 2048 to 4096 bits: {0}")]
    Unsupported(String),
    /// It could not be made.
    #[error("no key could be made: {0}")]
    Generation(String),
}

impl IssuerKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`KeyError::Generation`] where the system gives no randomness.
    pub fn generate(algorithm: KeyAlgorithm) -> Result<Self, KeyError> {
        let algorithm = match algorithm {
            KeyAlgorithm::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyAlgorithm::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        };
        let pair = rcgen::KeyPair::generate_for(algorithm).map_err(|error| KeyError::Generation(error.to_string()))?;
        Ok(Self(Arc::new(pair)))
    }

    /// Reads the first private key of a PEM text.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        if pem.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || pem.contains("Proc-Type: 4,ENCRYPTED") {
            return Err(KeyError::Encrypted);
        }
        for block in Blocks::of(pem.as_bytes()).found {
            let block = block?;
            let pkcs8 = match block.label {
                "PRIVATE KEY" => block.der()?,
                "EC PRIVATE KEY" => pkcs8_of_sec1(&block.der()?)?,
                "RSA PRIVATE KEY" => pkcs8_of_pkcs1(&block.der()?),
                _ => continue,
            };
            return Self::from_pkcs8(&pkcs8);
        }
        Err(KeyError::NotAPrivateKey)
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let unsupported = |error: &dyn fmt::Display| KeyError::Unsupported(error.to_string());
        if lacks_public_key(der) {
            return Err(KeyError::NoPublicKey);
        }
        let pair = rcgen::KeyPair::try_from(&PrivatePkcs8KeyDer::from(der)).map_err(|error| unsupported(&error))?;
        if pair.algorithm() == &rcgen::PKCS_RSA_SHA256 {
            let bits = RsaKeyPair::from_pkcs8(der).map_err(|error| unsupported(&error))?.public().modulus_len() * 8;
            if bits > 4096 {
                return Err(unsupported(&format!("{bits} bits")));
            }
        }
        Ok(Self(Arc::new(pair)))
    }

    /// The key as PKCS#8 PEM, for a store to keep.
    pub fn to_pem(&self) -> String {
        pem_rfc7468::encode_string("PRIVATE KEY", pem_rfc7468::LineEnding::LF, self.0.serialized_der()).unwrap_or_default()
    }

    /// The key as PKCS#8 DER, for a TLS stack.
    pub fn to_pkcs8_der(&self) -> PrivatePkcs8KeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.0.serialized_der().to_vec())
    }

    /// The public half, checked as every public key that is certified.
    ///
    /// # Errors
    /// [`PublicKeyError`] for an RSA key with an unusual exponent.
    pub fn public_key(&self) -> Result<CheckedKey, PublicKeyError> {
        CheckedKey::of_own_key(self)
    }

    /// The public half, a DER SubjectPublicKeyInfo (RFC 5280 §4.1.2.7).
    pub fn public_key_info(&self) -> Vec<u8> {
        rcgen::PublicKeyData::subject_public_key_info(self.0.as_ref())
    }

    pub(crate) fn pair(&self) -> &rcgen::KeyPair {
        &self.0
    }

    /// How it signs, as certificates name it (RFC 5280 §4.1.1.2). Every key that can be made here has one.
    pub(super) fn signature_algorithm(&self) -> Option<AlgorithmIdentifier> {
        let named = [
            (&rcgen::PKCS_ECDSA_P256_SHA256, alg_id::ECDSA_SHA256),
            (&rcgen::PKCS_ECDSA_P384_SHA384, alg_id::ECDSA_SHA384),
            (&rcgen::PKCS_ED25519, alg_id::ED25519),
            (&rcgen::PKCS_RSA_SHA256, alg_id::RSA_PKCS1_SHA256),
        ];
        let algorithm = self.0.algorithm();
        named.into_iter().find(|(own, _)| *own == algorithm).map(|(_, named)| named)
    }
}

impl fmt::Debug for IssuerKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "IssuerKey({:?}, secret)", self.0.algorithm())
    }
}

/// id-ecPublicKey (RFC 5480 §2.1.1).
const EC_PUBLIC_KEY: &[u64] = &[1, 2, 840, 10045, 2, 1];

/// Wraps an `ECPrivateKey` (RFC 5915 §3) as PKCS#8 (RFC 5208 §5): the curve moves into the algorithm.
fn pkcs8_of_sec1(der: &[u8]) -> Result<Vec<u8>, KeyError> {
    let curve = yasna::parse_der(der, |reader| {
        reader.read_sequence(|reader| {
            reader.next().read_u8()?;
            reader.next().read_bytes()?;
            let curve = reader.next().read_tagged(yasna::Tag::context(0), |reader| reader.read_oid())?;
            while reader.read_optional(|reader| reader.read_der())?.is_some() {}
            Ok(curve)
        })
    })
    .map_err(|_| KeyError::Unsupported("the EC private key doesn't name its curve".to_owned()))?;
    Ok(pkcs8(der, |writer| {
        writer.write_sequence(|writer| {
            writer.next().write_oid(&yasna::models::ObjectIdentifier::from_slice(EC_PUBLIC_KEY));
            writer.next().write_oid(&curve);
        });
    }))
}

/// Whether a PKCS#8 key is an `ECPrivateKey` without `publicKey` (RFC 5915 §3).
fn lacks_public_key(der: &[u8]) -> bool {
    let inner = yasna::parse_der(der, |reader| {
        reader.read_sequence(|reader| {
            reader.next().read_u8()?;
            let is_elliptic = reader.next().read_sequence(|reader| {
                let algorithm = reader.next().read_oid()?;
                while reader.read_optional(|reader| reader.read_der())?.is_some() {}
                Ok(algorithm.components().as_slice() == EC_PUBLIC_KEY)
            })?;
            let key = reader.next().read_bytes()?;
            while reader.read_optional(|reader| reader.read_der())?.is_some() {}
            Ok(is_elliptic.then_some(key))
        })
    });
    let Ok(Some(key)) = inner else { return false };
    let public = yasna::parse_der(&key, |reader| {
        reader.read_sequence(|reader| {
            reader.next().read_u8()?;
            reader.next().read_bytes()?;
            reader.read_optional(|reader| reader.read_tagged(yasna::Tag::context(0), |reader| reader.read_der()))?;
            reader.read_optional(|reader| reader.read_tagged(yasna::Tag::context(1), |reader| reader.read_der()))
        })
    });
    matches!(public, Ok(None))
}

/// Wraps an `RSAPrivateKey` (RFC 8017 §A.1.2) as PKCS#8.
fn pkcs8_of_pkcs1(der: &[u8]) -> Vec<u8> {
    const RSA_ENCRYPTION: &[u64] = &[1, 2, 840, 113_549, 1, 1, 1];
    pkcs8(der, |writer| {
        writer.write_sequence(|writer| {
            writer.next().write_oid(&yasna::models::ObjectIdentifier::from_slice(RSA_ENCRYPTION));
            writer.next().write_null();
        });
    })
}

fn pkcs8(key: &[u8], algorithm: impl FnOnce(yasna::DERWriter<'_>)) -> Vec<u8> {
    yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_u8(0);
            algorithm(writer.next());
            writer.next().write_bytes(key);
        });
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEC1: &str = include_str!("../../tests/corpus/keys/p256-sec1.pem");
    const PKCS1: &str = include_str!("../../tests/corpus/keys/rsa2048-pkcs1.pem");

    #[test]
    fn reads_the_forms_that_openssl_and_istio_write() {
        for pem in [SEC1, PKCS1, include_str!("../../tests/corpus/keys/p384-sec1.pem"), include_str!("../../tests/corpus/keys/ed25519-pkcs8.pem")] {
            let key = IssuerKey::from_pem(pem).unwrap();
            let again = IssuerKey::from_pem(&key.to_pem()).unwrap();
            assert_eq!(key.public_key_info(), again.public_key_info());
            key.public_key().unwrap();
        }
    }

    #[test]
    fn says_why_a_key_can_not_be_used() {
        assert_eq!(IssuerKey::from_pem("").unwrap_err(), KeyError::NotAPrivateKey);
        let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(IssuerKey::from_pem(certificate).unwrap_err(), KeyError::NotAPrivateKey);
        assert_eq!(IssuerKey::from_pem("-----BEGIN ENCRYPTED PRIVATE KEY-----\n").unwrap_err(), KeyError::Encrypted);
        for pem in [include_str!("../../tests/corpus/keys/p521-sec1.pem"), include_str!("../../tests/corpus/keys/rsa1024-pkcs1.pem")] {
            assert!(matches!(IssuerKey::from_pem(pem), Err(KeyError::Unsupported(_))));
        }
    }

    #[test]
    fn an_ec_key_without_its_public_part_is_called_that() {
        for pem in [
            include_str!("../../tests/corpus/keys/p256-sec1-no-public.pem"),
            include_str!("../../tests/corpus/keys/p256-pkcs8-no-public.pem"),
            include_str!("../../tests/corpus/keys/p384-pkcs8-no-public.pem"),
        ] {
            assert_eq!(IssuerKey::from_pem(pem).unwrap_err(), KeyError::NoPublicKey);
        }
    }

    #[test]
    fn reads_a_key_in_whatever_lines_and_never_quotes_one() {
        let key = IssuerKey::from_pem(SEC1).unwrap();
        for text in [
            SEC1.replace('\n', ""),
            format!("\u{feff}{SEC1}"),
            SEC1.replace('\n', "\r\n"),
            format!("{}{SEC1}", PKCS1.replace("RSA PRIVATE", "OTHER PUBLIC")),
        ] {
            assert_eq!(IssuerKey::from_pem(&text).unwrap().public_key_info(), key.public_key_info());
        }
        let secret = SEC1.lines().nth(1).unwrap();
        for text in [SEC1.replace('\n', "\\n"), SEC1.replace(secret, &format!("{secret}*")), SEC1.replace("-----END", "----END")] {
            let error = IssuerKey::from_pem(&text).unwrap_err();
            assert!(matches!(error, KeyError::Pem(_)) && !format!("{error} {error:?}").contains(&secret[8..24]), "{error}");
        }
    }

    #[test]
    fn never_shows_itself() {
        let key = IssuerKey::from_pem(SEC1).unwrap();
        assert_eq!(format!("{key:?}"), "IssuerKey(PKCS_ECDSA_P256_SHA256, secret)");
    }
}
