//! istiod's own serving certificate, for as long as this replica leads: the Secret `istiod-tls`, which must be there before istiod starts, or its
//! port for proxies stays off.
//!
//! It is issued like our own serving certificate, through the ledger, with a new key each time. istiod reads a changed root only when its certificate
//! changes, and the two volumes are brought up to date at different moments; so after a new bundle it is issued again, and again with growing
//! pauses, until istiod's webhooks show that istiod has read the bundle. A Secret that somebody else made is left alone.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join5;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::sync::watch;

use super::attempts::{Attempts, Outcome};
use super::istiod_secret::{IstiodSecret, Need, Wanted};
use super::leading::while_leading;
use super::namespaces::Namespaces;
use super::own_secret::{annotations, encoded};
use super::roots::roots_digest;
use super::webhooks::{INJECTION_LABEL, Seen, VALIDATION_LABEL, Webhooks};
use super::writes;
use crate::authority::Generation;
use crate::clock::{Clock, Entropy, fraction, readable};
use crate::cluster::{ApiError, ApiServer, Resource, Scope, WatchStatus, Watched};
use crate::issuance::{Issued, Issuer, Refusal, ServingNames};
use crate::pki::{IssuerKey, KeyAlgorithm, KeyError, PublicKeyError};

/// The name that istiod's chart mounts.
const NAME: &str = "istiod-tls";
/// The longest pause between two looks: the bundle or the wall clock may have changed.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How long istiod may take to read what was written before it is written again: the kubelet brings a volume up to date within about 90 s.
const READ_WITHIN: Duration = Duration::from_secs(120);
/// The longest pause between two such tries.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// What an [`IstiodTls`] is made of.
#[derive(Debug)]
pub struct IstiodTlsParts {
    /// The API server of istiod's cluster.
    pub api: Arc<ApiServer>,
    /// Issues and records.
    pub issuer: Arc<Issuer>,
    /// What signs now.
    pub generation: Arc<ArcSwap<Generation>>,
    /// istiod's namespace. It may not be there yet.
    pub namespace: String,
    /// Revisions of istiod there; `default` is the one without a name.
    pub revisions: Vec<String>,
    /// How long a certificate lives; a new one is issued at half of it.
    pub lifetime: Duration,
    /// This process, by a random id.
    pub writer: String,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance in pauses.
    pub entropy: Arc<dyn Entropy>,
}

/// What metrics and the checkup show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IstiodTlsStatus {
    /// Whether this replica sees to it; else everything else is empty.
    pub leading: bool,
    /// Whether istiod's namespace is there.
    pub namespace: bool,
    /// Somebody else made the Secret, and it is left alone.
    pub foreign: bool,
    /// Whoever wrote the Secret knows a newer bundle or generation, so it is left alone.
    pub left_alone: bool,
    /// When the certificate in the Secret ends, whoever made it.
    pub not_after: Option<OffsetDateTime>,
    /// When it is to be renewed, where it is as it shall be.
    pub renew_at: Option<OffsetDateTime>,
    /// istiod's webhook configurations.
    pub webhooks: usize,
    /// Those that don't show the trust bundle.
    pub webhooks_behind: usize,
    /// Secrets that were written.
    pub written: u64,
    /// Writes for which somebody else was faster.
    pub conflicts: u64,
    /// Certificates that could not be issued or written.
    pub failures: u64,
    /// Why the latest try failed; `None` where none did since it went well.
    pub trouble: Option<String>,
    /// The watches.
    pub watches: Vec<WatchStatus>,
}

/// Keeps istiod's certificate.
#[derive(Debug)]
pub struct IstiodTls {
    parts: IstiodTlsParts,
    names: BTreeSet<String>,
    status: Mutex<IstiodTlsStatus>,
}

