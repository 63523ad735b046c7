//! When to renew a certificate, and when to try again after a failure. Pure.

use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

/// The first wait after a failure; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(60);
/// The longest wait after a failure, unless the server asks for more.
const LONGEST_WAIT: Duration = Duration::from_secs(6 * 3600);
/// The wait after a failure because of a limit, if the server does not say how long.
const LIMITED_WAIT: Duration = Duration::from_secs(3600);
/// The longest wait that a server can ask for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

/// The part of its lifetime after which a certificate is renewed at the latest, and how much earlier it may be.
const RENEW_AT: f64 = 2.0 / 3.0;
const RENEW_EARLIER: f64 = 0.05;
/// The same, if the server suggests when to renew it.
const RENEW_BEFORE: f64 = 0.9;

/// The time to renew a certificate: after about 2/3 of its lifetime. `random` is from 0 to 1, and the same for the same
/// certificate, so that a restart does not change it.
pub(super) fn renewal(not_before: SystemTime, not_after: SystemTime, random: f64) -> SystemTime {
    let lifetime = not_after.duration_since(not_before).unwrap_or_default();
    not_before + lifetime.mul_f64(RENEW_AT - RENEW_EARLIER * random)
}

/// A time in the window that the server suggests (RFC 9773, section 4.2), but early enough before the certificate, which is
/// valid for `validity`, ends.
pub(super) fn suggested(
    window: (SystemTime, SystemTime),
    validity: (SystemTime, SystemTime),
    random: f64,
) -> SystemTime {
    let length = |(start, end): (SystemTime, SystemTime)| end.duration_since(start).unwrap_or_default();
    let latest = validity.0 + length(validity).mul_f64(RENEW_BEFORE);
    (window.0 + length(window).mul_f64(random)).min(latest)
}

/// The earliest time to renew a certificate that was issued at `issued`: whatever the server suggests, there is no loop.
pub(super) fn earliest(issued: SystemTime, not_after: SystemTime) -> SystemTime {
    let left = not_after.duration_since(issued).unwrap_or_default();
    issued + (left / 3).min(Duration::from_secs(3600))
}

/// The wait after a number of failures in a row. `retry_after` is what the server asks for.
pub(super) fn wait(failures: u32, limited: bool, retry_after: Option<Duration>, random: f64) -> Duration {
    let doubled = FIRST_WAIT.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_WAIT);
    let jittered = doubled.mul_f64(0.8 + 0.4 * random);
    let asked = match retry_after {
        Some(asked) => asked.min(LONGEST_RETRY_AFTER),
        None if limited => LIMITED_WAIT,
        None => Duration::ZERO,
    };
    // Not all replicas and certificates come back at the same moment.
    jittered.max(asked + asked.min(Duration::from_secs(60)).mul_f64(0.1 * random))
}

/// A number from 0 to 1 that belongs to a certificate.
pub(super) fn random_of(serial: &[u8]) -> f64 {
    // Hashed, because serials may be counted up.
    let hash = Sha256::digest(serial);
    let (head, _) = hash.split_at(4);
    head.iter().rev().fold(0.0, |value, byte| (value + f64::from(*byte)) / 256.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_certificate_is_renewed_after_about_two_thirds_of_its_lifetime() {
        assert_eq!(renewal(at(0), at(90_000), 0.0), at(60_000));
        assert_eq!(renewal(at(0), at(90_000), 1.0), at(55_500));
        // Nonsense from a server leads to no panic.
        assert_eq!(renewal(at(10), at(0), 0.5), at(10));
    }

    #[test]
    fn the_window_of_the_server_counts_but_not_beyond_the_end() {
        let validity = (at(0), at(1000));
        assert_eq!(suggested((at(100), at(200)), validity, 0.5), at(150));
        assert_eq!(suggested((at(200), at(100)), validity, 0.5), at(200));
        assert_eq!(suggested((at(2000), at(3000)), validity, 0.5), at(900));
        assert_eq!(suggested((at(2000), at(3000)), (at(10), at(0)), 0.5), at(10));
    }

    #[test]
    fn a_server_that_always_suggests_now_is_asked_hourly_at_most() {
        assert_eq!(earliest(at(0), at(90 * 86_400)), at(3600));
        assert_eq!(earliest(at(0), at(30)), at(10));
        assert_eq!(earliest(at(10), at(0)), at(10));
    }

    #[test]
    fn waits_double_up_to_hours() {
        let minutes = |failures| wait(failures, false, None, 0.5).as_secs() / 60;
        assert_eq!([1, 2, 3, 4, 10, 1000].map(minutes), [1, 2, 4, 8, 360, 360]);
        assert!(wait(1, false, None, 0.0) < wait(1, false, None, 1.0));
    }

    #[test]
    fn a_wait_is_as_long_as_the_server_asks_for() {
        let day = Duration::from_secs(86_400);
        assert!(wait(1, true, Some(day), 0.0) >= day);
        assert!(wait(1, true, None, 0.0) >= LIMITED_WAIT);
        assert!(wait(1, false, Some(Duration::from_secs(1)), 0.0) >= FIRST_WAIT.mul_f64(0.8));
        assert!(wait(1, true, Some(Duration::MAX), 1.0) < Duration::from_secs(8 * 86_400));
    }

    #[test]
    fn serials_spread_the_renewals() {
        let values: Vec<f64> = (0..1000_u32).map(|serial| random_of(&serial.to_be_bytes())).collect();
        assert!(values.iter().all(|value| (0.0..=1.0).contains(value)));
        let mean = values.iter().sum::<f64>() / 1000.0;
        assert!((0.4..0.6).contains(&mean), "{mean}");
    }
}
