//! What the keeper of an authority works with, and what can go wrong.

use std::sync::Arc;
use std::time::Duration;

use super::{UpstreamError, UpstreamIssuer};
use crate::authority::{AuthorityId, AuthorityPolicy, BirthError, GenerationError};
use crate::clock::{Clock, Entropy, NoEntropy};
use crate::ledger::{Ledger, LedgerError};
use crate::pki::{KeyError, SignerError};
use crate::stores::{StateStore, StoreError};

/// What a [`super::Keeper`] works with.
#[derive(Debug)]
pub struct KeeperParts {
    /// Where state and keys live.
    pub store: Arc<dyn StateStore>,
    /// The ledger.
    pub ledger: Arc<dyn Ledger>,
    /// What the operator decided.
    pub policy: AuthorityPolicy,
    /// Who signs issuing keys instead of our own root.
    pub upstream: Option<Arc<dyn UpstreamIssuer>>,
    /// How long a request may be under way.
    pub longest_request: Duration,
    /// This process.
    pub replica: String,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Names and serials.
    pub entropy: Arc<dyn Entropy>,
}

/// Why the authority can't be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A certificate could not be made.
    #[error(transparent)]
    Birth(#[from] BirthError),
    /// The state gives nothing that can sign.
    #[error(transparent)]
    Generation(#[from] GenerationError),
    /// A key could not be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The signing authority and its key don't fit.
    #[error("the authority {0} can't sign: {1}")]
    Signer(AuthorityId, SignerError),
    /// Nobody can sign an issuing key.
    #[error("no root or intermediate with a key is in the state, and no upstream issuer is configured: nothing can sign an issuing key")]
    NoParent,
    /// The upstream issuer.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// Random bytes.
    #[error(transparent)]
    Entropy(#[from] NoEntropy),
    /// A request could not be encoded.
    #[error("the request for an issuing key could not be made: {0}")]
    Request(String),
    /// State and ledger don't belong to the same moment.
    #[error("the state is older than the ledger ({0}): restore both from the same backup, or the state from a later one")]
    Behind(LedgerError),
    /// The state belongs to something else.
    #[error("{0}")]
    Foreign(String),
}
