//! Plans for every kind of mesh: what always holds, and whole plans as files (tests/corpus/migrate). `MESHMINT_TEST_WRITE=1` writes them anew.

use std::collections::BTreeMap;
use std::time::Duration;

use time::OffsetDateTime;
use time::macros::datetime;

use super::super::istio::Version;
use super::IMAGE;
use super::facts::{Certificate, Facts, Form, Istiod, Key, Signer, Unread, Ztunnel};
use super::plan::{Part, Plan, Way};
use super::planner::{Choice, plan};

const NOW: OffsetDateTime = datetime!(2026-11-26 12:00 UTC);
const OURS: &str = "meshmint.meshmint-system.svc:443";

fn certificate(id: &str, subject: &str, self_signed: bool) -> Certificate {
    let id = id.repeat(16);
    Certificate { id, subject: subject.to_owned(), not_after: datetime!(2034-03-01 00:00 UTC), self_signed, path_length: (!self_signed).then_some(0) }
}

fn root() -> Certificate {
    certificate("3f", "O=cluster.local", true)
}

fn key(namespace: &str, secret: &str, form: Form, certificate: Certificate) -> Key {
    Key { namespace: namespace.to_owned(), secret: secret.to_owned(), form, certificate: Some(certificate), root: Some(root()), cert_manager: None }
}

fn istiod(key: Key) -> Signer {
    Signer::Istiod { on: true, key }
}

fn istio_csr(key: Option<Key>) -> Signer {
    Signer::IstioCsr {
        namespace: "cert-manager".to_owned(),
        deployment: "cert-manager-istio-csr".to_owned(),
        release: Some("cert-manager-istio-csr".to_owned()),
        version: Some("v0.14.3".to_owned()),
        issuer: "Issuer istio-ca".to_owned(),
        key,
    }
}

