//! `meshmint serve` and `meshmint dev` as processes: how they start, what they refuse, what they log and count, how they end.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/load.rs"]
mod load;
#[path = "common/process.rs"]
mod process;

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;
use tokio::runtime::Runtime;
use tonic::Code;

use crate::load::{Client, Key, ask_once, not_after, one};
use crate::process::{Dev, PATIENCE, Serve, get, issuer_folder, meshmint, serve_yaml, terminate, token, wait_for};

fn state(dir: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(dir.join("state/authority.json")).unwrap()).unwrap()
}

fn trusted(dir: &Path) -> String {
    state(dir)["trust"][0]["certificate"].as_str().unwrap().to_owned()
}

#[test]
fn sigterm_lets_a_request_finish_and_exits_0() {
    let (folder, issuer) = (tempfile::tempdir().unwrap(), issuer_folder());
    let mut serve = Serve::start(folder.path(), &serve_yaml(folder.path(), issuer.path(), "", ""));
    let runtime = Runtime::new().unwrap();
    let token = token(issuer.path(), "shop", "cart", &[]);
    let mut client = runtime.block_on(Client::connect(serve.csr, &trusted(folder.path()), None)).unwrap();

    // While somebody else holds the ledger, the answer can't leave: that keeps the request under way for as long as is needed.
    let blocker = rusqlite::Connection::open(folder.path().join("ledger.db")).unwrap();
    blocker.busy_timeout(process::PATIENCE).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let asked = runtime.spawn(async move { client.ask(Key::any(), Some(&token)).await });
    let started =
        r#"grpc_server_started_total{grpc_method="CreateCertificate",grpc_service="istio.v1.auth.IstioCertificateService",grpc_type="unary"}"#;
    wait_for("the request to be under way", || (serve.metric(started) == 1.0).then_some(()));
    terminate(serve.child());
    wait_for("new connections to be refused", || TcpStream::connect(serve.csr).is_err().then_some(()));
    assert!(serve.child().try_wait().unwrap().is_none(), "it waits for the request");
    assert!(!asked.is_finished());
    blocker.execute_batch("COMMIT").unwrap();
    drop(blocker);

    let answer = runtime.block_on(asked).unwrap().expect("a request under way finishes");
    answer.verify().unwrap();
    let (code, log) = serve.terminate();
    assert_eq!(code, Some(0));
    assert_eq!(log.last().unwrap()["message"], "stopped");
    assert!(!folder.path().join("admin.sock").exists());
}

#[test]
fn the_effective_configuration_is_printed_and_the_log_never_holds_a_secret() {
    let (folder, issuer) = (tempfile::tempdir().unwrap(), issuer_folder());
    let serve = Serve::start(folder.path(), &serve_yaml(folder.path(), issuer.path(), ", connectionMaxAge: 17m", ""));
    let printed =
        serve.start_log.iter().find_map(|line| line["message"].as_str()?.strip_prefix("effective configuration:\n")).expect("it is printed");
    assert!(printed.contains("17m") && printed.contains("maxInFlight"), "given values and defaults: {printed}");
    let again = folder.path().join("printed.yaml");
    std::fs::write(&again, printed).unwrap();
    assert!(meshmint(&["config", "check", again.to_str().unwrap()]).status.success(), "what is printed can be used");

    let runtime = Runtime::new().unwrap();
    let roots = trusted(folder.path());
    let good = token(issuer.path(), "shop", "cart", &[]);
    let audience = token(issuer.path(), "shop", "cart", &["--audience", "elsewhere"]);
    let mut spoiled = good.clone();
    spoiled.replace_range(spoiled.len() - 20..spoiled.len() - 10, "AAAAAAAAAA");
    let tokens = [&good, &audience, &spoiled];
    assert!(runtime.block_on(ask_once(serve.csr, &roots, Some(&good))).is_ok());
    for bad in [Some(&audience), Some(&spoiled), None] {
        let refused = runtime.block_on(ask_once(serve.csr, &roots, bad.map(String::as_str))).unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }
    let start_log = serve.start_log.clone();
    let (code, rest) = serve.terminate();
    assert_eq!(code, Some(0));
    let log: Vec<Value> = start_log.into_iter().chain(rest).collect();
    assert!(log.iter().all(Value::is_object), "every line is JSON");
    assert!(log.iter().all(|line| line["timestamp"].is_string() && line["level"].is_string()));
    for reason in ["wrong_audience", "bad_signature", "no_credential"] {
        let line = log.iter().find(|line| line["reason"] == reason).unwrap_or_else(|| panic!("no line with reason {reason}: {log:#?}"));
        assert!(line["request_id"].is_string(), "{line}");
    }
    let text = log.iter().map(Value::to_string).collect::<String>();
    for token in tokens {
        // Neither the whole nor any of its parts; the header part is the same for all and no secret, the others are.
        for part in token.split('.').skip(1) {
            assert!(!text.contains(&part[..part.len().min(24)]), "a token is in the log");
        }
    }
    assert!(!text.contains("PRIVATE KEY"));
}

