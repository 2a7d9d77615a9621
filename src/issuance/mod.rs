//! The work: from what a caller sends to a certificate, in ten steps ([`Issuer::issue`]). Doors decode into [`Ask`] and encode from [`Issued`].

mod admission;
mod ask;
mod authenticate;
mod issuer;
mod observer;
mod refusal;

pub use admission::{Admission, AdmissionLimits};
pub use ask::{Ask, Credential, Issued, KeyProof, PresentedCertificate, Wants};
pub use authenticate::Authenticator;
pub use issuer::{Issuer, IssuerParts, ServingNames};
pub use observer::{Observer, Step};
pub use refusal::{Refusal, RequestError, Trouble};
