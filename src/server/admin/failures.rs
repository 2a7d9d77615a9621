//! How often each peer address showed a token that stood for nobody. Every such token costs the cluster a review, and there are few reviews a second:
//! who only has bad ones must not use them up.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Bad tokens of one address, within [`WINDOW`], until none of its tokens is looked at any more.
const MOST: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses that are remembered at once.
const ADDRESSES: usize = 4_096;

/// The count.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<HashMap<IpAddr, (u32, Duration)>>);

impl Failures {
    /// Whether tokens of this address are looked at, `now` on the monotonic clock.
    pub(super) fn may_try(&self, address: IpAddr, now: Duration) -> bool {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(&address).is_none_or(|(count, since)| *count < MOST || now.saturating_sub(*since) >= WINDOW)
    }

    /// Its token stood for nobody.
    pub(super) fn failed(&self, address: IpAddr, now: Duration) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let over = |since: Duration| now.saturating_sub(since) >= WINDOW;
        if counts.len() >= ADDRESSES && !counts.contains_key(&address) {
            counts.retain(|_, (_, since)| !over(*since));
            if counts.len() >= ADDRESSES {
                // So many addresses at once are one peer's or a mesh gone wrong; what bounds them is the number of reviews in a second.
                counts.clear();
            }
        }
        let (count, since) = counts.entry(address).or_insert((0, now));
        if over(*since) {
            (*count, *since) = (0, now);
        }
        *count = count.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_with_bad_tokens_has_to_wait_and_others_do_not() {
        let failures = Failures::default();
        let (bad, good) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        for second in 0..u64::from(MOST) {
            assert!(failures.may_try(bad, Duration::from_secs(second)));
            failures.failed(bad, Duration::from_secs(second));
        }
        assert!(!failures.may_try(bad, Duration::from_secs(59)));
        assert!(failures.may_try(good, Duration::from_secs(59)));
        assert!(failures.may_try(bad, WINDOW), "a minute after the first");
        failures.failed(bad, WINDOW);
        assert!(failures.may_try(bad, WINDOW), "the count began anew");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let failures = Failures::default();
        for number in 0..u32::try_from(3 * ADDRESSES).unwrap() {
            failures.failed(IpAddr::from(number.to_be_bytes()), Duration::ZERO);
            assert!(failures.0.lock().unwrap().len() <= ADDRESSES);
        }
    }
}
