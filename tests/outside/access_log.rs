//! The access log: one line for each request, however it ends.

use std::io::Write as _;

use serde_json::Value;

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS, servers};
use crate::support::servers::{Refusing, Server, respond};

const JSON: &str = "[log]\nformat = \"json\"\n";
const TRACE: &str = "80f198ee56343ba864fe8b2a57d3eff7";

/// Waits for `count` lines, and returns all of them.
#[track_caller]
fn lines(lb: &Lb, count: usize) -> Vec<String> {
    eventually(&format!("{count} lines in the access log: {:#?}", lb.stdout()), || {
        Some(lb.stdout()).filter(|lines| lines.len() >= count)
    })
}

/// Like [`lines`], parsed as JSON.
#[track_caller]
fn entries(lb: &Lb, count: usize) -> Vec<Value> {
    let parse = |line: &String| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    lines(lb, count).iter().map(parse).collect()
}

#[test]
fn a_line_has_every_fact_and_an_edit_changes_its_format() {
    let server = Server::named("server1");
    let table = server.table("server1");
    let route = "[[route]]\nname = \"shop\"\npath = \"/\"\npool = \"default\"\n";
    let lb = Lb::start(&format!("{NO_CHECKS}{JSON}{route}{table}"));
    let mut client = Client::connect(lb.address());
    let port = client.socket().local_addr().expect("an address").port();
    let request = format!(
        "POST /cart?item=1 HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 3\r\nX-Request-Id: abc-1\r\nUser-Agent: x y\r\n\
         traceparent: 00-{TRACE}-e457b5a2e4d86bd1-01\r\n\r\nabc"
    );
    assert_eq!(client.request(&request).status, 200);
    let mut entry = entries(&lb, 1).remove(0);
    let (time, seconds) = (entry["time"].take(), entry["seconds"].take());
    assert!(time.as_str().is_some_and(|time| time.len() == 24 && time.ends_with('Z')), "{time}");
    assert!(seconds.as_f64().is_some_and(|seconds| (0.0..20.0).contains(&seconds)), "{seconds}");
    let expected = serde_json::json!({
        "time": null, "client": "127.0.0.1", "client_port": port, "user_agent": "x y", "method": "POST", "path": "/cart?item=1",
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
        "127.0.0.1 \"POST /cart?item=1 HTTP/1.1\" 200 7B {} host=shop.example route=shop pool=default \
         server=server1 tries=1 request_id=abc-1 trace_id={TRACE} client_port={port} user_agent=\"x y\" generation=2",
        words[7]
    );
    assert_eq!(words[1..].join(" "), rest);
}

#[test]
fn edits_turn_the_access_log_off_and_on() {
    let server = Server::named("server1");
    let config =
        |access| format!("{NO_CHECKS}[log]\nformat = \"json\"\naccess = {access}\n{}", server.table("server1"));
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
fn any_bytes_of_a_client_are_one_line() {
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
        let mut accepted = 0;
        for request in hostile {
            let mut client = Client::connect(lb.address());
            client.send(request);
            // An invalid head is not a request, but gets a response.
            accepted += usize::from(client.try_response().is_ok_and(|response| response.status != 400));
        }
        assert!(accepted >= 3, "{accepted}");
        get(lb.address(), "/last");
        let lines = eventually("the last line", || {
            Some(lb.stdout()).filter(|lines| lines.iter().any(|line| line.contains("/last")) && lines.len() > accepted)
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
fn failures_are_logged_with_their_label() {
    let refusing = Refusing::new();
    let silent = Server::scripted(|mut stream, recorder| while recorder.next(&mut stream).is_some() {});
    let broken = Server::scripted(|mut stream, recorder| drop(recorder.next(&mut stream)));
    let truncating = Server::scripted(|mut stream, recorder| {
        if recorder.next(&mut stream).is_some() {
            respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
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
        ("cut", truncating.address),
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
    client.try_response().expect_err("half a response");
    let entries = entries(&lb, cases.len() + 2);
    let expected = cases.into_iter().chain([("/two", 400, "bad_request", 0), ("/cut", 200, "response_truncated", 1)]);
    // Workers write in no fixed order.
    let entry = |path: &str| entries.iter().find(|entry| entry["path"] == path).expect("a line");
    for (path, status, error, tries) in expected {
        let entry = entry(path);
        let logged = (&entry["path"], &entry["status"], &entry["error"], &entry["tries"]);
        assert_eq!(logged, (&path.into(), &status.into(), &error.into(), &tries.into()), "{entry}");
        assert_eq!(entry.get("server").is_some(), tries > 0, "{entry}");
    }
    assert_eq!(entry("/cut")["bytes"], 4);
    // Only attempts that were made count as retries.
    assert_eq!(lb.metric("lb_retries_total{pool=\"refusing\",reason=\"connect\"}"), Some(0.0));
    assert_eq!(lb.metric("lb_retries_total{pool=\"broken\",reason=\"broken\"}"), Some(2.0));
}

#[test]
fn the_log_tells_who_ended_a_request_early() {
    let silent = Server::scripted(|mut stream, recorder| {
        while let Some(request) = recorder.next(&mut stream) {
            if request.path() == "/stalled" {
                respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
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
        eventually("the server has the request", || (silent.requests().len() == number).then_some(()));
        match path {
            "/left" => drop(client),
            "/stalled" => assert!(client.try_response().is_err()),
            _ => {
                lb.apply(&config("server2", &other));
                assert!(client.is_closed());
            }
        }
        let entry = entries(&lb, number).remove(number - 1);
        let logged = (&entry["path"], &entry["status"], &entry["error"], &entry["tries"]);
        assert_eq!(logged, (&path.into(), &status.into(), &error.into(), &1.into()), "{entry}");
    }
}

// Case: absolute-target
#[test]
fn the_path_of_an_absolute_target_is_logged_without_its_authority() {
    let server = Server::named("server1");
    let lb = Lb::in_front_of(&server, JSON);
    let cases = [("http://b/x/../y?z", "b", "/x/../y?z"), ("http://b:8", "b:8", "/"), ("http://u:p@b/x", "a", "/x")];
    for (number, (target, host, path)) in (1..).zip(cases) {
        Client::connect(lb.address()).request(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let entry = entries(&lb, number).remove(number - 1);
        assert_eq!((&entry["host"], &entry["path"]), (&host.into(), &path.into()), "{entry}");
    }
}

#[test]
fn an_invalid_head_is_logged_and_counted() {
    let server = Server::named("server1");
    let lb = Lb::in_front_of(&server, JSON);
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {}\r\n\r\n", "x".repeat(40_000));
    let cases = [("\x16\x03\x01\x02\r\n\r\n", 400, "bad_request"), (&*long, 431, "head_too_large")];
    for (number, (bytes, status, error)) in (1..).zip(cases) {
        let mut client = Client::connect(lb.address());
        // It may be rejected before all of it is sent.
        let _ = client.socket().write_all(bytes.as_bytes());
        if let Ok(response) = client.try_response() {
            assert_eq!(response.status, status);
        }
        let entry = entries(&lb, number).remove(number - 1);
        let logged = (&entry["method"], &entry["path"], &entry["status"], &entry["error"], &entry["tries"]);
        assert_eq!(logged, (&"-".into(), &"-".into(), &status.into(), &error.into(), &0.into()), "{entry}");
        assert!(entry["bytes"].as_u64() > Some(50), "the explanation: {entry}");
        let series = format!("lb_requests_total{{route=\"-\",method=\"OTHER\",code=\"{status}\"}}");
        assert_eq!(lb.metric(&series), Some(1.0));
    }
    assert_eq!(server.requests().len(), 0);
}

#[test]
fn the_log_names_the_rule_that_ended_a_request() {
    let server = Server::scripted(|mut stream, recorder| {
        while let Some(request) = recorder.next(&mut stream) {
            match request.path() {
                "/closes" => return,
                "/half" => return respond(&mut stream, "HTTP/1.1 200 OK\r\nConten"),
                _ => respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
            }
        }
    });
    let refusing = Refusing::new();
    let more = "[limits]\nbody_bytes = \"4B\"\nheaders = 9\n[retry]\nattempts = 0\n";
    let routes = "[[route]]\npool = \"default\"\n[[route]]\npath = \"/refused\"\npool = \"refusing\"\n";
    let pool = format!("[[pool.refusing.server]]\nname = \"r\"\naddress = \"{}\"\n", refusing.address);
    let cases = [
        ("GET /..%00 HTTP/1.1\r\nHost: a\r\n\r\n", "bad_request", "bad_escape"),
        ("GET /%c0%af HTTP/1.1\r\nHost: a\r\n\r\n", "bad_request", "overlong"),
        ("GET /.. HTTP/1.1\r\nHost: a\r\n\r\n", "bad_request", "above_root"),
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", "bad_request", "target_bytes"),
        ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", "bad_request", "target_form"),
        ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "bad_request", "scheme"),
        ("GET / HTTP/1.1\r\n\r\n", "bad_request", "no_host"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "bad_request", "many_hosts"),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "bad_request", "bad_host"),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", "bad_request", "trace"),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "bad_request", "connect"),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", "bad_request", "framing"),
        ("GET / HTTP/9.9\r\nHost: a\r\n\r\n", "bad_request", "version"),
        (
            "GET / HTTP/1.1\r\na:\r\nb:\r\nc:\r\nd:\r\ne:\r\nf:\r\ng:\r\nh:\r\ni:\r\nj:\r\n\r\n",
            "too_many_headers",
            "headers",
        ),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", "bad_request", "header_name"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "body_too_large", "body_bytes"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", "bad_body", "chunk_size"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;\r\n", "bad_body", "chunk_extension"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc", "bad_body", "chunk_end"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX\r\n", "bad_body", "trailer"),
        ("GET /refused HTTP/1.1\r\nHost: a\r\n\r\n", "unreachable", "refused"),
        ("GET /closes HTTP/1.1\r\nHost: a\r\n\r\n", "bad_response", "closed"),
        ("GET /half HTTP/1.1\r\nHost: a\r\n\r\n", "bad_response", "truncated_head"),
    ];
    for format in ["json", "text"] {
        let log = format!("[log]\nformat = \"{format}\"\n");
        let lb = Lb::start(&format!("{NO_CHECKS}{log}{more}{}{routes}{pool}", server.table("server1")));
        for (number, (sent, error, rule)) in (1..).zip(cases) {
            assert!(Client::connect(lb.address()).request(sent).status >= 400, "{sent}");
            let line = lines(&lb, number).remove(number - 1);
            let expected = match format {
                "json" => format!(",\"error\":\"{error}\",\"rule\":\"{rule}\","),
                _ => format!(" error={error} rule={rule} "),
            };
            assert!(line.contains(&expected), "{sent}: {line}");
        }
        assert_eq!(get(lb.address(), "/").status, 200);
        let line = lines(&lb, cases.len() + 1).pop().expect("a line");
        assert!(!line.contains("rule"), "{line}");
    }
}

#[test]
fn all_requests_that_a_stop_aborts_are_logged() {
    let silent = Server::scripted(|mut stream, recorder| while recorder.next(&mut stream).is_some() {});
    let mut lb = Lb::in_front_of(&silent, &format!("{JSON}[timeouts]\ndrain = \"50ms\"\n"));
    let address = lb.address();
    let clients: Vec<Client> = (0..150)
        .map(|number| {
            let mut client = Client::connect(address);
            client.send(format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n"));
            client
        })
        .collect();
    eventually("the server has the requests", || (silent.requests().len() == clients.len()).then_some(()));
    lb.signal("TERM");
    assert!(lb.ends().success());
    for entry in entries(&lb, clients.len()) {
        assert_eq!((&entry["status"], &entry["error"]), (&503.into(), &"aborted".into()), "{entry}");
    }
}

#[test]
fn a_client_behind_proxies_is_logged_without_the_port_of_the_proxy() {
    let server = Server::named("server1");
    let trust = "[proxy]\ntrusted_proxies = [\"127.0.0.0/8\"]\n";
    let lb = Lb::start(&format!("{NO_CHECKS}{JSON}{trust}{}", servers(&[("server1", server.address, 1)])));
    let mut client = Client::connect(lb.address());
    client.request("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n");
    client.request("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 2001:db8::1\r\n\r\n");
    // A request that gets no further is logged with its client too.
    client.request("GET /.. HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.8\r\n\r\n");
    client.request("GET / HTTP/1.1\r\nHost: a\r\nExpect: x\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n");
    let entries = entries(&lb, 4);
    let clients: Vec<_> = entries.iter().map(|entry| entry["client"].as_str().expect("a client")).collect();
    assert_eq!(clients, ["203.0.113.9", "2001:db8::1", "203.0.113.8", "203.0.113.7"]);
}
