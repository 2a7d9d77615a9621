//! deploy/ and its pages against a running `meshmint serve`: the dashboard and the alert rules speak only of metrics that are there, docs/metrics.md
//! of all of them, and every alert has its section in docs/runbook.md. promtool, which is Prometheus's own, checks the rest.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/process.rs"]
mod process;
#[path = "common/tools.rs"]
mod tools;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::process::{Serve, get, issuer_folder, serve_yaml};
use crate::tools::{repository, succeed, tool};

const RULES: &str = "deploy/prometheus/meshmint.rules.yaml";
const TESTS: &str = "tests/prometheus/rules.test.yaml";
/// Metrics that Prometheus itself makes.
const OF_PROMETHEUS: [&str; 1] = ["up"];

fn file(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap()
}

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&file(path)).unwrap()
}

fn dashboard() -> Value {
    serde_json::from_str(&file("deploy/grafana/meshmint.json")).unwrap()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap_or_else(|| panic!("no list {key} in {value}"))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no text {key} in {value}"))
}

fn rules() -> Vec<Value> {
    let rules = yaml(RULES);
    list(&rules, "groups").iter().flat_map(|group| list(group, "rules").to_vec()).collect()
}

fn alerts() -> Vec<Value> {
    rules().into_iter().filter(|rule| rule.get("alert").is_some()).collect()
}

fn promtool(arguments: &[&str]) -> Command {
    let mut command = Command::new(tool("bin/promtool"));
    command.args(arguments).current_dir(repository(""));
    command
}

/// The metrics of a process: type, and the names of labels that its series have.
type Metrics = BTreeMap<String, (String, BTreeSet<String>)>;

/// What a `serve` exposes that nobody has asked anything yet, as text and read.
fn exposed() -> (String, Metrics) {
    let (folder, issuer) = (tempfile::tempdir().unwrap(), issuer_folder());
    let serve = Serve::start(folder.path(), &serve_yaml(folder.path(), issuer.path(), "", ""));
    let (status, exposition) = get(&serve.metrics.to_string(), "/metrics");
    assert_eq!(status, 200);
    let mut metrics = Metrics::new();
    let mut current = String::new();
    for line in exposition.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            let (name, kind) = declared.split_once(' ').unwrap();
            current = name.to_owned();
            metrics.insert(current.clone(), (kind.to_owned(), BTreeSet::new()));
        } else if let Some((_, labels)) = line.split_once('{').filter(|_| !line.starts_with('#')) {
            let labels = labels.split_once('}').unwrap().0;
            let names = labels.split("\",").map(|label| label.split_once('=').unwrap().0.to_owned()).filter(|name| name != "le");
            metrics.get_mut(&current).unwrap().1.extend(names);
        }
    }
    assert!(metrics.len() > 40, "{exposition}");
    (exposition, metrics)
}

/// The names of series that an exposition gives: a histogram has three.
fn series(metrics: &Metrics) -> BTreeSet<String> {
    let names = metrics.iter().flat_map(|(name, (kind, _))| match kind.as_str() {
        "histogram" => ["_bucket", "_sum", "_count"].map(|end| format!("{name}{end}")).to_vec(),
        _ => vec![name.clone()],
    });
    names.collect()
}

/// Every name of a metric in an expression of PromQL: a word that is no label, no function, no keyword.
fn names(expression: &str) -> BTreeSet<String> {
    const NO_METRIC: [&str; 12] = ["and", "or", "unless", "by", "on", "ignoring", "group_left", "group_right", "without", "bool", "offset", "inf"];
    let mut found = BTreeSet::new();
    let mut depth = 0; // inside {…} or […] stand labels and durations
    let mut labels_follow = false; // by (…), on (…), group_left (…)
    let mut in_labels = false;
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        if first == '"' {
            rest = rest[1..].split_once('"').unwrap().1;
            continue;
        }
        let word: String = rest.chars().take_while(|letter| letter.is_alphanumeric() || "_:$".contains(*letter)).collect();
        if word.is_empty() {
            match first {
                '{' | '[' => depth += 1,
                '}' | ']' => depth -= 1,
                '(' if labels_follow => (in_labels, labels_follow) = (true, false),
                ')' => in_labels = false,
                ' ' | '\n' => {}
                _ => labels_follow = false,
            }
            rest = &rest[first.len_utf8()..];
            continue;
        }
        rest = &rest[word.len()..];
        // `sum (…)`, and `sum by (…) (…)`.
        let called = ["(", "by ", "without "].iter().any(|follows| rest.trim_start().starts_with(follows));
        if depth > 0 || in_labels || word.starts_with(|letter: char| letter.is_ascii_digit()) {
            continue;
        }
        labels_follow = ["by", "on", "without", "ignoring", "group_left", "group_right"].contains(&word.as_str());
        if !called && !NO_METRIC.contains(&word.to_lowercase().as_str()) {
            found.insert(word);
        }
    }
    found
}

