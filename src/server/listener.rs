//! The accept loop of the CSR port. Everything that a stranger may cost is bounded here, before anybody knows who it is:
//! connections, handshakes in progress (and one address's share of them), their time, streams, headers, and a connection's age.
//!
//! A new connection waits in a queue, fair by address, until it is worked on, and is worked on until its first answer: what was begun is
//! finished before more is begun, so that in a herd nobody's handshake is paid for in vain.

use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::connection::{Connection, Milestones};
use super::gather::Gather;
use super::guard::Guard;
use super::metrics::{Metrics, Place};
use super::paced::Paced;
use super::services::Services;
use super::tls::{ALPN_H2, CurrentTls};
use crate::clock::{Clock, Entropy, fraction, within};
use crate::issuance::fair_queue::{FairQueue, Limits, Slot};
use crate::issuance::{Admission, PresentedCertificate};

/// The bounds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Connections that are open at once, handshakes included.
    pub(super) connections: usize,
    /// New connections that are worked on at once, from the handshake to the first answer.
    pub(super) handshakes: usize,
    /// The same of one address.
    pub(super) handshakes_per_address: usize,
    /// A handshake that takes longer is cut off.
    pub(super) handshake_time: Duration,
    /// How long a new connection waits for its handshake at most.
    pub(super) handshake_queue_time: Duration,
    /// After this age (a tenth more or less) a connection is told to go away, so that replicas share the load.
    pub(super) connection_age: Duration,
    /// How long requests that are under way may take to finish after that, or at shutdown.
    pub(super) drain_time: Duration,
    /// Requests on one connection at once.
    pub(super) streams: u32,
    /// A connection that is silent for this long is pinged, and dropped where nobody answers.
    pub(super) keepalive: Duration,
}

/// Request headers beyond this fail their stream; a token has about 1 KiB, up to 12 where somebody tries.
const MAX_HEADER_BYTES: u32 = 32 * 1024;
/// Streams that a peer may open and reset before we answered (CVE-2023-44487) until its connection is closed.
const MAX_PENDING_RESETS: usize = 50;
/// Strangers (connections on which nobody has got a certificate yet) may hold this part of all connections, so that they can't keep known callers out.
const STRANGERS_SHARE: usize = 2;
/// A stranger is told to go away after this time.
const STRANGER_TIME: Duration = Duration::from_secs(30);
/// How long a new connection is worked on after its handshake at most: who doesn't ask by then isn't in a hurry.
const FIRST_ANSWER_TIME: Duration = Duration::from_secs(1);
/// Connections that the kernel keeps for us before we accept them: a whole mesh that restarts arrives at once.
const BACKLOG: u32 = 4096;
/// The pause where the system gives no more sockets: something must end first.
const NO_SOCKET_PAUSE: Duration = Duration::from_millis(50);

/// Serves the CSR port.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) tls: CurrentTls,
    pub(super) services: Services,
    pub(super) guard: Guard,
    pub(super) bounds: Bounds,
    pub(super) admission: Arc<Admission>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
}

