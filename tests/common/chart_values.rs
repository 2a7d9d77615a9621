//! Sets of values for the chart, one for each thing that an operator may want. Every one must render, be accepted by meshmint, and be taken by the API
//! server.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "every suite uses its own part")]

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// The one value without a default.
fn image() -> Value {
    json!({"image": {"repository": "registry.example/meshmint"}})
}

/// Sets of values that an operator may want, each over the image alone.
pub fn value_sets() -> BTreeMap<&'static str, Value> {
    let postgres = json!({"url": "postgresql://meshmint@db.example/meshmint", "passwordSecret": {"name": "db"}, "caSecret": {"name": "db-ca", "key": "roots.pem"}});
    let mut spool = postgres.clone();
    spool["onOutage"] = json!("spool");
    BTreeMap::from([
        ("defaults", json!({})),
        ("sidecars only", json!({"app": {"server": {"caTrustedNodeAccounts": ""}}})),
        ("several node accounts", json!({"app": {"server": {"caTrustedNodeAccounts": "istio-system/ztunnel, kube-system/ztunnel"}}})),
        ("short certificates", json!({"app": {"server": {"maxCertificateDuration": "1h"}, "tls": {"certificateDuration": "1h"}}})),
        ("two lifetimes", json!({"app": {"server": {"maxCertificateDuration": "7d", "defaultCertificateDuration": "12h30m"}}})),
        ("another trust domain", json!({"app": {"tls": {"trustDomain": "mesh.example"}, "server": {"clusterID": "east"}}})),
        (
            "names and ports",
            json!({
                "fullnameOverride": "mesh-ca",
                "service": {"type": "LoadBalancer", "port": 15012, "annotations": {"example.com/internal": "true"}},
                "app": {"tls": {"certificateDNSNames": ["ca.mesh.example", "mesh-ca.meshmint-system.svc"]},
                    "server": {"serving": {"port": 6443}, "drainSeconds": 45}, "metrics": {"port": 15014}, "readinessProbe": {"port": 6060}},
            }),
        ),
        (
            "managed cluster",
            json!({"app": {"tokens": {"issuers": ["https://issuer.example/id/1", "https://kubernetes.default.svc"], "audiences": ["istio-ca", "mesh"]}}}),
        ),
        ("several clusters", json!({"app": {"multiCluster": {"enabled": true}}})),
        ("imported chain", json!({"app": {"authority": {"import": {"secret": "cacerts"}}}})),
        ("imported root", json!({"app": {"authority": {"import": {"secret": "istio-ca-secret", "chain": false}}}})),
        ("postgres", json!({"postgres": postgres})),
        ("postgres with a spool", json!({"postgres": spool})),
        ("postgres without TLS", json!({"postgres": {"url": "postgresql://meshmint@127.0.0.1:5432/meshmint?sslmode=disable"}})),
        (
            "more configuration",
            json!({"config": {
                "server": {"maxConnections": 1_000_000, "requestTimeout": "5s"}, "certificates": {"jitter": "5%"}, "tokens": {"clockSkew": "10s", "verification": "tokenReview"},
                "authority": {"keyAlgorithm": "p384"}, "ledger": {"retention": "90d"}, "cluster": {"aliases": ["Kubernetes", "east"]},
            }}),
        ),
        (
            "import with configuration",
            json!({"config": {"authority": {"issuingLifetime": "60d"}}, "app": {"authority": {"import": {"secret": "cacerts"}}}}),
        ),
        ("replicas", json!({"replicaCount": 3, "state": {"store": "secrets"}, "postgres": postgres})),
        ("replicas with a spool", json!({"replicaCount": 2, "state": {"store": "secrets"}, "postgres": spool})),
        ("replicas by load", json!({"state": {"store": "secrets"}, "postgres": postgres, "autoscaling": {"enabled": true, "maxReplicas": 4}})),
        (
            "roles apart",
            json!({
                "roles": {"apart": true, "issuerClustersNamespace": "clusters"}, "replicaCount": 3, "state": {"store": "secrets"}, "postgres": postgres, "serviceAccount": {"name": "ca"},
                "app": {"admin": {"enabled": true}, "multiCluster": {"enabled": true}, "controller": {"rootConfigMap": true},
                    "tls": {"istiodCertificateEnable": true, "istiodCertificateClusters": ["east"]}, "istio": {"namespace": "istio-control"},
                    "authority": {"import": {"secret": "cacerts"}}, "cacerts": {"enabled": true, "clusters": ["east"]}},
            }),
        ),
        (
            "roles apart with a spool",
            json!({"roles": {"apart": true, "authorityReplicas": 1}, "state": {"store": "secrets"}, "postgres": spool, "autoscaling": {"enabled": true}}),
        ),
        ("root ConfigMaps", json!({"app": {"controller": {"rootConfigMap": true, "configmapNamespaceSelector": "istio-discovery=enabled"}}})),
        (
            "istiod's CA is off",
            json!({"app": {"controller": {"rootConfigMap": true}, "tls": {"istiodCertificateEnable": true}, "istio": {"namespace": "istio-control", "revisions": ["default", "canary"]}}}),
        ),
        (
            "istiods of several clusters",
            json!({"app": {"controller": {"rootConfigMap": true}, "tls": {"istiodCertificateEnable": true, "istiodCertificateClusters": ["Kubernetes", "east"]},
                "multiCluster": {"enabled": true}, "istio": {"namespace": "istio-control"}}}),
        ),
        (
            "istiod stays the CA",
            json!({"app": {"cacerts": {"enabled": true, "clusters": ["Kubernetes", "east"]}, "multiCluster": {"enabled": true}, "istio": {"namespace": "istio-control"}}}),
        ),
        ("admin over the network", json!({"app": {"admin": {"enabled": true}}})),
        (
            "monitoring",
            json!({"app": {"metrics": {
                "service": {"servicemonitor": {"enabled": true, "labels": {"release": "prometheus"}, "interval": "15s"}},
                "rules": {"enabled": true, "labels": {"release": "prometheus"}}, "dashboard": {"enabled": true},
            }}}),
        ),
        (
            "storage",
            json!({"persistence": {"size": "100Gi", "storageClass": "fast", "accessModes": ["ReadWriteOncePod"], "annotations": {"a": "b"}}}),
        ),
        ("a claim that is there", json!({"persistence": {"existingClaim": "ca-data"}})),
        (
            "narrow network",
            json!({"networkPolicy": {
                "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
                "egress": [{"ports": [{"port": 443}, {"port": 53, "protocol": "UDP"}]}],
            }}),
        ),
        ("open network", json!({"networkPolicy": {"enabled": false}})),
        (
            "where it runs",
            json!({
                "priorityClassName": "system-cluster-critical", "nodeSelector": {"pool": "system"}, "tolerations": [{"key": "system", "operator": "Exists"}],
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}]}}},
                "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
            }),
        ),
        (
            "labels and files",
            json!({
                "commonLabels": {"team": "mesh"}, "podLabels": {"tier": "0"}, "podAnnotations": {"example.com/backup": "data"}, "imagePullSecrets": [{"name": "pull"}],
                "image": {"tag": "0.1.0-fips", "digest": format!("sha256:{}", "0".repeat(64))}, "serviceAccount": {"name": "ca", "annotations": {"example.com/role": "ca"}},
                "volumes": [{"name": "roots", "configMap": {"name": "roots"}}], "volumeMounts": [{"name": "roots", "mountPath": "/etc/ssl/certs", "readOnly": true}],
            }),
        ),
        ("a platform that chooses users", json!({"podSecurityContext": {"runAsUser": null, "runAsGroup": null, "fsGroup": null}})),
        ("part of another chart", json!({"global": {"anything": 1}})),
    ])
}

/// `values` over the image.
pub fn with_image(values: &Value) -> Value {
    let mut all = image();
    merge(&mut all, values);
    all
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => from.iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value)),
        (into, from) => *into = from.clone(),
    }
}
