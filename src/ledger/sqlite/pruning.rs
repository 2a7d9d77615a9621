//! How certificates are forgotten: a few at a time, the oldest minute of notAfter first, out of every table that knows them.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::entry::{HolderKey, Numbers, block, holder_key, minute_and_offset};
use super::indexing::count_holders;

/// One row that goes.
struct Gone {
    minute: i64,
    id: i64,
    class: i64,
    /// `None` where somebody else has deleted the row itself.
    row: Option<Row>,
}

struct Row {
    serial: Vec<u8>,
    issued_at: i64,
    place: Option<(i64, i64)>,
    /// Set where it is the holder's latest.
    holder: Option<HolderKey>,
}

/// Forgets up to `limit` indexed certificates whose notAfter lies before `before`; returns how many.
///
/// # Errors
/// The engine's.
pub(super) fn prune(connection: &Connection, before: i64, limit: u32, numbers: &Numbers) -> rusqlite::Result<u32> {
    let mut gone = due(connection, before, limit, numbers)?;
    let count = u32::try_from(gone.len()).unwrap_or(limit);

    // Each table in its own order.
    let mut delete = connection.prepare_cached("DELETE FROM expiries WHERE minute = ?1 AND id = ?2")?;
    let (mut expiries, mut totals, mut holders) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for each in &gone {
        delete.execute([each.minute, each.id])?;
        *expiries.entry((each.minute, each.class)).or_insert(0_i64) += 1;
        *totals.entry(each.class).or_insert(0_i64) += 1;
    }
    gone.sort_unstable_by_key(|each| each.id);
    let mut delete = connection.prepare_cached("DELETE FROM certificates WHERE id = ?1")?;
    let mut unplace = connection.prepare_cached("DELETE FROM places WHERE block = ?1 AND namespace = ?2 AND account = ?3 AND id = ?4")?;
    let mut unissue = connection.prepare_cached("DELETE FROM issues WHERE issued_at = ?1 AND id = ?2")?;
    for each in &gone {
        let Some(row) = &each.row else { continue };
        delete.execute([each.id])?;
        unissue.execute([row.issued_at, each.id])?;
        if let Some((namespace, account)) = row.place {
            unplace.execute([block(each.id), namespace, account, each.id])?;
        }
    }
    let mut rows: Vec<(i64, i64, Row)> = gone.into_iter().filter_map(|each| each.row.map(|row| (each.minute, each.id, row))).collect();
    rows.sort_unstable_by(|(_, _, one), (_, _, other)| one.serial.cmp(&other.serial));
    let mut delete = connection.prepare_cached("DELETE FROM serials WHERE serial = ?1 AND id = ?2")?;
    for (_, id, row) in &rows {
        delete.execute(params![row.serial, id])?;
    }
    // A holder goes with its latest certificate.
    rows.sort_unstable_by_key(|(_, _, row)| row.holder);
    let mut forget = connection.prepare_cached("DELETE FROM holders WHERE key = ?1 AND id = ?2")?;
    for (minute, id, row) in &rows {
        if let Some(key) = &row.holder
            && forget.execute(params![&key[..], id])? == 1
        {
            *holders.entry(*minute).or_insert(0) -= 1;
        }
    }
    count_holders(connection, &holders)?;
    uncount(connection, &expiries, &totals)?;
    Ok(count)
}

fn due(connection: &Connection, before: i64, limit: u32, numbers: &Numbers) -> rusqlite::Result<Vec<Gone>> {
    let (minute, offset) = minute_and_offset(before);
    let sql = "SELECT e.minute, e.id, e.class, e.latest, c.serial, c.issued_at, c.namespace, c.service_account, c.holder \
         FROM expiries e LEFT JOIN certificates c ON c.id = e.id \
         WHERE e.minute <= ?1 AND (e.minute < ?1 OR e.offset < ?2) AND e.id <= (SELECT indexed_to FROM meta) ORDER BY e.minute, e.id LIMIT ?3";
    let read = |row: &rusqlite::Row<'_>| {
        let name = |column| Ok::<_, rusqlite::Error>(row.get_ref(column)?.as_str_or_null()?.map(|name| numbers.name(name)));
        let latest: bool = row.get(3)?;
        let serial: Option<Vec<u8>> = row.get(4)?;
        let row = match serial {
            None => None,
            Some(serial) => Some(Row {
                serial,
                issued_at: row.get(5)?,
                place: match (name(6)?, name(7)?.unwrap_or_else(|| numbers.name(""))) {
                    (Some(Some(namespace)), Some(account)) => Some((namespace, account)),
                    _ => None,
                },
                holder: row.get_ref(8)?.as_str_or_null()?.filter(|_| latest).map(holder_key),
            }),
        };
        Ok::<_, rusqlite::Error>(row)
    };
    let mut select = connection.prepare_cached(sql)?;
    let found = select
        .query_map(params![minute, offset, limit], |row| Ok(Gone { minute: row.get(0)?, id: row.get(1)?, class: row.get(2)?, row: read(row)? }))?;
    found.collect()
}

fn uncount(connection: &Connection, expiries: &BTreeMap<(i64, i64), i64>, totals: &BTreeMap<i64, i64>) -> rusqlite::Result<()> {
    let mut take = connection.prepare_cached("UPDATE expiry_counts SET count = count - ?3 WHERE minute = ?1 AND class = ?2 RETURNING count")?;
    let mut none_left = connection.prepare_cached("DELETE FROM expiry_counts WHERE minute = ?1 AND class = ?2")?;
    for ((minute, class), count) in expiries {
        let left: Option<i64> = take.query_row(params![minute, class, count], |row| row.get(0)).optional()?;
        if left == Some(0) {
            none_left.execute(params![minute, class])?;
        }
    }
    let mut take = connection.prepare_cached("UPDATE classes SET total = total - ?2 WHERE class = ?1")?;
    for (class, count) in totals {
        take.execute(params![class, count])?;
    }
    Ok(())
}

/// Forgets what nothing on record refers to any more and is older than `before`: replicas that were not seen since and serve no
/// open generation, and bundles, but the newest, that no certificate on record was answered with. Operators' actions stay for ever.
///
/// # Errors
/// The engine's.
pub(super) fn tidy(connection: &Connection, before: i64) -> rusqlite::Result<()> {
    let sql = "DELETE FROM replicas WHERE seen_at < ?1 AND NOT EXISTS \
         (SELECT 1 FROM generations WHERE generations.generation = replicas.generation AND closed_at IS NULL)";
    connection.prepare_cached(sql)?.execute([before])?;
    let sql = "DELETE FROM bundles WHERE at < ?1 AND number < (SELECT max(number) FROM bundles) AND number NOT IN \
         (SELECT bundle_number FROM classes WHERE total > 0 UNION ALL \
          SELECT bundle_number FROM certificates WHERE id > (SELECT indexed_to FROM meta))";
    connection.prepare_cached(sql)?.execute([before])?;
    Ok(())
}
