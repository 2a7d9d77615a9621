//! What the store no longer has of the state that this process works with. Its keys are in memory until it ends, so all goes on, and the next start is
//! the one that fails: whoever looks must hear of it before.

use super::parts::{Duty, KeeperError, KeeperParts};
use crate::authority::{AuthorityState, Role};
use crate::stores::StoreError;

/// One part of a stored state that isn't there, or can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Which.
    pub part: Part,
    /// What the store says of it.
    pub reason: String,
}

/// The parts of a stored state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The document.
    Document,
    /// A key that signs leaves.
    IssuingKey,
    /// A key that signs issuing authorities.
    ParentKey,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Document, Self::IssuingKey, Self::ParentKey];

    /// Its name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Document => "document",
            Self::IssuingKey => "issuing_key",
            Self::ParentKey => "parent_key",
        }
    }
}

/// Holds what this replica knows against what is in the store. Who may not read a parent's key doesn't look for it.
///
/// # Errors
/// [`KeeperError`] where the store can't say.
pub(super) async fn look(parts: &KeeperParts, known: &AuthorityState) -> Result<Vec<Missing>, KeeperError> {
    let mut missing = Vec::new();
    // A key goes only after the document stopped to name it, so what counts is what the document says now.
    let stored = match parts.store.load().await {
        Ok(stored) => stored.map(|(stored, _)| stored),
        Err(error @ StoreError::State(_)) => {
            missing.push(Missing { part: Part::Document, reason: error.to_string() });
            None
        }
        Err(error) => return Err(error.into()),
    };
    if stored.is_none() && missing.is_empty() {
        missing.push(Missing { part: Part::Document, reason: "the state is gone from the store".to_owned() });
    }
    for authority in &stored.as_ref().unwrap_or(known).authorities {
        let part = if matches!(authority.role, Role::Issuing(_)) { Part::IssuingKey } else { Part::ParentKey };
        if part == Part::ParentKey && parts.duty == Duty::Follow {
            continue;
        }
        let Some(key) = &authority.key else { continue };
        match parts.store.key(key).await {
            Ok(_) => {}
            Err(error @ (StoreError::KeyMissing(_) | StoreError::KeyUnusable { .. })) => missing.push(Missing { part, reason: error.to_string() }),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(missing)
}
