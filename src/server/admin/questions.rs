//! From what an operator asks to what the ledger understands.

use prost_types::Timestamp;
use time::OffsetDateTime;
use tonic::Status;

use super::super::operations::Paging;
use super::super::proto::admin::{Kind as KindMessage, ListCertificatesRequest, State as StateMessage, WatchCertificatesRequest};
use crate::authority::AuthorityId;
use crate::ledger::{CertificateFilter, Cursor, HolderId, Kind, NotACursor, State};

pub(super) fn filter(request: &ListCertificatesRequest) -> Result<CertificateFilter, Status> {
    let state = match StateMessage::try_from(request.state).map_err(|_| unknown("state"))? {
        StateMessage::Unspecified => None,
        StateMessage::Valid => Some(State::Valid),
        StateMessage::Expired => Some(State::Expired),
        StateMessage::Revoked => Some(State::Revoked),
    };
    Ok(CertificateFilter {
        namespace: text(&request.namespace),
        service_account: text(&request.service_account),
        holder: text(&request.holder).map(HolderId::from_ledger),
        issuer: text(&request.issuer).map(AuthorityId::from_text),
        generation: None,
        kind: kind(request.kind)?,
        state,
        issued_after: time_of(request.issued_after)?,
        issued_before: time_of(request.issued_before)?,
        expires_after: time_of(request.expires_after)?,
        expires_before: time_of(request.expires_before)?,
    })
}

/// What is watched: as [`filter`], as far as a certificate that is just being recorded can differ.
pub(super) fn watched(request: &WatchCertificatesRequest) -> Result<CertificateFilter, Status> {
    Ok(CertificateFilter {
        namespace: text(&request.namespace),
        service_account: text(&request.service_account),
        holder: text(&request.holder).map(HolderId::from_ledger),
        issuer: text(&request.issuer).map(AuthorityId::from_text),
        kind: kind(request.kind)?,
        ..CertificateFilter::default()
    })
}

fn text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn kind(number: i32) -> Result<Option<Kind>, Status> {
    Ok(match KindMessage::try_from(number).map_err(|_| unknown("kind"))? {
        KindMessage::Unspecified => None,
        KindMessage::Leaf => Some(Kind::Leaf),
        KindMessage::Serving => Some(Kind::Serving),
        KindMessage::Intermediate => Some(Kind::Intermediate),
        KindMessage::Cross => Some(Kind::Cross),
        KindMessage::Root => Some(Kind::Root),
    })
}

fn unknown(field: &str) -> Status {
    Status::invalid_argument(format!("{field} has a number that this version doesn't know"))
}

/// Which page of certificates.
pub(super) fn paging(token: &str, size: u32) -> Result<Paging<Cursor>, Status> {
    let cursor = |token: &str| token.parse().map_err(|error: NotACursor| Status::invalid_argument(error.to_string()));
    Ok(Paging { after: (!token.is_empty()).then(|| cursor(token)).transpose()?, size })
}

/// Which page of the audit: its tokens are numbers.
pub(super) fn audit_paging(token: &str, size: u32) -> Result<Paging<u64>, Status> {
    // One number has one text.
    let number = |token: &str| token.parse::<u64>().ok().filter(|number| number.to_string() == token);
    let number = |token: &str| number(token).ok_or_else(|| Status::invalid_argument(NotACursor.to_string()));
    Ok(Paging { after: (!token.is_empty()).then(|| number(token)).transpose()?, size })
}

fn time_of(timestamp: Option<Timestamp>) -> Result<Option<OffsetDateTime>, Status> {
    let Some(timestamp) = timestamp else { return Ok(None) };
    let nanoseconds = i128::from(timestamp.seconds) * 1_000_000_000 + i128::from(timestamp.nanos);
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).map(Some).map_err(|_| Status::invalid_argument("a time is out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_token_is_one_that_was_given_out() {
        assert_eq!(audit_paging("", 7).unwrap(), Paging { after: None, size: 7 });
        assert_eq!(audit_paging("12", 0).unwrap(), Paging { after: Some(12), size: 0 });
        for token in ["012", "+12", "-1", "x", " 12"] {
            assert_eq!(audit_paging(token, 0).unwrap_err().code(), tonic::Code::InvalidArgument, "{token}");
        }
        assert_eq!(paging("", 7).unwrap(), Paging { after: None, size: 7 });
        assert_eq!(paging("r0.1f", 0).unwrap().after, Some("r0.1f".parse().unwrap()));
        assert_eq!(paging("12", 0).unwrap_err().message(), "the page token is not one that was given out");
    }
}
