use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::*;
use crate::config::file::parse;
use crate::config::source::SourceFile;
use crate::http1::framing;
use crate::http1::head::HeadLimits;
use crate::live::counters::PerWorker;
use crate::live::listener::{ListenerId, LiveListener};

/// A head as a client sends it; `¶` is CRLF.
fn head(text: &str) -> RequestHead {
    let mut head = RequestHead::default();
    let text = text.replace('¶', "\r\n");
    head.parse(text.as_bytes(), HeadLimits { bytes: 10_000, headers: 100 }).expect("a valid head").expect("all of it");
    head
}

fn length(head: &RequestHead) -> Result<BodyLength, Rejection> {
    framing::request(&head.headers, head.version).map(BodyLength::from)
}

fn snapshot(routes: &str) -> Snapshot {
    let text = format!(
        "listener = [{{ address = \"127.0.0.1:1\" }}]\nserver = [{{ name = \"s\", address = \"127.0.0.1:2\" }}]\n\
         pool.api.server = [{{ name = \"s\", address = \"127.0.0.1:3\" }}]\nroute = [{routes}]"
    );
    let config = Arc::new(parse(&[SourceFile::new("lb.toml", text)], &|_| None).expect("a valid configuration"));
    let mut registry = crate::control::registry::Registry::new(1);
    let plan = registry.plan(&config, Instant::now());
    let snapshot = plan.snapshot(1, "".into(), [].into(), SystemTime::now());
    registry.commit(plan);
    snapshot
}

#[test]
fn validate_rejects_what_is_ambiguous_and_responds_to_questions_to_the_balancer() {
    let cases = [
        ("GET / HTTP/1.1¶Host: a¶¶", None),
        ("POST / HTTP/1.1¶Host: a¶Content-Length: 5¶¶", None),
        ("POST / HTTP/1.1¶Host: a¶Content-Length: 5¶Transfer-Encoding: chunked¶¶", Some(Rejection::Framing)),
        ("POST / HTTP/1.1¶Host: a¶Content-Length: +5¶¶", Some(Rejection::Framing)),
        ("GET / HTTP/1.1¶¶", Some(Rejection::NoHost)),
        ("GET / HTTP/1.1¶Host: a¶Host: a¶¶", Some(Rejection::ManyHosts)),
        ("GET /../.. HTTP/1.1¶Host: a¶¶", Some(Rejection::AboveRoot)),
        ("CONNECT a:443 HTTP/1.1¶Host: a¶¶", Some(Rejection::Connect)),
    ];
    for (text, rejection) in cases {
        let head = head(text);
        let error = validate(&head, length(&head)).err();
        assert_eq!(error, rejection.map(Reply::from), "{text}");
    }
    let options = head("OPTIONS * HTTP/1.1¶Host: a¶¶");
    assert_eq!(validate(&options, length(&options)).err(), Some(Reply::Options));
}

#[test]
fn find_route_takes_the_most_specific_route() {
    let snapshot = snapshot(
        r#"{ host = "a", pool = "default" }, { host = "a", path = "/v1", pool = "api" }, { host = "*.b", pool = "api" }"#,
    );
    let index = |name: &str| snapshot.pools.iter().position(|pool| &*pool.live.name == name).expect("a pool");
    let (default, api) = (index("default"), index("api"));
    let cases = [
        ("GET /x HTTP/1.1¶Host: a¶¶", Some((0, default))),
        ("GET /v1/x HTTP/1.1¶Host: A.:80¶¶", Some((1, api))),
        ("GET /v1x HTTP/1.1¶Host: a¶¶", Some((0, default))),
        ("GET http://x.b/v1 HTTP/1.1¶Host: a¶¶", Some((2, api))),
        ("GET / HTTP/1.1¶Host: c¶¶", None),
    ];
    for (text, found) in cases {
        let head = head(text);
        let (target, _) = validate(&head, length(&head)).expect("a valid request");
        let expected = found.map(|(route, pool)| RouteMatch { route, pool }).ok_or(ProxyError::NoRoute);
        assert_eq!(find_route(&snapshot, &target), expected, "{text}");
    }
}

#[test]
fn admit_checks_the_declared_length_and_the_expectation() {
    let cases = [
        ("GET / HTTP/1.1¶Host: a¶¶", 10, Ok(())),
        ("POST / HTTP/1.1¶Host: a¶Content-Length: 10¶¶", 10, Ok(())),
        ("POST / HTTP/1.1¶Host: a¶Content-Length: 11¶¶", 10, Err(ProxyError::BodyTooLarge)),
        ("POST / HTTP/1.1¶Host: a¶Content-Length: 11¶¶", 0, Ok(())),
        // Its length is checked as it is received.
        ("POST / HTTP/1.1¶Host: a¶Transfer-Encoding: chunked¶¶", 10, Ok(())),
        ("POST / HTTP/1.1¶Host: a¶Expect: 100-Continue¶Content-Length: 1¶¶", 0, Ok(())),
        ("POST / HTTP/1.1¶Host: a¶Expect: payment¶Content-Length: 1¶¶", 0, Err(ProxyError::Expectation)),
    ];
    for (text, limit, expected) in cases {
        let head = head(text);
        let length = length(&head).expect("valid framing");
        assert_eq!(admit(&head, length, limit), expected, "{text}");
    }
}

