//! The commands as a person or a script meets them: help, exit codes, forms of output, filters and pages, files and hints.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/process.rs"]
mod process;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::process::{Dev, meshmint};

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn code(args: &[&str]) -> Option<i32> {
    meshmint(args).status.code()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs a command that must end well, and reads its stdout as JSON.
fn json(args: &[&str]) -> Value {
    let output = meshmint(args);
    assert!(output.status.success(), "{args:?}: {}", err(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}: {}", out(&output)))
}

/// Every value called `Timestamp`-like is RFC 3339, every serial and digest lower-hex.
fn check_forms(value: &Value) {
    let hex = |text: &str| !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match (name.as_str(), value) {
                    ("issuedAt" | "notBefore" | "notAfter" | "nextExpiry" | "revokedAt" | "now", Value::String(at)) => {
                        assert!(OffsetDateTime::parse(at, &Rfc3339).is_ok(), "{name}: {at}");
                    }
                    ("serial" | "sha256", Value::String(text)) => assert!(hex(text), "{name}: {text}"),
                    _ => check_forms(value),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(check_forms),
        _ => {}
    }
}

#[test]
fn every_help_has_an_example() {
    for command in [
        vec!["dev"],
        vec!["serve"],
        vec!["config", "print"],
        vec!["config", "check"],
        vec!["token"],
        vec!["request"],
        vec!["inspect"],
        vec!["certs"],
        vec!["certs", "list"],
        vec!["certs", "show"],
        vec!["certs", "watch"],
        vec!["certs", "stats"],
        vec!["authority"],
        vec!["authority", "list"],
        vec!["authority", "show"],
        vec!["authority", "trust", "add"],
        vec!["audit"],
        vec!["audit", "list"],
        vec!["bundle"],
        vec!["check"],
        vec!["completions"],
        vec!["man"],
        vec!["bench"],
    ] {
        let output = meshmint(&[command.as_slice(), &["--help"]].concat());
        assert_eq!(output.status.code(), Some(0), "{command:?}");
        let help = out(&output);
        assert!(help.contains("Example"), "{command:?} has no example:\n{help}");
        assert!(help.contains(&format!("  meshmint {}", command.join(" "))), "{command:?}: its example is of something else:\n{help}");
        assert!(!help.contains('\u{1b}'), "{command:?}: colours in a pipe");
    }
    assert!(out(&meshmint(&["--help"])).contains("meshmint dev"));
    assert!(out(&meshmint(&["--version"])).starts_with("meshmint "));
}

#[test]
fn exit_codes() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    for wrong in [
        vec![],
        vec!["nonsense"],
        vec!["certs"],
        vec!["certs", "show"],
        vec!["certs", "list", "--page-size", "0"],
        vec!["certs", "list", "--all", "--page-size", "5"],
        vec!["certs", "list", "--kind", "teapot"],
        vec!["certs", "list", "--issued-after", "yesterday"],
        vec!["certs", "list", "--dir", "a", "--admin", "b"],
        vec!["token", "--namespace", "shop"],
        vec!["token", "--namespace", "a/b", "--service-account", "c"],
        vec!["request", "--address", "localhost:1"],
        vec!["request", "--address", "localhost:1", "--roots", "r", "--cert", "c"],
        vec!["serve"],
        vec!["dev", "--csr-listen", "nowhere"],
        vec!["bundle", "-o", "der"],
        vec!["inspect", "/nowhere/at-all.pem"],
    ] {
        let output = meshmint(&wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {}", err(&output));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{wrong:?}: errors are on stderr");
    }
    assert_eq!(code(&["config", "print"]), Some(0));
    let config = meshmint(&["config", "print"]);
    let good = file("good.yaml", &out(&config));
    assert_eq!(code(&["config", "check", "--elsewhere", &good]), Some(0), "what `config print` prints can be used");
    assert_eq!(code(&["config", "check", &good]), Some(3), "a file that it names isn't there");
    let bad = file("bad.yaml", "server:\n  listen: nowhere\n");
    let refused = meshmint(&["config", "check", &bad]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(err(&refused).contains("bad.yaml:2:11: server.listen"), "{}", err(&refused));
    assert_eq!(code(&["config", "check", "/nowhere/at-all.yaml"]), Some(1));
    let rubbish = file("rubbish.pem", "rubbish");
    assert_eq!(code(&["inspect", &rubbish]), Some(1));
    assert_eq!(code(&["serve", "--config", &bad]), Some(1));

    let keys = json(&["config", "print", "-o", "json"]);
    assert!(keys.to_string().contains("server.listen"));
    let problems = meshmint(&["config", "check", &bad, "-o", "json"]);
    assert_eq!(problems.status.code(), Some(1));
    let problems: Value = serde_json::from_slice(&problems.stdout).unwrap();
    assert_eq!(problems["ok"], false);
    let listen = problems["problems"].as_array().unwrap().iter().find(|each| each["key"] == "server.listen").unwrap();
    assert_eq!((&listen["file"]["line"], &listen["file"]["column"]), (&Value::from(2), &Value::from(11)));
    assert_eq!(json(&["config", "check", "--elsewhere", &good, "-o", "json"])["ok"], true);
}

#[test]
fn a_socket_of_another_user_is_not_called_an_absent_server() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let dev = Dev::start();
    let mode = |mode, path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o755, dev.dir());
    let socket = dev.endpoints["admin"].as_str().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshmint"));
    command.args(["certs", "list", "--admin", socket]).stdin(Stdio::null());
    if rustix::process::geteuid().is_root() {
        // Root may open everything.
        command.uid(65_534).gid(65_534);
    } else {
        mode(0o000, Path::new(socket));
    }
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = err(&output);
    assert!(said.contains("may not open") && said.contains("sudo -u USER") && !said.contains("no server answers"), "{said}");
}

