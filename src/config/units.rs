//! Durations, sizes and shares as people write them.

use std::time::Duration;

/// `1500ms` becomes `1s 500ms`.
#[must_use]
pub fn format_duration(value: Duration) -> String {
    humantime::format_duration(value).to_string()
}

/// 32768 becomes `32KiB`.
#[must_use]
pub fn format_size(value: u64) -> String {
    format!("{value}B")
}

/// 0.2 becomes `20%`.
#[must_use]
pub fn format_percent(value: f64) -> String {
    format!("{}%", value * 100.0)
}
