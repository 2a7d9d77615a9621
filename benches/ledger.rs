//! The ledger at size: `cargo bench --bench ledger -- [ROWS [PART…]]` makes one with that many rows (a million where nothing is said), and
//! measures what a row costs (part `append`), what questions take while rows come in (`ask`), and what pruning does to them (`prune`). `cargo bench --bench ledger -- --fill FILE ROWS`
//! only adds rows to the ledger of a meshmint that isn't running, like its newest leaf. Plain figures for a person to compare on one machine;
//! the client side of the measurement is in them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout)]

#[path = "../tests/common/ledger.rs"]
mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use meshmint::authority::GenerationNumber;
use meshmint::clock::SystemEntropy;
use meshmint::ledger::sqlite::SqliteLedger;
use meshmint::ledger::{CertificateFilter, CertificateRecord, HolderId, Ledger, State};
use rusqlite::{Connection, params};
use time::OffsetDateTime;
use tokio::task::JoinSet;

use crate::common::{FIRST, issuer, leaf};

/// Kernel ticks a second, as /proc counts them (USER_HZ) on every architecture that this runs on.
const TICKS: f64 = 100.0;
const NAMESPACES: u64 = 200;
const ACCOUNTS: u64 = 10;
/// How long rows live, at most; a tenth less at least.
const LIFETIME: i64 = 24 * 3_600;
/// How long each measurement goes on.
const LONG_ENOUGH: Duration = Duration::from_secs(4);

/// Numbers that look random, the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Leaves of a mesh in which every pod has its own holder.
struct Mesh {
    random: Random,
    template: CertificateRecord,
    pods: u64,
    lifetime: i64,
    sequence: u64,
}

impl Mesh {
    fn new(template: CertificateRecord, pods: u64, seed: u64) -> Self {
        Self { random: Random(seed), template, pods, lifetime: LIFETIME, sequence: 0 }
    }

    fn leaf(&mut self, issued_at: OffsetDateTime) -> CertificateRecord {
        self.sequence += 1;
        // Pods renew in turn.
        let pod = self.sequence % self.pods;
        let (namespace, account) = (format!("team-{}", pod % NAMESPACES), format!("service-{}", pod / NAMESPACES % ACCOUNTS));
        let uid = format!("5c4e1f6a-8d2b-4c1d-9e3f-{pod:012x}");
        let mut record = self.template.clone();
        // As `pki::Serial` draws them: seconds in steps of four, then chance.
        let steps = u32::try_from(issued_at.unix_timestamp() >> 2).unwrap();
        record.serial = [&steps.to_be_bytes()[..], &self.random.next().to_be_bytes(), &self.random.next().to_be_bytes()].concat();
        (0..4).for_each(|part| record.sha256[part * 8..][..8].copy_from_slice(&self.random.next().to_be_bytes()));
        record.spiffe_id = Some(format!("spiffe://cluster.local/ns/{namespace}/sa/{account}").parse().unwrap());
        record.holder = Some(HolderId::pod("Kubernetes", &uid));
        record.pod.as_mut().unwrap().uid = uid;
        (record.namespace, record.service_account) = (Some(namespace), Some(account));
        record.issued_at = issued_at;
        record.not_before = issued_at.replace_microsecond(0).unwrap() - time::Duration::minutes(2);
        let jitter = i64::try_from(self.random.below(u64::try_from(self.lifetime / 10).unwrap())).unwrap();
        record.not_after = issued_at.replace_microsecond(0).unwrap() + time::Duration::seconds(self.lifetime - jitter);
        record.replica_sequence = self.sequence;
        record
    }
}

