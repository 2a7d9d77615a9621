//! An authority state from the store. What is accepted comes back as it was, and the rules can be asked about it.
#![no_main]

use std::time::Duration;

use meshmint::authority::rotation::{Facts, Step, chain_end, step};
use meshmint::authority::{AcceptedIssuers, AuthorityState, GenerationNumber};
use meshmint_fuzz::{NOW, policy};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(state) = AuthorityState::from_json(data) else { return };
    let json = state.to_json().expect("what was read can be written");
    assert_eq!(AuthorityState::from_json(&json).as_ref(), Ok(&state));
    let (_, _) = (AcceptedIssuers::of_state(&state), chain_end(&state));
    let GenerationNumber(next) = state.next_generation();
    assert!(state.issuing().is_none_or(|(_, GenerationNumber(number))| number < next));
    for upstream in [false, true] {
        let facts = Facts { upstream, longest_request: Duration::from_secs(10) };
        if let Step::Wait(until) = step(&state, facts, &policy(), NOW) {
            assert!(until >= NOW, "it would spin");
        }
    }
});
