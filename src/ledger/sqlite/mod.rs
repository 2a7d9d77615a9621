//! The ledger in one SQLite file, for one replica: the default.
//!
//! Writes go through a bounded queue to one thread ([`writer`]), which commits all that waits together; questions run on connections
//! of their own ([`readers`]). A certificate is appended to one table, and indexed and counted later, with some thousand others
//! ([`indexing`]); every question looks at both. The log is flushed at each commit (WAL, `synchronous = FULL`), so what was acknowledged survives the loss of
//! power. Full disks, failing flushes, deleted files: the answer is Unavailable until they are over, and then all goes on by itself.

mod accounts;
mod checkpoint;
mod commands;
mod entry;
mod indexing;
mod lists;
mod place;
mod pruning;
mod queries;
mod queue;
mod readers;
mod recent;
mod rows;
mod schema;
mod stats;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use time::OffsetDateTime;
use tokio::sync::oneshot;

use self::accounts::Accounts;
use self::checkpoint::Checkpoints;
use self::commands::Command;
use self::indexing::Index;
use self::place::Place;
use self::queue::{Refused, Sender};
use self::readers::Readers;
use self::recent::Recent;
use self::writer::{Done, Job, Opened, Writer};
use super::query::Order;
use super::{
    AuditEntry, AuditPage, CertificateFilter, CertificateRecord, CommitWatch, Cursor, Figures, HolderId, HolderRecord, Ledger, LedgerError,
    OpenError, Page, Stats, StoredCertificate,
};
use crate::authority::{AuthorityId, GenerationNumber};
use crate::clock::{Entropy, random_id};
use crate::tasks::Vigil;

/// How many commands may wait for the writer. About four transactions: whoever comes later would not be answered in time.
const QUEUE: usize = 8_192;

/// How many certificates one command of [`Ledger::prune`] takes: records wait behind it for some milliseconds at most.
const PRUNED_AT_ONCE: u32 = 50;

/// A ledger in a file. Dropping it waits until what is queued is committed and the log is merged into the file.
#[derive(Debug)]
pub struct SqliteLedger {
    id: String,
    /// `None` only while it is dropped.
    queue: Option<Sender<Job>>,
    /// The writer and the one that moves its log, in the order in which they end.
    threads: Vec<JoinHandle<()>>,
    readers: Arc<Readers>,
    accounts: Arc<Accounts>,
    recent: Arc<Recent>,
}

impl SqliteLedger {
    /// Opens the ledger at `path`; makes one (mode 0600, with a new random id) where there is no file or an empty one, in a folder
    /// that exists. Older schemas are brought up to date. Blocks for some disk writes.
    ///
    /// # Errors
    /// [`OpenError`]; a file that is refused stays as it was.
    pub fn open(path: &Path, entropy: &dyn Entropy) -> Result<Self, OpenError> {
        Self::open_with(path, entropy, schema::LADDER, None, &Vigil::default())
    }

    /// The same, with somebody who is told of every commit, and one who notices where nobody writes any more.
    ///
    /// # Errors
    /// As [`SqliteLedger::open`].
    pub fn open_watched(path: &Path, entropy: &dyn Entropy, watch: CommitWatch) -> Result<Self, OpenError> {
        let vigil = watch.vigil.clone();
        Self::open_with(path, entropy, schema::LADDER, Some(watch), &vigil)
    }

    /// The same for one that stands in for another ledger, whose commits nobody counts.
    pub(super) fn open_spool(path: &Path, entropy: &dyn Entropy, vigil: &Vigil) -> Result<Self, OpenError> {
        Self::open_with(path, entropy, schema::LADDER, None, vigil)
    }

    fn open_with(path: &Path, entropy: &dyn Entropy, ladder: &[&str], watch: Option<CommitWatch>, vigil: &Vigil) -> Result<Self, OpenError> {
        let name = path.display().to_string();
        let failed = |reason: String| OpenError::Engine { path: name.clone(), reason };
        let fresh_id = random_id(entropy, 16).map_err(|error| failed(error.to_string()))?;
        let place = Place::create_or_find(path)?;
        let refused = |error: rusqlite::Error| schema::refusal(&name, &error);

        let mut connection = writer::open_connection(&place).map_err(refused)?;
        // Before anything is changed: the file may be somebody else's.
        let id = schema::upgrade(&mut connection, &name, ladder, &fresh_id)?;
        schema::configure_writer(&connection).map_err(failed)?;
        // The bare file must hold the id: that is where it is looked for when files were swapped. It also opens the log.
        connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).map_err(refused)?;
        let identity = place.identity().map_err(failed)?;

