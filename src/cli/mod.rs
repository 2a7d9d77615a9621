//! One file for each command.

pub mod dev_issuer;
pub mod outcome;
pub mod token;
