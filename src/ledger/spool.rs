//! `ledger.onOutage: spool`: certificates go on leaving while the database is away, and are kept on the replica's own volume until then.
//!
//! What is given up for it is the fence, for a bounded time: a replica that can't ask whether a generation was closed meanwhile takes it
//! as open if the database said so to this process, and for `max_outage` after it was heard of last. So whoever retires a root waits for
//! as long, and until every replica has drained ([`Ledger::undrained`]). What is kept here is drained in order, each certificate as often
//! as it takes; it is recorded whatever became of its generation, because it is out there.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use time::OffsetDateTime;
use tokio::sync::RwLock;

use super::postgres::PostgresLedger;
use super::query::Order;
use super::sqlite::SqliteLedger;
use super::{
    AuditEntry, AuditPage, CertificateFilter, CertificateRecord, Cursor, Figures, HolderId, HolderRecord, Ledger, LedgerError, OpenError, Page,
    Stats, StoredCertificate,
};
use crate::authority::{AuthorityId, GenerationNumber};
use crate::clock::{Clock, Entropy, within};
use crate::tasks::Vigil;

/// The pause between two looks at whether there is something to drain.
const PAUSE: Duration = Duration::from_millis(500);

/// How long the file may take to show that it can be written: less than a probe of the whole ledger has.
const SPOOL_PROBE: Duration = Duration::from_secs(2);

/// How many certificates are drained together.
const SHARE: u32 = 500;

/// Where certificates are kept meanwhile, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolSettings {
    /// The file, on a volume that outlives the process.
    pub path: PathBuf,
    /// How long after the database was written last certificates still leave.
    pub max_outage: Duration,
}

/// A database, and the file that stands in for it.
#[derive(Debug)]
pub struct Spooling(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    database: PostgresLedger,
    settings: SpoolSettings,
    /// Exchanged for an empty one whenever all that it held is drained, which takes the lock for writing: nobody else has it open then.
    spool: RwLock<Option<SqliteLedger>>,
    /// The generations that the database told this process are open, with their authorities.
    open: Mutex<HashSet<(GenerationNumber, AuthorityId)>>,
    undrained: AtomicU64,
    /// Who recorded what is in the file: this process, and earlier ones.
    replicas: Mutex<BTreeSet<String>>,
    /// Milliseconds on the monotonic clock: when the database was written last.
    heard: AtomicU64,
    /// The same plus one: since when certificates aren't recorded there, though it may be heard; 0: they are.
    failing: AtomicU64,
    away: AtomicBool,
    /// Whether the file could not be written when it was asked last, while it stands in.
    broken: AtomicBool,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    vigil: Vigil,
}

impl Spooling {
    /// Puts a spool before `database`. What an earlier process left in it is drained. `vigil` notices where nobody drains or writes it any more.
    ///
    /// # Errors
    /// [`OpenError`] where the file can't be used.
    pub async fn open(
        database: PostgresLedger,
        settings: SpoolSettings,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        vigil: Vigil,
    ) -> Result<Self, OpenError> {
        let spool = open_spool(&settings.path, &entropy, &vigil).await?;
        let undrained = spool.figures().certificates;
        if undrained > 0 {
            tracing::warn!(undrained, "an earlier process left certificates in the spool; they are drained now");
        }
        database.spools(undrained);
        let inner = Inner {
            database,
            settings,
            spool: RwLock::new(Some(spool)),
            open: Mutex::default(),
            undrained: AtomicU64::new(undrained),
            replicas: Mutex::default(),
            heard: AtomicU64::new(0),
            failing: AtomicU64::new(0),
            away: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            clock,
            entropy,
            vigil,
        };
        inner.heard();
        let inner = Arc::new(inner);
        inner.vigil.spawn("spool's draining", drain(Arc::downgrade(&inner)));
        Ok(Self(inner))
    }
}

async fn open_spool(path: &Path, entropy: &Arc<dyn Entropy>, vigil: &Vigil) -> Result<SqliteLedger, OpenError> {
    let (path, entropy, vigil) = (path.to_owned(), Arc::clone(entropy), vigil.clone());
    let name = path.display().to_string();
    let opened = tokio::task::spawn_blocking(move || SqliteLedger::open_spool(&path, entropy.as_ref(), &vigil)).await;
    opened.unwrap_or_else(|error| Err(OpenError::Engine { path: name, reason: error.to_string() }))
}

