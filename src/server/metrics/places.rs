//! What is bounded, and how much of it is taken: one pair of gauges for every bound, so that one chart and one alert show them all.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use prometheus::{Error, IntGauge, IntGaugeVec, Opts, Registry};

use super::{register, whole};

/// Something that there is only so much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Place {
    /// Connections, waiting ones included.
    Connections,
    /// Connections on which nobody has got a certificate yet.
    Strangers,
    /// Bytes that are kept for connections: of requests until they are decoded, of answers until they are read.
    Bytes,
    /// Handshakes that are worked on.
    Handshakes,
    /// New connections that wait for that.
    HandshakeQueue,
    /// Requests from their first step to the answer.
    Requests,
    /// Of these, waiting for their turn.
    AdmissionQueue,
    /// Of these, being checked and signed.
    Working,
    /// Of these, waiting for the ledger.
    Recording,
    /// Writes of any kind that wait for the ledger.
    LedgerQueue,
}

impl Place {
    const ALL: [Self; 10] = [
        Self::Connections,
        Self::Strangers,
        Self::Bytes,
        Self::Handshakes,
        Self::HandshakeQueue,
        Self::Requests,
        Self::AdmissionQueue,
        Self::Working,
        Self::Recording,
        Self::LedgerQueue,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Strangers => "strangers",
            Self::Bytes => "bytes",
            Self::Handshakes => "handshakes",
            Self::HandshakeQueue => "handshake_queue",
            Self::Requests => "requests",
            Self::AdmissionQueue => "admission_queue",
            Self::Working => "working",
            Self::Recording => "recording",
            Self::LedgerQueue => "ledger_queue",
        }
    }
}

/// The gauges, and whom to ask.
pub(super) struct Places {
    taken: IntGaugeVec,
    limits: IntGaugeVec,
    watched: Mutex<Vec<Watched>>,
}

struct Watched {
    gauge: IntGauge,
    taken: Box<dyn Fn() -> usize + Send + Sync>,
}

impl Places {
    pub(super) fn new(registry: &Registry) -> Result<Self, Error> {
        let gauges = |name: &str, help: &str| register(registry, IntGaugeVec::new(Opts::new(name, help), &["of"])?);
        let taken = gauges("meshmint_places_taken", "How much of each bound is taken now.")?;
        let limits = gauges("meshmint_places", "The bounds: what comes beyond one waits or is turned away.")?;
        for place in Place::ALL {
            taken.with_label_values(&[place.name()]);
            limits.with_label_values(&[place.name()]);
        }
        Ok(Self { taken, limits, watched: Mutex::default() })
    }

    pub(super) fn watch(&self, place: Place, limit: usize, taken: impl Fn() -> usize + Send + Sync + 'static) {
        self.limits.with_label_values(&[place.name()]).set(whole(limit));
        let watched = Watched { gauge: self.taken.with_label_values(&[place.name()]), taken: Box::new(taken) };
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).push(watched);
    }

    pub(super) fn refresh(&self) {
        for watched in self.watched.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            watched.gauge.set(whole((watched.taken)()));
        }
    }
}

impl fmt::Debug for Places {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Places").finish_non_exhaustive()
    }
}
