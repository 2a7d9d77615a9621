//! The one table from refusals to what a caller sees: a gRPC code and a public sentence. The metric label and the log line carry
//! the exact reason ([`Refusal::reason`]); the wire doesn't, where it would help an attacker.

use std::sync::LazyLock;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::issuance::{Refusal, RequestError};

/// How long a caller that was turned away should wait before it asks again (google.rpc.RetryInfo).
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Made once: it is what there is most of when there is time for nothing.
static OVERLOADED: LazyLock<Status> = LazyLock::new(|| {
    let details = ErrorDetails::with_retry_info(Some(RETRY_AFTER));
    Status::with_error_details(Code::ResourceExhausted, "too many requests are in progress; try again", details)
});

/// A refusal as a gRPC status.
pub(super) fn status(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::Request(RequestError::Csr(error)) => Status::invalid_argument(error.to_string()),
        Refusal::Request(RequestError::UnknownCertSigner(_)) => {
            Status::invalid_argument("CertSigner names a signer that is not known here; leave it empty")
        }
        Refusal::Request(RequestError::MetadataType(field)) => Status::invalid_argument(format!("metadata field {field} must be a string")),
        Refusal::Unauthenticated(_) | Refusal::UnusableCredential(_) | Refusal::Gone(_) => {
            Status::unauthenticated("authentication failed: no valid service-account token and no client certificate issued here")
        }
        Refusal::Denied(_) => Status::permission_denied("the caller may not ask for this identity"),
        Refusal::Overloaded => OVERLOADED.clone(),
        Refusal::Unavailable(_) => Status::unavailable("the certificate authority can't answer right now; try again"),
    }
}

/// What the guard around every request answers by itself.
pub(super) mod guarded {
    use tonic::Status;

    /// Our deadline for a request passed.
    pub(in crate::server) fn deadline_exceeded() -> Status {
        Status::deadline_exceeded("the request took longer than the server allows; try again")
    }

    /// A panic was caught: a bug of ours.
    pub(in crate::server) fn internal() -> Status {
        Status::internal("an internal error was recorded")
    }

    /// There is no whole message where one should be.
    pub(in crate::server) fn malformed() -> Status {
        Status::invalid_argument(crate::server::codec::MALFORMED_MESSAGE)
    }

    /// The stream or its connection ended within the message; hardly anybody hears this.
    pub(in crate::server) fn broken_off() -> Status {
        Status::cancelled("the request broke off")
    }

    /// There are more header fields than any client sends.
    pub(in crate::server) fn too_many_fields() -> Status {
        Status::invalid_argument("the request has too many header fields")
    }

    /// The message is larger than accepted.
    pub(in crate::server) fn too_large() -> Status {
        Status::invalid_argument("the request is larger than the server accepts")
    }
}

/// The name of a code as go-grpc-prometheus writes it into `grpc_code`, which existing dashboards expect.
pub(super) fn code_label(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}
