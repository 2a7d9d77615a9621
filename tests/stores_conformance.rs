//! One suite for every store of the authority state: the folder, and Secrets of a real API server with exactly the rules of
//! deploy/kubernetes/state.yaml. Below it what only Secrets have: who else writes them, who may, and an API server that is away.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/in_cluster.rs"]
mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::api_server::{ApiServer, Settings};
use common::cluster::{Client, objects};
use common::{Shared, shared};
use meshmint::authority::{AuthorityId, AuthorityState, HistoryEntry, KeyRef, MadeBy, Rotation, TrustEntry};
use meshmint::clock::SystemClock;
use meshmint::cluster::{Access, ApiServer as Api};
use meshmint::pki::{IssuerKey, KeyAlgorithm};
use meshmint::stores::file::FileStore;
use meshmint::stores::secrets::SecretsStore;
use meshmint::stores::{StateStore, StoreError};
use serde_json::{Value, json};
use time::OffsetDateTime;

const RULES: &str = "deploy/kubernetes/state.yaml";

fn state(bundle_number: u64) -> AuthorityState {
    AuthorityState {
        format: AuthorityState::FORMAT,
        trust_domain: "cluster.local".parse().unwrap(),
        made_by: MadeBy::Serve,
        authorities: Vec::new(),
        trust: vec![TrustEntry { id: AuthorityId::of_certificate(b"root"), certificate: "PEM\n".to_owned(), foreign: false }],
        bundle_number,
        rotation: Rotation::Steady,
        history: Vec::new(),
        ledger: None,
        reserved_not_after: BTreeMap::new(),
    }
}

fn key() -> IssuerKey {
    IssuerKey::generate(KeyAlgorithm::P256).unwrap()
}

type Store = Arc<dyn StateStore>;

// --- the suite ------------------------------------------------------------------------------------------------------------

async fn keeps_document_and_keys(store: Store) {
    assert!(store.load().await.unwrap().is_none() && store.version().await.unwrap().is_none() && store.keys().await.unwrap().is_empty());
    let (root, issuing) = (key(), key());
    let references = [store.put_key("root-1", &root).await.unwrap(), store.put_key("issuing-1-a", &issuing).await.unwrap()];
    let first = store.swap(None, &state(1)).await.unwrap();
    let second = store.swap(Some(&first), &state(2)).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(store.version().await.unwrap(), Some(second.clone()));
    assert_eq!(store.load().await.unwrap(), Some((state(2), second)));
    for (reference, key) in references.iter().zip([root, issuing]) {
        assert_eq!(store.key(reference).await.unwrap().public_key_info(), key.public_key_info());
    }
    let mut keys = store.keys().await.unwrap();
    keys.sort_by(|one, other| other.0.cmp(&one.0));
    assert_eq!(keys, references);
}

async fn a_swap_over_another_version_is_a_conflict(store: Store) {
    let first = store.swap(None, &state(1)).await.unwrap();
    assert!(matches!(store.swap(None, &state(2)).await, Err(StoreError::Conflict)));
    let second = store.swap(Some(&first), &state(2)).await.unwrap();
    assert!(matches!(store.swap(Some(&first), &state(3)).await, Err(StoreError::Conflict)));
    assert_eq!(store.load().await.unwrap(), Some((state(2), second)));
}

async fn of_many_writers_at_once_one_wins(store: Store) {
    let mut base = None;
    for round in [0, 100] {
        let tasks: Vec<_> = (round + 1..round + 17)
            .map(|number| {
                let (store, base) = (store.clone(), base.clone());
                tokio::spawn(async move { store.swap(base.as_ref(), &state(number)).await.map(|version| (number, version)) })
            })
            .collect();
        let mut winners = Vec::new();
        for task in tasks {
            match task.await.unwrap() {
                Ok(winner) => winners.push(winner),
                Err(error) => assert!(matches!(error, StoreError::Conflict), "{error}"),
            }
        }
        let [(number, version)] = winners.as_slice() else { panic!("{winners:?}") };
        assert_eq!(store.load().await.unwrap(), Some((state(*number), version.clone())));
        base = Some(version.clone());
    }
}