        let recent = Arc::new(Recent::default());
        let index = Index::load(&mut connection, &recent).map_err(refused)?;
        let indexed = connection.query_row("SELECT coalesce(sum(total), 0) FROM classes", [], |row| rows::counter(row, 0)).map_err(refused)?;
        let accounts = Arc::new(Accounts::new(watch, indexed, index.waiting()));

        let readers = Arc::new(Readers::new(place.clone()));
        let (queue, jobs) = queue::bounded(QUEUE);
        let opened = Opened { connection, identity, index: Some(index) };
        let no_thread = |error: std::io::Error| failed(error.to_string());
        let (checkpoints, checkpointing) = Checkpoints::start(Arc::clone(&readers), vigil.living("ledger's checkpoints")).map_err(no_thread)?;
        let writer =
            Writer::new(place, id.clone(), opened, Arc::clone(&readers), Arc::clone(&recent), Arc::clone(&accounts), checkpoints).map_err(refused)?;
        let living = vigil.living("ledger's writer");
        let work = move || {
            writer.run(jobs);
            living.is_over();
        };
        let writing = std::thread::Builder::new().name("ledger".to_owned()).spawn(work).map_err(no_thread)?;
        Ok(Self { id, queue: Some(queue), threads: vec![writing, checkpointing], readers, recent, accounts })
    }

    async fn write(&self, command: Command) -> Result<Done, LedgerError> {
        let unavailable = |reason: &str| LedgerError::Unavailable(reason.to_owned());
        let (reply, answer) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or_else(|| unavailable("it is closed"))?;
        queue.send(Job { command, reply }).map_err(|refused| match refused {
            Refused::Full => unavailable("too many writes are waiting"),
            Refused::Closed => unavailable("its writer has ended"),
        })?;
        answer.await.map_err(|_| unavailable("its writer has ended"))?
    }
}

#[async_trait]
impl Ledger for SqliteLedger {
    fn id(&self) -> &str {
        &self.id
    }

    async fn record(&self, record: CertificateRecord) -> Result<(), LedgerError> {
        self.write(Command::Record(Box::new(record))).await.map(drop)
    }

    async fn open_generation(&self, generation: GenerationNumber, authority: &AuthorityId, now: OffsetDateTime) -> Result<(), LedgerError> {
        self.write(Command::OpenGeneration { generation, authority: authority.clone(), now }).await.map(drop)
    }

    async fn close_generation(&self, generation: GenerationNumber, now: OffsetDateTime) -> Result<(), LedgerError> {
        // The queue is in order: what was under way is in before it, what comes later is fenced.
        self.write(Command::CloseGeneration { generation, now }).await.map(drop)
    }

    async fn record_bundle(&self, number: u64, pem: &str, now: OffsetDateTime) -> Result<(), LedgerError> {
        self.write(Command::RecordBundle { number, pem: pem.to_owned(), now }).await.map(drop)
    }

    async fn audit(&self, entry: AuditEntry) -> Result<(), LedgerError> {
        self.write(Command::Audit(entry)).await.map(drop)
    }

    async fn audits(&self, before: Option<u64>, limit: u32) -> Result<AuditPage, LedgerError> {
        self.readers.ask(move |connection| queries::audits(connection, before, limit)).await
    }

    async fn replica_serves(&self, replica: &str, generation: GenerationNumber, bundle_number: u64, now: OffsetDateTime) -> Result<(), LedgerError> {
        self.write(Command::ReplicaServes { replica: replica.to_owned(), generation, bundle_number, now }).await.map(drop)
    }

    async fn latest_bundle(&self) -> Result<Option<u64>, LedgerError> {
        self.readers.ask(|connection| queries::latest_bundle(connection)).await
    }

    async fn high_water(&self) -> Result<u64, LedgerError> {
        self.readers.ask(|connection| queries::high_water(connection)).await
    }

    async fn last_sequence(&self, replica: &str) -> Result<Option<u64>, LedgerError> {
        let replica = replica.to_owned();
        self.readers.ask(move |connection| queries::last_sequence(connection, &replica)).await
    }

    async fn find_leaf(&self, issuer: &AuthorityId, serial: &[u8], sha256: &[u8; 32]) -> Result<Option<StoredCertificate>, LedgerError> {
        let (issuer, serial, sha256, recent) = (issuer.clone(), serial.to_owned(), *sha256, Arc::clone(&self.recent));
        self.readers.ask(move |connection| queries::find_leaf(connection, &recent, &issuer, &serial, &sha256)).await
    }

