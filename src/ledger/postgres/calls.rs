//! What the writer says to the database: each thing to write is one call of one function of the schema.

use time::OffsetDateTime;
use tokio::sync::oneshot;
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::types::Type;

use super::accounts::Accounts;
use super::batch::Batch;
use super::connection::Connection;
use super::pool::Parameter;
use super::rows::{at, integer, micros};
use super::schema;
use super::settings::chain_of;
use super::writer::Identity;
use crate::authority::{AuthorityId, GenerationNumber};
use crate::ledger::{AuditEntry, CertificateRecord, LedgerError, Standby};

/// What a caller hears.
pub(super) type Answer = Result<(), LedgerError>;

/// One thing to write, and who waits for it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) work: Work,
    pub(super) reply: oneshot::Sender<Answer>,
    /// It was sent before, and nobody knows what became of it.
    pub(super) tried: bool,
}

/// What is to be written.
#[derive(Debug)]
pub(super) enum Work {
    /// A certificate; `late`: it left while the database was away, so no fence stops it, and it may be on record.
    Record {
        record: Box<CertificateRecord>,
        late: bool,
    },
    OpenGeneration(GenerationNumber, AuthorityId, OffsetDateTime),
    CloseGeneration(GenerationNumber, OffsetDateTime),
    RecordBundle(u64, String, OffsetDateTime),
    Audit(AuditEntry),
    ReplicaServes(String, GenerationNumber, u64, OffsetDateTime),
    /// The spools of these replicas are empty.
    Drained(Vec<String>),
    CheckWritable,
}

/// What became of a call.
pub(super) enum Sent {
    /// Committed: an answer for each job.
    Done(Vec<Answer>),
    /// Surely not committed.
    Refused(String),
    /// Surely not committed, because somebody was in the way; another try may go well.
    InTheWay(String),
    /// Nobody knows.
    Lost(String),
}

/// What a database says of itself when it is asked whether it can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Greeting {
    /// How many certificates this replica has written.
    pub(super) written: i64,
    pub(super) certificates: u64,
    pub(super) standby: Standby,
    /// When another replica last found that records were lost.
    pub(super) lost_at: Option<OffsetDateTime>,
}

/// Compares what the database says this replica has written with what it has acknowledged, `added` just now included. Less means that a
/// standby took over which didn't have it all, or an older copy.
pub(super) fn notice_loss(acknowledged: &mut i64, written: i64, added: i64, accounts: &Accounts) {
    let lost = acknowledged.saturating_add(added).saturating_sub(written);
    if lost > 0 {
        tracing::error!(lost, "certificates that were on record are no longer: the database was replaced by one that lacks its latest records");
        accounts.lost(lost.unsigned_abs());
    }
    *acknowledged = written;
}

/// Checks that the database still holds this ledger, and writes a little.
///
/// # Errors
/// Why it can't be used.
pub(super) async fn greet(connection: &Connection, identity: &Identity, accounts: &Accounts) -> Result<Greeting, String> {
    let said = |error: tokio_postgres::Error| chain_of(&error);
    let rows = connection.client().query_typed("SELECT ledger_id, oldest FROM meshmint.meta", &[]).await.map_err(said)?;
    let row = rows.first().ok_or("the ledger's schema is empty")?;
    let (found, oldest): (String, i32) = (row.try_get(0).map_err(said)?, row.try_get(1).map_err(said)?);
    if found != identity.ledger_id {
        return Err(format!("it is another ledger: its id is {found}, not {}", identity.ledger_id));
    }
    if oldest > schema::known() {
        return Err(format!("its schema needs a meshmint that knows version {oldest}, this one knows up to {}", schema::known()));
    }
    alive(connection, &identity.replica, accounts).await.map_err(said)
}

async fn alive(connection: &Connection, replica: &str, accounts: &Accounts) -> Result<Greeting, tokio_postgres::Error> {
    let sql = "SELECT r_written, r_certificates, r_waited_for, r_standbys, r_lost_at FROM meshmint.alive_1($1, $2, $3)";
    let parameters: [Parameter<'_>; 3] = [(&replica, Type::TEXT), (&accounts.undrained(), Type::INT8), (&accounts.known_lost(), Type::INT8)];
    let row = connection.client().query_typed_one(sql, &parameters).await?;
    let lost_at = row.try_get::<_, Option<i64>>(4)?.and_then(|micros| at(micros).ok());
    let (waited_for, standbys): (String, i64) = (row.try_get(2)?, row.try_get(3)?);
    let standby = match (waited_for.trim().is_empty(), standbys) {
        (false, _) => Standby::Synchronous,
        (true, 0) => Standby::Absent,
        (true, _) => Standby::Asynchronous,
    };
    Ok(Greeting { written: row.try_get(0)?, certificates: u64::try_from(row.try_get::<_, i64>(1)?).unwrap_or(0), standby, lost_at })
}

pub(super) async fn send(connection: &Connection, replica: &str, jobs: &[Job], acknowledged: &mut i64, accounts: &Accounts) -> Sent {
    let sent = match jobs.first().map(|job| &job.work) {
        None => Ok(Vec::new()),
        Some(Work::Record { late, .. }) => record(connection, replica, jobs, *late, acknowledged, accounts).await,
        Some(Work::CheckWritable) => alive(connection, replica, accounts).await.map(|greeting| {
            notice_loss(acknowledged, greeting.written, 0, accounts);
            accounts.seen(&greeting);
            vec![Ok(())]
        }),
        Some(other) => command(connection, other).await.map(|answer| vec![answer]),
    };
    match sent {
        Ok(answers) => Sent::Done(answers),
        Err(error) if error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED) => Sent::InTheWay(chain_of(&error)),
        Err(error) if goes_on(&error) && !connection.is_closed() => Sent::Refused(chain_of(&error)),
        Err(error) => Sent::Lost(chain_of(&error)),
    }
}

