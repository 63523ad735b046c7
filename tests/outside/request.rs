//! What a server is told of a request, and what a client of an answer.

use std::net::SocketAddr;

use crate::support::client::{Answer, Client, get};
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS};
use crate::support::servers::{Request, Server};

fn ok() -> Server {
    Server::saying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
}

/// What the server sees of a request with these fields.
fn seen(lb: &Lb, server: &Server, line: &str, fields: &str) -> Request {
    let answer = Client::connect(lb.address()).request(format!("{line} HTTP/1.1\r\n{fields}\r\n"));
    assert_eq!(answer.status, 200, "{line} {fields}: {answer:?}");
    let request = server.requests().pop().expect("a request");
    assert!(request.is_canonical(), "{request:?}");
    request
}

#[track_caller]
fn assert_fields(request: &Request, expected: &[(&str, &[&str])]) {
    for (name, values) in expected {
        assert_eq!(request.values(name), *values, "{name} of {request:#?}");
    }
}

#[test]
fn a_server_is_told_who_asks() {
    let server = ok();
    let lb = Lb::before(&server, "");
    let told: &[(&str, &[&str])] = &[
        ("host", &["shop.example:8080"]),
        ("x-forwarded-for", &["127.0.0.1"]),
        ("x-forwarded-proto", &["http"]),
        ("x-forwarded-host", &["shop.example:8080"]),
        ("x-real-ip", &["127.0.0.1"]),
        ("forwarded", &["for=127.0.0.1;proto=http;host=\"shop.example:8080\""]),
        ("via", &["1.1 lb"]),
    ];
    assert_fields(&seen(&lb, &server, "GET /", "Host: shop.example:8080\r\n"), told);
    // Row 26: what a stranger says of itself is replaced, and what only looks like ours is dropped.
    let lies = "Host: shop.example:8080\r\nX-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\n\
        X-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\nX-Real-IP: 203.0.113.7\r\nForwarded: for=203.0.113.7\r\n\
        X_Forwarded_For: 203.0.113.7\r\nX_Real_IP: 203.0.113.7\r\n";
    let request = seen(&lb, &server, "GET /", lies);
    assert_fields(&request, told);
    assert_fields(&request, &[("x-forwarded-port", &[]), ("x_forwarded_for", &[]), ("x_real_ip", &[])]);
}

#[test]
fn a_trusted_proxy_is_believed_and_its_lists_go_on() {
    let server = ok();
    let lb = Lb::before(&server, "[proxy]\ntrusted_proxies = [\"127.0.0.0/8\"]\n");
    let fields = "Host: inner\r\nX-Forwarded-For: 203.0.113.7, 10.0.0.1\r\nX-Forwarded-Proto: https\r\n\
        X-Forwarded-Host: shop.example\r\nForwarded: for=203.0.113.7, for=10.0.0.1\r\nVia: 2 edge\r\n";
    let expected: &[(&str, &[&str])] = &[
        ("host", &["inner"]),
        ("x-forwarded-for", &["203.0.113.7, 10.0.0.1, 127.0.0.1"]),
        ("x-forwarded-proto", &["https"]),
        ("x-forwarded-host", &["shop.example"]),
        ("forwarded", &["for=203.0.113.7, for=10.0.0.1, for=127.0.0.1;proto=http;host=inner"]),
        ("via", &["2 edge", "1.1 lb"]),
    ];
    assert_fields(&seen(&lb, &server, "GET /", fields), expected);
    // Trust is an edit away.
    lb.apply(&format!("{NO_CHECKS}{}", server.table("server1")));
    assert_fields(&seen(&lb, &server, "GET /", fields), &[("x-forwarded-for", &["127.0.0.1"])]);
}

#[test]
fn a_request_has_one_id() {
    let server = ok();
    let lb = Lb::before(&server, "");
    let kept = seen(&lb, &server, "GET /", "Host: a\r\nX-Request-Id: order-7\r\n");
    assert_eq!(kept.values("x-request-id"), ["order-7"]);
    let made = |fields: &str| {
        let request = seen(&lb, &server, "GET /", &format!("Host: a\r\n{fields}"));
        let ids = request.values("x-request-id");
        assert!(ids.len() == 1 && ids[0].len() == 32 && ids[0] != "two words", "{ids:?}");
        ids[0].to_owned()
    };
    assert_ne!(made(""), made("X-Request-Id: two words\r\n"));
    lb.logs("the id", |line| line.contains("order-7"));
}

