//! What the keepers of istiod's Secrets have in common (`istiod_tls`, `plugged_ca`): where the Secret is, how it is written, how a try ended, and how it
//! stands for metrics and the checkup.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::attempts::{Attempts, Outcome};
use super::own_secret::{Contents, Need, OwnSecret};
use super::writes;
use crate::clock::{Clock, Entropy, fraction};
use crate::cluster::{ApiError, ApiServer, Resource, Scope, WatchStatus, Watched};
use crate::issuance::Refusal;
use crate::pki::{KeyError, PublicKeyError};
use crate::rotation::KeeperError;

/// What metrics and the checkup show of one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecretStatus {
    /// Its cluster.
    pub cluster: String,
    /// Whether that cluster is joined; else everything else is empty.
    pub joined: bool,
    /// It is as it shall be.
    pub current: bool,
    /// Somebody else made the Secret, and it is left alone.
    pub foreign: bool,
    /// Whoever wrote the Secret knows a newer bundle or generation, so it is left alone.
    pub left_alone: bool,
    /// When the certificate in the Secret ends, whoever made it.
    pub not_after: Option<OffsetDateTime>,
    /// When it is to be renewed, where the Secret is as it shall be; `None` there: nobody could give it a later end.
    pub renew_at: Option<OffsetDateTime>,
    /// How often it was written.
    pub written: u64,
    /// Writes for which somebody else was faster.
    pub conflicts: u64,
    /// What could not be made or written.
    pub failures: u64,
    /// Why the latest try failed; `None` where none did since it went well.
    pub trouble: Option<String>,
    /// The watches.
    pub watches: Vec<WatchStatus>,
}

/// Where an istiod is, and by what means something is kept there.
#[derive(Debug, Clone)]
pub struct Place {
    pub(super) cluster: String,
    /// istiod's namespace.
    pub(super) namespace: String,
    pub(super) api: Arc<ApiServer>,
    /// This process, by a random id.
    pub(super) writer: String,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
}

/// One Secret, and how it stands.
#[derive(Debug)]
pub(super) struct KeptSecret {
    pub(super) place: Place,
    /// The name that istiod's chart mounts.
    name: &'static str,
    kind: &'static str,
    status: Mutex<SecretStatus>,
}

/// Why it isn't as it shall be.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeepError {
    #[error("not issued: {0}")]
    Refused(#[from] Refusal),
    #[error("not made: {0}")]
    Keeper(#[from] KeeperError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    PublicKey(#[from] PublicKeyError),
    #[error("not written: {0}")]
    Write(#[from] ApiError),
    #[error("somebody was faster, or another authority began to sign meanwhile")]
    Overtaken,
    #[error("{0} intermediates were made within an hour: somebody else changes or deletes the Secret again and again")]
    FoughtOver(usize),
}

impl KeptSecret {
    /// Nothing is asked yet.
    pub(super) fn new(place: Place, name: &'static str, kind: &'static str) -> Self {
        let status = SecretStatus { cluster: place.cluster.clone(), joined: true, ..SecretStatus::default() };
        Self { place, name, kind, status: Mutex::new(status) }
    }

    fn lock(&self) -> MutexGuard<'_, SecretStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it stands.
    pub(super) fn status(&self) -> SecretStatus {
        self.lock().clone()
    }

    /// Follows it, once somebody runs that.
    pub(super) fn watched<C: Contents>(&self) -> Arc<Watched<OwnSecret<C>>> {
        let scope = Scope { namespace: self.place.namespace.clone(), name: Some(self.name.to_owned()), labels: None };
        Watched::scoped(scope, self.place.clock.clone())
    }

    /// Notes what it asks for, and when what is in it ends.
    pub(super) fn note<S>(&self, need: &Need<S>, not_after: Option<OffsetDateTime>, watches: Vec<WatchStatus>) {
        let mut status = self.lock();
        let foreign = matches!(need, Need::Foreign);
        if foreign && !status.foreign {
            let Place { cluster, namespace, .. } = &self.place;
            tracing::warn!(cluster, namespace, "the Secret {} was made by somebody else and is left alone", self.name);
        }
        (status.foreign, status.left_alone) = (foreign, matches!(need, Need::LeftAlone));
        (status.current, status.renew_at) = if let Need::Nothing { renew_at } = need { (true, *renew_at) } else { (false, None) };
        match need {
            Need::Nothing { .. } => status.trouble = None,
            Need::Unable(why) => status.trouble = Some((*why).to_owned()),
            Need::Foreign | Need::LeftAlone | Need::Issue(_) | Need::Write(..) => {}
        }
        (status.not_after, status.watches) = (not_after, watches);
    }

    /// Writes this over the version that was seen; without one there was none.
    pub(super) async fn write(&self, version: Option<&str>, mut object: Value) -> Result<(), KeepError> {
        let Self { place: Place { namespace, api, writer, .. }, name, kind, .. } = self;
        let path = format!("{}/{name}", Resource::Secrets.path(namespace));
        let Some(version) = version else {
            let identity = json!({"apiVersion": "v1", "kind": "Secret", "type": kind, "metadata": {"namespace": namespace, "name": name}});
            writes::merge(&mut object, identity);
            return Ok(writes::create(api, &path, writer, &object).await?);
        };
        writes::merge(&mut object, json!({"metadata": {"resourceVersion": version}}));
        match writes::change(api, &path, &object).await {
            // Deleted meanwhile.
            Err(error) if error.is_not_found() => Err(KeepError::Overtaken),
            written => Ok(written?),
        }
    }

    /// Whether a try may begin now, when the watch shows this; else the time to look again.
    pub(super) fn begin(&self, shown: &str, attempts: &mut Attempts) -> Result<(), Duration> {
        attempts.may(self.name, shown, self.place.clock.monotonic())?;
        attempts.begin(self.name);
        Ok(())
    }

    /// Notes how a try ended that began when the watch showed this.
    pub(super) fn ended(&self, shown: &str, result: Result<(), KeepError>, attempts: &mut Attempts) {
        let Place { cluster, namespace, clock, entropy, .. } = &self.place;
        let mut status = self.lock();
        let outcome = match result {
            Ok(()) => {
                status.written += 1;
                status.trouble = None;
                Outcome::Written
            }
            Err(KeepError::Overtaken) => {
                status.conflicts += 1;
                Outcome::Conflict
            }
            Err(KeepError::Write(error)) if error.is_conflict() => {
                status.conflicts += 1;
                Outcome::Conflict
            }
            Err(error) => {
                if status.trouble.is_none() {
                    tracing::error!(cluster, namespace, %error, "istiod's {} could not be kept up; trying again", self.name);
                }
                status.failures += 1;
                status.trouble = Some(error.to_string());
                Outcome::Failed
            }
        };
        drop(status);
        let chance = fraction(entropy.as_ref()).unwrap_or(0.0);
        attempts.end(self.name, shown, outcome, clock.monotonic(), chance);
    }
}
