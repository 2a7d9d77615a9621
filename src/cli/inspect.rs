//! `meshmint inspect`: a certificate, chain, bundle or CSR from a file or stdin, or what a live TLS server presents.

pub(super) mod live;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use serde::Serialize;

use self::live::Server;
use super::{Outcome, Output, screen};
use crate::clock::Clock;
use crate::pki::inspect::{ChainStatus, InspectError, MAX_INPUT, Palette, Report, Severity, inspect, inspect_chain, render_text, roots_of};

/// Looks at a certificate, chain, trust bundle, CSR or live TLS server.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshmint inspect cert-chain.pem --roots root-cert.pem     does this chain verify, and if not, at which step
  meshmint inspect workload.csr                             what a CSR asks for, and whether it proves its key
  meshmint inspect localhost:15012 --roots .meshmint/root-cert.pem
  kubectl get cm istio-ca-root-cert -o jsonpath='{.data.root-cert\\.pem}' | meshmint inspect -
  meshmint inspect cert-chain.pem -o json | jq '.certificates[0].remainingSeconds'

Exit codes: 0 ok, 1 it failed a check, 2 wrong usage, 3 warnings only")]
pub struct InspectArgs {
    /// A file (PEM, DER, or SPIFFE bundle JSON), - for stdin, or HOST:PORT of a TLS server; an existing file wins
    #[arg(value_name = "FILE|-|HOST:PORT")]
    pub target: String,
    /// The trusted roots to verify against (PEM, DER, or SPIFFE bundle JSON); without it, those in the input itself
    #[arg(long, value_name = "FILE")]
    pub roots: Option<PathBuf>,
    /// The name to ask a live server for, and to expect in its certificate, instead of HOST
    #[arg(long, value_name = "NAME")]
    pub server_name: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Why nothing could be looked at. Each message says what to do next.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{0}: no such file, and not HOST:PORT\nGive a file, - for stdin, or a TLS server such as localhost:15012.")]
    NoTarget(String),
    #[error("--server-name is for a live server, and {0} is a file\nLeave it out, or give HOST:PORT.")]
    NameForFile(String),
    #[error("{0} is not a server name\nGive a DNS name or an IP address with --server-name.")]
    ServerName(String),
    #[error("can't read {path}: {error}\nCheck the path and its permissions.")]
    Read { path: String, error: io::Error },
    #[error("{path}: {error}\nGive a PEM or DER certificate, chain or CSR, or a SPIFFE bundle.")]
    Input { path: String, error: InspectError },
    #[error("{0}")]
    Live(#[from] live::LiveError),
}

impl Refusal {
    fn outcome(&self) -> Outcome {
        match self {
            Self::NoTarget(_) | Self::NameForFile(_) | Self::ServerName(_) => Outcome::Usage,
            Self::Read { .. } | Self::Input { .. } | Self::Live(_) => Outcome::Failed,
        }
    }
}

/// What was found, as `-o json` prints it.
#[derive(Debug, Serialize)]
struct Findings {
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<Server>,
    #[serde(flatten)]
    report: Report,
}

/// Runs the command: the report on stdout, an error with what to do next on stderr.
pub async fn run(args: &InspectArgs, clock: &Arc<dyn Clock>) -> Outcome {
    match look(args, clock, io::stdin().lock()).await {
        Ok(findings) => print(&findings, args.output),
        Err(refusal) => {
            screen::tell(&format!("error: {refusal}"));
            refusal.outcome()
        }
    }
}

/// Shows a chain that came in an answer, verified against the bundle of the same answer: for `request` and `dev`.
pub(super) fn show_chain(chain_der: &[CertificateDer<'_>], roots_der: &[CertificateDer<'_>], clock: &dyn Clock, output: Output) -> Outcome {
    let roots: Vec<Vec<u8>> = roots_der.iter().map(|root| root.to_vec()).collect();
    print(&Findings { server: None, report: inspect_chain(chain_der, Some(&roots), clock.now()) }, output)
}

fn print(findings: &Findings, output: Output) -> Outcome {
    let written = match output {
        // The stream takes the colours out where it is no terminal.
        Output::Text => screen::write(&text(findings, Palette::ANSI)),
        Output::Json => screen::json(findings).map_err(io::Error::other).and_then(|json| screen::write(&(json + "\n"))),
    };
    match (written, findings.report.severity) {
        (Err(error), _) if error.kind() != io::ErrorKind::BrokenPipe => {
            screen::tell(&format!("error: can't write the report: {error}"));
            Outcome::Failed
        }
        (_, Severity::Ok) => Outcome::Ok,
        (_, Severity::Warning) => Outcome::Warnings,
        (_, Severity::Failed) => Outcome::Failed,
    }
}

fn text(findings: &Findings, palette: Palette) -> String {
    let mut text = String::new();
    if let Some(server) = &findings.server {
        _ = writeln!(text, "{}TLS server {}{}", palette.heading, server.address, palette.reset);
        let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
        let client = if server.client_certificate_requested { "asks for one" } else { "doesn't ask for one" };
        for (label, value) in [
            ("asked for", server.server_name.clone()),
            ("version", or_none(&server.version)),
            ("cipher", or_none(&server.cipher_suite)),
            ("ALPN", or_none(&server.alpn)),
            ("client", format!("{client} (client certificate)")),
        ] {
            _ = writeln!(text, "  {}{label:<10}{} {value}", palette.label, palette.reset);
        }
        text.push('\n');
    }
    text + &render_text(&findings.report, palette)
}

async fn look(args: &InspectArgs, clock: &Arc<dyn Clock>, stdin: impl Read) -> Result<Findings, Refusal> {
    let roots = args.roots.as_deref().map(read_roots).transpose()?;
    let roots = roots.as_deref();
    let is_file = args.target == "-" || Path::new(&args.target).exists();
    if is_file && args.server_name.is_some() {
        return Err(Refusal::NameForFile(args.target.clone()));
    }
    if is_file {
        let input = if args.target == "-" { bounded(stdin) } else { File::open(&args.target).and_then(bounded) };
        let input = input.map_err(|error| Refusal::Read { path: args.target.clone(), error })?;
        let report = inspect(&input, roots, clock.now()).map_err(|error| Refusal::Input { path: args.target.clone(), error })?;
        return Ok(Findings { server: None, report });
    }
    let host = host_of(&args.target).ok_or_else(|| Refusal::NoTarget(args.target.clone()))?;
    let asked = args.server_name.as_deref().unwrap_or(host);
    let name = rustls::pki_types::ServerName::try_from(asked.to_owned()).map_err(|_| Refusal::ServerName(asked.to_owned()))?;
    let seen = live::look(&args.target, name.clone(), clock).await?;
    let mut report = inspect_chain(&seen.chain, roots, clock.now());
    if let Some(trouble) = &seen.server.handshake_trouble {
        report.remark(Severity::Warning, format!("the server ended the handshake after it had shown its certificate: {trouble}"));
    }
    if report.chain.as_ref().is_none_or(|chain| !chain.roots_given || chain.status == ChainStatus::NotChecked) {
        report.remark(Severity::Warning, "the server was not verified: give the roots that you trust with --roots FILE");
    }
    remark_on_name(&mut report, &seen.chain, &name, args.server_name.is_some());
    Ok(Findings { server: Some(seen.server), report })
}

/// Whether the certificate is for the name that was asked for. A workload's certificate has a SPIFFE ID in place of it, so there
/// it counts only where the person named one.
fn remark_on_name(report: &mut Report, chain: &[Vec<u8>], name: &rustls::pki_types::ServerName<'_>, explicit: bool) {
    let Some(leaf) = chain.first() else { return };
    let workload = report.certificates.first().is_some_and(|leaf| leaf.spiffe_id.is_some());
    if workload && !explicit {
        return;
    }
    let leaf = rustls::pki_types::CertificateDer::from(leaf.as_slice());
    let matches = rustls::server::ParsedCertificate::try_from(&leaf).and_then(|leaf| rustls::client::verify_server_name(&leaf, name));
    if matches.is_err() {
        report.remark(Severity::Failed, format!("the certificate is not for {}: a client that asks for it refuses the server", name.to_str()));
    }
}

fn read_roots(path: &Path) -> Result<Vec<Vec<u8>>, Refusal> {
    let shown = path.display().to_string();
    let input = File::open(path).and_then(bounded).map_err(|error| Refusal::Read { path: shown.clone(), error })?;
    roots_of(&input).map_err(|error| Refusal::Input { path: shown, error })
}

/// Everything, up to one byte over the limit, which the reader of it then refuses.
fn bounded(from: impl Read) -> io::Result<Vec<u8>> {
    let mut input = Vec::new();
    from.take(MAX_INPUT as u64 + 1).read_to_end(&mut input)?;
    Ok(input)
}

/// HOST of `HOST:PORT` or `[IPv6]:PORT`.
fn host_of(target: &str) -> Option<&str> {
    let (host, port) = target.rsplit_once(':')?;
    port.parse::<u16>().ok().filter(|port| *port > 0)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = bare.unwrap_or(host);
    let plausible = !host.is_empty() && !host.contains(['/', ' ', '[', ']']) && (bare.is_some() || !host.contains(':'));
    plausible.then_some(host)
}

#[cfg(test)]
mod tests;
