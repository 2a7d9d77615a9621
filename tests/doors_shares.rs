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
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::csrs::request;
use common::frames::{DATA, PING, PRIORITY, SETTINGS, WINDOW_UPDATE, grpc_headers, h2_frame, hello};
use common::grpc::{CREATE, bearer, frame, tcp_from};
use common::refused::World;
use common::{csrs, frames, grpc};
use futures_util::future::try_join_all;
use hostile::{ALONE, Attack, Door, Raw, Seen, flood, keep_up};
use honest::{Fared, Workload};
use prost::Message;
use tokio::io::AsyncWriteExt;

const ALONE_FOR: Duration = Duration::from_millis(1500);
const BESIDE_FOR: Duration = Duration::from_secs(4);

/// A server, and an honest client of it that knows what it gets alone.
struct Scene {
    world: World,
    honest: Workload,
    alone: Fared,
}

impl Scene {
    async fn set(server: &str) -> Self {
        let world = World::start_logging("info", server, "");
        let honest = Workload::new(door(&world).from(9), &world.issuer.good("bank", "teller"));
        // What is done the first time isn't measured.
        honest.once().await.unwrap();
        let alone = honest.try_for(ALONE_FOR).await;
        Self { world, honest, alone }
    }

    /// The attackers' door.
    fn door(&self) -> Door {
        door(&self.world)
    }

    async fn assert_kept(&self, attack: &str) {
        self.honest.try_for(BESIDE_FOR).await.assert_kept(&self.alone, attack);
    }
}

fn door(world: &World) -> Door {
    Door { address: world.serve.csr, tls: world.tls(None), source: IpAddr::from([127, 0, 0, 2]) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_with_a_token_keeps_as_many_connections_as_there_may_be() {
    const CONNECTIONS: usize = 800;
    let _alone = ALONE.lock().await;
    let scene = Scene::set(&format!(", maxConnections: {CONNECTIONS}")).await;
    let (door, token, message) = (scene.door(), bearer(&scene.world.token()), frame(&request().encode_to_vec()));
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
    scene.assert_kept("5, every connection kept by one address").await;
    eprintln!("5: {} held of {} opened", seen.held(), seen.opened());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_takes_every_place_of_strangers() {
    const STRANGERS: usize = 400;
    let _alone = ALONE.lock().await;
    let scene = Scene::set(&format!(", maxConnections: {}", 2 * STRANGERS)).await;
    let door = scene.door();
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
    scene.assert_kept("6, strangers' places taken by one address").await;
    eprintln!("6: {} held of {} opened, {} failed", seen.held(), seen.opened(), seen.failed());
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
    let hello = client_hello(&scene.door());
    for (variant, said) in [("nothing", &hello[..0]), ("half of a ClientHello", &hello[..hello.len() / 2]), ("a ClientHello and no more", &hello)] {
        let (door, said) = (scene.door(), said.to_vec());
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
        eprintln!("7: {} held of {} opened", attack.seen.held(), attack.seen.opened());
        assert!(attack.seen.opened() >= 250, "the attacker got {:?}", attack.seen);
        scene.assert_kept(&format!("7, 260 connections that say {variant}")).await;
    }
}

/// So many clients from one address, which ask so long after their handshake and try again as agents do; how long it takes until all are served.
async fn herd(scene: &Scene, clients: usize, later: Duration) -> (Duration, Fared) {
    let (door, token, request) = (scene.door(), Arc::new(bearer(&scene.world.token())), Arc::new(request()));
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
    fared.assert_kept(&scene.alone, "8, a herd that asks a second later");
    assert!(later <= at_once.mul_f64(1.5) + Duration::from_secs(2), "{later:?} instead of {at_once:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_for_each_line_of_the_queue_is_one_namespace() {
    const CONNECTIONS: usize = 40;
    const STREAMS: usize = 100;
    let _alone = ALONE.lock().await;
    let scene = Scene::set("").await;
    let account = |number: usize| bearer(&scene.world.issuer.good("crowd", &format!("account-{number}")));
    let (door, tokens): (_, Arc<Vec<_>>) = (scene.door(), Arc::new((0..CONNECTIONS * STREAMS).map(account).collect()));
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
    let (seen, before) = (&attack.seen, attack.seen.answered());
    eprintln!("9: {} held, {} asked, {} answered", seen.held(), seen.asked(), before);
    assert!(seen.asked() - seen.answered() >= CONNECTIONS * STREAMS / 10, "the attacker got {seen:?}");
    scene.assert_kept("9, thousands of accounts of one namespace").await;
    eprintln!("9: {} held, {:.0} answered in a second", seen.held(), (seen.answered() - before) as f64 / BESIDE_FOR.as_secs_f64());
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
    let door = scene.door();
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
    let (seen, before) = (&attack.seen, attack.seen.sent());
    assert!(seen.opened() >= 32, "the attacker got {seen:?}");
    scene.assert_kept("11, control frames without end").await;
    let frames = (seen.sent() - before) as f64 / 13.0 / BESIDE_FOR.as_secs_f64();
    eprintln!("11: some {frames:.0} frames a second, {} held of {} opened", seen.held(), seen.opened());
}
