//! The seam for upstream issuers: our request out, a chain in. Renewal goes through the same steps whoever signs.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use crate::authority::Certified;

/// A request for an issuing certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuingRequest {
    /// PKCS#10, PEM, signed by the new issuing key.
    pub csr_pem: String,
    /// The common name that it should have; never used before.
    pub common_name: String,
    /// The lifetime that we would like.
    pub lifetime: Duration,
}

/// Somebody else who signs our issuing keys (an enterprise CA, cert-manager, Vault).
#[async_trait]
pub trait UpstreamIssuer: Send + Sync + Debug {
    /// Has an issuing key certified. Asked again with the same request after a failure.
    ///
    /// # Errors
    /// [`UpstreamError`]: the issuing key in use goes on, and the loop asks again.
    async fn certify(&self, request: &IssuingRequest) -> Result<Certified, UpstreamError>;
}

/// The upstream issuer didn't sign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the upstream issuer did not sign: {0}")]
pub struct UpstreamError(pub String);
