//! Strict JSON: what is accepted is what serde_json reads; a document without repeated members is accepted.
#![no_main]

use meshmint::callers::strict_object;
use serde_json::Value;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let loose = serde_json::from_slice::<Value>(data);
    match strict_object(data) {
        Ok(members) => assert_eq!(loose.ok(), Some(Value::Object(members))),
        // Either it is no object at all, or a member is there twice: written anew, with each once, it must pass.
        Err(_) => {
            let Ok(Value::Object(once)) = loose else { return };
            let written = Value::Object(once.clone()).to_string();
            let again = strict_object(written.as_bytes()).expect("no member is there twice");
            // Names only: a fraction may come back one bit off.
            assert!(again.keys().eq(once.keys()));
        }
    }
});
