//! Attackers. Each attack has a thread of its own that gives way to everybody else's work, because a real attacker computes elsewhere; it never
//! sends more often than it says, counts what it did, and ends with its value. Its file needs `frames.rs` and `grpc.rs` as sibling modules.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "every suite uses its own part")]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Mutex;
use tokio_rustls::client::TlsStream;

use super::frames::{ACK, DATA, END_STREAM, GOAWAY, HEADERS, RESET, SETTINGS, grpc_headers, h2_frame, hello_with_room};
use super::grpc::{CREATE, Wire, connect_from};

/// How long an attacker waits for anything before it tries anew.
const WAIT: Duration = Duration::from_secs(15);
/// How much less than others its thread gets of a processor that all want.
const NICE: i32 = 10;

/// Suites that measure take turns: what runs beside them would be measured too.
pub static ALONE: Mutex<()> = Mutex::const_new(());

/// Where somebody knocks, and from which address of this machine.
#[derive(Debug, Clone)]
pub struct Door {
    pub address: SocketAddr,
    pub tls: Arc<ClientConfig>,
    pub source: IpAddr,
}

impl Door {
    /// From 127.0.0.2.
    pub fn new(address: SocketAddr, tls: Arc<ClientConfig>) -> Self {
        Self { address, tls, source: IpAddr::from([127, 0, 0, 2]) }
    }

    /// From 127.0.0.`last`.
    pub fn from(&self, last: usize) -> Self {
        Self { source: IpAddr::from([127, 0, 0, u8::try_from(last).unwrap()]), ..self.clone() }
    }

    /// A connection of somebody who keeps to the rules of HTTP/2.
    pub async fn wire(&self) -> io::Result<Wire> {
        let stream = in_time(connect_from(self.source, self.address, self.tls.clone())).await?;
        Wire::over(stream).await.map_err(io::Error::other)
    }
}

/// What an attack did so far.
#[derive(Debug, Default)]
pub struct Seen {
    opened: AtomicUsize,
    held: AtomicUsize,
    failed: AtomicUsize,
    asked: AtomicUsize,
    answered: AtomicUsize,
    sent: AtomicUsize,
    per_second: AtomicU32,
}

impl Seen {
    /// Connections that were let in.
    pub fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }

    /// Of these, open now.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Tries to open one that came to nothing, and connections that broke.
    pub fn failed(&self) -> usize {
        self.failed.load(Ordering::Relaxed)
    }

    /// Requests or streams.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Octets, above TLS.
    pub fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    pub fn count_asked(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_sent(&self, octets: usize) {
        self.sent.fetch_add(octets, Ordering::Relaxed);
    }

    /// From now on.
    pub fn set_pace(&self, per_second: u32) {
        self.per_second.store(per_second, Ordering::Relaxed);
    }

    /// Keeps a connection, and its place, until the server ends it. What comes is thrown away.
    pub async fn hold(&self, mut stream: impl AsyncRead + Unpin) {
        let _held = self.let_in();
        // A reset is as good as an end.
        _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }

    /// Keeps a connection without reading from it.
    pub async fn hold_unread<S>(&self, stream: S, time: Duration) {
        let _held = self.let_in();
        tokio::time::sleep(time).await;
        drop(stream);
    }

    /// A connection was let in; it counts as held as long as the value lives.
    pub fn let_in(&self) -> Held<'_> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.held.fetch_add(1, Ordering::Relaxed);
        Held(self)
    }
}

/// A connection that is open.
pub struct Held<'a>(&'a Seen);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An attack under way.
pub struct Attack {
    runtime: Option<Runtime>,
    pub seen: Arc<Seen>,
}

