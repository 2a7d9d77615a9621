//! A whole CA in process, without ports: state folder, durable ledger, keeper, token issuer and [`Issuer`], put together as
//! `server::run` does it. The clock and the entropy are the suite's. Its file needs `tokens.rs` as a sibling module.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::indexing_slicing, reason = "every suite uses its own part")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use meshmint::authority::{AuthorityPolicy, Generation, MadeBy};
use meshmint::callers::TokenRules;
use meshmint::clock::{Clock, Entropy, NoEntropy};
use meshmint::cluster::{
    Access, ApiServer, Clusters, KeySets, KeySource, Kubernetes, KubernetesParts, LookupLimits, Member, Review, Reviewer, Timing, TrackedIssuer,
};
use meshmint::issuance::{Admission, AdmissionLimits, Ask, Authenticator, Credential, Issuer, IssuerParts, KeyProof, Observer, Step, Wants};
use meshmint::ledger::Ledger;
use meshmint::ledger::sqlite::SqliteLedger;
use meshmint::pki::{KeyAlgorithm, Profile};
use meshmint::rotation::{Duty, Founding, Keeper, KeeperParts};
use meshmint::spiffe::TrustDomain;
use meshmint::stores::file::FileStore;
use rcgen::KeyPair;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::tokens::{HOUR, ISSUER, TokenIssuer, claims, with};

/// The cluster that tokens of [`ISSUER`] stand for.
pub const CLUSTER: &str = "Kubernetes";
/// The trust domain of the CA.
pub const TRUST_DOMAIN: &str = "mesh.example";
/// How long a request may be under way: a generation is closed that long after its successor signs.
pub const LONGEST_REQUEST: Duration = Duration::from_secs(10);
/// How long the token issuer's keys are believed.
pub const KEYS_MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// The longest lifetime of a token that is bound to nothing.
pub const MAX_UNBOUND: Duration = Duration::from_secs(24 * 3600);

/// Room for what the suites ask at once.
const ADMISSION: AdmissionLimits = AdmissionLimits { in_flight: 256, working: 4, recording: 256, patience: Duration::from_secs(60) };

/// What a suite may choose.
#[derive(Debug, Clone)]
pub struct Choices {
    pub profile: Profile,
    pub key_algorithm: KeyAlgorithm,
    pub root_lifetime: Duration,
    pub issuing_lifetime: Duration,
    /// Whether the token issuer's keys are there to be read.
    pub keys_published: bool,
    /// The cluster that callers live in, whose tokens are then the ones that count.
    pub cluster: Option<ClusterChoices>,
}

/// A cluster by its kubeconfig.
#[derive(Debug, Clone)]
pub struct ClusterChoices {
    pub kubeconfig: PathBuf,
    /// `iss` of its tokens.
    pub issuer: String,
    pub max_staleness: Duration,
    pub lookups: LookupLimits,
    /// Every token goes to TokenReview.
    pub token_review: bool,
    /// Its keys are read from it; else none of them is known.
    pub keys_published: bool,
}

impl ClusterChoices {
    pub fn new(kubeconfig: PathBuf, issuer: &str) -> Self {
        let lookups = LookupLimits { at_once: 32, per_second: 200, burst: 1000, kept: Duration::from_secs(10), time: Duration::from_secs(3) };
        Self { kubeconfig, issuer: issuer.to_owned(), max_staleness: Duration::from_secs(3600), lookups, token_review: false, keys_published: true }
    }
}

impl Default for Choices {
    /// The defaults of `serve`.
    fn default() -> Self {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        Self {
            profile: Profile { default_lifetime: hours(12), max_lifetime: hours(24), backdate: Duration::from_secs(120), jitter: 0.1 },
            key_algorithm: KeyAlgorithm::P256,
            root_lifetime: hours(10 * 365 * 24),
            issuing_lifetime: hours(30 * 24),
            keys_published: true,
            cluster: None,
        }
    }
}

/// Bytes that follow from a seed; [`SeededEntropy::dry_up`] makes it fail from then on.
#[derive(Debug)]
pub struct SeededEntropy {
    seed: u64,
    drawn: AtomicU64,
    dry: AtomicBool,
}

