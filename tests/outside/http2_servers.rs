//! Servers of HTTP/2: requests share connections, and what servers do wrong ends one request.

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderValue, Response};
use tokio::sync::Semaphore;

use crate::support::client::{Client, Piece, get};
use crate::support::eventually;
use crate::support::http2::{Http2Server, Stream};
use crate::support::lb::{Lb, NO_CHECKS, PORTS, servers};
use crate::support::servers::Server;

/// One worker, no checks, HTTP/2 to these servers.
fn config(addresses: &[SocketAddr], more: &str) -> String {
    let names = ["server1", "server2", "server3"];
    let list: Vec<_> = names.iter().zip(addresses).map(|(name, address)| (*name, *address, 1)).collect();
    format!("{PORTS}[proxy]\nworkers = 1\n{NO_CHECKS}[upstream]\nprotocol = \"h2\"\n{more}\n{}", servers(&list))
}

fn start(addresses: &[SocketAddr], more: &str) -> Lb {
    Lb::start_file(&config(addresses, more))
}

/// GETs a path on this many connections at once, and returns the statuses.
fn burst(address: SocketAddr, count: usize) -> Vec<u16> {
    let clients: Vec<_> = (0..count).map(|_| thread::spawn(move || get(address, "/").status)).collect();
    clients.into_iter().map(|client| client.join().expect("a response")).collect()
}

