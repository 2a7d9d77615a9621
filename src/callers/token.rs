//! What a good token says of its bearer, and every reason why a token is no proof. Both are what the other files here speak in.

use time::OffsetDateTime;

use crate::spiffe::SpiffeId;

/// A Kubernetes object that a token is bound to: the name may come again, the UID never does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObjectRef {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// What a token says of its bearer, after every rule of [`super::TokenRules`] was held to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenIdentity {
    /// The identity, rebuilt from our trust domain, `namespace` and the account's name.
    pub spiffe_id: SpiffeId,
    /// The cluster that the issuer stands for.
    pub cluster: String,
    /// The Kubernetes namespace.
    pub namespace: String,
    /// The service account.
    pub service_account: ObjectRef,
    /// The pod that the token is bound to.
    pub pod: Option<ObjectRef>,
    /// The node that the pod was on when the token was made, or that the token itself is bound to.
    pub node: Option<ObjectRef>,
    /// `iss`.
    pub issuer: String,
    /// `exp`.
    pub expires_at: OffsetDateTime,
    /// Past `warnafter`: an old client doesn't reload its token. A metric, never a refusal.
    pub past_warn_after: bool,
}

/// Why a token is no proof. No variant carries a byte of the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// There is no token, or an empty one.
    #[error("no token was given")]
    NoCredential,
    /// More bytes than any token has.
    #[error("the token is longer than 16 KiB")]
    TooLarge,
    /// It isn't a JWS in compact form with a header and claims in JSON (RFC 7515 §3.1, RFC 7519 §7.2).
    #[error("not a JSON web token: {0}")]
    Malformed(&'static str),
    /// `none`, an HMAC, or an algorithm that isn't known here.
    #[error("the token's algorithm is not one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384")]
    AlgUnsupported,
    /// No `kid`: nobody can say which key signed it.
    #[error("the token names no key (kid)")]
    MissingKid,
    /// Its issuer has no key of that `kid`, as far as we can know. Our trouble: the key may be newer than what we fetched.
    #[error("the issuer has published no key with the token's kid")]
    UnknownKid,
    /// The issuer's keys could not be fetched, or are too old to be believed. Our trouble.
    #[error("the issuer's keys are not available")]
    KeysUnavailable,
    /// The key that `kid` names is of another type, or is meant for another algorithm.
    #[error("the token's algorithm doesn't fit the key that it names")]
    AlgMismatch,
    /// The signature isn't by that key over these bytes.
    #[error("the token's signature is wrong")]
    BadSignature,
    /// A claim is missing, of the wrong type, or out of range.
    #[error("the token's claim {0} is missing or can't be right")]
    BadClaims(&'static str),
    /// An issuer that isn't configured.
    #[error("the token's issuer is not one of ours")]
    WrongIssuer,
    /// Made for somebody else.
    #[error("the token is not meant for this service (aud)")]
    WrongAudience,
    /// `sub` isn't the account of the `kubernetes.io` claims.
    #[error("the token's subject disagrees with its kubernetes.io claims")]
    SubjectMismatch,
    /// A name that can't be part of a SPIFFE ID, or can't be a Kubernetes name or UID.
    #[error("the token's {0} is not a valid name")]
    BadName(&'static str),
    /// Bound to a Secret: such tokens lie about in the API and live for ever.
    #[error("the token is bound to a Secret")]
    SecretBound,
    /// From a cluster that isn't known here (`clusterid`).
    #[error("the caller's cluster is not one of ours")]
    UnknownCluster,
    /// From a cluster that isn't joined yet, or of which nobody can tell yet whether it is one of ours. Our trouble.
    #[error("the caller's cluster is not joined yet")]
    ClusterNotJoined,
    /// Bound to an object of a kind that isn't known here (a webhook's configuration, for example), so nobody could say whether it lives.
    #[error("the token is bound to an object that is neither a pod nor a node")]
    UnknownBinding,
    /// The cluster that it comes from says that it is no good: expired, revoked, or what it is bound to is gone.
    #[error("the cluster's token review refused the token")]
    ReviewRefused,
    /// The cluster could not be asked. Our trouble.
    #[error("the token could not be reviewed")]
    ReviewUnavailable,
    /// Bound to neither a pod nor a node, and made to live too long.
    #[error("the token is bound to no pod or node and lives longer than allowed")]
    UnboundTooLong,
    /// `nbf` or `iat` lies in the future.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// Everything else about it was right: this, and only this, may fall back to a client certificate of the same identity.
    #[error("the token has expired")]
    Expired(Box<TokenIdentity>),
}

impl TokenError {
    /// The label of this reason in metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCredential => "no_credential",
            Self::TooLarge => "too_large",
            Self::Malformed(_) => "malformed",
            Self::AlgUnsupported => "alg_unsupported",
            Self::MissingKid => "missing_kid",
            Self::UnknownKid => "unknown_kid",
            Self::KeysUnavailable => "keys_unavailable",
            Self::AlgMismatch => "alg_mismatch",
            Self::BadSignature => "bad_signature",
            Self::BadClaims(_) => "bad_claims",
            Self::WrongIssuer => "wrong_issuer",
            Self::WrongAudience => "wrong_audience",
            Self::SubjectMismatch => "subject_mismatch",
            Self::BadName(_) => "bad_name",
            Self::SecretBound => "secret_bound",
            Self::UnknownCluster => "unknown_cluster",
            Self::ClusterNotJoined => "cluster_not_joined",
            Self::UnknownBinding => "unknown_binding",
            Self::ReviewRefused => "review_refused",
            Self::ReviewUnavailable => "review_unavailable",
            Self::UnboundTooLong => "unbound_too_long",
            Self::NotYetValid => "not_yet_valid",
            Self::Expired(_) => "expired",
        }
    }

    /// Whether this says nothing about the token but that we couldn't tell: to be answered as our trouble, so that clients try again.
    pub fn is_our_trouble(&self) -> bool {
        matches!(self, Self::UnknownKid | Self::KeysUnavailable | Self::ReviewUnavailable | Self::ClusterNotJoined)
    }
}
