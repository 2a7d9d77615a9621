//! From what was measured to a verdict, without any I/O: what is well, what to warn of, and what has failed.

use std::time::Duration;

use time::OffsetDateTime;

use super::table::Check;
use crate::cluster::{ClusterStatus, IssuerStatus, LeaseStatus, RemoteStatus, WatchStatus};
use crate::ledger::{Figures, Standby};
use crate::pki::inspect::{Severity, lifetime, span};

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::server) struct Fact {
    pub(in crate::server) check: Check,
    pub(in crate::server) severity: Severity,
    /// For everybody who can reach the health port: no name, no path.
    pub(in crate::server) message: String,
    /// More, for the operator at the admin socket.
    pub(in crate::server) detail: String,
}

impl Fact {
    pub(super) fn new(check: Check, severity: Severity, message: impl Into<String>) -> Self {
        Self { check, severity, message: message.into(), detail: String::new() }
    }

    pub(super) fn ok(check: Check, message: impl Into<String>) -> Self {
        Self::new(check, Severity::Ok, message)
    }

    pub(super) fn failed(check: Check, message: impl Into<String>) -> Self {
        Self::new(check, Severity::Failed, message)
    }

    pub(super) fn warning(check: Check, message: impl Into<String>) -> Self {
        Self::new(check, Severity::Warning, message)
    }

    #[must_use]
    pub(super) fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }
}

/// What verdicts about certificates are measured by.
#[derive(Debug, Clone, Copy)]
pub(in crate::server) struct Lifetimes {
    /// Of a root that is made here.
    pub(in crate::server) root: Duration,
    /// Of an issuing certificate.
    pub(in crate::server) issuing: Duration,
    /// The longest of anything that an issuing key signs.
    pub(in crate::server) longest_leaf: Duration,
    /// The shortest that is issued at all.
    pub(in crate::server) shortest_leaf: Duration,
}

/// A renewal is late after this.
const LATE: Duration = Duration::from_secs(60);
/// A new root takes this long to reach every workload of a large mesh.
const ROOT_NOTICE: Duration = Duration::from_secs(180 * 24 * 3600);

/// `not_after` of the root that signs.
pub(super) fn root(now: OffsetDateTime, not_after: OffsetDateTime, lifetimes: &Lifetimes) -> Fact {
    let left = not_after - now;
    let severity = match left {
        left if left < lifetimes.longest_leaf => Severity::Failed,
        left if left < ROOT_NOTICE.min(lifetimes.root / 4) => Severity::Warning,
        _ => Severity::Ok,
    };
    Fact::new(Check::RootCertificate, severity, format!("the root {}", lifetime(OffsetDateTime::UNIX_EPOCH, not_after, now)))
}

/// The chain that signs: its end, and when the issuing key is to be renewed (`None`: nobody could give it a later end).
pub(super) fn issuing(now: OffsetDateTime, chain_end: OffsetDateTime, renewal: Option<OffsetDateTime>, lifetimes: &Lifetimes) -> Fact {
    let (left, text) = (chain_end - now, lifetime(OffsetDateTime::UNIX_EPOCH, chain_end, now));
    let overdue = renewal.filter(|due| *due + LATE < now);
    let (severity, more) = if left < lifetimes.shortest_leaf.max(lifetimes.longest_leaf / 4) {
        (Severity::Failed, "nothing useful can be issued".to_owned())
    } else if left < lifetimes.longest_leaf {
        (Severity::Warning, "certificates get shorter".to_owned())
    } else if let Some(due) = overdue {
        (Severity::Warning, format!("its renewal is overdue for {}", ago(now - due)))
    } else if renewal.is_none() && left < (lifetimes.issuing / 4).max(lifetimes.longest_leaf * 3 / 2) {
        (Severity::Warning, "it can't be renewed here".to_owned())
    } else {
        let due = renewal.map_or_else(|| "it can't be renewed here".to_owned(), |due| format!("it is renewed in {}", ago(due - now)));
        (Severity::Ok, due)
    };
    Fact::new(Check::IssuingCertificate, severity, format!("the signing chain {text}; {more}"))
}

