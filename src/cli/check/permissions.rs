//! What our service account needs: the rules of deploy/kubernetes, of each file where its configuration turns on what the file is for. The files
//! themselves are read, so that there is no second list of rules.

use serde::Deserialize;

use crate::cluster::Needed;
use crate::config::{Config, Role};

const RBAC: &str = include_str!("../../../deploy/kubernetes/rbac.yaml");
const STATE: &str = include_str!("../../../deploy/kubernetes/state.yaml");
const ROLES: &str = include_str!("../../../deploy/kubernetes/roles.yaml");
const CONTROLLERS: &str = include_str!("../../../deploy/kubernetes/controllers.yaml");
const ISTIOD: &str = include_str!("../../../deploy/kubernetes/istiod.yaml");
const CACERTS: &str = include_str!("../../../deploy/kubernetes/cacerts.yaml");
const ISSUER_REMOTE_CLUSTERS: &str = include_str!("../../../deploy/kubernetes/issuer-remote-clusters.yaml");
const REMOTE_CLUSTERS: &str = include_str!("../../../deploy/kubernetes/remote-clusters.yaml");
const ADMIN: &str = include_str!("../../../deploy/kubernetes/admin.yaml");

/// Who the files' bindings are for.
const OURS: &str = "meshmint";
const ISSUER: &str = "meshmint-issuer";

/// One object of a file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    kind: String,
    metadata: Metadata,
    #[serde(default)]
    rules: Vec<Rule>,
    role_ref: Option<Metadata>,
    #[serde(default)]
    subjects: Vec<Metadata>,
}

/// What names an object, or a subject, or a role.
#[derive(Debug, Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    api_groups: Vec<String>,
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
    verbs: Vec<String>,
}

/// What the account of this namespace needs with this configuration; where that isn't known, what it needs with every one in a cluster.
///
/// # Errors
/// In words, where a file of ours can't be read: a bug.
pub(super) fn needed(config: Option<&Config>, namespace: &str) -> Result<Vec<Needed>, String> {
    let mut all = Vec::new();
    for (file, subject) in files(config) {
        for (rule, of) in rules(file, subject)? {
            all.extend(each(&rule, &placed(file, &of, config, namespace), config));
        }
    }
    all.sort();
    all.dedup();
    Ok(all)
}

/// The files that are needed, each with the account of its bindings that is ours.
fn files(config: Option<&Config>) -> Vec<(&'static str, &'static str)> {
    let Some(config) = config else { return vec![(RBAC, OURS)] };
    let mut files = Vec::new();
    if let Some(cluster) = &config.cluster {
        files.extend((config.role != Role::Authority).then_some((RBAC, OURS)));
        let remote = if config.role == Role::Issuer { (ISSUER_REMOTE_CLUSTERS, ISSUER) } else { (REMOTE_CLUSTERS, OURS) };
        files.extend(cluster.remote_secrets_namespace.is_some().then_some(remote));
    }
    if config.role == Role::Issuer {
        files.push((ROLES, ISSUER));
        return files;
    }
    files.extend(config.state_secrets.is_some().then_some((STATE, OURS)));
    let controllers = &config.controllers;
    files.extend(controllers.root_config_map.is_some().then_some((CONTROLLERS, OURS)));
    files.extend(controllers.istiod.as_ref().is_some_and(|istiod| istiod.is_of(&config.cluster_id)).then_some((ISTIOD, OURS)));
    files.extend(controllers.cacerts.as_ref().is_some_and(|cacerts| cacerts.are_of(&config.cluster_id)).then_some((CACERTS, OURS)));
    files.extend(config.admin_network.is_some().then_some((ADMIN, OURS)));
    files
}

/// The rules of the roles that a file binds to `subject`, each with the namespace of its role.
fn rules(file: &str, subject: &str) -> Result<Vec<(Rule, String)>, String> {
    let manifests: Result<Vec<Manifest>, _> = file.split("\n---\n").map(serde_saphyr::from_str).collect();
    let manifests = manifests.map_err(|error| error.to_string())?;
    let bound: Vec<_> = manifests.iter().filter(|each| each.subjects.iter().any(|each| each.name == subject)).collect();
    let bound: Vec<_> = bound.iter().filter_map(|binding| Some((binding.kind.strip_suffix("Binding")?, &binding.role_ref.as_ref()?.name))).collect();
    let bound: Vec<_> = bound.into_iter().map(|(kind, name)| (kind.to_owned(), name.clone())).collect();
    let roles = manifests.into_iter().filter(|role| bound.iter().any(|(kind, name)| *kind == role.kind && *name == role.metadata.name));
    Ok(roles.flat_map(|role| role.rules.into_iter().map(move |rule| (rule, role.metadata.namespace.clone()))).collect())
}

