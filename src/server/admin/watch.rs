//! Following what is recorded, for `certs watch`. Issuing knows nothing of it: the ledger is asked now and then, and only while somebody
//! watches. Whoever reads slowly gets the next page later; no more than one waits for him.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tonic::Status;

use super::super::proto::admin::WatchCertificatesResponse;
use super::messages::certificate_message;
use super::unavailable;
use crate::clock::Clock;
use crate::ledger::{CertificateFilter, Cursor, Ledger};

/// Certificates in one message.
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

/// What a watcher gets.
pub(super) type Pages = mpsc::Receiver<Result<WatchCertificatesResponse, Status>>;

impl Watch {
    /// Begins with what is recorded after this returns.
    ///
    /// # Errors
    /// UNAVAILABLE where the ledger can't be asked.
    pub(super) async fn begin(self) -> Result<Pages, Status> {
        let end = self.ledger.follow(&self.filter, None, PAGE, self.clock.now()).await.map_err(unavailable)?.next;
        let (send, pages) = mpsc::channel(1);
        tokio::spawn(self.run(end, send));
        Ok(pages)
    }

    async fn run(mut self, mut cursor: Option<Cursor>, send: mpsc::Sender<Result<WatchCertificatesResponse, Status>>) {
        let mut stopped = self.stopped.clone();
        let last = tokio::select! {
            // A watcher that left, or one that is as far as the server is down.
            () = send.closed() => None,
            _ = stopped.wait_for(|stop| *stop) => Some(Status::unavailable("the server is shutting down")),
            status = self.follow(&mut cursor, &send) => Some(status),
        };
        if let Some(status) = last {
            // He may be gone, or so slow that his last page is still there: he sees the end of the connection then.
            let _ = send.try_send(Err(status));
        }
        drop(self.place);
    }

    /// Sends pages for as long as the ledger gives them.
    async fn follow(&mut self, cursor: &mut Option<Cursor>, send: &mpsc::Sender<Result<WatchCertificatesResponse, Status>>) -> Status {
        loop {
            let now = self.clock.now();
            let page = match self.ledger.follow(&self.filter, *cursor, PAGE, now).await {
                Ok(page) => page,
                Err(error) => return unavailable(error),
            };
            *cursor = page.next;
            let full = u32::try_from(page.certificates.len()).is_ok_and(|found| found == PAGE);
            let certificates: Vec<_> = page.certificates.iter().map(|stored| certificate_message(stored, now, false)).collect();
            drop(page);
            if !certificates.is_empty() && send.send(Ok(WatchCertificatesResponse { certificates })).await.is_err() {
                return Status::cancelled("the watcher left");
            }
            if !full {
                self.clock.sleep_until(self.clock.monotonic() + PAUSE).await;
            }
        }
    }
}
