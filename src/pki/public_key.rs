//! Public keys that may be certified: P-256, P-384, Ed25519, and RSA of 2048 to 4096 bits with exponent 65537.

use std::fmt;
use std::str::FromStr;

use rcgen::PublicKeyData;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// A public key that passed every check. It can only be made here.
#[derive(Clone, PartialEq, Eq)]
pub struct CheckedKey {
    info: rcgen::SubjectPublicKeyInfo,
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
        let checked = rcgen::SubjectPublicKeyInfo::from_der(info.raw).map_err(|_| PublicKeyError::Algorithm)?;
        let algorithm = if checked.algorithm() == &rcgen::PKCS_ECDSA_P256_SHA256 {
            uncompressed_point(bits, 32).map(|()| PublicKeyAlgorithm::P256)
        } else if checked.algorithm() == &rcgen::PKCS_ECDSA_P384_SHA384 {
            uncompressed_point(bits, 48).map(|()| PublicKeyAlgorithm::P384)
        } else if checked.algorithm() == &rcgen::PKCS_ED25519 {
            if bits.len() == 32 { Ok(PublicKeyAlgorithm::Ed25519) } else { Err(PublicKeyError::Malformed) }
        } else if checked.algorithm() == &rcgen::PKCS_RSA_SHA256 {
            rsa(info)
        } else {
            Err(PublicKeyError::Algorithm)
        }?;
        // The parser is lenient about tags; what is certified is exactly what was proved.
        if checked.subject_public_key_info() != info.raw {
            return Err(PublicKeyError::Malformed);
        }
        Ok(Self { info: checked, algorithm })
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
    pub fn to_der(&self) -> Vec<u8> {
        self.info.subject_public_key_info()
    }

    /// What names this key in certificates: the leftmost 160 bits of the SHA-256 of the subjectPublicKey's bits (RFC 7093 §2, method 1).
    pub(super) fn identifier(&self) -> Vec<u8> {
        let digest = ring::digest::digest(&ring::digest::SHA256, rcgen::PublicKeyData::der_bytes(&self.info));
        digest.as_ref().iter().take(20).copied().collect()
    }

    pub(super) fn info(&self) -> &rcgen::SubjectPublicKeyInfo {
        &self.info
    }
}

impl fmt::Debug for CheckedKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "CheckedKey({:?})", self.algorithm)
    }
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
    Ok(PublicKeyAlgorithm::Rsa { bits })
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
        assert_eq!(checked(&good).unwrap().to_der(), good);
        let mut other_tag = good.clone();
        other_tag[0] = 0x70;
        assert_eq!(checked(&other_tag).unwrap_err(), PublicKeyError::Malformed);
        let mut compressed = good;
        let point = compressed.len() - 65;
        compressed[point] = 2;
        assert_eq!(checked(&compressed).unwrap_err(), PublicKeyError::Malformed);
    }
}
