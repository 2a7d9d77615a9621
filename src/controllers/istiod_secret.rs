//! The Secret that istiod serves with: what it shall be, and what it asks for.

use std::collections::BTreeSet;
use std::convert::Infallible;

use rustls_pki_types::CertificateDer;
use serde::Deserialize;
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::own_secret::{Contents, Encoded, OwnSecret, Standing};
use super::roots::{RootsDigest, roots_digest};
use crate::authority::GenerationNumber;
use crate::pki::{IssuerKey, certificates_from_pem};

/// The Secret, if it is there.
pub(super) type IstiodSecret = OwnSecret<Served>;

/// What it shall be.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) number: u64,
    pub(super) roots: Option<RootsDigest>,
    pub(super) generation: GenerationNumber,
    pub(super) names: BTreeSet<String>,
}

/// What it asks for; nothing of it may stay.
pub(super) type Need = super::own_secret::Need<Infallible>;

/// What is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Served {
    certificate: CertificateDer<'static>,
    names: BTreeSet<String>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    roots: RootsDigest,
}

impl IstiodSecret {
    /// What it asks for.
    pub(super) fn need(&self, wanted: &Wanted, now: OffsetDateTime) -> Need {
        let (number, generation, contents) = match self.standing(wanted.number, wanted.generation) {
            Standing::Missing => return Need::Issue("there is none"),
            Standing::Foreign => return Need::Foreign,
            Standing::Newer => return Need::LeftAlone,
            Standing::Spoilt => return Need::Issue("what is in it isn't what was written"),
            Standing::Written { number, generation, contents } => (number, generation, contents),
        };
        if number < wanted.number || Some(contents.roots) != wanted.roots {
            return Need::Issue("there is another trust bundle");
        }
        if generation < wanted.generation.0 {
            return Need::Issue("another generation signs");
        }
        if contents.names != wanted.names {
            return Need::Issue("it has other names");
        }
        if contents.not_before > now {
            return Need::Issue("it was made while the clock was ahead");
        }
        let renew_at = contents.not_before + (contents.not_after - contents.not_before) / 2;
        if now >= renew_at { Need::Issue("half of its life is over") } else { Need::Nothing { renew_at: Some(renew_at) } }
    }

    /// When the certificate ends.
    pub(super) fn not_after(&self) -> Option<OffsetDateTime> {
        Some(self.contents()?.not_after)
    }
}

/// Its `data` as it comes.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Data {
    #[serde(default, rename = "tls.crt")]
    chain: Option<Encoded>,
    #[serde(default, rename = "tls.key")]
    key: Option<Encoded>,
    #[serde(default, rename = "ca.crt")]
    roots: Option<Encoded>,
}

impl Contents for Served {
    type Data = Data;

    fn read(data: Data) -> Option<Self> {
        let (chain, key, roots) = (data.chain?.text()?, data.key?.text()?, data.roots?.text()?);
        let der = certificates_from_pem(&chain).ok()?.into_iter().next()?;
        let (_, leaf) = X509Certificate::from_der(&der).ok()?;
        if leaf.public_key().raw != IssuerKey::from_pem(&key).ok()?.public_key_info() {
            return None;
        }
        let names = leaf.subject_alternative_name().ok()??.value.general_names.iter().map(|name| match name {
            GeneralName::DNSName(name) => (*name).to_owned(),
            other => other.to_string(),
        });
        let (names, validity) = (names.collect(), leaf.validity());
        let (not_before, not_after) = (validity.not_before.to_datetime(), validity.not_after.to_datetime());
        Some(Self { names, not_before, not_after, roots: roots_digest(&roots)?, certificate: der })
    }

