//! Two clusters whose token issuers have one name: a token counts only in the cluster that its agent names. The other one comes, changes and goes
//! with a Secret that `meshmint cluster secret` made, while the server runs.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/in_cluster.rs"]
mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::api_server::{ApiServer, CLUSTER_ISSUER, Settings, SigningKey};
use common::clock::ManualClock;
use common::cluster::{BoundTo, Client};
use common::csrs::{request, spiffe_id};
use common::grpc::{Wire, bearer, tls};
use common::issuer::{ClusterChoices, SeededEntropy};
use common::process::{PATIENCE, Serve, get, meshmint};
use common::{Shared, serve_yaml};
use meshmint::callers::TokenRules;
use meshmint::clock::Clock;
use meshmint::cluster::{Access, Clusters, KeySets, Member, Named, RemoteParts, Remotes, Review, Timing};
use meshmint::server::proto::istio::IstioCertificateRequest;
use prost_types::value::Kind;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tonic::Code;

const SECRETS: &str = "/api/v1/namespaces/meshmint-system/secrets";

struct World {
    serve: Serve,
    wire: Wire,
    folder: tempfile::TempDir,
}

impl World {
    async fn start(kubeconfig: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let serve = Serve::start(folder.path(), &serve_yaml(folder.path(), "east", kubeconfig, ", remoteSecretsNamespace: meshmint-system", ""));
        let bundle = meshmint(&["bundle", "--admin", folder.path().join("admin.sock").to_str().unwrap()]);
        let wire = Wire::open(serve.csr, tls(&String::from_utf8(bundle.stdout).unwrap(), None, &[b"h2"])).await;
        Self { serve, wire, folder }
    }

    /// What an agent that names this cluster gets: its identity, or the code.
    async fn ask(&self, cluster: &str, token: &str) -> Result<String, Code> {
        self.ask_for(cluster, token, &request()).await
    }

    async fn ask_for(&self, cluster: &str, token: &str, request: &IstioCertificateRequest) -> Result<String, Code> {
        let token = bearer(token);
        let answer = self.wire.ask(&[("authorization", &token), ("clusterid", cluster.as_bytes())], request).await;
        if answer.status.code() == Code::Ok { Ok(spiffe_id(&answer.chain()[0])) } else { Err(answer.status.code()) }
    }

    async fn until(&self, cluster: &str, token: &str, issued: bool) {
        let reached = async {
            while self.ask(cluster, token).await.is_ok() != issued {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, reached).await.is_ok(), "{cluster} is not {issued}");
    }

