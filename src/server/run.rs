//! Puts a whole service together from a configuration, and takes it down again in order: not ready, no new connections, drain, ledger last.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::admin::{self, AdminApi, LocalDoor, NetworkDoor};
use super::checkup::{Checkup, CheckupParts};
use super::csr_api::CsrApi;
use super::csr_door::CsrDoor;
use super::door;
use super::guard::Guard;
use super::health::Health;
use super::http::{self, PlainDoor};
use super::metrics::{Metrics, Place};
use super::operations::Operations;
use super::scrape::Scrape;
use super::services::{CsrService, Services};
use super::serving::{Serving, ServingError};
use super::settings::{self, ImportFilesError, State, Watching};
use super::traces::Traces;
use crate::authority::rotation::parent;
use crate::authority::{Generation, MadeBy};
use crate::callers::RulesError;
use crate::clock::{Clock, Entropy, NoEntropy, random_id};
use crate::cluster::{ApiError, Member, Review};
use crate::config::{Config, Role};
use crate::issuance::{Admission, Authenticator, Issuer, IssuerParts, ServingNames};
use crate::ledger::postgres::PostgresLedger;
use crate::ledger::spool::Spooling;
use crate::ledger::sqlite::SqliteLedger;
use crate::ledger::{CommitWatch, Ledger, LedgerError, OpenError};
use crate::rotation::{Duty, Founding, Keeper, KeeperError, KeeperParts};
use crate::stores::StoreError;
use crate::tasks::{Ended, Tasks, Vigil};

/// A running service.
#[derive(Debug)]
pub struct Server {
    addresses: Addresses,
    generation: Arc<ArcSwap<Generation>>,
    stop: watch::Sender<bool>,
    drained: watch::Sender<bool>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    grpc_health: HealthReporter,
    /// Notices which of them ends before its time.
    vigil: Vigil,
    tasks: Tasks,
    /// Health and metrics: they tell until the end that the rest is draining.
    last_tasks: Tasks,
    traces: Traces,
}

/// Where it listens, with the ports that the system chose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// The CSR API, where this replica has one.
    pub csr: Option<SocketAddr>,
    /// `/livez` and `/readyz`.
    pub health: SocketAddr,
    /// `/metrics`.
    pub metrics: SocketAddr,
    /// The admin socket.
    pub admin: PathBuf,
    /// The admin API over the network, where that is configured.
    pub admin_network: Option<SocketAddr>,
}

