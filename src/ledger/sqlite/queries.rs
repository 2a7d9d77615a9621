//! The questions as SQL. Each takes a reading connection and answers from one state of the ledger.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};
use time::OffsetDateTime;

use super::rows::{self, CERTIFICATE_COLUMNS, HOLDER_COLUMNS, ID_COLUMN, counter, micros, number, parsed};
use crate::authority::{AuthorityId, GenerationNumber};
use crate::ledger::query::LIFETIME_CLASSES;
use crate::ledger::{CertificateFilter, Cursor, HolderId, HolderRecord, Kind, Page, State, Stats, StatsRow, StoredCertificate};

/// The most certificates on a page.
const PAGE: u32 = 1_000;

pub(super) fn high_water(connection: &Connection) -> rusqlite::Result<u64> {
    let commits: i64 = connection.prepare_cached("SELECT commits FROM meta")?.query_row([], |row| row.get(0))?;
    Ok(u64::try_from(commits).unwrap_or(0))
}

pub(super) fn last_sequence(connection: &Connection, replica: &str) -> rusqlite::Result<Option<u64>> {
    connection
        .prepare_cached("SELECT last_sequence FROM replicas WHERE id = ?1 AND last_sequence IS NOT NULL")?
        .query_row([replica], |row| counter(row, 0))
        .optional()
}

pub(super) fn find_leaf(
    connection: &Connection,
    issuer: &AuthorityId,
    serial: &[u8],
    sha256: &[u8; 32],
) -> rusqlite::Result<Option<StoredCertificate>> {
    let sql = format!("SELECT {CERTIFICATE_COLUMNS} FROM certificates WHERE serial = ?1 AND issuer = ?2 AND sha256 = ?3 AND kind = ?4");
    connection
        .prepare_cached(&sql)?
        .query_row(params![number(serial), issuer.as_str(), sha256.as_slice(), Kind::Leaf.to_string()], rows::certificate)
        .optional()
}

pub(super) fn find_serial(connection: &Connection, serial: &[u8]) -> rusqlite::Result<Vec<StoredCertificate>> {
    let sql = format!("SELECT {CERTIFICATE_COLUMNS} FROM certificates WHERE serial = ?1 ORDER BY id DESC");
    connection.prepare_cached(&sql)?.query_map([number(serial)], rows::certificate)?.collect()
}

pub(super) fn holder(connection: &Connection, holder: &HolderId) -> rusqlite::Result<Option<HolderRecord>> {
    let sql = format!("SELECT {HOLDER_COLUMNS} FROM holders WHERE holder = ?1");
    connection.prepare_cached(&sql)?.query_row([holder.as_str()], rows::holder).optional()
}

pub(super) fn list(
    connection: &Connection,
    filter: &CertificateFilter,
    after: Option<Cursor>,
    limit: u32,
    now: OffsetDateTime,
) -> rusqlite::Result<Page> {
    let limit = limit.clamp(1, PAGE);
    let mut conditions = Conditions::default();
    if let Some(Cursor { id }) = after {
        conditions.push("id < ?", id);
    }
    conditions.push_filter(filter, micros(now));
    // One more than asked for tells whether there is a next page.
    conditions.values.push(i64::from(limit + 1).into());
    let sql = format!("SELECT {CERTIFICATE_COLUMNS} FROM certificates{} ORDER BY id DESC LIMIT ?", conditions.clause);

    let mut found = connection
        .prepare_cached(&sql)?
        .query_map(params_from_iter(conditions.values), |row| Ok((row.get(ID_COLUMN)?, rows::certificate(row)?)))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|(id, _)| Cursor { id: *id });
    Ok(Page { certificates: found.into_iter().map(|(_, certificate)| certificate).collect(), next })
}