    /// Lines of `remote-clusters`: severity, and detail.
    fn remotes(&self) -> Vec<(String, String)> {
        let output = meshmint(&["check", "-o", "json", "--admin", self.folder.path().join("admin.sock").to_str().unwrap()]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let lines = report["checks"].as_array().unwrap().iter().filter(|line| line["check"] == "remote-clusters");
        lines.map(|line| (line["severity"].as_str().unwrap().to_owned(), line["detail"].as_str().unwrap_or_default().to_owned())).collect()
    }

    async fn until_remotes(&self, what: &str, so: impl Fn(&[(String, String)]) -> bool) {
        common::wait_until(what, || so(&self.remotes())).await;
    }

    fn metrics(&self) -> String {
        get(&self.serve.metrics.to_string(), "/metrics").1
    }

    fn refused_as_unknown(&self) -> f64 {
        self.serve.metric("meshmint_refusals_total{code=\"Unauthenticated\",reason=\"unknown_cluster\"}")
    }
}

/// The manifest of `meshmint cluster secret`.
fn secret(kubeconfig: &Path) -> Value {
    let output = meshmint(&["cluster", "secret", "--cluster", "west", "--kubeconfig", kubeconfig.to_str().unwrap(), "--lifetime", "2h"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && told.contains("expires 20"), "{told}");
    serde_saphyr::from_str(&String::from_utf8(output.stdout).unwrap()).unwrap()
}

async fn replace(admin: &Client, secret: &Value) {
    let path = format!("{SECRETS}/{}", secret["metadata"]["name"].as_str().unwrap());
    admin.ask("PUT", &path, "application/json", secret).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_counts_in_its_own_cluster_which_comes_changes_and_goes() {
    let other_key = Settings { signing: SigningKey::Second, known: vec![SigningKey::Second], ..Settings::default() };
    let (east, mut west) = (Shared::over(ApiServer::start().await).await, Shared::over(ApiServer::start_with(&other_key).await).await);
    let (here, there) = (east.admin().await, west.admin().await);
    here.apply_rules("deploy/kubernetes/remote-clusters.yaml").await;
    here.workload("shop").await;
    there.workload("shop").await;
    let (east_token, west_token) = (here.workload_token("shop").await, there.workload_token("shop").await);
    let world = World::start(&east.kubeconfig(east.server.port())).await;
    let cart = Ok("spiffe://cluster.local/ns/shop/sa/shop".to_owned());

    // Every name of our own, and no other.
    for name in ["", "east", "Kubernetes"] {
        assert_eq!(world.ask(name, &east_token).await, cart, "{name:?}");
        assert_eq!(world.ask(name, &west_token).await, Err(Code::Unauthenticated), "{name:?}");
    }
    let before = world.refused_as_unknown();
    for token in [&east_token, &west_token] {
        assert_eq!(world.ask("west", token).await, Err(Code::Unauthenticated));
    }
    assert_eq!(world.refused_as_unknown(), before + 2.0);

    // It comes.
    let admin_of_west = west.server.admin_kubeconfig();
    let made = secret(&admin_of_west);
    assert_eq!(made["metadata"]["labels"]["istio/multiCluster"], "true");
    here.create(SECRETS, &made).await;
    world.until("west", &west_token, true).await;
    assert_eq!(world.ask("west", &west_token).await, cart);
    for (name, token) in [("west", &east_token), ("east", &west_token), ("", &west_token), ("south", &west_token), ("West", &west_token)] {
        assert_eq!(world.ask(name, token).await, Err(Code::Unauthenticated), "{name}");
    }
    assert_eq!(world.serve.metric("meshmint_remote_clusters{state=\"joined\"}"), 1.0);
    for (cluster, resource) in ["east", "west"].iter().flat_map(|cluster| ["pods", "serviceaccounts", "nodes"].map(|resource| (cluster, resource))) {
        let age = |cluster: &str| format!("meshmint_cluster_watch_age_seconds{{cluster=\"{cluster}\",resource=\"{resource}\"}}");
        assert!(world.metrics().contains(&age(cluster)) && world.serve.metric(&age(cluster)) >= 0.0, "{cluster} {resource}");
    }
    // The token is asked for two hours.
    let left = world.serve.metric("meshmint_remote_credentials_expiry_timestamp") - OffsetDateTime::now_utc().unix_timestamp() as f64;
    assert!((3600.0..=7200.0).contains(&left), "{left}");

    // What lives there counts, and who speaks for whom: a node of the same name here is another node.
    there.namespace("istio-system").await;
    there.account("istio-system", "ztunnel").await;
    there.pod("istio-system", "ztunnel", "ztunnel", "shop").await;
    there.account("shop", "short").await;
    there.pod("shop", "short", "short", "shop").await;
    let proxy = there.token("istio-system", "ztunnel", BoundTo::Pod("ztunnel"), "istio-ca", 3600).await;
    let identity = Kind::StringValue("spiffe://cluster.local/ns/shop/sa/short".to_owned());
    let fields = [("ImpersonatedIdentity".to_owned(), prost_types::Value { kind: Some(identity) })].into();
    let impersonating = IstioCertificateRequest { metadata: Some(prost_types::Struct { fields }), ..request() };
    assert_eq!(world.ask_for("west", &proxy, &impersonating).await, Ok("spiffe://cluster.local/ns/shop/sa/short".to_owned()));
    let short = there.token("shop", "short", BoundTo::Pod("short"), "istio-ca", 3600).await;
    world.until("west", &short, true).await;
    there.delete("/api/v1/namespaces/shop/pods/short", 0).await;
    world.until("west", &short, false).await;

    // A kubeconfig that starts a program or takes our name isn't joined; it doesn't disturb the others.
    let encode = |text: &str| STANDARD.encode(text);
    let proof = world.folder.path().join("a-program-ran");
    let program = "current-context: a\nclusters: [{ name: a, cluster: { server: 'https://127.0.0.1:1' } }]\n\
                   contexts: [{ name: a, context: { cluster: a, user: a } }]\n\
                   users: [{ name: a, user: { exec: { command: touch, args: [PROOF], apiVersion: client.authentication.k8s.io/v1 } } }]\n";
    let evil = json!({"metadata": {"name": "evil", "labels": {"istio/multiCluster": "true"}}, "data": {
        "south": encode(&program.replace("PROOF", proof.to_str().unwrap())), "north": encode("not a kubeconfig"), "east": made["data"]["west"], "Kubernetes": made["data"]["west"],
    }});
    here.create(SECRETS, &evil).await;
    world
        .until_remotes("four that can't be joined", |lines| {
            let failed = |what: &str| lines.iter().any(|(severity, detail)| severity == "failed" && detail.contains(what));
            let ours = failed("east: ") && failed("Kubernetes: ") && failed("a name of our own cluster");
            failed("south: ") && failed("no file and no program") && failed("north: ") && ours && lines.len() == 5
        })
        .await;
    assert_eq!((world.ask("east", &east_token).await, world.ask("west", &west_token).await), (cart.clone(), cart.clone()));
    assert!(!proof.exists());
    here.delete(&format!("{SECRETS}/evil"), 0).await;

    // It changes: new credentials, then ones that can't be used, with which the old ones go on.
    replace(&here, &secret(&admin_of_west)).await;
    world.until_remotes("the change", |lines| lines.len() == 1 && lines[0].0 == "ok").await;
    world.until("west", &west_token, true).await;
    let mut broken = made.clone();
    broken["data"]["west"] = json!(encode("nothing"));
    replace(&here, &broken).await;
    world.until_remotes("a warning", |lines| lines.iter().any(|(severity, detail)| severity == "warning" && detail.starts_with("west: "))).await;
    assert_eq!(world.ask("west", &west_token).await, cart);

    // It is away, and what is known goes on; then it goes.
    west.server.kill();
    assert_eq!(world.ask("west", &west_token).await, cart);
    let unheard = |(severity, detail): &(String, String)| severity == "warning" && detail.starts_with("west: no answer from the API server");
    world.until_remotes("each watch of it to be broken", |lines| lines.iter().filter(|line| unheard(line)).count() == 3).await;
    // A server that starts now can't join it: our trouble, and no reason for its agents to give up. A name that nobody has is still none.
    let later = World::start(&east.kubeconfig(east.server.port())).await;
    assert_eq!(later.ask("west", &west_token).await, Err(Code::Unavailable));
    assert_eq!(later.serve.metric("meshmint_refusals_total{code=\"Unavailable\",reason=\"cluster_not_joined\"}"), 1.0);
    assert_eq!((later.ask("south", &west_token).await, later.ask("", &east_token).await), (Err(Code::Unauthenticated), cart.clone()));
    drop(later);
    here.delete(&format!("{SECRETS}/{}", made["metadata"]["name"].as_str().unwrap()), 0).await;
    world.until("west", &west_token, false).await;
    assert_eq!(world.ask("west", &west_token).await, Err(Code::Unauthenticated));
    assert_eq!(world.ask("", &east_token).await, cart);
    assert!(!world.metrics().contains("cluster=\"west\""), "nothing is left of it");
    assert_eq!(world.serve.metric("meshmint_remote_credentials_expiry_timestamp"), 0.0);
    let log: Vec<Value> = world.serve.terminate().1;
    let log = log.iter().map(Value::to_string).collect::<String>();
    for secret in [&west_token, &east_token, made["data"]["west"].as_str().unwrap()] {
        assert!(!log.contains(secret), "no secret in the log");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_rule_is_needed_and_a_cluster_without_its_keys_is_not_joined() {
    const RULES: &str = "deploy/kubernetes/remote-clusters.yaml";
    let other_key = Settings { signing: SigningKey::Second, known: vec![SigningKey::Second], ..Settings::default() };
    let (east, west) = (Shared::over(ApiServer::start().await).await, Shared::over(ApiServer::start_with(&other_key).await).await);
    let (here, there) = (east.admin().await, west.admin().await);
    there.workload("shop").await;
    let token = there.workload_token("shop").await;
    // Who signs tokens in the other cluster may be read there, and not with which keys.
    let group = "rbac.authorization.k8s.io";
    let discovery = format!("/apis/{group}/v1/clusterrolebindings/system:service-account-issuer-discovery");
    let binding = there.get(&discovery).await;
    there.delete(&discovery, 0).await;
    let rules = json!([{"nonResourceURLs": ["/.well-known/openid-configuration"], "verbs": ["get"]}]);
    there.create(&format!("/apis/{group}/v1/clusterroles"), &json!({"metadata": {"name": "issuer-only"}, "rules": rules})).await;
    let reference = json!({"apiGroup": group, "kind": "ClusterRole", "name": "issuer-only"});
    let narrow = json!({"metadata": {"name": "issuer-only"}, "roleRef": reference, "subjects": binding["subjects"]});
    there.create(&format!("/apis/{group}/v1/clusterrolebindings"), &narrow).await;
    let ours = Client::new(&west.kubeconfig(west.server.port())).await;
    let may_read = async |path: &str, wanted: bool| {
        let goes = async {
            while ours.text(path).await.is_ok() != wanted {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, goes).await.is_ok(), "{path} is not {wanted}");
    };
    may_read("/openid/v1/jwks", false).await;
    may_read("/.well-known/openid-configuration", true).await;

    // Without a rule nobody knows which clusters there are: that is our trouble.
    here.create(SECRETS, &secret(&west.server.admin_kubeconfig())).await;
    let world = World::start(&east.kubeconfig(east.server.port())).await;
    let says = |lines: &[(String, String)], severity: &str, what: &str| lines.iter().any(|line| line.0 == severity && line.1.contains(what));
    world.until_remotes("no list", |lines| lines.len() == 1 && says(lines, "failed", "cannot list")).await;
    assert_eq!(world.ask("west", &token).await, Err(Code::Unavailable));
    // With `list` alone it is named; and it isn't joined without its keys.
    here.apply_rules(RULES).await;
    here.set_role("meshmint-system", RULES, "meshmint-remote-clusters", &json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}]))
        .await;
    world.until_remotes("no watch, and no keys", |lines| says(lines, "warning", "cannot watch") && says(lines, "failed", "/openid/v1/jwks")).await;
    assert_eq!(world.ask("west", &token).await, Err(Code::Unavailable));
    assert_eq!(world.serve.metric("meshmint_remote_clusters{state=\"waiting\"}"), 1.0);
    let whole = json!({"metadata": {"name": "keys"}, "roleRef": binding["roleRef"], "subjects": binding["subjects"]});
    there.create(&format!("/apis/{group}/v1/clusterrolebindings"), &whole).await;
    world.until("west", &token, true).await;
    let role = common::cluster::objects(RULES).remove(0);
    here.set_role("meshmint-system", RULES, "meshmint-remote-clusters", &role["rules"]).await;
    world.until_remotes("everything to be well", |lines| lines.len() == 1 && lines[0].0 == "ok").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_whose_tokens_get_another_issuer_is_joined_anew() {
    const MOVED: &str = "https://moved.example";
    let (east, west) = (Shared::over(ApiServer::start().await).await, Shared::over(ApiServer::start().await).await);
    let mut west = west.server;
    let here = east.admin().await;
    here.apply_rules("deploy/kubernetes/remote-clusters.yaml").await;
    here.create(SECRETS, &secret(&west.admin_kubeconfig())).await;

    let clock = ManualClock::at(OffsetDateTime::now_utc());
    common::goes_on(&clock);
    let shared: Arc<dyn Clock> = Arc::new(clock.clone());
    let rules = TokenRules::new(
        "cluster.local".parse().unwrap(),
        [(CLUSTER_ISSUER.to_owned(), "east".to_owned())].into(),
        ["istio-ca".to_owned()].into(),
        Duration::ZERO,
        Duration::from_secs(3600),
    );
    let rules = rules.unwrap();
    let own = || Member { key_sets: KeySets::new(shared.clone(), None, []), rules: rules.clone(), review: Review::Never, kubernetes: None };
    let own_names: BTreeSet<String> = ["east".to_owned()].into();
    let clusters = Arc::new(Clusters::several(own_names.clone(), own()));
    let ClusterChoices { kubeconfig, lookups, max_staleness, .. } = east.choices();
    let parts = RemoteParts {
        api: meshmint::cluster::ApiServer::connect(&Access::Kubeconfig(kubeconfig), shared.clone()).await.unwrap(),
        serves_callers: true,
        namespace: "meshmint-system".to_owned(),
        own_names,
        rules: rules.clone(),
        timing: Timing {
            refresh_interval: Duration::from_secs(300),
            max_age: Duration::from_secs(3600),
            refetch_interval: Duration::from_secs(10),
            fetch_timeout: Duration::from_secs(5),
        },
        audiences: ["istio-ca".to_owned()].into(),
        max_staleness,
        lookups,
        reviews: lookups,
        always_review: false,
        clock: shared.clone(),
        entropy: SeededEntropy::new(1),
    };
    // Whoever serves no callers joins it to write there, and watches nothing in it.
    let writing = Remotes::new(RemoteParts { serves_callers: false, ..parts.clone() }, Arc::new(Clusters::alone(own())));
    let mut reached = writing.reachable();
    tokio::spawn(writing.clone().run(std::future::pending()));
    let west_is_reached = reached.wait_for(|reached| reached.keys().eq(["west"]));
    assert!(tokio::time::timeout(PATIENCE, west_is_reached).await.is_ok_and(|reached| reached.is_ok()));
    assert!(writing.status().iter().all(|status| status.joined && status.known.is_none()), "{:?}", writing.status());

    let remotes = Remotes::new(parts, clusters.clone());
    tokio::spawn(remotes.clone().run(std::future::pending()));
    let issuer_is = |issuer: &str| matches!(clusters.find(Some("west")), Named::Known(member) if member.rules.knows(issuer));
    common::wait_until("it to be joined", || issuer_is(CLUSTER_ISSUER)).await;

    west.kill();
    clock.advance(Duration::from_secs(301));
    // As Kubernetes wants it done: what the old one signed stays good.
    let flags = vec![format!("--service-account-issuer={CLUSTER_ISSUER}")];
    west.start_again(&Settings { issuer: MOVED, flags, ..Settings::default() }).await;
    assert!(issuer_is(CLUSTER_ISSUER), "one that doesn't answer stays as it was");
    clock.advance(Duration::from_secs(301));
    common::wait_until("it to be joined anew", || issuer_is(MOVED)).await;
    assert!(issuer_is(CLUSTER_ISSUER), "tokens of the former one live on");
}
