//! The one thread that writes.
//!
//! It takes everything that waits into one transaction and answers each caller after COMMIT has returned and the files are still
//! where they were. Whatever goes wrong in between, a panic too, the callers hear [`LedgerError::Unavailable`], the transaction
//! is rolled back, and the next one finds (or makes) a sound connection: nobody has to restart anything.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::accounts::Accounts;
use super::commands::{Command, Refused, Sequences, conclude, perform};
use super::place::{FileId, Identity, Place, Standing};
use super::readers::Readers;
use super::schema;
use crate::ledger::LedgerError;

/// The most commands in one transaction: enough that a flush costs each little, few enough that it ends soon.
const TOGETHER: usize = 2_000;

/// What a caller hears: how many certificates its command took away.
pub(super) type Answer = Result<u32, LedgerError>;

/// A command, and who waits for it. A caller that no longer waits has its command done all the same.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) command: Command,
    pub(super) reply: oneshot::Sender<Answer>,
}

/// A writing connection and the files that it has open.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) identity: Identity,
}

/// The state of the thread.
#[derive(Debug)]
pub(super) struct Writer {
    place: Place,
    ledger_id: String,
    /// The file that this process opened first: no other is ever written.
    main: FileId,
    opened: Option<Opened>,
    /// The count of commits in the last acknowledged one.
    commits: i64,
    readers: Arc<Readers>,
    accounts: Arc<Accounts>,
    /// Whether the last transaction failed, so that the log tells the change and not every failure.
    failing: bool,
}

impl Writer {
    /// Takes over a connection that was just opened.
    pub(super) fn new(place: Place, ledger_id: String, opened: Opened, readers: Arc<Readers>, accounts: Arc<Accounts>) -> Self {
        readers.reopen(opened.identity);
        let main = opened.identity.main;
        Self { place, ledger_id, main, opened: Some(opened), commits: 0, readers, accounts, failing: false }
    }

