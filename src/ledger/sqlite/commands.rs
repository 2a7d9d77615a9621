//! What the writer does inside one transaction: each command of the ledger as SQL.
//!
//! A command is refused alone ([`Refused::Alone`]) before it has changed anything, so the other commands of its transaction go on;
//! a failure of the engine ([`Refused::All`]) is the end of the whole transaction.

use std::collections::HashMap;

use rusqlite::ffi::{SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_UNIQUE};
use rusqlite::{Connection, OptionalExtension, params};
use time::OffsetDateTime;

use super::rows::{integer, micros, number};
use crate::authority::{AuthorityId, GenerationNumber};
use crate::ledger::{AuditEntry, CertificateRecord, LedgerError};

/// One thing to write.
#[derive(Debug)]
pub(super) enum Command {
    Record(Box<CertificateRecord>),
    OpenGeneration {
        generation: GenerationNumber,
        authority: AuthorityId,
        now: OffsetDateTime,
    },
    CloseGeneration {
        generation: GenerationNumber,
        now: OffsetDateTime,
    },
    RecordBundle {
        number: u64,
        pem: String,
        now: OffsetDateTime,
    },
    Audit(AuditEntry),
    ReplicaServes {
        replica: String,
        generation: GenerationNumber,
        bundle_number: u64,
        now: OffsetDateTime,
    },
    Prune {
        before: OffsetDateTime,
        limit: u32,
    },
    /// Nothing: every transaction writes a row of its own.
    CheckWritable,
    /// Ends the writer's transaction in a panic, once the commands before it are done.
    #[cfg(test)]
    Panic,
}

/// Why a command was not done.
#[derive(Debug)]
pub(super) enum Refused {
    /// This command, by the ledger's rules.
    Alone(LedgerError),
    /// The engine failed: the transaction can't be committed.
    All(rusqlite::Error),
}

impl From<LedgerError> for Refused {
    fn from(error: LedgerError) -> Self {
        Self::Alone(error)
    }
}

impl From<rusqlite::Error> for Refused {
    fn from(error: rusqlite::Error) -> Self {
        Self::All(error)
    }
}

/// The highest sequence number of each replica in one transaction, and when: written once, not once for each record.
pub(super) type Sequences<'a> = HashMap<&'a str, (i64, i64)>;

/// Does one command; returns how many certificates it took away.
///
/// # Errors
/// [`Refused`].
pub(super) fn perform<'a>(connection: &Connection, command: &'a Command, sequences: &mut Sequences<'a>) -> Result<u32, Refused> {
    match command {
        Command::Record(record) => record_certificate(connection, record, sequences).map(|()| 0),
        Command::OpenGeneration { generation, authority, now } => open_generation(connection, *generation, authority, *now).map(|()| 0),
        Command::CloseGeneration { generation, now } => close_generation(connection, *generation, *now).map(|()| 0),
        Command::RecordBundle { number, pem, now } => record_bundle(connection, *number, pem, *now).map(|()| 0),
        Command::Audit(entry) => audit(connection, entry).map(|()| 0),
        Command::ReplicaServes { replica, generation, bundle_number, now } => {
            replica_serves(connection, replica, *generation, *bundle_number, *now).map(|()| 0)
        }
        Command::Prune { before, limit } => prune(connection, *before, *limit),
        Command::CheckWritable => Ok(0),
        #[cfg(test)]
        Command::Panic => panic!("a test asked for it"),
    }
}

/// Ends a transaction's work: the replicas' sequences, and the count of commits, which is returned.
///
/// # Errors
/// The engine's.
pub(super) fn conclude(connection: &Connection, sequences: &Sequences<'_>) -> rusqlite::Result<i64> {
    for (replica, (sequence, seen_at)) in sequences {
        connection
            .prepare_cached(
                "INSERT INTO replicas (id, last_sequence, seen_at) VALUES (?1, ?2, ?3) ON CONFLICT (id) DO UPDATE SET \
                 last_sequence = max(coalesce(last_sequence, 0), excluded.last_sequence), seen_at = max(seen_at, excluded.seen_at)",
            )?
            .execute(params![replica, sequence, seen_at])?;
    }
    connection.prepare_cached("UPDATE meta SET commits = commits + 1 RETURNING commits")?.query_row([], |row| row.get(0))
}

