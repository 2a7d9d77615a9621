//! What an operation refuses. Each door has one table from these to its own protocol.

use super::MAX_WATCHERS;
use crate::authority::AuthorityId;
use crate::ledger::LedgerError;
use crate::pki::PemError;
use crate::rotation::TrustRefusal;
use crate::spiffe::bundle::BundleError;

/// The fewest digits of an authority's id that stand for it.
pub(super) const FEWEST_DIGITS: usize = 4;
/// The longest reason of a change, in bytes.
pub(super) const MAX_REASON: usize = 1_000;

/// Why an operation wasn't done.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// The ledger didn't answer; [`LedgerError::ForeignCursor`] is the question's fault.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The question: not a serial number.
    #[error("a serial number is written in hexadecimal, at most 20 octets, for example 1a:2b:3c or 1a2b3c")]
    Serial,
    /// Nothing has this serial number.
    #[error("no certificate with serial {0} is on record")]
    NoCertificate(String),
    /// As many watch as may.
    #[error("{MAX_WATCHERS} watch already; end one of them first")]
    Watchers,
    /// What goes on for long ends with the server.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The question: not the id of an authority.
    #[error("an authority's id is hexadecimal; at least its first {FEWEST_DIGITS} digits must be given")]
    AuthorityId,
    /// There is no such authority.
    #[error("there is no authority {0}")]
    NoAuthority(String),
    /// The question: it could mean several.
    #[error("several authorities begin with {0}: give more digits")]
    SeveralAuthorities(String),
    /// A bug: the state holds what nobody can read.
    #[error("the certificate of authority {0} can't be read")]
    Unreadable(AuthorityId),
    /// A bug: the published bundle can't be read.
    #[error(transparent)]
    Bundle(#[from] PemError),
    /// A bug: the published bundle can't be written as a SPIFFE document.
    #[error(transparent)]
    BundleDocument(#[from] BundleError),
    /// The question: a change without a reason.
    #[error("a reason must be given: it goes into the audit")]
    NoReason,
    /// The question: a reason that can't be put on record.
    #[error("a reason is one line of at most {MAX_REASON} bytes")]
    Reason,
    /// The question: ztunnel would refuse the whole bundle with this root in it.
    #[error("ztunnel's verifier (rustls-webpki) doesn't take this root: {0}")]
    Verifier(rustls::Error),
    /// The root isn't trusted.
    #[error(transparent)]
    Trust(#[from] TrustRefusal),
    /// A bug.
    #[error("the change ended in a panic")]
    Panicked,
}
