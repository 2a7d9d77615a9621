//! Certificates on their way into the database together: one call of one function, with an array for each column.

use std::collections::HashMap;

use tokio_postgres::types::{ToSql, Type};

use super::rows::{holder_key, micros, number};
use crate::ledger::class::Class;
use crate::ledger::{CertificateRecord, HolderId};

/// The types of the arrays, in the order of `meshmint.record_1`.
const CALL: &str = "SELECT r_written, r_outcomes FROM meshmint.record_1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, \
     $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29)";

/// The columns of a batch. Texts and bytes are the records' own.
#[derive(Debug, Default)]
pub(super) struct Batch<'r> {
    kinds: Vec<String>,
    issuers: Vec<&'r str>,
    generations: Vec<i64>,
    bundle_numbers: Vec<i64>,
    key_algorithms: Vec<String>,
    class: Vec<i32>,
    serial: Vec<&'r [u8]>,
    sha256: Vec<&'r [u8]>,
    der: Vec<&'r [u8]>,
    spiffe_id: Vec<Option<String>>,
    cluster: Vec<Option<&'r str>>,
    namespace: Vec<Option<&'r str>>,
    service_account: Vec<Option<&'r str>>,
    pod_name: Vec<Option<&'r str>>,
    pod_uid: Vec<Option<&'r str>>,
    node_name: Vec<Option<&'r str>>,
    node_uid: Vec<Option<&'r str>>,
    holder: Vec<Option<&'r str>>,
    holder_key: Vec<Option<Vec<u8>>>,
    profile_digest: Vec<&'r str>,
    credential: Vec<String>,
    issued_at: Vec<i64>,
    not_before: Vec<i64>,
    not_after: Vec<i64>,
    replica: Vec<&'r str>,
    sequence: Vec<i64>,
}

impl<'r> Batch<'r> {
    /// Of records whose numbers and texts can be kept.
    pub(super) fn of(records: impl Iterator<Item = &'r CertificateRecord>) -> Self {
        let mut batch = Self::default();
        let mut places: HashMap<Class, i32> = HashMap::new();
        for record in records {
            let class = batch.class_of(&mut places, record);
            batch.class.push(class);
            batch.serial.push(number(&record.serial));
            batch.sha256.push(&record.sha256);
            batch.der.push(&record.der);
            batch.spiffe_id.push(record.spiffe_id.as_ref().map(ToString::to_string));
            batch.cluster.push(record.cluster.as_deref());
            batch.namespace.push(record.namespace.as_deref());
            batch.service_account.push(record.service_account.as_deref());
            batch.pod_name.push(record.pod.as_ref().map(|pod| pod.name.as_str()));
            batch.pod_uid.push(record.pod.as_ref().map(|pod| pod.uid.as_str()));
            batch.node_name.push(record.node.as_ref().map(|node| node.name.as_str()));
            batch.node_uid.push(record.node.as_ref().map(|node| node.uid.as_str()));
            batch.holder.push(record.holder.as_ref().map(HolderId::as_str));
            batch.holder_key.push(record.holder.as_ref().map(|holder| holder_key(holder.as_str())));
            batch.profile_digest.push(&record.profile_digest);
            batch.credential.push(record.credential.to_string());
            batch.issued_at.push(micros(record.issued_at));
            batch.not_before.push(micros(record.not_before));
            batch.not_after.push(micros(record.not_after));
            batch.replica.push(&record.replica);
            batch.sequence.push(kept(record.replica_sequence));
        }
        batch
    }

    /// The place of a record's class, from 1 as PostgreSQL counts.
    fn class_of(&mut self, places: &mut HashMap<Class, i32>, record: &'r CertificateRecord) -> i32 {
        let class = Class::of(record);
        let next = i32::try_from(places.len() + 1).unwrap_or(i32::MAX);
        let place = *places.entry(class).or_insert(next);
        if place == next {
            self.kinds.push(record.kind.to_string());
            self.issuers.push(record.issuer.as_str());
            self.generations.push(kept(record.generation.0));
            self.bundle_numbers.push(kept(record.bundle_number));
            self.key_algorithms.push(record.key_algorithm.map(|algorithm| algorithm.to_string()).unwrap_or_default());
        }
        place
    }

    /// The statement that records it for `writer`. `again`: it may be on record from an earlier try. `fenced`: only while its generations
    /// are open.
    pub(super) fn call<'a>(&'a self, writer: &'a &'a str, again: &'a bool, fenced: &'a bool) -> (&'static str, Vec<(&'a (dyn ToSql + Sync), Type)>) {
        let parameters: Vec<(&'a (dyn ToSql + Sync), Type)> = vec![
            (writer, Type::TEXT),
            (again, Type::BOOL),
            (fenced, Type::BOOL),
            (&self.kinds, Type::TEXT_ARRAY),
            (&self.issuers, Type::TEXT_ARRAY),
            (&self.generations, Type::INT8_ARRAY),
            (&self.bundle_numbers, Type::INT8_ARRAY),
            (&self.key_algorithms, Type::TEXT_ARRAY),
            (&self.class, Type::INT4_ARRAY),
            (&self.serial, Type::BYTEA_ARRAY),
            (&self.sha256, Type::BYTEA_ARRAY),
            (&self.der, Type::BYTEA_ARRAY),
            (&self.spiffe_id, Type::TEXT_ARRAY),
            (&self.cluster, Type::TEXT_ARRAY),
            (&self.namespace, Type::TEXT_ARRAY),
            (&self.service_account, Type::TEXT_ARRAY),
            (&self.pod_name, Type::TEXT_ARRAY),
            (&self.pod_uid, Type::TEXT_ARRAY),
            (&self.node_name, Type::TEXT_ARRAY),
            (&self.node_uid, Type::TEXT_ARRAY),
            (&self.holder, Type::TEXT_ARRAY),
            (&self.holder_key, Type::BYTEA_ARRAY),
            (&self.profile_digest, Type::TEXT_ARRAY),
            (&self.credential, Type::TEXT_ARRAY),
            (&self.issued_at, Type::INT8_ARRAY),
            (&self.not_before, Type::INT8_ARRAY),
            (&self.not_after, Type::INT8_ARRAY),
            (&self.replica, Type::TEXT_ARRAY),
            (&self.sequence, Type::INT8_ARRAY),
        ];
        (CALL, parameters)
    }
}

/// A number that was found to fit.
fn kept(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
