//! What the suites of the CSR API share (`tests/api_*.rs`).
#![allow(dead_code, reason = "every suite uses its own part")]

pub(crate) mod csrs;
pub(crate) mod frames;
pub(crate) mod grpc;
pub(crate) mod process;
pub(crate) mod refused;
pub(crate) mod tokens;
