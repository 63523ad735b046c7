//! Tables of valid and invalid values.

use std::fmt::{Debug, Display};

use super::*;

/// `good` pairs a text with the value as displayed; `bad` pairs one with a part of its message or hint.
fn table<T: Debug>(
    parse: fn(&str) -> Result<T, Reason>,
    show: impl Fn(&T) -> String,
    good: &[(&str, &str)],
    bad: &[(&str, &str)],
) {
    for (typed, shown) in good {
        let value = parse(typed).expect(typed);
        assert_eq!(show(&value), *shown, "{typed}");
    }
    for (typed, expected) in bad {
        let reason = parse(typed).expect_err(typed);
        let all = format!("{} hint: {}", reason.message, reason.hint.unwrap_or_default());
        assert!(all.contains(expected), "{typed}: {all}");
    }
}

fn shown<T: Display>(value: &T) -> String {
    value.to_string()
}

#[test]
fn addresses_to_listen_on() {
    table(
        listen_address,
        shown,
        &[
            ("0.0.0.0:8080", "0.0.0.0:8080"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("[::]:80", "[::]:80"),
            ("localhost:8080", "127.0.0.1:8080"),
            ("LOCALHOST:8080", "127.0.0.1:8080"),
        ],
        &[
            ("", "no port"),
            ("8080", "a port without a host"),
            (":8080", "no host"),
            ("127.0.0.1", "no port"),
            ("127.0.0.1:", "`` is not a port"),
            ("127.0.0.1:65536", "up to 65535"),
            ("127.0.0.1:+80", "not a port"),
            ("256.0.0.1:80", "looks like an IPv4"),
            ("::1", "write `[::1]:8080`"),
            ("[::1]", "no port"),
            ("[::x]:80", "not an IPv6 address"),
            ("example.com:80", "write `0.0.0.0:80`"),
            ("http://0.0.0.0:80/", "leave out `http://`"),
        ],
    );
}

const LONG_PATH: &str = concat!(
    "unix:/run/",
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012"
);

#[test]
fn addresses_of_servers() {
    table(
        server_address,
        shown,
        &[
            ("127.0.0.1:8081", "127.0.0.1:8081"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443"),
            ("Server_1.Example.com.:80", "server_1.example.com:80"),
            ("unix:/run/app.sock", "unix:/run/app.sock"),
            ("unix:/run//./a b/ü.sock", "unix:/run/a b/ü.sock"),
        ],
        &[
            ("127.0.0.1:0", "port 0"),
            ("a b:80", "it has ' '"),
            ("a..b:80", "two dots in a row"),
            ("host/x:80", "has a path"),
            ("http://127.0.0.1:8081", "`127.0.0.1:8081`"),
            ("https://a.example/x", "`a.example:80`"),
            ("bücher.example:80", "xn--"),
            ("unix:", "write for example `unix:/run/app.sock`"),
            ("unix: ", "it has no path"),
            ("unix:///run/app.sock", "write `unix:/run/app.sock`"),
            ("unix:@app", "abstract sockets"),
            ("unix:/run/", "it is a directory"),
            ("unix:/run/$APP.sock", "write `${APP}`"),
            ("unix:~/app.sock", "a shell"),
            ("unix:/a\0b", "NUL"),
            (LONG_PATH, "has 108 bytes"),
            ("/run/app.sock", "write `unix:/run/app.sock`"),
        ],
    );
}

#[test]
fn hosts_of_routes() {
    table(
        host_pattern,
        shown,
        &[
            ("*", "*"),
            ("API.example.com.", "api.example.com"),
            ("*.Example.com", "*.example.com"),
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "[::1]"),
            ("[0::1]", "[::1]"),
        ],
        &[
            ("", "leave `host` out"),
            ("*.", "it is empty"),
            ("api.*.com", "first label"),
            ("*.*.com", "first label"),
            ("*example.com", "first label"),
            ("example.com:80", "write `example.com`"),
            ("http://example.com", "a URL"),
        ],
    );
}

#[test]
fn paths() {
    table(
        route_path,
        shown,
        &[("/", "/"), ("/v1", "/v1"), ("/v1/", "/v1"), ("/a/b%20c/", "/a/b%20c")],
        &[
            ("", "write `/`"),
            ("v1", "write `/v1`"),
            ("//", "empty segment"),
            ("/a//b", "empty segment"),
            ("/a/../b", "`..` segment"),
            ("/a/%2e%2E", "segment"),
            ("/a?b", "query"),
            ("/a/*", "write `/a`"),
            ("/a b", "percent-encoded"),
            ("/é", "percent-encoded"),
        ],
    );
    table(absolute_path, shown, &[("/health?full=1", "/health?full=1")], &[("x", "`/x`")]);
}

#[test]
fn names_and_cookies() {
    table(name, shown, &[("server-1.a_b", "server-1.a_b")], &[("", "empty"), ("a b", "' '")]);
    table(label, shown, &[("*/v1", "*/v1")], &[(" ", "empty"), ("a\n", "control")]);
    table(
        cookie_name,
        shown,
        &[("lb", "lb"), ("__Host-lb", "__Host-lb")],
        &[("", "cookie"), ("a b", "spaces"), ("a=b", "`=`"), ("a;b", "`;`")],
    );
}

#[test]
fn statuses() {
    table(
        status_ranges,
        shown,
        &[("200-399", "200-399"), ("200,204", "200, 204"), ("200, 301 - 302", "200, 301-302")],
        &[
            ("", "100 and 599"),
            ("99", "`99`"),
            ("600", "`600`"),
            ("399-200", "`399-200`"),
            ("200,", "``"),
            ("2xx", "`2xx`"),
            ("+200", "`+200`"),
        ],
    );
}

#[test]
fn collectors_and_networks() {
    table(
        collector,
        |value| value.as_ref().map(ToString::to_string).unwrap_or_default(),
        &[("", ""), ("http://127.0.0.1:9411/api/v2/spans", "http://127.0.0.1:9411/api/v2/spans")],
        &[("127.0.0.1:9411", "http://"), ("https://zipkin.example/", "TLS"), ("http://", "URL"), ("/api", "http://")],
    );
    table(
        network,
        shown,
        &[("10.1.2.3/8", "10.0.0.0/8"), ("fd00::/8", "fd00::/8"), ("::1", "::1/128")],
        &[("10.0.0.0/33", "write"), ("home", "write")],
    );
}

#[test]
fn addresses_overlap_on_the_same_port_only() {
    for (a, b, expected) in [
        ("127.0.0.1:80", "127.0.0.1:80", true),
        ("127.0.0.1:80", "127.0.0.1:81", false),
        ("127.0.0.1:80", "127.0.0.2:80", false),
        ("0.0.0.0:80", "127.0.0.2:80", true),
        ("[::]:80", "127.0.0.2:80", true),
        ("[::]:80", "0.0.0.0:80", true),
        ("[::1]:80", "0.0.0.0:80", false),
        ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true),
        ("[::ffff:127.0.0.1]:80", "0.0.0.0:80", true),
        ("[::ffff:127.0.0.1]:80", "127.0.0.2:80", false),
        ("[::1]:80", "127.0.0.1:80", false),
        ("127.0.0.1:0", "127.0.0.1:0", false),
        ("unix:/run/a.sock", "unix:/run/a.sock", true),
        ("unix:/run/a.sock", "unix:/run/./b//../b/a.sock", false),
        ("unix:/run/a.sock", "unix:/run//./a.sock", true),
        ("unix:/run/a.sock", "127.0.0.1:80", false),
    ] {
        let (a, b) = (listen_address(a).expect(a), listen_address(b).expect(b));
        assert_eq!((overlap(&a, &b), overlap(&b, &a)), (expected, expected), "{a} {b}");
    }
}
