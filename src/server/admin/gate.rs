//! Who may ask what over the network: a [`Directory`] says who it is and what he may, before a byte of the message is read. The cheapest refusals come
//! first, and whatever can't be decided is refused.
//!
//! To look at a token costs the cluster a review, and there are few reviews a second. So whoever isn't known yet waits for his turn, fair by address and
//! then by connection, and never uses more than half of them; what turns out bad costs its own connection, which ends after a few. Nobody's bad token
//! costs anybody else more than a short wait: there is no list of addresses that are shut out, because an operator may come from any (a NAT, a node, a
//! forwarded port). A connection on which a token was good doesn't wait, and a token that was good a moment ago needs no look at all.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio::sync::oneshot;
use tonic::Status;

use super::super::bearer::bearer;
use super::super::log_budget::LogBudget;
use super::super::metrics::Metrics;
use super::super::operations::{Directory, Operation, Operator};
use super::peer::Peer;
use crate::bounds::{FairQueue, Limits};
use crate::clock::Clock;
use crate::cluster::NobodyKnows;

/// The path of every rpc begins with this.
const SERVICE: &str = "/meshmint.admin.v1.Admin/";
/// The longest token.
const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// Looks at strangers' tokens at once. Each that doesn't end well holds its place for [`LOOK_TIME`] at least, so that strangers cause 5 such looks a
/// second, and addresses take turns; whoever waits, waits for this long at most.
const STRANGERS: Limits = Limits { slots: 2, waiting: 128, patience: Duration::from_secs(10) };
const LOOK_TIME: Duration = Duration::from_millis(400);
/// Refusals on the log in a second.
const LOG_LINES: u32 = 10;

/// The gate.
#[derive(Debug)]
pub(super) struct Gate {
    directory: Arc<dyn Directory>,
    strangers: Arc<FairQueue>,
    log: LogBudget,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
}

impl Gate {
    pub(super) fn new(directory: Arc<dyn Directory>, metrics: Arc<Metrics>, clock: Arc<dyn Clock>) -> Arc<Self> {
        let strangers = FairQueue::new(STRANGERS, clock.clone());
        Arc::new(Self { directory, strangers, log: LogBudget::of(LOG_LINES), metrics, clock })
    }

    /// Who asks, where he may.
    ///
    /// # Errors
    /// UNAUTHENTICATED without a good token, PERMISSION_DENIED where he may not, RESOURCE_EXHAUSTED where too much was refused on this connection or
    /// too many strangers wait, UNAVAILABLE where nobody can tell.
    pub(super) async fn admit(self: &Arc<Self>, path: &str, headers: &HeaderMap, peer: &Peer) -> Result<Operator, Status> {
        let asked = operation(path).and_then(|operation| Ok((operation, token(headers)?)));
        let (operation, token) = match asked {
            Ok(asked) => asked,
            Err(status) => {
                self.stranger_may_go_on(peer)?;
                return Err(self.failed(peer, status));
            }
        };
        if let Some(operator) = self.remembers(token, operation, peer) {
            return Ok(operator);
        }
        if peer.is_known() && !peer.is_spent(self.clock.monotonic()) {
            return self.look(operation, token, peer).await;
        }
        let turn = peer.in_line().await;
        // Whatever was before him in line on this connection may have told it.
        if let Some(operator) = self.remembers(token, operation, peer) {
            return Ok(operator);
        }
        self.stranger_may_go_on(peer)?;
        let place = self.strangers.enter(peer.share()).await;
        let place = place.map_err(|_| Status::resource_exhausted("too many tokens wait to be looked at; try again in a few seconds"))?;
        let until = self.clock.monotonic() + LOOK_TIME;
        let (answer, answered) = oneshot::channel();
        // A task of its own: whoever goes away meanwhile gives nothing back early.
        tokio::spawn({
            let (gate, token, peer) = (self.clone(), token.to_owned(), peer.clone());
            async move {
                let found = gate.look(operation, &token, &peer).await;
                let good = found.is_ok();
                // An error means that he went away.
                let _ = answer.send(found);
                if !good {
                    gate.clock.sleep_until(until).await;
                }
                drop((turn, place));
            }
        });
        answered.await.unwrap_or_else(|_| Err(Status::internal("looking at the token ended in a panic")))
    }

    /// Who shows this token, if it was found out a moment ago that he may.
    fn remembers(&self, token: &str, operation: Operation, peer: &Peer) -> Option<Operator> {
        let operator = self.directory.remembers(token, operation)?;
        peer.becomes_known(&operator);
        Some(operator)
    }

    /// Ends the connection of a stranger on which too much was refused.
    fn stranger_may_go_on(&self, peer: &Peer) -> Result<(), Status> {
        if peer.is_known() || !peer.is_spent(self.clock.monotonic()) {
            return Ok(());
        }
        peer.dismiss();
        Err(Status::resource_exhausted("too much was refused on this connection; open another one"))
    }

    async fn look(&self, operation: Operation, token: &str, peer: &Peer) -> Result<Operator, Status> {
        let unavailable = |NobodyKnows| Status::unavailable("the cluster's API server can't be asked who this is and what he may do; try again");
        let Some(operator) = self.directory.who(token).await.map_err(unavailable)? else {
            if self.may_log() {
                tracing::info!(peer = %peer.address(), operation = operation.name(), "a token for the admin API stands for nobody");
            }
            // A known one pays as well: else one good token would be good for any number of bad ones.
            peer.fails(self.clock.monotonic());
            return Err(Status::unauthenticated("the cluster doesn't know this token, or it is for another audience"));
        };
        if !self.directory.may(&operator, operation).await.map_err(unavailable)? {
            if self.may_log() {
                tracing::info!(peer = %peer.address(), %operator, operation = operation.name(), "an operator may not do this");
            }
            return Err(self.failed(peer, denied(operation)));
        }
        // Not before: any pod can have a token for our audience.
        peer.becomes_known(&operator);
        Ok(operator)
    }

    /// What is refused, costs a stranger.
    fn failed(&self, peer: &Peer, status: Status) -> Status {
        if !peer.is_known() {
            peer.fails(self.clock.monotonic());
        }
        status
    }

    fn may_log(&self) -> bool {
        let may = self.log.take(self.clock.monotonic());
        if !may {
            self.metrics.log_line_left_out();
        }
        may
    }
}

/// What a request's path asks.
fn operation(path: &str) -> Result<Operation, Status> {
    path.strip_prefix(SERVICE).and_then(Operation::named).ok_or_else(|| Status::unimplemented("there is no such question"))
}

fn denied(operation: Operation) -> Status {
    let (permission, group) = (operation.permission(), crate::cluster::GROUP);
    let (verb, resource) = (permission.verb, permission.resource);
    Status::permission_denied(format!("it needs a ClusterRole with verb {verb} on resource {resource} of API group {group}"))
}

/// A token that could be one of a service account: three parts of base64url (RFC 7515 §7.1).
fn token(headers: &HeaderMap) -> Result<&str, Status> {
    let part = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    let right = |token: &&str| token.len() <= MAX_TOKEN_BYTES && token.split('.').count() == 3 && token.split('.').all(part);
    let token = bearer(headers).ok().flatten().filter(right);
    token.ok_or_else(|| Status::unauthenticated("a Kubernetes token must be sent (authorization: Bearer …)"))
}

#[cfg(test)]
mod tests;
