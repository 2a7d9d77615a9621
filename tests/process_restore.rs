//! State and ledger that don't belong to the same moment, as after a restore from a backup: what can't be right is refused with what to do,
//! what is only incomplete is noticed and remembered.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/process.rs"]
mod process;

use std::path::Path;

use process::{Serve, issuer_folder, meshmint, serve_yaml};
use serde_json::Value;
use tempfile::TempDir;

struct World {
    folder: TempDir,
    yaml: String,
    _issuer: TempDir,
}

impl World {
    fn new() -> Self {
        let (folder, issuer) = (tempfile::tempdir().unwrap(), issuer_folder());
        let yaml = serve_yaml(folder.path(), issuer.path(), "", "");
        Self { folder, yaml, _issuer: issuer }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// A start and a clean end; what it logged while it started.
    fn run(&self) -> Vec<Value> {
        let mut serve = Serve::start(self.folder.path(), &self.yaml);
        let log = std::mem::take(&mut serve.start_log);
        assert_eq!(serve.terminate().0, Some(0));
        log
    }

    fn state(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.path("state/authority.json")).unwrap()).unwrap()
    }

    fn refused(&self) -> String {
        let (code, said) = Serve::refused(self.folder.path(), &self.yaml);
        assert_eq!(code, Some(1), "{said}");
        said
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::copy(from, to).unwrap();
}

#[test]
fn a_ledger_without_its_state_founds_no_second_authority() {
    let world = World::new();
    world.run();
    std::fs::rename(world.path("state"), world.path("lost")).unwrap();
    let said = world.refused();
    assert!(said.contains("restore the state folder"), "{said}");
    assert!(!world.path("state/authority.json").exists());
    std::fs::remove_dir_all(world.path("state")).unwrap();
    std::fs::rename(world.path("lost"), world.path("state")).unwrap();
    world.run();
}

#[test]
fn a_ledger_that_was_rolled_back_is_noticed_and_remembered() {
    let world = World::new();
    world.run();
    copy(&world.path("ledger.db"), &world.path("backup.db"));
    world.run();
    world.run();
    assert!(world.state()["ledger"]["incompleteBefore"].is_null());
    copy(&world.path("backup.db"), &world.path("ledger.db"));
    let log = world.run();
    assert!(log.iter().any(|line| line["level"] == "WARN" && line["message"].as_str().unwrap().contains("rolled back")), "{log:?}");
    assert!(world.state()["ledger"]["incompleteBefore"].is_string());
    let log = world.run();
    assert!(!log.iter().any(|line| line["level"] == "WARN"), "noticed once: {log:?}");
    assert!(world.state()["ledger"]["incompleteBefore"].is_string(), "remembered for good");
}

#[test]
fn a_key_that_nothing_refers_to_is_destroyed_at_the_next_start() {
    let world = World::new();
    world.run();
    let keys = || std::fs::read_dir(world.path("state/keys")).unwrap().count();
    let before = keys();
    let one = std::fs::read_dir(world.path("state/keys")).unwrap().next().unwrap().unwrap().path();
    copy(&one, &world.path("state/keys/issuing-9-stray.pem"));
    assert_eq!(keys(), before + 1);
    world.run();
    assert_eq!(keys(), before);
}

#[test]
fn a_state_that_is_older_than_its_ledger_says_what_to_restore() {
    let world = World::new();
    world.run();
    // As if the ledger had closed the generation that this copy of the state still signs with.
    let ledger = rusqlite::Connection::open(world.path("ledger.db")).unwrap();
    ledger.execute("UPDATE generations SET closed_at = 1", []).unwrap();
    drop(ledger);
    let said = world.refused();
    assert!(said.contains("the state is older than the ledger") && said.contains("same backup"), "{said}");
    assert!(meshmint(&["config", "check", world.path("meshmint.yaml").to_str().unwrap()]).status.success());
}
