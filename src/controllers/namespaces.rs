//! Which namespaces get the trust bundle: those that the operator's selector chooses, but for the system's own and those that are being deleted.

use std::collections::HashSet;

use crate::cluster::{Index, Metadata, NamedObject, Resource, WITHOUT_ROOTS};

/// The chosen namespaces.
#[derive(Debug, Default)]
pub(super) struct Namespaces(HashSet<Box<str>>);

impl Namespaces {
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(AsRef::as_ref)
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

impl Index for Namespaces {
    type Object = NamedObject;
    const RESOURCE: Resource = Resource::Namespaces;

    fn metadata(object: &NamedObject) -> &Metadata {
        &object.metadata
    }

    fn put(&mut self, NamedObject { metadata }: NamedObject) {
        // Nothing can be made in a namespace that is on its way out.
        if metadata.deletion_timestamp.is_some() || WITHOUT_ROOTS.contains(&metadata.name.as_str()) {
            self.0.remove(metadata.name.as_str());
        } else {
            self.0.insert(metadata.name.into());
        }
    }

    fn remove(&mut self, _namespace: &str, name: &str) {
        self.0.remove(name);
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str, more: &str) -> NamedObject {
        serde_json::from_str(&format!(r#"{{"metadata":{{"name":"{name}","uid":"u","resourceVersion":"1"{more}}}}}"#)).unwrap()
    }

    #[test]
    fn system_and_terminating_namespaces_are_left_out() {
        let mut all = Namespaces::default();
        for name in ["shop", "kube-system", "kube-public", "kube-node-lease", "local-path-storage"] {
            all.put(namespace(name, ""));
        }
        all.put(namespace("pay", ""));
        assert!(all.contains("pay"));
        all.put(namespace("pay", r#","deletionTimestamp":"2026-11-25T12:00:00Z""#));
        let mut names: Vec<_> = all.iter().collect();
        names.sort_unstable();
        assert_eq!(names, ["kube-system", "shop"]);
        all.remove("", "shop");
        assert_eq!(all.len(), 1);
    }
}
