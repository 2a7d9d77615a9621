//! A CSR as it comes over the wire. Bytes that don't begin like PEM are taken for DER and put into it, so that mutations reach the parser.
//! What is accepted has the key of the request, which passes the same checks again.
#![no_main]

use base64::Engine as _;
use meshmint::pki::{CheckedKey, check_csr};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let text = match std::str::from_utf8(data) {
        Ok(text) if text.starts_with('-') => text.to_owned(),
        _ => pem_rfc7468::encode_string("CERTIFICATE REQUEST", pem_rfc7468::LineEnding::LF, data).expect("short enough"),
    };
    let Ok(key) = check_csr(&text) else { return };
    // Read in another way: whatever the lines were, the base64 stands between the boundaries.
    let body = text.split("-----").nth(2).expect("it was accepted");
    let base64: String = body.chars().filter(|letter| letter.is_ascii_alphanumeric() || "+/=".contains(*letter)).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(base64).expect("it was accepted");
    let (rest, request) = X509CertificationRequest::from_der(&der).expect("it was accepted");
    assert!(rest.is_empty());
    let info = key.der();
    assert_eq!(info, request.certification_request_info.subject_pki.raw, "another key than the request's");
    let (_, parsed) = SubjectPublicKeyInfo::from_der(info).expect("our own encoding");
    assert_eq!(CheckedKey::from_subject_public_key_info(&parsed).as_ref(), Ok(&key));
});
