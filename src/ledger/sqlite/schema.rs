//! The ledger's tables, and how a file gets from any older version to the newest.
//!
//! Called when a ledger is opened. A file of somebody else and a file of a newer meshmint are refused before a byte of them changes.

use std::time::Duration;

use rusqlite::{Connection, ErrorCode, TransactionBehavior};

use crate::ledger::OpenError;

/// "MsMt": how a file says that it is a ledger of ours (`PRAGMA application_id`).
pub(super) const APPLICATION_ID: i64 = 0x4d73_4d74;

/// How long a connection waits for another process that holds the file (an operator's `sqlite3`), before it gives up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The steps from nothing to the newest schema; step N leads to version N. A step that was released never changes.
pub(super) const LADDER: &[&str] = &[VERSION_1, VERSION_2];

/// All times are microseconds since 1970 UTC. Numbers of generations, bundles and sequences stay below 2⁶³.
const VERSION_1: &str = "
-- commits grows with every commit: a copy that lacks what this process saw acknowledged is noticed by it.
CREATE TABLE meta (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    ledger_id TEXT NOT NULL,
    commits INTEGER NOT NULL
) STRICT;

-- AUTOINCREMENT: an id is never given twice, so a page walk survives the pruning of the newest rows.
-- The DER comes last: who reads only what stands before it never loads it.
CREATE TABLE certificates (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    issuer TEXT NOT NULL,
    serial BLOB NOT NULL,
    sha256 BLOB NOT NULL CHECK (length(sha256) = 32),
    kind TEXT NOT NULL,
    spiffe_id TEXT,
    cluster TEXT,
    namespace TEXT,
    service_account TEXT,
    pod_name TEXT,
    pod_uid TEXT,
    node_name TEXT,
    node_uid TEXT,
    holder TEXT,
    generation INTEGER NOT NULL,
    bundle_number INTEGER NOT NULL,
    profile_digest TEXT NOT NULL,
    credential TEXT NOT NULL,
    issued_at INTEGER NOT NULL,
    not_before INTEGER NOT NULL,
    not_after INTEGER NOT NULL,
    replica TEXT NOT NULL,
    replica_sequence INTEGER NOT NULL,
    revoked_at INTEGER,
    revoked_reason TEXT,
    der BLOB NOT NULL
) STRICT;

-- One index for three needs: no serial twice (rule 2), a leaf by issuer and serial (every connection with a client certificate),
-- and a serial of any issuer. The serial comes first because it is what `certs show` knows; it grows with time, so inserts stay local.
CREATE UNIQUE INDEX certificates_by_serial ON certificates (serial, issuer);

-- Pruning takes the oldest notAfter first, again and again; without it every batch would read the whole table.
CREATE INDEX certificates_by_not_after ON certificates (not_after);

-- Holds only what was revoked, so that issuing pays nothing for it and neither a list of them nor the counts read the whole table.
CREATE INDEX certificates_revoked ON certificates (revoked_at) WHERE revoked_at IS NOT NULL;

