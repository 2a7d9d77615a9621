//! meshmint: a SPIFFE certificate authority for Istio meshes.
//!
//! The folders are floors: a lower one never imports a higher one (`docs/architecture.md` has the map, `tests/architecture.rs`
//! holds the code to it). The two pure floors build with `--no-default-features`.
// Tests may unwrap and index: a failure there is the test's answer.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing))]

// Ground floor, pure: names and certificates.
pub mod clock;
pub mod pki;
pub mod spiffe;

// First floor, pure: what signs, and who may ask.
pub mod authority;
pub mod callers;

// Second floor: things that keep, fetch, or bound.
#[cfg(feature = "service")]
pub mod bounds;
#[cfg(feature = "service")]
pub mod cluster;
#[cfg(feature = "service")]
pub mod ledger;
#[cfg(feature = "service")]
pub mod stores;
#[cfg(feature = "service")]
pub mod tasks;

// Third floor: the work.
#[cfg(feature = "service")]
pub mod controllers;
#[cfg(feature = "service")]
pub mod issuance;
#[cfg(feature = "service")]
pub mod rotation;

// Top floor: doors.
#[cfg(feature = "service")]
pub mod cli;
#[cfg(feature = "service")]
pub mod config;
#[cfg(feature = "service")]
pub mod server;