/// Everybody that a mesh may be signed by.
fn signers() -> Vec<(&'static str, Signer)> {
    let intermediate = || certificate("7a", "O=Istio, CN=Intermediate CA", false);
    vec![
        ("self-signed", istiod(key("istio-system", "istio-ca-secret", Form::SelfSigned, root()))),
        ("generated", istiod(key("istio-system", "cacerts", Form::Generated, root()))),
        ("plug-in", istiod(key("istio-system", "cacerts", Form::PlugIn, intermediate()))),
        ("tls", istiod(Key { cert_manager: Some("istio-ca".to_owned()), ..key("istio-system", "cacerts", Form::Tls, intermediate()) })),
        ("istio-csr", istio_csr(Some(key("istio-system", "istio-ca", Form::Tls, root())))),
        ("istio-csr-intermediate", istio_csr(Some(key("istio-system", "istio-ca", Form::Tls, intermediate())))),
        ("istio-csr-elsewhere", istio_csr(None)),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mesh {
    Sidecars,
    Ambient,
    Both,
}

fn facts(signer: &Signer, mesh: Mesh) -> Facts {
    let csr = matches!(signer, Signer::IstioCsr { .. });
    let ztunnel = Ztunnel {
        namespace: "istio-system".to_owned(),
        daemon_set: "ztunnel".to_owned(),
        account: "ztunnel".to_owned(),
        version: Version::of("1.30.3"),
        release: Some("ztunnel".to_owned()),
        ca_address: if csr { "cert-manager-istio-csr.cert-manager.svc:443" } else { "istiod.istio-system.svc:15012" }.to_owned(),
    };
    let proxies = BTreeMap::from([("istio-ingress".to_owned(), 2), ("shop".to_owned(), 12)]);
    Facts {
        kubernetes: "v1.34.1".to_owned(),
        signer: signer.clone(),
        key_gone: None,
        istiods: vec![Istiod {
            namespace: "istio-system".to_owned(),
            deployment: "istiod".to_owned(),
            revision: "default".to_owned(),
            version: Version::of("1.30.3"),
            release: Some("istiod".to_owned()),
            cert_provider: "istiod".to_owned(),
            istiod_tls: csr.then(|| "istiod".to_owned()),
        }],
        ztunnels: if mesh == Mesh::Sidecars { Vec::new() } else { vec![ztunnel] },
        proxies: if mesh == Mesh::Ambient { BTreeMap::new() } else { proxies },
        trust_domain: "cluster.local".to_owned(),
        cluster: "Kubernetes".to_owned(),
        token_issuer: Some("https://kubernetes.default.svc.cluster.local".to_owned()),
        audience: "istio-ca".to_owned(),
        new_pods_ask: if csr { "cert-manager-istio-csr.cert-manager.svc:443".to_owned() } else { String::new() },
        lifetime: Duration::from_secs(if csr { 3600 } else { 24 * 3600 }),
        pushes_roots: false,
        roots: vec![root()],
        remote_clusters: Vec::new(),
        unread: Vec::new(),
    }
}

/// The same for somebody who may not read Secrets.
fn without_secrets(mut facts: Facts) -> Facts {
    if let Signer::Istiod { key, .. } | Signer::IstioCsr { key: Some(key), .. } = &mut facts.signer {
        key.certificate = None;
        key.root = None;
    }
    facts.unread.push(Unread {
        what: "the Secrets with istiod's CA in istio-system".to_owned(),
        why: "the API server answered 403: secrets \"cacerts\" is forbidden".to_owned(),
        instead: "Secret istio-ca-secret, by the look of the root in the ConfigMaps".to_owned(),
        fix: "kubectl auth can-i get secrets --namespace istio-system".to_owned(),
    });
    facts
}

fn choice(way: Option<Way>) -> Choice {
    Choice { way, namespace: "meshmint-system".to_owned(), image: IMAGE.to_owned() }
}

fn planned(facts: &Facts, way: Option<Way>) -> Plan<'_> {
    plan(facts, &choice(way), NOW).unwrap()
}

fn text(plan: &Plan<'_>) -> String {
    anstream::adapter::strip_str(&plan.text(&plan.found.lines())).to_string()
}

/// Every plan of every kind of mesh.
fn every(mut look: impl FnMut(&str, &Facts, &Plan<'_>)) {
    for (name, signer) in signers() {
        for mesh in [Mesh::Sidecars, Mesh::Ambient, Mesh::Both] {
            for facts in [facts(&signer, mesh), without_secrets(facts(&signer, mesh))] {
                for way in [Way::KeepRoot, Way::NewRoot, Way::Back] {
                    if way == Way::KeepRoot && facts.key().is_none() {
                        assert!(plan(&facts, &choice(Some(way)), NOW).unwrap_err().contains("--new-root"));
                        continue;
                    }
                    look(&format!("{name} {mesh:?} {way:?}"), &facts, &planned(&facts, Some(way)));
                }
            }
        }
    }
}

/// Values of a chart in a part.
fn of_chart<'a>(part: &'a Part, wanted: &str) -> Option<&'a serde_json::Value> {
    match part {
        Part::Values { chart, values, .. } if *chart == wanted => Some(values),
        _ => None,
    }
}

/// The first step in which something is so.
fn step(plan: &Plan<'_>, is: impl Fn(&Part) -> bool) -> Option<usize> {
    plan.steps.iter().position(|step| step.act.iter().any(&is))
}

fn says(part: &Part, what: &str) -> bool {
    match part {
        Part::Say { text } => text.contains(what),
        Part::Run { commands } => commands.iter().any(|command| command.contains(what)),
        Part::Values { .. } => false,
    }
}