#[test]
fn a_server_is_found_by_the_variable_that_it_was_started_with() {
    let dev = Dev::start();
    let elsewhere = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshmint"));
    command.arg("bundle").env("MESHMINT_ADMIN_SOCKET", dev.endpoints["admin"].as_str().unwrap()).current_dir(elsewhere.path());
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!((output.status.code(), out(&output)), (Some(0), std::fs::read_to_string(dev.roots()).unwrap()), "{}", err(&output));
    // Whoever names a folder means it.
    let output = command.args(["--dir", "nowhere"]).output().unwrap();
    assert!(output.status.code() == Some(1) && err(&output).contains("no server is running in nowhere"), "{}", err(&output));
}

#[test]
fn every_line_of_check_is_explained_without_the_repository() {
    let unknown = meshmint(&["check", "--explain", "attic"]);
    assert_eq!(unknown.status.code(), Some(2));
    let ids: Vec<_> = err(&unknown).split("they are ").nth(1).unwrap().lines().next().unwrap().split(", ").map(str::to_owned).collect();
    assert!(ids.len() > 40, "{ids:?}");
    for id in ids {
        let explained = meshmint(&["check", "--explain", &id]);
        let said = out(&explained);
        assert!(
            explained.status.success() && said.starts_with(&format!("{id}\n\n")) && said.contains("\nWhat to do: ") && !said.contains("###"),
            "{id}: {said}"
        );
    }
}

#[test]
fn request_says_why_and_by_which_id() {
    let dev = Dev::start();
    let (csr, roots) = (dev.csr(), dev.roots());
    let ask = |token: &str, more: &[&str]| {
        let file = dev.dir().join("a-token");
        std::fs::write(&file, token).unwrap();
        meshmint(&[&["request", "--address", &csr, "--roots", text(&roots), "--token-file", text(&file)], more].concat())
    };
    let refused = ask(&dev.token("shop", "cart", &["--audience", "elsewhere"]), &[]);
    let said = err(&refused);
    assert!(refused.status.code() == Some(1) && said.contains("request id ") && said.contains("audience elsewhere"), "{said}");
    let said = err(&ask("not a token\n", &[]));
    assert!(said.contains("no JSON web token"), "{said}");
    let cut = ask(&dev.token("shop", "cart", &[]), &["--ttl", "8760h"]);
    let said = err(&cut);
    assert!(cut.status.code() == Some(0) && said.contains("another lifetime than was asked for") && said.contains("request id "), "{said}");
}

