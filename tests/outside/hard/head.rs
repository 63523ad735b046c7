//! Section 2: the head.

use super::{BAD, Closed, ONE, Own, Row, Seen, assert_well, bytes, ok, row, run};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS};
use crate::support::servers::Server;

#[rustfmt::skip]
const HEADS: &[Row] = &[
    row("bad-header", "G+X: {}¶¶", &["a\rb", "a\0b", "a\u{7}b", "a\u{1b}b", "a¶ folded", "a¶\tfolded"], BAD),
    row("bad-header", "G+{}¶¶", &[": nameless", "na[me: x", "na\u{e4}me: x", "colonless", "na me: x", "name : x"], BAD),
    row("bad-header", "{}", &["GET / HTTP/1.1\nHost: a\n\n", "GET / HTTP/1.1¶Host: a\n¶", "GET / HTTP/1.1\nHost: a¶¶"], BAD),
    row("bad-request-line", "{}¶Host: a¶¶",
        &["GET  / HTTP/1.1", "GET\t/ HTTP/1.1", "GET /\tHTTP/1.1", "GET /a b HTTP/1.1", "GET / HTTP/9.9",
          "GET / http/1.1", "PRI * HTTP/2.0", "GET / HTTP/1", "GET /", "GET / HTTP/1.1 "], Closed(&[400, 505])),
    row("bad-target", "GET {} HTTP/1.1¶Host: a¶¶", &["/a#b", "/\u{e9}", "/?\u{e9}", "*", "a", "ftp://a/"], BAD),
    row("methods-without-server", "OPTIONS * HTTP/1.1¶Host: a¶¶", ONE, Own(204)),
    row("methods-without-server", "CONNECT a:443 HTTP/1.1¶Host: a:443¶¶{}", &["", "GET / HTTP/1.1¶Host: a¶¶"], Closed(&[405])),
    row("methods-without-server", "TRACE / HTTP/1.1¶Host: a¶¶", ONE, Own(405)),
    row("absolute-target", "GET http://b/x HTTP/1.1¶Host: a¶¶", ONE, Seen("GET /x HTTP/1.1", "", &[("host", &["b"])])),
    row("absolute-target", "GET http://b:8/x/../y?z HTTP/1.1¶Host: a¶¶", ONE, Seen("GET /y?z HTTP/1.1", "", &[("host", &["b:8"])])),
    row("bad-host", "GET / HTTP/1.1¶{}¶", &["", "Host: a¶Host: a¶", "Host: a¶Host: b¶"], BAD),
    row("bad-host", "GET / HTTP/1.1¶Host: {}¶¶",
        &["", "a/b", "u@a", "a, b", "a:99999", "a:b", "[::1", "a b", "\u{e9}"], BAD),
    // HTTP/1.0 does not require a `Host`.
    row("bad-host", "GET /old HTTP/1.0¶¶", ONE, Seen("GET /old HTTP/1.1", "", &[("via", &[])])),
    row("path-normal-form", "GET {} HTTP/1.1¶Host: a¶¶", &["/%00", "/a%00b", "/%c0%af", "/..", "/a/../../b", "/%2e%2e/a", "/%zz", "/%4"], Own(400)),
    row("path-normal-form", "GET {} HTTP/1.1¶Host: a¶¶", &["/a/../admin", "/a/%2e%2e/admin", "/%61dmin", "/a/.%2E/./admin"],
        Seen("GET /admin HTTP/1.1", "", &[])),
    row("path-normal-form", "GET /..%2fadmin HTTP/1.1¶Host: a¶¶", ONE, Seen("GET /..%2fadmin HTTP/1.1", "", &[])),
    row("path-normal-form", "GET //admin HTTP/1.1¶Host: a¶¶", ONE, Seen("GET //admin HTTP/1.1", "", &[])),
    row("path-normal-form", "GET /%61?%61=/../b&c=%00 HTTP/1.1¶Host: a¶¶", ONE, Seen("GET /a?%61=/../b&c=%00 HTTP/1.1", "", &[])),
    row("path-normal-form", "GET /caf%C3%A9;x=1,2|3? HTTP/1.1¶Host: a¶¶", ONE, Seen("GET /caf%C3%A9;x=1,2|3? HTTP/1.1", "", &[])),
];

#[test]
fn an_ambiguous_head_is_rejected_or_normalized() {
    run(HEADS);
}

