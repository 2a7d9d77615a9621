//! What attackers can make the process hold in memory: each way alone, and all of them at once, beside each other. It
//! stays below half of what the chart gives it, the process lives, and a good request is answered. `--nocapture` shows the figures.
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
use std::slice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use admin_port::{CSR_AUDIENCE, lists_unread};
use common::csrs::{key_pem, pem, request};
use common::grpc::{CREATE, Identity, bearer, frame, tls};
use common::process::Serve;
use common::{csrs, grpc, process, tokens};
use frames::{DATA, END_STREAM, grpc_headers, h2_frame, tiny_fields};
use honest::Workload;
use hostile::{ALONE, Attack, Door, Raw, Seen, keep_up};
use hyper::body::Bytes;
use prost::Message;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use refused::World;

/// MiB.
const MOST: u64 = 512;
/// From here on the attack has won, and the machine is spared the rest. MiB.
const LOST: u64 = 1200;

const REFLECTION: [&str; 2] =
    ["/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"];
const HEALTH: &str = "/grpc.health.v1.Health/";

fn door(world: &World) -> Door {
    Door::new(world.serve.csr, world.tls(None))
}

/// Resident memory of a process now, and at most since the last look, MiB.
fn resident(pid: u32) -> Option<(u64, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? / 1024)
    };
    // proc(5): the peak begins anew.
    _ = std::fs::write(format!("/proc/{pid}/clear_refs"), "5");
    Some((of("VmRSS")?, of("VmHWM")?))
}

