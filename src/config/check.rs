//! From flat values to the checked [`Config`]: each value by its kind, then what they mean together. Every problem is collected.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::document::Values;
use super::keys::{Kind, Preset};
use super::problem::{ConfigError, Problem};
use super::reading::{Checking, is_https};
use super::units::duration_text;
use super::values::{
    AdminNetwork, Authorities, Cacerts, Certificates, Cluster, Config, Controllers, Import, Istiod, LogFormat, Role, RootConfigMap, Server,
    StateSecrets, TokenIssuer, Tokens, Tracing, Verification,
};
use crate::callers::ServiceAccountName;
use crate::cluster::{Access, KeySource};
use crate::ledger::postgres::PostgresSettings;
use crate::ledger::spool::SpoolSettings;
use crate::pki::KeyAlgorithm;
use crate::spiffe::{SpiffeId, TrustDomain};

/// How long a replica that starts waits for a database that can't be reached; then it ends, and whoever keeps it starts it again.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// Checks all values; `problems` are those of reading.
pub(super) fn check(values: Values, problems: Vec<Problem>) -> Result<Config, ConfigError> {
    let mut checking = Checking { values: &values, problems };
    let config = checking.config();
    checking.check_together(config.as_ref());
    let mut problems = checking.problems;
    problems.sort_by(|one, other| one.source.cmp_place(&other.source));
    match config {
        Some(config) if problems.is_empty() => Ok(Config { written: values, ..config }),
        _ => Err(ConfigError::Values(problems)),
    }
}

