//! The smaller questions as SQL. Each takes a reading connection and answers from one state of the ledger: from the tables that index,
//! and from the rows that are not in them yet. Lists are in `lists.rs`, counts in `stats.rs`.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::entry::holder_key;
use super::recent::Recent;
use super::rows::{self, CERTIFICATE_COLUMNS, HOLDER_COLUMNS, counter, number, time};
use crate::authority::AuthorityId;
use crate::ledger::{AuditEntry, AuditPage, HolderId, HolderRecord, Kind, StoredCertificate};

/// Every commit of a row gives a new id, every other one is counted.
pub(super) const HIGH_WATER: &str = "SELECT commits + max(last_id, coalesce((SELECT max(id) FROM certificates), 0)) FROM meta";

pub(super) fn high_water(connection: &Connection) -> rusqlite::Result<u64> {
    connection.prepare_cached(HIGH_WATER)?.query_row([], |row| counter(row, 0))
}

pub(super) fn latest_bundle(connection: &Connection) -> rusqlite::Result<Option<u64>> {
    let latest: Option<i64> = connection.prepare_cached("SELECT max(number) FROM bundles")?.query_row([], |row| row.get(0))?;
    Ok(latest.and_then(|latest| u64::try_from(latest).ok()))
}

pub(super) fn last_sequence(connection: &Connection, replica: &str) -> rusqlite::Result<Option<u64>> {
    let sql = "SELECT max(last) FROM (SELECT last_sequence AS last FROM replicas WHERE id = ?1 UNION ALL \
         SELECT replica_sequence FROM certificates WHERE id > (SELECT indexed_to FROM meta) AND replica = ?1)";
    let last: Option<i64> = connection.prepare_cached(sql)?.query_row([replica], |row| row.get(0))?;
    Ok(last.and_then(|last| u64::try_from(last).ok()))
}

pub(super) fn audits(connection: &Connection, before: Option<u64>, limit: u32) -> rusqlite::Result<AuditPage> {
    let limit = limit.clamp(1, AuditPage::MOST);
    let before = before.and_then(|before| i64::try_from(before).ok()).unwrap_or(i64::MAX);
    let sql = "SELECT id, at, actor, action, detail, reason FROM audit WHERE id < ?1 ORDER BY id DESC LIMIT ?2";
    let entry = |row: &Row<'_>| {
        Ok((counter(row, 0)?, AuditEntry { at: time(row, 1)?, actor: row.get(2)?, action: row.get(3)?, detail: row.get(4)?, reason: row.get(5)? }))
    };
    let found = connection.prepare_cached(sql)?.query_map(params![before, limit + 1], entry)?.collect::<rusqlite::Result<_>>()?;
    Ok(AuditPage::of(found, limit))
}

pub(super) fn find_leaf(
    connection: &mut Connection,
    recent: &Recent,
    issuer: &AuthorityId,
    serial: &[u8],
    sha256: &[u8; 32],
) -> rusqlite::Result<Option<StoredCertificate>> {
    let found = find_serial(connection, recent, serial)?;
    let is_it = |stored: &StoredCertificate| {
        let record = &stored.record;
        record.kind == Kind::Leaf && record.issuer == *issuer && record.sha256 == *sha256
    };
    Ok(found.into_iter().find(is_it))
}

pub(super) fn find_serial(connection: &mut Connection, recent: &Recent, serial: &[u8]) -> rusqlite::Result<Vec<StoredCertificate>> {
    let serial = number(serial);
    // Before the state is chosen that the rows are read from: what leaves `recent` after this is indexed in that state.
    let mut ids = recent.rows(serial);
    let transaction = connection.transaction()?;
    let mut found = Vec::new();
    {
        let mut indexed = transaction.prepare_cached("SELECT id FROM serials WHERE serial = ?1")?;
        let mut rows = indexed.query([serial])?;
        while let Some(row) = rows.next()? {
            ids.push(row.get(0)?);
        }
        ids.sort_unstable();
        ids.dedup();
        let sql = format!("SELECT {CERTIFICATE_COLUMNS} FROM certificates c WHERE c.id = ?1 AND c.serial = ?2");
        let mut select = transaction.prepare_cached(&sql)?;
        for id in ids.iter().rev() {
            found.extend(select.query_row(params![id, serial], rows::certificate).optional()?);
        }
    }
    transaction.commit()?;
    Ok(found)
}

pub(super) fn holder(connection: &Connection, holder: &HolderId) -> rusqlite::Result<Option<HolderRecord>> {
    let sql = format!(
        "SELECT {HOLDER_COLUMNS} FROM certificates c WHERE c.id IN (SELECT id FROM holders WHERE key = ?1 UNION ALL \
         SELECT id FROM certificates WHERE id > (SELECT indexed_to FROM meta) AND holder = ?2) ORDER BY c.issued_at DESC, c.id DESC LIMIT 1"
    );
    let key = holder_key(holder.as_str());
    connection.prepare_cached(&sql)?.query_row(params![&key[..], holder.as_str()], rows::holder).optional()
}
