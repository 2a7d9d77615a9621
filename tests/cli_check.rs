//! `meshmint check` and `/readyz?verbose` against real servers: one that is well, and each trouble made for real and seen for what it is.
//! Needs root, to mount a small tmpfs.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/load.rs"]
mod load;
#[path = "common/process.rs"]
mod process;
#[path = "common/small_disk.rs"]
mod small_disk;

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Output;

use rustix::process::{Resource, Rlimit};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::Code;

use crate::load::{Client, Key, ask_once};
use crate::process::{Serve, get, issuer_folder, meshmint, serve_yaml, token, wait_for};
use crate::small_disk::SmallDisk;

/// A `serve` on a disk with room enough.
struct World {
    serve: Serve,
    disk: SmallDisk,
    issuer: TempDir,
    socket: String,
}

/// What one `check -o json` said.
struct Seen {
    code: Option<i32>,
    report: Value,
}

impl Seen {
    fn lines(&self, check: &str) -> Vec<&Value> {
        let lines = self.report["checks"].as_array().unwrap().iter();
        lines.filter(|line| line["check"] == check).collect()
    }

    fn one(&self, check: &str) -> &Value {
        match self.lines(check).as_slice() {
            [one] => one,
            other => panic!("{check}: {} lines: {:#}", other.len(), self.report),
        }
    }

    fn severity(&self, check: &str) -> &str {
        self.one(check)["severity"].as_str().unwrap()
    }

    /// The checks that aren't well, with their severity.
    fn troubles(&self) -> Vec<(&str, &str)> {
        let lines = self.report["checks"].as_array().unwrap().iter().filter(|line| line["severity"] != "ok");
        lines.map(|line| (line["check"].as_str().unwrap(), line["severity"].as_str().unwrap())).collect()
    }
}

fn check(args: &[&str]) -> Seen {
    let Output { status, stdout, stderr } = meshmint(&[&["check", "-o", "json"], args].concat());
    let report = serde_json::from_slice(&stdout).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&stderr)));
    Seen { code: status.code(), report }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

impl World {
    fn start(size: &str, server: &str, more: &str, change: impl Fn(String) -> String) -> Self {
        let (disk, issuer) = (SmallDisk::mount(size), issuer_folder());
        let yaml = serve_yaml(disk.path(), issuer.path(), &format!(", maxConnections: 200, maxHandshakes: 100{server}"), more);
        let serve = Serve::start(disk.path(), &change(yaml));
        let socket = text(&disk.path().join("admin.sock")).to_owned();
        Self { serve, disk, issuer, socket }
    }

    fn well(server: &str) -> Self {
        Self::start("4g", server, "", |yaml| yaml)
    }

    fn check(&self, more: &[&str]) -> Seen {
        check(&[&["--admin", &self.socket], more].concat())
    }

    fn config(&self) -> PathBuf {
        self.disk.path().join("meshmint.yaml")
    }

    fn verbose(&self) -> (u16, String) {
        get(&self.serve.health.to_string(), "/readyz?verbose")
    }

    fn roots(&self) -> String {
        let state: Value = serde_json::from_slice(&std::fs::read(self.disk.path().join("state/authority.json")).unwrap()).unwrap();
        state["trust"][0]["certificate"].as_str().unwrap().to_owned()
    }

    fn token(&self) -> String {
        token(self.issuer.path(), "shop", "cart", &[])
    }
}