#[test]
fn no_core_dump_holds_its_keys() {
    let (folder, issuer) = (tempfile::tempdir().unwrap(), issuer_folder());
    let mut serve = Serve::start(folder.path(), &serve_yaml(folder.path(), issuer.path(), "", ""));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", serve.child().id())).unwrap();
    let core: Vec<_> = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap().split_whitespace().collect();
    assert_eq!(core[4..6], ["0", "0"], "{limits}");
    assert!(!serve.start_log.iter().any(|line| line.to_string().contains("core dumps can't")));
    assert_eq!(serve.terminate().0, Some(0));
}

#[test]
fn a_hangup_ends_nothing_and_is_answered_in_the_log() {
    let (folder, issuer) = (tempfile::tempdir().unwrap(), issuer_folder());
    let mut serve = Serve::start(folder.path(), &serve_yaml(folder.path(), issuer.path(), "", ""));
    let pid = rustix::process::Pid::from_child(serve.child());
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    let answered = |line: &Value| line["message"].as_str().is_some_and(|message| message.starts_with("SIGHUP: nothing was read anew"));
    while !answered(&serve.log.recv_timeout(PATIENCE).expect("it is answered")) {}
    let good = token(issuer.path(), "shop", "cart", &[]);
    assert!(Runtime::new().unwrap().block_on(ask_once(serve.csr, &trusted(folder.path()), Some(&good))).is_ok(), "it goes on");
    assert_eq!(serve.terminate().0, Some(0));
}

#[test]
fn relative_paths_begin_at_the_configurations_folder() {
    let (folder, issuer) = (tempfile::tempdir().unwrap(), issuer_folder());
    let dir = folder.path().display().to_string();
    let yaml = serve_yaml(folder.path(), issuer.path(), "", "").replace(&format!("{dir}/"), "");
    assert!(yaml.contains("dir: state") && yaml.contains("socket: admin.sock"), "{yaml}");
    let serve = Serve::start(folder.path(), &yaml);
    for made in ["state", "ledger.db", "admin.sock"] {
        assert!(folder.path().join(made).exists(), "{made} is not beside the configuration");
    }
    assert_eq!(serve.terminate().0, Some(0));
}

