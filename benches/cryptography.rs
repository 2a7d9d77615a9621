//! The cryptography that a certificate costs at least on this machine, as `meshmint bench --floor` measures it: `cargo bench --bench cryptography`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::Duration;

use meshmint::cli::bench::floor::Floor;

fn main() {
    let floor = Floor::measure(Duration::from_secs(2)).unwrap();
    let rows = [
        ("P-256 verify (CSR)", floor.p256_verify_us),
        ("P-256 sign (leaf)", floor.p256_sign_us),
        ("RS256 verify (token)", floor.rs256_verify_us),
        ("TLS 1.3 handshake, server's half", floor.handshake_us),
        ("sum", floor.sum_us()),
        ("sum + handshake", floor.sum_with_handshake_us()),
    ];
    for (what, microseconds) in rows {
        println!("{what:<34} {microseconds:>9.1} µs CPU");
    }
}
