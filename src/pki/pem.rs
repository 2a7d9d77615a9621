//! Certificates as PEM text (RFC 7468 §5), as operators' files and Istio's answers hold them.

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

/// One certificate as one PEM block, wrapped at 64 characters, ending in a newline.
pub fn certificate_to_pem(der: &[u8]) -> String {
    // The encoder fails only where the length overflows a usize.
    pem_rfc7468::encode_string("CERTIFICATE", pem_rfc7468::LineEnding::LF, der).unwrap_or_default()
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
