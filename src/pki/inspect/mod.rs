//! What a person wants to see of a certificate, chain, trust bundle or CSR.
//!
//! `inspect` and `dev` show it. Nothing here reads a file or the time: bytes, trusted roots and the instant are handed in,
//! and any bytes are safe to hand in.

mod certificate;
mod chain;
mod input;
pub(crate) mod printable;
mod request;
mod text;

use std::collections::BTreeSet;

use serde::Serialize;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

pub use certificate::{CertificateReport, KeyReport, Kind};
pub(crate) use certificate::{name as printable_name, signature_algorithm};
pub use chain::{ChainError, Place, Purpose, verify_as_peer};
pub use input::{InspectError, MAX_BLOCKS, MAX_INPUT};
pub(crate) use printable::printable;
pub use request::RequestReport;
pub use text::{Palette, lifetime, render_text, span};

use super::signed_by::{SignedBy, identifiers_differ, is_root, signed_by};
use crate::spiffe::bundle::BundleDocument;

/// How grave something is; the gravest decides about the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing to say against it.
    Ok,
    /// Worth a look: a SHOULD that isn't kept, or an end that is near.
    Warning,
    /// It won't do: it doesn't verify, has expired, can't be read, or departs from a MUST.
    Failed,
}

/// One sentence about the input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Remark {
    /// How grave.
    pub severity: Severity,
    /// The sentence.
    pub what: String,
}

/// How the verification of a chain went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ChainStatus {
    /// It verifies.
    Verified,
    /// It doesn't.
    Failed,
    /// There are no roots to verify against.
    NotChecked,
}

/// The way from the first certificate to a root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChainReport {
    /// How it went.
    pub status: ChainStatus,
    /// Whether the roots were given, and not taken from the input itself.
    pub roots_given: bool,
    /// The certificates on the way, the root last; empty where there is no way.
    pub path: Vec<Place>,
    /// The root that it leads to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<CertificateReport>,
    /// The step that failed: `issuer`, `signature`, `validity`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_step: Option<&'static str>,
    /// What failed there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What a SPIFFE bundle document says besides its roots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BundleReport {
    /// The bundle number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// How often to look again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_hint_seconds: Option<u64>,
    /// Keys for JWT-SVIDs.
    pub jwt_keys: usize,
}

/// Everything about one input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The gravest of all that was found.
    pub severity: Severity,
    /// The instant of looking, in whole seconds.
    #[serde(with = "time::serde::rfc3339")]
    pub now: OffsetDateTime,
    /// The certificates, in their order.
    pub certificates: Vec<CertificateReport>,
    /// Whether the first certificate leads to a root; absent for a bundle of roots and for CSRs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<ChainReport>,
    /// The CSRs, in their order.
    pub requests: Vec<RequestReport>,
    /// Where the input is a SPIFFE bundle document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle: Option<BundleReport>,
    /// What else there is to say.
    pub remarks: Vec<Remark>,
}

impl Report {
    /// Adds a sentence, which may make the whole graver.
    pub fn remark(&mut self, severity: Severity, what: impl Into<String>) {
        self.severity = self.severity.max(severity);
        self.remarks.push(Remark { severity, what: what.into() });
    }
}

/// Looks at PEM (any number of blocks), DER, or a SPIFFE bundle document.
///
/// The first certificate is verified against `roots`, as a mesh peer would where it is a workload's; without `roots` against the
/// roots in the input itself; without those not at all.
///
/// # Errors
/// [`InspectError`] where there is nothing that can be looked at. What can be looked at in part becomes a report that has failed.
pub fn inspect(input: &[u8], roots: Option<&[Vec<u8>]>, now: OffsetDateTime) -> Result<Report, InspectError> {
    Ok(report(input::read(input)?, roots, now))
}

/// Looks at a chain that is there as DER already, leaf first, as a TLS server presents it.
pub fn inspect_chain(chain_der: &[impl AsRef<[u8]>], roots: Option<&[Vec<u8>]>, now: OffsetDateTime) -> Report {
    let mut contents = input::Contents::default();
    for (index, der) in chain_der.iter().take(MAX_BLOCKS).enumerate() {
        contents.take_certificate(der.as_ref().to_vec(), &format!("certificate {}", index + 1));
    }
    report(contents, roots, now)
}

/// The roots in a file for `--roots`: every certificate of a PEM, DER or SPIFFE bundle.
///
/// # Errors
/// [`InspectError::Unknown`] where there is no certificate, and the others of [`inspect`].
pub fn roots_of(input: &[u8]) -> Result<Vec<Vec<u8>>, InspectError> {
    let contents = input::read(input)?;
    if contents.certificates.is_empty() { Err(InspectError::Unknown) } else { Ok(contents.certificates) }
}

