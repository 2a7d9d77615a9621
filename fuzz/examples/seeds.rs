//! Makes the seeds that can't be written by hand: `cargo run --example seeds` in this folder. New keys each time; only those that the
//! `import` seeds must hold are kept. The library includes some of the seeds: where they are missing, empty files must be there first.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meshmint::authority::{KeyRef, MadeBy, TrustEntry, certify_issuing, first_state, issuing_name, make_root};
use meshmint::clock::SystemEntropy;
use meshmint::pki::{IssuedBy, IssuerKey, KeyAlgorithm, Serial, Signer, Subject, certificate_to_pem, certificates_from_pem, check_csr, prepare};
use meshmint::spiffe::SpiffeId;
use meshmint::spiffe::bundle::bundle_json;
use rcgen::{CertificateParams, KeyPair};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::json;

use meshmint_fuzz::{AUDIENCE, ISSUER, NOW, policy, trust_domain};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn put(path: &str, bytes: impl AsRef<[u8]>) -> Outcome<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::create_dir_all(path.parent().ok_or("no folder")?)?;
    Ok(fs::write(path, bytes)?)
}

fn request(algorithm: &'static rcgen::SignatureAlgorithm) -> Outcome<(String, Vec<u8>)> {
    let key = KeyPair::generate_for(algorithm)?;
    let csr = CertificateParams::new(vec!["cart.shop".to_owned()])?.serialize_request(&key)?;
    Ok((csr.pem()?, csr.der().to_vec()))
}

fn token() -> Outcome<()> {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).map_err(|_| "no key")?;
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).map_err(|_| "no key")?;
    let (x, y) = key.public_key().as_ref().get(1..).ok_or("no point")?.split_at(32);
    let jwk = json!({"kty": "EC", "kid": "p256", "crv": "P-256", "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)});
    let now = NOW.unix_timestamp();
    let claims = json!({
        "iss": ISSUER, "sub": "system:serviceaccount:shop:cart", "aud": [AUDIENCE], "exp": now + 3600, "iat": now, "nbf": now, "jti": "id",
        "kubernetes.io": {
            "namespace": "shop", "serviceaccount": {"name": "cart", "uid": "u1"}, "pod": {"name": "cart-1", "uid": "u2"},
            "node": {"name": "node-1", "uid": "u3"}, "warnafter": now + 3607,
        },
    });
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","kid":"p256"}"#), URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = key.sign(&random, signed.as_bytes()).map_err(|_| "no signature")?;
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
    put("seeds/jwks/good", json!({ "keys": [jwk] }).to_string())?;
    put("seeds/token/good", &token)?;
    put("seeds/strict_json/claims", claims.to_string())?;
    let rsa = json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "rsa", "n": URL_SAFE_NO_PAD.encode([0xff; 256]), "e": "AQAB"});
    put("seeds/jwks/two", json!({ "keys": [jwk, rsa] }).to_string())
}

fn main() -> Outcome<()> {
    let (policy, entropy) = (policy(), SystemEntropy::shared());
    let reference = |name: &str| KeyRef(format!("file:{name}"));

    let root_key = IssuerKey::generate(KeyAlgorithm::P256)?;
    let root = make_root(&policy, &root_key, reference("root"), NOW, entropy.as_ref())?;
    let root_der = certificates_from_pem(&root.certificate)?.remove(0);
    let root_signer = Signer::new(&root_der, root_key.clone())?;
    let trust = vec![TrustEntry { id: root.id.clone(), certificate: root.certificate.clone(), foreign: false }];
    let state = first_state(&policy, MadeBy::Serve, vec![root.clone()], trust, NOW, "made".to_owned());

    let issuing_pair = KeyPair::generate()?;
    let issuing_key = IssuerKey::from_pem(&issuing_pair.serialize_pem())?;
    let csr = CertificateParams::default().serialize_request(&issuing_pair)?.pem()?.replace("\r\n", "\n");
    let name = issuing_name(state.next_generation(), entropy.as_ref())?;
    let certified = certify_issuing(&policy, &root, &root_signer, &csr, &name, NOW, entropy.as_ref())?;
    let issuing_der = certified.certificate.clone();
    let state = state.with_issuing(certified, reference("issuing"), NOW).with_reservation(root.id.clone(), NOW + policy.longest_leaf * 3);
    put("seeds/state/good", state.to_json()?)?;

    let (pem, der) = request(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let id = SpiffeId::workload(&trust_domain(), "shop", "cart")?;
    let signer = Signer::new(&issuing_der, issuing_key)?;
    let (key, validity) = (check_csr(&pem)?, policy.profile.validity(0, NOW, 0.0, signer.not_after())?);
    let by = IssuedBy::Signer(&signer);
    let leaf = prepare(&Subject::Leaf { id: &id, key: &key }, Serial::draw(entropy.as_ref(), NOW)?, validity, by)?.sign()?;
    put("seeds/client_certificate/leaf", &leaf)?;
    put("seeds/client_certificate/issuing", &issuing_der)?;
    put("seeds/public_key/p256", key.der())?;

    let chain: String = [leaf.as_ref(), &issuing_der, &root_der].into_iter().map(certificate_to_pem).collect();
    for target in ["pem", "inspect"] {
        put(&format!("seeds/{target}/chain"), &chain)?;
    }
    put("seeds/inspect/leaf", &leaf)?;
    put("seeds/inspect/csr", &der)?;
    let bundle = bundle_json(&[&root_der], 7, std::time::Duration::from_secs(300))?;
    put("seeds/inspect/bundle", &bundle)?;
    put("seeds/spiffe_bundle/one", &bundle)?;
    put("seeds/import/root", format!("{}\0{}", root.certificate, root_key.to_pem()))?;
    put("seeds/import/chain", format!("{}\0{}\0{chain}\0{}", certificate_to_pem(&issuing_der), issuing_pair.serialize_pem(), root.certificate))?;

    put("seeds/csr/p256-pem", &pem)?;
    put("seeds/csr/p256", &der)?;
    for (name, algorithm) in [("p384", &rcgen::PKCS_ECDSA_P384_SHA384), ("ed25519", &rcgen::PKCS_ED25519)] {
        let (pem, der) = request(algorithm)?;
        put(&format!("seeds/csr/{name}"), &der)?;
        put(&format!("seeds/public_key/{name}"), check_csr(&pem)?.der())?;
    }
    let rsa = include_bytes!("../../tests/corpus/inspect/pilot-agent-rsa2048.csr.der");
    put("seeds/csr/rsa2048", rsa)?;
    let pem = pem_rfc7468::encode_string("CERTIFICATE REQUEST", pem_rfc7468::LineEnding::LF, rsa).map_err(|_| "no PEM")?;
    put("seeds/public_key/rsa2048", check_csr(&pem)?.der())?;
    // csr = 1, validity_duration = 3, metadata = 4 (proto/istio/ca.proto).
    let mut message = vec![0x0a, 0x80 | (pem.len() & 0x7f) as u8, (pem.len() >> 7) as u8];
    message.extend(pem.bytes());
    message.extend([0x18, 0x80, 0xa3, 0x05, 0x22, 0x12, 0x0a, 0x10, 0x0a, 0x0a]);
    message.extend(b"CertSigner");
    message.extend([0x12, 0x02, 0x1a, 0x00]);
    put("seeds/request/good", message)?;
    token()
}
