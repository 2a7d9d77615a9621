//! The loop that asks `authority::rotation::step` what is due, does it, stores the result by compare-and-swap, and publishes a new
//! [`crate::authority::Generation`]. Every action can be repeated, so a crash anywhere is a re-run.

mod advance;
mod founding;
mod keeper;
mod missing;
mod parts;
mod publish;
mod successor;
mod sweep;
mod upstream;

pub use founding::Founding;
pub use keeper::{GivenIntermediate, IntermediateOrder, Keeper, TrustOrder, TrustRefusal, Trusted};
pub use missing::{Missing, Part};
pub use parts::{Duty, KeeperError, KeeperParts};
pub use successor::Successor;
pub use upstream::{IssuingRequest, UpstreamError, UpstreamIssuer};
