//! From YAML text to flat values: which text stands at which key, and where. Unknown keys and wrong shapes are noted here, wrong values later.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::keys::{self, KEYS, Kind};
use super::problem::{ConfigError, Problem, Source};

/// What was given for each path, numbers of list items included.
pub(super) type Values = BTreeMap<String, Given>;

/// A value as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) value: Written,
    pub(super) source: Source,
}

/// A scalar or a list of scalars.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Written {
    One(String),
    Many(Vec<String>),
}

/// Relative paths in a file begin at its folder, so that it means the same wherever the command is run; those that came another way don't.
pub(super) fn begin_at_folder(folder: Option<&Path>, values: &mut Values) {
    let Some(folder) = folder.filter(|folder| !folder.as_os_str().is_empty()) else { return };
    for (path, given) in values.iter_mut() {
        let is_path = keys::find(&keys::table_path(path)).is_some_and(|key| matches!(key.kind, Kind::Path | Kind::Socket));
        if let Written::One(text) = &mut given.value
            && is_path
            && !text.is_empty()
            && Path::new(text).is_relative()
            // What isn't UTF-8 stays as it was written: it could not be shown.
            && let Some(whole) = folder.join(&*text).to_str()
        {
            *text = whole.to_owned();
        }
    }
}

/// Reads a file's text.
pub(super) fn read(name: &str, text: &str, values: &mut Values, problems: &mut Vec<Problem>) -> Result<(), ConfigError> {
    let options = serde_saphyr::options! { with_snippet: false };
    let root: Spanned<Node> = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let (line, column) = error.location().map_or((1, 1), |location| (location.line(), location.column()));
        ConfigError::Syntax { name: name.to_owned(), line, column, reason: words(&error.to_string()) }
    })?;
    Reading { name, text, values, problems }.section("", root);
    Ok(())
}

struct Reading<'a> {
    name: &'a str,
    text: &'a str,
    values: &'a mut Values,
    problems: &'a mut Vec<Problem>,
}

