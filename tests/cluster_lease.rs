//! Who leads, by a Lease of a real API server: one at a time, another one soon, nobody's wall clock believed, and no leader that can't renew.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/in_cluster.rs"]
mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::api_server::ApiServer;
use common::cluster::{Client, objects};
use common::{Shared, shared, wait_until};
use meshmint::clock::SystemClock;
use meshmint::cluster::{Access, ApiError, ApiServer as Api, Election, ElectionParts, LeaseTiming};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const SECOND: Duration = Duration::from_secs(1);
const TIMING: LeaseTiming = LeaseTiming { duration: Duration::from_secs(3), renew: Duration::from_secs(2), retry: Duration::from_millis(500) };
const RULES: &str = "deploy/kubernetes/state.yaml";

/// A namespace of its own with meshmint's rules.
struct World {
    admin: Client,
    api: Arc<Api>,
    namespace: String,
}

/// A candidate at work.
struct Candidate {
    election: Arc<Election>,
    stop: Option<oneshot::Sender<()>>,
    work: JoinHandle<()>,
}

impl World {
    async fn of(shared: &Shared) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let namespace = format!("lease-{}", NEXT.fetch_add(1, Ordering::SeqCst));
        let admin = shared.admin().await;
        admin.apply_rules_in(&namespace, RULES).await;
        admin.until_may("meshmint", &namespace, "patch", ("coordination.k8s.io", "leases", "meshmint-leader"), true).await;
        admin.until_may("meshmint", &namespace, "create", ("coordination.k8s.io", "leases", "meshmint-leader"), true).await;
        let access = Access::Kubeconfig(shared.kubeconfig(shared.server.port()));
        Self { admin, api: Api::connect(&access, SystemClock::shared()).await.unwrap(), namespace }
    }

    fn candidate(&self, identity: &str) -> Candidate {
        let election = Election::new(ElectionParts {
            api: self.api.clone(),
            namespace: self.namespace.clone(),
            name: "meshmint-leader".to_owned(),
            identity: identity.to_owned(),
            timing: TIMING,
            clock: SystemClock::shared(),
        });
        let (stop, stopped) = oneshot::channel();
        let work = tokio::spawn(election.clone().run(async move { _ = stopped.await }));
        Candidate { election, stop: Some(stop), work }
    }

    fn path(&self) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases/meshmint-leader", self.namespace)
    }

    async fn spec(&self) -> Value {
        self.admin.get(&self.path()).await["spec"].clone()
    }
}

impl Candidate {
    fn leads(&self) -> bool {
        *self.election.leading().borrow()
    }

