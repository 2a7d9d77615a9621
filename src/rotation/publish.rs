//! From a state to the generation that requests are answered from, once the ledger knows of it. Every replica does this by itself; doing it again
//! changes nothing.

use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::parts::{KeeperError, KeeperParts};
use crate::authority::{Authority, AuthorityId, AuthorityState, Generation, GenerationError, GenerationNumber};
use crate::ledger::{CertificateRecord, CredentialKind, Kind, LedgerError};
use crate::pki::{CheckedKey, SignerError, certificates_from_pem};

/// The generation of a state, once the ledger has it open and knows its bundle and its authorities. Idempotent.
pub(super) async fn publishable(parts: &KeeperParts, state: &AuthorityState) -> Result<Generation, KeeperError> {
    let (issuing, number) = state.issuing().ok_or(GenerationError::NoneActive)?;
    let reference = issuing.key.as_ref().ok_or(GenerationError::NoneActive)?;
    let generation = Generation::of_state(state, parts.store.key(reference).await?)?;
    let now = parts.clock.now();
    let behind = |error| match error {
        LedgerError::Fenced(_) | LedgerError::Duplicate(_) => KeeperError::Behind(error),
        LedgerError::ForeignCursor | LedgerError::Unavailable(_) => error.into(),
    };
    parts.ledger.open_generation(number, &issuing.id, now).await.map_err(behind)?;
    parts.ledger.record_bundle(state.bundle_number, &state.bundle_pem(), now).await.map_err(behind)?;
    for authority in &state.authorities {
        match parts.ledger.record(authority_record(parts, authority, state, number)?).await {
            Ok(()) | Err(LedgerError::Duplicate(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    parts.ledger.replica_serves(&parts.replica, number, state.bundle_number, now).await?;
    Ok(generation)
}

/// An authority's own certificate as it goes on record: the inventory shows everything that the CA ever signed.
fn authority_record(
    parts: &KeeperParts,
    authority: &Authority,
    state: &AuthorityState,
    generation: GenerationNumber,
) -> Result<CertificateRecord, KeeperError> {
    let certificates = certificates_from_pem(&authority.certificate).map_err(GenerationError::Certificate)?;
    let der = certificates.first().ok_or_else(|| unreadable(&authority.id))?;
    let kind = if authority.id == authority.root { Kind::Root } else { Kind::Intermediate };
    signing_record(parts, der, (kind, issuer_of(authority)?), (generation, state.bundle_number), authority.since)
}

/// A certificate that signs others, as it goes on record: ours, that nobody holds, until somebody says otherwise.
pub(super) fn signing_record(
    parts: &KeeperParts,
    der: &[u8],
    (kind, issuer): (Kind, AuthorityId),
    (generation, bundle_number): (GenerationNumber, u64),
    issued_at: OffsetDateTime,
) -> Result<CertificateRecord, KeeperError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| unreadable(&AuthorityId::of_certificate(der)))?;
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, der).as_ref());
    Ok(CertificateRecord {
        issuer,
        serial: certificate.raw_serial().to_vec(),
        sha256,
        der: der.to_vec(),
        kind,
        spiffe_id: None,
        cluster: None,
        namespace: None,
        service_account: None,
        pod: None,
        node: None,
        holder: None,
        generation,
        bundle_number,
        profile_digest: parts.policy.profile.digest(),
        credential: CredentialKind::Internal,
        key_algorithm: CheckedKey::from_subject_public_key_info(certificate.public_key()).ok().map(|key| key.algorithm()),
        issued_at,
        not_before: certificate.validity().not_before.to_datetime(),
        not_after: certificate.validity().not_after.to_datetime(),
        replica: parts.replica.clone(),
        replica_sequence: 0,
    })
}

fn unreadable(authority: &AuthorityId) -> KeeperError {
    KeeperError::Signer(authority.clone(), SignerError::Malformed)
}

/// Who signed an authority: one of ours, the first of the chain that came with it, or its root.
fn issuer_of(authority: &Authority) -> Result<AuthorityId, KeeperError> {
    if let Some(parent) = &authority.parent {
        return Ok(parent.clone());
    }
    let above = authority.upstream_chain.first().map(|pem| certificates_from_pem(pem)).transpose().map_err(GenerationError::Certificate)?;
    Ok(above.as_deref().and_then(<[_]>::first).map_or_else(|| authority.root.clone(), |der| AuthorityId::of_certificate(der)))
}
