//! Taking over an existing authority, in the forms in which istiod, Istio's own recipe and openssl write them, by real `serve` processes.
//! Every certificate is made by openssl, and what comes out is verified by openssl.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/load.rs"]
mod load;
#[path = "common/process.rs"]
mod process;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::load::{Answer, ask_once, one};
use crate::process::{Serve, issuer_folder, serve_yaml, token};

fn openssl(dir: &Path, args: &[&str]) -> String {
    let output = Command::new("openssl").args(args).current_dir(dir).output().expect("openssl runs");
    assert!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// `keyUsage` and so on of a root in istiod's way, of an intermediate by Istio's recipe, and of one without a limit on depth.
const ROOT: &str = "basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign\nsubjectKeyIdentifier=hash\n";
const RECIPE_ROOT: &str =
    "basicConstraints=critical,CA:true\nkeyUsage=critical,digitalSignature,nonRepudiation,keyEncipherment,keyCertSign\nsubjectKeyIdentifier=hash\n";
const RECIPE: &str = "basicConstraints=critical,CA:true,pathlen:0\nkeyUsage=critical,digitalSignature,nonRepudiation,keyEncipherment,keyCertSign\n\
                      subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\nsubjectAltName=DNS:istiod.istio-system.svc\n";
const DEEP: &str =
    "basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n";
const LEAF: &str = "basicConstraints=critical,CA:false\nkeyUsage=critical,digitalSignature\n";

/// How openssl makes the keys of these tests.
const P256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
const P384: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"];
const RSA2048: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
const RSA4096: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:4096"];

/// A folder of NAME-key.pem and NAME.pem.
struct Pki(TempDir);

impl Pki {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn dir(&self) -> &Path {
        self.0.path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// A certificate `name` for a new key, signed by `issuer` (itself where there is none).
    fn make(&self, name: &str, key: &[&str], extensions: &str, issuer: Option<&str>) {
        self.make_for(name, key, extensions, issuer, "3650");
    }

    fn make_for(&self, name: &str, key: &[&str], extensions: &str, issuer: Option<&str>, days: &str) {
        self.make_by(name, key, extensions, issuer, days, "-sha256");
    }

    fn make_by(&self, name: &str, key: &[&str], extensions: &str, issuer: Option<&str>, days: &str, hash: &str) {
        let (pem, key_file, csr, config) = (format!("{name}.pem"), format!("{name}-key.pem"), format!("{name}.csr"), format!("{name}.ext"));
        openssl(self.dir(), &[&["genpkey", "-out", &key_file], key].concat());
        openssl(self.dir(), &["req", "-new", "-key", &key_file, "-subj", &format!("/O=Istio/CN={name}"), "-out", &csr]);
        self.write(&config, extensions);
        let (issuer_pem, issuer_key) =
            issuer.map_or((pem.clone(), key_file.clone()), |issuer| (format!("{issuer}.pem"), format!("{issuer}-key.pem")));
        let signer = if issuer.is_some() { vec!["-CA", &*issuer_pem, "-CAkey", &*issuer_key, "-CAcreateserial"] } else { vec!["-key", &*issuer_key] };
        let args = ["x509", "-req", hash, "-in", &csr, "-days", days, "-extfile", &config, "-out", &pem];
        openssl(self.dir(), &[&args, signer.as_slice()].concat());
    }
}

/// The import section, with files that lie in `pki`.
fn import(pki: &Pki, files: &[(&str, &str)]) -> String {
    let files: Vec<String> = files.iter().map(|(key, name)| format!("{key}: {}", pki.path(name).display())).collect();
    format!("authority: {{ import: {{ {} }} }}\n", files.join(", "))
}

/// A service that imports, and the answer to one request.
struct World {
    folder: TempDir,
    issuer: TempDir,
    yaml: String,
}

impl World {
    fn new(more: &str) -> Self {
        let (folder, issuer) = (tempfile::tempdir().unwrap(), issuer_folder());
        let yaml = serve_yaml(folder.path(), issuer.path(), "", more);
        Self { folder, issuer, yaml }
    }

    fn start(&self) -> Serve {
        Serve::start(self.folder.path(), &self.yaml)
    }

    fn state(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.folder.path().join("state/authority.json")).unwrap()).unwrap()
    }

    fn ask(&self, serve: &Serve, roots: &str) -> Answer {
        let token = token(self.issuer.path(), "shop", "cart", &[]);
        Runtime::new().unwrap().block_on(ask_once(serve.csr, roots, Some(&token))).unwrap()
    }

    /// A first start, an answer, and a second start that finds the state although the import is still configured.
    fn imports(&self, root: &str) -> Answer {
        let serve = self.start();
        let answer = self.ask(&serve, root);
        answer.verify().expect("webpki accepts the chain");
        assert_eq!(one(answer.bundle()), one(root), "the bundle is the imported root");
        let before = self.state();
        assert_eq!(serve.terminate().0, Some(0));

        let serve = self.start();
        let again = self.ask(&serve, root);
        again.verify().unwrap();
        assert_eq!(again.intermediates(), answer.intermediates());
        assert_eq!(again.bundle(), answer.bundle());
        let after = self.state();
        assert_eq!((&after["authorities"], &after["trust"]), (&before["authorities"], &before["trust"]));
        answer
    }
}

