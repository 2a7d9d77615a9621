//! One kit of bounds for every door: who holds how much of what is scarce, whose turn it is, and who goes where there is no room. docs/bounds.md
//! tells an operator what each bound protects.
//!
//! Nothing here knows a protocol. A [`Share`] says on whose account something goes; [`Crowd`] has the places and the bytes of one door's
//! connections; [`FairQueue`] gives turns to work; a [`rate::Rate`] says how often.

pub mod crowd;
pub mod fair_queue;
mod holders;
pub mod rate;
pub mod share;
#[cfg(test)]
mod testing;

pub use crowd::{Crowd, CrowdLimits, Departure, Held, Member, NoRoom, Working};
pub use fair_queue::{FairQueue, Full, Limits, Slot};
pub use share::{Share, Shares};
