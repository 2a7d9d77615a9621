//! Between our types and the columns of the tables: times, numbers, names, whole rows.

use std::fmt::Display;
use std::str::FromStr;

use rusqlite::Row;
use rusqlite::types::Type;
use time::OffsetDateTime;

use crate::authority::{AuthorityId, GenerationNumber};
use crate::callers::ObjectRef;
use crate::ledger::{CertificateRecord, HolderId, HolderRecord, LedgerError, Revocation, StoredCertificate};
use crate::pki::PublicKeyAlgorithm;

/// The columns of `certificates c` that [`certificate`] reads, in its order.
pub(super) const CERTIFICATE_COLUMNS: &str = "c.issuer, c.serial, c.sha256, c.der, c.kind, c.spiffe_id, c.cluster, c.namespace, c.service_account, \
     c.pod_name, c.pod_uid, c.node_name, c.node_uid, c.holder, c.generation, c.bundle_number, c.profile_digest, c.credential, c.issued_at, \
     c.not_before, c.not_after, c.replica, c.replica_sequence, c.revoked_at, c.revoked_reason, c.id, c.key_algorithm";

/// Where [`CERTIFICATE_COLUMNS`] has the row's id.
pub(super) const ID_COLUMN: usize = 25;

/// How many columns that are: where a question's own column stands behind them.
pub(super) const AFTER_COLUMNS: usize = 27;

/// The columns of `certificates c` that [`holder`] reads, in its order.
pub(super) const HOLDER_COLUMNS: &str = "c.holder, c.spiffe_id, c.issuer, c.serial, c.generation, c.bundle_number, c.issued_at, c.not_after";

/// Microseconds since 1970 UTC; what is finer is cut off.
pub(super) fn micros(time: OffsetDateTime) -> i64 {
    let micros = time.unix_timestamp_nanos().div_euclid(1_000);
    // `time` ends with the year 9999 (or 999999), which is 19 digits of microseconds at most: it always fits.
    i64::try_from(micros).unwrap_or(i64::MAX)
}

/// A number as SQLite keeps it.
///
/// # Errors
/// [`LedgerError::Unavailable`] from 2⁶³ on.
pub(super) fn integer(number: u64) -> Result<i64, LedgerError> {
    i64::try_from(number).map_err(|_| LedgerError::Unavailable(format!("the number {number} is too large for the ledger")))
}

/// A serial number without leading zeros: equal numbers are equal bytes.
pub(super) fn number(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|octet| **octet == 0).count();
    serial.get(zeros..).unwrap_or_default()
}

/// Reads [`CERTIFICATE_COLUMNS`].
///
/// # Errors
/// The engine's, and a conversion failure for what no writer of ours puts there.
pub(super) fn certificate(row: &Row<'_>) -> rusqlite::Result<StoredCertificate> {
    let record = CertificateRecord {
        issuer: AuthorityId::from_text(row.get(0)?),
        serial: row.get(1)?,
        sha256: row.get(2)?,
        der: row.get(3)?,
        kind: parsed(row, 4)?,
        spiffe_id: row.get::<_, Option<String>>(5)?.map(|text| parse(&text, 5)).transpose()?,
        cluster: row.get(6)?,
        namespace: row.get(7)?,
        service_account: row.get(8)?,
        pod: object(row, 9)?,
        node: object(row, 11)?,
        holder: row.get::<_, Option<String>>(13)?.map(HolderId::from_ledger),
        generation: GenerationNumber(counter(row, 14)?),
        bundle_number: counter(row, 15)?,
        profile_digest: row.get(16)?,
        credential: parsed(row, 17)?,
        key_algorithm: key_algorithm(row, 26)?,
        issued_at: time(row, 18)?,
        not_before: time(row, 19)?,
        not_after: time(row, 20)?,
        replica: row.get(21)?,
        replica_sequence: counter(row, 22)?,
    };
    let revoked = match row.get::<_, Option<i64>>(23)? {
        Some(_) => Some(Revocation { at: time(row, 23)?, reason: row.get::<_, Option<String>>(24)?.unwrap_or_default() }),
        None => None,
    };
    Ok(StoredCertificate { record, revoked })
}

