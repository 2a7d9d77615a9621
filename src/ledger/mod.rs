//! The ledger: every certificate is durable here before anyone can see it.
//!
//! It is also the fence: a record is accepted only while the generation that signed is open, checked in the same transaction,
//! so a process that was frozen through a rotation can't answer from the old root. [`Ledger`] is what a backend must do;
//! `tests/ledger_conformance.rs` is one suite that is run against each of them.

mod class;
mod figures;
pub mod postgres;
mod query;
mod record;
pub mod spool;
pub mod sqlite;

use std::fmt::Debug;

use async_trait::async_trait;
use time::OffsetDateTime;

pub use figures::{CommitObserver, CommitWatch, Figures, Standby};
pub use query::{AuditPage, CertificateFilter, Cursor, NotACursor, Page, State, Stats, StatsRow};
pub use record::{AuditEntry, CertificateRecord, CredentialKind, HolderId, HolderRecord, Kind, Revocation, StoredCertificate};

use crate::authority::{AuthorityId, GenerationNumber};

/// Where certificates are recorded. All methods may be called at once from any task.
#[async_trait]
pub trait Ledger: Send + Sync + Debug {
    /// The random id that this ledger was made with. The authority state remembers it, so a lost or replaced ledger is noticed.
    fn id(&self) -> &str;

    /// Records one certificate (and, where it has a holder and none issued later is on record, that it is the holder's latest).
    /// When this returns `Ok`, the record survives the loss of power. Concurrent calls are committed together. A caller that stops
    /// waiting doesn't know whether it was recorded.
    ///
    /// # Errors
    /// [`LedgerError::Fenced`] where `generation` is not open; [`LedgerError::Duplicate`] where (issuer, serial) exists;
    /// [`LedgerError::Unavailable`] for everything else: nothing was recorded then, or nobody can know, and the certificate must not leave.
    async fn record(&self, record: CertificateRecord) -> Result<(), LedgerError>;

    /// Opens a generation; opening an open one changes nothing, a closed one is never opened again.
    ///
    /// # Errors
    /// [`LedgerError::Fenced`] where it was closed; [`LedgerError::Duplicate`] where it is open for another authority: two must not share a
    /// fence; [`LedgerError::Unavailable`].
    async fn open_generation(&self, generation: GenerationNumber, authority: &AuthorityId, now: OffsetDateTime) -> Result<(), LedgerError>;

    /// Closes a generation for ever, once every record of it that was under way is in. The first closing time stays.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    async fn close_generation(&self, generation: GenerationNumber, now: OffsetDateTime) -> Result<(), LedgerError>;

    /// Remembers the bytes of a bundle under its number; the same number with the same bytes again changes nothing.
    ///
    /// # Errors
    /// [`LedgerError::Duplicate`] where the number has other bytes; [`LedgerError::Unavailable`].
    async fn record_bundle(&self, number: u64, pem: &str, now: OffsetDateTime) -> Result<(), LedgerError>;

    /// Appends to the audit of operators' actions.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    async fn audit(&self, entry: AuditEntry) -> Result<(), LedgerError>;

    /// One page of at most `limit` (from 1 to 1,000) entries of the audit, the newest first; with `before`, only those with a smaller number.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    async fn audits(&self, before: Option<u64>, limit: u32) -> Result<AuditPage, LedgerError>;

    /// The highest number of a bundle on record; `None` where there is none.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    async fn latest_bundle(&self) -> Result<Option<u64>, LedgerError>;

    /// Notes which generation and bundle `replica` serves now.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    async fn replica_serves(&self, replica: &str, generation: GenerationNumber, bundle_number: u64, now: OffsetDateTime) -> Result<(), LedgerError>;

    /// A count that grows with everything that is written: a ledger that shows less than it did was rolled back to an older copy.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    async fn high_water(&self) -> Result<u64, LedgerError>;

    /// The highest sequence number on record for `replica`, `None` before its first record.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    async fn last_sequence(&self, replica: &str) -> Result<Option<u64>, LedgerError>;

    /// The leaf with exactly this issuer, serial and SHA-256 of its DER, if we issued it.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    async fn find_leaf(&self, issuer: &AuthorityId, serial: &[u8], sha256: &[u8; 32]) -> Result<Option<StoredCertificate>, LedgerError>;

