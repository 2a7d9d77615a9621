//! Counts without reading the certificates: whole minutes from the tables that keep count, the minutes in which an answer begins or
//! ends from the index by expiry, and what is not indexed row by row. All from one state, so they agree to the last certificate.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};
use time::OffsetDateTime;

use super::entry::{Class, HolderKey, MINUTE, classes, holder_key, lifetime_class, minute_and_offset};
use super::rows::{counter, key_algorithm, micros, parsed};
use crate::authority::{AuthorityId, GenerationNumber};
use crate::ledger::query::LIFETIME_CLASSES;
use crate::ledger::{Kind, Stats, StatsRow};

/// Minutes before the running one.
const MINUTES: i64 = 60;
const HOURS: i64 = 24;

pub(super) fn stats(connection: &mut Connection, now: OffsetDateTime) -> rusqlite::Result<Stats> {
    let transaction = connection.transaction()?;
    let stats = Counting::new(&transaction, micros(now))?.count()?;
    transaction.commit()?;
    Ok(stats)
}

/// A certificate that is counted by itself.
struct Single {
    id: i64,
    class: Class,
    issued_at: i64,
    not_after: i64,
    holder: Option<HolderKey>,
    revoked: bool,
}

/// Kind by name, issuer, generation: the order of [`Stats::rows`].
type Row = (String, String, GenerationNumber);

struct Counting<'c> {
    connection: &'c Connection,
    now: i64,
    indexed_to: i64,
    classes: HashMap<i64, (Class, u64)>,
    rows: BTreeMap<Row, StatsRow>,
    keys: HashMap<String, u64>,
    stats: Stats,
}

impl<'c> Counting<'c> {
    fn new(connection: &'c Connection, now: i64) -> rusqlite::Result<Self> {
        let indexed_to = connection.prepare_cached("SELECT indexed_to FROM meta")?.query_row([], |row| row.get(0))?;
        let stats = Stats { issued_per_minute: vec![0; 61], expiring_per_hour: vec![0; 24], ..Stats::default() };
        Ok(Self { connection, now, indexed_to, classes: classes(connection)?, rows: BTreeMap::new(), keys: HashMap::new(), stats })
    }

    fn count(mut self) -> rusqlite::Result<Stats> {
        let rest = self.singles("", "c.id > ?1")?;
        let revoked = self.singles("INDEXED BY certificates_revoked", "c.revoked_at IS NOT NULL AND c.id <= ?1")?;
        self.indexed()?;
        for single in &rest {
            self.add(single);
        }
        self.take_revoked(&revoked);
        self.issued(&rest)?;
        self.hours(&rest, &revoked)?;
        self.holders(&rest, &revoked)?;

        let mut stats = self.stats;
        stats.rows = self.rows.into_values().filter(|row| row.total > 0).collect();
        stats.total = stats.rows.iter().map(|row| row.total).sum();
        stats.valid = stats.rows.iter().map(|row| row.valid).sum();
        stats.expired = stats.total.saturating_sub(stats.valid).saturating_sub(stats.revoked);
        stats.keys = self.keys.into_iter().filter(|(_, count)| *count > 0).collect();
        stats.keys.sort_by(|one, other| (Reverse(one.1), &one.0).cmp(&(Reverse(other.1), &other.0)));
        Ok(stats)
    }

