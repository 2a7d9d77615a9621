//! [`Keeper`]: founds the authority of a trust domain, then keeps it able to sign, unattended.

mod trust;

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rcgen::CertificateParams;
use time::OffsetDateTime;
use tokio::sync::{Mutex, Notify, watch};
use x509_parser::prelude::FromDer;

pub use self::trust::{TrustOrder, TrustRefusal, Trusted};
use super::IssuingRequest;
use super::founding::{self, Founding};
use super::parts::{KeeperError, KeeperParts};
use crate::authority::rotation::{Facts, Step, chain_end, step};
use crate::authority::{
    Authority, AuthorityId, AuthorityState, Generation, GenerationError, GenerationNumber, Outlook, Role, certify_issuing, issuing_name,
};
use crate::clock::{random_id, readable};
use crate::ledger::{CertificateRecord, CredentialKind, Kind, LedgerError};
use crate::pki::{CheckedKey, IssuerKey, Signer, SignerError, certificates_from_pem};
use crate::stores::{StoreError, Version};

/// The longest pause between two looks at what is due: the wall clock may jump.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The pause between two warnings that the chain ends.
const WARN_PAUSE: Duration = Duration::from_secs(3600);
/// The pause between two looks at whether the ledger lost records.
const LOOK_PAUSE: Duration = Duration::from_secs(2);
/// The pause after a failure.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

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
    outlook: ArcSwap<Outlook>,
    /// The state as it was in the store at the last look.
    seen: ArcSwap<AuthorityState>,
    /// Ends a pause: something is due now.
    wake: Notify,
    changes: watch::Sender<GenerationNumber>,
    failures: AtomicU64,
    /// How many records the ledger had lost when that was written into the state.
    lost: AtomicU64,
    /// When the end of the chain was warned of last.
    warned: std::sync::Mutex<Option<Duration>>,
}

impl Keeper {
    /// Reads the state, or founds one, and brings it to where it can sign.
    ///
    /// # Errors
    /// [`KeeperError`]; a second try is safe.
    pub async fn start(parts: KeeperParts, founding: Founding) -> Result<Self, KeeperError> {
        let mut held = founding::state(&parts, founding).await?;
        advance(&parts, &mut held).await?;
        let generation = publishable(&parts, &held.0).await?;
        let (changes, _) = watch::channel(generation.number);
        let outlook = outlook(&parts, &held.0);
        let seen = ArcSwap::from_pointee(held.0.clone());
        let held = Held { published: held.0.clone(), stored: held };
        Ok(Self {
            parts,
            held: Mutex::new(held),
            published: Arc::new(ArcSwap::from_pointee(generation)),
            outlook: ArcSwap::from_pointee(outlook),
            seen,
            wake: Notify::new(),
            changes,
            failures: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            warned: std::sync::Mutex::default(),
        })
    }

    /// The generation that signs now.
    pub fn published(&self) -> Arc<ArcSwap<Generation>> {
        self.published.clone()
    }

    /// What lies ahead of the state, as it was at the last look.
    pub fn outlook(&self) -> Arc<Outlook> {
        self.outlook.load_full()
    }

    /// The state, as it was in the store at the last look. It holds no key.
    pub fn state(&self) -> Arc<AuthorityState> {
        self.seen.load_full()
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
            let lost = self.parts.ledger.figures().lost;
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
                () = self.rest(pause, lost) => {}
                () = self.wake.notified() => {}
                () = &mut shutdown => return,
            }
        }
    }

    /// Ends after `pause`, or when the ledger has lost more records than `lost`.
    async fn rest(&self, pause: Duration, lost: u64) {
        let clock = &self.parts.clock;
        let end = clock.monotonic() + pause;
        loop {
            let now = clock.monotonic();
            if now >= end || self.parts.ledger.figures().lost > lost {
                return;
            }
            clock.sleep_until(end.min(now + LOOK_PAUSE)).await;
        }
    }

    /// Does everything that is due now; returns when to look again.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub async fn tick(&self) -> Result<OffsetDateTime, KeeperError> {
        let mut held = self.held.lock().await;
        let lost = self.parts.ledger.figures().lost;
        if lost > self.lost.load(Ordering::Relaxed) {
            // The state is another one then, so it is published anew below: what was opened and recorded last may be lost too.
            founding::note_loss(&self.parts, &mut held.stored).await?;
            self.lost.store(lost, Ordering::Relaxed);
        }
        let next = match advance(&self.parts, &mut held.stored).await {
            Err(KeeperError::Store(StoreError::Conflict)) => {
                held.stored = self.parts.store.load().await?.ok_or(StoreError::Conflict)?;
                advance(&self.parts, &mut held.stored).await?
            }
            other => other?,
        };
        self.warn_of_the_end(&held.stored.0, next);
        self.publish(&mut held).await?;
        Ok(next)
    }

    /// Publishes the state that is in the store, where another one was published.
    async fn publish(&self, held: &mut Held) -> Result<(), KeeperError> {
        self.outlook.store(Arc::new(outlook(&self.parts, &held.stored.0)));
        if held.stored.0 != held.published {
            self.seen.store(Arc::new(held.stored.0.clone()));
            let generation = publishable(&self.parts, &held.stored.0).await?;
            let number = generation.number;
            tracing::info!(
                generation = number.0,
                authority = %generation.authority,
                bundle_number = generation.bundle_number,
                limit = readable(generation.limit),
                "publishing"
            );
            self.published.store(Arc::new(generation));
            held.published = held.stored.0.clone();
            self.changes.send_if_modified(|latest| std::mem::replace(latest, number) != number);
        }
        Ok(())
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

fn facts(parts: &KeeperParts) -> Facts {
    Facts { upstream: parts.upstream.is_some(), longest_request: parts.longest_request }
}

fn outlook(parts: &KeeperParts, state: &AuthorityState) -> Outlook {
    Outlook::of_state(state, facts(parts), &parts.policy, parts.clock.now())
}

/// Steps until nothing is due; returns when to look again.
async fn advance(parts: &KeeperParts, held: &mut (AuthorityState, Version)) -> Result<OffsetDateTime, KeeperError> {
    let facts = facts(parts);
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
        LedgerError::ForeignCursor | LedgerError::Unavailable(_) => error.into(),
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
        key_algorithm: CheckedKey::from_subject_public_key_info(certificate.public_key()).ok().map(|key| key.algorithm()),
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
