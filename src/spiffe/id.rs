//! The SPIFFE ID (SPIFFE-ID §2) and the form that Istio gives it: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{TrustDomain, TrustDomainError};

/// A SPIFFE ID: a trust domain and a path, which is empty or starts with `/`.
///
/// Paths compare byte for byte; a dot is a dot and never a pattern.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    path: String,
}

/// Why a text is not a SPIFFE ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// More than 2048 bytes (SPIFFE-ID §2.3).
    #[error("a SPIFFE ID has at most 2048 bytes")]
    TooLong,
    /// It doesn't start with `spiffe://`.
    #[error("a SPIFFE ID starts with spiffe://")]
    Scheme,
    /// The part between `spiffe://` and the path.
    #[error(transparent)]
    TrustDomain(#[from] TrustDomainError),
    /// A path segment that is empty, or a slash at the end.
    #[error("a path segment can't be empty, and a path can't end with '/'")]
    EmptySegment,
    /// A segment `.` or `..`.
    #[error("a path segment can't be '.' or '..'")]
    DotSegment,
    /// A character outside `[a-zA-Z0-9.-_]`.
    #[error("a path segment may hold only a-z, A-Z, 0-9, '.', '-' and '_'")]
    Character,
    /// The path isn't `/ns/NAMESPACE/sa/ACCOUNT`.
    #[error("the path of a workload's SPIFFE ID is /ns/NAMESPACE/sa/SERVICE-ACCOUNT")]
    NotWorkload,
}

impl SpiffeId {
    /// The longest SPIFFE ID, in bytes (SPIFFE-ID §2.3).
    pub const MAX_BYTES: usize = 2048;

    /// The identity of a Kubernetes service account, rebuilt from its parts.
    ///
    /// # Errors
    /// Where `namespace` or `service_account` isn't a valid path segment, or the whole is too long.
    pub fn workload(trust_domain: &TrustDomain, namespace: &str, service_account: &str) -> Result<Self, IdError> {
        check_segment(namespace)?;
        check_segment(service_account)?;
        let id = Self { trust_domain: trust_domain.clone(), path: format!("/ns/{namespace}/sa/{service_account}") };
        id.check_length()
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path: empty, or starting with `/`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Namespace and service account, where the path has Istio's form.
    ///
    /// # Errors
    /// [`IdError::NotWorkload`] for every other path.
    pub fn namespace_and_service_account(&self) -> Result<(&str, &str), IdError> {
        let mut parts = self.path.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(""), Some("ns"), Some(namespace), Some("sa"), Some(account), None) => Ok((namespace, account)),
            _ => Err(IdError::NotWorkload),
        }
    }

    fn check_length(self) -> Result<Self, IdError> {
        let bytes = "spiffe://".len() + self.trust_domain.as_str().len() + self.path.len();
        if bytes > Self::MAX_BYTES { Err(IdError::TooLong) } else { Ok(self) }
    }
}

fn check_segment(segment: &str) -> Result<(), IdError> {
    match segment {
        "" => Err(IdError::EmptySegment),
        "." | ".." => Err(IdError::DotSegment),
        _ if segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')) => Ok(()),
        _ => Err(IdError::Character),
    }
}

impl FromStr for SpiffeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > Self::MAX_BYTES {
            return Err(IdError::TooLong);
        }
        let rest = text.strip_prefix("spiffe://").ok_or(IdError::Scheme)?;
        let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let trust_domain = domain.parse()?;
        if let Some(segments) = path.strip_prefix('/') {
            segments.split('/').try_for_each(check_segment)?;
        }
        Ok(Self { trust_domain, path: path.to_owned() })
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "spiffe://{}{}", self.trust_domain, self.path)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<SpiffeId, IdError> {
        text.parse()
    }

    #[test]
    fn reads_back_what_it_writes() {
        let domain = "cluster.local".parse().unwrap();
        let id = SpiffeId::workload(&domain, "shop", "cart.v1").unwrap();
        assert_eq!(id.to_string(), "spiffe://cluster.local/ns/shop/sa/cart.v1");
        assert_eq!(parse(&id.to_string()), Ok(id.clone()));
        assert_eq!(id.namespace_and_service_account(), Ok(("shop", "cart.v1")));
    }

    #[test]
    fn refuses_what_the_specification_forbids() {
        for (text, error) in [
            ("", IdError::Scheme),
            ("SPIFFE://a/b", IdError::Scheme),
            ("https://a/b", IdError::Scheme),
            ("spiffe://", IdError::TrustDomain(TrustDomainError::Empty)),
            ("spiffe:///a", IdError::TrustDomain(TrustDomainError::Empty)),
            ("spiffe://user@a/b", IdError::TrustDomain(TrustDomainError::Character)),
            ("spiffe://a:80/b", IdError::TrustDomain(TrustDomainError::Character)),
            ("spiffe://a?q=1", IdError::TrustDomain(TrustDomainError::Character)),
            ("spiffe://a/", IdError::EmptySegment),
            ("spiffe://a/b/", IdError::EmptySegment),
            ("spiffe://a//b", IdError::EmptySegment),
            ("spiffe://a/./b", IdError::DotSegment),
            ("spiffe://a/..", IdError::DotSegment),
            ("spiffe://a/b?q", IdError::Character),
            ("spiffe://a/b#f", IdError::Character),
            ("spiffe://a/b%20c", IdError::Character),
            ("spiffe://a/b,c", IdError::Character),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
        assert_eq!(parse(&format!("spiffe://a/{}", "b".repeat(2048))), Err(IdError::TooLong));
    }

    #[test]
    fn a_workload_has_exactly_two_names() {
        for path in ["", "/ns/a", "/ns/a/sa", "/ns/a/sa/b/c", "/sa/a/ns/b", "/NS/a/sa/b"] {
            let id = parse(&format!("spiffe://td{path}")).unwrap();
            assert_eq!(id.namespace_and_service_account(), Err(IdError::NotWorkload), "{path}");
        }
        let domain = "td".parse().unwrap();
        assert_eq!(SpiffeId::workload(&domain, "a/b", "c"), Err(IdError::Character));
        assert_eq!(SpiffeId::workload(&domain, "", "c"), Err(IdError::EmptySegment));
        assert_eq!(SpiffeId::workload(&domain, "a", ".."), Err(IdError::DotSegment));
        assert_eq!(SpiffeId::workload(&domain, "a", &"x".repeat(2048)), Err(IdError::TooLong));
    }
}
