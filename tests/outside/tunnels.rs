//! Tunnels: how long they last, and how they end.

use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::support::client::{Client, get};
use crate::support::lb::{Lb, NO_CHECKS};
use crate::support::servers::{Recorder, Request, Server, respond};
use crate::support::{DEADLINE, eventually};
use crate::timeouts::{STEP, listener};

const UPGRADE: &str = "GET /tunnel HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";

/// Switches protocols for `/tunnel`, then sends every byte back. Records the end of the client's bytes.
fn echoing(mut stream: BufReader<TcpStream>, recorder: &Recorder) {
    while let Some(request) = recorder.next(&mut stream) {
        if request.path() != "/tunnel" {
            respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            continue;
        }
        respond(&mut stream, SWITCH);
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            respond(&mut stream, &bytes[..count]);
        }
        recorder.add(&Request { line: "end".to_owned(), ..Request::default() });
        return;
    }
}

/// A client whose tunnel is open.
fn tunnel(address: SocketAddr) -> Client {
    let mut client = Client::connect(address);
    client.send(UPGRADE);
    assert_eq!(client.try_head().expect("a head").0, 101);
    client
}

fn ends(server: &Server) -> usize {
    server.requests().iter().filter(|request| request.line == "end").count()
}

// Case: silent-tunnel
#[test]
fn a_silent_tunnel_is_closed_and_counted_and_its_place_is_free() {
    let server = Server::scripted(echoing);
    let lb = Lb::in_front_of(&server, "[timeouts]\ntunnel = \"300ms\"\n[limits]\nconnections = 1\n");
    let mut silent = tunnel(lb.address());
    let mut waiting = Client::connect(lb.address());
    waiting.send("GET /waiting HTTP/1.1\r\nHost: a\r\n\r\n");
    // Bytes in either direction keep it open for many times its timeout.
    for _ in 0..20 {
        silent.send("x");
        assert_eq!(silent.read(1), b"x");
        std::thread::sleep(STEP);
    }
    assert!(silent.is_closed());
    drop(silent);
    assert_eq!(waiting.response().status, 200);
    eventually("the server sees the end", || (ends(&server) == 1).then_some(()));
    lb.logs("the tunnel", |line| line.contains("\" 101 ") && line.contains("error=tunnel_timeout"));
    eventually("it is counted", || {
        let text = lb.ask("/metrics").text();
        let line = text.lines().find(|line| line.starts_with("lb_requests_total{") && line.contains("code=\"101\""));
        line.filter(|line| line.ends_with(" 1")).map(|_| ())
    });
    assert_eq!(lb.server("server1")["active_requests"], 0);
}

// Case: silent-tunnel
#[test]
fn a_silent_tunnel_whose_client_does_not_close_is_closed_all_the_same() {
    let server = Server::scripted(echoing);
    let lb = Lb::in_front_of(&server, "[timeouts]\ntunnel = \"100ms\"\n");
    // The client neither reads nor closes, and has no time to: it may have vanished.
    let (start, client) = (Instant::now(), tunnel(lb.address()));
    eventually("no client is counted", || {
        (lb.metric("lb_client_connections{listener=\"127.0.0.1:0\"}") == Some(0.0)).then_some(())
    });
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    drop(client);
}

// Case: silent-tunnel
#[test]
#[cfg(target_os = "linux")]
fn the_system_probes_both_sides_of_a_tunnel() {
    let server = Server::scripted(echoing);
    let lb = Lb::in_front_of(&server, "");
    let client = tunnel(lb.address());
    let hex = |address: SocketAddr| format!("0100007F:{:04X}", address.port());
    let (to_lb, to_server) = (hex(client.socket().local_addr().expect("an address")), hex(server.address));
    // The third column is the peer, the sixth the kind of timer (2: keepalive) and when it is due.
    let is_probed = |peer: &str| {
        let sockets = std::fs::read_to_string("/proc/net/tcp").expect("the sockets");
        let fields: Vec<Vec<_>> =
            sockets.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect();
        fields.into_iter().any(|fields| fields[2] == peer && fields[3] == "01" && fields[5].starts_with("02:"))
    };
    for peer in [to_lb, to_server] {
        eventually("the keepalive timer runs", || is_probed(&peer).then_some(()));
    }
}

