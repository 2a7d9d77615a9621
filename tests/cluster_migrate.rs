//! `meshmint migrate plan` against a real API server: meshes as the charts of Istio and istio-csr make them. What it prints is then done, as far as
//! that goes without Istio: commands by a real shell, values by real Helm with the real chart, and meshmint in the chart's pod begins with the key.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/in_cluster.rs"]
mod common;
#[path = "common/helm.rs"]
mod helm;
#[path = "common/sandbox.rs"]
mod sandbox;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use common::api_server::{ApiServer, CLUSTER_ISSUER, free_ports};
use common::cluster::{BoundTo, Client};
use common::csrs::{key_pem, pem};
use common::load::{ask_once, one};
use common::process::meshmint;
use common::{process, tools};
use helm::{Helm, NAMESPACE, chart, configuration, objects, pod};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use sandbox::{Root, Sandbox};
use serde_json::{Value, json};

const SECRETS: &str = "/api/v1/namespaces/istio-system/secrets";
const MAPS: &str = "/api/v1/namespaces/istio-system/configmaps";

/// A CA: its certificate and key, PEM.
struct Ca {
    certificate: String,
    key: String,
}

fn ca_parameters(subject: &[(DnType, &str)]) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    subject.iter().for_each(|(kind, value)| parameters.distinguished_name.push(kind.clone(), *value));
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    parameters
}

/// As istiod makes it for itself.
fn istiods_own() -> Ca {
    let key = KeyPair::generate().unwrap();
    let certificate = ca_parameters(&[(DnType::OrganizationName, "cluster.local")]).self_signed(&key).unwrap();
    Ca { certificate: pem("CERTIFICATE", certificate.der()), key: key_pem(&key) }
}

/// A mesh in an API server.
struct World {
    server: ApiServer,
    admin: Client,
    folder: tempfile::TempDir,
}

fn program(kind: &str, name: &str, image: &str, env: &[(&str, &str)]) -> Value {
    let env: Vec<_> = env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    let labels = json!({"app": name, "istio.io/rev": "default"});
    json!({
        "apiVersion": "apps/v1", "kind": kind,
        "metadata": {"name": name, "labels": labels, "annotations": {"meta.helm.sh/release-name": name, "meta.helm.sh/release-namespace": "istio-system"}},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": labels}, "spec": {"serviceAccountName": name, "containers": [{"name": "main", "image": image, "env": env}]}},
        },
    })
}

fn base64(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}

fn decoded(data: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| String::from_utf8(BASE64_STANDARD.decode(value.as_str().unwrap()).unwrap()).unwrap();
    data.as_object().unwrap().iter().map(|(name, value)| (name.clone(), text(value))).collect()
}

/// What the command printed.
struct Printed {
    code: Option<i32>,
    text: String,
    error: String,
}

impl Printed {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Self { code: output.status.code(), text: text(&output.stdout), error: text(&output.stderr) }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}{}", self.text, self.error))
    }
}

/// All parts of this kind of what is done in a plan's steps.
fn parts<'a>(plan: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    let steps = plan["steps"].as_array().unwrap().iter();
    steps.flat_map(|step| step["do"].as_array().unwrap()).filter(move |part| part["kind"] == kind)
}

/// The values for a chart, in the order of the steps.
fn values<'a>(plan: &'a Value, chart: &'a str) -> Vec<&'a Value> {
    parts(plan, "values").filter(|part| part["chart"] == chart).map(|part| &part["values"]).collect()
}

/// The one command with this in it.
fn command<'a>(plan: &'a Value, with: &str) -> &'a str {
    let commands = parts(plan, "run").flat_map(|part| part["commands"].as_array().unwrap()).map(|command| command.as_str().unwrap());
    let found: Vec<_> = commands.filter(|command| command.contains(with)).collect();
    assert_eq!(found.len(), 1, "{with}: {found:?}");
    found[0]
}

