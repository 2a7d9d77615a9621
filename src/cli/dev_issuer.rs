//! The built-in token issuer of `meshmint dev`: makes tokens that look as Kubernetes makes them, for demos and tests.
//!
//! Used by `dev`, `token` and `bench` only; nothing that `serve` reaches imports it. Its key is made in the folder of `dev`, so no build contains a key
//! that anything trusts, and its issuer is a name that can't exist (RFC 2606 §2), so no real cluster's tokens can be mistaken for its own.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::clock::{Entropy, NoEntropy};
use crate::pki::{IssuerKey, KeyAlgorithm, KeyError};

/// An issuer of tokens, with its key.
pub(super) struct DevIssuer {
    key: EcdsaKeyPair,
    kid: String,
    /// A second key, once `bench` asked for tokens as most clusters sign them. To make one takes long.
    rsa: Option<RsaKeyPair>,
}

/// What a token shall say. UIDs that aren't given are derived from the names, so that the same names always mean the same objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TokenRequest<'a> {
    /// The namespace.
    pub namespace: &'a str,
    /// The service account.
    pub service_account: &'a str,
    /// The pod that it is bound to.
    pub pod: Option<&'a str>,
    /// That pod's UID.
    pub pod_uid: Option<&'a str>,
    /// The pod's node; without a pod, the node that it is bound to.
    pub node: Option<&'a str>,
    /// `aud`.
    pub audiences: &'a [String],
    /// `exp` − `iat`.
    pub ttl: Duration,
}

/// What went wrong with the built-in issuer.
#[derive(Debug, thiserror::Error)]
pub(super) enum DevIssuerError {
    /// `dev` never made this folder.
    #[error("{dir} has no token issuer: start `meshmint dev --dir {dir}` first", dir = .0.display())]
    NotThere(PathBuf),
    /// Others could read the key.
    #[error("others can read {path}: anybody who did can make tokens. Remove it and start `meshmint dev` again", path = .0.display())]
    Exposed(PathBuf),
    /// The key file isn't a P-256 key.
    #[error("{path} can't be used: {reason}. Remove it and start `meshmint dev` again", path = .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The system refused.
    #[error("{path}: {reason}", path = .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's words.
        reason: io::Error,
    },
    /// No randomness for an id or a signature.
    #[error(transparent)]
    NoEntropy(#[from] NoEntropy),
}

impl DevIssuer {
    /// `iss` of its tokens.
    pub(super) const ISSUER: &'static str = "https://dev.meshmint.invalid";
    /// The file with its key, in the folder of `dev`. A folder that has it was made by `dev`.
    pub(super) const KEY_FILE: &'static str = "token-issuer.pem";
    /// The file with its second key, where there is one.
    pub(super) const RS256_KEY_FILE: &'static str = "token-issuer-rs256.pem";
    /// From this lifetime on a token has `warnafter`, as those have that Kubernetes extends beyond what was asked (3607 s, to a year).
    pub(super) const WARN_AFTER: Duration = Duration::from_secs(3607);