impl Attack {
    pub fn begin<F: Future<Output = ()> + Send + 'static>(attack: impl FnOnce(Arc<Seen>) -> F) -> Self {
        // On Linux the priority is the thread's.
        let give_way = || rustix::process::setpriority_process(None, NICE).unwrap();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().on_thread_start(give_way).build().unwrap();
        let seen = Arc::new(Seen::default());
        runtime.spawn(attack(seen.clone()));
        Self { runtime: Some(runtime), seen }
    }

    /// Waits until it has come so far, or can't get further in this time; how long that took.
    pub async fn until(&self, at_most: Duration, so: impl Fn(&Seen) -> bool) -> Duration {
        let began = Instant::now();
        while !so(&self.seen) && began.elapsed() < at_most {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        began.elapsed()
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

/// So many at once, each anew as often as it ends, and so many new ones a second at most. `occupy` gets the number of its slot.
pub async fn keep_up<F>(seen: Arc<Seen>, slots: usize, per_second: u32, occupy: impl Fn(usize) -> F + Send + Sync + 'static)
where
    F: Future<Output = io::Result<()>> + Send,
{
    seen.set_pace(per_second);
    let (turn, occupy) = (Arc::new(Mutex::new(())), Arc::new(occupy));
    let slots = (0..slots).map(|slot| {
        let (seen, turn, occupy) = (seen.clone(), turn.clone(), occupy.clone());
        tokio::spawn(async move {
            loop {
                let turn = turn.lock().await;
                tokio::time::sleep(Duration::from_secs(1) / seen.per_second.load(Ordering::Relaxed)).await;
                drop(turn);
                if occupy(slot).await.is_err() {
                    seen.failed.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
    });
    for slot in slots.collect::<Vec<_>>() {
        _ = slot.await;
    }
}

/// A connection on which any frame may be sent at any time.
pub struct Raw {
    pub stream: TlsStream<TcpStream>,
    /// SETTINGS_MAX_CONCURRENT_STREAMS, as the server said last.
    pub streams: u32,
}

impl Raw {
    /// Shakes hands, gives the server leave to send everything, and hears what it allows.
    pub async fn open(door: &Door) -> io::Result<Self> {
        Self::greet(door, &hello_with_room()).await
    }

    /// The same with another hello.
    pub async fn greet(door: &Door, hello: &[u8]) -> io::Result<Self> {
        let stream = in_time(connect_from(door.source, door.address, door.tls.clone())).await?;
        let mut this = Self { stream, streams: 100 };
        this.send(hello).await?;
        while this.frame().await?.kind != SETTINGS {}
        Ok(this)
    }

    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        in_time(async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        })
        .await
    }

    /// Asks for a certificate on the first stream, and gets one; then this is a caller who is known.
    pub async fn certificate(&mut self, bearer: &[u8], message: &[u8]) -> io::Result<()> {
        let headers = grpc_headers(1, CREATE, &[("authorization", bearer)]);
        self.send(&[headers, h2_frame(DATA, END_STREAM, 1, message)].concat()).await?;
        let mut issued = false;
        loop {
            let Frame { kind, flags, stream } = self.frame().await?;
            issued |= kind == DATA && stream == 1;
            if stream == 1 && (kind == RESET || flags & END_STREAM != 0 && matches!(kind, DATA | HEADERS)) {
                break;
            }
        }
        // What the server allows somebody whom it knows, it says now, if it does.
        while tokio::time::timeout(Duration::from_millis(50), self.frame()).await.is_ok_and(|frame| frame.is_ok()) {}
        if issued { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }

    /// The next frame; SETTINGS are heeded.
    async fn frame(&mut self) -> io::Result<Frame> {
        let mut head = [0; 9];
        in_time(self.stream.read_exact(&mut head)).await?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        in_time(self.stream.read_exact(&mut payload)).await?;
        let frame = Frame { kind: head[3], flags: head[4], stream: u32::from_be_bytes(head[5..9].try_into().unwrap()) };
        match frame.kind {
            GOAWAY => return Err(io::ErrorKind::ConnectionAborted.into()),
            SETTINGS if frame.flags & ACK == 0 => {
                let streams = payload.chunks_exact(6).rfind(|setting| setting[..2] == [0, 3]);
                self.streams = streams.map_or(self.streams, |setting| u32::from_be_bytes(setting[2..].try_into().unwrap()));
                self.send(&h2_frame(SETTINGS, ACK, 0, &[])).await?;
            }
            _ => {}
        }
        Ok(frame)
    }
}

/// What there is to know of a frame.
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
}

/// Writes the same for as long as the server takes it, and throws away what it says.
pub async fn flood(stream: impl AsyncRead + AsyncWrite + Send + 'static, bytes: &[u8], seen: &Seen) -> io::Result<()> {
    let _held = seen.let_in();
    let (mut read, mut write) = tokio::io::split(stream);
    let reading = async { tokio::io::copy(&mut read, &mut tokio::io::sink()).await.map(drop) };
    let writing = async {
        loop {
            write.write_all(bytes).await?;
            seen.count_sent(bytes.len());
        }
    };
    tokio::select! { read = reading => read, written = writing => written }
}

/// Gives up after a while.
pub async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(WAIT, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
