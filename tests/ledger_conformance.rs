//! What every ledger must do, whatever keeps it: one suite, run against each backend.
#![cfg(feature = "service")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failure here is the test's answer")]

#[path = "common/ledger.rs"]
mod common;
#[path = "common/postgres.rs"]
mod postgres_server;

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use async_trait::async_trait;
use common::{FIRST, START, bare, digest, issuer, leaf, other_issuer, serial, walk};
use meshmint::authority::GenerationNumber;
use meshmint::ledger::postgres::{PostgresLedger, PostgresSettings};
use meshmint::ledger::{
    AuditEntry, AuditPage, CertificateFilter, CertificateRecord, CredentialKind, Cursor, HolderId, Kind, Ledger, LedgerError, NotACursor, State,
    Stats,
};
use meshmint::pki::PublicKeyAlgorithm;
use time::{Duration, OffsetDateTime};
use tokio::task::JoinSet;

/// A place with one ledger in it, empty at first.
#[async_trait]
trait Backend: Send + Sync {
    /// Opens it. The tests drop the one they have before they open it again.
    async fn open(&self) -> Arc<dyn Ledger>;
}

/// Every test of the suite, for one backend: `suite!(name, an expression that makes a Backend)`.
macro_rules! suite {
    ($backend:ident, $make:expr, [$($test:ident),+ $(,)?]) => {
        mod $backend {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(&$make).await;
                }
            )+
        }
    };
}

/// The tests, for each backend.
macro_rules! suites {
    ({$($backend:ident: $make:expr),+ $(,)?}, $tests:tt) => {
        $(suite!($backend, $make, $tests);)+
    };
}

suites!(
    { sqlite: Sqlite::new(), postgres: Postgres::new() },
    [
        a_record_comes_back_whole,
        a_record_needs_its_generation_open,
        a_serial_is_taken_once_for_each_issuer,
        one_refused_record_leaves_the_others_alone,
        a_number_that_cannot_be_kept_refuses_only_itself,
        a_thousand_records_at_once,
        nothing_is_accepted_after_a_close,
        generations_open_once_and_close_for_ever,
        bundles_keep_their_bytes,
        the_log_of_operators_and_replicas_takes_entries,
        sequences_are_counted_by_replica,
        leaves_are_found_by_all_three_of_issuer_serial_and_digest,
        serials_are_compared_as_numbers,
        a_holder_has_its_latest_certificate,
        every_filter_selects,
        pages_end_where_the_next_begins,
        a_list_has_the_order_of_the_time_that_it_is_bounded_by,
        what_comes_in_is_followed,
        a_page_walk_survives_inserts_and_pruning,
        stats_count_what_is_there,
        stats_count_by_time_key_and_lifetime,
        pruning_takes_the_oldest_and_their_holders,
        a_caller_that_stops_waiting_harms_nobody,
        the_same_ledger_is_there_after_a_restart,
        every_write_raises_the_high_water_mark,
        two_authorities_never_share_a_fence,
    ]
);

struct Sqlite(tempfile::TempDir);

impl Sqlite {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
}

#[async_trait]
impl Backend for Sqlite {
    async fn open(&self) -> Arc<dyn Ledger> {
        let entropy = meshmint::clock::SystemEntropy::shared();
        Arc::new(meshmint::ledger::sqlite::SqliteLedger::open(&self.0.path().join("ledger.db"), entropy.as_ref()).unwrap())
    }
}

/// A database of a server that all tests share.
struct Postgres(postgres_server::Database, AtomicU64);

impl Postgres {
    fn new() -> Self {
        Self(postgres_server::Postgres::shared().database(), AtomicU64::new(0))
    }
}

#[async_trait]
impl Backend for Postgres {
    async fn open(&self) -> Arc<dyn Ledger> {
        let settings = PostgresSettings {
            url: self.0.url(),
            ca_file: Some(self.0.ca_file.clone()),
            password_file: Some(self.0.password_file.clone()),
            pool_size: 3,
            retention: std::time::Duration::from_secs(30 * 86_400),
            start_patience: std::time::Duration::ZERO,
        };
        let replica = format!("process-{}", self.1.fetch_add(1, Ordering::SeqCst));
        let entropy = meshmint::clock::SystemEntropy::shared();
        let clock = meshmint::clock::SystemClock::shared();
        Arc::new(PostgresLedger::open(&settings, &replica, clock, entropy.as_ref(), None).await.unwrap())
    }
}

/// The ledger with the first generation open.
async fn ready(backend: &dyn Backend) -> Arc<dyn Ledger> {
    let ledger = backend.open().await;
    ledger.open_generation(FIRST, &issuer(), START).await.unwrap();
    ledger
}

async fn record_all(ledger: &dyn Ledger, records: impl IntoIterator<Item = CertificateRecord>) {
    for record in records {
        ledger.record(record).await.unwrap();
    }
}