#[test]
fn every_step_has_its_reason_its_end_and_its_way_back() {
    every(|name, facts, plan| {
        for (index, step) in plan.steps.iter().enumerate() {
            let place = format!("{name}: {}", step.title);
            assert!(!step.why.is_empty() && !step.act.is_empty() && !step.done.is_empty(), "{place}");
            assert!(!step.back.is_empty() || (plan.way == Way::Back && index == 0), "{place}");
            let parts = step.act.iter().chain(&step.done).chain(&step.back);
            assert!(parts.into_iter().all(|part| !matches!(part, Part::Run { commands } if commands.is_empty())), "{place}");
        }
        let text = text(plan);
        let others = text.lines().filter(|line| line.contains("helm upgrade") && !line.contains("`") && !line.contains("deploy/helm/meshmint"));
        assert!(others.into_iter().all(|line| line.contains(" --version ")), "{name}: never to another version than it has");
        let upgrades: Vec<_> = text.lines().filter(|line| line.contains("helm upgrade meshmint ")).collect();
        assert!(!upgrades.is_empty() && upgrades.iter().all(|line| line.contains(" --reuse-values ")), "{name}: the operator's own values stay");
        let issuers = matches!(facts.signer, Signer::IstioCsr { .. }) || facts.key().is_some_and(|key| key.cert_manager.is_some());
        let deletes = |secret: &str| text.lines().any(|line| line.contains("kubectl ") && line.contains(&format!("delete secret {secret}")));
        if let Some(key) = facts.key() {
            assert_eq!(deletes(&key.secret), !issuers && plan.way != Way::Back, "{name}: an issuer may sign for others, too");
        }
        let overwrites = text.lines().filter(|line| line.contains(" patch secret ") || line.contains("--from-file=ca.pem="));
        assert!(overwrites.into_iter().all(|line| line.trim().starts_with("grep -q 'BEGIN CERTIFICATE' ")), "{name}: never by an empty file");
        assert!(!text.contains("-----BEGIN ") && !text.contains("\u{1b}"), "{name}: {text}");
        assert_eq!(text.contains("ztunnel"), !facts.ztunnels.is_empty() || plan.way == Way::NewRoot, "{name}: {text}");
        let json: serde_json::Value = serde_json::from_str(&plan.json().unwrap()).unwrap();
        assert_eq!(json["steps"].as_array().unwrap().len(), plan.steps.len(), "{name}");
    });
}

/// Nobody asks before everybody trusts, nobody stops to sign before nobody asks him, and meshmint writes nothing before it is alone.
#[test]
fn the_order_is_the_promise() {
    every(|name, facts, plan| {
        if plan.way == Way::Back {
            return;
        }
        let address = step(plan, |part| of_chart(part, "istiod").is_some_and(|values| values["global"]["caAddress"] == OURS)).unwrap();
        let ztunnel = step(plan, |part| of_chart(part, "ztunnel").is_some_and(|values| values["caAddress"] == OURS));
        let restart = step(plan, |part| says(part, "rollout restart deployment,statefulset,daemonset")).unwrap();
        let alone = step(plan, |part| of_chart(part, "meshmint").is_some_and(|values| values["app"]["controller"]["rootConfigMap"] == true)).unwrap();
        let off = step(plan, |part| of_chart(part, "istiod").is_some_and(|values| values["pilot"]["env"]["ENABLE_CA_SERVER"] == "false"));
        let gone = step(plan, |part| says(part, "helm uninstall cert-manager-istio-csr"));
        assert!(address < restart && restart < alone, "{name}");
        assert_eq!(ztunnel.is_some(), !facts.ztunnels.is_empty(), "{name}");
        assert!(ztunnel.is_none_or(|ztunnel| address < ztunnel && ztunnel < alone), "{name}");
        let ends = if matches!(facts.signer, Signer::Istiod { .. }) { off } else { gone };
        assert_eq!(ends, Some(alone), "{name}: who signed until now ends in the step in which meshmint takes over");
        // In that step istiod's certificate is there before istiod is started without its CA.
        if let (Some(off), Some(step)) = (off, plan.steps.get(alone)) {
            let wait = step.act.iter().position(|part| says(part, "get secret istiod-tls")).unwrap();
            let end = step.act.iter().position(|part| of_chart(part, "istiod").is_some()).unwrap();
            assert!(off == alone && wait < end, "{name}");
        }
        let add = step(plan, |part| says(part, "authority trust add"));
        let both = step(plan, |part| says(part, "bundle.pem"));
        let wait = step(plan, |part| says(part, "Wait "));
        if plan.way == Way::KeepRoot {
            assert_eq!((add, both, wait), (None, None, None), "{name}");
            assert!(step(plan, |part| says(part, "go-template")).is_some_and(|copy| copy < address), "{name}");
        } else {
            assert!(add < both && both < wait && wait < Some(address) && add.is_some(), "{name}: {add:?} {both:?} {wait:?}");
        }
    });
}

