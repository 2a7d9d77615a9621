//! A token of a service account, by the TokenRequest API: what an operator may make for an account that he is allowed to act as.

use std::time::Duration;

use kube::core::Request;
use kube::core::params::PostParams;
use serde::Deserialize;
use serde_json::json;

use super::api_server::{ApiError, ApiServer};

/// The longest answer.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// A token.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Token {
    pub(super) token: String,
    /// When it expires, as the API server says.
    pub(super) expiration_timestamp: String,
}

#[derive(Deserialize)]
struct Answer {
    status: Token,
}

/// A token of the account (namespace and name), for this audience or for the API server's own. The API server may cut its lifetime.
///
/// # Errors
/// [`ApiError`].
pub(super) async fn request(
    api: &ApiServer,
    (namespace, account): (&str, &str),
    audience: Option<&str>,
    lifetime: Duration,
    limit: Duration,
) -> Result<Token, ApiError> {
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    let spec = json!({"expirationSeconds": lifetime.as_secs(), "audiences": audience.map(|audience| [audience])});
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let request = Request::new(path).create(&PostParams::default(), body.to_string().into_bytes());
    let answer: Answer = api.read(request.map_err(|error| ApiError::Access(error.to_string()))?, MAX_ANSWER_BYTES, limit).await?;
    Ok(answer.status)
}
