//! Limits of requests and of connections in time: too many at once, too slow, too old; and our own trouble.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/api.rs"]
mod common;

use std::time::Duration;

use common::csrs::request;
use common::grpc::{Answer, CREATE, answer, bearer, frame, soon};
use common::refused::{Refused, UNAVAILABLE_SENTENCE, World};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use h2::client::ResponseFuture;
use h2::{Reason, SendStream};
use hyper::body::Bytes;
use prost::Message;
use rusqlite::Connection;
use tonic::Code;
use tonic_types::StatusExt;

/// Somebody else holds the ledger's write lock for as long as this lives.
fn lock(world: &World) -> Connection {
    let ledger = Connection::open(world.path("ledger.db")).unwrap();
    ledger.busy_timeout(Duration::from_secs(30)).unwrap();
    ledger.execute_batch("BEGIN IMMEDIATE").unwrap();
    ledger
}

#[tokio::test]
async fn more_requests_than_allowed_are_told_when_to_come_back() {
    let world = World::start(", maxConcurrentStreams: 4, maxInFlight: 4", "");
    let (one, other) = (world.wire(None).await, world.wire(None).await);
    let token = bearer(&world.token());
    let headers: &[(&str, &[u8])] = &[("authorization", &token)];
    let leaves = world.leaves();
    let locked = lock(&world);
    // Four wait for the ledger; whoever comes then is told at once.
    let requests: Vec<_> = (0..6).map(|_| request()).collect();
    let mut asked: FuturesUnordered<_> =
        requests.iter().enumerate().map(|(index, request)| if index < 3 { one.ask(headers, request) } else { other.ask(headers, request) }).collect();
    for _ in 0..2 {
        let Answer { status, .. } = soon("a refusal", asked.next()).await.unwrap();
        assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "too many requests are in progress; try again"));
        let delay = status.get_details_retry_info().unwrap().retry_delay.unwrap();
        assert_eq!(delay, Duration::from_secs(1));
    }
    assert_eq!(world.metric(r#"meshmint_refusals_total{code="ResourceExhausted",reason="overloaded"}"#), 2.0);
    drop(locked);
    for _ in 0..4 {
        assert_eq!(soon("an answer", asked.next()).await.unwrap().chain().len(), 3);
    }
    assert_eq!(world.leaves() - leaves, 4);
    world.goes_on().await;
}

#[tokio::test]
async fn a_closed_line_refuses_from_the_headers_and_counts_each_request_once() {
    let world = World::start(", queueTime: 1s, maxConcurrentStreams: 1000", "");
    let (one, other) = (world.wire(None).await, world.wire(None).await);
    let token = bearer(&world.token());
    let headers: &[(&str, &[u8])] = &[("authorization", &token)];
    let (received, refused) = ("citadel_server_csr_count", r#"meshmint_refusals_total{code="ResourceExhausted",reason="overloaded"}"#);
    let request = request();
    // Of a stranger only a few requests are worked on at once.
    assert_eq!(one.ask(headers, &request).await.chain().len(), 3);
    let before = world.metric(received);
    let locked = lock(&world);
    // As many as wait for the ledger and hold a turn; whoever comes after them stands in line, until the first has stood there too long.
    let threads = std::thread::available_parallelism().unwrap().get();
    let mut asked: FuturesUnordered<_> = (0..66 * threads).map(|_| one.ask(headers, &request)).collect();
    let closed = async {
        loop {
            asked.push(one.ask(headers, &request));
            if let Ok(Some(Answer { status, .. })) = tokio::time::timeout(Duration::from_millis(50), asked.next()).await {
                break status.code();
            }
        }
    };
    assert_eq!(soon("a refusal", closed).await, Code::ResourceExhausted);
    // Nothing of the message is sent, and the answer is there.
    let (response, body) = other.begin(CREATE, headers).await.unwrap();
    let Answer { status, .. } = soon("the refusal of headers", answer(response)).await.unwrap();
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "too many requests are in progress; try again"));
    assert_eq!(status.get_details_retry_info().unwrap().retry_delay.unwrap(), Duration::from_secs(1));
    drop((body, locked));
    let sent = asked.len() + 2;
    let mut turned_away = 2;
    while let Some(answer) = soon("an answer", asked.next()).await {
        turned_away += u32::from(answer.status.code() == Code::ResourceExhausted);
    }
    assert_eq!(world.metric(received) - before, sent as f64);
    assert_eq!(world.metric(refused), f64::from(turned_away));
    world.goes_on().await;
}