/// Every panel's expressions, and those of annotations.
fn expressions(dashboard: &Value) -> Vec<String> {
    let panels = list(dashboard, "panels").iter().filter(|panel| panel["type"] != "row");
    let targets = panels.flat_map(|panel| list(panel, "targets").iter().map(|target| text(target, "expr").to_owned()));
    let annotations = list(&dashboard["annotations"], "list").iter().filter_map(|annotation| annotation["expr"].as_str().map(str::to_owned));
    targets.chain(annotations).collect()
}

/// Grafana's variables as a user's choice would fill them in.
fn filled_in(expression: &str) -> String {
    [("$__rate_interval", "5m"), ("$__interval", "1m"), ("$job", ".*"), ("$replica", ".*")]
        .iter()
        .fold(expression.to_owned(), |text, (variable, value)| text.replace(variable, value))
}

#[test]
fn names_are_found_in_promql() {
    let found = |expression| names(expression).into_iter().collect::<Vec<_>>();
    assert_eq!(found("sum by (a, le) (rate(x_total{b=~\"c|d\", e!=\"f{\"}[5m])) / on (job) group_left (v) max(y) > 0.5 * 1e3"), ["x_total", "y"]);
    assert_eq!(found("time() - z{a=\"b\"} > 60 and on (job, instance) up == 0"), ["up", "z"]);
    assert_eq!(found("a:b:rate5m > 14.4 * 0.001\n and absent(c)"), ["a:b:rate5m", "c"]);
}

