//! The checked configuration: plain typed values that the rest of the program is built from. Only `Config::load` and `Config::for_dev` make one.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::callers::ServiceAccountName;
use crate::cluster::{Access, KeySource};
use crate::ledger::postgres::PostgresSettings;
use crate::ledger::spool::SpoolSettings;
use crate::pki::KeyAlgorithm;
use crate::spiffe::TrustDomain;

/// The CSR API's listener, its certificate and its bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is a key; src/config/keys.rs has its meaning")]
pub struct Server {
    pub listen: SocketAddr,
    pub serving_dns_names: Vec<String>,
    pub serving_ip_addresses: Vec<IpAddr>,
    pub serving_lifetime: Duration,
    pub connection_max_age: Duration,
    pub request_timeout: Duration,
    pub handshake_timeout: Duration,
    pub max_connections: usize,
    pub max_buffered_bytes: usize,
    pub max_handshakes: usize,
    pub max_concurrent_streams: u32,
    pub max_request_bytes: usize,
    pub handshake_queue_time: Duration,
    pub max_in_flight: usize,
    pub queue_time: Duration,
    pub drain_timeout: Duration,
    pub keepalive_interval: Duration,
    pub reflection: bool,
}

/// Which tokens are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is a key; src/config/keys.rs has its meaning")]
pub struct Tokens {
    pub audiences: Vec<String>,
    pub clock_skew: Duration,
    pub max_lifetime_unbound: Duration,
    pub trusted_node_accounts: Vec<ServiceAccountName>,
    pub verification: Verification,
    pub issuers: Vec<TokenIssuer>,
}

/// Who says that a token is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verification {
    /// We.
    Local,
    /// The cluster, asked for each token.
    TokenReview,
}

/// The cluster that the callers live in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Its API server.
    pub access: Access,
    /// Other names that agents have for it.
    pub aliases: Vec<String>,
    /// Where Secrets name other clusters; `None`: there are none.
    pub remote_secrets_namespace: Option<String>,
    /// How long what is known of it is believed while it is away.
    pub max_staleness: Duration,
}

/// What is kept up in the clusters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Controllers {
    /// The ConfigMap with the trust bundle in every namespace; `None`: others see to it.
    pub root_config_map: Option<RootConfigMap>,
    /// Certificates of istiods; `None`: others see to them.
    pub istiod: Option<Istiod>,
    /// istiods that stay the CA; `None`: none of ours.
    pub cacerts: Option<Cacerts>,
}

/// The istiods that sign below our root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cacerts {
    /// Their namespace.
    pub namespace: String,
    /// Their clusters; empty: our own.
    pub clusters: Vec<String>,
    /// How long an intermediate lives.
    pub lifetime: Duration,
}

impl Cacerts {
    /// Whether the istiod of our own cluster, of this id, is one of them.
    pub fn are_of(&self, own: &str) -> bool {
        has(&self.clusters, own)
    }
}

/// The istiods whose certificates are ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Istiod {
    /// Their namespace.
    pub namespace: String,
    /// Their clusters; empty: our own.
    pub clusters: Vec<String>,
    /// Their revisions.
    pub revisions: Vec<String>,
    /// How long their certificates live.
    pub certificate_lifetime: Duration,
}

impl Istiod {
    /// Whether the istiod of our own cluster, of this id, is one of them.
    pub fn is_of(&self, own: &str) -> bool {
        has(&self.clusters, own)
    }
}

/// Whether these clusters have our own among them.
fn has(clusters: &[String], own: &str) -> bool {
    clusters.is_empty() || clusters.iter().any(|cluster| cluster == own)
}

/// The ConfigMap with the trust bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootConfigMap {
    /// Its name.
    pub name: String,
    /// Chooses namespaces by their labels; `None`: all.
    pub namespace_selector: Option<String>,
}

/// Somebody whose tokens are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenIssuer {
    /// `iss`, byte for byte.
    pub issuer: String,
    /// Where its keys are.
    pub keys: KeySource,
    /// How often they are read again.
    pub refresh_interval: Duration,
    /// How long the last good ones serve while reading fails.
    pub max_age: Duration,
}

/// How long leaves live.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is a key; src/config/keys.rs has its meaning")]
pub struct Certificates {
    pub default_lifetime: Duration,
    pub max_lifetime: Duration,
    pub backdate: Duration,
    /// In percent, 0 to 50.
    pub jitter_percent: u8,
}

impl Certificates {
    /// The largest share that is cut off a lifetime, 0 to 0.5.
    pub fn jitter(&self) -> f64 {
        f64::from(self.jitter_percent) / 100.0
    }

    /// The shortest lifetime: five times the backdate. ztunnel renews in a loop near the backdate itself.
    pub fn floor(&self) -> Duration {
        self.backdate * 5
    }
}

/// The authorities that are made here, or what to start from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is a key; src/config/keys.rs has its meaning")]
pub struct Authorities {
    pub key_algorithm: KeyAlgorithm,
    pub root_lifetime: Duration,
    pub issuing_lifetime: Duration,
    pub import: Option<Import>,
}

/// An existing CA to start from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is a key; src/config/keys.rs has its meaning")]
pub struct Import {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    pub chain_file: Option<PathBuf>,
    pub root_file: Option<PathBuf>,
}

/// The admin API over the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminNetwork {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The audience of tokens.
    pub audience: String,
}

/// What a replica does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    All,
    /// Answers workloads, with issuing keys that somebody else makes.
    Issuer,
    /// Makes issuing keys, and answers no workload.
    Authority,
}

/// Secrets that hold the authority state, and the Lease beside them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is a key; src/config/keys.rs has its meaning")]
pub struct StateSecrets {
    pub namespace: String,
    pub prefix: String,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where traces of requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracing {
    /// An http or https URL without a path.
    pub endpoint: String,
    /// How many requests in a hundred.
    pub sample_percent: u8,
}

/// Everything that `serve` needs to know. No value contradicts another.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is a key; src/config/keys.rs has its meaning")]
pub struct Config {
    pub trust_domain: TrustDomain,
    pub cluster_id: String,
    pub role: Role,
    pub server: Server,
    pub tokens: Tokens,
    /// None: nothing is known of what lives.
    pub cluster: Option<Cluster>,
    pub controllers: Controllers,
    pub certificates: Certificates,
    pub authority: Authorities,
    pub state_dir: PathBuf,
    /// Where the state is, if it isn't in the folder `state_dir`.
    pub state_secrets: Option<StateSecrets>,
    pub ledger_path: PathBuf,
    /// Where the ledger is, if it isn't the file at `ledger_path`.
    pub ledger_postgres: Option<PostgresSettings>,
    /// What takes certificates while the database is away, if anything does.
    pub ledger_spool: Option<SpoolSettings>,
    pub ledger_retention: Duration,
    pub admin_socket: PathBuf,
    /// None: only the socket.
    pub admin_network: Option<AdminNetwork>,
    pub health_listen: SocketAddr,
    pub metrics_listen: SocketAddr,
    pub log_format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub log_level: String,
    pub tracing: Option<Tracing>,
    /// What was given, for printing.
    pub(super) written: super::document::Values,
}
