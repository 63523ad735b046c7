//! Edits under load: nothing that a client asks fails, whatever is done to the file meanwhile.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::support::client::{Answer, Client};
use crate::support::eventually;
use crate::support::lb::{Lb, PORTS};
use crate::support::servers::Server;

const LOAD: Duration = Duration::from_secs(4);
/// Edits in force, and how many of them are a test; a busy machine takes longer for them.
const APPLIED: &str = "lb_reloads_total{result=\"applied\"}";
const ENOUGH: f64 = 25.0;
const PAUSE: Duration = Duration::from_millis(50);

/// What the clients found.
#[derive(Debug, Default)]
struct Tally {
    over: AtomicBool,
    answered: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

impl Tally {
    fn go_on(&self) -> bool {
        !self.over.load(SeqCst)
    }

    /// Takes note of an answer. Whether the connection takes another request.
    fn note(&self, who: &str, answer: io::Result<Answer>) -> bool {
        match answer {
            Ok(answer) if answer.status == 200 && answer.text().starts_with("server") => {
                self.answered.fetch_add(1, SeqCst);
                answer.is_kept()
            }
            other => {
                self.failures.lock().unwrap().push(format!("{who}: {other:?}"));
                false
            }
        }
    }
}

/// Asks again and again on one connection, and on a new one only when it is told to.
fn keep_asking(tally: &Tally, who: &str, connect: impl Fn() -> io::Result<Client>) {
    let mut client = None;
    while tally.go_on() {
        match client.take().map_or_else(&connect, Ok) {
            Ok(mut connected) => {
                let answer = connected.try_get("/");
                client = tally.note(who, answer).then_some(connected);
            }
            Err(error) => drop(tally.note(who, Err(error))),
        }
    }
}

/// Asks once on each of many connections.
fn ask_anew(tally: &Tally, who: &str, connect: impl Fn() -> io::Result<Client>) {
    while tally.go_on() {
        let answer = connect().and_then(|mut client| client.try_get("/"));
        tally.note(who, answer);
    }
}

/// A connection to the listener that moves. One that refuses has moved on: it is looked up anew.
fn connect_to_moving(lb: &Lb) -> io::Result<Client> {
    let begin = Instant::now();
    loop {
        match Client::try_connect(moving(lb)) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && begin.elapsed().as_secs() < 10 => {}
            connected => return connected,
        }
    }
}

fn moving(lb: &Lb) -> SocketAddr {
    let listeners = lb.api("/api/listeners");
    let found = listeners["listeners"].as_array().unwrap().iter().find(|listener| listener["name"] == "moving");
    found.expect("it is always there")["address"].as_str().unwrap().parse().unwrap()
}

/// The file at one step: each of the parts changes at a pace of its own.
fn file(step: usize, servers: &[Server; 4]) -> String {
    // Back where it was now so soon that it is not closed yet, now later.
    let second = [2, 3, 2, 4, 5][step / 3 % 5];
    let mut file = format!("[[listener]]\naddress = \"127.0.0.{second}:0\"\nname = \"moving\"\n{PORTS}");
    file += "[health]\ninterval = \"200ms\"\n";
    for (number, server) in servers.iter().enumerate() {
        // The first is always there, so that there is one to go to.
        let removed = number > 0 && (step + number).is_multiple_of(4);
        let enabled = number == 0 || !(step / 2 + number).is_multiple_of(3);
        if !removed {
            let weight = 1 + (step + number) % 7;
            let address = server.address;
            file += &format!("[[server]]\nname = \"server{number}\"\naddress = \"{address}\"\n");
            file += &format!("weight = {weight}\nenabled = {enabled}\n");
        }
    }
    file
}

#[test]
fn no_request_fails_while_the_file_is_edited_twenty_times_a_second() {
    let servers = ["server0", "server1", "server2", "server3"].map(Server::named);
    let lb = Lb::start_file(&file(0, &servers));
    let main = main_address(&lb);
    let (tally, lb, servers) = (&Tally::default(), &lb, &servers);
    let mut broken = 0;
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(move || keep_asking(tally, "kept", || Client::try_connect(main)));
        }
        for _ in 0..2 {
            scope.spawn(move || keep_asking(tally, "kept, moving", || connect_to_moving(lb)));
        }
        scope.spawn(move || ask_anew(tally, "new", || Client::try_connect(main)));
        scope.spawn(move || ask_anew(tally, "new, moving", || connect_to_moving(lb)));
        let begin = Instant::now();
        for step in 1.. {
            let applied = lb.metric(APPLIED).unwrap_or(0.0);
            if begin.elapsed() > 5 * LOAD || (begin.elapsed() > LOAD && applied >= ENOUGH) {
                break;
            }
            let mut text = file(step, servers);
            match step % 8 {
                3 => text.truncate(text.len() / 2),
                5 => text += "wieght = 1\n",
                _ => {}
            }
            broken += usize::from(matches!(step % 8, 3 | 5));
            match step % 3 {
                0 => fs::write(lb.path(), text).unwrap(),
                _ => lb.edit_file(&text),
            }
            std::thread::sleep(PAUSE);
        }
        tally.over.store(true, SeqCst);
    });

    let failures = tally.failures.lock().unwrap();
    assert!(failures.is_empty(), "{} failures: {:#?}", failures.len(), &failures[..failures.len().min(10)]);
    let answered = tally.answered.load(SeqCst);
    assert!(answered > 500, "{answered} answers are no load");
    let count = |outcome: &str| lb.metric(&format!("lb_reloads_total{{result=\"{outcome}\"}}")).unwrap_or(0.0);
    let (applied, rejected) = (count("applied"), count("rejected"));
    eprintln!("{answered} answers; {applied} edits applied, {rejected} of {broken} bad ones rejected");
    assert!(applied >= ENOUGH && rejected >= 3.0, "{applied} edits applied, {rejected} rejected");

    let last = file(10, servers).replace("enabled = false", "enabled = true");
    lb.edit_file(&last);
    eventually("the last content is in force", || {
        let config = lb.api("/api/config");
        (config["state"] == "current" && config["config"]["pool"][0]["server"][0]["weight"] == 4).then_some(())
    });
}

fn main_address(lb: &Lb) -> SocketAddr {
    let listeners = lb.api("/api/listeners");
    let found = listeners["listeners"].as_array().unwrap().iter().find(|listener| listener["name"] != "moving");
    found.expect("it is always there")["address"].as_str().unwrap().parse().unwrap()
}