#[test]
fn a_server_that_is_well() {
    let world = World::well("");
    let seen = world.check(&[]);
    assert_eq!((seen.code, seen.report["ok"].as_bool()), (Some(0), Some(true)), "{:#}", seen.report);
    assert_eq!(seen.report["serverVersion"], env!("CARGO_PKG_VERSION"));
    let shown: Vec<_> = seen.report["checks"].as_array().unwrap().iter().map(|line| line["check"].as_str().unwrap()).collect();
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/checks.md")).unwrap();
    // Those below `mesh` are with --kube only: tests/cluster_mesh.rs.
    let (page, _) = page.split_once("\n## mesh\n").unwrap();
    let sections: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("### ")).filter(|id| *id != "config-readable").collect();
    assert_eq!(shown, sections, "every check of the page is made");

    let config = world.config();
    let output = meshmint(&["check", "--config", text(&config)]);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{printed}");
    assert!(printed.is_ascii() && printed.lines().any(|line| line == "ok   not draining") && printed.ends_with("\nall is well\n"), "{printed}");
    assert!(!printed.contains("docs/"), "no hints where none are needed: {printed}");

    let (status, verbose) = world.verbose();
    assert_eq!(status, 200);
    assert!(verbose.ends_with("\nreadyz check passed\n") && verbose.lines().rev().skip(1).all(|line| line.starts_with("[+]")), "{verbose}");
    assert_eq!(verbose.lines().count(), shown.len() - 6 + 1, "all but what is seen from outside: {verbose}");
    assert!(!verbose.contains('/'), "no path and no URL for strangers: {verbose}");
    assert_eq!(get(&world.serve.health.to_string(), "/readyz"), (200, "ok\n".to_owned()));
}

