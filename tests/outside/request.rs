//! The headers of forwarded requests and responses.

use std::net::SocketAddr;

use crate::support::client::{Client, Response, get};
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS, servers};
use crate::support::servers::{Request, Server};

fn ok() -> Server {
    Server::responding("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
}

/// The request that the server receives if a client sends these headers.
fn forwarded_request(lb: &Lb, server: &Server, line: &str, headers: &str) -> Request {
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
        ("forwarded", &[]),
        ("via", &[]),
    ];
    assert_headers(&forwarded_request(&lb, &server, "GET /", "Host: shop.example:8080\r\n"), expected);
    // Case: forwarded-headers
    let forged = "Host: shop.example:8080\r\nX-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\n\
        X-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\nX-Real-IP: 203.0.113.7\r\nForwarded: for=203.0.113.7\r\n\
        X_Forwarded_For: 203.0.113.7\r\nX_Real_IP: 203.0.113.7\r\n";
    let request = forwarded_request(&lb, &server, "GET /", forged);
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
        ("forwarded", &[]),
        ("via", &["2 edge"]),
    ];
    assert_headers(&forwarded_request(&lb, &server, "GET /", headers), expected);
    // An edit ends the trust.
    lb.apply(&format!("{NO_CHECKS}{}", server.table("server1")));
    assert_headers(&forwarded_request(&lb, &server, "GET /", headers), &[("x-forwarded-for", &["127.0.0.1"])]);
}

/// The headers of a request that describe the client, or the way.
const DESCRIBING: [&str; 6] =
    ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-real-ip", "forwarded", "x-forwarded-port"];

/// A request from a proxy that has received one over https, in each of the families and in both.
const FROM_PROXIES: [&str; 4] = [
    "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n",
    "X-Forwarded-Proto: https\r\n",
    "Forwarded: for=203.0.113.9;proto=https;host=shop.example\r\n",
    "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nForwarded: for=203.0.113.9;proto=https\r\n",
];

#[test]
fn the_families_of_forwarding_headers_are_written_as_configured_and_never_contradict_each_other() {
    let server = ok();
    let config = |more: &str| format!("{NO_CHECKS}[proxy]\n{more}{}", server.table("server1"));
    let lb = Lb::start(&config(""));
    let lies = "Host: a\r\nX-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n\
        X-Real-IP: 203.0.113.7\r\nForwarded: for=203.0.113.7;proto=https\r\nX-Forwarded-Port: 1\r\n\
        X_Forwarded_For: 203.0.113.7\r\n";
    let modes = ["x-forwarded", "forwarded", "both", "none"];
    for mode in modes {
        let (x, forwarded) = (["x-forwarded", "both"].contains(&mode), ["forwarded", "both"].contains(&mode));
        lb.apply(&config(&format!("forwarded = \"{mode}\"\n")));
        for sent in ["Host: a\r\n", lies] {
            let request = forwarded_request(&lb, &server, "GET /", sent);
            let element = if forwarded { vec!["for=127.0.0.1;proto=http;host=a"] } else { vec![] };
            let values = if x {
                ["127.0.0.1", "http", "a", "127.0.0.1"].map(|value| vec![value])
            } else {
                [(); 4].map(|()| vec![])
            };
            let [of, proto, host, ip] = values;
            let seen = DESCRIBING.map(|name| request.values(name));
            assert_eq!(seen, [of, proto, host, ip, element, vec![]], "{mode} {sent}");
            assert!(request.values("x_forwarded_for").is_empty(), "{mode}");
        }
        lb.apply(&config(&format!("forwarded = \"{mode}\"\ntrusted_proxies = [\"127.0.0.0/8\"]\n")));
        for sent in FROM_PROXIES {
            let request = forwarded_request(&lb, &server, "GET /", &format!("Host: a\r\n{sent}"));
            // Servers take the scheme from X-Forwarded-Proto, or from the first or the last element that has one.
            let schemes: Vec<&str> =
                request.values("forwarded").iter().flat_map(|list| list.split("proto=").skip(1)).collect();
            assert!(schemes.iter().all(|rest| rest.starts_with("https")), "{mode} {sent}: {request:?}");
            let x_proto = request.values("x-forwarded-proto");
            assert!(x_proto.iter().all(|proto| *proto == "https"), "{mode} {sent}: {request:?}");
            if mode == "none" {
                let head = String::from_utf8_lossy(&request.head).into_owned();
                assert!(head.contains(sent) && !head.contains("127.0.0.1,") && request.values("x-real-ip").is_empty());
            } else {
                assert_eq!(
                    (x_proto.len(), !schemes.is_empty()),
                    (usize::from(x), forwarded),
                    "{mode} {sent}: {request:?}"
                );
            }
        }
    }
}

