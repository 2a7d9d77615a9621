//! A key set of a token issuer. What is accepted is one strict JSON object, and each of its usable keys fits an algorithm.
#![no_main]

use meshmint::callers::{Algorithm, Json, KeySet, strict_object};

const ALGORITHMS: [&str; 8] = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384"];

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(set) = KeySet::from_jwks(data) else { return };
    let document = strict_object(data).expect("a strict object");
    let keys = document.get("keys").and_then(Json::as_list).expect("a list");
    assert!(set.usable() > 0 && set.usable() + set.skipped() <= keys.len());
    let named = keys.iter().filter_map(|key| Some((key.as_object()?.get("kid")?.as_str()?, key))).filter_map(|(kid, key)| Some((set.key(kid)?, key)));
    for (key, jwk) in named {
        assert!(ALGORITHMS.into_iter().filter_map(Algorithm::by_name).any(|algorithm| key.fits(algorithm)), "{jwk:?}");
    }
});
