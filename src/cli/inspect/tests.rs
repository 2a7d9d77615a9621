//! The command without a terminal: files, stdin, live servers, and how each ends.

use std::time::Duration;

use clap::Parser;
use rcgen::{KeyPair, SanType};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use time::OffsetDateTime;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::*;
use crate::clock::Sleep;
use crate::spiffe::x509_svid::makers::{Made, NOW, leaf_params};

/// Stands still; a wait on it never ends, or ends at once.
#[derive(Debug)]
struct StillClock {
    patient: bool,
}

impl Clock for StillClock {
    fn now(&self) -> OffsetDateTime {
        NOW
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep_until(&self, _: Duration) -> Sleep {
        if self.patient { Box::pin(std::future::pending()) } else { Box::pin(std::future::ready(())) }
    }
}

#[derive(clap::Parser)]
struct Command {
    #[command(flatten)]
    args: InspectArgs,
}

async fn run_with(arguments: &[&str], stdin: &[u8]) -> Result<Findings, Refusal> {
    let command = Command::try_parse_from([&["inspect"], arguments].concat()).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(StillClock { patient: true });
    look(&command.args, &clock, stdin).await
}

fn file(dir: &tempfile::TempDir, name: &str, content: &[u8]) -> String {
    let path = dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn files_and_stdin() {
    let dir = tempfile::tempdir().unwrap();
    let root = Made::root("root");
    let leaf = root.below(leaf_params());
    let (chain, roots) = (file(&dir, "chain", &leaf.der), file(&dir, "roots", &root.der));
    let findings = run_with(&[&chain, "--roots", &roots], b"").await.unwrap();
    assert_eq!(findings.report.severity, Severity::Ok);
    assert!(text(&findings, Palette::PLAIN).contains("verifies against the given roots"));
    let json = serde_json::to_value(&findings).unwrap();
    assert_eq!((&json["severity"], &json["server"]), (&"ok".into(), &serde_json::Value::Null));
    assert_eq!(run_with(&["-"], &leaf.der).await.unwrap().report.certificates.len(), 1);
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let leaf = file(&dir, "leaf", &Made::root("root").der);
    let folder = dir.path().display().to_string();
    for (arguments, stdin, outcome, part) in [
        (vec!["no-such-file"], &b""[..], Outcome::Usage, "no such file, and not HOST:PORT"),
        (vec!["-", "--server-name", "a"], b"", Outcome::Usage, "--server-name is for a live server"),
        (vec!["a:1", "--server-name", "no name"], b"", Outcome::Usage, "is not a server name"),
        (vec!["-"], b"", Outcome::Failed, "the input is empty"),
        (vec!["-"], b"garbage", Outcome::Failed, "neither PEM"),
        (vec![&folder], b"", Outcome::Failed, "can't read"),
        (vec![&leaf, "--roots", "no-such-file"], b"", Outcome::Failed, "can't read no-such-file"),
        (vec![&leaf, "--roots", &folder], b"", Outcome::Failed, "can't read"),
    ] {
        let refusal = run_with(&arguments, stdin).await.unwrap_err();
        assert_eq!(refusal.outcome(), outcome, "{refusal}");
        assert!(refusal.to_string().contains(part), "{part}: {refusal}");
    }
    let endless = run_with(&["-"], &vec![b'x'; MAX_INPUT + 5]).await.unwrap_err();
    assert!(endless.to_string().contains("larger than 1 MiB"));
}

#[test]
fn which_targets_are_servers() {
    for (target, host) in [
        ("localhost:15012", Some("localhost")),
        ("127.0.0.1:443", Some("127.0.0.1")),
        ("[::1]:443", Some("::1")),
        ("::1:443", None),
        ("localhost", None),
        ("localhost:", None),
        ("localhost:0", None),
        ("localhost:70000", None),
        (":443", None),
        ("a/b:443", None),
    ] {
        assert_eq!(host_of(target), host, "{target}");
    }
}

/// A TLS server that shakes hands once, and the root of its certificate.
async fn server(names: Vec<SanType>, ask_for_client: bool, versions: &'static [&'static rustls::SupportedProtocolVersion]) -> (String, Made) {
    let root = Made::root("root");
    let mut params = leaf_params();
    params.subject_alt_names = names;
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, &root.issuer).unwrap().der().clone();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).unwrap();
    let builder = if ask_for_client {
        let mut trusted = rustls::RootCertStore::empty();
        trusted.add(root.der.clone().into()).unwrap();
        builder.with_client_cert_verifier(rustls::server::WebPkiClientVerifier::builder_with_provider(trusted.into(), provider).build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_single_cert(vec![leaf], PrivatePkcs8KeyDer::from(key.serialize_der()).into()).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        if let Ok(mut stream) = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(stream).await {
            _ = stream.read(&mut [0]).await;
        }
    });
    (address, root)
}

