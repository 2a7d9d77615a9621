//! What a run found, for programs (JSON, with everything) and for people.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;

use super::args::{Args, Mode};
use super::floor::Floor;
use super::load::Load;
use super::measure::{Measured, ServerUse};
use super::process::CpuSource;
use super::tally::{Failures, Summary};

/// Above this share of its cores the load itself was the bottleneck.
pub(super) const VOID_ABOVE: f64 = 0.9;

/// Everything. Names are those of the JSON.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) mode: &'static str,
    pub(super) load: Settings,
    /// What was measured, without warm-up and without waiting for the last answers.
    pub(super) seconds: f64,
    pub(super) certificates: u64,
    pub(super) certificates_per_second: f64,
    /// Of the requests that got a certificate.
    pub(super) latency_ms: Option<Summary>,
    pub(super) refused: Refused,
    pub(super) connection_errors: Broken,
    pub(super) wrong_answers: Failures,
    pub(super) verified: u64,
    pub(super) not_sent: u64,
    pub(super) unanswered: u64,
    pub(super) handshakes: u64,
    pub(super) reconnects: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) server: Option<Server>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) floor: Option<FloorReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) herd: Option<HerdReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) idle: Option<IdleReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unread: Option<UnreadReport>,
    /// Our own processor time as a share of one core (with --threads of each of them).
    pub(super) client_core_share: f64,
    /// How long we waited for a core, as a share of the time.
    pub(super) client_wait_share: Option<f64>,
    pub(super) client_cpu_us_per_request: Option<f64>,
    /// The load was the bottleneck: nothing here says anything about the server.
    pub(super) void: bool,
}

/// How the load was.
#[derive(Debug, Serialize)]
pub(super) struct Settings {
    pub(super) address: String,
    pub(super) connections: usize,
    pub(super) in_flight: usize,
    pub(super) new_connections: bool,
    pub(super) rate: Option<f64>,
    pub(super) warm_up_seconds: f64,
    pub(super) ask_later_seconds: f64,
    pub(super) source_addresses: u32,
    pub(super) key_type: String,
    pub(super) keys: usize,
    pub(super) tokens: usize,
    pub(super) threads: usize,
}

/// Requests that were refused with a gRPC code.
#[derive(Debug, Serialize)]
pub(super) struct Refused {
    pub(super) count: u64,
    pub(super) codes: BTreeMap<&'static str, Failures>,
    /// The time to a refusal.
    pub(super) latency_ms: Option<Summary>,
}

/// Requests whose connection failed.
#[derive(Debug, Serialize)]
pub(super) struct Broken {
    pub(super) count: u64,
    pub(super) kinds: BTreeMap<&'static str, Failures>,
    pub(super) latency_ms: Option<Summary>,
}

/// The server's process.
#[derive(Debug, Serialize)]
pub(super) struct Server {
    pub(super) pid: u32,
    pub(super) cpu_seconds: f64,
    pub(super) cpu_us_per_certificate: Option<f64>,
    pub(super) cpu_source: CpuSource,
    pub(super) settled: Option<bool>,
    pub(super) settled_after_seconds: Option<f64>,
    pub(super) resident_bytes_before: u64,
    pub(super) resident_bytes: u64,
    pub(super) peak_resident_bytes: u64,
}

