//! A SPIFFE bundle document. The roots that are read can be written again, unless one is no certificate or has a key that can't be carried.
#![no_main]

use std::time::Duration;

use meshmint::spiffe::bundle::{BundleError, bundle_json, roots_of_bundle_json};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(bundle) = roots_of_bundle_json(data) else { return };
    assert!(bundle.roots_with_kid <= bundle.roots.len() && bundle.roots_with_chain <= bundle.roots.len());
    let (sequence, hint) = (bundle.sequence.unwrap_or(1), bundle.refresh_hint.unwrap_or(Duration::from_secs(300)));
    match bundle_json(&bundle.roots, sequence, hint) {
        Ok(json) => {
            let again = roots_of_bundle_json(json.as_bytes()).expect("our own document");
            assert_eq!((again.roots, again.sequence, again.refresh_hint), (bundle.roots, Some(sequence), Some(hint)));
            assert_eq!((again.jwt_keys, again.ignored, again.roots_with_kid, again.roots_with_chain), (0, 0, 0, 0));
        }
        Err(BundleError::NotACertificate(position) | BundleError::Key(position)) => assert!((1..=bundle.roots.len()).contains(&position)),
        Err(error) => panic!("{error}"),
    }
});
