//! Counts and lists against somebody who counts by hand.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use time::macros::datetime;

use super::super::commands::{Command, Work};
use super::super::indexing::Index;
use super::super::recent::Recent;
use super::super::{lists, pruning, queries, schema};
use super::*;
use crate::ledger::query::Order;
use crate::ledger::{CertificateFilter, CertificateRecord, CredentialKind, HolderId, State};
use crate::pki::PublicKeyAlgorithm;

const START: OffsetDateTime = datetime!(2026-11-01 12:00 UTC);
const LIFETIMES: [i64; 6] = [60, 299, 3_600, 3_661, 86_399, 8 * 86_400];
const OFFSETS: [i64; 3] = [0, 1, 59_999_999];

#[derive(Debug, Clone)]
enum Act {
    /// So many rows, of which the choices are made from the number.
    Append(u8, u64),
    Step(u8),
    /// Seconds after START, and how many.
    Prune(u16, u8),
    Revoke(u8),
    /// What was in memory is lost.
    Crash,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (1..60_u8, any::<u64>()).prop_map(|(rows, choice)| Act::Append(rows, choice)),
        4 => (1..6_u8).prop_map(Act::Step),
        2 => (any::<u16>(), 1..50_u8).prop_map(|(before, limit)| Act::Prune(before, limit)),
        1 => any::<u8>().prop_map(Act::Revoke),
        1 => Just(Act::Crash),
    ];
    proptest::collection::vec(act, 1..25)
}

/// A ledger beside which somebody counts by hand.
struct World {
    connection: Connection,
    index: Index,
    recent: Arc<Recent>,
    rows: Vec<(i64, CertificateRecord, bool)>,
    /// Issue, id and notAfter of each holder's latest.
    holders: HashMap<HolderId, (i64, i64, i64)>,
    issued: Vec<(i64, u8)>,
    serial: u64,
}

impl World {
    fn new() -> Self {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::upgrade(&mut connection, "x", schema::LADDER, "id").unwrap();
        connection.execute("INSERT INTO generations (generation, opened_at) VALUES (1, 0), (2, 0)", []).unwrap();
        let recent = Arc::new(Recent::default());
        let index = Index::load(&mut connection, &recent).unwrap();
        Self { connection, index, recent, rows: Vec::new(), holders: HashMap::new(), issued: Vec::new(), serial: 0 }
    }

    fn record(&mut self, choice: u64) -> CertificateRecord {
        self.serial += 1;
        let pick = |shift: u32, of: usize| usize::try_from(choice >> shift).unwrap() % of;
        let seconds = i64::try_from(pick(0, 400)).unwrap() * 20;
        let issued_at = START + time::Duration::seconds(seconds);
        let lifetime = time::Duration::seconds(LIFETIMES[pick(9, 6)]) + time::Duration::microseconds(OFFSETS[pick(12, 3)]);
        let name = |prefix: &str, of| format!("{prefix}-{}", pick(16, of));
        let kind = if pick(20, 8) == 0 { Kind::Serving } else { Kind::Leaf };
        CertificateRecord {
            issuer: AuthorityId::from_text(name("issuer", 2)),
            serial: [&[1][..], &(choice >> 40).to_be_bytes()[6..], &self.serial.to_be_bytes()].concat(),
            sha256: [7; 32],
            der: vec![1, 2, 3],
            kind,
            spiffe_id: None,
            cluster: None,
            namespace: (kind == Kind::Leaf).then(|| name("namespace", 3)),
            service_account: (kind == Kind::Leaf).then(|| format!("account-{}", pick(24, 2))),
            pod: None,
            node: None,
            holder: (pick(26, 5) > 0).then(|| HolderId::pod("c", &name("pod", 12))),
            generation: GenerationNumber(u64::try_from(pick(30, 2)).unwrap() + 1),
            bundle_number: 1,
            profile_digest: String::new(),
            credential: CredentialKind::Token,
            key_algorithm: [None, Some(PublicKeyAlgorithm::P256), Some(PublicKeyAlgorithm::P384)][pick(32, 3)],
            issued_at,
            not_before: issued_at,
            not_after: issued_at + lifetime,
            replica: "r".to_owned(),
            replica_sequence: self.serial,
        }
    }

