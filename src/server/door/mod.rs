//! What every door is made of, from the outside in: the accept loop, the TLS handshake, one HTTP/2 connection under its bounds, and the
//! bytes of requests and answers. A door itself (`csr_door.rs`, `admin/`, `http.rs`) says who may come in and who answers.

mod accept;
mod answer;
mod frames;
mod gather;
mod handshake;
mod http2;
mod paced;
mod turns;
mod whole;
mod wire;

pub(super) use accept::{Door, Visitor, accept, listen};
pub(super) use handshake::{Handshake, Handshakes};
pub(super) use http2::{Connection, Http2, TooManyFields, serve};
pub(super) use turns::in_turn;
pub(super) use whole::{Unread, read_whole};
