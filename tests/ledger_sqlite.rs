//! What is SQLite's own: the file, the disk under it, and what others do to them while it is open.
#![cfg(feature = "service")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failure here is the test's answer")]

#[path = "common/ledger.rs"]
mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use common::{FIRST, START, issuer, leaf, serial, walk};
use futures_util::FutureExt;
use meshmint::clock::{Entropy, NoEntropy, SystemClock, SystemEntropy};
use meshmint::ledger::sqlite::SqliteLedger;
use meshmint::ledger::{AuditEntry, CertificateFilter, CommitObserver, CommitWatch, Ledger, LedgerError, OpenError, State};
use meshmint::tasks::{Ended, Vigil};
use rusqlite::Connection;
use tempfile::TempDir;
use time::Duration;
use tokio::task::JoinSet;

fn open(path: &Path) -> SqliteLedger {
    try_open(path).unwrap()
}

fn try_open(path: &Path) -> Result<SqliteLedger, OpenError> {
    SqliteLedger::open(path, SystemEntropy::shared().as_ref())
}

/// A folder, and the path of a ledger in it.
fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    (folder, path)
}

async fn ready(path: &Path) -> SqliteLedger {
    let ledger = open(path);
    ledger.open_generation(FIRST, &issuer(), START).await.unwrap();
    ledger
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

/// The reason of an Unavailable.
fn reason<T: std::fmt::Debug>(outcome: Result<T, LedgerError>) -> String {
    match outcome {
        Err(LedgerError::Unavailable(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

async fn serials(ledger: &dyn Ledger) -> Vec<Vec<u8>> {
    walk(ledger, &CertificateFilter::default(), 1_000, START).await
}

#[tokio::test]
async fn its_files_are_for_its_owner_and_a_clean_end_leaves_one() {
    let (folder, path) = place();
    let ledger = ready(&path).await;
    for suffix in ["", "-wal", "-shm"] {
        assert_eq!(beside(&path, suffix).metadata().unwrap().permissions().mode() & 0o777, 0o600, "{suffix}");
    }
    ledger.record(leaf(0)).await.unwrap();
    assert_eq!(serials(&ledger).await, [serial(0)]);
    drop(ledger);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the log was merged");
    assert_eq!(serials(&open(&path)).await, [serial(0)]);
}

#[test]
fn what_is_no_ledger_is_refused_and_left_alone() {
    let (folder, path) = place();
    fs::write(&path, "certificates: none\n".repeat(100)).unwrap();
    assert!(matches!(try_open(&path), Err(OpenError::NotALedger { .. })));
    assert_eq!(fs::read(&path).unwrap(), "certificates: none\n".repeat(100).as_bytes());

    let theirs = folder.path().join("theirs.db");
    Connection::open(&theirs).unwrap().execute_batch("CREATE TABLE theirs (a); INSERT INTO theirs VALUES (1)").unwrap();
    let before = fs::read(&theirs).unwrap();
    assert!(matches!(try_open(&theirs), Err(OpenError::NotALedger { .. })));
    assert_eq!(fs::read(&theirs).unwrap(), before);

    assert!(matches!(try_open(folder.path()), Err(OpenError::NotALedger { .. })));
    assert!(matches!(try_open(&folder.path().join("missing/ledger.db")), Err(OpenError::Engine { .. })));
    assert!(matches!(try_open(Path::new("/dev/null")), Err(OpenError::NotALedger { .. })));

    let newer = folder.path().join("newer.db");
    drop(open(&newer));
    Connection::open(&newer).unwrap().execute_batch("PRAGMA user_version = 1000").unwrap();
    assert!(matches!(try_open(&newer), Err(OpenError::TooNew { found: 1_000, .. })));

    // What a crash between the creation of the file and of its tables leaves.
    let empty = folder.path().join("empty.db");
    fs::write(&empty, "").unwrap();
    drop(open(&empty));
}

#[test]
fn no_ledger_is_made_without_randomness() {
    #[derive(Debug)]
    struct Dry;
    impl Entropy for Dry {
        fn fill(&self, _: &mut [u8]) -> Result<(), NoEntropy> {
            Err(NoEntropy)
        }
    }
    let (_folder, path) = place();
    assert!(matches!(SqliteLedger::open(&path, &Dry), Err(OpenError::Engine { .. })));
    assert!(!path.exists());
}

#[tokio::test]
async fn the_log_is_flushed_at_every_commit() {
    let (_folder, path) = place();
    let ledger = ready(&path).await;
    ledger.record(leaf(0)).await.unwrap();
    // A copy of the files at this moment, as after kill -9, has it.
    let copy = beside(&path, ".copy");
    fs::copy(&path, &copy).unwrap();
    fs::copy(beside(&path, "-wal"), beside(&copy, "-wal")).unwrap();
    assert_eq!(serials(&open(&copy)).await, [serial(0)]);
}

#[tokio::test]
async fn what_is_written_can_be_read_back_by_any_tool() {
    let (_folder, path) = place();
    let ledger = ready(&path).await;
    ledger.record_bundle(4, "pem\n", START).await.unwrap();
    ledger.replica_serves("replica-a", FIRST, 4, START).await.unwrap();
    let entry = |detail: &str| AuditEntry {
        at: START,
        actor: "local".to_owned(),
        action: "rotate".to_owned(),
        detail: detail.to_owned(),
        reason: "because".to_owned(),
    };
    ledger.audit(entry("'); DROP TABLE audit; --")).await.unwrap();
    ledger.close_generation(FIRST, START + Duration::HOUR).await.unwrap();
    ledger.close_generation(FIRST, START + Duration::DAY).await.unwrap();
    drop(ledger);

    let connection = Connection::open(&path).unwrap();
    let one = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
    let start = 1_793_534_400_123_456_i64;
    assert_eq!(one("SELECT number || pem || at FROM bundles"), format!("4pem\n{start}"));
    assert_eq!(one("SELECT id || generation || bundle_number || seen_at FROM replicas"), format!("replica-a14{start}"));
    assert_eq!(one("SELECT at || actor || action || detail || reason FROM audit"), format!("{start}localrotate'); DROP TABLE audit; --because"));
    let hour_later = start + 3_600_000_000;
    assert_eq!(one("SELECT authority || opened_at || closed_at FROM generations"), format!("{}{start}{hour_later}", issuer()));
    assert_eq!(one("PRAGMA integrity_check"), "ok");
}

#[tokio::test]
async fn a_revoked_certificate_is_told_from_the_others() {
    let (_folder, path) = place();
    let ledger = ready(&path).await;
    for number in 0..3 {
        ledger.record(leaf(number)).await.unwrap();
    }
    // Nothing of ours revokes yet; the schema and the questions are ready for it.
    let by_hand = Connection::open(&path).unwrap();
    let at = 1_793_534_400_123_456_i64;
    by_hand.execute("UPDATE certificates SET revoked_at = ?1, revoked_reason = 'keyCompromise' WHERE serial = ?2", (at, serial(1))).unwrap();

    let revoked = CertificateFilter { state: Some(State::Revoked), ..CertificateFilter::default() };
    let page = ledger.list(&revoked, None, 10, START).await.unwrap();
    assert_eq!(page.certificates.len(), 1);
    let revocation = page.certificates[0].revoked.clone().unwrap();
    assert_eq!((revocation.at, revocation.reason.as_str()), (START, "keyCompromise"));
    for (state, now, expected) in [
        (State::Valid, START, vec![serial(2), serial(0)]),
        (State::Expired, START, vec![]),
        (State::Expired, START + Duration::days(9), vec![serial(2), serial(0)]),
        (State::Revoked, START + Duration::days(9), vec![serial(1)]),
    ] {
        let filter = CertificateFilter { state: Some(state), ..CertificateFilter::default() };
        assert_eq!(walk(&ledger, &filter, 1, now).await, expected, "{state:?} at {now}");
    }
    let stats = ledger.stats(START).await.unwrap();
    assert_eq!((stats.total, stats.valid, stats.expired, stats.revoked, stats.live_holders), (3, 2, 0, 1, 2));
}

#[tokio::test]
async fn a_ledger_that_was_moved_away_is_unavailable_until_it_is_back() {
    let (folder, path) = place();
    let ledger = ready(&path).await;
    ledger.record(leaf(0)).await.unwrap();
    let away = folder.path().join("away.db");
    fs::rename(&path, &away).unwrap();
    for _ in 0..2 {
        assert!(reason(ledger.record(leaf(1)).await).contains("is gone"));
        assert!(reason(ledger.check_writable().await).contains("is gone"));
        assert!(reason(ledger.find_serial(&serial(0)).await).contains("is gone"));
    }
    fs::rename(&away, &path).unwrap();
    assert_eq!(serials(&ledger).await, [serial(0)]);
    ledger.record(leaf(1)).await.unwrap();
    drop(ledger);
    assert_eq!(serials(&open(&path)).await, [serial(1), serial(0)]);
}

#[tokio::test]
async fn another_file_in_its_place_is_never_written() {
    let (folder, path) = place();
    let ledger = ready(&path).await;
    ledger.record(leaf(0)).await.unwrap();
    let stranger = folder.path().join("stranger.db");
    let stranger_id = open(&stranger).id().to_owned();
    let copy = folder.path().join("copy.db");
    fs::copy(&path, &copy).unwrap();
    let away = folder.path().join("away.db");

    for (replacement, expected) in [(&stranger, stranger_id.as_str()), (&copy, "a copy of this ledger")] {
        let bytes = fs::read(replacement).unwrap();
        fs::rename(&path, &away).unwrap();
        fs::rename(replacement, &path).unwrap();
        for _ in 0..2 {
            let told = reason(ledger.record(leaf(1)).await);
            assert!(told.contains("replaced") && told.contains(expected), "{told}");
        }
        assert!(reason(ledger.stats(START).await).contains("replaced"));
        assert_eq!(fs::read(&path).unwrap(), bytes);
        fs::rename(&away, &path).unwrap();
        assert_eq!(serials(&ledger).await, [serial(0)], "the original is taken up again");
    }
    ledger.record(leaf(1)).await.unwrap();
}

#[tokio::test]
async fn a_log_that_was_deleted_loses_nothing() {
    for suffix in ["-wal", "-shm"] {
        let (_folder, path) = place();
        let ledger = ready(&path).await;
        ledger.record(leaf(0)).await.unwrap();
        assert_eq!(serials(&ledger).await, [serial(0)]);
        fs::remove_file(beside(&path, suffix)).unwrap();
        assert!(reason(ledger.find_serial(&serial(0)).await).contains("is gone"), "{suffix}: a reader would make a new, empty one");
        ledger.record(leaf(1)).await.unwrap();
        assert_eq!(serials(&ledger).await, [serial(1), serial(0)], "{suffix}");
        // As after kill -9: what is in the folder now has both.
        let copy = beside(&path, ".copy");
        fs::copy(&path, &copy).unwrap();
        fs::copy(beside(&path, "-wal"), beside(&copy, "-wal")).unwrap();
        assert_eq!(serials(&open(&copy)).await, [serial(1), serial(0)], "{suffix}");
        let check: String = Connection::open(&copy).unwrap().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
    }
}

/// A file system of one size, mounted for a test. It needs root, as `tests/run` has it.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(folder.path()).status().unwrap();
        assert!(mounted.success(), "this test mounts a tmpfs, which takes root");
        Self(folder)
    }

    /// Takes every byte that is left.
    fn fill(&self) -> PathBuf {
        let filler = self.0.path().join("filler");
        let mut file = fs::File::create(&filler).unwrap();
        let error = std::io::copy(&mut std::io::repeat(7), &mut file).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        filler
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a test that failed still has files open.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_lets_no_certificate_out_and_recovers_alone() {
    let disk = SmallDisk::mount("4m");
    let path = disk.0.path().join("ledger.db");
    let ledger: Arc<dyn Ledger> = Arc::new(ready(&path).await);
    let mut acknowledged = Vec::new();
    for round in 0..3_u64 {
        let filler = disk.fill();
        let mut tasks = JoinSet::new();
        // More than the space that the log has reserved can take.
        for number in 0..1_500 {
            let ledger = Arc::clone(&ledger);
            let number = round * 10_000 + number;
            tasks.spawn(async move { (number, ledger.record(leaf(number)).await) });
        }
        let mut refused = 0;
        while let Some(done) = tasks.join_next().await {
            match done.unwrap() {
                (number, Ok(())) => acknowledged.push(serial(number)),
                (_, Err(LedgerError::Unavailable(_))) => refused += 1,
                (number, Err(error)) => panic!("{number}: {error}"),
            }
        }
        assert!(refused > 0, "the disk was never full");
        fs::remove_file(filler).unwrap();
        ledger.check_writable().await.unwrap();
        ledger.record(leaf(round * 10_000 + 5_000)).await.unwrap();
        acknowledged.push(serial(round * 10_000 + 5_000));

        let on_record = serials(ledger.as_ref()).await;
        for serial in &acknowledged {
            assert!(on_record.contains(serial));
        }
        // Room for the next round; what is pruned is no longer looked for.
        while ledger.prune(START + Duration::days(30), 1_000).await.unwrap() > 0 {}
        acknowledged.clear();
    }
    drop(ledger);
    let check: String = Connection::open(&path).unwrap().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}

#[tokio::test]
async fn a_full_disk_is_refused_when_a_ledger_is_made() {
    let disk = SmallDisk::mount("64k");
    disk.fill();
    let path = disk.0.path().join("ledger.db");
    assert!(matches!(try_open(&path), Err(OpenError::Engine { .. })));
    fs::remove_file(disk.0.path().join("filler")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_are_answered_while_somebody_else_holds_the_file() {
    let (_folder, path) = place();
    let ledger = Arc::new(ready(&path).await);
    ledger.record(leaf(0)).await.unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let writing = tokio::spawn({
        let ledger = Arc::clone(&ledger);
        async move { ledger.record(leaf(1)).await }
    });
    assert_eq!(serials(ledger.as_ref()).await, [serial(0)], "readers don't wait for writers");
    other.execute_batch("COMMIT").unwrap();
    writing.await.unwrap().unwrap();

    // Beyond the patience of the writer: refused, and all is well afterwards.
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(reason(ledger.record(leaf(2)).await).contains("locked"));
    other.execute_batch("ROLLBACK").unwrap();
    ledger.record(leaf(2)).await.unwrap();
    assert_eq!(serials(ledger.as_ref()).await, [serial(2), serial(1), serial(0)]);
}

/// Has a bug.
#[derive(Debug)]
struct Buggy;

impl CommitObserver for Buggy {
    fn commit(&self, _: usize, _: std::time::Duration, _: bool) {
        panic!("a bug in who is told of a commit");
    }
}

#[tokio::test]
async fn a_writer_that_is_gone_is_noticed_and_one_that_is_closed_is_not() {
    let (_folder, path) = place();
    let open = |observer: Arc<dyn CommitObserver>| {
        let vigil = Vigil::default();
        let watch = CommitWatch { clock: SystemClock::shared(), observer, vigil: vigil.clone() };
        (SqliteLedger::open_watched(&path, SystemEntropy::shared().as_ref(), watch).unwrap(), vigil)
    };
    let (ledger, vigil) = open(Arc::new(Quiet));
    ledger.open_generation(FIRST, &issuer(), START).await.unwrap();
    // Waits until both of its threads have ended.
    drop(ledger);
    assert!(vigil.first_ended().now_or_never().is_none());

    let (ledger, vigil) = open(Arc::new(Buggy));
    reason(ledger.check_writable().await);
    assert_eq!(vigil.first_ended().await, Ended { task: "ledger's writer", panicked: true });
}

/// Has none.
#[derive(Debug)]
struct Quiet;

impl CommitObserver for Quiet {
    fn commit(&self, _: usize, _: std::time::Duration, _: bool) {}
}
