//! Cookies, one `Cookie` header per line: the cookie that was set is found, and nothing else is.
#![no_main]

use std::time::Duration;

use lb::config::StickyConfig;
use lb::http1::head::Headers;
use lb::live::token::token;
use lb::proxy::cookie::{requested, set_cookie};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let rule = StickyConfig { cookie: "lb".to_owned(), max_age: Duration::from_secs(60) };
    let headers = Headers::from_pairs(text.lines().map(|line| ("Cookie", line)));
    if let Some(found) = requested(&rule, &headers) {
        let pair = [b"lb=", &found[..]].concat();
        assert!(text.as_bytes().windows(pair.len()).any(|window| window == pair), "{text:?}");
    }
    // The cookie that was set is found among any others, unless one of them has its name.
    let expected = token(&rule, "default", text);
    let set = set_cookie(&rule, &expected);
    let (cookie, _) = set.split_once(';').expect("attributes");
    assert_eq!(requested(&rule, &Headers::from_pairs([("Cookie", cookie)])), Some(expected));
    if !text.contains("lb=") {
        let all = format!("{}; {cookie}", text.replace('\n', " "));
        assert_eq!(requested(&rule, &Headers::from_pairs([("Cookie", &*all)])), Some(expected), "{all:?}");
    }
});
