//! What signs: the authority state (one small document), the rules by which it changes, and the snapshot that a request is answered from.

mod state;

pub use state::{
    Authority, AuthorityId, AuthorityState, GenerationNumber, HistoryEntry, KeyRef, LedgerMark, MadeBy, Origin, Phase, Role, Rotation, StateError,
    TrustEntry,
};
