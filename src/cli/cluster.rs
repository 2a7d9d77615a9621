//! `meshmint cluster secret`: the Secret that lets a running meshmint know another cluster.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;

use super::{Outcome, answered, failed, screen};
use crate::clock::SystemClock;
use crate::cluster::RemoteSecret;
use crate::config::parse_duration;

/// `meshmint cluster`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the Secret that names another cluster, with a token of meshmint's account there
    Secret(SecretArgs),
}

/// `meshmint cluster secret`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "In the other cluster first: kubectl apply -f deploy/kubernetes/rbac.yaml, and make the service account.\nThe output holds a token: pipe it, don't keep it.\n\nExamples:\n  meshmint cluster secret --cluster west --kubeconfig west.kubeconfig | kubectl apply -f -"
)]
struct SecretArgs {
    /// The other cluster's name, as its agents send it (Istio's clusterName)
    #[arg(long)]
    cluster: String,
    /// A kubeconfig whose current context is the other cluster
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// The other cluster's API server as meshmint reaches it, where that differs from the kubeconfig's
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// meshmint's service account in the other cluster
    #[arg(long, value_name = "NAMESPACE/NAME", default_value = "meshmint-system/meshmint")]
    account: String,
    /// The namespace of the Secret in meshmint's own cluster (cluster.remoteSecretsNamespace)
    #[arg(long, default_value = "meshmint-system")]
    namespace: String,
    /// How long the token shall live; the API server may cut it
    #[arg(long, value_name = "DURATION", default_value = "365d", value_parser = parse_duration)]
    lifetime: Duration,
}

pub(super) async fn run(args: Args) -> Outcome {
    let Command::Secret(args) = args.command;
    let Some((namespace, service_account)) = args.account.split_once('/') else {
        return failed("--account is written NAMESPACE/NAME, for example meshmint-system/meshmint");
    };
    let wanted = RemoteSecret {
        kubeconfig: &args.kubeconfig,
        cluster: &args.cluster,
        server: args.server.as_deref(),
        namespace,
        service_account,
        secret_namespace: &args.namespace,
        lifetime: args.lifetime,
    };
    match wanted.make(SystemClock::shared()).await {
        Ok(made) => {
            screen::tell(&format!("The token in it expires {}: make it anew before then.", made.expires));
            answered(&made.manifest)
        }
        Err(error) => failed(error.to_string()),
    }
}
