//! Certificates as PEM text (RFC 7468 §5), as operators' files and Istio's answers hold them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Why a text holds no certificates.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// A block that can't be read.
    #[error("block {number} is not readable PEM: {reason}")]
    Block {
        /// Counted from 1.
        number: usize,
        /// The parser's words.
        reason: String,
    },
    /// No CERTIFICATE block.
    #[error("there is no CERTIFICATE block in it")]
    None,
}

const BEGIN: &str = "-----BEGIN CERTIFICATE-----\n";
const END: &str = "-----END CERTIFICATE-----\n";
/// So many bytes make a line of 64 characters.
const LINE: usize = 48;

/// One certificate as one PEM block, wrapped at 64 characters, ending in a newline.
///
/// It is written by the plain base64 encoder: certificates are public, so the constant time of pem-rfc7468 would only cost.
pub fn certificate_to_pem(der: &[u8]) -> String {
    let mut pem = String::with_capacity(BEGIN.len() + der.len().div_ceil(LINE) * 65 + END.len());
    pem.push_str(BEGIN);
    for line in der.chunks(LINE) {
        STANDARD.encode_string(line, &mut pem);
        pem.push('\n');
    }
    pem.push_str(END);
    pem
}

/// Every CERTIFICATE block of a text, in order. Other blocks and text between blocks are passed over, as openssl does.
///
/// # Errors
/// [`PemError`].
pub fn certificates_from_pem(text: &str) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let certificates = CertificateDer::pem_slice_iter(text.as_bytes())
        .enumerate()
        .map(|(index, block)| block.map_err(|error| PemError::Block { number: index + 1, reason: error.to_string() }))
        .collect::<Result<Vec<_>, _>>()?;
    if certificates.is_empty() { Err(PemError::None) } else { Ok(certificates) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_another_encoder_writes() {
        for length in (1..200).chain([1000, 5000]) {
            let der: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
            let expected = pem_rfc7468::encode_string("CERTIFICATE", pem_rfc7468::LineEnding::LF, &der).unwrap();
            let pem = certificate_to_pem(&der);
            assert_eq!(pem, expected);
            assert_eq!(pem.capacity(), BEGIN.len() + der.len().div_ceil(LINE) * 65 + END.len(), "it never grows");
            assert_eq!(certificates_from_pem(&pem).unwrap(), [CertificateDer::from(der)]);
        }
    }
}
