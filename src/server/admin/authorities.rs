//! From authorities and roots to the messages of the admin API.

use super::super::operations::{ShownAuthority, Standing};
use super::super::proto::admin::{Authority as Message, Origin as OriginMessage, Phase as PhaseMessage, Role as RoleMessage};
use super::messages::timestamp;
use crate::authority::{Origin, Phase, Role};

/// With its certificate.
pub(super) fn whole(authority: &ShownAuthority) -> Message {
    Message { pem: authority.pem.clone(), upstream_chain: authority.upstream_chain.clone(), ..in_a_list(authority) }
}

/// Without.
pub(super) fn in_a_list(authority: &ShownAuthority) -> Message {
    let certificate = &authority.certificate;
    let message = Message {
        id: authority.id.to_string(),
        root: authority.root.to_string(),
        trusted: authority.trusted,
        subject: certificate.subject.clone(),
        serial: certificate.serial.clone(),
        sha256: certificate.sha256.clone(),
        key: match certificate.public_key.bits {
            Some(bits) if certificate.public_key.algorithm == "RSA" => format!("RSA {bits}"),
            _ => certificate.public_key.algorithm.clone(),
        },
        not_before: Some(timestamp(certificate.not_before)),
        not_after: Some(timestamp(certificate.not_after)),
        ..Message::default()
    };
    match &authority.standing {
        Standing::Foreign => {
            Message { role: RoleMessage::Root.into(), phase: PhaseMessage::Trusted.into(), origin: OriginMessage::Foreign.into(), ..message }
        }
        Standing::Own { role, phase, origin, parent, has_key, since } => {
            let (role, generation) = match role {
                Role::Root => (RoleMessage::Root, 0),
                Role::Intermediate => (RoleMessage::Intermediate, 0),
                Role::Issuing(generation) => (RoleMessage::Issuing, generation.0),
            };
            Message {
                role: role.into(),
                generation,
                phase: phase_message(*phase).into(),
                origin: origin_message(*origin).into(),
                parent: parent.as_ref().map(ToString::to_string).unwrap_or_default(),
                has_key: *has_key,
                since: Some(timestamp(*since)),
                ..message
            }
        }
    }
}

fn phase_message(phase: Phase) -> PhaseMessage {
    match phase {
        Phase::Published => PhaseMessage::Published,
        Phase::Active => PhaseMessage::Active,
        Phase::Retiring => PhaseMessage::Retiring,
        Phase::Distrusted => PhaseMessage::Distrusted,
    }
}

fn origin_message(origin: Origin) -> OriginMessage {
    match origin {
        Origin::Generated => OriginMessage::Generated,
        Origin::Imported => OriginMessage::Imported,
        Origin::Upstream => OriginMessage::Upstream,
    }
}
