//! The flags of `meshmint bench`, and what must fit together.

use std::path::PathBuf;
use std::time::Duration;

use clap::ArgGroup;

use super::super::csr_client::KeyType;
use super::super::outcome::Output;
use super::tokens::TokenSignature;
use crate::config::parse_duration;
use crate::spiffe::TrustDomain;

/// `meshmint bench`
#[derive(Debug, Clone, clap::Args)]
#[command(group(ArgGroup::new("new").args(["new_connections", "herd"])))]
#[command(after_help = "Examples:\n  \
    meshmint bench --dev .meshmint --duration 30s --floor\n  \
    meshmint bench --dev .meshmint --new-connections --source-addresses 16 --duration 30s\n  \
    meshmint bench --dev .meshmint --rate 1000 --duration 1m -o json\n  \
    meshmint bench --dev .meshmint --herd 2000 --source-addresses 64 --duration 2m\n  \
    meshmint bench --dev .meshmint --idle 1000 --accounts 1 --hold 1m\n  \
    meshmint bench istiod.istio-system.svc:15012 --ca root-cert.pem --token-file tokens/ --duration 10s\n\n\
    Without --rate, --herd, --idle or --read-nothing the loop is closed: each place in flight is taken again at once, also after a refusal.\n\
    docs/performance.md says how to measure so that the figures mean something. Exit code 3: some requests failed, or the run is void.")]
pub(crate) struct Args {
    /// The CA: any that speaks Istio's CSR API
    #[arg(value_name = "HOST:PORT", required_unless_present = "dev", requires = "ca")]
    pub(super) address: Option<String>,
    /// The roots that the CA's serving certificate must chain to (PEM)
    #[arg(long, value_name = "FILE", visible_alias = "roots", requires = "address")]
    pub(super) ca: Option<PathBuf>,
    /// The name in the CA's serving certificate [default: the host of the address]
    #[arg(long, value_name = "NAME")]
    pub(super) server_name: Option<String>,
    /// The folder of a running `meshmint dev`: its address, roots, process id, and tokens of its issuer
    #[arg(long, value_name = "DIR", conflicts_with = "address")]
    pub(super) dev: Option<PathBuf>,

