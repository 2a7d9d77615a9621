//! Names: trust domains, SPIFFE IDs, the trust bundle document, and the rules that an X509-SVID must hold to.
//!
//! Everything here is built from parsed parts and compared as values; no identity is ever matched as text.

pub mod bundle;
mod id;
mod trust_domain;
pub mod x509_svid;

pub use id::{IdError, SpiffeId};
pub use trust_domain::{TrustDomain, TrustDomainError};
