//! Tokens of a real API server, of every binding: what is good, what is gone, and for how long. Where the API server's own TokenReview has a
//! verdict, ours is the same.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/in_cluster.rs"]
mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::cluster::BoundTo;
use common::issuer::{ClusterChoices, plain_csr};
use common::slow_link::SlowLink;
use common::{issue, outcome, shared, until, wait_until, world};
use meshmint::clock::Clock;
use meshmint::cluster::LookupLimits;
use meshmint::issuance::{Ask, Credential, KeyProof, PresentedCertificate, Wants};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn every_binding_has_the_verdict_of_the_api_server() {
    let shared = shared().await;
    let admin = shared.admin().await;
    admin.workload("bindings").await;
    admin.secret("bindings", "lying-about").await;
    let (world, _) = shared.world().await;
    let token = async |bound, audience, seconds| admin.token("bindings", "bindings", bound, audience, seconds).await;
    let day = 24 * 3600;
    let cases = [
        ("pod", token(BoundTo::Pod("bindings"), "istio-ca", 3600).await, "issued"),
        ("node", token(BoundTo::Node("bindings"), "istio-ca", 3600).await, "issued"),
        ("nothing", token(BoundTo::Nothing, "istio-ca", 3600).await, "issued"),
        ("nothing, a day", token(BoundTo::Nothing, "istio-ca", day).await, "issued"),
        ("pod, another audience", token(BoundTo::Pod("bindings"), "vault", 3600).await, "wrong_audience"),
    ];
    for (case, token, wanted) in cases {
        assert_eq!(outcome(issue(&world, &token).await), wanted, "{case}");
        assert_eq!(admin.review(&token).await, wanted == "issued", "{case}: TokenReview");
    }
    // Here we are stricter than TokenReview: both could be used for ever by whoever finds them.
    let secret = token(BoundTo::Secret("lying-about"), "istio-ca", 3600).await;
    assert_eq!(outcome(issue(&world, &secret).await), "secret_bound");
    let long = token(BoundTo::Nothing, "istio-ca", day + 1).await;
    assert_eq!(outcome(issue(&world, &long).await), "unbound_too_long");
    assert_eq!(world.kubernetes.as_ref().unwrap().status().objects.answered, 0, "the watches knew everything");
}

#[tokio::test]
async fn what_was_deleted_or_made_anew_is_gone() {
    let shared = shared().await;
    let admin = shared.admin().await;
    for name in ["pod-gone", "pod-anew", "account-gone", "account-anew", "node-gone", "node-anew"] {
        admin.workload(name).await;
    }
    let (world, _) = shared.world().await;
    let token = async |name, bound| admin.token(name, name, bound, "istio-ca", 3600).await;

    let old = token("pod-gone", BoundTo::Pod("pod-gone")).await;
    assert_eq!(outcome(issue(&world, &old).await), "issued");
    admin.delete("/api/v1/namespaces/pod-gone/pods/pod-gone", 0).await;
    until(&world, &old, "pod_gone").await;
    assert!(!admin.review(&old).await);

    let old = token("pod-anew", BoundTo::Pod("pod-anew")).await;
    admin.delete("/api/v1/namespaces/pod-anew/pods/pod-anew", 0).await;
    admin.pod("pod-anew", "pod-anew", "pod-anew", "pod-anew").await;
    let new = token("pod-anew", BoundTo::Pod("pod-anew")).await;
    assert_eq!(outcome(issue(&world, &new).await), "issued", "at once, whatever the watch has seen");
    until(&world, &old, "pod_gone").await;
    assert!(!admin.review(&old).await && admin.review(&new).await);

    let old = token("account-gone", BoundTo::Nothing).await;
    admin.delete("/api/v1/namespaces/account-gone/serviceaccounts/account-gone", 0).await;
    until(&world, &old, "service_account_gone").await;

    let old = token("account-anew", BoundTo::Pod("account-anew")).await;
    admin.delete("/api/v1/namespaces/account-anew/serviceaccounts/account-anew", 0).await;
    admin.account("account-anew", "account-anew").await;
    let new = token("account-anew", BoundTo::Pod("account-anew")).await;
    assert_eq!(outcome(issue(&world, &new).await), "issued");
    until(&world, &old, "service_account_gone").await;
    assert!(!admin.review(&old).await && admin.review(&new).await);

    let old = token("node-gone", BoundTo::Node("node-gone")).await;
    admin.delete("/api/v1/nodes/node-gone", 0).await;
    until(&world, &old, "node_gone").await;
    assert!(!admin.review(&old).await);

    let (bound, of_pod) = (token("node-anew", BoundTo::Node("node-anew")).await, token("node-anew", BoundTo::Pod("node-anew")).await);
    admin.delete("/api/v1/nodes/node-anew", 0).await;
    admin.node("node-anew").await;
    until(&world, &bound, "node_gone").await;
    assert_eq!(outcome(issue(&world, &of_pod).await), "issued", "the node of a pod is a hint");
    assert!(!admin.review(&bound).await && admin.review(&of_pod).await);
}

