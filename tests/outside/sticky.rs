//! Sticky sessions: the same cookie leads to the same server.

use std::collections::BTreeSet;

use crate::support::client::{Client, Response};
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS, command};
use crate::support::servers::{Gate, Server, respond};

const STICKY: &str = "[balance]\nsticky = { cookie = \"lb\" }\n";

/// Sends a request with this cookie, if any.
fn request(lb: &Lb, cookie: Option<&str>) -> Response {
    let cookie = cookie.map_or_else(String::new, |cookie| format!("Cookie: theme=dark; {cookie}; x=y\r\n"));
    let response = Client::connect(lb.address()).request(format!("GET / HTTP/1.1\r\nHost: a\r\n{cookie}\r\n"));
    assert_eq!(response.status, 200, "{response:?}");
    response
}

/// The name and value of the cookie that a response sets.
fn cookie(response: &Response) -> Option<String> {
    Some(response.header("set-cookie")?.split(';').next()?.to_owned())
}

/// The cookie of a client of this server.
fn cookie_of(lb: &Lb, name: &str) -> String {
    eventually(&format!("a client of {name}"), || Some(request(lb, None)).filter(|response| response.text() == name))
        .header("set-cookie")
        .and_then(|cookie| cookie.split(';').next())
        .expect("a cookie")
        .to_owned()
}

#[track_caller]
fn assert_stays(lb: &Lb, cookie: &str, name: &str) {
    for _ in 0..10 {
        let response = request(lb, Some(cookie));
        assert_eq!((response.text().as_str(), response.header("set-cookie")), (name, None));
    }
}

