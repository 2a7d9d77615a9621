//! What signs: the authority state (one small document), the rules by which it changes, and the snapshot that a request is answered from.

mod accepted;
mod birth;
mod generation;
mod import;
mod outlook;
pub mod rotation;
mod state;
#[cfg(test)]
pub(crate) mod testing;
mod trust;

pub use accepted::{AcceptedIssuers, PresentedLeaf, Rejection};
pub use birth::{AuthorityPolicy, BirthError, Certified, certify_intermediate, certify_issuing, first_state, issuing_name, make_root};
pub use generation::{Generation, GenerationError};
pub use import::{ImportError, Imported, MAX_ROOTS, import, refused_by_peers_in};
pub use outlook::{Held, Outlook};
pub use state::{
    Authority, AuthorityId, AuthorityState, GenerationNumber, HistoryEntry, KeyRef, LedgerMark, MadeBy, Origin, Phase, Role, Rotation, StateError,
    TrustEntry,
};
pub use trust::{ForeignRoot, Joining, TrustError, foreign_root};
