//! From what is on record to the messages of the admin API.

use prost_types::Timestamp;
use time::OffsetDateTime;

use super::super::checkup::Fact;
use super::super::operations::Health;
use super::super::proto::admin::{
    AuditEntry as AuditMessage, Certificate, CheckResponse, Credential, Fact as FactMessage, KeyCount, Kind as KindMessage, LifetimeCount,
    ListAuditResponse, ObjectReference, Severity as SeverityMessage, State as StateMessage, Stats, StatsRow,
};
use crate::callers::ObjectRef;
use crate::ledger::{self, AuditEntry, AuditPage, CredentialKind, Kind, StoredCertificate};
use crate::pki::certificate_to_pem;
use crate::pki::inspect::Severity;

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

pub(super) fn kind_message(kind: Kind) -> KindMessage {
    match kind {
        Kind::Leaf => KindMessage::Leaf,
        Kind::Serving => KindMessage::Serving,
        Kind::Intermediate => KindMessage::Intermediate,
        Kind::Cross => KindMessage::Cross,
        Kind::Root => KindMessage::Root,
    }
}

pub(super) fn timestamp(at: OffsetDateTime) -> Timestamp {
    Timestamp { seconds: at.unix_timestamp(), nanos: i32::try_from(at.nanosecond()).unwrap_or(0) }
}

/// Counts over the ledger.
pub(super) fn stats_message(stats: ledger::Stats) -> Stats {
    let row = |row: &ledger::StatsRow| StatsRow {
        kind: kind_message(row.kind).into(),
        issuer: row.issuer.to_string(),
        generation: row.generation.0,
        total: row.total,
        valid: row.valid,
    };
    Stats {
        total: stats.total,
        valid: stats.valid,
        expired: stats.expired,
        revoked: stats.revoked,
        live_holders: stats.live_holders,
        next_expiry: stats.next_expiry.map(timestamp),
        rows: stats.rows.iter().map(row).collect(),
        issued_per_minute: stats.issued_per_minute,
        expiring_per_hour: stats.expiring_per_hour,
        keys: stats.keys.into_iter().map(|(key, count)| KeyCount { key, count }).collect(),
        lifetimes: stats.lifetimes.into_iter().map(|(at_most, count)| LifetimeCount { at_most: class(at_most), count }).collect(),
    }
}

/// The class of all that lives longer has no bound.
fn class(at_most: std::time::Duration) -> Option<prost_types::Duration> {
    if at_most == std::time::Duration::MAX { None } else { duration(at_most) }
}

fn duration(duration: std::time::Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(duration).ok()
}

/// One page of the audit.
pub(super) fn audit_message(page: AuditPage) -> ListAuditResponse {
    let entry = |(_, AuditEntry { at, actor, action, detail, reason }): (u64, AuditEntry)| AuditMessage {
        at: Some(timestamp(at)),
        actor,
        action,
        detail,
        reason,
    };
    ListAuditResponse {
        entries: page.entries.into_iter().map(entry).collect(),
        next_page_token: page.next.map(|number| number.to_string()).unwrap_or_default(),
    }
}

/// What this server found out about itself.
pub(super) fn check_message(health: &Health) -> CheckResponse {
    CheckResponse {
        now: Some(timestamp(health.now)),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime: duration(health.uptime),
        facts: health.facts.iter().map(fact_message).collect(),
        csr_address: health.csr_address.map(|address| address.to_string()).unwrap_or_default(),
        serving_dns_names: health.serving.dns_names.clone(),
        serving_ip_addresses: health.serving.ip_addresses.iter().map(ToString::to_string).collect(),
    }
}

fn fact_message(fact: &Fact) -> FactMessage {
    let severity = match fact.severity {
        Severity::Ok => SeverityMessage::Ok,
        Severity::Warning => SeverityMessage::Warning,
        Severity::Failed => SeverityMessage::Failed,
    };
    FactMessage { check: fact.check.row().id.to_owned(), severity: severity.into(), message: fact.message.clone(), detail: fact.detail.clone() }
}
