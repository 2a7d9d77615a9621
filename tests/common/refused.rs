//! A running `serve` under bad input: what it counted and recorded before and after, and what a refusal must look like.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "every suite uses its own part")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use meshmint::server::proto::istio::IstioCertificateRequest;
use rusqlite::{Connection, OpenFlags};
use rustls::ClientConfig;
use tempfile::TempDir;
use tonic::Code;

use super::csrs::{key_and_csr, key_pem, request};
use super::grpc::{Answer, Identity, Wire, bearer, tls};
use super::process::{Serve, get, meshmint, serve_yaml};
use super::tokens::TokenIssuer;

/// Counters of Istio's names.
pub const CSRS: &str = "citadel_server_csr_count";
pub const ISSUED: &str = "citadel_server_success_cert_issuance_count";
pub const NOT_AUTHENTICATED: &str = "citadel_server_authentication_failure_count";
pub const NOT_PARSED: &str = "citadel_server_csr_parsing_err_count";

/// A server with a token issuer of the test's own.
pub struct World {
    pub serve: Serve,
    pub issuer: TokenIssuer,
    /// The trust bundle.
    pub roots: String,
    folder: TempDir,
}

/// What a refusal is expected to be.
pub struct Refused<'a> {
    pub code: Code,
    pub reason: &'a str,
    /// The whole public sentence.
    pub sentence: &'a str,
    /// The counter of Istio's that grows with it, if any.
    pub counter: Option<&'a str>,
}

pub const UNAUTHENTICATED_SENTENCE: &str = "authentication failed: no valid service-account token and no client certificate issued here";
pub const UNAVAILABLE_SENTENCE: &str = "the certificate authority can't answer right now; try again";

/// UNAUTHENTICATED: one sentence for all reasons, because the wire doesn't help an attacker.
pub fn unauthenticated(reason: &str) -> Refused<'_> {
    Refused { code: Code::Unauthenticated, reason, sentence: UNAUTHENTICATED_SENTENCE, counter: Some(NOT_AUTHENTICATED) }
}

impl World {
    /// Starts one; `server` goes into the configuration's `server` section, `more` behind everything.
    pub fn start(server: &str, more: &str) -> Self {
        Self::start_logging("debug", server, more)
    }

    /// The same with this `log.level`.
    pub fn start_logging(level: &str, server: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let issuer = TokenIssuer::new();
        issuer.publish(folder.path());
        let yaml = serve_yaml(folder.path(), folder.path(), server, more).replace("level: debug", &format!("level: {level}"));
        let serve = Serve::start(folder.path(), &yaml);
        let socket = folder.path().join("admin.sock");
        let bundle = meshmint(&["bundle", "--admin", socket.to_str().unwrap()]);
        assert!(bundle.status.success(), "{}", String::from_utf8_lossy(&bundle.stderr));
        Self { serve, issuer, roots: String::from_utf8(bundle.stdout).unwrap(), folder }
    }

    /// The folder with `state`, `ledger.db` and `admin.sock`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn tls(&self, client: Option<&Identity>) -> Arc<ClientConfig> {
        tls(&self.roots, client, &[b"h2"])
    }

    /// A connection, with a client certificate where there is one.
    pub async fn wire(&self, client: Option<&Identity>) -> Wire {
        Wire::open(self.serve.csr, self.tls(client)).await
    }

    /// A good token of shop/cart.
    pub fn token(&self) -> String {
        self.issuer.good("shop", "cart")
    }

    /// A certificate and its key, for a token.
    pub async fn identity(&self, token: &str, lifetime: i64) -> Identity {
        let (key, csr) = key_and_csr();
        let request = IstioCertificateRequest { csr, validity_duration: lifetime, metadata: None };
        let mut chain = self.wire(None).await.ask(&[("authorization", &bearer(token))], &request).await.chain();
        chain.pop();
        Identity { chain: chain.concat(), key: key_pem(&key) }
    }

    /// A good request on a new connection is answered: the server goes on.
    pub async fn goes_on(&self) {
        let leaf = &self.wire(None).await.ask(&[("authorization", &bearer(&self.token()))], &request()).await.chain()[0];
        assert_eq!(super::csrs::spiffe_id(leaf), "spiffe://cluster.local/ns/shop/sa/cart");
    }

    /// Every metric, by name and labels.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let (status, text) = get(&self.serve.metrics.to_string(), "/metrics");
        assert_eq!(status, 200);
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| line.rsplit_once(' ')).map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
    }

    /// One metric; 0 where it isn't there yet.
    pub fn metric(&self, name: &str) -> f64 {
        self.serve.metric(name)
    }

    /// One value out of the ledger, read beside the server.
    pub fn ledger<T: rusqlite::types::FromSql>(&self, query: &str) -> T {
        let ledger = Connection::open_with_flags(self.path("ledger.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        ledger.query_row(query, [], |row| row.get(0)).unwrap()
    }

    /// Leaves on record.
    pub fn leaves(&self) -> i64 {
        self.ledger("SELECT count(*) FROM certificates WHERE kind = 'leaf'")
    }

    /// Fails unless `attempt` is refused as expected, counted once and in the right place, and nothing was recorded as issued.
    pub async fn assert_refused(&self, case: &str, expected: &Refused<'_>, attempt: impl Future<Output = Answer>) -> Answer {
        let (leaves, before) = (self.leaves(), self.metrics());
        let answer = attempt.await;
        let after = self.metrics();
        assert_eq!((answer.status.code(), answer.status.message()), (expected.code, expected.sentence), "{case}");
        assert!(answer.headers.contains_key("x-request-id"), "{case}");
        let grown = |name: &str| after.get(name).unwrap_or(&0.0) - before.get(name).unwrap_or(&0.0);
        let refusals: BTreeMap<_, _> =
            after.keys().filter(|name| name.starts_with("meshmint_refusals_total{")).map(|name| (name.as_str(), grown(name))).collect();
        let label = format!("meshmint_refusals_total{{code=\"{:?}\",reason=\"{}\"}}", expected.code, expected.reason);
        let grew: Vec<_> = refusals.into_iter().filter(|(_, by)| *by != 0.0).collect();
        assert_eq!(grew, [(label.as_str(), 1.0)], "{case}");
        for counter in [NOT_AUTHENTICATED, NOT_PARSED] {
            assert_eq!(grown(counter), f64::from(u8::from(expected.counter == Some(counter))), "{case}: {counter}");
        }
        assert_eq!(grown(ISSUED), 0.0, "{case}");
        assert_eq!(grown("meshmint_panics_total"), 0.0, "{case}");
        assert_eq!(self.leaves(), leaves, "{case}");
        answer
    }
}
