//! From flat values to the checked [`Config`]: each value by its kind, then what they mean together. Every problem is collected.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::document::{Values, Written};
use super::keys::{self, KEYS, Key, Kind, Preset};
use super::problem::{ConfigError, Problem, Source};
use super::units::{self, duration_text};
use super::values::{Account, Authorities, Certificates, Config, Import, KeySource, LogFormat, Server, TokenIssuer, Tokens};
use crate::pki::KeyAlgorithm;
use crate::spiffe::{SpiffeId, TrustDomain};

/// Checks all values; `problems` are those of reading.
pub(super) fn check(values: Values, problems: Vec<Problem>) -> Result<Config, ConfigError> {
    let mut checking = Checking { values: &values, problems };
    let config = checking.config();
    checking.check_together(config.as_ref());
    let problems = checking.problems;
    match config {
        Some(config) if problems.is_empty() => Ok(Config { written: values, ..config }),
        _ => Err(ConfigError::Values(problems)),
    }
}

struct Checking<'a> {
    values: &'a Values,
    problems: Vec<Problem>,
}

impl Checking<'_> {
    /// `None` where a value could not be read; the problem is noted then. All fields are read before the first `?`, so all problems are.
    fn config(&mut self) -> Option<Config> {
        let trust_domain = self.scalar("trustDomain", |text, _| text.parse::<TrustDomain>().ok());
        let cluster_id = self.text("clusterID");
        let server = self.server();
        let tokens = self.tokens();
        let certificates = self.certificates();
        let authority = self.authority();
        let state_dir = self.path("state.file.dir");
        let ledger_path = self.path("ledger.sqlite.path");
        let ledger_retention = self.duration("ledger.retention");
        let admin_socket = self.path("admin.socket");
        let (health_listen, metrics_listen) = (self.listen("health.listen"), self.listen("metrics.listen"));
        let log_format = self.text("log.format");
        let log_level = self.text("log.level");
        Some(Config {
            trust_domain: trust_domain?,
            cluster_id: cluster_id?,
            server: server?,
            tokens: tokens?,
            certificates: certificates?,
            authority: authority?,
            state_dir: state_dir?,
            ledger_path: ledger_path?,
            ledger_retention: ledger_retention?,
            admin_socket: admin_socket?,
            health_listen: health_listen?,
            metrics_listen: metrics_listen?,
            log_format: if log_format? == "json" { LogFormat::Json } else { LogFormat::Text },
            log_level: log_level?,
            written: Values::new(),
        })
    }

    fn server(&mut self) -> Option<Server> {
        let listen = self.listen("server.listen");
        let serving_dns_names = self.list("server.servingDNSNames", |item| is_dns_name(item).then(|| item.to_owned()));
        let serving_ip_addresses = self.list("server.servingIPAddresses", |item| item.parse::<IpAddr>().ok());
        let [serving_lifetime, connection_max_age, request_timeout, handshake_timeout, drain_timeout, keepalive_interval] =
            ["servingLifetime", "connectionMaxAge", "requestTimeout", "handshakeTimeout", "drainTimeout", "keepaliveInterval"]
                .map(|name| self.duration(&format!("server.{name}")));
        let [max_connections, max_handshakes, streams, max_request_bytes, max_in_flight] =
            ["maxConnections", "maxHandshakes", "maxConcurrentStreams", "maxRequestBytes", "maxInFlight"]
                .map(|name| self.number(&format!("server.{name}")));
        let share = self.number("server.maxHandshakesPerAddress");
        Some(Server {
            listen: listen?,
            serving_dns_names: serving_dns_names?,
            serving_ip_addresses: serving_ip_addresses?,
            serving_lifetime: serving_lifetime?,
            connection_max_age: connection_max_age?,
            request_timeout: request_timeout?,
            handshake_timeout: handshake_timeout?,
            max_connections: max_connections?,
            max_handshakes: max_handshakes?,
            max_handshakes_per_address: (max_handshakes? * share? / 100).max(1),
            max_concurrent_streams: u32::try_from(streams?).ok()?,
            max_request_bytes: max_request_bytes?,
            max_in_flight: max_in_flight?,
            drain_timeout: drain_timeout?,
            keepalive_interval: keepalive_interval?,
        })
    }

    fn tokens(&mut self) -> Option<Tokens> {
        let audiences = self.list("tokens.audiences", |item| (!item.is_empty()).then(|| item.to_owned()));
        let (clock_skew, max_lifetime_unbound) = (self.duration("tokens.clockSkew"), self.duration("tokens.maxLifetimeUnbound"));
        let trusted_node_accounts = self.list("tokens.trustedNodeAccounts", account);
        let issuers: Vec<Option<TokenIssuer>> = (0..self.issuer_count()).map(|index| self.issuer(&format!("tokens.issuers[{index}]"))).collect();
        Some(Tokens {
            audiences: audiences?,
            clock_skew: clock_skew?,
            max_lifetime_unbound: max_lifetime_unbound?,
            trusted_node_accounts: trusted_node_accounts?,
            issuers: issuers.into_iter().collect::<Option<_>>()?,
        })
    }

    fn issuer_count(&self) -> usize {
        let number = |path: &String| path.strip_prefix("tokens.issuers[")?.split(']').next()?.parse::<usize>().ok();
        self.values.keys().filter_map(number).max().map_or(0, |last| last + 1)
    }

    fn issuer(&mut self, at: &str) -> Option<TokenIssuer> {
        let issuer = self.text(&format!("{at}.issuer"));
        let [file, url, discovery, ca_file] = ["file", "url", "discovery", "caFile"].map(|name| self.optional(&format!("{at}.keys.{name}")));
        let refresh_interval = self.duration(&format!("{at}.refreshInterval"));
        let max_age = self.duration(&format!("{at}.maxAge"));
        let keys = format!("{at}.keys");
        let one = "exactly one of file: PATH, url: https://…, discovery: true";
        let ca_file = ca_file?.map(PathBuf::from);
        let source = match (file?, url?, discovery?) {
            (Some(file), None, None) if ca_file.is_none() => KeySource::File(file.into()),
            (Some(_), None, None) => return self.refuse(&format!("{keys}.caFile"), "is for url and discovery; leave it out beside file"),
            (None, Some(url), None) => KeySource::Url { url, ca_file },
            (None, None, Some(_)) => KeySource::Discovery { ca_file },
            (None, None, None) => return self.refuse(&keys, &format!("says nowhere to find the keys: expected {one}")),
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
            _ => return self.refuse("authority.import", "expected certFile and keyFile together (chainFile and rootFile are for beside them)"),
        };
        Some(Authorities {
            key_algorithm: if algorithm? == "p384" { KeyAlgorithm::P384 } else { KeyAlgorithm::P256 },
            root_lifetime: root_lifetime?,
            issuing_lifetime: issuing_lifetime?,
            import,
        })
    }

    /// What values mean together.
    fn check_together(&mut self, config: Option<&Config>) {
        if self.issuer_count() == 0 && !self.problems.iter().any(|problem| problem.key.starts_with("tokens.issuers")) {
            self.refuse::<()>("tokens.issuers", "is empty, so no token would be believed: expected at least one { issuer: …, keys: { file: … } }");
        }
        let Some(config) = config else { return };
        let Config { certificates, authority, server, tokens, .. } = config;
        let text = duration_text;
        let (longest, floor) = (certificates.max_lifetime, certificates.floor());
        if floor > longest {
            let reason = format!(
                "{} is too long: five times it is the shortest lifetime, so at most {} beside maxLifetime {}",
                text(certificates.backdate),
                text(longest / 5),
                text(longest)
            );
            self.refuse::<()>("certificates.backdate", &reason);
        } else if certificates.default_lifetime < floor {
            let reason = format!("{} is too short: expected at least five times backdate, {}", text(certificates.default_lifetime), text(floor));
            self.refuse::<()>("certificates.defaultLifetime", &reason);
        }
        if certificates.default_lifetime > longest {
            let reason = format!("{} is longer than maxLifetime: expected at most {}", text(certificates.default_lifetime), text(longest));
            self.refuse::<()>("certificates.defaultLifetime", &reason);
        }
        if authority.issuing_lifetime < longest * 3 {
            let reason = format!(
                "{} is too short: expected at least three times certificates.maxLifetime, {}, so that it is renewed before it shortens a certificate",
                text(authority.issuing_lifetime),
                text(longest * 3)
            );
            self.refuse::<()>("authority.issuingLifetime", &reason);
        }
        if authority.issuing_lifetime > authority.root_lifetime {
            let reason =
                format!("{} is longer than rootLifetime: expected at most {}", text(authority.issuing_lifetime), text(authority.root_lifetime));
            self.refuse::<()>("authority.issuingLifetime", &reason);
        }
        if tokens.audiences.is_empty() {
            self.refuse::<()>("tokens.audiences", "is empty, so no token would be believed: expected at least one, like [istio-ca]");
        }
        for (index, issuer) in tokens.issuers.iter().enumerate() {
            if tokens.issuers.iter().take(index).any(|earlier| earlier.issuer == issuer.issuer) {
                self.refuse::<()>(
                    &format!("tokens.issuers[{index}].issuer"),
                    &format!("{:?} is there already: expected each issuer only once", issuer.issuer),
                );
            }
        }
        if server.serving_dns_names.is_empty() && server.serving_ip_addresses.is_empty() {
            self.refuse::<()>("server.servingDNSNames", "is empty, and so is servingIPAddresses: expected at least one name that clients connect to");
        }
        if server.max_in_flight < server.max_concurrent_streams as usize {
            let reason = format!(
                "{} is below maxConcurrentStreams: expected at least {}, or one connection could take all",
                server.max_in_flight, server.max_concurrent_streams
            );
            self.refuse::<()>("server.maxInFlight", &reason);
        }
        if server.max_handshakes > server.max_connections {
            self.refuse::<()>(
                "server.maxHandshakes",
                &format!("{} is above maxConnections: expected at most {}", server.max_handshakes, server.max_connections),
            );
        }
        let listeners = [("server.listen", server.listen), ("health.listen", config.health_listen), ("metrics.listen", config.metrics_listen)];
        for (index, (key, address)) in listeners.iter().enumerate() {
            if let Some((other, _)) = listeners.iter().take(index).find(|(_, earlier)| collide(*earlier, *address)) {
                self.refuse::<()>(key, &format!("{address} is taken by {other}: expected another port"));
            }
        }
    }

    /// Notes a problem with a key, or with the first value below it where it is a section. Always `None`.
    fn refuse<T>(&mut self, path: &str, reason: &str) -> Option<T> {
        let exact = self.values.get(path);
        let given = exact.or_else(|| {
            self.values.iter().find(|(key, _)| key.strip_prefix(path).is_some_and(|rest| rest.starts_with(['.', '[']))).map(|(_, given)| given)
        });
        let source = given.map_or(Source::Default, |given| given.source.clone());
        self.problems.push(Problem { key: path.to_owned(), source, reason: reason.to_owned() });
        None
    }

    /// The text of a scalar, given or default; `Ok(None)` where it is optional and absent.
    fn one(&mut self, path: &str) -> Result<Option<(String, &'static Key)>, ()> {
        let Some(key) = keys::find(&keys::table_path(path)) else { return self.refuse(path, "is not in the table of keys").ok_or(()) };
        match (self.values.get(path).map(|given| &given.value), key.default) {
            (Some(Written::One(text)), _) => Ok(Some((text.clone(), key))),
            (None, Preset::Is(text)) => Ok(Some((text.to_owned(), key))),
            (None, Preset::Optional(_)) => Ok(None),
            (None, Preset::Required(example)) => {
                self.refuse(path, &format!("is missing: expected {}, for example {example}", key.kind.expected())).ok_or(())
            }
            _ => self.refuse(path, &format!("expected {}", key.kind.expected())).ok_or(()),
        }
    }

    fn wrong<T>(&mut self, path: &str, text: &str, key: &Key) -> Option<T> {
        let shown: String = if key.secret { "the value".to_owned() } else { format!("{:?}", text.chars().take(200).collect::<String>()) };
        self.refuse(path, &format!("{shown} is not right: expected {}", key.kind.expected()))
    }

    /// A scalar that must be there.
    fn scalar<T>(&mut self, path: &str, parse: impl Fn(&str, Kind) -> Option<T>) -> Option<T> {
        let (text, key) = self.one(path).ok()??;
        parse(&text, key.kind).or_else(|| self.wrong(path, &text, key))
    }

    fn text(&mut self, path: &str) -> Option<String> {
        self.scalar(path, plain)
    }

    fn path(&mut self, path: &str) -> Option<PathBuf> {
        self.text(path).map(PathBuf::from)
    }

    /// A scalar that may be absent: `None` is a problem, `Some(None)` is absence.
    fn optional(&mut self, path: &str) -> Option<Option<String>> {
        match self.one(path).ok()? {
            None => Some(None),
            Some((text, key)) => plain(&text, key.kind).map(Some).or_else(|| self.wrong(path, &text, key)),
        }
    }

    fn listen(&mut self, path: &str) -> Option<SocketAddr> {
        self.scalar(path, |text, _| text.parse().ok())
    }

    fn duration(&mut self, path: &str) -> Option<Duration> {
        self.scalar(path, |text, kind| match kind {
            Kind::Duration(least, most) => {
                units::duration(text).filter(|value| (Duration::from_millis(least)..=Duration::from_millis(most)).contains(value))
            }
            _ => None,
        })
    }

    /// A count, a size in bytes, or whole percent.
    fn number(&mut self, path: &str) -> Option<usize> {
        self.scalar(path, |text, kind| {
            let value = match kind {
                Kind::Count(least, most) => units::count(text).filter(|value| (least..=most).contains(value)),
                Kind::Size(least, most) => units::size(text).filter(|value| (least..=most).contains(value)),
                Kind::Percent(least, most) => units::percent(text).filter(|value| (least..=most).contains(value)).map(u64::from),
                _ => None,
            };
            value.and_then(|value| usize::try_from(value).ok())
        })
    }

    fn list<T: PartialEq>(&mut self, path: &str, parse: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
        let key = KEYS.iter().find(|key| key.path == path)?;
        let items = match (self.values.get(path).map(|given| &given.value), key.default) {
            (Some(Written::Many(items)), _) => items.clone(),
            (None, Preset::Items(text)) => text.split(',').filter(|item| !item.is_empty()).map(str::to_owned).collect(),
            (Some(Written::One(text)), _) => return self.wrong(path, &text.clone(), key),
            _ => Vec::new(),
        };
        let mut parsed = Vec::new();
        for item in &items {
            match parse(item).filter(|value| !parsed.contains(value)) {
                Some(value) => parsed.push(value),
                None => return self.wrong(path, item, key),
            }
        }
        Some(parsed)
    }
}