    /// Works until every sender is gone and the queue is empty, then closes the ledger.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut jobs = Vec::new();
        while queue.blocking_recv_many(&mut jobs, TOGETHER) > 0 {
            let began = self.accounts.begin();
            let outcome = catch_unwind(AssertUnwindSafe(|| self.commit(&jobs))).unwrap_or_else(|_| {
                self.close();
                Err("its writer panicked: this is a bug in meshmint".to_owned())
            });
            self.report(outcome.as_ref().err());
            self.accounts.commit(&jobs, began, &outcome);
            match outcome {
                Ok(answers) => jobs.drain(..).zip(answers).for_each(|(job, answer)| drop(job.reply.send(answer))),
                Err(reason) => jobs.drain(..).for_each(|job| drop(job.reply.send(Err(LedgerError::Unavailable(reason.clone()))))),
            }
        }
        self.close();
    }

    fn commit(&mut self, jobs: &[Job]) -> Result<Vec<Answer>, String> {
        let opened = self.make_ready()?;
        match transact(&mut opened.connection, jobs) {
            Ok((answers, commits)) => {
                let identity = opened.identity;
                // A file that went away before this moment took the records with it.
                match self.place.standing(&identity) {
                    Standing::Intact => {}
                    Standing::Lost(reason) => return Err(reason),
                    Standing::Detached(reason) => {
                        // What earlier callers were promised is in the lost log: carry it over now, not at the next command.
                        return Err(self.make_ready().err().unwrap_or(reason));
                    }
                }
                self.commits = commits;
                Ok(answers)
            }
            Err(error) => {
                let sound = matches!(error.sqlite_error_code(), Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy));
                // After a refusal for want of space or time a rolled-back connection is as good as new; after anything else
                // (a flush that failed, a page that makes no sense) what it believes about the files can't be trusted.
                if !sound || !opened.connection.is_autocommit() {
                    self.close();
                }
                Err(error.to_string())
            }
        }
    }

    /// A connection whose files are in place.
    fn make_ready(&mut self) -> Result<&mut Opened, String> {
        let standing = self.opened.as_ref().map(|opened| self.place.standing(&opened.identity));
        match standing {
            Some(Standing::Intact) => {}
            // The connection stays: the file may come back.
            Some(Standing::Lost(reason)) => return Err(self.describe_loss(reason)),
            Some(Standing::Detached(_)) => {
                self.rescue()?;
                self.open_again()?;
            }
            None => self.open_again()?,
        }
        self.opened.as_mut().ok_or_else(|| "it is not open".to_owned())
    }

    /// Moves what only a deleted log still has into the ledger, as long as this process holds that log open.
    fn rescue(&mut self) -> Result<(), String> {
        let Some(opened) = &self.opened else { return Ok(()) };
        // The log can only be emptied while nobody reads from it. Questions were refused already.
        self.readers.close();
        let busy: bool = opened
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
            .map_err(|error| format!("its log was deleted, and saving it failed: {error}"))?;
        if busy {
            return Err("its log was deleted, and saving it waits for another process that reads".to_owned());
        }
        tracing::warn!(ledger = %self.place.main().display(), "the ledger's log was deleted or replaced; nothing was lost, it was saved into the ledger");
        self.close();
        Ok(())
    }

    /// Opens the file that this process has always written, if it is there and has all that was acknowledged.
    fn open_again(&mut self) -> Result<(), String> {
        self.close();
        let found = self.place.main_id()?;
        if found != self.main {
            return Err(self.describe_loss(format!("{} was replaced by another file", self.place.main().display())));
        }
        let connection = open_connection(&self.place).map_err(|error| error.to_string())?;
        schema::configure_writer(&connection)?;
        let (id, commits): (String, i64) = connection
            .query_row("SELECT ledger_id, commits FROM meta", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .map_err(|error| error.to_string())?;
        if id != self.ledger_id {
            return Err(format!("{} is another ledger: its id is {id}, not {}", self.place.main().display(), self.ledger_id));
        }
        if commits < self.commits {
            return Err(format!("{} lacks its newest records: it was rolled back to an older copy", self.place.main().display()));
        }
        let identity = self.place.identity()?;
        if identity.main != self.main {
            return Err(format!("{} was replaced while it was opened", self.place.main().display()));
        }
        self.readers.reopen(identity);
        self.opened = Some(Opened { connection, identity });
        Ok(())
    }

    /// Closes every connection. All of them, because those of one process share the log's index: an old one beside a new one would
    /// follow a log that is no more. SQLite then moves the log into the ledger, unless the ledger isn't in its place.
    fn close(&mut self) {
        self.readers.close();
        if let Some(opened) = self.opened.take()
            && let Err((_, error)) = opened.connection.close()
        {
            tracing::warn!(%error, "the ledger's connection did not close cleanly");
        }
    }

    fn describe_loss(&self, reason: String) -> String {
        match stranger_id(&self.place) {
            Some(id) if id != self.ledger_id => format!("{reason}: another ledger, with id {id} instead of {}", self.ledger_id),
            Some(_) => format!("{reason}: a copy of this ledger; put the original back, or restart meshmint to go on with the copy"),
            None => reason,
        }
    }

    fn report(&mut self, trouble: Option<&String>) {
        let failing = trouble.is_some();
        if failing != self.failing {
            match trouble {
                Some(reason) => tracing::error!(%reason, "the ledger is unavailable: no certificate can be issued"),
                None => tracing::info!("the ledger is available again"),
            }
        }
        self.failing = failing;
    }
}

/// A connection that may write to a file that exists.
///
/// # Errors
/// The engine's.
pub(super) fn open_connection(place: &Place) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(place.main(), OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    schema::configure(&connection)?;
    Ok(connection)
}

/// All jobs in one transaction: their answers, once COMMIT has returned, and the count of commits. On an error it was rolled back.
fn transact(connection: &mut Connection, jobs: &[Job]) -> rusqlite::Result<(Vec<Answer>, i64)> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut sequences = Sequences::new();
    let mut answers = Vec::with_capacity(jobs.len());
    for job in jobs {
        answers.push(match perform(&transaction, &job.command, &mut sequences) {
            Ok(count) => Ok(count),
            Err(Refused::Alone(error)) => Err(error),
            Err(Refused::All(error)) => return Err(error),
        });
    }
    let commits = conclude(&transaction, &sequences)?;
    transaction.commit()?;
    Ok((answers, commits))
}

/// The id of the ledger that took our ledger's place. `immutable` reads the bare file: the log beside it is not the stranger's, and
/// replaying that log into it would ruin it.
fn stranger_id(place: &Place) -> Option<String> {
    let path: String = place.main().to_str()?.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let stranger = Connection::open_with_flags(format!("file:{path}?immutable=1"), flags).ok()?;
    stranger.query_row("SELECT ledger_id FROM meta", [], |row| row.get(0)).ok()
}