pub(super) fn follow(
    connection: &mut Connection,
    filter: &CertificateFilter,
    after: Option<Cursor>,
    limit: u32,
    now: OffsetDateTime,
) -> rusqlite::Result<Page> {
    let limit = limit.clamp(1, PAGE);
    // Both questions see the same end.
    let transaction = connection.transaction()?;
    let end: i64 = transaction
        .prepare_cached("SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'certificates'), 0)")?
        .query_row([], |row| row.get(0))?;
    let Some(Cursor { id: after }) = after else { return Ok(Page { certificates: Vec::new(), next: Some(Cursor { id: end }) }) };

    let mut conditions = Conditions::default();
    conditions.push("id > ?", after);
    conditions.push_filter(filter, micros(now));
    conditions.values.push(i64::from(limit).into());
    let sql = format!("SELECT {CERTIFICATE_COLUMNS} FROM certificates{} ORDER BY id LIMIT ?", conditions.clause);
    let found = transaction
        .prepare_cached(&sql)?
        .query_map(params_from_iter(conditions.values), |row| Ok((row.get(ID_COLUMN)?, rows::certificate(row)?)))?
        .collect::<rusqlite::Result<Vec<(i64, _)>>>()?;
    // A page that isn't full has seen everything up to the end.
    let full = u32::try_from(found.len()).is_ok_and(|found| found == limit);
    let id = found.last().filter(|_| full).map_or_else(|| end.max(after), |(id, _)| *id);
    Ok(Page { certificates: found.into_iter().map(|(_, certificate)| certificate).collect(), next: Some(Cursor { id }) })
}

pub(super) fn stats(connection: &mut Connection, now: OffsetDateTime) -> rusqlite::Result<Stats> {
    let now = micros(now);
    // Both questions see the same state.
    let transaction = connection.transaction()?;
    let mut stats = Stats::default();
    {
        let mut counts = transaction.prepare_cached(
            "SELECT kind, issuer, generation, count(*), sum(revoked_at IS NULL AND not_after >= ?1), sum(revoked_at IS NOT NULL) \
             FROM certificates GROUP BY kind, issuer, generation ORDER BY kind, issuer, generation",
        )?;
        let mut found = counts.query([now])?;
        while let Some(row) = found.next()? {
            let (total, valid, revoked) = (counter(row, 3)?, counter(row, 4)?, counter(row, 5)?);
            stats.total += total;
            stats.valid += valid;
            stats.revoked += revoked;
            stats.rows.push(StatsRow {
                kind: parsed(row, 0)?,
                issuer: AuthorityId::from_text(row.get(1)?),
                generation: GenerationNumber(counter(row, 2)?),
                total,
                valid,
            });
        }
        stats.expired = stats.total.saturating_sub(stats.valid).saturating_sub(stats.revoked);

        let mut live = transaction.prepare_cached(
            "SELECT count(*), min(not_after) FROM holders WHERE not_after >= ?1 \
             AND (serial, issuer) NOT IN (SELECT serial, issuer FROM certificates WHERE revoked_at IS NOT NULL)",
        )?;
        (stats.live_holders, stats.next_expiry) = live.query_row([now], |row| {
            let expiry = row.get::<_, Option<i64>>(1)?.map(|_| rows::time(row, 1)).transpose()?;
            Ok((counter(row, 0)?, expiry))
        })?;
        issued(&transaction, now, &mut stats)?;
        expiring(&transaction, now, &mut stats)?;
    }
    transaction.commit()?;
    Ok(stats)
}

const MINUTE: i64 = 60_000_000;
const HOUR: i64 = 60 * MINUTE;

/// Leaves of the last 60 whole minutes and of the running one: by minute, and by the lifetime that they were granted.
fn issued(connection: &Connection, now: i64, stats: &mut Stats) -> rusqlite::Result<()> {
    let first = now.div_euclid(MINUTE) - 60;
    let mut minutes = vec![0; 61];
    let mut lifetimes = BTreeMap::new();
    let mut issued = connection.prepare_cached(
        "SELECT issued_at / 60000000 - ?1, not_after - issued_at FROM certificates \
         WHERE kind = 'leaf' AND issued_at >= ?1 * 60000000 AND issued_at <= ?2",
    )?;
    let mut found = issued.query([first, now])?;
    while let Some(row) = found.next()? {
        if let Some(minute) = minutes.get_mut(usize::from(row.get::<_, u8>(0)?)) {
            *minute += 1;
        }
        let lifetime = u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
        let class = LIFETIME_CLASSES.iter().find(|class| lifetime <= **class * 1_000_000);
        *lifetimes.entry(class.map_or(Duration::MAX, |class| Duration::from_secs(*class))).or_insert(0) += 1;
    }
    (stats.issued_per_minute, stats.lifetimes) = (minutes, lifetimes.into_iter().collect());
    Ok(())
}

