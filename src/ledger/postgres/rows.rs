//! Between our types and the columns of the tables: times, numbers, names, whole rows.

use std::collections::HashMap;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use crate::authority::{AuthorityId, GenerationNumber};
use crate::callers::ObjectRef;
use crate::ledger::class::Class;
use crate::ledger::{AuditEntry, CertificateRecord, HolderId, HolderRecord, LedgerError, Revocation, StoredCertificate};

/// The columns of `meshmint.certificates c` that [`certificate`] reads.
pub(super) const COLUMNS: &str = "c.id, c.class, c.serial, c.sha256, c.der, c.spiffe_id, c.cluster, c.namespace, c.service_account, c.pod_name, \
     c.pod_uid, c.node_name, c.node_uid, c.holder, c.profile_digest, c.credential, c.issued_at, c.not_before, c.not_after, c.replica, \
     c.replica_sequence, c.revoked_at, c.revoked_reason, c.minute";

/// Microseconds in a minute.
pub(super) const MINUTE: i64 = 60_000_000;

/// Classes by their numbers.
pub(super) type Classes = HashMap<i32, Arc<Class>>;

/// Reads all of them.
pub(super) const SELECT_CLASSES: &str = "SELECT class, kind, issuer, generation, bundle_number, key_algorithm FROM meshmint.classes";

/// Reads a row of [`SELECT_CLASSES`].
///
/// # Errors
/// [`LedgerError::Unavailable`] for what no writer of ours puts there.
pub(super) fn class(row: &Row) -> Result<(i32, Arc<Class>), LedgerError> {
    let key_algorithm: String = get(row, "key_algorithm")?;
    let class = Class {
        kind: parsed(row, "kind")?,
        issuer: AuthorityId::from_text(get(row, "issuer")?),
        generation: GenerationNumber(counter(row, "generation")?),
        bundle_number: counter(row, "bundle_number")?,
        key_algorithm: if key_algorithm.is_empty() { None } else { Some(parse(&key_algorithm)?) },
    };
    Ok((get(row, "class")?, Arc::new(class)))
}

/// Microseconds since 1970 UTC; what is finer is cut off.
pub(super) fn micros(time: OffsetDateTime) -> i64 {
    let micros = time.unix_timestamp_nanos().div_euclid(1_000);
    // `time` ends with the year 9999 (or 999999), which is 19 digits of microseconds at most: it always fits.
    i64::try_from(micros).unwrap_or(i64::MAX)
}

/// The minute of a time, as the schema divides and clamps.
pub(super) fn minute(at: i64) -> i32 {
    i32::try_from(at / MINUTE).unwrap_or(i32::MAX)
}

/// A number as PostgreSQL keeps it.
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

/// The key of a holder: short, of one length, and never the same for two of them.
pub(super) fn holder_key(holder: &str) -> Vec<u8> {
    digest(&SHA256, holder.as_bytes()).as_ref().iter().copied().take(16).collect()
}

/// Refuses what PostgreSQL can't keep, before it could spoil a batch.
///
/// # Errors
/// [`LedgerError::Unavailable`].
pub(super) fn keepable(record: &CertificateRecord) -> Result<(), LedgerError> {
    integer(record.generation.0)?;
    integer(record.bundle_number)?;
    integer(record.replica_sequence)?;
    let texts = [
        record.cluster.as_deref(),
        record.namespace.as_deref(),
        record.service_account.as_deref(),
        record.pod.as_ref().map(|pod| pod.name.as_str()),
        record.pod.as_ref().map(|pod| pod.uid.as_str()),
        record.node.as_ref().map(|node| node.name.as_str()),
        record.node.as_ref().map(|node| node.uid.as_str()),
        record.holder.as_ref().map(HolderId::as_str),
        Some(record.issuer.as_str()),
        Some(&record.profile_digest),
        Some(&record.replica),
    ];
    texts.into_iter().flatten().try_for_each(keepable_text)
}

/// The same for one text.
///
/// # Errors
/// [`LedgerError::Unavailable`].
pub(super) fn keepable_text(text: &str) -> Result<(), LedgerError> {
    if text.contains('\0') { Err(LedgerError::Unavailable("a text with a zero byte can't be kept".to_owned())) } else { Ok(()) }
}

