//! The admin door: `meshmint.admin.v1` on a Unix socket. Whoever can open the socket (mode 0600) may ask everything here.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use prost_types::Timestamp;
use time::OffsetDateTime;
use tokio::net::UnixListener;
use tonic::{Request, Response, Status};

use super::proto::admin::admin_server::Admin;
use super::proto::admin::{
    Bundle, Certificate, Credential, GetBundleRequest, GetCertificateRequest, GetCertificateResponse, GetStatsRequest, Kind as KindMessage,
    ListCertificatesRequest, ListCertificatesResponse, ObjectReference, State as StateMessage, Stats, StatsRow,
};
use crate::authority::{AuthorityId, Generation};
use crate::callers::ObjectRef;
use crate::clock::Clock;
use crate::ledger::{CertificateFilter, CredentialKind, HolderId, Kind, Ledger, LedgerError, NotACursor, State, StoredCertificate};
use crate::pki::{PemError, certificate_to_pem, certificates_from_pem};
use crate::spiffe::TrustDomain;
use crate::spiffe::bundle::bundle_json;

/// Certificates on a page where nothing is said, and at most.
const DEFAULT_PAGE: u32 = 100;
const LARGEST_PAGE: u32 = 1000;
/// How often a consumer of the bundle document should look again (SPIFFE Trust Domain and Bundle §4.1.2).
const REFRESH_HINT: Duration = Duration::from_secs(300);

/// The service.
#[derive(Debug)]
pub(super) struct AdminApi {
    pub(super) trust_domain: TrustDomain,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) generation: Arc<ArcSwap<Generation>>,
    pub(super) clock: Arc<dyn Clock>,
}

/// Listens on a Unix socket that only its owner can open. A socket that a killed process left behind is replaced.
///
/// # Errors
/// The system's.
pub(super) fn listen(path: &Path) -> io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another server answers there"));
    }
    // Made under another name, of the same length because that is limited, and then moved: nobody can open it before its mode is right.
    let mut name = path.as_os_str().as_bytes().to_vec();
    if let Some(last) = name.last_mut() {
        *last = if *last == b'~' { b'-' } else { b'~' };
    }
    let hidden = Path::new(OsStr::from_bytes(&name));
    match std::fs::remove_file(hidden) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(hidden)?;
    std::fs::set_permissions(hidden, Permissions::from_mode(0o600))?;
    std::fs::rename(hidden, path)?;
    Ok(listener)
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
        let row = |row: &crate::ledger::StatsRow| StatsRow {
            kind: kind_message(row.kind).into(),
            issuer: row.issuer.to_string(),
            generation: row.generation.0,
            total: row.total,
            valid: row.valid,
        };
        Ok(Response::new(Stats {
            total: stats.total,
            valid: stats.valid,
            expired: stats.expired,
            revoked: stats.revoked,
            live_holders: stats.live_holders,
            next_expiry: stats.next_expiry.map(timestamp),
            rows: stats.rows.iter().map(row).collect(),
        }))
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
}

fn filter(request: &ListCertificatesRequest) -> Result<CertificateFilter, Status> {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let unknown = |field| Status::invalid_argument(format!("{field} has a number that this version doesn't know"));
    let kind = match KindMessage::try_from(request.kind).map_err(|_| unknown("kind"))? {
        KindMessage::Unspecified => None,
        KindMessage::Leaf => Some(Kind::Leaf),
        KindMessage::Serving => Some(Kind::Serving),
        KindMessage::Intermediate => Some(Kind::Intermediate),
        KindMessage::Cross => Some(Kind::Cross),
        KindMessage::Root => Some(Kind::Root),
    };
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
        kind,
        state,
        issued_after: time_of(request.issued_after)?,
        issued_before: time_of(request.issued_before)?,
        expires_after: time_of(request.expires_after)?,
        expires_before: time_of(request.expires_before)?,
    })
}

