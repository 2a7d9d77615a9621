//! State and ledger that don't belong to the same moment, as after a restore from a backup: what can't be right is refused with what to do,
//! what is only incomplete is noticed and remembered.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/process.rs"]
mod process;

use std::path::Path;

use process::{Serve, issuer_folder, meshmint, serve_yaml};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
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

/// Without it the answers of one replica would lack a root that those of another have.
#[test]
fn an_older_copy_of_the_state_is_refused_at_every_start() {
    let world = World::new();
    world.run();
    let copied = world.path("older.json");
    copy(&world.path("state/authority.json"), &copied);
    let root = world.path("root.pem");
    std::fs::write(&root, foreign_root()).unwrap();
    let serve = Serve::start(world.folder.path(), &world.yaml);
    let socket = world.path("admin.sock");
    let add = ["authority", "trust", "add", root.to_str().unwrap(), "--reason", "a move", "--admin", socket.to_str().unwrap()];
    assert!(meshmint(&add).status.success());
    assert_eq!(serve.terminate().0, Some(0));
    let newest = std::fs::read(world.path("state/authority.json")).unwrap();

    copy(&copied, &world.path("state/authority.json"));
    for _ in 0..2 {
        let said = world.refused();
        assert!(
            said.contains("an older copy") && said.contains("number 1, and the ledger has number 2") && said.contains("Restore the newest"),
            "{said}"
        );
    }
    assert_eq!(std::fs::read(world.path("state/authority.json")).unwrap(), std::fs::read(&copied).unwrap(), "nothing was written");
    // The newest is taken again; and where there is none, the older one with a new ledger.
    std::fs::write(world.path("state/authority.json"), newest).unwrap();
    world.run();
    copy(&copied, &world.path("state/authority.json"));
    std::fs::create_dir(world.path("old")).unwrap();
    for file in std::fs::read_dir(world.folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()) {
        if file.starts_with("ledger.db") {
            std::fs::rename(world.path(&file), world.path("old").join(&file)).unwrap();
        }
    }
    let log = world.run();
    assert!(log.iter().any(|line| line["level"] == "WARN" && line["message"].as_str().unwrap().contains("took over")), "{log:?}");
}

/// A root of somebody else's.
fn foreign_root() -> String {
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    parameters.distinguished_name.push(DnType::CommonName, "another root");
    let certificate = parameters.self_signed(&KeyPair::generate().unwrap()).unwrap();
    pem_rfc7468::encode_string("CERTIFICATE", pem_rfc7468::LineEnding::LF, certificate.der()).unwrap()
}
