//! A timer that is exact to some ten microseconds. The runtime's own is exact to a millisecond, which at 2,000 requests a second would send two
//! at a time, and count its own lateness as the server's.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

/// A timer of the kernel (timerfd_create(2)): a file that can be read once the time has come.
#[derive(Debug)]
pub(super) struct Ticker {
    timer: OwnedFd,
    /// The same file for the runtime, which knows pipes and takes any file that can be read in their place.
    expirations: Receiver,
}

impl Ticker {
    /// Must be made inside the runtime.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Self { expirations: Receiver::from_owned_fd_unchecked(timer.try_clone()?)?, timer })
    }

    /// Waits that long.
    ///
    /// # Errors
    /// The system's.
    pub(super) async fn wait(&mut self, pause: Duration) -> io::Result<()> {
        if pause.is_zero() {
            return Ok(());
        }
        let once = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec { tv_sec: i64::try_from(pause.as_secs()).unwrap_or(i64::MAX), tv_nsec: pause.subsec_nanos().into() },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        // How often it has expired: once.
        self.expirations.read_u64().await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[tokio::test]
    async fn it_never_ends_early() {
        let mut ticker = Ticker::new().unwrap();
        let clock = SystemClock::shared();
        for pause in [0, 50, 300, 2_000].map(Duration::from_micros) {
            let began = clock.monotonic();
            ticker.wait(pause).await.unwrap();
            assert!(clock.monotonic() - began >= pause, "{pause:?}");
        }
    }
}