#[test]
fn via_is_added_in_both_directions_only_if_wanted() {
    let server = Server::responding("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    for via in [false, true] {
        let lb = Lb::in_front_of(&server, &format!("[proxy]\nvia = {via}\n"));
        let mut client = Client::connect(lb.address());
        client.send("GET / HTTP/1.1\r\nHost: a\r\nVia: 2 edge\r\n\r\n");
        for status in [103, 200] {
            let (received, headers) = client.try_head().expect("a head");
            let has_via = headers.iter().any(|(name, value)| name == "Via" && value == "1.1 lb");
            assert_eq!((received, has_via), (status, via));
        }
        let seen = server.requests().pop().expect("a request").values("via").join(", ");
        assert_eq!(seen, if via { "2 edge, 1.1 lb" } else { "2 edge" });
        // Our own responses have not come from anywhere.
        assert_eq!(get(lb.address(), "/..").header("via"), None);
    }
}

/// nginx as a server that compresses, with its other settings as they are. Killed when dropped.
struct Nginx {
    child: std::process::Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Nginx {
    /// Starts it; `None` if it is not installed.
    fn start() -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().to_str().expect("text");
        // nginx does not choose a port itself.
        let address =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
        std::fs::write(directory.path().join("page.html"), "<p>hello</p>\n".repeat(1000)).expect("a page");
        let paths =
            ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|name| format!("{name}_temp_path {path}/{name};"));
        let config = format!(
            "daemon off; master_process off; pid {path}/pid; error_log {path}/log; events {{}}\nhttp {{ access_log off; {} gzip on; \
             types {{ text/html html; }} server {{ listen {address}; root {path}; }} }}",
            paths.concat()
        );
        let file = directory.path().join("nginx.conf");
        std::fs::write(&file, config).expect("a file");
        let mut command = std::process::Command::new("nginx");
        match command.arg("-c").arg(&file).stderr(std::process::Stdio::null()).spawn() {
            Ok(child) => {
                let nginx = Self { child, address, _directory: directory };
                eventually("nginx listens", || std::net::TcpStream::connect(address).ok());
                Some(nginx)
            }
            Err(error) => {
                eprintln!("skipped: nginx: {error}");
                None
            }
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The process may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn nginx_compresses_as_it_does_without_lb() {
    let Some(nginx) = Nginx::start() else { return };
    let server = servers(&[("nginx", nginx.address, 1)]);
    let lb = Lb::start(&format!("{NO_CHECKS}{server}"));
    let encoding = |address| {
        let request = "GET /page.html HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n";
        let response = Client::connect(address).request(request);
        (response.status, response.header("content-encoding").map(str::to_owned))
    };
    let compressed = (200, Some("gzip".to_owned()));
    assert_eq!((encoding(nginx.address), encoding(lb.address())), (compressed.clone(), compressed));
    lb.apply(&format!("{NO_CHECKS}[proxy]\nvia = true\n{server}"));
    assert_eq!(encoding(lb.address()), (200, None), "the reason for the default");
}

#[test]
fn a_request_has_one_id() {
    let server = ok();
    let lb = Lb::in_front_of(&server, "");
    let kept = forwarded_request(&lb, &server, "GET /", "Host: a\r\nX-Request-Id: order-7\r\n");
    assert_eq!(kept.values("x-request-id"), ["order-7"]);
    let generated = |headers: &str| {
        let request = forwarded_request(&lb, &server, "GET /", &format!("Host: a\r\n{headers}"));
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
    assert_eq!((response.header("x-end"), response.header("via")), (Some("1"), None));
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
