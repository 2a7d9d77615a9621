//! A text as SPIFFE ID and as trust domain. What is accepted comes back as it was, and holds no byte that the specification doesn't allow.
#![no_main]

use meshmint::spiffe::{SpiffeId, TrustDomain};

fn is_segment(segment: &str) -> bool {
    !matches!(segment, "" | "." | "..") && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}

fn is_trust_domain(name: &str) -> bool {
    (1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte))
}

libfuzzer_sys::fuzz_target!(|text: &str| {
    let domain = text.parse::<TrustDomain>();
    assert_eq!(domain.is_ok(), is_trust_domain(text));
    if let Ok(domain) = domain {
        assert_eq!((domain.to_string().as_str(), domain.id().parse::<SpiffeId>().map(|id| id.path().to_owned())), (text, Ok(String::new())));
    }
    // The specification, written a second time.
    let rest = text.strip_prefix("spiffe://").filter(|_| text.len() <= 2048);
    let allowed = rest.is_some_and(|rest| {
        let mut parts = rest.split('/');
        parts.next().is_some_and(is_trust_domain) && parts.all(is_segment)
    });
    let id = text.parse::<SpiffeId>();
    assert_eq!(id.is_ok(), allowed, "{id:?}");
    let Ok(id) = id else { return };
    assert_eq!(id.to_string(), text);
    if let Ok((namespace, account)) = id.namespace_and_service_account() {
        assert_eq!(SpiffeId::workload(id.trust_domain(), namespace, account), Ok(id.clone()));
    }
});
