//! A file system of its own for tests that fill one. Needs root, to mount a tmpfs: without it these tests fail.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic, reason = "every suite uses its own part")]

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A file system of its own, which goes when this is dropped.
pub struct SmallDisk(TempDir);

impl SmallDisk {
    /// One of this size (`2m`, `2g`); memory is taken only for what is written.
    pub fn mount(size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={size},mode=700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "meshmint-test"]).arg(folder.path()).output().unwrap();
        assert!(mounted.status.success(), "this test must be able to mount a tmpfs: {}", String::from_utf8_lossy(&mounted.stderr));
        Self(folder)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes every byte that is left.
    pub fn fill(&self) -> PathBuf {
        let path = self.path().join("filler");
        let mut file = File::create(&path).unwrap();
        for block in [4096, 1] {
            loop {
                match file.write_all(&vec![0; block]) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that a failed test left may still have it open for a moment.
        let unmounted = Command::new("umount").arg("--lazy").arg(self.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}
