//! Bounds on what others can make us do: small, pure, without a clock of their own.

pub mod rate;