impl Listener {
    /// Accepts until `shutdown` turns true, then tells every connection to go away and waits for requests that are under way.
    pub(super) async fn serve(self, socket: TcpListener, mut shutdown: watch::Receiver<bool>) {
        let this = Arc::new(self);
        let connections = Arc::new(Semaphore::new(this.bounds.connections));
        let strangers = Arc::new(Semaphore::new((this.bounds.connections / STRANGERS_SHARE).max(1)));
        let handshakes = FairQueue::new(
            Limits {
                slots: this.bounds.handshakes,
                slots_per_key: this.bounds.handshakes_per_address,
                waiting: (this.bounds.connections / STRANGERS_SHARE).max(1),
                patience: this.bounds.handshake_queue_time,
            },
            this.clock.clone(),
        );
        this.watch(&connections, &strangers, &handshakes);
        let mut tasks = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                _ = shutdown.wait_for(|stop| *stop) => break,
                Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    this.metrics.connection_refused("accept_error");
                    this.clock.sleep_until(this.clock.monotonic() + NO_SOCKET_PAUSE).await;
                    continue;
                }
            };
            // Dropping the stream here closes it before its handshake: the cheapest refusal there is.
            if this.admission.is_crowded() {
                this.metrics.connection_refused("queue_full");
                continue;
            }
            let Ok(connection) = connections.clone().try_acquire_owned() else {
                this.metrics.connection_refused("too_many_connections");
                continue;
            };
            let (this, handshakes, strangers, shutdown) = (this.clone(), handshakes.clone(), strangers.clone(), shutdown.clone());
            tasks.spawn(async move {
                // A place among the strangers comes after the queue, which is fair: else one address could take all of them by waiting.
                match handshakes.enter(peer.ip()).await.map(|slot| (slot, strangers.try_acquire_owned())) {
                    Ok((slot, Ok(stranger))) => this.connection(stream, peer, slot, stranger, shutdown).await,
                    Ok((_, Err(_))) => this.metrics.connection_refused("too_many_strangers"),
                    Err(_) => this.metrics.connection_refused("too_many_handshakes"),
                }
                drop(connection);
            });
        }
        drop(socket);
        let drained = async { while tasks.join_next().await.is_some() {} };
        if within(this.clock.as_ref(), this.bounds.drain_time, drained).await.is_none() {
            tracing::warn!("connections were still open when the time to drain was over");
        }
    }

    /// Shows how much of each bound is taken.
    fn watch(&self, connections: &Arc<Semaphore>, strangers: &Arc<Semaphore>, handshakes: &Arc<FairQueue<IpAddr>>) {
        for (place, semaphore) in [(Place::Connections, connections), (Place::Strangers, strangers)] {
            let (limit, semaphore) = (semaphore.available_permits(), semaphore.clone());
            self.metrics.watch(place, limit, move || limit.saturating_sub(semaphore.available_permits()));
        }
        let limits = handshakes.limits();
        let (worked_on, waiting) = (handshakes.clone(), handshakes.clone());
        self.metrics.watch(Place::Handshakes, limits.slots, move || worked_on.held());
        self.metrics.watch(Place::HandshakeQueue, limits.waiting, move || waiting.waiting());
    }

    async fn connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        slot: Slot<IpAddr>,
        stranger: OwnedSemaphorePermit,
        shutdown: watch::Receiver<bool>,
    ) {
        // Answers are one small write each; waiting to fill a segment would only delay them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "no TCP_NODELAY");
        }
        let Some(stream) = self.handshake(stream, peer).await else { return };
        let (_, session) = stream.get_ref();
        if session.alpn_protocol() != Some(ALPN_H2) {
            self.metrics.connection_refused("no_alpn_h2");
            tracing::debug!(%peer, "the client did not offer ALPN h2");
            return;
        }
        let certificate = session.peer_certificates().and_then(<[_]>::first).map(|der| Arc::new(PresentedCertificate::new(der.clone().into_owned())));
        self.metrics.connection_opened();
        let connection = Connection { peer: Some(peer), certificate, milestones: Arc::default() };
        let reason = self.requests(stream, connection, slot, stranger, shutdown).await;
        self.metrics.connection_closed(reason);
    }

    async fn handshake(&self, stream: TcpStream, peer: SocketAddr) -> Option<TlsStream<TcpStream>> {
        let began = self.clock.monotonic();
        let acceptor = TlsAcceptor::from(self.tls.load_full());
        let outcome = within(self.clock.as_ref(), self.bounds.handshake_time, acceptor.accept(stream)).await;
        let took = self.clock.monotonic().saturating_sub(began);
        let (result, stream) = match outcome {
            Some(Ok(stream)) => ("ok", Some(stream)),
            Some(Err(error)) => {
                tracing::debug!(%peer, %error, "handshake failed");
                ("failed", None)
            }
            None => ("timeout", None),
        };
        self.metrics.handshake(result, took);
        stream
    }

    /// Serves requests until the peer leaves, the connection is too old, or we shut down; returns why it ended.
    async fn requests(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        connection: Connection,
        slot: Slot<IpAddr>,
        stranger: OwnedSemaphorePermit,
        mut shutdown: watch::Receiver<bool>,
    ) -> &'static str {
        let milestones = connection.milestones.clone();
        let stream = Gather::new(Paced::new(stream, self.clock.clone(), milestones.turned_away.clone()));
        let (guard, services) = (self.guard.clone(), self.services.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            let (guard, services) = (guard.clone(), services.clone());
            request.extensions_mut().insert(connection.clone());
            async move { Ok::<_, Infallible>(guard.answer(request, |request| services.answer(request)).await) }
        });
        let mut served = pin!(
            http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(self.bounds.streams)
                .max_header_list_size(MAX_HEADER_BYTES)
                .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
                .keep_alive_interval(self.bounds.keepalive)
                .keep_alive_timeout(self.bounds.keepalive)
                .serve_connection(TokioIo::new(stream), service)
        );
        let reason = tokio::select! {
            ended = served.as_mut() => return if ended.is_ok() { "closed_by_peer" } else { "broken" },
            () = self.old_age() => "age",
            () = self.stranger_for_too_long(&milestones, slot, stranger) => "stranger",
            _ = shutdown.wait_for(|stop| *stop) => "shutdown",
        };
        served.as_mut().graceful_shutdown();
        match within(self.clock.as_ref(), self.bounds.drain_time, served).await {
            Some(_) => reason,
            None => "cut_off",
        }
    }

    /// Ends when the time of a stranger is over; never for a caller that got a certificate, who gives the stranger's place back.
    async fn stranger_for_too_long(&self, milestones: &Milestones, slot: Slot<IpAddr>, stranger: OwnedSemaphorePermit) {
        // Answered or not, the next one's handshake may begin.
        let _ = within(self.clock.as_ref(), FIRST_ANSWER_TIME, milestones.answered.notified()).await;
        drop(slot);
        if within(self.clock.as_ref(), STRANGER_TIME, milestones.authenticated.notified()).await.is_some() {
            drop(stranger);
            std::future::pending().await
        }
    }

    fn old_age(&self) -> impl Future<Output = ()> + use<> {
        // Without random bytes every connection just has the same age.
        let share = 0.9 + 0.2 * fraction(self.entropy.as_ref()).unwrap_or(0.5);
        self.clock.sleep_until(self.clock.monotonic() + self.bounds.connection_age.mul_f64(share))
    }
}

/// Listens on `address`, with room for many that come at once.
///
/// # Errors
/// The system's.
pub(super) fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
