//! Taking over a certificate authority that an operator has: istiod's `cacerts` or `istio-ca-secret`, a company's intermediate.
//! It says what the imported authority can do before anything is issued below it.

use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::{FromDer, GeneralName};

use super::{Authority, AuthorityId, GenerationNumber, KeyRef, Origin, Phase, Role, TrustEntry};
use crate::clock::readable;
use crate::pki::inspect::{printable, printable_name};
use crate::pki::{IssuerKey, KeyError, PemError, Signer, SignerError, certificate_to_pem, certificates_from_pem};
use crate::spiffe::TrustDomain;

/// An authority that passed every check.
#[derive(Debug, Clone)]
pub struct Imported {
    /// Its key, for the store to keep.
    pub key: IssuerKey,
    /// The certificate.
    pub signer: Signer,
    /// Whether an issuing intermediate below it would verify: no `pathlen` from here to the root forbids it.
    pub may_sign_authorities: bool,
    /// Between it and its root, nearest first, PEM.
    pub upstream_chain: Vec<String>,
    /// The root that it chains to.
    pub root: AuthorityId,
    /// Every root that came with it; those whose key isn't imported are foreign.
    pub trust: Vec<TrustEntry>,
}

/// Why an authority can't be imported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// A file is not PEM certificates.
    #[error("{file}: {error}")]
    Pem {
        /// Which of the files.
        file: &'static str,
        /// Why.
        error: PemError,
    },
    /// The key can't be read.
    #[error("keyFile: {0}")]
    Key(#[from] KeyError),
    /// Certificate and key don't make an authority.
    #[error("certFile and keyFile: {0}")]
    Signer(#[from] SignerError),
    /// A certificate is PEM, but not X.509.
    #[error("a certificate of {0} can't be read as X.509")]
    Unreadable(&'static str),
    /// A certificate of the chain isn't signed by the next one.
    #[error(
        "the chain is broken: certificate {position} ({subject}) is not signed by the next one ({next}); order it from the authority up to the root"
    )]
    Broken {
        /// Counted from 1, the imported authority being 1.
        position: usize,
        /// Its subject.
        subject: String,
        /// The next one's subject.
        next: String,
    },
    /// The chain ends at something that is no root we were given.
    #[error(
        "the chain ends at {0:?}, which is neither self-signed nor signed by a root in rootFile; give the root in rootFile or at the end of chainFile"
    )]
    NoRoot(String),
    /// Something in the chain is over or not yet valid.
    #[error("{subject} is not valid now (from {} to {})", readable(*not_before), readable(*not_after))]
    NotValidNow {
        /// Its subject.
        subject: String,
        /// notBefore.
        not_before: OffsetDateTime,
        /// notAfter.
        not_after: OffsetDateTime,
    },
    /// It belongs to another trust domain.
    #[error("{subject} belongs to trust domain {found}, not to {expected}")]
    TrustDomain {
        /// Its subject.
        subject: String,
        /// What its URI SAN says.
        found: String,
        /// What is configured.
        expected: String,
    },
    /// A certificate above it, or a root beside it, is no CA that may sign certificates (RFC 5280 §4.2.1.9, §4.2.1.3).
    #[error("{0} is not a CA certificate that may sign certificates (basicConstraints CA:TRUE, keyUsage keyCertSign)")]
    NotAnAuthority(String),
    /// A certificate above it allows fewer authorities below itself than there are (RFC 5280 §4.2.1.9).
    #[error("{0} allows no further authority below it (pathlen), so nothing that is issued here would verify")]
    PathLength(String),
    /// More roots than a bundle should hold: every root travels in every handshake.
    #[error("rootFile holds {0} certificates; at most {MAX_ROOTS} are accepted")]
    TooManyRoots(usize),
    /// It is a CA that carries URI name constraints, which ztunnel's verifier refuses in every chain.
    #[error("{0} has URI name constraints, and ztunnel (rustls-webpki) rejects every chain with them; use an authority without them")]
    NameConstraints(String),
}

/// The most roots that an import may bring.
pub const MAX_ROOTS: usize = 20;

