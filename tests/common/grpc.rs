//! A gRPC client that can be wrong in every way: it writes headers, frames and messages as a test says, over HTTP/2 and TLS.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "every suite uses its own part")]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use h2::client::{ResponseFuture, SendRequest};
use h2::{Ping, PingPong, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request};
use hyper::body::Bytes;
use meshmint::server::proto::istio::{IstioCertificateRequest, IstioCertificateResponse};
use prost::Message;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::{Code, Status};

/// The method that everything is about.
pub const CREATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// How long a client waits for anything before it says that the server hangs.
pub const LONG: Duration = Duration::from_secs(60);

/// A certificate chain and its key, both PEM.
#[derive(Clone)]
pub struct Identity {
    pub chain: String,
    pub key: String,
}

/// TLS as Istio's clients do it: the roots as they were given out, and a client certificate where there is one.
pub fn tls(roots: &str, client: Option<&Identity>, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let mut store = RootCertStore::empty();
    CertificateDer::pem_slice_iter(roots.as_bytes()).for_each(|root| store.add(root.unwrap()).unwrap());
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(store);
    let mut config = match client {
        None => builder.with_no_client_auth(),
        Some(Identity { chain, key }) => {
            let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().unwrap();
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// Only TLS, for clients that write their own HTTP/2.
pub async fn connect(address: SocketAddr, config: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(config).connect("localhost".try_into().unwrap(), stream).await
}

/// The same from another address of this machine, so that limits for each address see another node.
pub async fn connect_from(source: IpAddr, address: SocketAddr, config: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = tcp_from(source, address).await?;
    TlsConnector::from(config).connect("localhost".try_into().unwrap(), stream).await
}

/// Only TCP.
pub async fn tcp_from(source: IpAddr, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((source, 0).into())?;
    // As Go's and tonic's clients have it: no second write waits for the first one's acknowledgement.
    socket.set_nodelay(true)?;
    socket.connect(address).await
}

/// Ends the test where the server hangs.
pub async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, work).await.unwrap_or_else(|_| panic!("the server hangs: {what}"))
}

/// One HTTP/2 connection.
pub struct Wire {
    sender: SendRequest<Bytes>,
    pings: PingPong,
    /// Ends with the connection, and with what ended it.
    pub ended: JoinHandle<Result<(), h2::Error>>,
}

/// What a request was answered with.
#[derive(Debug)]
pub struct Answer {
    pub status: Status,
    /// The message, without its frame.
    pub message: Bytes,
    pub headers: HeaderMap,
}

impl Wire {
    /// Connects, and says hello in HTTP/2.
    pub async fn open(address: SocketAddr, config: Arc<ClientConfig>) -> Self {
        let stream = soon("handshake", connect(address, config)).await.unwrap();
        Self::over(stream).await.unwrap()
    }

    /// HTTP/2 over a connection that is there.
    pub async fn over(stream: TlsStream<TcpStream>) -> Result<Self, h2::Error> {
        let (sender, mut connection) = h2::client::handshake(stream).await?;
        let pings = connection.ping_pong().unwrap();
        Ok(Self { sender, pings, ended: tokio::spawn(connection) })
    }

    /// Whether another request may be sent: not after the server has told this connection to go away.
    pub async fn takes_more(&self) -> bool {
        self.sender.clone().ready().await.is_ok()
    }

    /// Sends headers; the body is for the caller to send.
    pub async fn begin(&self, path: &str, headers: &[(&str, &[u8])]) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let mut request = Request::post(format!("https://localhost{path}")).header("content-type", "application/grpc").header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, HeaderValue::from_bytes(value).unwrap());
        }
        self.sender.clone().ready().await?.send_request(request.body(()).unwrap(), false)
    }

    /// Sends a whole request, and waits for its answer. The bytes are the body as it goes over the wire.
    pub async fn send(&self, path: &str, headers: &[(&str, &[u8])], body: Bytes) -> Result<Answer, h2::Error> {
        let (response, mut stream) = self.begin(path, headers).await?;
        // The server may have answered and closed the stream already, which the answer then says.
        _ = stream.send_data(body, true);
        soon(path, answer(response)).await
    }

    /// One request to the CSR API that HTTP/2 doesn't refuse.
    pub async fn ask(&self, headers: &[(&str, &[u8])], request: &IstioCertificateRequest) -> Answer {
        self.try_ask(headers, request).await.unwrap()
    }

    /// The same where the connection may end.
    pub async fn try_ask(&self, headers: &[(&str, &[u8])], request: &IstioCertificateRequest) -> Result<Answer, h2::Error> {
        self.send(CREATE, headers, frame(&request.encode_to_vec())).await
    }

    /// A ping, and its answer.
    pub async fn ping(&mut self) -> Result<(), h2::Error> {
        soon("ping", self.pings.ping(Ping::opaque())).await.map(|_| ())
    }

    /// Ends once the server has told this connection to go away.
    pub async fn told_to_go(&self) -> h2::Error {
        let mut sender = self.sender.clone();
        let told = async {
            loop {
                match sender.ready().await {
                    Ok(ready) => sender = ready,
                    Err(error) => return error,
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        soon("GOAWAY", told).await
    }
}

/// The answer of a request that was begun.
pub async fn answer(response: ResponseFuture) -> Result<Answer, h2::Error> {
    let (parts, mut body) = response.await?.into_parts();
    let message = read(&mut body).await?;
    let trailers = body.trailers().await?;
    let status = trailers.as_ref().and_then(Status::from_header_map).or_else(|| Status::from_header_map(&parts.headers));
    let status = status.unwrap_or_else(|| panic!("no grpc-status: HTTP {}", parts.status));
    Ok(Answer { status, message: message.slice(message.len().min(5)..), headers: parts.headers })
}

async fn read(body: &mut RecvStream) -> Result<Bytes, h2::Error> {
    let mut all = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        all.extend_from_slice(&chunk);
    }
    Ok(all.into())
}

/// A message with gRPC's prefix: not compressed, and its length.
pub fn frame(message: &[u8]) -> Bytes {
    [&[0], u32::try_from(message.len()).unwrap().to_be_bytes().as_slice(), message].concat().into()
}

/// `authorization: Bearer TOKEN`.
pub fn bearer(token: &str) -> Vec<u8> {
    format!("Bearer {token}").into_bytes()
}

impl Answer {
    /// The chain of an answer that went well.
    pub fn chain(&self) -> Vec<String> {
        assert_eq!(self.status.code(), Code::Ok, "{}", self.status.message());
        IstioCertificateResponse::decode(self.message.clone()).unwrap().cert_chain
    }
}
