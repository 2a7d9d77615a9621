//! From facts to a plan: which way, why, and what to know before. Pure; the steps are in `steps.rs` (there) and `back.rs` (back again).

use serde_json::Value;
use time::{Duration, OffsetDateTime};

use super::super::istio::Version;
use super::facts::{Certificate, Facts, Form, Istiod, Key, Signer};
use super::plan::{Part, Plan, Way, run, say, values};
use super::shell::word;
use super::values as chart;

/// A CA that ends within this time isn't worth being handed over.
const WORTH_KEEPING: Duration = Duration::days(180);
/// Where the end of a CA that is handed over is a note.
const SOON: Duration = Duration::days(730);

/// What the operator chose.
#[derive(Debug, Clone)]
pub(super) struct Choice {
    /// `None`: what suits.
    pub(super) way: Option<Way>,
    /// Where meshmint's release is, or will be.
    pub(super) namespace: String,
    /// Where its image is.
    pub(super) image: String,
}

/// Makes a plan.
#[derive(Debug)]
pub(super) struct Planner<'a> {
    pub(super) facts: &'a Facts,
    pub(super) choice: &'a Choice,
    pub(super) way: Way,
}

/// The plan for these facts at this time.
///
/// # Errors
/// In words, where what was chosen can't be done.
pub(super) fn plan<'a>(facts: &'a Facts, choice: &Choice, now: OffsetDateTime) -> Result<Plan<'a>, String> {
    if let (Some(Way::KeepRoot), Some(why)) = (choice.way, facts.leads_nowhere()) {
        return Err(format!("the root can't be kept: {why}. Plan with --new-root"));
    }
    let (suits, because) = suits(facts, now);
    let (way, because) = match choice.way {
        Some(Way::KeepRoot) if facts.key().is_none() => {
            return Err("the root can't be kept: the key of istio-csr's issuer isn't in a Secret that could be read. Plan with --new-root".to_owned());
        }
        Some(Way::Back) => (
            Way::Back,
            "You chose it. Each step undoes one of the way there, in the other order: first the signer, then who gives out roots.".to_owned(),
        ),
        Some(way) if way != suits => (way, format!("You chose it. What would suit is the other way: {because}")),
        _ => (suits, because),
    };
    if let (Way::Back, Some(secret)) = (way, &facts.key_gone) {
        return Err(format!(
            "there is no CA to go back to: the Secret with its key ({secret}) is gone. Restore it, or install istio-csr first, then plan again"
        ));
    }
    let planner = Planner { facts, choice, way };
    if let (Signer::Istiod { on: false, .. }, false) = (&facts.signer, way == Way::Back) {
        let asked = &facts.new_pods_ask;
        return Err(if *asked == planner.address() {
            "this mesh has moved: istiod's CA is off and new pods ask meshmint. `meshmint check --kube` says what is left; --back plans the way back"
                .to_owned()
        } else {
            format!(
                "istiod's CA is off, and new pods ask {asked:?}, which is neither istio-csr nor meshmint ({}): there is no plan for that CA",
                planner.address()
            )
        });
    }
    if let (Signer::IstioCsr { namespace, deployment, .. }, true) = (&facts.signer, way != Way::Back) {
        let asked = &facts.new_pods_ask;
        if !asked.is_empty() && *asked != planner.address() && !asked.starts_with(&format!("{deployment}.{namespace}.")) {
            return Err(format!(
                "istio-csr runs ({namespace}/{deployment}), but new pods ask {asked:?}, which is neither its Service nor meshmint ({}): there is no plan for that CA",
                planner.address()
            ));
        }
    }
    let steps = if way == Way::Back { planner.steps_back() } else { planner.steps_there() };
    Ok(Plan { way, because, found: facts, notes: planner.notes(now), steps })
}

