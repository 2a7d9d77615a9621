//! Taking over a certificate authority that an operator has: istiod's `cacerts` or `istio-ca-secret`, a company's intermediate.
//! It says what the imported authority can do before anything is issued below it.

use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::{FromDer, GeneralName};

use super::{Authority, AuthorityId, AuthorityState, GenerationNumber, KeyRef, Origin, Phase, Role, TrustEntry};
use crate::clock::readable;
use crate::pki::inspect::{printable, printable_name, signature_algorithm};
use crate::pki::{IssuerKey, KeyError, PemError, SignedBy, Signer, SignerError, certificate_to_pem, certificates_from_pem, is_root, signed_by};
use crate::spiffe::TrustDomain;
use crate::spiffe::x509_svid::{PeerRefusal, refused_by_peers};

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
    /// Certificates of its chain that lead to other roots: they are not needed, because everybody gets the bundle.
    pub left_out: usize,
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
    /// A certificate of the chain is signed by none of the others.
    #[error(
        "the chain is broken: certificate {position} ({subject}) is not signed by the next one ({next}), nor by another one here; an intermediate is missing"
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
    /// Peers would refuse it, or everything below it.
    #[error("{subject} {refusal}")]
    Peers {
        /// Its subject.
        subject: String,
        /// Why.
        refusal: PeerRefusal,
    },
    /// A signature between it and its root can't be checked here, and not by every peer.
    #[error(
        "the signature of {subject} ({algorithm}) can't be checked here, and not by every proxy of a mesh; have it signed with SHA-256 or SHA-384 by a key on \
         P-256 or P-384, or by RSA of at least 2048 bits"
    )]
    SignatureAlgorithm {
        /// Its subject.
        subject: String,
        /// What it is signed with.
        algorithm: String,
    },
    /// A certificate in the chain that has nothing to do with the authority.
    #[error(
        "certificate {position} ({subject}) of certFile and chainFile is not between the authority and its root; leave it out, or put a root into rootFile"
    )]
    Stray {
        /// Counted from 1, the imported authority being 1.
        position: usize,
        /// Its subject.
        subject: String,
    },
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
    let (own, above) = parsed.split_first().ok_or(ImportError::Unreadable("certFile"))?;
    // To a root of rootFile, or else to one that came along in the chain.
    let search = |any_root| Search { above, roots: &parsed_roots, any_root, left: MAX_SIGNATURES }.way_up(vec![own]);
    let line = search(false).or_else(|| search(true)).ok_or_else(|| no_way(&parsed, &parsed_roots))?;
    let root = *line.last().unwrap_or(&own);
    let left_out = cross_certificates(&parsed, &parsed_roots, &line)?;

    if parsed_roots.len() > MAX_ROOTS {
        return Err(ImportError::TooManyRoots(parsed_roots.len()));
    }
    for each in line.iter().copied().chain(&parsed_roots) {
        check(each, trust_domain, now)?;
    }
    // The authorities from the imported one up to its root.
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
    let between = line.iter().skip(1).filter(|each| each.as_raw() != root.as_raw());
    Ok(Imported {
        upstream_chain: between.map(|each| certificate_to_pem(each.as_raw())).collect(),
        root: root_id,
        trust,
        may_sign_authorities,
        left_out,
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
        let left_out = match self.left_out {
            0 => String::new(),
            count => format!("; certificates of its chain that lead to other roots are left out: {count}"),
        };
        format!("{depth}; {crl}; {cross}; ends {}{left_out}", readable(self.signer.not_after()))
    }
}

/// The most signatures that are checked in search of a root: many certificates of one name must not cost much.
const MAX_SIGNATURES: usize = 200;

/// A search for the way from an authority to a root, through certificates in any order.
struct Search<'c> {
    above: &'c [X509Certificate<'c>],
    roots: &'c [X509Certificate<'c>],
    /// Whether a root that isn't among `roots` is an end of the way.
    any_root: bool,
    left: usize,
}

impl<'c> Search<'c> {
    /// The rest of the way, whose first steps are given. The shortest first: a cross-certificate is a way round where its subject is a root here.
    fn way_up(&mut self, way: Vec<&'c X509Certificate<'c>>) -> Option<Vec<&'c X509Certificate<'c>>> {
        let last = *way.last()?;
        if is_root(last) {
            let is_end = self.any_root || self.roots.iter().any(|root| root.as_raw() == last.as_raw());
            return is_end.then_some(way);
        }
        let (roots, above) = (self.roots, self.above);
        for next in roots.iter().filter(|root| is_root(root)).chain(above) {
            if next.subject().as_raw() != last.issuer().as_raw() || way.iter().any(|taken| taken.as_raw() == next.as_raw()) {
                continue;
            }
            self.left = self.left.checked_sub(1)?;
            if signed_by(last, next) == SignedBy::Yes
                && let Some(found) = self.way_up([way.as_slice(), &[next]].concat())
            {
                return Some(found);
            }
        }
        None
    }
}