impl World {
    /// A mesh that istiod signs for, with `secret` as its CA.
    async fn start(ca: &Ca, istiod: &[(&str, &str)], ca_address: &str) -> Self {
        let server = ApiServer::start().await;
        let admin = server.admin().await;
        for namespace in ["istio-system", "shop", "cert-manager", NAMESPACE] {
            admin.namespace(namespace).await;
        }
        admin
            .create("/apis/apps/v1/namespaces/istio-system/deployments", &program("Deployment", "istiod", "docker.io/istio/pilot:1.30.3", istiod))
            .await;
        let address = if ca_address.is_empty() { "istiod.istio-system.svc:15012" } else { ca_address };
        let ztunnel = program("DaemonSet", "ztunnel", "docker.io/istio/ztunnel:1.30.3-distroless", &[("CA_ADDRESS", address)]);
        admin.create("/apis/apps/v1/namespaces/istio-system/daemonsets", &ztunnel).await;
        let labels = json!({"istio.io/rev": "default"});
        let mesh = "trustDomain: mesh.example\ndefaultConfig:\n  discoveryAddress: istiod.istio-system.svc:15012\n  proxyMetadata:\n    SECRET_TTL: 12h0m0s\n";
        admin.create(MAPS, &json!({"metadata": {"name": "istio", "labels": labels}, "data": {"mesh": mesh, "meshNetworks": "networks: {}"}})).await;
        let injector = json!({"global": {"caAddress": ca_address, "multiCluster": {"clusterName": "east"}, "sds": {"token": {"aud": "istio-ca"}}}});
        let injector =
            json!({"metadata": {"name": "istio-sidecar-injector", "labels": labels}, "data": {"config": "", "values": injector.to_string()}});
        admin.create(MAPS, &injector).await;
        admin.create(MAPS, &json!({"metadata": {"name": "istio-ca-root-cert"}, "data": {"root-cert.pem": ca.certificate}})).await;
        let proxy = json!({"name": "istio-proxy", "image": "image", "env": [{"name": "CA_ADDR", "value": ca_address}]});
        let cart = json!({"metadata": {"name": "cart-0"}, "spec": {"containers": [{"name": "main", "image": "image"}, proxy]}});
        admin.create("/api/v1/namespaces/shop/pods", &cart).await;
        Self { server, admin, folder: tempfile::tempdir().unwrap() }
    }

    /// A Secret with these entries.
    async fn secret(&self, namespace: &str, name: &str, entries: &[(&str, &str)]) {
        let data: BTreeMap<_, _> = entries.iter().map(|(name, text)| (*name, base64(text))).collect();
        self.admin.create(&format!("/api/v1/namespaces/{namespace}/secrets"), &json!({"metadata": {"name": name}, "data": data})).await;
    }

    fn plan(&self, args: &[&str]) -> Printed {
        self.plan_as(&self.server.admin_kubeconfig(), args)
    }

    fn plan_as(&self, kubeconfig: &Path, args: &[&str]) -> Printed {
        Printed::of(&meshmint(
            &[&["migrate", "plan", "--image", "registry.example/meshmint", "--kubeconfig", kubeconfig.to_str().unwrap()], args].concat(),
        ))
    }

    /// Runs a printed command in a real shell, in a folder with these files; kubectl only notes what it is called with. Returns the calls.
    fn shell(&self, command: &str, files: &[(&str, &str)]) -> Vec<Vec<String>> {
        let at = tempfile::tempdir_in(self.folder.path()).unwrap();
        let (calls, bin) = (at.path().join("calls"), at.path().join("bin"));
        std::fs::create_dir(&calls).unwrap();
        std::fs::create_dir(&bin).unwrap();
        let kubectl = bin.join("kubectl");
        std::fs::write(&kubectl, "#!/bin/sh\nprintf '%s\\0' \"$@\" > \"$CALLS/$$\"\n[ \"$3\" != create ] || cat > /dev/null\n").unwrap();
        std::fs::set_permissions(&kubectl, std::fs::Permissions::from_mode(0o755)).unwrap();
        for (name, text) in files {
            std::fs::write(at.path().join(name), text).unwrap();
        }
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let ran =
            Command::new("sh").args(["-euc", command]).current_dir(at.path()).env("CALLS", &calls).env("PATH", path).stdin(Stdio::null()).output();
        let ran = ran.unwrap();
        assert!(ran.status.success(), "{command}: {}", String::from_utf8_lossy(&ran.stderr));
        let noted = std::fs::read_dir(&calls).unwrap().map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
        noted.map(|call| call.split_terminator('\0').map(str::to_owned).collect()).collect()
    }

