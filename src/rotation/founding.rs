//! What happens once, when a process starts: a state is found or founded, held against the ledger, and what a crash left is tidied up.

use std::time::Duration;

use time::OffsetDateTime;

use super::advance::advance;
use super::parts::{Duty, KeeperError, KeeperParts};
use crate::authority::{AuthorityState, Imported, LedgerMark, MadeBy, Phase, Role, TrustEntry, first_state, make_root};
use crate::clock::random_id;
use crate::pki::IssuerKey;
use crate::stores::{StoreError, Version};

/// What to begin with where there is no state yet.
#[derive(Debug)]
pub struct Founding {
    /// Which mode makes it.
    pub made_by: MadeBy,
    /// An authority that an operator hands over; without one a root is made.
    pub import: Option<Imported>,
}

/// How long a replica that starts waits for another one to do what it may not do itself: longer than a new leader takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two looks while it waits.
const LOOK_PAUSE: Duration = Duration::from_millis(250);

/// The state to go on from, bound to its ledger. Where several replicas found one at the same time, all of them go on from the first that was written.
///
/// # Errors
/// [`KeeperError`]; a second try is safe.
pub(super) async fn state(parts: &KeeperParts, founding: &Founding) -> Result<(AuthorityState, Version), KeeperError> {
    let end = parts.clock.monotonic() + PATIENCE;
    loop {
        let bound = async {
            // Before the state is read: whoever publishes a bundle has written it into the state first.
            let latest = parts.ledger.latest_bundle().await?;
            let held = match parts.store.load().await? {
                Some(stored) => {
                    let held = adopt(stored, parts, founding.made_by)?;
                    is_newest(&held.0, parts, latest)?;
                    held
                }
                None if parts.duty == Duty::Follow => return Err(KeeperError::NotFounded),
                None => found(parts, founding).await?,
            };
            bind_ledger(held, parts).await
        };
        let trouble = match bound.await {
            Ok(held) => {
                tidy(parts, &held.0).await?;
                return Ok(held);
            }
            // Another replica writes at this moment, or must do so before this one can go on.
            Err(trouble @ (KeeperError::Store(StoreError::Conflict) | KeeperError::NotFounded | KeeperError::OtherLedger { .. }))
                if parts.store.is_shared() =>
            {
                trouble
            }
            Err(error) => return Err(error),
        };
        if parts.clock.monotonic() >= end {
            return Err(trouble);
        }
        parts.clock.sleep_until(parts.clock.monotonic() + LOOK_PAUSE).await;
    }
}

/// Waits until the state is one that can sign. Who leads makes it so.
///
/// # Errors
/// [`KeeperError::NoLeader`] where nobody does; what [`advance`] has.
pub(super) async fn until_it_signs(parts: &KeeperParts, held: &mut (AuthorityState, Version)) -> Result<(), KeeperError> {
    let end = parts.clock.monotonic() + PATIENCE;
    loop {
        match advance(parts, held).await {
            Ok(_) if held.0.issuing().is_some_and(|(issuing, _)| held.0.reserved_not_after.contains_key(&issuing.root)) => return Ok(()),
            Err(KeeperError::Store(StoreError::Conflict)) if parts.store.is_shared() => {}
            Ok(_) if parts.store.is_shared() => {}
            Ok(_) => return Err(KeeperError::NoParent),
            Err(error) => return Err(error),
        }
        if parts.clock.monotonic() >= end {
            return Err(KeeperError::NoLeader);
        }
        parts.clock.sleep_until(parts.clock.monotonic() + LOOK_PAUSE).await;
        *held = parts.store.load().await?.ok_or(StoreError::Conflict)?;
    }
}

