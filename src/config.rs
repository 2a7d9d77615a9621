//! What an operator writes, checked once into typed values; the only place that knows defaults (`keys` is the one table).
//!
//! Called by the commands. Pure: nothing here reads a file or the environment; both are handed in. A YAML file (`document`) and
//! environment variables (`environment`) become flat values; `check` (one value: `reading`, several: `together`) turns them into a [`Config`] in which nothing contradicts
//! anything else, or lists every problem with its key, its place and what would be right.

mod check;
mod document;
mod environment;
mod keys;
mod print;
mod problem;
mod reading;
mod together;
mod units;
mod values;

use std::net::SocketAddr;
use std::path::Path;

use self::document::{Given, Values, Written};
pub use self::problem::{ConfigError, Problem, Source};
pub use self::units::parse_duration;
pub use self::values::{
    AdminNetwork, Authorities, Cacerts, Certificates, Cluster, Config, Controllers, Import, Istiod, LogFormat, Role, RootConfigMap, Server,
    StateSecrets, TokenIssuer, Tokens, Tracing, Verification,
};

use crate::spiffe::TrustDomain;

impl Config {
    /// The configuration from a file (its name, for messages and for relative paths in it, which begin at its folder, and its text) and the environment.
    ///
    /// # Errors
    /// [`ConfigError`], with every problem found.
    pub fn load(yaml: Option<(&str, &str)>, env: impl Iterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        Self::load_with_flags(yaml, env, &[])
    }

    /// As [`Config::load`], with flags of the command line over both: pairs of a key's path (`server.listen`) and a text (lists comma-separated).
    ///
    /// # Errors
    /// [`ConfigError`], with every problem found.
    pub fn load_with_flags(
        yaml: Option<(&str, &str)>,
        env: impl Iterator<Item = (String, String)>,
        flags: &[(&str, String)],
    ) -> Result<Self, ConfigError> {
        let mut values = Values::new();
        let mut problems = Vec::new();
        if let Some((name, text)) = yaml {
            document::read(name, text, &mut values, &mut problems)?;
            document::begin_at_folder(Path::new(name).parent(), &mut values);
        }
        environment::apply(env, &mut values, &mut problems);
        for (path, text) in flags {
            match keys::find(&keys::table_path(path)) {
                Some(key) => {
                    values.insert((*path).to_owned(), Given { value: environment::written(key, text), source: Source::Flag });
                }
                None => problems.push(Problem { key: (*path).to_owned(), source: Source::Flag, reason: "is not a key of meshmint".to_owned() }),
            }
        }
        check::check(values, problems)
    }

    /// What `meshmint dev` runs with: everything below `dir`, identities of `trust_domain`, the CSR API at `csr_listen`, the other ports free ones on loopback, the admin
    /// socket at `admin_socket`, and tokens of `issuer` checked against the keys in `dir`/jwks.json.
    ///
    /// # Errors
    /// [`ConfigError`], for example where the socket's path is too long or a path isn't UTF-8.
    pub fn for_dev(dir: &Path, trust_domain: &TrustDomain, csr_listen: SocketAddr, admin_socket: &Path, issuer: &str) -> Result<Self, ConfigError> {
        let text = |path: &Path| path.to_str().map(str::to_owned).unwrap_or_default();
        let below = |name: &str| text(&dir.join(name));
        let one = |path: &str, text: String| (path.to_owned(), Given { value: Written::One(text), source: Source::Flag });
        let names = ["localhost", "istiod.istio-system.svc"].map(str::to_owned).to_vec();
        let many = |path: &str, items: Vec<String>| (path.to_owned(), Given { value: Written::Many(items), source: Source::Flag });
        let values = [
            one("trustDomain", trust_domain.as_str().to_owned()),
            one("server.listen", csr_listen.to_string()),
            // Whoever tries it out may look around.
            one("server.reflection", "true".to_owned()),
            many("server.servingDNSNames", names),
            many("server.servingIPAddresses", vec!["127.0.0.1".to_owned()]),
            many("tokens.audiences", vec!["istio-ca".to_owned()]),
            one("tokens.issuers[0].issuer", issuer.to_owned()),
            one("tokens.issuers[0].keys.file", below("jwks.json")),
            one("state.file.dir", below("state")),
            one("ledger.sqlite.path", below("ledger.db")),
            one("admin.socket", text(admin_socket)),
            one("health.listen", "127.0.0.1:0".to_owned()),
            one("metrics.listen", "127.0.0.1:0".to_owned()),
        ];
        check::check(Values::from(values), Vec::new())
    }

    /// Files that are named and can't be used: keys, certificates, passwords. Not those that meshmint makes itself. `readable` is asked for each.
    pub fn missing_files(&self, readable: impl Fn(&Path) -> std::io::Result<()>) -> Vec<Problem> {
        let named = self.written.iter().filter(|(path, _)| keys::find(&keys::table_path(path)).is_some_and(keys::Key::names_a_given_file));
        let problem = |(path, given): (&String, &Given)| {
            let Written::One(file) = &given.value else { return None };
            let error = readable(Path::new(file)).err()?;
            Some(Problem { key: path.clone(), source: given.source.clone(), reason: format!("{file} can't be read: {error}") })
        };
        named.filter_map(problem).collect()
    }

    /// Every value in force, as YAML that [`Config::load`] takes, for printing at start. Secret values are left out (the table marks them).
    pub fn effective_yaml(&self) -> String {
        print::effective(&self.written)
    }

    /// Every key with its default, commented with its meaning: what `config print` shows.
    pub fn default_yaml() -> String {
        print::defaults()
    }

    /// The table of keys as JSON: what `config print -o json` shows.
    pub fn default_json() -> serde_json::Value {
        print::defaults_json()
    }

    /// The page docs/configuration.md.
    pub fn default_markdown() -> String {
        print::markdown()
    }
}
