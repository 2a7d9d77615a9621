//! openssl as a stranger at the CSR port: protocol versions, ciphers, ALPN, names, tickets, client certificates; and its strict
//! verdict on a chain that was issued.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/process.rs"]
mod process;
#[path = "common/tools.rs"]
mod tools;

use std::fs;
use std::path::Path;

use crate::process::{Dev, meshmint};
use crate::tools::{openssl, pem_blocks};

/// A handshake with `openssl s_client`: whether it ended well, and all that it said. With `-brief` or without, it ends at once,
/// because its standard input does.
fn s_client(dev: &Dev, more: &[&str]) -> (bool, String) {
    let (address, roots) = (dev.csr(), dev.roots());
    let args = ["s_client", "-connect", &address, "-CAfile", path(&roots), "-no-CApath", "-no-CAstore", "-alpn", "h2", "-verify_return_error"];
    let output = openssl(&[&args[..], more].concat());
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// The same, for a handshake that must succeed and verify.
fn handshake(dev: &Dev, more: &[&str]) -> String {
    let (good, said) = s_client(dev, more);
    assert!(good, "{more:?}: {said}");
    assert!(said.contains("Verify return code: 0 (ok)"), "{more:?}: {said}");
    said
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[track_caller]
fn says(said: &str, what: &str) {
    assert!(said.contains(what), "no {what:?} in: {said}");
}

const TLS12_AS_FIPS_AGENTS: [&str; 5] = ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256", "-groups", "P-256"];

#[test]
fn both_versions_with_h2_and_every_name() {
    let dev = Dev::start();
    for name in [["-verify_hostname", "localhost"], ["-verify_hostname", "istiod.istio-system.svc"], ["-verify_ip", "127.0.0.1"]] {
        let old = handshake(&dev, &[&TLS12_AS_FIPS_AGENTS[..], &name].concat());
        says(&old, "New, TLSv1.2, Cipher is ECDHE-ECDSA-AES128-GCM-SHA256");
        says(&old, "Server Temp Key: ECDH, prime256v1, 256 bits");
        says(&old, "ALPN protocol: h2");
        let new = handshake(&dev, &[&["-tls1_3"][..], &name].concat());
        says(&new, "New, TLSv1.3, Cipher is TLS_AES_");
        says(&new, "ALPN protocol: h2");
    }
}

#[test]
fn what_must_not_work() {
    let dev = Dev::start();
    // The witness itself: a name that isn't in the certificate is refused by the same command.
    let (good, said) = s_client(&dev, &["-tls1_3", "-verify_hostname", "somebody-else.example"]);
    assert!(!good, "{said}");
    says(&said, "hostname mismatch");
    // Old versions need a lower security level before openssl even offers them.
    for version in ["-tls1", "-tls1_1"] {
        let (good, said) = s_client(&dev, &[version, "-cipher", "DEFAULT@SECLEVEL=0"]);
        assert!(!good, "{version}: {said}");
        says(&said, "SSL alert number");
    }
    // A cipher without forward secrecy.
    let (good, said) = s_client(&dev, &["-tls1_2", "-cipher", "AES128-GCM-SHA256"]);
    assert!(!good, "{said}");
    says(&said, "SSL alert number 40");
}

#[test]
fn no_session_is_ever_resumed() {
    let dev = Dev::start();
    let folder = tempfile::tempdir().unwrap();
    let session = folder.path().join("session");
    for version in ["-tls1_2", "-tls1_3"] {
        let first = handshake(&dev, &[version, "-sess_out", path(&session)]);
        assert!(!first.contains("TLS session ticket"), "{version}: a ticket was given: {first}");
        // TLS 1.3 without a ticket leaves nothing that could be tried again.
        if session.exists() {
            let second = handshake(&dev, &[version, "-sess_in", path(&session)]);
            says(&second, "New, TLSv1");
            assert!(!second.contains("Reused, "), "{version}: {second}");
        }
        _ = fs::remove_file(&session);
    }
    let reconnected = handshake(&dev, &["-tls1_2", "-reconnect"]);
    assert_eq!(reconnected.matches("New, TLSv1.2").count(), 6, "one handshake and five reconnects, all from the start: {reconnected}");
}

#[test]
fn a_client_certificate_is_asked_for_not_required_and_judged_later() {
    let dev = Dev::start();
    let folder = tempfile::tempdir().unwrap();
    let (key, certificate) = (folder.path().join("key.pem"), folder.path().join("cert.pem"));
    let args = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=stranger", "-days", "1"];
    let made = openssl(&[&args[..], &["-keyout", path(&key), "-out", path(&certificate)]].concat());
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));

    for version in ["-tls1_2", "-tls1_3"] {
        let without = handshake(&dev, &[version]);
        says(&without, "Requested Signature Algorithms");
        says(&without, "No client certificate CA names sent");
        handshake(&dev, &[version, "-cert", path(&certificate), "-key", path(&key)]);
    }
}

#[test]
fn strict_verification_of_an_issued_chain() {
    let dev = Dev::start();
    let folder = tempfile::tempdir().unwrap();
    let (token_file, leaf, out) = (folder.path().join("token"), folder.path().join("leaf.pem"), folder.path().join("out"));
    fs::write(&token_file, dev.token("demo", "web", &[])).unwrap();
    let (address, roots) = (dev.csr(), dev.roots());
    let args = ["request", "--address", &address, "--roots", path(&roots), "--token-file", path(&token_file), "--out-dir", path(&out)];
    let requested = meshmint(&args);
    assert!(requested.status.success(), "{}", String::from_utf8_lossy(&requested.stderr));
    let chain = out.join("cert-chain.pem");
    fs::write(&leaf, &pem_blocks(&fs::read_to_string(&chain).unwrap())[0]).unwrap();

    for purpose in ["sslclient", "sslserver"] {
        let args = ["verify", "-x509_strict", "-purpose", purpose, "-no-CApath", "-no-CAstore", "-CAfile", path(&roots)];
        let verified = openssl(&[&args[..], &["-untrusted", path(&chain), path(&leaf)]].concat());
        assert!(verified.status.success(), "{purpose}: {}", String::from_utf8_lossy(&verified.stderr));
        // The witness itself: without the intermediate there is no way to the root.
        let broken = openssl(&[&args[..], &[path(&leaf)]].concat());
        assert!(!broken.status.success(), "{purpose}: {}", String::from_utf8_lossy(&broken.stdout));
    }
}