/// Checks that a state that was found is ours to use.
fn adopt(found: (AuthorityState, Version), parts: &KeeperParts, mode: MadeBy) -> Result<(AuthorityState, Version), KeeperError> {
    let state = &found.0;
    if state.trust_domain != parts.policy.trust_domain {
        return Err(KeeperError::Foreign(format!(
            "the state belongs to trust domain {}, the configuration says {}: a trust domain can't be renamed; use another state folder",
            state.trust_domain, parts.policy.trust_domain
        )));
    }
    match (state.made_by, mode) {
        (MadeBy::Dev, MadeBy::Serve) => Err(KeeperError::Foreign(
            "the state was made by `meshmint dev`, whose tokens anybody with the folder can mint; `serve` needs a state folder of its own".to_owned(),
        )),
        (MadeBy::Serve, MadeBy::Dev) => {
            Err(KeeperError::Foreign("the state was made by `meshmint serve`; give `dev` another folder with --dir".to_owned()))
        }
        _ => Ok(found),
    }
}

/// Holds the state against the latest bundle on record in its own ledger. Another one knows nothing of it.
fn is_newest(state: &AuthorityState, parts: &KeeperParts, latest: Option<u64>) -> Result<(), KeeperError> {
    match latest {
        Some(latest) if latest > state.bundle_number && state.ledger.as_ref().is_some_and(|mark| mark.id == parts.ledger.id()) => {
            Err(KeeperError::Older { state: state.bundle_number, ledger: latest })
        }
        _ => Ok(()),
    }
}

