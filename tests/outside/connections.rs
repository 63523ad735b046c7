//! Connections to clients and to servers: kept, used again, closed when they should be.

use std::io::BufReader;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS, servers};
use crate::support::servers::{Note, Request, Server, answer, hanging};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A worker keeps its own connections to servers: with one there is one to count.
const ONE_WORKER: &str = "[proxy]\nworkers = 1\n";

#[test]
fn a_hundred_requests_of_one_client_and_of_a_hundred_take_one_connection_to_the_server() {
    let server = Server::saying(OK);
    let lb = Lb::before(&server, ONE_WORKER);
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
    // An edit of something else leaves it alone too.
    lb.apply(&format!("{NO_CHECKS}{ONE_WORKER}[log]\naccess = false\n{}", server.table("server1")));
    assert_eq!((client.get("/").status, server.connections()), (200, 1));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::scripted(|mut stream, note| {
        while let Some(request) = note.next(&mut stream) {
            let path = request.path();
            answer(&mut stream, format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len()));
        }
    });
    let lb = Lb::before(&server, "");
    let mut client = Client::connect(lb.address());
    let requests: String = (0..50).map(|i| format!("GET /{i} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    client.send(requests);
    for i in 0..50 {
        assert_eq!(client.answer().text(), format!("/{i}"));
    }
}

#[test]
fn a_connection_ends_when_its_client_says_so() {
    let server = Server::saying(OK);
    let lb = Lb::before(&server, "");
    let address = lb.address();
    let cases = [
        ("HTTP/1.1", "", false),
        ("HTTP/1.1", "Connection: close\r\n", true),
        ("HTTP/1.1", "Connection: x-other, Close\r\n", true),
        ("HTTP/1.0", "", true),
        ("HTTP/1.0", "Connection: keep-alive\r\n", false),
    ];
    for (version, field, closes) in cases {
        let mut client = Client::connect(address);
        let answer = client.request(format!("GET / {version}\r\nHost: a\r\n{field}\r\n"));
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"), "{version} {field}");
        if closes {
            assert!(client.is_closed(), "{version} {field}");
        } else {
            assert_eq!(client.get("/").status, 200, "{version} {field}");
        }
    }
    assert!(server.requests().iter().all(|request| request.values("connection").is_empty()));
}

#[test]
fn a_server_that_closes_is_asked_on_a_new_connection() {
    let server = Server::scripted(|mut stream, note| {
        // One answer a connection, and says so only by closing.
        if note.next(&mut stream).is_some() {
            answer(&mut stream, OK);
        }
    });
    let lb = Lb::before(&server, ONE_WORKER);
    let mut client = Client::connect(lb.address());
    for done in 0..20 {
        assert_eq!(client.get("/").status, 200, "after {done}");
    }
    assert_eq!(server.connections(), 20);
    // What says so is not kept, and what is HTTP/1.0 neither.
    for bytes in ["HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok", "HTTP/1.0 200 OK\r\n\r\nok"] {
        let server = Server::scripted(move |mut stream, note| {
            if note.next(&mut stream).is_some() {
                answer(&mut stream, bytes);
            }
        });
        let lb = Lb::before(&server, ONE_WORKER);
        let mut client = Client::connect(lb.address());
        for _ in 0..3 {
            let answer = client.get("/");
            assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
            assert!(answer.field("connection").is_none(), "it is the server's, not the client's: {answer:?}");
        }
    }
}

#[test]
fn a_client_that_leaves_while_its_server_is_connected_to_is_not_waited_for() {
    let (_socket, _queue, hangs) = hanging();
    let table = servers(&[("hangs", hangs, 1)]);
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
        let open = |count| (lb.server("hangs")["active_requests"] == count).then_some(());
        eventually("it is under way", || open(1));
        let left = Instant::now();
        drop(client);
        eventually("it is given up", || open(0));
        assert!(left.elapsed().as_secs() < 2, "{request}: {:?}", left.elapsed());
        let path = request.split(' ').nth(1).expect("a path");
        lb.logs(path, |line| line.contains(path) && line.contains("\" 499 ") && line.contains("client_gone"));
    }
    assert!(!lb.stdout().iter().any(|line| line.contains("/after")));
}

