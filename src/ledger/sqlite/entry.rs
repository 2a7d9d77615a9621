//! What the tables that find and count certificates keep of one of them, and how times and names become their keys.

use std::collections::HashMap;

use ring::digest::{SHA256, digest};
use rusqlite::{Connection, params};

use super::rows::{counter, micros, number, parsed};
use crate::authority::{AuthorityId, GenerationNumber};
use crate::ledger::class::Class;
use crate::ledger::query::LIFETIME_CLASSES;
use crate::ledger::{CertificateRecord, HolderId, Kind};

/// Microseconds in a minute.
pub(super) const MINUTE: i64 = 60_000_000;

/// Under which key a holder is kept: short, of one length, and never the same for two of them.
pub(super) type HolderKey = [u8; 16];

/// The minute of a time, and the microseconds in it. As SQLite divides: towards zero.
pub(super) fn minute_and_offset(at: i64) -> (i64, i64) {
    (at / MINUTE, at % MINUTE)
}

/// In which block of `places` a row is.
pub(super) fn block(id: i64) -> i64 {
    id / 4_096
}

/// The key of a holder.
pub(super) fn holder_key(holder: &str) -> HolderKey {
    let mut key = [0; 16];
    let digest = digest(&SHA256, holder.as_bytes());
    key.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    key
}

/// The class of a lifetime, microseconds: a position in [`LIFETIME_CLASSES`], or one more.
pub(super) fn lifetime_class(lifetime: i64) -> u8 {
    let lifetime = u64::try_from(lifetime).unwrap_or(0);
    let class = LIFETIME_CLASSES.iter().position(|class| lifetime <= class * 1_000_000).unwrap_or(LIFETIME_CLASSES.len());
    u8::try_from(class).unwrap_or(u8::MAX)
}

/// One certificate on its way into the tables.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: i64,
    pub(super) serial: Vec<u8>,
    pub(super) class: i64,
    pub(super) issued_at: i64,
    pub(super) not_after: i64,
    /// Only leaves are counted by lifetime.
    pub(super) lifetime: Option<u8>,
    /// Numbers of namespace and account.
    pub(super) place: Option<(i64, i64)>,
    pub(super) holder: Option<HolderKey>,
    /// Whether it is its holder's latest, once that is known.
    pub(super) latest: bool,
}

/// The numbers of names and classes, as the tables have them.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    names: HashMap<String, i64>,
    classes: HashMap<Class, i64>,
}

impl Numbers {
    /// All that are on record.
    ///
    /// # Errors
    /// The engine's.
    pub(super) fn load(connection: &Connection) -> rusqlite::Result<Self> {
        let mut numbers = Self::default();
        let mut names = connection.prepare("SELECT name, number FROM names")?;
        let mut found = names.query([])?;
        while let Some(row) = found.next()? {
            numbers.names.insert(row.get(0)?, row.get(1)?);
        }
        numbers.classes = classes(connection)?.into_iter().map(|(number, (class, _))| (class, number)).collect();
        Ok(numbers)
    }

    /// The number of a name that is on record.
    pub(super) fn name(&self, name: &str) -> Option<i64> {
        self.names.get(name).copied()
    }

    /// The entry of a new row. Names and classes that are new get their numbers in the transaction of `connection`.
    ///
    /// # Errors
    /// The engine's.
    pub(super) fn entry(&mut self, connection: &Connection, id: i64, record: &CertificateRecord) -> rusqlite::Result<Entry> {
        let place = match (&record.namespace, &record.service_account) {
            (None, _) => None,
            (Some(namespace), account) => Some((
                self.name_or_new(connection, namespace)?,
                // An account without a name stands for none, and is never asked for.
                self.name_or_new(connection, account.as_deref().unwrap_or_default())?,
            )),
        };
        let (issued_at, not_after) = (micros(record.issued_at), micros(record.not_after));
        Ok(Entry {
            id,
            serial: number(&record.serial).to_vec(),
            class: self.class_or_new(connection, record)?,
            issued_at,
            not_after,
            lifetime: (record.kind == Kind::Leaf).then(|| lifetime_class(not_after - issued_at)),
            place,
            holder: record.holder.as_ref().map(HolderId::as_str).map(holder_key),
            latest: false,
        })
    }

    fn name_or_new(&mut self, connection: &Connection, name: &str) -> rusqlite::Result<i64> {
        if let Some(number) = self.names.get(name) {
            return Ok(*number);
        }
        let number = connection.query_row("INSERT INTO names (name) VALUES (?1) RETURNING number", [name], |row| row.get(0))?;
        self.names.insert(name.to_owned(), number);
        Ok(number)
    }

    fn class_or_new(&mut self, connection: &Connection, record: &CertificateRecord) -> rusqlite::Result<i64> {
        let class = Class::of(record);
        if let Some(number) = self.classes.get(&class) {
            return Ok(*number);
        }
        let key = class.key_algorithm.map(|algorithm| algorithm.to_string());
        // Both numbers are below 2⁶³: the row with them is on record.
        let (generation, bundle) = (i64::try_from(class.generation.0).unwrap_or(i64::MAX), i64::try_from(class.bundle_number).unwrap_or(i64::MAX));
        let sql =
            "INSERT INTO classes (kind, issuer, generation, bundle_number, key_algorithm, total) VALUES (?1, ?2, ?3, ?4, ?5, 0) RETURNING class";
        let values = params![class.kind.to_string(), class.issuer.as_str(), generation, bundle, key];
        let number = connection.query_row(sql, values, |row| row.get(0))?;
        self.classes.insert(class, number);
        Ok(number)
    }
}

/// Every class by its number, and how many certificates of it are indexed.
///
/// # Errors
/// The engine's.
pub(super) fn classes(connection: &Connection) -> rusqlite::Result<HashMap<i64, (Class, u64)>> {
    let mut select = connection.prepare_cached("SELECT class, kind, issuer, generation, bundle_number, key_algorithm, total FROM classes")?;
    let read = |row: &rusqlite::Row<'_>| {
        let class = Class {
            kind: parsed(row, 1)?,
            issuer: AuthorityId::from_text(row.get(2)?),
            generation: GenerationNumber(counter(row, 3)?),
            bundle_number: counter(row, 4)?,
            key_algorithm: super::rows::key_algorithm(row, 5)?,
        };
        Ok((row.get(0)?, (class, counter(row, 6)?)))
    };
    select.query_map([], read)?.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_fall_into_their_classes() {
        let second = 1_000_000;
        for (lifetime, class) in
            [(-1, 0), (0, 0), (300 * second, 0), (300 * second + 1, 1), (24 * 3_600 * second, 5), (7 * 24 * 3_600 * second + 1, 7)]
        {
            assert_eq!(lifetime_class(lifetime), class, "{lifetime}");
        }
    }

    #[test]
    fn minutes_divide_as_the_engine_divides() {
        let connection = Connection::open_in_memory().unwrap();
        for at in [0, 1, MINUTE - 1, MINUTE, 1_793_534_400_123_456, -1, -MINUTE] {
            let engine = connection.query_row("SELECT ?1 / 60000000, ?1 % 60000000", [at], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            assert_eq!(minute_and_offset(at), engine, "{at}");
        }
    }
}