fn three() -> [(&'static str, Server); 3] {
    ["server1", "server2", "server3"].map(|name| (name, Server::named(name)))
}

fn tables(servers: &[(&str, Server)]) -> String {
    servers.iter().map(|(name, server)| server.table(name)).collect()
}

#[test]
fn a_cookie_leads_to_its_server_and_is_set_once() {
    let servers = three();
    let lb = Lb::start(&format!("{NO_CHECKS}{STICKY}{}", tables(&servers)));
    let mut cookies = BTreeSet::new();
    for (name, server) in &servers {
        let cookie = cookie_of(&lb, name);
        assert!(!cookie.contains(name) && !cookie.contains(&server.address.port().to_string()), "{cookie}");
        assert_stays(&lb, &cookie, name);
        cookies.insert(cookie);
    }
    assert_eq!(cookies.len(), 3, "{cookies:?}");
    let attributes = request(&lb, None).header("set-cookie").expect("a cookie").to_owned();
    let (_, attributes) = attributes.split_once("; ").expect("attributes");
    assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Lax", "a session cookie");
    // A cookie without a server gets one; the token may be of another pool, and stays.
    for unknown in ["lb=0123456789abcdef", "lb=rubbish", "lb="] {
        let response = request(&lb, Some(unknown));
        let new = cookie(&response).expect("another cookie");
        assert!(cookies.iter().any(|cookie| new.ends_with(cookie.trim_start_matches("lb="))), "{new}");
        assert_eq!(new.contains("0123456789abcdef"), unknown.contains("0123456789abcdef"), "{new}");
        assert_stays(&lb, &new, &response.text());
    }
}

#[test]
fn a_cookie_survives_edits_restarts_and_replicas() {
    let servers = three();
    let file = format!("{NO_CHECKS}{STICKY}{}", tables(&servers));
    let lb = Lb::start(&file);
    let cookie = cookie_of(&lb, "server2");
    // A new weight, a removed server, another order, a new server.
    let new = Server::named("server4");
    let [first, second, third] = &servers;
    for edit in [
        format!("{}weight = 7\n{}", second.1.table("server2"), first.1.table("server1")),
        format!("{}{}{}", third.1.table("server3"), second.1.table("server2"), new.table("server4")),
        format!("{}weight = 0\n{}", second.1.table("server2"), new.table("server4")),
    ] {
        lb.apply(&format!("{NO_CHECKS}{STICKY}{edit}"));
        assert_stays(&lb, &cookie, "server2");
    }
    drop(lb);
    let replica = Lb::start(&file);
    assert_stays(&replica, &cookie, "server2");
    assert_eq!(cookie_of(&replica, "server2"), cookie);
    // Without sticky sessions it has no effect.
    replica.apply(&format!("{NO_CHECKS}{}", tables(&servers)));
    let names: BTreeSet<String> = (0..9).map(|_| request(&replica, Some(&cookie)).text()).collect();
    assert_eq!(names.len(), 3);
}

#[test]
fn a_client_of_a_server_that_is_down_gets_another_and_its_cookie() {
    let servers = three();
    let lb = Lb::start(&format!("[health]\ninterval = \"50ms\"\nfall = 1\n{STICKY}{}", tables(&servers)));
    let old = cookie_of(&lb, "server1");
    servers[0].1.set_healthy(false);
    lb.server_is("server1", "down");
    let response = request(&lb, Some(&old));
    let (name, new) = (response.text(), cookie(&response).expect("another cookie"));
    assert!(name != "server1" && new != old, "{response:?}");
    assert_stays(&lb, &new, &name);
    // The client stays with its new server once the old one is up.
    servers[0].1.set_healthy(true);
    lb.server_is("server1", "up");
    assert_stays(&lb, &new, &name);
    assert_stays(&lb, &old, "server1");
}

#[test]
fn a_client_of_a_server_that_refuses_gets_another_at_once() {
    let servers = three();
    let lb = Lb::start(&format!("{NO_CHECKS}{STICKY}{}", tables(&servers)));
    let old = cookie_of(&lb, "server1");
    servers[0].1.stop();
    let response = request(&lb, Some(&old));
    assert_ne!(response.text(), "server1");
    assert!(cookie(&response).is_some_and(|new| new != old), "{response:?}");
}

#[test]
fn a_cookie_is_understood_however_the_client_writes_it() {
    let servers = three();
    let lb = Lb::start(&format!("{NO_CHECKS}{STICKY}{}", tables(&servers)));
    let cookie = cookie_of(&lb, "server2");
    let value = cookie.trim_start_matches("lb=");
    // Versions up to 0.1 set only the last part.
    let old = &value[8..];
    for cookies in [
        format!("lb=\"{value}\""),
        format!("lb = {value} "),
        format!("lb={old}"),
        format!("lb=\"{old}\""),
        format!("lb=rubbish; lb={value}"),
        format!("lb={value}; lb=rubbish"),
        format!("lb={}; lb=\"{value}\"", "x".repeat(10_000)),
        format!("lb=0123456789abcdef.{value}"),
    ] {
        assert_stays(&lb, &cookies, "server2");
    }
}

#[test]
fn a_disabled_or_removed_server_loses_its_clients_at_once_but_not_with_weight_0() {
    let gate = Gate::default();
    let servers = [("server1", Server::gated("server1", &gate)), ("server2", Server::named("server2"))];
    let file = |of_first: &str| {
        let first = if of_first == "removed" { String::new() } else { servers[0].1.table("server1") + of_first };
        format!("[timeouts]\ndrain = \"1h\"\n{NO_CHECKS}{STICKY}{first}{}", servers[1].1.table("server2"))
    };
    let lb = Lb::start(&file(""));
    let old = cookie_of(&lb, "server1");
    lb.apply(&file("weight = 0\n"));
    assert_stays(&lb, &old, "server1");
    // An open request keeps it draining, so that it could still serve.
    let mut open = Client::connect(lb.address());
    open.send(format!("GET /slow HTTP/1.1\r\nHost: a\r\nCookie: {old}\r\n\r\n"));
    eventually("the request", || servers[0].1.requests().iter().any(|request| request.path() == "/slow").then_some(()));
    for edit in ["enabled = false\n", "removed"] {
        lb.apply(&file(edit));
        assert_eq!(lb.server("server1")["status"], "draining", "{edit:?}");
        let response = request(&lb, Some(&old));
        let new = cookie(&response).expect("another cookie");
        assert!(response.text() == "server2" && new != old, "{edit:?}: {response:?}");
        assert_stays(&lb, &new, "server2");
        lb.apply(&file(""));
        assert_stays(&lb, &old, "server1");
    }
    lb.apply(&file("enabled = false\n"));
    gate.open();
    assert_eq!(open.response().text(), "server1", "an open request finishes");
    // Nothing leads there any more, so the drain ends with it.
    lb.server_is("server1", "disabled");
}

#[test]
fn nobody_reaches_a_server_once_the_command_that_disables_it_has_returned() {
    let servers = three();
    let lb = Lb::start(&format!("{NO_CHECKS}{STICKY}{}", tables(&servers)));
    let cookie = cookie_of(&lb, "server1");
    let path = lb.path();
    let run = |arguments: &[&str]| {
        let admin = lb.admin.to_string();
        let mut command = command();
        command.args(arguments).arg("--config").arg(&path).args(["--wait", "--admin", &admin]);
        let output = command.output().expect("lb runs");
        assert!(output.status.success(), "{output:?}");
    };
    run(&["server", "disable", "server1"]);
    let before = servers[0].1.requests().len();
    for _ in 0..20 {
        assert_ne!(request(&lb, Some(&cookie)).text(), "server1");
    }
    assert_eq!(servers[0].1.requests().len(), before);
    run(&["server", "enable", "server1"]);
    assert_stays(&lb, &cookie, "server1");
}

#[test]
fn the_servers_own_cookies_are_kept() {
    let server = Server::scripted(|mut stream, recorder| {
        while recorder.next(&mut stream).is_some() {
            respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nSet-Cookie: session=1\r\n\r\n");
        }
    });
    let lb = Lb::in_front_of(&server, STICKY);
    let cookies: Vec<(String, String)> =
        request(&lb, None).headers.into_iter().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie")).collect();
    assert!(cookies.len() == 2 && cookies[0].1 == "session=1" && cookies[1].1.starts_with("lb="), "{cookies:?}");
    let forwarded = server.requests().remove(0);
    assert!(forwarded.values("cookie").is_empty());
    request(&lb, Some("lb=0123456789abcdef"));
    assert_eq!(server.requests()[1].values("cookie"), ["theme=dark; lb=0123456789abcdef; x=y"]);
}
