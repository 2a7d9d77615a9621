//! A whole mesh starts at once behind one address (a gateway, a node, a NAT): agents on grpc-go, with pilot-agent's retries, against a server with
//! default limits. How many seconds 10,000 take is measured by `cargo bench --bench agents`; here nobody may be left out, and nobody may have to
//! knock often.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/agents.rs"]
mod agents;
#[path = "common/load.rs"]
mod load;
#[path = "common/process.rs"]
mod process;
#[path = "common/tokens.rs"]
mod tokens;
#[path = "common/tools.rs"]
mod tools;

use std::sync::{Mutex, PoisonError};

use crate::agents::Mesh;

/// A herd has the machine to itself.
static TURN: Mutex<()> = Mutex::new(());

/// As many as a debug build serves in a few seconds.
const CLIENTS: usize = 1000;
/// Two rounds of pilot-agent's inner loop: a debug build can't serve all within the time that a request waits for its turn.
const FEW: u64 = 10;

fn all_are_served(more: &[&str]) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mesh = Mesh::start(CLIENTS);
    let report = mesh.agents(&[], &[&["--herd", &CLIENTS.to_string(), "--duration", "5m"], more].concat());
    assert_eq!(report["served"], CLIENTS, "{report:#}");
    assert!(report["most_tries"].as_u64().unwrap() <= FEW, "{report:#}");
    assert_eq!(mesh.serve.metric("citadel_server_success_cert_issuance_count"), CLIENTS as f64, "{report:#}");
}

#[test]
fn a_herd_from_one_address_is_served() {
    all_are_served(&[]);
}

/// As agents do that have just failed: they dial at once and ask after a pause. Meanwhile their connections hold no place.
#[test]
fn a_herd_that_asks_a_while_after_its_handshakes_is_served() {
    all_are_served(&["--ask-later", "2s"]);
}
