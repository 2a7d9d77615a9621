//! Which root the API server verifies istiod with: the `caBundle` of its webhooks, which istiod itself writes from the root that it has read. So
//! they show whether istiod carries the trust bundle.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::roots::{RootsDigest, roots_digest};
use crate::cluster::{Index, Metadata, Resource};

/// istiod's configurations of one kind: those that change objects (`VALIDATING` is false), or those that may refuse them.
#[derive(Debug, Default)]
pub(super) struct Webhooks<const VALIDATING: bool>(HashMap<Box<str>, Vec<Shown>>);

/// Labels of Istio's own charts.
pub(super) const INJECTION_LABEL: &str = "app=sidecar-injector";
pub(super) const VALIDATION_LABEL: &str = "app=istiod";

/// What the webhooks of one configuration that are in one namespace show.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shown {
    namespace: Box<str>,
    /// None: nothing yet, or what can't be read.
    roots: Option<RootsDigest>,
}

/// Webhook configurations of istiod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) all: usize,
    /// Those that don't show the bundle.
    pub(super) behind: usize,
}

impl<const VALIDATING: bool> Webhooks<VALIDATING> {
    /// How many configurations lead to a service in this namespace, and how many of them don't show these roots.
    pub(super) fn seen(&self, namespace: &str, roots: Option<RootsDigest>) -> Seen {
        let mut seen = Seen::default();
        for shown in self.0.values() {
            let mut here = shown.iter().filter(|shown| *shown.namespace == *namespace).peekable();
            if here.peek().is_some() {
                seen.all += 1;
                seen.behind += usize::from(here.any(|shown| shown.roots.is_none() || shown.roots != roots));
            }
        }
        seen
    }
}

/// A configuration as it comes.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Configuration {
    metadata: Metadata,
    #[serde(default)]
    webhooks: Option<Vec<Webhook>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Webhook {
    client_config: ClientConfig,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientConfig {
    /// PEM, in base64.
    #[serde(default)]
    ca_bundle: Option<String>,
    /// None: somewhere outside of the cluster.
    #[serde(default)]
    service: Option<Service>,
}

#[derive(Debug, Clone, Deserialize)]
struct Service {
    namespace: String,
}

impl<const VALIDATING: bool> Index for Webhooks<VALIDATING> {
    type Object = Configuration;
    const RESOURCE: Resource = if VALIDATING { Resource::ValidatingWebhooks } else { Resource::MutatingWebhooks };

    fn metadata(object: &Configuration) -> &Metadata {
        &object.metadata
    }

    fn put(&mut self, Configuration { metadata, webhooks }: Configuration) {
        let mut all: Vec<Shown> = Vec::new();
        for Webhook { client_config: ClientConfig { ca_bundle, service } } in webhooks.into_iter().flatten() {
            let Some(Service { namespace }) = service else { continue };
            let text = ca_bundle.and_then(|encoded| STANDARD.decode(encoded).ok()).and_then(|bytes| String::from_utf8(bytes).ok());
            let shown = Shown { namespace: namespace.into(), roots: text.as_deref().and_then(roots_digest) };
            if !all.contains(&shown) {
                all.push(shown);
            }
        }
        self.0.insert(metadata.name.into(), all);
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
    use serde_json::json;

    use super::*;
    use crate::pki::certificate_to_pem;

    #[test]
    fn a_configuration_is_behind_until_all_its_webhooks_show_the_roots() {
        let root = certificate_to_pem(b"root");
        let webhook = |namespace: &str, bundle: Option<&str>| {
            let mut webhook = json!({"name": "w", "clientConfig": {"service": {"namespace": namespace, "name": "istiod", "path": "/inject"}}});
            if let Some(bundle) = bundle {
                webhook["clientConfig"]["caBundle"] = json!(STANDARD.encode(bundle));
            }
            webhook
        };
        let outside = json!({"name": "w", "clientConfig": {"url": "https://istiod.example"}});
        let seen = |webhooks: serde_json::Value| {
            let mut all = Webhooks::<false>::default();
            let metadata = json!({"name": "istio-sidecar-injector", "uid": "u", "resourceVersion": "1"});
            all.put(serde_json::from_value(json!({"metadata": metadata, "webhooks": webhooks})).unwrap());
            let seen = all.seen("istio-system", roots_digest(&root));
            (seen.all, seen.behind)
        };
        let good = webhook("istio-system", Some(&root));
        assert_eq!(seen(json!([good, good])), (1, 0));
        for other in [
            None,
            Some(""),
            Some("nothing"),
            Some(certificate_to_pem(b"another").as_str()),
            Some(format!("{root}{}", certificate_to_pem(b"more")).as_str()),
        ] {
            assert_eq!(seen(json!([good, webhook("istio-system", other)])), (1, 1), "{other:?}");
        }
        assert_eq!(seen(json!([good, webhook("elsewhere", None), outside])), (1, 0), "another mesh's, and one that no Secret here reaches");
        assert_eq!(seen(json!([outside])), (0, 0));
        assert_eq!(seen(serde_json::Value::Null), (0, 0));
    }
}