/// Valid leaves: by hours until notAfter, and by kind of key.
fn expiring(connection: &Connection, now: i64, stats: &mut Stats) -> rusqlite::Result<()> {
    let mut hours = vec![0; 24];
    let mut keys = BTreeMap::new();
    let mut valid = connection.prepare_cached(
        "SELECT min((not_after - ?1) / ?2, 24), coalesce(key_algorithm, 'unknown'), count(*) FROM certificates \
         WHERE kind = 'leaf' AND revoked_at IS NULL AND not_after >= ?1 GROUP BY 1, 2",
    )?;
    let mut found = valid.query([now, HOUR])?;
    while let Some(row) = found.next()? {
        let count = counter(row, 2)?;
        if let Some(hour) = hours.get_mut(usize::from(row.get::<_, u8>(0)?)) {
            *hour += count;
        }
        *keys.entry(row.get::<_, String>(1)?).or_insert(0) += count;
    }
    let mut keys: Vec<_> = keys.into_iter().collect();
    keys.sort_by_key(|(_, count)| Reverse(*count));
    (stats.expiring_per_hour, stats.keys) = (hours, keys);
    Ok(())
}

/// A WHERE clause whose values are all parameters.
#[derive(Default)]
struct Conditions {
    clause: String,
    values: Vec<Value>,
}

impl Conditions {
    fn push(&mut self, condition: &str, value: impl Into<Value>) {
        self.push_bare(condition);
        self.values.push(value.into());
    }

    fn push_bare(&mut self, condition: &str) {
        self.clause.push_str(if self.clause.is_empty() { " WHERE " } else { " AND " });
        self.clause.push_str(condition);
    }

    fn push_filter(&mut self, filter: &CertificateFilter, now: i64) {
        // Taken apart, so that a new field can't be forgotten here.
        let CertificateFilter {
            namespace,
            service_account,
            holder,
            issuer,
            generation,
            kind,
            state,
            issued_after,
            issued_before,
            expires_after,
            expires_before,
        } = filter;
        let texts = [
            ("namespace = ?", namespace.as_deref()),
            ("service_account = ?", service_account.as_deref()),
            ("holder = ?", holder.as_ref().map(HolderId::as_str)),
            ("issuer = ?", issuer.as_ref().map(AuthorityId::as_str)),
        ];
        for (condition, value) in texts {
            if let Some(value) = value {
                self.push(condition, value.to_owned());
            }
        }
        let numbers = [
            ("generation = ?", generation.map(|GenerationNumber(number)| saturated(number))),
            ("issued_at >= ?", issued_after.map(micros)),
            ("issued_at < ?", issued_before.map(micros)),
            ("not_after >= ?", expires_after.map(micros)),
            ("not_after < ?", expires_before.map(micros)),
        ];
        for (condition, value) in numbers {
            if let Some(value) = value {
                self.push(condition, value);
            }
        }
        if let Some(kind) = kind {
            self.push("kind = ?", kind.to_string());
        }
        // `+` keeps the planner off the index: nearly every row is in one of these two states, and the newest rows are wanted first.
        match state {
            Some(State::Valid) => self.push("revoked_at IS NULL AND +not_after >= ?", now),
            Some(State::Expired) => self.push("revoked_at IS NULL AND +not_after < ?", now),
            Some(State::Revoked) => self.push_bare("revoked_at IS NOT NULL"),
            None => {}
        }
    }
}

/// As SQLite keeps it; a number that is too large to be on record stands for the largest.
fn saturated(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
