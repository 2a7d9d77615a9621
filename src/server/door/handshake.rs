//! A TLS handshake under bounds. Who says nothing costs a socket and no turn: a turn to work on a handshake is taken once the whole ClientHello is
//! here, and given back as soon as we only wait for the peer. Turns are fair by address.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use rustls::server::{Accepted, Acceptor};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::StartHandshake;

use super::super::tls::CurrentTls;
use super::wire::{Secured, Wire};
use crate::bounds::{FairQueue, Held, Limits, Member, Share};
use crate::clock::{Clock, within};

/// The longest ClientHello: a post-quantum key share has 1.2 KiB, a session ticket less than that.
const MAX_HELLO_BYTES: usize = 16 * 1024;
/// How long a handshake keeps its turn: a peer that doesn't go on by then is only waited for.
const TURN_TIME: Duration = Duration::from_millis(250);

/// The handshakes of one door.
#[derive(Debug, Clone)]
pub(in crate::server) struct Handshakes {
    turns: Arc<FairQueue>,
    /// A handshake that takes longer is cut off, waiting for a turn not counted.
    time: Duration,
    clock: Arc<dyn Clock>,
}

/// How one ended.
#[derive(Debug)]
pub(in crate::server) enum Handshake {
    /// TLS with h2, and how long it took, waiting for a turn not counted.
    Done(Box<Secured>, Duration),
    /// Not TLS as we speak it.
    Failed(io::Error),
    /// The peer took too long.
    TimedOut,
    /// The peer doesn't speak HTTP/2.
    NotHttp2,
    /// There was no turn in time.
    NoTurn,
    /// Another one needed the place.
    MadeRoom,
    /// The server goes down, and the peer said nothing.
    Shutdown,
}

impl Handshakes {
    pub(in crate::server) fn new(turns: Limits, time: Duration, clock: Arc<dyn Clock>) -> Self {
        Self { turns: FairQueue::new(turns, clock.clone()), time, clock }
    }

    /// Whose turn it is.
    pub(in crate::server) fn turns(&self) -> &Arc<FairQueue> {
        &self.turns
    }

    /// One handshake. Dropping the future is safe.
    pub(in crate::server) async fn shake(
        &self,
        stream: TcpStream,
        share: Share,
        member: &Arc<Member>,
        tls: &CurrentTls,
        mut shutdown: watch::Receiver<bool>,
    ) -> Handshake {
        let clock = self.clock.as_ref();
        let came = clock.monotonic();
        let hello = tokio::select! {
            hello = within(clock, self.time, hello(&stream, member)) => hello,
            _ = member.departure() => return Handshake::MadeRoom,
            _ = shutdown.wait_for(|stop| *stop) => return Handshake::Shutdown,
        };
        let left = self.time.saturating_sub(clock.monotonic().saturating_sub(came));
        let (accepted, held) = match hello {
            Some(Ok(hello)) => hello,
            Some(Err(error)) => return Handshake::Failed(error),
            None => return Handshake::TimedOut,
        };
        let working = member.works();
        let turn = tokio::select! {
            turn = self.turns.enter(share) => turn,
            _ = member.departure() => return Handshake::MadeRoom,
        };
        let Ok(turn) = turn else { return Handshake::NoTurn };
        drop(held);
        let began = clock.monotonic();
        let mut shaking = StartHandshake::from_parts(accepted, Wire::new(stream, member.clone())).into_stream(tls.load_full());
        let mut outcome = within(clock, TURN_TIME, &mut shaking).await;
        drop((turn, working));
        if outcome.is_none() {
            outcome = tokio::select! {
                outcome = within(clock, left, shaking) => outcome,
                _ = member.departure() => return Handshake::MadeRoom,
                _ = shutdown.wait_for(|stop| *stop) => return Handshake::Shutdown,
            };
        }
        match outcome.map(|outcome| outcome.map(Secured::new)) {
            Some(Ok(stream)) if stream.is_http2() => Handshake::Done(Box::new(stream), clock.monotonic().saturating_sub(began)),
            Some(Ok(_)) => Handshake::NotHttp2,
            Some(Err(error)) => Handshake::Failed(error),
            None => Handshake::TimedOut,
        }
    }
}

/// Waits for a whole ClientHello. What came of one counts as bytes of the connection.
async fn hello(stream: &TcpStream, member: &Arc<Member>) -> io::Result<(Accepted, Option<Held>)> {
    let (mut acceptor, mut held, mut bytes) = (Acceptor::default(), None, 0);
    loop {
        stream.readable().await?;
        match acceptor.read_tls(&mut Now(stream)) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                bytes += read;
                held.get_or_insert_with(|| member.holds(0)).grow(read);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok((accepted, held)),
            Ok(None) if bytes > MAX_HELLO_BYTES => return Err(io::Error::new(io::ErrorKind::InvalidData, "the ClientHello is too long")),
            Ok(None) => {}
            Err((error, mut alert)) => {
                // Whoever doesn't hear it sees the end of the connection.
                let _ = alert.write(&mut Now(stream));
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
    }
}

/// Reads what has come, and writes what there is room for; never waits.
struct Now<'a>(&'a TcpStream);

impl Read for Now<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Now<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