/// The way that suits, and why.
fn suits(facts: &Facts, now: OffsetDateTime) -> (Way, String) {
    let Some(key) = facts.key() else {
        return (
            Way::NewRoot,
            "The key of istio-csr's issuer isn't in a Secret that can be read, so meshmint begins with a root of its own.".to_owned(),
        );
    };
    if let Some(why) = facts.leads_nowhere() {
        return (Way::NewRoot, format!("The root can't be kept: {why}. So meshmint begins with a root of its own."));
    }
    match &key.certificate {
        Some(certificate) if certificate.not_after - now < WORTH_KEEPING => (
            Way::NewRoot,
            format!("The CA of today ends {}, in less than half a year, so its key isn't worth being handed over.", certificate.not_after.date()),
        ),
        _ => (Way::KeepRoot, "Its key can be handed over, so no workload has to learn a new root, and there is nothing to wait for.".to_owned()),
    }
}

impl Facts {
    /// The key of whoever signs now, where it is in the cluster.
    pub(super) fn key(&self) -> Option<&Key> {
        match &self.signer {
            Signer::Istiod { key, .. } => Some(key),
            Signer::IstioCsr { key, .. } => key.as_ref(),
        }
    }

    /// Whether workloads trust what this key signs; `None` where that could not be read.
    pub(super) fn trusts(&self, key: &Key) -> Option<bool> {
        key.certificate.as_ref().filter(|_| !self.roots.is_empty())?;
        Some(key.root.as_ref().is_some_and(|root| self.roots.iter().any(|trusted| trusted.id == root.id)))
    }

    /// Why nobody would believe what the key signs, where that is known.
    fn leads_nowhere(&self) -> Option<String> {
        if let Some(secret) = &self.key_gone {
            return Some(format!("the Secret with the key ({secret}) isn't there"));
        }
        let key = self.key().filter(|key| self.trusts(key) == Some(false))?;
        let certificate = key.certificate.as_ref()?;
        let root = match &key.root {
            Some(root) => format!("leads to the root {} ({})", root.subject, root.short_id()),
            None => "leads to no root in that Secret".to_owned(),
        };
        let Key { namespace, secret, .. } = key;
        Some(format!(
            "{} ({}) in Secret {namespace}/{secret} {root}, and workloads don't trust it (ConfigMap istio-ca-root-cert)",
            certificate.subject,
            certificate.short_id()
        ))
    }

    /// What was found, in lines for people.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("Kubernetes {}; trust domain {}, cluster {}", self.kubernetes, self.trust_domain, self.cluster)];
        for istiod in &self.istiods {
            let version = istiod.version.map_or_else(|| "of an unknown version".to_owned(), |version| version.to_string());
            lines.push(format!("istiod {version}: {}/{}, revision {}", istiod.namespace, istiod.deployment, istiod.revision));
        }
        lines.push(match &self.signer {
            Signer::Istiod { on, key } => {
                let on = if *on { "signed" } else { "not signed (its CA is off)" };
                format!("certificates are {on} by istiod, with {}", key.words())
            }
            Signer::IstioCsr { namespace, deployment, issuer, key, .. } => {
                let key = key.as_ref().map_or_else(|| "a key that is not in this cluster, or could not be read".to_owned(), Key::words);
                format!("certificates are signed by istio-csr ({namespace}/{deployment}), its {issuer}, with {key}")
            }
        });
        for root in &self.roots {
            lines.push(format!("workloads trust {} ({}), until {}", root.subject, root.short_id(), root.not_after.date()));
        }
        lines.push(format!("certificates live {} h", hours(self.lifetime)));
        let count: usize = self.proxies.values().sum();
        lines.push(format!("{count} proxies in {} namespaces", self.proxies.len()));
        for ztunnel in &self.ztunnels {
            let version = ztunnel.version.map_or_else(|| "of an unknown version".to_owned(), |version| version.to_string());
            lines.push(format!("ztunnel {version}: {}/{}, account {}", ztunnel.namespace, ztunnel.daemon_set, ztunnel.account));
        }
        if !self.remote_clusters.is_empty() {
            lines.push(format!("other clusters: {}", self.remote_clusters.join(", ")));
        }
        lines
    }
}