/// Why the service could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state's place.
    #[error("state: {0}")]
    Store(#[from] StoreError),
    /// The ledger.
    #[error("ledger: {0}")]
    Open(#[from] OpenError),
    /// The ledger, asked.
    #[error("ledger: {0}")]
    Ledger(#[from] LedgerError),
    /// The authority.
    #[error("authority: {0}")]
    Keeper(#[from] KeeperError),
    /// An authority to import.
    #[error(transparent)]
    Import(#[from] ImportFilesError),
    /// The cluster's credentials.
    #[error("cluster: {0}")]
    Cluster(#[from] ApiError),
    /// Rules for tokens that can't be held to.
    #[error("tokens: {0}")]
    Rules(#[from] RulesError),
    /// A port or socket.
    #[error("{key}: can't listen on {address}: {error}")]
    Listen {
        /// The configuration key.
        key: &'static str,
        /// The address.
        address: String,
        /// The system's words.
        error: io::Error,
    },
    /// The serving certificate.
    #[error(transparent)]
    Serving(#[from] ServingError),
    /// Where traces go.
    #[error("tracing.otlp.endpoint: {0}")]
    Traces(String),
    /// istiod can't have an intermediate.
    #[error(
        "controllers.cacerts: the authority of this state may have no other below it (pathlen:0), so istiod can't have one: leave controllers.cacerts out, or \
         begin with an authority that may"
    )]
    NoneBelow,
    /// Random bytes.
    #[error(transparent)]
    Entropy(#[from] NoEntropy),
    /// A bug: two metrics of one name, or descriptors that don't decode.
    #[error("internal error: {0}")]
    Internal(String),
}

impl Server {
    /// Starts everything; returns once the CSR port answers, where there is one.
    ///
    /// # Errors
    /// [`StartError`]; nothing stays behind that a second start would trip over.
    pub async fn start(config: &Config, made_by: MadeBy, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Result<Self, StartError> {
        let replica = random_id(entropy.as_ref(), 8)?;
        let metrics = Arc::new(Metrics::new().map_err(|error| StartError::Internal(error.to_string()))?);
        metrics.started(clock.now());
        let traces = Traces::start(config.tracing.as_ref(), &replica).map_err(StartError::Traces)?;
        // A replica of role authority answers no workload: it has no CSR port, and knows no token and no pod.
        let faces_mesh = config.role != Role::Authority;
        let health = Arc::new(Health::of(config.ledger_postgres.is_some(), faces_mesh));
        let (stop, stopped) = watch::channel(false);
        let vigil = Vigil::default();
        let (mut tasks, mut last_tasks) = (Tasks::watched_by(&vigil), Tasks::watched_by(&vigil));

        let watching = settings::cluster(config, &clock, &entropy).await?;
        // A folder is locked before anything else: a second process must not get further than this.
        let state = State::open(config, watching.as_ref().map(|watching| &watching.api), &replica, &clock)?;
        let first = state.first_load(clock.as_ref()).await?;
        let home = watching.as_ref().map(|watching| watching.api.clone());
        let watching = watching.filter(|_| faces_mesh);
        if let Some(election) = state.election() {
            tasks.spawn("election", election.clone().run(until(stopped.clone())));
        }
        let watch = CommitWatch { clock: clock.clone(), observer: metrics.commit_observer(), vigil: vigil.clone() };
        let ledger = open_ledger(config, &replica, &clock, &entropy, watch).await?;
        // Read only while there is no state: later the files may be gone.
        let import = if first.is_none() { settings::imported(config, clock.as_ref())? } else { None };
        let policy = settings::policy(config);
        let parts = KeeperParts {
            store: state.store(),
            ledger: ledger.clone(),
            policy: policy.clone(),
            upstream: None,
            longest_request: config.server.request_timeout,
            leading: state.leading(),
            duty: if config.role == Role::Issuer { Duty::Follow } else { Duty::Keep },
            replica: replica.clone(),
            clock: clock.clone(),
            entropy: entropy.clone(),
        };
        let leading = state.leading();
        let keeper = Arc::new(Keeper::start(parts, Founding { made_by, import }).await?);
        let key_sets = settings::key_sets(config, watching.as_ref().map(|watching| watching.api.clone()), clock.clone());
        if let Some(Watching { kubernetes, .. }) = &watching {
            tasks.spawn("watches of the cluster", kubernetes.clone().run(until(stopped.clone())));
            // Without them each first request would be a live look; with the API server away there is nothing to wait for.
            if !kubernetes.first_lists(FIRST_LISTS).await {
                tracing::warn!("the cluster is not known yet: its API server doesn't answer, or we may not list, or it takes long");
            }
        }
        key_sets.refresh().await;
        let own = Member {
            key_sets: key_sets.clone(),
            rules: settings::token_rules(config)?,
            review: watching.as_ref().map_or(Review::Never, |watching| watching.review.clone()),
            kubernetes: watching.as_ref().map(|watching| watching.kubernetes.clone()),
        };
        let (clusters, remotes) = settings::clusters(config, own, home.as_ref(), &clock, &entropy);
        if let Some(remotes) = &remotes {
            tasks.spawn("other clusters", remotes.clone().run(until(stopped.clone())));
            if !remotes.first_attempts(FIRST_LISTS).await {
                tracing::warn!(
                    "the Secrets that name other clusters were not listed yet, or joining takes long: callers of those are told to try again"
                );
            }
        }

        let cacerts = settings::cacerts(config, (home.as_ref(), remotes.as_ref()), &keeper, &replica, (&clock, &entropy));
        if cacerts.is_some() && parent(&keeper.state()).is_none() {
            return Err(StartError::NoneBelow);
        }
        let distribution = settings::distribution(config, home.clone(), remotes.as_ref(), keeper.published(), &replica, (&clock, &entropy));

        let admission = settings::admission(config, clock.clone());
        watch_requests(&metrics, &admission, &ledger);
        let issuer = Arc::new(Issuer::new(IssuerParts {
            trust_domain: config.trust_domain.clone(),
            authenticator: Authenticator { clusters: clusters.clone(), observer: metrics.clone(), ledger: ledger.clone(), clock: clock.clone() },
            clusters,
            trusted_node_accounts: config.tokens.trusted_node_accounts.iter().cloned().collect(),
            profile: policy.profile.clone(),
            generation: keeper.published(),
            successor: keeper.successor(),
            ledger: ledger.clone(),
            admission: admission.clone(),
            observer: traces.observer(metrics.clone(), clock.clone()),
            replica: replica.clone(),
            clock: clock.clone(),
            entropy: entropy.clone(),
        }));

        let istiod_tls = settings::istiod_tls(config, (home.as_ref(), remotes.as_ref()), (&issuer, keeper.published()), &replica, (&clock, &entropy));
        let names = ServingNames { dns_names: config.server.serving_dns_names.clone(), ip_addresses: config.server.serving_ip_addresses.clone() };
        let serving = Serving {
            issuer: issuer.clone(),
            generation: keeper.published(),
            names: names.clone(),
            lifetime: settings::serving_lifetime(config),
            health: health.clone(),
            metrics: metrics.clone(),
            clock: clock.clone(),
        };
        let shows_a_certificate = faces_mesh || config.admin_network.is_some();
        let served = if shows_a_certificate { Some(serving.first().await?) } else { None };

        let csr_socket = if faces_mesh { Some(bind("server.listen", config.server.listen)?) } else { None };
        let health_socket = bind("health.listen", config.health_listen)?;
        let metrics_socket = bind("metrics.listen", config.metrics_listen)?;
        let admin_network = match (&config.admin_network, &home, &served) {
            (None, ..) => None,
            (Some(network), Some(api), Some((tls, _))) => {
                Some((bind("admin.listen", network.listen)?, settings::operators(network, api, &clock), tls.clone()))
            }
            // The configuration demands a cluster for it.
            (Some(_), ..) => return Err(StartError::Internal("admin.listen without a cluster".to_owned())),
        };
        let admin_path = config.admin_socket.clone();
        let admin_socket = admin::listen(&admin_path).map_err(|error| StartError::Listen {
            key: "admin.socket",
            address: admin_path.display().to_string(),
            error,
        })?;
        let addresses = Addresses {
            csr: csr_socket.as_ref().map(|socket| local("server.listen", socket)).transpose()?,
            health: local("health.listen", &health_socket)?,
            metrics: local("metrics.listen", &metrics_socket)?,
            admin: admin_path,
            admin_network: admin_network.as_ref().map(|(socket, ..)| local("admin.listen", socket)).transpose()?,
        };

        let api = CsrApi::new(issuer, metrics.clone(), clock.clone());
        let (services, grpc_health) =
            Services::new(api, settings::turns(config, clock.clone()), config.server.max_request_bytes, config.server.reflection)
                .await
                .map_err(|error| StartError::Internal(error.to_string()))?;
        let guard = Guard::new(config.server.request_timeout, clock.clone(), metrics.clone(), traces.clone(), replica.get(..8).unwrap_or_default());
        if let Some((tls, renewal)) = served {
            if let Some(socket) = csr_socket {
                let (tls, bounds) = (tls.clone(), settings::bounds(config));
                let door = CsrDoor::new(tls, services, guard, bounds, admission.clone(), metrics.clone(), clock.clone(), entropy.clone());
                tasks.spawn("CSR port", door.run(socket, stopped.clone()));
            }
            tasks.spawn("serving certificate", serving.run(tls, renewal, keeper.changes(), until(stopped.clone())));
        }
        let checkup = Arc::new(Checkup::new(CheckupParts {
            keeper: keeper.clone(),
            key_sets: key_sets.clone(),
            kubernetes: watching.as_ref().map(|watching| watching.kubernetes.clone()),
            remotes: remotes.clone(),
            distribution: distribution.clone(),
            istiod_tls: istiod_tls.clone(),
            cacerts: cacerts.clone(),
            ledger: ledger.clone(),
            state: state.clone(),
            admission,
            health: health.clone(),
            metrics: metrics.clone(),
            faces_mesh,
            lifetimes: settings::lifetimes(config),
            max_connections: config.server.max_connections,
            ledger_folder: settings::ledger_folder(config),
            replica,
            clock: clock.clone(),
            entropy: entropy.clone(),
        }));
        let operations = Arc::new(Operations {
            trust_domain: config.trust_domain.clone(),
            ledger: ledger.clone(),
            generation: keeper.published(),
            keeper: keeper.clone(),
            checkup: checkup.clone(),
            csr_address: addresses.csr,
            serving: names,
            watchers: Arc::new(Semaphore::new(admin::MAX_WATCHERS)),
            stopped: stopped.clone(),
            clock: clock.clone(),
        });
        let admin_api = Arc::new(AdminApi(operations));
        let scrape = Scrape {
            keeper: keeper.clone(),
            election: state.election().cloned(),
            key_sets: key_sets.clone(),
            watching,
            remotes,
            distribution: distribution.clone(),
            istiod_tls: istiod_tls.clone(),
            cacerts: cacerts.clone(),
            ledger: ledger.clone(),
            metrics: metrics.clone(),
            clock: clock.clone(),
        };

        let (drained, last) = watch::channel(false);
        for (task, socket, router) in [
            ("health port", health_socket, http::health_router(health.clone(), checkup.clone(), clock.clone())),
            ("metrics port", metrics_socket, http::metrics_router(Arc::new(scrape))),
        ] {
            last_tasks.spawn(task, PlainDoor::new(router, clock.clone()).run(socket, last.clone()));
        }
        if let Some((socket, operators, tls)) = admin_network {
            tasks.spawn(
                "admin port",
                NetworkDoor::new(tls, Arc::new(operators), admin_api.clone(), metrics.clone(), clock.clone(), entropy.clone())
                    .run(socket, stopped.clone()),
            );
        }
        tasks.spawn("admin socket", LocalDoor::new(admin_api, clock.clone(), entropy.clone()).run(admin_socket, stopped.clone()));
        tasks.spawn("checkup", {
            let stopped = stopped.clone();
            async move { checkup.run(until(stopped)).await }
        });
        tasks.spawn("keeper", {
            let (keeper, stopped) = (keeper.clone(), stopped.clone());
            async move { keeper.run(until(stopped)).await }
        });
        if let Some(distribution) = distribution {
            tasks.spawn("root ConfigMaps", distribution.run(leading.clone(), until(stopped.clone())));
        }
        if let Some(istiod_tls) = istiod_tls {
            tasks.spawn("istiod-tls", istiod_tls.run(leading.clone(), until(stopped.clone())));
        }
        if let Some(cacerts) = cacerts {
            tasks.spawn("cacerts", cacerts.run(leading, until(stopped.clone())));
        }
        tasks.spawn("key sets", key_sets.run(until(stopped.clone())));
        tasks.spawn("ledger probe", {
            let (health, ledger, metrics, clock, stopped) = (health.clone(), ledger.clone(), metrics.clone(), clock.clone(), stopped.clone());
            async move { health.watch(ledger, metrics, clock, until(stopped)).await }
        });
        tasks.spawn("pruning", prune(ledger, config.ledger_retention, clock, until(stopped)));
        Ok(Self { addresses, generation: keeper.published(), stop, drained, health, metrics, grpc_health, vigil, tasks, last_tasks, traces })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The trust bundle, PEM.
    pub fn bundle(&self) -> Arc<str> {
        self.generation.load().bundle.clone()
    }

    /// Ends when the first of the tasks and threads that live as long as the server has ended or panicked, which only a bug does. From then on this
    /// replica isn't ready. Whoever runs it shuts it down, and lets it be started anew.
    pub async fn ended(&self) -> Ended {
        let ended = self.vigil.first_ended().await;
        self.health.drain();
        ended
    }

    /// Who notices what ends before its time.
    pub fn vigil(&self) -> &Vigil {
        &self.vigil
    }

    /// From now on metrics show this as the number of lines of the log that could not be written.
    pub fn count_lost_lines(&self, lost: Arc<AtomicU64>) {
        self.metrics.count_lost_lines(lost);
    }

    /// Goes down in order: not ready, no new connections, requests that are under way finish, then everything stops.
    pub async fn shut_down(mut self) {
        self.vigil.is_over();
        self.health.drain();
        self.grpc_health.set_service_status("", ServingStatus::NotServing).await;
        self.grpc_health.set_not_serving::<CsrService>().await;
        // An error means that every task has ended already.
        let _ = self.stop.send(true);
        self.tasks.all_ended().await;
        let _ = self.drained.send(true);
        self.last_tasks.all_ended().await;
        self.traces.shut_down().await;
        if let Err(error) = std::fs::remove_file(&self.addresses.admin) {
            tracing::debug!(%error, "the admin socket was gone already");
        }
    }
}

/// How long a start waits for the first lists of the cluster.
const FIRST_LISTS: Duration = Duration::from_secs(15);

async fn open_ledger(
    config: &Config,
    replica: &str,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
    watch: CommitWatch,
) -> Result<Arc<dyn Ledger>, OpenError> {
    let Some(settings) = &config.ledger_postgres else {
        return Ok(Arc::new(SqliteLedger::open_watched(&config.ledger_path, entropy.as_ref(), watch)?));
    };
    let vigil = watch.vigil.clone();
    let database = PostgresLedger::open(settings, replica, clock.clone(), entropy.as_ref(), Some(watch)).await?;
    match &config.ledger_spool {
        None => Ok(Arc::new(database)),
        Some(settings) => Ok(Arc::new(Spooling::open(database, settings.clone(), clock.clone(), entropy.clone(), vigil).await?)),
    }
}

fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    door::listen(address).map_err(|error| StartError::Listen { key, address: address.to_string(), error })
}

fn local(key: &'static str, socket: &TcpListener) -> Result<SocketAddr, StartError> {
    socket.local_addr().map_err(|error| StartError::Listen { key, address: String::new(), error })
}

/// The bounds on requests; the door adds those on connections.
fn watch_requests(metrics: &Metrics, admission: &Arc<Admission>, ledger: &Arc<dyn Ledger>) {
    let limits = admission.limits();
    metrics.admission_patience(limits.patience);
    let watch = |place, limit, taken: fn(&Admission) -> usize| {
        let admission = admission.clone();
        metrics.watch(place, limit, move || taken(&admission));
    };
    watch(Place::Requests, limits.in_flight, Admission::in_flight);
    watch(Place::AdmissionQueue, limits.in_flight, Admission::waiting);
    watch(Place::Working, limits.working, Admission::working);
    watch(Place::Recording, limits.recording, Admission::recordings);
    let asked = ledger.clone();
    metrics.watch(Place::LedgerQueue, ledger.figures().waiting_limit, move || asked.figures().waiting);
}

/// Forgets what is past its retention: a little at a time, so that issuing never waits for it, and up to 10,000 a second, so that it
/// keeps up with issuing. It looks often: what comes due in a pause is never much.
async fn prune(ledger: Arc<dyn Ledger>, retention: Duration, clock: Arc<dyn Clock>, shutdown: impl Future<Output = ()>) {
    const BATCH: u32 = 1000;
    const PAUSE: Duration = Duration::from_secs(5);
    const SHORT_PAUSE: Duration = Duration::from_millis(100);
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let pruned = tokio::select! {
            pruned = ledger.prune(clock.now() - retention, BATCH) => pruned,
            () = &mut shutdown => return,
        };
        let pause = match pruned {
            Ok(BATCH) => SHORT_PAUSE,
            Ok(_) => PAUSE,
            Err(error) => {
                tracing::warn!(%error, "the ledger was not pruned");
                PAUSE
            }
        };
        tokio::select! {
            () = clock.sleep_until(clock.monotonic() + pause) => {}
            () = &mut shutdown => return,
        }
    }
}

/// Ends when `stopped` turns true, or when nobody could say so any more.
async fn until(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone: the process is ending.
    let _ = stopped.wait_for(|stop| *stop).await;
}