/// Our own serving certificate, where there is one yet.
pub(super) fn serving(now: OffsetDateTime, times: Option<ServingTimes>) -> Fact {
    let Some(ServingTimes { issued_at, renew_at, not_after }) = times else {
        return Fact::failed(Check::ServingCertificate, "there is none yet");
    };
    let tenth = (not_after - issued_at) / 10;
    let text = lifetime(OffsetDateTime::UNIX_EPOCH, not_after, now);
    let (severity, more) = match now {
        now if now > not_after - tenth => (Severity::Failed, "it was not renewed".to_owned()),
        now if now > renew_at + tenth => (Severity::Warning, "it was not renewed when it was due".to_owned()),
        now => (Severity::Ok, format!("it is renewed in {}", ago(renew_at - now))),
    };
    Fact::new(Check::ServingCertificate, severity, format!("our own certificate {text}; {more}"))
}

/// The life of a serving certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) struct ServingTimes {
    pub(in crate::server) issued_at: OffsetDateTime,
    pub(in crate::server) renew_at: OffsetDateTime,
    pub(in crate::server) not_after: OffsetDateTime,
}

/// How far a time on record may lie ahead of the clock: replicas and time servers differ a little.
const AHEAD: Duration = Duration::from_secs(5);

/// The wall clock, against the newest time that was written down and against the time that passed since the start.
pub(super) fn clock(now: OffsetDateTime, newest: Option<OffsetDateTime>, started: OffsetDateTime, up: Duration) -> Fact {
    let went_back = started + up - now;
    match newest {
        Some(newest) if newest - now > AHEAD => {
            Fact::failed(Check::ClockForward, format!("the clock is {} behind the newest record: it went back", ago(newest - now)))
        }
        _ if went_back > AHEAD => Fact::failed(Check::ClockForward, format!("the clock went back by {} since the start", ago(went_back))),
        _ => Fact::ok(Check::ClockForward, "the clock goes forward"),
    }
}

/// Rows without an index that a question may well look through one by one: a minute's worth of a whole mesh.
const MANY_UNINDEXED: u64 = 250_000;

/// Whether the ledger's writer and its indexes keep up.
pub(super) fn keeps_up(figures: &Figures) -> Fact {
    let Figures { waiting, waiting_limit, unindexed, .. } = figures;
    let severity = match waiting {
        waiting if waiting >= waiting_limit => Severity::Failed,
        waiting if *waiting > waiting_limit / 5 * 4 || *unindexed > MANY_UNINDEXED => Severity::Warning,
        _ => Severity::Ok,
    };
    Fact::new(Check::LedgerKeepsUp, severity, format!("{waiting} of {waiting_limit} writes are waiting, {unindexed} rows wait for their index"))
}

/// Whether another copy of the ledger could lack what was answered.
pub(super) fn standby(figures: &Figures) -> Fact {
    let (severity, message) = match figures.standby {
        Standby::Asynchronous => (Severity::Warning, "the database has a standby that no commit waits for: where it takes over, records are lost"),
        Standby::Synchronous => (Severity::Ok, "each commit waits for a standby of the database"),
        Standby::Absent => (Severity::Ok, "the database has no standby"),
        Standby::Unknown => (Severity::Ok, "the ledger has no standby"),
    };
    Fact::new(Check::LedgerStandby, severity, message)
}

/// Whether everything that left is on record.
pub(super) fn drained(figures: &Figures) -> Fact {
    match (figures.away, figures.undrained) {
        (true, kept) => Fact::failed(Check::LedgerDrained, format!("the database is away: {kept} certificates are kept on this replica's volume")),
        (false, 0) => Fact::ok(Check::LedgerDrained, "everything that left is on record"),
        (false, kept) => Fact::warning(Check::LedgerDrained, format!("{kept} certificates left while the database was away and are being recorded")),
    }
}

