//! The last look before a signature: reads the very bytes that will be signed and holds them against what was decided and against the
//! rules. OpenBao looked at the request instead (GHSA-g892-p242-8g86).

use std::net::IpAddr;

use x509_parser::certificate::TbsCertificate;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName, KeyUsage, ParsedExtension};
use x509_parser::oid_registry::{OID_X509_COMMON_NAME, OID_X509_ORGANIZATION_NAME};
use x509_parser::prelude::FromDer;

use super::Validity;
use super::subject::{IssuedBy, Serial, Subject};
use crate::spiffe::{TrustDomain, x509_svid};

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
    // Of an AlgorithmIdentifier, what stands behind the tag and the length of its OID.
    let named = read.signature.algorithm.as_bytes();
    if !issuer.key().signature_algorithm().is_some_and(|algorithm| algorithm.as_ref().get(2..).is_some_and(|algorithm| algorithm.starts_with(named)))
    {
        return broken("RFC 5280 §4.1.2.3", "not the algorithm that the issuer signs with");
    }
    if let IssuedBy::Itself(key) = issuer {
        if read.issuer().as_raw() != read.subject().as_raw() {
            return broken("RFC 5280 §4.1.2.4", "what signs itself names itself as its issuer");
        }
        if read.public_key().raw != key.public_key_info() {
            return broken("RFC 5280 §3.2", "what signs itself is signed with its own key");
        }
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
            if alternative_names(&read) != Some(vec![Name::Uri(id.to_string())]) {
                return broken("RFC 5280 §4.2.1.6", "names beside the identity");
            }
            x509_svid::leaf_departures(&read)
        }
        Subject::Issuing { trust_domain, name, .. } => {
            authority_names(&read, trust_domain, name)?;
            let length = read.basic_constraints().ok().flatten().and_then(|constraints| constraints.value.path_len_constraint);
            if length != Some(0) {
                return broken("RFC 5280 §4.2.1.9", "what signs leaves has pathlen:0");
            }
            x509_svid::signing_departures(&read)
        }
        Subject::Root { trust_domain, name, .. } => {
            authority_names(&read, trust_domain, name)?;
            x509_svid::signing_departures(&read)
        }
        Subject::Serving { dns_names, ip_addresses, .. } => {
            if read.is_ca() {
                return broken("RFC 5280 §4.2.1.9", "a server is no CA");
            }
            let (names, addresses) = (dns_names.iter().map(|name| Name::Dns(name.clone())), ip_addresses.iter().copied().map(Name::Ip));
            if alternative_names(&read) != Some(names.chain(addresses).collect()) {
                return broken("RFC 5280 §4.2.1.6", "not the server's names that were decided");
            }
            let signs = |usage: &KeyUsage| usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign();
            if !read.key_usage().ok().flatten().is_some_and(|usage| usage.critical && signs(usage.value)) {
                return broken("RFC 5280 §4.2.1.3", "a server's key is for handshakes");
            }
            let serves = |usage: &ExtendedKeyUsage<'_>| usage.server_auth && !usage.client_auth && !usage.any && usage.other.is_empty();
            if !read.extended_key_usage().ok().flatten().is_some_and(|usage| serves(usage.value)) {
                return broken("RFC 5280 §4.2.1.12", "a server's certificate is for serverAuth and nothing else");
            }
            x509_svid::certificate_departures(&read)
        }
    };
    match departures.into_iter().next() {
        Some(departure) => Err(LintError { section: departure.section, what: departure.what.to_string() }),
        None => Ok(()),
    }
}

/// What a certificate is called in subjectAltName.
#[derive(Debug, PartialEq, Eq)]
enum Name {
    Dns(String),
    Ip(IpAddr),
    Uri(String),
}