    fn append(&mut self, commands: &[Command]) {
        let transaction = self.connection.transaction().unwrap();
        let mut work = Work::new(&mut self.index);
        for command in commands {
            work.perform(&transaction, command).unwrap();
        }
        transaction.commit().unwrap();
        for (entry, record) in work.into_appended() {
            let (id, issued_at, not_after) = (entry.id, entry.issued_at, entry.not_after);
            if record.kind == Kind::Leaf {
                self.issued.push((issued_at / MINUTE, lifetime_class(not_after - issued_at)));
            }
            if let Some(holder) = &record.holder {
                let latest = self.holders.entry(holder.clone()).or_insert((issued_at, id, not_after));
                *latest = (*latest).max((issued_at, id, not_after));
            }
            self.rows.push((id, record.clone(), false));
            self.index.appended(entry, record);
        }
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Append(rows, choice) => {
                let mut random = *choice;
                let commands: Vec<_> = (0..*rows)
                    .map(|_| {
                        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                        Command::Record(Box::new(self.record(random >> 8)))
                    })
                    .collect();
                self.append(&commands);
            }
            Act::Step(steps) => {
                for _ in 0..*steps {
                    self.index.step(&mut self.connection).unwrap();
                }
            }
            Act::Prune(before, limit) => {
                let before = micros(START + time::Duration::seconds(i64::from(*before)));
                while self.index.earliest().is_some_and(|earliest| earliest < before) {
                    self.index.step(&mut self.connection).unwrap();
                }
                let transaction = self.connection.transaction().unwrap();
                let gone = pruning::prune(&transaction, before, u32::from(*limit), &self.index.numbers).unwrap();
                transaction.commit().unwrap();
                self.rows.sort_by_key(|(id, record, _)| (micros(record.not_after) / MINUTE, *id));
                let due = |(_, record, _): &&(i64, CertificateRecord, bool)| micros(record.not_after) < before;
                let expected: BTreeSet<i64> = self.rows.iter().filter(due).take(usize::from(*limit)).map(|(id, ..)| *id).collect();
                assert_eq!(usize::try_from(gone).unwrap(), expected.len());
                self.rows.retain(|(id, ..)| !expected.contains(id));
                self.holders.retain(|_, (_, id, _)| !expected.contains(id));
            }
            Act::Revoke(which) => {
                let count = self.rows.len();
                if let Some((id, _, revoked)) = self.rows.get_mut(usize::from(*which) % count.max(1)) {
                    self.connection.execute("UPDATE certificates SET revoked_at = 1 WHERE id = ?1", [*id]).unwrap();
                    *revoked = true;
                }
            }
            Act::Crash => self.index = Index::load(&mut self.connection, &self.recent).unwrap(),
        }
    }

    fn counted(&self, now: i64) -> Stats {
        let mut stats = Stats { issued_per_minute: vec![0; 61], expiring_per_hour: vec![0; 24], ..Stats::default() };
        let mut rows: BTreeMap<Row, StatsRow> = BTreeMap::new();
        let mut keys: HashMap<String, u64> = HashMap::new();
        for (_, record, revoked) in &self.rows {
            let not_after = micros(record.not_after);
            let valid = not_after >= now && !revoked;
            stats.total += 1;
            stats.valid += u64::from(valid);
            stats.revoked += u64::from(*revoked);
            stats.expired += u64::from(!revoked && not_after < now);
            let (kind, issuer, generation) = (record.kind, record.issuer.clone(), record.generation);
            let key = (kind.to_string(), issuer.as_str().to_owned(), generation);
            let row = rows.entry(key).or_insert(StatsRow { kind, issuer, generation, total: 0, valid: 0 });
            row.total += 1;
            row.valid += u64::from(valid);
            if valid && kind == Kind::Leaf {
                *keys.entry(record.key_algorithm.map_or("unknown".to_owned(), |key| key.to_string())).or_insert(0) += 1;
                if let Some(hour) = stats.expiring_per_hour.get_mut(usize::try_from((not_after - now) / (60 * MINUTE)).unwrap()) {
                    *hour += 1;
                }
            }
        }
        stats.rows = rows.into_values().collect();
        stats.keys = keys.into_iter().collect();
        stats.keys.sort_by(|one, other| (Reverse(one.1), &one.0).cmp(&(Reverse(other.1), &other.0)));
        let mut lifetimes = BTreeMap::new();
        for (minute, class) in &self.issued {
            let position = minute - (now / MINUTE - 60);
            if (0..=60).contains(&position) {
                stats.issued_per_minute[usize::try_from(position).unwrap()] += 1;
                let most = LIFETIME_CLASSES.get(usize::from(*class)).map_or(Duration::MAX, |most| Duration::from_secs(*most));
                *lifetimes.entry(most).or_insert(0) += 1;
            }
        }
        stats.lifetimes = lifetimes.into_iter().collect();
        let revoked: HashSet<i64> = self.rows.iter().filter(|(_, _, revoked)| *revoked).map(|(id, ..)| *id).collect();
        let live: Vec<i64> =
            self.holders.values().filter(|(_, id, not_after)| *not_after >= now && !revoked.contains(id)).map(|(.., not_after)| *not_after).collect();
        stats.live_holders = u64::try_from(live.len()).unwrap();
        stats.next_expiry = live.into_iter().min().map(|at| OffsetDateTime::from_unix_timestamp_nanos(i128::from(at) * 1_000).unwrap());
        stats
    }

    fn check_lists(&mut self, seconds: i64) {
        let at = START + time::Duration::seconds(seconds);
        let none = CertificateFilter::default();
        for filter in [
            none.clone(),
            CertificateFilter { issued_after: Some(at), ..none.clone() },
            CertificateFilter { issued_before: Some(at), ..none.clone() },
            CertificateFilter { expires_after: Some(at), ..none.clone() },
            CertificateFilter { expires_before: Some(at), ..none.clone() },
            CertificateFilter { state: Some(State::Expired), ..none.clone() },
            CertificateFilter { state: Some(State::Revoked), ..none.clone() },
            CertificateFilter { namespace: Some("namespace-1".to_owned()), ..none.clone() },
            CertificateFilter { namespace: Some("namespace-1".to_owned()), service_account: Some("account-0".to_owned()), ..none.clone() },
            CertificateFilter { namespace: Some("namespace-1".to_owned()), expires_before: Some(at), ..none },
        ] {
            let matches = |record: &CertificateRecord, revoked: bool| {
                filter.issued_after.is_none_or(|from| record.issued_at >= from)
                    && filter.issued_before.is_none_or(|before| record.issued_at < before)
                    && filter.expires_after.is_none_or(|from| record.not_after >= from)
                    && filter.expires_before.is_none_or(|before| record.not_after < before)
                    && (filter.namespace.is_none() || record.namespace == filter.namespace)
                    && (filter.service_account.is_none() || record.service_account == filter.service_account)
                    && match filter.state {
                        Some(State::Expired) => !revoked && record.not_after < at,
                        Some(State::Revoked) => revoked,
                        _ => true,
                    }
            };
            let mut expected: Vec<((i64, i64), Vec<u8>)> = Vec::new();
            for (id, record, revoked) in &self.rows {
                let key = match Order::of(&filter) {
                    Order::Recorded => 0,
                    Order::Issued => micros(record.issued_at),
                    Order::Expiring => micros(record.not_after) / MINUTE,
                };
                if matches(record, *revoked) {
                    expected.push(((key, *id), record.serial.clone()));
                }
            }
            expected.sort_by(|(one, _), (other, _)| other.cmp(one));
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let page = lists::list(&mut self.connection, &filter, after, 37, at).unwrap();
                found.extend(page.certificates.into_iter().map(|stored| stored.record.serial));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(found, expected.into_iter().map(|(_, serial)| serial).collect::<Vec<_>>(), "{filter:?}");
        }
    }
}

