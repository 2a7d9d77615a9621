//! Each fact, well and unwell.

use time::macros::datetime;

use super::*;
use crate::callers::{FaultyKey, KeyFault};
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
    for (free, all, severity) in [(20 * GIB, 100 * GIB, Ok), (9 * GIB, 100 * GIB, Warning), (GIB - 1, 2 * GIB, Warning), (63 << 20, GIB, Failed)] {
        assert_eq!(space(Check::LedgerSpace, "the ledger", free, all).severity, severity, "{free} of {all}");
    }
}

#[test]
fn a_ledger_that_falls_behind() {
    let verdict = |waiting, unindexed| keeps_up(&Figures { waiting, waiting_limit: 1000, unindexed, ..Figures::default() }).severity;
    assert_eq!([verdict(0, 0), verdict(800, 250_000), verdict(801, 0), verdict(0, 250_001), verdict(1000, 0)], [Ok, Ok, Warning, Warning, Failed]);
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
fn an_authority_that_peers_refuse_has_failed() {
    assert_eq!(accepted(&[]).severity, Ok);
    let fact = accepted(&[("CN=a".to_owned(), PeerRefusal::NegativeSerial), ("CN=b".to_owned(), PeerRefusal::UriConstraints)]);
    assert_eq!((fact.severity, fact.detail.as_str()), (Failed, "CN=a; and 1 more"));
    assert!(fact.message.contains("negative serial number") && !fact.message.contains("CN="), "{}", fact.message);
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
        faulty: vec![],
        failures: 0,
        last_error: None,
        named_by_cluster: None,
    };
    let severity = |status: IssuerStatus| token_keys(0, 1, &status).severity;
    assert_eq!(severity(good.clone()), Ok);
    assert_eq!(severity(IssuerStatus { age: Some(HOUR * 3), ..good.clone() }), Warning);
    assert_eq!(severity(IssuerStatus { age: Some(HOUR * 25), ..good.clone() }), Failed);
    assert_eq!(severity(IssuerStatus { age: None, keys: 0, ..good.clone() }), Failed);
    assert_eq!(severity(IssuerStatus { keys: 0, ..good.clone() }), Failed);
    let faulty = vec![FaultyKey { index: 1, fault: KeyFault::Member("n") }];
    let fact = token_keys(0, 1, &IssuerStatus { faulty, ..good.clone() });
    assert_eq!((fact.severity, fact.detail.as_str()), (Warning, "https://issuer.example: key 1 has no usable \"n\""));
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
    assert_eq!((open_files(Some(1024), 10_000).severity, open_files(Some(20_000), 10_000).severity, open_files(None, 1).severity), (Warning, Ok, Ok));
}
