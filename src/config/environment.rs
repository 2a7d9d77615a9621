//! `MESHMINT_SERVER_LISTEN=…`: environment variables over the file. Lists are comma-separated.

use super::document::{Given, Values, Written};
use super::keys::{self, KEYS};
use super::problem::{Problem, Source};

const PREFIX: &str = "MESHMINT_";

/// Puts what the environment gives over `values`. A name of ours that is no key is a problem: a slip would silently leave a default.
pub(super) fn apply(environment: impl Iterator<Item = (String, String)>, values: &mut Values, problems: &mut Vec<Problem>) {
    for (name, text) in environment {
        if !name.starts_with(PREFIX) || name.starts_with("MESHMINT_TEST_") || is_service_link(&name) {
            continue;
        }
        let source = Source::Environment(name.escape_debug().to_string());
        match KEYS.iter().find(|key| keys::environment_name(key.path).as_ref() == Some(&name)) {
            Some(key) => {
                values.insert(key.path.to_owned(), Given { value: written(key, &text), source });
            }
            None => problems.push(Problem { key: "environment".to_owned(), source, reason: unknown(&name) }),
        }
    }
}

/// The value of a key that is given as one text, in the environment or as a flag.
pub(super) fn written(key: &keys::Key, text: &str) -> Written {
    if !key.kind.is_list() {
        return Written::One(text.to_owned());
    }
    Written::Many(if text.is_empty() { Vec::new() } else { text.split(',').map(|item| item.trim().to_owned()).collect() })
}

/// What the kubelet sets in every pod of a namespace that has a Service called `meshmint` or `meshmint-…` (`enableServiceLinks`).
fn is_service_link(name: &str) -> bool {
    let numbered = name.split_once("_PORT_").is_some_and(|(_, rest)| rest.starts_with(|character: char| character.is_ascii_digit()));
    name.contains("_SERVICE_HOST") || name.contains("_SERVICE_PORT") || name.ends_with("_PORT") || numbered
}

fn unknown(name: &str) -> String {
    let names: Vec<String> = KEYS.iter().filter_map(|key| keys::environment_name(key.path)).collect();
    let hint = match keys::nearest(name, names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {near}?"),
        None => "see `meshmint config print` for the keys".to_owned(),
    };
    format!("no key has this name; {hint}")
}
