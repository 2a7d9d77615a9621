//! What can be seen of a server from here: whether it answers on its socket and on its port, with which certificate, clock and version.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use prost_types::Timestamp;
use rustls::pki_types::ServerName;
use time::OffsetDateTime;
use tonic::{Code, Status};

use super::super::admin_client::{Client, Reached, Target, Unreached, Way, words};
use super::super::inspect::live;
use super::report::Report;
use crate::clock::{Clock, within};
use crate::config::Config;
use crate::pki::certificates_from_pem;
use crate::pki::inspect::{CertificateReport, ChainStatus, Severity, inspect_chain, lifetime};
use crate::server::checkup::Check;
use crate::server::proto::admin::{CheckRequest, CheckResponse, GetBundleRequest};

/// How long the server may take to look at itself: it gives each disk five seconds.
const PATIENCE: Duration = Duration::from_secs(20);
/// Two clocks that differ by more than this are worth a look; tokens are refused beyond `tokens.clockSkew`, 30 s by default.
const SKEW_WARNING: Duration = Duration::from_secs(2);
const SKEW_FAILURE: Duration = Duration::from_secs(30);

/// Asks one server.
#[derive(Debug)]
pub(super) struct Asker {
    pub(super) target: Target,
    /// Its configuration, where it was given.
    pub(super) config: Option<Config>,
    pub(super) clock: Arc<dyn Clock>,
}

impl Asker {
    /// Puts everything into the report; returns the trust bundle, where the server gave it, and the names that its certificate is to have.
    pub(super) async fn ask(&self, report: &mut Report) -> Option<(Option<String>, Vec<String>)> {
        let (Reached { mut client, name, way }, answer) = match self.answer().await {
            Ok(answer) => answer,
            Err(why) => {
                unreached(why, report);
                return None;
            }
        };
        report.ok(Check::AdminAnswers, format!("the server answers on {name}"));
        report.server_version = Some(answer.version.clone());
        self.version(&answer, report);
        self.skew(answer.now, report);
        self.csr_port(&mut client, &way, &answer, report).await;
        let hosts = answer.serving_dns_names.iter().chain(&answer.serving_ip_addresses).cloned().collect();
        for fact in answer.facts {
            report.fact(fact);
        }
        let bundle = client.get_bundle(GetBundleRequest {}).await.ok().map(|bundle| bundle.into_inner().pem);
        Some((bundle, hosts))
    }

    async fn answer(&self) -> Result<(Reached, CheckResponse), Unreached> {
        let mut server = self.target.reach().await?;
        let asked = within(self.clock.as_ref(), PATIENCE, server.client.check(CheckRequest {})).await;
        let answer = asked.unwrap_or_else(|| Err(Status::deadline_exceeded(format!("no answer within {PATIENCE:?}"))));
        match answer {
            Ok(answer) => Ok((server, answer.into_inner())),
            Err(status) if status.code() == Code::Unimplemented => {
                Err(Unreached::Trouble("it is older than this command and can't be asked".to_owned()))
            }
            Err(status) => Err(Unreached::Trouble(words(&status))),
        }
    }

    fn version(&self, answer: &CheckResponse, report: &mut Report) {
        const OWN: &str = env!("CARGO_PKG_VERSION");
        if answer.version == OWN {
            report.ok(Check::VersionMatches, format!("command and server are both {OWN}"));
        } else {
            report.warning(Check::VersionMatches, format!("the server is {}, this command is {OWN}", answer.version), "");
        }
    }

    fn skew(&self, server: Option<Timestamp>, report: &mut Report) {
        let now = self.clock.now();
        let Some(server) = server.and_then(time_of) else {
            return report.failed(Check::ClockAgrees, "the server doesn't tell its time", "");
        };
        let apart = (now - server).abs();
        match apart {
            apart if apart > SKEW_FAILURE => report.failed(Check::ClockAgrees, skew_text(apart), ""),
            apart if apart > SKEW_WARNING => report.warning(Check::ClockAgrees, skew_text(apart), ""),
            _ => report.ok(Check::ClockAgrees, "our clock and the server's agree"),
        }
    }