impl SeededEntropy {
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { seed, drawn: AtomicU64::new(0), dry: AtomicBool::new(false) })
    }

    pub fn dry_up(&self) {
        self.dry.store(true, Ordering::SeqCst);
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), NoEntropy> {
        if self.dry.load(Ordering::SeqCst) {
            return Err(NoEntropy);
        }
        for block in bytes.chunks_mut(32) {
            let place = self.drawn.fetch_add(1, Ordering::SeqCst);
            let random = digest(&SHA256, &[self.seed.to_be_bytes(), place.to_be_bytes()].concat());
            block.copy_from_slice(&random.as_ref()[..block.len()]);
        }
        Ok(())
    }
}

/// The CA. Nothing in it runs by itself: a suite calls [`Keeper::tick`].
pub struct World {
    pub issuer: Arc<Issuer>,
    pub keeper: Arc<Keeper>,
    pub ledger: Arc<dyn Ledger>,
    pub tokens: TokenIssuer,
    pub profile: Profile,
    pub clock: Arc<dyn Clock>,
    /// With [`Choices::cluster`]; it is watched until this ends.
    pub kubernetes: Option<Arc<Kubernetes>>,
    pub reviewer: Option<Arc<Reviewer>>,
    /// Good tokens that were past their `warnafter`.
    pub old_tokens: Arc<OldTokens>,
    watching: Option<JoinHandle<()>>,
    folder: TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(watching) = &self.watching {
            watching.abort();
        }
    }
}

/// Counts what it is told of old tokens.
#[derive(Debug, Default)]
pub struct OldTokens(pub AtomicU64);

impl Observer for OldTokens {
    fn step(&self, _: Step, _: Duration) {}

