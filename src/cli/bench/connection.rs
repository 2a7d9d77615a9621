//! One HTTP/2 connection to a CA, and one request on it. Straight on h2, without a channel in between: a load tool must cost less than what it measures.

use std::io::{self, ErrorKind};

use h2::client::{Connection, SendRequest};
use prost::bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;

use super::answer::Answer;
use super::questions::Question;
use super::target::Target;

/// What carries a connection's bytes: it must be polled for anything to happen.
pub(super) type Driver = Connection<TlsStream<TcpStream>, Bytes>;
/// What requests are given to.
pub(super) type Sender = SendRequest<Bytes>;

/// Room for answers of a stream and of a connection, so that the server never waits for us.
const WINDOWS: (u32, u32) = (1 << 20, 16 << 20);
/// Streams that are opened before the server has said how many it takes.
const STREAMS: usize = 100;

/// Why there is no answer: a kind to count by, and the words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) kind: &'static str,
    pub(super) words: String,
}

impl Trouble {
    fn connect(error: &io::Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::ConnectionRefused => "connect_refused",
            ErrorKind::ConnectionReset => "connect_reset",
            ErrorKind::TimedOut => "connect_timed_out",
            ErrorKind::AddrNotAvailable | ErrorKind::AddrInUse => "connect_no_free_port",
            _ if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => "connect_too_many_open_files",
            _ => "connect_other",
        };
        Self { kind, words: error.to_string() }
    }

    fn tls(error: &io::Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::UnexpectedEof => "tls_closed",
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "tls_reset",
            _ => "tls_failed",
        };
        Self { kind, words: error.to_string() }
    }

    /// One of HTTP/2.
    pub(super) fn http2(error: &h2::Error) -> Self {
        let kind = if error.is_go_away() {
            "http2_goaway"
        } else if error.is_reset() {
            "http2_stream_reset"
        } else if error.is_io() {
            "http2_closed"
        } else {
            "http2_other"
        };
        Self { kind, words: error.to_string() }
    }
}

/// Makes a connection from the `source`th of the source addresses: TCP, TLS, HTTP/2. `reset` ends it with a RST, so that nothing of it
/// stays behind in the kernel: thousands a second would use up the ports otherwise.
///
/// # Errors
/// [`Trouble`].
pub(super) async fn connect(target: &Target, source: usize, reset: bool) -> Result<(Sender, Driver), Trouble> {
    http2(tls(target, source, reset).await?, STREAMS).await
}

/// TCP and TLS of [`connect`].
///
/// # Errors
/// [`Trouble`].
pub(super) async fn tls(target: &Target, source: usize, reset: bool) -> Result<TlsStream<TcpStream>, Trouble> {
    let stream = tcp(target, source, reset).await.map_err(|error| Trouble::connect(&error))?;
    target.tls.connect(target.server_name.clone(), stream).await.map_err(|error| Trouble::tls(&error))
}

/// HTTP/2 of [`connect`]. `streams` may be opened before the server has said how many.
///
/// # Errors
/// [`Trouble`].
pub(super) async fn http2<S: AsyncRead + AsyncWrite + Unpin>(stream: S, streams: usize) -> Result<(Sender, Connection<S, Bytes>), Trouble> {
    let (stream_window, connection_window) = WINDOWS;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(stream_window).initial_connection_window_size(connection_window).enable_push(false);
    builder.initial_max_send_streams(streams).handshake(stream).await.map_err(|error| Trouble::http2(&error))
}

async fn tcp(target: &Target, source: usize, reset: bool) -> io::Result<TcpStream> {
    let socket = if target.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(address) = target.source(source) {
        socket.bind(address)?;
    }
    socket.set_nodelay(true)?;
    if reset {
        socket.set_zero_linger()?;
    }
    socket.connect(target.address).await
}

/// Sends a request once there is room for another stream, and reads the whole answer.
///
/// # Errors
/// [`Trouble`].
pub(super) async fn ask(sender: Sender, question: &Question) -> Result<Answer, Trouble> {
    let mut sender = ready(sender).await?;
    exchange(&mut sender, question).await
}

/// Waits for room for another stream.
///
/// # Errors
/// [`Trouble`], where the connection takes no more requests.
pub(super) async fn ready(sender: Sender) -> Result<Sender, Trouble> {
    sender.ready().await.map_err(|error| Trouble::http2(&error))
}

