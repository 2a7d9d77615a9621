//! Below the requests: strangers who speak something else, slowly, too much of it, or not at all. Each case says what the client
//! sees and what is counted; and the server answers the next good request.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/api.rs"]
mod common;
#[path = "common/records.rs"]
mod records;

use common::csrs::request;
use common::frames::{goaway, h2_frame, headers, hello};
use common::grpc::{CREATE, Wire, bearer, connect, connect_from, frame, soon, tls};
use common::process::wait_for;
use common::refused::World;
use prost::Message;
use records::{HANDSHAKE, Records, with_keys};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const FAILED: &str = r#"meshmint_handshakes_total{result="failed"}"#;

fn closed(reason: &str) -> String {
    format!("meshmint_connections_closed_total{{reason=\"{reason}\"}}")
}

/// Everything until the server closes; a reset is as good as an end.
async fn to_the_end(mut stream: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut all = Vec::new();
    _ = soon("close", stream.read_to_end(&mut all)).await;
    all
}

fn wait_for_metric(world: &World, name: &str, value: f64) {
    wait_for(&format!("{name} {value}"), || (world.metric(name) >= value).then_some(()));
    assert_eq!(world.metric(name), value, "{name}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_speak_something_else() {
    let world = World::start("", "");
    let tls_then_rubbish = [b"\x16\x03\x01\x02\x00".as_slice(), &[0x41; 512]].concat();
    let cases: [&[u8]; 5] = [b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n", &hello(), &[0; 4096], &[0xff; 4096], &tls_then_rubbish];
    for (count, bytes) in cases.into_iter().enumerate() {
        let mut stream = TcpStream::connect(world.serve.csr).await.unwrap();
        // The server may have closed before the last byte.
        _ = stream.write_all(bytes).await;
        let heard = to_the_end(stream).await;
        assert!(heard.is_empty() || heard[0] == 0x15, "nothing but a TLS alert: {heard:?}");
        wait_for_metric(&world, FAILED, (count + 1) as f64);
    }
    // TLS with other protocols ends in an alert, TLS with none at all is closed after the handshake.
    connect(world.serve.csr, tls(&world.roots, None, &[b"http/1.1"])).await.unwrap_err();
    wait_for_metric(&world, FAILED, 6.0);
    let stream = connect(world.serve.csr, tls(&world.roots, None, &[])).await.unwrap();
    assert!(to_the_end(stream).await.is_empty());
    wait_for_metric(&world, &closed("no_alpn_h2"), 1.0);
    // TLS, h2, and then no HTTP/2.
    let mut stream = connect(world.serve.csr, world.tls(None)).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    to_the_end(stream).await;
    wait_for_metric(&world, &closed("broken"), 1.0);
    world.goes_on().await;
    wait_for("nothing is left open", || (world.metric("meshmint_connections") == 0.0).then_some(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_take_too_long_are_cut_off() {
    let world = World::start(", handshakeTimeout: 1s", "");
    let silent = TcpStream::connect(world.serve.csr).await.unwrap();
    let mut hesitant = TcpStream::connect(world.serve.csr).await.unwrap();
    hesitant.write_all(b"\x16\x03\x01\x02\x00\x01\x00").await.unwrap();
    assert!(to_the_end(silent).await.is_empty());
    assert!(to_the_end(hesitant).await.is_empty());
    wait_for_metric(&world, r#"meshmint_handshakes_total{result="timeout"}"#, 2.0);
    world.goes_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_vanished_is_noticed() {
    let world = World::start(", keepaliveInterval: 1s", "");
    let mut stream = connect(world.serve.csr, world.tls(None)).await.unwrap();
    // It says hello, begins a request, and then never answers anything: no ACK, no PING.
    stream.write_all(&[hello(), headers(1)].concat()).await.unwrap();
    wait_for_metric(&world, "meshmint_connections", 1.0);
    wait_for_metric(&world, &closed("broken"), 1.0);
    to_the_end(stream).await;
    assert_eq!(world.metric("meshmint_connections"), 0.0);
    world.goes_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_resets_ends_the_connection() {
    let world = World::start("", "");
    let other = world.wire(None).await;
    let mut stream = connect(world.serve.csr, world.tls(None)).await.unwrap();
    let mut storm = hello();
    for stream in (1..20_001).step_by(2) {
        storm.extend(headers(stream));
        storm.extend(h2_frame(3, 0, stream, &8_u32.to_be_bytes()));
    }
    // The server stops reading somewhere on the way.
    _ = soon("writing", stream.write_all(&storm)).await;
    let heard = to_the_end(stream).await;
    assert!(matches!(goaway(&heard), None | Some(0xb)), "ENHANCE_YOUR_CALM, where it still arrives: {:?}", goaway(&heard));
    let accepted =
        world.metrics().into_iter().filter(|(name, _)| name.starts_with("grpc_server_started_total{")).map(|(_, count)| count).sum::<f64>();
    assert!(accepted <= 150.0, "hardly any of the 10,000 cost a request: {accepted}");
    wait_for_metric(&world, &closed("broken"), 1.0);
    let token = bearer(&world.token());
    assert_eq!(other.ask(&[("authorization", &token)], &request()).await.chain().len(), 3, "other connections don't notice");
    world.goes_on().await;
    assert_eq!(world.metric("meshmint_panics_total"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_headers_fail_their_stream_or_connection() {
    let world = World::start("", "");
    let leaves = world.leaves();
    let body = frame(&request().encode_to_vec());
    let token = bearer(&world.token());
    let ask = async |size: usize| {
        let wire = world.wire(None).await;
        let (response, mut stream) = wire.begin(CREATE, &[("authorization", &token), ("x-filler", &vec![b'a'; size])]).await.unwrap();
        // The server may be gone already.
        _ = stream.send_data(body.clone(), true);
        soon("an answer", response).await
    };
    assert_eq!(ask(40 << 10).await.unwrap().status(), http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    ask(1 << 20).await.unwrap_err();
    wait_for_metric(&world, &closed("broken"), 1.0);
    assert_eq!(world.leaves(), leaves);
    world.goes_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_reset_under_way_leave_nothing_behind() {
    let world = World::start("", "");
    let leaves = world.leaves();
    let (wire, token) = (world.wire(None).await, bearer(&world.token()));
    let half = frame(&request().encode_to_vec()).slice(..20);
    for _ in 0..2000 {
        // A connection that was closed for it is as good as one that bore it.
        let Ok((_, mut stream)) = wire.begin(CREATE, &[("authorization", &token)]).await else { break };
        _ = stream.send_data(half.clone(), false);
        stream.send_reset(h2::Reason::CANCEL);
    }
    drop(wire);
    wait_for("the end of the connection", || (world.metric("meshmint_connections") == 0.0).then_some(()));
    assert_eq!((world.leaves(), world.metric("meshmint_panics_total")), (leaves, 0.0));
    world.goes_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_takes_the_oldest_strangers_place() {
    let world = World::start(", maxConnections: 4, maxHandshakes: 4", "");
    let token = bearer(&world.token());
    let known = [world.wire(None).await, world.wire(None).await];
    for wire in &known {
        assert_eq!(wire.ask(&[("authorization", &token)], &request()).await.chain().len(), 3);
    }
    let oldest = TcpStream::connect(world.serve.csr).await.unwrap();
    wait_for_metric(&world, r#"meshmint_places_taken{of="strangers"}"#, 1.0);
    let second = world.wire(None).await;
    assert!(to_the_end(TcpStream::connect(world.serve.csr).await.unwrap()).await.is_empty(), "they are of its own address, and have just come");
    wait_for_metric(&world, &closed("too_many_connections"), 1.0);
    let from = async |host: u8| {
        let stream = connect_from([127, 0, 0, host].into(), world.serve.csr, world.tls(None)).await.unwrap();
        Wire::over(stream).await.unwrap()
    };
    let newcomer = from(2).await;
    assert!(to_the_end(oldest).await.is_empty(), "who says nothing goes first");
    wait_for_metric(&world, &closed("made_room"), 1.0);
    let another = from(3).await;
    let ended = soon("the end of the next one", second.ended).await.unwrap();
    assert!(ended.as_ref().err().is_none_or(h2::Error::is_io), "told to go: {ended:?}");
    for wire in known.iter().chain([&newcomer, &another]) {
        assert_eq!(wire.ask(&[("authorization", &token)], &request()).await.chain().len(), 3, "strangers keep nobody else out");
    }
    // Four are known now, all of one account, and nobody is a stranger.
    let stranger = world.wire(None).await;
    let [first, _] = known;
    assert!(first.told_to_go().await.is_go_away());
    assert_eq!(stranger.ask(&[("authorization", &token)], &request()).await.chain().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_nothing_holds_no_handshake() {
    let world = World::start(", maxHandshakes: 1, handshakeQueueTime: 1s", "");
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(world.serve.csr).await.unwrap());
        let mut hesitant = TcpStream::connect(world.serve.csr).await.unwrap();
        hesitant.write_all(b"\x16\x03\x01\x02\x00\x01\x00").await.unwrap();
        silent.push(hesitant);
    }
    wait_for_metric(&world, r#"meshmint_places_taken{of="strangers"}"#, 40.0);
    assert_eq!(world.metric(r#"meshmint_places_taken{of="handshakes"}"#), 0.0);
    world.goes_on().await;
    assert_eq!(world.metric(&closed("too_many_handshakes")), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_cost_a_peer_nothing_are_read_late() {
    let world = World::start("", "");
    let mut stream = connect(world.serve.csr, world.tls(None)).await.unwrap();
    let ping = h2_frame(6, 0, 0, &[7; 8]);
    let flood = [hello(), ping.repeat(20_000)].concat();
    // The server stops reading, so the rest waits in the peer.
    let written = tokio::time::timeout(std::time::Duration::from_secs(3), stream.write_all(&flood)).await;
    let mut heard = Vec::new();
    _ = tokio::time::timeout(std::time::Duration::from_millis(100), stream.read_to_end(&mut heard)).await;
    let answered = heard.windows(5).filter(|head| *head == [0, 0, 8, 6, 1]).count();
    assert!(answered < 5_000, "{answered} of 20,000 pings were answered; written: {written:?}");
    world.goes_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_messages_that_never_end_count_as_bytes() {
    const BYTES: &str = r#"meshmint_places_taken{of="bytes"}"#;
    let world = World::start("", "");
    let tls = with_keys(&world.tls(None));
    // Once the server has said something, its half of the handshake is over.
    let established = async || {
        let mut stream = connect(world.serve.csr, tls.clone()).await.unwrap();
        stream.write_all(&hello()).await.unwrap();
        stream.read_u8().await.unwrap();
        Records::of(stream)
    };
    // A record whose last part never comes.
    let (mut socket, mut records) = established().await;
    let record = records.seal(HANDSHAKE, &[0; 15_000]);
    socket.write_all(&record[..14_000]).await.unwrap();
    wait_for("its bytes count", || (world.metric(BYTES) >= 9_000.0).then_some(()));
    drop(socket);
    wait_for("they are given back", || (world.metric(BYTES) == 0.0).then_some(()));
    // A message of 60 KiB, in records that are whole: the head of a KeyUpdate (RFC 8446 section 4.6.3) that announces it.
    let (mut socket, mut records) = established().await;
    let message = [[24, 0, 0xf0, 0].as_slice(), [0; 4_000].as_slice()].concat();
    socket.write_all(&records.seal(HANDSHAKE, &message)).await.unwrap();
    for _ in 0..9 {
        socket.write_all(&records.seal(HANDSHAKE, &[0; 4_000])).await.unwrap();
    }
    // Of 40,000; a first read of 4 KiB is part of what every connection costs.
    wait_for("they count too", || (world.metric(BYTES) >= 36_000.0).then_some(()));
    drop(socket);
    wait_for("its bytes are given back", || (world.metric(BYTES) == 0.0).then_some(()));
    world.goes_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_nothing_does_not_hold_up_the_end() {
    let world = World::start(", drainTimeout: 60s, handshakeTimeout: 60s", "");
    let _silent = TcpStream::connect(world.serve.csr).await.unwrap();
    let mut deaf = connect(world.serve.csr, world.tls(None)).await.unwrap();
    deaf.write_all(&hello()).await.unwrap();
    wait_for("both are there", || (world.metric(r#"meshmint_places_taken{of="connections"}"#) >= 2.0).then_some(()));
    let began = std::time::Instant::now();
    assert_eq!(world.serve.terminate().0, Some(0));
    assert!(began.elapsed() < std::time::Duration::from_secs(30), "nobody waits for a minute");
}
