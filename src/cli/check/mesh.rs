//! `meshmint check --kube`: what is to be seen in a cluster, before and after installing: permissions, roots in namespaces, istiod's own CA, whom
//! the mesh asks, webhooks. Verdicts over a [`Survey`]; it is read with the rights of whoever runs the command.

use std::collections::BTreeSet;

use super::report::Report;
use crate::cluster::{ApiError, Injector, NamespaceRoots, Needed, Program, Survey, Webhook};
use crate::pki::certificates_from_pem;
use crate::pki::inspect::printable;
use crate::server::checkup::Check;

/// What our service account needs to know who lives in the cluster (deploy/kubernetes/rbac.yaml).
pub(super) const NEEDED: &[Needed] = &[
    ("list", "", "pods"),
    ("watch", "", "pods"),
    ("get", "", "pods"),
    ("list", "", "serviceaccounts"),
    ("watch", "", "serviceaccounts"),
    ("get", "", "serviceaccounts"),
    ("list", "", "nodes"),
    ("watch", "", "nodes"),
    ("get", "", "nodes"),
    ("create", "authentication.k8s.io", "tokenreviews"),
];

/// How many names a line lists.
const NAMED: usize = 5;

/// What is expected of the mesh.
#[derive(Debug, Default)]
pub(super) struct Expected {
    /// The trust bundle, where a server could be asked for it.
    pub(super) bundle: Option<String>,
    /// Our service account, NAMESPACE/NAME.
    pub(super) account: String,
    /// The hosts that Istio may be told to ask, where known; else any but istiod's.
    pub(super) hosts: Vec<String>,
}

/// Puts a line for each thing into the report.
pub(super) fn judge(survey: &Survey, expected: &Expected, report: &mut Report) {
    permissions(&survey.lacking, expected, report);
    namespaces(&survey.namespaces, expected, report);
    istiods(&survey.istiods, report);
    addresses(&survey.istiods, &survey.ztunnels, &survey.injectors, expected, report);
    webhooks(&survey.webhooks, expected, report);
}

fn unread(check: Check, what: &str, error: &ApiError, report: &mut Report) {
    report.warning(check, format!("{what} can't be read"), error.to_string());
}

fn permissions(lacking: &Result<Vec<String>, ApiError>, Expected { account, .. }: &Expected, report: &mut Report) {
    match lacking {
        Err(error) => unread(Check::MeshPermissions, "what our account may do", error, report),
        Ok(lacking) if lacking.is_empty() => report.ok(Check::MeshPermissions, format!("{account} may do what it needs")),
        Ok(lacking) => report.failed(Check::MeshPermissions, format!("{account} lacks permissions"), lacking.join(", ")),
    }
}

/// Namespaces by what they trust. Nobody knows here whether workloads of a namespace take part, so one without roots is a warning.
fn namespaces(namespaces: &Result<Vec<NamespaceRoots>, ApiError>, Expected { bundle, .. }: &Expected, report: &mut Report) {
    let namespaces = match namespaces {
        Ok(namespaces) => namespaces,
        Err(error) => return unread(Check::MeshRoots, "the namespaces' roots", error, report),
    };
    let without: Vec<_> = namespaces.iter().filter(|each| each.roots.is_none()).map(|each| each.name.as_str()).collect();
    let lacks = |roots: &str| bundle.as_ref().is_some_and(|bundle| !roots_of(bundle).is_subset(&roots_of(roots)));
    let behind: Vec<_> = namespaces.iter().filter(|each| each.roots.as_deref().is_some_and(lacks)).map(|each| each.name.as_str()).collect();
    let count = namespaces.len();
    if !behind.is_empty() {
        report.failed(Check::MeshRoots, format!("{} of {count} namespaces lack a root of the trust bundle", behind.len()), named(&behind));
    }
    if !without.is_empty() {
        report.warning(Check::MeshRoots, format!("{} of {count} namespaces have no istio-ca-root-cert", without.len()), named(&without));
    }
    if behind.is_empty() && without.is_empty() {
        let whose = if bundle.is_some() { "the trust bundle" } else { "roots" };
        report.ok(Check::MeshRoots, format!("all {count} namespaces have {whose}"));
    }
}

/// The certificates of a PEM text; a text that isn't PEM has none.
fn roots_of(pem: &str) -> BTreeSet<Vec<u8>> {
    certificates_from_pem(pem).unwrap_or_default().into_iter().map(|der| der.to_vec()).collect()
}

fn named(names: &[&str]) -> String {
    let shown = names.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(NAMED) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}

