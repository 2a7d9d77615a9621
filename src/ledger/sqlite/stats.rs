//! Counts without reading the certificates: whole minutes from the tables that keep count, the minutes in which an answer begins or
//! ends from the index by expiry, and what is not indexed row by row. All from one state, so they agree to the last certificate.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};
use time::OffsetDateTime;

use super::entry::{HolderKey, MINUTE, classes, holder_key, lifetime_class, minute_and_offset};
use super::rows::{counter, key_algorithm, micros, parsed};
use crate::authority::{AuthorityId, GenerationNumber};
use crate::ledger::class::Class;
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
mod tests;
