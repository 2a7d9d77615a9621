//! The Secret `cacerts`, which makes istiod a CA below our root (its plug-in CA): what it shall be, and what it asks for.

use std::collections::BTreeMap;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::own_secret::{Contents, Encoded, OwnSecret, Standing, annotations, encoded};
use super::roots::{RootsDigest, roots_digest};
use crate::authority::rotation::{chain_above, earliest_end};
use crate::authority::{AuthorityState, GenerationNumber};
use crate::pki::{IssuerKey, certificate_to_pem, certificates_from_pem};

/// The keys that istiod reads, each a file where it mounts the Secret.
const CERTIFICATE: &str = "ca-cert.pem";
const KEY: &str = "ca-key.pem";
const CHAIN: &str = "cert-chain.pem";
const ROOTS: &str = "root-cert.pem";
/// Where these are too, istiod reads something else: a Secret of type kubernetes.io/tls, or a root that it made itself.
const INSTEAD: [&str; 2] = ["tls.crt", "istio-generated"];

/// The Secret, if it is there.
pub(super) type PluggedSecret = OwnSecret<Plugged>;

/// What it shall be.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) number: u64,
    pub(super) generation: GenerationNumber,
    /// The trust bundle, PEM.
    pub(super) bundle: String,
    /// What stands above the intermediate, the root included, nearest first, PEM.
    pub(super) above: Vec<String>,
    /// The earliest end of that.
    pub(super) ends: OffsetDateTime,
    /// How long an intermediate lives, where what stands above it does.
    pub(super) lifetime: Duration,
}

impl Wanted {
    /// By this state; `None` where nothing in it may sign an intermediate.
    pub(super) fn of_state(state: &AuthorityState, lifetime: Duration) -> Option<Self> {
        let above = chain_above(state)?;
        Some(Self {
            number: state.bundle_number,
            generation: state.issuing()?.1,
            bundle: state.bundle_pem(),
            ends: earliest_end(&above)?,
            above: above.into_iter().map(str::to_owned).collect(),
            lifetime,
        })
    }

    /// What goes with an intermediate: the chain as Istio's own recipe has it (the intermediate first, the root last), the bundle, and our marks.
    pub(super) fn beside(&self, certificate: &[u8]) -> Value {
        let chain = std::iter::once(certificate_to_pem(certificate)).chain(self.above.iter().cloned()).collect::<String>();
        json!({
            "metadata": {"annotations": annotations(self.number, self.generation, certificate)},
            "data": {CHAIN: encoded(&chain), ROOTS: encoded(&self.bundle)},
        })
    }
}

/// A merge patch that takes away what istiod would read instead.
pub(super) fn nothing_instead() -> Value {
    json!({"data": INSTEAD.map(|key| (key, Value::Null)).into_iter().collect::<BTreeMap<_, _>>()})
}

/// An intermediate with its key.
pub(super) fn with_key(certificate: &[u8], key: &IssuerKey) -> Value {
    json!({"data": {CERTIFICATE: encoded(&certificate_to_pem(certificate)), KEY: encoded(&key.to_pem())}})
}

/// What it asks for; the certificate, DER, may stay.
pub(super) type Need = super::own_secret::Need<Vec<u8>>;

/// What is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plugged {
    certificate: CertificateDer<'static>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    chain: Vec<CertificateDer<'static>>,
    roots: Option<RootsDigest>,
    /// Whether istiod would read something else that is in it too.
    instead: bool,
}

impl Plugged {
    /// When it is to be renewed: at half of its life, so that what istiod signs for up to the other half isn't cut. `None` where what stands above it
    /// allows no later end. How long the next one shall live doesn't matter: it may be less than before.
    fn renew_at(&self, wanted: &Wanted) -> Option<OffsetDateTime> {
        let lifetime = self.not_after - self.not_before;
        let least = lifetime.min(wanted.lifetime.try_into().ok()?) / 10;
        (wanted.ends - self.not_after > least).then(|| self.not_before + lifetime / 2)
    }