    /// The issuer of the folder that `dev` made.
    ///
    /// # Errors
    /// [`DevIssuerError`].
    pub(super) fn open(dir: &Path) -> Result<Self, DevIssuerError> {
        let unusable = |path: PathBuf, reason: &str| DevIssuerError::Key { path, reason: reason.to_owned() };
        let path = dir.join(Self::KEY_FILE);
        let pkcs8 = read_key(dir, &path)?.to_pkcs8_der();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.secret_pkcs8_der(), &SystemRandom::new())
            .map_err(|_| unusable(path, "not a P-256 key"))?;
        let path = dir.join(Self::RS256_KEY_FILE);
        let rsa = match read_key(dir, &path) {
            Ok(key) => Some(RsaKeyPair::from_pkcs8(key.to_pkcs8_der().secret_pkcs8_der()).map_err(|_| unusable(path, "not an RSA key"))?),
            Err(DevIssuerError::NotThere(_)) => None,
            Err(error) => return Err(error),
        };
        let kid = thumbprint(&key);
        Ok(Self { key, kid, rsa })
    }

    /// The issuer of `dir`, with a second key by `make`, an RSA key, if it hasn't one.
    ///
    /// # Errors
    /// [`DevIssuerError`].
    pub(super) fn open_with_rs256(dir: &Path, make: impl FnOnce() -> Result<IssuerKey, String>) -> Result<Self, DevIssuerError> {
        let issuer = Self::open(dir)?;
        if issuer.rsa.is_some() {
            return Ok(issuer);
        }
        let path = dir.join(Self::RS256_KEY_FILE);
        let key = make().map_err(|reason| DevIssuerError::Key { path: path.clone(), reason })?;
        write_durably(dir, &path, key.to_pem().as_bytes()).map_err(|reason| DevIssuerError::Io { path, reason })?;
        Self::open(dir)
    }

    /// The issuer of `dir`, made where there is none yet: the key is durable and readable by us alone before it is used.
    ///
    /// # Errors
    /// [`DevIssuerError`].
    pub(super) fn open_or_create(dir: &Path) -> Result<Self, DevIssuerError> {
        match Self::open(dir) {
            Err(DevIssuerError::NotThere(_)) => {
                let path = dir.join(Self::KEY_FILE);
                let key = IssuerKey::generate(KeyAlgorithm::P256)
                    .map_err(|error: KeyError| DevIssuerError::Key { path: path.clone(), reason: error.to_string() })?;
                write_durably(dir, &path, key.to_pem().as_bytes()).map_err(|reason| DevIssuerError::Io { path, reason })?;
                Self::open(dir)
            }
            opened => opened,
        }
    }

    /// Its JWK Set, which is what verifies its tokens.
    pub(super) fn jwks(&self) -> Value {
        let (x, y) = coordinates(&self.key);
        let mut keys = vec![json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid, "x": x, "y": y })];
        if let Some(key) = &self.rsa {
            let [n, e] = numbers(key);
            keys.push(json!({ "kty": "RSA", "use": "sig", "alg": "RS256", "kid": rsa_thumbprint(key), "n": n, "e": e }));
        }
        json!({ "keys": keys })
    }

    /// Makes a token. Like Kubernetes it doesn't backdate: `iat` and `nbf` are `now`, cut to the second.
    ///
    /// # Errors
    /// [`DevIssuerError::NoEntropy`].
    pub(super) fn mint(&self, request: &TokenRequest<'_>, now: OffsetDateTime, entropy: &dyn Entropy) -> Result<String, DevIssuerError> {
        let signed = to_sign(&json!({ "alg": "ES256", "kid": self.kid }), request, now, entropy)?;
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).map_err(|_| NoEntropy)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The same, signed with the second key.
    ///
    /// # Errors
    /// [`DevIssuerError::NoEntropy`], and [`DevIssuerError::NotThere`] without a second key.
    pub(super) fn mint_rs256(&self, request: &TokenRequest<'_>, now: OffsetDateTime, entropy: &dyn Entropy) -> Result<String, DevIssuerError> {
        let key = self.rsa.as_ref().ok_or_else(|| DevIssuerError::NotThere(Self::RS256_KEY_FILE.into()))?;
        let signed = to_sign(&json!({ "alg": "RS256", "kid": rsa_thumbprint(key) }), request, now, entropy)?;
        let mut signature = vec![0; key.public().modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).map_err(|_| NoEntropy)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

impl fmt::Debug for DevIssuer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "DevIssuer({}, secret)", self.kid)
    }
}

/// The UID that an object gets where none is given: a UUID of its kind and path (RFC 9562 §5.8, version 8).
pub(super) fn derived_uid(kind: &str, path: &[&str]) -> String {
    let mut text = kind.to_owned();
    for part in path {
        text.push('/');
        text.push_str(part);
    }
    uuid(digest::digest(&digest::SHA256, text.as_bytes()).as_ref(), 8)
}

/// The private key of a file that only we can read.
fn read_key(dir: &Path, path: &Path) -> Result<IssuerKey, DevIssuerError> {
    let failed = |reason| DevIssuerError::Io { path: path.to_owned(), reason };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(DevIssuerError::NotThere(dir.to_owned())),
        Err(error) => return Err(failed(error)),
    };
    if file.metadata().map_err(failed)?.mode() & 0o077 != 0 {
        return Err(DevIssuerError::Exposed(path.to_owned()));
    }
    let pem = io::read_to_string(file).map_err(failed)?;
    IssuerKey::from_pem(&pem).map_err(|error| DevIssuerError::Key { path: path.to_owned(), reason: error.to_string() })
}

