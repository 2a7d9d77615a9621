//! One HTTP/2 connection under its bounds: few header fields, small windows, frames that cost a peer nothing, the time of a stranger, and the
//! connection's age. It ends when its place is needed more.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tonic::body::Body;

use super::answer::Answer;
use super::gather::Gather;
use super::paced::{Fared, Paced};
use super::whole::hold_headers;
use crate::bounds::{Departure, Held, Member, Share, Working};
use crate::clock::{Clock, Entropy, fraction, within};

/// The bounds of a door's connections.
#[derive(Debug, Clone, Copy)]
pub(in crate::server) struct Http2 {
    /// Requests on one connection at once.
    pub(in crate::server) streams: u32,
    /// How long somebody may stay a stranger.
    pub(in crate::server) stranger_time: Duration,
    /// After this age (a tenth more or less) a connection is told to go away.
    pub(in crate::server) age: Duration,
    /// How long requests that are under way may take to finish after that, or at shutdown.
    pub(in crate::server) drain_time: Duration,
    /// A connection that is silent for this long is pinged, and dropped where nobody answers.
    pub(in crate::server) keepalive: Duration,
}

/// Request headers beyond this fail their stream; a token has about 1 KiB, up to 12 where somebody tries.
const MAX_HEADER_BYTES: u32 = 32 * 1024;
/// Fields of them; agents send ten, and each costs more than its bytes.
const MAX_HEADER_FIELDS: usize = 64;
/// Streams that a peer may open and reset before we answered (CVE-2023-44487) until its connection is closed.
const MAX_PENDING_RESETS: usize = 50;
/// Streams that a stranger may have under way. An agent has one, ztunnel eight. The peer was told of more, which come with the first certificate; what is
/// above is reset as if it hadn't been, with the code that says that it may be sent again (RFC 9113 §8.7).
const STRANGERS_STREAMS: usize = 16;
/// Bytes of requests that may be on their way on a stream, and on a connection: a few requests' worth. They are read as they come.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 128 * 1024;
/// How long somebody who has to go, and isn't slow, has to take notice; and whoever has nothing under way.
const NOTICE: Duration = Duration::from_secs(1);

/// What is known of a connection while its requests are answered; it travels in their extensions.
#[derive(Debug, Clone)]
pub(in crate::server) struct Connection {
    member: Arc<Member>,
    /// On whose account it goes: by its address, and by names once they are known.
    address: Share,
    known: Arc<OnceLock<Share>>,
    /// Whoever turns its requests away says so here: then it is read again after a pause.
    fared: Arc<Fared>,
}

/// More header fields than any client of ours sends; they are gone already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) struct TooManyFields;

impl Connection {
    pub(in crate::server) fn new(member: Arc<Member>, address: Share) -> Self {
        Self { member, address, known: Arc::default(), fared: Arc::default() }
    }

    /// Somebody proved on it who he is.
    pub(in crate::server) fn becomes_known(&self, share: Share) {
        if self.known.set(share).is_ok() {
            self.member.becomes_known(share);
        }
    }

    /// Whether somebody has.
    pub(in crate::server) fn is_known(&self) -> bool {
        self.known.get().is_some()
    }

    /// On whose account it goes.
    pub(in crate::server) fn share(&self) -> Share {
        self.known.get().copied().unwrap_or(self.address)
    }

    /// While this lives it is us who have something to do for it.
    pub(in crate::server) fn works(&self) -> Working {
        self.member.works()
    }

    /// It has to go: too much on it was refused.
    pub(in crate::server) fn dismiss(&self) {
        self.member.dismiss();
    }

    #[cfg(test)]
    pub(in crate::server) fn has_to_go(&self) -> bool {
        futures_util::FutureExt::now_or_never(self.member.departure()).is_some()
    }

    /// A request of it was turned away.
    pub(in crate::server) fn turn_away(&self) {
        self.fared.refused();
    }

