//! `health.kind = "grpc"`: the health service of servers decides.

use super::{H2, HTTP2, Peer, client, file};
use crate::support::eventually;
use crate::support::http2::{Http2Server, Stream};
use crate::support::lb::{Lb, servers};

const CHECKS: &str = "[health]\nkind = \"grpc\"\ninterval = \"50ms\"\nretry = \"50ms\"\nrise = 1\nfall = 1\n";

/// Waits until the last check of a server failed with this reason.
#[track_caller]
fn fails(lb: &Lb, server: &str, reason: &str) {
    eventually(&format!("{reason}; {}", lb.server(server)), || {
        let check = &lb.server(server)["last_check"];
        (check["error"].as_str()?.contains(reason)).then_some(())
    });
}

// Case: grpc-health
#[test]
fn a_server_is_up_while_its_health_service_says_serving() {
    let Some((mut server, address)) = Peer::server(&[]) else { return };
    let lb = Lb::start_file(&file(CHECKS, &[("one", address)]));
    lb.server_is("one", "up");
    client(lb.address(), &["kinds"]);
    assert_eq!(server.tell("NOT_SERVING"), "NOT_SERVING");
    lb.server_is("one", "down");
    fails(&lb, "one", "POST /grpc.health.v1.Health/Check: the service has the status NOT_SERVING, expected SERVING");
    client(lb.address(), &["fails", "14", "No server is available."]);
    server.tell("SERVING");
    lb.server_is("one", "up");
    client(lb.address(), &["kinds"]);
}

// Case: grpc-health
#[test]
fn a_named_service_is_asked_for_and_one_that_is_unknown_fails() {
    let Some((_server, address)) = Peer::server(&[]) else { return };
    let named = |service: &str| file(&format!("{CHECKS}service = \"{service}\"\n"), &[("one", address)]);
    let lb = Lb::start_file(&named("shop.Orders"));
    lb.server_is("one", "up");
    lb.edit_file(&named("shop.Other"));
    fails(&lb, "one", "grpc-status 5 (NOT_FOUND): the server does not know the service `shop.Other`");
    lb.server_is("one", "down");
}

// Case: grpc-health
#[test]
fn a_server_without_the_health_service_is_down_and_told_so() {
    let Some((_server, address)) = Peer::server(&["healthless"]) else { return };
    let lb = Lb::start_file(&file(CHECKS, &[("one", address)]));
    fails(&lb, "one", "grpc-status 12 (UNIMPLEMENTED): the server has no health service");
    eventually("the hint", || lb.stderr().iter().any(|line| line.contains("register the service")).then_some(()));
}

// Case: grpc-health
#[test]
fn a_server_of_http_2_that_does_not_speak_grpc_is_down() {
    let server = Http2Server::start(100, async |mut stream: Stream| stream.ok("ok"));
    let lb = Lb::start_file(&file(CHECKS, &[("one", server.address)]));
    fails(&lb, "one", "the response has no grpc-status, so it is not a gRPC response");
    let request = &server.requests()[0];
    assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/grpc.health.v1.Health/Check"));
    let headers = request.headers();
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "2000000u")] {
        assert_eq!(headers[name], value);
    }
}

#[test]
fn checks_of_kind_grpc_need_http_2_to_servers() {
    let file =
        |upstream: &str| format!("{HTTP2}{CHECKS}{upstream}{}", servers(&[("one", ([127, 0, 0, 1], 1).into(), 1)]));
    for (upstream, error) in [
        ("", "`protocol` is \"http/1.1\""),
        ("[upstream]\nprotocol = \"auto\"\n", "`auto` without TLS is HTTP/1.1"),
        (H2, ""),
        ("[upstream]\nprotocol = \"auto\"\ntls = true\n", ""),
    ] {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("lb.toml");
        std::fs::write(&path, file(upstream)).expect("a file");
        let ran = crate::support::lb::run(&["check", path.to_str().expect("text")]);
        assert_eq!(ran.code, Some(i32::from(!error.is_empty())), "{ran:?}");
        assert!(ran.err.contains(error) || ran.out.contains(error), "{ran:?}");
    }
}
