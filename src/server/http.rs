//! The plain HTTP doors: `/livez` and `/readyz` on one port, `/metrics` on another, each for its own audience.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::health::Health;
use super::metrics::Metrics;

/// `/livez`: the process answers. `/readyz`: it should get requests; where not, the body says why.
pub(super) fn health_router(health: Arc<Health>) -> Router {
    Router::new().route("/livez", get(|| async { "ok\n" })).route("/readyz", get(ready)).with_state(health)
}

async fn ready(State(health): State<Arc<Health>>) -> impl IntoResponse {
    match health.troubles().as_slice() {
        [] => (StatusCode::OK, "ok\n".to_owned()),
        troubles => (StatusCode::SERVICE_UNAVAILABLE, troubles.join("\n") + "\n"),
    }
}

/// `/metrics` in Prometheus's text format; `refresh` brings gauges up to date first.
pub(super) fn metrics_router(metrics: Arc<Metrics>, refresh: Arc<dyn Fn() + Send + Sync>) -> Router {
    let scrape = move || {
        refresh();
        let text = metrics.render();
        async move { ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text) }
    };
    Router::new().route("/metrics", get(scrape))
}

/// Serves a router until `shutdown` turns true.
pub(super) async fn serve(socket: TcpListener, router: Router, mut shutdown: watch::Receiver<bool>) {
    let stop = async move {
        // An error means that the sender is gone: the process is ending.
        let _ = shutdown.wait_for(|stop| *stop).await;
    };
    if let Err(error) = axum::serve(socket, router).with_graceful_shutdown(stop).await {
        tracing::error!(%error, "an HTTP door closed");
    }
}
