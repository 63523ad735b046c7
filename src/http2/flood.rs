//! The frames of a client, and whether they cost more than they bring. Pure.
//!
//! `h2` bounds the memory that frames take. Here is bounded how many of those come that cost CPU time and carry no request:
//! a client starts with a credit of them and earns more with requests, with the bytes that it is sent, and with time.

use std::time::{Duration, Instant};

/// The length of the preface that precedes the first frame (RFC 9113, section 3.4).
const PREFACE: usize = 24;
/// The length of a frame's header (RFC 9113, section 4.1).
const FRAME_HEADER: usize = 9;
/// The control frames that a client may send at first.
const START: u64 = 500;
/// The most credit that can be saved up. A client that is sent a fast download returns its windows in small steps.
const MAX_CREDIT: u64 = 5000;
/// The credit for each second.
const PER_SECOND: u64 = 100;
/// The credit for each request.
const PER_REQUEST: u64 = 4;
/// The bytes sent to the client that earn a credit of one.
const BYTES: u64 = 1024;
/// The most streams that a client may reset in a second: each may have cost a request to a server.
const MAX_RESETS: u32 = 200;

/// The types of frames that are told apart.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;

/// The frames of a client as far as they have been received.
#[derive(Debug)]
pub struct FrameMeter {
    /// The bytes to skip before the next frame's header: the rest of the preface or of a frame.
    skip: usize,
    /// The part of a frame's header that has been received.
    header: [u8; FRAME_HEADER],
    header_length: usize,
    credit: u64,
    /// When credit was last given for time.
    credited: Instant,
    /// Bytes sent to the client that have not earned credit yet.
    sent: u64,
    resets: u32,
    /// The start of the second in which `resets` are counted.
    resets_since: Instant,
    has_settings: bool,
}

impl FrameMeter {
    /// A client that has connected at `now` and not sent its preface.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            skip: PREFACE,
            header: [0; FRAME_HEADER],
            header_length: 0,
            credit: START,
            credited: now,
            sent: 0,
            resets: 0,
            resets_since: now,
            has_settings: false,
        }
    }

    /// Counts bytes that were sent to the client.
    pub fn sends(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// Counts received bytes; false if they are part of a flood.
    #[must_use]
    pub fn receives(&mut self, mut bytes: &[u8], now: Instant) -> bool {
        self.earn(now);
        loop {
            let skipped = self.skip.min(bytes.len());
            (self.skip, bytes) = (self.skip - skipped, &bytes[skipped..]);
            let part = bytes.len().min(FRAME_HEADER - self.header_length);
            self.header[self.header_length..][..part].copy_from_slice(&bytes[..part]);
            (self.header_length, bytes) = (self.header_length + part, &bytes[part..]);
            if self.header_length < FRAME_HEADER {
                return true;
            }
            let [high, middle, low, kind, ..] = self.header;
            self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            self.header_length = 0;
            if !self.frame(kind) {
                return false;
            }
        }
    }

    /// Counts a stream that was reset because its request was malformed; false if there are too many.
    #[must_use]
    pub fn rejects(&mut self, now: Instant) -> bool {
        self.start_second(now);
        self.resets += 1;
        self.resets <= MAX_RESETS
    }

    /// Whether the client has sent its first SETTINGS.
    #[must_use]
    pub fn has_settings(&self) -> bool {
        self.has_settings
    }

    fn frame(&mut self, kind: u8) -> bool {
        match kind {
            // `h2` has a budget for small DATA frames and a limit of CONTINUATION frames.
            DATA | CONTINUATION => return true,
            HEADERS => {
                self.credit = MAX_CREDIT.min(self.credit + PER_REQUEST);
                return true;
            }
            RST_STREAM => {
                self.resets += 1;
                if self.resets > MAX_RESETS {
                    return false;
                }
            }
            SETTINGS => self.has_settings = true,
            _ => {}
        }
        let left = self.credit.checked_sub(1);
        self.credit = left.unwrap_or_default();
        left.is_some()
    }

    fn earn(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.credited);
        let earned = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX).saturating_mul(PER_SECOND) / 1000;
        if earned > 0 {
            self.credited = now;
        }
        let earned = earned.saturating_add(self.sent / BYTES);
        self.sent %= BYTES;
        self.credit = MAX_CREDIT.min(self.credit.saturating_add(earned));
        self.start_second(now);
    }

    fn start_second(&mut self, now: Instant) {
        if now.saturating_duration_since(self.resets_since) >= Duration::from_secs(1) {
            (self.resets, self.resets_since) = (0, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of this type with a payload of this length.
    fn frame(kind: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, 0, 0, 0, 0, 1];
        frame.resize(FRAME_HEADER + usize::from(length), 0xff);
        frame
    }

    fn frames(kind: u8, length: u8, count: usize) -> Vec<u8> {
        frame(kind, length).repeat(count)
    }

    #[test]
    fn control_frames_beyond_the_credit_are_a_flood() {
        const PING: u8 = 6;
        // What is received before the pings, the bytes sent, the seconds that pass, and the most pings.
        let cases = [
            (Vec::new(), 0, 0, START),
            (Vec::new(), 0, 3, START + 300),
            (Vec::new(), 0, 1000, MAX_CREDIT),
            (Vec::new(), 100 * 1024, 0, START + 100),
            (Vec::new(), 1023, 0, START),
            (frames(HEADERS, 20, 10), 0, 0, START + 40),
            (frames(DATA, 0, 10), 0, 0, START),
            (frames(SETTINGS, 6, 10), 0, 0, START - 10),
        ];
        for (before, sent, seconds, most) in cases {
            let start = Instant::now();
            for (pings, expected) in [(most, true), (most + 1, false)] {
                let mut meter = FrameMeter::new(start);
                assert!(meter.receives(&[&[0; PREFACE][..], &before].concat(), start));
                meter.sends(sent);
                let pings = frames(PING, 8, usize::try_from(pings).expect("a number"));
                let received = meter.receives(&pings, start + Duration::from_secs(seconds));
                assert_eq!(received, expected, "{before:?} {sent} {seconds}");
            }
        }
    }

    #[test]
    fn resets_are_counted_by_the_second() {
        let start = Instant::now();
        let mut meter = FrameMeter::new(start);
        let second = [frame(HEADERS, 9), frame(RST_STREAM, 4)].concat().repeat(MAX_RESETS as usize);
        assert!(meter.receives(&[0; PREFACE], start));
        for number in 0..10 {
            assert!(meter.receives(&second, start + Duration::from_secs(number)), "{number}");
        }
        assert!(!meter.receives(&frame(RST_STREAM, 4), start + Duration::from_secs(9)));
        assert!(meter.rejects(start + Duration::from_secs(10)));
    }

    #[test]
    fn frames_are_found_wherever_they_are_split() {
        let bytes = [vec![0; PREFACE], frame(SETTINGS, 12), frame(HEADERS, 200), frame(RST_STREAM, 4)].concat();
        for size in 1..bytes.len() {
            let start = Instant::now();
            let mut meter = FrameMeter::new(start);
            assert!(bytes.chunks(size).all(|part| meter.receives(part, start)));
            let expected = (true, 1, START - 2 + PER_REQUEST, 0, 0);
            assert_eq!(
                (meter.has_settings, meter.resets, meter.credit, meter.skip, meter.header_length),
                expected,
                "{size}"
            );
        }
    }
}
