//! The trust domain: the authority part of a SPIFFE ID (SPIFFE-ID §2.1).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A trust domain name: 1–255 bytes of `[a-z0-9.-_]`, for example `cluster.local`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(Arc<str>);

/// Why a text is not a trust domain name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TrustDomainError {
    /// Nothing was given.
    #[error("a trust domain can't be empty")]
    Empty,
    /// More than 255 bytes (SPIFFE-ID §2.3).
    #[error("a trust domain has at most 255 bytes")]
    TooLong,
    /// A character outside `[a-z0-9.-_]`.
    #[error("a trust domain may hold only a-z, 0-9, '.', '-' and '_'")]
    Character,
}

impl TrustDomain {
    /// The longest name, in bytes (SPIFFE-ID §2.3).
    pub const MAX_BYTES: usize = 255;

    /// The name, for example `cluster.local`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The trust domain's own SPIFFE ID, `spiffe://NAME`: what signing certificates carry (X509-SVID §4.1).
    pub fn id(&self) -> String {
        format!("spiffe://{}", self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = TrustDomainError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if name.is_empty() {
            return Err(TrustDomainError::Empty);
        }
        if name.len() > Self::MAX_BYTES {
            return Err(TrustDomainError::TooLong);
        }
        if !name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_')) {
            return Err(TrustDomainError::Character);
        }
        Ok(Self(name.into()))
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = TrustDomainError;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        name.parse()
    }
}

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> Self {
        domain.0.as_ref().to_owned()
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_the_specification_allows() {
        for name in ["cluster.local", "a", "prod_1-eu.example.org", &"x".repeat(255)] {
            assert_eq!(name.parse::<TrustDomain>().map(|domain| domain.to_string()), Ok(name.to_owned()));
        }
    }

    #[test]
    fn refuses_everything_else() {
        assert_eq!("".parse::<TrustDomain>(), Err(TrustDomainError::Empty));
        assert_eq!("x".repeat(256).parse::<TrustDomain>(), Err(TrustDomainError::TooLong));
        for name in ["Cluster.local", "a b", "a%2fb", "user@host", "host:1", "a/b", "ä", "a,b", "a\n"] {
            assert_eq!(name.parse::<TrustDomain>(), Err(TrustDomainError::Character), "{name:?}");
        }
    }
}
