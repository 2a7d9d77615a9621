//! No traces.

use std::future::Future;
use std::sync::Arc;

use http::HeaderMap;
use tonic::Code;

use crate::clock::Clock;
use crate::config::Tracing;
use crate::issuance::Observer;
use crate::server::metrics::Rpc;

/// Nothing.
#[derive(Debug, Clone, Default)]
pub(in crate::server) struct Traces(());

/// Nothing of one request.
#[derive(Debug)]
pub(in crate::server) struct Trace;

impl Traces {
    /// The configuration refuses an endpoint in this build, so there is none.
    pub(in crate::server) fn start(_: Option<&Tracing>, _: &str) -> Result<Self, String> {
        Ok(Self(()))
    }

    pub(in crate::server) fn begin(&self, _: &HeaderMap, _: Rpc, _: &str) -> Trace {
        Trace
    }

    pub(in crate::server) fn observer(&self, inner: Arc<dyn Observer>, _: Arc<dyn Clock>) -> Arc<dyn Observer> {
        inner
    }

    pub(in crate::server) async fn shut_down(self) {}
}

impl Trace {
    pub(in crate::server) fn around<T>(&self, work: impl Future<Output = T>) -> impl Future<Output = T> {
        work
    }

    pub(in crate::server) fn end(self, _: Code) {}
}