    async fn end(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.work.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_leads_and_another_takes_over() {
    let world = World::of(shared().await).await;
    let first = world.candidate("first");
    wait_until("the first to lead", || first.leads()).await;
    let second = world.candidate("second");
    let third = world.candidate("third");
    wait_until("the others to see it", || [&second, &third].iter().all(|one| one.election.status().holder.as_deref() == Some("first"))).await;
    // Over several renewals nothing changes.
    let renewed = world.spec().await["renewTime"].clone();
    let began = Instant::now();
    while began.elapsed() < 2 * TIMING.duration {
        assert!(first.leads() && !second.leads() && !third.leads());
        tokio::time::sleep(SECOND / 20).await;
    }
    let spec = world.spec().await;
    assert!(spec["renewTime"] != renewed && spec["leaseTransitions"] == 0 && spec["leaseDurationSeconds"] == 3, "{spec}");

    // Let go: nobody waits for its end.
    let began = Instant::now();
    first.end().await;
    wait_until("another one", || second.leads() || third.leads()).await;
    assert!(began.elapsed() < TIMING.duration, "{:?}", began.elapsed());
    let (leader, other) = if second.leads() { (second, third) } else { (third, second) };

    // Dead: it is waited for, and no longer than that.
    let began = Instant::now();
    leader.work.abort();
    wait_until("the last one", || other.leads()).await;
    let took = began.elapsed();
    assert!(took > TIMING.renew && took < TIMING.duration + TIMING.retry + SECOND, "{took:?}");
    assert_eq!(world.spec().await["leaseTransitions"], 2);
    other.end().await;
    assert_eq!(world.spec().await.get("holderIdentity"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobodys_time_of_day_is_believed() {
    let world = World::of(shared().await).await;
    let mut last = None;
    for (round, renewed) in ["2001-01-01T00:00:00.000000Z", "2101-01-01T00:00:00.000000Z"].into_iter().enumerate() {
        let ghost = json!({"holderIdentity": format!("ghost-{round}"), "leaseDurationSeconds": 3, "renewTime": renewed, "acquireTime": renewed, "leaseTransitions": 7});
        match last.take() {
            None => {
                let lease = json!({"metadata": {"name": "meshmint-leader"}, "spec": ghost});
                let collection = world.path().replace("/meshmint-leader", "");
                world.admin.create(&collection, &lease).await;
            }
            Some(candidate) => {
                // It was ours: whoever writes another name into it has it.
                let patch = json!({"spec": ghost});
                world.admin.ask("PATCH", &world.path(), "application/merge-patch+json", &patch).await.unwrap();
                let candidate: Candidate = candidate;
                wait_until("the leader to see it", || !candidate.leads()).await;
                candidate.work.abort();
            }
        }
        let began = Instant::now();
        let candidate = world.candidate(&format!("candidate-{round}"));
        wait_until("it to lead", || candidate.leads()).await;
        let took = began.elapsed();
        assert!(took >= TIMING.duration - SECOND / 10 && took < TIMING.duration + 2 * SECOND, "{renewed}: {took:?}");
        assert_eq!(world.spec().await["leaseTransitions"], 8);
        last = Some(candidate);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_count_that_can_not_grow_keeps_nobody_from_leading() {
    let world = World::of(shared().await).await;
    let spec = json!({"leaseTransitions": i32::MAX});
    let collection = world.path().replace("/meshmint-leader", "");
    world.admin.create(&collection, &json!({"metadata": {"name": "meshmint-leader"}, "spec": spec})).await;
    let candidate = world.candidate("one");
    wait_until("it to lead", || candidate.leads()).await;
    assert_eq!(world.spec().await["leaseTransitions"], i32::MAX);
    candidate.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_can_not_renew_stops_before_anybody_could_take_over() {
    let shared = Shared::over(ApiServer::start().await).await;
    let world = World::of(&shared).await;
    let one = world.candidate("one");
    wait_until("it to lead", || one.leads()).await;
    let other = world.candidate("other");
    for _ in 0..2 {
        wait_until("one of them to lead", || one.leads() != other.leads()).await;
        let leader = if one.leads() { &one } else { &other };
        let began = Instant::now();
        shared.server.freeze();
        wait_until("it to stop", || !leader.leads()).await;
        let took = began.elapsed();
        assert!(took <= TIMING.renew + SECOND / 5, "its last renewal began before: {took:?}");
        assert!(leader.election.status().failures > 0);
        shared.server.thaw();
    }
    wait_until("one of them to lead again", || one.leads() != other.leads()).await;
    // A rule that is missing is what it says.
    let leader = if one.leads() { &one } else { &other };
    world.admin.set_role(&world.namespace, RULES, "meshmint-state", &json!([])).await;
    wait_until("it to stop", || !leader.leads()).await;
    let trouble = leader.election.status().trouble;
    assert!(matches!(&trouble, Some(ApiError::Status { code: 403, message }) if message.contains("meshmint-leader")), "{trouble:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_rule_is_needed_and_named_where_it_is_missing() {
    let world = World::of(shared().await).await;
    let all = objects(RULES)[0]["rules"].clone();
    let may = async |verb: &'static str, name: &'static str, allowed: bool| {
        let mut rules = all.clone();
        for rule in rules.as_array_mut().unwrap() {
            if !allowed && rule["resources"] == json!(["leases"]) {
                rule["verbs"].as_array_mut().unwrap().retain(|each| each != verb);
            }
        }
        let rules: Vec<_> = rules.as_array().unwrap().iter().filter(|rule| !rule["verbs"].as_array().unwrap().is_empty()).collect();
        world.admin.set_role(&world.namespace, RULES, "meshmint-state", &json!(rules)).await;
        world.admin.until_may("meshmint", &world.namespace, verb, ("coordination.k8s.io", "leases", name), allowed).await;
    };
    // In the order in which they are needed: there is no Lease yet.
    for (verb, name) in [("get", "meshmint-leader"), ("create", "meshmint-leader"), ("patch", "meshmint-leader")] {
        may(verb, name, false).await;
        let candidate = world.candidate(verb);
        let missed = || matches!(candidate.election.status().trouble, Some(ApiError::Status { code: 403, message }) if message.contains(&format!("cannot {verb}")));
        wait_until(verb, missed).await;
        assert!(!candidate.leads() || verb == "patch");
        candidate.work.abort();
        may(verb, name, true).await;
        let candidate = world.candidate(&format!("{verb} again"));
        wait_until("it to lead", || candidate.leads()).await;
        candidate.end().await;
        if verb == "get" {
            world.admin.delete(&world.path(), 0).await;
        }
    }
}
