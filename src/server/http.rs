//! The plain HTTP doors: `/livez` and `/readyz` on one port, `/metrics` on another, each for its own audience.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::checkup::{self, Checkup};
use super::door::{Door, Visitor, accept};
use super::health::Health;
use super::scrape::Scrape;
use crate::bounds::{Crowd, CrowdLimits};
use crate::clock::{Clock, within};

/// `/livez`: the process answers. `/readyz`: it should get requests; where not, the body says why. `/readyz?verbose`: the same status, and
/// everything that `meshmint check` knows, without names and paths.
pub(super) fn health_router(health: Arc<Health>, checkup: Arc<Checkup>, clock: Arc<dyn Clock>) -> Router {
    Router::new().route("/livez", get(|| async { "ok\n" })).route("/readyz", get(ready)).with_state((health, checkup, clock))
}

type HealthDoor = (Arc<Health>, Arc<Checkup>, Arc<dyn Clock>);

async fn ready(State((health, checkup, clock)): State<HealthDoor>, RawQuery(query): RawQuery) -> impl IntoResponse {
    let troubles = health.troubles(clock.now());
    let status = if troubles.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let verbose = query.is_some_and(|query| query.split('&').any(|part| part.split('=').next() == Some("verbose")));
    if verbose {
        let verdict = if troubles.is_empty() { "readyz check passed".to_owned() } else { format!("readyz check failed: {}", troubles.join("; ")) };
        return (status, format!("{}{verdict}\n", checkup::text(&checkup.recent().await)));
    }
    (status, if troubles.is_empty() { "ok\n".to_owned() } else { troubles.join("\n") + "\n" })
}

/// `/metrics` in Prometheus's text format. It reads files of the system, so it has a thread of its own while it does.
pub(super) fn metrics_router(scrape: Arc<Scrape>) -> Router {
    let answer = move || async move {
        match tokio::task::spawn_blocking(move || scrape.text()).await {
            Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
            Err(error) => {
                tracing::error!(%error, "a scrape failed: this is a bug, please report it");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    };
    Router::new().route("/metrics", get(answer))
}

/// Connections that one of these doors holds at once. Probes and scrapers come one at a time, so whoever holds more than others goes first: nobody can keep
/// the kubelet's probe out, who has one connection and asks at once.
const CROWD: CrowdLimits = CrowdLimits { places: 64, strangers: 64, bytes: 8 * 1024 * 1024, grace: Duration::ZERO };
/// How long a request may take to come, and how long the whole connection.
const REQUEST_TIME: Duration = Duration::from_secs(2);
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// Bytes of a request that are read.
const MAX_REQUEST_BYTES: usize = 16 * 1024;

/// A plain door: one request for each connection, few connections, little time. Strangers may reach it, and what they hold is taken from the same
/// limit of open files as the CSR port.
#[derive(Debug)]
pub(super) struct PlainDoor {
    router: Router,
    clock: Arc<dyn Clock>,
}

impl PlainDoor {
    pub(super) fn new(router: Router, clock: Arc<dyn Clock>) -> Self {
        Self { router, clock }
    }

    /// Answers until `shutdown` turns true.
    pub(super) async fn run(self, socket: TcpListener, shutdown: watch::Receiver<bool>) {
        let clock = self.clock.clone();
        accept(socket, Arc::new(self), Crowd::new(CROWD, clock.clone()), (CONNECTION_TIME, REQUEST_TIME), clock, shutdown).await;
    }
}

impl Door for PlainDoor {
    type Stream = TcpStream;

    async fn serve(self: Arc<Self>, visitor: Visitor<TcpStream>) {
        let Visitor { stream, member, .. } = visitor;
        let service = TowerToHyperService::new(self.router.clone());
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_TIME)
            .max_buf_size(MAX_REQUEST_BYTES)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            served = within(self.clock.as_ref(), CONNECTION_TIME, served) => {
                if let Some(Err(error)) = served {
                    tracing::debug!(%error, "an HTTP connection broke");
                }
            }
            _ = member.departure() => {}
        }
    }

    fn turned_away(&self, reason: &'static str) {
        tracing::debug!(reason, "an HTTP connection was closed");
    }
}