async fn a_record_comes_back_whole(backend: &dyn Backend) {
    let ledger = ready(backend).await;
    let mut records = vec![leaf(0)];
    records.extend(Kind::ALL.iter().zip(1..).map(|((kind, _), number)| bare(number, *kind)));
    records
        .extend(CredentialKind::ALL.iter().zip(10..).map(|((credential, _), number)| CertificateRecord { credential: *credential, ..leaf(number) }));
    record_all(ledger.as_ref(), records.clone()).await;

    let page = ledger.list(&CertificateFilter::default(), None, 100, START).await.unwrap();
    let found: Vec<_> = page.certificates.iter().rev().map(|stored| stored.record.clone()).collect();
    assert_eq!(found, records);
    assert!(page.certificates.iter().all(|stored| stored.revoked.is_none()));
    ledger.check_writable().await.unwrap();
}

async fn a_record_needs_its_generation_open(backend: &dyn Backend) {
    let ledger = ready(backend).await;
    let of = |generation| CertificateRecord { generation, ..leaf(0) };
    assert_eq!(ledger.record(of(GenerationNumber(2))).await, Err(LedgerError::Fenced(GenerationNumber(2))));
    ledger.close_generation(FIRST, START).await.unwrap();
    assert_eq!(ledger.record(of(FIRST)).await, Err(LedgerError::Fenced(FIRST)));
    assert_eq!(ledger.find_serial(&serial(0)).await.unwrap(), []);
    assert_eq!(ledger.holder(&leaf(0).holder.unwrap()).await.unwrap(), None);
    assert_eq!(ledger.last_sequence("replica-a").await.unwrap(), None);
}

async fn a_serial_is_taken_once_for_each_issuer(backend: &dyn Backend) {
    let ledger = ready(backend).await;
    let first = leaf(0);
    ledger.record(first.clone()).await.unwrap();
    let again = CertificateRecord { serial: first.serial.clone(), ..leaf(1) };
    assert!(matches!(ledger.record(again.clone()).await, Err(LedgerError::Duplicate(_))));
    assert_eq!(ledger.holder(&again.holder.clone().unwrap()).await.unwrap(), None, "the refused one left no holder");
    ledger.record(CertificateRecord { issuer: other_issuer(), ..again.clone() }).await.unwrap();

    let found = ledger.find_serial(&first.serial).await.unwrap();
    assert_eq!(found.iter().map(|stored| stored.record.issuer.clone()).collect::<Vec<_>>(), [other_issuer(), issuer()]);
    // The fence comes first: a stale process learns that it is stale.
    ledger.close_generation(FIRST, START).await.unwrap();
    assert_eq!(ledger.record(again).await, Err(LedgerError::Fenced(FIRST)));
}

async fn one_refused_record_leaves_the_others_alone(backend: &dyn Backend) {
    let ledger = ready(backend).await;
    ledger.record(leaf(0)).await.unwrap();
    let mut tasks = JoinSet::new();
    for number in 1..=300_u64 {
        let ledger = Arc::clone(&ledger);
        let record = match number % 3 {
            0 => CertificateRecord { serial: serial(0), ..leaf(number) },
            1 => CertificateRecord { generation: GenerationNumber(9), ..leaf(number) },
            _ => leaf(number),
        };
        tasks.spawn(async move { (number, ledger.record(record).await) });
    }
    while let Some(done) = tasks.join_next().await {
        let (number, outcome) = done.unwrap();
        match number % 3 {
            0 => assert!(matches!(outcome, Err(LedgerError::Duplicate(_))), "{number}: {outcome:?}"),
            1 => assert_eq!(outcome, Err(LedgerError::Fenced(GenerationNumber(9))), "{number}"),
            _ => assert_eq!(outcome, Ok(()), "{number}"),
        }
    }
    assert_eq!(ledger.stats(START).await.unwrap().total, 101);
    assert_eq!(ledger.last_sequence("replica-a").await.unwrap(), Some(300), "number 299 is the last that got in");
}

async fn a_number_that_cannot_be_kept_refuses_only_itself(backend: &dyn Backend) {
    let ledger = ready(backend).await;
    let huge = CertificateRecord { replica_sequence: u64::MAX, ..leaf(1) };
    let (good, bad) = tokio::join!(ledger.record(leaf(0)), ledger.record(huge));
    assert_eq!(good, Ok(()));
    assert!(matches!(bad, Err(LedgerError::Unavailable(_))), "{bad:?}");
    assert_eq!(ledger.stats(START).await.unwrap().total, 1);
    let nobody = CertificateFilter { generation: Some(GenerationNumber(u64::MAX)), ..CertificateFilter::default() };
    assert_eq!(ledger.list(&nobody, None, 10, START).await.unwrap().certificates, []);
}

