//! Where the authority state and the keys live. One trait: the document is replaced whole by compare-and-swap, keys are written once.

pub mod file;
mod key_names;
pub mod secrets;

use std::fmt::Debug;

use async_trait::async_trait;

use crate::authority::{AuthorityState, KeyRef};
use crate::pki::IssuerKey;

/// Which version of the document was read: opaque, equal only to itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(pub String);

/// A place for the authority state and the keys. A crash at any instruction leaves the old document or the new one.
#[async_trait]
pub trait StateStore: Send + Sync + Debug {
    /// Whether other processes may work on the same state at the same time.
    fn is_shared(&self) -> bool {
        false
    }

    /// The document and its version; `None` where there is none yet.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn load(&self) -> Result<Option<(AuthorityState, Version)>, StoreError>;

    /// Which version there is now: where that is known already, the document need not be read again.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn version(&self) -> Result<Option<Version>, StoreError> {
        Ok(self.load().await?.map(|(_, version)| version))
    }

    /// Writes the document if it is still at `expected` (`None`: if there is none yet), durably.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where somebody else was faster: read again and decide anew.
    async fn swap(&self, expected: Option<&Version>, state: &AuthorityState) -> Result<Version, StoreError>;

    /// Keeps a key under a name that must not exist yet, durably, before any document refers to it.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn put_key(&self, name: &str, key: &IssuerKey) -> Result<KeyRef, StoreError>;

    /// The key behind a reference.
    ///
    /// # Errors
    /// [`StoreError::KeyMissing`] where it is not there.
    async fn key(&self, reference: &KeyRef) -> Result<IssuerKey, StoreError>;

    /// Every key that is there, also those that no document refers to (a crash between writing a key and the document leaves one).
    ///
    /// # Errors
    /// [`StoreError`].
    async fn keys(&self) -> Result<Vec<KeyRef>, StoreError>;

    /// Forgets a key; one that is not there is no error.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn destroy_key(&self, reference: &KeyRef) -> Result<(), StoreError>;
}

/// What a store could not do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The document changed since it was read.
    #[error("the authority state was changed by somebody else")]
    Conflict,
    /// The document can't be taken.
    #[error(transparent)]
    State(#[from] crate::authority::StateError),
    /// A key that the document names is not there.
    #[error("the key {0} is missing from the store: restore it from your backup")]
    KeyMissing(String),
    /// A key is there but can't be used.
    #[error("the key {name} can't be used: {reason}")]
    KeyUnusable {
        /// Its reference.
        name: String,
        /// Why.
        reason: String,
    },
    /// Somebody else could read or change what is kept there.
    #[error("{path} is not a safe place for keys: {reason}")]
    Unsafe {
        /// The folder or file.
        path: String,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// Another process has the store open.
    #[error("another meshmint is using {0}; stop it first, or give this one a folder of its own")]
    Locked(String),
    /// The place doesn't answer now; the same question may be answered the next time.
    #[error("{place} can't be reached: {reason}")]
    Away {
        /// What was asked.
        place: String,
        /// Why there was no answer.
        reason: String,
    },
    /// The place answered that it won't, or with something that can't be used.
    #[error("{place} can't be used: {reason}")]
    Refused {
        /// What was asked.
        place: String,
        /// What it said.
        reason: String,
    },
    /// The document doesn't fit into its place.
    #[error("{place} would hold {bytes} bytes, and {most} are the most: remove what is no longer trusted")]
    TooLarge {
        /// Where it should go.
        place: String,
        /// Its size.
        bytes: usize,
        /// The most that fit.
        most: usize,
    },
    /// The place itself failed.
    #[error("{path}: {reason}")]
    Io {
        /// The file or folder.
        path: String,
        /// The system's words.
        reason: String,
    },
}
