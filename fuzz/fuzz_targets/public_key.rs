//! A SubjectPublicKeyInfo. An accepted key is encoded as it came, byte for byte.
#![no_main]

use meshmint::pki::{CheckedKey, PublicKeyAlgorithm};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok((rest, info)) = SubjectPublicKeyInfo::from_der(data) else { return };
    let Ok(key) = CheckedKey::from_subject_public_key_info(&info) else { return };
    assert_eq!(key.der(), &data[..data.len() - rest.len()]);
    if let PublicKeyAlgorithm::Rsa { bits } = key.algorithm() {
        assert!((2048..=4096).contains(&bits));
    }
});
