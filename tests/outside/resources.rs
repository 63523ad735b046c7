//! The memory that clients cost, and the wakeups of a process that has nothing to do.

use std::fs;
use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::lb::Lb;
use crate::support::servers::{Recorder, Request, Server, respond};

/// The most wakeups of all threads together, per second.
const WAKEUPS: f64 = 5.0;
/// The most memory of a client that does not read, in KiB.
const STUCK_KIB: u64 = 60;
/// The most memory of a client that has sent nothing, in bytes.
const SILENT_BYTES: u64 = 2048;
/// The memory that may stay when all clients have left, in KiB: the allocator keeps a page of each size.
const KEPT_KIB: u64 = 8 * 1024;
/// More than the kernel buffers for a client with a small receive buffer.
const LARGE: usize = 16 * 1024 * 1024;

/// How often the threads of the process have begun to wait, which is how often they were woken.
fn waits(lb: &Lb) -> u64 {
    let of_thread = |path: fs::DirEntry| {
        let status = fs::read_to_string(path.path().join("status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse::<u64>().ok()
    };
    let threads = fs::read_dir(format!("/proc/{}/task", lb.pid())).expect("a process").filter_map(Result::ok);
    threads.filter_map(of_thread).sum()
}

/// Waits for five seconds in which the process hardly wakes up. Other tests that run at the same time cost wakeups too: a
/// thread that is late for a timer wakes up again for the next.
fn rests(lb: &Lb) {
    let mut rates = Vec::new();
    for _ in 0..10 {
        let (since, before) = (Instant::now(), waits(lb));
        std::thread::sleep(Duration::from_secs(5));
        let rate = (waits(lb) - before) as f64 / since.elapsed().as_secs_f64();
        if rate <= WAKEUPS {
            return;
        }
        rates.push(rate);
    }
    panic!("wakeups per second: {rates:?}");
}

/// Responds to everything, and leaves it to the client to close the connection.
fn lasting(mut stream: BufReader<TcpStream>, recorder: &Recorder) {
    while recorder.next(&mut stream).is_some() {
        respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    }
}

/// Responds to everything, and closes the connection when asked to, as most servers do after a check.
fn polite(mut stream: BufReader<TcpStream>, recorder: &Recorder) {
    while let Some(request) = recorder.next(&mut stream) {
        respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        if request.values("connection").iter().any(|value| value.eq_ignore_ascii_case("close")) {
            return;
        }
    }
}

/// Like [`lasting`], but does not even close when the client has closed.
fn stubborn(stream: BufReader<TcpStream>, recorder: &Recorder) {
    let kept = stream.get_ref().try_clone().expect("a stream");
    lasting(stream, recorder);
    std::thread::sleep(Duration::from_secs(60));
    drop(kept);
}

#[test]
fn a_process_without_traffic_hardly_wakes_up() {
    // Connections of checks end differently.
    let servers = [Server::scripted(polite), Server::scripted(lasting), Server::scripted(stubborn)];
    let tables: String = servers.iter().zip(["a", "b", "c"]).map(|(server, name)| server.table(name)).collect();
    let lb = Lb::start(&format!("[health]\ninterval = \"5s\"\n[reload]\npoll = \"2s\"\n{tables}"));
    eventually("all servers are up", || (lb.ask("/ready").status == 200).then_some(()));
    rests(&lb);
    // Clients that wait between their requests, and those that have sent nothing, wake nobody.
    let mut idle: Vec<Client> = (0..50).map(|_| Client::connect(lb.address())).collect();
    for client in &mut idle {
        assert_eq!(client.get("/").status, 200);
    }
    let _silent: Vec<Client> = (0..50).map(|_| Client::connect(lb.address())).collect();
    rests(&lb);
    // They are served at once.
    for client in &mut idle {
        assert_eq!(client.get("/").status, 200);
    }
}

#[test]
fn a_server_that_closes_an_idle_connection_is_noticed_without_traffic() {
    let server = Server::named("a");
    let lb = Lb::in_front_of(&server, "");
    assert_eq!(get(lb.address(), "/").status, 200);
    let connections = || lb.metric("lb_server_connections{pool=\"default\",server=\"server1\"}");
    assert_eq!(connections(), Some(1.0));
    rests(&lb);
    server.stop();
    eventually("the connection is closed", || (connections() == Some(0.0)).then_some(()));
}

/// A client that asks the kernel to buffer little.
fn small_client(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a size");
    socket.set_send_buffer_size(4096).expect("a size");
    socket.connect(&address.into()).expect("a connection");
    socket.into()
}

/// Sends until nobody accepts more for a moment.
fn fill(mut stream: &TcpStream) {
    stream.set_write_timeout(Some(Duration::from_millis(20))).expect("a timeout");
    let bytes = vec![0; 64 * 1024];
    for _ in 0..LARGE / bytes.len() {
        match stream.write(&bytes) {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return,
            Err(error) => panic!("the upload ends: {error}"),
        }
    }
    panic!("{LARGE} bytes were accepted");
}

/// Responds to `/large` and `/chunked` with as much as is accepted, to `/tunnel` with a tunnel full of bytes, and reads no body.
fn generous(mut stream: BufReader<TcpStream>, recorder: &Recorder) {
    let piece = vec![b'x'; 0x8000];
    let Some(request) = Request::read_head(&mut stream) else { return };
    recorder.add(&request);
    let out = stream.get_mut();
    let head = match request.path() {
        "/large" => format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"),
        "/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
        "/tunnel" => "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n".to_owned(),
        "/upload" => {
            // Nothing more is read, until the other side gives up.
            while out.peek(&mut [0]).is_ok_and(|count| count > 0) {
                std::thread::sleep(Duration::from_millis(100));
            }
            return;
        }
        _ => {
            return respond(&mut stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        }
    };
    let chunked = request.path() == "/chunked";
    let (before, after): (&[u8], &[u8]) = if chunked { (b"8000\r\n", b"\r\n") } else { (b"", b"") };
    let mut sent = out.write_all(head.as_bytes());
    for _ in 0..LARGE / piece.len() {
        sent = sent.and_then(|()| [before, &piece, after].iter().try_for_each(|part| out.write_all(part)));
    }
    let _ = sent.and_then(|()| out.read(&mut [0]));
}

#[test]
fn clients_that_do_not_read_cost_little_and_leave_nothing_behind() {
    const CLIENTS: u64 = 200;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    let cases = [
        ("a long response", get("/large")),
        ("a response in chunks", get("/chunked")),
        ("requests in a row", get("/large").repeat(500)),
        ("a tunnel", get("/tunnel").replace("\r\n\r\n", "\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")),
        ("an upload", format!("POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n")),
        (
            "an upload in chunks",
            "POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1000000\r\n".to_owned(),
        ),
    ];
    for (what, request) in cases {
        let server = Server::cramped(generous);
        let lb = Lb::in_front_of(&server, "");
        assert_eq!(self::get(lb.address(), "/").status, 200);
        let before = lb.resident_kib();
        // One after the other: a client that sends nothing for long is disconnected.
        let stuck_client = |_| {
            let mut client = small_client(lb.address());
            client.write_all(request.as_bytes()).expect("accepted");
            if request.starts_with("POST") {
                fill(&client);
            }
            client
        };
        let clients: Vec<TcpStream> = (0..CLIENTS).map(stuck_client).collect();
        let arrived = || server.requests().len() as u64;
        eventually(&format!("{what}: all requests arrive"), || (arrived() > CLIENTS).then_some(()));
        // Requests that wait for their turn are kept.
        let most = STUCK_KIB + request.len() as u64 / 1024;
        let stuck = settled(&lb).saturating_sub(before) / CLIENTS;
        assert!(stuck <= most, "{what}: {stuck} KiB for each client");
        drop(clients);
        eventually(&format!("{what}: the memory is returned: {before} KiB, then {}", lb.resident_kib()), || {
            (lb.resident_kib() <= before + KEPT_KIB).then_some(())
        });
    }
}

/// The memory of the process once it no longer grows, in KiB.
fn settled(lb: &Lb) -> u64 {
    let (mut memory, mut since) = (0, Instant::now());
    eventually("the memory settles", || {
        let now = lb.resident_kib();
        if now.abs_diff(memory) > 64 {
            (memory, since) = (now, Instant::now());
        }
        (since.elapsed() > Duration::from_secs(1)).then_some(now)
    })
}

#[test]
fn a_new_client_costs_little_until_it_sends_something() {
    const CLIENTS: u64 = 1500;
    let server = Server::named("a");
    let lb = Lb::in_front_of(&server, "[timeouts]\nrequest_header = \"60s\"\n");
    let connect = || -> Vec<TcpStream> {
        (0..CLIENTS).map(|_| TcpStream::connect(lb.address()).expect("a connection")).collect()
    };
    assert_eq!(get(lb.address(), "/").status, 200);
    let before = settled(&lb);
    let clients = connect();
    let gauge = "lb_client_connections{listener=\"127.0.0.1:0\"}";
    let all = eventually("all are accepted", || lb.metric(gauge).filter(|count| *count >= CLIENTS as f64));
    let silent = settled(&lb).saturating_sub(before) * 1024 / all as u64;
    assert!(silent <= SILENT_BYTES, "{silent} bytes for each client");
    drop(clients);
    eventually("the memory is returned", || (lb.resident_kib() <= before + KEPT_KIB).then_some(()));
}
