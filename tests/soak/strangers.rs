//! The bad clients of a soak. Each misdeed has an end that the server must bring about, and none may ever get a certificate.

use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use prost::Message;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tonic::Code;

use super::mesh::{Mesh, Workload, node};
use crate::common::csrs::{request, request_for};
use crate::common::grpc::{Answer, CREATE, Wire, answer, bearer, connect_from, frame, soon, tcp_from, tls};
use crate::common::tokens::{HOUR, claims, now, with};

/// A new one each time, one after the other; ends when the last of them has.
pub(crate) async fn come(mesh: Arc<Mesh>) {
    let broken = broken_csrs();
    let (mut beat, mut under_way) = (tokio::time::interval(Duration::from_millis(100)), JoinSet::new());
    for number in 0_usize.. {
        beat.tick().await;
        while let Some(ended) = under_way.try_join_next() {
            ended.unwrap();
        }
        if !mesh.goes_on() {
            break;
        }
        let (mesh, csr) = (mesh.clone(), broken[number % broken.len()].clone());
        under_way.spawn(async move {
            let misdeed = MISDEEDS[number % MISDEEDS.len()];
            // Whose connection is refused or ended early has been dealt with as well.
            let how = misdeed_of(misdeed, &mesh, &csr).await.unwrap_or_else(|error| error.to_string());
            mesh.ended(format!("{misdeed}: {how}"));
        });
    }
    while let Some(ended) = under_way.join_next().await {
        ended.unwrap();
    }
}

const MISDEEDS: [&str; 15] = [
    "half-open",
    "half a handshake",
    "rubbish",
    "no ALPN",
    "wrong token",
    "broken CSR",
    "oversized message",
    "slow body",
    "streams reset",
    "too many streams reset",
    "idle",
    "vanished",
    "reset",
    "expired token",
    "cut off",
];

type Failure = Box<dyn Error + Send + Sync>;

/// How it ended, in a few words.
type End = Result<String, Failure>;

async fn misdeed_of(misdeed: &str, mesh: &Mesh, broken_csr: &str) -> End {
    let here = node(30);
    let workload = Workload { namespace: "bad".to_owned(), account: "bad".to_owned(), node: here };
    let good = || mesh.token(&workload, Some(666));
    match misdeed {
        "half-open" => Ok(to_the_end(tcp_from(here, mesh.csr).await?).await),
        "half a handshake" => says(mesh, here, b"\x16\x03\x01\x02\x00\x01\x00\x01").await,
        "rubbish" => says(mesh, here, &[0x41; 600]).await,
        "no ALPN" => Ok(to_the_end(connect_from(here, mesh.csr, tls(&mesh.roots, None, &[])).await?).await),
        "wrong token" => {
            let claims = with(claims("bad", "bad"), "aud", json!(["elsewhere"]));
            refused(
                wire(mesh, here).await?.try_ask(&[("authorization", &bearer(&mesh.issuer.token(&claims)))], &request()).await?,
                Code::Unauthenticated,
            )
        }
        "expired token" => {
            let claims = with(claims("bad", "bad"), "exp", json!(now() - 2 * HOUR));
            refused(
                wire(mesh, here).await?.try_ask(&[("authorization", &bearer(&mesh.issuer.token(&claims)))], &request()).await?,
                Code::Unauthenticated,
            )
        }
        "broken CSR" => {
            refused(wire(mesh, here).await?.try_ask(&[("authorization", &good())], &request_for(broken_csr)).await?, Code::InvalidArgument)
        }
        "oversized message" => {
            let body = frame(&request_for(&"A".repeat(200 << 10)).encode_to_vec());
            refused(wire(mesh, here).await?.send(CREATE, &[("authorization", &good())], body).await?, Code::InvalidArgument)
        }
        "slow body" => {
            let wire = wire(mesh, here).await?;
            let (response, mut body) = wire.begin(CREATE, &[("authorization", &good())]).await?;
            body.send_data(half(), false)?;
            refused(soon("the deadline", answer(response)).await?, Code::DeadlineExceeded)
        }
        "streams reset" | "too many streams reset" => {
            // The server bears some, and ends the connection where more wait for it than it will look at.
            let mut wire = wire(mesh, here).await?;
            for _ in 0..if misdeed == "streams reset" { 30 } else { 200 } {
                let (_, mut body) = wire.begin(CREATE, &[("authorization", &good())]).await?;
                body.send_data(half(), false)?;
                body.send_reset(h2::Reason::CANCEL);
            }
            wire.ping().await?;
            Ok("pong".to_owned())
        }
        "idle" => {
            // Never asks, and answers every ping.
            let mut wire = wire(mesh, here).await?;
            let told = soon("the end of an idle connection", &mut wire.ended).await?;
            Ok(told.map_or_else(|error| error.to_string(), |()| "told to go".to_owned()))
        }
        "vanished" => {
            // Hello, an empty SETTINGS, and then nothing that the server says is heard.
            let mut stream = connect_from(here, mesh.csr, mesh.tls.clone()).await?;
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
            Ok(to_the_end(stream).await)
        }
        "reset" => {
            // A RST in the middle of a connection that is in order.
            let stream = connect_from(here, mesh.csr, mesh.tls.clone()).await?;
            stream.get_ref().0.set_zero_linger()?;
            Wire::over(stream).await?.ended.abort();
            Ok("gone".to_owned())
        }
        "cut off" => {
            // Leaves before its answer.
            let wire = wire(mesh, here).await?;
            let (_, mut body) = wire.begin(CREATE, &[("authorization", &good())]).await?;
            body.send_data(half(), false)?;
            wire.ended.abort();
            Ok("gone".to_owned())
        }
        other => panic!("{other}"),
    }
}

/// The requests of the corpus that must be refused.
fn broken_csrs() -> Vec<String> {
    const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/refusals/csr");
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(format!("{FOLDER}/cases.json")).unwrap()).unwrap();
    let bad = cases.iter().filter(|case| case["reason"].is_string());
    bad.map(|case| std::fs::read_to_string(format!("{FOLDER}/{}", case["file"].as_str().unwrap())).unwrap()).collect()
}

async fn wire(mesh: &Mesh, source: IpAddr) -> Result<Wire, Failure> {
    Ok(Wire::over(soon("handshake", connect_from(source, mesh.csr, mesh.tls.clone())).await?).await?)
}

fn half() -> Bytes {
    frame(&request().encode_to_vec()).slice(..20)
}

/// A refusal is what it must be, or the server's word that it has too much to do.
fn refused(answer: Answer, expected: Code) -> End {
    let code = answer.status.code();
    assert!(code == expected || code == Code::ResourceExhausted, "expected {expected:?}: {:?}", answer.status);
    Ok(format!("{code:?}"))
}

/// Says this over TCP, and nothing more.
async fn says(mesh: &Mesh, source: IpAddr, words: &[u8]) -> End {
    let mut stream = tcp_from(source, mesh.csr).await?;
    stream.write_all(words).await?;
    Ok(to_the_end(stream).await)
}

/// Waits until the server has ended the connection.
async fn to_the_end(mut stream: impl AsyncRead + Unpin) -> String {
    let ended = soon("the end of a connection", stream.read_to_end(&mut Vec::new())).await;
    ended.map_or_else(|error| error.kind().to_string(), |_| "closed".to_owned())
}
