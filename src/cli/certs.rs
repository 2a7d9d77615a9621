//! `meshmint certs`: the inventory of every certificate that was issued.

use anstyle::{AnsiColor, Style};
use clap::{Subcommand, ValueEnum};
use prost_types::Timestamp;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::admin_client::{Target, words};
use super::json::to_json;
use super::times::{self, When};
use super::{Outcome, Output, answered, failed};
use crate::clock::SystemClock;
use crate::server::proto::admin::{
    Certificate, GetCertificateRequest, GetStatsRequest, Kind, ListCertificatesRequest, ListCertificatesResponse, State, Stats,
};

/// `meshmint certs`
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    meshmint certs list --namespace shop --state valid\n  \
    meshmint certs list --expires-before +1h -o json\n  \
    meshmint certs show 1a:8e:4c:…\n  \
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
        meshmint certs list --admin /run/meshmint/admin.sock --issued-after -2h --page-size 20")]
    List(ListArgs),
    /// Show everything on record about one certificate, and the certificate
    #[command(after_help = "Examples:\n  \
        meshmint certs show 1a:8e:4c:5b:90:de\n  \
        meshmint certs show 1a8e4c5b90de -o json | jq -r '.certificates[0].pem' | meshmint inspect -")]
    Show(ShowArgs),
    /// Count them
    #[command(after_help = "Example:\n  meshmint certs stats -o json")]
    Stats(StatsArgs),
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    target: Target,
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
    /// Certificates on a page
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
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

