//! Section 2: the head.

use std::io::Write;

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
        &["GET  / HTTP/1.1", "GET\t/ HTTP/1.1", "GET /\tHTTP/1.1", "GET /a b HTTP/1.1", "GET / http/1.1", "GET / HTTP/1",
          "GET / HTTP/1.", "GET / HTTP/1.10", "GET / HTTP/1.1.1", "GET / HTTP/10.1", "GET / HTTP/11", "GET / HTTP/2", "GET / HTTP",
          "GET / HTTPS/1.1", "GET / HTTP/x.y", "GET / HTTP/ 1.1", "GET / HTTP/9.9 ", "GET / HTTP/-1.1", "GET /", "GET / ", "GET", "GET / HTTP/1.1 ", " GET / HTTP/1.1"], BAD),
    row("bad-request-line", "GET / HTTP/9.9\nHost: a\n\n", ONE, BAD),
    row("bad-request-line", "{}¶Host: a¶¶", &["GET / HTTP/9.9", "PRI * HTTP/2.0", "GET / HTTP/2.0", "GET / HTTP/1.2", "GET / HTTP/0.9", "OPTIONS * HTTP/3.0"], Closed(&[505])),
    row("bad-target", "GET {} HTTP/1.1¶Host: a¶¶", &["/a#b", "/\u{e9}", "/?\u{e9}", "*", "a", "ftp://a/"], BAD),
    row("methods-without-server", "OPTIONS * HTTP/1.1¶Host: a¶¶", ONE, Own(204)),
    row("methods-without-server", "CONNECT a:443 HTTP/1.1¶Host: a:443¶¶{}", &["", "GET / HTTP/1.1¶Host: a¶¶"], Closed(&[405])),
    row("methods-without-server", "OPTIONS {} HTTP/1.1¶Host: a¶¶", &["http://a", "HTTP://a:80", "https://a"], Seen("OPTIONS * HTTP/1.1", "", &[])),
    row("methods-without-server", "OPTIONS http://a{} HTTP/1.1¶Host: a¶¶", &["/"], Seen("OPTIONS / HTTP/1.1", "", &[])),
    row("methods-without-server", "OPTIONS http://a?q HTTP/1.1¶Host: a¶¶", ONE, Seen("OPTIONS /?q HTTP/1.1", "", &[])),
    row("methods-without-server", "TRACE / HTTP/1.1¶Host: a¶¶", ONE, Own(405)),
    row("absolute-target", "GET http://b/x HTTP/1.1¶Host: a¶¶", ONE, Seen("GET /x HTTP/1.1", "", &[("host", &["b"])])),
    row("absolute-target", "GET http://b:8/x/../y?z HTTP/1.1¶Host: a¶¶", ONE, Seen("GET /x/../y?z HTTP/1.1", "", &[("host", &["b:8"])])),
    row("absolute-target", "GET http://b?z HTTP/1.1¶Host: a¶¶", ONE, Seen("GET /?z HTTP/1.1", "", &[("host", &["b"])])),
    row("bad-host", "GET / HTTP/1.1¶{}¶", &["", "Host: a¶Host: a¶", "Host: a¶Host: b¶"], BAD),
    row("bad-host", "GET / HTTP/1.1¶Host: {}¶¶",
        &["", "a/b", "u@a", "a, b", "a:99999", "a:b", "[::1", "a b", "\u{e9}", "a%", "a%zz", "a\"b", "a<b", "a|b", "[fe80::1%eth0]", "[::1%25]"], BAD),
    row("host-names", "GET / HTTP/1.1¶Host: a!b$c¶¶", ONE, Seen("GET / HTTP/1.1", "", &[("host", &["a!b$c"])])),
    row("host-names", "GET / HTTP/1.1¶Host: %61.example:80¶¶", ONE, Seen("GET / HTTP/1.1", "", &[("host", &["%61.example:80"])])),
    row("host-names", "GET / HTTP/1.1¶Host: a_b¶¶", ONE, Seen("GET / HTTP/1.1", "", &[("host", &["a_b"])])),
    row("host-names", "GET / HTTP/1.1¶Host: {}¶¶", &["a~b", "a&b'(c)*+;=", "a,b", "caf%C3%A9", "a..b", ".a", "*", "1.2.3.4", "[fe80::1%25eth0]", "[fe80::1%25eth0]:80"],
        Seen("GET / HTTP/1.1", "", &[])),
    row("host-names", "GET http://a!b$c/ HTTP/1.1¶Host: x¶¶", ONE, Seen("GET / HTTP/1.1", "", &[("host", &["a!b$c"])])),
    // HTTP/1.0 does not require a `Host`.
    row("bad-host", "GET /old HTTP/1.0¶¶", ONE, Seen("GET /old HTTP/1.1", "", &[("via", &[])])),
    row("path-normal-form", "GET {} HTTP/1.1¶Host: a¶¶", &["/%00", "/a%00b", "/%c0%af", "/%C1%9C", "/%e0%80%af", "/%f0%80%80%af", "/%c0%ae%c0%ae/a",
        "/..", "/a/../../b", "/%2e%2e/a", "/%zz", "/%4", "/%", "http://a/.."], Own(400)),
    row("path-normal-form", "GET /a/../admin HTTP/1.1¶Host: a¶¶", ONE, Seen("GET /a/../admin HTTP/1.1", "", &[])),
    row("path-normal-form", "GET /a/%2e%2e/admin HTTP/1.1¶Host: a¶¶", ONE, Seen("GET /a/%2e%2e/admin HTTP/1.1", "", &[])),
    row("path-normal-form", "GET /%61dmin HTTP/1.1¶Host: a¶¶", ONE, Seen("GET /%61dmin HTTP/1.1", "", &[])),
    row("path-normal-form", "PUT /a/.%2E/./admin/. HTTP/1.1¶Host: a¶Content-Length: 0¶¶", ONE, Seen("PUT /a/.%2E/./admin/. HTTP/1.1", "", &[])),
    row("path-normal-form", "GET /%7Ea%2Db?%7E HTTP/1.1¶Host: a¶¶", ONE, Seen("GET /%7Ea%2Db?%7E HTTP/1.1", "", &[])),
    row("path-bytes", "GET /caf%E9 HTTP/1.1¶Host: a¶¶", ONE, Seen("GET /caf%E9 HTTP/1.1", "", &[])),
    row("path-bytes", "GET /%ff%80/%ED%A0%80 HTTP/1.1¶Host: a¶¶", ONE, Seen("GET /%ff%80/%ED%A0%80 HTTP/1.1", "", &[])),
    row("path-bytes", "GET /%C0%C9/%e2%82 HTTP/1.1¶Host: a¶¶", ONE, Seen("GET /%C0%C9/%e2%82 HTTP/1.1", "", &[])),
    row("path-bytes", "GET /a%2Fb%2fc%5Cd\\e%252e;f HTTP/1.1¶Host: a¶¶", ONE, Seen("GET /a%2Fb%2fc%5Cd\\e%252e;f HTTP/1.1", "", &[])),
    row("path-normal-form", "GET /..%2fadmin HTTP/1.1¶Host: a¶¶", ONE, Seen("GET /..%2fadmin HTTP/1.1", "", &[])),
    row("path-normal-form", "GET //admin HTTP/1.1¶Host: a¶¶", ONE, Seen("GET //admin HTTP/1.1", "", &[])),
    row("path-normal-form", "GET /%61?%61=/../b&c=%00 HTTP/1.1¶Host: a¶¶", ONE, Seen("GET /%61?%61=/../b&c=%00 HTTP/1.1", "", &[])),
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
    // A target over the limit, however it arrives.
    for length in [3 << 10, 70 << 10] {
        let target = "x".repeat(length);
        assert_eq!(rejected(format!("GET /{target} HTTP/1.1\r\nHost: a\r\n\r\n")), (414, true), "{length}");
        assert_eq!(rejected(format!("GET /{target}")), (414, true), "{length}, not ended");
    }
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

