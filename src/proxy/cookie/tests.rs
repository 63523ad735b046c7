use std::time::Duration;

use super::*;
use crate::config::{Address, StickyConfig};
use crate::live::server::ServerKey;

const NOW: u64 = 1_800_000_000;

/// The sessions of a pool with servers of these names, and their tokens. Those that end with `-` do not serve.
fn pool(name: &str, servers: &[&str], max_age: Option<u64>) -> (Sticky, Vec<Token>) {
    let key = |server: &&str| ServerKey {
        pool: name.into(),
        name: server.trim_end_matches('-').into(),
        address: Address::Name(format!("{name}-{server}"), 80),
    };
    let keys: Vec<ServerKey> = servers.iter().map(key).collect();
    let rule = StickyConfig { cookie: "lb".to_owned(), max_age: max_age.map(Duration::from_secs) };
    let mut sticky = Sticky::new(&rule, name);
    let tokens = sticky.add(keys.iter().zip(servers.iter().map(|server| !server.ends_with('-'))));
    (sticky, tokens)
}

fn short(token: Token) -> String {
    token.to_string()[8..].to_owned()
}

/// The value of the cookie that a response of `server` sets at `now` for a client with this `Cookie` header.
fn set_at(now: u64, sticky: &Sticky, cookies: &str, server: Token, inner: &[&str]) -> Option<String> {
    let request = Headers::from_pairs([("Cookie", cookies)]);
    let mut response = Headers::from_pairs(inner.iter().map(|cookie| ("Set-Cookie", *cookie)));
    set(sticky, requested(sticky, &request), server, (&request, &mut response), now);
    let all: Vec<_> = response.all(HeaderName::SetCookie).collect();
    assert!(all.len() <= inner.len() + 1, "{all:?}");
    (all.len() > inner.len() || !inner.is_empty()).then(|| String::from_utf8_lossy(all[all.len() - 1]).into_owned())
}

/// Only the tokens of that value.
fn tokens_set(sticky: &Sticky, cookies: &str, server: Token, inner: &[&str]) -> Option<Vec<String>> {
    let cookie = set_at(NOW, sticky, cookies, server, inner)?;
    let value = cookie.split(';').next()?.strip_prefix("lb=")?;
    Some(value.split('.').filter(|part| !part.starts_with('t')).map(str::to_owned).collect())
}

fn text_of(tokens: &[Token]) -> Vec<String> {
    tokens.iter().map(Token::to_string).collect()
}

#[test]
fn the_cookie_is_found_among_others_however_it_is_written() {
    let (sticky, tokens) = pool("p", &["one", "two"], None);
    let (one, two) = (tokens[0], tokens[1]);
    let old = short(one);
    let cases = [
        (format!("lb={one}"), Some(one)),
        (format!("a=b; lb={one}; c=d"), Some(one)),
        (format!("a=b;lb={one}"), Some(one)),
        (format!("lb=\"{one}\""), Some(one)),
        (format!("lb = {one} ; a=b"), Some(one)),
        (format!(" lb=  \" \"; lb=\"{one}\"  "), Some(one)),
        (format!("lb={old}"), Token::parse(old.as_bytes())),
        (format!("lb=\"{old}\"; lb=rubbish"), Token::parse(old.as_bytes())),
        (format!("lb=rubbish; lb={two}"), Some(two)),
        (format!("lb={old}; lb={two}"), Some(two)),
        (format!("lb=0123456789abcdef.{two}.t6b49d200-3c"), Some(two)),
        (format!("lb={one}.{two}"), Some(two)),
        (format!("lb={}{two}", "x.".repeat(5000)), Some(two)),
        (format!("lb={one}{}", ".0123456789abcdef".repeat(9)), None),
        (format!("lb=\"{one}"), None),
        (format!("xlb={one}"), None),
        (format!("lbx={one}"), None),
        (format!("LB={one}"), None),
        (format!("lb={one}0"), None),
        ("lb=0123".to_owned(), None),
        ("lb=".to_owned(), None),
        ("lb".to_owned(), None),
        (";;=;".to_owned(), None),
    ];
    for (cookies, expected) in cases {
        let headers = Headers::from_pairs([("Cookie", "z=1"), ("Cookie", &*cookies)]);
        assert_eq!(requested(&sticky, &headers).token, expected, "{cookies}");
    }
}

