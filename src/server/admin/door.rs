//! The socket of the admin API: only its owner can open it, and even he can't take more than his share of connections and time.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::server::Connected;

use super::super::operations::Operator;
use super::super::proto::admin::admin_server::AdminServer;
use super::AdminApi;

/// Connections at once; more are closed. A script that forgets to close its own must not take the CSR port's files.
const MAX_CONNECTIONS: usize = 64;
/// Questions at once on one connection; more wait.
pub(super) const MAX_QUESTIONS: usize = 16;
/// Streams at once on one connection, watches among them.
pub(super) const MAX_STREAMS: u32 = 32;
/// How long an answer may take: a list over a large ledger. Watches go on for longer once they have begun.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(30);
/// Length of a question: a filter has no more.
pub(super) const MAX_QUESTION_BYTES: usize = 64 * 1024;

/// Listens on a Unix socket that only its owner can open. A socket that a killed process left behind is replaced.
///
/// # Errors
/// The system's.
pub(in crate::server) fn listen(path: &Path) -> io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another server answers there"));
    }
    // Made under another name, of the same length because that is limited, and then moved: nobody can open it before its mode is right.
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

/// Answers on the socket until `shutdown` ends.
pub(in crate::server) async fn serve(socket: UnixListener, api: Arc<AdminApi>, shutdown: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let incoming = UnixListenerStream::new(socket).filter_map(move |accepted| {
        let stream = accepted.ok()?;
        // Dropping the stream closes it.
        let place = places.clone().try_acquire_owned().ok()?;
        let uid = stream.peer_cred().ok().map(|peer| peer.uid());
        Some(Ok::<_, io::Error>(Placed { stream, operator: Operator::local(uid), _place: place }))
    });
    let served = tonic::transport::Server::builder()
        .timeout(ANSWER_TIME)
        .concurrency_limit_per_connection(MAX_QUESTIONS)
        .max_concurrent_streams(MAX_STREAMS)
        .add_service(AdminServer::from_arc(api).max_decoding_message_size(MAX_QUESTION_BYTES))
        .serve_with_incoming_shutdown(incoming, shutdown)
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the admin door closed");
    }
}

/// A connection that gives its place back when it ends.
#[derive(Debug)]
struct Placed {
    stream: UnixStream,
    operator: Operator,
    _place: OwnedSemaphorePermit,
}

/// tonic puts this into the extensions of every request: whoever opened the connection is who asks.
impl Connected for Placed {
    type ConnectInfo = Operator;

    fn connect_info(&self) -> Operator {
        self.operator.clone()
    }
}

impl AsyncRead for Placed {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Placed {
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