    async fn find_serial(&self, serial: &[u8]) -> Result<Vec<StoredCertificate>, LedgerError> {
        let (serial, recent) = (serial.to_owned(), Arc::clone(&self.recent));
        self.readers.ask(move |connection| queries::find_serial(connection, &recent, &serial)).await
    }

    async fn holder(&self, holder: &HolderId) -> Result<Option<HolderRecord>, LedgerError> {
        let holder = holder.clone();
        self.readers.ask(move |connection| queries::holder(connection, &holder)).await
    }

    async fn list(&self, filter: &CertificateFilter, after: Option<Cursor>, limit: u32, now: OffsetDateTime) -> Result<Page, LedgerError> {
        let filter = filter.clone();
        let order = Order::of(&filter);
        if after.is_some_and(|after| after.order != order) {
            return Err(LedgerError::ForeignCursor);
        }
        self.readers.ask(move |connection| lists::list(connection, &filter, after, limit, now)).await
    }

    async fn follow(&self, filter: &CertificateFilter, after: Option<Cursor>, limit: u32, now: OffsetDateTime) -> Result<Page, LedgerError> {
        let filter = filter.clone();
        if after.is_some_and(|after| after.order != Order::Recorded) {
            return Err(LedgerError::ForeignCursor);
        }
        self.readers.ask(move |connection| lists::follow(connection, &filter, after, limit, now)).await
    }

    async fn stats(&self, now: OffsetDateTime) -> Result<Stats, LedgerError> {
        self.readers.ask(move |connection| stats::stats(connection, now)).await
    }

    async fn prune(&self, before: OffsetDateTime, limit: u32) -> Result<u32, LedgerError> {
        let mut pruned = 0;
        while pruned < limit {
            let share = PRUNED_AT_ONCE.min(limit - pruned);
            let done = self.write(Command::Prune { before, limit: share }).await?;
            pruned += done.pruned;
            if !done.more {
                break;
            }
        }
        Ok(pruned)
    }

    fn figures(&self) -> Figures {
        self.accounts.figures(self.queue.as_ref().map_or(0, Sender::len), QUEUE)
    }

    async fn check_writable(&self) -> Result<(), LedgerError> {
        self.write(Command::CheckWritable).await.map(drop)
    }
}

impl Drop for SqliteLedger {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the ledger ended in a panic");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::clock::SystemEntropy;

    const NOW: OffsetDateTime = datetime!(2026-11-01 12:00 UTC);

    fn open(folder: &tempfile::TempDir, ladder: &[&str]) -> Result<SqliteLedger, OpenError> {
        SqliteLedger::open_with(&folder.path().join("ledger.db"), SystemEntropy::shared().as_ref(), ladder, None, &Vigil::default())
    }

