//! Section 3: trust.

use super::{ONE, Row, Seen, assert_well, bytes, in_front_of, ok, row, run};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::lb::Lb;

/// The headers of every request from an untrusted client, whatever headers it sends.
const UNTRUSTED: &[(&str, &[&str])] = &[
    ("host", &["a"]),
    ("x-forwarded-for", &["127.0.0.1"]),
    ("x-forwarded-proto", &["http"]),
    ("x-forwarded-host", &["a"]),
    ("x-forwarded-port", &[]),
    ("x-real-ip", &["127.0.0.1"]),
    ("forwarded", &[]),
    ("via", &[]),
    ("x_forwarded_for", &[]),
    ("x_forwarded_proto", &[]),
    ("x_forwarded_host", &[]),
    ("x_real_ip", &[]),
    ("x-forwarded_for", &[]),
];

/// The headers of an upgrade that is not forwarded.
const NO_UPGRADE: &[(&str, &[&str])] = &[("upgrade", &[]), ("connection", &[]), ("http2-settings", &[])];

#[rustfmt::skip]
const HEADERS: &[Row] = &[
    row("connection-header", "P+Content-Length: 5¶X-Mine: 1¶Authorization: Basic eA==¶traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01¶\
             Connection: {}X-Forwarded-For, Host, Content-Length, traceparent, x-mine¶¶hello", &["close, ", ""],
        Seen("POST / HTTP/1.1", "hello", &[
            ("host", &["a"]), ("content-length", &["5"]), ("x-forwarded-for", &["127.0.0.1"]), ("connection", &[]), ("x-mine", &[]),
            ("authorization", &["Basic eA=="]), ("traceparent", &["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"])])),
    row("hop-by-hop", "G+{}¶¶", &["Keep-Alive: timeout=5", "Proxy-Connection: keep-alive", "TE: gzip", "TE: trailers;q=0.5", "Connection: TE¶TE: gzip",
                        "Proxy-Authorization: Basic eA=="],
        Seen("GET / HTTP/1.1", "", &[("keep-alive", &[]), ("proxy-connection", &[]), ("te", &[]), ("connection", &[]),
                                     ("proxy-authorization", &[])])),
    row("hop-by-hop", "G+{}¶¶", &["TE: trailers, gzip", "TE: gzip¶TE: Trailers", "Connection: TE, close¶TE: trailers"],
        Seen("GET / HTTP/1.1", "", &[("te", &["trailers"]), ("connection", &[])])),
    row("forwarded-headers", "G+{}¶¶", &["X-Forwarded-For: 203.0.113.7", "X-Forwarded-For: 203.0.113.7¶X-Forwarded-For: 203.0.113.8",
                        "X-Forwarded-Proto: https", "X-Forwarded-Host: evil", "X-Forwarded-Port: 1", "X-Real-IP: 203.0.113.7",
                        "Forwarded: for=203.0.113.7", "X_Forwarded_For: 203.0.113.7", "X_Forwarded_Proto: https",
                        "X_Forwarded_Host: evil", "X_Real_IP: 203.0.113.7", "X-Forwarded_For: 203.0.113.7"],
        Seen("GET / HTTP/1.1", "", UNTRUSTED)),
    row("upgrade-h2c", "G+{}¶¶", &["Connection: Upgrade, HTTP2-Settings¶Upgrade: h2c¶HTTP2-Settings: AAMAAABkAAQAAP__",
                        "Connection: Upgrade¶Upgrade: websocket, H2C", "Upgrade: websocket"],
        Seen("GET / HTTP/1.1", "", NO_UPGRADE)),
    row("upgrade-h2c", "GET / HTTP/1.0¶Host: a¶Connection: Upgrade¶Upgrade: websocket¶¶", ONE, Seen("GET / HTTP/1.1", "", NO_UPGRADE)),
    row("upgrade-h2c", "P+Connection: Upgrade¶Upgrade: {}¶Content-Length: 5¶¶hello", &["h2c", "x, h2c"], Seen("POST / HTTP/1.1", "hello", NO_UPGRADE)),
    row("upgrade-with-body", "P+Connection: Upgrade¶Upgrade: tcp¶{}", &["Content-Length: 5¶¶hello", "Transfer-Encoding: chunked¶¶5¶hello¶0¶¶"],
        Seen("POST / HTTP/1.1", "hello", &[("upgrade", &["tcp"]), ("connection", &["upgrade"])])),
    row("upgrade-with-body", "P+Connection: Upgrade¶Upgrade: tcp¶Expect: 100-continue¶Content-Length: 5¶¶hello", ONE,
        Seen("POST / HTTP/1.1", "hello", &[("upgrade", &["tcp"]), ("expect", &["100-continue"])])),
];

