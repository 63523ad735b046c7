use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::*;
use crate::config::StickyConfig;
use crate::config::file::parse;
use crate::config::source::SourceFile;
use crate::http1::framing;
use crate::http1::head::HeadLimits;
use crate::live::counters::PerWorker;
use crate::live::listener::{ListenerId, LiveListener};
use crate::live::server::ServerKey;

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
    snapshot_with(routes, "")
}

fn snapshot_with(routes: &str, proxy: &str) -> Snapshot {
    let text = format!(
        "proxy = {{ {proxy} }}\nlistener = [{{ address = \"127.0.0.1:1\" }}]\nserver = [{{ name = \"s\", address = \"127.0.0.1:2\" }}]\n\
         pool.api.server = [{{ name = \"s\", address = \"127.0.0.1:3\" }}]\nroute = [{routes}]"
    );
    let config = Arc::new(parse(&[SourceFile::new("lb.toml", text)], &|_| None).expect("a valid configuration"));
    let mut registry = crate::control::registry::Registry::new(1);
    let plan = registry.plan(&config, Instant::now(), |_| None);
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
fn a_path_that_its_server_may_read_differently_has_the_same_route_either_way() {
    // Case: path-normal-form
    let routes = r#"{ pool = "default" }, { path = "/v1", pool = "api" }, { path = "/v2", pool = "api" }"#;
    let index = |snapshot: &Snapshot, name: &str| {
        snapshot.pools.iter().position(|pool| &*pool.live.name == name).expect("a pool")
    };
    let ambiguous = Err(ProxyError::Rejected(Rejection::AmbiguousPath));
    let cases = [
        ("/a/../b", Ok(0)),
        ("/v1/x/../y", Ok(1)),
        ("/v1/./y", Ok(1)),
        ("/v1/.", Ok(1)),
        ("/./a", Ok(0)),
        ("/a/../v1", ambiguous),
        ("/a/%2e%2e/v1", ambiguous),
        ("/./v1", ambiguous),
        ("/v1/..", ambiguous),
        ("/v1/../a", ambiguous),
        ("/v1/../v2", ambiguous),
        ("/%761/../a", ambiguous),
        ("/a/../%761", ambiguous),
        ("http://a/v1/../a", ambiguous),
        // Only escapes of unreserved characters differ.
        ("/%761/x", Ok(1)),
        ("/%76%31", Ok(1)),
        // The path is its own normal form.
        ("/a/..%2fv1", Ok(0)),
        ("/v1%2f..%2fa", Ok(0)),
        ("//v1", Ok(0)),
        ("/a/%252e%252e/v1", Ok(0)),
        ("/a/..;/v1", Ok(0)),
        ("/a\\..\\v1", Ok(0)),
    ];
    for (mode, config) in [("as-sent", ""), ("normalized", "path = \"normalized\"")] {
        let snapshot = snapshot_with(routes, config);
        let pools = [index(&snapshot, "default"), index(&snapshot, "api"), index(&snapshot, "api")];
        for (path, found) in cases {
            let head = head(&format!("GET {path} HTTP/1.1¶Host: a¶¶"));
            let (target, _) = validate(&head, length(&head)).expect("a valid request");
            let route = find_route(&snapshot, &target);
            match found {
                Err(error) if mode == "as-sent" => assert_eq!(route, Err(error), "{path}"),
                Err(_) => assert!(route.is_ok(), "{path}"),
                Ok(found) => assert_eq!(route, Ok(RouteMatch { route: found, pool: pools[found] }), "{mode}: {path}"),
            }
        }
    }
    // No route is another route than one.
    let snapshot = snapshot(r#"{ path = "/v1", pool = "api" }"#);
    for (path, error) in [
        ("/v1/../a", ProxyError::Rejected(Rejection::AmbiguousPath)),
        ("/a/../v1", ProxyError::Rejected(Rejection::AmbiguousPath)),
        ("/a/../b", ProxyError::NoRoute),
    ] {
        let head = head(&format!("GET {path} HTTP/1.1¶Host: a¶¶"));
        let (target, _) = validate(&head, length(&head)).expect("a valid request");
        assert_eq!(find_route(&snapshot, &target), Err(error), "{path}");
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
        // Case: expect
        ("GET / HTTP/1.1¶Host: a¶Expect:¶¶", 0, Ok(())),
        ("GET / HTTP/1.1¶Host: a¶Expect: , ,¶¶", 0, Ok(())),
        ("GET / HTTP/1.1¶Host: a¶Expect:¶Expect: 100-continue,¶¶", 0, Ok(())),
        ("GET / HTTP/1.1¶Host: a¶Expect: 100-continue, 200-ok¶¶", 0, Err(ProxyError::Expectation)),
        ("GET / HTTP/1.1¶Host: a¶Expect:¶Expect: x¶¶", 0, Err(ProxyError::Expectation)),
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
        configured: SocketAddr::from(([127, 0, 0, 1], 8080)).into(),
        address: SocketAddr::from(([127, 0, 0, 1], 8080)).into(),
        rules: Arc::default(),
        counters: Arc::new(PerWorker::new(1)),
    };
    Client::plain(Arc::new(listener), SocketAddr::from(([192, 0, 2, 1], 1234)).into())
}

#[test]
fn rewrite_makes_the_head_the_servers() {
    use PathMode::{AsSent, Normalized};
    /// The head; the target and `Host` that the server gets, the upgrade, whether trailers are accepted.
    type Case = (&'static str, &'static str, &'static str, Option<&'static str>, bool);
    let cases: [(PathMode, Case); 11] = [
        (AsSent, ("GET /a?b HTTP/1.1¶Host: a:80¶¶", "/a?b", "a:80", None, false)),
        (AsSent, ("GET /%61/../b?c HTTP/1.1¶Host: a¶TE: trailers¶¶", "/%61/../b?c", "a", None, true)),
        (Normalized, ("GET /%61/../b?c HTTP/1.1¶Host: a¶TE: trailers¶¶", "/b?c", "a", None, true)),
        (AsSent, ("GET http://b/x HTTP/1.1¶Host: a¶¶", "/x", "b", None, false)),
        (AsSent, ("GET http://b/%7Ex/.?%61 HTTP/1.1¶Host: a¶¶", "/%7Ex/.?%61", "b", None, false)),
        (Normalized, ("GET http://b/%7Ex/.?%61 HTTP/1.1¶Host: a¶¶", "/~x/?%61", "b", None, false)),
        (AsSent, ("OPTIONS http://b HTTP/1.1¶Host: a¶¶", "*", "b", None, false)),
        (Normalized, ("OPTIONS http://b HTTP/1.1¶Host: a¶¶", "*", "b", None, false)),
        (AsSent, ("GET / HTTP/1.0¶¶", "/", "127.0.0.1:8080", None, false)),
        (
            AsSent,
            ("GET / HTTP/1.1¶Host: a¶Connection: upgrade¶Upgrade: websocket¶¶", "/", "a", Some("websocket"), false),
        ),
        (AsSent, ("GET / HTTP/1.1¶Host: a¶Connection: upgrade¶Upgrade: h2c¶¶", "/", "a", None, false)),
    ];
    let (client, proxy) = (client(), ProxyConfig::default());
    for (mode, (text, target, host, upgrade, trailers)) in cases {
        let mut head = head(text);
        let length = length(&head).expect("valid framing");
        let (valid, _) = validate(&head, Ok(length)).expect("a valid request");
        let server_target = ServerTarget::new(&valid, mode, head.target());
        let rules = RequestRules { client: &client, proxy: &proxy, sticky: None, is_call: false };
        let (plan, address) = rewrite(&mut head, length, server_target, &rules);
        assert_eq!(plan.target.as_deref().unwrap_or(head.target()), target.as_bytes(), "{text}");
        assert_eq!(head.headers.get(HeaderName::Host), Some(host.as_bytes()), "{text}");
        assert_eq!((plan.upgrade.as_deref(), plan.accepts_trailers), (upgrade.map(str::as_bytes), trailers), "{text}");
        assert_eq!(
            (plan.length, plan.cookie.token, address.to_string()),
            (length, None, "192.0.2.1".to_owned()),
            "{text}"
        );
        assert!(!head.headers.has(HeaderName::Connection), "{text}");
    }
}

#[test]
fn rewrite_finds_the_server_that_a_cookie_selects() {
    let (sticky, token) = sticky();
    let (client, proxy) = (client(), ProxyConfig::default());
    let rules = RequestRules { client: &client, proxy: &proxy, sticky: Some(&sticky), is_call: false };
    let rewritten = |text: &str| {
        let mut head = head(text);
        let length = length(&head).expect("valid framing");
        let (target, _) = validate(&head, Ok(length)).expect("a valid request");
        let server_target = ServerTarget::new(&target, PathMode::AsSent, head.target());
        rewrite(&mut head, length, server_target, &rules).0.cookie.token
    };
    assert_eq!(rewritten(&format!("GET / HTTP/1.1¶Host: a¶Cookie: lb={token}¶¶")), Some(token));
    assert_eq!(rewritten(&format!("GET / HTTP/1.1¶Host: a¶Cookie: other={token}¶¶")), None);
}

#[test]
fn rewrite_makes_expectation_and_length_canonical() {
    let (client, proxy) = (client(), ProxyConfig::default());
    let rules = RequestRules { client: &client, proxy: &proxy, sticky: None, is_call: false };
    let cases = [
        ("1.0", "100-continue", "5", None, "5"),
        ("1.1", "100-Continue", "05", Some("100-continue"), "5"),
        ("1.1", ",100-continue, ,", "010", Some("100-continue"), "10"),
        ("1.1", "", "000", None, "0"),
        ("1.1", ",,", "10", None, "10"),
    ];
    for (version, expect, sent, expected, written) in cases {
        let mut head = head(&format!("POST / HTTP/{version}¶Host: a¶Expect: {expect}¶Content-Length: {sent}¶¶"));
        let length = length(&head).expect("valid framing");
        let (target, _) = validate(&head, Ok(length)).expect("a valid request");
        let server_target = ServerTarget::new(&target, PathMode::AsSent, head.target());
        rewrite(&mut head, length, server_target, &rules);
        assert_eq!(head.headers.get(HeaderName::Expect), expected.map(str::as_bytes), "{version} {expect}");
        assert_eq!(head.headers.get(HeaderName::ContentLength), Some(written.as_bytes()), "{version} {sent}");
    }
}

/// The sessions of a pool with one server, and that server's token.
fn sticky() -> (Sticky, Token) {
    let address = crate::config::Address::Name("app".to_owned(), 80);
    let key = ServerKey { pool: "default".into(), name: "server1".into(), address };
    let mut sticky = Sticky::new(&StickyConfig { cookie: "lb".to_owned(), max_age: None }, "default");
    let token = sticky.add([(&key, true)].into_iter())[0];
    (sticky, token)
}

#[test]
fn response_rules_give_the_client_its_cookie_unless_it_has_it() {
    let (sticky, server) = sticky();
    for (cookie, is_set) in [(String::new(), true), (format!("lb={server}"), false)] {
        let request = Headers::from_pairs([("Cookie", &*cookie)]);
        let cookie = cookie::requested(&sticky, &request);
        let stickiness = Stickiness { sticky: &sticky, cookie, request: &request, server, now: 0 };
        let mut head = ResponseHead::of_status(200);
        assert_eq!(response_rules(&mut head, false, Some(stickiness)), None);
        assert_eq!(head.headers.has(HeaderName::SetCookie), is_set, "{cookie:?}");
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
