//! Methods as metrics know them: the registered ones, and one word for all others, so that clients cannot make series.

use http::Method;

const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"];
const OTHER: &str = "OTHER";

/// The key under which an answer is tallied: its request's method and its status.
#[inline]
#[must_use]
pub fn key(method: &Method, status: u16) -> u32 {
    key_at(METHODS.iter().position(|known| *known == method.as_str()).unwrap_or(METHODS.len()), status)
}

/// The key of an answer to what had no method.
#[must_use]
pub fn key_of_none(status: u16) -> u32 {
    key_at(METHODS.len(), status)
}

fn key_at(place: usize, status: u16) -> u32 {
    // At most 9, and a status below 1000.
    (u32::try_from(place).unwrap_or(u32::MAX) << 16) | u32::from(status)
}

/// Method and status of a [`key`].
#[must_use]
pub fn of_key(key: u32) -> (&'static str, u32) {
    let method = usize::try_from(key >> 16).ok().and_then(|place| METHODS.get(place)).copied();
    (method.unwrap_or(OTHER), key & 0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_method_and_status() {
        for (method, expected) in [("GET", "GET"), ("CONNECT", "CONNECT"), ("BREW", "OTHER"), ("get", "OTHER")] {
            let method = Method::from_bytes(method.as_bytes()).expect("a token");
            assert_eq!(of_key(key(&method, 404)), (expected, 404));
        }
        assert_eq!(of_key(key_of_none(400)), ("OTHER", 400));
    }
}
