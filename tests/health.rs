//! HealthConfig checks against servers that fail, hang, refuse, talk nonsense and come back.

mod support {
    pub(crate) mod configs;
    pub(crate) mod fake;
}

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use lb::config::{Address, HealthConfig, HealthKind, PoolConfig, StatusRanges};
use lb::control::health::checker::{Checker, StateChange, jittered};
use lb::control::resolver::Resolver;
use lb::live::health::HealthState;
use lb::live::server::Server;
use lb::live::snapshot::Snapshot;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{sleep, timeout};

use support::configs::{Generations, health, pool};
use support::fake::{DEADLINE, Fake, Refusing, Reply};

const SHORT: Duration = Duration::from_millis(10);

fn checker() -> (Checker, UnboundedReceiver<StateChange>) {
    let (sender, receiver) = unbounded_channel();
    (Checker::new(sender), receiver)
}

async fn next(changes: &mut UnboundedReceiver<StateChange>) -> StateChange {
    timeout(DEADLINE, changes.recv()).await.expect("a change in time").expect("the checker runs")
}

/// Polls for what nothing tells of.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let poll = async {
        while !condition() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(DEADLINE, poll).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

fn often() -> HealthConfig {
    HealthConfig { interval: SHORT, ..health() }
}

/// The server with that name.
fn server(snapshot: &Snapshot, name: &str) -> Arc<Server> {
    let mut members = snapshot.pools.iter().flat_map(|pool| &pool.members);
    let member = members.find(|member| &*member.server.key.name == name).expect("a server of that name");
    Arc::clone(&member.server)
}

#[tokio::test]
async fn rise_and_fall_are_counted_exactly() {
    let replies = [200, 500, 500, 200, 500, 500, 507, 200, 500, 200, 200];
    let fake = Fake::start(move |nth, _| Reply::Status(replies.get(nth - 1).copied().unwrap_or(200))).await;
    let number = |number| NonZeroU32::new(number).expect("not zero");
    let rule = HealthConfig { rise: number(2), fall: number(3), ..often() };
    let snapshot = Generations::new().apply(vec![pool("default", rule, &[fake.address])]);
    let (mut checker, mut changes) = checker();
    checker.apply(&snapshot);

    let first = next(&mut changes).await;
    assert_eq!((first.from, first.to, first.error), (HealthState::Unchecked, HealthState::Up, None));
    assert_eq!(first.server.checks(), [1, 0]);

    let down = next(&mut changes).await;
    assert_eq!((down.from, down.to), (HealthState::Up, HealthState::Down));
    assert_eq!(down.error.as_deref(), Some("status 507, expected 200-399"), "the third failure in a row");
    assert_eq!(down.server.state(), HealthState::Down, "before it is told");
    assert_eq!(down.server.last_check().expect("a check").error, down.error);
    assert_eq!(down.server.checks(), [2, 5]);

    let up = next(&mut changes).await;
    assert_eq!((up.from, up.to, up.error), (HealthState::Down, HealthState::Up, None));
    assert_eq!(up.server.checks(), [5, 6], "the second pass in a row");
}