#[test]
fn the_cookie_is_set_with_its_attributes() {
    for (max_age, age) in [(None, String::new()), (Some(3600), format!(".t{NOW:x}-e10; Max-Age=3600"))] {
        let (sticky, tokens) = pool("p", &["one"], max_age);
        let expected = format!("lb={}{age}; Path=/; HttpOnly; SameSite=Lax", tokens[0]);
        assert_eq!(set_at(NOW, &sticky, "", tokens[0], &[]), Some(expected));
    }
}

#[test]
fn each_pool_keeps_the_tokens_of_others_and_replaces_its_own() {
    let (sticky, tokens) = pool("p", &["one", "two", "gone-"], None);
    let (one, two, gone) = (tokens[0], tokens[1], tokens[2]);
    let other = pool("q", &["one"], None).1[0];
    let removed = pool("p", &["removed"], None).1[0];
    let cases: [(String, Token, Option<Vec<Token>>); 9] = [
        (String::new(), one, Some(vec![one])),
        (format!("lb={one}"), one, None),
        (format!("lb={}", short(one)), one, None),
        (format!("lb={other}.{one}"), one, None),
        (format!("lb={other}"), one, Some(vec![other, one])),
        (format!("lb={one}.{other}"), two, Some(vec![other, two])),
        (format!("lb={}.{other}", short(one)), two, Some(vec![other, two])),
        (format!("lb={gone}.{other}"), one, Some(vec![other, one])),
        (format!("lb={removed}.{other}; lb={other}.rubbish"), one, Some(vec![removed, other, one])),
    ];
    for (cookies, server, expected) in cases {
        let expected = expected.map(|tokens| text_of(&tokens));
        assert_eq!(tokens_set(&sticky, &cookies, server, &[]), expected, "{cookies} {server}");
    }
}

#[test]
fn the_ninth_token_replaces_one_of_a_removed_server_or_else_the_oldest() {
    let (sticky, one) = pool("p", &["one"], None);
    let others: Vec<Token> = (0..8).map(|number| pool(&format!("q{number}"), &["one"], None).1[0]).collect();
    let removed = pool("p", &["removed"], None).1[0];
    let joined = |tokens: &[Token]| format!("lb={}", text_of(tokens).join("."));
    let set = tokens_set(&sticky, &joined(&others), one[0], &[]);
    assert_eq!(set, Some(text_of(&[&others[1..], &one[..]].concat())));
    let with_removed = [&others[..4], &[removed], &others[4..7]].concat();
    let set = tokens_set(&sticky, &joined(&with_removed), one[0], &[]);
    assert_eq!(set, Some(text_of(&[&others[..7], &one[..]].concat())));
    // Whatever a client sends, the cookie stays small.
    let many = joined(&others.repeat(100));
    let set = set_at(NOW, &sticky, &format!("{many}; {many}"), one[0], &[]).expect("a cookie");
    assert!(set.len() < 300, "{set}");
}

#[test]
fn an_inner_balancers_cookie_and_ours_become_one() {
    // Pools and servers have the same names in both, as they do if they are numbered.
    let (outer, outer_tokens) = pool("p", &["one", "two"], None);
    let key =
        |name: &str| ServerKey { pool: "p".into(), name: name.into(), address: Address::Name("in".to_owned(), 1) };
    let (first, second) = (key("one"), key("two"));
    let mut inner = Sticky::new(&outer.rule, "p");
    let inner_tokens = inner.add([(&first, true), (&second, true)].into_iter());
    let inner_set = |cookies: &str, server| set_at(NOW, &inner, cookies, server, &[]);
    // The first visit: the inner one sets its own, the outer one adds its own.
    let from_inner = inner_set("", inner_tokens[1]).expect("a cookie");
    let both = tokens_set(&outer, "", outer_tokens[0], &["session=1", &from_inner]).expect("a cookie");
    assert_eq!(both, text_of(&[inner_tokens[1], outer_tokens[0]]));
    // Each finds its own, in any order, and leaves the cookie alone.
    for cookies in [both.join("."), text_of(&[outer_tokens[0], inner_tokens[1]]).join(".")] {
        let headers = Headers::from_pairs([("Cookie", &*format!("lb={cookies}"))]);
        assert_eq!(requested(&outer, &headers).token, Some(outer_tokens[0]), "{cookies}");
        assert_eq!(requested(&inner, &headers).token, Some(inner_tokens[1]), "{cookies}");
    }
    let cookie = format!("lb={}", both.join("."));
    assert_eq!(inner_set(&cookie, inner_tokens[1]), None);
    // The inner one moves the client; then the outer one does; then both do.
    let moved = inner_set(&cookie, inner_tokens[0]).expect("a cookie");
    let both = tokens_set(&outer, &cookie, outer_tokens[0], &[&moved]).expect("a cookie");
    assert_eq!(both, text_of(&[inner_tokens[0], outer_tokens[0]]));
    let both = tokens_set(&outer, &cookie, outer_tokens[1], &[]).expect("a cookie");
    assert_eq!(both, text_of(&[inner_tokens[1], outer_tokens[1]]));
    let both = tokens_set(&outer, &cookie, outer_tokens[1], &[&moved]).expect("a cookie");
    assert_eq!(both, text_of(&[inner_tokens[0], outer_tokens[1]]));
    // One of an earlier version knows no other tokens.
    let old = format!("lb={}; Max-Age=60; Path=/; HttpOnly; SameSite=Lax", short(inner_tokens[0]));
    let other = pool("q", &["one"], None).1[0];
    let both = tokens_set(&outer, &format!("lb={other}.{}", outer_tokens[0]), outer_tokens[0], &[&old]);
    assert_eq!(both, Some(vec![other.to_string(), short(inner_tokens[0]), outer_tokens[0].to_string()]));
}

