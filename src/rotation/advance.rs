//! Doing what is due. Every step is stored by compare-and-swap before the next one is looked at, so a crash anywhere is a re-run, and of two replicas
//! that do the same at the same time one loses and reads again.

use std::time::Duration;

use rcgen::CertificateParams;
use time::OffsetDateTime;

use super::IssuingRequest;
use super::parts::{Duty, KeeperError, KeeperParts};
use crate::authority::rotation::{Facts, Step, late_reservation, step};
use crate::authority::{Authority, AuthorityState, GenerationError, Role, certify_issuing, issuing_name};
use crate::clock::random_id;
use crate::pki::{IssuerKey, Signer, certificates_from_pem};
use crate::stores::Version;

/// How long every replica has to take a new generation before the one before it is closed: many looks at the document, and a new leader in between.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(10);
/// The pause between two looks at what the others wrote.
pub(super) const FOLLOW_PAUSE: Duration = Duration::from_secs(1);

pub(super) fn facts(parts: &KeeperParts) -> Facts {
    let followed = if parts.store.is_shared() { FOLLOWED_WITHIN } else { Duration::ZERO };
    Facts { upstream: parts.upstream.is_some(), longest_request: parts.longest_request + followed }
}

/// Does what this replica has to do: everything that is due where it leads, what the leader is late with where it doesn't. Returns when to look again.
///
/// # Errors
/// [`KeeperError`]; a conflict of the store says that the document changed: read it again.
pub(super) async fn advance(parts: &KeeperParts, held: &mut (AuthorityState, Version)) -> Result<OffsetDateTime, KeeperError> {
    if parts.leads() {
        return lead(parts, held).await;
    }
    let now = parts.clock.now();
    if parts.duty == Duty::Keep
        && let Some((root, until)) = late_reservation(&held.0, &parts.policy, now)
    {
        let next = held.0.clone().with_reservation(root, until);
        held.1 = parts.store.swap(Some(&held.1), &next).await?;
        held.0 = next;
    }
    Ok(now + FOLLOW_PAUSE)
}

/// Steps until nothing is due; returns when to look again. One that leads no longer meanwhile loses the next swap.
async fn lead(parts: &KeeperParts, held: &mut (AuthorityState, Version)) -> Result<OffsetDateTime, KeeperError> {
    let facts = facts(parts);
    loop {
        let now = parts.clock.now();
        let state = held.0.clone();
        let next = match step(&state, facts, &parts.policy, now) {
            Step::Wait(until) => return Ok(until),
            Step::Reserve { root, until } => state.with_reservation(root, until),
            Step::RenewIssuing { .. } => renew_issuing(parts, state, now).await?,
            Step::Close(generation) => {
                parts.ledger.close_generation(generation, now).await?;
                let closed = state.authorities.iter().find(|authority| authority.role == Role::Issuing(generation));
                let key = closed.and_then(|authority| authority.key.clone());
                let next = state.with_closed(generation, now);
                held.1 = parts.store.swap(Some(&held.1), &next).await?;
                held.0 = next;
                if let Some(key) = key {
                    parts.store.destroy_key(&key).await?;
                }
                tracing::info!(generation = generation.0, "closed; its key is destroyed");
                continue;
            }
        };
        let next = with_high_water(parts, next).await;
        held.1 = parts.store.swap(Some(&held.1), &next).await?;
        held.0 = next;
    }
}

/// The state with the ledger's present count, where it can be asked: what is written anyway carries it along.
pub(super) async fn with_high_water(parts: &KeeperParts, mut state: AuthorityState) -> AuthorityState {
    if let (Some(mark), Ok(high_water)) = (&mut state.ledger, parts.ledger.high_water().await)
        && mark.id == parts.ledger.id()
    {
        mark.high_water = mark.high_water.max(high_water);
    }
    state
}

/// Makes an issuing key and has it certified. The key is stored before any state refers to it.
async fn renew_issuing(parts: &KeeperParts, state: AuthorityState, now: OffsetDateTime) -> Result<AuthorityState, KeeperError> {
    let generation = state.next_generation();
    let key = IssuerKey::generate(parts.policy.key_algorithm)?;
    let common_name = issuing_name(generation, parts.entropy.as_ref())?;
    let request = IssuingRequest { csr_pem: request_pem(&key)?, common_name, lifetime: parts.policy.issuing_lifetime };
    let certified = match &parts.upstream {
        Some(upstream) => upstream.certify(&request).await?,
        None => {
            let parent = crate::authority::rotation::parent(&state).ok_or(KeeperError::NoParent)?;
            let signer = signer_of(parts, parent).await?;
            certify_issuing(&parts.policy, parent, &signer, &request.csr_pem, &request.common_name, now, parts.entropy.as_ref())?
        }
    };
    let name = format!("issuing-{generation}-{}", random_id(parts.entropy.as_ref(), 4)?);
    let reference = parts.store.put_key(&name, &key).await?;
    Ok(state.with_issuing(certified, reference, now))
}

pub(super) async fn signer_of(parts: &KeeperParts, authority: &Authority) -> Result<Signer, KeeperError> {
    let reference = authority.key.as_ref().ok_or(KeeperError::NoParent)?;
    let key = parts.store.key(reference).await?;
    let certificates = certificates_from_pem(&authority.certificate).map_err(GenerationError::Certificate)?;
    let der = certificates.first().ok_or(KeeperError::NoParent)?;
    Signer::new(der, key).map_err(|error| KeeperError::Signer(authority.id.clone(), error))
}

fn request_pem(key: &IssuerKey) -> Result<String, KeeperError> {
    let request = CertificateParams::default().serialize_request(key.pair()).map_err(|error| KeeperError::Request(error.to_string()))?;
    pem_rfc7468::encode_string("CERTIFICATE REQUEST", pem_rfc7468::LineEnding::LF, request.der())
        .map_err(|error| KeeperError::Request(error.to_string()))
}
