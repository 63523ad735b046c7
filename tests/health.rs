//! Health checks of servers that fail, hang, refuse connections, talk nonsense and recover.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lb::config::{Address, HealthConfig, HealthKind, PoolConfig, ServerConfig, StatusRanges};
use lb::control::health::checker::{Checker, Readmission, StateChange};
use lb::control::health::schedule::jittered;
use lb::control::resolver::Resolver;
use lb::live::health::HealthState;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{sleep, timeout};

mod support;
use support::replies::{always, chunked, heads, page, replying, silent, status};
use support::servers::{Refusing, Server as Fake};
use support::{DEADLINE, Fixture};

const SHORT: Duration = Duration::from_millis(10);

fn checker() -> (Checker, UnboundedReceiver<StateChange>) {
    let (sender, receiver) = unbounded_channel();
    (Checker::new(sender), receiver)
}

async fn next(changes: &mut UnboundedReceiver<StateChange>) -> StateChange {
    timeout(DEADLINE, changes.recv()).await.expect("a change in time").expect("the checker runs")
}

/// Polls on the thread that the checker runs on, as the control plane has only one.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let poll = async {
        while !condition() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(DEADLINE, poll).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

async fn connected(fake: &Fake, times: usize) {
    eventually("enough connections", || fake.connections() >= times).await;
}

/// A check an hour, so that a test sees only the first ones; one result decides.
fn health() -> HealthConfig {
    let interval = Duration::from_secs(3600);
    let default = support::pool("default", Vec::new()).health;
    HealthConfig { interval, timeout: DEADLINE, rise: NonZeroU32::MIN, fall: NonZeroU32::MIN, ..default }
}

fn often() -> HealthConfig {
    HealthConfig { interval: SHORT, ..health() }
}

/// A pool of servers at these addresses, named after the pool and numbered from 1.
fn pool(name: &str, health: HealthConfig, addresses: &[SocketAddr]) -> PoolConfig {
    let server = |(number, address): (usize, &SocketAddr)| ServerConfig {
        address: Address::Ip(*address),
        ..support::server(&format!("{name}-{number}"), 0, 1)
    };
    PoolConfig { health, ..support::pool(name, (1..).zip(addresses).map(server).collect()) }
}

/// Generation 1, with these pools.
fn start(mut pools: Vec<PoolConfig>) -> Fixture {
    pools.sort_by(|one, other| one.name.cmp(&other.name));
    Fixture::new(support::config(pools))
}

/// The next generation, with the same names of pools.
fn edit(fixture: &mut Fixture, pools: Vec<PoolConfig>) -> Arc<lb::live::snapshot::Snapshot> {
    fixture.edit(|config| config.pools = pools.into_iter().map(Arc::new).collect());
    fixture.snapshot()
}

/// A server that speaks first.
async fn ssh() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.expect("a client");
            tokio::spawn(async move { stream.read_to_end(&mut Vec::new()).await });
        }
    });
    address
}

#[tokio::test]
async fn rise_and_fall_are_counted_exactly() {
    let replies = [200, 500, 500, 200, 500, 500, 507, 200, 500, 200, 200];
    let fake = replying(move |nth, _| status(replies.get(nth - 1).copied().unwrap_or(200)));
    let number = |number| NonZeroU32::new(number).expect("not zero");
    let rule = HealthConfig { rise: number(2), fall: number(3), ..often() };
    let fixture = start(vec![pool("default", rule, &[fake.address])]);
    let (mut checker, mut changes) = checker();
    checker.apply(&fixture.snapshot());

    let first = next(&mut changes).await;
    assert_eq!((first.from, first.to, first.error), (HealthState::Unchecked, HealthState::Up, None));
    assert_eq!(first.server.checks(), [1, 0]);

    let down = next(&mut changes).await;
    assert_eq!((down.from, down.to), (HealthState::Up, HealthState::Down));
    assert_eq!(down.error.as_deref(), Some("GET /health: status 507, expected 200-399"), "the third failure in a row");
    assert_eq!(down.server.state(), HealthState::Down, "set before the change is sent");
    assert_eq!(down.server.last_check().expect("a check").error, down.error);
    assert_eq!(down.server.checks(), [2, 5]);

    let up = next(&mut changes).await;
    assert_eq!((up.from, up.to, up.error), (HealthState::Down, HealthState::Up, None));
    assert_eq!(up.server.checks(), [5, 6], "the second pass in a row");
}

