//! The SQLite ledger (being built).
