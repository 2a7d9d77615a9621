//! `cluster::key_sets` against a real https server and real files, on a clock that stands still.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[allow(dead_code, reason = "no clock is put back here")]
#[path = "common/clock.rs"]
mod clock;
#[path = "common/key_server.rs"]
mod key_server;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meshmint::callers::{KeySet, TokenError};
use meshmint::cluster::{FetchError, KeySets, KeySource, KeyTrouble, Timing, TrackedIssuer};
use serde_json::json;

use crate::clock::ManualClock;
use crate::key_server::{FETCH_TIMEOUT, KeyServer};

const ISSUER: &str = "https://issuer.example";
const SECOND: Duration = Duration::from_secs(1);
const TIMING: Timing = Timing {
    refresh_interval: Duration::from_secs(300),
    refetch_interval: Duration::from_secs(10),
    max_age: Duration::from_secs(3600),
    fetch_timeout: FETCH_TIMEOUT,
};

fn jwks(kids: &[&str]) -> String {
    let half = URL_SAFE_NO_PAD.encode([1; 32]);
    let keys: Vec<_> = kids.iter().map(|kid| json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": half, "y": half})).collect();
    json!({ "keys": keys }).to_string()
}

struct World {
    clock: ManualClock,
    server: KeyServer,
    dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let (server, dir) = (KeyServer::start().await, tempfile::tempdir().unwrap());
        std::fs::write(dir.path().join("root.pem"), &server.root).unwrap();
        Self { clock: ManualClock::at(time::OffsetDateTime::now_utc()), server, dir }
    }

    fn ca_file(&self) -> Option<PathBuf> {
        Some(self.dir.path().join("root.pem"))
    }

    fn sets(&self, issuer: &str, source: KeySource) -> Arc<KeySets> {
        KeySets::new(Arc::new(self.clock.clone()), None, [TrackedIssuer { issuer: issuer.to_owned(), source, timing: TIMING }])
    }

    fn by_url(&self) -> Arc<KeySets> {
        self.sets(ISSUER, KeySource::Url { url: format!("{}/jwks", self.server.url), ca_file: self.ca_file() })
    }

    /// The error of one fetch.
    async fn failure(&self, issuer: &str, source: KeySource) -> FetchError {
        let sets = self.sets(issuer, source);
        sets.refresh().await;
        let status = sets.status().remove(0);
        assert_eq!((status.failures, status.keys, status.last_success), (1, 0, None));
        assert_eq!(sets.key(issuer, "a").await.err(), Some(KeyTrouble::NotLoaded));
        status.last_error.unwrap()
    }
}

#[tokio::test]
async fn the_first_token_loads_the_keys_and_the_rest_read_them() {
    let world = World::new().await;
    world.server.put("/jwks", 200, jwks(&["a", "b"]));
    let sets = world.by_url();
    assert_eq!(sets.status()[0].last_success, None);
    for kid in ["a", "b", "a"] {
        assert!(sets.key(ISSUER, kid).await.is_ok());
    }
    assert_eq!(sets.key("https://issuer.example/", "a").await.err(), Some(KeyTrouble::UnknownIssuer));
    assert_eq!(world.server.asked(), 1);
    let status = sets.status().remove(0);
    assert_eq!((status.keys, status.skipped, status.failures, status.last_error), (2, 0, 0, None));
}

#[tokio::test]
async fn an_unknown_kid_fetches_once_an_interval_however_many_ask() {
    let world = World::new().await;
    world.server.put("/jwks", 200, jwks(&["old"]));
    let sets = world.by_url();
    sets.refresh().await;
    let release = world.server.hold("/jwks", jwks(&["old", "new"]));
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let sets = Arc::clone(&sets);
            tokio::spawn(async move { sets.key(ISSUER, "new").await.is_ok() })
        })
        .collect();
    world.server.was_asked(2).await;
    assert!(sets.key(ISSUER, "old").await.is_ok(), "known keys don't wait for the fetch");
    release.send(true).unwrap();
    for each in waiting {
        assert!(each.await.unwrap());
    }
    assert_eq!(world.server.asked(), 2);
    for number in 0..50 {
        assert_eq!(sets.key(ISSUER, &format!("made-up-{number}")).await.err(), Some(KeyTrouble::UnknownKey));
    }
    assert_eq!(world.server.asked(), 2);
    world.clock.advance(TIMING.refetch_interval - SECOND);
    assert_eq!(sets.key(ISSUER, "made-up").await.err(), Some(KeyTrouble::UnknownKey));
    assert_eq!(world.server.asked(), 2);
    world.clock.advance(SECOND);
    assert_eq!(sets.key(ISSUER, "made-up").await.err(), Some(KeyTrouble::UnknownKey));
    assert_eq!(world.server.asked(), 3);
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_stop_the_fetch() {
    let world = World::new().await;
    let release = world.server.hold("/jwks", jwks(&["a"]));
    let sets = world.by_url();
    let gone = tokio::spawn({
        let sets = Arc::clone(&sets);
        async move { sets.key(ISSUER, "a").await.is_ok() }
    });
    world.server.was_asked(1).await;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    let next = tokio::spawn({
        let sets = Arc::clone(&sets);
        async move { sets.key(ISSUER, "a").await.is_ok() }
    });
    release.send(true).unwrap();
    assert!(next.await.unwrap());
    assert_eq!(world.server.asked(), 1);
}

