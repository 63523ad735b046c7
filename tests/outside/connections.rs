//! Connections to clients and to servers: kept open, reused, closed when they should be.

use std::io::{BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use crate::support::client::{Client, get};
use crate::support::lb::{Lb, NO_CHECKS, servers};
use crate::support::servers::{Recorder, Request, Server, hanging, respond};
use crate::support::{DEADLINE, eventually};
use crate::timeouts::STEP;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Each worker has its own connections to servers; a single worker makes them countable.
const ONE_WORKER: &str = "[proxy]\nworkers = 1\n";

#[test]
fn a_hundred_requests_of_one_client_or_of_many_use_one_connection_to_the_server() {
    let server = Server::responding(OK);
    let lb = Lb::in_front_of(&server, ONE_WORKER);
    let address = lb.address();
    let mut client = Client::connect(address);
    for _ in 0..100 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(server.connections(), 1);
    for _ in 0..100 {
        assert_eq!(get(address, "/").status, 200);
    }
    assert_eq!((server.connections(), server.requests().len()), (1, 200));
    // An edit of something else keeps it open.
    lb.apply(&format!("{NO_CHECKS}{ONE_WORKER}[log]\naccess = false\n{}", server.table("server1")));
    assert_eq!((client.get("/").status, server.connections()), (200, 1));
}

#[test]
fn responses_to_pipelined_requests_are_in_order() {
    let server = Server::scripted(|mut stream, recorder| {
        while let Some(request) = recorder.next(&mut stream) {
            let path = request.path();
            respond(&mut stream, format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len()));
        }
    });
    let lb = Lb::in_front_of(&server, "");
    let mut client = Client::connect(lb.address());
    let requests: String = (0..50).map(|i| format!("GET /{i} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    client.send(requests);
    for i in 0..50 {
        assert_eq!(client.response().text(), format!("/{i}"));
    }
}

#[test]
fn a_client_decides_whether_its_connection_stays_open() {
    let server = Server::responding(OK);
    let lb = Lb::in_front_of(&server, "");
    let address = lb.address();
    let cases = [
        ("HTTP/1.1", "", false),
        ("HTTP/1.1", "Connection: close\r\n", true),
        ("HTTP/1.1", "Connection: x-other, Close\r\n", true),
        ("HTTP/1.0", "", true),
        ("HTTP/1.0", "Connection: keep-alive\r\n", false),
    ];
    for (version, header, closes) in cases {
        let mut client = Client::connect(address);
        let response = client.request(format!("GET / {version}\r\nHost: a\r\n{header}\r\n"));
        assert_eq!((response.status, response.text().as_str()), (200, "ok"), "{version} {header}");
        if closes {
            assert!(client.is_closed(), "{version} {header}");
        } else {
            assert_eq!(client.get("/").status, 200, "{version} {header}");
        }
    }
    assert!(server.requests().iter().all(|request| request.values("connection").is_empty()));
}

#[test]
fn a_connection_that_the_server_closes_is_not_reused() {
    let server = Server::scripted(|mut stream, recorder| {
        // One response for each connection, without announcing the close.
        if recorder.next(&mut stream).is_some() {
            respond(&mut stream, OK);
        }
    });
    let lb = Lb::in_front_of(&server, ONE_WORKER);
    let mut client = Client::connect(lb.address());
    for count in 0..20 {
        assert_eq!(client.get("/").status, 200, "after {count}");
    }
    assert_eq!(server.connections(), 20);
    // Nor is one whose response announces the close, or is HTTP/1.0.
    for bytes in ["HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok", "HTTP/1.0 200 OK\r\n\r\nok"] {
        let server = Server::scripted(move |mut stream, recorder| {
            if recorder.next(&mut stream).is_some() {
                respond(&mut stream, bytes);
            }
        });
        let lb = Lb::in_front_of(&server, ONE_WORKER);
        let mut client = Client::connect(lb.address());
        for _ in 0..3 {
            let response = client.get("/");
            assert_eq!((response.status, response.text().as_str()), (200, "ok"));
            assert!(
                response.header("connection").is_none(),
                "the server's `Connection` must not be forwarded: {response:?}"
            );
        }
    }
}

#[test]
fn a_request_ends_if_its_client_leaves_during_the_connect() {
    let (_socket, _queue, hanging) = hanging();
    let table = servers(&[("hanging", hanging, 1)]);
    let lb = Lb::start(&format!("{NO_CHECKS}[timeouts]\nconnect = \"1h\"\n{table}"));
    let cases = [
        "GET /get HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /two HTTP/1.1\r\nHost: a\r\n\r\nGET /after HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /whole HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "POST /part HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhello",
        "POST /chunks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ];
    for request in cases {
        let mut client = Client::connect(lb.address());
        client.send(request);
        let open = |count| (lb.server("hanging")["active_requests"] == count).then_some(());
        eventually("the request is open", || open(1));
        drop(client);
        eventually("the request has ended", || open(0));
        let path = request.split(' ').nth(1).expect("a path");
        lb.logs(path, |line| line.contains(path) && line.contains("\" 499 ") && line.contains("client_gone"));
    }
    assert!(!lb.stdout().iter().any(|line| line.contains("/after")));
}

#[test]
fn bytes_that_arrive_during_the_connect_are_not_lost() {
    let (socket, queue, hanging) = hanging();
    let table = servers(&[("hanging", hanging, 1)]);
    let lb = Lb::start(&format!("{NO_CHECKS}[timeouts]\nconnect = \"1h\"\n{table}"));
    let body = "0123456789".repeat(20_000);
    let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let framings = [
        (format!("Content-Length: {}\r\n\r\n", body.len()), body.clone()),
        ("Transfer-Encoding: chunked\r\n\r\n".to_owned(), chunks),
    ];
    let mut clients: Vec<Client> = framings
        .iter()
        .map(|(framing, bytes)| {
            let mut client = Client::connect(lb.address());
            let first = &bytes[..1000];
            client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}{first}"));
            client
        })
        .collect();
    eventually("both requests are open", || (lb.server("hanging")["active_requests"] == 2).then_some(()));
    for (client, (_, bytes)) in clients.iter_mut().zip(&framings) {
        client.send(format!("{}GET /next HTTP/1.1\r\nHost: a\r\n\r\n", &bytes[1000..]));
    }
    // The others leave the queue, and the server accepts.
    socket.listen(16).expect("a listener");
    drop(queue);
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let listener: TcpListener = socket.into();
        for stream in listener.incoming().map_while(Result::ok) {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let mut stream = BufReader::new(stream);
                while let Some(request) = Request::read(&mut stream) {
                    respond(&mut stream, OK);
                    let _ = sender.send(request);
                }
            });
        }
    });
    for client in &mut clients {
        assert_eq!((client.response().status, client.response().status), (200, 200));
    }
    let mut requests: Vec<Request> = receiver.iter().take(4).collect();
    requests.sort_by_key(|request| request.line.clone());
    assert_eq!([0, 1].map(|i| requests[i].path()), ["/next"; 2]);
    assert!([2, 3].iter().all(|i| requests[*i].body == body.as_bytes()));
}