#[tokio::test]
async fn the_first_check_decides_at_once_and_says_why() {
    const NOT_HTTP: &str = "GET /health: invalid response; the start line is not valid HTTP/1.1 (line 1 of the head)";
    let refusing = Refusing::new();
    let refused = format!("connection refused by {}", refusing.address);
    let (ok, hanging) = (always(status(204)), silent());
    let (garbage, closing) = (always("SSH-2.0-OpenSSH_9.2\r\n"), always(""));
    let (ssh, hanging_up) = (ssh().await, Fake::scripted(|_, _| ()));
    let failing = always(status(503));
    let impatient = HealthConfig { timeout: Duration::from_millis(50), ..health() };
    let tcp = || HealthConfig { kind: HealthKind::Tcp, ..health() };
    let expecting = |ranges| HealthConfig { expect: StatusRanges(ranges), ..health() };
    let mut unresolved = pool("unresolved", health(), &[ok.address]);
    unresolved.servers[0].address = Address::Name("name.invalid".to_owned(), 80);
    let cases: Vec<(PoolConfig, Option<&str>)> = vec![
        (pool("ok", health(), &[ok.address]), None),
        (pool("refusing", health(), &[refusing.address]), Some(&*refused)),
        (pool("hanging", impatient, &[hanging.address]), Some("GET /health: no response within 50ms")),
        (pool("garbage", health(), &[garbage.address]), Some(NOT_HTTP)),
        (pool("closing", health(), &[closing.address]), Some("GET /health: connection closed before a response")),
        (pool("ssh", health(), &[ssh]), Some(NOT_HTTP)),
        (pool("hanging-up", health(), &[hanging_up.address]), Some("GET /health: connection closed before a response")),
        (pool("failing", health(), &[failing.address]), Some("GET /health: status 503, expected 200-399")),
        (unresolved, Some("host name not resolved")),
        (pool("strict", expecting(vec![200..=200]), &[ok.address]), Some("GET /health: status 204, expected 200")),
        (pool("mixed", expecting(vec![200..=200, 204..=204]), &[ok.address]), None),
        (
            pool("bounds", expecting(vec![400..=502, 504..=599]), &[failing.address]),
            Some("GET /health: status 503, expected 400-502, 504-599"),
        ),
        (pool("wanted", expecting(vec![503..=503]), &[failing.address]), None),
        (pool("tcp-open", tcp(), &[hanging.address]), None),
        (pool("tcp-refusing", tcp(), &[refusing.address]), Some(&*refused)),
    ];
    let (pools, expected): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    let names: Vec<_> = pools.iter().map(|pool| pool.name.clone()).collect();
    let fixture = start(pools);
    let (mut checker, mut changes) = checker();
    checker.apply(&fixture.snapshot());

    // The next check is an hour away.
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
    let fake = always(status(200));
    let rule = HealthConfig { path: "/health?deep=1".to_owned(), ..health() };
    let fixture = start(vec![pool("default", rule, &[fake.address])]);
    let (mut checker, mut changes) = checker();
    checker.apply(&fixture.snapshot());
    next(&mut changes).await;

    let head = heads(&fake).remove(0).to_lowercase();
    let mut lines: Vec<_> = head.lines().collect();
    assert_eq!(lines.remove(0), "get /health?deep=1 http/1.1");
    let host = format!("host: {}", fake.address);
    let agent = format!("user-agent: lb-health/{}", env!("CARGO_PKG_VERSION"));
    for field in [host.as_str(), agent.as_str(), "connection: close"] {
        assert!(lines.contains(&field), "{field} in {lines:?}");
    }
}

