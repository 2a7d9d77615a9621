//! The one thread that writes.
//!
//! It takes everything that waits into one transaction and answers each caller after COMMIT has returned and the files are still
//! where they were. Whatever goes wrong in between, a panic too, the callers hear [`LedgerError::Unavailable`], the transaction
//! is rolled back, and the next one finds (or makes) a sound connection: nobody has to restart anything.
//!
//! Between commits it does its chores, two milliseconds or so of them at a time: it indexes what was appended (`indexing.rs`) and forgets
//! what is past its retention (`pruning.rs`). What is new always goes first: under load a step comes with every so many new rows, so that chores are
//! done in time and are spread evenly; in a pause they are all done.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use time::OffsetDateTime;
use tokio::sync::oneshot;

use super::accounts::Accounts;
use super::checkpoint::Checkpoints;
use super::commands::{Command, Refused, Work};
use super::indexing::Index;
use super::place::{FileId, Identity, Place, Standing};
use super::pruning;
use super::queries::HIGH_WATER;
use super::queue::{Receiver, Woken};
use super::readers::Readers;
use super::recent::Recent;
use super::rows::micros;
use super::schema;
use crate::ledger::LedgerError;

/// The most commands in one transaction: enough that a flush costs each little, few enough that it ends soon.
const TOGETHER: usize = 2_000;

/// Where the last commit carried this many commands, more are on their way.
const SEVERAL: usize = 3;

/// For how many commands a commit then waits, and how long: what a flush and a switch of threads cost is shared by all that it carries. Where it
/// shows at a first look that so many won't come in time, there is time for more commits, and nobody is kept waiting for them.
const GATHERED: usize = 16;
const GATHERING: Duration = Duration::from_millis(4);
const FIRST_LOOK: Duration = Duration::from_micros(1_500);
const BY_FIRST_LOOK: usize = 6;

/// After so long without a command, what was appended is indexed, however little it is.
const QUIET: Duration = Duration::from_millis(200);

/// After a chore that failed, so many turns pass before the next is tried, fewer where each brings many rows: a second at most under load.
const REST: usize = 256;

/// About how many pages of the log a commit takes whatever is in it, how many rows another one, and how many pages a chore.
const PAGES_OF_A_COMMIT: usize = 3;
const ROWS_OF_A_PAGE: usize = 3;
const PAGES_OF_A_CHORE: usize = 64;

/// New rows for each step of a chore. A batch of 4,096 rows takes about forty steps to index and a step forgets fifty, so this is enough for both,
/// turn by turn, where as much is forgotten as comes in.
const ROWS_FOR_A_STEP: usize = 24;

/// What a command did, where its caller wants to know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Done {
    /// How many certificates it took away.
    pub(super) pruned: u32,
    /// Whether there may be more of them.
    pub(super) more: bool,
}

/// What a caller hears.
pub(super) type Answer = Result<Done, LedgerError>;

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
    /// What is not indexed yet; `None` where it must be read anew.
    pub(super) index: Option<Index>,
}

/// The state of the thread.
#[derive(Debug)]
pub(super) struct Writer {
    place: Place,
    ledger_id: String,
    /// The file that this process opened first: no other is ever written.
    main: FileId,
    opened: Option<Opened>,
    /// The high-water mark of the last acknowledged commit, and the count of commits in it.
    high_water: i64,
    commits: i64,
    readers: Arc<Readers>,
    accounts: Arc<Accounts>,
    recent: Arc<Recent>,
    checkpoints: Checkpoints,
    /// Who waits for something to be pruned.
    prunes: VecDeque<Job>,
    /// How many commands the last commit carried.
    carried: usize,
    /// New rows since the last step of a chore that was due.
    since_step: usize,
    /// Whether that step pruned: the next one indexes, if it can.
    pruned: bool,
    /// After a chore that failed: turns until they are tried again, however much there is to commit.
    rest: usize,
    /// Whether the last transaction failed, so that the log tells the change and not every failure.
    failing: bool,
}

impl Writer {
    /// Takes over a connection that was just opened.
    ///
    /// # Errors
    /// The engine's.
    pub(super) fn new(
        place: Place,
        ledger_id: String,
        opened: Opened,
        readers: Arc<Readers>,
        recent: Arc<Recent>,
        accounts: Arc<Accounts>,
        checkpoints: Checkpoints,
    ) -> rusqlite::Result<Self> {
        let commits = opened.connection.query_row("SELECT commits FROM meta", [], |row| row.get(0))?;
        readers.reopen(opened.identity);
        let main = opened.identity.main;
        let opened = Some(opened);
        Ok(Self {
            place,
            ledger_id,
            main,
            opened,
            high_water: 0,
            commits,
            readers,
            accounts,
            recent,
            checkpoints,
            prunes: VecDeque::new(),
            carried: 0,
            since_step: 0,
            pruned: false,
            rest: 0,
            failing: false,
        })
    }