const TLS12_ONLY: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

#[tokio::test]
async fn a_live_server() {
    let (address, root) = server(vec![dns("localhost")], false, rustls::ALL_VERSIONS).await;
    let dir = tempfile::tempdir().unwrap();
    let roots = file(&dir, "roots", &root.der);
    let findings = run_with(&[&address, "--roots", &roots, "--server-name", "localhost"], b"").await.unwrap();
    assert_eq!(findings.report.severity, Severity::Ok, "{:?}", findings.report);
    let json = serde_json::to_value(&findings).unwrap();
    assert_eq!((&json["server"]["version"], &json["server"]["alpn"]), (&"TLS 1.3".into(), &"h2".into()));
    assert_eq!((&json["server"]["clientCertificateRequested"], &json["chain"]["status"]), (&false.into(), &"verified".into()));
    assert!(text(&findings, Palette::PLAIN).starts_with(&format!("TLS server {address}\n")));
}

#[tokio::test]
async fn a_live_server_for_another_name() {
    let (address, _) = server(vec![dns("localhost")], false, rustls::ALL_VERSIONS).await;
    let findings = run_with(&[&address, "--server-name", "other.example"], b"").await.unwrap();
    assert_eq!(findings.report.severity, Severity::Failed);
    assert!(text(&findings, Palette::PLAIN).contains("is not for other.example"));
}

#[tokio::test]
async fn a_live_workload_that_wants_a_client_certificate() {
    let id = || vec![SanType::URI("spiffe://cluster.local/ns/shop/sa/cart".try_into().unwrap())];
    let (address, _) = server(id(), true, rustls::ALL_VERSIONS).await;
    let findings = run_with(&[&address], b"").await.unwrap();
    assert!(findings.server.unwrap().client_certificate_requested);
    // A workload is known by its SPIFFE ID, not by a name.
    assert_eq!(findings.report.severity, Severity::Warning);
    let remarks: Vec<_> = findings.report.remarks.iter().filter(|remark| remark.severity > Severity::Ok).collect();
    assert!(remarks.len() == 1 && remarks[0].what.contains("not verified: give the roots"), "{remarks:?}");
    // In TLS 1.2 the server breaks off before the handshake ends; its chain was seen all the same.
    let (address, _) = server(id(), true, TLS12_ONLY).await;
    let findings = run_with(&[&address], b"").await.unwrap();
    assert_eq!((findings.report.certificates.len(), findings.report.severity), (1, Severity::Warning));
    assert!(findings.server.unwrap().handshake_trouble.is_some());
}

#[tokio::test]
async fn servers_that_are_none() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let plain = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        stream.writable().await.unwrap();
        stream.try_write(b"hello\r\n").unwrap();
    });
    let refusal = run_with(&[&address], b"").await.unwrap_err();
    plain.await.unwrap();
    assert!(matches!(refusal, Refusal::Live(live::LiveError::NoCertificate(..))), "{refusal}");
    // The listener has gone with its task.
    let refusal = run_with(&[&address], b"").await.unwrap_err();
    assert!(matches!(refusal, Refusal::Live(live::LiveError::Connect(..))), "{refusal}");

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let clock: Arc<dyn Clock> = Arc::new(StillClock { patient: false });
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let error = live::look(&silent.local_addr().unwrap().to_string(), name, &clock).await.unwrap_err();
    assert!(matches!(error, live::LiveError::TooSlow(_)), "{error}");
}
