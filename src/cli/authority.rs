//! `meshmint authority`: what signs and what is trusted, and letting a root of another CA join the trust bundle.

mod text;

use std::io::Read as _;
use std::path::PathBuf;

use clap::Subcommand;

use self::text::{details, table, trusted};
use super::admin_client::{Target, words};
use super::json::to_json;
use super::{Outcome, Output, answered, failed};
use crate::server::proto::admin::{AddTrustRequest, GetAuthorityRequest, ListAuthoritiesRequest};

/// `meshmint authority`
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    meshmint authority list\n  \
    meshmint authority show 3f2a\n  \
    meshmint authority trust add istiod-root.pem --reason 'istiod signs until Friday'")]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List our authorities, and the roots of the trust bundle
    #[command(after_help = "Examples:\n  \
        meshmint authority list\n  \
        meshmint authority list -o json | jq '.authorities[] | select(.trusted)'")]
    List(ListArgs),
    /// Show one authority or root, with its certificate
    #[command(after_help = "Examples:\n  \
        meshmint authority show 3f2a\n  \
        meshmint authority show 3f2a -o json | jq -r .authority.pem | meshmint inspect -")]
    Show(ShowArgs),
    /// Change which roots are trusted
    #[command(after_help = "Examples:\n  meshmint authority trust add istiod-root.pem --reason 'istiod signs until Friday'")]
    Trust(TrustArgs),
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    target: Target,
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// Its id, as `authority list` prints it, or at least the first four digits
    id: String,
    #[command(flatten)]
    target: Target,
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, clap::Args)]
struct TrustArgs {
    #[command(subcommand)]
    what: TrustWhat,
}

#[derive(Debug, Subcommand)]
enum TrustWhat {
    /// Let a root join the trust bundle whose key isn't ours, for a mesh that moves from one CA to another
    ///
    /// Every workload trusts it from its next certificate on; it never authenticates a caller to meshmint. It must be of the same trust
    /// domain. Adding a root that is there already changes nothing.
    #[command(after_help = "Examples:\n  \
        kubectl get configmap istio-ca-root-cert -o jsonpath='{.data.root-cert\\.pem}' > istiod-root.pem\n  \
        meshmint authority trust add istiod-root.pem --reason 'istiod signs until Friday'\n  \
        meshmint authority trust add istiod-root.pem --reason 'istiod signs until Friday' --kube --as-service-account alice")]
    Add(AddArgs),
}

#[derive(Debug, clap::Args)]
struct AddArgs {
    /// The root, PEM: exactly one certificate; - for stdin
    #[arg(value_name = "ROOT.pem|-")]
    root: PathBuf,
    /// Why; it goes into the audit (`meshmint audit list`)
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    target: Target,
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How much of stdin is read: far more than a root may have.
const MAX_ROOT: u64 = 64 * 1024;

pub(super) async fn run(args: Args) -> Outcome {
    let shown = match args.what {
        What::List(args) => list(args).await,
        What::Show(args) => show(args).await,
        What::Trust(TrustArgs { what: TrustWhat::Add(args) }) => add(args).await,
    };
    shown.map_or_else(failed, |text| answered(&text))
}

async fn list(args: ListArgs) -> Result<String, String> {
    let list = args.target.connect().await?.list_authorities(ListAuthoritiesRequest {}).await.map_err(|status| words(&status))?.into_inner();
    match args.output {
        Output::Json => json("ListAuthoritiesResponse", &list),
        Output::Text => Ok(table(&list)),
    }
}

async fn show(args: ShowArgs) -> Result<String, String> {
    let request = GetAuthorityRequest { id: args.id };
    let found = args.target.connect().await?.get_authority(request).await.map_err(|status| words(&status))?.into_inner();
    match args.output {
        Output::Json => json("GetAuthorityResponse", &found),
        Output::Text => Ok(found.authority.as_ref().map(details).unwrap_or_default()),
    }
}

async fn add(args: AddArgs) -> Result<String, String> {
    let read = if args.root.as_os_str() == "-" {
        let mut pem = String::new();
        // One byte more than is taken, so that what is too long is told as such.
        std::io::stdin().take(MAX_ROOT + 1).read_to_string(&mut pem).map(|_| pem)
    } else {
        std::fs::read_to_string(&args.root)
    };
    let pem = read.map_err(|error| format!("can't read {}: {error}", args.root.display()))?;
    let request = AddTrustRequest { pem, reason: args.reason };
    let done = args.target.connect().await?.add_trust(request).await.map_err(|status| words(&status))?.into_inner();
    match args.output {
        Output::Json => json("AddTrustResponse", &done),
        Output::Text => Ok(trusted(&done)),
    }
}

fn json<M: prost::Message>(name: &str, message: &M) -> Result<String, String> {
    to_json(name, message).map(|json| json + "\n")
}
