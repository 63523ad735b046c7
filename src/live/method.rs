//! The keys under which responses are counted: method and status. Unregistered methods share one name, so that clients
//! cannot create metric series.

use http::Method;

const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"];
const OTHER: &str = "OTHER";

/// The key of a response to a request with this method.
#[inline]
#[must_use]
pub fn key(method: &Method, status: u16) -> u32 {
    key_at(METHODS.iter().position(|name| *name == method.as_str()).unwrap_or(METHODS.len()), status)
}

/// The key of a response to a request whose method could not be parsed.
#[must_use]
pub fn key_without_method(status: u16) -> u32 {
    key_at(METHODS.len(), status)
}

fn key_at(index: usize, status: u16) -> u32 {
    // The index is at most 9, the status below 1000.
    (u32::try_from(index).unwrap_or(u32::MAX) << 16) | u32::from(status)
}

/// The method and the status of a key.
#[must_use]
pub fn method_and_status(key: u32) -> (&'static str, u32) {
    let method = usize::try_from(key >> 16).ok().and_then(|index| METHODS.get(index)).copied();
    (method.unwrap_or(OTHER), key & 0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_holds_method_and_status() {
        for (method, expected) in [("GET", "GET"), ("CONNECT", "CONNECT"), ("BREW", "OTHER"), ("get", "OTHER")] {
            let method = Method::from_bytes(method.as_bytes()).expect("a token");
            assert_eq!(method_and_status(key(&method, 404)), (expected, 404));
        }
        assert_eq!(method_and_status(key_without_method(400)), ("OTHER", 400));
    }
}