fn client() -> Client {
    let listener = LiveListener {
        id: ListenerId(1),
        name: "web".into(),
        address: SocketAddr::from(([127, 0, 0, 1], 8080)),
        counters: Arc::new(PerWorker::new(1)),
    };
    Client::plain(Arc::new(listener), SocketAddr::from(([192, 0, 2, 1], 1234)))
}

#[test]
fn rewrite_makes_the_head_the_servers() {
    /// The head; the target and `Host` that the server gets, the upgrade, whether trailers are accepted.
    type Case = (&'static str, &'static str, &'static str, Option<&'static str>, bool);
    let cases: [Case; 6] = [
        ("GET /a?b HTTP/1.1¶Host: a:80¶¶", "/a?b", "a:80", None, false),
        ("GET /%61/../b?c HTTP/1.1¶Host: a¶TE: trailers¶¶", "/b?c", "a", None, true),
        ("GET http://b/x HTTP/1.1¶Host: a¶¶", "/x", "b", None, false),
        ("GET / HTTP/1.0¶¶", "/", "127.0.0.1:8080", None, false),
        ("GET / HTTP/1.1¶Host: a¶Connection: upgrade¶Upgrade: websocket¶¶", "/", "a", Some("websocket"), false),
        ("GET / HTTP/1.1¶Host: a¶Connection: upgrade¶Upgrade: h2c¶¶", "/", "a", None, false),
    ];
    let (client, proxy) = (client(), ProxyConfig::default());
    for (text, target, host, upgrade, trailers) in cases {
        let mut head = head(text);
        let length = length(&head).expect("valid framing");
        let (valid, _) = validate(&head, Ok(length)).expect("a valid request");
        let normalized = Normalized::new(&valid, head.target());
        let rules = RequestRules { client: &client, proxy: &proxy, sticky: None };
        let (plan, address) = rewrite(&mut head, length, normalized, &rules);
        assert_eq!(plan.target.as_deref().unwrap_or(head.target()), target.as_bytes(), "{text}");
        assert_eq!(head.headers.get(HeaderName::Host), Some(host.as_bytes()), "{text}");
        assert_eq!((plan.upgrade.as_deref(), plan.accepts_trailers), (upgrade.map(str::as_bytes), trailers), "{text}");
        assert_eq!((plan.length, plan.token, address.to_string()), (length, None, "192.0.2.1".to_owned()), "{text}");
        assert!(!head.headers.has(HeaderName::Connection), "{text}");
    }
}

#[test]
fn rewrite_finds_the_server_that_a_cookie_selects_and_rejects_an_upgrade_with_a_body() {
    let rule = StickyConfig { cookie: "lb".to_owned(), max_age: Duration::from_secs(60) };
    let (client, proxy) = (client(), ProxyConfig::default());
    let rules = RequestRules { client: &client, proxy: &proxy, sticky: Some(&rule) };
    let rewritten = |text: &str| {
        let mut head = head(text);
        let length = length(&head).expect("valid framing");
        let (target, _) = validate(&head, Ok(length)).expect("a valid request");
        let normalized = Normalized::new(&target, head.target());
        rewrite(&mut head, length, normalized, &rules).0.token
    };
    assert_eq!(rewritten("GET / HTTP/1.1¶Host: a¶Cookie: lb=0123456789abcdef¶¶"), Some(*b"0123456789abcdef"));
    assert_eq!(rewritten("GET / HTTP/1.1¶Host: a¶Cookie: other=0123456789abcdef¶¶"), None);
}

#[test]
fn rewrite_removes_an_expectation_of_http_1_0() {
    let (client, proxy) = (client(), ProxyConfig::default());
    let rules = RequestRules { client: &client, proxy: &proxy, sticky: None };
    for (version, kept) in [("1.0", false), ("1.1", true)] {
        let mut head = head(&format!("POST / HTTP/{version}¶Host: a¶Expect: 100-continue¶Content-Length: 5¶¶"));
        let length = length(&head).expect("valid framing");
        let (target, _) = validate(&head, Ok(length)).expect("a valid request");
        let normalized = Normalized::new(&target, head.target());
        rewrite(&mut head, length, normalized, &rules);
        assert_eq!(head.headers.has(HeaderName::Expect), kept, "{version}");
    }
}

#[test]
fn response_rules_give_the_client_its_cookie_unless_it_has_it() {
    let rule = StickyConfig { cookie: "lb".to_owned(), max_age: Duration::from_secs(60) };
    let (one, two) = (Some([b'1'; 16]), Some([b'2'; 16]));
    let sticky = |client, server| Some(Stickiness { rule: &rule, client, server });
    for (sticky, cookie) in
        [(None, false), (sticky(None, one), true), (sticky(one, one), false), (sticky(one, two), true)]
    {
        let mut head = ResponseHead::of_status(200);
        assert_eq!(response_rules(&mut head, false, sticky), None);
        assert_eq!(head.headers.has(HeaderName::SetCookie), cookie, "{sticky:?}");
    }
}

#[test]
fn response_rules_switch_protocols_with_a_101_only() {
    for (status, upgrade) in [(101, Some(&b"websocket"[..])), (200, None)] {
        let mut head = ResponseHead::of_status(status);
        head.headers.add_named("Connection", b"upgrade");
        head.headers.add_named("Upgrade", b"websocket");
        assert_eq!(response_rules(&mut head, false, None).as_deref(), upgrade);
        assert!(!head.headers.has(HeaderName::Upgrade) && !head.headers.has(HeaderName::Connection));
    }
}
