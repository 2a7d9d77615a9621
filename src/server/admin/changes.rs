//! What the admin API changes, and the audit of it. A change goes on to its end also where whoever asked for it has left.

use std::sync::Arc;

use rustls::RootCertStore;
use tonic::Status;

use super::super::proto::admin::{AddTrustRequest, AddTrustResponse, AuditEntry as AuditMessage, ListAuditRequest, ListAuditResponse};
use super::caller::{Caller, reason};
use super::messages::timestamp;
use super::{DEFAULT_PAGE, LARGEST_PAGE, unavailable};
use crate::authority::TrustError;
use crate::ledger::{AuditEntry, Ledger};
use crate::pki::certificates_from_pem;
use crate::rotation::{Keeper, TrustOrder, TrustRefusal};

/// Lets a root join the trust bundle.
///
/// # Errors
/// As the protocol says.
pub(super) async fn add_trust(keeper: Arc<Keeper>, caller: &Caller, request: AddTrustRequest) -> Result<AddTrustResponse, Status> {
    let order = TrustOrder { reason: reason(&request.reason)?, actor: caller.to_string(), pem: request.pem };
    clients_read(&order.pem)?;
    let changing = tokio::spawn(async move { keeper.add_trust(&order).await });
    let trusted = changing.await.map_err(|_| Status::internal("the change ended in a panic"))?.map_err(|refusal| refused(&refusal))?;
    Ok(AddTrustResponse { id: trusted.id.to_string(), added: trusted.added, bundle_number: trusted.bundle_number, published: trusted.published })
}

/// A root that rustls-webpki doesn't take would make ztunnel refuse the whole bundle. Whatever isn't PEM is left to the rules of the state.
fn clients_read(pem: &str) -> Result<(), Status> {
    for der in certificates_from_pem(pem).unwrap_or_default() {
        if let Err(error) = RootCertStore::empty().add(der) {
            return Err(Status::invalid_argument(format!("ztunnel's verifier (rustls-webpki) doesn't take this root: {error}")));
        }
    }
    Ok(())
}

fn refused(refusal: &TrustRefusal) -> Status {
    let words = refusal.to_string();
    match refusal {
        TrustRefusal::Issuer | TrustRefusal::Root(TrustError::Full(_)) => Status::failed_precondition(words),
        TrustRefusal::Root(_) => Status::invalid_argument(words),
        TrustRefusal::Audit(_) | TrustRefusal::Unfit(_) | TrustRefusal::Store(_) => Status::unavailable(words),
    }
}

/// One page of the audit.
///
/// # Errors
/// As the protocol says.
pub(super) async fn audits(ledger: &dyn Ledger, request: &ListAuditRequest) -> Result<ListAuditResponse, Status> {
    let before = match request.page_token.as_str() {
        "" => None,
        // One number has one text.
        token => match token.parse::<u64>() {
            Ok(number) if number.to_string() == token => Some(number),
            _ => return Err(Status::invalid_argument("the page token is not one that was given out")),
        },
    };
    let limit = if request.page_size == 0 { DEFAULT_PAGE } else { request.page_size.min(LARGEST_PAGE) };
    let page = ledger.audits(before, limit).await.map_err(unavailable)?;
    let message = |(_, AuditEntry { at, actor, action, detail, reason }): (u64, AuditEntry)| AuditMessage {
        at: Some(timestamp(at)),
        actor,
        action,
        detail,
        reason,
    };
    Ok(ListAuditResponse {
        entries: page.entries.into_iter().map(message).collect(),
        next_page_token: page.next.map(|number| number.to_string()).unwrap_or_default(),
    })
}
