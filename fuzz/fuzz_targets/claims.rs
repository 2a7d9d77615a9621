//! Claims of a token that an issuer of ours signed, put together from values that are likely to matter: the strict parser and every rule behind
//! it. Who is accepted is whom the claims name, and nobody else.
#![no_main]

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meshmint::callers::{KeySet, TokenError, TokenIdentity, UnverifiedToken};
use meshmint_fuzz::{AUDIENCE, ISSUER, NOW, token_rules};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Map, Value, json};

#[derive(Debug, Arbitrary)]
enum Text<'a> {
    Usual,
    Any(&'a str),
}

#[derive(Debug, Arbitrary)]
enum Time {
    FromNow(i16),
    Seconds(u64),
    Fraction(f64),
}

/// A member that is as Kubernetes writes it, absent, or of another type.
#[derive(Debug, Arbitrary)]
enum Member<T> {
    Good(T),
    Absent,
    Null,
    Bool(bool),
    Number(i64),
    List(Vec<T>),
    Object(T),
}

#[derive(Debug, Arbitrary)]
struct Object<'a> {
    name: Member<Text<'a>>,
    uid: Member<Text<'a>>,
}

#[derive(Debug, Arbitrary)]
struct Claims<'a> {
    issuer: Member<Text<'a>>,
    audience: Member<Text<'a>>,
    /// `None`: the one that agrees with namespace and account.
    subject: Option<Member<Text<'a>>>,
    expires: Member<Time>,
    issued: Member<Time>,
    not_before: Member<Time>,
    id: Member<Text<'a>>,
    namespace: Member<Text<'a>>,
    account: Member<Object<'a>>,
    pod: Member<Object<'a>>,
    node: Member<Object<'a>>,
    secret: Member<Object<'a>>,
    warn_after: Member<Time>,
    more: Vec<(&'a str, Member<Text<'a>>)>,
    /// Written after all others, by text: may repeat a member.
    last: Option<(&'a str, Time)>,
}

