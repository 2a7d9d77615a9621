//! A good token spoiled in one way at a time: each is refused, and for its own reason.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meshmint::callers::{KeySet, TokenError, TokenIdentity, TokenRules, UnverifiedToken};
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, KeyPair as _, RsaEncoding, RsaKeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use time::OffsetDateTime;

const NOW: i64 = 1_700_000_000;
const HOUR: i64 = 3600;

/// An issuer with a key of each type, and a server's rules that trust it.
struct World {
    rsa: RsaKeyPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    keys: KeySet,
    rules: TokenRules,
}

/// Who signs, and how.
#[derive(Clone, Copy)]
enum Signer {
    Rsa(&'static dyn RsaEncoding),
    P256,
    P384,
    /// HMAC with the bytes of the public RSA key, as an attacker could.
    HmacOfPublicKey,
    Nobody,
}

impl World {
    fn new() -> Self {
        let pem = include_str!("corpus/tokens/rsa-2048.pem");
        let rsa = RsaKeyPair::from_pkcs8(PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).unwrap().secret_pkcs8_der()).unwrap();
        let elliptic = |algorithm| {
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).unwrap();
            EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &SystemRandom::new()).unwrap()
        };
        let p256 = elliptic(&signature::ECDSA_P256_SHA256_FIXED_SIGNING);
        let p384 = elliptic(&signature::ECDSA_P384_SHA384_FIXED_SIGNING);
        let components: signature::RsaPublicKeyComponents<Vec<u8>> = rsa.public().into();
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let point = |kid: &str, curve: &str, key: &EcdsaKeyPair| {
            let (x, y) = key.public_key().as_ref()[1..].split_at(key.public_key().as_ref().len() / 2);
            json!({"kty": "EC", "crv": curve, "kid": kid, "x": encode(x), "y": encode(y)})
        };
        let rsa_jwk = json!({"kty": "RSA", "kid": "rsa", "n": encode(&components.n), "e": encode(&components.e)});
        let mut ps256_only = rsa_jwk.clone();
        ps256_only["kid"] = json!("ps256-only");
        ps256_only["alg"] = json!("PS256");
        let keys = json!({"keys": [rsa_jwk, ps256_only, point("p256", "P-256", &p256), point("p384", "P-384", &p384)]});
        let keys = KeySet::from_jwks(keys.to_string().as_bytes()).unwrap();
        let issuers = [("https://kubernetes.default.svc".to_owned(), "Kubernetes".to_owned())].into();
        let (skew, unbound) = (Duration::from_secs(30), Duration::from_secs(24 * 3600));
        let rules = TokenRules::new("cluster.local".parse().unwrap(), issuers, ["istio-ca".to_owned()].into(), skew, unbound).unwrap();
        Self { rsa, p256, p384, keys, rules }
    }

    fn sign(&self, header: &str, payload: &str, signer: Signer) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let (random, message) = (SystemRandom::new(), signed.as_bytes());
        let signature = match signer {
            Signer::Rsa(encoding) => {
                let mut signature = vec![0; self.rsa.public().modulus_len()];
                self.rsa.sign(encoding, &random, message, &mut signature).unwrap();
                signature
            }
            Signer::P256 => self.p256.sign(&random, message).unwrap().as_ref().to_vec(),
            Signer::P384 => self.p384.sign(&random, message).unwrap().as_ref().to_vec(),
            Signer::HmacOfPublicKey => {
                let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, self.rsa.public_key().as_ref());
                ring::hmac::sign(&key, message).as_ref().to_vec()
            }
            Signer::Nobody => Vec::new(),
        };
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn good(&self) -> String {
        self.sign(r#"{"alg":"ES256","kid":"p256"}"#, &claims().to_string(), Signer::P256)
    }

    /// The whole way of a token.
    fn authenticate(&self, token: &str) -> Result<TokenIdentity, TokenError> {
        let token = UnverifiedToken::parse(token)?;
        let key = self.keys.key(token.kid()).ok_or(TokenError::UnknownKid)?;
        self.rules.check(token.verify(key)?, OffsetDateTime::from_unix_timestamp(NOW).unwrap())
    }

    fn reason(&self, token: &str) -> &'static str {
        self.authenticate(token).map_or_else(|error| error.reason(), |_| "accepted")
    }
}

fn claims() -> Value {
    json!({
        "iss": "https://kubernetes.default.svc", "sub": "system:serviceaccount:shop:cart", "aud": ["istio-ca"],
        "exp": NOW + HOUR, "iat": NOW, "nbf": NOW, "jti": "6a2b8d3c-0000-4000-8000-000000000000",
        "kubernetes.io": {
            "namespace": "shop",
            "serviceaccount": {"name": "cart", "uid": "b1e9c9e4-0000-4000-8000-000000000001"},
            "pod": {"name": "cart-5d9c7b-x2x4z", "uid": "b1e9c9e4-0000-4000-8000-000000000002"},
            "node": {"name": "node-1.example", "uid": "b1e9c9e4-0000-4000-8000-000000000003"},
            "warnafter": NOW + HOUR + 7,
        },
    })
}

