//! The walk from a certificate to a root, step by step, so that a person learns at which step it fails.
//!
//! It checks what a mesh peer checks, and a little more where peers differ (expired roots, key identifiers). Names of issuers
//! and subjects are compared byte for byte, as Go and rustls do.

mod error;

use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::{OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA, OID_X509_EXT_NAME_CONSTRAINTS};
use x509_parser::prelude::FromDer;

pub use error::{ChainError, Place};

use super::super::signed_by::{SignedBy, identifiers_differ, is_root, signature};
use super::certificate::signature_algorithm;
use crate::spiffe::SpiffeId;
use crate::spiffe::x509_svid::{Extensions, extension_name, is_critical_to_peers, leaf_departures, svid_id};

/// The longest path from leaf to root. Real ones have up to five certificates, with a cross-certificate.
const MAX_PATH: usize = 16;
/// How many signatures one walk may check: many candidates with one name must not cost much.
const MAX_SIGNATURES: usize = 100;

/// What a chain is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Mutual TLS in a mesh: both serverAuth and clientAuth, and the leaf is an X509-SVID.
    Peer,
    /// A TLS server with a DNS name.
    Server,
    /// A CA certificate by itself.
    Authority,
}

/// Checks a chain as a mesh peer would, leaf first, against trusted roots at an instant. Intermediates may stand in any order.
///
/// # Errors
/// [`ChainError`], the step that fails.
pub fn verify_as_peer(chain_der: &[impl AsRef<[u8]>], roots_der: &[impl AsRef<[u8]>], now: OffsetDateTime) -> Result<SpiffeId, ChainError> {
    let chain = parse_all(chain_der, Place::Certificate)?;
    let roots = parse_all(roots_der, Place::Root)?;
    let leaf = chain.first().ok_or(ChainError::Empty)?;
    walk(&chain, &roots, Purpose::Peer, now)?;
    svid_id(leaf).map_err(|error| ChainError::NotAnSvid(error.to_string()))
}

fn parse_all<'a>(all: &'a [impl AsRef<[u8]>], place: fn(usize) -> Place) -> Result<Vec<X509Certificate<'a>>, ChainError> {
    let parse = |(index, der): (usize, &'a _)| match X509Certificate::from_der(AsRef::<[u8]>::as_ref(der)) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(ChainError::Unreadable(place(index + 1))),
    };
    all.iter().enumerate().map(parse).collect()
}

/// Finds the way from the first certificate to a root: the places it goes through, the root last.
pub(super) fn walk(
    chain: &[X509Certificate<'_>],
    roots: &[X509Certificate<'_>],
    purpose: Purpose,
    now: OffsetDateTime,
) -> Result<Vec<Place>, ChainError> {
    let first = chain.first().ok_or(ChainError::Empty)?;
    if first.is_ca()
        && purpose != Purpose::Authority
        && let Some(index) = chain.iter().position(|certificate| !certificate.is_ca())
    {
        return Err(ChainError::LeafNotFirst(Place::Certificate(index + 1)));
    }
    if purpose == Purpose::Peer {
        // A peer refuses a leaf for what X509-SVID §5.2 names; other departures are shown apart.
        let refused = |section: &str| section.starts_with("X509-SVID") && !section.ends_with("§4.4") || section.starts_with("SPIFFE-ID");
        if let Some(departure) = leaf_departures(first).into_iter().find(|departure| departure.must && refused(departure.section)) {
            return Err(ChainError::NotAnSvid(departure.to_string()));
        }
    }
    let mut walk = Walk { chain, roots, purpose, now, signatures: 0, path: vec![Place::Certificate(1)], deepest: None };
    walk.check_itself(first, Place::Certificate(1))?;
    if walk.climb(first, Place::Certificate(1), 0)? {
        return Ok(walk.path);
    }
    Err(walk.deepest.map_or(ChainError::Empty, |(_, error)| error))
}

struct Walk<'w> {
    chain: &'w [X509Certificate<'w>],
    roots: &'w [X509Certificate<'w>],
    purpose: Purpose,
    now: OffsetDateTime,
    signatures: usize,
    path: Vec<Place>,
    /// The failure nearest to a root: it says most.
    deepest: Option<(usize, ChainError)>,
}

