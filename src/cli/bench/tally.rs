//! What is counted while a load runs. One tally for all clients, behind one lock that is held for a few nanoseconds; the warm-up's is thrown away.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::super::csr_client::code_name;

/// Latencies in microseconds, to a thousandth of their size, up to an hour.
#[derive(Debug, Clone)]
pub(super) struct Latencies(Option<Histogram<u64>>);

/// What a person wants to know of many latencies, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Summary {
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) max: f64,
    pub(super) mean: f64,
}

const HOUR: u64 = 3_600_000_000;

impl Latencies {
    pub(super) fn new() -> Self {
        // The bounds are constants that the crate takes; without a histogram nothing would be counted, and the report would say so.
        Self(Histogram::new_with_bounds(1, HOUR, 3).ok())
    }

    pub(super) fn record(&mut self, latency: Duration) {
        let microseconds = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record(microseconds.clamp(1, HOUR));
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.0.as_ref().map_or(0, Histogram::len)
    }

    /// The latency that this share of all stays below, in milliseconds.
    pub(super) fn quantile(&self, share: f64) -> f64 {
        self.0.as_ref().map_or(0.0, |histogram| milliseconds(histogram.value_at_quantile(share)))
    }

    /// `None` where there was nothing.
    pub(super) fn summary(&self) -> Option<Summary> {
        let histogram = self.0.as_ref().filter(|histogram| !histogram.is_empty())?;
        let [p50, p90, p99, p999] = [0.5, 0.9, 0.99, 0.999].map(|share| self.quantile(share));
        Some(Summary { p50, p90, p99, p999, max: milliseconds(histogram.max()), mean: histogram.mean() / 1000.0 })
    }

    fn clear(&mut self) {
        if let Some(histogram) = &mut self.0 {
            histogram.reset();
        }
    }
}

fn milliseconds(microseconds: u64) -> f64 {
    // Below an hour, so it is exact.
    Duration::from_micros(microseconds).as_secs_f64() * 1000.0
}

/// How one request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// With a certificate.
    Served,
    /// With a gRPC code other than OK.
    Refused { code: tonic::Code, message: String },
    /// Without an answer: kind and words.
    Broken { kind: &'static str, words: String },
    /// With an answer that is not what a CA may say.
    Wrong(String),
}

/// Requests of one kind of failure.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Failures {
    pub(super) count: u64,
    /// The words of the first one.
    pub(super) first: String,
}

/// The counts.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    /// Of the requests that got a certificate.
    pub(super) served: Latencies,
    /// Of those that were refused with a code.
    pub(super) refused: Latencies,
    /// Of those whose connection failed.
    pub(super) broken: Latencies,
    /// By gRPC code.
    pub(super) codes: BTreeMap<&'static str, Failures>,
    /// By kind of failure.
    pub(super) kinds: BTreeMap<&'static str, Failures>,
    /// Answers that were wrong.
    pub(super) wrong: Failures,
    /// Answers that were verified fully.
    pub(super) verified: u64,
    /// TLS handshakes that ended well.
    pub(super) handshakes: u64,
    /// Connections that the server ended between two requests and that were made anew.
    pub(super) reconnects: u64,
    /// Arrivals of an open loop for which there was no room.
    pub(super) not_sent: u64,
    /// Since the last look of the progress line.
    second: Latencies,
}

/// What happened since the last look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Second {
    pub(super) served: u64,
    pub(super) p99: f64,
    /// Since the beginning.
    pub(super) errors: u64,
}

impl Tally {
    fn new() -> Self {
        Self {
            served: Latencies::new(),
            refused: Latencies::new(),
            broken: Latencies::new(),
            codes: BTreeMap::new(),
            kinds: BTreeMap::new(),
            wrong: Failures::default(),
            verified: 0,
            handshakes: 0,
            reconnects: 0,
            not_sent: 0,
            second: Latencies::new(),
        }
    }

