//! The chart's values.schema.json: it knows every key of the configuration (generated from `meshmint config print`), refuses what it doesn't know, and
//! knows every value of values.yaml, each of which has its reason. `MESHMINT_TEST_WRITE=1 cargo test --test install_schema` writes it anew; review it then.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/helm.rs"]
mod helm;
#[path = "common/process.rs"]
mod process;
#[path = "common/tools.rs"]
mod tools;

use std::collections::BTreeSet;
use std::fs;

use helm::chart;
use serde_json::{Value, json};

use crate::process::meshmint;
use crate::tools::same_as_file;

/// Keys of the configuration that the chart writes itself, from values of other names or because they are the pod's.
const OF_THE_CHART: [&str; 33] = [
    "trustDomain",
    "clusterID",
    "server.listen",
    "server.servingDNSNames",
    "server.servingLifetime",
    "server.drainTimeout",
    "tokens.audiences",
    "tokens.trustedNodeAccounts",
    "tokens.issuers[].issuer",
    "tokens.issuers[].keys.file",
    "tokens.issuers[].keys.url",
    "tokens.issuers[].keys.discovery",
    "tokens.issuers[].keys.apiServer",
    "tokens.issuers[].keys.caFile",
    "tokens.issuers[].refreshInterval",
    "tokens.issuers[].maxAge",
    "cluster.inCluster",
    "cluster.kubeconfig",
    "cluster.remoteSecretsNamespace",
    "certificates.defaultLifetime",
    "certificates.maxLifetime",
    "state.file.dir",
    "ledger.sqlite.path",
    "ledger.onOutage",
    "ledger.spool.path",
    "admin.socket",
    "admin.listen",
    "state.store",
    "state.secrets.namespace",
    "state.secrets.prefix",
    "health.listen",
    "metrics.listen",
    "log.format",
];
/// And the rest of their sections.
const SECTIONS_OF_THE_CHART: [&str; 4] = ["authority.import.", "controllers.", "log.", "ledger.postgres."];
/// In such a section, but not the chart's.
const FREE: [&str; 1] = ["ledger.postgres.poolSize"];

#[test]
fn the_schema_knows_every_key_of_the_configuration() {
    let table = meshmint(&["config", "print", "-o", "json"]);
    let table: Vec<Value> = serde_json::from_slice(&table.stdout).unwrap();
    let mut config =
        json!({"type": "object", "additionalProperties": false, "description": "Keys of docs/configuration.md. Generated.", "properties": {}});
    for key in &table {
        let path = key["key"].as_str().unwrap();
        let section = SECTIONS_OF_THE_CHART.iter().any(|section| path.starts_with(section));
        if OF_THE_CHART.contains(&path) || (section && !FREE.contains(&path)) {
            continue;
        }
        let mut place = &mut config;
        let (sections, name) = path.rsplit_once('.').map_or(("", path), |(sections, name)| (sections, name));
        for section in sections.split('.').filter(|section| !section.is_empty()) {
            let properties = place["properties"].as_object_mut().unwrap();
            place = properties.entry(section).or_insert_with(|| json!({"type": "object", "additionalProperties": false, "properties": {}}));
        }
        place["properties"][name] = schema_of(key);
    }
    let all: Vec<_> = table.iter().map(|key| key["key"].as_str().unwrap()).collect();
    assert!(OF_THE_CHART.iter().chain(&FREE).all(|key| all.contains(key)), "a key that no longer is one");
    let path = chart().join("values.schema.json");
    let mut schema: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    schema["properties"]["config"] = config;
    same_as_file(&path, &format!("{schema:#}\n"));
}

/// What a value of this key looks like, by the words that an operator reads.
fn schema_of(key: &Value) -> Value {
    let expected = key["expected"].as_str().unwrap();
    let mut schema = if let Some(words) = expected.strip_prefix("one of ") {
        json!({"enum": words.split(", ").collect::<Vec<_>>()})
    } else if let Some(bounds) = expected.strip_prefix("a whole number from ") {
        let (least, most) = bounds.split_once(" to ").unwrap();
        json!({"type": "integer", "minimum": least.parse::<u64>().unwrap(), "maximum": most.parse::<u64>().unwrap()})
    } else if expected.starts_with("a list of ") {
        json!({"type": "array", "uniqueItems": true, "items": {"type": "string", "minLength": 1}})
    } else if expected.starts_with("true ") {
        json!({"const": true})
    } else if expected.starts_with("a duration ") {
        json!({"$ref": "#/$defs/duration"})
    } else if expected.starts_with("a size ") {
        json!({"type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)$"})
    } else if expected.starts_with("a share ") {
        json!({"type": "string", "pattern": "^[0-9]+%$"})
    } else {
        json!({"type": "string", "minLength": 1})
    };
    schema["description"] = json!(format!("{} Expected: {expected}.", key["meaning"].as_str().unwrap()));
    schema
}

#[test]
fn the_schema_refuses_what_it_does_not_know_and_knows_each_value() {
    // Strict at every depth but where Kubernetes's own objects are.
    let schema: Value = serde_json::from_str(&fs::read_to_string(chart().join("values.schema.json")).unwrap()).unwrap();
    let mut open = Vec::new();
    walk(&schema, "", &mut open);
    let known = ["affinity", "global", "podSecurityContext", "resources", "securityContext"];
    assert_eq!(open, known);
    // Every default is one that the schema knows.
    let values = fs::read_to_string(chart().join("values.yaml")).unwrap();
    let defaults: Value = serde_saphyr::from_str(&values).unwrap();
    let known: BTreeSet<_> = schema["properties"].as_object().unwrap().keys().filter(|key| *key != "global").collect();
    assert_eq!(defaults.as_object().unwrap().keys().collect::<BTreeSet<_>>(), known);
    let issuers = defaults["app"]["tokens"]["issuers"].as_array().unwrap();
    assert!(issuers.iter().all(|issuer| issuer.as_str().unwrap().starts_with("https://")));
}

fn walk(schema: &Value, path: &str, open: &mut Vec<String>) {
    if schema["type"] == "object" && schema["additionalProperties"].is_null() {
        open.push(path.trim_start_matches('.').to_owned());
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        walk(inner, &format!("{path}.{name}"), open);
    }
}

#[test]
fn each_default_has_its_reason() {
    // A comment of its own, one that it shares with those right before it in its section, or its section's.
    let values = fs::read_to_string(chart().join("values.yaml")).unwrap();
    let (mut sections, mut before, mut commented, mut without, mut seen) = (Vec::<(usize, bool)>::new(), None, false, Vec::new(), 0);
    for line in values.lines() {
        let text = line.trim_start();
        let depth = line.len() - text.len();
        if text.is_empty() {
            (before, commented) = (None, false);
        } else if text.starts_with('#') {
            commented = true;
        } else {
            sections.retain(|(section, _)| *section < depth);
            let reason = commented || before == Some((depth, true)) || sections.last().is_some_and(|(_, commented)| *commented);
            if text.ends_with(':') {
                sections.push((depth, commented));
            } else {
                seen += 1;
                without.extend((!reason).then_some(line));
            }
            (before, commented) = (Some((depth, reason)), false);
        }
    }
    assert!(seen > 80 && without.is_empty(), "{seen}: {without:#?}");
}
