//! People and programs that operate us over the network: the cluster says who a token stands for (TokenReview, for an audience of our own) and
//! whether that user may do what he asks (SubjectAccessReview), so Kubernetes RBAC decides.
//!
//! Both are bounded like all live looks, and an answer is good for a moment only. A token is never in an error or a log line; what is kept is kept
//! under its SHA-256.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use kube::core::Request;
use kube::core::params::PostParams;
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::api_server::{ApiError, ApiServer};
use super::lookups::{LookupLimits, Lookups};
use crate::clock::Clock;

/// The API group of the resources that RBAC rules name. No object of them exists.
pub const GROUP: &str = "meshmint.io";

/// Callers that may wait for an answer at once, for each question that may be under way.
const WAITING: usize = 16;
/// The answers repeat the question.
const MAX_ANSWER_BYTES: usize = 256 << 10;

const TOKEN_REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const ACCESS_REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

/// Whom a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// The user's name in Kubernetes, for example `system:serviceaccount:NAMESPACE:NAME`.
    pub name: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
    token: [u8; 32],
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
    users: Lookups<[u8; 32], Option<Operator>>,
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
    pub async fn who(&self, token: &str) -> Result<Option<Operator>, NobodyKnows> {
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        if let Some(known) = self.users.known(&key) {
            return Ok(known);
        }
        let _waiting = self.waiting.try_acquire().map_err(|_| NobodyKnows)?;
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": { "token": token, "audiences": [self.audience] },
        });
        let (api, audience) = (self.api.clone(), self.audience.clone());
        let look = |limit: Duration| async move {
            let answer: TokenReview = post(&api, TOKEN_REVIEWS, &body, limit).await?;
            Ok(answer.operator(&audience, key))
        };
        self.users.find(key, look).await.ok_or(NobodyKnows)
    }

    /// Whether RBAC lets him do this.
    ///
    /// # Errors
    /// [`NobodyKnows`].
    pub async fn may(&self, operator: &Operator, permission: Permission) -> Result<bool, NobodyKnows> {
        let key = (operator.token, permission);
        if let Some(known) = self.permissions.known(&key) {
            return Ok(known);
        }
        let _waiting = self.waiting.try_acquire().map_err(|_| NobodyKnows)?;
        let Operator { name, uid, groups, extra, .. } = operator;
        let body = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {
                "user": name, "uid": uid, "groups": groups, "extra": extra,
                "resourceAttributes": { "group": GROUP, "resource": permission.resource, "verb": permission.verb },
            },
        });
        let api = self.api.clone();
        let look = |limit: Duration| async move {
            let answer: AccessReview = post(&api, ACCESS_REVIEWS, &body, limit).await?;
            Ok(answer.allowed())
        };
        self.permissions.find(key, look).await.ok_or(NobodyKnows)
    }
}

async fn post<T: serde::de::DeserializeOwned>(api: &ApiServer, path: &str, body: &Value, limit: Duration) -> Result<T, ApiError> {
    let request = Request::new(path).create(&PostParams::default(), body.to_string().into_bytes());
    api.read(request.map_err(|error| ApiError::Access(error.to_string()))?, MAX_ANSWER_BYTES, limit).await
}

impl Debug for Operators {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Operators({:?}, {})", self.api, self.audience)
    }
}

#[derive(Deserialize)]
struct TokenReview {
    status: TokenStatus,
}

#[derive(Deserialize)]
struct TokenStatus {
    #[serde(default)]
    authenticated: bool,
    #[serde(default)]
    audiences: Vec<String>,
    #[serde(default)]
    user: UserInfo,
}

#[derive(Default, Deserialize)]
struct UserInfo {
    #[serde(default)]
    username: String,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    extra: BTreeMap<String, Vec<String>>,
}

impl TokenReview {
    /// An API server that knows nothing of audiences would accept tokens that are meant for somebody else, so it must name ours.
    fn operator(self, audience: &str, token: [u8; 32]) -> Option<Operator> {
        let TokenStatus { authenticated, audiences, user } = self.status;
        let UserInfo { username: name, uid, groups, extra } = user;
        let good = authenticated && !name.is_empty() && audiences.iter().any(|met| met == audience);
        good.then_some(Operator { name, uid, groups, extra, token })
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
    fn a_user_is_known_only_with_our_audience_and_a_name() {
        let operator = |answer: &str| serde_json::from_str::<TokenReview>(answer).unwrap().operator("meshmint-admin", [7; 32]);
        let user = r#""user":{"username":"alice","uid":"u","groups":["ops"],"extra":{"k":["v"]}}"#;
        let good = operator(&format!(r#"{{"status":{{"authenticated":true,"audiences":["meshmint-admin"],{user}}}}}"#)).unwrap();
        assert_eq!(
            (good.name.as_str(), good.uid.as_str(), good.groups, good.extra),
            ("alice", "u", vec!["ops".into()], [("k".into(), vec!["v".into()])].into())
        );
        for bad in [
            format!(r#"{{"status":{{"authenticated":true,{user}}}}}"#),
            format!(r#"{{"status":{{"authenticated":true,"audiences":["istio-ca"],{user}}}}}"#),
            format!(r#"{{"status":{{"audiences":["meshmint-admin"],{user}}}}}"#),
            r#"{"status":{"authenticated":true,"audiences":["meshmint-admin"]}}"#.to_owned(),
            r#"{"status":{}}"#.to_owned(),
        ] {
            assert_eq!(operator(&bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_denied_or_not_allowed_is_not_allowed() {
        let allowed = |status: &str| serde_json::from_str::<AccessReview>(&format!(r#"{{"status":{status}}}"#)).unwrap().allowed();
        assert!(allowed(r#"{"allowed":true}"#));
        for not in [r#"{"allowed":false}"#, r#"{"allowed":true,"denied":true}"#, r#"{"reason":"no opinion"}"#] {
            assert!(!allowed(not), "{not}");
        }
    }
}
