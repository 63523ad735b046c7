//! Prepare and commit on a running process: what an edit touches, and when it becomes visible.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use tempfile::TempDir;

use super::apply::{NotApplied, Prepared};
use super::*;
use crate::config::SocketAddress;
use crate::config::problem::Problem;
use crate::config::source::SourceFile;
use crate::control::reload::reader::env;
use crate::control::reload::source::{LoadedConfig, Source};
use crate::control::resolver::Addresses;
use crate::live::health::HealthState;
use crate::live::listener::ListenerId;
use crate::live::server::ServerId;

/// A server that responds to every request with its name, until the end of the process.
fn server(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = [0; 1024];
            // A client that has gone gets no response.
            let _ = stream.read(&mut head);
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n{name}");
        }
    });
    address
}

/// The name of the server that responds to a request to `address`.
fn ask(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("sent");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("a response");
    response.rsplit("\r\n").next().expect("a body").to_owned()
}

/// An address at which nothing listens. Other tests use other loopback addresses, so nothing will.
fn unused_address() -> SocketAddr {
    TcpListener::bind("127.0.0.3:0").and_then(|listener| listener.local_addr()).expect("a port")
}

const ADMIN: &str = "127.0.0.1:0";

/// A file with these addresses and servers, each as in `name="…" address="…" …`.
fn file(listeners: &[SocketAddr], admin: &str, servers: &[String]) -> String {
    let mut text =
        format!("admin.address = \"{admin}\"\nproxy.workers = 1\nlog.level = \"off\"\nhealth.kind = \"none\"\n");
    text += "[[listener]]\naddress = \"127.0.0.1:0\"\n";
    for address in listeners {
        text += &format!("[[listener]]\naddress = \"{address}\"\n");
    }
    for server in servers {
        text += &format!("[[server]]\n{server}\n");
    }
    text
}

struct RunningGateway {
    gateway: Gateway,
    directory: TempDir,
}

/// Everything that an edit changes and others can see.
#[derive(Debug, PartialEq)]
struct Visible {
    snapshot: *const Snapshot,
    servers: Vec<(ServerId, HealthState, bool)>,
    listeners: Vec<(ListenerId, String, SocketAddress)>,
    admin: SocketAddress,
    reloads: usize,
}

impl RunningGateway {
    async fn start(text: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("lb.toml");
        std::fs::write(&path, text).expect("a file");
        let gateway = Gateway::start(&path, std::io::sink()).await.expect("started");
        Self { gateway, directory }
    }

    fn prepare(&self, text: &str) -> Result<Prepared, Vec<Problem>> {
        let path = self.directory.path().join("lb.toml");
        let sources = Source::new(&path).with_files(vec![SourceFile::new(path, text.to_owned())]);
        let LoadedConfig { sources, result } = sources.load(&env);
        let mut config = result.expect("a valid file");
        config.share_with(&self.gateway.config);
        let prepared = self.gateway.prepare(&Arc::new(config), &sources, &Addresses::new());
        prepared.map_err(|(NotApplied::Rejected(problems) | NotApplied::Pending(problems))| problems)
    }

    fn visible(&self) -> Visible {
        let state = self.gateway.state();
        let snapshot = state.snapshot.load_full();
        let servers = snapshot.pools.iter().flat_map(|pool| &pool.members).map(|member| &member.server);
        let listeners = state.listeners();
        let listeners = listeners.iter().map(|live| (live.id, live.name.to_string(), live.address.clone())).collect();
        Visible {
            snapshot: Arc::as_ptr(&snapshot),
            servers: servers.map(|server| (server.id, server.state(), server.is_leaving())).collect(),
            listeners,
            admin: self.gateway.outputs.admin.address().clone(),
            reloads: state.reloads().newest().len(),
        }
    }

    fn address(&self) -> SocketAddr {
        self.gateway.state().listeners()[0].address.ip().expect("an address of IP")
    }
}

#[tokio::test]
async fn a_prepare_that_fails_or_is_dropped_changes_nothing() {
    let (a, b) = (server("a"), server("b"));
    let table = |name: &str, address, more: &str| format!("name = \"{name}\"\naddress = \"{address}\"\n{more}");
    let start = file(&[], ADMIN, &[table("a", a, ""), table("b", b, "weight = 0")]);
    let running = RunningGateway::start(&start).await;
    let before = running.visible();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = listener.local_addr().expect("an address");

    // Each edit also adds a listener and replaces the server that has the traffic.
    let new = unused_address();
    let replaced = [table("c", b, "")];
    let cases = [
        ("a taken port", file(&[new, taken], ADMIN, &replaced), Some("cannot listen on")),
        ("a taken admin address", file(&[new], &taken.to_string(), &replaced), Some("cannot listen on")),
        ("a guard", file(&[new], ADMIN, &[table("a", a, "enabled = false")]), Some("has no enabled server")),
        ("an edit that is never committed", file(&[new], ADMIN, &replaced), None),
    ];
    for (name, text, problem) in cases {
        match (problem, running.prepare(&text)) {
            (Some(problem), Err(problems)) => assert!(problems[0].message.contains(problem), "{name}: {problems:?}"),
            (None, Ok(prepared)) => {
                assert_eq!(running.visible(), before, "{name}, while it is prepared");
                drop(prepared);
            }
            (_, result) => panic!("{name}: {result:?}"),
        }
        assert_eq!(running.visible(), before, "{name}");
        assert_eq!(ask(running.address()), "a", "{name}");
        TcpListener::bind(new).expect("the new socket is closed again");
    }
}

#[tokio::test]
async fn a_commit_makes_the_edit_visible_at_once() {
    let (a, b) = (server("a"), server("b"));
    let table = |name: &str, address| format!("name = \"{name}\"\naddress = \"{address}\"\n");
    let mut running = RunningGateway::start(&file(&[], ADMIN, &[table("a", a)])).await;
    let before = running.visible();
    let old = Arc::clone(&running.gateway.state().snapshot.load().pools[0].members[0].server);

    let new = unused_address();
    let admin = unused_address();
    let text = file(&[new], &admin.to_string(), &[table("b", b)]);
    let prepared = running.prepare(&text).expect("prepared");
    assert_eq!(running.visible(), before);
    assert_eq!(ask(running.address()), "a");
    assert!(!old.is_leaving());

    let changes = running.gateway.commit(prepared);
    assert!(changes.iter().any(|change| change.contains("default/b")), "{changes:?}");
    let state = running.gateway.state();
    assert_eq!((state.snapshot.load().generation, state.listeners().len()), (2, 2));
    assert!(old.is_leaving());
    assert_eq!([ask(running.address()), ask(new)], ["b", "b"]);
    assert_eq!(*running.gateway.outputs.admin.address(), SocketAddress::Ip(admin));
    TcpStream::connect(admin).expect("the admin address has moved");
    // The next edit is compared with this one.
    assert_eq!(running.prepare(&text).expect("prepared").changes, [""; 0]);
}
