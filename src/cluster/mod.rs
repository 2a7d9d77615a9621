//! What is fetched from the cluster: the keys of its token issuers, and whether what a token is bound to still lives.

mod fetch;
pub mod key_sets;
pub mod liveness;

pub use fetch::{FetchError, KeySource};
pub use key_sets::{IssuerStatus, KeySets, KeyTrouble, Timing, TrackedIssuer};
pub use liveness::{Bound, Life, Liveness, NoCluster, WhyGone};
