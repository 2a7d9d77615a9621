//! Objects of one kind in one namespace that are ours to write: created where there are none, and changed only where nobody else changed them
//! since they were read (resourceVersion). The store of the authority state and the lease of the leader are kept in such objects. Every question
//! names its object, so that the rules of access can.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api_server::{ApiError, ApiServer};
use crate::clock::SystemEntropy;

/// The longest object: a Secret of 1 MiB in base64, and what else is in it.
const MAX_BYTES: usize = 4 << 20;
/// The annotation with the writer that made an object.
const CREATED_BY: &str = "meshmint.io/created-by";
/// Asks for metadata and nothing else.
const ONLY_METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// Where the objects are. Nothing of them is kept here.
#[derive(Clone)]
pub struct OwnObjects {
    api: Arc<ApiServer>,
    /// `/api/v1/namespaces/NAMESPACE/secrets`
    collection: String,
    limit: Duration,
}

/// An object as the API server has it. It may hold a secret, so it never shows itself.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Object(Value);

impl OwnObjects {
    /// Secrets; each question may take as long as `limit`.
    pub fn secrets(api: Arc<ApiServer>, namespace: &str, limit: Duration) -> Self {
        Self { api, collection: format!("/api/v1/namespaces/{namespace}/secrets"), limit }
    }

    /// Leases.
    pub fn leases(api: Arc<ApiServer>, namespace: &str, limit: Duration) -> Self {
        Self { api, collection: format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"), limit }
    }

    /// The object of this name, if it is there.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn get(&self, name: &str) -> Result<Option<Object>, ApiError> {
        self.read(name, "application/json").await
    }

    /// Which version of the object is there now, without reading the rest of it.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn version(&self, name: &str) -> Result<Option<String>, ApiError> {
        self.read(name, ONLY_METADATA).await?.map(|object| object.version()).transpose()
    }

    /// Creates an object. `None`: there is one already that says otherwise.
    ///
    /// It is server-side apply without force, because RBAC can name the object in that and can't in a plain create: whoever may create any Secret
    /// may forge Helm's record of a release, whose next upgrade does what that says. The fields belong to a writer that nobody else ever is, and
    /// one of them says who that was: so with any object that was created here meanwhile it is a conflict, and that one stays.
    ///
    /// # Errors
    /// [`ApiError`]; it may have been created all the same where no answer came.
    pub async fn create(&self, name: &str, object: &Value) -> Result<Option<Object>, ApiError> {
        let mut writer = [0; 8];
        SystemEntropy::shared().fill(&mut writer).map_err(|error| ApiError::Access(error.to_string()))?;
        let writer = format!("meshmint-{:016x}", u64::from_be_bytes(writer));
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("annotations".to_owned(), json!({ CREATED_BY: writer }));
        }
        let request = Request::patch(format!("{}/{name}?fieldManager={writer}", self.collection));
        let request = request.header(header::CONTENT_TYPE, "application/apply-patch+yaml");
        match self.send(request.body(object.to_string().into_bytes())).await {
            Err(ApiError::Status { code: 409, .. }) => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// Changes an object by a JSON merge patch (RFC 7396). A patch that carries `metadata.resourceVersion` is taken only where that is still
    /// the version. `None`: it isn't, or the object is gone.
    ///
    /// # Errors
    /// [`ApiError`]; it may have been changed all the same where no answer came.
    pub async fn change(&self, name: &str, patch: &Value) -> Result<Option<Object>, ApiError> {
        let request = Request::patch(format!("{}/{name}", self.collection)).header(header::CONTENT_TYPE, "application/merge-patch+json");
        match self.send(request.body(patch.to_string().into_bytes())).await {
            Err(ApiError::Status { code: 404 | 409, .. }) => Ok(None),
            answer => answer.map(Some),
        }
    }

    async fn read(&self, name: &str, accept: &'static str) -> Result<Option<Object>, ApiError> {
        let request = Request::get(format!("{}/{name}", self.collection)).header(header::ACCEPT, accept);
        match self.send(request.body(Vec::new())).await {
            Err(error) if error.is_not_found() => Ok(None),
            answer => answer.map(Some),
        }
    }

    async fn send(&self, request: Result<Request<Vec<u8>>, http::Error>) -> Result<Object, ApiError> {
        let request = request.map_err(|error| ApiError::Access(error.to_string()))?;
        self.api.read(request, MAX_BYTES, self.limit).await
    }
}

impl Object {
    /// Its `resourceVersion`: another one after each change.
    ///
    /// # Errors
    /// [`ApiError::Unreadable`] where there is none: a change that names none would overwrite whatever is there.
    pub fn version(&self) -> Result<String, ApiError> {
        let version = self.at("/metadata/resourceVersion").and_then(Value::as_str).filter(|version| !version.is_empty());
        version.map(str::to_owned).ok_or_else(|| ApiError::Unreadable("an object without a resourceVersion".to_owned()))
    }

    /// What stands at a JSON pointer (RFC 6901).
    pub fn at(&self, pointer: &str) -> Option<&Value> {
        self.0.pointer(pointer).filter(|value| !value.is_null())
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Object({:?})", self.at("/metadata/name"))
    }
}

impl fmt::Debug for OwnObjects {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "OwnObjects({} of {:?})", self.collection, self.api)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::from_value;

    use super::*;

    #[test]
    fn an_object_without_a_version_is_never_changed_by_it() {
        let object = |value: Value| from_value::<Object>(value).unwrap();
        assert_eq!(object(json!({"metadata": {"resourceVersion": "7"}})).version(), Ok("7".to_owned()));
        for without in [json!({}), json!({"metadata": {"resourceVersion": ""}}), json!({"metadata": {"resourceVersion": 7}})] {
            assert!(matches!(object(without).version(), Err(ApiError::Unreadable(_))));
        }
    }

    #[test]
    fn an_object_shows_nothing_of_what_it_holds() {
        let object: Object = from_value(json!({"metadata": {"name": "n"}, "data": {"key": "hunter2"}})).unwrap();
        let shown = format!("{object:?}");
        assert!(shown.contains("\"n\"") && !shown.contains("hunter2"), "{shown}");
    }
}
