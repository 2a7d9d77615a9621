//! Following what is recorded. Issuing knows nothing of it: the ledger is asked now and then, and only while somebody watches. Whoever reads slowly gets
//! the next page later; no more than one waits for him.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

use super::Found;
use super::error::OperationError;
use crate::clock::Clock;
use crate::ledger::{CertificateFilter, Cursor, Ledger, StoredCertificate};

/// Certificates in one page.
const PAGE: u32 = 200;
/// The pause before the ledger is asked again once it had no full page.
const PAUSE: Duration = Duration::from_millis(250);

/// One watcher.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) filter: CertificateFilter,
    pub(super) clock: Arc<dyn Clock>,
    /// Turns true when the server goes down.
    pub(super) stopped: watch::Receiver<bool>,
    /// One of the places for watchers.
    pub(super) place: OwnedSemaphorePermit,
}

/// What a watcher gets; after an error nothing more.
pub type WatchedPages = mpsc::Receiver<Result<Found<Vec<StoredCertificate>>, OperationError>>;
type Pages = mpsc::Sender<Result<Found<Vec<StoredCertificate>>, OperationError>>;

impl Watch {
    /// Begins with what is recorded after this returns.
    ///
    /// # Errors
    /// [`OperationError::Ledger`].
    pub(super) async fn begin(self) -> Result<WatchedPages, OperationError> {
        let end = self.ledger.follow(&self.filter, None, PAGE, self.clock.now()).await?.next;
        let (send, pages) = mpsc::channel(1);
        tokio::spawn(self.run(end, send));
        Ok(pages)
    }

    async fn run(mut self, mut cursor: Option<Cursor>, send: Pages) {
        let mut stopped = self.stopped.clone();
        let last = tokio::select! {
            // A watcher that left, or one that is as far as the server is down.
            () = send.closed() => None,
            _ = stopped.wait_for(|stop| *stop) => Some(OperationError::ShuttingDown),
            error = self.follow(&mut cursor, &send) => error,
        };
        if let Some(error) = last {
            // He may be gone, or so slow that his last page is still there: he sees the end of the connection then.
            let _ = send.try_send(Err(error));
        }
        drop(self.place);
    }

    /// Sends pages for as long as the ledger gives them, and the watcher takes them.
    async fn follow(&mut self, cursor: &mut Option<Cursor>, send: &Pages) -> Option<OperationError> {
        loop {
            let at = self.clock.now();
            let page = match self.ledger.follow(&self.filter, *cursor, PAGE, at).await {
                Ok(page) => page,
                Err(error) => return Some(error.into()),
            };
            *cursor = page.next;
            let full = u32::try_from(page.certificates.len()).is_ok_and(|found| found == PAGE);
            if !page.certificates.is_empty() && send.send(Ok(Found { found: page.certificates, at })).await.is_err() {
                return None;
            }
            if !full {
                self.clock.sleep_until(self.clock.monotonic() + PAUSE).await;
            }
        }
    }
}
