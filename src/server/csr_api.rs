//! The door that Istio knocks at: `istio.v1.auth.IstioCertificateService`. It decodes into an `Ask`, encodes from an `Issued`, and counts.

use std::sync::Arc;

use http::{Extensions, HeaderMap};
use prost_types::value::Kind as ValueKind;
use tonic::body::Body;
use tonic::{Request, Response, Status};

use super::bearer::{Unusable, bearer};
use super::connection::{Peer, RequestId};
use super::door::Connection;
use super::log_budget::LogBudget;
use super::metrics::Metrics;
use super::proto::istio::istio_certificate_service_server::IstioCertificateService;
use super::proto::istio::{IstioCertificateRequest, IstioCertificateResponse};
use super::refusals;
use crate::callers::{TokenError, UnverifiedToken};
use crate::clock::{Clock, readable};
use crate::issuance::{Ask, Credential, Issued, Issuer, KeyProof, Refusal, RequestError, Wants};
use crate::pki::inspect::printable;

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

    /// Whether anybody was turned away a moment ago, so that [`CsrApi::turn_away`] is worth what it costs.
    pub(super) fn is_turning_away(&self) -> bool {
        self.issuer.is_turning_away()
    }

    /// The refusal of a request that finds no turn to be worked on at all.
    pub(super) fn no_turn(&self, connection: &Connection) -> http::Response<Body> {
        connection.turn_away();
        self.metrics.csr_received();
        let status = refusals::status(&Refusal::Overloaded);
        self.metrics.refused(&Refusal::Overloaded, status.code());
        status.into_http()
    }

    /// The refusal of a request whose turn wouldn't come in time, from its headers alone: what is refused this early costs the least. It
    /// is a matter of cost only; whoever gets past it meets the same question once more.
    pub(super) fn turn_away(&self, head: &http::request::Parts) -> Option<http::Response<Body>> {
        let refusal = self.issuer.foresee(bearer(&head.headers).ok()??).err()?;
        self.metrics.csr_received();
        let status = self.refuse(&refusal, &head.headers, head.extensions.get::<Peer>(), request_id(&head.extensions));
        Some(status.into_http())
    }

    fn refuse(&self, refusal: &Refusal, headers: &HeaderMap, peer: Option<&Peer>, request_id: &str) -> Status {
        // Whoever can't say who he is, and never could on this connection, has time.
        let nobody = matches!(refusal, Refusal::Unauthenticated(_) | Refusal::UnusableCredential(_) | Refusal::Gone(_));
        if let Some(Peer { connection, .. }) = peer
            && (matches!(refusal, Refusal::Overloaded) || nobody && !connection.is_known())
        {
            connection.turn_away();
        }
        let status = refusals::status(refusal);
        self.metrics.refused(refusal, status.code());
        if self.log_budget.take(self.clock.monotonic()) {
            let peer = peer.and_then(|peer| peer.address).map(|address| address.to_string()).unwrap_or_default();
            let (code, iss) = (refusals::code_label(status.code()), refused_issuer(refusal, headers));
            tracing::info!(request_id, peer, code, reason = refusal.reason(), iss = iss.as_deref(), detail = %refusal, "refused");
        } else {
            self.metrics.log_line_left_out();
        }
        status
    }
}

#[tonic::async_trait]
impl IstioCertificateService for CsrApi {
    async fn create_certificate(&self, request: Request<IstioCertificateRequest>) -> Result<Response<IstioCertificateResponse>, Status> {
        self.metrics.csr_received();
        let (metadata, extensions, message) = request.into_parts();
        let peer = extensions.get::<Peer>();
        let request_id = request_id(&extensions);
        let headers = metadata.into_headers();
        let outcome = match ask(&headers, peer, message) {
            Ok(ask) => self.issuer.issue(ask).await,
            Err(refusal) => Err(refusal),
        };
        match outcome {
            Ok(issued) => {
                self.metrics.issued();
                if let (Some(Peer { connection, .. }), Some(share)) = (peer, issued.share) {
                    connection.becomes_known(share);
                    connection.served();
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
            Err(refusal) => Err(self.refuse(&refusal, &headers, peer, request_id)),
        }
    }
}

/// The longest `iss` that is logged, in characters.
const MAX_ISSUER: usize = 200;

/// Which issuer a token names that isn't one of ours: mostly a word of the configuration is wrong, and this is the right one. It isn't verified.
fn refused_issuer(refusal: &Refusal, headers: &HeaderMap) -> Option<String> {
    if refusal.reason() != TokenError::WrongIssuer.reason() {
        return None;
    }
    let token = UnverifiedToken::parse(bearer(headers).ok()??).ok()?;
    let issuer: String = token.issuer()?.chars().take(MAX_ISSUER).collect();
    Some(printable(&issuer))
}

fn request_id(extensions: &Extensions) -> &str {
    extensions.get::<RequestId>().map_or("", |id| id.0.as_str())
}

fn ask(headers: &HeaderMap, peer: Option<&Peer>, message: IstioCertificateRequest) -> Result<Ask, Refusal> {
    let fields = message.metadata.unwrap_or_default().fields;
    let text = |name: &'static str| match fields.get(name).and_then(|value| value.kind.as_ref()) {
        None | Some(ValueKind::NullValue(_)) => Ok(None),
        Some(ValueKind::StringValue(text)) => Ok(Some(text.clone())),
        Some(_) => Err(RequestError::MetadataType(name)),
    };
    Ok(Ask {
        credential: credential(headers, peer),
        wants: Wants { lifetime_seconds: message.validity_duration, impersonate: text("ImpersonatedIdentity")?, cert_signer: text("CertSigner")? },
        key_proof: KeyProof::Csr(message.csr),
    })
}

fn credential(headers: &HeaderMap, peer: Option<&Peer>) -> Credential {
    // Only a hint for choosing whom to ask; what isn't text names no cluster that there is.
    let cluster = headers.get("clusterid").map(|value| value.to_str().unwrap_or("?").to_owned()).filter(|cluster| !cluster.is_empty());
    match bearer(headers) {
        Ok(token) => Credential::Workload { cluster, token: token.map(str::to_owned), certificate: peer.and_then(|peer| peer.certificate.clone()) },
        Err(Unusable { reason }) => Credential::Unusable { reason },
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

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;
    use crate::callers::AuthenticationError;

    #[test]
    fn the_issuer_of_a_refused_token_is_told_bounded_and_printable() {
        let headers = |iss: &str| {
            let encode = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
            let (header, claims) = (encode(serde_json::json!({"alg": "RS256", "kid": "k"})), encode(serde_json::json!({"iss": iss})));
            HeaderMap::from_iter([(http::header::AUTHORIZATION, format!("Bearer {header}.{claims}.c2ln").parse().unwrap())])
        };
        let wrong = Refusal::Unauthenticated(AuthenticationError::BadToken(TokenError::WrongIssuer));
        assert_eq!(refused_issuer(&wrong, &headers("https://issuer.example")).as_deref(), Some("https://issuer.example"));
        assert_eq!(refused_issuer(&wrong, &headers("a\u{1b}[2J\nb")).as_deref(), Some("a\\u{1b}[2J\\nb"));
        assert_eq!(refused_issuer(&wrong, &headers(&"x".repeat(5000))).map(|issuer| issuer.len()), Some(MAX_ISSUER));
        assert_eq!(refused_issuer(&wrong, &HeaderMap::new()), None);
        assert_eq!(refused_issuer(&Refusal::Overloaded, &headers("https://issuer.example")), None);
    }
}
