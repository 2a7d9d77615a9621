//! The admin API, `meshmint.admin.v1`: on a Unix socket (`door.rs`; who can open it may ask everything), and over the network where that is
//! configured (`network.rs`; Kubernetes RBAC decides).

mod answering;
mod authorities;
mod caller;
mod changes;
mod door;
mod failures;
mod gate;
mod messages;
mod network;
mod permissions;
mod questions;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, watch as signal};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use self::caller::Caller;
pub(super) use self::door::{LocalDoor, listen};
pub use self::messages::certificate_message;
use self::messages::{duration, fact_message, stats_message, timestamp};
pub(super) use self::network::NetworkDoor;
use self::questions::{filter, serial_number, watched};
use self::watch::Watch;
use super::checkup::Checkup;
use super::proto::admin::admin_server::Admin;
use super::proto::admin::{
    AddTrustRequest, AddTrustResponse, Bundle, CheckRequest, CheckResponse, GetAuthorityRequest, GetAuthorityResponse, GetBundleRequest,
    GetCertificateRequest, GetCertificateResponse, GetStatsRequest, ListAuditRequest, ListAuditResponse, ListAuthoritiesRequest,
    ListAuthoritiesResponse, ListCertificatesRequest, ListCertificatesResponse, Stats, WatchCertificatesRequest, WatchCertificatesResponse,
};
use crate::authority::Generation;
use crate::clock::Clock;
use crate::issuance::ServingNames;
use crate::ledger::{Ledger, LedgerError, NotACursor};
use crate::pki::{PemError, certificates_from_pem};
use crate::rotation::Keeper;
use crate::spiffe::TrustDomain;
use crate::spiffe::bundle::bundle_json;

/// Certificates on a page where nothing is said, and at most.
const DEFAULT_PAGE: u32 = 100;
const LARGEST_PAGE: u32 = 1000;
/// How often a consumer of the bundle document should look again (SPIFFE Trust Domain and Bundle §4.1.2).
const REFRESH_HINT: Duration = Duration::from_secs(300);
/// Who may watch at once: each of them asks the ledger four times a second.
pub(super) const MAX_WATCHERS: usize = 16;

/// The service.
#[derive(Debug)]
pub(super) struct AdminApi {
    pub(super) trust_domain: TrustDomain,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) generation: Arc<ArcSwap<Generation>>,
    pub(super) keeper: Arc<Keeper>,
    pub(super) checkup: Arc<Checkup>,
    /// None: there is no CSR port here.
    pub(super) csr_address: Option<SocketAddr>,
    pub(super) serving: ServingNames,
    /// Places for [`MAX_WATCHERS`].
    pub(super) watchers: Arc<Semaphore>,
    /// Turns true when the server goes down.
    pub(super) stopped: signal::Receiver<bool>,
    pub(super) clock: Arc<dyn Clock>,
}

