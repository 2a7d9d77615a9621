//! What all ways of loading share: the target, the questions, the tally, and when to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::answer::{Answer, verify};
use super::args::Args;
use super::connection::{Driver, Sender, Trouble, connect};
use super::questions::{Question, Questions};
use super::tally::{Ended, Recorder};
use super::target::Target;
use crate::clock::{Clock, Entropy, fraction};

/// A load.
pub(super) struct Load {
    pub(super) clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    pub(super) target: Target,
    pub(super) questions: Questions,
    pub(super) recorder: Recorder,
    /// How long a client says nothing after its first handshake.
    pub(super) ask_later: Duration,
    /// Each Nth answer is verified fully; 0 none.
    verify_each: u64,
    answers: AtomicU64,
    /// Requests that may still be started, once the warm-up is over; `u64::MAX` is no bound.
    left: AtomicU64,
    warming_up: AtomicBool,
    stopped: AtomicBool,
    started: AtomicU64,
    ended: AtomicU64,
}

impl Load {
    pub(super) fn new(clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>, target: Target, questions: Questions, args: &Args) -> Arc<Self> {
        Arc::new(Self {
            clock,
            entropy,
            target,
            questions,
            recorder: Recorder::new(),
            ask_later: args.ask_later.unwrap_or_default(),
            verify_each: args.verify,
            answers: AtomicU64::new(0),
            left: AtomicU64::new(args.requests.unwrap_or(u64::MAX)),
            warming_up: AtomicBool::new(true),
            stopped: AtomicBool::new(false),
            started: AtomicU64::new(0),
            ended: AtomicU64::new(0),
        })
    }

    /// The next request to send; `None` once all is said.
    pub(super) fn start(&self) -> Option<&Question> {
        if self.stopped.load(Ordering::Relaxed) {
            return None;
        }
        let less = |left: u64| if left == u64::MAX { Some(left) } else { left.checked_sub(1) };
        if !self.warming_up.load(Ordering::Relaxed) && self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_err() {
            self.stop();
            return None;
        }
        let question = self.questions.next()?;
        self.started.fetch_add(1, Ordering::Relaxed);
        Some(question)
    }

    /// Records how a request ended that was to start at `began`, and says whether it got its certificate.
    pub(super) fn finish(&self, question: &Question, answer: Result<Answer, Trouble>, began: Duration) -> bool {
        let latency = self.clock.monotonic().saturating_sub(began);
        let ended = self.judge(question, answer);
        let served = ended == Ended::Served;
        self.recorder.ended(ended, latency);
        self.ended.fetch_add(1, Ordering::Relaxed);
        served
    }

    /// How a request ended; a share of the answers is verified.
    pub(super) fn judge(&self, question: &Question, answer: Result<Answer, Trouble>) -> Ended {
        let (ended, elements) = match answer {
            Ok(answer) => answer.judge(),
            Err(Trouble { kind, words }) => return Ended::Broken { kind, words },
        };
        if ended != Ended::Served || self.answers.fetch_add(1, Ordering::Relaxed).checked_rem(self.verify_each) != Some(0) {
            return ended;
        }
        match verify(&elements, &question.key, self.clock.as_ref()) {
            Ok(()) => {
                self.recorder.with(|tally| tally.verified += 1);
                ended
            }
            Err(wrong) => Ended::Wrong(wrong),
        }
    }

    /// A connection, counted.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(super) async fn connect(&self, source: usize, reset: bool) -> Result<(Sender, Driver), Trouble> {
        let connected = connect(&self.target, source, reset).await?;
        self.recorder.with(|tally| tally.handshakes += 1);
        Ok(connected)
    }

    /// Waits that long, give or take this share of it.
    pub(super) async fn pause(&self, pause: Duration, share: f64) {
        if !pause.is_zero() {
            // Without random bytes every pause is just the middle one.
            let drawn = fraction(self.entropy.as_ref()).unwrap_or(0.5);
            self.clock.sleep_until(self.clock.monotonic() + pause.mul_f64(1.0 + share * (2.0 * drawn - 1.0))).await;
        }
    }

    /// A request that was tried before the load began.
    pub(super) fn not_counted(&self) {
        self.started.fetch_sub(1, Ordering::Relaxed);
    }

    /// The measurement begins.
    pub(super) fn warmed_up(&self) {
        self.recorder.restart();
        self.warming_up.store(false, Ordering::Relaxed);
    }

    /// No request is started any more.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Requests that were started and have not ended.
    pub(super) fn unanswered(&self) -> u64 {
        self.started.load(Ordering::Relaxed).saturating_sub(self.ended.load(Ordering::Relaxed))
    }
}
