//! An issuer's published keys: a JWK Set (RFC 7517 §5), by `kid`. `cluster::key_sets` fetches the bytes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::strict_json::{Json, Members, strict_object};
use super::verification_key::{Algorithm, PublicKey, VerificationKey};

/// The usable keys of a set.
///
/// What could belong to somebody else's needs is skipped and counted: other key types, curves, uses and algorithms, RSA outside 2048–8192 bits or with
/// an exponent below 65537 (FIPS 186-5 §A.1.1), and keys without a `kid`, because a token without a `kid` is refused and could never choose them.
/// What can only be a mistake refuses the whole set, so that the last good one stays in use.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KeySet {
    keys: BTreeMap<String, Arc<VerificationKey>>,
    skipped: usize,
}

/// Why a document is no key set for us.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// More than [`KeySet::MAX_BYTES`].
    #[error("the key set is larger than 1 MiB")]
    TooLarge,
    /// It isn't `{"keys": [{…}, …]}`, or a member occurs twice.
    #[error("not a JWK set: expected a JSON object with a list of objects named \"keys\", no member twice")]
    NotAKeySet,
    /// More than [`KeySet::MAX_KEYS`].
    #[error("the key set has more than 1000 keys")]
    TooManyKeys,
    /// Two keys with one name.
    #[error("two keys have the same kid {0:?}")]
    DuplicateKid(String),
    /// A member of a key is missing, of the wrong type or length, or not base64url.
    #[error("key {index} of the set has no usable {member:?}")]
    BadMember {
        /// Its place in the list, from 0.
        index: usize,
        /// The member.
        member: &'static str,
    },
    /// A private key where public ones are published: whoever could read the set can make tokens.
    #[error("key {0} of the set is a private key: it must be replaced, everybody who could read the set can sign with it")]
    PrivateKey(usize),
    /// Nothing in it could verify a token of ours.
    #[error("the key set has no usable key ({skipped} skipped)")]
    NoUsableKey {
        /// How many there were.
        skipped: usize,
    },
}

impl KeySet {
    /// The largest document, in bytes.
    pub const MAX_BYTES: usize = 1 << 20;
    /// The most keys, skipped ones included.
    pub const MAX_KEYS: usize = 1000;

    /// Reads a JWK Set.
    ///
    /// # Errors
    /// [`KeySetError`].
    pub fn from_jwks(document: &[u8]) -> Result<Self, KeySetError> {
        if document.len() > Self::MAX_BYTES {
            return Err(KeySetError::TooLarge);
        }
        let members = strict_object(document).map_err(|_| KeySetError::NotAKeySet)?;
        let list = members.get("keys").and_then(Json::as_list).ok_or(KeySetError::NotAKeySet)?;
        if list.len() > Self::MAX_KEYS {
            return Err(KeySetError::TooManyKeys);
        }
        let mut set = Self::default();
        for (index, item) in list.iter().enumerate() {
            let jwk = Jwk { index, members: item.as_object().ok_or(KeySetError::NotAKeySet)? };
            match jwk.read()? {
                None => set.skipped += 1,
                Some((kid, key)) => match set.keys.entry(kid) {
                    Entry::Occupied(taken) => return Err(KeySetError::DuplicateKid(taken.key().chars().take(64).collect())),
                    Entry::Vacant(free) => {
                        free.insert(Arc::new(key));
                    }
                },
            }
        }
        if set.keys.is_empty() { Err(KeySetError::NoUsableKey { skipped: set.skipped }) } else { Ok(set) }
    }

    /// The key of that name; names compare byte for byte.
    pub fn key(&self, kid: &str) -> Option<&Arc<VerificationKey>> {
        self.keys.get(kid)
    }

    /// How many keys can be used.
    pub fn usable(&self) -> usize {
        self.keys.len()
    }

    /// How many keys of the document were skipped.
    pub fn skipped(&self) -> usize {
        self.skipped
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "KeySet({} usable, {} skipped)", self.keys.len(), self.skipped)
    }
}

/// One entry of the list (RFC 7517 §4).
struct Jwk<'a> {
    index: usize,
    members: &'a Members<'a>,
}