impl Checking<'_> {
    /// `None` where a value could not be read; the problem is noted then. All fields are read before the first `?`, so all problems are.
    fn config(&mut self) -> Option<Config> {
        let trust_domain = self.scalar("trustDomain", |text, _| text.parse::<TrustDomain>().ok());
        let cluster_id = self.text("clusterID");
        let role = self.scalar("role", |word, _| role(word));
        let server = self.server();
        let tokens = self.tokens();
        let cluster = self.cluster();
        let controllers = self.controllers();
        let certificates = self.certificates();
        let authority = self.authority();
        let state_dir = self.path("state.file.dir");
        let state_secrets = self.state_secrets();
        let ledger_path = self.path("ledger.sqlite.path");
        let ledger_retention = self.duration("ledger.retention");
        let (ledger_postgres, ledger_spool) = (self.postgres(ledger_retention), self.spool());
        let (admin_socket, admin_network) = (self.path("admin.socket"), self.admin_network());
        let (health_listen, metrics_listen) = (self.listen("health.listen"), self.listen("metrics.listen"));
        let log_format = self.text("log.format");
        let log_level = self.text("log.level");
        let tracing = self.tracing();
        Some(Config {
            trust_domain: trust_domain?,
            cluster_id: cluster_id?,
            role: role?,
            server: server?,
            tokens: tokens?,
            cluster: cluster?,
            controllers: controllers?,
            certificates: certificates?,
            authority: authority?,
            state_dir: state_dir?,
            state_secrets: state_secrets?,
            ledger_path: ledger_path?,
            ledger_postgres: ledger_postgres?,
            ledger_spool: ledger_spool?,
            ledger_retention: ledger_retention?,
            admin_socket: admin_socket?,
            admin_network: admin_network?,
            health_listen: health_listen?,
            metrics_listen: metrics_listen?,
            log_format: if log_format? == "json" { LogFormat::Json } else { LogFormat::Text },
            log_level: log_level?,
            tracing: tracing?,
            written: Values::new(),
        })
    }

    fn admin_network(&mut self) -> Option<Option<AdminNetwork>> {
        let audience = self.text("admin.audience");
        if self.optional("admin.listen")?.is_none() {
            return audience.map(|_| None);
        }
        Some(Some(AdminNetwork { listen: self.listen("admin.listen")?, audience: audience? }))
    }

    fn server(&mut self) -> Option<Server> {
        let listen = self.listen("server.listen");
        let serving_dns_names = self.list("server.servingDNSNames", |item| is_dns_name(item).then(|| item.to_owned()));
        let serving_ip_addresses = self.list("server.servingIPAddresses", |item| item.parse::<IpAddr>().ok());
        let [serving_lifetime, connection_max_age, request_timeout, handshake_timeout, handshake_queue_time, queue_time] =
            ["servingLifetime", "connectionMaxAge", "requestTimeout", "handshakeTimeout", "handshakeQueueTime", "queueTime"]
                .map(|name| self.duration(&format!("server.{name}")));
        let [drain_timeout, keepalive_interval] = ["drainTimeout", "keepaliveInterval"].map(|name| self.duration(&format!("server.{name}")));
        let [max_connections, max_buffered_bytes, max_handshakes, streams, max_request_bytes, max_in_flight] =
            ["maxConnections", "maxBufferedBytes", "maxHandshakes", "maxConcurrentStreams", "maxRequestBytes", "maxInFlight"]
                .map(|name| self.number(&format!("server.{name}")));
        let reflection = self.text("server.reflection");
        Some(Server {
            listen: listen?,
            serving_dns_names: serving_dns_names?,
            serving_ip_addresses: serving_ip_addresses?,
            serving_lifetime: serving_lifetime?,
            connection_max_age: connection_max_age?,
            request_timeout: request_timeout?,
            handshake_timeout: handshake_timeout?,
            max_connections: max_connections?,
            max_buffered_bytes: max_buffered_bytes?,
            max_handshakes: max_handshakes?,
            max_concurrent_streams: u32::try_from(streams?).ok()?,
            max_request_bytes: max_request_bytes?,
            handshake_queue_time: handshake_queue_time?,
            max_in_flight: max_in_flight?,
            queue_time: queue_time?,
            drain_timeout: drain_timeout?,
            keepalive_interval: keepalive_interval?,
            reflection: reflection? == "true",
        })
    }

    fn tokens(&mut self) -> Option<Tokens> {
        let audiences = self.list("tokens.audiences", |item| (!item.is_empty()).then(|| item.to_owned()));
        let (clock_skew, max_lifetime_unbound) = (self.duration("tokens.clockSkew"), self.duration("tokens.maxLifetimeUnbound"));
        let trusted_node_accounts = self.list("tokens.trustedNodeAccounts", account);
        let verification = self.text("tokens.verification");
        let issuers: Vec<Option<TokenIssuer>> = (0..self.issuer_count()).map(|index| self.issuer(&format!("tokens.issuers[{index}]"))).collect();
        Some(Tokens {
            audiences: audiences?,
            clock_skew: clock_skew?,
            max_lifetime_unbound: max_lifetime_unbound?,
            trusted_node_accounts: trusted_node_accounts?,
            verification: if verification? == "tokenReview" { Verification::TokenReview } else { Verification::Local },
            issuers: issuers.into_iter().collect::<Option<_>>()?,
        })
    }

    pub(super) fn issuer_count(&self) -> usize {
        let number = |path: &String| path.strip_prefix("tokens.issuers[")?.split(']').next()?.parse::<usize>().ok();
        self.values.keys().filter_map(number).max().map_or(0, |last| last + 1)
    }

    fn issuer(&mut self, at: &str) -> Option<TokenIssuer> {
        let issuer = self.text(&format!("{at}.issuer"));
        let [file, url, discovery, api_server, ca_file] =
            ["file", "url", "discovery", "apiServer", "caFile"].map(|name| self.optional(&format!("{at}.keys.{name}")));
        let refresh_interval = self.duration(&format!("{at}.refreshInterval"));
        let max_age = self.duration(&format!("{at}.maxAge"));
        let keys = format!("{at}.keys");
        let one = "exactly one of file: PATH, url: https://…, discovery: true, apiServer: true";
        let ca_file = ca_file?.map(PathBuf::from);
        let source = match (file?, url?, discovery?, api_server?) {
            (Some(file), None, None, None) if ca_file.is_none() => KeySource::File(file.into()),
            (None, None, None, Some(_)) if ca_file.is_none() => KeySource::ApiServer,
            (Some(_), None, None, None) | (None, None, None, Some(_)) => {
                return self.refuse(&format!("{keys}.caFile"), "is for url and discovery; leave it out beside file and apiServer");
            }
            (None, Some(url), None, None) => KeySource::Url { url, ca_file },
            (None, None, Some(_), None) => KeySource::Discovery { ca_file },
            (None, None, None, None) => return self.refuse(&keys, &format!("says nowhere to find the keys: expected {one}")),
            _ => return self.refuse(&keys, &format!("names more than one place: expected {one}")),
        };
        let issuer = issuer?;
        if matches!(source, KeySource::Discovery { .. }) && !is_https(&issuer) {
            return self.refuse(&format!("{at}.issuer"), &format!("{issuer:?} can't be used for discovery: expected {}", Kind::Url.expected()));
        }
        let (refresh_interval, max_age) = (refresh_interval?, max_age?);
        if refresh_interval > max_age {
            let reason = format!(
                "{} is longer than maxAge ({}): keys would expire between two readings",
                duration_text(refresh_interval),
                duration_text(max_age)
            );
            return self.refuse(&format!("{at}.refreshInterval"), &reason);
        }
        Some(TokenIssuer { issuer, keys: source, refresh_interval, max_age })
    }

    fn cluster(&mut self) -> Option<Option<Cluster>> {
        let (in_cluster, kubeconfig) = (self.optional("cluster.inCluster"), self.optional("cluster.kubeconfig"));
        let aliases = self.list("cluster.aliases", |item| (!item.is_empty()).then(|| item.to_owned()));
        let remote_secrets_namespace = self.optional("cluster.remoteSecretsNamespace");
        let max_staleness = self.duration("cluster.maxStaleness");
        let access = match (in_cluster?, kubeconfig?) {
            (None, None) if remote_secrets_namespace.as_ref()?.is_none() => return max_staleness.map(|_| None),
            (None, None) => {
                return self.refuse("cluster.remoteSecretsNamespace", "needs a cluster to read them from: expected inCluster or kubeconfig too");
            }
            (Some(_), None) => Access::InCluster,
            (None, Some(path)) => Access::Kubeconfig(path.into()),
            (Some(_), Some(_)) => return self.refuse("cluster", "names two API servers: expected inCluster or kubeconfig, not both"),
        };
        Some(Some(Cluster { access, aliases: aliases?, remote_secrets_namespace: remote_secrets_namespace?, max_staleness: max_staleness? }))
    }

    fn controllers(&mut self) -> Option<Controllers> {
        let enabled = self.text("controllers.rootConfigMap.enabled");
        let name = self.text("controllers.rootConfigMap.name");
        let selector = self.optional("controllers.rootConfigMap.namespaceSelector");
        let (istiod, cacerts) = (self.istiod(), self.cacerts());
        let (enabled, name, namespace_selector) = (enabled?, name?, selector?);
        if !is_dns_name(&name) {
            return self.refuse("controllers.rootConfigMap.name", "can't be the name of a ConfigMap: expected one like istio-ca-root-cert");
        }
        let root_config_map = (enabled == "true").then_some(RootConfigMap { name, namespace_selector });
        Some(Controllers { root_config_map, istiod: istiod?, cacerts: cacerts? })
    }

    fn istiod(&mut self) -> Option<Option<Istiod>> {
        let namespace = self.namespace("controllers.istiod.namespace");
        let clusters = self.clusters("controllers.istiod");
        let revisions = self.list("controllers.istiod.revisions", |item| is_label(item).then(|| item.to_owned()));
        let certificate_lifetime = self.duration("controllers.istiod.certificateLifetime");
        let (namespace, clusters, revisions, certificate_lifetime) = (namespace?, clusters?, revisions?, certificate_lifetime?);
        self.has_namespace("controllers.istiod", namespace.as_deref(), &clusters)?;
        Some(namespace.map(|namespace| Istiod { namespace, clusters, revisions, certificate_lifetime }))
    }

    fn cacerts(&mut self) -> Option<Option<Cacerts>> {
        let namespace = self.namespace("controllers.cacerts.namespace");
        let clusters = self.clusters("controllers.cacerts");
        let lifetime = self.duration("controllers.cacerts.lifetime");
        let (namespace, clusters, lifetime) = (namespace?, clusters?, lifetime?);
        self.has_namespace("controllers.cacerts", namespace.as_deref(), &clusters)?;
        Some(namespace.map(|namespace| Cacerts { namespace, clusters, lifetime }))
    }

    /// Names of clusters, of the section at this path.
    fn clusters(&mut self, section: &str) -> Option<Vec<String>> {
        self.list(&format!("{section}.clusters"), |item| (!item.is_empty()).then(|| item.to_owned()))
    }

    /// Clusters are named only beside a namespace.
    fn has_namespace(&mut self, section: &str, namespace: Option<&str>, clusters: &[String]) -> Option<()> {
        if namespace.is_some() || clusters.is_empty() {
            return Some(());
        }
        self.refuse(&format!("{section}.clusters"), &format!("says nothing without {section}.namespace: expected that too"))
    }

    /// The name of a namespace, which may be absent.
    fn namespace(&mut self, path: &str) -> Option<Option<String>> {
        match self.optional(path)? {
            Some(name) if !is_label(&name) => self.refuse(path, "can't be the name of a namespace: expected one like istio-system"),
            name => Some(name),
        }
    }

    fn certificates(&mut self) -> Option<Certificates> {
        let [default_lifetime, max_lifetime, backdate] =
            ["defaultLifetime", "maxLifetime", "backdate"].map(|name| self.duration(&format!("certificates.{name}")));
        let jitter = self.number("certificates.jitter");
        Some(Certificates {
            default_lifetime: default_lifetime?,
            max_lifetime: max_lifetime?,
            backdate: backdate?,
            jitter_percent: u8::try_from(jitter?).ok()?,
        })
    }

    fn authority(&mut self) -> Option<Authorities> {
        let algorithm = self.text("authority.keyAlgorithm");
        let (root_lifetime, issuing_lifetime) = (self.duration("authority.rootLifetime"), self.duration("authority.issuingLifetime"));
        let [cert, key, chain, root] =
            ["certFile", "keyFile", "chainFile", "rootFile"].map(|name| self.optional(&format!("authority.import.{name}")));
        let path = |text: Option<String>| text.map(PathBuf::from);
        let import = match (path(cert?), path(key?), path(chain?), path(root?)) {
            (Some(cert_file), Some(key_file), chain_file, root_file) => Some(Import { cert_file, key_file, chain_file, root_file }),
            (None, None, None, None) => None,
            _ => return self.refuse("authority.import", "expected certFile and keyFile together (chainFile and rootFile only beside them)"),
        };
        Some(Authorities {
            key_algorithm: if algorithm? == "p384" { KeyAlgorithm::P384 } else { KeyAlgorithm::P256 },
            root_lifetime: root_lifetime?,
            issuing_lifetime: issuing_lifetime?,
            import,
        })
    }
}