fn report(contents: input::Contents, roots: Option<&[Vec<u8>]>, now: OffsetDateTime) -> Report {
    let now = now.replace_nanosecond(0).unwrap_or(now);
    let certificates: Vec<_> = contents.certificates.iter().filter_map(|der| Some(X509Certificate::from_der(der).ok()?.1)).collect();
    let requests = contents.requests.iter().filter_map(|der| Some(X509CertificationRequest::from_der(der).ok()?.1));
    let mut report = Report {
        severity: Severity::Ok,
        now,
        certificates: certificates.iter().enumerate().map(|(index, certificate)| CertificateReport::of(certificate, index + 1, now)).collect(),
        chain: None,
        requests: requests.enumerate().map(|(index, request)| RequestReport::of(&request, index + 1)).collect(),
        bundle: None,
        remarks: Vec::new(),
    };
    for sentence in contents.unreadable {
        report.remark(Severity::Failed, sentence);
    }
    for sentence in contents.notes {
        report.remark(Severity::Ok, sentence);
    }
    remark_on_life(&mut report);
    remark_on_roots(&mut report, &certificates, roots);
    if let Some(bundle) = &contents.bundle {
        remark_on_bundle(&mut report, bundle);
    } else if report.certificates.iter().any(|certificate| certificate.kind != Kind::Root) {
        check_chain(&mut report, &certificates, roots);
    }
    if report.certificates.is_empty() && report.requests.is_empty() && report.bundle.is_none() {
        report.remark(Severity::Failed, "there is neither a certificate nor a CSR in it: nothing was looked at");
    } else if roots.is_some() && report.certificates.is_empty() {
        report.remark(Severity::Warning, "there is no certificate in it, so nothing was verified against the given roots");
    }
    if report.requests.iter().any(|request| !request.self_signature_verifies) {
        report.remark(Severity::Failed, "the CSR is not signed by its own key: it proves nothing, and every CA refuses it");
    }
    if !report.requests.is_empty() {
        report.remark(Severity::Ok, "Istio CAs take only the key from a CSR: its subject, names and extensions are ignored");
    }
    let departures = report.certificates.iter().flat_map(|certificate| &certificate.departures);
    let gravest = departures.map(|departure| if departure.must { Severity::Failed } else { Severity::Warning }).max();
    report.severity = report.severity.max(gravest.unwrap_or(Severity::Ok));
    report
}

fn remark_on_life(report: &mut Report) {
    let mut remarks = Vec::new();
    for certificate in &report.certificates {
        let whole = (certificate.not_after - certificate.not_before).whole_seconds();
        let place = format!("certificate {} ({})", certificate.position, certificate.kind.as_str());
        if certificate.remaining_seconds < 0 {
            remarks.push((Severity::Failed, format!("{place} has expired")));
        } else if report.now < certificate.not_before {
            remarks.push((Severity::Failed, format!("{place} is not valid yet")));
        } else if certificate.remaining_seconds < whole / 10 {
            remarks.push((Severity::Warning, format!("{place} has less than a tenth of its life left: its renewal is overdue")));
        }
    }
    for (severity, what) in remarks {
        report.remark(severity, what);
    }
}