#[test]
fn a_request_and_its_response_pass_with_their_headers_bodies_and_trailers() {
    let server = Http2Server::start(100, async |mut stream: Stream| {
        let (body, trailers) = stream.body().await;
        assert_eq!(body, b"hello");
        assert_eq!(trailers.expect("trailers")["x-sum"], "7");
        let head = Response::builder().header("X-Answer", "42").header("trailer", "x-done").body(()).expect("a head");
        let mut out = stream.respond.send_response(head, false).expect("sent");
        out.send_data(Bytes::from_static(b"world"), false).expect("sent");
        let mut trailers = HeaderMap::new();
        trailers.insert("x-done", HeaderValue::from_static("yes"));
        trailers.insert("content-length", HeaderValue::from_static("9"));
        out.send_trailers(trailers).expect("sent");
    });
    let lb = start(&[server.address], "");
    let mut client = Client::connect(lb.address());
    for _ in 0..2 {
        client.send(
            "POST /a%2Fb?c=d HTTP/1.1\r\nHost: Example.com\r\nX-One: 1\r\nConnection: x-hop\r\nX-Hop: 1\r\nTE: trailers\r\n\
             Trailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n",
        );
        let (status, headers) = client.try_head().expect("a head");
        assert_eq!(status, 200);
        assert!(headers.contains(&("x-answer".to_owned(), "42".to_owned())), "{headers:?}");
        assert_eq!(client.chunk().expect("a chunk"), Piece::Data(b"world".to_vec()));
        assert_eq!(client.chunk().expect("the end"), Piece::End(vec!["x-done: yes".to_owned()]));
    }
    let request = &server.requests()[0];
    assert_eq!((request.method().as_str(), request.uri().to_string()), ("POST", "http://Example.com/a%2Fb?c=d".into()));
    let headers = request.headers();
    assert_eq!(
        (&headers["x-one"], &headers["te"], &headers["x-forwarded-for"]),
        (&HeaderValue::from_static("1"), &HeaderValue::from_static("trailers"), &HeaderValue::from_static("127.0.0.1"),)
    );
    for name in ["host", "connection", "x-hop", "transfer-encoding", "keep-alive", "upgrade"] {
        assert!(!headers.contains_key(name), "{name}");
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn requests_share_connections_up_to_the_limit_of_the_server() {
    // The limit, and the connections that 60 requests at once need.
    for (limit, expected) in [(100, 1), (20, 3), (1, 60)] {
        let gate = Arc::new(Semaphore::new(0));
        let (waiting, open) = (Arc::<AtomicUsize>::default(), Arc::clone(&gate));
        let arrived = Arc::clone(&waiting);
        let server = Http2Server::start(limit, move |mut stream: Stream| {
            let (open, arrived) = (Arc::clone(&open), Arc::clone(&arrived));
            async move {
                arrived.fetch_add(1, SeqCst);
                let _held = open.acquire().await.expect("open");
                stream.ok("ok");
            }
        });
        let lb = start(&[server.address], "");
        let address = lb.address();
        let clients = thread::spawn(move || burst(address, 60));
        eventually("all are at the server", || (waiting.load(SeqCst) == 60).then_some(()));
        assert_eq!(server.connections(), expected, "limit {limit}");
        assert_eq!(lb.metric("lb_server_connections{pool=\"default\",server=\"server1\"}"), Some(expected as f64));
        gate.add_permits(1000);
        assert_eq!(clients.join().expect("responses"), [200; 60]);
        // One after the other, they need one of the connections.
        let before = server.connections();
        (0..20).for_each(|_| assert_eq!(get(address, "/").status, 200));
        assert_eq!(server.connections(), before);
    }
}

#[test]
fn idle_connections_close_after_their_time() {
    let server = Http2Server::start(100, async |mut stream: Stream| stream.ok("ok"));
    let lb = start(&[server.address], "idle = \"300ms\"");
    assert_eq!(get(lb.address(), "/").text(), "ok");
    let open = "lb_server_connections{pool=\"default\",server=\"server1\"}";
    eventually("the idle connection is closed", || (lb.metric(open) == Some(0.0)).then_some(()));
    assert_eq!(get(lb.address(), "/").text(), "ok");
    assert_eq!(server.connections(), 2);
}

// Case: h2-refused
#[test]
fn a_refused_request_is_sent_again_whatever_its_method_and_costs_no_budget() {
    let refusals = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&refusals);
    let server = Http2Server::start(100, move |mut stream: Stream| {
        let refuses = stream.number.is_multiple_of(2);
        count.fetch_add(usize::from(refuses), SeqCst);
        async move {
            if refuses {
                return stream.reset(Reason::REFUSED_STREAM);
            }
            assert_eq!(stream.body().await.0, b"hello");
            stream.ok("ok");
        }
    });
    let lb = start(&[server.address], "[retry]\nattempts = 1\nbudget = \"0%\"");
    let mut client = Client::connect(lb.address());
    for _ in 0..30 {
        let response = client.request("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
        assert_eq!((response.status, response.text()), (200, "ok".to_owned()));
    }
    assert_eq!(refusals.load(SeqCst), 30);
    assert_eq!(lb.metric("lb_retries_total{pool=\"default\",reason=\"refused\"}"), Some(30.0));
    assert_eq!(lb.server("server1")["status"], "up");
}

// Case: h2-refused
#[test]
fn a_request_that_is_always_refused_fails_after_its_attempts() {
    let server = Http2Server::start(100, async |mut stream: Stream| stream.reset(Reason::REFUSED_STREAM));
    let lb = start(&[server.address], "[retry]\nattempts = 2");
    assert_eq!(get(lb.address(), "/").status, 502);
    assert_eq!(server.requests().len(), 3);
    assert_eq!(lb.server("server1")["status"], "up");
}

// Case: h2-refused
#[test]
fn connections_that_end_by_goaway_under_load_fail_no_request() {
    let server = Http2Server::start(100, async |mut stream: Stream| {
        let body = stream.body().await.0;
        if stream.number % 25 == 24 {
            stream.goaway.notify_one();
        }
        assert_eq!(body, b"hello");
        stream.ok("ok");
    });
    let lb = start(&[server.address], "");
    let address = lb.address();
    let clients = (0..8).map(|_| {
        thread::spawn(move || {
            let mut client = Client::connect(address);
            let post = || "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
            (0..250).filter(|_| client.request(post()).status != 200).count()
        })
    });
    let failed: usize = clients.collect::<Vec<_>>().into_iter().map(|client| client.join().expect("counted")).sum();
    assert_eq!(failed, 0);
    assert!(server.connections() > 20, "{}", server.connections());
}

// Case: h2-truncated-response
#[test]
fn a_body_cut_short_is_never_a_clean_end() {
    for reset in [Some(Reason::INTERNAL_ERROR), Some(Reason::NO_ERROR), None] {
        let by_reset = reset.is_some();
        let server = Http2Server::start(100, move |mut stream: Stream| async move {
            let length = if by_reset { "" } else { "100" };
            let mut head = Response::new(());
            if !length.is_empty() {
                head.headers_mut().insert("content-length", HeaderValue::from_static("100"));
            }
            let mut out = stream.respond.send_response(head, false).expect("sent");
            out.send_data(Bytes::from_static(b"half"), !by_reset).expect("sent");
            if let Some(reason) = reset {
                // So that the piece has arrived before.
                tokio::time::sleep(Duration::from_millis(200)).await;
                out.send_reset(reason);
            }
        });
        let lb = start(&[server.address], "");
        let mut client = Client::connect(lb.address());
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let response = client.try_response();
        assert!(response.as_ref().map_or(true, |response| response.status == 502), "{by_reset}: {response:?}");
        assert!(by_reset == response.is_err() || !by_reset, "{response:?}");
        assert!(lb.metric("lb_server_connections{pool=\"default\",server=\"server1\"}") == Some(1.0), "it lives on");
    }
}

#[test]
fn a_stream_reset_before_its_response_is_retried_only_if_that_is_safe() {
    let server = Http2Server::start(100, async |mut stream: Stream| {
        if stream.number.is_multiple_of(2) { stream.reset(Reason::INTERNAL_ERROR) } else { stream.ok("ok") }
    });
    let lb = start(&[server.address], "");
    assert_eq!(get(lb.address(), "/").status, 200);
    let post = Client::connect(lb.address()).request("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
    assert_eq!((post.status, server.requests().len(), server.connections()), (502, 3, 2), "a retry gets a new one");
}

#[test]
fn a_server_that_speaks_no_http_2_is_a_bad_gateway() {
    let server = Server::responding("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let lb = start(&[server.address], "[retry]\nattempts = 0");
    assert_eq!(get(lb.address(), "/").status, 502);
}

#[test]
fn a_websocket_is_a_bad_gateway_and_other_upgrades_are_ignored() {
    let server = Http2Server::start(100, async |mut stream: Stream| stream.ok("ok"));
    let lb = start(&[server.address], "");
    let mut client = Client::connect(lb.address());
    let mut ask = |protocol: &str| {
        client
            .request(format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\n"))
            .status
    };
    assert_eq!((ask("websocket"), ask("foo")), (502, 200));
    assert_eq!((server.requests().len(), lb.server("server1")["status"].as_str()), (1, Some("up")));
}

#[test]
fn responses_without_a_body_end_with_their_head() {
    let server = Http2Server::start(100, async |mut stream: Stream| {
        let path = stream.request.uri().path().to_owned();
        if path == "/early" {
            let _ = stream.respond.send_informational(Response::builder().status(103).body(()).expect("a head"));
        }
        let status = match path.as_str() {
            "/204" => 204,
            "/304" => 304,
            _ => 200,
        };
        let mut head = Response::builder().status(status);
        if path == "/length" || status == 304 {
            head = head.header("content-length", "5");
        }
        let _ = stream.respond.send_response(head.body(()).expect("a head"), true);
    });
    let lb = start(&[server.address], "");
    let mut client = Client::connect(lb.address());
    let mut head = |line: &str| {
        client.send(format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let (status, headers) = client.try_head().expect("a head");
        let length = headers.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        (status, length.map(|(_, length)| length))
    };
    assert_eq!(head("GET /204"), (204, None));
    assert_eq!(head("GET /304"), (304, Some("5".to_owned())));
    assert_eq!(head("HEAD /length"), (200, Some("5".to_owned())));
    assert_eq!(head("HEAD /none"), (200, None));
    assert_eq!(head("GET /empty").0, 200, "and the client need not wait for its end");
    let _ = head;
    let mut client = Client::connect(lb.address());
    client.send("GET /early HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.try_head().expect("an interim head").0, 103);
    assert_eq!(client.response().status, 200);
}

#[test]
fn large_bodies_pass_both_ways_through_the_windows() {
    let server = Http2Server::start(100, async |mut stream: Stream| {
        let (body, _) = stream.body().await;
        let Ok(mut out) = stream.respond.send_response(Response::new(()), false) else { return };
        for piece in body.chunks(10_000) {
            out.reserve_capacity(piece.len());
            let mut left = Bytes::copy_from_slice(piece);
            while !left.is_empty() {
                let granted = std::future::poll_fn(|context| out.poll_capacity(context)).await;
                let Some(Ok(granted)) = granted else { return };
                let part = left.split_to(granted.min(left.len()));
                if out.send_data(part, false).is_err() {
                    return;
                }
            }
        }
        let _ = out.send_data(Bytes::new(), true);
    });
    let lb = start(&[server.address], "");
    let body: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (address, body) = (lb.address(), body.clone());
            thread::spawn(move || {
                let mut client = Client::connect(address);
                client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()));
                client.send(&body);
                client.response().body == body
            })
        })
        .collect();
    assert!(clients.into_iter().all(|client| client.join().expect("a response")));
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_client_that_leaves_cancels_its_stream_and_not_the_connection() {
    let (cancelled, seen) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let counts = (Arc::clone(&cancelled), Arc::clone(&seen));
    let server = Http2Server::start(100, move |mut stream: Stream| {
        let (cancelled, seen) = (Arc::clone(&counts.0), Arc::clone(&counts.1));
        async move {
            if stream.request.uri().path() != "/wait" {
                return stream.ok("ok");
            }
            seen.fetch_add(1, SeqCst);
            let reason = std::future::poll_fn(|context| stream.respond.poll_reset(context)).await;
            cancelled.fetch_add(usize::from(reason.ok() == Some(Reason::CANCEL)), SeqCst);
        }
    });
    let lb = start(&[server.address], "");
    let mut client = Client::connect(lb.address());
    client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the request is at the server", || (seen.load(SeqCst) == 1).then_some(()));
    drop(client);
    eventually("the stream is cancelled", || (cancelled.load(SeqCst) == 1).then_some(()));
    assert_eq!((get(lb.address(), "/").status, server.connections()), (200, 1));
}

#[test]
fn a_drain_that_ends_resets_the_streams_at_its_server_and_no_others() {
    let held = Arc::<AtomicUsize>::default();
    let serve = |held: &Arc<AtomicUsize>| {
        let held = Arc::clone(held);
        move |mut stream: Stream| {
            let held = Arc::clone(&held);
            async move {
                if stream.request.uri().path() != "/wait" {
                    return stream.ok("ok");
                }
                held.fetch_add(1, SeqCst);
                let _ = std::future::poll_fn(|context| stream.respond.poll_reset(context)).await;
                held.fetch_sub(1, SeqCst);
            }
        }
    };
    let leaving = Http2Server::start(100, serve(&held));
    let staying = Http2Server::start(100, serve(&Arc::default()));
    let lb = start(&[leaving.address], "");
    let address = lb.address();
    let waiting = thread::spawn(move || {
        let mut client = Client::connect(address);
        client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
        client.try_response().is_err()
    });
    eventually("the request is at the server", || (held.load(SeqCst) == 1).then_some(()));
    let more = "[timeouts]\ndrain = \"300ms\"\n";
    let file =
        config(&[leaving.address, staying.address], more).replacen("weight = 1", "weight = 1\nenabled = false", 1);
    lb.edit_file(&file);
    eventually("the new server serves", || {
        (staying.requests().len() < 3 && get(address, "/").status == 200 && !staying.requests().is_empty())
            .then_some(())
    });
    assert!(waiting.join().expect("an end"), "the request is aborted");
    eventually("the stream is reset", || (held.load(SeqCst) == 0).then_some(()));
    let open = "lb_server_connections{pool=\"default\",server=\"server1\"}";
    eventually("the connection is closed", || lb.metric(open).is_none_or(|open| open == 0.0).then_some(()));
}

#[test]
fn a_connection_on_which_nothing_comes_back_is_not_used_again() {
    let (address, connections) = silent();
    let lb = start(&[address], "[timeouts]\nresponse_header = \"300ms\"\n[retry]\nattempts = 0");
    // On the first, SETTINGS had come back.
    for expected in [1, 1, 2] {
        assert_eq!(get(lb.address(), "/").status, 504);
        assert_eq!(connections.load(SeqCst), expected);
    }
}

#[test]
fn a_connection_on_which_clients_give_up_is_not_used_again() {
    let (address, connections) = silent();
    let lb = start(&[address], "[retry]\nattempts = 0");
    let give_up = || {
        let mut client = Client::connect(lb.address());
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let active = "lb_server_active_requests{pool=\"default\",server=\"server1\"}";
        eventually("the request is under way", || (lb.metric(active) == Some(1.0)).then_some(()));
        // The time after which it counts.
        thread::sleep(Duration::from_millis(1100));
        drop(client);
        eventually("the request has ended", || (lb.metric(active) == Some(0.0)).then_some(()));
    };
    for expected in [1, 1, 2] {
        give_up();
        assert_eq!(connections.load(SeqCst), expected);
    }
}

/// A server that sends SETTINGS on each connection, and then only reads; and the number of connections.
fn silent() -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("an address");
    let connections = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&connections);
    thread::spawn(move || {
        for stream in socket.incoming() {
            count.fetch_add(1, SeqCst);
            let mut stream = stream.expect("a connection");
            thread::spawn(move || {
                std::io::Write::write_all(&mut stream, &[0, 0, 0, 4, 0, 0, 0, 0, 0]).expect("sent");
                let _ = stream.read_to_end(&mut Vec::new());
            });
        }
    });
    (address, connections)
}

#[test]
fn checks_speak_the_protocol_of_the_pool() {
    let server = Http2Server::start(100, async |mut stream: Stream| {
        let ready = stream.number > 1;
        if ready { stream.ok("all well") } else { stream.reset(Reason::INTERNAL_ERROR) }
    });
    let health = "[health]\ninterval = \"100ms\"\npath = \"/live\"\nbody = \"well\"\n";
    let file = config(&[server.address], "").replace(NO_CHECKS, health);
    let lb = Lb::start_file(&file);
    eventually("a check passes", || {
        (server.requests().len() > 2 && lb.server("server1")["status"] == "up").then_some(())
    });
    let checks = server.requests();
    assert!(checks.len() >= 2, "a reset is a failed check");
    assert_eq!((checks[0].method().as_str(), checks[0].uri().path()), ("GET", "/live"));
    assert_eq!(get(lb.address(), "/").text(), "all well");
}

/// Starts nginx as a server of HTTP/2 without TLS; `None` if it is not installed.
fn nginx(directory: &std::path::Path) -> Option<(std::process::Child, SocketAddr)> {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let path = directory.display();
    let file = format!(
        "daemon off; worker_processes 1; pid {path}/pid; error_log {path}/error.log;\nevents {{}}\nhttp {{\n\
         access_log off; client_body_temp_path {path}/body; proxy_temp_path {path}/proxy; fastcgi_temp_path {path}/f;\n\
         uwsgi_temp_path {path}/u; scgi_temp_path {path}/s; http2_max_requests 50;\n\
         server {{ listen {free} http2; location / {{ return 200 \"from nginx\"; }} }}\n}}\n"
    );
    std::fs::write(directory.join("nginx.conf"), file).expect("a file");
    let mut command = std::process::Command::new("nginx");
    command.arg("-p").arg(directory).arg("-c").arg(directory.join("nginx.conf"));
    let child = command.stderr(std::process::Stdio::null()).spawn().ok()?;
    eventually("nginx listens", || TcpStream::connect(free).ok());
    Some((child, free))
}

#[test]
fn nginx_is_a_server_of_http_2_and_its_goaways_fail_no_request() {
    let directory = tempfile::TempDir::new().expect("a directory");
    let Some((mut nginx, address)) = nginx(directory.path()) else { return eprintln!("skipped: nginx") };
    let lb = start(&[address], "");
    let address = lb.address();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            thread::spawn(move || {
                let mut client = Client::connect(address);
                (0..250).filter(|_| client.get("/").text() != "from nginx").count()
            })
        })
        .collect();
    let failed: usize = clients.into_iter().map(|client| client.join().expect("counted")).sum();
    // nginx's master process ends its worker.
    let pid = nginx.id().to_string();
    let _ = std::process::Command::new("kill").arg(pid).status();
    let _ = nginx.wait();
    assert_eq!(failed, 0);
}