-- The latest certificate of each holder. No rowid: the holder is the only way in.
CREATE TABLE holders (
    holder TEXT PRIMARY KEY,
    spiffe_id TEXT,
    issuer TEXT NOT NULL,
    serial BLOB NOT NULL,
    generation INTEGER NOT NULL,
    bundle_number INTEGER NOT NULL,
    issued_at INTEGER NOT NULL,
    not_after INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The fence. A generation that was closed before it was ever opened has no authority and no opened_at, and stays closed.
CREATE TABLE generations (
    generation INTEGER PRIMARY KEY,
    authority TEXT,
    opened_at INTEGER,
    closed_at INTEGER
) STRICT;

CREATE TABLE bundles (
    number INTEGER PRIMARY KEY,
    pem TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT;

CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    detail TEXT NOT NULL,
    reason TEXT NOT NULL
) STRICT;

-- One row for each start of a replica's process. last_sequence outlives the pruning of the records that it counted.
CREATE TABLE replicas (
    id TEXT PRIMARY KEY,
    generation INTEGER,
    bundle_number INTEGER,
    last_sequence INTEGER,
    seen_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

/// Certificates are appended without any index; what finds and counts them stands in tables of its own, which are filled in bulk
/// behind (`indexing.rs`). What is in `certificates` above `meta.indexed_to` is not in them, or not yet counted.
const VERSION_2: &str = "
-- No AUTOINCREMENT any more: the writer gives the ids, always above meta.last_id and all that is there, so none is given twice.
-- key_algorithm is NULL where version 1 recorded the row.
CREATE TABLE certificates_2 (
    id INTEGER PRIMARY KEY,
    issuer TEXT NOT NULL,
    serial BLOB NOT NULL,
    sha256 BLOB NOT NULL CHECK (length(sha256) = 32),
    kind TEXT NOT NULL,
    spiffe_id TEXT,
    cluster TEXT,
    namespace TEXT,
    service_account TEXT,
    pod_name TEXT,
    pod_uid TEXT,
    node_name TEXT,
    node_uid TEXT,
    holder TEXT,
    generation INTEGER NOT NULL,
    bundle_number INTEGER NOT NULL,
    profile_digest TEXT NOT NULL,
    credential TEXT NOT NULL,
    key_algorithm TEXT,
    issued_at INTEGER NOT NULL,
    not_before INTEGER NOT NULL,
    not_after INTEGER NOT NULL,
    replica TEXT NOT NULL,
    replica_sequence INTEGER NOT NULL,
    revoked_at INTEGER,
    revoked_reason TEXT,
    der BLOB NOT NULL
) STRICT;
INSERT INTO certificates_2 SELECT id, issuer, serial, sha256, kind, spiffe_id, cluster, namespace, service_account, pod_name, pod_uid,
    node_name, node_uid, holder, generation, bundle_number, profile_digest, credential, NULL, issued_at, not_before, not_after, replica,
    replica_sequence, revoked_at, revoked_reason, der FROM certificates ORDER BY id;

-- indexed_to: up to this id everything is in the tables below. last_id: no id up to this one is given again.
ALTER TABLE meta ADD COLUMN indexed_to INTEGER NOT NULL DEFAULT 0;
ALTER TABLE meta ADD COLUMN last_id INTEGER NOT NULL DEFAULT 0;
UPDATE meta SET last_id = coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'certificates'), 0);
DROP TABLE certificates;
ALTER TABLE certificates_2 RENAME TO certificates;

-- Holds only what was revoked, so that issuing pays nothing for it. The one index that is always up to date.
CREATE INDEX certificates_revoked ON certificates (revoked_at) WHERE revoked_at IS NOT NULL;

-- No serial twice, a leaf by its serial, a certificate by what `certs show` was given.
CREATE TABLE serials (serial BLOB NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (serial, id)) STRICT, WITHOUT ROWID;

-- In order of issue.
CREATE TABLE issues (issued_at INTEGER NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (issued_at, id)) STRICT, WITHOUT ROWID;