#[test]
fn the_way_back_ends_the_signer_last() {
    every(|name, facts, plan| {
        if plan.way != Way::Back {
            return;
        }
        let on = step(plan, |part| of_chart(part, "istiod").is_some_and(|values| values["pilot"]["env"]["ENABLE_CA_SERVER"] == "true"));
        let address = step(plan, |part| of_chart(part, "istiod").is_some_and(|values| values["global"]["caAddress"] != OURS)).unwrap();
        let restart = step(plan, |part| says(part, "rollout restart deployment,statefulset,daemonset")).unwrap();
        let beside =
            step(plan, |part| of_chart(part, "meshmint").is_some_and(|values| values["app"]["controller"]["rootConfigMap"] == false)).unwrap();
        let uninstall = step(plan, |part| says(part, "helm uninstall meshmint")).unwrap();
        assert_eq!(on.is_some(), matches!(facts.signer, Signer::Istiod { .. }), "{name}");
        assert!(on.is_none_or(|on| on < address) && address < restart && restart < beside && beside < uninstall, "{name}");
    });
}

#[test]
fn istiod_hands_out_on_the_way_back_what_workloads_trust() {
    let (_, signer) = signers().remove(0);
    let mut facts = facts(&signer, Mesh::Sidecars);
    assert!(step(&planned(&facts, Some(Way::Back)), |part| says(part, "cacerts")).is_none(), "the root was kept");
    facts.roots.push(certificate("5c", "O=meshmint", true));
    assert!(step(&planned(&facts, Some(Way::Back)), |part| says(part, "patch secret cacerts")).is_some(), "it was not");
}

#[test]
fn what_suits_and_what_can_not_be_done() {
    let of = |signer: &Signer| facts(signer, Mesh::Sidecars);
    for (name, signer) in signers() {
        let facts = of(&signer);
        let expected = if name == "istio-csr-elsewhere" { Way::NewRoot } else { Way::KeepRoot };
        assert_eq!(planned(&facts, None).way, expected, "{name}");
    }
    let mut ending = root();
    ending.not_after = datetime!(2027-03-01 00:00 UTC);
    let facts_ending = of(&istiod(key("istio-system", "istio-ca-secret", Form::SelfSigned, ending)));
    let plan_ending = planned(&facts_ending, None);
    assert!(plan_ending.way == Way::NewRoot && plan_ending.because.contains("2027-03-01"), "{}", plan_ending.because);

    for (name, signer) in signers() {
        let mut facts = of(&signer);
        if facts.key().is_none() {
            continue;
        }
        facts.roots = vec![certificate("5c", "O=another", true)];
        let plan_other = planned(&facts, None);
        assert!(plan_other.way == Way::NewRoot && plan_other.because.contains("3f3f3f3f3f3f"), "{name}: {}", plan_other.because);
        let refused = plan(&facts, &choice(Some(Way::KeepRoot)), NOW).unwrap_err();
        assert!(refused.contains("workloads don't trust it") && refused.contains("--new-root"), "{name}: {refused}");
        let back = text(&planned(&facts, Some(Way::Back)));
        assert!(back.contains("is not among those that workloads trust"), "{name}: {back}");
        facts.roots.clear();
        let unknown = planned(&facts, None);
        assert!(unknown.way == Way::KeepRoot && unknown.notes.iter().any(|note| note.contains("could not be read")), "{name}: {:?}", unknown.notes);
        assert!(text(&planned(&facts, Some(Way::Back))).contains("is not among those that workloads trust"), "{name}: unknown is no");
    }

    let off = |asks: &str| {
        let Some((_, Signer::Istiod { key, .. })) = signers().into_iter().next() else { panic!("istiod") };
        let mut facts = of(&Signer::Istiod { on: false, key });
        asks.clone_into(&mut facts.new_pods_ask);
        facts
    };
    assert!(plan(&off(OURS), &choice(None), NOW).unwrap_err().contains("has moved"));
    assert!(plan(&off("ca.example:443"), &choice(None), NOW).unwrap_err().contains("no plan for that CA"));
    assert_eq!(planned(&off(OURS), Some(Way::Back)).way, Way::Back);
    let mut csr = of(&istio_csr(None));
    csr.new_pods_ask = "ca.example:443".to_owned();
    assert!(plan(&csr, &choice(None), NOW).unwrap_err().contains("neither its Service"));
    csr.new_pods_ask = OURS.to_owned();
    assert!(plan(&csr, &choice(None), NOW).is_ok(), "in the middle of the way");
}

