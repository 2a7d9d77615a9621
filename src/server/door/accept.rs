//! The one accept loop. It gives whoever comes a place in the door's crowd, closes what finds none, and at shutdown waits for those who are
//! still being answered.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::bounds::{Crowd, Member, Share, Shares};
use crate::clock::{Clock, within};

/// Connections that the kernel keeps for us before we accept them: a whole mesh that restarts arrives at once.
const BACKLOG: u32 = 4096;
/// The pause where the system gives no more sockets: something must end first.
const NO_SOCKET_PAUSE: Duration = Duration::from_millis(50);
/// How often is looked for whom bytes are kept for too long.
const LOOK: Duration = Duration::from_secs(1);

/// Somebody at a door.
#[derive(Debug)]
pub(in crate::server) struct Visitor<S> {
    pub(in crate::server) stream: S,
    /// Where he comes from; `None` on a Unix socket.
    pub(in crate::server) peer: Option<SocketAddr>,
    /// His share until it is known who he is.
    pub(in crate::server) share: Share,
    /// His place.
    pub(in crate::server) member: Arc<Member>,
    /// Turns true when the server goes down.
    pub(in crate::server) shutdown: watch::Receiver<bool>,
}

/// What is behind the accept loop.
pub(in crate::server) trait Door: Send + Sync + 'static {
    /// A connection as it is accepted.
    type Stream: Send + 'static;

    /// Serves one, to its end.
    fn serve(self: Arc<Self>, visitor: Visitor<Self::Stream>) -> impl Future<Output = ()> + Send;

    /// Why nobody is let in at the moment, if so.
    fn closed(&self) -> Option<&'static str> {
        None
    }

    /// A connection was closed at once, for this reason.
    fn turned_away(&self, reason: &'static str);
}

/// Where connections come from.
pub(in crate::server) trait Socket: Send + 'static {
    /// A connection.
    type Stream: Send + 'static;

    /// The next one.
    fn next(&self) -> impl Future<Output = io::Result<(Self::Stream, Option<SocketAddr>)>> + Send;
}

impl Socket for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<(TcpStream, Option<SocketAddr>)> {
        let (stream, peer) = self.accept().await?;
        // Answers are one small write each; waiting to fill a segment would only delay them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "no TCP_NODELAY");
        }
        Ok((stream, Some(peer)))
    }
}

impl Socket for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<(UnixStream, Option<SocketAddr>)> {
        let (stream, _) = self.accept().await?;
        Ok((stream, None))
    }
}

/// Accepts until `shutdown` turns true, then waits for `drain` at most until everybody is gone. For whom bytes are kept for longer than `longest_hold` has to go.
pub(in crate::server) async fn accept<S: Socket, D: Door<Stream = S::Stream>>(
    socket: S,
    door: Arc<D>,
    crowd: Arc<Crowd>,
    (longest_hold, drain): (Duration, Duration),
    clock: Arc<dyn Clock>,
    mut shutdown: watch::Receiver<bool>,
) {
    let shares = Shares::default();
    let mut tasks = JoinSet::new();
    let mut look = clock.sleep_until(clock.monotonic() + LOOK);
    loop {
        let accepted = tokio::select! {
            accepted = socket.next() => accepted,
            _ = shutdown.wait_for(|stop| *stop) => break,
            Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
            () = &mut look => {
                crowd.send_slow_ones_away(longest_hold);
                look = clock.sleep_until(clock.monotonic() + LOOK);
                continue;
            }
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                door.turned_away("accept_error");
                clock.sleep_until(clock.monotonic() + NO_SOCKET_PAUSE).await;
                continue;
            }
        };
        // Dropping the stream here closes it before its handshake: the cheapest refusal there is.
        if let Some(reason) = door.closed() {
            door.turned_away(reason);
            continue;
        }
        // Everybody on a Unix socket is of one address.
        let share = shares.of_address(peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip()));
        let Ok(member) = crowd.enter(share) else {
            door.turned_away("too_many_connections");
            continue;
        };
        // Boxed at once: it is large, and would be copied on its way into the task.
        tasks.spawn(Box::pin(door.clone().serve(Visitor { stream, peer, share, member, shutdown: shutdown.clone() })));
    }
    drop(socket);
    let drained = async { while tasks.join_next().await.is_some() {} };
    if within(clock.as_ref(), drain, drained).await.is_none() {
        tracing::warn!("connections were still open when the time to drain was over");
    }
}

/// Listens on `address`, with room for many that come at once.
///
/// # Errors
/// The system's.
pub(in crate::server) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
