//! What the writer does inside one transaction: each command of the ledger as SQL.
//!
//! A command is refused alone ([`Refused::Alone`]) before it has changed anything, so the other commands of its transaction go on;
//! a failure of the engine ([`Refused::All`]) is the end of the whole transaction.

use rusqlite::{Connection, OptionalExtension, params};
use time::OffsetDateTime;

use super::entry::Entry;
use super::indexing::Index;
use super::rows::{integer, micros, number};
use crate::authority::{AuthorityId, GenerationNumber};
use crate::ledger::{AuditEntry, CertificateRecord, HolderId, LedgerError};

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
    /// Not part of a transaction with others: the writer takes it when nothing else waits.
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

/// What one transaction has done so far that must be known when it is committed.
#[derive(Debug)]
pub(super) struct Work<'i, 'r> {
    index: &'i mut Index,
    /// The rows that were appended, in the order of their ids.
    appended: Vec<(Entry, &'r CertificateRecord)>,
    /// Whether anything else was written: only that is counted in `meta.commits`, rows are counted by their ids.
    counts: bool,
}

impl<'i, 'r> Work<'i, 'r> {
    pub(super) fn new(index: &'i mut Index) -> Self {
        Self { index, appended: Vec::new(), counts: false }
    }

    /// Does one command.
    ///
    /// # Errors
    /// [`Refused`].
    pub(super) fn perform(&mut self, connection: &Connection, command: &'r Command) -> Result<(), Refused> {
        if let Command::Record(record) = command {
            return self.append(connection, record);
        }
        self.counts = true;
        match command {
            Command::Record(_) | Command::Prune { .. } | Command::CheckWritable => Ok(()),
            Command::OpenGeneration { generation, authority, now } => open_generation(connection, *generation, authority, *now),
            Command::CloseGeneration { generation, now } => close_generation(connection, *generation, *now),
            Command::RecordBundle { number, pem, now } => record_bundle(connection, *number, pem, *now),
            Command::Audit(entry) => audit(connection, entry),
            Command::ReplicaServes { replica, generation, bundle_number, now } => {
                replica_serves(connection, replica, *generation, *bundle_number, *now)
            }
            #[cfg(test)]
            Command::Panic => panic!("a test asked for it"),
        }
    }

    /// Ends the work before COMMIT; returns the new count of commits, if it changed.
    ///
    /// # Errors
    /// The engine's.
    pub(super) fn conclude(&self, connection: &Connection) -> rusqlite::Result<Option<i64>> {
        if !self.counts {
            return Ok(None);
        }
        let sql = "UPDATE meta SET commits = commits + 1 RETURNING commits";
        connection.prepare_cached(sql)?.query_row([], |row| row.get(0)).map(Some)
    }

    /// The rows that were appended, for the index once they are committed.
    pub(super) fn into_appended(self) -> Vec<(Entry, &'r CertificateRecord)> {
        self.appended
    }

    fn append(&mut self, connection: &Connection, record: &'r CertificateRecord) -> Result<(), Refused> {
        // Everything that can be wrong with the values is found before the first row is written.
        let (generation, bundle_number) = (integer(record.generation.0)?, integer(record.bundle_number)?);
        let sequence = integer(record.replica_sequence)?;
        let serial = number(&record.serial);
        if self.is_taken(connection, serial, &record.issuer)? {
            // A stale process learns first that it is stale.
            return Err(if is_open(connection, generation)? {
                LedgerError::Duplicate("this serial number of this issuer").into()
            } else {
                LedgerError::Fenced(record.generation).into()
            });
        }

        let id = self.appended.last().map_or(self.index.last_id, |(entry, _)| entry.id) + 1;
        // The fence and the insert are one statement.
        let inserted = connection
            .prepare_cached(
                "INSERT INTO certificates (id, issuer, serial, sha256, der, kind, spiffe_id, cluster, namespace, service_account, pod_name, \
                 pod_uid, node_name, node_uid, holder, generation, bundle_number, profile_digest, credential, issued_at, not_before, not_after, \
                 replica, replica_sequence, key_algorithm) \
                 SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25 \
                 WHERE EXISTS (SELECT 1 FROM generations WHERE generation = ?16 AND closed_at IS NULL)",
            )?
            .execute(params![
                id,
                record.issuer.as_str(),
                serial,
                record.sha256.as_slice(),
                record.der,
                record.kind.to_string(),
                record.spiffe_id.as_ref().map(ToString::to_string),
                record.cluster,
                record.namespace,
                record.service_account,
                record.pod.as_ref().map(|pod| &pod.name),
                record.pod.as_ref().map(|pod| &pod.uid),
                record.node.as_ref().map(|node| &node.name),
                record.node.as_ref().map(|node| &node.uid),
                record.holder.as_ref().map(HolderId::as_str),
                generation,
                bundle_number,
                record.profile_digest,
                record.credential.to_string(),
                micros(record.issued_at),
                micros(record.not_before),
                micros(record.not_after),
                record.replica,
                sequence,
                record.key_algorithm.map(|algorithm| algorithm.to_string()),
            ])?;
        if inserted == 0 {
            return Err(LedgerError::Fenced(record.generation).into());
        }
        let entry = self.index.numbers.entry(connection, id, record)?;
        self.index.recent.insert(serial, id);
        self.appended.push((entry, record));
        Ok(())
    }

    /// Whether this serial of this issuer is on record, indexed or not.
    fn is_taken(&self, connection: &Connection, serial: &[u8], issuer: &AuthorityId) -> rusqlite::Result<bool> {
        let mut rows = self.index.recent.rows(serial);
        let mut indexed = connection.prepare_cached("SELECT id FROM serials WHERE serial = ?1")?;
        let mut found = indexed.query([serial])?;
        while let Some(row) = found.next()? {
            rows.push(row.get(0)?);
        }
        for row in rows {
            let sql = "SELECT 1 FROM certificates WHERE id = ?1 AND serial = ?2 AND issuer = ?3";
            if connection.prepare_cached(sql)?.exists(params![row, serial, issuer.as_str()])? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn is_open(connection: &Connection, generation: i64) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM generations WHERE generation = ?1 AND closed_at IS NULL")?.exists([generation])
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
