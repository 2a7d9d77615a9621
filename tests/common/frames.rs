//! HTTP/2 as bytes (RFC 9113 §4, RFC 7541), for clients that keep to no rule.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::indexing_slicing, reason = "every suite uses its own part")]

use super::grpc::CREATE;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RESET: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;

/// A flag of DATA and HEADERS.
pub const END_STREAM: u8 = 1;
/// A flag of SETTINGS and PING.
pub const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// As large as a window may be (§6.9.1).
const LARGEST_WINDOW: u32 = (1 << 31) - 1;

/// HTTP/2's hello, and an empty SETTINGS (RFC 9113 §3.4).
pub fn hello() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &h2_frame(SETTINGS, 0, 0, b"")].concat()
}

/// The same of somebody who gives leave to send him everything, so that only TCP holds it up.
pub fn hello_with_room() -> Vec<u8> {
    let initial_window = [&[0, 4], LARGEST_WINDOW.to_be_bytes().as_slice()].concat();
    let more = LARGEST_WINDOW - 65_535;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice();
    [preface, &h2_frame(SETTINGS, 0, 0, &initial_window), &h2_frame(WINDOW_UPDATE, 0, 0, &more.to_be_bytes())].concat()
}

/// A frame (RFC 9113 §4.1).
pub fn h2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The headers of a POST to the CSR API in HPACK's plainest form (RFC 7541 §6.2.2).
pub fn headers(stream: u32) -> Vec<u8> {
    h2_frame(HEADERS, END_HEADERS, stream, &post(CREATE))
}

/// The headers of a gRPC request, with more of them.
pub fn grpc_headers(stream: u32, path: &str, more: &[(&str, &[u8])]) -> Vec<u8> {
    h2_frame(HEADERS, END_HEADERS, stream, &grpc(path, more))
}

/// The headers of a gRPC request and `count` fields more of one octet each on the wire: the first on a connection (`is_first`) puts `a` with an
/// empty value into the table. Whoever reads counts 33 octets for each (RFC 7541 §4.1), and needs more memory than that.
pub fn tiny_fields(stream: u32, path: &str, count: usize, is_first: bool) -> Vec<u8> {
    let first: &[u8] = if is_first { &[0x40, 1, b'a', 0] } else { &[] };
    h2_frame(HEADERS, END_HEADERS, stream, &[&grpc(path, &[]), first, &vec![0xbe; count]].concat())
}

fn post(path: &str) -> Vec<u8> {
    [vec![0x83, 0x87, 4], text(path.as_bytes()), vec![1], text(b"localhost")].concat()
}

fn grpc(path: &str, more: &[(&str, &[u8])]) -> Vec<u8> {
    let mut block = post(path);
    let own: [(&str, &[u8]); 2] = [("content-type", b"application/grpc"), ("te", b"trailers")];
    for (name, value) in own.iter().chain(more) {
        block.extend([vec![0], text(name.as_bytes()), text(value)].concat());
    }
    block
}

/// A string literal without Huffman coding (RFC 7541 §5.2).
fn text(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    match text.len() {
        short @ 0..127 => bytes.push(short as u8),
        long => {
            bytes.push(127);
            let mut rest = long - 127;
            while rest >= 128 {
                bytes.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            bytes.push(rest as u8);
        }
    }
    [&bytes, text].concat()
}

/// The error code of the GOAWAY in what a server sent (RFC 9113 §6.8).
pub fn goaway(mut bytes: &[u8]) -> Option<u32> {
    while let Some((head, rest)) = bytes.split_at_checked(9) {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (payload, rest) = rest.split_at_checked(length)?;
        match head[3] {
            GOAWAY => return Some(u32::from_be_bytes(payload[4..8].try_into().unwrap())),
            _ => bytes = rest,
        }
    }
    None
}