#[test]
fn nothing_that_others_named_steers_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let evil = folder.path().join("\u{1b}]0;owned\u{7}\u{202e}\u{61c}\u{9b}2J.pem");
    std::fs::write(&evil, "rubbish").unwrap();
    let dir = folder.path().join("d\u{1b}[2J");
    for command in [
        vec!["inspect", text(&evil)],
        vec!["inspect", "-o", "json", text(&evil)],
        vec!["config", "check", text(&evil)],
        vec!["config", "check", "-o", "json", text(&evil)],
        vec!["serve", "--config", text(&evil)],
        vec!["request", "--address", "127.0.0.1:1", "--roots", text(&evil)],
        vec!["authority", "trust", "add", text(&evil), "--reason", "x", "--dir", text(&dir)],
        vec!["token", "--dir", text(&dir), "--namespace", "a", "--service-account", "b"],
        vec!["check", "--dir", text(&dir)],
        vec!["check", "-o", "json", "--config", text(&evil)],
    ] {
        let output = meshmint(&command);
        let said = out(&output) + &err(&output);
        let steering = |letter: &char| (letter.is_control() && *letter != '\n') || ['\u{202e}', '\u{61c}'].contains(letter);
        assert!(!said.is_empty() && said.chars().find(steering).is_none(), "{command:?}: {said:?}");
    }
}

#[test]
fn dev_takes_a_trust_domain_and_says_what_is_still_there() {
    let folder = tempfile::tempdir().unwrap();
    let dir = text(folder.path());
    let command = ["dev", "--dir", dir, "--csr-listen", "127.0.0.1:0", "--trust-domain", "mesh.example", "--exit-after-demo"];
    let output = meshmint(&command);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let said = out(&output);
    assert!(said.contains("spiffe://mesh.example/ns/demo/sa/web"), "{said}");
    assert!(said.contains(&format!("Next, with `meshmint dev --dir {dir}` running in another terminal:")), "{said}");
    assert!(!said.contains("Serving until"), "{said}");
}

