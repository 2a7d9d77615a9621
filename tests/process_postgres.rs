//! `meshmint serve` with its ledger in a real PostgreSQL: what its clients, the health door and `check` see when the database goes away,
//! loses records, or comes back.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/load.rs"]
mod load;
#[path = "common/postgres.rs"]
mod postgres;
#[path = "common/process.rs"]
mod process;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::Code;

use crate::load::{Answer, Client, Key};
use crate::postgres::{Database, Postgres};
use crate::process::{Serve, get, issuer_folder, meshmint, serve_yaml, token, wait_for};

/// A service whose ledger is in a database, with a client, and every certificate that came out of it.
struct World {
    folder: TempDir,
    issuer: TempDir,
    serve: Serve,
    runtime: Runtime,
    received: Vec<Answer>,
}

fn yaml(folder: &Path, issuer: &Path, database: &Database, url: &str, more: &str) -> String {
    let ledger = format!(
        "ledger: {{ postgres: {{ url: \"{url}\", caFile: {}, passwordFile: {} }}{more} }}",
        database.ca_file.display(),
        database.password_file.display()
    );
    serve_yaml(folder, issuer, "", "").replace(&format!("ledger: {{ sqlite: {{ path: {}/ledger.db }} }}", folder.display()), &ledger)
}

impl World {
    fn start(database: &Database, url: &str, more: &str) -> Self {
        let (folder, issuer) = (tempfile::tempdir().unwrap(), issuer_folder());
        let more = more.replace("FOLDER", folder.path().to_str().unwrap());
        let serve = Serve::start(folder.path(), &yaml(folder.path(), issuer.path(), database, url, &more));
        Self { folder, issuer, serve, runtime: Runtime::new().unwrap(), received: Vec::new() }
    }

    fn state(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.folder.path().join("state/authority.json")).unwrap()).unwrap()
    }

    /// Asks once, on a new connection; what came out is kept. A refusal must be UNAVAILABLE.
    fn ask(&mut self) -> bool {
        let roots = self.state()["trust"][0]["certificate"].as_str().unwrap().to_owned();
        let token = token(self.issuer.path(), "shop", "cart", &[]);
        match self.runtime.block_on(load::ask_once(self.serve.csr, &roots, Some(&token))) {
            Ok(answer) => {
                answer.verify().unwrap();
                self.received.push(answer);
                true
            }
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                assert!(!status.message().contains("postgres"), "no place of ours is told to strangers: {}", status.message());
                false
            }
        }
    }

    fn ready(&self) -> (u16, String) {
        get(&self.serve.health.to_string(), "/readyz?verbose")
    }

    /// How `meshmint check` finds this.
    fn severity(&self, check: &str) -> String {
        let socket = self.folder.path().join("admin.sock");
        let output = meshmint(&["check", "-o", "json", "--admin", socket.to_str().unwrap()]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let lines = report["checks"].as_array().unwrap();
        lines.iter().find(|line| line["check"] == check).unwrap()["severity"].as_str().unwrap().to_owned()
    }

    fn assert_all_on_record(&self, server: &Postgres, database: &Database) {
        for answer in &self.received {
            let sql = format!("SELECT count(*) FROM meshmint.leaves WHERE sha256 = '\\x{}'", hex::encode(answer.sha256()));
            assert_eq!(server.sql(&database.name, &sql), "1");
        }
    }
}

#[test]
fn a_database_that_goes_away_refuses_and_comes_back() {
    let server = Postgres::start();
    let database = server.database();
    let mut world = World::start(&database, &database.url(), "");
    assert!(world.ask());
    assert_eq!((world.severity("ledger-writable").as_str(), world.severity("ledger-standby").as_str()), ("ok", "ok"));
    server.kill();
    wait_for("UNAVAILABLE", || (!world.ask()).then_some(()));
    let (status, why) = wait_for("/readyz to tell", || Some(world.ready()).filter(|(_, text)| text.contains("[-]ledger-writable")));
    assert_eq!(status, 200, "every other replica has the same trouble: {why}");
    assert!(!why.contains("localhost") && !why.contains(&database.name), "{why}");
    wait_for("the metric", || (world.serve.metric("meshmint_ledger_writable") == 0.0).then_some(()));
    assert_eq!(world.severity("ledger-writable"), "failed");
    server.begin();
    wait_for("a certificate again", || world.ask().then_some(()));
    wait_for("all to be well again", || world.ready().1.contains("[+]ledger-writable").then_some(()));
    world.assert_all_on_record(&server, &database);
    // Renewal by client certificate asks the database.
    let key = Key::any();
    let roots = world.received[0].bundle().to_owned();
    let csr = world.serve.csr;
    let first = &world.received[0];
    let renewed = world.runtime.block_on(async { Client::connect(csr, &roots, Some((first, key))).await.unwrap().ask(key, None).await });
    renewed.unwrap().verify().unwrap();
    let certificates = world.serve.metric("meshmint_ledger_certificates");
    assert!(certificates >= 5.0, "{certificates}");
    assert_eq!(world.serve.terminate().0, Some(0));
}