    fn add(&mut self, ended: Ended, latency: Duration) {
        match ended {
            Ended::Served => {
                self.served.record(latency);
                self.second.record(latency);
            }
            Ended::Refused { code, message } => {
                self.refused.record(latency);
                self.codes.entry(code_name(code)).or_default().add(message);
            }
            Ended::Broken { kind, words } => {
                self.broken.record(latency);
                self.kinds.entry(kind).or_default().add(words);
            }
            Ended::Wrong(words) => self.wrong.add(words),
        }
    }

    /// Requests that ended without a certificate.
    pub(super) fn errors(&self) -> u64 {
        self.refused.count() + self.broken.count() + self.wrong.count
    }
}

impl Failures {
    fn add(&mut self, words: String) {
        if self.count == 0 {
            self.first = words;
        }
        self.count += 1;
    }
}

/// The tally that all clients share.
#[derive(Debug)]
pub(super) struct Recorder(Mutex<Tally>);

impl Recorder {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Tally::new()))
    }

    pub(super) fn ended(&self, ended: Ended, latency: Duration) {
        self.with(|tally| tally.add(ended, latency));
    }

    /// Counts something else.
    pub(super) fn with<T>(&self, count: impl FnOnce(&mut Tally) -> T) -> T {
        count(&mut self.lock())
    }

    /// Begins anew: what was before was the warm-up.
    pub(super) fn restart(&self) {
        *self.lock() = Tally::new();
    }

    /// What there is so far.
    pub(super) fn so_far(&self) -> Tally {
        self.lock().clone()
    }

    /// What happened since the last call.
    pub(super) fn second(&self) -> Second {
        let mut tally = self.lock();
        let second = Second { served: tally.second.count(), p99: tally.second.quantile(0.99), errors: tally.errors() };
        tally.second.clear();
        second
    }

    fn lock(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_a_thousandth() {
        let mut latencies = Latencies::new();
        assert_eq!(latencies.summary(), None);
        (1..=1000).for_each(|millisecond| latencies.record(Duration::from_millis(millisecond)));
        let summary = latencies.summary().unwrap();
        for (found, right) in [(summary.p50, 500.0), (summary.p90, 900.0), (summary.p99, 990.0), (summary.p999, 999.0), (summary.max, 1000.0)] {
            assert!((found / right - 1.0).abs() < 0.002, "{found} is not {right}");
        }
        assert!((summary.mean - 500.5).abs() < 1.0, "{}", summary.mean);
        latencies.record(Duration::from_secs(7200));
        latencies.record(Duration::ZERO);
        assert_eq!(latencies.count(), 1002);
    }

    #[test]
    fn every_end_is_counted_where_it_belongs() {
        let recorder = Recorder::new();
        let refused = |message: &str| Ended::Refused { code: tonic::Code::Unauthenticated, message: message.to_owned() };
        recorder.ended(Ended::Served, Duration::from_millis(2));
        recorder.ended(refused("the first"), Duration::from_millis(1));
        recorder.ended(refused("the second"), Duration::from_millis(1));
        recorder.ended(Ended::Broken { kind: "connect_refused", words: "no".to_owned() }, Duration::ZERO);
        recorder.ended(Ended::Wrong("one element".to_owned()), Duration::ZERO);
        let second = recorder.second();
        assert_eq!((second.served, second.errors), (1, 4));
        assert_eq!(recorder.second().served, 0);
        let tally = recorder.so_far();
        assert_eq!((tally.served.count(), tally.refused.count(), tally.broken.count(), tally.wrong.count), (1, 2, 1, 1));
        assert_eq!(tally.codes["UNAUTHENTICATED"], Failures { count: 2, first: "the first".to_owned() });
        assert_eq!(tally.kinds["connect_refused"].count, 1);
        recorder.restart();
        assert_eq!(recorder.so_far().errors(), 0);
    }
}
