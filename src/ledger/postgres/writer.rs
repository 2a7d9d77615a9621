//! The one task that writes.
//!
//! It takes what waits into one call of one function, which is one transaction, and answers each caller once the commit has returned.
//! While a commit is under way the next ones gather. A connection that breaks is made anew; what was under way then is tried again, and
//! what turns out to be on record already counts as recorded, because it is looked for by its bytes. So a short outage delays
//! certificates and a long one refuses them; none leaves that isn't on record.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::accounts::Accounts;
use super::calls::{Greeting, Job, Sent, Work, greet, notice_loss, send};
use super::connection::{ConnectError, Connection, Connector, Purpose};
use crate::clock::within;
use crate::ledger::LedgerError;

/// The most certificates in one call; their places must fit between two batches (4,096).
const TOGETHER: usize = 2_000;

/// Where the last commit carried this many, more are on their way.
const SEVERAL: usize = 3;
/// For how many it is then waited, and how long: what a commit costs is shared by all that it carries.
const GATHERED: usize = 16;
const GATHERING: Duration = Duration::from_millis(2);

/// How long the database may take for one commit, the wait for its standby included.
const COMMIT_TIME: Duration = Duration::from_secs(4);

/// How long callers wait for a database that went away. After that they are refused at once, until it is back.
const PATIENCE: Duration = Duration::from_secs(2);

/// The pauses between two attempts to reach it, from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

type Attempt = Pin<Box<dyn Future<Output = Result<(Connection, Greeting), String>> + Send>>;

enum Link {
    Up(Box<Connection>),
    Down { since: Duration, reason: String, pause: Duration, attempt: Attempt },
}

/// The state of the task.
pub(super) struct Writer {
    connector: Arc<Connector>,
    identity: Identity,
    accounts: Arc<Accounts>,
    link: Link,
    /// How many certificates of this replica the database has acknowledged.
    acknowledged: i64,
    waiting: VecDeque<Job>,
    /// How many jobs the last commit carried.
    carried: usize,
    /// Whether the last commit failed, so that the log tells the change and not every failure.
    failing: bool,
}

/// Who writes into which ledger.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) ledger_id: String,
    pub(super) replica: String,
}

impl Writer {
    /// Takes over a connection that was greeted.
    pub(super) fn new(connector: Arc<Connector>, identity: Identity, accounts: Arc<Accounts>, connection: Connection, greeting: Greeting) -> Self {
        accounts.seen(&greeting);
        let (link, acknowledged) = (Link::Up(Box::new(connection)), greeting.written);
        Self { connector, identity, accounts, link, acknowledged, waiting: VecDeque::new(), carried: 0, failing: false }
    }

