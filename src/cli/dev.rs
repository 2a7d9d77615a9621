//! `meshmint dev`: a CA on this machine, with an issuer of Kubernetes-shaped tokens of its own, and a demonstration of its main job.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use serde::Serialize;
use tokio::net::TcpListener;

use super::csr_client::{self, CsrRequest, KeyType};
use super::dev_issuer::{DevIssuer, TokenRequest};
use super::files::write_whole;
use super::logging::Log;
use super::serve::{StopSignals, until_stopped};
use super::{Outcome, Output, answered, failed, limits, logging};
use crate::authority::MadeBy;
use crate::clock::{Clock, Entropy, SystemClock, SystemEntropy, random_id, within};
use crate::config::Config;
use crate::pki::certificates_from_pem;
use crate::pki::inspect::verify_as_peer;
use crate::server::{Server, StartError};
use crate::spiffe::TrustDomain;
use crate::stores::StoreError;
use crate::tasks::Tasks;

/// The longest path of a Unix socket, in bytes (unix(7): 108 with the terminating zero).
const LONGEST_SOCKET: usize = 107;

/// How long the last word may take: nobody may be reading.
const LAST_WORD: Duration = Duration::from_secs(1);

/// `meshmint dev`
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  meshmint dev\n  meshmint dev --dir /tmp/ca --csr-listen 127.0.0.1:0 --exit-after-demo\n\n\
    DIR/endpoints.json says where everything listens, once it does; DIR/root-cert.pem is the trust bundle.\n\
    Anybody who can read DIR can mint tokens: it is for one machine and for trying things out.")]
pub(super) struct Args {
    /// The folder for state, ledger and the token issuer's key; a second start goes on with it
    #[arg(long, value_name = "DIR", default_value = ".meshmint")]
    dir: PathBuf,
    /// Where the CSR API listens; all other ports are free ones
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:15012")]
    csr_listen: SocketAddr,
    /// The trust domain of every identity; it can't change once DIR has a root
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    trust_domain: TrustDomain,
    /// End after the demonstration
    #[arg(long)]
    exit_after_demo: bool,
}

/// DIR/endpoints.json.
#[derive(Debug, Serialize)]
struct Endpoints {
    pid: u32,
    csr: SocketAddr,
    health: SocketAddr,
    metrics: SocketAddr,
    jwks: String,
    admin: PathBuf,
}

pub(super) async fn run(args: Args) -> Outcome {
    let mut log = None;
    match (dev(&args, &mut log).await, log) {
        (Ok(outcome), _) => outcome,
        (Err(message), Some(log)) => log.failed(message),
        (Err(message), None) => failed(message),
    }
}

