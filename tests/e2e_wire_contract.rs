//! The wire contract by an independent client (Python, grpcio, cryptography), and everybody's lints over what was issued meanwhile.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/process.rs"]
mod process;
#[path = "common/tools.rs"]
mod tools;

use std::fs;
use std::path::Path;

use crate::process::{Dev, meshmint};
use crate::tools::{go_verify, lint, openssl, pem_blocks, python, repository, succeed};

const ID: &str = "spiffe://cluster.local/ns/demo/sa/web";

/// A sample by `meshmint request`: the key kinds that agents use.
fn request(dev: &Dev, token_file: &Path, key_type: &str, out: &Path) {
    let address = dev.csr();
    let roots = dev.roots();
    let args = ["request", "--address", &address, "--roots", roots.to_str().unwrap(), "--token-file", token_file.to_str().unwrap()];
    let args = [&args[..], &["--key-type", key_type, "--out-dir", out.to_str().unwrap()]].concat();
    let output = meshmint(&args);
    assert!(output.status.success(), "{key_type}: {}", String::from_utf8_lossy(&output.stderr));
    fs::remove_file(out.join("key.pem")).unwrap();
    fs::write(out.join("id"), format!("{ID}\n")).unwrap();
}

/// The chain that the server itself presents.
fn serving_sample(dev: &Dev, out: &Path) {
    let shown = openssl(&["s_client", "-connect", &dev.csr(), "-servername", "localhost", "-alpn", "h2", "-showcerts"]);
    // After the handshake openssl may print bytes of HTTP/2, which are no text.
    let chain = pem_blocks(&String::from_utf8_lossy(&shown.stdout));
    assert!(chain.len() >= 2, "the serving certificate and its issuer: {}", String::from_utf8_lossy(&shown.stderr));
    fs::create_dir_all(out).unwrap();
    fs::write(out.join("cert-chain.pem"), chain.concat()).unwrap();
    fs::copy(dev.roots(), out.join("root-cert.pem")).unwrap();
}

#[test]
fn wire_contract_and_everybodys_lints() {
    let dev = Dev::start();
    let folder = tempfile::tempdir().unwrap();
    let samples = folder.path().join("samples");
    let token_file = folder.path().join("token");
    fs::write(&token_file, dev.token("demo", "web", &[])).unwrap();

    let said = succeed(
        python()
            .arg(repository("tests/python/wire_contract.py"))
            .args(["--address", &dev.csr(), "--expect-id", ID, "--roots"])
            .arg(dev.roots())
            .arg("--token-file")
            .arg(&token_file)
            .arg("--out")
            .arg(&samples),
    );
    println!("{said}");
    assert!(said.contains(" 0 failed"), "{said}");

    for key_type in ["p256", "p384", "rsa2048"] {
        request(&dev, &token_file, key_type, &samples.join(format!("request-{key_type}")));
    }
    serving_sample(&dev, &samples.join("serving"));
    println!("{}", lint(&samples));

    // The authorities by themselves: what stands behind the leaf, and the roots.
    let issuers = pem_blocks(&fs::read_to_string(samples.join("request-p256/cert-chain.pem")).unwrap()).split_off(1).concat();
    assert!(!issuers.is_empty(), "a leaf comes with its issuing authority");
    let issuers_file = folder.path().join("issuers.pem");
    fs::write(&issuers_file, issuers).unwrap();
    println!("{}{}", go_verify(&issuers_file, &dev.roots(), "ca"), go_verify(&dev.roots(), &dev.roots(), "ca"));
}
