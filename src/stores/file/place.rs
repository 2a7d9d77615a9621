//! Safe places for secrets on a file system: which folder the file store works in, what it refuses, and durable writing.
//!
//! Called by the file store only, which holds its lock meanwhile. Who may write into the folders *above* the given one is not looked at:
//! whoever can rename `/var/lib` owns the machine already.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::super::StoreError;

/// The document's file name; where it lies tells which folder was chosen when the store was made.
pub(super) const DOCUMENT: &str = "authority.json";
/// The folder that is made inside a folder which is not only ours.
const OWN_FOLDER: &str = "state";
/// How the name of a half-written file begins. One writer at a time, so one leftover of each file at most.
const HALF_WRITTEN: &str = ".new-";

/// The folder to work in for the folder that the operator gave: that one, where it is ours alone (it is made so where there is none); else
/// (the root of a mounted volume, which belongs to root or lets a group in) `state` inside it, ours and 0700. Once a document lies in
/// one of the two, that choice stays, so that a changed mode never makes a second, empty store.
pub(super) fn choose(dir: &Path) -> Result<PathBuf, StoreError> {
    if fs::symlink_metadata(dir).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        make_folder(dir)?;
    }
    let dir = fs::canonicalize(dir).map_err(|error| failed(dir, &error))?;
    let meta = check_shared(&dir)?;
    let inner = dir.join(OWN_FOLDER);
    let ours_alone = meta.uid() == our_user() && meta.mode() & 0o077 == 0;
    match (dir.join(DOCUMENT).exists(), inner.join(DOCUMENT).exists()) {
        (true, true) => Err(unsafe_place(
            &dir,
            format!("there is an {DOCUMENT} in it and another in its folder {OWN_FOLDER}: move the one that should not be used away"),
        )),
        (true, false) => check_private_folder(&dir).map(|()| dir),
        (false, false) if ours_alone => Ok(dir),
        _ => private_folder(&inner).map(|()| inner),
    }
}

/// A folder that is ours alone, made where there is none.
pub(super) fn private_folder(path: &Path) -> Result<(), StoreError> {
    if fs::symlink_metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        make_folder(path)?;
    }
    check_private_folder(path)
}

/// Whether a file holding a secret is a regular file, ours, and closed to everybody else. `None` where there is none.
pub(super) fn check_secret(path: &Path) -> Result<Option<Metadata>, StoreError> {
    check_file(path, 0o077, "it can be read or written by group or others: chmod 600")
}

/// Whether a file that is no secret is a regular file, ours, and can be written by nobody else. `None` where there is none.
pub(super) fn check_document(path: &Path) -> Result<Option<Metadata>, StoreError> {
    check_file(path, 0o022, "it can be written by group or others: chmod 600")
}

/// Reads a file that one of the checks above passed; `None` where there is none.
pub(super) fn read(path: &Path, checked: Option<Metadata>) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(checked) = checked else { return Ok(None) };
    let mut file = File::open(path).map_err(|error| failed(path, &error))?;
    let opened = file.metadata().map_err(|error| failed(path, &error))?;
    if (opened.dev(), opened.ino()) != (checked.dev(), checked.ino()) {
        return Err(unsafe_place(path, "it was replaced while it was read: let nothing else write here".to_owned()));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|error| failed(path, &error))?;
    Ok(Some(bytes))
}

/// Puts `bytes` at `folder`/`name`, 0600, in place of what is there. After a crash there is the old file or the new one.
pub(super) fn replace(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
    let half = write_half(folder, name, bytes)?;
    let path = folder.join(name);
    fs::rename(&half, &path).map_err(|error| failed(&path, &error))?;
    sync_folder(folder)
}

/// Puts `bytes` at `folder`/`name`, 0600; `false` where a file of that name exists, which stays as it is. A link, unlike a rename, can't overwrite.
pub(super) fn create(folder: &Path, name: &str, bytes: &[u8]) -> Result<bool, StoreError> {
    let half = write_half(folder, name, bytes)?;
    let path = folder.join(name);
    let linked = fs::hard_link(&half, &path);
    fs::remove_file(&half).map_err(|error| failed(&half, &error))?;
    match linked {
        Ok(()) => sync_folder(folder).map(|()| true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed(&path, &error)),
    }
}

/// Removes a file, durably; one that is not there is no error. The bytes may survive on the medium, as on any journalling file system or flash.
pub(super) fn remove(folder: &Path, name: &str) -> Result<(), StoreError> {
    let path = folder.join(name);
    match fs::remove_file(&path) {
        Ok(()) => sync_folder(folder),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(&path, &error)),
    }
}

