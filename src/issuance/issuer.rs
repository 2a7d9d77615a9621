//! [`Issuer::issue`]: the way of a request, in ten numbered steps. The order makes a crash anywhere harmless: what was not
//! recorded was never seen by anyone.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;

use super::admission::Turn;
use super::observer::{Observer, Step, Stopwatch};
use super::{Admission, Ask, Authenticator, Credential, Issued, KeyProof, Refusal, RequestError, Trouble};
use crate::authority::Generation;
use crate::callers::{self, Caller, ServiceAccountName, UnverifiedToken, may_speak_for};
use crate::clock::{Clock, Entropy, fraction};
use crate::cluster::Clusters;
use crate::ledger::{CertificateRecord, CredentialKind, HolderId, Kind, Ledger, LedgerError};
use crate::pki::{CheckedKey, IssuedBy, PrepareError, Profile, Serial, Subject, TooLittleLeft, Validity, certificate_to_pem, check_csr, prepare};
use crate::rotation::Successor;
use crate::spiffe::{SpiffeId, TrustDomain};

/// Issues certificates. One of them serves the whole process; it holds no lock across I/O.
#[derive(Debug)]
pub struct Issuer {
    parts: IssuerParts,
    profile_digest: String,
    sequence: AtomicU64,
}

/// What an [`Issuer`] is made of.
#[derive(Debug)]
pub struct IssuerParts {
    /// Our trust domain: every identity is rebuilt in it.
    pub trust_domain: TrustDomain,
    /// Finds out who asks.
    pub authenticator: Authenticator,
    /// Which pods are on which node.
    pub clusters: Arc<Clusters>,
    /// Service accounts that may speak for the pods of their node.
    pub trusted_node_accounts: BTreeSet<ServiceAccountName>,
    /// Lifetimes.
    pub profile: Profile,
    /// The generation that signs now; the rotation loop replaces it.
    pub generation: Arc<ArcSwap<Generation>>,
    /// Brings the generation after one that is closed.
    pub successor: Successor,
    /// Where every certificate is recorded before it leaves.
    pub ledger: Arc<dyn Ledger>,
    /// Lets requests in, fairly.
    pub admission: Arc<Admission>,
    /// Looks on.
    pub observer: Arc<dyn Observer>,
    /// This process, a random id.
    pub replica: String,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Serials and jitter.
    pub entropy: Arc<dyn Entropy>,
}

/// The names of a TLS server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServingNames {
    /// DNS names.
    pub dns_names: Vec<String>,
    /// IP addresses.
    pub ip_addresses: Vec<IpAddr>,
}

/// Who a certificate is for, as it goes on record.
struct Recipient<'a> {
    kind: Kind,
    caller: Option<&'a Caller>,
    identity: Option<&'a SpiffeId>,
    key: &'a CheckedKey,
}

impl Issuer {
    /// Puts the parts together.
    pub fn new(parts: IssuerParts) -> Self {
        Self { profile_digest: parts.profile.digest(), sequence: AtomicU64::new(1), parts }
    }

    /// Whether anybody was turned away a moment ago. Only then is it worth asking [`Issuer::foresee`], which reads the token once more.
    pub fn is_turning_away(&self) -> bool {
        self.parts.admission.is_turning_away()
    }

    /// Refuses a token whose turn wouldn't come in time, before anything else is known of the request. Whatever is wrong with a token is
    /// for [`Issuer::issue`] to say.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`].
    pub fn foresee(&self, token: &str) -> Result<(), Refusal> {
        let Ok(token) = UnverifiedToken::parse(token) else { return Ok(()) };
        token.account().map_or(Ok(()), |account| self.parts.admission.foresee(&account))
    }