static KEY: LazyLock<(EcdsaKeyPair, KeySet)> = LazyLock::new(|| {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("randomness");
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).expect("it was just made");
    let (x, y) = key.public_key().as_ref()[1..].split_at(32);
    let jwk = json!({"kty": "EC", "kid": "k", "crv": "P-256", "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)});
    let keys = KeySet::from_jwks(json!({ "keys": [jwk] }).to_string().as_bytes()).expect("a key set");
    (key, keys)
});

fn text(text: &Text<'_>, usual: &str) -> Value {
    match text {
        Text::Usual => usual.into(),
        Text::Any(text) => (*text).into(),
    }
}

fn time(time: &Time) -> Value {
    match time {
        Time::FromNow(seconds) => (NOW.unix_timestamp() + i64::from(*seconds)).into(),
        Time::Seconds(seconds) => (*seconds).into(),
        Time::Fraction(seconds) => (*seconds).into(),
    }
}

fn put<T>(members: &mut Map<String, Value>, name: &str, member: &Member<T>, value: impl Fn(&T) -> Value) {
    let value = match member {
        Member::Good(good) => value(good),
        Member::Absent => return,
        Member::Null => Value::Null,
        Member::Bool(bool) => (*bool).into(),
        Member::Number(number) => (*number).into(),
        Member::List(list) => list.iter().map(value).collect(),
        Member::Object(inner) => json!({ name: value(inner) }),
    };
    members.insert(name.to_owned(), value);
}

fn object(object: &Object<'_>, usual: &str) -> Value {
    let mut members = Map::new();
    put(&mut members, "name", &object.name, |name| text(name, usual));
    put(&mut members, "uid", &object.uid, |uid| text(uid, "b1e9c9e4-0000-4000-8000-000000000001"));
    Value::Object(members)
}

fn payload(claims: &Claims<'_>) -> Map<String, Value> {
    let mut private = Map::new();
    put(&mut private, "namespace", &claims.namespace, |namespace| text(namespace, "shop"));
    for (name, member) in [("serviceaccount", &claims.account), ("pod", &claims.pod), ("node", &claims.node), ("secret", &claims.secret)] {
        put(&mut private, name, member, |each| object(each, "cart"));
    }
    put(&mut private, "warnafter", &claims.warn_after, time);
    let account = private.get("serviceaccount").and_then(|account| account.get("name")).and_then(Value::as_str).unwrap_or_default();
    let namespace = private.get("namespace").and_then(Value::as_str).unwrap_or_default();
    let usual_subject = format!("system:serviceaccount:{namespace}:{account}");

    let mut payload = Map::new();
    for (name, member) in &claims.more {
        put(&mut payload, name, member, |more| text(more, "more"));
    }
    put(&mut payload, "iss", &claims.issuer, |issuer| text(issuer, ISSUER));
    put(&mut payload, "aud", &claims.audience, |audience| text(audience, AUDIENCE));
    match &claims.subject {
        None => drop(payload.insert("sub".to_owned(), usual_subject.into())),
        Some(subject) => put(&mut payload, "sub", subject, |subject| text(subject, &usual_subject)),
    }
    for (name, member) in [("exp", &claims.expires), ("iat", &claims.issued), ("nbf", &claims.not_before)] {
        put(&mut payload, name, member, time);
    }
    put(&mut payload, "jti", &claims.id, |id| text(id, "6a2b8d3c-0000-4000-8000-000000000000"));
    payload.insert("kubernetes.io".to_owned(), Value::Object(private));
    payload
}

fn hold_to_it(identity: &TokenIdentity, payload: &Map<String, Value>) {
    let private = &payload["kubernetes.io"];
    let (namespace, account) = (private["namespace"].as_str().expect("a text"), private["serviceaccount"]["name"].as_str().expect("a text"));
    assert_eq!(identity.spiffe_id.to_string(), format!("spiffe://cluster.local/ns/{namespace}/sa/{account}"));
    assert_eq!(identity.spiffe_id.namespace_and_service_account(), Ok((namespace, account)));
    assert_eq!(payload["sub"], format!("system:serviceaccount:{namespace}:{account}"));
    assert_eq!((identity.issuer.as_str(), identity.cluster.as_str()), (ISSUER, "Kubernetes"));
    assert!(payload["aud"] == AUDIENCE || payload["aud"].as_array().is_some_and(|all| all.iter().any(|one| one == AUDIENCE)));
    assert!(private.get("secret").is_none(), "a token of a Secret");
    let (issued, expires) = (payload["iat"].as_u64().expect("a date"), payload["exp"].as_u64().expect("a date"));
    let latest = u64::try_from(NOW.unix_timestamp()).expect("after 1970") + 30;
    assert!(issued <= latest && issued < expires);
    assert!(payload.get("nbf").is_none_or(|not_before| not_before.as_u64().is_some_and(|not_before| not_before <= latest)));
    assert!(identity.pod.is_some() || identity.node.is_some() || expires - issued <= 86_400, "an unbound token that lives for long");
}

libfuzzer_sys::fuzz_target!(|claims: Claims<'_>| {
    let mut payload = payload(&claims);
    let mut written = Value::Object(payload.clone()).to_string();
    let repeated = claims.last.as_ref().is_some_and(|(name, _)| payload.contains_key(*name));
    if let Some((name, value)) = &claims.last {
        written.truncate(written.len() - 1);
        written.push_str(&format!(",{}:{}}}", json!(name), time(value)));
        payload.insert((*name).to_owned(), time(value));
    }
    let (key, keys) = &*KEY;
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","kid":"k"}"#), URL_SAFE_NO_PAD.encode(&written));
    let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).expect("randomness");
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));

    let Ok(token) = UnverifiedToken::parse(&token) else {
        return assert!(repeated || token.len() > UnverifiedToken::MAX_BYTES, "refused before its signature: {written}");
    };
    assert!(!repeated, "a member twice: {written}");
    let public = keys.key(token.kid()).expect("its key");
    let Ok(verified) = token.verify(public) else { return };
    match token_rules().check(verified, NOW) {
        Ok(identity) => {
            hold_to_it(&identity, &payload);
            assert!(identity.expires_at > NOW - time::Duration::seconds(30));
        }
        Err(TokenError::Expired(identity)) => {
            hold_to_it(&identity, &payload);
            assert!(identity.expires_at <= NOW - time::Duration::seconds(30));
        }
        Err(_) => {}
    }
});