/// `openssl verify` of an answer against its own bundle; returns what openssl has against it.
fn openssl_verify(answer: &Answer, strict: bool) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("leaf.pem"), &answer.0[0]).unwrap();
    std::fs::write(folder.path().join("between.pem"), answer.intermediates().concat()).unwrap();
    std::fs::write(folder.path().join("roots.pem"), answer.bundle()).unwrap();
    let mut command = Command::new("openssl");
    command.arg("verify").current_dir(folder.path());
    if strict {
        command.arg("-x509_strict");
    }
    if !answer.intermediates().is_empty() {
        command.args(["-untrusted", "between.pem"]);
    }
    let output = command.args(["-CAfile", "roots.pem", "leaf.pem"]).output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

#[test]
fn istiods_self_signed_root_goes_on_signing_through_an_issuing_key() {
    let pki = Pki::new();
    pki.make("ca-cert", RSA2048, ROOT, None);
    // istio-ca-secret holds PKCS#1.
    openssl(pki.dir(), &["rsa", "-in", "ca-cert-key.pem", "-traditional", "-out", "ca-key.pem"]);
    assert!(pki.read("ca-key.pem").starts_with("-----BEGIN RSA PRIVATE KEY-----"));
    let world = World::new(&import(&pki, &[("certFile", "ca-cert.pem"), ("keyFile", "ca-key.pem")]));
    let answer = world.imports(&pki.read("ca-cert.pem"));
    assert_eq!(answer.intermediates().len(), 1, "an issuing intermediate of ours");
    assert_ne!(one(&answer.intermediates()[0]), one(&pki.read("ca-cert.pem")));
    openssl_verify(&answer, true).unwrap();
}

#[test]
fn istios_recipe_signs_leaves_directly_below_pathlen_0() {
    let pki = Pki::new();
    pki.make("root-cert", RSA4096, RECIPE_ROOT, None);
    pki.make("ca-cert", RSA4096, RECIPE, Some("root-cert"));
    // cert-chain.pem of the recipe: the intermediate, then the root.
    pki.write("cert-chain.pem", &(pki.read("ca-cert.pem") + &pki.read("root-cert.pem")));
    let files = [("certFile", "ca-cert.pem"), ("keyFile", "ca-cert-key.pem"), ("chainFile", "cert-chain.pem"), ("rootFile", "root-cert.pem")];
    let world = World::new(&import(&pki, &files));
    let answer = world.imports(&pki.read("root-cert.pem"));
    assert_eq!(answer.0.len(), 3, "leaf, ca-cert, root");
    assert_eq!(one(&answer.0[1]), one(&pki.read("ca-cert.pem")));
    assert_eq!(one(&answer.0[2]), one(&pki.read("root-cert.pem")));
    openssl_verify(&answer, true).unwrap();
    let state = world.state();
    let what = state["history"][0]["what"].as_str().unwrap();
    assert!(what.contains("(pathlen), signs leaves itself") && what.contains("may not sign CRLs") && what.contains("can't cross-sign"), "{what}");
    assert_eq!(state["trust"][0]["foreign"], true, "the root's key stays elsewhere");
}

#[test]
fn an_intermediate_without_pathlen_gets_an_issuing_key_below_it() {
    let pki = Pki::new();
    pki.make("root-cert", P384, ROOT, None);
    pki.make("ca-cert", P384, DEEP, Some("root-cert"));
    let files = [("certFile", "ca-cert.pem"), ("keyFile", "ca-cert-key.pem"), ("rootFile", "root-cert.pem")];
    let world = World::new(&import(&pki, &files));
    let answer = world.imports(&pki.read("root-cert.pem"));
    assert_eq!(answer.intermediates().len(), 2, "ours, then the imported one");
    assert_eq!(one(&answer.intermediates()[1]), one(&pki.read("ca-cert.pem")));
    openssl_verify(&answer, true).unwrap();
}

