//! Trailers in both directions: those that are announced or asked for, and none that would be dangerous.

use crate::support::client::{Client, Piece};
use crate::support::lb::Lb;
use crate::support::servers::{Request, Server};

/// Trailers of which only the first two may ever be forwarded.
const TRAILERS: &str = "X-Sum: 7\r\nX-Two:2\r\nContent-Length: 9\r\nTE: gzip\r\nHost: evil\r\n\
    X-Forwarded-For: 203.0.113.7\r\nX_Forwarded_Proto: https\r\nForwarded: for=203.0.113.7\r\nTransfer-Encoding: gzip\r\n\
    Set-Cookie: lb=evil\r\nContent-Encoding: gzip\r\nContent_Type: x\r\nAuthorization: x\r\nCookie: x\r\nTrailer: x\r\n\
    Connection: close\r\ntraceparent: x\r\nCache-Control: no-store\r\n";

/// `Trailer` headers that announce all of them.
const ALL: &str = "Trailer: X-Sum, X-Two\r\nTrailer: Content-Length, TE, Host, X-Forwarded-For,X_Forwarded_Proto, \
    Forwarded, Transfer-Encoding, Set-Cookie, Content-Encoding, Content_Type, Authorization, Cookie, Trailer, Connection, \
    traceparent, Cache-Control\r\n";

/// The values of `Trailer`, joined, and the trailers.
type Received = (Option<String>, Vec<String>);

fn expected(announced: &str, trailers: &[&str]) -> Received {
    let announced = (!announced.is_empty()).then(|| announced.to_owned());
    (announced, trailers.iter().map(|line| (*line).to_owned()).collect())
}

fn joined<'a>(values: impl Iterator<Item = &'a str>) -> Option<String> {
    let values: Vec<&str> = values.collect();
    (!values.is_empty()).then(|| values.join(" | "))
}

/// The trailers that a client gets which sends this request to a server that responds so.
fn response(request: &str, head: &str, body: &str) -> Received {
    let server = Server::responding(format!("HTTP/1.1 200 OK\r\n{head}\r\n{body}"));
    let lb = Lb::in_front_of(&server, "");
    let mut client = Client::connect(lb.address());
    client.send(request);
    let (status, headers) = client.try_head().expect("a head");
    assert_eq!(status, 200);
    let values = |wanted: &'static str| {
        let headers = headers.iter().filter(move |(name, _)| name.eq_ignore_ascii_case(wanted));
        headers.map(|(_, value)| value.as_str())
    };
    let announced = joined(values("trailer"));
    if values("transfer-encoding").next().is_none() {
        return (announced, Vec::new());
    }
    assert_eq!(client.chunk().expect("a chunk"), Piece::Data(b"hello".to_vec()));
    let Ok(Piece::End(trailers)) = client.chunk() else { panic!("no last chunk") };
    // The connection is in step.
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.try_head().expect("a head").0, 200);
    (announced, trailers)
}

#[test]
fn a_response_has_the_trailers_that_its_client_accepts_or_that_it_announces() {
    let (get, te) = ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n");
    let chunked = |trailers: &str| format!("5\r\nhello\r\n0\r\n{trailers}\r\n");
    let both = &["X-Sum: 7", "X-Two: 2"];
    let cases = [
        (get, "", expected("", &[])),
        (get, "Trailer: x-sum\r\n", expected("x-sum", &["X-Sum: 7"])),
        (get, ALL, expected("X-Sum, X-Two", both)),
        (get, "Trailer: Content-Length\r\n", expected("", &[])),
        (te, "", expected("", both)),
        (te, "Trailer: X-Sum\r\n", expected("X-Sum", both)),
        (te, ALL, expected("X-Sum, X-Two", both)),
        // They are not for the client.
        (te, "Connection: X-Two\r\n", expected("", &["X-Sum: 7"])),
        (get, "Connection: X-Two\r\nTrailer: X-Sum, X-Two\r\n", expected("X-Sum", &["X-Sum: 7"])),
        // HTTP/1.0 has no trailers.
        ("GET / HTTP/1.0\r\nTE: trailers\r\n\r\n", ALL, expected("", &[])),
    ];
    for (request, head, expected) in cases {
        let head = format!("{head}Transfer-Encoding: chunked\r\n");
        assert_eq!(response(request, &head, &chunked(TRAILERS)), expected, "{request} {head}");
    }
    // A body that is not chunked has none, so none are announced.
    let head = "Trailer: X-Sum\r\nContent-Length: 5\r\n";
    assert_eq!(response(te, head, "hello"), expected("", &[]));
}