#[tokio::test]
async fn a_pod_whose_node_is_unknown_names_it_without_a_uid() {
    let shared = shared().await;
    let admin = shared.admin().await;
    admin.namespace("virtual").await;
    admin.account("virtual", "virtual").await;
    admin.pod("virtual", "virtual", "virtual", "nowhere").await;
    let (world, _) = shared.world().await;
    let token = admin.workload_token("virtual").await;
    assert_eq!(outcome(issue(&world, &token).await), "issued");
    assert!(admin.review(&token).await);
}

#[tokio::test]
async fn a_deleted_pod_counts_for_a_minute() {
    let shared = shared().await;
    let admin = shared.admin().await;
    admin.workload("ending").await;
    let token = admin.workload_token("ending").await;
    admin.delete("/api/v1/namespaces/ending/pods/ending", 1).await;
    let pod = admin.get("/api/v1/namespaces/ending/pods/ending").await;
    let deleted_at = OffsetDateTime::parse(pod["metadata"]["deletionTimestamp"].as_str().unwrap(), &Rfc3339).unwrap();
    let (world, clock) = shared.world().await;
    let last = deleted_at + 60 * SECOND;
    clock.advance((last - clock.now()).try_into().unwrap());
    assert_eq!(outcome(issue(&world, &token).await), "issued");
    clock.advance(Duration::from_millis(1));
    assert_eq!(outcome(issue(&world, &token).await), "pod_gone");
}