#[test]
fn an_invalid_request_is_counted() {
    let server = ok();
    let lb = Lb::in_front_of(&server, "");
    for (sent, status) in [("nonsense¶¶", 400), ("GET / HTTP/1.1¶Host: a, b¶¶", 400), ("GET / HTTP/1.1¶X: {}¶¶", 431)]
    {
        let sent = bytes(&sent.replace("{}", &"x".repeat(100 << 10)));
        assert_eq!(Client::connect(lb.address()).request(sent).status, status);
    }
    let count = |method: &str, code: u32| {
        lb.metric(&format!("lb_requests_total{{route=\"-\",method=\"{method}\",code=\"{code}\"}}"))
    };
    eventually("all requests are counted", || {
        let counts = (count("OTHER", 400), count("GET", 400), count("OTHER", 431));
        (counts == (Some(1.0), Some(1.0), Some(1.0))).then_some(())
    });
}

// Case: head-limits
#[test]
fn headers_and_bytes_of_a_head_have_configured_limits() {
    let server = ok();
    let lb = Lb::in_front_of(&server, "[limits]\nheaders = 5\nheader_bytes = \"2KiB\"\n");
    let address = lb.address();
    let headers = |count: usize| {
        let headers: String = (1..count).map(|i| format!("X-{i}: {i}\r\n")).collect();
        format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n")
    };
    let long = |length: usize| {
        let head = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n";
        head.replace("X: ", &format!("X: {}", "x".repeat(length - head.len())))
    };
    let rejected = |request: String| {
        let mut client = Client::connect(address);
        let response = client.request(request);
        (response.status, client.is_closed())
    };
    assert_eq!(Client::connect(address).request(headers(5)).status, 200);
    assert_eq!(rejected(headers(6)), (431, true));
    assert_eq!(Client::connect(address).request(long(2 << 10)).status, 200);
    assert_eq!(rejected(long((2 << 10) + 1)), (431, true));
    assert_eq!(rejected(long(1 << 20)), (431, true));
    // More headers than the default limit, and a target over the fixed limit.
    lb.apply(&format!(
        "[health]\nkind = \"none\"\n[limits]\nheaders = 150\nheader_bytes = \"256KiB\"\n{}",
        server.table("server1")
    ));
    assert_eq!(Client::connect(address).request(headers(150)).status, 200);
    assert_eq!(rejected(headers(151)), (431, true));
    assert_eq!(rejected(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(70 << 10))), (414, true));
    assert!(server.requests().iter().all(|request| request.path() == "/"));
    assert_well(&lb, &server, "head-limits");
}

// Cases: absolute-target, host-case, path-normal-form, path-segments
#[test]
fn host_and_path_select_the_pool() {
    let (default, api) = (Server::named("default"), Server::named("api"));
    let api_table = api.table("api1").replace("[[server]]", "[[pool.api.server]]");
    let lb = Lb::start(&format!(
        "{NO_CHECKS}[[route]]\nhost = \"api.example.com\"\npath = \"/v1\"\npool = \"api\"\n\
         [[route]]\nhost = \"*.example.com\"\npool = \"default\"\n{}{api_table}",
        default.table("server1")
    ));
    #[rustfmt::skip]
    let cases = [
        ("path-segments", "api.example.com", "/v1", "api"),
        ("path-segments", "api.example.com", "/v1/x", "api"),
        ("path-segments", "api.example.com", "/v1?x", "api"),
        ("path-segments", "api.example.com", "/v1x", "default"),
        ("absolute-target", "www.example.com", "http://api.example.com/v1", "api"),
        ("absolute-target", "api.example.com", "http://www.example.com/v1", "default"),
        ("host-case", "API.Example.COM.", "/v1", "api"),
        ("host-case", "api.example.com:8080", "/v1?x", "api"),
        ("host-case", "www.example.com", "/v1", "default"),
        ("host-case", "example.org", "/v1", ""),
        ("path-normal-form", "api.example.com", "/x/../v1/x", "api"),
        ("path-normal-form", "api.example.com", "/x/%2e%2e/v1", "api"),
        ("path-normal-form", "api.example.com", "/%761", "api"),
        ("path-normal-form", "api.example.com", "/x/..%2fv1/x", "default"),
        ("path-normal-form", "api.example.com", "/..%2fv1", "default"),
        ("path-normal-form", "api.example.com", "//v1", "default"),
    ];
    let mut client = Client::connect(lb.address());
    for (case, host, path, pool) in cases {
        let response = client.request(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let selected = if response.status == 404 { String::new() } else { response.text() };
        assert_eq!(selected, pool, "{case}: {path} of {host}");
    }
    assert!(default.requests().iter().chain(&api.requests()).all(|request| request.is_canonical()));
}
