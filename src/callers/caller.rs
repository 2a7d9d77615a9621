//! Who asks: a token weighed against a client certificate (docs/architecture.md, step 2 of the way of a request).

use time::OffsetDateTime;

use super::token::{ObjectRef, TokenError, TokenIdentity};
use super::token_rules::TokenRules;
use crate::spiffe::SpiffeId;

/// A caller that proved who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its own identity, in our trust domain.
    pub spiffe_id: SpiffeId,
    /// The cluster that it belongs to.
    pub cluster: String,
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Its service account's name.
    pub service_account: String,
    /// Its pod.
    pub pod: Option<ObjectRef>,
    /// The node of its pod.
    pub node: Option<ObjectRef>,
    /// How it proved it.
    pub credential: Credential,
}

/// The proof that decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// A service-account token.
    Token,
    /// A client certificate that we issued.
    ClientCertificate {
        /// The holder that the ledger has for that certificate, as text: a renewal continues it.
        holder: String,
    },
}

/// What became of the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenStanding {
    /// None was sent.
    Absent,
    /// Good.
    Valid(TokenIdentity),
    /// Bad only because it has expired.
    Expired(TokenIdentity),
    /// It says itself that it has expired, and no key is at hand to learn more: no proof of anything, so it counts as none.
    ExpiredUnknownKey,
    /// Anything else.
    Bad(TokenError),
}

/// What became of the client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateStanding {
    /// None was presented.
    Absent,
    /// One was presented and the handshake went on without it.
    NotAccepted(CertificateRejection),
    /// A leaf of ours, on record, valid now.
    Accepted(Box<AcceptedCertificate>),
}

/// What the ledger says of an accepted client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedCertificate {
    /// Its identity.
    pub id: SpiffeId,
    /// The cluster on record.
    pub cluster: String,
    /// The namespace on record.
    pub namespace: String,
    /// The service account on record.
    pub service_account: String,
    /// The pod on record.
    pub pod: Option<ObjectRef>,
    /// The node on record.
    pub node: Option<ObjectRef>,
    /// The holder on record, as text.
    pub holder: String,
}

/// Why a client certificate was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateRejection {
    /// It can't be read, or isn't a workload's X509-SVID.
    #[error("the client certificate is malformed")]
    Malformed,
    /// It chains to no authority of ours.
    #[error("the client certificate was issued by somebody else")]
    UnknownIssuer,
    /// It chains to an authority of ours that is distrusted.
    #[error("the client certificate was issued by a distrusted authority")]
    Distrusted,
    /// It chains to us and is not on record.
    #[error("the client certificate is not on record")]
    UnknownToLedger,
    /// It was revoked.
    #[error("the client certificate was revoked")]
    Revoked,
    /// Its notBefore lies in the future.
    #[error("the client certificate is not valid yet")]
    NotYetValid,
    /// Its notAfter has passed.
    #[error("the client certificate has expired")]
    Expired,
}

/// Why nobody was recognised. The log and the metric name the reason, the wire doesn't.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthenticationError {
    /// Neither token nor client certificate.
    #[error("neither a token nor a client certificate was given")]
    NoCredential,
    /// A token that is bad for more than its expiry; a client certificate doesn't mend that.
    #[error(transparent)]
    BadToken(TokenError),
    /// We can't tell whether the token is good: our trouble ([`TokenError::is_our_trouble`]), to be tried again.
    #[error(transparent)]
    Undecided(TokenError),
    /// The token has expired, and no client certificate was presented.
    #[error("the token has expired and no client certificate was presented")]
    TokenExpired,
    /// No usable token, and a client certificate that was not accepted.
    #[error(transparent)]
    BadCertificate(CertificateRejection),
    /// The token has expired, and the client certificate is of another identity.
    #[error("the token has expired and the client certificate is of another identity")]
    OtherIdentity,
}

