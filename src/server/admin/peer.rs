//! Where a request to the admin port comes from, and how its connection stands: a stranger's until a token on it was good for what was asked, and spent
//! once it showed too many that weren't.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedMutexGuard};

use crate::bounds::rate::Rate;
use crate::clock::Sleep;
use crate::issuance::fair_queue::Slot;

/// What may go wrong on one connection: so many together, and one more in each of these times. A person with the wrong token needs one.
const FAILURES: u32 = 3;
const FORGIVEN_AFTER: Duration = Duration::from_secs(10);

/// A connection, in the extensions of each of its requests.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    address: IpAddr,
    standing: Arc<Standing>,
}

#[derive(Debug)]
struct Standing {
    /// His place among the strangers; `None` once a token of his was good.
    stranger: Mutex<Option<Slot<IpAddr>>>,
    failures: Mutex<Rate>,
    /// A stranger's tokens are looked at one after the other.
    line: Arc<tokio::sync::Mutex<()>>,
    dismissed: Notify,
}

impl Peer {
    pub(super) fn stranger(address: SocketAddr, place: Slot<IpAddr>) -> Self {
        let standing = Standing {
            stranger: Mutex::new(Some(place)),
            failures: Mutex::new(Rate::every(FORGIVEN_AFTER, FAILURES)),
            line: Arc::default(),
            dismissed: Notify::new(),
        };
        Self { address: address.ip(), standing: Arc::new(standing) }
    }

    pub(super) fn address(&self) -> IpAddr {
        self.address
    }

    /// A token of his was good: he is no stranger any more.
    pub(super) fn becomes_known(&self) {
        self.standing.stranger.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Whether a token on this connection was ever good.
    pub(super) fn is_known(&self) -> bool {
        self.standing.stranger.lock().unwrap_or_else(PoisonError::into_inner).is_none()
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

    /// The connection of a stranger ends. Whoever holds it waits for [`Peer::has_to_go`].
    pub(super) fn dismiss(&self) {
        self.standing.dismissed.notify_one();
    }

    /// Ends when a stranger has to go: at the latest with `time`, which strangers have.
    pub(super) fn has_to_go(&self, time: Sleep) -> Sleep {
        let standing = self.standing.clone();
        Box::pin(async move {
            tokio::select! {
                () = time => {}
                () = standing.dismissed.notified() => {}
            }
        })
    }
}
