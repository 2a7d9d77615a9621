//! `meshmint bench`: a load generator for any CA that speaks Istio's CSR API. Docs: docs/performance.md.
//!
//! `args` says what is wanted; `target`, `tokens` and `questions` prepare everything that can be prepared; `closed`, `open`, `herd`, `idle` and
//! `unread` are the ways of loading, over `kept` and `connection`; `measure` runs one of them and takes times and counts; `report` tells.

mod answer;
mod args;
mod closed;
mod connection;
pub mod floor;
mod herd;
mod idle;
mod kept;
mod limits;
mod load;
mod measure;
mod open;
mod process;
mod progress;
mod questions;
mod report;
mod tally;
mod target;
mod ticker;
mod tokens;
mod unread;

use std::path::Path;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tonic::Code;

pub(super) use self::args::Args;
use self::args::Mode;
use self::floor::Floor;
use self::load::Load;
use self::process::Process;
use self::questions::{Ingredients, Questions};
use self::report::{Report, VOID_ABOVE};
use self::tally::Ended;
use self::target::{Target, Trust, dev_endpoints};
use self::tokens::Population;
use super::csr_client::code_name;
use super::{Outcome, Output, answered, failed, screen};
use crate::clock::{Clock, SystemClock, SystemEntropy};
use crate::pki::inspect::printable;

/// How long each of the four pieces of the floor is measured, before the load and after it.
const FLOOR_EACH: Duration = Duration::from_millis(250);
/// How long the first connection may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The runtime of a load: one thread unless more are asked for, so that its share of a core can be told.
pub(super) fn runtime(args: &Args) -> std::io::Result<Runtime> {
    match args.threads {
        1 => Builder::new_current_thread().enable_all().build(),
        threads => Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
    }
}

pub(super) async fn run(args: Args) -> Outcome {
    match bench(&args).await {
        Ok(report) => tell(&args, &report),
        Err(message) => failed(message),
    }
}

async fn bench(args: &Args) -> Result<Report, String> {
    let (clock, entropy) = (SystemClock::shared(), SystemEntropy::shared());
    limits::check_fits(args.most_connections(), super::limits::raise_open_files())?;
    let client = match (&args.client_cert, &args.client_key) {
        (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
        _ => None,
    };
    let (address, roots, dev_pid) = match (&args.dev, &args.address, &args.ca) {
        (Some(dir), ..) => {
            let endpoints = dev_endpoints(dir)?;
            (endpoints.csr.to_string(), dir.join("root-cert.pem"), Some(endpoints.pid))
        }
        (None, Some(address), Some(roots)) => (address.clone(), roots.clone(), None),
        _ => return Err("give HOST:PORT with --ca, or --dev".to_owned()),
    };
    let trust = Trust { roots: read(&roots)?, client };
    let has_client = trust.client.is_some();
    let target = Target::find(&address, args.server_name.as_deref(), &trust, args.source_addresses).await?;
    let server = args.server_pid.or(dev_pid).map(Process::find).transpose()?;
    reach(&target, clock.as_ref()).await?;
    let tokens = match &args.dev {
        None => tokens::from_files(&args.token_file)?,
        Some(dir) => {
            let population = Population {
                first_account: args.first_account,
                accounts: args.accounts,
                pods: args.pods(),
                ttl: (args.longest() + args.warm_up + Duration::from_secs(600)).min(Duration::from_secs(365 * 86_400)),
                signature: args.token_signature,
            };
            tokens::from_dev(dir, &population, clock.as_ref(), entropy.as_ref())?
        }
    };
    let questions = Questions::make(&Ingredients {
        authority: &target.authority,
        tokens: &tokens,
        key_type: args.key_type,
        keys: args.key_count(),
        lifetime: args.lifetime,
        trust_domain: &args.trust_domain,
    })?;
    let floor = || args.floor.then(|| Floor::measure(FLOOR_EACH)).transpose().map_err(|error| error.to_string());
    let before = floor()?;
    let load = Load::new(clock, entropy, target, questions, args);
    if tokens.is_empty() && !has_client {
        try_without_credential(&load).await?;
    }
    let measured = measure::run(&load, args, server.as_ref()).await?;
    Ok(Report::new(&load, args, tokens.len(), measured, before.zip(floor()?)))
}

/// One connection before the load, whose failure is told with its reason instead of being counted.
async fn reach(target: &Target, clock: &dyn Clock) -> Result<(), String> {
    let address = target.address;
    match crate::clock::within(clock, PATIENCE, connection::connect(target, 0, true)).await {
        Some(Ok((sender, driver))) => {
            drop(sender);
            drop(driver.await);
            Ok(())
        }
        Some(Err(trouble)) => Err(format!("can't connect to {address}: {} ({})", trouble.words, trouble.kind)),
        None => Err(format!("can't connect to {address}: nothing happened within {} s", PATIENCE.as_secs())),
    }
}

/// One request before a load that shows no credential: where it is refused, all of them would be.
async fn try_without_credential(load: &Load) -> Result<(), String> {
    let Some(question) = load.start() else { return Ok(()) };
    let mut ended = None;
    kept::ask_anew(load, 0, question, |answer| ended = answer.ok().map(|answer| answer.judge().0)).await;
    load.not_counted();
    match ended {
        Some(Ended::Refused { code: code @ (Code::Unauthenticated | Code::PermissionDenied), message }) => Err(format!(
            "the CA refused a first request, and would refuse the others: {} {}. There is neither --token-file nor --client-cert",
            code_name(code),
            printable(&message)
        )),
        _ => Ok(()),
    }
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("can't read {}: {error}", path.display()))
}

fn tell(args: &Args, report: &Report) -> Outcome {
    let text = match args.output {
        Output::Text => report.text(),
        Output::Json => match screen::json(report) {
            Ok(json) => json + "\n",
            Err(error) => return failed(error),
        },
    };
    if answered(&text) == Outcome::Failed {
        return Outcome::Failed;
    }
    if report.void {
        screen::tell(&format!(
            "warning: this run is void: bench itself was busy for {:.0} % of its time (more than {:.0} %), so it may have been what was measured. \
             Give it a core of its own or more --threads",
            report.client_core_share * 100.0,
            VOID_ABOVE * 100.0
        ));
    }
    outcome(args, report)
}

/// Failed: no certificate at all, a wrong answer, or a herd that wasn't served. Warnings: some requests failed, or the run is void.
fn outcome(args: &Args, report: &Report) -> Outcome {
    let unserved = match args.mode() {
        Mode::Herd(clients) => report.herd.as_ref().is_none_or(|herd| herd.served < clients),
        // What a server does to connections that are held or not read is what is asked, not a failure.
        Mode::Idle(connections) => report.idle.as_ref().is_none_or(|idle| idle.held < connections),
        Mode::Unread => report.unread.as_ref().is_none_or(|unread| unread.connections == 0),
        Mode::Closed | Mode::Open(_) => report.certificates == 0,
    };
    let tried_again = matches!(args.mode(), Mode::Herd(_));
    match () {
        () if unserved || report.wrong_answers.count > 0 => Outcome::Failed,
        () if report.void || !tried_again && report.failures() > 0 => Outcome::Warnings,
        () => Outcome::Ok,
    }
}
