//! Answers of a whole CA (`common/issuer.rs`) under any request, policy and time: what a caller gets is one consistent set that verifies, and
//! the ledger holds exactly that. Across generations too, up to the fence.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[allow(dead_code, reason = "nobody sleeps here")]
#[path = "common/clock.rs"]
mod clock;
#[path = "common/issuer.rs"]
mod issuer;
#[path = "common/tokens.rs"]
mod tokens;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use meshmint::issuance::{Issued, Refusal, Trouble};
use meshmint::ledger::{CredentialKind, HolderId, Kind};
use meshmint::pki::inspect::verify_as_peer;
use meshmint::pki::{KeyAlgorithm, Profile, certificates_from_pem};
use meshmint::spiffe::x509_svid::leaf_departures;
use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType};
use ring::digest::{SHA256, digest};
use time::OffsetDateTime;
use time::macros::datetime;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::clock::ManualClock;
use crate::issuer::{CLUSTER, Choices, LONGEST_REQUEST, SeededEntropy, TRUST_DOMAIN, World, ask, csr_pem, plain_csr};

const START: OffsetDateTime = datetime!(2026-11-23 12:00:00.987654 UTC);
const RSA_CSR: &str = include_str!("corpus/refusals/csr/good-agent-rsa2048.pem");
const SECOND: time::Duration = time::Duration::SECOND;

/// A key to be certified and what its CSR wishes for.
#[derive(Debug, Clone)]
enum Csr {
    /// As Istio's agent makes it.
    Rsa,
    Made {
        algorithm: &'static rcgen::SignatureAlgorithm,
        names: Vec<String>,
        ca: bool,
        common_name: Option<String>,
    },
}

/// One request, `after_millis` after the one before.
#[derive(Debug, Clone)]
struct Request {
    after_millis: u64,
    lifetime: i64,
    csr: Csr,
    namespace: String,
    account: String,
    pod: String,
}

fn label() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?"
}

