//! Why a request is refused. `server::refusals` has the one table from here to gRPC codes and public sentences.

use crate::callers::{AuthenticationError, Denial, TokenError};
use crate::pki::CsrError;

/// A refusal. Its `Display` is for logs: it may name an identity, and never holds a token or a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The request itself can't be accepted.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Nobody we know.
    #[error("not authenticated: {0}")]
    Unauthenticated(#[from] AuthenticationError),
    /// The credential is no credential.
    #[error("not authenticated: {0}")]
    UnusableCredential(&'static str),
    /// A good token of something that is gone.
    #[error("not authenticated: what the token is bound to is gone: {0}")]
    Gone(&'static str),
    /// Known, but that identity isn't his to ask for.
    #[error("denied: {0}")]
    Denied(#[from] Denial),
    /// Too much at once.
    #[error("too many requests are in progress")]
    Overloaded,
    /// Our own trouble: the same request may succeed later.
    #[error("unavailable: {0}")]
    Unavailable(#[from] Trouble),
}

/// What is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The CSR.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// A signer that nobody here goes by.
    #[error("CertSigner {0:?} is not known here")]
    UnknownCertSigner(String),
    /// A metadata field of another type.
    #[error("metadata field {0} must be a string")]
    MetadataType(&'static str),
}

/// What keeps us from answering.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Keys to check tokens with: [`TokenError::is_our_trouble`].
    #[error("{0}")]
    Keys(TokenError),
    /// The ledger didn't take the record, or could not be asked.
    #[error("{0}")]
    Ledger(String),
    /// No authority may sign: it ends too soon, or was fenced off.
    #[error("{0}")]
    Authority(String),
    /// What lives in the caller's cluster could not be learnt.
    #[error("nobody can tell at the moment what lives in the caller's cluster")]
    Liveness,
    /// The operating system gave no random bytes.
    #[error("no random bytes")]
    Entropy,
}

impl Refusal {
    /// A short name for metrics and logs; it never carries an identity.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Request(RequestError::Csr(error)) => error.reason(),
            Self::Request(RequestError::UnknownCertSigner(_)) => "unknown_cert_signer",
            Self::Request(RequestError::MetadataType(_)) => "metadata_type",
            Self::Unauthenticated(error) => error.reason(),
            Self::UnusableCredential(reason) | Self::Gone(reason) => reason,
            Self::Denied(denial) => denial.reason(),
            Self::Overloaded => "overloaded",
            Self::Unavailable(Trouble::Keys(error)) => error.reason(),
            Self::Unavailable(Trouble::Ledger(_)) => "ledger_unavailable",
            Self::Unavailable(Trouble::Authority(_)) => "authority_unavailable",
            Self::Unavailable(Trouble::Liveness) => "liveness_unavailable",
            Self::Unavailable(Trouble::Entropy) => "no_entropy",
        }
    }
}