    /// What a printed copy of a Secret makes of it: its go-template, by the engine of Go that Helm has.
    async fn copied(&self, helm: &Helm, command: &str) -> Value {
        let calls = self.shell(command, &[]);
        let get = calls.iter().find(|call| call.get(2).is_some_and(|verb| verb == "get")).unwrap_or_else(|| panic!("{calls:?}"));
        assert!(calls.iter().any(|call| call[2..] == ["create", "--filename", "-"]), "{calls:?}");
        let secret = self.admin.get(&format!("/api/v1/namespaces/{}/secrets/{}", get[1], get[4])).await;
        let template = get[6].strip_prefix("go-template=").unwrap();
        let chart = tempfile::tempdir_in(self.folder.path()).unwrap();
        std::fs::create_dir(chart.path().join("templates")).unwrap();
        std::fs::write(chart.path().join("Chart.yaml"), "apiVersion: v2\nname: copy\nversion: 0.0.1\n").unwrap();
        let evaluate = "{{ tpl .Values.template (dict \"data\" .Values.data \"Template\" .Template) }}\n";
        std::fs::write(chart.path().join("templates/copy.yaml"), evaluate).unwrap();
        let values = helm.values(&json!({"template": template, "data": secret["data"]}));
        let made = helm.succeed(&["template", "copy", chart.path().to_str().unwrap(), "--values", values.to_str().unwrap()]);
        objects(&made).remove(0)
    }
}

/// Values over others, as `--reuse-values` has them.
fn merge(under: &mut Value, over: &Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            over.iter().for_each(|(name, value)| merge(under.entry(name.as_str()).or_insert(Value::Null), value))
        }
        (under, over) => *under = over.clone(),
    }
}

