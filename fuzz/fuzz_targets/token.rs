//! A token as it comes over the wire. No mutation of the good one verifies: what is accepted was signed.
#![no_main]

use std::sync::LazyLock;

use meshmint::callers::{KeySet, UnverifiedToken};
use meshmint_fuzz::{JWKS, NOW, TOKEN, token_rules};

static KEYS: LazyLock<KeySet> = LazyLock::new(|| KeySet::from_jwks(JWKS).expect("the fixture is a key set"));

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(token) = UnverifiedToken::parse(text) else { return };
    assert!((1..=UnverifiedToken::MAX_KID_BYTES).contains(&token.kid().len()));
    assert!(text.len() <= UnverifiedToken::MAX_BYTES && !format!("{token:?}").contains(text));
    let (_, _) = (token.issuer(), token.expires());
    // Whatever key it names, it is tried with ours: the algorithm must fit and the signature must be right.
    let key = KEYS.key("p256").expect("the fixture has it");
    let Ok(verified) = token.verify(key) else { return };
    let signed = |token: &str| token.trim_end().rsplit_once('.').map(|(signed, _)| signed.to_owned());
    assert_eq!(signed(text), signed(TOKEN), "nobody signed this");
    assert!(token_rules().check(verified, NOW).is_ok());
});
