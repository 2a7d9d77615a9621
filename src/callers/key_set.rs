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
/// One key that can't be used takes no other one away (RFC 7517 §5): it is passed over. What could belong to somebody else's needs is only counted: other
/// key types, curves, uses and algorithms, RSA outside 2048–8192 bits or with an exponent below 65537 (FIPS 186-5 §A.1.1), and keys without a `kid` (or
/// an empty one), because a token without a `kid` is refused and could never choose them. What can only be a mistake is noted as a [`KeyFault`] too.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KeySet {
    keys: BTreeMap<String, Arc<VerificationKey>>,
    skipped: usize,
    faulty: Vec<FaultyKey>,
}

/// Why a document is no key set for us.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// More than [`KeySet::MAX_BYTES`].
    #[error("the key set is larger than 1 MiB")]
    TooLarge,
    /// It isn't `{"keys": […]}`, or a member occurs twice.
    #[error("not a JWK set: expected a JSON object with a list named \"keys\", no member twice")]
    NotAKeySet,
    /// More than [`KeySet::MAX_KEYS`].
    #[error("the key set has more than 1000 keys")]
    TooManyKeys,
    /// Nothing in it could verify a token of ours.
    #[error("the key set has no usable key ({skipped} skipped{})", first.as_ref().map(|key| format!("; {key}")).unwrap_or_default())]
    NoUsableKey {
        /// How many there were.
        skipped: usize,
        /// The first that can only be a mistake.
        first: Option<FaultyKey>,
    },
}

/// A key of a set that can only be a mistake, and is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("key {index} {fault}")]
pub struct FaultyKey {
    /// Its place in the list, from 0.
    pub index: usize,
    /// What is wrong with it.
    pub fault: KeyFault,
}

/// Why a key can't be used, although it is meant to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// Something else in the list.
    #[error("is not a JSON object")]
    NotAnObject,
    /// A member is missing, of the wrong type or length, not base64url, or doesn't fit the others.
    #[error("has no usable {0:?}")]
    Member(&'static str),
    /// Another key has its name: nobody could say which of the two a token means. Neither is used.
    #[error("has the kid of another key")]
    SameKid,
    /// A private key where public ones are published: whoever could read the set can make tokens, so that it proves nothing.
    #[error("is a private key: it must be replaced, everybody who could read the set can sign with it")]
    Private,
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
        // `None` where several keys claim a name.
        let mut named: BTreeMap<String, Option<VerificationKey>> = BTreeMap::new();
        for (index, item) in list.iter().enumerate() {
            let read = item.as_object().ok_or(KeyFault::NotAnObject).and_then(|members| Jwk(members).read());
            match read {
                Err(fault) => set.passed_over(index, fault),
                Ok(None) => set.skipped += 1,
                Ok(Some((kid, key))) => match named.entry(kid) {
                    Entry::Vacant(free) => {
                        free.insert(Some(key));
                    }
                    // Published twice, it is one key.
                    Entry::Occupied(taken) if taken.get().as_ref() == Some(&key) => {}
                    Entry::Occupied(mut taken) => {
                        // The first one of that name goes too.
                        set.skipped += usize::from(taken.insert(None).is_some());
                        set.passed_over(index, KeyFault::SameKid);
                    }
                },
            }
        }
        set.keys = named.into_iter().filter_map(|(kid, key)| Some((kid, Arc::new(key?)))).collect();
        if set.keys.is_empty() { Err(KeySetError::NoUsableKey { skipped: set.skipped, first: set.faulty.first().copied() }) } else { Ok(set) }
    }

    fn passed_over(&mut self, index: usize, fault: KeyFault) {
        self.skipped += 1;
        self.faulty.push(FaultyKey { index, fault });
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

    /// Those among the skipped that can only be mistakes, in their order.
    pub fn faulty(&self) -> &[FaultyKey] {
        &self.faulty
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "KeySet({} usable, {} skipped)", self.keys.len(), self.skipped)
    }
}

/// One entry of the list (RFC 7517 §4).
struct Jwk<'a>(&'a Members<'a>);