/// `log` is there once it was started, and outlives everything else.
async fn dev(args: &Args, log: &mut Option<Log>) -> Result<Outcome, String> {
    let (clock, entropy) = (SystemClock::shared(), SystemEntropy::shared());
    let mut stop = StopSignals::new().map_err(|error| format!("signals can't be handled: {error}"))?;
    let dir = prepare(&args.dir)?;
    let issuer = DevIssuer::open_or_create(&dir).map_err(|error| error.to_string())?;
    let jwks = issuer.jwks().to_string();
    write_whole(&dir.join("jwks.json"), jwks.as_bytes(), 0o644).map_err(|error| format!("jwks.json: {error}"))?;
    let socket = admin_socket(&dir, entropy.as_ref())?;
    let config = Config::for_dev(&dir, &args.trust_domain, args.csr_listen, &socket, DevIssuer::ISSUER).map_err(|error| error.to_string())?;
    let log = log.insert(logging::start(&config).map_err(|error| format!("the log can't be written: {error}"))?);
    limits::keep_memory_to_ourselves();
    limits::raise_open_files();

    let endpoints_file = dir.join("endpoints.json");
    let started = Server::start(&config, MadeBy::Dev, clock.clone(), entropy.clone()).await;
    // Only now: where the state is locked, another `dev` is using this folder, and the file is its own.
    if !matches!(started, Err(StartError::Store(StoreError::Locked(_)))) {
        remove(&endpoints_file)?;
    }
    let server = started.map_err(|error| hint(&error, args))?;
    server.count_lost_lines(log.lost());
    let mut tasks = Tasks::watched_by(server.vigil());
    let jwks = serve_jwks(jwks, &mut tasks).await?;
    write_whole(&dir.join("root-cert.pem"), server.bundle().as_bytes(), 0o644).map_err(|error| format!("root-cert.pem: {error}"))?;
    let addresses = server.addresses();
    let csr = addresses.csr.ok_or("the CSR API doesn't listen")?;
    let endpoints = Endpoints {
        pid: std::process::id(),
        csr,
        health: addresses.health,
        metrics: addresses.metrics,
        jwks: format!("http://{jwks}/jwks.json"),
        admin: addresses.admin.clone(),
    };
    let json = serde_json::to_string_pretty(&endpoints).map_err(|error| error.to_string())?;
    write_whole(&endpoints_file, (json + "\n").as_bytes(), 0o644).map_err(|error| format!("endpoints.json: {error}"))?;

    let shown = tokio::select! {
        shown = demonstrate(args, &issuer, &server, csr, clock.as_ref(), entropy.as_ref()) => Some(shown),
        () = stop.received() => None,
    };
    let outcome = match shown {
        None => Ok(Outcome::Ok),
        Some(Ok(_)) if !args.exit_after_demo => Ok(until_stopped(&server, stop.received()).await),
        Some(shown) => shown,
    };
    if !args.exit_after_demo {
        within(clock.as_ref(), LAST_WORD, say("\nstopping\n")).await;
    }
    // What is read at a start must be gone before the next one: a reader takes the file for a running server.
    remove(&endpoints_file)?;
    server.shut_down().await;
    if let Some(private) = socket.parent().filter(|parent| *parent != dir) {
        remove_folder(private);
    }
    outcome
}

/// Shows something, on a thread of its own: a terminal that stands still must not keep anybody from ending us.
async fn say(text: impl Into<String>) {
    let text = text.into();
    // What can't be shown is no reason not to serve.
    let _ = tokio::task::spawn_blocking(move || answered(&text)).await;
}

