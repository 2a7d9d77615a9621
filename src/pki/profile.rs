//! How long certificates live, and the digest by which replicas see that they issue alike.

use std::time::Duration;

use time::OffsetDateTime;

use crate::clock::readable;

/// Lifetimes of workload certificates. Everything else about a leaf is fixed in `pki::prepare`.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// When the caller asks for nothing (0 or less).
    pub default_lifetime: Duration,
    /// The longest; more is capped.
    pub max_lifetime: Duration,
    /// How far notBefore lies in the past, for peers whose clocks run behind.
    pub backdate: Duration,
    /// The share of a lifetime, 0 to 1, that chance takes off, so that a fleet which started together doesn't renew together.
    pub jitter: f64,
}

/// notBefore and notAfter, both included (RFC 5280 §4.1.2.5), in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// notBefore.
    pub not_before: OffsetDateTime,
    /// notAfter.
    pub not_after: OffsetDateTime,
}

/// The issuers live too short for a certificate to be of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the issuing authority ends at {at}: too soon for a certificate of at least {floor:?}", at = readable(*limit))]
pub struct TooLittleLeft {
    /// The earliest notAfter of all issuers.
    pub limit: OffsetDateTime,
    /// The shortest lifetime.
    pub floor: Duration,
}

impl Profile {
    /// The shortest lifetime: several backdates. A client that renews at half of notBefore…notAfter would renew at once below that.
    pub fn floor(&self) -> Duration {
        self.backdate.saturating_mul(5).max(Duration::from_secs(1))
    }

    /// The validity of a leaf that is signed `now`.
    ///
    /// `asked` is in seconds as the CSR API has it; `chance` is drawn evenly from 0 to 1; `limit` is the earliest notAfter of all issuers.
    ///
    /// # Errors
    /// [`TooLittleLeft`] where `limit` leaves less than the floor.
    pub fn validity(&self, asked: i64, now: OffsetDateTime, chance: f64, limit: OffsetDateTime) -> Result<Validity, TooLittleLeft> {
        let wanted = u64::try_from(asked).ok().filter(|seconds| *seconds > 0).map_or(self.default_lifetime, Duration::from_secs);
        let lifetime = wanted.min(self.max_lifetime).max(self.floor());
        let spread = lifetime.mul_f64((1.0 - self.jitter * chance).clamp(0.0, 1.0)).max(self.floor());
        self.clamped(spread, now, limit)
    }

    /// `lifetime` from `now`, ending no later than `limit`.
    ///
    /// # Errors
    /// [`TooLittleLeft`] where `limit` leaves less than the floor (or than `lifetime`, where that is shorter).
    pub fn clamped(&self, lifetime: Duration, now: OffsetDateTime, limit: OffsetDateTime) -> Result<Validity, TooLittleLeft> {
        let floor = self.floor().min(lifetime);
        let now = whole_seconds(now);
        let limit = whole_seconds(limit);
        let too_little = TooLittleLeft { limit, floor };
        let not_after = now.checked_add(seconds(lifetime)).unwrap_or(limit).min(limit);
        if not_after - now < seconds(floor) {
            return Err(too_little);
        }
        let not_before = now.checked_sub(seconds(self.backdate)).ok_or(too_little)?;
        Ok(Validity { not_before, not_after })
    }

    /// SHA-256, lower-hex, over everything that shapes a leaf. Replicas with different digests issue differently.
    pub fn digest(&self) -> String {
        let text = format!(
            "leaf v1: empty subject, one critical URI SAN, digitalSignature (+keyEncipherment for RSA), serverAuth+clientAuth, CA:false, SKI, AKI; \
             default {:?}, max {:?}, backdate {:?}, jitter {}",
            self.default_lifetime, self.max_lifetime, self.backdate, self.jitter
        );
        hex::encode(ring::digest::digest(&ring::digest::SHA256, text.as_bytes()))
    }
}

fn seconds(duration: Duration) -> time::Duration {
    time::Duration::seconds(i64::try_from(duration.as_secs()).unwrap_or(i64::MAX))
}

fn whole_seconds(at: OffsetDateTime) -> OffsetDateTime {
    at.replace_nanosecond(0).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-23 12:00:00 UTC);
    const FAR: OffsetDateTime = datetime!(2036-01-01 00:00:00 UTC);

    fn profile() -> Profile {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        Profile { default_lifetime: hours(12), max_lifetime: hours(24), backdate: Duration::from_secs(120), jitter: 0.1 }
    }

    fn lifetime(asked: i64, chance: f64) -> time::Duration {
        profile().validity(asked, NOW, chance, FAR).unwrap().not_after - NOW
    }

    #[test]
    fn what_is_asked_is_bent_into_the_bounds() {
        assert_eq!(lifetime(0, 0.0), time::Duration::hours(12));
        assert_eq!(lifetime(-1, 0.0), time::Duration::hours(12));
        assert_eq!(lifetime(i64::MIN, 0.0), time::Duration::hours(12));
        assert_eq!(lifetime(3600, 0.0), time::Duration::hours(1));
        assert_eq!(lifetime(i64::MAX, 0.0), time::Duration::hours(24));
        assert_eq!(lifetime(1, 0.0), time::Duration::minutes(10));
    }

    #[test]
    fn chance_takes_off_at_most_the_jitter() {
        assert_eq!(lifetime(36_000, 0.5), time::Duration::seconds(34_200));
        assert!(lifetime(36_000, 0.999) > time::Duration::seconds(32_400));
        assert_eq!(lifetime(600, 0.999), time::Duration::minutes(10), "never below the floor");
    }

    #[test]
    fn no_leaf_outlives_an_issuer() {
        let limit = NOW + time::Duration::hours(1);
        let validity = profile().validity(0, NOW, 0.0, limit).unwrap();
        assert_eq!(validity, Validity { not_before: NOW - time::Duration::minutes(2), not_after: limit });
        for left in [time::Duration::minutes(9), time::Duration::ZERO, time::Duration::hours(-1)] {
            assert!(profile().validity(0, NOW, 0.0, NOW + left).is_err());
        }
    }

    #[test]
    fn the_digest_sees_every_lifetime() {
        let other = Profile { jitter: 0.2, ..profile() };
        assert_ne!(profile().digest(), other.digest());
        assert_eq!(profile().digest(), profile().digest());
    }
}