/// Header and claims, as they are signed (RFC 7515 §5.1).
fn to_sign(header: &Value, request: &TokenRequest<'_>, now: OffsetDateTime, entropy: &dyn Entropy) -> Result<String, NoEntropy> {
    let claims = claims(request, now.unix_timestamp(), &random_uuid(entropy)?);
    Ok(format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string())))
}

fn claims(request: &TokenRequest<'_>, now: i64, id: &str) -> Value {
    let TokenRequest { namespace, service_account, .. } = *request;
    let ttl = i64::try_from(request.ttl.as_secs()).unwrap_or(i64::MAX);
    let mut private = json!({
        "namespace": namespace,
        "serviceaccount": { "name": service_account, "uid": derived_uid("serviceaccount", &[namespace, service_account]) },
    });
    if let Some(members) = private.as_object_mut() {
        if let Some(pod) = request.pod {
            let uid = request.pod_uid.map_or_else(|| derived_uid("pod", &[namespace, pod]), str::to_owned);
            members.insert("pod".to_owned(), json!({ "name": pod, "uid": uid }));
        }
        if let Some(node) = request.node {
            members.insert("node".to_owned(), json!({ "name": node, "uid": derived_uid("node", &[node]) }));
        }
        if request.ttl > DevIssuer::WARN_AFTER {
            members.insert("warnafter".to_owned(), (now + DevIssuer::WARN_AFTER.as_secs().cast_signed()).into());
        }
    }
    json!({
        "iss": DevIssuer::ISSUER,
        "sub": format!("system:serviceaccount:{namespace}:{service_account}"),
        "aud": request.audiences,
        "exp": now.saturating_add(ttl),
        "iat": now,
        "nbf": now,
        "jti": id,
        "kubernetes.io": private,
    })
}

fn write_durably(dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let unfinished = path.with_extension("new");
    // What an interrupted start left may have other permissions.
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    File::open(dir)?.sync_all()
}

/// x and y of the public point, base64url.
fn coordinates(key: &EcdsaKeyPair) -> (String, String) {
    // ring gives the uncompressed form: 04, x, y (SEC 1 §2.3.3).
    let (x, y) = key.public_key().as_ref().get(1..).unwrap_or_default().split_at_checked(32).unwrap_or_default();
    (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y))
}

/// The key's name: its thumbprint (RFC 7638 §3), over the members in exactly this order.
fn thumbprint(key: &EcdsaKeyPair) -> String {
    let (x, y) = coordinates(key);
    let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, members.as_bytes()))
}

/// Modulus and exponent, base64url (RFC 7518 §6.3.1).
fn numbers(key: &RsaKeyPair) -> [String; 2] {
    let public = ring::rsa::PublicKeyComponents::<Vec<u8>>::from(key.public());
    [public.n, public.e].map(|number| URL_SAFE_NO_PAD.encode(number))
}

fn rsa_thumbprint(key: &RsaKeyPair) -> String {
    let [n, e] = numbers(key);
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#).as_bytes()))
}

fn random_uuid(entropy: &dyn Entropy) -> Result<String, NoEntropy> {
    let mut bytes = [0; 16];
    entropy.fill(&mut bytes)?;
    Ok(uuid(&bytes, 4))
}