/// The cryptography, and the server's time as a multiple of it.
#[derive(Debug, Serialize)]
pub(super) struct FloorReport {
    #[serde(flatten)]
    pub(super) pieces: Floor,
    /// `sum_with_handshake_us` before and after the load: far apart, the machine's speed has changed, and the ratio means little.
    pub(super) before_and_after_us: [f64; 2],
    pub(super) sum_us: f64,
    pub(super) sum_with_handshake_us: f64,
    /// Server CPU for each certificate over the sum; with a new connection for each, over the sum with the handshake.
    pub(super) ratio: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(super) struct HerdReport {
    pub(super) clients: usize,
    pub(super) served: usize,
    pub(super) tries: u64,
    /// Until the last one had its certificate; `None` where not every one was served.
    pub(super) seconds_until_last: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(super) struct IdleReport {
    pub(super) wanted: usize,
    pub(super) held: usize,
    /// How many of them the server hadn't ended after --hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) open_after_hold: Option<usize>,
    pub(super) server_bytes_per_connection: Option<f64>,
}

/// What was asked and never read.
#[derive(Debug, Serialize)]
pub(super) struct UnreadReport {
    pub(super) connections: usize,
    pub(super) requests: u64,
    pub(super) server_bytes_per_connection: Option<f64>,
}

/// Counts as they are divided: they are far below 2^53.
#[allow(clippy::cast_precision_loss)]
fn number(count: u64) -> f64 {
    count as f64
}

fn ratio(above: f64, below: f64) -> Option<f64> {
    (below > 0.0).then(|| above / below)
}

fn megabytes(bytes: u64) -> f64 {
    number(bytes) / f64::from(1 << 20)
}

/// What the server's memory has grown by, for each connection. It may shrink meanwhile, what it had before being given back: then nobody knows.
fn grown(server: Option<ServerUse>, connections: usize) -> Option<f64> {
    server.and_then(|used| ratio(number(used.after.resident.checked_sub(used.before.resident)?), number(connections as u64)))
}

fn memory_each(bytes: Option<f64>) -> String {
    bytes.map_or_else(String::new, |bytes| format!(", {:.1} KiB of the server's memory each", bytes / 1024.0))
}

impl Report {
    pub(super) fn new(load: &Load, args: &Args, tokens: usize, measured: Measured, floor: Option<(Floor, Floor)>) -> Self {
        let Measured { tally, window, .. } = &measured;
        let (seconds, certificates) = (window.as_secs_f64(), tally.served.count());
        let requests = number(certificates + tally.errors());
        let share = |time: Duration| ratio(time.as_secs_f64(), seconds * number(args.threads as u64)).unwrap_or(0.0);
        let client_core_share = share(measured.own_cpu);
        let server = measured.server.map(|used| Server::new(used, certificates));
        let each = server.as_ref().and_then(|server| server.cpu_us_per_certificate);
        Self {
            mode: match args.mode() {
                Mode::Closed => "closed",
                Mode::Open(_) => "open",
                Mode::Herd(_) => "herd",
                Mode::Idle(_) => "idle",
                Mode::Unread => "read nothing",
            },
            load: Settings::new(load, args, tokens),
            seconds,
            certificates,
            certificates_per_second: ratio(number(measured.served_in_window), seconds).unwrap_or(0.0),
            latency_ms: tally.served.summary(),
            refused: Refused { count: tally.refused.count(), codes: tally.codes.clone(), latency_ms: tally.refused.summary() },
            connection_errors: Broken { count: tally.broken.count(), kinds: tally.kinds.clone(), latency_ms: tally.broken.summary() },
            wrong_answers: tally.wrong.clone(),
            verified: tally.verified,
            not_sent: tally.not_sent,
            unanswered: measured.unanswered,
            handshakes: tally.handshakes,
            reconnects: tally.reconnects,
            floor: floor.map(|floor| FloorReport::new(floor, each, args.new_connections)),
            herd: measured.herd.as_ref().zip(args.herd).map(|(herd, clients)| {
                let served = herd.served.load(Ordering::Relaxed);
                let last = Duration::from_micros(herd.last.load(Ordering::Relaxed)).as_secs_f64();
                HerdReport { clients, served, tries: herd.tries.load(Ordering::Relaxed), seconds_until_last: (served == clients).then_some(last) }
            }),
            idle: measured.held.as_ref().zip(args.idle).map(|(held, wanted)| {
                let (held, open_after_hold) = (held.count(), measured.open_after_hold);
                IdleReport { wanted, held, open_after_hold, server_bytes_per_connection: grown(measured.server, held) }
            }),
            unread: measured.unread.as_ref().map(|unread| {
                let connections = unread.connections.load(Ordering::Relaxed);
                let requests = unread.requests.load(Ordering::Relaxed);
                UnreadReport { connections, requests, server_bytes_per_connection: grown(measured.server, connections) }
            }),
            server,
            client_core_share,
            client_wait_share: measured.own_wait.map(share),
            client_cpu_us_per_request: ratio(measured.own_cpu.as_secs_f64() * 1e6, requests),
            void: client_core_share > VOID_ABOVE,
        }
    }

    /// Requests that did not get what they wanted.
    pub(super) fn failures(&self) -> u64 {
        self.refused.count + self.connection_errors.count + self.wrong_answers.count + self.not_sent + self.unanswered
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        // Writing into a string can't fail.
        let mut row = |name: &str, words: String| {
            let _ = writeln!(out, "{name:<14}{words}");
        };
        let load = &self.load;
        row("load", self.load_in_words());
        row("target", format!("{}, {} keys ({}), {} tokens, {:.1} s", load.address, load.keys, load.key_type, load.tokens, self.seconds));
        row("certificates", format!("{}   {:.1}/s   ({} verified fully)", self.certificates, self.certificates_per_second, self.verified));
        if let Some(summary) = &self.latency_ms {
            row("latency", summary.text());
        }
        if let Some(herd) = &self.herd {
            let last =
                herd.seconds_until_last.map_or_else(|| "not every one was served".to_owned(), |seconds| format!("the last after {seconds:.2} s"));
            row("herd", format!("{} of {} clients served, {last}, {} tries", herd.served, herd.clients, herd.tries));
        }
        if let Some(idle) = &self.idle {
            let open = idle.open_after_hold.map_or_else(String::new, |open| format!(", {open} still open at the end"));
            row("idle", format!("{} of {} connections held{}{open}", idle.held, idle.wanted, memory_each(idle.server_bytes_per_connection)));
        }
        if let Some(unread) = &self.unread {
            let each = memory_each(unread.server_bytes_per_connection);
            row("read nothing", format!("of {} requests on {} connections{each}", unread.requests, unread.connections));
        }
        row("refused", failures(self.refused.count, &self.refused.codes));
        if let Some(summary) = &self.refused.latency_ms {
            row("  after", summary.text());
        }
        row(
            "connections",
            format!(
                "{} handshakes, {} reconnects, failed: {}",
                self.handshakes,
                self.reconnects,
                failures(self.connection_errors.count, &self.connection_errors.kinds)
            ),
        );
        if let Some(summary) = &self.connection_errors.latency_ms {
            row("  after", summary.text());
        }
        for (name, count) in [("not sent", self.not_sent), ("unanswered", self.unanswered)] {
            if count > 0 {
                row(name, count.to_string());
            }
        }
        if self.wrong_answers.count > 0 {
            row("wrong answers", format!("{}, the first: {}", self.wrong_answers.count, self.wrong_answers.first));
        }
        if let Some(server) = &self.server {
            row("server", server.text());
        }
        if let Some(floor) = &self.floor {
            row("floor", floor.text());
        }
        let each = self.client_cpu_us_per_request.map_or_else(String::new, |each| format!(", {each:.0} µs CPU for each request"));
        row("client", format!("{:.0} % of its core{each}", self.client_core_share * 100.0));
        out
    }

    fn load_in_words(&self) -> String {
        let Settings { connections, in_flight, source_addresses, .. } = &self.load;
        let new = self.load.new_connections;
        let what = match (self.mode, self.load.rate) {
            ("open", Some(rate)) if new => format!("open loop, {rate} requests/s, a new connection each"),
            ("open", Some(rate)) => format!("open loop, {rate} requests/s on {connections} connections"),
            ("closed", _) if new => format!("closed loop, {} at once, a new connection each", connections * in_flight),
            ("closed", _) => format!("closed loop, {connections} connections × {in_flight} in flight"),
            (mode, _) => mode.to_owned(),
        };
        if *source_addresses > 1 { format!("{what}, from {source_addresses} addresses") } else { what }
    }
}

impl Settings {
    fn new(load: &Load, args: &Args, tokens: usize) -> Self {
        Self {
            address: load.target.address.to_string(),
            connections: args.connections,
            in_flight: args.in_flight,
            new_connections: args.new_connections,
            rate: args.rate,
            warm_up_seconds: args.warm_up.as_secs_f64(),
            ask_later_seconds: load.ask_later.as_secs_f64(),
            source_addresses: args.source_addresses,
            key_type: format!("{:?}", args.key_type).to_lowercase(),
            keys: args.key_count(),
            tokens,
            threads: args.threads,
        }
    }
}

impl Server {
    fn new(used: ServerUse, certificates: u64) -> Self {
        Self {
            pid: used.pid,
            cpu_seconds: used.cpu.as_secs_f64(),
            cpu_us_per_certificate: ratio(used.cpu.as_secs_f64() * 1e6, number(certificates)),
            cpu_source: used.source,
            settled: used.settled_after.map(|_| used.settled),
            settled_after_seconds: used.settled_after.map(|after| after.as_secs_f64()),
            resident_bytes_before: used.before.resident,
            resident_bytes: used.after.resident,
            peak_resident_bytes: used.after.peak,
        }
    }

    fn text(&self) -> String {
        let source = match self.cpu_source {
            CpuSource::Schedstat => "schedstat",
            CpuSource::Stat => "stat",
        };
        let each = self
            .cpu_us_per_certificate
            .map_or_else(|| format!("{:.2} s CPU", self.cpu_seconds), |each| format!("{each:.0} µs CPU for each certificate"));
        let settled = match (self.settled, self.settled_after_seconds) {
            (Some(true), Some(after)) => format!(", at rest after {after:.1} s"),
            (Some(false), _) => ", never at rest".to_owned(),
            _ => String::new(),
        };
        let (now, peak) = (megabytes(self.resident_bytes), megabytes(self.peak_resident_bytes));
        format!("{each} ({source}{settled}), {now:.1} MiB resident, {peak:.1} MiB at most")
    }
}

impl FloorReport {
    fn new((before, after): (Floor, Floor), server_us: Option<f64>, new_connections: bool) -> Self {
        let floor = before.mean(after);
        let (sum_us, sum_with_handshake_us) = (floor.sum_us(), floor.sum_with_handshake_us());
        let below = if new_connections { sum_with_handshake_us } else { sum_us };
        Self {
            pieces: floor,
            before_and_after_us: [before, after].map(|floor| floor.sum_with_handshake_us()),
            sum_us,
            sum_with_handshake_us,
            ratio: server_us.and_then(|server| ratio(server, below)),
        }
    }

    fn text(&self) -> String {
        let Floor { p256_verify_us, p256_sign_us, rs256_verify_us, handshake_us } = self.pieces;
        let times = self.ratio.map_or_else(String::new, |ratio| format!("; the server used {ratio:.2} times that"));
        let [before, after] = self.before_and_after_us;
        let drift = if (before / after - 1.0).abs() > 0.1 {
            format!(" (the machine's speed changed: {before:.0}, then {after:.0} µs)")
        } else {
            String::new()
        };
        format!(
            "verify {p256_verify_us:.1} + sign {p256_sign_us:.1} + RS256 {rs256_verify_us:.1} = {:.1} µs, + handshake {handshake_us:.1} = {:.1} µs{times}{drift}",
            self.sum_us, self.sum_with_handshake_us
        )
    }
}

impl Summary {
    fn text(&self) -> String {
        let Self { p50, p90, p99, max, .. } = self;
        format!("p50 {p50:.2} ms   p90 {p90:.2} ms   p99 {p99:.2} ms   max {max:.2} ms")
    }
}

fn failures(count: u64, kinds: &BTreeMap<&'static str, Failures>) -> String {
    let mut text = count.to_string();
    for (kind, failures) in kinds {
        let _ = write!(text, "\n{:<14}{kind} {}, the first: {}", "", failures.count, failures.first);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_over_what_the_load_could_not_avoid() {
        let floor = Floor { p256_verify_us: 60.0, p256_sign_us: 15.0, rs256_verify_us: 25.0, handshake_us: 100.0 };
        let slower = Floor { p256_verify_us: 80.0, p256_sign_us: 15.0, rs256_verify_us: 45.0, handshake_us: 160.0 };
        let of = |after, server, new_connections| FloorReport::new((floor, after), server, new_connections);
        assert_eq!(of(floor, Some(150.0), false).ratio, Some(1.5));
        assert_eq!(of(floor, Some(300.0), true).ratio, Some(1.5));
        assert_eq!(of(floor, None, true).ratio, None);
        assert_eq!(of(slower, Some(180.0), false).ratio, Some(1.5));
        let json = serde_json::to_value(of(slower, Some(150.0), false)).unwrap();
        assert_eq!((json["sum_us"].as_f64(), json["p256_sign_us"].as_f64()), (Some(120.0), Some(15.0)));
        assert_eq!(json["before_and_after_us"], serde_json::json!([200.0, 300.0]));
        assert!(of(slower, None, true).text().contains("speed changed") && !of(floor, None, true).text().contains("speed changed"));
    }

    #[test]
    fn nothing_is_divided_by_nothing() {
        assert_eq!(ratio(1.0, 0.0), None);
        assert_eq!(ratio(1.0, 4.0), Some(0.25));
    }

    #[test]
    fn failures_are_listed_with_their_first_words() {
        let kinds = [("UNAVAILABLE", Failures { count: 3, first: "busy".to_owned() })].into();
        assert!(failures(3, &kinds).contains("UNAVAILABLE 3, the first: busy"));
        assert_eq!(failures(0, &BTreeMap::new()), "0");
    }
}