async fn a_key_is_never_overwritten_and_can_be_destroyed(store: Store) {
    for name in ["issuing-7-aa", "root-aa"] {
        let first = key();
        let reference = store.put_key(name, &first).await.unwrap();
        let again = store.put_key(name, &key()).await;
        assert!(matches!(&again, Err(StoreError::KeyUnusable { name, .. }) if *name == reference.0), "{again:?}");
        assert_eq!(store.key(&reference).await.unwrap().public_key_info(), first.public_key_info());
        store.destroy_key(&reference).await.unwrap();
        assert!(matches!(store.key(&reference).await, Err(StoreError::KeyMissing(name)) if name == reference.0));
        store.destroy_key(&reference).await.unwrap();
        assert!(store.keys().await.unwrap().is_empty());
    }
}

async fn keys_that_are_written_at_once_are_all_there(store: Store) {
    let names: Vec<_> = (0..6).map(|number| format!("issuing-{number}-x")).collect();
    let tasks: Vec<_> = names
        .iter()
        .map(|name| {
            let (store, name) = (store.clone(), name.clone());
            tokio::spawn(async move { store.put_key(&name, &key()).await.unwrap() })
        })
        .collect();
    let mut written = Vec::new();
    for task in tasks {
        written.push(task.await.unwrap());
    }
    let mut found = store.keys().await.unwrap();
    found.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(found, written);
}

async fn names_cannot_leave_the_store(store: Store) {
    let scheme = store.put_key("x", &key()).await.unwrap().0.split_once(':').unwrap().0.to_owned();
    for name in ["", "../outside", "a/b", "A", "a.b", "a\0", "ä", "k\n", &"x".repeat(129)] {
        let reference = KeyRef(format!("{scheme}:{name}"));
        assert!(matches!(store.put_key(name, &key()).await, Err(StoreError::KeyUnusable { .. })), "{name:?}");
        assert!(matches!(store.key(&reference).await, Err(StoreError::KeyUnusable { .. })), "{name:?}");
        assert!(matches!(store.destroy_key(&reference).await, Err(StoreError::KeyUnusable { .. })), "{name:?}");
    }
    for reference in ["x", "pkcs11:x", ""] {
        let refused = store.key(&KeyRef(reference.to_owned())).await.unwrap_err().to_string();
        assert!(refused.contains(&format!("{scheme}:NAME")), "{refused}");
    }
}

macro_rules! for_each_store {
    ($($test:ident),* $(,)?) => {
        mod in_a_folder {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let folder = tempfile::tempdir().unwrap();
                    super::$test(super::Arc::new(super::FileStore::open(folder.path()).unwrap())).await;
                }
            )*
        }
        mod in_secrets {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(super::Arc::new(super::secrets().await.store)).await;
                }
            )*
        }
    };
}

for_each_store!(
    keeps_document_and_keys,
    a_swap_over_another_version_is_a_conflict,
    of_many_writers_at_once_one_wins,
    a_key_is_never_overwritten_and_can_be_destroyed,
    keys_that_are_written_at_once_are_all_there,
    names_cannot_leave_the_store,
);

// --- Secrets only ---------------------------------------------------------------------------------------------------------

/// A namespace of its own, where meshmint's account may do what deploy/kubernetes/state.yaml says.
struct Secrets {
    store: SecretsStore,
    admin: Client,
    namespace: String,
}

async fn secrets() -> Secrets {
    secrets_of(shared().await).await
}

async fn secrets_of(shared: &Shared) -> Secrets {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let namespace = format!("state-{}", NEXT.fetch_add(1, Ordering::SeqCst));
    let admin = shared.admin().await;
    admin.apply_rules_in(&namespace, RULES).await;
    for (group, resource, name) in [("", "secrets", "meshmint-issuing"), ("coordination.k8s.io", "leases", "meshmint-leader")] {
        for verb in ["patch", "create"] {
            admin.until_may("meshmint", &namespace, verb, (group, resource, name), true).await;
        }
    }
    let access = Access::Kubeconfig(shared.kubeconfig(shared.server.port()));
    let api = Api::connect(&access, SystemClock::shared()).await.unwrap();
    Secrets { store: SecretsStore::new(api, namespace.clone(), "meshmint".to_owned()), admin, namespace }
}

impl Secrets {
    fn path(&self, name: &str) -> String {
        format!("/api/v1/namespaces/{}/secrets/{name}", self.namespace)
    }

    async fn patch(&self, name: &str, patch: Value) {
        self.admin.ask("PATCH", &self.path(name), "application/merge-patch+json", &patch).await.unwrap();
    }

