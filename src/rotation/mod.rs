//! The loop that asks `authority::rotation::step` what is due, does it, stores the result by compare-and-swap, and publishes a new
//! [`crate::authority::Generation`]. Every action can be repeated, so a crash anywhere is a re-run.

mod keeper;
mod upstream;

pub use keeper::{Founding, Keeper, KeeperError, KeeperParts};
pub use upstream::{IssuingRequest, UpstreamError, UpstreamIssuer};