#[test]
fn a_request_that_outlasts_the_drain_of_its_server_is_aborted_and_not_blamed_on_its_client() {
    let (stalling, other) = (Server::scripted(stall), Server::responding(OK));
    let file = |stalling_keys: &str, other_keys: &str| {
        let drain = "[timeouts]\ndrain = \"200ms\"\n";
        format!("{NO_CHECKS}{drain}{}{stalling_keys}{}{other_keys}", stalling.table("stalling"), other.table("other"))
    };
    let lb = Lb::start(&file("", "weight = 0\n"));
    let (mut waiting, mut reading) = (Client::connect(lb.address()), Client::connect(lb.address()));
    waiting.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    reading.send("GET /read HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(reading.try_head().expect("a head").0, 200);
    eventually("both requests arrive", || (stalling.requests().len() == 2).then_some(()));
    lb.apply(&file("enabled = false\n", ""));
    assert!(waiting.is_closed() && reading.is_closed());
    for path in ["/wait", "/read"] {
        lb.logs(path, |line| line.contains(path) && line.contains("error=aborted"));
    }
}

/// Sends the head of a response to `/read`, and nothing to other requests.
fn stall(mut stream: BufReader<TcpStream>, recorder: &Recorder) {
    while let Some(request) = recorder.next(&mut stream) {
        if request.path() == "/read" {
            respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n");
        }
    }
}

#[test]
fn a_listener_can_have_an_ipv6_address() {
    if TcpListener::bind("[::1]:0").is_err() {
        return;
    }
    let server = Server::responding(OK);
    let lb = Lb::start_file(&format!(
        "[[listener]]\naddress = \"[::1]:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n{NO_CHECKS}{}",
        server.table("server1")
    ));
    let address: SocketAddr = lb.address();
    assert!(address.is_ipv6());
    assert_eq!(get(address, "/").status, 200);
    let request = server.requests().remove(0);
    assert_eq!(request.values("x-forwarded-for"), ["::1"]);
    assert_eq!(request.values("x-real-ip"), ["::1"]);
}

/// A file with one listener and an admin address.
fn wildcard(listener: &str, admin: &str, server: &Server) -> String {
    let proxy = "[proxy]\ntrusted_proxies = [\"127.0.0.3/32\"]\n";
    let server = server.table("server1");
    format!("[[listener]]\naddress = \"{listener}\"\n[admin]\naddress = \"{admin}\"\n{NO_CHECKS}{proxy}{server}")
}

/// Sends a request from an address of this machine, with `X-Forwarded-For`.
fn get_from(from: &str, address: SocketAddr) -> u16 {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&format!("{from}:0").parse::<SocketAddr>().expect("an address").into()).expect("a port");
    socket.connect(&address.into()).expect("a connection");
    let mut stream = TcpStream::from(socket);
    stream
        .write_all(b"GET /from HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.9\r\nConnection: close\r\n\r\n")
        .expect("sent");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stream, &mut text).expect("a response");
    text.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
}

