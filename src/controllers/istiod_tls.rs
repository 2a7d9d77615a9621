//! istiod's own serving certificate in one cluster: the Secret `istiod-tls`, which must be there before istiod starts, or its port for proxies stays off.
//! Keeps it until it is dropped.
//!
//! It is issued like our own serving certificate, through the ledger, with a new key each time. istiod reads a changed root only when its certificate
//! changes, and the two volumes are brought up to date at different moments; so after a new bundle it is issued again, and again with growing
//! pauses, until istiod's webhooks show that istiod has read the bundle. What could not be written is written again, not issued anew. A Secret that
//! somebody else made is left alone.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join5;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::attempts::Attempts;
use super::istiod_secret::{IstiodSecret, Need, Wanted};
use super::istiods::{Istiods, SecretKeeper};
use super::kept_secret::{KeepError, KeptSecret, Place, SecretStatus};
use super::namespaces::Namespaces;
use super::own_secret::{annotations, encoded};
use super::roots::roots_digest;
use super::webhooks::{INJECTION_LABEL, Seen, VALIDATION_LABEL, Webhooks};
use crate::authority::Generation;
use crate::clock::readable;
use crate::cluster::{Scope, Watched};
use crate::issuance::{Issued, Issuer, ServingNames};
use crate::pki::{IssuerKey, KeyAlgorithm};

/// The name that istiod's chart mounts.
const NAME: &str = "istiod-tls";
/// The longest pause between two looks: the bundle or the wall clock may have changed.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How long istiod may take to read what was written before it is written again: the kubelet brings a volume up to date within about 90 s.
const READ_WITHIN: Duration = Duration::from_secs(120);
/// The longest pause between two such tries.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Keeps the certificates of all istiods that we see to.
pub type IstiodTls = Istiods<IstiodCertificate>;

/// What an istiod gets, in whichever cluster.
#[derive(Debug, Clone)]
pub struct IstiodTlsWork {
    /// Issues and records.
    pub issuer: Arc<Issuer>,
    /// What signs now.
    pub generation: Arc<ArcSwap<Generation>>,
    /// Revisions of istiod there; `default` is the one without a name.
    pub revisions: Vec<String>,
    /// How long a certificate lives; a new one is issued at half of it.
    pub lifetime: Duration,
}

/// What metrics and the checkup show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IstiodTlsStatus {
    /// The Secret.
    pub secret: SecretStatus,
    /// Whether istiod's namespace is there.
    pub namespace: bool,
    /// istiod's webhook configurations.
    pub webhooks: usize,
    /// Those that don't show the trust bundle.
    pub webhooks_behind: usize,
}

impl From<SecretStatus> for IstiodTlsStatus {
    fn from(secret: SecretStatus) -> Self {
        Self { secret, ..Self::default() }
    }
}

/// Keeps one istiod's certificate.
#[derive(Debug)]
pub struct IstiodCertificate {
    secret: KeptSecret,
    work: IstiodTlsWork,
    names: BTreeSet<String>,
    around: Mutex<Around>,
}

/// What is seen beside the Secret.
#[derive(Debug, Clone, Copy, Default)]
struct Around {
    /// Whether istiod's namespace is there.
    namespace: bool,
    webhooks: Seen,
}

/// Names under which proxies and the API server reach istiod in this namespace.
fn names(namespace: &str, revisions: &[String]) -> BTreeSet<String> {
    let services = revisions.iter().map(|revision| match revision.as_str() {
        "default" => "istiod".to_owned(),
        revision => format!("istiod-{revision}"),
    });
    let always = ["istiod", "istiod-remote", "istio-pilot"].map(str::to_owned);
    always.into_iter().chain(services).map(|service| format!("{service}.{namespace}.svc")).collect()
}

/// What is watched.
struct Watches {
    secret: Arc<Watched<IstiodSecret>>,
    namespace: Arc<Watched<Namespaces>>,
    injection: Arc<Watched<Webhooks<false>>>,
    validation: Arc<Watched<Webhooks<true>>>,
}

/// When it is issued once more because istiod doesn't show the bundle.
#[derive(Debug, Clone, Copy)]
struct Again {
    /// Of this bundle.
    number: u64,
    at: Duration,
    next_wait: Duration,
}

/// A certificate that is on record, until the watch shows it in the Secret.
struct Made {
    issued: Issued,
    key: IssuerKey,
    /// What the watch showed when it was written; `None`: it isn't yet.
    written_over: Option<String>,
}

impl Made {
    /// Whether it is still what is wanted.
    fn serves(&self, wanted: &Wanted, now: OffsetDateTime) -> bool {
        let Issued { bundle_number, generation, not_before, not_after, .. } = self.issued;
        let half = not_before + (not_after - not_before) / 2;
        (bundle_number, generation) == (wanted.number, wanted.generation) && not_before <= now && now < half
    }

