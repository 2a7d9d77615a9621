//! What TLS keeps of a peer's bytes before anything comes of them, and of ours before they have left. What has come of a record or message that
//! never ends counts among the connection's bytes; a handshake in which too much comes is broken off.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::super::tls::ALPN_H2;
use crate::bounds::{Held, Member};

/// The longest handshake after its ClientHello: the longest chain that may come, and a signature. TLS itself would wait for messages of 64 KiB; after the
/// handshake it does.
const LONGEST_HANDSHAKE: usize = 20 * 1024;
/// TLS reads by this; less is part of what every connection costs.
const ONE_READ: usize = 4 * 1024;
/// Records of ours that TLS keeps for a peer that doesn't read.
pub(super) const SEND_BUFFER: usize = 16 * 1024;

/// A socket below TLS. It counts what was read since the last time that something came of it.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    member: Arc<Member>,
    is_shaking: bool,
    kept: usize,
    held: Option<Held>,
}

impl Wire {
    pub(super) fn new(stream: TcpStream, member: Arc<Member>) -> Self {
        Self { stream, member, is_shaking: true, kept: 0, held: None }
    }

    fn came(&mut self, bytes: usize) -> io::Result<()> {
        self.kept += bytes;
        if self.is_shaking && self.kept > LONGEST_HANDSHAKE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the handshake is too long"));
        }
        if self.kept > ONE_READ {
            self.held.get_or_insert_with(|| self.member.holds(0)).grow(bytes);
        }
        Ok(())
    }

    fn something_came_of_it(&mut self) {
        (self.kept, self.held) = (0, None);
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        Poll::Ready(self.came(buffer.filled().len() - before))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A connection whose handshake is done.
#[derive(Debug)]
pub(in crate::server) struct Secured(TlsStream<Wire>);

impl Secured {
    pub(super) fn new(mut stream: TlsStream<Wire>) -> Self {
        let (wire, tls) = stream.get_mut();
        wire.something_came_of_it();
        wire.is_shaking = false;
        tls.set_buffer_limit(Some(SEND_BUFFER));
        Self(stream)
    }

    pub(super) fn is_http2(&self) -> bool {
        self.0.get_ref().1.alpn_protocol() == Some(ALPN_H2)
    }

    /// What the client presented as its own; it is the handshake that proved it.
    pub(in crate::server) fn client_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.0.get_ref().1.peer_certificates().and_then(<[_]>::first)
    }
}

impl AsyncRead for Secured {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.0).poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            self.0.get_mut().0.something_came_of_it();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Secured {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
