//! Upgrades: a tunnel exists only once the server has switched protocols.

use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS};
use crate::support::servers::{Recorder, Request, Server, respond};

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCH: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Key: 1\r\n\r\n";

/// On `/chat` switches protocols, sends every byte back, and finally `bye`. Responds `ok` to other requests.
fn echoing(mut stream: BufReader<TcpStream>, recorder: &Recorder) {
    while let Some(request) = recorder.next(&mut stream) {
        if request.path() != "/chat" {
            respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            continue;
        }
        // The first bytes of the new protocol directly follow the head.
        respond(&mut stream, [SWITCH, "welcome"].concat());
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            respond(&mut stream, &bytes[..count]);
        }
        return respond(&mut stream, "bye");
    }
}

fn switched(client: &mut Client) -> Vec<(String, String)> {
    let (status, headers) = client.try_head().expect("a head");
    assert_eq!(status, 101, "{headers:?}");
    headers
}

#[test]
fn after_a_101_bytes_pass_both_ways_even_early_ones() {
    let server = Server::scripted(echoing);
    let lb = Lb::in_front_of(&server, "");
    let mut client = Client::connect(lb.address());
    client.send([UPGRADE, "early"].concat());
    let headers = switched(&mut client);
    let value =
        |name: &str| headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| &**value);
    assert_eq!(
        (value("upgrade"), value("connection"), value("x-key")),
        (Some("websocket"), Some("upgrade"), Some("1"))
    );
    assert_eq!(client.read(12), b"welcomeearly");
    for message in ["one", "two \0\r\n\r\nGET / HTTP/1.1\r\n\r\n", "three"] {
        client.send(message);
        assert_eq!(client.read(message.len()), message.as_bytes());
    }
    let request = server.requests().remove(0);
    assert_eq!((request.values("upgrade"), request.values("connection")), (vec!["websocket"], vec!["upgrade"]));
    assert_eq!(lb.server("server1")["active_requests"], 1);
    // Each direction ends by itself.
    client.socket().shutdown(Shutdown::Write).expect("a socket");
    assert_eq!(client.rest().expect("an end"), b"bye");
    eventually("the tunnel ends", || (lb.server("server1")["active_requests"] == 0).then_some(()));
    assert_eq!(server.requests().len(), 1, "bytes in a tunnel are not a request");
    lb.logs("the tunnel", |line| line.contains("GET /chat HTTP/1.1\" 101 "));
}

#[test]
fn megabytes_pass_through_a_tunnel() {
    let server = Server::scripted(echoing);
    let lb = Lb::in_front_of(&server, "");
    let mut client = Client::connect(lb.address());
    client.send(UPGRADE);
    switched(&mut client);
    assert_eq!(client.read(7), b"welcome");
    let content: Vec<u8> =
        (0..5_u32 << 20).map(|i| u8::try_from(i.wrapping_mul(2_654_435_761) >> 24).expect("8 bits")).collect();
    let mut writer = client.socket();
    std::thread::scope(|scope| {
        scope.spawn(|| writer.write_all(&content).expect("sent"));
        assert!(client.read(content.len()) == content);
    });
}

#[test]
fn a_tunnel_outlives_edits_of_other_servers_and_ends_with_the_drain_of_its_own() {
    let server = Server::scripted(echoing);
    let other = Server::named("other");
    let config = |timeouts: &str, weight: u32, server1: &str| {
        format!("{NO_CHECKS}{timeouts}{}weight = {weight}\n{}{server1}", other.table("other"), server.table("server1"))
    };
    // A tunnel has none of these timeouts but that of the drain.
    let timeouts =
        "[timeouts]\nidle = \"100ms\"\nbody_idle = \"100ms\"\nresponse_header = \"100ms\"\ndrain = \"200ms\"\n";
    let lb = Lb::start(&config(timeouts, 1, ""));
    let mut client = eventually("a tunnel", || {
        let mut client = Client::connect(lb.address());
        client.send(UPGRADE);
        (client.try_head().expect("a head").0 == 101).then_some(client)
    });
    assert_eq!(client.read(7), b"welcome");
    for weight in [2, 0, 3] {
        lb.apply(&config(timeouts, weight, ""));
        client.send("still");
        assert_eq!(client.read(5), b"still");
    }
    lb.apply(&config(timeouts, 3, "enabled = false\n"));
    assert!(client.is_closed(), "the drain timeout");
    eventually("the tunnel ends", || (lb.server("server1")["active_requests"] == 0).then_some(()));
}

