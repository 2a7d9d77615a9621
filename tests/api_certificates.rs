//! Client certificates in the place of a token, or beside one: which count, which don't, and what a renewal keeps.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/api.rs"]
mod common;

use common::csrs::{der, key_pem, pem, read, request, spiffe_id};
use common::grpc::{Identity, bearer};
use common::process::wait_for;
use common::refused::{World, unauthenticated};
use common::tokens::{claims, now, with};
use rcgen::{CertificateParams, DistinguishedName, Issuer, KeyPair, SanType};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
/// The headers of a request.
type Headers<'a> = &'a [(&'a str, &'a [u8])];
/// An hour, in seconds: a lifetime to ask for.
const LONG: i64 = 3600;

/// A leaf for shop/cart by this issuer, as ours look from outside.
fn leaf_by(issuer: &Issuer<'_, KeyPair>, above: &str) -> Identity {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.subject_alt_names = vec![SanType::URI(CART.try_into().unwrap())];
    parameters.use_authority_key_identifier_extension = true;
    let leaf = parameters.signed_by(&key, issuer).unwrap();
    Identity { chain: pem("CERTIFICATE", leaf.der()) + above, key: key_pem(&key) }
}

/// The issuing authority of an identity's chain.
fn intermediate(identity: &Identity) -> String {
    identity.chain.split_inclusive("-----END CERTIFICATE-----\n").nth(1).unwrap().to_owned()
}

/// A leaf that our own issuing key signed and nobody recorded: somebody has a copy of the key.
fn unrecorded(world: &World, known: &Identity) -> Identity {
    let above = intermediate(known);
    let public = read(&above, |certificate| certificate.public_key().raw.to_vec());
    let keys = std::fs::read_dir(world.path("state/keys")).unwrap();
    let key = keys
        .map(|file| KeyPair::try_from(&PrivateKeyDer::from_pem_file(file.unwrap().path()).unwrap()).unwrap())
        .find(|key| rcgen::PublicKeyData::subject_public_key_info(key) == public)
        .unwrap();
    leaf_by(&Issuer::from_ca_cert_der(&der(&above), key).unwrap(), &above)
}

/// A leaf by an authority that calls itself what ours does.
fn impostor(known: &Identity) -> Identity {
    let above = intermediate(known);
    leaf_by(&Issuer::from_ca_cert_der(&der(&above), KeyPair::generate().unwrap()).unwrap(), &above)
}

/// A leaf below a root of somebody else's.
fn foreign() -> Identity {
    let mut parameters = CertificateParams::default();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    leaf_by(&Issuer::new(parameters, KeyPair::generate().unwrap()), "")
}

/// One that was ours, for a second.
async fn expired(world: &World) -> Identity {
    let identity = world.identity(&world.token(), 1).await;
    let not_after = read(&identity.chain, |certificate| certificate.validity().not_after.timestamp());
    wait_for("notAfter", || (now() > not_after).then_some(()));
    identity
}

/// Lifetimes of a second need a notBefore that isn't in the past, and no jitter.
fn world() -> World {
    World::start("", "certificates: { backdate: 0s, jitter: 0% }\n")
}

#[tokio::test]
async fn certificates_that_prove_nothing_are_refused() {
    let world = world();
    let ours = world.identity(&world.token(), LONG).await;
    let cases = [
        ("expired", expired(&world).await, "certificate_expired"),
        ("another root", foreign(), "certificate_unknown_issuer"),
        ("another root of our name", impostor(&ours), "certificate_unknown_issuer"),
        ("ours, not on record", unrecorded(&world, &ours), "certificate_unknown_to_ledger"),
    ];
    for (case, identity, reason) in cases {
        // Without a token and beside one that has expired, where only the certificate could help; the handshake itself goes well.
        let wire = world.wire(Some(&identity)).await;
        world.assert_refused(case, &unauthenticated(reason), wire.ask(&[], &request())).await;
        let token = bearer(&world.issuer.expired("shop", "cart"));
        world.assert_refused(case, &unauthenticated(reason), wire.ask(&[("authorization", &token)], &request())).await;
        // It doesn't spoil a good token.
        let answer = wire.ask(&[("authorization", &bearer(&world.token()))], &request()).await;
        assert_eq!(spiffe_id(&answer.chain()[0]), CART, "{case}");
    }
}

