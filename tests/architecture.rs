//! Holds `src/` to its map (docs/architecture.md): which floor may know which, who reads the time, what `serve` can't reach. The rules
//! read text, not a syntax tree: comments, strings and `#[cfg(test)]` items are blanked out first. Each rule is shown to fail on a made-up source.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The floors, lowest first. A room may import from lower floors and, where that makes no circle, from its own.
const FLOORS: [&[&str]; 5] = [
    &["clock", "spiffe", "pki"],
    &["authority", "callers"],
    &["bounds", "stores", "ledger", "cluster", "tasks"],
    &["controllers", "issuance", "rotation"],
    &["server", "web", "cli", "config"],
];
/// Within the top floor: what would become a circle sooner or later.
const NEVER: [(&str, &str); 3] = [("server", "cli"), ("config", "server"), ("config", "cli")];
/// What reads the time, waits, or draws randomness.
const TIME_AND_CHANCE: [&str; 14] = [
    "SystemTime",
    "Instant::now",
    "now_utc",
    "now_local",
    "tokio::time",
    "time::sleep",
    "time::timeout",
    "time::interval",
    "thread::sleep",
    "park_timeout",
    "SystemRandom",
    "OsRng",
    "thread_rng",
    "getrandom",
];
/// Where that is allowed: the clock itself, and ring's own source for a key and its signatures.
const MAY: [(&str, &[&str]); 3] =
    [("clock.rs", &TIME_AND_CHANCE), ("cli/dev_issuer.rs", &["SystemRandom"]), ("cli/bench/floor.rs", &["SystemRandom"])];
/// What writes to the terminal, past the one place that shows what others wrote as escapes.
const TERMINAL: [&str; 6] = ["println", "eprintln", "eprint", "anstream", "stdout", "stderr"];
/// Where that is allowed: the way itself, who hands the streams on, the log's lines, the line of figures, and what asks whether it is a terminal.
const TO_THE_TERMINAL: [(&str, &[&str]); 5] = [
    ("main.rs", &["stderr"]),
    ("cli/screen.rs", &["anstream", "stdout", "stderr"]),
    ("cli/mod.rs", &["stdout", "stderr"]),
    ("cli/logging.rs", &["stderr"]),
    ("cli/bench/progress.rs", &["anstream", "eprint"]),
];
/// Who may know the built-in token issuer: its module's declaration, `dev`, `token` and `bench`. Never `serve` or anything below it.
const MAY_KNOW_DEV_ISSUER: [&str; 5] = ["cli/mod.rs", "cli/dev_issuer.rs", "cli/dev.rs", "cli/token.rs", "cli/bench/tokens.rs"];
const MAY_KNOW_DEV: [&str; 2] = ["cli/mod.rs", "cli/dev.rs"];
/// What the operations of operators never know: a page, a command and a job call the same.
const PROTOCOLS: [&str; 7] = ["tonic", "prost", "prost_types", "proto", "axum", "http", "hyper"];

/// A file below `src/`; `code` is `text` without comments, strings and tests.
struct Source {
    path: String,
    text: String,
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned(), code: without_tests(&without_words(text)).0 }
    }

    /// `server::http` of `server/http.rs`.
    fn module(&self) -> Vec<String> {
        let path = self.path.trim_end_matches(".rs");
        let path = path.strip_suffix("/mod").unwrap_or(path);
        if path == "lib" { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
    }
}

// --- reading ------------------------------------------------------------------------------------------------------------

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut files) = (vec![root.clone()], BTreeMap::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                files.insert(name, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    files.iter().map(|(path, text)| Source::new(path, text)).collect()
}

/// The files that are compiled for tests only (`#[cfg(test)] mod tests;`) hold no production code.
fn production(all: Vec<Source>) -> Vec<Source> {
    let mut tests = BTreeSet::new();
    for source in &all {
        let folder = source.module().join("/");
        for name in without_tests(&without_words(&source.text)).1 {
            tests.insert(format!("{folder}/{name}.rs"));
            tests.insert(format!("{folder}/{name}/mod.rs"));
        }
    }
    all.into_iter().filter(|source| !tests.contains(&source.path)).collect()
}

/// Blanks comments, strings and character literals.
fn without_words(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |at| at + 2)
        } else if let Some(length) = raw_string(rest, out.chars().last()) {
            length
        } else if first == '"' {
            quoted(rest)
        } else if let Some(inner) = rest.strip_prefix("'\\") {
            inner.get(1..).and_then(|inner| inner.find('\'')).map_or(rest.len(), |at| at + 4)
        } else if first == '\'' && rest.chars().nth(2) == Some('\'') {
            rest.char_indices().nth(3).map_or(rest.len(), |(at, _)| at)
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        out.push(' ');
        rest = &rest[length..];
    }
    out
}