/// The trailers that a server gets from a client that sends this request.
fn request(lb: &Lb, server: &Server, sent: &str) -> (Received, Request) {
    let mut client = Client::connect(lb.address());
    assert_eq!(client.request(sent).status, 200, "{sent}");
    assert_eq!(client.get("/").status, 200, "the connection is in step");
    let requests = server.requests();
    let request = requests[requests.len() - 2].clone();
    assert!(request.is_canonical(), "{request:?}");
    // Announced in the head; read after the body.
    let head = String::from_utf8_lossy(&request.head).into_owned();
    let heads = head.lines().filter_map(|line| line.strip_prefix("Trailer: "));
    let announced = joined(heads.clone());
    let trailers = request.values("trailer")[heads.count()..].iter().map(|line| (*line).to_owned()).collect();
    ((announced, trailers), request)
}

// Case: trailers
#[test]
fn a_request_has_the_trailers_that_it_announces() {
    let server = Server::responding("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let lb = Lb::in_front_of(&server, "");
    let cases = [
        ("", expected("", &[])),
        ("Trailer: x-sum\r\n", expected("x-sum", &["X-Sum: 7"])),
        (ALL, expected("X-Sum, X-Two", &["X-Sum: 7", "X-Two: 2"])),
        ("Trailer: Host, Content-Length\r\n", expected("", &[])),
        ("Connection: X-Two\r\nTrailer: X-Sum, X-Two\r\n", expected("X-Sum", &["X-Sum: 7"])),
        // It is about the response.
        ("TE: trailers\r\n", expected("", &[])),
    ];
    for (head, expected) in cases {
        for body in ["5\r\nhello\r\n0\r\n", "0\r\n"] {
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{head}Transfer-Encoding: chunked\r\n\r\n");
            let (received, request) = request(&lb, &server, &format!("{head}{body}{TRAILERS}\r\n"));
            assert_eq!(received, expected, "{head}");
            assert_eq!(request.body, if body.len() > 3 { &b"hello"[..] } else { b"" });
            assert_eq!((request.values("host"), request.values("x-forwarded-for")), (vec!["a"], vec!["127.0.0.1"]));
        }
    }
    let sent = "POST / HTTP/1.1\r\nHost: a\r\nTrailer: X-Sum\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(request(&lb, &server, sent).0, expected("", &[]));
}

#[test]
fn a_response_with_too_many_trailers_is_complete() {
    let te = "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n";
    for more in ["X: 1\r\n".repeat(100), format!("X: {}\r\n", "x".repeat(9000))] {
        let body = format!("5\r\nhello\r\n0\r\nX-Sum: 7\r\n{more}\r\n");
        let (_, trailers) = response(te, "Transfer-Encoding: chunked\r\n", &body);
        assert!(trailers.len() <= 64 && trailers[0] == "X-Sum: 7", "{trailers:?}");
    }
}

#[test]
fn a_trailer_section_that_is_too_long_is_400() {
    let server = Server::responding("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let lb = Lb::in_front_of(&server, "");
    for trailers in ["X: 1\r\n".repeat(65), format!("X: {}\r\n", "x".repeat(9000))] {
        let mut client = Client::connect(lb.address());
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTrailer: X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{trailers}\r\n"
        ));
        assert_eq!(client.response().status, 400);
        assert!(client.is_closed() && server.requests().is_empty());
    }
}