/// Reads [`COLUMNS`].
///
/// # Errors
/// As [`class`].
pub(super) fn certificate(row: &Row, class: &Class) -> Result<StoredCertificate, LedgerError> {
    let Class { kind, issuer, generation, bundle_number, key_algorithm } = class.clone();
    let sha256: &[u8] = get(row, "sha256")?;
    let record = CertificateRecord {
        issuer,
        serial: get(row, "serial")?,
        sha256: sha256.try_into().map_err(|_| unreadable("sha256"))?,
        der: get(row, "der")?,
        kind,
        spiffe_id: get::<Option<&str>>(row, "spiffe_id")?.map(parse).transpose()?,
        cluster: get(row, "cluster")?,
        namespace: get(row, "namespace")?,
        service_account: get(row, "service_account")?,
        pod: object(row, "pod_name", "pod_uid")?,
        node: object(row, "node_name", "node_uid")?,
        holder: get::<Option<String>>(row, "holder")?.map(HolderId::from_ledger),
        generation,
        bundle_number,
        profile_digest: get(row, "profile_digest")?,
        credential: parsed(row, "credential")?,
        key_algorithm,
        issued_at: time(row, "issued_at")?,
        not_before: time(row, "not_before")?,
        not_after: time(row, "not_after")?,
        replica: get(row, "replica")?,
        replica_sequence: counter(row, "replica_sequence")?,
    };
    let revoked = match get::<Option<i64>>(row, "revoked_at")? {
        Some(_) => Some(Revocation { at: time(row, "revoked_at")?, reason: get::<Option<String>>(row, "revoked_reason")?.unwrap_or_default() }),
        None => None,
    };
    Ok(StoredCertificate { record, revoked })
}

/// The holder's record that a row of [`COLUMNS`] is.
///
/// # Errors
/// As [`class`].
pub(super) fn holder(row: &Row, class: &Class, holder: &HolderId) -> Result<HolderRecord, LedgerError> {
    Ok(HolderRecord {
        holder: holder.clone(),
        spiffe_id: get::<Option<&str>>(row, "spiffe_id")?.map(parse).transpose()?,
        issuer: class.issuer.clone(),
        serial: get(row, "serial")?,
        generation: class.generation,
        bundle_number: class.bundle_number,
        issued_at: time(row, "issued_at")?,
        not_after: time(row, "not_after")?,
    })
}

/// An entry of the audit, with its number.
///
/// # Errors
/// As [`class`].
pub(super) fn audit(row: &Row) -> Result<(u64, AuditEntry), LedgerError> {
    let entry = AuditEntry {
        at: time(row, "at")?,
        actor: get(row, "actor")?,
        action: get(row, "action")?,
        detail: get(row, "detail")?,
        reason: get(row, "reason")?,
    };
    Ok((counter(row, "id")?, entry))
}

/// A column by its name.
///
/// # Errors
/// As [`class`].
pub(super) fn get<'a, T: FromSql<'a>>(row: &'a Row, column: &str) -> Result<T, LedgerError> {
    row.try_get(column).map_err(|error| unreadable(&format!("{column}: {error}")))
}

/// A column that counts something.
///
/// # Errors
/// As [`class`].
pub(super) fn counter(row: &Row, column: &str) -> Result<u64, LedgerError> {
    u64::try_from(get::<i64>(row, column)?).map_err(|_| unreadable(column))
}

/// Microseconds as a time.
///
/// # Errors
/// As [`class`].
pub(super) fn at(micros: i64) -> Result<OffsetDateTime, LedgerError> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).map_err(|_| unreadable("a time"))
}

fn time(row: &Row, column: &str) -> Result<OffsetDateTime, LedgerError> {
    at(get(row, column)?)
}

fn parsed<T: FromStr<Err: Display>>(row: &Row, column: &str) -> Result<T, LedgerError> {
    parse(get(row, column)?)
}

fn parse<T: FromStr<Err: Display>>(text: &str) -> Result<T, LedgerError> {
    text.parse().map_err(|error: T::Err| unreadable(&error.to_string()))
}

fn object(row: &Row, name: &str, uid: &str) -> Result<Option<ObjectRef>, LedgerError> {
    let (name, uid): (Option<String>, Option<String>) = (get(row, name)?, get(row, uid)?);
    Ok(name.zip(uid).map(|(name, uid)| ObjectRef { name, uid }))
}

fn unreadable(what: &str) -> LedgerError {
    LedgerError::Unavailable(format!("a row can't be read: {what}"))
}
