//! The intermediate of one istiod that goes on signing: keeps its Secret `cacerts`, until it is dropped.
//!
//! A new intermediate has a new key, which is in no memory of ours once the watch has shown that it is written. What could not be written is written
//! again, not made anew: each is on record, and counts, whoever has it. So there are a few in an hour, whatever somebody does to the Secret. After a new trust bundle key and certificate stay, and only the bundle beside them is another,
//! because istiod takes a changed root under conditions only. A Secret that somebody else made is left alone.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join;
use serde_json::json;
use time::OffsetDateTime;

use super::attempts::{Attempts, Outcome};
use super::cacerts::CacertsStatus;
use super::plugged_secret::{Need, PluggedSecret, Wanted, nothing_instead, with_key};
use super::writes;
use crate::clock::{Clock, Entropy, fraction, readable};
use crate::cluster::{ApiError, ApiServer, Resource, Scope, Watched};
use crate::pki::{IssuerKey, KeyAlgorithm, KeyError, PublicKeyError};
use crate::rotation::{GivenIntermediate, IntermediateOrder, Keeper, KeeperError};

/// The name that istiod's chart mounts.
const NAME: &str = "cacerts";
/// The longest pause between two looks: the state or the wall clock may have changed.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// What is to be done, in whichever cluster, and by what means.
#[derive(Debug, Clone)]
pub(super) struct PluggedCaWork {
    /// istiod's namespace.
    pub(super) namespace: String,
    /// How long an intermediate lives.
    pub(super) lifetime: Duration,
    pub(super) keeper: Arc<Keeper>,
    /// What our authorities sign with, and so what istiod gets.
    pub(super) key_algorithm: KeyAlgorithm,
    /// This process, by a random id.
    pub(super) writer: String,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
}

/// So many intermediates are made within [`AN_HOUR`] at most.
const IN_AN_HOUR: usize = 6;
const AN_HOUR: Duration = Duration::from_secs(3600);

/// Keeps one istiod's intermediate.
#[derive(Debug)]
pub(super) struct PluggedCa {
    cluster: String,
    api: Arc<ApiServer>,
    work: PluggedCaWork,
    status: Mutex<CacertsStatus>,
}

/// An intermediate that is on record and not written yet.
struct Made {
    given: GivenIntermediate,
    key: IssuerKey,
}

impl Made {
    /// Whether it is still what is wanted.
    fn serves(&self, wanted: &Wanted, now: OffsetDateTime) -> bool {
        let validity = self.given.validity;
        let half = validity.not_before + (validity.not_after - validity.not_before) / 2;
        self.given.above == wanted.above && validity.not_before <= now && now < half
    }
}

/// What was made lately.
#[derive(Default)]
struct Latest {
    /// The last one, until the watch shows it in the Secret.
    unwritten: Option<Made>,
    /// When (monotonic).
    times: Vec<Duration>,
}

impl Latest {
    /// One more.
    ///
    /// # Errors
    /// [`PluggedError::FoughtOver`].
    fn count(&mut self, now: Duration) -> Result<(), PluggedError> {
        self.times.retain(|time| now.saturating_sub(*time) < AN_HOUR);
        if self.times.len() >= IN_AN_HOUR {
            return Err(PluggedError::FoughtOver);
        }
        self.times.push(now);
        Ok(())
    }
}

