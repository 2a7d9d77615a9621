//! `meshmint migrate plan`: reads a mesh that istiod's CA or istio-csr signs for, and prints the steps and values by which it moves to meshmint
//! without an outage, and back. It changes nothing, and no key is ever part of what it prints.

mod back;
mod facts;
mod plan;
mod planner;
mod shell;
mod steps;
#[cfg(test)]
mod tests;
mod values;

use std::path::PathBuf;

use clap::Subcommand;

use self::facts::facts;
use self::plan::Way;
use self::planner::{Choice, plan};
use super::{Outcome, Output, answered, failed};
use crate::clock::SystemClock;
use crate::cluster::{Access, Surveyor};

/// What stands for the image where nobody says where it is.
const IMAGE: &str = "registry.example/meshmint";

/// `meshmint migrate`
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  meshmint migrate plan --context staging\n\ndocs/migrate.md explains the ways.")]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print the steps and values by which a mesh moves to meshmint without an outage, or back
    ///
    /// Reads the cluster as the person that the kubeconfig names, and changes nothing. What that person may not read is said, and what the plan
    /// takes for it. Of Secrets only certificates are used.
    #[command(after_help = "Examples:\n  \
        meshmint migrate plan\n  \
        meshmint migrate plan --context staging --image registry.example/meshmint --keep-root\n  \
        meshmint migrate plan --back\n  \
        meshmint migrate plan -o json | jq -r '.steps[] | .title'\n\n\
        Exit code 3: something could not be read, and the plan says what it takes for it.\n\
        docs/migrate.md explains the ways, and what happens to workloads at each step.")]
    Plan(PlanArgs),
}

#[derive(Debug, clap::Args)]
struct PlanArgs {
    /// Hand over the key of the CA that signs now [default: where that suits]
    #[arg(long, group = "way")]
    keep_root: bool,
    /// Begin with a root of meshmint's own; both are trusted everywhere first
    #[arg(long, group = "way")]
    new_root: bool,
    /// From meshmint back to the CA that signed before
    #[arg(long, group = "way")]
    back: bool,
    /// The namespace of meshmint's release, which is called meshmint
    #[arg(long, value_name = "NAME", default_value = "meshmint-system")]
    namespace: String,
    /// Where meshmint's image is
    #[arg(long, value_name = "REPOSITORY", default_value = IMAGE)]
    image: String,
    /// The kubeconfig [default: KUBECONFIG, or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(super) async fn run(args: Args) -> Outcome {
    let What::Plan(args) = args.what;
    match planned(args).await {
        // A plan over guesses is one to be warned of.
        Ok((text, true)) if answered(&text) == Outcome::Ok => Outcome::Warnings,
        Ok((_, true)) => Outcome::Failed,
        Ok((text, false)) => answered(&text),
        Err(why) => failed(why),
    }
}

/// The plan as it is printed, and whether something could not be read.
async fn planned(args: PlanArgs) -> Result<(String, bool), String> {
    let way = match (args.keep_root, args.new_root, args.back) {
        (true, ..) => Some(Way::KeepRoot),
        (_, true, _) => Some(Way::NewRoot),
        (.., true) => Some(Way::Back),
        _ => None,
    };
    let clock = SystemClock::shared();
    let access = Access::Person { kubeconfig: args.kubeconfig, context: args.context };
    let (surveyor, kubernetes) =
        Surveyor::connect(&access, clock.clone()).await.map_err(|error| format!("the cluster can't be looked at: {error}"))?;
    let mesh = surveyor.mesh().await;
    let mut namespaces: Vec<_> = mesh.istiods.iter().flatten().map(|istiod| istiod.namespace.as_str()).collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    let signing = surveyor.signing(&namespaces).await;
    let facts = facts(&kubernetes, &mesh, &signing)?;
    let choice = Choice { way, namespace: args.namespace, image: args.image };
    let plan = plan(&facts, &choice, clock.now())?;
    let text = match args.output {
        Output::Text => plan.text(&facts.lines()),
        Output::Json => plan.json()?,
    };
    Ok((text, !facts.unread.is_empty()))
}