fn remark_on_roots(report: &mut Report, certificates: &[X509Certificate<'_>], roots: Option<&[Vec<u8>]>) {
    let mut seen = BTreeSet::new();
    for (index, certificate) in certificates.iter().enumerate() {
        let place = format!("certificate {}", index + 1);
        if !seen.insert(certificate.as_raw()) {
            report.remark(Severity::Warning, format!("{place} is there twice"));
        }
        if Kind::of(certificate) != Kind::Root {
            continue;
        }
        match signed_by(certificate, certificate) {
            SignedBy::Yes => {}
            SignedBy::No => report.remark(Severity::Failed, format!("{place} has its own name as issuer, but isn't signed by its own key")),
            SignedBy::Unknown => {
                let algorithm = signature_algorithm(&certificate.signature_algorithm.algorithm);
                let what = format!("{place}: its signature by its own key ({algorithm}) can't be checked here; a trusted root needs no such check");
                report.remark(Severity::Ok, what);
            }
        }
        if roots.is_some_and(|roots| roots.iter().all(|root| root.as_slice() != certificate.as_raw())) {
            report.remark(Severity::Warning, format!("{place} is a root that is not among the given roots"));
        }
    }
}

/// What nobody can use as a root, or not everybody.
fn remark_on_given(report: &mut Report, given: &[X509Certificate<'_>]) {
    let no_ca = given.iter().zip(1..).filter(|(root, _)| !root.is_ca());
    let positions: Vec<_> = no_ca.map(|(_, position)| format!("root {position}")).collect();
    match positions.len() {
        0 => {}
        all if all == given.len() => report.remark(Severity::Failed, "nothing among the given roots can be a root: none is a CA certificate"),
        _ => report
            .remark(Severity::Warning, format!("among the given roots are some that can be none, because they are no CA: {}", positions.join(", "))),
    }
    for (root, position) in given.iter().zip(1..) {
        if root.is_ca() && !is_root(root) {
            report.remark(
                Severity::Warning,
                format!("root {position} of the given ones is signed by another key: openssl doesn't take it as a root by itself"),
            );
        }
    }
}

fn remark_on_bundle(report: &mut Report, bundle: &BundleDocument) {
    report.bundle = Some(BundleReport {
        sequence: bundle.sequence,
        refresh_hint_seconds: bundle.refresh_hint.map(|hint| hint.as_secs()),
        jwt_keys: bundle.jwt_keys,
    });
    if report.certificates.is_empty() {
        report.remark(Severity::Failed, "the bundle has no root: nothing can be verified with it");
    }
    if report.certificates.iter().any(|certificate| certificate.kind != Kind::Root) {
        report.remark(Severity::Warning, "the bundle has a certificate that is not a root (X509-SVID §6.1, SHOULD)");
    }
    if bundle.roots_with_kid > 0 {
        report.remark(Severity::Failed, "a root has a kid (X509-SVID §6.1, MUST NOT)");
    }
    if bundle.roots_with_chain > 0 {
        report.remark(Severity::Failed, "a root's x5c has more than one certificate (X509-SVID §6.1, MUST)");
    }
    if bundle.ignored > 0 {
        report.remark(Severity::Warning, format!("{} keys that readers ignore: an unknown use, or no x5c (X509-SVID §6.2)", bundle.ignored));
    }
    if bundle.sequence.is_none() {
        report.remark(Severity::Warning, "no spiffe_sequence (SPIFFE Trust Domain and Bundle §4.1.1)");
    }
    if bundle.refresh_hint.is_none() {
        report.remark(Severity::Warning, "no spiffe_refresh_hint (SPIFFE Trust Domain and Bundle §4.1.2)");
    }
}

fn check_chain(report: &mut Report, certificates: &[X509Certificate<'_>], roots: Option<&[Vec<u8>]>) {
    let trusted: Vec<_> = match roots {
        Some(roots) => roots.iter().filter_map(|der| Some(X509Certificate::from_der(der).ok()?.1)).collect(),
        None => certificates.iter().filter(|certificate| Kind::of(certificate) == Kind::Root).cloned().collect(),
    };
    let mut chain =
        ChainReport { status: ChainStatus::NotChecked, roots_given: roots.is_some(), path: vec![], root: None, failed_step: None, why: None };
    if trusted.is_empty() && roots.is_none() {
        report.chain = Some(chain);
        return;
    }
    if chain.roots_given {
        remark_on_given(report, &trusted);
    }
    let all_authorities = certificates.iter().all(|certificate| certificate.is_ca());
    let purpose = match certificates.first().map(Kind::of) {
        Some(Kind::Serving) => Purpose::Server,
        Some(Kind::Intermediate | Kind::Root) if all_authorities => Purpose::Authority,
        _ => Purpose::Peer,
    };
    match chain::walk(certificates, &trusted, purpose, report.now) {
        Ok(path) => {
            chain.status = ChainStatus::Verified;
            chain.root = path.last().and_then(|place| match place {
                Place::Root(position) => trusted.get(position - 1).map(|root| CertificateReport::of(root, *position, report.now)),
                Place::Certificate(_) => None,
            });
            let positions = || path.iter().filter_map(|place| if let Place::Certificate(position) = place { Some(*position) } else { None });
            if positions().zip(positions().skip(1)).any(|(lower, upper)| upper != lower + 1) {
                report.remark(
                    Severity::Warning,
                    "the chain is not in order, each certificate followed by its issuer, as TLS 1.2 wants it (RFC 5246 §7.4.2)",
                );
            }
            let of = |place: &Place| match place {
                Place::Certificate(position) => certificates.get(position - 1),
                Place::Root(position) => trusted.get(position - 1),
            };
            for pair in path.windows(2) {
                if let [below, above] = pair
                    && let (Some(signed), Some(issuer)) = (of(below), of(above))
                    && identifiers_differ(signed, issuer)
                {
                    let what =
                        format!("{below} names another key identifier than that of {above}, by whose key it is signed; some verifiers look at it");
                    report.remark(Severity::Warning, what);
                }
            }
            chain.path = path;
        }
        Err(error) => {
            chain.status = ChainStatus::Failed;
            chain.failed_step = Some(error.step());
            chain.why = Some(error.to_string());
            report.severity = Severity::Failed;
        }
    }
    report.chain = Some(chain);
}

#[cfg(test)]
mod tests;
