//! How questions are answered, whatever door they come through: who asks is found out before a byte of the question is read, few questions are
//! worked on at once, fairly by operator, and an answer has its time.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use super::super::door::{Connection, Http2, TooManyFields, Unread, read_whole};
use super::super::operations::Operator;
use super::super::proto::admin::admin_server::AdminServer;
use super::super::refusals::guarded;
use super::AdminApi;
use crate::bounds::{FairQueue, Held, Limits};
use crate::clock::{Clock, within};

/// Questions that are worked on at once, over all connections of a door.
const QUESTIONS: Limits = Limits { slots: 8, waiting: 256, patience: Duration::from_secs(10) };
/// The same of lists: a page takes some MiB and some time of a processor while it is made, and nobody's short question waits for it.
const LISTS: Limits = Limits { slots: 2, waiting: 256, patience: Duration::from_secs(10) };
/// How long an answer may take: a list over a large ledger. Watches go on for longer once they have begun.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// Length of a question: a filter has no more.
const MAX_QUESTION_BYTES: usize = 64 * 1024;
/// Bytes of questions and of answers that were not read yet: some of the largest pages.
pub(super) const CROWD_BYTES: usize = 32 * 1024 * 1024;
/// For so long at most they are kept.
pub(super) const LONGEST_HOLD: Duration = Duration::from_secs(60);
/// How long the last answers may take at shutdown.
pub(super) const LAST_ANSWERS: Duration = Duration::from_secs(10);
/// Each connection: some questions at once, watches among them.
pub(super) const HTTP2: Http2 = Http2 {
    streams: 32,
    stranger_time: Duration::from_secs(20),
    age: Duration::from_secs(30 * 60),
    drain_time: LAST_ANSWERS,
    keepalive: Duration::from_secs(30),
};

/// Answers questions. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Answering {
    api: AdminServer<AdminApi>,
    turns: Arc<FairQueue>,
    lists: Arc<FairQueue>,
    clock: Arc<dyn Clock>,
}

impl Answering {
    pub(super) fn new(api: Arc<AdminApi>, clock: Arc<dyn Clock>) -> Self {
        let api = AdminServer::from_arc(api).max_decoding_message_size(MAX_QUESTION_BYTES);
        Self { api, turns: FairQueue::new(QUESTIONS, clock.clone()), lists: FairQueue::new(LISTS, clock.clone()), clock }
    }

    /// Answers one question. `who` says who asks, by the question's path and headers.
    pub(super) async fn answer(
        mut self,
        request: Request<Incoming>,
        held: Result<Held, TooManyFields>,
        connection: Connection,
        who: impl AsyncFnOnce(&str, &HeaderMap) -> Result<Operator, Status>,
    ) -> Response<Body> {
        let clock = self.clock.clone();
        let answered = within(clock.as_ref(), ANSWER_TIME, async {
            let mut held = held.map_err(|TooManyFields| guarded::too_many_fields())?;
            let operator = who(request.uri().path(), request.headers()).await?;
            let (mut head, body) = request.into_parts();
            let body = read_whole(body, &mut held, MAX_QUESTION_BYTES).await.map_err(|unread| match unread {
                Unread::TooLarge => guarded::too_large(),
                Unread::Broken => guarded::broken_off(),
            })?;
            head.extensions.insert(operator);
            let request = Request::from_parts(head, body);
            let turns = if is_list(request.uri().path()) { &self.lists } else { &self.turns };
            let Ok(_turn) = turns.enter(connection.share()).await else {
                return Err(Status::resource_exhausted("too many questions are being answered; try again"));
            };
            // Not before: whoever has many questions in his line is waited for no less.
            let _working = connection.works();
            self.api.call(request).await.map_err(|never| match never {})
        })
        .await;
        match answered {
            Some(Ok(response)) => response,
            Some(Err(status)) => status.into_http(),
            None => guarded::deadline_exceeded().into_http(),
        }
    }
}

/// Whether a question's answer may be long: `ListCertificates`, `ListAudit`, and their like.
fn is_list(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|rpc| rpc.starts_with("List"))
}
