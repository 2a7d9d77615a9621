//! The intermediate of one istiod that goes on signing: keeps its Secret `cacerts`, until it is dropped.
//!
//! A new intermediate has a new key, which is in no memory of ours once the watch has shown that it is written. What could not be written is written
//! again, not made anew: each is on record, and counts, whoever has it. So there are a few in an hour, whatever somebody does to the Secret. After a new trust bundle key and certificate stay, and only the bundle beside them is another,
//! because istiod takes a changed root under conditions only. A Secret that somebody else made is left alone.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use time::OffsetDateTime;

use super::attempts::Attempts;
use super::istiods::{Istiods, SecretKeeper};
use super::kept_secret::{KeepError, KeptSecret, Place, SecretStatus};
use super::plugged_secret::{Need, PluggedSecret, Wanted, nothing_instead, with_key};
use super::writes;
use crate::clock::readable;
use crate::cluster::Watched;
use crate::pki::{IssuerKey, KeyAlgorithm};
use crate::rotation::{GivenIntermediate, IntermediateOrder, Keeper};

/// The name that istiod's chart mounts.
const NAME: &str = "cacerts";
/// The longest pause between two looks: the state or the wall clock may have changed.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Keeps the intermediates of all istiods that sign.
pub type Cacerts = Istiods<PluggedCa>;

/// What an istiod that signs gets, in whichever cluster.
#[derive(Debug, Clone)]
pub struct CacertsWork {
    /// How long an intermediate lives; a new one is made at half of it.
    pub lifetime: Duration,
    /// Signs and records.
    pub keeper: Arc<Keeper>,
    /// The kind of the keys that they get: what our authorities sign with.
    pub key_algorithm: KeyAlgorithm,
}

/// So many intermediates are made within [`AN_HOUR`] at most.
const IN_AN_HOUR: usize = 6;
const AN_HOUR: Duration = Duration::from_secs(3600);

/// Keeps one istiod's intermediate.
#[derive(Debug)]
pub struct PluggedCa {
    secret: KeptSecret,
    work: CacertsWork,
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
    /// [`KeepError::FoughtOver`].
    fn count(&mut self, now: Duration) -> Result<(), KeepError> {
        self.times.retain(|time| now.saturating_sub(*time) < AN_HOUR);
        if self.times.len() >= IN_AN_HOUR {
            return Err(KeepError::FoughtOver(IN_AN_HOUR));
        }
        self.times.push(now);
        Ok(())
    }
}

impl SecretKeeper for PluggedCa {
    type Work = CacertsWork;
    type Status = SecretStatus;

    fn new(place: Place, work: CacertsWork) -> Arc<Self> {
        Arc::new(Self { secret: KeptSecret::new(place, NAME, "Opaque"), work })
    }

    fn status(&self) -> SecretStatus {
        self.secret.status()
    }

    async fn run(self: Arc<Self>) {
        let Place { api, entropy, .. } = &self.secret.place;
        let secret = self.secret.watched();
        let watching = secret.clone().run(api.clone(), entropy.clone(), std::future::pending());
        join(watching, self.keep_up(&secret)).await;
    }
}

impl PluggedCa {
    async fn keep_up(&self, secret: &Watched<PluggedSecret>) {
        let clock = &self.secret.place.clock;
        let mut changes = secret.changes();
        let (mut attempts, mut made) = (Attempts::default(), Latest::default());
        loop {
            changes.borrow_and_update();
            let now = clock.monotonic();
            let wanted = Wanted::of_state(&self.work.keeper.state(), self.work.lifetime);
            let (need, version, not_after, shown) = secret.look(|secret| {
                let nobody = Need::Unable("no authority here may sign another one below itself");
                let need = wanted.as_ref().map_or(nobody, |wanted| secret.need(wanted, clock.now()));
                (need, secret.version(), secret.not_after(), secret.shows())
            });
            self.secret.note(&need, not_after, vec![secret.status()]);
            let due = match (&need, &wanted) {
                (Need::Issue(_) | Need::Write(..), Some(wanted)) if secret.age().is_some() => Some(wanted),
                _ => {
                    attempts.tidy(now, |_| Some(true));
                    None
                }
            };
            // Its key need not be kept where it isn't needed.
            made.unwritten = made.unwritten.filter(|_| matches!(need, Need::Issue(_)));
            let mut wake = now + LONGEST_PAUSE;
            if let Some(wanted) = due {
                match self.secret.begin(&shown, &mut attempts) {
                    Ok(()) => {
                        let result = self.act(&need, wanted, version.as_deref(), &mut made).await;
                        self.secret.ended(&shown, result, &mut attempts);
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

    async fn act(&self, need: &Need, wanted: &Wanted, version: Option<&str>, latest: &mut Latest) -> Result<(), KeepError> {
        let Place { cluster, namespace, clock, .. } = &self.secret.place;
        let (mut object, why, serial) = match need {
            Need::Issue(why) => {
                let made = match latest.unwritten.take().filter(|made| made.serves(wanted, clock.now())) {
                    Some(kept) => latest.unwritten.insert(kept),
                    None => {
                        latest.count(clock.monotonic())?;
                        latest.unwritten.insert(self.make().await?)
                    }
                };
                if made.given.above != wanted.above {
                    return Err(KeepError::Overtaken);
                }
                let mut object = wanted.beside(&made.given.certificate);
                writes::merge(&mut object, with_key(&made.given.certificate, &made.key));
                (object, why, Some(made.given.serial.clone()))
            }
            Need::Write(why, certificate) => (wanted.beside(certificate), why, None),
            Need::Nothing { .. } | Need::Foreign | Need::LeftAlone | Need::Unable(_) => return Ok(()),
        };
        if version.is_some() {
            writes::merge(&mut object, nothing_instead());
        }
        self.secret.write(version, object).await?;
        // What was made is kept until the watch shows it: one that lags asks for it again.
        tracing::info!(cluster, namespace, serial, bundle = wanted.number, why, "istiod's {NAME} was written");
        Ok(())
    }

    async fn make(&self) -> Result<Made, KeepError> {
        let (Place { cluster, namespace, .. }, lifetime) = (&self.secret.place, self.work.lifetime);
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
}