/// Watches the process for so long, and says whether it grew too large. It must not end.
async fn complaint(serve: &mut Serve, what: &str, attacks: &[Attack], time: Duration) -> Option<String> {
    let pid = serve.child().id();
    let (began, mut most, mut last) = (Instant::now(), 0, 0);
    while began.elapsed() < time && most < LOST {
        let (now, peak) = resident(pid).unwrap_or_else(|| panic!("{what}: the process ended at {last} MiB"));
        (last, most) = (now, most.max(peak));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eprintln!("{what}: at most {most} MiB, {last} MiB after {:.1?}", began.elapsed());
    for Attack { seen, .. } in attacks {
        let (held, opened, failed) = (seen.held(), seen.opened(), seen.failed());
        eprintln!("  {held} connections held of {opened} opened, {failed} failed; {} KiB on {} streams", seen.sent() / 1024, seen.asked());
        assert!(opened + failed > 0 || most >= LOST, "{what}: nobody attacked");
    }
    assert!(serve.child().try_wait().unwrap().is_none(), "{what}: the process ended");
    (most > MOST).then(|| format!("{what}: {most} MiB"))
}

/// Whoever is honest is served after it.
async fn assert_goes_on(door: Door, token: &str, what: &str) {
    let honest = Workload::new(door.from(9), token);
    let outcome = tokio::time::timeout(Duration::from_secs(20), honest.once()).await;
    assert_eq!(outcome, Ok(Ok(())), "{what}");
}

/// The same of one attack, which ends with it.
async fn complaint_of(world: &mut World, what: &str, time: Duration, attack: Attack) -> Option<String> {
    let complaint = complaint(&mut world.serve, what, slice::from_ref(&attack), time).await;
    drop(attack);
    assert_goes_on(door(world), &world.token(), what).await;
    complaint
}

fn assert_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// Row 1: questions whose answers are long, or never end, and nobody reads.
async fn answers_unread(seen: Arc<Seen>, door: Door, path: String, body: Vec<u8>, streams: u32, flags: u8) {
    let body = Arc::new(body);
    keep_up(seen.clone(), 32, 100, move |slot| {
        let (door, path, body, seen) = (door.from(2 + slot % 4), path.clone(), body.clone(), seen.clone());
        async move {
            let mut raw = Raw::open(&door).await?;
            for stream in (1..2 * streams).step_by(2) {
                raw.send(&[grpc_headers(stream, &path, &[]), h2_frame(DATA, flags, stream, &body)].concat()).await?;
                seen.count_asked();
                seen.count_sent(body.len());
            }
            seen.hold_unread(raw, Duration::from_secs(8)).await;
            Ok(())
        }
    })
    .await;
}

/// What reflection is asked, so often that a connection's window is full of it.
fn reflection_questions(streams: usize) -> Vec<u8> {
    // file_containing_symbol, field 4 of ServerReflectionRequest.
    let symbol = b"meshmint.admin.v1.Admin";
    let question = frame(&[&[0x22, symbol.len() as u8], symbol.as_slice()].concat());
    question.repeat((900 << 10) / streams / question.len())
}

/// Row 2: `total` streams of requests that never come, with as many tiny fields as fit, and as many on each connection as are let in. With a
/// token, the attacker is known on each of them.
async fn tiny_headers(seen: Arc<Seen>, door: Door, token: Option<Vec<u8>>, total: usize) {
    let (token, message) = (Arc::new(token), frame(&request().encode_to_vec()));
    keep_up(seen.clone(), 1500, 200, move |slot| {
        let (door, token, message, seen) = (door.from(2 + slot % 4), token.clone(), message.clone(), seen.clone());
        async move {
            if seen.asked() >= total {
                return std::future::pending().await;
            }
            let mut raw = Raw::open(&door).await?;
            if let Some(token) = token.as_ref() {
                raw.certificate(token, &message).await?;
            }
            // The first stream that is left puts the field into the table.
            let first = if token.is_some() { 3 } else { 1 };
            for number in 0..raw.streams {
                let stream = first + 2 * number;
                let fields = tiny_fields(stream, CREATE, 960, number == 0);
                raw.send(&fields).await?;
                seen.count_asked();
                seen.count_sent(fields.len());
            }
            seen.hold_unread(raw, Duration::from_secs(9)).await;
            Ok(())
        }
    })
    .await;
}

/// Row 3: bodies that never end on 200 connections, `sent` octets of each.
async fn endless_bodies(seen: Arc<Seen>, door: Door, token: Option<Vec<u8>>, sent: usize) {
    const STREAMS: usize = 100;
    const ANNOUNCED: u32 = 64 << 10;
    let body = Bytes::from([&[0], ANNOUNCED.to_be_bytes().as_slice(), &vec![0; sent]].concat());
    let (token, request) = (Arc::new(token), Arc::new(request()));
    keep_up(seen.clone(), 200, 200, move |slot| {
        let (door, token, request, body, seen) = (door.from(2 + slot % 4), token.clone(), request.clone(), body.clone(), seen.clone());
        async move {
            let wire = door.wire().await?;
            if let Some(token) = token.as_ref() {
                wire.try_ask(&[("authorization", token)], &request).await.map_err(io::Error::other)?;
            }
            let _held = seen.let_in();
            let mut streams = Vec::new();
            while let Ok(begun) = tokio::time::timeout(Duration::from_secs(1), wire.begin(CREATE, &[])).await
                && streams.len() < STREAMS
            {
                let (response, mut stream) = begun.map_err(io::Error::other)?;
                stream.send_data(body.clone(), false).map_err(io::Error::other)?;
                streams.push((response, stream));
                seen.count_asked();
                seen.count_sent(body.len());
            }
            tokio::time::sleep(Duration::from_secs(8)).await;
            Ok(())
        }
    })
    .await;
}

/// Row 4: handshakes with a client's chain of this size, and a question without a token, so that nobody waits for one. Kept until the server ends it.
async fn long_chains(seen: Arc<Seen>, door: Door, connections: usize) {
    let question = [grpc_headers(1, CREATE, &[]), h2_frame(DATA, END_STREAM, 1, &frame(&request().encode_to_vec()))].concat();
    let question = Arc::new(question);
    keep_up(seen.clone(), connections, 800, move |slot| {
        let (door, question, seen) = (door.from(2 + slot % 8), question.clone(), seen.clone());
        async move {
            let mut raw = Raw::open(&door).await?;
            raw.send(&question).await?;
            seen.count_sent(question.len());
            seen.hold(raw.stream).await;
            Ok(())
        }
    })
    .await;
}

/// The door for somebody with a client's chain of about this length, which nobody knows.
fn with_chain(door: &Door, roots: &str, octets: usize) -> Door {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::default();
    parameters.custom_extensions.push(CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 55_555, 1], vec![5; octets / 4 - 300]));
    let certificate = pem("CERTIFICATE", parameters.self_signed(&key).unwrap().der());
    let identity = Identity { chain: certificate.repeat(4), key: key_pem(&key) };
    Door { tls: tls(roots, Some(&identity), &[b"h2"]), ..door.clone() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads() {
    let _alone = ALONE.lock().await;
    let mut world = World::start_logging("info", "", "");
    let mut complaints = Vec::new();
    for path in REFLECTION {
        let door = door(&world);
        let attack = Attack::begin(|seen| answers_unread(seen, door, path.to_owned(), reflection_questions(95), 95, 0));
        complaints.extend(complaint_of(&mut world, &format!("1, {path}"), Duration::from_secs(3), attack).await);
    }
    for (method, streams) in [("Watch", 95), ("Check", 1000)] {
        let (door, path) = (door(&world), format!("{HEALTH}{method}"));
        let attack = Attack::begin(|seen| answers_unread(seen, door, path, frame(&[]).to_vec(), streams, END_STREAM));
        complaints.extend(complaint_of(&mut world, &format!("1, {method}"), Duration::from_secs(2), attack).await);
    }
    assert_none(&complaints);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_where_reflection_is_wanted() {
    let _alone = ALONE.lock().await;
    let mut world = World::start_logging("info", ", reflection: true", "");
    let door = door(&world);
    let attack = Attack::begin(|seen| answers_unread(seen, door, REFLECTION[0].to_owned(), reflection_questions(95), 95, 0));
    let complaint = complaint_of(&mut world, "1, with reflection", Duration::from_secs(8), attack).await;
    assert_eq!(complaint, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_fields_that_are_tiny_on_the_wire() {
    let _alone = ALONE.lock().await;
    let mut world = World::start_logging("info", "", "");
    let mut complaints = Vec::new();
    for (who, token) in [("stranger", None), ("account", Some(bearer(&world.token())))] {
        let door = door(&world);
        let attack = Attack::begin(|seen| tiny_headers(seen, door, token, 12_000));
        complaints.extend(complaint_of(&mut world, &format!("2, a {who}"), Duration::from_secs(5), attack).await);
    }
    assert_none(&complaints);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_never_end() {
    let _alone = ALONE.lock().await;
    let mut world = World::start_logging("info", "", "");
    let mut complaints = Vec::new();
    const ALL_BUT_ONE: usize = (64 << 10) - 1;
    let known = Some(bearer(&world.token()));
    let variants = [("few octets", None, 20), ("all but the last octet", None, ALL_BUT_ONE), ("the same of an account", known, ALL_BUT_ONE)];
    for (variant, token, sent) in variants {
        let door = door(&world);
        let attack = Attack::begin(|seen| endless_bodies(seen, door, token, sent));
        complaints.extend(complaint_of(&mut world, &format!("3, {variant}"), Duration::from_secs(4), attack).await);
    }
    assert_none(&complaints);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_certificates_as_long_as_tls_allows() {
    let _alone = ALONE.lock().await;
    let mut world = World::start_logging("info", "", "");
    let door = door(&world);
    assert_goes_on(with_chain(&door, &world.roots, 12 << 10), &world.token(), "4, a chain of 12 KiB").await;
    let too_long = Workload::new(with_chain(&door, &world.roots, 20 << 10), &world.token()).once().await;
    let door = with_chain(&door, &world.roots, 62_000);
    let attack = Attack::begin(|seen| long_chains(seen, door, 6000));
    // Where handshakes fail, there is no more to see; what there was at most, the system remembers.
    attack.until(Duration::from_secs(14), |seen| seen.failed() >= 500).await;
    assert_eq!(complaint_of(&mut world, "4", Duration::from_secs(1), attack).await, None);
    assert!(too_long.is_err(), "a chain of 20 KiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_that_an_operator_does_not_read_and_everything_at_once() {
    let _alone = ALONE.lock().await;
    let mut world = admin_port::World::start().await;
    world.record(1100).await;
    let (admin, csr) = (world.admin_door(), world.csr_door());
    let (viewer, workload) = (world.viewer().await, world.workload_token(CSR_AUDIENCE).await);
    let lists = |seen| lists_unread(seen, admin.clone(), viewer.clone());
    let attack = Attack::begin(lists);
    let mut complaints: Vec<_> = complaint(&mut world.serve, "12", slice::from_ref(&attack), Duration::from_secs(8)).await.into_iter().collect();
    drop(attack);
    assert_goes_on(csr.clone(), &workload, "12").await;

    let known = Some(bearer(&workload));
    let attacks = [
        Attack::begin(|seen| answers_unread(seen, csr.clone(), REFLECTION[0].to_owned(), reflection_questions(95), 95, 0)),
        Attack::begin(|seen| tiny_headers(seen, csr.clone(), known.clone(), 12_000)),
        Attack::begin(|seen| endless_bodies(seen, csr.clone(), known, (64 << 10) - 1)),
        Attack::begin(|seen| long_chains(seen, with_chain(&csr, &world.roots, 62_000), 2000)),
        Attack::begin(lists),
    ];
    complaints.extend(complaint(&mut world.serve, "1, 2, 3, 4 and 12 at once", &attacks, Duration::from_secs(12)).await);
    drop(attacks);
    assert_goes_on(csr.clone(), &workload, "all at once").await;
    assert_none(&complaints);
}
