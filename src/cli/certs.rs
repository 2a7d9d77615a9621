//! `meshmint certs`: the inventory of every certificate that was issued.

mod chart;
mod stats;
mod text;
mod watch;

use std::io::ErrorKind;

use clap::{Subcommand, ValueEnum};
use prost_types::Timestamp;
use time::OffsetDateTime;

use self::text::{Lines, details, table};
use super::admin_client::{Target, words};
use super::json::to_json;
use super::times::{self, When};
use super::{Outcome, Output, answered, failed, screen};
use crate::clock::SystemClock;
use crate::server::proto::admin::{GetCertificateRequest, Kind, ListCertificatesRequest, State};

/// The most certificates on a page.
const MOST: u32 = 1000;

/// `meshmint certs`
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    meshmint certs list --namespace shop --state valid\n  \
    meshmint certs list --expires-before +1h -o json\n  \
    meshmint certs show 1a:8e:4c:…\n  \
    meshmint certs watch --namespace shop\n  \
    meshmint certs stats")]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List certificates, newest first
    ///
    /// The order is that of recording. With --issued-after or --issued-before it is that of issue; otherwise, with --expires-after,
    /// --expires-before or --state expired, that of expiry (by the minute), the latest first.
    #[command(after_help = "Examples:\n  \
        meshmint certs list --namespace shop --state valid\n  \
        meshmint certs list --kind leaf --expires-before +1h -o json\n  \
        meshmint certs list --all -o json | jq -r .spiffeId | sort | uniq -c\n  \
        meshmint certs list --admin /run/meshmint/admin.sock --issued-after -2h --page-size 20\n  \
        meshmint certs list --kube --context staging --state valid")]
    List(ListArgs),
    /// Show everything on record about one certificate, and the certificate
    #[command(after_help = "Examples:\n  \
        meshmint certs show 1a:8e:4c:5b:90:de\n  \
        meshmint certs show 1a8e4c5b90de -o json | jq -r '.certificates[0].pem' | meshmint inspect -")]
    Show(ShowArgs),
    /// Follow issuance: one line for each certificate, as it is recorded
    #[command(after_help = "Examples:\n  \
        meshmint certs watch\n  \
        meshmint certs watch --namespace shop --limit 10\n  \
        meshmint certs watch -o json | jq -r .spiffeId\n\n\
        Ctrl-C ends it with exit code 0. A reader that is too slow misses nothing, it only sees it later.")]
    Watch(watch::Args),
    /// Count them: rates, lifetimes, kinds of keys, what expires next
    #[command(after_help = "Examples:\n  meshmint certs stats\n  meshmint certs stats -o json | jq .issuedPerMinute")]
    Stats(stats::Args),
}

/// Which certificates.
#[derive(Debug, clap::Args)]
struct Which {
    /// Kubernetes namespace
    #[arg(long, value_name = "NS", default_value = "", hide_default_value = true)]
    namespace: String,
    /// Kubernetes service account
    #[arg(long, value_name = "SA", default_value = "", hide_default_value = true)]
    service_account: String,
    /// What keeps it alive, as `certs show` prints it
    #[arg(long, value_name = "HOLDER", default_value = "", hide_default_value = true)]
    holder: String,
    /// The authority that signed, as `certs show` prints it
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    issuer: String,
    /// What it is for
    #[arg(long, value_enum)]
    kind: Option<KindArg>,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    which: Which,
    /// Whether it can still be used
    #[arg(long, value_enum)]
    state: Option<StateArg>,
    /// Issued at this time or later: RFC 3339, or relative to now (-2h)
    #[arg(long, value_name = "TIME", value_parser = times::parse, allow_hyphen_values = true)]
    issued_after: Option<When>,
    /// Issued before this time
    #[arg(long, value_name = "TIME", value_parser = times::parse, allow_hyphen_values = true)]
    issued_before: Option<When>,
    /// Expires at this time or later
    #[arg(long, value_name = "TIME", value_parser = times::parse, allow_hyphen_values = true)]
    expires_after: Option<When>,
    /// Expires before this time (+1h)
    #[arg(long, value_name = "TIME", value_parser = times::parse, allow_hyphen_values = true)]
    expires_before: Option<When>,
    /// All of them, page after page as they come; with -o json a line for each
    #[arg(long, conflicts_with_all = ["page_size", "page_token"])]
    all: bool,
    /// Certificates on a page
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST)))]
    page_size: u32,
    /// Where to go on: what the page before ended with
    #[arg(long, value_name = "TOKEN", default_value = "", hide_default_value = true)]
    page_token: String,
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// The serial number: hex, with or without colons and leading zeros
    serial: String,
    #[command(flatten)]
    target: Target,
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum KindArg {
    Leaf,
    Serving,
    Intermediate,
    Cross,
    Root,
}

