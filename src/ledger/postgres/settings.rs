//! Where the database is and how it is spoken to, as an operator writes it; checked before anything is connected.

use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

/// How often the operating system asks a silent peer whether it is there, and how long what was sent may stay unacknowledged.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// What an operator says about the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresSettings {
    /// `postgresql://USER@HOST:PORT/DATABASE`, several hosts with commas between them. `sslmode` is `verify-full` (the default) or `disable`.
    pub url: String,
    /// The roots (PEM) that the server must chain to; the system's where there is none.
    pub ca_file: Option<PathBuf>,
    /// A file with the password, read at each connect.
    pub password_file: Option<PathBuf>,
    /// Connections for questions; three more are used for the rest.
    pub pool_size: usize,
    /// How long certificates stay after their notAfter: it decides how many of them one dropped table forgets.
    pub retention: Duration,
    /// How long a database that can't be reached is waited for at the start.
    pub start_patience: Duration,
}

/// Why a URL can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Another scheme, or `key=value` pairs.
    #[error("expected postgresql://USER@HOST:PORT/DATABASE")]
    Form,
    /// It would be shown wherever the configuration is shown.
    #[error("a password doesn't belong there: put it into a file and name that as passwordFile")]
    Password,
    /// Encryption without verification protects from nobody who can answer in the server's place.
    #[error("sslmode={0} is not supported: expected verify-full (the default) or disable")]
    SslMode(String),
    /// No host to connect to.
    #[error("names no host")]
    Host,
    /// A socket in the file system carries no TLS.
    #[error("a Unix socket carries no TLS: add sslmode=disable")]
    Socket,
    /// The parser's words.
    #[error("{0}")]
    Other(String),
}

/// A checked URL.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// One for each host, in the order of the URL.
    pub(super) hosts: Vec<Config>,
    pub(super) tls: bool,
    /// For people: hosts and database.
    pub(super) name: String,
}

impl PostgresSettings {
    /// Whether `url` can be used, without connecting to anything.
    ///
    /// # Errors
    /// [`UrlError`].
    pub fn check_url(url: &str) -> Result<(), UrlError> {
        target(url).map(drop)
    }
}

pub(super) fn target(url: &str) -> Result<Target, UrlError> {
    if !url.starts_with("postgresql://") && !url.starts_with("postgres://") {
        return Err(UrlError::Form);
    }
    let (place, parameters) = url.split_once('?').unwrap_or((url, ""));
    let mut tls = true;
    let mut others = Vec::new();
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("sslmode", "verify-full")) => tls = true,
            Some(("sslmode", "disable")) => tls = false,
            Some(("sslmode", other)) => return Err(UrlError::SslMode(other.to_owned())),
            Some(("password", _)) => return Err(UrlError::Password),
            _ => others.push(parameter),
        }
    }
    let text = if others.is_empty() { place.to_owned() } else { format!("{place}?{}", others.join("&")) };
    let read = |text: &str| text.parse::<Config>().map_err(|error| UrlError::Other(chain_of(&error)));
    let config = read(&text)?;
    if config.get_password().is_some() {
        return Err(UrlError::Password);
    }
    if config.get_hosts().is_empty() {
        return Err(UrlError::Host);
    }
    if tls && config.get_hosts().iter().any(|host| matches!(host, Host::Unix(_))) {
        return Err(UrlError::Socket);
    }
    let mut hosts = for_each_host(&text).iter().map(|text| read(text)).collect::<Result<Vec<_>, _>>()?;
    for config in &mut hosts {
        config.ssl_mode(if tls { SslMode::Require } else { SslMode::Disable });
        // Of several hosts, the one that may be written.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        config.keepalives_idle(KEEPALIVE).tcp_user_timeout(KEEPALIVE);
        if config.get_application_name().is_none() {
            config.application_name("meshmint");
        }
    }
    Ok(Target { hosts, tls, name: name(&config) })
}

/// The URL with each of its hosts alone. The driver asks one host after the other, and one that is silent would keep the others from being asked.
fn for_each_host(url: &str) -> Vec<String> {
    let Some((scheme, rest)) = url.split_once("://") else { return vec![url.to_owned()] };
    let (authority, path) = rest.find(['/', '?']).map_or((rest, ""), |end| rest.split_at(end));
    let start = authority.rfind('@').map_or(0, |at| at + 1);
    let (user, hosts) = authority.split_at(start);
    hosts.split(',').map(|host| format!("{scheme}://{user}{host}{path}")).collect()
}

fn name(config: &Config) -> String {
    let port = |index: usize| config.get_ports().get(index).or(config.get_ports().first()).copied().unwrap_or(5432);
    let host = |(index, host): (usize, &Host)| match host {
        Host::Tcp(host) => format!("{host}:{}", port(index)),
        Host::Unix(path) => path.display().to_string(),
    };
    let hosts: Vec<_> = config.get_hosts().iter().enumerate().map(host).collect();
    format!("postgresql://{}/{}", hosts.join(","), config.get_dbname().unwrap_or_default())
}

/// An error and what caused it, in one line: the outermost one alone says only "db error".
pub(super) fn chain_of(error: &dyn std::error::Error) -> String {
    let mut words: Vec<String> = Vec::new();
    for cause in std::iter::successors(Some(error), |error| error.source()) {
        let said = cause.to_string();
        // Some say their cause's words already.
        if !words.iter().any(|before| before.contains(&said)) {
            words.push(said);
        }
    }
    words.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_operator_may_write() {
        for (url, tls, name) in [
            ("postgresql://mm@db.example/ledger", true, "postgresql://db.example:5432/ledger"),
            ("postgres://mm@db.example:6432/ledger?sslmode=verify-full", true, "postgresql://db.example:6432/ledger"),
            ("postgresql://mm@a:1,b:2/ledger?sslmode=disable&connect_timeout=2", false, "postgresql://a:1,b:2/ledger"),
            ("postgresql://mm@%2Frun%2Fpostgresql/ledger?sslmode=disable", false, "postgresql:///run/postgresql/ledger"),
        ] {
            let target = target(url).unwrap();
            assert_eq!((target.tls, target.name.as_str()), (tls, name), "{url}");
            assert!(target.hosts.iter().all(|host| host.get_hosts().len() == 1 && (host.get_ssl_mode() == SslMode::Require) == tls), "{url}");
            assert_eq!(target.hosts.len(), 1 + name.matches(',').count(), "{url}");
        }
    }

    #[test]
    fn what_is_refused() {
        let mode = |mode: &str| UrlError::SslMode(mode.to_owned());
        for (url, expected) in [
            ("host=db user=mm", UrlError::Form),
            ("https://db/ledger", UrlError::Form),
            ("postgresql://mm:secret@db/ledger", UrlError::Password),
            ("postgresql://mm@db/ledger?password=secret", UrlError::Password),
            ("postgresql://mm@db/ledger?sslmode=require", mode("require")),
            ("postgresql://mm@db/ledger?sslmode=prefer", mode("prefer")),
            ("postgresql://mm@db/ledger?sslmode=verify-ca", mode("verify-ca")),
            ("postgresql:///ledger", UrlError::Host),
            ("postgresql://mm@%2Frun/ledger", UrlError::Socket),
        ] {
            assert_eq!(PostgresSettings::check_url(url), Err(expected), "{url}");
        }
        let told = PostgresSettings::check_url("postgresql://mm@db/ledger?colour=red").unwrap_err().to_string();
        assert!(told.contains("colour"), "{told}");
    }
}
