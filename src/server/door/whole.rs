//! Requests are read whole before anything is made of them. Until then they are bytes of their connection, which count; a message that announces
//! more than it sends costs what it sent.

use std::sync::Arc;

use http::HeaderMap;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use tonic::body::Body;

use crate::bounds::{Held, Member};

/// gRPC's prefix of a message: a flag and a length.
const PREFIX: usize = 5;
/// What a stream costs beside the bytes of its headers and of its message: HTTP/2's own, and the task that answers it.
const STREAM: usize = 8 * 1024;
/// What a header costs beside its name and value.
const FIELD: usize = 64;

/// Why a request was not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Unread {
    /// It is longer than may be.
    TooLarge,
    /// Its stream or connection broke.
    Broken,
}

/// Counts the headers of a request that has just come.
pub(super) fn hold_headers(headers: &HeaderMap, member: &Arc<Member>) -> Held {
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD).sum();
    member.holds(bytes + STREAM)
}

/// How many bytes the message has, by its prefix (gRPC over HTTP/2, Length-Prefixed-Message), where that is here.
fn announced(data: &[u8]) -> usize {
    let length = data.get(1..PREFIX).and_then(|length| <[u8; 4]>::try_from(length).ok());
    length.and_then(|length| usize::try_from(u32::from_be_bytes(length)).ok()).unwrap_or(0)
}

/// A request's whole body: one message of at most `most` bytes.
///
/// # Errors
/// [`Unread`].
pub(in crate::server) async fn read_whole(mut body: Incoming, held: &mut Held, most: usize) -> Result<Body, Unread> {
    // Copied out of the connection's own buffers, which are much larger and stay as long as the smallest piece of them.
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Unread::Broken)?;
        if let Some(data) = frame.data_ref() {
            if whole.len() + data.len() > most + PREFIX {
                return Err(Unread::TooLarge);
            }
            held.grow(data.len());
            if whole.is_empty() {
                // Grown with each piece it would leave a hole of each length behind, which nothing else fits in; what isn't filled takes no memory.
                whole.reserve_exact(announced(data).min(most) + PREFIX);
            }
            whole.reserve_exact(data.len());
            whole.extend_from_slice(data);
        }
    }
    Ok(Body::new(Full::new(Bytes::from(whole))))
}
