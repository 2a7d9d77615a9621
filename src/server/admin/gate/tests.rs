//! The gate over a directory and a clock that only the tests move.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use http::header::AUTHORIZATION;
use time::OffsetDateTime;
use tokio::sync::watch;
use tonic::Code;

use super::super::super::door::Connection;
use super::super::super::operations::Who;
use super::*;
use crate::bounds::{Crowd, CrowdLimits, Shares};
use crate::clock::Sleep;

const BUNDLE: &str = "/meshmint.admin.v1.Admin/GetBundle";
const ADD: &str = "/meshmint.admin.v1.Admin/AddTrust";
const HOME: [u8; 4] = [10, 0, 0, 1];

/// Stands still until it is moved.
#[derive(Debug)]
struct HandClock(watch::Sender<Duration>);

impl Clock for HandClock {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH
    }

    fn monotonic(&self) -> Duration {
        *self.0.borrow()
    }

    fn sleep_until(&self, at: Duration) -> Sleep {
        let mut time = self.0.subscribe();
        Box::pin(async move {
            let _ = time.wait_for(|now| *now >= at).await;
        })
    }
}

/// Knows by its token who somebody is: `good.…` may everything, `viewer.…` may see, `pod.…` may nothing, and whatever is remembered was looked at.
#[derive(Debug, Default)]
struct Book {
    looks: AtomicUsize,
    remembered: Mutex<BTreeSet<(String, &'static str)>>,
    away: Mutex<bool>,
}

impl Book {
    fn forget(&self) {
        self.remembered.lock().unwrap().clear();
    }
}

fn somebody(token: &str) -> Operator {
    Operator::kubernetes(crate::cluster::ClusterUser::named(token))
}

#[async_trait]
impl Directory for Book {
    async fn who(&self, token: &str) -> Result<Option<Operator>, NobodyKnows> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        if *self.away.lock().unwrap() {
            return Err(NobodyKnows);
        }
        Ok(["good.", "viewer.", "pod."].iter().any(|known| token.starts_with(known)).then(|| somebody(token)))
    }

    async fn may(&self, operator: &Operator, operation: Operation) -> Result<bool, NobodyKnows> {
        let Who::Kubernetes(user) = &operator.who else { return Ok(false) };
        let may = user.name.starts_with("good.") || (user.name.starts_with("viewer.") && operation != Operation::AddTrust);
        if may {
            self.remembered.lock().unwrap().insert((user.name.clone(), operation.name()));
        }
        Ok(may)
    }

    fn remembers(&self, token: &str, operation: Operation) -> Option<Operator> {
        self.remembered.lock().unwrap().contains(&(token.to_owned(), operation.name())).then(|| somebody(token))
    }
}

struct World {
    gate: Arc<Gate>,
    book: Arc<Book>,
    clock: Arc<HandClock>,
    metrics: Arc<Metrics>,
    crowd: Arc<Crowd>,
    shares: Shares,
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(HandClock(watch::Sender::new(Duration::from_secs(100))));
        let (book, metrics) = (Arc::new(Book::default()), Arc::new(Metrics::new().unwrap()));
        let crowd = Crowd::new(CrowdLimits { places: 1_000, strangers: 1_000, bytes: 1_000, grace: Duration::ZERO }, clock.clone());
        let gate = Gate::new(book.clone(), metrics.clone(), clock.clone());
        Self { gate, book, clock, metrics, crowd, shares: Shares::default() }
    }

    /// A new connection.
    fn peer(&self, address: [u8; 4]) -> Peer {
        let address = IpAddr::from(address);
        let share = self.shares.of_address(address);
        Peer::stranger(address, Connection::new(self.crowd.enter(share).unwrap(), share), self.shares.clone())
    }

    async fn ask(&self, peer: &Peer, path: &'static str, token: &str) -> Code {
        ask(self.gate.clone(), peer.clone(), path, token.to_owned()).await
    }

    /// Somebody who waits for his answer.
    fn asking(&self, peer: &Peer, token: &str) -> tokio::task::JoinHandle<Code> {
        tokio::spawn(ask(self.gate.clone(), peer.clone(), BUNDLE, token.to_owned()))
    }

    fn later(&self, by: Duration) {
        self.clock.0.send_modify(|now| *now += by);
    }

    fn looks(&self) -> usize {
        self.book.looks.load(Ordering::SeqCst)
    }

    /// Until all who can go on have gone on: there is one thread, and the clock stands.
    async fn settle(&self) {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
}