#[test]
fn a_sec1_key_and_a_root_in_the_chain_file() {
    let pki = Pki::new();
    pki.make("root-cert", P256, ROOT, None);
    pki.make("ca-cert", P256, DEEP, Some("root-cert"));
    openssl(pki.dir(), &["ec", "-in", "ca-cert-key.pem", "-out", "ca-key.pem"]);
    assert!(pki.read("ca-key.pem").starts_with("-----BEGIN EC PRIVATE KEY-----"));
    let files = [("certFile", "ca-cert.pem"), ("keyFile", "ca-key.pem"), ("chainFile", "root-cert.pem")];
    let answer = World::new(&import(&pki, &files)).imports(&pki.read("root-cert.pem"));
    openssl_verify(&answer, true).unwrap();
}

#[test]
fn a_chain_in_another_order_and_with_cross_certificates() {
    let pki = Pki::new();
    pki.make("one", P256, ROOT, None);
    pki.make("two", P256, ROOT, None);
    pki.make("upper", P256, DEEP, Some("one"));
    pki.make("lower", P256, DEEP, Some("upper"));
    // The second root certified the upper one, and the first root, too.
    for (name, of) in [("upper-by-two", "upper"), ("one-by-two", "one")] {
        let args = ["x509", "-req", "-in", &format!("{of}.csr"), "-days", "3650", "-extfile", "upper.ext", "-CA", "two.pem", "-CAkey", "two-key.pem"];
        openssl(pki.dir(), &[&args, ["-CAcreateserial", "-out", &format!("{name}.pem")].as_slice()].concat());
    }
    let all = |names: &[&str]| names.iter().map(|name| pki.read(&format!("{name}.pem"))).collect::<String>();
    for (chain, roots) in [
        (vec!["one", "upper"], vec!["one"]),
        (vec!["upper-by-two", "upper"], vec!["one"]),
        (vec!["upper-by-two", "upper"], vec!["two", "one"]),
        (vec!["upper", "one-by-two", "two"], vec!["one"]),
        (vec!["upper-by-two", "two", "upper", "one-by-two", "one"], vec!["one"]),
    ] {
        pki.write("chain.pem", &all(&chain));
        pki.write("roots.pem", &all(&roots));
        let files = [("certFile", "lower.pem"), ("keyFile", "lower-key.pem"), ("chainFile", "chain.pem"), ("rootFile", "roots.pem")];
        let world = World::new(&import(&pki, &files));
        let serve = world.start();
        let answer = world.ask(&serve, &all(&roots));
        answer.verify().expect("webpki accepts the chain");
        openssl_verify(&answer, true).unwrap();
        let first = world.state()["history"][0]["what"].as_str().unwrap().to_owned();
        assert_eq!(first.contains("lead to other roots"), chain.iter().any(|name| name.contains("-by-two")), "{chain:?}: {first}");
        assert_eq!(serve.terminate().0, Some(0));
    }
}

#[test]
fn an_intermediate_with_its_root_s_name_and_a_root_whose_own_signature_can_not_be_checked() {
    let pki = Pki::new();
    pki.make_by("root", P256, ROOT, None, "3650", "-sha512");
    pki.make("ca", P256, DEEP, Some("root"));
    openssl(pki.dir(), &["req", "-new", "-key", "ca-key.pem", "-subj", "/O=Istio/CN=root", "-out", "ca.csr"]);
    let args = ["x509", "-req", "-in", "ca.csr", "-days", "3650", "-extfile", "ca.ext", "-CA", "root.pem", "-CAkey", "root-key.pem"];
    openssl(pki.dir(), &[&args, ["-CAcreateserial", "-out", "ca.pem"].as_slice()].concat());
    let world = World::new(&import(&pki, &[("certFile", "ca.pem"), ("keyFile", "ca-key.pem"), ("rootFile", "root.pem")]));
    openssl_verify(&world.imports(&pki.read("root.pem")), true).unwrap();
}

