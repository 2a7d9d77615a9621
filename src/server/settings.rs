//! From the checked configuration to what each part of the service takes. No decision is made here.

use std::collections::BTreeSet;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::checkup::Lifetimes;
use super::csr_door::Bounds;
use super::door::Http2;
use crate::authority::{AuthorityPolicy, AuthorityState, Generation, ImportError, Imported, import};
use crate::bounds::{CrowdLimits, FairQueue, Limits};
use crate::callers::{RulesError, TokenRules};
use crate::clock::{Clock, Entropy};
use crate::cluster::{
    ApiError, ApiServer, Clusters, Election, ElectionParts, KeySets, Kubernetes, KubernetesParts, LeaseTiming, LookupLimits, Member, Operators,
    RemoteParts, Remotes, Review, Reviewer, Timing, TrackedIssuer,
};
use crate::config::{AdminNetwork, Config, Role, TokenIssuer, Verification};
use crate::controllers::{Cacerts, CacertsWork, Distribution, DistributionParts, IstiodTls, IstiodTlsWork, IstiodsParts, RootMaps};
use crate::issuance::{Admission, AdmissionLimits, Issuer};
use crate::pki::Profile;
use crate::rotation::Keeper;
use crate::stores::file::FileStore;
use crate::stores::secrets::SecretsStore;
use crate::stores::{StateStore, StoreError};

/// What the operator decided about authorities and leaves.
pub(super) fn policy(config: &Config) -> AuthorityPolicy {
    AuthorityPolicy {
        trust_domain: config.trust_domain.clone(),
        key_algorithm: config.authority.key_algorithm,
        root_lifetime: config.authority.root_lifetime,
        issuing_lifetime: config.authority.issuing_lifetime,
        longest_leaf: config.certificates.max_lifetime.max(serving_lifetime(config)).max(istiod_lifetime(config)),
        profile: Profile {
            default_lifetime: config.certificates.default_lifetime,
            max_lifetime: config.certificates.max_lifetime,
            backdate: config.certificates.backdate,
            jitter: config.certificates.jitter(),
        },
    }
}

/// The lifetime of our own certificate: short enough that an issuing key is renewed before it would shorten it.
pub(super) fn serving_lifetime(config: &Config) -> Duration {
    config.server.serving_lifetime.min(config.authority.issuing_lifetime / 3)
}

/// The lifetime of istiod's certificate, bounded for the same reason; nothing where it isn't ours.
fn istiod_lifetime(config: &Config) -> Duration {
    config.controllers.istiod.as_ref().map_or(Duration::ZERO, |istiod| istiod.certificate_lifetime.min(config.authority.issuing_lifetime / 3))
}

/// What verdicts about certificates are measured by.
pub(super) fn lifetimes(config: &Config) -> Lifetimes {
    Lifetimes {
        root: config.authority.root_lifetime,
        issuing: config.authority.issuing_lifetime,
        longest_leaf: policy(config).longest_leaf,
        shortest_leaf: config.certificates.floor(),
    }
}

/// Where the ledger's disk is; `None` where a database has it, and nothing of it is here.
pub(super) fn ledger_folder(config: &Config) -> Option<PathBuf> {
    let path = match (&config.ledger_postgres, &config.ledger_spool) {
        (None, _) => &config.ledger_path,
        (Some(_), Some(spool)) => &spool.path,
        (Some(_), None) => return None,
    };
    Some(path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned())
}

pub(super) fn token_rules(config: &Config) -> Result<TokenRules, RulesError> {
    TokenRules::new(
        config.trust_domain.clone(),
        config.tokens.issuers.iter().map(|issuer| (issuer.issuer.clone(), config.cluster_id.clone())).collect(),
        config.tokens.audiences.iter().cloned().collect(),
        config.tokens.clock_skew,
        config.tokens.max_lifetime_unbound,
    )
}

