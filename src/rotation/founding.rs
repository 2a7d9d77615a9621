//! What happens once, when a process starts: a state is found or founded, held against the ledger, and what a crash left is tidied up.

use super::parts::{KeeperError, KeeperParts};
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

/// The state to go on from, bound to its ledger.
///
/// # Errors
/// [`KeeperError`]; a second try is safe.
pub(super) async fn state(parts: &KeeperParts, founding: Founding) -> Result<(AuthorityState, Version), KeeperError> {
    let held = match parts.store.load().await? {
        Some(stored) => adopt(stored, parts, founding.made_by)?,
        None => found(parts, founding).await?,
    };
    let held = bind_ledger(held, parts).await?;
    tidy(parts, &held.0).await?;
    Ok(held)
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

/// Writes the first state: an imported authority, or a new root.
async fn found(parts: &KeeperParts, founding: Founding) -> Result<(AuthorityState, Version), KeeperError> {
    let now = parts.clock.now();
    if parts.ledger.stats(now).await?.total > 0 {
        return Err(KeeperError::Foreign(
            "the ledger holds certificates of an authority whose state is not here: restore the state folder, or give this new authority a ledger of its own"
                .to_owned(),
        ));
    }
    let tag = random_id(parts.entropy.as_ref(), 4)?;
    let (authority, trust, what) = match &founding.import {
        Some(imported) => {
            let reference = parts.store.put_key(&format!("imported-{tag}"), &imported.key).await?;
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
    tracing::info!(trust_domain = %parts.policy.trust_domain, "{what}");
    let state = first_state(&parts.policy, founding.made_by, vec![authority], trust, now, what);
    let version = parts.store.swap(None, &state).await?;
    Ok((state, version))
}

/// Notes which ledger records for this state, and that records are missing where it is another one or an older copy.
async fn bind_ledger(held: (AuthorityState, Version), parts: &KeeperParts) -> Result<(AuthorityState, Version), KeeperError> {
    let (mut state, version) = held;
    let (id, now) = (parts.ledger.id().to_owned(), parts.clock.now());
    let high_water = parts.ledger.high_water().await?;
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
    state.ledger = Some(LedgerMark { id, since: now, high_water, incomplete_before: incomplete.map(|_| now) });
    let version = parts.store.swap(Some(&version), &state).await?;
    Ok((state, version))
}

/// Notes that the ledger has lost records while this process was running (a standby took over that didn't have them), and brings it to where
/// the state says it is.
pub(super) async fn note_loss(parts: &KeeperParts, held: &mut (AuthorityState, Version)) -> Result<(), KeeperError> {
    let now = parts.clock.now();
    let (current, version) = parts.store.load().await?.ok_or(StoreError::Conflict)?;
    let mut state = current.remember(now, "the ledger lost its latest records; earlier records are missing".to_owned());
    if let Some(mark) = &mut state.ledger {
        mark.incomplete_before = Some(now);
        mark.high_water = parts.ledger.high_water().await?;
    }
    let version = parts.store.swap(Some(&version), &state).await?;
    *held = (state, version);
    tidy(parts, &held.0).await
}

/// Brings ledger and store to where the state says they are: an older copy of the ledger may have generations open that were closed
/// since, and a crash may have left keys that no state refers to.
async fn tidy(parts: &KeeperParts, state: &AuthorityState) -> Result<(), KeeperError> {
    for authority in &state.authorities {
        if let (Role::Issuing(generation), Phase::Retiring, None) = (authority.role, authority.phase, &authority.key) {
            parts.ledger.close_generation(generation, parts.clock.now()).await?;
        }
    }
    for key in parts.store.keys().await? {
        if !state.authorities.iter().any(|authority| authority.key.as_ref() == Some(&key)) {
            parts.store.destroy_key(&key).await?;
            tracing::info!(key = key.0, "destroyed a key that nothing refers to");
        }
    }
    Ok(())
}
