//! Printing: the effective configuration at start, `config print`, and docs/configuration.md. All from the table of keys.

use super::document::{Given, Values, Written};
use super::keys::{self, KEYS, Key, Preset};

/// One line of a value to be printed.
struct Line {
    path: String,
    key: &'static Key,
    /// As YAML.
    value: String,
    /// Printed as a comment: an optional key that is not given.
    off: bool,
}

/// Every value as it is in force, as YAML that `config check` takes.
pub(super) fn effective(values: &Values) -> String {
    let mut lines = Vec::new();
    for key in KEYS {
        for path in paths(key, values) {
            if let Some(value) = value(key, values.get(&path)) {
                lines.push(Line { path, key, value, off: false });
            }
        }
    }
    yaml(&by_item(lines), false)
}

/// Every key with its default, commented with its meaning, and one example issuer.
pub(super) fn defaults() -> String {
    let example = |key: &'static Key| match key.default {
        Preset::Is(text) | Preset::Required(text) => (scalar(text), false),
        Preset::Items(text) => (flow(text.split(',').filter(|item| !item.is_empty())), false),
        // One way to the keys must be open.
        Preset::Optional(text) => (scalar(text), key.path != "tokens.issuers[].keys.file"),
    };
    let lines: Vec<_> = KEYS
        .iter()
        .map(|key| {
            let (value, off) = example(key);
            Line { path: key.path.replace("[]", "[0]"), key, value, off }
        })
        .collect();
    let head = "# Every key of meshmint with its default. Environment variables go over the file, flags over both.\n";
    format!("{head}{}", yaml(&lines, true))
}

/// The table as JSON: for each key its path, environment variable, default, form and meaning.
pub(super) fn defaults_json() -> serde_json::Value {
    KEYS.iter()
        .map(|key| {
            let (default, example) = match key.default {
                Preset::Is(text) => (text.into(), None),
                Preset::Items(text) => (text.split(',').filter(|item| !item.is_empty()).collect::<serde_json::Value>(), None),
                Preset::Optional(text) | Preset::Required(text) => (serde_json::Value::Null, Some(text)),
            };
            serde_json::json!({
                "key": key.path,
                "environment": keys::environment_name(key.path),
                "default": default,
                "example": example,
                "required": matches!(key.default, Preset::Required(_)),
                "expected": key.kind.expected(),
                "meaning": key.meaning,
            })
        })
        .collect()
}

/// docs/configuration.md.
pub(super) fn markdown() -> String {
    let mut text = HEAD.to_owned();
    let mut section = None;
    for key in KEYS {
        let name = key.path.split_once('.').map_or("", |(name, _)| name);
        if section != Some(name) {
            section = Some(name);
            let title = if name.is_empty() { "Top level".to_owned() } else { format!("`{name}`") };
            text.push_str(&format!("\n## {title}\n\n| key | default | expected | meaning |\n|---|---|---|---|\n"));
        }
        let default = match key.default {
            Preset::Is(text) => format!("`{text}`"),
            Preset::Items(text) => format!("`[{}]`", text.replace(',', ", ")),
            Preset::Optional(text) => format!("none (for example `{text}`)"),
            Preset::Required(text) => format!("required (for example `{text}`)"),
        };
        text.push_str(&format!("| `{}` | {default} | {} | {} |\n", key.path, key.kind.expected(), key.meaning));
    }
    text.push_str(&format!("\n## Example\n\n```yaml\n{}```\n", defaults()));
    text
}

const HEAD: &str = "# Configuration

*This page is generated from `src/config/keys.rs`; a test fails when it differs.*

`meshmint serve --config FILE` reads one YAML file. `meshmint config print` prints every key with its default, and
`meshmint config check FILE` checks a file without starting. Unknown keys and wrong values are refused, all at once, each with its line and column,
what it is, and what would be right.

Over the file go environment variables: `MESHMINT_` and the key in capitals with `_` between words and sections, so `server.servingDNSNames`
is `MESHMINT_SERVER_SERVING_DNS_NAMES`. Lists are comma-separated there; `tokens.issuers` can only stand in the file. A variable `MESHMINT_…` that is no
key is refused, except `MESHMINT_TEST_…` and what Kubernetes sets for a Service called `meshmint` (`MESHMINT_SERVICE_HOST`, `MESHMINT_PORT_8443_TCP`, …). Flags go over both.

A relative path in the file begins at the file's folder; one in the environment or in a flag at the working directory.

Durations are whole numbers with `d`, `h`, `m`, `s` or `ms`, combined largest first (`1h30m`). Sizes have `B`, `KiB`, `MiB` or `GiB`; shares a `%`. Bounds are included.

These must fit together:

- `certificates.defaultLifetime` is at most `maxLifetime` and at least five times `backdate`; so is `maxLifetime`.
- `authority.issuingLifetime` is at least three times `certificates.maxLifetime` and at most `rootLifetime`.
- `tokens.audiences` and `tokens.issuers` are not empty, and no issuer is there twice; each has exactly one of `keys.file`, `keys.url`, `keys.discovery` and
  `keys.apiServer`, and `refreshInterval` is at most `maxAge`. `keys.caFile` goes with `url` or `discovery`.
