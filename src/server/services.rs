//! Who answers which request of the CSR port: the CSR API, which almost all of them are for, or one of the services beside it.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use futures_util::future::maybe_done;
use http::{Request, Response};
use hyper::body::Incoming;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tonic_health::server::HealthReporter;
use tower::{Service, ServiceExt};

use super::csr_api::CsrApi;
use super::door::{Connection, TooManyFields, Unread, in_turn, read_whole};
use super::guard::Unanswered;
use super::metrics::Rpc;
use super::proto;
use super::proto::istio::istio_certificate_service_server::IstioCertificateServiceServer;
use super::refusals;
use crate::bounds::{FairQueue, Full, Held};
use crate::issuance::Refusal;

/// The CSR API as a gRPC service.
pub(super) type CsrService = IstioCertificateServiceServer<CsrApi>;

/// Every service of the port. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Services {
    api: Arc<CsrApi>,
    csr: CsrService,
    rest: Routes,
    /// Turns to compute, by connection.
    turns: Arc<FairQueue>,
    max_request_bytes: usize,
}

impl Services {
    /// The CSR API, with gRPC's health beside it, and reflection where that is wanted.
    ///
    /// # Errors
    /// Descriptors that can't be read, which are our own.
    pub(super) async fn new(
        api: CsrApi,
        turns: Arc<FairQueue>,
        max_request_bytes: usize,
        reflection: bool,
    ) -> Result<(Self, HealthReporter), tonic_reflection::server::Error> {
        let (reporter, health) = tonic_health::server::health_reporter();
        let api = Arc::new(api);
        let csr = IstioCertificateServiceServer::from_arc(api.clone()).max_decoding_message_size(max_request_bytes);
        // The reporter starts with "" (the whole server) as SERVING; the service by its name is added here.
        reporter.set_serving::<CsrService>().await;
        let mut rest = Routes::new(health);
        if reflection {
            let descriptors = || {
                tonic_reflection::server::Builder::configure()
                    .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
                    .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                    .with_service_name("istio.v1.auth.IstioCertificateService")
                    .with_service_name("grpc.health.v1.Health")
            };
            rest = rest.add_service(descriptors().build_v1()?).add_service(descriptors().build_v1alpha()?);
        }
        Ok((Self { api, csr, rest: rest.prepare(), turns, max_request_bytes }, reporter))
    }

    /// Has the right one answer, once the request is here wholly and its turn has come. The CSR API is asked directly: a router that serves four services
    /// costs each of its requests some microseconds.
    pub(super) async fn answer(
        self,
        request: Request<Incoming>,
        held: Result<Held, TooManyFields>,
        connection: Connection,
    ) -> Result<Response<Body>, Unanswered> {
        let mut held = held.map_err(|TooManyFields| Unanswered::TooManyFields)?;
        let Self { api, mut csr, rest, turns, max_request_bytes } = self;
        let (rpc, share) = (Rpc::of_path(request.uri().path()), connection.share());
        let crowded = |Full| match rpc {
            Rpc::CreateCertificate => api.no_turn(&connection),
            _ => refusals::status(&Refusal::Overloaded).into_http(),
        };
        match rpc {
            // It would be answered for as long as the connection lives; whoever is told so looks no further (gRPC health checking, "Watch").
            Rpc::HealthWatch => return Ok(Status::unimplemented("only Check is served here").into_http()),
            // A conversation: it isn't over when it begins.
            Rpc::Reflection => return rest.oneshot(request.map(Body::new)).await.map_err(|never| match never {}),
            Rpc::CreateCertificate | Rpc::HealthCheck | Rpc::Unknown => {}
        }
        let (head, body) = request.into_parts();
        let mut reading = pin!(maybe_done(read_whole(body, &mut held, max_request_bytes)));
        if rpc == Rpc::CreateCertificate && api.is_turning_away() {
            let mut foreseeing = pin!(in_turn(&turns, share, async { api.turn_away(&head) }));
            // Read meanwhile: what HTTP/2 itself keeps of a body isn't counted.
            let foreseen = poll_fn(|context| {
                let _ = reading.as_mut().poll(context);
                foreseeing.as_mut().poll(context)
            });
            match foreseen.await {
                Ok(None) => {}
                Ok(Some(response)) => return Ok(response),
                Err(full) => return Ok(crowded(full)),
            }
        }
        reading.as_mut().await;
        let Some(body) = reading.take_output() else { return Err(Unanswered::Unread(Unread::Broken)) };
        let request = Request::from_parts(head, body.map_err(Unanswered::Unread)?);
        let _working = connection.works();
        let answering = async {
            match rpc {
                Rpc::CreateCertificate => csr.call(request).await,
                _ => rest.oneshot(request).await,
            }
        };
        match in_turn(&turns, share, answering).await {
            Ok(answered) => answered.map_err(|never| match never {}),
            Err(full) => Ok(crowded(full)),
        }
    }
}
