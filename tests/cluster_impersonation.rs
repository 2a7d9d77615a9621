//! ztunnel's rules over a real cluster: a node proxy speaks for the pods of its node, and each refusal has a reason of its own.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/in_cluster.rs"]
mod common;

use std::time::Duration;

use common::cluster::{BoundTo, Client};
use common::issuer::{ClusterChoices, TRUST_DOMAIN};
use common::slow_link::SlowLink;
use common::{outcome, shared, speak_for, wait_until, world};

const SECOND: Duration = Duration::from_secs(1);

fn id(namespace: &str, account: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{account}")
}

/// A node of this name with a ztunnel on it; returns the ztunnel's token.
async fn ztunnel(admin: &Client, node: &str) -> String {
    // Whoever comes first makes what all of them share.
    for (path, name) in [("/api/v1/namespaces", "istio-system"), ("/api/v1/namespaces/istio-system/serviceaccounts", "ztunnel")] {
        let made = admin.ask("POST", path, "application/json", &serde_json::json!({"metadata": {"name": name}})).await;
        assert!(made.is_ok() || made.is_err_and(|error| error.to_string().contains("already exists")));
    }
    admin.node(node).await;
    let pod = format!("ztunnel-{node}");
    admin.pod("istio-system", &pod, "ztunnel", node).await;
    admin.token("istio-system", "ztunnel", BoundTo::Pod(&pod), "istio-ca", 3600).await
}

#[tokio::test]
async fn a_node_proxy_speaks_for_the_pods_of_its_node_and_nobody_else() {
    let shared = shared().await;
    let admin = shared.admin().await;
    let (here, there) = (ztunnel(&admin, "here").await, ztunnel(&admin, "there").await);
    admin.namespace("shop").await;
    for account in ["cart", "pay", "batch", "other"] {
        admin.account("shop", account).await;
    }
    admin.pod("shop", "cart-1", "cart", "here").await;
    admin.pod("shop", "pay-1", "pay", "there").await;
    admin.pod("shop", "batch-1", "batch", "here").await;
    admin.phase("shop", "batch-1", "Succeeded").await;
    admin.pod("shop", "waiting", "other", "").await;
    let (world, _) = shared.world().await;

    let issued = speak_for(&world, &here, &id("shop", "cart")).await.unwrap();
    assert_eq!(issued.identity.unwrap().to_string(), id("shop", "cart"), "a pod that is Pending counts");
    let cart = admin.token("shop", "cart", BoundTo::Pod("cart-1"), "istio-ca", 3600).await;
    let unbound = admin.token("istio-system", "ztunnel", BoundTo::Nothing, "istio-ca", 3600).await;
    for (token, identity, wanted) in [
        (&there, id("shop", "pay"), "issued"),
        (&here, id("istio-system", "ztunnel"), "issued"),
        (&cart, id("shop", "pay"), "impersonation_not_trusted"),
        (&cart, id("shop", "cart"), "impersonation_not_trusted"),
        (&here, "spiffe://".to_owned(), "impersonation_malformed_identity"),
        (&here, "cart".to_owned(), "impersonation_malformed_identity"),
        (&here, format!("{}/more", id("shop", "cart")), "impersonation_malformed_identity"),
        (&here, "spiffe://other.example/ns/shop/sa/cart".to_owned(), "impersonation_foreign_trust_domain"),
        (&unbound, id("shop", "cart"), "impersonation_no_pod"),
        (&here, id("shop", "pay"), "impersonation_not_on_node"),
        (&there, id("shop", "cart"), "impersonation_not_on_node"),
        (&here, id("shop", "batch"), "impersonation_not_on_node"),
        (&here, id("shop", "other"), "impersonation_not_on_node"),
        (&here, id("pay", "cart"), "impersonation_not_on_node"),
    ] {
        assert_eq!(outcome(speak_for(&world, token, &identity).await), wanted, "{identity}");
    }

    // Its last pod ends: as soon as the watch has seen that, and the live answer agrees, nobody speaks for it.
    admin.phase("shop", "cart-1", "Failed").await;
    let ended = async {
        while outcome(speak_for(&world, &here, &id("shop", "cart")).await) != "impersonation_not_on_node" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(common::process::PATIENCE, ended).await.unwrap();
}

#[tokio::test]
async fn a_proxy_that_is_gone_or_not_placed_speaks_for_nobody() {
    let shared = shared().await;
    let admin = shared.admin().await;
    let gone = ztunnel(&admin, "leaving").await;
    admin.namespace("placed").await;
    admin.account("placed", "placed").await;
    admin.pod("placed", "placed", "placed", "leaving").await;
    let (world, _) = shared.world().await;
    assert_eq!(outcome(speak_for(&world, &gone, &id("placed", "placed")).await), "issued");
    admin.delete("/api/v1/namespaces/istio-system/pods/ztunnel-leaving", 0).await;
    let refused = async {
        // The token itself is no proof any more, which comes before all else.
        while outcome(speak_for(&world, &gone, &id("placed", "placed")).await) != "pod_gone" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(common::process::PATIENCE, refused).await.unwrap();

    admin.pod("istio-system", "ztunnel-nowhere", "ztunnel", "").await;
    let nowhere = admin.token("istio-system", "ztunnel", BoundTo::Pod("ztunnel-nowhere"), "istio-ca", 3600).await;
    assert_eq!(outcome(speak_for(&world, &nowhere, &id("placed", "placed")).await), "impersonation_wrong_node");
}

#[tokio::test]
async fn a_pod_that_was_scheduled_a_moment_ago_is_not_refused() {
    let shared = shared().await;
    let admin = shared.admin().await;
    let token = ztunnel(&admin, "busy").await;
    admin.namespace("fresh").await;
    for account in ["fresh", "late", "never"] {
        admin.account("fresh", account).await;
    }
    admin.pod("fresh", "late", "late", "").await;
    let link = SlowLink::to(shared.server.port()).await;
    let (world, clock) = world(ClusterChoices { kubeconfig: shared.kubeconfig(link.port()), ..shared.choices() }).await;
    let kubernetes = world.kubernetes.clone().unwrap();
    let looked = || kubernetes.status().placements;
    // The watches see nothing from here on.
    link.cut();
    wait_until("the watches to be broken", || kubernetes.status().watches.iter().all(|watch| watch.trouble.is_some())).await;
    admin.pod("fresh", "fresh", "fresh", "busy").await;
    admin.schedule("fresh", "late", "busy").await;
    for account in ["fresh", "late"] {
        assert_eq!(outcome(speak_for(&world, &token, &id("fresh", account)).await), "issued", "{account}");
    }
    assert_eq!(looked().answered, 2);
    // ztunnel asks again and again: the answer is kept for a moment, and no longer.
    for _ in 0..5 {
        assert_eq!(outcome(speak_for(&world, &token, &id("fresh", "never")).await), "impersonation_not_on_node");
    }
    assert_eq!(looked().answered, 3);
    admin.pod("fresh", "never", "never", "busy").await;
    clock.advance(3 * SECOND);
    assert_eq!(outcome(speak_for(&world, &token, &id("fresh", "never")).await), "issued", "no later than three seconds");

    // A new proxy, which the watch knows as little as its pods.
    let other = ztunnel(&admin, "new-node").await;
    admin.pod("fresh", "second", "fresh", "new-node").await;
    assert_eq!(outcome(speak_for(&world, &other, &id("fresh", "fresh")).await), "issued");
    link.tear();
    assert_eq!(outcome(speak_for(&world, &other, &id("fresh", "late")).await), "liveness_unavailable", "nobody can tell");
}
