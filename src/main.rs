//! Installs the crypto provider, parses arguments, runs a command.
fn main() {}
