//! Files that other programs read: whole or not at all.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Writes a file under another name and renames it into place; returns its path.
///
/// # Errors
/// The system's.
pub(super) fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> io::Result<PathBuf> {
    let mut name = path.as_os_str().to_owned();
    name.push("~");
    let hidden = PathBuf::from(name);
    let mut file: File = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&hidden)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&hidden, path)?;
    Ok(path.to_owned())
}
