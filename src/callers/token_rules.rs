//! What the claims of a token must say: issuer, audience, names, binding, time (istio-contract, "Service-account tokens").
//!
//! Expiry is looked at last, so that [`TokenError::Expired`] means: nothing else was wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use time::OffsetDateTime;

use super::claims::Claims;
use super::jws::VerifiedClaims;
use super::token::{ObjectRef, TokenError, TokenIdentity};
use crate::spiffe::{SpiffeId, TrustDomain};

/// The rules for tokens, checked once when they are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRules {
    trust_domain: TrustDomain,
    issuers: BTreeMap<String, String>,
    audiences: BTreeSet<String>,
    clock_skew: Duration,
    max_lifetime_unbound: Duration,
}

/// Why rules can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// Nobody could be authenticated.
    #[error("at least one issuer of tokens is needed, none of them empty")]
    NoIssuer,
    /// Tokens that are meant for somebody else would be accepted, or none.
    #[error("at least one audience is needed, none of them empty")]
    NoAudience,
    /// It would keep dead tokens alive.
    #[error("the clock skew may be 5 minutes at most")]
    SkewTooLarge,
}

impl TokenRules {
    /// The largest clock skew.
    pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(300);

    /// `issuers` maps `iss` to the cluster that it stands for. `max_lifetime_unbound` is the longest `exp` − `iat` of a token that is bound to
    /// neither a pod nor a node (VMs have such): nothing but its expiry ends it.
    ///
    /// # Errors
    /// [`RulesError`].
    pub fn new(
        trust_domain: TrustDomain,
        issuers: BTreeMap<String, String>,
        audiences: BTreeSet<String>,
        clock_skew: Duration,
        max_lifetime_unbound: Duration,
    ) -> Result<Self, RulesError> {
        if issuers.is_empty() || issuers.contains_key("") {
            return Err(RulesError::NoIssuer);
        }
        if audiences.is_empty() || audiences.contains("") {
            return Err(RulesError::NoAudience);
        }
        if clock_skew > Self::MAX_CLOCK_SKEW {
            return Err(RulesError::SkewTooLarge);
        }
        Ok(Self { trust_domain, issuers, audiences, clock_skew, max_lifetime_unbound })
    }

    /// The same rules for tokens of these issuers alone, who stand for another cluster.
    #[must_use]
    pub fn for_cluster(&self, issuers: &[String], cluster: &str) -> Self {
        Self { issuers: issuers.iter().map(|issuer| (issuer.clone(), cluster.to_owned())).collect(), ..self.clone() }
    }

    /// Whom a verified token speaks for.
    ///
    /// # Errors
    /// The first rule that it breaks; [`TokenError::Expired`] only where it breaks no other.
    pub fn check(&self, verified: VerifiedClaims, now: OffsetDateTime) -> Result<TokenIdentity, TokenError> {
        self.check_claims(verified.into_claims(), now)
    }

    /// Whether tokens of this issuer are accepted at all.
    pub fn knows(&self, issuer: &str) -> bool {
        self.issuers.contains_key(issuer)
    }

    /// Whether `expires_at` has passed, by more than the skew that is allowed to clocks (RFC 7519 §4.1.4).
    pub fn is_past(&self, expires_at: OffsetDateTime, now: OffsetDateTime) -> bool {
        now.saturating_sub(time_of(self.clock_skew)) >= expires_at
    }

    fn check_claims(&self, claims: Claims, now: OffsetDateTime) -> Result<TokenIdentity, TokenError> {
        let cluster = self.issuers.get(&claims.issuer).ok_or(TokenError::WrongIssuer)?;
        if !claims.audiences.iter().any(|audience| self.audiences.contains(audience)) {
            return Err(TokenError::WrongAudience);
        }
        if claims.secret.is_some() {
            return Err(TokenError::SecretBound);
        }
        if claims.bound_to_other {
            return Err(TokenError::UnknownBinding);
        }
        let spiffe_id = self.identity(&claims)?;
        self.check_time(&claims, now)?;
        let identity = TokenIdentity {
            spiffe_id,
            cluster: cluster.clone(),
            namespace: claims.namespace,
            service_account: claims.service_account,
            pod: claims.pod,
            node: claims.node,
            issuer: claims.issuer,
            expires_at: claims.expires_at,
            past_warn_after: claims.warn_after.is_some_and(|warn_after| now >= warn_after),
        };
        if self.is_past(identity.expires_at, now) { Err(TokenError::Expired(Box::new(identity))) } else { Ok(identity) }
    }

    /// The names, which must agree with each other and be fit for a SPIFFE ID and for our records.
    fn identity(&self, claims: &Claims) -> Result<SpiffeId, TokenError> {
        let (namespace, account) = (&claims.namespace, &claims.service_account.name);
        if !is_subject_of(&claims.subject, namespace, account) {
            return Err(TokenError::SubjectMismatch);
        }
        let id = SpiffeId::workload(&self.trust_domain, namespace, account).map_err(|_| TokenError::BadName("namespace or service account"))?;
        check_uid("service account's UID", &claims.service_account.uid)?;
        check_object("pod", claims.pod.as_ref())?;
        check_object("node", claims.node.as_ref())?;
        Ok(id)
    }