impl Checking<'_> {
    fn state_secrets(&mut self) -> Option<Option<StateSecrets>> {
        let store = self.text("state.store");
        let [namespace, prefix] = ["namespace", "prefix"].map(|name| {
            let path = format!("state.secrets.{name}");
            let text = self.text(&path)?;
            // The longest name below it is PREFIX-issuing.
            let right = is_label(&text) && text.len() <= 50;
            if right { Some(text) } else { self.refuse(&path, &format!("{text:?} is not right: expected at most 50 of a-z, 0-9 and '-'")) }
        });
        let secrets = StateSecrets { namespace: namespace?, prefix: prefix? };
        Some((store? == "secrets").then_some(secrets))
    }

    fn postgres(&mut self, retention: Option<Duration>) -> Option<Option<PostgresSettings>> {
        let [url, ca_file, password_file] = ["url", "caFile", "passwordFile"].map(|name| self.optional(&format!("ledger.postgres.{name}")));
        let pool_size = self.number("ledger.postgres.poolSize");
        let path = |text: Option<String>| text.map(PathBuf::from);
        let (ca_file, password_file) = (path(ca_file?), path(password_file?));
        let Some(url) = url? else {
            if ca_file.is_some() || password_file.is_some() {
                return self.refuse("ledger.postgres", &format!("names no url: expected {}", Kind::Database.expected()));
            }
            return Some(None);
        };
        // The default may stand there: it is printed with everything else.
        if self.one("ledger.sqlite.path").ok()?.is_some_and(|(path, key)| !matches!(key.default, Preset::Is(default) if default == path)) {
            return self.refuse("ledger.sqlite.path", "is there beside ledger.postgres.url: expected one of the two, a ledger is in one place");
        }
        let (pool_size, retention) = (pool_size?, retention?);
        Some(Some(PostgresSettings { url, ca_file, password_file, pool_size, retention, start_patience: START_PATIENCE }))
    }

    fn spool(&mut self) -> Option<Option<SpoolSettings>> {
        let on_outage = self.text("ledger.onOutage");
        let (path, max_outage) = (self.path("ledger.spool.path"), self.duration("ledger.spool.maxOutage"));
        if on_outage? == "refuse" {
            return Some(None);
        }
        if !self.values.contains_key("ledger.postgres.url") {
            return self.refuse("ledger.onOutage", "is for a ledger in a database: expected refuse, or a ledger.postgres.url beside it");
        }
        Some(Some(SpoolSettings { path: path?, max_outage: max_outage? }))
    }

    fn tracing(&mut self) -> Option<Option<Tracing>> {
        const ENDPOINT: &str = "tracing.otlp.endpoint";
        let share = self.number("tracing.otlp.sampleShare");
        let Some(endpoint) = self.optional(ENDPOINT)? else { return share.map(|_| None) };
        if !cfg!(feature = "otlp") {
            return self
                .refuse(ENDPOINT, "this meshmint can't send traces: leave it out, or use one that was built with `cargo build --features otlp`");
        }
        let collector = endpoint.parse::<http::Uri>().ok();
        let right = collector.is_some_and(|uri| {
            let known = matches!(uri.scheme_str(), Some("http" | "https"));
            // A user in it would be a secret in the log.
            known && uri.path() == "/" && uri.query().is_none() && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
        });
        if !right {
            return self.refuse(ENDPOINT, "expected an http or https URL with nothing but host and port, like http://localhost:4317");
        }
        Some(Some(Tracing { endpoint, sample_percent: u8::try_from(share?).ok()? }))
    }
}

