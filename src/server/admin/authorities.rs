//! The authorities and roots of the state as the admin API shows them.

use std::collections::BTreeMap;

use time::OffsetDateTime;
use tonic::Status;

use super::super::proto::admin::{Authority as Message, Origin as OriginMessage, Phase as PhaseMessage, Role as RoleMessage};
use super::messages::timestamp;
use crate::authority::{Authority, AuthorityId, AuthorityState, Origin, Phase, Role, TrustEntry};
use crate::pki::certificates_from_pem;
use crate::pki::inspect::{CertificateReport, inspect_chain};

/// The fewest digits of an id that stand for it.
const FEWEST_DIGITS: usize = 4;

/// All of them: ours in the order of the state, then foreign roots in that of the bundle.
pub(super) fn all(state: &AuthorityState, now: OffsetDateTime) -> Result<Vec<Message>, Status> {
    let trusted = |id: &AuthorityId| state.trust.iter().any(|entry| entry.id == *id);
    let own = state.authorities.iter().map(|authority| own(authority, trusted(&authority.id), now));
    let foreign = state.trust.iter().filter(|entry| state.authority(&entry.id).is_none()).map(|entry| foreign(entry, now));
    own.chain(foreign).collect()
}

/// The one whose id is, or begins with, `id`; with its certificate.
///
/// # Errors
/// NOT_FOUND; INVALID_ARGUMENT where it is no id, or fits several.
pub(super) fn one(state: &AuthorityState, id: &str, now: OffsetDateTime) -> Result<Message, Status> {
    let id = id.trim().to_ascii_lowercase();
    if id.len() < FEWEST_DIGITS || !id.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(Status::invalid_argument(format!("an authority's id is hexadecimal; at least its first {FEWEST_DIGITS} digits must be given")));
    }
    let certificates = state.trust.iter().map(|entry| (&entry.id, (&entry.certificate, [].as_slice())));
    let own = state.authorities.iter().map(|authority| (&authority.id, (&authority.certificate, authority.upstream_chain.as_slice())));
    let fitting: BTreeMap<_, _> = certificates.chain(own).filter(|(each, _)| each.as_str().starts_with(&id)).collect();
    let mut fitting = fitting.into_iter();
    match (fitting.next(), fitting.next()) {
        (None, _) => Err(Status::not_found(format!("there is no authority {id}"))),
        (Some(_), Some(_)) => Err(Status::invalid_argument(format!("several authorities begin with {id}: give more digits"))),
        (Some((found, (pem, chain))), None) => {
            let shown = all(state, now)?.into_iter().find(|each| each.id == found.as_str());
            let shown = shown.ok_or_else(|| Status::internal("it is in the state, but not listed"))?;
            Ok(Message { pem: pem.clone(), upstream_chain: chain.to_vec(), ..shown })
        }
    }
}

fn own(authority: &Authority, trusted: bool, now: OffsetDateTime) -> Result<Message, Status> {
    let (role, generation) = match authority.role {
        Role::Root => (RoleMessage::Root, 0),
        Role::Intermediate => (RoleMessage::Intermediate, 0),
        Role::Issuing(generation) => (RoleMessage::Issuing, generation.0),
    };
    let phase = match authority.phase {
        Phase::Published => PhaseMessage::Published,
        Phase::Active => PhaseMessage::Active,
        Phase::Retiring => PhaseMessage::Retiring,
        Phase::Distrusted => PhaseMessage::Distrusted,
    };
    let origin = match authority.origin {
        Origin::Generated => OriginMessage::Generated,
        Origin::Imported => OriginMessage::Imported,
        Origin::Upstream => OriginMessage::Upstream,
    };
    Ok(Message {
        role: role.into(),
        generation,
        phase: phase.into(),
        origin: origin.into(),
        parent: authority.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
        root: authority.root.to_string(),
        trusted,
        has_key: authority.key.is_some(),
        since: Some(timestamp(authority.since)),
        ..certificate(&authority.id, &authority.certificate, now)?
    })
}

fn foreign(entry: &TrustEntry, now: OffsetDateTime) -> Result<Message, Status> {
    Ok(Message {
        role: RoleMessage::Root.into(),
        phase: PhaseMessage::Trusted.into(),
        origin: OriginMessage::Foreign.into(),
        root: entry.id.to_string(),
        trusted: true,
        ..certificate(&entry.id, &entry.certificate, now)?
    })
}

/// What the certificate says.
fn certificate(id: &AuthorityId, pem: &str, now: OffsetDateTime) -> Result<Message, Status> {
    let unreadable = || Status::internal(format!("the certificate of authority {id} can't be read"));
    let ders = certificates_from_pem(pem).map_err(|_| unreadable())?;
    let report = inspect_chain(&ders, None, now);
    let CertificateReport { subject, serial, sha256, public_key, not_before, not_after, .. } = report.certificates.first().ok_or_else(unreadable)?;
    Ok(Message {
        id: id.to_string(),
        subject: subject.clone(),
        serial: serial.clone(),
        sha256: sha256.clone(),
        key: match public_key.bits {
            Some(bits) if public_key.algorithm == "RSA" => format!("RSA {bits}"),
            _ => public_key.algorithm.clone(),
        },
        not_before: Some(timestamp(*not_before)),
        not_after: Some(timestamp(*not_after)),
        ..Message::default()
    })
}