    fn past_warn_after(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl World {
    /// Founds one in a folder of its own. Needs a tokio runtime.
    pub async fn found(choices: Choices, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let trust_domain: TrustDomain = TRUST_DOMAIN.parse().unwrap();
        let tokens = TokenIssuer::new();
        if choices.keys_published {
            tokens.publish(folder.path());
        }
        let ledger: Arc<dyn Ledger> = Arc::new(SqliteLedger::open(&folder.path().join("ledger.sqlite"), entropy.as_ref()).unwrap());
        let policy = AuthorityPolicy {
            trust_domain: trust_domain.clone(),
            key_algorithm: choices.key_algorithm,
            root_lifetime: choices.root_lifetime,
            issuing_lifetime: choices.issuing_lifetime,
            longest_leaf: choices.profile.max_lifetime,
            profile: choices.profile.clone(),
        };
        let parts = KeeperParts {
            store: Arc::new(FileStore::open(&folder.path().join("state")).unwrap()),
            ledger: ledger.clone(),
            policy,
            upstream: None,
            longest_request: LONGEST_REQUEST,
            leading: tokio::sync::watch::channel(true).1,
            duty: Duty::Keep,
            replica: "replica-1".to_owned(),
            clock: clock.clone(),
            entropy: entropy.clone(),
        };
        let keeper = Arc::new(Keeper::start(parts, Founding { made_by: MadeBy::Serve, import: None }).await.unwrap());
        let timing = Timing {
            refresh_interval: Duration::from_secs(300),
            refetch_interval: Duration::from_secs(10),
            max_age: KEYS_MAX_AGE,
            fetch_timeout: Duration::from_secs(5),
        };
        let mut tracked = TrackedIssuer { issuer: ISSUER.to_owned(), source: KeySource::File(folder.path().join("jwks.json")), timing };
        let audiences = BTreeSet::from(["istio-ca".to_owned()]);
        let (mut api, mut kubernetes, mut reviewer, mut watching, mut review) = (None, None, None, None, Review::Never);
        if let Some(chosen) = &choices.cluster {
            let access = Access::Kubeconfig(chosen.kubeconfig.clone());
            let server = ApiServer::connect(&access, clock.clone()).await.unwrap();
            let watched = Kubernetes::new(KubernetesParts {
                cluster: CLUSTER.to_owned(),
                api: server.clone(),
                max_staleness: chosen.max_staleness,
                lookups: chosen.lookups,
                clock: clock.clone(),
                entropy: entropy.clone(),
            });
            let asked = Arc::new(Reviewer::new(server.clone(), audiences.clone(), chosen.lookups, clock.clone()));
            watching = Some(tokio::spawn(watched.clone().run(std::future::pending())));
            assert!(watched.first_lists(Duration::from_secs(60)).await, "the cluster is listed");
            review = if chosen.token_review { Review::Always(asked.clone()) } else { Review::UnknownKeys(asked.clone()) };
            let source = if chosen.keys_published { KeySource::ApiServer } else { tracked.source };
            tracked = TrackedIssuer { issuer: chosen.issuer.clone(), source, timing };
            (api, kubernetes, reviewer) = (Some(server), Some(watched), Some(asked));
        }
        let issuers = BTreeMap::from([(tracked.issuer.clone(), CLUSTER.to_owned())]);
        let key_sets = KeySets::new(clock.clone(), api, [tracked]);
        key_sets.refresh().await;
        let old_tokens = Arc::new(OldTokens::default());
        let rules = TokenRules::new(trust_domain.clone(), issuers, audiences, Duration::from_secs(30), MAX_UNBOUND);
        let clusters = Arc::new(Clusters::alone(Member { key_sets, rules: rules.unwrap(), review, kubernetes: kubernetes.clone() }));
        let issuer = Arc::new(Issuer::new(IssuerParts {
            trust_domain,
            authenticator: Authenticator { clusters: clusters.clone(), observer: old_tokens.clone(), ledger: ledger.clone(), clock: clock.clone() },
            clusters,
            trusted_node_accounts: BTreeSet::from(["istio-system/ztunnel".parse().unwrap()]),
            profile: choices.profile.clone(),
            generation: keeper.published(),
            successor: keeper.successor(),
            ledger: ledger.clone(),
            admission: Arc::new(Admission::new(ADMISSION, clock.clone())),
            observer: Arc::new(()),
            replica: "replica-1".to_owned(),
            clock: clock.clone(),
            entropy,
        }));
        let profile = choices.profile;
        Self { issuer, keeper, ledger, tokens, profile, clock, kubernetes, reviewer, old_tokens, watching, folder }
    }

    /// What signs now.
    pub fn generation(&self) -> Arc<Generation> {
        self.keeper.published().load_full()
    }

    /// The file with the token issuer's keys.
    pub fn jwks(&self) -> PathBuf {
        self.folder.path().join("jwks.json")
    }

    /// The claims of an account's pod, good for an hour on this world's clock.
    pub fn claims(&self, namespace: &str, account: &str, pod_uid: &str) -> Value {
        let now = self.clock.now().unix_timestamp();
        let claims = with(claims(namespace, account), "kubernetes.io/pod", json!({"name": format!("{account}-0"), "uid": pod_uid}));
        [("exp", now + HOUR), ("iat", now - HOUR), ("nbf", now - HOUR)].into_iter().fold(claims, |claims, (name, at)| with(claims, name, json!(at)))
    }

    /// How many certificates of any kind are on record.
    pub async fn recorded(&self) -> u64 {
        self.ledger.stats(self.clock.now()).await.unwrap().total
    }
}

/// A request with a token.
pub fn ask(token: &str, csr: &str, lifetime_seconds: i64) -> Ask {
    Ask {
        credential: Credential::Workload { cluster: None, token: Some(token.to_owned()), certificate: None },
        key_proof: KeyProof::Csr(csr.to_owned()),
        wants: Wants { lifetime_seconds, impersonate: None, cert_signer: None },
    }
}

/// A CSR for a new P-256 key that asks for nothing.
pub fn plain_csr() -> String {
    let mut parameters = rcgen::CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    csr_pem(&parameters, &KeyPair::generate().unwrap())
}

/// A CSR with these wishes, PEM.
pub fn csr_pem(parameters: &rcgen::CertificateParams, key: &KeyPair) -> String {
    let request = parameters.serialize_request(key).unwrap();
    pem_rfc7468::encode_string("CERTIFICATE REQUEST", pem_rfc7468::LineEnding::LF, request.der()).unwrap()
}