#[test]
fn every_supported_algorithm_is_accepted() {
    let world = World::new();
    for (header, signer) in [
        (r#"{"alg":"RS256","kid":"rsa"}"#, Signer::Rsa(&signature::RSA_PKCS1_SHA256)),
        (r#"{"alg":"RS384","kid":"rsa","typ":"JWT"}"#, Signer::Rsa(&signature::RSA_PKCS1_SHA384)),
        (r#"{"alg":"RS512","kid":"rsa"}"#, Signer::Rsa(&signature::RSA_PKCS1_SHA512)),
        (r#"{"alg":"PS256","kid":"rsa"}"#, Signer::Rsa(&signature::RSA_PSS_SHA256)),
        (r#"{"alg":"PS256","kid":"ps256-only"}"#, Signer::Rsa(&signature::RSA_PSS_SHA256)),
        (r#"{"alg":"PS384","kid":"rsa"}"#, Signer::Rsa(&signature::RSA_PSS_SHA384)),
        (r#"{"alg":"PS512","kid":"rsa"}"#, Signer::Rsa(&signature::RSA_PSS_SHA512)),
        (r#"{"alg":"ES256","kid":"p256"}"#, Signer::P256),
        (r#"{"alg":"ES384","kid":"p384"}"#, Signer::P384),
    ] {
        let identity = world.authenticate(&world.sign(header, &claims().to_string(), signer));
        assert_eq!(identity.map(|identity| identity.spiffe_id.to_string()), Ok("spiffe://cluster.local/ns/shop/sa/cart".to_owned()), "{header}");
    }
}

#[test]
fn a_spoiled_header_or_signature_is_refused_for_its_own_reason() {
    let world = World::new();
    let rs256 = Signer::Rsa(&signature::RSA_PKCS1_SHA256);
    for (header, signer, reason) in [
        (r#"{"alg":"none","kid":"rsa"}"#, Signer::Nobody, "alg_unsupported"),
        (r#"{"alg":"NONE","kid":"rsa"}"#, Signer::Nobody, "alg_unsupported"),
        (r#"{"alg":"HS256","kid":"rsa"}"#, Signer::HmacOfPublicKey, "alg_unsupported"),
        (r#"{"alg":"RS256","kid":"rsa"}"#, Signer::HmacOfPublicKey, "bad_signature"),
        (r#"{"alg":"EdDSA","kid":"rsa"}"#, rs256, "alg_unsupported"),
        (r#"{"alg":"ES512","kid":"p384"}"#, Signer::P384, "alg_unsupported"),
        (r#"{"alg":"ES256","kid":"rsa"}"#, Signer::P256, "alg_mismatch"),
        (r#"{"alg":"RS256","kid":"p256"}"#, rs256, "alg_mismatch"),
        (r#"{"alg":"ES384","kid":"p256"}"#, Signer::P256, "alg_mismatch"),
        (r#"{"alg":"RS256","kid":"ps256-only"}"#, rs256, "alg_mismatch"),
        (r#"{"alg":"PS256","kid":"rsa"}"#, rs256, "bad_signature"),
        (r#"{"alg":"RS384","kid":"rsa"}"#, rs256, "bad_signature"),
        (r#"{"alg":"ES256","kid":"p256"}"#, Signer::Nobody, "bad_signature"),
        (r#"{"alg":"ES256","kid":"p256"}"#, Signer::P384, "bad_signature"),
        (r#"{"alg":"ES256"}"#, Signer::P256, "missing_kid"),
        (r#"{"alg":"ES256","kid":"P256"}"#, Signer::P256, "unknown_kid"),
        (r#"{"alg":"ES256","kid":"p256","crit":["exp"]}"#, Signer::P256, "malformed"),
        (r#"{"alg":"ES256","kid":"p256","kid":"p384"}"#, Signer::P256, "malformed"),
    ] {
        assert_eq!(world.reason(&world.sign(header, &claims().to_string(), signer)), reason, "{header}");
    }
}

#[test]
fn a_spoiled_claim_is_refused_for_its_own_reason() {
    let world = World::new();
    let no = Value::Null;
    // JSON pointer, what stands there instead (null: nothing), the reason
    let cases = [
        ("/iss", json!("https://kubernetes.default.svc/"), "wrong_issuer"),
        ("/iss", no.clone(), "bad_claims"),
        ("/aud", json!(["istio-ca2", "api"]), "wrong_audience"),
        ("/aud", json!("https://kubernetes.default.svc"), "wrong_audience"),
        ("/aud", json!([]), "bad_claims"),
        ("/aud", no.clone(), "bad_claims"),
        ("/exp", json!(NOW - 30), "bad_claims"),
        ("/exp", json!("2030"), "bad_claims"),
        ("/exp", no.clone(), "bad_claims"),
        ("/nbf", json!(NOW + 31), "not_yet_valid"),
        ("/iat", json!(NOW + 31), "not_yet_valid"),
        ("/iat", no.clone(), "bad_claims"),
        ("/sub", json!("system:serviceaccount:shop:admin"), "subject_mismatch"),
        ("/sub", json!("system:serviceaccount:shop:cart "), "subject_mismatch"),
        ("/kubernetes.io/namespace", json!("bank"), "subject_mismatch"),
        ("/kubernetes.io/serviceaccount/name", json!("admin"), "subject_mismatch"),
        ("/kubernetes.io/serviceaccount/uid", json!("a/b"), "bad_name"),
        ("/kubernetes.io/pod/name", json!("a_b"), "bad_name"),
        ("/kubernetes.io/pod", json!({"name": "a"}), "bad_claims"),
        ("/kubernetes.io/pod", json!([]), "bad_claims"),
        ("/kubernetes.io/secret", json!({"name": "cart-token", "uid": "u"}), "secret_bound"),
        ("/kubernetes.io/warnafter", json!("soon"), "bad_claims"),
        ("/kubernetes.io/warnafter", json!(NOW - HOUR), "accepted"),
        ("/kubernetes.io", no, "bad_claims"),
    ];
    for (pointer, value, reason) in cases {
        let mut claims = claims();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let parent = claims.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        if value.is_null() {
            parent.remove(name)
        } else {
            parent.insert(name.to_owned(), value.clone())
        };
        let token = world.sign(r#"{"alg":"ES256","kid":"p256"}"#, &claims.to_string(), Signer::P256);
        assert_eq!(world.reason(&token), reason, "{pointer} = {value}");
    }
    let twice = claims().to_string().replacen('{', r#"{"sub":"system:serviceaccount:shop:admin","#, 1);
    assert_eq!(world.reason(&world.sign(r#"{"alg":"ES256","kid":"p256"}"#, &twice, Signer::P256)), "malformed");
}

#[test]
fn time_and_binding_that_need_more_than_one_claim() {
    let world = World::new();
    let spoiled = |spoil: fn(&mut Value)| {
        let mut claims = claims();
        spoil(&mut claims);
        world.authenticate(&world.sign(r#"{"alg":"ES256","kid":"p256"}"#, &claims.to_string(), Signer::P256))
    };
    let expired = spoiled(|claims| {
        (claims["iat"], claims["nbf"], claims["exp"]) = (json!(NOW - HOUR), json!(NOW - HOUR), json!(NOW - 30));
    });
    let Err(TokenError::Expired(identity)) = expired else { panic!("{expired:?}") };
    assert_eq!(identity.spiffe_id.path(), "/ns/shop/sa/cart");
    let unbound = spoiled(|claims| {
        claims["kubernetes.io"].as_object_mut().unwrap().retain(|name, _| name == "namespace" || name == "serviceaccount");
        claims["exp"] = json!(NOW + 25 * HOUR);
    });
    assert_eq!(unbound, Err(TokenError::UnboundTooLong));
    let nameless = spoiled(|claims| {
        claims["kubernetes.io"]["namespace"] = json!("shop/../bank");
        claims["sub"] = json!("system:serviceaccount:shop/../bank:cart");
    });
    assert_eq!(nameless, Err(TokenError::BadName("namespace or service account")));
}

#[test]
fn no_cut_and_no_flipped_bit_is_accepted() {
    let world = World::new();
    let good = world.good();
    assert_eq!(world.reason(&good), "accepted");
    for length in 0..good.len() {
        let reason = world.reason(&good[..length]);
        assert!(matches!(reason, "no_credential" | "malformed" | "bad_signature"), "{length}: {reason}");
    }
    for place in 0..good.len() {
        let mut bytes = good.clone().into_bytes();
        bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        assert_ne!(world.reason(&changed), "accepted", "{place}");
    }
    for garbage in ["x".repeat(12 << 10), ".".repeat(12 << 10), "\u{0}".repeat(12 << 10), format!("{good} {good}"), format!("Bearer {good}")] {
        assert_eq!(world.reason(&garbage), "malformed");
    }
    assert_eq!(world.reason(""), "no_credential");
    assert_eq!(world.reason(&"x".repeat(UnverifiedToken::MAX_BYTES + 1)), "too_large");
}

#[test]
fn no_error_shows_the_token() {
    let world = World::new();
    let good = world.good();
    let parts: Vec<_> = good.split('.').collect();
    let cut = format!("{}.{}.{}", parts[0], parts[1], &parts[2][..40]);
    for token in [cut, format!("{good}="), "s3cret-garbage".repeat(20)] {
        let error = world.authenticate(&token).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.len() < 200 && !parts.iter().any(|part| shown.contains(&part[..20])) && !shown.contains("s3cret"), "{shown}");
    }
}
