//! Logs, on stderr, as text or as JSON lines. No line is worth a task or a thread: see [`LogLines`].

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Display;
use std::fs::File;
use std::io::{self, IsTerminal, Write, stderr};
use std::os::fd::AsFd;
use std::panic::PanicHookInfo;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::Outcome;
use super::log_lines::LogLines;
use crate::config::{Config, LogFormat};

/// How long the end of a process waits for its last lines to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The log of a process. Dropped, it waits a moment for its last lines to be written.
#[derive(Debug)]
pub(super) struct Log(LogLines);

/// Starts logging. Only the first call of a process counts.
///
/// # Errors
/// The system has no thread or no file handle to give.
pub(super) fn start(config: &Config) -> io::Result<Log> {
    // A handle of our own: whoever waits for standard error's lock must not wait for the one who writes to it.
    let out = File::from(stderr().as_fd().try_clone_to_owned()?);
    let lines = LogLines::start(out, |lost| tracing::warn!(lost, "lines of the log could not be written; the number is that since the start"))?;
    let ours = lines.clone();
    // Libraries say nothing below a warning: their debug lines may quote what peers sent.
    let filter = EnvFilter::new(format!("warn,meshmint={}", config.log_level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_writer(move || ours.clone());
    // Such errors would be told by `eprintln!`, which panics where stderr can't be written.
    let builder = builder.log_internal_errors(false);
    let started = match config.log_format {
        LogFormat::Text => builder.with_ansi(stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    let log = Log(lines);
    match started {
        Ok(()) => std::panic::set_hook(Box::new(tell_panic)),
        Err(error) => log.say(format_args!("meshmint: logging was started already: {error}")),
    }
    Ok(log)
}

impl Log {
    /// How many lines could not be written so far.
    pub(super) fn lost(&self) -> Arc<AtomicU64> {
        self.0.lost()
    }

    /// As [`super::failed`], but never waits for whoever should read it.
    pub(super) fn failed(&self, message: impl Display) -> Outcome {
        self.say(format_args!("error: {message}"));
        Outcome::Failed
    }

    fn say(&self, line: impl Display) {
        // It never fails: what can't be written is counted.
        let _ = self.0.clone().write_all(format!("{line}\n").as_bytes());
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.0.finish(LAST_LINES);
    }
}

/// A panic as a line of the log. The standard hook writes to stderr itself, and waits where nobody reads.
fn tell_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let at = panic.location().map(tracing::field::display);
    // Only where RUST_BACKTRACE asks for it.
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| tracing::field::display(&backtrace));
    let said = panic.payload_as_str().unwrap_or("nothing");
    tracing::error!(thread = thread.name(), at, said, backtrace, "a panic: this is a bug in meshmint, please report it");
}
