//! Who may ask: decisions over facts that are handed in. Nothing here fetches anything.
//!
//! The way of a token: [`UnverifiedToken::parse`], then its issuer's key by `kid` (from `cluster::key_sets`), then
//! [`UnverifiedToken::verify`], then [`TokenRules::check`]; [`decide`] weighs the outcome against a client certificate.

mod caller;
mod claims;
mod impersonation;
mod jws;
mod key_set;
mod strict_json;
mod token;
mod token_rules;
mod verification_key;

pub use caller::{AcceptedCertificate, AuthenticationError, Caller, CertificateRejection, CertificateStanding, Credential, TokenStanding, decide};
pub use claims::Claims;
pub use impersonation::{Denial, NodeFacts, PodFact, ServiceAccountName, ServiceAccountNameError, may_speak_for};
pub use jws::{AccountHint, UnverifiedToken, VerifiedClaims};
pub use key_set::{FaultyKey, KeyFault, KeySet, KeySetError};
pub use strict_json::{Json, Members, NotStrictJson, strict_object};
pub use token::{ObjectRef, TokenError, TokenIdentity};
pub use token_rules::{RulesError, TokenRules};
pub use verification_key::{Algorithm, VerificationKey};
