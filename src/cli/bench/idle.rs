//! Connections that are held and do nothing: what each costs a server.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use tokio::task::JoinSet;

use super::connection::{Sender, ask};
use super::load::Load;

/// Handshakes at once: a herd is something else.
const AT_ONCE: usize = 16;

/// The connections that were opened, each of which got a certificate.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<Vec<Sender>>);

impl Held {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// How many of them the server hasn't ended.
    pub(super) fn count_open(&self) -> usize {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|sender| !matches!((*sender).clone().ready().now_or_never(), Some(Err(_)))).count()
    }
}

/// Opens so many connections, asks for one certificate on each, and holds those that got one.
pub(super) fn open(load: &Arc<Load>, connections: usize, tasks: &mut JoinSet<()>) -> Arc<Held> {
    let (held, next) = (Arc::new(Held::default()), Arc::new(AtomicUsize::new(0)));
    for _ in 0..AT_ONCE.min(connections) {
        let (load, held, next) = (load.clone(), held.clone(), next.clone());
        tasks.spawn(async move {
            loop {
                let client = next.fetch_add(1, Ordering::Relaxed);
                if client >= connections || load.is_stopped() {
                    return;
                }
                one(&load, &held, client).await;
            }
        });
    }
    held
}

async fn one(load: &Load, held: &Held, client: usize) {
    let Some(question) = load.questions.of(client) else { return };
    let began = load.clock.monotonic();
    let (sender, answer) = match load.connect(client, true).await {
        Ok((sender, driver)) => {
            tokio::spawn(async move { drop(driver.await) });
            (Some(sender.clone()), ask(sender, question).await)
        }
        Err(trouble) => (None, Err(trouble)),
    };
    if load.finish(question, answer, began) {
        held.0.lock().unwrap_or_else(PoisonError::into_inner).extend(sender);
    }
}
