//! What can be asked of the ledger: filters, pages, counts.

use time::OffsetDateTime;

use super::{HolderId, Kind, StoredCertificate};
use crate::authority::{AuthorityId, GenerationNumber};

/// Which certificates to list. Every field that is set must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateFilter {
    /// Kubernetes namespace.
    pub namespace: Option<String>,
    /// Kubernetes service account.
    pub service_account: Option<String>,
    /// Holder.
    pub holder: Option<HolderId>,
    /// The authority that signed.
    pub issuer: Option<AuthorityId>,
    /// Generation that signed.
    pub generation: Option<GenerationNumber>,
    /// Kind.
    pub kind: Option<Kind>,
    /// State at the time of the question.
    pub state: Option<State>,
    /// Issued at this time or later.
    pub issued_after: Option<OffsetDateTime>,
    /// Issued before this time.
    pub issued_before: Option<OffsetDateTime>,
    /// notAfter at this time or later.
    pub expires_after: Option<OffsetDateTime>,
    /// notAfter before this time.
    pub expires_before: Option<OffsetDateTime>,
}

/// Whether a certificate can still be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Not past its notAfter (which still counts, RFC 5280 §4.1.2.5), and not revoked.
    Valid,
    /// Past its notAfter, and never revoked.
    Expired,
    /// Revoked.
    Revoked,
}

/// Where a page ended: opaque to callers, stable while rows are added and pruned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor(pub u64);

/// One page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Newest first.
    pub certificates: Vec<StoredCertificate>,
    /// Where the next page starts; `None` when this was the last.
    pub next: Option<Cursor>,
}

/// Counts over the ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Certificates on record: the sum of the three states below.
    pub total: u64,
    /// [`State::Valid`].
    pub valid: u64,
    /// [`State::Expired`].
    pub expired: u64,
    /// [`State::Revoked`].
    pub revoked: u64,
    /// Holders whose latest certificate is still valid.
    pub live_holders: u64,
    /// The earliest notAfter among the latest certificates of live holders.
    pub next_expiry: Option<OffsetDateTime>,
    /// Certificates by kind, issuer and generation, in this order (kinds by name).
    pub rows: Vec<StatsRow>,
}

/// Certificates of one kind and generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatsRow {
    /// Kind.
    pub kind: Kind,
    /// Issuer.
    pub issuer: AuthorityId,
    /// Generation.
    pub generation: GenerationNumber,
    /// How many are on record.
    pub total: u64,
    /// How many are still valid.
    pub valid: u64,
}
