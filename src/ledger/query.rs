//! What can be asked of the ledger: filters, pages, counts.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use time::OffsetDateTime;

use super::{AuditEntry, HolderId, Kind, StoredCertificate};
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

/// Where a page ended: opaque to callers, stable while rows are added and pruned. Its text is the page token of the admin API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub(super) order: Order,
    /// Where in this order, before the id.
    pub(super) key: i64,
    pub(super) id: i64,
}

/// In which order a list is: newest first by one of these, then by recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// By recording.
    Recorded,
    /// By the time of issue.
    Issued,
    /// By the minute of notAfter.
    Expiring,
}

impl Order {
    /// What a filter asks for ([`super::Ledger::list`]).
    pub(super) fn of(filter: &CertificateFilter) -> Self {
        if filter.issued_after.or(filter.issued_before).is_some() {
            Self::Issued
        } else if filter.expires_after.or(filter.expires_before).is_some() || filter.state == Some(State::Expired) {
            Self::Expiring
        } else {
            Self::Recorded
        }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = match self.order {
            Order::Recorded => 'r',
            Order::Issued => 'i',
            Order::Expiring => 'e',
        };
        write!(formatter, "{order}{:x}.{:x}", self.key, self.id)
    }
}

impl FromStr for Cursor {
    type Err = NotACursor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut letters = text.chars();
        let order = match letters.next() {
            Some('r') => Order::Recorded,
            Some('i') => Order::Issued,
            Some('e') => Order::Expiring,
            _ => return Err(NotACursor),
        };
        let (key, id) = letters.as_str().split_once('.').ok_or(NotACursor)?;
        // Hexadecimal shows negative numbers by their bits.
        let number = |digits| u64::from_str_radix(digits, 16).map(u64::cast_signed).map_err(|_| NotACursor);
        let cursor = Self { order, key: number(key)?, id: number(id)? };
        // One cursor has one text.
        let given_out = cursor.id >= 0 && (order != Order::Recorded || cursor.key == 0) && cursor.to_string() == text;
        if given_out { Ok(cursor) } else { Err(NotACursor) }
    }
}

/// A text that is no cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the page token is not one that was given out")]
pub struct NotACursor;

/// One page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// In the order of the question.
    pub certificates: Vec<StoredCertificate>,
    /// Where the next page starts; `None` when this was the last.
    pub next: Option<Cursor>,
}

/// One page of the audit of operators' actions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditPage {
    /// Each with its number, the newest first.
    pub entries: Vec<(u64, AuditEntry)>,
    /// Entries before this number are on the next page; `None` when this was the last.
    pub next: Option<u64>,
}

impl AuditPage {
    /// The most entries on a page.
    pub const MOST: u32 = 1_000;

    /// A page of at most `limit` out of one entry more, which tells whether there is a next page.
    pub(super) fn of(mut entries: Vec<(u64, AuditEntry)>, limit: u32) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = entries.len() > limit;
        entries.truncate(limit);
        let next = entries.last().filter(|_| more).map(|(number, _)| *number);
        Self { entries, next }
    }
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
    /// Leaves issued in each of the last 60 whole minutes, oldest first, and as 61st in the minute that runs.
    pub issued_per_minute: Vec<u64>,
    /// Valid leaves by the whole hours until their notAfter, for the next 24 hours: first those within an hour.
    pub expiring_per_hour: Vec<u64>,
    /// Valid leaves by kind of key (`P-256`, `RSA-2048`; `unknown` for what an older version recorded), the most frequent first.
    pub keys: Vec<(String, u64)>,
    /// The same leaves by the lifetime that they were granted, ascending: at most this long and longer than the
    /// class before. [`Duration::MAX`] stands for all that is longer. A class that nobody is in is left out.
    pub lifetimes: Vec<(Duration, u64)>,
}

/// The upper bounds of the classes of [`Stats::lifetimes`], seconds; the last class has none.
pub(super) const LIFETIME_CLASSES: [u64; 7] = [300, 900, 3_600, 6 * 3_600, 12 * 3_600, 24 * 3_600, 7 * 24 * 3_600];

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
