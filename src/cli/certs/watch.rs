//! `meshmint certs watch`: a line for each certificate, as it is recorded.

use std::io::ErrorKind;

use super::super::admin_client::{Target, words};
use super::super::serve::StopSignals;
use super::super::{Outcome, Output, answered, screen};
use super::Which;
use super::text::Lines;
use crate::server::proto::admin::WatchCertificatesRequest;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    which: Which,
    /// End after so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Lines for people, or one JSON object a line
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Where a watch goes on: after a page, or not at all.
enum Next {
    Page(String),
    Ended(Outcome),
}

pub(super) async fn run(args: Args) -> Result<Outcome, String> {
    let mut stop = StopSignals::new().map_err(|error| format!("signals can't be handled: {error}"))?;
    let request = WatchCertificatesRequest {
        kind: args.which.kind().into(),
        namespace: args.which.namespace,
        service_account: args.which.service_account,
        holder: args.which.holder,
        issuer: args.which.issuer,
    };
    let mut client = args.target.connect().await?;
    let mut pages = client.watch_certificates(request).await.map_err(|status| words(&status))?.into_inner();
    let lines = Lines::of(args.output)?;
    // Whoever sees this line, or finds the command running, misses nothing that is recorded from now on.
    let heading = lines.heading();
    if !heading.is_empty() && answered(&heading) == Outcome::Failed {
        return Ok(Outcome::Failed);
    }
    let mut left = args.limit.unwrap_or(u64::MAX);
    loop {
        let next = tokio::select! {
            () = stop.received() => Next::Ended(Outcome::Ok),
            page = pages.message() => match page {
                Ok(Some(page)) => Next::Page(lines.of_page(&page.certificates, &mut left)?),
                Ok(None) => return Err(lost("the server ended the watch")),
                Err(status) => return Err(lost(&words(&status))),
            },
        };
        let text = match next {
            Next::Page(text) => text,
            Next::Ended(outcome) => return Ok(outcome),
        };
        // A terminal that stands still blocks a write: on a thread of its own, so that Ctrl-C is still heard.
        let written = tokio::task::spawn_blocking(move || screen::write(&text));
        tokio::select! {
            () = stop.received() => return Ok(Outcome::Ok),
            written = written => match written.map_err(|error| error.to_string())? {
                Ok(()) if left == 0 => return Ok(Outcome::Ok),
                Ok(()) => {}
                // A reader that has gone (`| head`) is no failure.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(Outcome::Ok),
                Err(error) => return Err(format!("can't write: {error}")),
            },
        }
    }
}

fn lost(why: &str) -> String {
    format!(
        "the watch ended: {why}. Start it again once the server runs (`meshmint check` says what is wrong); `meshmint certs list` has what \
         was recorded meanwhile"
    )
}
