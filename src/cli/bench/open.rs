//! The open loop: requests begin at fixed intervals, whether answers come or not. Latency counts from the moment at which a request was to begin,
//! so nothing is hidden by a client that had to wait.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::kept::{Kept, ask_anew};
use super::load::Load;
use super::ticker::Ticker;

/// What an open loop does.
#[derive(Debug, Clone, Copy)]
pub(super) struct OpenLoop {
    /// Requests a second.
    pub(super) rate: f64,
    /// Kept connections; `None` makes a new one for each request.
    pub(super) connections: Option<usize>,
    /// How many may be without an answer.
    pub(super) max_outstanding: usize,
}

impl OpenLoop {
    /// When the `number`th request begins, after the start.
    fn due(&self, number: u64) -> Duration {
        // A number of requests is far below 2^53.
        #[allow(clippy::cast_precision_loss)]
        Duration::from_secs_f64(number as f64 / self.rate)
    }

    /// Begins requests until the load is stopped, and waits for their answers. Without a timer there is no load.
    pub(super) async fn run(self, load: Arc<Load>) {
        let Ok(mut ticker) = Ticker::new() else { return };
        let kept: Vec<_> = (0..self.connections.unwrap_or(0)).map(|source| Arc::new(Kept::new(source))).collect();
        let mut under_way = JoinSet::new();
        let began = load.clock.monotonic();
        let mut connections = kept.iter().cycle();
        for number in 0_u64.. {
            let intended = began + self.due(number);
            let pause = intended.saturating_sub(load.clock.monotonic());
            if !pause.is_zero() && ticker.wait(pause).await.is_err() || load.is_stopped() {
                break;
            }
            if number % 256 == 0 {
                // An overdue loop never waits: answers must still get their turn.
                tokio::task::yield_now().await;
            }
            while under_way.try_join_next().is_some() {}
            if under_way.len() >= self.max_outstanding {
                load.recorder.with(|tally| tally.not_sent += 1);
                continue;
            }
            let (load, kept) = (load.clone(), connections.next().cloned());
            let source = usize::try_from(number).unwrap_or(0);
            under_way.spawn(async move { one(&load, kept.as_deref(), source, intended).await });
        }
        while under_way.join_next().await.is_some() {}
    }
}

async fn one(load: &Load, kept: Option<&Kept>, source: usize, intended: Duration) {
    let Some(question) = load.start() else { return };
    match kept {
        Some(kept) => {
            let answer = kept.ask(load, question).await;
            load.finish(question, answer, intended);
        }
        None => {
            let finish = |answer| {
                load.finish(question, answer, intended);
            };
            ask_anew(load, source, question, finish).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_evenly_spaced() {
        let open = OpenLoop { rate: 2000.0, connections: None, max_outstanding: 1 };
        assert_eq!(open.due(0), Duration::ZERO);
        assert_eq!(open.due(1), Duration::from_micros(500));
        assert_eq!(open.due(240_000_000), Duration::from_secs(120_000));
    }
}
