//! One run: the load begins, warms up, is measured, ends, and the server comes to rest. Times and counts are taken at the same moments.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::super::screen;
use super::args::{Args, Mode};
use super::herd::{self, Herd};
use super::idle::{self, Held};
use super::load::Load;
use super::open::OpenLoop;
use super::process::{CpuReading, CpuSource, Memory, Process, own_cpu, own_wait};
use super::progress::Progress;
use super::tally::Tally;
use super::unread::{self, Unread};
use super::{closed, progress};
use crate::clock::Clock;

/// How long answers are waited for after the last request was sent.
const GRACE: Duration = Duration::from_secs(10);
/// How long a server may take to come to rest.
const LONGEST_SETTLING: Duration = Duration::from_secs(600);
/// How often it is looked at, and what share of a core it may still use.
const SETTLING: (Duration, f64) = (Duration::from_millis(250), 0.02);

/// What was measured.
#[derive(Debug)]
pub(super) struct Measured {
    /// From the end of the warm-up to the end of the load.
    pub(super) window: Duration,
    /// Certificates within it.
    pub(super) served_in_window: u64,
    /// Everything from the end of the warm-up until the last answer.
    pub(super) tally: Tally,
    /// Requests without an answer at the end.
    pub(super) unanswered: u64,
    /// Our own processor time within the window.
    pub(super) own_cpu: Duration,
    /// How long we waited for a core within the window.
    pub(super) own_wait: Option<Duration>,
    /// The server.
    pub(super) server: Option<ServerUse>,
    /// The herd.
    pub(super) herd: Option<Arc<Herd>>,
    /// The connections that are held.
    pub(super) held: Option<Arc<Held>>,
    /// How many of them were still open when they had been held for as long as was asked for.
    pub(super) open_after_hold: Option<usize>,
    /// What is never read.
    pub(super) unread: Option<Arc<Unread>>,
}

/// What the server used.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServerUse {
    pub(super) pid: u32,
    /// From the end of the warm-up until the last answer, or until it was at rest.
    pub(super) cpu: Duration,
    pub(super) source: CpuSource,
    /// How long it took to come to rest, where that was waited for.
    pub(super) settled_after: Option<Duration>,
    /// Whether it did.
    pub(super) settled: bool,
    /// Its memory before the load, and at the end.
    pub(super) before: Memory,
    pub(super) after: Memory,
}

/// Runs the load that `args` ask for.
///
/// A server that goes away meanwhile takes none of the results with it, only what it used.
///
/// # Errors
/// In words, where the server's process is gone before the load.
pub(super) async fn run(load: &Arc<Load>, args: &Args, server: Option<&Process>) -> Result<Measured, String> {
    let clock = load.clock.as_ref();
    let progress = Progress::new(screen::is_errors_terminal(), clock.monotonic());
    let mut tasks = JoinSet::new();
    let (mut herd, mut held, mut unread) = (None, None, None);
    let before = server.map(Process::memory).transpose()?;
    if args.warm_up.is_zero() {
        load.warmed_up();
    }
    let mut began = clock.monotonic();
    let mut own = (own_cpu(), own_wait());
    let mut cpu = server.map(Process::cpu).transpose()?;
    match args.mode() {
        Mode::Closed if args.new_connections => closed::with_new_connections(load, args.connections.saturating_mul(args.in_flight), &mut tasks),
        Mode::Closed => closed::on_kept_connections(load, args.connections, args.in_flight, &mut tasks),
        Mode::Open(rate) => {
            let connections = (!args.new_connections).then_some(args.connections);
            tasks.spawn(OpenLoop { rate, connections, max_outstanding: args.max_outstanding }.run(load.clone()));
        }
        Mode::Herd(clients) => herd = Some(herd::send_out(load, clients, &mut tasks)),
        Mode::Idle(connections) => held = Some(idle::open(load, connections, &mut tasks)),
        Mode::Unread => unread = Some(unread::open(load, args.connections, args.in_flight, &mut tasks)),
    }
    if !args.warm_up.is_zero() {
        drive(load, &mut tasks, began + args.warm_up, &progress).await;
        load.warmed_up();
        began = clock.monotonic();
        own = (own_cpu(), own_wait());
        cpu = server.and_then(|process| process.cpu().ok());
    }

    drive(load, &mut tasks, began + args.longest(), &progress).await;
    load.stop();
    let window = clock.monotonic().saturating_sub(began);
    let (own_cpu, own_wait) = (own_cpu().saturating_sub(own.0), own_wait().zip(own.1).map(|(after, before)| after.saturating_sub(before)));
    let served_in_window = load.recorder.so_far().served.count();
    if !matches!(args.mode(), Mode::Herd(_) | Mode::Unread) {
        drive(load, &mut tasks, clock.monotonic() + GRACE, &progress).await;
    }
    let tally = load.recorder.so_far();
    let unanswered = load.unanswered();
    tasks.abort_all();

    let used = match (server, cpu, before) {
        (Some(process), Some(begin), Some(before)) => server_use(clock, process, begin, before, args.settle).await,
        (Some(process), None, _) => Err(format!("process {} has gone", process.pid())),
        _ => Err(String::new()),
    };
    progress.clear();
    let server = match used {
        Ok(used) => Some(used),
        Err(why) if why.is_empty() => None,
        Err(why) => {
            screen::tell(&format!("warning: what the server used isn't known: {why}"));
            None
        }
    };
    let open_after_hold = match (&held, args.hold) {
        (Some(held), Some(time)) => Some(hold(clock, held, time).await),
        _ => None,
    };
    Ok(Measured { window, served_in_window, tally, unanswered, own_cpu, own_wait, server, herd, held, open_after_hold, unread })
}

