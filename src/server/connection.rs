//! What is known of a request before anything is decoded; it travels in the request's extensions.

use std::net::SocketAddr;
use std::sync::Arc;

use super::door::Connection;
use crate::issuance::PresentedCertificate;

/// Who is at the other end of the connection that a request came over.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// Where that is.
    pub(super) address: Option<SocketAddr>,
    /// The client certificate of the handshake.
    pub(super) certificate: Option<Arc<PresentedCertificate>>,
    /// The connection.
    pub(super) connection: Connection,
}

/// Names one request in the log; it is also sent back as `x-request-id`.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub(super) String);
