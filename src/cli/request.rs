//! `meshmint request`: one certificate from any CA that speaks Istio's CSR API.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::csr_client::{self, CsrClientError, CsrRequest, KeyType, Obtained, trouble_of_token};
use super::{Outcome, Output, failed, inspect, screen};
use crate::clock::SystemClock;
use crate::config::parse_duration;
use crate::pki::certificates_from_pem;
use crate::pki::inspect::{inspect_chain, span};
use crate::spiffe::TrustDomain;

/// `meshmint request`
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    meshmint token --namespace shop --service-account cart > token\n  \
    meshmint request --address 127.0.0.1:15012 --roots .meshmint/root-cert.pem --token-file token --out-dir cart\n  \
    meshmint request --address istiod.istio-system.svc:15012 --roots root-cert.pem --cert cart/cert-chain.pem --key cart/key.pem\n\n\
    Without --out-dir the certificate is only shown. The key is made here and never leaves this machine.")]
pub(super) struct Args {
    /// The CA
    #[arg(long, value_name = "HOST:PORT")]
    address: String,
    /// The roots that the CA's serving certificate must chain to (PEM)
    #[arg(long, value_name = "FILE")]
    roots: PathBuf,
    /// A Kubernetes service-account token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A client certificate with its chain (PEM), for renewing
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The private key of --cert (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// The name in the CA's serving certificate [default: the host of --address]
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// The key to make
    #[arg(long, value_enum, default_value_t = KeyType::P256)]
    key_type: KeyType,
    /// The lifetime to ask for, for example 1h [default: the CA's]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,
    /// The SPIFFE ID to speak for, as ztunnel does
    #[arg(long, value_name = "SPIFFE-ID")]
    impersonate: Option<String>,
    /// The trust domain to write into the request, for CAs that look at it (istio-csr)
    #[arg(long, default_value = "cluster.local")]
    trust_domain: TrustDomain,
    /// Where to write key.pem, cert-chain.pem and root-cert.pem
    #[arg(long, value_name = "DIR")]
    out_dir: Option<PathBuf>,
    /// Text for people, or the report as JSON
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(super) async fn run(args: Args) -> Outcome {
    let ask = match ask(&args) {
        Ok(ask) => ask,
        Err(message) => return failed(message),
    };
    let obtained = match csr_client::request(&ask).await {
        Ok(obtained) => obtained,
        Err(error) => {
            let trouble = ask.token.as_deref().and_then(|token| trouble_of_token(token, SystemClock::shared().now()));
            let refused = matches!(error, CsrClientError::Refused { .. });
            let why = trouble.filter(|_| refused).map_or_else(String::new, |trouble| format!("\nIn --token-file: {trouble}."));
            return failed(format!("{error}{why}"));
        }
    };
    if let Some(id) = &obtained.request_id {
        screen::tell(&format!("request id {id}"));
    }
    if let Some(changed) = args.ttl.and_then(|asked| changed_lifetime(&obtained, asked)) {
        screen::tell(&changed);
    }
    if let Some(directory) = &args.out_dir {
        match csr_client::write_files(directory, &obtained) {
            Ok(files) => files.iter().for_each(|file| screen::tell(&format!("wrote {}", file.display()))),
            Err(error) => return failed(format!("can't write to {}: {error}", directory.display())),
        }
    }
    show(&obtained, args.output)
}

/// Where the certificate lives a tenth longer or shorter from now on than was asked for.
fn changed_lifetime(obtained: &Obtained, asked: Duration) -> Option<String> {
    let chain = certificates_from_pem(obtained.chain.first()?).ok()?;
    let now = SystemClock::shared().now();
    let leaf = inspect_chain(&chain, None, now).certificates.into_iter().next()?;
    let got = Duration::try_from(leaf.not_after - now).ok()?;
    let told = format!("the CA gave another lifetime than was asked for: {} instead of {}", span(got.as_secs()), span(asked.as_secs()));
    (got.abs_diff(asked) > asked / 10 + Duration::from_secs(60)).then_some(told)
}

/// Shows what came back as `inspect` does, verified against the bundle of the same answer.
pub(super) fn show(obtained: &Obtained, output: Output) -> Outcome {
    let shown = certificates_from_pem(&obtained.chain.concat())
        .and_then(|chain| Ok((chain, certificates_from_pem(&obtained.bundle)?)))
        .map(|(chain, roots)| inspect::show_chain(&chain, &roots, SystemClock::shared().as_ref(), output));
    shown.unwrap_or_else(|error| failed(format!("the CA's answer can't be read: {error}")))
}

fn ask(args: &Args) -> Result<CsrRequest, String> {
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|error| format!("can't read {}: {error}", path.display()));
    let client = match (&args.cert, &args.key) {
        (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
        _ => None,
    };
    Ok(CsrRequest {
        address: args.address.clone(),
        roots: read(&args.roots)?,
        server_name: args.server_name.clone(),
        token: args.token_file.as_deref().map(read).transpose()?.map(|token| token.trim().to_owned()),
        client,
        key_type: args.key_type,
        lifetime: args.ttl,
        impersonate: args.impersonate.clone(),
        trust_domain: args.trust_domain.clone(),
    })
}
