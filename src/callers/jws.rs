//! A token as it comes: JWS in compact form (RFC 7515 §3.1), in two steps, so that the key can be fetched in between.
//!
//! Everything before [`UnverifiedToken::verify`] is bytes that anybody could have sent: bounded, strictly parsed, and good for nothing but
//! choosing the key.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::claims::{Claims, numeric_date};
use super::strict_json::strict_object;
use super::token::TokenError;
use super::verification_key::{Algorithm, SignatureFault, VerificationKey};

/// A token whose signature nobody has checked yet. It never shows itself.
pub struct UnverifiedToken<'a> {
    signed: &'a str,
    signature: Vec<u8>,
    algorithm: Algorithm,
    kid: String,
    payload: Map<String, Value>,
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
        let payload = strict_object(&decode(payload)?).map_err(|_| TokenError::Malformed("the claims are not a strict JSON object"))?;
        Ok(Self { signed, signature: decode(signature)?, algorithm, kid, payload })
    }

    /// The key that it says signed it: a hint, untrusted.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The issuer that it says it has: a hint for choosing a key set, untrusted.
    pub fn issuer(&self) -> Option<&str> {
        self.payload.get("iss")?.as_str()
    }

    /// The account that it says it stands for: a hint for queues, untrusted.
    pub fn account(&self) -> Option<AccountHint<'_>> {
        let members = self.payload.get("kubernetes.io")?;
        let text = |object: &'a str, name: &str| members.get(object)?.get(name)?.as_str();
        Some(AccountHint {
            namespace: members.get("namespace")?.as_str()?,
            service_account: text("serviceaccount", "name")?,
            pod_uid: text("pod", "uid"),
        })
    }

    /// When it says that it expires: a hint, untrusted, which may only ever count against it.
    pub fn expires(&self) -> Option<OffsetDateTime> {
        numeric_date(self.payload.get("exp")?)
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
        Claims::read(&self.payload).map(VerifiedClaims)
    }

    /// The claims of a token whose signature the cluster that it comes from has checked: these very bytes passed its token review.
    ///
    /// # Errors
    /// [`TokenError::BadClaims`] where a claim is missing or of the wrong type.
    pub fn reviewed(self) -> Result<VerifiedClaims, TokenError> {
        Claims::read(&self.payload).map(VerifiedClaims)
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
    if members.keys().any(|name| !matches!(name.as_str(), "alg" | "kid" | "typ")) {
        return Err(TokenError::Malformed("the header has a member other than alg, kid and typ"));
    }
    match members.get("typ") {
        None => {}
        Some(Value::String(kind)) if kind.eq_ignore_ascii_case("JWT") || kind.eq_ignore_ascii_case("JOSE") => {}
        Some(_) => return Err(TokenError::Malformed("the header's typ is not JWT")),
    }
    let algorithm = match members.get("alg") {
        Some(Value::String(name)) => Algorithm::by_name(name).ok_or(TokenError::AlgUnsupported)?,
        _ => return Err(TokenError::Malformed("the header has no alg")),
    };
    match members.get("kid") {
        None => Err(TokenError::MissingKid),
        Some(Value::String(kid)) if kid.is_empty() => Err(TokenError::MissingKid),
        Some(Value::String(kid)) if kid.len() <= UnverifiedToken::MAX_KID_BYTES => Ok((algorithm, kid.clone())),
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