/// The ledger was once asked to prune a holder's latest certificate while one that was recorded later and issued earlier was not indexed yet:
/// it then took that one for the latest.
#[test]
fn a_holders_latest_is_the_same_whenever_it_is_pruned() {
    for indexed_first in [false, true] {
        let mut world = World::new();
        let append = |world: &mut World, number: u8, issued: i64, lifetime: i64| {
            let mut record = world.record(0);
            record.kind = Kind::Leaf;
            record.holder = Some(HolderId::pod("c", "one"));
            record.serial = vec![1, number];
            record.issued_at = START + time::Duration::seconds(issued);
            record.not_after = record.issued_at + time::Duration::seconds(lifetime);
            world.append(&[Command::Record(Box::new(record))]);
        };
        append(&mut world, 1, 100, 60);
        while world.index.step(&mut world.connection).unwrap() {}
        append(&mut world, 2, 50, 86_400);
        if indexed_first {
            while world.index.step(&mut world.connection).unwrap() {}
        }
        world.act(&Act::Prune(200, 10));
        let now = START + time::Duration::seconds(200);
        let seen = stats(&mut world.connection, now).unwrap();
        assert_eq!((seen.total, seen.live_holders), (1, 0), "{indexed_first}");
        assert_eq!(seen, world.counted(micros(now)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_done_counts_and_lists_agree_with_what_is_there(acts in acts(), seconds in 0..9_000_i64, offset in 0..2_i64) {
        let mut world = World::new();
        for act in &acts {
            world.act(act);
            let now = START + time::Duration::seconds(seconds) + time::Duration::microseconds(offset);
            prop_assert_eq!(stats(&mut world.connection, now).unwrap(), world.counted(micros(now)), "after {:?} of {:?}", act, acts);
            for (holder, (_, id, _)) in &world.holders {
                let found = queries::holder(&world.connection, holder).unwrap();
                let expected = world.rows.iter().find(|(each, ..)| each == id).map(|(_, record, _)| record.serial.clone());
                prop_assert_eq!(found.map(|found| found.serial), expected);
            }
            for (_, record, _) in world.rows.iter().take(5) {
                prop_assert_eq!(queries::find_serial(&mut world.connection, &world.recent, &record.serial).unwrap().len(), 1);
            }
        }
        world.check_lists(seconds);
        // Once all is pruned, no table remembers anything.
        world.act(&Act::Prune(u16::MAX, u8::MAX));
        while world.index.step(&mut world.connection).unwrap() {}
        let far = micros(START + time::Duration::days(30));
        while pruning::prune(&world.connection, far, 500, &world.index.numbers).unwrap() > 0 {}
        for table in ["certificates", "serials", "issues", "places", "expiries", "holders", "expiry_counts", "holder_counts"] {
            let left: i64 = world.connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
            prop_assert_eq!(left, 0, "{}", table);
        }
    }
}
