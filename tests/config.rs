//! The configuration as an operator meets it: files, environment, flags, printing, and every refusal (tests/corpus/config: one bad file each, with
//! the words it is refused with). `MESHMINT_TEST_WRITE=1 cargo test --test config` writes the generated files anew; review them then.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/tools.rs"]
mod tools;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, iter};

use clap::Parser;
use meshmint::cli::config::{self, ConfigArgs};
use meshmint::cli::outcome::Outcome;
use meshmint::cluster::{Access, KeySource};
use meshmint::config::{Cluster, Config, ConfigError, LogFormat, Problem, Source};
use proptest::prelude::*;
use tools::{repository, same_as_file};

const GOOD: &str = "tokens:\n  issuers:\n    - issuer: https://kubernetes.default.svc.cluster.local\n      keys: { file: jwks.json }\n";

fn load(yaml: &str) -> Result<Config, ConfigError> {
    Config::load(Some(("m.yaml", yaml)), iter::empty())
}

fn with_env(yaml: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::load(Some(("m.yaml", yaml)), env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

fn problems(result: Result<Config, ConfigError>) -> Vec<Problem> {
    match result {
        Err(ConfigError::Values(problems)) => problems,
        other => panic!("no problems: {other:?}"),
    }
}

#[test]
fn defaults_are_those_of_the_design() {
    let config = load(GOOD).unwrap();
    assert_eq!(config.trust_domain.as_str(), "cluster.local");
    assert_eq!(config.cluster_id, "Kubernetes");
    assert_eq!(config.server.listen, "0.0.0.0:8443".parse().unwrap());
    assert_eq!(config.server.serving_dns_names, ["meshmint.meshmint-system.svc"]);
    assert_eq!((config.server.max_buffered_bytes, config.server.reflection), (128 << 20, false));
    assert_eq!(config.server.max_request_bytes, 65_536);
    assert_eq!(config.tokens.audiences, ["istio-ca"]);
    assert_eq!(config.tokens.trusted_node_accounts.len(), 1);
    assert_eq!(config.tokens.issuers[0].keys, KeySource::File("jwks.json".into()));
    assert_eq!(config.tokens.issuers[0].refresh_interval, Duration::from_secs(300));
    assert_eq!(config.certificates.backdate, Duration::from_secs(120));
    assert_eq!(config.certificates.floor(), Duration::from_secs(600));
    assert!((config.certificates.jitter() - 0.1).abs() < 1e-9);
    assert_eq!(config.authority.issuing_lifetime, Duration::from_secs(30 * 86_400));
    assert_eq!(config.authority.import, None);
    assert_eq!(config.state_dir, Path::new("/var/lib/meshmint"));
    assert_eq!(config.log_format, LogFormat::Text);
}

#[test]
fn the_block_of_the_design_is_accepted() {
    let config = load(
        "trustDomain: cluster.local\nclusterID: Kubernetes\n\
         server:       { listen: 0.0.0.0:8443, servingDNSNames: [meshmint.meshmint-system.svc], connectionMaxAge: 30m, requestTimeout: 10s }\n\
         tokens:       { audiences: [istio-ca], clockSkew: 30s, issuers: [{ issuer: https://kubernetes.default.svc, keys: { file: jwks.json } }] }\n\
         certificates: { defaultLifetime: 24h, maxLifetime: 24h, backdate: 2m, jitter: 10% }\n\
         authority:    { keyAlgorithm: p256, rootLifetime: 3650d, issuingLifetime: 30d }\n\
         state:        { file: { dir: /var/lib/meshmint } }\n\
         ledger:       { sqlite: { path: /var/lib/meshmint/ledger.db }, retention: 30d }\n\
         admin:        { socket: /run/meshmint/admin.sock }\n\
         health:       { listen: 0.0.0.0:8080 }\nmetrics:      { listen: 0.0.0.0:9402 }\nlog:          { format: text, level: info }\n",
    );
    assert_eq!(config.unwrap().server, load(GOOD).unwrap().server);
}

#[test]
fn lifetimes_of_seconds_and_no_backdate_are_allowed() {
    let config = load(&format!(
        "{GOOD}certificates: {{ defaultLifetime: 3s, maxLifetime: 5s, backdate: 0s, jitter: 0% }}\nauthority: {{ rootLifetime: 1m, issuingLifetime: 15s }}\n"
    ));
    assert_eq!(config.unwrap().authority.issuing_lifetime, Duration::from_secs(15));
}

#[test]
fn text_that_looks_like_a_number_stays_as_it_was_written() {
    for text in ["0123", "1e3", "0x1F", "true", "~x", "null-1", "\"quoted: text\"", "12_000"] {
        let config = load(&format!("{GOOD}clusterID: {text}\n")).unwrap();
        assert_eq!(config.cluster_id, text.trim_matches('"'));
        let again = load(&config.effective_yaml()).unwrap();
        assert_eq!(again.cluster_id, config.cluster_id);
    }
}

#[test]
fn key_sources() {
    let source = |keys: &str| {
        let yaml = format!("tokens: {{ issuers: [{{ issuer: 'https://idp.example', keys: {{ {keys} }} }}] }}");
        load(&yaml).unwrap().tokens.issuers[0].keys.clone()
    };
    assert_eq!(source("file: a"), KeySource::File("a".into()));
    assert_eq!(source("url: 'https://x/keys', caFile: c"), KeySource::Url { url: "https://x/keys".to_owned(), ca_file: Some("c".into()) });
    assert_eq!(source("discovery: true"), KeySource::Discovery { ca_file: None });
}

#[test]
fn a_cluster_is_there_or_not() {
    assert_eq!(load(GOOD).unwrap().cluster, None);
    let cluster = load(&format!("{GOOD}cluster: {{ inCluster: true, maxStaleness: 10m }}\n")).unwrap().cluster;
    assert_eq!(
        cluster,
        Some(Cluster {
            access: Access::InCluster,
            aliases: vec!["Kubernetes".to_owned()],
            remote_secrets_namespace: None,
            max_staleness: Duration::from_secs(600),
        })
    );
}

#[test]
fn every_bad_file_of_the_corpus_is_refused_in_these_words() {
    let folder = repository("tests/corpus/config");
    let mut seen = BTreeSet::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let name = path.file_name().unwrap().to_str().unwrap();
            let refused = Config::load(Some((name, &fs::read_to_string(&path).unwrap())), iter::empty());
            let Err(error) = refused else { panic!("{name} was accepted") };
            same_as_file(&path.with_extension("expected"), &format!("{error}\n"));
            seen.insert(name.to_owned());
        }
    }
    assert!(seen.len() >= 40, "{seen:?}");
}

