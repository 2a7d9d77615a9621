//! A hostile client that asks and never reads the answers: what it makes a server hold. Bounded: each of its connections asks a given number of times, once.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use h2::client::ResponseFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinSet;

use super::connection::{Trouble, http2, tls};
use super::load::Load;
use super::tally::Ended;

/// What was sent and is held.
#[derive(Debug, Default)]
pub(super) struct Unread {
    /// Connections whose handshakes were finished.
    pub(super) connections: AtomicUsize,
    /// Requests that were sent on them.
    pub(super) requests: AtomicU64,
    /// Dropped, they would be reset.
    answers: Mutex<Vec<ResponseFuture>>,
}

/// Opens so many connections and asks so often on each. A task ends when its connection does; one that can't be opened is counted as failed.
pub(super) fn open(load: &Arc<Load>, connections: usize, requests: usize, tasks: &mut JoinSet<()>) -> Arc<Unread> {
    let unread = Arc::new(Unread::default());
    for client in 0..connections {
        let (load, unread) = (load.clone(), unread.clone());
        tasks.spawn(async move {
            let began = load.clock.monotonic();
            if let Err(Trouble { kind, words }) = one(&load, &unread, client, requests).await {
                load.recorder.ended(Ended::Broken { kind, words }, load.clock.monotonic().saturating_sub(began));
            }
        });
    }
    unread
}

async fn one(load: &Load, unread: &Unread, client: usize, requests: usize) -> Result<(), Trouble> {
    let failed = |error: h2::Error| Trouble::http2(&error);
    let stream = Deaf(tls(&load.target, client, true).await?);
    load.recorder.with(|tally| tally.handshakes += 1);
    // It can't hear how many streams it may open.
    let (mut sender, driver) = http2(stream, requests).await?;
    unread.connections.fetch_add(1, Ordering::Relaxed);
    // In a task of its own, which stays until the program ends.
    let driver = tokio::spawn(driver);
    for _ in 0..requests {
        let Some(question) = load.questions.next() else { break };
        let (head, body) = question.to_send();
        sender = sender.ready().await.map_err(failed)?;
        let (answer, mut stream) = sender.send_request(head, false).map_err(failed)?;
        stream.send_data(body, true).map_err(failed)?;
        unread.requests.fetch_add(1, Ordering::Relaxed);
        unread.answers.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
    }
    driver.await.unwrap_or(Ok(())).map_err(failed)
}

/// A stream that is written and never read.
struct Deaf<S>(S);

impl<S: Unpin> AsyncRead for Deaf<S> {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // Nobody is woken: there is nothing that this would wait for.
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Deaf<S> {
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
