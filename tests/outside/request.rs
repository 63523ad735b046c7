//! The headers of forwarded requests and responses.

use std::net::SocketAddr;

use crate::support::client::{Client, Response, get};
use crate::support::lb::{Lb, NO_CHECKS};
use crate::support::servers::{Request, Server};

fn ok() -> Server {
    Server::responding("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
}

/// The request that the server receives if a client sends these headers.
fn forwarded(lb: &Lb, server: &Server, line: &str, headers: &str) -> Request {
    let response = Client::connect(lb.address()).request(format!("{line} HTTP/1.1\r\n{headers}\r\n"));
    assert_eq!(response.status, 200, "{line} {headers}: {response:?}");
    let request = server.requests().pop().expect("a request");
    assert!(request.is_canonical(), "{request:?}");
    request
}

#[track_caller]
fn assert_headers(request: &Request, expected: &[(&str, &[&str])]) {
    for (name, values) in expected {
        assert_eq!(request.values(name), *values, "{name} of {request:#?}");
    }
}

#[test]
fn a_server_is_told_the_clients_address() {
    let server = ok();
    let lb = Lb::in_front_of(&server, "");
    let expected: &[(&str, &[&str])] = &[
        ("host", &["shop.example:8080"]),
        ("x-forwarded-for", &["127.0.0.1"]),
        ("x-forwarded-proto", &["http"]),
        ("x-forwarded-host", &["shop.example:8080"]),
        ("x-real-ip", &["127.0.0.1"]),
        ("forwarded", &["for=127.0.0.1;proto=http;host=\"shop.example:8080\""]),
        ("via", &["1.1 lb"]),
    ];
    assert_headers(&forwarded(&lb, &server, "GET /", "Host: shop.example:8080\r\n"), expected);
    // Case: forwarded-headers
    let forged = "Host: shop.example:8080\r\nX-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\n\
        X-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\nX-Real-IP: 203.0.113.7\r\nForwarded: for=203.0.113.7\r\n\
        X_Forwarded_For: 203.0.113.7\r\nX_Real_IP: 203.0.113.7\r\n";
    let request = forwarded(&lb, &server, "GET /", forged);
    assert_headers(&request, expected);
    assert_headers(&request, &[("x-forwarded-port", &[]), ("x_forwarded_for", &[]), ("x_real_ip", &[])]);
}

#[test]
fn the_headers_of_a_trusted_proxy_are_kept_and_extended() {
    let server = ok();
    let lb = Lb::in_front_of(&server, "[proxy]\ntrusted_proxies = [\"127.0.0.0/8\"]\n");
    let headers = "Host: inner\r\nX-Forwarded-For: 203.0.113.7, 10.0.0.1\r\nX-Forwarded-Proto: https\r\n\
        X-Forwarded-Host: shop.example\r\nForwarded: for=203.0.113.7, for=10.0.0.1\r\nVia: 2 edge\r\n";
    let expected: &[(&str, &[&str])] = &[
        ("host", &["inner"]),
        ("x-forwarded-for", &["203.0.113.7, 10.0.0.1, 127.0.0.1"]),
        ("x-forwarded-proto", &["https"]),
        ("x-forwarded-host", &["shop.example"]),
        ("forwarded", &["for=203.0.113.7, for=10.0.0.1, for=127.0.0.1;proto=http;host=inner"]),
        ("via", &["2 edge", "1.1 lb"]),
    ];
    assert_headers(&forwarded(&lb, &server, "GET /", headers), expected);
    // An edit ends the trust.
    lb.apply(&format!("{NO_CHECKS}{}", server.table("server1")));
    assert_headers(&forwarded(&lb, &server, "GET /", headers), &[("x-forwarded-for", &["127.0.0.1"])]);
}

#[test]
fn a_request_has_one_id() {
    let server = ok();
    let lb = Lb::in_front_of(&server, "");
    let kept = forwarded(&lb, &server, "GET /", "Host: a\r\nX-Request-Id: order-7\r\n");
    assert_eq!(kept.values("x-request-id"), ["order-7"]);
    let generated = |headers: &str| {
        let request = forwarded(&lb, &server, "GET /", &format!("Host: a\r\n{headers}"));
        let ids = request.values("x-request-id");
        assert!(ids.len() == 1 && ids[0].len() == 32 && ids[0] != "two words", "{ids:?}");
        ids[0].to_owned()
    };
    assert_ne!(generated(""), generated("X-Request-Id: two words\r\n"));
    lb.logs("the id", |line| line.contains("order-7"));
}

#[test]
fn hop_by_hop_headers_of_a_response_are_removed() {
    let server = Server::responding(
        "HTTP/1.1 299 Odd\r\nContent-Length: 2\r\nKeep-Alive: timeout=5\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\
         Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-End: 1\r\n\r\nok",
    );
    let lb = Lb::in_front_of(&server, "");
    let response = get(lb.address(), "/");
    assert_eq!((response.status, response.text().as_str()), (299, "ok"));
    for name in ["connection", "keep-alive", "x-hop"] {
        assert_eq!(response.header(name), None, "{response:?}");
    }
    assert_eq!((response.header("x-end"), response.header("via")), (Some("1"), Some("1.1 lb")));
    assert_eq!(response.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie")).count(), 2);
}

/// Asserts that a response is one of our own, `application/problem+json`, and names nothing internal.
#[track_caller]
fn assert_problem(response: &Response, status: u16, servers: &[SocketAddr]) {
    assert_eq!(response.status, status, "{response:?}");
    assert_eq!(response.header("content-type"), Some("application/problem+json"));
    let problem: serde_json::Value = serde_json::from_slice(&response.body).expect("JSON");
    assert_eq!(problem["status"], status, "{problem}");
    assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
    let all = format!("{response:?}{}", response.text());
    for server in servers {
        assert!(!all.contains(&server.to_string()) && !all.contains(&format!(":{}", server.port())), "{all}");
    }
    assert!(!all.contains("server1"), "{all}");
}

#[test]
fn our_own_responses_name_nothing_internal() {
    let server = Server::scripted(|_, _| ());
    let stopped = ok();
    stopped.stop();
    let lb = Lb::in_front_of(&server, "[retry]\nattempts = 0\n[limits]\nbody_bytes = \"3B\"\n");
    let address = lb.address();
    let servers = [server.address, stopped.address];
    assert_problem(&get(address, "/"), 502, &servers);
    assert_problem(&get(address, "/.."), 400, &servers);
    let response = Client::connect(address).request("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_problem(&response, 405, &servers);
    assert_eq!(response.header("allow"), Some("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    let response = Client::connect(address).request("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
    assert_problem(&response, 413, &servers);
    lb.apply(&format!("{NO_CHECKS}{}", stopped.table("server1")));
    assert_problem(&get(address, "/"), 502, &servers);
    lb.apply(&format!("{NO_CHECKS}[reload]\nallow_empty = true\n{}enabled = false\n", stopped.table("server1")));
    assert_problem(&get(address, "/"), 503, &servers);
    // For HEAD the same, without the body.
    let mut client = Client::connect(address);
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\nHEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.try_head().expect("a head").0, 503);
    assert_eq!(client.try_head().expect("another head, and nothing between").0, 503);
}
