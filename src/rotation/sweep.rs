//! Keys that nothing refers to, in a store that several replicas write: a crash between writing a key and the document that names it leaves one.
//!
//! Another replica may be about to name what looks like such a key, so it is only destroyed after it was seen for a while, and only after a change
//! of the document: whoever wrote that key had read an older version of the document, so can no longer write one that names it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::parts::{KeeperError, KeeperParts};
use crate::authority::{AuthorityState, KeyRef};
use crate::stores::{StoreError, Version};

/// How long a key must have been seen with nothing that refers to it.
const AGE: Duration = Duration::from_secs(300);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_secs(60);

/// What was seen of such keys, on the monotonic clock. It begins anew with each leader.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    looked: Option<Duration>,
    since: BTreeMap<KeyRef, Duration>,
}

impl Sweep {
    /// Forgets what was seen: this replica doesn't lead.
    pub(super) fn rest(&mut self) {
        *self = Self::default();
    }

    /// Looks from time to time, and destroys what has been referred to by nothing for long.
    ///
    /// # Errors
    /// [`KeeperError`]; a second try is safe.
    pub(super) async fn look(&mut self, parts: &KeeperParts, held: &mut (AuthorityState, Version)) -> Result<(), KeeperError> {
        let now = parts.clock.monotonic();
        if self.looked.is_some_and(|at| now.saturating_sub(at) < PAUSE) {
            return Ok(());
        }
        self.looked = Some(now);
        let keys = parts.store.keys().await?;
        let (current, version) = parts.store.load().await?.ok_or(StoreError::Conflict)?;
        let unnamed = |state: &AuthorityState, key: &KeyRef| !state.authorities.iter().any(|authority| authority.key.as_ref() == Some(key));
        self.since.retain(|key, _| keys.contains(key));
        for key in keys {
            match unnamed(&current, &key) {
                true => _ = self.since.entry(key).or_insert(now),
                false => _ = self.since.remove(&key),
            }
        }
        let due: Vec<_> = self.since.iter().filter(|(_, since)| now.saturating_sub(**since) >= AGE).map(|(key, _)| key.clone()).collect();
        *held = (current, version);
        if due.is_empty() {
            return Ok(());
        }
        // From here on nobody can name them: whatever was decided before this version is a conflict.
        let next = held.0.clone().remember(parts.clock.now(), format!("destroys keys that nothing refers to: {}", names(&due)));
        held.1 = parts.store.swap(Some(&held.1), &next).await?;
        held.0 = next;
        for key in due {
            parts.store.destroy_key(&key).await?;
            tracing::info!(key = key.0, "destroyed a key that nothing refers to");
            self.since.remove(&key);
        }
        Ok(())
    }
}

fn names(keys: &[KeyRef]) -> String {
    keys.iter().map(|key| key.0.as_str()).collect::<Vec<_>>().join(", ")
}
