//! From what an operator asks to what the ledger understands.

use prost_types::Timestamp;
use time::OffsetDateTime;
use tonic::Status;

use super::super::proto::admin::{Kind as KindMessage, ListCertificatesRequest, State as StateMessage, WatchCertificatesRequest};
use crate::authority::AuthorityId;
use crate::ledger::{CertificateFilter, HolderId, Kind, State};

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

/// A serial number as people copy it: hex digits, with or without colons, in either case, any number of leading zeros.
pub(super) fn serial_number(text: &str) -> Result<Vec<u8>, Status> {
    let digits: String = text.trim().trim_start_matches("0x").chars().filter(|each| *each != ':').collect();
    let significant = digits.trim_start_matches('0');
    let padded = if significant.len() % 2 == 1 { format!("0{significant}") } else { significant.to_owned() };
    match hex::decode(&padded) {
        Ok(serial) if !digits.is_empty() && serial.len() <= 20 => Ok(serial),
        _ => Err(Status::invalid_argument("a serial number is written in hexadecimal, at most 20 octets, for example 1a:2b:3c or 1a2b3c")),
    }
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
    fn a_serial_is_a_number_however_it_is_written() {
        for text in ["1a2b3c", "1A:2B:3C", "0x1a2b3c", "00:00:1a:2b:3c", " 01a2b3c "] {
            assert_eq!(serial_number(text).unwrap(), [0x1a, 0x2b, 0x3c], "{text}");
        }
        assert_eq!(serial_number("abc").unwrap(), [0x0a, 0xbc]);
        assert_eq!(serial_number("0").unwrap(), [0_u8; 0]);
        for text in ["", "xyz", "1a 2b", &"f".repeat(41)] {
            assert_eq!(serial_number(text).unwrap_err().code(), tonic::Code::InvalidArgument, "{text}");
        }
    }
}
