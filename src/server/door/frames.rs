//! The frames of HTTP/2 (RFC 9113 §4.1) that a peer sends, counted as they pass. Requests are bounded elsewhere; what is counted here is what a
//! peer can send without end at no cost of his own: PING, SETTINGS, PRIORITY, WINDOW_UPDATE, resets, empty DATA, frames of no known kind.

/// Frames beyond requests that a connection may send at once, and in a second; each request allows for some more, which are its
/// window updates, pings and acknowledgements.
const BURST: u64 = 500;
const PER_SECOND: u64 = 50;
const FOR_A_REQUEST: u64 = 10;
/// Bytes of such a frame that count as one more.
const BYTES: u64 = 1024;
/// DATA below this many bytes counts, unless it ends its stream: a message is sent in one or two pieces.
const TINY: u64 = 64;

const HEAD: usize = 9;
/// `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n` (RFC 9113 §3.4).
const PREFACE: u64 = 24;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;

/// Follows one connection.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes of the current payload that haven't come yet.
    payload: u64,
    head: [u8; HEAD],
    /// How much of `head` has come.
    have: usize,
    /// How many more are allowed for; below zero, how many too many there were.
    allowed: i64,
    /// When that was right, in milliseconds.
    at: u64,
}

impl Frames {
    /// A connection that begins now, in milliseconds on any clock.
    pub(super) fn new(now: u64) -> Self {
        Self { payload: PREFACE, head: [0; HEAD], have: 0, allowed: BURST.cast_signed(), at: now }
    }

    /// Goes over the next bytes.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        loop {
            let skipped = usize::try_from(self.payload).unwrap_or(usize::MAX).min(bytes.len());
            self.payload -= skipped as u64;
            let Some(rest) = bytes.get(skipped..).filter(|rest| !rest.is_empty()) else { return };
            let (Some(room), missing) = (self.head.get_mut(self.have..), HEAD - self.have) else { return };
            let taken = missing.min(rest.len());
            for (to, from) in room.iter_mut().zip(rest) {
                *to = *from;
            }
            self.have += taken;
            bytes = rest.get(taken..).unwrap_or_default();
            if self.have == HEAD {
                self.frame();
            }
        }
    }

    fn frame(&mut self) {
        let [high, middle, low, kind, flags, ..] = self.head;
        let length = u64::from(u32::from_be_bytes([0, high, middle, low]));
        (self.have, self.payload) = (0, length);
        match kind {
            HEADERS => self.allowed = (self.allowed + FOR_A_REQUEST.cast_signed()).min(BURST.cast_signed()),
            CONTINUATION => {}
            DATA if length >= TINY || flags & END_STREAM != 0 => {}
            _ => self.allowed -= 1 + (length / BYTES).cast_signed(),
        }
    }

    /// Whether there were more than was allowed for when that was last right.
    pub(super) fn is_over(&self) -> bool {
        self.allowed < 0
    }

    /// How long the peer has to wait until it is read again, in milliseconds: nothing, as long as it keeps to its allowance.
    pub(super) fn wait(&mut self, now: u64) -> u64 {
        let earned = now.saturating_sub(self.at).saturating_mul(PER_SECOND) / 1000;
        if earned > 0 {
            self.allowed = self.allowed.saturating_add(i64::try_from(earned).unwrap_or(i64::MAX)).min(BURST.cast_signed());
            self.at = now;
        }
        if self.allowed >= 0 { 0 } else { self.allowed.unsigned_abs() * 1000 / PER_SECOND }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let size = u32::try_from(length).unwrap().to_be_bytes();
        [&size[1..], &[kind, flags, 0, 0, 0, 1], &vec![0; length]].concat()
    }

    fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
        [vec![b'P'; 24], frames.concat()].concat()
    }

    /// How long a peer that sent this at once has to wait, read in pieces of this size.
    fn wait(bytes: &[u8], piece: usize) -> u64 {
        let mut frames = Frames::new(0);
        bytes.chunks(piece).for_each(|piece| frames.pass(piece));
        frames.wait(0)
    }

    #[test]
    fn requests_are_never_held_up() {
        let request = [frame(1, 4, 1200), frame(0, 1, 1400), frame(8, 0, 4), frame(6, 0, 8), frame(4, 1, 0)].concat();
        let many = connection(&vec![request; 5_000]);
        for piece in [1, 7, 4096, many.len()] {
            assert_eq!(wait(&many, piece), 0);
        }
    }

    #[test]
    fn whatever_costs_a_peer_nothing_is_paced() {
        for (kind, flags, length) in [(6, 0, 8), (4, 0, 6), (2, 0, 5), (8, 0, 4), (3, 0, 4), (0, 0, 0), (0, 0, 1), (0xbb, 0, 0)] {
            let flood = connection(&vec![frame(kind, flags, length); 1_500]);
            let expected = (1_500 - BURST) * 1000 / PER_SECOND;
            for piece in [1, 11, flood.len()] {
                assert_eq!(wait(&flood, piece), expected, "frame {kind} in pieces of {piece}");
            }
        }
        assert!(wait(&connection(&vec![frame(0xbb, 0, 16_384); 100]), 4096) > 10_000, "large ones count for more");
    }

    #[test]
    fn what_was_too_much_is_earned_with_time() {
        let mut frames = Frames::new(1_000);
        frames.pass(&connection(&vec![frame(6, 0, 8); 600]));
        let wait = frames.wait(1_000);
        assert_eq!(wait, 100 * 1000 / PER_SECOND);
        assert!(frames.wait(1_000 + wait / 2) > 0);
        assert_eq!(frames.wait(1_000 + wait), 0);
        frames.wait(1_000_000);
        assert_eq!(frames.allowed, BURST.cast_signed(), "never more than that");
    }
}