#[test]
fn one_folder_serves_one_process_and_one_mode() {
    let (folder, issuer) = (tempfile::tempdir().unwrap(), issuer_folder());
    let yaml = serve_yaml(folder.path(), issuer.path(), "", "");
    let serve = Serve::start(folder.path(), &yaml);
    let (code, said) = Serve::refused(folder.path(), &yaml);
    assert_eq!(code, Some(1));
    assert!(said.contains("another meshmint is using") && said.contains("stop it first"), "{said}");
    let runtime = Runtime::new().unwrap();
    let good = token(issuer.path(), "shop", "cart", &[]);
    assert!(runtime.block_on(ask_once(serve.csr, &trusted(folder.path()), Some(&good))).is_ok(), "the first goes on");
    assert!(folder.path().join("admin.sock").exists(), "and keeps its socket");
    assert_eq!(serve.terminate().0, Some(0));

    // What dev made is for dev, and the other way round.
    let elsewhere = tempfile::tempdir().unwrap();
    let (code, said) = Serve::refused(elsewhere.path(), &serve_yaml(issuer.path(), issuer.path(), "", ""));
    assert_eq!(code, Some(1));
    assert!(said.contains("the state was made by `meshmint dev`") && said.contains("a state folder of its own"), "{said}");
    let dev = meshmint(&["dev", "--dir", folder.path().to_str().unwrap(), "--csr-listen", "127.0.0.1:0", "--exit-after-demo"]);
    assert_eq!(dev.status.code(), Some(1));
    let said = String::from_utf8(dev.stderr).unwrap();
    assert!(said.contains("the state was made by `meshmint serve`") && said.contains("--dir"), "{said}");
    // Another trust domain is another authority.
    let (code, said) = Serve::refused(elsewhere.path(), &yaml.replace("trustDomain: cluster.local", "trustDomain: other.example"));
    assert_eq!(code, Some(1));
    assert!(said.contains("cluster.local") && said.contains("other.example"), "{said}");
}

#[test]
fn what_cant_work_is_refused_with_its_key_or_place() {
    let (folder, issuer) = (tempfile::tempdir().unwrap(), issuer_folder());
    let dir = folder.path();
    let yaml = serve_yaml(dir, issuer.path(), "", "");

    let (code, said) = Serve::refused(dir, &yaml.replace("health: { listen: 127.0.0.1:0 }", "health: { lisetn: 127.0.0.1:0 }"));
    assert_eq!(code, Some(1));
    assert!(said.contains("refused.yaml:7:11") && said.contains("did you mean listen?"), "line and column: {said}");
    let (code, said) = Serve::refused(dir, "trustDomain: [");
    assert_eq!(code, Some(1));
    assert!(said.contains("refused.yaml:1:"), "{said}");
    assert!(!dir.join("state").exists(), "nothing was made for a configuration that can't be used");

    for (key, line) in [
        ("server.listen", "server: { listen: 127.0.0.1:0"),
        ("health.listen", "health: { listen: 127.0.0.1:0"),
        ("metrics.listen", "metrics: { listen: 127.0.0.1:0"),
    ] {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port().to_string();
        let (code, said) = Serve::refused(dir, &yaml.replace(line, &line.replace(":0", &format!(":{port}"))));
        assert_eq!(code, Some(1));
        assert!(said.contains(&format!("{key}: can't listen on 127.0.0.1:{port}")), "{said}");
    }
    let (code, said) = Serve::refused(dir, &yaml.replace(&format!("{}/admin.sock", dir.display()), &format!("{}/nowhere/admin.sock", dir.display())));
    assert_eq!(code, Some(1));
    assert!(said.contains("admin.socket: can't listen on"), "{said}");
    let (code, said) = Serve::refused(dir, &yaml.replace(&format!("{}/ledger.db", dir.display()), &format!("{}/nowhere/ledger.db", dir.display())));
    assert_eq!(code, Some(1));
    assert!(said.contains("ledger: ") && said.contains("nowhere/ledger.db"), "{said}");

    // The refused starts left nothing behind that a good one trips over.
    let root = trusted(dir);
    drop(Serve::start(dir, &yaml));
    assert_eq!(trusted(dir), root);

    std::fs::set_permissions(dir.join("state"), std::fs::Permissions::from_mode(0o777)).unwrap();
    let (code, said) = Serve::refused(dir, &yaml);
    assert_eq!(code, Some(1));
    assert!(said.contains("is not a safe place for keys") && said.contains("chmod 700"), "{said}");
    std::fs::set_permissions(dir.join("state"), std::fs::Permissions::from_mode(0o700)).unwrap();
    let key = std::fs::read_dir(dir.join("state/keys")).unwrap().next().unwrap().unwrap().path();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (code, said) = Serve::refused(dir, &yaml);
    assert_eq!(code, Some(1));
    assert!(said.contains("chmod 600"), "{said}");
}

