//! Requests on connections that are kept, and requests with a connection each.

use std::pin::pin;
use std::sync::{Mutex, PoisonError};

use super::answer::Answer;
use super::connection::{Sender, Trouble, ask, exchange, ready};
use super::load::Load;
use super::questions::Question;

/// A connection that many requests share, made when it is needed and made anew when it has ended.
#[derive(Debug)]
pub(super) struct Kept {
    /// Which source address it has.
    source: usize,
    current: Mutex<(u64, Option<Sender>)>,
    connecting: tokio::sync::Mutex<()>,
}

impl Kept {
    pub(super) fn new(source: usize) -> Self {
        Self { source, current: Mutex::new((0, None)), connecting: tokio::sync::Mutex::new(()) }
    }

    /// Sends a request on it and reads the answer.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(super) async fn ask(&self, load: &Load, question: &Question) -> Result<Answer, Trouble> {
        let (number, sender) = self.sender(load).await?;
        let (number, mut sender) = match ready(sender).await {
            Ok(sender) => (number, sender),
            // The server ended it between two requests, as it may (GOAWAY): no request failed.
            Err(_) => {
                if self.forget(number) {
                    load.recorder.with(|tally| tally.reconnects += 1);
                }
                let (number, sender) = self.sender(load).await?;
                (number, ready(sender).await?)
            }
        };
        let answer = exchange(&mut sender, question).await;
        if answer.is_err() {
            self.forget(number);
        }
        answer
    }

    async fn sender(&self, load: &Load) -> Result<(u64, Sender), Trouble> {
        if let Some(found) = self.current() {
            return Ok(found);
        }
        let _turn = self.connecting.lock().await;
        if let Some(found) = self.current() {
            return Ok(found);
        }
        let (sender, driver) = load.connect(self.source, false).await?;
        // Its requests see how it ends.
        tokio::spawn(async move { drop(driver.await) });
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        *current = (current.0 + 1, Some(sender.clone()));
        Ok((current.0, sender))
    }

    fn current(&self) -> Option<(u64, Sender)> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.1.clone().map(|sender| (current.0, sender))
    }

    /// Forgets the connection of this number, unless a newer one is there already.
    fn forget(&self, number: u64) -> bool {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.0 == number && current.1.take().is_some()
    }
}

/// One request on a connection of its own. `answered` is called when the answer is there; then the connection is closed as agents close theirs
/// (GOAWAY, close_notify, FIN), and reset behind that, so that the port is free again at once.
pub(super) async fn ask_anew(load: &Load, source: usize, question: &Question, answered: impl FnOnce(Result<Answer, Trouble>)) {
    let (sender, driver) = match load.connect(source, true).await {
        Ok(connected) => connected,
        Err(trouble) => return answered(Err(trouble)),
    };
    let mut driver = pin!(driver);
    let asked = async {
        load.pause(load.ask_later, 0.0).await;
        ask(sender, question).await
    };
    let answer = tokio::select! {
        biased;
        answer = asked => answer,
        ended = driver.as_mut() => Err(Trouble { kind: "http2_closed", words: ended.err().map_or_else(|| "closed".to_owned(), |error| error.to_string()) }),
    };
    let over = answer.is_err();
    answered(answer);
    if !over {
        drop(driver.await);
    }
}
