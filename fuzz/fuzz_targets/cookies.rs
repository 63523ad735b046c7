//! `Cookie` headers, one in each line: only a token that is in them is found, and one that was set is found.
#![no_main]

use std::time::Duration;

use lb::config::StickyConfig;
use lb::http1::head::Headers;
use lb::live::token::token;
use lb::proxy::cookie::{requested, set_cookie};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let rule = StickyConfig { cookie: "lb".to_owned(), max_age: Duration::from_secs(60) };
    let headers = Headers::of(text.lines().map(|line| ("Cookie", line)));
    if let Some(found) = requested(&rule, &headers) {
        let pair = [b"lb=", &found[..]].concat();
        assert!(text.as_bytes().windows(pair.len()).any(|window| window == pair), "{text:?}");
    }
    // The cookie that was set is found beside any other text without its name.
    let given = token(&rule, "default", text);
    let set = set_cookie(&rule, &given);
    let (mine, _) = set.split_once(';').expect("attributes");
    assert_eq!(requested(&rule, &Headers::of([("Cookie", mine)])), Some(given));
    if !text.contains("lb=") {
        let all = format!("{}; {mine}", text.replace('\n', " "));
        assert_eq!(requested(&rule, &Headers::of([("Cookie", &*all)])), Some(given), "{all:?}");
    }
});