fn quoted(rest: &str) -> usize {
    let mut escaped = false;
    for (at, letter) in rest.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn raw_string(rest: &str, before: Option<char>) -> Option<usize> {
    // `b` of a byte string may stand before the `r`; any other letter makes it the end of a name.
    if before.is_some_and(|before| is_word(before) && before != 'b') {
        return None;
    }
    let after = rest.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = after[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(body.find(&end).map_or(rest.len(), |at| 2 + hashes + at + end.len()))
}

/// Cuts every `#[cfg(test)]` item out; returns what stays, and the names of the modules in files of their own that were cut.
fn without_tests(code: &str) -> (String, Vec<String>) {
    let (mut out, mut modules, mut rest) = (String::new(), Vec::new(), code);
    while let Some((before, after)) = rest.split_once("#[cfg(test)]") {
        out.push_str(before);
        let end = item_end(after);
        let item = &after[..end];
        if let Some(name) = item.trim_end_matches(';').split_whitespace().last()
            && item.ends_with(';')
            && item.split_whitespace().any(|word| word == "mod")
        {
            modules.push(name.to_owned());
        }
        rest = &after[end..];
    }
    (out + rest, modules)
}

/// The end of the item (or field, or match arm) that begins here: its `;` or `,`, or its closing brace.
fn item_end(text: &str) -> usize {
    let mut depth = 0_usize;
    for (at, letter) in text.char_indices() {
        match letter {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 && letter == '}' {
                    return at + 1;
                }
            }
            ';' | ',' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// Where `word` stands in `code` as whole words.
fn finds<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let after = code[at + word.len()..].chars().next();
        let before = code[..*at].chars().next_back();
        !before.is_some_and(is_word) && (word.ends_with(':') || !after.is_some_and(is_word))
    })
}

fn line_of(code: &str, at: usize) -> &str {
    let begin = code[..at].rfind('\n').map_or(0, |newline| newline + 1);
    code[begin..].lines().next().unwrap_or_default().trim()
}

/// The rooms that a file names, each with the line: by `crate::room`, `crate::{room, …}`, or `super::` up to the crate's root.
fn imports(source: &Source) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for at in finds(&source.code, "crate::") {
        let names = heads(&source.code[at + "crate::".len()..]);
        found.extend(names.into_iter().map(|name| (name, line_of(&source.code, at).to_owned())));
    }
    for at in finds(&source.code, "super::") {
        // The second of `super::super::` was climbed with the first.
        if source.code[..at].ends_with("super::") {
            continue;
        }
        let (mut module, mut rest) = (source.module(), &source.code[at..]);
        while let Some(after) = rest.strip_prefix("super::") {
            module.pop();
            rest = after;
        }
        let names = if let Some(room) = module.first() { vec![room.clone()] } else { heads(rest) };
        found.extend(names.into_iter().map(|name| (name, line_of(&source.code, at).to_owned())));
    }
    found
}

