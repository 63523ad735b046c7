//! `lb explain`: which server would get a request, why, and why not the others.

use serde_json::{Value, json};

use crate::support::lb::{Lb, PORTS, Ran, run};
use crate::support::servers::{Refusing, Server};

const ROUTES: &str = "\
[[route]]\nname = \"api\"\nhost = \"api.example.com\"\npath = \"/v1\"\npool = \"api\"\n\
[[route]]\nname = \"wild\"\nhost = \"*.example.com\"\npool = \"web\"\n\
[[pool.web.server]]\nname = \"w\"\naddress = \"127.0.0.1:1\"\nenabled = true\n\
[pool.web.health]\nkind = \"none\"\n";

fn api(server: &Server, name: &str, more: &str) -> String {
    format!("[[pool.api.server]]\nname = \"{name}\"\naddress = \"{}\"\n{more}", server.address)
}

fn explain(lb: &Lb, arguments: &[&str]) -> Ran {
    let (path, admin) = (lb.path(), lb.admin.to_string());
    let mut all = vec!["--config", path.to_str().unwrap(), "explain", "--admin", &admin];
    all.extend(arguments);
    run(&all)
}

#[test]
fn a_request_is_explained_as_it_would_be_served() {
    let (up, down, off, none) = (Server::named("a"), Server::named("b"), Server::named("c"), Server::named("d"));
    down.set_healthy(false);
    let lb = Lb::start_file(&format!(
        "{PORTS}[health]\ninterval = \"50ms\"\n{ROUTES}{}{}{}{}",
        api(&up, "a", ""),
        api(&down, "b", ""),
        api(&off, "c", "enabled = false\n"),
        api(&none, "d", "weight = 0\n"),
    ));
    lb.server_is("b", "down");
    lb.server_is("d", "up");
    let ran = explain(&lb, &["/v1/users", "--host", "API.example.com", "--method", "POST"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    for part in [
        "POST api.example.com/v1/users (from the balancer at ",
        "route api (api.example.com/v1): exact match of host api.example.com; /v1 is the longest matching prefix",
        "also matches but is less specific: wild (*.example.com/), pool web",
        "pool api: weighted-round-robin",
        "up to 2 retries, but not once POST may have reached a server",
        "100.0%",
        "down for ",
        "503",
        "disabled",
        "weight 0: no new clients",
    ] {
        assert!(ran.out.contains(part), "{part} in\n{}", ran.out);
    }
    let explained = explain(&lb, &["/v1", "--host", "api.example.com", "--json"]).json();
    assert_eq!((&explained["route"]["name"], &explained["pool"]["name"]), (&json!("api"), &json!("api")));
    let shares: Vec<&Value> = explained["servers"].as_array().unwrap().iter().map(|server| &server["share"]).collect();
    assert_eq!(shares, [&json!(1.0), &json!(0.0), &json!(0.0), &json!(0.0)]);

    let ran = explain(&lb, &["http://www.example.com/x"]);
    assert_eq!((ran.code, ran.out.contains("host matches *.example.com")), (Some(0), true), "{ran:#?}");
}

#[test]
fn a_request_that_no_server_would_get_exits_with_1() {
    let server = Server::named("a");
    server.set_healthy(false);
    let lb = Lb::start_file(&format!("{PORTS}[health]\ninterval = \"50ms\"\n{ROUTES}{}", api(&server, "a", "")));
    lb.server_is("a", "down");
    let cases = [
        (&["/v1", "--host", "api.example.com"][..], "no server is available: the response is 503"),
        (&["/", "--host", "other.org"], "no route matches other.org/: the response is 404"),
        (&["/../x"], "rejected with 400"),
        (&["/", "--method", "TRACE"], "rejected with 405"),
    ];
    for (arguments, expected) in cases {
        let ran = explain(&lb, arguments);
        assert_eq!((ran.code, ran.out.contains(expected)), (Some(1), true), "{arguments:?}: {ran:#?}");
    }
    let ran = explain(&lb, &["/", "--method", "not one"]);
    assert_eq!(ran.code, Some(2));
}

#[test]
fn without_a_balancer_the_file_alone_is_explained() {
    let (server, refusing) = (Server::named("a"), Refusing::new());
    let lb = Lb::start_file(&format!("{PORTS}{ROUTES}{}", api(&server, "a", "")));
    let (path, refusing) = (lb.path(), refusing.address.to_string());
    let arguments =
        ["explain", "/v1", "--host", "api.example.com", "--admin", &refusing, "--config", path.to_str().unwrap()];
    let ran = run(&arguments);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    for part in ["alone: no balancer at", "every server counts as up", "route api", "100.0%"] {
        assert!(ran.out.contains(part), "{part} in\n{}", ran.out);
    }
    lb.edit_file("wieght = 1\n");
    let ran = run(&arguments);
    assert_eq!((ran.code, ran.out.contains("unknown key `wieght`")), (Some(1), true), "{ran:#?}");
}