#[test]
fn without_a_server_they_say_how_to_start_one() {
    let folder = tempfile::tempdir().unwrap();
    let dir = text(folder.path());
    let socket = format!("{dir}/admin.sock");
    for command in [vec!["certs", "list"], vec!["certs", "show", "1a"], vec!["certs", "stats"], vec!["bundle"]] {
        for target in [["--dir", dir], ["--admin", &socket]] {
            let output = meshmint(&[command.as_slice(), &target].concat());
            assert_eq!(output.status.code(), Some(1), "{command:?}");
            assert!(output.stdout.is_empty());
            let said = err(&output);
            assert!(said.starts_with("error: ") && said.contains("meshmint dev"), "{command:?}: {said}");
        }
    }
    let token = meshmint(&["token", "--dir", dir, "--namespace", "shop", "--service-account", "cart"]);
    assert_eq!(token.status.code(), Some(1));
    assert!(err(&token).contains("start `meshmint dev --dir"), "{}", err(&token));

    // A server that was killed leaves its endpoints behind.
    let dev = Dev::start();
    let folder = dev.kill();
    let output = meshmint(&["certs", "list", "--dir", text(folder.path())]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("no server answers on") && err(&output).contains("meshmint dev"), "{}", err(&output));
    // And nobody is at its address.
    let roots = folder.path().join("root-cert.pem");
    let output = meshmint(&["request", "--address", "127.0.0.1:1", "--roots", text(&roots)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("can't reach 127.0.0.1:1"), "{}", err(&output));
}

/// A running `dev` with a few certificates of workloads beside its demo.
struct Inventory {
    dev: Dev,
    files: tempfile::TempDir,
}

impl Inventory {
    fn make() -> Self {
        let this = Self { dev: Dev::start(), files: tempfile::tempdir().unwrap() };
        for (namespace, account, pod) in
            [("shop", "cart", "cart-1"), ("shop", "cart", "cart-2"), ("shop", "web", "web-1"), ("bank", "cart", "cart-1")]
        {
            let output = this.request(&this.token_file(namespace, account, pod), &[]);
            assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        }
        this
    }

    fn token_file(&self, namespace: &str, account: &str, pod: &str) -> String {
        let path = self.files.path().join(format!("{namespace}-{account}-{pod}"));
        std::fs::write(&path, self.dev.token(namespace, account, &["--pod", pod])).unwrap();
        text(&path).to_owned()
    }

    fn request(&self, token_file: &str, more: &[&str]) -> Output {
        let (address, roots) = (self.dev.csr(), self.dev.roots());
        meshmint(&[&["request", "--address", &address, "--roots", text(&roots), "--token-file", token_file], more].concat())
    }

    fn dir(&self) -> &str {
        text(self.dev.dir())
    }

    fn list(&self, more: &[&str]) -> Vec<Value> {
        let page = json(&[&["certs", "list", "--dir", self.dir(), "-o", "json"], more].concat());
        check_forms(&page);
        page["certificates"].as_array().cloned().unwrap_or_default()
    }
}

fn serials(certificates: &[Value]) -> Vec<String> {
    certificates.iter().map(|each| each["serial"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_inventory() {
    let world = Inventory::make();
    let all = world.list(&["--kind", "leaf"]);
    assert_eq!(all.len(), 5, "four and the demo: {all:#?}");

    // Filters.
    let count = |more: &[&str]| world.list(more).len();
    assert_eq!(count(&["--namespace", "shop"]), 3);
    assert_eq!(count(&["--service-account", "cart"]), 3);
    assert_eq!(count(&["--namespace", "shop", "--service-account", "cart"]), 2);
    assert_eq!(count(&["--namespace", "nobody"]), 0);
    let one = &world.list(&["--namespace", "bank"])[0];
    assert_eq!(one["spiffeId"], "spiffe://cluster.local/ns/bank/sa/cart");
    assert_eq!(count(&["--holder", one["holder"].as_str().unwrap()]), 1);
    let issued_here = world.list(&["--issuer", one["issuer"].as_str().unwrap()]);
    assert!(issued_here.len() >= 6, "leaves and the serving certificate");
    assert_eq!(count(&["--issuer", &"0".repeat(32)]), 0);
    assert_eq!((count(&["--kind", "root"]), count(&["--kind", "intermediate"]), count(&["--kind", "cross"])), (1, 1, 0));
    assert!(count(&["--kind", "serving"]) >= 1);
    assert_eq!((count(&["--kind", "leaf", "--state", "valid"]), count(&["--state", "expired"]), count(&["--state", "revoked"])), (5, 0, 0));
    assert_eq!(count(&["--kind", "leaf", "--issued-after", "-1h"]), 5);
    assert_eq!(count(&["--kind", "leaf", "--issued-before", "-1h"]), 0);
    assert_eq!(count(&["--kind", "leaf", "--expires-before", "+1h"]), 0);
    assert_eq!(count(&["--kind", "leaf", "--expires-after", "+1h", "--expires-before", "+25h"]), 5);
    let at = one["issuedAt"].as_str().unwrap();
    assert!(serials(&world.list(&["--issued-after", at])).contains(&one["serial"].as_str().unwrap().to_owned()), "the bound is included");
    assert!(!serials(&world.list(&["--issued-before", at])).contains(&one["serial"].as_str().unwrap().to_owned()), "and here it isn't");

    // Pages.
    let whole = serials(&world.list(&[]));
    let (mut walked, mut token) = (Vec::new(), String::new());
    loop {
        let page = json(&["certs", "list", "--dir", world.dir(), "-o", "json", "--page-size", "2", "--page-token", &token]);
        walked.extend(serials(page["certificates"].as_array().unwrap()));
        match page["nextPageToken"].as_str().filter(|token| !token.is_empty()) {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(walked, whole);
    assert_eq!(walked.iter().collect::<BTreeSet<_>>().len(), walked.len());
    let all = out(&meshmint(&["certs", "list", "--dir", world.dir(), "--all", "-o", "json"]));
    let all: Vec<Value> = all.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(serials(&all), whole, "a line for each");
    let all = out(&meshmint(&["certs", "list", "--dir", world.dir(), "--all"]));
    assert!(all.starts_with("SERIAL") && all.lines().count() == whole.len() + 1 && !all.contains("There are more"), "{all}");
    let shown = out(&meshmint(&["certs", "list", "--dir", world.dir(), "--page-size", "2"]));
    assert!(shown.contains("There are more: add --page-token ") && !shown.contains('\u{1b}'), "{shown}");
    let bad = meshmint(&["certs", "list", "--dir", world.dir(), "--page-token", "x"]);
    assert_eq!(bad.status.code(), Some(1));
    assert!(err(&bad).contains("page token"), "{}", err(&bad));

    // One certificate, however its number is written.
    let serial = one["serial"].as_str().unwrap();
    let colons = serial.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap()).collect::<Vec<_>>().join(":");
    for written in [
        serial.to_owned(),
        serial.to_uppercase(),
        colons.clone(),
        format!("00:{}", colons.to_uppercase()),
        format!("000{serial}"),
        format!("0x{serial}"),
    ] {
        let found = json(&["certs", "show", &written, "--dir", world.dir(), "-o", "json"]);
        check_forms(&found);
        assert_eq!(found["certificates"][0]["serial"], *serial, "{written}");
        assert!(found["certificates"][0]["pem"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
        assert_eq!(found["certificates"][0]["pod"]["name"], "cart-1");
    }
    let shown = out(&meshmint(&["certs", "show", serial, "--dir", world.dir()]));
    for part in ["spiffe://cluster.local/ns/bank/sa/cart", serial, "-----BEGIN CERTIFICATE-----", "cart-1 (UID ", "generation"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains('\u{1b}'));
    for (missing, said) in [("1a2b", "no certificate with serial 1a2b is on record"), ("xyz", "hexadecimal")] {
        let output = meshmint(&["certs", "show", missing, "--dir", world.dir()]);
        assert_eq!(output.status.code(), Some(1));
        assert!(err(&output).contains(said), "{}", err(&output));
    }

    let stats = json(&["certs", "stats", "--dir", world.dir(), "-o", "json"]);
    check_forms(&stats);
    let number = |value: &Value| value.as_str().map_or(0, |text| text.parse::<u64>().unwrap());
    assert_eq!(number(&stats["total"]), whole.len() as u64);
    assert_eq!(number(&stats["liveHolders"]), 5);
    let leaves = stats["rows"].as_array().unwrap().iter().find(|row| row["kind"] == "KIND_LEAF").unwrap();
    assert_eq!((number(&leaves["total"]), number(&leaves["valid"]), number(&leaves["generation"])), (5, 5, 1));
    let shown = out(&meshmint(&["certs", "stats", "--dir", world.dir()]));
    assert!(shown.contains("live holders     5") && shown.is_ascii(), "{shown}");
    let sum = |name: &str| stats[name].as_array().unwrap().iter().map(number).sum::<u64>();
    assert_eq!((stats["issuedPerMinute"].as_array().unwrap().len(), sum("issuedPerMinute")), (61, 5));
    assert_eq!((stats["expiringPerHour"].as_array().unwrap().len(), sum("expiringPerHour")), (24, 5));
    assert_eq!((stats["keys"][0]["key"].as_str(), number(&stats["keys"][0]["count"])), (Some("P-256"), 5));
    assert_eq!((stats["lifetimes"][0]["atMost"].as_str(), number(&stats["lifetimes"][0]["count"])), (Some("86400s"), 5));
    for part in ["5 within a day", "P-256                  5  ####", "<= 1d                  5  ####"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    // The socket by itself is another way in.
    let socket = world.dev.endpoints["admin"].as_str().unwrap();
    assert_eq!(number(&json(&["certs", "stats", "--admin", socket, "-o", "json"])["liveHolders"]), 5);
}

#[test]
fn tokens_certificates_and_bundles() {
    let world = Inventory::make();
    let dir = world.dir();

    // The token alone.
    let token = meshmint(&["token", "--dir", dir, "--namespace", "shop", "--service-account", "cart"]);
    assert_eq!((token.status.code(), err(&token).as_str()), (Some(0), ""));
    let printed = out(&token);
    assert_eq!(printed.lines().count(), 1);
    assert_eq!(printed.trim_end().split('.').count(), 3);

    // The files.
    let files = world.files.path();
    let to = files.join("out");
    let token_file = world.token_file("shop", "web", "web-9");
    for key_type in ["p256", "p384", "rsa2048"] {
        let output = world.request(&token_file, &["--out-dir", text(&to), "--key-type", key_type, "-o", "json"]);
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        check_forms(&serde_json::from_slice(&output.stdout).unwrap());
        let mode = |name: &str| to.join(name).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("key.pem"), mode("cert-chain.pem"), mode("root-cert.pem")), (0o600, 0o644, 0o644));
        assert_eq!(std::fs::read(to.join("root-cert.pem")).unwrap(), std::fs::read(world.dev.roots()).unwrap());
        assert!(!out(&output).contains("PRIVATE KEY"));
    }
    let (chain, key, roots) = (to.join("cert-chain.pem"), to.join("key.pem"), to.join("root-cert.pem"));
    assert_eq!(code(&["inspect", text(&chain), "--roots", text(&roots)]), Some(0));
    check_forms(&json(&["inspect", text(&chain), "--roots", text(&roots), "-o", "json"]));
    let shown = out(&meshmint(&["inspect", text(&chain), "--roots", text(&roots)]));
    assert!(shown.contains("spiffe://cluster.local/ns/shop/sa/web") && !shown.contains('\u{1b}'), "{shown}");
    // Without its roots a chain can't be verified, which is said.
    let unrooted = meshmint(&["inspect", text(&chain)]);
    assert_eq!(unrooted.status.code(), Some(0));
    assert!(out(&unrooted).contains("not checked") && out(&unrooted).contains("--roots"), "{}", out(&unrooted));
    // A root that is there twice is worth a warning and nothing more.
    let twice = files.join("twice.pem");
    std::fs::write(&twice, std::fs::read_to_string(&roots).unwrap().repeat(2)).unwrap();
    let warned = meshmint(&["inspect", text(&twice)]);
    assert_eq!(warned.status.code(), Some(3), "warnings only: {}", out(&warned));
    // Under another root it fails.
    let other = process::issuer_folder();
    assert_eq!(code(&["inspect", text(&chain), "--roots", text(&other.path().join("root-cert.pem"))]), Some(1));
    // The server that runs.
    assert_eq!(code(&["inspect", &world.dev.csr(), "--roots", text(&roots)]), Some(0));

    // Renewal with what was written.
    let address = world.dev.csr();
    let renewed = meshmint(&["request", "--address", &address, "--roots", text(&roots), "--cert", text(&chain), "--key", text(&key), "--ttl", "1h"]);
    assert_eq!(renewed.status.code(), Some(0), "{}", err(&renewed));
    assert!(out(&renewed).contains("spiffe://cluster.local/ns/shop/sa/web"));

    // Refusals.
    let refused = meshmint(&["request", "--address", &address, "--roots", text(&roots), "--out-dir", text(&files.join("never"))]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(err(&refused).contains("UNAUTHENTICATED") && err(&refused).contains("token"), "{}", err(&refused));
    assert!(!files.join("never").exists(), "nothing is written for a refusal");
    let impersonated = world.request(&token_file, &["--impersonate", "spiffe://cluster.local/ns/bank/sa/cart"]);
    assert_eq!(impersonated.status.code(), Some(1));
    assert!(err(&impersonated).contains("PERMISSION_DENIED"), "{}", err(&impersonated));
    let untrusted = meshmint(&["request", "--address", &address, "--roots", text(&other.path().join("root-cert.pem"))]);
    assert_eq!(untrusted.status.code(), Some(1));
    assert!(err(&untrusted).contains("UnknownIssuer"), "{}", err(&untrusted));
    let misnamed = world.request(&token_file, &["--server-name", "elsewhere.example"]);
    assert_eq!(misnamed.status.code(), Some(1));
    assert!(world.request(&token_file, &["--server-name", "istiod.istio-system.svc"]).status.success());
    let absent = world.request("/nowhere/at-all", &[]);
    assert_eq!(absent.status.code(), Some(1));
    assert!(err(&absent).contains("can't read /nowhere/at-all"), "{}", err(&absent));

    // The bundle.
    let pem = meshmint(&["bundle", "--dir", dir]);
    assert_eq!(pem.stdout, std::fs::read(world.dev.roots()).unwrap());
    let spiffe = json(&["bundle", "--dir", dir, "-o", "spiffe"]);
    assert_eq!(spiffe["keys"][0]["use"], "x509-svid");
    assert_eq!(spiffe["spiffe_sequence"], 1);
    let document = files.join("bundle.json");
    std::fs::write(&document, spiffe.to_string()).unwrap();
    assert_eq!(code(&["inspect", text(&document)]), Some(0));
    assert_eq!(code(&["inspect", text(&chain), "--roots", text(&document)]), Some(0), "it can be trusted from");
    let both = json(&["bundle", "--dir", dir, "-o", "json"]);
    assert_eq!((both["trustDomain"].as_str(), both["number"].as_str()), (Some("cluster.local"), Some("1")));
    assert_eq!(both["pem"].as_str().unwrap().as_bytes(), pem.stdout);
}