#[test]
fn a_spool_lets_certificates_leave_while_the_database_is_away() {
    let server = Postgres::start();
    let database = server.database();
    let mut world = World::start(&database, &database.url(), ", onOutage: spool, spool: { path: FOLDER/spool.db, maxOutage: 10m }");
    assert!(world.ask());
    let undrained = |world: &World| world.serve.metric("meshmint_ledger_undrained");
    for _ in 0..2 {
        server.kill();
        for _ in 0..3 {
            assert!(world.ask(), "certificates leave all the same");
        }
        assert!(undrained(&world) >= 3.0);
        assert_eq!((world.severity("ledger-writable").as_str(), world.severity("ledger-drained").as_str()), ("ok", "failed"));
        assert_eq!(world.ready().0, 200);
        // Its holder can renew with it, although nobody but this replica knows it.
        let (key, last) = (Key::any(), world.received.last().unwrap());
        let roots = last.bundle().to_owned();
        let csr = world.serve.csr;
        let renewed = world.runtime.block_on(async { Client::connect(csr, &roots, Some((last, key))).await.unwrap().ask(key, None).await });
        world.received.push(renewed.unwrap());
        server.begin();
        wait_for("the spool to be drained", || (undrained(&world) == 0.0).then_some(()));
        world.assert_all_on_record(&server, &database);
        wait_for("all to be well", || (world.severity("ledger-drained") == "ok").then_some(()));
    }
    wait_for("the database to hear of it", || (server.sql(&database.name, "SELECT sum(undrained) FROM meshmint.replicas") == "0").then_some(()));

    // kill -9 with a full spool: the next process on this volume drains it.
    server.kill();
    assert!(world.ask());
    let World { folder, issuer, mut serve, runtime, received } = world;
    serve.child().kill().unwrap();
    serve.child().wait().unwrap();
    server.begin();
    let config = std::fs::read_to_string(folder.path().join("meshmint.yaml")).unwrap();
    let serve = Serve::start(folder.path(), &config);
    let world = World { folder, issuer, serve, runtime, received };
    wait_for("the spool to be drained", || (undrained(&world) == 0.0).then_some(()));
    world.assert_all_on_record(&server, &database);
}

#[test]
fn a_spool_ends_with_the_longest_outage() {
    let server = Postgres::start();
    let database = server.database();
    let mut world = World::start(&database, &database.url(), ", onOutage: spool, spool: { path: FOLDER/spool.db, maxOutage: 3s }");
    assert!(world.ask());
    server.kill();
    wait_for("UNAVAILABLE", || (!world.ask()).then_some(()));
    wait_for("the check", || (world.severity("ledger-writable") == "failed").then_some(()));
    server.begin();
    wait_for("a certificate again", || world.ask().then_some(()));
    wait_for("the spool to be drained", || (world.serve.metric("meshmint_ledger_undrained") == 0.0).then_some(()));
    world.assert_all_on_record(&server, &database);
}

