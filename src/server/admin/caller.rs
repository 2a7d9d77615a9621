//! Who asks the admin API. Each door says so for every request; a request of which no door said it is refused.

use std::fmt;

use tonic::{Request, Status};

use crate::pki::inspect::printable;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Caller {
    /// Somebody who could open the socket: the user of his process, where the system says it.
    Local { uid: Option<u32> },
    /// Somebody whom the cluster knows: the user's name there.
    Kubernetes { user: String },
}

impl Caller {
    /// Who sent this request.
    ///
    /// # Errors
    /// INTERNAL where no door said so: a bug.
    pub(super) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        request.extensions().get::<Self>().cloned().ok_or_else(|| Status::internal("nobody said who asks"))
    }
}

/// As the audit has it.
impl fmt::Display for Caller {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { uid: Some(uid) } => write!(formatter, "local:uid={uid}"),
            Self::Local { uid: None } => formatter.write_str("local"),
            Self::Kubernetes { user } => write!(formatter, "kubernetes:{}", printable(user)),
        }
    }
}

/// The longest reason, in bytes.
const MAX_REASON: usize = 1_000;

/// The reason that an operator gave for a change.
///
/// # Errors
/// INVALID_ARGUMENT where there is none, or one that can't be put on record.
pub(super) fn reason(text: &str) -> Result<String, Status> {
    let text = text.trim();
    if text.is_empty() {
        return Err(Status::invalid_argument("a reason must be given: it goes into the audit"));
    }
    if text.len() > MAX_REASON || text.chars().any(char::is_control) {
        return Err(Status::invalid_argument(format!("a reason is one line of at most {MAX_REASON} bytes")));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_that_says_something() {
        assert_eq!(reason(" the old CA stays trusted ").unwrap(), "the old CA stays trusted");
        for bad in ["", " \t ", "two\nlines", "\u{1b}[2J", &"x".repeat(1_001)] {
            assert_eq!(reason(bad).unwrap_err().code(), tonic::Code::InvalidArgument, "{bad:?}");
        }
    }

    #[test]
    fn a_request_that_no_door_let_in_is_refused() {
        assert_eq!(Caller::of(&Request::new(())).unwrap_err().code(), tonic::Code::Internal);
        let mut request = Request::new(());
        request.extensions_mut().insert(Caller::Local { uid: Some(7) });
        assert_eq!(Caller::of(&request).unwrap().to_string(), "local:uid=7");
        assert_eq!(Caller::Local { uid: None }.to_string(), "local");
        assert_eq!(Caller::Kubernetes { user: "alice\u{1b}[2J".to_owned() }.to_string(), "kubernetes:alice\\u{1b}[2J");
    }
}
