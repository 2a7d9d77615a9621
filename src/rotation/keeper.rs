//! [`Keeper`]: founds the authority of a trust domain, then keeps it able to sign, unattended.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rcgen::CertificateParams;
use time::OffsetDateTime;
use tokio::sync::{Mutex, watch};
use x509_parser::prelude::FromDer;

use super::{IssuingRequest, UpstreamError, UpstreamIssuer};
use crate::authority::rotation::{Facts, Step, chain_end, step};
use crate::authority::{
    Authority, AuthorityId, AuthorityPolicy, AuthorityState, BirthError, Generation, GenerationError, GenerationNumber, Imported, LedgerMark, MadeBy,
    Phase, Role, TrustEntry, certify_issuing, first_state, issuing_name, make_root,
};
use crate::clock::{Clock, Entropy, NoEntropy, random_id, readable};
use crate::ledger::{CertificateRecord, CredentialKind, Kind, Ledger, LedgerError};
use crate::pki::{IssuerKey, KeyError, Signer, SignerError, certificates_from_pem};
use crate::stores::{StateStore, StoreError, Version};

/// The longest pause between two looks at what is due: the wall clock may jump.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The pause between two warnings that the chain ends.
const WARN_PAUSE: Duration = Duration::from_secs(3600);
/// The pause after a failure.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// What a [`Keeper`] works with.
#[derive(Debug)]
pub struct KeeperParts {
    /// Where state and keys live.
    pub store: Arc<dyn StateStore>,
    /// The ledger.
    pub ledger: Arc<dyn Ledger>,
    /// What the operator decided.
    pub policy: AuthorityPolicy,
    /// Who signs issuing keys instead of our own root.
    pub upstream: Option<Arc<dyn UpstreamIssuer>>,
    /// How long a request may be under way.
    pub longest_request: Duration,
    /// This process.
    pub replica: String,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Names and serials.
    pub entropy: Arc<dyn Entropy>,
}

/// What to begin with where there is no state yet.
#[derive(Debug)]
pub struct Founding {
    /// Which mode makes it.
    pub made_by: MadeBy,
    /// An authority that an operator hands over; without one a root is made.
    pub import: Option<Imported>,
}

/// Why the authority can't be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A certificate could not be made.
    #[error(transparent)]
    Birth(#[from] BirthError),
    /// The state gives nothing that can sign.
    #[error(transparent)]
    Generation(#[from] GenerationError),
    /// A key could not be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The signing authority and its key don't fit.
    #[error("the authority {0} can't sign: {1}")]
    Signer(AuthorityId, SignerError),
    /// Nobody can sign an issuing key.
    #[error("no root or intermediate with a key is in the state, and no upstream issuer is configured: nothing can sign an issuing key")]
    NoParent,
    /// The upstream issuer.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// Random bytes.
    #[error(transparent)]
    Entropy(#[from] NoEntropy),
    /// A request could not be encoded.
    #[error("the request for an issuing key could not be made: {0}")]
    Request(String),
    /// State and ledger don't belong to the same moment.
    #[error("the state is older than the ledger ({0}): restore both from the same backup, or the state from a later one")]
    Behind(LedgerError),
    /// The state belongs to something else.
    #[error("{0}")]
    Foreign(String),
}

#[derive(Debug)]
struct Held {
    /// The state as it is in the store.
    stored: (AuthorityState, Version),
    /// The state that the published generation was made from.
    published: AuthorityState,
}

/// Keeps the authority of one trust domain.
#[derive(Debug)]
pub struct Keeper {
    parts: KeeperParts,
    held: Mutex<Held>,
    published: Arc<ArcSwap<Generation>>,
    changes: watch::Sender<GenerationNumber>,
    failures: AtomicU64,
    /// When the end of the chain was warned of last.
    warned: std::sync::Mutex<Option<Duration>>,
}

impl Keeper {
    /// Reads the state, or founds one, and brings it to where it can sign.
    ///
    /// # Errors
    /// [`KeeperError`]; a second try is safe.
    pub async fn start(parts: KeeperParts, founding: Founding) -> Result<Self, KeeperError> {
        let (state, version) = match parts.store.load().await? {
            Some(found) => adopt(found, &parts, founding.made_by)?,
            None => found(&parts, founding).await?,
        };
        let mut held = bind_ledger((state, version), &parts).await?;
        tidy(&parts, &held.0).await?;
        advance(&parts, &mut held).await?;
        let generation = publishable(&parts, &held.0).await?;
        let (changes, _) = watch::channel(generation.number);
        let held = Held { published: held.0.clone(), stored: held };
        Ok(Self {
            parts,
            held: Mutex::new(held),
            published: Arc::new(ArcSwap::from_pointee(generation)),
            changes,
            failures: AtomicU64::new(0),
            warned: std::sync::Mutex::default(),
        })
    }

    /// The generation that signs now.
    pub fn published(&self) -> Arc<ArcSwap<Generation>> {
        self.published.clone()
    }

    /// Wakes whenever another generation signs.
    pub fn changes(&self) -> watch::Receiver<GenerationNumber> {
        self.changes.subscribe()
    }

    /// How often something that was due failed.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Does what is due until `shutdown` ends. A failure never stops it: the generation in use goes on, and it tries again.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let pause = match self.tick().await {
                Ok(next) => {
                    Duration::try_from(next - self.parts.clock.now()).unwrap_or(Duration::ZERO).clamp(Duration::from_millis(20), LONGEST_PAUSE)
                }
                Err(error) => {
                    self.failures.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(%error, "the authority could not be kept up to date; the one in use goes on, trying again");
                    RETRY_PAUSE
                }
            };
            tokio::select! {
                () = self.parts.clock.sleep_until(self.parts.clock.monotonic() + pause) => {}
                () = &mut shutdown => return,
            }
        }
    }

    /// Does everything that is due now; returns when to look again.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub async fn tick(&self) -> Result<OffsetDateTime, KeeperError> {
        let mut held = self.held.lock().await;
        let next = match advance(&self.parts, &mut held.stored).await {
            Err(KeeperError::Store(StoreError::Conflict)) => {
                held.stored = self.parts.store.load().await?.ok_or(StoreError::Conflict)?;
                advance(&self.parts, &mut held.stored).await?
            }
            other => other?,
        };
        self.warn_of_the_end(&held.stored.0, next);
        if held.stored.0 != held.published {
            let generation = publishable(&self.parts, &held.stored.0).await?;
            let number = generation.number;
            tracing::info!(generation = number.0, authority = %generation.authority, limit = readable(generation.limit), "publishing");
            self.published.store(Arc::new(generation));
            held.published = held.stored.0.clone();
            self.changes.send_if_modified(|latest| std::mem::replace(latest, number) != number);
        }
        Ok(next)
    }
}

