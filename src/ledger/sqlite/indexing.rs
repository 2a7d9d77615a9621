//! How rows get into the tables that find and count them: in bulk, behind the commit that made them durable.
//!
//! Some thousand rows at a time, each table is filled in its own order, so that few of its pages change for many rows. The work is cut
//! into steps of about two milliseconds, each a transaction of its own, between which the writer commits what is new. Only the last step
//! moves `meta.indexed_to`: until then nobody looks at what the steps before it have put there, and after a crash it is all done again,
//! which changes nothing that is there already.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::entry::{Entry, MINUTE, Numbers, block, minute_and_offset};
use super::recent::Recent;
use super::rows::{self, CERTIFICATE_COLUMNS, ID_COLUMN, micros};
use super::schema::unflushed;
use crate::ledger::CertificateRecord;

/// How many rows are indexed together. What is not indexed is searched row by row by each question, so it is not more.
pub(super) const BATCH: u16 = 4_096;

/// How many batches may wait before nothing more is appended: indexing fails then, and the memory would fill.
const FAR_BEHIND: usize = 64;

/// How much one step does, in insertions at the end of a table.
const STEP: usize = 1_000;

/// How many of those one holder costs: its page can be anywhere.
const HOLDER: usize = 5;

/// Counts of issued leaves are kept for this many minutes before the oldest of a batch.
const ISSUE_MINUTES: i64 = 24 * 60;

/// What the writer knows of the rows that are not indexed, and of the ids.
#[derive(Debug)]
pub(super) struct Index {
    /// The highest id that was given.
    pub(super) last_id: i64,
    pub(super) numbers: Numbers,
    pub(super) recent: Arc<Recent>,
    waiting: Vec<Entry>,
    plan: Option<Plan>,
    /// The highest sequence number of each replica among those rows, and when.
    sequences: HashMap<String, (i64, i64)>,
}

/// One batch on its way.
#[derive(Debug)]
struct Plan {
    up_to: i64,
    entries: Vec<Entry>,
    table: Table,
    /// How many of `entries`, in the order of `table`, are done.
    done: usize,
}

/// Which table is filled, in the order in which that is done. Holders come before expiries, which say who is the latest.
#[derive(Debug, Clone, Copy)]
enum Table {
    Serials,
    Issues,
    Places,
    Holders,
    Expiries,
    Counts,
}

impl Index {
    /// Reads what is not indexed. More than a batch of it is indexed at once: after an upgrade that is all there is.
    ///
    /// # Errors
    /// The engine's.
    pub(super) fn load(connection: &mut Connection, recent: &Arc<Recent>) -> rusqlite::Result<Self> {
        loop {
            let mut index = Self::load_batch(connection, recent)?;
            if index.waiting.len() < usize::from(BATCH) {
                // Only now: whoever asks meanwhile still finds what was waiting before.
                recent.replace(index.waiting.iter().map(|entry| (entry.serial.clone(), entry.id)).collect::<BTreeSet<_>>());
                return Ok(index);
            }
            while unflushed(connection, |connection| index.step(connection))? {}
        }
    }

    fn load_batch(connection: &mut Connection, recent: &Arc<Recent>) -> rusqlite::Result<Self> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let (indexed_to, last_id): (i64, i64) =
            transaction.query_row("SELECT indexed_to, max(last_id, coalesce((SELECT max(id) FROM certificates), 0)) FROM meta", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        let mut index = Self {
            last_id,
            numbers: Numbers::load(&transaction)?,
            recent: Arc::clone(recent),
            waiting: Vec::new(),
            plan: None,
            sequences: HashMap::new(),
        };
        {
            let sql = format!("SELECT {CERTIFICATE_COLUMNS} FROM certificates c WHERE c.id > ?1 ORDER BY c.id LIMIT ?2");
            let mut select = transaction.prepare_cached(&sql)?;
            let mut found = select.query(params![indexed_to, BATCH])?;
            while let Some(row) = found.next()? {
                let record = rows::certificate(row)?.record;
                let entry = index.numbers.entry(&transaction, row.get(ID_COLUMN)?, &record)?;
                index.appended(entry, &record);
            }
        }
        transaction.commit()?;
        Ok(index)
    }

    /// Takes up a row that is committed.
    pub(super) fn appended(&mut self, entry: Entry, record: &CertificateRecord) {
        // It fitted when it was recorded.
        let sequence = i64::try_from(record.replica_sequence).unwrap_or(i64::MAX);
        let issued_at = micros(record.issued_at);
        match self.sequences.get_mut(&record.replica) {
            Some(latest) => *latest = (latest.0.max(sequence), latest.1.max(issued_at)),
            None => drop(self.sequences.insert(record.replica.clone(), (sequence, issued_at))),
        }
        self.last_id = self.last_id.max(entry.id);
        self.waiting.push(entry);
    }

    /// Whether a step should be taken whatever else there is to do.
    pub(super) fn is_due(&self) -> bool {
        self.plan.is_some() || self.waiting.len() >= usize::from(BATCH)
    }

