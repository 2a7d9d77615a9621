//! Whether this server is well: everything that it can find out about itself, for `meshmint check` (the admin API's `Check`) and for
//! `/readyz?verbose`. Measuring is here; verdicts are in `facts`, ids and hints in `table`.

mod controllers;
mod facts;
mod refused;
mod remotes;
mod table;
mod window;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use time::OffsetDateTime;

pub use self::facts::Fact;
pub(super) use self::facts::{Lifetimes, ServingTimes};
pub use self::table::{Check, Row};
use self::window::{Counts, Window};
use super::health::Health;
use super::metrics::Metrics;
use super::settings::State;
use crate::authority::{AuthorityState, refused_by_peers_in};
use crate::clock::{Clock, Entropy, readable, within};
use crate::cluster::{KeySets, Kubernetes, Remotes};
use crate::controllers::{Cacerts, Distribution, IstiodTls};
use crate::issuance::Admission;
use crate::ledger::{CertificateFilter, Ledger};
use crate::rotation::Keeper;
use crate::stores::StateStore as _;

/// How long disk and ledger may take, each.
const PATIENCE: Duration = Duration::from_secs(5);
/// The health port is open to strangers: however often they ask, it is looked only so often.
const FRESH: Duration = Duration::from_secs(2);
/// The pause between two looks at the counters.
const SAMPLE_PAUSE: Duration = Duration::from_secs(5);
/// How far back it is looked for what was turned away, and for how requests ended.
const MINUTE: Duration = Duration::from_secs(60);
const MINUTES: Duration = Duration::from_secs(300);

/// What a checkup looks at.
#[derive(Debug)]
pub(super) struct CheckupParts {
    pub(super) keeper: Arc<Keeper>,
    pub(super) key_sets: Arc<KeySets>,
    /// None: there is no cluster.
    pub(super) kubernetes: Option<Arc<Kubernetes>>,
    /// None: there may be no others.
    pub(super) remotes: Option<Arc<Remotes>>,
    /// None: others see to the root ConfigMaps.
    pub(super) distribution: Option<Arc<Distribution>>,
    /// None: others see to istiod's certificate.
    pub(super) istiod_tls: Option<Arc<IstiodTls>>,
    /// None: no istiod has an intermediate of ours.
    pub(super) cacerts: Option<Arc<Cacerts>>,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) state: State,
    pub(super) admission: Arc<Admission>,
    pub(super) health: Arc<Health>,
    pub(super) metrics: Arc<Metrics>,
    /// Whether workloads ask here.
    pub(super) faces_mesh: bool,
    pub(super) lifetimes: Lifetimes,
    pub(super) max_connections: usize,
    /// The folder of the ledger or of its spool: its disk is looked at. `None` where there is neither.
    pub(super) ledger_folder: Option<PathBuf>,
    pub(super) replica: String,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
}

/// Looks at a running server.
#[derive(Debug)]
pub(super) struct Checkup {
    parts: CheckupParts,
    /// On both clocks.
    started: (OffsetDateTime, Duration),
    window: Mutex<Window>,
    /// How requests ended in the last minutes.
    outcomes: Mutex<Window>,
    /// What was found last, and when.
    last: tokio::sync::Mutex<Option<(Duration, Arc<[Fact]>)>>,
}

/// What the metrics say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reading {
    connections: usize,
    panics: u64,
    /// What was turned away since the start and is no caller's fault, by reason.
    turned_away: Counts,
    /// How requests ended since the start: the reason of a refusal, or [`refused::SERVED`].
    outcomes: Counts,
}

impl Checkup {
    pub(super) fn new(parts: CheckupParts) -> Self {
        let started = (parts.clock.now(), parts.clock.monotonic());
        let (window, outcomes) = (Mutex::new(Window::over(MINUTE)), Mutex::new(Window::over(MINUTES)));
        Self { parts, started, window, outcomes, last: tokio::sync::Mutex::default() }
    }