/// What the server used since `begin`, once it is at rest where that is waited for.
async fn server_use(clock: &dyn Clock, process: &Process, begin: CpuReading, before: Memory, rest: bool) -> Result<ServerUse, String> {
    let (settled_after, settled) = if rest { settle(clock, process).await? } else { (None, false) };
    let (cpu, source) = begin.until(process.cpu()?);
    Ok(ServerUse { pid: process.pid(), cpu, source, settled_after, settled, before, after: process.memory()? })
}

/// Says that all is open, holds it, and counts what is open still.
async fn hold(clock: &dyn Clock, held: &Held, time: Duration) -> usize {
    screen::tell(&format!("{} connections are held for {} s", held.count(), time.as_secs()));
    clock.sleep_until(clock.monotonic() + time).await;
    held.count_open()
}

/// Waits until all tasks have ended or the time has come, and shows how it goes meanwhile.
async fn drive(load: &Load, tasks: &mut JoinSet<()>, until: Duration, progress: &Progress) {
    let clock = load.clock.as_ref();
    let mut look = clock.monotonic() + progress::EACH;
    loop {
        let next = look.min(until);
        tokio::select! {
            biased;
            ended = tasks.join_next() => if ended.is_none() {
                return;
            },
            () = clock.sleep_until(next) => {
                if clock.monotonic() >= until {
                    return;
                }
                progress.show(clock.monotonic(), load.recorder.second());
                look += progress::EACH;
            }
        }
    }
}

/// Waits until the server uses next to nothing, twice in a row: what it does behind the answers is done then.
async fn settle(clock: &dyn Clock, process: &Process) -> Result<(Option<Duration>, bool), String> {
    let began = clock.monotonic();
    let (pause, share) = SETTLING;
    let (mut last, mut quiet) = (process.cpu()?, 0);
    while clock.monotonic().saturating_sub(began) < LONGEST_SETTLING {
        let looked = clock.monotonic();
        clock.sleep_until(looked + pause).await;
        let now = process.cpu()?;
        let (used, _) = last.until(now);
        last = now;
        quiet = if used.as_secs_f64() < share * clock.monotonic().saturating_sub(looked).as_secs_f64() { quiet + 1 } else { 0 };
        if quiet == 2 {
            return Ok((Some(looked.saturating_sub(began)), true));
        }
    }
    Ok((Some(LONGEST_SETTLING), false))
}
