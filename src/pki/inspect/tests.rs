//! The report as a whole: what it verifies against, how grave it is, its JSON, and that no bytes make it panic.

use std::time::Duration;

use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair};

use super::*;
use crate::spiffe::bundle::bundle_json;
use crate::spiffe::x509_svid::makers::{Made, NOW, authority_params, leaf_params, request_params};

fn pem(all: &[&Made]) -> Vec<u8> {
    let block = |made: &&Made| pem_rfc7468::encode_string("CERTIFICATE", pem_rfc7468::LineEnding::LF, &made.der).unwrap();
    all.iter().map(block).collect::<String>().into_bytes()
}

fn look(all: &[&Made], roots: Option<&[&Made]>) -> Report {
    let roots = roots.map(|roots| roots.iter().map(|root| root.der.clone()).collect::<Vec<_>>());
    inspect(&pem(all), roots.as_deref(), NOW).unwrap()
}

fn has(report: &Report, severity: Severity, what: &str) -> bool {
    report.remarks.iter().any(|remark| remark.severity == severity && remark.what.contains(what))
}

#[test]
fn verifies_against_given_roots_else_those_in_the_input_else_not() {
    let (root, other) = (Made::root("root"), Made::root("other"));
    let intermediate = root.below(authority_params("ca"));
    let leaf = intermediate.below(leaf_params());
    let chain = |report: &Report| report.chain.as_ref().map(|chain| (chain.status, chain.roots_given, chain.failed_step));

    let given = look(&[&leaf, &intermediate], Some(&[&other, &root]));
    assert_eq!((given.severity, chain(&given)), (Severity::Ok, Some((ChainStatus::Verified, true, None))));
    let found = given.chain.unwrap();
    assert_eq!(found.path, [Place::Certificate(1), Place::Certificate(2), Place::Root(2)]);
    assert_eq!(found.root.unwrap().subject, "CN=root");

    let own = look(&[&leaf, &intermediate, &root], None);
    assert_eq!((own.severity, chain(&own)), (Severity::Ok, Some((ChainStatus::Verified, false, None))));
    let alone = look(&[&leaf, &intermediate], None);
    assert_eq!((alone.severity, chain(&alone)), (Severity::Ok, Some((ChainStatus::NotChecked, false, None))));
    let foreign = look(&[&leaf, &intermediate], Some(&[&other]));
    assert_eq!((foreign.severity, chain(&foreign)), (Severity::Failed, Some((ChainStatus::Failed, true, Some("issuer")))));
    let none = inspect(&pem(&[&leaf]), Some(&[]), NOW).unwrap();
    assert_eq!(chain(&none), Some((ChainStatus::Failed, true, Some("issuer"))));
}

#[test]
fn order_matters_to_some() {
    let root = Made::root("root");
    let upper = root.below(authority_params("upper"));
    let lower = upper.below(authority_params("lower"));
    let leaf = lower.below(leaf_params());
    assert_eq!(look(&[&leaf, &lower, &upper, &root], None).severity, Severity::Ok);
    let swapped = look(&[&leaf, &upper, &lower, &root], None);
    assert_eq!(swapped.severity, Severity::Warning);
    assert!(has(&swapped, Severity::Warning, "not in order"));
    let upside_down = look(&[&upper, &lower, &leaf], Some(&[&root]));
    assert_eq!(upside_down.chain.unwrap().failed_step, Some("order"));
    assert_eq!(look(&[&lower, &upper], Some(&[&root])).severity, Severity::Ok);
}

#[test]
fn severity_is_the_gravest() {
    let root = Made::root("root");
    let with = |spoil: fn(&mut CertificateParams)| {
        let mut params = leaf_params();
        spoil(&mut params);
        look(&[&root.below(params)], Some(&[&root]))
    };
    assert_eq!(with(|_| ()).severity, Severity::Ok);
    assert_eq!(with(|params| params.extended_key_usages.clear()).severity, Severity::Warning);
    let overdue = with(|params| params.not_before = NOW - time::Duration::days(100));
    assert!(overdue.severity == Severity::Warning && has(&overdue, Severity::Warning, "tenth"));
    let expired = with(|params| params.not_after = NOW - time::Duration::seconds(1));
    assert!(expired.severity == Severity::Failed && has(&expired, Severity::Failed, "has expired"));
    let early = with(|params| params.not_before = NOW + time::Duration::seconds(1));
    assert!(early.severity == Severity::Failed && has(&early, Severity::Failed, "not valid yet"));
    // A MUST that no peer checks still fails the look.
    let unbound = with(|params| params.use_authority_key_identifier_extension = false);
    assert_eq!((unbound.severity, unbound.chain.unwrap().status), (Severity::Failed, ChainStatus::Verified));
}

