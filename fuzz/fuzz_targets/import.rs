//! An authority that an operator hands over: certificate, key, chain and roots, cut at NUL bytes. What is imported makes a state that holds.
#![no_main]

use meshmint::authority::{AuthorityState, KeyRef, MadeBy, Role, first_state, import};
use meshmint_fuzz::{NOW, policy, trust_domain};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let mut parts = text.splitn(4, '\0');
    let (certificate, key) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let (chain, roots) = (parts.next().filter(|chain| !chain.is_empty()), parts.next());
    let Ok(imported) = import(&trust_domain(), certificate, key, chain, roots, NOW) else { return };
    assert!(imported.trust.iter().any(|entry| entry.id == imported.root));
    assert!(imported.signer.not_after() >= NOW && !imported.abilities().is_empty());
    let authority = imported.authority(KeyRef("file:imported".to_owned()), NOW);
    assert_eq!(imported.signer.may_sign_authorities(), !matches!(authority.role, Role::Issuing(_)));
    let state = first_state(&policy(), MadeBy::Serve, vec![authority], imported.trust.clone(), NOW, "imported".to_owned());
    let json = state.to_json().expect("a state can be written");
    assert_eq!(AuthorityState::from_json(&json).as_ref(), Ok(&state));
});
