//! The good clients of a soak, and one that is good but greedy. Each runs until [`Mesh::goes_on`] says no.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tonic::Code;

use super::mesh::{Mesh, Proof, Workload, node};
use crate::common::csrs::request_for;
use crate::common::grpc::{Wire, connect_from, soon};

/// Sends out everybody. Together they ask for about 200 certificates a second, more during a storm.
pub(crate) fn send_out(mesh: &Arc<Mesh>, tasks: &mut JoinSet<()>) {
    for number in 0..8 {
        tasks.spawn(on_kept_connections(mesh.clone(), number));
        tasks.spawn(on_new_connections(mesh.clone(), number));
        tasks.spawn(lineage(mesh.clone(), number));
    }
    tasks.spawn(come_and_go(mesh.clone()));
    tasks.spawn(storms(mesh.clone()));
}

/// A beat; who was kept from it doesn't catch up.
fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

fn workload(namespace: &str, account: String, number: u8) -> Workload {
    Workload { namespace: namespace.to_owned(), account, node: node(number) }
}

/// Asks by token, on a connection that lasts until the server ends it.
async fn on_kept_connections(mesh: Arc<Mesh>, number: u8) {
    let (mut beat, mut kept) = (every(Duration::from_millis(80)), None);
    let workload = workload("kept", format!("kept-{number}"), number);
    let token = mesh.token(&workload, Some(u64::from(number)));
    for key in mesh.keys.iter().cycle().skip(number.into()) {
        beat.tick().await;
        if !mesh.goes_on() {
            return;
        }
        mesh.certificate(&workload, &Proof::Token(&token), key, &mut kept).await;
    }
}

/// A deployment that never rests: each certificate is for a new pod with a connection of its own, and accounts come and go.
async fn on_new_connections(mesh: Arc<Mesh>, number: u8) {
    const PODS_OF_AN_ACCOUNT: u64 = 50;
    let mut beat = every(Duration::from_millis(120));
    for (pod, key) in (0..).zip(mesh.keys.iter().cycle()) {
        beat.tick().await;
        if !mesh.goes_on() {
            return;
        }
        let workload = workload("anew", format!("anew-{number}-{}", pod / PODS_OF_AN_ACCOUNT), number);
        let token = mesh.token(&workload, Some((u64::from(number) + 1) << 32 | pod));
        mesh.certificate(&workload, &Proof::Token(&token), key, &mut None).await;
    }
}

/// One identity for the whole run: a token once, and then each certificate by the one before it. Half of them are no pods.
async fn lineage(mesh: Arc<Mesh>, number: u8) {
    let mut beat = every(Duration::from_millis(1_000));
    let workload = workload("lineage", format!("lineage-{number}"), 8 + number);
    let pod = number.is_multiple_of(2).then(|| 0xff00 + u64::from(number));
    let token = mesh.token(&workload, pod);
    let mut held = mesh.certificate(&workload, &Proof::Token(&token), &mesh.keys[0], &mut None).await;
    for key in mesh.keys.iter().cycle() {
        beat.tick().await;
        if !mesh.goes_on() {
            return;
        }
        let mut kept = None;
        let renewed = mesh.certificate(&workload, &Proof::Certificate(&held), key, &mut kept).await;
        // And once more on the same connection: what it was verified with is remembered there.
        mesh.certificate(&workload, &Proof::Certificate(&held), key, &mut kept).await;
        held = renewed;
    }
}

/// Connections that come, say hello, are pinged and leave.
async fn come_and_go(mesh: Arc<Mesh>) {
    let mut beat = every(Duration::from_millis(100));
    while mesh.goes_on() {
        beat.tick().await;
        let Ok(stream) = soon("handshake", connect_from(node(20), mesh.csr, mesh.tls.clone())).await else { continue };
        let Ok(mut wire) = Wire::over(stream).await else { continue };
        mesh.ended(format!("visit: {}", if wire.ping().await.is_ok() { "pong" } else { "broken" }));
    }
}

/// One account that never backs off: every two seconds it keeps 128 requests in flight for a fifth of a second, whatever it hears. Longer
/// would measure the machine, not whether anything is left behind.
async fn storms(mesh: Arc<Mesh>) {
    const CONNECTIONS: usize = 4;
    const IN_FLIGHT: usize = 32;
    let mut beat = every(Duration::from_secs(2));
    let greedy = workload("greedy", "greedy".to_owned(), 21);
    let token = mesh.token(&greedy, Some(1));
    loop {
        beat.tick().await;
        if !mesh.goes_on() {
            return;
        }
        let until = Instant::now() + Duration::from_millis(200);
        let connections: FuturesUnordered<_> = (0..CONNECTIONS).map(|_| storm(&mesh, &greedy, &token, IN_FLIGHT, until)).collect();
        connections.collect::<()>().await;
    }
}

async fn storm(mesh: &Mesh, greedy: &Workload, token: &[u8], in_flight: usize, until: Instant) {
    let Ok(stream) = soon("handshake", connect_from(greedy.node, mesh.csr, mesh.tls.clone())).await else { return };
    let Ok(wire) = Wire::over(stream).await else { return };
    let loops: FuturesUnordered<_> = (0..in_flight)
        .map(|number| {
            let (wire, request) = (&wire, request_for(&mesh.keys[number % mesh.keys.len()].csr));
            async move {
                while Instant::now() < until {
                    let Ok(answer) = wire.try_ask(&[("authorization", token)], &request).await else { return mesh.ended("storm: broken".to_owned()) };
                    let code = answer.status.code();
                    assert!(matches!(code, Code::Ok | Code::ResourceExhausted | Code::DeadlineExceeded), "{:?}", answer.status);
                    mesh.ended(format!("storm: {code:?}"));
                }
            }
        })
        .collect();
    loops.collect::<()>().await;
}