- `cluster` has `inCluster` or `kubeconfig`, or neither; `keys.apiServer` and `tokens.verification: tokenReview` need one of them.
- `controllers.cacerts.lifetime` is at most `authority.rootLifetime`. `controllers.istiod.clusters` and `controllers.cacerts.clusters` other than `clusterID` need
  `cluster.remoteSecretsNamespace`. With `role: issuer` that isn't `state.secrets.namespace`.
- `server` has at least one serving name or address; `maxInFlight` is at least `maxConcurrentStreams`; `maxHandshakes` is at most `maxConnections`.
- The ledger is a file (`ledger.sqlite`) or a database (`ledger.postgres`), not both; `ledger.onOutage: spool` is for a database.
- No two listeners have the same port (0 takes a free one).

`state.file.dir` must belong to the user that meshmint runs as, or to root, and never be writable for everybody. Where group or others may enter it, or where it belongs
to root and meshmint isn't root (the root of a mounted volume), everything lies in its folder `state`, 0700. Who can write to the folders above is not looked at.
On a Kubernetes volume with `fsGroup`, set `fsGroupChangePolicy: OnRootMismatch`: otherwise the kubelet opens the keys to the group at each start, and meshmint refuses them.
";

/// The paths of a key that are in force: one, or one for each list item.
fn paths(key: &Key, values: &Values) -> Vec<String> {
    let Some((list, rest)) = key.path.split_once("[]") else { return vec![key.path.to_owned()] };
    let number = |path: &String| path.strip_prefix(list)?.strip_prefix('[')?.split(']').next()?.parse::<usize>().ok();
    let count = values.keys().filter_map(number).max().map_or(0, |last| last + 1);
    (0..count).map(|index| format!("{list}[{index}]{rest}")).collect()
}

/// Lines of list items are gathered key by key; they are printed item by item.
fn by_item(mut lines: Vec<Line>) -> Vec<Line> {
    let number = |line: &Line| line.path.split_once('[').and_then(|(_, rest)| rest.split(']').next()?.parse::<usize>().ok());
    let first = lines.iter().position(|line| number(line).is_some()).unwrap_or(lines.len());
    let last = lines.iter().rposition(|line| number(line).is_some()).map_or(first, |last| last + 1);
    if let Some(items) = lines.get_mut(first..last) {
        items.sort_by_key(number);
    }
    lines
}

fn value(key: &Key, given: Option<&Given>) -> Option<String> {
    if key.secret && given.is_some() {
        return Some(scalar("(secret)"));
    }
    match (given.map(|given| &given.value), key.default) {
        (Some(Written::One(text)), _) => Some(scalar(text)),
        (Some(Written::Many(items)), _) => Some(flow(items.iter().map(String::as_str))),
        (None, Preset::Is(text)) => Some(scalar(text)),
        (None, Preset::Items(text)) => Some(flow(text.split(',').filter(|item| !item.is_empty()))),
        (None, Preset::Optional(_) | Preset::Required(_)) => None,
    }
}

/// Lines to YAML: a header wherever the section changes, `- ` at the first key of a list item.
fn yaml(lines: &[Line], commented: bool) -> String {
    let mut text = String::new();
    let mut open: Vec<String> = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let mut parts: Vec<String> = Vec::new();
        for part in line.path.split('.') {
            match part.split_once('[') {
                Some((name, number)) => parts.extend([name.to_owned(), format!("[{number}")]),
                None => parts.push(part.to_owned()),
            }
        }
        let name = parts.pop().unwrap_or_default();
        let shared = open.iter().zip(&parts).take_while(|(one, other)| one == other).count();
        let mut dash = false;
        let mut meaning = commented.then(|| format!("{} Expected: {}.", line.key.meaning, line.key.kind.expected()));
        for (depth, part) in parts.iter().enumerate().skip(shared) {
            if depth == 0 && index > 0 {
                text.push('\n');
            }
            if part.starts_with('[') {
                dash = true;
                continue;
            }
            // A section with nothing given in it is a comment as a whole.
            let prefix = parts.get(..=depth).unwrap_or_default().join(".").replace(".[", "[");
            let off = lines.iter().filter(|other| other.path.starts_with(&format!("{prefix}."))).all(|other| other.off)
                && lines.iter().any(|other| other.path.starts_with(&format!("{prefix}.")));
            text.push_str(&format!("{}{}{part}:\n", "  ".repeat(depth), if off { "# " } else { "" }));
        }
        let indent = "  ".repeat(parts.len());
        if let Some(meaning) = meaning.take() {
            text.push_str(&format!("{indent}# {meaning}\n"));
        }
        let lead = if dash { format!("{}- ", "  ".repeat(parts.len().saturating_sub(1))) } else { indent };
        text.push_str(&format!("{lead}{}{name}: {}\n", if line.off { "# " } else { "" }, line.value));
        open = parts;
    }
    text
}

fn flow<'a>(items: impl Iterator<Item = &'a str>) -> String {
    format!("[{}]", items.map(scalar).collect::<Vec<_>>().join(", "))
}

/// A scalar that reads back as the same text. JSON's strings are YAML's double-quoted scalars.
fn scalar(text: &str) -> String {
    let harmless = |character: char| character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '/' | '-' | '%' | ':');
    let plain = text.starts_with(|character: char| character.is_ascii_alphanumeric() || character == '/')
        && text.chars().all(harmless)
        && !text.ends_with(':')
        && !["null", "Null", "NULL"].contains(&text);
    if plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}