    /// Since the server started.
    pub(super) fn uptime(&self) -> Duration {
        self.parts.clock.monotonic().saturating_sub(self.started.1)
    }

    /// Keeps the counts of the last minute until `shutdown` ends.
    pub(super) async fn run(&self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let Reading { turned_away, outcomes, .. } = Reading::of(&self.parts.metrics);
            let now = self.parts.clock.monotonic();
            self.window.lock().unwrap_or_else(PoisonError::into_inner).note(now, turned_away);
            self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).note(now, outcomes);
            tokio::select! {
                () = self.parts.clock.sleep_until(self.parts.clock.monotonic() + SAMPLE_PAUSE) => {}
                () = &mut shutdown => return,
            }
        }
    }

    /// What was found a moment ago, or is found now.
    pub(super) async fn recent(&self) -> Arc<[Fact]> {
        let mut last = self.last.lock().await;
        let now = self.parts.clock.monotonic();
        match last.as_ref() {
            Some((at, facts)) if now.saturating_sub(*at) < FRESH => facts.clone(),
            _ => {
                let facts: Arc<[Fact]> = self.look().await.into();
                *last = Some((now, facts.clone()));
                facts
            }
        }
    }

    /// Everything, in the order of the table.
    pub(super) async fn look(&self) -> Vec<Fact> {
        let mut facts = self.process();
        facts.extend(self.load());
        let (state, newest, disks) = tokio::join!(self.state(), self.newest_record(), self.disks());
        facts.extend(disks);
        let written = state.as_ref().ok().and_then(newest_time);
        facts.push(facts::clock(self.parts.clock.now(), newest.max(written), self.started.0, self.uptime()));
        facts.extend(self.authority());
        facts.push(facts::accepted(&refused_by_peers_in(&self.parts.keeper.state())));
        facts.extend(self.ledger(state.as_ref().ok()));
        let election = self.parts.state.election().map(|election| election.status());
        facts.push(facts::leader(matches!(self.parts.state, State::File(..)), election.as_ref()));
        facts.push(facts::followed(self.parts.keeper.state_age()));
        facts.push(facts::complete(&self.parts.keeper.missing()));
        facts.push(match (state, &self.parts.state) {
            (Err(fact), _) => fact,
            (Ok(_), State::File(..)) => Fact::ok(Check::StatePrivate, "state and keys are ours alone"),
            (Ok(_), State::Secrets(..)) => Fact::ok(Check::StatePrivate, "state and keys are in Secrets, for whom the cluster lets read those"),
        });
        let keys = self.parts.key_sets.status();
        facts.extend(keys.iter().enumerate().map(|(index, status)| facts::token_keys(index, keys.len(), status)));
        facts.push(refused::token_issuer(&keys));
        match self.parts.faces_mesh {
            true => facts.extend(facts::cluster(self.parts.kubernetes.as_ref().map(|kubernetes| kubernetes.status()).as_ref())),
            false => facts.push(Fact::ok(Check::ClusterKnown, "nobody is served here: role authority")),
        }
        let others = self.parts.remotes.as_ref().map(|remotes| (remotes.watch(), remotes.status()));
        facts.extend(remotes::remotes(others, self.parts.clock.now()));
        let distribution = self.parts.distribution.as_ref().map(|distribution| distribution.status());
        facts.extend(controllers::root_maps(distribution.as_deref(), self.parts.clock.monotonic()));
        let istiod = self.parts.istiod_tls.as_ref().map(|istiod| istiod.status());
        facts.extend(controllers::istiod(istiod.as_deref(), self.parts.clock.now()));
        let cacerts = self.parts.cacerts.as_ref().map(|cacerts| cacerts.status());
        facts.extend(controllers::cacerts(cacerts.as_deref(), self.parts.clock.now()));
        facts.sort_by_key(|fact| fact.check);
        facts
    }

    fn process(&self) -> Vec<Fact> {
        let CheckupParts { health, entropy, .. } = &self.parts;
        let running = format!("meshmint {} has been up for {}", env!("CARGO_PKG_VERSION"), facts::text(self.uptime()));
        let mut drawn = [0; 32];
        vec![
            Fact::ok(Check::Running, running).with_detail(format!("replica {}", self.parts.replica)),
            match health.is_draining() {
                true => Fact::failed(Check::NotDraining, "draining: the process is shutting down"),
                false => Fact::ok(Check::NotDraining, "not draining"),
            },
            match entropy.fill(&mut drawn) {
                Ok(()) if drawn != [0; 32] => Fact::ok(Check::Entropy, "there are random bytes"),
                Ok(()) => Fact::failed(Check::Entropy, "the random bytes are all zero"),
                Err(error) => Fact::failed(Check::Entropy, error.to_string()),
            },
        ]
    }

    fn load(&self) -> Vec<Fact> {
        let CheckupParts { admission, metrics, max_connections, .. } = &self.parts;
        let Reading { connections, panics, turned_away, outcomes } = Reading::of(metrics);
        let ended = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).since(&outcomes);
        let recent = self.window.lock().unwrap_or_else(PoisonError::into_inner).since(&turned_away);
        vec![
            match panics {
                0 => Fact::ok(Check::NoPanics, "no request has panicked"),
                count => Fact::failed(Check::NoPanics, format!("{count} requests panicked since the start")),
            },
            facts::room(Check::RequestsRoom, "requests are in progress", admission.in_flight(), admission.limits().in_flight),
            facts::room(Check::ConnectionsRoom, "connections are open", connections, *max_connections),
            facts::refusals(&recent),
            refused::callers(&ended),
            facts::open_files(getrlimit(Resource::Nofile).current, *max_connections),
        ]
    }

    fn authority(&self) -> Vec<Fact> {
        let CheckupParts { keeper, lifetimes, health, clock, faces_mesh, .. } = &self.parts;
        let (now, generation) = (clock.now(), keeper.published().load_full());
        let numbers = format!("generation {}, bundle {}, root {}", generation.number, generation.bundle_number, generation.root);
        vec![
            facts::root(now, generation.root_not_after, lifetimes).with_detail(numbers.clone()),
            facts::issuing(now, generation.chain_end, keeper.outlook().renewal_due, lifetimes).with_detail(numbers),
            match faces_mesh {
                true => facts::serving(now, health.serving()),
                false => Fact::ok(Check::ServingCertificate, "there is no CSR port here: role authority"),
            },
            match keeper.failures() {
                0 => Fact::ok(Check::AuthorityRenewals, "nothing that was due has failed"),
                count => Fact::warning(Check::AuthorityRenewals, format!("what was due failed {count} times since the start")),
            },
        ]
    }

    fn ledger(&self, state: Option<&AuthorityState>) -> Vec<Fact> {
        let CheckupParts { ledger, health, clock, .. } = &self.parts;
        let mut found = vec![match health.ledger_trouble() {
            None => Fact::ok(Check::LedgerWritable, "the ledger can be written"),
            Some(reason) => Fact::failed(Check::LedgerWritable, "the ledger can't be written: nothing is issued").with_detail(reason.as_str()),
        }];
        let figures = ledger.figures();
        found.extend([facts::keeps_up(&figures), facts::standby(&figures), facts::drained(&figures)]);
        let Some(mark) = state.and_then(|state| state.ledger.as_ref()) else { return found };
        found.push(match mark.id == ledger.id() {
            true => Fact::ok(Check::LedgerIdentity, "the ledger is the one of this state").with_detail(mark.id.clone()),
            false => Fact::failed(Check::LedgerIdentity, "the state names another ledger").with_detail(format!(
                "the state names {}, {} is open",
                mark.id,
                ledger.id()
            )),
        });
        found.push(match mark.incomplete_before {
            Some(before) if mark.incomplete_until.is_none_or(|until| clock.now() < until) => {
                Fact::warning(Check::LedgerComplete, format!("records before {} are missing", readable(before)))
            }
            Some(before) => Fact::ok(Check::LedgerComplete, format!("records before {} are missing; all of that has expired", readable(before))),
            // The state doesn't say so yet.
            None if figures.lost > 0 => Fact::failed(Check::LedgerComplete, format!("{} certificates are no longer on record", figures.lost)),
            None => Fact::ok(Check::LedgerComplete, "no records are missing"),
        });
        found
    }

    /// The document: read from the disk anew, once folders, document and keys have been looked at; of Secrets, as it is followed.
    async fn state(&self) -> Result<AuthorityState, Fact> {
        let State::File(store, _) = &self.parts.state else { return Ok(self.parts.keeper.state().as_ref().clone()) };
        let unsafe_place = |error: String| Fact::failed(Check::StatePrivate, "state or keys can't be read, or others can").with_detail(error);
        let read = async {
            store.check_place().await?;
            store.load().await
        };
        match within(self.parts.clock.as_ref(), PATIENCE, read).await {
            Some(Ok(Some((state, _)))) => Ok(state),
            Some(Ok(None)) => Err(unsafe_place("the document is gone".to_owned())),
            Some(Err(error)) => Err(unsafe_place(error.to_string())),
            None => Err(unsafe_place("reading takes too long".to_owned())),
        }
    }

    /// When the newest certificate on record was issued; `None` where the ledger can't say. Whether it can be written is asked elsewhere.
    async fn newest_record(&self) -> Option<OffsetDateTime> {
        let CheckupParts { ledger, clock, .. } = &self.parts;
        let everything = CertificateFilter::default();
        let page = within(clock.as_ref(), PATIENCE, ledger.list(&everything, None, 1, clock.now())).await?.ok()?;
        page.certificates.first().map(|newest| newest.record.issued_at)
    }

    async fn disks(&self) -> Vec<Fact> {
        let ledger = self.parts.ledger_folder.clone();
        let state = match &self.parts.state {
            State::File(store, _) => Some(store.folder().to_owned()),
            State::Secrets(..) => None,
        };
        let in_a_database = ledger.is_none().then(|| Fact::ok(Check::LedgerSpace, "the ledger's disk is the database's"));
        let in_secrets = state.is_none().then(|| Fact::ok(Check::StateSpace, "the state's disk is the cluster's"));
        let places = [ledger.map(|folder| (Check::LedgerSpace, "the ledger", folder)), state.map(|folder| (Check::StateSpace, "the state", folder))];
        let places: Vec<_> = places.into_iter().flatten().collect();
        let checks: Vec<_> = places.iter().map(|(check, ..)| *check).collect();
        // A disk that hangs must not take a thread of the runtime with it.
        let measured = tokio::task::spawn_blocking(|| {
            let look = |(check, what, folder): (Check, &str, PathBuf)| match rustix::fs::statvfs(&folder) {
                Ok(disk) => facts::space(check, what, disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize)),
                Err(error) => Fact::failed(check, format!("{what}'s disk can't be looked at")).with_detail(format!("{}: {error}", folder.display())),
            };
            places.into_iter().map(look).collect::<Vec<_>>()
        });
        let measured = match within(self.parts.clock.as_ref(), PATIENCE, measured).await {
            Some(Ok(facts)) => facts,
            _ => checks.into_iter().map(|check| Fact::failed(check, "the disk doesn't answer")).collect(),
        };
        in_a_database.into_iter().chain(in_secrets).chain(measured).collect()
    }
}

