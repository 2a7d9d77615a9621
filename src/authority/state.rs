//! The authority state: one small document that is the truth about what signs and what is trusted.
//!
//! It holds no key, only references to keys. Stores replace it whole, by compare-and-swap (`stores::StateStore`), so every
//! change is one step from a valid document to a valid document.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::spiffe::TrustDomain;

/// The name of an authority: the lower-hex SHA-256 of its certificate's DER, cut to 32 digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AuthorityId(String);

impl AuthorityId {
    /// The name of the authority with this certificate.
    pub fn of_certificate(der: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, der);
        Self(hex::encode(digest.as_ref().get(..16).unwrap_or_default()))
    }

    /// As it stands in a store, a ledger or a request.
    pub fn from_text(text: String) -> Self {
        Self(text)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AuthorityId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Counts the issuing keys of one trust domain, from 1. It never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GenerationNumber(pub u64);

impl fmt::Display for GenerationNumber {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Where a key is: `file:NAME` in the file store, `secret:NAME` in the Secrets store, later `pkcs11:URI`. Never the key itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyRef(pub String);

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorityState {
    /// The version of this format: 1.
    pub format: u32,
    /// The trust domain; one state serves one.
    pub trust_domain: TrustDomain,
    /// Which mode made it: `serve` refuses what `dev` made, because its token issuer is for anybody.
    pub made_by: MadeBy,
    /// Every authority whose key we hold or held.
    pub authorities: Vec<Authority>,
    /// The trust bundle, in order.
    pub trust: Vec<TrustEntry>,
    /// Number of the bundle; grows with every change of `trust` and never goes back.
    pub bundle_number: u64,
    /// The rotation under way.
    pub rotation: Rotation,
    /// What happened, oldest first.
    pub history: Vec<HistoryEntry>,
    /// The ledger that records for this state, once there is one.
    pub ledger: Option<LedgerMark>,
    /// For each root the latest notAfter that anything below it was or may be granted, reserved ahead in coarse steps.
    #[serde(with = "timestamps")]
    pub reserved_not_after: BTreeMap<AuthorityId, OffsetDateTime>,
}

/// Which mode made a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MadeBy {
    /// `meshmint dev`.
    Dev,
    /// `meshmint serve`.
    Serve,
}

/// A certificate authority of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Authority {
    /// Its name.
    pub id: AuthorityId,
    /// What it does.
    pub role: Role,
    /// Its certificate, one PEM block that ends in a newline.
    pub certificate: String,
    /// The authority of ours that signed it; `None` for roots and for what somebody else signed.
    pub parent: Option<AuthorityId>,
    /// The certificates between it and its root, nearest first, each one PEM block: what somebody else signed (imported).
    #[serde(default)]
    pub upstream_chain: Vec<String>,
    /// The root that it chains to: an entry of `trust`.
    pub root: AuthorityId,
    /// Where its key is; `None` once the key was destroyed or where we never held it.
    pub key: Option<KeyRef>,
    /// Where it stands in its life.
    pub phase: Phase,
    /// Where it came from.
    pub origin: Origin,
    /// When it was made or imported.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
}

/// What an authority does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// Signs issuing intermediates.
    Root,
    /// Signs issuing intermediates below a root that somebody else holds.
    Intermediate,
    /// Signs leaves. Its generation number is the fence in the ledger.
    Issuing(GenerationNumber),
}

/// Where an authority stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Trusted, doesn't sign yet.
    Published,
    /// Signs.
    Active,
    /// Signs no more; what it signed is still good.
    Retiring,
    /// Nothing that it signed is accepted.
    Distrusted,
}

/// Where an authority came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// We made its key.
    Generated,
    /// An operator handed certificate and key over.
    Imported,
    /// An upstream issuer signed our request.
    Upstream,
}

/// One root of the trust bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrustEntry {
    /// The root's name.
    pub id: AuthorityId,
    /// One PEM block that ends in a newline.
    pub certificate: String,
    /// Whether its key was never ours. A foreign root never authenticates a caller to us.
    pub foreign: bool,
}

/// The rotation under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Rotation {
    /// None.
    Steady,
}

/// Something that happened to the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HistoryEntry {
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// What, in words for people.
    pub what: String,
}

/// The ledger that records for a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LedgerMark {
    /// The ledger's id.
    pub id: String,
    /// Since when it has recorded for this state.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// What the ledger's own count of writes was at least, when this was written: less than this later means that it was rolled back.
    #[serde(default)]
    pub high_water: u64,
    /// Records before this time are missing (the ledger was lost or replaced): gates wait for the reserved notAfter instead.
    #[serde(with = "time::serde::rfc3339::option", default, skip_serializing_if = "Option::is_none")]
    pub incomplete_before: Option<OffsetDateTime>,
    /// What was reserved at that time: everything whose record is missing has ended then.
    #[serde(with = "time::serde::rfc3339::option", default, skip_serializing_if = "Option::is_none")]
    pub incomplete_until: Option<OffsetDateTime>,
}

/// Why a document can't be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Not the JSON of this format.
    #[error("the authority state can't be read: {0}")]
    Malformed(String),
    /// Written by a newer meshmint.
    #[error("the authority state has format {0}; this meshmint knows format 1: start the newer version that wrote it")]
    TooNew(u32),
    /// Parts that contradict each other.
    #[error("the authority state contradicts itself: {0}")]
    Inconsistent(String),
}

impl AuthorityState {
    /// The format written here.
    pub const FORMAT: u32 = 1;

