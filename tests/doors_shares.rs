//! The CSR port beside attackers who take what is scarce: connections, strangers' places, handshakes, turns, computing. An honest client keeps at
//! least half of its pace and nearly all of its tries. `--nocapture` shows the figures.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/api.rs"]
mod common;
#[path = "common/honest.rs"]
mod honest;
#[path = "common/hostile.rs"]
mod hostile;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::csrs::request;
use common::frames::{DATA, PING, PRIORITY, SETTINGS, WINDOW_UPDATE, grpc_headers, h2_frame, hello};
use common::grpc::{CREATE, Wire, bearer, frame, tcp_from};
use common::refused::World;
use common::{csrs, frames, grpc};
use futures_util::future::try_join_all;
use honest::{Fared, Workload, until_idle};
use hostile::{ALONE, Attack, Door, Raw, Seen, flood, keep_up};
use prost::Message;
use tokio::io::AsyncWriteExt;

const ALONE_FOR: Duration = Duration::from_secs(1);
const BESIDE_FOR: Duration = Duration::from_secs(3);

/// A server, and an honest client of it that knows what it gets alone, and another one that keeps its connection.
struct Scene {
    world: World,
    pid: u32,
    /// The attackers'.
    door: Door,
    honest: Workload,
    alone: Fared,
    kept: Wire,
}

impl Scene {
    async fn set(server: &str) -> Self {
        let mut world = World::start_logging("info", server, "");
        let pid = world.serve.child().id();
        let door = Door::new(world.serve.csr, world.tls(None));
        let honest = Workload::new(door.from(9), &world.issuer.good("bank", "teller"));
        let kept = door.from(8).wire().await.unwrap();
        // What is done the first time isn't measured.
        honest.ask(&kept).await.unwrap();
        let alone = honest.try_for(ALONE_FOR).await;
        Self { world, pid, door, honest, alone, kept }
    }

    /// Who connects each time, and who is connected already, beside an attack, which ends with it.
    async fn complaint(&self, what: &str, attack: Attack) -> Option<String> {
        let (sent, answered) = (attack.seen.sent(), attack.seen.answered());
        let fared = self.honest.try_for(BESIDE_FOR).await;
        let kept = self.honest.ask(&self.kept).await;
        let seen = attack.seen.clone();
        drop(attack);
        let a_second = |count: usize| count as f64 / BESIDE_FOR.as_secs_f64();
        eprintln!(
            "{what}: {} held of {} opened, {} failed; {:.0} octets sent and {:.0} requests answered in a second",
            seen.held(),
            seen.opened(),
            seen.failed(),
            a_second(seen.sent() - sent),
            a_second(seen.answered() - answered)
        );
        let complaint = self.complaint_of(what, &fared).await;
        complaint.or_else(|| Some(format!("{what}: on a kept connection {}", kept.err()?)))
    }

