//! istiod's own certificate: there before istiod starts, for all its revisions, kept and renewed, issued again until istiod's webhooks show the trust
//! bundle, in our own cluster and in one that is joined; and nobody else's Secret is touched. With exactly the rules of deploy/kubernetes.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/in_cluster.rs"]
mod common;
#[path = "common/istiods.rs"]
mod istiods;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::api_server::ApiServer;
use common::clock::ManualClock;
use common::cluster::{Client, objects};
use common::issuer::{Choices, SeededEntropy};
use common::process::{PATIENCE, Serve, meshmint};
use common::tools::openssl;
use common::{Shared, foreign_root, serve_yaml, wait_until};
use meshmint::clock::Clock as _;
use meshmint::controllers::{IstiodTls, IstiodTlsStatus, IstiodTlsWork};
use meshmint::ledger::{CertificateFilter, Kind};
use meshmint::rotation::TrustOrder;
use serde_json::{Value, json};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::sync::watch;

const RULES: &str = "deploy/kubernetes/istiod.yaml";
const SECRETS: &str = "/api/v1/namespaces/istio-system/secrets";
const SECRET: &str = "/api/v1/namespaces/istio-system/secrets/istiod-tls";
const NAMES: [&str; 4] =
    ["istiod.istio-system.svc", "istiod-canary.istio-system.svc", "istiod-remote.istio-system.svc", "istio-pilot.istio-system.svc"];

struct World {
    serve: Serve,
    folder: TempDir,
}

impl World {
    fn start(kubeconfig: &Path, more_of_cluster: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let yaml = serve_yaml(folder.path(), "Kubernetes", kubeconfig, more_of_cluster, "");
        let istiod = format!("controllers: {{ istiod: {{ namespace: istio-system, revisions: [default, canary]{more} }} }}\n");
        Self { serve: Serve::start(folder.path(), &format!("{yaml}{istiod}")), folder }
    }

