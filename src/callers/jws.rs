//! A token as it comes: JWS in compact form (RFC 7515 §3.1), in two steps, so that the key can be fetched in between.
//!
//! Everything before [`UnverifiedToken::verify`] is bytes that anybody could have sent: bounded, strictly parsed, and good for nothing but
//! choosing the key.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use time::OffsetDateTime;

use super::claims::{Claims, numeric_date};
use super::strict_json::{Json, Members, strict_object};
use super::token::TokenError;
use super::verification_key::{Algorithm, SignatureFault, VerificationKey};

/// A token whose signature nobody has checked yet. It never shows itself.
pub struct UnverifiedToken<'a> {
    signed: &'a str,
    signature: Vec<u8>,
    algorithm: Algorithm,
    kid: String,
    claims: Result<Claims, BadClaims>,
}

/// Claims of which one is missing or of the wrong type: why they are refused once the signature is good, and what they hint at all the same.
struct BadClaims {
    error: TokenError,
    issuer: Option<String>,
    namespace: Option<String>,
    service_account: Option<String>,
    pod_uid: Option<String>,
    expires: Option<OffsetDateTime>,
}

/// Whom a token says that it stands for. Nobody has checked it: it may only ever count against the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccountHint<'a> {
    /// `kubernetes.io`/`namespace`.
    pub namespace: &'a str,
    /// `kubernetes.io`/`serviceaccount`/`name`.
    pub service_account: &'a str,
    /// `kubernetes.io`/`pod`/`uid`.
    pub pod_uid: Option<&'a str>,
}

/// Claims that came out of a token with a good signature. Only [`UnverifiedToken::verify`] and [`UnverifiedToken::reviewed`] make these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedClaims(Claims);

impl VerifiedClaims {
    /// The claims.
    pub fn claims(&self) -> &Claims {
        &self.0
    }

    pub(super) fn into_claims(self) -> Claims {
        self.0
    }
}

impl<'a> UnverifiedToken<'a> {
    /// The longest token, in bytes. Real ones have about 1,000.
    pub const MAX_BYTES: usize = 16 << 10;
    /// The longest `kid`, in bytes; Kubernetes has the same bound for external signers.
    pub const MAX_KID_BYTES: usize = 1024;

    /// Takes a token apart.
    ///
    /// # Errors
    /// [`TokenError::NoCredential`], [`TokenError::TooLarge`], [`TokenError::Malformed`], [`TokenError::AlgUnsupported`] or [`TokenError::MissingKid`].
    pub fn parse(token: &'a str) -> Result<Self, TokenError> {
        if token.is_empty() {
            return Err(TokenError::NoCredential);
        }
        if token.len() > Self::MAX_BYTES {
            return Err(TokenError::TooLarge);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed("three parts are needed"))?;
        // A third dot is no character of base64url, so the payload then fails to decode.
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed("three parts are needed"))?;
        let (algorithm, kid) = read_header(&decode(header)?)?;
        let payload = decode(payload)?;
        let payload = strict_object(&payload).map_err(|_| TokenError::Malformed("the claims are not a strict JSON object"))?;
        let claims = Claims::read(&payload).map_err(|error| BadClaims::read(&payload, error));
        Ok(Self { signed, signature: decode(signature)?, algorithm, kid, claims })
    }

    /// The key that it says signed it: a hint, untrusted.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The issuer that it says it has: a hint for choosing a key set, untrusted.
    pub fn issuer(&self) -> Option<&str> {
        match &self.claims {
            Ok(claims) => Some(&claims.issuer),
            Err(bad) => bad.issuer.as_deref(),
        }
    }

    /// The account that it says it stands for: a hint for queues, untrusted.
    pub fn account(&self) -> Option<AccountHint<'_>> {
        let (namespace, service_account, pod_uid) = match &self.claims {
            Ok(claims) => (&claims.namespace, &claims.service_account.name, claims.pod.as_ref().map(|pod| &pod.uid)),
            Err(bad) => (bad.namespace.as_ref()?, bad.service_account.as_ref()?, bad.pod_uid.as_ref()),
        };
        Some(AccountHint { namespace, service_account, pod_uid: pod_uid.map(String::as_str) })
    }

    /// When it says that it expires: a hint, untrusted, which may only ever count against it.
    pub fn expires(&self) -> Option<OffsetDateTime> {
        match &self.claims {
            Ok(claims) => Some(claims.expires_at),
            Err(bad) => bad.expires,
        }
    }

    /// When it says that it was made: a hint, untrusted.
    pub fn issued(&self) -> Option<OffsetDateTime> {
        self.claims.as_ref().ok().map(|claims| claims.issued_at)
    }

    /// Checks the signature and gives out the claims.
    ///
    /// # Errors
    /// [`TokenError::AlgMismatch`], [`TokenError::BadSignature`], or [`TokenError::BadClaims`] where a signed claim is missing or of the wrong type.
    pub fn verify(self, key: &VerificationKey) -> Result<VerifiedClaims, TokenError> {
        key.verify(self.algorithm, self.signed.as_bytes(), &self.signature).map_err(|fault| match fault {
            SignatureFault::Algorithm => TokenError::AlgMismatch,
            SignatureFault::Signature => TokenError::BadSignature,
        })?;
        self.reviewed()
    }

    /// The claims of a token whose signature the cluster that it comes from has checked: these very bytes passed its token review.
    ///
    /// # Errors
    /// [`TokenError::BadClaims`] where a claim is missing or of the wrong type.
    pub fn reviewed(self) -> Result<VerifiedClaims, TokenError> {
        self.claims.map(VerifiedClaims).map_err(|bad| bad.error)
    }
}