fn csr() -> impl Strategy<Value = Csr> {
    let algorithm = prop_oneof![
        Just(&rcgen::PKCS_ECDSA_P256_SHA256 as &'static rcgen::SignatureAlgorithm),
        Just(&rcgen::PKCS_ECDSA_P384_SHA384),
        Just(&rcgen::PKCS_ED25519)
    ];
    let name = prop_oneof![
        "[a-z]{1,10}\\.example",
        (label(), label()).prop_map(|(namespace, account)| format!("spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{account}")),
        Just("spiffe://mesh.example/ns/istio-system/sa/istiod".to_owned()),
    ];
    let made = (algorithm, prop::collection::vec(name, 0..3), any::<bool>(), prop::option::of("[ -~]{1,30}"));
    prop_oneof![1 => Just(Csr::Rsa), 6 => made.prop_map(|(algorithm, names, ca, common_name)| Csr::Made { algorithm, names, ca, common_name })]
}

impl Csr {
    fn pem(&self) -> String {
        let Self::Made { algorithm, names, ca, common_name } = self else { return RSA_CSR.to_owned() };
        let mut wishes = CertificateParams::default();
        wishes.distinguished_name = DistinguishedName::new();
        if let Some(name) = common_name {
            wishes.distinguished_name.push(DnType::CommonName, name.as_str());
        }
        let san = |name: &String| match name.starts_with("spiffe:") {
            true => SanType::URI(name.as_str().try_into().unwrap()),
            false => SanType::DnsName(name.as_str().try_into().unwrap()),
        };
        wishes.subject_alt_names = names.iter().map(san).collect();
        if *ca {
            wishes.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            wishes.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        }
        csr_pem(&wishes, &KeyPair::generate_for(algorithm).unwrap())
    }
}

fn lifetime() -> impl Strategy<Value = i64> {
    prop_oneof![Just(0), Just(i64::MIN), Just(i64::MAX), -10_i64..10, 1_i64..200_000, any::<i64>()]
}

fn request() -> impl Strategy<Value = Request> {
    let after_millis = prop_oneof![0_u64..3_000, 0_u64..200_000_000];
    (after_millis, lifetime(), csr(), label(), label(), label()).prop_map(|(after_millis, lifetime, csr, namespace, account, pod)| Request {
        after_millis,
        lifetime,
        csr,
        namespace,
        account,
        pod,
    })
}

/// What the configuration's checks let through: backdate within a fifth of every lifetime, three leaves within an issuing key's time.
fn choices() -> impl Strategy<Value = Choices> {
    let lengths = (0_u64..600, 0_u64..50_000, 0_u64..50_000, 0.0..0.9_f64);
    (lengths, 3_u32..20, 2_u32..20, any::<bool>()).prop_map(|((backdate, above_floor, above_default, jitter), leaves, issuings, p384)| {
        let default = (backdate * 5).max(1) + above_floor;
        let seconds = Duration::from_secs;
        let profile =
            Profile { default_lifetime: seconds(default), max_lifetime: seconds(default + above_default), backdate: seconds(backdate), jitter };
        let issuing_lifetime = profile.max_lifetime * leaves;
        // However far the clock of a case goes, the root outlives it.
        let root_lifetime = seconds(20 * 24 * 3600) + issuing_lifetime * issuings;
        let key_algorithm = if p384 { KeyAlgorithm::P384 } else { KeyAlgorithm::P256 };
        Choices { profile, key_algorithm, root_lifetime, issuing_lifetime, keys_published: true, cluster: None }
    })
}

fn whole(at: OffsetDateTime) -> OffsetDateTime {
    at.replace_nanosecond(0).unwrap()
}

fn length(duration: Duration) -> time::Duration {
    duration.try_into().unwrap()
}

/// The DER of the single certificate of a PEM block that ends in one newline.
fn only(pem: &str) -> Vec<u8> {
    assert!(pem.starts_with("-----BEGIN CERTIFICATE-----\n") && pem.ends_with("-----END CERTIFICATE-----\n"), "{pem:?}");
    let certificates = certificates_from_pem(pem).unwrap();
    assert_eq!(certificates.len(), 1);
    certificates[0].to_vec()
}

/// Leaf and chain as DER, leaf first.
fn path(issued: &Issued) -> Vec<Vec<u8>> {
    std::iter::once(&issued.leaf).chain(issued.chain.iter()).map(|pem| only(pem)).collect()
}

fn roots(bundle: &str) -> Vec<Vec<u8>> {
    certificates_from_pem(bundle).unwrap().iter().map(|der| der.to_vec()).collect()
}

/// Leaf, one intermediate, one root: names and validity, and that peers accept it for exactly as long as it says.
fn check_path(issued: &Issued, identity: &str, bundles: &BTreeSet<Arc<str>>, now: OffsetDateTime) {
    let (path, own) = (path(issued), roots(&issued.bundle));
    assert_eq!((path.len(), own.len()), (2, 1));
    assert_eq!(path[0], issued.der.as_ref());
    let [leaf, intermediate, root] = [&path[0], &path[1], &own[0]].map(|der| X509Certificate::from_der(der).unwrap().1);
    let begins = [&leaf, &intermediate, &root].map(|each| each.validity().not_before.to_datetime());
    let ends = [&leaf, &intermediate, &root].map(|each| each.validity().not_after.to_datetime());
    assert!(begins.is_sorted_by(|inner, outer| inner >= outer) && ends.is_sorted(), "{begins:?} {ends:?}");
    assert_eq!((begins[0], ends[0]), (issued.not_before, issued.not_after));

    let tbs = &leaf.tbs_certificate;
    assert_eq!(leaf_departures(tbs), []);
    assert_eq!(leaf.subject().iter().count(), 0);
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical);
    match names.value.general_names.as_slice() {
        [GeneralName::URI(uri)] => assert_eq!(*uri, identity),
        names => panic!("{names:?}"),
    }
    assert_eq!(hex::encode(leaf.raw_serial()), issued.serial);
    assert_eq!(leaf.raw_serial().len(), 20);
    assert!((1..0x80).contains(&leaf.raw_serial()[0]), "positive, and no octet to spare");

    for roots in bundles.iter().map(|bundle| roots(bundle)).chain([own.clone()]) {
        for at in [now, issued.not_before, issued.not_after - SECOND, issued.not_after] {
            assert_eq!(verify_as_peer(&path, &roots, at).unwrap().to_string(), identity);
        }
        for at in [issued.not_before - SECOND, issued.not_after + SECOND] {
            verify_as_peer(&path, &roots, at).unwrap_err();
        }
    }
}

/// The ledger's record of this serial: one, and equal to the answer.
async fn check_record(world: &World, issued: &Issued, pod: &str) {
    let mut found = world.ledger.find_serial(&hex::decode(&issued.serial).unwrap()).await.unwrap();
    assert_eq!(found.len(), 1);
    let stored = found.remove(0);
    let (record, generation) = (stored.record, world.generation());
    assert_eq!(stored.revoked, None);
    assert_eq!(record.sha256.as_slice(), digest(&SHA256, &issued.der).as_ref());
    assert_eq!(record.der, issued.der.as_ref());
    assert_eq!((record.kind, record.credential), (Kind::Leaf, CredentialKind::Token));
    assert_eq!((record.spiffe_id, &record.issuer), (issued.identity.clone(), &generation.authority));
    assert_eq!(record.holder, Some(HolderId::pod(CLUSTER, pod)));
    assert_eq!((record.generation, record.bundle_number), (issued.generation, generation.bundle_number));
    assert_eq!((record.not_before, record.not_after), (issued.not_before, issued.not_after));
    assert_eq!(record.profile_digest, world.profile.digest());
    let holder = world.ledger.holder(&HolderId::pod(CLUSTER, pod)).await.unwrap().unwrap();
    assert_eq!(hex::encode(holder.serial), issued.serial, "the latest of its holder");
}

