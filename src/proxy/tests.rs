//! The seam: several requests of one connection at a time, without a socket on either side.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::config::file::parse;
use crate::config::source::SourceFile;
use crate::http1::head::{HeadLimits, RequestHead};
use crate::http1::name::HeaderName;
use crate::live::counters::PerWorker;
use crate::live::descriptors::Descriptors;
use crate::live::listener::{ListenerId, LiveListener};
use crate::live::pool::Pool;
use crate::proxy::client::Client;
use crate::proxy::context::{Context, ServerReport};
use crate::proxy::downstream::Downstream;
use crate::proxy::memory::{MemoryReceived, MemoryRequest, MemoryServer};
use crate::proxy::request::serve;
use crate::proxy::timeouts::{Phase, Registered, RequestTimer};
use crate::proxy::upstream::Upstream;
use crate::telemetry::access_log::AccessLogWriter;
use crate::telemetry::trace;

const SERVER: ([u8; 4], u16) = ([192, 0, 2, 7], 80);

/// A connection that carries several requests at a time to one server.
struct Connection {
    context: Context,
    client: Client,
    server: MemoryServer,
    reports: UnboundedReceiver<ServerReport>,
}

impl Connection {
    /// With as many connections to the server as there will be requests.
    fn new(requests: usize) -> Self {
        let text = r#"
            listener = [{ address = "127.0.0.1:8080" }]
            log.access = false
            health.fall = 1
            retry.attempts = 0
            balance.sticky = { cookie = "lb", max_age = "1h" }
            route = [{ host = "a.example", pool = "default" }]
            server = [{ name = "one", address = "192.0.2.7:80" }]
        "#;
        let config = parse(&[SourceFile::new("lb.toml", text)], &|_| None).expect("a valid configuration");
        let config = Arc::new(config);
        let mut registry = crate::control::registry::Registry::new(1);
        let plan = registry.plan(&config, Instant::now(), |_| None);
        let snapshot = plan.snapshot(1, "".into(), [].into(), SystemTime::now());
        registry.commit(plan);
        let log = AccessLogWriter::start(std::io::sink()).expect("a thread").worker();
        let (spans, _) = trace::start(&config.tracing);
        let (report, reports) = unbounded_channel();
        let context = Context::new(
            0,
            Arc::new(ArcSwap::from_pointee(snapshot)),
            log,
            spans,
            Arc::new(Descriptors::new(100, 1)),
            report,
        );
        let listener = LiveListener {
            id: ListenerId(1),
            name: "web".into(),
            configured: SocketAddr::from(([127, 0, 0, 1], 8080)).into(),
            address: SocketAddr::from(([127, 0, 0, 1], 8080)).into(),
            rules: Arc::default(),
            counters: Arc::new(PerWorker::new(1)),
        };
        let client = Client::plain(Arc::new(listener), SocketAddr::from(([192, 0, 2, 1], 1234)).into());
        let server = MemoryServer::default();
        let live = Arc::clone(&context.snapshot().pools[0].members[0].server);
        for _ in 0..requests {
            let upstream = Upstream::Memory(server.clone());
            let connection = context.upstreams.adopt(upstream, Some(SERVER.into()), &live);
            context.upstreams.put(&live, connection, Instant::now(), None);
        }
        Self { context, client, server, reports }
    }

    fn pool(&self) -> Arc<Pool> {
        Arc::clone(&self.context.snapshot().pools[0])
    }

    fn timer(&self) -> Registered<RequestTimer> {
        self.context.watchdog.request(self.client.listener.id)
    }

    /// A request, and what its client will have received.
    fn request<'c>(
        &'c self,
        timer: &'c RequestTimer,
        head: &str,
        body: &[&'static str],
    ) -> (impl Future<Output = ()> + 'c, Rc<RefCell<MemoryReceived>>) {
        let mut parsed = RequestHead::default();
        let text = head.replace('¶', "\r\n");
        parsed
            .parse(text.as_bytes(), HeadLimits { bytes: 1000, headers: 10 })
            .expect("a valid head")
            .expect("all of it");
        let (request, received) = MemoryRequest::new(body);
        (serve(&self.context, &self.client, timer, Downstream::Memory(request), parsed), received)
    }