fn istiods(istiods: &Result<Vec<Program>, ApiError>, report: &mut Report) {
    let istiods = match istiods {
        Ok(istiods) => istiods,
        Err(error) => return unread(Check::MeshIstiod, "istiod's Deployments", error, report),
    };
    if istiods.is_empty() {
        report.warning(Check::MeshIstiod, "there is no istiod", "no Deployment with label app=istiod");
    }
    for istiod in istiods {
        let env = |name: &str| istiod.env.get(name).map(String::as_str);
        match env("ENABLE_CA_SERVER") {
            Some("false") => report.ok(Check::MeshIstiod, format!("{} has its own CA off", istiod.name)),
            other => report.failed(
                Check::MeshIstiod,
                format!("{} runs its own CA", istiod.name),
                format!("ENABLE_CA_SERVER is {}", other.map_or_else(|| "not set, which means true".to_owned(), printable)),
            ),
        }
        // Also `COMPLIANCE_POLICY` of any other kind is served.
        if env("COMPLIANCE_POLICY") == Some("pqc") {
            report.failed(Check::MeshCompliance, format!("{} has COMPLIANCE_POLICY=pqc", istiod.name), "");
        }
    }
}

/// Whom istiod, sidecars and ztunnel ask.
fn addresses(
    istiods: &Result<Vec<Program>, ApiError>,
    ztunnels: &Result<Vec<Program>, ApiError>,
    injectors: &Result<Vec<Injector>, ApiError>,
    expected: &Expected,
    report: &mut Report,
) {
    let mut asked: Vec<(String, String)> = Vec::new();
    let of = |programs: &[Program], variable: &str| -> Vec<_> {
        programs.iter().map(|program| (program.name.clone(), program.env.get(variable).cloned().unwrap_or_default())).collect()
    };
    match ztunnels {
        Ok(ztunnels) => asked.extend(of(ztunnels, "CA_ADDRESS")),
        Err(error) => unread(Check::MeshAddress, "ztunnel's DaemonSets", error, report),
    }
    match injectors {
        Ok(injectors) => asked.extend(injectors.iter().map(|injector| (injector.name.clone(), injector.ca_address.clone()))),
        Err(error) => unread(Check::MeshAddress, "the sidecar injectors' values", error, report),
    }
    if let Ok(istiods) = istiods {
        // Only where it is set: it is for istiod's own certificate.
        asked.extend(of(istiods, "CA_ADDR").into_iter().filter(|(_, address)| !address.is_empty()));
    }
    let wrong: Vec<String> =
        asked.iter().filter(|(_, address)| !is_ours(address, &expected.hosts)).map(|(name, address)| told(name, address)).collect();
    if wrong.is_empty() {
        if !asked.is_empty() {
            report.ok(Check::MeshAddress, format!("{} programs of the mesh ask us", asked.len()));
        }
    } else {
        let wrong: Vec<_> = wrong.iter().map(String::as_str).collect();
        report.failed(Check::MeshAddress, format!("{} of {} programs of the mesh ask another CA", wrong.len(), asked.len()), named(&wrong));
    }
}

fn told(name: &str, address: &str) -> String {
    if address.is_empty() { format!("{name}: istiod") } else { format!("{name}: {}", printable(address)) }
}

/// Where no host of ours is known, anything but istiod itself may be one.
fn is_ours(address: &str, hosts: &[String]) -> bool {
    let host = address.trim_start_matches("https://").rsplit_once(':').map_or(address, |(host, _)| host);
    if hosts.is_empty() { !host.is_empty() && !host.starts_with("istiod") } else { hosts.iter().any(|ours| ours == host) }
}

fn webhooks(webhooks: &Result<Vec<Webhook>, ApiError>, Expected { bundle, .. }: &Expected, report: &mut Report) {
    let webhooks = match webhooks {
        Ok(webhooks) => webhooks,
        Err(error) => return unread(Check::MeshWebhooks, "istiod's webhooks", error, report),
    };
    let trusts = |pem: &String| match bundle {
        Some(bundle) => roots_of(bundle).is_subset(&roots_of(pem)),
        None => !roots_of(pem).is_empty(),
    };
    let behind: Vec<_> = webhooks.iter().filter(|webhook| !webhook.ca_bundles.iter().all(trusts)).map(|webhook| webhook.name.as_str()).collect();
    if !behind.is_empty() {
        let what = if bundle.is_some() { "lack a root of the trust bundle" } else { "have no roots" };
        report.failed(Check::MeshWebhooks, format!("{} of istiod's {} webhook configurations {what}", behind.len(), webhooks.len()), named(&behind));
    } else if !webhooks.is_empty() {
        report.ok(Check::MeshWebhooks, format!("istiod's {} webhook configurations have their roots", webhooks.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_ours_by_its_host() {
        let hosts = ["meshmint.meshmint-system.svc".to_owned()];
        for ours in ["meshmint.meshmint-system.svc:443", "https://meshmint.meshmint-system.svc:443", "meshmint.meshmint-system.svc"] {
            assert!(is_ours(ours, &hosts) && is_ours(ours, &[]), "{ours}");
        }
        for other in ["", "istiod.istio-system.svc:15012", "https://istiod.istio-system.svc:15012"] {
            assert!(!is_ours(other, &hosts) && !is_ours(other, &[]), "{other}");
        }
        assert!(!is_ours("other.example:443", &hosts));
    }

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(named(&["a", "b"]), "a, b");
        assert_eq!(named(&["a", "b", "c", "d", "e"]), "a, b, c, d, e");
        assert_eq!(named(&["a", "b", "c", "d", "e", "f", "g"]), "a, b, c, d, e and 2 more");
    }
}
