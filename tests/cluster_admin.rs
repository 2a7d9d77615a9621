//! The admin API over the network against a real API server: TokenReview says who it is, RBAC what he may do, with exactly the rules of
//! deploy/kubernetes/admin.yaml. The client is meshmint's own command, and where it can't be wrong enough, raw gRPC.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/in_cluster.rs"]
mod common;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::api_server::{ApiServer, CLUSTER_ISSUER};
use common::cluster::{BoundTo, Client};
use common::grpc::{Wire, connect, frame, soon, tls};
use common::process::{PATIENCE, Serve, meshmint};
use common::{Shared, serve_yaml};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tonic::Code;

const AUDIENCE: &str = "meshmint-admin";

/// A server with its admin port open, in a cluster.
struct World {
    shared: Shared,
    admin: Client,
    serve: Serve,
    folder: TempDir,
    port: SocketAddr,
}

impl World {
    /// With the rules of rbac.yaml but for those that admin.yaml brings itself.
    async fn start() -> Self {
        let shared = Shared::over(ApiServer::start().await).await;
        let admin = shared.admin().await;
        admin.apply_admin_rules().await;
        for who in ["viewer", "operator", "nobody"] {
            admin.account("meshmint-system", who).await;
        }
        for who in ["viewer", "operator"] {
            let binding = json!({
                "metadata": {"name": format!("test-{who}")},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": format!("meshmint-{who}")},
                "subjects": [{"kind": "ServiceAccount", "name": who, "namespace": "meshmint-system"}],
            });
            admin.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await;
        }
        let folder = tempfile::tempdir().unwrap();
        let yaml = serve_yaml(folder.path(), "Kubernetes", &shared.kubeconfig(shared.server.port()), "", "");
        let yaml = yaml.replace("admin: { socket: ", "admin: { listen: 127.0.0.1:0, socket: ");
        let serve = Serve::start(folder.path(), &yaml);
        let port = serve.start_log.last().unwrap()["admin_network"].as_str().unwrap().parse().unwrap();
        let this = Self { shared, admin, serve, folder, port };
        std::fs::write(this.path("roots.pem"), this.local(&["bundle"]).stdout).unwrap();
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn token(&self, who: &str, audience: &str) -> String {
        self.admin.token("meshmint-system", who, BoundTo::Nothing, audience, 3600).await
    }

    /// A command over the socket.
    fn local(&self, args: &[&str]) -> Output {
        meshmint(&[args, &["--admin", self.path("admin.sock").to_str().unwrap()]].concat())
    }

    /// A command over the network, as the bearer of this token.
    fn ask(&self, token: &str, args: &[&str]) -> Output {
        std::fs::write(self.path("token"), token).unwrap();
        let (roots, token) = (self.path("roots.pem"), self.path("token"));
        let address = self.port.to_string();
        meshmint(&[args, &["--address", &address, "--roots", roots.to_str().unwrap(), "--token-file", token.to_str().unwrap()]].concat())
    }

    /// What it is refused with.
    fn refused(&self, token: &str, args: &[&str]) -> String {
        let output = self.ask(token, args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stderr).unwrap()
    }

    fn allowed(&self, token: &str, args: &[&str]) -> String {
        let output = self.ask(token, args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, token: &str, args: &[&str]) -> Value {
        serde_json::from_str(&self.allowed(token, &[args, &["-o", "json"]].concat())).unwrap()
    }

    /// Until the API server and our ten seconds go by the new rules.
    async fn until(&self, what: &str, mut so: impl FnMut() -> bool) {
        let began = Instant::now();
        while !so() {
            assert!(began.elapsed() < PATIENCE, "timed out waiting for {what}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

fn root(folder: &std::path::Path, name: &str) -> String {
    let mut parameters = rcgen::CertificateParams::default();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    let path = folder.join(format!("{name}.pem"));
    std::fs::write(&path, common::csrs::pem("CERTIFICATE", certificate.der())).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rbac_decides_who_may_see_and_who_may_change() {
    let world = World::start().await;
    let (viewer, operator, nobody) =
        (world.token("viewer", AUDIENCE).await, world.token("operator", AUDIENCE).await, world.token("nobody", AUDIENCE).await);
    let (first, second) = (root(world.folder.path(), "first"), root(world.folder.path(), "second"));
    let reading: [&[&str]; 7] = [
        &["certs", "list"],
        &["certs", "stats"],
        &["certs", "watch", "--limit", "1"],
        &["bundle"],
        &["authority", "list"],
        &["authority", "show", "abcd"],
        &["audit", "list"],
    ];
    for args in reading {
        let said = world.refused(&nobody, args);
        assert!(said.contains("PERMISSION_DENIED") && said.contains("meshmint.io") && !said.contains(&nobody), "{args:?}: {said}");
    }
    let list = world.json(&viewer, &["certs", "list"]);
    let serial = list["certificates"][0]["serial"].as_str().unwrap();
    world.allowed(&viewer, &["certs", "show", serial]);
    world.allowed(&viewer, &["certs", "stats"]);
    let authorities = world.json(&viewer, &["authority", "list"]);
    world.allowed(&viewer, &["authority", "show", authorities["authorities"][0]["id"].as_str().unwrap()]);
    assert_eq!(world.allowed(&viewer, &["bundle"]).as_bytes(), world.local(&["bundle"]).stdout);
    assert_eq!(world.json(&viewer, &["audit", "list"])["entries"], Value::Null);
    // This machine may have little room on its disk, which is a warning.
    let output = world.ask(&viewer, &["check", "-o", "json"]);
    assert!(matches!(output.status.code(), Some(0 | 3)), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let answers = report["checks"].as_array().unwrap().iter().find(|check| check["check"] == "csr-answers").unwrap();
    assert_eq!(answers["severity"], "ok", "{report:#}");

    let add = |root| ["authority", "trust", "add", root, "--reason", "a move"];
    let said = world.refused(&viewer, &add(&first));
    assert!(said.contains("PERMISSION_DENIED") && said.contains("verb create on resource trustedroots"), "{said}");
    world.allowed(&operator, &add(&first));
    assert!(world.local(&add(&second)).status.success());
    let audit = world.json(&operator, &["audit", "list"]);
    let actors: Vec<_> = audit["entries"].as_array().unwrap().iter().map(|entry| entry["actor"].as_str().unwrap()).collect();
    assert_eq!(actors[1], "kubernetes:system:serviceaccount:meshmint-system:operator");
    assert!(actors.len() == 2 && actors[0].starts_with("local:uid="), "{actors:?}");

    // What a person sees, follows what RBAC says now.
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/test-operator";
    world.admin.delete(path, 0).await;
    world.until("the operator to be one no more", || world.ask(&operator, &["bundle"]).status.code() == Some(1)).await;
    let (_, log) = world.serve.terminate();
    let log: String = log.iter().map(Value::to_string).collect();
    for token in [viewer, operator, nobody] {
        assert!(!log.contains(token.rsplit('.').next().unwrap()), "a token is in the log");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_not_known_gets_nothing() {
    let world = World::start().await;
    let good = world.token("operator", AUDIENCE).await;
    world.allowed(&good, &["bundle"]);
    let forged = {
        let (signed, signature) = good.rsplit_once('.').unwrap();
        let other: String = signature.chars().rev().collect();
        format!("{signed}.{other}")
    };
    world.admin.workload("shop").await;
    let workload = world.admin.workload_token("shop").await;
    for (what, token) in [
        ("for the API server", world.token("operator", CLUSTER_ISSUER).await),
        ("for the CSR API", workload),
        ("forged", forged),
        ("no JWT", "admin-token-of-this-test".to_owned()),
        ("three letters", "a.b.c".to_owned()),
    ] {
        let said = world.refused(&token, &["bundle"]);
        assert!(said.contains("UNAUTHENTICATED"), "{what}: {said}");
    }
    // The account is gone, and with it its tokens.
    world.admin.delete("/api/v1/namespaces/meshmint-system/serviceaccounts/operator", 0).await;
    world.until("the token to be nothing", || world.ask(&good, &["bundle"]).status.code() == Some(1)).await;
    assert!(world.refused(&good, &["bundle"]).contains("UNAUTHENTICATED"));

    // Without a token, with two, and what is no question at all; the message isn't even read.
    let roots = std::fs::read_to_string(world.path("roots.pem")).unwrap();
    let wire = Wire::open(world.port, tls(&roots, None, &[b"h2"])).await;
    let bundle = "/meshmint.admin.v1.Admin/GetBundle";
    let fresh = world.token("viewer", AUDIENCE).await;
    let bearer = format!("Bearer {fresh}");
    let code = async |path: &str, headers: &[(&str, &[u8])]| wire.send(path, headers, frame(&[])).await.unwrap().status.code();
    assert_eq!(code(bundle, &[]).await, Code::Unauthenticated);
    let header: (&str, &[u8]) = ("authorization", bearer.as_bytes());
    assert_eq!(code(bundle, &[header]).await, Code::Ok);
    assert_eq!(code("/meshmint.admin.v1.Admin/Nonsense", &[header]).await, Code::Unimplemented);
    assert_eq!(code("/istio.v1.auth.IstioCertificateService/CreateCertificate", &[header]).await, Code::Unimplemented);
    assert_eq!(code("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", &[header]).await, Code::Unimplemented);

    // A stranger's connection ends after a few.
    let stranger = Wire::open(world.port, tls(&roots, None, &[b"h2"])).await;
    for number in 0..3 {
        let bad = format!("Bearer a.b.x{number}");
        let answer = stranger.send(bundle, &[("authorization", bad.as_bytes())], frame(&[])).await.unwrap();
        assert_eq!(answer.status.code(), Code::Unauthenticated, "{number}: {}", answer.status.message());
    }
    // Whether he reads why, depends on who is faster.
    let last = stranger.send(bundle, &[("authorization", b"Bearer a.b.x9")], frame(&[])).await;
    assert!(last.as_ref().map_or(true, |answer| answer.status.code() == Code::ResourceExhausted), "{last:?}");
    assert!(soon("the end of the connection", stranger.ended).await.is_ok());
}

/// Somebody who asks again and again on a connection of his own, and on another one when that ends; each time with what `token` gives.
fn nuisance(world: &World, token: impl Fn(usize) -> String + Send + 'static) -> (AbortOnDrop, Arc<AtomicUsize>) {
    let (port, asked) = (world.port, Arc::new(AtomicUsize::new(0)));
    let config = tls(&std::fs::read_to_string(world.path("roots.pem")).unwrap(), None, &[b"h2"]);
    let counted = asked.clone();
    let work = async move {
        loop {
            let Ok(stream) = connect(port, config.clone()).await else { continue };
            let Ok(wire) = Wire::over(stream).await else { continue };
            loop {
                let bearer = format!("Bearer {}", token(counted.fetch_add(1, Ordering::Relaxed)));
                if wire.send("/meshmint.admin.v1.Admin/GetBundle", &[("authorization", bearer.as_bytes())], frame(&[])).await.is_err() {
                    break;
                }
            }
        }
    };
    (AbortOnDrop(tokio::spawn(work)), asked)
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// For longer than a verdict is kept (ten seconds), and more than once.
const LONGER_THAN_VERDICTS: Duration = Duration::from_secs(25);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_tokens_of_an_address_shut_nobody_on_it_out() {
    let world = World::start().await;
    let (viewer, roots) = (world.token("viewer", AUDIENCE).await, std::fs::read_to_string(world.path("roots.pem")).unwrap());
    let known = Wire::open(world.port, tls(&roots, None, &[b"h2"])).await;
    let bundle = async |wire: &Wire, token: &str| {
        let bearer = format!("Bearer {token}");
        wire.send("/meshmint.admin.v1.Admin/GetBundle", &[("authorization", bearer.as_bytes())], frame(&[])).await.unwrap().status.code()
    };
    assert_eq!(bundle(&known, &viewer).await, Code::Ok);
    let others: Vec<_> = (0..6).map(|who| nuisance(&world, move |number| format!("a.b.who{who}-{number}"))).collect();
    world.until("bad tokens", || others.iter().all(|(_, asked)| asked.load(Ordering::Relaxed) > 1)).await;
    // Who is connected, is answered at once, whether his verdict is kept or asked for anew.
    let (began, mut asked) = (Instant::now(), 0);
    while began.elapsed() < LONGER_THAN_VERDICTS {
        let question = Instant::now();
        assert_eq!(bundle(&known, &viewer).await, Code::Ok, "question {asked}, after {:?}", began.elapsed());
        assert!(question.elapsed() < Duration::from_secs(2), "question {asked} took {:?}", question.elapsed());
        asked += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Who comes anew with a good token, has his turn.
    for _ in 0..3 {
        let (fresh, began) = (world.token("viewer", AUDIENCE).await, Instant::now());
        let newcomer = Wire::open(world.port, tls(&roots, None, &[b"h2"])).await;
        assert_eq!(bundle(&newcomer, &fresh).await, Code::Ok);
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        world.allowed(&world.token("viewer", AUDIENCE).await, &["bundle"]);
    }
    let bad: usize = others.iter().map(|(_, asked)| asked.load(Ordering::Relaxed)).sum();
    assert!(bad > 20, "only {bad} bad tokens were shown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn denials_are_paced_and_leave_the_log_readable() {
    let world = World::start().await;
    let (nobody, viewer) = (world.token("nobody", AUDIENCE).await, world.token("viewer", AUDIENCE).await);
    let began = Instant::now();
    let others: Vec<_> = (0..6)
        .map(|_| {
            nuisance(&world, {
                let nobody = nobody.clone();
                move |_| nobody.clone()
            })
        })
        .collect();
    // A known one may do so as often as he likes; his lines are bounded.
    let roots = std::fs::read_to_string(world.path("roots.pem")).unwrap();
    let known = Wire::open(world.port, tls(&roots, None, &[b"h2"])).await;
    let bearer = format!("Bearer {viewer}");
    let code = async |rpc: &str| {
        let path = format!("/meshmint.admin.v1.Admin/{rpc}");
        known.send(&path, &[("authorization", bearer.as_bytes())], frame(&[])).await.unwrap().status.code()
    };
    assert_eq!(code("GetBundle").await, Code::Ok);
    for number in 0..500 {
        assert_eq!(code("AddTrust").await, Code::PermissionDenied, "{number}");
    }
    world.until("denials", || others.iter().map(|(_, asked)| asked.load(Ordering::Relaxed)).sum::<usize>() > 20).await;
    let took = began.elapsed().as_secs_f64();
    let denied: usize = others.iter().map(|(_, asked)| asked.load(Ordering::Relaxed)).sum();
    drop(others);
    let pace = denied as f64 / took;
    assert!(pace < 10.0, "{denied} denials in {took} s from one address");
    let (_, log) = world.serve.terminate();
    let lines = log.iter().map(Value::to_string).filter(|line| line.contains("may not do this")).count();
    let most = 10.0 * (took + 2.0);
    assert!(lines > 0 && (lines as f64) < most, "{lines} lines in {took} s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_rule_is_needed_and_trouble_is_not_a_refusal() {
    let mut world = World::start().await;
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/meshmint-admin-api";
    let role = world.admin.get(path).await;
    let rules = role["rules"].as_array().unwrap().clone();
    assert_eq!(rules.len(), 2);
    let put = async |world: &World, rules: Vec<Value>| {
        let role = json!({"metadata": {"name": "meshmint-admin-api"}, "rules": rules});
        world.admin.ask("PUT", path, "application/json", &role).await.unwrap();
    };
    for without in ["tokenreviews", "subjectaccessreviews"] {
        put(&world, rules.iter().filter(|rule| rule["resources"] != json!([without])).cloned().collect()).await;
        // A new token each time: what was found out before counts for ten seconds.
        let began = Instant::now();
        loop {
            let said = world.ask(&world.token("viewer", AUDIENCE).await, &["bundle"]);
            if !said.status.success() {
                let said = String::from_utf8(said.stderr).unwrap();
                assert!(said.contains("can't be asked"), "{without}: our trouble, not his: {said}");
                break;
            }
            assert!(began.elapsed() < PATIENCE, "without {without} it is answered all the same");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        put(&world, rules.clone()).await;
        let began = Instant::now();
        while !world.ask(&world.token("viewer", AUDIENCE).await, &["bundle"]).status.success() {
            assert!(began.elapsed() < PATIENCE, "{without} is back");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
    // The API server is away: what was found out a moment ago counts, a newcomer is told that it is our trouble; the socket answers as ever.
    let (known, newcomer) = (world.token("viewer", AUDIENCE).await, world.token("viewer", AUDIENCE).await);
    world.allowed(&known, &["bundle"]);
    world.shared.server.kill();
    let said = world.refused(&newcomer, &["bundle"]);
    assert!(said.contains("can't be asked"), "{said}");
    assert!(world.local(&["bundle"]).status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_is_away_makes_nobody_a_stranger() {
    let world = World::start().await;
    world.admin.account("meshmint-system", "leaver").await;
    // Each is shown once: what was found out before counts for ten seconds.
    let (well, away) = (world.token("leaver", AUDIENCE).await, world.token("leaver", AUDIENCE).await);
    world.admin.delete("/api/v1/namespaces/meshmint-system/serviceaccounts/leaver", 0).await;
    assert!(world.refused(&well, &["bundle"]).contains("UNAUTHENTICATED"));
    world.shared.server.refuse_at_etcd();
    let ready = async {
        while world.admin.text("/readyz").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, ready).await.is_ok(), "the API server doesn't notice");
    let said = world.refused(&away, &["bundle"]);
    assert!(said.contains("can't be asked"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_hold_few_connections_and_not_for_long() {
    let world = World::start().await;
    let viewer = world.token("viewer", AUDIENCE).await;
    // Somebody of one address who says nothing, more often than one address may.
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(tokio::net::TcpStream::connect(world.port).await.unwrap());
    }
    let began = Instant::now();
    // As soon as the first of them were told to go, there is a place again.
    world.until("a place", || world.ask(&viewer, &["bundle"]).status.success()).await;
    assert!(began.elapsed() < Duration::from_secs(45), "{:?}", began.elapsed());
    let mut ended = 0;
    for stream in &mut silent {
        let mut byte = [0];
        if let Ok(Ok(0) | Err(_)) = tokio::time::timeout(Duration::from_secs(40), stream.read(&mut byte)).await {
            ended += 1;
        }
    }
    assert_eq!(ended, 40, "nobody stays without a handshake");
    // Who has shaken hands, but shows no token, goes as well; who has shown one stays.
    let roots = std::fs::read_to_string(world.path("roots.pem")).unwrap();
    let (stranger, known) = (Wire::open(world.port, tls(&roots, None, &[b"h2"])).await, Wire::open(world.port, tls(&roots, None, &[b"h2"])).await);
    let bearer = format!("Bearer {viewer}");
    let asked = known.send("/meshmint.admin.v1.Admin/GetBundle", &[("authorization", bearer.as_bytes())], frame(&[])).await.unwrap();
    assert_eq!(asked.status.code(), Code::Ok);
    let ended = tokio::time::timeout(Duration::from_secs(40), stranger.ended).await;
    assert!(ended.is_ok(), "a stranger stays");
    assert!(!known.ended.is_finished());
}