impl Reading {
    fn of(metrics: &Metrics) -> Self {
        let mut reading = Self::default();
        for family in metrics.gather() {
            for metric in family.get_metric() {
                let label = |name: &str| metric.get_label().iter().find(|label| label.name() == name).map(|label| label.value());
                let (count, level) = (metric.get_counter().get_value(), metric.get_gauge().get_value());
                match family.name() {
                    "meshmint_connections" => reading.connections = level as usize,
                    "meshmint_panics_total" => reading.panics = count as u64,
                    "citadel_server_success_cert_issuance_count" => *reading.outcomes.entry(refused::SERVED.to_owned()).or_default() += count as u64,
                    "meshmint_refusals_total" if matches!(label("code"), Some("ResourceExhausted" | "Unavailable")) => {
                        reading.note(label("reason"), count);
                        reading.refused(label("reason"), count);
                    }
                    "meshmint_refusals_total" => reading.refused(label("reason"), count),
                    "meshmint_connections_closed_total" if label("reason").is_some_and(is_our_doing) => reading.note(label("reason"), count),
                    _ => {}
                }
            }
        }
        reading
    }

    fn refused(&mut self, reason: Option<&str>, count: f64) {
        *self.outcomes.entry(reason.unwrap_or("unknown").to_owned()).or_default() += count as u64;
    }

