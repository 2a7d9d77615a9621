//! Honest clients beside an attack: what they get alone, what they get then, and what they must keep of it. Its file needs `csrs.rs`, `frames.rs`,
//! `grpc.rs` and `hostile.rs` as sibling modules.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "every suite uses its own part")]

use std::fmt;
use std::time::{Duration, Instant};

use meshmint::server::proto::istio::IstioCertificateRequest;
use tonic::Code;

use super::csrs::request;
use super::grpc::{Wire, bearer};
use super::hostile::Door;

/// How long one try may take.
const TRY: Duration = Duration::from_secs(5);
/// The time from the beginning of one try to that of the next, where it was over by then: 80 a second, as a hundred nodes would want at the worst of times. Who
/// asked as fast as it is answered would measure how busy the server is, and it may be as busy as it likes.
const EVERY: Duration = Duration::from_micros(12_500);
/// The pause after a try that failed.
const PAUSE: Duration = Duration::from_millis(100);
/// What must be left: of the pace alone, and of the tries.
const PACE: f64 = 0.5;
const TRIES: f64 = 0.95;

/// How somebody fared who tries again and again, one after the other.
#[derive(Debug, Default)]
pub struct Fared {
    tries: u32,
    good: u32,
    took: Duration,
    longest: Duration,
    /// The latest.
    trouble: String,
}

/// Tries for so long, at an honest pace.
pub async fn try_for(time: Duration, mut once: impl AsyncFnMut() -> Result<(), String>) -> Fared {
    let (began, mut fared) = (Instant::now(), Fared::default());
    let mut next = tokio::time::interval(EVERY);
    next.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while began.elapsed() < time {
        next.tick().await;
        let tried = Instant::now();
        let outcome = tokio::time::timeout(TRY, once()).await.unwrap_or_else(|_| Err("it took too long".to_owned()));
        fared.tries += 1;
        fared.longest = fared.longest.max(tried.elapsed());
        match outcome {
            Ok(()) => fared.good += 1,
            Err(trouble) => {
                fared.trouble = trouble;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    fared.took = began.elapsed();
    fared
}

impl Fared {
    /// What went well, in a second.
    pub fn pace(&self) -> f64 {
        f64::from(self.good) / self.took.as_secs_f64()
    }

    fn share(&self) -> f64 {
        f64::from(self.good) / f64::from(self.tries.max(1))
    }

    /// Whether the machine may be the reason that too little is left, because others work on it, too. Then measuring alone once more tells, after
    /// [`until_idle`].
    pub fn only_slow(&self, alone: &Self) -> bool {
        self.share() >= TRIES && self.pace() < PACE * alone.pace()
    }

    /// What there is to complain of, where too little is left.
    pub fn complaint(&self, alone: &Self, attack: &str) -> Option<String> {
        let text = format!("{attack}: alone {alone}; beside it {self}; {:.0} % of the pace", 100.0 * self.pace() / alone.pace());
        eprintln!("{text}");
        let enough = self.share() >= TRIES && self.pace() >= PACE * alone.pace();
        (!enough).then_some(text)
    }
}

impl fmt::Display for Fared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tries, good, longest, trouble, .. } = self;
        write!(formatter, "{good} of {tries} tries, {:.1}/s, the longest {longest:.2?} {trouble}", self.pace())
    }
}

/// Waits until a process has nothing to do any more, as after an attack. It may take half a minute, and then that is how it is.
pub async fn until_idle(pid: u32) {
    const LOOK: Duration = Duration::from_millis(200);
    // proc(5): user and system time are 14 and 15 in hundredths of a second; what is before the ")" may hold spaces.
    let worked = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields = stat.rsplit_once(") ").unwrap().1.split(' ').skip(11).take(2);
        fields.map(|field| field.parse::<u32>().unwrap()).sum::<u32>()
    };
    let began = Instant::now();
    let mut before = worked();
    while began.elapsed() < Duration::from_secs(30) {
        tokio::time::sleep(LOOK).await;
        let now = worked();
        if now - before <= 2 {
            return;
        }
        before = now;
    }
}

/// A workload that needs a new connection for each certificate.
pub struct Workload {
    door: Door,
    bearer: Vec<u8>,
    request: IstioCertificateRequest,
}

impl Workload {
    pub fn new(door: Door, token: &str) -> Self {
        Self { door, bearer: bearer(token), request: request() }
    }

    /// On a new connection.
    pub async fn once(&self) -> Result<(), String> {
        self.ask(&self.door.wire().await.map_err(|error| error.to_string())?).await
    }

    /// On a connection that is there.
    pub async fn ask(&self, wire: &Wire) -> Result<(), String> {
        let answer = wire.try_ask(&[("authorization", &self.bearer)], &self.request).await.map_err(|error| error.to_string())?;
        match answer.status.code() {
            Code::Ok => Ok(()),
            code => Err(format!("{code:?}: {}", answer.status.message())),
        }
    }

    /// Tries for so long.
    pub async fn try_for(&self, time: Duration) -> Fared {
        try_for(time, async || self.once().await).await
    }
}