// Case: both-families
#[test]
fn the_unspecified_ipv6_address_accepts_ipv4_clients_as_what_they_are() {
    if TcpListener::bind("[::]:0").is_err() {
        return;
    }
    let server = Server::responding(OK);
    let mut lb = Lb::start_file(&wildcard("[::]:0", "[::]:0", &server));
    lb.admin.set_ip([127, 0, 0, 1].into());
    assert_eq!(lb.ask("/health").status, 200);
    let port = lb.address().port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    assert_eq!((get_from("127.0.0.2", address), get_from("127.0.0.3", address)), (200, 200));
    let seen: Vec<_> = server.requests().iter().map(|request| request.values("x-forwarded-for").join("|")).collect();
    assert_eq!(seen, ["127.0.0.2", "9.9.9.9, 127.0.0.3"]);
    lb.logs("the plain address", |line| line.contains("/from") && line.contains("127.0.0.2"));
    assert!(!lb.stdout().iter().any(|line| line.contains("::ffff")), "{:#?}", lb.stdout());
    if TcpListener::bind("[::1]:0").is_ok() {
        assert_eq!(get(SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port)), "/").status, 200);
    }
}

// Case: both-families
#[test]
fn an_edit_from_one_family_to_both_and_back_keeps_the_port() {
    if TcpListener::bind("[::]:0").is_err() {
        return;
    }
    let server = Server::responding(OK);
    let port = TcpListener::bind("0.0.0.0:0").expect("a port").local_addr().expect("an address").port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let lb = Lb::start_file(&wildcard(&format!("0.0.0.0:{port}"), "127.0.0.1:0", &server));
    for (generation, listener) in [(2, "[::]"), (3, "0.0.0.0"), (4, "[::]"), (5, "127.0.0.1")] {
        assert_eq!(get(address, "/").status, 200);
        lb.edit_file(&wildcard(&format!("{listener}:{port}"), "127.0.0.1:0", &server));
        lb.reaches(generation);
        assert_eq!(get(address, "/").status, 200, "{listener}");
    }
}

#[test]
fn a_client_that_stops_sending_is_let_go() {
    let server = Server::responding(OK);
    let lb = Lb::in_front_of(&server, "");
    let mut client = Client::connect(lb.address());
    assert_eq!(client.get("/").status, 200);
    client.socket().shutdown(Shutdown::Write).expect("a socket");
    assert!(client.is_closed());
}

#[test]
fn clients_over_the_limit_wait_and_are_served() {
    let server = Server::responding(OK);
    let lb = Lb::in_front_of(&server, "[limits]\nconnections = 2\n");
    let address = lb.address();
    let mut first: Vec<Client> = (0..2).map(|_| Client::connect(address)).collect();
    for client in &mut first {
        assert_eq!(client.get("/").status, 200);
    }
    let mut third = Client::connect(address);
    third.send("GET /third HTTP/1.1\r\nHost: a\r\n\r\n");
    // The others continue to be served, and it has to wait.
    for _ in 0..20 {
        assert_eq!(first[0].get("/").status, 200);
    }
    assert!(server.requests().iter().all(|request| request.path() == "/"));
    drop(first.pop());
    assert_eq!(third.response().status, 200);
}

#[test]
fn a_rejected_upload_that_goes_on_keeps_its_place_for_seconds_at_most_if_others_wait() {
    let server = Server::responding(OK);
    let lb = Lb::in_front_of(&server, "[limits]\nconnections = 1\nbody_bytes = \"10B\"\n");
    let mut rejected = Client::connect(lb.address());
    rejected.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n");
    assert_eq!(rejected.response().status, 413);
    let mut waiting = Client::connect(lb.address());
    waiting.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let (mut writer, start) = (rejected.socket(), Instant::now());
    std::thread::scope(|scope| {
        // The upload goes on, until `lb` closes the connection.
        scope.spawn(move || {
            while start.elapsed() < 2 * DEADLINE && writer.write_all(&[b'x'; 1000]).is_ok() {
                std::thread::sleep(STEP);
            }
        });
        assert_eq!(waiting.response().status, 200);
    });
}
