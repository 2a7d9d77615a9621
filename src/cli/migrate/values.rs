//! The values for the charts of meshmint, istiod, ztunnel and istio-csr that a plan prints.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::facts::{Facts, Form, Istiod, Key};

/// The Secret in meshmint's namespace that an authority is imported from.
pub(super) const IMPORT: &str = "meshmint-import";

/// meshmint's chart at its installation, beside another CA; with `key` its authority is imported.
pub(super) fn meshmint(facts: &Facts, image: &str, key: Option<&Key>) -> Value {
    let Facts { trust_domain, cluster, lifetime, .. } = facts;
    let accounts: Vec<_> = facts.ztunnels.iter().map(|ztunnel| format!("{}/{}", ztunnel.namespace, ztunnel.account)).collect();
    // What nobody could read must be filled in: the chart's own default is some cluster's, and a wrong one refuses every token.
    let issuer = facts.token_issuer.as_deref().unwrap_or("https://FILL-IN.invalid");
    let server = json!({"clusterID": cluster, "caTrustedNodeAccounts": accounts.join(","), "maxCertificateDuration": duration(*lifetime)});
    let tokens = json!({"issuers": [issuer], "audiences": [facts.audience]});
    let tls = json!({"trustDomain": trust_domain});
    let mut app = Map::from_iter([("server".to_owned(), server), ("tokens".to_owned(), tokens), ("tls".to_owned(), tls)]);
    if !facts.remote_clusters.is_empty() {
        app.insert("multiCluster".to_owned(), json!({"enabled": true}));
    }
    if let Some(key) = key {
        app.insert("authority".to_owned(), json!({"import": {"secret": IMPORT, "chain": has_chain(key)}}));
    }
    json!({"image": {"repository": image}, "app": app})
}

/// What changes there where meshmint gives namespaces their roots and istiod its certificate.
pub(super) fn meshmint_alone(facts: &Facts) -> Value {
    let namespace = facts.istiods.first().map_or("istio-system", |istiod| &istiod.namespace);
    let mut revisions: Vec<_> = facts.istiods.iter().filter(|istiod| istiod.namespace == namespace).map(|istiod| &istiod.revision).collect();
    revisions.sort();
    revisions.dedup();
    json!({"app": {
        "tls": {"istiodCertificateEnable": true},
        "controller": {"rootConfigMap": true},
        "istio": {"namespace": namespace, "revisions": revisions},
    }})
}

/// What changes there where another CA does that again. What is off is written: an upgrade keeps what isn't.
pub(super) fn meshmint_beside() -> Value {
    json!({"app": {"tls": {"istiodCertificateEnable": false}, "controller": {"rootConfigMap": false}}})
}

/// What changes there when the copy of the key is deleted.
pub(super) fn meshmint_without_import() -> Value {
    json!({"app": {"authority": {"import": {"secret": ""}}}})
}

/// Whether the Secret has a chain and roots beside the CA's certificate.
pub(super) fn has_chain(key: &Key) -> bool {
    match key.form {
        Form::SelfSigned | Form::Generated => false,
        Form::PlugIn => true,
        // A root's own certificate needs none.
        Form::Tls => key.certificate.as_ref().is_none_or(|certificate| !certificate.self_signed),
    }
}

/// Whole hours where they are, as the chart takes them.
fn duration(lifetime: Duration) -> String {
    match lifetime.as_secs() {
        seconds if seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        seconds if seconds % 60 == 0 => format!("{}m", seconds / 60),
        seconds => format!("{seconds}s"),
    }
}

/// istiod's chart: whom agents ask, and whether istiod signs; `None` where that isn't touched.
pub(super) fn istiod(ca_address: &str, signs: Option<bool>) -> Value {
    let global = json!({"caAddress": ca_address});
    match signs {
        Some(signs) => json!({"global": global, "pilot": {"env": {"ENABLE_CA_SERVER": signs.to_string()}}}),
        None => json!({"global": global}),
    }
}

/// ztunnel's chart.
pub(super) fn ztunnel(ca_address: &str) -> Value {
    json!({"caAddress": ca_address})
}

/// istio-csr's chart: the roots of a ConfigMap in its namespace instead of what its issuer answers.
pub(super) fn istio_csr_roots(map: &str) -> Value {
    json!({
        "app": {"tls": {"rootCAFile": "/var/run/migration-roots/ca.pem"}},
        "volumes": [{"name": "migration-roots", "configMap": {"name": map}}],
        "volumeMounts": [{"name": "migration-roots", "mountPath": "/var/run/migration-roots", "readOnly": true}],
    })
}

/// Where istiod itself answers.
pub(super) fn istiod_address(istiod: &Istiod) -> String {
    let revision = if istiod.revision == "default" { String::new() } else { format!("-{}", istiod.revision) };
    format!("istiod{revision}.{}.svc:15012", istiod.namespace)
}
