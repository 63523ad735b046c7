//! The access log: one line a request, whatever becomes of it.

use std::io::Write as _;

use serde_json::Value;

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS, servers};
use crate::support::servers::{Refusing, Server, answer};

const JSON: &str = "[log]\nformat = \"json\"\n";
const TRACE: &str = "80f198ee56343ba864fe8b2a57d3eff7";

/// The lines so far, once there are `count`.
#[track_caller]
fn lines(lb: &Lb, count: usize) -> Vec<String> {
    eventually(&format!("{count} lines in the access log: {:#?}", lb.stdout()), || {
        Some(lb.stdout()).filter(|lines| lines.len() >= count)
    })
}

/// The same, as JSON.
#[track_caller]
fn entries(lb: &Lb, count: usize) -> Vec<Value> {
    let parse = |line: &String| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    lines(lb, count).iter().map(parse).collect()
}

#[test]
fn a_line_says_everything_and_an_edit_changes_its_form() {
    let server = Server::named("server1");
    let table = server.table("server1");
    let route = "[[route]]\nname = \"shop\"\npath = \"/\"\npool = \"default\"\n";
    let lb = Lb::start(&format!("{NO_CHECKS}{JSON}{route}{table}"));
    let mut client = Client::connect(lb.address());
    let port = client.socket().local_addr().expect("an address").port();
    let request = format!(
        "POST /cart?item=1 HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 3\r\nX-Request-Id: abc-1\r\n\
         traceparent: 00-{TRACE}-e457b5a2e4d86bd1-01\r\n\r\nabc"
    );
    assert_eq!(client.request(&request).status, 200);
    let mut entry = entries(&lb, 1).remove(0);
    let (time, seconds) = (entry["time"].take(), entry["seconds"].take());
    assert!(time.as_str().is_some_and(|time| time.len() == 24 && time.ends_with('Z')), "{time}");
    assert!(seconds.as_f64().is_some_and(|seconds| (0.0..20.0).contains(&seconds)), "{seconds}");
    let expected = serde_json::json!({
        "time": null, "client": format!("127.0.0.1:{port}"), "method": "POST", "path": "/cart?item=1",
        "protocol": "HTTP/1.1", "status": 200, "bytes": 7, "seconds": null, "host": "shop.example", "route": "shop",
        "pool": "default", "server": "server1", "tries": 1, "request_id": "abc-1", "trace_id": TRACE, "generation": 1,
    });
    assert_eq!(entry, expected);
    assert_eq!(server.requests()[0].values("x-request-id"), ["abc-1"]);

    lb.apply(&format!("{NO_CHECKS}[log]\nformat = \"text\"\n{route}{table}"));
    assert_eq!(client.request(&request).status, 200);
    let line = lines(&lb, 2).remove(1);
    let words: Vec<&str> = line.split(' ').collect();
    assert!(words[7].ends_with('s') && words[7].trim_end_matches('s').parse::<f64>().is_ok(), "{line}");
    let rest = format!(
        "127.0.0.1:{port} \"POST /cart?item=1 HTTP/1.1\" 200 7B {} host=shop.example route=shop pool=default \
         server=server1 tries=1 request_id=abc-1 trace_id={TRACE} generation=2",
        words[7]
    );
    assert_eq!(words[1..].join(" "), rest);
}

#[test]
fn access_lines_are_switched_off_and_on_by_edits() {
    let table = Server::named("server1");
    let config = |access| format!("{NO_CHECKS}[log]\nformat = \"json\"\naccess = {access}\n{}", table.table("server1"));
    let lb = Lb::start(&config(true));
    let mut client = Client::connect(lb.address());
    client.get("/on");
    for (access, path) in [(false, "/off"), (true, "/on-again")] {
        lb.apply(&config(access));
        client.get(path);
    }
    let entries = entries(&lb, 2);
    let logged: Vec<_> = entries.iter().map(|entry| (entry["path"].as_str(), entry["generation"].as_u64())).collect();
    assert_eq!(logged, [(Some("/on"), Some(1)), (Some("/on-again"), Some(3))]);
}

