//! Who asks. Each door says so for every operation.

use std::fmt;

use time::OffsetDateTime;

use crate::cluster::ClusterUser;
use crate::pki::inspect::printable;

/// An operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// Who he is.
    pub who: Who,
    /// How he showed it.
    pub credential: Credential,
    /// When he himself signed in, where the credential tells: a token that a program holds doesn't.
    pub signed_in: Option<OffsetDateTime>,
}

/// Who somebody is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Somebody who could open the socket.
    Local {
        /// The user of his process, where the system says it.
        uid: Option<u32>,
    },
    /// Somebody whom the cluster knows.
    Kubernetes(ClusterUser),
}

/// What showed who somebody is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    /// He could open the admin socket.
    Socket,
    /// A token with the request.
    Token,
}

impl Operator {
    /// Whoever opened the admin socket.
    pub fn local(uid: Option<u32>) -> Self {
        Self { who: Who::Local { uid }, credential: Credential::Socket, signed_in: None }
    }

    /// Whom the cluster knows by a token.
    pub fn kubernetes(user: ClusterUser) -> Self {
        Self { who: Who::Kubernetes(user), credential: Credential::Token, signed_in: None }
    }
}

/// As the audit has it.
impl fmt::Display for Operator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.who {
            Who::Local { uid: Some(uid) } => write!(formatter, "local:uid={uid}"),
            Who::Local { uid: None } => formatter.write_str("local"),
            Who::Kubernetes(user) => write!(formatter, "kubernetes:{}", printable(&user.name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audit_says_who_and_by_which_door() {
        assert_eq!(Operator::local(Some(7)).to_string(), "local:uid=7");
        assert_eq!(Operator::local(None).to_string(), "local");
        assert_eq!(Operator::kubernetes(ClusterUser::named("alice\u{1b}[2J")).to_string(), "kubernetes:alice\\u{1b}[2J");
    }
}
