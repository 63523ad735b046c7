//! The spans of `lb` and of the demo server in the real Zipkin, where Java and the jar are installed.
//!
//! `ZIPKIN_JAR` is the path of the jar: Maven's `io.zipkin:zipkin-server` with the classifier `slim` or `exec`.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::failures::resets;
use crate::support::client::{Client, get};
use crate::support::demo::Demo;
use crate::support::eventually;
use crate::support::lb::{Lb, Lines, NO_CHECKS, lines, servers};

/// The limit for starting Zipkin, on a busy machine.
const START_DEADLINE: Duration = Duration::from_secs(120);

/// A running Zipkin that keeps spans in memory, killed when dropped.
struct Zipkin {
    child: Child,
    address: SocketAddr,
}

impl Zipkin {
    /// Starts it, and waits until it serves. If something is missing, prints that and returns `None`.
    fn start() -> Option<Self> {
        let skipped = |reason: &str| eprintln!("skipped: {reason}, so there is no test with the real Zipkin");
        let Some(jar) = std::env::var_os("ZIPKIN_JAR") else {
            skipped("ZIPKIN_JAR is not set");
            return None;
        };
        let mut command = Command::new("java");
        // It does not run long enough for a better compiler to pay.
        command.args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-jar"]).arg(jar);
        command.args(["ip=127.0.0.1", "port=0", "protocols[0]=http"].map(|key| format!("--armeria.ports[0].{key}")));
        let mut child = match command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                skipped("java is not installed");
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        let log = lines(child.stderr.take().expect("piped"));
        let address = served_at(&mut child, &log);
        Some(Self { child, address })
    }

    fn spans_url(&self) -> String {
        format!("http://{}/api/v2/spans", self.address)
    }

    /// Waits until a trace has `count` spans, and returns them.
    #[track_caller]
    fn trace(&self, id: &str, count: usize) -> Vec<Value> {
        eventually(&format!("a trace of {count} spans"), || {
            let response = get(self.address, &format!("/api/v2/trace/{id}"));
            let spans: Vec<Value> = (response.status == 200).then(|| serde_json::from_slice(&response.body).ok())??;
            assert!(spans.len() <= count, "{spans:#?}");
            (spans.len() == count).then_some(spans)
        })
    }
}

impl Drop for Zipkin {
    fn drop(&mut self) {
        // The process may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for the address in its log.
fn served_at(child: &mut Child, log: &Lines) -> SocketAddr {
    let start = Instant::now();
    loop {
        let lines = log.lock().expect("lines").clone();
        let address = lines.iter().find_map(|line| line.split("Serving HTTP at /").nth(1)?.split(' ').next());
        if let Some(address) = address {
            return address.parse().expect("an address");
        }
        let ended = child.try_wait().expect("a child");
        if ended.is_some() || start.elapsed() > START_DEADLINE {
            // The guard that would end it does not exist yet.
            let _ = child.kill();
            panic!("Zipkin does not serve ({ended:?}):\n{}", lines.join("\n"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn the_access_log_leads_to_the_trace_of_a_slow_request() {
    let Some(zipkin) = Zipkin::start() else { return };
    let resetting = resets(usize::MAX);
    let demo = Demo::start("server1", Some(&zipkin.spans_url()));
    let servers = servers(&[("server0", resetting.address, 1), ("server1", demo.address, 1)]);
    let tracing = format!("[tracing]\nzipkin = \"{}\"\n[retry]\nbudget = \"100%\"\n", zipkin.spans_url());
    let lb = Lb::start(&format!("{NO_CHECKS}{tracing}[log]\nformat = \"json\"\n{servers}"));
    let mut client = Client::connect(lb.address());
    // The first attempt of one of two requests is at the server that resets its connections.
    for _ in 0..2 {
        assert_eq!(client.get("/slow?seconds=0.05").status, 200);
    }
    let line = lb.logs("a request with two attempts", |line| line.contains("\"tries\":2"));
    let line: Value = serde_json::from_str(&line).expect("JSON");
    let trace = zipkin.trace(line["trace_id"].as_str().expect("a trace"), 5);

    let find = |service: &str, kind: &Value, server: &Value| -> &Value {
        let of_service = trace.iter().filter(|span| span["localEndpoint"]["serviceName"] == service);
        let mut matching = of_service.filter(|span| span["kind"] == *kind && span["tags"]["lb.server"] == *server);
        matching.next().unwrap_or_else(|| panic!("no span of {service} {kind} {server} in {trace:#?}"))
    };
    let (server, client) = (Value::from("SERVER"), Value::from("CLIENT"));
    let request = find("lb", &server, &"server1".into());
    let failed = find("lb", &client, &"server0".into());
    let second = find("lb", &client, &"server1".into());
    let served = find("server1", &server, &Value::Null);
    let slept = find("server1", &Value::Null, &Value::Null);
    assert_eq!(request["parentId"], Value::Null);
    for (child, parent) in [(failed, request), (second, request), (served, second), (slept, served)] {
        assert_eq!(child["parentId"], parent["id"], "{trace:#?}");
    }
    assert_eq!(failed["tags"]["error.type"], "bad_response");
    // The dependencies show which service calls which.
    eventually("the dependency of one service on the other", || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_millis();
        let response = get(zipkin.address, &format!("/api/v2/dependencies?endTs={now}&lookback=3600000"));
        let links: Value = serde_json::from_slice(&response.body).ok()?;
        let matches = |link: &Value| link["parent"] == "lb" && link["child"] == "server1";
        links.as_array()?.iter().any(matches).then_some(())
    });
}
