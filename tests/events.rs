//! `/api/events` on a real socket: what followers are sent, how many they may be, and who of them is let go.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lb::admin::{self, Context};
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

/// Nothing here takes so long, but on a very busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A served state with a running feed.
struct Scene {
    fixture: Fixture,
    context: Arc<Context>,
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
        let context = Arc::new(Context::new(Arc::clone(&fixture.state), metrics));
        tokio::spawn(Arc::clone(&context.feed).run());
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async { drop(stopped.await) };
        let served = tokio::spawn(admin::serve(listener, Arc::clone(&context), shutdown));
        Self { fixture, context, address, stop: Some(stop), served }
    }

    /// Tells of a reload with this change.
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

    async fn ask(&self, fields: &str) -> Follower {
        self.ask_at("/api/events", fields).await
    }

    async fn ask_at(&self, target: &str, fields: &str) -> Follower {
        let mut stream = TcpStream::connect(self.address).await.expect("a connection");
        let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        Follower(BufReader::new(stream))
    }

    /// Follows from now on.
    async fn follow(&self) -> Follower {
        let mut follower = self.ask("").await;
        assert!(follower.block().await.starts_with("HTTP/1.1 200 "));
        follower
    }
}

/// A client that reads what it is sent line by line; the chunks' sizes lie between events, so they do not disturb.
struct Follower(BufReader<TcpStream>);

impl Follower {
    /// The next line; none at the end.
    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = timeout(PATIENCE, self.0.read_line(&mut line)).await.expect("in time").ok()?;
        (read > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// Lines up to an empty one.
    async fn block(&mut self) -> String {
        let mut block = String::new();
        while let Some(line) = self.line().await.filter(|line| !line.is_empty()) {
            block += &line;
            block.push('\n');
        }
        block
    }

    /// The next id, alone or of an event.
    async fn id(&mut self) -> String {
        loop {
            if let Some(id) = self.line().await.expect("an id").strip_prefix("id: ") {
                return id.to_owned();
            }
        }
    }

    /// Kind and data of the next event.
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
async fn who_comes_back_is_sent_what_it_missed_or_told_of_the_gap() {
    let scene = Scene::new().await;
    scene.reload(2, "before anybody followed".into());
    let mut follower = scene.follow().await;
    let first = follower.id().await;
    scene.reload(3, "server default/server3: weight 6 -> 2".into());
    let (kind, data) = follower.event().await;
    assert_eq!((kind.as_str(), &data["generation"]), ("reload", &3.into()));
    assert_eq!(data["changes"][0], "server default/server3: weight 6 -> 2");
    drop(follower);

    scene.reload(4, "while it was away".into());
    let mut back = scene.ask(&format!("Last-Event-ID: {first}\r\n")).await;
    let generations = [back.event().await, back.event().await].map(|(_, data)| data["generation"].clone());
    assert_eq!(generations, [3, 4]);

    // Of another process, or of none.
    for id in ["1.7", "nonsense", ""] {
        let mut stranger = scene.ask(&format!("Last-Event-ID: {id}\r\n")).await;
        let (kind, data) = stranger.event().await;
        assert_eq!((kind.as_str(), &data["kept"]), ("gap", &3.into()), "{id:?}");
        assert_eq!(stranger.event().await.1["generation"], 2);
    }
}

#[tokio::test]
async fn figures_come_at_once_and_again_to_those_who_want_them() {
    let scene = Scene::new().await;
    let mut follower = scene.ask_at("/api/events?figures=true", "").await;
    for _ in 0..3 {
        let (kind, data) = follower.event().await;
        assert_eq!(kind, "figures");
        assert_eq!(data["servers"].as_array().map(Vec::len), Some(3));
        assert_eq!(data["generation"], 1);
    }
}

#[tokio::test]
async fn of_a_hundred_followers_one_has_to_leave_for_another() {
    let scene = Scene::new().await;
    let mut followers = Vec::new();
    for _ in 0..100 {
        followers.push(scene.follow().await);
    }
    let refused = scene.ask("").await.block().await;
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("application/problem+json"), "{refused}");
    followers.pop();
    let begin = std::time::Instant::now();
    while !scene.ask("").await.block().await.starts_with("HTTP/1.1 200 ") {
        assert!(begin.elapsed() < PATIENCE, "its place is not free");
    }
}

#[tokio::test]
async fn streams_end_when_the_address_is_no_longer_served() {
    let mut scene = Scene::new().await;
    let mut follower = scene.follow().await;
    follower.id().await;
    drop(scene.stop.take());
    // In order: with the chunk that says so.
    let mut last = String::new();
    while let Some(line) = follower.line().await {
        if !line.is_empty() {
            last = line;
        }
    }
    assert_eq!(last, "0");
    timeout(PATIENCE, scene.served).await.expect("in time").expect("no panic");
}

#[tokio::test]
async fn who_takes_nothing_is_let_go_and_others_go_on() {
    let scene = Scene::new().await;
    let before = Arc::strong_count(&scene.context);
    let stalled = scene.follow().await;
    let mut other = scene.follow().await;
    assert_eq!(Arc::strong_count(&scene.context), before + 2);
    // More than sockets hold.
    for generation in 2..18 {
        scene.reload(generation, "x".repeat(1 << 20));
        assert_eq!(other.event().await.1["generation"], generation);
    }
    let let_go = async {
        while Arc::strong_count(&scene.context) > before + 1 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, let_go).await.expect("it is let go");
    scene.reload(99, "still there".into());
    assert_eq!(other.event().await.1["generation"], 99);
    drop(stalled);
}
