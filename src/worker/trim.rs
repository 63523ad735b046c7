//! Returns freed memory to the system.
//!
//! The allocator does so some time after memory was freed, but only while it is called: after a burst, an idle process would
//! keep all of it. A block that is too large to share memory with others makes it look; the block itself is never touched.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// The size of the block.
const BLOCK: usize = 1024 * 1024;
/// The time for which the allocator keeps freed memory: a second. Then some, because it counts in coarse steps.
const KEPT: Duration = Duration::from_millis(1200);

/// When memory was freed and returned, as far as a worker's ticks know.
#[derive(Debug, Default)]
pub(super) struct Trim {
    /// When memory may have been freed last; `None` if all of it has been returned.
    freed: Option<Instant>,
    /// When memory was last returned.
    trimmed: Option<Instant>,
}

impl Trim {
    /// Returns memory at times while the worker is busy, and once more when it has become `quiet`. Returns when a quiet
    /// worker has to do so.
    pub(super) fn tick(&mut self, now: Instant, quiet: bool) -> Option<Instant> {
        if !quiet {
            self.freed = Some(now);
        }
        let freed = self.freed?;
        let since = if quiet { freed } else { *self.trimmed.get_or_insert(now) };
        if now.saturating_duration_since(since) >= KEPT {
            trim();
            self.trimmed = Some(now);
            if quiet {
                self.freed = None;
                return None;
            }
        }
        Some(freed + KEPT)
    }
}

fn trim() {
    drop(black_box(Vec::<u8>::with_capacity(BLOCK)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_returned_while_busy_and_once_after_that() {
        let start = Instant::now();
        let mut trim = Trim::default();
        // Milliseconds; whether the worker is quiet, whether memory is returned, and when it will be, if it stays quiet.
        let steps = [
            (0, true, false, None),
            (100, false, false, Some(1300)),
            (1200, false, false, Some(2400)),
            (1300, false, true, Some(2500)),
            (1400, false, false, Some(2600)),
            (1500, true, false, Some(2600)),
            (2600, true, true, None),
            (9000, true, false, None),
            (9100, false, true, Some(10_300)),
        ];
        for (millis, quiet, returns, next) in steps {
            let at = |millis| start + Duration::from_millis(millis);
            let due = trim.tick(at(millis), quiet);
            let returned = trim.trimmed == Some(at(millis)) && millis > 100;
            assert_eq!((returned, due), (returns, next.map(at)), "at {millis} ms");
        }
    }
}
