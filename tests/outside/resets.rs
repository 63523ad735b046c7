//! Servers that reset at random, at each stage of a request: nothing is executed twice that may not be, nothing is lost that need not be.

use std::collections::HashMap;
use std::io::BufReader;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::lb::{Lb, NO_CHECKS, servers};
use crate::support::servers::{Note, Request, Server, answer, reset};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// How often each request was executed, by its path.
type Executed = Arc<Mutex<HashMap<String, u32>>>;

/// Chance that can be had again.
#[derive(Debug)]
struct Dice(fastrand::Rng);

impl Dice {
    fn throws(&mut self, percent: u32) -> bool {
        self.0.u32(..100) < percent
    }
}

/// A server of which one in `percent` hundredths of the requests meets a reset, at each of the
/// stages: nothing read; the head read, which counts as executed; half of the answer's head sent;
/// all answered, and the connection closed as the next request may be coming.
fn random(seed: u64, percent: u32, executed: &Executed) -> Server {
    let (executed, connections) = (Arc::clone(executed), AtomicUsize::new(0));
    Server::scripted(move |mut stream: BufReader<TcpStream>, note: &Note| {
        let number = connections.fetch_add(1, SeqCst) as u64;
        let mut dice = Dice(fastrand::Rng::with_seed(seed ^ (number << 8)));
        loop {
            // It waits for the request, and takes nothing of it. Checks always pass: nobody is down for them.
            let mut first = [0; 11];
            let is_check = stream.get_ref().peek(&mut first).is_ok() && &first == b"GET /health";
            if !is_check && dice.throws(percent) {
                return reset(stream.get_ref());
            }
            let Some(mut request) = Request::read_head(&mut stream) else { return };
            if request.path() == "/health" {
                answer(&mut stream, OK);
                continue;
            }
            *executed.lock().expect("counts").entry(request.path().to_owned()).or_default() += 1;
            if dice.throws(percent) {
                return reset(stream.get_ref());
            }
            if request.read_body(&mut stream).is_none() {
                return;
            }
            note.seen(&request);
            if dice.throws(percent) {
                answer(&mut stream, "HTTP/1.1 200 OK\r\nContent-Le");
                return reset(stream.get_ref());
            }
            answer(&mut stream, OK);
            if dice.throws(percent) {
                // Now, or just as the next request may be under way.
                if dice.throws(50) {
                    std::thread::sleep(Duration::from_micros(dice.0.u64(..500)));
                }
                return if dice.throws(50) { reset(stream.get_ref()) } else { drop(stream) };
            }
        }
    })
}

/// Sends `count` requests, each with a path of its own, over `clients` connections; how often each status came.
fn send(lb: &Lb, clients: usize, count: usize, request: impl Fn(usize) -> String + Sync) -> HashMap<(usize, u16), u32> {
    let (address, next, statuses) = (lb.address(), AtomicUsize::new(0), Mutex::new(HashMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                let mut client = Client::connect(address);
                loop {
                    let number = next.fetch_add(1, SeqCst);
                    if number >= count {
                        return;
                    }
                    let answer = client.request(request(number));
                    *statuses.lock().expect("statuses").entry((number, answer.status)).or_default() += 1;
                    if !answer.is_kept() {
                        client = Client::connect(address);
                    }
                }
            });
        }
    });
    statuses.into_inner().expect("statuses")
}