#[tokio::test]
async fn the_first_check_decides_at_once_and_says_why() {
    let refusing = Refusing::new();
    let (ok, hanging) = (Fake::always(Reply::Status(204)).await, Fake::always(Reply::Hang).await);
    let (garbage, closing) = (Fake::always(Reply::Garbage).await, Fake::always(Reply::Close).await);
    let (ssh, silent) = (Fake::blurting("SSH-2.0-OpenSSH_9.2\r\n").await, Fake::blurting("").await);
    let failing = Fake::always(Reply::Status(503)).await;
    let impatient = HealthConfig { timeout: Duration::from_millis(50), ..health() };
    let tcp = || HealthConfig { kind: HealthKind::Tcp, ..health() };
    let expecting = |ranges| HealthConfig { expect: StatusRanges(ranges), ..health() };
    let mut unresolved = pool("unresolved", health(), &[ok.address]);
    unresolved.servers[0].address = Address::Name("name.invalid".to_owned(), 80);
    let cases: Vec<(PoolConfig, Option<&str>)> = vec![
        (pool("ok", health(), &[ok.address]), None),
        (pool("refusing", health(), &[refusing.address]), Some("connection refused")),
        (pool("hanging", impatient, &[hanging.address]), Some("no answer within 50ms")),
        (pool("garbage", health(), &[garbage.address]), Some("the answer is not HTTP/1.1")),
        (pool("closing", health(), &[closing.address]), Some("connection closed before an answer")),
        (pool("ssh", health(), &[ssh.address]), Some("the answer is not HTTP/1.1")),
        (pool("hanging-up", health(), &[silent.address]), Some("connection closed before an answer")),
        (pool("failing", health(), &[failing.address]), Some("status 503, expected 200-399")),
        (unresolved, Some("host name not resolved")),
        (pool("strict", expecting(vec![200..=200]), &[ok.address]), Some("status 204, expected 200")),
        (pool("mixed", expecting(vec![200..=200, 204..=204]), &[ok.address]), None),
        (
            pool("bounds", expecting(vec![400..=502, 504..=599]), &[failing.address]),
            Some("status 503, expected 400-502, 504-599"),
        ),
        (pool("wanted", expecting(vec![503..=503]), &[failing.address]), None),
        (pool("tcp-open", tcp(), &[hanging.address]), None),
        (pool("tcp-refusing", tcp(), &[refusing.address]), Some("connection refused")),
    ];
    let (pools, expected): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    let names: Vec<_> = pools.iter().map(|pool| pool.name.clone()).collect();
    let snapshot = Generations::new().apply(pools);
    let (mut checker, mut changes) = checker();
    checker.apply(&snapshot);

    // With an hour from check to check, only a first one at once can be seen here.
    for _ in 0..names.len() {
        let change = next(&mut changes).await;
        let place = names.iter().position(|name| **name == *change.server.key.pool).expect("a pool of that name");
        assert_eq!(change.from, HealthState::Unchecked, "{}", names[place]);
        assert_eq!(
            change.to,
            if expected[place].is_none() { HealthState::Up } else { HealthState::Down },
            "{}",
            names[place]
        );
        assert_eq!(change.error.as_deref(), expected[place], "{}", names[place]);
    }
}

#[tokio::test]
async fn a_check_is_one_plain_request() {
    let fake = Fake::always(Reply::Status(200)).await;
    let rule = HealthConfig { path: "/health?deep=1".to_owned(), ..health() };
    let snapshot = Generations::new().apply(vec![pool("default", rule, &[fake.address])]);
    let (mut checker, mut changes) = checker();
    checker.apply(&snapshot);
    next(&mut changes).await;

    let head = fake.heads().remove(0).to_lowercase();
    let mut lines: Vec<_> = head.lines().collect();
    assert_eq!(lines.remove(0), "get /health?deep=1 http/1.1");
    let host = format!("host: {}", fake.address);
    let agent = format!("user-agent: lb-health/{}", env!("CARGO_PKG_VERSION"));
    for field in [host.as_str(), agent.as_str(), "connection: close"] {
        assert!(lines.contains(&field), "{field} in {lines:?}");
    }
}

