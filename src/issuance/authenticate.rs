//! Step 2: who asks. A token is checked against its issuer's keys, a client certificate against our authorities and the ledger;
//! `callers::decide` then says which of them counts.

use std::sync::Arc;

use super::ask::LookedUp;
use super::{Admission, Observer, PresentedCertificate, Refusal, Trouble};
use crate::authority::{AcceptedIssuers, Rejection};
use crate::callers::{
    AcceptedCertificate, AuthenticationError, Caller, CertificateRejection, CertificateStanding, Credential, TokenError, TokenIdentity, TokenRules,
    TokenStanding, UnverifiedToken, decide,
};
use crate::clock::Clock;
use crate::cluster::{Bound, Clusters, KeyTrouble, Life, Member, Named, Review, Reviewed, TokenReviewer};
use crate::ledger::{Kind, Ledger, LedgerError, StoredCertificate};

/// Finds out who asks. It calls nobody for a token whose key is at hand, and looks a client certificate up once for each connection.
#[derive(Debug)]
pub struct Authenticator {
    /// The clusters that callers may be in: how tokens are verified, and whether what is behind them still exists.
    pub clusters: Arc<Clusters>,
    /// Told of tokens that are good and old.
    pub observer: Arc<dyn Observer>,
    /// Which certificates are ours.
    pub ledger: Arc<dyn Ledger>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

impl Authenticator {
    /// The caller behind a token, a client certificate, or both; a token is checked only against `cluster`, the one that the caller says it is in.
    ///
    /// # Errors
    /// [`Refusal::Unauthenticated`]; [`Refusal::Unavailable`] where we couldn't tell, because agents give up on the first and retry the second;
    /// [`Refusal::Overloaded`] where `admission` would turn the caller away anyhow.
    pub async fn authenticate(
        &self,
        cluster: Option<&str>,
        token: Option<&str>,
        certificate: Option<&PresentedCertificate>,
        accepted: &AcceptedIssuers,
        admission: &Admission,
    ) -> Result<Caller, Refusal> {
        let token = self.token_standing(cluster, token, admission).await?;
        let certificate = match (&token, certificate) {
            // A valid token decides, a bad one refuses: the certificate isn't worth a lookup.
            (TokenStanding::Valid(_) | TokenStanding::Bad(_), _) | (_, None) => CertificateStanding::Absent,
            (_, Some(certificate)) => self.certificate_standing(certificate, accepted).await?,
        };
        let caller = decide(token, certificate).map_err(|error| match error {
            AuthenticationError::Undecided(error) => Trouble::Keys(error).into(),
            error => Refusal::Unauthenticated(error),
        })?;
        if let Credential::ClientCertificate { .. } = &caller.credential {
            // Without this a certificate would renew for ever after its pod was deleted. (A token was looked at when it was checked.)
            let Caller { cluster, namespace, service_account, pod, node, .. } = &caller;
            self.alive(Bound { cluster, namespace, service_account, service_account_uid: None, pod: pod.as_ref(), node: node.as_ref() }).await?;
        }
        Ok(caller)
    }

    async fn token_standing(&self, cluster: Option<&str>, token: Option<&str>, admission: &Admission) -> Result<TokenStanding, Refusal> {
        let Some(text) = token else { return Ok(TokenStanding::Absent) };
        let token = match UnverifiedToken::parse(text) {
            Ok(token) => token,
            Err(error) => return Ok(Err(error).into()),
        };
        if let Some(hint) = token.account() {
            admission.foresee(&hint)?;
        }
        let Some(issuer) = token.issuer() else { return Ok(TokenStanding::Bad(TokenError::BadClaims("iss"))) };
        let member = match self.clusters.find(cluster) {
            Named::Known(member) => member,
            Named::NotYet => return Ok(TokenStanding::Bad(TokenError::ClusterNotJoined)),
            Named::Unknown => return Ok(TokenStanding::Bad(TokenError::UnknownCluster)),
        };
        let Member { key_sets, rules, review, .. } = member.as_ref();
        if !rules.knows(issuer) {
            return Ok(TokenStanding::Bad(TokenError::WrongIssuer));
        }
        if let Review::Always(reviewer) = review {
            return self.reviewed_standing(rules, text, token, reviewer.as_ref(), TokenError::ReviewUnavailable).await;
        }
        let key = match (key_sets.key(issuer, token.kid()).await, review) {
            (Ok(key), _) => key,
            // Servers behind one address may publish a new key at different moments, and an external signer may leave one out.
            (Err(trouble @ (KeyTrouble::UnknownKey | KeyTrouble::RefetchFailed)), Review::UnknownKeys(reviewer)) => {
                return self.reviewed_standing(rules, text, token, reviewer.as_ref(), trouble.into()).await;
            }
            (Err(trouble), _) => {
                return Ok(TokenStanding::without_key(token.expires(), trouble.into(), rules, self.clock.now()));
            }
        };
        match token.verify(&key).and_then(|verified| rules.check(verified, self.clock.now())) {
            Ok(identity) => {
                self.look_at_age(&identity);
                let TokenIdentity { cluster, namespace, service_account, pod, node, .. } = &identity;
                let account_uid = Some(service_account.uid.as_str());
                self.alive(Bound {
                    cluster,
                    namespace,
                    service_account: &service_account.name,
                    service_account_uid: account_uid,
                    pod: pod.as_ref(),
                    node: node.as_ref(),
                })
                .await?;
                Ok(TokenStanding::Valid(identity))
            }
            Err(error) => Ok(Err(error).into()),
        }
    }