#[test]
fn without_a_server_one_line_says_so() {
    let folder = tempfile::tempdir().unwrap();
    for target in [["--dir", text(folder.path())], ["--admin", text(&folder.path().join("admin.sock"))]] {
        let seen = check(&target);
        assert_eq!((seen.code, seen.troubles()), (Some(1), vec![("admin-answers", "failed")]));
        assert!(seen.one("admin-answers")["hint"].as_str().unwrap().contains("meshmint serve"));
        assert_eq!(seen.one("admin-answers")["doc"], "docs/checks.md#admin-answers");
    }
    let file = folder.path().join("bad.yaml");
    std::fs::write(&file, "server: { lisetn: x }").unwrap();
    let seen = check(&["--config", text(&file)]);
    assert_eq!((seen.code, seen.troubles()), (Some(1), vec![("config-readable", "failed")]));
    let printed = meshmint(&["check", "--config", text(&file)]);
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.contains("FAIL the configuration can't be used") && printed.contains("did you mean listen?"), "{printed}");
    assert!(printed.contains("meshmint check --explain config-readable") && printed.ends_with("1 failed\n"), "{printed}");
    for wrong in [vec!["check", "--wait", "soon"], vec!["check", "--config", "a", "--dir", "b"], vec!["check", "--dir", "a", "--admin", "b"]] {
        assert_eq!(meshmint(&wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn a_full_disk_and_everything_that_comes_of_it() {
    let short = "certificates: { defaultLifetime: 6s, maxLifetime: 6s, backdate: 0s, jitter: 0% }\nauthority: { issuingLifetime: 18s }\n";
    let world = World::start("2m", ", servingLifetime: 6s, requestTimeout: 1s", short, |yaml| yaml);
    let before = world.check(&[]);
    assert_eq!(before.troubles().iter().filter(|(check, _)| !check.ends_with("-space")).count(), 0, "{:#}", before.report);
    assert_eq!((before.severity("ledger-space"), before.severity("state-space")), ("failed", "failed"), "2 MiB are none");

    let filler = world.disk.fill();
    // The serving certificate must go on record like any other: it is not renewed, then it ends.
    let seen = wait_for("the certificate to end", || Some(world.check(&[])).filter(|seen| seen.severity("csr-certificate") == "failed"));
    assert_eq!(seen.code, Some(1));
    assert_eq!((seen.severity("ledger-writable"), seen.severity("serving-certificate")), ("failed", "failed"), "{:#}", seen.report);
    assert!(seen.one("ledger-writable")["detail"].as_str().unwrap().contains("full"), "the reason: {:#}", seen.report);
    assert!(seen.one("csr-certificate")["message"].as_str().unwrap().contains("expired"), "{:#}", seen.report);
    let (status, verbose) = world.verbose();
    assert_eq!(status, 503);
    assert!(verbose.contains("[-]ledger-writable failed: ") && verbose.contains("readyz check failed: "), "{verbose}");
    // The issuing key, which is due after a third of its life, can't be stored either.
    wait_for("a failed renewal", || (world.check(&[]).severity("authority-renewals") == "warning").then_some(()));
    wait_for("it to be overdue, or to end", || (world.check(&[]).severity("issuing-certificate") != "ok").then_some(()));

    std::fs::remove_file(filler).unwrap();
    let after = wait_for("everything to recover", || {
        Some(world.check(&[])).filter(|seen| ["ledger-writable", "serving-certificate", "csr-certificate"].iter().all(|id| seen.severity(id) == "ok"))
    });
    assert_eq!(after.severity("authority-renewals"), "warning", "what failed since the start is remembered");
    wait_for("/readyz", || (world.verbose().0 == 200).then_some(()));
}

#[test]
fn little_space_is_warned_of() {
    let world = World::start("200m", "", "", |yaml| yaml);
    let seen = world.check(&[]);
    assert_eq!((seen.code, seen.troubles()), (Some(3), vec![("ledger-space", "warning"), ("state-space", "warning")]), "{:#}", seen.report);
    assert!(world.verbose().1.contains("[!]ledger-space warn: "));
    assert_eq!(world.verbose().0, 200, "a warning is no reason to send requests elsewhere");
    let printed = String::from_utf8(meshmint(&["check", "--admin", &world.socket]).stdout).unwrap();
    assert!(
        printed.contains("\nwarn ") && printed.contains("meshmint check --explain ledger-space") && printed.ends_with("well, with 2 to look at\n"),
        "{printed}"
    );
}

#[test]
fn keys_of_a_token_issuer_that_were_never_loaded_and_wait_until_they_are() {
    let keys = tempfile::tempdir().unwrap();
    let world = World::start("4g", "", "", |yaml| {
        let (from, to) = (yaml.find("keys: { file: ").unwrap(), yaml.find("/jwks.json").unwrap());
        yaml.replace(&yaml[from..to], &format!("keys: {{ file: {}", keys.path().display()))
    });
    let seen = world.check(&[]);
    assert_eq!((seen.code, seen.troubles()), (Some(1), vec![("token-keys", "failed")]), "{:#}", seen.report);
    assert!(seen.one("token-keys")["detail"].as_str().unwrap().contains(text(keys.path())), "why, for the operator: {:#}", seen.report);
    let (status, verbose) = world.verbose();
    assert!(
        status == 200 && verbose.contains("[-]token-keys failed: ") && !verbose.contains('/'),
        "another replica would have none either: {verbose}"
    );
    assert_eq!(world.check(&["--wait", "1ms"]).code, Some(1), "the time is over");

    std::fs::copy(world.issuer.path().join("jwks.json"), keys.path().join("jwks.json")).unwrap();
    let seen = world.check(&["--wait", "60s"]);
    assert_eq!((seen.code, seen.troubles()), (Some(0), vec![]), "{:#}", seen.report);
}

#[test]
fn what_others_could_read_and_what_went_back() {
    let world = World::well("");
    let key = std::fs::read_dir(world.disk.path().join("state/keys")).unwrap().next().unwrap().unwrap().path();
    let mode = |mode| std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o644);
    let seen = world.check(&[]);
    assert_eq!(seen.severity("state-private"), "failed", "{:#}", seen.report);
    assert!(seen.one("state-private")["detail"].as_str().unwrap().contains("chmod 600"), "{:#}", seen.report);
    mode(0o600);
    assert_eq!(world.check(&[]).code, Some(0));

    // A clock that went back, as the ledger sees it.
    let ledger = rusqlite::Connection::open(world.disk.path().join("ledger.db")).unwrap();
    ledger.busy_timeout(process::PATIENCE).unwrap();
    let moved = |by: i64| ledger.execute("UPDATE certificates SET issued_at = issued_at + ?1", [by]).unwrap();
    assert!(moved(7_200_000_000) >= 1);
    let seen = world.check(&[]);
    assert_eq!((seen.code, seen.troubles()), (Some(1), vec![("clock-forward", "failed")]), "{:#}", seen.report);
    moved(-7_200_000_000);
    assert_eq!(world.check(&[]).code, Some(0));

    // And the state of another ledger, under the running server.
    let path = world.disk.path().join("state/authority.json");
    let good = std::fs::read_to_string(&path).unwrap();
    let mut state: Value = serde_json::from_str(&good).unwrap();
    state["ledger"]["id"] = "another".into();
    std::fs::write(&path, state.to_string()).unwrap();
    let seen = world.check(&[]);
    assert_eq!(seen.troubles(), [("ledger-identity", "failed")], "{:#}", seen.report);
    std::fs::write(&path, good).unwrap();
}

#[test]
fn too_much_at_once() {
    let mut world = World::well(", maxInFlight: 1, maxConcurrentStreams: 1");
    let runtime = Runtime::new().unwrap();
    let (roots, token) = (world.roots(), world.token());
    let mut client = runtime.block_on(Client::connect(world.serve.csr, &roots, None)).unwrap();
    // While somebody else holds the ledger, the one request that has room stays under way.
    let blocker = rusqlite::Connection::open(world.disk.path().join("ledger.db")).unwrap();
    blocker.busy_timeout(process::PATIENCE).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let asked = runtime.spawn({
        let token = token.clone();
        async move { client.ask(Key::any(), Some(&token)).await }
    });
    let seen = wait_for("the request to be under way", || Some(world.check(&[])).filter(|seen| seen.severity("requests-room") == "failed"));
    assert!(seen.one("requests-room")["message"].as_str().unwrap().starts_with("1 of 1 "), "{:#}", seen.report);
    let refused = runtime.block_on(ask_once(world.serve.csr, &roots, Some(&token))).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    blocker.execute_batch("COMMIT").unwrap();
    runtime.block_on(asked).unwrap().unwrap();
    let seen = world.check(&[]);
    assert_eq!((seen.severity("requests-room"), seen.severity("no-refusals")), ("ok", "warning"), "{:#}", seen.report);
    assert!(seen.one("no-refusals")["message"].as_str().unwrap().contains("1 × overloaded"), "{:#}", seen.report);

    let pid = rustix::process::Pid::from_child(world.serve.child());
    rustix::process::prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(300), maximum: Some(300) }).unwrap();
    let seen = world.check(&[]);
    assert!(seen.severity("open-files") == "warning" && seen.one("open-files")["message"].as_str().unwrap().starts_with("300 "), "{:#}", seen.report);
}