#[test]
fn the_servers_own_cookies_are_left_alone() {
    let (sticky, tokens) = pool("p", &["one"], None);
    let token = tokens[0];
    let other = pool("q", &["one"], None).1[0];
    for cookie in [
        "lb=mine; Path=/".to_owned(),
        "lb=; Path=/; Max-Age=0".to_owned(),
        "lb".to_owned(),
        "xlb=0123456789abcdef; Path=/".to_owned(),
        format!("lb={other}; Path=/app"),
        format!("lb={other}; Path=/; Domain=example.com"),
        format!("lb={other}.mine; Path=/"),
    ] {
        for (client, count) in [(String::new(), 2), (format!("lb={token}"), 1)] {
            let request = Headers::from_pairs([("Cookie", &*client)]);
            let mut response = Headers::from_pairs([("Set-Cookie", &*cookie)]);
            set(&sticky, requested(&sticky, &request), token, (&request, &mut response), NOW);
            let all: Vec<_> = response.all(HeaderName::SetCookie).collect();
            assert_eq!((all.len(), all[0]), (count, cookie.as_bytes()), "{client}");
        }
    }
}

#[test]
fn a_cookie_with_a_lifetime_is_renewed_while_it_is_used() {
    // The pool's `max_age`; the age and the lifetime of the stamp; the lifetime that is set.
    let cases = [
        (None, None, None),
        (Some(3600), None, Some(3600)),
        (Some(3600), Some((0, 3600)), None),
        (Some(3600), Some((224, 3600)), None),
        (Some(3600), Some((225, 3600)), Some(3600)),
        (Some(3600), Some((9000, 3600)), Some(3600)),
        (Some(3), Some((0, 3)), Some(3)),
        (Some(1), Some((0, 1)), Some(1)),
        // A clock that is ahead.
        (Some(3600), Some((-100, 3600)), None),
        (Some(3600), Some((-90_000, 3600)), Some(3600)),
        // Another pool, or an earlier edit, has set another lifetime. The longer one counts.
        (Some(3600), Some((60, 36_000)), None),
        (Some(3600), Some((33_000, 36_000)), Some(3600)),
        (Some(36_000), Some((0, 3600)), Some(36_000)),
        (None, Some((0, 3600)), None),
        (None, Some((300, 3600)), Some(3600)),
        (None, Some((9000, 3600)), Some(3600)),
        (Some(3), Some((0, 3600)), None),
    ];
    for (max_age, stamp, expected) in cases {
        let (sticky, tokens) = pool("p", &["one"], max_age);
        let stamp_text = stamp.map_or_else(String::new, |(age, lifetime)| {
            format!(".t{:x}-{lifetime:x}", NOW.saturating_add_signed(-age))
        });
        let set = set_at(NOW, &sticky, &format!("lb={}{stamp_text}", tokens[0]), tokens[0], &[]);
        let expected = expected
            .map(|age| format!("lb={}.t{NOW:x}-{age:x}; Max-Age={age}; Path=/; HttpOnly; SameSite=Lax", tokens[0]));
        assert_eq!(set, expected, "{max_age:?} {stamp:?}");
    }
    // A new token does not shorten the lifetime that another pool has set.
    let (sticky, tokens) = pool("p", &["one"], Some(60));
    let other = pool("q", &["one"], None).1[0];
    let set = set_at(NOW, &sticky, &format!("lb={other}.t{:x}-e10", NOW - 99), tokens[0], &[]).expect("a cookie");
    assert!(set.contains("Max-Age=3500;") && set.contains(&other.to_string()), "{set}");
}
