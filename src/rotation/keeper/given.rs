//! Intermediates that sign leaves for somebody else: for istiod, where a mesh keeps it as its CA. The document reserves the notAfter of such a certificate
//! before it is signed, and it is on record before anybody sees it. Its key is never ours to keep.

use std::time::Duration;

use time::OffsetDateTime;

use super::super::advance::{signer_of, with_high_water};
use super::super::parts::KeeperError;
use super::super::publish::signing_record;
use super::Keeper;
use crate::authority::rotation::{chain_above, earliest_end, parent};
use crate::authority::{AuthorityState, BirthError, certify_intermediate};
use crate::clock::{random_id, readable};
use crate::ledger::{CertificateRecord, HolderId, Kind};
use crate::pki::{CheckedKey, Serial, Validity};
use crate::stores::StoreError;

/// How often somebody else may be faster, each with a change of his own.
const TRIES: u32 = 8;

/// For whom an intermediate is.
#[derive(Debug, Clone, Copy)]
pub struct IntermediateOrder<'a> {
    /// The cluster of the istiod that gets it.
    pub cluster: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// The key that shall sign there.
    pub key: &'a CheckedKey,
    /// How long it shall live; never longer than what stands above it.
    pub lifetime: Duration,
}

/// An intermediate that is on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenIntermediate {
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
    /// What stands above it, up to the root and with it, nearest first, PEM.
    pub above: Vec<String>,
    /// Its serial number, lower-hex.
    pub serial: String,
    /// notBefore and notAfter.
    pub validity: Validity,
}

impl Keeper {
    /// Makes an intermediate for somebody else, below what signs our own issuing certificates.
    ///
    /// # Errors
    /// [`KeeperError`]; nobody has seen a certificate then, though one may be on record.
    pub async fn give_intermediate(&self, order: &IntermediateOrder<'_>) -> Result<GivenIntermediate, KeeperError> {
        let parts = &self.parts;
        let mut held = self.held.lock().await;
        // While the ledger is away the document isn't written for a certificate that could not be recorded.
        parts.ledger.high_water().await?;
        for _ in 0..TRIES {
            // Another replica may have changed it.
            held.stored = parts.store.load().await?.ok_or(StoreError::Conflict)?;
            let (state, version) = &held.stored;
            self.fits(state)?;
            let root = parent(state).ok_or(KeeperError::NoParent)?.root.clone();
            let limit = chain_above(state).and_then(|above| earliest_end(&above)).ok_or(KeeperError::NoParent)?;
            let now = parts.clock.now();
            let validity = parts.policy.profile.clamped(order.lifetime, now, limit).map_err(BirthError::from)?;
            let what = format!("an intermediate for istiod in {}/{} ends at {}", order.cluster, order.namespace, readable(validity.not_after));
            let next = with_high_water(parts, state.clone().with_reservation(root, validity.not_after).remember(now, what)).await;
            match parts.store.swap(Some(version), &next).await {
                Ok(version) => held.stored = (next, version),
                // One that didn't answer may have written it all the same: the next look tells.
                Err(StoreError::Conflict | StoreError::Away { .. }) => continue,
                Err(error) => return Err(error.into()),
            }
            // The loop publishes what was written.
            self.wanted.notify_one();
            return self.sign_and_record(order, &held.stored.0, validity, now).await;
        }
        Err(StoreError::Conflict.into())
    }

    async fn sign_and_record(
        &self,
        order: &IntermediateOrder<'_>,
        state: &AuthorityState,
        validity: Validity,
        now: OffsetDateTime,
    ) -> Result<GivenIntermediate, KeeperError> {
        let parts = &self.parts;
        let parent = parent(state).ok_or(KeeperError::NoParent)?;
        let above = chain_above(state).ok_or(KeeperError::NoParent)?.into_iter().map(str::to_owned).collect();
        let signer = signer_of(parts, parent).await?;
        let entropy = parts.entropy.as_ref();
        // Never used before: Go's verifier gives up on many issuers of one name.
        let name = format!("meshmint istiod {}", random_id(entropy, 8)?);
        let serial = Serial::draw(entropy, now).map_err(BirthError::from)?;
        let certified = certify_intermediate(&parts.policy.trust_domain, parent, &signer, (&name, order.key), serial, validity)?;
        let published = self.published.load();
        let record =
            signing_record(parts, &certified.certificate, (Kind::Intermediate, parent.id.clone()), (published.number, published.bundle_number), now)?;
        let record = CertificateRecord {
            cluster: Some(order.cluster.to_owned()),
            namespace: Some(order.namespace.to_owned()),
            holder: Some(HolderId::istiod(order.cluster, order.namespace)),
            ..record
        };
        parts.ledger.record(record).await?;
        Ok(GivenIntermediate { certificate: certified.certificate, above, serial: hex::encode(serial.as_bytes()), validity })
    }
}
