//! A fault in `lb` itself costs the connection that it happens to, and nobody else anything.
//!
//! The process log is the test's here, and panics in the middle of a request when it is told of
//! a server that cannot be reached: what the request does there is no different from any day.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lb::control::gateway::Gateway;
use lb::live::server::Server;
use lb::live::state::State;
use lb::telemetry::panics;
use tempfile::TempDir;
use tracing::{Event, Level, Metadata, Subscriber, span};

const PATIENCE: Duration = Duration::from_secs(20);

/// A process log that fails on one occasion.
struct Fails;

impl Subscriber for Fails {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "lb::proxy::attempt" && *metadata.level() == Level::DEBUG
    }

    fn event(&self, _: &Event<'_>) {
        panic!("as the test wants it");
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// An access log that can be read.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("lines").extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A server that answers, a request for `/slow` only when told.
fn server(told: Receiver<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (address, told) = (listener.local_addr().expect("an address"), Arc::new(Mutex::new(told)));
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let told = Arc::clone(&told);
            std::thread::spawn(move || {
                let mut stream = BufReader::new(stream);
                while let Some(line) = head(&mut stream) {
                    if line.starts_with("GET /slow ") {
                        told.lock().expect("a receiver").recv().expect("a word");
                    }
                    let answered = stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                    answered.expect("answered");
                }
            });
        }
    });
    address
}

/// The first line of a head, once all of it has come.
fn head(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut lines = Vec::new();
    while lines.last().is_none_or(|line| line != "\r\n") {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        lines.push(line);
    }
    lines.into_iter().next()
}

fn connect(address: SocketAddr) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    BufReader::new(stream)
}

fn ask(client: &mut BufReader<TcpStream>, path: &str) {
    client.get_mut().write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).expect("sent");
}

fn answer(client: &mut BufReader<TcpStream>) -> String {
    head(client).expect("an answer").trim_end().to_owned()
}

/// Runs `lb` on this configuration until the end of the test.
fn run(config: &str, access: Lines) -> Arc<State> {
    let directory = TempDir::new().expect("a directory");
    std::fs::write(directory.path().join("lb.toml"), config).expect("a file");
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let gateway = Gateway::start(&directory.path().join("lb.toml"), access).await.expect("it starts");
            tell.send(Arc::clone(gateway.state())).expect("a test");
            let (_asks, asked) = tokio::sync::mpsc::channel(1);
            gateway.run(asked).await;
        });
    });
    told.recv_timeout(PATIENCE).expect("it runs")
}

fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "this did not happen: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn row_41_a_fault_ends_one_connection_and_is_counted() {
    const FAULTS: u64 = 5;
    tracing::subscriber::set_global_default(Fails).expect("no other");
    let (tell, told) = channel();
    let whole = server(told);
    // Bound and not listened at, so that nobody else has it.
    let nobody = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    nobody.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
    let refuses = nobody.local_addr().expect("an address").as_socket().expect("of IP");
    let access = Lines::default();
    // With room for one client more than stay: each whose place was not given back would be missed.
    let state = run(
        &format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[proxy]\nworkers = 1\n\
             [health]\nkind = \"none\"\n[limits]\nconnections = 3\n\
             [[server]]\nname = \"whole\"\naddress = \"{whole}\"\n\
             [[route]]\npool = \"default\"\n[[route]]\npath = \"/fault\"\npool = \"other\"\n\
             [[pool.other.server]]\nname = \"nobody\"\naddress = \"{refuses}\"\n"
        ),
        access.clone(),
    );
    let default_hook = std::panic::take_hook();
    panics::install_hook(Arc::clone(&state));

    let listener = Arc::clone(&state.listeners()[0]);
    let (mut steady, mut slow) = (connect(listener.address), connect(listener.address));
    ask(&mut steady, "/");
    assert_eq!(answer(&mut steady), "HTTP/1.1 200 OK");
    ask(&mut slow, "/slow");
    let mut ends = Vec::new();
    for _ in 0..FAULTS {
        let mut client = connect(listener.address);
        ask(&mut client, "/fault");
        ends.push(client.read_to_end(&mut Vec::new()).map_err(|error| error.kind()));
    }
    ask(&mut steady, "/");
    let (after, state_panics) = (answer(&mut steady), state.panics());
    // What fails from here on is said as always.
    std::panic::set_hook(default_hook);

    assert!(ends.iter().all(|end| matches!(end, Ok(0) | Err(std::io::ErrorKind::ConnectionReset))), "{ends:?}");
    assert_eq!((after.as_str(), state_panics), ("HTTP/1.1 200 OK", FAULTS));
    tell.send(()).expect("a server");
    assert_eq!(answer(&mut slow), "HTTP/1.1 200 OK");
    eventually("those who stay are the only clients", || listener.connections() == 2);
    let servers: Vec<Arc<Server>> = {
        let snapshot = state.snapshot.load();
        snapshot.pools.iter().flat_map(|pool| &pool.members).map(|member| Arc::clone(&member.server)).collect()
    };
    assert_eq!(servers.len(), 2);
    for server in &servers {
        eventually("no request is open", || server.active_requests() == 0);
        assert_eq!(server.connections(), if *server.key.name == *"whole" { 2 } else { 0 });
    }
    eventually("every request is logged", || {
        let text = String::from_utf8(access.0.lock().expect("lines").clone()).expect("text");
        let faults = text.lines().filter(|line| line.contains("\"GET /fault HTTP/1.1\" 503 ")).collect::<Vec<_>>();
        text.lines().count() as u64 == FAULTS + 3
            && faults.len() as u64 == FAULTS
            && faults.iter().all(|line| line.contains("error=fault"))
    });
}