    /// A request of it was served.
    pub(in crate::server) fn served(&self) {
        self.fared.served();
    }
}

/// Serves a connection until the peer leaves, it is too old, it has to make room, or we shut down; returns why it ended. `answer` gets each request, and
/// the bytes that it holds for as long as that isn't dropped.
pub(in crate::server) async fn serve<F>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    connection: &Connection,
    bounds: &Http2,
    (clock, entropy): (&Arc<dyn Clock>, &dyn Entropy),
    mut shutdown: watch::Receiver<bool>,
    answer: impl Fn(Request<Incoming>, Result<Held, TooManyFields>) -> F,
) -> &'static str
where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let member = connection.member.clone();
    let stream = Gather::new(Paced::new(stream, clock.clone(), connection.fared.clone()), member.clone());
    let streams = Arc::new(());
    let service = service_fn(|mut request: Request<Incoming>| {
        let under_way = Arc::clone(&streams);
        // Itself, and the one that they are counted by.
        let too_many = !member.is_known() && Arc::strong_count(&streams) > STRANGERS_STREAMS + 1;
        // Done in the connection's own turn, so too many fields are gone before more than the frames of this turn (16 KiB) can come.
        let held = if request.headers().len() > MAX_HEADER_FIELDS {
            request.headers_mut().clear();
            Err(TooManyFields)
        } else {
            Ok(hold_headers(request.headers(), &member))
        };
        let answering = if too_many {
            // Its headers are gone already, and it is read again after a pause.
            connection.turn_away();
            None
        } else {
            Some((answer(request, held), member.clone()))
        };
        async move {
            let Some((answering, member)) = answering else { return Err(h2::Error::from(h2::Reason::REFUSED_STREAM)) };
            Ok(Answer::of(answering.await, member, under_way).await)
        }
    });
    let mut served = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(bounds.streams)
            .max_header_list_size(MAX_HEADER_BYTES)
            .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(bounds.keepalive)
            .keep_alive_timeout(bounds.keepalive)
            .serve_connection(TokioIo::new(stream), service)
    );
    let stays = async {
        clock.sleep_until(clock.monotonic() + bounds.stranger_time).await;
        if member.is_known() {
            std::future::pending::<()>().await;
        }
    };
    // Without random bytes every connection just has the same age.
    let share = 0.9 + 0.2 * fraction(entropy).unwrap_or(0.5);
    let (reason, time, has_to_go) = tokio::select! {
        ended = served.as_mut() => return if ended.is_ok() { "closed_by_peer" } else { "broken" },
        () = clock.sleep_until(clock.monotonic() + bounds.age.mul_f64(share)) => ("age", bounds.drain_time, false),
        () = stays => ("stranger", bounds.drain_time, false),
        departure = member.departure() => match departure {
            Departure::MadeRoom | Departure::Dismissed => (label(departure), NOTICE, true),
            Departure::TooManyBytes | Departure::TooSlow => return label(departure),
        },
        _ = shutdown.wait_for(|stop| *stop) => ("shutdown", bounds.drain_time, false),
    };
    served.as_mut().graceful_shutdown();
    let taking_leave = async {
        let noticed = within(clock.as_ref(), NOTICE.min(time), served.as_mut()).await.is_some();
        // Who has no request under way, and takes no notice, isn't waited for.
        if noticed || member.holds_bytes() && within(clock.as_ref(), time.saturating_sub(NOTICE), served).await.is_some() {
            reason
        } else {
            "cut_off"
        }
    };
    tokio::select! {
        ended = taking_leave => ended,
        departure = member.departure(), if !has_to_go => label(departure),
    }
}

fn label(departure: Departure) -> &'static str {
    match departure {
        Departure::MadeRoom => "made_room",
        Departure::Dismissed => "dismissed",
        Departure::TooManyBytes => "too_many_bytes",
        Departure::TooSlow => "too_slow",
    }
}
