//! Tokens that are no proof: each is refused by a running server with one code and one sentence, counted under its own reason, and
//! nothing is issued. The same tokens are judged without a server in `token_corpus.rs`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/api.rs"]
mod common;

use common::csrs::{request, spiffe_id};
use common::grpc::bearer;
use common::refused::{Refused, UNAVAILABLE_SENTENCE, World, unauthenticated};
use common::tokens::{HOUR, PS256, RS256, Signer, TokenIssuer, claims, now, with};
use serde_json::{Value, json};
use tonic::Code;

/// The headers of a case.
type Headers = Vec<(&'static str, Vec<u8>)>;

fn one(value: impl Into<Vec<u8>>) -> Headers {
    vec![("authorization", value.into())]
}

fn token(token: &str) -> Headers {
    one(bearer(token))
}

/// What is wrong in the place of a token, and the reason that is counted.
fn credentials(issuer: &TokenIssuer) -> Vec<(&'static str, Headers, &'static str)> {
    let good = issuer.good("shop", "cart");
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let other = if signature.starts_with('A') { 'B' } else { 'A' };
    let spoiled = format!("{signed}.{other}{}", &signature[1..]);
    let foreign = TokenIssuer::new().good("shop", "cart");
    vec![
        ("none", vec![], "no_credential"),
        ("an empty token", one("Bearer "), "no_credential"),
        ("an empty header", one(""), "not_a_bearer_token"),
        ("a scheme and nothing else", one("Bearer"), "not_a_bearer_token"),
        ("two headers", vec![("authorization", bearer(&good)), ("authorization", bearer(&good))], "several_authorization_headers"),
        ("two headers, one of them empty", vec![("authorization", bearer(&good)), ("authorization", vec![])], "several_authorization_headers"),
        ("another scheme", one(format!("Basic {good}")), "not_a_bearer_token"),
        ("no scheme", one(good.clone()), "not_a_bearer_token"),
        ("bytes that are no text", one(b"Bearer \xff\xfe".as_slice()), "not_a_bearer_token"),
        ("two spaces", one(format!("Bearer  {good}")), "malformed"),
        ("two tokens in one header", one(format!("Bearer {good}, Bearer {good}")), "malformed"),
        ("12 KB of garbage", token(&"garbage!".repeat(1536)), "malformed"),
        ("12 KB of dots", token(&".".repeat(12 << 10)), "malformed"),
        ("17 KB", token(&"a".repeat(17 << 10)), "too_large"),
        ("not a JWT", token("not-a-jwt"), "malformed"),
        ("two parts", token(signed), "malformed"),
        ("four parts", token(&format!("{good}.x")), "malformed"),
        ("a bad signature", token(&spoiled), "bad_signature"),
        ("no signature", token(&format!("{signed}.")), "bad_signature"),
        ("another issuer's key of the same name", token(&foreign), "bad_signature"),
    ]
}

/// A good header spoiled, who signs, and the reason that is counted.
fn headers() -> Vec<(Value, Signer, &'static str)> {
    vec![
        (json!({"alg": "none", "kid": "rsa"}), Signer::Nobody, "alg_unsupported"),
        (json!({"alg": "none"}), Signer::Nobody, "alg_unsupported"),
        (json!({"alg": "HS256", "kid": "rsa"}), Signer::HmacOfPublicKey, "alg_unsupported"),
        (json!({"alg": "RS257", "kid": "rsa"}), RS256, "alg_unsupported"),
        (json!({"alg": "rs256", "kid": "rsa"}), RS256, "alg_unsupported"),
        (json!({"alg": "RS256"}), RS256, "missing_kid"),
        (json!({"alg": "RS256", "kid": ""}), RS256, "missing_kid"),
        (json!({"alg": "RS256", "kid": 7}), RS256, "malformed"),
        (json!({"kid": "rsa"}), RS256, "malformed"),
        (json!({"alg": "RS256", "kid": "rsa", "crit": ["exp"]}), RS256, "malformed"),
        (json!({"alg": "RS256", "kid": "rsa", "jku": "https://evil.example/keys"}), RS256, "malformed"),
        (json!({"alg": "RS256", "kid": "p256"}), RS256, "alg_mismatch"),
        (json!({"alg": "ES256", "kid": "rsa"}), Signer::P256, "alg_mismatch"),
        (json!({"alg": "ES384", "kid": "p256"}), Signer::P384, "alg_mismatch"),
        (json!({"alg": "PS256", "kid": "rsa"}), RS256, "bad_signature"),
        (json!({"alg": "RS256", "kid": "rsa"}), Signer::HmacOfPublicKey, "bad_signature"),
    ]
}

/// A claim, what it is replaced by (null: taken out), and the reason that is counted.
fn spoiled_claims() -> Vec<(&'static str, Value, &'static str)> {
    let (past, future) = (now() - 2 * HOUR, now() + 2 * HOUR);
    vec![
        ("iss", json!("https://evil.example"), "wrong_issuer"),
        ("iss", json!("https://dev.meshmint.invalid/"), "wrong_issuer"),
        ("iss", json!(null), "bad_claims"),
        ("iss", json!(["https://dev.meshmint.invalid"]), "bad_claims"),
        ("aud", json!(["https://kubernetes.default.svc"]), "wrong_audience"),
        ("aud", json!("istio-ca-2"), "wrong_audience"),
        ("aud", json!(null), "bad_claims"),
        ("aud", json!([]), "bad_claims"),
        ("aud", json!({"istio-ca": true}), "bad_claims"),
        ("exp", json!(past), "expired"),
        ("exp", json!(null), "bad_claims"),
        ("exp", json!("tomorrow"), "bad_claims"),
        ("exp", json!(1e300), "bad_claims"),
        ("exp", json!(-1), "bad_claims"),
        ("exp", json!(now() - 4 * HOUR), "bad_claims"),
        ("nbf", json!(future), "not_yet_valid"),
        ("iat", json!(now() + 1800), "not_yet_valid"),
        ("iat", json!(null), "bad_claims"),
        ("sub", json!("system:serviceaccount:shop:admin"), "subject_mismatch"),
        ("sub", json!("system:serviceaccount:kube-system:cart"), "subject_mismatch"),
        ("sub", json!("cart"), "subject_mismatch"),
        ("sub", json!(7), "bad_claims"),
        ("kubernetes.io", json!(null), "bad_claims"),
        ("kubernetes.io", json!("shop/cart"), "bad_claims"),
        ("kubernetes.io/namespace", json!(["shop"]), "bad_claims"),
        ("kubernetes.io/namespace", json!("pay"), "subject_mismatch"),
        ("kubernetes.io/serviceaccount", json!("cart"), "bad_claims"),
        ("kubernetes.io/serviceaccount", json!({"name": "cart"}), "bad_claims"),
        ("kubernetes.io/serviceaccount", json!({"name": "cart", "uid": "a/b"}), "bad_name"),
        ("kubernetes.io/pod", json!({"name": "../etc", "uid": "u"}), "bad_name"),
        ("kubernetes.io/pod", json!("cart-0"), "bad_claims"),
        ("kubernetes.io/secret", json!({"name": "cart-token", "uid": "u"}), "secret_bound"),
        ("kubernetes.io/warnafter", json!("soon"), "bad_claims"),
    ]
}

/// Namespaces and accounts that can't be a segment of a SPIFFE ID, though `sub` agrees with them (SPIFFE-ID §2.2).
const BAD_NAMES: &[(&str, &str)] =
    &[("", "cart"), ("shop", ""), ("shop", "a/b"), ("..", "cart"), ("sh op", "cart"), ("shop", "c%61rt"), ("shöp", "cart")];

#[tokio::test]
async fn every_bad_token_is_refused_for_its_own_reason() {
    let world = World::start("", "");
    let wire = world.wire(None).await;
    let issuer = &world.issuer;
    let mut cases: Vec<(String, Headers, &str)> =
        credentials(issuer).into_iter().map(|(case, headers, reason)| (case.to_owned(), headers, reason)).collect();
    for (header, signer, reason) in headers() {
        cases.push((header.to_string(), token(&issuer.sign(&header, &claims("shop", "cart"), signer)), reason));
    }
    for (claim, value, reason) in spoiled_claims() {
        cases.push((format!("{claim}: {value}"), token(&issuer.token(&with(claims("shop", "cart"), claim, value))), reason));
    }
    for (namespace, account) in BAD_NAMES {
        cases.push((format!("{namespace:?} {account:?}"), token(&issuer.good(namespace, account)), "bad_name"));
    }
    for (case, headers, reason) in cases {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_slice())).collect();
        world.assert_refused(&case, &unauthenticated(reason), wire.ask(&headers, &request())).await;
    }
    world.goes_on().await;
}