-- By namespace and account, 4,096 ids at a time (block = id / 4096), so that what is new goes to one end of the table. Both are
-- numbers of names.
CREATE TABLE places (
    block INTEGER NOT NULL,
    namespace INTEGER NOT NULL,
    account INTEGER NOT NULL,
    id INTEGER NOT NULL,
    PRIMARY KEY (block, namespace, account, id)
) STRICT, WITHOUT ROWID;
CREATE TABLE names (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;

-- By the minute of notAfter, so that a batch goes to few pages; offset is what is left of it, microseconds. latest: it is the latest
-- certificate of its holder.
CREATE TABLE expiries (
    minute INTEGER NOT NULL,
    id INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    class INTEGER NOT NULL,
    latest INTEGER NOT NULL,
    PRIMARY KEY (minute, id)
) STRICT, WITHOUT ROWID;

-- What certificates have in common, and how many are on record.
CREATE TABLE classes (
    class INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    issuer TEXT NOT NULL,
    generation INTEGER NOT NULL,
    bundle_number INTEGER NOT NULL,
    key_algorithm TEXT,
    total INTEGER NOT NULL
) STRICT;

-- The latest certificate of each holder, by the first 16 octets of the SHA-256 of its name.
DROP TABLE holders;
CREATE TABLE holders (
    key BLOB PRIMARY KEY,
    id INTEGER NOT NULL,
    issued_at INTEGER NOT NULL,
    not_after INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Counts. By minute of notAfter and class: what is on record. By minute of notAfter: holders, by their latest certificate.
-- By minute of issue and class of lifetime (query.rs): leaves that were issued, gone or not, of the last days.
CREATE TABLE expiry_counts (minute INTEGER NOT NULL, class INTEGER NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (minute, class)) STRICT, WITHOUT ROWID;
CREATE TABLE holder_counts (minute INTEGER PRIMARY KEY, count INTEGER NOT NULL) STRICT;
CREATE TABLE issue_counts (minute INTEGER NOT NULL, lifetime INTEGER NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (minute, lifetime)) STRICT, WITHOUT ROWID;
";

/// Checks that the file is a ledger (or empty), climbs the ladder, and returns the ledger's id: `fresh_id` where it was empty.
///
/// # Errors
/// Every variant of [`OpenError`]; the file is as it was then.
pub(super) fn upgrade(connection: &mut Connection, path: &str, ladder: &[&str], fresh_id: &str) -> Result<String, OpenError> {
    let engine = |error: rusqlite::Error| refusal(path, &error);
    // Taken before the version is read, so that two processes that start at once don't both climb.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(engine)?;
    let application_id: i64 = transaction.query_row("PRAGMA application_id", [], |row| row.get(0)).map_err(engine)?;
    let version: u32 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(engine)?;
    let tables: u32 = transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(engine)?;

    if application_id != APPLICATION_ID && (application_id, version, tables) != (0, 0, 0) {
        let reason = format!("it is a SQLite file of another program (application id {application_id:#010x})");
        return Err(OpenError::NotALedger { path: path.to_owned(), reason });
    }
    let known = u32::try_from(ladder.len()).unwrap_or(u32::MAX);
    if version > known {
        return Err(OpenError::TooNew { path: path.to_owned(), found: version, known });
    }
    for (step, target) in ladder.iter().zip(1_u32..).skip(usize::try_from(version).unwrap_or(usize::MAX)) {
        transaction.execute_batch(step).map_err(engine)?;
        transaction.pragma_update(None, "user_version", target).map_err(engine)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(engine)?;
    transaction.execute("INSERT INTO meta (only_row, ledger_id, commits) VALUES (1, ?1, 0) ON CONFLICT DO NOTHING", [fresh_id]).map_err(engine)?;
    let id = transaction.query_row("SELECT ledger_id FROM meta", [], |row| row.get(0)).map_err(engine)?;
    transaction.commit().map_err(engine)?;
    Ok(id)
}

/// What every connection is set to.
///
/// # Errors
/// The engine's.
pub(super) fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(32);
    // Nothing in a ledger that somebody tampered with may run functions of ours.
    connection.pragma_update(None, "trusted_schema", false)
}

/// What the writing connection is set to besides. `synchronous = FULL` flushes the log at every commit.
///
/// # Errors
/// The engine's; a file system that can't carry a write-ahead log.
pub(super) fn configure_writer(connection: &Connection) -> Result<(), String> {
    let said = |error: rusqlite::Error| error.to_string();
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(said)?;
    if mode != "wal" {
        return Err(format!("its file system can't carry a write-ahead log (journal mode {mode})"));
    }
    connection.pragma_update(None, "synchronous", "FULL").map_err(said)?;
    connection.pragma_update(None, "cache_size", -16 * 1024).map_err(said)?;
    // The log is moved into the file by a thread of its own (checkpoint.rs); only where that doesn't keep up, at 16 MiB, by a commit.
    connection.query_row("PRAGMA wal_autocheckpoint = 4096", [], |_| Ok(())).map_err(said)?;
    // A log that a burst or a long reader made big shrinks back to 64 MiB.
    connection.query_row("PRAGMA journal_size_limit = 67108864", [], |_| Ok(())).map_err(said)?;
    // Opens the log. Without it the engine refuses a checkpoint right after a step of the ladder has renamed a table.
    connection.query_row("SELECT 1 FROM meta", [], |_| Ok(())).map_err(said)
}

/// Work that the ledger can do again, so that its commits needn't wait for the disk: if the power fails before the next flush, it is
/// undone as a whole, and nothing else is.
///
/// # Errors
/// The engine's.
pub(super) fn unflushed<T>(connection: &mut Connection, work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    connection.execute_batch("PRAGMA synchronous = NORMAL")?;
    let outcome = work(connection);
    connection.execute_batch("PRAGMA synchronous = FULL")?;
    outcome
}

/// The engine's refusal in our words.
pub(super) fn refusal(path: &str, error: &rusqlite::Error) -> OpenError {
    let (path, reason) = (path.to_owned(), error.to_string());
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => OpenError::NotALedger { path, reason },
        _ => OpenError::Engine { path, reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGER: &[&str] =
        &[VERSION_1, VERSION_2, "ALTER TABLE replicas ADD COLUMN name TEXT", "CREATE TABLE crls (number INTEGER PRIMARY KEY) STRICT"];

    fn version(connection: &Connection) -> u32 {
        connection.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn an_older_file_climbs_and_keeps_its_id() {
        let mut connection = Connection::open_in_memory().unwrap();
        assert_eq!(upgrade(&mut connection, "x", LADDER, "first").unwrap(), "first");
        assert_eq!(version(&connection), 2);
        assert_eq!(upgrade(&mut connection, "x", LONGER, "second").unwrap(), "first");
        assert_eq!(version(&connection), 4);
        connection.execute("INSERT INTO crls VALUES (1)", []).unwrap();
        connection.execute("INSERT INTO replicas (id, seen_at, name) VALUES ('r', 1, 'pod-0')", []).unwrap();
        assert_eq!(upgrade(&mut connection, "x", LONGER, "third").unwrap(), "first");
    }

    #[test]
    fn a_newer_file_is_refused() {
        let mut connection = Connection::open_in_memory().unwrap();
        upgrade(&mut connection, "x", LONGER, "id").unwrap();
        let refused = upgrade(&mut connection, "x", LADDER, "id").unwrap_err();
        assert!(matches!(refused, OpenError::TooNew { found: 4, known: 2, .. }), "{refused}");
        assert_eq!(version(&connection), 4);
    }

    #[test]
    fn a_step_that_fails_leaves_the_file_as_it_was() {
        let mut connection = Connection::open_in_memory().unwrap();
        upgrade(&mut connection, "x", LADDER, "id").unwrap();
        let broken = [VERSION_1, VERSION_2, "CREATE TABLE half (a INTEGER) STRICT; SELECT nothing"];
        let refused = upgrade(&mut connection, "x", &broken, "id").unwrap_err();
        assert!(matches!(refused, OpenError::Engine { .. }), "{refused}");
        assert_eq!(version(&connection), 2);
        let halves: u32 = connection.query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'half'", [], |row| row.get(0)).unwrap();
        assert_eq!(halves, 0);
    }

    #[test]
    fn a_file_of_another_program_is_refused() {
        for sql in ["CREATE TABLE theirs (a)", "PRAGMA user_version = 1", "PRAGMA application_id = 7"] {
            let mut connection = Connection::open_in_memory().unwrap();
            connection.execute_batch(sql).unwrap();
            let refused = upgrade(&mut connection, "x", LADDER, "id").unwrap_err();
            assert!(matches!(refused, OpenError::NotALedger { .. }), "{sql}: {refused}");
        }
    }
}
