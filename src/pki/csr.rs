//! What is taken out of a certificate signing request (PKCS#10, RFC 2986): its public key, once the request has proved that
//! its sender holds the private one. Nothing else of a request survives: no name, no extension, no attribute.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{
    OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer;
use x509_parser::x509::AlgorithmIdentifier;

use super::pem::{Blocks, Kind};
use super::public_key::{CheckedKey, PublicKeyAlgorithm, PublicKeyError};

/// The longest request that is looked at, in bytes of PEM. An RSA-4096 request with a dozen names has about 3 KiB.
pub const MAX_CSR_BYTES: usize = 16 * 1024;

const LABEL: &str = "CERTIFICATE REQUEST";

/// Why a request can't be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// There is none.
    #[error("the CSR is empty")]
    Empty,
    /// More than [`MAX_CSR_BYTES`].
    #[error("the CSR has more than {MAX_CSR_BYTES} bytes")]
    TooLarge,
    /// Not one PEM block, with nothing but blanks before and after it (RFC 7468 §3).
    #[error("the CSR is not exactly one PEM block")]
    NotPem,
    /// A PEM block of something else.
    #[error("the CSR's PEM label is not {LABEL}")]
    Label,
    /// Not DER of a CertificationRequest, or something follows it.
    #[error("the CSR is not a PKCS#10 request")]
    Malformed,
    /// A key that isn't accepted.
    #[error("the CSR's key is not accepted: {0}")]
    Key(#[from] PublicKeyError),
    /// A signature algorithm that isn't accepted, or doesn't fit the key.
    #[error("the CSR's signature algorithm is not accepted for its key")]
    SignatureAlgorithm,
    /// The signature doesn't verify: the sender doesn't hold the key, or the request was changed.
    #[error("the CSR's signature does not verify")]
    Signature,
}

impl CsrError {
    /// A short name for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "csr_empty",
            Self::TooLarge => "csr_too_large",
            Self::NotPem => "csr_not_pem",
            Self::Label => "csr_wrong_label",
            Self::Malformed => "csr_malformed",
            Self::Key(_) => "csr_key_not_accepted",
            Self::SignatureAlgorithm => "csr_signature_algorithm",
            Self::Signature => "csr_bad_signature",
        }
    }
}

/// Checks a request and returns its key.
///
/// # Errors
/// [`CsrError`], for the first thing that is wrong.
pub fn check_csr(pem: &str) -> Result<CheckedKey, CsrError> {
    if pem.is_empty() {
        return Err(CsrError::Empty);
    }
    if pem.len() > MAX_CSR_BYTES {
        return Err(CsrError::TooLarge);
    }
    let der = match decode_usual(pem) {
        Some(der) => der,
        None => decode(pem)?,
    };
    let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|_| CsrError::Malformed)?;
    // The parser passes over unused bits in the signature; DER has none (X.690 §11.2.2).
    if !rest.is_empty() || request.signature_value.unused_bits != 0 {
        return Err(CsrError::Malformed);
    }
    let key = CheckedKey::from_subject_public_key_info(&request.certification_request_info.subject_pki)?;
    check_signature_algorithm(&request.signature_algorithm, key.algorithm())?;
    request.verify_signature().map_err(|_| CsrError::Signature)?;
    Ok(key)
}

/// Exactly one PEM block, in whatever lines; Netscape's label for it counts too (RFC 7468 §7).
fn decode(pem: &str) -> Result<Vec<u8>, CsrError> {
    let blocks = Blocks::of(pem.as_bytes());
    let ([Ok(block)], false) = (blocks.found.as_slice(), blocks.has_text) else { return Err(CsrError::NotPem) };
    if !matches!(block.kind(), Kind::Request) {
        return Err(CsrError::Label);
    }
    block.der().map_err(|_| CsrError::NotPem)
}

