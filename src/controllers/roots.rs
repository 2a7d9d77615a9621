//! Whether two texts hold the same roots, whatever their order and what stands between them.

use ring::digest::{SHA256, digest};

use crate::pki::certificates_from_pem;

/// A digest of a set of certificates.
pub(super) type RootsDigest = [u8; 32];

/// Of the certificates in a PEM text; `None` where it can't be read or holds none.
pub(super) fn roots_digest(pem: &str) -> Option<RootsDigest> {
    let mut each: Vec<_> = certificates_from_pem(pem).ok()?.iter().map(|der| digest(&SHA256, der).as_ref().to_vec()).collect();
    each.sort_unstable();
    each.dedup();
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, &each.concat()).as_ref());
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::certificate_to_pem;

    #[test]
    fn the_set_counts_and_nothing_else() {
        let (one, two) = (certificate_to_pem(b"one"), certificate_to_pem(b"two"));
        let both = roots_digest(&format!("{one}{two}")).unwrap();
        assert_eq!(roots_digest(&format!("{two}\n# two of them\n{one}{two}")), Some(both));
        assert_ne!(roots_digest(&one), Some(both));
        assert_eq!((roots_digest(""), roots_digest("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n")), (None, None));
    }
}
