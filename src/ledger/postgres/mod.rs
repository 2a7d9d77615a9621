//! The ledger in PostgreSQL, for several replicas that record at once.
//!
//! Writes go through a bounded queue to one task ([`writer`]), which sends all that waits in one call ([`batch`]) of one function of the
//! schema ([`schema`], `schema/version_1.sql`), so each batch is one transaction and one round trip. Questions run on a few connections of
//! their own ([`pool`]), and what is done beside ([`chores`]) on one. The database holds all the state: a process that dies leaves nothing
//! behind, and one that loses its connection gets another by itself.

mod accounts;
mod batch;
mod calls;
mod chores;
mod connection;
mod lists;
mod pool;
mod rows;
mod schema;
mod settings;
mod stats;
mod writer;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use self::accounts::Accounts;
use self::calls::{Job, Work};
use self::chores::Chores;
use self::connection::{ConnectError, Connection, Connector, Purpose};
use self::lists::PAGE;
use self::pool::{Lease, Parameter, Pool};
use self::rows::{COLUMNS, Classes, SELECT_CLASSES, counter, get, holder_key, integer, keepable, keepable_text, micros, number};
pub use self::settings::{PostgresSettings, UrlError};
use self::writer::{Identity, Writer};
use super::class::Class;
use super::query::Order;
use super::{
    AuditEntry, AuditPage, CertificateFilter, CertificateRecord, CommitWatch, Cursor, Figures, HolderId, HolderRecord, Ledger, LedgerError,
    OpenError, Page, Stats, StoredCertificate,
};
use crate::authority::{AuthorityId, GenerationNumber};
use crate::clock::{Clock, Entropy, random_id};

/// How many writes may wait: more than a commit takes would not be answered in time.
const QUEUE: usize = 8_192;

/// The pause between two attempts to reach the database at the start.
const START_PAUSE: Duration = Duration::from_millis(500);

/// A ledger in a PostgreSQL database. What is queued when it is dropped is still written.
#[derive(Debug)]
pub struct PostgresLedger {
    id: String,
    jobs: mpsc::Sender<Job>,
    pool: Pool,
    chores: Chores,
    accounts: Arc<Accounts>,
    classes: RwLock<Arc<Classes>>,
}

