//! Answers, as bytes of their connection until the peer has read them. An answer that is ready is encoded at once, so that it is known what it
//! costs; what HTTP/2 keeps of it counts until it has been written.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Response;
use hyper::body::{Body as HttpBody, Buf, Bytes, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use crate::bounds::{Held, Member};

/// What a frame costs beside its bytes.
const FRAME: usize = 512;
/// Frames that are encoded before they are asked for: a unary answer has a message and trailers.
const AT_ONCE: usize = 2;

/// The body of an answer.
#[derive(Debug)]
pub(super) struct Answer {
    ready: VecDeque<Result<Frame<Kept>, Status>>,
    /// What isn't ready yet.
    rest: Option<Body>,
    member: Arc<Member>,
    /// Its stream is under way for as long as this is here.
    _under_way: Arc<()>,
}

/// Bytes that count until they are written.
#[derive(Debug)]
pub(super) struct Kept {
    bytes: Bytes,
    _held: Held,
}

impl Answer {
    /// The same response; whatever of it is ready is counted now.
    pub(super) async fn of(response: Response<Body>, member: Arc<Member>, under_way: Arc<()>) -> Response<Self> {
        let (parts, body) = response.into_parts();
        let mut answer = Self { ready: VecDeque::new(), rest: Some(body), member, _under_way: under_way };
        if answer.rest.as_ref().is_some_and(HttpBody::is_end_stream) {
            answer.rest = None;
        }
        std::future::poll_fn(|context| {
            while answer.ready.len() <= AT_ONCE {
                match answer.encode(context) {
                    Poll::Ready(Some(frame)) => answer.ready.push_back(frame),
                    // What comes later is for whoever writes it.
                    Poll::Ready(None) | Poll::Pending => break,
                }
            }
            Poll::Ready(())
        })
        .await;
        Response::from_parts(parts, answer)
    }

    fn encode(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Kept>, Status>>> {
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        let frame = match Pin::new(rest).poll_frame(context) {
            Poll::Ready(Some(frame)) => frame,
            Poll::Ready(None) => {
                self.rest = None;
                return Poll::Ready(None);
            }
            Poll::Pending => return Poll::Pending,
        };
        let member = &self.member;
        Poll::Ready(Some(frame.map(|frame| frame.map_data(|bytes| Kept { _held: member.holds(bytes.len() + FRAME), bytes }))))
    }
}

impl HttpBody for Answer {
    type Data = Kept;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Kept>, Status>>> {
        match self.ready.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => self.encode(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ready.is_empty() && self.rest.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        // Trailers follow, so nobody needs a length.
        SizeHint::default()
    }
}

impl Buf for Kept {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}