/// The main job, before the user's eyes: a token, a certificate over the public API, a peer's check, and what to type next.
async fn demonstrate(
    args: &Args,
    issuer: &DevIssuer,
    server: &Server,
    address: SocketAddr,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<Outcome, String> {
    const BOLD: anstyle::Style = anstyle::Style::new().bold();
    let dir = args.dir.display();
    let bundle = server.bundle();
    say(format!("{BOLD}meshmint dev{BOLD:#}: a SPIFFE CA for trust domain {}, state and ledger in {dir}\n\n", args.trust_domain)).await;

    say(format!("{BOLD}1.{BOLD:#} A token for a demo workload: namespace demo, service account web, pod web-0\n")).await;
    let request = TokenRequest {
        namespace: "demo",
        service_account: "web",
        pod: Some("web-0"),
        pod_uid: None,
        node: Some("node-0"),
        audiences: &["istio-ca".to_owned()],
        ttl: Duration::from_secs(3600),
    };
    let token = issuer.mint(&request, clock.now(), entropy).map_err(|error| error.to_string())?;

    say(format!("{BOLD}2.{BOLD:#} A certificate for it, over Istio's CSR API on {address}\n")).await;
    let ask = CsrRequest {
        address: address.to_string(),
        roots: bundle.to_string(),
        server_name: None,
        token: Some(token),
        client: None,
        key_type: KeyType::P256,
        lifetime: None,
        impersonate: None,
        trust_domain: args.trust_domain.clone(),
    };
    let obtained = csr_client::request(&ask).await.map_err(|error| error.to_string())?;

    let ders = |pem: &str| certificates_from_pem(pem).map_err(|error| error.to_string());
    let peer = verify_as_peer(&ders(&obtained.chain.concat())?, &ders(&obtained.bundle)?, clock.now()).map_err(|error| error.to_string())?;
    say(format!("{BOLD}3.{BOLD:#} A mesh peer that trusts the bundle accepts it as {peer}\n\n")).await;
    let shown = tokio::task::spawn_blocking(move || super::request::show(&obtained, Output::Text)).await;
    let outcome = shown.map_err(|error| error.to_string())?;

    let flag = if args.dir == Path::new(".meshmint") { String::new() } else { format!(" --dir {dir}") };
    say(format!(
        "\n{BOLD}Next{BOLD:#}, {}:\n  \
         meshmint token{flag} --namespace shop --service-account cart > token\n  \
         meshmint request --address {address} --roots {dir}/root-cert.pem --token-file token --out-dir cart\n  \
         meshmint inspect cart/cert-chain.pem --roots {dir}/root-cert.pem\n  \
         meshmint certs list{flag}\n\
         (meshmint is target/release/meshmint after `cargo run --release`)\n",
        if args.exit_after_demo { format!("with `meshmint dev{flag}` running in another terminal") } else { "in another terminal".to_owned() }
    ))
    .await;
    if !args.exit_after_demo {
        say("\nServing until Ctrl-C.\n").await;
    }
    Ok(outcome)
}

/// Makes the folder, for us alone, and gives its absolute path: later commands may run elsewhere.
fn prepare(dir: &Path) -> Result<PathBuf, String> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| format!("can't make {}: {error}", dir.display()))?;
    dir.canonicalize().map_err(|error| format!("{}: {error}", dir.display()))
}

/// DIR/admin.sock, or a short private path where that is too long for a socket.
fn admin_socket(dir: &Path, entropy: &dyn Entropy) -> Result<PathBuf, String> {
    use std::os::unix::fs::DirBuilderExt;
    let near = dir.join("admin.sock");
    if near.as_os_str().len() <= LONGEST_SOCKET {
        return Ok(near);
    }
    let id = random_id(entropy, 6).map_err(|error| error.to_string())?;
    let private = std::env::temp_dir().join(format!("meshmint-{id}"));
    std::fs::DirBuilder::new().mode(0o700).create(&private).map_err(|error| format!("can't make {}: {error}", private.display()))?;
    Ok(private.join("admin.sock"))
}

async fn serve_jwks(document: String, tasks: &mut Tasks) -> Result<SocketAddr, String> {
    let socket = TcpListener::bind("127.0.0.1:0").await.map_err(|error| format!("no free port for the key set: {error}"))?;
    let address = socket.local_addr().map_err(|error| error.to_string())?;
    let document: Arc<str> = document.into();
    let answer = move || {
        let document = document.to_string();
        async move { ([(header::CONTENT_TYPE, "application/jwk-set+json")], document) }
    };
    let router = Router::new().route("/jwks.json", get(answer));
    tasks.spawn("key set", async move {
        if let Err(error) = axum::serve(socket, router).await {
            tracing::error!(%error, "the key set is not served any more");
        }
    });
    Ok(address)
}

fn remove(file: &Path) -> Result<(), String> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("can't remove {}: {error}", file.display())),
        _ => Ok(()),
    }
}

fn remove_folder(folder: &Path) {
    if let Err(error) = std::fs::remove_dir(folder) {
        tracing::debug!(%error, "the private folder of the admin socket stays behind");
    }
}

/// What to do about the two things that go wrong at a first start.
fn hint(error: &StartError, args: &Args) -> String {
    match error {
        StartError::Listen { key: "server.listen", .. } => {
            format!("{error}. Another CA may be running there; choose another port with --csr-listen 127.0.0.1:0")
        }
        StartError::Store(StoreError::Locked(_)) => format!("{error} (`meshmint dev --dir {}` runs already)", args.dir.display()),
        other => other.to_string(),
    }
}
