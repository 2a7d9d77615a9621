//! The few fields of Kubernetes objects that matter here. Everything else of an answer is skipped while it is read, so that a watch over
//! 10,000 pods costs a few megabytes.

use serde::Deserialize;
use time::OffsetDateTime;

/// Of every object.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metadata {
    pub(crate) name: String,
    /// Empty where objects are of no namespace.
    #[serde(default)]
    pub(crate) namespace: String,
    pub(crate) uid: String,
    pub(crate) resource_version: String,
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub(crate) deletion_timestamp: Option<OffsetDateTime>,
    #[serde(default)]
    pub(crate) labels: Labels,
    #[serde(default)]
    pub(crate) annotations: Annotations,
}

/// The labels that matter here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Labels {
    /// Istio's own mark of what belongs to it.
    #[serde(default, rename = "istio.io/config")]
    pub(crate) istio_config: Option<String>,
}

/// What we note on objects that we write.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Annotations {
    /// The number of the trust bundle that is in it.
    #[serde(default, rename = "meshmint.io/bundle-number")]
    pub(crate) bundle_number: Option<String>,
    /// The authority whose trust bundle it is.
    #[serde(default, rename = "meshmint.io/authority")]
    pub(crate) authority: Option<String>,
    /// The generation that signed what is in it.
    #[serde(default, rename = "meshmint.io/generation")]
    pub(crate) generation: Option<String>,
    /// SHA-256 of the certificate that is in it, lower-hex.
    #[serde(default, rename = "meshmint.io/certificate-sha256")]
    pub(crate) certificate: Option<String>,
}

/// An object of which only the metadata is wanted: a service account, a node.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Named {
    pub(crate) metadata: Metadata,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Pod {
    pub(super) metadata: Metadata,
    #[serde(default)]
    pub(super) spec: PodSpec,
    #[serde(default)]
    pub(super) status: PodStatus,
}

/// What it shall be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodSpec {
    /// None until it is scheduled.
    #[serde(default)]
    pub(super) node_name: Option<String>,
    #[serde(default)]
    pub(super) service_account_name: String,
}

/// What became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct PodStatus {
    #[serde(default)]
    pub(super) phase: String,
}

impl PodStatus {
    /// It will never run again.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }
}

/// One page of a list.
#[derive(Debug, Deserialize)]
pub(super) struct Page<T> {
    pub(super) metadata: PageMetadata,
    /// Go writes `null` for an empty list.
    pub(super) items: Option<Vec<T>>,
}

/// Where the list goes on.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PageMetadata {
    /// The version of everything, which a watch goes on from.
    #[serde(default)]
    pub(super) resource_version: String,
    #[serde(default, rename = "continue")]
    pub(super) next: Option<String>,
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn reads_what_matters_and_skips_the_rest() {
        let pod: Pod = serde_json::from_str(
            r#"{"kind":"Pod","metadata":{"name":"a","namespace":"n","uid":"u","resourceVersion":"7","labels":{"x":"y"},"managedFields":[{"a":1}],
               "deletionTimestamp":"2026-11-25T12:00:00Z"},"spec":{"nodeName":"node-1","serviceAccountName":"cart","containers":[{}]},
               "status":{"phase":"Running","podIPs":[]}}"#,
        )
        .unwrap();
        assert_eq!(pod.metadata.deletion_timestamp, Some(datetime!(2026-11-25 12:00 UTC)));
        assert_eq!((pod.spec.node_name.as_deref(), pod.spec.service_account_name.as_str()), (Some("node-1"), "cart"));
        assert!(!pod.status.has_ended());
        let bare: Pod = serde_json::from_str(r#"{"metadata":{"name":"a","uid":"u","resourceVersion":"7"}}"#).unwrap();
        assert_eq!((bare.spec.node_name, bare.metadata.namespace.as_str()), (None, ""));
        assert!(serde_json::from_str::<Pod>(r#"{"metadata":{"name":"a","resourceVersion":"7"}}"#).is_err(), "nothing without a UID");
    }
}
