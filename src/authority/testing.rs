//! Small worlds for the tests of this floor: a policy, and states made by the real functions.

use std::time::Duration;

use time::OffsetDateTime;

use super::{
    AuthorityPolicy, AuthorityState, KeyRef, MadeBy, TrustEntry, certify_intermediate, certify_issuing, first_state, issuing_name, make_root,
    rotation,
};
use crate::clock::{Entropy, SystemEntropy};
use crate::pki::{IssuerKey, KeyAlgorithm, Profile, Serial, Signer, certificates_from_pem};

/// Leaves of a day, issuing keys of 30 days, roots of a year.
pub(crate) fn policy() -> AuthorityPolicy {
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    AuthorityPolicy {
        trust_domain: "cluster.local".parse().unwrap(),
        key_algorithm: KeyAlgorithm::P256,
        root_lifetime: hours(365 * 24),
        issuing_lifetime: hours(30 * 24),
        longest_leaf: hours(24),
        profile: Profile { default_lifetime: hours(24), max_lifetime: hours(24), backdate: Duration::from_secs(120), jitter: 0.1 },
    }
}

/// A state with one root and nothing below it. Its key is always the same one of this process.
pub(crate) fn founded(now: OffsetDateTime) -> AuthorityState {
    let root = make_root(&policy(), root_key(), KeyRef("file:root".to_owned()), now, entropy().as_ref()).unwrap();
    let trust = vec![TrustEntry { id: root.id.clone(), certificate: root.certificate.clone(), foreign: false }];
    first_state(&policy(), MadeBy::Serve, vec![root], trust, now, "made".to_owned())
}

/// The state with a new issuing authority below its root, as `rotation::Keeper` makes it.
pub(crate) fn with_first_issuing(state: AuthorityState, now: OffsetDateTime) -> AuthorityState {
    let key = IssuerKey::generate(KeyAlgorithm::P256).unwrap();
    with_issuing_key(state, &key, now)
}

/// The same with a key that the test holds.
pub(crate) fn with_issuing_key(state: AuthorityState, key: &IssuerKey, now: OffsetDateTime) -> AuthorityState {
    let parent = rotation::parent(&state).unwrap();
    let signer = Signer::new(&certificates_from_pem(&parent.certificate).unwrap()[0], root_key().clone()).unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(key.pair()).unwrap();
    let csr = pem_rfc7468::encode_string("CERTIFICATE REQUEST", pem_rfc7468::LineEnding::LF, csr.der()).unwrap();
    let name = issuing_name(state.next_generation(), entropy().as_ref()).unwrap();
    let certified = certify_issuing(&policy(), parent, &signer, &csr, &name, now, entropy().as_ref()).unwrap();
    let reference = KeyRef(format!("file:issuing-{}", state.next_generation()));
    state.with_issuing(certified, reference, now)
}

/// An intermediate for somebody else below the root of this state, DER.
pub(crate) fn intermediate(state: &AuthorityState, key: &IssuerKey, (lifetime, now): (Duration, OffsetDateTime)) -> Vec<u8> {
    let parent = rotation::parent(state).unwrap();
    let signer = Signer::new(&certificates_from_pem(&parent.certificate).unwrap()[0], root_key().clone()).unwrap();
    let validity = policy().profile.clamped(lifetime, now, signer.not_after()).unwrap();
    let (public, serial) = (key.public_key().unwrap(), Serial::draw(entropy().as_ref(), now).unwrap());
    certify_intermediate(&policy().trust_domain, parent, &signer, ("for somebody else", &public), serial, validity).unwrap().certificate
}

pub(crate) fn entropy() -> std::sync::Arc<dyn Entropy> {
    SystemEntropy::shared()
}

fn root_key() -> &'static IssuerKey {
    static KEY: std::sync::OnceLock<IssuerKey> = std::sync::OnceLock::new();
    KEY.get_or_init(|| IssuerKey::generate(KeyAlgorithm::P256).unwrap())
}
