//! Identities under any input: what is accepted is written back as it was, and two workloads never share a name.
#![allow(clippy::unwrap_used)]

use meshmint::spiffe::{IdError, SpiffeId, TrustDomain, TrustDomainError};
use proptest::prelude::*;

/// The specification's characters (SPIFFE-ID §2.1, §2.2), written a second time.
fn in_segment(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b".-_".contains(&byte)
}

fn is_segment(text: &str) -> bool {
    !matches!(text, "" | "." | "..") && text.bytes().all(in_segment)
}

/// Segments as they are, near misses, and anything.
fn segment() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => "[a-zA-Z0-9._-]{1,20}",
        2 => "[a-c.-]{0,3}",
        1 => "[a-z]{0,3}[/%@:#?, \u{e4}\n\u{0}][a-z]{0,3}",
        1 => "\\PC{0,8}",
    ]
}

fn domain_name() -> impl Strategy<Value = String> {
    prop_oneof![6 => "[a-z0-9._-]{1,30}", 1 => "[a-zA-Z0-9._-]{0,5}", 1 => "\\PC{0,8}", 1 => "[a-z]{250,260}"]
}

fn domain() -> impl Strategy<Value = TrustDomain> {
    "[a-z0-9._-]{1,30}".prop_map(|name| name.parse().unwrap())
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => (domain_name(), prop::collection::vec(segment(), 0..6)).prop_map(|(domain, path)| {
            let path: String = path.iter().map(|segment| format!("/{segment}")).collect();
            format!("spiffe://{domain}{path}")
        }),
        1 => "(spiffe|SPIFFE|http)://[a-z]{0,3}(/|//)?[a-z]{0,3}/?",
        1 => (1990_usize..2100).prop_map(|length| format!("spiffe://td/{}", "x".repeat(length))),
        1 => "\\PC{0,40}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn an_id_is_accepted_exactly_where_the_specification_allows_it(text in text()) {
        let rest = text.strip_prefix("spiffe://").filter(|_| text.len() <= 2048);
        let allowed = rest.is_some_and(|rest| {
            let mut parts = rest.split('/');
            parts.next().unwrap().parse::<TrustDomain>().is_ok() && parts.all(is_segment)
        });
        let parsed = text.parse::<SpiffeId>();
        prop_assert_eq!(parsed.is_ok(), allowed, "{:?}", parsed);
        if let Ok(id) = parsed {
            prop_assert_eq!(id.to_string(), text.as_str());
            prop_assert!(text.bytes().all(|byte| in_segment(byte) || b":/".contains(&byte)));
            prop_assert_eq!(serde_json::from_str::<SpiffeId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
        }
    }

    #[test]
    fn a_trust_domain_is_accepted_exactly_where_the_specification_allows_it(name in domain_name()) {
        let allowed = name.bytes().all(|byte| in_segment(byte) && !byte.is_ascii_uppercase());
        let expected = match name.len() {
            0 => Err(TrustDomainError::Empty),
            256.. => Err(TrustDomainError::TooLong),
            _ if allowed => Ok(name.clone()),
            _ => Err(TrustDomainError::Character),
        };
        prop_assert_eq!(name.parse::<TrustDomain>().map(|domain| domain.to_string()), expected);
    }

    #[test]
    fn a_workload_comes_apart_as_it_was_put_together(domain in domain(), namespace in segment(), account in segment()) {
        let id = SpiffeId::workload(&domain, &namespace, &account);
        prop_assert_eq!(id.is_ok(), is_segment(&namespace) && is_segment(&account), "{:?}", id);
        let Ok(id) = id else { return Ok(()) };
        prop_assert_eq!(id.to_string().parse(), Ok(id.clone()));
        prop_assert_eq!(id.namespace_and_service_account(), Ok((namespace.as_str(), account.as_str())));
        prop_assert_eq!(id.trust_domain(), &domain);
    }

    #[test]
    fn two_workloads_are_equal_only_in_every_part(
        one in (domain(), segment(), segment()),
        other in (domain(), segment(), segment()),
        same in any::<[bool; 3]>(),
    ) {
        // Often they share parts, so that the others decide.
        let other = (
            if same[0] { one.0.clone() } else { other.0 },
            if same[1] { one.1.clone() } else { other.1 },
            if same[2] { one.2.clone() } else { other.2 },
        );
        let ids = (SpiffeId::workload(&one.0, &one.1, &one.2), SpiffeId::workload(&other.0, &other.1, &other.2));
        if let (Ok(first), Ok(second)) = ids {
            prop_assert_eq!(first == second, one == other);
            prop_assert_eq!(first.to_string() == second.to_string(), one == other);
        }
    }

    #[test]
    fn no_character_stands_for_another(domain in domain(), name in "[a-z]{1,5}[._-][a-z]{1,5}", to in "[._-]") {
        let changed = name.replace(['.', '_', '-'], &to);
        let id = |account: &str| SpiffeId::workload(&domain, "ns", account).unwrap();
        prop_assert_eq!(id(&name) == id(&changed), name == changed);
        prop_assert_ne!(id(&name), id(&name.to_ascii_uppercase()));
    }

    #[test]
    fn only_istios_form_is_a_workload(path in prop::collection::vec(prop_oneof![Just("ns".to_owned()), Just("sa".to_owned()), "[a-z]{1,3}"], 0..6)) {
        let text: String = std::iter::once("spiffe://td".to_owned()).chain(path.iter().map(|segment| format!("/{segment}"))).collect();
        let id: SpiffeId = text.parse().unwrap();
        let expected = match path.as_slice() {
            [ns, namespace, sa, account] if ns == "ns" && sa == "sa" => Ok((namespace.as_str(), account.as_str())),
            _ => Err(IdError::NotWorkload),
        };
        prop_assert_eq!(id.namespace_and_service_account(), expected);
    }
}
