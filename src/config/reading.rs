//! Taking one value out of the flat ones, by its key's kind; every value that can't be taken is noted as a problem. Called by `check`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::document::{Values, Written};
use super::keys::{self, KEYS, Key, Kind, Preset};
use super::problem::{Problem, Source};
use super::units;
use crate::ledger::postgres::PostgresSettings;

/// The values being checked and the problems found so far.
pub(super) struct Checking<'a> {
    pub(super) values: &'a Values,
    pub(super) problems: Vec<Problem>,
}

impl Checking<'_> {
    /// Notes a problem with a key, or with the first value below it where it is a section. Always `None`.
    pub(super) fn refuse<T>(&mut self, path: &str, reason: &str) -> Option<T> {
        let exact = self.values.get(path);
        let given = exact.or_else(|| {
            self.values.iter().find(|(key, _)| key.strip_prefix(path).is_some_and(|rest| rest.starts_with(['.', '[']))).map(|(_, given)| given)
        });
        let given = given.or_else(|| self.values.get(path.split_inclusive(']').next()?));
        let source = given.map_or(Source::Default, |given| given.source.clone());
        self.problems.push(Problem { key: path.to_owned(), source, reason: reason.to_owned() });
        None
    }

    /// The text of a scalar, given or default; `Ok(None)` where it is optional and absent.
    pub(super) fn one(&mut self, path: &str) -> Result<Option<(String, &'static Key)>, ()> {
        let Some(key) = keys::find(&keys::table_path(path)) else { return self.refuse(path, "is not in the table of keys").ok_or(()) };
        match (self.values.get(path).map(|given| &given.value), key.default) {
            (Some(Written::One(text)), _) => Ok(Some((text.clone(), key))),
            (None, Preset::Is(text)) => Ok(Some((text.to_owned(), key))),
            (None, Preset::Optional(_)) => Ok(None),
            (None, Preset::Required(example)) => {
                self.refuse(path, &format!("is missing: expected {}, for example {example}", key.kind.expected())).ok_or(())
            }
            _ => self.refuse(path, &format!("expected {}", key.kind.expected())).ok_or(()),
        }
    }

    pub(super) fn wrong<T>(&mut self, path: &str, text: &str, key: &Key) -> Option<T> {
        // A URL may carry a password by mistake.
        let shown: String = if key.secret || (matches!(key.kind, Kind::Url | Kind::Database) && text.contains('@')) {
            "the value".to_owned()
        } else {
            format!("{:?}", text.chars().take(200).collect::<String>())
        };
        self.refuse(path, &format!("{shown} is not right: expected {}", key.kind.expected()))
    }

    /// A scalar that must be there.
    pub(super) fn scalar<T>(&mut self, path: &str, parse: impl Fn(&str, Kind) -> Option<T>) -> Option<T> {
        let (text, key) = self.one(path).ok()??;
        parse(&text, key.kind).or_else(|| self.wrong(path, &text, key))
    }

    pub(super) fn text(&mut self, path: &str) -> Option<String> {
        self.scalar(path, plain)
    }

    pub(super) fn path(&mut self, path: &str) -> Option<PathBuf> {
        self.text(path).map(PathBuf::from)
    }

    /// A scalar that may be absent: `None` is a problem, `Some(None)` is absence.
    pub(super) fn optional(&mut self, path: &str) -> Option<Option<String>> {
        match self.one(path).ok()? {
            None => Some(None),
            Some((text, key)) => plain(&text, key.kind).map(Some).or_else(|| self.wrong(path, &text, key)),
        }
    }

    pub(super) fn listen(&mut self, path: &str) -> Option<SocketAddr> {
        self.scalar(path, |text, _| text.parse().ok())
    }

    pub(super) fn duration(&mut self, path: &str) -> Option<Duration> {
        self.scalar(path, |text, kind| match kind {
            Kind::Duration(least, most) => {
                units::duration(text).filter(|value| (Duration::from_millis(least)..=Duration::from_millis(most)).contains(value))
            }
            _ => None,
        })
    }

    /// A count, a size in bytes, or whole percent.
    pub(super) fn number(&mut self, path: &str) -> Option<usize> {
        self.scalar(path, |text, kind| {
            let value = match kind {
                Kind::Count(least, most) => units::count(text).filter(|value| (least..=most).contains(value)),
                Kind::Size(least, most) => units::size(text).filter(|value| (least..=most).contains(value)),
                Kind::Percent(least, most) => units::percent(text).filter(|value| (least..=most).contains(value)).map(u64::from),
                _ => None,
            };
            value.and_then(|value| usize::try_from(value).ok())
        })
    }

    pub(super) fn list<T: PartialEq>(&mut self, path: &str, parse: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
        let key = KEYS.iter().find(|key| key.path == path)?;
        let items = match (self.values.get(path).map(|given| &given.value), key.default) {
            (Some(Written::Many(items)), _) => items.clone(),
            (None, Preset::Items(text)) => text.split(',').filter(|item| !item.is_empty()).map(str::to_owned).collect(),
            (Some(Written::One(text)), _) => return self.wrong(path, &text.clone(), key),
            _ => Vec::new(),
        };
        let mut parsed = Vec::new();
        for item in &items {
            match parse(item).filter(|value| !parsed.contains(value)) {
                Some(value) => parsed.push(value),
                None => return self.wrong(path, item, key),
            }
        }
        Some(parsed)
    }
}

/// A text as its kind wants it.
fn plain(text: &str, kind: Kind) -> Option<String> {
    let good = match kind {
        Kind::Choice(words) => words.contains(&text),
        Kind::Flag => text == "true",
        Kind::Url => is_https(text),
        Kind::Database => PostgresSettings::check_url(text).is_ok(),
        Kind::Socket => (1..=keys::MAX_SOCKET_BYTES).contains(&text.len()) && !text.contains('\0'),
        _ => !text.is_empty() && !text.contains(char::is_control),
    };
    good.then(|| text.to_owned())
}

pub(super) fn is_https(text: &str) -> bool {
    let Ok(url) = text.parse::<http::Uri>() else { return false };
    let authority = url.authority().is_some_and(|authority| !authority.host().is_empty() && !authority.as_str().contains('@'));
    url.scheme_str() == Some("https") && authority && !text.contains('#')
}