/// Why there is no new certificate in the Secret.
#[derive(Debug, thiserror::Error)]
enum IstiodTlsError {
    #[error("not issued: {0}")]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    PublicKey(#[from] PublicKeyError),
    #[error("not written: {0}")]
    Write(#[from] ApiError),
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

/// What is watched during one term.
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

impl IstiodTls {
    /// Nothing is asked yet: [`IstiodTls::run`] begins.
    pub fn new(parts: IstiodTlsParts) -> Arc<Self> {
        let names = names(&parts.namespace, &parts.revisions);
        Arc::new(Self { names, parts, status: Mutex::default() })
    }

    /// How it stands.
    pub fn status(&self) -> IstiodTlsStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Works whenever `leading` is true, until `shutdown` ends.
    pub async fn run(self: Arc<Self>, leading: watch::Receiver<bool>, shutdown: impl Future<Output = ()>) {
        tokio::select! {
            () = while_leading(leading, || self.lead()) => {}
            () = shutdown => {}
        }
    }

    async fn lead(&self) {
        let IstiodTlsParts { namespace, clock, api, entropy, .. } = &self.parts;
        let labels = |label: &str| Scope { labels: Some(label.to_owned()), ..Scope::default() };
        let watches = Watches {
            secret: Watched::scoped(Scope { namespace: namespace.clone(), name: Some(NAME.to_owned()), labels: None }, clock.clone()),
            namespace: Watched::scoped(Scope { name: Some(namespace.clone()), ..Scope::default() }, clock.clone()),
            injection: Watched::scoped(labels(INJECTION_LABEL), clock.clone()),
            validation: Watched::scoped(labels(VALIDATION_LABEL), clock.clone()),
        };
        let _end = Ended(&self.status);
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

    async fn keep_up(&self, watches: &Watches) {
        let IstiodTlsParts { namespace, clock, generation, .. } = &self.parts;
        let mut changes = (watches.secret.changes(), watches.namespace.changes(), watches.injection.changes(), watches.validation.changes());
        let (mut attempts, mut again, mut told_foreign) = (Attempts::default(), None::<Again>, false);
        loop {
            changes.0.borrow_and_update();
            changes.1.borrow_and_update();
            changes.2.borrow_and_update();
            changes.3.borrow_and_update();
            let (now, wall) = (clock.monotonic(), clock.now());
            let wanted = self.wanted(&generation.load());
            let mut seen = watches.injection.look(|webhooks| webhooks.seen(namespace, wanted.roots));
            let validation = watches.validation.look(|webhooks| webhooks.seen(namespace, wanted.roots));
            seen = Seen { all: seen.all + validation.all, behind: seen.behind + validation.behind };
            let there = watches.namespace.age().is_some() && watches.namespace.look(|all| all.contains(namespace));
            let look = |secret: &IstiodSecret| (secret.need(&wanted, wall), secret.version(), secret.not_after(), secret.shows());
            let (need, version, not_after, shown) = watches.secret.look(look);
            self.note(watches, &need, not_after, there, seen);
            if need == Need::Foreign && !told_foreign {
                tracing::warn!(namespace, "the Secret {NAME} was made by somebody else and is left alone");
            }
            told_foreign = need == Need::Foreign;
            let due = match need {
                _ if watches.secret.age().is_none() || !there => None,
                Need::Issue { version, why } => Some((version, why)),
                Need::Nothing { .. } if due_again(&mut again, seen, wanted.number, now) => {
                    Some((version, "istiod doesn't show the trust bundle yet"))
                }
                Need::Nothing { .. } | Need::Foreign | Need::LeftAlone => {
                    attempts.tidy(now, |_| Some(true));
                    None
                }
            };
            let mut wake = now + LONGEST_PAUSE;
            if let Some((version, why)) = due {
                match attempts.may(NAME, &shown, now) {
                    Ok(()) => {
                        attempts.begin(NAME);
                        let result = self.issue(version.as_deref(), why).await;
                        self.ended(&shown, result, &mut attempts);
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

    fn note(&self, watches: &Watches, need: &Need, not_after: Option<OffsetDateTime>, there: bool, seen: Seen) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::take(&mut *status);
        let well = matches!(need, Need::Nothing { .. });
        *status = IstiodTlsStatus {
            leading: true,
            namespace: there,
            foreign: *need == Need::Foreign,
            left_alone: *need == Need::LeftAlone,
            not_after,
            renew_at: if let Need::Nothing { renew_at } = need { Some(*renew_at) } else { None },
            webhooks: seen.all,
            webhooks_behind: seen.behind,
            trouble: old.trouble.filter(|_| !well),
            watches: vec![watches.secret.status(), watches.namespace.status(), watches.injection.status(), watches.validation.status()],
            ..old
        };
    }

    async fn issue(&self, version: Option<&str>, why: &'static str) -> Result<Issued, IstiodTlsError> {
        let IstiodTlsParts { api, issuer, namespace, lifetime, writer, .. } = &self.parts;
        let key = IssuerKey::generate(KeyAlgorithm::P256)?;
        let names = ServingNames { dns_names: self.names.iter().cloned().collect(), ip_addresses: Vec::new() };
        let issued = issuer.issue_serving(&names, &key.public_key()?, *lifetime).await?;
        let contents = contents(&issued, &key);
        let path = format!("{}/{NAME}", Resource::Secrets.path(namespace));
        match version {
            None => writes::create(api, &path, writer, &created(contents, namespace)).await?,
            Some(version) => writes::change(api, &path, &changed(contents, version)).await?,
        }
        tracing::info!(
            serial = issued.serial,
            generation = issued.generation.0,
            bundle = issued.bundle_number,
            not_after = readable(issued.not_after),
            why,
            "istiod's certificate was issued"
        );
        Ok(issued)
    }

    fn ended(&self, shown: &str, result: Result<Issued, IstiodTlsError>, attempts: &mut Attempts) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = match result {
            Ok(_) => {
                status.written += 1;
                status.trouble = None;
                Outcome::Written
            }
            Err(IstiodTlsError::Write(error)) if error.is_conflict() || error.is_not_found() => {
                status.conflicts += 1;
                Outcome::Conflict
            }
            Err(error) => {
                if status.trouble.is_none() {
                    tracing::error!(%error, "istiod has no new certificate; trying again");
                }
                status.failures += 1;
                status.trouble = Some(error.to_string());
                Outcome::Failed
            }
        };
        drop(status);
        let chance = fraction(self.parts.entropy.as_ref()).unwrap_or(0.0);
        attempts.end(NAME, shown, outcome, self.parts.clock.monotonic(), chance);
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
    if now < known.at {
        return false;
    }
    (known.at, known.next_wait) = (now + known.next_wait, (known.next_wait * 2).min(LONGEST_WAIT));
    true
}

/// Forgets how it stood when it is dropped: then another replica sees to it. Counts stay.
struct Ended<'a>(&'a Mutex<IstiodTlsStatus>);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut status = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let IstiodTlsStatus { written, conflicts, failures, .. } = *status;
        *status = IstiodTlsStatus { written, conflicts, failures, ..IstiodTlsStatus::default() };
    }
}

/// What is ours in the Secret.
fn contents(issued: &Issued, key: &IssuerKey) -> Value {
    let chain = std::iter::once(issued.leaf.as_str()).chain(issued.chain.iter().map(String::as_str)).collect::<String>();
    let annotations = annotations(issued.bundle_number, issued.generation, &issued.der);
    json!({
        "metadata": {"annotations": annotations},
        "data": {"tls.crt": encoded(&chain), "tls.key": encoded(&key.to_pem()), "ca.crt": encoded(&issued.bundle)},
    })
}

fn created(mut object: Value, namespace: &str) -> Value {
    writes::merge(
        &mut object,
        json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"namespace": namespace, "name": NAME}}),
    );
    object
}

fn changed(mut patch: Value, version: &str) -> Value {
    writes::merge(&mut patch, json!({"metadata": {"resourceVersion": version}}));
    patch
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