/// Why there is no way from the authority to a root.
fn no_way(chain: &[X509Certificate<'_>], roots: &[X509Certificate<'_>]) -> ImportError {
    let all = || chain.iter().chain(roots);
    let signed = |below: &X509Certificate<'_>, by: SignedBy| all().any(|above| above.as_raw() != below.as_raw() && signed_by(below, above) == by);
    if let Some(below) = chain.iter().find(|below| !signed(below, SignedBy::Yes) && signed(below, SignedBy::Unknown)) {
        let algorithm = signature_algorithm(&below.signature_algorithm.algorithm);
        return ImportError::SignatureAlgorithm { subject: printable_name(below.subject()), algorithm };
    }
    for (index, pair) in chain.windows(2).enumerate() {
        if let [below, next] = pair
            && !signed(below, SignedBy::Yes)
        {
            return ImportError::Broken { position: index + 1, subject: printable_name(below.subject()), next: printable_name(next.subject()) };
        }
    }
    ImportError::NoRoot(chain.last().map(|last| printable_name(last.subject())).unwrap_or_default())
}

/// How many certificates of the chain are not on the way, because they lead an authority on it to another root: cross-certificates, and what is above them.
fn cross_certificates(chain: &[X509Certificate<'_>], roots: &[X509Certificate<'_>], line: &[&X509Certificate<'_>]) -> Result<usize, ImportError> {
    let known = |each: &&(usize, &X509Certificate<'_>)| line.iter().copied().chain(roots).all(|other| other.as_raw() != each.1.as_raw());
    let numbered: Vec<_> = chain.iter().zip(1..).map(|(each, position)| (position, each)).collect();
    let mut others: Vec<_> = numbered.iter().filter(known).copied().collect();
    let count = others.len();
    let mut reached: Vec<&X509Certificate<'_>> = line.to_vec();
    // Each round takes what belongs to something that was taken before.
    loop {
        let same = |one: &X509Certificate<'_>, other: &X509Certificate<'_>| {
            one.subject().as_raw() == other.subject().as_raw() && one.public_key().raw == other.public_key().raw
        };
        let belongs = |each: &X509Certificate<'_>| reached.iter().any(|taken| same(each, taken) || signed_by(taken, each) == SignedBy::Yes);
        let (more, rest): (Vec<_>, Vec<_>) = others.iter().copied().partition(|(_, each)| belongs(each));
        others = rest;
        match (more.is_empty(), others.first()) {
            (_, None) => return Ok(count),
            (true, Some((position, each))) => return Err(ImportError::Stray { position: *position, subject: printable_name(each.subject()) }),
            (false, Some(_)) => reached.extend(more.into_iter().map(|(_, each)| each)),
        }
    }
}

/// Whether `authority` allows `below` authorities between itself and a leaf.
fn allows_below(authority: &X509Certificate<'_>, below: usize) -> bool {
    let limit = authority.basic_constraints().ok().flatten().and_then(|constraints| constraints.value.path_len_constraint);
    limit.is_none_or(|limit| u64::try_from(below).is_ok_and(|below| below <= u64::from(limit)))
}

/// What peers refuse among the certificates that what signs now stands on, and in the bundle, each with its subject: an authority that was imported before
/// this was looked at, or by another program.
pub fn refused_by_peers_in(state: &AuthorityState) -> Vec<(String, PeerRefusal)> {
    let signing = state.issuing().map(|(issuing, _)| std::iter::once(&issuing.certificate).chain(&issuing.upstream_chain));
    let pems = signing.into_iter().flatten().chain(state.trust.iter().map(|entry| &entry.certificate));
    let mut found = Vec::new();
    for der in pems.filter_map(|pem| certificates_from_pem(pem).ok()).flatten() {
        let Ok((_, certificate)) = X509Certificate::from_der(&der) else { continue };
        let refusal = refused_by_peers(&certificate).map(|refusal| (printable_name(certificate.subject()), refusal));
        found.extend(refusal.filter(|refusal| !found.contains(refusal)));
    }
    found
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
    if let Some(refusal) = refused_by_peers(certificate) {
        return Err(ImportError::Peers { subject, refusal });
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