async fn a_thousand_records_at_once(backend: &dyn Backend) {
    let ledger = ready(backend).await;
    let mut tasks = JoinSet::new();
    for number in 0..1_000 {
        let ledger = Arc::clone(&ledger);
        tasks.spawn(async move {
            ledger.record(leaf(number)).await.unwrap();
            // What was acknowledged can be read at once.
            assert_eq!(ledger.find_serial(&serial(number)).await.unwrap().len(), 1);
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let stats = ledger.stats(START).await.unwrap();
    assert_eq!((stats.total, stats.live_holders), (1_000, 1_000));
    assert_eq!(ledger.last_sequence("replica-a").await.unwrap(), Some(1_000));
}

async fn nothing_is_accepted_after_a_close(backend: &dyn Backend) {
    let ledger = ready(backend).await;
    for round in 1..=10_u64 {
        let generation = GenerationNumber(round + 1);
        ledger.open_generation(generation, &issuer(), START).await.unwrap();
        let of_round = move |number: u64| CertificateRecord { generation, ..leaf(round * 1_000_000 + number) };
        let accepted = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for task in 0..8 {
            let (ledger, accepted) = (Arc::clone(&ledger), Arc::clone(&accepted));
            tasks.spawn(async move {
                // Each writes until it is told that its generation is closed.
                for number in 0.. {
                    match ledger.record(of_round(number * 8 + task)).await {
                        Ok(()) => accepted.fetch_add(1, Ordering::SeqCst),
                        Err(LedgerError::Fenced(fenced)) if fenced == generation => return,
                        Err(error) => panic!("{error}"),
                    };
                }
            });
        }
        while accepted.load(Ordering::SeqCst) < 20 {
            tokio::task::yield_now().await;
        }
        ledger.close_generation(generation, START).await.unwrap();
        let filter = CertificateFilter { generation: Some(generation), ..CertificateFilter::default() };
        let at_close = walk(ledger.as_ref(), &filter, 1_000, START).await;
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        assert_eq!(walk(ledger.as_ref(), &filter, 1_000, START).await, at_close, "none came in later");
        assert_eq!(accepted.load(Ordering::SeqCst), at_close.len() as u64, "and all that were acknowledged are there");
    }
}

async fn generations_open_once_and_close_for_ever(backend: &dyn Backend) {
    let ledger = ready(backend).await;
    ledger.open_generation(FIRST, &issuer(), START + Duration::HOUR).await.unwrap();
    ledger.record(leaf(0)).await.unwrap();
    ledger.close_generation(FIRST, START).await.unwrap();
    ledger.close_generation(FIRST, START + Duration::HOUR).await.unwrap();
    assert_eq!(ledger.open_generation(FIRST, &issuer(), START).await, Err(LedgerError::Fenced(FIRST)));
    // One that was closed unseen can't be opened by a late comer either.
    let unseen = GenerationNumber(7);
    ledger.close_generation(unseen, START).await.unwrap();
    assert_eq!(ledger.open_generation(unseen, &issuer(), START).await, Err(LedgerError::Fenced(unseen)));
}

async fn bundles_keep_their_bytes(backend: &dyn Backend) {
    let ledger = backend.open().await;
    assert_eq!(ledger.latest_bundle().await, Ok(None));
    ledger.record_bundle(1, "one\n", START).await.unwrap();
    ledger.record_bundle(1, "one\n", START + Duration::HOUR).await.unwrap();
    assert!(matches!(ledger.record_bundle(1, "one\n ", START).await, Err(LedgerError::Duplicate(_))));
    ledger.record_bundle(2, "one\n", START).await.unwrap();
    assert_eq!(ledger.latest_bundle().await, Ok(Some(2)));
}

async fn the_log_of_operators_and_replicas_takes_entries(backend: &dyn Backend) {
    let ledger = backend.open().await;
    let entry = AuditEntry {
        at: START,
        actor: "local".to_owned(),
        action: "authority.import".to_owned(),
        detail: "'); DROP TABLE audit; --".to_owned(),
        reason: String::new(),
    };
    assert_eq!(ledger.audits(None, 10).await.unwrap(), AuditPage { entries: Vec::new(), next: None });
    let second = AuditEntry { actor: "local:uid=0".to_owned(), at: START + Duration::SECOND, reason: "because".to_owned(), ..entry.clone() };
    ledger.audit(entry.clone()).await.unwrap();
    ledger.audit(entry.clone()).await.unwrap();
    ledger.audit(second.clone()).await.unwrap();
    let first = ledger.audits(None, 2).await.unwrap();
    let [(newest, _), (middle, _)] = first.entries[..] else { panic!("{first:?}") };
    assert!(newest > middle, "the newest first");
    assert_eq!(first, AuditPage { entries: vec![(newest, second), (middle, entry.clone())], next: Some(middle) });
    let last = ledger.audits(first.next, 1).await.unwrap();
    assert_eq!((last.entries[0].1.clone(), last.next), (entry, None));
    assert_eq!(ledger.audits(Some(0), 1_000_000).await.unwrap().entries, Vec::new());
    ledger.replica_serves("replica-a", FIRST, 1, START).await.unwrap();
    ledger.replica_serves("replica-a", GenerationNumber(2), 2, START).await.unwrap();
}

async fn sequences_are_counted_by_replica(backend: &dyn Backend) {
    let ledger = ready(backend).await;
    ledger.replica_serves("replica-a", FIRST, 1, START).await.unwrap();
    assert_eq!(ledger.last_sequence("replica-a").await.unwrap(), None, "it serves, but has recorded nothing");
    let by = |number, replica: &str, sequence| CertificateRecord { replica: replica.to_owned(), replica_sequence: sequence, ..leaf(number) };
    record_all(ledger.as_ref(), [by(0, "replica-a", 5), by(1, "replica-a", 4), by(2, "replica-b", 1)]).await;
    assert_eq!(ledger.last_sequence("replica-a").await.unwrap(), Some(5));
    assert_eq!(ledger.last_sequence("replica-b").await.unwrap(), Some(1));
    assert_eq!(ledger.last_sequence("replica-c").await.unwrap(), None);
    assert_eq!(ledger.prune(START + Duration::days(9), 10).await.unwrap(), 3);
    assert_eq!(ledger.last_sequence("replica-a").await.unwrap(), Some(5), "it outlives the records");
}

async fn leaves_are_found_by_all_three_of_issuer_serial_and_digest(backend: &dyn Backend) {
    let ledger = ready(backend).await;
    record_all(ledger.as_ref(), [leaf(0), bare(1, Kind::Serving)]).await;
    let find = |issuer, serial: Vec<u8>, digest: [u8; 32]| {
        let ledger = Arc::clone(&ledger);
        async move { ledger.find_leaf(&issuer, &serial, &digest).await.unwrap() }
    };
    assert_eq!(find(issuer(), serial(0), digest(0)).await.unwrap().record, leaf(0));
    let padded = [vec![0], serial(0)].concat();
    assert_eq!(find(issuer(), padded, digest(0)).await.unwrap().record, leaf(0));
    assert_eq!(find(other_issuer(), serial(0), digest(0)).await, None);
    assert_eq!(find(issuer(), serial(2), digest(0)).await, None);
    assert_eq!(find(issuer(), serial(0), digest(2)).await, None);
    assert_eq!(find(issuer(), serial(1), digest(1)).await, None, "a serving certificate is no leaf");
}

async fn serials_are_compared_as_numbers(backend: &dyn Backend) {
    let ledger = ready(backend).await;
    let with = |number, serial: &[u8]| CertificateRecord { serial: serial.to_owned(), ..leaf(number) };
    record_all(ledger.as_ref(), [with(0, &[1, 0]), with(1, &[0x81])]).await;
    for same in [[1, 0].as_slice(), &[0, 1, 0], &[0, 0, 0, 1, 0]] {
        assert_eq!(ledger.find_serial(same).await.unwrap().len(), 1, "{same:?}");
    }
    for other in [[1].as_slice(), &[1, 0, 0], &[0], &[]] {
        assert_eq!(ledger.find_serial(other).await.unwrap(), [], "{other:?}");
    }
    assert_eq!(ledger.find_serial(&[0, 0x81]).await.unwrap().len(), 1);
    assert!(matches!(ledger.record(with(2, &[0, 1, 0])).await, Err(LedgerError::Duplicate(_))));
}

async fn a_holder_has_its_latest_certificate(backend: &dyn Backend) {
    let ledger = ready(backend).await;
    let holder = HolderId::lineage(&[1, 2]);
    let of = |number| CertificateRecord { holder: Some(holder.clone()), ..leaf(number) };
    let latest = || async { ledger.holder(&holder).await.unwrap().map(|record| record.serial) };
    assert_eq!(latest().await, None);
    record_all(ledger.as_ref(), [of(5)]).await;
    let first = ledger.holder(&holder).await.unwrap().unwrap();
    assert_eq!((&first.holder, &first.spiffe_id, &first.issuer), (&holder, &of(5).spiffe_id, &issuer()));
    assert_eq!((first.generation, first.bundle_number), (FIRST, 3));
    assert_eq!((first.issued_at, first.not_after), (of(5).issued_at, of(5).not_after));

    record_all(ledger.as_ref(), [of(9)]).await;
    assert_eq!(latest().await, Some(serial(9)));
    record_all(ledger.as_ref(), [of(7)]).await;
    assert_eq!(latest().await, Some(serial(9)), "one that was issued earlier and recorded later");
    record_all(ledger.as_ref(), [CertificateRecord { issued_at: of(9).issued_at, ..of(10) }]).await;
    assert_eq!(latest().await, Some(serial(10)), "of two issued at once, the one recorded later");

    // The intermediate of an istiod has a holder as well.
    let istiod = HolderId::istiod("east", "istio-system");
    let given = |number| CertificateRecord { holder: Some(istiod.clone()), ..bare(number, Kind::Intermediate) };
    record_all(ledger.as_ref(), [given(20), given(21)]).await;
    assert_eq!(ledger.holder(&istiod).await.unwrap().unwrap().serial, serial(21));
    let all = CertificateFilter { holder: Some(istiod.clone()), ..CertificateFilter::default() };
    assert_eq!(walk(ledger.as_ref(), &all, 10, START).await, [serial(21), serial(20)]);
}

async fn every_filter_selects(backend: &dyn Backend) {
    let ledger = ready(backend).await;
    let second = GenerationNumber(2);
    ledger.open_generation(second, &other_issuer(), START).await.unwrap();
    let special = CertificateRecord {
        namespace: Some("it's".to_owned()),
        service_account: Some("pay".to_owned()),
        issuer: other_issuer(),
        generation: second,
        kind: Kind::Intermediate,
        not_after: START + Duration::HOUR,
        ..leaf(100)
    };
    record_all(ledger.as_ref(), [leaf(0), special.clone(), leaf(200)]).await;

    let only = |change: &dyn Fn(&mut CertificateFilter)| {
        let mut filter = CertificateFilter::default();
        change(&mut filter);
        filter
    };
    let (issued, expires, moment) = (special.issued_at, special.not_after, Duration::microseconds(1));
    let after_hours = START + Duration::hours(2);
    for (filter, expected) in [
        (only(&|_| {}), vec![200, 100, 0]),
        (only(&|filter| filter.namespace = special.namespace.clone()), vec![100]),
        (only(&|filter| filter.namespace = Some("%".to_owned())), vec![]),
        (only(&|filter| filter.service_account = Some("pay".to_owned())), vec![100]),
        (only(&|filter| filter.holder = special.holder.clone()), vec![100]),
        (only(&|filter| filter.issuer = Some(other_issuer())), vec![100]),
        (only(&|filter| filter.generation = Some(second)), vec![100]),
        (only(&|filter| filter.kind = Some(Kind::Intermediate)), vec![100]),
        (only(&|filter| filter.state = Some(State::Valid)), vec![200, 0]),
        (only(&|filter| filter.state = Some(State::Expired)), vec![100]),
        (only(&|filter| filter.state = Some(State::Revoked)), vec![]),
        (only(&|filter| filter.issued_after = Some(issued)), vec![200, 100]),
        (only(&|filter| filter.issued_after = Some(issued + moment)), vec![200]),
        (only(&|filter| filter.issued_before = Some(issued)), vec![0]),
        (only(&|filter| filter.issued_before = Some(issued + moment)), vec![100, 0]),
        (only(&|filter| filter.expires_after = Some(expires)), vec![200, 0, 100]),
        (only(&|filter| filter.expires_after = Some(expires + moment)), vec![200, 0]),
        (only(&|filter| filter.expires_before = Some(expires)), vec![]),
        (only(&|filter| filter.expires_before = Some(expires + moment)), vec![100]),
        (
            only(&|filter| {
                filter.namespace = Some("shop".to_owned());
                filter.issued_after = Some(issued);
                filter.state = Some(State::Valid);
            }),
            vec![200],
        ),
        (
            only(&|filter| {
                filter.namespace = Some("shop".to_owned());
                filter.kind = Some(Kind::Intermediate);
            }),
            vec![],
        ),
    ] {
        let expected: Vec<_> = expected.into_iter().map(serial).collect();
        assert_eq!(walk(ledger.as_ref(), &filter, 2, after_hours).await, expected, "{filter:?}");
    }
    // notAfter itself is the last valid moment.
    let expired = only(&|filter| filter.state = Some(State::Expired));
    assert_eq!(walk(ledger.as_ref(), &expired, 2, expires).await, Vec::<Vec<u8>>::new());
    assert_eq!(walk(ledger.as_ref(), &expired, 2, expires + moment).await, [serial(100)]);
}

async fn pages_end_where_the_next_begins(backend: &dyn Backend) {
    let ledger = ready(backend).await;
    let everything = CertificateFilter::default();
    let empty = ledger.list(&everything, None, 10, START).await.unwrap();
    assert_eq!((empty.certificates.len(), empty.next), (0, None));
    let mut tasks = JoinSet::new();
    for number in 0..1_001 {
        let ledger = Arc::clone(&ledger);
        tasks.spawn(async move { ledger.record(leaf(number)).await.unwrap() });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let mut expected: Vec<_> = (0..1_001).map(serial).collect();
    for limit in [7, 143, 500] {
        let mut walked = walk(ledger.as_ref(), &everything, limit, START).await;
        walked.sort();
        expected.sort();
        assert_eq!(walked, expected, "pages of {limit}");
    }
    let all = ledger.list(&everything, None, u32::MAX, START).await.unwrap();
    assert_eq!(all.certificates.len(), 1_000, "the most on one page");
    let last = ledger.list(&everything, all.next, 1, START).await.unwrap();
    assert_eq!((last.certificates.len(), last.next), (1, None), "a full last page has no next");
    assert_eq!(ledger.list(&everything, None, 0, START).await.unwrap().certificates.len(), 1, "a page is never empty for want of a limit");
}

async fn a_list_has_the_order_of_the_time_that_it_is_bounded_by(backend: &dyn Backend) {
    let ledger = ready(backend).await;
    let with = |number: u64, issued: i64, expires: i64| CertificateRecord {
        issued_at: START + Duration::seconds(issued),
        not_after: START + Duration::seconds(expires),
        ..leaf(number)
    };
    // START is a fraction of a second after a whole minute.
    record_all(ledger.as_ref(), [with(0, 9, 50), with(1, 5, 200), with(2, 7, 20), with(3, 5, 10_000)]).await;
    let none = CertificateFilter::default();
    let later = Some(START + Duration::seconds(5_000));
    for (filter, expected) in [
        (none.clone(), vec![3, 2, 1, 0]),
        (CertificateFilter { issued_after: Some(START), ..none.clone() }, vec![0, 2, 3, 1]),
        (CertificateFilter { issued_before: later, ..none.clone() }, vec![0, 2, 3, 1]),
        (CertificateFilter { expires_after: Some(START), ..none.clone() }, vec![3, 1, 2, 0]),
        (CertificateFilter { expires_before: later, ..none.clone() }, vec![1, 2, 0]),
        (CertificateFilter { expires_before: later, issued_after: Some(START), ..none.clone() }, vec![0, 2, 1]),
        (CertificateFilter { state: Some(State::Expired), ..none.clone() }, vec![1, 2, 0]),
    ] {
        let expected: Vec<_> = expected.into_iter().map(serial).collect();
        for limit in [1, 3, 10] {
            assert_eq!(walk(ledger.as_ref(), &filter, limit, START + Duration::HOUR / 2).await, expected, "{filter:?} in pages of {limit}");
        }
    }
    // A cursor is for lists in its own order.
    let issued = CertificateFilter { issued_after: Some(START), ..none.clone() };
    let cursor = ledger.list(&issued, None, 1, START).await.unwrap().next;
    assert_eq!(cursor.unwrap().to_string().parse(), Ok(cursor.unwrap()));
    assert_eq!(ledger.list(&none, cursor, 1, START).await, Err(LedgerError::ForeignCursor));
    assert_eq!(ledger.follow(&none, cursor, 1, START).await, Err(LedgerError::ForeignCursor));
    let cursor = ledger.list(&none, None, 1, START).await.unwrap().next;
    assert_eq!(ledger.list(&issued, cursor, 1, START).await, Err(LedgerError::ForeignCursor));
}

async fn what_comes_in_is_followed(backend: &dyn Backend) {
    let ledger = ready(backend).await;
    let everything = CertificateFilter::default();
    record_all(ledger.as_ref(), [leaf(0)]).await;
    let start = ledger.follow(&everything, None, 10, START).await.unwrap();
    assert_eq!(start.certificates, [], "only what comes from now on");
    let following = |filter: CertificateFilter, after: Option<Cursor>, limit| {
        let ledger = Arc::clone(&ledger);
        async move {
            let page = ledger.follow(&filter, after, limit, START).await.unwrap();
            (page.certificates.into_iter().map(|stored| stored.record.serial).collect::<Vec<_>>(), page.next)
        }
    };
    let (nothing, same) = following(everything.clone(), start.next, 10).await;
    assert_eq!((nothing, same), (vec![], start.next));

    let other = |number| CertificateRecord { namespace: Some("bank".to_owned()), ..leaf(number) };
    // The later one was issued earlier: it is the order of recording that counts.
    record_all(ledger.as_ref(), [leaf(4), other(2), leaf(3)]).await;
    let (first, next) = following(everything.clone(), start.next, 2).await;
    assert_eq!(first, [serial(4), serial(2)]);
    let (second, end) = following(everything.clone(), next, 2).await;
    assert_eq!(second, [serial(3)]);
    let bank = CertificateFilter { namespace: Some("bank".to_owned()), ..everything.clone() };
    let (found, past) = following(bank.clone(), start.next, 10).await;
    assert_eq!((found, past), (vec![serial(2)], end), "what doesn't match is passed over for good");
    assert_eq!(following(bank.clone(), start.next, 1).await.0, [serial(2)]);

    // Nothing is missed or shown twice when rows go, and when the ledger was closed meanwhile.
    while ledger.prune(START + Duration::days(30), 1_000).await.unwrap() > 0 {}
    assert_eq!(following(everything.clone(), start.next, 10).await, (vec![], end));
    record_all(ledger.as_ref(), [leaf(5)]).await;
    let (found, end) = following(everything.clone(), end, 10).await;
    assert_eq!(found, [serial(5)]);
    let text = end.unwrap().to_string();
    assert_eq!(text.parse(), Ok(end.unwrap()), "a cursor goes through text");
    for other in ["", "r", "r1", "r0.", "r0.-1", "r0.+1", "r0.01", "R0.1", "x0.1", "0.1", "r0.1 ", "r1.1", "r0.ffffffffffffffff", "i0.1.1"] {
        assert_eq!(other.parse::<Cursor>(), Err(NotACursor), "{other:?}");
    }
}

async fn a_page_walk_survives_inserts_and_pruning(backend: &dyn Backend) {
    let ledger = ready(backend).await;
    // Even ones expire early and are pruned under the walk; odd ones stay.
    let old = |number: u64| CertificateRecord { not_after: START - Duration::DAY, ..leaf(number) };
    record_all(ledger.as_ref(), (0..100).map(|number| if number % 2 == 0 { old(number) } else { leaf(number) })).await;

    let mut seen = Vec::new();
    let mut after = None;
    let mut added = 1_000;
    loop {
        let page = ledger.list(&CertificateFilter::default(), after, 9, START).await.unwrap();
        seen.extend(page.certificates.into_iter().map(|stored| stored.record.serial));
        ledger.record(leaf(added)).await.unwrap();
        added += 1;
        assert!(ledger.prune(START, 4).await.unwrap() <= 4);
        let Some(next) = page.next else { break };
        after = Some(next);
    }
    let stayed: Vec<_> = (0..100).rev().filter(|number| number % 2 == 1).map(serial).collect();
    let seen_of_those: Vec<_> = seen.iter().filter(|serial| stayed.contains(serial)).cloned().collect();
    assert_eq!(seen_of_those, stayed, "each exactly once, in order");
    assert!(seen.iter().all(|seen| (0..100).any(|number| serial(number) == *seen)), "none that came after the walk began");

    // With every row gone, a cursor from before shows nothing that is new.
    while ledger.prune(START + Duration::days(30), 1_000).await.unwrap() > 0 {}
    ledger.record(leaf(5_000)).await.unwrap();
    assert_eq!(ledger.list(&CertificateFilter::default(), after, 9, START).await.unwrap().certificates, []);
}

async fn stats_count_what_is_there(backend: &dyn Backend) {
    let ledger = ready(backend).await;
    let nothing = Stats { issued_per_minute: vec![0; 61], expiring_per_hour: vec![0; 24], ..Stats::default() };
    assert_eq!(ledger.stats(START).await.unwrap(), nothing);
    let second = GenerationNumber(2);
    ledger.open_generation(second, &other_issuer(), START).await.unwrap();
    let renewed = CertificateRecord { holder: leaf(0).holder, generation: second, issuer: other_issuer(), ..leaf(50) };
    let short = CertificateRecord { not_after: START + Duration::minutes(30), ..leaf(2) };
    record_all(ledger.as_ref(), [leaf(0), leaf(1), short, renewed.clone(), bare(4, Kind::Serving)]).await;

    let stats = ledger.stats(START + Duration::HOUR).await.unwrap();
    assert_eq!((stats.total, stats.valid, stats.expired, stats.revoked), (5, 4, 1, 0));
    assert_eq!(stats.live_holders, 2, "one renewed, one not, one expired");
    assert_eq!(stats.next_expiry, Some(leaf(1).not_after));
    let rows: Vec<_> = stats.rows.iter().map(|row| (row.kind, row.issuer.clone(), row.generation, row.total, row.valid)).collect();
    assert_eq!(rows, [(Kind::Leaf, issuer(), FIRST, 3, 2), (Kind::Leaf, other_issuer(), second, 1, 1), (Kind::Serving, issuer(), FIRST, 1, 1),]);
    let long_after: OffsetDateTime = START + Duration::days(400);
    let stats = ledger.stats(long_after).await.unwrap();
    assert_eq!((stats.valid, stats.expired, stats.live_holders, stats.next_expiry), (0, 5, 0, None));
}

async fn stats_count_by_time_key_and_lifetime(backend: &dyn Backend) {
    let ledger = ready(backend).await;
    let now = START + Duration::hours(2);
    let issued = |number, before: Duration, lifetime: Duration| {
        let issued_at = now - before;
        CertificateRecord { issued_at, not_after: issued_at + lifetime, ..leaf(number) }
    };
    let (second, minute) = (Duration::SECOND, Duration::MINUTE);
    let rsa = Some(PublicKeyAlgorithm::Rsa { bits: 2048 });
    record_all(
        ledger.as_ref(),
        [
            // START is 123456 µs after a whole minute, and so is now.
            issued(1, Duration::ZERO, 5 * minute),
            issued(2, second, 5 * minute + second),
            CertificateRecord { key_algorithm: rsa, ..issued(3, second, 15 * minute) },
            issued(4, minute, Duration::HOUR),
            issued(5, 60 * minute, 61 * minute),
            CertificateRecord { key_algorithm: rsa, ..issued(6, 60 * minute + second, 7 * Duration::DAY) },
            issued(7, 30 * minute, 10 * minute),
            CertificateRecord { key_algorithm: None, ..issued(8, 10 * minute, 8 * Duration::DAY) },
            issued(9, 20 * minute, 24 * Duration::HOUR),
            CertificateRecord { issued_at: now, not_after: now + minute, ..bare(10, Kind::Serving) },
        ],
    )
    .await;
    let stats = ledger.stats(now).await.unwrap();
    let mut minutes = vec![0; 61];
    // Of the 60 whole minutes before the running one, number 6 lies before the first.
    for (minute, count) in [(60, 1), (59, 3), (50, 1), (40, 1), (30, 1), (0, 1)] {
        minutes[minute] = count;
    }
    assert_eq!(stats.issued_per_minute, minutes);
    let mut hours = vec![0; 24];
    (hours[0], hours[23]) = (5, 1);
    assert_eq!(stats.expiring_per_hour, hours, "number 4 within 59 minutes, number 7 is past, 6 and 8 later than a day");
    let named = |name: &str, count| (name.to_owned(), count);
    assert_eq!(stats.keys, [named("P-256", 5), named("RSA-2048", 2), named("unknown", 1)]);
    let lifetimes: Vec<_> = stats.lifetimes.iter().map(|(most, count)| (most.as_secs(), *count)).collect();
    assert_eq!(lifetimes, [(300, 1), (900, 3), (3_600, 1), (6 * 3_600, 1), (24 * 3_600, 1), (u64::MAX, 1)]);
}

async fn pruning_takes_the_oldest_and_their_holders(backend: &dyn Backend) {
    let ledger = ready(backend).await;
    let until = |number: u64, minutes| CertificateRecord { not_after: START + Duration::minutes(minutes), ..leaf(number) };
    let renewed = CertificateRecord { holder: leaf(0).holder, ..leaf(10) };
    record_all(ledger.as_ref(), [until(0, 30), until(1, 10), until(2, 20), renewed, bare(3, Kind::Root)]).await;

    assert_eq!(ledger.prune(START + Duration::minutes(10), 10).await.unwrap(), 0, "notAfter at the limit stays");
    assert_eq!(ledger.prune(START + Duration::HOUR, 0).await.unwrap(), 0);
    assert_eq!(ledger.prune(START + Duration::HOUR, 1).await.unwrap(), 1);
    assert_eq!(ledger.find_serial(&serial(1)).await.unwrap(), [], "the oldest notAfter first");
    assert_eq!(ledger.holder(&leaf(1).holder.unwrap()).await.unwrap(), None);
    assert_eq!(ledger.prune(START + Duration::HOUR, 10).await.unwrap(), 2);
    assert_eq!(ledger.holder(&leaf(2).holder.unwrap()).await.unwrap(), None);
    let kept = ledger.holder(&leaf(0).holder.unwrap()).await.unwrap().unwrap();
    assert_eq!(kept.serial, serial(10), "a holder with a newer certificate stays");
    assert_eq!(walk(ledger.as_ref(), &CertificateFilter::default(), 10, START).await, [serial(3), serial(10)]);

    record_all(ledger.as_ref(), (100..1_400).map(|number| until(number, 5))).await;
    assert_eq!(ledger.prune(START + Duration::HOUR, 1_200).await.unwrap(), 1_200);
    assert_eq!(ledger.prune(START + Duration::HOUR, 1_200).await.unwrap(), 100);
}

async fn a_caller_that_stops_waiting_harms_nobody(backend: &dyn Backend) {
    let ledger = ready(backend).await;
    for number in 0..50 {
        let mut call = Box::pin(ledger.record(leaf(number)));
        // Polled once: it is under way. Then its caller goes.
        poll_fn(|context| Poll::Ready(call.as_mut().poll(context).is_ready())).await;
    }
    // Each is on record or it isn't; whoever asks again is told which, and nothing is there twice.
    for number in 0..=50 {
        let outcome = ledger.record(leaf(number)).await;
        assert!(matches!(outcome, Ok(()) | Err(LedgerError::Duplicate(_))), "{outcome:?}");
    }
    assert_eq!(ledger.stats(START).await.unwrap().total, 51);
}

async fn the_same_ledger_is_there_after_a_restart(backend: &dyn Backend) {
    let ledger = ready(backend).await;
    let id = ledger.id().to_owned();
    assert_eq!((id.len(), id.chars().all(|character| character.is_ascii_hexdigit())), (32, true));
    record_all(ledger.as_ref(), (0..20).map(leaf)).await;
    ledger.record_bundle(1, "one\n", START).await.unwrap();
    let closed = GenerationNumber(2);
    ledger.close_generation(closed, START).await.unwrap();
    drop(ledger);

    let ledger = backend.open().await;
    assert_eq!(ledger.id(), id);
    let mut expected: Vec<_> = (0..20).map(serial).collect();
    expected.reverse();
    assert_eq!(walk(ledger.as_ref(), &CertificateFilter::default(), 7, START).await, expected);
    assert_eq!(ledger.holder(&leaf(3).holder.unwrap()).await.unwrap().unwrap().serial, serial(3));
    assert_eq!(ledger.last_sequence("replica-a").await.unwrap(), Some(20));
    assert!(matches!(ledger.record_bundle(1, "two\n", START).await, Err(LedgerError::Duplicate(_))));
    assert_eq!(ledger.open_generation(closed, &issuer(), START).await, Err(LedgerError::Fenced(closed)));
    ledger.record(leaf(20)).await.unwrap();
}

async fn every_write_raises_the_high_water_mark(backend: &dyn Backend) {
    let ledger = ready(backend).await;
    let before = ledger.high_water().await.unwrap();
    ledger.record(leaf(1)).await.unwrap();
    let after = ledger.high_water().await.unwrap();
    assert!(after > before);
    drop(ledger);
    assert!(backend.open().await.high_water().await.unwrap() >= after, "it survives a restart");
}

async fn two_authorities_never_share_a_fence(backend: &dyn Backend) {
    let ledger = ready(backend).await;
    assert!(matches!(ledger.open_generation(FIRST, &other_issuer(), START).await, Err(LedgerError::Duplicate(_))));
    ledger.open_generation(FIRST, &issuer(), START).await.unwrap();
}
