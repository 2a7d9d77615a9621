//! The file store (being built).