#[test]
fn bundles() {
    let (one, two) = (Made::root("one"), Made::root("two"));
    let plain = look(&[&one, &two], None);
    assert_eq!((plain.severity, plain.certificates.len(), plain.chain), (Severity::Ok, 2, None));
    assert!(has(&look(&[&one, &one], None), Severity::Warning, "twice"));
    assert!(has(&look(&[&one, &two], Some(&[&one])), Severity::Warning, "certificate 2 is a root that is not among"));
    let mut forged = Made::root("forged");
    let last = forged.der.len() - 1;
    forged.der[last] ^= 1;
    assert!(has(&look(&[&forged], None), Severity::Failed, "isn't signed by its own key"));

    let json = bundle_json(&[&one.der, &two.der], 4, Duration::from_secs(300)).unwrap();
    let document = inspect(json.as_bytes(), None, NOW).unwrap();
    assert_eq!((document.severity, document.certificates.len()), (Severity::Ok, 2));
    assert_eq!(document.bundle, Some(BundleReport { sequence: Some(4), refresh_hint_seconds: Some(300), jwt_keys: 0 }));
    assert_eq!(roots_of(json.as_bytes()).unwrap(), [one.der.clone(), two.der]);
    let bare = inspect(br#"{"keys":[{"use":"jwt-svid"},{}]}"#, None, NOW).unwrap();
    assert!(has(&bare, Severity::Failed, "no root") && has(&bare, Severity::Warning, "spiffe_sequence"), "{bare:?}");
    assert_eq!(roots_of(br#"{"keys":[]}"#), Err(InspectError::Unknown));
    let kid = inspect(json.replace("\"use\"", "\"kid\": \"a\", \"use\"").as_bytes(), None, NOW).unwrap();
    assert!(has(&kid, Severity::Failed, "kid"));
}

#[test]
fn nothing_that_was_looked_at_is_not_ok() {
    let root = Made::root("root");
    let block = |label: &str, der: &[u8]| pem_rfc7468::encode_string(label, pem_rfc7468::LineEnding::LF, der).unwrap();
    let key = block("PRIVATE KEY", KeyPair::generate().unwrap().serialized_der());
    for (name, text) in [
        ("a key alone", key.clone()),
        ("PKCS #7", block("PKCS7", &root.der)),
        ("TRUSTED CERTIFICATE", block("TRUSTED CERTIFICATE", &root.der)),
        ("a CRL", block("X509 CRL", &[0x30, 0])),
    ] {
        for roots in [None, Some(vec![root.der.clone()])] {
            let report = inspect(text.as_bytes(), roots.as_deref(), NOW).unwrap();
            assert!(report.severity == Severity::Failed && has(&report, Severity::Failed, "nothing was looked at"), "{name}: {report:?}");
        }
    }
    let certificate = block("CERTIFICATE", &root.der);
    let lost = inspect(format!("{certificate}{}", block("TRUSTED CERTIFICATE", &root.der)).as_bytes(), None, NOW).unwrap();
    assert!(has(&lost, Severity::Failed, "`openssl x509 -in FILE`"), "a certificate that isn't read is not passed over: {lost:?}");
    assert_eq!(inspect(format!("{key}{certificate}").as_bytes(), None, NOW).unwrap().severity, Severity::Ok);
    let request = request_params().serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
    let report = inspect(&request, Some(&[root.der]), NOW).unwrap();
    assert!(has(&report, Severity::Warning, "nothing was verified"), "{report:?}");
}

#[test]
fn what_can_be_no_root_verifies_nothing() {
    let root = Made::root("root");
    let intermediate = root.below(authority_params("ca"));
    let leaf = intermediate.below(leaf_params());
    let own = look(&[&leaf], Some(&[&leaf]));
    assert_eq!((own.severity, own.chain.as_ref().unwrap().status), (Severity::Failed, ChainStatus::Failed));
    assert!(has(&own, Severity::Failed, "none is a CA"), "{own:?}");
    let mut params = leaf_params();
    params.distinguished_name.push(rcgen::DnType::CommonName, "self-signed");
    let self_signed = Made::self_signed(params);
    assert_eq!(look(&[&self_signed], Some(&[&self_signed])).severity, Severity::Failed);
    let mixed = look(&[&leaf, &intermediate], Some(&[&leaf, &root]));
    assert!(mixed.chain.as_ref().unwrap().status == ChainStatus::Verified && has(&mixed, Severity::Warning, "no CA: root 1"), "{mixed:?}");
    let halfway = look(&[&leaf], Some(&[&intermediate]));
    assert!(has(&halfway, Severity::Warning, "signed by another key"), "{halfway:?}");
}

#[test]
fn a_root_and_an_intermediate_of_one_name() {
    let method = |bytes: u8| rcgen::KeyIdMethod::PreSpecified(vec![bytes; 20]);
    let root = Made::root("one name");
    let intermediate = root.below(authority_params("one name"));
    let leaf = intermediate.below(leaf_params());
    let report = look(&[&leaf, &intermediate], Some(&[&root]));
    assert_eq!((report.severity, report.certificates[1].kind), (Severity::Ok, Kind::Intermediate), "{report:?}");
    // The root has another identifier than the one that the intermediate names: the signature counts.
    let key = KeyPair::generate().unwrap();
    let mut params = authority_params("root");
    params.key_identifier_method = method(7);
    let told = Made { der: params.self_signed(&key).unwrap().der().to_vec(), issuer: rcgen::Issuer::new(params, key) };
    let intermediate = told.below(authority_params("ca"));
    let mut params = authority_params("root");
    params.key_identifier_method = method(8);
    let anew = Made { der: params.self_signed(told.issuer.key()).unwrap().der().to_vec(), issuer: Made::root("unused").issuer };
    let leaf = intermediate.below(leaf_params());
    let report = look(&[&leaf, &intermediate], Some(&[&anew]));
    assert_eq!(report.chain.as_ref().unwrap().status, ChainStatus::Verified, "{report:?}");
    assert!(report.severity == Severity::Warning && has(&report, Severity::Warning, "another key identifier"), "{report:?}");
}

#[test]
fn a_signature_that_can_not_be_checked_is_called_that() {
    let at = time::macros::datetime!(2027-01-01 12:00 UTC);
    for pem in [
        include_str!("../../../tests/corpus/authorities/p256-sha512.pem"),
        include_str!("../../../tests/corpus/authorities/p521.pem"),
        include_str!("../../../tests/corpus/authorities/rsa1024.pem"),
    ] {
        let report = inspect(pem.as_bytes(), None, at).unwrap();
        assert!(has(&report, Severity::Ok, "can't be checked here; a trusted root needs no such check"), "{report:?}");
        assert!(!has(&report, Severity::Failed, "signed"), "{report:?}");
    }
    let sha1 = inspect(include_bytes!("../../../tests/corpus/authorities/rsa-sha1.pem"), None, at).unwrap();
    assert!(sha1.remarks.is_empty(), "{sha1:?}");
}

#[test]
fn requests() {
    let request = request_params().serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
    let report = inspect(&request, None, NOW).unwrap();
    assert_eq!((report.severity, report.requests.len()), (Severity::Ok, 1));
    assert!(has(&report, Severity::Ok, "take only the key"));
    let mut forged = request;
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert_eq!(inspect(&forged, None, NOW).unwrap().severity, Severity::Failed);
}

#[test]
fn the_json_has_its_shape() {
    let root = Made::root("root");
    let leaf = root.below(leaf_params());
    let json = serde_json::to_value(look(&[&leaf], Some(&[&root]))).unwrap();
    assert_eq!(json["severity"], "ok");
    assert_eq!(json["now"], "2026-11-23T12:00:00Z");
    let certificate = &json["certificates"][0];
    assert_eq!((&certificate["kind"], &certificate["notAfter"]), (&"leaf".into(), &"2026-11-24T12:00:00Z".into()));
    assert_eq!(certificate["spiffeId"], "spiffe://cluster.local/ns/shop/sa/cart");
    assert_eq!((&certificate["remainingSeconds"], &certificate["publicKey"]["bits"]), (&86_400.into(), &256.into()));
    assert!(certificate["serial"].as_str().unwrap().bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)));
    assert_eq!((&json["chain"]["status"], &json["chain"]["path"][1]["root"]), (&"verified".into(), &1.into()));
    assert_eq!(json["chain"]["root"]["subject"], "CN=root");
}

#[test]
fn truncated_anywhere_never_panics() {
    let root = Made::root("root");
    let leaf = root.below(leaf_params());
    let request = request_params().serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
    let bundle = bundle_json(&[&root.der], 4, Duration::from_secs(300)).unwrap().into_bytes();
    for whole in [leaf.der.clone(), request, pem(&[&leaf, &root]), bundle] {
        let severity = |input: &[u8]| inspect(input, None, NOW).map(|report| render_text(&report, Palette::PLAIN)).is_ok();
        assert!(severity(&whole));
        for end in 0..whole.len() {
            severity(&whole[..end]);
        }
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x55;
            severity(&flipped);
        }
    }
    let (half, _) = leaf.der.split_at(leaf.der.len() / 2);
    assert_eq!(inspect(half, None, NOW), Err(InspectError::Unknown));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000), framing in 0..4) {
        let input = match framing {
            0 => bytes,
            1 => [&[0x30, 0x82][..], &bytes].concat(),
            2 => pem_rfc7468::encode_string("CERTIFICATE", pem_rfc7468::LineEnding::LF, &bytes).unwrap().into_bytes(),
            _ => [&b"{\"keys\":[{\"use\":\"x509-svid\",\"x5c\":[\""[..], &bytes, b"\"]}]}"].concat(),
        };
        if let Ok(report) = inspect(&input, None, NOW) {
            prop_assert!(!render_text(&report, Palette::PLAIN).is_empty());
        }
    }
}
