//! Small worlds of root, intermediate and leaf, each spoilt in one thing, and the step that says so.

use rcgen::{BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyUsagePurpose};
use time::Duration;

use super::*;
use crate::spiffe::x509_svid::makers::{Made, NOW, authority_params, leaf_params, uri};

/// root → intermediate → leaf.
struct World {
    root: Made,
    intermediate: Made,
    leaf: Made,
}

fn world(spoil_root: fn(&mut CertificateParams), spoil_intermediate: fn(&mut CertificateParams), spoil_leaf: fn(&mut CertificateParams)) -> World {
    let (mut root, mut intermediate, mut leaf) = (authority_params("root"), authority_params("intermediate"), leaf_params());
    spoil_root(&mut root);
    spoil_intermediate(&mut intermediate);
    spoil_leaf(&mut leaf);
    let root = Made::self_signed(root);
    let intermediate = root.below(intermediate);
    let leaf = intermediate.below(leaf);
    World { root, intermediate, leaf }
}

fn good() -> World {
    world(|_| (), |_| (), |_| ())
}

impl World {
    fn verify(&self) -> Result<String, ChainError> {
        verify(&[&self.leaf, &self.intermediate], &[&self.root])
    }
}

fn verify(chain: &[&Made], roots: &[&Made]) -> Result<String, ChainError> {
    let der = |all: &[&Made]| all.iter().map(|made| made.der.clone()).collect::<Vec<_>>();
    verify_as_peer(&der(chain), &der(roots), NOW).map(|id| id.to_string())
}

const ID: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const ONE: Place = Place::Certificate(1);
const TWO: Place = Place::Certificate(2);
const ROOT: Place = Place::Root(1);

#[test]
fn a_good_chain_verifies_in_any_order_of_intermediates_and_roots() {
    let world = good();
    assert_eq!(world.verify(), Ok(ID.to_owned()));
    let other = Made::root("other");
    assert_eq!(verify(&[&world.leaf, &world.intermediate], &[&other, &world.root]), Ok(ID.to_owned()));
    assert_eq!(verify(&[&world.leaf, &world.root, &world.intermediate], &[&world.root]), Ok(ID.to_owned()));
    let direct = world.root.below(leaf_params());
    assert_eq!(verify(&[&direct], &[&world.root]), Ok(ID.to_owned()));
}

#[test]
fn a_cross_certificate_leads_to_either_root() {
    let (old, new) = (Made::root("old"), Made::root("new"));
    let cross_der = authority_params("new").signed_by(new.issuer.key(), &old.issuer).unwrap().der().to_vec();
    let cross = Made { der: cross_der, issuer: rcgen::Issuer::new(authority_params("new"), rcgen::KeyPair::generate().unwrap()) };
    let intermediate = new.below(authority_params("intermediate"));
    let leaf = intermediate.below(leaf_params());
    for roots in [&[&old][..], &[&new], &[&old, &new]] {
        assert_eq!(verify(&[&leaf, &intermediate, &cross], roots), Ok(ID.to_owned()));
    }
}

#[test]
fn names_the_step_that_fails() {
    let world = good();
    assert_eq!(verify(&[], &[&world.root]), Err(ChainError::Empty));
    assert_eq!(verify(&[&world.leaf], &[&world.root]), Err(ChainError::NoIssuer { place: ONE, issuer: "CN=intermediate".to_owned() }));
    let other = Made::root("other");
    assert_eq!(verify(&[&world.leaf, &world.intermediate], &[&other]), Err(ChainError::NoIssuer { place: TWO, issuer: "CN=root".to_owned() }));
    let same_name = Made::root("root");
    assert_eq!(verify(&[&world.leaf, &world.intermediate], &[&same_name]), Err(ChainError::KeyIdentifier { place: TWO, issuer: ROOT }));
    let with_root = [&world.leaf, &world.intermediate, &world.root];
    assert_eq!(verify(&with_root, &[&other]), Err(ChainError::UntrustedRoot(Place::Certificate(3))));
    assert_eq!(verify(&[&world.intermediate, &world.leaf], &[&world.root]), Err(ChainError::LeafNotFirst(TWO)));
    let garbage = [world.leaf.der.clone(), vec![0x30]];
    assert_eq!(verify_as_peer(&garbage, &[&world.root.der], NOW), Err(ChainError::Unreadable(TWO)));
}

