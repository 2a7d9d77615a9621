//! Public keys that may be certified: P-256, P-384, Ed25519, and RSA of 2048 to 4096 bits with exponent 65537.

use std::fmt;
use std::str::FromStr;

use rustls_pki_types::{AlgorithmIdentifier, alg_id};
use x509_parser::asn1_rs::Tag;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::der::{Der, tag};
use super::weak_rsa::{Weakness, weakness};

/// A public key that passed every check. It can only be made here.
#[derive(Clone, PartialEq, Eq)]
pub struct CheckedKey {
    der: Vec<u8>,
    identifier: [u8; 20],
    algorithm: PublicKeyAlgorithm,
}

/// Which kind of key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PublicKeyAlgorithm {
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// Ed25519 (RFC 8410).
    Ed25519,
    /// RSA.
    Rsa {
        /// Length of the modulus.
        bits: usize,
    },
}

impl fmt::Display for PublicKeyAlgorithm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::P256 => formatter.write_str("P-256"),
            Self::P384 => formatter.write_str("P-384"),
            Self::Ed25519 => formatter.write_str("Ed25519"),
            Self::Rsa { bits } => write!(formatter, "RSA-{bits}"),
        }
    }
}

impl FromStr for PublicKeyAlgorithm {
    type Err = PublicKeyError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "P-256" => Ok(Self::P256),
            "P-384" => Ok(Self::P384),
            "Ed25519" => Ok(Self::Ed25519),
            _ => {
                let bits = name.strip_prefix("RSA-").and_then(|bits| bits.parse().ok()).ok_or(PublicKeyError::Algorithm)?;
                Ok(Self::Rsa { bits })
            }
        }
    }
}

/// Why a public key isn't accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublicKeyError {
    /// Another algorithm or curve.
    #[error("it must be P-256, P-384, Ed25519 or RSA")]
    Algorithm,
    /// The bits of the key don't have the form that its algorithm says.
    #[error("its bits are malformed")]
    Malformed,
    /// RSA outside 2048 to 4096 bits.
    #[error("an RSA key must have 2048 to 4096 bits")]
    RsaSize,
    /// RSA with an even modulus, which is no product of two odd primes.
    #[error("an RSA modulus must be odd")]
    RsaModulus,
    /// RSA with a small prime in its modulus.
    #[error("an RSA modulus must have no factor below 752")]
    RsaSmallFactor,
    /// RSA as the library of CVE-2017-15361 makes it.
    #[error("this RSA key can be factored (CVE-2017-15361): make another one, with another library")]
    RsaRoca,
    /// RSA with another exponent.
    #[error("an RSA exponent must be 65537")]
    RsaExponent,
}

impl CheckedKey {
    /// Checks a SubjectPublicKeyInfo (RFC 5280 §4.1.2.7). Whether a point is on its curve shows when a signature is checked with it.
    ///
    /// # Errors
    /// [`PublicKeyError`].
    pub fn from_subject_public_key_info(info: &SubjectPublicKeyInfo<'_>) -> Result<Self, PublicKeyError> {
        let bits = info.subject_public_key.data.as_ref();
        if info.subject_public_key.unused_bits != 0 {
            return Err(PublicKeyError::Malformed);
        }
        let (named, algorithm) = match Kind::of(info)? {
            Kind::P256 => (alg_id::ECDSA_P256, uncompressed_point(bits, 32).map(|()| PublicKeyAlgorithm::P256)),
            Kind::P384 => (alg_id::ECDSA_P384, uncompressed_point(bits, 48).map(|()| PublicKeyAlgorithm::P384)),
            Kind::Ed25519 if bits.len() != 32 => return Err(PublicKeyError::Malformed),
            Kind::Ed25519 => (alg_id::ED25519, Ok(PublicKeyAlgorithm::Ed25519)),
            Kind::Rsa => (alg_id::RSA_ENCRYPTION, rsa(info)),
        };
        let algorithm = algorithm?;
        // The parser is lenient about tags and lengths; what is certified is exactly what was proved, in the one form that DER has for it.
        let der = encoded(named, bits);
        if der != info.raw {
            return Err(PublicKeyError::Malformed);
        }
        Ok(Self { der, identifier: identifier(bits), algorithm })
    }

    /// The public half of a key that we made.
    pub(super) fn of_own_key(key: &super::IssuerKey) -> Result<Self, PublicKeyError> {
        use x509_parser::prelude::FromDer;
        let der = key.public_key_info();
        let (_, info) = SubjectPublicKeyInfo::from_der(&der).map_err(|_| PublicKeyError::Malformed)?;
        Self::from_subject_public_key_info(&info)
    }

    /// Which kind of key it is.
    pub fn algorithm(&self) -> PublicKeyAlgorithm {
        self.algorithm
    }

    /// The key as DER SubjectPublicKeyInfo.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// What names this key in certificates: the leftmost 160 bits of the SHA-256 of the subjectPublicKey's bits (RFC 7093 §2, method 1).
    pub(super) fn identifier(&self) -> &[u8] {
        &self.identifier
    }
}

impl fmt::Debug for CheckedKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "CheckedKey({:?})", self.algorithm)
    }
}

