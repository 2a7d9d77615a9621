//! Disks that are full and ledgers that are lost, with real file systems: nothing leaves, the process says why, and recovers alone.
//! Needs root, to mount a small tmpfs: without it these tests fail.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/load.rs"]
mod load;
#[path = "common/process.rs"]
mod process;
#[path = "common/small_disk.rs"]
mod small_disk;

use std::path::Path;

use serde_json::Value;
use tokio::runtime::Runtime;
use tonic::Code;

use crate::load::{Answer, Client, Key, check_ledger, on_record, open_ledger};
use crate::process::{Serve, get, issuer_folder, serve_yaml, token, wait_for};
use crate::small_disk::SmallDisk;

/// A service with a client, and every certificate that came out of it.
struct World {
    serve: Serve,
    runtime: Runtime,
    client: Client,
    token: String,
    received: Vec<Answer>,
}

impl World {
    fn start(disk: &Path, folder: &Path, more: &str, server: &str) -> Self {
        let issuer = issuer_folder();
        // The keys of the token issuer are read at start and kept.
        let yaml = serve_yaml(disk, issuer.path(), server, more)
            .replace(&format!("{}/admin.sock", disk.display()), &format!("{}/admin.sock", folder.display()));
        let serve = Serve::start(folder, &yaml);
        let runtime = Runtime::new().unwrap();
        let client = runtime.block_on(Client::connect(serve.csr, &trusted(disk), None)).unwrap();
        let token = token(issuer.path(), "shop", "cart", &[]);
        Self { serve, runtime, client, token, received: Vec::new() }
    }

