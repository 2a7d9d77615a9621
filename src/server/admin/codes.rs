//! Which gRPC code each refusal of an operation is: the one table of the admin API.

use tonic::{Code, Status};

use super::super::operations::OperationError;
use crate::authority::TrustError;
use crate::ledger::LedgerError;
use crate::rotation::TrustRefusal;

/// The answer.
pub(super) fn refused(error: OperationError) -> Status {
    Status::new(code(&error), error.to_string())
}

fn code(error: &OperationError) -> Code {
    use OperationError as Error;
    match error {
        Error::Ledger(LedgerError::ForeignCursor)
        | Error::Serial
        | Error::AuthorityId
        | Error::SeveralAuthorities(_)
        | Error::NoReason
        | Error::Reason
        | Error::Verifier(_) => Code::InvalidArgument,
        Error::NoCertificate(_) | Error::NoAuthority(_) => Code::NotFound,
        Error::Watchers => Code::ResourceExhausted,
        Error::Ledger(_) | Error::ShuttingDown => Code::Unavailable,
        Error::Trust(refusal) => match refusal {
            TrustRefusal::Issuer | TrustRefusal::Root(TrustError::Full(_)) => Code::FailedPrecondition,
            TrustRefusal::Root(_) => Code::InvalidArgument,
            TrustRefusal::Audit(_) | TrustRefusal::Unfit(_) | TrustRefusal::Store(_) => Code::Unavailable,
        },
        Error::Unreadable(_) | Error::Bundle(_) | Error::BundleDocument(_) | Error::Panicked => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_its_code_and_its_words() {
        let gone = || LedgerError::Unavailable("the disk is full".to_owned());
        for (error, code) in [
            (OperationError::Ledger(gone()), Code::Unavailable),
            (OperationError::Ledger(LedgerError::ForeignCursor), Code::InvalidArgument),
            (OperationError::Serial, Code::InvalidArgument),
            (OperationError::NoCertificate("1a".to_owned()), Code::NotFound),
            (OperationError::Watchers, Code::ResourceExhausted),
            (OperationError::ShuttingDown, Code::Unavailable),
            (OperationError::NoAuthority("abcd".to_owned()), Code::NotFound),
            (OperationError::SeveralAuthorities("abcd".to_owned()), Code::InvalidArgument),
            (OperationError::NoReason, Code::InvalidArgument),
            (OperationError::Trust(TrustRefusal::Issuer), Code::FailedPrecondition),
            (OperationError::Trust(TrustRefusal::Root(TrustError::Full(20))), Code::FailedPrecondition),
            (OperationError::Trust(TrustRefusal::Root(TrustError::NotOne(2))), Code::InvalidArgument),
            (OperationError::Trust(TrustRefusal::Audit(gone())), Code::Unavailable),
            (OperationError::Panicked, Code::Internal),
        ] {
            let (words, status) = (error.to_string(), refused(error));
            assert_eq!((status.code(), status.message()), (code, words.as_str()));
        }
    }
}
