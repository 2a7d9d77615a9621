//! Which root may join the trust bundle although its key was never ours: for a mesh of the same trust domain that moves from one CA to another.
//! Such a root only tells workloads whom to trust; it never authenticates a caller to us (`accepted.rs`).

use std::collections::BTreeSet;

use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::import::{self, ImportError, MAX_ROOTS};
use super::{AuthorityId, AuthorityState, TrustEntry};
use crate::pki::inspect::printable_name;
use crate::pki::{CheckedKey, PemError, PublicKeyError, certificate_to_pem, certificates_from_pem, is_root};

/// The longest certificate of a root, DER: it travels in every answer and in every handshake.
const MAX_ROOT_BYTES: usize = 8 * 1024;

/// A root that passed every check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignRoot {
    /// As it joins the bundle.
    pub entry: TrustEntry,
    /// Its subject, for people.
    pub subject: String,
    /// Its end.
    pub not_after: OffsetDateTime,
}

/// What a checked root is to the bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joining {
    /// It is in it.
    Already(AuthorityId),
    /// It may join.
    New(ForeignRoot),
}

/// Why a root can't join the bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// Not PEM certificates.
    #[error("the root can't be read: {0}")]
    Pem(#[from] PemError),
    /// Several at once: each needs a reason of its own.
    #[error("there are {0} certificates in it; add roots one by one")]
    NotOne(usize),
    /// PEM, but not X.509.
    #[error("the certificate can't be read as X.509")]
    Unreadable,
    /// Longer than [`MAX_ROOT_BYTES`].
    #[error("the certificate has {0} bytes; at most {MAX_ROOT_BYTES} are accepted, because it travels in every handshake")]
    TooLong(usize),
    /// Go's verifier refuses to read it, and with it the whole bundle (RFC 5280 §4.1.2.2).
    #[error("its serial number is negative, zero or longer than 20 octets, and Istio's agents (Go) don't read a bundle with such a certificate")]
    Serial,
    /// It is not signed by its own key.
    #[error("{0} is not self-signed: a trust anchor of a mesh is a root; add the root that it chains to")]
    NotSelfSigned(String),
    /// Its key is of a kind that clients can't verify with, or too weak.
    #[error("its key can't be used: {0}")]
    Key(#[from] PublicKeyError),
    /// What holds for imported roots as well: it is a CA, valid now, without URI name constraints and of this trust domain.
    #[error(transparent)]
    Rule(#[from] ImportError),
    /// Verifiers tell issuers apart by their subjects.
    #[error("{subject} has the subject of {other}, which is another certificate: verifiers could not tell the two apart")]
    SameSubject {
        /// The subject.
        subject: String,
        /// Whose it is.
        other: AuthorityId,
    },
    /// Whoever drops one of the two would still trust its key.
    #[error("{subject} has the key of {other}, which is another certificate: distrusting one of them would not distrust the key")]
    SameKey {
        /// The subject.
        subject: String,
        /// Whose key it is.
        other: AuthorityId,
    },
    /// The bundle is full.
    #[error("the trust bundle holds {0} roots already, and at most {MAX_ROOTS} are accepted: every root travels in every handshake")]
    Full(usize),
}

/// Checks a root that is to join the bundle of `state`.
///
/// # Errors
/// [`TrustError`], for the first thing that is wrong.
pub fn foreign_root(state: &AuthorityState, pem: &str, now: OffsetDateTime) -> Result<Joining, TrustError> {
    let mut all = certificates_from_pem(pem)?;
    let (Some(der), true) = (all.pop(), all.is_empty()) else { return Err(TrustError::NotOne(all.len() + 1)) };
    let id = AuthorityId::of_certificate(&der);
    if state.trust.iter().any(|entry| entry.id == id) {
        return Ok(Joining::Already(id));
    }
    if der.len() > MAX_ROOT_BYTES {
        return Err(TrustError::TooLong(der.len()));
    }
    let (rest, root) = X509Certificate::from_der(&der).map_err(|_| TrustError::Unreadable)?;
    if !rest.is_empty() {
        return Err(TrustError::Unreadable);
    }
    let subject = printable_name(root.subject());
    if !is_positive(root.raw_serial()) {
        return Err(TrustError::Serial);
    }
    CheckedKey::from_subject_public_key_info(root.public_key())?;
    if !is_root(&root) {
        return Err(TrustError::NotSelfSigned(subject));
    }
    import::check(&root, &state.trust_domain, now)?;
    for (other, known) in known(state)? {
        let (_, known) = X509Certificate::from_der(&known).map_err(|_| TrustError::Unreadable)?;
        if known.subject().as_raw() == root.subject().as_raw() {
            return Err(TrustError::SameSubject { subject, other });
        }
        if known.public_key().raw == root.public_key().raw {
            return Err(TrustError::SameKey { subject, other });
        }
    }
    if state.trust.len() >= MAX_ROOTS {
        return Err(TrustError::Full(state.trust.len()));
    }
    let entry = TrustEntry { id, certificate: certificate_to_pem(&der), foreign: true };
    let not_after = root.validity().not_after.to_datetime();
    Ok(Joining::New(ForeignRoot { entry, subject, not_after }))
}

/// Every certificate that the state holds, with its name.
fn known(state: &AuthorityState) -> Result<Vec<(AuthorityId, CertificateDer<'static>)>, PemError> {
    let own = state.authorities.iter().flat_map(|authority| std::iter::once(&authority.certificate).chain(&authority.upstream_chain));
    let pems: BTreeSet<&String> = own.chain(state.trust.iter().map(|entry| &entry.certificate)).collect();
    let mut found = Vec::new();
    for pem in pems {
        found.extend(certificates_from_pem(pem)?.into_iter().map(|der| (AuthorityId::of_certificate(&der), der)));
    }
    Ok(found)
}

/// A serial number that every verifier reads: positive, at most 20 octets.
fn is_positive(serial: &[u8]) -> bool {
    let negative = serial.first().is_none_or(|octet| octet & 0x80 != 0);
    !negative && serial.len() <= 20 && serial.iter().any(|octet| *octet != 0)
}

impl AuthorityState {
    /// The state that trusts one more root; the bundle has a new number.
    #[must_use]
    pub fn with_foreign_root(mut self, root: &ForeignRoot, now: OffsetDateTime) -> Self {
        self.trust.push(root.entry.clone());
        self.bundle_number += 1;
        let number = self.bundle_number;
        self.remember(now, format!("foreign root {} joined the trust bundle, which is number {number} now", root.entry.id))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, SanType, SerialNumber,
    };
    use time::macros::datetime;

    use super::*;
    use crate::authority::testing::{founded, with_first_issuing};

    const NOW: OffsetDateTime = datetime!(2026-11-23 12:00:00 UTC);

    fn state() -> AuthorityState {
        with_first_issuing(founded(NOW), NOW)
    }

    fn parameters(name: &str) -> CertificateParams {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        parameters.not_before = NOW - time::Duration::days(1);
        parameters.not_after = NOW + time::Duration::days(365);
        parameters.serial_number = Some(SerialNumber::from(7));
        parameters
    }

    fn pem(parameters: &CertificateParams, key: &KeyPair) -> String {
        certificate_to_pem(parameters.self_signed(key).unwrap().der())
    }

    fn root(name: &str) -> String {
        pem(&parameters(name), &KeyPair::generate().unwrap())
    }

    fn joins(state: &AuthorityState, pem: &str) -> ForeignRoot {
        match foreign_root(state, pem, NOW).unwrap() {
            Joining::New(root) => root,
            Joining::Already(id) => panic!("{id} is there already"),
        }
    }

    fn refusal(state: &AuthorityState, pem: &str) -> TrustError {
        foreign_root(state, pem, NOW).unwrap_err()
    }

    #[test]
    fn a_root_joins_at_the_end_of_a_bundle_with_a_new_number_and_only_once() {
        let state = state();
        let pem = root("old root");
        let found = joins(&state, &pem);
        assert_eq!((found.entry.foreign, found.subject.as_str(), found.not_after), (true, "CN=old root", NOW + time::Duration::days(365)));
        let next = state.clone().with_foreign_root(&found, NOW);
        assert_eq!(next.bundle_number, state.bundle_number + 1);
        assert_eq!(next.bundle_pem(), state.bundle_pem() + &pem);
        assert_eq!(next.authorities, state.authorities, "nothing else changes");
        assert!(next.history.last().unwrap().what.contains(found.entry.id.as_str()));
        assert_eq!(AuthorityState::from_json(&next.to_json().unwrap()).unwrap(), next);
        assert_eq!(foreign_root(&next, &pem, NOW), Ok(Joining::Already(found.entry.id)), "it is there already");
        assert_eq!(foreign_root(&next, &next.trust[0].certificate, NOW), Ok(Joining::Already(next.trust[0].id.clone())), "so is our own");
    }

    #[test]
    fn what_is_no_root_for_this_mesh_is_refused() {
        let state = state();
        let key = KeyPair::generate().unwrap();
        let with = |change: &dyn Fn(&mut CertificateParams)| {
            let mut parameters = parameters("a root");
            change(&mut parameters);
            pem(&parameters, &key)
        };
        assert_eq!(refusal(&state, "no certificate"), TrustError::Pem(PemError::None));
        assert_eq!(refusal(&state, &(root("one") + &root("two"))), TrustError::NotOne(2));
        assert_eq!(refusal(&state, &certificate_to_pem(b"no DER")), TrustError::Unreadable);
        let good = parameters("a root").self_signed(&key).unwrap();
        assert_eq!(refusal(&state, &certificate_to_pem(&[good.der(), [0].as_slice()].concat())), TrustError::Unreadable);
        let long = with(&|parameters| {
            parameters.subject_alt_names = (0..300).map(|number| SanType::DnsName(format!("{number:040}.example").try_into().unwrap())).collect();
        });
        assert!(matches!(refusal(&state, &long), TrustError::TooLong(_)));
        let zero = with(&|parameters| parameters.serial_number = Some(SerialNumber::from_slice(&[0])));
        assert_eq!(refusal(&state, &zero), TrustError::Serial);
        let not_a_ca = with(&|parameters| parameters.is_ca = IsCa::ExplicitNoCa);
        assert!(matches!(refusal(&state, &not_a_ca), TrustError::Rule(ImportError::NotAnAuthority(_))));
        let signs_nothing = with(&|parameters| parameters.key_usages = vec![KeyUsagePurpose::CrlSign]);
        assert!(matches!(refusal(&state, &signs_nothing), TrustError::Rule(ImportError::NotAnAuthority(_))));
        let over = with(&|parameters| parameters.not_after = NOW - time::Duration::SECOND);
        assert!(matches!(refusal(&state, &over), TrustError::Rule(ImportError::NotValidNow { .. })));
        let other = with(&|parameters| parameters.subject_alt_names = vec![SanType::URI("spiffe://other.example".try_into().unwrap())]);
        assert!(matches!(refusal(&state, &other), TrustError::Rule(ImportError::TrustDomain { .. })));
        let constrained = with(&|parameters| {
            let permitted_subtrees = vec![GeneralSubtree::DnsName("example".to_owned())];
            parameters.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
        });
        assert!(foreign_root(&state, &constrained, NOW).is_ok(), "only constraints of URIs break anything");
        let above = Issuer::new(parameters("above"), KeyPair::generate().unwrap());
        let below = certificate_to_pem(parameters("below").signed_by(&key, &above).unwrap().der());
        assert!(matches!(refusal(&state, &below), TrustError::NotSelfSigned(_)));
    }

    #[test]
    fn no_two_roots_share_a_subject_or_a_key() {
        let key = KeyPair::generate().unwrap();
        let state = state();
        let first = joins(&state, &pem(&parameters("first"), &key));
        let state = state.with_foreign_root(&first, NOW);
        assert!(matches!(refusal(&state, &root("first")), TrustError::SameSubject { other, .. } if other == first.entry.id));
        assert!(matches!(refusal(&state, &pem(&parameters("second"), &key)), TrustError::SameKey { other, .. } if other == first.entry.id));
        // An issuing authority of ours counts as well.
        let issuing = certificates_from_pem(&state.authorities[1].certificate).unwrap();
        let (_, own) = X509Certificate::from_der(&issuing[0]).unwrap();
        let mut same = parameters("issuing");
        same.distinguished_name = rcgen::DistinguishedName::new();
        for attribute in own.subject().iter_attributes() {
            let kind = DnType::from_oid(&attribute.attr_type().iter().unwrap().collect::<Vec<_>>());
            same.distinguished_name.push(kind, attribute.as_str().unwrap());
        }
        assert!(
            matches!(refusal(&state, &pem(&same, &KeyPair::generate().unwrap())), TrustError::SameSubject { other, .. } if other == state.authorities[1].id)
        );
    }

    #[test]
    fn the_bundle_is_bounded() {
        let mut state = state();
        while state.trust.len() < MAX_ROOTS {
            let root = joins(&state, &root(&format!("root {}", state.trust.len())));
            state = state.with_foreign_root(&root, NOW);
        }
        assert_eq!(refusal(&state, &root("one too many")), TrustError::Full(MAX_ROOTS));
    }

    #[test]
    fn serials_are_positive() {
        for good in [&[1][..], &[0x7f; 20], &[0, 0x80]] {
            assert!(is_positive(good), "{good:?}");
        }
        for bad in [&[][..], &[0], &[0x80], &[0xff, 0xff], &[1; 21]] {
            assert!(!is_positive(bad), "{bad:?}");
        }
    }
}
