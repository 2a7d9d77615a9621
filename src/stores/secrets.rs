//! The Secrets store: the authority state and its keys in three Secrets of one namespace, for `serve` with any number of replicas.
//!
//! ```text
//! PREFIX-state     authority.json   the document, replaced whole, by compare-and-swap on its resourceVersion
//! PREFIX-issuing   NAME each        keys that sign leaves (their names begin with issuing-): every replica that issues reads them
//! PREFIX-root      NAME each        all other keys: only who makes issuing certificates may read them
//! ```
//! The names are fixed because RBAC knows no patterns: a Role that withholds the root keys can name the two Secrets that it lets be read. Nothing
//! is locked, and no replica is trusted to be the only one: each change names the version that it was made from.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::key_names::name_of;
use super::{StateStore, StoreError, Version};
use crate::authority::{AuthorityState, KeyRef};
use crate::cluster::{ApiError, ApiServer, Object, OwnObjects};
use crate::pki::IssuerKey;

/// The document's name in its Secret.
const DOCUMENT: &str = "authority.json";
/// What a reference to a key in this store begins with.
const SCHEME: &str = "secret:";
/// How the names of keys begin that sign leaves.
const ISSUING: &str = "issuing-";
/// How long one question may take: every step of a request for a certificate goes on meanwhile.
const LIMIT: Duration = Duration::from_secs(3);
/// The most that a Secret may hold (Kubernetes: MaxSecretSize).
const MAX_BYTES: usize = 1 << 20;
/// How often a key is written again because somebody wrote another one into the same Secret meanwhile.
const ATTEMPTS: usize = 10;

/// A Secrets store. Cheap to clone.
#[derive(Clone)]
pub struct SecretsStore {
    secrets: OwnObjects,
    namespace: String,
    prefix: String,
}

impl SecretsStore {
    /// The store whose Secrets are called `prefix`-… in `namespace`. Nothing is asked yet.
    pub fn new(api: Arc<ApiServer>, namespace: String, prefix: String) -> Self {
        Self { secrets: OwnObjects::secrets(api, &namespace, LIMIT), namespace, prefix }
    }

    fn document(&self) -> String {
        format!("{}-state", self.prefix)
    }

    /// The Secret of a key. What isn't known to be for issuing is among the roots, where fewer may read it.
    fn secret_of(&self, key: &str) -> String {
        format!("{}-{}", self.prefix, if key.starts_with(ISSUING) { "issuing" } else { "root" })
    }

    /// What a person calls a Secret.
    fn place(&self, secret: &str) -> String {
        format!("Secret {}/{secret}", self.namespace)
    }

    /// An answer of the API server about a Secret, in this store's words.
    fn said<T>(&self, secret: &str, answer: Result<T, ApiError>) -> Result<T, StoreError> {
        answer.map_err(|error| {
            let (place, reason) = (self.place(secret), error.to_string());
            match error {
                // Throttled, or a server in trouble: the same question may be answered the next time.
                ApiError::Status { code: 429 | 500.., .. } | ApiError::TimedOut(_) | ApiError::NoAnswer(_) => StoreError::Away { place, reason },
                ApiError::Status { .. } | ApiError::Access(_) | ApiError::Body(_) | ApiError::Unreadable(_) => StoreError::Refused { place, reason },
            }
        })
    }

    fn object(&self, name: &str, entry: &str, content: &[u8]) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": name, "namespace": self.namespace, "labels": { "app.kubernetes.io/managed-by": "meshmint" } },
            "type": "Opaque",
            "data": { entry: STANDARD.encode(content) },
        })
    }

    /// The bytes of one entry of a Secret; `None` where it isn't there.
    fn entry(&self, secret: &str, object: &Object, entry: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(encoded) = object.at(&format!("/data/{entry}")) else { return Ok(None) };
        let decoded = encoded.as_str().and_then(|encoded| STANDARD.decode(encoded).ok());
        let refused = || StoreError::Refused { place: self.place(secret), reason: format!("its {entry} can't be read") };
        decoded.map(Some).ok_or_else(refused)
    }

    /// Writes a key into its Secret, beside those that are there; whoever writes another one at the same time is written around.
    async fn add(&self, secret: &str, name: &str, key: &[u8]) -> Result<bool, StoreError> {
        for _ in 0..ATTEMPTS {
            let written = match self.said(secret, self.secrets.get(secret).await)? {
                None => self.said(secret, self.secrets.create(secret, &self.object(secret, name, key)).await)?,
                Some(there) if there.at(&format!("/data/{name}")).is_some() => return Ok(false),
                Some(there) => {
                    let version = self.said(secret, there.version())?;
                    let patch = json!({"metadata": {"resourceVersion": version}, "data": {name: STANDARD.encode(key)}});
                    self.said(secret, self.secrets.change(secret, &patch).await)?
                }
            };
            if written.is_some() {
                return Ok(true);
            }
        }
        Err(StoreError::Away { place: self.place(secret), reason: format!("it was changed by somebody else {ATTEMPTS} times in a row") })
    }
}

