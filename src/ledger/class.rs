//! What many certificates have in common, which both databases therefore keep once, under a number.

use super::record::{CertificateRecord, Kind};
use crate::authority::{AuthorityId, GenerationNumber};
use crate::pki::PublicKeyAlgorithm;

/// What a certificate shares with many others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Class {
    pub(super) kind: Kind,
    pub(super) issuer: AuthorityId,
    pub(super) generation: GenerationNumber,
    pub(super) bundle_number: u64,
    pub(super) key_algorithm: Option<PublicKeyAlgorithm>,
}

impl Class {
    pub(super) fn of(record: &CertificateRecord) -> Self {
        Self {
            kind: record.kind,
            issuer: record.issuer.clone(),
            generation: record.generation,
            bundle_number: record.bundle_number,
            key_algorithm: record.key_algorithm,
        }
    }
}