#[test]
fn no_root_of_the_root_file_is_lost() {
    let pki = Pki::new();
    pki.make("one", P256, ROOT, None);
    pki.make("two", P256, ROOT, None);
    pki.make("ca-cert", P256, DEEP, Some("one"));
    let (one, two) = (pki.read("one.pem"), pki.read("two.pem"));
    let indented: String = two.lines().map(|line| format!("    {line}\n")).collect();
    for (name, text) in [
        ("joined", format!("{}{two}", one.trim_end())),
        ("byte order mark first", format!("\u{feff}{one}{two}")),
        ("byte order mark in between", format!("{one}\u{feff}{two}")),
        ("indented", format!("{one}{indented}")),
        ("CRLF", format!("{one}{two}").replace('\n', "\r\n")),
        ("one line", format!("{one}{two}").replace('\n', "")),
    ] {
        pki.write("roots.pem", &text);
        let world = World::new(&import(&pki, &[("certFile", "ca-cert.pem"), ("keyFile", "ca-cert-key.pem"), ("rootFile", "roots.pem")]));
        let serve = world.start();
        let answer = world.ask(&serve, &one);
        answer.verify().expect("webpki accepts the chain");
        assert_eq!(answer.bundle().matches("-----BEGIN").count(), 2, "{name}: both roots in the bundle");
        assert_eq!(serve.terminate().0, Some(0));
    }
}