/// Appends rows to a ledger that nobody has open, issued evenly over the last day. They are indexed when it is opened.
fn fill(path: &Path, mesh: &mut Mesh, rows: u64) {
    let mut connection = Connection::open(path).unwrap();
    connection.execute_batch("PRAGMA synchronous = OFF; PRAGMA cache_size = -65536").unwrap();
    let newest: i64 =
        connection.query_row("SELECT max(last_id, coalesce((SELECT max(id) FROM certificates), 0)) FROM meta", [], |row| row.get(0)).unwrap();
    let begin = OffsetDateTime::now_utc() - time::Duration::seconds(LIFETIME);
    let micros = |at: OffsetDateTime| i64::try_from(at.unix_timestamp_nanos() / 1_000).unwrap();
    let mut done = 0;
    while done < rows {
        let transaction = connection.transaction().unwrap();
        {
            let mut insert = transaction
                .prepare_cached(
                    "INSERT INTO certificates (id, issuer, serial, sha256, der, kind, spiffe_id, cluster, namespace, service_account, pod_name, \
                     pod_uid, node_name, node_uid, holder, generation, bundle_number, profile_digest, credential, issued_at, not_before, \
                     not_after, replica, replica_sequence, key_algorithm) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, \
                     ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25)",
                )
                .unwrap();
            for _ in 0..(rows - done).min(100_000) {
                done += 1;
                let age = f64::from(u32::try_from(done).unwrap()) / f64::from(u32::try_from(rows).unwrap());
                let record = mesh.leaf(begin + time::Duration::seconds(LIFETIME) * age);
                let (pod, node) = (record.pod.unwrap(), record.node.unwrap());
                insert
                    .execute(params![
                        newest + i64::try_from(done).unwrap(),
                        record.issuer.as_str(),
                        record.serial,
                        record.sha256.as_slice(),
                        record.der,
                        record.kind.to_string(),
                        record.spiffe_id.unwrap().to_string(),
                        record.cluster,
                        record.namespace,
                        record.service_account,
                        pod.name,
                        pod.uid,
                        node.name,
                        node.uid,
                        record.holder.unwrap().as_str(),
                        i64::try_from(record.generation.0).unwrap(),
                        i64::try_from(record.bundle_number).unwrap(),
                        record.profile_digest,
                        record.credential.to_string(),
                        micros(record.issued_at),
                        micros(record.not_before),
                        micros(record.not_after),
                        record.replica,
                        i64::try_from(record.replica_sequence).unwrap(),
                        record.key_algorithm.unwrap().to_string(),
                    ])
                    .unwrap();
            }
        }
        transaction.commit().unwrap();
    }
}

/// What leaves of these tests look like, with the sizes of real ones.
fn template() -> CertificateRecord {
    let mut template = leaf(0);
    template.profile_digest = "c0ffee".repeat(10);
    template.replica = "0123456789abcdef0123456789abcdef".to_owned();
    template.der = (0..640_u32).map(|number| u8::try_from(number * 7 % 251).unwrap()).collect();
    template
}

fn open(path: &Path) -> SqliteLedger {
    SqliteLedger::open(path, SystemEntropy::shared().as_ref()).unwrap()
}

/// The CPU time of all threads of this process, those that ended too: utime and stime of proc_pid_stat(5).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // The name, in parentheses, may hold anything; the fields after it are numbers, from the third on.
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / TICKS
}

/// Sorts times and takes the median, the 99th of a hundred, and the last.
fn quantiles(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |share: f64| {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let position = ((times.len() - 1) as f64 * share) as usize;
        times[position].as_secs_f64() * 1e3
    };
    format!("p50 {:>7.2} ms  p99 {:>7.2} ms  max {:>7.2} ms  ({} times)", at(0.5), at(0.99), at(1.0), times.len())
}

/// Waits until everything is indexed, as another process sees it.
async fn caught_up(path: &Path) {
    let connection = Connection::open(path).unwrap();
    let behind = || -> bool {
        connection.query_row("SELECT indexed_to < coalesce((SELECT max(id) FROM certificates), 0) FROM meta", [], |row| row.get(0)).unwrap()
    };
    while behind() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Rows one after another from so many tasks at once.
async fn append_closed(path: &Path, ledger: &Arc<SqliteLedger>, mesh: &mut Mesh, at_once: usize) {
    let (began, cpu) = (Instant::now(), cpu_seconds());
    let mut under_way = JoinSet::new();
    let mut rows = 0_u32;
    loop {
        if began.elapsed() < LONG_ENOUGH {
            let (ledger, record) = (Arc::clone(ledger), mesh.leaf(OffsetDateTime::now_utc()));
            under_way.spawn(async move { ledger.record(record).await.unwrap() });
            if under_way.len() < at_once {
                continue;
            }
        }
        let Some(done) = under_way.join_next().await else { break };
        done.unwrap();
        rows += 1;
    }
    let wall = began.elapsed();
    caught_up(path).await;
    let each = |seconds: f64| seconds * 1e6 / f64::from(rows);
    println!(
        "append, {at_once:>3} at once          {:>8.1} µs CPU a row, indexed ({:.0} rows/s)",
        each(cpu_seconds() - cpu),
        f64::from(rows) / wall.as_secs_f64()
    );
}

/// Rows at a steady rate until `stop`: how long each took.
async fn append_at(ledger: Arc<SqliteLedger>, mut mesh: Mesh, rate: u32, stop: Arc<AtomicBool>) -> Vec<Duration> {
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    let (began, mut sent) = (Instant::now(), 0_u32);
    let mut under_way = JoinSet::new();
    let mut times = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        tick.tick().await;
        while f64::from(sent) < began.elapsed().as_secs_f64() * f64::from(rate) {
            sent += 1;
            let (ledger, record) = (Arc::clone(&ledger), mesh.leaf(OffsetDateTime::now_utc()));
            under_way.spawn(async move {
                let began = Instant::now();
                ledger.record(record).await.unwrap();
                began.elapsed()
            });
        }
        while let Some(done) = under_way.try_join_next() {
            times.push(done.unwrap());
        }
    }
    while let Some(done) = under_way.join_next().await {
        times.push(done.unwrap());
    }
    times
}