impl BadClaims {
    fn read(payload: &Members<'_>, error: TokenError) -> Self {
        let text = |value: Option<&Json<'_>>| value.and_then(Json::as_str).map(str::to_owned);
        let private = payload.get("kubernetes.io").and_then(Json::as_object);
        let part = |object, name| text(private.and_then(|members| members.get(object)?.as_object()?.get(name)));
        Self {
            error,
            issuer: text(payload.get("iss")),
            namespace: text(private.and_then(|members| members.get("namespace"))),
            service_account: part("serviceaccount", "name"),
            pod_uid: part("pod", "uid"),
            expires: payload.get("exp").and_then(numeric_date),
        }
    }
}

impl fmt::Debug for UnverifiedToken<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "UnverifiedToken({:?}, {} bytes)", self.algorithm, self.signed.len())
    }
}

/// Base64url without padding, stray bits or white space (RFC 7515 §2): one byte string has one form.
fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed("not base64url"))
}

/// The protected header. Only what is understood here may be in it: anything else (`crit`, `jku`, `jwk`, `x5c`, `b64`, …) is either
/// something that we would have to obey or a key that the sender would like us to use. The API server is as strict with external signers.
fn read_header(bytes: &[u8]) -> Result<(Algorithm, String), TokenError> {
    let members = strict_object(bytes).map_err(|_| TokenError::Malformed("the header is not a strict JSON object"))?;
    if members.iter().any(|(name, _)| !matches!(name, "alg" | "kid" | "typ")) {
        return Err(TokenError::Malformed("the header has a member other than alg, kid and typ"));
    }
    match members.get("typ") {
        None => {}
        Some(Json::Text(kind)) if kind.eq_ignore_ascii_case("JWT") || kind.eq_ignore_ascii_case("JOSE") => {}
        Some(_) => return Err(TokenError::Malformed("the header's typ is not JWT")),
    }
    let algorithm = match members.get("alg") {
        Some(Json::Text(name)) => Algorithm::by_name(name).ok_or(TokenError::AlgUnsupported)?,
        _ => return Err(TokenError::Malformed("the header has no alg")),
    };
    match members.get("kid") {
        None => Err(TokenError::MissingKid),
        Some(Json::Text(kid)) if kid.is_empty() => Err(TokenError::MissingKid),
        Some(Json::Text(kid)) if kid.len() <= UnverifiedToken::MAX_KID_BYTES => Ok((algorithm, kid.as_ref().to_owned())),
        Some(_) => Err(TokenError::Malformed("the header's kid is not a short text")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, payload: &str) -> String {
        format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload))
    }

    fn error(token: &str) -> TokenError {
        UnverifiedToken::parse(token).unwrap_err()
    }

    #[test]
    fn gives_hints_and_shows_nothing_else() {
        let text = token(r#"{"alg":"ES256","kid":"k1","typ":"JWT"}"#, r#"{"iss":"https://a","exp":1700000000,"secret":"s"}"#);
        let parsed = UnverifiedToken::parse(&text).unwrap();
        assert_eq!((parsed.kid(), parsed.issuer()), ("k1", Some("https://a")));
        assert_eq!(parsed.expires(), OffsetDateTime::from_unix_timestamp(1_700_000_000).ok());
        assert_eq!(format!("{parsed:?}"), format!("UnverifiedToken(Es256, {} bytes)", text.len() - 5));
        let text = token(r#"{"alg":"RS256","kid":"k"}"#, r#"{"iss":1,"exp":"soon"}"#);
        let parsed = UnverifiedToken::parse(&text).unwrap();
        assert_eq!((parsed.issuer(), parsed.expires()), (None, None));
    }

    #[test]
    fn hints_are_the_same_whether_the_claims_are_good_or_bad() {
        let good = r#"{"iss":"i","sub":"s","aud":"a","iat":1,"exp":2,"kubernetes.io":{"namespace":"n","serviceaccount":{"name":"a","uid":"u"},"pod":{"name":"p","uid":"v"}}}"#;
        let hints = |payload: &str| {
            let text = token(r#"{"alg":"ES256","kid":"k"}"#, payload);
            let parsed = UnverifiedToken::parse(&text).unwrap();
            let account = parsed.account().map(|hint| [hint.namespace, hint.service_account, hint.pod_uid.unwrap_or("none")].join(" "));
            (parsed.claims.is_ok(), parsed.issuer().map(str::to_owned), parsed.expires(), account)
        };
        let (issuer, expires, account) = (Some("i".to_owned()), OffsetDateTime::from_unix_timestamp(2).ok(), Some("n a v".to_owned()));
        assert_eq!(hints(good), (true, issuer.clone(), expires, account.clone()));
        assert_eq!(hints(&good.replace("\"aud\"", "\"x\"")), (false, issuer.clone(), expires, account.clone()));
        assert_eq!(hints(&good.replace("\"i\"", "1")), (false, None, expires, account.clone()));
        assert_eq!(hints(&good.replace(":2,", ":-2,")), (false, issuer.clone(), None, account));
        assert_eq!(hints(&good.replace("\"namespace\"", "\"x\"")), (false, issuer.clone(), expires, None));
        assert_eq!(hints(&good.replace("\"name\"", "\"x\"")), (false, issuer.clone(), expires, None));
        assert_eq!(hints(&good.replace("\"v\"", "1")), (false, issuer.clone(), expires, Some("n a none".to_owned())));
        assert_eq!(hints(&good.replace("\"pod\"", "\"x\"")), (true, issuer, expires, Some("n a none".to_owned())));
    }

    #[test]
    fn the_header_is_read_strictly() {
        assert_eq!(error(""), TokenError::NoCredential);
        assert_eq!(error(&"a".repeat(UnverifiedToken::MAX_BYTES + 1)), TokenError::TooLarge);
        for (header, reason) in [
            (r#"{"alg":"none","kid":"k"}"#, "alg_unsupported"),
            (r#"{"alg":"HS256","kid":"k"}"#, "alg_unsupported"),
            (r#"{"alg":"ES512","kid":"k"}"#, "alg_unsupported"),
            (r#"{"alg":1,"kid":"k"}"#, "malformed"),
            (r#"{"kid":"k"}"#, "malformed"),
            (r#"{"alg":"ES256"}"#, "missing_kid"),
            (r#"{"alg":"ES256","kid":""}"#, "missing_kid"),
            (r#"{"alg":"ES256","kid":null}"#, "malformed"),
            (r#"{"alg":"ES256","kid":"k","kid":"k"}"#, "malformed"),
            (r#"{"alg":"ES256","alg":"none","kid":"k"}"#, "malformed"),
            (r#"{"alg":"ES256","kid":"k","crit":["exp"]}"#, "malformed"),
            (r#"{"alg":"ES256","kid":"k","crit":[]}"#, "malformed"),
            (r#"{"alg":"ES256","kid":"k","jwk":{}}"#, "malformed"),
            (r#"{"alg":"ES256","kid":"k","b64":false}"#, "malformed"),
            (r#"{"alg":"ES256","kid":"k","typ":"at+jwt"}"#, "malformed"),
            (r#"{"alg":"ES256","kid":"k","typ":1}"#, "malformed"),
            (r#"["alg"]"#, "malformed"),
        ] {
            assert_eq!(error(&token(header, "{}")).reason(), reason, "{header}");
        }
        let long = format!(r#"{{"alg":"ES256","kid":"{}"}}"#, "k".repeat(1025));
        assert_eq!(error(&token(&long, "{}")).reason(), "malformed");
    }

    #[test]
    fn the_form_is_read_strictly() {
        let good = token(r#"{"alg":"ES256","kid":"k"}"#, "{}");
        assert!(UnverifiedToken::parse(&good).is_ok());
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","kid":"k"}"#);
        for text in [
            "garbage".to_owned(),
            "..".to_owned(),
            "a.b".to_owned(),
            "q".repeat(12 << 10),
            format!("{good}."),
            format!(".{good}"),
            format!("{good}="),
            format!("{good} "),
            format!("{good}\n"),
            format!("{good}é"),
            format!("{header}.e31.c2ln"),
            format!("{header}.W10.c2ln"),
            format!("{header}.e30=.c2ln"),
            format!("{header}.e+0.c2ln"),
            format!("{header}.eyJhIjoxLCJhIjoyfQ.c2ln"),
        ] {
            assert_eq!(error(&text).reason(), "malformed", "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(text in "\\PC{0,300}", header in "[ -~]{0,60}", payload in "[ -~]{0,60}", kid in "[a-z]{1,5}") {
            let _ = UnverifiedToken::parse(&text);
            let _ = UnverifiedToken::parse(&token(&header, &payload));
            let _ = UnverifiedToken::parse(&token(&format!(r#"{{"alg":"ES256","kid":"{kid}"}}"#), &payload));
        }
    }
}