    /// All certificates with this serial number (leading zeros don't count), of any issuer and kind.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    async fn find_serial(&self, serial: &[u8]) -> Result<Vec<StoredCertificate>, LedgerError>;

    /// The latest certificate of a holder.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    async fn holder(&self, holder: &HolderId) -> Result<Option<HolderRecord>, LedgerError>;

    /// One page of at most `limit` (from 1 to 1,000) certificates that match, newest first: by the time of issue where the filter bounds
    /// that; otherwise by the minute of notAfter where it bounds that (or asks for what is expired), the latest first; otherwise by
    /// recording. What is equal in that is in the order of recording, the last first.
    ///
    /// # Errors
    /// [`LedgerError::ForeignCursor`] where `after` is of a list in another order; [`LedgerError::Unavailable`].
    async fn list(&self, filter: &CertificateFilter, after: Option<Cursor>, limit: u32, now: OffsetDateTime) -> Result<Page, LedgerError>;

    /// At most `limit` (from 1 to 1,000) certificates that match and were recorded after the cursor, those recorded first first: what
    /// came in meanwhile. Without a cursor, an empty page whose `next` is the end of what is on record now. `next` is always there; what
    /// it leads to may be empty still.
    ///
    /// # Errors
    /// [`LedgerError::ForeignCursor`], [`LedgerError::Unavailable`].
    async fn follow(&self, filter: &CertificateFilter, after: Option<Cursor>, limit: u32, now: OffsetDateTime) -> Result<Page, LedgerError>;

    /// Counts over what is on record.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    async fn stats(&self, now: OffsetDateTime) -> Result<Stats, LedgerError>;

    /// Forgets up to `limit` certificates whose notAfter lies before `before`, the oldest minute first, and holders whose latest
    /// certificate went; returns how many certificates went. In small steps, so that it never stalls the writer: call it again while it
    /// returns `limit`. Once all are gone, it forgets replicas that were not seen since `before` and serve no open generation, and
    /// bundles from before that no certificate on record was answered with. The audit stays.
    ///
    /// A backend that forgets many at once may return more than `limit`, and may keep a certificate until its neighbours are due as well.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    async fn prune(&self, before: OffsetDateTime, limit: u32) -> Result<u32, LedgerError>;

    /// Whether a record could be written now, asked of the engine itself (a write transaction that changes nothing that counts).
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`] with the reason.
    async fn check_writable(&self) -> Result<(), LedgerError>;

    /// How many certificates left while the ledger was away and are not on record yet, of all replicas, as far as they could say so.
    /// Nobody may conclude from what is on record that nobody needs a root while this is not 0.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    async fn undrained(&self) -> Result<u64, LedgerError> {
        Ok(self.figures().undrained)
    }

    /// How much there is and how much waits, without asking the engine.
    fn figures(&self) -> Figures;
}

/// What a ledger could not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The generation is not open (any more): a newer one must sign.
    #[error("generation {0} is not open in the ledger")]
    Fenced(GenerationNumber),
    /// The key of the record is taken.
    #[error("{0} is on record already")]
    Duplicate(&'static str),
    /// The cursor of a list in another order.
    #[error("the page token is of a list in another order")]
    ForeignCursor,
    /// Full disk, lost file, lost connection, a bug in the engine: nothing can be promised.
    #[error("the ledger is unavailable: {0}")]
    Unavailable(String),
}

/// Why a ledger could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The schema is newer than this program.
    #[error("the ledger {path} has schema {found}, this meshmint knows up to {known}: start the newer version that wrote it, or restore a copy")]
    TooNew {
        /// The ledger's place.
        path: String,
        /// Its schema version.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// It is not a ledger of ours.
    #[error("{path} is not a meshmint ledger: {reason}")]
    NotALedger {
        /// The file.
        path: String,
        /// What was found.
        reason: String,
    },
    /// The engine refused.
    #[error("can't open the ledger {path}: {reason}")]
    Engine {
        /// The ledger's place.
        path: String,
        /// The engine's words.
        reason: String,
    },
}