fn record_certificate<'a>(connection: &Connection, record: &'a CertificateRecord, sequences: &mut Sequences<'a>) -> Result<(), Refused> {
    // Everything that can be wrong with the values is found before the first row is written.
    let (generation, bundle_number) = (integer(record.generation.0)?, integer(record.bundle_number)?);
    let sequence = integer(record.replica_sequence)?;
    let serial = number(&record.serial);
    let spiffe_id = record.spiffe_id.as_ref().map(ToString::to_string);
    let holder = record.holder.as_ref().map(|holder| holder.as_str());
    let (issued_at, not_after) = (micros(record.issued_at), micros(record.not_after));

    // The fence and the insert are one statement.
    let inserted = connection
        .prepare_cached(
            "INSERT INTO certificates (issuer, serial, sha256, der, kind, spiffe_id, cluster, namespace, service_account, pod_name, pod_uid, \
             node_name, node_uid, holder, generation, bundle_number, profile_digest, credential, issued_at, not_before, not_after, replica, \
             replica_sequence, key_algorithm) \
             SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24 \
             WHERE EXISTS (SELECT 1 FROM generations WHERE generation = ?15 AND closed_at IS NULL)",
        )?
        .execute(params![
            record.issuer.as_str(),
            serial,
            record.sha256.as_slice(),
            record.der,
            record.kind.to_string(),
            spiffe_id,
            record.cluster,
            record.namespace,
            record.service_account,
            record.pod.as_ref().map(|pod| &pod.name),
            record.pod.as_ref().map(|pod| &pod.uid),
            record.node.as_ref().map(|node| &node.name),
            record.node.as_ref().map(|node| &node.uid),
            holder,
            generation,
            bundle_number,
            record.profile_digest,
            record.credential.to_string(),
            issued_at,
            micros(record.not_before),
            not_after,
            record.replica,
            sequence,
            record.key_algorithm.map(|algorithm| algorithm.to_string()),
        ])
        .map_err(|error| taken_or_failed(error, "this serial number of this issuer"))?;
    if inserted == 0 {
        return Err(LedgerError::Fenced(record.generation).into());
    }

    if let Some(holder) = holder {
        connection
            .prepare_cached(
                "INSERT INTO holders (holder, spiffe_id, issuer, serial, generation, bundle_number, issued_at, not_after) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (holder) DO UPDATE SET \
                 spiffe_id = excluded.spiffe_id, issuer = excluded.issuer, serial = excluded.serial, generation = excluded.generation, \
                 bundle_number = excluded.bundle_number, issued_at = excluded.issued_at, not_after = excluded.not_after \
                 WHERE excluded.issued_at >= holders.issued_at",
            )?
            .execute(params![holder, spiffe_id, record.issuer.as_str(), serial, generation, bundle_number, issued_at, not_after])?;
    }
    let latest = sequences.entry(&record.replica).or_insert((sequence, issued_at));
    *latest = (latest.0.max(sequence), latest.1.max(issued_at));
    Ok(())
}

