//! Lifetimes of seconds: issuing key and serving certificate are renewed unattended under load, and every answer is whole.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/load.rs"]
mod load;
#[path = "common/process.rs"]
mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::load::{Answer, Client, Key, ask_once, check_ledger, on_record, open_ledger};
use crate::process::{Serve, issuer_folder, meshmint, serve_yaml, token, wait_for};

/// Leaves and the serving certificate of 4 s; the issuing key is renewed after 4 of its 12 s.
const SECONDS: &str = "certificates: { defaultLifetime: 4s, maxLifetime: 4s, backdate: 0s, jitter: 0% }\n\
                       authority: { issuingLifetime: 12s }\n";

/// The generations on record that signed leaves.
fn generations(dir: &Path) -> BTreeSet<u64> {
    let output = meshmint(&["certs", "stats", "-o", "json", "--admin", dir.join("admin.sock").to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let stats: Value = serde_json::from_slice(&output.stdout).unwrap();
    let leaves = stats["rows"].as_array().unwrap().iter().filter(|row| row["kind"] == "KIND_LEAF");
    leaves.map(|row| row["generation"].as_str().unwrap().parse().unwrap()).collect()
}

/// What the state document says now; every key that it refers to is there, unless a newer document no longer refers to it.
fn state_with_its_keys(dir: &Path) -> Value {
    let read = || -> Value { serde_json::from_slice(&std::fs::read(dir.join("state/authority.json")).unwrap()).expect("a whole document") };
    loop {
        let state = read();
        let keys = state["authorities"].as_array().unwrap().iter().filter_map(|each| each["key"].as_str()?.strip_prefix("file:"));
        let missing: Vec<_> = keys.filter(|key| !dir.join(format!("state/keys/{key}.pem")).is_file()).collect();
        if missing.is_empty() {
            return state;
        }
        assert_ne!(read(), state, "the state refers to keys that are not there: {missing:?}");
    }
}

fn keys_of(state: &Value) -> BTreeMap<String, String> {
    let keys = state["authorities"].as_array().unwrap().iter();
    keys.filter_map(|each| Some((each["id"].as_str()?.to_owned(), each["key"].as_str()?.to_owned()))).collect()
}

/// Asks with a token, over connections that live for a while; verifies each answer when it comes.
async fn with_token(csr: SocketAddr, roots: String, token: String, stop: Arc<AtomicBool>) -> (Vec<Answer>, BTreeSet<String>) {
    let (mut answers, mut servers) = (Vec::new(), BTreeSet::new());
    while !stop.load(Ordering::Relaxed) {
        let mut client = Client::connect(csr, &roots, None).await.expect("the serving certificate is always valid");
        servers.insert(client.server_serial());
        for _ in 0..20 {
            let answer = client.ask(Key::any(), Some(&token)).await.expect("no request fails");
            answer.verify().expect("every answer verifies against its own bundle");
            assert_eq!(answer.bundle(), roots, "the bundle's bytes stay");
            answers.push(answer);
        }
    }
    (answers, servers)
}

/// Renews by client certificate, each time with the certificate of the time before; returns how often another generation answered.
async fn by_certificate(csr: SocketAddr, roots: String, token: String, stop: Arc<AtomicBool>) -> usize {
    let mut held = ask_once(csr, &roots, Some(&token)).await.expect("a first certificate");
    let mut crossed = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut client = Client::connect(csr, &roots, Some((&held, Key::any()))).await.expect("connect");
        let renewed = client.ask(Key::any(), None).await.expect("a certificate of an earlier generation still renews");
        renewed.verify().expect("it verifies");
        crossed += usize::from(renewed.intermediates() != held.intermediates());
        held = renewed;
    }
    crossed
}

#[test]
fn keys_are_renewed_under_load_and_nobody_notices() {
    let (folder, issuer) = (tempfile::tempdir().unwrap(), issuer_folder());
    let yaml = serve_yaml(folder.path(), issuer.path(), ", servingLifetime: 4s, requestTimeout: 1s", SECONDS);
    let serve = Serve::start(folder.path(), &yaml);
    let token = token(issuer.path(), "shop", "cart", &[]);
    let roots = state_with_its_keys(folder.path())["trust"][0]["certificate"].as_str().unwrap().to_owned();
    let first_keys = keys_of(&state_with_its_keys(folder.path()));

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let loads: Vec<_> = (0..2).map(|_| runtime.spawn(with_token(serve.csr, roots.clone(), token.clone(), stop.clone()))).collect();
    let renewals = runtime.spawn(by_certificate(serve.csr, roots.clone(), token, stop.clone()));

    // Three generations that signed leaves: two renewals; and the first key destroyed.
    let seen = wait_for("two renewals of the issuing key", || {
        state_with_its_keys(folder.path());
        Some(generations(folder.path())).filter(|seen| seen.len() >= 3)
    });
    let gone = wait_for("the first issuing key to be destroyed", || {
        let state = state_with_its_keys(folder.path());
        let now = keys_of(&state);
        let gone: Vec<String> = first_keys.iter().filter(|(id, _)| !now.contains_key(*id)).map(|(_, key)| key.clone()).collect();
        (!gone.is_empty()).then_some(gone)
    });
    for key in gone {
        let file = folder.path().join(format!("state/keys/{}.pem", key.strip_prefix("file:").unwrap()));
        wait_for("the file of a destroyed key to go", || (!file.exists()).then_some(()));
    }
    stop.store(true, Ordering::Relaxed);

    let (mut answers, mut servers) = (Vec::new(), BTreeSet::new());
    for load in loads {
        let (more, seen) = runtime.block_on(load).unwrap();
        answers.extend(more);
        servers.extend(seen);
    }
    let crossed = runtime.block_on(renewals).unwrap();
    assert!(crossed >= 2, "renewals by certificate crossed {crossed} generations");
    assert!(servers.len() >= 3, "serving certificates seen: {servers:?}");
    let issuers: BTreeSet<_> = answers.iter().map(|answer| answer.intermediates().to_vec()).collect();
    assert!(issuers.len() >= 3, "{} issuing certificates answered", issuers.len());
    assert!(seen.iter().zip(1..).all(|(found, expected)| *found == expected), "generations are counted from 1: {seen:?}");
    assert!(serve.metric("meshmint_generation") >= 3.0);
    assert_eq!(serve.metric("meshmint_authority_failures"), 0.0);

    let serials: BTreeSet<String> = answers.iter().map(Answer::serial).collect();
    assert_eq!(serials.len(), answers.len());
    let ledger = open_ledger(&folder.path().join("ledger.db"));
    check_ledger(&ledger);
    assert!(answers.iter().all(|answer| on_record(&ledger, answer)));
    let outlives: i64 = ledger
        .query_row(
            "SELECT count(*) FROM certificates leaf JOIN certificates ca ON substr(lower(hex(ca.sha256)), 1, 32) = leaf.issuer \
             WHERE leaf.kind = 'leaf' AND leaf.not_after > ca.not_after",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(outlives, 0, "leaves that outlive their issuer");
    drop(ledger);
    let (code, _) = serve.terminate();
    assert_eq!(code, Some(0));
}
