//! What is measured of the server of a soak, once a second, and what must stay flat.
//!
//! A run has four quarters. In the first everything fills that may: caches, pools, the ledger. The second is compared with the last.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::common::process::get;

const MIB: u64 = 1 << 20;

/// Where to look.
pub(crate) struct Gauges {
    pub(crate) pid: u32,
    pub(crate) metrics: SocketAddr,
    pub(crate) health: SocketAddr,
    pub(crate) ledger: PathBuf,
    pub(crate) began: Instant,
}

/// One look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) at: Duration,
    pub(crate) resident: u64,
    pub(crate) threads: u64,
    pub(crate) open_files: u64,
    pub(crate) connections: u64,
    /// Certificates on record, and how many of them aren't indexed.
    pub(crate) rows: u64,
    pub(crate) unindexed: u64,
    pub(crate) issued: u64,
    pub(crate) pruned: u64,
    /// The sizes of the ledger's file and of its log.
    pub(crate) ledger: u64,
    pub(crate) log: u64,
}

impl Gauges {
    /// Every metric, by name and labels.
    pub(crate) fn metrics(&self) -> BTreeMap<String, f64> {
        let (status, text) = get(&self.metrics.to_string(), "/metrics");
        assert_eq!(status, 200);
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| line.rsplit_once(' ')).map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
    }

    /// Scrapes and looks. The server must be ready, and must not have met a fault of its own.
    pub(crate) fn look(&self) -> Sample {
        let at = self.began.elapsed();
        for path in ["/readyz", "/livez"] {
            assert_eq!(get(&self.health.to_string(), path), (200, "ok\n".to_owned()), "{path} after {at:?}");
        }
        let metrics = self.metrics();
        let whole = |name: &str| *metrics.get(name).unwrap_or_else(|| panic!("{name}")) as u64;
        for (name, value) in &metrics {
            let fault = [
                "meshmint_panics_total",
                "meshmint_authority_failures",
                "meshmint_ledger_commit_failures_total",
                "citadel_server_csr_sign_err_count",
            ];
            let unmeant = name.starts_with("grpc_server_handled_total") && [r#"="Unknown""#, r#"="Internal""#].iter().any(|code| name.contains(code));
            assert!(*value == 0.0 || !unmeant && !fault.iter().any(|fault| name.starts_with(fault)), "{name} is {value} after {at:?}");
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let of_status = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        let size = |path: &Path| path.metadata().map_or(0, |file| file.len());
        Sample {
            at,
            resident: of_status("VmRSS") * 1024,
            threads: of_status("Threads"),
            open_files: std::fs::read_dir(format!("/proc/{}/fd", self.pid)).unwrap().count() as u64,
            connections: whole("meshmint_connections"),
            rows: whole("meshmint_ledger_certificates"),
            unindexed: whole("meshmint_ledger_unindexed_rows"),
            issued: whole("citadel_server_success_cert_issuance_count"),
            pruned: whole("meshmint_ledger_pruned_total"),
            ledger: size(&self.ledger),
            log: size(&self.ledger.with_extension("db-wal")),
        }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, resident, threads, open_files, connections, rows, unindexed, issued, pruned, ledger, log } = self;
        write!(
            formatter,
            "{:>6.1} s: resident {:.1} MiB, threads {threads}, files {open_files}, connections {connections}, issued {issued}, on record {rows}, \
             unindexed {unindexed}, pruned {pruned}, ledger {:.1} MiB, log {:.1} MiB",
            at.as_secs_f64(),
            *resident as f64 / MIB as f64,
            *ledger as f64 / MIB as f64,
            *log as f64 / MIB as f64,
        )
    }
}

/// The median of a quarter (1 to 4).
pub(crate) fn median(samples: &[Sample], quarter: usize, of: impl Fn(&Sample) -> u64) -> u64 {
    let share = samples.len() / 4;
    let mut values: Vec<u64> = samples[(quarter - 1) * share..quarter * share].iter().map(of).collect();
    values.sort_unstable();
    values[values.len() / 2]
}

/// What may grow from the second quarter to the last: a tenth, for the noise of an allocator that keeps what it was given, in pieces, in an
/// arena of each thread; and what a thing may still fill. A leak of one page for each thousand certificates is more than that after an hour.
fn assert_flat(what: &str, samples: &[Sample], room: u64, of: impl Fn(&Sample) -> u64) {
    let (second, last) = (median(samples, 2, &of), median(samples, 4, &of));
    assert!(last <= second + second / 10 + room, "{what} grew from {second} to {last}");
}

/// Fails unless everything stayed flat. `keep` is how long a certificate may be on record.
pub(crate) fn assert_all_flat(samples: &[Sample], keep: Duration) {
    // The cache of one more reader of the ledger: it is opened when four ask at once, which may first happen late, and takes 16 MiB.
    assert_flat("resident memory", samples, 16 * MIB, |sample| sample.resident);
    // Connections come and go. What is open beside them: sockets that wait for their handshake, and three files of one more reader.
    assert_flat("open files beside connections", samples, 12, |sample| sample.open_files.saturating_sub(sample.connections));
    // Threads that block come and go with questions to the ledger, four at once.
    assert_flat("threads", samples, 4, |sample| sample.threads);
    assert_flat("the ledger's file", samples, 16 * MIB, |sample| sample.ledger);
    for sample in samples {
        assert!(sample.log <= 64 * MIB, "journal_size_limit: {sample}");
        // Nothing stays longer than it must: what is there was issued within that time, or waited to be indexed, 4,096 together, before
        // it could be pruned. A few are authorities and serving certificates.
        let before = samples.iter().rev().find(|earlier| earlier.at + keep < sample.at).map_or(0, |earlier| earlier.issued);
        assert!(sample.rows <= sample.issued - before + 4_096 + 50, "more on record than was issued in the last {keep:?}: {sample}");
    }
}
