//! A root joins the bundle, or an istiod gets an intermediate, while somebody else changes the state: nothing of either is lost. The store is the real one; only the moment at which
//! another replica writes is chosen here.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use meshmint::authority::{AuthorityPolicy, AuthorityState, GenerationNumber, Joining, KeyRef, MadeBy, foreign_root};
use meshmint::clock::{SystemClock, SystemEntropy};
use meshmint::ledger::sqlite::SqliteLedger;
use meshmint::ledger::{CertificateFilter, HolderId, Ledger, LedgerError};
use meshmint::pki::{IssuerKey, KeyAlgorithm, Profile, certificate_to_pem};
use meshmint::rotation::{Duty, Founding, IntermediateOrder, Keeper, KeeperError, KeeperParts, TrustOrder, TrustRefusal};
use meshmint::stores::file::FileStore;
use meshmint::stores::{StateStore, StoreError, Version};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use time::OffsetDateTime;

/// A store into which another replica writes right before we do, as often as it has roots to add.
#[derive(Debug)]
struct Raced {
    store: FileStore,
    others: Mutex<Vec<String>>,
    swaps: AtomicU32,
}

#[async_trait]
impl StateStore for Raced {
    async fn load(&self) -> Result<Option<(AuthorityState, Version)>, StoreError> {
        self.store.load().await
    }

    async fn swap(&self, expected: Option<&Version>, state: &AuthorityState) -> Result<Version, StoreError> {
        self.swaps.fetch_add(1, Ordering::SeqCst);
        let other = self.others.lock().unwrap().pop();
        if let Some(pem) = other {
            let (current, version) = self.store.load().await?.unwrap();
            let now = OffsetDateTime::now_utc();
            let Joining::New(root) = foreign_root(&current, &pem, now).unwrap() else { panic!("it is new") };
            self.store.swap(Some(&version), &current.with_foreign_root(&root, now)).await?;
        }
        self.store.swap(expected, state).await
    }

    async fn put_key(&self, name: &str, key: &IssuerKey) -> Result<KeyRef, StoreError> {
        self.store.put_key(name, key).await
    }

    async fn key(&self, reference: &KeyRef) -> Result<IssuerKey, StoreError> {
        self.store.key(reference).await
    }

    async fn keys(&self) -> Result<Vec<KeyRef>, StoreError> {
        self.store.keys().await
    }

    async fn destroy_key(&self, reference: &KeyRef) -> Result<(), StoreError> {
        self.store.destroy_key(reference).await
    }
}

fn root(name: &str) -> String {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    certificate_to_pem(parameters.self_signed(&KeyPair::generate().unwrap()).unwrap().der())
}

fn order(name: &str) -> TrustOrder {
    TrustOrder { pem: root(name), actor: "local".to_owned(), reason: "a move".to_owned() }
}

async fn world(folder: &Path) -> (Keeper, Arc<Raced>, Arc<dyn Ledger>) {
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    let (clock, entropy) = (SystemClock::shared(), SystemEntropy::shared());
    let store = Arc::new(Raced { store: FileStore::open(&folder.join("state")).unwrap(), others: Mutex::default(), swaps: AtomicU32::new(0) });
    let ledger: Arc<dyn Ledger> = Arc::new(SqliteLedger::open(&folder.join("ledger.db"), entropy.as_ref()).unwrap());
    let parts = KeeperParts {
        store: store.clone(),
        ledger: ledger.clone(),
        policy: AuthorityPolicy {
            trust_domain: "cluster.local".parse().unwrap(),
            key_algorithm: KeyAlgorithm::P256,
            root_lifetime: hours(365 * 24),
            issuing_lifetime: hours(30 * 24),
            longest_leaf: hours(24),
            profile: Profile { default_lifetime: hours(24), max_lifetime: hours(24), backdate: Duration::from_secs(120), jitter: 0.1 },
        },
        upstream: None,
        longest_request: Duration::from_secs(10),
        leading: tokio::sync::watch::channel(true).1,
        duty: Duty::Keep,
        replica: "replica-1".to_owned(),
        clock,
        entropy,
    };
    (Keeper::start(parts, Founding { made_by: MadeBy::Serve, import: None }).await.unwrap(), store, ledger)
}

