//! The socket of the admin API: only its owner can open it, and even he can't take more than his share of connections, bytes and time.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Request};
use hyper::body::Incoming;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use super::super::door::{Connection, Door, Visitor, accept, serve};
use super::super::operations::Operator;
use super::AdminApi;
use super::answering::{Answering, CROWD_BYTES, HTTP2, LAST_ANSWERS, LONGEST_HOLD};
use crate::bounds::{Crowd, CrowdLimits};
use crate::clock::{Clock, Entropy};

/// Connections at once. A script that forgets to close its own must not take the CSR port's files. Who opened the socket may ask, so nobody is a stranger.
const CROWD: CrowdLimits = CrowdLimits { places: 64, strangers: 64, bytes: CROWD_BYTES, grace: Duration::ZERO };

/// Listens on a Unix socket that only its owner can open. A socket that a killed process left behind is replaced.
///
/// # Errors
/// The system's.
pub(in crate::server) fn listen(path: &Path) -> io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another server answers there"));
    }
    // Made under another name, of the same length because that is limited, and then moved: the name that all know never has another mode.
    let mut name = path.as_os_str().as_bytes().to_vec();
    if let Some(last) = name.last_mut() {
        *last = if *last == b'~' { b'-' } else { b'~' };
    }
    let hidden = Path::new(OsStr::from_bytes(&name));
    match std::fs::remove_file(hidden) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(hidden)?;
    std::fs::set_permissions(hidden, Permissions::from_mode(0o600))?;
    std::fs::rename(hidden, path)?;
    Ok(listener)
}

/// The door behind the socket.
#[derive(Debug)]
pub(in crate::server) struct LocalDoor {
    answering: Answering,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl LocalDoor {
    pub(in crate::server) fn new(api: Arc<AdminApi>, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self { answering: Answering::new(api, clock.clone()), clock, entropy }
    }

    /// Answers until `shutdown` turns true.
    pub(in crate::server) async fn run(self, socket: UnixListener, shutdown: watch::Receiver<bool>) {
        let clock = self.clock.clone();
        accept(socket, Arc::new(self), Crowd::new(CROWD, clock.clone()), (LONGEST_HOLD, LAST_ANSWERS), clock, shutdown).await;
    }
}

impl Door for LocalDoor {
    type Stream = UnixStream;

    async fn serve(self: Arc<Self>, visitor: Visitor<UnixStream>) {
        let Visitor { stream, share, member, shutdown, .. } = visitor;
        let operator = Operator::local(stream.peer_cred().ok().map(|peer| peer.uid()));
        let connection = Connection::new(member, share);
        connection.becomes_known(share);
        let answer = |request: Request<Incoming>, held| {
            let (answering, connection, operator) = (self.answering.clone(), connection.clone(), operator.clone());
            async move { answering.answer(request, held, connection, async move |_: &str, _: &HeaderMap| Ok(operator)).await }
        };
        serve(stream, &connection, &HTTP2, (&self.clock, self.entropy.as_ref()), shutdown, answer).await;
    }

    fn turned_away(&self, reason: &'static str) {
        tracing::debug!(reason, "a connection to the admin socket was closed");
    }
}