    /// Reads a document and checks that its parts fit together.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, StateError> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        // The parser's words may quote what it read; where it is, is enough.
        let malformed = |error: serde_json::Error| StateError::Malformed(format!("line {} column {}", error.line(), error.column()));
        let Format { format } = serde_json::from_slice(bytes).map_err(malformed)?;
        match format {
            Self::FORMAT => {}
            0 => return Err(StateError::Malformed("there is no format 0".to_owned())),
            newer => return Err(StateError::TooNew(newer)),
        }
        let state: Self = serde_json::from_slice(bytes).map_err(malformed)?;
        state.check()?;
        Ok(state)
    }

    /// The document's bytes.
    ///
    /// # Errors
    /// [`StateError::Malformed`] where a value can't be written (a time out of RFC 3339's range); [`StateError::Inconsistent`] as when
    /// it is read: what could not be read again is never written.
    pub fn to_json(&self) -> Result<Vec<u8>, StateError> {
        self.check()?;
        serde_json::to_vec_pretty(self).map_err(|error| StateError::Malformed(error.to_string()))
    }

    /// The authority of this name.
    pub fn authority(&self, id: &AuthorityId) -> Option<&Authority> {
        self.authorities.iter().find(|authority| authority.id == *id)
    }

    /// The issuing authority that signs now.
    pub fn issuing(&self) -> Option<(&Authority, GenerationNumber)> {
        self.authorities.iter().find_map(|authority| match (authority.role, authority.phase) {
            (Role::Issuing(generation), Phase::Active) => Some((authority, generation)),
            _ => None,
        })
    }

    /// The number for the next issuing key.
    pub fn next_generation(&self) -> GenerationNumber {
        let latest = self.authorities.iter().filter_map(|authority| match authority.role {
            Role::Issuing(GenerationNumber(number)) => Some(number),
            Role::Root | Role::Intermediate => None,
        });
        GenerationNumber(latest.max().unwrap_or(0) + 1)
    }

    /// The trust bundle: every root as PEM, one after the other, each ending in a newline.
    pub fn bundle_pem(&self) -> String {
        self.trust.iter().map(|entry| entry.certificate.as_str()).collect()
    }

    fn check(&self) -> Result<(), StateError> {
        let inconsistent = |what: String| Err(StateError::Inconsistent(what));
        if self.trust.is_empty() {
            return inconsistent("the trust bundle is empty".to_owned());
        }
        for authority in &self.authorities {
            let active = matches!(authority.phase, Phase::Active);
            if active && !self.trust.iter().any(|entry| entry.id == authority.root) {
                return inconsistent(format!("authority {} chains to root {}, which is not trusted", authority.id, authority.root));
            }
            if let Some(parent) = &authority.parent
                && self.authority(parent).is_none()
            {
                return inconsistent(format!("authority {} was signed by {parent}, which is not there", authority.id));
            }
        }
        Ok(())
    }
}

/// Times in a map, as RFC 3339.
mod timestamps {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use time::OffsetDateTime;

    use super::AuthorityId;

    #[derive(Serialize, Deserialize)]
    struct Timestamp(#[serde(with = "time::serde::rfc3339")] OffsetDateTime);

    pub(super) fn serialize<S: Serializer>(map: &BTreeMap<AuthorityId, OffsetDateTime>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(map.iter().map(|(id, at)| (id, Timestamp(*at))))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<AuthorityId, OffsetDateTime>, D::Error> {
        let map = BTreeMap::<AuthorityId, Timestamp>::deserialize(deserializer)?;
        Ok(map.into_iter().map(|(id, Timestamp(at))| (id, at)).collect())
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::authority::testing::{founded, with_first_issuing};

    const NOW: OffsetDateTime = datetime!(2026-11-23 12:00:00 UTC);

    #[test]
    fn a_document_reads_back_as_it_was_written() {
        let state = with_first_issuing(founded(NOW), NOW);
        let root = state.trust[0].id.clone();
        let mut state = state.with_reservation(root, NOW);
        state.ledger = Some(LedgerMark { id: "l".to_owned(), since: NOW, high_water: 7, incomplete_before: Some(NOW), incomplete_until: Some(NOW) });
        assert_eq!(AuthorityState::from_json(&state.to_json().unwrap()), Ok(state));
    }

    #[test]
    fn a_document_holds_no_key() {
        let text = String::from_utf8(with_first_issuing(founded(NOW), NOW).to_json().unwrap()).unwrap();
        assert!(text.contains("file:issuing-1") && !text.contains("PRIVATE"), "{text}");
    }

    #[test]
    fn what_can_not_be_taken_is_refused() {
        let good = with_first_issuing(founded(NOW), NOW);
        let json = |state: &AuthorityState| serde_json::to_vec(state).unwrap();
        assert!(matches!(AuthorityState::from_json(b"{"), Err(StateError::Malformed(_))));
        let newer = AuthorityState { format: 2, ..good.clone() };
        assert_eq!(AuthorityState::from_json(&json(&newer)), Err(StateError::TooNew(2)));
        let unknown = String::from_utf8(json(&good)).unwrap().replacen("\"format\"", "\"surprise\":1,\"format\"", 1);
        assert!(matches!(AuthorityState::from_json(unknown.as_bytes()), Err(StateError::Malformed(_))));
        let no_trust = AuthorityState { trust: Vec::new(), ..good.clone() };
        assert!(matches!(AuthorityState::from_json(&json(&no_trust)), Err(StateError::Inconsistent(_))));
        assert!(matches!(no_trust.to_json(), Err(StateError::Inconsistent(_))), "nor is it ever written");
        let mut orphan = good.clone();
        orphan.authorities.remove(0);
        assert!(matches!(AuthorityState::from_json(&json(&orphan)), Err(StateError::Inconsistent(_))));
        let mut untrusted = good;
        untrusted.authorities[1].root = AuthorityId::from_text("other".to_owned());
        assert!(matches!(AuthorityState::from_json(&json(&untrusted)), Err(StateError::Inconsistent(_))));
    }
}