/// A text as its kind wants it.
fn plain(text: &str, kind: Kind) -> Option<String> {
    let good = match kind {
        Kind::Choice(words) => words.contains(&text),
        Kind::Flag => text == "true",
        Kind::Url => is_https(text),
        Kind::Socket => (1..=keys::MAX_SOCKET_BYTES).contains(&text.len()) && !text.contains('\0'),
        _ => !text.is_empty() && !text.contains(char::is_control),
    };
    good.then(|| text.to_owned())
}

fn is_https(text: &str) -> bool {
    let Ok(url) = text.parse::<http::Uri>() else { return false };
    let authority = url.authority().is_some_and(|authority| !authority.host().is_empty() && !authority.as_str().contains('@'));
    url.scheme_str() == Some("https") && authority && !text.contains('#')
}

/// RFC 1123 §2.1, lower case.
fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        let letters = label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        letters && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label) && name.parse::<IpAddr>().is_err()
}

fn account(text: &str) -> Option<Account> {
    let (namespace, name) = text.split_once('/')?;
    let domain = "x".parse().ok()?;
    SpiffeId::workload(&domain, namespace, name).ok()?;
    Some(Account { namespace: namespace.to_owned(), name: name.to_owned() })
}

/// Whether two listeners would want the same port; port 0 is a free one.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() != 0 && one.port() == other.port() && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}