    /// Works until every sender is gone and the queue is empty, then closes the ledger.
    pub(super) fn run(mut self, queue: Receiver<Job>) {
        let mut jobs = Vec::new();
        while let Some(woken) = self.wait(&queue) {
            queue.take(&mut jobs, TOGETHER);
            self.carried = jobs.len();
            let rows = self.answer(&mut jobs);
            self.rest = self.rest.saturating_sub(1 + rows / ROWS_FOR_A_STEP);
            if woken == Woken::Quiet {
                self.since_step = 0;
                self.chores(usize::MAX, || queue.len() > 0);
            } else if self.is_due() {
                self.since_step += rows;
                // Where little comes in, or nothing is let in, there is time for a step each time.
                let steps = (self.since_step / ROWS_FOR_A_STEP).max(usize::from(self.carried < SEVERAL || rows == 0));
                self.since_step %= ROWS_FOR_A_STEP;
                self.chores(steps, || false);
            }
        }
        self.close();
    }

    /// Waits for something to do; `None` when nothing will come any more. A command that comes alone is not kept waiting.
    fn wait(&mut self, queue: &Receiver<Job>) -> Option<Woken> {
        if self.carried >= SEVERAL {
            let before = queue.len();
            queue.wait(GATHERED, Some(FIRST_LOOK));
            if queue.len().saturating_sub(before) >= BY_FIRST_LOOK {
                queue.wait(GATHERED, Some(GATHERING.saturating_sub(FIRST_LOOK)));
            }
        }
        let complete = self.opened.as_ref().and_then(|opened| opened.index.as_ref()).is_none_or(Index::is_complete);
        let patience = if self.is_due() { Some(GATHERING) } else { (!complete || !self.prunes.is_empty()).then_some(QUIET) };
        match queue.wait(1, patience) {
            Woken::Closed => None,
            woken => Some(woken),
        }
    }

    /// Whether there are chores that don't wait for a quiet moment.
    fn is_due(&self) -> bool {
        let index = self.opened.as_ref().and_then(|opened| opened.index.as_ref());
        self.rest == 0 && (!self.prunes.is_empty() || index.is_some_and(Index::is_due))
    }

    /// Commits what waits, and answers; returns how many rows were appended.
    fn answer(&mut self, jobs: &mut Vec<Job>) -> usize {
        self.prunes.extend(jobs.extract_if(.., |job| matches!(job.command, Command::Prune { .. })));
        if jobs.is_empty() {
            return 0;
        }
        let began = self.accounts.begin();
        let outcome = catch_unwind(AssertUnwindSafe(|| self.commit(jobs))).unwrap_or_else(|_| self.panicked());
        self.report(outcome.as_ref().err());
        self.accounts.commit(jobs.len(), began, outcome.as_ref().ok().map(|(_, rows)| *rows));
        match outcome {
            Ok((answers, rows)) => {
                self.checkpoints.appended(PAGES_OF_A_COMMIT + rows / ROWS_OF_A_PAGE);
                jobs.drain(..).zip(answers).for_each(|(job, answer)| drop(job.reply.send(answer)));
                rows
            }
            Err(reason) => {
                jobs.drain(..).for_each(|job| drop(job.reply.send(Err(LedgerError::Unavailable(reason.clone())))));
                0
            }
        }
    }

    fn panicked<T>(&mut self) -> Result<T, String> {
        self.close();
        Err("its writer panicked: this is a bug in meshmint".to_owned())
    }

