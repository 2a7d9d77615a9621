//! The plain HTTP doors: `/livez` and `/readyz` on one port, `/metrics` on another, each for its own audience.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::checkup::{self, Checkup};
use super::health::Health;
use super::scrape::Scrape;
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

/// Connections that one of these doors holds at once; more are closed. Probes and scrapers come one at a time.
const MAX_CONNECTIONS: usize = 64;
/// How long a connection may take for its one request.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// The pause where the system gives no more sockets.
const NO_SOCKET_PAUSE: Duration = Duration::from_millis(50);

/// Serves a router until `shutdown` ends: one request for each connection, few connections, little time. Strangers may reach these
/// doors, and what they hold is taken from the same limit of open files as the CSR port.
pub(super) async fn serve(socket: TcpListener, router: Router, clock: Arc<dyn Clock>, shutdown: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = &mut shutdown => return,
        };
        let Ok((stream, _)) = accepted else {
            clock.sleep_until(clock.monotonic() + NO_SOCKET_PAUSE).await;
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let (service, clock) = (TowerToHyperService::new(router.clone()), clock.clone());
        tokio::spawn(async move {
            let served = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
            if let Some(Err(error)) = within(clock.as_ref(), CONNECTION_TIME, served).await {
                tracing::debug!(%error, "an HTTP connection broke");
            }
            drop(place);
        });
    }
}