#[test]
fn what_is_for_one_connection_ends_here() {
    let server = ok();
    let lb = Lb::before(&server, "");
    // Rows 24 and 25.
    let request = seen(
        &lb,
        &server,
        "POST /",
        "Host: a\r\nContent-Length: 0\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n\
         Proxy-Authorization: Basic eA==\r\nTE: trailers, gzip\r\nX-Mine: 1\r\nX-Kept: 2\r\nAuthorization: Basic eA==\r\n\
         traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
         Connection: x-mine, TE, X-Forwarded-For, Host, Content-Length, traceparent\r\n",
    );
    for gone in ["connection", "keep-alive", "proxy-connection", "proxy-authorization", "te", "x-mine", "upgrade"] {
        assert!(request.values(gone).is_empty(), "{gone}: {request:#?}");
    }
    assert_fields(
        &request,
        &[
            ("host", &["a"]),
            ("content-length", &["0"]),
            ("x-kept", &["2"]),
            ("x-forwarded-for", &["127.0.0.1"]),
            ("authorization", &["Basic eA=="]),
        ],
    );
    assert_eq!(request.values("traceparent").len(), 1, "{request:#?}");
}

#[test]
fn an_answer_loses_what_is_for_one_connection_too() {
    let server = Server::saying(
        "HTTP/1.1 299 Odd\r\nContent-Length: 2\r\nKeep-Alive: timeout=5\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\
         Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-End: 1\r\n\r\nok",
    );
    let lb = Lb::before(&server, "");
    let answer = get(lb.address(), "/");
    assert_eq!((answer.status, answer.text().as_str()), (299, "ok"));
    for gone in ["connection", "keep-alive", "x-hop"] {
        assert_eq!(answer.field(gone), None, "{answer:?}");
    }
    assert_eq!((answer.field("x-end"), answer.field("via")), (Some("1"), Some("1.1 lb")));
    assert_eq!(answer.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie")).count(), 2);
}

#[test]
fn the_target_is_forwarded_in_its_normal_form() {
    let server = ok();
    let lb = Lb::before(&server, "");
    // Row 21.
    let cases = [
        ("/", "/"),
        ("/a/../admin", "/admin"),
        ("/a/%2e%2e/admin", "/admin"),
        ("/%61dmin?%61=/../b&c=%00", "/admin?%61=/../b&c=%00"),
        ("/..%2fadmin", "/..%2fadmin"),
        ("//admin", "//admin"),
        ("/?", "/?"),
        ("/caf%C3%A9;x=1,2|3", "/caf%C3%A9;x=1,2|3"),
    ];
    for (sent, forwarded) in cases {
        assert_eq!(seen(&lb, &server, &format!("GET {sent}"), "Host: a\r\n").path(), forwarded, "{sent}");
    }
    // Row 18.
    let request = seen(&lb, &server, "GET http://b:8/x/../y?z", "Host: a\r\n");
    assert_eq!((request.path(), request.values("host")), ("/y?z", vec!["b:8"]));
    // A client of HTTP/1.0 need not say a host, a server of HTTP/1.1 wants one.
    let address = lb.address();
    let answer = Client::connect(address).request("GET /old HTTP/1.0\r\n\r\n");
    assert_eq!(answer.status, 200);
    let request = server.requests().pop().expect("a request");
    assert_eq!(request.line, "GET /old HTTP/1.1");
    assert_fields(&request, &[("host", &[&address.to_string()]), ("via", &["1.0 lb"])]);
}

/// Pools `default` and `api`, and a route to the second.
fn routed(default: &Server, api: &Server) -> String {
    let api_table = api.table("api1").replace("[[server]]", "[[pool.api.server]]");
    format!(
        "{NO_CHECKS}[[route]]\nhost = \"api.example.com\"\npath = \"/v1\"\npool = \"api\"\n\
         [[route]]\nhost = \"*.example.com\"\npool = \"default\"\n{}{api_table}",
        default.table("server1")
    )
}

#[test]
fn host_and_path_lead_to_a_pool_or_to_404() {
    let (default, api) = (Server::named("default"), Server::named("api"));
    let lb = Lb::start(&routed(&default, &api));
    let address = lb.address();
    let cases = [
        ("api.example.com", "/v1", Some("api")),
        ("api.example.com", "/v1/x", Some("api")),
        // Row 20.
        ("API.Example.COM.", "/v1", Some("api")),
        ("api.example.com:8080", "/v1?x", Some("api")),
        // Row 22.
        ("api.example.com", "/v1x", Some("default")),
        // Row 21.
        ("api.example.com", "/x/../v1/x", Some("api")),
        ("api.example.com", "/x/..%2fv1/x", Some("default")),
        ("api.example.com", "//v1", Some("default")),
        ("www.example.com", "/v1", Some("default")),
        ("example.org", "/v1", None),
    ];
    let mut client = Client::connect(address);
    for (host, path, pool) in cases {
        let answer = client.request(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        match pool {
            Some(pool) => assert_eq!((answer.status, answer.text().as_str()), (200, pool), "{host}{path}"),
            None => assert_problem(&answer, 404, &[default.address, api.address]),
        }
    }
}

/// An answer of our own: `application/problem+json`, which names nothing internal.
#[track_caller]
fn assert_problem(answer: &Answer, status: u16, servers: &[SocketAddr]) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.field("content-type"), Some("application/problem+json"));
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!(problem["status"], status, "{problem}");
    assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
    let all = format!("{answer:?}{}", answer.text());
    for server in servers {
        assert!(!all.contains(&server.to_string()) && !all.contains(&format!(":{}", server.port())), "{all}");
    }
    assert!(!all.contains("server1"), "{all}");
}

