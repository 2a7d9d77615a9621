//! The protobuf message of the CSR API. What is decoded is written and decoded again as it was.
#![no_main]

use meshmint::server::proto::istio::IstioCertificateRequest;
use prost::Message as _;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(request) = IstioCertificateRequest::decode(data) else { return };
    let written = request.encode_to_vec();
    let again = IstioCertificateRequest::decode(written.as_slice()).expect("our own encoding");
    // Bytes, because a NaN in the metadata doesn't equal itself.
    assert_eq!(again.encode_to_vec(), written);
});