async fn append_steadily(path: &Path, ledger: &Arc<SqliteLedger>, mesh: Mesh, rate: u32) -> Vec<Duration> {
    let cpu = cpu_seconds();
    let stop = Arc::new(AtomicBool::new(false));
    let appending = tokio::spawn(append_at(Arc::clone(ledger), mesh, rate, Arc::clone(&stop)));
    tokio::time::sleep(LONG_ENOUGH).await;
    stop.store(true, Ordering::Relaxed);
    let times = appending.await.unwrap();
    caught_up(path).await;
    let each = (cpu_seconds() - cpu) * 1e6 / f64::from(u32::try_from(times.len()).unwrap());
    println!("append, {rate:>4} a second        {each:>8.1} µs CPU a row, indexed   {}", quantiles(times.clone()));
    times
}

/// Questions while a thousand rows a second come in.
async fn questions(ledger: &Arc<SqliteLedger>, mesh: Mesh, known: &[Vec<u8>]) {
    let stop = Arc::new(AtomicBool::new(false));
    let appending = tokio::spawn(append_at(Arc::clone(ledger), mesh, 1_000, Arc::clone(&stop)));
    let now = OffsetDateTime::now_utc();
    let filter = |change: &dyn Fn(&mut CertificateFilter)| {
        let mut filter = CertificateFilter::default();
        change(&mut filter);
        filter
    };
    let hours = time::Duration::hours;
    for (what, filter) in [
        ("everything", CertificateFilter::default()),
        ("issued after -1h", filter(&|filter| filter.issued_after = Some(now - hours(1)))),
        ("issued before -12h", filter(&|filter| filter.issued_before = Some(now - hours(12)))),
        ("expires after +20h", filter(&|filter| filter.expires_after = Some(now + hours(20)))),
        ("expires before +1h", filter(&|filter| filter.expires_before = Some(now + hours(1)))),
        ("state expired", filter(&|filter| filter.state = Some(State::Expired))),
        ("state valid", filter(&|filter| filter.state = Some(State::Valid))),
        ("namespace", filter(&|filter| filter.namespace = Some("team-7".to_owned()))),
        ("namespace that has none", filter(&|filter| filter.namespace = Some("team-none".to_owned()))),
    ] {
        let mut times = Vec::new();
        for _ in 0..100 {
            let began = Instant::now();
            ledger.list(&filter, None, 100, OffsetDateTime::now_utc()).await.unwrap();
            times.push(began.elapsed());
        }
        println!("first page, {what:<24} {}", quantiles(times));
    }
    let mut times = Vec::new();
    for serial in known {
        let began = Instant::now();
        assert_eq!(ledger.find_serial(serial).await.unwrap().len(), 1);
        times.push(began.elapsed());
    }
    println!("a serial                             {}", quantiles(times));
    let mut times = Vec::new();
    for _ in 0..50 {
        let began = Instant::now();
        ledger.stats(OffsetDateTime::now_utc()).await.unwrap();
        times.push(began.elapsed());
    }
    println!("stats                                {}", quantiles(times));
    stop.store(true, Ordering::Relaxed);
    println!("append meanwhile                     {}", quantiles(appending.await.unwrap()));
}

