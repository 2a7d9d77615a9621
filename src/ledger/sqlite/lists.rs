//! Pages of certificates. Whatever a filter asks, a page is walked along one table in the order of the answer; beside it, the rows that
//! are not in that table yet are put in the same order, and both are merged.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};
use time::OffsetDateTime;

use super::entry::{block, minute_and_offset};
use super::rows::{self, AFTER_COLUMNS, CERTIFICATE_COLUMNS, ID_COLUMN, micros};
use crate::authority::{AuthorityId, GenerationNumber};
use crate::ledger::query::Order;
use crate::ledger::{CertificateFilter, Cursor, HolderId, Page, State, StoredCertificate};

/// The most certificates on a page.
const PAGE: u32 = 1_000;

/// One row with its place in the order: key and id.
type Placed = ((i64, i64), StoredCertificate);

pub(super) fn list(
    connection: &mut Connection,
    filter: &CertificateFilter,
    after: Option<Cursor>,
    limit: u32,
    now: OffsetDateTime,
) -> rusqlite::Result<Page> {
    let limit = limit.clamp(1, PAGE);
    let question = Question { filter, now: micros(now), after: after.map(|cursor| (cursor.key, cursor.id)), rows: limit + 1 };
    let order = Order::of(filter);
    // Everything is read from one state.
    let transaction = connection.transaction()?;
    let mut found = match (order, &filter.namespace) {
        (Order::Recorded, Some(namespace)) => question.by_place(&transaction, namespace)?,
        (Order::Recorded, None) => question.by_recording(&transaction)?,
        (Order::Issued, _) => question.by_issue(&transaction)?,
        (Order::Expiring, _) => question.by_expiry(&transaction)?,
    };
    transaction.commit()?;

    // One more than asked for tells whether there is a next page.
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|((key, id), _)| Cursor { order, key: *key, id: *id });
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
        .prepare_cached("SELECT max(last_id, coalesce((SELECT max(id) FROM certificates), 0)) FROM meta")?
        .query_row([], |row| row.get(0))?;
    let at = |id| Some(Cursor { order: Order::Recorded, key: 0, id });
    let Some(after) = after else { return Ok(Page { certificates: Vec::new(), next: at(end) }) };

    let mut conditions = Conditions::default();
    conditions.push("c.id > ?", after.id);
    conditions.push_filter(filter, micros(now));
    let sql = format!("SELECT {CERTIFICATE_COLUMNS}, 0 FROM certificates c{} ORDER BY c.id LIMIT ?", conditions.clause);
    let found = conditions.select(&transaction, &sql, limit)?;
    // A page that isn't full has seen everything up to the end.
    let full = u32::try_from(found.len()).is_ok_and(|found| found == limit);
    let id = found.last().filter(|_| full).map_or_else(|| end.max(after.id), |((_, id), _)| *id);
    Ok(Page { certificates: found.into_iter().map(|(_, certificate)| certificate).collect(), next: at(id) })
}

/// One list as it was asked for.
struct Question<'a> {
    filter: &'a CertificateFilter,
    now: i64,
    after: Option<(i64, i64)>,
    rows: u32,
}