/// The first names of a path or of a group of paths in braces.
fn heads(rest: &str) -> Vec<String> {
    let head = |text: &str| text.trim_start().chars().take_while(|letter| is_word(*letter) || *letter == '*').collect::<String>();
    let Some(group) = rest.strip_prefix('{') else { return vec![head(rest)] };
    let (mut names, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(head(&group[start..at]));
                start = at + 1;
                if letter == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

// --- the rules ----------------------------------------------------------------------------------------------------------

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

fn floors_are_kept(sources: &[Source]) -> Vec<String> {
    let (mut faults, mut edges) = (Vec::new(), BTreeMap::<String, BTreeSet<String>>::new());
    for source in sources {
        let Some(room) = source.module().first().cloned() else { continue };
        if room == "main" {
            continue;
        }
        let Some(own) = floor(&room) else {
            faults.push(format!("{}: no floor for the room {room}", source.path));
            continue;
        };
        for (target, line) in imports(source) {
            match floor(&target) {
                _ if target == room => {}
                None => faults.push(format!("{}: no floor for the room {target}: {line}", source.path)),
                Some(other) if other > own => faults.push(format!("{}: {room} imports the higher {target}: {line}", source.path)),
                Some(other) => {
                    if NEVER.contains(&(room.as_str(), target.as_str())) {
                        faults.push(format!("{}: {room} never imports {target}: {line}", source.path));
                    }
                    if other == own {
                        edges.entry(room.clone()).or_default().insert(target);
                    }
                }
            }
        }
    }
    for start in edges.keys() {
        let (mut reached, mut next) = (BTreeSet::new(), vec![start]);
        while let Some(room) = next.pop() {
            next.extend(edges.get(room).into_iter().flatten().filter(|target| reached.insert(*target)));
        }
        if reached.contains(start) {
            faults.push(format!("{start} is in a circle of its floor: {edges:?}"));
        }
    }
    faults
}

fn only_the_clock_knows_time_and_chance(sources: &[Source]) -> Vec<String> {
    words_outside(sources, &TIME_AND_CHANCE, |path, word| MAY.iter().any(|(file, words)| *file == path && words.contains(&word)))
}

fn serve_never_reaches_the_dev_issuer(sources: &[Source]) -> Vec<String> {
    let mut faults = words_outside(sources, &["dev_issuer", "DevIssuer"], |path, _| MAY_KNOW_DEV_ISSUER.contains(&path));
    for words in [["super::dev::", "cli::dev::"], ["super::token::", "cli::token::"]] {
        let doors: Vec<_> = sources.iter().filter(|source| source.path.starts_with("cli/") || source.path.starts_with("server/")).collect();
        for source in doors.into_iter().filter(|source| !MAY_KNOW_DEV.contains(&source.path.as_str())) {
            for word in words {
                faults.extend(finds(&source.code, word).map(|at| format!("{}: {}", source.path, line_of(&source.code, at))));
            }
        }
    }
    faults
}

fn operations_know_no_protocol(sources: &[Source]) -> Vec<String> {
    words_outside(sources, &PROTOCOLS, |path, _| !path.starts_with("server/operations/"))
}

fn one_way_leads_to_the_terminal(sources: &[Source]) -> Vec<String> {
    words_outside(sources, &TERMINAL, |path, word| TO_THE_TERMINAL.iter().any(|(file, words)| *file == path && words.contains(&word)))
}

fn nothing_is_unsafe(sources: &[Source]) -> Vec<String> {
    words_outside(sources, &["unsafe"], |_, _| false)
}

fn words_outside(sources: &[Source], words: &[&str], may: impl Fn(&str, &str) -> bool) -> Vec<String> {
    let mut faults = Vec::new();
    for source in sources {
        for word in words.iter().filter(|word| !may(&source.path, word)) {
            faults.extend(finds(&source.code, word).map(|at| format!("{}: {word}: {}", source.path, line_of(&source.code, at))));
        }
    }
    faults
}

fn main_is_short(sources: &[Source]) -> Vec<String> {
    let long = sources.iter().filter(|source| source.path == "main.rs" && source.text.lines().count() > 40);
    long.map(|source| format!("main.rs has {} lines, at most 40 are allowed", source.text.lines().count())).collect()
}

fn every_file_says_what_it_is_for(sources: &[Source]) -> Vec<String> {
    sources.iter().filter(|source| !source.text.starts_with("//! ")).map(|source| format!("{} doesn't begin with //!", source.path)).collect()
}

// --- the code, and the rules themselves ---------------------------------------------------------------------------------

#[test]
fn the_code_keeps_every_rule() {
    let all = sources();
    assert!(all.len() > 80, "only {} files were found", all.len());
    let mut faults = every_file_says_what_it_is_for(&all);
    // Test modules may import what they like, and be unsafe as little as the rest.
    faults.extend(nothing_is_unsafe(&all));
    let all = production(all);
    faults.extend(floors_are_kept(&all));
    faults.extend(only_the_clock_knows_time_and_chance(&all));
    faults.extend(serve_never_reaches_the_dev_issuer(&all));
    faults.extend(operations_know_no_protocol(&all));
    faults.extend(one_way_leads_to_the_terminal(&all));
    faults.extend(main_is_short(&all));
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    // The reading works: these imports exist.
    let imported: BTreeSet<_> = all.iter().filter(|source| source.path.starts_with("cli/")).flat_map(imports).map(|(room, _)| room).collect();
    for room in ["server", "config", "clock", "pki"] {
        assert!(imported.contains(room), "cli's import of {room} wasn't seen: {imported:?}");
    }
}

#[track_caller]
fn faulty(rule: fn(&[Source]) -> Vec<String>, path: &str, text: &str, fault: &str) {
    let faults = rule(&[Source::new(path, text)]);
    assert!(faults.iter().any(|found| found.contains(fault)), "{path}: {text:?} gave {faults:?}");
}

#[track_caller]
fn good(rule: fn(&[Source]) -> Vec<String>, path: &str, text: &str) {
    assert_eq!(rule(&[Source::new(path, text)]), Vec::<String>::new(), "{path}: {text:?}");
}

#[test]
fn a_wrong_import_is_found_in_every_spelling() {
    let rule = floors_are_kept;
    faulty(rule, "pki/csr.rs", "use crate::ledger::Ledger;", "pki imports the higher ledger");
    faulty(rule, "pki/csr.rs", "use crate::{spiffe::SpiffeId, ledger::{Ledger, Kind}};", "higher ledger");
    faulty(rule, "pki/csr.rs", "fn f(_: &crate::ledger::Kind) {}", "higher ledger");
    faulty(rule, "pki/inspect/text.rs", "use super::super::super::{clock, server::Server};", "higher server");
    faulty(rule, "pki.rs", "use super::server;", "higher server");
    faulty(rule, "pki/csr.rs", "#[cfg(test)]\nuse crate::server::A;\nuse crate::ledger::B;", "higher ledger");
    faulty(rule, "server/run.rs", "use crate::cli::Cli;", "server never imports cli");
    faulty(rule, "config/check.rs", "use crate::server::Server;", "config never imports server");
    faulty(rule, "pki/csr.rs", "use crate::attic::Thing;", "no floor for the room attic");
    faulty(rule, "attic.rs", "", "no floor for the room attic");
    good(rule, "server/run.rs", "use crate::{config::Config, ledger::Ledger};\nuse super::http;");
    good(rule, "pki/csr.rs", "// crate::server::A\nconst A: &str = r#\"crate::server\"#; const B: char = '\"'; /* crate::cli */");
    good(rule, "pki/csr.rs", "#[cfg(test)]\nmod tests { use crate::server::A; fn f() { if true {} } }");
}

#[test]
fn a_circle_within_a_floor_is_found() {
    let circle =
        [("stores/mod.rs", "use crate::ledger::A;"), ("ledger/mod.rs", "use crate::cluster::A;"), ("cluster/mod.rs", "use crate::stores::A;")];
    let circle = circle.map(|(path, text)| Source::new(path, text));
    assert!(floors_are_kept(&circle).iter().any(|fault| fault.contains("in a circle")));
    assert_eq!(floors_are_kept(&circle[..2]), Vec::<String>::new());
}

#[test]
fn every_other_rule_can_fail() {
    for word in TIME_AND_CHANCE {
        faulty(only_the_clock_knows_time_and_chance, "pki/keys.rs", &format!("fn f() {{ {word}(); }}"), word);
        good(only_the_clock_knows_time_and_chance, "clock.rs", &format!("fn f() {{ {word}(); }}"));
    }
    good(only_the_clock_knows_time_and_chance, "pki/keys.rs", "#[cfg(test)]\nmod tests { fn f() { SystemTime::now(); } }");
    good(only_the_clock_knows_time_and_chance, "pki/keys.rs", "/// Not SystemTime.\nfn now_utc_of() {}");
    faulty(only_the_clock_knows_time_and_chance, "cli/dev_issuer.rs", "Instant::now();", "Instant::now");

    faulty(serve_never_reaches_the_dev_issuer, "cli/serve.rs", "use super::dev_issuer::DevIssuer;", "dev_issuer");
    faulty(serve_never_reaches_the_dev_issuer, "server/run.rs", "use crate::cli::dev_issuer;", "dev_issuer");
    faulty(serve_never_reaches_the_dev_issuer, "cli/serve.rs", "super::dev::run();", "super::dev::");
    faulty(serve_never_reaches_the_dev_issuer, "cli/serve.rs", "super::token::mint();", "super::token::");
    good(serve_never_reaches_the_dev_issuer, "cli/token.rs", "use super::dev_issuer::DevIssuer;");

    faulty(operations_know_no_protocol, "server/operations/mod.rs", "use tonic::Status;", "tonic");
    faulty(operations_know_no_protocol, "server/operations/mod.rs", "use super::proto::admin::Authority;", "proto");
    good(operations_know_no_protocol, "server/admin.rs", "use tonic::Status;");

    faulty(one_way_leads_to_the_terminal, "cli/certs.rs", "println!(\"{name}\");", "println");
    faulty(one_way_leads_to_the_terminal, "cli/certs.rs", "std::io::stdout().write_all(b);", "stdout");
    good(one_way_leads_to_the_terminal, "cli/screen.rs", "anstream::stdout();");

    faulty(nothing_is_unsafe, "pki/keys.rs", "unsafe { f() }", "unsafe");
    good(nothing_is_unsafe, "pki/keys.rs", "// unsafe\nfn unsafe_looking() {}");
    faulty(main_is_short, "main.rs", &"\n".repeat(41), "41 lines");
    good(main_is_short, "main.rs", &"\n".repeat(40));
    faulty(every_file_says_what_it_is_for, "pki/keys.rs", "use ring;\n//! Keys.", "doesn't begin");
    good(every_file_says_what_it_is_for, "pki/keys.rs", "//! Keys.");
}

#[test]
fn files_that_are_only_for_tests_are_left_out() {
    let all = vec![
        Source::new("pki/a.rs", "#[cfg(test)]\npub(crate) mod makers;\nmod b;"),
        Source::new("pki/a/makers.rs", ""),
        Source::new("pki/a/b.rs", ""),
    ];
    let left: Vec<_> = production(all).into_iter().map(|source| source.path).collect();
    assert_eq!(left, ["pki/a.rs", "pki/a/b.rs"]);
}
