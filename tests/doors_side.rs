//! The doors beside the CSR port under attack: health and metrics, which the kubelet and Prometheus must always reach, and the admin port, where
//! operators must get in just when somebody misbehaves. `--nocapture` shows the figures.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/admin_port.rs"]
mod admin_port;
#[path = "common/in_cluster.rs"]
mod common;
#[path = "common/frames.rs"]
mod frames;
#[path = "common/honest.rs"]
mod honest;
#[path = "common/hostile.rs"]
mod hostile;
#[path = "common/refused.rs"]
mod refused;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use admin_port::{AUDIENCE, BUNDLE, CSR_AUDIENCE, World, lists_unread};
use common::grpc::{Wire, bearer, frame, tcp_from};
use common::{csrs, grpc, process, tokens};
use futures_util::future::try_join_all;
use honest::{Fared, Workload, try_for, until_idle};
use hostile::{ALONE, Attack, Door, Seen, keep_up};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

const ALONE_FOR: Duration = Duration::from_secs(1);
const BESIDE_FOR: Duration = Duration::from_secs(3);
/// The last octet of the address that bad tokens come from.
const BAD_TOKENS: usize = 3;
/// In the log, a second: what strangers may cause, and a few more.
const LINES: f64 = 120.0;

/// What the kubelet does: a new connection, and an answer within a second.
async fn probe(address: SocketAddr, path: &str) -> Result<(), String> {
    let asking = async {
        let mut stream = tcp_from(IpAddr::from([127, 0, 0, 9]), address).await?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    let answer = tokio::time::timeout(Duration::from_secs(1), asking).await.map_err(|_| "no answer within a second".to_owned())?;
    let answer = answer.map_err(|error: io::Error| error.to_string())?;
    if answer.starts_with("HTTP/1.1 200 ") { Ok(()) } else { Err(format!("{:?}", answer.lines().next())) }
}

/// Half-sent requests on both ports, and as many connections that say nothing at all, from so many addresses; anew as they are closed.
async fn half_sent(seen: Arc<Seen>, ports: [SocketAddr; 2], addresses: usize) {
    keep_up(seen.clone(), 200, 400, move |slot| {
        let source = Ipv4Addr::new(127, 0, 1, (1 + slot / 4 % addresses) as u8);
        let (address, said, seen) = (ports[slot % 2], ["GET /livez HTTP/1.1\r\nhost: localhost\r\nx-slow: ", ""][slot / 2 % 2], seen.clone());
        async move {
            let mut stream = tcp_from(source.into(), address).await?;
            stream.write_all(said.as_bytes()).await?;
            seen.hold(stream).await;
            Ok(())
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_sent_requests_do_not_keep_out_the_kubelet() {
    const PROBES: u32 = 5;
    let _alone = ALONE.lock().await;
    let world = refused::World::start_logging("info", "", "");
    let (health, metrics) = (world.serve.health, world.serve.metrics);
    let mut failed = Vec::new();
    for addresses in [1, 20] {
        let attack = Attack::begin(|seen| half_sent(seen, [health, metrics], addresses));
        attack.until(Duration::from_secs(3), |seen| seen.opened() >= 200).await;
        let (mut second, before) = (tokio::time::interval(Duration::from_secs(1)), failed.len());
        for number in 0..PROBES {
            second.tick().await;
            let (live, ready, scraped) = tokio::join!(probe(health, "/livez"), probe(health, "/readyz"), probe(metrics, "/metrics"));
            let each = [("/livez", live), ("/readyz", ready), ("/metrics", scraped)];
            failed.extend(each.into_iter().filter_map(|(path, outcome)| Some(format!("{path} in second {number}: {}", outcome.err()?))));
        }
        let (held, opened, failed) = (attack.seen.held(), attack.seen.opened(), failed.len() - before);
        eprintln!("10, from {addresses} addresses: {held} held of {opened} opened; of {} probes {failed} failed", 3 * PROBES);
        assert!(opened >= 200, "the attacker got {:?}", attack.seen);
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// Whoever asks the admin API something short, as often as he can.
struct Operator {
    door: Door,
    bearer: Vec<u8>,
}

impl Operator {
    fn new(door: Door, token: &str) -> Self {
        Self { door, bearer: bearer(token) }
    }

    async fn ask(&self, wire: &Wire) -> Result<(), String> {
        let answer = wire.send(BUNDLE, &[("authorization", &self.bearer)], frame(&[])).await.map_err(|error| error.to_string())?;
        match answer.status.code() {
            Code::Ok => Ok(()),
            code => Err(format!("{code:?}: {}", answer.status.message())),
        }
    }

    /// On a connection of its own.
    async fn ask_anew(&self) -> Result<(), String> {
        let wire = self.door.wire().await.map_err(|error| error.to_string())?;
        self.ask(&wire).await
    }
}

/// Everybody who is honest, first alone, then beside each attack.
struct Scene {
    world: World,
    /// Behind the address of those with bad tokens, and the connection that he keeps.
    connected: (Wire, Operator),
    newcomer: Operator,
    workload: Workload,
    alone: [Fared; 3],
    complaints: Vec<String>,
}

impl Scene {
    async fn set() -> Self {
        let world = World::start().await;
        // What an attacker asks for much of.
        world.record(1100).await;
        let (door, viewer) = (world.admin_door(), world.viewer().await);
        let (connected, newcomer) = (Operator::new(door.from(BAD_TOKENS), &viewer), Operator::new(door.from(8), &viewer));
        let workload = Workload::new(world.csr_door().from(9), &world.workload_token(CSR_AUDIENCE).await);
        let wire = connected.door.wire().await.unwrap();
        connected.ask(&wire).await.unwrap();
        let mut this = Self { world, connected: (wire, connected), newcomer, workload, alone: <[Fared; 3]>::default(), complaints: Vec::new() };
        this.alone = this.fare(ALONE_FOR).await;
        this
    }

    async fn fare(&self, time: Duration) -> [Fared; 3] {
        let (wire, connected) = &self.connected;
        let (connected, newcomer, workload) = tokio::join!(
            try_for(time, async || connected.ask(wire).await),
            try_for(time, async || self.newcomer.ask_anew().await),
            self.workload.try_for(time),
        );
        [connected, newcomer, workload]
    }

    /// An attack, which ends with it.
    async fn beside(&mut self, what: &str, attack: Attack) {
        let fared = self.fare(BESIDE_FOR).await;
        drop(attack);
        let slow = fared.iter().zip(&self.alone).any(|(fared, alone)| fared.only_slow(alone));
        let again = if slow {
            until_idle(self.world.serve.child().id()).await;
            Some(self.fare(ALONE_FOR).await)
        } else {
            None
        };
        let all = fared.iter().zip(again.as_ref().unwrap_or(&self.alone)).zip(["connected operator", "new operator", "workload"]);
        self.complaints.extend(all.filter_map(|((fared, alone), who)| fared.complaint(alone, &format!("{what}: {who}"))));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_and_workloads_beside_attackers_of_the_admin_port() {
    let _alone = ALONE.lock().await;
    let mut scene = Scene::set().await;
    bad_tokens(&mut scene).await;
    workloads_token(&mut scene).await;
    lists(&mut scene).await;
    assert!(scene.complaints.is_empty(), "{:#?}", scene.complaints);
}

/// Row 13, from the address of somebody whose token was good.
async fn bad_tokens(scene: &mut Scene) {
    let door = scene.world.admin_door().from(BAD_TOKENS);
    let attack = Attack::begin(|seen| ask_without_end(seen, door, (1, 1, Duration::from_millis(20)), |number| bearer(&format!("a.b.x{number}"))));
    attack.until(Duration::from_secs(5), |seen| seen.answered() >= 10).await;
    assert!(attack.seen.answered() >= 10, "the attacker got {:?}", attack.seen);
    let seen = attack.seen.clone();
    scene.beside("13, bad tokens from the same address", attack).await;
    eprintln!("13: {} bad tokens answered", seen.answered());
}

/// Row 14: a token that stands for somebody who may nothing.
async fn workloads_token(scene: &mut Scene) {
    let door = scene.world.admin_door().from(4);
    let token = bearer(&scene.world.workload_token(AUDIENCE).await);
    let attack = Attack::begin(|seen| ask_without_end(seen, door, (8, 4, Duration::from_millis(8)), move |_| token.clone()));
    attack.until(Duration::from_secs(3), |seen| seen.held() >= 4).await;
    let (seen, before) = (attack.seen.clone(), attack.seen.answered());
    scene.world.serve.log.try_iter().for_each(drop);
    scene.beside("14, a workload's token again and again", attack).await;
    let (lines, answered) = (scene.world.serve.log.try_iter().count(), seen.answered() - before);
    let pace = lines as f64 / BESIDE_FOR.as_secs_f64();
    eprintln!("14: {answered} answered, {lines} lines in the log, {pace:.0}/s");
    // The gate lets it have a few in a second.
    assert!(seen.asked() >= 30 && answered >= 5, "the attacker got {seen:?}");
    if pace > LINES {
        scene.complaints.push(format!("14: {pace:.0} lines in the log a second"));
    }
}

/// Row 12.
async fn lists(scene: &mut Scene) {
    let (door, viewer) = (scene.world.admin_door().from(5), scene.world.viewer().await);
    let attack = Attack::begin(|seen| lists_unread(seen, door, viewer));
    let took = attack.until(Duration::from_secs(3), |seen| seen.held() >= 120).await;
    eprintln!("12: {} held of {} opened after {took:.1?}", attack.seen.held(), attack.seen.opened());
    assert!(attack.seen.opened() >= 8, "the attacker got {:?}", attack.seen);
    scene.beside("12, lists that nobody reads", attack).await;
}

/// Asks the admin API on so many connections, each with so many questions at once and a pause after each; `bearer` gets the number of the question.
async fn ask_without_end(
    seen: Arc<Seen>,
    door: Door,
    (connections, at_once, pause): (usize, usize, Duration),
    bearer: impl Fn(usize) -> Vec<u8> + Clone + Send + Sync + 'static,
) {
    keep_up(seen.clone(), connections, 20, move |_| {
        let (door, bearer, seen) = (door.clone(), bearer.clone(), seen.clone());
        async move {
            let wire = door.wire().await?;
            let _held = seen.let_in();
            let line = async |_| -> io::Result<()> {
                loop {
                    seen.count_asked();
                    let bearer = bearer(seen.asked());
                    wire.send(BUNDLE, &[("authorization", &bearer)], frame(&[])).await.map_err(io::Error::other)?;
                    seen.count_answered();
                    tokio::time::sleep(pause).await;
                }
            };
            try_join_all((0..at_once).map(&line)).await.map(drop)
        }
    })
    .await;
}