/// Drains until the ledger is gone.
async fn drain(inner: Weak<Inner>) {
    let mut after = start();
    loop {
        let Some(ledger) = inner.upgrade() else { return };
        let pause = match ledger.drain_some(&mut after).await {
            Ok(true) => Duration::ZERO,
            Ok(false) => PAUSE,
            Err(error) => {
                tracing::debug!(%error, "the spool can't be drained yet");
                PAUSE
            }
        };
        let clock = Arc::clone(&ledger.clock);
        drop(ledger);
        if !pause.is_zero() {
            clock.sleep_until(clock.monotonic() + pause).await;
        }
    }
}

fn start() -> Cursor {
    Cursor { order: Order::Recorded, key: 0, id: 0 }
}

impl Inner {
    /// The database was written a moment ago.
    fn heard(&self) {
        let now = u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(now, Ordering::Relaxed);
        if self.away.swap(false, Ordering::Relaxed) {
            tracing::info!("the ledger's database is back: certificates are recorded there again");
        }
    }

    /// Whether certificates may leave although the database can't be written: for so long after it was heard last, and after it took one last.
    fn may_spool(&self) -> bool {
        let since = |millis: u64| self.clock.monotonic().saturating_sub(Duration::from_millis(millis)) <= self.settings.max_outage;
        let failing = self.failing.load(Ordering::Relaxed).checked_sub(1);
        since(self.heard.load(Ordering::Relaxed)) && failing.is_none_or(since)
    }