#[derive(Debug, clap::Args)]
struct StatsArgs {
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

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StateArg {
    Valid,
    Expired,
    Revoked,
}

pub(super) async fn run(args: Args) -> Outcome {
    let shown = match args.what {
        What::List(args) => list(args).await,
        What::Show(args) => show(args).await,
        What::Stats(args) => stats(args).await,
    };
    shown.map_or_else(failed, |text| answered(&text))
}

async fn list(args: ListArgs) -> Result<String, String> {
    let now = SystemClock::shared().now();
    let time = |when: Option<When>| when.map(|when| timestamp(when.relative_to(now)));
    let kind = match args.kind {
        None => Kind::Unspecified,
        Some(KindArg::Leaf) => Kind::Leaf,
        Some(KindArg::Serving) => Kind::Serving,
        Some(KindArg::Intermediate) => Kind::Intermediate,
        Some(KindArg::Cross) => Kind::Cross,
        Some(KindArg::Root) => Kind::Root,
    };
    let state = match args.state {
        None => State::Unspecified,
        Some(StateArg::Valid) => State::Valid,
        Some(StateArg::Expired) => State::Expired,
        Some(StateArg::Revoked) => State::Revoked,
    };
    let request = ListCertificatesRequest {
        namespace: args.namespace,
        service_account: args.service_account,
        holder: args.holder,
        issuer: args.issuer,
        kind: kind.into(),
        state: state.into(),
        issued_after: time(args.issued_after),
        issued_before: time(args.issued_before),
        expires_after: time(args.expires_after),
        expires_before: time(args.expires_before),
        page_size: args.page_size,
        page_token: args.page_token,
    };
    let page = args.target.connect().await?.list_certificates(request).await.map_err(|status| words(&status))?.into_inner();
    match args.output {
        Output::Json => json("ListCertificatesResponse", &page),
        Output::Text => Ok(table(&page)),
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

async fn stats(args: StatsArgs) -> Result<String, String> {
    let stats = args.target.connect().await?.get_stats(GetStatsRequest {}).await.map_err(|status| words(&status))?.into_inner();
    match args.output {
        Output::Json => json("Stats", &stats),
        Output::Text => Ok(counts(&stats)),
    }
}

fn json<M: prost::Message>(name: &str, message: &M) -> Result<String, String> {
    to_json(name, message).map(|json| json + "\n")
}

fn table(page: &ListCertificatesResponse) -> String {
    const BOLD: Style = Style::new().bold();
    let mut text = format!("{BOLD}{:<40}  {:<12}  {:<7}  {:<20}  {}{BOLD:#}\n", "SERIAL", "KIND", "STATE", "EXPIRES", "FOR");
    for certificate in &page.certificates {
        let style = state_style(certificate.state());
        let whom = if certificate.spiffe_id.is_empty() { "-" } else { &certificate.spiffe_id };
        text += &format!(
            "{:<40}  {:<12}  {style}{:<7}{style:#}  {:<20}  {whom}\n",
            certificate.serial,
            kind_name(certificate.kind()),
            state_name(certificate.state()),
            rfc3339(certificate.not_after.as_ref()),
        );
    }
    if page.certificates.is_empty() {
        text += "(none)\n";
    }
    if !page.next_page_token.is_empty() {
        text += &format!("\nThere are more: add --page-token {}\n", page.next_page_token);
    }
    text
}

fn details(certificate: &Certificate) -> String {
    let object = |object: &Option<crate::server::proto::admin::ObjectReference>| {
        object.as_ref().map(|object| format!("{} (UID {})", object.name, object.uid)).unwrap_or_default()
    };
    let credential = certificate.credential().as_str_name().trim_start_matches("CREDENTIAL_").to_lowercase().replace('_', " ");
    let rows = [
        ("SPIFFE ID", certificate.spiffe_id.clone()),
        ("serial", certificate.serial.clone()),
        ("kind", kind_name(certificate.kind()).to_owned()),
        ("state", state_name(certificate.state()).to_owned()),
        ("issued", rfc3339(certificate.issued_at.as_ref())),
        ("not before", rfc3339(certificate.not_before.as_ref())),
        ("not after", rfc3339(certificate.not_after.as_ref())),
        ("revoked", rfc3339(certificate.revoked_at.as_ref())),
        ("reason", certificate.revocation_reason.clone()),
        ("namespace", certificate.namespace.clone()),
        ("service account", certificate.service_account.clone()),
        ("pod", object(&certificate.pod)),
        ("node", object(&certificate.node)),
        ("cluster", certificate.cluster.clone()),
        ("holder", certificate.holder.clone()),
        ("credential", credential),
        ("issuer", certificate.issuer.clone()),
        ("generation", certificate.generation.to_string()),
        ("bundle number", certificate.bundle_number.to_string()),
        ("SHA-256", certificate.sha256.clone()),
        ("profile digest", certificate.profile_digest.clone()),
        ("replica", format!("{} (record {})", certificate.replica, certificate.replica_sequence)),
    ];
    let lines = rows.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("{name:<16} {value}\n"));
    lines.collect::<String>() + &certificate.pem
}

fn counts(stats: &Stats) -> String {
    let mut text = format!(
        "on record        {}\nvalid            {}\nexpired          {}\nrevoked          {}\nlive holders     {}\nnext expiry      {}\n",
        stats.total,
        stats.valid,
        stats.expired,
        stats.revoked,
        stats.live_holders,
        stats.next_expiry.as_ref().map_or_else(|| "-".to_owned(), |at| rfc3339(Some(at))),
    );
    if !stats.rows.is_empty() {
        text += &format!("\n{:<12}  {:>10}  {:<32}  {:>10}  {:>10}\n", "KIND", "GENERATION", "ISSUER", "ON RECORD", "VALID");
    }
    for row in &stats.rows {
        text += &format!("{:<12}  {:>10}  {:<32}  {:>10}  {:>10}\n", kind_name(row.kind()), row.generation, row.issuer, row.total, row.valid);
    }
    text
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Unspecified => "-",
        Kind::Leaf => "leaf",
        Kind::Serving => "serving",
        Kind::Intermediate => "intermediate",
        Kind::Cross => "cross",
        Kind::Root => "root",
    }
}

fn state_name(state: State) -> &'static str {
    match state {
        State::Unspecified => "-",
        State::Valid => "valid",
        State::Expired => "expired",
        State::Revoked => "revoked",
    }
}

fn state_style(state: State) -> Style {
    match state {
        State::Valid => AnsiColor::Green.on_default(),
        State::Revoked => AnsiColor::Red.on_default(),
        State::Expired | State::Unspecified => Style::new().dimmed(),
    }
}

fn timestamp(at: OffsetDateTime) -> Timestamp {
    Timestamp { seconds: at.unix_timestamp(), nanos: i32::try_from(at.nanosecond()).unwrap_or(0) }
}

/// A time for people, to the second; empty where it is not set.
fn rfc3339(at: Option<&Timestamp>) -> String {
    at.and_then(|at| OffsetDateTime::from_unix_timestamp(at.seconds).ok()).and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
}
