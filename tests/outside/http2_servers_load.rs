//! Servers of HTTP/2 under load: what one request does must not harm the others on its connection, and edits harm none.

use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use http::Response;

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::h2::{DATA, END_STREAM, HEADERS, Outcome, RawH2, get as h2_get};
use crate::support::http2::{Http2Server, Stream};
use crate::support::lb::{Lb, NO_CHECKS, PORTS, servers};

fn config(addresses: &[(SocketAddr, u32)], more: &str) -> String {
    let names = ["server1", "server2", "server3"];
    let list: Vec<_> =
        names.iter().zip(addresses).map(|(name, (address, weight))| (*name, *address, *weight)).collect();
    let list = servers(&list);
    format!("{PORTS}[proxy]\nworkers = 1\n{NO_CHECKS}[upstream]\nprotocol = \"h2\"\n{more}\n{list}")
}

const OPEN: &str = "lb_server_connections{pool=\"default\",server=\"server1\"}";

// Case: h2-slow-stream
#[test]
fn clients_that_do_not_read_stop_none_of_the_others_on_their_connection() {
    const STALLED: usize = 40;
    let server = Http2Server::start(100, async |mut stream: Stream| {
        let bytes = if stream.request.uri().path() == "/endless" { usize::MAX } else { 1 << 20 };
        stream.send(bytes).await;
    });
    let lb = Lb::start_file(&config(&[(server.address, 1)], ""));
    assert_eq!(get(lb.address(), "/").body.len(), 1 << 20);
    let before = lb.resident_kib();
    let stalled: Vec<_> = (0..STALLED)
        .map(|_| {
            let mut client = Client::connect(lb.address());
            client.send("GET /endless HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.try_head().expect("a head").0, 200);
            client
        })
        .collect();
    // What has been sent to each fills the system's buffers, then the window of its stream.
    for _ in 0..20 {
        let start = Instant::now();
        assert_eq!(get(lb.address(), "/").body.len(), 1 << 20, "after {:?}", start.elapsed());
    }
    assert_eq!((server.connections(), lb.metric(OPEN)), (1, Some(1.0)));
    let grown = lb.resident_kib().saturating_sub(before);
    assert!(grown < (STALLED as u64 + 4) * 512, "{grown} KiB for {STALLED} clients");
    // They still get what they want to read.
    let mut buffer = vec![0; 1 << 20];
    stalled[0].socket().read_exact(&mut buffer).expect("more of the body");
}

#[test]
fn an_upload_that_the_server_does_not_read_stops_no_other() {
    let server = Http2Server::start(100, async |mut stream: Stream| {
        if stream.request.uri().path() == "/unread" {
            return std::future::pending().await;
        }
        let (body, _) = stream.body().await;
        assert_eq!(body.len(), 1 << 20);
        stream.ok("ok");
    });
    let lb = Lb::start_file(&config(&[(server.address, 1)], ""));
    let stuck: Vec<_> = (0..3)
        .map(|_| {
            let mut client = Client::connect(lb.address());
            client.send("POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
            client.send(vec![b'x'; 50_000]);
            client
        })
        .collect();
    eventually("they are at the server", || (server.requests().len() == 3).then_some(()));
    let body = vec![b'x'; 1 << 20];
    let mut client = Client::connect(lb.address());
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()));
    client.send(&body);
    assert_eq!((client.response().text(), server.connections()), ("ok".to_owned(), 1));
    drop(stuck);
}

#[test]
fn each_client_has_its_own_connection_where_servers_get_proxy_headers() {
    let server = Http2Server::behind_a_header(async |mut stream: Stream| {
        let _ = stream.body().await;
        stream.ok("ok");
    });
    let file = config(&[(server.address, 1)], "proxy_protocol = \"v1\"\n");
    let lb =
        Lb::start_file(&file.replacen("127.0.0.1:0\"\n", "127.0.0.1:0\"\nprotocols = [\"h2\", \"http/1.1\"]\n", 1));
    let [mut first, mut second] = [(); 2].map(|()| Client::connect(lb.address()));
    for _ in 0..5 {
        assert_eq!((first.get("/").text(), second.get("/").text()), ("ok".to_owned(), "ok".to_owned()));
    }
    // The streams of a client over HTTP/2 share a connection.
    let mut third = RawH2::connect(lb.address());
    for stream in [1, 3, 5, 7] {
        assert!(third.request(stream, &h2_get("/", &[]), true));
    }
    let mut ended = 0;
    while ended < 4 {
        let frame = third.next().expect("a frame");
        ended += usize::from(matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0);
    }
    let ports = [first.socket(), second.socket(), third.stream.try_clone().expect("a socket")]
        .map(|socket| socket.local_addr().expect("an address").port());
    let to = lb.address().port();
    let expected = ports.map(|from| format!("PROXY TCP4 127.0.0.1 127.0.0.1 {from} {to}\r\n"));
    assert_eq!(server.headers(), expected);
    drop(first);
    eventually("its connection ends with the client", || (lb.metric(OPEN) == Some(2.0)).then_some(()));
    assert_eq!((second.get("/").text(), server.connections()), ("ok".to_owned(), 3));
}