/// All of them; `None` where one is of another kind, or none is there.
fn alternative_names(tbs: &TbsCertificate<'_>) -> Option<Vec<Name>> {
    let names = &tbs.subject_alternative_name().ok()??.value.general_names;
    let named = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(Name::Dns((*name).to_owned())),
        GeneralName::URI(uri) => Some(Name::Uri((*uri).to_owned())),
        GeneralName::IPAddress(octets) => {
            let four = <[u8; 4]>::try_from(*octets).map(IpAddr::from);
            four.or_else(|_| <[u8; 16]>::try_from(*octets).map(IpAddr::from)).ok().map(Name::Ip)
        }
        _ => None,
    };
    names.iter().map(named).collect()
}

/// An authority is called by its trust domain and by a name of its own, and is of that trust domain.
fn authority_names(tbs: &TbsCertificate<'_>, trust_domain: &TrustDomain, name: &str) -> Result<(), LintError> {
    let found: Vec<_> = tbs.subject().iter_attributes().map(|attribute| (attribute.attr_type(), attribute.as_str().ok())).collect();
    if found != [(&OID_X509_ORGANIZATION_NAME, Some(trust_domain.as_str())), (&OID_X509_COMMON_NAME, Some(name))] {
        return Err(LintError { section: "RFC 5280 §4.1.2.6", what: "not the authority's name that was decided".to_owned() });
    }
    if alternative_names(tbs) != Some(vec![Name::Uri(trust_domain.id())]) {
        return Err(LintError { section: "X509-SVID §3.2", what: "not the trust domain that was decided".to_owned() });
    }
    Ok(())
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
        signer("root")
    }

    fn signer(name: &str) -> Signer {
        let root_key = key();
        let subject = Subject::Root { trust_domain: &"cluster.local".parse().unwrap(), name, key: &root_key.public_key().unwrap() };
        let issuer = IssuedBy::Itself(&root_key);
        let certificate = prepare(&subject, serial(), LONG, issuer).unwrap().sign().unwrap();
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
        let tbs = prepare(&subject, drawn, SHORT, issuer).unwrap().into_tbs();
        lint(&tbs, &subject, drawn, SHORT, &issuer).unwrap();

        let admin = "spiffe://cluster.local/ns/shop/sa/admin".parse().unwrap();
        let (stranger, own) = (signer("another"), key());
        for (section, tbs, subject, serial, validity, issuer) in [
            ("X509-SVID §2", &tbs, &Subject::Leaf { id: &admin, key: &mine }, drawn, SHORT, &issuer),
            ("RFC 5280 §4.1.2.7", &tbs, &Subject::Leaf { id: &id, key: &other }, drawn, SHORT, &issuer),
            ("RFC 5280 §4.1.2.2", &tbs, &subject, serial(), SHORT, &issuer),
            ("RFC 5280 §4.1.2.5", &tbs, &subject, drawn, LONG, &issuer),
            ("RFC 5280 §4.1.2.4", &tbs, &subject, drawn, SHORT, &IssuedBy::Signer(&stranger)),
            ("RFC 5280 §4.2.1.1", &tbs, &subject, drawn, SHORT, &IssuedBy::Signer(&self::root())),
            ("RFC 5280 §4.1.2.4", &tbs, &subject, drawn, SHORT, &IssuedBy::Itself(&own)),
            ("RFC 5280 §4.1.2.3", &tbs, &subject, drawn, SHORT, &IssuedBy::Itself(&IssuerKey::generate(KeyAlgorithm::P384).unwrap())),
            ("RFC 5280 §4.1", &[tbs.as_slice(), &[0]].concat(), &subject, drawn, SHORT, &issuer),
        ] {
            assert_eq!(lint(tbs, subject, serial, validity, issuer).unwrap_err().section, section);
        }
    }

    #[test]
    fn a_server_has_its_names_and_serves_and_nothing_else() {
        let root = root();
        let (issuer, drawn, own) = (IssuedBy::Signer(&root), serial(), key().public_key().unwrap());
        let (names, addresses) = (["ca.example".to_owned()], ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()]);
        let subject = Subject::Serving { dns_names: &names, ip_addresses: &addresses, key: &own };
        let tbs = prepare(&subject, drawn, SHORT, issuer).unwrap().into_tbs();
        lint(&tbs, &subject, drawn, SHORT, &issuer).unwrap();
        let others = ["other.example".to_owned()];
        let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
        let leaf = prepare(&Subject::Leaf { id: &id, key: &own }, drawn, SHORT, issuer).unwrap().into_tbs();
        for (section, tbs, subject) in [
            ("RFC 5280 §4.2.1.6", &tbs, Subject::Serving { dns_names: &others, ip_addresses: &addresses, key: &own }),
            ("RFC 5280 §4.2.1.6", &tbs, Subject::Serving { dns_names: &names, ip_addresses: &addresses[1..], key: &own }),
            ("RFC 5280 §4.2.1.6", &tbs, Subject::Serving { dns_names: &[], ip_addresses: &addresses, key: &own }),
            ("RFC 5280 §4.2.1.6", &leaf, subject.clone()),
            // serverAuth is the last octet of its OID, clientAuth one more; digitalSignature is the first bit, keyCertSign the sixth.
            ("RFC 5280 §4.2.1.12", &altered(&tbs, &[0x2b, 6, 1, 5, 5, 7, 3, 1], 7, 2), subject.clone()),
            ("RFC 5280 §4.2.1.3", &altered(&tbs, &[3, 2, 7, 0x80], 3, 0x04), subject.clone()),
        ] {
            assert_eq!(lint(tbs, &subject, drawn, SHORT, &issuer).unwrap_err().section, section);
        }
    }

    #[test]
    fn an_authority_is_called_as_was_decided() {
        let (own, domain, other) = (key(), "cluster.local".parse().unwrap(), "cluster.other".parse().unwrap());
        let (public, drawn, issuer) = (own.public_key().unwrap(), serial(), IssuedBy::Itself(&own));
        let root = |trust_domain, name| Subject::Root { trust_domain, name, key: &public };
        let tbs = prepare(&root(&domain, "one"), drawn, LONG, issuer).unwrap().into_tbs();
        for subject in [root(&domain, "two"), root(&other, "one")] {
            assert_eq!(lint(&tbs, &subject, drawn, LONG, &issuer).unwrap_err().section, "RFC 5280 §4.1.2.6");
        }
        let another = key();
        assert_eq!(lint(&tbs, &root(&domain, "one"), drawn, LONG, &IssuedBy::Itself(&another)).unwrap_err().section, "RFC 5280 §3.2");
        // The trust domain in subjectAltName alone is another one's.
        let elsewhere = altered(&tbs, b"spiffe://cluster.local", 9, b'k');
        assert_eq!(lint(&elsewhere, &root(&domain, "one"), drawn, LONG, &issuer).unwrap_err().section, "X509-SVID §3.2");
    }

    /// The same bytes but for one: the octet `at` behind where `pattern` stands.
    fn altered(tbs: &[u8], pattern: &[u8], at: usize, octet: u8) -> Vec<u8> {
        let found = tbs.windows(pattern.len()).position(|window| window == pattern).unwrap();
        let mut altered = tbs.to_vec();
        altered[found + at] = octet;
        altered
    }

    #[test]
    fn what_signs_leaves_has_no_authority_below_it() {
        let (key, domain) = (key(), "cluster.local".parse().unwrap());
        let (public, drawn, issuer) = (key.public_key().unwrap(), serial(), IssuedBy::Itself(&key));
        let root = Subject::Root { trust_domain: &domain, name: "one", key: &public };
        let tbs = prepare(&root, drawn, LONG, issuer).unwrap().into_tbs();
        lint(&tbs, &root, drawn, LONG, &issuer).unwrap();
        let issuing = Subject::Issuing { trust_domain: &domain, name: "one", key: &public };
        assert_eq!(lint(&tbs, &issuing, drawn, LONG, &issuer).unwrap_err().section, "RFC 5280 §4.2.1.9");
    }
}