    /// The standing of a token that the cluster is asked about; `trouble` is what it is where the cluster can't tell. The rules hold all the same,
    /// and liveness was the review's business.
    async fn reviewed_standing(
        &self,
        rules: &TokenRules,
        text: &str,
        token: UnverifiedToken<'_>,
        reviewer: &dyn TokenReviewer,
        trouble: TokenError,
    ) -> Result<TokenStanding, Refusal> {
        let now = self.clock.now();
        // One that says itself that it has expired isn't worth a question.
        if token.expires().is_some_and(|expires_at| rules.is_past(expires_at, now)) {
            return Ok(TokenStanding::ExpiredUnknownKey);
        }
        let (username, uid) = match reviewer.review(text).await {
            Reviewed::Good { username, uid } => (username, uid),
            Reviewed::Bad => return Ok(TokenStanding::Bad(TokenError::ReviewRefused)),
            Reviewed::Unknown => return Ok(TokenStanding::Bad(trouble)),
        };
        let checked = token.reviewed().and_then(|verified| {
            // The review was of the same bytes; a cluster that read another account in them isn't one that we understand.
            let same_account = verified.claims().subject == username;
            let identity = rules.check(verified, now)?;
            if same_account && identity.service_account.uid == uid { Ok(identity) } else { Err(TokenError::ReviewRefused) }
        });
        if let Ok(identity) = &checked {
            self.look_at_age(identity);
        }
        Ok(checked.into())
    }

    fn look_at_age(&self, identity: &TokenIdentity) {
        if identity.past_warn_after {
            self.observer.past_warn_after();
        }
    }

    /// The meaning of TokenReview: whoever's pod or account is gone has no proof, however well it is signed.
    async fn alive(&self, bound: Bound<'_>) -> Result<(), Refusal> {
        match self.clusters.check(&bound).await {
            Life::Alive => Ok(()),
            Life::Gone(what) => Err(Refusal::Gone(what.reason())),
            Life::Unknown => Err(Trouble::Liveness.into()),
        }
    }

    async fn certificate_standing(&self, presented: &PresentedCertificate, accepted: &AcceptedIssuers) -> Result<CertificateStanding, Refusal> {
        // A lookup that failed is not remembered: the next request asks again.
        let found =
            presented.standing.get_or_try_init(|| self.look_up(presented, accepted)).await.map_err(|error| Trouble::Ledger(error.to_string()))?;
        let now = self.clock.now();
        let rejection = if found.issuer.as_ref().is_some_and(|issuer| !accepted.trusts(issuer)) {
            Some(CertificateRejection::Distrusted)
        } else if now > found.not_after {
            Some(CertificateRejection::Expired)
        } else if now < found.not_before {
            Some(CertificateRejection::NotYetValid)
        } else {
            None
        };
        Ok(match (&found.standing, rejection) {
            (CertificateStanding::Accepted(_), Some(rejection)) => CertificateStanding::NotAccepted(rejection),
            (standing, _) => standing.clone(),
        })
    }

    async fn look_up(&self, presented: &PresentedCertificate, accepted: &AcceptedIssuers) -> Result<LookedUp, LedgerError> {
        let not_accepted = |rejection| LookedUp {
            standing: CertificateStanding::NotAccepted(rejection),
            issuer: None,
            not_before: time::OffsetDateTime::UNIX_EPOCH,
            not_after: time::OffsetDateTime::UNIX_EPOCH,
        };
        let leaf = match accepted.verify(&presented.der) {
            Ok(leaf) => leaf,
            Err(Rejection::Malformed) => return Ok(not_accepted(CertificateRejection::Malformed)),
            Err(Rejection::UnknownIssuer) => return Ok(not_accepted(CertificateRejection::UnknownIssuer)),
            Err(Rejection::Distrusted) => return Ok(not_accepted(CertificateRejection::Distrusted)),
        };
        let stored = self.ledger.find_leaf(&leaf.issuer, &leaf.serial, &leaf.sha256).await?;
        let standing = match stored.filter(|stored| stored.record.kind == Kind::Leaf) {
            None => CertificateStanding::NotAccepted(CertificateRejection::UnknownToLedger),
            Some(stored) if stored.revoked.is_some() => CertificateStanding::NotAccepted(CertificateRejection::Revoked),
            Some(stored) => match accepted_certificate(stored) {
                Some(accepted) => CertificateStanding::Accepted(Box::new(accepted)),
                None => CertificateStanding::NotAccepted(CertificateRejection::Malformed),
            },
        };
        Ok(LookedUp { standing, issuer: Some(leaf.issuer), not_before: leaf.not_before, not_after: leaf.not_after })
    }
}

/// The caller that a recorded leaf stands for; the record names the holder, which a renewal continues.
fn accepted_certificate(stored: StoredCertificate) -> Option<AcceptedCertificate> {
    let record = stored.record;
    Some(AcceptedCertificate {
        id: record.spiffe_id?,
        cluster: record.cluster?,
        namespace: record.namespace?,
        service_account: record.service_account?,
        pod: record.pod,
        node: record.node,
        holder: record.holder?.as_str().to_owned(),
    })
}
