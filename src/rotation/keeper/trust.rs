//! An operator lets a root join the trust bundle whose key isn't ours: checked, put on record, written by compare-and-swap, and then published like
//! any other change of the state, so that it is in the very next answer.

use super::super::advance::with_high_water;
use super::super::parts::{Duty, KeeperError};
use super::Keeper;
use crate::authority::{AuthorityId, Joining, TrustError, foreign_root};
use crate::ledger::{AuditEntry, LedgerError};
use crate::stores::StoreError;

/// How often somebody else may be faster, each with a change of his own.
const TRIES: u32 = 8;

/// What the audit calls it.
const ACTION: &str = "authority.trust.add";

/// What an operator wants.
#[derive(Debug, Clone)]
pub struct TrustOrder {
    /// The root, PEM.
    pub pem: String,
    /// Who he is, for the audit.
    pub actor: String,
    /// Why, in his words.
    pub reason: String,
}

/// The root is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trusted {
    /// Its name.
    pub id: AuthorityId,
    /// Whether this made it so; it may have been trusted before.
    pub added: bool,
    /// The number of the bundle that it is in.
    pub bundle_number: u64,
    /// Whether this process answers with that bundle already. Where not, it does as soon as the ledger answers again.
    pub published: bool,
}

/// Why a root is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustRefusal {
    /// This replica may not write the state.
    #[error("a replica of role issuer changes nothing: ask one of role authority")]
    Issuer,
    /// The root.
    #[error(transparent)]
    Root(#[from] TrustError),
    /// It could not be put on record who wants this, so it isn't done.
    #[error("it can't be put on record, so nothing was changed: {0}")]
    Audit(LedgerError),
    /// The state doesn't go with this replica.
    #[error("the authority state can't be changed from here: {0}")]
    Unfit(#[from] KeeperError),
    /// The state could not be read or written.
    #[error("the authority state could not be changed: {0}")]
    Store(#[from] StoreError),
}

impl Keeper {
    /// Lets a root join the bundle. It may be asked again: a root that is there already changes nothing.
    ///
    /// # Errors
    /// [`TrustRefusal`]; nothing was changed then, unless the store is away: then it may have been.
    pub async fn add_trust(&self, order: &TrustOrder) -> Result<Trusted, TrustRefusal> {
        if self.parts.duty == Duty::Follow {
            return Err(TrustRefusal::Issuer);
        }
        let mut on_record = false;
        let outcome = self.try_to_add(order, &mut on_record).await;
        if let (true, Err(why)) = (on_record, &outcome) {
            self.audit_failure(order, why).await;
        }
        outcome
    }

    async fn try_to_add(&self, order: &TrustOrder, on_record: &mut bool) -> Result<Trusted, TrustRefusal> {
        let parts = &self.parts;
        let mut held = self.held.lock().await;
        for _ in 0..TRIES {
            // Another replica may have changed it.
            held.stored = parts.store.load().await?.ok_or(StoreError::Conflict)?;
            let (state, version) = &held.stored;
            self.fits(state)?;
            let now = parts.clock.now();
            let root = match foreign_root(state, &order.pem, now)? {
                Joining::New(root) => root,
                Joining::Already(id) => {
                    let bundle_number = state.bundle_number;
                    let published = self.publish_or_wake(&mut held).await;
                    return Ok(Trusted { id, added: *on_record, bundle_number, published });
                }
            };
            let id = root.entry.id.clone();
            if !*on_record {
                let detail = format!("root {id} ({})", root.subject);
                self.audit(ACTION, order, detail).await.map_err(TrustRefusal::Audit)?;
                *on_record = true;
            }
            let next = with_high_water(parts, state.clone().with_foreign_root(&root, now)).await;
            match parts.store.swap(Some(version), &next).await {
                Ok(version) => {
                    let bundle_number = next.bundle_number;
                    tracing::info!(root = %id, bundle_number, actor = order.actor, "a foreign root joins the trust bundle");
                    held.stored = (next, version);
                    let published = self.publish_or_wake(&mut held).await;
                    return Ok(Trusted { id, added: true, bundle_number, published });
                }
                // One that didn't answer may have written it all the same: the next look tells.
                Err(StoreError::Conflict | StoreError::Away { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Conflict.into())
    }

    /// Publishes what is in the store; where that fails, the loop tries on, from now.
    async fn publish_or_wake(&self, held: &mut super::Held) -> bool {
        let published: Result<(), KeeperError> = self.publish(held).await;
        if let Err(error) = &published {
            tracing::warn!(%error, "the new trust bundle is stored, but not published yet; trying again");
            self.wanted.notify_one();
        }
        published.is_ok()
    }

    async fn audit(&self, action: &str, order: &TrustOrder, detail: String) -> Result<(), LedgerError> {
        let TrustOrder { actor, reason, .. } = order;
        let entry = AuditEntry { at: self.parts.clock.now(), actor: actor.clone(), action: action.to_owned(), detail, reason: reason.clone() };
        self.parts.ledger.audit(entry).await
    }

    /// Says in the audit that nothing came of the entry before.
    async fn audit_failure(&self, order: &TrustOrder, why: &TrustRefusal) {
        if let Err(error) = self.audit(&format!("{ACTION}.failed"), order, why.to_string()).await {
            tracing::warn!(%error, "the audit could not be told that a root was not added");
        }
    }
}