/// What an AlgorithmIdentifier may name (RFC 5480 §2.1.1, RFC 8410 §3, RFC 3279 §2.3.1).
enum Kind {
    P256,
    P384,
    Ed25519,
    Rsa,
}

impl Kind {
    fn of(info: &SubjectPublicKeyInfo<'_>) -> Result<Self, PublicKeyError> {
        let (name, parameters) = (&info.algorithm.algorithm, info.algorithm.parameters.as_ref());
        let curve = || parameters.and_then(|parameters| parameters.as_oid().ok());
        let null = || parameters.is_some_and(|parameters| parameters.tag() == Tag::Null && parameters.data.is_empty());
        if *name == OID_KEY_TYPE_EC_PUBLIC_KEY && curve().is_some_and(|curve| curve == OID_EC_P256) {
            Ok(Self::P256)
        } else if *name == OID_KEY_TYPE_EC_PUBLIC_KEY && curve().is_some_and(|curve| curve == OID_NIST_EC_P384) {
            Ok(Self::P384)
        } else if *name == OID_SIG_ED25519 && parameters.is_none() {
            Ok(Self::Ed25519)
        } else if *name == OID_PKCS1_RSAENCRYPTION && null() {
            Ok(Self::Rsa)
        } else {
            Err(PublicKeyError::Algorithm)
        }
    }
}

/// SubjectPublicKeyInfo (RFC 5280 §4.1.2.7).
fn encoded(algorithm: AlgorithmIdentifier, bits: &[u8]) -> Vec<u8> {
    // What stands around the bits, tags, lengths and the algorithm, has 32 bytes at most.
    let mut der = Der::with_capacity(bits.len() + 32);
    der.sequence(|info| {
        info.value(tag::SEQUENCE, &algorithm);
        info.bit_string(bits);
    });
    der.into_bytes()
}

fn identifier(bits: &[u8]) -> [u8; 20] {
    let mut identifier = [0; 20];
    let digest = ring::digest::digest(&ring::digest::SHA256, bits);
    identifier.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    identifier
}

/// SEC 1 §2.3.3: 0x04, then both coordinates. ring takes no other form.
fn uncompressed_point(bits: &[u8], coordinate: usize) -> Result<(), PublicKeyError> {
    if bits.first() == Some(&4) && bits.len() == 1 + 2 * coordinate { Ok(()) } else { Err(PublicKeyError::Malformed) }
}

fn rsa(info: &SubjectPublicKeyInfo<'_>) -> Result<PublicKeyAlgorithm, PublicKeyError> {
    let Ok(PublicKey::RSA(key)) = info.parsed() else { return Err(PublicKeyError::Malformed) };
    let modulus = key.modulus.strip_prefix(&[0]).unwrap_or(key.modulus);
    let bits = modulus.len() * 8 - modulus.first().map_or(0, |first| first.leading_zeros() as usize);
    if !(2048..=4096).contains(&bits) {
        return Err(PublicKeyError::RsaSize);
    }
    if modulus.last().is_none_or(|last| last % 2 == 0) {
        return Err(PublicKeyError::RsaModulus);
    }
    if key.try_exponent() != Ok(65537) {
        return Err(PublicKeyError::RsaExponent);
    }
    match weakness(modulus) {
        Some(Weakness::SmallFactor) => Err(PublicKeyError::RsaSmallFactor),
        Some(Weakness::Roca) => Err(PublicKeyError::RsaRoca),
        None => Ok(PublicKeyAlgorithm::Rsa { bits }),
    }
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::FromDer;

    use super::*;
    use crate::pki::{IssuerKey, KeyAlgorithm};

    fn checked(der: &[u8]) -> Result<CheckedKey, PublicKeyError> {
        CheckedKey::from_subject_public_key_info(&SubjectPublicKeyInfo::from_der(der).unwrap().1)
    }

    #[test]
    fn a_kind_of_key_is_read_back_by_its_name() {
        let all = [PublicKeyAlgorithm::P256, PublicKeyAlgorithm::P384, PublicKeyAlgorithm::Ed25519, PublicKeyAlgorithm::Rsa { bits: 3072 }];
        assert_eq!(all.map(|kind| kind.to_string()), ["P-256", "P-384", "Ed25519", "RSA-3072"]);
        assert_eq!(all.map(|kind| kind.to_string().parse()), all.map(Ok));
        for unknown in ["", "p-256", "RSA-", "RSA-x", "DSA-2048"] {
            assert_eq!(unknown.parse::<PublicKeyAlgorithm>(), Err(PublicKeyError::Algorithm), "{unknown}");
        }
    }

    #[test]
    fn a_key_is_certified_as_it_was_encoded_or_not_at_all() {
        let good = IssuerKey::generate(KeyAlgorithm::P256).unwrap().public_key_info();
        assert_eq!(checked(&good).unwrap().der(), good);
        let mut other_tag = good.clone();
        other_tag[0] = 0x70;
        assert_eq!(checked(&other_tag).unwrap_err(), PublicKeyError::Malformed);
        let mut compressed = good;
        let point = compressed.len() - 65;
        compressed[point] = 2;
        assert_eq!(checked(&compressed).unwrap_err(), PublicKeyError::Malformed);
    }
}