/// Sends a request and reads the whole answer.
///
/// # Errors
/// [`Trouble`].
pub(super) async fn exchange(sender: &mut Sender, question: &Question) -> Result<Answer, Trouble> {
    let failed = |error| Trouble::http2(&error);
    let (head, body) = question.to_send();
    let (response, mut stream) = sender.send_request(head, false).map_err(failed)?;
    stream.send_data(body, true).map_err(failed)?;
    let (head, mut incoming) = response.await.map_err(failed)?.into_parts();
    // A refusal may have its status in the head (Trailers-Only of the gRPC protocol).
    if let Some((code, message)) = status(&head.headers) {
        return Ok(Answer { code, message, body: Bytes::new() });
    }
    if head.status != http::StatusCode::OK {
        return Ok(Answer { code: code_of_http(head.status), message: format!("HTTP status {}", head.status), body: Bytes::new() });
    }
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    while let Some(chunk) = incoming.data().await {
        let chunk = chunk.map_err(failed)?;
        incoming.flow_control().release_capacity(chunk.len()).map_err(failed)?;
        if first.is_empty() && whole.is_empty() {
            first = chunk;
        } else {
            if whole.is_empty() {
                whole.extend_from_slice(&first);
            }
            whole.extend_from_slice(&chunk);
        }
    }
    let trailers = incoming.trailers().await.map_err(failed)?.unwrap_or_default();
    let (code, message) = status(&trailers).unwrap_or_else(|| (tonic::Code::Unknown, "the answer has no grpc-status".to_owned()));
    Ok(Answer { code, message, body: if whole.is_empty() { first } else { whole.freeze() } })
}

fn status(headers: &http::HeaderMap) -> Option<(tonic::Code, String)> {
    let code = tonic::Code::from_bytes(headers.get("grpc-status")?.as_bytes());
    // The message is percent-encoded; only a refusal is worth decoding it.
    let refused = if code == tonic::Code::Ok { None } else { tonic::Status::from_header_map(headers) };
    Some((code, refused.map(|status| status.message().to_owned()).unwrap_or_default()))
}

/// What gRPC makes of an answer that has no grpc-status (grpc/doc/http-grpc-status-mapping.md).
fn code_of_http(status: http::StatusCode) -> tonic::Code {
    match status.as_u16() {
        400 => tonic::Code::Internal,
        401 => tonic::Code::Unauthenticated,
        403 => tonic::Code::PermissionDenied,
        404 => tonic::Code::Unimplemented,
        429 | 502..=504 => tonic::Code::Unavailable,
        _ => tonic::Code::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_have_a_kind_each() {
        let kind = |kind: ErrorKind| Trouble::connect(&kind.into()).kind;
        assert_eq!(kind(ErrorKind::ConnectionRefused), "connect_refused");
        assert_eq!(kind(ErrorKind::ConnectionReset), "connect_reset");
        assert_eq!(kind(ErrorKind::TimedOut), "connect_timed_out");
        assert_eq!(kind(ErrorKind::AddrNotAvailable), "connect_no_free_port");
        assert_eq!(kind(ErrorKind::Other), "connect_other");
        let no_files = io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        assert_eq!(Trouble::connect(&no_files).kind, "connect_too_many_open_files");
        assert_eq!(Trouble::tls(&ErrorKind::UnexpectedEof.into()).kind, "tls_closed");
        assert_eq!(Trouble::tls(&ErrorKind::ConnectionReset.into()).kind, "tls_reset");
        assert_eq!(Trouble::tls(&ErrorKind::InvalidData.into()).kind, "tls_failed");
    }

    #[test]
    fn a_status_is_read_from_headers_or_told_from_http() {
        let mut headers = http::HeaderMap::new();
        assert_eq!(status(&headers), None);
        headers.insert("grpc-status", http::HeaderValue::from_static("8"));
        assert_eq!(status(&headers), Some((tonic::Code::ResourceExhausted, String::new())));
        headers.insert("grpc-message", http::HeaderValue::from_static("is%20full"));
        assert_eq!(status(&headers).unwrap().1, "is full");
        for (http, code) in [(401, tonic::Code::Unauthenticated), (503, tonic::Code::Unavailable), (500, tonic::Code::Unknown)] {
            assert_eq!(code_of_http(http::StatusCode::from_u16(http).unwrap()), code);
        }
    }
}