/// Who asks. A valid token decides; one that is bad only by expiry falls back to an accepted client certificate of the same identity; no token
/// falls back to any accepted client certificate; any other bad token refuses.
///
/// # Errors
/// [`AuthenticationError`].
pub fn decide(token: TokenStanding, certificate: CertificateStanding) -> Result<Caller, AuthenticationError> {
    use CertificateStanding::{Absent, Accepted, NotAccepted};
    match (token, certificate) {
        (TokenStanding::Valid(identity), Absent | NotAccepted(_) | Accepted(_)) => Ok(identity.into()),
        (TokenStanding::Bad(error), Absent | NotAccepted(_) | Accepted(_)) if error.is_our_trouble() => Err(AuthenticationError::Undecided(error)),
        (TokenStanding::Bad(error), Absent | NotAccepted(_) | Accepted(_)) => Err(AuthenticationError::BadToken(error)),
        (TokenStanding::Expired(identity), Accepted(accepted)) if identity.spiffe_id == accepted.id => Ok((*accepted).into()),
        (TokenStanding::Expired(_), Accepted(_)) => Err(AuthenticationError::OtherIdentity),
        (TokenStanding::Absent | TokenStanding::ExpiredUnknownKey, Accepted(accepted)) => Ok((*accepted).into()),
        (TokenStanding::Absent | TokenStanding::Expired(_) | TokenStanding::ExpiredUnknownKey, NotAccepted(rejection)) => {
            Err(AuthenticationError::BadCertificate(rejection))
        }
        (TokenStanding::Expired(_) | TokenStanding::ExpiredUnknownKey, Absent) => Err(AuthenticationError::TokenExpired),
        (TokenStanding::Absent, Absent) => Err(AuthenticationError::NoCredential),
    }
}

impl TokenStanding {
    /// The standing of a token whose key is not at hand, for a reason that is our trouble: one that says of itself that it has expired can't become
    /// good by waiting for the key.
    pub fn without_key(expires: Option<OffsetDateTime>, trouble: TokenError, rules: &TokenRules, now: OffsetDateTime) -> Self {
        match expires {
            Some(expires_at) if trouble.is_our_trouble() && rules.is_past(expires_at, now) => Self::ExpiredUnknownKey,
            _ => Err(trouble).into(),
        }
    }
}

impl From<Result<TokenIdentity, TokenError>> for TokenStanding {
    fn from(outcome: Result<TokenIdentity, TokenError>) -> Self {
        match outcome {
            Ok(identity) => Self::Valid(identity),
            Err(TokenError::Expired(identity)) => Self::Expired(*identity),
            Err(TokenError::NoCredential) => Self::Absent,
            Err(error) => Self::Bad(error),
        }
    }
}

impl From<TokenIdentity> for Caller {
    fn from(identity: TokenIdentity) -> Self {
        let TokenIdentity { spiffe_id, cluster, namespace, service_account, pod, node, .. } = identity;
        Self { spiffe_id, cluster, namespace, service_account: service_account.name, pod, node, credential: Credential::Token }
    }
}

impl From<AcceptedCertificate> for Caller {
    fn from(accepted: AcceptedCertificate) -> Self {
        let AcceptedCertificate { id, cluster, namespace, service_account, pod, node, holder } = accepted;
        Self { spiffe_id: id, cluster, namespace, service_account, pod, node, credential: Credential::ClientCertificate { holder } }
    }
}

impl CertificateRejection {
    /// The label of this reason in metrics and logs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "certificate_malformed",
            Self::UnknownIssuer => "certificate_unknown_issuer",
            Self::Distrusted => "certificate_distrusted",
            Self::UnknownToLedger => "certificate_unknown_to_ledger",
            Self::Revoked => "certificate_revoked",
            Self::NotYetValid => "certificate_not_yet_valid",
            Self::Expired => "certificate_expired",
        }
    }
}

impl AuthenticationError {
    /// The label of this reason in metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCredential => "no_credential",
            Self::BadToken(error) | Self::Undecided(error) => error.reason(),
            Self::TokenExpired => "expired",
            Self::BadCertificate(rejection) => rejection.reason(),
            Self::OtherIdentity => "certificate_other_identity",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(account: &str) -> SpiffeId {
        SpiffeId::workload(&"cluster.local".parse().unwrap(), "shop", account).unwrap()
    }

    fn token(account: &str) -> TokenIdentity {
        TokenIdentity {
            spiffe_id: id(account),
            cluster: "east".into(),
            namespace: "shop".into(),
            service_account: ObjectRef { name: account.into(), uid: "u".into() },
            pod: None,
            node: None,
            issuer: "https://issuer".into(),
            expires_at: OffsetDateTime::UNIX_EPOCH,
            past_warn_after: false,
        }
    }

