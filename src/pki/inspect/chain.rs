//! The walk from a certificate to a root, step by step, so that a person learns at which step it fails.
//!
//! It checks what a mesh peer checks, and a little more where peers differ (expired roots, key identifiers). Names of issuers
//! and subjects are compared byte for byte, as Go and rustls do.

use std::fmt;

use serde::Serialize;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::error::X509Error;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::{OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA, OID_X509_EXT_NAME_CONSTRAINTS};
use x509_parser::prelude::FromDer;

use super::text::instant;
use crate::spiffe::SpiffeId;
use crate::spiffe::x509_svid::{Extensions, leaf_departures, svid_id};

/// The longest path from leaf to root. Real ones have up to five certificates, with a cross-certificate.
const MAX_PATH: usize = 16;
/// How many signatures one walk may check: many candidates with one name must not cost much.
const MAX_SIGNATURES: usize = 100;

/// Which certificate is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    /// One of the chain, counted from 1.
    Certificate(usize),
    /// One of the trusted roots, counted from 1.
    Root(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(position) => write!(formatter, "certificate {position}"),
            Self::Root(position) => write!(formatter, "root {position}"),
        }
    }
}

/// At which step a chain doesn't verify.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// There is no certificate.
    #[error("there is no certificate to verify")]
    Empty,
    /// One certificate can't be read.
    #[error("{0} can't be read as one DER certificate")]
    Unreadable(Place),
    /// Too many certificates, or too many signatures to check.
    #[error("it takes too many steps to find a way to a root")]
    TooManySteps,
    /// The first certificate is a CA, and another one is not.
    #[error("certificate 1 is a CA and {0} is not: a chain begins with its leaf (RFC 8446 §4.4.2)")]
    LeafNotFirst(Place),
    /// The first certificate is no X509-SVID leaf.
    #[error("certificate 1 is not an X509-SVID for a workload: {0}")]
    NotAnSvid(String),
    /// No certificate has the issuer's name: a missing intermediate, or another root.
    #[error("no certificate of the issuer of {place} ({issuer}): an intermediate is missing, or it belongs to another root")]
    NoIssuer {
        /// Whose issuer is missing.
        place: Place,
        /// The issuer's name.
        issuer: String,
    },
    /// The path ends in a self-signed certificate that isn't trusted.
    #[error("{0} is a root that is not among the trusted ones")]
    UntrustedRoot(Place),
    /// Names match, key identifiers don't (RFC 5280 §4.2.1.1).
    #[error("{place} names another key of its issuer than the one of {issuer}: the same name, but another key")]
    KeyIdentifier {
        /// The signed certificate.
        place: Place,
        /// The one with the issuer's name.
        issuer: Place,
    },
    /// The signature isn't by the issuer's key.
    #[error("the signature of {place} is not by the key of {issuer}")]
    Signature {
        /// The signed certificate.
        place: Place,
        /// The one with the issuer's name.
        issuer: Place,
    },
    /// A signature that no peer takes, or that can't be checked here.
    #[error("the signature algorithm of {0} is weak, unknown, or not the same inside and outside")]
    SignatureAlgorithm(Place),
    /// It is before notBefore.
    #[error("{place} is not valid before {}", instant(*.from))]
    NotYetValid {
        /// Which one.
        place: Place,
        /// Its notBefore.
        from: OffsetDateTime,
    },
    /// It is after notAfter.
    #[error("{place} expired at {}", instant(*.at))]
    Expired {
        /// Which one.
        place: Place,
        /// Its notAfter.
        at: OffsetDateTime,
    },
    /// It signed a certificate and is no CA (RFC 5280 §4.2.1.9).
    #[error("{0} signed a certificate and is not a CA")]
    NotCa(Place),
    /// It signed a certificate and may not (RFC 5280 §4.2.1.3).
    #[error("{0} signed a certificate and its keyUsage lacks keyCertSign")]
    NoKeyCertSign(Place),
    /// More intermediates below it than it allows (RFC 5280 §4.2.1.9).
    #[error("{place} allows {limit} CAs below it and has {below}")]
    PathLength {
        /// Which one.
        place: Place,
        /// Its pathLenConstraint.
        limit: u32,
        /// CAs below it that aren't self-issued.
        below: u32,
    },
    /// A critical extension that isn't evaluated here: a validator must refuse then (RFC 5280 §4.2).
    #[error("{place} has a critical extension that isn't evaluated here ({oid})")]
    CriticalExtension {
        /// Which one.
        place: Place,
        /// The extension.
        oid: String,
    },
    /// Its extendedKeyUsage forbids what the chain is for.
    #[error("the extendedKeyUsage of {place} lacks {usage}")]
    Purpose {
        /// Which one.
        place: Place,
        /// `serverAuth` or `clientAuth`.
        usage: &'static str,
    },
}