async fn ask(gate: Arc<Gate>, peer: Peer, path: &'static str, token: String) -> Code {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
    gate.admit(path, &headers, &peer).await.map_or_else(|status| status.code(), |_| Code::Ok)
}

/// Whether the connection was told to go.
fn is_dismissed(peer: &Peer) -> bool {
    peer.is_dismissed()
}

#[test]
fn a_token_has_three_parts() {
    let read = |value: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().unwrap());
        token(&headers).ok().map(str::to_owned)
    };
    assert_eq!(read("Bearer a.b-_.c").as_deref(), Some("a.b-_.c"));
    assert_eq!(read("bearer a.b.c").as_deref(), Some("a.b.c"));
    let long = format!("Bearer a.b.{}", "c".repeat(MAX_TOKEN_BYTES));
    for bad in ["Bearer a.b", "Bearer a.b.c.d", "Bearer a..c", "Bearer  a.b.c", "Basic a.b.c", "Bearer", "Bearer a.b.c=", &long] {
        assert_eq!(read(bad), None, "{bad:?}");
    }
    assert!(token(&HeaderMap::new()).is_err());
}

#[test]
fn what_is_no_rpc_is_no_operation() {
    assert_eq!(operation(ADD).unwrap(), Operation::AddTrust);
    for path in [
        "/meshmint.admin.v1.Admin/Nonsense",
        "/meshmint.admin.v1.Admin/",
        "/AddTrust",
        "/meshmint.admin.v1.Admin/AddTrust/",
        "/grpc.health.v1.Health/Check",
        "",
    ] {
        assert_eq!(operation(path).unwrap_err().code(), Code::Unimplemented, "{path}");
    }
}

#[test]
fn a_denial_names_what_is_needed() {
    let status = denied(Operation::AddTrust);
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(status.message(), "it needs a ClusterRole with verb create on resource trustedroots of API group meshmint.io");
}

#[tokio::test]
async fn what_is_refused_costs_its_own_connection_and_no_other() {
    let world = World::new();
    for (path, token, code) in [
        (BUNDLE, "a.b.c", Code::Unauthenticated),
        (BUNDLE, "no-token", Code::Unauthenticated),
        (BUNDLE, "pod.b.c", Code::PermissionDenied),
        ("/meshmint.admin.v1.Admin/Nonsense", "good.b.c", Code::Unimplemented),
    ] {
        let (peer, neighbour) = (world.peer(HOME), world.peer(HOME));
        for number in 0..3 {
            assert_eq!(world.ask(&peer, path, token).await, code, "{number}: {path} {token}");
            assert!(!is_dismissed(&peer));
            world.later(LOOK_TIME);
            world.settle().await;
        }
        let looks = world.looks();
        assert_eq!(world.ask(&peer, path, token).await, Code::ResourceExhausted, "{path} {token}");
        assert!(is_dismissed(&peer) && world.looks() == looks, "it is told to go, and nobody is asked");
        assert_eq!(world.ask(&neighbour, BUNDLE, "viewer.b.c").await, Code::Ok);
        // A minute later none of it counts.
        world.book.forget();
        world.later(Duration::from_secs(60));
        assert_eq!(world.ask(&peer, path, token).await, code, "{path} {token}");
        world.later(LOOK_TIME);
        world.settle().await;
    }
}

#[tokio::test]
async fn strangers_are_looked_at_at_a_pace_and_a_good_token_has_its_turn() {
    let world = World::new();
    let mut bad = Vec::new();
    for number in 0..7 {
        bad.push(world.asking(&world.peer(HOME), &format!("bad.{number}.c")));
    }
    world.settle().await;
    assert_eq!(world.looks(), 2, "two at once");
    let good = world.asking(&world.peer(HOME), "good.b.c");
    let elsewhere = world.asking(&world.peer([10, 0, 0, 2]), "good.elsewhere.c");
    let mut steps = 0;
    while !good.is_finished() {
        world.later(LOOK_TIME);
        world.settle().await;
        steps += 1;
        assert!(elsewhere.is_finished(), "another address waits for one turn at most");
        assert!(steps <= 7, "it waits for no more than one turn of each of the others");
    }
    assert_eq!(elsewhere.await.unwrap(), Code::Ok);
    assert_eq!(good.await.unwrap(), Code::Ok);
    assert_eq!(world.looks(), 9);
    for each in bad {
        assert_eq!(each.await.unwrap(), Code::Unauthenticated);
    }
}