impl Jwk<'_> {
    /// `None` for a key that is not for us.
    fn read(&self) -> Result<Option<(String, VerificationKey)>, KeyFault> {
        let kind = self.text("kty")?.ok_or(KeyFault::Member("kty"))?;
        let for_signatures = self.text("use")?.is_none_or(|purpose| purpose == "sig") && self.may_verify()?;
        let only = match self.text("alg")? {
            None => Ok(None),
            Some(name) => Algorithm::by_name(name).map(Some).ok_or(()),
        };
        let kid = self.text("kid")?.filter(|kid| !kid.is_empty());
        let (Some(kid), true, Ok(only)) = (kid, for_signatures, only) else { return Ok(None) };
        let public = match kind {
            "RSA" => self.rsa()?,
            "EC" => self.elliptic()?,
            _ => return Ok(None),
        };
        let Some(public) = public else { return Ok(None) };
        if self.0.get("d").is_some() {
            return Err(KeyFault::Private);
        }
        let key = VerificationKey::new(public, only).ok_or(KeyFault::Member("alg"))?;
        Ok(Some((kid.to_owned(), key)))
    }

    /// RFC 7517 §4.3.
    fn may_verify(&self) -> Result<bool, KeyFault> {
        match self.0.get("key_ops") {
            None => Ok(true),
            Some(Json::List(operations)) => Ok(operations.iter().any(|operation| operation.as_str() == Some("verify"))),
            Some(_) => Err(KeyFault::Member("key_ops")),
        }
    }

    /// RFC 7518 §6.3.1.
    fn rsa(&self) -> Result<Option<PublicKey>, KeyFault> {
        let (modulus, exponent) = (self.number("n")?, self.number("e")?);
        let bits = modulus.first().map_or(0, |first| modulus.len() * 8 - first.leading_zeros() as usize);
        let value = exponent.iter().try_fold(0_u64, |value, byte| (value < 1 << 32).then_some(value << 8 | u64::from(*byte)));
        // The upper end is ring's.
        let sane = value.is_some_and(|value| value % 2 == 1 && (65537..1 << 33).contains(&value));
        let odd = modulus.last().is_some_and(|last| last % 2 == 1);
        Ok(((2048..=8192).contains(&bits) && odd && sane).then_some(PublicKey::Rsa { modulus, exponent }))
    }

    /// RFC 7518 §6.2.1. A point off the curve is noticed by ring at the first signature, which then can't be right.
    fn elliptic(&self) -> Result<Option<PublicKey>, KeyFault> {
        let bytes = match self.text("crv")?.ok_or(KeyFault::Member("crv"))? {
            "P-256" => 32,
            "P-384" => 48,
            _ => return Ok(None),
        };
        let mut point = vec![4];
        for member in ["x", "y"] {
            let coordinate = self.base64(member)?;
            if coordinate.len() != bytes {
                return Err(KeyFault::Member(member));
            }
            point.extend(coordinate);
        }
        Ok(Some(if bytes == 32 { PublicKey::P256(point) } else { PublicKey::P384(point) }))
    }

    /// A positive number, big-endian without leading zeros (RFC 7518 §2, Base64urlUInt).
    fn number(&self, member: &'static str) -> Result<Vec<u8>, KeyFault> {
        let bytes = self.base64(member)?;
        if bytes.first().is_none_or(|first| *first == 0) { Err(KeyFault::Member(member)) } else { Ok(bytes) }
    }

    fn base64(&self, member: &'static str) -> Result<Vec<u8>, KeyFault> {
        let text = self.text(member)?.ok_or(KeyFault::Member(member))?;
        URL_SAFE_NO_PAD.decode(text).map_err(|_| KeyFault::Member(member))
    }

    fn text(&self, member: &'static str) -> Result<Option<&str>, KeyFault> {
        match self.0.get(member) {
            None => Ok(None),
            Some(Json::Text(text)) => Ok(Some(text)),
            Some(_) => Err(KeyFault::Member(member)),
        }
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
            rsa(""),
            rsa(""),
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
        assert_eq!(format!("{set:?}"), "KeySet(2 usable, 15 skipped)");
        assert_eq!(set.faulty(), []);
        assert_eq!(read(&foreign), Err(KeySetError::NoUsableKey { skipped: foreign.len(), first: None }));
        assert_eq!(read(&[]), Err(KeySetError::NoUsableKey { skipped: 0, first: None }));
    }

    #[test]
    fn refuses_sets_that_can_only_be_mistakes() {
        for document in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[],"keys":[]}"#, r#"{"keys":[{"kty":"EC","kty":"RSA"}]}"#] {
            assert_eq!(KeySet::from_jwks(document.as_bytes()), Err(KeySetError::NotAKeySet), "{document}");
        }
        assert_eq!(KeySet::from_jwks(&vec![b' '; KeySet::MAX_BYTES + 1]), Err(KeySetError::TooLarge));
        assert_eq!(read(&vec![json!({"kty": "oct"}); 1001]), Err(KeySetError::TooManyKeys));
    }

    #[test]
    fn one_key_that_can_not_be_used_takes_no_other_away() {
        for (jwk, fault) in [
            (json!(1), KeyFault::NotAnObject),
            (with(elliptic("b"), "d", json!("AA")), KeyFault::Private),
            (without(rsa("a"), "kty"), KeyFault::Member("kty")),
            (with(rsa("a"), "kid", json!(1)), KeyFault::Member("kid")),
            (with(rsa("a"), "use", json!([])), KeyFault::Member("use")),
            (with(rsa("a"), "key_ops", json!("verify")), KeyFault::Member("key_ops")),
            (with(rsa("a"), "alg", json!("ES256")), KeyFault::Member("alg")),
            (with(elliptic("a"), "alg", json!("ES256")), KeyFault::Member("alg")),
            (without(rsa("a"), "n"), KeyFault::Member("n")),
            (with(rsa("a"), "n", json!("")), KeyFault::Member("n")),
            (with(rsa("a"), "n", json!("AQ==")), KeyFault::Member("n")),
            (with(rsa("a"), "n", json!(URL_SAFE_NO_PAD.encode([[0].as_slice(), &[0xff; 256]].concat()))), KeyFault::Member("n")),
            (with(rsa("a"), "e", json!("AAEAAQ")), KeyFault::Member("e")),
            (without(elliptic("a"), "crv"), KeyFault::Member("crv")),
            (with(elliptic("a"), "x", json!("AQ")), KeyFault::Member("x")),
            (with(elliptic("a"), "y", json!("!")), KeyFault::Member("y")),
        ] {
            let faulty = |index| FaultyKey { index, fault };
            let set = read(&[rsa("good"), jwk.clone()]).unwrap();
            assert_eq!((set.usable(), set.skipped(), set.faulty()), (1, 1, [faulty(1)].as_slice()), "{jwk}");
            assert!(set.key("good").is_some());
            let error = read(&[jwk]).unwrap_err();
            assert_eq!(error, KeySetError::NoUsableKey { skipped: 1, first: Some(faulty(0)) });
            assert!(error.to_string().contains(&format!("key 0 {fault}")), "{error}");
        }
    }

    #[test]
    fn a_key_that_is_there_twice_is_one_key_and_a_name_for_two_keys_is_none() {
        let set = read(&[rsa("a"), elliptic("b"), rsa("a")]).unwrap();
        assert_eq!((set.usable(), set.skipped(), set.faulty()), (2, 0, [].as_slice()));
        let set = read(&[rsa("a"), elliptic("b"), elliptic("a"), rsa("a")]).unwrap();
        let same = |index| FaultyKey { index, fault: KeyFault::SameKid };
        assert_eq!((set.usable(), set.skipped(), set.faulty()), (1, 3, [same(2), same(3)].as_slice()));
        assert!(set.key("a").is_none() && set.key("b").is_some());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(document in "\\PC{0,200}", n in "[A-Za-z0-9_-]{0,12}", e in "[A-Za-z0-9_-]{0,12}") {
            let _ = KeySet::from_jwks(document.as_bytes());
            let _ = read(&[with(with(rsa("a"), "n", json!(n)), "e", json!(e))]);
        }
    }
}
