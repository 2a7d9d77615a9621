//! The connections beside the writer's: those that only read, and the one that moves the log into the ledger. None of them holds
//! the writer up, but when it closes the ledger to open it anew: then it waits for what they are at.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use super::place::{Identity, Place, Standing};
use super::schema;
use crate::ledger::LedgerError;

/// How many questions run at once; more wait.
const AT_ONCE: usize = 4;

const CLOSED: &str = "it is being opened again";

/// A small pool. The writer closes it whenever it has to open the ledger anew.
pub(super) struct Readers {
    place: Place,
    open: RwLock<Option<Open>>,
    slots: Arc<Semaphore>,
}

/// What is open between a [`Readers::reopen`] and the next [`Readers::close`].
struct Open {
    identity: Identity,
    idle: Mutex<Vec<Connection>>,
    /// Opened with the first checkpoint.
    checkpoint: Mutex<Option<Connection>>,
}

/// How far a checkpoint came, in pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Checkpoint {
    /// In the log, when it ended.
    pub(super) logged: i64,
    /// Of those, in the ledger, too.
    pub(super) moved: i64,
}

impl Readers {
    /// A pool that is closed still.
    pub(super) fn new(place: Place) -> Self {
        Self { place, open: RwLock::new(None), slots: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Lets questions in, to be answered from these files.
    pub(super) fn reopen(&self, identity: Identity) {
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = Some(Open { identity, idle: Mutex::default(), checkpoint: Mutex::default() });
    }

    /// Waits for the questions under way, and closes every connection.
    pub(super) fn close(&self) {
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Asks one question on a thread where it may block.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    pub(super) async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        question: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let gone = |_| LedgerError::Unavailable("it is closed".to_owned());
        // The slot goes with the work: a caller that stops waiting doesn't make room for one more thread.
        let slot = Arc::clone(&self.slots).acquire_owned().await.map_err(gone)?;
        let readers = Arc::clone(self);
        let work = move || {
            let _slot = slot;
            readers.answer(question).map_err(LedgerError::Unavailable)
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| LedgerError::Unavailable(format!("a question failed: {error}")))?
    }

    fn answer<T>(&self, question: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T, String> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = open.as_ref() else { return Err(CLOSED.to_owned()) };
        self.check(open)?;
        let idle = open.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.connect(open, OpenFlags::SQLITE_OPEN_READ_ONLY)?,
        };
        // A connection that failed is not used again.
        let answer = question(&mut connection).map_err(|error| error.to_string())?;
        open.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        Ok(answer)
    }

    /// Moves into the ledger what is in the log by now, without waiting for anybody. Blocks for the disk.
    ///
    /// # Errors
    /// The engine's; that the ledger is closed or not in its place.
    pub(super) fn checkpoint(&self) -> Result<Checkpoint, String> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = open.as_ref() else { return Err(CLOSED.to_owned()) };
        self.check(open)?;
        let mut own = open.checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = match own.take() {
            Some(connection) => connection,
            None => self.connect(open, OpenFlags::SQLITE_OPEN_READ_WRITE)?,
        };
        let read = |row: &rusqlite::Row<'_>| Ok(Checkpoint { logged: row.get(1)?, moved: row.get(2)? });
        let done = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], read).map_err(|error| error.to_string())?;
        *own = Some(connection);
        Ok(done)
    }

    fn connect(&self, open: &Open, access: OpenFlags) -> Result<Connection, String> {
        let connect = || {
            let connection = Connection::open_with_flags(self.place.main(), access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
            schema::configure(&connection)?;
            // The log is opened by the first read.
            connection.query_row("SELECT 1 FROM meta", [], |_| Ok(()))?;
            Ok(connection)
        };
        let connection = connect().map_err(|error: rusqlite::Error| error.to_string())?;
        // It opened by name: what it found must be what the writer has.
        self.check(open)?;
        Ok(connection)
    }

    fn check(&self, open: &Open) -> Result<(), String> {
        match self.place.standing(&open.identity) {
            Standing::Intact => Ok(()),
            Standing::Lost(reason) | Standing::Detached(reason) => Err(reason),
        }
    }
}

impl fmt::Debug for Readers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Readers").field("place", &self.place).finish_non_exhaustive()
    }
}
