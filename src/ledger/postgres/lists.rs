//! Pages of certificates. A page is walked along one index of each table in the order of the answer; the database merges them.

use tokio_postgres::types::{ToSql, Type};

use super::pool::Parameter;
use super::rows::{COLUMNS, micros, minute};
use crate::authority::{AuthorityId, GenerationNumber};
use crate::ledger::query::Order;
use crate::ledger::{CertificateFilter, Cursor, HolderId, State};

/// The most certificates on a page.
pub(super) const PAGE: u32 = 1_000;

/// The classes that a filter leaves, where it says anything of them.
pub(super) fn classes(filter: &CertificateFilter) -> Option<Statement> {
    let CertificateFilter { issuer, generation, kind, .. } = filter;
    if issuer.is_none() && generation.is_none() && kind.is_none() {
        return None;
    }
    let mut statement = Statement::new("SELECT class FROM meshmint.classes");
    if let Some(issuer) = issuer {
        statement.condition("issuer = ?", [Value::Text(AuthorityId::as_str(issuer).to_owned())]);
    }
    if let Some(GenerationNumber(number)) = generation {
        // A number that is too large to be on record stands for the largest.
        statement.condition("generation = ?", [Value::Long(i64::try_from(*number).unwrap_or(i64::MAX))]);
    }
    if let Some(kind) = kind {
        statement.condition("kind = ?", [Value::Text(kind.to_string())]);
    }
    Some(statement)
}

/// One page of a list: `rows` of them after `after`, newest first.
pub(super) fn list(filter: &CertificateFilter, classes: Option<Vec<i32>>, after: Option<Cursor>, rows: u32, now: i64) -> Statement {
    let mut statement = certificates(filter, classes, now);
    let order = Order::of(filter);
    let (key, walked) = match order {
        Order::Recorded => ("id", "c.id DESC"),
        Order::Issued => ("c.issued_at", "c.issued_at DESC, c.id DESC"),
        Order::Expiring => ("c.minute", "c.minute DESC, c.id DESC"),
    };
    if let Some(Cursor { key: place, id, .. }) = after {
        match order {
            Order::Recorded => statement.condition("c.id < ?", [Value::Long(id)]),
            Order::Issued => statement.condition(&format!("({key}, c.id) < (?, ?)"), [Value::Long(place), Value::Long(id)]),
            Order::Expiring => {
                let place = i32::try_from(place).unwrap_or(if place < 0 { i32::MIN } else { i32::MAX });
                statement.condition(&format!("({key}, c.id) < (?, ?)"), [Value::Int(place), Value::Long(id)]);
            }
        }
    }
    if order == Order::Expiring {
        // What the index knows; the exact times are among the conditions of the filter.
        if let Some(from) = filter.expires_after {
            statement.condition("c.minute >= ?", [Value::Int(minute(micros(from)))]);
        }
        let expired = (filter.state == Some(State::Expired)).then_some(now);
        if let Some(before) = filter.expires_before.map(micros).into_iter().chain(expired).min() {
            statement.condition("c.minute <= ?", [Value::Int(minute(before))]);
        }
    }
    statement.end(&format!(" ORDER BY {walked} LIMIT {rows}"));
    statement
}

/// What was recorded after `after`, up to `end`, those recorded first first.
pub(super) fn follow(filter: &CertificateFilter, classes: Option<Vec<i32>>, after: i64, end: i64, rows: u32, now: i64) -> Statement {
    let mut statement = certificates(filter, classes, now);
    statement.condition("c.id > ?", [Value::Long(after)]);
    statement.condition("c.id <= ?", [Value::Long(end)]);
    statement.end(&format!(" ORDER BY c.id LIMIT {rows}"));
    statement
}