#[tokio::test]
async fn expired_and_old_tokens() {
    let shared = shared().await;
    let admin = shared.admin().await;
    admin.workload("aged").await;
    let short = admin.token("aged", "aged", BoundTo::Pod("aged"), "istio-ca", 600).await;
    // For this lifetime the API server makes tokens that live a year, for clients that don't read them again.
    let old = admin.token("aged", "aged", BoundTo::Pod("aged"), "istio-ca", 3607).await;
    let (world, clock) = shared.world().await;
    assert_eq!((outcome(issue(&world, &short).await), outcome(issue(&world, &old).await)), ("issued", "issued"));
    clock.advance(640 * SECOND);
    assert_eq!(outcome(issue(&world, &short).await), "expired");
    assert_eq!(world.old_tokens.0.load(Ordering::SeqCst), 0);
    // The watch is as quiet as the clock is fast; that isn't what this is about.
    clock.advance(2970 * SECOND);
    assert_eq!(outcome(issue(&world, &old).await), "issued", "never a refusal");
    assert_eq!(world.old_tokens.0.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_the_watch_has_not_seen_is_looked_at_once() {
    let shared = shared().await;
    let admin = shared.admin().await;
    admin.workload("seen").await;
    let link = SlowLink::to(shared.server.port()).await;
    let choices = ClusterChoices { kubeconfig: shared.kubeconfig(link.port()), ..shared.choices() };
    let (world, clock) = world(choices).await;
    let kubernetes = world_kubernetes(&world);
    let world = Arc::new(world);
    let counts = || kubernetes.status().objects;
    // From here on the watches have seen nothing new: they come back when the clock moves.
    link.cut();
    wait_until("the watches to be broken", || kubernetes.status().watches.iter().all(|watch| watch.trouble.is_some())).await;
    admin.workload("unseen").await;
    let token = admin.workload_token("unseen").await;
    let many: Vec<_> = (0..50)
        .map(|_| {
            let (world, token) = (world.clone(), token.clone());
            tokio::spawn(async move { outcome(issue(&world, &token).await) })
        })
        .collect();
    for each in many {
        assert_eq!(each.await.unwrap(), "issued");
    }
    assert_eq!((counts().answered, counts().failed), (2, 0), "its account and its pod, once for all");

    // A deletion that the watch doesn't see either is noticed when the answer is ten seconds old.
    admin.delete("/api/v1/namespaces/unseen/pods/unseen", 0).await;
    assert_eq!(outcome(issue(&world, &token).await), "issued");
    link.tear();
    clock.advance(9 * SECOND);
    assert_eq!(outcome(issue(&world, &token).await), "issued");
    clock.advance(2 * SECOND);
    assert_eq!(outcome(issue(&world, &token).await), "liveness_unavailable", "nobody can tell while the API server is away");
    let known = admin.token("seen", "seen", BoundTo::Pod("seen"), "istio-ca", 7200).await;
    assert_eq!(outcome(issue(&world, &known).await), "issued", "what was known goes on");
    clock.advance(3600 * SECOND);
    assert_eq!(outcome(issue(&world, &known).await), "liveness_unavailable", "but not for ever");
    link.mend();
    assert_eq!(outcome(issue(&world, &known).await), "issued", "live again");
    assert_eq!(outcome(issue(&world, &token).await), "pod_gone");
    wait_until("the watches to come back", || {
        clock.advance(Duration::from_millis(100));
        kubernetes.status().watches.iter().all(|watch| watch.trouble.is_none())
    })
    .await;
}

fn world_kubernetes(world: &common::issuer::World) -> Arc<meshmint::cluster::Kubernetes> {
    world.kubernetes.clone().unwrap()
}

#[tokio::test]
async fn live_looks_are_few() {
    let shared = shared().await;
    let admin = shared.admin().await;
    admin.workload("few").await;
    let gone: Vec<String> = {
        let mut tokens = Vec::new();
        for number in 0..6 {
            let name = format!("gone-{number}");
            admin.pod("few", &name, "few", "few").await;
            tokens.push(admin.token("few", "few", BoundTo::Pod(&name), "istio-ca", 3600).await);
            admin.delete(&format!("/api/v1/namespaces/few/pods/{name}"), 0).await;
        }
        tokens
    };
    let mut choices = shared.choices();
    choices.lookups = LookupLimits { per_second: 1, burst: 3, ..choices.lookups };
    let (world, clock) = world(choices).await;
    let mut outcomes = Vec::new();
    for token in &gone {
        outcomes.push(outcome(issue(&world, token).await));
    }
    let trouble = "liveness_unavailable";
    assert_eq!(outcomes, ["pod_gone", "pod_gone", "pod_gone", trouble, trouble, trouble], "too much is our trouble, not the caller's");
    assert_eq!(outcome(issue(&world, &gone[0]).await), "pod_gone", "what was found costs nothing for a moment");
    let good = admin.workload_token("few").await;
    assert_eq!(outcome(issue(&world, &good).await), "issued", "nor does what the watch knows");
    clock.advance(SECOND);
    assert_eq!(outcome(issue(&world, &gone[3]).await), "pod_gone", "one a second");
    assert_eq!(outcome(issue(&world, &gone[4]).await), trouble);
    let counts = world_kubernetes(&world).status().objects;
    assert_eq!((counts.answered, counts.limited), (4, 4));
}

#[tokio::test]
async fn a_certificate_is_not_renewed_once_its_pod_is_gone() {
    let shared = shared().await;
    let admin = shared.admin().await;
    admin.workload("renewing").await;
    let (world, _) = shared.world().await;
    let issued = issue(&world, &admin.workload_token("renewing").await).await.unwrap();
    let certificate = Arc::new(PresentedCertificate::new(issued.der));
    let renew = async || {
        let credential = Credential::Workload { cluster: None, token: None, certificate: Some(certificate.clone()) };
        let ask = Ask { credential, key_proof: KeyProof::Csr(plain_csr()), wants: Wants::default() };
        outcome(world.issuer.issue(ask).await)
    };
    assert_eq!(renew().await, "issued");
    admin.delete("/api/v1/namespaces/renewing/pods/renewing", 0).await;
    let gone = async {
        while renew().await != "pod_gone" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(common::process::PATIENCE, gone).await.unwrap();
    // Another pod of the same name is another pod.
    admin.pod("renewing", "renewing", "renewing", "renewing").await;
    until(&world, &admin.workload_token("renewing").await, "issued").await;
    assert_eq!(renew().await, "pod_gone");
}
