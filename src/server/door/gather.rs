//! Gathers what a connection has to say: answers that are ready in the same moment leave in one TLS record and one system call.
//!
//! HTTP/2 flushes after every answer, and one commit of the ledger makes many answers ready at once. So a flush only asks to be polled
//! again after the tasks that are ready now, and writes then. A connection with one answer loses one turn of the scheduler by it.
//!
//! At the start nothing leaves before the client's first frame was read, which it sends without waiting for us (RFC 9113 §3.4): our settings and
//! the acknowledgement of its own leave together. At the end a peer that has closed is told nothing: nobody reads it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::wire::SEND_BUFFER;
use crate::bounds::{Held, Member};

/// More than this isn't held back; about thirty answers.
const MOST: usize = 64 * 1024;
/// Room for one answer, so that its frames don't make the buffer grow one by one.
const ONE_ANSWER: usize = 4 * 1024;
/// What a client says first: the 24 octets of its preface and the head of a SETTINGS frame.
const OPENING: usize = 24 + 9;

/// A stream whose flushes are gathered. Who writes must also read on each poll (HTTP/2 does), since that is when it writes for real.
#[derive(Debug)]
pub(super) struct Gather<S> {
    stream: S,
    held: Vec<u8>,
    /// How much of `held` has left.
    gone: usize,
    /// A flush was asked for.
    due: bool,
    /// How much of the client's opening wasn't read yet.
    opening: usize,
    /// The opening was read in this very turn, which brings more to say.
    early: bool,
    /// The peer will send nothing more.
    ended: bool,
    member: Arc<Member>,
    /// What a peer that doesn't read makes us keep, and how much it is.
    unread: Option<(usize, Held)>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gather<S> {
    pub(super) fn new(stream: S, member: Arc<Member>) -> Self {
        Self { stream, held: Vec::new(), gone: 0, due: false, opening: OPENING, early: false, ended: false, member, unread: None }
    }

    /// Writes what is held, and flushes it. What doesn't leave counts among the connection's bytes, anew whenever some of it has left.
    fn poll_release(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let released = self.poll_all(context);
        if released.is_ready() {
            self.unread = None;
        } else {
            // What TLS has taken of it can't be seen from here.
            let bytes = self.held.len() - self.gone + SEND_BUFFER;
            if self.unread.as_ref().is_none_or(|(counted, _)| *counted != bytes) {
                self.unread = Some((bytes, self.member.holds(bytes)));
            }
        }
        released
    }

    fn poll_all(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.held.get(self.gone..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut self.stream).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.gone += written,
            }
        }
        // An idle connection keeps no buffer.
        (self.held, self.gone, self.due) = (Vec::new(), 0, false);
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            self.held.reserve(ONE_ANSWER);
        }
        if self.held.len() < MOST { Poll::Ready(Ok(())) } else { self.poll_release(context) }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gather<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Poll::Ready(Ok(())) = &read {
            let more = buffer.filled().len() - before;
            self.ended = more == 0 && buffer.remaining() > 0;
            self.early |= self.opening > 0 && self.opening <= more;
            self.opening = self.opening.saturating_sub(more);
        }
        // While there is something to read, there will be more to say.
        if read.is_pending() && self.opening == 0 {
            let early = std::mem::take(&mut self.early);
            if !self.due {
                return read;
            }
            if early {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            if let Poll::Ready(Err(error)) = self.poll_release(context) {
                return Poll::Ready(Err(error));
            }
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_room(context))?;
        self.held.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        ready!(self.poll_room(context))?;
        let before = self.held.len();
        parts.iter().for_each(|part| self.held.extend_from_slice(part));
        Poll::Ready(Ok(self.held.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            return self.poll_release(context);
        }
        if !self.due {
            self.due = true;
            context.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_release(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::bounds::{Crowd, CrowdLimits, Shares};
    use crate::clock::SystemClock;

    fn member() -> Arc<Member> {
        let limits = CrowdLimits { places: 1, strangers: 1, bytes: 1024 * 1024, grace: std::time::Duration::ZERO };
        Crowd::new(limits, SystemClock::shared()).enter(Shares::default().of_names("", "", None)).unwrap()
    }

    /// One turn of a task that reads and finds nothing.
    async fn turn(gather: &mut Gather<tokio::io::DuplexStream>) {
        let mut room = [0; 8];
        assert!(poll_fn(|context| Pin::new(&mut *gather).poll_read(context, &mut ReadBuf::new(&mut room))).now_or_never().is_none());
    }

    /// The client's opening comes and is read, up to where nothing more is there.
    async fn open(gather: &mut Gather<tokio::io::DuplexStream>, theirs: &mut tokio::io::DuplexStream) {
        theirs.write_all(&[0; OPENING]).await.unwrap();
        gather.read_exact(&mut [0; OPENING]).await.unwrap();
        turn(gather).await;
    }

    #[tokio::test]
    async fn what_is_flushed_in_one_turn_leaves_together_in_the_next() {
        let (ours, mut theirs) = duplex(1024);
        let mut gather = Gather::new(ours, member());
        open(&mut gather, &mut theirs).await;
        for part in ["one ", "two "] {
            gather.write_all(part.as_bytes()).await.unwrap();
            gather.flush().await.unwrap();
        }
        let mut seen = [0; 16];
        assert!(theirs.read(&mut seen).now_or_never().is_none(), "nothing before the next turn");
        turn(&mut gather).await;
        assert_eq!(theirs.read(&mut seen).now_or_never().unwrap().unwrap(), 8);
        assert_eq!(&seen[..8], b"one two ");
        assert_eq!(gather.held.capacity(), 0);
    }

    #[tokio::test]
    async fn nothing_leaves_before_the_clients_opening_was_read_and_what_that_brings_leaves_with_it() {
        let (ours, mut theirs) = duplex(1024);
        let mut gather = Gather::new(ours, member());
        gather.write_all(b"settings ").await.unwrap();
        gather.flush().await.unwrap();
        turn(&mut gather).await;
        theirs.write_all(&[0; OPENING - 1]).await.unwrap();
        gather.read_exact(&mut [0; OPENING - 1]).await.unwrap();
        turn(&mut gather).await;
        turn(&mut gather).await;
        let mut seen = [0; 32];
        assert!(theirs.read(&mut seen).now_or_never().is_none(), "the client has said only a part");
        theirs.write_all(&[0; 20]).await.unwrap();
        gather.read_exact(&mut [0; 20]).await.unwrap();
        turn(&mut gather).await;
        gather.write_all(b"acknowledged").await.unwrap();
        gather.flush().await.unwrap();
        assert!(theirs.read(&mut seen).now_or_never().is_none(), "still the turn in which it was read");
        turn(&mut gather).await;
        assert_eq!(theirs.read(&mut seen).now_or_never().unwrap().unwrap(), 21);
    }

    #[tokio::test]
    async fn who_has_closed_is_told_nothing() {
        let (ours, theirs) = duplex(1024);
        let mut gather = Gather::new(ours, member());
        gather.write_all(b"goodbye").await.unwrap();
        drop(theirs);
        assert_eq!(gather.read(&mut [0; 8]).await.unwrap(), 0);
        gather.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_holds_up_the_writer_and_loses_nothing() {
        let (ours, mut theirs) = duplex(1000);
        let mut gather = Gather::new(ours, member());
        open(&mut gather, &mut theirs).await;
        let block = [7; 1000];
        let mut written = 0;
        while gather.write_all(&block).now_or_never().is_some() {
            written += block.len();
            gather.flush().await.unwrap();
            turn(&mut gather).await;
            assert!(written <= 2 * MOST, "what is held is bounded");
        }
        let kept = gather.unread.as_ref().map_or(0, |(kept, _)| *kept);
        assert!(kept >= written - 1000, "{kept} of {written} count while nobody reads them");
        let all = tokio::spawn(async move {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).await.unwrap();
            all.len()
        });
        gather.shutdown().await.unwrap();
        drop(gather);
        assert_eq!(all.await.unwrap(), written, "shutting down writes what is held");
    }
}