// Case: head-limits
#[test]
fn a_long_method_gets_a_response() {
    let server = ok();
    let lb = Lb::in_front_of(&server, "[limits]\nheader_bytes = \"1MiB\"\n");
    for sent in ["{} / HTTP/1.1¶Host: a¶¶", "{}"] {
        let mut client = Client::connect(lb.address());
        // The connection may be closed before all of it has been sent.
        let _ = client.socket().write_all(&bytes(&sent.replace("{}", &"M".repeat(100 << 10))));
        assert_eq!((client.response().status, client.is_closed()), (501, true), "{sent}");
    }
    let method = "M".repeat(200);
    assert_eq!(Client::connect(lb.address()).request(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n")).status, 200);
    assert_eq!(server.requests().len(), 1);
    assert_well(&lb, &server, "head-limits");
}

// Cases: bad-header, bad-request-line
#[test]
fn a_client_is_told_the_rule_that_its_head_violates() {
    let server = ok();
    let lb = Lb::in_front_of(&server, "");
    for (sent, detail) in [
        ("GET  / HTTP/1.1¶Host: a¶¶", "The start line is not valid HTTP/1.1."),
        ("G+X : y¶¶", "The name of a header is not a token."),
        ("G+X¶¶", "A header has no colon."),
        ("G+X: y¶ z¶¶", "A line begins with white space."),
        ("G+X: \u{1}¶¶", "The value of a header contains a control character."),
        ("G+X: y\n¶", "A line does not end with CR LF."),
    ] {
        let response = Client::connect(lb.address()).request(bytes(sent));
        assert!(response.status == 400 && response.text().contains(detail), "{sent}: {}", response.text());
    }
}

// Cases: absolute-target, host-case, host-names, path-bytes, path-normal-form, path-segments
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
        ("host-names", "%61pi.example.com", "/v1", "api"),
        ("host-names", "API%2eexample.com.:80", "/v1", "api"),
        // They would have another route with their dot segments.
        ("path-normal-form", "api.example.com", "/x/../v1/x", "400"),
        ("path-normal-form", "api.example.com", "/x/%2e%2e/v1", "400"),
        ("path-normal-form", "api.example.com", "/./v1", "400"),
        ("path-normal-form", "api.example.com", "/v1/../x", "400"),
        ("path-normal-form", "api.example.com", "/v1/%2E%2E/x", "400"),
        ("path-normal-form", "www.example.com", "http://api.example.com/v1/..", "400"),
        ("path-normal-form", "api.example.com", "/v1/x/../y", "api"),
        ("path-normal-form", "api.example.com", "/v1/.", "api"),
        ("path-normal-form", "api.example.com", "/x/../y", "default"),
        ("path-bytes", "api.example.com", "/v1/%e9", "api"),
        ("path-bytes", "api.example.com", "/v1%2fx", "default"),
        ("path-normal-form", "api.example.com", "/%761", "api"),
        ("path-normal-form", "api.example.com", "/x/..%2fv1/x", "default"),
        ("path-normal-form", "api.example.com", "/..%2fv1", "default"),
        ("path-normal-form", "api.example.com", "//v1", "default"),
    ];
    let mut client = Client::connect(lb.address());
    for (case, host, path, pool) in cases {
        let response = client.request(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let selected = match response.status {
            200 => response.text(),
            404 => String::new(),
            status => status.to_string(),
        };
        assert_eq!(selected, pool, "{case}: {path} of {host}");
    }
    assert!(default.requests().iter().chain(&api.requests()).all(|request| request.is_canonical()));
    // The log has the path as sent.
    lb.logs("the path", |line| line.contains("GET /%761 "));
}