pub(super) fn key_sets(config: &Config, api: Option<Arc<ApiServer>>, clock: Arc<dyn Clock>) -> Arc<KeySets> {
    let tracked = |issuer: &TokenIssuer| TrackedIssuer {
        issuer: issuer.issuer.clone(),
        source: issuer.keys.clone(),
        timing: Timing {
            refresh_interval: issuer.refresh_interval,
            max_age: issuer.max_age,
            refetch_interval: REFETCH_INTERVAL,
            fetch_timeout: FETCH_TIMEOUT,
        },
    };
    // Nobody shows a token to an authority.
    let issuers = if config.role == Role::Authority { &[] } else { config.tokens.issuers.as_slice() };
    KeySets::new(clock, api, issuers.iter().map(tracked))
}

/// Live looks for objects that a watch hasn't seen: a node's worth of new pods at once, and little enough for any API server.
const LOOKUPS: LookupLimits = LookupLimits { at_once: 32, per_second: 200, burst: 1000, kept: Duration::from_secs(10), time: Duration::from_secs(3) };
/// Reviews of tokens whose key nobody published: anybody can make such tokens.
const REVIEWS_OF_UNKNOWN_KEYS: LookupLimits =
    LookupLimits { at_once: 4, per_second: 10, burst: 50, kept: Duration::from_secs(10), time: Duration::from_secs(3) };
/// Reviews of all tokens, where the operator wants that.
const REVIEWS_OF_ALL: LookupLimits =
    LookupLimits { at_once: 64, per_second: 1000, burst: 2000, kept: Duration::from_secs(10), time: Duration::from_secs(5) };

const REFRESH_INTERVAL: Duration = Duration::from_secs(300);
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// The clusters that callers may be in, and what keeps up the others where there may be others.
pub(super) fn clusters(config: &Config, own: Member, api: Option<&Arc<ApiServer>>, clock: &Arc<dyn Clock>, entropy: &Arc<dyn Entropy>) -> Known {
    let others = config.cluster.as_ref().zip(api).and_then(|(cluster, api)| Some((cluster, cluster.remote_secrets_namespace.clone()?, api)));
    let Some((cluster, namespace, api)) = others else { return (Arc::new(Clusters::alone(own)), None) };
    let own_names: BTreeSet<String> = cluster.aliases.iter().cloned().chain([config.cluster_id.clone()]).collect();
    let always = config.tokens.verification == Verification::TokenReview;
    let parts = RemoteParts {
        api: api.clone(),
        namespace,
        own_names: own_names.clone(),
        serves_callers: config.role != Role::Authority,
        rules: own.rules.clone(),
        timing: Timing { refresh_interval: REFRESH_INTERVAL, max_age: MAX_AGE, refetch_interval: REFETCH_INTERVAL, fetch_timeout: FETCH_TIMEOUT },
        audiences: config.tokens.audiences.iter().cloned().collect(),
        max_staleness: cluster.max_staleness,
        lookups: LOOKUPS,
        reviews: if always { REVIEWS_OF_ALL } else { REVIEWS_OF_UNKNOWN_KEYS },
        always_review: always,
        clock: clock.clone(),
        entropy: entropy.clone(),
    };
    let clusters = Arc::new(Clusters::several(own_names, own));
    let remotes = Remotes::new(parts, clusters.clone());
    (clusters, Some(remotes))
}

/// Where istiods are of which something is kept: in their namespace, in these clusters (empty: our own).
fn istiods<W>(
    config: &Config,
    (api, remotes): (Arc<ApiServer>, Option<&Arc<Remotes>>),
    (namespace, clusters): (&str, &[String]),
    writer: &str,
    (clock, entropy): (&Arc<dyn Clock>, &Arc<dyn Entropy>),
    work: W,
) -> IstiodsParts<W> {
    let own = || BTreeSet::from([config.cluster_id.clone()]);
    IstiodsParts {
        cluster: config.cluster_id.clone(),
        api,
        others: remotes.map(|remotes| remotes.reachable()),
        namespace: namespace.to_owned(),
        clusters: if clusters.is_empty() { own() } else { clusters.iter().cloned().collect() },
        writer: writer.to_owned(),
        clock: clock.clone(),
        entropy: entropy.clone(),
        work,
    }
}