#[test]
fn all_problems_are_told_at_once_in_the_words_of_their_keys() {
    let found = problems(load("servr: {}\ntrustDomain: A\nserver: { listen: here, maxInFlight: 0 }\ncertificates: { jitter: 60%, backdate: 2x }\n"));
    let keys: Vec<_> = found.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(
        keys,
        ["servr", "trustDomain", "server.listen", "server.maxInFlight", "certificates.jitter", "certificates.backdate", "tokens.issuers"]
    );
    assert_eq!(found[1].source, Source::File { name: "m.yaml".to_owned(), line: 2, column: 14 });
    assert!(found[0].reason.contains("did you mean server?"), "{}", found[0].reason);
}

#[test]
fn the_environment_goes_over_the_file_and_flags_over_both() {
    let yaml = format!("{GOOD}log: {{ level: warn }}\nclusterID: file\n");
    let env = [
        ("MESHMINT_LOG_LEVEL", "debug"),
        ("MESHMINT_CLUSTER_ID", "env"),
        ("MESHMINT_SERVER_SERVING_DNS_NAMES", "a.example, b.example"),
        ("HOME", "/x"),
    ];
    let config = with_env(&yaml, &env).unwrap();
    assert_eq!((config.log_level.as_str(), config.cluster_id.as_str()), ("debug", "env"));
    assert_eq!(config.server.serving_dns_names, ["a.example", "b.example"]);
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let config = Config::load_with_flags(Some(("m.yaml", &yaml)), env, &[("clusterID", "flag".to_owned())]).unwrap();
    assert_eq!(config.cluster_id, "flag");
    let found = problems(Config::load_with_flags(Some(("m.yaml", &yaml)), iter::empty(), &[("clusterId", "flag".to_owned())]));
    assert_eq!(found[0].to_string(), "command line: clusterId: is not a key of meshmint");
}