    /// How many rows are not indexed.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len() + self.plan.as_ref().map_or(0, |plan| plan.entries.len())
    }

    /// Whether everything is indexed.
    pub(super) fn is_complete(&self) -> bool {
        self.plan.is_none() && self.waiting.is_empty()
    }

    /// Whether so much waits that indexing must have failed for long.
    pub(super) fn is_far_behind(&self) -> bool {
        self.waiting.len() >= FAR_BEHIND * usize::from(BATCH)
    }

    /// The earliest time of issue of what is not indexed.
    pub(super) fn earliest(&self) -> Option<i64> {
        let planned = self.plan.iter().flat_map(|plan| &plan.entries);
        self.waiting.iter().chain(planned).map(|entry| entry.issued_at).min()
    }

    /// Does a part of what is to do; returns whether more is. After an error, what this value knows is no longer true.
    ///
    /// # Errors
    /// The engine's.
    pub(super) fn step(&mut self, connection: &mut Connection) -> rusqlite::Result<bool> {
        let plan = match &mut self.plan {
            Some(plan) => plan,
            None if self.waiting.is_empty() => return Ok(false),
            None => self.plan.insert(Plan::new(std::mem::take(&mut self.waiting))),
        };
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut budget = STEP;
        while budget > 0 && !matches!(plan.table, Table::Counts) {
            budget = budget.saturating_sub(plan.fill(&transaction, budget)?.max(1));
        }
        let last = matches!(plan.table, Table::Counts) && budget > 0;
        if last {
            plan.count(&transaction)?;
            for (replica, (sequence, seen_at)) in &self.sequences {
                let sql = "INSERT INTO replicas (id, last_sequence, seen_at) VALUES (?1, ?2, ?3) ON CONFLICT (id) DO UPDATE SET \
                     last_sequence = max(coalesce(last_sequence, 0), excluded.last_sequence), seen_at = max(seen_at, excluded.seen_at)";
                transaction.prepare_cached(sql)?.execute(params![replica, sequence, seen_at])?;
            }
            let sql = "UPDATE meta SET indexed_to = ?1, last_id = max(last_id, ?1)";
            transaction.prepare_cached(sql)?.execute([plan.up_to])?;
        }
        transaction.commit()?;
        if last && let Some(plan) = self.plan.take() {
            self.sequences.clear();
            self.recent.forget(plan.entries.into_iter().map(|entry| (entry.serial, entry.id)));
        }
        Ok(!self.is_complete())
    }
}

impl Plan {
    fn new(entries: Vec<Entry>) -> Self {
        let up_to = entries.iter().map(|entry| entry.id).max().unwrap_or(0);
        let mut plan = Self { up_to, entries, table: Table::Serials, done: 0 };
        plan.sort();
        plan
    }

    fn sort(&mut self) {
        match self.table {
            Table::Serials => self.entries.sort_unstable_by(|one, other| one.serial.cmp(&other.serial)),
            Table::Issues => self.entries.sort_unstable_by_key(|entry| (entry.issued_at, entry.id)),
            Table::Places => self.entries.sort_unstable_by_key(|entry| (block(entry.id), entry.place, entry.id)),
            // The last of each holder is the one that counts.
            Table::Holders => self.entries.sort_unstable_by_key(|entry| (entry.holder, entry.issued_at, entry.id)),
            Table::Expiries => self.entries.sort_unstable_by_key(|entry| (entry.not_after / MINUTE, entry.id)),
            Table::Counts => {}
        }
    }

    /// Fills the table that is its turn, within the budget; returns what that cost.
    fn fill(&mut self, connection: &Connection, budget: usize) -> rusqlite::Result<usize> {
        let share = if matches!(self.table, Table::Holders) { budget / HOLDER + 1 } else { budget };
        let end = self.entries.len().min(self.done + share);
        let range = self.done..end;
        let cost = match self.table {
            Table::Holders => fill_holders(connection, &mut self.entries, range)?,
            _ => self.append(connection, range)?,
        };
        self.done = end;
        if end == self.entries.len() {
            self.done = 0;
            self.table = match self.table {
                Table::Serials => Table::Issues,
                Table::Issues => Table::Places,
                Table::Places => Table::Holders,
                Table::Holders => Table::Expiries,
                Table::Expiries | Table::Counts => Table::Counts,
            };
            self.sort();
        }
        Ok(cost)
    }

