//! An API server that is killed, frozen, compacted and given another signing key, under load. What is known goes on; what can't be known is our
//! trouble and never the caller's; nothing needs a restart of ours.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/in_cluster.rs"]
mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::api_server::{ApiServer, Settings, SigningKey};
use common::cluster::BoundTo;
use common::issuer::{ClusterChoices, World};
use common::{Shared, issue, outcome, until, wait_until, world, world_on};
use meshmint::clock::SystemClock;
use meshmint::cluster::LookupLimits;
use serde_json::json;

const SECOND: Duration = Duration::from_secs(1);
const BOTH: [SigningKey; 2] = [SigningKey::First, SigningKey::Second];

/// Requests that go on until this is stopped; every one must be answered with a certificate.
struct Load {
    stop: Arc<AtomicBool>,
    issued: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Duration>>,
}

impl Load {
    fn begin(world: &Arc<World>, token: &str) -> Self {
        let (stop, issued) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let tasks = (0..4)
            .map(|_| {
                let (world, token, stop, issued) = (world.clone(), token.to_owned(), stop.clone(), issued.clone());
                tokio::spawn(async move {
                    let mut slowest = Duration::ZERO;
                    while !stop.load(Ordering::SeqCst) {
                        let began = Instant::now();
                        issue(&world, &token).await.unwrap();
                        slowest = slowest.max(began.elapsed());
                        issued.fetch_add(1, Ordering::SeqCst);
                    }
                    slowest
                })
            })
            .collect();
        Self { stop, issued, tasks }
    }

    /// Waits until so many more were issued.
    async fn goes_on(&self, more: u64) {
        let wanted = self.issued.load(Ordering::SeqCst) + more;
        wait_until("certificates", || self.issued.load(Ordering::SeqCst) >= wanted).await;
    }