fn certificates(filter: &CertificateFilter, classes: Option<Vec<i32>>, now: i64) -> Statement {
    // Taken apart, so that a new field can't be forgotten here.
    let CertificateFilter {
        namespace,
        service_account,
        holder,
        issuer: _,
        generation: _,
        kind: _,
        state,
        issued_after,
        issued_before,
        expires_after,
        expires_before,
    } = filter;
    let mut statement = Statement::new(&format!("SELECT {COLUMNS} FROM meshmint.certificates AS c"));
    if let Some(classes) = classes {
        statement.condition("c.class = ANY (?)", [Value::Ints(classes)]);
    }
    let texts = [("c.namespace = ?", namespace), ("c.service_account = ?", service_account)];
    for (condition, value) in texts {
        if let Some(value) = value {
            statement.condition(condition, [Value::Text(value.clone())]);
        }
    }
    if let Some(holder) = holder {
        let key = super::rows::holder_key(holder.as_str());
        statement.condition("c.holder_key = ? AND c.holder = ?", [Value::Bytes(key), Value::Text(HolderId::as_str(holder).to_owned())]);
    }
    let times = [
        ("c.issued_at >= ?", issued_after),
        ("c.issued_at < ?", issued_before),
        ("c.not_after >= ?", expires_after),
        ("c.not_after < ?", expires_before),
    ];
    for (condition, value) in times {
        if let Some(value) = value {
            statement.condition(condition, [Value::Long(micros(*value))]);
        }
    }
    match state {
        Some(State::Valid) => statement.condition("c.revoked_at IS NULL AND c.not_after >= ?", [Value::Long(now)]),
        Some(State::Expired) => statement.condition("c.revoked_at IS NULL AND c.not_after < ?", [Value::Long(now)]),
        Some(State::Revoked) => statement.condition("c.revoked_at IS NOT NULL", []),
        None => {}
    }
    statement
}

/// A statement whose values are all parameters.
#[derive(Debug)]
pub(super) struct Statement {
    sql: String,
    conditions: usize,
    values: Vec<Value>,
}

#[derive(Debug)]
pub(super) enum Value {
    Text(String),
    Bytes(Vec<u8>),
    Int(i32),
    Long(i64),
    Ints(Vec<i32>),
}

impl Statement {
    fn new(sql: &str) -> Self {
        Self { sql: sql.to_owned(), conditions: 0, values: Vec::new() }
    }

    /// Adds a condition; each `?` in it stands for the next of the values.
    fn condition<const N: usize>(&mut self, condition: &str, values: [Value; N]) {
        self.sql.push_str(if self.conditions == 0 { " WHERE " } else { " AND " });
        self.conditions += 1;
        let mut number = self.values.len();
        for letter in condition.chars() {
            if letter == '?' {
                number += 1;
                self.sql.push_str(&format!("${number}"));
            } else {
                self.sql.push(letter);
            }
        }
        self.values.extend(values);
    }

    fn end(&mut self, rest: &str) {
        self.sql.push_str(rest);
    }

    pub(super) fn sql(&self) -> &str {
        &self.sql
    }

    pub(super) fn parameters(&self) -> Vec<Parameter<'_>> {
        fn parameter(value: &Value) -> (&(dyn ToSql + Sync), Type) {
            match value {
                Value::Text(text) => (text, Type::TEXT),
                Value::Bytes(bytes) => (bytes, Type::BYTEA),
                Value::Int(number) => (number, Type::INT4),
                Value::Long(number) => (number, Type::INT8),
                Value::Ints(numbers) => (numbers, Type::INT4_ARRAY),
            }
        }
        self.values.iter().map(parameter).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Kind;

    #[test]
    fn conditions_are_numbered_on() {
        let filter = CertificateFilter {
            kind: Some(Kind::Leaf),
            namespace: Some("shop".to_owned()),
            state: Some(State::Expired),
            ..CertificateFilter::default()
        };
        assert_eq!(classes(&filter).unwrap().sql(), "SELECT class FROM meshmint.classes WHERE kind = $1");
        let after = Cursor { order: Order::Expiring, key: 5, id: 9 };
        let statement = list(&filter, Some(vec![1]), Some(after), 3, 7);
        let (_, rest) = statement.sql().split_once(" WHERE ").unwrap();
        assert_eq!(
            rest,
            "c.class = ANY ($1) AND c.namespace = $2 AND c.revoked_at IS NULL AND c.not_after < $3 AND (c.minute, c.id) < ($4, $5) \
             AND c.minute <= $6 ORDER BY c.minute DESC, c.id DESC LIMIT 3"
        );
        assert_eq!(statement.parameters().len(), 6);
        assert!(classes(&CertificateFilter::default()).is_none());
    }
}