    /// One certificate for one caller.
    ///
    /// Dropping the future is safe at any point: the certificate may be on record then, but nobody has it.
    ///
    /// # Errors
    /// [`Refusal`]; nothing was issued then.
    pub async fn issue(&self, ask: Ask) -> Result<Issued, Refusal> {
        // 1. Bound: the door has limited bytes, streams, time and connections; this is the bound on work in progress.
        let _place = self.parts.admission.begin()?;

        let mut watch = self.watch();

        // 2. Authenticate the caller.
        let caller = match &ask.credential {
            Credential::Workload { cluster, token, certificate } => {
                let generation = self.parts.generation.load_full();
                let (accepted, admission) = (&generation.accepted, self.parts.admission.as_ref());
                let caller =
                    self.parts.authenticator.authenticate(cluster.as_deref(), token.as_deref(), certificate.as_deref(), accepted, admission).await;
                watch.over(Step::Authenticate, caller)?
            }
            Credential::Unusable { reason } => return Err(Refusal::UnusableCredential(reason)),
        };

        // 3. Admit, fairly by account. The turn ends once the certificate is signed.
        let turn = watch.over(Step::Admit, self.parts.admission.turn(&caller).await)?;

        // 4. Authorise the identity, rebuilt by us. No byte of it comes from the CSR.
        let identity = self.authorise(&caller, &ask).await?;

        // 5. Check the proof of the key. Only the public key survives.
        let key = match &ask.key_proof {
            KeyProof::Csr(pem) => watch.over(Step::CheckKey, check_csr(pem)).map_err(RequestError::Csr)?,
        };

        let recipient = Recipient { kind: Kind::Leaf, caller: Some(&caller), identity: Some(&identity), key: &key };
        let validity = |generation: &Generation| {
            let chance = fraction(self.parts.entropy.as_ref()).map_err(|_| Trouble::Entropy)?;
            let asked = ask.wants.lifetime_seconds;
            self.parts.profile.validity(asked, self.parts.clock.now(), chance, generation.limit).map_err(too_little_left)
        };
        self.certify(&recipient, &Subject::Leaf { id: &identity, key: &key }, Some(turn), validity, watch).await
    }

    /// A certificate for a TLS server of ours, by the same steps 6 to 10.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`].
    pub async fn issue_serving(&self, names: &ServingNames, key: &CheckedKey, lifetime: Duration) -> Result<Issued, Refusal> {
        let recipient = Recipient { kind: Kind::Serving, caller: None, identity: None, key };
        let subject = Subject::Serving { dns_names: &names.dns_names, ip_addresses: &names.ip_addresses, key };
        let validity =
            |generation: &Generation| self.parts.profile.clamped(lifetime, self.parts.clock.now(), generation.limit).map_err(too_little_left);
        self.certify(&recipient, &subject, None, validity, self.watch()).await
    }

