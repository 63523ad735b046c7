//! Sticky cookies that several pools or several balancers share, and their lifetime.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::client::{Client, Response};
use crate::support::lb::{Lb, NO_CHECKS};
use crate::support::servers::{Server, respond};

const STICKY: &str = "[balance]\nsticky = { cookie = \"lb\" }\n";

/// A client that keeps the cookie, as a browser does.
struct Visitor {
    cookie: Option<String>,
    /// How often the cookie was set.
    set: usize,
}

impl Visitor {
    fn new() -> Self {
        Self { cookie: None, set: 0 }
    }

    /// The text of the response to a GET.
    fn get(&mut self, lb: &Lb, path: &str) -> String {
        let cookie = self.cookie.as_ref().map_or_else(String::new, |cookie| format!("Cookie: {cookie}\r\n"));
        let response = Client::connect(lb.address()).request(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{cookie}\r\n"));
        assert_eq!(response.status, 200, "{response:?}");
        let set = set_cookies(&response);
        assert!(set.len() <= 1, "{response:?}");
        if let Some(cookie) = set.first() {
            self.cookie = cookie.split(';').next().map(str::to_owned);
            self.set += 1;
        }
        response.text()
    }

    /// The number of tokens in the cookie.
    fn tokens(&self) -> usize {
        self.cookie.as_deref().map_or(0, |cookie| cookie.split('.').count())
    }
}

/// The values of the `Set-Cookie` headers for the sticky cookie.
fn set_cookies(response: &Response) -> Vec<&str> {
    let is_cookie =
        |(name, value): &&(String, String)| name.eq_ignore_ascii_case("set-cookie") && value.starts_with("lb=");
    response.headers.iter().filter(is_cookie).map(|(_, value)| value.as_str()).collect()
}

/// A pool with these servers, and the route `/NAME` to it.
fn pool(name: &str, servers: &[(&str, &Server)]) -> String {
    let table =
        |(server, up): &(&str, &Server)| up.table(server).replace("[[server]]", &format!("[[pool.{name}.server]]"));
    let tables: String = servers.iter().map(table).collect();
    format!("[[route]]\npath = \"/{name}\"\npool = \"{name}\"\n{tables}")
}

#[test]
fn a_visitor_stays_with_one_server_in_each_of_several_pools() {
    let up = ["one", "two", "three"].map(Server::named);
    let servers = [("one", &up[0]), ("two", &up[1]), ("three", &up[2])];
    let names: Vec<String> = (0..8).map(|number| format!("pool{number}")).collect();
    let pools: String = names.iter().map(|name| pool(name, &servers)).collect();
    let lb = Lb::start(&format!("{NO_CHECKS}{STICKY}{pools}"));
    let mut visitor = Visitor::new();
    let mut round = || -> Vec<String> { names.iter().map(|name| visitor.get(&lb, &format!("/{name}"))).collect() };
    let first = round();
    for _ in 0..9 {
        assert_eq!(round(), first);
    }
    assert_eq!((visitor.set, visitor.tokens()), (names.len(), names.len()), "{:?}", visitor.cookie);
}

#[test]
fn a_ninth_pool_costs_the_oldest_token_and_a_removed_server_none() {
    let up = ["one", "two"].map(Server::named);
    let stable = pool("stable", &[("one", &up[0]), ("two", &up[1])]);
    let changing =
        |number: usize| pool("changing", &[(&format!("a{number}"), &up[0]), (&format!("b{number}"), &up[1])]);
    let file = |number| {
        format!("{NO_CHECKS}[reload]\nhold_then = \"switch\"\nhold = \"0s\"\n{STICKY}{stable}{}", changing(number))
    };
    let lb = Lb::start(&file(0));
    let mut visitor = Visitor::new();
    let server = visitor.get(&lb, "/stable");
    // The servers are replaced again and again, as in deployments. The other pool's token is older than all of theirs.
    for number in 1..12 {
        visitor.get(&lb, "/changing");
        lb.apply(&file(number));
        assert_eq!(visitor.get(&lb, "/stable"), server, "{number}");
        assert!(visitor.tokens() <= 8, "{:?}", visitor.cookie);
    }
    assert_eq!(visitor.set, 12, "one for each new server");
}

#[test]
fn balancers_in_a_row_keep_each_others_tokens() {
    // All pools and servers have the same names, as they do in files that are copied.
    let apps = ["a", "b", "c", "d"].map(Server::named);
    let file = |first: &str, second: &str, disabled: &str| {
        let tables = [("server1", first), ("server2", second)].map(|(name, address)| {
            format!("[[server]]\nname = \"{name}\"\naddress = \"{address}\"\nenabled = {}\n", name != disabled)
        });
        format!("{NO_CHECKS}{STICKY}{}", tables.concat())
    };
    let of =
        |servers: &[Server], disabled| file(&servers[0].address.to_string(), &servers[1].address.to_string(), disabled);
    let inner = [Lb::start(&of(&apps[..2], "")), Lb::start(&of(&apps[2..], ""))];
    let addresses = inner.each_ref().map(|lb| lb.address().to_string());
    let outer = Lb::start(&file(&addresses[0], &addresses[1], ""));
    for _ in 0..8 {
        let mut visitor = Visitor::new();
        let app = visitor.get(&outer, "/");
        for _ in 0..5 {
            assert_eq!(visitor.get(&outer, "/"), app);
        }
        assert_eq!((visitor.set, visitor.tokens()), (1, 2), "{:?}", visitor.cookie);
        // The inner balancer moves the client: the outer one's choice stays.
        let place = if "ab".contains(&app) { 0 } else { 1 };
        let (mine, name) = (&inner[place], if "ac".contains(&app) { "server1" } else { "server2" });
        mine.apply(&of(&apps[2 * place..], name));
        let moved = visitor.get(&outer, "/");
        assert!(moved != app && "ab".contains(&app) == "ab".contains(&moved), "{app} {moved}");
        mine.apply(&of(&apps[2 * place..], ""));
        for _ in 0..5 {
            assert_eq!(visitor.get(&outer, "/"), moved);
        }
        assert_eq!((visitor.set, visitor.tokens()), (2, 2), "{:?}", visitor.cookie);
        // The outer balancer moves it to another inner one, which then has a choice of its own.
        let name = if place == 0 { "server1" } else { "server2" };
        outer.apply(&file(&addresses[0], &addresses[1], name));
        let elsewhere = visitor.get(&outer, "/");
        assert_ne!("ab".contains(&elsewhere), place == 0, "{app} {elsewhere}");
        for _ in 0..5 {
            assert_eq!(visitor.get(&outer, "/"), elsewhere);
        }
        outer.apply(&file(&addresses[0], &addresses[1], ""));
        for _ in 0..5 {
            assert_eq!(visitor.get(&outer, "/"), elsewhere);
        }
        assert_eq!(visitor.set, 3, "{:?}", visitor.cookie);
    }
}

#[test]
fn a_servers_own_cookie_of_the_name_is_left_alone() {
    let server = Server::scripted(|mut stream, recorder| {
        while recorder.next(&mut stream).is_some() {
            respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nSet-Cookie: lb=mine; Path=/app\r\n\r\n");
        }
    });
    let lb = Lb::in_front_of(&server, STICKY);
    let response = Client::connect(lb.address()).request("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let cookies = set_cookies(&response);
    assert!(cookies.len() == 2 && cookies[0] == "lb=mine; Path=/app", "{cookies:?}");
}

#[test]
fn max_age_counts_from_the_last_use() {
    let up = ["one", "two"].map(Server::named);
    let file = |max_age: &str| {
        let sticky = format!("[balance]\nsticky = {{ cookie = \"lb\", max_age = \"{max_age}\" }}\n");
        format!("{NO_CHECKS}{sticky}{}{}", up[0].table("one"), up[1].table("two"))
    };
    let lb = Lb::start(&file("1h"));
    let ask = |cookie: &str| {
        Client::connect(lb.address()).request(format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n"))
    };
    let first = ask("x=y");
    let cookie = set_cookies(&first)[0].to_owned();
    assert!(cookie.contains("; Max-Age=3600; "), "{cookie}");
    let token = cookie.split(['.', ';']).next().expect("a token");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs();
    // How long ago the cookie was set, in seconds, and whether it is renewed.
    for (age, renewed) in [(Some(0), false), (Some(100), false), (Some(1800), true), (Some(3500), true), (None, true)] {
        let stamp = age.map_or_else(String::new, |age| format!(".t{:x}-e10", now - age));
        let response = ask(&format!("{token}{stamp}"));
        let set = set_cookies(&response);
        assert_eq!(response.text(), first.text(), "{age:?}");
        assert_eq!(set.len(), usize::from(renewed), "{age:?}: {set:?}");
        assert!(set.iter().all(|cookie| cookie.starts_with(token) && cookie.contains("; Max-Age=3600; ")), "{set:?}");
    }
    // Of a few seconds, a sixteenth is less than the clock shows.
    lb.apply(&file("3s"));
    for _ in 0..3 {
        let response = ask(&format!("{token}.t{now:x}-3"));
        assert!(set_cookies(&response)[0].contains("; Max-Age=3; "), "{response:?}");
    }
    // A session cookie needs no renewal.
    lb.apply(&file(""));
    assert_eq!(set_cookies(&ask(token)), [""; 0]);
    assert!(!set_cookies(&ask("x=y"))[0].contains("Max-Age"));
}