    fn certificate(&self) -> &[u8] {
        &self.certificate
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use rcgen::{CertificateParams, KeyPair};
    use ring::digest::{SHA256, digest};
    use serde_json::{Value, json};
    use time::macros::datetime;

    use super::*;
    use crate::cluster::Index as _;
    use crate::controllers::own_secret::SecretObject;
    use crate::pki::certificate_to_pem;

    const NOW: OffsetDateTime = datetime!(2026-11-25 12:00 UTC);

    fn root() -> String {
        certificate_to_pem(b"root")
    }

    fn wanted() -> Wanted {
        Wanted {
            number: 7,
            roots: roots_digest(&root()),
            generation: GenerationNumber(3),
            names: BTreeSet::from(["istiod.istio-system.svc".to_owned(), "istiod-canary.istio-system.svc".to_owned()]),
        }
    }

    /// A Secret as we write it, for these names.
    fn secret(names: &[&str]) -> Value {
        let key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        (leaf.not_before, leaf.not_after) = (NOW - time::Duration::hours(1), NOW + time::Duration::hours(23));
        let leaf = leaf.self_signed(&key).unwrap();
        let encode = |text: &str| json!(STANDARD.encode(text));
        let sha256 = hex::encode(digest(&SHA256, leaf.der()));
        let annotations = json!({"meshmint.io/bundle-number": "7", "meshmint.io/generation": "3", "meshmint.io/certificate-sha256": sha256});
        json!({
            "metadata": {"name": "istiod-tls", "namespace": "istio-system", "uid": "u", "resourceVersion": "9", "annotations": annotations},
            "data": {"tls.crt": encode(&certificate_to_pem(leaf.der())), "tls.key": encode(&key_pem(&key)), "ca.crt": encode(&root())},
        })
    }

    fn key_pem(key: &KeyPair) -> String {
        pem_rfc7468::encode_string("PRIVATE KEY", pem_rfc7468::LineEnding::LF, key.serialized_der()).unwrap()
    }

    fn good() -> Value {
        secret(&["istiod.istio-system.svc", "istiod-canary.istio-system.svc"])
    }

    fn need(secret: Value, now: OffsetDateTime) -> Need {
        let mut known = IstiodSecret::default();
        known.put(serde_json::from_value(secret).unwrap());
        known.need(&wanted(), now)
    }

    fn why(secret: Value) -> &'static str {
        match need(secret, NOW) {
            Need::Issue(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_that_is_right_asks_for_nothing_until_half_of_its_life_is_over() {
        let renew_at = NOW + time::Duration::hours(11);
        assert_eq!(need(good(), NOW), Need::Nothing { renew_at: Some(renew_at) });
        assert_eq!(need(good(), renew_at - time::Duration::seconds(1)), Need::Nothing { renew_at: Some(renew_at) });
        assert_eq!(need(good(), renew_at), Need::Issue("half of its life is over"));
        assert_eq!(IstiodSecret::default().need(&wanted(), NOW), Need::Issue("there is none"));
    }

    #[test]
    fn one_that_was_made_while_the_clock_was_ahead_asks_for_a_new_one() {
        let not_before = NOW - time::Duration::hours(1);
        assert!(matches!(need(good(), not_before), Need::Nothing { .. }));
        let ahead = Need::Issue("it was made while the clock was ahead");
        assert_eq!([1, 5 * 24 * 3600].map(|seconds| need(good(), not_before - time::Duration::seconds(seconds))), [ahead.clone(), ahead]);
    }

    #[test]
    fn every_change_asks_for_a_new_one() {
        let changed = |part: &str, key: &str, value: Value| {
            let mut secret = good();
            let part = if part == "data" { &mut secret["data"] } else { &mut secret["metadata"]["annotations"] };
            part[key] = value;
            secret
        };
        let other = good();
        for key in ["tls.crt", "tls.key"] {
            for value in [Value::Null, json!("!"), json!(""), json!(STANDARD.encode("nothing")), other["data"][key].clone()] {
                assert_eq!(why(changed("data", key, value.clone())), "what is in it isn't what was written", "{key} {value}");
            }
        }
        // Another pair that fits.
        let mut pair = good();
        for key in ["tls.crt", "tls.key"] {
            pair["data"][key] = other["data"][key].clone();
        }
        assert_eq!(why(pair), "what is in it isn't what was written");
        let mut bare = good();
        bare["data"] = Value::Null;
        assert_eq!(why(bare), "what is in it isn't what was written");
        assert_eq!(why(changed("data", "ca.crt", json!(STANDARD.encode(certificate_to_pem(b"another"))))), "there is another trust bundle");
        for number in ["6", "", "x"] {
            assert_eq!(why(changed("annotations", "meshmint.io/bundle-number", json!(number))), "there is another trust bundle");
        }
        assert_eq!(why(changed("annotations", "meshmint.io/generation", json!("2"))), "another generation signs");
        assert_eq!(why(secret(&["istiod.istio-system.svc"])), "it has other names");
        let mut more = wanted();
        more.names.insert("istiod-1-31.istio-system.svc".to_owned());
        let mut known = IstiodSecret::default();
        known.put(serde_json::from_value(good()).unwrap());
        assert_eq!(known.need(&more, NOW), Need::Issue("it has other names"));
    }

    #[test]
    fn what_is_not_ours_or_newer_is_left_alone() {
        let mut theirs = good();
        theirs["metadata"]["annotations"] = json!({"cert-manager.io/certificate-name": "istiod"});
        assert_eq!(need(theirs, NOW), Need::Foreign);
        for (mark, value) in [("meshmint.io/bundle-number", "8"), ("meshmint.io/generation", "4")] {
            let mut newer = good();
            newer["metadata"]["annotations"][mark] = json!(value);
            assert_eq!(need(newer, NOW + time::Duration::hours(99)), Need::LeftAlone);
        }
    }

    #[test]
    fn no_key_shows_itself() {
        let secret = good();
        let key = secret["data"]["tls.key"].as_str().unwrap().to_owned();
        let object: SecretObject<Data> = serde_json::from_value(secret).unwrap();
        let mut known = IstiodSecret::default();
        let shown = format!("{object:?}");
        known.put(object);
        assert!(!shown.contains(&key) && !format!("{known:?}").contains(&key) && shown.contains("bytes"), "{shown}");
    }
}
