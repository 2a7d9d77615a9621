//! Who answers which request of the CSR port: the CSR API, which almost all of them are for, or one of the services beside it.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::service::Routes;
use tonic_health::server::HealthReporter;
use tower::{Service, ServiceExt};

use super::csr_api::CsrApi;
use super::metrics::Rpc;
use super::proto;
use super::proto::istio::istio_certificate_service_server::IstioCertificateServiceServer;

/// The CSR API as a gRPC service.
pub(super) type CsrService = IstioCertificateServiceServer<CsrApi>;

/// Every service of the port. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Services {
    api: Arc<CsrApi>,
    csr: CsrService,
    rest: Routes,
}

impl Services {
    /// The CSR API, with gRPC's health and reflection beside it.
    ///
    /// # Errors
    /// Descriptors that can't be read, which are our own.
    pub(super) async fn new(api: CsrApi, max_request_bytes: usize) -> Result<(Self, HealthReporter), tonic_reflection::server::Error> {
        let (reporter, health) = tonic_health::server::health_reporter();
        let api = Arc::new(api);
        let csr = IstioCertificateServiceServer::from_arc(api.clone()).max_decoding_message_size(max_request_bytes);
        // The reporter starts with "" (the whole server) as SERVING; the service by its name is added here.
        reporter.set_serving::<CsrService>().await;
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .with_service_name("istio.v1.auth.IstioCertificateService")
                .with_service_name("grpc.health.v1.Health")
        };
        let (v1, v1alpha) = (reflection().build_v1()?, reflection().build_v1alpha()?);
        let rest = Routes::new(health).add_service(v1).add_service(v1alpha).prepare();
        Ok((Self { api, csr, rest }, reporter))
    }

    /// Has the right one answer. The CSR API is asked directly: a router that serves four services costs each of its requests some microseconds.
    pub(super) async fn answer(mut self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        match Rpc::of_path(request.uri().path()) {
            Rpc::CreateCertificate => match self.api.turn_away(&request) {
                Some(response) => Ok(response),
                None => self.csr.call(request).await,
            },
            _ => self.rest.oneshot(request).await,
        }
    }
}