impl Which {
    fn kind(&self) -> Kind {
        match self.kind {
            None => Kind::Unspecified,
            Some(KindArg::Leaf) => Kind::Leaf,
            Some(KindArg::Serving) => Kind::Serving,
            Some(KindArg::Intermediate) => Kind::Intermediate,
            Some(KindArg::Cross) => Kind::Cross,
            Some(KindArg::Root) => Kind::Root,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StateArg {
    Valid,
    Expired,
    Revoked,
}

pub(super) async fn run(args: Args) -> Outcome {
    let shown = match args.what {
        What::List(args) => return list(args).await.unwrap_or_else(failed),
        What::Show(args) => show(args).await,
        What::Stats(args) => stats::run(args).await,
        What::Watch(args) => return watch::run(args).await.unwrap_or_else(failed),
    };
    shown.map_or_else(failed, |text| answered(&text))
}

async fn list(args: ListArgs) -> Result<Outcome, String> {
    let now = SystemClock::shared().now();
    let time = |when: Option<When>| when.map(|when| timestamp(when.relative_to(now)));
    let state = match args.state {
        None => State::Unspecified,
        Some(StateArg::Valid) => State::Valid,
        Some(StateArg::Expired) => State::Expired,
        Some(StateArg::Revoked) => State::Revoked,
    };
    let mut request = ListCertificatesRequest {
        kind: args.which.kind().into(),
        namespace: args.which.namespace,
        service_account: args.which.service_account,
        holder: args.which.holder,
        issuer: args.which.issuer,
        state: state.into(),
        issued_after: time(args.issued_after),
        issued_before: time(args.issued_before),
        expires_after: time(args.expires_after),
        expires_before: time(args.expires_before),
        page_size: if args.all { MOST } else { args.page_size },
        page_token: args.page_token,
    };
    let mut client = args.target.connect().await?;
    let mut next = async |request: &ListCertificatesRequest| {
        client.list_certificates(request.clone()).await.map(tonic::Response::into_inner).map_err(|status| words(&status))
    };
    if !args.all {
        let page = next(&request).await?;
        return Ok(answered(&match args.output {
            Output::Json => json("ListCertificatesResponse", &page)?,
            Output::Text => table(&page),
        }));
    }
    // Printed as they come: nobody keeps a million of them in memory.
    let lines = Lines::of(args.output)?;
    let (mut text, mut left) = (lines.heading(), u64::MAX);
    loop {
        let page = next(&request).await?;
        text += &lines.of_page(&page.certificates, &mut left)?;
        match screen::write(&std::mem::take(&mut text)) {
            Ok(()) if page.next_page_token.is_empty() => return Ok(Outcome::Ok),
            Ok(()) => request.page_token = page.next_page_token,
            // A reader that has gone (`| head`) is no failure.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(Outcome::Ok),
            Err(error) => return Err(format!("can't write: {error}")),
        }
    }
}

async fn show(args: ShowArgs) -> Result<String, String> {
    let request = GetCertificateRequest { serial: args.serial };
    let found = args.target.connect().await?.get_certificate(request).await.map_err(|status| words(&status))?.into_inner();
    match args.output {
        Output::Json => json("GetCertificateResponse", &found),
        Output::Text => Ok(found.certificates.iter().map(details).collect::<Vec<_>>().join("\n")),
    }
}

fn json<M: prost::Message>(name: &str, message: &M) -> Result<String, String> {
    to_json(name, message).map(|json| json + "\n")
}

fn timestamp(at: OffsetDateTime) -> Timestamp {
    Timestamp { seconds: at.unix_timestamp(), nanos: i32::try_from(at.nanosecond()).unwrap_or(0) }
}
