//! A storm of edits under load: no request fails, no socket closes early, and nothing leaks, whatever happens to the
//! file meanwhile.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::support::client::{Client, Response};
use crate::support::lb::{Lb, PORTS};
use crate::support::servers::{Request, Server, respond};
use crate::support::{DEADLINE, eventually};

/// The environment variable for the length of the storm, in seconds.
const SECONDS: &str = "LB_STORM_SECONDS";
/// The part before the measurement: all kinds of work have been done, and the record of reloads is full.
const WARM_UP: Duration = Duration::from_secs(6);
/// The pause between two edits.
const PAUSE: Duration = Duration::from_millis(50);
/// The pause between two requests of a client, which leaves time for the tests beside this one.
const REQUEST_PAUSE: Duration = Duration::from_millis(2);
/// Edits a second that are still a storm, on a busy machine.
const ENOUGH: f64 = 6.0;
const BIG: usize = 1 << 20;
const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// The results of the clients.
#[derive(Debug, Default)]
struct Tally {
    done: AtomicBool,
    responses: AtomicUsize,
    echoes: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

impl Tally {
    fn is_running(&self) -> bool {
        !self.done.load(SeqCst)
    }

    /// Counts a response. Returns whether the connection stays open.
    fn count(&self, client: &str, response: io::Result<Response>) -> bool {
        match response {
            Ok(response) if response.status == 200 && response.text().starts_with("server") => {
                self.responses.fetch_add(1, SeqCst);
                response.keeps_alive()
            }
            other => {
                self.fail(format!("{client}: {other:?}"));
                false
            }
        }
    }

    fn fail(&self, failure: String) {
        self.failures.lock().unwrap().push(failure);
    }
}

/// Responds with its name and the length of the request's body, or to `/big` with its name and a megabyte. On `/chat`
/// it sends its name, and then every byte back.
fn serve(name: &str, mut stream: BufReader<TcpStream>) {
    while let Some(request) = Request::read(&mut stream) {
        let body = match request.path() {
            "/chat" => return echo(name, &mut stream),
            "/big" => format!("{name}{}", " ".repeat(BIG - name.len())),
            _ => format!("{name} {}", request.body.len()),
        };
        respond(&mut stream, format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    }
}

fn echo(name: &str, stream: &mut BufReader<TcpStream>) {
    respond(stream, format!("{SWITCH}{name}\n"));
    let mut bytes = [0; 64];
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        respond(stream, &bytes[..count]);
    }
}

/// The client's end of a tunnel.
struct Tunnel {
    stream: BufReader<TcpStream>,
    server: String,
}

impl Tunnel {
    fn open(address: SocketAddr) -> io::Result<Self> {
        let mut stream = TcpStream::connect_timeout(&address, DEADLINE)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_nodelay(true)?;
        stream.write_all(UPGRADE.as_bytes())?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line)?;
        if !line.starts_with("HTTP/1.1 101 ") {
            return Err(io::Error::other(line));
        }
        while line.trim_end() != "" {
            line.clear();
            stream.read_line(&mut line)?;
        }
        stream.read_line(&mut line)?;
        Ok(Self { stream, server: line.trim_end().to_owned() })
    }

    fn echo(&mut self) -> io::Result<()> {
        let mut back = [0; 4];
        self.stream.get_mut().write_all(b"ping")?;
        self.stream.read_exact(&mut back)?;
        if &back == b"ping" { Ok(()) } else { Err(io::Error::other("other bytes came back")) }
    }
}

/// Keeps eight tunnels open, and replaces those that end. Those to the server that is never removed must not end.
fn chat(tally: &Tally, address: SocketAddr) {
    let mut tunnels = Vec::new();
    while tally.is_running() {
        while tunnels.len() < 8 {
            match Tunnel::open(address) {
                Ok(tunnel) => tunnels.push(tunnel),
                Err(error) => return tally.fail(format!("tunnel: {error}")),
            }
        }
        tunnels.retain_mut(|tunnel| match tunnel.echo() {
            Ok(()) => {
                tally.echoes.fetch_add(1, SeqCst);
                true
            }
            Err(error) => {
                if tunnel.server == "server0" {
                    tally.fail(format!("tunnel to {}: {error}", tunnel.server));
                }
                false
            }
        });
        std::thread::sleep(PAUSE / 5);
    }
}

