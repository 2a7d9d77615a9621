//! The way there. The order is the promise: nobody is asked for certificates before everybody trusts what it signs, and nobody stops to sign before
//! everybody has stopped to ask it.

use super::super::istio::Version;
use super::facts::{Certificate, Form, Key, Signer};
use super::plan::{Part, Step, Way, run, say, values};
use super::planner::{Planner, hours, upgrade};
use super::shell::{copy_secret, put_file, with_certificates, word};
use super::values::{self as chart, IMPORT, has_chain};

/// The Secret that istiod takes a CA from, and a ConfigMap with roots for istio-csr.
const PLUGGED_IN: &str = "cacerts";
const ROOTS: &str = "migration-roots";

impl Planner<'_> {
    pub(super) fn steps_there(&self) -> Vec<Step> {
        let mut steps = match (self.way, self.facts.key()) {
            (Way::KeepRoot, Some(key)) => {
                let mut steps = vec![self.copy_key(key), self.install(Some(key))];
                steps.extend(self.has_further_roots().then(|| self.trust_the_old_roots()));
                steps
            }
            _ => vec![self.install(None), self.trust_the_old_roots(), self.hand_out_both_roots(), self.wait_for_renewals()],
        };
        steps.push(self.point_new_pods_here());
        if !self.facts.ztunnels.is_empty() {
            steps.push(self.point_ztunnel_here());
        }
        steps.extend([self.restart_pods(), self.take_over(), self.tidy_up()]);
        steps
    }

    /// The number of the step that changes whom agents ask.
    pub(super) fn step_of_address(&self) -> usize {
        match self.way {
            Way::KeepRoot if self.has_further_roots() => 4,
            Way::KeepRoot => 3,
            _ => 5,
        }
    }

    /// The roots that workloads trust and that meshmint does not have by its key.
    fn further_roots(&self) -> impl Iterator<Item = (usize, &Certificate)> {
        let own = self.kept().and_then(|key| key.root.as_ref());
        self.facts.roots.iter().enumerate().filter(move |(_, root)| own.is_none_or(|own| own.id != root.id))
    }

    fn has_further_roots(&self) -> bool {
        // Where the key's own root could not be read, a single one is taken for it.
        self.facts.roots.len() > 1 && self.further_roots().next().is_some()
    }

    /// The key, where it is handed over.
    fn kept(&self) -> Option<&Key> {
        self.facts.key().filter(|_| self.way == Way::KeepRoot)
    }

    fn copy_key(&self, key: &Key) -> Step {
        let ours = word(&self.choice.namespace);
        let mut entries = match key.form {
            Form::Tls => vec![("ca-cert.pem", "tls.crt"), ("ca-key.pem", "tls.key")],
            _ => vec![("ca-cert.pem", "ca-cert.pem"), ("ca-key.pem", "ca-key.pem")],
        };
        match key.form {
            Form::Tls if has_chain(key) => entries.extend([("cert-chain.pem", "tls.crt"), ("root-cert.pem", "ca.crt")]),
            Form::PlugIn => entries.extend([("cert-chain.pem", "cert-chain.pem"), ("root-cert.pem", "root-cert.pem")]),
            _ => {}
        }
        Step {
            title: "Copy the CA's key into meshmint's namespace".to_owned(),
            why: "meshmint begins with it, so what it signs leads to the root that everybody trusts already. The key goes from Secret to Secret and is not shown.".to_owned(),
            act: vec![run([
                format!("kubectl create namespace {ours}"),
                format!("kubectl label namespace {ours} pod-security.kubernetes.io/enforce=restricted"),
                copy_secret((&key.namespace, &key.secret), (&self.choice.namespace, IMPORT), &entries),
            ])],
            done: vec![run([format!("kubectl --namespace {ours} get secret {IMPORT}")])],
            back: vec![run([format!("kubectl --namespace {ours} delete secret {IMPORT}")])],
        }
    }

    fn install(&self, key: Option<&Key>) -> Step {
        let ours = word(&self.choice.namespace);
        let mut act = Vec::new();
        if key.is_none() {
            act.push(run([
                format!("kubectl create namespace {ours}"),
                format!("kubectl label namespace {ours} pod-security.kubernetes.io/enforce=restricted"),
            ]));
        }
        act.extend(self.install_meshmint(key));
        let mut done = vec![run([self.inside("check"), self.inside("authority list")])];
        if let Some(certificate) = key.and_then(|key| key.certificate.as_ref()) {
            done.push(say(format!("`authority list` has {}, whose id begins with {}.", certificate.subject, certificate.short_id())));
        }
        Step {
            title: if key.is_some() { "Install meshmint with that key" } else { "Install meshmint with a root of its own" }.to_owned(),
            why: "Nobody asks it yet, and it writes nothing outside of its namespace: the CA of today goes on as before.".to_owned(),
            act,
            done,
            back: vec![run([
                format!("helm uninstall meshmint --namespace {ours}"),
                format!("kubectl --namespace {ours} delete persistentvolumeclaim data-meshmint-0"),
            ])],
        }
    }

    fn trust_the_old_roots(&self) -> Step {
        let istio = word(self.istio());
        let add = |file: &str| {
            format!(
                "kubectl --namespace {} exec --stdin statefulset/meshmint -- meshmint authority trust add - \
                 --reason 'the CA of before signs until the move is done' --admin /run/meshmint/admin.sock < {file}",
                word(&self.choice.namespace)
            )
        };
        let mut commands = vec![format!(
            "kubectl --namespace {istio} get configmap istio-ca-root-cert --output jsonpath='{{.data.root-cert\\.pem}}' > old-root.pem"
        )];
        if self.facts.roots.len() > 1 {
            // Roots join one by one, so that each is judged by itself.
            commands.push(r#"awk '/BEGIN CERTIFICATE/ { n++ } { print > ("old-root-" n ".pem") }' old-root.pem"#.to_owned());
            commands.extend(self.further_roots().map(|(index, _)| add(&format!("old-root-{}.pem", index + 1))));
        } else {
            commands.push(add("old-root.pem"));
        }
        let ids: Vec<_> = self.further_roots().map(|(_, root)| format!("{} ({})", root.subject, root.short_id())).collect();
        let mut done = vec![run([self.fetch_bundle(), "meshmint inspect bundle.pem".to_owned()])];
        if !ids.is_empty() {
            done.push(say(format!("The bundle has meshmint's own root and {}.", ids.join(", "))));
        }
        Step {
            title: "Let meshmint's bundle have every root of today".to_owned(),
            why: "Whoever gets a certificate from meshmint must go on believing those who have one from the CA of today.".to_owned(),
            act: vec![run(commands)],
            done,
            back: vec![say("Nobody has this bundle yet: uninstall meshmint as in its installation, or leave it.")],
        }
    }

    /// Only the CA that signs now reaches everybody: it writes the ConfigMaps, and its answers are all that proxies take their roots from.
    fn hand_out_both_roots(&self) -> Step {
        let (act, mut back) = match &self.facts.signer {
            Signer::Istiod { key, .. } => self.plug_both_roots_in(key),
            Signer::IstioCsr { namespace, deployment, release, version, .. } => {
                let release = release.as_ref().map(|release| (release.as_str(), version.as_deref()));
                self.both_roots_by_istio_csr(namespace, deployment, release)
            }
        };
        back.push(say("Workloads that had certificates meanwhile trust one root more until their next one; that harms nobody."));
        Step {
            title: "Let the CA of today give everybody both roots".to_owned(),
            why: "Only it can: it writes istio-ca-root-cert, and proxies trust what came with their last certificate. meshConfig.caCertificates would not do: it reaches neither ztunnel nor the ConfigMap.".to_owned(),
            act,
            done: vec![self.look(), say("The line mesh-roots says that all namespaces have the trust bundle. The lines mesh-istiod, mesh-address, mesh-workloads and mesh-webhooks are not well yet.")],
            back,
        }
    }

    /// istiod takes further roots from `root-cert.pem` of a plugged-in CA, and from nowhere else.
    fn plug_both_roots_in(&self, key: &Key) -> (Vec<Part>, Vec<Part>) {
        let istio = word(&key.namespace);
        if key.form == Form::SelfSigned {
            let mut act = self.plug_in(key);
            act.push(self.restart_istiods());
            let back = vec![run([format!("kubectl --namespace {istio} delete secret {PLUGGED_IN}")]), self.restart_istiods()];
            return (act, back);
        }
        let entry = key.form.roots();
        let before = format!(
            // Run again, it must not take the roots of now for those of before.
            "test -s roots-before.pem || kubectl --namespace {istio} get secret {} --output jsonpath='{{.data.{}}}' | base64 --decode > roots-before.pem",
            word(&key.secret),
            entry.replace('.', "\\.")
        );
        // istiod takes changed roots while it runs only by switches that agree, and only some changes: a restart is always right.
        let act = vec![run([before, self.fetch_bundle(), put_file(&key.namespace, &key.secret, entry, "bundle.pem")]), self.restart_istiods()];
        let back = vec![run([put_file(&key.namespace, &key.secret, entry, "roots-before.pem")]), self.restart_istiods()];
        (act, back)
    }

    /// istiod's own CA plugged in, with the roots of bundle.pem beside it.
    pub(super) fn plug_in(&self, key: &Key) -> Vec<Part> {
        let entries =
            [("ca-cert.pem", "ca-cert.pem"), ("ca-key.pem", "ca-key.pem"), ("cert-chain.pem", "ca-cert.pem"), ("root-cert.pem", "ca-cert.pem")];
        vec![
            say("The same CA, plugged in, so that istiod takes more roots than its own. All four entries must be there, or istiod refuses to start."),
            run([
                copy_secret((&key.namespace, &key.secret), (&key.namespace, PLUGGED_IN), &entries),
                self.fetch_bundle(),
                put_file(&key.namespace, PLUGGED_IN, "root-cert.pem", "bundle.pem"),
            ]),
        ]
    }

    fn both_roots_by_istio_csr(&self, namespace: &str, deployment: &str, release: Option<(&str, Option<&str>)>) -> (Vec<Part>, Vec<Part>) {
        let place = word(namespace);
        let with = |file: &str| match release {
            Some((release, version)) => run([
                upgrade(release, "jetstack/cert-manager-istio-csr", namespace, version, &format!("--values {file}")),
                format!("kubectl --namespace {place} rollout status deployment/{}", word(deployment)),
            ]),
            None => say("istio-csr is no Helm release: give it the flag --root-ca-file and the volume by hand."),
        };
        let act = vec![
            run([
                self.fetch_bundle(),
                with_certificates("bundle.pem", &format!("kubectl --namespace {place} create configmap {ROOTS} --from-file=ca.pem=bundle.pem")),
            ]),
            values("istio-csr", chart::istio_csr_roots(ROOTS)),
            say("Helm replaces lists: where istio-csr has volumes already, put them into this file, too."),
            with("values-istio-csr.yaml"),
        ];
        let back = vec![
            say("Put app.tls.rootCAFile, volumes and volumeMounts back to what they were (`helm get values` of the revision before), or:"),
            match release {
                Some((release, _)) => run([format!("helm rollback {} --namespace {place}", word(release))]),
                None => say("take the flag and the volume out again."),
            },
        ];
        (act, back)
    }

    fn wait_for_renewals(&self) -> Step {
        let half = hours(self.facts.lifetime / 2);
        let mut act = vec![say(format!(
            "Wait {} h: proxies and ztunnel renew at half of a certificate's life ({half} h), and one try may fail. Or restart workloads now; each has both roots then.",
            hours(self.facts.lifetime)
        ))];
        let old: Vec<_> = self.facts.ztunnels.iter().filter(|each| each.version.is_none_or(Version::ztunnel_reads_root_once)).collect();
        if !old.is_empty() {
            act.push(say("ztunnel of this version reads the root that it verifies istiod with once, at its start. Restart it now; open connections of pods on a node end when its ztunnel has drained:"));
            act.push(run(old
                .iter()
                .map(|each| format!("kubectl --namespace {} rollout restart daemonset/{}", word(&each.namespace), word(&each.daemon_set)))));
        }
        let mut done = vec![
            say("No certificate is older than step 3. For a pod with a proxy, two roots:"),
            run(["istioctl proxy-config secret POD --namespace NAMESPACE --output json | grep -A3 ROOTCA".to_owned()]),
        ];
        if !self.facts.ztunnels.is_empty() {
            done.push(run(["istioctl ztunnel-config certificates --namespace istio-system".to_owned()]));
        }
        Step {
            title: "Wait until every workload trusts both roots".to_owned(),
            why: "The first certificate below the new root is refused by whoever has only the old one. This is the step that must not be cut short."
                .to_owned(),
            act,
            done,
            back: vec![say("As from step 3.")],
        }
    }

    fn point_new_pods_here(&self) -> Step {
        let signs = if matches!(self.facts.signer, Signer::Istiod { .. }) { "istiod's CA stays on" } else { "istio-csr stays" };
        let before = match &self.facts.signer {
            Signer::Istiod { .. } => String::new(),
            Signer::IstioCsr { .. } => self.old_address(),
        };
        Step {
            title: "Let new pods ask meshmint".to_owned(),
            why: format!(
                "The address is written into a pod when it is made, so this is about pods made from now on. {signs}: pods of before still renew there."
            ),
            act: self.upgrade_istiod(&self.address(), None),
            done: vec![
                say("Restart one workload that you can spare. It is ready, and its certificate is on the list:"),
                run(["kubectl --namespace NAMESPACE rollout restart deployment/NAME".to_owned(), self.inside("certs list --namespace NAMESPACE")]),
                say("Gateways and waypoints that istiod makes itself are made anew by it at once."),
            ],
            back: self.upgrade_istiod(&before, None),
        }
    }

    /// Whom ztunnel or the injector asked, else istio-csr's usual Service.
    pub(super) fn old_address(&self) -> String {
        let ours = self.address();
        let asked = self.facts.ztunnels.iter().map(|ztunnel| &ztunnel.ca_address).chain([&self.facts.new_pods_ask]);
        let mut asked = asked.filter(|address| !address.is_empty() && **address != ours);
        asked.next().cloned().unwrap_or_else(|| match &self.facts.signer {
            Signer::IstioCsr { namespace, deployment, .. } => format!("{deployment}.{namespace}.svc:443"),
            Signer::Istiod { .. } => self.facts.istiods.first().map(chart::istiod_address).unwrap_or_default(),
        })
    }

    fn point_ztunnel_here(&self) -> Step {
        Step {
            title: "Let ztunnel ask meshmint".to_owned(),
            why: "ztunnel asks in the names of the pods of its node, so each node moves as a whole, and pods of the mesh need no restart.".to_owned(),
            act: [
                self.upgrade_ztunnel(&self.address()),
                vec![say("The DaemonSet is rolled node by node. As at any update of ztunnel, open connections of a node's pods end when the old one has drained.")],
            ]
            .concat(),
            done: vec![
                run([self.inside("certs list"), "istioctl ztunnel-config certificates --namespace istio-system".to_owned()]),
                say("Identities of pods in ambient are on meshmint's list; none is Unavailable at ztunnel. A refusal has its reason in meshmint's log and in docs/refusals.md."),
            ],
            back: self.upgrade_ztunnel(&self.old_address()),
        }
    }

    fn restart_pods(&self) -> Step {
        let signer = if matches!(self.facts.signer, Signer::Istiod { .. }) { "istiod's CA" } else { "istio-csr" };
        Step {
            title: "Restart what has a proxy".to_owned(),
            why: format!("Until then a pod asks {signer} for its next certificate. There is no hurry: both kinds are trusted everywhere."),
            act: self.restart_workloads(),
            done: vec![self.look(), say("The lines mesh-address and mesh-workloads are ok: nobody asks another CA any more. Don't go on before.")],
            back: vec![say("Undo the steps that changed whom is asked, and restart again.")],
        }
    }

    /// What the CA of before did besides signing.
    fn take_over(&self) -> Step {
        let istio = word(self.istio());
        let mut act = self.upgrade_meshmint(chart::meshmint_alone(self.facts)).to_vec();
        match &self.facts.signer {
            Signer::Istiod { .. } => {
                act.extend([self.until_istiod_tls(), say("Only now, with that Secret there, turn istiod's CA off:")]);
                act.extend(self.upgrade_istiod(&self.address(), Some(false)));
            }
            Signer::IstioCsr { namespace, release, .. } => {
                act.push(say(
                    "Then istio-csr goes, with the Certificate behind istiod-tls, and last the Secret, which meshmint makes anew within a second:",
                ));
                let remove = release.as_ref().map_or_else(
                    || say("Remove istio-csr as you installed it."),
                    |release| run([format!("helm uninstall {} --namespace {}", word(release), word(namespace))]),
                );
                act.push(remove);
                let certificates: Vec<_> = self
                    .facts
                    .istiods
                    .iter()
                    .filter_map(|istiod| istiod.istiod_tls.as_deref())
                    .filter(|name| !["meshmint", "unknown"].contains(name))
                    .collect();
                act.push(run(certificates
                    .iter()
                    .take(1)
                    .map(|name| format!("kubectl --namespace {istio} delete certificate {} --ignore-not-found", word(name)))));
                act.push(run([format!("kubectl --namespace {istio} delete secret istiod-tls")]));
                act.push(self.until_istiod_tls());
            }
        }
        let back = match &self.facts.signer {
            Signer::Istiod { .. } => [
                self.upgrade_istiod(&self.address(), Some(true)),
                self.upgrade_meshmint(chart::meshmint_beside()).to_vec(),
                vec![run([format!("kubectl --namespace {istio} delete secret istiod-tls")]), self.restart_istiods()],
            ]
            .concat(),
            Signer::IstioCsr { .. } => [
                vec![say("Install istio-csr again with the values of before. Then:")],
                self.upgrade_meshmint(chart::meshmint_beside()).to_vec(),
                vec![run([format!("kubectl --namespace {istio} delete secret istiod-tls")]), say("cert-manager makes that Secret anew.")],
            ]
            .concat(),
        };
        let who = if matches!(self.facts.signer, Signer::Istiod { .. }) { "istiod with its CA off" } else { "istio-csr, once it is gone," };
        Step {
            title: "Let meshmint do what the CA of before did besides signing".to_owned(),
            why: format!(
                "{who} no longer writes the roots into namespaces nor istiod's own certificate. While both write, they write the same roots."
            ),
            act,
            done: vec![self.look(), say("Every line of the mesh is ok. The line mesh-webhooks may take some minutes.")],
            back,
        }
    }

    fn until_istiod_tls(&self) -> Part {
        run([format!("until kubectl --namespace {} get secret istiod-tls; do sleep 2; done", word(self.istio()))])
    }

    fn tidy_up(&self) -> Step {
        let ours = word(&self.choice.namespace);
        let mut act = Vec::new();
        if self.kept().is_some() {
            act.push(say("The key is on meshmint's volume now. Take the copy away, and what names it:"));
            act.extend(self.upgrade_meshmint(chart::meshmint_without_import()));
            act.push(run([format!("kubectl --namespace {ours} delete secret {IMPORT}")]));
        }
        act.push(say("Back up the volume: it is the CA now (docs/operations.md)."));
        if let Some(Key { namespace, secret, form, cert_manager, .. }) = self.facts.key() {
            let issuers = cert_manager.is_some() || matches!(self.facts.signer, Signer::IstioCsr { .. });
            let mut secrets = vec![word(secret)];
            if self.way == Way::NewRoot && *form == Form::SelfSigned {
                secrets.push(PLUGGED_IN.to_owned());
            }
            act.push(say(format!(
                "Keep the old CA's Secret as long as you may want to go back. Whoever can read it can sign for the mesh, so then delete it, and not before the last certificate from it has ended ({} hours).",
                hours(self.facts.lifetime)
            )));
            // An issuer may sign for others, too; no command here may end them.
            act.push(if issuers {
                say(format!(
                    "Secret {namespace}/{secret} may be the key of an issuer of cert-manager's: see first that nothing else uses that issuer or that Secret. Then delete the Certificate that keeps it, if there is one, before the Secret: otherwise cert-manager makes it anew, with another key."
                ))
            } else {
                run([format!("kubectl --namespace {} delete secret {}", word(namespace), secrets.join(" "))])
            });
        }
        let back = if matches!(self.facts.signer, Signer::Istiod { .. }) {
            "`meshmint migrate plan --back`, while the old CA's Secret is there. Once it is gone: restore it, or install istio-csr first, then plan."
        } else {
            "Install istio-csr again, without its Certificate for istiod; then `meshmint migrate plan --back`, while the old CA's Secret is there."
        };
        if self.way == Way::NewRoot {
            act.push(say("The old root stays in meshmint's bundle: it can't be taken out yet. That harms nobody once its key is gone."));
        }
        Step {
            title: "Tidy up".to_owned(),
            why: "A key in two places is one that two can lose.".to_owned(),
            act,
            done: vec![run([self.inside("check")])],
            back: vec![say(back)],
        }
    }
}
