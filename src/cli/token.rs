//! `meshmint token`: a token from the built-in issuer of `meshmint dev`, alone on stdout.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::dev_issuer::{DevIssuer, TokenRequest};
use super::{outcome::Outcome, screen};
use crate::clock::{Clock, Entropy};
use crate::spiffe::{SpiffeId, TrustDomain};

/// A token for a workload, from the built-in issuer of `meshmint dev`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  meshmint token --dir .meshmint --namespace shop --service-account cart --pod cart-1 > token")]
pub(super) struct TokenArgs {
    /// The folder of `meshmint dev`.
    #[arg(long, value_name = "DIR", default_value = ".meshmint")]
    pub dir: PathBuf,
    /// The workload's namespace.
    #[arg(long, value_name = "NS", value_parser = segment)]
    pub namespace: String,
    /// The workload's service account.
    #[arg(long, value_name = "SA", value_parser = segment)]
    pub service_account: String,
    /// The pod that the token is bound to.
    #[arg(long, value_name = "NAME")]
    pub pod: Option<String>,
    /// The pod's UID; derived from its name unless given.
    #[arg(long, value_name = "UID", requires = "pod")]
    pub pod_uid: Option<String>,
    /// The node that the pod is on; without a pod, the node that the token is bound to.
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// For whom the token is meant; may be given more than once.
    #[arg(long, value_name = "AUDIENCE", default_value = "istio-ca")]
    pub audience: Vec<String>,
    /// How long the token lives, for example 90s, 10m, 1h or 365d.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = ttl)]
    pub ttl: Duration,
}

/// Prints the token on `out`, or what went wrong on `err`.
pub(super) fn run(args: &TokenArgs, clock: &dyn Clock, entropy: &dyn Entropy, out: &mut dyn Write, err: &mut dyn Write) -> Outcome {
    let request = TokenRequest {
        namespace: &args.namespace,
        service_account: &args.service_account,
        pod: args.pod.as_deref(),
        pod_uid: args.pod_uid.as_deref(),
        node: args.node.as_deref(),
        audiences: &args.audience,
        ttl: args.ttl,
    };
    let minted = DevIssuer::open(&args.dir).and_then(|issuer| issuer.mint(&request, clock.now(), entropy));
    let printed = match minted {
        Ok(token) => writeln!(out, "{token}").map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match printed {
        Ok(()) => Outcome::Ok,
        Err(error) => {
            // Where not even stderr can be written to, the exit code has to do.
            let _ = writeln!(err, "error: {}", screen::plain(&error));
            Outcome::Failed
        }
    }
}

/// A name that can be part of a SPIFFE ID.
fn segment(text: &str) -> Result<String, String> {
    let anywhere: TrustDomain = "cluster.local".parse().map_err(|_| String::new())?;
    SpiffeId::workload(&anywhere, text, "x").map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// `90s`, `10m`, `1h`, `365d`: whole, positive, a year at most.
fn ttl(text: &str) -> Result<Duration, String> {
    const YEAR: u64 = 365 * 86400;
    let split = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return Err("expected a number and s, m, h or d, for example 1h".to_owned()),
    };
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)) {
        Some(seconds @ 1..=YEAR) => Ok(Duration::from_secs(seconds)),
        _ => Err("expected 1s to 365d, for example 1h".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::callers::UnverifiedToken;
    use crate::clock::{SystemClock, SystemEntropy};

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        token: TokenArgs,
    }

    fn parse(extra: &[&str]) -> Result<TokenArgs, clap::Error> {
        let words = ["token", "--namespace", "shop", "--service-account", "cart"].iter().chain(extra);
        Command::try_parse_from(words).map(|command| command.token)
    }

    fn run_in(args: TokenArgs) -> (Outcome, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let outcome = run(&args, SystemClock::shared().as_ref(), SystemEntropy::shared().as_ref(), &mut out, &mut err);
        (outcome, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn prints_the_token_alone_or_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let args = TokenArgs { dir: dir.path().to_owned(), ..parse(&["--pod", "cart-1", "--ttl", "90s"]).unwrap() };
        let (outcome, out, err) = run_in(args.clone());
        assert_eq!((outcome, out.as_str()), (Outcome::Failed, ""));
        assert!(err.contains("start `meshmint dev --dir"), "{err}");
        DevIssuer::open_or_create(dir.path()).unwrap();
        let (outcome, out, err) = run_in(args);
        assert_eq!((outcome, err.as_str()), (Outcome::Ok, ""));
        let token = out.strip_suffix('\n').unwrap();
        assert_eq!(UnverifiedToken::parse(token).unwrap().issuer(), Some(DevIssuer::ISSUER));
    }

    #[test]
    fn arguments_are_checked_before_anything_happens() {
        assert_eq!(parse(&[]).unwrap().ttl, Duration::from_secs(3600));
        assert_eq!(parse(&["--audience", "a", "--audience", "b"]).unwrap().audience, ["a", "b"]);
        for bad in [&["--ttl", "0s"], &["--ttl", "1"], &["--ttl", "366d"], &["--ttl", "h"], &["--ttl", "99999999999999999999d"], &["--pod-uid", "u"]]
        {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert!(Command::try_parse_from(["token", "--namespace", "a/b", "--service-account", "c"]).is_err());
    }
}
