//! Certificate requests: the corpus of `tests/corpus/refusals/csr` against a running server, each with what is expected of it, and
//! what is made of the good ones.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/api.rs"]
mod common;

use base64::Engine as _;
use common::csrs::{assert_plain_leaf, der, key_and_csr, pem, read, request_for, spiffe_id};
use common::grpc::bearer;
use common::refused::{NOT_PARSED, Refused, World};
use serde::Deserialize;
use tonic::Code;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

/// A line of cases.json: reason and sentence, or neither where the request is answered.
#[derive(Deserialize)]
struct Case {
    file: String,
    reason: Option<String>,
    sentence: Option<String>,
}

impl Case {
    fn expected(&self) -> Option<Refused<'_>> {
        Some(refused(self.reason.as_deref()?, self.sentence.as_deref()?))
    }
}

fn refused<'a>(reason: &'a str, sentence: &'a str) -> Refused<'a> {
    Refused { code: Code::InvalidArgument, reason, sentence, counter: Some(NOT_PARSED) }
}

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/refusals/csr");
const NOT_PEM: &str = "the CSR is not exactly one PEM block";

fn cases() -> Vec<(Case, String)> {
    let table = std::fs::read_to_string(format!("{FOLDER}/cases.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&table).unwrap();
    cases
        .into_iter()
        .map(|case| (std::fs::read_to_string(format!("{FOLDER}/{}", case.file)).unwrap(), case))
        .map(|(text, case)| (case, text))
        .collect()
}

#[test]
fn every_file_of_the_corpus_has_its_line() {
    let mut listed: Vec<_> = cases().into_iter().map(|(case, _)| case.file).collect();
    let files = std::fs::read_dir(FOLDER).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut files: Vec<_> = files.filter(|name| name != "cases.json").collect();
    listed.sort();
    files.sort();
    assert_eq!(listed, files);
}

#[tokio::test]
async fn each_request_of_the_corpus_is_refused_or_answered_as_it_says() {
    let world = World::start("", "");
    let wire = world.wire(None).await;
    let token = bearer(&world.token());
    let headers: &[(&str, &[u8])] = &[("authorization", &token)];
    let (mut answered, leaves) = (0, world.leaves());
    for (case, csr) in cases() {
        match case.expected() {
            Some(expected) => {
                world.assert_refused(&case.file, &expected, wire.ask(headers, &request_for(&csr))).await;
            }
            None => {
                let leaf = &wire.ask(headers, &request_for(&csr)).await.chain()[0];
                answered += 1;
                // Nothing but the key is taken over: no CA, no name, no usage, whatever was asked for.
                assert_eq!(spiffe_id(leaf), "spiffe://cluster.local/ns/shop/sa/cart", "{}", case.file);
                assert_plain_leaf(leaf);
                let asked = der_of_csr(&csr);
                let (_, asked) = X509CertificationRequest::from_der(&asked).unwrap();
                let key = asked.certification_request_info.subject_pki.raw;
                assert_eq!(read(leaf, |certificate| certificate.public_key().raw.to_vec()), key, "{}", case.file);
                for foreign in ["evil.example", "istiod"] {
                    assert!(!contains(&der(leaf), foreign.as_bytes()), "{}: {foreign}", case.file);
                }
            }
        }
    }
    assert_eq!((answered, world.leaves() - leaves), (12, 12));
}

fn der_of_csr(csr: &str) -> Vec<u8> {
    let base64 = csr.replace("NEW CERTIFICATE", "CERTIFICATE").replace("-----BEGIN CERTIFICATE REQUEST-----", "");
    let base64 = base64.replace("-----END CERTIFICATE REQUEST-----", "").replace('\n', "");
    base64::engine::general_purpose::STANDARD.decode(base64).unwrap()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[tokio::test]
async fn a_request_cut_anywhere_is_refused() {
    let world = World::start("", "");
    let wire = world.wire(None).await;
    let token = bearer(&world.token());
    let headers: &[(&str, &[u8])] = &[("authorization", &token)];
    let (_, csr) = key_and_csr();
    let end = csr.trim_end().len();
    let (before, leaves) = (world.metrics(), world.leaves());
    for length in 0..end {
        let status = wire.ask(headers, &request_for(&csr[..length])).await.status;
        let sentence = if length == 0 { "the CSR is empty" } else { NOT_PEM };
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, sentence), "{length} of {end}");
    }
    let grown = |name: &str| world.metric(name) - before.get(name).unwrap_or(&0.0);
    assert_eq!(grown(NOT_PARSED), f64::from(u32::try_from(end).unwrap()));
    assert_eq!(grown(r#"meshmint_refusals_total{code="InvalidArgument",reason="csr_not_pem"}"#), f64::from(u32::try_from(end - 1).unwrap()));
    assert_eq!(world.leaves(), leaves);
    assert_eq!(wire.ask(headers, &request_for(&csr[..end])).await.chain().len(), 3, "the end of the END line is enough");
}

#[tokio::test]
async fn a_request_that_is_too_long_is_refused_before_it_is_read() {
    let world = World::start("", "");
    let wire = world.wire(None).await;
    let token = bearer(&world.token());
    let headers: &[(&str, &[u8])] = &[("authorization", &token)];
    let long = pem("CERTIFICATE REQUEST", &vec![0x30; 16 << 10]);
    let sentence = "the CSR has more than 16384 bytes";
    world.assert_refused("20 KiB", &refused("csr_too_large", sentence), wire.ask(headers, &request_for(&long))).await;
    let huge = pem("CERTIFICATE REQUEST", &vec![0x30; 1 << 20]);
    let sentence = "the request is larger than the server accepts";
    let expected = Refused { code: Code::InvalidArgument, reason: "message_too_large", sentence, counter: None };
    world.assert_refused("1 MB", &expected, wire.ask(headers, &request_for(&huge))).await;
    world.goes_on().await;
}
