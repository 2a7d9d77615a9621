//! The metrics of gRPC under go-grpc-prometheus's names, with every counter of every RPC at hand: a request looks nothing up.

use std::time::Duration;

use prometheus::{Error, Histogram, HistogramVec, IntCounter, IntCounterVec, Opts, Registry, histogram_opts};
use tonic::Code;

use super::{SECONDS, register};
use crate::server::refusals::code_label;

/// An RPC, as far as labels may name it: paths that nobody serves are all `Unknown`, because a caller chooses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Rpc {
    CreateCertificate,
    HealthCheck,
    HealthWatch,
    Reflection,
    Unknown,
}

impl Rpc {
    /// The RPC of a request path.
    pub(in crate::server) fn of_path(path: &str) -> Self {
        match path {
            "/istio.v1.auth.IstioCertificateService/CreateCertificate" => Self::CreateCertificate,
            "/grpc.health.v1.Health/Check" => Self::HealthCheck,
            "/grpc.health.v1.Health/Watch" => Self::HealthWatch,
            path if path.starts_with("/grpc.reflection.") => Self::Reflection,
            _ => Self::Unknown,
        }
    }

    /// `grpc_type`, `grpc_service`, `grpc_method`.
    pub(in crate::server) fn labels(self) -> [&'static str; 3] {
        match self {
            Self::CreateCertificate => ["unary", "istio.v1.auth.IstioCertificateService", "CreateCertificate"],
            Self::HealthCheck => ["unary", "grpc.health.v1.Health", "Check"],
            Self::HealthWatch => ["server_stream", "grpc.health.v1.Health", "Watch"],
            Self::Reflection => ["server_stream", "grpc.reflection", "ServerReflectionInfo"],
            Self::Unknown => ["unary", "unknown", "unknown"],
        }
    }
}

/// The gRPC codes, 0 to 16.
const CODES: usize = 17;

/// What is counted of each RPC.
#[derive(Debug)]
pub(super) struct Rpcs {
    create_certificate: Handles,
    health_check: Handles,
    health_watch: Handles,
    reflection: Handles,
    unknown: Handles,
}

#[derive(Debug)]
struct Handles {
    started: IntCounter,
    received: IntCounter,
    sent: IntCounter,
    /// By code, in the order of their numbers.
    handled: Vec<IntCounter>,
    seconds: Histogram,
}

impl Rpcs {
    pub(super) fn new(registry: &Registry) -> Result<Self, Error> {
        let [kind, service, method] = ["grpc_type", "grpc_service", "grpc_method"];
        let counters = |name: &str, help: &str, labels: &[&str]| register(registry, IntCounterVec::new(Opts::new(name, help), labels)?);
        let labels = [kind, service, method];
        let started = counters("grpc_server_started_total", "RPCs started on the server.", &labels)?;
        let received = counters("grpc_server_msg_received_total", "RPC messages received.", &labels)?;
        let sent = counters("grpc_server_msg_sent_total", "RPC messages sent.", &labels)?;
        let handled = counters("grpc_server_handled_total", "RPCs completed on the server, by code.", &[kind, service, method, "grpc_code"])?;
        let seconds = histogram_opts!("grpc_server_handling_seconds", "Time from the headers of an RPC to its answer.", SECONDS.to_vec());
        let seconds = register(registry, HistogramVec::new(seconds, &labels)?)?;
        let handles = |rpc: Rpc| {
            let [kind, service, method] = rpc.labels();
            let code = |code: usize| handled.with_label_values(&[kind, service, method, code_label(Code::from(code as i32))]);
            Handles {
                started: started.with_label_values(&rpc.labels()),
                received: received.with_label_values(&rpc.labels()),
                sent: sent.with_label_values(&rpc.labels()),
                handled: (0..CODES).map(code).collect(),
                seconds: seconds.with_label_values(&rpc.labels()),
            }
        };
        Ok(Self {
            create_certificate: handles(Rpc::CreateCertificate),
            health_check: handles(Rpc::HealthCheck),
            health_watch: handles(Rpc::HealthWatch),
            reflection: handles(Rpc::Reflection),
            unknown: handles(Rpc::Unknown),
        })
    }

    pub(super) fn started(&self, rpc: Rpc) {
        let handles = self.of(rpc);
        handles.started.inc();
        handles.received.inc();
    }

    pub(super) fn handled(&self, rpc: Rpc, code: Code, took: Duration) {
        let handles = self.of(rpc);
        if let Some(handled) = handles.handled.get(code as usize) {
            handled.inc();
        }
        handles.seconds.observe(took.as_secs_f64());
        if code == Code::Ok {
            handles.sent.inc();
        }
    }

    fn of(&self, rpc: Rpc) -> &Handles {
        match rpc {
            Rpc::CreateCertificate => &self.create_certificate,
            Rpc::HealthCheck => &self.health_check,
            Rpc::HealthWatch => &self.health_watch,
            Rpc::Reflection => &self.reflection,
            Rpc::Unknown => &self.unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_counted_under_its_own_name() {
        let registry = Registry::new();
        let rpcs = Rpcs::new(&registry).unwrap();
        let count = |code: Code| {
            let families = registry.gather();
            let handled = families.iter().find(|family| family.name() == "grpc_server_handled_total").unwrap();
            let named = |metric: &&prometheus::proto::Metric| {
                let label = |name: &str| metric.get_label().iter().find(|pair| pair.name() == name).unwrap().value().to_owned();
                label("grpc_method") == "CreateCertificate" && label("grpc_code") == code_label(code)
            };
            handled.get_metric().iter().find(named).unwrap().get_counter().get_value()
        };
        for number in 0..CODES {
            let code = Code::from(number as i32);
            assert_eq!(count(code), 0.0, "there before the first one");
            rpcs.handled(Rpc::CreateCertificate, code, Duration::ZERO);
            assert_eq!(count(code), 1.0, "{code:?}");
        }
        assert_eq!(Code::from(CODES as i32), Code::Unknown, "there are no more");
    }
}
