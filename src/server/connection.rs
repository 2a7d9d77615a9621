//! What is known of a connection and of a request before anything is decoded; both travel in the request's extensions.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::Notify;

use super::paced::TurnedAway;
use crate::issuance::PresentedCertificate;

/// The connection that a request came over.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    /// The peer; `None` on a Unix socket.
    pub(super) peer: Option<SocketAddr>,
    /// The client certificate of the handshake.
    pub(super) certificate: Option<Arc<PresentedCertificate>>,
    /// What has happened on it.
    pub(super) milestones: Arc<Milestones>,
}

/// What the listener waits for on a connection, each told as often as it happens.
#[derive(Debug, Default)]
pub(super) struct Milestones {
    /// A request for a certificate was answered, however.
    pub(super) answered: Notify,
    /// A caller got a certificate: until then the peer is a stranger, with less room and time.
    pub(super) authenticated: Notify,
    /// A request was turned away because too much is to do.
    pub(super) turned_away: TurnedAway,
}

/// Names one request in the log; it is also sent back as `x-request-id`.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub(super) String);