/// Removes what a killed process left half-written. Only under the lock: a living writer's file would go too.
pub(super) fn sweep(folder: &Path) -> Result<(), StoreError> {
    for name in names(folder)? {
        if name.starts_with(HALF_WRITTEN) {
            remove(folder, &name)?;
        }
    }
    Ok(())
}

/// The names in a folder; those that aren't UTF-8 are not ours and left out.
pub(super) fn names(folder: &Path) -> Result<Vec<String>, StoreError> {
    let entries = fs::read_dir(folder).map_err(|error| failed(folder, &error))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| failed(folder, &error))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

/// The lock file, made 0600 where there is none.
pub(super) fn lock_file(path: &Path) -> Result<File, StoreError> {
    check_secret(path)?;
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path).map_err(|error| failed(path, &error))
}

pub(super) fn failed(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Io { path: path.display().to_string(), reason: error.to_string() }
}

fn make_folder(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| failed(path, &error))?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_folder(parent),
        _ => Ok(()),
    }
}

/// What every folder must hold to, whoever else may be let in.
fn check_shared(path: &Path) -> Result<Metadata, StoreError> {
    let meta = fs::symlink_metadata(path).map_err(|error| failed(path, &error))?;
    if !meta.is_dir() {
        return Err(unsafe_place(path, "it is not a folder: name a folder, or one that can be made".to_owned()));
    }
    if meta.uid() != 0 {
        check_owner(path, meta.uid(), our_user())?;
    }
    if meta.mode() & 0o002 != 0 {
        return Err(unsafe_place(path, format!("everybody can write to it (mode {:04o}): chmod 700", meta.mode() & 0o7777)));
    }
    Ok(meta)
}

pub(super) fn check_private_folder(path: &Path) -> Result<(), StoreError> {
    let meta = check_shared(path)?;
    check_owner(path, meta.uid(), our_user())?;
    if meta.mode() & 0o077 != 0 {
        return Err(unsafe_place(path, format!("group or others can enter it (mode {:04o}): {}", meta.mode() & 0o7777, closed("chmod 700"))));
    }
    Ok(())
}

fn check_file(path: &Path, forbidden: u32, reason: &str) -> Result<Option<Metadata>, StoreError> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(path, &error)),
    };
    if !meta.is_file() {
        return Err(unsafe_place(
            path,
            "it is not a regular file: a link or a device could show us somebody else's; put the file itself here".to_owned(),
        ));
    }
    check_owner(path, meta.uid(), our_user())?;
    if meta.mode() & forbidden != 0 {
        return Err(unsafe_place(path, closed(reason)));
    }
    Ok(Some(meta))
}

fn check_owner(path: &Path, owner: u32, us: u32) -> Result<(), StoreError> {
    if owner == us { Ok(()) } else { Err(unsafe_place(path, format!("it belongs to user {owner}: chown it to user {us}"))) }
}

/// The kubelet opens every file of a volume to the pod's group at each start, unless told otherwise.
fn closed(reason: &str) -> String {
    format!("{reason} (on a Kubernetes volume with fsGroup, also set fsGroupChangePolicy: OnRootMismatch)")
}

fn write_half(folder: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf, StoreError> {
    let path = folder.join(format!("{HALF_WRITTEN}{name}"));
    let write = || -> io::Result<()> {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|error| failed(&path, &error))?;
    Ok(path)
}

fn sync_folder(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(|error| failed(path, &error))
}

fn unsafe_place(path: &Path, reason: String) -> StoreError {
    StoreError::Unsafe { path: path.display().to_string(), reason }
}

fn our_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_we_own_a_place_for_secrets() {
        assert!(check_owner(Path::new("/x"), 1000, 1000).is_ok());
        let refused = check_owner(Path::new("/x"), 1001, 1000).unwrap_err();
        assert_eq!(refused.to_string(), "/x is not a safe place for keys: it belongs to user 1001: chown it to user 1000");
    }

    #[test]
    fn a_file_that_was_exchanged_after_its_check_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        replace(dir.path(), "a", b"one").unwrap();
        let path = dir.path().join("a");
        let checked = check_secret(&path).unwrap();
        assert!(matches!(read(&path, checked.clone()), Ok(Some(bytes)) if bytes == b"one"));
        fs::hard_link(&path, dir.path().join("kept")).unwrap();
        replace(dir.path(), "a", b"two").unwrap();
        assert!(matches!(read(&path, checked), Err(StoreError::Unsafe { .. })));
    }
}
