//! What is PostgreSQL's own: servers that die, freeze, fill up or are exchanged, several replicas at once, and whom we connect to.
#![cfg(feature = "service")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failure here is the test's answer")]

#[path = "common/ledger.rs"]
mod common;
#[path = "common/postgres.rs"]
mod server;
#[path = "common/small_disk.rs"]
mod small_disk;

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{FIRST, START, issuer, leaf, serial, walk};
use meshmint::authority::GenerationNumber;
use meshmint::clock::{SystemClock, SystemEntropy};
use meshmint::ledger::postgres::{PostgresLedger, PostgresSettings};
use meshmint::ledger::{CertificateFilter, CertificateRecord, CommitObserver, CommitWatch, Kind, Ledger, LedgerError, OpenError, Standby};
use meshmint::tasks::{Ended, Vigil};
use server::{Database, Postgres};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

fn settings(database: &Database) -> PostgresSettings {
    PostgresSettings {
        url: database.url(),
        ca_file: Some(database.ca_file.clone()),
        password_file: Some(database.password_file.clone()),
        pool_size: 3,
        retention: Duration::from_secs(30 * 86_400),
        start_patience: Duration::ZERO,
    }
}

async fn try_open(settings: &PostgresSettings, replica: &str) -> Result<PostgresLedger, OpenError> {
    PostgresLedger::open(settings, replica, SystemClock::shared(), SystemEntropy::shared().as_ref(), None).await
}

async fn open(database: &Database, replica: &str) -> Arc<PostgresLedger> {
    Arc::new(try_open(&settings(database), replica).await.unwrap())
}

/// The ledger with the first generation open.
async fn ready(database: &Database, replica: &str) -> Arc<PostgresLedger> {
    let ledger = open(database, replica).await;
    ledger.open_generation(FIRST, &issuer(), START).await.unwrap();
    ledger
}

/// Why it could not be opened.
async fn refusal(settings: &PostgresSettings) -> String {
    try_open(settings, "r").await.err().unwrap().to_string()
}

/// A serial that begins with this time, as ours do.
fn serial_at(at: OffsetDateTime, number: u64) -> Vec<u8> {
    let prefix = u32::try_from(at.unix_timestamp() >> 2).unwrap();
    [&prefix.to_be_bytes()[..], &[7; 8], &number.to_be_bytes()].concat()
}