/// What little room on a disk is.
const LITTLE_SPACE: u64 = 1 << 30;
/// And what is none.
const NO_SPACE: u64 = 64 << 20;

/// Free and all bytes of the disk below `what`.
pub(super) fn space(check: Check, what: &str, free: u64, all: u64) -> Fact {
    let severity = match free {
        free if free < NO_SPACE => Severity::Failed,
        free if free < LITTLE_SPACE || free < all / 10 => Severity::Warning,
        _ => Severity::Ok,
    };
    Fact::new(check, severity, format!("{} MiB of {} MiB are free on {what}'s disk", free >> 20, all >> 20))
}

/// The keys of token issuer number `index` (from 0) of `of`.
pub(super) fn token_keys(index: usize, of: usize, status: &IssuerStatus) -> Fact {
    let whose = if of == 1 { "the token issuer's keys".to_owned() } else { format!("the keys of token issuer {} of {of}", index + 1) };
    let (severity, what) = match status.age {
        None => (Severity::Failed, "were never loaded".to_owned()),
        Some(age) if age > status.timing.max_age => (Severity::Failed, format!("are too old to be believed: {}", text(age))),
        Some(_) if status.keys == 0 => (Severity::Failed, "hold none that can be used".to_owned()),
        Some(age) if age > status.timing.refresh_interval * 2 => (Severity::Warning, format!("are {} old and can't be read again", text(age))),
        Some(age) if status.last_error.is_some() => (Severity::Warning, format!("are {} old; the latest reading failed", text(age))),
        Some(age) => (Severity::Ok, format!("are {} old; {} can be used", text(age), status.keys)),
    };
    let error = status.last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    Fact::new(Check::TokenKeys, severity, format!("{whose} {what}")).with_detail(format!("{}{error}", status.issuer))
}

/// Nobody who leads needs so long for a renewal, and a new leader is there sooner.
const LEADERLESS: Duration = Duration::from_secs(20);

/// Whether somebody leads: `alone` where nobody else could; no `status` where this replica stands for no election.
pub(super) fn leader(alone: bool, status: Option<&LeaseStatus>) -> Fact {
    let Some(status) = status else {
        return Fact::ok(Check::LeaderKnown, if alone { "this replica is the only one" } else { "this replica follows: role issuer" });
    };
    let trouble = status.trouble.as_ref().map(ToString::to_string).unwrap_or_default();
    let heard = status.age.filter(|age| *age <= LEADERLESS);
    let fact = match (status.leading, heard, &status.holder, status.unchanged) {
        (true, ..) => return Fact::ok(Check::LeaderKnown, "this replica leads"),
        (false, None, ..) => Fact::warning(Check::LeaderKnown, "who leads can't be asked: issuing keys are not renewed here"),
        (false, Some(_), Some(holder), Some(unchanged)) if unchanged <= LEADERLESS => {
            return Fact::ok(Check::LeaderKnown, "another replica leads").with_detail(format!("replica {holder}"));
        }
        (false, Some(_), ..) => Fact::warning(Check::LeaderKnown, "no replica leads: issuing keys are not renewed"),
    };
    fact.with_detail(trouble)
}

/// How old what is known of the state is, where others may change it.
pub(super) fn followed(age: Option<Duration>) -> Fact {
    match age {
        None => Fact::ok(Check::StateFollowed, "nobody else changes the state"),
        Some(age) if age > LEADERLESS => {
            Fact::warning(Check::StateFollowed, format!("the state was read {} ago; what is known goes on until its keys end", text(age)))
        }
        Some(age) => Fact::ok(Check::StateFollowed, format!("the state is known as of {} ago", text(age))),
    }
}

/// A watch that is quiet for longer is no longer heard: there is a bookmark about once a minute.
const QUIET: Duration = Duration::from_secs(150);

