//! The door that Istio knocks at: `istio.v1.auth.IstioCertificateService`. It decodes into an `Ask`, encodes from an `Issued`, and counts.

use std::sync::Arc;

use prost_types::value::Kind as ValueKind;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::connection::{Connection, RequestId};
use super::log_budget::LogBudget;
use super::metrics::Metrics;
use super::proto::istio::istio_certificate_service_server::IstioCertificateService;
use super::proto::istio::{IstioCertificateRequest, IstioCertificateResponse};
use super::refusals;
use crate::clock::{Clock, readable};
use crate::issuance::{Ask, Credential, Issued, Issuer, KeyProof, Refusal, RequestError, Wants};

/// The service.
#[derive(Debug)]
pub(super) struct CsrApi {
    issuer: Arc<Issuer>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    log_budget: LogBudget,
}

impl CsrApi {
    pub(super) fn new(issuer: Arc<Issuer>, metrics: Arc<Metrics>, clock: Arc<dyn Clock>) -> Self {
        Self { issuer, metrics, clock, log_budget: LogBudget::default() }
    }
}

#[tonic::async_trait]
impl IstioCertificateService for CsrApi {
    async fn create_certificate(&self, request: Request<IstioCertificateRequest>) -> Result<Response<IstioCertificateResponse>, Status> {
        self.metrics.csr_received();
        let (metadata, extensions, message) = request.into_parts();
        let connection = extensions.get::<Connection>();
        let request_id = extensions.get::<RequestId>().map_or("", |id| id.0.as_str());
        let outcome = match ask(&metadata, connection, message) {
            Ok(ask) => self.issuer.issue(ask).await,
            Err(refusal) => Err(refusal),
        };
        if let Some(connection) = connection {
            connection.milestones.answered.notify_one();
        }
        match outcome {
            Ok(issued) => {
                self.metrics.issued();
                if let Some(connection) = connection {
                    connection.milestones.authenticated.notify_one();
                }
                tracing::debug!(
                    request_id,
                    identity = issued.identity.as_ref().map(tracing::field::display),
                    serial = issued.serial,
                    generation = issued.generation.0,
                    not_after = readable(issued.not_after),
                    "issued"
                );
                Ok(Response::new(response(&issued)))
            }
            Err(refusal) => {
                let status = refusals::status(&refusal);
                self.metrics.refused(&refusal, status.code());
                if self.log_budget.take(self.clock.monotonic()) {
                    let peer = connection.and_then(|connection| connection.peer).map(|peer| peer.to_string()).unwrap_or_default();
                    tracing::info!(request_id, peer, code = refusals::code_label(status.code()), reason = refusal.reason(), detail = %refusal, "refused");
                } else {
                    self.metrics.log_line_left_out();
                }
                Err(status)
            }
        }
    }
}

fn ask(metadata: &MetadataMap, connection: Option<&Connection>, message: IstioCertificateRequest) -> Result<Ask, Refusal> {
    let fields = message.metadata.unwrap_or_default().fields;
    let text = |name: &'static str| match fields.get(name).and_then(|value| value.kind.as_ref()) {
        None | Some(ValueKind::NullValue(_)) => Ok(None),
        Some(ValueKind::StringValue(text)) => Ok(Some(text.clone())),
        Some(_) => Err(RequestError::MetadataType(name)),
    };
    Ok(Ask {
        credential: credential(metadata, connection),
        wants: Wants { lifetime_seconds: message.validity_duration, impersonate: text("ImpersonatedIdentity")?, cert_signer: text("CertSigner")? },
        key_proof: KeyProof::Csr(message.csr),
    })
}

/// RFC 6750 §2.1: `authorization: Bearer TOKEN`, once. Something else in its place is never "no token": that would fall back to weaker proof.
fn credential(metadata: &MetadataMap, connection: Option<&Connection>) -> Credential {
    let certificate = connection.and_then(|connection| connection.certificate.clone());
    // Only a hint for choosing whom to ask; what isn't text names no cluster that there is.
    let cluster = metadata.get("clusterid").map(|value| value.to_str().unwrap_or("?").to_owned()).filter(|cluster| !cluster.is_empty());
    let mut values = metadata.get_all("authorization").iter();
    match (values.next(), values.next()) {
        (None, _) => Credential::Workload { cluster, token: None, certificate },
        (Some(_), Some(_)) => Credential::Unusable { reason: "several_authorization_headers" },
        (Some(value), None) => match value.to_str().ok().and_then(|text| text.split_once(' ')) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                Credential::Workload { cluster, token: Some(token.to_owned()), certificate }
            }
            _ => Credential::Unusable { reason: "not_a_bearer_token" },
        },
    }
}

/// The leaf, each intermediate by itself, and last the whole bundle as one element: ztunnel takes its trust anchors from there only.
fn response(issued: &Issued) -> IstioCertificateResponse {
    let mut cert_chain = Vec::with_capacity(issued.chain.len() + 2);
    cert_chain.push(issued.leaf.clone());
    cert_chain.extend(issued.chain.iter().cloned());
    cert_chain.push(issued.bundle.to_string());
    IstioCertificateResponse { cert_chain }
}
