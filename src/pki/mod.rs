//! Certificates: what is taken from a request, what is put into a certificate, and what a person wants to see of one.

mod csr;
mod der;
pub mod inspect;
mod keys;
mod lint;
mod pem;
mod prepare;
mod profile;
mod public_key;
mod signed_by;
mod signer;
mod subject;
mod tbs;
mod weak_rsa;

pub use csr::{CsrError, MAX_CSR_BYTES, check_csr};
pub use keys::{IssuerKey, KeyAlgorithm, KeyError};
pub use lint::LintError;
pub use pem::{PemError, PemFault, certificate_to_pem, certificates_from_pem};
pub use prepare::{PrepareError, Prepared, prepare};
pub use profile::{Profile, TooLittleLeft, Validity};
pub use public_key::{CheckedKey, PublicKeyAlgorithm, PublicKeyError};
pub(crate) use signed_by::{SignedBy, is_root, signed_by};
pub use signer::{Signer, SignerError};
pub use subject::{IssuedBy, Serial, Subject};
