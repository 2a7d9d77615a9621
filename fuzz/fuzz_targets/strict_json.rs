//! Strict JSON: what is accepted is what serde_json reads; a document without repeated members is accepted.
#![no_main]

use meshmint::callers::{Json, strict_object};
use serde_json::Value;

fn plain(json: &Json<'_>) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => (*value).into(),
        Json::Number(number) => number.clone().into(),
        Json::Text(text) => text.as_ref().into(),
        Json::List(items) => items.iter().map(plain).collect(),
        Json::Object(members) => members.iter().map(|(name, value)| (name, plain(value))).collect(),
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let loose = serde_json::from_slice::<Value>(data);
    match strict_object(data) {
        Ok(members) => {
            let count = members.iter().count();
            let members = plain(&Json::Object(members));
            assert_eq!(members.as_object().map(serde_json::Map::len), Some(count), "a member twice");
            assert_eq!(loose.ok(), Some(members));
        }
        // Either it is no object at all, or a member is there twice: written anew, with each once, it must pass.
        Err(_) => {
            let Ok(Value::Object(once)) = loose else { return };
            let written = Value::Object(once.clone()).to_string();
            let again = strict_object(written.as_bytes()).expect("no member is there twice");
            // Names only: a fraction may come back one bit off.
            assert!(again.iter().map(|(name, _)| name).eq(once.keys()));
        }
    }
});
