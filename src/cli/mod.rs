//! The commands: one file for each, and what they share in how they end and print.

pub mod inspect;
pub mod outcome;

pub use outcome::{Outcome, Output};