/// Reads [`HOLDER_COLUMNS`].
///
/// # Errors
/// As [`certificate`].
pub(super) fn holder(row: &Row<'_>) -> rusqlite::Result<HolderRecord> {
    Ok(HolderRecord {
        holder: HolderId::from_ledger(row.get(0)?),
        spiffe_id: row.get::<_, Option<String>>(1)?.map(|text| parse(&text, 1)).transpose()?,
        issuer: AuthorityId::from_text(row.get(2)?),
        serial: row.get(3)?,
        generation: GenerationNumber(counter(row, 4)?),
        bundle_number: counter(row, 5)?,
        issued_at: time(row, 6)?,
        not_after: time(row, 7)?,
    })
}

/// A column that counts something.
///
/// # Errors
/// As [`certificate`].
pub(super) fn counter(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

/// A column with a time.
///
/// # Errors
/// As [`certificate`].
pub(super) fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<OffsetDateTime> {
    let micros: i64 = row.get(column)?;
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, micros))
}

/// A column with the kind of a key, if that is known.
///
/// # Errors
/// As [`certificate`].
pub(super) fn key_algorithm(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<PublicKeyAlgorithm>> {
    row.get::<_, Option<String>>(column)?.map(|text| parse(&text, column)).transpose()
}

/// A column with a name that parses.
///
/// # Errors
/// As [`certificate`].
pub(super) fn parsed<T: FromStr<Err: Display>>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    parse(&row.get::<_, String>(column)?, column)
}

fn parse<T: FromStr<Err: Display>>(text: &str, column: usize) -> rusqlite::Result<T> {
    text.parse().map_err(|error: T::Err| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.to_string().into()))
}

fn object(row: &Row<'_>, name: usize) -> rusqlite::Result<Option<ObjectRef>> {
    let (name, uid): (Option<String>, Option<String>) = (row.get(name)?, row.get(name + 1)?);
    Ok(name.zip(uid).map(|(name, uid)| ObjectRef { name, uid }))
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;
    use time::macros::datetime;

    use super::*;
    use crate::ledger::Kind;

    fn reading<T>(sql: &str, read: impl Fn(&Row<'_>) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        Connection::open_in_memory().unwrap().query_row(sql, [], |row| read(row))
    }

    #[test]
    fn times_keep_microseconds_on_both_sides_of_1970() {
        for (at, expected) in [
            (datetime!(2026-11-01 12:00:00.123456 UTC), 1_793_534_400_123_456),
            (datetime!(1969-12-31 23:59:59.999999 UTC), -1),
            (datetime!(1969-12-31 23:59:59.9999995 UTC), -1),
            (datetime!(1970-01-01 01:00:00 +1), 0),
        ] {
            assert_eq!(micros(at), expected, "{at}");
        }
        let back = reading("SELECT 1793534400123456", |row| time(row, 0)).unwrap();
        assert_eq!(back, datetime!(2026-11-01 12:00:00.123456 UTC));
    }

    #[test]
    fn what_no_writer_of_ours_puts_there_is_an_error() {
        assert!(reading("SELECT 9223372036854775807", |row| time(row, 0)).is_err());
        assert!(reading("SELECT -1", |row| counter(row, 0)).is_err());
        assert!(reading("SELECT 'Leaf'", |row| parsed::<Kind>(row, 0)).is_err());
        assert_eq!(reading("SELECT 'leaf'", |row| parsed::<Kind>(row, 0)).unwrap(), Kind::Leaf);
    }

    #[test]
    fn serials_are_numbers() {
        assert_eq!(number(&[0, 0, 1, 0]), [1, 0]);
        assert_eq!(number(&[1, 0]), [1, 0]);
        assert_eq!(number(&[0]), [0_u8; 0]);
        assert_eq!(number(&[]), [0_u8; 0]);
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        assert_eq!(integer(7), Ok(7));
        assert!(matches!(integer(1 << 63), Err(LedgerError::Unavailable(_))));
    }
}