/// What keeps the certificates of istiods, where that is wanted. A replica of role issuer never leads, so it keeps none.
pub(super) fn istiod_tls(
    config: &Config,
    (api, remotes): (Option<&Arc<ApiServer>>, Option<&Arc<Remotes>>),
    (issuer, generation): (&Arc<Issuer>, Arc<ArcSwap<Generation>>),
    writer: &str,
    time_and_chance: (&Arc<dyn Clock>, &Arc<dyn Entropy>),
) -> Option<Arc<IstiodTls>> {
    let (wanted, api) = config.controllers.istiod.as_ref().zip(api)?;
    let work = IstiodTlsWork { issuer: issuer.clone(), generation, revisions: wanted.revisions.clone(), lifetime: istiod_lifetime(config) };
    Some(IstiodTls::new(istiods(config, (api.clone(), remotes), (&wanted.namespace, &wanted.clusters), writer, time_and_chance, work)))
}

/// What keeps the intermediates of istiods that stay the CA, where that is wanted. A replica of role issuer can't sign any.
pub(super) fn cacerts(
    config: &Config,
    (api, remotes): (Option<&Arc<ApiServer>>, Option<&Arc<Remotes>>),
    keeper: &Arc<Keeper>,
    writer: &str,
    time_and_chance: (&Arc<dyn Clock>, &Arc<dyn Entropy>),
) -> Option<Arc<Cacerts>> {
    let (wanted, api) = config.controllers.cacerts.as_ref().filter(|_| config.role != Role::Issuer).zip(api)?;
    let work = CacertsWork { lifetime: wanted.lifetime, keeper: keeper.clone(), key_algorithm: config.authority.key_algorithm };
    Some(Cacerts::new(istiods(config, (api.clone(), remotes), (&wanted.namespace, &wanted.clusters), writer, time_and_chance, work)))
}

/// What writes the trust bundle into the namespaces, where that is wanted.
pub(super) fn distribution(
    config: &Config,
    api: Option<Arc<ApiServer>>,
    remotes: Option<&Arc<Remotes>>,
    generation: Arc<ArcSwap<Generation>>,
    writer: &str,
    (clock, entropy): (&Arc<dyn Clock>, &Arc<dyn Entropy>),
) -> Option<Arc<Distribution>> {
    let (wanted, api) = config.controllers.root_config_map.as_ref().zip(api)?;
    Some(Distribution::new(DistributionParts {
        cluster: config.cluster_id.clone(),
        api,
        others: remotes.map(|remotes| remotes.reachable()),
        root_maps: RootMaps {
            name: wanted.name.clone(),
            namespace_selector: wanted.namespace_selector.clone(),
            generation,
            writer: writer.to_owned(),
            clock: clock.clone(),
            entropy: entropy.clone(),
        },
    }))
}

/// The clusters, and what keeps up the others.
pub(super) type Known = (Arc<Clusters>, Option<Arc<Remotes>>);

/// What is known of the callers' cluster.
#[derive(Debug)]
pub(super) struct Watching {
    pub(super) api: Arc<ApiServer>,
    pub(super) kubernetes: Arc<Kubernetes>,
    pub(super) reviewer: Arc<Reviewer>,
    pub(super) review: Review,
}

/// Where the state is.
#[derive(Debug, Clone)]
pub(super) enum State {
    /// In a folder, for this process alone, which always leads.
    File(Arc<FileStore>, watch::Sender<bool>),
    /// In Secrets, with an election of who leads, where this replica may.
    Secrets(Arc<SecretsStore>, Option<Arc<Election>>),
}