#[test]
fn names_the_certificate_that_is_at_fault() {
    let (none, minute) = (|_: &mut CertificateParams| (), Duration::minutes(1));
    let late = |params: &mut CertificateParams| params.not_before = NOW + Duration::minutes(1);
    let gone = |params: &mut CertificateParams| params.not_after = NOW - Duration::minutes(1);
    for (world, place) in [(world(late, none, none), ROOT), (world(none, late, none), TWO), (world(none, none, late), ONE)] {
        assert_eq!(world.verify(), Err(ChainError::NotYetValid { place, from: NOW + minute }));
    }
    for (world, place) in [(world(gone, none, none), ROOT), (world(none, gone, none), TWO), (world(none, none, gone), ONE)] {
        assert_eq!(world.verify(), Err(ChainError::Expired { place, at: NOW - minute }));
    }
    let no_ca = |params: &mut CertificateParams| params.is_ca = IsCa::ExplicitNoCa;
    assert_eq!(world(none, no_ca, none).verify(), Err(ChainError::NotCa(TWO)));
    let crl_only = |params: &mut CertificateParams| params.key_usages = vec![KeyUsagePurpose::CrlSign];
    assert_eq!(world(none, crl_only, none).verify(), Err(ChainError::NoKeyCertSign(TWO)));
    let server_only = |params: &mut CertificateParams| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    assert_eq!(world(none, none, server_only).verify(), Err(ChainError::Purpose { place: ONE, usage: "clientAuth" }));
    assert_eq!(world(none, server_only, none).verify(), Err(ChainError::Purpose { place: TWO, usage: "clientAuth" }));
    let client_only = |params: &mut CertificateParams| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    assert_eq!(world(none, none, client_only).verify(), Err(ChainError::Purpose { place: ONE, usage: "serverAuth" }));
    let unknown = |params: &mut CertificateParams| {
        let mut extension = CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0]);
        extension.set_criticality(true);
        params.custom_extensions.push(extension);
    };
    assert_eq!(world(none, unknown, none).verify(), Err(ChainError::CriticalExtension { place: TWO, extension: "1.2.3".to_owned() }));
    let policies = |params: &mut CertificateParams| {
        let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 32], vec![0x30, 8, 0x30, 6, 6, 4, 0x55, 0x1d, 0x20, 0]);
        extension.set_criticality(true);
        params.custom_extensions.push(extension);
    };
    let refused = |place| Err(ChainError::CriticalExtension { place, extension: "certificatePolicies".to_owned() });
    assert_eq!(world(none, policies, none).verify(), refused(TWO));
    assert_eq!(world(policies, none, none).verify(), refused(ROOT));
    let domain_only = |params: &mut CertificateParams| params.subject_alt_names = vec![uri("spiffe://cluster.local")];
    assert!(matches!(world(none, none, domain_only).verify(), Err(ChainError::NotAnSvid(what)) if what.contains("no path")));
}

#[test]
fn counts_the_cas_below() {
    let no_ca_below = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let spoilt = world(no_ca_below, |_| (), |_| ());
    assert_eq!(spoilt.verify(), Err(ChainError::PathLength { place: ROOT, limit: 0, below: 1 }));
    assert_eq!(world(|_| (), no_ca_below, |_| ()).verify(), Ok(ID.to_owned()));
    let direct = spoilt.root.below(leaf_params());
    assert_eq!(verify(&[&direct], &[&spoilt.root]), Ok(ID.to_owned()));
}

#[test]
fn signatures_are_checked() {
    let mut world = good();
    let last = world.leaf.der.len() - 1;
    world.leaf.der[last] ^= 1;
    assert_eq!(world.verify(), Err(ChainError::Signature { place: ONE, issuer: TWO }));
    // Another key under the same name and the same key identifier.
    let pinned = || {
        let mut params = authority_params("root");
        params.key_identifier_method = KeyIdMethod::PreSpecified(vec![7; 20]);
        Made::self_signed(params)
    };
    let leaf = pinned().below(leaf_params());
    assert_eq!(verify(&[&leaf], &[&pinned()]), Err(ChainError::Signature { place: ONE, issuer: ROOT }));
    // ecdsa-with-SHA256 outside, ecdsa-with-SHA512 inside.
    let mut world = good();
    let oid = [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    let at = world.leaf.der.windows(oid.len()).position(|window| window == oid).unwrap();
    world.leaf.der[at + 7] = 4;
    assert_eq!(world.verify(), Err(ChainError::SignatureAlgorithm(ONE)));
}

#[test]
fn many_candidates_cost_little() {
    let method = KeyIdMethod::PreSpecified(vec![7; 20]);
    let mut params = authority_params("root");
    params.key_identifier_method = method;
    let leaf = Made::self_signed(params.clone()).below(leaf_params());
    let twin = Made::self_signed(params);
    assert_eq!(verify(&[&leaf], &vec![&twin; 101]), Err(ChainError::TooManySteps));
    // A path that never ends in a root: each certificate issued by the next.
    let mut made = vec![Made::root("ca0")];
    for number in 1..=20 {
        made.push(made[number - 1].below(authority_params(&format!("ca{number}"))));
    }
    made.push(made[20].below(leaf_params()));
    let chain: Vec<_> = made.iter().rev().collect();
    assert_eq!(verify(&chain, &[&made[0]]), Err(ChainError::TooManySteps));
}

#[test]
fn every_error_has_a_step_and_a_sentence() {
    let error = ChainError::Expired { place: TWO, at: NOW };
    assert_eq!((error.step(), error.to_string()), ("validity", "certificate 2 expired at 2026-11-23 12:00:00Z".to_owned()));
}
