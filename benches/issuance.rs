//! What an answer costs: each piece of cryptography by itself, then `Issuer::issue` as a whole with the durable ledger, in one process and one
//! run: `cargo bench --bench issuance`. The last column of the whole is its CPU time over that of its cryptography. Plain figures for a
//! person to compare on one machine; no statistics, no threshold.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout)]

#[path = "../tests/common/issuer.rs"]
mod issuer;
#[path = "../tests/common/tokens.rs"]
mod tokens;

use std::hint::black_box;
use std::time::{Duration, Instant};

use meshmint::callers::{KeySet, UnverifiedToken};
use meshmint::clock::{SystemClock, SystemEntropy};
use meshmint::pki::{IssuedBy, Serial, Subject, check_csr, prepare};
use serde_json::json;
use tokio::task::JoinSet;

use crate::issuer::{Choices, World, ask, plain_csr};
use crate::tokens::{RS256, Signer};

/// How long each measurement goes on, at least.
const LONG_ENOUGH: Duration = Duration::from_secs(2);
/// Kernel ticks a second, as /proc counts them (USER_HZ) on every architecture that this runs on.
const TICKS: f64 = 100.0;
/// Requests at once in the second part.
const AT_ONCE: usize = 64;
/// Iterations between two looks at the clock.
const ROUND: u32 = 256;

/// Microseconds for each iteration.
#[derive(Clone, Copy)]
struct Cost {
    wall: f64,
    cpu: f64,
}

/// The CPU time of all threads of this process, those that ended too: utime and stime of proc_pid_stat(5).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // The name, in parentheses, may hold anything; the fields after it are numbers, from the third on.
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / TICKS
}

/// Counts iterations and takes both times.
struct Meter {
    began: Instant,
    cpu: f64,
    iterations: u32,
}

impl Meter {
    fn start() -> Self {
        Self { began: Instant::now(), cpu: cpu_seconds(), iterations: 0 }
    }

    /// Whether more is needed, once `iterations` more are done.
    fn goes_on(&mut self, iterations: u32) -> bool {
        self.iterations += iterations;
        self.began.elapsed() < LONG_ENOUGH
    }

    fn cost(&self) -> Cost {
        let each = 1e6 / f64::from(self.iterations);
        Cost { wall: self.began.elapsed().as_secs_f64() * each, cpu: (cpu_seconds() - self.cpu) * each }
    }
}

fn report(what: &str, cost: Cost, rest: &str) {
    println!("{what:<34} {:>9.1} µs {:>9.1} µs CPU {rest}", cost.wall, cost.cpu);
}

fn measure(what: &str, mut work: impl FnMut()) -> Cost {
    (0..ROUND / 8).for_each(|_| work());
    let mut meter = Meter::start();
    loop {
        (0..ROUND).for_each(|_| work());
        if !meter.goes_on(ROUND) {
            break;
        }
    }
    report(what, meter.cost(), "");
    meter.cost()
}

/// Requests one after another.
async fn one_at_a_time(world: &World, token: &str, csr: &str) -> Cost {
    let mut meter = Meter::start();
    loop {
        world.issuer.issue(ask(token, csr, 0)).await.unwrap();
        if !meter.goes_on(1) {
            return meter.cost();
        }
    }
}

/// As many requests under way as `AT_ONCE`, each followed by the next.
async fn many_at_once(world: &World, token: &str, csr: &str) -> Cost {
    let mut meter = Meter::start();
    let mut under_way = JoinSet::new();
    let begin = |under_way: &mut JoinSet<()>| {
        let (issuer, ask) = (world.issuer.clone(), ask(token, csr, 0));
        under_way.spawn(async move {
            issuer.issue(ask).await.unwrap();
        });
    };
    (0..AT_ONCE).for_each(|_| begin(&mut under_way));
    while let Some(ended) = under_way.join_next().await {
        ended.unwrap();
        if meter.goes_on(1) {
            begin(&mut under_way);
        }
    }
    meter.cost()
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let entropy = SystemEntropy::shared();
    let world = runtime.block_on(World::found(Choices::default(), SystemClock::shared(), entropy.clone()));
    let claims = world.claims("shop", "cart", "pod-1");
    let rs256 = world.tokens.sign(&json!({"alg": "RS256", "kid": "rsa"}), &claims, RS256);
    let es256 = world.tokens.sign(&json!({"alg": "ES256", "kid": "p256"}), &claims, Signer::P256);
    let keys = KeySet::from_jwks(&std::fs::read(world.jwks()).unwrap()).unwrap();
    let csr = plain_csr();

    let checked = measure("CSR check, P-256", || drop(black_box(check_csr(black_box(&csr)).unwrap())));
    let mut verified = Vec::new();
    for (what, token, kid) in [("token verify, RS256", &rs256, "rsa"), ("token verify, ES256", &es256, "p256")] {
        let key = keys.key(kid).unwrap();
        verified.push(measure(what, || drop(black_box(UnverifiedToken::parse(black_box(token)).unwrap().verify(key).unwrap()))));
    }

    let (generation, key, id) = (world.generation(), check_csr(&csr).unwrap(), "spiffe://mesh.example/ns/shop/sa/cart".parse().unwrap());
    let signed = measure("prepare and sign, P-256", || {
        let now = world.clock.now();
        let serial = Serial::draw(entropy.as_ref(), now).unwrap();
        let validity = world.profile.validity(0, now, 0.5, generation.limit).unwrap();
        let (subject, signer) = (Subject::Leaf { id: &id, key: &key }, IssuedBy::Signer(&generation.signer));
        drop(black_box(prepare(&subject, serial, validity, signer).unwrap().sign().unwrap()));
    });

    for (name, token, verify) in [("RS256", &rs256, verified[0]), ("ES256", &es256, verified[1])] {
        let cryptography = checked.cpu + verify.cpu + signed.cpu;
        let ratio = |cost: Cost| format!("{:>6.2} x its cryptography ({cryptography:.1} µs)", cost.cpu / cryptography);
        let alone = runtime.block_on(one_at_a_time(&world, token, &csr));
        report(&format!("issue, {name}, one at a time"), alone, &ratio(alone));
        let together = runtime.block_on(many_at_once(&world, token, &csr));
        report(&format!("issue, {name}, {AT_ONCE} at once"), together, &ratio(together));
    }
    let recorded = runtime.block_on(world.recorded());
    println!("{recorded} certificates on record; one core would sign {:.0} a second", 1e6 / signed.cpu);
}
