//! `meshmint check --kube`: what is to be seen in a cluster, before and after installing: its clock and versions, permissions, roots in namespaces,
//! istiod's own CA, whom the mesh asks, webhooks. Verdicts over what was read with the rights of whoever runs the command.

use std::collections::BTreeSet;

use time::OffsetDateTime;

use super::super::istio::{OLDEST_ISTIO, OLDEST_KUBERNETES, Version};
use super::report::Report;
use crate::cluster::{ApiError, ApiVersion, Injector, Installed, NamespaceRoots, Needed, Program, Proxy, Survey, Webhook};
use crate::pki::certificates_from_pem;
use crate::pki::inspect::printable;
use crate::server::checkup::Check;

/// How many names a line lists.
const NAMED: usize = 5;

/// What is expected of the mesh.
#[derive(Debug, Default)]
pub(super) struct Expected {
    /// The trust bundle, where a server could be asked for it.
    pub(super) bundle: Option<String>,
    /// The hosts that Istio may be told to ask, where known; else any but istiod's.
    pub(super) hosts: Vec<String>,
    /// Whether istiod stays the CA, below our root (`controllers.cacerts`): then it may be asked.
    pub(super) plugged_in: bool,
}

impl Expected {
    /// Where no host of ours is known, anything but istiod itself may be one.
    fn is_right(&self, address: &str) -> bool {
        match asks_istiod(address) {
            true => self.plugged_in,
            false => self.hosts.is_empty() || self.hosts.iter().any(|ours| ours == host(address)),
        }
    }
}

/// How far a cluster's clock may be from ours. It tells its time in whole seconds, and is asked over a network.
const SKEW_WARNING: time::Duration = time::Duration::seconds(5);
const SKEW_FAILURE: time::Duration = time::Duration::seconds(30);

/// Puts a line for each thing of the mesh into the report.
pub(super) fn judge(survey: &Survey, expected: &Expected, report: &mut Report) {
    namespaces(&survey.namespaces, expected, report);
    istiods(&survey.istiods, expected.plugged_in, report);
    compliance(survey, report);
    addresses(&survey.istiods, &survey.ztunnels, &survey.injectors, expected, report);
    proxies(&survey.proxies, &survey.istiods, expected, report);
    webhooks(&survey.webhooks, expected, report);
}

/// The API server's clock against ours, `now`.
pub(super) fn clock(kubernetes: &ApiVersion, now: OffsetDateTime, report: &mut Report) {
    let Some(date) = kubernetes.date else {
        return report.warning(Check::MeshClock, "the API server doesn't tell its time", "");
    };
    let apart = (now - date).abs();
    let text = format!("our clock and the API server's are {} s apart", apart.whole_seconds());
    match apart {
        apart if apart > SKEW_FAILURE => report.failed(Check::MeshClock, text, ""),
        apart if apart > SKEW_WARNING => report.warning(Check::MeshClock, text, ""),
        _ => report.ok(Check::MeshClock, "our clock and the API server's agree"),
    }
}

/// Kubernetes', Istio's and meshmint's own versions.
pub(super) fn versions(kubernetes: &ApiVersion, survey: &Survey, installed: Option<&Installed>, report: &mut Report) {
    const OWN: &str = env!("CARGO_PKG_VERSION");
    let mut told = vec![format!("Kubernetes {}", printable(&kubernetes.version))];
    let mut well = true;
    if Version::of(&kubernetes.version).is_some_and(|version| version < OLDEST_KUBERNETES) {
        well = false;
        report.failed(Check::MeshVersions, format!("Kubernetes is {}", printable(&kubernetes.version)), format!("older than {OLDEST_KUBERNETES}"));
    }
    let programs = [&survey.istiods, &survey.ztunnels].into_iter().filter_map(|programs| programs.as_ref().ok()).flatten();
    for program in programs {
        let Some(tag) = &program.tag else { continue };
        told.push(format!("{} {}", program.object, printable(tag)));
        let Some(version) = Version::of(tag) else { continue };
        if version < OLDEST_ISTIO {
            well = false;
            let why = format!("older than {OLDEST_ISTIO}, the oldest that meshmint was made with");
            report.warning(Check::MeshVersions, format!("{} is {version}", program.name()), why);
        }
        if program.env.contains_key("CA_ADDRESS") && version.ztunnel_reads_root_once() {
            well = false;
            let why = "it reads the root that it verifies its CA with once, at its start";
            report.warning(Check::MeshVersions, format!("{} {version} must be restarted after every new root", program.name()), why);
        }
    }
    if let Some(Installed { name, tag: Some(tag), .. }) = installed {
        told.push(format!("meshmint {}", printable(tag)));
        if Version::of(tag).is_some_and(|version| Some(version) != Version::of(OWN)) {
            well = false;
            report.warning(Check::MeshVersions, format!("{name} is {}, this command is {OWN}", printable(tag)), "");
        }
    }
    if well {
        report.ok(Check::MeshVersions, told.join(", "));
    }
}

