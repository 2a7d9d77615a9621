//! The admin API on a TLS port: our serving certificate, and every request through the gate (`gate.rs`). Off unless `admin.listen` says where.
//!
//! Whoever can reach the port is a stranger until a token of his was good. Strangers hold few connections, one address only a part of those, and not
//! for long, so that an operator always finds a place.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use super::super::metrics::Metrics;
use super::super::operations::Directory;
use super::super::proto::admin::admin_server::AdminServer;
use super::super::tls::{ALPN_H2, CurrentTls};
use super::AdminApi;
use super::door::{ANSWER_TIME, MAX_QUESTION_BYTES, MAX_QUESTIONS, MAX_STREAMS};
use super::gate::{Gate, Guarding};
use super::peer::Peer;
use crate::clock::{Clock, Sleep, within};
use crate::issuance::fair_queue::{FairQueue, Limits};

/// Connections at once; more are closed.
const MAX_CONNECTIONS: usize = 128;
/// Of these, strangers; and of one address.
const STRANGERS: Limits = Limits { slots: 32, slots_per_key: 8, waiting: 32, patience: Duration::from_secs(5) };
/// How long a handshake may take, and how long somebody may stay a stranger after it.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
const STRANGER_TIME: Duration = Duration::from_secs(20);
/// A token costs 1 to 2 KiB of it.
const MAX_HEADER_BYTES: u32 = 32 * 1024;
/// Age at which a connection is told to go away, and how long its last answers may take then.
const CONNECTION_AGE: Duration = Duration::from_secs(30 * 60);
const LAST_ANSWERS: Duration = Duration::from_secs(30);
/// A connection that is silent for so long is pinged, and dropped where nobody answers.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// The pause where the system gives no more sockets.
const NO_SOCKET_PAUSE: Duration = Duration::from_millis(50);

/// The door.
#[derive(Debug)]
pub(in crate::server) struct NetworkDoor {
    tls: CurrentTls,
    gate: Arc<Gate>,
    clock: Arc<dyn Clock>,
}

impl NetworkDoor {
    pub(in crate::server) fn new(tls: CurrentTls, directory: Arc<dyn Directory>, metrics: Arc<Metrics>, clock: Arc<dyn Clock>) -> Self {
        Self { tls, gate: Gate::new(directory, metrics, clock.clone()), clock }
    }

    /// Answers until `shutdown` ends.
    pub(in crate::server) async fn serve(self, socket: TcpListener, api: Arc<AdminApi>, shutdown: impl Future<Output = ()>) {
        let (send, incoming) = mpsc::channel::<io::Result<Visitor>>(1);
        let accepting = tokio::spawn(accept(socket, self.tls, self.clock, send));
        let served = tonic::transport::Server::builder()
            .timeout(ANSWER_TIME)
            .concurrency_limit_per_connection(MAX_QUESTIONS)
            .max_concurrent_streams(MAX_STREAMS)
            .http2_max_header_list_size(MAX_HEADER_BYTES)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .max_connection_age(CONNECTION_AGE)
            .max_connection_age_grace(LAST_ANSWERS)
            .layer(Guarding(self.gate))
            .add_service(AdminServer::from_arc(api).max_decoding_message_size(MAX_QUESTION_BYTES))
            .serve_with_incoming_shutdown(ReceiverStream::new(incoming), shutdown)
            .await;
        accepting.abort();
        if let Err(error) = served {
            tracing::error!(%error, "the admin port closed");
        }
    }
}

/// Accepts; each handshake is a task of its own, so that a slow one holds up nobody.
async fn accept(socket: TcpListener, tls: CurrentTls, clock: Arc<dyn Clock>, send: mpsc::Sender<io::Result<Visitor>>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let strangers = FairQueue::new(STRANGERS, clock.clone());
    loop {
        let Ok((stream, peer)) = socket.accept().await else {
            clock.sleep_until(clock.monotonic() + NO_SOCKET_PAUSE).await;
            continue;
        };
        // Dropping the stream closes it.
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let (tls, clock, send, strangers) = (tls.load_full(), clock.clone(), send.clone(), strangers.clone());
        tokio::spawn(async move {
            let Ok(stranger) = strangers.enter(peer.ip()).await else { return };
            let handshake = within(clock.as_ref(), HANDSHAKE_TIME, TlsAcceptor::from(tls).accept(stream)).await;
            let Some(Ok(stream)) = handshake else {
                tracing::debug!(%peer, "no handshake on the admin port");
                return;
            };
            if stream.get_ref().1.alpn_protocol() != Some(ALPN_H2) {
                return;
            }
            let peer = Peer::stranger(peer, stranger);
            let end = peer.has_to_go(clock.sleep_until(clock.monotonic() + STRANGER_TIME));
            let visitor = Visitor { stream, peer, end: Some(end), over: false, _place: place };
            // Where nobody takes it, the server is going down.
            let _ = send.send(Ok(visitor)).await;
        });
    }
}

/// A connection, which breaks off where its peer stays a stranger for too long.
struct Visitor {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    /// When a stranger has to go; `None` once that was decided.
    end: Option<Sleep>,
    /// He stayed one.
    over: bool,
    _place: OwnedSemaphorePermit,
}

impl Visitor {
    /// Whether he has to go now. Whoever reads is woken when it is time.
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        if let Some(end) = &mut self.end
            && end.as_mut().poll(context).is_ready()
        {
            self.end = None;
            self.over = !self.peer.is_known();
        }
        self.over
    }
}

impl Connected for Visitor {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Visitor {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_over(context) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no good token in time")));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Visitor {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