#[test]
fn a_slip_in_a_variable_is_refused_and_kubernetes_own_are_not() {
    let found = problems(with_env(GOOD, &[("MESHMINT_SERVER_LISTEM", "x"), ("MESHMINT_SERVER_MAX_IN_FLIGHT", "many")]));
    let words: Vec<_> = found.iter().map(ToString::to_string).collect();
    assert_eq!(words[0], "environment MESHMINT_SERVER_LISTEM: environment: no key has this name; did you mean MESHMINT_SERVER_LISTEN?");
    assert!(words[1].starts_with("environment MESHMINT_SERVER_MAX_IN_FLIGHT: server.maxInFlight: \"many\" is not right: expected"), "{}", words[1]);
    let links = ["SERVICE_HOST", "SERVICE_PORT_GRPC", "PORT", "PORT_8443_TCP", "PORT_8443_TCP_ADDR", "ADMIN_SERVICE_HOST", "TEST_WRITE"];
    for link in links {
        with_env(GOOD, &[(&format!("MESHMINT_{link}"), "tcp://10.0.0.1:8443")]).unwrap();
    }
}

#[test]
fn what_print_prints_check_accepts_and_it_is_the_default() {
    let printed = load(&Config::default_yaml()).unwrap();
    let plain = load(GOOD).unwrap();
    assert_eq!(printed.effective_yaml(), plain.effective_yaml());
    // The commented keys are valid too, once somebody takes the # away from one.
    let import = "  # import:\n    # An existing";
    assert!(Config::default_yaml().contains(import), "{}", Config::default_yaml());
    assert_eq!(Config::default_json().as_array().unwrap().len(), Config::default_yaml().matches(" Expected: ").count());
}

#[test]
fn what_is_in_force_reads_back_as_itself() {
    let yaml = "server: { servingIPAddresses: ['::1', 127.0.0.1], listen: '[::]:8443' }\n\
                tokens:\n  issuers:\n    - { issuer: 'a: b # c', keys: { file: 'x y' } }\n    - { issuer: 'https://b', keys: { discovery: true, caFile: c }, maxAge: 90m }\n\
                authority: { import: { certFile: c, keyFile: k } }\ncertificates: { defaultLifetime: 1440m }\n";
    let config = load(yaml).unwrap();
    let effective = config.effective_yaml();
    let again = load(&effective).unwrap();
    assert_eq!(again.effective_yaml(), effective);
    assert_eq!((again.server, again.tokens, again.authority), (config.server, config.tokens, config.authority));
    assert!(effective.contains("defaultLifetime: 1440m\n"), "as it was written: {effective}");
}

#[test]
fn the_reference_is_what_the_table_says() {
    same_as_file(&repository("docs/configuration.md"), &Config::default_markdown());
}

#[test]
fn a_relative_path_begins_at_the_files_folder() {
    let yaml = format!("{GOOD}state: {{ file: {{ dir: state }} }}\nadmin: {{ socket: admin.sock }}\nledger: {{ sqlite: {{ path: /l/edger.db }} }}\n");
    let loaded = |name: &str, env: &[(&str, &str)]| {
        Config::load(Some((name, &yaml)), env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))).unwrap()
    };
    let config = loaded("/etc/meshmint/m.yaml", &[("MESHMINT_STATE_FILE_DIR", "here")]);
    assert_eq!(config.tokens.issuers[0].keys, KeySource::File("/etc/meshmint/jwks.json".into()));
    assert_eq!(config.admin_socket, Path::new("/etc/meshmint/admin.sock"));
    assert_eq!((config.state_dir.as_path(), config.ledger_path.as_path()), (Path::new("here"), Path::new("/l/edger.db")));
    assert_eq!(loaded("sub/m.yaml", &[]).state_dir, Path::new("sub/state"));
    assert_eq!(loaded("m.yaml", &[]).state_dir, Path::new("state"));
    let printed = load(&config.effective_yaml()).unwrap();
    assert_eq!(printed.admin_socket, config.admin_socket, "what is printed means the same");
}

#[test]
fn problems_stand_in_the_order_of_the_lines() {
    let found =
        problems(with_env("certificates: { jitter: 60% }\nserver: { listen: here }\nservr: {}\ntrustDomain: A\n", &[("MESHMINT_LOG_LEVEL", "loud")]));
    let keys: Vec<_> = found.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["certificates.jitter", "server.listen", "servr", "trustDomain", "log.level", "tokens.issuers"]);
}

