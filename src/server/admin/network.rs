//! The admin API on a TLS port: our serving certificate, and every question through the gate (`gate.rs`). Off unless `admin.listen` says where.
//!
//! Whoever can reach the port is a stranger until a token of his was good. Strangers hold half of the connections, and where there is no room the oldest
//! of the address that holds most goes, so that an operator always finds a place.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Request};
use hyper::body::Incoming;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::super::door::{Connection, Door, Handshake, Handshakes, Visitor, accept, serve};
use super::super::metrics::Metrics;
use super::super::operations::Directory;
use super::super::tls::CurrentTls;
use super::AdminApi;
use super::answering::{Answering, CROWD_BYTES, HTTP2, LAST_ANSWERS, LONGEST_HOLD};
use super::gate::Gate;
use super::peer::Peer;
use crate::bounds::{Crowd, CrowdLimits, Limits, Shares};
use crate::clock::{Clock, Entropy};

/// Connections at once.
const CROWD: CrowdLimits = CrowdLimits { places: 128, strangers: 64, bytes: CROWD_BYTES, grace: Duration::ZERO };
/// Handshakes that are worked on at once, and how long they may take.
const HANDSHAKES: Limits = Limits { slots: 16, waiting: 64, patience: Duration::from_secs(5) };
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// The door.
#[derive(Debug)]
pub(in crate::server) struct NetworkDoor {
    tls: CurrentTls,
    gate: Arc<Gate>,
    shares: Shares,
    answering: Answering,
    handshakes: Handshakes,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl NetworkDoor {
    pub(in crate::server) fn new(
        tls: CurrentTls,
        directory: Arc<dyn Directory>,
        api: Arc<AdminApi>,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        Self {
            tls,
            gate: Gate::new(directory, metrics, clock.clone()),
            shares: Shares::default(),
            answering: Answering::new(api, clock.clone()),
            handshakes: Handshakes::new(HANDSHAKES, HANDSHAKE_TIME, clock.clone()),
            clock,
            entropy,
        }
    }

    /// Answers until `shutdown` turns true.
    pub(in crate::server) async fn run(self, socket: TcpListener, shutdown: watch::Receiver<bool>) {
        let clock = self.clock.clone();
        accept(socket, Arc::new(self), Crowd::new(CROWD, clock.clone()), (LONGEST_HOLD, LAST_ANSWERS), clock, shutdown).await;
    }
}

impl Door for NetworkDoor {
    type Stream = TcpStream;

    async fn serve(self: Arc<Self>, visitor: Visitor<TcpStream>) {
        let Visitor { stream, peer, share, member, shutdown } = visitor;
        let Handshake::Done(stream, _) = self.handshakes.shake(stream, share, &member, &self.tls, shutdown.clone()).await else {
            tracing::debug!(?peer, "no handshake on the admin port");
            return;
        };
        let connection = Connection::new(member, share);
        let address = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
        let peer = Peer::stranger(address, connection.clone(), self.shares.clone());
        let answer = |request: Request<Incoming>, held| {
            let (answering, connection, gate, peer) = (self.answering.clone(), connection.clone(), self.gate.clone(), peer.clone());
            let who = async move |path: &str, headers: &HeaderMap| gate.admit(path, headers, &peer).await;
            async move { answering.answer(request, held, connection, who).await }
        };
        serve(*stream, &connection, &HTTP2, (&self.clock, self.entropy.as_ref()), shutdown, answer).await;
    }

    fn turned_away(&self, reason: &'static str) {
        tracing::debug!(reason, "a connection to the admin port was closed");
    }
}
