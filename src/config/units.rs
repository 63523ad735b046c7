//! Parses and formats durations, sizes and percentages.

use std::time::{Duration, SystemTime};

use crate::config::problem::Reason;

/// The limit for every duration, so that adding one to a clock cannot overflow.
const MAX_DURATION: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Units of sizes, powers of 1024 before powers of 1000, larger ones first. A size is written in the first unit that
/// divides it.
const SIZES: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Units of durations, in nanoseconds; each divides the one before it.
const DURATIONS: [(&str, u128); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Parses `50ms`, `75s`, `1h 30m`, `0s`.
///
/// # Errors
/// A number other than 0 without a unit, an unknown unit, or more than a year.
pub fn parse_duration(text: &str) -> Result<Duration, Reason> {
    let reason = |what: &str| Reason::new(format!("`{text}` {what}"));
    let number = text.trim();
    if number != "0" && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) {
        return Err(reason("has no unit").hint(format!("write `{number}s`, `{number}ms`, …")));
    }
    match humantime::parse_duration(text) {
        Ok(value) if value <= MAX_DURATION => Ok(value),
        Ok(_) => Err(reason("is longer than a year").hint("write at most `8784h`")),
        Err(humantime::DurationError::UnknownUnit { unit, .. }) => Err(reason("is not a duration")
            .hint(format!("`{unit}` is not a unit of time; write for example `50ms`, `30s`, `5m`, `1h`"))),
        Err(_) => {
            Err(reason("is not a duration").hint("write a number and a unit, for example `50ms`, `30s`, `5m`, `1h`"))
        }
    }
}

/// The day in UTC: `2027-02-01`.
#[must_use]
pub fn format_date(time: SystemTime) -> String {
    // humantime cannot format times before 1970 or after 9999.
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    let time = time.clamp(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + LAST);
    let mut text = humantime::format_rfc3339_seconds(time).to_string();
    text.truncate("2027-02-01".len());
    text
}

/// The shortest form in a single unit, which [`parse_duration`] accepts: `75s`, `1h`.
#[must_use]
pub fn format_duration(value: Duration) -> String {
    let nanos = value.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    let (unit, length) = DURATIONS.into_iter().find(|(_, length)| nanos.is_multiple_of(*length)).unwrap_or(("ns", 1));
    format!("{}{unit}", nanos / length)
}

/// Parses `32KiB`, `10MB`, `64B`, `0` into bytes.
///
/// # Errors
/// A number other than 0 without a unit, an unknown unit, or more than fits in 64 bits.
pub fn parse_size(text: &str) -> Result<u64, Reason> {
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = (&trimmed[..digits], trimmed[digits..].trim_start());
    let reason = |what: &str| Reason::new(format!("`{text}` {what}"));
    if number.is_empty() {
        return Err(reason("is not a size").hint("write a whole number and a unit, for example `64B`, `32KiB`, `10MB`"));
    }
    let number: u64 = number.parse().map_err(|_| reason("is too large"))?;
    if unit.is_empty() {
        return match number {
            0 => Ok(0),
            _ => Err(reason("has no unit").hint(format!("write `{number}B` or `{number}KiB`"))),
        };
    }
    let (_, factor) = SIZES.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(|| {
        reason("is not a size")
            .hint(format!("`{unit}` is not a unit of size; write B, KiB, MiB or GiB (or KB, MB, GB)"))
    })?;
    number.checked_mul(factor).ok_or_else(|| reason("is too large"))
}

/// The shortest form in a single unit, which [`parse_size`] accepts: 32768 is `32KiB`.
#[must_use]
pub fn format_size(value: u64) -> String {
    if value == 0 {
        return "0".to_owned();
    }
    let (unit, factor) = SIZES.into_iter().find(|(_, factor)| value.is_multiple_of(*factor)).unwrap_or(("B", 1));
    format!("{}{unit}", value / factor)
}

/// Parses `20%` as 0.2.
///
/// # Errors
/// No `%`, not a number, or not between 0 and 100.
pub fn parse_percent(text: &str) -> Result<f64, Reason> {
    let reason = |what: &str| Reason::new(format!("`{text}` {what}"));
    let Some(number) = text.trim().strip_suffix('%') else {
        return Err(reason("is not a percentage").hint("write for example `20%`"));
    };
    let number = number.trim_end();
    let plain = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    match number.parse::<f64>() {
        Ok(value) if plain && value <= 100.0 => Ok(value / 100.0),
        Ok(_) => Err(reason("is out of range").hint("write `0%` to `100%`")),
        Err(_) => Err(reason("is not a percentage").hint("write for example `20%`")),
    }
}

