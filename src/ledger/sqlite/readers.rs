//! The connections that only read. Questions run beside the writer and never hold it up.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use super::place::{Identity, Place, Standing};
use super::schema;
use crate::ledger::LedgerError;

/// How many questions run at once; more wait.
const AT_ONCE: usize = 4;

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
}

impl Readers {
    /// A pool that is closed still.
    pub(super) fn new(place: Place) -> Self {
        Self { place, open: RwLock::new(None), slots: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Lets questions in, to be answered from these files.
    pub(super) fn reopen(&self, identity: Identity) {
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = Some(Open { identity, idle: Mutex::default() });
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
        let Some(open) = open.as_ref() else { return Err("it is being opened again".to_owned()) };
        self.check(open)?;
        let idle = open.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.connect(open)?,
        };
        // A connection that failed is not used again.
        let answer = question(&mut connection).map_err(|error| error.to_string())?;
        open.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        Ok(answer)
    }

    fn connect(&self, open: &Open) -> Result<Connection, String> {
        let connect = || {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(self.place.main(), flags)?;
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