    /// What is ours in the Secret.
    fn contents(&self) -> Value {
        let Self { issued, key, .. } = self;
        let chain = std::iter::once(issued.leaf.as_str()).chain(issued.chain.iter().map(String::as_str)).collect::<String>();
        json!({
            "metadata": {"annotations": annotations(issued.bundle_number, issued.generation, &issued.der)},
            "data": {"tls.crt": encoded(&chain), "tls.key": encoded(&key.to_pem()), "ca.crt": encoded(&issued.bundle)},
        })
    }
}

impl SecretKeeper for IstiodCertificate {
    type Work = IstiodTlsWork;
    type Status = IstiodTlsStatus;

    fn new(place: Place, work: IstiodTlsWork) -> Arc<Self> {
        let names = names(&place.namespace, &work.revisions);
        Arc::new(Self { secret: KeptSecret::new(place, NAME, "kubernetes.io/tls"), work, names, around: Mutex::default() })
    }

    fn status(&self) -> IstiodTlsStatus {
        let Around { namespace, webhooks } = *self.around.lock().unwrap_or_else(PoisonError::into_inner);
        IstiodTlsStatus { secret: self.secret.status(), namespace, webhooks: webhooks.all, webhooks_behind: webhooks.behind }
    }

    async fn run(self: Arc<Self>) {
        let Place { namespace, clock, api, entropy, .. } = &self.secret.place;
        let labels = |label: &str| Scope { labels: Some(label.to_owned()), ..Scope::default() };
        let watches = Watches {
            secret: self.secret.watched(),
            namespace: Watched::scoped(Scope { name: Some(namespace.clone()), ..Scope::default() }, clock.clone()),
            injection: Watched::scoped(labels(INJECTION_LABEL), clock.clone()),
            validation: Watched::scoped(labels(VALIDATION_LABEL), clock.clone()),
        };
        let forever = std::future::pending::<()>;
        join5(
            watches.secret.clone().run(api.clone(), entropy.clone(), forever()),
            watches.namespace.clone().run(api.clone(), entropy.clone(), forever()),
            watches.injection.clone().run(api.clone(), entropy.clone(), forever()),
            watches.validation.clone().run(api.clone(), entropy.clone(), forever()),
            self.keep_up(&watches),
        )
        .await;
    }
}

impl IstiodCertificate {
    async fn keep_up(&self, watches: &Watches) {
        let Place { namespace, clock, .. } = &self.secret.place;
        let mut changes = (watches.secret.changes(), watches.namespace.changes(), watches.injection.changes(), watches.validation.changes());
        let (mut attempts, mut again, mut unwritten) = (Attempts::default(), None::<Again>, None::<Made>);
        loop {
            changes.0.borrow_and_update();
            changes.1.borrow_and_update();
            changes.2.borrow_and_update();
            changes.3.borrow_and_update();
            let (now, wall) = (clock.monotonic(), clock.now());
            let wanted = self.wanted(&self.work.generation.load());
            let mut seen = watches.injection.look(|webhooks| webhooks.seen(namespace, wanted.roots));
            let validation = watches.validation.look(|webhooks| webhooks.seen(namespace, wanted.roots));
            seen = Seen { all: seen.all + validation.all, behind: seen.behind + validation.behind };
            let there = watches.namespace.age().is_some() && watches.namespace.look(|all| all.contains(namespace));
            let look = |secret: &IstiodSecret| (secret.need(&wanted, wall), secret.version(), secret.not_after(), secret.shows());
            let (need, version, not_after, shown) = watches.secret.look(look);
            self.note(watches, &need, not_after, Around { namespace: there, webhooks: seen });
            let due = match need {
                _ if watches.secret.age().is_none() || !there => None,
                Need::Issue(why) => Some(why),
                Need::Nothing { .. } if due_again(&mut again, seen, wanted.number, now) => Some("istiod doesn't show the trust bundle yet"),
                Need::Nothing { .. } | Need::Foreign | Need::LeftAlone | Need::Unable(_) => {
                    attempts.tidy(now, |_| Some(true));
                    None
                }
            };
            // Its key need not be kept where it isn't needed: by now the watch shows it, or what became of it.
            unwritten = unwritten.filter(|made| due.is_some() && made.written_over.as_ref().is_none_or(|replaced| *replaced == shown));
            let mut wake = now + LONGEST_PAUSE;
            if let Some(why) = due {
                match self.secret.begin(&shown, &mut attempts) {
                    Ok(()) => {
                        let result = self.act(&wanted, (version.as_deref(), &shown), why, &mut unwritten).await;
                        if let (Ok(()), Some(again)) = (&result, &mut again) {
                            again.written(clock.monotonic());
                        }
                        self.secret.ended(&shown, result, &mut attempts);
                        continue;
                    }
                    Err(at) => wake = wake.min(at),
                }
            }
            tokio::select! {
                // Errors mean that the watches are gone, which live as long as this.
                Ok(()) = changes.0.changed() => {}
                Ok(()) = changes.1.changed() => {}
                Ok(()) = changes.2.changed() => {}
                Ok(()) = changes.3.changed() => {}
                () = clock.sleep_until(wake) => {}
            }
        }
    }

