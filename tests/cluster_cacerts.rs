//! Intermediates for istiods that stay the CA: the Secret `cacerts` as istiod's own packages load it and sign with it, on record before it is there, kept
//! and renewed, in our own cluster and in one that is joined; and nobody else's Secret is touched. With exactly the rules of deploy/kubernetes.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/in_cluster.rs"]
mod common;
#[path = "common/istiods.rs"]
mod istiods;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::api_server::ApiServer;
use common::clock::ManualClock;
use common::cluster::{Client, objects};
use common::process::{PATIENCE, Serve, meshmint};
use common::tools::{go_verify, openssl, pem_blocks, succeed, tool};
use common::{Shared, foreign_root, serve_yaml, wait_until};
use meshmint::clock::Clock as _;
use meshmint::controllers::{Cacerts, CacertsWork};
use meshmint::ledger::{CertificateFilter, HolderId, Kind};
use meshmint::pki::{KeyAlgorithm, certificate_to_pem};
use meshmint::rotation::TrustOrder;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::sync::watch;

const RULES: &str = "deploy/kubernetes/cacerts.yaml";
const SECRETS: &str = "/api/v1/namespaces/istio-system/secrets";
const SECRET: &str = "/api/v1/namespaces/istio-system/secrets/cacerts";
const FILES: [&str; 4] = ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"];
const DAY: Duration = Duration::from_secs(24 * 3600);

struct World {
    serve: Serve,
    folder: TempDir,
}

impl World {
    fn start(kubeconfig: &Path, more_of_cluster: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let yaml = yaml(folder.path(), kubeconfig, more_of_cluster, more);
        Self { serve: Serve::start(folder.path(), &yaml), folder }
    }