impl PostgresLedger {
    /// Connects, makes the schema where there is none (with a new random id) or brings an older one up to date, and starts to write as
    /// `replica`, an id that no other process has.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(
        settings: &PostgresSettings,
        replica: &str,
        clock: Arc<dyn Clock>,
        entropy: &dyn Entropy,
        watch: Option<CommitWatch>,
    ) -> Result<Self, OpenError> {
        let refused = |path: &str, reason: String| OpenError::Engine { path: path.to_owned(), reason };
        let connector = Connector::new(settings, clock).map_err(|error| refused("postgres", error.to_string()))?;
        let connector = Arc::new(connector);
        let name = connector.name().to_owned();
        let fresh_id = random_id(entropy, 16).map_err(|error| refused(&name, error.to_string()))?;
        let mut connection = first_connection(&connector, settings.start_patience).await?;
        let id = schema::upgrade(&mut connection, &name, &fresh_id).await?;
        let identity = Identity { ledger_id: id.clone(), replica: replica.to_owned() };
        let vigil = watch.as_ref().map(|watch| watch.vigil.clone()).unwrap_or_default();
        let accounts = Arc::new(Accounts::new(watch));
        let greeting = calls::greet(&connection, &identity, &accounts).await.map_err(|reason| refused(&name, reason))?;
        connection.take_warning();

        let chores = Chores::new(Arc::clone(&connector), Arc::clone(&accounts), settings.retention);
        // Without them certificates go where they cost more to forget, nothing worse.
        if let Err(error) = chores.make_ranges().await {
            tracing::warn!(%error, "the ledger's tables for the next days could not be made yet");
        }
        let (jobs, queue) = mpsc::channel(QUEUE);
        let writer = Writer::new(Arc::clone(&connector), identity, Arc::clone(&accounts), connection, greeting);
        vigil.spawn("ledger's writer", writer.run(queue));
        let pool = Pool::new(connector, settings.pool_size);
        Ok(Self { id, jobs, pool, chores, accounts, classes: RwLock::default() })
    }

    async fn write(&self, work: Work) -> Result<(), LedgerError> {
        let unavailable = |reason: &str| LedgerError::Unavailable(reason.to_owned());
        let (reply, answer) = oneshot::channel();
        self.jobs.try_send(Job { work, reply, tried: false }).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => unavailable("too many writes are waiting"),
            mpsc::error::TrySendError::Closed(_) => unavailable("its writer has ended"),
        })?;
        answer.await.map_err(|_| unavailable("its writer has ended"))?
    }

    /// Records a certificate that left while this ledger was away: whatever happened to its generation meanwhile, and as often as it is
    /// tried.
    ///
    /// # Errors
    /// [`LedgerError::Duplicate`] where another certificate has its serial; [`LedgerError::Unavailable`].
    pub async fn record_late(&self, record: CertificateRecord) -> Result<(), LedgerError> {
        keepable(&record)?;
        self.write(Work::Record { record: Box::new(record), late: true }).await
    }

    /// From now on this replica tells the others that so many certificates wait to be drained.
    pub(super) fn spools(&self, count: u64) {
        self.accounts.spools(count);
    }

    /// What these replicas said to be undrained is drained: a process with their spool has done it.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    pub(super) async fn drained(&self, replicas: Vec<String>) -> Result<(), LedgerError> {
        self.write(Work::Drained(replicas)).await
    }

    /// Rows of certificates as certificates. Classes that are new since the last question are read.
    async fn certificates(&self, lease: &mut Lease<'_>, found: &[Row]) -> Result<Vec<StoredCertificate>, LedgerError> {
        let mut certificates = Vec::with_capacity(found.len());
        for row in found {
            let class = self.class(lease, get(row, "class")?).await?;
            certificates.push(rows::certificate(row, &class)?);
        }
        Ok(certificates)
    }

    async fn class(&self, lease: &mut Lease<'_>, number: i32) -> Result<Arc<Class>, LedgerError> {
        let known = |classes: &Classes| classes.get(&number).cloned();
        if let Some(class) = known(&self.classes.read().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(class);
        }
        let classes: Classes = lease.ask(SELECT_CLASSES, &[]).await?.iter().map(rows::class).collect::<Result<_, _>>()?;
        let class = known(&classes).ok_or_else(|| LedgerError::Unavailable(format!("a row has the unknown class {number}")));
        *self.classes.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(classes);
        class
    }

    /// The numbers of the classes that a filter leaves, where it says anything of them.
    async fn classes_of(&self, lease: &mut Lease<'_>, filter: &CertificateFilter) -> Result<Option<Vec<i32>>, LedgerError> {
        let Some(statement) = lists::classes(filter) else { return Ok(None) };
        let found = lease.ask(statement.sql(), &statement.parameters()).await?;
        found.iter().map(|row| get(row, "class")).collect::<Result<_, _>>().map(Some)
    }
}

/// Connects, and waits for a database that can't be reached yet.
async fn first_connection(connector: &Connector, patience: Duration) -> Result<Connection, OpenError> {
    let clock = connector.clock();
    let until = clock.monotonic() + patience;
    loop {
        let failed = |reason| OpenError::Engine { path: connector.name().to_owned(), reason };
        match connector.connect(Purpose::Write).await {
            Ok(connection) => return Ok(connection),
            Err(ConnectError::Refused(reason)) => return Err(failed(reason)),
            Err(ConnectError::Unreachable(reason)) if clock.monotonic() >= until => return Err(failed(reason)),
            Err(ConnectError::Unreachable(reason)) => {
                tracing::warn!(%reason, "the ledger's database can't be reached yet, trying again");
                clock.sleep_until(clock.monotonic() + START_PAUSE).await;
            }
        }
    }
}

#[async_trait]
impl Ledger for PostgresLedger {
    fn id(&self) -> &str {
        &self.id
    }

    async fn record(&self, record: CertificateRecord) -> Result<(), LedgerError> {
        keepable(&record)?;
        self.write(Work::Record { record: Box::new(record), late: false }).await
    }

    async fn open_generation(&self, generation: GenerationNumber, authority: &AuthorityId, now: OffsetDateTime) -> Result<(), LedgerError> {
        integer(generation.0)?;
        keepable_text(authority.as_str())?;
        self.write(Work::OpenGeneration(generation, authority.clone(), now)).await
    }

