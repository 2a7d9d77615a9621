//! The schema, and how it grows.
//!
//! Each step of the ladder only adds to what is there, so replicas that know fewer steps go on working beside those that know more, in
//! either order of their exchange. `meta.oldest` is the lowest step that a program must know to work with what is there; it is raised
//! only by a step that a release announces long before. A step that changes tables takes them in the order in which `record_1` does
//! (classes, generations, leaves, others, leaf_counts, replicas), so that it and those at work don't wait for each other.

use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::connection::Connection;
use super::settings::chain_of;
use crate::ledger::OpenError;

/// One version of the schema.
struct Step {
    sql: &'static str,
    /// The lowest version that a program must know to work with it.
    oldest: i32,
}

const LADDER: &[Step] = &[Step { sql: include_str!("schema/version_1.sql"), oldest: 1 }];

/// What tells a ledger from other schemas of this name, and which version it has.
const META: &str = "
CREATE TABLE meshmint.meta (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    ledger_id text NOT NULL,
    -- The version of the schema, and the lowest version that a program must know to work with it.
    version integer NOT NULL,
    oldest integer NOT NULL,
    -- Counts every write but those that replicas.written counts.
    commits bigint NOT NULL DEFAULT 0
)";

/// The oldest PostgreSQL that has everything which the schema needs.
const OLDEST_SERVER: i32 = 130_000;

/// The newest version known here.
pub(super) fn known() -> i32 {
    i32::try_from(LADDER.len()).unwrap_or(i32::MAX)
}

/// Makes the schema where there is none, brings an older one up to date, and returns the ledger's id: `fresh_id` where it was made.
/// Two that do it at once do it one after the other.
///
/// # Errors
/// Every variant of [`OpenError`]; the database is as it was then.
pub(super) async fn upgrade(connection: &mut Connection, place: &str, fresh_id: &str) -> Result<String, OpenError> {
    let engine = |error: tokio_postgres::Error| failed(place, &error);
    let transaction = connection.client_mut().transaction().await.map_err(engine)?;
    let not_a_ledger = |reason: String| OpenError::NotALedger { path: place.to_owned(), reason };

    let found = transaction.query_typed_one("SELECT current_setting('server_version_num')::integer", &[]).await.map_err(engine)?;
    let server: i32 = found.try_get(0).map_err(engine)?;
    if server < OLDEST_SERVER {
        return Err(not_a_ledger(format!("the server is too old ({server}): meshmint needs PostgreSQL {}", OLDEST_SERVER / 10_000)));
    }
    // Whoever comes second finds what the first one has made: each statement sees what was committed before it.
    transaction.batch_execute("SET LOCAL lock_timeout = '30s'; SELECT pg_advisory_xact_lock(1297307726, 2)").await.map_err(engine)?;

    let sql = "SELECT to_regclass('meshmint.meta') IS NOT NULL, EXISTS (SELECT 1 FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace \
               WHERE n.nspname = 'meshmint'), to_regnamespace('meshmint') IS NOT NULL";
    let found = transaction.query_typed_one(sql, &[]).await.map_err(engine)?;
    let (is_ledger, has_tables, has_schema): (bool, bool, bool) =
        (found.try_get(0).map_err(engine)?, found.try_get(1).map_err(engine)?, found.try_get(2).map_err(engine)?);
    if !is_ledger {
        if has_tables {
            return Err(not_a_ledger("its schema \"meshmint\" holds tables of somebody else".to_owned()));
        }
        if !has_schema {
            transaction.batch_execute("CREATE SCHEMA meshmint").await.map_err(engine)?;
        }
        transaction.batch_execute(META).await.map_err(engine)?;
        let sql = "INSERT INTO meshmint.meta (ledger_id, version, oldest) VALUES ($1, 0, 0) RETURNING 1";
        transaction.query_typed_one(sql, &[(&fresh_id, Type::TEXT)]).await.map_err(engine)?;
    }

    let found = transaction.query_typed_one("SELECT version, oldest, ledger_id FROM meshmint.meta", &[]).await.map_err(engine)?;
    let (version, oldest, id): (i32, i32, String) =
        (found.try_get(0).map_err(engine)?, found.try_get(1).map_err(engine)?, found.try_get(2).map_err(engine)?);
    if oldest > known() {
        let (found, known) = (oldest.unsigned_abs(), known().unsigned_abs());
        return Err(OpenError::TooNew { path: place.to_owned(), found, known });
    }
    for (step, target) in LADDER.iter().zip(1_i32..).skip(usize::try_from(version).unwrap_or(0)) {
        transaction.batch_execute(step.sql).await.map_err(engine)?;
        let sql = "UPDATE meshmint.meta SET version = $1, oldest = $2 RETURNING 1";
        transaction.query_typed_one(sql, &[(&target, Type::INT4), (&step.oldest, Type::INT4)]).await.map_err(engine)?;
    }
    transaction.commit().await.map_err(engine)?;
    Ok(id)
}

/// The server's refusal in our words.
pub(super) fn failed(place: &str, error: &tokio_postgres::Error) -> OpenError {
    let hint = match error.code() {
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => " (the role must own the schema \"meshmint\", or may create it)",
        _ => "",
    };
    OpenError::Engine { path: place.to_owned(), reason: chain_of(error) + hint }
}