/// The role of this name; whatever isn't one is never taken for another.
fn role(word: &str) -> Option<Role> {
    match word {
        "all" => Some(Role::All),
        "issuer" => Some(Role::Issuer),
        "authority" => Some(Role::Authority),
        _ => None,
    }
}

/// RFC 1123 §2.1, lower case, of one part.
fn is_label(name: &str) -> bool {
    is_dns_name(name) && !name.contains('.')
}

/// RFC 1123 §2.1, lower case.
fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        let letters = label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        letters && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label) && name.parse::<IpAddr>().is_err()
}

fn account(text: &str) -> Option<ServiceAccountName> {
    let (namespace, name) = text.split_once('/')?;
    let domain = "x".parse().ok()?;
    SpiffeId::workload(&domain, namespace, name).ok()?;
    Some(ServiceAccountName { namespace: namespace.to_owned(), name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::super::keys;
    use super::*;

    #[test]
    fn every_role_of_the_table_is_one_of_its_own_and_no_other_word_is_any() {
        let Some(Kind::Choice(words)) = keys::find("role").map(|key| key.kind) else { panic!("it is a choice") };
        for word in words {
            // Exhaustive: whoever makes a fourth role comes by here.
            let name = match role(word).unwrap_or_else(|| panic!("{word} is in the table, and is no role")) {
                Role::All => "all",
                Role::Issuer => "issuer",
                Role::Authority => "authority",
            };
            assert_eq!(name, *word);
        }
        for word in ["", "All", "replica", "issuer "] {
            assert_eq!(role(word), None, "{word:?}");
        }
    }
}