fn open_generation(connection: &Connection, generation: GenerationNumber, authority: &AuthorityId, now: OffsetDateTime) -> Result<(), Refused> {
    let key = integer(generation.0)?;
    let known: Option<(bool, Option<String>)> = connection
        .prepare_cached("SELECT closed_at IS NOT NULL, authority FROM generations WHERE generation = ?1")?
        .query_row([key], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match known {
        Some((true, _)) => Err(LedgerError::Fenced(generation).into()),
        Some((false, opener)) if opener.as_deref() == Some(authority.as_str()) => Ok(()),
        Some((false, _)) => Err(LedgerError::Duplicate("this generation of another authority").into()),
        None => {
            connection.prepare_cached("INSERT INTO generations (generation, authority, opened_at) VALUES (?1, ?2, ?3)")?.execute(params![
                key,
                authority.as_str(),
                micros(now)
            ])?;
            Ok(())
        }
    }
}

fn close_generation(connection: &Connection, generation: GenerationNumber, now: OffsetDateTime) -> Result<(), Refused> {
    // One that was never opened gets a row, so that it never will be. The first closing time stays.
    connection
        .prepare_cached(
            "INSERT INTO generations (generation, closed_at) VALUES (?1, ?2) ON CONFLICT (generation) DO UPDATE SET \
             closed_at = coalesce(closed_at, excluded.closed_at)",
        )?
        .execute(params![integer(generation.0)?, micros(now)])?;
    Ok(())
}

fn record_bundle(connection: &Connection, number: u64, pem: &str, now: OffsetDateTime) -> Result<(), Refused> {
    let key = integer(number)?;
    let same: Option<bool> =
        connection.prepare_cached("SELECT pem = ?2 FROM bundles WHERE number = ?1")?.query_row(params![key, pem], |row| row.get(0)).optional()?;
    match same {
        Some(true) => Ok(()),
        Some(false) => Err(LedgerError::Duplicate("another bundle of this number").into()),
        None => {
            connection.prepare_cached("INSERT INTO bundles (number, pem, at) VALUES (?1, ?2, ?3)")?.execute(params![key, pem, micros(now)])?;
            Ok(())
        }
    }
}

fn audit(connection: &Connection, entry: &AuditEntry) -> Result<(), Refused> {
    connection.prepare_cached("INSERT INTO audit (at, actor, action, detail, reason) VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
        micros(entry.at),
        entry.actor,
        entry.action,
        entry.detail,
        entry.reason
    ])?;
    Ok(())
}

fn replica_serves(
    connection: &Connection,
    replica: &str,
    generation: GenerationNumber,
    bundle_number: u64,
    now: OffsetDateTime,
) -> Result<(), Refused> {
    connection
        .prepare_cached(
            "INSERT INTO replicas (id, generation, bundle_number, seen_at) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (id) DO UPDATE SET \
             generation = excluded.generation, bundle_number = excluded.bundle_number, seen_at = max(seen_at, excluded.seen_at)",
        )?
        .execute(params![replica, integer(generation.0)?, integer(bundle_number)?, micros(now)])?;
    Ok(())
}

fn prune(connection: &Connection, before: OffsetDateTime, limit: u32) -> Result<u32, Refused> {
    let mut delete = connection.prepare_cached(
        "DELETE FROM certificates WHERE id IN (SELECT id FROM certificates WHERE not_after < ?1 ORDER BY not_after LIMIT ?2) \
         RETURNING holder, issuer, serial",
    )?;
    let gone = delete
        .query_map(params![micros(before), limit], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<Vec<(Option<String>, String, Vec<u8>)>>>()?;
    // A holder goes with its latest certificate; where a newer one is on record, the row names that one and stays.
    let mut forget = connection.prepare_cached("DELETE FROM holders WHERE holder = ?1 AND issuer = ?2 AND serial = ?3")?;
    for (holder, issuer, serial) in &gone {
        if let Some(holder) = holder {
            forget.execute(params![holder, issuer, serial])?;
        }
    }
    Ok(u32::try_from(gone.len()).unwrap_or(limit))
}

fn taken_or_failed(error: rusqlite::Error, key: &'static str) -> Refused {
    match error.sqlite_extended_error_code() {
        Some(SQLITE_CONSTRAINT_UNIQUE | SQLITE_CONSTRAINT_PRIMARYKEY) => Refused::Alone(LedgerError::Duplicate(key)),
        _ => Refused::All(error),
    }
}