    /// Waits until the server has seen so many requests.
    async fn seen(&self, count: usize) {
        for _ in 0..1000 {
            if self.server.seen().len() == count {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("the server has seen {} of {count} requests", self.server.seen().len());
    }

    /// Sends a piece of the response to the request for `target`.
    fn respond(&self, target: &str, piece: &'static str) {
        let mut seen = self.server.seen();
        let seen = seen.iter_mut().find(|seen| seen.target == target).expect("a request for the target");
        seen.respond.as_ref().expect("a response that has not ended").send(piece).expect("a reader");
    }

    /// Ends the response to the request for `target`, or closes the connection if it has not begun.
    fn end(&self, target: &str) {
        self.server.seen().iter_mut().filter(|seen| seen.target == target).for_each(|seen| seen.respond = None);
    }
}

#[tokio::test]
async fn concurrent_requests_of_one_connection_get_their_own_responses() {
    let connection = Connection::new(3);
    let timers = [(); 3].map(|()| connection.timer());
    let (first, to_first) = connection.request(&timers[0], "GET /1 HTTP/1.1¶Host: a.example¶¶", &[]);
    let (second, to_second) = connection.request(&timers[1], "POST /2 HTTP/1.1¶Host: a.example¶¶", &["up", "load"]);
    let (third, to_third) =
        connection.request(&timers[2], "GET /%33 HTTP/1.1¶Host: A.example.¶Connection: X-Hop¶X-Hop: 1¶¶", &[]);
    let script = async {
        connection.seen(3).await;
        assert_eq!(connection.pool().members[0].server.active_requests(), 3);
        // The last request is responded to first, in pieces that mix with those of the others.
        for (target, piece) in [("/%33", "three"), ("/2", "two"), ("/1", "one"), ("/%33", "!"), ("/1", "?")] {
            connection.respond(target, piece);
            tokio::task::yield_now().await;
        }
        ["/2", "/%33", "/1"].into_iter().for_each(|target| connection.end(target));
    };
    tokio::join!(first, second, third, script);
    for (received, body) in [(to_first, "one?"), (to_second, "two"), (to_third, "three!")] {
        let received = received.borrow();
        assert_eq!((received.status, &received.body[..], received.complete), (200, body, true));
        assert!(received.headers.has(HeaderName::SetCookie), "the response rules apply");
    }
    let seen = connection.server.seen();
    assert_eq!(*seen[1].body.borrow(), "upload");
    for request in seen.iter() {
        assert_eq!(request.headers.get(HeaderName::ForwardedFor), Some(&b"192.0.2.1"[..]));
        assert!(
            !request.headers.has(HeaderName::Connection)
                && !request.headers.iter().any(|(_, name, _)| name == b"X-Hop")
        );
    }
    let server = &connection.pool().members[0].server;
    assert_eq!((server.active_requests(), server.requests_total(), server.connections()), (0, 3, 3));
}

#[tokio::test]
async fn one_request_that_fails_does_not_disturb_the_others() {
    let mut connection = Connection::new(3);
    let timers = [(); 4].map(|()| connection.timer());
    let now = Instant::now();
    connection.context.watchdog.sweep(now, Duration::ZERO);
    let (good, to_good) = connection.request(&timers[0], "GET /good HTTP/1.1¶Host: a.example¶¶", &[]);
    let (closed, to_closed) = connection.request(&timers[1], "PATCH /closed HTTP/1.1¶Host: a.example¶¶", &[]);
    let (slow, to_slow) = connection.request(&timers[2], "GET /slow HTTP/1.1¶Host: a.example¶¶", &[]);
    let (stray, to_stray) = connection.request(&timers[3], "GET /stray HTTP/1.1¶Host: b.example¶¶", &[]);
    let script = async {
        connection.seen(3).await;
        connection.respond("/good", "begins");
        connection.end("/closed");
        tokio::task::yield_now().await;
        // Its response is under way: only the slow one is to be late.
        timers[0].wait(Phase::Download, Duration::from_secs(100));
        connection.context.watchdog.sweep(now, Duration::from_secs(61));
        connection.context.watchdog.sweep(now + Duration::from_secs(61), Duration::ZERO);
        tokio::task::yield_now().await;
        connection.respond("/good", " and ends");
        connection.end("/good");
    };
    tokio::join!(good, closed, slow, stray, script);
    let results = [to_good, to_closed, to_slow, to_stray].map(|received| {
        let received = received.borrow();
        (received.status, received.complete)
    });
    assert_eq!(results, [(200, true), (502, true), (504, true), (404, true)]);
    let Ok(ServerReport::Failing(failing)) = connection.reports.try_recv() else { panic!("no report") };
    assert_eq!(failing.to_string(), "a request failed: response timeout");
    assert_eq!(connection.pool().members[0].server.active_requests(), 0);
}

#[tokio::test]
async fn an_abort_ends_the_requests_at_a_server() {
    let connection = Connection::new(1);
    let timer = connection.timer();
    let (request, received) = connection.request(&timer, "GET / HTTP/1.1¶Host: a.example¶¶", &[]);
    let script = async {
        connection.seen(1).await;
        connection.context.watchdog.abort_server(connection.pool().members[0].server.id);
    };
    tokio::join!(request, script);
    assert_eq!((received.borrow().status, timer.is_aborted()), (0, true));
    let codes: Vec<_> = connection.context.snapshot().routes[0].live.counters.of(0).codes.iter().collect();
    assert_eq!(codes.len(), 1, "{codes:?}");
}