    fn is_signed_by(&self, authority: &str) -> bool {
        let signed = || {
            let above = certificates_from_pem(authority).ok()?.into_iter().next()?;
            let (_, above) = X509Certificate::from_der(&above).ok()?;
            let (_, own) = X509Certificate::from_der(&self.certificate).ok()?;
            Some(own.issuer().as_raw() == above.subject().as_raw() && own.verify_signature(Some(above.public_key())).is_ok())
        };
        signed().unwrap_or(false)
    }

    fn has_chain(&self, above: &[String]) -> bool {
        let above = above.iter().map(|pem| certificates_from_pem(pem).ok()?.into_iter().next());
        let whole = std::iter::once(Some(self.certificate.clone())).chain(above);
        whole.collect::<Option<Vec<_>>>().is_some_and(|whole| whole == self.chain)
    }
}

impl PluggedSecret {
    /// What it asks for.
    pub(super) fn need(&self, wanted: &Wanted, now: OffsetDateTime) -> Need {
        let (number, contents) = match self.standing(wanted.number, wanted.generation) {
            Standing::Missing => return Need::Issue("there is none"),
            Standing::Foreign => return Need::Foreign,
            Standing::Newer => return Need::LeftAlone,
            Standing::Spoilt => return Need::Issue("what is in it isn't what was written"),
            Standing::Written { number, contents, .. } => (number, contents),
        };
        if !wanted.above.first().is_some_and(|authority| contents.is_signed_by(authority)) {
            return Need::Issue("another authority signs");
        }
        if contents.not_before > now {
            return Need::Issue("it was made while the clock was ahead");
        }
        let renew_at = contents.renew_at(wanted);
        if renew_at.is_some_and(|renew_at| renew_at <= now) {
            return Need::Issue("half of its life is over");
        }
        let write = |why| Need::Write(why, contents.certificate.to_vec());
        if number < wanted.number || contents.roots.is_none() || contents.roots != roots_digest(&wanted.bundle) {
            return write("there is another trust bundle");
        }
        if !contents.has_chain(&wanted.above) {
            return write("it has another chain");
        }
        if contents.instead {
            return write("istiod would read something else");
        }
        Need::Nothing { renew_at }
    }

    /// When the intermediate ends.
    pub(super) fn not_after(&self) -> Option<OffsetDateTime> {
        Some(self.contents()?.not_after)
    }
}

/// Its `data` as it comes.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Data {
    #[serde(default, rename = "ca-cert.pem")]
    certificate: Option<Encoded>,
    #[serde(default, rename = "ca-key.pem")]
    key: Option<Encoded>,
    #[serde(default, rename = "cert-chain.pem")]
    chain: Option<Encoded>,
    #[serde(default, rename = "root-cert.pem")]
    roots: Option<Encoded>,
    #[serde(default, rename = "tls.crt")]
    tls: Option<Encoded>,
    #[serde(default, rename = "istio-generated")]
    generated: Option<Encoded>,
}

impl Contents for Plugged {
    type Data = Data;

    fn read(data: Data) -> Option<Self> {
        let (certificate, key) = (data.certificate?.text()?, data.key?.text()?);
        let certificate = certificates_from_pem(&certificate).ok()?.into_iter().next()?;
        let (_, read) = X509Certificate::from_der(&certificate).ok()?;
        if read.public_key().raw != IssuerKey::from_pem(&key).ok()?.public_key_info() {
            return None;
        }
        let (not_before, not_after) = (read.validity().not_before.to_datetime(), read.validity().not_after.to_datetime());
        let chain = data.chain.and_then(Encoded::text).and_then(|chain| certificates_from_pem(&chain).ok());
        let roots = data.roots.and_then(Encoded::text).and_then(|roots| roots_digest(&roots));
        let instead = data.tls.is_some() || data.generated.is_some();
        Some(Self { not_before, not_after, chain: chain.unwrap_or_default(), roots, instead, certificate })
    }

