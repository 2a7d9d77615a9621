//! Certificates in PEM. What is read can be written, and is read again as it was.
#![no_main]

use meshmint::pki::{certificate_to_pem, certificates_from_pem};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Ok(certificates) = certificates_from_pem(text) else { return };
    assert!(!certificates.is_empty());
    let written: String = certificates.iter().map(|der| certificate_to_pem(der)).collect();
    assert_eq!(certificates_from_pem(&written).as_ref(), Ok(&certificates));
});
