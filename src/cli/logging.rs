//! Logs, on stderr, as text or as JSON lines.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};

/// Starts logging. Only the first call of a process counts.
pub(super) fn start(config: &Config) {
    // Libraries say nothing below a warning: their debug lines may quote what peers sent.
    let filter = EnvFilter::new(format!("warn,meshmint={}", config.log_level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let started = match config.log_format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if let Err(error) = started {
        eprintln!("meshmint: logging was started already: {error}");
    }
}