    /// A token, or a folder with one in each file; may be given more than once
    #[arg(long, value_name = "PATH", conflicts_with = "dev", help_heading = "Who asks")]
    pub(super) token_file: Vec<PathBuf>,
    /// With --dev: how many service accounts ask, in four namespaces
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = at_least_one, help_heading = "Who asks")]
    pub(super) accounts: usize,
    /// With --dev: the number of the first account, so that two loads can have different ones
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Who asks")]
    pub(super) first_account: usize,
    /// With --dev: pods of each account [default: 5, or enough for every client of --herd and --idle]
    #[arg(long, value_name = "N", value_parser = at_least_one, help_heading = "Who asks")]
    pub(super) pods: Option<usize>,
    /// With --dev: how the tokens are signed
    #[arg(long, value_enum, default_value_t = TokenSignature::Rs256, help_heading = "Who asks")]
    pub(super) token_signature: TokenSignature,
    /// A client certificate with its chain (PEM)
    #[arg(long, value_name = "FILE", requires = "client_key", help_heading = "Who asks")]
    pub(super) client_cert: Option<PathBuf>,
    /// The private key of --client-cert (PEM)
    #[arg(long, value_name = "FILE", requires = "client_cert", help_heading = "Who asks")]
    pub(super) client_key: Option<PathBuf>,

    /// The keys to be certified
    #[arg(long, value_enum, default_value_t = KeyType::P256, help_heading = "What is asked")]
    pub(super) key_type: KeyType,
    /// How many keys to make beforehand [default: 256, or 8 with RSA]
    #[arg(long, value_name = "N", value_parser = at_least_one, help_heading = "What is asked")]
    pub(super) keys: Option<usize>,
    /// The lifetime to ask for, for example 1h [default: the CA's]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = "What is asked")]
    pub(super) lifetime: Option<Duration>,
    /// The trust domain to write into the CSRs, for CAs that look at it (istio-csr)
    #[arg(long, default_value = "cluster.local", help_heading = "What is asked")]
    pub(super) trust_domain: TrustDomain,

    /// Kept connections
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = at_least_one, help_heading = "How much")]
    pub(super) connections: usize,
    /// Requests in flight on each of them (closed loop)
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = at_least_one, help_heading = "How much")]
    pub(super) in_flight: usize,
    /// Open loop: so many requests a second, evenly, whether answers come or not; latency counts from the intended start
    #[arg(long, value_name = "R", conflicts_with_all = ["herd", "idle"], value_parser = rate, help_heading = "How much")]
    pub(super) rate: Option<f64>,
    /// Open loop: how many may be without an answer; what exceeds it is counted as not sent
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = at_least_one, help_heading = "How much")]
    pub(super) max_outstanding: usize,
    /// A new TCP, TLS and HTTP/2 connection for each certificate (--connections × --in-flight at once in a closed loop)
    #[arg(long, conflicts_with_all = ["herd", "idle"], help_heading = "How much")]
    pub(super) new_connections: bool,
    /// With --herd and --new-connections: how long a connection says nothing after its handshake; of a herd, each client's first
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, requires = "new", help_heading = "How much")]
    pub(super) ask_later: Option<Duration>,
    /// So many clients at once, each on its own connection, each wanting one certificate, each trying again as pilot-agent does
    #[arg(long, value_name = "N", conflicts_with_all = ["idle", "requests"], value_parser = at_least_one, help_heading = "How much")]
    pub(super) herd: Option<usize>,
    /// Opens so many connections, asks for one certificate on each, holds them, and reports the server's memory for each
    #[arg(long, value_name = "N", conflicts_with = "requests", value_parser = at_least_one, help_heading = "How much")]
    pub(super) idle: Option<usize>,
    /// With --idle: how long the connections are held once all of them are open, so that something else can run beside them
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, requires = "idle", help_heading = "How much")]
    pub(super) hold: Option<Duration>,
    /// A hostile client: sends --in-flight requests on each of --connections, once, reads nothing of the answers, and holds on for --duration
    #[arg(long, conflicts_with_all = ["rate", "new_connections", "herd", "idle", "requests", "warm_up"], help_heading = "How much")]
    pub(super) read_nothing: bool,
    /// How long [default: 10s; with --requests until they are done; with --herd 5m at most]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = "How much")]
    pub(super) duration: Option<Duration>,
    /// How many requests at most, after the warm-up
    #[arg(long, value_name = "N", help_heading = "How much")]
    pub(super) requests: Option<u64>,
    /// Load before the measurement begins
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = parse_duration, conflicts_with_all = ["herd", "idle"], help_heading = "How much")]
    pub(super) warm_up: Duration,
    /// Client addresses, spread over 127.0.0.0/8; for CAs on loopback only
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000), help_heading = "How much")]
    pub(super) source_addresses: u32,

    /// The server's process, on this machine: reports its CPU time for each certificate and its memory [default with --dev: that one]
    #[arg(long, value_name = "PID", help_heading = "What is measured")]
    pub(super) server_pid: Option<u32>,
    /// Waits after the load until the server has nothing left to do, and counts that CPU time too
    #[arg(long, help_heading = "What is measured")]
    pub(super) settle: bool,
    /// Measures the unavoidable cryptography before and after the load, a second each, and reports the server's CPU time as a multiple of it
    #[arg(long, help_heading = "What is measured")]
    pub(super) floor: bool,
    /// Verifies each Nth answer fully: chain, bundle, key; 0 none
    #[arg(long, value_name = "N", default_value_t = 1000, help_heading = "What is measured")]
    pub(super) verify: u64,
    /// Threads of the load; a run where they are busy for more than 90 % is void
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one, help_heading = "What is measured")]
    pub(super) threads: usize,
    /// Text for people, or JSON with everything
    #[arg(short, long, value_enum, default_value_t = Output::Text, help_heading = "What is measured")]
    pub(super) output: Output,
}

/// How the load is driven.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Mode {
    /// Each place in flight is taken again at once.
    Closed,
    /// Requests a second.
    Open(f64),
    /// So many clients that want one certificate each.
    Herd(usize),
    /// So many connections that are held.
    Idle(usize),
    /// Answers are never read.
    Unread,
}

impl Args {
    pub(super) fn mode(&self) -> Mode {
        match (self.rate, self.herd, self.idle) {
            (Some(rate), ..) => Mode::Open(rate),
            (_, Some(clients), _) => Mode::Herd(clients),
            (.., Some(connections)) => Mode::Idle(connections),
            _ if self.read_nothing => Mode::Unread,
            _ => Mode::Closed,
        }
    }

    /// When it ends at the latest.
    pub(super) fn longest(&self) -> Duration {
        const YEAR: Duration = Duration::from_secs(365 * 86_400);
        let default = match self.mode() {
            Mode::Herd(_) | Mode::Idle(_) => Duration::from_secs(300),
            _ if self.requests.is_some() => YEAR,
            _ => Duration::from_secs(10),
        };
        self.duration.unwrap_or(default).min(YEAR)
    }