#[tonic::async_trait]
impl Admin for AdminApi {
    async fn list_certificates(&self, request: Request<ListCertificatesRequest>) -> Result<Response<ListCertificatesResponse>, Status> {
        let request = request.into_inner();
        let filter = filter(&request)?;
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(token.parse().map_err(|error: NotACursor| Status::invalid_argument(error.to_string()))?),
        };
        let limit = if request.page_size == 0 { DEFAULT_PAGE } else { request.page_size.min(LARGEST_PAGE) };
        let now = self.clock.now();
        let page = self.ledger.list(&filter, after, limit, now).await.map_err(unavailable)?;
        Ok(Response::new(ListCertificatesResponse {
            certificates: page.certificates.iter().map(|stored| certificate_message(stored, now, false)).collect(),
            next_page_token: page.next.map(|cursor| cursor.to_string()).unwrap_or_default(),
        }))
    }

    type WatchCertificatesStream = ReceiverStream<Result<WatchCertificatesResponse, Status>>;

    async fn watch_certificates(&self, request: Request<WatchCertificatesRequest>) -> Result<Response<Self::WatchCertificatesStream>, Status> {
        let filter = watched(&request.into_inner())?;
        let place = self.watchers.clone().try_acquire_owned();
        let place = place.map_err(|_| Status::resource_exhausted(format!("{MAX_WATCHERS} watch already; end one of them first")))?;
        let watch = Watch { ledger: self.ledger.clone(), filter, clock: self.clock.clone(), stopped: self.stopped.clone(), place };
        Ok(Response::new(ReceiverStream::new(watch.begin().await?)))
    }

    async fn get_certificate(&self, request: Request<GetCertificateRequest>) -> Result<Response<GetCertificateResponse>, Status> {
        let serial = serial_number(&request.into_inner().serial)?;
        let found = self.ledger.find_serial(&serial).await.map_err(unavailable)?;
        if found.is_empty() {
            return Err(Status::not_found(format!("no certificate with serial {} is on record", hex::encode(serial))));
        }
        let now = self.clock.now();
        Ok(Response::new(GetCertificateResponse { certificates: found.iter().map(|stored| certificate_message(stored, now, true)).collect() }))
    }

    async fn get_stats(&self, _: Request<GetStatsRequest>) -> Result<Response<Stats>, Status> {
        let stats = self.ledger.stats(self.clock.now()).await.map_err(unavailable)?;
        Ok(Response::new(stats_message(stats)))
    }

    async fn get_bundle(&self, _: Request<GetBundleRequest>) -> Result<Response<Bundle>, Status> {
        let generation = self.generation.load_full();
        let roots = certificates_from_pem(&generation.bundle).map_err(|error: PemError| Status::internal(error.to_string()))?;
        let roots: Vec<&[u8]> = roots.iter().map(AsRef::as_ref).collect();
        let spiffe_json = bundle_json(&roots, generation.bundle_number, REFRESH_HINT).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(Bundle {
            trust_domain: self.trust_domain.to_string(),
            number: generation.bundle_number,
            pem: generation.bundle.to_string(),
            spiffe_json,
        }))
    }

    async fn list_authorities(&self, _: Request<ListAuthoritiesRequest>) -> Result<Response<ListAuthoritiesResponse>, Status> {
        let state = self.keeper.state();
        Ok(Response::new(ListAuthoritiesResponse {
            trust_domain: self.trust_domain.to_string(),
            bundle_number: state.bundle_number,
            authorities: authorities::all(&state, self.clock.now())?,
        }))
    }

    async fn get_authority(&self, request: Request<GetAuthorityRequest>) -> Result<Response<GetAuthorityResponse>, Status> {
        let authority = authorities::one(&self.keeper.state(), &request.into_inner().id, self.clock.now())?;
        Ok(Response::new(GetAuthorityResponse { authority: Some(authority) }))
    }

    async fn add_trust(&self, request: Request<AddTrustRequest>) -> Result<Response<AddTrustResponse>, Status> {
        let caller = Caller::of(&request)?;
        changes::add_trust(self.keeper.clone(), &caller, request.into_inner()).await.map(Response::new)
    }

    async fn list_audit(&self, request: Request<ListAuditRequest>) -> Result<Response<ListAuditResponse>, Status> {
        changes::audits(self.ledger.as_ref(), &request.into_inner()).await.map(Response::new)
    }

    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let facts = self.checkup.look().await;
        Ok(Response::new(CheckResponse {
            // After looking: the caller compares it with his own clock.
            now: Some(timestamp(self.clock.now())),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime: duration(self.checkup.uptime()),
            facts: facts.iter().map(fact_message).collect(),
            csr_address: self.csr_address.map(|address| address.to_string()).unwrap_or_default(),
            serving_dns_names: self.serving.dns_names.clone(),
            serving_ip_addresses: self.serving.ip_addresses.iter().map(ToString::to_string).collect(),
        }))
    }
}

fn unavailable(error: LedgerError) -> Status {
    match error {
        LedgerError::ForeignCursor => Status::invalid_argument(error.to_string()),
        _ => Status::unavailable(error.to_string()),
    }
}
