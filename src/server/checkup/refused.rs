//! Why nearly nobody is served: one reason that makes up nearly all of the last minutes, with its likely cause, and token issuers that the
//! cluster doesn't go by. A server that refuses everybody is well by every other line.

use super::facts::Fact;
use super::table::Check;
use crate::cluster::IssuerStatus;

/// The name among the counts of what was served; no reason is called so.
pub(super) const SERVED: &str = "served";
/// Fewer requests say nothing.
const ENOUGH: u64 = 10;

/// What was asked in the last minutes, by how it ended, most first.
pub(super) fn callers(recent: &[(String, u64)]) -> Fact {
    let all: u64 = recent.iter().map(|(_, count)| count).sum();
    match recent.first() {
        Some((reason, count)) if reason != SERVED && all >= ENOUGH && count.saturating_mul(10) >= all.saturating_mul(9) => {
            let what = format!("{count} of {all} requests of the last five minutes were refused as {reason}");
            Fact::warning(Check::CallersServed, format!("{what}: {}", likely_cause(reason)))
        }
        _ => Fact::ok(Check::CallersServed, "no reason of refusal stands out in the last five minutes"),
    }
}

/// What it mostly is, where it happens to everybody.
fn likely_cause(reason: &str) -> &'static str {
    match reason {
        "wrong_issuer" => "the tokens are of another `iss` than tokens.issuers has; ask the API server for its own (`token-issuer`)",
        "wrong_audience" => "the agents ask tokens for another audience than tokens.audiences has",
        "unknown_kid" | "bad_signature" => "the key set is another one than that of who signs the tokens",
        "keys_unavailable" => "the keys of the token issuer can't be read (`token-keys`)",
        "expired" | "not_yet_valid" => "a clock is off, the server's or the API server's",
        "no_credential" => "the clients send neither token nor client certificate: mostly a probe, or not an agent of Istio",
        "pod_gone" | "service_account_gone" | "node_gone" | "review_refused" => {
            "the tokens are of another cluster than the one that is asked, or their pods are gone"
        }
        "unknown_cluster" | "cluster_not_joined" => "agents name a cluster that isn't joined (`remote-clusters`)",
        "impersonation_not_trusted" => "ztunnel runs as an account that tokens.trustedNodeAccounts doesn't have",
        "overloaded" => "more is asked than can be served (`requests-room`)",
        "ledger_unavailable" => "the ledger can't be written (`ledger-writable`)",
        _ => "the log has a line for each, with the same reason",
    }
}

/// Whether the API server goes by the name that the tokens are to carry.
pub(super) fn token_issuer(issuers: &[IssuerStatus]) -> Fact {
    let Some(named) = issuers.iter().find_map(|issuer| issuer.named_by_cluster.as_ref()) else {
        return Fact::ok(Check::TokenIssuer, "no API server was asked what it calls itself");
    };
    let detail =
        format!("it calls itself {named}; tokens.issuers has {}", issuers.iter().map(|issuer| issuer.issuer.as_str()).collect::<Vec<_>>().join(", "));
    match issuers.iter().any(|issuer| issuer.issuer == *named) {
        true => Fact::ok(Check::TokenIssuer, "the cluster's own token issuer is among those that are configured"),
        false => Fact::warning(
            Check::TokenIssuer,
            "the cluster's API server is called otherwise as a token issuer than any that is configured: its tokens are refused",
        )
        .with_detail(detail),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cluster::Timing;
    use crate::pki::inspect::Severity;

    fn recent(counts: &[(&str, u64)]) -> Vec<(String, u64)> {
        counts.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect()
    }

    #[test]
    fn one_reason_for_nearly_all_is_a_warning_with_its_cause() {
        let severity = |counts: &[(&str, u64)]| callers(&recent(counts)).severity;
        assert_eq!(severity(&[]), Severity::Ok);
        assert_eq!(severity(&[("wrong_issuer", 9)]), Severity::Ok, "too few to say");
        assert_eq!(severity(&[("wrong_issuer", 89), (SERVED, 11)]), Severity::Ok);
        assert_eq!(severity(&[(SERVED, 100)]), Severity::Ok);
        assert_eq!(severity(&[("wrong_issuer", 50), ("expired", 50)]), Severity::Ok);
        let fact = callers(&recent(&[("wrong_issuer", 90), (SERVED, 10)]));
        assert_eq!(fact.severity, Severity::Warning);
        assert!(fact.message.contains("90 of 100") && fact.message.contains("another `iss`"), "{}", fact.message);
    }

    #[test]
    fn an_issuer_that_the_cluster_does_not_go_by_is_a_warning() {
        let second = Duration::from_secs(1);
        let status = |issuer: &str, named: Option<&str>| IssuerStatus {
            issuer: issuer.to_owned(),
            last_success: None,
            age: Some(second),
            timing: Timing { refresh_interval: second, refetch_interval: second, max_age: second, fetch_timeout: second },
            keys: 1,
            skipped: 0,
            faulty: vec![],
            failures: 0,
            last_error: None,
            named_by_cluster: named.map(str::to_owned),
        };
        assert_eq!(token_issuer(&[status("a", None)]).severity, Severity::Ok);
        assert_eq!(token_issuer(&[status("old", Some("new")), status("new", Some("new"))]).severity, Severity::Ok, "while it moves");
        let fact = token_issuer(&[status("https://kubernetes.default.svc", Some("https://kubernetes.default.svc.cluster.local"))]);
        assert_eq!(fact.severity, Severity::Warning);
        assert!(!fact.message.contains("https"), "no name for strangers: {}", fact.message);
        assert!(fact.detail.contains("svc.cluster.local; tokens.issuers has https://kubernetes.default.svc"), "{}", fact.detail);
    }
}