#[test]
fn forged_and_hop_by_hop_headers_are_not_forwarded() {
    run(HEADERS);
}

// Case: log-forgery
#[test]
fn a_user_agent_cannot_forge_a_log_line() {
    let server = ok();
    let lb = Lb::in_front_of(&server, "[log]\nformat = \"json\"\n");
    for (path, agent) in [("/brace", "\"}"), ("/quotes", "\"\\\",\"status\":\"500"), ("/apostrophe", "'\"'} {")] {
        let request = format!("GET {path} HTTP/1.1¶Host: a¶User-Agent: {agent}¶X-Request-Id: \"}},{{\"¶¶");
        assert_eq!(Client::connect(lb.address()).request(bytes(&request)).status, 200);
        let line = lb.logs("the request", |line| line.contains(path));
        let line: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!((&line["status"], &line["request_id"]), (&200.into(), &"\"},{\"".into()), "{line}");
    }
    assert_well(&lb, &server, "log-forgery");
    lb.logs("the next client", |line| line.contains("/next"));
    assert_eq!(lb.stdout().len(), 4, "one line for each request: {:#?}", lb.stdout());
}

// Case: metric-series
#[test]
fn clients_cannot_create_metric_series() {
    const REQUESTS: f64 = 10_000.0;
    let server = ok();
    let lb = Lb::in_front_of(&server, "[log]\naccess = false\n");
    let mut client = Client::connect(lb.address());
    let mut rng = fastrand::Rng::with_seed(28);
    let mut word = || (0..8).map(|_| rng.alphabetic()).collect::<String>();
    let mut series = Vec::new();
    let other = r#"lb_requests_total{route="default",method="OTHER",code="200"}"#;
    for count in 1..=10_000 {
        let (method, host, path) = (word().to_uppercase(), word(), word());
        assert_eq!(client.request(format!("{method} /{path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).status, 200);
        if [1, 10_000].contains(&count) {
            // A request is counted after its response has been sent.
            eventually("all requests are counted", || (lb.metric(other) == Some(f64::from(count))).then_some(()));
            let text = lb.ask("/metrics").text();
            series.push(text.lines().filter(|line| line.starts_with("lb_")).count());
        }
    }
    assert_eq!((lb.metric(other), series[0]), (Some(REQUESTS), series[1]));
    assert_well(&lb, &server, "metric-series");
}

// Case: upgrade-declined
#[test]
fn a_declined_upgrade_leaves_the_connection_http() {
    let server = ok();
    let lb = Lb::in_front_of(&server, "");
    for protocol in ["foo", "websocket"] {
        let mut client = Client::connect(lb.address());
        // In a tunnel, the second request would reach the server unchecked.
        let second = "GET /..%2fsecond HTTP/1.1¶Host: b¶X-Forwarded-For: 203.0.113.7¶¶";
        client.send(bytes(&format!("G+Connection: Upgrade¶Upgrade: {protocol}¶¶{second}")));
        assert_eq!((client.response().text(), client.response().text()), ("ok".to_owned(), "ok".to_owned()));
        let second = server.requests().pop().expect("a request");
        assert_eq!((second.path(), second.values("x-forwarded-for")), ("/..%2fsecond", vec!["127.0.0.1"]));
        assert_eq!(client.get("/third").status, 200);
        assert_well(&lb, &server, protocol);
    }
}

// Case: admin-host
#[test]
fn the_admin_address_rejects_other_hosts_and_origins() {
    let server = ok();
    let (lb, _healthy) = in_front_of(&server, "");
    let cases = [
        ("Host: {}", 200),
        ("Host: localhost", 200),
        ("Host: evil.example", 403),
        ("Host: {}.evil.example", 403),
        ("Host: {}¶Origin: http://{}", 200),
        ("Host: {}¶Origin: http://evil.example", 403),
        ("Host: {}¶Origin: null", 403),
        ("Host: evil.example¶Origin: http://evil.example", 403),
    ];
    for (headers, status) in cases {
        let headers = headers.replace("{}", &lb.admin.to_string());
        for path in ["/api/config", "/metrics", "/"] {
            let response = Client::connect(lb.admin).request(bytes(&format!("GET {path} HTTP/1.1¶{headers}¶¶")));
            assert_eq!(response.status, status, "{path} {headers}: {response:?}");
            let cors = |(name, _): &(String, String)| name.to_ascii_lowercase().starts_with("access-control");
            assert!(!response.headers.iter().any(cors), "{response:?}");
        }
    }
    assert_well(&lb, &server, "admin-host");
}