// Case: half-closed-tunnel
#[test]
fn after_one_side_has_ended_the_other_may_continue_to_send() {
    let (sender, receiver) = channel();
    let sender = Mutex::new(sender);
    let server = Server::scripted(move |mut stream, recorder| {
        let Some(request) = recorder.next(&mut stream) else { return };
        respond(&mut stream, SWITCH);
        if request.path() == "/server-ends" {
            let _ = stream.get_ref().shutdown(Shutdown::Write);
        }
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        sender.lock().expect("a sender").send(all).expect("a test");
        for _ in 0..20 {
            respond(&mut stream, "x");
            std::thread::sleep(STEP);
        }
    });
    let lb = Lb::in_front_of(&server, "[timeouts]\ntunnel = \"400ms\"\n");
    let received = || receiver.recv_timeout(DEADLINE).expect("the bytes");
    // The client ends first. The server then sends for longer than the timeout.
    let mut client = tunnel(lb.address());
    client.send("last");
    client.socket().shutdown(Shutdown::Write).expect("a socket");
    assert_eq!(received(), b"last");
    assert_eq!(client.rest().expect("an end"), [b'x'; 20]);
    // The server ends first.
    let mut client = Client::connect(lb.address());
    client.send(UPGRADE.replace("/tunnel", "/server-ends"));
    assert_eq!(client.try_head().expect("a head").0, 101);
    assert!(client.is_closed());
    for _ in 0..20 {
        client.send("y");
        std::thread::sleep(STEP);
    }
    client.socket().shutdown(Shutdown::Write).expect("a socket");
    assert_eq!(received(), [b'y'; 20]);
    eventually("no tunnel is open", || (lb.server("server1")["active_requests"] == 0).then_some(()));
    assert!(!lb.stdout().iter().any(|line| line.contains("error=")), "{:#?}", lb.stdout());
}

// Case: half-closed-tunnel
#[test]
fn the_last_bytes_of_a_server_that_closes_reach_a_client_that_still_sends() {
    const LENGTH: usize = 16 << 10;
    let server = Server::scripted(|mut stream, recorder| {
        if recorder.next(&mut stream).is_some() {
            respond(&mut stream, SWITCH);
            // Closes with unread bytes: a reset follows the last bytes.
            let _ = stream.get_ref().peek(&mut [0]);
            respond(&mut stream, [b's'; LENGTH]);
        }
    });
    let lb = Lb::in_front_of(&server, "");
    for number in 0..20 {
        let mut client = tunnel(lb.address());
        let mut writer = client.socket();
        std::thread::scope(|scope| {
            scope.spawn(move || while writer.write_all(&[b'c'; 1000]).is_ok() {});
            assert_eq!(client.rest().expect("an end").len(), LENGTH, "{number}");
            client.socket().shutdown(Shutdown::Both).expect("a socket");
        });
    }
    eventually("no tunnel is open", || (lb.server("server1")["active_requests"] == 0).then_some(()));
}

// Case: half-closed-tunnel
#[test]
fn a_half_closed_tunnel_without_a_byte_is_closed() {
    for ends_first in ["client", "server"] {
        let server = Server::scripted(move |mut stream, recorder| {
            if recorder.next(&mut stream).is_none() {
                return;
            }
            respond(&mut stream, SWITCH);
            if ends_first == "server" {
                let _ = stream.get_ref().shutdown(Shutdown::Write);
            }
            // Until `lb` closes the connection: a reset, or the end if the client has not ended.
            while stream.get_mut().read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
            std::thread::sleep(DEADLINE);
        });
        let lb = Lb::in_front_of(&server, "[timeouts]\ntunnel = \"300ms\"\n");
        let mut client = tunnel(lb.address());
        if ends_first == "client" {
            client.socket().shutdown(Shutdown::Write).expect("a socket");
        }
        assert!(client.is_closed(), "{ends_first}");
        lb.logs("the tunnel", |line| line.contains("\" 101 ") && line.contains("error=tunnel_timeout"));
        eventually("no tunnel is open", || (lb.server("server1")["active_requests"] == 0).then_some(()));
    }
}