#[test]
fn whatever_a_client_sends_is_one_line() {
    let server = Server::named("server1");
    let hostile: [&[u8]; 6] = [
        b"GET /\"},{\"status\":999 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /%0d%0a%00%1b[31m HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xc3\xa9\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: \"\\ x\tgeneration=9\xff\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: \"}\xe2\x80\xa8\r\n\r\n",
        b"B!#$%&'*+-.^_`|~ / HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    for format in ["json", "text"] {
        let lb = Lb::start(&format!("{NO_CHECKS}[log]\nformat = \"{format}\"\n{}", server.table("server1")));
        let mut answered = 0;
        for request in hostile {
            let mut client = Client::connect(lb.address());
            client.send(request);
            // What is no request at all is answered without being one.
            answered += usize::from(client.try_answer().is_ok_and(|answer| answer.status != 400));
        }
        assert!(answered >= 3, "{answered}");
        get(lb.address(), "/last");
        let lines = eventually("the last line", || {
            Some(lb.stdout()).filter(|lines| lines.iter().any(|line| line.contains("/last")) && lines.len() > answered)
        });
        assert!(lines.len() <= hostile.len() + 1, "{lines:#?}");
        for line in &lines {
            assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line:?}");
            if format == "json" {
                let entry: Value = serde_json::from_str(line).expect("JSON");
                assert_eq!(entry["generation"], 1, "{line}");
                assert_ne!(entry["status"], 999, "{line}");
            } else {
                assert!(line.ends_with(" generation=1"), "{line}");
                assert_eq!(line.matches(" generation=").count(), 1, "{line}");
            }
        }
    }
}

#[test]
fn the_generation_is_the_one_that_served_the_request() {
    let (first, second) = (Server::named("server1"), Server::named("server2"));
    let config = |name: &str, server: &Server| format!("{NO_CHECKS}{JSON}{}", server.table(name));
    let lb = Lb::start(&config("server1", &first));
    let mut client = Client::connect(lb.address());
    assert_eq!(client.get("/").text(), "server1");
    lb.apply(&config("server2", &second));
    assert_eq!(client.get("/").text(), "server2");
    let entries = entries(&lb, 2);
    for (entry, (generation, server)) in entries.iter().zip([(1, "server1"), (2, "server2")]) {
        assert_eq!((entry["generation"].as_u64(), entry["server"].as_str()), (Some(generation), Some(server)));
    }
}

