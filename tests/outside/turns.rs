//! Where turns begin, and that retries take none.

use std::collections::BTreeSet;
use std::io::{BufReader, Read};
use std::net::TcpStream;

use crate::support::client::get;
use crate::support::lb::{Lb, NO_CHECKS, servers};
use crate::support::servers::{Recorder, Refusing, Server, reset};

#[test]
fn replicas_and_new_pools_do_not_begin_with_the_same_server() {
    let up = ["one", "two", "three"].map(Server::named);
    let tables: String = ["one", "two", "three"].iter().zip(&up).map(|(name, server)| server.table(name)).collect();
    // The chance that all of 20 begin at the same place is less than one in a billion.
    let pools: String = (0..12)
        .map(|number| {
            let tables = tables.replace("[[server]]", &format!("[[pool.p{number}.server]]"));
            format!("[[route]]\npath = \"/p{number}\"\npool = \"p{number}\"\n{tables}")
        })
        .collect();
    for algorithm in ["round-robin", "least-connections"] {
        let rules = format!("{NO_CHECKS}[balance]\nalgorithm = \"{algorithm}\"\n");
        let lb = Lb::start(&format!("{rules}{pools}"));
        let of_pools = (0..12).map(|number| get(lb.address(), &format!("/p{number}")).text());
        let of_pools: BTreeSet<String> = of_pools.collect();
        assert!(of_pools.len() > 1, "{algorithm}: {of_pools:?}");
        let replicas = (0..8).map(|_| get(Lb::start(&format!("{rules}{tables}")).address(), "/").text());
        let replicas: BTreeSet<String> = replicas.collect();
        assert!(replicas.len() > 1, "{algorithm}: {replicas:?}");
    }
}

/// Reads a request, and resets the connection.
fn resets(mut stream: BufReader<TcpStream>, recorder: &Recorder) {
    if recorder.next(&mut stream).is_some() {
        reset(stream.get_ref());
    }
}

/// Closes each connection at once.
fn closes(stream: BufReader<TcpStream>, _: &Recorder) {
    drop(stream);
}

/// Ends each connection after its first byte.
fn leaves(mut stream: BufReader<TcpStream>, _: &Recorder) {
    let _ = stream.read_exact(&mut [0]);
    reset(stream.get_ref());
}

#[test]
fn the_servers_beside_a_failing_one_share_its_requests() {
    let refusing = Refusing::new();
    let failing = [Server::scripted(resets), Server::scripted(closes), Server::scripted(leaves)];
    let addresses = failing.iter().map(|server| server.address).chain([refusing.address]);
    for (number, address) in addresses.enumerate() {
        // The weights, and the numbers of 120 requests that each of the two good servers should get.
        for (algorithm, weights, expected) in [
            ("weighted-round-robin", [1, 1, 1], [60, 60]),
            ("weighted-round-robin", [2, 1, 1], [80, 40]),
            ("round-robin", [9, 1, 1], [60, 60]),
        ] {
            let good = ["one", "two"].map(Server::named);
            // The failing one is in the middle.
            let tables = servers(&[
                ("one", good[0].address, weights[0]),
                ("bad", address, weights[1]),
                ("two", good[1].address, weights[2]),
            ]);
            let lb = Lb::start(&format!(
                "{NO_CHECKS}[retry]\nbudget = \"100%\"\n[balance]\nalgorithm = \"{algorithm}\"\n{tables}"
            ));
            for _ in 0..120 {
                let status = get(lb.address(), "/").status;
                assert_eq!(status, 200, "failing server {number}, {algorithm} {weights:?}: {:#?}", lb.stdout());
            }
            let got = good.each_ref().map(|server| server.requests().len());
            let near = got.iter().zip(expected).all(|(got, expected)| got.abs_diff(expected) <= 2);
            assert!(near, "failing server {number}, {algorithm} {weights:?}: {got:?}");
        }
    }
}
