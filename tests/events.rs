//! `/api/events` on a real socket: resuming, figures, limits, and slow subscribers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lb::admin::{self, AdminContext};
use lb::live::events::Event;
use lb::live::reloads::{Outcome, Reload};
use lb::telemetry::metrics::Metrics;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

mod support;
use support::{Fixture, config, three};

/// Generous, for a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// A served state with a running feed.
struct Scene {
    fixture: Fixture,
    context: Arc<AdminContext>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<()>,
}

impl Scene {
    async fn new() -> Self {
        let fixture = Fixture::new(config(vec![three()]));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let metrics = Metrics::new(Arc::clone(&fixture.state), Vec::new()).expect("names that differ");
        let context = Arc::new(AdminContext::new(Arc::clone(&fixture.state), metrics));
        tokio::spawn(Arc::clone(&context.feed).run());
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async { drop(stopped.await) };
        let served = tokio::spawn(admin::serve(listener.into(), Arc::clone(&context), shutdown));
        Self { fixture, context, address, stop: Some(stop), served }
    }

    /// Publishes a reload with this change.
    fn reload(&self, generation: u64, change: String) {
        let reload = Reload {
            generation,
            hash: "c0ffee".into(),
            outcome: Outcome::Applied,
            at: SystemTime::now(),
            took: Duration::ZERO,
            changes: vec![change],
            problems: Vec::new(),
        };
        self.fixture.state.events.publish(Event::Reload(Arc::new(reload)));
    }

    async fn ask(&self, headers: &str) -> Subscriber {
        self.ask_at("/api/events", headers).await
    }

    async fn ask_at(&self, target: &str, headers: &str) -> Subscriber {
        let mut stream = TcpStream::connect(self.address).await.expect("a connection");
        let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        Subscriber(BufReader::new(stream))
    }

    /// Subscribes without an earlier id.
    async fn subscribe(&self) -> Subscriber {
        let mut subscriber = self.ask("").await;
        assert!(subscriber.block().await.starts_with("HTTP/1.1 200 "));
        subscriber
    }
}

/// A client that reads its stream line by line. Chunk sizes stand between events, where they do no harm.
struct Subscriber(BufReader<TcpStream>);

impl Subscriber {
    /// Reads the next line; `None` at the end.
    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = timeout(DEADLINE, self.0.read_line(&mut line)).await.expect("in time").ok()?;
        (read > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// Reads lines up to an empty one.
    async fn block(&mut self) -> String {
        let mut block = String::new();
        while let Some(line) = self.line().await.filter(|line| !line.is_empty()) {
            block += &line;
            block.push('\n');
        }
        block
    }

    /// Reads the next id, which may stand alone or in an event.
    async fn id(&mut self) -> String {
        loop {
            if let Some(id) = self.line().await.expect("an id").strip_prefix("id: ") {
                return id.to_owned();
            }
        }
    }

    /// Reads the name and data of the next event.
    async fn event(&mut self) -> (String, Value) {
        let mut kind = String::new();
        loop {
            let line = self.line().await.expect("an event");
            if let Some(name) = line.strip_prefix("event: ") {
                name.clone_into(&mut kind);
            } else if let Some(data) = line.strip_prefix("data: ") {
                return (kind, serde_json::from_str(data).expect("JSON"));
            }
        }
    }
}

#[tokio::test]
async fn a_returning_client_gets_missed_events_or_a_gap() {
    let scene = Scene::new().await;
    scene.reload(2, "before anybody subscribed".into());
    let mut subscriber = scene.subscribe().await;
    let first = subscriber.id().await;
    scene.reload(3, "server default/server3: weight 6 -> 2".into());
    let (kind, data) = subscriber.event().await;
    assert_eq!((kind.as_str(), &data["generation"]), ("reload", &3.into()));
    assert_eq!(data["changes"][0], "server default/server3: weight 6 -> 2");
    drop(subscriber);

    scene.reload(4, "while it was away".into());
    let mut back = scene.ask(&format!("Last-Event-ID: {first}\r\n")).await;
    let generations = [back.event().await, back.event().await].map(|(_, data)| data["generation"].clone());
    assert_eq!(generations, [3, 4]);

    // An id from another process, and two that are not valid.
    for id in ["1.7", "nonsense", ""] {
        let mut stranger = scene.ask(&format!("Last-Event-ID: {id}\r\n")).await;
        let (kind, data) = stranger.event().await;
        assert_eq!((kind.as_str(), &data["kept"]), ("gap", &3.into()), "{id:?}");
        assert_eq!(stranger.event().await.1["generation"], 2);
    }
}

#[tokio::test]
async fn figures_are_sent_at_once_and_repeatedly() {
    let scene = Scene::new().await;
    let mut subscriber = scene.ask_at("/api/events?figures=true", "").await;
    for _ in 0..3 {
        let (kind, data) = subscriber.event().await;
        assert_eq!(kind, "figures");
        assert_eq!(data["servers"].as_array().map(Vec::len), Some(3));
        assert_eq!(data["generation"], 1);
    }
}

#[tokio::test]
async fn the_number_of_subscribers_is_limited() {
    let scene = Scene::new().await;
    let mut subscribers = Vec::new();
    for _ in 0..100 {
        subscribers.push(scene.subscribe().await);
    }
    let rejected = scene.ask("").await.block().await;
    assert!(rejected.starts_with("HTTP/1.1 503 ") && rejected.contains("application/problem+json"), "{rejected}");
    subscribers.pop();
    let start = std::time::Instant::now();
    while !scene.ask("").await.block().await.starts_with("HTTP/1.1 200 ") {
        assert!(start.elapsed() < DEADLINE, "the place of the one that left is not free");
    }
}

#[tokio::test]
async fn streams_end_at_shutdown() {
    let mut scene = Scene::new().await;
    let mut subscriber = scene.subscribe().await;
    subscriber.id().await;
    drop(scene.stop.take());
    // Properly, with the last chunk.
    let mut last = String::new();
    while let Some(line) = subscriber.line().await {
        if !line.is_empty() {
            last = line;
        }
    }
    assert_eq!(last, "0");
    timeout(DEADLINE, scene.served).await.expect("in time").expect("no panic");
}

#[tokio::test]
async fn a_stalled_subscriber_is_disconnected_and_others_are_not() {
    let scene = Scene::new().await;
    let before = Arc::strong_count(&scene.context);
    let stalled = scene.subscribe().await;
    let mut other = scene.subscribe().await;
    assert_eq!(Arc::strong_count(&scene.context), before + 2);
    // More than the socket buffers hold.
    for generation in 2..18 {
        scene.reload(generation, "x".repeat(1 << 20));
        assert_eq!(other.event().await.1["generation"], generation);
    }
    let disconnected = async {
        while Arc::strong_count(&scene.context) > before + 1 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, disconnected).await.expect("a disconnect");
    scene.reload(99, "still connected".into());
    assert_eq!(other.event().await.1["generation"], 99);
    drop(stalled);
}