#[test]
fn metrics_and_health_say_what_is() {
    let (folder, issuer) = (tempfile::tempdir().unwrap(), issuer_folder());
    let serve = Serve::start(folder.path(), &serve_yaml(folder.path(), issuer.path(), "", ""));
    let runtime = Runtime::new().unwrap();
    let (roots, good) = (trusted(folder.path()), token(issuer.path(), "shop", "cart", &[]));
    let mut client = runtime.block_on(Client::connect(serve.csr, &roots, None)).unwrap();
    let answer = runtime.block_on(client.ask(Key::any(), Some(&good))).unwrap();
    assert!(runtime.block_on(client.ask(Key::any(), Some("not a token"))).is_err());
    let no_csr = Key::make();
    let no_csr = Key { csr: "nothing".to_owned(), ..no_csr };
    assert_eq!(runtime.block_on(client.ask(&no_csr, Some(&good))).unwrap_err().code(), Code::InvalidArgument);

    let rpc = r#"grpc_method="CreateCertificate",grpc_service="istio.v1.auth.IstioCertificateService",grpc_type="unary""#;
    for (name, value) in [
        ("citadel_server_csr_count".to_owned(), 3.0),
        ("citadel_server_authentication_failure_count".to_owned(), 1.0),
        ("citadel_server_csr_parsing_err_count".to_owned(), 1.0),
        ("citadel_server_success_cert_issuance_count".to_owned(), 1.0),
        (format!("grpc_server_started_total{{{rpc}}}"), 3.0),
        (format!("grpc_server_msg_received_total{{{rpc}}}"), 3.0),
        (format!("grpc_server_msg_sent_total{{{rpc}}}"), 1.0),
        (format!("grpc_server_handling_seconds_count{{{rpc}}}"), 3.0),
        (r#"grpc_server_handled_total{grpc_code="OK",grpc_method="CreateCertificate",grpc_service="istio.v1.auth.IstioCertificateService",grpc_type="unary"}"#.to_owned(), 1.0),
        ("meshmint_connections".to_owned(), 1.0),
        (r#"meshmint_handshakes_total{result="ok"}"#.to_owned(), 1.0),
        ("meshmint_generation".to_owned(), 1.0),
        ("meshmint_bundle_number".to_owned(), 1.0),
        ("meshmint_panics_total".to_owned(), 0.0),
        ("meshmint_authority_failures".to_owned(), 0.0),
        ("meshmint_ledger_writable".to_owned(), 1.0),
        (r#"meshmint_key_set_keys{issuer="0"}"#.to_owned(), 1.0),
    ] {
        let (_, text) = get(&serve.metrics.to_string(), "/metrics");
        assert!(text.lines().any(|line| line.strip_prefix(&name).is_some_and(|rest| rest.starts_with(' '))), "{name} is missing:\n{text}");
        assert_eq!(serve.metric(&name), value, "{name}");
    }
    let whole = |name: &str| serve.metric(name) as i64;
    assert_eq!(whole("citadel_server_root_cert_expiry_timestamp"), not_after(&one(&roots)));
    assert_eq!(whole("citadel_server_cert_chain_expiry_timestamp"), not_after(&one(&answer.intermediates()[0])).min(not_after(&one(&roots))));
    let ledger = load::open_ledger(&folder.path().join("ledger.db"));
    let serving: i64 = ledger.query_row("SELECT max(not_after) / 1000000 FROM certificates WHERE kind = 'serving'", [], |row| row.get(0)).unwrap();
    assert_eq!(whole("meshmint_serving_cert_expiry_timestamp"), serving);
    let (_, text) = get(&serve.metrics.to_string(), "/metrics");
    for identity in ["shop", "cart", "spiffe"] {
        assert!(!text.contains(identity), "no identity in a metric: {identity}");
    }

    let health = serve.health.to_string();
    assert_eq!(get(&health, "/livez"), (200, "ok\n".to_owned()));
    assert_eq!(get(&health, "/readyz"), (200, "ok\n".to_owned()));
    assert_eq!(get(&health, "/metrics").0, 404, "each door for its own audience");
}

/// Certificates of `dev`'s demonstration.
fn demos(folder: &Path) -> i64 {
    let ledger = load::open_ledger(&folder.join("ledger.db"));
    ledger.query_row("SELECT count(*) FROM certificates WHERE namespace = 'demo'", [], |row| row.get(0)).unwrap()
}

#[test]
fn a_second_dev_finds_the_same_root_and_the_same_ledger() {
    let mut dev = Dev::start();
    let roots = std::fs::read_to_string(dev.roots()).unwrap();
    let ledger_id = || -> String {
        let ledger = load::open_ledger(&dev.dir().join("ledger.db"));
        ledger.query_row("SELECT ledger_id FROM meta", [], |row| row.get(0)).unwrap()
    };
    let before = ledger_id();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dev.dir().join("admin.sock")), 0o600);
    assert_eq!(mode(&dev.dir().join("token-issuer.pem")), 0o600);
    wait_for("the demonstration", || (demos(dev.dir()) >= 1).then_some(()));
    let second = meshmint(&["dev", "--dir", dev.dir().to_str().unwrap(), "--csr-listen", "127.0.0.1:0", "--exit-after-demo"]);
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("another meshmint is using") && said.contains("runs already"), "{said}");
    assert!(dev.dir().join("endpoints.json").exists(), "the first one's endpoints stay");

    let endpoints = dev.dir().join("endpoints.json");
    terminate(dev.child());
    assert_eq!(dev.child().wait().unwrap().code(), Some(0));
    assert!(!endpoints.exists(), "endpoints.json goes with the server");
    let folder = dev.kill();
    let dev = Dev::start_in(folder);
    assert_eq!(std::fs::read_to_string(dev.roots()).unwrap(), roots);
    let ledger = load::open_ledger(&dev.dir().join("ledger.db"));
    assert_eq!(ledger.query_row("SELECT ledger_id FROM meta", [], |row| row.get::<_, String>(0)).unwrap(), before);
    assert!(demos(dev.dir()) >= 1, "the first start's certificate is still on record");
    assert_eq!(state(dev.dir())["madeBy"], "dev");
}

#[test]
fn a_folder_too_long_for_a_socket_gets_a_private_one() {
    let folder = tempfile::tempdir().unwrap();
    let long = folder.path().join("x".repeat(120));
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_meshmint"))
        .args(["dev", "--csr-listen", "127.0.0.1:0", "--dir"])
        .arg(&long)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let endpoints: Value = wait_for("endpoints.json", || serde_json::from_slice(&std::fs::read(long.join("endpoints.json")).ok()?).ok());
    let socket = Path::new(endpoints["admin"].as_str().unwrap()).to_owned();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let seen = (mode(&socket), mode(socket.parent().unwrap()));
    let listed = meshmint(&["certs", "list", "--dir", long.to_str().unwrap()]);
    terminate(&child);
    let ended = child.wait().unwrap();
    assert!(!socket.starts_with(&long));
    assert_eq!(seen, (0o600, 0o700));
    assert!(listed.status.success(), "{listed:?}");
    assert_eq!(ended.code(), Some(0));
    assert!(!socket.parent().unwrap().exists(), "the private folder goes with the server");
}
