//! A public key that signs tokens, and the check of one signature (RFC 7518 §3), by ring.
//!
//! [`super::KeySet`] makes these, [`super::UnverifiedToken::verify`] uses them. An algorithm without a public key (`none`, HMAC) has no
//! variant, so none can be asked for.

use std::fmt;

use ring::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey};

/// A signature algorithm for tokens (RFC 7518 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// RSASSA-PSS with SHA-384.
    Ps384,
    /// RSASSA-PSS with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
}

impl Algorithm {
    /// Every algorithm, with its name in a JWS header. ES512 is not here because ring has no P-521.
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::Rs256, "RS256"),
        (Self::Rs384, "RS384"),
        (Self::Rs512, "RS512"),
        (Self::Ps256, "PS256"),
        (Self::Ps384, "PS384"),
        (Self::Ps512, "PS512"),
        (Self::Es256, "ES256"),
        (Self::Es384, "ES384"),
    ];

    /// The algorithm of that name; names are compared byte for byte (RFC 7515 §4.1.1).
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, each)| *each == name).map(|(algorithm, _)| *algorithm)
    }

    /// What checks it, where it is an RSA algorithm.
    fn rsa(self) -> Option<&'static RsaParameters> {
        match self {
            Self::Rs256 => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
            Self::Rs384 => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
            Self::Rs512 => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
            Self::Ps256 => Some(&signature::RSA_PSS_2048_8192_SHA256),
            Self::Ps384 => Some(&signature::RSA_PSS_2048_8192_SHA384),
            Self::Ps512 => Some(&signature::RSA_PSS_2048_8192_SHA512),
            Self::Es256 | Self::Es384 => None,
        }
    }
}

/// A public key, with the one algorithm that it is meant for where its publisher said so.
#[derive(Clone, PartialEq, Eq)]
pub struct VerificationKey {
    public: PublicKey,
    only: Option<Algorithm>,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum PublicKey {
    /// Modulus and exponent, big-endian without leading zeros.
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    /// An uncompressed point of P-256.
    P256(Vec<u8>),
    /// An uncompressed point of P-384.
    P384(Vec<u8>),
}

/// Why a signature was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SignatureFault {
    /// The algorithm is not one of this key's.
    Algorithm,
    /// It isn't this key's signature of the message.
    Signature,
}

impl VerificationKey {
    /// `None` where `only` can't be used with a key of this type.
    pub(super) fn new(public: PublicKey, only: Option<Algorithm>) -> Option<Self> {
        let key = Self { public, only: None };
        match only {
            Some(algorithm) if !key.fits(algorithm) => None,
            _ => Some(Self { only, ..key }),
        }
    }

    /// Whether `algorithm` is one of this key's type, and the one that its publisher named, if any (RFC 7517 §4.4).
    pub fn fits(&self, algorithm: Algorithm) -> bool {
        let of_type = match self.public {
            PublicKey::Rsa { .. } => algorithm.rsa().is_some(),
            PublicKey::P256(_) => algorithm == Algorithm::Es256,
            PublicKey::P384(_) => algorithm == Algorithm::Es384,
        };
        of_type && self.only.is_none_or(|only| only == algorithm)
    }

    pub(super) fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> Result<(), SignatureFault> {
        if !self.fits(algorithm) {
            return Err(SignatureFault::Algorithm);
        }
        let verified = match &self.public {
            PublicKey::Rsa { modulus, exponent } => {
                let parameters = algorithm.rsa().ok_or(SignatureFault::Algorithm)?;
                RsaPublicKeyComponents { n: modulus, e: exponent }.verify(parameters, message, signature)
            }
            PublicKey::P256(point) => UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, signature),
            PublicKey::P384(point) => UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point).verify(message, signature),
        };
        verified.map_err(|_| SignatureFault::Signature)
    }
}

impl fmt::Debug for VerificationKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.public {
            PublicKey::Rsa { modulus, .. } => write!(formatter, "VerificationKey(RSA-{})", modulus.len().saturating_mul(8)),
            PublicKey::P256(_) => formatter.write_str("VerificationKey(P-256)"),
            PublicKey::P384(_) => formatter.write_str("VerificationKey(P-384)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    /// RFC 7515 §A.3: a signature that was not made here.
    fn rfc_7515_a3() -> (VerificationKey, &'static str, Vec<u8>) {
        let decode = |text| URL_SAFE_NO_PAD.decode(text).unwrap();
        let x = decode("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU");
        let y = decode("x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0");
        let message = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let signature = decode("DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q");
        (VerificationKey::new(PublicKey::P256([vec![4], x, y].concat()), None).unwrap(), message, signature)
    }

    #[test]
    fn verifies_the_rfc_s_own_signature_and_no_other() {
        let (key, message, mut signature) = rfc_7515_a3();
        assert_eq!(key.verify(Algorithm::Es256, message.as_bytes(), &signature), Ok(()));
        assert_eq!(key.verify(Algorithm::Es256, b"x", &signature), Err(SignatureFault::Signature));
        for length in 0..signature.len() {
            assert_eq!(key.verify(Algorithm::Es256, message.as_bytes(), &signature[..length]), Err(SignatureFault::Signature));
        }
        signature[40] ^= 1;
        assert_eq!(key.verify(Algorithm::Es256, message.as_bytes(), &signature), Err(SignatureFault::Signature));
    }

    #[test]
    fn a_key_is_used_with_its_own_algorithms_only() {
        let (key, message, signature) = rfc_7515_a3();
        for (algorithm, name) in Algorithm::ALL {
            assert_eq!(key.fits(algorithm), name == "ES256", "{name}");
            if name != "ES256" {
                assert_eq!(key.verify(algorithm, message.as_bytes(), &signature), Err(SignatureFault::Algorithm), "{name}");
            }
        }
        let rsa = PublicKey::Rsa { modulus: vec![0xff; 256], exponent: vec![1, 0, 1] };
        let only = VerificationKey::new(rsa.clone(), Some(Algorithm::Ps384)).unwrap();
        assert!(only.fits(Algorithm::Ps384) && !only.fits(Algorithm::Ps256) && !only.fits(Algorithm::Rs384));
        assert_eq!(VerificationKey::new(rsa, Some(Algorithm::Es256)), None);
        assert_eq!(format!("{only:?}"), "VerificationKey(RSA-2048)");
        for name in ["none", "None", "HS256", "ES512", "EdDSA", "rs256", "RS256 ", ""] {
            assert_eq!(Algorithm::by_name(name), None, "{name}");
        }
    }
}