/// The first 16 bytes in the form of a UUID of that version (RFC 9562 §4).
fn uuid(bytes: &[u8], version: u8) -> String {
    let mut number = bytes.iter().take(16).fold(0_u128, |number, byte| number << 8 | u128::from(*byte));
    number = number & !(0xf << 76) | u128::from(version) << 76;
    number = number & !(0b11 << 62) | 0b10 << 62;
    let text = format!("{number:032x}");
    let parts = [text.get(..8), text.get(8..12), text.get(12..16), text.get(16..20), text.get(20..)];
    parts.map(Option::unwrap_or_default).join("-")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::callers::{KeySet, TokenRules, UnverifiedToken};
    use crate::clock::SystemEntropy;

    fn request(audiences: &[String]) -> TokenRequest<'_> {
        let ttl = Duration::from_secs(3600);
        TokenRequest { namespace: "shop", service_account: "cart", pod: Some("cart-1"), pod_uid: None, node: Some("n1"), audiences, ttl }
    }

    #[test]
    fn its_tokens_pass_the_rules_of_a_server() {
        let dir = tempfile::tempdir().unwrap();
        let issuer = DevIssuer::open_or_create(dir.path()).unwrap();
        let now = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
        let audiences = ["istio-ca".to_owned()];
        let token = issuer.mint(&request(&audiences), now, SystemEntropy::shared().as_ref()).unwrap();
        let keys = KeySet::from_jwks(issuer.jwks().to_string().as_bytes()).unwrap();
        let parsed = UnverifiedToken::parse(&token).unwrap();
        let verified = parsed.verify(keys.key(&issuer.kid).unwrap()).unwrap();
        assert_eq!(verified.claims().warn_after, None);
        let issuers = [(DevIssuer::ISSUER.to_owned(), "Kubernetes".to_owned())].into();
        let rules = TokenRules::new("cluster.local".parse().unwrap(), issuers, audiences.into(), Duration::ZERO, Duration::ZERO).unwrap();
        let identity = rules.check(verified, now).unwrap();
        assert_eq!(identity.spiffe_id.to_string(), "spiffe://cluster.local/ns/shop/sa/cart");
        assert_eq!(identity.pod.unwrap().uid, derived_uid("pod", &["shop", "cart-1"]));
        assert_eq!(identity.expires_at, now + Duration::from_secs(3600));
    }

    #[test]
    fn long_tokens_say_when_to_warn() {
        let long = TokenRequest { ttl: Duration::from_secs(31_536_000), ..request(&[]) };
        assert_eq!(claims(&long, 1000, "id")["kubernetes.io"]["warnafter"], 4607);
    }

    #[test]
    fn the_key_stays_and_stays_private() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("new");
        assert!(matches!(DevIssuer::open(&dir), Err(DevIssuerError::NotThere(_))));
        let first = DevIssuer::open_or_create(&dir).unwrap();
        assert_eq!(DevIssuer::open_or_create(&dir).unwrap().kid, first.kid);
        let path = dir.join(DevIssuer::KEY_FILE);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(format!("{first:?}"), format!("DevIssuer({}, secret)", first.kid));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(DevIssuer::open_or_create(&dir), Err(DevIssuerError::Exposed(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, IssuerKey::generate(KeyAlgorithm::P384).unwrap().to_pem()).unwrap();
        assert!(matches!(DevIssuer::open(&dir), Err(DevIssuerError::Key { .. })));
        fs::write(&path, "x").unwrap();
        assert!(matches!(DevIssuer::open(&dir), Err(DevIssuerError::Key { .. })));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(matches!(DevIssuer::open(&dir), Err(DevIssuerError::Io { .. })));
    }

    #[test]
    fn without_randomness_there_is_no_token() {
        #[derive(Debug)]
        struct Dry;
        impl Entropy for Dry {
            fn fill(&self, _: &mut [u8]) -> Result<(), NoEntropy> {
                Err(NoEntropy)
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let issuer = DevIssuer::open_or_create(dir.path()).unwrap();
        assert!(matches!(issuer.mint(&request(&[]), OffsetDateTime::UNIX_EPOCH, &Dry), Err(DevIssuerError::NoEntropy(_))));
    }

    #[test]
    fn uids_follow_from_names() {
        let uid = derived_uid("pod", &["shop", "cart-1"]);
        assert_eq!(uid, derived_uid("pod", &["shop", "cart-1"]));
        assert_ne!(uid, derived_uid("pod", &["shop", "cart-2"]));
        assert_ne!(uid, derived_uid("serviceaccount", &["shop", "cart-1"]));
        assert_eq!(uuid(&[0xff; 16], 4), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid(&[0; 16], 8), "00000000-0000-8000-8000-000000000000");
    }
}