#[test]
fn a_certificate_without_a_name_that_agents_use() {
    let world = World::well("");
    let file = world.disk.path().join("newer.yaml");
    let yaml = std::fs::read_to_string(world.config()).unwrap();
    std::fs::write(&file, yaml.replace("istiod.istio-system.svc", "ca.example")).unwrap();
    let seen = check(&["--config", text(&file)]);
    assert_eq!((seen.code, seen.troubles()), (Some(1), vec![("csr-names", "failed")]), "{:#}", seen.report);
    let line = seen.one("csr-names");
    assert!(line["message"].as_str().unwrap().contains("DNS:ca.example"), "{line:#}");
    assert!(line["detail"].as_str().unwrap().contains("DNS:istiod.istio-system.svc"), "{line:#}");
}

#[test]
fn a_ledger_that_was_lost() {
    let world = World::well("");
    let World { serve, disk, issuer, socket } = world;
    assert_eq!(serve.terminate().0, Some(0));
    for name in ["ledger.db", "ledger.db-wal", "ledger.db-shm"] {
        // A clean end leaves only the first.
        _ = std::fs::remove_file(disk.path().join(name));
    }
    let yaml = std::fs::read_to_string(disk.path().join("meshmint.yaml")).unwrap();
    let world = World { serve: Serve::start(disk.path(), &yaml), disk, issuer, socket };
    let seen = world.check(&[]);
    assert_eq!((seen.code, seen.troubles()), (Some(3), vec![("ledger-complete", "warning")]), "{:#}", seen.report);
}

#[test]
fn who_holds_every_place_of_the_admin_socket_keeps_nobody_out() {
    let world = World::well("");
    let mut held: Vec<_> = (0..64).map(|_| UnixStream::connect(&world.socket).unwrap()).collect();
    let seen = check(&["--admin", &world.socket]);
    assert_eq!((seen.code, seen.troubles()), (Some(0), vec![]), "{:#}", seen.report);
    let mut heard = Vec::new();
    held.remove(0).read_to_end(&mut heard).unwrap();
    assert!(held.len() == 63, "the oldest went");
    assert_eq!(get(&world.serve.health.to_string(), "/livez").0, 200);
}
