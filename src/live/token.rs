//! Sticky sessions: the value of the cookie that leads a client back to its server. Pure.
//!
//! It is a keyed hash of the server's name. So it reveals no address, survives edits, restarts and changes of other servers,
//! and is the same on every replica with the same file.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::config::StickyConfig;

/// A server's name in cookies: 64 bits in hexadecimal.
pub type Token = [u8; 16];

#[must_use]
pub fn token(rule: &StickyConfig, pool: &str, server: &str) -> Token {
    // An HMAC (RFC 2104) takes keys of any length, so this cannot fail; a token that no server has is the safe choice.
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
        StickyConfig { cookie: "lb".to_owned(), max_age: None }
    }

    #[test]
    fn a_token_depends_only_on_cookie_pool_and_name() {
        let other = StickyConfig { cookie: "other".to_owned(), ..rule() };
        let longer = StickyConfig { max_age: Some(Duration::from_secs(1)), ..rule() };
        let rule = rule();
        let first = token(&rule, "default", "server1");
        assert_eq!(first, token(&longer, "default", "server1"));
        for different in
            [token(&other, "default", "server1"), token(&rule, "api", "server1"), token(&rule, "default", "server2")]
        {
            assert_ne!(first, different);
        }
        // A different value would move every client to another server during a rolling upgrade.
        assert_eq!(std::str::from_utf8(&first), Ok("0d5450a020da0588"));
    }
}