#[test]
fn a_replica_whose_spool_is_broken_is_not_ready_while_it_needs_it() {
    let server = Postgres::start();
    let database = server.database();
    let mut world = World::start(&database, &database.url(), ", onOutage: spool, spool: { path: FOLDER/spool.db, maxOutage: 1h }");
    assert!(world.ask());
    let (spool, away) = (world.folder.path().join("spool.db"), world.folder.path().join("away.db"));
    std::fs::rename(&spool, &away).unwrap();
    assert!(world.ask() && world.ready().0 == 200, "the database is there");
    server.kill();
    let (status, why) = wait_for("/readyz to tell", || Some(world.ready()).filter(|(status, _)| *status != 200));
    assert!(status == 503 && why.contains("this replica's spool can't be written"), "{why}");
    assert!(!world.ask());
    std::fs::rename(&away, &spool).unwrap();
    wait_for("it to be ready", || (world.ready().0 == 200).then_some(()));
    wait_for("a certificate", || world.ask().then_some(()));
    server.begin();
    wait_for("the spool to be drained", || (world.serve.metric("meshmint_ledger_undrained") == 0.0).then_some(()));
    world.assert_all_on_record(&server, &database);
}

#[test]
fn a_standby_that_lost_records_is_written_into_the_state() {
    let server = Postgres::start();
    let database = server.database();
    let standby = server.standby();
    let mut world = World::start(&database, &database.url_with(&standby), "");
    assert!(world.ask());
    assert_eq!(world.severity("ledger-standby"), "warning");
    wait_for("the standby's metric", || (world.serve.metric("meshmint_ledger_standby_asynchronous") == 1.0).then_some(()));
    server.until("the standby has it all", "SELECT bool_and(replay_lsn >= pg_current_wal_lsn()) FROM pg_stat_replication");
    standby.cut_off();
    for _ in 0..3 {
        assert!(world.ask());
    }
    server.kill();
    standby.promote();
    wait_for("a certificate from there", || world.ask().then_some(()));
    wait_for("the loss to be counted", || (world.serve.metric("meshmint_ledger_lost_total") >= 3.0).then_some(()));
    wait_for("the state to say so", || world.state()["ledger"]["incompleteBefore"].is_string().then_some(()));
    assert_eq!(world.severity("ledger-complete"), "warning");
}

#[test]
fn a_frozen_replica_holds_nobody_up_and_answers_nothing_after_the_close() {
    let server = Postgres::start();
    let database = server.database();
    let mut world = World::start(&database, &database.url(), "");
    assert!(world.ask());
    // Frozen in the middle of its work.
    let (stop, csr) = (Arc::new(AtomicBool::new(false)), world.serve.csr);
    let roots = world.state()["trust"][0]["certificate"].as_str().unwrap().to_owned();
    let token = token(world.issuer.path(), "shop", "cart", &[]);
    let load = std::thread::spawn({
        let stop = stop.clone();
        move || {
            Runtime::new().unwrap().block_on(async {
                let mut client = Client::connect(csr, &roots, None).await.unwrap();
                let mut refused = 0;
                while !stop.load(Ordering::SeqCst) {
                    refused += usize::from(client.ask(Key::any(), Some(&token)).await.is_err());
                }
                refused
            })
        }
    });
    let issued = || server.sql(&database.name, "SELECT count(*) FROM meshmint.leaves").parse::<u64>().unwrap();
    wait_for("some load", || (issued() > 50).then_some(()));
    let pid = rustix::process::Pid::from_child(world.serve.child());
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let began = std::time::Instant::now();
    server.sql(&database.name, "SELECT meshmint.close_generation_1(1, 0)");
    assert!(began.elapsed() < std::time::Duration::from_secs(2), "it holds no lock: {:?}", began.elapsed());
    let at_close = issued();
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    wait_for("it to notice", || (!world.ask()).then_some(()));
    stop.store(true, Ordering::SeqCst);
    assert!(load.join().unwrap() > 0);
    assert_eq!(issued(), at_close, "nothing came in after the close");
}

#[test]
fn a_start_without_the_database_says_why() {
    let server = Postgres::start();
    let database = server.database();
    let (folder, issuer) = (tempfile::tempdir().unwrap(), issuer_folder());
    let wrong = folder.path().join("wrong");
    std::fs::write(&wrong, "not-this-one").unwrap();
    let wrong = Database { password_file: wrong, ..database.clone() };
    let (code, said) = Serve::refused(folder.path(), &yaml(folder.path(), issuer.path(), &wrong, &wrong.url(), ""));
    assert_eq!(code, Some(1));
    assert!(said.contains("password authentication failed") && !said.contains("not-this-one"), "{said}");
}