#[test]
fn a_tunnel_ends_with_either_side() {
    let server = Server::scripted(|mut stream, recorder| {
        if recorder.next(&mut stream).is_some() {
            respond(&mut stream, SWITCH);
            // Until the client sends `q`, or ends.
            let mut byte = [0];
            while let Ok(1) = stream.read(&mut byte) {
                if byte == *b"q" {
                    return;
                }
            }
            recorder.add(&Request { line: "the client has left".to_owned(), ..Request::default() });
        }
    });
    let lb = Lb::in_front_of(&server, "");
    let mut client = Client::connect(lb.address());
    client.send(UPGRADE);
    switched(&mut client);
    client.send("q");
    assert!(client.is_closed());
    let mut client = Client::connect(lb.address());
    client.send(UPGRADE);
    switched(&mut client);
    drop(client);
    eventually("the server sees the end", || {
        server.requests().pop().filter(|request| request.line == "the client has left")
    });
}

/// A body, and what its framing adds to the head and to each part.
type Framing = (&'static str, [&'static str; 2]);

const FRAMINGS: [Framing; 2] = [
    ("Content-Length: 10\r\n", ["hello", "world"]),
    ("Transfer-Encoding: chunked\r\n", ["5\r\nhello\r\n", "5\r\nworld\r\n0\r\n\r\n"]),
];

fn post(framing: &str, more: &str) -> String {
    format!("POST /exec HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n{framing}{more}\r\n")
}

fn echo(stream: &mut BufReader<TcpStream>) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        respond(stream, &bytes[..count]);
    }
}

// Case: upgrade-with-body
#[test]
fn an_upgrade_with_a_body_forwards_the_body_and_then_becomes_a_tunnel() {
    let server = Server::scripted(|mut stream, recorder| {
        if let Some(request) = recorder.next(&mut stream) {
            if !request.values("expect").is_empty() {
                respond(&mut stream, "HTTP/1.1 103 Early Hints\r\n\r\n");
            }
            respond(&mut stream, [SWITCH, "welcome"].concat());
            echo(&mut stream);
        }
    });
    let lb = Lb::in_front_of(&server, "");
    for (framing, parts) in FRAMINGS {
        for more in ["", "Expect: 100-continue\r\n"] {
            let mut client = Client::connect(lb.address());
            client.send([&post(framing, more), parts[0]].concat());
            // Bytes of the new protocol directly follow the body.
            client.send([parts[1], "early"].concat());
            if !more.is_empty() {
                assert_eq!(client.try_head().expect("an interim response").0, 103);
            }
            switched(&mut client);
            assert_eq!(client.read(12), b"welcomeearly", "{framing}");
            client.send("more");
            assert_eq!(client.read(4), b"more");
            let request = server.requests().pop().expect("a request");
            assert_eq!((&request.body[..], request.values("upgrade")), (&b"helloworld"[..], vec!["tcp"]));
            assert!(request.is_canonical());
        }
    }
}

// Case: upgrade-with-body
#[test]
fn a_tunnel_starts_after_the_whole_request_even_if_the_server_switches_earlier() {
    let server = Server::scripted(|mut stream, recorder| {
        let Some(mut request) = Request::read_head(&mut stream) else { return };
        respond(&mut stream, [SWITCH, "welcome"].concat());
        if request.read_body(&mut stream).is_some() {
            recorder.add(&request);
            echo(&mut stream);
        }
    });
    let lb = Lb::in_front_of(&server, "[limits]\nbody_bytes = \"10B\"\n");
    for (framing, parts) in FRAMINGS {
        let mut client = Client::connect(lb.address());
        client.send([&post(framing, ""), parts[0]].concat());
        switched(&mut client);
        client.send([parts[1], "early"].concat());
        assert_eq!(client.read(12), b"welcomeearly", "{framing}");
        assert_eq!(server.requests().pop().expect("a request").body, b"helloworld");
    }
    // The limits of the body hold, too.
    let mut client = Client::connect(lb.address());
    client.send([&post(FRAMINGS[1].0, ""), "5\r\nhello\r\n"].concat());
    switched(&mut client);
    client.send("6\r\n world\r\n0\r\n\r\n");
    assert!(client.is_closed());
    lb.logs("the body over the limit", |line| line.contains("\" 101 ") && line.contains("body_too_large"));
}

// Case: upgrade-with-body
#[test]
fn a_declined_upgrade_with_a_body_is_an_ordinary_request() {
    let server = Server::responding("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let lb = Lb::in_front_of(&server, "");
    for (framing, parts) in FRAMINGS {
        let mut client = Client::connect(lb.address());
        client.send([&post(framing, ""), parts[0], parts[1], "GET /next HTTP/1.1\r\nHost: a\r\n\r\n"].concat());
        assert_eq!([(); 2].map(|()| client.response().text()), ["ok", "ok"], "{framing}");
        let lines: Vec<_> = server.requests().into_iter().map(|request| request.line).collect();
        assert_eq!(lines[lines.len() - 2..], ["POST /exec HTTP/1.1", "GET /next HTTP/1.1"]);
    }
}
