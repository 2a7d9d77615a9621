//! What recording a certificate costs meshmint itself, by where the ledger is: `cargo bench --bench ledger_backends -- [RECORDS]`. The CPU is
//! that of this process; what PostgreSQL's own processes use is shown apart. Plain figures for a person to compare on one machine.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

#[path = "../tests/common/ledger.rs"]
mod common;
#[path = "../tests/common/postgres.rs"]
mod postgres;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use meshmint::clock::{SystemClock, SystemEntropy};
use meshmint::ledger::postgres::{PostgresLedger, PostgresSettings};
use meshmint::ledger::sqlite::SqliteLedger;
use meshmint::ledger::{CertificateRecord, Ledger};
use time::OffsetDateTime;
use tokio::task::JoinSet;

use crate::common::{FIRST, issuer, leaf};
use crate::postgres::Postgres;

/// As many certificates wait for the ledger as a server with two threads lets.
const IN_FLIGHT: u64 = 128;

/// Kernel ticks a second, as /proc counts them (USER_HZ) on every architecture that this runs on.
const TICKS: f64 = 100.0;

/// CPU time of a process and of the children that it waited for, seconds.
fn cpu(pid: &str, children: bool) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some((_, fields)) = stat.rsplit_once(") ") else { return 0.0 };
    let ticks = |index: usize| fields.split(' ').nth(index).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(0.0);
    let own = ticks(11) + ticks(12);
    (if children { own + ticks(13) + ticks(14) } else { own }) / TICKS
}

/// A leaf as it is issued now, with a serial as ours are.
fn record(number: u64) -> CertificateRecord {
    let now = OffsetDateTime::now_utc();
    let prefix = u32::try_from(now.unix_timestamp() >> 2).unwrap();
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let serial = [&prefix.to_be_bytes()[..], &spread.to_be_bytes(), &number.to_be_bytes()].concat();
    CertificateRecord { serial, issued_at: now, not_after: now + time::Duration::hours(24), ..leaf(number) }
}

async fn measure(name: &str, ledger: Arc<dyn Ledger>, records: u64, servers: &[u32]) {
    ledger.open_generation(FIRST, &issuer(), OffsetDateTime::now_utc()).await.unwrap();
    let of_server = || servers.iter().map(|pid| cpu(&pid.to_string(), true)).sum::<f64>();
    let next = Arc::new(AtomicU64::new(0));
    let (began, own, others) = (Instant::now(), cpu("self", false), of_server());
    let mut tasks = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (ledger, next) = (Arc::clone(&ledger), Arc::clone(&next));
        tasks.spawn(async move {
            let mut slowest = Duration::ZERO;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= records {
                    return slowest;
                }
                let asked = Instant::now();
                ledger.record(record(number)).await.unwrap();
                slowest = slowest.max(asked.elapsed());
            }
        });
    }
    let mut slowest = Duration::ZERO;
    while let Some(done) = tasks.join_next().await {
        slowest = slowest.max(done.unwrap());
    }
    let took = began.elapsed().as_secs_f64();
    // What is done behind the commits belongs to their price.
    tokio::time::sleep(Duration::from_secs(1)).await;
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let each = |seconds: f64| seconds * 1e6 / records as f64;
    println!(
        "{name:<12} {:>7.0} records/s, {:>6.1} µs of our CPU each, {:>6.1} µs of the server's, slowest {:.0} ms",
        1e6 / each(took),
        each(cpu("self", false) - own),
        each(of_server() - others),
        slowest.as_secs_f64() * 1e3
    );
}

fn main() {
    let records = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(50_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let sqlite = SqliteLedger::open(&folder.path().join("ledger.db"), SystemEntropy::shared().as_ref()).unwrap();
        measure("SQLite", Arc::new(sqlite), records, &[]).await;

        let server = Postgres::start();
        for (name, more) in [("PostgreSQL", ""), ("without TLS", "?sslmode=disable")] {
            let database = server.database();
            let settings = PostgresSettings {
                url: database.url() + more,
                ca_file: (more.is_empty()).then(|| database.ca_file.clone()),
                password_file: Some(database.password_file.clone()),
                pool_size: 2,
                retention: Duration::from_secs(30 * 86_400),
                start_patience: Duration::ZERO,
            };
            let ledger = PostgresLedger::open(&settings, "bench", SystemClock::shared(), SystemEntropy::shared().as_ref(), None).await.unwrap();
            measure(name, Arc::new(ledger), records, &server.pids()).await;
        }
    });
}