    fn wanted(&self, generation: &Generation) -> Wanted {
        Wanted { number: generation.bundle_number, roots: roots_digest(&generation.bundle), generation: generation.number, names: self.names.clone() }
    }

    fn note(&self, watches: &Watches, need: &Need, not_after: Option<OffsetDateTime>, around: Around) {
        let watched = vec![watches.secret.status(), watches.namespace.status(), watches.injection.status(), watches.validation.status()];
        self.secret.note(need, not_after, watched);
        *self.around.lock().unwrap_or_else(PoisonError::into_inner) = around;
    }

    async fn act(
        &self,
        wanted: &Wanted,
        (version, shown): (Option<&str>, &str),
        why: &'static str,
        unwritten: &mut Option<Made>,
    ) -> Result<(), KeepError> {
        let Place { cluster, namespace, clock, .. } = &self.secret.place;
        let made = match unwritten.take().filter(|made| made.serves(wanted, clock.now())) {
            Some(kept) => unwritten.insert(kept),
            None => unwritten.insert(self.issue(why).await?),
        };
        self.secret.write(version, made.contents()).await?;
        // It is kept until the watch shows it: one that lags asks for it again.
        made.written_over = Some(shown.to_owned());
        tracing::info!(cluster, namespace, serial = made.issued.serial, bundle = made.issued.bundle_number, why, "istiod's {NAME} was written");
        Ok(())
    }

    async fn issue(&self, why: &'static str) -> Result<Made, KeepError> {
        let (Place { cluster, namespace, .. }, IstiodTlsWork { issuer, lifetime, .. }) = (&self.secret.place, &self.work);
        let key = IssuerKey::generate(KeyAlgorithm::P256)?;
        let names = ServingNames { dns_names: self.names.iter().cloned().collect(), ip_addresses: Vec::new() };
        let issued = issuer.issue_serving(&names, &key.public_key()?, *lifetime).await?;
        tracing::info!(
            cluster,
            namespace,
            serial = issued.serial,
            generation = issued.generation.0,
            bundle = issued.bundle_number,
            not_after = readable(issued.not_after),
            why,
            "istiod's certificate was issued"
        );
        Ok(Made { issued, key, written_over: None })
    }
}

/// Whether it is time to issue once more, because istiod's webhooks don't show the bundle of this number.
fn due_again(again: &mut Option<Again>, seen: Seen, number: u64, now: Duration) -> bool {
    if seen.behind == 0 {
        *again = None;
        return false;
    }
    let known = again.filter(|again| again.number == number);
    let known = again.insert(known.unwrap_or(Again { number, at: now + READ_WITHIN, next_wait: READ_WITHIN * 2 }));
    now >= known.at
}

impl Again {
    /// It was written, and istiod may take a while to read it: longer each time that it was due.
    fn written(&mut self, now: Duration) {
        if now >= self.at {
            (self.at, self.next_wait) = (now + self.next_wait, (self.next_wait * 2).min(LONGEST_WAIT));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_revision_has_its_name() {
        let revisions = ["default", "1-30", "canary"].map(str::to_owned);
        let names: Vec<_> = names("istio-system", &revisions).into_iter().collect();
        let expected =
            ["istio-pilot", "istiod-1-30", "istiod-canary", "istiod-remote", "istiod"].map(|service| format!("{service}.istio-system.svc"));
        assert_eq!(names, expected);
    }

    #[test]
    fn it_is_issued_again_later_and_later_until_istiod_shows_the_bundle() {
        let (behind, well) = (Seen { all: 2, behind: 1 }, Seen { all: 2, behind: 0 });
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        let mut again = None;
        let mut at = Vec::new();
        for minute in 0..200 {
            if due_again(&mut again, behind, 7, minutes(minute)) {
                assert!(due_again(&mut again, behind, 7, minutes(minute)), "until it is written");
                again.as_mut().unwrap().written(minutes(minute));
                at.push(minute);
            }
        }
        assert_eq!(at, [2, 6, 14, 30, 62, 122, 182]);
        assert!(!due_again(&mut again, behind, 8, minutes(200)), "another bundle has its own time");
        assert!(due_again(&mut again, behind, 8, minutes(202)));
        assert!(!due_again(&mut again, well, 8, minutes(300)));
        assert!(!due_again(&mut again, behind, 8, minutes(301)), "it begins anew");
    }
}
