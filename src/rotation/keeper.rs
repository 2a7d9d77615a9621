//! [`Keeper`]: founds the authority of a trust domain, then keeps it able to sign, unattended.

mod given;
mod trust;

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use time::OffsetDateTime;
use tokio::sync::{Mutex, Notify, watch};

pub use self::given::{GivenIntermediate, IntermediateOrder};
pub use self::trust::{TrustOrder, TrustRefusal, Trusted};
use super::Successor;
use super::advance::{FOLLOW_PAUSE, advance, facts};
use super::founding::{self, Founding};
use super::missing::{self, Missing};
use super::parts::{Duty, KeeperError, KeeperParts};
use super::publish::publishable;
use super::sweep::Sweep;
use crate::authority::rotation::chain_end;
use crate::authority::{AuthorityState, Generation, GenerationNumber, Outlook};
use crate::clock::readable;
use crate::ledger::Figures;
use crate::stores::{StoreError, Version};

/// The longest pause between two looks at what is due: the wall clock may jump.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The pause between two warnings that the chain ends.
const WARN_PAUSE: Duration = Duration::from_secs(3600);
/// The pause between two looks at whether the ledger lost records.
const LOOK_PAUSE: Duration = Duration::from_secs(2);
/// Replicas find the same loss one after the other, each at its next write or probe.
const SAME_LOSS: Duration = Duration::from_secs(10);
/// The shortest pause where requests want a look.
const LEAST_PAUSE: Duration = Duration::from_millis(100);
/// The pause between two looks at whether the store still has everything.
const MISSING_PAUSE: Duration = Duration::from_secs(30);
/// The pause after a failure.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Held {
    /// The state as it is in the store.
    stored: (AuthorityState, Version),
    /// The state that the published generation was made from; `None` where that generation was ended.
    published: Option<AuthorityState>,
    sweep: Sweep,
}

/// Keeps the authority of one trust domain.
#[derive(Debug)]
pub struct Keeper {
    parts: KeeperParts,
    held: Mutex<Held>,
    published: Arc<ArcSwap<Generation>>,
    outlook: ArcSwap<Outlook>,
    /// The document as this replica knows it.
    state: ArcSwap<AuthorityState>,
    /// When the store said last how the document is (monotonic).
    heard: std::sync::Mutex<Duration>,
    /// Ends a pause: a request met a generation that is closed, or something is due now.
    wanted: Arc<Notify>,
    changes: watch::Sender<GenerationNumber>,
    failures: AtomicU64,
    /// What the store lacks, as it was at the last look, and when that was (monotonic).
    missing: std::sync::Mutex<(Arc<[Missing]>, Option<Duration>)>,
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
        let mut held = founding::state(&parts, &founding).await?;
        founding::until_it_signs(&parts, &mut held).await?;
        let generation = publishable(&parts, &held.0).await?;
        let (changes, _) = watch::channel(generation.number);
        let outlook = outlook(&parts, &held.0);
        let heard = parts.clock.monotonic();
        let state = ArcSwap::from_pointee(held.0.clone());
        let held = Held { published: Some(held.0.clone()), stored: held, sweep: Sweep::default() };
        Ok(Self {
            parts,
            published: Arc::new(ArcSwap::from_pointee(generation)),
            outlook: ArcSwap::from_pointee(outlook),
            state,
            held: Mutex::new(held),
            heard: std::sync::Mutex::new(heard),
            wanted: Arc::new(Notify::new()),
            changes,
            failures: AtomicU64::new(0),
            missing: std::sync::Mutex::new((Arc::default(), None)),
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

    /// Wakes whenever another generation signs.
    pub fn changes(&self) -> watch::Receiver<GenerationNumber> {
        self.changes.subscribe()
    }

    /// For requests that meet a closed generation.
    pub fn successor(&self) -> Successor {
        Successor { shared: self.parts.store.is_shared(), wanted: self.wanted.clone(), changes: self.changes.subscribe() }
    }

    /// The document as this replica knows it.
    pub fn state(&self) -> Arc<AuthorityState> {
        self.state.load_full()
    }

    /// How long ago the store said how the document is; `None` where nobody else could have changed it.
    pub fn state_age(&self) -> Option<Duration> {
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        self.parts.store.is_shared().then(|| self.parts.clock.monotonic().saturating_sub(heard))
    }

    /// How often something that was due failed.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// What the store lacks of the state that goes on here, as it was at the last look.
    pub fn missing(&self) -> Arc<[Missing]> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Does what is due until `shutdown` ends. A failure never stops it: the generation in use goes on, and it tries again.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let before = self.parts.ledger.figures();
            let outcome = self.tick().await;
            let failed = outcome.is_err();
            let pause = match outcome {
                Ok(next) => {
                    Duration::try_from(next - self.parts.clock.now()).unwrap_or(Duration::ZERO).clamp(Duration::from_millis(20), LONGEST_PAUSE)
                }
                Err(error) => {
                    self.failures.fetch_add(1, Ordering::Relaxed);
                    let without = if error.is_of_the_fence() { "nothing is signed until then" } else { "the one in use goes on" };
                    tracing::error!(%error, "the authority could not be kept up to date; {without}, trying again");
                    RETRY_PAUSE
                }
            };
            let pause = if self.parts.store.is_shared() { pause.min(FOLLOW_PAUSE) } else { pause };
            let least = if failed { RETRY_PAUSE } else { LEAST_PAUSE };
            let mut leading = self.parts.leading.clone();
            leading.mark_unchanged();
            tokio::select! {
                () = self.rest(pause, &before) => {}
                // Where nothing is shared it is always the same, and nobody says so.
                Ok(()) = leading.changed() => {}
                () = self.wanted(least) => {}
                () = &mut shutdown => return,
            }
        }
    }

