//! Who may ask what over the network: the cluster reviews the token and RBAC decides, before a byte of the message is read. The cheapest refusals
//! come first, and whatever can't be decided is refused.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use tonic::Status;

use super::super::door::Connection;
use super::caller::Caller;
use super::failures::Failures;
use super::permissions::needed;
use crate::bounds::Shares;
use crate::clock::Clock;
use crate::cluster::{Operators, Permission};

/// The longest token.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// The gate.
#[derive(Debug)]
pub(super) struct Gate {
    operators: Operators,
    failures: Failures,
    clock: Arc<dyn Clock>,
}

impl Gate {
    pub(super) fn new(operators: Operators, clock: Arc<dyn Clock>) -> Self {
        Self { operators, failures: Failures::default(), clock }
    }

    /// Who asks, where he may.
    ///
    /// # Errors
    /// UNAUTHENTICATED without a good token, PERMISSION_DENIED where RBAC says no, RESOURCE_EXHAUSTED after too many bad tokens, UNAVAILABLE where
    /// the cluster can't be asked.
    pub(super) async fn admit(&self, path: &str, headers: &HeaderMap, peer: &Peer) -> Result<Caller, Status> {
        let permission = needed(path).ok_or_else(|| Status::unimplemented("there is no such question"))?;
        let token = bearer(headers).ok_or_else(|| Status::unauthenticated("a Kubernetes token must be sent (authorization: Bearer …)"))?;
        let unavailable = |_| Status::unavailable("the cluster's API server can't be asked who this is and what he may do; try again");
        if !self.failures.may_try(peer.address(), self.clock.monotonic()) {
            return Err(Status::resource_exhausted("too many bad tokens came from this address; try again in a minute"));
        }
        let Some(operator) = self.operators.who(token).await.map_err(unavailable)? else {
            self.failures.failed(peer.address(), self.clock.monotonic());
            tracing::info!(peer = %peer.address(), path, "a token for the admin API stands for nobody");
            return Err(Status::unauthenticated("the cluster doesn't know this token, or it is for another audience"));
        };
        if !self.operators.may(&operator, permission).await.map_err(unavailable)? {
            tracing::info!(peer = %peer.address(), user = ?operator.name, path, "RBAC doesn't allow it");
            return Err(denied(permission));
        }
        // Not before: any pod can have a token for our audience.
        peer.becomes_known(&operator.name);
        Ok(Caller::Kubernetes { user: operator.name })
    }
}

fn denied(Permission { verb, resource }: Permission) -> Status {
    let group = crate::cluster::GROUP;
    Status::permission_denied(format!("it needs a ClusterRole with verb {verb} on resource {resource} of API group {group}"))
}

/// `authorization: Bearer TOKEN`, once, and a token that could be one of a service account: three parts of base64url (RFC 7515 §7.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let part = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    let right = token.len() <= MAX_TOKEN_BYTES && token.split('.').count() == 3 && token.split('.').all(part);
    (scheme.eq_ignore_ascii_case("bearer") && right).then_some(token)
}

/// Where a question comes from.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    address: IpAddr,
    connection: Connection,
    shares: Shares,
}

impl Peer {
    pub(super) fn new(address: IpAddr, connection: Connection) -> Self {
        Self { address, connection, shares: Shares::default() }
    }

    pub(super) fn address(&self) -> IpAddr {
        self.address
    }

    /// A token of this operator was good: he is no stranger any more.
    pub(super) fn becomes_known(&self, name: &str) {
        self.connection.becomes_known(self.shares.of_names(name, "", None));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_header_of_three_parts() {
        let headers = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            headers
        };
        assert_eq!(bearer(&headers(&["Bearer a.b-_.c"])), Some("a.b-_.c"));
        assert_eq!(bearer(&headers(&["bearer a.b.c"])), Some("a.b.c"));
        let long = format!("Bearer a.b.{}", "c".repeat(MAX_TOKEN_BYTES));
        for bad in [
            &[][..],
            &["Bearer a.b.c", "Bearer a.b.c"],
            &["Bearer a.b"],
            &["Bearer a.b.c.d"],
            &["Bearer a..c"],
            &["Bearer  a.b.c"],
            &["Basic a.b.c"],
            &["Bearer"],
            &["Bearer a.b.c="],
            &[&long],
        ] {
            assert_eq!(bearer(&headers(bad)), None, "{bad:?}");
        }
    }

    #[test]
    fn a_denial_names_what_is_needed() {
        let status = denied(needed("/meshmint.admin.v1.Admin/AddTrust").unwrap());
        assert_eq!(status.code(), tonic::Code::PermissionDenied);
        assert_eq!(status.message(), "it needs a ClusterRole with verb create on resource trustedroots of API group meshmint.io");
    }
}
