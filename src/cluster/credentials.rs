//! How long the credentials of a kubeconfig are good, as they say themselves: so that somebody makes new ones in time. Nothing is verified here, and
//! nothing of them is kept.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::config::AuthInfo;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::callers::UnverifiedToken;
use crate::pki::certificates_from_pem;

/// When credentials begin and end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// `iat` or notBefore; the beginning of time where a token doesn't say.
    pub from: OffsetDateTime,
    /// `exp` or notAfter.
    pub until: OffsetDateTime,
}

impl Validity {
    /// Of the token or the client certificate that is written in this entry, whichever ends first; `None` where none of them says.
    pub(super) fn of(user: &AuthInfo) -> Option<Self> {
        [Self::of_token(user), Self::of_certificate(user)].into_iter().flatten().min_by_key(|validity| validity.until)
    }

    fn of_token(user: &AuthInfo) -> Option<Self> {
        // The type that kube keeps it in shows it to serde alone.
        let user = serde_json::to_value(user).ok()?;
        let token = UnverifiedToken::parse(user.get("token")?.as_str()?).ok()?;
        Some(Self { from: token.issued().unwrap_or(OffsetDateTime::UNIX_EPOCH), until: token.expires()? })
    }

    fn of_certificate(user: &AuthInfo) -> Option<Self> {
        let pem = String::from_utf8(STANDARD.decode(user.client_certificate_data.as_ref()?).ok()?).ok()?;
        let certificates = certificates_from_pem(&pem).ok()?;
        let (_, certificate) = X509Certificate::from_der(certificates.first()?).ok()?;
        let validity = certificate.validity();
        Some(Self { from: validity.not_before.to_datetime(), until: validity.not_after.to_datetime() })
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use kube::config::Kubeconfig;
    use rcgen::{CertificateParams, KeyPair};
    use time::macros::datetime;

    use super::*;
    use crate::pki::certificate_to_pem;

    const FROM: OffsetDateTime = datetime!(2026-11-24 12:00 UTC);

    fn of(user: &str) -> Option<Validity> {
        let kubeconfig = Kubeconfig::from_yaml(&format!("users: [{{ name: a, user: {{ {user} }} }}]")).unwrap();
        Validity::of(kubeconfig.auth_infos[0].auth_info.as_ref().unwrap())
    }

    fn token(claims: &str) -> String {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.c2ln", encode(r#"{"alg":"RS256","kid":"k"}"#), encode(claims))
    }

    fn certificate(days: i64) -> String {
        let mut parameters = CertificateParams::default();
        (parameters.not_before, parameters.not_after) = (FROM, FROM + time::Duration::days(days));
        let certificate = parameters.self_signed(&KeyPair::generate().unwrap()).unwrap();
        STANDARD.encode(certificate_to_pem(certificate.der()))
    }

    #[test]
    fn a_token_and_a_client_certificate_say_when_they_end() {
        let until = FROM + time::Duration::days(2);
        let (iat, exp) = (FROM.unix_timestamp(), until.unix_timestamp());
        let account =
            r#""iss":"i","aud":["a"],"sub":"system:serviceaccount:n:s","kubernetes.io":{"namespace":"n","serviceaccount":{"name":"s","uid":"u"}}"#;
        let whole = token(&format!(r#"{{{account},"iat":{iat},"exp":{exp}}}"#));
        assert_eq!(of(&format!("token: {whole}")), Some(Validity { from: FROM, until }));
        let foreign = token(&format!(r#"{{"iss":"i","exp":{exp}}}"#));
        assert_eq!(of(&format!("token: {foreign}")), Some(Validity { from: OffsetDateTime::UNIX_EPOCH, until }));
        assert_eq!(of(&format!("client-certificate-data: {}", certificate(2))), Some(Validity { from: FROM, until }));
        let both = |days| of(&format!("token: {whole}, client-certificate-data: {}", certificate(days))).unwrap().until;
        assert_eq!((both(1), both(3)), (FROM + time::Duration::days(1), until), "the one that ends first");
        let none =
            ["token: opaque".to_owned(), format!("token: {}", token("{}")), "client-certificate-data: bm8=".to_owned(), "username: a".to_owned()];
        for user in none {
            assert_eq!(of(&user), None, "{user}");
        }
    }
}