#[tokio::test]
async fn a_ledger_that_can_not_be_written_is_our_trouble() {
    let world = World::start("", "");
    let wire = world.wire(None).await;
    let token = bearer(&world.token());
    let locked = lock(&world);
    let expected = Refused { code: Code::Unavailable, reason: "ledger_unavailable", sentence: UNAVAILABLE_SENTENCE, counter: None };
    world.assert_refused("locked ledger", &expected, wire.ask(&[("authorization", &token)], &request())).await;
    assert_eq!(world.metric(r#"citadel_server_csr_sign_err_count{error="ledger_unavailable"}"#), 1.0);
    drop(locked);
    world.goes_on().await;
}

#[tokio::test]
async fn a_request_that_never_ends_meets_its_deadline() {
    let world = World::start(", requestTimeout: 1s", "");
    let wire = world.wire(None).await;
    let token = bearer(&world.token());
    let message = frame(&request().encode_to_vec());
    let sentence = "the request took longer than the server allows; try again";
    let expected = Refused { code: Code::DeadlineExceeded, reason: "deadline", sentence, counter: None };
    for length in [0, 3, message.len() / 2, message.len() - 1] {
        let slow = async {
            let (response, mut body) = wire.begin(CREATE, &[("authorization", &token)]).await.unwrap();
            body.send_data(message.slice(..length), false).unwrap();
            let answered = soon("the deadline", answer(response)).await.unwrap();
            drop(body);
            answered
        };
        world.assert_refused(&format!("{length} bytes"), &expected, slow).await;
    }
    let leaves = world.leaves();
    assert_eq!(wire.ask(&[("authorization", &token)], &request()).await.chain().len(), 3, "the connection goes on");
    assert_eq!(world.leaves(), leaves + 1);
}

#[tokio::test]
async fn an_old_connection_is_told_to_go_and_loses_nothing() {
    let world = World::start(", connectionMaxAge: 3s", "");
    let token = bearer(&world.token());
    let headers: &[(&str, &[u8])] = &[("authorization", &token)];
    let message = frame(&request().encode_to_vec());
    let wire = world.wire(None).await;
    // Half of it is sent, the connection is told to go, and then comes the rest.
    let (response, mut body) = wire.begin(CREATE, headers).await.unwrap();
    body.send_data(message.slice(..7), false).unwrap();
    let told = wire.told_to_go().await;
    assert!(told.is_go_away() && told.is_remote() && told.reason() == Some(h2::Reason::NO_ERROR), "{told:?}");
    body.send_data(message.slice(7..), true).unwrap();
    assert_eq!(soon("the answer", answer(response)).await.unwrap().chain().len(), 3);
    // Our client may still have been acknowledging something when the server closed.
    let ended = soon("the end", wire.ended).await.unwrap();
    assert!(ended.as_ref().err().is_none_or(h2::Error::is_io), "{ended:?}");
    world.goes_on().await;
    assert_eq!(world.metric(r#"meshmint_connections_closed_total{reason="age"}"#), 1.0);
    assert_eq!(world.metric(r#"meshmint_connections_closed_total{reason="cut_off"}"#), 0.0);
}

#[tokio::test]
async fn a_stranger_has_few_streams_until_its_first_certificate() {
    let world = World::start("", "");
    let wire = world.wire(None).await;
    let token = bearer(&world.token());
    let headers: &[(&str, &[u8])] = &[("authorization", &token)];
    let finish = async |(response, mut body): (ResponseFuture, SendStream<Bytes>)| {
        body.send_data(frame(&request().encode_to_vec()), true).unwrap();
        soon("an answer", answer(response)).await.unwrap().chain().len()
    };
    let mut begun = Vec::new();
    for _ in 0..16 {
        begun.push(wire.begin(CREATE, headers).await.unwrap());
    }
    let (response, _body) = wire.begin(CREATE, headers).await.unwrap();
    let refused = soon("a reset", response).await.unwrap_err();
    assert_eq!(refused.reason(), Some(Reason::REFUSED_STREAM), "it may be sent again");
    assert_eq!(finish(begun.pop().unwrap()).await, 3);
    // Now it is known: as many as it was told.
    for _ in 0..84 {
        begun.push(wire.begin(CREATE, headers).await.unwrap());
    }
    for unfinished in begun {
        assert_eq!(finish(unfinished).await, 3);
    }
}

#[tokio::test]
async fn pings_are_answered() {
    let world = World::start("", "");
    let mut wire = world.wire(None).await;
    let token = bearer(&world.token());
    for _ in 0..100 {
        wire.ping().await.unwrap();
    }
    assert_eq!(wire.ask(&[("authorization", &token)], &request()).await.chain().len(), 3);
}