impl Key {
    fn words(&self) -> String {
        let Self { namespace, secret, certificate, .. } = self;
        let of = certificate.as_ref().map(|certificate| {
            let what = if certificate.self_signed { "a root" } else { "an intermediate" };
            format!(": {what}, {} ({}), until {}", certificate.subject, certificate.short_id(), certificate.not_after.date())
        });
        format!("the key in Secret {namespace}/{secret}{}", of.unwrap_or_default())
    }
}

impl Certificate {
    pub(super) fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }
}

pub(super) fn hours(lifetime: std::time::Duration) -> String {
    let tenths = lifetime.as_secs() / 360;
    if tenths.is_multiple_of(10) { (tenths / 10).to_string() } else { format!("{}.{}", tenths / 10, tenths % 10) }
}

impl Planner<'_> {
    /// What agents ask: the Service in this form, because that is the name in meshmint's certificate.
    pub(super) fn address(&self) -> String {
        format!("meshmint.{}.svc:443", self.choice.namespace)
    }

    /// The namespace of istiod.
    pub(super) fn istio(&self) -> &str {
        self.facts.istiods.first().map_or("istio-system", |istiod| istiod.namespace.as_str())
    }

    /// A command of meshmint's in its pod.
    pub(super) fn inside(&self, command: &str) -> String {
        format!(
            "kubectl --namespace {} exec statefulset/meshmint -- meshmint {command} --admin /run/meshmint/admin.sock",
            word(&self.choice.namespace)
        )
    }

    /// meshmint's bundle into a file.
    pub(super) fn fetch_bundle(&self) -> String {
        self.inside("bundle") + " > bundle.pem"
    }

    /// The bundle, and the mesh held against it.
    pub(super) fn look(&self) -> Part {
        run([self.fetch_bundle(), "meshmint check --kube --bundle bundle.pem".to_owned()])
    }

    /// `helm install` of meshmint with its values.
    pub(super) fn install_meshmint(&self, key: Option<&Key>) -> [Part; 2] {
        [
            values("meshmint", chart::meshmint(self.facts, &self.choice.image, key)),
            run([
                format!("helm install meshmint deploy/helm/meshmint --namespace {} --values values-meshmint.yaml", word(&self.choice.namespace)),
                self.rolled_out(),
            ]),
        ]
    }

    /// `helm upgrade` of meshmint by what changes; all else stays as the operator has it.
    pub(super) fn upgrade_meshmint(&self, changes: Value) -> [Part; 2] {
        let ours = word(&self.choice.namespace);
        [
            values("meshmint", changes),
            run([
                format!("helm upgrade meshmint deploy/helm/meshmint --namespace {ours} --reuse-values --values values-meshmint.yaml"),
                self.rolled_out(),
            ]),
        ]
    }

    fn rolled_out(&self) -> String {
        format!("kubectl --namespace {} rollout status statefulset/meshmint", word(&self.choice.namespace))
    }

    /// istiod's values, and how they get there: one release for each control plane.
    pub(super) fn upgrade_istiod(&self, ca_address: &str, signs: Option<bool>) -> Vec<Part> {
        let mut parts = vec![values("istiod", chart::istiod(ca_address, signs))];
        parts.extend(self.facts.istiods.iter().map(|istiod| match &istiod.release {
            Some(release) => run([upgrade_of_istio(release, "istiod", &istiod.namespace, istiod.version)]),
            None => say(format!(
                "{}/{} is no Helm release: put these values where you installed it with (below spec.values of an IstioOperator), and install again.",
                istiod.namespace, istiod.deployment
            )),
        }));
        parts
    }

    /// The same for ztunnel.
    pub(super) fn upgrade_ztunnel(&self, ca_address: &str) -> Vec<Part> {
        let mut parts = vec![values("ztunnel", chart::ztunnel(ca_address))];
        parts.extend(self.facts.ztunnels.iter().map(|ztunnel| match &ztunnel.release {
            Some(release) => run([upgrade_of_istio(release, "ztunnel", &ztunnel.namespace, ztunnel.version)]),
            None => say(format!(
                "{}/{} is no Helm release: put these values where you installed it with, and install again.",
                ztunnel.namespace, ztunnel.daemon_set
            )),
        }));
        parts.extend(self.facts.ztunnels.iter().map(|ztunnel| {
            run([format!("kubectl --namespace {} rollout status daemonset/{}", word(&ztunnel.namespace), word(&ztunnel.daemon_set))])
        }));
        parts
    }

    pub(super) fn restart_istiods(&self) -> Part {
        run(self.facts.istiods.iter().flat_map(|Istiod { namespace, deployment, .. }| {
            let (namespace, deployment) = (word(namespace), word(deployment));
            [
                format!("kubectl --namespace {namespace} rollout restart deployment/{deployment}"),
                format!("kubectl --namespace {namespace} rollout status deployment/{deployment}"),
            ]
        }))
    }

    /// Restarts what makes pods with proxies, a namespace after the other.
    pub(super) fn restart_workloads(&self) -> Vec<Part> {
        if self.facts.proxies.is_empty() {
            return vec![
                say("No pod with a proxy was found, or pods could not be read. Where there are some:"),
                run(["kubectl --namespace NAMESPACE rollout restart deployment,statefulset,daemonset"]),
            ];
        }
        // Where istiod and ztunnel are, not everything is to be restarted.
        let planes = self.facts.istiods.iter().map(|istiod| &istiod.namespace).chain(self.facts.ztunnels.iter().map(|ztunnel| &ztunnel.namespace));
        let planes: Vec<_> = planes.collect();
        let (apart, whole): (Vec<_>, Vec<_>) = self.facts.proxies.keys().partition(|namespace| planes.contains(namespace));
        let mut parts = Vec::new();
        if !whole.is_empty() {
            parts.push(say("Namespace by namespace, and only on when all is ready again:"));
            let kinds = "deployment,statefulset,daemonset";
            parts.push(run(whole.iter().map(|namespace| format!("kubectl --namespace {} rollout restart {kinds}", word(namespace)))));
        }
        if !apart.is_empty() {
            parts.push(say("Beside istiod or ztunnel only what has a proxy (gateways), by its name:"));
            parts.push(run(apart.iter().map(|namespace| format!("kubectl --namespace {} rollout restart deployment/NAME", word(namespace)))));
        }
        parts.push(say("Pods that nothing of these makes (Jobs, bare pods) are made anew by hand."));
        parts
    }

    /// What to know before the first step.
    fn notes(&self, now: OffsetDateTime) -> Vec<String> {
        let facts = self.facts;
        let mut notes = vec![
            "Istio itself isn't part of meshmint's tests: go this way on a test mesh first.".to_owned(),
            "Change nothing else in the mesh meanwhile, and go on only when a step is done.".to_owned(),
        ];
        notes.push(match facts.signer {
            Signer::Istiod { .. } => "`istio/` in the commands is your Helm repository of Istio's charts.".to_owned(),
            Signer::IstioCsr { .. } => {
                "`istio/` and `jetstack/` in the commands are your Helm repositories of Istio's and cert-manager's charts.".to_owned()
            }
        });
        let mut versions = facts.istiods.iter().map(|istiod| istiod.version).chain(facts.ztunnels.iter().map(|ztunnel| ztunnel.version));
        if versions.any(|version| version.is_none()) || matches!(facts.signer, Signer::IstioCsr { version: None, .. }) {
            notes
                .push("An image's tag is no version: VERSION in the commands stands for the chart's version that you have (`helm list`).".to_owned());
        }
        if facts.token_issuer.is_none() {
            notes.push("Fill in app.tokens.issuers: the member `issuer` of `kubectl get --raw /.well-known/openid-configuration`.".to_owned());
        }
        if self.choice.image == super::IMAGE {
            notes.push(format!("Fill in image.repository: `{}` stands for where you pushed the image (--image).", super::IMAGE));
        }
        if let (Way::NewRoot, Signer::Istiod { on: true, .. }, Some(secret)) = (self.way, &facts.signer, &facts.key_gone) {
            notes.push(format!(
                "istiod signs, but {secret} isn't there: its key is elsewhere, and step 3 can't be done as it is printed. Find out first."
            ));
        }
        if self.way == Way::KeepRoot && facts.key().is_some_and(|key| facts.trusts(key).is_none()) {
            notes.push(
                "Whether workloads trust the root of that key could not be read. See that the root of the Secret is in istio-ca-root-cert before step 1: a key that leads to another root ends every connection of the mesh.".to_owned(),
            );
        }
        if let (Way::KeepRoot, Some(Key { certificate: Some(certificate), form, .. })) = (self.way, facts.key()) {
            if certificate.path_length == Some(0) && !certificate.self_signed {
                notes.push(format!(
                    "{} may have no CA below it (pathlen:0), so meshmint signs with it directly and can't renew it: it ends {}.",
                    certificate.subject,
                    certificate.not_after.date()
                ));
            } else if certificate.not_after - now < SOON {
                notes.push(format!("{} ends {}, and meshmint has no rotation of roots yet.", certificate.subject, certificate.not_after.date()));
            }
            if matches!(form, Form::SelfSigned | Form::Generated) {
                notes.push("istiod renews its own root by itself when a fifth of its life is left, with the same key: be done before.".to_owned());
            }
        }
        if let Some(Key { cert_manager: Some(certificate), secret, .. }) = facts.key() {
            let what = match self.way {
                Way::NewRoot if matches!(facts.signer, Signer::Istiod { .. }) => {
                    "would undo the change of its roots: delete the Certificate first (the Secret stays)"
                }
                _ => "renews it, with a new key where it is told to: after that the copy here is another CA",
            };
            notes.push(format!("cert-manager keeps Secret {secret} (Certificate {certificate}) and {what}."));
        }
        for istiod in &facts.istiods {
            if istiod.cert_provider != "istiod" {
                notes.push(format!(
                    "{}/{} has PILOT_CERT_PROVIDER={}: agents then don't take their roots from istio-ca-root-cert. This plan is for `istiod`.",
                    istiod.namespace, istiod.deployment, istiod.cert_provider
                ));
            }
            if self.way == Way::NewRoot && istiod.version.is_some_and(Version::istiod_loses_roots) {
                notes.push(format!(
                    "{}/{} is 1.25.1, which gives workloads only one root of several (istio/istio#55793): update it first.",
                    istiod.namespace, istiod.deployment
                ));
            }
        }
        for ztunnel in &facts.ztunnels {
            let Some(version) = ztunnel.version else { continue };
            if self.way != Way::KeepRoot && version.ztunnel_trusts_one_root() {
                notes.push(format!(
                    "ztunnel {version} trusts only one of several roots (before 1.25.2): there is no way without an outage with it. Update it first."
                ));
            }
        }
        if !facts.remote_clusters.is_empty() {
            notes.push(format!(
                "Other clusters ({}): in each apply deploy/kubernetes/rbac.yaml and controllers.yaml, and istiod.yaml where an istiod runs (and name that cluster in app.tls.istiodCertificateClusters when istiodCertificateEnable is turned on), make the account, and here the Secret by `meshmint cluster secret` before step {}; their agents ask the same address, which they must be able to reach.",
                facts.remote_clusters.join(", "),
                self.step_of_address()
            ));
        }
        if facts.pushes_roots && self.way == Way::NewRoot {
            notes.push("ISTIO_MULTIROOT_MESH and PROXY_CONFIG_XDS_AGENT are on, so sidecars have a new root within seconds; ztunnel still learns it with its next certificates.".to_owned());
        }
        notes
    }
}

/// An upgrade of a release to the version that it has, so that only the values change.
pub(super) fn upgrade(release: &str, chart: &str, namespace: &str, version: Option<&str>, values: &str) -> String {
    let version = version.map_or_else(|| "VERSION".to_owned(), word);
    format!("helm upgrade {} {chart} --namespace {} --version {version} --reuse-values {values}", word(release), word(namespace))
}

/// The same of one of Istio's, with its file of values.
fn upgrade_of_istio(release: &str, chart: &str, namespace: &str, version: Option<Version>) -> String {
    let version = version.map(|version| version.to_string());
    upgrade(release, &format!("istio/{chart}"), namespace, version.as_deref(), &format!("--values values-{chart}.yaml"))
}