impl Jwk<'_> {
    /// `None` for a key that is not for us.
    fn read(&self) -> Result<Option<(String, VerificationKey)>, KeySetError> {
        let kind = self.text("kty")?.ok_or_else(|| self.bad("kty"))?;
        let for_signatures = self.text("use")?.is_none_or(|purpose| purpose == "sig") && self.may_verify()?;
        let only = match self.text("alg")? {
            None => Ok(None),
            Some(name) => Algorithm::by_name(name).map(Some).ok_or(()),
        };
        let (Some(kid), true, Ok(only)) = (self.text("kid")?, for_signatures, only) else { return Ok(None) };
        let public = match kind {
            "RSA" => self.rsa()?,
            "EC" => self.elliptic()?,
            _ => return Ok(None),
        };
        let Some(public) = public else { return Ok(None) };
        if self.members.get("d").is_some() {
            return Err(KeySetError::PrivateKey(self.index));
        }
        let key = VerificationKey::new(public, only).ok_or_else(|| self.bad("alg"))?;
        Ok(Some((kid.to_owned(), key)))
    }

    /// RFC 7517 §4.3.
    fn may_verify(&self) -> Result<bool, KeySetError> {
        match self.members.get("key_ops") {
            None => Ok(true),
            Some(Json::List(operations)) => Ok(operations.iter().any(|operation| operation.as_str() == Some("verify"))),
            Some(_) => Err(self.bad("key_ops")),
        }
    }

    /// RFC 7518 §6.3.1.
    fn rsa(&self) -> Result<Option<PublicKey>, KeySetError> {
        let (modulus, exponent) = (self.number("n")?, self.number("e")?);
        let bits = modulus.first().map_or(0, |first| modulus.len() * 8 - first.leading_zeros() as usize);
        let value = exponent.iter().try_fold(0_u64, |value, byte| (value < 1 << 32).then_some(value << 8 | u64::from(*byte)));
        // The upper end is ring's.
        let sane = value.is_some_and(|value| value % 2 == 1 && (65537..1 << 33).contains(&value));
        let odd = modulus.last().is_some_and(|last| last % 2 == 1);
        Ok(((2048..=8192).contains(&bits) && odd && sane).then_some(PublicKey::Rsa { modulus, exponent }))
    }

    /// RFC 7518 §6.2.1. A point off the curve is noticed by ring at the first signature, which then can't be right.
    fn elliptic(&self) -> Result<Option<PublicKey>, KeySetError> {
        let bytes = match self.text("crv")?.ok_or_else(|| self.bad("crv"))? {
            "P-256" => 32,
            "P-384" => 48,
            _ => return Ok(None),
        };
        let mut point = vec![4];
        for member in ["x", "y"] {
            let coordinate = self.base64(member)?;
            if coordinate.len() != bytes {
                return Err(self.bad(member));
            }
            point.extend(coordinate);
        }
        Ok(Some(if bytes == 32 { PublicKey::P256(point) } else { PublicKey::P384(point) }))
    }

    /// A positive number, big-endian without leading zeros (RFC 7518 §2, Base64urlUInt).
    fn number(&self, member: &'static str) -> Result<Vec<u8>, KeySetError> {
        let bytes = self.base64(member)?;
        if bytes.first().is_none_or(|first| *first == 0) { Err(self.bad(member)) } else { Ok(bytes) }
    }

    fn base64(&self, member: &'static str) -> Result<Vec<u8>, KeySetError> {
        let text = self.text(member)?.ok_or_else(|| self.bad(member))?;
        URL_SAFE_NO_PAD.decode(text).map_err(|_| self.bad(member))
    }

    fn text(&self, member: &'static str) -> Result<Option<&str>, KeySetError> {
        match self.members.get(member) {
            None => Ok(None),
            Some(Json::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.bad(member)),
        }
    }

    fn bad(&self, member: &'static str) -> KeySetError {
        KeySetError::BadMember { index: self.index, member }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn rsa(kid: &str) -> Value {
        json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": URL_SAFE_NO_PAD.encode([0xff; 256]), "e": "AQAB"})
    }

    fn elliptic(kid: &str) -> Value {
        json!({"kty": "EC", "kid": kid, "crv": "P-384", "x": URL_SAFE_NO_PAD.encode([1; 48]), "y": URL_SAFE_NO_PAD.encode([2; 48])})
    }

    fn with(mut jwk: Value, member: &str, value: Value) -> Value {
        jwk[member] = value;
        jwk
    }

    fn without(mut jwk: Value, member: &str) -> Value {
        jwk.as_object_mut().unwrap().remove(member);
        jwk
    }

    fn read(keys: &[Value]) -> Result<KeySet, KeySetError> {
        KeySet::from_jwks(json!({ "keys": keys }).to_string().as_bytes())
    }

    #[test]
    fn finds_keys_by_name_and_counts_what_is_not_for_us() {
        let foreign = [
            without(rsa("x"), "kid"),
            with(rsa("x"), "use", json!("enc")),
            with(rsa("x"), "alg", json!("RSA-OAEP")),
            with(rsa("x"), "key_ops", json!(["encrypt"])),
            with(rsa("x"), "n", json!(URL_SAFE_NO_PAD.encode([0xff; 255]))),
            with(rsa("x"), "n", json!(URL_SAFE_NO_PAD.encode([0xfe; 256]))),
            with(rsa("x"), "n", json!(URL_SAFE_NO_PAD.encode([0xff; 1025]))),
            with(rsa("x"), "e", json!("Aw")),
            with(rsa("x"), "e", json!("AQAA")),
            with(rsa("x"), "e", json!(URL_SAFE_NO_PAD.encode([0xff; 9]))),
            with(elliptic("x"), "crv", json!("P-521")),
            json!({"kty": "OKP", "kid": "x", "crv": "Ed25519", "x": "AA"}),
            json!({"kty": "oct", "kid": "x", "k": "AA"}),
        ];
        let set = read(&[[rsa("a"), with(elliptic("b"), "key_ops", json!(["verify"]))].as_slice(), &foreign].concat()).unwrap();
        assert!(set.key("a").unwrap().fits(Algorithm::Rs256) && !set.key("a").unwrap().fits(Algorithm::Rs512));
        assert!(set.key("b").unwrap().fits(Algorithm::Es384));
        assert_eq!((set.key("x"), set.usable(), set.skipped()), (None, 2, foreign.len()));
        assert_eq!(format!("{set:?}"), "KeySet(2 usable, 13 skipped)");
        assert_eq!(read(&foreign), Err(KeySetError::NoUsableKey { skipped: foreign.len() }));
        assert_eq!(read(&[]), Err(KeySetError::NoUsableKey { skipped: 0 }));
    }

    #[test]
    fn refuses_sets_that_can_only_be_mistakes() {
        for document in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[1]}"#, r#"{"keys":[],"keys":[]}"#, r#"{"keys":[{"kty":"EC","kty":"RSA"}]}"#] {
            assert_eq!(KeySet::from_jwks(document.as_bytes()), Err(KeySetError::NotAKeySet), "{document}");
        }
        assert_eq!(KeySet::from_jwks(&vec![b' '; KeySet::MAX_BYTES + 1]), Err(KeySetError::TooLarge));
        assert_eq!(read(&vec![json!({"kty": "oct"}); 1001]), Err(KeySetError::TooManyKeys));
        assert_eq!(read(&[rsa("a"), elliptic("a")]), Err(KeySetError::DuplicateKid("a".into())));
        assert_eq!(read(&[rsa("a"), with(elliptic("b"), "d", json!("AA"))]), Err(KeySetError::PrivateKey(1)));
        for (jwk, member) in [
            (without(rsa("a"), "kty"), "kty"),
            (with(rsa("a"), "kid", json!(1)), "kid"),
            (with(rsa("a"), "use", json!([])), "use"),
            (with(rsa("a"), "key_ops", json!("verify")), "key_ops"),
            (with(rsa("a"), "alg", json!("ES256")), "alg"),
            (with(elliptic("a"), "alg", json!("ES256")), "alg"),
            (without(rsa("a"), "n"), "n"),
            (with(rsa("a"), "n", json!("")), "n"),
            (with(rsa("a"), "n", json!("AQ==")), "n"),
            (with(rsa("a"), "e", json!("AAEAAQ")), "e"),
            (without(elliptic("a"), "crv"), "crv"),
            (with(elliptic("a"), "x", json!("AQ")), "x"),
            (with(elliptic("a"), "y", json!("!")), "y"),
        ] {
            assert_eq!(read(&[jwk]), Err(KeySetError::BadMember { index: 0, member }));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(document in "\\PC{0,200}", n in "[A-Za-z0-9_-]{0,12}", e in "[A-Za-z0-9_-]{0,12}") {
            let _ = KeySet::from_jwks(document.as_bytes());
            let _ = read(&[with(with(rsa("a"), "n", json!(n)), "e", json!(e))]);
        }
    }
}
