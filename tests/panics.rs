//! A panic during a request ends that connection and nothing else.
//!
//! The test has its own process log, which panics when the proxy logs that a server cannot be reached.

use std::io::Write;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use lb::control::gateway::Gateway;
use lb::live::server::Server;
use lb::live::state::State;
use lb::telemetry::panics;
use tempfile::TempDir;
use tracing::{Event, Level, Metadata, Subscriber, span};

mod support;
use support::client::Client;
use support::lb::{NO_CHECKS, PORTS};
use support::servers::{Gate, Refusing, Server as Fake};
use support::{DEADLINE, eventually};

struct PanickingLog;

impl Subscriber for PanickingLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "lb::proxy::exchange" && *metadata.level() == Level::DEBUG
    }

    fn event(&self, _: &Event<'_>) {
        panic!("as the test wants");
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// An access log that the test can read.
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

/// Runs `lb` on this configuration until the end of the test.
fn run(config: &str, access: Lines) -> Arc<State> {
    let directory = TempDir::new().expect("a directory");
    std::fs::write(directory.path().join("lb.toml"), config).expect("a file");
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let gateway = Gateway::start(&directory.path().join("lb.toml"), access).await.expect("it starts");
            sender.send(Arc::clone(gateway.state())).expect("a test");
            let (_asks, asked) = tokio::sync::mpsc::channel(1);
            gateway.run(asked).await;
        });
    });
    receiver.recv_timeout(DEADLINE).expect("it starts")
}

// Case: panic
#[test]
fn a_panic_ends_one_connection_and_is_counted() {
    const PANICS: u64 = 5;
    tracing::subscriber::set_global_default(PanickingLog).expect("no other subscriber");
    let gate = Gate::default();
    let (healthy, refusing) = (Fake::gated("healthy", &gate), Refusing::new());
    let access = Lines::default();
    // With room for one more client than those that stay: a place that is not freed would be missed.
    let state = run(
        &format!(
            "{PORTS}{NO_CHECKS}[proxy]\nworkers = 1\n[limits]\nconnections = 3\n{}\
             [[route]]\npool = \"default\"\n[[route]]\npath = \"/fault\"\npool = \"other\"\n\
             [[pool.other.server]]\nname = \"refusing\"\naddress = \"{}\"\n",
            healthy.table("healthy"),
            refusing.address
        ),
        access.clone(),
    );
    let default_hook = std::panic::take_hook();
    panics::install_hook(Arc::clone(&state));

    let listener = Arc::clone(&state.listeners()[0]);
    let address = listener.address.ip().expect("an address of IP");
    let (mut steady, mut slow) = (Client::connect(address), Client::connect(address));
    assert_eq!(steady.get("/").status, 200);
    slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut ends = Vec::new();
    for _ in 0..PANICS {
        let mut client = Client::connect(address);
        client.send("GET /fault HTTP/1.1\r\nHost: a\r\n\r\n");
        ends.push(client.rest().map(|bytes| bytes.len()).map_err(|error| error.kind()));
    }
    let (after, panics) = (steady.try_get("/"), state.panics());
    // A failed assertion is reported as usual from here on.
    std::panic::set_hook(default_hook);

    assert!(ends.iter().all(|end| matches!(end, Ok(0) | Err(std::io::ErrorKind::ConnectionReset))), "{ends:?}");
    assert_eq!((after.expect("a response").status, panics), (200, PANICS));
    gate.open();
    assert_eq!(slow.response().status, 200);
    eventually("the other clients are gone", || (listener.connections() == 2).then_some(()));
    let servers: Vec<Arc<Server>> = {
        let snapshot = state.snapshot.load();
        snapshot.pools.iter().flat_map(|pool| &pool.members).map(|member| Arc::clone(&member.server)).collect()
    };
    assert_eq!(servers.len(), 2);
    for server in &servers {
        eventually("no request is open", || (server.active_requests() == 0).then_some(()));
        assert_eq!(server.connections(), if *server.key.name == *"healthy" { 2 } else { 0 });
    }
    eventually("every request is logged", || {
        let text = String::from_utf8(access.0.lock().expect("lines").clone()).expect("text");
        let panicked = text.lines().filter(|line| line.contains("\"GET /fault HTTP/1.1\" 503 ")).collect::<Vec<_>>();
        let complete = text.lines().count() as u64 == PANICS + 3 && panicked.len() as u64 == PANICS;
        (complete && panicked.iter().all(|line| line.contains("error=panic"))).then_some(())
    });
}
