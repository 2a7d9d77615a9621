//! The thread that moves the log into the ledger. Whoever waits for a commit would otherwise wait for this, too: a MiB of pages to
//! write, and two flushes.
//!
//! The log starts anew only when all of it has been moved and nobody has appended since, so what comes in meanwhile is moved at once, in
//! smaller and smaller parts. Where that never catches up, the engine's own checkpoint, in the commit that makes the log too long, does.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use super::readers::Readers;
use crate::tasks::Living;

/// About how many pages the writer appends to the log between two checkpoints: a MiB.
const PAGES: usize = 256;

/// How often one checkpoint goes on with what came in meanwhile.
const PASSES: usize = 4;

/// What the writer tells of the log.
#[derive(Debug)]
pub(super) struct Checkpoints {
    wake: SyncSender<()>,
    /// Pages since the last time.
    pages: usize,
}

impl Checkpoints {
    /// Starts the thread, which is over when the returned value is dropped.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub(super) fn start(readers: Arc<Readers>, living: Living) -> std::io::Result<(Self, JoinHandle<()>)> {
        // One wake-up is remembered while the thread is busy.
        let (wake, woken) = sync_channel(1);
        let work = move || {
            run(&readers, &woken);
            living.is_over();
        };
        let thread = std::thread::Builder::new().name("checkpoint".to_owned()).spawn(work)?;
        Ok((Self { wake, pages: 0 }, thread))
    }

    /// About so many pages were appended.
    pub(super) fn appended(&mut self, pages: usize) {
        self.pages += pages;
        if self.pages >= PAGES {
            self.pages = 0;
            // Without the thread the engine's own checkpoints go on.
            if let Err(TrySendError::Disconnected(())) = self.wake.try_send(()) {
                tracing::error!("the ledger's checkpoints have ended");
            }
        }
    }
}

fn run(readers: &Readers, woken: &Receiver<()>) {
    while woken.recv().is_ok() {
        for _ in 0..PASSES {
            match readers.checkpoint() {
                Ok(done) if done.moved < done.logged => {}
                Ok(_) => break,
                Err(reason) => {
                    // The writer notices by itself what is wrong with the files or the disk, and says so.
                    tracing::debug!(%reason, "the ledger's log was not moved into it");
                    break;
                }
            }
        }
    }
}
