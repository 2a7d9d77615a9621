//! The CSR port: TLS for whoever comes, and requests for the services behind it. Everything that a stranger may cost is bounded before anybody
//! knows who it is (`door/`, docs/bounds.md).

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::connection::Peer;
use super::door::{Connection, Door, Handshake, Handshakes, Http2, Visitor, accept, serve};
use super::guard::Guard;
use super::metrics::{Metrics, Place};
use super::services::Services;
use super::tls::CurrentTls;
use crate::bounds::{Crowd, CrowdLimits, Limits};
use crate::clock::{Clock, Entropy};
use crate::issuance::{Admission, PresentedCertificate};

/// The bounds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Connections, strangers among them, and the bytes that are kept for them.
    pub(super) crowd: CrowdLimits,
    /// Handshakes that are worked on, and new connections that wait for that.
    pub(super) handshakes: Limits,
    /// A handshake that takes longer is cut off.
    pub(super) handshake_time: Duration,
    /// Bytes are kept for so long at most: for a request until it is decoded, for an answer until it was read.
    pub(super) longest_hold: Duration,
    /// Each connection.
    pub(super) http2: Http2,
}

/// The door.
#[derive(Debug)]
pub(super) struct CsrDoor {
    tls: CurrentTls,
    services: Services,
    guard: Guard,
    bounds: Bounds,
    crowd: Arc<Crowd>,
    handshakes: Handshakes,
    admission: Arc<Admission>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl CsrDoor {
    /// A door through which nobody has come yet.
    #[allow(clippy::too_many_arguments, reason = "it is put together once")]
    pub(super) fn new(
        tls: CurrentTls,
        services: Services,
        guard: Guard,
        bounds: Bounds,
        admission: Arc<Admission>,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        let crowd = Crowd::new(bounds.crowd, clock.clone());
        let handshakes = Handshakes::new(bounds.handshakes, bounds.handshake_time, clock.clone());
        Self { tls, services, guard, bounds, crowd, handshakes, admission, metrics, clock, entropy }
    }

    /// Accepts until `shutdown` turns true, then tells every connection to go away and waits for requests that are under way.
    pub(super) async fn run(self, socket: TcpListener, shutdown: watch::Receiver<bool>) {
        self.watch();
        let (crowd, clock, times) = (self.crowd.clone(), self.clock.clone(), (self.bounds.longest_hold, self.bounds.http2.drain_time));
        accept(socket, Arc::new(self), crowd, times, clock, shutdown).await;
    }

    /// Shows how much of each bound is taken.
    fn watch(&self) {
        let CrowdLimits { places, strangers, bytes, .. } = self.bounds.crowd;
        let watch = |place, limit, taken: fn(&Crowd) -> usize| {
            let crowd = self.crowd.clone();
            self.metrics.watch(place, limit, move || taken(&crowd));
        };
        watch(Place::Connections, places, Crowd::connections);
        watch(Place::Strangers, strangers, Crowd::strangers);
        watch(Place::Bytes, bytes, Crowd::bytes);
        let limits = self.bounds.handshakes;
        let (worked_on, waiting) = (self.handshakes.turns().clone(), self.handshakes.turns().clone());
        self.metrics.watch(Place::Handshakes, limits.slots, move || worked_on.held());
        self.metrics.watch(Place::HandshakeQueue, limits.waiting, move || waiting.waiting());
    }
}

impl Door for CsrDoor {
    type Stream = TcpStream;

    async fn serve(self: Arc<Self>, visitor: Visitor<TcpStream>) {
        let Visitor { stream, peer, share, member, shutdown } = visitor;
        let stream = match self.handshakes.shake(stream, share, &member, &self.tls, shutdown.clone()).await {
            Handshake::Done(stream, took) => {
                self.metrics.handshake("ok", took);
                *stream
            }
            Handshake::Failed(error) => {
                tracing::debug!(?peer, %error, "handshake failed");
                return self.metrics.handshake("failed", Duration::ZERO);
            }
            Handshake::TimedOut => return self.metrics.handshake("timeout", Duration::ZERO),
            Handshake::NotHttp2 => {
                tracing::debug!(?peer, "the client did not offer ALPN h2");
                return self.metrics.connection_refused("no_alpn_h2");
            }
            Handshake::NoTurn => return self.metrics.connection_refused("too_many_handshakes"),
            Handshake::MadeRoom => return self.metrics.connection_refused("made_room"),
            Handshake::Shutdown => return self.metrics.connection_refused("shutdown"),
        };
        let certificate = stream.client_certificate().map(|der| Arc::new(PresentedCertificate::new(der.clone().into_owned())));
        self.metrics.connection_opened();
        let connection = Connection::new(member, share);
        let peer = Peer { address: peer, certificate, connection: connection.clone() };
        let answer = |mut request: Request<Incoming>, held| {
            request.extensions_mut().insert(peer.clone());
            let (guard, services, connection) = (self.guard.clone(), self.services.clone(), connection.clone());
            async move { guard.answer(request, |request| services.answer(request, held, connection)).await }
        };
        let reason = serve(stream, &connection, &self.bounds.http2, (&self.clock, self.entropy.as_ref()), shutdown, answer).await;
        self.metrics.connection_closed(reason);
    }

    fn closed(&self) -> Option<&'static str> {
        self.admission.is_crowded().then_some("queue_full")
    }

    fn turned_away(&self, reason: &'static str) {
        self.metrics.connection_refused(reason);
    }
}