#[test]
fn dev_is_checked_like_everything_else() {
    let listen = "127.0.0.1:15012".parse().unwrap();
    let config = Config::for_dev(
        Path::new("/tmp/m"),
        &"mesh.example".parse().unwrap(),
        listen,
        Path::new("/tmp/m/admin.sock"),
        "https://dev.meshmint.invalid",
    )
    .unwrap();
    assert_eq!(config.trust_domain.as_str(), "mesh.example");
    assert_eq!(config.server.serving_dns_names, ["localhost", "istiod.istio-system.svc"]);
    assert_eq!(config.tokens.issuers[0].keys, KeySource::File("/tmp/m/jwks.json".into()));
    assert_eq!((config.state_dir.as_path(), config.ledger_path.as_path()), (Path::new("/tmp/m/state"), Path::new("/tmp/m/ledger.db")));
    assert_eq!((config.health_listen.port(), config.metrics_listen.port()), (0, 0));
    load(&config.effective_yaml()).unwrap();
    let long = PathBuf::from(format!("/tmp/{}", "x".repeat(103)));
    let found = problems(Config::for_dev(Path::new("/tmp/m"), &"mesh.example".parse().unwrap(), listen, &long, "i"));
    assert_eq!((found.len(), found[0].key.as_str()), (1, "admin.socket"));
}

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: ConfigArgs,
}

fn run(arguments: &[&str]) -> (Outcome, String, String) {
    let cli = Cli::try_parse_from(iter::once(&"config").chain(arguments)).unwrap_or_else(|error| panic!("{error}"));
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let outcome = config::run(&cli.args, iter::empty(), &mut out, &mut err);
    (outcome, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

#[test]
fn the_command_prints_and_checks() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.yaml");
    let path = file.to_str().unwrap();

    let (outcome, out, err) = run(&["print"]);
    assert_eq!((outcome, out.as_str(), err.as_str()), (Outcome::Ok, Config::default_yaml().as_str(), ""));
    fs::write(&file, out).unwrap();
    let (outcome, out, err) = run(&["check", path]);
    assert_eq!(outcome, Outcome::Warnings, "the example's key set isn't there");
    assert!(out.ends_with("can be used where the files are that it names (1 not here)\n"), "{out}");
    let missing = dir.path().join("jwks.json");
    assert!(err.contains(&format!("keys.file: {} can't be read", missing.display())), "beside the file, not where the command runs: {err}");
    assert_eq!(run(&["check", "--elsewhere", path]), (Outcome::Ok, format!("{path}: ok\n"), String::new()));
    fs::write(missing, "{}").unwrap();
    assert_eq!(run(&["check", path]), (Outcome::Ok, format!("{path}: ok\n"), String::new()));

    let (outcome, out, _) = run(&["print", "-o", "json"]);
    assert_eq!(outcome, Outcome::Ok);
    assert!(serde_json::from_str::<serde_json::Value>(&out).unwrap()[0]["key"] == "trustDomain");

    fs::write(&file, format!("{GOOD}certificates: {{ jitter: 60% }}\n")).unwrap();
    let (outcome, out, err) = run(&["check", path]);
    assert_eq!((outcome, out.as_str()), (Outcome::Failed, ""));
    assert!(
        err.starts_with(&format!("{path}:5:25: certificates.jitter: \"60%\" is not right: expected a share from 0% to 50% in whole percent")),
        "{err}"
    );
    let (outcome, out, _) = run(&["check", path, "-o", "json"]);
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((outcome, answer["ok"].as_bool(), answer["problems"][0]["file"]["line"].as_u64()), (Outcome::Failed, Some(false), Some(5)));

    fs::write(&file, "a: [").unwrap();
    let (outcome, _, err) = run(&["check", path]);
    assert!(outcome == Outcome::Failed && err.contains("not readable as YAML"), "{err}");
    let (outcome, _, err) = run(&["check", "/does/not/exist.yaml"]);
    assert!(outcome == Outcome::Failed && err.contains("config print >"), "{err}");
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,80}", value in "[ -~\u{e9}]{0,20}") {
        let _ = load(&text);
        let _ = load(&format!("certificates: {{ backdate: {value}, jitter: {value} }}\nserver: {{ maxRequestBytes: {value} }}\n"));
        let _ = load(&format!("tokens:\n  issuers:\n  - {value}\n"));
    }

    #[test]
    fn any_text_value_survives_printing(text in "[ -~\u{e9}]{1,20}") {
        let config = with_env(GOOD, &[("MESHMINT_CLUSTER_ID", &text)]).unwrap();
        prop_assert_eq!(load(&config.effective_yaml()).unwrap().cluster_id, text);
    }
}