    /// Everything about time except expiry.
    fn check_time(&self, claims: &Claims, now: OffsetDateTime) -> Result<(), TokenError> {
        let latest = now.saturating_add(time_of(self.clock_skew));
        let lifetime = claims.expires_at - claims.issued_at;
        if !lifetime.is_positive() {
            return Err(TokenError::BadClaims("exp"));
        }
        if claims.issued_at > latest || claims.not_before.is_some_and(|not_before| not_before > latest) {
            return Err(TokenError::NotYetValid);
        }
        let unbound = claims.pod.is_none() && claims.node.is_none();
        if unbound && lifetime > time_of(self.max_lifetime_unbound) {
            return Err(TokenError::UnboundTooLong);
        }
        Ok(())
    }
}

fn time_of(duration: Duration) -> time::Duration {
    time::Duration::try_from(duration).unwrap_or(time::Duration::MAX)
}

/// Whether `subject` is `system:serviceaccount:NAMESPACE:ACCOUNT`, to the byte.
fn is_subject_of(subject: &str, namespace: &str, account: &str) -> bool {
    let rest = subject.strip_prefix("system:serviceaccount:").and_then(|rest| rest.strip_prefix(namespace));
    rest.and_then(|rest| rest.strip_prefix(':')) == Some(account)
}

fn check_object(what: &'static str, object: Option<&ObjectRef>) -> Result<(), TokenError> {
    let Some(object) = object else { return Ok(()) };
    // The names of pods and nodes are DNS subdomains (RFC 1123), at most 253 bytes.
    let fits = (1..=253).contains(&object.name.len()) && object.name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'));
    if fits { check_uid(what, &object.uid) } else { Err(TokenError::BadName(what)) }
}

