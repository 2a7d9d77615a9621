//! What else is in a request: wishes that are capped, wishes that are refused, and bytes that are no request.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/api.rs"]
mod common;

use std::collections::BTreeMap;

use common::csrs::{lifetime, request, spiffe_id};
use common::grpc::{CREATE, bearer, frame};
use common::refused::{Refused, World};
use hyper::body::Bytes;
use meshmint::server::proto::istio::IstioCertificateRequest;
use prost::Message;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use tonic::Code;

fn with_metadata(name: &str, kind: Option<Kind>) -> IstioCertificateRequest {
    let fields: BTreeMap<_, _> = [(name.to_owned(), Value { kind })].into();
    IstioCertificateRequest { metadata: Some(Struct { fields }), ..request() }
}

fn text(text: &str) -> Option<Kind> {
    Some(Kind::StringValue(text.to_owned()))
}

fn invalid<'a>(reason: &'a str, sentence: &'a str) -> Refused<'a> {
    Refused { code: Code::InvalidArgument, reason, sentence, counter: None }
}

#[tokio::test]
async fn lifetimes_beyond_reason_are_answered_within_it() {
    const HOUR: i64 = 3600;
    let certificates = "certificates: { defaultLifetime: 6h, maxLifetime: 12h, backdate: 2m, jitter: 10% }\n";
    let world = World::start("", certificates);
    let wire = world.wire(None).await;
    // seconds asked for; the least (a tenth less, for jitter) and the most that comes
    let cases = [
        (0, 6 * HOUR),
        (-1, 6 * HOUR),
        (i64::MIN, 6 * HOUR),
        (2 * HOUR, 2 * HOUR),
        (13 * HOUR, 12 * HOUR),
        (i64::MAX, 12 * HOUR),
        (i64::from(u32::MAX), 12 * HOUR),
    ];
    for (asked, expected) in cases {
        let request = IstioCertificateRequest { validity_duration: asked, ..request() };
        let (ahead, behind) = lifetime(&wire.ask(&[("authorization", &bearer(&world.token()))], &request).await.chain()[0]);
        // The clock may turn to the next second in between.
        assert!((expected * 9 / 10 - 2..=expected).contains(&ahead), "{asked}: {ahead} s");
        assert!((120..=122).contains(&behind), "{asked}: {behind} s");
    }
    let brief = IstioCertificateRequest { validity_duration: 1, ..request() };
    let (ahead, _) = lifetime(&wire.ask(&[("authorization", &bearer(&world.token()))], &brief).await.chain()[0]);
    assert!((598..=600).contains(&ahead), "five backdates at least: {ahead} s");
}

#[tokio::test]
async fn metadata_is_what_we_know_or_is_refused() {
    let world = World::start("", "");
    let wire = world.wire(None).await;
    let token = bearer(&world.token());
    let headers: &[(&str, &[u8])] = &[("authorization", &token)];
    let wrong = [
        Some(Kind::NumberValue(7.0)),
        Some(Kind::BoolValue(true)),
        Some(Kind::ListValue(ListValue { values: vec![Value { kind: text("a") }] })),
        Some(Kind::StructValue(Struct::default())),
    ];
    for field in ["CertSigner", "ImpersonatedIdentity"] {
        for kind in &wrong {
            let sentence = format!("metadata field {field} must be a string");
            let expected = invalid("metadata_type", &sentence);
            world.assert_refused(&format!("{field} {kind:?}"), &expected, wire.ask(headers, &with_metadata(field, kind.clone()))).await;
        }
        for kind in [text(""), None, Some(Kind::NullValue(0))] {
            assert_eq!(wire.ask(headers, &with_metadata(field, kind)).await.chain().len(), 3, "{field}: absent");
        }
    }
    let sentence = "CertSigner names a signer that is not known here; leave it empty";
    for signer in ["clusterissuers.example/other", " ", &"x".repeat(10_000)] {
        let expected = invalid("unknown_cert_signer", sentence);
        world.assert_refused("CertSigner", &expected, wire.ask(headers, &with_metadata("CertSigner", text(signer)))).await;
    }
    let leaf = &wire.ask(headers, &with_metadata("Unheard-Of", text("spiffe://evil.example/x"))).await.chain()[0];
    assert_eq!(spiffe_id(leaf), "spiffe://cluster.local/ns/shop/sa/cart", "fields that nobody knows mean nothing");
}