/// Formats 0.2 as `20%`, without rounding noise.
#[must_use]
pub fn format_percent(value: f64) -> String {
    // A millionth of a percent is finer than anyone types and coarser than the rounding error.
    format!("{}%", (value * 1e8).round() / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_round_trip_in_their_shortest_form() {
        for (typed, nanos, shown) in [
            ("50ms", 50_000_000, "50ms"),
            ("75s", 75_000_000_000, "75s"),
            ("1m 15s", 75_000_000_000, "75s"),
            ("60s", 60_000_000_000, "1m"),
            ("1h", 3_600_000_000_000, "1h"),
            ("90min", 5_400_000_000_000, "90m"),
            ("1day", 86_400_000_000_000, "24h"),
            ("1.5s", 1_500_000_000, "1500ms"),
            ("3us", 3_000, "3us"),
            ("7ns", 7, "7ns"),
            ("0s", 0, "0s"),
            ("0", 0, "0s"),
        ] {
            let value = parse_duration(typed).expect(typed);
            assert_eq!(value.as_nanos(), nanos, "{typed}");
            assert_eq!(format_duration(value), shown, "{typed}");
            assert_eq!(parse_duration(shown), Ok(value), "{shown}");
        }
    }

    #[test]
    fn errors_about_durations_have_hints() {
        for (typed, message, hint) in [
            ("5", "`5` has no unit", "write `5s`"),
            ("5x", "`5x` is not a duration", "`x` is not a unit of time"),
            ("", "`` is not a duration", "write a number and a unit"),
            ("-5s", "`-5s` is not a duration", "write a number"),
            ("soon", "`soon` is not a duration", "write a number"),
            ("9000h", "`9000h` is longer than a year", "at most"),
            ("99999999999999999999s", "is not a duration", "write"),
        ] {
            let reason = parse_duration(typed).expect_err(typed);
            assert!(reason.message.contains(message), "{typed}: {reason:?}");
            let shown = reason.hint.unwrap_or_default();
            assert!(shown.contains(hint), "{typed}: {shown}");
        }
    }

    #[test]
    fn sizes_round_trip_in_their_shortest_form() {
        for (typed, bytes, shown) in [
            ("0", 0, "0"),
            ("0B", 0, "0"),
            ("64B", 64, "64B"),
            ("32KiB", 32_768, "32KiB"),
            ("32 kib", 32_768, "32KiB"),
            ("10MB", 10_000_000, "10MB"),
            ("1500KB", 1_500_000, "1500KB"),
            ("1024KiB", 1 << 20, "1MiB"),
            ("3GiB", 3 << 30, "3GiB"),
        ] {
            let value = parse_size(typed).expect(typed);
            assert_eq!(value, bytes, "{typed}");
            assert_eq!(format_size(value), shown, "{typed}");
            assert_eq!(parse_size(shown), Ok(value), "{shown}");
        }
        for typed in ["", "KiB", "10", "10k", "1.5MiB", "-1B", "99999999999999999999B", "99999999999GiB"] {
            assert!(parse_size(typed).is_err(), "{typed}");
        }
    }

    #[test]
    fn percentages_round_trip_without_rounding_noise() {
        for (typed, share, shown) in [
            ("20%", 0.2, "20%"),
            ("7%", 0.07, "7%"),
            ("12.5%", 0.125, "12.5%"),
            ("0%", 0.0, "0%"),
            ("100 %", 1.0, "100%"),
            ("33.333333%", 0.333_333_33, "33.333333%"),
        ] {
            let value = parse_percent(typed).expect(typed);
            assert!((value - share).abs() < 1e-12, "{typed}");
            assert_eq!(format_percent(value), shown, "{typed}");
            assert_eq!(parse_percent(shown), Ok(value), "{shown}");
        }
        for typed in ["20", "0.2", "%", "101%", "-1%", "1e1%", "NaN%", "inf%"] {
            assert!(parse_percent(typed).is_err(), "{typed}");
        }
    }
}
