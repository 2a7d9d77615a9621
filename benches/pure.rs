//! What a certificate costs beside its cryptography on the two pure floors: reading the token and the CSR, writing, linting and encoding the
//! certificate. `cargo bench --no-default-features --bench pure` builds in seconds. Where a piece has a signature inside, the signature is also
//! measured alone, in turn with the piece, and taken off in the last column. Plain figures for a person to compare; no threshold.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../tests/common/tokens.rs"]
mod tokens;

use std::hint::black_box;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meshmint::callers::{KeySet, TokenRules, UnverifiedToken, strict_object};
use meshmint::clock::SystemEntropy;
use meshmint::pki::{CheckedKey, IssuedBy, IssuerKey, KeyAlgorithm, Serial, Signer, Subject, Validity, certificate_to_pem, check_csr, prepare};
use meshmint::spiffe::SpiffeId;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData as _, SanType};
use ring::signature::{ECDSA_P256_SHA256_ASN1, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, RsaPublicKeyComponents, UnparsedPublicKey};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;
use time::OffsetDateTime;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use crate::tokens::{ISSUER, RS256, TokenIssuer, claims};

/// Iterations of one round, and rounds. The best round counts: whatever else the machine did can only have made it slower.
const ITERATIONS: u32 = 200;
const ROUNDS: u32 = 200;

/// The nanoseconds of one iteration of each, in alternating rounds.
fn fastest<const N: usize>(mut works: [&mut dyn FnMut(); N]) -> [f64; N] {
    let mut best = [Duration::MAX; N];
    for _ in 0..ROUNDS {
        for (work, best) in works.iter_mut().zip(&mut best) {
            let began = Instant::now();
            (0..ITERATIONS).for_each(|_| work());
            *best = began.elapsed().min(*best);
        }
    }
    best.map(|best| best.as_secs_f64() * 1e9 / f64::from(ITERATIONS))
}

fn report(what: &str, mut work: impl FnMut()) {
    let [cost] = fastest([&mut work]);
    println!("{what:<44} {cost:>8.0} ns");
}

/// A piece with a signature inside, and the signature.
fn report_without(what: &str, mut work: impl FnMut(), mut signature: impl FnMut()) {
    let [cost, alone] = fastest([&mut work, &mut signature]);
    println!("{what:<44} {cost:>8.0} ns, its signature {alone:>8.0} ns, the rest {:>8.0} ns", cost - alone);
}

/// A request as Istio's agents make them: an empty subject and one URI.
fn csr(key: &KeyPair) -> (String, Vec<u8>) {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.subject_alt_names = vec![SanType::URI("spiffe://cluster.local/ns/shop/sa/cart".try_into().unwrap())];
    let der = parameters.serialize_request(key).unwrap().der().to_vec();
    (pem_rfc7468::encode_string("CERTIFICATE REQUEST", pem_rfc7468::LineEnding::LF, &der).unwrap(), der)
}

fn root(now: OffsetDateTime, serial: Serial) -> Signer {
    let key = IssuerKey::generate(KeyAlgorithm::P256).unwrap();
    let domain = "cluster.local".parse().unwrap();
    let validity = Validity { not_before: now, not_after: now + time::Duration::days(365) };
    let issuer = IssuedBy::Itself(&key);
    let subject = Subject::Root { trust_domain: &domain, name: "root", key: &key.public_key().unwrap() };
    let certificate = prepare(&subject, serial, validity, issuer).unwrap().sign().unwrap();
    Signer::new(&certificate, key).unwrap()
}

fn measure_token(now: OffsetDateTime) {
    let (issuer, folder) = (TokenIssuer::new(), tempfile::tempdir().unwrap());
    issuer.publish(folder.path());
    let keys = KeySet::from_jwks(&std::fs::read(folder.path().join("jwks.json")).unwrap()).unwrap();
    let key = keys.key("rsa").unwrap();
    let issuers = [(ISSUER.to_owned(), "Kubernetes".to_owned())].into();
    let skew = Duration::from_secs(30);
    let rules = TokenRules::new("cluster.local".parse().unwrap(), issuers, ["istio-ca".to_owned()].into(), skew, skew).unwrap();
    let token = issuer.sign(&json!({"alg": "RS256", "kid": "rsa"}), &claims("shop", "cart"), RS256);
    let whole = || drop(black_box(rules.check(UnverifiedToken::parse(black_box(&token)).unwrap().verify(key).unwrap(), now).unwrap()));
    let (signed, bits) = token.rsplit_once('.').unwrap();
    let (bits, payload) = (URL_SAFE_NO_PAD.decode(bits).unwrap(), URL_SAFE_NO_PAD.decode(signed.split_once('.').unwrap().1).unwrap());
    let pair = PrivatePkcs8KeyDer::from_pem_slice(include_bytes!("../tests/corpus/tokens/rsa-2048.pem")).unwrap();
    let public: RsaPublicKeyComponents<Vec<u8>> = RsaKeyPair::from_pkcs8(pair.secret_pkcs8_der()).unwrap().public().into();
    let signature = || public.verify(&RSA_PKCS1_2048_8192_SHA256, black_box(signed.as_bytes()), &bits).unwrap();
    report_without("token: base64, JSON, claims, rules", whole, signature);
    report("token: the same without claims and rules", || drop(black_box(UnverifiedToken::parse(black_box(&token)).unwrap())));
    report("token: its claims as strict JSON", || drop(black_box(strict_object(black_box(&payload)).unwrap())));
}

fn measure_csr() -> CheckedKey {
    let key = KeyPair::generate().unwrap();
    let (pem, der) = csr(&key);
    let whole = || drop(black_box(check_csr(black_box(&pem)).unwrap()));
    let (_, request) = X509CertificationRequest::from_der(&der).unwrap();
    let (signed, bits) = (request.certification_request_info.raw, request.signature_value.data.to_vec());
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.der_bytes());
    report_without("CSR: PEM, DER, key", whole, || public.verify(black_box(signed), &bits).unwrap());
    report("CSR: PEM to DER, strictly, as a yardstick", || drop(black_box(pem_rfc7468::decode_vec(black_box(pem.as_bytes())).unwrap())));
    check_csr(&pem).unwrap()
}

fn measure_certificate(key: &CheckedKey, now: OffsetDateTime) {
    let entropy = SystemEntropy::shared();
    let serial = Serial::draw(entropy.as_ref(), now).unwrap();
    let now = now.replace_nanosecond(0).unwrap();
    let root = root(now, serial);
    let issuer = IssuedBy::Signer(&root);
    let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
    let validity = Validity { not_before: now - time::Duration::minutes(2), not_after: now + time::Duration::hours(24) };
    let subject = Subject::Leaf { id: &id, key };
    report("serial", || _ = black_box(Serial::draw(entropy.as_ref(), now).unwrap()));
    report("certificate: encode and lint", || drop(black_box(prepare(&subject, serial, validity, issuer).unwrap())));
    let certificate = prepare(&subject, serial, validity, issuer).unwrap().sign().unwrap();
    report("certificate: to PEM", || drop(black_box(certificate_to_pem(black_box(&certificate)))));
}

fn main() {
    let now = OffsetDateTime::now_utc();
    measure_token(now);
    let key = measure_csr();
    measure_certificate(&key, now);
}