    /// What the database made of a certificate.
    fn note_record(&self, answer: &Result<(), LedgerError>) {
        self.note(answer);
        if matches!(answer, Err(LedgerError::Unavailable(_))) {
            let now = u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX - 1) + 1;
            // An error means that it fails for longer already.
            let _ = self.failing.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        } else {
            self.failing.store(0, Ordering::Relaxed);
        }
    }

    fn spooled(&self, reason: &str) {
        self.database.spools(self.undrained.fetch_add(1, Ordering::Relaxed) + 1);
        if !self.away.swap(true, Ordering::Relaxed) {
            let most = self.settings.max_outage;
            tracing::error!(%reason, "the ledger's database is away: certificates leave all the same and are kept here, for {most:?} at most");
        }
    }

    /// What an answer of the database to a write tells.
    fn note<T>(&self, answer: &Result<T, LedgerError>) {
        match answer {
            Err(LedgerError::Unavailable(_)) => {}
            Err(LedgerError::Fenced(generation)) => {
                self.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|(open, _)| open != generation);
                self.heard();
            }
            _ => self.heard(),
        }
    }

    /// Keeps a certificate here, where it may leave.
    async fn keep(&self, record: CertificateRecord, reason: String) -> Result<(), LedgerError> {
        // A certificate that signs others lives for months and is never that urgent.
        if record.kind == super::Kind::Intermediate {
            return Err(LedgerError::Unavailable(reason));
        }
        let known = self.open.lock().unwrap_or_else(PoisonError::into_inner).iter().find(|(open, _)| *open == record.generation).cloned();
        let Some((generation, authority)) = known.filter(|_| self.may_spool()) else { return Err(LedgerError::Unavailable(reason)) };
        self.be_open().await?;
        let spool = self.spool.read().await;
        let spool = spool.as_ref().ok_or_else(closed)?;
        let issued_at = record.issued_at;
        match spool.record(record.clone()).await {
            // A new file doesn't know the generation yet.
            Err(LedgerError::Fenced(_)) => {
                spool.open_generation(generation, &authority, issued_at).await?;
                spool.record(record).await?;
            }
            other => other?,
        }
        self.spooled(&reason);
        Ok(())
    }

    async fn check_spool(&self) -> Result<(), LedgerError> {
        self.be_open().await?;
        self.spool.read().await.as_ref().ok_or_else(closed)?.check_writable().await
    }

    /// Where the file could not be opened once it was exchanged, it is opened now.
    async fn be_open(&self) -> Result<(), LedgerError> {
        if self.spool.read().await.is_none() {
            self.open_again(&mut *self.spool.write().await).await?;
        }
        Ok(())
    }

    async fn open_again(&self, spool: &mut Option<SqliteLedger>) -> Result<(), LedgerError> {
        if spool.is_none() {
            *spool =
                Some(open_spool(&self.settings.path, &self.entropy, &self.vigil).await.map_err(|error| LedgerError::Unavailable(error.to_string()))?);
        }
        Ok(())
    }

    /// Drains a share; returns whether there may be more.
    async fn drain_some(&self, after: &mut Cursor) -> Result<bool, LedgerError> {
        if self.undrained.load(Ordering::Relaxed) == 0 {
            return Ok(false);
        }
        self.be_open().await?;
        let page = {
            let spool = self.spool.read().await;
            let spool = spool.as_ref().ok_or_else(closed)?;
            spool.follow(&CertificateFilter::default(), Some(*after), SHARE, self.clock.now()).await?
        };
        if page.certificates.is_empty() {
            return self.exchange(after).await.map(|()| false);
        }
        let count = u64::try_from(page.certificates.len()).unwrap_or(u64::MAX);
        let replicas = page.certificates.iter().map(|stored| stored.record.replica.clone());
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner).extend(replicas);
        let recorded = page.certificates.into_iter().map(|stored| self.database.record_late(stored.record));
        for answer in futures_util::future::join_all(recorded).await {
            match answer {
                Ok(()) => {}
                // Nothing that trying again would change.
                Err(LedgerError::Duplicate(what)) => tracing::error!("{what} is on record for another certificate: the one in the spool is not"),
                Err(error) => return Err(error),
            }
        }
        self.heard();
        // At least one stays until the file is exchanged: something may have come in meanwhile.
        let left = self.undrained.load(Ordering::Relaxed).saturating_sub(count).max(1);
        self.undrained.store(left, Ordering::Relaxed);
        self.database.spools(left);
        if let Some(next) = page.next {
            *after = next;
        }
        Ok(true)
    }

    /// Everything is drained: begins with an empty file again, unless something came in meanwhile.
    async fn exchange(&self, after: &mut Cursor) -> Result<(), LedgerError> {
        let mut spool = self.spool.write().await;
        let rest = match spool.as_ref() {
            Some(spool) => spool.follow(&CertificateFilter::default(), Some(*after), 1, self.clock.now()).await?.certificates,
            None => Vec::new(),
        };
        if !rest.is_empty() {
            return Ok(());
        }
        // Until here the database says that something is undrained: gates read it.
        let replicas: Vec<String> = self.replicas.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
        self.database.spools(0);
        self.database.drained(replicas).await?;
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner).clear();
        // A file that was removed by half is drained from its beginning again: what is on record already counts as drained.
        *after = start();
        let (old, path) = (spool.take(), self.settings.path.clone());
        let unavailable = |error: &dyn std::fmt::Display| LedgerError::Unavailable(error.to_string());
        let removed = tokio::task::spawn_blocking(move || {
            // Closed first: it would write into what comes after it.
            drop(old);
            ["", "-wal", "-shm"].iter().try_for_each(|suffix| {
                let mut file = path.clone().into_os_string();
                file.push(suffix);
                std::fs::remove_file(&file).or_else(|error| if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
            })
        });
        removed.await.map_err(|error| unavailable(&error))?.map_err(|error| unavailable(&error))?;
        self.undrained.store(0, Ordering::Relaxed);
        tracing::info!("the spool is drained");
        self.open_again(&mut spool).await
    }
}

fn closed() -> LedgerError {
    LedgerError::Unavailable("the spool is closed".to_owned())
}

#[async_trait]
impl Ledger for Spooling {
    fn id(&self) -> &str {
        self.0.database.id()
    }

    async fn record(&self, record: CertificateRecord) -> Result<(), LedgerError> {
        let answer = self.0.database.record(record.clone()).await;
        self.0.note_record(&answer);
        match answer {
            Err(LedgerError::Unavailable(reason)) => self.0.keep(record, reason).await,
            other => other,
        }
    }

    async fn open_generation(&self, generation: GenerationNumber, authority: &AuthorityId, now: OffsetDateTime) -> Result<(), LedgerError> {
        let answer = self.0.database.open_generation(generation, authority, now).await;
        self.0.note(&answer);
        if answer.is_ok() {
            self.0.open.lock().unwrap_or_else(PoisonError::into_inner).insert((generation, authority.clone()));
        }
        answer
    }

