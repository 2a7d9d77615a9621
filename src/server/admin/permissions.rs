//! Which permission each rpc of the admin API needs over the network, in the words of Kubernetes RBAC. An rpc without a row is refused.

use crate::cluster::Permission;

/// The path of every rpc begins with this.
const SERVICE: &str = "/meshmint.admin.v1.Admin/";

/// One row for each rpc. deploy/kubernetes/admin.yaml has roles for them.
const TABLE: [(&str, Permission); 10] = [
    ("ListCertificates", permission("list", "certificates")),
    ("WatchCertificates", permission("watch", "certificates")),
    ("GetCertificate", permission("get", "certificates")),
    ("GetStats", permission("get", "statistics")),
    ("GetBundle", permission("get", "bundles")),
    ("ListAuthorities", permission("list", "authorities")),
    ("GetAuthority", permission("get", "authorities")),
    ("AddTrust", permission("create", "trustedroots")),
    ("ListAudit", permission("list", "audits")),
    ("Check", permission("get", "checks")),
];

const fn permission(verb: &'static str, resource: &'static str) -> Permission {
    Permission { verb, resource }
}

/// What the rpc of a request's path needs; `None` where there is no such rpc.
pub(super) fn needed(path: &str) -> Option<Permission> {
    let name = path.strip_prefix(SERVICE)?;
    TABLE.iter().find(|(rpc, _)| *rpc == name).map(|(_, permission)| *permission)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_rpc_has_its_row_and_no_row_is_for_nothing() {
        let pool = prost_reflect::DescriptorPool::decode(crate::server::proto::DESCRIPTORS).unwrap();
        let service = pool.get_service_by_name("meshmint.admin.v1.Admin").unwrap();
        let rpcs: BTreeSet<_> = service.methods().map(|method| method.name().to_owned()).collect();
        let rows: BTreeSet<_> = TABLE.iter().map(|(rpc, _)| (*rpc).to_owned()).collect();
        assert_eq!(rows, rpcs);
        assert_eq!(rows.len(), TABLE.len());
        let permissions: BTreeSet<_> = TABLE.iter().map(|(_, Permission { verb, resource })| (verb, resource)).collect();
        assert_eq!(permissions.len(), TABLE.len(), "each can be granted by itself");
    }

    #[test]
    fn the_roles_that_we_ship_know_every_permission() {
        let roles = include_str!("../../../deploy/kubernetes/admin.yaml");
        for (rpc, Permission { verb, resource }) in TABLE {
            let rules = roles.split("- apiGroups: [meshmint.io]").skip(1);
            let granted = rules.into_iter().any(|rule| {
                let line = |key: &str| rule.lines().find_map(|line| line.trim().strip_prefix(key)).unwrap_or_default();
                let has = |key: &str, word: &str| line(key).split(['[', ']', ',', ' ']).any(|each| each == word);
                has("resources:", resource) && has("verbs:", verb)
            });
            assert!(granted, "{rpc}: {verb} {resource}");
        }
    }

    #[test]
    fn what_is_no_rpc_has_none() {
        assert_eq!(needed("/meshmint.admin.v1.Admin/AddTrust"), Some(permission("create", "trustedroots")));
        for path in [
            "/meshmint.admin.v1.Admin/Nonsense",
            "/meshmint.admin.v1.Admin/",
            "/AddTrust",
            "/meshmint.admin.v1.Admin/AddTrust/",
            "/grpc.health.v1.Health/Check",
            "",
        ] {
            assert_eq!(needed(path), None, "{path}");
        }
    }
}