impl Question<'_> {
    fn by_recording(&self, connection: &Connection) -> rusqlite::Result<Vec<Placed>> {
        let mut conditions = Conditions::default();
        if let Some((_, id)) = self.after {
            conditions.push("c.id < ?", id);
        }
        conditions.push_filter(self.filter, self.now);
        // What was revoked is little, and has an index of its own.
        let index = if self.filter.state == Some(State::Revoked) { " INDEXED BY certificates_revoked" } else { "" };
        let sql = format!("SELECT {CERTIFICATE_COLUMNS}, 0 FROM certificates c{index}{} ORDER BY c.id DESC LIMIT ?", conditions.clause);
        conditions.select(connection, &sql, self.rows)
    }

    fn by_issue(&self, connection: &Connection) -> rusqlite::Result<Vec<Placed>> {
        let mut walk = Conditions::default();
        if let Some(from) = self.filter.issued_after {
            walk.push("w.issued_at >= ?", micros(from));
        }
        if let Some(before) = self.filter.issued_before {
            walk.push("w.issued_at < ?", micros(before));
        }
        self.merged(connection, walk, "issues", "w.issued_at", "c.issued_at")
    }

    fn by_expiry(&self, connection: &Connection) -> rusqlite::Result<Vec<Placed>> {
        let mut walk = Conditions::default();
        if let Some(from) = self.filter.expires_after {
            let (minute, offset) = minute_and_offset(micros(from));
            walk.push("w.minute >= ?", minute);
            walk.push("(w.minute > ? OR", minute);
            walk.push_on(" w.offset >= ?)", offset);
        }
        let expired = (self.filter.state == Some(State::Expired)).then_some(self.now);
        if let Some(before) = self.filter.expires_before.map(micros).into_iter().chain(expired).min() {
            let (minute, offset) = minute_and_offset(before);
            walk.push("w.minute <= ?", minute);
            walk.push("(w.minute < ? OR", minute);
            walk.push_on(" w.offset < ?)", offset);
        }
        self.merged(connection, walk, "expiries", "w.minute", "c.not_after / 60000000")
    }

    /// Walks `table` by its `key`, newest first, and puts what it doesn't have yet in between.
    fn merged(&self, connection: &Connection, mut walk: Conditions, table: &str, key: &str, key_of_row: &str) -> rusqlite::Result<Vec<Placed>> {
        let mut rest = Conditions::default();
        walk.push_bare("w.id <= (SELECT indexed_to FROM meta)");
        rest.push_bare("c.id > (SELECT indexed_to FROM meta)");
        for (conditions, key, id) in [(&mut walk, key, "w.id"), (&mut rest, key_of_row, "c.id")] {
            if let Some(after) = self.after {
                conditions.push(&format!("({key}, {id}) < (?,"), after.0);
                conditions.push_on(" ?)", after.1);
            }
            conditions.push_filter(self.filter, self.now);
        }
        // CROSS JOIN: in this order.
        let sql = format!(
            "SELECT {CERTIFICATE_COLUMNS}, {key} FROM {table} w CROSS JOIN certificates c ON c.id = w.id{} ORDER BY {key} DESC, w.id DESC LIMIT ?",
            walk.clause
        );
        let mut found = walk.select(connection, &sql, self.rows)?;
        // Only places and ids are sorted, not whole rows.
        let sql = format!(
            "SELECT {CERTIFICATE_COLUMNS}, w.place FROM (SELECT {key_of_row} AS place, c.id AS id FROM certificates c{} \
             ORDER BY place DESC, c.id DESC LIMIT ?) w CROSS JOIN certificates c ON c.id = w.id",
            rest.clause
        );
        found.extend(rest.select(connection, &sql, self.rows)?);
        found.sort_by(|(one, _), (other, _)| other.cmp(one));
        found.truncate(usize::try_from(self.rows).unwrap_or(usize::MAX));
        Ok(found)
    }

    /// Goes through the blocks of ids that hold something of the namespace.
    fn by_place(&self, connection: &Connection, namespace: &str) -> rusqlite::Result<Vec<Placed>> {
        let indexed_to: i64 = connection.prepare_cached("SELECT indexed_to FROM meta")?.query_row([], |row| row.get(0))?;
        let end = self.after.map_or(i64::MAX, |(_, id)| id);
        let mut rest = Conditions::default();
        rest.push("c.id > ?", indexed_to);
        rest.push("c.id < ?", end);
        rest.push_filter(self.filter, self.now);
        let sql = format!("SELECT {CERTIFICATE_COLUMNS}, 0 FROM certificates c{} ORDER BY c.id DESC LIMIT ?", rest.clause);
        let mut found = rest.select(connection, &sql, self.rows)?;

        let number = |name: &str| {
            let mut select = connection.prepare_cached("SELECT number FROM names WHERE name = ?1")?;
            select.query_row([name], |row| row.get::<_, i64>(0)).optional()
        };
        let Some(namespace) = number(namespace)? else { return Ok(found) };
        let account = match &self.filter.service_account {
            None => None,
            Some(account) => match number(account)? {
                None => return Ok(found),
                number => number,
            },
        };
        let oldest: Option<i64> = connection.prepare_cached("SELECT min(block) FROM places")?.query_row([], |row| row.get(0))?;
        let Some(oldest) = oldest else { return Ok(found) };

        let mut row = Conditions::default();
        row.push_filter(self.filter, self.now);
        let sql = format!("SELECT {CERTIFICATE_COLUMNS}, 0 FROM certificates c{} AND c.id = ? LIMIT 1", row.clause);
        let mut select = connection.prepare_cached(&sql)?;
        let mut ids = connection.prepare_cached(
            "SELECT id FROM places WHERE block = ?1 AND namespace = ?2 AND (?3 IS NULL OR account = ?3) AND id < ?4 AND id <= ?5 ORDER BY id DESC",
        )?;
        let rows = usize::try_from(self.rows).unwrap_or(usize::MAX);
        for block in (oldest..=block(indexed_to.min(end))).rev() {
            let ids =
                ids.query_map(params![block, namespace, account, end, indexed_to], |row| row.get(0))?.collect::<rusqlite::Result<Vec<i64>>>()?;
            for id in ids {
                if found.len() >= rows {
                    return Ok(found);
                }
                let values = row.values.iter().cloned().chain([Value::from(id)]);
                found.extend(select.query_row(params_from_iter(values), placed).optional()?);
            }
        }
        Ok(found)
    }
}

