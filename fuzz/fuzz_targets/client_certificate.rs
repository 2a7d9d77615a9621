//! A client certificate. No mutation of a good leaf verifies: what is accepted has the signed bytes of the fixture.
#![no_main]

use std::sync::LazyLock;

use meshmint::authority::AcceptedIssuers;
use meshmint_fuzz::{LEAF, state};
use ring::digest::{SHA256, digest};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

static ACCEPTED: LazyLock<AcceptedIssuers> = LazyLock::new(|| AcceptedIssuers::of_state(&state()).expect("the fixture's certificates"));

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(leaf) = ACCEPTED.verify(data) else { return };
    assert!(ACCEPTED.trusts(&leaf.issuer));
    assert_eq!(leaf.sha256, digest(&SHA256, data).as_ref());
    let signed = |der| X509Certificate::from_der(der).expect("a certificate").1.tbs_certificate;
    assert_eq!(signed(data).as_ref(), signed(LEAF).as_ref(), "nobody signed this");
    assert_eq!(leaf.serial, signed(LEAF).raw_serial());
});
