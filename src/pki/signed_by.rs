//! Whether one certificate is signed by the key of another, as far as that can be told here: ring checks neither ECDSA with SHA-512 or on P-521 nor
//! RSA below 2048 bits, and "can't be told" is another answer than "no".

use x509_parser::certificate::X509Certificate;
use x509_parser::error::X509Error;
use x509_parser::public_key::PublicKey;

use crate::spiffe::x509_svid::Extensions;

/// What can be told of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SignedBy {
    /// It is by that key.
    Yes,
    /// It isn't.
    No,
    /// The algorithm can't be checked here.
    Unknown,
}

/// Whether `below` names `above` as its issuer and is signed by its key. Weak algorithms that ring still checks (SHA-1) count.
pub(crate) fn signed_by(below: &X509Certificate<'_>, above: &X509Certificate<'_>) -> SignedBy {
    if below.issuer().as_raw() == above.subject().as_raw() { signature(below, above) } else { SignedBy::No }
}

/// The same without a look at the names.
pub(super) fn signature(below: &X509Certificate<'_>, above: &X509Certificate<'_>) -> SignedBy {
    if has_unusual_rsa_size(above) {
        return SignedBy::Unknown;
    }
    match below.verify_signature(Some(above.public_key())) {
        Ok(()) => SignedBy::Yes,
        Err(X509Error::SignatureUnsupportedAlgorithm) => SignedBy::Unknown,
        Err(_) => SignedBy::No,
    }
}

/// Whether this is a root: it names itself as its issuer, and neither its key identifiers nor its signature say that another key signed it. A signature
/// that can't be checked here says nothing, and that of a trust anchor needs no check (RFC 5280 §6.1).
pub(crate) fn is_root(certificate: &X509Certificate<'_>) -> bool {
    !names_another_key(certificate) && signed_by(certificate, certificate) != SignedBy::No
}

/// Whether authorityKeyIdentifier and subjectKeyIdentifier are both there and differ: then another key of the same name is its issuer's.
pub(super) fn names_another_key(certificate: &X509Certificate<'_>) -> bool {
    identifiers_differ(certificate, certificate)
}

/// Whether the key identifier that `below` names is another one than that of `above`. It helps to find an issuer (RFC 5280 §4.2.1.1); whether it is the
/// issuer, its signature says.
pub(super) fn identifiers_differ(below: &X509Certificate<'_>, above: &X509Certificate<'_>) -> bool {
    let (below, above) = (Extensions::of(below), Extensions::of(above));
    let named = below.authority_key.and_then(|(key, _)| key.key_identifier.as_ref());
    matches!((named, above.subject_key), (Some(named), Some((own, _))) if named != own)
}

/// What ring refuses before it looks at a signature.
fn has_unusual_rsa_size(certificate: &X509Certificate<'_>) -> bool {
    let Ok(PublicKey::RSA(key)) = certificate.public_key().parsed() else { return false };
    let bytes = key.modulus.iter().skip_while(|byte| **byte == 0).count();
    !(256..=1024).contains(&bytes)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyIdMethod};
    use x509_parser::prelude::FromDer;

    use super::*;
    use crate::spiffe::x509_svid::makers::{Made, authority_params};

    fn parsed(der: &[u8]) -> X509Certificate<'_> {
        X509Certificate::from_der(der).unwrap().1
    }

    #[test]
    fn what_can_not_be_told_is_not_a_no() {
        for pem in [
            include_str!("../../tests/corpus/authorities/p256-sha512.pem"),
            include_str!("../../tests/corpus/authorities/p521.pem"),
            include_str!("../../tests/corpus/authorities/rsa1024.pem"),
        ] {
            let der = &crate::pki::certificates_from_pem(pem).unwrap()[0];
            let root = parsed(der);
            assert_eq!((signed_by(&root, &root), is_root(&root)), (SignedBy::Unknown, true), "{pem}");
        }
        let sha1 = &crate::pki::certificates_from_pem(include_str!("../../tests/corpus/authorities/rsa-sha1.pem")).unwrap()[0];
        assert!(is_root(&parsed(sha1)));
    }

    #[test]
    fn a_root_and_what_only_has_its_name() {
        let root = Made::root("one name");
        let below = root.below(authority_params("one name"));
        let pinned = |params: &mut CertificateParams| params.key_identifier_method = KeyIdMethod::PreSpecified(vec![7; 20]);
        let (mut above, mut same) = (authority_params("one name"), authority_params("one name"));
        pinned(&mut above);
        pinned(&mut same);
        let twin = Made::self_signed(above).below(same);
        let (root, below, twin) = (parsed(&root.der), parsed(&below.der), parsed(&twin.der));
        assert!(is_root(&root) && !names_another_key(&root));
        assert!(!is_root(&below) && names_another_key(&below));
        assert!(!is_root(&twin) && !names_another_key(&twin), "its signature says so");
        assert_eq!((signed_by(&below, &root), signed_by(&root, &below)), (SignedBy::Yes, SignedBy::No));
    }
}
