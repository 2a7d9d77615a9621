//! `meshmint authority` and `audit` against real `serve` processes: a root of another CA joins the trust bundle, is in every answer from then on,
//! vouches for nobody here, and outlives a restart. The other CA is openssl.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/load.rs"]
mod load;
#[path = "common/postgres.rs"]
mod postgres;
#[path = "common/process.rs"]
mod process;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rcgen::KeyPair;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::Code;

use crate::load::{Answer, Client, Key, ask_once, one};
use crate::postgres::Postgres;
use crate::process::{Serve, issuer_folder, meshmint, serve_yaml, token, wait_for};

/// Another CA of the same trust domain: NAME.pem and NAME.key in a folder.
struct OtherCa(TempDir);

impl OtherCa {
    fn new() -> Self {
        let this = Self(tempfile::tempdir().unwrap());
        let subject = "/O=cluster.local/CN=the old CA";
        this.openssl(
            &["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", subject, "-keyout"]
                .into_iter()
                .chain(["root.key", "-out", "root.pem", "-addext", "keyUsage=critical,keyCertSign"])
                .collect::<Vec<_>>(),
        );
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn openssl(&self, args: &[&str]) {
        let output = Command::new("openssl").args(args).current_dir(self.0.path()).output().expect("openssl runs");
        assert!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A workload's certificate by this CA, with its key, as a caller shows them.
    fn leaf(&self, id: &str) -> (Answer, Key) {
        let key = Key { pair: KeyPair::generate().unwrap(), csr: Key::make().csr };
        std::fs::write(
            self.path("leaf.key"),
            pem_rfc7468::encode_string("PRIVATE KEY", pem_rfc7468::LineEnding::LF, &key.pair.serialize_der()).unwrap(),
        )
        .unwrap();
        let extensions = format!("subjectAltName=critical,URI:{id}\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n");
        std::fs::write(self.path("leaf.ext"), extensions).unwrap();
        self.openssl(&["req", "-new", "-key", "leaf.key", "-subj", "/", "-out", "leaf.csr"]);
        self.openssl(&[
            "x509", "-req", "-in", "leaf.csr", "-CA", "root.pem", "-CAkey", "root.key", "-days", "1", "-extfile", "leaf.ext", "-out", "leaf.pem",
        ]);
        (Answer(vec![self.read("leaf.pem"), self.read("root.pem")]), key)
    }
}

struct World {
    folder: TempDir,
    issuer: TempDir,
    yaml: String,
}

impl World {
    fn new() -> Self {
        let (folder, issuer) = (tempfile::tempdir().unwrap(), issuer_folder());
        let yaml = serve_yaml(folder.path(), issuer.path(), "", "");
        Self { folder, issuer, yaml }
    }

    fn start(&self) -> Serve {
        Serve::start(self.folder.path(), &self.yaml)
    }

    fn ask(&self, serve: &Serve, roots: &str) -> Result<Answer, tonic::Status> {
        let token = token(self.issuer.path(), "shop", "cart", &[]);
        Runtime::new().unwrap().block_on(ask_once(serve.csr, roots, Some(&token)))
    }

    fn state(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.folder.path().join("state/authority.json")).unwrap()).unwrap()
    }

    fn own_root(&self) -> String {
        self.state()["trust"][0]["certificate"].as_str().unwrap().to_owned()
    }

