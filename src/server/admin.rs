//! The admin API, `meshmint.admin.v1`: on a Unix socket (`door.rs`; who can open it may ask everything), and over the network where that is
//! configured (`network.rs`; Kubernetes RBAC decides). An rpc is decoded, done (`operations`), encoded; what it refuses has its code in `codes`.

mod answering;
mod authorities;
mod codes;
mod door;
mod gate;
mod messages;
mod network;
mod peer;
mod questions;

use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use self::codes::refused;
pub(super) use self::door::{LocalDoor, listen};
pub use self::messages::certificate_message;
use self::messages::{audit_message, check_message, stats_message};
pub(super) use self::network::NetworkDoor;
use self::questions::{filter, paging, watched};
pub(super) use super::operations::MAX_WATCHERS;
use super::operations::{NewRoot, Operations, Operator};
use super::proto::admin::admin_server::Admin;
use super::proto::admin::{
    AddTrustRequest, AddTrustResponse, Bundle, CheckRequest, CheckResponse, GetAuthorityRequest, GetAuthorityResponse, GetBundleRequest,
    GetCertificateRequest, GetCertificateResponse, GetStatsRequest, ListAuditRequest, ListAuditResponse, ListAuthoritiesRequest,
    ListAuthoritiesResponse, ListCertificatesRequest, ListCertificatesResponse, Stats, WatchCertificatesRequest, WatchCertificatesResponse,
};

/// The service: the operations by gRPC.
#[derive(Debug)]
pub(super) struct AdminApi(pub(super) Arc<Operations>);

#[tonic::async_trait]
impl Admin for AdminApi {
    async fn list_certificates(&self, request: Request<ListCertificatesRequest>) -> Result<Response<ListCertificatesResponse>, Status> {
        let (operator, request) = asked(request)?;
        let (filter, page) = (filter(&request)?, paging(&request.page_token, request.page_size)?);
        let listed = self.0.list_certificates(&operator, &filter, page).await.map_err(refused)?;
        Ok(Response::new(ListCertificatesResponse {
            certificates: listed.found.certificates.iter().map(|stored| certificate_message(stored, listed.at, false)).collect(),
            next_page_token: listed.found.next.map(|cursor| cursor.to_string()).unwrap_or_default(),
        }))
    }

    type WatchCertificatesStream = BoxStream<'static, Result<WatchCertificatesResponse, Status>>;

    async fn watch_certificates(&self, request: Request<WatchCertificatesRequest>) -> Result<Response<Self::WatchCertificatesStream>, Status> {
        let (operator, request) = asked(request)?;
        let pages = self.0.watch_certificates(&operator, watched(&request)?).await.map_err(refused)?;
        let messages = ReceiverStream::new(pages).map(|page| {
            let page = page.map_err(refused)?;
            let certificates = page.found.iter().map(|stored| certificate_message(stored, page.at, false)).collect();
            Ok(WatchCertificatesResponse { certificates })
        });
        Ok(Response::new(messages.boxed()))
    }

    async fn get_certificate(&self, request: Request<GetCertificateRequest>) -> Result<Response<GetCertificateResponse>, Status> {
        let (operator, request) = asked(request)?;
        let certificates = self.0.certificates_of_serial(&operator, &request.serial).await.map_err(refused)?;
        let message = |stored| certificate_message(stored, certificates.at, true);
        Ok(Response::new(GetCertificateResponse { certificates: certificates.found.iter().map(message).collect() }))
    }

    async fn get_stats(&self, request: Request<GetStatsRequest>) -> Result<Response<Stats>, Status> {
        let (operator, _) = asked(request)?;
        Ok(Response::new(stats_message(self.0.stats(&operator).await.map_err(refused)?)))
    }

    async fn get_bundle(&self, request: Request<GetBundleRequest>) -> Result<Response<Bundle>, Status> {
        let (operator, _) = asked(request)?;
        let bundle = self.0.bundle(&operator).map_err(refused)?;
        Ok(Response::new(Bundle {
            trust_domain: bundle.trust_domain.to_string(),
            number: bundle.number,
            pem: bundle.pem.to_string(),
            spiffe_json: bundle.spiffe_json,
        }))
    }

    async fn list_authorities(&self, request: Request<ListAuthoritiesRequest>) -> Result<Response<ListAuthoritiesResponse>, Status> {
        let (operator, _) = asked(request)?;
        let listed = self.0.authorities(&operator).map_err(refused)?;
        Ok(Response::new(ListAuthoritiesResponse {
            trust_domain: listed.trust_domain.to_string(),
            bundle_number: listed.bundle_number,
            authorities: listed.authorities.iter().map(authorities::in_a_list).collect(),
        }))
    }

    async fn get_authority(&self, request: Request<GetAuthorityRequest>) -> Result<Response<GetAuthorityResponse>, Status> {
        let (operator, request) = asked(request)?;
        let authority = self.0.authority(&operator, &request.id).map_err(refused)?;
        Ok(Response::new(GetAuthorityResponse { authority: Some(authorities::whole(&authority)) }))
    }

    async fn add_trust(&self, request: Request<AddTrustRequest>) -> Result<Response<AddTrustResponse>, Status> {
        let (operator, AddTrustRequest { pem, reason }) = asked(request)?;
        let trusted = self.0.add_trust(&operator, NewRoot { pem, reason }).await.map_err(refused)?;
        Ok(Response::new(AddTrustResponse {
            id: trusted.id.to_string(),
            added: trusted.added,
            bundle_number: trusted.bundle_number,
            published: trusted.published,
        }))
    }

    async fn list_audit(&self, request: Request<ListAuditRequest>) -> Result<Response<ListAuditResponse>, Status> {
        let (operator, request) = asked(request)?;
        let page = questions::audit_paging(&request.page_token, request.page_size)?;
        let page = self.0.audit(&operator, page).await.map_err(refused)?;
        Ok(Response::new(audit_message(page)))
    }

    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let (operator, _) = asked(request)?;
        Ok(Response::new(check_message(&self.0.check(&operator).await)))
    }
}

/// Who sent this request, and what he asks.
///
/// # Errors
/// INTERNAL where no door said who: a bug.
fn asked<T>(request: Request<T>) -> Result<(Operator, T), Status> {
    let (_, mut extensions, message) = request.into_parts();
    let operator = extensions.remove::<Operator>().ok_or_else(|| Status::internal("nobody said who asks"))?;
    Ok((operator, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_no_door_let_in_is_refused() {
        assert_eq!(asked(Request::new(())).unwrap_err().code(), tonic::Code::Internal);
        let mut request = Request::new("a question");
        request.extensions_mut().insert(Operator::local(Some(7)));
        assert_eq!(asked(request).unwrap(), (Operator::local(Some(7)), "a question"));
    }
}