#[async_trait]
impl StateStore for SecretsStore {
    fn is_shared(&self) -> bool {
        true
    }

    async fn load(&self) -> Result<Option<(AuthorityState, Version)>, StoreError> {
        let name = self.document();
        let Some(object) = self.said(&name, self.secrets.get(&name).await)? else { return Ok(None) };
        // A Secret without a document is damage, never an invitation to found a second authority.
        let empty = || StoreError::Refused { place: self.place(&name), reason: format!("it has no {DOCUMENT}: restore it from your backup") };
        let bytes = self.entry(&name, &object, DOCUMENT)?.ok_or_else(empty)?;
        Ok(Some((AuthorityState::from_json(&bytes)?, Version(self.said(&name, object.version())?))))
    }

    async fn version(&self) -> Result<Option<Version>, StoreError> {
        let name = self.document();
        Ok(self.said(&name, self.secrets.version(&name).await)?.map(Version))
    }

    async fn swap(&self, expected: Option<&Version>, state: &AuthorityState) -> Result<Version, StoreError> {
        let (name, bytes) = (self.document(), state.to_json()?);
        if bytes.len() > MAX_BYTES {
            return Err(StoreError::TooLarge { place: self.place(&name), bytes: bytes.len(), most: MAX_BYTES });
        }
        let answer = match expected {
            None => self.secrets.create(&name, &self.object(&name, DOCUMENT, &bytes)).await,
            Some(Version(version)) => {
                let patch = json!({"metadata": {"resourceVersion": version}, "data": {DOCUMENT: STANDARD.encode(&bytes)}});
                self.secrets.change(&name, &patch).await
            }
        };
        let written = self.said(&name, answer)?.ok_or(StoreError::Conflict)?;
        Ok(Version(self.said(&name, written.version())?))
    }

    async fn put_key(&self, name: &str, key: &IssuerKey) -> Result<KeyRef, StoreError> {
        let reference = KeyRef(format!("{SCHEME}{name}"));
        name_of(&reference, SCHEME)?;
        let pem = key.to_pem();
        if self.add(&self.secret_of(name), name, pem.as_bytes()).await? {
            return Ok(reference);
        }
        Err(StoreError::KeyUnusable { name: reference.0, reason: "it exists already, and a key is never overwritten".to_owned() })
    }

    async fn key(&self, reference: &KeyRef) -> Result<IssuerKey, StoreError> {
        let name = name_of(reference, SCHEME)?;
        let secret = self.secret_of(name);
        let object = self.said(&secret, self.secrets.get(&secret).await)?;
        let bytes = object.map(|object| self.entry(&secret, &object, name)).transpose()?.flatten();
        let bytes = bytes.ok_or_else(|| StoreError::KeyMissing(reference.0.clone()))?;
        let unusable = |reason: String| StoreError::KeyUnusable { name: reference.0.clone(), reason };
        match std::str::from_utf8(&bytes) {
            Ok(pem) => IssuerKey::from_pem(pem).map_err(|error| unusable(error.to_string())),
            Err(_) => Err(unusable("it is not PEM: restore it from your backup".to_owned())),
        }
    }

    async fn keys(&self) -> Result<Vec<KeyRef>, StoreError> {
        let mut found = Vec::new();
        for secret in [self.secret_of(ISSUING), self.secret_of("")] {
            let Some(object) = self.said(&secret, self.secrets.get(&secret).await)? else { continue };
            let names = object.at("/data").and_then(Value::as_object).into_iter().flat_map(|data| data.keys());
            let references = names.map(|name| KeyRef(format!("{SCHEME}{name}")));
            // What isn't called like a key of ours is somebody else's, and stays.
            found.extend(references.filter(|reference| name_of(reference, SCHEME).is_ok_and(|name| self.secret_of(name) == secret)));
        }
        Ok(found)
    }

    async fn destroy_key(&self, reference: &KeyRef) -> Result<(), StoreError> {
        let name = name_of(reference, SCHEME)?;
        let secret = self.secret_of(name);
        // A name is never used again, so whatever else changed meanwhile doesn't matter.
        let patch = json!({"data": {name: null}});
        self.said(&secret, self.secrets.change(&secret, &patch).await).map(|_| ())
    }
}

impl fmt::Debug for SecretsStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Secrets store {}/{}-…", self.namespace, self.prefix)
    }
}