#[test]
fn what_we_answer_ourselves_names_nothing_internal() {
    let server = Server::scripted(|_, _| ());
    let gone = ok();
    gone.stop();
    let lb = Lb::before(&server, "[retry]\nattempts = 0\n[limits]\nbody_bytes = \"3B\"\n");
    let address = lb.address();
    let servers = [server.address, gone.address];
    assert_problem(&get(address, "/"), 502, &servers);
    assert_problem(&get(address, "/.."), 400, &servers);
    let answer = Client::connect(address).request("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_problem(&answer, 405, &servers);
    assert_eq!(answer.field("allow"), Some("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    let answer = Client::connect(address).request("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
    assert_problem(&answer, 413, &servers);
    lb.apply(&format!("{NO_CHECKS}{}", gone.table("server1")));
    assert_problem(&get(address, "/"), 502, &servers);
    lb.apply(&format!("{NO_CHECKS}[reload]\nallow_empty = true\n{}enabled = false\n", gone.table("server1")));
    assert_problem(&get(address, "/"), 503, &servers);
    // To HEAD the same, without the body.
    let mut client = Client::connect(address);
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\nHEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.try_head().expect("a head").0, 503);
    assert_eq!(client.try_head().expect("another head, and nothing between").0, 503);
}

#[test]
fn row_28_clients_cannot_make_series() {
    let server = ok();
    let lb = Lb::before(&server, "[log]\naccess = false\n");
    let mut client = Client::connect(lb.address());
    let mut rng = fastrand::Rng::with_seed(28);
    let mut word = || (0..8).map(|_| rng.alphabetic()).collect::<String>();
    for _ in 0..1000 {
        let (method, host, path) = (word().to_uppercase(), word(), word());
        assert_eq!(client.request(format!("{method} /{path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).status, 200);
    }
    // The last is counted after its answer is read here.
    let series = r#"lb_requests_total{route="default",method="OTHER",code="200"}"#;
    eventually("a thousand are counted", || (lb.metric(series) == Some(1000.0)).then_some(()));
    let text = lb.ask("/metrics").text();
    assert_eq!(text.lines().filter(|line| line.starts_with("lb_requests_total{")).count(), 1, "{text}");
}

#[test]
fn row_27_a_user_agent_cannot_forge_a_log_line() {
    let server = ok();
    let lb = Lb::before(&server, "[log]\nformat = \"json\"\n");
    let fields = "Host: a\r\nUser-Agent: \"}\r\nX-Request-Id: \"},{\"\r\n";
    seen(&lb, &server, "GET /forged", fields);
    let line = lb.logs("the request", |line| line.contains("/forged"));
    let line: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert_eq!((&line["status"], &line["request_id"]), (&200.into(), &"\"},{\"".into()), "{line}");
}