impl State {
    /// Opens it: a folder is locked, of Secrets nothing is asked yet.
    pub(super) fn open(config: &Config, api: Option<&Arc<ApiServer>>, replica: &str, clock: &Arc<dyn Clock>) -> Result<Self, StoreError> {
        let (Some(secrets), Some(api)) = (&config.state_secrets, api) else {
            return Ok(Self::File(Arc::new(FileStore::open(&config.state_dir)?), watch::Sender::new(true)));
        };
        let election = Election::new(ElectionParts {
            api: api.clone(),
            namespace: secrets.namespace.clone(),
            name: format!("{}-leader", secrets.prefix),
            identity: replica.to_owned(),
            timing: LeaseTiming::USUAL,
            clock: clock.clone(),
        });
        let store = SecretsStore::new(api.clone(), secrets.namespace.clone(), secrets.prefix.clone());
        Ok(Self::Secrets(Arc::new(store), (config.role != Role::Issuer).then_some(election)))
    }

    pub(super) fn store(&self) -> Arc<dyn StateStore> {
        match self {
            Self::File(store, _) => store.clone(),
            Self::Secrets(store, _) => store.clone(),
        }
    }

    pub(super) fn election(&self) -> Option<&Arc<Election>> {
        match self {
            Self::File(..) => None,
            Self::Secrets(_, election) => election.as_ref(),
        }
    }

    /// Whether this replica leads. One that is alone always does, an issuer never.
    pub(super) fn leading(&self) -> watch::Receiver<bool> {
        match self {
            Self::File(_, always) => always.subscribe(),
            Self::Secrets(_, election) => election.as_ref().map_or_else(|| watch::channel(false).1, |election| election.leading()),
        }
    }

    /// Reads the document for the first time. While the store doesn't answer it is asked again, for a while: then the process ends, and whoever
    /// keeps it starts it again.
    pub(super) async fn first_load(&self, clock: &dyn Clock) -> Result<Option<AuthorityState>, StoreError> {
        let (store, end) = (self.store(), clock.monotonic() + START_PATIENCE);
        loop {
            match store.load().await {
                Err(error @ (StoreError::Away { .. } | StoreError::Refused { .. })) if clock.monotonic() < end => {
                    tracing::warn!(%error, "the authority state can't be read, so nothing is issued here; trying again");
                    clock.sleep_until(clock.monotonic() + START_PAUSE).await;
                }
                read => return read.map(|found| found.map(|(state, _)| state)),
            }
        }
    }
}

/// How long a replica that starts waits for a store that doesn't answer, and the pause between two questions.
const START_PATIENCE: Duration = Duration::from_secs(30);
const START_PAUSE: Duration = Duration::from_secs(1);

/// The cluster, where one is configured; nothing is asked of it yet.
pub(super) async fn cluster(config: &Config, clock: &Arc<dyn Clock>, entropy: &Arc<dyn Entropy>) -> Result<Option<Watching>, ApiError> {
    let Some(cluster) = &config.cluster else { return Ok(None) };
    let api = ApiServer::connect(&cluster.access, clock.clone()).await?;
    let kubernetes = Kubernetes::new(KubernetesParts {
        cluster: config.cluster_id.clone(),
        api: api.clone(),
        max_staleness: cluster.max_staleness,
        lookups: LOOKUPS,
        clock: clock.clone(),
        entropy: entropy.clone(),
    });
    let always = config.tokens.verification == Verification::TokenReview;
    let limits = if always { REVIEWS_OF_ALL } else { REVIEWS_OF_UNKNOWN_KEYS };
    let reviewer = Arc::new(Reviewer::new(api.clone(), config.tokens.audiences.iter().cloned().collect(), limits, clock.clone()));
    let review = if always { Review::Always(reviewer.clone()) } else { Review::UnknownKeys(reviewer.clone()) };
    Ok(Some(Watching { api, kubernetes, reviewer, review }))
}

/// Reviews of operators' tokens and of what they may do, each.
const REVIEWS_OF_OPERATORS: LookupLimits =
    LookupLimits { at_once: 4, per_second: 10, burst: 50, kept: Duration::from_secs(10), time: Duration::from_secs(5) };

/// Who may ask the admin API over the network, where it is configured beside a cluster that says so.
pub(super) fn operators(network: &AdminNetwork, api: &Arc<ApiServer>, clock: &Arc<dyn Clock>) -> Operators {
    Operators::new(api.clone(), network.audience.clone(), REVIEWS_OF_OPERATORS, clock.clone())
}

