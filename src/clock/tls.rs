//! Our clock for rustls: certificates are judged by the time that everything else goes by.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

use super::Clock;

/// The wall time of a [`Clock`].
#[derive(Debug)]
pub struct TlsTime(pub Arc<dyn Clock>);

impl TimeProvider for TlsTime {
    /// `None` before 1970: rustls refuses every certificate then.
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().unix_timestamp()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::super::Sleep;
    use super::*;

    #[derive(Debug)]
    struct At(i64);

    impl Clock for At {
        fn now(&self) -> OffsetDateTime {
            OffsetDateTime::from_unix_timestamp(self.0).unwrap()
        }

        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }

        fn sleep_until(&self, _: Duration) -> Sleep {
            Box::pin(std::future::pending())
        }
    }

    #[test]
    fn rustls_sees_the_seconds_of_our_clock() {
        let seen = |seconds| TlsTime(Arc::new(At(seconds))).current_time();
        assert_eq!(seen(1_700_000_000), Some(UnixTime::since_unix_epoch(Duration::from_secs(1_700_000_000))));
        assert_eq!(seen(-1), None, "there is no such time in TLS");
    }
}