/// UIDs become part of a holder's name in the ledger, so nothing that could end a part may be in one. Kubernetes writes UUIDs; a node's may be
/// its name in old tokens.
fn check_uid(what: &'static str, uid: &str) -> Result<(), TokenError> {
    let fits = (1..=253).contains(&uid.len()) && uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    if fits { Ok(()) } else { Err(TokenError::BadName(what)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(second: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(second).unwrap()
    }

    fn object(name: &str) -> ObjectRef {
        ObjectRef { name: name.into(), uid: format!("uid-of-{name}") }
    }

    fn rules() -> TokenRules {
        let issuers = [("https://issuer".to_owned(), "east".to_owned())].into();
        TokenRules::new("cluster.local".parse().unwrap(), issuers, ["istio-ca".to_owned()].into(), MINUTE / 2, MINUTE * 60).unwrap()
    }

    fn good() -> Claims {
        Claims {
            issuer: "https://issuer".into(),
            subject: "system:serviceaccount:shop:cart".into(),
            audiences: vec!["other".into(), "istio-ca".into()],
            expires_at: at(10_000),
            issued_at: at(1000),
            not_before: Some(at(1000)),
            id: None,
            namespace: "shop".into(),
            service_account: object("cart"),
            pod: Some(object("cart-1")),
            node: Some(object("node-1")),
            secret: None,
            warn_after: None,
            bound_to_other: false,
        }
    }

    fn spoiled(spoil: impl FnOnce(&mut Claims)) -> Result<TokenIdentity, TokenError> {
        let mut claims = good();
        spoil(&mut claims);
        rules().check_claims(claims, at(2000))
    }

    #[test]
    fn a_good_token_names_its_bearer() {
        let identity = spoiled(|_| {}).unwrap();
        assert_eq!(identity.spiffe_id.to_string(), "spiffe://cluster.local/ns/shop/sa/cart");
        assert_eq!((identity.cluster.as_str(), identity.pod, identity.past_warn_after), ("east", Some(object("cart-1")), false));
        assert!(spoiled(|claims| claims.warn_after = Some(at(2000))).unwrap().past_warn_after);
        assert!(!spoiled(|claims| claims.warn_after = Some(at(2001))).unwrap().past_warn_after);
    }

    #[test]
    fn each_rule_refuses_for_its_own_reason() {
        assert_eq!(spoiled(|claims| claims.issuer = "https://issuer/".into()), Err(TokenError::WrongIssuer));
        assert_eq!(spoiled(|claims| claims.audiences = vec!["istio-c".into(), "ISTIO-CA".into()]), Err(TokenError::WrongAudience));
        assert_eq!(spoiled(|claims| claims.secret = Some(object("s"))), Err(TokenError::SecretBound));
        assert_eq!(spoiled(|claims| claims.subject = "system:serviceaccount:shop:admin".into()), Err(TokenError::SubjectMismatch));
        assert_eq!(spoiled(|claims| claims.namespace = "admin".into()), Err(TokenError::SubjectMismatch));
        for subject in ["", "shop:cart", "system:serviceaccount:shop:cart2", "system:serviceaccount:shop:", "system:serviceaccount:shopcart"] {
            assert_eq!(spoiled(|claims| claims.subject = subject.into()), Err(TokenError::SubjectMismatch), "{subject}");
        }
        let renamed = |namespace: &str, account: &str| {
            spoiled(|claims| {
                claims.subject = format!("system:serviceaccount:{namespace}:{account}");
                claims.namespace = namespace.into();
                claims.service_account.name = account.into();
            })
        };
        let long = "x".repeat(2048);
        for (namespace, account) in [("", "a"), ("a/b", "c"), ("a", ".."), ("a", "b,c"), ("a", "b:c"), ("a", "ä"), ("a", long.as_str())] {
            assert_eq!(renamed(namespace, account), Err(TokenError::BadName("namespace or service account")), "{namespace} {account}");
        }
        assert_eq!(renamed("a", "b.c").unwrap().spiffe_id.path(), "/ns/a/sa/b.c");
        assert_eq!(spoiled(|claims| claims.service_account.uid = String::new()), Err(TokenError::BadName("service account's UID")));
        assert_eq!(spoiled(|claims| claims.pod = Some(object("Pod"))), Err(TokenError::BadName("pod")));
        assert_eq!(spoiled(|claims| claims.node = Some(ObjectRef { name: "n".into(), uid: "a/b".into() })), Err(TokenError::BadName("node")));
    }

    #[test]
    fn time_has_a_bounded_skew() {
        assert!(spoiled(|claims| claims.issued_at = at(2030)).is_ok());
        assert_eq!(spoiled(|claims| claims.issued_at = at(2031)), Err(TokenError::NotYetValid));
        assert!(spoiled(|claims| claims.not_before = Some(at(2030))).is_ok());
        assert_eq!(spoiled(|claims| claims.not_before = Some(at(2031))), Err(TokenError::NotYetValid));
        assert_eq!(spoiled(|claims| claims.expires_at = at(1000)), Err(TokenError::BadClaims("exp")));
        assert!(spoiled(|claims| claims.expires_at = at(1971)).is_ok());
        let Err(TokenError::Expired(identity)) = spoiled(|claims| claims.expires_at = at(1970)) else { panic!("not expired") };
        assert_eq!(identity.spiffe_id.path(), "/ns/shop/sa/cart");
    }

    #[test]
    fn expiry_never_hides_another_reason() {
        let expired = |spoil: fn(&mut Claims)| {
            spoiled(|claims| {
                claims.expires_at = at(1500);
                spoil(claims);
            })
            .map_err(|error| error.reason())
        };
        assert_eq!(expired(|_| {}), Err("expired"));
        assert_eq!(expired(|claims| claims.issuer = "x".into()), Err("wrong_issuer"));
        assert_eq!(expired(|claims| claims.audiences = vec!["x".into()]), Err("wrong_audience"));
        assert_eq!(expired(|claims| claims.secret = Some(object("s"))), Err("secret_bound"));
        assert_eq!(expired(|claims| claims.subject = "x".into()), Err("subject_mismatch"));
        assert_eq!(expired(|claims| claims.pod = Some(object("/"))), Err("bad_name"));
        assert_eq!(expired(|claims| claims.not_before = Some(at(3000))), Err("not_yet_valid"));
    }

    #[test]
    fn only_unbound_tokens_have_a_longest_lifetime() {
        let unbound = |lifetime: i64| {
            spoiled(|claims| {
                (claims.pod, claims.node) = (None, None);
                claims.expires_at = at(1000 + lifetime);
            })
        };
        assert!(unbound(3600).is_ok());
        assert_eq!(unbound(3601), Err(TokenError::UnboundTooLong));
        for bound in [|claims: &mut Claims| claims.pod = None, |claims: &mut Claims| claims.node = None] {
            assert!(spoiled(bound).is_ok());
        }
    }

    #[test]
    fn no_instant_panics_and_senseless_rules_are_refused() {
        let end = OffsetDateTime::from_unix_timestamp(253_402_300_799).unwrap();
        let claims = Claims { expires_at: end, issued_at: at(0), ..good() };
        assert!(rules().check_claims(claims, end - MINUTE).is_ok());
        assert!(matches!(rules().check_claims(good(), end), Err(TokenError::Expired(_))));
        let make = |issuers: &[&str], audiences: &[&str], skew| {
            let issuers = issuers.iter().map(|issuer| ((*issuer).to_owned(), String::new())).collect();
            TokenRules::new("a".parse().unwrap(), issuers, audiences.iter().map(|audience| (*audience).to_owned()).collect(), skew, Duration::MAX)
                .err()
        };
        assert_eq!(make(&["i"], &["a"], MINUTE * 5), None);
        assert_eq!(make(&[], &["a"], MINUTE), Some(RulesError::NoIssuer));
        assert_eq!(make(&["i", ""], &["a"], MINUTE), Some(RulesError::NoIssuer));
        assert_eq!(make(&["i"], &[], MINUTE), Some(RulesError::NoAudience));
        assert_eq!(make(&["i"], &["a", ""], MINUTE), Some(RulesError::NoAudience));
        assert_eq!(make(&["i"], &["a"], MINUTE * 6), Some(RulesError::SkewTooLarge));
    }
}
