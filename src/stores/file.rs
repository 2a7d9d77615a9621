//! The file store: the authority state and its keys in one folder of one machine, for `dev` and for `serve` with one replica.
//!
//! ```text
//! DIR/authority.json   the document, replaced whole            DIR/lock   held for as long as the store is open
//! DIR/keys/NAME.pem    one key each, PKCS#8, written once, 0600
//! ```
//! Where DIR itself is not ours alone, all this lies in DIR/state (`place::choose`). Every file is written under another name, synced and
//! renamed, and its folder synced: a crash leaves the old file or the new one. What others could read or change is refused at open
//! and again at each read. File systems must know hard links and `flock`; network file systems without them are refused by failing.

mod place;

use std::fmt;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use self::place::DOCUMENT;
use super::key_names::name_of;
use super::{StateStore, StoreError, Version};
use crate::authority::{AuthorityState, KeyRef};
use crate::pki::IssuerKey;

/// The folder with the keys, below the store's.
const KEYS: &str = "keys";
/// What a reference to a key in this store begins with.
const SCHEME: &str = "file:";

/// An open file store. Cheap to clone; the lock is held until the last clone is dropped.
#[derive(Debug, Clone)]
pub struct FileStore(Arc<Opened>);

struct Opened {
    folder: PathBuf,
    /// One writer at a time in this process; the file lock keeps other processes out.
    writing: Mutex<()>,
    _lock: File,
}

impl FileStore {
    /// Opens the store in `dir`, which is made where there is none. Blocks for a few file operations.
    ///
    /// # Errors
    /// [`StoreError::Locked`] where another process (or this one) has it open, [`StoreError::Unsafe`] where others could read or change
    /// what is kept there, [`StoreError::Io`].
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let folder = place::choose(dir)?;
        let path = folder.join("lock");
        let lock = place::lock_file(&path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::Locked(folder.display().to_string())),
            Err(TryLockError::Error(error)) => return Err(place::failed(&path, &error)),
        }
        let keys = folder.join(KEYS);
        place::private_folder(&keys)?;
        place::sweep(&folder)?;
        place::sweep(&keys)?;
        place::check_document(&folder.join(DOCUMENT))?;
        for name in place::names(&keys)? {
            place::check_secret(&keys.join(name))?;
        }
        Ok(Self(Arc::new(Opened { folder, writing: Mutex::new(()), _lock: lock })))
    }

    /// The folder that the store works in: the one given to [`FileStore::open`], or `state` inside it.
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// Whether folders, document and keys are still ours alone.
    ///
    /// # Errors
    /// [`StoreError::Unsafe`], [`StoreError::Io`].
    pub async fn check_place(&self) -> Result<(), StoreError> {
        self.blocking(|opened| {
            place::check_private_folder(&opened.folder)?;
            place::check_private_folder(&opened.keys())?;
            place::check_document(&opened.folder.join(DOCUMENT))?;
            for name in place::names(&opened.keys())? {
                place::check_secret(&opened.keys().join(name))?;
            }
            Ok(())
        })
        .await
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Opened) -> Result<T, StoreError> + Send + 'static) -> Result<T, StoreError> {
        let opened = Arc::clone(&self.0);
        let path = opened.folder.display().to_string();
        match tokio::task::spawn_blocking(move || work(&opened)).await {
            Ok(done) => done,
            Err(stopped) => Err(StoreError::Io { path, reason: stopped.to_string() }),
        }
    }
}

#[async_trait]
impl StateStore for FileStore {
    async fn load(&self) -> Result<Option<(AuthorityState, Version)>, StoreError> {
        self.blocking(|opened| match opened.document()? {
            Some(bytes) => Ok(Some((AuthorityState::from_json(&bytes)?, version(&bytes)))),
            None => Ok(None),
        })
        .await
    }

    async fn swap(&self, expected: Option<&Version>, state: &AuthorityState) -> Result<Version, StoreError> {
        let expected = expected.cloned();
        let bytes = state.to_json()?;
        self.blocking(move |opened| {
            let _one = opened.one_writer();
            // Read again, so that an edit by hand since the caller's load is a conflict too.
            if opened.document()?.as_deref().map(version) != expected {
                return Err(StoreError::Conflict);
            }
            place::replace(&opened.folder, DOCUMENT, &bytes)?;
            Ok(version(&bytes))
        })
        .await
    }

    async fn put_key(&self, name: &str, key: &IssuerKey) -> Result<KeyRef, StoreError> {
        let reference = KeyRef(format!("{SCHEME}{name}"));
        let file = file_of(&reference)?;
        let unusable = StoreError::KeyUnusable { name: reference.0.clone(), reason: "it exists already, and a key is never overwritten".to_owned() };
        let pem = key.to_pem();
        self.blocking(move |opened| {
            let _one = opened.one_writer();
            if place::create(&opened.keys(), &file, pem.as_bytes())? { Ok(reference) } else { Err(unusable) }
        })
        .await
    }

    async fn key(&self, reference: &KeyRef) -> Result<IssuerKey, StoreError> {
        let file = file_of(reference)?;
        let name = reference.0.clone();
        self.blocking(move |opened| {
            let path = opened.keys().join(file);
            let Some(bytes) = place::read(&path, place::check_secret(&path)?)? else { return Err(StoreError::KeyMissing(name)) };
            let unusable = |reason: String| StoreError::KeyUnusable { name, reason };
            match std::str::from_utf8(&bytes) {
                Ok(pem) => IssuerKey::from_pem(pem).map_err(|error| unusable(error.to_string())),
                Err(_) => Err(unusable("it is not PEM: restore it from your backup".to_owned())),
            }
        })
        .await
    }

    async fn keys(&self) -> Result<Vec<KeyRef>, StoreError> {
        let reference = |name: String| name.strip_suffix(".pem").map(|name| KeyRef(format!("{SCHEME}{name}")));
        self.blocking(move |opened| Ok(place::names(&opened.keys())?.into_iter().filter_map(reference).collect())).await
    }

    async fn destroy_key(&self, reference: &KeyRef) -> Result<(), StoreError> {
        let file = file_of(reference)?;
        self.blocking(move |opened| place::remove(&opened.keys(), &file)).await
    }
}

impl Opened {
    fn document(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.folder.join(DOCUMENT);
        place::read(&path, place::check_document(&path)?)
    }

    /// A panic under this lock leaves nothing half-done (a rename or a link is the only step that counts), so a poisoned one is as good.
    fn one_writer(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keys(&self) -> PathBuf {
        self.folder.join(KEYS)
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "file store in {}", self.folder.display())
    }
}

fn version(document: &[u8]) -> Version {
    Version(hex::encode(ring::digest::digest(&ring::digest::SHA256, document)))
}

fn file_of(reference: &KeyRef) -> Result<String, StoreError> {
    Ok(format!("{}.pem", name_of(reference, SCHEME)?))
}

#[cfg(test)]
mod tests;
