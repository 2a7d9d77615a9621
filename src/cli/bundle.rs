//! `meshmint bundle`: the trust bundle of a running server.

use clap::ValueEnum;

use super::admin_client::{Target, words};
use super::json::to_json;
use super::{Outcome, answered, failed};
use crate::server::proto::admin::GetBundleRequest;

/// `meshmint bundle`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  meshmint bundle > root-cert.pem\n  meshmint bundle -o spiffe\n  meshmint bundle --admin /run/meshmint/admin.sock -o json\n  meshmint bundle --kube --context staging"
)]
pub(super) struct Args {
    #[command(flatten)]
    target: Target,
    /// PEM, the SPIFFE bundle document, or both with number and trust domain as JSON
    #[arg(short, long, value_enum, default_value_t = Form::Pem)]
    output: Form,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Form {
    Pem,
    Spiffe,
    Json,
}

pub(super) async fn run(args: Args) -> Outcome {
    let mut client = match args.target.connect().await {
        Ok(client) => client,
        Err(message) => return failed(message),
    };
    let bundle = match client.get_bundle(GetBundleRequest {}).await {
        Ok(response) => response.into_inner(),
        Err(status) => return failed(words(&status)),
    };
    match args.output {
        Form::Pem => answered(&bundle.pem),
        Form::Spiffe => answered(&(bundle.spiffe_json + "\n")),
        Form::Json => to_json("Bundle", &bundle).map_or_else(failed, |json| answered(&(json + "\n"))),
    }
}
