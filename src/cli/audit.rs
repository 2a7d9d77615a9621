//! `meshmint audit`: who changed what, and why.

use anstyle::Style;
use clap::Subcommand;

use super::admin_client::{Target, words};
use super::json::to_json;
use super::times::rfc3339;
use super::{Outcome, Output, answered, failed};
use crate::server::proto::admin::{ListAuditRequest, ListAuditResponse};

/// `meshmint audit`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  meshmint audit list\n  meshmint audit list -o json | jq '.entries[] | select(.action == \"authority.trust.add\")'"
)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List changes, newest first
    #[command(after_help = "Examples:\n  meshmint audit list\n  meshmint audit list --page-size 20 -o json")]
    List(ListArgs),
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    target: Target,
    /// Entries on a page
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    page_size: u32,
    /// Where to go on: what the page before ended with
    #[arg(long, value_name = "TOKEN", default_value = "", hide_default_value = true)]
    page_token: String,
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(super) async fn run(args: Args) -> Outcome {
    let What::List(args) = args.what;
    list(args).await.map_or_else(failed, |text| answered(&text))
}

async fn list(args: ListArgs) -> Result<String, String> {
    let request = ListAuditRequest { page_size: args.page_size, page_token: args.page_token };
    let page = args.target.connect().await?.list_audit(request).await.map_err(|status| words(&status))?.into_inner();
    match args.output {
        Output::Json => to_json("ListAuditResponse", &page).map(|json| json + "\n"),
        Output::Text => Ok(table(&page)),
    }
}

fn table(page: &ListAuditResponse) -> String {
    const BOLD: Style = Style::new().bold();
    let mut text = format!("{BOLD}{:<20}  {:<28}  {:<24}  {}{BOLD:#}\n", "AT", "WHO", "WHAT", "REASON");
    for entry in &page.entries {
        text += &format!("{:<20}  {:<28}  {:<24}  {}\n", rfc3339(entry.at.as_ref()), entry.actor, entry.action, entry.reason);
        if !entry.detail.is_empty() {
            text += &format!("{:<20}  {}\n", "", entry.detail);
        }
    }
    if page.entries.is_empty() {
        text += "(none)\n";
    }
    if !page.next_page_token.is_empty() {
        text += &format!("\nThere are more: add --page-token {}\n", page.next_page_token);
    }
    text
}
