//! What operators change. A change goes on to its end also where whoever asked for it has left.

use std::sync::Arc;

use rustls::RootCertStore;

use super::error::{MAX_REASON, OperationError};
use super::operator::Operator;
use crate::pki::certificates_from_pem;
use crate::rotation::{Keeper, TrustOrder, Trusted};

/// A root that shall join the trust bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRoot {
    /// PEM, one certificate.
    pub pem: String,
    /// Why, in the operator's words: one line.
    pub reason: String,
}

pub(super) async fn add_trust(keeper: Arc<Keeper>, operator: &Operator, root: NewRoot) -> Result<Trusted, OperationError> {
    let order = TrustOrder { reason: reason(&root.reason)?, actor: operator.to_string(), pem: root.pem };
    clients_read(&order.pem)?;
    let changing = tokio::spawn(async move { keeper.add_trust(&order).await });
    Ok(changing.await.map_err(|_| OperationError::Panicked)??)
}

/// A root that rustls-webpki doesn't take would make ztunnel refuse the whole bundle. Whatever isn't PEM is left to the rules of the state.
fn clients_read(pem: &str) -> Result<(), OperationError> {
    certificates_from_pem(pem).unwrap_or_default().into_iter().try_for_each(|der| RootCertStore::empty().add(der)).map_err(OperationError::Verifier)
}

fn reason(text: &str) -> Result<String, OperationError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(OperationError::NoReason);
    }
    if text.len() > MAX_REASON || text.chars().any(char::is_control) {
        return Err(OperationError::Reason);
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::certificate_to_pem;

    #[test]
    fn a_reason_is_one_line_that_says_something() {
        assert_eq!(reason(" the old CA stays trusted ").unwrap(), "the old CA stays trusted");
        for bad in ["", " \t "] {
            assert!(matches!(reason(bad), Err(OperationError::NoReason)), "{bad:?}");
        }
        for bad in ["two\nlines", "\u{1b}[2J", &"x".repeat(1_001)] {
            assert!(matches!(reason(bad), Err(OperationError::Reason)), "{bad:?}");
        }
    }

    #[test]
    fn a_root_that_ztunnel_does_not_take_is_refused_before_anything_else() {
        let unreadable = certificate_to_pem(b"no certificate");
        assert!(matches!(clients_read(&unreadable), Err(OperationError::Verifier(_))));
        assert!(clients_read("no PEM").is_ok(), "the rules of the state say what is wrong with it");
    }
}