/// A mesh may trust more than the root that is kept: another cluster's, or the one before.
#[test]
fn every_root_of_today_joins_the_bundle_before_anybody_asks() {
    for (name, signer) in signers() {
        let mut facts = facts(&signer, Mesh::Sidecars);
        facts.roots.push(certificate("5c", "O=another", true));
        for way in [Way::KeepRoot, Way::NewRoot] {
            if way == Way::KeepRoot && facts.key().is_none() {
                continue;
            }
            let plan = planned(&facts, Some(way));
            let added = step(&plan, |part| says(part, "trust add - ") && says(part, "< old-root-2.pem")).unwrap();
            let kept = step(&plan, |part| says(part, "< old-root-1.pem")).is_none();
            assert_eq!(kept, way == Way::KeepRoot, "{name} {way:?}");
            let address = step(&plan, |part| of_chart(part, "istiod").is_some()).unwrap();
            assert!(added < address, "{name} {way:?}");
            facts_step(&plan, address, &facts);
        }
    }
}

/// The note about other clusters counts the steps as the plan does.
fn facts_step(plan: &Plan<'_>, address: usize, facts: &Facts) {
    let mut facts = facts.clone();
    facts.remote_clusters = vec!["west".to_owned()];
    let notes = planned(&facts, Some(plan.way)).notes.join("\n");
    assert!(notes.contains(&format!("before step {};", address + 1)), "{notes}");
}

#[test]
fn there_is_no_way_to_a_ca_that_is_gone() {
    for (name, signer) in signers() {
        let mut facts = without_secrets(facts(&signer, Mesh::Sidecars));
        facts.key_gone = Some("istio-system/cacerts".to_owned());
        let refused = plan(&facts, &choice(Some(Way::Back)), NOW).unwrap_err();
        assert!(refused.contains("istio-system/cacerts) is gone") && refused.contains("istio-csr first"), "{name}: {refused}");
        assert!(plan(&facts, &choice(Some(Way::KeepRoot)), NOW).unwrap_err().contains("--new-root"), "{name}");
        let new = planned(&facts, None);
        let warned = new.notes.iter().any(|note| note.contains("its key is elsewhere"));
        assert_eq!((new.way, warned), (Way::NewRoot, matches!(signer, Signer::Istiod { .. })), "{name}");
    }
}

#[test]
fn notes_name_what_stands_in_the_way() {
    let (_, signer) = signers().remove(2);
    let mut facts = facts(&signer, Mesh::Both);
    facts.istiods[0].version = Version::of("1.25.1");
    facts.istiods[0].cert_provider = "custom".to_owned();
    facts.ztunnels[0].version = Version::of("1.24.0");
    facts.remote_clusters = vec!["west".to_owned()];
    facts.token_issuer = None;
    let new = text(&planned(&facts, Some(Way::NewRoot)));
    for said in [
        "only one root of several",
        "before 1.25.2",
        "PILOT_CERT_PROVIDER=custom",
        "Other clusters (west)",
        "app.tokens.issuers",
        "multiCluster",
        "rollout restart daemonset/ztunnel",
    ] {
        assert!(new.contains(said), "{said}: {new}");
    }
    let keep = text(&planned(&facts, Some(Way::KeepRoot)));
    assert!(keep.contains("pathlen:0") && !keep.contains("before 1.25.2"), "{keep}");
}