impl<'w> Walk<'w> {
    /// Goes up from `current`, which has passed; `below` counts the CAs up to and with it that aren't self-issued.
    fn climb(&mut self, current: &'w X509Certificate<'w>, place: Place, below: u32) -> Result<bool, ChainError> {
        if matches!(place, Place::Root(_)) {
            return Ok(true);
        }
        // What is no CA can be nobody's root, whoever gives it as one.
        if let Some(index) = self.roots.iter().position(|root| root.as_raw() == current.as_raw() && root.is_ca()) {
            // The root came along in the chain.
            self.path.pop();
            self.path.push(Place::Root(index + 1));
            return Ok(true);
        }
        if current.is_ca() && is_root(current) {
            self.fail(ChainError::UntrustedRoot(place));
            return Ok(false);
        }
        if self.path.len() >= MAX_PATH {
            return Err(ChainError::TooManySteps);
        }
        let (chain, roots) = (self.chain, self.roots);
        let trusted = roots.iter().enumerate().map(|(index, root)| (Place::Root(index + 1), root));
        let presented = chain.iter().enumerate().map(|(index, other)| (Place::Certificate(index + 1), other));
        let mut named = false;
        let mut candidates: Vec<_> = trusted.chain(presented).collect();
        // A key identifier tells who is asked first; who signed, the signature says.
        candidates.sort_by_key(|(_, candidate)| identifiers_differ(current, candidate));
        for (candidate_place, candidate) in candidates {
            if candidate.subject.as_raw() != current.issuer.as_raw() || self.path.contains(&candidate_place) {
                continue;
            }
            named = true;
            match self.check_issuer(current, place, candidate, candidate_place, below) {
                Ok(()) => {}
                Err(ChainError::TooManySteps) => return Err(ChainError::TooManySteps),
                Err(error) => {
                    self.fail(error);
                    continue;
                }
            }
            self.path.push(candidate_place);
            let self_issued = candidate.subject.as_raw() == candidate.issuer.as_raw();
            if self.climb(candidate, candidate_place, below + u32::from(!self_issued))? {
                return Ok(true);
            }
            self.path.pop();
        }
        if !named {
            self.fail(ChainError::NoIssuer { place, issuer: super::certificate::name(&current.issuer) });
        }
        Ok(false)
    }

    fn fail(&mut self, error: ChainError) {
        let depth = self.path.len();
        if self.deepest.as_ref().is_none_or(|(deepest, _)| depth > *deepest) {
            self.deepest = Some((depth, error));
        }
    }

    fn check_issuer(
        &mut self,
        signed: &X509Certificate<'_>,
        place: Place,
        issuer: &X509Certificate<'_>,
        issuer_place: Place,
        below: u32,
    ) -> Result<(), ChainError> {
        let extensions = Extensions::of(issuer);
        self.signatures += 1;
        if self.signatures > MAX_SIGNATURES {
            return Err(ChainError::TooManySteps);
        }
        verify_signature(signed, issuer, place, issuer_place).map_err(|error| match error {
            ChainError::Signature { .. } if identifiers_differ(signed, issuer) => ChainError::KeyIdentifier { place, issuer: issuer_place },
            error => error,
        })?;
        self.check_itself(issuer, issuer_place)?;
        let limit = match extensions.basic_constraints {
            Some((constraints, _)) if constraints.ca => constraints.path_len_constraint,
            _ => return Err(ChainError::NotCa(issuer_place)),
        };
        if !extensions.key_usage.is_none_or(|(usage, _)| usage.key_cert_sign()) {
            return Err(ChainError::NoKeyCertSign(issuer_place));
        }
        match limit {
            Some(limit) if below > limit => Err(ChainError::PathLength { place: issuer_place, limit, below }),
            _ => Ok(()),
        }
    }

    /// What each certificate of the path must hold to by itself: validity, extensions that are understood, purpose.
    fn check_itself(&self, certificate: &X509Certificate<'_>, place: Place) -> Result<(), ChainError> {
        let (from, at) = (certificate.validity.not_before.to_datetime(), certificate.validity.not_after.to_datetime());
        if self.now < from {
            return Err(ChainError::NotYetValid { place, from });
        }
        if self.now > at {
            return Err(ChainError::Expired { place, at });
        }
        for extension in certificate.extensions().iter().filter(|extension| extension.critical) {
            let unreadable =
                matches!(extension.parsed_extension(), ParsedExtension::UnsupportedExtension { .. } | ParsedExtension::ParseError { .. });
            if unreadable || is_critical_to_peers(extension) || extension.oid == OID_X509_EXT_NAME_CONSTRAINTS {
                return Err(ChainError::CriticalExtension { place, extension: extension_name(&extension.oid) });
            }
        }
        // Validators differ on roots: none looks at the extendedKeyUsage of a trust anchor.
        let Some((usage, _)) = Extensions::of(certificate).extended_key_usage else { return Ok(()) };
        if usage.any || self.purpose == Purpose::Authority || matches!(place, Place::Root(_)) {
            return Ok(());
        }
        if !usage.server_auth {
            return Err(ChainError::Purpose { place, usage: "serverAuth" });
        }
        if self.purpose == Purpose::Peer && !usage.client_auth {
            return Err(ChainError::Purpose { place, usage: "clientAuth" });
        }
        Ok(())
    }
}

/// Whether `signed` is signed by the key of `issuer`, with an algorithm that peers take.
fn verify_signature(signed: &X509Certificate<'_>, issuer: &X509Certificate<'_>, place: Place, issuer_place: Place) -> Result<(), ChainError> {
    let algorithm = &signed.signature_algorithm.algorithm;
    if *algorithm == OID_PKCS1_SHA1WITHRSA || *algorithm == OID_SHA1_WITH_RSA || signed.signature_algorithm != signed.tbs_certificate.signature {
        return Err(ChainError::SignatureAlgorithm(place));
    }
    match signature(signed, issuer) {
        SignedBy::Yes => Ok(()),
        SignedBy::No => Err(ChainError::Signature { place, issuer: issuer_place }),
        SignedBy::Unknown => Err(ChainError::Uncheckable { place, algorithm: signature_algorithm(algorithm) }),
    }
}

#[cfg(test)]
mod tests;