/// Sends a megabyte and receives one, in turn, on one connection for as long as it stays open.
fn transfer(tally: &Tally, address: SocketAddr) {
    let upload = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {BIG}\r\n\r\n{}", " ".repeat(BIG));
    let mut client = None;
    for turn in 0.. {
        if !tally.is_running() {
            return;
        }
        let result = client.take().map_or_else(|| Client::try_connect(address), Ok).and_then(|mut client| {
            let (response, is_complete) = if turn % 2 == 0 {
                client.socket().write_all(upload.as_bytes())?;
                let response = client.try_response()?;
                let is_complete = response.text().ends_with(&format!(" {BIG}"));
                (response, is_complete)
            } else {
                let response = client.try_get("/big")?;
                let is_complete = response.body.len() == BIG;
                (response, is_complete)
            };
            if is_complete {
                Ok((client, response))
            } else {
                Err(io::Error::other(format!("incomplete: {response:.100?}")))
            }
        });
        match result {
            Ok((connected, response)) => client = tally.count("big", Ok(response)).then_some(connected),
            Err(error) => tally.fail(format!("big: {error}")),
        }
        std::thread::sleep(5 * REQUEST_PAUSE);
    }
}

/// Sends requests on one connection, and on a new one only if a response closes it.
fn request_on_one(tally: &Tally, name: &str, connect: impl Fn() -> io::Result<Client>) {
    let mut client = None;
    while tally.is_running() {
        match client.take().map_or_else(&connect, Ok) {
            Ok(mut connected) => {
                let response = connected.try_get("/");
                client = tally.count(name, response).then_some(connected);
            }
            Err(error) => drop(tally.count(name, Err(error))),
        }
        std::thread::sleep(REQUEST_PAUSE);
    }
}

/// Sends each request on a new connection.
fn request_on_new(tally: &Tally, name: &str, connect: impl Fn() -> io::Result<Client>) {
    while tally.is_running() {
        let response = connect().and_then(|mut client| client.try_get("/"));
        tally.count(name, response);
        std::thread::sleep(REQUEST_PAUSE);
    }
}

/// Connects to the listener that moves. If it refuses, it has moved, and its address is looked up again.
fn connect_to_moving(lb: &Lb) -> io::Result<Client> {
    let start = Instant::now();
    loop {
        match Client::try_connect(moving(lb)) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && start.elapsed().as_secs() < 10 => {}
            connected => return connected,
        }
    }
}

fn moving(lb: &Lb) -> SocketAddr {
    let listeners = lb.api("/api/listeners");
    let listener = listeners["listeners"].as_array().unwrap().iter().find(|listener| listener["name"] == "moving");
    listener.expect("a listener")["address"].as_str().unwrap().parse().unwrap()
}

/// The file at one step. Each part changes at a different pace.
fn file(step: usize, servers: &[Server; 4]) -> String {
    // It returns to an address before that is closed, and later too.
    let second = [2, 3, 2, 4, 5][step / 3 % 5];
    let mut file = format!("[[listener]]\naddress = \"127.0.0.{second}:0\"\nname = \"moving\"\n{PORTS}");
    file += "[health]\ninterval = \"200ms\"\n";
    for (number, server) in servers.iter().enumerate() {
        // The first is never removed.
        let removed = number > 0 && (step + number).is_multiple_of(4);
        let enabled = number == 0 || !(step / 2 + number).is_multiple_of(3);
        if !removed {
            let weight = 1 + (step + number) % 7;
            let address = server.address;
            file += &format!("[[server]]\nname = \"server{number}\"\naddress = \"{address}\"\n");
            file += &format!("weight = {weight}\nenabled = {enabled}\n");
        }
    }
    file
}

/// Edits the file under load for `time`, and asserts that nothing fails.
fn storm(lb: &Lb, servers: &[Server; 4], time: Duration) {
    lb.edit_file(&file(0, servers));
    lb.server_is("server0", "up");
    eventually("the other server is gone", || (lb.ask("/api/servers/last").status == 404).then_some(()));
    let main = main_address(lb);
    let before = [applied(lb), rejected(lb)];
    let tally = Tally::default();
    let mut broken = 0;
    std::thread::scope(|scope| {
        let tally = &tally;
        for _ in 0..4 {
            scope.spawn(move || request_on_one(tally, "one connection", || Client::try_connect(main)));
        }
        for _ in 0..2 {
            scope.spawn(move || request_on_one(tally, "one connection, moving", || connect_to_moving(lb)));
        }
        scope.spawn(move || request_on_new(tally, "new", || Client::try_connect(main)));
        scope.spawn(move || request_on_new(tally, "new, moving", || connect_to_moving(lb)));
        scope.spawn(move || transfer(tally, main));
        scope.spawn(move || chat(tally, main));
        let start = Instant::now();
        for step in 1.. {
            let enough = applied(lb) - before[0] >= ENOUGH * time.as_secs_f64();
            if start.elapsed() > 5 * time || (start.elapsed() > time && enough) {
                break;
            }
            let mut text = file(step, servers);
            match step % 8 {
                3 => text.truncate(text.len() / 2),
                5 => text += "wieght = 1\n",
                _ => {}
            }
            broken += usize::from(matches!(step % 8, 3 | 5));
            match step % 3 {
                0 => fs::write(lb.path(), text).unwrap(),
                _ => lb.edit_file(&text),
            }
            std::thread::sleep(PAUSE);
        }
        tally.done.store(true, SeqCst);
    });
    let (applied, rejected) = (applied(lb) - before[0], rejected(lb) - before[1]);
    let (responses, echoes) = (tally.responses.load(SeqCst), tally.echoes.load(SeqCst));
    eprintln!(
        "{responses} responses, {echoes} echoes; {applied} edits applied, {rejected} of {broken} bad ones rejected"
    );
    let failures = tally.failures.lock().unwrap();
    assert!(failures.is_empty(), "{} failures: {:#?}", failures.len(), &failures[..failures.len().min(10)]);
    assert!(applied >= ENOUGH * time.as_secs_f64() && rejected >= 3.0, "{applied} applied, {rejected} rejected");
    assert!(responses > 200 && echoes > 50, "{responses} responses and {echoes} echoes are no load");
}

