//! The way back, from meshmint to the CA that signed before: first who signs, then who gives out roots.

use super::facts::{Form, Key, Signer};
use super::plan::{Part, Step, run, say};
use super::planner::{Planner, hours, upgrade};
use super::shell::{put_file, word};
use super::values as chart;

impl Planner<'_> {
    pub(super) fn steps_back(&self) -> Vec<Step> {
        let mut steps = vec![self.see_that_both_are_trusted()];
        if let Signer::Istiod { key, .. } = &self.facts.signer {
            steps.push(self.let_istiod_sign_again(key));
        }
        steps.push(self.point_new_pods_back());
        if !self.facts.ztunnels.is_empty() {
            steps.push(self.point_ztunnel_back());
        }
        steps.extend([self.restart_pods_again(), self.hand_back(), self.uninstall()]);
        steps
    }

    /// Whether workloads trust what the CA of before signs: the root is there, by its id.
    fn trusts_old(&self) -> bool {
        self.facts.key().and_then(|key| self.facts.trusts(key)) == Some(true)
    }

    fn see_that_both_are_trusted(&self) -> Step {
        let mut act = Vec::new();
        if !self.trusts_old() {
            act.extend([
                say("The root of the CA of before is not among those that workloads trust, or could not be read. With its certificate in old-root.pem:"),
                run([format!(
                    "kubectl --namespace {} exec --stdin statefulset/meshmint -- meshmint authority trust add - \
                     --reason 'back to the CA of before' --admin /run/meshmint/admin.sock < old-root.pem",
                    word(&self.choice.namespace)
                )]),
                say(format!("Then wait {} h, until every certificate has been renewed.", hours(self.facts.lifetime))),
            ]);
        } else {
            act.push(say("Nothing to do: the root of the CA of before is among those that workloads trust."));
        }
        Step {
            title: "See that the root of the CA of before is trusted everywhere".to_owned(),
            why: "Otherwise the first workload that goes back is refused by the others.".to_owned(),
            act,
            done: vec![
                self.look(),
                say("The line mesh-roots is ok, and bundle.pem (`meshmint inspect bundle.pem`) has the root of the CA of before."),
            ],
            back: vec![],
        }
    }

    fn let_istiod_sign_again(&self, key: &Key) -> Step {
        let mut act: Vec<Part> = Vec::new();
        if key.certificate.is_none() {
            act.push(say("The Secret with istiod's CA could not be read. It must be there before this step: without it istiod makes a new root, which nobody trusts."));
        }
        // A root that isn't the key's own is meshmint's: workloads must go on trusting it while both sign.
        let others = self.facts.roots.iter().any(|root| key.root.as_ref().is_none_or(|own| root.id != own.id));
        match key.form {
            Form::SelfSigned if others || self.facts.roots.is_empty() => {
                act.push(say("By itself istiod hands out only its own root, and workloads trust, or may trust, another one, too."));
                act.extend(self.plug_in(key));
            }
            Form::SelfSigned => act.push(say("It hands out its own root alone. That is the one that meshmint has, too.")),
            _ => act.extend([
                say("istiod must go on handing out all that workloads trust now:"),
                run([self.fetch_bundle(), put_file(&key.namespace, &key.secret, key.form.roots(), "bundle.pem")]),
            ]),
        }
        act.extend(self.upgrade_istiod(&self.address(), Some(true)));
        Step {
            title: "Turn istiod's CA on again".to_owned(),
            why: "Nobody asks it yet. It serves with istiod-tls as before, and gives out the roots that it finds beside its key.".to_owned(),
            act,
            done: vec![self.look(), say("The line mesh-roots is ok; mesh-istiod says that istiod runs its own CA.")],
            back: self.upgrade_istiod(&self.address(), Some(false)),
        }
    }

    fn point_new_pods_back(&self) -> Step {
        let address = match &self.facts.signer {
            Signer::Istiod { .. } => String::new(),
            Signer::IstioCsr { .. } => self.old_address(),
        };
        Step {
            title: "Let new pods ask the CA of before".to_owned(),
            why: "meshmint goes on signing for the pods of before.".to_owned(),
            act: self.upgrade_istiod(&address, None),
            done: vec![
                say("Restart one workload that you can spare: it is ready, and talks to the others."),
                run(["kubectl --namespace NAMESPACE rollout restart deployment/NAME".to_owned()]),
            ],
            back: self.upgrade_istiod(&self.address(), None),
        }
    }

    fn point_ztunnel_back(&self) -> Step {
        Step {
            title: "Let ztunnel ask the CA of before".to_owned(),
            why: "Node by node, as on the way there.".to_owned(),
            act: self.upgrade_ztunnel(&self.old_address()),
            done: vec![run(["istioctl ztunnel-config certificates --namespace istio-system".to_owned()])],
            back: self.upgrade_ztunnel(&self.address()),
        }
    }

    fn restart_pods_again(&self) -> Step {
        Step {
            title: "Restart what has a proxy".to_owned(),
            why: "Until then a pod asks meshmint for its next certificate.".to_owned(),
            act: self.restart_workloads(),
            done: vec![run(["meshmint check --kube --output json".to_owned()]), say("The line mesh-workloads says that all proxies ask another CA.")],
            back: vec![say("Undo the two steps before, and restart again.")],
        }
    }

    fn hand_back(&self) -> Step {
        let istio = word(self.istio());
        let ending = match &self.facts.signer {
            Signer::Istiod { .. } => self.restart_istiods(),
            Signer::IstioCsr { release, version, namespace, .. } => match release {
                Some(release) => {
                    let values = "--set app.tls.istiodCertificateEnable=true";
                    run([upgrade(release, "jetstack/cert-manager-istio-csr", namespace, version.as_deref(), values)])
                }
                None => say("Make the Certificate again that keeps istiod-tls."),
            },
        };
        Step {
            title: "Let the CA of before do the rest again".to_owned(),
            why: "As long as istiod-tls is there istiod serves with it, and nobody would renew it any more.".to_owned(),
            act: [
                &self.upgrade_meshmint(chart::meshmint_beside())[..],
                &[run([format!("kubectl --namespace {istio} delete secret istiod-tls")]), ending],
            ]
            .concat(),
            done: vec![
                run([
                    format!("kubectl --namespace {istio} rollout status deployment --timeout=5m"),
                    "meshmint check --kube --bundle bundle.pem".to_owned(),
                ]),
                say("The line mesh-webhooks is ok, and new pods are injected."),
            ],
            back: self.upgrade_meshmint(chart::meshmint_alone(self.facts)).to_vec(),
        }
    }

    fn uninstall(&self) -> Step {
        let ours = word(&self.choice.namespace);
        Step {
            title: "Uninstall meshmint".to_owned(),
            why: format!("Not before its last certificate has ended ({} h): until then workloads must trust its root.", hours(self.facts.lifetime)),
            act: vec![
                run([format!("helm uninstall meshmint --namespace {ours}")]),
                say(
                    "Its volume stays (data-meshmint-0). It is the CA and its record: delete it when you need neither. Take its root out of root-cert.pem of the old CA last.",
                ),
            ],
            done: vec![run([format!("kubectl --namespace {ours} get all")])],
            back: self.install_meshmint(None).to_vec(),
        }
    }
}