    fn watch(&self) -> Stopwatch<'_> {
        Stopwatch::start(self.parts.observer.as_ref(), self.parts.clock.as_ref())
    }

    async fn authorise(&self, caller: &Caller, ask: &Ask) -> Result<SpiffeId, Refusal> {
        if let Some(signer) = ask.wants.cert_signer.as_deref().filter(|signer| !signer.is_empty()) {
            return Err(RequestError::UnknownCertSigner(signer.chars().take(64).collect()).into());
        }
        match ask.wants.impersonate.as_deref().filter(|identity| !identity.is_empty()) {
            None => Ok(caller.spiffe_id.clone()),
            Some(requested) => self.authorise_impersonation(caller, requested).await,
        }
    }

    /// Decided by what the watches know; before a refusal that a lagging watch could be the reason of, by what the cluster says now.
    async fn authorise_impersonation(&self, caller: &Caller, requested: &str) -> Result<SpiffeId, Refusal> {
        let IssuerParts { clusters, trust_domain, trusted_node_accounts, .. } = &self.parts;
        let facts = clusters.facts(&caller.cluster);
        let decide = || may_speak_for(caller, requested, trust_domain, trusted_node_accounts, facts.as_deref());
        match (decide(), requested.parse::<SpiffeId>()) {
            (Err(denial), Ok(asked)) if denial.may_be_lag() => {
                let (namespace, account) = asked.namespace_and_service_account().map_err(|_| denial)?;
                if !clusters.look(caller, namespace, account).await {
                    return Err(Trouble::Liveness.into());
                }
                Ok(decide()?)
            }
            (decision, _) => Ok(decision?),
        }
    }

    /// Steps 6 to 10. A generation that was closed meanwhile fences the record off; then the next one signs.
    async fn certify(
        &self,
        recipient: &Recipient<'_>,
        subject: &Subject<'_>,
        mut turn: Option<Turn>,
        validity: impl Fn(&Generation) -> Result<Validity, Trouble>,
        mut watch: Stopwatch<'_>,
    ) -> Result<Issued, Refusal> {
        // 6. Take one generation: everything in the answer comes from it.
        let mut generation = self.parts.generation.load_full();
        loop {
            // 7. Prepare: serial and validity, then the to-be-signed bytes, linted.
            let serial = Serial::draw(self.parts.entropy.as_ref(), self.parts.clock.now()).map_err(|_| Trouble::Entropy)?;
            let validity = validity(&generation)?;
            let issuer = IssuedBy::Signer(&generation.signer);
            let prepared = watch.over(Step::Prepare, prepare(subject, serial, validity, issuer)).map_err(not_signed)?;

            // 8. Sign.
            let certificate = watch.over(Step::Sign, prepared.sign()).map_err(not_signed)?;

            // 9. Record, durably, before anyone can see it.
            let recording = self.parts.admission.recording(turn.take()).await;
            let record = self.record_of(recipient, serial, validity, &certificate, &generation);
            match watch.over(Step::Record, self.parts.ledger.record(record).await) {
                // 10. Answer.
                Ok(()) => return Ok(self.answer(&certificate, serial, validity, recipient, &generation)),
                Err(LedgerError::Fenced(closed)) => {
                    drop(recording);
                    // Another replica has closed it: its successor is in the store, and is here in a moment.
                    if self.parts.generation.load().number <= closed {
                        self.parts.successor.after(closed, self.parts.clock.as_ref()).await;
                    }
                    let next = self.parts.generation.load_full();
                    if next.number <= closed {
                        return Err(Trouble::Authority(format!("generation {closed} is closed in the ledger, and no newer one is here yet")).into());
                    }
                    generation = next;
                }
                Err(error) => return Err(Trouble::Ledger(error.to_string()).into()),
            }
        }
    }

    fn answer(
        &self,
        certificate: &CertificateDer<'static>,
        serial: Serial,
        validity: Validity,
        recipient: &Recipient<'_>,
        generation: &Generation,
    ) -> Issued {
        Issued {
            leaf: certificate_to_pem(certificate),
            chain: generation.chain.clone(),
            bundle: generation.bundle.clone(),
            bundle_number: generation.bundle_number,
            der: certificate.clone(),
            identity: recipient.identity.cloned(),
            serial: hex::encode(serial.as_bytes()),
            not_before: validity.not_before,
            not_after: validity.not_after,
            generation: generation.number,
            share: recipient.caller.map(|caller| self.parts.admission.share(caller)),
        }
    }

    fn record_of(
        &self,
        recipient: &Recipient<'_>,
        serial: Serial,
        validity: Validity,
        certificate: &CertificateDer<'_>,
        generation: &Generation,
    ) -> CertificateRecord {
        let caller = recipient.caller;
        let (namespace, service_account) = match recipient.identity.map(SpiffeId::namespace_and_service_account) {
            Some(Ok((namespace, account))) => (Some(namespace.to_owned()), Some(account.to_owned())),
            _ => (None, None),
        };
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest(&SHA256, certificate).as_ref());
        CertificateRecord {
            issuer: generation.authority.clone(),
            serial: serial.as_bytes().to_vec(),
            sha256,
            der: certificate.to_vec(),
            kind: recipient.kind,
            spiffe_id: recipient.identity.cloned(),
            cluster: caller.map(|caller| caller.cluster.clone()),
            namespace,
            service_account,
            pod: caller.and_then(|caller| caller.pod.clone()),
            node: caller.and_then(|caller| caller.node.clone()),
            holder: caller.zip(recipient.identity).map(|(caller, identity)| holder_of(caller, identity, serial)),
            generation: generation.number,
            bundle_number: generation.bundle_number,
            profile_digest: self.profile_digest.clone(),
            credential: match caller.map(|caller| &caller.credential) {
                Some(callers::Credential::Token) => CredentialKind::Token,
                Some(callers::Credential::ClientCertificate { .. }) => CredentialKind::ClientCertificate,
                None => CredentialKind::Internal,
            },
            key_algorithm: Some(recipient.key.algorithm()),
            issued_at: self.parts.clock.now(),
            not_before: validity.not_before,
            not_after: validity.not_after,
            replica: self.parts.replica.clone(),
            replica_sequence: self.sequence.fetch_add(1, Ordering::Relaxed),
        }
    }
}

/// What keeps a new certificate alive (docs/architecture.md, "Holders").
fn holder_of(caller: &Caller, identity: &SpiffeId, serial: Serial) -> HolderId {
    match (&caller.pod, &caller.credential) {
        (Some(pod), _) if caller.spiffe_id != *identity => HolderId::impersonated(&caller.cluster, &pod.uid, identity),
        (_, callers::Credential::ClientCertificate { holder }) => HolderId::from_ledger(holder.clone()),
        (Some(pod), _) => HolderId::pod(&caller.cluster, &pod.uid),
        (None, _) => HolderId::lineage(serial.as_bytes()),
    }
}

fn too_little_left(error: TooLittleLeft) -> Trouble {
    Trouble::Authority(error.to_string())
}

/// What can't be prepared or signed is our fault, whatever was asked.
fn not_signed(error: PrepareError) -> Trouble {
    Trouble::Authority(error.to_string())
}