    /// Asks once; what came out is kept. A refusal must be UNAVAILABLE.
    fn ask(&mut self) -> bool {
        match self.runtime.block_on(self.client.ask(Key::any(), Some(&self.token))) {
            Ok(answer) => {
                self.received.push(answer);
                true
            }
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                assert!(!status.message().contains('/'), "no path of ours is told to strangers: {}", status.message());
                false
            }
        }
    }

    fn ready(&self) -> (u16, String) {
        get(&self.serve.health.to_string(), "/readyz")
    }

    /// Refused requests, the reason at the health door, the metric.
    fn assert_lost(&mut self) {
        wait_for("UNAVAILABLE", || (!self.ask()).then_some(()));
        let (_, why) = wait_for("/readyz to tell", || Some(self.ready()).filter(|(status, _)| *status == 503));
        assert!(why.contains("the ledger can't be written"), "{why}");
        assert_eq!(self.serve.metric("meshmint_ledger_writable"), 0.0);
        assert_eq!(get(&self.serve.health.to_string(), "/livez").0, 200, "a restart would not help");
        assert!(!self.ask());
        assert!(self.serve.metric(r#"meshmint_refusals_total{code="Unavailable",reason="ledger_unavailable"}"#) >= 2.0);
        assert!(self.serve.metric(r#"citadel_server_csr_sign_err_count{error="ledger_unavailable"}"#) >= 2.0);
    }

    fn assert_recovers(&mut self) {
        wait_for("a certificate again", || self.ask().then_some(()));
        wait_for("/readyz to be 200 again", || (self.ready().0 == 200).then_some(()));
        assert_eq!(self.serve.metric("meshmint_ledger_writable"), 1.0);
        assert!(self.ask());
    }

    fn assert_all_on_record(&self, ledger: &Path) {
        let ledger = open_ledger(ledger);
        check_ledger(&ledger);
        assert!(self.received.iter().all(|answer| on_record(&ledger, answer)));
    }
}

fn state(disk: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(disk.join("state/authority.json")).unwrap()).unwrap()
}

fn trusted(disk: &Path) -> String {
    state(disk)["trust"][0]["certificate"].as_str().unwrap().to_owned()
}

#[test]
fn a_full_disk_stops_issuing_until_there_is_space() {
    let (disk, folder) = (SmallDisk::mount("2m"), tempfile::tempdir().unwrap());
    let mut world = World::start(disk.path(), folder.path(), "", "");
    assert!(world.ask());
    for _ in 0..2 {
        let filler = disk.fill();
        world.assert_lost();
        std::fs::remove_file(filler).unwrap();
        world.assert_recovers();
    }
    world.assert_all_on_record(&disk.path().join("ledger.db"));
    assert_eq!(world.serve.terminate().0, Some(0));
}

#[test]
fn an_issuing_key_that_cant_be_stored_is_renewed_once_it_can() {
    let (disk, folder) = (SmallDisk::mount("2m"), tempfile::tempdir().unwrap());
    let short = "certificates: { defaultLifetime: 4s, maxLifetime: 4s, backdate: 0s, jitter: 0% }\nauthority: { issuingLifetime: 12s }\n";
    // Only the state is on the full disk: the ledger goes on.
    let ledger = format!("ledger: {{ sqlite: {{ path: {}/ledger.db }} }}", folder.path().display());
    let issuer = issuer_folder();
    let yaml = serve_yaml(disk.path(), issuer.path(), ", servingLifetime: 4s, requestTimeout: 1s", short)
        .replace(&format!("ledger: {{ sqlite: {{ path: {}/ledger.db }} }}", disk.path().display()), &ledger);
    let filler = {
        let serve = Serve::start(folder.path(), &yaml);
        let filler = disk.fill();
        wait_for("a failed renewal", || (serve.metric("meshmint_authority_failures") >= 1.0).then_some(()));
        assert_eq!(serve.metric("meshmint_generation"), 1.0);
        let runtime = Runtime::new().unwrap();
        let token = token(issuer.path(), "shop", "cart", &[]);
        let answer = runtime.block_on(load::ask_once(serve.csr, &trusted(disk.path()), Some(&token))).unwrap();
        answer.verify().unwrap();

        std::fs::remove_file(&filler).unwrap();
        wait_for("the renewal", || (serve.metric("meshmint_generation") >= 2.0).then_some(()));
        let answer = runtime.block_on(load::ask_once(serve.csr, &trusted(disk.path()), Some(&token))).unwrap();
        answer.verify().unwrap();
        filler
    };
    // The state is whole, and no half-written file stays for ever.
    assert!(!filler.exists());
    drop(Serve::start(folder.path(), &yaml));
    let names = |folder: &str| {
        std::fs::read_dir(disk.path().join(folder)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    assert!(names("state").iter().chain(&names("state/keys")).all(|name| !name.starts_with(".new-")));
}

#[test]
fn a_ledger_that_goes_away_under_the_process_may_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::start(folder.path(), folder.path(), "", "");
    assert!(world.ask());
    let (path, away) = (folder.path().join("ledger.db"), folder.path().join("away.db"));
    for _ in 0..2 {
        std::fs::rename(&path, &away).unwrap();
        world.assert_lost();
        assert!(!path.exists(), "no empty ledger in place of the lost one");
        std::fs::rename(&away, &path).unwrap();
        world.assert_recovers();
    }
    world.assert_all_on_record(&path);
}

#[test]
fn a_start_without_its_old_ledger_is_noticed() {
    let (folder, issuer) = (tempfile::tempdir().unwrap(), issuer_folder());
    let yaml = serve_yaml(folder.path(), issuer.path(), "", "");
    let serve = Serve::start(folder.path(), &yaml);
    let root = trusted(folder.path());
    assert!(state(folder.path())["ledger"]["incompleteBefore"].is_null());
    assert_eq!(serve.terminate().0, Some(0));
    for name in ["ledger.db", "ledger.db-wal", "ledger.db-shm"] {
        // A clean end leaves only the first.
        _ = std::fs::remove_file(folder.path().join(name));
    }

    let serve = Serve::start(folder.path(), &yaml);
    let warned = serve.start_log.iter().find(|line| line["level"] == "WARN").expect("a warning");
    assert!(warned["message"].as_str().unwrap().contains("took over from"), "{warned}");
    let after = state(folder.path());
    let before = after["ledger"]["incompleteBefore"].as_str().expect("the time before which records are missing");
    time::OffsetDateTime::parse(before, &time::format_description::well_known::Rfc3339).unwrap();
    assert_eq!(trusted(folder.path()), root, "the root stays");
    assert_eq!(serve.terminate().0, Some(0));

    // Noticed once, remembered for good.
    let serve = Serve::start(folder.path(), &yaml);
    assert!(serve.start_log.iter().all(|line| line["level"] != "WARN"));
    assert_eq!(state(folder.path())["ledger"]["incompleteBefore"], after["ledger"]["incompleteBefore"]);
}