    #[tokio::test]
    async fn a_panic_of_the_writer_is_answered_and_survived() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = open(&folder, schema::LADDER).unwrap();
        ledger.record_bundle(1, "before", NOW).await.unwrap();
        for _ in 0..3 {
            // Polled in this order, so the bundle stands before the panic, mostly in the same transaction.
            let (_, panicked) = tokio::join!(ledger.record_bundle(2, "with", NOW), ledger.write(Command::Panic));
            assert!(matches!(&panicked, Err(LedgerError::Unavailable(reason)) if reason.contains("panicked")), "{panicked:?}");
        }
        ledger.record_bundle(3, "after", NOW).await.unwrap();
        assert!(matches!(ledger.record_bundle(1, "other", NOW).await, Err(LedgerError::Duplicate(_))));
        assert_eq!(ledger.last_sequence("nobody").await, Ok(None));
    }

    #[tokio::test]
    async fn a_transaction_that_panicked_left_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::create_or_find(&folder.path().join("ledger.db")).unwrap();
        let (queue, jobs) = queue::bounded(8);
        let mut answers = Vec::new();
        let bundle = |number, pem: &str| Command::RecordBundle { number, pem: pem.to_owned(), now: NOW };
        // Queued before the writer starts: surely one transaction.
        for command in [bundle(1, "one"), Command::Panic, bundle(2, "two")] {
            let (reply, answer) = oneshot::channel();
            queue.send(Job { command, reply }).unwrap();
            answers.push(answer);
        }
        let mut connection = writer::open_connection(&place).unwrap();
        let id = schema::upgrade(&mut connection, "x", schema::LADDER, "id").unwrap();
        schema::configure_writer(&connection).unwrap();
        connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
        let identity = place.identity().unwrap();
        let readers = Arc::new(Readers::new(place.clone()));
        let recent = Arc::new(Recent::default());
        let index = Some(Index::load(&mut connection, &recent).unwrap());
        let (checkpoints, _) = Checkpoints::start(Arc::clone(&readers), Vigil::default().living("checkpoints")).unwrap();
        let opened = Opened { connection, identity, index };
        let writer = Writer::new(place, id, opened, readers, recent, Arc::new(Accounts::new(None, 0, 0)), checkpoints).unwrap();
        let thread = std::thread::spawn(move || writer.run(jobs));
        for answer in answers {
            assert!(matches!(answer.await.unwrap(), Err(LedgerError::Unavailable(_))));
        }
        drop(queue);
        thread.join().unwrap();
        let ledger = open(&folder, schema::LADDER).unwrap();
        ledger.record_bundle(1, "another", NOW).await.unwrap();
        ledger.record_bundle(2, "another", NOW).await.unwrap();
    }

    #[tokio::test]
    async fn bytes_changed_below_a_closed_connection_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, kept) = (folder.path().join("ledger.db"), folder.path().join("kept.db"));
        drop(open(&folder, schema::LADDER).unwrap());
        std::fs::copy(&path, &kept).unwrap();
        let stranger = tempfile::tempdir().unwrap();
        let other = open(&stranger, schema::LADDER).unwrap();
        let other_id = other.id().to_owned();
        drop(other);

        let ledger = open(&folder, schema::LADDER).unwrap();
        ledger.record_bundle(1, "one", NOW).await.unwrap();
        // A panic closes every connection before it is answered; copying over the file keeps its inode.
        assert!(ledger.write(Command::Panic).await.is_err());
        let newest = std::fs::read(&path).unwrap();
        for (bytes, told) in [(kept, "rolled back"), (stranger.path().join("ledger.db"), other_id.as_str())] {
            std::fs::copy(bytes, &path).unwrap();
            for _ in 0..2 {
                let refused = ledger.check_writable().await;
                assert!(matches!(&refused, Err(LedgerError::Unavailable(reason)) if reason.contains(told)), "{refused:?}");
                assert!(ledger.last_sequence("nobody").await.is_err());
            }
        }
        std::fs::write(&path, newest).unwrap();
        let taken = ledger.record_bundle(1, "other", NOW).await;
        assert!(matches!(taken, Err(LedgerError::Duplicate(_))), "{taken:?}");
    }

    #[tokio::test]
    async fn a_full_queue_is_refused_at_once() {
        let (queue, jobs) = queue::bounded(1);
        let folder = tempfile::tempdir().unwrap();
        let place = Place::create_or_find(&folder.path().join("ledger.db")).unwrap();
        let ledger = SqliteLedger {
            id: "id".to_owned(),
            queue: Some(queue),
            threads: Vec::new(),
            readers: Arc::new(Readers::new(place)),
            recent: Arc::default(),
            accounts: Arc::new(Accounts::new(None, 0, 0)),
        };
        let (waiting, refused) = tokio::join!(ledger.write(Command::CheckWritable), async {
            let refused = ledger.check_writable().await;
            // Nobody answers the first: its writer ends.
            drop(jobs);
            refused
        });
        assert_eq!(refused, Err(LedgerError::Unavailable("too many writes are waiting".to_owned())));
        assert_eq!(waiting, Err(LedgerError::Unavailable("its writer has ended".to_owned())));
        assert_eq!(ledger.check_writable().await, Err(LedgerError::Unavailable("its writer has ended".to_owned())));
        assert!(matches!(ledger.last_sequence("a").await, Err(LedgerError::Unavailable(_))), "never opened");
    }

    #[tokio::test]
    async fn an_older_ledger_is_brought_up_to_date_and_then_too_new_for_the_older_program() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = open(&folder, schema::LADDER).unwrap();
        ledger.record_bundle(1, "one", NOW).await.unwrap();
        let id = ledger.id().to_owned();
        drop(ledger);

        let longer = [schema::LADDER, &["ALTER TABLE bundles ADD COLUMN note TEXT"]].concat();
        let ledger = open(&folder, &longer).unwrap();
        assert_eq!(ledger.id(), id);
        assert!(matches!(ledger.record_bundle(1, "other", NOW).await, Err(LedgerError::Duplicate(_))));
        drop(ledger);

        let refused = open(&folder, schema::LADDER).unwrap_err();
        assert!(matches!(refused, OpenError::TooNew { found: 3, known: 2, .. }), "{refused}");
    }
}
