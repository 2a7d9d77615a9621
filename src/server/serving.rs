//! Our own serving certificate: issued by ourselves like any other, on record like any other, renewed unattended.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::ServerConfig;
use time::OffsetDateTime;
use tokio::sync::watch;

use super::checkup::ServingTimes;
use super::health::Health;
use super::metrics::Metrics;
use super::tls::{CurrentTls, server_config};
use crate::authority::{Generation, GenerationNumber};
use crate::clock::{Clock, readable};
use crate::issuance::{Issuer, Refusal, ServingNames};
use crate::pki::{IssuerKey, KeyAlgorithm, KeyError, PemError, PublicKeyError, certificates_from_pem};

/// The longest pause between two looks: the wall clock may jump.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The pause after a failure.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Keeps the serving certificate fresh.
#[derive(Debug)]
pub(super) struct Serving {
    pub(super) issuer: Arc<Issuer>,
    pub(super) generation: Arc<ArcSwap<Generation>>,
    pub(super) names: ServingNames,
    pub(super) lifetime: Duration,
    pub(super) metrics: Arc<Metrics>,
    pub(super) health: Arc<Health>,
    pub(super) clock: Arc<dyn Clock>,
}

/// Why there is no serving certificate.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// It was not issued.
    #[error("our own serving certificate could not be issued: {0}")]
    Refused(#[from] Refusal),
    /// Its key could not be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Its key can't be certified.
    #[error(transparent)]
    PublicKey(#[from] PublicKeyError),
    /// A certificate of the chain can't be read.
    #[error(transparent)]
    Chain(#[from] PemError),
    /// rustls doesn't take it.
    #[error("our own serving certificate can't be served: {0}")]
    Tls(#[from] rustls::Error),
}

/// A serving certificate in use.
#[derive(Debug, Clone, Copy)]
struct InUse {
    not_before: OffsetDateTime,
    renew_at: OffsetDateTime,
    generation: GenerationNumber,
}

impl InUse {
    /// Whether another one is to be issued, where this generation signs. One that was made while the clock was ahead is of no use before the clock gets
    /// there again.
    fn is_due(&self, now: OffsetDateTime, generation: GenerationNumber) -> bool {
        now >= self.renew_at || now < self.not_before || generation != self.generation
    }
}

impl Serving {
    /// Issues the first certificate; returns what the doors read and what [`Serving::run`] goes on from.
    ///
    /// # Errors
    /// [`ServingError`].
    pub(super) async fn first(&self) -> Result<(CurrentTls, Renewal), ServingError> {
        let (config, in_use) = self.issue().await?;
        Ok((Arc::new(ArcSwap::from_pointee(config)), Renewal(in_use)))
    }

    /// Renews at half of the lifetime, at once when another generation signs, and soon after the clock was put back to before it was made, until `shutdown` ends. The old one serves on
    /// while a renewal fails.
    pub(super) async fn run(
        self,
        current: CurrentTls,
        Renewal(mut in_use): Renewal,
        mut changes: watch::Receiver<GenerationNumber>,
        shutdown: impl Future<Output = ()>,
    ) {
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let now = self.clock.now();
            let mut pause = Duration::try_from(in_use.renew_at - now).unwrap_or(Duration::ZERO).min(LONGEST_PAUSE);
            if in_use.is_due(now, self.generation.load().number) {
                pause = Duration::ZERO;
                match self.issue().await {
                    Ok((config, renewed)) => {
                        current.store(Arc::new(config));
                        in_use = renewed;
                    }
                    Err(error) => {
                        tracing::error!(%error, "the serving certificate was not renewed; the old one serves on, trying again");
                        pause = RETRY_PAUSE;
                    }
                }
            }
            tokio::select! {
                () = self.clock.sleep_until(self.clock.monotonic() + pause) => {}
                changed = changes.changed(), if pause > RETRY_PAUSE => if changed.is_err() { return },
                () = &mut shutdown => return,
            }
        }
    }

    async fn issue(&self) -> Result<(ServerConfig, InUse), ServingError> {
        let key = IssuerKey::generate(KeyAlgorithm::P256)?;
        let issued = self.issuer.issue_serving(&self.names, &key.public_key()?, self.lifetime).await?;
        let mut chain = vec![issued.der.clone()];
        // Of the generation that signed, which may be newer than the one that was published a moment ago.
        for pem in issued.chain.iter() {
            chain.extend(certificates_from_pem(pem)?);
        }
        let config = server_config(chain, PrivateKeyDer::Pkcs8(key.to_pkcs8_der()), self.clock.clone())?;
        let now = self.clock.now();
        let renew_at = now + (issued.not_after - now) / 2;
        self.metrics.serving_certificate(issued.not_after, renew_at);
        self.health.serves(ServingTimes { issued_at: now, renew_at, not_after: issued.not_after });
        tracing::info!(
            serial = issued.serial,
            generation = issued.generation.0,
            not_after = readable(issued.not_after),
            "serving certificate issued"
        );
        Ok((config, InUse { not_before: issued.not_before, renew_at, generation: issued.generation }))
    }
}

/// When the certificate in use is to be renewed.
#[derive(Debug)]
pub(super) struct Renewal(InUse);

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn it_is_due_at_half_of_its_life_for_another_generation_and_where_the_clock_was_ahead() {
        let issued_at = datetime!(2026-11-25 12:00 UTC);
        let (not_before, renew_at) = (issued_at - Duration::from_secs(60), issued_at + Duration::from_secs(3600));
        let (one, two) = (GenerationNumber(1), GenerationNumber(2));
        let in_use = InUse { not_before, renew_at, generation: one };
        let second = Duration::from_secs(1);
        for (now, generation, due) in [
            (issued_at, one, false),
            (issued_at, two, true),
            (renew_at - second, one, false),
            (renew_at, one, true),
            (not_before, one, false),
            (not_before - second, one, true),
            (not_before - Duration::from_secs(5 * 24 * 3600), one, true),
        ] {
            assert_eq!(in_use.is_due(now, generation), due, "{now}");
        }
    }
}