    async fn close_generation(&self, generation: GenerationNumber, now: OffsetDateTime) -> Result<(), LedgerError> {
        // Before it is closed there: from here on nothing of it is kept.
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|(open, _)| *open != generation);
        let answer = self.0.database.close_generation(generation, now).await;
        self.0.note(&answer);
        answer
    }

    async fn record_bundle(&self, number: u64, pem: &str, now: OffsetDateTime) -> Result<(), LedgerError> {
        self.0.database.record_bundle(number, pem, now).await
    }

    async fn audit(&self, entry: AuditEntry) -> Result<(), LedgerError> {
        self.0.database.audit(entry).await
    }

    async fn audits(&self, before: Option<u64>, limit: u32) -> Result<AuditPage, LedgerError> {
        self.0.database.audits(before, limit).await
    }

    async fn replica_serves(&self, replica: &str, generation: GenerationNumber, bundle_number: u64, now: OffsetDateTime) -> Result<(), LedgerError> {
        self.0.database.replica_serves(replica, generation, bundle_number, now).await
    }

    async fn latest_bundle(&self) -> Result<Option<u64>, LedgerError> {
        self.0.database.latest_bundle().await
    }

    async fn high_water(&self) -> Result<u64, LedgerError> {
        self.0.database.high_water().await
    }

    async fn last_sequence(&self, replica: &str) -> Result<Option<u64>, LedgerError> {
        self.0.database.last_sequence(replica).await
    }

    async fn find_leaf(&self, issuer: &AuthorityId, serial: &[u8], sha256: &[u8; 32]) -> Result<Option<StoredCertificate>, LedgerError> {
        let found = self.0.database.find_leaf(issuer, serial, sha256).await;
        if matches!(found, Ok(Some(_))) || self.0.undrained.load(Ordering::Relaxed) == 0 {
            return found;
        }
        let spool = self.0.spool.read().await;
        match spool.as_ref().ok_or_else(closed)?.find_leaf(issuer, serial, sha256).await? {
            Some(kept) => Ok(Some(kept)),
            None => found,
        }
    }

    async fn find_serial(&self, serial: &[u8]) -> Result<Vec<StoredCertificate>, LedgerError> {
        let mut found = self.0.database.find_serial(serial).await?;
        if self.0.undrained.load(Ordering::Relaxed) > 0 {
            let spool = self.0.spool.read().await;
            let kept = spool.as_ref().ok_or_else(closed)?.find_serial(serial).await?;
            let new: Vec<_> = kept.into_iter().filter(|kept| found.iter().all(|found| found.record.sha256 != kept.record.sha256)).collect();
            found.splice(0..0, new);
        }
        Ok(found)
    }

    async fn holder(&self, holder: &HolderId) -> Result<Option<HolderRecord>, LedgerError> {
        self.0.database.holder(holder).await
    }

    async fn list(&self, filter: &CertificateFilter, after: Option<Cursor>, limit: u32, now: OffsetDateTime) -> Result<Page, LedgerError> {
        self.0.database.list(filter, after, limit, now).await
    }

    async fn follow(&self, filter: &CertificateFilter, after: Option<Cursor>, limit: u32, now: OffsetDateTime) -> Result<Page, LedgerError> {
        self.0.database.follow(filter, after, limit, now).await
    }

    async fn stats(&self, now: OffsetDateTime) -> Result<Stats, LedgerError> {
        self.0.database.stats(now).await
    }

    async fn prune(&self, before: OffsetDateTime, limit: u32) -> Result<u32, LedgerError> {
        self.0.database.prune(before, limit).await
    }

    async fn undrained(&self) -> Result<u64, LedgerError> {
        self.0.database.undrained().await
    }

    /// Also well while the database is away, as long as certificates may leave and the spool can be written.
    async fn check_writable(&self) -> Result<(), LedgerError> {
        let answer = self.0.database.check_writable().await;
        self.0.note(&answer);
        let stands_in = matches!(answer, Err(LedgerError::Unavailable(_))) && self.0.may_spool();
        let answer = if stands_in {
            self.0.away.store(true, Ordering::Relaxed);
            // A volume that hangs is as good as a full one.
            let silent = || Err(LedgerError::Unavailable("the spool's disk doesn't answer".to_owned()));
            within(self.0.clock.as_ref(), SPOOL_PROBE, self.0.check_spool()).await.unwrap_or_else(silent)
        } else {
            answer
        };
        self.0.broken.store(stands_in && answer.is_err(), Ordering::Relaxed);
        answer
    }

    fn figures(&self) -> Figures {
        let Inner { undrained, away, broken, .. } = self.0.as_ref();
        let (undrained, away, spool_broken) = (undrained.load(Ordering::Relaxed), away.load(Ordering::Relaxed), broken.load(Ordering::Relaxed));
        Figures { undrained, away, spool_broken, ..self.0.database.figures() }
    }
}