    fn singles(&self, index: &str, condition: &str) -> rusqlite::Result<Vec<Single>> {
        let sql = format!(
            "SELECT c.id, c.kind, c.issuer, c.generation, c.bundle_number, c.key_algorithm, c.issued_at, c.not_after, c.holder, \
             c.revoked_at IS NOT NULL FROM certificates c {index} WHERE {condition}"
        );
        let read = |row: &rusqlite::Row<'_>| {
            let class = Class {
                kind: parsed(row, 1)?,
                issuer: AuthorityId::from_text(row.get(2)?),
                generation: GenerationNumber(counter(row, 3)?),
                bundle_number: counter(row, 4)?,
                key_algorithm: key_algorithm(row, 5)?,
            };
            let holder = row.get_ref(8)?.as_str_or_null()?.map(holder_key);
            Ok(Single { id: row.get(0)?, class, issued_at: row.get(6)?, not_after: row.get(7)?, holder, revoked: row.get(9)? })
        };
        self.connection.prepare_cached(&sql)?.query_map([self.indexed_to], read)?.collect()
    }

    /// What is indexed, whether it was revoked or not.
    fn indexed(&mut self) -> rusqlite::Result<()> {
        let (minute, offset) = minute_and_offset(self.now);
        let mut valid: HashMap<i64, u64> = HashMap::new();
        let whole = "SELECT class, sum(count) FROM expiry_counts WHERE minute > ?1 GROUP BY class";
        let part = "SELECT class, count(*) FROM expiries WHERE minute = ?1 AND offset >= ?2 AND id <= ?3 GROUP BY class";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, counter(row, 1)?));
        for found in self.connection.prepare_cached(whole)?.query_map([minute], read)? {
            let (class, count) = found?;
            *valid.entry(class).or_insert(0) += count;
        }
        for found in self.connection.prepare_cached(part)?.query_map([minute, offset, self.indexed_to], read)? {
            let (class, count) = found?;
            *valid.entry(class).or_insert(0) += count;
        }
        for (number, (class, total)) in std::mem::take(&mut self.classes) {
            let valid = valid.get(&number).copied().unwrap_or(0);
            let row = self.row(&class);
            row.total += total;
            row.valid += valid;
            if class.kind == Kind::Leaf {
                *self.key(&class) += valid;
            }
        }
        Ok(())
    }

    fn add(&mut self, single: &Single) {
        let valid = single.not_after >= self.now && !single.revoked;
        let row = self.row(&single.class);
        row.total += 1;
        row.valid += u64::from(valid);
        self.stats.revoked += u64::from(single.revoked);
        if valid && single.class.kind == Kind::Leaf {
            *self.key(&single.class) += 1;
        }
    }

    /// Revoked certificates are in the counts by minute; here they are taken out.
    fn take_revoked(&mut self, revoked: &[Single]) {
        self.stats.revoked += u64::try_from(revoked.len()).unwrap_or(u64::MAX);
        let now = self.now;
        for single in revoked.iter().filter(|single| single.not_after >= now) {
            let row = self.row(&single.class);
            row.valid = row.valid.saturating_sub(1);
            if single.class.kind == Kind::Leaf {
                let key = self.key(&single.class);
                *key = key.saturating_sub(1);
            }
        }
    }

    fn row(&mut self, class: &Class) -> &mut StatsRow {
        let (kind, issuer, generation) = (class.kind, &class.issuer, class.generation);
        let empty = || StatsRow { kind, issuer: issuer.clone(), generation, total: 0, valid: 0 };
        self.rows.entry((kind.to_string(), issuer.as_str().to_owned(), generation)).or_insert_with(empty)
    }

    fn key(&mut self, class: &Class) -> &mut u64 {
        let name = class.key_algorithm.map_or_else(|| "unknown".to_owned(), |algorithm| algorithm.to_string());
        self.keys.entry(name).or_insert(0)
    }

    fn issued(&mut self, rest: &[Single]) -> rusqlite::Result<()> {
        let (running, _) = minute_and_offset(self.now);
        let first = running - MINUTES;
        let mut counts: Vec<(i64, u8, u64)> = self
            .connection
            .prepare_cached("SELECT minute, lifetime, count FROM issue_counts WHERE minute BETWEEN ?1 AND ?2")?
            .query_map([first, running], |row| Ok((row.get(0)?, row.get(1)?, counter(row, 2)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let leaves = rest.iter().filter(|single| single.class.kind == Kind::Leaf);
        counts.extend(leaves.map(|leaf| (leaf.issued_at / MINUTE, lifetime_class(leaf.not_after - leaf.issued_at), 1)));
        let mut lifetimes = BTreeMap::new();
        for (minute, lifetime, count) in counts {
            let Some(counted) = usize::try_from(minute - first).ok().and_then(|minute| self.stats.issued_per_minute.get_mut(minute)) else {
                continue;
            };
            *counted += count;
            let most = LIFETIME_CLASSES.get(usize::from(lifetime)).map_or(Duration::MAX, |most| Duration::from_secs(*most));
            *lifetimes.entry(most).or_insert(0) += count;
        }
        self.stats.lifetimes = lifetimes.into_iter().collect();
        Ok(())
    }

    fn hours(&mut self, rest: &[Single], revoked: &[Single]) -> rusqlite::Result<()> {
        let (minute, offset) = minute_and_offset(self.now);
        let mut hours = vec![0_i64; self.stats.expiring_per_hour.len()];
        let mut add = |hour: i64, count: i64| {
            if let Some(counted) = usize::try_from(hour).ok().and_then(|hour| hours.get_mut(hour)) {
                *counted += count;
            }
        };
        // Each hour begins and ends in the same place of a minute as now.
        let mut whole = self.connection.prepare_cached(
            "SELECT (minute - ?1) / 60, sum(count) FROM expiry_counts WHERE minute > ?1 AND minute < ?1 + ?2 AND (minute - ?1) % 60 <> 0 \
             AND class IN (SELECT class FROM classes WHERE kind = 'leaf') GROUP BY 1",
        )?;
        for found in whole.query_map([minute, HOURS * 60], |row| Ok((row.get(0)?, row.get(1)?)))? {
            let (hour, count) = found?;
            add(hour, count);
        }
        let mut part = self.connection.prepare_cached(
            "SELECT count(*) FILTER (WHERE offset < ?2), count(*) FILTER (WHERE offset >= ?2) FROM expiries WHERE minute = ?1 AND id <= ?3 \
             AND class IN (SELECT class FROM classes WHERE kind = 'leaf')",
        )?;
        for hour in 0..=HOURS {
            let (before, after) = part.query_row([minute + 60 * hour, offset, self.indexed_to], |row| Ok((row.get(0)?, row.get(1)?)))?;
            add(hour - 1, before);
            add(hour, after);
        }
        let live = |single: &&Single| single.class.kind == Kind::Leaf && single.not_after >= self.now;
        for single in rest.iter().filter(|single| !single.revoked).filter(live) {
            add((single.not_after - self.now) / (60 * MINUTE), 1);
        }
        for single in revoked.iter().filter(live) {
            add((single.not_after - self.now) / (60 * MINUTE), -1);
        }
        self.stats.expiring_per_hour = hours.into_iter().map(|count| u64::try_from(count).unwrap_or(0)).collect();
        Ok(())
    }

    /// Holders by their latest certificate. What is indexed knows the latest of what is indexed; the rest may outdate that.
    fn holders(&mut self, rest: &[Single], revoked: &[Single]) -> rusqlite::Result<()> {
        let (minute, offset) = minute_and_offset(self.now);
        let count = |sql: &str, values: &[i64]| -> rusqlite::Result<i64> {
            self.connection.prepare_cached(sql)?.query_row(rusqlite::params_from_iter(values), |row| row.get(0))
        };
        let mut live = count("SELECT coalesce(sum(count), 0) FROM holder_counts WHERE minute > ?1", &[minute])?
            + count("SELECT count(*) FROM expiries WHERE minute = ?1 AND offset >= ?2 AND id <= ?3 AND latest", &[minute, offset, self.indexed_to])?;

        let mut newest: HashMap<HolderKey, &Single> = HashMap::new();
        for single in rest {
            if let Some(key) = single.holder {
                let latest = newest.entry(key).or_insert(single);
                if (single.issued_at, single.id) > (latest.issued_at, latest.id) {
                    *latest = single;
                }
            }
        }
        // Rows that are marked as the latest and don't count.
        let mut outdated = HashSet::new();
        let mut next = None;
        let mut known = self.connection.prepare_cached("SELECT id, issued_at, not_after FROM holders WHERE key = ?1")?;
        for (key, single) in newest {
            let before: Option<(i64, i64, i64)> = known.query_row(params![&key[..]], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
            if let Some((id, issued_at, not_after)) = before {
                if (issued_at, id) > (single.issued_at, single.id) {
                    continue;
                }
                // A holder that a batch under way has brought up to date is counted by minute already, but not in the minute of now.
                let (its_minute, its_offset) = minute_and_offset(not_after);
                let counted = its_minute > minute || (its_minute == minute && its_offset >= offset && id <= self.indexed_to);
                live -= i64::from(counted);
                outdated.insert(id);
            }
            if single.not_after >= self.now && !single.revoked {
                live += 1;
                next = Some(next.map_or(single.not_after, |next: i64| next.min(single.not_after)));
            }
        }
        let mut is_latest = self.connection.prepare_cached("SELECT 1 FROM expiries WHERE minute = ?1 AND id = ?2 AND latest")?;
        for single in revoked.iter().filter(|single| single.not_after >= self.now) {
            if is_latest.exists([single.not_after / MINUTE, single.id])? && outdated.insert(single.id) {
                live -= 1;
            }
        }
        let indexed = self.first_expiry(&outdated)?;
        let next = next.into_iter().chain(indexed).min();
        self.stats.live_holders = u64::try_from(live).unwrap_or(0);
        self.stats.next_expiry = next.and_then(|next| OffsetDateTime::from_unix_timestamp_nanos(i128::from(next) * 1_000).ok());
        Ok(())
    }

    /// The earliest notAfter, from now on, of an indexed certificate that is its holder's latest.
    fn first_expiry(&self, outdated: &HashSet<i64>) -> rusqlite::Result<Option<i64>> {
        let (now, offset) = minute_and_offset(self.now);
        let mut minutes = self.connection.prepare_cached("SELECT ?1 UNION ALL SELECT minute FROM holder_counts WHERE minute > ?1")?;
        let mut latest = self.connection.prepare_cached("SELECT id, offset FROM expiries WHERE minute = ?1 AND id <= ?2 AND latest")?;
        let mut found = minutes.query([now])?;
        while let Some(row) = found.next()? {
            let minute: i64 = row.get(0)?;
            let mut first = None;
            let mut rows = latest.query([minute, self.indexed_to])?;
            while let Some(row) = rows.next()? {
                let (id, at): (i64, i64) = (row.get(0)?, row.get(1)?);
                if (minute > now || at >= offset) && !outdated.contains(&id) {
                    first = Some(first.map_or(at, |first: i64| first.min(at)));
                }
            }
            if let Some(first) = first {
                return Ok(Some(minute * MINUTE + first));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
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
                    let transaction = self.connection.transaction().unwrap();
                    let mut work = Work::new(&mut self.index);
                    for command in &commands {
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
            let live: Vec<i64> = self
                .holders
                .values()
                .filter(|(_, id, not_after)| *not_after >= now && !revoked.contains(id))
                .map(|(.., not_after)| *not_after)
                .collect();
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
}