#[tokio::test]
async fn many_addresses_take_half_of_the_looks_at_most() {
    let world = World::new();
    let mut asking = Vec::new();
    for number in 0..30 {
        asking.push(world.asking(&world.peer([10, 0, 1, number]), &format!("bad.{number}.c")));
    }
    world.settle().await;
    for step in 0..10 {
        assert_eq!(world.looks(), 2 * (step + 1));
        world.later(LOOK_TIME);
        world.settle().await;
    }
    drop(asking);
}

#[tokio::test]
async fn a_known_connection_waits_for_nobody() {
    let world = World::new();
    let operator = world.peer(HOME);
    assert_eq!(world.ask(&operator, BUNDLE, "viewer.b.c").await, Code::Ok);
    for number in 0..7 {
        drop(world.asking(&world.peer(HOME), &format!("bad.{number}.c")));
    }
    world.settle().await;
    world.book.forget();
    let looks = world.looks();
    assert_eq!(world.ask(&operator, BUNDLE, "viewer.b.c").await, Code::Ok);
    assert_eq!(world.looks(), looks + 1, "his token was looked at again");
    // What RBAC denies him, never counts.
    for _ in 0..50 {
        assert_eq!(world.ask(&operator, ADD, "viewer.b.c").await, Code::PermissionDenied);
    }
    assert!(!operator.is_spent(world.clock.monotonic()));
    // A token that was good a moment ago opens a new connection without a look, however many wait.
    let (newcomer, looks) = (world.peer(HOME), world.looks());
    assert_eq!(world.ask(&newcomer, BUNDLE, "viewer.b.c").await, Code::Ok);
    assert!(newcomer.is_known() && world.looks() == looks);
}

#[tokio::test]
async fn one_good_token_is_not_good_for_many_bad_ones() {
    let world = World::new();
    let operator = world.peer(HOME);
    assert_eq!(world.ask(&operator, BUNDLE, "good.b.c").await, Code::Ok);
    for number in 0..3 {
        assert_eq!(world.ask(&operator, BUNDLE, &format!("bad.{number}.c")).await, Code::Unauthenticated);
    }
    assert_eq!(world.ask(&operator, BUNDLE, "good.b.c").await, Code::Ok, "it is remembered");
    // From now on its new tokens wait like a stranger's; the connection stays.
    let asking: Vec<_> = (0..5).map(|number| world.asking(&operator, &format!("more.{number}.c"))).collect();
    world.settle().await;
    assert_eq!(world.looks(), 5);
    world.later(LOOK_TIME);
    world.settle().await;
    assert_eq!(world.looks(), 6);
    assert!(!is_dismissed(&operator));
    assert_eq!(world.ask(&operator, BUNDLE, "good.b.c").await, Code::Ok);
    drop(asking);
}

#[tokio::test]
async fn who_goes_away_gives_nothing_back_early() {
    let world = World::new();
    let peer = world.peer(HOME);
    for number in 0..20 {
        let asking = world.asking(&peer, &format!("bad.{number}.c"));
        world.settle().await;
        asking.abort();
    }
    world.settle().await;
    assert_eq!(world.looks(), 1);
}

#[tokio::test]
async fn trouble_is_nobodys_fault() {
    let world = World::new();
    let peer = world.peer(HOME);
    *world.book.away.lock().unwrap() = true;
    for _ in 0..5 {
        assert_eq!(world.ask(&peer, BUNDLE, "good.b.c").await, Code::Unavailable);
        world.later(LOOK_TIME);
        world.settle().await;
    }
    *world.book.away.lock().unwrap() = false;
    assert_eq!(world.ask(&peer, BUNDLE, "good.b.c").await, Code::Ok);
}

#[tokio::test]
async fn refusals_have_their_share_of_the_log() {
    let world = World::new();
    let operator = world.peer(HOME);
    assert_eq!(world.ask(&operator, BUNDLE, "viewer.b.c").await, Code::Ok);
    for _ in 0..LOG_LINES + 7 {
        world.ask(&operator, ADD, "viewer.b.c").await;
    }
    let shown = String::from_utf8(world.metrics.render()).unwrap();
    assert!(shown.contains("\nmeshmint_log_lines_left_out_total 7\n"), "{shown}");
}