    /// Connections that may be open at once.
    pub(super) fn most_connections(&self) -> usize {
        match self.mode() {
            Mode::Herd(clients) => clients,
            Mode::Idle(connections) => connections,
            Mode::Open(_) if self.new_connections => self.max_outstanding,
            Mode::Closed if self.new_connections => self.connections.saturating_mul(self.in_flight),
            Mode::Open(_) | Mode::Closed | Mode::Unread => self.connections,
        }
    }

    /// Pods of each account: every client of a herd is a pod of its own, as in a mesh.
    pub(super) fn pods(&self) -> usize {
        self.pods.unwrap_or_else(|| match self.mode() {
            Mode::Herd(clients) | Mode::Idle(clients) => clients.div_ceil(self.accounts),
            _ => 5,
        })
    }

    /// Keys to make.
    pub(super) fn key_count(&self) -> usize {
        // An RSA key takes a good part of a second.
        self.keys.unwrap_or(if self.key_type == KeyType::Rsa2048 { 8 } else { 256 })
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=10_000_000) => Ok(number),
        _ => Err("expected a number from 1 to 10000000".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.001..=1e6).contains(&rate) => Ok(rate),
        _ => Err("expected requests a second, from 0.001 to 1000000".to_owned()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        bench: Args,
    }

    pub(in super::super) fn parse(words: &[&str]) -> Result<Args, clap::Error> {
        Command::try_parse_from(["bench"].iter().chain(words)).map(|command| command.bench)
    }

    #[test]
    fn the_mode_follows_from_the_flags() {
        let of = |words: &[&str]| parse(&[&["--dev", "d"], words].concat()).unwrap();
        assert_eq!(of(&[]).mode(), Mode::Closed);
        assert_eq!(of(&["--rate", "12.5"]).mode(), Mode::Open(12.5));
        assert_eq!(of(&["--herd", "7"]).mode(), Mode::Herd(7));
        assert_eq!(of(&["--idle", "7", "--hold", "1m"]).mode(), Mode::Idle(7));
        assert_eq!(of(&["--read-nothing"]).mode(), Mode::Unread);
        assert_eq!(of(&[]).longest(), Duration::from_secs(10));
        assert_eq!(of(&["--herd", "7"]).longest(), Duration::from_secs(300));
        assert_eq!(of(&["--duration", "3s", "--requests", "1"]).longest(), Duration::from_secs(3));
        assert!(of(&["--requests", "1"]).longest() > Duration::from_secs(86_400));
    }

    #[test]
    fn connections_pods_and_keys_have_fitting_defaults() {
        let of = |words: &[&str]| parse(&[&["--dev", "d"], words].concat()).unwrap();
        assert_eq!(of(&[]).most_connections(), 8);
        assert_eq!(of(&["--new-connections"]).most_connections(), 64);
        assert_eq!(of(&["--new-connections", "--rate", "1", "--max-outstanding", "9"]).most_connections(), 9);
        assert_eq!(of(&["--idle", "70"]).most_connections(), 70);
        assert_eq!((of(&[]).pods(), of(&["--herd", "41"]).pods(), of(&["--herd", "41", "--pods", "2"]).pods()), (5, 3, 2));
        assert_eq!((of(&[]).key_count(), of(&["--key-type", "rsa2048"]).key_count(), of(&["--keys", "3"]).key_count()), (256, 8, 3));
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        assert!(parse(&["localhost:1", "--ca", "r"]).is_ok());
        assert!(parse(&["--dev", "d", "--ask-later", "1s", "--herd", "1"]).is_ok());
        assert!(parse(&["--dev", "d", "--ask-later", "1s", "--new-connections", "--rate", "1"]).is_ok());
        for wrong in [
            &[][..],
            &["localhost:1"],
            &["--ca", "r"],
            &["localhost:1", "--ca", "r", "--dev", "d"],
            &["--dev", "d", "--token-file", "t"],
            &["--dev", "d", "--client-cert", "c"],
            &["--dev", "d", "--rate", "0"],
            &["--dev", "d", "--rate", "1", "--herd", "1"],
            &["--dev", "d", "--herd", "1", "--idle", "1"],
            &["--dev", "d", "--herd", "1", "--new-connections"],
            &["--dev", "d", "--herd", "1", "--warm-up", "1s"],
            &["--dev", "d", "--ask-later", "1s"],
            &["--dev", "d", "--ask-later", "1s", "--idle", "1"],
            &["--dev", "d", "--hold", "1s"],
            &["--dev", "d", "--read-nothing", "--herd", "1"],
            &["--dev", "d", "--read-nothing", "--new-connections"],
            &["--dev", "d", "--read-nothing", "--rate", "1"],
            &["--dev", "d", "--read-nothing", "--warm-up", "1s"],
            &["--dev", "d", "--connections", "0"],
            &["--dev", "d", "--source-addresses", "0"],
            &["--dev", "d", "--duration", "soon"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