    /// Ends when somebody wants a look before its time, but not before `least`: each request that meets a closed generation may want one.
    async fn wanted(&self, least: Duration) {
        let clock = &self.parts.clock;
        clock.sleep_until(clock.monotonic() + least).await;
        self.wanted.notified().await;
    }

    /// Ends after `pause`, or when more of the ledger's records were lost than `before`, or were said to be. What was known before isn't news: a look
    /// that failed has its pause.
    async fn rest(&self, pause: Duration, before: &Figures) {
        let clock = &self.parts.clock;
        let end = clock.monotonic() + pause;
        loop {
            let (now, figures) = (clock.monotonic(), self.parts.ledger.figures());
            if now >= end || figures.lost > before.lost || figures.lost_at > before.lost_at {
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
        self.look_for_missing().await;
        let mut held = self.held.lock().await;
        if self.parts.store.is_shared() {
            self.follow(&mut held.stored).await?;
            // Before anything is done to it: what is closed in another ledger isn't closed.
            self.fits_or_ends(&mut held)?;
        }
        let (lost, told_at) = (self.parts.ledger.figures().lost, self.told_of_loss(&held.stored.0));
        if lost > self.lost.load(Ordering::Relaxed) || told_at.is_some() {
            // The state is another one then, so it is published anew below: what was opened and recorded last may be lost too.
            founding::note_loss(&self.parts, &mut held.stored, told_at).await?;
            self.lost.store(lost, Ordering::Relaxed);
        }
        let next = match advance(&self.parts, &mut held.stored).await {
            Err(KeeperError::Store(StoreError::Conflict)) => {
                held.stored = self.parts.store.load().await?.ok_or(StoreError::Conflict)?;
                self.fits_or_ends(&mut held)?;
                advance(&self.parts, &mut held.stored).await?
            }
            other => other?,
        };
        self.warn_of_the_end(&held.stored.0, next);
        self.publish(&mut held).await?;
        let Held { stored, sweep, .. } = &mut *held;
        match self.parts.store.is_shared() && self.parts.leads() {
            true => sweep.look(&self.parts, stored).await?,
            false => sweep.rest(),
        }
        Ok(next)
    }
}

impl Keeper {
    /// When another replica said that it found records lost, where that is for us to note and isn't in the state.
    fn told_of_loss(&self, state: &AuthorityState) -> Option<OffsetDateTime> {
        let noted = state.ledger.as_ref().and_then(|mark| mark.incomplete_before);
        let told_at = self.parts.ledger.figures().lost_at.filter(|_| self.parts.duty == Duty::Keep);
        told_at.filter(|at| noted.is_none_or(|noted| noted + SAME_LOSS < *at))
    }

    /// Sees whether the store still has everything, now and then. Where it can't say, what was seen last stands.
    async fn look_for_missing(&self) {
        let now = self.parts.clock.monotonic();
        let (before, looked) = self.missing.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if looked.is_some_and(|at| now.saturating_sub(at) < MISSING_PAUSE) {
            return;
        }
        let found: Arc<[Missing]> = match missing::look(&self.parts, &self.state()).await {
            Ok(found) => found.into(),
            Err(error) => {
                tracing::debug!(%error, "whether the store has everything can't be seen");
                before.clone()
            }
        };
        for Missing { reason, .. } in found.iter().filter(|each| !before.contains(each)) {
            tracing::error!(%reason, "the store lacks a part of the state: restore it before any restart; until then what is known here goes on");
        }
        if found.is_empty() && !before.is_empty() {
            tracing::info!("the store has every part of the state again");
        }
        *self.missing.lock().unwrap_or_else(PoisonError::into_inner) = (found, Some(now));
    }

    /// Takes what the other replicas wrote. While the store is away, what is known goes on.
    async fn follow(&self, stored: &mut (AuthorityState, Version)) -> Result<(), KeeperError> {
        let store = &self.parts.store;
        let read = async {
            match store.version().await? {
                Some(version) if version == stored.1 => Ok(None),
                _ => store.load().await?.map(Some).ok_or(StoreError::Conflict),
            }
        };
        match read.await {
            Ok(changed) => {
                if let Some(changed) = changed {
                    *stored = changed;
                }
                *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = self.parts.clock.monotonic();
                Ok(())
            }
            Err(error @ StoreError::Away { .. }) => {
                tracing::debug!(%error, "the state can't be read again; what is known goes on");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a document can follow what is published, and names our ledger.
    fn fits(&self, state: &AuthorityState) -> Result<(), KeeperError> {
        // First: an older copy of the state may come with a new ledger.
        self.parts.names_ours(state)?;
        let before = self.published.load();
        let number = state.issuing().map_or(GenerationNumber(0), |(_, number)| number);
        if number < before.number || state.bundle_number < before.bundle_number {
            return Err(KeeperError::WentBack(before.number, before.bundle_number));
        }
        Ok(())
    }

    /// The same of what is held. Where the fence is another one now, nothing is signed any more.
    fn fits_or_ends(&self, held: &mut Held) -> Result<(), KeeperError> {
        let fits = self.fits(&held.stored.0);
        if fits.as_ref().is_err_and(KeeperError::is_of_the_fence) {
            self.end(held);
        }
        fits
    }

    /// Publishes the state that is in the store, where another one was published.
    async fn publish(&self, held: &mut Held) -> Result<(), KeeperError> {
        let state = &held.stored.0;
        self.outlook.store(Arc::new(outlook(&self.parts, state)));
        if *state != **self.state.load() {
            self.state.store(Arc::new(state.clone()));
        }
        if held.published.as_ref() == Some(state) {
            return Ok(());
        }
        self.fits(state)?;
        let number = state.issuing().map_or(GenerationNumber(0), |(_, number)| number);
        let generation = publishable(&self.parts, state).await?;
        tracing::info!(
            generation = number.0,
            authority = %generation.authority,
            bundle_number = generation.bundle_number,
            limit = readable(generation.limit),
            "publishing"
        );
        self.published.store(Arc::new(generation));
        held.published = Some(held.stored.0.clone());
        self.changes.send_if_modified(|latest| std::mem::replace(latest, number) != number);
        Ok(())
    }

    /// Lets the published generation sign nothing more: another ledger has the fence now, and what is recorded in ours counts for nobody.
    fn end(&self, held: &mut Held) {
        if held.published.take().is_some() {
            let last = Generation::clone(&self.published.load());
            self.published.store(Arc::new(Generation { limit: OffsetDateTime::UNIX_EPOCH, ..last }));
        }
    }

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

fn outlook(parts: &KeeperParts, state: &AuthorityState) -> Outlook {
    Outlook::of_state(state, facts(parts), &parts.policy, parts.clock.now())
}
