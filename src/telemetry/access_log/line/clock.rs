//! The times of access log lines, formatted once a second.

use std::io::Write as _;
use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::escape::write_digits;

/// Writes times in RFC 3339 with milliseconds; formats date and time only once a second.
#[derive(Debug, Default)]
pub(in super::super) struct TimestampCache {
    second: Option<u64>,
    /// `2026-11-22T01:02:03`
    text: Vec<u8>,
}

impl TimestampCache {
    pub(super) fn write(&mut self, time: SystemTime, out: &mut Vec<u8>) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != Some(since.as_secs()) {
            self.second = Some(since.as_secs());
            self.text.clear();
            let seconds = UNIX_EPOCH + Duration::from_secs(since.as_secs());
            // Fails only for years after 9999; then the line has no date.
            let _ = write!(self.text, "{}", humantime::format_rfc3339_seconds(seconds));
            self.text.pop();
        }
        out.extend_from_slice(&self.text);
        out.push(b'.');
        write_digits::<3>(since.subsec_millis(), out);
        out.push(b'Z');
    }
}

/// Writes times as the combined format has them, in UTC; formats only once a second.
#[derive(Debug, Default)]
pub(in super::super) struct ClfCache {
    second: Option<u64>,
    /// `22/Nov/2026:01:02:03 +0000`
    text: Vec<u8>,
}

impl ClfCache {
    pub(super) fn write(&mut self, time: SystemTime, out: &mut Vec<u8>) {
        const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let second = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if self.second != Some(second) {
            self.second = Some(second);
            self.text.clear();
            let text = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(second)).to_string();
            let part = |range: Range<usize>| text.get(range).unwrap_or_default();
            let month = part(5..7).parse().ok().and_then(|month: usize| MONTHS.get(month.wrapping_sub(1)));
            let (day, month, year) = (part(8..10), month.copied().unwrap_or_default(), part(0..4));
            // Writing to memory cannot fail.
            let _ = write!(self.text, "{day}/{month}/{year}:{} +0000", part(11..19));
        }
        out.extend_from_slice(&self.text);
    }
}