fn applied(lb: &Lb) -> f64 {
    lb.metric("lb_reloads_total{result=\"applied\"}").unwrap_or(0.0)
}

fn rejected(lb: &Lb) -> f64 {
    lb.metric("lb_reloads_total{result=\"rejected\"}").unwrap_or(0.0)
}

/// The resources of a process.
#[derive(Debug, Clone, Copy)]
struct Resources {
    descriptors: u64,
    threads: u64,
    /// Resident memory in KiB.
    memory: u64,
}

impl Resources {
    fn of(lb: &Lb) -> Self {
        let place = format!("/proc/{}", lb.pid());
        let status = fs::read_to_string(format!("{place}/status")).unwrap();
        let value = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        let descriptors = fs::read_dir(format!("{place}/fd")).unwrap().count() as u64;
        Self { descriptors, threads: value("Threads:"), memory: value("VmRSS:") }
    }

    /// Whether nothing has grown by more than a twentieth.
    fn is_about(self, before: Self) -> bool {
        let pairs =
            [(self.descriptors, before.descriptors), (self.threads, before.threads), (self.memory, before.memory)];
        pairs.into_iter().all(|(now, before)| 20 * now <= 21 * before)
    }
}

/// Replaces all servers with one, and waits until the others are gone.
fn settle(lb: &Lb, last: &Server) {
    let listener = "[[listener]]\naddress = \"127.0.0.2:0\"\nname = \"moving\"\n";
    lb.edit_file(&format!("{listener}{PORTS}{}", last.table("last")));
    eventually("only one server is left", || {
        let (servers, listeners) = (lb.api("/api/servers"), lb.api("/api/listeners"));
        let names: Vec<_> = servers["servers"].as_array().unwrap().iter().map(|server| &server["name"]).collect();
        let connections = |listener: &serde_json::Value| listener["connections"].as_u64().unwrap();
        let listeners = listeners["listeners"].as_array().unwrap();
        let is_quiet = listeners.len() == 2 && listeners.iter().all(|listener| connections(listener) == 0);
        (names == ["last"] && is_quiet).then_some(())
    });
}

#[test]
fn twenty_edits_a_second_fail_no_request_and_leak_nothing() {
    let seconds = std::env::var(SECONDS).ok().map_or(20, |seconds| seconds.parse().expect(SECONDS));
    let servers = ["server0", "server1", "server2", "server3"].map(|name| Server::scripted(move |s, _| serve(name, s)));
    let last = Server::named("last");
    let lb = Lb::start_file(&file(0, &servers));
    let mut before = None;
    for time in [WARM_UP, Duration::from_secs(seconds)] {
        storm(&lb, &servers, time);
        lb.edit_file(&file(10, &servers).replace("enabled = false", "enabled = true"));
        eventually("the last content is applied", || {
            let config = lb.api("/api/config");
            (config["state"] == "current" && config["config"]["pool"][0]["server"][0]["weight"] == 4).then_some(())
        });
        settle(&lb, &last);
        let resources = Resources::of(&lb);
        eprintln!("{resources:?}");
        if let Some(before) = before.replace(resources) {
            eventually(&format!("as at the start: {before:?}, not {resources:?}"), || {
                Resources::of(&lb).is_about(before).then_some(())
            });
        }
    }
}

fn main_address(lb: &Lb) -> SocketAddr {
    let listeners = lb.api("/api/listeners");
    let listener = listeners["listeners"].as_array().unwrap().iter().find(|listener| listener["name"] != "moving");
    listener.expect("a listener")["address"].as_str().unwrap().parse().unwrap()
}