/// How well the cluster is known, where there is one: a line for each watch.
pub(super) fn cluster(status: Option<&ClusterStatus>) -> Vec<Fact> {
    let Some(status) = status else {
        return vec![Fact::ok(Check::ClusterKnown, "no cluster is configured: a token counts until it expires, and nobody speaks for others")];
    };
    status.watches.iter().map(|watch| watched(Check::ClusterKnown, watch, status.max_staleness)).collect()
}

/// How well one kind of object is known.
fn watched(check: Check, watch: &WatchStatus, max_staleness: Duration) -> Fact {
    let what = watch.resource.name();
    let (severity, message) = match watch.age {
        None => (Severity::Failed, format!("the cluster's {what} were never listed: each is asked for one by one")),
        Some(age) if age > max_staleness => (Severity::Failed, format!("what is known of {what} is too old to be believed: {}", text(age))),
        Some(age) if age > QUIET || watch.trouble.is_some() => {
            let rest = text(max_staleness.saturating_sub(age));
            (Severity::Warning, format!("nothing was heard of {what} for {}; what is known goes on for {rest}", text(age)))
        }
        Some(age) => (Severity::Ok, format!("{} {what} are known, as of {} ago", watch.objects, text(age))),
    };
    Fact::new(check, severity, message).with_detail(watch.trouble.as_ref().map(ToString::to_string).unwrap_or_default())
}

/// The other clusters: the watch of the Secrets that name them, and a line for each that could not be joined.
pub(super) fn remotes(known: Option<(WatchStatus, Vec<RemoteStatus>)>) -> Vec<Fact> {
    let Some((watch, remotes)) = known else { return vec![Fact::ok(Check::RemoteClusters, "other clusters are not looked for")] };
    let secrets = match (watch.age, &watch.trouble) {
        (None, trouble) => Fact::failed(Check::RemoteClusters, "the Secrets that name other clusters were never listed")
            .with_detail(trouble.as_ref().map(ToString::to_string).unwrap_or_default()),
        (Some(age), Some(trouble)) => {
            Fact::warning(Check::RemoteClusters, format!("nothing was heard of the Secrets that name other clusters for {}", text(age)))
                .with_detail(trouble.to_string())
        }
        (Some(_), None) => {
            let joined = remotes.iter().filter(|remote| remote.joined).count();
            Fact::ok(Check::RemoteClusters, format!("{joined} of {} other clusters are joined", remotes.len()))
        }
    };
    let known = remotes.iter().filter_map(|remote| Some((remote, remote.known.as_ref()?)));
    let unheard = known.flat_map(|(remote, known)| {
        let facts = known.watches.iter().map(|watch| watched(Check::RemoteClusters, watch, known.max_staleness));
        let facts = facts.filter(|fact| fact.severity != Severity::Ok);
        facts.map(|fact| {
            let detail = [remote.cluster.as_str(), &fact.detail].join(": ");
            fact.with_detail(detail.trim_end_matches(": "))
        })
    });
    let troubled = remotes.iter().filter_map(|remote| Some((remote, remote.trouble.as_ref()?)));
    let troubled = troubled.map(|(remote, trouble)| {
        let (severity, what) = match remote.joined {
            true => (Severity::Warning, "another cluster's Secret has changed and can't be used: the old one goes on"),
            false => (Severity::Failed, "another cluster could not be joined: its callers are told to try again"),
        };
        Fact::new(Check::RemoteClusters, severity, what).with_detail(format!("{}: {trouble}", remote.cluster))
    });
    [secrets].into_iter().chain(troubled).chain(unheard).collect()
}

/// How much of a bound is taken: little room from four fifths on.
pub(super) fn room(check: Check, what: &str, taken: usize, bound: usize) -> Fact {
    let severity = if taken >= bound {
        Severity::Failed
    } else if taken > bound / 5 * 4 {
        Severity::Warning
    } else {
        Severity::Ok
    };
    Fact::new(check, severity, format!("{taken} of {bound} {what}"))
}