#[tokio::test]
async fn an_ejected_server_needs_twice_as_many_passes_each_time() {
    let fake = always(status(200));
    let number = |number| NonZeroU32::new(number).expect("not zero");
    let rule = HealthConfig { rise: number(2), fall: number(3), ..often() };
    let unchecked = HealthConfig { kind: HealthKind::None, memory: Some("/metrics".to_owned()), ..often() };
    let pools = vec![pool("default", rule, &[fake.address]), pool("unchecked", unchecked, &[fake.address])];
    let fixture = start(pools);
    let (mut checker, mut changes) = checker();
    checker.apply(&fixture.snapshot());
    assert_eq!(next(&mut changes).await.to, HealthState::Up);
    let one = fixture.server("default-1");
    for (times, passes) in [(1, 2), (2, 4), (3, 8)] {
        checker.eject(&one, "3 requests in a row failed".to_owned(), false);
        checker.eject(&one, "and one more".to_owned(), false);
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
    checker.eject(&one, "3 requests in a row failed".to_owned(), false);
    checker.readmit(&one, Readmission::NoOther);
    assert_eq!([next(&mut changes).await.to, next(&mut changes).await.to], [HealthState::Down, HealthState::Up]);
    assert_eq!((one.state(), one.ejection()), (HealthState::Up, None), "readmitted at once");

    let unchecked = fixture.server("unchecked-1");
    checker.eject(&unchecked, "3 requests in a row failed".to_owned(), false);
    assert_eq!(
        (unchecked.state(), unchecked.ejections()),
        (HealthState::Up, 0),
        "without health checks it could not be readmitted"
    );
}

#[tokio::test]
async fn one_passed_check_admits_a_new_server() {
    let (old, new) = (always(status(200)), replying(|nth, _| status([500, 500, 200][nth.min(3) - 1])));
    let mut fixture = start(vec![pool("default", often(), &[old.address])]);
    edit(&mut fixture, vec![pool("default", often(), &[old.address, new.address])]);
    assert_eq!(fixture.server("default-2").state(), HealthState::Checking);
    let (mut checker, mut changes) = checker();
    checker.apply(&fixture.snapshot());

    assert_eq!(&*next(&mut changes).await.server.key.name, "default-1");
    let change = next(&mut changes).await;
    assert_eq!((change.from, change.to), (HealthState::Checking, HealthState::Up));
    assert_eq!(change.server.checks(), [1, 2]);
}

#[tokio::test]
async fn a_failed_check_is_repeated_soon_and_a_passed_one_after_the_interval() {
    let server = replying(|nth, _| status(if nth <= 2 { 500 } else { 200 }));
    let rule = HealthConfig { retry: Duration::from_millis(20), rise: NonZeroU32::MIN, ..health() };
    let fixture = start(vec![pool("default", rule, &[server.address])]);
    let (mut checker, mut changes) = checker();
    checker.apply(&fixture.snapshot());
    let change = next(&mut changes).await;
    assert_eq!((change.from, change.to), (HealthState::Unchecked, HealthState::Down));
    let change = next(&mut changes).await;
    assert_eq!((change.from, change.to), (HealthState::Down, HealthState::Up));
    assert_eq!(change.server.checks(), [1, 2]);
}

#[tokio::test]
async fn replicas_that_start_together_do_not_check_in_step() {
    const REPLICAS: usize = 10;
    let times = Arc::new(Mutex::new(Vec::new()));
    let fake = replying({
        let times = Arc::clone(&times);
        move |_, _| {
            times.lock().expect("times").push(Instant::now());
            status(200)
        }
    });
    let interval = Duration::from_secs(1);
    let rule = HealthConfig { interval, ..health() };
    let replicas: Vec<_> = (0..REPLICAS)
        .map(|_| {
            let (mut checker, changes) = checker();
            checker.apply(&start(vec![pool("default", rule.clone(), &[fake.address])]).snapshot());
            (checker, changes)
        })
        .collect();
    connected(&fake, 2 * REPLICAS).await;
    eventually("each has checked twice", || times.lock().expect("times").len() >= 2 * REPLICAS).await;
    drop(replicas);
    let times = times.lock().expect("times");
    // Jitter alone would spread them over a fifth of the interval.
    let spread = times[2 * REPLICAS - 1] - times[REPLICAS];
    assert!(spread > interval / 4, "{spread:?}");
}

#[tokio::test]
async fn a_server_that_takes_over_unchecked_is_judged_by_the_check_that_is_under_way() {
    let (old, new) = (always(status(200)), always(status(500)));
    let mut fixture = start(vec![pool("default", health(), &[old.address])]);
    edit(&mut fixture, vec![pool("default", health(), &[old.address, new.address])]);
    let (mut checker, mut changes) = checker();
    checker.apply(&fixture.snapshot());
    let server = fixture.server("default-2");
    checker.assume_up(&server);
    assert_eq!(server.state(), HealthState::Unchecked);
    let both = [next(&mut changes).await, next(&mut changes).await];
    let change = both.iter().find(|change| change.server.id == server.id).expect("its first check");
    assert_eq!((change.from, change.to), (HealthState::Unchecked, HealthState::Down));
    checker.assume_up(&server);
    assert_eq!(server.state(), HealthState::Down, "it has been checked");
}

#[tokio::test]
async fn a_changed_rule_restarts_only_its_servers() {
    let (steady, changed) = (always(status(200)), always(status(200)));
    let pools = |path: &str, weight| {
        let mut steady = pool("a-steady", health(), &[steady.address]);
        steady.servers[0].weight = weight;
        vec![steady, pool("changed", HealthConfig { path: path.to_owned(), ..health() }, &[changed.address])]
    };
    let mut fixture = start(pools("/one", 1));
    let (mut checker, mut changes) = checker();
    checker.apply(&fixture.snapshot());
    next(&mut changes).await;
    next(&mut changes).await;
    assert_eq!((steady.connections(), changed.connections()), (1, 1));

    checker.apply(&edit(&mut fixture, pools("/two", 7)));
    connected(&changed, 2).await;
    eventually("the second check has ended", || heads(&changed).len() == 2).await;
    assert!(heads(&changed)[1].starts_with("GET /two "), "{:?}", heads(&changed));
    assert_eq!(steady.connections(), 1, "a new weight does not restart its checks");

    checker.apply(&edit(&mut fixture, pools("/three", 1)));
    connected(&changed, 3).await;
    assert_eq!(steady.connections(), 1);
}

#[tokio::test]
async fn a_removed_server_is_checked_until_it_has_drained() {
    let (stays, goes) = (always(status(200)), always(status(200)));
    let mut fixture = start(vec![pool("default", often(), &[stays.address, goes.address])]);
    let (mut checker, mut changes) = checker();
    checker.apply(&fixture.snapshot());
    connected(&goes, 3).await;

    let draining = edit(&mut fixture, vec![pool("default", often(), &[stays.address])]);
    assert_eq!(draining.pools[0].members.len(), 2);
    checker.apply(&draining);
    connected(&goes, goes.connections() + 2).await;

    fixture.expire(Duration::ZERO);
    let left = fixture.snapshot();
    assert_eq!(left.pools[0].members.len(), 1);
    checker.apply(&left);
    // One check may have been under way.
    connected(&stays, stays.connections() + 2).await;
    let seen = goes.connections();
    connected(&stays, stays.connections() + 5).await;
    assert_eq!(goes.connections(), seen);

    checker.stop();
    let ended = async { while changes.recv().await.is_some() {} };
    timeout(DEADLINE, ended).await.expect("every task ends and drops its sender");
}

#[tokio::test]
async fn memory_is_read_without_health_checks_too() {
    let (quiet, reporting, checked) =
        (always(status(200)), always(page("process_resident_memory_bytes 4096\n")), always(status(200)));
    let none = HealthConfig { kind: HealthKind::None, ..often() };
    let memory = HealthConfig { memory: Some("/metrics".to_owned()), ..none.clone() };
    let fixture = start(vec![
        pool("quiet", none, &[quiet.address]),
        pool("reporting", memory, &[reporting.address]),
        pool("checked", often(), &[checked.address]),
    ]);
    let (mut checker, mut changes) = checker();
    checker.apply(&fixture.snapshot());

    let server = fixture.server("reporting-1");
    eventually("memory is read", || server.memory() == Some(4096)).await;
    connected(&checked, 5).await;
    assert_eq!(quiet.connections(), 0);
    assert!(heads(&reporting).iter().all(|head| head.starts_with("GET /metrics ")));
    assert_eq!((server.checks(), server.last_check(), server.state()), ([0, 0], None, HealthState::Up));
    assert_eq!(&*next(&mut changes).await.server.key.pool, "checked", "the only pool with checks");
    assert!(changes.try_recv().is_err());
}

#[tokio::test]
async fn memory_is_reported_until_three_readings_have_failed() {
    const PAGE: &str = "# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes 1.2e+07\n";
    let (plain, huge, broken) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let pages = Arc::new(AtomicUsize::new(0));
    let fake = replying({
        let (plain, huge, broken, pages) =
            (Arc::clone(&plain), Arc::clone(&huge), Arc::clone(&broken), Arc::clone(&pages));
        move |_, path| {
            if path != "/metrics" {
                // Memory counts whether or not the check passes.
                return status(500);
            }
            pages.fetch_add(1, Relaxed);
            match () {
                () if broken.load(Relaxed) => page("process_resident_memory_bytes NaN\n"),
                () if huge.load(Relaxed) => page(&format!("{PAGE}{}", "x".repeat(1024 * 1024))),
                () if plain.load(Relaxed) => page(&PAGE.replace('2', "3")),
                () => chunked(PAGE),
            }
        }
    });
    let rule = HealthConfig { memory: Some("/metrics".to_owned()), ..often() };
    let mut fixture = start(vec![pool("default", rule.clone(), &[fake.address])]);
    let server = fixture.server("default-1");
    let (mut checker, _changes) = checker();
    checker.apply(&fixture.snapshot());

    eventually("memory is read", || server.memory() == Some(12_000_000)).await;
    let head = heads(&fake).into_iter().find(|head| head.starts_with("GET /metrics ")).expect("a request");
    assert!(head.contains("text/plain;version=0.0.4"), "{head}");
    assert_eq!(server.state(), HealthState::Down);

    plain.store(true, Relaxed);
    eventually("memory is read again", || server.memory() == Some(13_000_000)).await;

    let good = pages.load(Relaxed);
    broken.store(true, Relaxed);
    eventually("memory is unknown", || server.memory().is_none()).await;
    assert!(pages.load(Relaxed) >= good + 3, "after three missed readings, not before");

    broken.store(false, Relaxed);
    eventually("memory is read after a failure", || server.memory().is_some()).await;
    huge.store(true, Relaxed);
    eventually("a page over the limit is not read", || server.memory().is_none()).await;

    huge.store(false, Relaxed);
    eventually("memory is read after a long page", || server.memory().is_some()).await;
    let without = vec![pool("default", HealthConfig { memory: None, ..rule }, &[fake.address])];
    checker.apply(&edit(&mut fixture, without));
    assert_eq!(server.memory(), None, "no longer configured");
}

#[tokio::test]
async fn hundreds_of_servers_are_all_checked() {
    let fake = always(status(200));
    let fixture = start(vec![pool("default", health(), &[fake.address; 300])]);
    let (mut checker, mut changes) = checker();
    checker.apply(&fixture.snapshot());
    for _ in 0..300 {
        assert_eq!(next(&mut changes).await.to, HealthState::Up);
    }
    assert_eq!(fake.connections(), 300);
}

#[tokio::test]
async fn a_host_name_is_resolved_and_then_checked() {
    let fake = always(status(200));
    let mut named = pool("default", health(), &[fake.address]);
    named.servers[0].address = Address::Name("localhost".to_owned(), fake.address.port());
    let mut fixture = start(vec![named.clone()]);
    let server = fixture.server("default-1");
    assert_eq!(server.target(), None);
    Resolver::first(&fixture.snapshot(), DEADLINE).await;
    assert_eq!(server.target(), Some(fake.address.into()));

    let mut resolver = Resolver::default();
    resolver.apply(&fixture.snapshot());
    let mut twin = named.servers[0].clone();
    twin.name = "twin".to_owned();
    named.servers.push(twin);
    edit(&mut fixture, vec![named]);
    resolver.apply(&fixture.snapshot());
    let twin = fixture.server("twin");
    eventually("the new server gets the address of its name", || twin.target() == Some(fake.address.into())).await;

    let (mut checker, mut changes) = checker();
    checker.apply(&fixture.snapshot());
    next(&mut changes).await;
    next(&mut changes).await;
    let host = format!("host: localhost:{}", fake.address.port());
    assert!(heads(&fake).iter().all(|head| head.to_lowercase().contains(&host)));
}

#[test]
fn jitter_stays_within_a_tenth() {
    let interval = Duration::from_secs(5);
    for step in 0..=1000 {
        let pause = jittered(interval, f64::from(step) / 1000.0);
        assert!(pause >= Duration::from_millis(4500) && pause <= Duration::from_millis(5500), "{pause:?}");
    }
}