impl ChainError {
    /// A short, stable name of the step for machines.
    pub fn step(&self) -> &'static str {
        match self {
            Self::Empty | Self::Unreadable(_) => "read",
            Self::TooManySteps => "bounds",
            Self::LeafNotFirst(_) => "order",
            Self::NotAnSvid(_) => "svid",
            Self::NoIssuer { .. } => "issuer",
            Self::UntrustedRoot(_) => "root",
            Self::KeyIdentifier { .. } => "keyIdentifier",
            Self::Signature { .. } | Self::SignatureAlgorithm(_) => "signature",
            Self::NotYetValid { .. } | Self::Expired { .. } => "validity",
            Self::NotCa(_) => "ca",
            Self::NoKeyCertSign(_) => "keyCertSign",
            Self::PathLength { .. } => "pathLength",
            Self::CriticalExtension { .. } => "criticalExtension",
            Self::Purpose { .. } => "purpose",
        }
    }
}

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
        if let Some(index) = self.roots.iter().position(|root| root.as_raw() == current.as_raw()) {
            // The root came along in the chain.
            self.path.pop();
            self.path.push(Place::Root(index + 1));
            return Ok(true);
        }
        if current.subject.as_raw() == current.issuer.as_raw() && !current.subject.as_raw().is_empty() && current.is_ca() {
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
        for (candidate_place, candidate) in trusted.chain(presented) {
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
        let wanted = Extensions::of(signed).authority_key.and_then(|(key, _)| key.key_identifier.as_ref());
        if let (Some(wanted), Some((found, _))) = (wanted, extensions.subject_key)
            && wanted != found
        {
            return Err(ChainError::KeyIdentifier { place, issuer: issuer_place });
        }
        self.signatures += 1;
        if self.signatures > MAX_SIGNATURES {
            return Err(ChainError::TooManySteps);
        }
        verify_signature(signed, issuer, place, issuer_place)?;
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
            let unknown = matches!(extension.parsed_extension(), ParsedExtension::UnsupportedExtension { .. } | ParsedExtension::ParseError { .. });
            if unknown || extension.oid == OID_X509_EXT_NAME_CONSTRAINTS {
                return Err(ChainError::CriticalExtension { place, oid: extension.oid.to_string() });
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
    signed.verify_signature(Some(issuer.public_key())).map_err(|error| match error {
        X509Error::SignatureUnsupportedAlgorithm => ChainError::SignatureAlgorithm(place),
        _ => ChainError::Signature { place, issuer: issuer_place },
    })
}

/// Whether a root's signature is by its own key.
pub(super) fn is_self_signed(root: &X509Certificate<'_>) -> bool {
    verify_signature(root, root, Place::Root(1), Place::Root(1)).is_ok()
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyUsagePurpose};
    use time::Duration;

    use super::*;
    use crate::spiffe::x509_svid::makers::{Made, NOW, authority_params, leaf_params, uri};

    /// root → intermediate → leaf.
    struct World {
        root: Made,
        intermediate: Made,
        leaf: Made,
    }

    fn world(
        spoil_root: fn(&mut CertificateParams),
        spoil_intermediate: fn(&mut CertificateParams),
        spoil_leaf: fn(&mut CertificateParams),
    ) -> World {
        let (mut root, mut intermediate, mut leaf) = (authority_params("root"), authority_params("intermediate"), leaf_params());
        spoil_root(&mut root);
        spoil_intermediate(&mut intermediate);
        spoil_leaf(&mut leaf);
        let root = Made::self_signed(root);
        let intermediate = root.below(intermediate);
        let leaf = intermediate.below(leaf);
        World { root, intermediate, leaf }
    }

    fn good() -> World {
        world(|_| (), |_| (), |_| ())
    }

    impl World {
        fn verify(&self) -> Result<String, ChainError> {
            verify(&[&self.leaf, &self.intermediate], &[&self.root])
        }
    }

    fn verify(chain: &[&Made], roots: &[&Made]) -> Result<String, ChainError> {
        let der = |all: &[&Made]| all.iter().map(|made| made.der.clone()).collect::<Vec<_>>();
        verify_as_peer(&der(chain), &der(roots), NOW).map(|id| id.to_string())
    }

    const ID: &str = "spiffe://cluster.local/ns/shop/sa/cart";
    const ONE: Place = Place::Certificate(1);
    const TWO: Place = Place::Certificate(2);
    const ROOT: Place = Place::Root(1);

    #[test]
    fn a_good_chain_verifies_in_any_order_of_intermediates_and_roots() {
        let world = good();
        assert_eq!(world.verify(), Ok(ID.to_owned()));
        let other = Made::root("other");
        assert_eq!(verify(&[&world.leaf, &world.intermediate], &[&other, &world.root]), Ok(ID.to_owned()));
        assert_eq!(verify(&[&world.leaf, &world.root, &world.intermediate], &[&world.root]), Ok(ID.to_owned()));
        let direct = world.root.below(leaf_params());
        assert_eq!(verify(&[&direct], &[&world.root]), Ok(ID.to_owned()));
    }

    #[test]
    fn a_cross_certificate_leads_to_either_root() {
        let (old, new) = (Made::root("old"), Made::root("new"));
        let cross_der = authority_params("new").signed_by(new.issuer.key(), &old.issuer).unwrap().der().to_vec();
        let cross = Made { der: cross_der, issuer: rcgen::Issuer::new(authority_params("new"), rcgen::KeyPair::generate().unwrap()) };
        let intermediate = new.below(authority_params("intermediate"));
        let leaf = intermediate.below(leaf_params());
        for roots in [&[&old][..], &[&new], &[&old, &new]] {
            assert_eq!(verify(&[&leaf, &intermediate, &cross], roots), Ok(ID.to_owned()));
        }
    }

    #[test]
    fn names_the_step_that_fails() {
        let world = good();
        assert_eq!(verify(&[], &[&world.root]), Err(ChainError::Empty));
        assert_eq!(verify(&[&world.leaf], &[&world.root]), Err(ChainError::NoIssuer { place: ONE, issuer: "CN=intermediate".to_owned() }));
        let other = Made::root("other");
        assert_eq!(verify(&[&world.leaf, &world.intermediate], &[&other]), Err(ChainError::NoIssuer { place: TWO, issuer: "CN=root".to_owned() }));
        let same_name = Made::root("root");
        assert_eq!(verify(&[&world.leaf, &world.intermediate], &[&same_name]), Err(ChainError::KeyIdentifier { place: TWO, issuer: ROOT }));
        let with_root = [&world.leaf, &world.intermediate, &world.root];
        assert_eq!(verify(&with_root, &[&other]), Err(ChainError::UntrustedRoot(Place::Certificate(3))));
        assert_eq!(verify(&[&world.intermediate, &world.leaf], &[&world.root]), Err(ChainError::LeafNotFirst(TWO)));
        let garbage = [world.leaf.der.clone(), vec![0x30]];
        assert_eq!(verify_as_peer(&garbage, &[&world.root.der], NOW), Err(ChainError::Unreadable(TWO)));
    }

    #[test]
    fn names_the_certificate_that_is_at_fault() {
        let (none, minute) = (|_: &mut CertificateParams| (), Duration::minutes(1));
        let late = |params: &mut CertificateParams| params.not_before = NOW + Duration::minutes(1);
        let gone = |params: &mut CertificateParams| params.not_after = NOW - Duration::minutes(1);
        for (world, place) in [(world(late, none, none), ROOT), (world(none, late, none), TWO), (world(none, none, late), ONE)] {
            assert_eq!(world.verify(), Err(ChainError::NotYetValid { place, from: NOW + minute }));
        }
        for (world, place) in [(world(gone, none, none), ROOT), (world(none, gone, none), TWO), (world(none, none, gone), ONE)] {
            assert_eq!(world.verify(), Err(ChainError::Expired { place, at: NOW - minute }));
        }
        let no_ca = |params: &mut CertificateParams| params.is_ca = IsCa::ExplicitNoCa;
        assert_eq!(world(none, no_ca, none).verify(), Err(ChainError::NotCa(TWO)));
        let crl_only = |params: &mut CertificateParams| params.key_usages = vec![KeyUsagePurpose::CrlSign];
        assert_eq!(world(none, crl_only, none).verify(), Err(ChainError::NoKeyCertSign(TWO)));
        let server_only = |params: &mut CertificateParams| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        assert_eq!(world(none, none, server_only).verify(), Err(ChainError::Purpose { place: ONE, usage: "clientAuth" }));
        assert_eq!(world(none, server_only, none).verify(), Err(ChainError::Purpose { place: TWO, usage: "clientAuth" }));
        let client_only = |params: &mut CertificateParams| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        assert_eq!(world(none, none, client_only).verify(), Err(ChainError::Purpose { place: ONE, usage: "serverAuth" }));
        let unknown = |params: &mut CertificateParams| {
            let mut extension = CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0]);
            extension.set_criticality(true);
            params.custom_extensions.push(extension);
        };
        assert_eq!(world(none, unknown, none).verify(), Err(ChainError::CriticalExtension { place: TWO, oid: "1.2.3".to_owned() }));
        let domain_only = |params: &mut CertificateParams| params.subject_alt_names = vec![uri("spiffe://cluster.local")];
        assert!(matches!(world(none, none, domain_only).verify(), Err(ChainError::NotAnSvid(what)) if what.contains("no path")));
    }

    #[test]
    fn counts_the_cas_below() {
        let no_ca_below = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let spoilt = world(no_ca_below, |_| (), |_| ());
        assert_eq!(spoilt.verify(), Err(ChainError::PathLength { place: ROOT, limit: 0, below: 1 }));
        assert_eq!(world(|_| (), no_ca_below, |_| ()).verify(), Ok(ID.to_owned()));
        let direct = spoilt.root.below(leaf_params());
        assert_eq!(verify(&[&direct], &[&spoilt.root]), Ok(ID.to_owned()));
    }

    #[test]
    fn signatures_are_checked() {
        let mut world = good();
        let last = world.leaf.der.len() - 1;
        world.leaf.der[last] ^= 1;
        assert_eq!(world.verify(), Err(ChainError::Signature { place: ONE, issuer: TWO }));
        // Another key under the same name and the same key identifier.
        let pinned = || {
            let mut params = authority_params("root");
            params.key_identifier_method = KeyIdMethod::PreSpecified(vec![7; 20]);
            Made::self_signed(params)
        };
        let leaf = pinned().below(leaf_params());
        assert_eq!(verify(&[&leaf], &[&pinned()]), Err(ChainError::Signature { place: ONE, issuer: ROOT }));
        // ecdsa-with-SHA256 outside, ecdsa-with-SHA512 inside.
        let mut world = good();
        let oid = [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
        let at = world.leaf.der.windows(oid.len()).position(|window| window == oid).unwrap();
        world.leaf.der[at + 7] = 4;
        assert_eq!(world.verify(), Err(ChainError::SignatureAlgorithm(ONE)));
    }

    #[test]
    fn many_candidates_cost_little() {
        let method = KeyIdMethod::PreSpecified(vec![7; 20]);
        let mut params = authority_params("root");
        params.key_identifier_method = method;
        let leaf = Made::self_signed(params.clone()).below(leaf_params());
        let twin = Made::self_signed(params);
        assert_eq!(verify(&[&leaf], &vec![&twin; 101]), Err(ChainError::TooManySteps));
        // A path that never ends in a root: each certificate issued by the next.
        let mut made = vec![Made::root("ca0")];
        for number in 1..=20 {
            made.push(made[number - 1].below(authority_params(&format!("ca{number}"))));
        }
        made.push(made[20].below(leaf_params()));
        let chain: Vec<_> = made.iter().rev().collect();
        assert_eq!(verify(&chain, &[&made[0]]), Err(ChainError::TooManySteps));
    }

    #[test]
    fn every_error_has_a_step_and_a_sentence() {
        let error = ChainError::Expired { place: TWO, at: NOW };
        assert_eq!((error.step(), error.to_string()), ("validity", "certificate 2 expired at 2026-11-23 12:00:00Z".to_owned()));
    }
}