#[tokio::test]
async fn nobody_speaks_for_others() {
    let world = World::start("", "");
    let wire = world.wire(None).await;
    let own = "spiffe://cluster.local/ns/shop/sa/cart";
    let cases = [
        (("shop", "cart"), "spiffe://cluster.local/ns/shop/sa/admin", "impersonation_not_trusted"),
        (("shop", "cart"), own, "impersonation_not_trusted"),
        (("shop", "cart"), "nonsense", "impersonation_not_trusted"),
        (("istio-system", "ztunnel"), own, "impersonation_no_facts"),
        (("istio-system", "ztunnel"), "nonsense", "impersonation_malformed_identity"),
        (("istio-system", "ztunnel"), "spiffe://cluster.local/ns/shop/sa/cart,spiffe://cluster.local/ns/a/sa/b", "impersonation_malformed_identity"),
        (("istio-system", "ztunnel"), "spiffe://evil.example/ns/shop/sa/cart", "impersonation_foreign_trust_domain"),
    ];
    for ((namespace, account), requested, reason) in cases {
        let sentence = "the caller may not ask for this identity";
        let expected = Refused { code: Code::PermissionDenied, reason, sentence, counter: None };
        let token = bearer(&world.issuer.good(namespace, account));
        let request = with_metadata("ImpersonatedIdentity", text(requested));
        world.assert_refused(requested, &expected, wire.ask(&[("authorization", &token)], &request)).await;
    }
}

#[tokio::test]
async fn bytes_that_are_no_request_are_the_callers_fault() {
    let world = World::start("", "");
    let wire = world.wire(None).await;
    let token = bearer(&world.token());
    let headers: &[(&str, &[u8])] = &[("authorization", &token)];
    let good = request().encode_to_vec();
    let prefixed = |flag: u8, length: usize, message: &[u8]| -> Bytes {
        [&[flag], u32::try_from(length).unwrap().to_be_bytes().as_slice(), message].concat().into()
    };
    let cases = [
        ("a length that runs past the end", frame(b"\x0a\xff\x01abc")),
        ("a field number of zero", frame(b"\x00\x00")),
        ("a csr that isn't UTF-8", frame(b"\x0a\x02\xff\xfe")),
        ("a group that never ends", frame(b"\x0b\x0b\x0b")),
        ("a csr that is a number", frame(b"\x08\x07")),
        ("a duration that is a text", frame(b"\x1a\x01x")),
        ("a number of eleven bytes", frame(b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")),
        ("metadata a thousand levels deep", frame(&nested(1000))),
        ("a request without its last byte", prefixed(0, good.len() - 1, &good[..good.len() - 1])),
        ("a message cut off", prefixed(0, good.len(), &good[..good.len() / 2])),
        ("a prefix cut off", Bytes::from_static(b"\x00\x00")),
        ("no message at all", Bytes::new()),
        ("a flag that nobody knows", prefixed(7, good.len(), &good)),
        ("said to be compressed, in no way that was named", prefixed(1, good.len(), &good)),
    ];
    let sentence = "the request is not a valid protobuf message";
    for (case, body) in cases {
        world.assert_refused(case, &invalid("malformed_message", sentence), async { wire.send(CREATE, headers, body).await.unwrap() }).await;
    }
    let sentence = "the request is larger than the server accepts";
    for (case, body) in [("4 GiB announced", prefixed(0, 0xffff_ffff, b"")), ("1 MB", frame(&vec![0x0a; 1 << 20]))] {
        world.assert_refused(case, &invalid("message_too_large", sentence), async { wire.send(CREATE, headers, body).await.unwrap() }).await;
    }
    world.goes_on().await;
}

/// A Struct in a Value in a Struct…: field 4 of the request, `depth` levels of metadata.
fn nested(depth: usize) -> Vec<u8> {
    let field = |number: u64, content: &[u8]| {
        let mut out = Vec::new();
        prost::encoding::encode_varint(number << 3 | 2, &mut out);
        prost::encoding::encode_varint(content.len() as u64, &mut out);
        [out.as_slice(), content].concat()
    };
    let innermost = Vec::new();
    let inside = (0..depth).fold(innermost, |inside, _| field(1, &[field(1, b"k"), field(2, &field(5, &inside))].concat()));
    field(4, &inside)
}

#[tokio::test]
async fn methods_that_nobody_serves() {
    let world = World::start("", "");
    let wire = world.wire(None).await;
    let label = r#"grpc_server_handled_total{grpc_code="Unimplemented",grpc_method="unknown",grpc_service="unknown",grpc_type="unary"}"#;
    let leaves = world.leaves();
    for (count, path) in
        ["/istio.v1.auth.IstioCertificateService/RevokeEverything", "/evil.Service/Method", "/", "/meshmint.admin.v1.Admin/ListCertificates"]
            .into_iter()
            .enumerate()
    {
        let token = bearer(&world.token());
        let answer = wire.send(path, &[("authorization", &token)], frame(&request().encode_to_vec())).await.unwrap();
        assert_eq!(answer.status.code(), Code::Unimplemented, "{path}");
        assert_eq!(world.metric(label), (count + 1) as f64, "{path}");
    }
    assert_eq!(world.leaves(), leaves);
    assert!(!world.metrics().keys().any(|name| name.contains("evil") || name.contains("RevokeEverything")), "a caller's words are no labels");
    world.goes_on().await;
}