/// The printed values of our chart, each over those before, are taken by its schema and become a configuration that meshmint takes.
fn assert_values_render(helm: &Helm, plan: &Value) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("meshmint.yaml");
    let all = values(plan, "meshmint");
    assert!(all.len() >= 2, "{plan:#}");
    let mut so_far = json!({});
    let render = |values: &&Value| {
        merge(&mut so_far, values);
        let text = configuration(&helm.render(&so_far));
        std::fs::write(&file, &text).unwrap();
        let checked = meshmint(&["config", "check", "--elsewhere", file.to_str().unwrap()]);
        assert!(checked.status.success(), "{so_far:#}: {}", String::from_utf8_lossy(&checked.stderr));
        serde_saphyr::from_str(&text).unwrap()
    };
    all.iter().map(render).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn istiods_own_key_is_handed_over_as_planned() {
    let ca = istiods_own();
    let world = World::start(&ca, &[], "").await;
    // As istiod writes it.
    let entries = [("ca-cert.pem", &*ca.certificate), ("ca-key.pem", &*ca.key), ("root-cert.pem", &*ca.certificate), ("cert-chain.pem", "")];
    world.secret("istio-system", "istio-ca-secret", &entries).await;
    let remote = json!({
        "metadata": {"name": "istio-remote-secret-west", "labels": {"istio/multiCluster": "true"}, "annotations": {"networking.istio.io/cluster": "west"}},
        "data": {"west": base64("a kubeconfig with a token-of-another-cluster")},
    });
    world.admin.create(SECRETS, &remote).await;

    let printed = world.plan(&["-o", "json"]);
    assert_eq!((printed.code, printed.error.as_str()), (Some(0), ""), "{}", printed.text);
    let plan = printed.json();
    let found = &plan["found"];
    assert_eq!(plan["way"], "keepRoot");
    assert_eq!(
        (&found["trustDomain"], &found["cluster"], &found["lifetime"]),
        (&json!("mesh.example"), &json!("east"), &json!(12 * 3600)),
        "{found:#}"
    );
    assert_eq!((&found["tokenIssuer"], &found["remoteClusters"]), (&json!(CLUSTER_ISSUER), &json!(["west"])));
    assert_eq!(
        (&found["signer"]["on"], &found["signer"]["key"]["secret"], &found["signer"]["key"]["form"]),
        (&json!(true), &json!("istio-ca-secret"), &json!("selfSigned"))
    );
    assert_eq!(
        (&found["istiods"][0]["version"], &found["ztunnels"][0]["version"], &found["proxies"]),
        (&json!("1.30.3"), &json!("1.30.3"), &json!({"shop": 1}))
    );
    let secrets = [&*ca.key, &*base64(&ca.key), "token-of-another-cluster"];
    for args in [&[][..], &["--new-root"], &["--back"], &["-o", "json"]] {
        let printed = world.plan(args);
        assert!(
            printed.code == Some(0) && !secrets.iter().any(|secret| printed.text.contains(secret)),
            "{args:?}: {}{}",
            printed.text,
            printed.error
        );
    }
    let helm = Helm::new();
    let rendered = assert_values_render(&helm, &plan);
    assert_eq!(rendered[0]["tokens"]["trustedNodeAccounts"], json!(["istio-system/ztunnel"]));
    assert_eq!((&rendered[0]["certificates"]["maxLifetime"], &rendered[0]["controllers"]), (&json!("12h"), &Value::Null));
    assert_eq!(rendered[1]["controllers"]["istiod"]["namespace"], "istio-system");
    assert!(rendered[0]["authority"]["import"].is_object() && rendered.last().unwrap()["authority"].is_null(), "{rendered:#?}");
    assert_eq!(rendered[0]["cluster"]["remoteSecretsNamespace"], NAMESPACE);

    // Step 1 as it is printed, then step 2 with the values as they are printed; only ports are this machine's.
    let copy = world.copied(&helm, command(&plan, "go-template")).await;
    assert_eq!(copy["metadata"], json!({"name": "meshmint-import"}));
    world.admin.create(&format!("/api/v1/namespaces/{NAMESPACE}/secrets"), &copy).await;
    let [csr, health, metrics] = free_ports();
    let ports = helm.values(&json!({"app": {
        "server": {"serving": {"port": csr}}, "readinessProbe": {"port": health}, "metrics": {"port": metrics}, "tls": {"certificateDNSNames": ["localhost"]},
    }}));
    let (first, kubeconfig) = (helm.values(values(&plan, "meshmint")[0]), world.server.admin_kubeconfig());
    let (chart, kubeconfig) = (chart(), kubeconfig.to_str().unwrap());
    let arguments = ["--namespace", NAMESPACE, "--values", first.to_str().unwrap(), "--values", ports.to_str().unwrap(), "--kubeconfig", kubeconfig];
    helm.succeed(&[&["install", "meshmint", chart.to_str().unwrap()], arguments.as_slice()].concat());
    let manifest = objects(&helm.succeed(&["get", "manifest", "meshmint", "--namespace", NAMESPACE, "--kubeconfig", kubeconfig]));
    let token = world.admin.own_token().await;
    let files = BTreeMap::from([
        ("meshmint".to_owned(), BTreeMap::from([("meshmint.yaml".to_owned(), configuration(&manifest))])),
        ("meshmint-import".to_owned(), decoded(&copy["data"])),
    ]);
    let sandbox = Sandbox::new(pod(&manifest), &files, (&token, &world.server.ca(), world.server.port()));
    let meshmint = Root::Program(Path::new(env!("CARGO_BIN_EXE_meshmint")));
    let mut container = sandbox.start(&meshmint);
    container.ready(&format!("127.0.0.1:{health}"));
    let admin = ["--admin", "/run/meshmint/admin.sock"];
    let said = |args: &[&str]| String::from_utf8(sandbox.run(&meshmint, &[args, &admin].concat()).stdout).unwrap();
    let bundle = said(&["bundle"]);
    assert_eq!(one(&bundle), one(&ca.certificate), "everybody goes on trusting istiod's root");
    let id = found["signer"]["key"]["certificate"]["id"].as_str().unwrap();
    assert!(said(&["authority", "list"]).contains(id), "the plan says how to recognise it");
    world.admin.workload("pay").await;
    let workload = world.admin.workload_token("pay").await;
    let answer = ask_once(format!("127.0.0.1:{csr}").parse().unwrap(), &ca.certificate, Some(&workload)).await.unwrap();
    answer.verify().expect("a workload that trusts only istiod's root believes it");
    assert_eq!(container.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_root_is_handed_out_by_istiod_as_planned() {
    let ca = istiods_own();
    let world = World::start(&ca, &[("ISTIO_MULTIROOT_MESH", "true")], "").await;
    world.secret("istio-system", "istio-ca-secret", &[("ca-cert.pem", &ca.certificate), ("ca-key.pem", &ca.key)]).await;
    let helm = Helm::new();
    let printed = world.plan(&["--new-root", "-o", "json"]);
    let plan = printed.json();
    let rendered = assert_values_render(&helm, &plan);
    assert!(rendered.iter().all(|configuration| configuration["authority"].is_null()), "{rendered:#?}");

    // istiod's own CA becomes a plugged-in one with both roots beside it.
    let both = istiods_own().certificate + &ca.certificate;
    let copy = world.copied(&helm, command(&plan, "go-template")).await;
    world.admin.create(SECRETS, &copy).await;
    let patch = async |command: &str, files: &[(&str, &str)]| {
        let calls = world.shell(command, files);
        assert_eq!(calls.len(), 1, "{calls:?}");
        let [_, namespace, _, _, name, _, kind, _, patch] = &calls[0][..] else { panic!("{calls:?}") };
        assert_eq!(kind, "merge");
        let patch: Value = serde_json::from_str(patch).unwrap();
        decoded(&world.admin.patch(&format!("/api/v1/namespaces/{namespace}/secrets/{name}"), &patch).await["data"])
    };
    let made = patch(command(&plan, "patch secret"), &[("bundle.pem", &both)]).await;
    let expected = [("ca-cert.pem", &ca.certificate), ("ca-key.pem", &ca.key), ("cert-chain.pem", &ca.certificate), ("root-cert.pem", &both)];
    assert_eq!(made, expected.map(|(name, text)| (name.to_owned(), text.clone())).into(), "all four, or istiod refuses to start");

    // Now it is plugged in: the next plan is about that Secret, and keeps its four entries together.
    let again = world.plan(&["--new-root", "-o", "json"]).json();
    assert_eq!((&again["found"]["signer"]["key"]["secret"], &again["found"]["signer"]["key"]["form"]), (&json!("cacerts"), &json!("plugIn")));
    assert!(command(&again, "rollout restart deployment/istiod").contains("istio-system"), "also with ISTIO_MULTIROOT_MESH: {again:#}");
    let made = patch(command(&again, "patch secret"), &[("bundle.pem", &ca.certificate)]).await;
    assert_eq!(made["root-cert.pem"], ca.certificate);
    let keep = world.plan(&["--keep-root", "-o", "json"]).json();
    let copy = world.copied(&helm, command(&keep, "go-template")).await;
    assert_eq!(decoded(&copy["data"]), made);
    assert_eq!(assert_values_render(&helm, &keep)[0]["authority"]["import"].as_object().unwrap().len(), 4);
}

/// cert-manager's kinds: only their names, so that objects of them can be stored.
async fn cert_managers_kinds(admin: &Client) {
    for (plural, kind, scope) in [("issuers", "Issuer", "Namespaced"), ("clusterissuers", "ClusterIssuer", "Cluster")] {
        let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
        let names = json!({"plural": plural, "singular": kind.to_lowercase(), "kind": kind});
        let spec = json!({"group": "cert-manager.io", "scope": scope, "names": names, "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}]});
        let body = json!({"metadata": {"name": format!("{plural}.cert-manager.io")}, "spec": spec});
        admin.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &body).await;
        let served = async {
            while admin.text(&format!("/apis/cert-manager.io/v1/{plural}")).await.is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        assert!(tokio::time::timeout(process::PATIENCE, served).await.is_ok(), "{plural}");
    }
}

/// With a ConfigMap that may name another issuer while it runs.
fn istio_csr(runtime: &str) -> Value {
    let mut csr = program("Deployment", "cert-manager-istio-csr", "quay.io/jetstack/cert-manager-istio-csr:v0.14.3", &[]);
    csr["spec"]["template"]["spec"]["containers"][0]["args"] = json!([
        "--log-level=1",
        "--certificate-namespace=istio-system",
        "--issuer-enabled=true",
        "--issuer-kind=Issuer",
        "--issuer-name=istio-ca",
        "--issuer-group=cert-manager.io",
        "--root-ca-file=",
        "--max-client-certificate-duration=1h",
        format!("--runtime-issuance-config-map-name={runtime}"),
        "--runtime-issuance-config-map-namespace=cert-manager",
    ]);
    csr
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn istio_csr_and_its_issuer_are_found() {
    const CSR: &str = "cert-manager-istio-csr.cert-manager.svc:443";
    let root = KeyPair::generate().unwrap();
    let root_parameters = ca_parameters(&[(DnType::CommonName, "company root")]);
    let root_pem = pem("CERTIFICATE", root_parameters.self_signed(&root).unwrap().der());
    let key = KeyPair::generate().unwrap();
    let issuer = ca_parameters(&[(DnType::CommonName, "istio-ca")]).signed_by(&key, &Issuer::new(root_parameters, root)).unwrap();
    let ca = Ca { certificate: pem("CERTIFICATE", issuer.der()), key: key_pem(&key) };
    let world = World::start(&Ca { certificate: root_pem.clone(), key: String::new() }, &[("ENABLE_CA_SERVER", "false")], CSR).await;
    cert_managers_kinds(&world.admin).await;
    let deployments = "/apis/apps/v1/namespaces/cert-manager/deployments";
    world.admin.create(deployments, &istio_csr("")).await;
    let issuer =
        json!({"apiVersion": "cert-manager.io/v1", "kind": "Issuer", "metadata": {"name": "istio-ca"}, "spec": {"ca": {"secretName": "istio-ca"}}});
    world.admin.create("/apis/cert-manager.io/v1/namespaces/istio-system/issuers", &issuer).await;
    world.secret("istio-system", "istio-ca", &[("tls.crt", &ca.certificate), ("tls.key", &ca.key), ("ca.crt", &root_pem)]).await;
    let annotations = json!({"cert-manager.io/certificate-name": "istiod"});
    world.admin.create(SECRETS, &json!({"metadata": {"name": "istiod-tls", "annotations": annotations}})).await;

    let helm = Helm::new();
    let plan = world.plan(&["-o", "json"]).json();
    assert_eq!(
        (&plan["way"], &plan["found"]["signer"]["kind"], &plan["found"]["signer"]["issuer"]),
        (&json!("keepRoot"), &json!("istioCsr"), &json!("Issuer istio-ca"))
    );
    assert_eq!((&plan["found"]["lifetime"], &plan["found"]["unread"]), (&json!(3600), &json!([])), "{plan:#}");
    let rendered = assert_values_render(&helm, &plan);
    assert_eq!(rendered[0]["certificates"]["maxLifetime"], "1h");
    let copy = world.copied(&helm, command(&plan, "go-template")).await;
    let expected = [("ca-cert.pem", &ca.certificate), ("ca-key.pem", &ca.key), ("cert-chain.pem", &ca.certificate), ("root-cert.pem", &root_pem)];
    assert_eq!(decoded(&copy["data"]), expected.map(|(name, text)| (name.to_owned(), text.clone())).into());
    assert!(command(&plan, "delete certificate").contains("delete certificate istiod "), "{plan:#}");
    let back = world.plan(&["--back"]);
    assert!(back.code == Some(0) && back.text.contains(&format!("caAddress: {CSR}")), "{}", back.text);

    // A key that leads to a root that workloads don't trust isn't handed over.
    world.admin.patch(&format!("{MAPS}/istio-ca-root-cert"), &json!({"data": {"root-cert.pem": istiods_own().certificate}})).await;
    let refused = world.plan(&["--keep-root"]);
    assert!(refused.code == Some(1) && refused.error.contains("company root") && refused.error.contains("don't trust it"), "{}", refused.error);
    assert_eq!(world.plan(&["-o", "json"]).json()["way"], "newRoot");

    // One without pods signs nothing: then it is istiod, whose CA is off.
    let mut idle = istio_csr("");
    idle["spec"]["replicas"] = json!(0);
    world.admin.ask("PUT", &format!("{deployments}/cert-manager-istio-csr"), "application/json", &idle).await.unwrap();
    let nobody = world.plan(&[]);
    assert!(nobody.code == Some(1) && nobody.error.contains("istiod's CA is off"), "{}{}", nobody.text, nobody.error);

    // What its run-time configuration says goes before its flags. Another type of issuer has its key elsewhere.
    let runtime = json!({"issuer-kind": "ClusterIssuer", "issuer-name": "vault", "issuer-group": "cert-manager.io"});
    world.admin.create("/api/v1/namespaces/cert-manager/configmaps", &json!({"metadata": {"name": "runtime"}, "data": runtime})).await;
    let vault =
        json!({"apiVersion": "cert-manager.io/v1", "kind": "ClusterIssuer", "metadata": {"name": "vault"}, "spec": {"vault": {"path": "pki"}}});
    world.admin.create("/apis/cert-manager.io/v1/clusterissuers", &vault).await;
    world.admin.ask("PUT", &format!("{deployments}/cert-manager-istio-csr"), "application/json", &istio_csr("runtime")).await.unwrap();
    let plan = world.plan(&["-o", "json"]).json();
    assert_eq!((&plan["way"], &plan["found"]["signer"]["key"]), (&json!("newRoot"), &Value::Null));
    assert!(assert_values_render(&helm, &plan).iter().all(|configuration| configuration["authority"].is_null()));
    let refused = world.plan(&["--keep-root"]);
    assert!(refused.code == Some(1) && refused.error.contains("--new-root"), "{}", refused.error);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_not_be_read_is_told_and_the_plan_goes_on() {
    let ca = istiods_own();
    let world = World::start(&ca, &[], "").await;
    world.secret("istio-system", "istio-ca-secret", &[("ca-cert.pem", &ca.certificate), ("ca-key.pem", &ca.key)]).await;
    world.admin.account("shop", "alice").await;
    let token = world.admin.token("shop", "alice", BoundTo::Nothing, CLUSTER_ISSUER, 3600).await;
    let alice = world.server.kubeconfig("alice", &token, world.server.port());
    let nothing = world.plan_as(&alice, &[]);
    assert!(nothing.code == Some(1) && nothing.error.contains("kubectl auth can-i list deployments"), "{}{}", nothing.text, nothing.error);

    let rules = json!([
        {"apiGroups": ["apps"], "resources": ["deployments", "daemonsets"], "verbs": ["list"]},
        {"apiGroups": [""], "resources": ["namespaces", "configmaps", "pods"], "verbs": ["list"]},
    ]);
    let kind = "/apis/rbac.authorization.k8s.io/v1/clusterrole";
    world.admin.create(&format!("{kind}s"), &json!({"metadata": {"name": "looks"}, "rules": rules})).await;
    let binding = json!({
        "metadata": {"name": "looks"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "looks"},
        "subjects": [{"kind": "ServiceAccount", "name": "alice", "namespace": "shop"}],
    });
    world.admin.create(&format!("{kind}bindings"), &binding).await;
    common::wait_until("RBAC to go by it", || world.plan_as(&alice, &[]).code == Some(3)).await;
    let plan = world.plan_as(&alice, &["-o", "json"]).json();
    assert_eq!((&plan["way"], &plan["found"]["signer"]["key"]["secret"]), (&json!("keepRoot"), &json!("istio-ca-secret")), "by the look of the root");
    let unread: Vec<_> = plan["found"]["unread"].as_array().unwrap().iter().map(|each| each["what"].as_str().unwrap()).collect();
    assert_eq!(unread, ["Secrets that name other clusters", "the Secrets with istiod's CA in istio-system"], "{plan:#}");
    assert!(plan["found"]["unread"][1]["fix"] == "kubectl auth can-i get secrets --namespace istio-system", "{plan:#}");
    assert_values_render(&Helm::new(), &plan);
    let text = world.plan_as(&alice, &[]).text;
    assert!(text.contains("Not read") && text.contains("403") && text.contains("\n1. Copy the CA's key"), "{text}");

    // Nobody asks an istio-csr that runs beside istiod's CA, and what is called as istiod's elsewhere is not its.
    world.admin.create("/apis/apps/v1/namespaces/shop/deployments", &istio_csr("")).await;
    let labels = json!({"istio.io/rev": "default"});
    let other = json!({"metadata": {"name": "a-mesh", "labels": labels}, "data": {"mesh": "trustDomain: other.example"}});
    world.admin.create("/api/v1/namespaces/cert-manager/configmaps", &other).await;
    let remote = json!({"metadata": {"name": "west", "labels": {"istio/multiCluster": "true"}}});
    world.admin.create("/api/v1/namespaces/shop/secrets", &remote).await;
    let found = world.plan(&["-o", "json"]).json()["found"].take();
    assert_eq!((&found["signer"]["kind"], &found["trustDomain"], &found["remoteClusters"]), (&json!("istiod"), &json!("mesh.example"), &json!([])));

    // A Secret that is gone is told from one that may not be read.
    assert_eq!(world.plan_as(&alice, &["--back"]).code, Some(3));
    world.admin.delete(&format!("{SECRETS}/istio-ca-secret"), 0).await;
    let back = world.plan(&["--back"]);
    assert!(back.code == Some(1) && back.error.contains("istio-ca-secret) is gone"), "{}{}", back.text, back.error);

    world.admin.create("/apis/apps/v1/namespaces/shop/deployments", &program("Deployment", "istiod", "docker.io/istio/pilot:1.30.3", &[])).await;
    let two = world.plan(&[]);
    assert!(two.code == Some(1) && two.error.contains("several namespaces (istio-system and shop)"), "{}", two.error);
    world.admin.delete("/apis/apps/v1/namespaces/shop/deployments/istiod", 0).await;

    world.admin.delete("/apis/apps/v1/namespaces/istio-system/deployments/istiod", 0).await;
    let none = world.plan(&[]);
    assert!(none.code == Some(1) && none.error.contains("there is no istiod"), "{}", none.error);
    let away = Printed::of(&meshmint(&["migrate", "plan", "--kubeconfig", "/nowhere/at-all"]));
    assert!(away.code == Some(1) && away.error.contains("can't be looked at"), "{}", away.error);
}