// Case: drained-tunnel
#[test]
fn an_idle_tunnel_has_the_drain_timeout_when_the_process_stops() {
    let server = Server::scripted(echoing);
    let mut lb = Lb::in_front_of(&server, "[timeouts]\ndrain = \"1s\"\n");
    let mut client = tunnel(lb.address());
    lb.signal("TERM");
    eventually("/health shows it", || (lb.ask("/health").status == 503).then_some(()));
    client.send("still");
    assert_eq!(client.read(5), b"still");
    let start = Instant::now();
    assert!(client.is_closed());
    assert!(start.elapsed() < DEADLINE / 2);
    assert!(lb.ends().success());
    lb.logs("the tunnel", |line| line.contains("\" 101 ") && line.contains("error=aborted"));
}

// Case: drained-tunnel
#[test]
fn a_second_signal_closes_tunnels_at_once() {
    let server = Server::scripted(echoing);
    let mut lb = Lb::in_front_of(&server, "[timeouts]\ndrain = \"1h\"\n");
    let mut client = tunnel(lb.address());
    lb.signal("TERM");
    eventually("/health shows it", || (lb.ask("/health").status == 503).then_some(()));
    client.send("still");
    assert_eq!(client.read(5), b"still");
    lb.signal("TERM");
    assert!(client.is_closed());
    assert!(lb.ends().success());
}

// Case: drained-tunnel
#[test]
fn an_idle_tunnel_has_the_drain_timeout_when_its_server_or_listener_is_removed() {
    let (server, other) = (Server::scripted(echoing), Server::named("other"));
    let (goes, stays) = (listener("goes", "127.0.0.2:0"), listener("stays", "127.0.0.1:0"));
    let file = |listeners: &str, servers: &str| {
        format!("{listeners}[admin]\naddress = \"127.0.0.1:0\"\n{NO_CHECKS}[timeouts]\ndrain = \"1s\"\n{servers}")
    };
    let both = format!("{goes}{stays}");
    let (one, two) = (server.table("server1"), other.table("other"));
    // An edit, and whether the tunnel survives it.
    let edits = [
        (file(&both, &format!("{one}weight = 3\n{two}")), true),
        (file(&stays, &format!("{one}{two}")), false),
        (file(&both, &two), false),
        (file(&both, &format!("{}{two}", one.replace(&server.address.to_string(), &other.address.to_string()))), false),
        (file(&both, &format!("{one}enabled = false\n{two}")), false),
    ];
    for (number, (edit, survives)) in edits.into_iter().enumerate() {
        let lb = Lb::start_file(&file(&both, &format!("{one}{two}weight = 0\n")));
        let mut client = tunnel(lb.address());
        lb.edit_file(&edit);
        lb.reaches(2);
        client.send("still");
        assert_eq!(client.read(5), b"still", "{number}");
        if survives {
            continue;
        }
        assert!(client.is_closed(), "{number}");
        lb.logs("the tunnel", |line| line.contains("\" 101 ") && line.contains("error=aborted"));
        assert_eq!(
            get(lb.api("/api/listeners")["listeners"][0]["address"].as_str().expect("one").parse().expect("one"), "/")
                .status,
            200
        );
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_tunnel_with_a_slow_reader_is_bounded_in_memory() {
    // Sends for as long as somebody reads.
    let server = Server::scripted(|mut stream, recorder| {
        if recorder.next(&mut stream).is_some() {
            respond(&mut stream, SWITCH);
            let block = vec![b'x'; 1 << 20];
            while stream.get_mut().write_all(&block).is_ok() {}
        }
    });
    let lb = Lb::in_front_of(&server, "");
    let clients: Vec<_> = (0..4).map(|_| tunnel(lb.address())).collect();
    let before = lb.resident_kib();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(500) {
        std::thread::sleep(STEP);
        assert!(lb.resident_kib() < before + (4 << 10), "{before} KiB grew to {}", lb.resident_kib());
    }
    for client in &clients {
        // The other direction is not blocked.
        client.socket().write_all(b"hello").expect("sent");
    }
}