#[test]
fn failures_are_logged_with_a_word() {
    let refusing = Refusing::new();
    let silent = Server::scripted(|mut stream, note| while note.next(&mut stream).is_some() {});
    let broken = Server::scripted(|mut stream, note| drop(note.next(&mut stream)));
    let cut = Server::scripted(|mut stream, note| {
        if note.next(&mut stream).is_some() {
            answer(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
        }
    });
    let pool = |name: &str, address| {
        let health = if name == "down" { "kind = \"tcp\"\ninterval = \"50ms\"\nfall = 1" } else { "kind = \"none\"" };
        format!(
            "[[route]]\npath = \"/{name}\"\npool = \"{name}\"\n[pool.{name}.health]\n{health}\n\
             [[pool.{name}.server]]\nname = \"one\"\naddress = \"{address}\"\n"
        )
    };
    let pools: String = [
        ("down", refusing.address),
        ("refusing", refusing.address),
        ("silent", silent.address),
        ("broken", broken.address),
        ("cut", cut.address),
    ]
    .map(|(name, address)| pool(name, address))
    .concat();
    let lb = Lb::start(&format!("{JSON}[timeouts]\nresponse_header = \"1s\"\n{pools}"));
    eventually("the server is down", || (lb.api("/api/servers/one?pool=down")["status"] == "down").then_some(()));
    let cases = [
        ("/down", 503, "no_server", 0),
        ("/refusing", 502, "unreachable", 1),
        ("/silent", 504, "response_timeout", 1),
        ("/broken", 502, "bad_response", 3),
        ("/nowhere", 404, "no_route", 0),
    ];
    let mut client = Client::connect(lb.address());
    for (path, status, ..) in cases {
        assert_eq!(client.get(path).status, status, "{path}");
    }
    assert_eq!(client.request("GET /two HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").status, 400);
    let mut client = Client::connect(lb.address());
    client.send("GET /cut HTTP/1.1\r\nHost: a\r\n\r\n");
    client.try_answer().expect_err("half an answer");
    let entries = entries(&lb, cases.len() + 2);
    let expected = cases.into_iter().chain([("/two", 400, "bad_request", 0), ("/cut", 200, "response_truncated", 1)]);
    // Workers write as they come to it.
    let entry = |path: &str| entries.iter().find(|entry| entry["path"] == path).expect("a line");
    for (path, status, error, tries) in expected {
        let entry = entry(path);
        let said = (&entry["path"], &entry["status"], &entry["error"], &entry["tries"]);
        assert_eq!(said, (&path.into(), &status.into(), &error.into(), &tries.into()), "{entry}");
        assert_eq!(entry.get("server").is_some(), tries > 0, "{entry}");
    }
    assert_eq!(entry("/cut")["bytes"], 4);
    // A server that was not tried again was not counted as tried again.
    assert_eq!(lb.metric("lb_retries_total{pool=\"refusing\",reason=\"connect\"}"), Some(0.0));
    assert_eq!(lb.metric("lb_retries_total{pool=\"broken\",reason=\"broken\"}"), Some(2.0));
}

#[test]
fn who_ended_a_request_early_is_told_apart() {
    let silent = Server::scripted(|mut stream, note| {
        while let Some(request) = note.next(&mut stream) {
            if request.path() == "/stalled" {
                answer(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
            }
        }
    });
    let other = Server::named("server2");
    let config = |name: &str, server: &Server| {
        let timeouts = "[timeouts]\ndrain = \"100ms\"\nbody_idle = \"100ms\"\n";
        format!("{NO_CHECKS}{JSON}{timeouts}{}", server.table(name))
    };
    let lb = Lb::start(&config("server1", &silent));
    let cases = [("/left", 499, "client_gone"), ("/stalled", 200, "response_too_slow"), ("/drained", 503, "aborted")];
    for (number, (path, status, error)) in (1..).zip(cases) {
        let mut client = Client::connect(lb.address());
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        eventually("the server has it", || (silent.requests().len() == number).then_some(()));
        match path {
            "/left" => drop(client),
            "/stalled" => assert!(client.try_answer().is_err()),
            _ => {
                lb.apply(&config("server2", &other));
                assert!(client.is_closed());
            }
        }
        let entry = entries(&lb, number).remove(number - 1);
        let said = (&entry["path"], &entry["status"], &entry["error"], &entry["tries"]);
        assert_eq!(said, (&path.into(), &status.into(), &error.into(), &1.into()), "{entry}");
    }
}

#[test]
fn what_is_no_request_at_all_is_logged_and_counted_too() {
    let server = Server::named("server1");
    let lb = Lb::before(&server, JSON);
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {}\r\n\r\n", "x".repeat(40_000));
    let cases = [("\x16\x03\x01\x02\r\n\r\n", 400, "bad_request"), (&*long, 431, "head_too_large")];
    for (number, (bytes, status, error)) in (1..).zip(cases) {
        let mut client = Client::connect(lb.address());
        // It may be refused before all is sent.
        let _ = client.socket().write_all(bytes.as_bytes());
        if let Ok(answer) = client.try_answer() {
            assert_eq!(answer.status, status);
        }
        let entry = entries(&lb, number).remove(number - 1);
        let said = (&entry["method"], &entry["path"], &entry["status"], &entry["error"], &entry["tries"]);
        assert_eq!(said, (&"-".into(), &"-".into(), &status.into(), &error.into(), &0.into()), "{entry}");
        let counted = format!("lb_requests_total{{route=\"-\",method=\"OTHER\",code=\"{status}\"}}");
        assert_eq!(lb.metric(&counted), Some(1.0));
    }
    assert_eq!(server.requests().len(), 0);
}

#[test]
fn what_is_cut_at_the_end_is_logged_to_the_last() {
    let silent = Server::scripted(|mut stream, note| while note.next(&mut stream).is_some() {});
    let mut lb = Lb::before(&silent, &format!("{JSON}[timeouts]\ndrain = \"50ms\"\n"));
    let address = lb.address();
    let clients: Vec<Client> = (0..150)
        .map(|number| {
            let mut client = Client::connect(address);
            client.send(format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n"));
            client
        })
        .collect();
    eventually("the server has them", || (silent.requests().len() == clients.len()).then_some(()));
    lb.signal("TERM");
    assert!(lb.ends().success());
    for entry in entries(&lb, clients.len()) {
        assert_eq!((&entry["status"], &entry["error"]), (&503.into(), &"aborted".into()), "{entry}");
    }
}

#[test]
fn a_client_behind_proxies_is_logged_without_the_proxys_port() {
    let server = Server::named("server1");
    let trust = "[proxy]\ntrusted_proxies = [\"127.0.0.0/8\"]\n";
    let lb = Lb::start(&format!("{NO_CHECKS}{JSON}{trust}{}", servers(&[("server1", server.address, 1)])));
    let mut client = Client::connect(lb.address());
    client.request("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n");
    client.request("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 2001:db8::1\r\n\r\n");
    let entries = entries(&lb, 2);
    assert_eq!((&entries[0]["client"], &entries[1]["client"]), (&"203.0.113.9".into(), &"2001:db8::1".into()));
}
