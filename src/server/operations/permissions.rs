//! Every operation, and which permission it needs where somebody else than the socket's owner asks: in the words of Kubernetes RBAC, for whoever decides
//! about it. A door asks this table; what isn't in it is refused.

use crate::cluster::Permission;

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is a method of Operations, and an rpc of the admin API, whose protocol describes it")]
pub enum Operation {
    ListCertificates,
    WatchCertificates,
    GetCertificate,
    GetStats,
    GetBundle,
    ListAuthorities,
    GetAuthority,
    AddTrust,
    ListAudit,
    Check,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::ListCertificates,
        Self::WatchCertificates,
        Self::GetCertificate,
        Self::GetStats,
        Self::GetBundle,
        Self::ListAuthorities,
        Self::GetAuthority,
        Self::AddTrust,
        Self::ListAudit,
        Self::Check,
    ];

    /// The operation of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.name() == name)
    }

    /// Its name, that of the rpc.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// What it needs.
    pub fn permission(self) -> Permission {
        self.row().1
    }

    /// The table. deploy/kubernetes/admin.yaml has roles for its rows.
    const fn row(self) -> (&'static str, Permission) {
        match self {
            Self::ListCertificates => ("ListCertificates", permission("list", "certificates")),
            Self::WatchCertificates => ("WatchCertificates", permission("watch", "certificates")),
            Self::GetCertificate => ("GetCertificate", permission("get", "certificates")),
            Self::GetStats => ("GetStats", permission("get", "statistics")),
            Self::GetBundle => ("GetBundle", permission("get", "bundles")),
            Self::ListAuthorities => ("ListAuthorities", permission("list", "authorities")),
            Self::GetAuthority => ("GetAuthority", permission("get", "authorities")),
            Self::AddTrust => ("AddTrust", permission("create", "trustedroots")),
            Self::ListAudit => ("ListAudit", permission("list", "audits")),
            Self::Check => ("Check", permission("get", "checks")),
        }
    }
}

const fn permission(verb: &'static str, resource: &'static str) -> Permission {
    Permission { verb, resource }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_rpc_is_an_operation_and_none_is_for_nothing() {
        let pool = prost_reflect::DescriptorPool::decode(crate::server::proto::DESCRIPTORS).unwrap();
        let service = pool.get_service_by_name("meshmint.admin.v1.Admin").unwrap();
        let rpcs: BTreeSet<_> = service.methods().map(|method| method.name().to_owned()).collect();
        let names: BTreeSet<_> = Operation::ALL.into_iter().map(|operation| operation.name().to_owned()).collect();
        assert_eq!(names, rpcs);
        assert_eq!(names.len(), Operation::ALL.len());
        let permissions: BTreeSet<_> =
            Operation::ALL.into_iter().map(|operation| (operation.permission().verb, operation.permission().resource)).collect();
        assert_eq!(permissions.len(), Operation::ALL.len(), "each can be granted by itself");
    }

    #[test]
    fn the_roles_that_we_ship_know_every_permission() {
        let roles = include_str!("../../../deploy/kubernetes/admin.yaml");
        for operation in Operation::ALL {
            let Permission { verb, resource } = operation.permission();
            let rules = roles.split("- apiGroups: [meshmint.io]").skip(1);
            let granted = rules.into_iter().any(|rule| {
                let line = |key: &str| rule.lines().find_map(|line| line.trim().strip_prefix(key)).unwrap_or_default();
                let has = |key: &str, word: &str| line(key).split(['[', ']', ',', ' ']).any(|each| each == word);
                has("resources:", resource) && has("verbs:", verb)
            });
            assert!(granted, "{operation:?}: {verb} {resource}");
        }
    }

    #[test]
    fn what_has_no_row_is_no_operation() {
        assert_eq!(Operation::named("AddTrust"), Some(Operation::AddTrust));
        for name in ["Nonsense", "", "addtrust", "AddTrust/"] {
            assert_eq!(Operation::named(name), None, "{name}");
        }
    }
}