#[test]
fn the_control_plane_is_not_restarted_with_a_gateway_beside_it() {
    let (_, signer) = signers().remove(0);
    let mut facts = facts(&signer, Mesh::Both);
    facts.proxies.insert("istio-system".to_owned(), 1);
    let text = text(&planned(&facts, Some(Way::KeepRoot)));
    assert!(text.contains("kubectl --namespace istio-system rollout restart deployment/NAME"), "{text}");
    assert!(text.contains("kubectl --namespace shop rollout restart deployment,statefulset,daemonset"), "{text}");
    assert!(!text.contains("kubectl --namespace istio-system rollout restart deployment,"), "{text}");
}

#[test]
fn no_name_of_the_cluster_is_more_than_a_word_for_the_shell() {
    let (_, signer) = signers().remove(0);
    let mut facts = facts(&signer, Mesh::Both);
    facts.istiods[0].release = Some("x; reboot #".to_owned());
    facts.ztunnels[0].release = Some("$(reboot)".to_owned());
    facts.ztunnels[0].version = None;
    facts.trust_domain = "mesh\u{1b}[2J".to_owned();
    facts.cluster = "east\r\u{7}".to_owned();
    facts.remote_clusters = vec!["west\u{9b}1m\nrm".to_owned()];
    let raw = planned(&facts, Some(Way::NewRoot)).text(&facts.lines());
    assert!(raw.contains("other clusters: west\\u{9b}1m\\nrm") && raw.contains("trust domain mesh\\u{1b}[2J, cluster east\\r\\u{7}"), "{raw}");
    assert!(!anstream::adapter::strip_str(&raw).to_string().contains(|letter: char| letter.is_control() && letter != '\n'), "{raw}");
    let text = text(&planned(&facts, Some(Way::NewRoot)));
    assert!(text.contains("helm upgrade 'x; reboot #' istio/istiod") && text.contains("helm upgrade '$(reboot)' istio/ztunnel"), "{text}");
    assert!(text.contains("--version VERSION") && text.contains("`helm list`"), "never to another version than it has: {text}");
}

#[test]
fn whole_plans_are_as_in_the_corpus() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/migrate");
    let all: BTreeMap<_, _> = signers().into_iter().collect();
    let cases = [
        ("self-signed", Way::KeepRoot, Mesh::Both, true),
        ("self-signed", Way::NewRoot, Mesh::Sidecars, true),
        ("self-signed", Way::KeepRoot, Mesh::Sidecars, false),
        ("plug-in", Way::KeepRoot, Mesh::Sidecars, true),
        ("plug-in", Way::NewRoot, Mesh::Both, true),
        ("istio-csr", Way::KeepRoot, Mesh::Both, true),
        ("istio-csr-elsewhere", Way::NewRoot, Mesh::Ambient, true),
        ("self-signed", Way::Back, Mesh::Both, true),
        ("plug-in", Way::Back, Mesh::Sidecars, true),
        ("istio-csr", Way::Back, Mesh::Sidecars, true),
    ];
    let mut names = Vec::new();
    for (signer, way, mesh, may_read) in cases {
        let facts = facts(&all[signer], mesh);
        let facts = if may_read { facts } else { without_secrets(facts) };
        let name = format!("{signer}-{way:?}-{mesh:?}{}.txt", if may_read { "" } else { "-without-secrets" }).to_lowercase();
        let path = format!("{folder}/{name}");
        let text = text(&planned(&facts, Some(way)));
        if std::env::var_os("MESHMINT_TEST_WRITE").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), text, "{path}");
        names.push(name);
    }
    let mut there: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    there.sort();
    assert_eq!(there, names, "no file is left over");
}
