//! Turns to compute. Requests that came together would be worked on in the order in which they came, so that whoever sends thousands at once would be
//! waited for by everybody. A request waits here, fairly by its connection's share, until few others stand before it at the processor.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use crate::bounds::{FairQueue, Full, Share};

/// Does `work` in turn: what it computes until it waits for the first time happens when the share's turn has come; the rest, when it does.
///
/// # Errors
/// [`Full`] where the turn wouldn't come in time; nothing was done then.
pub(in crate::server) async fn in_turn<T>(turns: &Arc<FairQueue>, share: Share, work: impl Future<Output = T>) -> Result<T, Full> {
    let turn = turns.enter(share).await?;
    // Whoever is let in stands at the end of the processor's own line, which is short then; before this, it isn't known what is in it.
    tokio::task::yield_now().await;
    let mut work = pin!(work);
    let first = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await;
    drop(turn);
    Ok(match first {
        Poll::Ready(done) => done,
        Poll::Pending => work.await,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::bounds::{Limits, Shares};
    use crate::clock::SystemClock;

    #[tokio::test]
    async fn thousands_of_one_share_are_not_waited_for_by_another() {
        let limits = Limits { slots: 2, waiting: 10_000, patience: Duration::from_secs(60) };
        let (turns, shares) = (FairQueue::new(limits, SystemClock::shared()), Shares::default());
        let done = Arc::new(AtomicUsize::new(0));
        let one = |name: &str| {
            let (turns, share, done) = (turns.clone(), shares.of_names(name, "", None), done.clone());
            tokio::spawn(async move {
                let place = in_turn(&turns, share, async { done.fetch_add(1, Ordering::Relaxed) }).await;
                place.unwrap()
            })
        };
        let greedy: Vec<_> = (0..5_000).map(|_| one("greedy")).collect();
        let modest = one("modest");
        assert!(modest.await.unwrap() < 10, "a few turns, not thousands");
        for each in greedy {
            each.await.unwrap();
        }
        assert_eq!((done.load(Ordering::Relaxed), turns.held(), turns.waiting()), (5_001, 0, 0));
    }
}