impl Reading<'_> {
    fn section(&mut self, path: &str, node: Spanned<Node>) {
        let at = node.referenced;
        match node.value {
            Node::Null => {}
            Node::Map(entries) => {
                for (key, value) in entries {
                    let child = if path.is_empty() { key.value.clone() } else { format!("{path}.{}", key.value) };
                    self.entry(&child, &key, value);
                }
            }
            _ => {
                let shown = if path.is_empty() { "the document" } else { path };
                self.problem(shown, at, format!("expected a section with {}", list(&names_below(path))));
            }
        }
    }

    fn entry(&mut self, path: &str, key: &Spanned<String>, value: Spanned<Node>) {
        let table = keys::table_path(path);
        let below = |opening: &str| KEYS.iter().any(|key| key.path.strip_prefix(&table).is_some_and(|rest| rest.starts_with(opening)));
        if key.value.contains(['[', ']', '.']) {
            self.unknown(path, key);
        } else if let Some(known) = keys::find(&table) {
            self.value(path, known, value);
        } else if below(".") {
            self.section(path, value);
        } else if below("[].") {
            self.items(path, value);
        } else {
            self.unknown(path, key);
        }
    }

    fn items(&mut self, path: &str, node: Spanned<Node>) {
        let at = node.referenced;
        match node.value {
            Node::Null => {}
            Node::List(items) => {
                for (index, item) in items.into_iter().enumerate() {
                    // Marks the item, so that one with nothing in it counts too.
                    let marker = Given { value: Written::Many(Vec::new()), source: self.source(item.referenced) };
                    self.values.insert(format!("{path}[{index}]"), marker);
                    self.section(&format!("{path}[{index}]"), item);
                }
            }
            _ => self.problem(path, at, "expected a list: start each item with '- '".to_owned()),
        }
    }

    fn value(&mut self, path: &str, known: &keys::Key, node: Spanned<Node>) {
        let at = node.referenced;
        let written = match &node.value {
            // `key:` with nothing after it is a key that somebody meant to fill in.
            Node::Null => return self.problem(path, at, format!("has no value: expected {}", known.kind.expected())),
            Node::List(items) if known.kind.is_list() => items.iter().map(|item| self.scalar(item)).collect::<Option<Vec<_>>>().map(Written::Many),
            _ if known.kind.is_list() => None,
            _ => self.scalar(&node).map(Written::One),
        };
        match written {
            Some(value) => {
                self.values.insert(path.to_owned(), Given { value, source: self.source(at) });
            }
            None => self.problem(path, at, format!("has another shape: expected {}", known.kind.expected())),
        }
    }

    /// The text of a scalar, as it stands in the file: `0123` is not 83, and `1e3` is not 1000.
    fn scalar(&self, node: &Spanned<Node>) -> Option<String> {
        match &node.value {
            Node::Text(text) => Some(text.clone()),
            Node::Plain => {
                let span = node.defined.span();
                let start = usize::try_from(span.byte_offset()?).ok()?;
                let end = start.checked_add(usize::try_from(span.byte_len()?).ok()?)?;
                self.text.get(start..end).map(|text| text.trim().to_owned())
            }
            Node::Null | Node::List(_) | Node::Map(_) => None,
        }
    }

    fn unknown(&mut self, path: &str, key: &Spanned<String>) {
        let parent = path.strip_suffix(&key.value).unwrap_or_default().trim_end_matches('.');
        let names = names_below(parent);
        let hint = match keys::nearest(&key.value, names.iter().copied()) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("known here: {}", names.join(", ")),
        };
        self.problem(path, key.referenced, format!("is not a key of meshmint; {hint}"));
    }

    fn source(&self, at: serde_saphyr::Location) -> Source {
        Source::File { name: self.name.to_owned(), line: at.line(), column: at.column() }
    }

    fn problem(&mut self, path: &str, at: serde_saphyr::Location, reason: String) {
        let source = self.source(at);
        self.problems.push(Problem { key: path.chars().take(200).collect::<String>().escape_debug().to_string(), source, reason });
    }
}

/// The names that may stand in a section.
fn names_below(section: &str) -> Vec<&'static str> {
    let table = keys::table_path(section);
    let mut names: Vec<&str> = Vec::new();
    for key in KEYS {
        let rest = if table.is_empty() { Some(key.path) } else { key.path.strip_prefix(&table).and_then(|rest| rest.strip_prefix('.')) };
        if let Some(name) = rest.and_then(|rest| rest.split(['.', '[']).next())
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    names
}

fn list(names: &[&str]) -> String {
    names.join(", ")
}

/// The parser's message without the place, which stands before it already, and without its advice to programmers.
fn words(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    let end = [" at line ", " (line ", "; use ", ", set "].iter().filter_map(|start| line.find(start)).min();
    end.and_then(|end| line.get(..end)).unwrap_or(line).trim_start_matches("error: ").to_owned()
}

/// Any YAML, kept as it is. Numbers and the like are only marked: their text is taken from the file.
#[derive(Debug)]
enum Node {
    Null,
    Plain,
    Text(String),
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyNode;

        impl<'de> Visitor<'de> for AnyNode {
            type Value = Node;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a value")
            }
            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }
            fn visit_none<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }
            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
                Node::deserialize(deserializer)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
                Ok(Node::Plain)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
                Ok(Node::Plain)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
                Ok(Node::Plain)
            }
            fn visit_i128<E>(self, _: i128) -> Result<Node, E> {
                Ok(Node::Plain)
            }
            fn visit_u128<E>(self, _: u128) -> Result<Node, E> {
                Ok(Node::Plain)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
                Ok(Node::Plain)
            }
            fn visit_str<E>(self, text: &str) -> Result<Node, E> {
                Ok(Node::Text(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Node::List(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
                let mut map = Vec::new();
                while let Some(entry) = entries.next_entry()? {
                    map.push(entry);
                }
                Ok(Node::Map(map))
            }
        }

        deserializer.deserialize_any(AnyNode)
    }
}
