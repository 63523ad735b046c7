//! Cookies, one `Cookie` header per line: the cookie that was set is found, and nothing else is; it stays small, and keeps the
//! tokens of others.
#![no_main]

use std::time::Duration;

use lb::config::{Address, StickyConfig};
use lb::http1::head::Headers;
use lb::http1::name::HeaderName;
use lb::live::server::ServerKey;
use lb::live::token::{Sticky, Token};
use lb::proxy::cookie::{requested, set};
use libfuzzer_sys::fuzz_target;

fn pool(name: &str, max_age: Option<Duration>) -> (Sticky, Token) {
    let mut sticky = Sticky::new(&StickyConfig { cookie: "lb".to_owned(), max_age }, name);
    let address = Address::Name("app".to_owned(), 80);
    let key = ServerKey { pool: name.into(), name: "server1".into(), address };
    let token = sticky.add([(&key, true)].into_iter())[0];
    (sticky, token)
}

/// The cookie that a response sets, if it sets one.
fn set_cookie(sticky: &Sticky, token: Token, request: &Headers) -> Option<String> {
    let mut response = Headers::new();
    set(sticky, requested(sticky, request), token, (request, &mut response), 1_800_000_000);
    let cookie = response.get(HeaderName::SetCookie)?;
    Some(String::from_utf8_lossy(cookie).split(';').next().expect("a pair").to_owned())
}

fuzz_target!(|text: &str| {
    let headers = Headers::from_pairs(text.lines().map(|line| ("Cookie", line)));
    let (sticky, token) = pool("default", Some(Duration::from_secs(60)));
    let (other, other_token) = pool("other", None);
    if let Some(found) = requested(&sticky, &headers).token {
        assert!(text.contains(&found.to_string()), "{text:?}");
    }
    let Some(first) = set_cookie(&sticky, token, &headers) else { return };
    assert!(first.len() < 300, "{first}");
    let first = Headers::from_pairs([("Cookie", &*first)]);
    assert_eq!(requested(&sticky, &first).token, Some(token));
    if let Some(both) = set_cookie(&other, other_token, &first) {
        let both = Headers::from_pairs([("Cookie", &*both)]);
        assert_eq!(requested(&sticky, &both).token, Some(token));
        assert_eq!(requested(&other, &both).token, Some(other_token));
    }
});
