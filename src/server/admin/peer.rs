//! Where a request to the admin port comes from, and how its connection stands: a stranger's until a token on it was good for what was asked, and spent
//! once it showed too many that weren't.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use super::super::door::Connection;
use super::super::operations::Operator;
use crate::bounds::rate::Rate;
use crate::bounds::{Share, Shares};

/// What may go wrong on one connection: so many together, and one more in each of these times. A person with the wrong token needs one.
const FAILURES: u32 = 3;
const FORGIVEN_AFTER: Duration = Duration::from_secs(10);

/// A connection, while its questions are answered.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    address: IpAddr,
    connection: Connection,
    shares: Shares,
    standing: Arc<Standing>,
}

#[derive(Debug)]
struct Standing {
    failures: Mutex<Rate>,
    /// A stranger's tokens are looked at one after the other.
    line: Arc<tokio::sync::Mutex<()>>,
}

impl Peer {
    pub(super) fn stranger(address: IpAddr, connection: Connection, shares: Shares) -> Self {
        let standing = Standing { failures: Mutex::new(Rate::every(FORGIVEN_AFTER, FAILURES)), line: Arc::default() };
        Self { address, connection, shares, standing: Arc::new(standing) }
    }

    pub(super) fn address(&self) -> IpAddr {
        self.address
    }

    /// On whose account it goes.
    pub(super) fn share(&self) -> Share {
        self.connection.share()
    }

    /// A token of this operator was good: whoever shows it is no stranger any more. An account may be used by many, in many places, so within it addresses share.
    pub(super) fn becomes_known(&self, operator: &Operator) {
        if !self.is_known() {
            self.connection.becomes_known(self.shares.of_names(&operator.to_string(), &self.address.to_string(), None));
        }
    }

    /// Whether a token on this connection was ever good.
    pub(super) fn is_known(&self) -> bool {
        self.connection.is_known()
    }

    /// Something of his was refused, at this monotonic time.
    pub(super) fn fails(&self, now: Duration) {
        // Where there is no turn left, he is spent already.
        let _ = self.standing.failures.lock().unwrap_or_else(PoisonError::into_inner).take(now);
    }

    /// Whether as much failed on this connection as may for now.
    pub(super) fn is_spent(&self, now: Duration) -> bool {
        !self.standing.failures.lock().unwrap_or_else(PoisonError::into_inner).has_turn(now)
    }

    /// Waits until no other token of this connection is being looked at; the next one waits until the guard is dropped.
    pub(super) async fn in_line(&self) -> OwnedMutexGuard<()> {
        self.standing.line.clone().lock_owned().await
    }

    /// The connection of a stranger ends.
    pub(super) fn dismiss(&self) {
        self.connection.dismiss();
    }

    /// Whether it was told to.
    #[cfg(test)]
    pub(super) fn is_dismissed(&self) -> bool {
        self.connection.has_to_go()
    }
}