#[test]
fn of_ten_thousand_posts_through_servers_that_reset_at_random_none_is_executed_twice() {
    const COUNT: usize = 10_000;
    let seed = fastrand::u64(..);
    let executed = Executed::default();
    let random: Vec<Server> = (0..3).map(|i| random(seed.wrapping_add(i), 5, &executed)).collect();
    let names: Vec<_> = ["a", "b", "c"].into_iter().zip(&random).map(|(name, one)| (name, one.address, 1)).collect();
    // Checked, so that some are ejected on the way too.
    let lb = Lb::start(&format!("[health]\ninterval = \"100ms\"\n[retry]\nattempts = 5\n{}", servers(&names)));
    let statuses = send(&lb, 16, COUNT, |number| {
        // Every second with a body.
        let body = if number.is_multiple_of(2) { "hello" } else { "" };
        format!("POST /{number} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    });
    let executed = executed.lock().expect("counts");
    let twice: Vec<_> = executed.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "{twice:?}; seed {seed}");
    assert_eq!(statuses.len(), COUNT, "each was answered once");
    let of = |status: u16| statuses.keys().filter(|(_, one)| *one == status).count();
    let (good, bad) = (of(200), of(502));
    assert_eq!(good + bad, COUNT, "nothing else is said; seed {seed}");
    assert!(bad > COUNT / 50 && good > COUNT / 2, "{good} good, {bad} bad: something was to be seen; seed {seed}");
    let missing =
        statuses.keys().find(|(number, status)| *status == 200 && !executed.contains_key(&format!("/{number}")));
    assert_eq!(missing, None, "whose answer came was executed; seed {seed}");
    // The figures say the same.
    for (code, count) in [(200, good), (502, bad)] {
        let series = format!("lb_requests_total{{route=\"default\",method=\"POST\",code=\"{code}\"}}");
        let told = || lb.metric(&series).unwrap_or(0.0);
        eventually("all are counted", || (told() == count as f64).then_some(()));
    }
    assert_eq!(lb.metric("lb_retries_total{pool=\"default\",reason=\"broken\"}"), Some(0.0));
    eventually("nothing is open", || {
        ["a", "b", "c"].iter().all(|name| lb.server(name)["active_requests"] == 0).then_some(())
    });
}

#[test]
fn gets_outlast_servers_that_reset_at_random() {
    const COUNT: usize = 3000;
    let seed = fastrand::u64(..);
    let executed = Executed::default();
    let random = random(seed, 3, &executed);
    let good = Server::named("good");
    let tables = servers(&[("random", random.address, 1), ("good", good.address, 1)]);
    let lb = Lb::start(&format!("{NO_CHECKS}{tables}"));
    let statuses = send(&lb, 16, COUNT, |number| format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n"));
    // Half an answer is not asked for again; whatever else breaks is, and the other server does not break.
    let failed = statuses.keys().filter(|(_, status)| *status != 200).count();
    let halves = executed.lock().expect("counts").len();
    assert!(statuses.keys().all(|(_, status)| [200, 502].contains(status)), "seed {seed}");
    assert!(failed * 100 < halves * 6, "{failed} failed of {halves} at the bad one: 3 in 100 would; seed {seed}");
    let lines = eventually("the log", || Some(lb.stdout()).filter(|lines| lines.len() >= COUNT));
    let again = lines.iter().filter(|line| line.contains("\" 200 ") && !line.contains("tries=1 ")).count();
    assert!(again > 0, "some were tried again");
    assert!(lines.iter().filter(|line| line.contains("\" 502 ")).all(|line| line.contains("error=bad_response")));
}

/// Of three servers one dies, with all that is open there, under the load of many clients: the
/// budget is the file's default.
#[test]
fn one_of_three_that_dies_under_load_costs_no_get() {
    let up = ["a", "b", "c"].map(Server::named);
    let names: Vec<_> = ["a", "b", "c"].into_iter().zip(&up).map(|(name, one)| (name, one.address, 1)).collect();
    let lb = Lb::start(&servers(&names));
    let address = lb.address();
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| {
                let mut client = Client::connect(address);
                while !stop.load(SeqCst) {
                    let answer = client.try_get("/");
                    // Whatever fails is to end the others too.
                    if !answer.as_ref().is_ok_and(|answer| answer.status == 200) {
                        stop.store(true, SeqCst);
                    }
                    assert_eq!(answer.expect("an answer").status, 200);
                    done.fetch_add(1, SeqCst);
                }
            });
        }
        let more = |what| {
            let so_far = done.load(SeqCst);
            eventually(what, || (stop.load(SeqCst) || done.load(SeqCst) > so_far + 2000).then_some(()));
        };
        more("load");
        up[1].stop();
        more("load with two");
        // Long before three checks could have failed.
        eventually("it is out", || (stop.load(SeqCst) || lb.server("b")["status"] == "down").then_some(()));
        more("load without it");
        stop.store(true, SeqCst);
    });
    assert!(lb.server("b")["last_check"]["ok"] == false || lb.server("b")["ejected"].is_object());
    assert!(!lb.stdout().iter().any(|line| line.contains("\" 502 ")));
}