/// What was turned away in the last minute, by reason, and is not the callers' fault.
pub(super) fn refusals(turned_away: &[(String, u64)]) -> Fact {
    if turned_away.is_empty() {
        return Fact::ok(Check::NoRefusals, "nobody was turned away in the last minute");
    }
    let reasons: Vec<_> = turned_away.iter().map(|(reason, count)| format!("{count} × {reason}")).collect();
    Fact::warning(Check::NoRefusals, format!("turned away in the last minute: {}", reasons.join(", ")))
}

/// Files that everything but connections may need: the ledger's, the other doors'.
const OTHER_FILES: u64 = 256;

/// The limit of open files (`None`: there is no limit) against the connections that shall fit.
pub(super) fn open_files(limit: Option<u64>, max_connections: usize) -> Fact {
    let needed = u64::try_from(max_connections).unwrap_or(u64::MAX).saturating_add(OTHER_FILES);
    match limit {
        Some(limit) if limit < needed => {
            Fact::warning(Check::OpenFiles, format!("{limit} files may be open, {max_connections} connections need {needed}"))
        }
        Some(limit) => Fact::ok(Check::OpenFiles, format!("{limit} files may be open, {needed} are needed at most")),
        None => Fact::ok(Check::OpenFiles, "there is no limit of open files"),
    }
}

/// A span of time for people; nothing where it is negative.
fn ago(span: time::Duration) -> String {
    text(Duration::try_from(span).unwrap_or(Duration::ZERO))
}

