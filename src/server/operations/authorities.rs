//! The authorities and roots of the state as operators see them.

use std::collections::BTreeMap;

use time::OffsetDateTime;

use super::error::{FEWEST_DIGITS, OperationError};
use crate::authority::{Authority, AuthorityId, AuthorityState, Origin, Phase, Role, TrustEntry};
use crate::pki::certificates_from_pem;
use crate::pki::inspect::{CertificateReport, inspect_chain};
use crate::spiffe::TrustDomain;

/// All that there are.
#[derive(Debug, Clone)]
pub struct Authorities {
    /// Whose they are.
    pub trust_domain: TrustDomain,
    /// The number of the trust bundle.
    pub bundle_number: u64,
    /// Ours in the order of the state, then foreign roots in that of the bundle.
    pub authorities: Vec<ShownAuthority>,
}

/// One of them.
#[derive(Debug, Clone)]
pub struct ShownAuthority {
    /// Its name.
    pub id: AuthorityId,
    /// Where it stands.
    pub standing: Standing,
    /// The root that it chains to: itself for a root.
    pub root: AuthorityId,
    /// Whether it is in the trust bundle.
    pub trusted: bool,
    /// What its certificate says.
    pub certificate: CertificateReport,
    /// Its certificate, PEM.
    pub pem: String,
    /// The certificates between it and its root where somebody else signed it, nearest first, each one PEM block.
    pub upstream_chain: Vec<String>,
}

/// Where an authority stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// We hold its key, or held it.
    Own {
        /// What it does.
        role: Role,
        /// Where it stands in its life.
        phase: Phase,
        /// Where it came from.
        origin: Origin,
        /// The authority of ours that signed it.
        parent: Option<AuthorityId>,
        /// Whether we hold its key.
        has_key: bool,
        /// When it was made or imported.
        since: OffsetDateTime,
    },
    /// A root whose key was never ours.
    Foreign,
}

/// All of them.
///
/// # Errors
/// [`OperationError::Unreadable`].
pub(super) fn all(state: &AuthorityState, now: OffsetDateTime) -> Result<Vec<ShownAuthority>, OperationError> {
    let own = state.authorities.iter().map(|authority| own(state, authority, now));
    let foreign = state.trust.iter().filter(|entry| state.authority(&entry.id).is_none()).map(|entry| foreign(entry, now));
    own.chain(foreign).collect()
}

/// The one whose id is, or begins with, `id`.
///
/// # Errors
/// [`OperationError::AuthorityId`], [`OperationError::NoAuthority`], [`OperationError::SeveralAuthorities`], [`OperationError::Unreadable`].
pub(super) fn one(state: &AuthorityState, id: &str, now: OffsetDateTime) -> Result<ShownAuthority, OperationError> {
    let id = id.trim().to_ascii_lowercase();
    if id.len() < FEWEST_DIGITS || !id.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(OperationError::AuthorityId);
    }
    let all = all(state, now)?;
    let fitting: BTreeMap<_, _> = all.into_iter().map(|each| (each.id.clone(), each)).filter(|(each, _)| each.as_str().starts_with(&id)).collect();
    let mut fitting = fitting.into_values();
    match (fitting.next(), fitting.next()) {
        (None, _) => Err(OperationError::NoAuthority(id)),
        (Some(_), Some(_)) => Err(OperationError::SeveralAuthorities(id)),
        (Some(found), None) => Ok(found),
    }
}

fn own(state: &AuthorityState, authority: &Authority, now: OffsetDateTime) -> Result<ShownAuthority, OperationError> {
    let Authority { id, role, certificate, parent, upstream_chain, root, key, phase, origin, since } = authority;
    Ok(ShownAuthority {
        id: id.clone(),
        standing: Standing::Own { role: *role, phase: *phase, origin: *origin, parent: parent.clone(), has_key: key.is_some(), since: *since },
        root: root.clone(),
        trusted: state.trust.iter().any(|entry| entry.id == *id),
        certificate: report(id, certificate, now)?,
        pem: certificate.clone(),
        upstream_chain: upstream_chain.clone(),
    })
}

fn foreign(entry: &TrustEntry, now: OffsetDateTime) -> Result<ShownAuthority, OperationError> {
    Ok(ShownAuthority {
        id: entry.id.clone(),
        standing: Standing::Foreign,
        root: entry.id.clone(),
        trusted: true,
        certificate: report(&entry.id, &entry.certificate, now)?,
        pem: entry.certificate.clone(),
        upstream_chain: Vec::new(),
    })
}

/// What the certificate says.
fn report(id: &AuthorityId, pem: &str, now: OffsetDateTime) -> Result<CertificateReport, OperationError> {
    let unreadable = || OperationError::Unreadable(id.clone());
    let ders = certificates_from_pem(pem).map_err(|_| unreadable())?;
    inspect_chain(&ders, None, now).certificates.into_iter().next().ok_or_else(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::testing::{founded, with_first_issuing};

    fn foreign_root(id: &str, certificate: &str) -> TrustEntry {
        TrustEntry { id: AuthorityId::from_text(id.to_owned()), certificate: certificate.to_owned(), foreign: true }
    }

    #[test]
    fn ours_come_first_and_each_is_found_by_the_beginning_of_its_id() {
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
        let mut state = with_first_issuing(founded(now), now);
        let pem = state.authorities[0].certificate.clone();
        state.trust.push(foreign_root("abcd01", &pem));
        state.trust.push(foreign_root("abcd02", &pem));
        let shown = all(&state, now).unwrap();
        let standings: Vec<_> = shown.iter().map(|each| (matches!(each.standing, Standing::Own { .. }), each.trusted)).collect();
        assert_eq!(standings, [(true, true), (true, false), (false, true), (false, true)]);
        assert_eq!(shown[1].root, shown[0].id);

        let own = state.authorities[1].id.as_str();
        assert_eq!(one(&state, &format!(" {} ", own[..8].to_ascii_uppercase()), now).unwrap().id.as_str(), own);
        assert_eq!(one(&state, "abcd02", now).unwrap().pem, pem);
        let refused = |id: &str| one(&state, id, now).map(|found| found.id).unwrap_err();
        assert!(matches!(refused("abc"), OperationError::AuthorityId));
        assert!(matches!(refused("not hexadecimal"), OperationError::AuthorityId));
        assert!(matches!(refused("ABCD"), OperationError::SeveralAuthorities(id) if id == "abcd"));
        assert!(matches!(refused("00000000000000"), OperationError::NoAuthority(_)));
        state.trust.push(foreign_root("abcd03", "no PEM"));
        assert!(matches!(all(&state, now), Err(OperationError::Unreadable(id)) if id.as_str() == "abcd03"));
    }
}