/// certFile, keyFile, chainFile, rootFile, and what is said.
type Refused = (&'static str, &'static str, Option<&'static str>, Option<&'static str>, &'static str);

#[test]
fn what_cant_be_imported_is_refused_in_words() {
    let pki = Pki::new();
    pki.make("root-cert", P256, ROOT, None);
    pki.make("ca-cert", P256, DEEP, Some("root-cert"));
    pki.make("sub-cert", P256, DEEP, Some("ca-cert"));
    pki.make("other", P256, ROOT, None);
    pki.make("leaf", P256, LEAF, Some("root-cert"));
    pki.make_for("expired", P256, ROOT, None, "0");
    pki.make("nosign", P256, "basicConstraints=critical,CA:true\nkeyUsage=critical,cRLSign\n", None);
    pki.make("constrained", P256, &format!("{ROOT}nameConstraints=critical,permitted;URI:cluster.local\n"), None);
    pki.make("foreign", P256, &format!("{ROOT}subjectAltName=URI:spiffe://other.example\n"), None);
    openssl(pki.dir(), &["pkcs8", "-topk8", "-in", "other-key.pem", "-passout", "pass:secret", "-out", "encrypted-key.pem"]);
    openssl(pki.dir(), &["ec", "-aes128", "-in", "other-key.pem", "-passout", "pass:secret", "-out", "encrypted-sec1-key.pem"]);
    let policies = "certificatePolicies=critical,2.5.29.32.0\n";
    pki.make("policies", P256, &format!("{DEEP}{policies}"), Some("root-cert"));
    pki.make("policies-root", P256, &format!("{ROOT}{policies}"), None);
    pki.make("mapped", P256, &format!("{DEEP}policyConstraints=critical,requireExplicitPolicy:0\n"), Some("root-cert"));
    pki.make("below-mapped", P256, DEEP, Some("mapped"));
    pki.make("servers", P256, &format!("{DEEP}extendedKeyUsage=serverAuth\n"), Some("root-cert"));
    pki.make("clients", P256, &format!("{DEEP}extendedKeyUsage=clientAuth\n"), Some("root-cert"));
    pki.make("negative", P256, ROOT, None);
    openssl(pki.dir(), &["req", "-x509", "-key", "negative-key.pem", "-subj", "/CN=negative", "-set_serial", "-5", "-out", "negative.pem"]);
    openssl(pki.dir(), &["req", "-x509", "-key", "other-key.pem", "-subj", "/CN=ca", "-sha512", "-out", "sha512.pem"]);
    pki.make_by("below-sha512", P256, DEEP, Some("ca-cert"), "3650", "-sha512");
    pki.write("roots-and-negative.pem", &(pki.read("root-cert.pem") + &pki.read("negative.pem")));
    pki.write("broken-chain.pem", &pki.read("root-cert.pem"));
    pki.write("empty.pem", "");
    let private = pki.read("other-key.pem");
    pki.write("key-one-line.pem", &private.replace('\n', "\\n"));
    pki.write("key-in-between.pem", &format!("{}{}", pki.read("other.pem"), private.replacen("-----BEGIN", "key: -----BEGIN", 1)));
    pki.write("lost-root.pem", &format!("{}{}", pki.read("root-cert.pem"), pki.read("other.pem").replacen("-----BEGIN", "----BEGIN", 1)));
    openssl(pki.dir(), &["ec", "-in", "other-key.pem", "-no_public", "-out", "no-public-key.pem"]);

    let cases: &[Refused] = &[
        ("other.pem", "root-cert-key.pem", None, None, "the private key does not belong to the certificate"),
        ("sub-cert.pem", "sub-cert-key.pem", Some("broken-chain.pem"), None, "the chain is broken: certificate 1 (O=Istio, CN=sub-cert)"),
        ("policies.pem", "policies-key.pem", None, Some("root-cert.pem"), "CN=policies has the critical extension certificatePolicies"),
        ("policies-root.pem", "policies-root-key.pem", None, None, "has the critical extension certificatePolicies"),
        (
            "below-mapped.pem",
            "below-mapped-key.pem",
            Some("mapped.pem"),
            Some("root-cert.pem"),
            "CN=mapped has the critical extension policyConstraints",
        ),
        ("servers.pem", "servers-key.pem", None, Some("root-cert.pem"), "CN=servers has an extendedKeyUsage without clientAuth"),
        ("clients.pem", "clients-key.pem", None, Some("root-cert.pem"), "CN=clients has an extendedKeyUsage without serverAuth"),
        ("negative.pem", "negative-key.pem", None, None, "CN=negative has a negative serial number"),
        ("ca-cert.pem", "ca-cert-key.pem", None, Some("roots-and-negative.pem"), "CN=negative has a negative serial number"),
        ("below-sha512.pem", "below-sha512-key.pem", Some("ca-cert.pem"), Some("root-cert.pem"), "(ECDSA with SHA-512) can't be checked here"),
        (
            "ca-cert.pem",
            "ca-cert-key.pem",
            Some("other.pem"),
            Some("root-cert.pem"),
            "certificate 2 (O=Istio, CN=other) of certFile and chainFile is not between",
        ),
        ("ca-cert.pem", "ca-cert-key.pem", None, None, "give the root in rootFile"),
        ("ca-cert.pem", "ca-cert-key.pem", None, Some("other.pem"), "the chain ends at \"O=Istio, CN=ca-cert\""),
        ("expired.pem", "expired-key.pem", None, None, "is not valid now (from "),
        ("other.pem", "encrypted-key.pem", None, None, "the private key is encrypted: decrypt it first"),
        ("other.pem", "encrypted-sec1-key.pem", None, None, "the private key is encrypted: decrypt it first"),
        ("leaf.pem", "leaf-key.pem", None, Some("root-cert.pem"), "is not a CA certificate"),
        ("nosign.pem", "nosign-key.pem", None, None, "does not allow signing certificates (keyCertSign)"),
        ("constrained.pem", "constrained-key.pem", None, None, "has URI name constraints"),
        ("foreign.pem", "foreign-key.pem", None, None, "belongs to trust domain spiffe://other.example, not to spiffe://cluster.local"),
        ("empty.pem", "other-key.pem", None, None, "certFile: "),
        ("other.pem", "empty.pem", None, None, "keyFile: no private key"),
        ("absent.pem", "other-key.pem", None, None, "authority.import.certFile: can't read"),
        ("key-one-line.pem", "other-key.pem", None, None, "certFile: there is no CERTIFICATE block in it, but a private key"),
        ("key-in-between.pem", "other-key.pem", None, None, "certFile: line "),
        ("other.pem", "other-key.pem", Some("key-one-line.pem"), None, "chainFile: there is no CERTIFICATE block in it, but a private key"),
        ("ca-cert.pem", "ca-cert-key.pem", None, Some("key-one-line.pem"), "rootFile: there is no CERTIFICATE block in it, but a private key"),
        ("ca-cert.pem", "ca-cert-key.pem", None, Some("lost-root.pem"), "rootFile: line "),
        ("other.pem", "no-public-key.pem", None, None, "keyFile: the EC private key comes without its public key"),
    ];
    let issuer = issuer_folder();
    for (certificate, key, chain, root, sentence) in cases {
        let mut files = vec![("certFile", *certificate), ("keyFile", *key)];
        files.extend(chain.map(|chain| ("chainFile", chain)));
        files.extend(root.map(|root| ("rootFile", root)));
        let folder = tempfile::tempdir().unwrap();
        let (code, said) = Serve::refused(folder.path(), &serve_yaml(folder.path(), issuer.path(), "", &import(&pki, &files)));
        assert_eq!(code, Some(1), "{files:?}: {said}");
        let error = said.lines().find(|line| line.starts_with("error: ")).unwrap_or_else(|| panic!("{files:?}: {said}"));
        assert!(error.contains("authority.import") && error.contains(sentence), "{files:?}: {error}");
        assert!(!said.contains("PRIVATE KEY-----"), "{files:?}");
        let secret = private.lines().nth(1).unwrap();
        let octets = format!("{:?}", secret.as_bytes());
        assert!(!said.contains(&secret[..16]) && !said.contains(&octets[1..60]), "{files:?}: no content of a file in an error");
        assert!(!folder.path().join("state/authority.json").exists(), "{files:?}: nothing is founded");
    }
}
