//! What the fuzz targets share: one world with fixed times, rules and certificates, so that an input means the same on every machine.
//!
//! Its parts are seeds of the targets that read them. `cargo run --example seeds` makes all seeds anew; no private key of them is kept but
//! those that the `import` target needs as input.

use std::collections::BTreeSet;
use std::time::Duration;

use meshmint::authority::{AuthorityPolicy, AuthorityState};
use meshmint::callers::TokenRules;
use meshmint::pki::{KeyAlgorithm, Profile};
use meshmint::spiffe::TrustDomain;
use time::OffsetDateTime;
use time::macros::datetime;

/// The instant at which every target runs.
pub const NOW: OffsetDateTime = datetime!(2026-11-24 00:00 UTC);

/// The issuer of the tokens that are accepted.
pub const ISSUER: &str = "https://issuer.example";

/// The audience of the tokens that are accepted.
pub const AUDIENCE: &str = "istio-ca";

/// Our trust domain.
pub fn trust_domain() -> TrustDomain {
    "cluster.local".parse().expect("a valid name")
}

/// Rules as a server has them: 30 s of skew, a day for unbound tokens.
pub fn token_rules() -> TokenRules {
    let issuers = [(ISSUER.to_owned(), "Kubernetes".to_owned())].into();
    let audiences = BTreeSet::from([AUDIENCE.to_owned()]);
    TokenRules::new(trust_domain(), issuers, audiences, Duration::from_secs(30), Duration::from_secs(86_400)).expect("sane rules")
}

/// What an operator decided.
pub fn policy() -> AuthorityPolicy {
    let days = |days: u64| Duration::from_secs(days * 86_400);
    AuthorityPolicy {
        trust_domain: trust_domain(),
        key_algorithm: KeyAlgorithm::P256,
        root_lifetime: days(3650),
        issuing_lifetime: days(30),
        longest_leaf: days(1),
        profile: Profile { default_lifetime: days(1), max_lifetime: days(1), backdate: Duration::from_secs(120), jitter: 0.1 },
    }
}

/// A state with a root and an issuing authority that are valid at [`NOW`].
pub fn state() -> AuthorityState {
    AuthorityState::from_json(include_bytes!("../seeds/state/good")).expect("the fixture is a state")
}

/// A leaf below the issuing authority of [`state`].
pub const LEAF: &[u8] = include_bytes!("../seeds/client_certificate/leaf");

/// The key set that [`TOKEN`] verifies with.
pub const JWKS: &[u8] = include_bytes!("../seeds/jwks/good");

/// A token that [`token_rules`] accept at [`NOW`].
pub const TOKEN: &str = include_str!("../seeds/token/good");