#[test]
fn dashboard_rules_and_page_speak_of_what_is_there() {
    let (exposition, metrics) = exposed();
    let series = series(&metrics);

    let mut spoken_of = BTreeSet::new();
    let recorded: BTreeSet<String> = rules().iter().filter_map(|rule| Some(rule.get("record")?.as_str()?.to_owned())).collect();
    let dashboard = dashboard();
    let variables = list(&dashboard["templating"], "list").iter().filter_map(|variable| variable["definition"].as_str());
    let variables = variables.map(|query| query.strip_prefix("label_values(").unwrap().split(['{', ',']).next().unwrap().to_owned());
    let rule_names = rules().iter().flat_map(|rule| names(text(rule, "expr"))).collect::<Vec<_>>();
    for name in expressions(&dashboard).iter().flat_map(|expression| names(expression)).chain(rule_names).chain(variables) {
        assert!(series.contains(&name) || recorded.contains(&name) || OF_PROMETHEUS.contains(&name.as_str()), "nobody exposes {name}");
        spoken_of.insert(name);
    }
    // A metric that no chart shows is one that nobody sees. These are shown by their sum, count or buckets, or are there for charts of others.
    let unseen: Vec<_> = metrics.keys().filter(|name| !spoken_of.iter().any(|spoken| spoken.starts_with(name.as_str()))).collect();
    assert_eq!(unseen, ["grpc_server_msg_received_total", "grpc_server_msg_sent_total"]);

    let page = file("docs/metrics.md");
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let documented: Metrics = rows
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let labels = cells[3].split('`').skip(1).step_by(2).map(str::to_owned).collect();
            (cells[1].trim_matches('`').to_owned(), (cells[2].to_owned(), labels))
        })
        .collect();
    assert_eq!(documented, metrics, "docs/metrics.md and a running meshmint, name by name with type and labels");

    // Prometheus's own reader. Istio's names break its rules for names; they are charted already.
    let mut lint = promtool(&["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    lint.stdin.take().unwrap().write_all(exposition.as_bytes()).unwrap();
    let lint = lint.wait_with_output().unwrap();
    let said = String::from_utf8([lint.stdout, lint.stderr].concat()).unwrap();
    let complaints: Vec<_> = said.lines().filter(|line| !line.starts_with("citadel_server_")).collect();
    assert_eq!(complaints, Vec::<&str>::new());
    assert!(matches!(lint.status.code(), Some(0 | 3)), "{said}");
}

#[test]
fn every_alert_says_how_bad_what_and_what_to_do() {
    let runbook = file("docs/runbook.md");
    let sections: BTreeSet<&str> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let mut explained = BTreeSet::new();
    let alerts = alerts();
    assert!(alerts.len() >= 20);
    for alert in &alerts {
        let name = text(alert, "alert");
        let severity = text(&alert["labels"], "severity");
        assert!(["critical", "warning"].contains(&severity), "{name}: {severity}");
        let annotations = &alert["annotations"];
        assert!(!text(annotations, "summary").is_empty() && !text(annotations, "description").is_empty(), "{name}");
        // An anchor is the heading in lower case.
        assert_eq!(text(annotations, "runbook_url"), format!("docs/runbook.md#{}", name.to_lowercase()));
        assert!(explained.insert(name), "{name} is there twice");
    }
    assert_eq!(sections, explained, "sections of the runbook, and alerts");
    for (link, _) in runbook.split("](#").skip(1).filter_map(|rest| rest.split_once(')')) {
        assert!(sections.iter().any(|section| section.to_lowercase() == link), "nothing is called #{link}");
    }
    for section in runbook.split("\n## ").skip(1) {
        for word in ["**Means**", "**Users feel**", "**Look at**", "**do**"] {
            assert!(section.to_lowercase().contains(&word.to_lowercase()), "no {word} in {section}");
        }
    }
}

#[test]
fn every_alert_fires_and_doesnt() {
    succeed(&mut promtool(&["check", "rules", RULES]));
    let said = succeed(&mut promtool(&["test", "rules", TESTS]));
    assert!(said.contains("SUCCESS"), "{said}");
    // promtool says nothing of alerts that no test asks for.
    let tests = yaml(TESTS);
    let (mut fires, mut silent) = (BTreeSet::new(), BTreeSet::new());
    for case in list(&tests, "tests").iter().flat_map(|test| list(test, "alert_rule_test")) {
        let asked = if list(case, "exp_alerts").is_empty() { &mut silent } else { &mut fires };
        asked.insert(text(case, "alertname").to_owned());
    }
    let alerts: BTreeSet<String> = alerts().iter().map(|alert| text(alert, "alert").to_owned()).collect();
    assert_eq!(fires, alerts);
    assert_eq!(silent, alerts);
}

#[test]
fn the_dashboard_is_whole() {
    let dashboard = dashboard();
    let variables: Vec<&str> = list(&dashboard["templating"], "list").iter().map(|variable| text(variable, "name")).collect();
    assert_eq!(variables, ["datasource", "job", "replica"]);
    let (mut ids, mut places, mut rows) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for panel in list(&dashboard, "panels") {
        let title = text(panel, "title");
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is taken");
        let at = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{title} is wider than the page");
        for place in (at("y")..at("y") + at("h")).flat_map(|y| (at("x")..at("x") + at("w")).map(move |x| (x, y))) {
            assert!(places.insert(place), "{title} lies on another panel at {place:?}");
        }
        if panel["type"] == "row" {
            rows.push(title);
            continue;
        }
        assert!(text(panel, "description").len() > 8, "{title} has no description");
        assert!(!text(&panel["fieldConfig"]["defaults"], "unit").is_empty(), "{title} has no unit");
        assert!(!list(&panel["fieldConfig"]["defaults"]["thresholds"], "steps").is_empty(), "{title}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        for target in list(panel, "targets") {
            let expression = text(target, "expr");
            assert!(expression.contains("job=~\"$job\", instance=~\"$replica\""), "{title} shows more than was chosen: {expression}");
        }
    }
    let expected = [
        "At a glance",
        "Traffic and goodput",
        "Refusals",
        "Latency",
        "Admission queue",
        "Ledger",
        "Connections and handshakes",
        "Expiries",
        "Key sets",
        "Cluster",
        "Process",
    ];
    assert_eq!(rows, expected);

    // Prometheus reads each expression: as rules, which must be of this form.
    let rules: Vec<Value> = expressions(&dashboard)
        .iter()
        .enumerate()
        .map(|(number, expression)| serde_json::json!({"record": format!("dashboard:expression:{number}"), "expr": filled_in(expression)}))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dashboard.rules.yaml");
    std::fs::write(&path, serde_json::json!({"groups": [{"name": "dashboard", "rules": rules}]}).to_string()).unwrap();
    let said = succeed(&mut promtool(&["check", "rules", path.to_str().unwrap()]));
    assert!(said.contains(&format!("{} rules found", rules.len())), "{said}");
}