    fn note(&mut self, reason: Option<&str>, count: f64) {
        *self.turned_away.entry(reason.unwrap_or("unknown").to_owned()).or_default() += count as u64;
    }
}

/// Whether a connection that ended for this reason was turned away for want of room.
fn is_our_doing(reason: &str) -> bool {
    reason.starts_with("too_many_") || matches!(reason, "queue_full" | "made_room" | "accept_error")
}

/// The latest time that the state mentions.
fn newest_time(state: &AuthorityState) -> Option<OffsetDateTime> {
    let happened = state.history.iter().map(|entry| entry.at);
    happened.chain(state.authorities.iter().map(|authority| authority.since)).max()
}

/// The report as `/readyz?verbose` shows it: a line for each fact, without names and paths.
pub(super) fn text(facts: &[Fact]) -> String {
    use crate::pki::inspect::Severity;
    let mark = |severity| match severity {
        Severity::Ok => "[+]",
        Severity::Warning => "[!]",
        Severity::Failed => "[-]",
    };
    let word = |severity| match severity {
        Severity::Ok => "ok",
        Severity::Warning => "warn",
        Severity::Failed => "failed",
    };
    let line = |fact: &Fact| format!("{}{} {}: {}\n", mark(fact.severity), fact.check.row().id, word(fact.severity), fact.message);
    facts.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn the_metrics_are_read_by_their_names() {
        let metrics = Metrics::new().unwrap();
        assert_eq!(Reading::of(&metrics).turned_away.values().sum::<u64>(), 0);
        metrics.refused_as(Code::ResourceExhausted, "overloaded");
        metrics.refused_as(Code::Unavailable, "ledger_unavailable");
        metrics.refused_as(Code::Unauthenticated, "no_credential");
        for reason in ["too_many_connections", "queue_full", "accept_error", "no_alpn_h2"] {
            metrics.connection_refused(reason);
        }
        metrics.issued();
        metrics.connection_opened();
        metrics.panicked();
        let Reading { connections, panics, turned_away, outcomes } = Reading::of(&metrics);
        assert_eq!((outcomes["no_credential"], outcomes["overloaded"], outcomes[refused::SERVED]), (1, 1, 1));
        assert_eq!((connections, panics), (1, 1));
        let grown: Vec<_> = turned_away.into_iter().filter(|(_, count)| *count > 0).collect();
        let one = |reason: &str| (reason.to_owned(), 1);
        assert_eq!(grown, [one("accept_error"), one("ledger_unavailable"), one("overloaded"), one("queue_full"), one("too_many_connections")]);
    }

    #[test]
    fn the_text_keeps_details_to_itself() {
        let facts = [
            Fact::ok(Check::Running, "up"),
            Fact::warning(Check::LedgerSpace, "little").with_detail("/secret/path"),
            Fact::failed(Check::TokenKeys, "none").with_detail("https://secret.example"),
        ];
        assert_eq!(text(&facts), "[+]running ok: up\n[!]ledger-space warn: little\n[-]token-keys failed: none\n");
    }
}
