//! Health checks as servers see them: what they ask, how they read the response, and when they leave.

use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex, mpsc};

use crate::support::client::get;
use crate::support::lb::{Lb, PORTS, command, run, servers};
use crate::support::servers::{Gate, Refusing, Request, Server};
use crate::support::{DEADLINE, eventually};

/// A check at the start, and after that only where one fails or a rule changes.
const ONE_CHECK: &str = "interval = \"1h\"\n";

/// A configuration with these rules for checks and one server.
fn config(rules: &str, server: &Server) -> String {
    format!("[health]\n{ONE_CHECK}{rules}{}", servers(&[("server1", server.address, 1)]))
}

/// Waits until so many checks of a server have had this result.
#[track_caller]
fn checked(lb: &Lb, server: &str, result: &str, times: f64) {
    let series = format!("lb_server_checks_total{{pool=\"default\",server=\"{server}\",result=\"{result}\"}}");
    eventually(&format!("{times} checks of {server} {result}"), || (lb.metric(&series)? >= times).then_some(()));
}

/// Sends `pieces` to the first check; after the first piece once `gate` is open. Reports whether the check left before it
/// had got everything: a write fails, or the connection is reset.
fn in_pieces(pieces: &'static [&'static str], gate: &Gate) -> (Server, mpsc::Receiver<Result<(), String>>) {
    let (sender, receiver) = mpsc::channel();
    let gate = gate.clone();
    let server = Server::scripted(move |mut stream, _| {
        if Request::read(&mut stream).is_none() {
            return;
        }
        for (place, piece) in pieces.iter().enumerate() {
            if place == 1 {
                gate.pass();
            }
            if let Err(error) = stream.get_mut().write_all(piece.as_bytes()) {
                let _ = sender.send(Err(format!("piece {place}: {error}")));
                return;
            }
        }
        stream.get_mut().shutdown(std::net::Shutdown::Write).expect("a connection");
        let end = stream.read(&mut [0]);
        let _ = sender.send(end.map(drop).map_err(|error| error.to_string()));
    });
    (server, receiver)
}