    /// A command of the operator.
    fn run(&self, args: &[&str]) -> Output {
        let socket = self.folder.path().join("admin.sock");
        meshmint(&[args, &["--admin", socket.to_str().unwrap()]].concat())
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.run(&[args, &["-o", "json"]].concat());
        assert!(output.status.success(), "{args:?}: {}", err(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn text(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", err(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn add(&self, root: &Path, reason: &str) -> Value {
        self.json(&["authority", "trust", "add", root.to_str().unwrap(), "--reason", reason])
    }
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_foreign_root_is_in_every_answer_and_vouches_for_nobody_here() {
    let (world, other) = (World::new(), OtherCa::new());
    let serve = world.start();
    let own_root = world.own_root();
    let before = world.ask(&serve, &own_root).unwrap();
    assert_eq!(before.bundle(), own_root);
    let (stranger, key) = other.leaf("spiffe://cluster.local/ns/shop/sa/cart");
    assert!(stranger.verify_against(before.bundle()).is_err(), "not trusted yet");

    let added = world.add(&other.path("root.pem"), "istiod signs until Friday");
    assert_eq!((&added["added"], &added["bundleNumber"], &added["published"]), (&true.into(), &"2".into(), &true.into()));
    let id = added["id"].as_str().unwrap();
    let after = world.ask(&serve, &own_root).unwrap();
    after.verify().expect("our own chain");
    assert_eq!(after.intermediates(), before.intermediates());
    assert_eq!(after.bundle(), world.text(&["bundle"]), "one element with both roots");
    assert!(after.bundle().starts_with(&own_root));
    assert_eq!(one(&after.bundle()[own_root.len()..]), one(&other.read("root.pem")));
    stranger.verify_against(after.bundle()).expect("a peer trusts what the other CA signed");
    assert_eq!(serve.metric("meshmint_bundle_number"), 2.0);

    // Its leaf, with the key, is no proof of anything to us; and neither is a token less than it was.
    let runtime = Runtime::new().unwrap();
    let refused = runtime.block_on(async {
        let mut client = Client::connect(serve.csr, &own_root, Some((&stranger, &key))).await.expect("the handshake doesn't judge");
        client.ask(&key, None).await
    });
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    // As a control: what we signed for the same identity renews by itself.
    let renewed =
        runtime.block_on(async { Client::connect(serve.csr, &own_root, Some((&after, Key::any()))).await.unwrap().ask(Key::any(), None).await });
    renewed.unwrap().verify().unwrap();

    let again = world.add(&other.path("root.pem"), "to be sure");
    assert_eq!((&again["added"], &again["bundleNumber"], &again["id"]), (&Value::Null, &"2".into(), &id.into()));
    assert!(world.text(&["authority", "trust", "add", other.path("root.pem").to_str().unwrap(), "--reason", "x"]).contains("already"));
    // As `kubectl exec --stdin` hands it in.
    let socket = world.folder.path().join("admin.sock");
    let add = ["authority", "trust", "add", "-", "--reason", "x", "--admin", socket.to_str().unwrap()];
    let root = std::fs::File::open(other.path("root.pem")).unwrap();
    let piped = Command::new(env!("CARGO_BIN_EXE_meshmint")).args(add).stdin(root).output().unwrap();
    assert!(piped.status.success() && String::from_utf8_lossy(&piped.stdout).contains("already"), "{}", err(&piped));
    let audit = world.json(&["audit", "list"]);
    let [entry] = &audit["entries"].as_array().unwrap()[..] else { panic!("what changed nothing is no change: {audit}") };
    let uid = rustix::process::getuid().as_raw();
    assert_eq!((&entry["actor"], &entry["action"]), (&format!("local:uid={uid}").into(), &"authority.trust.add".into()));
    assert_eq!(entry["reason"], "istiod signs until Friday");
    assert!(entry["detail"].as_str().unwrap().contains(id) && entry["detail"].as_str().unwrap().contains("the old CA"), "{entry}");
    assert!(world.text(&["audit", "list"]).contains("istiod signs until Friday"));

    assert_eq!(serve.terminate().0, Some(0));
    let serve = world.start();
    let kept = world.ask(&serve, &own_root).unwrap();
    assert_eq!(kept.bundle(), after.bundle(), "a restart changes nothing");
    assert_eq!(world.json(&["audit", "list"]), audit);
}

#[test]
fn authorities_and_roots_are_listed_and_shown() {
    let (world, other) = (World::new(), OtherCa::new());
    let _serve = world.start();
    let id = world.add(&other.path("root.pem"), "a move")["id"].as_str().unwrap().to_owned();
    let list = world.json(&["authority", "list"]);
    assert_eq!((&list["trustDomain"], &list["bundleNumber"]), (&"cluster.local".into(), &"2".into()));
    let rows = list["authorities"].as_array().unwrap();
    let of = |role: &str, origin: &str| rows.iter().find(|row| row["role"] == role && row["origin"] == origin).unwrap_or_else(|| panic!("{list}"));
    let (root, issuing, foreign) = (of("ROLE_ROOT", "ORIGIN_GENERATED"), of("ROLE_ISSUING", "ORIGIN_GENERATED"), of("ROLE_ROOT", "ORIGIN_FOREIGN"));
    assert_eq!(rows.len(), 3);
    assert_eq!((&root["phase"], &root["trusted"], &root["hasKey"]), (&"PHASE_ACTIVE".into(), &true.into(), &true.into()));
    assert_eq!(
        (&issuing["phase"], &issuing["generation"], &issuing["parent"], &issuing["root"]),
        (&"PHASE_ACTIVE".into(), &"1".into(), &root["id"], &root["id"])
    );
    assert_eq!(
        (&foreign["id"], &foreign["phase"], &foreign["trusted"], &foreign["hasKey"]),
        (&id.clone().into(), &"PHASE_TRUSTED".into(), &true.into(), &Value::Null)
    );
    assert!(rows.iter().all(|row| row["pem"].is_null() && row["notAfter"].is_string() && row["key"] == "ECDSA P-256"), "{list}");
    let table = world.text(&["authority", "list"]);
    assert!(table.contains("trust bundle number 2 with 2 roots") && table.contains("foreign") && table.contains("issuing 1"), "{table}");

    let shown = world.json(&["authority", "show", &id[..8]]);
    assert_eq!(one(shown["authority"]["pem"].as_str().unwrap()), one(&other.read("root.pem")));
    assert_eq!(shown["authority"]["subject"], foreign["subject"]);
    let text = world.text(&["authority", "show", &id.to_uppercase()]);
    assert!(text.contains("its key was never ours") && text.contains("BEGIN CERTIFICATE"), "{text}");
    assert!(!text.contains("PRIVATE"));
    for (bad, said) in [("abc", "first 4 digits"), ("xyzw", "hexadecimal"), ("00000000000000000000000000000000", "no authority"), ("", "hexadecimal")]
    {
        let output = world.run(&["authority", "show", bad]);
        assert_eq!(output.status.code(), Some(1), "{bad}");
        assert!(err(&output).contains(said), "{bad}: {}", err(&output));
    }
}

#[test]
fn what_can_not_be_trusted_is_refused_in_words_and_changes_nothing() {
    let (world, other) = (World::new(), OtherCa::new());
    let _serve = world.start();
    let before = world.state();
    other.leaf("spiffe://cluster.local/ns/shop/sa/cart");
    std::fs::write(other.path("two.pem"), other.read("root.pem") + &world.own_root()).unwrap();
    std::fs::write(other.path("rubbish.pem"), "rubbish").unwrap();
    other.openssl(
        &["req", "-x509", "-key", "root.key", "-days", "30", "-subj", "/CN=constrained", "-out", "constrained.pem", "-addext"]
            .into_iter()
            .chain(["nameConstraints=critical,permitted;URI:cluster.local"])
            .collect::<Vec<_>>(),
    );
    let refused = |file: &str, reason: &str| world.run(&["authority", "trust", "add", other.path(file).to_str().unwrap(), "--reason", reason]);
    for (file, reason, said) in [
        ("leaf.pem", "r", "not self-signed"),
        ("two.pem", "r", "one by one"),
        ("rubbish.pem", "r", "no CERTIFICATE block"),
        ("constrained.pem", "r", "URI name constraints"),
        ("missing.pem", "r", "can't read"),
        ("root.pem", "", "a reason must be given"),
        ("root.pem", "  ", "a reason must be given"),
        ("root.pem", "two\nlines", "one line"),
    ] {
        let output = refused(file, reason);
        assert_eq!(output.status.code(), Some(1), "{file}");
        assert!(err(&output).contains(said), "{file}: {}", err(&output));
    }
    assert_eq!(world.run(&["authority", "trust", "add", "root.pem"]).status.code(), Some(2), "--reason is demanded");
    assert_eq!(world.state(), before);
    assert_eq!(world.json(&["audit", "list"])["entries"], Value::Null);
}

#[test]
fn what_can_not_be_put_on_record_is_not_done() {
    let server = Postgres::start();
    let database = server.database();
    let (mut world, other) = (World::new(), OtherCa::new());
    let ledger = format!(
        "ledger: {{ postgres: {{ url: \"{}\", caFile: {}, passwordFile: {} }} }}",
        database.url(),
        database.ca_file.display(),
        database.password_file.display()
    );
    world.yaml = world.yaml.replace(&format!("ledger: {{ sqlite: {{ path: {}/ledger.db }} }}", world.folder.path().display()), &ledger);
    let _serve = world.start();
    let trust = world.state()["trust"].clone();
    server.kill();
    let root = other.path("root.pem");
    let add = ["authority", "trust", "add", root.to_str().unwrap(), "--reason", "a move"];
    let output = world.run(&add);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("can't be put on record, so nothing was changed"), "{}", err(&output));
    assert_eq!(world.state()["trust"], trust);
    server.begin();
    wait_for("the ledger to be back", || world.run(&add).status.success().then_some(()));
    assert_eq!(world.state()["trust"].as_array().unwrap().len(), 2);
    assert_eq!(
        server.sql(&database.name, "SELECT actor || ' ' || action || ' ' || reason FROM meshmint.audit").lines().last().unwrap().split(' ').nth(1),
        Some("authority.trust.add")
    );
}
