//! docs/refusals.md against the source: every reason that can be counted has its line, and no line is about nothing.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;

const PAGE: &str = include_str!("../docs/refusals.md");

/// Every text in double quotes.
fn quoted(source: &str) -> impl Iterator<Item = &str> {
    source.split('"').skip(1).step_by(2)
}

/// The texts in the bodies of functions called `reason`, up to the tests.
fn reasons_of(source: &str) -> BTreeSet<&str> {
    let code = source.split("#[cfg(test)]").next().unwrap();
    let bodies = code.split("pub fn reason(").skip(1).map(|rest| rest.split("\n    }\n").next().unwrap());
    bodies.flat_map(quoted).collect()
}

/// The texts behind these words, where a reason stands by itself.
fn reasons_after<'a>(source: &'a str, words: &[&str]) -> BTreeSet<&'a str> {
    let code = source.split("#[cfg(test)]").next().unwrap();
    words.iter().flat_map(|word| code.split(word).skip(1).filter_map(|rest| quoted(rest.split([';', '\n']).next().unwrap()).next())).collect()
}

/// The labels of a page: in backticks, at the head of a table's line.
fn labels(page: &str) -> BTreeSet<&str> {
    let cells = page.lines().filter(|line| line.starts_with('|')).flat_map(|line| line.split('|').map(str::trim).skip(1).take(2));
    cells.filter_map(|cell| cell.strip_prefix('`')?.strip_suffix('`')).filter(|label| !label.contains('`')).collect()
}

#[test]
fn every_reason_of_a_refusal_is_explained() {
    let mut reasons: BTreeSet<&str> = [
        include_str!("../src/callers/caller.rs"),
        include_str!("../src/callers/impersonation.rs"),
        include_str!("../src/callers/token.rs"),
        include_str!("../src/cluster/liveness.rs"),
        include_str!("../src/issuance/refusal.rs"),
        include_str!("../src/pki/csr.rs"),
    ]
    .into_iter()
    .flat_map(reasons_of)
    .collect();
    reasons.extend(reasons_after(include_str!("../src/server/bearer.rs"), &["Unusable { reason: "]));
    reasons.extend(reasons_after(include_str!("../src/server/guard.rs"), &["self.refused(", "refused_as("]));
    assert!(reasons.len() > 50, "{reasons:?}");
    let (requests, _) = PAGE.split_once("## Before there is a request").unwrap();
    assert_eq!(labels(requests), reasons);
}

#[test]
fn every_end_of_a_connection_is_explained() {
    let mut reasons = reasons_after(include_str!("../src/server/csr_door.rs"), &["connection_refused(", "then_some("]);
    reasons.extend(reasons_after(include_str!("../src/server/door/accept.rs"), &["turned_away("]));
    let serving = include_str!("../src/server/door/http2.rs").split_once("let (reason, time, has_to_go) =").unwrap().1;
    reasons.extend(quoted(serving));
    let (_, page) = PAGE.split_once("## Before there is a request").unwrap();
    let explained: BTreeSet<_> = page.split("connections_closed_total{reason=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(explained, reasons);
}

#[test]
fn no_reason_is_made_where_this_test_does_not_look() {
    // A new `fn reason` must be put into the list above.
    let mut found = Vec::new();
    let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if std::fs::read_to_string(&path).unwrap().contains("pub fn reason(") {
                found.push(path.file_name().unwrap().to_owned());
            }
        }
    }
    found.sort();
    assert_eq!(found, ["caller.rs", "csr.rs", "impersonation.rs", "liveness.rs", "refusal.rs", "token.rs"]);
}
