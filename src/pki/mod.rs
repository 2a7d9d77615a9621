//! Certificates: what is taken from a request, what is put into a certificate, and what a person wants to see of one.

pub mod inspect;
mod keys;

pub use keys::{IssuerKey, KeyAlgorithm, KeyError};
