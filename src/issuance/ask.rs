//! What is asked, and what is answered, whichever door it came through. A new door adds a variant, not a second pipeline.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use tokio::sync::OnceCell;

use crate::authority::GenerationNumber;
use crate::bounds::Share;
use crate::callers::CertificateStanding;
use crate::spiffe::SpiffeId;

/// One request for a certificate.
#[derive(Debug)]
pub struct Ask {
    /// Who asks.
    pub credential: Credential,
    /// The key to certify, and the proof that the caller holds it.
    pub key_proof: KeyProof,
    /// What else the caller would like.
    pub wants: Wants,
}

/// How a caller says who it is.
pub enum Credential {
    /// A workload of the mesh: a service-account token, a client certificate, or both.
    Workload {
        /// The cluster that it says it is in (`clusterid`); `None` where it says nothing.
        cluster: Option<String>,
        /// The bearer token as it was sent; `None` where there was none.
        token: Option<String>,
        /// What the TLS connection presented.
        certificate: Option<Arc<PresentedCertificate>>,
    },
    /// Something in the place of a credential that can't be one: two tokens, another scheme. Never falls back to anything.
    Unusable {
        /// For logs and metrics.
        reason: &'static str,
    },
}

impl fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload { token, certificate, .. } => {
                write!(formatter, "Workload {{ token: {}, certificate: {} }}", token.is_some(), certificate.is_some())
            }
            Self::Unusable { reason } => write!(formatter, "Unusable({reason})"),
        }
    }
}

/// The client certificate of a connection. It was looked at by nobody but TLS, which proved only that the peer holds its key.
#[derive(Debug)]
pub struct PresentedCertificate {
    /// The end-entity certificate.
    pub der: CertificateDer<'static>,
    /// What the ledger knows of it, looked up at the first request of the connection that needs it.
    pub(super) standing: OnceCell<LookedUp>,
}

/// The outcome of a lookup, and what must be checked again at every request.
#[derive(Debug, Clone)]
pub(super) struct LookedUp {
    pub(super) standing: CertificateStanding,
    pub(super) issuer: Option<crate::authority::AuthorityId>,
    pub(super) not_before: OffsetDateTime,
    pub(super) not_after: OffsetDateTime,
}

impl PresentedCertificate {
    /// A certificate as it came in the handshake.
    pub fn new(der: CertificateDer<'static>) -> Self {
        Self { der, standing: OnceCell::new() }
    }
}

/// The key to certify.
#[derive(Debug)]
pub enum KeyProof {
    /// A PKCS#10 request, PEM.
    Csr(String),
}

/// Wishes.
#[derive(Debug, Default)]
pub struct Wants {
    /// The lifetime in seconds; 0 or less means the default.
    pub lifetime_seconds: i64,
    /// The identity that a node proxy wants to speak for.
    pub impersonate: Option<String>,
    /// The signer that is to sign; none is known by a name yet.
    pub cert_signer: Option<String>,
}

/// A certificate that is on record and may leave.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The leaf, one PEM block ending in a newline.
    pub leaf: String,
    /// The intermediates, nearest first, one PEM block each.
    pub chain: Arc<[String]>,
    /// The trust bundle: every root in one string.
    pub bundle: Arc<str>,
    /// Its number.
    pub bundle_number: u64,
    /// The leaf as DER.
    pub der: CertificateDer<'static>,
    /// The identity in it; `None` for a serving certificate.
    pub identity: Option<SpiffeId>,
    /// Its serial number, lower-hex.
    pub serial: String,
    /// Its notBefore.
    pub not_before: OffsetDateTime,
    /// Its notAfter.
    pub not_after: OffsetDateTime,
    /// The generation that signed.
    pub generation: GenerationNumber,
    /// On whose account the connection goes over which it was asked for; `None` for a serving certificate.
    pub share: Option<Share>,
}
