//! What is done beside the recording, on a connection of its own: tables for the days to come, and forgetting.
//!
//! Leaves are forgotten a range of serials at a time, by dropping its table, once the last of them is due: that costs the same for ten and
//! for ten million. The rest is little, and is deleted row by row. One replica does it at a time; the others find nothing to do.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::Mutex;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSqlOwned, Type};

use super::accounts::Accounts;
use super::connection::{Connection, Connector, Purpose};
use super::pool::Parameter;
use super::rows::micros;
use super::settings::chain_of;
use crate::clock::within;
use crate::ledger::LedgerError;

/// A serial's first four octets count steps of four seconds (`pki/subject.rs`); so many are a day.
const DAY: i64 = 21_600;

/// How far ahead there are tables: long enough to be noticed when making them fails.
const AHEAD: i64 = 7 * DAY;

/// Rows that go in one transaction.
const ROWS: u32 = 500;

/// How long one chore may take.
const CHORE_TIME: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Chores {
    connector: Arc<Connector>,
    accounts: Arc<Accounts>,
    /// How many serials one table holds.
    width: i64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connection: Option<Connection>,
    /// Up to this serial there are tables.
    made_to: i64,
}

/// Why a chore was not done.
enum Undone {
    /// Others held what it needs; there will be another time.
    Busy,
    Failed(LedgerError),
}

impl Chores {
    pub(super) fn new(connector: Arc<Connector>, accounts: Arc<Accounts>, retention: Duration) -> Self {
        Self { connector, accounts, width: width(retention), state: Mutex::default() }
    }

    /// Makes tables for the leaves of the next days.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    pub(super) async fn make_ranges(&self) -> Result<(), LedgerError> {
        let mut state = self.state.lock().await;
        self.look_ahead(&mut state).await
    }

    /// [`crate::ledger::Ledger::prune`].
    pub(super) async fn prune(&self, before: OffsetDateTime, limit: u32) -> Result<u32, LedgerError> {
        let mut state = self.state.lock().await;
        self.look_ahead(&mut state).await?;
        let before = micros(before);
        let mut pruned: u32 = 0;
        while pruned < limit {
            let dropped: Option<i64> = match self.call(&mut state, "SELECT meshmint.drop_range_1($1)", &[(&before, Type::INT8)]).await {
                Ok(dropped) => dropped,
                Err(Undone::Busy) => None,
                Err(Undone::Failed(error)) => return Err(error),
            };
            let Some(gone) = dropped else { break };
            pruned = pruned.saturating_add(u32::try_from(gone).unwrap_or(u32::MAX));
        }
        while pruned < limit {
            let share = ROWS.min(limit - pruned);
            let rows = i32::try_from(share).unwrap_or(i32::MAX);
            let parameters: [Parameter<'_>; 2] = [(&before, Type::INT8), (&rows, Type::INT4)];
            let gone: i32 = self.call(&mut state, "SELECT meshmint.prune_rows_1($1, $2)", &parameters).await.or_else(Undone::later)?;
            let gone = u32::try_from(gone).unwrap_or(0);
            pruned += gone;
            if gone < share {
                let _: String = self.call(&mut state, "SELECT meshmint.tidy_1($1)::text", &[(&before, Type::INT8)]).await.or_else(Undone::later)?;
                break;
            }
        }
        self.accounts.pruned(pruned.into());
        Ok(pruned)
    }

    async fn look_ahead(&self, state: &mut State) -> Result<(), LedgerError> {
        let now = self.connector.clock().now().unix_timestamp() >> 2;
        let wanted = now + AHEAD.max(2 * self.width);
        if state.made_to >= wanted {
            return Ok(());
        }
        let made: i64 = self.call(state, "SELECT coalesce(max(ends), 0) FROM meshmint.ranges", &[]).await.or_else(Undone::later)?;
        // A day back, for replicas whose clocks are behind.
        state.made_to = made.max((now / DAY - 1) * DAY);
        while state.made_to < wanted {
            let (begins, ends) = (state.made_to, state.made_to + self.width);
            let parameters: [Parameter<'_>; 2] = [(&begins, Type::INT8), (&ends, Type::INT8)];
            match self.call::<String>(state, "SELECT meshmint.make_range_1($1, $2)::text", &parameters).await {
                Ok(_) => state.made_to = ends,
                Err(Undone::Busy) => return Ok(()),
                Err(Undone::Failed(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Calls a function, and returns what it returns.
    async fn call<T: FromSqlOwned + Send>(&self, state: &mut State, sql: &str, parameters: &[Parameter<'_>]) -> Result<T, Undone> {
        let unavailable = |reason: String| Undone::Failed(LedgerError::Unavailable(reason));
        let connection = match state.connection.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => self.connector.connect(Purpose::Write).await.map_err(|error| unavailable(error.into_reason()))?,
        };
        match within(self.connector.clock().as_ref(), CHORE_TIME, connection.client().query_typed_one(sql, parameters)).await {
            Some(Ok(row)) => {
                state.connection = Some(connection);
                row.try_get(0).map_err(|error| unavailable(chain_of(&error)))
            }
            Some(Err(error)) => {
                let busy = matches!(error.code(), Some(&SqlState::LOCK_NOT_AVAILABLE | &SqlState::T_R_DEADLOCK_DETECTED));
                if error.as_db_error().is_some() {
                    state.connection = Some(connection);
                }
                Err(if busy { Undone::Busy } else { unavailable(chain_of(&error)) })
            }
            None => {
                connection.abandon();
                Err(unavailable("the database doesn't answer".to_owned()))
            }
        }
    }
}

impl Undone {
    /// What is busy now is done another time.
    fn later<T: Default>(self) -> Result<T, LedgerError> {
        match self {
            Self::Busy => Ok(T::default()),
            Self::Failed(error) => Err(error),
        }
    }
}

/// A day's serials for each table, and more where certificates stay long: some forty tables are few enough for every question.
fn width(retention: Duration) -> i64 {
    let days = i64::try_from(retention.as_secs() / 86_400).unwrap_or(i64::MAX) / 32;
    days.clamp(1, 30) * DAY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_tables_whatever_the_retention() {
        for (days, width_in_days) in [(0, 1), (30, 1), (64, 2), (365, 11), (3_653, 30)] {
            assert_eq!(width(Duration::from_secs(days * 86_400)), width_in_days * DAY, "{days}");
        }
    }
}