    fn certificate(&self) -> &[u8] {
        &self.certificate
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::authority::testing::{founded, intermediate, with_first_issuing};
    use crate::cluster::Index as _;
    use crate::controllers::own_secret::SecretObject;
    use crate::controllers::writes;
    use crate::pki::KeyAlgorithm;

    const NOW: OffsetDateTime = datetime!(2026-11-25 12:00 UTC);
    const DAY: Duration = Duration::from_secs(24 * 3600);
    const LIFETIME: Duration = DAY.saturating_mul(180);

    /// One root of a year.
    fn state() -> AuthorityState {
        with_first_issuing(founded(NOW), NOW)
    }

    fn wanted(state: &AuthorityState) -> Wanted {
        Wanted::of_state(state, LIFETIME).unwrap()
    }

    /// The Secret as we write it for this state.
    fn secret(state: &AuthorityState, now: OffsetDateTime) -> Value {
        let key = IssuerKey::generate(KeyAlgorithm::P256).unwrap();
        let certificate = intermediate(state, &key, (LIFETIME, now));
        let mut secret = wanted(state).beside(&certificate);
        writes::merge(&mut secret, with_key(&certificate, &key));
        writes::merge(&mut secret, json!({"metadata": {"name": "cacerts", "namespace": "istio-system", "uid": "u", "resourceVersion": "9"}}));
        secret
    }

    fn need(secret: Value, wanted: &Wanted, now: OffsetDateTime) -> Need {
        let mut known = PluggedSecret::default();
        known.put(serde_json::from_value(secret).unwrap());
        known.need(wanted, now)
    }

    fn decoded(secret: &Value, key: &str) -> String {
        let encoded: Encoded = serde_json::from_value(secret["data"][key].clone()).unwrap();
        encoded.text().unwrap()
    }

    #[test]
    fn it_is_as_istio_wants_it() {
        let state = state();
        let secret = secret(&state, NOW);
        assert_eq!(secret["data"].as_object().unwrap().keys().collect::<Vec<_>>(), [CERTIFICATE, KEY, CHAIN, ROOTS]);
        assert_eq!(decoded(&secret, CHAIN), format!("{}{}", decoded(&secret, CERTIFICATE), state.authorities[0].certificate));
        assert_eq!(decoded(&secret, ROOTS), state.bundle_pem());
        assert!(decoded(&secret, KEY).starts_with("-----BEGIN PRIVATE KEY-----\n"));
        let renew_at = NOW + LIFETIME / 2 - Duration::from_secs(60);
        assert_eq!(need(secret, &wanted(&state), NOW), Need::Nothing { renew_at: Some(renew_at) });
    }

    #[test]
    fn it_is_renewed_at_half_of_its_life_for_as_long_as_that_helps() {
        let state = state();
        let made = secret(&state, NOW);
        let half = NOW + LIFETIME / 2 - Duration::from_secs(60);
        assert!(matches!(need(made.clone(), &wanted(&state), half - Duration::from_secs(1)), Need::Nothing { .. }));
        assert_eq!(need(made.clone(), &wanted(&state), half), Need::Issue("half of its life is over"));
        assert_eq!(need(made, &wanted(&state), NOW - DAY), Need::Issue("it was made while the clock was ahead"));
        // The root ends after 365 days. One from day 90 ends on day 270, and its successor on day 360; one from day 180 could have five days more.
        for (made_at, renewed) in [(DAY * 90, true), (DAY * 180, false), (DAY * 185, false)] {
            let last = secret(&state, NOW + made_at);
            let asks = need(last, &wanted(&state), NOW + made_at + LIFETIME / 2);
            let expected = if renewed { Need::Issue("half of its life is over") } else { Need::Nothing { renew_at: None } };
            assert_eq!(asks, expected, "{made_at:?}");
        }
    }

    #[test]
    fn it_is_renewed_in_time_where_the_next_one_shall_live_for_less() {
        let state = state();
        let made = secret(&state, NOW);
        let shorter = Wanted { lifetime: DAY * 14, ..wanted(&state) };
        assert_eq!(need(made, &shorter, NOW + LIFETIME / 2), Need::Issue("half of its life is over"));
    }

    #[test]
    fn what_stands_beside_it_is_repaired_without_another_intermediate() {
        let mut state = state();
        let good = secret(&state, NOW);
        let changed = |key: &str, value: Value| {
            let mut secret = good.clone();
            secret["data"][key] = value;
            secret
        };
        let why = |secret: Value, wanted: &Wanted| match need(secret, wanted, NOW) {
            Need::Write(why, certificate) => {
                assert_eq!(certificate_to_pem(&certificate), decoded(&good, CERTIFICATE));
                why
            }
            other => panic!("{other:?}"),
        };
        let other = encoded(&certificate_to_pem(b"another"));
        for value in [Value::Null, json!("!"), json!(""), json!(encoded("nothing")), json!(other)] {
            assert_eq!(why(changed(ROOTS, value.clone()), &wanted(&state)), "there is another trust bundle", "{value}");
            assert_eq!(why(changed(CHAIN, value.clone()), &wanted(&state)), "it has another chain", "{value}");
        }
        assert_eq!(why(changed(CHAIN, good["data"][CERTIFICATE].clone()), &wanted(&state)), "it has another chain", "the root is missing");
        for key in INSTEAD {
            assert_eq!(why(changed(key, json!("")), &wanted(&state)), "istiod would read something else", "{key}");
            assert!(nothing_instead()["data"].as_object().unwrap()[key].is_null(), "a merge patch takes it away");
        }
        // Another root joins, and there is a number for it.
        state.bundle_number += 1;
        assert_eq!(why(good.clone(), &wanted(&state)), "there is another trust bundle");
        let mut spoilt = good.clone();
        spoilt["metadata"]["annotations"]["meshmint.io/bundle-number"] = json!("x");
        assert_eq!(why(spoilt, &wanted(&state)), "there is another trust bundle");
    }

    #[test]
    fn another_pair_or_another_authority_asks_for_a_new_one() {
        let state = state();
        let (good, other) = (secret(&state, NOW), secret(&state, NOW));
        let changed = |keys: &[&str], value: &dyn Fn(&str) -> Value| {
            let mut secret = good.clone();
            keys.iter().for_each(|key| secret["data"][*key] = value(key));
            secret
        };
        for key in [CERTIFICATE, KEY] {
            for value in [Value::Null, json!("!"), json!(encoded("nothing")), other["data"][key].clone()] {
                let asks = need(changed(&[key], &|_| value.clone()), &wanted(&state), NOW);
                assert_eq!(asks, Need::Issue("what is in it isn't what was written"), "{key} {value}");
            }
        }
        let pair = changed(&[CERTIFICATE, KEY], &|key| other["data"][key].clone());
        assert_eq!(need(pair, &wanted(&state), NOW), Need::Issue("what is in it isn't what was written"), "another pair that fits");
        assert_eq!(PluggedSecret::default().need(&wanted(&state), NOW), Need::Issue("there is none"));

        let mut elsewhere = wanted(&state);
        let stranger = rcgen::KeyPair::generate().unwrap();
        let mut root = rcgen::CertificateParams::default();
        root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        elsewhere.above = vec![certificate_to_pem(root.self_signed(&stranger).unwrap().der())];
        assert_eq!(need(good.clone(), &elsewhere, NOW), Need::Issue("another authority signs"));
        // Nothing here may sign one.
        let mut none = state;
        none.authorities[0].key = None;
        assert!(Wanted::of_state(&none, LIFETIME).is_none());
    }

    #[test]
    fn what_is_not_ours_or_newer_is_left_alone() {
        let state = state();
        let mut theirs = secret(&state, NOW);
        theirs["metadata"]["annotations"] = json!({});
        assert_eq!(need(theirs, &wanted(&state), NOW), Need::Foreign);
        for mark in ["meshmint.io/bundle-number", "meshmint.io/generation"] {
            let mut newer = secret(&state, NOW);
            newer["metadata"]["annotations"][mark] = json!("99");
            assert_eq!(need(newer, &wanted(&state), NOW + LIFETIME), Need::LeftAlone);
        }
    }

    #[test]
    fn no_key_shows_itself() {
        let secret = secret(&state(), NOW);
        let key = secret["data"][KEY].as_str().unwrap().to_owned();
        let object: SecretObject<Data> = serde_json::from_value(secret).unwrap();
        let (mut known, shown) = (PluggedSecret::default(), format!("{object:?}"));
        known.put(object);
        assert!(!shown.contains(&key) && !format!("{known:?}").contains(&key) && shown.contains("bytes"), "{shown}");
    }
}