/// The same for the one form that nearly everybody writes: the right label, lines of 64 characters that end in LF. It is several times faster. `None` says nothing: [`decode`] is to be asked.
fn decode_usual(pem: &str) -> Option<Vec<u8>> {
    let block = pem.strip_suffix('\n').unwrap_or(pem);
    let text = block.strip_prefix("-----BEGIN CERTIFICATE REQUEST-----\n")?.strip_suffix("\n-----END CERTIFICATE REQUEST-----")?;
    let mut lines = text.as_bytes().chunks(65);
    let last = lines.next_back()?;
    let mut der = Vec::with_capacity(text.len());
    for line in lines {
        let [line @ .., b'\n'] = line else { return None };
        // Padding may only stand at the very end.
        STANDARD_NO_PAD.decode_vec(line, &mut der).ok()?;
    }
    STANDARD.decode_vec(last, &mut der).ok()?;
    Some(der)
}

fn check_signature_algorithm(signature: &AlgorithmIdentifier<'_>, key: PublicKeyAlgorithm) -> Result<(), CsrError> {
    let accepted: &[_] = match key {
        PublicKeyAlgorithm::P256 | PublicKeyAlgorithm::P384 => &[OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384],
        PublicKeyAlgorithm::Ed25519 => &[OID_SIG_ED25519],
        PublicKeyAlgorithm::Rsa { .. } => &[OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA],
    };
    if accepted.contains(&signature.algorithm) { Ok(()) } else { Err(CsrError::SignatureAlgorithm) }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    use super::*;

    fn request(algorithm: &'static rcgen::SignatureAlgorithm) -> String {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let csr = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap().serialize_request(&key).unwrap();
        encode(LABEL, csr.der())
    }

    fn encode(label: &str, der: &[u8]) -> String {
        pem_rfc7468::encode_string(label, pem_rfc7468::LineEnding::LF, der).unwrap()
    }

    #[test]
    fn accepts_the_keys_that_ring_can_check() {
        for (algorithm, expected) in [
            (&PKCS_ECDSA_P256_SHA256, PublicKeyAlgorithm::P256),
            (&PKCS_ECDSA_P384_SHA384, PublicKeyAlgorithm::P384),
            (&PKCS_ED25519, PublicKeyAlgorithm::Ed25519),
        ] {
            assert_eq!(check_csr(&request(algorithm)).unwrap().algorithm(), expected);
        }
    }

    #[test]
    fn reads_the_forms_that_other_parsers_read() {
        let good = request(&PKCS_ECDSA_P256_SHA256);
        let der = decode(&good).unwrap();
        let base64 = STANDARD.encode(&der);
        let in_lines = |length: usize, end: &str| {
            let lines = base64.as_bytes().chunks(length).map(|line| format!("{}{end}", str::from_utf8(line).unwrap()));
            format!("-----BEGIN {LABEL}-----{end}{}-----END {LABEL}-----{end}", lines.collect::<String>())
        };
        for (name, text) in [
            ("76 columns", in_lines(76, "\n")),
            ("one long line", in_lines(base64.len(), "\n")),
            ("a single line", in_lines(base64.len(), "")),
            ("CRLF", in_lines(64, "\r\n")),
            ("blank lines", in_lines(64, "\n\n")),
            ("blanks around", format!(" \n{good}\n\t\n")),
            ("a byte order mark", format!("\u{feff}{good}")),
            ("Netscape's label", encode("NEW CERTIFICATE REQUEST", &der)),
        ] {
            assert_eq!(check_csr(&text).map(|key| key.algorithm()), Ok(PublicKeyAlgorithm::P256), "{name}");
        }
    }

    #[test]
    fn wants_exactly_one_block_and_nothing_else() {
        let good = request(&PKCS_ECDSA_P256_SHA256);
        for (bad, error) in [
            (String::new(), CsrError::Empty),
            ("x".repeat(MAX_CSR_BYTES + 1), CsrError::TooLarge),
            ("hello".to_owned(), CsrError::NotPem),
            (format!("text\n{good}"), CsrError::NotPem),
            (format!("{good}{good}"), CsrError::NotPem),
            (format!("{good}trailing"), CsrError::NotPem),
            (good.replacen('M', "*", 1), CsrError::NotPem),
            (encode("CERTIFICATE", &decode(&good).unwrap()), CsrError::Label),
            (encode(LABEL, &[decode(&good).unwrap(), vec![0]].concat()), CsrError::Malformed),
            (encode(LABEL, b""), CsrError::NotPem),
            (encode(LABEL, b"\x30\x00"), CsrError::Malformed),
        ] {
            assert_eq!(check_csr(&bad).unwrap_err(), error, "{bad:.60}");
        }
    }

    #[test]
    fn a_request_cut_anywhere_is_refused() {
        let good = request(&PKCS_ECDSA_P256_SHA256);
        let end = good.trim_end().len();
        for length in 0..end {
            assert!(check_csr(good.get(..length).unwrap()).is_err(), "{length} of {end}");
        }
        assert!(check_csr(good.trim_end()).is_ok());
    }

    #[test]
    fn a_changed_request_is_refused() {
        let good = decode(&request(&PKCS_ECDSA_P256_SHA256)).unwrap();
        // The name of the signature algorithm stands outside of what is signed, and a flipped bit there may leave it readable.
        let algorithm = b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02";
        let at = good.windows(algorithm.len()).position(|window| window == algorithm).unwrap();
        for index in (0..good.len()).filter(|index| !(at..at + algorithm.len()).contains(index)) {
            let mut bad = good.clone();
            bad[index] ^= 1;
            assert!(check_csr(&encode(LABEL, &bad)).is_err(), "byte {index}");
        }
    }

    #[test]
    fn the_usual_form_takes_the_fast_way() {
        for length in 1..300 {
            let der: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
            let pem = encode(LABEL, &der);
            assert_eq!(decode_usual(&pem), Some(der.clone()), "{pem}");
            assert_eq!(decode_usual(pem.trim_end()), Some(der));
            assert_eq!(decode_usual(&pem.replace('\n', "\r\n")), None);
        }
    }

    #[test]
    fn the_fast_way_leaves_everything_else_to_the_strict_one() {
        let block = |text: &str| format!("-----BEGIN {LABEL}-----\n{text}\n-----END {LABEL}-----\n");
        let line = "A".repeat(64);
        assert_eq!(decode_usual(&block(&line)), Some(vec![0; 48]));
        assert_eq!(decode_usual(&block(&format!("{line}\nAAA="))), Some(vec![0; 50]));
        for text in [
            String::new(),
            format!("{line}\n"),
            format!("{line}\n\nAAAA"),
            format!("{line}A"),
            format!("{line}AAAA"),
            format!("{}AAA=\nAAAA", "A".repeat(60)),
            format!("{}\nAAAA", "A".repeat(60)),
            format!("{}=\nAAA", "A".repeat(63)),
            "AAA".to_owned(),
            "AAB=".to_owned(),
            "AAAA ".to_owned(),
            "AA==AAAA".to_owned(),
            "AA-_".to_owned(),
        ] {
            assert_eq!(decode_usual(&block(&text)), None, "{text}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(4_000))]

        /// Whatever is spoilt in a good block: the fast way accepts nothing that the strict decoder doesn't, and reads nothing else out of it.
        #[test]
        fn the_fast_way_agrees_with_the_strict_one(
            der in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
            changes in proptest::collection::vec((proptest::num::usize::ANY, "[-A-Z=+/ \n\r\u{e4}]{0,2}", 0_usize..3), 0..3),
        ) {
            let mut pem = encode(LABEL, &der);
            for (at, text, gone) in changes {
                let start = (0..=at % (pem.len() + 1)).rev().find(|at| pem.is_char_boundary(*at)).unwrap();
                let end = (start + gone..=pem.len()).find(|at| pem.is_char_boundary(*at)).unwrap_or(start);
                pem.replace_range(start..end, &text);
            }
            if let Some(fast) = decode_usual(&pem) {
                proptest::prop_assert_eq!(decode(&pem), Ok(fast), "{}", pem);
            }
        }
    }
}
