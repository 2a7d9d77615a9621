//! The snapshot that a request is answered from. A rotation in between can't mix two: leaf, chain and bundle all come from one value.

use std::sync::Arc;

use time::OffsetDateTime;

use super::{AcceptedIssuers, AuthorityId, AuthorityState, GenerationNumber, rotation};
use crate::pki::{IssuerKey, PemError, Signer, SignerError, certificate_to_pem, certificates_from_pem};

/// Everything that signing and answering needs, immutable.
#[derive(Debug, Clone)]
pub struct Generation {
    /// Its number: the fence in the ledger.
    pub number: GenerationNumber,
    /// The authority that signs.
    pub authority: AuthorityId,
    /// The root that it chains to.
    pub root: AuthorityId,
    /// Its key and certificate.
    pub signer: Signer,
    /// The certificates between leaf and root, nearest first, one PEM block each, ending in a newline.
    pub chain: Arc<[String]>,
    /// The trust bundle: every root as PEM, in one string. The same bytes in every answer.
    pub bundle: Arc<str>,
    /// The bundle's number.
    pub bundle_number: u64,
    /// Nothing may be granted beyond this: the earliest notAfter of all issuers, and what is reserved for the root.
    pub limit: OffsetDateTime,
    /// The earliest notAfter from the issuing certificate to its root.
    pub chain_end: OffsetDateTime,
    /// notAfter of the root.
    pub root_not_after: OffsetDateTime,
    /// Whose leaves are accepted as client certificates.
    pub accepted: AcceptedIssuers,
}

/// Why a state gives no generation that can sign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenerationError {
    /// No issuing authority is active.
    #[error("no authority may sign")]
    NoneActive,
    /// A certificate of the state can't be read.
    #[error("a certificate of the authority state can't be read: {0}")]
    Certificate(#[from] PemError),
    /// Key and certificate don't make an authority.
    #[error("the issuing authority can't sign: {0}")]
    Signer(#[from] SignerError),
    /// Nothing is reserved for its root yet.
    #[error("nothing is reserved for root {0}")]
    NothingReserved(AuthorityId),
}

impl Generation {
    /// The generation that signs in this state, with the key that the state refers to.
    ///
    /// # Errors
    /// [`GenerationError`].
    pub fn of_state(state: &AuthorityState, key: IssuerKey) -> Result<Self, GenerationError> {
        let (issuing, number) = state.issuing().ok_or(GenerationError::NoneActive)?;
        let certificates = certificates_from_pem(&issuing.certificate)?;
        let certificate = certificates.first().ok_or(PemError::None)?;
        let signer = Signer::new(certificate, key)?;
        let reserved = state.reserved_not_after.get(&issuing.root).ok_or_else(|| GenerationError::NothingReserved(issuing.root.clone()))?;
        let chain_end = rotation::chain_end(state).ok_or(GenerationError::NoneActive)?;

        // A root that signs leaves itself is in the bundle already.
        let mut chain_der = if issuing.id == issuing.root { Vec::new() } else { certificates };
        for pem in &issuing.upstream_chain {
            chain_der.extend(certificates_from_pem(pem)?);
        }
        Ok(Self {
            number,
            authority: issuing.id.clone(),
            root: issuing.root.clone(),
            signer,
            chain: chain_der.iter().map(|der| certificate_to_pem(der)).collect(),
            bundle: state.bundle_pem().into(),
            bundle_number: state.bundle_number,
            limit: chain_end.min(*reserved),
            chain_end,
            root_not_after: rotation::root_end(state).unwrap_or(chain_end),
            accepted: AcceptedIssuers::of_state(state)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::authority::testing::{founded, policy, with_issuing_key};
    use crate::pki::KeyAlgorithm;

    const NOW: OffsetDateTime = datetime!(2026-11-23 12:00:00 UTC);

    fn key() -> IssuerKey {
        IssuerKey::generate(KeyAlgorithm::P256).unwrap()
    }

    #[test]
    fn everything_comes_from_one_state() {
        let key = key();
        let state = with_issuing_key(founded(NOW), &key, NOW);
        let root = state.trust[0].id.clone();
        let state = state.with_reservation(root.clone(), NOW + policy().longest_leaf);
        let generation = Generation::of_state(&state, key).unwrap();
        assert_eq!((generation.number, generation.root), (GenerationNumber(1), root));
        assert_eq!(generation.chain.len(), 1, "the issuing certificate; the root is in the bundle");
        assert_eq!(&*generation.bundle, state.trust[0].certificate);
        assert_eq!(generation.limit, NOW + policy().longest_leaf, "what is reserved bounds every leaf");
        assert!(generation.chain_end > generation.limit);
    }

    #[test]
    fn no_generation_without_issuer_key_or_reservation() {
        let mine = key();
        let without_issuer = founded(NOW);
        assert_eq!(Generation::of_state(&without_issuer, mine.clone()).unwrap_err(), GenerationError::NoneActive);
        let state = with_issuing_key(without_issuer, &mine, NOW);
        let root = state.trust[0].id.clone();
        assert_eq!(Generation::of_state(&state, mine).unwrap_err(), GenerationError::NothingReserved(root.clone()));
        let state = state.with_reservation(root, NOW);
        assert_eq!(Generation::of_state(&state, key()).unwrap_err(), GenerationError::Signer(SignerError::KeyMismatch));
    }
}
