//! What is kept of a certificate, and whom it keeps alive.

use std::fmt;
use std::str::FromStr;

use time::OffsetDateTime;

use crate::authority::{AuthorityId, GenerationNumber};
use crate::callers::ObjectRef;
use crate::pki::PublicKeyAlgorithm;
use crate::spiffe::SpiffeId;

/// Everything about a certificate that can't be filled in later. The ledger is written by one row of these for each certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRecord {
    /// The authority that signed.
    pub issuer: AuthorityId,
    /// The serial number as in the certificate: at most 20 octets, big-endian, no leading zero.
    pub serial: Vec<u8>,
    /// SHA-256 of `der`.
    pub sha256: [u8; 32],
    /// The certificate.
    pub der: Vec<u8>,
    /// What it is for.
    pub kind: Kind,
    /// The identity in it; `None` for serving certificates.
    pub spiffe_id: Option<SpiffeId>,
    /// The cluster that the caller belongs to.
    pub cluster: Option<String>,
    /// The Kubernetes namespace.
    pub namespace: Option<String>,
    /// The Kubernetes service account.
    pub service_account: Option<String>,
    /// The pod that asked (for ztunnel: the ztunnel pod).
    pub pod: Option<ObjectRef>,
    /// The node that it ran on.
    pub node: Option<ObjectRef>,
    /// Whom this certificate keeps alive; `None` for our own authorities and serving certificates, and so what tells those from intermediates that
    /// were given to others.
    pub holder: Option<HolderId>,
    /// The generation that signed: the fence.
    pub generation: GenerationNumber,
    /// Number of the bundle that was in the same answer.
    pub bundle_number: u64,
    /// Lower-hex digest of the profile that it was made by.
    pub profile_digest: String,
    /// How the caller proved who it is.
    pub credential: CredentialKind,
    /// Kind of the certified key; `None` where it was recorded before the ledger kept this.
    pub key_algorithm: Option<PublicKeyAlgorithm>,
    /// When it was signed.
    pub issued_at: OffsetDateTime,
    /// notBefore.
    pub not_before: OffsetDateTime,
    /// notAfter.
    pub not_after: OffsetDateTime,
    /// The replica that signed, a random id drawn when its process started.
    pub replica: String,
    /// That replica's count of records, from 1.
    pub replica_sequence: u64,
}

/// A certificate as it comes back out of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCertificate {
    /// What was recorded.
    pub record: CertificateRecord,
    /// When and why it was revoked, if it was.
    pub revoked: Option<Revocation>,
}

/// A revocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// When.
    pub at: OffsetDateTime,
    /// The reason, RFC 5280 §5.3.1's name.
    pub reason: String,
}

/// The latest certificate of a holder: what rotation counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HolderRecord {
    /// The holder.
    pub holder: HolderId,
    /// Its identity.
    pub spiffe_id: Option<SpiffeId>,
    /// The issuer of its latest certificate.
    pub issuer: AuthorityId,
    /// The serial of its latest certificate.
    pub serial: Vec<u8>,
    /// The generation that signed it.
    pub generation: GenerationNumber,
    /// The bundle that it was answered with.
    pub bundle_number: u64,
    /// When.
    pub issued_at: OffsetDateTime,
    /// Its notAfter.
    pub not_after: OffsetDateTime,
}

/// What keeps a certificate alive, in one line of text that the ledger indexes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HolderId(String);

impl HolderId {
    /// A pod, by cluster and UID.
    pub fn pod(cluster: &str, uid: &str) -> Self {
        Self(format!("pod:{cluster}/{uid}"))
    }

    /// An identity that a node proxy (ztunnel) holds for pods of its node.
    pub fn impersonated(cluster: &str, proxy_uid: &str, identity: &SpiffeId) -> Self {
        Self(format!("node:{cluster}/{proxy_uid}/{identity}"))
    }

    /// A chain of renewals by client certificate that began with the certificate of this serial.
    pub fn lineage(first_serial: &[u8]) -> Self {
        Self(format!("lineage:{}", hex::encode(first_serial)))
    }

    /// The istiod of a namespace, to which we gave an intermediate of its own.
    pub fn istiod(cluster: &str, namespace: &str) -> Self {
        Self(format!("istiod:{cluster}/{namespace}"))
    }

    /// As it stands in the ledger.
    pub fn from_ledger(text: String) -> Self {
        Self(text)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A workload's X509-SVID.
    Leaf,
    /// The serving certificate of ours or of istiod.
    Serving,
    /// An issuing CA, ours or given to others.
    Intermediate,
    /// A root signed by another root.
    Cross,
    /// A root.
    Root,
}

impl Kind {
    /// Every kind, with its name in the ledger, in the admin API and on the command line.
    pub const ALL: [(Self, &'static str); 5] =
        [(Self::Leaf, "leaf"), (Self::Serving, "serving"), (Self::Intermediate, "intermediate"), (Self::Cross, "cross"), (Self::Root, "root")];
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_name(&Self::ALL, *self, formatter)
    }
}

impl FromStr for Kind {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        by_name(&Self::ALL, name)
    }
}

/// How a caller proved who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CredentialKind {
    /// A service-account token.
    Token,
    /// A client certificate that we issued.
    ClientCertificate,
    /// Nobody asked: our own serving certificate or authority.
    Internal,
}

impl CredentialKind {
    /// Every kind, with its name.
    pub const ALL: [(Self, &'static str); 3] =
        [(Self::Token, "token"), (Self::ClientCertificate, "client-certificate"), (Self::Internal, "internal")];
}

impl fmt::Display for CredentialKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_name(&Self::ALL, *self, formatter)
    }
}

impl FromStr for CredentialKind {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        by_name(&Self::ALL, name)
    }
}

/// A name that stands for nothing here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown name {0:?}")]
pub struct UnknownName(String);

fn write_name<T: PartialEq>(all: &[(T, &'static str)], value: T, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    all.iter().find(|(each, _)| *each == value).map_or(Err(fmt::Error), |(_, name)| formatter.write_str(name))
}

fn by_name<T: Copy>(all: &[(T, &'static str)], name: &str) -> Result<T, UnknownName> {
    all.iter().find(|(_, each)| *each == name).map(|(value, _)| *value).ok_or_else(|| UnknownName(name.to_owned()))
}

/// One action of an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// When.
    pub at: OffsetDateTime,
    /// Who, as far as the door knows (`local` for the Unix socket).
    pub actor: String,
    /// What, for example `authority.import`.
    pub action: String,
    /// Particulars, for people.
    pub detail: String,
    /// The reason that the operator gave.
    pub reason: String,
}