#[tokio::test]
async fn who_was_ejected_comes_back_by_its_next_checks_and_later_each_time() {
    let fake = Fake::always(Reply::Status(200)).await;
    let number = |number| NonZeroU32::new(number).expect("not zero");
    let rule = HealthConfig { rise: number(2), fall: number(3), ..often() };
    let unchecked = HealthConfig { kind: HealthKind::None, memory: Some("/metrics".to_owned()), ..often() };
    let pools = vec![pool("default", rule, &[fake.address]), pool("unchecked", unchecked, &[fake.address])];
    let snapshot = Generations::new().apply(pools);
    let (mut checker, mut changes) = checker();
    checker.apply(&snapshot);
    assert_eq!(next(&mut changes).await.to, HealthState::Up);
    let one = server(&snapshot, "default-1");
    for (times, passes) in [(1, 2), (2, 4), (3, 8)] {
        checker.eject(&one, "3 requests in a row failed".to_owned());
        checker.eject(&one, "and one more".to_owned());
        let out = next(&mut changes).await;
        assert_eq!(
            (out.from, out.to, out.error.as_deref()),
            (HealthState::Up, HealthState::Down, Some("3 requests in a row failed"))
        );
        assert_eq!((out.error, one.ejections()), (one.ejection().map(|ejection| ejection.error.clone()), times));
        let [before, _] = one.checks();
        let back = next(&mut changes).await;
        assert_eq!((back.from, back.to, back.error), (HealthState::Down, HealthState::Up, None));
        assert_eq!((one.checks()[0] - before, one.ejection()), (passes, None), "the {times}th time");
    }
    checker.eject(&one, "3 requests in a row failed".to_owned());
    checker.readmit(&one);
    assert_eq!([next(&mut changes).await.to, next(&mut changes).await.to], [HealthState::Down, HealthState::Up]);
    assert_eq!((one.state(), one.ejection()), (HealthState::Up, None), "at once");

    let unchecked = server(&snapshot, "unchecked-1");
    checker.eject(&unchecked, "3 requests in a row failed".to_owned());
    assert_eq!((unchecked.state(), unchecked.ejections()), (HealthState::Up, 0), "nobody would let it come back");
}

#[tokio::test]
async fn a_new_server_takes_its_first_pass() {
    let (old, new) = (
        Fake::always(Reply::Status(200)).await,
        Fake::start(|nth, _| Reply::Status([500, 500, 200][nth.min(3) - 1])).await,
    );
    let mut generations = Generations::new();
    generations.apply(vec![pool("default", often(), &[old.address])]);
    let snapshot = generations.apply(vec![pool("default", often(), &[old.address, new.address])]);
    assert_eq!(server(&snapshot, "default-2").state(), HealthState::Checking);
    let (mut checker, mut changes) = checker();
    checker.apply(&snapshot);

    assert_eq!(&*next(&mut changes).await.server.key.name, "default-1");
    let change = next(&mut changes).await;
    assert_eq!((change.from, change.to), (HealthState::Checking, HealthState::Up));
    assert_eq!(change.server.checks(), [1, 2]);
}

#[tokio::test]
async fn a_new_server_does_not_wait_for_a_long_interval() {
    let new = Fake::start(|nth, _| Reply::Status(if nth == 1 { 500 } else { 200 })).await;
    let mut generations = Generations::new();
    generations.apply(vec![pool("default", health(), &[])]);
    let snapshot = generations.apply(vec![pool("default", health(), &[new.address])]);
    let (mut checker, mut changes) = checker();
    checker.apply(&snapshot);
    let change = next(&mut changes).await;
    assert_eq!((change.from, change.to), (HealthState::Checking, HealthState::Up));
}

#[tokio::test]
async fn a_changed_rule_restarts_only_its_servers() {
    let (steady, changed) = (Fake::always(Reply::Status(200)).await, Fake::always(Reply::Status(200)).await);
    let pools = |path: &str, weight| {
        let mut steady = pool("a-steady", health(), &[steady.address]);
        steady.servers[0].weight = weight;
        vec![steady, pool("changed", HealthConfig { path: path.to_owned(), ..health() }, &[changed.address])]
    };
    let mut generations = Generations::new();
    let (mut checker, mut changes) = checker();
    checker.apply(&generations.apply(pools("/one", 1)));
    next(&mut changes).await;
    next(&mut changes).await;
    assert_eq!((steady.connections(), changed.connections()), (1, 1));

    checker.apply(&generations.apply(pools("/two", 7)));
    changed.connected(2).await;
    eventually("the second check has ended", || changed.heads().len() == 2).await;
    assert!(changed.heads()[1].starts_with("GET /two "), "{:?}", changed.heads());
    assert_eq!(steady.connections(), 1, "it keeps its pace, whatever its weight");

    checker.apply(&generations.apply(pools("/three", 1)));
    changed.connected(3).await;
    assert_eq!(steady.connections(), 1);
}