    fn certificate(account: &str) -> CertificateStanding {
        CertificateStanding::Accepted(Box::new(AcceptedCertificate {
            id: id(account),
            cluster: "east".into(),
            namespace: "shop".into(),
            service_account: account.into(),
            pod: None,
            node: None,
            holder: "pod:east/u".into(),
        }))
    }

    /// Who was recognised and by what, or the reason why nobody was.
    fn outcome(token: TokenStanding, certificate: CertificateStanding) -> (String, &'static str) {
        match decide(token, certificate) {
            Ok(Caller { service_account, credential: Credential::Token, .. }) => (service_account, "token"),
            Ok(Caller { service_account, credential: Credential::ClientCertificate { holder }, .. }) if holder == "pod:east/u" => {
                (service_account, "certificate")
            }
            Ok(caller) => panic!("{caller:?}"),
            Err(error) => (String::new(), error.reason()),
        }
    }

    #[test]
    fn the_whole_table() {
        use TokenStanding::{Absent, Bad, Expired, ExpiredUnknownKey, Valid};
        let rejected = || CertificateStanding::NotAccepted(CertificateRejection::UnknownIssuer);
        // token; outcome with: no certificate, one that isn't accepted, one of the same identity, one of another
        let table = [
            (Absent, [("", "no_credential"), ("", "certificate_unknown_issuer"), ("cart", "certificate"), ("other", "certificate")]),
            (Valid(token("cart")), [("cart", "token"); 4]),
            (
                Expired(token("cart")),
                [("", "expired"), ("", "certificate_unknown_issuer"), ("cart", "certificate"), ("", "certificate_other_identity")],
            ),
            (ExpiredUnknownKey, [("", "expired"), ("", "certificate_unknown_issuer"), ("cart", "certificate"), ("other", "certificate")]),
            (Bad(TokenError::BadSignature), [("", "bad_signature"); 4]),
            (Bad(TokenError::UnknownKid), [("", "unknown_kid"); 4]),
        ];
        for (token, row) in table {
            let certificates = [CertificateStanding::Absent, rejected(), certificate("cart"), certificate("other")];
            for (certificate, (account, by)) in certificates.into_iter().zip(row) {
                assert_eq!(outcome(token.clone(), certificate.clone()), (account.to_owned(), by), "{token:?} {certificate:?}");
            }
        }
    }

    #[test]
    fn our_trouble_is_told_apart_from_bad_tokens() {
        let decide = |error: TokenError| decide(Err(error).into(), certificate("cart"));
        for error in [TokenError::UnknownKid, TokenError::KeysUnavailable] {
            assert_eq!(decide(error.clone()), Err(AuthenticationError::Undecided(error)));
        }
        for error in [TokenError::MissingKid, TokenError::WrongIssuer, TokenError::Malformed("x"), TokenError::NotYetValid] {
            assert_eq!(decide(error.clone()), Err(AuthenticationError::BadToken(error)));
        }
        assert!(decide(TokenError::NoCredential).is_ok());
        assert!(decide(TokenError::Expired(Box::new(token("cart")))).is_ok());
    }

    #[test]
    fn an_expired_token_without_a_key_counts_as_none() {
        let issuers = [("i".to_owned(), "east".to_owned())].into();
        let skew = Duration::from_secs(30);
        let rules = TokenRules::new("td".parse().unwrap(), issuers, ["a".to_owned()].into(), skew, skew).unwrap();
        let epoch = OffsetDateTime::UNIX_EPOCH;
        let standing = |expires, trouble| TokenStanding::without_key(expires, trouble, &rules, epoch + skew);
        assert_eq!(standing(Some(epoch), TokenError::UnknownKid), TokenStanding::ExpiredUnknownKey);
        assert_eq!(standing(Some(epoch), TokenError::KeysUnavailable), TokenStanding::ExpiredUnknownKey);
        let live = Some(epoch + time::Duration::SECOND);
        assert_eq!(standing(live, TokenError::UnknownKid), TokenStanding::Bad(TokenError::UnknownKid));
        assert_eq!(standing(None, TokenError::UnknownKid), TokenStanding::Bad(TokenError::UnknownKid));
        assert_eq!(standing(Some(epoch), TokenError::WrongIssuer), TokenStanding::Bad(TokenError::WrongIssuer));
    }
}