/// Writes the first state: an imported authority, or a new root.
async fn found(parts: &KeeperParts, founding: &Founding) -> Result<(AuthorityState, Version), KeeperError> {
    let now = parts.clock.now();
    if parts.ledger.stats(now).await?.total > 0 {
        // A replica that founds it at the same time has written its state before the first record.
        if parts.store.is_shared() && parts.store.load().await?.is_some() {
            return Err(StoreError::Conflict.into());
        }
        return Err(KeeperError::Foreign(
            "the ledger holds certificates of an authority whose state is not here: restore the state folder, or give this new authority a ledger of its own"
                .to_owned(),
        ));
    }
    let tag = random_id(parts.entropy.as_ref(), 4)?;
    let (authority, trust, what) = match &founding.import {
        Some(imported) => {
            // One that signs leaves itself is for every replica that issues (stores/secrets.rs).
            let name = if imported.may_sign_authorities { format!("imported-{tag}") } else { format!("issuing-imported-{tag}") };
            let reference = parts.store.put_key(&name, &imported.key).await?;
            let authority = imported.authority(reference, now);
            let what = format!("imported authority {}: {}", authority.id, imported.abilities());
            (authority, imported.trust.clone(), what)
        }
        None => {
            let key = IssuerKey::generate(parts.policy.key_algorithm)?;
            let reference = parts.store.put_key(&format!("root-{tag}"), &key).await?;
            let authority = make_root(&parts.policy, &key, reference, now, parts.entropy.as_ref())?;
            let trust = vec![TrustEntry { id: authority.id.clone(), certificate: authority.certificate.clone(), foreign: false }];
            let what = format!("made root {}", authority.id);
            (authority, trust, what)
        }
    };
    let key = authority.key.clone();
    let state = first_state(&parts.policy, founding.made_by, vec![authority], trust, now, what.clone());
    match parts.store.swap(None, &state).await {
        Ok(version) => {
            tracing::info!(trust_domain = %parts.policy.trust_domain, "{what}");
            Ok((state, version))
        }
        Err(StoreError::Conflict) => {
            // Nobody but us knows this key's name.
            if let Some(key) = key {
                parts.store.destroy_key(&key).await?;
            }
            tracing::info!("another replica has founded the authority at the same time: its root counts, ours is forgotten");
            Err(StoreError::Conflict.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Notes which ledger records for this state, and that records are missing where it is another one or an older copy.
async fn bind_ledger(held: (AuthorityState, Version), parts: &KeeperParts) -> Result<(AuthorityState, Version), KeeperError> {
    let (mut state, version) = held;
    let (id, now) = (parts.ledger.id().to_owned(), parts.clock.now());
    let high_water = parts.ledger.high_water().await?;
    if parts.store.is_shared() {
        match &state.ledger {
            // Whoever changes the state next carries the count along.
            Some(mark) if mark.id == id && mark.high_water <= high_water => return Ok((state, version)),
            // Two replicas with two ledgers would have two fences. A leader is the one who may say that there is a new one.
            Some(mark) if mark.id != id && !*parts.leading.borrow() => return Err(KeeperError::OtherLedger { named: mark.id.clone(), ours: id }),
            _ if parts.duty == Duty::Follow => return Err(KeeperError::OtherLedger { named: "none, or a later copy of ours".to_owned(), ours: id }),
            _ => {}
        }
    }
    let incomplete = match &mut state.ledger {
        Some(mark) if mark.id == id && mark.high_water <= high_water => {
            mark.high_water = high_water;
            let version = parts.store.swap(Some(&version), &state).await?;
            return Ok((state, version));
        }
        Some(mark) if mark.id == id => Some(format!("ledger {id} was rolled back to an older copy")),
        Some(mark) => Some(format!("ledger {id} took over from {}", mark.id)),
        None => None,
    };
    if let Some(what) = &incomplete {
        tracing::warn!("{what}: earlier records are missing here; restore the ledger that recorded for this state if you can");
        state = state.remember(now, format!("{what}; earlier records are missing"));
    }
    let (incomplete_before, incomplete_until) = (incomplete.as_ref().map(|_| now), incomplete.and_then(|_| state.latest_reserved()));
    state.ledger = Some(LedgerMark { id, since: now, high_water, incomplete_before, incomplete_until });
    let version = parts.store.swap(Some(&version), &state).await?;
    Ok((state, version))
}

/// Notes that the ledger has lost records (a standby took over that didn't have them), as this replica found or another one said at `told_at`,
/// and brings it to where the state says it is.
pub(super) async fn note_loss(parts: &KeeperParts, held: &mut (AuthorityState, Version), told_at: Option<OffsetDateTime>) -> Result<(), KeeperError> {
    // Not before what was told, or it would be noted again and again: the ledger's clock may be ahead of ours.
    let now = told_at.into_iter().fold(parts.clock.now(), OffsetDateTime::max);
    if parts.duty == Duty::Follow {
        // It is in the ledger that we said so, and whoever may write the state looks there.
        tracing::error!("the ledger lost certificates that this replica recorded; a replica that may lead notes it in the state");
        return Ok(());
    }
    let noted = match write_loss(parts, now).await {
        // Another replica noted its own a moment ago. What we were told it may have noted, too, which the next look sees.
        Err(KeeperError::Store(StoreError::Conflict)) if told_at.is_none() => write_loss(parts, now).await?,
        other => other?,
    };
    *held = noted;
    tidy(parts, &held.0).await
}

async fn write_loss(parts: &KeeperParts, now: OffsetDateTime) -> Result<(AuthorityState, Version), KeeperError> {
    let (current, version) = parts.store.load().await?.ok_or(StoreError::Conflict)?;
    parts.names_ours(&current)?;
    let reserved = current.latest_reserved();
    let mut state = current.remember(now, "the ledger lost its latest records; earlier records are missing".to_owned());
    if let Some(mark) = &mut state.ledger {
        mark.incomplete_before = Some(now);
        mark.incomplete_until = reserved;
        mark.high_water = parts.ledger.high_water().await?;
    }
    let version = parts.store.swap(Some(&version), &state).await?;
    Ok((state, version))
}

/// Brings ledger and store to where the state says they are: an older copy of the ledger may have generations open that were closed
/// since, and a crash may have left keys that no state refers to.
async fn tidy(parts: &KeeperParts, state: &AuthorityState) -> Result<(), KeeperError> {
    for authority in &state.authorities {
        if let (Role::Issuing(generation), Phase::Retiring, None) = (authority.role, authority.phase, &authority.key) {
            parts.ledger.close_generation(generation, parts.clock.now()).await?;
        }
    }
    if parts.store.is_shared() {
        // Another replica may be about to name one: `sweep` has time.
        return Ok(());
    }
    for key in parts.store.keys().await? {
        if !state.authorities.iter().any(|authority| authority.key.as_ref() == Some(&key)) {
            parts.store.destroy_key(&key).await?;
            tracing::info!(key = key.0, "destroyed a key that nothing refers to");
        }
    }
    Ok(())
}
