//! How a request that met a closed generation gets the next one: it asks the keeper to look at once, and waits a moment for what it finds.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::authority::GenerationNumber;
use crate::clock::{Clock, within};

/// How long a request waits: the document and a key are read in this time, and what wants to be answered is not kept for long where they can't be.
const PATIENCE: Duration = Duration::from_secs(3);

/// The generations that a keeper publishes, as a request waits for them.
#[derive(Debug, Clone)]
pub struct Successor {
    /// Whether anybody else could have closed a generation: a keeper that is alone publishes the next one before it closes one.
    pub(super) shared: bool,
    pub(super) wanted: Arc<Notify>,
    pub(super) changes: watch::Receiver<GenerationNumber>,
}

impl Successor {
    /// Waits until a generation after `closed` is published, for a moment at most; says whether it is.
    pub async fn after(&self, closed: GenerationNumber, clock: &dyn Clock) -> bool {
        if !self.shared {
            return *self.changes.borrow() > closed;
        }
        let mut changes = self.changes.clone();
        self.wanted.notify_one();
        // An error means that the keeper is gone.
        within(clock, PATIENCE, changes.wait_for(|number| *number > closed)).await.is_some_and(|found| found.is_ok())
    }
}