/// What pruning does to appends, and how fast it is.
async fn pruning(ledger: &Arc<SqliteLedger>, mesh: Mesh, rows: u64) {
    let stop = Arc::new(AtomicBool::new(false));
    let appending = tokio::spawn(append_at(Arc::clone(ledger), mesh, 1_000, Arc::clone(&stop)));
    let (began, gone) = (Instant::now(), AtomicU64::new(0));
    // Older than most: nearly everything that was filled in.
    let before = OffsetDateTime::now_utc() + time::Duration::hours(22);
    while gone.load(Ordering::Relaxed) < rows && began.elapsed() < 3 * LONG_ENOUGH {
        gone.fetch_add(u64::from(ledger.prune(before, 1_000).await.unwrap()), Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let rate = f64::from(u32::try_from(gone.load(Ordering::Relaxed)).unwrap()) / began.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    println!("append while {rate:>5.0} a second are pruned {}", quantiles(appending.await.unwrap()));
    let (began, cpu) = (Instant::now(), cpu_seconds());
    let mut gone = 0_u32;
    while began.elapsed() < LONG_ENOUGH {
        gone += ledger.prune(before, 10_000).await.unwrap();
    }
    let each = |seconds: f64| seconds * 1e6 / f64::from(gone.max(1));
    println!(
        "prune alone                  {:>8.1} µs CPU a row ({:.0} rows/s)",
        each(cpu_seconds() - cpu),
        f64::from(gone) / began.elapsed().as_secs_f64()
    );
}

fn fill_existing(path: &Path, rows: u64) {
    // Brings the schema up to date, and says what its certificates look like.
    let ledger = open(path);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let leaves = CertificateFilter { kind: Some(meshmint::ledger::Kind::Leaf), ..CertificateFilter::default() };
    let page = runtime.block_on(ledger.list(&leaves, None, 1, OffsetDateTime::now_utc())).unwrap();
    let found = page.certificates.into_iter().next().map(|stored| stored.record);
    drop(ledger);
    let other = template();
    let template = found.map_or(other.clone(), |found| CertificateRecord { pod: other.pod, node: other.node, ..found });
    let began = Instant::now();
    fill(path, &mut Mesh::new(template, rows / 2 + 1, 1), rows);
    println!("{rows} rows in {:.1} s; indexing", began.elapsed().as_secs_f64());
    drop(open(path));
    println!("done after {:.1} s", began.elapsed().as_secs_f64());
}

fn main() {
    // Cargo passes --bench.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [fill, path, rows] = arguments.as_slice()
        && fill == "--fill"
    {
        return fill_existing(Path::new(path), rows.parse().unwrap());
    }
    let rows: u64 = arguments.first().map_or(1_000_000, |rows| rows.parse().unwrap());
    let folder = tempfile::tempdir_in(std::env::var("TMPDIR").unwrap_or_else(|_| ".".to_owned())).unwrap();
    let path = folder.path().join("ledger.db");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let ledger = open(&path);
    runtime.block_on(ledger.open_generation(GenerationNumber(FIRST.0), &issuer(), OffsetDateTime::now_utc())).unwrap();
    drop(ledger);
    let began = Instant::now();
    let mut mesh = Mesh::new(template(), rows / 2 + 1, 1);
    fill(&path, &mut mesh, rows);
    let filled = began.elapsed();
    let ledger = Arc::new(open(&path));
    println!(
        "{rows} rows in {:.1} s, indexed in {:.1} s, {} MiB",
        filled.as_secs_f64(),
        (began.elapsed() - filled).as_secs_f64(),
        path.metadata().unwrap().len() >> 20
    );

    runtime.block_on(async {
        let asked = |part: &str| arguments.len() < 2 || arguments.iter().skip(1).any(|argument| argument == part);
        let pods = mesh.pods;
        if asked("append") {
            for at_once in [1, 8, 64] {
                append_closed(&path, &ledger, &mut mesh, at_once).await;
            }
            append_steadily(&path, &ledger, Mesh::new(template(), pods, 2), 1_000).await;
            append_steadily(&path, &ledger, Mesh::new(template(), pods, 3), 4_000).await;
        }
        let mesh = |seed| Mesh::new(template(), pods, seed);
        if asked("ask") {
            let page = ledger.list(&CertificateFilter::default(), None, 200, OffsetDateTime::now_utc()).await.unwrap();
            let known: Vec<_> = page.certificates.into_iter().map(|stored| stored.record.serial).collect();
            questions(&ledger, mesh(4), &known).await;
        }
        if asked("prune") {
            pruning(&ledger, mesh(5), rows).await;
        }
    });
}
