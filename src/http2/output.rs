//! The frames that are sent to a client, as far as they show that `h2` itself has ended a stream. Pure.
//!
//! `h2` resets the stream of a request that is malformed, and responds to one whose head is too large, without telling anybody
//! else. Both show only in its output, as the end of a stream that it has never handed over.

/// The length of a frame's header (RFC 9113, section 4.1).
const FRAME_HEADER: usize = 9;
/// The length of the payload of a reset.
const RESET: usize = 4;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
/// The error of a malformed request (RFC 9113, section 8.1.1).
const PROTOCOL_ERROR: u32 = 1;

/// The frames of a connection as far as they have been sent.
#[derive(Debug, Default)]
pub struct SentFrames {
    /// The bytes to skip before the next frame's header.
    skip: usize,
    /// The part of a frame's header, and of a reset's payload, that has been sent.
    start: [u8; FRAME_HEADER + RESET],
    length: usize,
    /// The newest stream that was handed over. Streams have rising numbers.
    accepted: u32,
    ends: Vec<StreamEnd>,
}

/// The end of a stream that was not handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEnd {
    /// The request was malformed.
    Reset(u32),
    /// The head was too large.
    TooLarge(u32),
}

impl StreamEnd {
    fn stream(self) -> u32 {
        let (Self::Reset(stream) | Self::TooLarge(stream)) = self;
        stream
    }
}

impl SentFrames {
    /// Notes that a stream has been handed over.
    pub fn accept(&mut self, stream: u32) {
        self.accepted = stream;
        self.ends.retain(|end| end.stream() != stream);
    }

    /// The ends of streams since the last time.
    pub fn take_ends(&mut self) -> Vec<StreamEnd> {
        std::mem::take(&mut self.ends)
    }

    /// Notes bytes that were sent.
    pub fn sends(&mut self, mut bytes: &[u8]) {
        loop {
            let skipped = self.skip.min(bytes.len());
            (self.skip, bytes) = (self.skip - skipped, &bytes[skipped..]);
            let wanted = if self.length >= FRAME_HEADER { FRAME_HEADER + RESET } else { FRAME_HEADER };
            let part = bytes.len().min(wanted - self.length);
            self.start[self.length..][..part].copy_from_slice(&bytes[..part]);
            (self.length, bytes) = (self.length + part, &bytes[part..]);
            if self.length < wanted {
                return;
            }
            let [high, middle, low, kind, _, stream @ .., a, b, c, d] = self.start;
            let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            if kind == RST_STREAM && length == RESET && wanted == FRAME_HEADER {
                // Its error code follows.
                continue;
            }
            self.skip = FRAME_HEADER + length - wanted;
            self.length = 0;
            self.frame(kind, u32::from_be_bytes(stream), u32::from_be_bytes([a, b, c, d]));
        }
    }

    fn frame(&mut self, kind: u8, stream: u32, error: u32) {
        let end = match kind {
            RST_STREAM if error == PROTOCOL_ERROR => StreamEnd::Reset(stream),
            HEADERS => StreamEnd::TooLarge(stream),
            _ => return,
        };
        if stream > self.accepted && self.ends.iter().all(|known| known.stream() != stream) {
            self.ends.push(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).expect("short");
        [&[0, 0, length, kind, 0], &stream.to_be_bytes()[..], payload].concat()
    }

    #[test]
    fn ends_of_streams_that_nobody_has_are_found_wherever_frames_are_split() {
        let bytes = [
            frame(4, 0, &[0; 6]),
            frame(HEADERS, 1, &[1; 20]),
            frame(0, 1, &[RST_STREAM; 30]),
            frame(RST_STREAM, 3, &[0, 0, 0, 1]),
            // A stream too many is refused, and is no malformed request.
            frame(RST_STREAM, 5, &[0, 0, 0, 7]),
            frame(HEADERS, 7, &[1; 3]),
            frame(RST_STREAM, 7, &[0, 0, 0, 1]),
            frame(6, 0, &[0; 8]),
        ]
        .concat();
        for size in 1..=bytes.len() {
            let mut frames = SentFrames::default();
            frames.accept(1);
            bytes.chunks(size).for_each(|part| frames.sends(part));
            assert_eq!(frames.take_ends(), [StreamEnd::Reset(3), StreamEnd::TooLarge(7)], "{size}");
            assert_eq!((frames.take_ends(), frames.skip, frames.length), (Vec::new(), 0, 0));
        }
    }

    #[test]
    fn a_stream_that_is_handed_over_later_has_no_end_of_its_own() {
        let mut frames = SentFrames::default();
        frames.sends(&frame(RST_STREAM, 3, &[0, 0, 0, 1]));
        frames.accept(3);
        assert_eq!(frames.take_ends(), []);
    }
}