    async fn csr_port(&self, client: &mut Client, way: &Way, answer: &CheckResponse, report: &mut Report) {
        if answer.csr_address.is_empty() {
            return report.ok(Check::CsrAnswers, "there is no CSR port here: role authority");
        }
        let Ok(address) = answer.csr_address.parse::<SocketAddr>() else {
            return report.failed(Check::CsrAnswers, "the server doesn't tell where it listens", "");
        };
        let far = host(way).await;
        let address = reachable(address, far);
        let roots = match client.get_bundle(GetBundleRequest {}).await {
            Ok(bundle) => certificates_from_pem(&bundle.into_inner().pem).unwrap_or_default(),
            Err(status) => return report.failed(Check::CsrCertificate, "there is no bundle to verify it with", words(&status)),
        };
        let roots: Vec<Vec<u8>> = roots.iter().map(|root| root.to_vec()).collect();
        let wanted = self.wanted(answer);
        let name = wanted.first().and_then(|(_, name)| ServerName::try_from(name.clone()).ok()).unwrap_or_else(|| address.ip().into());
        let (place, looked) = match way {
            Way::Cluster(pod) => {
                let place = format!("port {} of {pod}", address.port());
                let looked = live::look_over(&place, pod.open(address.port()), name, &self.clock).await;
                (place, looked)
            }
            Way::Here | Way::Network(_) => (address.to_string(), live::look(&address.to_string(), name, &self.clock).await),
        };
        let seen = match looked {
            Ok(seen) => seen,
            // Behind a Service or a forwarded port it has another address, and who asks there can't know it.
            Err(error) if far.is_some() => {
                return report.warning(Check::CsrAnswers, format!("{place} can't be reached from here, so it wasn't tried"), error.to_string());
            }
            Err(error) => return report.failed(Check::CsrAnswers, format!("{place} doesn't answer a TLS handshake"), error.to_string()),
        };
        match (&seen.server.handshake_trouble, seen.server.alpn.as_deref()) {
            (Some(trouble), _) => report.failed(Check::CsrAnswers, format!("the handshake with {place} fails"), trouble.clone()),
            (None, Some("h2")) => report.ok(Check::CsrAnswers, format!("{place} answers")),
            (None, other) => report.failed(Check::CsrAnswers, format!("{place} doesn't speak HTTP/2"), format!("ALPN {other:?}")),
        }
        let now = self.clock.now();
        let looked = inspect_chain(&seen.chain, Some(&roots), now);
        let Some(leaf) = looked.certificates.first() else {
            return report.failed(Check::CsrCertificate, "its certificate can't be read", "");
        };
        let chain = looked.chain.as_ref().map(|chain| (chain.status, chain.why.clone().unwrap_or_default()));
        certificate(leaf, chain, now, report);
        names(leaf, &wanted, report);
    }

    /// The names that the certificate should have, as it writes them and by themselves: of the file where one was given, else of the server.
    fn wanted(&self, answer: &CheckResponse) -> Vec<(String, String)> {
        let (dns, addresses) = match &self.config {
            Some(Config { server, .. }) => (server.serving_dns_names.clone(), server.serving_ip_addresses.iter().map(ToString::to_string).collect()),
            None => (answer.serving_dns_names.clone(), answer.serving_ip_addresses.clone()),
        };
        let dns = dns.into_iter().map(|name| (format!("DNS:{name}"), name));
        dns.chain(addresses.into_iter().map(|address| (format!("IP:{address}"), address))).collect()
    }
}

/// The end of the presented certificate, and whether it leads to the bundle.
fn certificate(leaf: &CertificateReport, chain: Option<(ChainStatus, String)>, now: OffsetDateTime, report: &mut Report) {
    let text = format!("its certificate {}", lifetime(leaf.not_before, leaf.not_after, now));
    let tenth = (leaf.not_after - leaf.not_before) / 10;
    match chain {
        Some((ChainStatus::Verified, _)) if leaf.not_after - now < tenth => report.warning(Check::CsrCertificate, text, "it was not renewed"),
        Some((ChainStatus::Verified, _)) => report.push(Check::CsrCertificate, Severity::Ok, text, leaf.serial.clone()),
        Some((_, why)) => report.failed(Check::CsrCertificate, format!("{text} and doesn't verify against the trust bundle"), why),
        None => report.failed(Check::CsrCertificate, format!("{text} and can't be verified"), ""),
    }
}

fn names(leaf: &CertificateReport, wanted: &[(String, String)], report: &mut Report) {
    let missing: Vec<_> = wanted.iter().filter(|(name, _)| !leaf.names.contains(name)).map(|(name, _)| name.as_str()).collect();
    if wanted.is_empty() {
        report.failed(Check::CsrNames, "its certificate is to have no name: no agent can verify it", "");
    } else if missing.is_empty() {
        report.ok(Check::CsrNames, format!("its certificate has every configured name ({})", wanted.len()));
    } else {
        report.failed(Check::CsrNames, format!("its certificate lacks {}", missing.join(", ")), format!("it has {}", leaf.names.join(", ")));
    }
}

/// Who looks at a mesh need not have a server yet, nor be let in by it; that the cluster doesn't answer is another line.
fn unreached(why: Unreached, report: &mut Report) {
    match why {
        Unreached::Absent(_) | Unreached::NoCluster(_) => {}
        Unreached::Unasked(why) => report.warning(Check::AdminAnswers, "the server in the cluster can't be asked", why),
        Unreached::Trouble(why) => report.failed(Check::AdminAnswers, "the server doesn't answer", why),
    }
}

/// The address of the machine that it is on, where that is known and not this one.
async fn host(way: &Way) -> Option<IpAddr> {
    let Way::Network(address) = way else { return None };
    let mut found = tokio::net::lookup_host(address).await.ok()?;
    found.next().map(|address| address.ip())
}

/// An address to connect to: what listens everywhere is reached on the machine that it is on, which is this one unless its address is known.
fn reachable(mut address: SocketAddr, host: Option<IpAddr>) -> SocketAddr {
    match address.ip() {
        ip if ip.is_unspecified() && host.is_some() => address.set_ip(host.unwrap_or(ip)),
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

fn skew_text(apart: time::Duration) -> String {
    format!("our clock and the server's are {} s apart", apart.whole_seconds())
}

fn time_of(at: Timestamp) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.seconds) * 1_000_000_000 + i128::from(at.nanos)).ok()
}