    async fn close_generation(&self, generation: GenerationNumber, now: OffsetDateTime) -> Result<(), LedgerError> {
        integer(generation.0)?;
        self.write(Work::CloseGeneration(generation, now)).await
    }

    async fn record_bundle(&self, number: u64, pem: &str, now: OffsetDateTime) -> Result<(), LedgerError> {
        integer(number)?;
        keepable_text(pem)?;
        self.write(Work::RecordBundle(number, pem.to_owned(), now)).await
    }

    async fn audit(&self, entry: AuditEntry) -> Result<(), LedgerError> {
        [&entry.actor, &entry.action, &entry.detail, &entry.reason].into_iter().try_for_each(|text| keepable_text(text))?;
        self.write(Work::Audit(entry)).await
    }

    async fn audits(&self, before: Option<u64>, limit: u32) -> Result<AuditPage, LedgerError> {
        let limit = limit.clamp(1, AuditPage::MOST);
        let before = before.and_then(|before| i64::try_from(before).ok()).unwrap_or(i64::MAX);
        let sql = "SELECT id, at, actor, action, detail, reason FROM meshmint.audit WHERE id < $1 ORDER BY id DESC LIMIT $2";
        let rows = i64::from(limit) + 1;
        let parameters: [Parameter<'_>; 2] = [(&before, Type::INT8), (&rows, Type::INT8)];
        let found = self.pool.lease().await?.ask(sql, &parameters).await?;
        Ok(AuditPage::of(found.iter().map(rows::audit).collect::<Result<_, _>>()?, limit))
    }

    async fn replica_serves(&self, replica: &str, generation: GenerationNumber, bundle_number: u64, now: OffsetDateTime) -> Result<(), LedgerError> {
        integer(generation.0).and(integer(bundle_number))?;
        keepable_text(replica)?;
        self.write(Work::ReplicaServes(replica.to_owned(), generation, bundle_number, now)).await
    }

    async fn latest_bundle(&self) -> Result<Option<u64>, LedgerError> {
        let sql = "SELECT number FROM meshmint.bundles ORDER BY number DESC LIMIT 1";
        let found = self.pool.lease().await?.ask(sql, &[]).await?;
        found.first().map(|row| counter(row, "number")).transpose()
    }

    async fn high_water(&self) -> Result<u64, LedgerError> {
        let sql = "SELECT (commits + coalesce((SELECT sum(written) FROM meshmint.replicas), 0))::bigint AS mark FROM meshmint.meta";
        let found = self.pool.lease().await?.ask(sql, &[]).await?;
        found.first().map_or(Ok(0), |row| counter(row, "mark"))
    }

    async fn last_sequence(&self, replica: &str) -> Result<Option<u64>, LedgerError> {
        let sql = "SELECT last_sequence FROM meshmint.replicas WHERE id = $1 AND last_sequence IS NOT NULL";
        let found = self.pool.lease().await?.ask(sql, &[(&replica, Type::TEXT)]).await?;
        found.first().map(|row| counter(row, "last_sequence")).transpose()
    }

    async fn find_leaf(&self, issuer: &AuthorityId, serial: &[u8], sha256: &[u8; 32]) -> Result<Option<StoredCertificate>, LedgerError> {
        let sql = format!("SELECT {COLUMNS} FROM meshmint.leaves AS c WHERE c.serial = $1 AND c.issuer = $2 AND c.sha256 = $3");
        let (serial, issuer, sha256) = (number(serial), issuer.as_str(), sha256.as_slice());
        let parameters: [Parameter<'_>; 3] = [(&serial, Type::BYTEA), (&issuer, Type::TEXT), (&sha256, Type::BYTEA)];
        let mut lease = self.pool.lease().await?;
        let found = lease.ask(&sql, &parameters).await?;
        Ok(self.certificates(&mut lease, &found).await?.into_iter().next())
    }

    async fn find_serial(&self, serial: &[u8]) -> Result<Vec<StoredCertificate>, LedgerError> {
        let sql = format!("SELECT {COLUMNS} FROM meshmint.certificates AS c WHERE c.serial = $1 ORDER BY c.id DESC");
        let serial = number(serial);
        let mut lease = self.pool.lease().await?;
        let found = lease.ask(&sql, &[(&serial, Type::BYTEA)]).await?;
        self.certificates(&mut lease, &found).await
    }

    async fn holder(&self, holder: &HolderId) -> Result<Option<HolderRecord>, LedgerError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM meshmint.certificates AS c WHERE c.holder_key = $1 AND c.holder = $2 ORDER BY c.issued_at DESC, c.id DESC LIMIT 1"
        );
        let (key, text) = (holder_key(holder.as_str()), holder.as_str());
        let parameters: [Parameter<'_>; 2] = [(&key, Type::BYTEA), (&text, Type::TEXT)];
        let mut lease = self.pool.lease().await?;
        let found = lease.ask(&sql, &parameters).await?;
        let Some(row) = found.first() else { return Ok(None) };
        let class = self.class(&mut lease, get(row, "class")?).await?;
        rows::holder(row, &class, holder).map(Some)
    }

    async fn list(&self, filter: &CertificateFilter, after: Option<Cursor>, limit: u32, now: OffsetDateTime) -> Result<Page, LedgerError> {
        let order = Order::of(filter);
        if after.is_some_and(|after| after.order != order) {
            return Err(LedgerError::ForeignCursor);
        }
        let limit = limit.clamp(1, PAGE);
        let mut lease = self.pool.lease().await?;
        let classes = self.classes_of(&mut lease, filter).await?;
        // One more than asked for tells whether there is a next page.
        let statement = lists::list(filter, classes, after, limit + 1, micros(now));
        let mut found = lease.ask(statement.sql(), &statement.parameters()).await?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = found.len() > limit;
        found.truncate(limit);
        let cursor = |row: &Row| {
            let key = match order {
                Order::Recorded => 0,
                Order::Issued => get(row, "issued_at")?,
                Order::Expiring => get::<i32>(row, "minute")?.into(),
            };
            Ok::<_, LedgerError>(Cursor { order, key, id: get(row, "id")? })
        };
        let next = found.last().filter(|_| more).map(cursor).transpose()?;
        Ok(Page { certificates: self.certificates(&mut lease, &found).await?, next })
    }

    async fn follow(&self, filter: &CertificateFilter, after: Option<Cursor>, limit: u32, now: OffsetDateTime) -> Result<Page, LedgerError> {
        if after.is_some_and(|after| after.order != Order::Recorded) {
            return Err(LedgerError::ForeignCursor);
        }
        let limit = limit.clamp(1, PAGE);
        let at = |id| Some(Cursor { order: Order::Recorded, key: 0, id });
        let mut lease = self.pool.lease().await?;
        let found = lease.ask("SELECT meshmint.complete_to_1() AS id", &[]).await?;
        let end: i64 = found.first().map_or(Ok(0), |row| get(row, "id"))?;
        let Some(after) = after else { return Ok(Page { certificates: Vec::new(), next: at(end) }) };
        let classes = self.classes_of(&mut lease, filter).await?;
        let statement = lists::follow(filter, classes, after.id, end, limit, micros(now));
        let found = lease.ask(statement.sql(), &statement.parameters()).await?;
        // A page that isn't full has seen everything up to the end.
        let full = u32::try_from(found.len()).is_ok_and(|found| found == limit);
        let id = match found.last().filter(|_| full) {
            Some(last) => get(last, "id")?,
            None => end.max(after.id),
        };
        Ok(Page { certificates: self.certificates(&mut lease, &found).await?, next: at(id) })
    }

    async fn stats(&self, now: OffsetDateTime) -> Result<Stats, LedgerError> {
        stats::stats(&mut self.pool.lease().await?, micros(now)).await
    }

    async fn prune(&self, before: OffsetDateTime, limit: u32) -> Result<u32, LedgerError> {
        self.chores.prune(before, limit).await
    }

    async fn undrained(&self) -> Result<u64, LedgerError> {
        let sql = "SELECT coalesce(sum(undrained), 0)::bigint AS undrained FROM meshmint.replicas";
        let found = self.pool.lease().await?.ask(sql, &[]).await?;
        found.first().map_or(Ok(0), |row| counter(row, "undrained"))
    }

    async fn check_writable(&self) -> Result<(), LedgerError> {
        self.write(Work::CheckWritable).await
    }

    fn figures(&self) -> Figures {
        self.accounts.figures(QUEUE - self.jobs.capacity(), QUEUE)
    }
}
