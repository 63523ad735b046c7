//! Sticky sessions: the cookie that leads a client back to its server. Pure.
//!
//! The cookie's value is a keyed hash of the server's name, so it tells no address, stays the same
//! through edits, restarts and other servers' changes, and every replica with the same file agrees.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::config::Sticky;
use crate::proxy::head::Fields;
use crate::proxy::name::Name;

/// What a cookie calls a server: 64 bits in hexadecimal.
pub type Token = [u8; 16];

/// The token of a server.
#[must_use]
pub fn token(rule: &Sticky, pool: &str, server: &str) -> Token {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    // An HMAC (RFC 2104) takes keys of any length, so this cannot fail; an empty cookie value is the safe answer.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(rule.cookie.as_bytes()) else {
        return [b'0'; 16];
    };
    mac.update(pool.as_bytes());
    mac.update(b"/");
    mac.update(server.as_bytes());
    let hash = mac.finalize().into_bytes();
    std::array::from_fn(|i| {
        let byte = hash[i / 2];
        HEX[usize::from(if i % 2 == 0 { byte >> 4 } else { byte & 0xf })]
    })
}

/// The token in a request's `Cookie` fields (RFC 6265, section 4.2), if it has one.
#[must_use]
pub fn requested(rule: &Sticky, fields: &Fields) -> Option<Token> {
    fields.all(Name::Cookie).find_map(|field| {
        field.split(|byte| *byte == b';').find_map(|pair| {
            let value = pair.trim_ascii().strip_prefix(rule.cookie.as_bytes())?.strip_prefix(b"=")?;
            value.try_into().ok()
        })
    })
}

/// The `Set-Cookie` field's value (RFC 6265, section 4.1) that gives a client `token`.
#[must_use]
pub fn set_cookie(rule: &Sticky, token: &Token) -> String {
    let token = String::from_utf8_lossy(token);
    let (cookie, seconds) = (&rule.cookie, rule.max_age.as_secs());
    format!("{cookie}={token}; Max-Age={seconds}; Path=/; HttpOnly; SameSite=Lax")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rule() -> Sticky {
        Sticky { cookie: "lb".to_owned(), max_age: Duration::from_secs(3600) }
    }

    #[test]
    fn a_token_depends_on_cookie_pool_and_name_and_on_nothing_else() {
        let other = Sticky { cookie: "other".to_owned(), ..rule() };
        let longer = Sticky { max_age: Duration::from_secs(1), ..rule() };
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

    #[test]
    fn the_cookie_is_found_among_others() {
        let cases = [
            ("lb=0123456789abcdef", true),
            ("a=b; lb=0123456789abcdef; c=d", true),
            ("a=b;lb=0123456789abcdef", true),
            ("lb=0123", false),
            ("xlb=0123456789abcdef", false),
            ("lb=0123456789abcdef0", false),
            ("lb", false),
            ("", false),
        ];
        for (field, found) in cases {
            let fields = Fields::of([("Cookie", "z=1"), ("Cookie", field)]);
            assert_eq!(requested(&rule(), &fields), found.then_some(*b"0123456789abcdef"), "{field}");
        }
    }

    #[test]
    fn a_client_is_given_its_cookie() {
        assert_eq!(
            set_cookie(&rule(), b"0123456789abcdef"),
            "lb=0123456789abcdef; Max-Age=3600; Path=/; HttpOnly; SameSite=Lax"
        );
    }
}
