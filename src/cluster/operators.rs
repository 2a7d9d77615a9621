//! People and programs that operate us over the network: the cluster says who a token stands for (TokenReview, for an audience of our own) and
//! whether that user may do what he asks (SubjectAccessReview), so Kubernetes RBAC decides.
//!
//! Both are bounded like all live looks, and an answer is good for a moment only. A token is never in an error or a log line; what is kept is kept
//! under its SHA-256.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use kube::core::Request;
use kube::core::params::PostParams;
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;

use super::api_server::{ApiError, ApiServer};
use super::lookups::{LookupLimits, Lookups};
use super::token_review::{User, user_of};
use crate::clock::Clock;

/// The API group of the resources that RBAC rules name. No object of them exists.
pub const GROUP: &str = "meshmint.io";

/// Callers that may wait for an answer at once, for each question that may be under way.
const WAITING: usize = 16;
/// The answer repeats the question.
const MAX_ANSWER_BYTES: usize = 256 << 10;

/// Whether the API server can read what it stores, as it last found a moment ago: everybody who has an account may ask that.
const READY: &str = "/readyz";
const ACCESS_REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

/// A user whom a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterUser {
    /// The user's name in Kubernetes, for example `system:serviceaccount:NAMESPACE:NAME`.
    pub name: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
    token: [u8; 32],
}

#[cfg(test)]
impl ClusterUser {
    /// One of this name, for tests: nobody's token.
    pub(crate) fn named(name: &str) -> Self {
        Self { name: name.to_owned(), uid: String::new(), groups: Vec::new(), extra: BTreeMap::new(), token: [0; 32] }
    }
}

/// What somebody wants to do, in RBAC's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Permission {
    /// For example `list`.
    pub verb: &'static str,
    /// A resource of [`GROUP`], for example `certificates`.
    pub resource: &'static str,
}

/// A question that nobody could answer at the moment: our trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cluster could not be asked")]
pub struct NobodyKnows;

/// Asks the API server of the cluster.
pub struct Operators {
    api: Arc<ApiServer>,
    audience: String,
    users: Lookups<[u8; 32], Option<ClusterUser>>,
    permissions: Lookups<([u8; 32], Permission), bool>,
    waiting: Semaphore,
}

impl Operators {
    /// Tokens must be meant for `audience`.
    pub fn new(api: Arc<ApiServer>, audience: String, limits: LookupLimits, clock: Arc<dyn Clock>) -> Self {
        let users = Lookups::new(clock.clone(), limits);
        Self { api, audience, users, permissions: Lookups::new(clock, limits), waiting: Semaphore::new(limits.at_once.saturating_mul(WAITING)) }
    }

    /// Whom this token stands for; `None` where it stands for nobody.
    ///
    /// # Errors
    /// [`NobodyKnows`].
    pub async fn user(&self, token: &str) -> Result<Option<ClusterUser>, NobodyKnows> {
        let key = key(token);
        if let Some(known) = self.users.known(&key) {
            return Ok(known);
        }
        let _waiting = self.waiting.try_acquire().map_err(|_| NobodyKnows)?;
        let (api, audiences, token) = (self.api.clone(), BTreeSet::from([self.audience.clone()]), token.to_owned());
        let look = |limit: Duration| async move {
            let user = user_of(&api, &token, &audiences, READY, limit).await?;
            Ok(user.map(|User { username: name, uid, groups, extra }| ClusterUser { name, uid, groups, extra, token: key }))
        };
        self.users.find(key, look).await.ok_or(NobodyKnows)
    }

    /// Whether RBAC lets him do this.
    ///
    /// # Errors
    /// [`NobodyKnows`].
    pub async fn allows(&self, user: &ClusterUser, permission: Permission) -> Result<bool, NobodyKnows> {
        let key = (user.token, permission);
        if let Some(known) = self.permissions.known(&key) {
            return Ok(known);
        }
        let _waiting = self.waiting.try_acquire().map_err(|_| NobodyKnows)?;
        let ClusterUser { name, uid, groups, extra, .. } = user;
        let body = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {
                "user": name, "uid": uid, "groups": groups, "extra": extra,
                "resourceAttributes": { "group": GROUP, "resource": permission.resource, "verb": permission.verb },
            },
        });
        let api = self.api.clone();
        let look = |limit: Duration| async move {
            let request = Request::new(ACCESS_REVIEWS).create(&PostParams::default(), body.to_string().into_bytes());
            let request = request.map_err(|error| ApiError::Access(error.to_string()))?;
            let answer: AccessReview = api.read(request, MAX_ANSWER_BYTES, limit).await?;
            Ok(answer.allowed())
        };
        self.permissions.find(key, look).await.ok_or(NobodyKnows)
    }

    /// Whom this token stands for, where both that and his permission were found out a moment ago. Nobody is asked.
    pub fn remembers(&self, token: &str, permission: Permission) -> Option<ClusterUser> {
        let user = self.users.known(&key(token))??;
        self.permissions.known(&(user.token, permission))?.then_some(user)
    }
}

/// What a token is kept under.
fn key(token: &str) -> [u8; 32] {
    let mut key = [0; 32];
    key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    key
}

impl Debug for Operators {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Operators({:?}, {})", self.api, self.audience)
    }
}

#[derive(Deserialize)]
struct AccessReview {
    status: AccessStatus,
}

#[derive(Deserialize)]
struct AccessStatus {
    #[serde(default)]
    allowed: bool,
    #[serde(default)]
    denied: bool,
}

impl AccessReview {
    /// An authoriser may deny what another allows.
    fn allowed(&self) -> bool {
        self.status.allowed && !self.status.denied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_denied_or_not_allowed_is_not_allowed() {
        let allowed = |status: &str| serde_json::from_str::<AccessReview>(&format!(r#"{{"status":{status}}}"#)).unwrap().allowed();
        assert!(allowed(r#"{"allowed":true}"#));
        for not in [r#"{"allowed":false}"#, r#"{"allowed":true,"denied":true}"#, r#"{"reason":"no opinion"}"#] {
            assert!(!allowed(not), "{not}");
        }
    }
}