pub(super) fn text(time: Duration) -> String {
    span(time.as_secs())
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::cluster::{FetchError, Timing};

    const NOW: OffsetDateTime = datetime!(2026-11-24 12:00 UTC);
    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(24 * 3600);
    const LIFETIMES: Lifetimes =
        Lifetimes { root: DAY.saturating_mul(3650), issuing: DAY.saturating_mul(30), longest_leaf: DAY, shortest_leaf: Duration::from_secs(600) };
    use Severity::{Failed, Ok, Warning};

    #[test]
    fn a_root_is_warned_of_long_before_and_has_failed_when_certificates_get_shorter() {
        for (left, severity) in [(DAY * 181, Ok), (DAY * 179, Warning), (DAY * 2, Warning), (HOUR * 23, Failed), (Duration::ZERO, Failed)] {
            assert_eq!(root(NOW, NOW + left, &LIFETIMES).severity, severity, "{left:?}");
        }
        assert!(root(NOW, NOW - HOUR, &LIFETIMES).message.contains("expired 1h"));
        let short = Lifetimes { root: DAY * 40, ..LIFETIMES };
        assert_eq!(root(NOW, NOW + DAY * 11, &short).severity, Ok, "a root of 40 days is not warned of from its first day on");
    }

    #[test]
    fn an_issuing_certificate_is_late_short_or_at_its_end() {
        let verdict = |left: Duration, due: Option<time::Duration>| {
            let fact = issuing(NOW, NOW + left, due.map(|due| NOW + due), &LIFETIMES);
            (fact.severity, fact.message)
        };
        let ahead = Some(time::Duration::days(1));
        assert_eq!(verdict(DAY * 20, ahead).0, Ok);
        assert_eq!(verdict(DAY * 20, Some(-time::Duration::seconds(30))).0, Ok, "it takes a moment");
        let late = verdict(DAY * 9, Some(-time::Duration::hours(2)));
        assert!(late.0 == Warning && late.1.contains("overdue for 2h"), "{late:?}");
        assert_eq!(verdict(HOUR * 23, ahead).0, Warning, "leaves get shorter");
        assert_eq!(verdict(HOUR * 5, ahead).0, Failed);
        assert_eq!((verdict(DAY * 20, None).0, verdict(DAY * 7, None).0), (Ok, Warning), "an imported one comes to its end");
    }

    #[test]
    fn a_serving_certificate_that_is_not_renewed_is_seen_before_it_ends() {
        let times = ServingTimes { issued_at: NOW, renew_at: NOW + HOUR * 5, not_after: NOW + HOUR * 10 };
        for (after, severity) in [(0, Ok), (5, Ok), (7, Warning), (8, Warning), (10, Failed), (11, Failed)] {
            assert_eq!(serving(NOW + HOUR * after + Duration::from_secs(1), Some(times)).severity, severity, "{after} h");
        }
        assert_eq!(serving(NOW, None).severity, Failed);
    }

    #[test]
    fn a_clock_that_went_back_has_failed() {
        assert_eq!(clock(NOW, Some(NOW), NOW - HOUR, HOUR).severity, Ok);
        assert_eq!(clock(NOW, None, NOW - HOUR, HOUR).severity, Ok);
        let behind = clock(NOW, Some(NOW + HOUR), NOW - HOUR, HOUR);
        assert!(behind.severity == Failed && behind.message.contains("1h behind"), "{behind:?}");
        assert_eq!(clock(NOW, Some(NOW), NOW - HOUR, HOUR + Duration::from_secs(6)).severity, Failed);
        assert_eq!(clock(NOW, Some(NOW), NOW - HOUR * 9, HOUR).severity, Ok, "a machine that slept");
    }

    #[test]
    fn space_is_measured_in_bytes_and_in_parts() {
        const GIB: u64 = 1 << 30;
        for (free, all, severity) in [(20 * GIB, 100 * GIB, Ok), (9 * GIB, 100 * GIB, Warning), (GIB - 1, 2 * GIB, Warning), (63 << 20, GIB, Failed)]
        {
            assert_eq!(space(Check::LedgerSpace, "the ledger", free, all).severity, severity, "{free} of {all}");
        }
    }

    #[test]
    fn a_ledger_that_falls_behind() {
        let verdict = |waiting, unindexed| keeps_up(&Figures { waiting, waiting_limit: 1000, unindexed, ..Figures::default() }).severity;
        assert_eq!(
            [verdict(0, 0), verdict(800, 250_000), verdict(801, 0), verdict(0, 250_001), verdict(1000, 0)],
            [Ok, Ok, Warning, Warning, Failed]
        );
    }

    #[test]
    fn a_standby_that_may_lack_records_and_a_spool_that_holds_some() {
        let with = |found| standby(&Figures { standby: found, ..Figures::default() }).severity;
        let found = [Standby::Unknown, Standby::Absent, Standby::Synchronous, Standby::Asynchronous].map(with);
        assert_eq!(found, [Ok, Ok, Ok, Warning]);
        let with = |away, undrained| drained(&Figures { away, undrained, ..Figures::default() }).severity;
        assert_eq!([with(false, 0), with(false, 1), with(true, 0), with(true, 7)], [Ok, Warning, Failed, Failed]);
    }

    #[test]
    fn keys_age() {
        let timing = Timing { refresh_interval: HOUR, refetch_interval: HOUR, max_age: DAY, fetch_timeout: HOUR };
        let good = IssuerStatus {
            issuer: "https://issuer.example".to_owned(),
            last_success: Some(NOW),
            age: Some(HOUR),
            timing,
            keys: 2,
            skipped: 0,
            failures: 0,
            last_error: None,
        };
        let severity = |status: IssuerStatus| token_keys(0, 1, &status).severity;
        assert_eq!(severity(good.clone()), Ok);
        assert_eq!(severity(IssuerStatus { age: Some(HOUR * 3), ..good.clone() }), Warning);
        assert_eq!(severity(IssuerStatus { age: Some(HOUR * 25), ..good.clone() }), Failed);
        assert_eq!(severity(IssuerStatus { age: None, keys: 0, ..good.clone() }), Failed);
        assert_eq!(severity(IssuerStatus { keys: 0, ..good.clone() }), Failed);
        let broken = IssuerStatus { last_error: Some(FetchError::NotHttps("http://secret.example".to_owned())), ..good };
        let fact = token_keys(1, 3, &broken);
        assert_eq!(fact.severity, Warning);
        assert!(fact.message.contains("token issuer 2 of 3") && !fact.message.contains("example"), "no name for strangers: {}", fact.message);
        assert!(fact.detail.contains("https://issuer.example: ") && fact.detail.contains("secret.example"), "{}", fact.detail);
    }

    #[test]
    fn a_cluster_is_heard_quiet_or_forgotten() {
        use crate::cluster::{ApiError, LookupCounts, Resource};
        let watch = |age: Option<u64>, trouble: Option<ApiError>| {
            let age = age.map(Duration::from_secs);
            let watches = vec![WatchStatus { resource: Resource::Pods, age, objects: 3, lists: 1, failures: 0, trouble }];
            let (objects, placements) = (LookupCounts::default(), LookupCounts::default());
            let status = ClusterStatus { cluster: "east".to_owned(), watches, max_staleness: HOUR, objects, placements };
            cluster(Some(&status)).remove(0)
        };
        let refused = || Some(ApiError::Status { code: 403, message: "pods is forbidden: User secret".to_owned() });
        for (age, trouble, severity) in
            [(Some(65), None, Ok), (Some(151), None, Warning), (Some(5), refused(), Warning), (Some(3601), None, Failed), (None, refused(), Failed)]
        {
            let fact = watch(age, trouble.clone());
            assert_eq!(fact.severity, severity, "{fact:?}");
            assert_eq!(fact.detail.contains("secret"), trouble.is_some());
            assert!(!fact.message.contains("secret") && !fact.message.contains("east"), "no name for strangers: {}", fact.message);
        }
        assert_eq!(cluster(None).remove(0).severity, Ok);
    }

    #[test]
    fn a_leader_is_known_or_missed() {
        let second = Duration::from_secs(1);
        let well =
            LeaseStatus { leading: false, holder: Some("name".to_owned()), unchanged: Some(second), age: Some(second), failures: 0, trouble: None };
        let verdict = |status: LeaseStatus| leader(false, Some(&status));
        assert_eq!((verdict(well.clone()).severity, leader(true, None).severity, leader(false, None).severity), (Ok, Ok, Ok));
        assert!(!verdict(well.clone()).message.contains("name"), "no name for strangers");
        assert_eq!(verdict(LeaseStatus { leading: true, ..well.clone() }).severity, Ok);
        for missed in [
            LeaseStatus { age: None, ..well.clone() },
            LeaseStatus { age: Some(second * 21), ..well.clone() },
            LeaseStatus { unchanged: Some(second * 21), ..well.clone() },
            LeaseStatus { holder: None, unchanged: None, ..well },
        ] {
            assert_eq!(verdict(missed.clone()).severity, Warning, "{missed:?}");
        }
        assert_eq!([None, Some(second), Some(second * 21)].map(|age| followed(age).severity), [Ok, Ok, Warning]);
    }

    #[test]
    fn bounds_have_room_until_four_fifths_are_taken() {
        let severity = |taken| room(Check::RequestsRoom, "requests", taken, 100).severity;
        assert_eq!([severity(0), severity(80), severity(81), severity(100)], [Ok, Ok, Warning, Failed]);
        assert_eq!(refusals(&[]).severity, Ok);
        let some = refusals(&[("overloaded".to_owned(), 12), ("ledger_unavailable".to_owned(), 3)]);
        assert_eq!((some.severity, some.message.as_str()), (Warning, "turned away in the last minute: 12 × overloaded, 3 × ledger_unavailable"));
        assert_eq!(
            (open_files(Some(1024), 10_000).severity, open_files(Some(20_000), 10_000).severity, open_files(None, 1).severity),
            (Warning, Ok, Ok)
        );
    }
}