impl Keeper {
    /// Says so, long before, when the chain that signs ends and no renewal will move its end: leaves only get shorter from then on.
    fn warn_of_the_end(&self, state: &AuthorityState, next: OffsetDateTime) {
        let policy = &self.parts.policy;
        let Some(end) = chain_end(state) else { return };
        let left = Duration::try_from(end - self.parts.clock.now()).unwrap_or(Duration::ZERO);
        // A chain that is renewed never gets this close to its end.
        if next < end && left < (policy.issuing_lifetime / 4).max(policy.longest_leaf * 3 / 2) {
            let now = self.parts.clock.monotonic();
            let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
            if warned.is_none_or(|at| now.saturating_sub(at) > WARN_PAUSE) {
                *warned = Some(now);
                tracing::warn!(
                    end = readable(end),
                    "the signing chain ends and can't be renewed here: replace the root or the imported authority before"
                );
            }
        }
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

/// Steps until nothing is due; returns when to look again.
async fn advance(parts: &KeeperParts, held: &mut (AuthorityState, Version)) -> Result<OffsetDateTime, KeeperError> {
    let facts = Facts { upstream: parts.upstream.is_some(), longest_request: parts.longest_request };
    loop {
        let now = parts.clock.now();
        let state = held.0.clone();
        let next = match step(&state, facts, &parts.policy, now) {
            Step::Wait(until) => return Ok(until),
            Step::Reserve { root, until } => state.with_reservation(root, until),
            Step::RenewIssuing { .. } => renew_issuing(parts, state, now).await?,
            Step::Close(generation) => {
                parts.ledger.close_generation(generation, now).await?;
                let closed = state.authorities.iter().find(|authority| authority.role == Role::Issuing(generation));
                let key = closed.and_then(|authority| authority.key.clone());
                let next = state.with_closed(generation, now);
                held.1 = parts.store.swap(Some(&held.1), &next).await?;
                held.0 = next;
                if let Some(key) = key {
                    parts.store.destroy_key(&key).await?;
                }
                tracing::info!(generation = generation.0, "closed; its key is destroyed");
                continue;
            }
        };
        let next = with_high_water(parts, next).await;
        held.1 = parts.store.swap(Some(&held.1), &next).await?;
        held.0 = next;
    }
}

/// The state with the ledger's present count, where it can be asked: what is written anyway carries it along.
async fn with_high_water(parts: &KeeperParts, mut state: AuthorityState) -> AuthorityState {
    if let (Some(mark), Ok(high_water)) = (&mut state.ledger, parts.ledger.high_water().await) {
        mark.high_water = mark.high_water.max(high_water);
    }
    state
}

/// Makes an issuing key and has it certified. The key is stored before any state refers to it.
async fn renew_issuing(parts: &KeeperParts, state: AuthorityState, now: OffsetDateTime) -> Result<AuthorityState, KeeperError> {
    let generation = state.next_generation();
    let key = IssuerKey::generate(parts.policy.key_algorithm)?;
    let common_name = issuing_name(generation, parts.entropy.as_ref())?;
    let request = IssuingRequest { csr_pem: request_pem(&key)?, common_name, lifetime: parts.policy.issuing_lifetime };
    let certified = match &parts.upstream {
        Some(upstream) => upstream.certify(&request).await?,
        None => {
            let parent = crate::authority::rotation::parent(&state).ok_or(KeeperError::NoParent)?;
            let signer = signer_of(parts, parent).await?;
            certify_issuing(&parts.policy, parent, &signer, &request.csr_pem, &request.common_name, now, parts.entropy.as_ref())?
        }
    };
    let name = format!("issuing-{generation}-{}", random_id(parts.entropy.as_ref(), 4)?);
    let reference = parts.store.put_key(&name, &key).await?;
    Ok(state.with_issuing(certified, reference, now))
}

async fn signer_of(parts: &KeeperParts, authority: &Authority) -> Result<Signer, KeeperError> {
    let reference = authority.key.as_ref().ok_or(KeeperError::NoParent)?;
    let key = parts.store.key(reference).await?;
    let certificates = certificates_from_pem(&authority.certificate).map_err(GenerationError::Certificate)?;
    let der = certificates.first().ok_or(KeeperError::NoParent)?;
    Signer::new(der, key).map_err(|error| KeeperError::Signer(authority.id.clone(), error))
}

fn request_pem(key: &IssuerKey) -> Result<String, KeeperError> {
    let request = CertificateParams::default().serialize_request(key.pair()).map_err(|error| KeeperError::Request(error.to_string()))?;
    pem_rfc7468::encode_string("CERTIFICATE REQUEST", pem_rfc7468::LineEnding::LF, request.der())
        .map_err(|error| KeeperError::Request(error.to_string()))
}

/// The generation of a state, once the ledger has it open and knows its bundle and its authorities. Idempotent.
async fn publishable(parts: &KeeperParts, state: &AuthorityState) -> Result<Generation, KeeperError> {
    let (issuing, number) = state.issuing().ok_or(GenerationError::NoneActive)?;
    let reference = issuing.key.as_ref().ok_or(GenerationError::NoneActive)?;
    let generation = Generation::of_state(state, parts.store.key(reference).await?)?;
    let now = parts.clock.now();
    let behind = |error| match error {
        LedgerError::Fenced(_) | LedgerError::Duplicate(_) => KeeperError::Behind(error),
        LedgerError::Unavailable(_) => error.into(),
    };
    parts.ledger.open_generation(number, &issuing.id, now).await.map_err(behind)?;
    parts.ledger.record_bundle(state.bundle_number, &state.bundle_pem(), now).await.map_err(behind)?;
    for authority in &state.authorities {
        match parts.ledger.record(authority_record(parts, authority, state, number)?).await {
            Ok(()) | Err(LedgerError::Duplicate(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    parts.ledger.replica_serves(&parts.replica, number, state.bundle_number, now).await?;
    Ok(generation)
}

/// An authority's own certificate as it goes on record: the inventory shows everything that the CA ever signed.
fn authority_record(
    parts: &KeeperParts,
    authority: &Authority,
    state: &AuthorityState,
    generation: GenerationNumber,
) -> Result<CertificateRecord, KeeperError> {
    let unreadable = || KeeperError::Signer(authority.id.clone(), SignerError::Malformed);
    let certificates = certificates_from_pem(&authority.certificate).map_err(GenerationError::Certificate)?;
    let der = certificates.first().ok_or_else(unreadable)?;
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(der).map_err(|_| unreadable())?;
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, der).as_ref());
    Ok(CertificateRecord {
        issuer: issuer_of(authority)?,
        serial: certificate.raw_serial().to_vec(),
        sha256,
        der: der.to_vec(),
        kind: if authority.id == authority.root { Kind::Root } else { Kind::Intermediate },
        spiffe_id: None,
        cluster: None,
        namespace: None,
        service_account: None,
        pod: None,
        node: None,
        holder: None,
        generation,
        bundle_number: state.bundle_number,
        profile_digest: parts.policy.profile.digest(),
        credential: CredentialKind::Internal,
        issued_at: authority.since,
        not_before: certificate.validity().not_before.to_datetime(),
        not_after: certificate.validity().not_after.to_datetime(),
        replica: parts.replica.clone(),
        replica_sequence: 0,
    })
}

/// Who signed an authority: one of ours, the first of the chain that came with it, or its root.
fn issuer_of(authority: &Authority) -> Result<AuthorityId, KeeperError> {
    if let Some(parent) = &authority.parent {
        return Ok(parent.clone());
    }
    let above = authority.upstream_chain.first().map(|pem| certificates_from_pem(pem)).transpose().map_err(GenerationError::Certificate)?;
    Ok(above.as_deref().and_then(<[_]>::first).map_or_else(|| authority.root.clone(), |der| AuthorityId::of_certificate(der)))
}
