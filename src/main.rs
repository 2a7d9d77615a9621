//! Installs the crypto provider, parses arguments, runs a command.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use meshmint::cli::Cli;
use mimalloc::MiMalloc;

/// Under overload thousands of requests wait and give their memory back in no order, and the system's allocator spends a sixth of the processor
/// on its free lists (docs/performance.md).
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    // ring is the only provider in this build; a second call would be the only way to fail.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        // The exit code says it, too: `eprintln!` would panic where stderr can't be written.
        let _ = writeln!(std::io::stderr(), "meshmint: another crypto provider is installed already");
        return ExitCode::FAILURE;
    }
    Cli::parse().run()
}