// Case: check-body
#[test]
fn a_check_counts_at_its_status_and_leaves_after_the_body() {
    let cases: [&[&str]; 7] = [
        &["HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n", "on", "ce", "ok"],
        &["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "2\r\nok\r\n", "0\r\n", "\r\n"],
        &["HTTP/1.0 200 OK\r\n\r\n", "until ", "it ", "closes"],
        &["HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "o", "k"],
        &["HTTP/1.1 200 OK\nContent-Length: 4\n\n", "lone", ""],
        &["HTTP/1.1 204 No Content\r\n\r\n", ""],
        &["HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", ""],
    ];
    for pieces in cases {
        let gate = Gate::default();
        let (server, left) = in_pieces(pieces, &gate);
        let lb = Lb::start(&config("timeout = \"1m\"\n", &server));
        let checked = || lb.server("server1")["last_check"]["ok"].as_bool();
        assert!(eventually("the result, without the body", checked), "{pieces:?}");
        gate.open();
        let left = left.recv_timeout(DEADLINE).expect("the check leaves");
        assert_eq!(left, Ok(()), "{pieces:?}");
    }
}

// Case: check-body
#[test]
fn an_edit_lets_a_check_that_is_under_way_end_in_order() {
    let cases: [&[&str]; 2] =
        [&["", "HTTP/1.1 204 No Content\r\n\r\n"], &["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "ok"]];
    for pieces in cases {
        for rules in ["kind = \"tcp\"\n", "kind = \"none\"\n"] {
            let gate = Gate::default();
            let (server, left) = in_pieces(pieces, &gate);
            let lb = Lb::start(&config("timeout = \"1m\"\n", &server));
            eventually("it is under way", || (server.connections() > 0).then_some(()));
            lb.apply(&config(rules, &server));
            gate.open();
            assert_eq!(left.recv_timeout(DEADLINE).expect("the check leaves"), Ok(()), "{pieces:?} {rules}");
        }
    }
}

#[test]
fn a_server_that_keeps_the_connection_open_is_left_soon() {
    let (sender, left) = mpsc::channel();
    let server = Server::scripted(move |mut stream, _| {
        while Request::read(&mut stream).is_some() {
            stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").expect("a client");
        }
        let _ = sender.send(());
    });
    let _lb = Lb::start(&config("timeout = \"1h\"\n", &server));
    left.recv_timeout(DEADLINE).expect("long before the timeout");
}

#[test]
fn a_body_that_never_ends_is_left_at_the_timeout() {
    let (sender, left) = mpsc::channel();
    let server = Server::scripted(move |mut stream, _| {
        Request::read(&mut stream).expect("a request");
        stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\n\r\nevent: 1\n").expect("a client");
        let end = stream.read(&mut [0]);
        let _ = sender.send(end.is_ok());
    });
    let lb = Lb::start(&config("timeout = \"200ms\"\n", &server));
    assert_eq!(left.recv_timeout(DEADLINE), Ok(true));
    lb.server_is("server1", "up");
}

#[test]
fn a_tcp_check_lets_a_server_speak_first() {
    let (sender, left) = mpsc::channel();
    let server = Server::scripted(move |mut stream, _| {
        // A mail server ends the session at the end of the input.
        let end = stream.read(&mut [0]);
        let goodbye = stream.get_mut().write_all(b"220 mail.example.com ESMTP\r\n421 closing\r\n");
        stream.get_mut().shutdown(std::net::Shutdown::Write).expect("a connection");
        let _ = sender.send((end.ok(), goodbye.is_ok()));
    });
    let lb = Lb::start(&config("kind = \"tcp\"\n", &server));
    assert_eq!(left.recv_timeout(DEADLINE), Ok((Some(0), true)));
    lb.server_is("server1", "up");
}

/// Passes checks for one host only, as servers with several sites do; records all requests.
fn for_host(host: &'static str) -> Server {
    Server::scripted(move |mut stream, recorder| {
        let Some(request) = Request::read(&mut stream) else { return };
        recorder.add(&request);
        let status = if request.values("host") == [host] { "200 OK" } else { "400 Bad Request" };
        let _ = write!(stream.get_mut(), "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
    })
}

#[test]
fn a_check_asks_as_the_file_says_and_an_edit_of_that_takes_effect_at_once() {
    let (server, elsewhere) = (for_host("shop.example.com"), for_host("shop.example.com"));
    let lb = Lb::start(&config("fall = 1\n", &server));
    lb.server_is("server1", "down");
    let hint = lb.server("server1")["last_check"]["hint"].to_string();
    assert!(hint.contains("`health.host`"), "{hint}");

    lb.apply(&config("host = \"shop.example.com\"\n", &server));
    lb.server_is("server1", "up");
    let more = "method = \"OPTIONS\"\nheaders = { Authorization = \"Bearer 5\", User-Agent = \"probe\" }\n";
    let port = elsewhere.address.port();
    lb.apply(&config(&format!("host = \"shop.example.com\"\nport = {port}\npath = \"/up?deep=1\"\n{more}"), &server));
    let request = eventually("the other port is checked", || elsewhere.requests().into_iter().next());
    assert_eq!(request.line, "OPTIONS /up?deep=1 HTTP/1.1");
    assert_eq!((request.values("authorization"), request.values("user-agent")), (vec!["Bearer 5"], vec!["probe"]));
    assert_eq!((request.values("connection"), request.values("host")), (vec!["close"], vec!["shop.example.com"]));
    lb.server_is("server1", "up");

    // A rule under which the check fails does not take the server down before `fall` failures.
    lb.apply(&config("host = \"other.example.com\"\nretry = \"1h\"\n", &server));
    let failed = || lb.server("server1")["last_check"]["error"].as_str().map(str::to_owned);
    assert_eq!(eventually("the new rule is followed", failed), "GET /health: status 400, expected 200-399");
    assert_eq!(lb.server("server1")["status"], "up");
}

#[test]
fn a_response_must_contain_the_body() {
    let page = Arc::new(Mutex::new("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nok: none"));
    let server = Server::scripted({
        let page = Arc::clone(&page);
        move |mut stream, _| {
            if Request::read(&mut stream).is_some() {
                // Byte by byte, so that the text comes in pieces.
                for byte in page.lock().expect("a page").bytes() {
                    let _ = stream.get_mut().write_all(&[byte]);
                }
            }
        }
    });
    let rules = "interval = \"20ms\"\nfall = 1\nrise = 1\nbody = \"database: ok\"\n";
    let lb = Lb::start(&format!("[health]\n{rules}{}", servers(&[("server1", server.address, 1)])));
    lb.server_is("server1", "down");
    let error = lb.server("server1")["last_check"]["error"].clone();
    assert_eq!(error, "GET /health: the response does not contain \"database: ok\"");
    *page.lock().expect("a page") = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nall: ok\n\r\n7\r\ndatabas\r\n6\r\ne: ok!\r\n0\r\n\r\n";
    lb.server_is("server1", "up");
    *page.lock().expect("a page") = "HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\ndatabase: o";
    lb.server_is("server1", "down");
    let error = lb.server("server1")["last_check"]["error"].clone();
    assert_eq!(error, "GET /health: connection closed in the middle of the body");
}

/// Has a page at `/`, and no other.
fn with_one_page(status: &'static str) -> Server {
    Server::scripted(move |mut stream, _| {
        while let Some(request) = Request::read(&mut stream) {
            let status = if request.path() == "/" { "200 OK" } else { status };
            let _ = write!(stream.get_mut(), "HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok");
        }
    })
}

#[test]
fn a_server_without_the_default_page_is_up_and_lb_says_so_once() {
    for status in ["404 Not Found", "405 Method Not Allowed", "501 Not Implemented"] {
        let (a, b) = (with_one_page(status), with_one_page(status));
        let text = servers(&[("a", a.address, 1), ("b", b.address, 1)]);
        let lb = Lb::start_file(&format!("{PORTS}[health]\ninterval = \"20ms\"\n{text}"));
        for name in ["a", "b"] {
            checked(&lb, name, "passed", 3.0);
            assert_eq!(lb.server(name)["status"], "up");
        }
        assert_eq!(get(lb.address(), "/").text(), "ok");
        let words = format!("GET /health: status {}; counted as up, because `health.path` is not set", &status[..3]);
        let lines: Vec<_> = lb.stderr().into_iter().filter(|line| line.contains(&words)).collect();
        assert!(matches!(&lines[..], [line] if line.contains("WARN")), "{lines:#?}");
        let warnings = lb.api("/api/config")["warnings"].clone();
        let warning = warnings[0].as_str().expect("a warning");
        assert!(warning.starts_with("default/a and 1 more of its pool: ") && warning.contains(&words), "{warning}");
        assert_eq!(warnings.as_array().map(Vec::len), Some(1));
        let out = run(&["status", "--admin", &lb.admin.to_string()]).out;
        assert!(out.contains(&words), "{out}");
        lb.apply(&format!("[health]\npath = \"/\"\n{text}"));
        eventually("the warning ends", || lb.api("/api/config")["warnings"].as_array()?.is_empty().then_some(()));
    }
}

#[test]
fn a_page_that_the_file_names_must_exist_and_the_error_says_which_key_to_change() {
    let server = with_one_page("404 Not Found");
    for rules in ["path = \"/health\"\n", "expect = \"200\"\n", "body = \"ok\"\n"] {
        let lb = Lb::start(&config(&format!("retry = \"20ms\"\n{rules}"), &server));
        lb.server_is("server1", "down");
        let check = lb.server("server1")["last_check"].clone();
        assert!(
            check["error"].as_str().expect("an error").starts_with("GET /health: status 404, expected 200"),
            "{check}"
        );
        let hint = "set `health.path` to a page that shows the server's health, or `health.kind = \"tcp\"`";
        assert_eq!(check["hint"], hint);
        checked(&lb, "server1", "failed", 4.0);
        let lines: Vec<_> = lb.stderr().into_iter().filter(|line| line.contains("GET /health: status 404")).collect();
        assert!(matches!(&lines[..], [line] if line.contains("`health.path`")), "{lines:#?}");
        let (path, admin) = (lb.path(), lb.admin.to_string());
        for arguments in [&["status"][..], &["explain", "/"], &["server", "show", "server1"]] {
            let place = ["--config", path.to_str().expect("text"), "--admin", &admin];
            let ran = run(&[arguments, &place].concat());
            assert!(ran.out.contains("GET /health: status 404") && ran.out.contains(hint), "{arguments:?}: {ran:?}");
        }
    }
}

#[test]
fn nobody_is_told_that_a_disabled_server_is_down_until_it_is_enabled() {
    let (up, down) = (Server::named("up"), with_one_page("404 Not Found"));
    let text = |enabled| {
        let rules = "[health]\ninterval = \"20ms\"\npath = \"/health\"\nfall = 1\n";
        let servers = servers(&[("up", up.address, 1), ("old", down.address, 1)]);
        format!("{rules}{servers}enabled = {enabled}\n")
    };
    let lb = Lb::start(&text(false));
    checked(&lb, "old", "failed", 3.0);
    assert_eq!(lb.server("old")["status"], "disabled");
    assert_eq!(lb.api("/api/config")["warnings"].as_array().map(Vec::len), Some(0));
    let is_alarm = |line: &String| line.contains("server=old") && line.contains("server is down");
    assert_eq!(lb.stderr().iter().find(|line| is_alarm(line)), None);
    lb.apply(&text(true));
    lb.server_is("old", "down");
    eventually("it is reported now", || lb.stderr().iter().any(is_alarm).then_some(()));
}

#[test]
fn each_check_is_logged_for_those_who_ask() {
    let server = Server::named("a");
    let lb = Lb::start(&format!("[log]\nlevel = \"info,lb::health=debug\"\n{}", config("", &server)));
    let line = eventually("a check is logged", || {
        lb.stderr().into_iter().find(|line| line.contains("DEBUG") && line.contains("checked"))
    });
    for part in
        ["pool=default", "server=server1", "method=GET", "path=/health", "status=200", "seconds=", "result=\"passed\""]
    {
        assert!(line.contains(part), "{part} in {line}");
    }
}

#[test]
fn checks_and_requests_agree_about_the_syntax_of_responses() {
    let cases = [
        ("HTTP/1.1  200 OK\nContent-Length: 2\n\nok", true),
        ("HTTP/1.1 200 OK\r\nX-A : b\r\n folded\r\nContent-Length: 2\r\n\r\nok", true),
        ("HTTP/1.1 200 OK\r\nbad header here\r\n\r\nok", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", false),
        ("HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok", false),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", false),
    ];
    for (response, valid) in cases {
        let server = Server::scripted(move |mut stream, _| {
            if Request::read(&mut stream).is_some() {
                let _ = stream.get_mut().write_all(response.as_bytes());
            }
        });
        let checked = Lb::start(&config("", &server));
        let passed = eventually("a check", || checked.server("server1")["last_check"]["ok"].as_bool());
        let unchecked = Lb::in_front_of(&server, "");
        let served = get(unchecked.address(), "/").status == 200;
        assert_eq!((passed, served), (valid, valid), "{response:?}");
    }
}

#[test]
fn a_server_that_may_be_back_is_checked_soon() {
    let server = Server::named("a");
    server.set_healthy(false);
    let lb = Lb::start(&config("retry = \"20ms\"\nrise = 3\n", &server));
    lb.server_is("server1", "down");
    server.set_healthy(true);
    // Not even the second and the third passed check wait for the interval.
    lb.server_is("server1", "up");
}

#[test]
fn only_the_port_counts_for_tcp_checks_and_a_note_says_so() {
    let (server, other) = (Server::named("a"), Refusing::new());
    let rules = format!("kind = \"tcp\"\nport = {}\nhost = \"a.example\"\n", other.address.port());
    let lb = Lb::start(&config(&rules, &server));
    lb.server_is("server1", "down");
    let error = lb.server("server1")["last_check"]["error"].clone();
    assert_eq!(error, format!("connection refused by {}", other.address));
    let ran = run(&["check", lb.path().to_str().expect("text")]);
    let note = "note: `health.host` has no effect on the checks of pool default, which are `tcp`";
    assert!(ran.code == Some(0) && ran.out.contains(note), "{ran:?}");
}

#[test]
fn the_page_of_the_memory_is_at_the_host_and_port_of_checks() {
    let server = Refusing::new();
    let elsewhere = Server::scripted(|mut stream, recorder| {
        let Some(request) = Request::read(&mut stream) else { return };
        recorder.add(&request);
        let page = "process_resident_memory_bytes 4096\n";
        let _ = write!(stream.get_mut(), "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{page}", page.len());
    });
    let port = elsewhere.address.port();
    let rules = "method = \"HEAD\"\nhost = \"a.example\"\nheaders = { X-Key = \"5\" }\nmemory = \"/metrics\"\n";
    let table = servers(&[("server1", server.address, 1)]);
    let lb = Lb::start(&format!("[health]\n{ONE_CHECK}port = {port}\n{rules}{table}"));
    eventually("the memory is read", || (lb.server("server1")["memory_bytes"] == 4096).then_some(()));
    let requests = elsewhere.requests();
    let lines: Vec<_> = requests.iter().map(|request| request.line.as_str()).collect();
    assert_eq!(lines, ["HEAD /health HTTP/1.1", "GET /metrics HTTP/1.1"]);
    for request in &requests {
        assert_eq!(
            (request.values("host"), request.values("x-key")),
            (vec!["a.example"], vec!["5"]),
            "{}",
            request.line
        );
    }
}

#[test]
fn reasons_show_values_from_the_environment_as_typed() {
    let server = with_one_page("404 Not Found");
    let directory = tempfile::TempDir::new().expect("a directory");
    let path = directory.path().join("lb.toml");
    let rules = "path = \"/health?key=${KEY}\"\n";
    std::fs::write(&path, format!("{PORTS}[log]\nlevel = \"lb=debug\"\n{}", config(rules, &server))).expect("a file");
    let mut command = command();
    command.env("KEY", "s3cret");
    let lb = Lb::start_as(command, directory, path);
    lb.server_is("server1", "down");
    let check = lb.server("server1")["last_check"].to_string();
    assert!(check.contains("GET /health?key=${KEY}: status 404"), "{check}");
    eventually("a line about the check", || lb.stderr().iter().any(|line| line.contains("checked")).then_some(()));
    assert!(!lb.stderr().join("\n").contains("s3cret"));
}
