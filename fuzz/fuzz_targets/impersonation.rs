//! The identity that a node proxy asks to speak for, where every fact is in its favour: it gets exactly that one, in our trust domain.
#![no_main]

use meshmint::callers::{Caller, Credential, NodeFacts, ObjectRef, PodFact, may_speak_for};
use meshmint_fuzz::trust_domain;

/// Knows every pod, and has everything on every node.
struct Everything;

impl NodeFacts for Everything {
    fn pod(&self, _: &str, _: &ObjectRef) -> Option<PodFact> {
        Some(PodFact { uid: "u".to_owned(), service_account: "ztunnel".to_owned(), node: Some("n".to_owned()) })
    }

    fn runs_on(&self, _: &str, _: &str, _: &str) -> bool {
        true
    }
}

libfuzzer_sys::fuzz_target!(|requested: &str| {
    let caller = Caller {
        spiffe_id: "spiffe://cluster.local/ns/istio-system/sa/ztunnel".parse().expect("a SPIFFE ID"),
        cluster: "Kubernetes".to_owned(),
        namespace: "istio-system".to_owned(),
        service_account: "ztunnel".to_owned(),
        pod: Some(ObjectRef { name: "ztunnel-x".to_owned(), uid: "u".to_owned() }),
        node: Some(ObjectRef { name: "n".to_owned(), uid: "nu".to_owned() }),
        credential: Credential::Token,
    };
    let trusted = ["istio-system/ztunnel".parse().expect("NAMESPACE/NAME")].into();
    let answer = may_speak_for(&caller, requested, &trust_domain(), &trusted, Some(&Everything));
    let ours = requested.strip_prefix("spiffe://cluster.local/ns/").and_then(|rest| rest.split_once("/sa/"));
    match answer {
        Ok(identity) => {
            assert_eq!(identity.to_string(), requested);
            assert_eq!(identity.namespace_and_service_account().ok(), ours);
        }
        Err(_) => assert!(!ours.is_some_and(|(namespace, account)| {
            let fits = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') && !name.is_empty();
            fits(namespace) && fits(account) && requested.len() <= 2048
        })),
    }
    // Without facts, or without being on the list, nothing helps.
    assert!(may_speak_for(&caller, requested, &trust_domain(), &trusted, None).is_err());
    assert!(may_speak_for(&caller, requested, &trust_domain(), &Default::default(), Some(&Everything)).is_err());
});