#[tokio::test]
async fn a_server_that_is_gone_is_checked_no_more() {
    let (stays, goes) = (Fake::always(Reply::Status(200)).await, Fake::always(Reply::Status(200)).await);
    let mut generations = Generations::new();
    let (mut checker, mut changes) = checker();
    checker.apply(&generations.apply(vec![pool("default", often(), &[stays.address, goes.address])]));
    goes.connected(3).await;

    let draining = generations.apply(vec![pool("default", often(), &[stays.address])]);
    assert_eq!(draining.pools[0].members.len(), 2);
    checker.apply(&draining);
    goes.connected(goes.connections() + 2).await;

    let left = generations.expire(draining);
    assert_eq!(left.pools[0].members.len(), 1);
    checker.apply(&left);
    // A connection may have been on its way.
    stays.connected(stays.connections() + 2).await;
    let seen = goes.connections();
    stays.connected(stays.connections() + 5).await;
    assert_eq!(goes.connections(), seen);

    checker.stop();
    let ended = async { while changes.recv().await.is_some() {} };
    timeout(DEADLINE, ended).await.expect("every task ends and lets go of the channel");
}

#[tokio::test]
async fn no_kind_means_no_check_and_memory_is_read_all_the_same() {
    let (quiet, telling, pace) = (
        Fake::always(Reply::Status(200)).await,
        Fake::always(Reply::Page("process_resident_memory_bytes 4096\n".to_owned())).await,
        Fake::always(Reply::Status(200)).await,
    );
    let none = HealthConfig { kind: HealthKind::None, ..often() };
    let memory = HealthConfig { memory: Some("/metrics".to_owned()), ..none.clone() };
    let snapshot = Generations::new().apply(vec![
        pool("quiet", none, &[quiet.address]),
        pool("telling", memory, &[telling.address]),
        pool("pace", often(), &[pace.address]),
    ]);
    let (mut checker, mut changes) = checker();
    checker.apply(&snapshot);

    let server = server(&snapshot, "telling-1");
    eventually("memory is known", || server.memory() == Some(4096)).await;
    pace.connected(5).await;
    assert_eq!(quiet.connections(), 0);
    assert!(telling.heads().iter().all(|head| head.starts_with("GET /metrics ")));
    assert_eq!((server.checks(), server.last_check(), server.state()), ([0, 0], None, HealthState::Up));
    assert_eq!(&*next(&mut changes).await.server.key.pool, "pace", "the only one that is checked");
    assert!(changes.try_recv().is_err());
}

