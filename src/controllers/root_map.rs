//! One root ConfigMap: what is known of it, what it should be, and what that asks for. Of its contents only a digest is kept.

use std::collections::HashMap;

use ring::digest::{SHA256, digest};
use serde::Deserialize;

use crate::authority::{AuthorityId, Generation};
use crate::cluster::{Index, Metadata, Resource};

/// The key under which clients read the bundle.
pub(super) const KEY: &str = "root-cert.pem";

/// The longest id of another authority that is kept, in characters: ours have half of it.
const MAX_ID: usize = 64;

type Digest = [u8; 32];

fn digest_of(text: &str) -> Digest {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    out
}

/// What every namespace shall have.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) bundle: std::sync::Arc<str>,
    pub(super) number: u64,
    /// The root that signs: whose bundle it is. Numbers are an authority's own.
    pub(super) authority: AuthorityId,
    digest: Digest,
}

impl Wanted {
    pub(super) fn of(generation: &Generation) -> Self {
        let (bundle, number, authority) = (generation.bundle.clone(), generation.bundle_number, generation.root.clone());
        Self { digest: digest_of(&bundle), bundle, number, authority }
    }
}

/// What one namespace asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need<'a> {
    /// Nothing.
    Nothing,
    /// There is a bundle of a higher number, at this version: of a writer that knows more, or a number that was never given.
    Newer(&'a str),
    /// There is no ConfigMap.
    Create,
    /// It has another bundle, or lacks our marks; it is at this version.
    Change(&'a str),
}

/// What is known of one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    version: Box<str>,
    /// None: no bundle of ours.
    number: Option<u64>,
    digest: Option<Digest>,
    labelled: bool,
    /// The authority that it says it is of.
    authority: Option<Box<str>>,
}

/// All of them, by namespace.
#[derive(Debug, Default)]
pub(super) struct KnownRootMaps {
    all: HashMap<Box<str>, Known>,
    /// How many went away.
    removals: u64,
}

impl KnownRootMaps {
    /// What the watch shows of this namespace's, as one word that changes with it: one that was made and is gone again is another nothing than
    /// before.
    pub(super) fn shows(&self, namespace: &str) -> String {
        self.all.get(namespace).map_or_else(|| format!("nothing after {}", self.removals), |known| known.version.to_string())
    }

    /// The other authority that what is in this namespace says it is of.
    pub(super) fn other_authority(&self, namespace: &str, wanted: &Wanted) -> Option<&str> {
        self.all.get(namespace)?.authority.as_deref().filter(|authority| *authority != wanted.authority.as_str())
    }

    /// What this namespace asks for.
    pub(super) fn need(&self, namespace: &str, wanted: &Wanted) -> Need<'_> {
        match self.all.get(namespace) {
            None => Need::Create,
            Some(known) if known.number.is_some_and(|number| number > wanted.number) => Need::Newer(&known.version),
            Some(Known { number: Some(number), digest: Some(digest), labelled: true, .. })
                if *number == wanted.number && *digest == wanted.digest =>
            {
                Need::Nothing
            }
            Some(known) => Need::Change(&known.version),
        }
    }
}

/// A ConfigMap as it comes.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct RootMap {
    metadata: Metadata,
    #[serde(default)]
    data: Data,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Data {
    #[serde(default, rename = "root-cert.pem")]
    bundle: Option<String>,
}

impl Index for KnownRootMaps {
    type Object = RootMap;
    const RESOURCE: Resource = Resource::ConfigMaps;

    fn metadata(object: &RootMap) -> &Metadata {
        &object.metadata
    }

    fn put(&mut self, RootMap { metadata, data }: RootMap) {
        let known = Known {
            version: metadata.resource_version.into(),
            number: metadata.annotations.bundle_number.and_then(|number| number.parse().ok()),
            digest: data.bundle.as_deref().map(digest_of),
            labelled: metadata.labels.istio_config.as_deref() == Some("true"),
            // Whoever may write there may write anything.
            authority: metadata.annotations.authority.map(|id| id.chars().take(MAX_ID).collect::<String>().into()),
        };
        self.all.insert(metadata.namespace.into(), known);
    }

    fn remove(&mut self, namespace: &str, _name: &str) {
        self.removals += u64::from(self.all.remove(namespace).is_some());
    }

    fn len(&self) -> usize {
        self.all.len()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn wanted() -> Wanted {
        Wanted { bundle: "bundle\n".into(), number: 7, authority: AuthorityId::from_text("aa".to_owned()), digest: digest_of("bundle\n") }
    }

    fn need_of(labels: &Value, annotations: &Value, data: &Value) -> String {
        let metadata = json!({"name": "m", "namespace": "shop", "uid": "u", "resourceVersion": "9", "labels": labels, "annotations": annotations});
        let mut maps = KnownRootMaps::default();
        maps.put(serde_json::from_value(json!({"metadata": metadata, "data": data})).unwrap());
        format!("{:?}", maps.need("shop", &wanted()))
    }

    #[test]
    fn what_a_namespace_asks_for() {
        let (label, number, data) =
            (json!({"istio.io/config": "true"}), json!({"meshmint.io/bundle-number": "7"}), json!({"root-cert.pem": "bundle\n"}));
        assert_eq!(need_of(&label, &number, &data), "Nothing");
        let more = |mut value: Value| {
            value["theirs"] = json!("kept");
            value
        };
        assert_eq!(need_of(&more(label.clone()), &more(number.clone()), &more(data.clone())), "Nothing", "what others keep there is theirs");
        let change = "Change(\"9\")";
        assert_eq!(need_of(&label, &number, &json!({"root-cert.pem": "bundle"})), change);
        assert_eq!(need_of(&label, &number, &json!({})), change);
        assert_eq!(need_of(&json!({}), &number, &data), change);
        assert_eq!(need_of(&json!({"istio.io/config": "false"}), &number, &data), change);
        for older in ["6", "0", "", "-8", "seven", "8.5", "99999999999999999999999"] {
            assert_eq!(need_of(&label, &json!({"meshmint.io/bundle-number": older}), &data), change, "{older}");
        }
        assert_eq!(need_of(&label, &json!({}), &data), change, "istiod's");
        for data in [data, json!({"root-cert.pem": "another"}), json!({})] {
            assert_eq!(need_of(&label, &json!({"meshmint.io/bundle-number": "8"}), &data), "Newer(\"9\")");
        }
        assert_eq!(KnownRootMaps::default().need("shop", &wanted()), Need::Create);
    }

    #[test]
    fn one_that_was_made_and_is_gone_again_was_shown() {
        let metadata = json!({"name": "m", "namespace": "shop", "uid": "u", "resourceVersion": "9"});
        let mut maps = KnownRootMaps::default();
        let before = maps.shows("shop");
        maps.put(serde_json::from_value(json!({"metadata": metadata})).unwrap());
        assert_eq!(maps.shows("shop"), "9");
        maps.remove("shop", "m");
        assert_ne!(maps.shows("shop"), before);
    }
}