#[test]
fn a_connection_that_breaks_fails_only_what_cannot_be_sent_again() {
    let arrived = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&arrived);
    let server = Http2Server::start(100, move |mut stream: Stream| {
        let count = Arc::clone(&count);
        async move {
            if stream.connection > 0 {
                return stream.ok("ok");
            }
            if count.fetch_add(1, SeqCst) == 5 {
                stream.abort.notify_one();
            }
            std::future::pending().await
        }
    });
    let lb = Lb::start_file(&config(&[(server.address, 1)], "[retry]\nbudget = \"100%\"\n"));
    let address = lb.address();
    let send = |method: &'static str| {
        let head = format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        thread::spawn(move || Client::connect(address).request(head).status)
    };
    // The first opens the connection, and the others find it.
    let mut clients = vec![(502, send("POST"))];
    eventually("the first is there", || (arrived.load(SeqCst) == 1).then_some(()));
    let methods = ["GET", "PUT", "DELETE", "POST", "OPTIONS"];
    clients.extend(methods.map(|method| (if method == "POST" { 502 } else { 200 }, send(method))));
    for (expected, client) in clients {
        assert_eq!(client.join().expect("a response"), expected);
    }
    assert_eq!(lb.metric("lb_retries_total{pool=\"default\",reason=\"broken\"}"), Some(4.0));
    assert_eq!((get(address, "/").status, lb.server("server1")["status"].as_str()), (200, Some("up")));
}

#[test]
fn an_idle_connection_that_the_server_ends_fails_no_request_of_any_method() {
    for by_goaway in [true, false] {
        let ends = Arc::new(tokio::sync::Notify::new());
        let end = Arc::clone(&ends);
        let server = Http2Server::start(100, move |mut stream: Stream| {
            let end = Arc::clone(&end);
            async move {
                let _ = stream.body().await;
                stream.ok("ok");
                end.notified().await;
                if by_goaway { stream.goaway.notify_one() } else { stream.abort.notify_one() }
            }
        });
        let lb = Lb::start_file(&config(&[(server.address, 1)], ""));
        let mut client = Client::connect(lb.address());
        for turn in 1..=20 {
            let post = client.request("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
            assert_eq!((post.status, server.connections()), (200, turn), "{by_goaway}");
            ends.notify_one();
            // Without a request, the end is noticed too.
            eventually("the connection is closed", || (lb.metric(OPEN) == Some(0.0)).then_some(()));
        }
    }
}

#[test]
fn no_idle_connection_is_kept_where_the_file_says_so() {
    let server = Http2Server::start(100, async |mut stream: Stream| stream.ok("ok"));
    let lb = Lb::start_file(&config(&[(server.address, 1)], "idle_connections = 0\n"));
    for turn in 1..=3 {
        assert_eq!((get(lb.address(), "/").text(), server.connections()), ("ok".to_owned(), turn));
        eventually("the connection is closed", || (lb.metric(OPEN) == Some(0.0)).then_some(()));
    }
}

#[test]
fn edits_under_load_fail_no_request() {
    let all: Vec<_> = (0..3)
        .map(|_| {
            Http2Server::start(10, async |mut stream: Stream| {
                let (body, _) = stream.body().await;
                let Ok(mut out) = stream.respond.send_response(Response::new(()), false) else { return };
                let _ = out.send_data(Bytes::from(body), false);
                let _ = out.send_data(Bytes::from_static(b"."), true);
            })
        })
        .collect();
    let address = |index: usize| all[index].address;
    let listens =
        |file: String| file.replacen("127.0.0.1:0\"\n", "127.0.0.1:0\"\nprotocols = [\"h2\", \"http/1.1\"]\n", 1);
    let lb = Lb::start_file(&listens(config(&[(address(0), 1), (address(1), 1)], "")));
    let (over, to) = (Arc::<AtomicUsize>::default(), lb.address());
    let post = || "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    let mut clients = Vec::new();
    for _ in 0..6 {
        let over = Arc::clone(&over);
        clients.push(thread::spawn(move || {
            let (mut client, mut sent, mut failed) = (Client::connect(to), 0, 0);
            while over.load(SeqCst) == 0 {
                sent += 1;
                failed += usize::from(client.request(post()).text() != "hello.");
            }
            (sent, failed)
        }));
    }
    for _ in 0..2 {
        let over = Arc::clone(&over);
        clients.push(thread::spawn(move || {
            let (mut client, mut sent, mut failed) = (RawH2::connect(to), 0, 0);
            while over.load(SeqCst) == 0 {
                let stream = 2 * sent + 1;
                sent += 1;
                client.request(stream, &h2_get("/", &[]), true);
                failed += usize::from(client.outcome(stream) != Outcome::Status(200));
            }
            (sent as usize, failed)
        }));
    }
    let weights = [1, 5, 2, 9];
    for turn in 0..40 {
        let weight = weights[turn % weights.len()];
        let list = [[0, 1, 2], [1, 2, 0], [2, 0, 1]][turn % 3];
        let count = 1 + turn % 3;
        let members: Vec<_> = list[..count].iter().map(|index| (address(*index), weight)).collect();
        // Some edits also change how connections are kept.
        let more = ["", "idle = \"50ms\"\n", "idle_connections = 0\n"][turn % 3];
        let before = lb.generation();
        lb.edit_file(&listens(config(&members, more)));
        lb.reaches(before + 1);
    }
    over.store(1, SeqCst);
    let ended: Vec<_> = clients.into_iter().map(|client| client.join().expect("counts")).collect();
    let failures: Vec<_> = lb.stdout().into_iter().filter(|line| line.contains("error=")).collect();
    assert!(ended.iter().all(|(sent, failed)| *sent > 10 && *failed == 0), "{ended:?}: {failures:#?}");
    assert!(all.iter().all(|server| !server.requests().is_empty()));
}
