//! The last look before a signature: reads the very bytes that will be signed and holds them against what was decided and against the
//! rules. OpenBao looked at the request instead (GHSA-g892-p242-8g86).

use x509_parser::certificate::TbsCertificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

use super::Validity;
use super::subject::{IssuedBy, Serial, Subject};
use crate::spiffe::x509_svid;

/// What the bytes that were to be signed break.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the certificate would break {section}: {what}")]
pub struct LintError {
    /// The rule.
    pub section: &'static str,
    /// What is wrong.
    pub what: String,
}

/// Reads the bytes that will be signed and holds them against what was decided and against the rules.
pub(super) fn lint(tbs: &[u8], subject: &Subject<'_>, serial: Serial, validity: Validity, issuer: &IssuedBy<'_>) -> Result<(), LintError> {
    let broken = |section, what: &str| Err(LintError { section, what: what.to_owned() });
    let (rest, read) = TbsCertificate::from_der(tbs).map_err(|error| LintError { section: "RFC 5280 §4.1", what: error.to_string() })?;
    if !rest.is_empty() {
        return broken("RFC 5280 §4.1", "something follows the TBSCertificate");
    }
    if read.raw_serial() != serial.as_bytes() {
        return broken("RFC 5280 §4.1.2.2", "not the serial that was drawn");
    }
    if (read.validity().not_before.to_datetime(), read.validity().not_after.to_datetime()) != (validity.not_before, validity.not_after) {
        return broken("RFC 5280 §4.1.2.5", "not the validity that was decided");
    }
    if let IssuedBy::Signer(signer) = issuer {
        if read.issuer().as_raw() != signer.subject() {
            return broken("RFC 5280 §4.1.2.4", "not the issuer's subject");
        }
        if authority_key_identifier(&read) != Some(signer.key_identifier()) {
            return broken("RFC 5280 §4.2.1.1", "not the issuer's key identifier");
        }
        if validity.not_after > signer.not_after() {
            return broken("RFC 5280 §6.1.3", "outlives its issuer");
        }
    }
    if read.public_key().raw != subject.key().der() {
        return broken("RFC 5280 §4.1.2.7", "not the key that was checked");
    }
    let departures = match subject {
        Subject::Leaf { id, .. } => {
            if read.subject().iter().next().is_some() {
                return broken("RFC 5280 §4.1.2.6", "a leaf has no subject");
            }
            match x509_svid::svid_id(&read) {
                Ok(found) if found == **id => {}
                _ => return broken("X509-SVID §2", "not the identity that was decided"),
            }
            x509_svid::leaf_departures(&read)
        }
        Subject::Issuing { .. } => {
            let length = read.basic_constraints().ok().flatten().and_then(|constraints| constraints.value.path_len_constraint);
            if length != Some(0) {
                return broken("RFC 5280 §4.2.1.9", "what signs leaves has pathlen:0");
            }
            x509_svid::signing_departures(&read)
        }
        Subject::Root { .. } => x509_svid::signing_departures(&read),
        Subject::Serving { .. } => {
            if read.is_ca() {
                return broken("RFC 5280 §4.2.1.9", "a server is no CA");
            }
            return Ok(());
        }
    };
    match departures.into_iter().next() {
        Some(departure) => Err(LintError { section: departure.section, what: departure.what.to_string() }),
        None => Ok(()),
    }
}

fn authority_key_identifier<'a>(tbs: &TbsCertificate<'a>) -> Option<&'a [u8]> {
    tbs.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(identifier) => identifier.key_identifier.as_ref().map(|identifier| identifier.0),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::clock::SystemEntropy;
    use crate::pki::prepare::prepare;
    use crate::pki::{IssuerKey, KeyAlgorithm, Signer};
    use crate::spiffe::SpiffeId;

    const NOW: time::OffsetDateTime = datetime!(2026-11-23 12:00:00 UTC);
    const LONG: Validity = Validity { not_before: NOW, not_after: datetime!(2027-11-23 12:00:00 UTC) };
    const SHORT: Validity = Validity { not_before: NOW, not_after: datetime!(2026-11-24 12:00:00 UTC) };

    fn key() -> IssuerKey {
        IssuerKey::generate(KeyAlgorithm::P256).unwrap()
    }

    fn serial() -> Serial {
        Serial::draw(SystemEntropy::shared().as_ref(), NOW).unwrap()
    }

    fn root() -> Signer {
        let root_key = key();
        let subject = Subject::Root { trust_domain: &"cluster.local".parse().unwrap(), name: "root", key: &root_key.public_key().unwrap() };
        let issuer = IssuedBy::Itself(&root_key);
        let certificate = prepare(&subject, serial(), LONG, &issuer).unwrap().sign(&issuer).unwrap();
        Signer::new(&certificate, root_key).unwrap()
    }

    #[test]
    fn the_lint_reads_the_bytes_and_not_the_intention() {
        let root = root();
        let issuer = IssuedBy::Signer(&root);
        let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
        let (mine, other) = (key().public_key().unwrap(), key().public_key().unwrap());
        let drawn = serial();
        let subject = Subject::Leaf { id: &id, key: &mine };
        let tbs = prepare(&subject, drawn, SHORT, &issuer).unwrap().into_tbs();
        lint(&tbs, &subject, drawn, SHORT, &issuer).unwrap();

        let admin = "spiffe://cluster.local/ns/shop/sa/admin".parse().unwrap();
        let stranger = self::root();
        for (tbs, subject, serial, validity, issuer) in [
            (&tbs, &Subject::Leaf { id: &admin, key: &mine }, drawn, SHORT, &issuer),
            (&tbs, &Subject::Leaf { id: &id, key: &other }, drawn, SHORT, &issuer),
            (&tbs, &subject, serial(), SHORT, &issuer),
            (&tbs, &subject, drawn, LONG, &issuer),
            (&tbs, &subject, drawn, SHORT, &IssuedBy::Signer(&stranger)),
            (&[tbs.as_slice(), &[0]].concat(), &subject, drawn, SHORT, &issuer),
        ] {
            assert!(lint(tbs, subject, serial, validity, issuer).is_err());
        }
    }

    #[test]
    fn what_signs_leaves_has_no_authority_below_it() {
        let (key, domain) = (key(), "cluster.local".parse().unwrap());
        let (public, drawn, issuer) = (key.public_key().unwrap(), serial(), IssuedBy::Itself(&key));
        let root = Subject::Root { trust_domain: &domain, name: "one", key: &public };
        let tbs = prepare(&root, drawn, LONG, &issuer).unwrap().into_tbs();
        lint(&tbs, &root, drawn, LONG, &issuer).unwrap();
        let issuing = Subject::Issuing { trust_domain: &domain, name: "one", key: &public };
        assert_eq!(lint(&tbs, &issuing, drawn, LONG, &issuer).unwrap_err().section, "RFC 5280 §4.2.1.9");
    }
}