    fn ask(&self, arguments: &[&str]) -> String {
        let socket = self.folder.path().join("admin.sock");
        let output = meshmint(&[arguments, &["--admin", socket.to_str().unwrap()]].concat());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Severity, and message and detail, of each line for an istiod.
    fn check(&self) -> Vec<(String, String)> {
        let report: Value = serde_json::from_str(&self.ask(&["check", "-o", "json"])).unwrap();
        let lines = report["checks"].as_array().unwrap().iter().filter(|line| line["check"] == "cacerts");
        lines.map(|line| (line["severity"].as_str().unwrap().to_owned(), format!("{} {}", line["message"], line["detail"]))).collect()
    }

    async fn until_check(&self, severity: &str, what: &str) {
        wait_until(&format!("{severity}: {what}"), || self.check().iter().any(|(found, said)| found == severity && said.contains(what))).await;
    }

    fn gauge(&self, state: &str) -> f64 {
        self.serve.metric(&format!("meshmint_cacerts{{state=\"{state}\"}}"))
    }
}

fn yaml(folder: &Path, kubeconfig: &Path, more_of_cluster: &str, more: &str) -> String {
    let yaml = serve_yaml(folder, "Kubernetes", kubeconfig, more_of_cluster, "");
    format!("{yaml}controllers: {{ cacerts: {{ namespace: istio-system{more} }} }}\n")
}

async fn cluster() -> (Shared, Client) {
    let shared = Shared::over(ApiServer::start().await).await;
    let admin = shared.admin().await;
    (shared, admin)
}

fn part(secret: &Value, key: &str) -> String {
    String::from_utf8(STANDARD.decode(secret["data"][key].as_str().unwrap_or_default()).unwrap()).unwrap()
}

/// Waits until the Secret is whole and as `right` wants it.
async fn until(admin: &Client, what: &str, right: impl Fn(&Value) -> bool) -> Value {
    let mut last = None;
    let found = async {
        loop {
            last = admin.find(SECRET).await;
            let whole = |secret: &&Value| FILES.iter().all(|file| part(secret, file).starts_with("-----BEGIN "));
            if let Some(secret) = last.as_ref().filter(whole).filter(|secret| right(secret)) {
                return secret.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, found).await {
        Ok(secret) => secret,
        Err(_) => panic!("timed out waiting for {what}: {last:#?}"),
    }
}

/// The Secret as istiod mounts it.
fn mounted(secret: &Value) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let data = secret["data"].as_object().unwrap();
    assert_eq!(data.keys().collect::<Vec<_>>(), FILES);
    data.keys().for_each(|key| std::fs::write(folder.path().join(key), part(secret, key)).unwrap());
    folder
}

/// What openssl prints of the certificate in a file.
fn shown(path: &Path, what: &[&str]) -> String {
    let ran = openssl(&[&["x509", "-noout", "-in", path.to_str().unwrap()], what].concat());
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap().trim().to_owned()
}

fn serial(secret: &Value) -> String {
    let serial = shown(&mounted(secret).path().join("ca-cert.pem"), &["-serial"]);
    serial.trim_start_matches("serial=").to_lowercase()
}

/// istiod's own packages load the Secret and sign for a workload, and openssl and Go take what an agent would get.
fn istiod_signs(secret: &Value, trust_domain: &str) {
    let (cacerts, answer) = (mounted(secret), tempfile::tempdir().unwrap());
    let id = format!("spiffe://{trust_domain}/ns/shop/sa/cart");
    let mut istiod = Command::new(tool("bin/meshmint-istiod-ca"));
    succeed(istiod.arg("--cacerts").arg(cacerts.path()).args(["--id", &id, "--ttl", "48h", "--out"]).arg(answer.path()));
    let file = |name: &str| answer.path().join(name);
    let text = |name: &str| std::fs::read_to_string(file(name)).unwrap();
    assert_eq!(text("root-cert.pem"), part(secret, "root-cert.pem"));
    let chain = pem_blocks(&text("cert-chain.pem"));
    assert_eq!(chain[1..].concat(), part(secret, "cert-chain.pem"));
    std::fs::write(file("leaf.pem"), &chain[0]).unwrap();
    std::fs::write(file("between.pem"), &chain[1]).unwrap();
    let [leaf, between, roots] = ["leaf.pem", "between.pem", "root-cert.pem"].map(|name| file(name).to_str().unwrap().to_owned());
    for purpose in ["sslserver", "sslclient"] {
        let verified = openssl(&["verify", "-x509_strict", "-purpose", purpose, "-CAfile", &roots, "-untrusted", &between, &leaf]);
        assert!(verified.status.success(), "{purpose}: {}", String::from_utf8_lossy(&verified.stderr));
    }
    assert!(shown(&file("leaf.pem"), &["-ext", "subjectAltName"]).contains(&id));
    // Go's verdict, and its lints, on the intermediate and on our root; what else is in the bundle isn't made by us.
    std::fs::write(file("own-root.pem"), chain.last().unwrap()).unwrap();
    go_verify(&cacerts.path().join("cert-chain.pem"), &file("own-root.pem"), "ca");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn istiod_signs_with_it_and_it_is_on_record_and_kept() {
    let (shared, admin) = cluster().await;
    let world = World::start(&shared.kubeconfig(shared.server.port()), "", "");
    // The namespace and the rules come later.
    world.until_check("failed", "cannot list resource").await;
    assert_eq!(world.gauge("waiting"), 1.0);
    admin.namespace("istio-system").await;
    admin.apply_rules(RULES).await;
    let first = until(&admin, "the Secret", |_| true).await;
    assert_eq!(first["type"], "Opaque");
    istiod_signs(&first, "cluster.local");
    assert_eq!(part(&first, "root-cert.pem"), world.ask(&["bundle"]));
    assert_eq!(part(&first, "cert-chain.pem"), part(&first, "ca-cert.pem") + &part(&first, "root-cert.pem"), "the intermediate first, the root last");
    let folder = mounted(&first);
    let certificate = folder.path().join("ca-cert.pem");
    assert!(shown(&certificate, &["-ext", "basicConstraints"]).ends_with("CA:TRUE, pathlen:0"));
    assert!(shown(&certificate, &["-ext", "keyUsage"]).ends_with("Certificate Sign, CRL Sign"));

    // On record, with a holder, and reserved for in the document.
    let listed: Value = serde_json::from_str(&world.ask(&["certs", "show", &serial(&first), "-o", "json"])).unwrap();
    let record = &listed["certificates"][0];
    assert_eq!((&record["cluster"], &record["namespace"]), (&json!("Kubernetes"), &json!("istio-system")), "{record}");
    assert!(record.to_string().contains("istiod:Kubernetes/istio-system"), "{record}");
    let intermediates = world.ask(&["certs", "list", "--kind", "intermediate", "--holder", "istiod:Kubernetes/istio-system", "-o", "json"]);
    assert!(intermediates.contains(&serial(&first)), "{intermediates}");
    let state: Value = serde_json::from_slice(&std::fs::read(world.folder.path().join("state/authority.json")).unwrap()).unwrap();
    let root = state["trust"][0]["id"].as_str().unwrap();
    let time = |text: &str| OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).unwrap();
    let (reserved, now) = (time(state["reservedNotAfter"][root].as_str().unwrap()), OffsetDateTime::now_utc());
    assert!(reserved > now + DAY * 179 && reserved < now + DAY * 181, "{reserved}");
    assert!(state["history"].to_string().contains("an intermediate for istiod in Kubernetes/istio-system"));
    world.until_check("ok", "the intermediate of istiod").await;
    wait_until("it to be current", || world.gauge("current") == 1.0 && world.gauge("waiting") == 0.0).await;
    let expiry = world.serve.metric("meshmint_cacerts_expiry_timestamp") - now.unix_timestamp() as f64;
    assert!(expiry > 179.0 * 86400.0 && expiry <= 180.0 * 86400.0, "{expiry}");

    // What stands beside it is put right, and the intermediate stays.
    let encoded = |text: &str| json!(STANDARD.encode(text));
    for (key, value) in [("root-cert.pem", encoded("another root")), ("cert-chain.pem", Value::Null), ("tls.crt", encoded("istiod would read this"))]
    {
        admin.patch(SECRET, &json!({"data": {key: value}, "metadata": {"annotations": {"theirs": "kept"}}})).await;
        let put_right = until(&admin, key, |secret| secret["data"] == first["data"]).await;
        assert_eq!(put_right["metadata"]["annotations"]["theirs"], "kept");
    }
    // Where the key is lost, there is a new one.
    let mut keys = vec![first["data"]["ca-key.pem"].clone()];
    for patch in [None, Some(json!({"data": {"ca-key.pem": encoded("nothing")}}))] {
        match &patch {
            None => admin.delete(SECRET, 0).await,
            Some(patch) => drop(admin.patch(SECRET, patch).await),
        }
        let again = until(&admin, "another key", |secret| !keys.contains(&secret["data"]["ca-key.pem"])).await;
        istiod_signs(&again, "cluster.local");
        assert_eq!(again["data"]["root-cert.pem"], first["data"]["root-cert.pem"], "to the byte: istiod would refuse it otherwise");
        keys.push(again["data"]["ca-key.pem"].clone());
    }
    wait_until("six writes", || world.serve.metric("meshmint_cacerts_writes_total{result=\"written\"}") == 6.0).await;
    let log = world.serve.terminate().1.iter().map(Value::to_string).collect::<String>();
    assert!(log.contains("an intermediate for istiod is on record") && log.contains("istiod's cacerts was written"));
    for key in keys {
        let key = key.as_str().unwrap().to_owned();
        let inner = String::from_utf8(STANDARD.decode(&key).unwrap_or_default()).unwrap();
        assert!(!log.contains(&key) && inner.lines().filter(|line| line.len() > 30).all(|line| line.contains("PRIVATE") || !log.contains(line)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_of_somebody_else_is_left_alone_until_it_is_gone() {
    let (shared, admin) = cluster().await;
    admin.namespace("istio-system").await;
    admin.apply_rules(RULES).await;
    let data: serde_json::Map<_, _> = FILES.iter().map(|file| ((*file).to_owned(), json!(STANDARD.encode("theirs")))).collect();
    let made = admin.create(SECRETS, &json!({"metadata": {"name": "cacerts"}, "data": data})).await;
    let world = World::start(&shared.kubeconfig(shared.server.port()), "", "");
    world.until_check("warning", "somebody else's").await;
    assert_eq!(admin.get(SECRET).await["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    wait_until("it to be counted", || world.gauge("left_alone") == 1.0).await;
    assert!(!world.ask(&["certs", "list", "--kind", "intermediate"]).contains("istio-system"), "none was made");
    admin.delete(SECRET, 0).await;
    istiod_signs(&until(&admin, "ours", |_| true).await, "cluster.local");
    world.until_check("ok", "the intermediate of istiod").await;
    // Somebody with a newer bundle has taken over.
    admin
        .patch(
            SECRET,
            &json!({"metadata": {"annotations": {"meshmint.io/bundle-number": "99"}}, "data": {"root-cert.pem": STANDARD.encode("newer")}}),
        )
        .await;
    world.until_check("failed", "newer trust bundle").await;
    assert_eq!(part(&admin.get(SECRET).await, "root-cert.pem"), "newer");
    let log = world.serve.terminate().1;
    let warnings = log.iter().filter(|line| line["message"].as_str().is_some_and(|said| said.contains("somebody else")));
    assert!(warnings.count() <= 1, "one warning, not one for each look");
}

/// A CA in process, the Secret's keeper beside it, and the clock of both.
struct Inside {
    world: common::issuer::World,
    cacerts: Arc<Cacerts>,
    clock: ManualClock,
}

impl Inside {
    async fn of(shared: &Shared, lifetime: Duration) -> Self {
        let work = |world: &common::issuer::World| CacertsWork { lifetime, keeper: world.keeper.clone(), key_algorithm: KeyAlgorithm::P384 };
        let (world, clock, parts) = istiods::beside(shared, work).await;
        let cacerts = Cacerts::new(parts);
        Self { world, cacerts, clock }
    }

    /// Waits until the Secret is as it shall be.
    async fn settled(&self) {
        wait_until("it to be as it shall be", || self.cacerts.status().first().is_some_and(|status| status.renew_at.is_some())).await;
    }

    /// Serials of the intermediates that istiod was given, the latest first.
    async fn given(&self) -> Vec<String> {
        let holder = Some(HolderId::istiod("east", "istio-system"));
        let filter = CertificateFilter { holder, kind: Some(Kind::Intermediate), ..CertificateFilter::default() };
        let page = self.world.ledger.list(&filter, None, 100, self.clock.now()).await.unwrap();
        page.certificates.iter().map(|given| hex::encode(&given.record.serial)).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_renewed_at_half_of_its_life_and_keeps_its_key_after_a_new_bundle() {
    let (shared, admin) = cluster().await;
    admin.namespace("istio-system").await;
    admin.apply_rules(RULES).await;
    let inside = Inside::of(&shared, DAY * 20).await;
    let (lead, leading) = watch::channel(false);
    let task = tokio::spawn(inside.cacerts.clone().run(leading, std::future::pending()));
    assert!(admin.find(SECRET).await.is_none() && inside.cacerts.status().is_empty(), "another replica leads");
    lead.send(true).unwrap();
    let first = until(&admin, "the Secret", |_| true).await;
    inside.settled().await;
    istiod_signs(&first, common::issuer::TRUST_DOMAIN);
    assert_eq!(inside.given().await, [serial(&first)]);

    // Another root joins: the bundle is another, and nothing else.
    let order = TrustOrder { pem: foreign_root("another"), actor: "test".to_owned(), reason: "test".to_owned() };
    let trusted = inside.world.keeper.add_trust(&order).await.unwrap();
    let bundle = inside.world.generation().bundle.to_string();
    let with_bundle = until(&admin, "the new bundle", |secret| part(secret, "root-cert.pem") == bundle).await;
    for file in ["ca-cert.pem", "ca-key.pem", "cert-chain.pem"] {
        assert_eq!(with_bundle["data"][file], first["data"][file], "{file}");
    }
    assert_eq!(with_bundle["metadata"]["annotations"]["meshmint.io/bundle-number"], json!(trusted.bundle_number.to_string()));
    istiod_signs(&with_bundle, common::issuer::TRUST_DOMAIN);
    inside.settled().await;

    // Our own issuing key is renewed meanwhile, which is nothing to istiod.
    let lists = || inside.cacerts.status().first().and_then(|status| Some(status.watches.first()?.lists)).unwrap_or(0);
    let before = lists();
    inside.clock.advance(DAY * 9);
    // Nothing was heard for so long, so it is listed anew.
    wait_until("another look", || lists() > before).await;
    inside.settled().await;
    assert_eq!(admin.get(SECRET).await["data"], with_bundle["data"]);
    inside.clock.advance(DAY);
    let renewed = until(&admin, "the next one", |secret| secret["data"]["ca-key.pem"] != first["data"]["ca-key.pem"]).await;
    assert_eq!(renewed["data"]["root-cert.pem"], with_bundle["data"]["root-cert.pem"]);
    inside.settled().await;
    assert_eq!(inside.given().await, [serial(&renewed), serial(&first)]);
    let latest = inside.world.ledger.holder(&HolderId::istiod("east", "istio-system")).await.unwrap().unwrap();
    assert_eq!(hex::encode(latest.serial), serial(&renewed));

    // Whoever doesn't lead any more does nothing.
    lead.send(false).unwrap();
    wait_until("it to stop", || inside.cacerts.status().is_empty()).await;
    admin.delete(SECRET, 0).await;
    inside.clock.advance(DAY);
    lead.send(true).unwrap();
    until(&admin, "a third", |secret| secret["data"]["ca-key.pem"] != renewed["data"]["ca-key.pem"]).await;
    // Nor when nobody could say so any more, which is no end of the task: that would count as a bug.
    drop(lead);
    wait_until("it to stop", || inside.cacerts.status().is_empty()).await;
    assert!(!task.is_finished());
    task.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_be_written_is_written_again_and_not_made_anew() {
    let (shared, admin) = cluster().await;
    admin.namespace("istio-system").await;
    admin.apply_rules(RULES).await;
    let role = objects(RULES).remove(0);
    let mut rules = role["rules"].clone();
    rules[0]["verbs"] = json!(["list", "watch", "patch"]);
    admin.set_rules_of(&role, &rules).await;
    admin.until_may("meshmint", "istio-system", "create", ("", "secrets", "cacerts"), false).await;
    admin.until_may("meshmint", "istio-system", "list", ("", "secrets", "cacerts"), true).await;
    let inside = Inside::of(&shared, DAY * 20).await;
    let (_lead, leading) = watch::channel(true);
    let task = tokio::spawn(inside.cacerts.clone().run(leading, std::future::pending()));
    wait_until("several tries", || inside.cacerts.status().first().is_some_and(|status| status.failures >= 3)).await;
    let given = inside.given().await;
    assert_eq!(given.len(), 1, "one is on record, which nobody has");
    admin.set_rules_of(&role, &role["rules"]).await;
    let written = until(&admin, "the Secret", |_| true).await;
    assert_eq!([serial(&written)], given[..]);
    istiod_signs(&written, common::issuer::TRUST_DOMAIN);
    inside.settled().await;
    assert_eq!(inside.cacerts.status()[0].trouble, None);
    task.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_joined_gets_one_of_its_own() {
    let ((east, here), (west, there)) = (cluster().await, cluster().await);
    here.apply_rules("deploy/kubernetes/remote-clusters.yaml").await;
    let world = World::start(&east.kubeconfig(east.server.port()), ", remoteSecretsNamespace: meshmint-system", ", clusters: [Kubernetes, west]");
    for (name, admin) in [("here", &here), ("there", &there)] {
        admin.namespace("istio-system").await;
        admin.apply_rules(RULES).await;
        assert!(admin.find(SECRET).await.is_none() || name == "here");
    }
    let own = until(&here, "our own", |_| true).await;
    world.until_check("failed", "not joined").await;
    let made = meshmint(&["cluster", "secret", "--cluster", "west", "--kubeconfig", west.server.admin_kubeconfig().to_str().unwrap()]);
    let made: Value = serde_saphyr::from_str(&String::from_utf8(made.stdout).unwrap()).unwrap();
    here.create("/api/v1/namespaces/meshmint-system/secrets", &made).await;
    let theirs = until(&there, "the other", |_| true).await;
    istiod_signs(&theirs, "cluster.local");
    assert_eq!(part(&theirs, "root-cert.pem"), part(&own, "root-cert.pem"));
    assert!(part(&theirs, "ca-cert.pem") != part(&own, "ca-cert.pem") && part(&theirs, "ca-key.pem") != part(&own, "ca-key.pem"));
    wait_until("both to be current", || world.gauge("current") == 2.0).await;
    assert!(world.ask(&["certs", "list", "--holder", "istiod:west/istio-system", "-o", "json"]).contains(&serial(&theirs)));
    // It goes: what it has stays there, and nobody looks after it.
    here.delete(&format!("/api/v1/namespaces/meshmint-system/secrets/{}", made["metadata"]["name"].as_str().unwrap()), 0).await;
    world.until_check("failed", "not joined").await;
    assert_eq!(there.get(SECRET).await["data"], theirs["data"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_pathlen_0_there_is_none_and_the_start_says_so() {
    let (shared, _) = cluster().await;
    let folder = tempfile::tempdir().unwrap();
    let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.distinguished_name.push(DnType::CommonName, "root");
    let root_pem = certificate_to_pem(root.self_signed(&root_key).unwrap().der());
    let mut below = CertificateParams::default();
    below.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    below.distinguished_name.push(DnType::CommonName, "below");
    let below_pem = certificate_to_pem(below.signed_by(&key, &Issuer::new(root, root_key)).unwrap().der());
    let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
    write("ca-cert.pem", below_pem);
    write("ca-key.pem", pem_rfc7468::encode_string("PRIVATE KEY", pem_rfc7468::LineEnding::LF, key.serialized_der()).unwrap());
    write("root-cert.pem", root_pem);
    let at = |name: &str| folder.path().join(name).display().to_string();
    let import =
        format!("authority: {{ import: {{ certFile: {}, keyFile: {}, rootFile: {} }} }}\n", at("ca-cert.pem"), at("ca-key.pem"), at("root-cert.pem"));
    let (code, said) = Serve::refused(folder.path(), &(yaml(folder.path(), &shared.kubeconfig(shared.server.port()), "", "") + &import));
    assert!(
        code == Some(1) && said.contains("controllers.cacerts: the authority of this state may have no other below it (pathlen:0)"),
        "{code:?} {said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_rule_is_needed() {
    let (shared, admin) = cluster().await;
    admin.namespace("istio-system").await;
    admin.apply_rules(RULES).await;
    let kubeconfig = shared.kubeconfig(shared.server.port());
    let role = objects(RULES).remove(0);
    for (verb, trouble) in [
        ("list", "cannot list resource"),
        ("watch", "cannot watch resource"),
        ("create", "cannot create resource"),
        ("patch", "cannot patch resource"),
    ] {
        let mut rules = role["rules"].clone();
        rules[0]["verbs"].as_array_mut().unwrap().retain(|each| each != verb);
        if admin.find(SECRET).await.is_some() {
            admin.delete(SECRET, 0).await;
        }
        admin.set_rules_of(&role, &rules).await;
        admin.until_may("meshmint", "istio-system", verb, ("", "secrets", "cacerts"), false).await;
        let world = World::start(&kubeconfig, "", "");
        wait_until(trouble, || world.check().iter().any(|(severity, said)| severity != "ok" && said.contains(trouble))).await;
        drop(world);
        admin.set_rules_of(&role, &role["rules"]).await;
        admin.until_may("meshmint", "istio-system", verb, ("", "secrets", "cacerts"), true).await;
    }
    let own = Client::new(&kubeconfig).await;
    assert!(own.text(SECRETS).await.is_err(), "no other Secret can be read");
    let other = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "other", "namespace": "istio-system"}});
    assert!(own.ask("PATCH", &format!("{SECRETS}/other?fieldManager=x"), "application/apply-patch+yaml", &other).await.is_err());
    assert!(own.ask("POST", SECRETS, "application/json", &other).await.is_err());
}
