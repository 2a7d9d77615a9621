//! An issuer of service-account tokens for tests: its keys, its JWK Set, and tokens that are wrong in one way.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "every suite uses its own part")]

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, KeyPair as _, RsaEncoding, RsaKeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use time::OffsetDateTime;

/// The issuer that `serve_yaml` configures.
pub const ISSUER: &str = "https://dev.meshmint.invalid";

/// An issuer with a key of each type: kid `rsa`, `p256` and `p384`.
pub struct TokenIssuer {
    rsa: RsaKeyPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
}

/// Who signs, and how.
#[derive(Clone, Copy)]
pub enum Signer {
    Rsa(&'static dyn RsaEncoding),
    P256,
    P384,
    /// HMAC with the PEM of the public RSA key, which everybody knows.
    HmacOfPublicKey,
    Nobody,
}

pub const RS256: Signer = Signer::Rsa(&signature::RSA_PKCS1_SHA256);
pub const PS256: Signer = Signer::Rsa(&signature::RSA_PSS_SHA256);

impl TokenIssuer {
    pub fn new() -> Self {
        let pem = include_bytes!("../corpus/tokens/rsa-2048.pem");
        let elliptic = |algorithm| {
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).unwrap();
            EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &SystemRandom::new()).unwrap()
        };
        Self {
            rsa: RsaKeyPair::from_pkcs8(PrivatePkcs8KeyDer::from_pem_slice(pem).unwrap().secret_pkcs8_der()).unwrap(),
            p256: elliptic(&signature::ECDSA_P256_SHA256_FIXED_SIGNING),
            p384: elliptic(&signature::ECDSA_P384_SHA384_FIXED_SIGNING),
        }
    }

    /// Writes FOLDER/jwks.json, where `serve_yaml` looks for it.
    pub fn publish(&self, folder: &Path) {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let components: signature::RsaPublicKeyComponents<Vec<u8>> = self.rsa.public().into();
        let point = |kid: &str, curve: &str, key: &EcdsaKeyPair| {
            let (x, y) = key.public_key().as_ref()[1..].split_at(key.public_key().as_ref().len() / 2);
            json!({"kty": "EC", "crv": curve, "kid": kid, "x": encode(x), "y": encode(y)})
        };
        let rsa = json!({"kty": "RSA", "kid": "rsa", "n": encode(&components.n), "e": encode(&components.e)});
        let keys = json!({"keys": [rsa, point("p256", "P-256", &self.p256), point("p384", "P-384", &self.p384)]});
        std::fs::write(folder.join("jwks.json"), keys.to_string()).unwrap();
    }

    /// A token with this header and these claims, however wrong they are.
    pub fn sign(&self, header: &Value, claims: &Value, signer: Signer) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
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

    /// A token with these claims that is right in everything else.
    pub fn token(&self, claims: &Value) -> String {
        self.sign(&json!({"alg": "ES256", "kid": "p256"}), claims, Signer::P256)
    }

    /// A good token of an account.
    pub fn good(&self, namespace: &str, account: &str) -> String {
        self.token(&claims(namespace, account))
    }

    /// A token that was good until two hours ago.
    pub fn expired(&self, namespace: &str, account: &str) -> String {
        self.token(&with(claims(namespace, account), "exp", json!(now() - 2 * HOUR)))
    }
}

pub const HOUR: i64 = 3600;

/// Unix seconds.
pub fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

/// The claims of an account's pod, as Kubernetes writes them; issued three hours ago, for four.
pub fn claims(namespace: &str, account: &str) -> Value {
    let now = now();
    json!({
        "iss": ISSUER, "sub": format!("system:serviceaccount:{namespace}:{account}"), "aud": ["istio-ca"],
        "exp": now + HOUR, "iat": now - 3 * HOUR, "nbf": now - 3 * HOUR, "jti": "6a2b8d3c-0000-4000-8000-000000000000",
        "kubernetes.io": {
            "namespace": namespace,
            "serviceaccount": {"name": account, "uid": "b1e9c9e4-0000-4000-8000-000000000001"},
            "pod": {"name": format!("{account}-5d9c7b-x2x4z"), "uid": "b1e9c9e4-0000-4000-8000-000000000002"},
            "node": {"name": "node-1.example", "uid": "b1e9c9e4-0000-4000-8000-000000000003"},
        },
    })
}

/// The claims with one replaced; `a/b` is `b` inside of `a`, and null takes it out.
pub fn with(mut claims: Value, path: &str, value: Value) -> Value {
    let (outer, inner) = path.rsplit_once('/').map_or((None, path), |(outer, inner)| (Some(outer), inner));
    let members = match outer {
        Some(outer) => claims[outer].as_object_mut().unwrap(),
        None => claims.as_object_mut().unwrap(),
    };
    if value.is_null() {
        members.remove(inner)
    } else {
        members.insert(inner.to_owned(), value)
    };
    claims
}