fn placed(row: &rusqlite::Row<'_>) -> rusqlite::Result<Placed> {
    Ok(((row.get(AFTER_COLUMNS)?, row.get(ID_COLUMN)?), rows::certificate(row)?))
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

    /// Goes on with the condition before.
    fn push_on(&mut self, condition: &str, value: impl Into<Value>) {
        self.clause.push_str(condition);
        self.values.push(value.into());
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
            ("c.namespace = ?", namespace.as_deref()),
            ("c.service_account = ?", service_account.as_deref()),
            ("c.holder = ?", holder.as_ref().map(HolderId::as_str)),
            ("c.issuer = ?", issuer.as_ref().map(AuthorityId::as_str)),
        ];
        for (condition, value) in texts {
            if let Some(value) = value {
                self.push(condition, value.to_owned());
            }
        }
        let numbers = [
            ("c.generation = ?", generation.map(|GenerationNumber(number)| saturated(number))),
            ("c.issued_at >= ?", issued_after.map(micros)),
            ("c.issued_at < ?", issued_before.map(micros)),
            ("c.not_after >= ?", expires_after.map(micros)),
            ("c.not_after < ?", expires_before.map(micros)),
        ];
        for (condition, value) in numbers {
            if let Some(value) = value {
                self.push(condition, value);
            }
        }
        if let Some(kind) = kind {
            self.push("c.kind = ?", kind.to_string());
        }
        // `+` keeps the planner off the index of what was revoked: nearly nothing is.
        match state {
            Some(State::Valid) => self.push("+c.revoked_at IS NULL AND c.not_after >= ?", now),
            Some(State::Expired) => self.push("+c.revoked_at IS NULL AND c.not_after < ?", now),
            Some(State::Revoked) => self.push_bare("c.revoked_at IS NOT NULL"),
            None => {}
        }
    }

    /// Runs a statement that ends in `LIMIT ?`.
    fn select(mut self, connection: &Connection, sql: &str, rows: u32) -> rusqlite::Result<Vec<Placed>> {
        self.values.push(i64::from(rows).into());
        connection.prepare_cached(sql)?.query_map(params_from_iter(self.values), placed)?.collect()
    }
}

/// As SQLite keeps it; a number that is too large to be on record stands for the largest.
fn saturated(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