#[test]
fn what_comes_while_a_server_is_connected_to_is_not_lost() {
    let (socket, queue, hangs) = hanging();
    let table = servers(&[("hangs", hangs, 1)]);
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
    eventually("they are under way", || (lb.server("hangs")["active_requests"] == 2).then_some(()));
    for (client, (_, bytes)) in clients.iter_mut().zip(&framings) {
        client.send(format!("{}GET /next HTTP/1.1\r\nHost: a\r\n\r\n", &bytes[1000..]));
    }
    // Those before them go, there is room in the queue, and somebody accepts.
    socket.listen(16).expect("a listener");
    drop(queue);
    let (seen, accepted) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let listener: TcpListener = socket.into();
        for stream in listener.incoming().map_while(Result::ok) {
            let seen = seen.clone();
            std::thread::spawn(move || {
                let mut stream = BufReader::new(stream);
                while let Some(request) = Request::read(&mut stream) {
                    answer(&mut stream, OK);
                    let _ = seen.send(request);
                }
            });
        }
    });
    for client in &mut clients {
        assert_eq!((client.answer().status, client.answer().status), (200, 200));
    }
    let mut requests: Vec<Request> = accepted.iter().take(4).collect();
    requests.sort_by_key(|request| request.line.clone());
    assert_eq!([0, 1].map(|i| requests[i].path()), ["/next"; 2]);
    assert!([2, 3].iter().all(|i| requests[*i].body == body.as_bytes()));
}

#[test]
fn a_request_that_outlasts_its_servers_drain_is_cut_and_not_called_its_clients_fault() {
    let (begun, rest) = (Server::scripted(stall), Server::saying(OK));
    let file = |begun_says: &str, rest_says: &str| {
        let drain = "[timeouts]\ndrain = \"200ms\"\n";
        format!("{NO_CHECKS}{drain}{}{begun_says}{}{rest_says}", begun.table("begun"), rest.table("rest"))
    };
    let lb = Lb::start(&file("", "weight = 0\n"));
    let (mut waiting, mut reading) = (Client::connect(lb.address()), Client::connect(lb.address()));
    waiting.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    reading.send("GET /read HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(reading.try_head().expect("a head").0, 200);
    eventually("the other arrives", || (begun.requests().len() == 2).then_some(()));
    lb.apply(&file("enabled = false\n", ""));
    assert!(waiting.is_closed() && reading.is_closed());
    for path in ["/wait", "/read"] {
        lb.logs(path, |line| line.contains(path) && line.contains("error=aborted"));
    }
}

/// Begins an answer to `/read`, none to anything else, and ends none.
fn stall(mut stream: BufReader<TcpStream>, note: &Note) {
    while let Some(request) = note.next(&mut stream) {
        if request.path() == "/read" {
            answer(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n");
        }
    }
}

#[test]
fn a_listener_may_have_an_ipv6_address() {
    if TcpListener::bind("[::1]:0").is_err() {
        return;
    }
    let server = Server::saying(OK);
    let lb = Lb::start_file(&format!(
        "[[listener]]\naddress = \"[::1]:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n{NO_CHECKS}{}",
        server.table("server1")
    ));
    let address: SocketAddr = lb.address();
    assert!(address.is_ipv6());
    assert_eq!(get(address, "/").status, 200);
    let request = server.requests().remove(0);
    assert_eq!(request.values("x-forwarded-for"), ["::1"]);
    assert_eq!(request.values("forwarded"), ["for=\"[::1]\";proto=http;host=localhost"]);
}

#[test]
fn who_asks_for_nothing_more_gets_his_answer() {
    let server = Server::saying(OK);
    let lb = Lb::before(&server, "");
    let mut client = Client::connect(lb.address());
    assert_eq!(client.get("/").status, 200);
    client.socket().shutdown(Shutdown::Write).expect("a socket");
    assert!(client.is_closed());
}

#[test]
fn clients_over_the_limit_wait_and_are_served() {
    let server = Server::saying(OK);
    let lb = Lb::before(&server, "[limits]\nconnections = 2\n");
    let address = lb.address();
    let mut first: Vec<Client> = (0..2).map(|_| Client::connect(address)).collect();
    for client in &mut first {
        assert_eq!(client.get("/").status, 200);
    }
    let mut third = Client::connect(address);
    third.send("GET /third HTTP/1.1\r\nHost: a\r\n\r\n");
    // Those before it are served on, and it is not.
    for _ in 0..20 {
        assert_eq!(first[0].get("/").status, 200);
    }
    assert!(server.requests().iter().all(|request| request.path() == "/"));
    drop(first.pop());
    assert_eq!(third.answer().status, 200);
}
