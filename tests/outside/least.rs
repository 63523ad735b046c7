//! Least-connections: open requests decide, then the weights; failing fast is not being idle.

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier};
use std::thread;

use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS, servers};
use crate::support::servers::{Gate, Server, respond};

const LEAST: &str = "[balance]\nalgorithm = \"least-connections\"\n";

#[test]
fn idle_servers_share_by_weight() {
    let names = ["server1", "server2", "server3"];
    let up = names.map(Server::named);
    let file = |weights: [u32; 3]| {
        let tables: Vec<_> = (0..3).map(|place| (names[place], up[place].address, weights[place])).collect();
        format!("{NO_CHECKS}{LEAST}{}", servers(&tables))
    };
    let lb = Lb::start(&file([2, 3, 6]));
    let counts = |count: usize| {
        let mut counts = BTreeMap::new();
        for _ in 0..count {
            *counts.entry(get(lb.address(), "/").text()).or_insert(0) += 1;
        }
        names.map(|name| counts.get(name).copied().unwrap_or(0))
    };
    assert_eq!(counts(44), [8, 12, 24]);
    // An edit of the weights counts at once.
    lb.apply(&file([1, 1, 2]));
    assert_eq!(counts(40), [10, 10, 20]);
    // One that is busy leaves its turns to the others, by weight.
    lb.apply(&file([1, 1, 0]));
    assert_eq!(counts(10), [5, 5, 0]);
}

#[test]
fn a_few_clients_at_once_are_shared_by_weight_too() {
    // No server responds before all clients' requests have arrived, so that how long a server takes does not count, which
    // depends on what else the machine does.
    let all_there = Arc::new(Barrier::new(4));
    let up = [(); 3].map(|()| {
        let all_there = Arc::clone(&all_there);
        Server::scripted(move |mut stream, recorder| {
            while recorder.next(&mut stream).is_some() {
                all_there.wait();
                respond(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            }
        })
    });
    let tables =
        servers(&[("server1", up[0].address, 1), ("server2", up[1].address, 1), ("server3", up[2].address, 2)]);
    let lb = Lb::start(&format!("{NO_CHECKS}{LEAST}{tables}"));
    let address = lb.address();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(move || {
                let mut client = Client::connect(address);
                (0..100).for_each(|_| assert_eq!(client.get("/").status, 200));
            });
        }
    });
    let got = up.each_ref().map(|server| server.requests().len());
    let near = got.iter().zip([100_usize, 100, 200]).all(|(got, expected)| got.abs_diff(expected) <= 50);
    assert!(near, "{got:?}");
}

#[test]
fn a_busy_server_leaves_its_turns_to_all_others() {
    let gate = Gate::default();
    let busy = Server::gated("busy", &gate);
    let idle = ["one", "two"].map(Server::named);
    let tables = servers(&[("one", idle[0].address, 1), ("busy", busy.address, 1), ("two", idle[1].address, 1)]);
    let lb = Lb::start(&format!("{NO_CHECKS}{LEAST}{tables}"));
    let mut clients = Vec::new();
    // `/slow` waits at one server only.
    eventually("a request at the busy server", || {
        let mut client = Client::connect(lb.address());
        client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
        clients.push(client);
        eventually("the request", || {
            let all = busy.requests().len() + idle.iter().map(|server| server.requests().len()).sum::<usize>();
            (all == clients.len()).then_some(())
        });
        (!busy.requests().is_empty()).then_some(())
    });
    let before = idle.each_ref().map(|server| server.requests().len());
    (0..200).for_each(|_| drop(get(lb.address(), "/")));
    let got = [0, 1].map(|place| idle[place].requests().len() - before[place]);
    // Five standard deviations of the third of the turns that are drawn.
    assert!(got[0].abs_diff(got[1]) <= 42 && got[0] + got[1] == 200, "{got:?}");
    gate.open();
}

#[test]
fn a_server_that_fails_at_once_does_not_look_idle() {
    let failures = [
        "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 503 Oh\r\nContent-Length: 0\r\n\r\n",
        "nonsense\r\n\r\n",
        "",
    ];
    for response in failures {
        let gate = Gate::default();
        let good = ["one", "two"].map(|name| Server::gated(name, &gate));
        let bad = Server::scripted(move |mut stream, recorder| {
            if recorder.next(&mut stream).is_some() {
                respond(&mut stream, response);
            }
        });
        let tables = servers(&[("one", good[0].address, 1), ("bad", bad.address, 1), ("two", good[1].address, 1)]);
        let lb = Lb::start(&format!("{NO_CHECKS}{LEAST}{tables}"));
        let mut clients = Vec::new();
        for sent in 1..=30 {
            let mut client = Client::connect(lb.address());
            // Not retried, so that each is at one server.
            client.send("POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
            clients.push(client);
            eventually("the request", || {
                let all = bad.requests().len() + good.iter().map(|server| server.requests().len()).sum::<usize>();
                (all == sent).then_some(())
            });
            // It counts once `lb` has the response.
            let open = || lb.server("bad")["active_requests"] == 0;
            eventually("the failure", || open().then_some(()));
        }
        let failed = bad.requests().len();
        // A third, and a little more where a failure counts for less than it takes to send the rest.
        assert!(failed <= 15, "{failed} of 30 at the server that responds {response:?}");
        gate.open();
    }
}