    fn commit(&mut self, jobs: &[Job]) -> Result<(Vec<Answer>, usize), String> {
        let commits = self.commits;
        let opened = self.make_ready()?;
        let Some(index) = &mut opened.index else { return Err("it is not open".to_owned()) };
        if index.is_far_behind() {
            return Err("too many records wait to be indexed, which fails".to_owned());
        }
        match transact(&mut opened.connection, index, jobs) {
            Ok(Committed { answers, commits: counted, rows }) => {
                let commits = counted.unwrap_or(commits);
                let high_water = commits.saturating_add(index.last_id);
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
                (self.commits, self.high_water) = (commits, high_water);
                Ok((answers, rows))
            }
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// What to think of the connection after an error.
    fn failed(&mut self, error: &rusqlite::Error) -> String {
        let sound = matches!(error.sqlite_error_code(), Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy));
        // After a refusal for want of space or time a rolled-back connection is as good as new; after anything else
        // (a flush that failed, a page that makes no sense) what it believes about the files can't be trusted.
        match &mut self.opened {
            // Rows, names and numbers of what was rolled back are forgotten.
            Some(opened) if sound && opened.connection.is_autocommit() => opened.index = None,
            _ => self.close(),
        }
        error.to_string()
    }

    /// Does up to `steps` of what needn't be done at once, until `stop`.
    fn chores(&mut self, steps: usize, stop: impl Fn() -> bool) {
        for _ in 0..steps {
            let more = catch_unwind(AssertUnwindSafe(|| self.chore())).unwrap_or_else(|_| self.panicked());
            let rested = std::mem::replace(&mut self.rest, if more.is_err() { REST } else { 0 });
            match more {
                Ok(true) if !stop() => {}
                Ok(_) => return,
                Err(reason) => {
                    for job in self.prunes.drain(..) {
                        drop(job.reply.send(Err(LedgerError::Unavailable(reason.clone()))));
                    }
                    // Not the end of issuing: the next commit says whether that works.
                    if rested == 0 {
                        tracing::warn!(%reason, "the ledger could not be indexed or pruned");
                    }
                    return;
                }
            }
        }
    }

    /// One step of pruning or indexing; returns whether there is more to do.
    fn chore(&mut self) -> Result<bool, String> {
        let pruned = std::mem::take(&mut self.pruned);
        let wanted = self.prunes.front().map(|job| match job.command {
            Command::Prune { before, limit } => (before, limit),
            _ => (OffsetDateTime::UNIX_EPOCH, 0),
        });
        // A ledger is opened again when somebody wants something of it.
        if wanted.is_none() && self.opened.is_none() {
            return Ok(false);
        }
        let opened = self.make_ready()?;
        let Some(index) = &mut opened.index else { return Err("it is not open".to_owned()) };
        // What was issued before anything that is due may end is indexed first: it may be due, too, and whether it is its holder's latest can be
        // told only as long as that holder's other certificates are on record.
        let prunable = wanted.filter(|(before, _)| index.earliest().is_none_or(|earliest| earliest >= micros(*before)));
        let prunable = prunable.filter(|_| !(pruned && index.is_due()));
        let connection = &mut opened.connection;
        let outcome = schema::unflushed(connection, |connection| match prunable {
            Some((before, limit)) => prune(connection, index, micros(before), limit).map(Some),
            None => index.step(connection).map(|_| None),
        });
        match outcome {
            Ok(done) => {
                let (more, waiting) = (!index.is_complete(), index.waiting());
                self.checkpoints.appended(PAGES_OF_A_CHORE);
                self.accounts.chore(done.map_or(0, |done| done.pruned), waiting);
                self.pruned = done.is_some();
                if let Some(done) = done
                    && let Some(job) = self.prunes.pop_front()
                {
                    drop(job.reply.send(Ok(done)));
                }
                Ok(more || !self.prunes.is_empty())
            }
            Err(error) => Err(self.failed(&error)),
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
        let opened = self.opened.as_mut().ok_or_else(|| "it is not open".to_owned())?;
        if opened.index.is_none() {
            opened.index = Some(Index::load(&mut opened.connection, &self.recent).map_err(|error| error.to_string())?);
        }
        Ok(opened)
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
        let high_water: i64 = connection.query_row(HIGH_WATER, [], |row| row.get(0)).map_err(|error| error.to_string())?;
        if id != self.ledger_id {
            return Err(format!("{} is another ledger: its id is {id}, not {}", self.place.main().display(), self.ledger_id));
        }
        if high_water < self.high_water {
            return Err(format!("{} lacks its newest records: it was rolled back to an older copy", self.place.main().display()));
        }
        let identity = self.place.identity()?;
        if identity.main != self.main {
            return Err(format!("{} was replaced while it was opened", self.place.main().display()));
        }
        self.commits = commits;
        self.readers.reopen(identity);
        self.opened = Some(Opened { connection, identity, index: None });
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

/// What one transaction did, once COMMIT has returned.
struct Committed {
    answers: Vec<Answer>,
    /// The new count of commits, if it changed.
    commits: Option<i64>,
    rows: usize,
}

/// All jobs in one transaction. On an error it was rolled back.
fn transact(connection: &mut Connection, index: &mut Index, jobs: &[Job]) -> rusqlite::Result<Committed> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut work = Work::new(index);
    let mut answers = Vec::with_capacity(jobs.len());
    for job in jobs {
        answers.push(match work.perform(&transaction, &job.command) {
            Ok(()) => Ok(Done::default()),
            Err(Refused::Alone(error)) => Err(error),
            Err(Refused::All(error)) => return Err(error),
        });
    }
    let commits = work.conclude(&transaction)?;
    transaction.commit()?;
    let appended = work.into_appended();
    let rows = appended.len();
    for (entry, record) in appended {
        index.appended(entry, record);
    }
    Ok(Committed { answers, commits, rows })
}

/// Forgets a little of what is due before `before`.
fn prune(connection: &mut Connection, index: &Index, before: i64, limit: u32) -> rusqlite::Result<Done> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let pruned = pruning::prune(&transaction, before, limit, &index.numbers)?;
    let more = pruned == limit;
    if !more {
        pruning::tidy(&transaction, before)?;
    }
    transaction.commit()?;
    Ok(Done { pruned, more })
}

/// The id of the ledger that took our ledger's place. `immutable` reads the bare file: the log beside it is not the stranger's, and
/// replaying that log into it would ruin it.
fn stranger_id(place: &Place) -> Option<String> {
    let path: String = place.main().to_str()?.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let stranger = Connection::open_with_flags(format!("file:{path}?immutable=1"), flags).ok()?;
    stranger.query_row("SELECT ledger_id FROM meta", [], |row| row.get(0)).ok()
}
