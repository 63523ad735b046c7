//! StickyConfig sessions: the cookie that leads a client back to its server. Pure.
//!
//! The cookie's value is a keyed hash of the server's name, so it tells no address, stays the same
//! through edits, restarts and other servers' changes, and every replica with the same file agrees.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::config::StickyConfig;

/// What a cookie calls a server: 64 bits in hexadecimal.
pub type Token = [u8; 16];

/// The token of a server.
#[must_use]
pub fn token(rule: &StickyConfig, pool: &str, server: &str) -> Token {
    // An HMAC (RFC 2104) takes keys of any length, so this cannot fail; an empty cookie value is the safe answer.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(rule.cookie.as_bytes()) else {
        return [b'0'; 16];
    };
    mac.update(pool.as_bytes());
    mac.update(b"/");
    mac.update(server.as_bytes());
    let hash = mac.finalize().into_bytes();
    let first: [u8; 8] = std::array::from_fn(|i| hash[i]);
    *const_hex::Buffer::<8>::new().const_format(&first).as_byte_array()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rule() -> StickyConfig {
        StickyConfig { cookie: "lb".to_owned(), max_age: Duration::from_secs(3600) }
    }

    #[test]
    fn a_token_depends_on_cookie_pool_and_name_and_on_nothing_else() {
        let other = StickyConfig { cookie: "other".to_owned(), ..rule() };
        let longer = StickyConfig { max_age: Duration::from_secs(1), ..rule() };
        let rule = rule();
        let first = token(&rule, "default", "server1");
        assert_eq!(first, token(&longer, "default", "server1"));
        for different in
            [token(&other, "default", "server1"), token(&rule, "api", "server1"), token(&rule, "default", "server2")]
        {
            assert_ne!(first, different);
        }
        // Fixed for good: another value would tear every client of a rolling upgrade from its server.
        assert_eq!(std::str::from_utf8(&first), Ok("0d5450a020da0588"));
    }
}
