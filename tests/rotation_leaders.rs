//! Two keepers over one state that both believe to lead, as a frozen leader does when it wakes up: they waste work and corrupt nothing. The Secrets
//! are those of a real API server; the clock is the test's.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/in_cluster.rs"]
mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::clock::ManualClock;
use common::issuer::SeededEntropy;
use common::shared;
use meshmint::authority::{AuthorityPolicy, AuthorityState, GenerationNumber, MadeBy, Role};
use meshmint::clock::{Clock as _, SystemClock};
use meshmint::cluster::{Access, ApiServer as Api};
use meshmint::ledger::Ledger;
use meshmint::ledger::sqlite::SqliteLedger;
use meshmint::pki::{IssuerKey, KeyAlgorithm, Profile};
use meshmint::rotation::{Duty, Founding, Keeper, KeeperError, KeeperParts};
use meshmint::stores::secrets::SecretsStore;
use meshmint::stores::{StateStore, StoreError};
use time::OffsetDateTime;
use tokio::sync::watch;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What the keepers share.
struct World {
    store: SecretsStore,
    ledger: Arc<dyn Ledger>,
    clock: ManualClock,
    folder: tempfile::TempDir,
}

impl World {
    async fn of(namespace: &str) -> Self {
        let shared = shared().await;
        let admin = shared.admin().await;
        admin.apply_rules_in(namespace, "deploy/kubernetes/state.yaml").await;
        for verb in ["get", "create", "patch"] {
            admin.until_may("meshmint", namespace, verb, ("", "secrets", "meshmint-state"), true).await;
        }
        let api = Api::connect(&Access::Kubeconfig(shared.kubeconfig(shared.server.port())), SystemClock::shared()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        Self {
            store: SecretsStore::new(api, namespace.to_owned(), "meshmint".to_owned()),
            ledger: ledger(folder.path(), "ledger"),
            clock: ManualClock::at(OffsetDateTime::now_utc()),
            folder,
        }
    }

    fn parts(&self, replica: &str, leading: watch::Receiver<bool>, duty: Duty) -> KeeperParts {
        let profile = Profile { default_lifetime: DAY, max_lifetime: DAY, backdate: Duration::from_secs(120), jitter: 0.1 };
        KeeperParts {
            store: Arc::new(self.store.clone()),
            ledger: self.ledger.clone(),
            policy: AuthorityPolicy {
                trust_domain: "mesh.example".parse().unwrap(),
                key_algorithm: KeyAlgorithm::P256,
                root_lifetime: DAY * 3650,
                issuing_lifetime: DAY * 6,
                longest_leaf: DAY,
                profile,
            },
            upstream: None,
            longest_request: Duration::from_secs(10),
            leading,
            duty,
            replica: replica.to_owned(),
            clock: Arc::new(self.clock.clone()),
            entropy: SeededEntropy::new(replica.bytes().map(u64::from).sum()),
        }
    }

    async fn keeper(&self, replica: &str, leading: bool) -> (Keeper, watch::Sender<bool>) {
        let (sender, receiver) = watch::channel(leading);
        let founding = Founding { made_by: MadeBy::Serve, import: None };
        (Keeper::start(self.parts(replica, receiver, Duty::Keep), founding).await.unwrap(), sender)
    }

    async fn state(&self) -> AuthorityState {
        self.store.load().await.unwrap().unwrap().0
    }
}

fn ledger(folder: &Path, name: &str) -> Arc<dyn Ledger> {
    Arc::new(SqliteLedger::open(&folder.join(name), SeededEntropy::new(name.len() as u64).as_ref()).unwrap())
}

fn number(keeper: &Keeper) -> GenerationNumber {
    keeper.published().load().number
}

fn counted(state: &AuthorityState, what: &str) -> usize {
    state.history.iter().filter(|entry| entry.what == what).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_leaders_at_once_corrupt_nothing() {
    let world = World::of("two-leaders").await;
    let ((one, _one), (other, _other)) = (world.keeper("one", true).await, world.keeper("other", true).await);
    assert_eq!(number(&one), number(&other));
    let mut conflicts = 0;
    for _ in 0..60 {
        world.clock.advance(6 * HOUR);
        let (first, second) = tokio::join!(one.tick(), other.tick());
        for result in [first, second] {
            // Twice in a row somebody else was faster: the loop tries again.
            match result {
                Ok(_) => {}
                Err(KeeperError::Store(StoreError::Conflict)) => conflicts += 1,
                Err(error) => panic!("{error}"),
            }
        }
        let state = world.state().await;
        for authority in &state.authorities {
            if let Some(key) = &authority.key {
                world.store.key(key).await.expect("every key that is named is there");
            }
        }
    }
    world.clock.advance(HOUR);
    for keeper in [&one, &other] {
        keeper.tick().await.unwrap();
    }
    let state = world.state().await;
    let (_, latest) = state.issuing().unwrap();
    assert!(latest.0 > 3, "{latest}");
    assert_eq!((number(&one), number(&other)), (latest, latest));
    for generation in 1..=latest.0 {
        assert_eq!(counted(&state, &format!("generation {generation} signs")), 1, "{:#?}", state.history);
        assert_eq!(counted(&state, &format!("generation {generation} is closed")), usize::from(generation < latest.0));
    }
    assert_eq!(state.trust.len(), 1);
    println!("{latest} generations, {conflicts} conflicts");

    // What the losers of renewals left is swept, by a leader that has seen it for minutes; nothing else is.
    let named: BTreeSet<_> = state.authorities.iter().filter_map(|authority| authority.key.clone()).collect();
    world.store.put_key("issuing-9-lost", &IssuerKey::generate(KeyAlgorithm::P256).unwrap()).await.unwrap();
    let lost = || async { world.store.keys().await.unwrap().iter().any(|key| key.0 == "secret:issuing-9-lost") };
    world.clock.advance(Duration::from_secs(61));
    one.tick().await.unwrap();
    world.clock.advance(Duration::from_secs(290));
    one.tick().await.unwrap();
    assert!(lost().await, "somebody may be about to name it");
    world.clock.advance(Duration::from_secs(70));
    one.tick().await.unwrap();
    assert!(!lost().await);
    assert_eq!(world.store.keys().await.unwrap().into_iter().collect::<BTreeSet<_>>(), named);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_outdates_whoever_was_about_to_name_the_key() {
    let world = World::of("swept").await;
    let (leader, _leading) = world.keeper("leader", true).await;
    leader.tick().await.unwrap();
    // Another leader, frozen between writing a key and the document that names it.
    let (before, version) = world.store.load().await.unwrap().unwrap();
    let key = world.store.put_key("issuing-9-frozen", &IssuerKey::generate(KeyAlgorithm::P256).unwrap()).await.unwrap();
    for _ in 0..7 {
        world.clock.advance(Duration::from_secs(61));
        leader.tick().await.unwrap();
    }
    assert!(matches!(world.store.key(&key).await, Err(StoreError::KeyMissing(_))), "it was swept");
    assert!(matches!(world.store.swap(Some(&version), &before).await, Err(StoreError::Conflict)), "so nobody can name it any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_follows_and_does_only_what_the_leader_is_late_with() {
    let world = World::of("followers").await;
    let (leader, _leading) = world.keeper("leader", true).await;
    let (follower, leads) = world.keeper("follower", false).await;
    // An issuer can't found anything, and starts with what is there.
    let (_never, receiver) = watch::channel(false);
    let founding = Founding { made_by: MadeBy::Serve, import: None };
    let issuer = Keeper::start(world.parts("issuer", receiver, Duty::Follow), founding).await.unwrap();
    let version = || async { world.store.version().await.unwrap().unwrap() };

    // Nothing is due.
    let before = version().await;
    follower.tick().await.unwrap();
    issuer.tick().await.unwrap();
    assert_eq!(version().await, before);

    // The issuing key is due: only the leader makes one, and the others take it.
    world.clock.advance(DAY * 4 + HOUR);
    for keeper in [&issuer, &follower] {
        keeper.tick().await.unwrap();
        assert_eq!(number(keeper), GenerationNumber(1));
    }
    let after = world.state().await;
    assert_eq!(counted(&after, "generation 2 signs"), 0);
    // Certificates would get shorter, though: that, a follower does not let happen. An issuer changes nothing.
    let reserved = follower.published().load().limit;
    assert!(reserved > OffsetDateTime::now_utc() + DAY * 5, "{reserved}");
    issuer.tick().await.unwrap();
    assert_eq!(issuer.published().load().limit, reserved);
    leader.tick().await.unwrap();
    assert_eq!(number(&leader), GenerationNumber(2));
    for keeper in [&issuer, &follower] {
        keeper.tick().await.unwrap();
        assert_eq!(number(keeper), GenerationNumber(2));
    }

    // The one before it is closed when everybody had the time to take the new one: a request's, and ten seconds to hear of it.
    world.clock.advance(Duration::from_secs(19));
    leader.tick().await.unwrap();
    follower.tick().await.unwrap();
    assert_eq!(counted(&world.state().await, "generation 1 is closed"), 0);
    world.clock.advance(Duration::from_secs(2));
    issuer.tick().await.unwrap();
    follower.tick().await.unwrap();
    assert_eq!(counted(&world.state().await, "generation 1 is closed"), 0, "not a follower's to do");
    leads.send(true).unwrap();
    follower.tick().await.unwrap();
    let state = world.state().await;
    assert_eq!(counted(&state, "generation 1 is closed"), 1, "it leads now");
    assert!(state.authorities.iter().all(|authority| authority.role != Role::Issuing(GenerationNumber(1)) || authority.key.is_none()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_together_is_refused() {
    let mut world = World::of("misfits").await;
    let (leader, _leading) = world.keeper("leader", true).await;
    let old = world.store.load().await.unwrap().unwrap().0;
    world.clock.advance(DAY * 4 + HOUR);
    leader.tick().await.unwrap();
    let (follower, _follows) = world.keeper("follower", false).await;
    assert_eq!((number(&leader), number(&follower)), (GenerationNumber(2), GenerationNumber(2)));
    let published = leader.published().load().authority.clone();

    // Somebody puts an older copy of the document back while replicas run.
    let version = world.store.version().await.unwrap().unwrap();
    let current = world.state().await;
    world.store.swap(Some(&version), &old).await.unwrap();
    // Nor does a leader make the second generation anew: there is one of that number.
    for keeper in [&follower, &leader] {
        let error = keeper.tick().await;
        assert!(matches!(error, Err(KeeperError::WentBack(GenerationNumber(2), _))), "{error:?}");
    }
    assert_eq!(world.state().await, old, "nothing was written");
    for keeper in [&leader, &follower] {
        assert_eq!(keeper.published().load().authority, published, "nothing older is ever published");
    }
    let version = world.store.version().await.unwrap();
    world.store.swap(version.as_ref(), &current).await.unwrap();
    for keeper in [&leader, &follower] {
        keeper.tick().await.unwrap();
    }

    // Where the state names another ledger, what is recorded in ours counts for nobody: nothing is signed until it names ours again.
    let mut moved = current.clone();
    moved.ledger.as_mut().unwrap().id = "another".to_owned();
    let (_, version) = world.store.load().await.unwrap().unwrap();
    world.store.swap(Some(&version), &moved).await.unwrap();
    for keeper in [&leader, &follower] {
        assert!(keeper.published().load().limit > world.clock.now());
        assert!(matches!(keeper.tick().await, Err(KeeperError::OtherLedger { .. })));
        assert!(keeper.published().load().limit < world.clock.now());
    }
    let (_, version) = world.store.load().await.unwrap().unwrap();
    world.store.swap(Some(&version), &current).await.unwrap();
    for keeper in [&leader, &follower] {
        keeper.tick().await.unwrap();
        assert!(keeper.published().load().limit > world.clock.now());
    }

    // A replica with a ledger of its own would have a fence of its own.
    world.ledger = ledger(world.folder.path(), "another-ledger");
    let (_never, receiver) = watch::channel(false);
    let clock = world.clock.clone();
    let waiting = tokio::spawn(async move {
        loop {
            clock.advance(Duration::from_secs(1));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let refused = Keeper::start(world.parts("stranger", receiver, Duty::Keep), Founding { made_by: MadeBy::Serve, import: None }).await;
    waiting.abort();
    assert!(matches!(&refused, Err(KeeperError::OtherLedger { .. })), "{refused:?}");
    assert_eq!(world.state().await.ledger, current.ledger, "the state still names the first one");
}
