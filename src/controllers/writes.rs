//! The two ways in which an object in a cluster is written: made where there is none, and changed from the version that was seen. Both name what
//! they replace, so a writer that knows less than another can't undo its work.

use std::time::Duration;

use http::{Request, header};
use serde_json::Value;

use crate::cluster::{ApiError, ApiServer};

/// How long a write may take. Admission webhooks of others are in it.
const PATIENCE: Duration = Duration::from_secs(15);
/// The answer is metadata only.
const MAX_ANSWER_BYTES: usize = 2 << 20;
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
/// Who changes things, as `managedFields` has it.
const MANAGER: &str = "meshmint";

/// Makes an object at `path` that isn't there. It is server-side apply without force, because the rules of access can name the object in that and can't
/// in a plain create; `writer`, which no other process uses, owns the fields. So where somebody else was faster with the same object, it
/// is a conflict, unless that one wrote the very same.
///
/// # Errors
/// [`ApiError`].
pub(super) async fn create(api: &ApiServer, path: &str, writer: &str, object: &Value) -> Result<(), ApiError> {
    send(api, &format!("{path}?fieldManager={MANAGER}-{writer}"), "application/apply-patch+yaml", object).await
}

/// Changes exactly the fields in `patch` (a JSON merge patch, RFC 7396), whose `metadata.resourceVersion` is the version that was seen; of another
/// version nothing is changed, and that is a conflict.
///
/// # Errors
/// [`ApiError`].
pub(super) async fn change(api: &ApiServer, path: &str, patch: &Value) -> Result<(), ApiError> {
    send(api, &format!("{path}?fieldManager={MANAGER}"), "application/merge-patch+json", patch).await
}

async fn send(api: &ApiServer, path: &str, kind: &'static str, body: &Value) -> Result<(), ApiError> {
    let request = Request::patch(path).header(header::CONTENT_TYPE, kind).header(header::ACCEPT, METADATA);
    let request = request.body(body.to_string().into_bytes()).map_err(|error| ApiError::Access(error.to_string()))?;
    api.ask(request, MAX_ANSWER_BYTES, PATIENCE).await.map(drop)
}
