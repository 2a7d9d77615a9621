//! What the keeper of an authority works with, and what can go wrong.

use std::sync::Arc;
use std::time::Duration;

use super::{UpstreamError, UpstreamIssuer};
use tokio::sync::watch;

use crate::authority::{AuthorityId, AuthorityPolicy, AuthorityState, BirthError, GenerationError, GenerationNumber};
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
    /// Whether this replica leads: makes issuing keys and closes generations. Others follow the document. It is about who works, never about what is
    /// right: the store's compare-and-swap and the ledger's fence hold whoever believes to lead.
    pub leading: watch::Receiver<bool>,
    /// What this replica may do with the store.
    pub duty: Duty,
    /// This process.
    pub replica: String,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Names and serials.
    pub entropy: Arc<dyn Entropy>,
}

impl KeeperParts {
    /// Whether a state names the ledger of this replica.
    ///
    /// # Errors
    /// [`KeeperError::OtherLedger`].
    pub(super) fn names_ours(&self, state: &AuthorityState) -> Result<(), KeeperError> {
        match state.ledger.as_ref().filter(|mark| mark.id != self.ledger.id()) {
            Some(mark) => Err(KeeperError::OtherLedger { named: mark.id.clone(), ours: self.ledger.id().to_owned() }),
            None => Ok(()),
        }
    }

    /// Whether this replica believes to lead at this moment.
    pub(super) fn leads(&self) -> bool {
        self.duty == Duty::Keep && *self.leading.borrow()
    }
}

/// What a replica may do with the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// Read and write it, and lead.
    Keep,
    /// Read the document and the issuing keys.
    Follow,
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
    /// The state is older than what the ledger knows was published from it: its replicas would answer with a bundle that lacks roots.
    #[error(
        "the state is an older copy: its trust bundle is number {state}, and the ledger has number {ledger} on record. Restore the newest state, or state \
         and ledger from one backup; where no newer one is left, give this one a new ledger (the records stay in the old one)"
    )]
    Older {
        /// The number of the state's bundle.
        state: u64,
        /// The highest that the ledger knows.
        ledger: u64,
    },
    /// This replica may not found an authority.
    #[error("there is no authority yet, and a replica of role issuer makes none: start one of role authority")]
    NotFounded,
    /// The state and this replica have different ledgers.
    #[error(
        "the state names the ledger {named}, this replica has {ours}: all replicas share one ledger (ledger.postgres.url). Where it is the new one, stop \
         the replicas that have the old one: the next leader notes it"
    )]
    OtherLedger {
        /// The ledger that the state names.
        named: String,
        /// The ledger of this replica.
        ours: String,
    },
    /// Nobody does what must be done before anything can be signed.
    #[error("no issuing key may sign yet, and no replica that leads makes one: look at the Lease and at the log of its holder")]
    NoLeader,
    /// The document in the store is older than what this replica published from it.
    #[error("the state went back from generation {0} and bundle {1}: somebody restored an older copy of it while replicas were running")]
    WentBack(GenerationNumber, u64),
    /// The state belongs to something else.
    #[error("{0}")]
    Foreign(String),
}

impl KeeperError {
    /// Whether the fence of this replica isn't that of the others, so that nothing may be signed here.
    pub(super) fn is_of_the_fence(&self) -> bool {
        matches!(self, Self::OtherLedger { .. })
    }
}