/// Whether a connection is of use after this error: the server refused one statement, not all of us.
fn goes_on(error: &tokio_postgres::Error) -> bool {
    let Some(refused) = error.as_db_error() else { return false };
    let ends = matches!(refused.parsed_severity(), Some(Severity::Fatal | Severity::Panic));
    // Read-only: it is a standby now, and another one is the primary.
    !ends && refused.code() != &SqlState::READ_ONLY_SQL_TRANSACTION
}

async fn record(
    connection: &Connection,
    replica: &str,
    jobs: &[Job],
    late: bool,
    acknowledged: &mut i64,
    accounts: &Accounts,
) -> Result<Vec<Answer>, tokio_postgres::Error> {
    let records: Vec<&CertificateRecord> = jobs
        .iter()
        .filter_map(|job| match &job.work {
            Work::Record { record, .. } => Some(record.as_ref()),
            _ => None,
        })
        .collect();
    let batch = Batch::of(records.iter().copied());
    let (again, fenced) = (late || jobs.iter().any(|job| job.tried), !late);
    let (sql, parameters) = batch.call(&replica, &again, &fenced);
    let row = connection.client().query_typed_one(sql, &parameters).await?;
    let (written, outcomes): (i64, Option<Vec<i16>>) = (row.try_get(0)?, row.try_get(1)?);
    let answers: Vec<Answer> = match outcomes {
        None => records.iter().map(|_| Ok(())).collect(),
        Some(outcomes) => records
            .iter()
            .zip(outcomes)
            .map(|(record, outcome)| match outcome {
                0 => Ok(()),
                1 => Err(LedgerError::Duplicate("this serial number of this issuer")),
                _ => Err(LedgerError::Fenced(record.generation)),
            })
            .collect(),
    };
    // What was tried before may have been written then.
    let added = if again { 0 } else { i64::try_from(answers.iter().filter(|answer| answer.is_ok()).count()).unwrap_or(0) };
    notice_loss(acknowledged, written, added, accounts);
    Ok(answers)
}

async fn command(connection: &Connection, work: &Work) -> Result<Answer, tokio_postgres::Error> {
    // Found to fit before it was queued.
    let kept = |number: u64| integer(number).unwrap_or(i64::MAX);
    let call = async |sql: &str, parameters: &[Parameter<'_>]| -> Result<i32, tokio_postgres::Error> {
        connection.client().query_typed_one(sql, parameters).await?.try_get(0)
    };
    let text = Type::TEXT;
    Ok(match work {
        Work::OpenGeneration(generation, authority, now) => {
            let (number, at, authority) = (kept(generation.0), micros(*now), authority.as_str());
            let parameters: [Parameter<'_>; 3] = [(&number, Type::INT8), (&authority, text), (&at, Type::INT8)];
            match call("SELECT meshmint.open_generation_1($1, $2, $3)", &parameters).await? {
                0 => Ok(()),
                1 => Err(LedgerError::Duplicate("this generation of another authority")),
                _ => Err(LedgerError::Fenced(*generation)),
            }
        }
        Work::CloseGeneration(generation, now) => {
            let parameters: [Parameter<'_>; 2] = [(&kept(generation.0), Type::INT8), (&micros(*now), Type::INT8)];
            call("SELECT meshmint.close_generation_1($1, $2)", &parameters).await?;
            Ok(())
        }
        Work::RecordBundle(number, pem, now) => {
            let parameters: [Parameter<'_>; 3] = [(&kept(*number), Type::INT8), (pem, text), (&micros(*now), Type::INT8)];
            match call("SELECT meshmint.record_bundle_1($1, $2, $3)", &parameters).await? {
                0 => Ok(()),
                _ => Err(LedgerError::Duplicate("another bundle of this number")),
            }
        }
        Work::Audit(AuditEntry { at, actor, action, detail, reason }) => {
            let parameters: [Parameter<'_>; 5] =
                [(&micros(*at), Type::INT8), (actor, text.clone()), (action, text.clone()), (detail, text.clone()), (reason, text)];
            call("SELECT meshmint.audit_1($1, $2, $3, $4, $5)", &parameters).await?;
            Ok(())
        }
        Work::ReplicaServes(replica, generation, bundle_number, now) => {
            let parameters: [Parameter<'_>; 4] =
                [(replica, text), (&kept(generation.0), Type::INT8), (&kept(*bundle_number), Type::INT8), (&micros(*now), Type::INT8)];
            call("SELECT meshmint.replica_serves_1($1, $2, $3, $4)", &parameters).await?;
            Ok(())
        }
        Work::Drained(replicas) => {
            call("SELECT meshmint.drained_1($1)", &[(replicas, Type::TEXT_ARRAY)]).await?;
            Ok(())
        }
        Work::Record { .. } | Work::CheckWritable => Ok(()),
    })
}
