//! Where the ledger's three files are, and whether they are still the ones that were opened.
//!
//! A process goes on writing into a file that was deleted or moved away and never notices. The writer asks here before each
//! commit and again after it, the readers before each question. Nothing here opens the ledger itself: closing any descriptor of
//! it would drop the POSIX locks that SQLite holds on it for the whole process.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::ledger::OpenError;

/// Reading and writing for the owner alone.
const MODE: u32 = 0o600;

/// The paths of one ledger, resolved.
#[derive(Debug, Clone)]
pub(super) struct Place {
    main: PathBuf,
    wal: PathBuf,
    shared_memory: PathBuf,
}

/// One file, whatever its name is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

/// The files that a connection has open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    /// The ledger. It never changes while the process lives.
    pub(super) main: FileId,
    wal: FileId,
    shared_memory: FileId,
}

/// How the folder compares to what is open.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Every file is in its place.
    Intact,
    /// The ledger itself is not: what is written now would be lost.
    Lost(String),
    /// The ledger is there, but the log or its index is not: what is only in the log must go into the ledger now.
    Detached(String),
}

impl Place {
    /// Resolves `path`, and creates an empty file (mode 0600, in a folder that is there) where nothing is.
    ///
    /// # Errors
    /// [`OpenError::Engine`] where the folder is missing or refuses, [`OpenError::NotALedger`] where `path` is no regular file.
    pub(super) fn create_or_find(path: &Path) -> Result<Self, OpenError> {
        let engine = |error: std::io::Error| OpenError::Engine { path: path.display().to_string(), reason: error.to_string() };
        match OpenOptions::new().write(true).create_new(true).mode(MODE).open(path) {
            Ok(file) => {
                file.sync_all().map_err(engine)?;
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
                // The name itself must survive the loss of power, too.
                File::open(folder).and_then(|folder| folder.sync_all()).map_err(engine)?;
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(engine(error)),
        }
        // SQLite puts the log beside the file that a link points to.
        let main = path.canonicalize().map_err(engine)?;
        if !main.metadata().map_err(engine)?.is_file() {
            return Err(OpenError::NotALedger { path: path.display().to_string(), reason: "it is not a regular file".to_owned() });
        }
        Ok(Self { wal: beside(&main, "-wal"), shared_memory: beside(&main, "-shm"), main })
    }

    /// The ledger's path.
    pub(super) fn main(&self) -> &Path {
        &self.main
    }

    /// What is in the three places now. All three are there once a connection has read.
    ///
    /// # Errors
    /// Which file is missing or can't be looked at.
    pub(super) fn identity(&self) -> Result<Identity, String> {
        Ok(Identity { main: file_id(&self.main)?, wal: file_id(&self.wal)?, shared_memory: file_id(&self.shared_memory)? })
    }

    /// What is in the ledger's own place now.
    ///
    /// # Errors
    /// That it is missing or can't be looked at.
    pub(super) fn main_id(&self) -> Result<FileId, String> {
        file_id(&self.main)
    }

    /// Compares the folder to what was opened.
    pub(super) fn standing(&self, opened: &Identity) -> Standing {
        match file_id(&self.main) {
            Err(reason) => return Standing::Lost(reason),
            Ok(found) if found != opened.main => return Standing::Lost(format!("{} was replaced by another file", self.main.display())),
            Ok(_) => {}
        }
        for (path, expected) in [(&self.wal, opened.wal), (&self.shared_memory, opened.shared_memory)] {
            match file_id(path) {
                Err(reason) => return Standing::Detached(reason),
                Ok(found) if found != expected => return Standing::Detached(format!("{} was replaced by another file", path.display())),
                Ok(_) => {}
            }
        }
        Standing::Intact
    }
}

fn beside(main: &Path, suffix: &str) -> PathBuf {
    let mut path = main.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

fn file_id(path: &Path) -> Result<FileId, String> {
    match path.metadata() {
        Ok(metadata) => Ok(FileId { device: metadata.dev(), inode: metadata.ino() }),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(format!("{} is gone", path.display())),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn place_with_files(folder: &Path) -> Place {
        let place = Place::create_or_find(&folder.join("ledger.db")).unwrap();
        fs::write(&place.wal, "").unwrap();
        fs::write(&place.shared_memory, "").unwrap();
        place
    }

    #[test]
    fn a_new_file_is_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::create_or_find(&folder.path().join("ledger.db")).unwrap();
        assert_eq!(place.main().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(place.wal, beside(place.main(), "-wal"));
    }

    #[test]
    fn a_missing_folder_and_a_folder_as_file_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let missing = Place::create_or_find(&folder.path().join("no/ledger.db")).unwrap_err();
        assert!(matches!(missing, OpenError::Engine { .. }), "{missing}");
        let not_a_file = Place::create_or_find(folder.path()).unwrap_err();
        assert!(matches!(not_a_file, OpenError::NotALedger { .. }), "{not_a_file}");
    }

    #[test]
    fn every_file_that_went_or_was_replaced_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let place = place_with_files(folder.path());
        let opened = place.identity().unwrap();
        assert_eq!(place.standing(&opened), Standing::Intact);

        for path in [&place.main, &place.wal, &place.shared_memory] {
            let kept = beside(path, ".kept");
            fs::rename(path, &kept).unwrap();
            let name = path.display().to_string();
            let named = |standing| match standing {
                Standing::Lost(reason) => *path == place.main && reason.contains(&name),
                Standing::Detached(reason) => *path != place.main && reason.contains(&name),
                Standing::Intact => false,
            };
            assert!(named(place.standing(&opened)), "{name} gone");
            fs::write(path, "").unwrap();
            assert!(named(place.standing(&opened)), "{name} replaced");
            fs::rename(&kept, path).unwrap();
            assert_eq!(place.standing(&opened), Standing::Intact);
        }
    }
}
