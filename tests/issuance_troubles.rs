//! Refusals that no request can bring about alone: missing keys, a chain near its end, no random bytes, a token bound to nothing. Each is
//! reached through `Issuer::issue`, and nothing is on record afterwards.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[allow(dead_code, reason = "nobody sleeps here")]
#[path = "common/clock.rs"]
mod clock;
#[path = "common/issuer.rs"]
mod issuer;
#[path = "common/tokens.rs"]
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use meshmint::issuance::{Refusal, Trouble};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::datetime;

use crate::clock::ManualClock;
use crate::issuer::{Choices, KEYS_MAX_AGE, MAX_UNBOUND, SeededEntropy, World, ask, plain_csr};
use crate::tokens::with;

const START: OffsetDateTime = datetime!(2026-11-23 12:00:00.25 UTC);
const SECOND: Duration = Duration::from_secs(1);

async fn world(choices: Choices) -> (World, ManualClock, Arc<SeededEntropy>) {
    let (clock, entropy) = (ManualClock::at(START), SeededEntropy::new(1));
    (World::found(choices, Arc::new(clock.clone()), entropy.clone()).await, clock, entropy)
}

/// The claims of one pod, good now.
fn good(world: &World) -> Value {
    world.claims("shop", "cart", "pod-1")
}

/// The refusal of a request with these claims, once it is sure that it left no record.
async fn refused(world: &World, claims: &Value) -> Refusal {
    let before = world.recorded().await;
    let refusal = world.issuer.issue(ask(&world.tokens.token(claims), &plain_csr(), 0)).await.unwrap_err();
    assert_eq!(world.recorded().await, before, "refused as {}, but on record", refusal.reason());
    refusal
}

async fn accepted(world: &World, claims: &Value) {
    let before = world.recorded().await;
    world.issuer.issue(ask(&world.tokens.token(claims), &plain_csr(), 0)).await.unwrap();
    assert_eq!(world.recorded().await, before + 1);
}

#[tokio::test]
async fn keys_that_were_never_loaded() {
    let (world, clock, _) = world(Choices { keys_published: false, ..Choices::default() }).await;
    let refusal = refused(&world, &good(&world)).await;
    assert_eq!(refusal.reason(), "keys_unavailable");
    assert!(matches!(refusal, Refusal::Unavailable(Trouble::Keys(_))), "{refusal}");

    world.tokens.publish(world.jwks().parent().unwrap());
    clock.advance(11 * SECOND);
    accepted(&world, &good(&world)).await;
}

#[tokio::test]
async fn keys_that_grew_too_old() {
    let (world, clock, _) = world(Choices::default()).await;
    std::fs::remove_file(world.jwks()).unwrap();
    clock.advance(KEYS_MAX_AGE);
    world.keeper.tick().await.unwrap();
    accepted(&world, &good(&world)).await;
    clock.advance(SECOND);
    let refusal = refused(&world, &good(&world)).await;
    assert_eq!(refusal.reason(), "keys_unavailable");
    assert!(matches!(refusal, Refusal::Unavailable(Trouble::Keys(_))), "{refusal}");
}

#[tokio::test]
async fn an_issuing_key_near_its_end() {
    let day = Duration::from_secs(24 * 3600);
    // One root and issuing key that end together: nobody can move the end.
    let (world, clock, _) = world(Choices { root_lifetime: 4 * day, issuing_lifetime: 4 * day, ..Choices::default() }).await;
    let left = |at: OffsetDateTime| Duration::try_from(at - START).unwrap();
    let floor = world.profile.floor();
    let end = world.generation().chain_end;

    clock.advance(left(end) - floor - SECOND);
    world.keeper.tick().await.unwrap();
    assert_eq!(world.generation().limit, end);
    accepted(&world, &good(&world)).await;

    clock.advance(2 * SECOND);
    world.keeper.tick().await.unwrap();
    let refusal = refused(&world, &good(&world)).await;
    assert_eq!(refusal.reason(), "authority_unavailable");
    assert!(matches!(refusal, Refusal::Unavailable(Trouble::Authority(_))), "{refusal}");

    clock.advance(2 * floor);
    assert_eq!(refused(&world, &good(&world)).await.reason(), "authority_unavailable", "after its end");
}

#[tokio::test]
async fn a_reservation_that_nobody_extends() {
    let (world, clock, _) = world(Choices::default()).await;
    let limit = world.generation().limit;
    assert!(limit < world.generation().chain_end);
    clock.advance(Duration::try_from(limit - START).unwrap());
    assert_eq!(refused(&world, &good(&world)).await.reason(), "authority_unavailable");
    world.keeper.tick().await.unwrap();
    accepted(&world, &good(&world)).await;
}

#[tokio::test]
async fn a_token_bound_to_nothing_that_lives_too_long() {
    let (world, ..) = world(Choices::default()).await;
    let unbound = with(with(good(&world), "kubernetes.io/pod", Value::Null), "kubernetes.io/node", Value::Null);
    let lasting = |by: Duration| {
        let issued = unbound["iat"].as_i64().unwrap();
        with(unbound.clone(), "exp", json!(issued + i64::try_from(by.as_secs()).unwrap()))
    };
    let refusal = refused(&world, &lasting(MAX_UNBOUND + SECOND)).await;
    assert_eq!(refusal.reason(), "unbound_too_long");
    assert!(matches!(refusal, Refusal::Unauthenticated(_)), "{refusal}");
    accepted(&world, &lasting(MAX_UNBOUND)).await;
}

#[tokio::test]
async fn no_random_bytes() {
    let (world, _, entropy) = world(Choices::default()).await;
    accepted(&world, &good(&world)).await;
    entropy.dry_up();
    let refusal = refused(&world, &good(&world)).await;
    assert_eq!(refusal, Refusal::Unavailable(Trouble::Entropy));
    assert_eq!(refusal.reason(), "no_entropy");
}