/// A serial number as people copy it: hex digits, with or without colons, in either case, any number of leading zeros.
fn serial_number(text: &str) -> Result<Vec<u8>, Status> {
    let digits: String = text.trim().trim_start_matches("0x").chars().filter(|each| *each != ':').collect();
    let significant = digits.trim_start_matches('0');
    let padded = if significant.len() % 2 == 1 { format!("0{significant}") } else { significant.to_owned() };
    match hex::decode(&padded) {
        Ok(serial) if !digits.is_empty() && serial.len() <= 20 => Ok(serial),
        _ => Err(Status::invalid_argument("a serial number is written in hexadecimal, at most 20 octets, for example 1a:2b:3c or 1a2b3c")),
    }
}

/// A certificate on record as the admin API shows it.
pub fn certificate_message(stored: &StoredCertificate, now: OffsetDateTime, with_pem: bool) -> Certificate {
    let record = &stored.record;
    let object = |object: &ObjectRef| ObjectReference { name: object.name.clone(), uid: object.uid.clone() };
    let state = match (&stored.revoked, record.not_after < now) {
        (Some(_), _) => StateMessage::Revoked,
        (None, true) => StateMessage::Expired,
        (None, false) => StateMessage::Valid,
    };
    Certificate {
        serial: hex::encode(&record.serial),
        issuer: record.issuer.to_string(),
        sha256: hex::encode(record.sha256),
        kind: kind_message(record.kind).into(),
        state: state.into(),
        spiffe_id: record.spiffe_id.as_ref().map(ToString::to_string).unwrap_or_default(),
        cluster: record.cluster.clone().unwrap_or_default(),
        namespace: record.namespace.clone().unwrap_or_default(),
        service_account: record.service_account.clone().unwrap_or_default(),
        pod: record.pod.as_ref().map(object),
        node: record.node.as_ref().map(object),
        holder: record.holder.as_ref().map(|holder| holder.as_str().to_owned()).unwrap_or_default(),
        generation: record.generation.0,
        bundle_number: record.bundle_number,
        profile_digest: record.profile_digest.clone(),
        credential: match record.credential {
            CredentialKind::Token => Credential::Token,
            CredentialKind::ClientCertificate => Credential::ClientCertificate,
            CredentialKind::Internal => Credential::Internal,
        }
        .into(),
        issued_at: Some(timestamp(record.issued_at)),
        not_before: Some(timestamp(record.not_before)),
        not_after: Some(timestamp(record.not_after)),
        revoked_at: stored.revoked.as_ref().map(|revocation| timestamp(revocation.at)),
        revocation_reason: stored.revoked.as_ref().map(|revocation| revocation.reason.clone()).unwrap_or_default(),
        replica: record.replica.clone(),
        replica_sequence: record.replica_sequence,
        pem: if with_pem { certificate_to_pem(&record.der) } else { String::new() },
    }
}

fn kind_message(kind: Kind) -> KindMessage {
    match kind {
        Kind::Leaf => KindMessage::Leaf,
        Kind::Serving => KindMessage::Serving,
        Kind::Intermediate => KindMessage::Intermediate,
        Kind::Cross => KindMessage::Cross,
        Kind::Root => KindMessage::Root,
    }
}

fn timestamp(at: OffsetDateTime) -> Timestamp {
    Timestamp { seconds: at.unix_timestamp(), nanos: i32::try_from(at.nanosecond()).unwrap_or(0) }
}

fn time_of(timestamp: Option<Timestamp>) -> Result<Option<OffsetDateTime>, Status> {
    let Some(timestamp) = timestamp else { return Ok(None) };
    let nanoseconds = i128::from(timestamp.seconds) * 1_000_000_000 + i128::from(timestamp.nanos);
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).map(Some).map_err(|_| Status::invalid_argument("a time is out of range"))
}

fn unavailable(error: LedgerError) -> Status {
    match error {
        LedgerError::ForeignCursor => Status::invalid_argument(error.to_string()),
        _ => Status::unavailable(error.to_string()),
    }
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