    /// Returns the slowest answer.
    async fn end(self) -> Duration {
        self.stop.store(true, Ordering::SeqCst);
        let mut slowest = Duration::ZERO;
        for task in self.tasks {
            slowest = slowest.max(task.await.unwrap());
        }
        slowest
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_killed_compacted_and_back_under_load() {
    let mut shared = Shared::over(ApiServer::start().await).await;
    let admin = shared.admin().await;
    for name in ["steady", "ended", "unknown"] {
        admin.workload(name).await;
    }
    let (steady, ended, unknown) = (admin.workload_token("steady").await, admin.workload_token("ended").await, admin.workload_token("unknown").await);
    admin.delete("/api/v1/namespaces/unknown/pods/unknown", 0).await;
    let lookups = LookupLimits { time: SECOND, ..shared.choices().lookups };
    let world = Arc::new(world_on(ClusterChoices { lookups, ..shared.choices() }, SystemClock::shared()).await);
    let kubernetes = world.kubernetes.clone().unwrap();
    let load = Load::begin(&world, &steady);
    load.goes_on(20).await;

    // Frozen: nobody says anything, and no connection breaks.
    shared.server.freeze();
    let began = Instant::now();
    assert_eq!(outcome(issue(&world, &unknown).await), "liveness_unavailable");
    assert!(began.elapsed() < 5 * SECOND, "a live look is bounded: {:?}", began.elapsed());
    load.goes_on(20).await;
    shared.server.thaw();
    until(&world, &unknown, "pod_gone").await;

    // Killed, and back with another history than the watches could go on from.
    shared.server.kill();
    wait_until("the watches to be broken", || kubernetes.status().watches.iter().all(|watch| watch.trouble.is_some())).await;
    load.goes_on(20).await;
    let lists = || kubernetes.status().watches.iter().map(|watch| watch.lists).collect::<Vec<_>>();
    assert_eq!(lists(), [1, 1, 1]);
    shared.server.start_again(&Settings::default()).await;
    admin.delete("/api/v1/namespaces/ended/pods/ended", 0).await;
    admin.workload("later").await;
    shared.server.compact();
    until(&world, &ended, "pod_gone").await;
    wait_until("the watches to be whole again", || kubernetes.status().watches.iter().all(|watch| watch.trouble.is_none())).await;
    let later = admin.workload_token("later").await;
    assert_eq!(outcome(issue(&world, &later).await), "issued");
    wait_until("the later pod in the watch", || kubernetes.status().watches[0].objects == 2).await;
    load.goes_on(20).await;
    let slowest = load.end().await;
    assert!(slowest < SECOND, "nobody waited for the API server: {slowest:?}");
}

#[tokio::test]
async fn what_happened_while_the_watch_could_not_go_on_is_listed_anew() {
    let mut shared = Shared::over(ApiServer::start().await).await;
    let admin = shared.admin().await;
    admin.workload("stays").await;
    admin.workload("goes").await;
    let (stays, goes) = (admin.workload_token("stays").await, admin.workload_token("goes").await);
    // The clock stands, so a broken watch stays broken until the test has done what it wants to be missed.
    let (world, clock) = world(shared.choices()).await;
    let kubernetes = world.kubernetes.clone().unwrap();
    shared.server.kill();
    wait_until("the watches to be broken", || kubernetes.status().watches.iter().all(|watch| watch.trouble.is_some())).await;
    shared.server.start_again(&Settings::default()).await;
    admin.delete("/api/v1/namespaces/goes/pods/goes", 0).await;
    admin.pod("stays", "another", "stays", "stays").await;
    shared.server.compact();
    // A cache that begins after all that: the version that the watches would go on from is too old for it.
    shared.server.kill();
    shared.server.start_again(&Settings::default()).await;
    assert_eq!(outcome(issue(&world, &goes).await), "issued", "the last known facts");
    wait_until("new lists", || {
        clock.advance(Duration::from_millis(100));
        let status = kubernetes.status();
        status.watches.iter().all(|watch| watch.trouble.is_none()) && status.watches[0].lists > 1
    })
    .await;
    assert_eq!((outcome(issue(&world, &goes).await), outcome(issue(&world, &stays).await)), ("pod_gone", "issued"));
    assert_eq!(kubernetes.status().watches[0].objects, 2);
}

#[tokio::test]
async fn signing_keys_rotate_and_a_key_that_nobody_published_is_reviewed() {
    let mut shared = Shared::over(ApiServer::start().await).await;
    let admin = shared.admin().await;
    admin.workload("rotating").await;
    let old = admin.workload_token("rotating").await;
    let (world, clock) = world(shared.choices()).await;
    let reviewer = world.reviewer.clone().unwrap();
    assert_eq!(outcome(issue(&world, &old).await), "issued");

    let settings = Settings { signing: SigningKey::Second, known: BOTH.to_vec(), ..Settings::default() };
    shared.server.kill();
    shared.server.start_again(&settings).await;
    let new = admin.workload_token("rotating").await;
    assert_eq!(outcome(issue(&world, &new).await), "issued", "an unknown key is fetched at once");
    assert_eq!(reviewer.counts().answered, 0);
    assert_eq!(outcome(issue(&world, &old).await), "issued", "the old key is still published");

    // Back to a set without the new key, as a server behind the same address has it that was not restarted yet: fetched, and not to be fetched again.
    shared.server.kill();
    shared.server.start_again(&Settings::default()).await;
    clock.advance(11 * SECOND);
    let (lagging, _) = common::world(shared.choices()).await;
    assert_eq!(outcome(issue(&lagging, &new).await), "review_refused", "this server doesn't know the key, and says so");
    shared.server.kill();
    shared.server.start_again(&settings).await;
    let newer = admin.workload_token("rotating").await;
    assert_eq!(outcome(issue(&lagging, &newer).await), "issued", "not fetched again so soon, but reviewed");
    assert_eq!(lagging.reviewer.as_ref().unwrap().counts().answered, 2);
    admin.delete("/api/v1/namespaces/rotating/pods/rotating", 0).await;

    // Nobody to ask: our trouble.
    let unreviewed = admin.token("rotating", "rotating", BoundTo::Nothing, "istio-ca", 3600).await;
    shared.server.kill();
    assert_eq!(outcome(issue(&lagging, &unreviewed).await), "unknown_kid");
    assert_eq!(outcome(issue(&lagging, &old).await), "issued", "what is known goes on, keys too");
}

#[tokio::test]
async fn with_token_review_the_cluster_decides() {
    let mut shared = Shared::over(ApiServer::start().await).await;
    let admin = shared.admin().await;
    admin.workload("reviewed").await;
    admin.workload("gone").await;
    let token = async |bound, audience| admin.token("reviewed", "reviewed", bound, audience, 3600).await;
    let (good, unbound, foreign) =
        (token(BoundTo::Pod("reviewed"), "istio-ca").await, token(BoundTo::Nothing, "istio-ca").await, token(BoundTo::Nothing, "vault").await);
    let gone = admin.workload_token("gone").await;
    admin.delete("/api/v1/namespaces/gone/pods/gone", 0).await;
    admin.secret("reviewed", "secret").await;
    let secret = token(BoundTo::Secret("secret"), "istio-ca").await;
    let (world, clock) = world(ClusterChoices { token_review: true, ..shared.choices() }).await;
    let reviews = || world.reviewer.as_ref().unwrap().counts();
    for (case, token, wanted) in [
        ("good", &good, "issued"),
        ("unbound", &unbound, "issued"),
        ("another audience", &foreign, "review_refused"),
        ("gone", &gone, "review_refused"),
        ("bound to a Secret", &secret, "secret_bound"),
        ("garbage", &"garbage".to_owned(), "malformed"),
    ] {
        assert_eq!(outcome(issue(&world, token).await), wanted, "{case}");
    }
    assert_eq!(reviews().answered, 5, "garbage is not worth a question");
    assert_eq!(outcome(issue(&world, &good).await), "issued");
    assert_eq!(reviews().answered, 5, "a verdict is good for a moment");
    // Without the permission nobody can tell.
    let may_all_but_review = json!([{"apiGroups": [""], "resources": ["pods", "serviceaccounts", "nodes"], "verbs": ["get", "list", "watch"]}]);
    admin.set_rules(&may_all_but_review).await;
    let refused = async {
        while outcome(issue(&world, &good).await) != "review_unavailable" {
            clock.advance(11 * SECOND);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(common::process::PATIENCE, refused).await.unwrap();
    shared.server.kill();
    assert_eq!(outcome(issue(&world, &unbound).await), "review_unavailable");
}

#[tokio::test]
async fn an_etcd_that_is_away_makes_no_token_a_bad_one() {
    let shared = Shared::over(ApiServer::start().await).await;
    let admin = shared.admin().await;
    admin.workload("lives").await;
    admin.workload("gone").await;
    let (lives, gone) = (admin.workload_token("lives").await, admin.workload_token("gone").await);
    admin.delete("/api/v1/namespaces/gone/pods/gone", 0).await;
    // Nothing is kept, so that each verdict is a fresh one.
    let lookups = LookupLimits { time: SECOND, kept: Duration::ZERO, ..shared.choices().lookups };
    let choices = ClusterChoices { lookups, ..shared.choices() };
    let always = world_on(ClusterChoices { token_review: true, ..choices.clone() }, SystemClock::shared()).await;
    let unknown_keys = world_on(ClusterChoices { keys_published: false, ..choices }, SystemClock::shared()).await;
    let (_, signature) = lives.rsplit_once('.').unwrap();
    let forged = gone.rsplit_once('.').map(|(signed, _)| format!("{signed}.{signature}")).unwrap();
    for (world, unavailable) in [(&always, "review_unavailable"), (&unknown_keys, "unknown_kid")] {
        let comes_out = async |token: &str, wanted: &str| assert_eq!(outcome(issue(world, token).await), wanted);
        until(world, &lives, "issued").await;
        until(world, &gone, "review_refused").await;
        until(world, &forged, "review_refused").await;

        // The API server waits for an answer, and so do we for its own.
        shared.server.freeze_etcd();
        comes_out(&lives, "issued").await;
        comes_out(&gone, unavailable).await;
        comes_out(&forged, unavailable).await;
        shared.server.thaw_etcd();
        until(world, &gone, "review_refused").await;

        // The API server says no at once, in the same words as if it knew.
        let no = admin.reviewed(&gone).await;
        shared.server.refuse_at_etcd();
        assert_eq!(admin.reviewed(&gone).await, no);
        comes_out(&lives, "issued").await;
        comes_out(&gone, unavailable).await;
        comes_out(&forged, unavailable).await;
        shared.server.admit_at_etcd();
        until(world, &gone, "review_refused").await;
        until(world, &forged, "review_refused").await;
    }
}