    async fn entries(&self, name: &str) -> Vec<String> {
        let data = self.admin.get(&self.path(name)).await["data"].clone();
        data.as_object().map(|data| data.keys().cloned().collect()).unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn root_keys_lie_apart_and_others_entries_stay() {
    let secrets = secrets().await;
    let store = &secrets.store;
    store.put_key("issuing-1-aa", &key()).await.unwrap();
    store.put_key("root-bb", &key()).await.unwrap();
    // A name of which nobody knows what it is for is among the roots.
    store.put_key("imported-cc", &key()).await.unwrap();
    store.swap(None, &state(1)).await.unwrap();
    assert_eq!(secrets.entries("meshmint-issuing").await, ["issuing-1-aa"]);
    assert_eq!(secrets.entries("meshmint-root").await, ["imported-cc", "root-bb"]);
    assert_eq!(secrets.entries("meshmint-state").await, ["authority.json"]);

    secrets.patch("meshmint-state", json!({"metadata": {"labels": {"of": "others"}, "annotations": {"helm.sh/resource-policy": "keep"}}})).await;
    secrets.patch("meshmint-root", json!({"data": {"README.md": STANDARD.encode("not ours"), "issuing-2-lost": STANDARD.encode("not here")}})).await;
    let (_, version) = store.load().await.unwrap().unwrap();
    store.swap(Some(&version), &state(2)).await.unwrap();
    let kept = secrets.admin.get(&secrets.path("meshmint-state")).await["metadata"].clone();
    assert_eq!((&kept["labels"]["of"], &kept["annotations"]["helm.sh/resource-policy"]), (&json!("others"), &json!("keep")));
    let keys = store.keys().await.unwrap();
    assert_eq!(keys.len(), 3, "what isn't a key of ours, or not in its place, is nobody's to sweep: {keys:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_named_never_quoted_and_never_an_empty_state() {
    let secrets = secrets().await;
    let store = &secrets.store;
    let first = store.swap(None, &state(1)).await.unwrap();
    secrets.patch("meshmint-state", json!({"data": {"authority.json": STANDARD.encode("{")}})).await;
    assert!(matches!(store.swap(Some(&first), &state(2)).await, Err(StoreError::Conflict)), "an edit by hand is a conflict");
    assert!(matches!(store.load().await, Err(StoreError::State(_))));
    secrets.patch("meshmint-state", json!({"data": {"authority.json": null}})).await;
    let empty = store.load().await.unwrap_err();
    assert!(
        matches!(&empty, StoreError::Refused { place, .. } if place.ends_with("/meshmint-state")) && empty.to_string().contains("backup"),
        "{empty}"
    );
    assert!(matches!(store.swap(None, &state(1)).await, Err(StoreError::Conflict)), "no second root over it");
    secrets.admin.delete(&secrets.path("meshmint-state"), 0).await;
    assert!(store.load().await.unwrap().is_none());
    assert!(matches!(store.swap(Some(&first), &state(2)).await, Err(StoreError::Conflict)), "and none under one that somebody deleted");

    let reference = store.put_key("issuing-1-aa", &key()).await.unwrap();
    for content in [&b"secret-bytes"[..], b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0LWJ5dGVz\n-----END PRIVATE KEY-----\n", b"\xff\xfesecret-bytes"] {
        secrets.patch("meshmint-issuing", json!({"data": {"issuing-1-aa": STANDARD.encode(content)}})).await;
        let error = store.key(&reference).await.unwrap_err();
        let words = format!("{error} {error:?}");
        assert!(matches!(error, StoreError::KeyUnusable { .. }) && words.contains("secret:issuing-1-aa"), "{words}");
        assert!(!words.contains("secret-bytes") && !words.contains("c2VjcmV0") && !words.contains(&STANDARD.encode(content)), "{words}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_that_does_not_fit_is_refused() {
    let secrets = secrets().await;
    let with = |bytes: usize| {
        let history = vec![HistoryEntry { at: OffsetDateTime::UNIX_EPOCH, what: "x".repeat(bytes) }];
        AuthorityState { history, ..state(1) }
    };
    let rest = with(0).to_json().unwrap().len();
    let first = secrets.store.swap(None, &with((1 << 20) - rest)).await.unwrap();
    let error = secrets.store.swap(Some(&first), &with((1 << 20) + 1 - rest)).await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { bytes, most, .. } if bytes == most + 1), "{error}");
    assert_eq!(secrets.store.load().await.unwrap().unwrap().0, with((1 << 20) - rest), "the largest is read again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_rule_is_needed_and_named_where_it_is_missing() {
    let secrets = secrets().await;
    let store = &secrets.store;
    let version = store.swap(None, &state(1)).await.unwrap();
    let reference = store.put_key("issuing-1-aa", &key()).await.unwrap();
    let all = objects(RULES)[0]["rules"].clone();
    let without = |verb: &str| {
        let mut rules = all.clone();
        for rule in rules.as_array_mut().unwrap() {
            if rule["resources"] == json!(["secrets"]) {
                rule["verbs"].as_array_mut().unwrap().retain(|each| each != verb);
            }
        }
        json!(rules.as_array().unwrap().iter().filter(|rule| !rule["verbs"].as_array().unwrap().is_empty()).collect::<Vec<_>>())
    };
    let refused = |error: StoreError, secret: &str, verb: &str| {
        let words = error.to_string();
        let named = words.contains(&format!("Secret {}/{secret} can't be used", secrets.namespace)) && words.contains(&format!("cannot {verb}"));
        assert!(matches!(error, StoreError::Refused { .. }) && named, "{words}");
    };
    let may = |rules: Value, verb: &'static str, name: &'static str, allowed: bool| {
        let secrets = &secrets;
        async move {
            secrets.admin.set_role(&secrets.namespace, RULES, "meshmint-state", &rules).await;
            secrets.admin.until_may("meshmint", &secrets.namespace, verb, ("", "secrets", name), allowed).await;
        }
    };
    may(without("get"), "get", "meshmint-state", false).await;
    refused(store.load().await.unwrap_err(), "meshmint-state", "get");
    refused(store.version().await.unwrap_err(), "meshmint-state", "get");
    refused(store.key(&reference).await.unwrap_err(), "meshmint-issuing", "get");
    refused(store.keys().await.unwrap_err(), "meshmint-issuing", "get");
    may(without("patch"), "patch", "meshmint-state", false).await;
    refused(store.swap(Some(&version), &state(2)).await.unwrap_err(), "meshmint-state", "patch");
    refused(store.destroy_key(&reference).await.unwrap_err(), "meshmint-issuing", "patch");
    may(without("create"), "create", "meshmint-root", false).await;
    refused(store.put_key("root-aa", &key()).await.unwrap_err(), "meshmint-root", "create");
    may(all.clone(), "create", "meshmint-root", true).await;
    store.put_key("root-aa", &key()).await.unwrap();
    store.swap(Some(&version), &state(2)).await.unwrap();

    // Nothing but these is let in.
    let other = SecretsStore::new(
        Api::connect(&Access::Kubeconfig(shared().await.kubeconfig(shared().await.server.port())), SystemClock::shared()).await.unwrap(),
        secrets.namespace.clone(),
        "another".to_owned(),
    );
    refused(other.load().await.unwrap_err(), "another-state", "get");
    refused(other.swap(None, &state(1)).await.unwrap_err(), "another-state", "patch");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_is_away_is_said_to_be_so_in_time() {
    let mut shared = Shared::over(ApiServer::start().await).await;
    let secrets = secrets_of(&shared).await;
    let store = &secrets.store;
    let first = store.swap(None, &state(1)).await.unwrap();
    let away = async || {
        for error in [
            store.load().await.unwrap_err(),
            store.version().await.unwrap_err(),
            store.swap(Some(&first), &state(2)).await.unwrap_err(),
            store.put_key("issuing-1-aa", &key()).await.unwrap_err(),
        ] {
            assert!(matches!(error, StoreError::Away { .. }), "{error}");
        }
    };
    shared.server.freeze();
    let began = Instant::now();
    away().await;
    assert!(began.elapsed() < Duration::from_secs(15), "each is bounded: {:?}", began.elapsed());
    shared.server.thaw();
    // What was asked of the frozen one may have been done after all, so the version is anybody's guess: it is read again.
    let (_, version) = store.load().await.unwrap().unwrap();
    shared.server.kill();
    away().await;
    shared.server.start_again(&Settings::default()).await;
    let now = store.load().await.unwrap().unwrap();
    store.swap(Some(&now.1), &state(3)).await.unwrap();
    assert!(matches!(store.swap(Some(&version), &state(4)).await, Err(StoreError::Conflict)));
}