/// Checks what an operator hands over. `chain` and `roots` are the texts of chainFile and rootFile.
///
/// # Errors
/// [`ImportError`], for the first thing that is wrong.
pub fn import(
    trust_domain: &TrustDomain,
    certificate: &str,
    key: &str,
    chain: Option<&str>,
    roots: Option<&str>,
    now: OffsetDateTime,
) -> Result<Imported, ImportError> {
    let pem = |file, text: &str| certificates_from_pem(text).map_err(|error| ImportError::Pem { file, error });
    let own = pem("certFile", certificate)?;
    let mut ders = own;
    if let Some(chain) = chain {
        for der in pem("chainFile", chain)? {
            // Istio's cert-chain.pem begins with the authority itself.
            if !ders.contains(&der) {
                ders.push(der);
            }
        }
    }
    let root_ders = roots.map(|roots| pem("rootFile", roots)).transpose()?.unwrap_or_default();
    let mut parsed = Vec::with_capacity(ders.len());
    for der in &ders {
        parsed.push(X509Certificate::from_der(der).map_err(|_| ImportError::Unreadable("certFile or chainFile"))?.1);
    }
    let mut parsed_roots = Vec::with_capacity(root_ders.len());
    for der in &root_ders {
        parsed_roots.push(X509Certificate::from_der(der).map_err(|_| ImportError::Unreadable("rootFile"))?.1);
    }

    let key = IssuerKey::from_pem(key)?;
    let signer = Signer::new(ders.first().ok_or(ImportError::Unreadable("certFile"))?, key.clone())?;
    for (index, pair) in parsed.windows(2).enumerate() {
        if let [below, above] = pair
            && !signed_by(below, above)
        {
            return Err(ImportError::Broken { position: index + 1, subject: printable_name(below.subject()), next: printable_name(above.subject()) });
        }
    }
    let last = parsed.last().ok_or(ImportError::Unreadable("certFile"))?;
    let root = if signed_by(last, last) { Some(last) } else { parsed_roots.iter().find(|root| signed_by(last, root) && signed_by(root, root)) };
    let root = root.ok_or_else(|| ImportError::NoRoot(printable_name(last.subject())))?;

    if parsed_roots.len() > MAX_ROOTS {
        return Err(ImportError::TooManyRoots(parsed_roots.len()));
    }
    for each in parsed.iter().chain(std::iter::once(root)).chain(&parsed_roots) {
        check(each, trust_domain, now)?;
    }
    // The authorities from the imported one up to its root; a self-signed end of the chain is that root.
    let root_in_chain = std::ptr::eq(root, last);
    let line: Vec<&X509Certificate<'_>> = parsed.iter().chain((!root_in_chain).then_some(root)).collect();
    if let Some(short) = line.iter().enumerate().find(|(below, authority)| !allows_below(authority, *below)) {
        return Err(ImportError::PathLength(printable_name(short.1.subject())));
    }
    let may_sign_authorities = line.iter().enumerate().all(|(below, authority)| allows_below(authority, below + 1));
    let root_id = AuthorityId::of_certificate(root.as_raw());
    let authority_id = AuthorityId::of_certificate(signer.certificate());
    let mut trust: Vec<TrustEntry> = Vec::new();
    for each in std::iter::once(root).chain(&parsed_roots) {
        let id = AuthorityId::of_certificate(each.as_raw());
        if !trust.iter().any(|entry| entry.id == id) {
            trust.push(TrustEntry { foreign: id != authority_id, certificate: certificate_to_pem(each.as_raw()), id });
        }
    }
    let between = parsed.iter().skip(1).filter(|each| AuthorityId::of_certificate(each.as_raw()) != root_id);
    Ok(Imported {
        upstream_chain: between.map(|each| certificate_to_pem(each.as_raw())).collect(),
        root: root_id,
        trust,
        may_sign_authorities,
        signer,
        key,
    })
}

impl Imported {
    /// The imported authority as an entry of the state: below `pathlen:0` it signs leaves itself, as generation 1.
    pub fn authority(&self, key: KeyRef, now: OffsetDateTime) -> Authority {
        let id = AuthorityId::of_certificate(self.signer.certificate());
        let role = match (self.may_sign_authorities, id == self.root) {
            (false, _) => Role::Issuing(GenerationNumber(1)),
            (true, true) => Role::Root,
            (true, false) => Role::Intermediate,
        };
        Authority {
            id,
            role,
            certificate: certificate_to_pem(self.signer.certificate()),
            parent: None,
            upstream_chain: self.upstream_chain.clone(),
            root: self.root.clone(),
            key: Some(key),
            phase: Phase::Active,
            origin: Origin::Imported,
            since: now,
        }
    }

    /// What it can do, for the log.
    pub fn abilities(&self) -> String {
        let depth =
            if self.may_sign_authorities { "signs issuing intermediates" } else { "allows no authority below (pathlen), signs leaves itself" };
        let crl = if self.signer.may_sign_crls() { "may sign CRLs" } else { "may not sign CRLs (keyUsage without cRLSign)" };
        let cross = if self.may_sign_authorities { "may cross-sign a new root" } else { "can't cross-sign a new root" };
        format!("{depth}; {crl}; {cross}; ends {}", readable(self.signer.not_after()))
    }
}

pub(super) fn signed_by(below: &X509Certificate<'_>, above: &X509Certificate<'_>) -> bool {
    below.issuer().as_raw() == above.subject().as_raw() && below.verify_signature(Some(above.public_key())).is_ok()
}

/// Whether `authority` allows `below` authorities between itself and a leaf.
fn allows_below(authority: &X509Certificate<'_>, below: usize) -> bool {
    let limit = authority.basic_constraints().ok().flatten().and_then(|constraints| constraints.value.path_len_constraint);
    limit.is_none_or(|limit| u64::try_from(below).is_ok_and(|below| below <= u64::from(limit)))
}

pub(super) fn check(certificate: &X509Certificate<'_>, trust_domain: &TrustDomain, now: OffsetDateTime) -> Result<(), ImportError> {
    let subject = printable_name(certificate.subject());
    let (not_before, not_after) = (certificate.validity().not_before.to_datetime(), certificate.validity().not_after.to_datetime());
    if now < not_before || now > not_after {
        return Err(ImportError::NotValidNow { subject, not_before, not_after });
    }
    let may_sign = certificate.key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.key_cert_sign()));
    if !certificate.is_ca() || !may_sign {
        return Err(ImportError::NotAnAuthority(subject));
    }
    let constraints = certificate.name_constraints().ok().flatten().map(|constraints| constraints.value);
    let subtrees = constraints.into_iter().flat_map(|each| [&each.permitted_subtrees, &each.excluded_subtrees]).flatten().flatten();
    if subtrees.into_iter().any(|subtree| matches!(subtree.base, GeneralName::URI(_))) {
        return Err(ImportError::NameConstraints(subject));
    }
    let names = certificate.subject_alternative_name().ok().flatten().map(|san| san.value.general_names.as_slice()).unwrap_or_default();
    for name in names {
        if let GeneralName::URI(uri) = name
            && uri.starts_with("spiffe://")
            && *uri != trust_domain.id()
        {
            return Err(ImportError::TrustDomain { subject, found: printable(uri), expected: trust_domain.id() });
        }
    }
    Ok(())
}
