//! TokenReview: the cluster that a token comes from says whether it is good. It costs a request to the API server, so it is asked only where the
//! operator wants that (`tokens.verification: tokenReview`), or for a token whose key nobody published.
//!
//! A no may be the API server's own trouble: where it can't read what it stores, a token of a pod that it doesn't know yet gets the same answer as one
//! of a pod that is gone. So a no counts only after the API server has shown that it can read.
//!
//! Few at once and few in a second, one for everybody who shows the same token, and each verdict good for a moment, as the API server itself
//! keeps them. A token is never in an error or a log line; verdicts are kept under its SHA-256.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kube::core::Request;
use kube::core::params::PostParams;
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;

use super::api_server::{ApiError, ApiServer};
use super::lookups::{LookupCounts, LookupLimits, Lookups};
use crate::clock::Clock;

/// What a cluster says of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reviewed {
    /// It is good, and stands for this user.
    Good {
        /// `system:serviceaccount:NAMESPACE:NAME`.
        username: String,
        /// The service account's UID.
        uid: String,
    },
    /// It is not.
    Bad,
    /// Nobody can tell at the moment: our trouble.
    Unknown,
}

/// Reviews tokens.
#[async_trait]
pub trait TokenReviewer: Send + Sync + Debug {
    /// What the cluster says of this token.
    async fn review(&self, token: &str) -> Reviewed;
}

/// Reviews tokens by the API server of a cluster.
pub struct Reviewer {
    api: Arc<ApiServer>,
    audiences: BTreeSet<String>,
    verdicts: Lookups<[u8; 32], Reviewed>,
    /// Callers that may wait for a verdict at once.
    waiting: Semaphore,
}

/// A read of what the API server stores, which it answers from etcd and not from its memory; rbac.yaml lets us read service accounts. Whether there is
/// this one doesn't matter. (`/readyz` won't do here: it shows a verdict on etcd that may be seconds old.)
const ANY_ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/default";
const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
/// For each review at once, callers that may wait for a verdict: everybody can show a token that must be reviewed, the same one a thousand times, and
/// while the API server is slow nobody else would have room.
const WAITING: usize = 16;
/// The answer repeats the token.
const MAX_ANSWER_BYTES: usize = 256 << 10;

impl Reviewer {
    /// Tokens must be meant for one of `audiences`.
    pub fn new(api: Arc<ApiServer>, audiences: BTreeSet<String>, limits: LookupLimits, clock: Arc<dyn Clock>) -> Self {
        Self { api, audiences, verdicts: Lookups::new(clock, limits), waiting: Semaphore::new(limits.at_once.saturating_mul(WAITING)) }
    }

    /// How often the API server was asked.
    pub fn counts(&self) -> LookupCounts {
        self.verdicts.counts()
    }
}

#[async_trait]
impl TokenReviewer for Reviewer {
    async fn review(&self, token: &str) -> Reviewed {
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        if let Some(verdict) = self.verdicts.known(&key) {
            return verdict;
        }
        let Ok(_waiting) = self.waiting.try_acquire() else { return Reviewed::Unknown };
        let (api, audiences, token) = (self.api.clone(), self.audiences.clone(), token.to_owned());
        let look = |limit: Duration| async move {
            let user = user_of(&api, &token, &audiences, ANY_ACCOUNT, limit).await?;
            Ok(user.map_or(Reviewed::Bad, |User { username, uid, .. }| Reviewed::Good { username, uid }))
        };
        self.verdicts.find(key, look).await.unwrap_or(Reviewed::Unknown)
    }
}

impl Debug for Reviewer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Reviewer({:?})", self.api)
    }
}

/// Who a token stands for, for one of these audiences; `None`: nobody, and the API server answered at `proof` after it said so.
pub(super) async fn user_of(
    api: &ApiServer,
    token: &str,
    audiences: &BTreeSet<String>,
    proof: &str,
    limit: Duration,
) -> Result<Option<User>, ApiError> {
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": { "token": token, "audiences": audiences },
    });
    let request = Request::new(PATH).create(&PostParams::default(), body.to_string().into_bytes());
    let request = request.map_err(|error| ApiError::Access(error.to_string()))?;
    let answer: Answer = api.read(request, MAX_ANSWER_BYTES, limit).await?;
    if !answer.status.authenticated && !answer.status.error.is_empty() {
        match api.document(proof, "*/*", MAX_ANSWER_BYTES, limit).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
    }
    Ok(answer.user(audiences))
}

#[derive(Deserialize)]
struct Answer {
    status: Status,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    authenticated: bool,
    #[serde(default)]
    audiences: Vec<String>,
    #[serde(default)]
    user: User,
    #[serde(default)]
    error: String,
}

/// Who a token stands for.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct User {
    #[serde(default)]
    pub(super) username: String,
    #[serde(default)]
    pub(super) uid: String,
    #[serde(default)]
    pub(super) groups: Vec<String>,
    #[serde(default)]
    pub(super) extra: BTreeMap<String, Vec<String>>,
}

impl Answer {
    /// An API server that knows nothing of audiences would accept tokens that are meant for somebody else, so it must name one of ours.
    fn user(self, audiences: &BTreeSet<String>) -> Option<User> {
        let Status { authenticated, audiences: met, user, .. } = self.status;
        let good = authenticated && !user.username.is_empty() && met.iter().any(|audience| audiences.contains(audience));
        good.then_some(user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_stands_for_somebody_only_with_a_name_and_an_audience_of_ours() {
        let user = |answer: &str| serde_json::from_str::<Answer>(answer).unwrap().user(&["istio-ca".to_owned()].into());
        let alice = r#""user":{"username":"alice","uid":"u","groups":["ops"],"extra":{"k":["v"]}}"#;
        let good = user(&format!(r#"{{"status":{{"authenticated":true,"audiences":["other","istio-ca"],{alice}}}}}"#)).unwrap();
        assert_eq!(
            good,
            User { username: "alice".into(), uid: "u".into(), groups: vec!["ops".into()], extra: [("k".into(), vec!["v".into()])].into() }
        );
        for bad in [
            format!(r#"{{"status":{{"authenticated":true,{alice}}}}}"#),
            format!(r#"{{"status":{{"authenticated":true,"audiences":["https://kubernetes.default.svc"],{alice}}}}}"#),
            format!(r#"{{"status":{{"audiences":["istio-ca"],{alice}}}}}"#),
            r#"{"status":{"authenticated":true,"audiences":["istio-ca"]}}"#.to_owned(),
            r#"{"status":{"error":"invalid bearer token"}}"#.to_owned(),
            r#"{"status":{}}"#.to_owned(),
        ] {
            assert_eq!(user(&bad), None, "{bad}");
        }
    }
}