#[tokio::test]
async fn an_unknown_kid_is_our_trouble_unless_the_token_has_expired_anyway() {
    let world = World::start("", "");
    let wire = world.wire(None).await;
    let sign = |claims: &Value| bearer(&world.issuer.sign(&json!({"alg": "ES256", "kid": "newer"}), claims, Signer::P256));
    let fresh = sign(&claims("shop", "cart"));
    let unavailable = Refused { code: Code::Unavailable, reason: "unknown_kid", sentence: UNAVAILABLE_SENTENCE, counter: None };
    world.assert_refused("unknown kid", &unavailable, wire.ask(&[("authorization", &fresh)], &request())).await;
    let past = sign(&with(claims("shop", "cart"), "exp", json!(now() - 2 * HOUR)));
    world.assert_refused("unknown kid, expired", &unauthenticated("expired"), wire.ask(&[("authorization", &past)], &request())).await;
}

#[tokio::test]
async fn good_tokens_of_every_kind_are_answered() {
    let world = World::start("", "");
    let wire = world.wire(None).await;
    let cases = [("RS256", "rsa", RS256), ("PS256", "rsa", PS256), ("ES256", "p256", Signer::P256), ("ES384", "p384", Signer::P384)];
    for (algorithm, kid, signer) in cases {
        let token = world.issuer.sign(&json!({"alg": algorithm, "kid": kid, "typ": "JWT"}), &claims("shop", "cart"), signer);
        let answer = wire.ask(&[("authorization", &bearer(&token))], &request()).await;
        assert_eq!(spiffe_id(&answer.chain()[0]), "spiffe://cluster.local/ns/shop/sa/cart", "{algorithm}");
    }
    assert_eq!(world.leaves(), 4);
    let one = wire.ask(&[("authorization", format!("bearer {}", world.token()).as_bytes())], &request()).await;
    assert_eq!(one.chain().len(), 3, "RFC 9110 §11.1: schemes know no case");
}
