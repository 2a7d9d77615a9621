//! One connection: made with verified TLS and a password from a file, watched for warnings, given up for good when it is dropped.

use std::future::{Future, poll_fn};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use hyper_rustls::ConfigBuilderExt as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{AbortHandle, JoinHandle};
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::{AsyncMessage, CancelToken, Client, Config, NoTls, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::settings::{PostgresSettings, Target, UrlError, chain_of, target};
use crate::clock::{Clock, TlsTime, within};
use crate::pki::certificates_from_pem;

/// How long it may take to connect, over all hosts.
const CONNECT_TIME: Duration = Duration::from_secs(3);

/// How long after a host the next one is asked too, where it doesn't answer.
const NEXT_HOST: Duration = Duration::from_millis(250);

/// How long it may take to tell a server that nobody waits for its answer any more.
const CANCEL_TIME: Duration = Duration::from_secs(1);

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ConnectError {
    /// It may be there in a moment.
    Unreachable(String),
    /// Somebody has to change something first.
    Refused(String),
}

impl ConnectError {
    pub(super) fn into_reason(self) -> String {
        match self {
            Self::Unreachable(reason) | Self::Refused(reason) => reason,
        }
    }
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Write,
    /// What takes too long is ended by the server. Never for what writes: a commit that waits for a standby would be ended as well,
    /// and would count as done.
    Read,
}

/// Makes connections.
#[derive(Debug)]
pub(super) struct Connector {
    target: Target,
    ca_file: Option<PathBuf>,
    password_file: Option<PathBuf>,
    clock: Arc<dyn Clock>,
    sessions: Sessions,
}

impl Connector {
    /// # Errors
    /// [`UrlError`].
    pub(super) fn new(settings: &PostgresSettings, clock: Arc<dyn Clock>) -> Result<Self, UrlError> {
        let (ca_file, password_file) = (settings.ca_file.clone(), settings.password_file.clone());
        Ok(Self { target: target(&settings.url)?, ca_file, password_file, clock, sessions: Sessions::default() })
    }

    /// The database, for people.
    pub(super) fn name(&self) -> &str {
        &self.target.name
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Connects, in bounded time.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub(super) async fn connect(&self, purpose: Purpose) -> Result<Connection, ConnectError> {
        let slow = || Err(ConnectError::Unreachable(format!("no answer from {} within {CONNECT_TIME:?}", self.name())));
        within(self.clock.as_ref(), CONNECT_TIME, self.connect_at_leisure(purpose)).await.unwrap_or_else(slow)
    }

    /// Asks each host; the first that may be written is taken. The first in order has a start on the others, and one that is silent doesn't keep them
    /// from being asked.
    async fn connect_at_leisure(&self, purpose: Purpose) -> Result<Connection, ConnectError> {
        let password = match &self.password_file {
            Some(path) => Some(tokio::fs::read_to_string(path).await.map_err(|error| unreadable(path, &error))?),
            None => None,
        };
        let tls = if self.target.tls { Some(self.tls().await?) } else { None };
        let began = self.clock.monotonic();
        let attempt = |(config, place): (&Config, u32)| {
            let mut config = config.clone();
            if let Some(password) = &password {
                config.password(password.trim_end_matches(['\n', '\r']));
            }
            let tls = tls.clone();
            async move {
                self.clock.sleep_until(began + NEXT_HOST * place).await;
                self.connect_to(config, tls, purpose).await
            }
        };
        let mut attempts: FuturesUnordered<_> = self.target.hosts.iter().zip(0..).map(attempt).collect();
        let mut trouble = None;
        while let Some(attempted) = attempts.next().await {
            match attempted {
                Ok(connection) => return Ok(connection),
                // What somebody has to change is told rather than that another host can't be reached.
                Err(error) => trouble = trouble.filter(|known| matches!(known, ConnectError::Refused(_))).or(Some(error)),
            }
        }
        Err(trouble.unwrap_or_else(|| ConnectError::Refused("the URL names no host".to_owned())))
    }

    async fn connect_to(&self, config: Config, tls: Option<ClientConfig>, purpose: Purpose) -> Result<Connection, ConnectError> {
        let failed = |error: tokio_postgres::Error| self.failed(&error);
        let mut connection = if let Some(tls) = tls {
            let (client, connection) = config.connect(MakeRustlsConnect::new(tls.clone())).await.map_err(failed)?;
            Connection::new(client, Some(tls), connection, self.clock.clone())
        } else {
            let (client, connection) = config.connect(NoTls).await.map_err(failed)?;
            Connection::new(client, None, connection, self.clock.clone())
        };
        let session = connection.settle(purpose).await.map_err(failed)?;
        connection.session = self.sessions.begin(&session).ok_or_else(|| ConnectError::Refused(format!("{}: {SHARED}", self.name())))?;
        Ok(connection)
    }

    async fn tls(&self) -> Result<ClientConfig, ConnectError> {
        let refused = |reason: String| ConnectError::Refused(format!("no root certificates to verify the database with: {reason}"));
        let time = Arc::new(TlsTime(Arc::clone(&self.clock)));
        let builder = ClientConfig::builder_with_details(Arc::new(rustls::crypto::ring::default_provider()), time)
            .with_safe_default_protocol_versions()
            .map_err(|error| refused(error.to_string()))?;
        let verified = match &self.ca_file {
            Some(path) => {
                let pem = tokio::fs::read(path).await.map_err(|error| unreadable(path, &error))?;
                let mut store = RootCertStore::empty();
                let unusable = |reason: &dyn std::fmt::Display| refused(format!("{}: {reason}", path.display()));
                for certificate in certificates_from_pem(&String::from_utf8_lossy(&pem)).map_err(|error| unusable(&error))? {
                    store.add(certificate).map_err(|error| unusable(&error))?;
                }
                builder.with_root_certificates(store)
            }
            // The system's folder may hold hundreds of files.
            None => tokio::task::spawn_blocking(|| builder.with_native_roots())
                .await
                .map_err(|error| refused(error.to_string()))?
                .map_err(|error| refused(error.to_string()))?,
        };
        Ok(verified.with_no_client_auth())
    }

    fn failed(&self, error: &tokio_postgres::Error) -> ConnectError {
        let said = format!("{}: {}", self.name(), chain_of(error));
        let (refused, hint) = match error.code() {
            Some(&SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION) => (true, " (user, password file, pg_hba.conf?)"),
            Some(&SqlState::INVALID_CATALOG_NAME) => (true, " (make the database first)"),
            Some(&SqlState::INSUFFICIENT_PRIVILEGE) => (true, ""),
            Some(&SqlState::PROTOCOL_VIOLATION) if said.contains("startup parameter") => (true, " (PgBouncer takes no `options` in the URL)"),
            Some(_) => (false, ""),
            None if said.contains("invalid peer certificate") => (true, " (is caFile the root of the server's certificate, and the host in it?)"),
            None if said.contains("password missing") => (true, " (the server wants a password: name a passwordFile)"),
            None if said.contains("server does not support TLS") => (true, " (turn ssl on there, or add sslmode=disable)"),
            None => (false, ""),
        };
        let said = said + hint;
        if refused { ConnectError::Refused(said) } else { ConnectError::Unreachable(said) }
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> ConnectError {
    ConnectError::Refused(format!("can't read {}: {error}", path.display()))
}

/// What is said where two connections turn out to be one session.
const SHARED: &str = "a pooler in between gives one session to several connections at once (PgBouncer with pool_mode transaction or statement): \
                      set pool_mode = session for this database, or connect to it directly";

/// The sessions of the database that our connections have. Each has one of its own, unless a pooler works by transaction; then settings, locks and
/// statements would be anybody's.
#[derive(Debug, Default)]
struct Sessions(Mutex<Vec<Weak<str>>>);

impl Sessions {
    /// Takes a session of this name for as long as what is returned lives; `None` where another connection has it.
    fn begin(&self, name: &str) -> Option<Arc<str>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|session| session.strong_count() > 0);
        if all.iter().filter_map(Weak::upgrade).any(|session| &*session == name) {
            return None;
        }
        let session: Arc<str> = name.into();
        all.push(Arc::downgrade(&session));
        Some(session)
    }
}

/// A connection. When it is dropped, its socket is closed at once, whatever is under way.
#[derive(Debug)]
pub(super) struct Connection {
    client: Client,
    warned: Arc<AtomicBool>,
    tls: Option<ClientConfig>,
    task: AbortHandle,
    clock: Arc<dyn Clock>,
    /// Its session at the database, ours alone while this lives.
    session: Arc<str>,
}

impl Connection {
    fn new<S, T>(client: Client, tls: Option<ClientConfig>, mut connection: tokio_postgres::Connection<S, T>, clock: Arc<dyn Clock>) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let warned = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&warned);
        let task: JoinHandle<()> = tokio::spawn(async move {
            while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
                match message {
                    Ok(AsyncMessage::Notice(notice)) if notice.parsed_severity() == Some(Severity::Warning) => {
                        tracing::warn!(message = notice.message(), "the ledger's database warns");
                        seen.store(true, Ordering::Release);
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(error = chain_of(&error), "a connection to the ledger's database ended");
                        return;
                    }
                }
            }
        });
        Self { client, warned, tls, task: task.abort_handle(), clock, session: Arc::default() }
    }

    /// Sets the time limits of the session, and returns its name. Not by start-up options: PgBouncer refuses these.
    async fn settle(&self, purpose: Purpose) -> Result<String, tokio_postgres::Error> {
        // A server that lost its client goes on with its work, and holds its locks, until it notices.
        let limits = match purpose {
            Purpose::Write => "SET idle_in_transaction_session_timeout = '30s'",
            Purpose::Read => "SET idle_in_transaction_session_timeout = '30s'; SET statement_timeout = '10s'",
        };
        self.client.batch_execute(limits).await?;
        // A process id comes again; with the time of its start it doesn't.
        let named = "SELECT pid || ' ' || backend_start AS name FROM pg_stat_activity WHERE pid = pg_backend_pid()";
        for message in self.client.simple_query(named).await? {
            if let SimpleQueryMessage::Row(row) = message
                && let Some(name) = row.get("name")
            {
                return Ok(name.to_owned());
            }
        }
        // Nobody says which; then it counts as one of its own.
        Ok(format!("{:p}", Arc::as_ptr(&self.warned)))
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// For a transaction.
    pub(super) fn client_mut(&mut self) -> &mut Client {
        &mut self.client
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Whether the server has warned since the last time. A commit during which it warns may be one that didn't wait for its standby: the
    /// server says so by a warning, and calls it done.
    pub(super) fn take_warning(&self) -> bool {
        self.warned.swap(false, Ordering::AcqRel)
    }

    /// Tells the server to end what is under way, and closes. Without it a commit that waits for a standby would hold its locks, and a
    /// place among the server's connections, for as long as the standby is away.
    pub(super) fn abandon(self) {
        let token: CancelToken = self.client.cancel_token();
        let (tls, clock) = (self.tls.clone(), Arc::clone(&self.clock));
        tokio::spawn(async move {
            let cancel: std::pin::Pin<Box<dyn Future<Output = Result<(), tokio_postgres::Error>> + Send>> = match tls {
                Some(tls) => Box::pin(async move { token.cancel_query(MakeRustlsConnect::new(tls)).await }),
                None => Box::pin(async move { token.cancel_query(NoTls).await }),
            };
            if let Some(Err(error)) = within(clock.as_ref(), CANCEL_TIME, cancel).await {
                tracing::debug!(error = chain_of(&error), "nobody could be told that a statement is no longer waited for");
            }
        });
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_belongs_to_one_connection_at_a_time() {
        let sessions = Sessions::default();
        let first = sessions.begin("7 2026-12-01").unwrap();
        assert!(sessions.begin("7 2026-12-01").is_none(), "a pooler gave it to two");
        let second = sessions.begin("8 2026-12-01").unwrap();
        assert!(sessions.begin("7 2026-12-02").is_some(), "another process of the same number");
        drop(first);
        assert!(sessions.begin("7 2026-12-01").is_some() && sessions.begin("8 2026-12-01").is_none());
        drop(second);
    }
}
