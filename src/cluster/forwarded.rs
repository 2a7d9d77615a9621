//! A stream to a port of a pod, through the API server and a kubelet. Where nobody listens there the stream just ends and the kubelet says beside it
//! why; here that is the error of reading.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use kube::api::Portforwarder;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

/// The stream.
pub struct Forwarded {
    stream: DuplexStream,
    /// Taken when it has ended.
    trouble: Option<BoxFuture<'static, Option<String>>>,
}

impl Forwarded {
    /// `None` where the port isn't among those that were asked for.
    pub(super) fn of(mut forwarder: Portforwarder, port: u16) -> Option<Self> {
        // What carries the bytes is a task of its own, which ends with the stream.
        let (stream, trouble) = (forwarder.take_stream(port)?, forwarder.take_error(port)?);
        Some(Self { stream, trouble: Some(trouble.boxed()) })
    }
}

impl AsyncRead for Forwarded {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if matches!(read, Poll::Ready(Ok(()))) && buffer.filled().len() == before && buffer.remaining() > 0 {
            // The kubelet speaks before it hangs up. Where it had nothing to say nothing comes any more.
            if let Some(Some(Some(words))) = self.trouble.take().map(FutureExt::now_or_never) {
                return Poll::Ready(Err(io::Error::other(words)));
            }
        }
        read
    }
}

impl AsyncWrite for Forwarded {
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

impl fmt::Debug for Forwarded {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Forwarded")
    }
}