#[tokio::test]
async fn a_failed_fetch_keeps_the_last_good_keys_for_their_age_and_nothing_weaker() {
    let world = World::new().await;
    world.server.put("/jwks", 200, jwks(&["a"]));
    let sets = world.by_url();
    sets.refresh().await;
    for (status, body) in [(500, jwks(&["b"])), (200, "{}".to_owned()), (200, r#"{"keys":[1]}"#.to_owned()), (200, jwks(&[]))] {
        world.server.put("/jwks", status, body);
        sets.refresh().await;
        assert!(sets.key(ISSUER, "a").await.is_ok());
        assert_eq!(sets.key(ISSUER, "b").await.err(), Some(KeyTrouble::RefetchFailed));
    }
    assert_eq!(sets.status()[0].keys, 1);
    world.clock.advance(TIMING.max_age);
    assert!(sets.key(ISSUER, "a").await.is_ok());
    world.clock.advance(SECOND);
    assert_eq!(sets.key(ISSUER, "a").await.err(), Some(KeyTrouble::Stale));
    world.server.put("/jwks", 200, jwks(&["a"]));
    world.clock.advance(TIMING.refetch_interval);
    assert!(sets.key(ISSUER, "a").await.is_ok());
    assert_eq!(sets.status()[0].last_error, None);
}

#[tokio::test]
async fn the_loop_refreshes_files_at_the_interval_and_soon_after_a_failure() {
    let world = World::new().await;
    let file = world.dir.path().join("jwks.json");
    let sets = world.sets(ISSUER, KeySource::File(file.clone()));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(Arc::clone(&sets).run(async move { stopped.await.unwrap() }));
    // No file yet: tried again after the short interval.
    world.clock.asleep_until(TIMING.refetch_interval).await;
    assert!(matches!(sets.status()[0].last_error, Some(FetchError::File { .. })));
    std::fs::write(&file, jwks(&["a"])).unwrap();
    world.clock.advance(TIMING.refetch_interval);
    let mut next = TIMING.refetch_interval + TIMING.refresh_interval;
    world.clock.asleep_until(next).await;
    assert!(sets.key(ISSUER, "a").await.is_ok());
    // The key is replaced: without anybody asking for the new one, the old one goes.
    std::fs::write(&file, jwks(&["b"])).unwrap();
    world.clock.advance(TIMING.refresh_interval);
    next += TIMING.refresh_interval;
    world.clock.asleep_until(next).await;
    assert_eq!(sets.key(ISSUER, "a").await.err(), Some(KeyTrouble::UnknownKey));
    assert!(sets.key(ISSUER, "b").await.is_ok());
    stop.send(()).unwrap();
    running.await.unwrap();
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let world = World::new().await;
    world.server.silence("/jwks");
    let sets = world.by_url();
    let asking = tokio::spawn({
        let sets = Arc::clone(&sets);
        async move { sets.key(ISSUER, "a").await.err() }
    });
    world.server.was_asked(1).await;
    world.clock.asleep_until(FETCH_TIMEOUT).await;
    world.clock.advance(FETCH_TIMEOUT);
    assert_eq!(asking.await.unwrap(), Some(KeyTrouble::NotLoaded));
    assert_eq!(sets.status()[0].last_error, Some(FetchError::TimedOut(FETCH_TIMEOUT)));
}

#[tokio::test]
async fn discovery_follows_the_issuer_s_own_document_only() {
    let world = World::new().await;
    let issuer = world.server.url.clone();
    let discovery = || KeySource::Discovery { ca_file: world.ca_file() };
    let document = |issuer: &str, jwks_uri: &str| json!({"issuer": issuer, "jwks_uri": jwks_uri}).to_string();
    const PATH: &str = "/.well-known/openid-configuration";
    world.server.put("/jwks", 200, jwks(&["a"]));

    world.server.put(PATH, 200, document(&issuer, &format!("{issuer}/jwks")));
    assert!(world.sets(&issuer, discovery()).key(&issuer, "a").await.is_ok());

    let url = format!("{issuer}{PATH}");
    world.server.put(PATH, 200, document(&format!("{issuer}/"), &format!("{issuer}/jwks")));
    assert_eq!(world.failure(&issuer, discovery()).await, FetchError::OtherIssuer(url.clone()));
    for bad in ["[]", "{}", r#"{"issuer":1,"jwks_uri":"x"}"#] {
        world.server.put(PATH, 200, bad);
        assert_eq!(world.failure(&issuer, discovery()).await, FetchError::Discovery(url.clone()), "{bad}");
    }
    for uri in ["http://localhost/jwks", "jwks", "https://user@localhost/jwks", "file:///etc/passwd"] {
        world.server.put(PATH, 200, document(&issuer, uri));
        assert_eq!(world.failure(&issuer, discovery()).await, FetchError::NotHttps(uri.to_owned()), "{uri}");
    }
}

#[tokio::test]
async fn every_other_answer_is_a_failure_that_says_what_happened() {
    let world = World::new().await;
    let url = format!("{}/keys", world.server.url);
    let source = || KeySource::Url { url: url.clone(), ca_file: world.ca_file() };
    world.server.put("/jwks", 200, jwks(&["a"]));
    for status in [201, 204, 301, 302, 307, 401, 404, 503] {
        world.server.put("/keys", status, if status == 204 { String::new() } else { jwks(&["a"]) });
        assert_eq!(world.failure(ISSUER, source()).await, FetchError::Status { url: url.clone(), status });
    }
    world.server.put("/keys", 200, vec![b' '; KeySet::MAX_BYTES + 1]);
    assert_eq!(world.failure(ISSUER, source()).await, FetchError::Body(url.clone()));
    world.server.put("/keys", 200, "no");
    assert!(matches!(world.failure(ISSUER, source()).await, FetchError::KeySet(_)));

    let path = world.dir.path().join("file");
    let by_file = || KeySource::File(path.clone());
    assert!(matches!(world.failure(ISSUER, by_file()).await, FetchError::File { .. }));
    std::fs::write(&path, vec![b' '; KeySet::MAX_BYTES + 1]).unwrap();
    assert!(matches!(world.failure(ISSUER, by_file()).await, FetchError::Body(_)));

    let roots = |ca_file: PathBuf| KeySource::Url { url: url.clone(), ca_file: Some(ca_file) };
    assert!(matches!(world.failure(ISSUER, roots(world.dir.path().join("absent"))).await, FetchError::File { .. }));
    std::fs::write(&path, "").unwrap();
    assert!(matches!(world.failure(ISSUER, roots(path.clone())).await, FetchError::Roots(_)));
    std::fs::write(&path, &KeyServer::start().await.root).unwrap();
    assert!(matches!(world.failure(ISSUER, roots(path.clone())).await, FetchError::NoAnswer { .. }), "another root must not do");
}

#[tokio::test]
async fn the_server_s_certificate_is_judged_by_our_clock() {
    let world = World::new().await;
    world.server.put("/jwks", 200, jwks(&["a"]));
    world.clock.advance(Duration::from_secs(4000 * 365 * 86400));
    let source = KeySource::Url { url: format!("{}/jwks", world.server.url), ca_file: world.ca_file() };
    assert!(matches!(world.failure(ISSUER, source).await, FetchError::NoAnswer { .. }));
}

#[test]
fn troubles_keep_bad_tokens_apart_from_our_own() {
    use KeyTrouble::{NotLoaded, RefetchFailed, Stale, UnknownIssuer, UnknownKey};
    assert_eq!(TokenError::from(UnknownIssuer), TokenError::WrongIssuer);
    assert_eq!(TokenError::from(UnknownKey), TokenError::UnknownKid);
    for trouble in [RefetchFailed, NotLoaded, Stale] {
        assert_eq!(TokenError::from(trouble), TokenError::KeysUnavailable);
    }
}

#[tokio::test]
async fn shutdown_ends_a_loop_whose_fetch_hangs() {
    let world = World::new().await;
    world.server.silence("/jwks");
    let sets = world.by_url();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(Arc::clone(&sets).run(async move { stopped.await.unwrap() }));
    world.server.was_asked(1).await;
    stop.send(()).unwrap();
    running.await.unwrap();
}
