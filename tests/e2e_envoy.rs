//! Two real Envoys do mutual TLS with our certificates: what must pass passes; no certificate, another trust domain's CA, another
//! identity and an expired certificate are refused, each for its own reason.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/process.rs"]
mod process;
#[path = "common/tools.rs"]
mod tools;

use std::fs;
use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use crate::process::{Serve, issuer_folder, meshmint, serve_yaml, token, wait_for};
use crate::tools::{python, repository, succeed, tool};

/// A mesh of its own: a CA, and the folder with what it gave.
struct Mesh {
    trust_domain: &'static str,
    folder: tempfile::TempDir,
    issuer: tempfile::TempDir,
    serve: Serve,
}

impl Mesh {
    /// Without backdating the shortest lifetime is a second, so that one certificate can expire during the test.
    fn start(trust_domain: &'static str) -> Self {
        let (folder, issuer) = (tempfile::tempdir().unwrap(), issuer_folder());
        let lifetimes = "certificates: { defaultLifetime: 24h, maxLifetime: 24h, backdate: 0s, jitter: 0% }\n";
        let yaml =
            serve_yaml(folder.path(), issuer.path(), "", lifetimes).replace("trustDomain: cluster.local", &format!("trustDomain: {trust_domain}"));
        let serve = Serve::start(folder.path(), &yaml);
        Self { trust_domain, folder, issuer, serve }
    }

    fn id(&self, account: &str) -> String {
        format!("spiffe://{}/ns/demo/sa/{account}", self.trust_domain)
    }

    /// The roots as an operator has them: from the admin API.
    fn roots(&self) -> PathBuf {
        let (socket, file) = (self.folder.path().join("admin.sock"), self.folder.path().join("root-cert.pem"));
        let output = meshmint(&["bundle", "--admin", socket.to_str().unwrap()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::write(&file, output.stdout).unwrap();
        file
    }

    /// A certificate for an account, in a folder called `name`.
    fn request(&self, name: &str, account: &str, more: &[&str]) -> PathBuf {
        let (token_file, out) = (self.folder.path().join(format!("{name}.token")), self.folder.path().join(name));
        fs::write(&token_file, token(self.issuer.path(), "demo", account, &[])).unwrap();
        let (address, roots) = (self.serve.csr.to_string(), self.roots());
        let args = ["request", "--address", &address, "--roots", path(&roots), "--token-file", path(&token_file), "--out-dir", path(&out)];
        let output = meshmint(&[&args[..], more].concat());
        assert!(out.join("cert-chain.pem").exists(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        out
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// The notAfter of the first certificate of a chain file.
fn not_after(chain: &Path) -> OffsetDateTime {
    let text = fs::read(chain).unwrap();
    let (_, first) = x509_parser::pem::parse_x509_pem(&text).unwrap();
    first.parse_x509().unwrap().validity().not_after.to_datetime()
}

#[test]
fn mutual_tls_between_two_envoys() {
    tool("bin/envoy");
    let (ours, foreign) = (Mesh::start("cluster.local"), Mesh::start("elsewhere.example"));
    let expired = ours.request("expired", "client", &["--ttl", "2s"]);
    let client = ours.request("client", "client", &[]);
    let server = ours.request("server", "server", &[]);
    let other = ours.request("other", "other", &[]);
    let foreign = foreign.request("foreign", "client", &[]);

    let end = not_after(&expired.join("cert-chain.pem"));
    // notAfter is the last valid second (RFC 5280 §4.1.2.5): only the next one is expired.
    wait_for("the short certificate's expiry", || (OffsetDateTime::now_utc() >= end + time::Duration::SECOND).then_some(()));

    let mut command = python();
    command.arg(repository("tests/tools/envoy_mtls.py"));
    command.args(["--client-id", &ours.id("client"), "--server-id", &ours.id("server")]);
    for (name, folder) in [("client", client), ("server", server), ("other", other), ("foreign", foreign), ("expired", expired)] {
        command.arg(format!("--{name}-dir")).arg(folder);
    }
    let said = succeed(&mut command);
    println!("{said}");
    assert!(said.contains("cases, 0 failed"), "{said}");
}