/// Unknown key ids cause at most one fetch in this time, however many tokens name them.
const REFETCH_INTERVAL: Duration = Duration::from_secs(10);
/// How long one fetch may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// For each thread that computes: enough that none is idle while the next request is fetched.
const WORKING_PER_THREAD: usize = 2;
/// For each of them, certificates that wait for the ledger: enough that a flush costs each little. Whoever waits there waits in the order of
/// arrival, so it is few: the waiting that is fair is the queue's.
const RECORDING_PER_THREAD: usize = 64;

pub(super) fn admission(config: &Config, clock: Arc<dyn Clock>) -> Arc<Admission> {
    let limits = AdmissionLimits {
        in_flight: config.server.max_in_flight,
        working: WORKING_PER_THREAD * threads(),
        recording: RECORDING_PER_THREAD * threads(),
        patience: config.server.queue_time,
    };
    Arc::new(Admission::new(limits, clock))
}

/// Turns to compute, as many at once as keep every thread busy.
pub(super) fn turns(config: &Config, clock: Arc<dyn Clock>) -> Arc<FairQueue> {
    let limits = Limits { slots: WORKING_PER_THREAD * threads(), waiting: config.server.max_in_flight, patience: config.server.queue_time };
    FairQueue::new(limits, clock)
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// A stranger is told to go away after this time.
const STRANGER_TIME: Duration = Duration::from_secs(30);
/// A herd from one address (a gateway, a NAT) has this time to go on before one of it makes room for another.
const GRACE: Duration = Duration::from_secs(5);
/// How long an answer may wait for its peer to read it.
const READING_TIME: Duration = Duration::from_secs(10);

pub(super) fn bounds(config: &Config) -> Bounds {
    let server = &config.server;
    // Half of all places are for strangers at most, so that they can't keep known callers out; and of those new connections that wait have three quarters, so
    // that there is always somebody who could go.
    let strangers = (server.max_connections / 2).max(1);
    Bounds {
        crowd: CrowdLimits { places: server.max_connections, strangers, bytes: server.max_buffered_bytes, grace: GRACE },
        handshakes: Limits { slots: server.max_handshakes, waiting: (strangers * 3 / 4).max(1), patience: server.handshake_queue_time },
        handshake_time: server.handshake_timeout,
        longest_hold: server.request_timeout + READING_TIME,
        http2: Http2 {
            streams: server.max_concurrent_streams,
            stranger_time: STRANGER_TIME,
            age: server.connection_max_age,
            drain_time: server.drain_timeout,
            keepalive: server.keepalive_interval,
        },
    }
}

/// Why the authority that is to be imported can't be.
#[derive(Debug, thiserror::Error)]
pub enum ImportFilesError {
    /// A file can't be read.
    #[error("{key}: can't read {}: {error}", path.display())]
    File {
        /// The configuration key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's words.
        error: io::Error,
    },
    /// What is in them can't be taken.
    #[error("authority.import: {0}")]
    Import(#[from] ImportError),
}

/// The authority that an operator hands over, if one does.
pub(super) fn imported(config: &Config, clock: &dyn Clock) -> Result<Option<Imported>, ImportFilesError> {
    let Some(files) = &config.authority.import else { return Ok(None) };
    let read = |key, path: &PathBuf| std::fs::read_to_string(path).map_err(|error| ImportFilesError::File { key, path: path.clone(), error });
    let certificate = read("authority.import.certFile", &files.cert_file)?;
    let key = read("authority.import.keyFile", &files.key_file)?;
    let chain = files.chain_file.as_ref().map(|path| read("authority.import.chainFile", path)).transpose()?;
    let roots = files.root_file.as_ref().map(|path| read("authority.import.rootFile", path)).transpose()?;
    Ok(Some(import(&config.trust_domain, &certificate, &key, chain.as_deref(), roots.as_deref(), clock.now())?))
}