    /// Works until every sender is gone and nothing waits.
    pub(super) async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        loop {
            let goes_on = match &self.link {
                Link::Up(_) => self.commit_some(&mut jobs).await,
                Link::Down { .. } => self.recover(&mut jobs).await,
            };
            if !goes_on {
                return;
            }
        }
    }

    async fn commit_some(&mut self, jobs: &mut mpsc::Receiver<Job>) -> bool {
        if self.waiting.is_empty() {
            if self.carried >= SEVERAL && jobs.len() < GATHERED {
                let clock = self.connector.clock();
                clock.sleep_until(clock.monotonic() + GATHERING).await;
            }
            let mut came = Vec::new();
            if jobs.recv_many(&mut came, TOGETHER).await == 0 {
                return false;
            }
            self.waiting.extend(came);
        }
        let lateness = |job: &Job| match &job.work {
            Work::Record { late, .. } => Some(*late),
            _ => None,
        };
        let first = self.waiting.front().and_then(lateness);
        let mut together = self.waiting.iter().take(TOGETHER).take_while(|job| first.is_some() && lateness(job) == first).count();
        together = together.max(1);
        let batch: Vec<Job> = self.waiting.drain(..together).collect();
        self.carried = together;
        self.commit(batch).await;
        true
    }

    async fn commit(&mut self, jobs: Vec<Job>) {
        let Link::Up(connection) = &self.link else { return };
        let clock = Arc::clone(self.connector.clock());
        let began = self.accounts.begin();
        let before = self.acknowledged;
        let sent = within(clock.as_ref(), COMMIT_TIME, send(connection, &self.identity.replica, &jobs, &mut self.acknowledged, &self.accounts)).await;
        let warned = connection.take_warning();
        let again = jobs.iter().any(|job| job.tried);
        let outcome = match sent {
            // Done, but by a warning perhaps only here: the next commit waits for the standby, and so for this one.
            // An audit's entry would stand there twice; it is alone in its batch.
            Some(Sent::Done(_)) if warned && !again && !jobs.iter().any(|job| matches!(job.work, Work::Audit(_))) => return self.put_back(jobs),
            Some(Sent::InTheWay(_)) if !again => return self.put_back(jobs),
            Some(Sent::InTheWay(reason)) => Sent::Refused(reason),
            Some(Sent::Done(_)) if warned => Sent::Refused("it warns that it may not have waited for its standby".to_owned()),
            Some(outcome) => outcome,
            None => {
                self.lose(format!("{} doesn't answer within {COMMIT_TIME:?}", self.connector.name()), PATIENCE);
                Sent::Refused("the database doesn't answer".to_owned())
            }
        };
        let recorded = u64::try_from(self.acknowledged.saturating_sub(before)).unwrap_or(0);
        self.accounts.commit(jobs.len(), began, matches!(outcome, Sent::Done(_)).then_some(recorded));
        match outcome {
            Sent::Done(answers) => {
                self.report(None);
                jobs.into_iter().zip(answers).for_each(|(job, answer)| drop(job.reply.send(answer)));
            }
            Sent::Refused(reason) | Sent::InTheWay(reason) => {
                self.report(Some(&reason));
                refuse(jobs, &reason);
            }
            Sent::Lost(reason) => {
                self.report(Some(&reason));
                // An audit's entry might stand there twice.
                let (audits, others) = jobs.into_iter().partition(|job| matches!(job.work, Work::Audit(_)));
                refuse::<Vec<Job>>(audits, &reason);
                self.put_back(others);
                self.lose(reason, Duration::ZERO);
            }
        }
    }

    /// These go first, and count as recorded where they turn out to be.
    fn put_back(&mut self, jobs: Vec<Job>) {
        for job in jobs.into_iter().rev() {
            self.waiting.push_front(Job { tried: true, ..job });
        }
    }

    /// The connection is gone; it has been gone for `already`.
    fn lose(&mut self, reason: String, already: Duration) {
        let now = self.connector.clock().monotonic();
        let since = now.saturating_sub(already);
        let attempt = self.attempt(Duration::ZERO);
        if let Link::Up(connection) = std::mem::replace(&mut self.link, Link::Down { since, reason, pause: FIRST_PAUSE, attempt }) {
            connection.abandon();
        }
    }

    fn attempt(&self, pause: Duration) -> Attempt {
        let (connector, identity, accounts) = (Arc::clone(&self.connector), self.identity.clone(), Arc::clone(&self.accounts));
        Box::pin(async move {
            let clock = connector.clock();
            clock.sleep_until(clock.monotonic() + pause).await;
            let connection = connector.connect(Purpose::Write).await.map_err(ConnectError::into_reason)?;
            let slow = || Err("the database doesn't answer".to_owned());
            let greeting = within(clock.as_ref(), COMMIT_TIME, greet(&connection, &identity, &accounts)).await.unwrap_or_else(slow);
            connection.take_warning();
            match greeting {
                Ok(greeting) => Ok((connection, greeting)),
                Err(reason) => {
                    connection.abandon();
                    Err(reason)
                }
            }
        })
    }

    /// Waits for the database, and refuses whoever has waited long enough.
    async fn recover(&mut self, jobs: &mut mpsc::Receiver<Job>) -> bool {
        let clock = Arc::clone(self.connector.clock());
        let Link::Down { since, reason, attempt, .. } = &mut self.link else { return true };
        let patience = (*since + PATIENCE).saturating_sub(clock.monotonic());
        let attempted = if patience.is_zero() {
            refuse(self.waiting.drain(..), reason);
            tokio::select! {
                attempted = attempt => Some(attempted),
                job = jobs.recv() => match job {
                    Some(job) => {
                        refuse([job], reason);
                        None
                    }
                    None => return false,
                },
            }
        } else {
            tokio::select! {
                attempted = attempt => Some(attempted),
                () = clock.sleep_until(clock.monotonic() + patience) => None,
            }
        };
        match attempted {
            None => {}
            Some(Ok((connection, greeting))) => {
                tracing::info!(database = self.connector.name(), "the ledger's database is connected again");
                self.link = Link::Up(Box::new(connection));
                notice_loss(&mut self.acknowledged, greeting.written, 0, &self.accounts);
                self.accounts.seen(&greeting);
            }
            Some(Err(said)) => self.try_later(said),
        }
        true
    }

    fn try_later(&mut self, said: String) {
        let Link::Down { pause, .. } = &self.link else { return };
        let waited = *pause;
        let next = self.attempt(waited);
        if let Link::Down { reason, pause, attempt, .. } = &mut self.link {
            *pause = (waited * 2).min(LONGEST_PAUSE);
            *reason = said;
            *attempt = next;
        }
    }

    fn report(&mut self, trouble: Option<&str>) {
        let failing = trouble.is_some();
        if failing != self.failing {
            match trouble {
                Some(reason) => tracing::error!(%reason, "the ledger is unavailable"),
                None => tracing::info!("the ledger is available again"),
            }
        }
        self.failing = failing;
    }
}

fn refuse<I: IntoIterator<Item = Job>>(jobs: I, reason: &str) {
    jobs.into_iter().for_each(|job| drop(job.reply.send(Err(LedgerError::Unavailable(reason.to_owned())))));
}
