//! Makers for the ledger's tests: a small world with two issuers, in which only what a test is about has to be said.
#![allow(dead_code, reason = "each test file uses its part")]

use meshmint::authority::{AuthorityId, GenerationNumber};
use meshmint::callers::ObjectRef;
use meshmint::ledger::{CertificateFilter, CertificateRecord, CredentialKind, Cursor, HolderId, Kind, Ledger, StoredCertificate};
use meshmint::pki::PublicKeyAlgorithm;
use meshmint::spiffe::SpiffeId;
use time::macros::datetime;
use time::{Duration, OffsetDateTime};

/// The time at which the tests begin.
pub(crate) const START: OffsetDateTime = datetime!(2026-11-01 12:00:00.123456 UTC);

/// The generation that is open in most tests.
pub(crate) const FIRST: GenerationNumber = GenerationNumber(1);

pub(crate) fn issuer() -> AuthorityId {
    AuthorityId::from_text("0123456789abcdef0123456789abcdef".to_owned())
}

pub(crate) fn other_issuer() -> AuthorityId {
    AuthorityId::from_text("fedcba9876543210fedcba9876543210".to_owned())
}

/// The SHA-256 that certificate `number` has in these tests.
pub(crate) fn digest(number: u64) -> [u8; 32] {
    let mut digest = [0xa5; 32];
    digest[..8].copy_from_slice(&number.to_be_bytes());
    digest
}

/// The serial that certificate `number` has in these tests.
pub(crate) fn serial(number: u64) -> Vec<u8> {
    [[0x40; 12].as_slice(), &number.to_be_bytes()].concat()
}

/// The leaf of a workload: every field set, issued `number` seconds after [`START`] for one day.
pub(crate) fn leaf(number: u64) -> CertificateRecord {
    let issued_at = START + Duration::seconds(i64::try_from(number).unwrap());
    let whole = issued_at.replace_microsecond(0).unwrap();
    CertificateRecord {
        issuer: issuer(),
        serial: serial(number),
        sha256: digest(number),
        der: vec![0x30; 700],
        kind: Kind::Leaf,
        spiffe_id: Some("spiffe://cluster.local/ns/shop/sa/cart".parse::<SpiffeId>().unwrap()),
        cluster: Some("Kubernetes".to_owned()),
        namespace: Some("shop".to_owned()),
        service_account: Some("cart".to_owned()),
        pod: Some(ObjectRef { name: "cart-0".to_owned(), uid: format!("pod-{number}") }),
        node: Some(ObjectRef { name: "node-a".to_owned(), uid: "5f0c".to_owned() }),
        holder: Some(HolderId::pod("Kubernetes", &format!("pod-{number}"))),
        generation: FIRST,
        bundle_number: 3,
        profile_digest: "c0ffee".to_owned(),
        credential: CredentialKind::Token,
        key_algorithm: Some(PublicKeyAlgorithm::P256),
        issued_at,
        not_before: whole - Duration::minutes(2),
        not_after: whole + Duration::days(1),
        replica: "replica-a".to_owned(),
        replica_sequence: number + 1,
    }
}

/// A certificate of ours with as little as possible: nobody's identity, no caller, no holder.
pub(crate) fn bare(number: u64, kind: Kind) -> CertificateRecord {
    CertificateRecord {
        kind,
        spiffe_id: None,
        cluster: None,
        namespace: None,
        service_account: None,
        pod: None,
        node: None,
        holder: None,
        credential: CredentialKind::Internal,
        ..leaf(number)
    }
}

/// The serials that a filter finds, walked in pages of `limit`.
pub(crate) async fn walk(ledger: &dyn Ledger, filter: &CertificateFilter, limit: u32, now: OffsetDateTime) -> Vec<Vec<u8>> {
    let mut serials = Vec::new();
    let mut after: Option<Cursor> = None;
    loop {
        let page = ledger.list(filter, after, limit, now).await.unwrap();
        assert!(page.certificates.len() <= limit as usize);
        serials.extend(page.certificates.into_iter().map(|StoredCertificate { record, .. }| record.serial));
        match page.next {
            Some(next) => after = Some(next),
            None => return serials,
        }
    }
}