/// The namespace that a role of a file is in with this configuration.
fn placed(file: &str, of: &str, config: Option<&Config>, ours: &str) -> String {
    let of_config = match file {
        ISTIOD => config.and_then(|config| config.controllers.istiod.as_ref()).map(|istiod| istiod.namespace.clone()),
        CACERTS => config.and_then(|config| config.controllers.cacerts.as_ref()).map(|cacerts| cacerts.namespace.clone()),
        REMOTE_CLUSTERS | ISSUER_REMOTE_CLUSTERS => config.and_then(|config| config.cluster.as_ref()?.remote_secrets_namespace.clone()),
        STATE | ROLES => config.and_then(|config| config.state_secrets.as_ref()).map(|secrets| secrets.namespace.clone()),
        _ => None,
    };
    if of.is_empty() { String::new() } else { of_config.unwrap_or_else(|| ours.to_owned()) }
}

/// One permission for each verb, resource and name of a rule; names are those of the configuration.
fn each(rule: &Rule, namespace: &str, config: Option<&Config>) -> Vec<Needed> {
    let prefix = config.and_then(|config| config.state_secrets.as_ref()).map_or("meshmint", |secrets| &secrets.prefix);
    let map = config.and_then(|config| config.controllers.root_config_map.as_ref()).map_or("istio-ca-root-cert", |map| &map.name);
    let istiod = config.and_then(|config| config.controllers.istiod.as_ref()).map_or("istio-system", |istiod| &istiod.namespace);
    let own = |name: &String| match name.strip_prefix("meshmint-") {
        Some(rest) => format!("{prefix}-{rest}"),
        None if name == "istio-system" => istiod.to_owned(),
        None if name == "istio-ca-root-cert" => map.to_owned(),
        None => name.clone(),
    };
    let names: Vec<String> = if rule.resource_names.is_empty() { vec![String::new()] } else { rule.resource_names.iter().map(own).collect() };
    let mut all = Vec::new();
    for group in &rule.api_groups {
        for resource in &rule.resources {
            for name in &names {
                all.extend(rule.verbs.iter().map(|verb| Needed {
                    verb: verb.clone(),
                    group: group.clone(),
                    resource: resource.clone(),
                    name: name.clone(),
                    namespace: namespace.to_owned(),
                }));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "server: { servingDNSNames: [ca] }\ncluster: { inCluster: true }\n\
                        tokens: { issuers: [{ issuer: 'https://a.example', keys: { apiServer: true } }] }\n";

    fn told(more: &str) -> Vec<String> {
        let config = Config::load(Some(("a", &format!("{BASE}{more}"))), std::iter::empty()).unwrap();
        needed(Some(&config), "mesh").unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_file_is_needed_for_what_it_is_for() {
        let base = told("");
        assert_eq!(base.len(), 10, "{base:?}");
        assert!(
            ["list pods", "watch nodes", "get serviceaccounts", "create tokenreviews.authentication.k8s.io"]
                .iter()
                .all(|each| base.contains(&(*each).to_owned()))
        );
        let unknown: Vec<_> = needed(None, "mesh").unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(unknown, base);
        let more = |text: &str| told(text).into_iter().filter(|each| !base.contains(each)).collect::<Vec<_>>();
        let maps = more("controllers: { rootConfigMap: { enabled: true, name: roots } }\n");
        assert_eq!(
            maps,
            [
                "create configmaps/roots",
                "list configmaps/roots",
                "list namespaces",
                "patch configmaps/roots",
                "watch configmaps/roots",
                "watch namespaces"
            ]
        );
        let istiod = more("controllers: { istiod: { namespace: control } }\n");
        assert!(
            istiod.contains(&"patch secrets/istiod-tls in control".to_owned()) && istiod.contains(&"watch namespaces/control".to_owned()),
            "{istiod:?}"
        );
        assert!(!istiod.iter().any(|each| each.contains("configmaps")), "{istiod:?}");
        let cacerts = more("controllers: { cacerts: { namespace: control } }\n");
        assert_eq!(cacerts.len(), 4);
        assert!(cacerts.contains(&"create secrets/cacerts in control".to_owned()), "{cacerts:?}");
        assert_eq!(
            more("admin: { listen: '0.0.0.0:8444' }\n"),
            ["create subjectaccessreviews.authorization.k8s.io"],
            "an operator's roles aren't ours"
        );
        let state =
            more("state: { store: secrets, secrets: { namespace: keys, prefix: ca } }\nledger: { postgres: { url: 'postgresql://a@b/c' } }\n");
        assert!(
            state.contains(&"get secrets/ca-root in keys".to_owned())
                && state.contains(&"create leases.coordination.k8s.io/ca-leader in keys".to_owned()),
            "{state:?}"
        );
    }

    #[test]
    fn roles_apart_need_their_part() {
        let shared = "state: { store: secrets, secrets: { namespace: keys, prefix: ca } }\nledger: { postgres: { url: 'postgresql://a@b/c' } }\n";
        let issuer = told(&format!("role: issuer\n{shared}"));
        assert!(issuer.contains(&"get secrets/ca-issuing in keys".to_owned()) && issuer.contains(&"list pods".to_owned()), "{issuer:?}");
        assert!(!issuer.iter().any(|each| each.contains("ca-root") || each.starts_with("patch")), "{issuer:?}");
        let authority = told(&format!("role: authority\n{shared}"));
        assert!(authority.contains(&"patch secrets/ca-root in keys".to_owned()) && !authority.contains(&"list pods".to_owned()), "{authority:?}");
    }
}
