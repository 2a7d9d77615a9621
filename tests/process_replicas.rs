//! Two and three replicas with a real Lease, their state in Secrets and their ledger in PostgreSQL: killed, frozen, started at once, and cut off from
//! the API server, under the load of clients that try again as Istio's do.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/in_cluster.rs"]
mod common;
#[path = "common/postgres.rs"]
mod postgres;
#[path = "common/replicas.rs"]
mod replicas;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use common::api_server::Settings;
use common::load::{self, Key};
use common::process::{Serve, get, meshmint, wait_for};
use replicas::{Load, NAMESPACE, World, leader, once};
use rustix::process::Signal;
use tokio::task::block_in_place;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn installations_that_race_end_with_one_root() {
    let world = World::start().await;
    for round in 0..3 {
        let (namespace, database) = (format!("race-{round}"), world.postgres.database());
        world.admin.apply_rules_in(&namespace, "deploy/kubernetes/state.yaml").await;
        for (group, resource, name) in [("", "secrets", "meshmint-state"), ("coordination.k8s.io", "leases", "meshmint-leader")] {
            for verb in ["patch", "create"] {
                world.admin.until_may("meshmint", &namespace, verb, (group, resource, name), true).await;
            }
        }
        let starts: Vec<_> = (0..3)
            .map(|_| {
                let folder = tempfile::tempdir().unwrap();
                let yaml = world.yaml(folder.path(), &world.kubeconfig(), &database, &namespace, "");
                std::thread::spawn(move || (Serve::start(folder.path(), &yaml), folder))
            })
            .collect();
        let started: Vec<_> = block_in_place(|| starts.into_iter().map(|start| start.join().unwrap()).collect());
        assert_eq!(world.assert_whole(&namespace).await, 1);
        let state = world.state(&namespace).await;
        assert_eq!(world.secret(&namespace, "meshmint-root").await.len(), 1, "who lost forgot its key");
        let root = state["trust"][0]["certificate"].as_str().unwrap().to_owned();
        for (serve, _folder) in &started {
            let answer = once(serve.csr, &root, &world.token).await.unwrap();
            answer.verify().unwrap();
            assert_eq!(answer.bundle(), root);
        }
        let leading = || started.iter().filter(|(serve, _)| serve.metric("meshmint_leading") == 1.0).count();
        block_in_place(|| wait_for("one to lead", || (leading() == 1).then_some(())));
        // One that comes later founds nothing either.
        let folder = tempfile::tempdir().unwrap();
        let yaml = world.yaml(folder.path(), &world.kubeconfig(), &database, &namespace, "");
        drop(block_in_place(|| Serve::start(folder.path(), &yaml)));
        assert_eq!(world.state(&namespace).await["trust"], state["trust"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn leader_and_follower_are_killed_in_turn_and_nobody_notices() {
    let world = World::start().await;
    let mut replicas: Vec<_> = (0..3).map(|_| world.replica("", "")).collect();
    let load = Load::begin(&replicas, &world.token, 4);
    load.goes_on(20).await;
    for round in 0..2 {
        let first = leader(&replicas);
        assert_eq!(replicas[first].check("leader-known")["message"], "this replica leads");
        replicas[first].kill();
        let began = Instant::now();
        let others: Vec<_> = (0..replicas.len()).filter(|index| *index != first).collect();
        block_in_place(|| wait_for("another leader", || others.iter().find(|index| replicas[**index].leads())));
        let took = began.elapsed();
        println!("round {round}: takeover in {took:?}");
        assert!(took <= 15 * SECOND, "{took:?}");
        load.goes_on(20).await;
        replicas[first].start_again();
        load.moved(&replicas);
        load.goes_on(20).await;

        let follower = (0..replicas.len()).find(|index| !replicas[*index].leads()).unwrap();
        replicas[follower].kill();
        load.goes_on(20).await;
        replicas[follower].start_again();
        load.moved(&replicas);
        load.goes_on(20).await;
    }
    let seen = load.end().await;
    println!("{} certificates, {} retries, longest pause {:?}", seen.answers.len(), seen.retries, seen.longest_pause());
    assert!(seen.failed.is_empty(), "{:#?}", seen.failed);
    assert!(seen.longest_pause() < 3 * SECOND, "no pause in issuing: {:?}", seen.longest_pause());
    world.assert_on_record(&seen.answers);
    assert_eq!(world.assert_whole(NAMESPACE).await, 1);

    // SIGTERM lets the Lease go: the next one leads at once.
    let first = leader(&replicas);
    let replica = replicas.remove(first);
    let began = Instant::now();
    assert_eq!(block_in_place(|| replica.serve.terminate()).0, Some(0));
    leader(&replicas);
    println!("handed over in {:?}", began.elapsed());
    assert!(began.elapsed() < 8 * SECOND, "{:?}", began.elapsed());
}

/// Leaves of 6 s; the issuing key is renewed after 24 of its 36 s, and the one before it closed 11 s later.
const SECONDS: &str = "certificates: { defaultLifetime: 6s, maxLifetime: 6s, backdate: 0s, jitter: 0% }\nauthority: { issuingLifetime: 36s }\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_frozen_leader_wakes_up_after_a_takeover_and_nothing_is_corrupted() {
    let world = World::start().await;
    let mut replicas: Vec<_> = (0..2).map(|_| world.replica(", servingLifetime: 6s, requestTimeout: 1s", SECONDS)).collect();
    let first = leader(&replicas);
    let (frozen, other) = (first, 1 - first);
    let load = Load::begin(&replicas, &world.token, 3);
    load.goes_on(20).await;
    let roots = replicas[other].bundle();
    let mut kept = load::Client::connect(replicas[frozen].serve.csr, &roots, None).await.unwrap();
    let before = kept.ask(Key::any(), Some(&world.token)).await.unwrap();
    replicas[frozen].signal(Signal::STOP);
    let began = Instant::now();
    block_in_place(|| wait_for("a takeover", || replicas[other].leads().then_some(())));
    println!("takeover from a frozen leader in {:?}", began.elapsed());
    assert!(began.elapsed() <= 15 * SECOND);
    let closed = "SELECT count(*) FROM meshmint.generations WHERE closed_at IS NOT NULL";
    block_in_place(|| wait_for("its generation to be closed", || (world.postgres.sql(&world.database.name, closed) != "0").then_some(())));

    // It wakes up with a generation that is closed and in the belief that it leads; whoever asks it gets the next one, or is told to try again.
    replicas[frozen].signal(Signal::CONT);
    let began = Instant::now();
    match kept.ask(Key::any(), Some(&world.token)).await {
        Ok(answer) => assert_ne!(answer.intermediates(), before.intermediates(), "nothing of a closed generation leaves"),
        Err(status) => println!("on a connection from before: {:?} {}", status.code(), status.message()),
    }
    let woken = loop {
        match once(replicas[frozen].serve.csr, &roots, &world.token).await {
            Ok(answer) => break answer,
            Err(failure) => assert!(began.elapsed() < 30 * SECOND, "{failure}"),
        }
        tokio::time::sleep(SECOND / 20).await;
    };
    println!("the woken one answers again after {:?}", began.elapsed());
    assert_ne!(woken.intermediates(), before.intermediates());
    woken.verify().unwrap();
    load.goes_on(50).await;
    let leading: Vec<_> = replicas.iter().map(|replica| replica.leads()).collect();
    assert_eq!(leading.iter().filter(|leads| **leads).count(), 1);
    let seen = load.end().await;
    assert!(seen.failed.is_empty(), "{:#?}", seen.failed);
    world.assert_on_record(&seen.answers);
    assert!(world.assert_whole(NAMESPACE).await >= 2);
    // Nothing of a closed generation was recorded after its close.
    let late = "SELECT count(*) FROM meshmint.leaves AS l JOIN meshmint.classes AS c USING (class) JOIN meshmint.generations AS g USING (generation) \
                WHERE g.closed_at IS NOT NULL AND l.issued_at > g.closed_at + 1000000";
    assert_eq!(world.postgres.sql(&world.database.name, late), "0");
    let issuers: BTreeSet<_> = seen.answers.iter().map(|answer| answer.intermediates().to_vec()).collect();
    assert!(issuers.len() >= 2, "{} issuing certificates answered", issuers.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn issuing_goes_on_while_the_api_server_is_away() {
    let mut world = World::start().await;
    let mut replicas: Vec<_> = (0..2).map(|_| world.replica("", "")).collect();
    leader(&replicas);
    let load = Load::begin(&replicas, &world.token, 3);
    load.goes_on(20).await;
    world.shared.server.kill();
    block_in_place(|| wait_for("nobody to lead", || replicas.iter().all(|replica| !replica.leads()).then_some(())));
    load.goes_on(50).await;
    let ready = |replica: &replicas::Replica| get(&replica.serve.health.to_string(), "/readyz?verbose");
    block_in_place(|| {
        wait_for("the report to say so", || {
            let (status, text) = ready(&replicas[0]);
            assert_eq!(status, 200, "every other replica has the same trouble: {text}");
            (text.contains("[!]leader-known warn: ") && text.contains("[!]state-followed warn: ")).then_some(())
        });
    });
    assert!(replicas.iter().all(|replica| replica.serve.metric("meshmint_authority_failures") == 0.0), "nothing was due");

    // One that starts meanwhile refuses clearly, tries again, and is there when the API server is.
    let folder = tempfile::tempdir().unwrap();
    let yaml = world.yaml(folder.path(), &world.kubeconfig(), &world.database, NAMESPACE, "");
    let start = std::thread::spawn(move || (Serve::start(folder.path(), &yaml), folder));
    tokio::time::sleep(3 * SECOND).await;
    world.shared.server.start_again(&Settings::default()).await;
    let (late, _folder) = block_in_place(|| start.join().unwrap());
    let said =
        late.start_log.iter().filter(|line| line["message"].as_str().is_some_and(|text| text.contains("the authority state can't be read"))).count();
    assert!(said >= 1, "{:#?}", late.start_log);
    once(late.csr, &replicas[0].bundle(), &world.token).await.unwrap();
    leader(&replicas);
    replicas
        .iter_mut()
        .for_each(|replica| block_in_place(|| wait_for("all to be well", || (replica.check("state-followed")["severity"] == "ok").then_some(()))));
    let seen = load.end().await;
    assert!(seen.failed.is_empty() && seen.retries == 0, "{:#?}", seen.failed);
    world.assert_on_record(&seen.answers);
    assert_eq!(world.assert_whole(NAMESPACE).await, 1);
}

/// How soon every replica answers with a root that joined at one of them (docs/operations.md).
const TRUSTED_WITHIN: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_root_that_joins_at_one_replica_is_in_what_the_others_answer() {
    let world = World::start().await;
    let replicas: Vec<_> = (0..2).map(|_| world.replica("", "")).collect();
    let leads = leader(&replicas);
    // Wherever it is added: at the one that leads, and at the other.
    for (name, at, other) in [("one", leads, 1 - leads), ("two", 1 - leads, leads)] {
        let roots = replicas[other].bundle();
        let before = once(replicas[other].serve.csr, &roots, &world.token).await.unwrap();
        let (root, folder) = (common::foreign_root(name), replicas[at].folder.path());
        let (file, socket) = (folder.join("other-root.pem"), folder.join("admin.sock"));
        std::fs::write(&file, &root).unwrap();
        let (file, socket) = (file.to_str().unwrap(), socket.to_str().unwrap());
        let added = block_in_place(|| meshmint(&["authority", "trust", "add", file, "--reason", "a move", "--admin", socket]));
        let began = Instant::now();
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        let own = once(replicas[at].serve.csr, &roots, &world.token).await.unwrap();
        assert!(own.bundle().contains(&root), "at once where it was added");
        let answer = loop {
            let answer = once(replicas[other].serve.csr, &roots, &world.token).await.unwrap();
            if answer.bundle() != before.bundle() {
                break answer;
            }
            assert!(began.elapsed() < TRUSTED_WITHIN, "{:?}", began.elapsed());
        };
        println!("in the answers of another replica after {:?}", began.elapsed());
        assert_eq!(answer.bundle(), own.bundle(), "one bundle, byte for byte");
        assert_eq!(answer.intermediates(), before.intermediates(), "who signs is the same");
        answer.verify().unwrap();
        assert_eq!(block_in_place(|| replicas[other].bundle()), answer.bundle());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_gone_from_the_store_is_told_before_the_next_start() {
    let world = World::start().await;
    let replicas: Vec<_> = (0..2).map(|_| world.replica("", "")).collect();
    leader(&replicas);
    let path = |name: &str| format!("/api/v1/namespaces/{NAMESPACE}/secrets/{name}");
    let all = |severity: &str, said: &str| {
        block_in_place(|| {
            for replica in &replicas {
                wait_for(said, || {
                    let line = replica.check("state-complete");
                    (line["severity"] == severity && line["message"].as_str().unwrap().contains(said)).then_some(())
                });
            }
        });
    };
    let wholly = "the store has the state and its keys";
    all("ok", wholly);
    let mut saved = Vec::new();
    for secret in ["meshmint-root", "meshmint-issuing", "meshmint-state"] {
        saved.push(world.admin.get(&path(secret)).await);
        world.admin.delete(&path(secret), 0).await;
    }
    all("failed", "lacks the state itself, a key that signs leaves, a key that signs issuing authorities: the next start would fail");
    for replica in &replicas {
        for part in ["document", "issuing_key", "parent_key"] {
            assert_eq!(replica.serve.metric(&format!("meshmint_state_missing{{part=\"{part}\"}}")), 1.0, "{part}");
        }
        assert!(replica.check("state-complete")["hint"].as_str().unwrap().contains("before any restart"));
        once(replica.serve.csr, &replica.bundle(), &world.token).await.unwrap();
    }
    for mut secret in saved {
        // As from a backup.
        for mark in ["resourceVersion", "uid", "creationTimestamp", "managedFields"] {
            secret["metadata"].as_object_mut().unwrap().remove(mark);
        }
        world.admin.create(&format!("/api/v1/namespaces/{NAMESPACE}/secrets"), &secret).await;
    }
    all("ok", wholly);
    assert_eq!(world.assert_whole(NAMESPACE).await, 1);
}
