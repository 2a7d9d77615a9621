//! How authorities come to be: a root, an issuing intermediate below it, and the first state document.

use std::collections::BTreeMap;
use std::time::Duration;

use time::OffsetDateTime;

use super::{Authority, AuthorityId, AuthorityState, GenerationNumber, HistoryEntry, KeyRef, MadeBy, Origin, Phase, Role, Rotation, TrustEntry};
use crate::clock::{Entropy, NoEntropy, random_id};
use crate::pki::{
    CheckedKey, CsrError, IssuedBy, IssuerKey, KeyAlgorithm, PrepareError, Profile, PublicKeyError, Serial, Signer, Subject, TooLittleLeft, Validity,
    certificate_to_pem, check_csr, prepare,
};
use crate::spiffe::TrustDomain;

/// What an operator decides about authorities.
#[derive(Debug, Clone, PartialEq)]
pub struct AuthorityPolicy {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The keys that we make.
    pub key_algorithm: KeyAlgorithm,
    /// How long a root lives.
    pub root_lifetime: Duration,
    /// How long an issuing key lives; it is renewed long before its end.
    pub issuing_lifetime: Duration,
    /// The longest lifetime of anything that an issuing key signs.
    pub longest_leaf: Duration,
    /// How leaves are made; its backdate counts for authorities too.
    pub profile: Profile,
}

/// Why an authority could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BirthError {
    /// No random bytes.
    #[error(transparent)]
    Entropy(#[from] NoEntropy),
    /// Not to be signed.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// The parent ends too soon.
    #[error(transparent)]
    TooLittleLeft(#[from] TooLittleLeft),
    /// A key that can't be certified.
    #[error("the authority's key can't be certified: {0}")]
    Key(#[from] PublicKeyError),
    /// A request that can't be accepted.
    #[error("the authority's request can't be accepted: {0}")]
    Csr(#[from] CsrError),
}

/// What came back for an issuing key: from our own root, or from an upstream issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certified {
    /// The issuing certificate, DER.
    pub certificate: Vec<u8>,
    /// The authority of ours that signed, if it was one.
    pub parent: Option<AuthorityId>,
    /// The certificates between it and the root, nearest first, PEM.
    pub upstream_chain: Vec<String>,
    /// The root that it chains to.
    pub root: AuthorityId,
    /// Where it came from.
    pub origin: Origin,
}

/// Makes a self-signed root for `key`.
///
/// # Errors
/// [`BirthError`].
pub fn make_root(
    policy: &AuthorityPolicy,
    key: &IssuerKey,
    reference: KeyRef,
    now: OffsetDateTime,
    entropy: &dyn Entropy,
) -> Result<Authority, BirthError> {
    let name = format!("meshmint root {}", random_id(entropy, 4)?);
    let public_key = key.public_key()?;
    let subject = Subject::Root { trust_domain: &policy.trust_domain, name: &name, key: &public_key };
    let validity = policy.profile.clamped(policy.root_lifetime, now, now + policy.root_lifetime)?;
    let issuer = IssuedBy::Itself(key);
    let certificate = prepare(&subject, Serial::draw(entropy, now)?, validity, issuer)?.sign()?;
    let id = AuthorityId::of_certificate(&certificate);
    Ok(Authority {
        root: id.clone(),
        id,
        role: Role::Root,
        certificate: certificate_to_pem(&certificate),
        parent: None,
        upstream_chain: Vec::new(),
        key: Some(reference),
        phase: Phase::Active,
        origin: Origin::Generated,
        since: now,
    })
}

/// A common name for the issuing certificate of `generation` that was never used before.
///
/// # Errors
/// [`NoEntropy`].
pub fn issuing_name(generation: GenerationNumber, entropy: &dyn Entropy) -> Result<String, NoEntropy> {
    Ok(format!("meshmint issuing {generation} {}", random_id(entropy, 4)?))
}

/// Signs an issuing intermediate below an authority of ours, from the same kind of request that would go to an upstream issuer.
///
/// # Errors
/// [`BirthError`].
pub fn certify_issuing(
    policy: &AuthorityPolicy,
    parent: &Authority,
    signer: &Signer,
    csr_pem: &str,
    name: &str,
    now: OffsetDateTime,
    entropy: &dyn Entropy,
) -> Result<Certified, BirthError> {
    let key = check_csr(csr_pem)?;
    let validity = policy.profile.clamped(policy.issuing_lifetime, now, signer.not_after())?;
    certify_intermediate(&policy.trust_domain, parent, signer, (name, &key), Serial::draw(entropy, now)?, validity)
}

/// Signs an intermediate of this name and key below an authority of ours; it may sign leaves and nothing else.
///
/// # Errors
/// [`BirthError`].
pub fn certify_intermediate(
    trust_domain: &TrustDomain,
    parent: &Authority,
    signer: &Signer,
    (name, key): (&str, &CheckedKey),
    serial: Serial,
    validity: Validity,
) -> Result<Certified, BirthError> {
    let subject = Subject::Issuing { trust_domain, name, key };
    let issuer = IssuedBy::Signer(signer);
    let certificate = prepare(&subject, serial, validity, issuer)?.sign()?;
    let mut upstream_chain = Vec::new();
    if parent.role != Role::Root {
        upstream_chain.push(parent.certificate.clone());
        upstream_chain.extend(parent.upstream_chain.iter().cloned());
    }
    Ok(Certified {
        certificate: certificate.to_vec(),
        parent: Some(parent.id.clone()),
        upstream_chain,
        root: parent.root.clone(),
        origin: Origin::Generated,
    })
}

/// The first document of a trust domain: `authorities` (without an issuing one yet, unless one was imported) and the roots that are trusted.
pub fn first_state(
    policy: &AuthorityPolicy,
    made_by: MadeBy,
    authorities: Vec<Authority>,
    trust: Vec<TrustEntry>,
    now: OffsetDateTime,
    what: String,
) -> AuthorityState {
    AuthorityState {
        format: AuthorityState::FORMAT,
        trust_domain: policy.trust_domain.clone(),
        made_by,
        authorities,
        trust,
        bundle_number: 1,
        rotation: Rotation::Steady,
        history: vec![HistoryEntry { at: now, what }],
        ledger: None,
        reserved_not_after: BTreeMap::new(),
    }
}