#[tokio::test]
async fn a_bad_token_is_not_mended_by_a_good_certificate() {
    let world = world();
    let ours = world.identity(&world.token(), LONG).await;
    let wire = world.wire(Some(&ours)).await;
    let spoiled = |claim, value| bearer(&world.issuer.token(&with(claims("shop", "cart"), claim, value)));
    let cases = [
        ("another audience", spoiled("aud", json!(["other"])), "wrong_audience"),
        ("another issuer", spoiled("iss", json!("https://evil.example")), "wrong_issuer"),
        ("not valid yet", spoiled("nbf", json!(now() + LONG)), "not_yet_valid"),
        ("garbage", bearer("garbage"), "malformed"),
        ("another scheme", b"Basic Y2FydDpjYXJ0".to_vec(), "not_a_bearer_token"),
        ("an expired token of somebody else", bearer(&world.issuer.expired("shop", "admin")), "certificate_other_identity"),
        ("an expired token of another namespace", bearer(&world.issuer.expired("pay", "cart")), "certificate_other_identity"),
    ];
    for (case, token, reason) in cases {
        world.assert_refused(case, &unauthenticated(reason), wire.ask(&[("authorization", &token)], &request())).await;
    }
    let none: &[(&str, &[u8])] = &[];
    assert_eq!(spiffe_id(&wire.ask(none, &request()).await.chain()[0]), CART, "the certificate itself is good");
}

#[tokio::test]
async fn a_renewal_by_certificate_keeps_identity_and_holder() {
    let world = world();
    let unbound = with(with(claims("shop", "vm"), "kubernetes.io/pod", json!(null)), "kubernetes.io/node", json!(null));
    for (account, token) in [("cart", world.token()), ("vm", world.issuer.token(&unbound))] {
        let latest =
            |column: &str| -> String { world.ledger(&format!("SELECT {column} FROM certificates WHERE kind = 'leaf' ORDER BY id DESC LIMIT 1")) };
        let first = world.identity(&token, LONG).await;
        let (holder, id) = (latest("holder"), latest("spiffe_id"));
        assert_eq!((id.as_str(), latest("credential").as_str()), (format!("spiffe://cluster.local/ns/shop/sa/{account}").as_str(), "token"));
        let wire = world.wire(Some(&first)).await;
        let expired = bearer(&world.issuer.expired("shop", account));
        let ways: [(&str, Headers<'_>); 3] =
            [("no token", &[]), ("an empty token", &[("authorization", b"Bearer ")]), ("an expired token", &[("authorization", &expired)])];
        for (way, headers) in ways {
            let leaves = world.leaves();
            let chain = wire.ask(headers, &request()).await.chain();
            assert_eq!(spiffe_id(&chain[0]), id, "{way}");
            assert_eq!((latest("holder"), latest("spiffe_id")), (holder.clone(), id.clone()), "{way}");
            assert_eq!((world.leaves(), latest("credential")), (leaves + 1, "client-certificate".to_owned()), "{way}");
        }
    }
}

#[tokio::test]
async fn a_certificate_that_expires_in_an_open_connection_no_longer_counts() {
    let world = world();
    let brief = world.identity(&world.token(), 6).await;
    let wire = world.wire(Some(&brief)).await;
    assert_eq!(spiffe_id(&wire.ask(&[], &request()).await.chain()[0]), CART);
    let not_after = read(&brief.chain, |certificate| certificate.validity().not_after.timestamp());
    wait_for("notAfter", || (now() > not_after).then_some(()));
    world.assert_refused("expired meanwhile", &unauthenticated("certificate_expired"), wire.ask(&[], &request())).await;
}