    fn ask(&self, arguments: &[&str]) -> String {
        let socket = self.folder.path().join("admin.sock");
        let output = meshmint(&[arguments, &["--admin", socket.to_str().unwrap()]].concat());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Severity, and message and detail, of each line of this id.
    fn check(&self, id: &str) -> Vec<(String, String)> {
        let report: Value = serde_json::from_str(&self.ask(&["check", "-o", "json"])).unwrap();
        let lines = report["checks"].as_array().unwrap().iter().filter(|line| line["check"] == id);
        lines.map(|line| (line["severity"].as_str().unwrap().to_owned(), format!("{} {}", line["message"], line["detail"]))).collect()
    }

    async fn until_check(&self, id: &str, severity: &str, what: &str) {
        wait_until(&format!("{id} to be {severity}: {what}"), || self.check(id).iter().any(|(found, said)| found == severity && said.contains(what)))
            .await;
    }

    fn gauge(&self, state: &str) -> f64 {
        self.serve.metric(&format!("meshmint_istiod_tls{{state=\"{state}\"}}"))
    }
}

async fn cluster() -> (Shared, Client) {
    let shared = Shared::over(ApiServer::start().await).await;
    let admin = shared.admin().await;
    (shared, admin)
}

/// Waits for a Secret with another certificate than this one's.
async fn until_new(admin: &Client, old: Option<&Value>) -> Value {
    let old = old.map(|old| old["data"]["tls.crt"].clone());
    let mut last = None;
    let new = async {
        loop {
            last = admin.find(SECRET).await;
            // One that a test has spoilt isn't new.
            let ours = |secret: &&Value| secret["metadata"]["annotations"]["meshmint.io/bundle-number"].is_string();
            if let Some(secret) = last.as_ref().filter(ours).filter(|secret| old.as_ref() != Some(&secret["data"]["tls.crt"]) && is_whole(secret)) {
                return secret.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, new).await {
        Ok(secret) => secret,
        Err(_) => panic!("{last:#?}"),
    }
}

/// The serial number of the certificate in it, as the ledger shows it.
fn serial(secret: &Value) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leaf.pem");
    std::fs::write(&path, part(secret, "tls.crt")).unwrap();
    let printed = String::from_utf8(openssl(&["x509", "-in", path.to_str().unwrap(), "-noout", "-serial"]).stdout).unwrap();
    printed.trim().trim_start_matches("serial=").to_lowercase()
}

fn part(secret: &Value, key: &str) -> String {
    String::from_utf8(STANDARD.decode(secret["data"][key].as_str().unwrap_or_default()).unwrap()).unwrap()
}

fn is_whole(secret: &Value) -> bool {
    part(secret, "tls.crt").starts_with("-----BEGIN CERTIFICATE") && part(secret, "tls.key").contains("PRIVATE KEY")
}

/// A server that openssl takes under each of istiod's names, with a key that fits.
fn verify(secret: &Value) {
    verify_at(secret, OffsetDateTime::now_utc());
}

/// The same at another time.
fn verify_at(secret: &Value, at: OffsetDateTime) {
    let at = at.unix_timestamp().to_string();
    assert_eq!(secret["type"], "kubernetes.io/tls");
    let folder = tempfile::tempdir().unwrap();
    let write = |key: &str| {
        let path = folder.path().join(key);
        std::fs::write(&path, part(secret, key)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (chain, key, roots) = (write("tls.crt"), write("tls.key"), write("ca.crt"));
    for name in NAMES {
        let strict = [
            "verify",
            "-attime",
            &at,
            "-x509_strict",
            "-purpose",
            "sslserver",
            "-verify_hostname",
            name,
            "-CAfile",
            &roots,
            "-untrusted",
            &chain,
            &chain,
        ];
        let verified = openssl(&strict);
        assert!(verified.status.success(), "{name}: {}", String::from_utf8_lossy(&verified.stderr));
    }
    let wrong = openssl(&["verify", "-verify_hostname", "istiod.elsewhere.svc", "-CAfile", &roots, "-untrusted", &chain, &chain]);
    assert!(!wrong.status.success());
    let of_certificate = openssl(&["x509", "-in", &chain, "-noout", "-pubkey"]).stdout;
    assert!(!of_certificate.is_empty() && of_certificate == openssl(&["pkey", "-in", &key, "-pubout"]).stdout, "the key fits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_there_before_istiod_on_record_and_kept() {
    let (shared, admin) = cluster().await;
    let world = World::start(&shared.kubeconfig(shared.server.port()), "", "");
    // The namespace and the rules come later.
    admin.namespace("istio-system").await;
    admin.apply_rules(RULES).await;
    let first = until_new(&admin, None).await;
    verify(&first);
    assert_eq!(part(&first, "ca.crt"), world.ask(&["bundle"]));
    let (serial, on_record) = (serial(&first), world.ask(&["certs", "list", "-o", "json"]));
    assert!(serial.len() > 30 && on_record.contains(&serial), "{serial} in {on_record}");
    world.until_check("istiod-certificate", "ok", "istiod's certificate").await;
    world.until_check("istiod-bundle", "ok", "no webhooks yet").await;
    assert_eq!(["current", "waiting", "left_alone"].map(|state| world.gauge(state)), [1.0, 0.0, 0.0]);
    let expiry = world.serve.metric("meshmint_istiod_cert_expiry_timestamp") - OffsetDateTime::now_utc().unix_timestamp() as f64;
    assert!(expiry > 23.0 * 3600.0 && expiry <= 24.0 * 3600.0, "{expiry}");

    // Whatever is changed or taken away comes back, with another key.
    let mut keys = vec![first["data"]["tls.key"].clone()];
    let mut last = first;
    let encoded = |text: &str| json!(STANDARD.encode(text));
    for patch in [
        None,
        Some(json!({"data": {"tls.key": encoded("nothing")}})),
        Some(json!({"data": {"ca.crt": encoded("another root")}, "metadata": {"annotations": {"theirs": "kept"}}})),
    ] {
        match &patch {
            None => admin.delete(SECRET, 0).await,
            Some(patch) => drop(admin.patch(SECRET, patch).await),
        }
        last = until_new(&admin, Some(&last)).await;
        verify(&last);
        assert!(!keys.contains(&last["data"]["tls.key"]), "a key is made anew each time");
        keys.push(last["data"]["tls.key"].clone());
    }
    assert_eq!(last["metadata"]["annotations"]["theirs"], "kept");
    assert_eq!(world.serve.metric("meshmint_istiod_tls_writes_total{result=\"written\"}"), 4.0);
    let log = world.serve.terminate().1.iter().map(Value::to_string).collect::<String>();
    assert!(log.contains("istiod's certificate was issued"));
    for key in keys {
        let key = key.as_str().unwrap().to_owned();
        let inner = String::from_utf8(STANDARD.decode(&key).unwrap()).unwrap();
        assert!(!log.contains(&key) && inner.lines().filter(|line| line.len() > 30).all(|line| line.contains("PRIVATE") || !log.contains(line)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_of_somebody_else_is_left_alone_until_it_is_gone() {
    let (shared, admin) = cluster().await;
    admin.namespace("istio-system").await;
    admin.apply_rules(RULES).await;
    let data = json!({"tls.crt": STANDARD.encode("theirs"), "tls.key": STANDARD.encode("theirs"), "ca.crt": STANDARD.encode("theirs")});
    let theirs = json!({"metadata": {"name": "istiod-tls", "annotations": {"cert-manager.io/certificate-name": "istiod"}}, "type": "kubernetes.io/tls", "data": data});
    let made = admin.create(SECRETS, &theirs).await;
    let world = World::start(&shared.kubeconfig(shared.server.port()), "", "");
    world.until_check("istiod-certificate", "warning", "somebody else's").await;
    wait_until("it to be counted", || world.gauge("left_alone") == 1.0).await;
    assert_eq!(admin.get(SECRET).await["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    admin.delete(SECRET, 0).await;
    verify(&until_new(&admin, None).await);
    world.until_check("istiod-certificate", "ok", "istiod's certificate").await;
    // Somebody with a newer bundle has taken over.
    admin
        .patch(SECRET, &json!({"metadata": {"annotations": {"meshmint.io/bundle-number": "99"}}, "data": {"ca.crt": STANDARD.encode("newer")}}))
        .await;
    world.until_check("istiod-certificate", "failed", "newer trust bundle").await;
    assert_eq!(part(&admin.get(SECRET).await, "ca.crt"), "newer");
    let log = world.serve.terminate().1;
    let warnings = log.iter().filter(|line| line["message"].as_str().is_some_and(|said| said.contains("somebody else")));
    assert!(warnings.count() <= 1, "one warning, not one for each look");
}

/// A CA in process, the Secret's keeper beside it, and the clock of both.
struct Inside {
    world: common::issuer::World,
    istiod: Arc<IstiodTls>,
    clock: ManualClock,
}

impl Inside {
    async fn of(shared: &Shared) -> Self {
        let (world, clock, parts) = istiods::beside(shared, |world| IstiodTlsWork {
            issuer: world.issuer.clone(),
            generation: world.keeper.published(),
            revisions: vec!["default".to_owned(), "canary".to_owned()],
            lifetime: Duration::from_secs(24 * 3600),
        })
        .await;
        let istiod = IstiodTls::new(parts);
        Self { world, istiod, clock }
    }

    /// How it stands, while it is kept.
    fn status(&self) -> Option<IstiodTlsStatus> {
        self.istiod.status().pop()
    }

    /// Waits until the Secret is as it shall be, and so many webhooks are behind.
    async fn settled(&self, behind: usize) {
        wait_until("it to be as it shall be", || {
            self.status().is_some_and(|status| status.webhooks_behind == behind && status.secret.renew_at.is_some())
        })
        .await;
    }

    /// Serials of all serving certificates, the latest first.
    async fn issued(&self) -> Vec<String> {
        let filter = CertificateFilter { kind: Some(Kind::Serving), ..CertificateFilter::default() };
        let page = self.world.ledger.list(&filter, None, 100, self.clock.now()).await.unwrap();
        page.certificates.iter().map(|issued| hex::encode(&issued.record.serial)).collect()
    }
}

/// Makes or changes istiod's webhook configuration of this kind, as istiod does.
async fn show(admin: &Client, kind: &str, name: &str, label: &str, bundle: &str) {
    let path = format!("/apis/admissionregistration.k8s.io/v1/{kind}");
    let service = json!({"namespace": "istio-system", "name": "istiod", "path": "/inject", "port": 443});
    let webhook = json!({"name": "a.istio.io", "admissionReviewVersions": ["v1"], "sideEffects": "None", "clientConfig": {"service": service, "caBundle": STANDARD.encode(bundle)}});
    let configuration = json!({"metadata": {"name": name, "labels": {"app": label}}, "webhooks": [webhook]});
    match admin.find(&format!("{path}/{name}")).await {
        None => drop(admin.create(&path, &configuration).await),
        Some(_) => drop(admin.patch(&format!("{path}/{name}"), &configuration).await),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_issued_again_until_istiod_shows_the_bundle_and_renewed_at_half_of_its_life() {
    let (shared, admin) = cluster().await;
    admin.namespace("istio-system").await;
    admin.apply_rules(RULES).await;
    let inside = Inside::of(&shared).await;
    let (clock, istiod) = (&inside.clock, &inside.istiod);
    let (lead, leading) = watch::channel(false);
    let task = tokio::spawn(istiod.clone().run(leading, std::future::pending()));
    let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
    assert!(admin.find(SECRET).await.is_none() && istiod.status().is_empty(), "another replica leads");
    lead.send(true).unwrap();
    let first = until_new(&admin, None).await;
    verify_at(&first, clock.now());
    inside.settled(0).await;

    // istiod has read the bundle; then its CA or an old volume shows another.
    let bundle = inside.world.generation().bundle.to_string();
    let other =
        common::issuer::World::found(Choices::default(), Arc::new(clock.clone()), SeededEntropy::new(9)).await.generation().bundle.to_string();
    show(&admin, "mutatingwebhookconfigurations", "istio-sidecar-injector", "sidecar-injector", &bundle).await;
    show(&admin, "validatingwebhookconfigurations", "istio-validator-istio-system", "istiod", &bundle).await;
    wait_until("both to be seen", || inside.status().is_some_and(|status| (status.webhooks, status.webhooks_behind) == (2, 0))).await;
    for (kind, name, label) in [
        ("mutatingwebhookconfigurations", "istio-sidecar-injector", "sidecar-injector"),
        ("validatingwebhookconfigurations", "istio-validator-istio-system", "istiod"),
    ] {
        let before = admin.get(SECRET).await;
        show(&admin, kind, name, label, &other).await;
        inside.settled(1).await;
        clock.advance(Duration::from_secs(80));
        inside.settled(1).await;
        assert_eq!(admin.get(SECRET).await["data"], before["data"], "the kubelet takes a while");
        clock.advance(minutes(1));
        let again = until_new(&admin, Some(&before)).await;
        verify_at(&again, clock.now());
        clock.advance(minutes(5));
        let once_more = until_new(&admin, Some(&again)).await;
        show(&admin, kind, name, label, &bundle).await;
        inside.settled(0).await;
        clock.advance(minutes(20));
        inside.settled(0).await;
        assert_eq!(admin.get(SECRET).await["data"], once_more["data"], "istiod shows it");
    }

    let before = admin.get(SECRET).await;
    clock.advance(minutes(13 * 60));
    verify_at(&until_new(&admin, Some(&before)).await, clock.now());
    // Whoever doesn't lead any more does nothing.
    inside.settled(0).await;
    lead.send(false).unwrap();
    wait_until("it to stop", || istiod.status().is_empty()).await;
    admin.delete(SECRET, 0).await;
    clock.advance(minutes(1));
    lead.send(true).unwrap();
    verify_at(&until_new(&admin, None).await, clock.now());
    // Nor when nobody could say so any more, which is no end of the task: that would count as a bug.
    drop(lead);
    wait_until("it to stop", || istiod.status().is_empty()).await;
    assert!(!task.is_finished());
    task.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_bundle_is_in_it_with_a_new_certificate() {
    let (shared, admin) = cluster().await;
    admin.namespace("istio-system").await;
    admin.apply_rules(RULES).await;
    let inside = Inside::of(&shared).await;
    let (_lead, leading) = watch::channel(true);
    let task = tokio::spawn(inside.istiod.clone().run(leading, std::future::pending()));
    let first = until_new(&admin, None).await;
    inside.settled(0).await;
    let root = foreign_root("another");
    let order = TrustOrder { pem: root.clone(), actor: "test".to_owned(), reason: "test".to_owned() };
    let trusted = inside.world.keeper.add_trust(&order).await.unwrap();
    let began = std::time::Instant::now();
    let second = until_new(&admin, Some(&first)).await;
    println!("istiod-tls had the new bundle after {:?}", began.elapsed());
    assert_eq!(part(&second, "ca.crt"), *inside.world.generation().bundle);
    assert!(part(&second, "ca.crt").contains(&root) && part(&second, "ca.crt").contains(&part(&first, "ca.crt")), "both roots");
    let number = |secret: &Value| secret["metadata"]["annotations"]["meshmint.io/bundle-number"].clone();
    assert_eq!((number(&first), number(&second)), (json!("1"), json!(trusted.bundle_number.to_string())));
    assert_ne!(second["data"]["tls.key"], first["data"]["tls.key"]);
    verify_at(&second, inside.clock.now());
    inside.settled(0).await;
    assert_eq!(inside.issued().await, [serial(&second), serial(&first)], "one for each bundle");
    task.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_made_while_the_clock_was_ahead_is_replaced() {
    const AHEAD: Duration = Duration::from_secs(6 * 3600);
    let (shared, admin) = cluster().await;
    admin.namespace("istio-system").await;
    admin.apply_rules(RULES).await;
    let inside = Inside::of(&shared).await;
    inside.clock.advance(AHEAD);
    let (_lead, leading) = watch::channel(true);
    let task = tokio::spawn(inside.istiod.clone().run(leading, std::future::pending()));
    let first = until_new(&admin, None).await;
    inside.settled(0).await;
    inside.clock.put_back(AHEAD);
    let second = until_new(&admin, Some(&first)).await;
    verify_at(&second, inside.clock.now());
    inside.settled(0).await;
    assert_eq!(inside.issued().await.len(), 2, "once is enough");
    task.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_be_written_is_written_again_and_not_issued_anew() {
    let (shared, admin) = cluster().await;
    admin.namespace("istio-system").await;
    admin.apply_rules(RULES).await;
    let role = objects(RULES).remove(0);
    let without = async |verb: &str| {
        let mut rules = role["rules"].clone();
        rules[0]["verbs"].as_array_mut().unwrap().retain(|each| each != verb);
        admin.set_rules_of(&role, &rules).await;
        admin.until_may("meshmint", "istio-system", verb, ("", "secrets", "istiod-tls"), false).await;
    };
    without("create").await;
    let inside = Inside::of(&shared).await;
    let (_lead, leading) = watch::channel(true);
    let task = tokio::spawn(inside.istiod.clone().run(leading, std::future::pending()));
    let failures = || inside.status().map_or(0, |status| status.secret.failures);
    wait_until("several tries", || failures() >= 3).await;
    let issued = inside.issued().await;
    assert_eq!(issued.len(), 1, "one is on record, which nobody has");
    admin.set_rules_of(&role, &role["rules"]).await;
    let first = until_new(&admin, None).await;
    assert_eq!([serial(&first)], issued[..]);
    verify_at(&first, inside.clock.now());
    inside.settled(0).await;
    assert_eq!(inside.status().unwrap().secret.trouble, None);

    // What istiod must read again can't be written either.
    without("patch").await;
    let before = failures();
    show(&admin, "mutatingwebhookconfigurations", "istio-sidecar-injector", "sidecar-injector", &foreign_root("another")).await;
    inside.settled(1).await;
    inside.clock.advance(Duration::from_secs(130));
    wait_until("several tries", || failures() >= before + 3).await;
    let issued = inside.issued().await;
    assert_eq!(issued.len(), 2, "one more is on record");
    admin.set_rules_of(&role, &role["rules"]).await;
    let second = until_new(&admin, Some(&first)).await;
    assert_eq!(serial(&second), issued[0]);
    verify_at(&second, inside.clock.now());
    task.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_joined_gets_one_of_its_own() {
    let ((east, here), (west, there)) = (cluster().await, cluster().await);
    here.apply_rules("deploy/kubernetes/remote-clusters.yaml").await;
    for admin in [&here, &there] {
        admin.namespace("istio-system").await;
        admin.apply_rules(RULES).await;
    }
    let world = World::start(&east.kubeconfig(east.server.port()), ", remoteSecretsNamespace: meshmint-system", ", clusters: [Kubernetes, west]");
    let own = until_new(&here, None).await;
    world.until_check("istiod-certificate", "failed", "not joined").await;
    assert!(there.find(SECRET).await.is_none());
    let made = meshmint(&["cluster", "secret", "--cluster", "west", "--kubeconfig", west.server.admin_kubeconfig().to_str().unwrap()]);
    let made: Value = serde_saphyr::from_str(&String::from_utf8(made.stdout).unwrap()).unwrap();
    here.create("/api/v1/namespaces/meshmint-system/secrets", &made).await;
    let theirs = until_new(&there, None).await;
    verify(&theirs);
    assert_eq!(part(&theirs, "ca.crt"), part(&own, "ca.crt"));
    assert!(theirs["data"]["tls.crt"] != own["data"]["tls.crt"] && theirs["data"]["tls.key"] != own["data"]["tls.key"]);
    wait_until("both to be current", || world.gauge("current") == 2.0).await;
    let on_record = world.ask(&["certs", "list", "-o", "json"]);
    assert!(on_record.contains(&serial(&theirs)) && on_record.contains(&serial(&own)), "{on_record}");
    // The webhooks of that cluster count too.
    show(&there, "mutatingwebhookconfigurations", "istio-sidecar-injector", "sidecar-injector", &foreign_root("another")).await;
    world.until_check("istiod-bundle", "warning", "cluster west").await;
    assert!(world.check("istiod-bundle").iter().any(|(severity, said)| severity == "ok" && said.contains("cluster Kubernetes")));

    // A new bundle gets there, too.
    let root = world.folder.path().join("root.pem");
    std::fs::write(&root, foreign_root("another")).unwrap();
    world.ask(&["authority", "trust", "add", root.to_str().unwrap(), "--reason", "a move"]);
    for (admin, before) in [(&here, &own), (&there, &theirs)] {
        let after = until_new(admin, Some(before)).await;
        assert_eq!(part(&after, "ca.crt"), world.ask(&["bundle"]));
        verify(&after);
    }
    wait_until("both to be current again", || world.gauge("current") == 2.0).await;
    // It goes: what it has stays there, and nobody looks after it.
    let left = there.get(SECRET).await;
    here.delete(&format!("/api/v1/namespaces/meshmint-system/secrets/{}", made["metadata"]["name"].as_str().unwrap()), 0).await;
    world.until_check("istiod-certificate", "failed", "not joined").await;
    assert_eq!(there.get(SECRET).await["data"], left["data"]);
    wait_until("one to be left", || (world.gauge("current"), world.gauge("waiting")) == (1.0, 1.0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_rule_is_needed() {
    let (shared, admin) = cluster().await;
    admin.namespace("istio-system").await;
    admin.apply_rules(RULES).await;
    let kubeconfig = shared.kubeconfig(shared.server.port());
    let all = objects(RULES);
    let (role, cluster_role) = (&all[0], &all[2]);
    for (role, resource, verb, id, outcome) in [
        (role, "secrets", "list", "istiod-certificate", ("failed", "cannot list resource")),
        (role, "secrets", "watch", "istiod-certificate", ("failed", "cannot watch resource")),
        (role, "secrets", "create", "istiod-certificate", ("failed", "cannot create resource")),
        (role, "secrets", "patch", "istiod-certificate", ("failed", "cannot patch resource")),
        (cluster_role, "namespaces", "list", "istiod-certificate", ("failed", "namespaces: ")),
        (cluster_role, "namespaces", "watch", "istiod-certificate", ("warning", "cannot watch resource")),
        (cluster_role, "mutatingwebhookconfigurations", "list", "istiod-bundle", ("warning", "mutatingwebhookconfigurations: ")),
        (cluster_role, "mutatingwebhookconfigurations", "watch", "istiod-bundle", ("warning", "cannot watch resource")),
        (cluster_role, "validatingwebhookconfigurations", "list", "istiod-bundle", ("warning", "validatingwebhookconfigurations: ")),
        (cluster_role, "validatingwebhookconfigurations", "watch", "istiod-bundle", ("warning", "cannot watch resource")),
    ] {
        let mut rules = role["rules"].clone();
        let rule = rules.as_array_mut().unwrap().iter_mut().find(|rule| rule["resources"] == json!([resource])).unwrap();
        let group = rule["apiGroups"][0].clone();
        rule["verbs"].as_array_mut().unwrap().retain(|each| each != verb);
        let attributes = match resource {
            "secrets" => json!({"verb": verb, "resource": resource, "name": "istiod-tls", "namespace": "istio-system"}),
            "namespaces" => json!({"verb": verb, "resource": resource, "name": "istio-system"}),
            _ => json!({"verb": verb, "resource": resource, "group": group}),
        };
        let review = json!({"spec": {"user": "system:serviceaccount:meshmint-system:meshmint", "resourceAttributes": attributes}});
        let may = async |allowed: bool| {
            let goes = async {
                while admin.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await["status"]["allowed"] != json!(allowed) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            assert!(tokio::time::timeout(PATIENCE, goes).await.is_ok(), "{verb} {resource} is not {allowed}");
        };
        if admin.find(SECRET).await.is_some() {
            admin.delete(SECRET, 0).await;
        }
        admin.set_rules_of(role, &rules).await;
        may(false).await;
        let world = World::start(&kubeconfig, "", "");
        world.until_check(id, outcome.0, outcome.1).await;
        drop(world);
        admin.set_rules_of(role, &role["rules"]).await;
        may(true).await;
    }
    let own = Client::new(&kubeconfig).await;
    assert!(own.text(SECRETS).await.is_err(), "no other Secret can be read");
    let other = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "other", "namespace": "istio-system"}});
    assert!(own.ask("PATCH", &format!("{SECRETS}/other?fieldManager=x"), "application/apply-patch+yaml", &other).await.is_err());
    assert!(own.ask("POST", SECRETS, "application/json", &other).await.is_err());
}