    async fn complaint_of(&self, what: &str, fared: &Fared) -> Option<String> {
        if !fared.only_slow(&self.alone) {
            return fared.complaint(&self.alone, what);
        }
        until_idle(self.pid).await;
        fared.complaint(&self.honest.try_for(ALONE_FOR).await, what)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_with_a_token_keeps_as_many_connections_as_there_may_be() {
    const CONNECTIONS: usize = 800;
    let _alone = ALONE.lock().await;
    let scene = Scene::set(&format!(", maxConnections: {CONNECTIONS}")).await;
    let (door, token, message) = (scene.door.clone(), bearer(&scene.world.token()), frame(&request().encode_to_vec()));
    let attack = Attack::begin(|seen| {
        keep_up(seen.clone(), CONNECTIONS, 1000, move |_| {
            let (door, token, message, seen) = (door.clone(), token.clone(), message.clone(), seen.clone());
            async move {
                let mut raw = Raw::open(&door).await?;
                raw.certificate(&token, &message).await?;
                seen.hold(raw.stream).await;
                Ok(())
            }
        })
    });
    let took = attack.until(Duration::from_secs(15), |seen| seen.held() >= CONNECTIONS * 99 / 100).await;
    // It takes this much to keep 16,000 for as long as a connection may live.
    attack.seen.set_pace(9);
    let seen = &attack.seen;
    eprintln!("5: {} held of {} opened after {took:.1?}, {} failed", seen.held(), seen.opened(), seen.failed());
    assert!(seen.opened() >= CONNECTIONS * 9 / 10, "the attacker got {seen:?}");
    assert_eq!(scene.complaint("5, every connection kept by one address", attack).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_takes_every_place_of_strangers() {
    const STRANGERS: usize = 400;
    let _alone = ALONE.lock().await;
    let scene = Scene::set(&format!(", maxConnections: {}", 2 * STRANGERS)).await;
    let door = scene.door.clone();
    let attack = Attack::begin(|seen| {
        keep_up(seen.clone(), STRANGERS + 50, 270, move |_| {
            let (door, seen) = (door.clone(), seen.clone());
            async move {
                let raw = Raw::open(&door).await?;
                seen.hold(raw.stream).await;
                Ok(())
            }
        })
    });
    let took = attack.until(Duration::from_secs(6), |seen| seen.held() >= STRANGERS * 95 / 100).await;
    let seen = &attack.seen;
    eprintln!("6: {} held of {} opened after {took:.1?}, {} failed", seen.held(), seen.opened(), seen.failed());
    assert!(seen.opened() >= STRANGERS / 2, "the attacker got {seen:?}");
    assert_eq!(scene.complaint("6, strangers' places taken by one address", attack).await, None);
}

/// The first bytes of a handshake.
fn client_hello(door: &Door) -> Vec<u8> {
    let mut client = rustls::ClientConnection::new(door.tls.clone(), "localhost".try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing_hold_up_nobody() {
    let _alone = ALONE.lock().await;
    let scene = Scene::set("").await;
    let (hello, mut complaints) = (client_hello(&scene.door), Vec::new());
    for (variant, said) in [("nothing", &hello[..0]), ("half of a ClientHello", &hello[..hello.len() / 2]), ("a ClientHello and no more", &hello)] {
        let (door, said) = (scene.door.clone(), said.to_vec());
        let attack = Attack::begin(|seen| {
            keep_up(seen.clone(), 260, 260, move |slot| {
                let (door, said, seen) = (door.from(2 + slot % 2), said.clone(), seen.clone());
                async move {
                    let mut stream = tcp_from(door.source, door.address).await?;
                    stream.write_all(&said).await?;
                    seen.hold(stream).await;
                    Ok(())
                }
            })
        });
        attack.until(Duration::from_secs(3), |seen| seen.opened() >= 260).await;
        assert!(attack.seen.opened() >= 250, "the attacker got {:?}", attack.seen);
        complaints.extend(scene.complaint(&format!("7, 260 connections that say {variant}"), attack).await);
    }
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// So many clients from one address, which ask so long after their handshake and try again as agents do; how long it takes until all are served.
async fn herd(scene: &Scene, clients: usize, later: Duration) -> (Duration, Fared) {
    let (door, token, request) = (scene.door.clone(), Arc::new(bearer(&scene.world.token())), Arc::new(request()));
    let attack = Attack::begin(|seen: Arc<Seen>| async move {
        for client in 0..clients {
            let (door, token, request, seen) = (door.clone(), token.clone(), request.clone(), seen.clone());
            tokio::spawn(async move {
                let once = async || -> io::Result<bool> {
                    let wire = door.wire().await?;
                    let _held = seen.let_in();
                    tokio::time::sleep(later).await;
                    let answer = wire.try_ask(&[("authorization", &token)], &request).await.map_err(io::Error::other)?;
                    Ok(answer.status.code() == tonic::Code::Ok)
                };
                while !once().await.unwrap_or(false) {
                    tokio::time::sleep(Duration::from_millis(200 + client as u64 % 200)).await;
                }
                seen.count_answered();
            });
        }
        std::future::pending().await
    });
    let (began, all) = (Instant::now(), |seen: &Seen| seen.answered() >= clients);
    let (took, fared) = tokio::join!(attack.until(Duration::from_secs(30), all), scene.honest.try_for(Duration::from_secs(2)));
    assert!(all(&attack.seen), "{} of {clients} after {:?}", attack.seen.answered(), began.elapsed());
    (took, fared)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_herd_that_asks_a_little_later_is_served_as_fast() {
    const CLIENTS: usize = 500;
    let _alone = ALONE.lock().await;
    // So few that they would be the bound if they were held while nothing is done.
    let scene = Scene::set(", maxHandshakes: 64").await;
    let (at_once, _) = herd(&scene, CLIENTS, Duration::ZERO).await;
    let (later, fared) = herd(&scene, CLIENTS, Duration::from_secs(1)).await;
    eprintln!("8: {CLIENTS} clients that ask at once are served in {at_once:.1?}, those that ask a second later in {later:.1?}");
    assert_eq!(scene.complaint_of("8, a herd that asks a second later", &fared).await, None);
    assert!(later <= at_once.mul_f64(1.5) + Duration::from_secs(2), "{later:?} instead of {at_once:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_for_each_line_of_the_queue_is_one_namespace() {
    const CONNECTIONS: usize = 40;
    const STREAMS: usize = 100;
    let _alone = ALONE.lock().await;
    let scene = Scene::set("").await;
    let account = |number: usize| bearer(&scene.world.issuer.good("crowd", &format!("account-{number}")));
    let (door, tokens): (_, Arc<Vec<_>>) = (scene.door.clone(), Arc::new((0..CONNECTIONS * STREAMS).map(account).collect()));
    let request = Arc::new(request());
    let attack = Attack::begin(|seen| {
        keep_up(seen.clone(), CONNECTIONS, 20, move |slot| {
            let (door, tokens, request, seen) = (door.from(2 + slot % 4), tokens.clone(), request.clone(), seen.clone());
            async move {
                let wire = door.wire().await?;
                let _held = seen.let_in();
                let ask = async |stream: usize| {
                    seen.count_asked();
                    let answer = wire.try_ask(&[("authorization", &tokens[slot * STREAMS + stream])], &request).await;
                    seen.count_answered();
                    answer.map(drop).map_err(io::Error::other)
                };
                // One first: who has a certificate may ask for many.
                ask(0).await?;
                let line = async |stream: usize| -> io::Result<()> {
                    loop {
                        ask(stream).await?;
                    }
                };
                try_join_all((0..STREAMS).map(&line)).await.map(drop)
            }
        })
    });
    attack.until(Duration::from_secs(6), |seen| seen.held() >= CONNECTIONS).await;
    let seen = &attack.seen;
    eprintln!("9: {} held, {} asked, {} answered", seen.held(), seen.asked(), seen.answered());
    assert!(seen.asked() - seen.answered() >= CONNECTIONS * STREAMS / 10, "the attacker got {seen:?}");
    assert_eq!(scene.complaint("9, thousands of accounts of one namespace", attack).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_frames_without_end_are_read_slowly() {
    let _alone = ALONE.lock().await;
    let scene = Scene::set("").await;
    let kinds = [
        h2_frame(PING, 0, 0, &[7; 8]),
        h2_frame(SETTINGS, 0, 0, &[]),
        h2_frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 15]),
        h2_frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        h2_frame(0xbe, 0, 0, &[0; 4]),
        h2_frame(DATA, 0, 1, &[]),
    ];
    let floods: Arc<Vec<_>> = Arc::new(kinds.iter().map(|frame| frame.repeat(16_000 / frame.len())).collect());
    let door = scene.door.clone();
    let attack = Attack::begin(|seen| {
        keep_up(seen.clone(), 32, 100, move |slot| {
            let (door, floods, seen) = (door.from(2 + slot % 4), floods.clone(), seen.clone());
            async move {
                let mut raw = Raw::greet(&door, &hello()).await?;
                // The stream that DATA is for.
                raw.send(&grpc_headers(1, CREATE, &[])).await?;
                flood(raw.stream, &floods[slot % floods.len()], &seen).await
            }
        })
    });
    attack.until(Duration::from_secs(3), |seen| seen.held() >= 32).await;
    assert!(attack.seen.opened() >= 16, "the attacker got {:?}", attack.seen);
    assert_eq!(scene.complaint("11, control frames without end", attack).await, None);
}
