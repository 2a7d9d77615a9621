//! From what was measured to a verdict, without any I/O: what is well, what to warn of, and what has failed.

use std::time::Duration;

use time::OffsetDateTime;

use super::table::Check;
use crate::cluster::{ClusterStatus, IssuerStatus, LeaseStatus, WatchStatus};
use crate::ledger::{Figures, Standby};
use crate::pki::inspect::{Severity, lifetime, span};
use crate::rotation::{Missing, Part};
use crate::spiffe::x509_svid::PeerRefusal;

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// Which check.
    pub check: Check,
    /// Its verdict.
    pub severity: Severity,
    /// For everybody who can reach the health port: no name, no path.
    pub message: String,
    /// More, for the operator at the admin socket.
    pub detail: String,
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

/// What peers refuse in the authorities and roots of the state, each with its subject.
pub(super) fn accepted(refused: &[(String, PeerRefusal)]) -> Fact {
    match refused.first() {
        None => Fact::ok(Check::AuthorityAccepted, "no verifier of a mesh is known to refuse our authorities and roots"),
        Some((subject, refusal)) => {
            let what = format!("an authority or root {refusal}");
            let others = if refused.len() > 1 { format!("; and {} more", refused.len() - 1) } else { String::new() };
            Fact::failed(Check::AuthorityAccepted, what).with_detail(format!("{subject}{others}"))
        }
    }
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
        Some(age) if !status.faulty.is_empty() => {
            (Severity::Warning, format!("are {} old; {} can be used, {} are passed over as mistakes", text(age), status.keys, status.faulty.len()))
        }
        Some(age) => (Severity::Ok, format!("are {} old; {} can be used", text(age), status.keys)),
    };
    let error = status.last_error.as_ref().map(ToString::to_string).or_else(|| status.faulty.first().map(ToString::to_string));
    let error = error.map(|error| format!(": {error}")).unwrap_or_default();
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

/// Whether the store has every part of the state.
pub(super) fn complete(missing: &[Missing]) -> Fact {
    const CHECK: Check = Check::StateComplete;
    let count = |part| missing.iter().filter(|each| each.part == part).count();
    let named = Part::ALL.into_iter().zip(["the state itself", "a key that signs leaves", "a key that signs issuing authorities"]);
    let told: Vec<_> = named.filter(|(part, _)| count(*part) > 0).map(|(_, what)| what).collect();
    if told.is_empty() {
        return Fact::ok(CHECK, "the store has the state and its keys");
    }
    let details: Vec<_> = missing.iter().map(|each| each.reason.as_str()).collect();
    Fact::failed(CHECK, format!("the store lacks {}: the next start would fail", told.join(", "))).with_detail(details.join("; "))
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
pub(super) fn watched(check: Check, watch: &WatchStatus, max_staleness: Duration) -> Fact {
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
pub(super) fn ago(span: time::Duration) -> String {
    text(Duration::try_from(span).unwrap_or(Duration::ZERO))
}

pub(super) fn text(time: Duration) -> String {
    span(time.as_secs())
}

#[cfg(test)]
mod tests;