#[tokio::test]
async fn memory_is_told_while_it_is_fresh() {
    const PAGE: &str = "# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes 1.2e+07\n";
    let (plain, huge, broken) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let pages = Arc::new(AtomicUsize::new(0));
    let fake = Fake::start({
        let (plain, huge, broken, pages) =
            (Arc::clone(&plain), Arc::clone(&huge), Arc::clone(&broken), Arc::clone(&pages));
        move |_, path| {
            if path != "/metrics" {
                // What it says of its memory holds whether or not its check passes.
                return Reply::Status(500);
            }
            pages.fetch_add(1, Relaxed);
            match () {
                () if broken.load(Relaxed) => Reply::Page("process_resident_memory_bytes NaN\n".to_owned()),
                () if huge.load(Relaxed) => Reply::Page(format!("{PAGE}{}", "x".repeat(1024 * 1024))),
                () if plain.load(Relaxed) => Reply::Page(PAGE.replace('2', "3")),
                () => Reply::Chunks(PAGE.to_owned()),
            }
        }
    })
    .await;
    let rule = HealthConfig { memory: Some("/metrics".to_owned()), ..often() };
    let mut generations = Generations::new();
    let snapshot = generations.apply(vec![pool("default", rule.clone(), &[fake.address])]);
    let server = server(&snapshot, "default-1");
    let (mut checker, _changes) = checker();
    checker.apply(&snapshot);

    eventually("memory is known", || server.memory() == Some(12_000_000)).await;
    let head = fake.heads().into_iter().find(|head| head.starts_with("GET /metrics ")).expect("a request");
    assert!(head.contains("text/plain;version=0.0.4"), "{head}");
    assert_eq!(server.state(), HealthState::Down);

    plain.store(true, Relaxed);
    eventually("memory is read again", || server.memory() == Some(13_000_000)).await;

    let good = pages.load(Relaxed);
    broken.store(true, Relaxed);
    eventually("memory is unknown", || server.memory().is_none()).await;
    assert!(pages.load(Relaxed) >= good + 3, "after three missed readings, not before");

    broken.store(false, Relaxed);
    eventually("memory is known again", || server.memory().is_some()).await;
    huge.store(true, Relaxed);
    eventually("a page that is too long is not read", || server.memory().is_none()).await;

    huge.store(false, Relaxed);
    eventually("memory is known once more", || server.memory().is_some()).await;
    checker.apply(&generations.apply(vec![pool("default", HealthConfig { memory: None, ..rule }, &[fake.address])]));
    assert_eq!(server.memory(), None, "nobody asks for it any more");
}

#[tokio::test]
async fn hundreds_of_servers_are_all_checked() {
    let fake = Fake::always(Reply::Status(200)).await;
    let snapshot = Generations::new().apply(vec![pool("default", health(), &[fake.address; 300])]);
    let (mut checker, mut changes) = checker();
    checker.apply(&snapshot);
    for _ in 0..300 {
        assert_eq!(next(&mut changes).await.to, HealthState::Up);
    }
    assert_eq!(fake.connections(), 300);
}

#[tokio::test]
async fn a_host_name_is_resolved_and_then_checked() {
    let fake = Fake::always(Reply::Status(200)).await;
    let mut named = pool("default", health(), &[fake.address]);
    named.servers[0].address = Address::Name("localhost".to_owned(), fake.address.port());
    let mut generations = Generations::new();
    let snapshot = generations.apply(vec![named.clone()]);
    let server = server(&snapshot, "default-1");
    assert_eq!(server.target(), None);
    Resolver::first(&snapshot, DEADLINE).await;
    assert_eq!(server.target(), Some(fake.address));

    let mut resolver = Resolver::default();
    resolver.apply(&snapshot);
    let mut twin = named.servers[0].clone();
    twin.name = "twin".to_owned();
    named.servers.push(twin);
    let snapshot = generations.apply(vec![named]);
    resolver.apply(&snapshot);
    let twin = self::server(&snapshot, "twin");
    eventually("the new server has the name's address", || twin.target() == Some(fake.address)).await;

    let (mut checker, mut changes) = checker();
    checker.apply(&snapshot);
    next(&mut changes).await;
    next(&mut changes).await;
    let host = format!("host: localhost:{}", fake.address.port());
    assert!(fake.heads().iter().all(|head| head.to_lowercase().contains(&host)));
}

#[test]
fn jitter_stays_within_a_tenth() {
    let interval = Duration::from_secs(5);
    for step in 0..=1000 {
        let pause = jittered(interval, f64::from(step) / 1000.0);
        assert!(pause >= Duration::from_millis(4500) && pause <= Duration::from_millis(5500), "{pause:?}");
    }
}
