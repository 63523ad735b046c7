//! The sticky-session cookie: read from requests and set by responses. Pure.

use crate::config::StickyConfig;
use crate::http1::head::Headers;
use crate::http1::name::HeaderName;
use crate::live::token::Token;

/// Returns the token of the server that a request's `Cookie` headers ask for (RFC 6265, section 4.2).
#[must_use]
pub fn requested(rule: &StickyConfig, headers: &Headers) -> Option<Token> {
    headers.all(HeaderName::Cookie).find_map(|cookies| {
        cookies.split(|byte| *byte == b';').find_map(|pair| {
            let value = pair.trim_ascii().strip_prefix(rule.cookie.as_bytes())?.strip_prefix(b"=")?;
            value.try_into().ok()
        })
    })
}

/// Returns the value of the `Set-Cookie` header (RFC 6265, section 4.1) that stores `token` at the client.
#[must_use]
pub fn set_cookie(rule: &StickyConfig, token: &Token) -> String {
    let token = String::from_utf8_lossy(token);
    let max_age = rule.max_age.map_or_else(String::new, |age| format!("; Max-Age={}", age.as_secs()));
    format!("{}={token}{max_age}; Path=/; HttpOnly; SameSite=Lax", rule.cookie)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rule() -> StickyConfig {
        StickyConfig { cookie: "lb".to_owned(), max_age: Some(Duration::from_secs(3600)) }
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
        for (cookies, found) in cases {
            let headers = Headers::from_pairs([("Cookie", "z=1"), ("Cookie", cookies)]);
            assert_eq!(requested(&rule(), &headers), found.then_some(*b"0123456789abcdef"), "{cookies}");
        }
    }

    #[test]
    fn the_cookie_is_set_with_its_attributes() {
        assert_eq!(
            set_cookie(&rule(), b"0123456789abcdef"),
            "lb=0123456789abcdef; Max-Age=3600; Path=/; HttpOnly; SameSite=Lax"
        );
    }
}
