//! Reads less often from who is refused. Under overload most of a refusal's price is that of reading and writing one request at a time; whoever
//! was turned away is read again after a pause, and what has come by then is read, decrypted and answered together. The others keep
//! their full pace, and the network itself tells a peer that sends without end to slow down. So it does to one that sends frames which cost it
//! nothing (`frames.rs`).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::Frames;
use crate::clock::{Clock, Sleep};

/// A pause: short beside the time that a request may wait for its turn, and long enough for a few requests to come.
const PAUSE: Duration = Duration::from_millis(250);
/// It is longer by this many refusals for each request that was served meanwhile: for whoever goes on asking for what it doesn't get, and not for one
/// of many who all ask for too much.
const REFUSALS: u32 = 16;
/// Bytes that are read before others have their turn at the processor: some requests' worth.
const AT_ONCE: usize = 16 * 1024;
/// The longest pause, whatever came: a peer that has come to its senses isn't lost for ever.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How the requests of a connection fared since it was read last.
#[derive(Debug, Default)]
pub(in crate::server) struct Fared {
    refused: AtomicU32,
    served: AtomicU32,
}

impl Fared {
    /// One was turned away.
    pub(in crate::server) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// One was served.
    pub(in crate::server) fn served(&self) {
        self.served.fetch_add(1, Ordering::Relaxed);
    }

    /// The pause that follows from it, and the count begins anew.
    fn pause(&self) -> Option<Duration> {
        let refused = self.refused.swap(0, Ordering::Relaxed);
        if refused == 0 {
            return None;
        }
        let served = self.served.swap(0, Ordering::Relaxed);
        Some((PAUSE * (refused / (served + 1) / REFUSALS).max(1)).min(LONGEST_PAUSE))
    }
}

/// A stream that is read with pauses.
pub(super) struct Paced<S> {
    stream: S,
    clock: Arc<dyn Clock>,
    fared: Arc<Fared>,
    frames: Frames,
    /// Bytes that were read since others had their turn.
    at_once: usize,
    pause: Option<Sleep>,
}

impl<S> Paced<S> {
    pub(super) fn new(stream: S, clock: Arc<dyn Clock>, fared: Arc<Fared>) -> Self {
        let frames = Frames::new(millis(clock.as_ref()));
        Self { stream, clock, fared, frames, at_once: 0, pause: None }
    }

    fn pause_for(&mut self, time: Duration) {
        self.pause = Some(self.clock.sleep_until(self.clock.monotonic() + time));
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.pause.is_none()
            && let Some(pause) = self.fared.pause()
        {
            self.pause_for(pause);
        }
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        if self.at_once >= AT_ONCE {
            // HTTP/2 would read for as long as there is something, which a peer that sends much keeps up for ever.
            self.at_once = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(context, buffer) else {
            self.at_once = 0;
            return Poll::Pending;
        };
        read?;
        self.at_once += buffer.filled().len() - before;
        self.frames.pass(buffer.filled().get(before..).unwrap_or_default());
        if self.frames.is_over() {
            let now = millis(self.clock.as_ref());
            let wait = self.frames.wait(now);
            if wait > 0 {
                self.pause_for(Duration::from_millis(wait).min(LONGEST_PAUSE));
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn millis(clock: &dyn Clock) -> u64 {
    u64::try_from(clock.monotonic().as_millis()).unwrap_or(u64::MAX)
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use time::OffsetDateTime;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::sync::Notify;

    use super::*;

    /// Stands still; whoever sleeps by it is woken by hand.
    #[derive(Debug, Default)]
    struct HandClock(Arc<Notify>);

    impl Clock for HandClock {
        fn now(&self) -> OffsetDateTime {
            OffsetDateTime::UNIX_EPOCH
        }

        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }

        fn sleep_until(&self, _: Duration) -> Sleep {
            let woken = self.0.clone();
            Box::pin(async move { woken.notified().await })
        }
    }

    #[tokio::test]
    async fn who_was_turned_away_is_read_after_a_pause_and_all_at_once() {
        let (ours, mut theirs) = duplex(64);
        let (clock, fared) = (HandClock::default(), Arc::<Fared>::default());
        let woken = clock.0.clone();
        let mut paced = Paced::new(ours, Arc::new(clock), fared.clone());
        let mut seen = [0; 64];
        theirs.write_all(b"one").await.unwrap();
        assert_eq!(paced.read(&mut seen).await.unwrap(), 3, "nobody waits before");

        fared.refused();
        theirs.write_all(b"two").await.unwrap();
        assert!(paced.read(&mut seen).now_or_never().is_none());
        theirs.write_all(b"three").await.unwrap();
        paced.write_all(b"answers leave meanwhile").await.unwrap();
        assert!(paced.read(&mut seen).now_or_never().is_none(), "the pause is not over");
        woken.notify_one();
        assert_eq!(paced.read(&mut seen).now_or_never().unwrap().unwrap(), 8);
        theirs.write_all(b"four").await.unwrap();
        assert_eq!(paced.read(&mut seen).now_or_never().unwrap().unwrap(), 4, "one refusal, one pause");
    }

    #[test]
    fn who_only_is_refused_waits_longer() {
        let fared = Fared::default();
        assert_eq!(fared.pause(), None);
        let after = |refused: u32, served: u32| {
            (0..refused).for_each(|_| fared.refused());
            (0..served).for_each(|_| fared.served());
            fared.pause().unwrap()
        };
        assert_eq!([after(1, 0), after(7, 0), after(50, 50), after(90, 30)], [PAUSE; 4], "in an overload everybody is refused now and then");
        assert_eq!((after(200, 0), after(400, 9)), (PAUSE * 12, PAUSE * 2));
        assert_eq!(after(10_000, 0), LONGEST_PAUSE);
    }
}
