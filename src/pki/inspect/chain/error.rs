//! The steps at which a chain can fail to verify, each with the certificate that is at fault.

use std::fmt;

use serde::Serialize;
use time::OffsetDateTime;

use super::super::text::instant;

/// Which certificate is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    /// One of the chain, counted from 1.
    Certificate(usize),
    /// One of the trusted roots, counted from 1.
    Root(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(position) => write!(formatter, "certificate {position}"),
            Self::Root(position) => write!(formatter, "root {position}"),
        }
    }
}

/// At which step a chain doesn't verify.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// There is no certificate.
    #[error("there is no certificate to verify")]
    Empty,
    /// One certificate can't be read.
    #[error("{0} can't be read as one DER certificate")]
    Unreadable(Place),
    /// Too many certificates, or too many signatures to check.
    #[error("it takes too many steps to find a way to a root")]
    TooManySteps,
    /// The first certificate is a CA, and another one is not.
    #[error("certificate 1 is a CA and {0} is not: a chain begins with its leaf (RFC 8446 §4.4.2)")]
    LeafNotFirst(Place),
    /// The first certificate is no X509-SVID leaf.
    #[error("certificate 1 is not an X509-SVID for a workload: {0}")]
    NotAnSvid(String),
    /// No certificate has the issuer's name: a missing intermediate, or another root.
    #[error("no certificate of the issuer of {place} ({issuer}): an intermediate is missing, or it belongs to another root")]
    NoIssuer {
        /// Whose issuer is missing.
        place: Place,
        /// The issuer's name.
        issuer: String,
    },
    /// The path ends in a self-signed certificate that isn't trusted.
    #[error("{0} is a root that is not among the trusted ones")]
    UntrustedRoot(Place),
    /// Names match, key identifiers don't (RFC 5280 §4.2.1.1).
    #[error("{place} names another key of its issuer than the one of {issuer}: the same name, but another key")]
    KeyIdentifier {
        /// The signed certificate.
        place: Place,
        /// The one with the issuer's name.
        issuer: Place,
    },
    /// The signature isn't by the issuer's key.
    #[error("the signature of {place} is not by the key of {issuer}")]
    Signature {
        /// The signed certificate.
        place: Place,
        /// The one with the issuer's name.
        issuer: Place,
    },
    /// A signature that no peer takes.
    #[error("the signature algorithm of {0} is weak, or not the same inside and outside")]
    SignatureAlgorithm(Place),
    /// A signature that can't be checked here, and not by every peer.
    #[error("the signature of {place} ({algorithm}) can't be checked here, and not by every proxy of a mesh")]
    Uncheckable {
        /// The signed certificate.
        place: Place,
        /// What it is signed with.
        algorithm: String,
    },
    /// It is before notBefore.
    #[error("{place} is not valid before {}", instant(*.from))]
    NotYetValid {
        /// Which one.
        place: Place,
        /// Its notBefore.
        from: OffsetDateTime,
    },
    /// It is after notAfter.
    #[error("{place} expired at {}", instant(*.at))]
    Expired {
        /// Which one.
        place: Place,
        /// Its notAfter.
        at: OffsetDateTime,
    },
    /// It signed a certificate and is no CA (RFC 5280 §4.2.1.9).
    #[error("{0} signed a certificate and is not a CA")]
    NotCa(Place),
    /// It signed a certificate and may not (RFC 5280 §4.2.1.3).
    #[error("{0} signed a certificate and its keyUsage lacks keyCertSign")]
    NoKeyCertSign(Place),
    /// More intermediates below it than it allows (RFC 5280 §4.2.1.9).
    #[error("{place} allows {limit} CAs below it and has {below}")]
    PathLength {
        /// Which one.
        place: Place,
        /// Its pathLenConstraint.
        limit: u32,
        /// CAs below it that aren't self-issued.
        below: u32,
    },
    /// A critical extension that ztunnel (rustls-webpki) or we don't evaluate: a validator must refuse then (RFC 5280 §4.2).
    #[error("{place} has a critical extension that not every proxy of a mesh knows ({extension}): ztunnel refuses the chain")]
    CriticalExtension {
        /// Which one.
        place: Place,
        /// The extension.
        extension: String,
    },
    /// Its extendedKeyUsage forbids what the chain is for.
    #[error("the extendedKeyUsage of {place} lacks {usage}")]
    Purpose {
        /// Which one.
        place: Place,
        /// `serverAuth` or `clientAuth`.
        usage: &'static str,
    },
}

impl ChainError {
    /// A short, stable name of the step for machines.
    pub fn step(&self) -> &'static str {
        match self {
            Self::Empty | Self::Unreadable(_) => "read",
            Self::TooManySteps => "bounds",
            Self::LeafNotFirst(_) => "order",
            Self::NotAnSvid(_) => "svid",
            Self::NoIssuer { .. } => "issuer",
            Self::UntrustedRoot(_) => "root",
            Self::KeyIdentifier { .. } => "keyIdentifier",
            Self::Signature { .. } | Self::SignatureAlgorithm(_) | Self::Uncheckable { .. } => "signature",
            Self::NotYetValid { .. } | Self::Expired { .. } => "validity",
            Self::NotCa(_) => "ca",
            Self::NoKeyCertSign(_) => "keyCertSign",
            Self::PathLength { .. } => "pathLength",
            Self::CriticalExtension { .. } => "criticalExtension",
            Self::Purpose { .. } => "purpose",
        }
    }
}