#[tokio::test]
async fn whoever_was_faster_keeps_his_root_and_we_get_ours() {
    let folder = tempfile::tempdir().unwrap();
    let (keeper, store, ledger) = world(folder.path()).await;
    store.others.lock().unwrap().extend(["first", "second", "third"].map(root));
    store.swaps.store(0, Ordering::SeqCst);
    let ours = order("ours");
    let trusted = keeper.add_trust(&ours).await.unwrap();
    assert_eq!((trusted.added, trusted.bundle_number, trusted.published), (true, 5, true));
    assert_eq!(store.swaps.load(Ordering::SeqCst), 4, "three were faster");
    let (state, _) = store.load().await.unwrap().unwrap();
    assert_eq!(state.trust.len(), 5, "ours at first, three of others, and this one");
    let published = keeper.published().load_full();
    assert_eq!((published.bundle.to_string(), published.bundle_number), (state.bundle_pem(), 5));
    assert!(published.bundle.ends_with(&ours.pem));
    assert_eq!(keeper.state().trust, state.trust);
    assert_eq!(ledger.audits(None, 10).await.unwrap().entries.len(), 1, "one order, one entry");

    // What another replica has stored meanwhile is published by asking again.
    let other = root("fifth");
    store.others.lock().unwrap().push(other.clone());
    keeper.add_trust(&order("sixth")).await.unwrap();
    let again = keeper.add_trust(&TrustOrder { pem: other.clone(), ..ours }).await.unwrap();
    assert_eq!((again.added, again.published), (false, true));
    assert!(keeper.published().load().bundle.contains(&other));
}

#[tokio::test]
async fn somebody_who_is_always_faster_wins_and_the_audit_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (keeper, store, ledger) = world(folder.path()).await;
    store.others.lock().unwrap().extend((0..10).map(|number| root(&format!("other {number}"))));
    let refusal = keeper.add_trust(&order("ours")).await.unwrap_err();
    assert!(matches!(refusal, TrustRefusal::Store(StoreError::Conflict)), "{refusal}");
    let entries = ledger.audits(None, 10).await.unwrap().entries;
    let actions: Vec<_> = entries.iter().map(|(_, entry)| entry.action.as_str()).collect();
    assert_eq!(actions, ["authority.trust.add.failed", "authority.trust.add"]);
    // The loop goes on from what is stored, and a later try is well.
    store.others.lock().unwrap().clear();
    keeper.tick().await.unwrap();
    assert!(keeper.add_trust(&order("ours")).await.unwrap().added);
}

#[tokio::test]
async fn what_can_not_be_trusted_leaves_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    let (keeper, store, ledger) = world(folder.path()).await;
    let (before, _) = store.load().await.unwrap().unwrap();
    let refusal = keeper.add_trust(&TrustOrder { pem: "rubbish".to_owned(), ..order("x") }).await.unwrap_err();
    assert!(matches!(refusal, TrustRefusal::Root(_)), "{refusal}");
    assert_eq!(store.load().await.unwrap().unwrap().0, before);
    assert_eq!(ledger.audits(None, 10).await.unwrap().entries, []);
}

#[tokio::test]
async fn an_intermediate_is_reserved_for_before_it_is_signed_and_on_record_before_anybody_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let (keeper, store, ledger) = world(folder.path()).await;
    let key = IssuerKey::generate(KeyAlgorithm::P256).unwrap().public_key().unwrap();
    let days = |days: u64| Duration::from_secs(days * 24 * 3600);
    let order = |lifetime| IntermediateOrder { cluster: "east", namespace: "istio-system", key: &key, lifetime };
    let mark = async || {
        let (state, _) = store.load().await.unwrap().unwrap();
        state.reserved_not_after[&state.trust[0].id]
    };
    let now = OffsetDateTime::now_utc();
    store.others.lock().unwrap().extend(["first", "second"].map(root));
    let given = keeper.give_intermediate(&order(days(180))).await.unwrap();
    assert!(given.validity.not_after > now + days(179) && mark().await >= given.validity.not_after);
    let (state, _) = store.load().await.unwrap().unwrap();
    assert_eq!(state.trust.len(), 3, "what others wrote meanwhile is there");
    assert_eq!(given.above, [state.authorities[0].certificate.clone()]);
    let holder = HolderId::istiod("east", "istio-system");
    assert_eq!(hex::encode(ledger.holder(&holder).await.unwrap().unwrap().serial), given.serial);

    // What stands above it bounds it.
    let root_ends = keeper.published().load().root_not_after;
    let longest = keeper.give_intermediate(&order(days(3650))).await.unwrap();
    assert_eq!(longest.validity.not_after, root_ends);
    // Where the generation is closed nothing is recorded, so nobody gets it; the mark stays, and is only too careful.
    let (before, count) = (mark().await, ledger.list(&CertificateFilter::default(), None, 100, now).await.unwrap().certificates.len());
    ledger.close_generation(GenerationNumber(1), now).await.unwrap();
    let refused = keeper.give_intermediate(&order(days(90))).await.unwrap_err();
    assert!(matches!(refused, KeeperError::Ledger(LedgerError::Fenced(GenerationNumber(1)))), "{refused}");
    assert_eq!(mark().await, before, "a mark never goes back");
    assert_eq!(ledger.list(&CertificateFilter::default(), None, 100, now).await.unwrap().certificates.len(), count);
}
