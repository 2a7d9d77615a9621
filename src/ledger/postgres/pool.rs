//! Connections for questions: a fixed number of them, made when they are needed and kept.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::connection::{Connection, Connector, Purpose};
use super::settings::chain_of;
use crate::clock::within;
use crate::ledger::LedgerError;

/// How long a question waits for a connection, and for its answer.
const TURN_TIME: Duration = Duration::from_secs(5);
const ANSWER_TIME: Duration = Duration::from_secs(12);

/// A value and its type.
pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// The connections.
#[derive(Debug)]
pub(super) struct Pool {
    connector: Arc<Connector>,
    turns: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

/// One of them, for as long as this lives.
#[derive(Debug)]
pub(super) struct Lease<'p> {
    pool: &'p Pool,
    connection: Option<Connection>,
    _turn: SemaphorePermit<'p>,
}

impl Pool {
    pub(super) fn new(connector: Arc<Connector>, size: usize) -> Self {
        Self { connector, turns: Semaphore::new(size.max(1)), idle: Mutex::default() }
    }

    /// A connection, as soon as one is free.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    pub(super) async fn lease(&self) -> Result<Lease<'_>, LedgerError> {
        let turn = within(self.connector.clock().as_ref(), TURN_TIME, self.turns.acquire()).await;
        let Some(Ok(turn)) = turn else { return Err(LedgerError::Unavailable("too many questions are waiting".to_owned())) };
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle.filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        Ok(Lease { pool: self, connection: Some(connection), _turn: turn })
    }

    async fn connect(&self) -> Result<Connection, LedgerError> {
        self.connector.connect(Purpose::Read).await.map_err(|error| LedgerError::Unavailable(error.into_reason()))
    }
}

impl Lease<'_> {
    /// Asks one question by itself. Where its connection turns out to be broken, it is asked once more on a new one.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    pub(super) async fn ask(&mut self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, LedgerError> {
        for last in [false, true] {
            let connection = match self.connection.take() {
                Some(connection) => connection,
                None => self.pool.connect().await?,
            };
            let answer = within(self.pool.connector.clock().as_ref(), ANSWER_TIME, connection.client().query_typed(sql, parameters)).await;
            match answer {
                Some(Ok(rows)) => {
                    self.connection = Some(connection);
                    return Ok(rows);
                }
                Some(Err(error)) if error.as_db_error().is_some() || last => {
                    if !connection.is_closed() {
                        self.connection = Some(connection);
                    }
                    return Err(LedgerError::Unavailable(chain_of(&error)));
                }
                Some(Err(_)) => {}
                None => {
                    connection.abandon();
                    return Err(LedgerError::Unavailable("the database doesn't answer".to_owned()));
                }
            }
        }
        Err(LedgerError::Unavailable("the database doesn't answer".to_owned()))
    }

    /// Asks several questions of one state of the database: `questions` is given the rows of each, in order.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    pub(super) async fn ask_together(&mut self, questions: &[(&str, &[Parameter<'_>])]) -> Result<Vec<Vec<Row>>, LedgerError> {
        let unavailable = |error: &tokio_postgres::Error| LedgerError::Unavailable(chain_of(error));
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.pool.connect().await?,
        };
        let work = async {
            let isolation = tokio_postgres::IsolationLevel::RepeatableRead;
            let transaction = connection.client_mut().build_transaction().isolation_level(isolation).read_only(true).start().await?;
            let mut answers = Vec::with_capacity(questions.len());
            for (sql, parameters) in questions {
                answers.push(transaction.query_typed(sql, parameters).await?);
            }
            transaction.commit().await?;
            Ok(answers)
        };
        let answered = within(self.pool.connector.clock().as_ref(), ANSWER_TIME, work).await;
        match answered {
            Some(Ok(answers)) => {
                self.connection = Some(connection);
                Ok(answers)
            }
            Some(Err(error)) => Err(unavailable(&error)),
            None => {
                connection.abandon();
                Err(LedgerError::Unavailable("the database doesn't answer".to_owned()))
            }
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // One that a caller left in the middle of a question is taken out by whoever asked, so what is here is at rest.
        if let Some(connection) = self.connection.take()
            && !connection.is_closed()
        {
            self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
    }
}