/// Asks until it is so.
async fn until<F: Future<Output = bool>>(what: &str, ask: impl Fn() -> F) {
    let began = Instant::now();
    while !ask().await {
        assert!(began.elapsed() < Duration::from_secs(60), "timed out: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Tasks that record all the time.
struct Load {
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<std::sync::Mutex<Vec<u64>>>,
    refused: Arc<AtomicU64>,
    slowest: Arc<AtomicU64>,
}

impl Load {
    fn on(ledger: &Arc<PostgresLedger>, tasks: u64, first: u64) -> Self {
        let load =
            Self { tasks: JoinSet::new(), stop: Arc::default(), acknowledged: Arc::default(), refused: Arc::default(), slowest: Arc::default() };
        let mut load = load;
        for task in 0..tasks {
            let (ledger, stop, acknowledged) = (Arc::clone(ledger), Arc::clone(&load.stop), Arc::clone(&load.acknowledged));
            let (refused, slowest) = (Arc::clone(&load.refused), Arc::clone(&load.slowest));
            load.tasks.spawn(async move {
                for round in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let number = first + round * tasks + task;
                    let began = Instant::now();
                    match ledger.record(leaf(number)).await {
                        Ok(()) => acknowledged.lock().unwrap().push(number),
                        Err(LedgerError::Unavailable(_)) => {
                            refused.fetch_add(1, Ordering::SeqCst);
                            // As an agent would.
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                        Err(error) => panic!("{number}: {error}"),
                    }
                    slowest.fetch_max(u64::try_from(began.elapsed().as_millis()).unwrap(), Ordering::SeqCst);
                }
            });
        }
        load
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// Waits until so many more were acknowledged.
    async fn more(&self, count: usize) {
        let wanted = self.count() + count;
        until("more is acknowledged", || async { self.count() >= wanted }).await;
    }

    async fn end(mut self) -> Vec<u64> {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(done) = self.tasks.join_next().await {
            done.unwrap();
        }
        std::mem::take(&mut self.acknowledged.lock().unwrap())
    }
}

/// Every one of these is on record.
async fn all_on_record(ledger: &dyn Ledger, acknowledged: &[u64]) {
    let on_record: BTreeSet<_> = walk(ledger, &CertificateFilter::default(), 1_000, START).await.into_iter().collect();
    let missing: Vec<_> = acknowledged.iter().filter(|number| !on_record.contains(&serial(**number))).collect();
    assert!(missing.is_empty(), "{} of {} were answered and are not on record", missing.len(), acknowledged.len());
    assert_eq!(ledger.stats(START).await.unwrap().total, u64::try_from(on_record.len()).unwrap(), "the counts agree");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_again_and_again_under_load_loses_nothing() {
    let server = Postgres::start();
    let database = server.database();
    let ledger = ready(&database, "a").await;
    let load = Load::on(&ledger, 16, 0);
    for round in 0..4 {
        load.more(200).await;
        server.kill();
        if round == 2 {
            // Longer than anybody waits: refused at once meanwhile.
            let before = load.refused.load(Ordering::SeqCst);
            until("they are refused", || async { load.refused.load(Ordering::SeqCst) > before + 50 }).await;
        }
        server.begin();
    }
    load.more(200).await;
    assert!(load.slowest.load(Ordering::SeqCst) < 10_000, "nobody waited without bound");
    let acknowledged = load.end().await;
    all_on_record(ledger.as_ref(), &acknowledged).await;
    assert_eq!(ledger.figures().lost, 0);
    // Who saw it dies doesn't matter: a new process finds the same.
    let other = open(&database, "b").await;
    all_on_record(other.as_ref(), &acknowledged).await;
    assert_eq!(other.figures().certificates, other.stats(START).await.unwrap().total);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_outage_delays_and_refuses_nobody() {
    let server = Postgres::start();
    let database = server.database();
    let ledger = ready(&database, "a").await;
    let load = Load::on(&ledger, 8, 0);
    load.more(100).await;
    // Every connection is ended in the middle of its work, as an operator or a proxy would.
    for _ in 0..5 {
        server.sql("postgres", "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'meshmint'");
        load.more(100).await;
    }
    assert_eq!(load.refused.load(Ordering::SeqCst), 0);
    let acknowledged = load.end().await;
    all_on_record(ledger.as_ref(), &acknowledged).await;
    // Each was recorded once, however often it was sent.
    assert_eq!(ledger.stats(START).await.unwrap().total, u64::try_from(acknowledged.len()).unwrap());
    assert_eq!(ledger.figures().lost, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_is_waited_for_in_bounded_time() {
    let server = Postgres::start();
    let ledger = ready(&server.database(), "a").await;
    ledger.record(leaf(0)).await.unwrap();
    server.freeze();
    let began = Instant::now();
    assert!(matches!(ledger.record(leaf(1)).await, Err(LedgerError::Unavailable(_))));
    let waited = began.elapsed();
    assert!(waited > Duration::from_secs(1) && waited < Duration::from_secs(8), "{waited:?}");
    // From then on at once.
    let began = Instant::now();
    for number in 2..20 {
        assert!(matches!(ledger.record(leaf(number)).await, Err(LedgerError::Unavailable(_))));
    }
    assert!(matches!(ledger.check_writable().await, Err(LedgerError::Unavailable(_))));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(matches!(ledger.find_serial(&serial(0)).await, Err(LedgerError::Unavailable(_))));
    server.thaw();
    until("it recovers alone", || async {
        ledger.record(leaf(30)).await != Err(LedgerError::Unavailable(String::new())) && ledger.check_writable().await.is_ok()
    })
    .await;
    ledger.record(leaf(31)).await.unwrap();
    assert_eq!(ledger.find_serial(&serial(31)).await.unwrap().len(), 1);
    assert_eq!(ledger.figures().lost, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_takes_over_without_the_latest_records_is_noticed() {
    let server = Postgres::start();
    let database = server.database();
    let standby = server.standby();
    let url = database.url_with(&standby);
    let both = PostgresSettings { url, ..settings(&database) };
    let ledger = Arc::new(try_open(&both, "a").await.unwrap());
    ledger.open_generation(FIRST, &issuer(), START).await.unwrap();
    ledger.check_writable().await.unwrap();
    assert_eq!(ledger.figures().standby, Standby::Asynchronous);
    for number in 0..20 {
        ledger.record(leaf(number)).await.unwrap();
    }
    server.until("the standby has it all", "SELECT bool_and(replay_lsn >= pg_current_wal_lsn()) FROM pg_stat_replication");
    standby.cut_off();
    for number in 20..50 {
        ledger.record(leaf(number)).await.unwrap();
    }
    server.kill();
    standby.promote();
    until("it goes on there", || async { ledger.check_writable().await.is_ok() }).await;
    let lost = ledger.figures().lost;
    assert_eq!((lost, ledger.stats(START).await.unwrap().total), (30, 20), "to the last one");
    ledger.record(leaf(60)).await.unwrap();
    assert_eq!(ledger.figures().lost, lost, "once");
    assert_eq!(ledger.figures().standby, Standby::Absent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synchronous_standby_has_every_answer() {
    let server = Postgres::start();
    let database = server.database();
    let standby = server.standby();
    server.wait_for_standby();
    let both = PostgresSettings { url: database.url_with(&standby), ..settings(&database) };
    let ledger = Arc::new(try_open(&both, "a").await.unwrap());
    ledger.open_generation(FIRST, &issuer(), START).await.unwrap();
    assert_eq!(ledger.figures().standby, Standby::Synchronous);
    let load = Load::on(&ledger, 8, 0);
    load.more(300).await;
    // With the standby away nothing is answered, however long and however often it is tried: the server commits, but only here.
    standby.freeze();
    let (answered, refused) = (load.count(), load.refused.load(Ordering::SeqCst));
    until("they are refused", || async { load.refused.load(Ordering::SeqCst) > refused + 20 }).await;
    assert!(load.count() <= answered + 8, "what was under way at most");
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'meshmint' AND wait_event = 'SyncRep'";
    assert!(server.sql("postgres", waiting).parse::<u32>().unwrap() <= 3, "nobody is left waiting for good");
    standby.thaw();
    load.more(300).await;
    server.kill();
    standby.promote();
    load.more(300).await;
    let acknowledged = load.end().await;
    all_on_record(ledger.as_ref(), &acknowledged).await;
    assert_eq!(ledger.figures().lost, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_lets_no_certificate_out_and_recovers_alone() {
    let disk = small_disk::SmallDisk::mount("160m");
    fs::set_permissions(disk.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let folder = tempfile::tempdir_in(disk.path()).unwrap();
    let server = Postgres::start_in(folder);
    let database = server.database();
    let ledger = ready(&database, "a").await;
    let load = Load::on(&ledger, 8, 0);
    load.more(100).await;
    let filler = disk.fill();
    let refused = load.refused.load(Ordering::SeqCst);
    until("they are refused", || async { load.refused.load(Ordering::SeqCst) > refused + 50 }).await;
    fs::remove_file(filler).unwrap();
    // Without room for its log the server ends itself; whoever keeps it starts it again.
    if !server.runs() {
        server.kill();
        server.begin();
    }
    load.more(100).await;
    let acknowledged = load.end().await;
    all_on_record(ledger.as_ref(), &acknowledged).await;
    assert_eq!(ledger.figures().lost, 0);
    drop(ledger);
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_share_one_fence() {
    let database = Postgres::shared().database();
    let (one, two) = tokio::join!(ready(&database, "a"), ready(&database, "b"));
    assert_eq!(one.id(), two.id(), "two that start at once make one ledger");
    for round in 1..=5_u64 {
        let generation = GenerationNumber(round + 1);
        one.open_generation(generation, &issuer(), START).await.unwrap();
        two.open_generation(generation, &issuer(), START).await.unwrap();
        let accepted = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for task in 0..8 {
            let (ledger, accepted) = (Arc::clone(if task % 2 == 0 { &one } else { &two }), Arc::clone(&accepted));
            tasks.spawn(async move {
                for number in 0.. {
                    let record = CertificateRecord { generation, ..leaf(round * 1_000_000 + number * 8 + task) };
                    match ledger.record(record).await {
                        Ok(()) => accepted.fetch_add(1, Ordering::SeqCst),
                        Err(LedgerError::Fenced(fenced)) if fenced == generation => return,
                        Err(error) => panic!("{error}"),
                    };
                }
            });
        }
        until("both record", || async { accepted.load(Ordering::SeqCst) > 50 }).await;
        one.close_generation(generation, START).await.unwrap();
        let filter = CertificateFilter { generation: Some(generation), ..CertificateFilter::default() };
        let at_close = walk(two.as_ref(), &filter, 1_000, START).await;
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        assert_eq!(walk(two.as_ref(), &filter, 1_000, START).await, at_close, "none came in later, by whichever replica");
        assert_eq!(accepted.load(Ordering::SeqCst), at_close.len() as u64);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_misses_nothing_of_two_replicas() {
    let database = Postgres::shared().database();
    let (one, two) = (ready(&database, "a").await, ready(&database, "b").await);
    let everything = CertificateFilter::default();
    let mut after = one.follow(&everything, None, 10, START).await.unwrap().next;
    let loads = [Load::on(&one, 6, 0), Load::on(&two, 6, 1_000_000)];
    let mut seen = Vec::new();
    while seen.len() < 3_000 {
        let page = one.follow(&everything, after, 100, START).await.unwrap();
        after = page.next;
        seen.extend(page.certificates.into_iter().map(|stored| stored.record.serial));
    }
    let mut acknowledged = Vec::new();
    for load in loads {
        acknowledged.extend(load.end().await);
    }
    loop {
        let page = one.follow(&everything, after, 1_000, START).await.unwrap();
        after = page.next;
        if page.certificates.is_empty() {
            break;
        }
        seen.extend(page.certificates.into_iter().map(|stored| stored.record.serial));
    }
    let mut expected: Vec<_> = acknowledged.iter().map(|number| serial(*number)).collect();
    let once: BTreeSet<_> = seen.iter().cloned().collect();
    assert_eq!(once.len(), seen.len(), "nothing twice");
    expected.sort();
    assert_eq!(once.into_iter().collect::<Vec<_>>(), expected, "nothing missed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_under_way_holds_followers_back_until_it_is_there() {
    let server = Postgres::shared();
    let database = server.database();
    let ledger = ready(&database, "a").await;
    // The class of all of them, which else the first one would make and the second one wait for.
    ledger.record(leaf(0)).await.unwrap();
    let everything = CertificateFilter::default();
    let start = ledger.follow(&everything, None, 10, START).await.unwrap().next;
    let second = open(&database, "b").await;
    // A serial that somebody has inserted and not committed yet: whoever records it waits.
    let held = hex::encode(serial(1));
    let blocker = std::thread::spawn({
        let name = database.name.clone();
        move || {
            let insert = format!(
                "INSERT INTO meshmint.leaves (id, class, issued_at, not_before, not_after, replica_sequence, minute, serial, issuer, sha256, \
                 profile_digest, credential, replica, der) VALUES (0, 0, 0, 0, 0, 0, 0, '\\x{held}', '{}', '\\x00', '', '', '', '\\x00')",
                issuer()
            );
            server.try_sql(&name, &format!("BEGIN; {insert}; SELECT pg_sleep(60)")).unwrap_err()
        }
    });
    let is_there = |which: &str| format!("SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = '{}' AND {which}", database.name);
    server.until("somebody holds it", &is_there("wait_event = 'PgSleep'"));
    let waiting = tokio::spawn({
        let ledger = Arc::clone(&ledger);
        async move { ledger.record(leaf(1)).await }
    });
    server.until("ours waits for it", &is_there("wait_event_type = 'Lock'"));
    second.record(leaf(2)).await.unwrap();
    let page = second.follow(&everything, start, 10, START).await.unwrap();
    assert_eq!(page.certificates.len(), 0, "number 2 has a higher place than number 1, which isn't there yet");
    server.sql(
        "postgres",
        &format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}' AND wait_event = 'PgSleep'", database.name),
    );
    blocker.join().unwrap();
    waiting.await.unwrap().unwrap();
    let page = second.follow(&everything, page.next, 10, START).await.unwrap();
    let found: Vec<_> = page.certificates.into_iter().map(|stored| stored.record.serial).collect();
    assert_eq!(found, [serial(1), serial(2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaves_are_forgotten_a_day_at_a_time() {
    let server = Postgres::shared();
    let database = server.database();
    let ledger = ready(&database, "a").await;
    let tables =
        || server.sql(&database.name, "SELECT count(*) FROM pg_inherits WHERE inhparent = 'meshmint.leaves'::regclass").parse::<i64>().unwrap();
    assert_eq!(tables(), 10, "a day back, today, a week ahead, and the rest");
    let now = OffsetDateTime::now_utc();
    let issued = |number: u64, days: i64, lifetime: time::Duration| {
        let issued_at = now + time::Duration::days(days);
        CertificateRecord { serial: serial_at(issued_at, number), issued_at, not_after: issued_at + lifetime, ..leaf(number) }
    };
    let day = time::Duration::DAY;
    for record in [issued(1, 0, day), issued(2, 0, 3 * day), issued(3, 1, day), issued(4, 5, day)] {
        ledger.record(record).await.unwrap();
    }
    let in_default = "SELECT count(*) FROM meshmint.leaves_default";
    assert_eq!(server.sql(&database.name, in_default), "0");
    assert_eq!(ledger.prune(now + day + time::Duration::HOUR, 100).await.unwrap(), 0, "one of today's lives until the third day");
    assert_eq!(tables(), 9, "yesterday's was empty");
    let gone = ledger.prune(now + 4 * day, 100).await.unwrap();
    assert_eq!((gone, tables()), (3, 5), "those of today and of the next three days");
    let stats = ledger.stats(now).await.unwrap();
    assert_eq!((stats.total, stats.valid), (1, 1));
    assert_eq!(ledger.holder(&leaf(1).holder.unwrap()).await.unwrap(), None);
    assert_eq!(ledger.find_serial(&serial_at(now + 5 * day, 4)).await.unwrap().len(), 1);
    assert_eq!(ledger.figures().pruned, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_before_its_table_moves_into_it() {
    let server = Postgres::shared();
    let database = server.database();
    let ledger = ready(&database, "a").await;
    // A replica whose clock is two weeks ahead.
    let ahead = OffsetDateTime::now_utc() + time::Duration::days(14);
    ledger.record(CertificateRecord { serial: serial_at(ahead, 1), ..leaf(1) }).await.unwrap();
    assert_eq!(server.sql(&database.name, "SELECT count(*) FROM meshmint.leaves_default"), "1");
    let day = ahead.unix_timestamp() / 86_400 * 21_600;
    server.sql(&database.name, &format!("SELECT meshmint.make_range_1({day}, {})", day + 21_600));
    assert_eq!(server.sql(&database.name, "SELECT count(*) FROM meshmint.leaves_default"), "0");
    assert_eq!(server.sql(&database.name, &format!("SELECT count(*) FROM meshmint.leaves_{day}")), "1");
    assert_eq!(ledger.find_serial(&serial_at(ahead, 1)).await.unwrap()[0].record.serial, serial_at(ahead, 1));
    let again = CertificateRecord { serial: serial_at(ahead, 1), ..leaf(2) };
    assert!(matches!(ledger.record(again).await, Err(LedgerError::Duplicate(_))));
    assert_eq!(ledger.stats(START).await.unwrap().total, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_ours_are_no_leaves() {
    let server = Postgres::shared();
    let database = server.database();
    let ledger = ready(&database, "a").await;
    let kinds = [Kind::Serving, Kind::Intermediate, Kind::Cross, Kind::Root];
    for (kind, number) in kinds.into_iter().zip(0..) {
        ledger.record(common::bare(number, kind)).await.unwrap();
    }
    ledger.record(leaf(9)).await.unwrap();
    assert_eq!(server.sql(&database.name, "SELECT count(*) FROM meshmint.others"), "4");
    // Not even across the two tables is a serial taken twice.
    for record in [leaf(2), common::bare(9, Kind::Root)] {
        assert!(matches!(ledger.record(record).await, Err(LedgerError::Duplicate(_))));
    }
    let late = common::bare(20, Kind::Root);
    let far = CertificateRecord { not_after: time::macros::datetime!(9999-12-31 23:59:59 UTC), ..late };
    ledger.record(far.clone()).await.unwrap();
    assert_eq!(ledger.find_serial(&serial(20)).await.unwrap()[0].record, far);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_work_side_by_side() {
    let server = Postgres::shared();
    let database = server.database();
    let running = ready(&database, "old").await;
    let load = Load::on(&running, 4, 0);
    load.more(50).await;
    // What a later version would do, while an older one is at work.
    server.sql(
        &database.name,
        "BEGIN; SELECT pg_advisory_xact_lock(1297307726, 2); ALTER TABLE meshmint.others ADD COLUMN note text; \
         ALTER TABLE meshmint.replicas ADD COLUMN name text; CREATE TABLE meshmint.crls (number bigint PRIMARY KEY); \
         UPDATE meshmint.meta SET version = 2; COMMIT;",
    );
    load.more(50).await;
    assert_eq!(load.refused.load(Ordering::SeqCst), 0);
    let also_old = open(&database, "old too").await;
    also_old.record(leaf(900_000)).await.unwrap();
    assert_eq!(server.sql(&database.name, "SELECT version FROM meshmint.meta"), "2", "it doesn't go back");

    // And one that needs more than we know.
    server.sql(&database.name, "UPDATE meshmint.meta SET version = 7, oldest = 7");
    let refused = try_open(&settings(&database), "r").await;
    assert!(matches!(refused, Err(OpenError::TooNew { found: 7, known: 1, .. })), "{refused:?}");
    all_on_record(running.as_ref(), &load.end().await[..]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_start_at_once_make_one_ledger() {
    let database = Postgres::shared().database();
    let mut tasks = JoinSet::new();
    for number in 0..6 {
        let database = database.clone();
        tasks.spawn(async move { open(&database, &format!("r{number}")).await.id().to_owned() });
    }
    let mut ids = BTreeSet::new();
    while let Some(id) = tasks.join_next().await {
        ids.insert(id.unwrap());
    }
    assert_eq!(ids.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_answers_is_verified_and_refusals_say_what_to_do() {
    let server = Postgres::shared();
    let database = server.database();
    let good = settings(&database);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        Some(path)
    };
    let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap().cert;
    let own = pem_rfc7468::encode_string("CERTIFICATE", pem_rfc7468::LineEnding::LF, own.der()).unwrap();
    let url = |user: &str, host: &str, port: u16, name: &str| format!("postgresql://{user}@{host}:{port}/{name}");
    let (own_name, port) = (database.name.as_str(), database.port);
    let cases = [
        (PostgresSettings { ca_file: file("other.pem", &own), ..good.clone() }, "UnknownIssuer"),
        (PostgresSettings { url: url(own_name, "127.0.0.1", port, own_name), ..good.clone() }, "not valid for name"),
        (PostgresSettings { ca_file: Some(folder.path().join("missing.pem")), ..good.clone() }, "can't read"),
        (PostgresSettings { ca_file: file("empty.pem", "nothing"), ..good.clone() }, "there is no CERTIFICATE block in it"),
        (PostgresSettings { password_file: file("wrong", "wrong-and-secret\n"), ..good.clone() }, "password authentication failed"),
        (PostgresSettings { password_file: None, ..good.clone() }, "passwordFile"),
        (PostgresSettings { url: url(own_name, "localhost", port, "nowhere"), ..good.clone() }, "does not exist"),
        (PostgresSettings { url: url("nobody", "localhost", port, own_name), ..good.clone() }, "password authentication failed"),
        (PostgresSettings { url: url(own_name, "localhost", port, "postgres"), ..good.clone() }, "permission denied"),
        (PostgresSettings { url: url(own_name, "localhost", 1, own_name), ..good.clone() }, "refused"),
    ];
    for (settings, expected) in cases {
        let told = refusal(&settings).await;
        assert!(told.contains(expected), "{expected}: {told}");
        assert!(!told.contains("secret"), "{told}");
    }
    // An unencrypted connection only where somebody says so.
    let plain = PostgresSettings { url: database.url() + "?sslmode=disable", ca_file: None, ..good };
    try_open(&plain, "r").await.unwrap().check_writable().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_forgets_what_it_commits_is_refused() {
    let server = Postgres::start();
    let database = server.database();
    let ledger = ready(&database, "a").await;
    for (change, said) in [
        ("fsync = off", ["fsync", "could be lost"]),
        ("synchronous_commit = off", ["synchronous_commit", "could be lost"]),
        ("synchronous_commit = local", ["synchronous_commit", "could be lost"]),
        // Where a statement sees less than what was committed before it, the fence would not hold.
        ("default_transaction_isolation = 'repeatable read'", ["isolation", "must be read committed"]),
    ] {
        let name = change.split(' ').next().unwrap();
        server.sql("postgres", &format!("ALTER SYSTEM SET {change}"));
        server.sql("postgres", "SELECT pg_reload_conf()");
        // Also one that is connected already.
        until("it is refused", || async { ledger.check_writable().await.is_err() }).await;
        let Err(LedgerError::Unavailable(told)) = ledger.record(leaf(1)).await else { panic!("{change} was taken") };
        assert!(said.iter().all(|said| told.contains(said)), "{told}");
        let told = refusal(&settings(&database)).await;
        assert!(told.contains(said[0]), "{told}");
        server.sql("postgres", &format!("ALTER SYSTEM RESET {name}"));
        server.sql("postgres", "SELECT pg_reload_conf()");
        until("it is taken again", || async { ledger.check_writable().await.is_ok() }).await;
    }
    ledger.record(leaf(1)).await.unwrap();
}

/// A pooler as PgBouncer is one by session: it passes everything on, and refuses start-up parameters that it doesn't know. Its port.
async fn pooler(port: u16) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let length = client.read_u32().await.unwrap();
                let mut startup = vec![0; length as usize - 4];
                client.read_exact(&mut startup).await.unwrap();
                // Protocol 3.0, then names and values, each ending in a zero; a request to cancel is another message.
                let names: Vec<_> = startup[4..].split(|byte| *byte == 0).step_by(2).map(|name| String::from_utf8_lossy(name).into_owned()).collect();
                if startup.starts_with(&[0, 3]) && names.iter().any(|name| name == "options") {
                    let said = b"SFATAL\0C08P01\0Munsupported startup parameter: options\0\0";
                    client.write_u8(b'E').await.unwrap();
                    client.write_u32(said.len() as u32 + 4).await.unwrap();
                    client.write_all(said).await.unwrap();
                    return;
                }
                let mut server = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                server.write_u32(length).await.unwrap();
                server.write_all(&startup).await.unwrap();
                _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    own
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_by_session_is_as_good_as_the_database() {
    let database = Postgres::shared().database();
    let name = &database.name;
    let port = pooler(database.port).await;
    let by_pooler = |more: &str| PostgresSettings {
        url: format!("postgresql://{name}@127.0.0.1:{port}/{name}?sslmode=disable{more}"),
        ca_file: None,
        ..settings(&database)
    };
    let ledger = try_open(&by_pooler(""), "a").await.unwrap();
    ledger.open_generation(FIRST, &issuer(), START).await.unwrap();
    ledger.record(leaf(1)).await.unwrap();
    let told = refusal(&by_pooler("&options=-cwork_mem%3D1MB")).await;
    assert!(told.contains("PgBouncer takes no `options`"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_silent_does_not_keep_the_others_from_being_asked() {
    let database = Postgres::shared().database();
    // It takes connections and says nothing, as a frozen server does.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let Database { name, port, .. } = &database;
    let url = format!("postgresql://{name}@localhost:{},localhost:{port}/{name}", silent.local_addr().unwrap().port());
    let ledger = try_open(&PostgresSettings { url, ..settings(&database) }, "a").await.unwrap();
    ledger.open_generation(FIRST, &issuer(), START).await.unwrap();
    ledger.record(leaf(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_ledger_is_left_alone() {
    let server = Postgres::shared();
    let database = server.database();
    server.sql(&database.name, "CREATE SCHEMA meshmint; CREATE TABLE meshmint.theirs (a integer)");
    assert!(refusal(&settings(&database)).await.contains("permission denied for schema meshmint"));
    server.sql(&database.name, &format!("GRANT ALL ON SCHEMA meshmint TO {}", database.name));
    let refused = try_open(&settings(&database), "r").await;
    assert!(matches!(refused, Err(OpenError::NotALedger { .. })), "{refused:?}");

    // A schema that an administrator made for us.
    let database = server.database();
    server.sql(&database.name, &format!("CREATE SCHEMA meshmint AUTHORIZATION {0}; REVOKE CREATE ON DATABASE {0} FROM {0}", database.name));
    ready(&database, "a").await.record(leaf(0)).await.unwrap();

    // Another ledger in the place of ours.
    let ledger = open(&database, "a").await;
    server.sql(&database.name, "UPDATE meshmint.meta SET ledger_id = 'other'");
    server.sql("postgres", &format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{}'", database.name));
    until("it is noticed", || async {
        matches!(ledger.record(leaf(1)).await, Err(LedgerError::Unavailable(told)) if told.contains("another ledger"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_left_late_is_recorded_whatever_the_fence_says() {
    let database = Postgres::shared().database();
    let ledger = ready(&database, "a").await;
    // Of several issuers and kinds, not only of the first one there is.
    ledger.record(common::bare(50, Kind::Root)).await.unwrap();
    ledger.close_generation(FIRST, START).await.unwrap();
    assert_eq!(ledger.record(leaf(1)).await, Err(LedgerError::Fenced(FIRST)));
    for _ in 0..2 {
        ledger.record_late(leaf(1)).await.unwrap();
    }
    let other = CertificateRecord { serial: serial(1), ..leaf(2) };
    assert!(matches!(ledger.record_late(other).await, Err(LedgerError::Duplicate(_))));
    ledger.record_late(CertificateRecord { issuer: common::other_issuer(), serial: serial(1), ..leaf(3) }).await.unwrap();
    assert_eq!(ledger.stats(START).await.unwrap().total, 3);
}

/// Has a bug.
#[derive(Debug)]
struct Buggy;

impl CommitObserver for Buggy {
    fn commit(&self, _: usize, _: Duration, _: bool) {
        panic!("a bug in who is told of a commit");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_is_gone_is_noticed() {
    let server = Postgres::start();
    let database = server.database();
    let (vigil, clock) = (Vigil::default(), SystemClock::shared());
    let watch = CommitWatch { clock: clock.clone(), observer: Arc::new(Buggy), vigil: vigil.clone() };
    let ledger = PostgresLedger::open(&settings(&database), "r", clock, SystemEntropy::shared().as_ref(), Some(watch)).await.unwrap();
    assert!(matches!(ledger.open_generation(FIRST, &issuer(), START).await, Err(LedgerError::Unavailable(_))));
    assert_eq!(vigil.first_ended().await, Ended { task: "ledger's writer", panicked: true });
}
