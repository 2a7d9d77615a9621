//! Whose leaves are accepted as client certificates: those of authorities whose key we hold or held, and that are not distrusted.
//! A foreign root of the bundle never authenticates a caller to us.

use ring::digest::{SHA256, digest};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::{AuthorityId, AuthorityState, Phase, Role};
use crate::pki::{PemError, PemFault, certificates_from_pem};

/// The issuing authorities of a state.
#[derive(Debug, Clone, Default)]
pub struct AcceptedIssuers(Vec<AcceptedIssuer>);

#[derive(Debug, Clone)]
struct AcceptedIssuer {
    id: AuthorityId,
    subject: Vec<u8>,
    public_key: Vec<u8>,
    distrusted: bool,
}

/// A client certificate that verifies below one of our authorities. Whether it is ours, the ledger decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresentedLeaf {
    /// The authority that signed it.
    pub issuer: AuthorityId,
    /// Its serial, as encoded.
    pub serial: Vec<u8>,
    /// SHA-256 of its DER.
    pub sha256: [u8; 32],
    /// notBefore.
    pub not_before: OffsetDateTime,
    /// notAfter.
    pub not_after: OffsetDateTime,
}

/// Why a client certificate isn't even looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// Not an X.509 certificate.
    Malformed,
    /// Its issuer is no authority of ours, or the signature is not that issuer's.
    UnknownIssuer,
    /// Its issuer is distrusted.
    Distrusted,
}

impl AcceptedIssuers {
    /// The issuing authorities of `state`.
    ///
    /// # Errors
    /// [`PemError`] where a certificate of the state can't be read.
    pub fn of_state(state: &AuthorityState) -> Result<Self, PemError> {
        let mut issuers = Vec::new();
        for authority in state.authorities.iter().filter(|authority| matches!(authority.role, Role::Issuing(_))) {
            let unreadable = || PemError::Line { line: 1, fault: PemFault::NotACertificate };
            let certificates = certificates_from_pem(&authority.certificate)?;
            let der = certificates.first().ok_or(PemError::None)?;
            let (_, certificate) = X509Certificate::from_der(der).map_err(|_| unreadable())?;
            let root_distrusted = state.authority(&authority.root).is_some_and(|root| root.phase == Phase::Distrusted);
            issuers.push(AcceptedIssuer {
                id: authority.id.clone(),
                subject: certificate.subject().as_raw().to_vec(),
                public_key: certificate.public_key().raw.to_vec(),
                distrusted: root_distrusted || authority.phase == Phase::Distrusted,
            });
        }
        Ok(Self(issuers))
    }

    /// Whether `id` may (still) vouch for callers: asked at every request, because a connection may outlive a distrust.
    pub fn trusts(&self, id: &AuthorityId) -> bool {
        self.0.iter().any(|issuer| issuer.id == *id && !issuer.distrusted)
    }

    /// Verifies a client certificate up to our authority. Expiry is not looked at here: it is checked at every request.
    ///
    /// # Errors
    /// [`Rejection`].
    pub fn verify(&self, leaf: &[u8]) -> Result<PresentedLeaf, Rejection> {
        let (rest, certificate) = X509Certificate::from_der(leaf).map_err(|_| Rejection::Malformed)?;
        if !rest.is_empty() {
            return Err(Rejection::Malformed);
        }
        let named = self.0.iter().filter(|issuer| issuer.subject == certificate.issuer().as_raw());
        let issuer = named
            .into_iter()
            .find(|issuer| SubjectPublicKeyInfo::from_der(&issuer.public_key).is_ok_and(|(_, key)| certificate.verify_signature(Some(&key)).is_ok()))
            .ok_or(Rejection::UnknownIssuer)?;
        if issuer.distrusted {
            return Err(Rejection::Distrusted);
        }
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest(&SHA256, leaf).as_ref());
        Ok(PresentedLeaf {
            issuer: issuer.id.clone(),
            serial: certificate.raw_serial().to_vec(),
            sha256,
            not_before: certificate.validity().not_before.to_datetime(),
            not_after: certificate.validity().not_after.to_datetime(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls_pki_types::CertificateDer;
    use time::macros::datetime;

    use super::*;
    use crate::authority::testing::{entropy, founded, with_issuing_key};
    use crate::pki::{IssuedBy, IssuerKey, KeyAlgorithm, Serial, Signer, Subject, Validity, prepare};

    const NOW: OffsetDateTime = datetime!(2026-11-23 12:00:00 UTC);

    fn issuing() -> (AuthorityState, Signer) {
        let key = IssuerKey::generate(KeyAlgorithm::P256).unwrap();
        let state = with_issuing_key(founded(NOW), &key, NOW);
        let certificate = certificates_from_pem(&state.issuing().unwrap().0.certificate).unwrap();
        (state, Signer::new(&certificate[0], key).unwrap())
    }

    fn leaf(signer: &Signer) -> CertificateDer<'static> {
        let id = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
        let key = IssuerKey::generate(KeyAlgorithm::P256).unwrap().public_key().unwrap();
        let validity = Validity { not_before: NOW, not_after: NOW + Duration::from_secs(3600) };
        let issuer = IssuedBy::Signer(signer);
        let serial = Serial::draw(entropy().as_ref(), NOW).unwrap();
        prepare(&Subject::Leaf { id: &id, key: &key }, serial, validity, issuer).unwrap().sign().unwrap()
    }

    #[test]
    fn leaves_of_our_authorities_verify_also_after_they_retired() {
        let (state, signer) = issuing();
        let leaf = leaf(&signer);
        let seen = AcceptedIssuers::of_state(&state).unwrap().verify(&leaf).unwrap();
        assert_eq!(seen.issuer, state.issuing().unwrap().0.id);
        assert_eq!(seen.not_after, NOW + Duration::from_secs(3600));
        let later = crate::authority::testing::with_first_issuing(state, NOW);
        assert_eq!(AcceptedIssuers::of_state(&later).unwrap().verify(&leaf), Ok(seen));
    }

    #[test]
    fn nothing_else_does() {
        let (state, signer) = issuing();
        let accepted = AcceptedIssuers::of_state(&state).unwrap();
        let good = leaf(&signer);
        let (_, stranger) = issuing();
        assert_eq!(accepted.verify(&leaf(&stranger)), Err(Rejection::UnknownIssuer));
        assert_eq!(accepted.verify(b"no certificate"), Err(Rejection::Malformed));
        assert_eq!(accepted.verify(&[&good[..], &[0]].concat()), Err(Rejection::Malformed));
        let mut forged = good.to_vec();
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(accepted.verify(&forged), Err(Rejection::UnknownIssuer));
    }

    #[test]
    fn distrust_counts_at_once() {
        let (mut state, signer) = issuing();
        let leaf = leaf(&signer);
        let issuing = state.issuing().unwrap().0.id.clone();
        let root = state.issuing().unwrap().0.root.clone();
        for distrusted in [issuing.clone(), root] {
            for authority in &mut state.authorities {
                authority.phase = if authority.id == distrusted { Phase::Distrusted } else { Phase::Active };
            }
            let accepted = AcceptedIssuers::of_state(&state).unwrap();
            assert_eq!(accepted.verify(&leaf), Err(Rejection::Distrusted));
            assert!(!accepted.trusts(&issuing));
        }
    }
}