/// The answer is what the generation that is published now gives.
fn check_generation(world: &World, issued: &Issued) {
    let generation = world.generation();
    assert_eq!(issued.generation, generation.number);
    assert_eq!((&issued.chain, &issued.bundle), (&generation.chain, &generation.bundle));
    assert_eq!(only(&issued.chain[0]), generation.signer.certificate().as_ref());
}

async fn one_case(choices: Choices, seed: u64, requests: Vec<Request>) {
    let clock = ManualClock::at(START);
    let world = World::found(choices, Arc::new(clock.clone()), SeededEntropy::new(seed)).await;
    let (mut serials, mut bundles) = (BTreeSet::new(), BTreeSet::new());
    for request in requests {
        clock.advance(Duration::from_millis(request.after_millis));
        world.keeper.tick().await.unwrap();
        let (now, before) = (meshmint::clock::Clock::now(&clock), world.recorded().await);
        let token = world.tokens.token(&world.claims(&request.namespace, &request.account, &request.pod));
        let issued = world.issuer.issue(ask(&token, &request.csr.pem(), request.lifetime)).await.unwrap();

        let identity = format!("spiffe://{TRUST_DOMAIN}/ns/{}/sa/{}", request.namespace, request.account);
        assert_eq!(issued.identity.as_ref().unwrap().to_string(), identity);
        let profile = &world.profile;
        assert_eq!(issued.not_before, whole(now) - length(profile.backdate));
        let asked = if request.lifetime > 0 { Duration::from_secs(request.lifetime.unsigned_abs()) } else { profile.default_lifetime };
        let longest = asked.clamp(profile.floor(), profile.max_lifetime);
        let shortest = longest.mul_f64(1.0 - profile.jitter).max(profile.floor());
        let lifetime = issued.not_after - whole(now);
        assert!(lifetime <= length(longest) && lifetime > length(shortest) - SECOND, "{lifetime}, not {shortest:?} to {longest:?}");

        check_path(&issued, &identity, &bundles, now);
        check_generation(&world, &issued);
        check_record(&world, &issued, &request.pod).await;
        assert_eq!(world.recorded().await, before + 1);
        assert!(serials.insert(issued.serial), "a serial twice");
        bundles.insert(issued.bundle);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_answer_is_whole(choices in choices(), seed in any::<u64>(), requests in prop::collection::vec(request(), 1..6)) {
        tokio::runtime::Runtime::new().unwrap().block_on(one_case(choices, seed, requests));
    }
}

#[tokio::test]
async fn answers_stay_whole_through_the_generations_up_to_the_fence() {
    let clock = ManualClock::at(START);
    let world = World::found(Choices::default(), Arc::new(clock.clone()), SeededEntropy::new(7)).await;
    let token = || world.tokens.token(&world.claims("shop", "cart", "pod-1"));
    let (mut serials, mut bundles, mut generations) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for _ in 0..36 {
        world.keeper.tick().await.unwrap();
        let issued = world.issuer.issue(ask(&token(), &plain_csr(), 0)).await.unwrap();
        check_path(&issued, "spiffe://mesh.example/ns/shop/sa/cart", &bundles, meshmint::clock::Clock::now(&clock));
        check_generation(&world, &issued);
        check_record(&world, &issued, "pod-1").await;
        assert!(serials.insert(issued.serial.clone()), "a serial twice");
        bundles.insert(issued.bundle);
        generations.push(issued.generation.0);
        clock.advance(Duration::from_secs(3 * 24 * 3600));
    }
    // 105 days; a key of 30 is renewed after 20.
    assert!(generations.is_sorted());
    generations.dedup();
    assert_eq!(generations, (1..=generations.len()).map(|number| number as u64).collect::<Vec<_>>());
    assert!((5..=6).contains(&generations.len()), "{generations:?}");

    world.keeper.tick().await.unwrap();
    clock.advance(LONGEST_REQUEST);
    let (current, before) = (world.generation().number, world.recorded().await);
    world.ledger.close_generation(current, meshmint::clock::Clock::now(&clock)).await.unwrap();
    let refusal = world.issuer.issue(ask(&token(), &plain_csr(), 0)).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Unavailable(Trouble::Authority(_))), "{refusal}");
    assert_eq!(refusal.reason(), "authority_unavailable");
    assert_eq!(world.recorded().await, before);
}