/// Why the Secret isn't as it shall be.
#[derive(Debug, thiserror::Error)]
enum PluggedError {
    #[error("not made: {0}")]
    Keeper(#[from] KeeperError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    PublicKey(#[from] PublicKeyError),
    #[error("not written: {0}")]
    Write(#[from] ApiError),
    #[error("another authority began to sign meanwhile")]
    Overtaken,
    #[error("{IN_AN_HOUR} intermediates were made within an hour: somebody else changes or deletes the Secret again and again")]
    FoughtOver,
}

impl PluggedCa {
    pub(super) fn new(cluster: String, api: Arc<ApiServer>, work: PluggedCaWork) -> Arc<Self> {
        let status = CacertsStatus { cluster: cluster.clone(), joined: true, ..CacertsStatus::default() };
        Arc::new(Self { cluster, api, work, status: Mutex::new(status) })
    }

    pub(super) fn status(&self) -> CacertsStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps it until this is dropped.
    pub(super) async fn run(self: Arc<Self>) {
        let scope = Scope { namespace: self.work.namespace.clone(), name: Some(NAME.to_owned()), labels: None };
        let secret = Watched::scoped(scope, self.work.clock.clone());
        let watching = secret.clone().run(self.api.clone(), self.work.entropy.clone(), std::future::pending());
        join(watching, self.keep_up(&secret)).await;
    }

    async fn keep_up(&self, secret: &Watched<PluggedSecret>) {
        let cluster = &self.cluster;
        let PluggedCaWork { namespace, lifetime, keeper, clock, .. } = &self.work;
        let mut changes = secret.changes();
        let (mut attempts, mut made, mut told_foreign) = (Attempts::default(), Latest::default(), false);
        loop {
            changes.borrow_and_update();
            let now = clock.monotonic();
            let wanted = Wanted::of_state(&keeper.state(), *lifetime);
            let (need, version, not_after, shown) = secret.look(|secret| {
                let need = wanted.as_ref().map(|wanted| secret.need(wanted, clock.now()));
                (need, secret.version(), secret.not_after(), secret.shows())
            });
            self.note(secret, need.as_ref(), not_after);
            let foreign = need == Some(Need::Foreign);
            if foreign && !told_foreign {
                tracing::warn!(cluster, namespace, "the Secret {NAME} was made by somebody else and is left alone");
            }
            told_foreign = foreign;
            let due = match (&need, &wanted) {
                (Some(need @ (Need::Issue(_) | Need::Write(..))), Some(wanted)) if secret.age().is_some() => Some((need, wanted)),
                _ => {
                    attempts.tidy(now, |_| Some(true));
                    None
                }
            };
            // Its key need not be kept where it isn't needed.
            made.unwritten = made.unwritten.filter(|_| matches!(need, Some(Need::Issue(_))));
            let mut wake = now + LONGEST_PAUSE;
            if let Some((need, wanted)) = due {
                match attempts.may(NAME, &shown, now) {
                    Ok(()) => {
                        attempts.begin(NAME);
                        let result = self.act(need, wanted, version.as_deref(), &mut made).await;
                        self.ended(&shown, result, &mut attempts);
                        continue;
                    }
                    Err(at) => wake = wake.min(at),
                }
            }
            tokio::select! {
                // An error means that the watch is gone, which lives as long as this.
                Ok(()) = changes.changed() => {}
                () = clock.sleep_until(wake) => {}
            }
        }
    }

    fn note(&self, secret: &Watched<PluggedSecret>, need: Option<&Need>, not_after: Option<OffsetDateTime>) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let old = status.clone();
        let (well, renew_at) = match need {
            Some(Need::Nothing { renew_at }) => (true, *renew_at),
            _ => (false, None),
        };
        let nobody = "no authority here may sign another one below itself".to_owned();
        *status = CacertsStatus {
            foreign: need == Some(&Need::Foreign),
            left_alone: need == Some(&Need::LeftAlone),
            not_after,
            renew_at,
            last: well && renew_at.is_none(),
            trouble: if need.is_none() { Some(nobody) } else { old.trouble.filter(|_| !well) },
            watch: Some(secret.status()),
            ..old
        };
    }

    async fn act(&self, need: &Need, wanted: &Wanted, version: Option<&str>, latest: &mut Latest) -> Result<(), PluggedError> {
        let (cluster, namespace) = (&self.cluster, &self.work.namespace);
        let now = self.work.clock.now();
        let path = format!("{}/{NAME}", Resource::Secrets.path(namespace));
        let (mut object, why, serial) = match need {
            Need::Issue(why) => {
                let made = match latest.unwritten.take().filter(|made| made.serves(wanted, now)) {
                    Some(kept) => latest.unwritten.insert(kept),
                    None => {
                        latest.count(self.work.clock.monotonic())?;
                        latest.unwritten.insert(self.make().await?)
                    }
                };
                if made.given.above != wanted.above {
                    return Err(PluggedError::Overtaken);
                }
                let mut object = wanted.beside(&made.given.certificate);
                writes::merge(&mut object, with_key(&made.given.certificate, &made.key));
                (object, why, Some(made.given.serial.clone()))
            }
            Need::Write(why, certificate) => (wanted.beside(certificate), why, None),
            Need::Nothing { .. } | Need::Foreign | Need::LeftAlone => return Ok(()),
        };
        match version {
            None => {
                let identity = json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": {"namespace": namespace, "name": NAME}});
                writes::merge(&mut object, identity);
                writes::create(&self.api, &path, &self.work.writer, &object).await?;
            }
            Some(version) => {
                writes::merge(&mut object, nothing_instead());
                writes::merge(&mut object, json!({"metadata": {"resourceVersion": version}}));
                writes::change(&self.api, &path, &object).await?;
            }
        }
        // What was made is kept until the watch shows it: one that lags asks for it again.
        tracing::info!(cluster, namespace, serial, bundle = wanted.number, why, "istiod's {NAME} was written");
        Ok(())
    }

    async fn make(&self) -> Result<Made, PluggedError> {
        let (cluster, namespace, lifetime) = (&self.cluster, &self.work.namespace, self.work.lifetime);
        let key = IssuerKey::generate(self.work.key_algorithm)?;
        let order = IntermediateOrder { cluster, namespace, key: &key.public_key()?, lifetime };
        let given = self.work.keeper.give_intermediate(&order).await?;
        tracing::info!(
            cluster,
            namespace,
            serial = given.serial,
            not_after = readable(given.validity.not_after),
            "an intermediate for istiod is on record"
        );
        Ok(Made { given, key })
    }

    fn ended(&self, shown: &str, result: Result<(), PluggedError>, attempts: &mut Attempts) {
        let (cluster, namespace) = (&self.cluster, &self.work.namespace);
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = match result {
            Ok(()) => {
                status.written += 1;
                status.trouble = None;
                Outcome::Written
            }
            Err(PluggedError::Overtaken) => Outcome::Conflict,
            Err(PluggedError::Write(error)) if error.is_conflict() => {
                status.conflicts += 1;
                Outcome::Conflict
            }
            Err(error) => {
                if status.trouble.is_none() {
                    tracing::error!(cluster, namespace, %error, "istiod's {NAME} could not be kept up; trying again");
                }
                status.failures += 1;
                status.trouble = Some(error.to_string());
                Outcome::Failed
            }
        };
        drop(status);
        let chance = fraction(self.work.entropy.as_ref()).unwrap_or(0.0);
        attempts.end(NAME, shown, outcome, self.work.clock.monotonic(), chance);
    }
}