    fn append(&self, connection: &Connection, range: std::ops::Range<usize>) -> rusqlite::Result<usize> {
        let entries = self.entries.get(range).unwrap_or_default();
        // What a step before a crash has put there stays.
        let sql = match self.table {
            Table::Serials => "INSERT OR IGNORE INTO serials (serial, id) VALUES (?1, ?2)",
            Table::Issues => "INSERT OR IGNORE INTO issues (issued_at, id) VALUES (?1, ?2)",
            Table::Places => "INSERT OR IGNORE INTO places (block, namespace, account, id) VALUES (?1, ?2, ?3, ?4)",
            Table::Expiries => "INSERT OR REPLACE INTO expiries (minute, id, offset, class, latest) VALUES (?1, ?2, ?3, ?4, ?5)",
            Table::Holders | Table::Counts => return Ok(0),
        };
        let mut insert = connection.prepare_cached(sql)?;
        for entry in entries {
            match self.table {
                Table::Serials => insert.execute(params![entry.serial, entry.id])?,
                Table::Issues => insert.execute(params![entry.issued_at, entry.id])?,
                Table::Places => match entry.place {
                    Some((namespace, account)) => insert.execute(params![block(entry.id), namespace, account, entry.id])?,
                    None => 0,
                },
                _ => {
                    let (minute, offset) = minute_and_offset(entry.not_after);
                    insert.execute(params![minute, entry.id, offset, entry.class, entry.latest])?
                }
            };
        }
        Ok(entries.len())
    }

    /// The last step: what is counted, all at once.
    fn count(&self, connection: &Connection) -> rusqlite::Result<()> {
        let (mut expiries, mut totals, mut issues) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for entry in &self.entries {
            *expiries.entry((entry.not_after / MINUTE, entry.class)).or_insert(0_i64) += 1;
            *totals.entry(entry.class).or_insert(0_i64) += 1;
            if let Some(lifetime) = entry.lifetime {
                *issues.entry((entry.issued_at / MINUTE, lifetime)).or_insert(0_i64) += 1;
            }
        }
        let mut add = connection.prepare_cached(
            "INSERT INTO expiry_counts (minute, class, count) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET count = count + excluded.count",
        )?;
        for ((minute, class), count) in &expiries {
            add.execute(params![minute, class, count])?;
        }
        let mut add = connection.prepare_cached("UPDATE classes SET total = total + ?2 WHERE class = ?1")?;
        for (class, count) in &totals {
            add.execute(params![class, count])?;
        }
        let mut add = connection.prepare_cached(
            "INSERT INTO issue_counts (minute, lifetime, count) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET count = count + excluded.count",
        )?;
        for ((minute, lifetime), count) in &issues {
            add.execute(params![minute, lifetime, count])?;
        }
        if let Some(((oldest, _), _)) = issues.first_key_value() {
            connection.prepare_cached("DELETE FROM issue_counts WHERE minute < ?1")?.execute([oldest - ISSUE_MINUTES])?;
        }
        Ok(())
    }
}

/// Finds out for each holder whether its certificate in this batch is its latest, and keeps that one.
fn fill_holders(connection: &Connection, entries: &mut [Entry], range: std::ops::Range<usize>) -> rusqlite::Result<usize> {
    let mut known = connection.prepare_cached("SELECT id, issued_at, not_after FROM holders WHERE key = ?1")?;
    let mut keep = connection.prepare_cached("INSERT OR REPLACE INTO holders (key, id, issued_at, not_after) VALUES (?1, ?2, ?3, ?4)")?;
    let mut outdate = connection.prepare_cached("UPDATE expiries SET latest = 0 WHERE minute = ?1 AND id = ?2")?;
    let mut counts: BTreeMap<i64, i64> = BTreeMap::new();
    let mut cost = 0;
    for position in range {
        let next = entries.get(position + 1).and_then(|entry| entry.holder);
        let Some(entry) = entries.get_mut(position) else { break };
        let Some(key) = entry.holder else { continue };
        if next == Some(key) {
            continue;
        }
        cost += HOLDER;
        let before: Option<(i64, i64, i64)> = known.query_row([&key[..]], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
        match before {
            // A step before a crash has seen it.
            Some((id, ..)) if id == entry.id => entry.latest = true,
            Some((id, issued_at, _)) if (issued_at, id) > (entry.issued_at, entry.id) => {}
            _ => {
                entry.latest = true;
                keep.execute(params![&key[..], entry.id, entry.issued_at, entry.not_after])?;
                *counts.entry(entry.not_after / MINUTE).or_insert(0) += 1;
                if let Some((id, _, not_after)) = before {
                    outdate.execute([not_after / MINUTE, id])?;
                    *counts.entry(not_after / MINUTE).or_insert(0) -= 1;
                }
            }
        }
    }
    count_holders(connection, &counts)?;
    Ok(cost)
}

/// Adds to the counts of holders by minute.
///
/// # Errors
/// The engine's.
pub(super) fn count_holders(connection: &Connection, counts: &BTreeMap<i64, i64>) -> rusqlite::Result<()> {
    let sql = "INSERT INTO holder_counts (minute, count) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET count = count + excluded.count RETURNING count";
    let mut add = connection.prepare_cached(sql)?;
    for (minute, count) in counts.iter().filter(|(_, count)| **count != 0) {
        let left: i64 = add.query_row(params![minute, count], |row| row.get(0))?;
        if left == 0 {
            connection.prepare_cached("DELETE FROM holder_counts WHERE minute = ?1")?.execute([minute])?;
        }
    }
    Ok(())
}
