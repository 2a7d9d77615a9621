//! Time and randomness, passed in by constructor.
//!
//! Everything that reads the time, waits, or draws serials, jitter and ids takes a [`Clock`] or an [`Entropy`]; nothing
//! else does (a test reads the source for it). So every rule can be tested at any instant, and no test has to sleep. Keys and
//! signatures are the exception: they use ring's own source of randomness.

#[cfg(feature = "service")]
mod tls;

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

#[cfg(feature = "service")]
pub use self::tls::TlsTime;

/// What a [`Clock`] hands out to wait on.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Wall time, monotonic time, and waiting.
pub trait Clock: Send + Sync + Debug {
    /// The wall time, UTC. It may jump.
    fn now(&self) -> OffsetDateTime;
    /// Time since this clock was made. It never goes back.
    fn monotonic(&self) -> Duration;
    /// Ends once [`Clock::monotonic`] has reached `at`.
    fn sleep_until(&self, at: Duration) -> Sleep;
}

/// Runs `work` for at most `limit`; `None` says that the time was up first, and `work` was dropped.
pub async fn within<T>(clock: &dyn Clock, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut sleep = clock.sleep_until(clock.monotonic().saturating_add(limit));
    let mut work = std::pin::pin!(work);
    std::future::poll_fn(|context| match work.as_mut().poll(context) {
        std::task::Poll::Ready(done) => std::task::Poll::Ready(Some(done)),
        std::task::Poll::Pending => sleep.as_mut().poll(context).map(|()| None),
    })
    .await
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// The clock that a process shares.
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self { started: Instant::now() })
    }
}

impl Clock for SystemClock {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }

    fn sleep_until(&self, at: Duration) -> Sleep {
        Box::pin(tokio::time::sleep_until((self.started + at).into()))
    }
}

/// A time for people and logs: RFC 3339, to the second, UTC.
pub fn readable(at: OffsetDateTime) -> String {
    let second = at.to_offset(time::UtcOffset::UTC).replace_nanosecond(0).unwrap_or(at);
    second.format(&Rfc3339).unwrap_or_else(|_| at.to_string())
}

/// A source of random bytes for serials, jitter and ids.
pub trait Entropy: Send + Sync + Debug {
    /// Fills `bytes`.
    ///
    /// # Errors
    /// [`NoEntropy`] where the operating system gives none: nothing may be issued then.
    fn fill(&self, bytes: &mut [u8]) -> Result<(), NoEntropy>;
}

/// The operating system gave no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub struct NoEntropy;

/// The operating system's generator, through ring.
#[derive(Debug)]
pub struct SystemEntropy(SystemRandom);

impl SystemEntropy {
    /// The source that a process shares.
    pub fn shared() -> Arc<dyn Entropy> {
        Arc::new(Self(SystemRandom::new()))
    }
}

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), NoEntropy> {
        self.0.fill(bytes).map_err(|_| NoEntropy)
    }
}

/// A number drawn evenly from 0 (included) to 1 (not included).
///
/// # Errors
/// [`NoEntropy`] as [`Entropy::fill`] has it.
pub fn fraction(entropy: &dyn Entropy) -> Result<f64, NoEntropy> {
    let mut bytes = [0; 4];
    entropy.fill(&mut bytes)?;
    Ok(f64::from(u32::from_be_bytes(bytes)) / (f64::from(u32::MAX) + 1.0))
}

/// `bytes` random bytes in lower-hex: the form of our ids (of a ledger, a replica, a request).
///
/// # Errors
/// [`NoEntropy`] as [`Entropy::fill`] has it.
pub fn random_id(entropy: &dyn Entropy, bytes: usize) -> Result<String, NoEntropy> {
    let mut drawn = vec![0; bytes];
    entropy.fill(&mut drawn)?;
    Ok(hex::encode(&drawn))
}