fn unread(check: Check, what: &str, error: &ApiError, report: &mut Report) {
    report.warning(check, format!("{what} can't be read"), error.to_string());
}

/// `for_what` says which configuration they are needed for.
pub(super) fn permissions(lacking: &Result<Vec<&Needed>, ApiError>, account: &str, for_what: &str, report: &mut Report) {
    match lacking {
        Err(error) => unread(Check::MeshPermissions, "what our account may do", error, report),
        Ok(lacking) if lacking.is_empty() => report.ok(Check::MeshPermissions, format!("{account} may do what it needs {for_what}")),
        Ok(lacking) => {
            let lacking: Vec<_> = lacking.iter().map(ToString::to_string).collect();
            report.failed(Check::MeshPermissions, format!("{account} lacks permissions {for_what}"), lacking.join(", "));
        }
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
    // Whoever has the key of such a root stands in for any workload before those of the namespace.
    let adds = |roots: &str| !lacks(roots) && bundle.as_ref().is_some_and(|bundle| !roots_of(roots).is_subset(&roots_of(bundle)));
    let beyond: Vec<_> = namespaces.iter().filter(|each| each.roots.as_deref().is_some_and(adds)).map(|each| each.name.as_str()).collect();
    let count = namespaces.len();
    if !beyond.is_empty() {
        let what = format!("{} of {count} namespaces trust a root that isn't in the trust bundle", beyond.len());
        report.warning(Check::MeshRoots, what, named(&beyond));
    }
    if !behind.is_empty() {
        report.failed(Check::MeshRoots, format!("{} of {count} namespaces lack a root of the trust bundle", behind.len()), named(&behind));
    }
    if !without.is_empty() {
        report.warning(Check::MeshRoots, format!("{} of {count} namespaces have no istio-ca-root-cert", without.len()), named(&without));
    }
    if behind.is_empty() && without.is_empty() && beyond.is_empty() {
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

fn istiods(istiods: &Result<Vec<Program>, ApiError>, plugged_in: bool, report: &mut Report) {
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
            Some("false") if plugged_in => {
                report.failed(Check::MeshIstiod, format!("{} has its own CA off, and controllers.cacerts is for one that is on", istiod.name()), "");
            }
            _ if plugged_in => report.ok(Check::MeshIstiod, format!("{} stays the CA, below our root", istiod.name())),
            Some("false") => report.ok(Check::MeshIstiod, format!("{} has its own CA off", istiod.name())),
            other => report.failed(
                Check::MeshIstiod,
                format!("{} runs its own CA", istiod.name()),
                format!("ENABLE_CA_SERVER is {}", other.map_or_else(|| "not set, which means true".to_owned(), printable)),
            ),
        }
    }
}

/// Who can't connect to us: istiod's choice is its proxies', ztunnel has its own. Any other policy is served.
fn compliance(survey: &Survey, report: &mut Report) {
    let programs = [&survey.istiods, &survey.ztunnels].into_iter().filter_map(|programs| programs.as_ref().ok()).flatten();
    for program in programs.filter(|program| program.env.get("COMPLIANCE_POLICY").is_some_and(|policy| policy == "pqc")) {
        report.failed(Check::MeshCompliance, format!("{} has COMPLIANCE_POLICY=pqc", program.name()), "");
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
        programs.iter().map(|program| (program.name(), program.env.get(variable).cloned().unwrap_or_default())).collect()
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
    let wrong: Vec<String> = asked.iter().filter(|(_, address)| !expected.is_right(address)).map(|(name, address)| told(name, address)).collect();
    if wrong.is_empty() {
        if !asked.is_empty() {
            let us = if expected.plugged_in { "us or istiod" } else { "us" };
            report.ok(Check::MeshAddress, format!("{} programs of the mesh ask {us}", asked.len()));
        }
    } else {
        let wrong: Vec<_> = wrong.iter().map(String::as_str).collect();
        report.failed(Check::MeshAddress, format!("{} of {} programs of the mesh ask another CA", wrong.len(), asked.len()), named(&wrong));
    }
}

/// Pods whose proxy still asks somebody else: an address is written into a pod when it is made. Where istiod's CA is off they can't renew.
fn proxies(proxies: &Result<Vec<Proxy>, ApiError>, istiods: &Result<Vec<Program>, ApiError>, expected: &Expected, report: &mut Report) {
    let proxies = match proxies {
        Ok(proxies) => proxies,
        Err(error) => return unread(Check::MeshWorkloads, "pods with a proxy", error, report),
    };
    let others: Vec<_> = proxies.iter().filter(|proxy| !expected.is_right(&proxy.ca_address)).collect();
    let names: Vec<_> = others.iter().map(|proxy| told(&format!("{}/{}", proxy.namespace, proxy.pod), &proxy.ca_address)).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let off = istiods.as_ref().is_ok_and(|istiods| istiods.iter().all(|istiod| istiod.env.get("ENABLE_CA_SERVER").is_some_and(|on| on == "false")));
    let text = || format!("{} of {} proxies ask another CA", others.len(), proxies.len());
    match others.iter().any(|proxy| asks_istiod(&proxy.ca_address)) {
        _ if proxies.is_empty() => report.ok(Check::MeshWorkloads, "no pod has a proxy of Istio's"),
        _ if others.is_empty() && expected.plugged_in => report.ok(Check::MeshWorkloads, format!("all {} proxies ask us or istiod", proxies.len())),
        _ if others.is_empty() => report.ok(Check::MeshWorkloads, format!("all {} proxies ask us", proxies.len())),
        true if off => report.failed(Check::MeshWorkloads, format!("{}, and istiod's is off", text()), named(&names)),
        _ => report.warning(Check::MeshWorkloads, text(), named(&names)),
    }
}

fn told(name: &str, address: &str) -> String {
    if address.is_empty() { format!("{name}: istiod") } else { format!("{name}: {}", printable(address)) }
}

fn asks_istiod(address: &str) -> bool {
    address.is_empty() || host(address).starts_with("istiod")
}

fn host(address: &str) -> &str {
    let address = address.trim_start_matches("https://");
    address.rsplit_once(':').map_or(address, |(host, _)| host)
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
    use super::super::super::Outcome;
    use super::*;

    #[test]
    fn an_address_is_ours_by_its_host() {
        let known = Expected { hosts: vec!["meshmint.meshmint-system.svc".to_owned()], ..Expected::default() };
        let (unknown, plugged_in) = (Expected::default(), Expected { plugged_in: true, hosts: known.hosts.clone(), ..Expected::default() });
        for ours in ["meshmint.meshmint-system.svc:443", "https://meshmint.meshmint-system.svc:443", "meshmint.meshmint-system.svc"] {
            assert!([&known, &unknown, &plugged_in].iter().all(|expected| expected.is_right(ours)), "{ours}");
        }
        for istiod in ["", "istiod.istio-system.svc:15012", "https://istiod.istio-system.svc:15012"] {
            assert!(!known.is_right(istiod) && !unknown.is_right(istiod) && plugged_in.is_right(istiod), "{istiod}");
        }
        assert!(!known.is_right("other.example:443") && !plugged_in.is_right("other.example:443"));
    }

    #[test]
    fn two_clocks_agree_or_not() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let severity = |date: Option<OffsetDateTime>| {
            let mut report = Report::default();
            clock(&ApiVersion { version: "v1.34.1".to_owned(), date }, now, &mut report);
            report.outcome()
        };
        for (apart, outcome) in
            [(0, Outcome::Ok), (5, Outcome::Ok), (6, Outcome::Warnings), (-6, Outcome::Warnings), (31, Outcome::Failed), (-31, Outcome::Failed)]
        {
            assert_eq!(severity(Some(now + time::Duration::seconds(apart))), outcome, "{apart}");
        }
        assert_eq!(severity(None), Outcome::Warnings);
    }

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(named(&["a", "b"]), "a, b");
        assert_eq!(named(&["a", "b", "c", "d", "e"]), "a, b, c, d, e");
        assert_eq!(named(&["a", "b", "c", "d", "e", "f", "g"]), "a, b, c, d, e and 2 more");
    }
}
