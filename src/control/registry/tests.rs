//! Sequences of edits, and the servers after each.

mod holds;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Config, Instant, Pool, Registry, Server, Snapshot, held_servers};
use crate::config::file::parse;
use crate::config::source::SourceFile;
use crate::live::health::HealthState;
use crate::live::pool::{Member, Membership};
use crate::live::server::ServerId;

const DRAIN: Duration = Duration::from_secs(30);
const HOLD: Duration = Duration::from_secs(10);

/// A registry to which edits are applied.
struct EditedRegistry {
    registry: Registry,
    config: Arc<Config>,
    /// Of the newest snapshot.
    pools: Vec<Arc<Pool>>,
    snapshot: Option<Snapshot>,
    now: Instant,
}

/// The servers of the pools, as in `p: a=1 b=2:0 c=3:off`: name, port, and weight or `off`. Each pool has a route, unless
/// there are routes as in `/path > p`. `switch` and `keep` are values of `reload.hold_then`.
fn config(parts: &str) -> Config {
    let mut text = "[[listener]]\naddress = \"127.0.0.1:1\"\n[reload]\nallow_empty = true\n".to_owned();
    let parts: Vec<&str> = parts.split(" | ").filter(|part| !part.is_empty()).collect();
    for rule in parts.iter().filter(|part| ["switch", "keep"].contains(part)) {
        text += &format!("hold_then = \"{rule}\"\n");
    }
    for rule in parts.iter().filter_map(|part| part.strip_prefix("drain ")) {
        text += &format!("[timeouts]\ndrain = \"{rule}\"\n");
    }
    let routes: Vec<_> = parts.iter().filter_map(|part| part.split_once(" > ")).collect();
    let pools: Vec<_> = parts
        .iter()
        .filter_map(|part| part.split_once(": ").or(part.strip_suffix(':').map(|name| (name, ""))))
        .collect();
    for (name, servers) in &pools {
        for server in servers.split_whitespace() {
            let (server, address) = server.split_once('=').expect(servers);
            let (port, rest) = address.split_once(':').unwrap_or((address, "1"));
            let rest = if rest == "off" { "enabled = false".to_owned() } else { format!("weight = {rest}") };
            let address = if port == "dns" { "a.invalid:1".to_owned() } else { format!("127.0.0.1:{port}") };
            text += &format!("[[pool.{name}.server]]\nname = \"{server}\"\naddress = \"{address}\"\n{rest}\n");
        }
        if *name == "sticky" {
            text += "[pool.sticky.balance]\nsticky = { cookie = \"lb\", max_age = \"1h\" }\n";
        }
        if *name == "unchecked" {
            text += "[pool.unchecked.health]\nkind = \"none\"\n";
        }
        if routes.is_empty() {
            text += &format!("[[route]]\npath = \"/{name}\"\npool = \"{name}\"\n");
        }
    }
    for (path, pool) in routes {
        text += &format!("[[route]]\npath = \"{path}\"\npool = \"{pool}\"\n");
    }
    parse(&[SourceFile::new("lb.toml", text.as_str())], &|_| None).expect(&text)
}

impl EditedRegistry {
    fn new(pools: &str) -> Self {
        let config = Arc::new(config(pools));
        let mut edited =
            Self { registry: Registry::new(1), config, pools: Vec::new(), snapshot: None, now: Instant::now() };
        edited.apply();
        edited
    }

    fn edit(&mut self, pools: &str) -> &mut Self {
        self.config = Arc::new(config(pools));
        self.apply();
        self
    }

    fn apply(&mut self) {
        let plan = self.registry.plan(&self.config, self.now, |_| None);
        let snapshot = plan.snapshot(1, "".into(), [].into(), SystemTime::now());
        self.registry.commit(plan);
        self.pools = snapshot.pools.clone();
        let refreshed = self.registry.refresh(&snapshot);
        let same = |(one, other): (&Arc<Pool>, &Arc<Pool>)| Arc::ptr_eq(one, other);
        assert!(refreshed.pools.iter().zip(&self.pools).all(same), "the plan's pools are in use");
        let serving = |snapshot: &Snapshot| snapshot.routes.iter().map(|route| route.serving).collect::<Vec<_>>();
        assert_eq!(serving(&refreshed), serving(&snapshot));
        self.snapshot = Some(snapshot);
    }

    fn publish(&mut self) -> &mut Self {
        let snapshot = self.registry.refresh(self.snapshot.as_ref().expect("a snapshot"));
        self.pools = snapshot.pools.clone();
        // Every route leads to a pool of this snapshot.
        assert!(snapshot.routes.iter().all(|route| route.serving < snapshot.pools.len() + snapshot.held.len()));
        self.snapshot = Some(snapshot);
        self
    }

    /// Sets the health of servers, as in `a up` or `b down`.
    fn health(&mut self, changes: &str) -> &mut Self {
        for change in changes.split(", ").filter(|change| !change.is_empty()) {
            let (server, state) = change.split_once(' ').expect(changes);
            let state = if state == "up" { HealthState::Up } else { HealthState::Down };
            self.server(server).set_state(state);
        }
        self.publish()
    }

    /// Whether a route waits for the pool, and old servers are held for it.
    fn holds(&self, pool: &str) -> bool {
        let snapshot = self.snapshot.as_ref().expect("a snapshot");
        snapshot.routes.iter().any(|route| route.hold.is_some() && *snapshot.pools[route.pool].live.name == *pool)
    }

    /// Each route with the servers that take its requests.
    fn routes(&self) -> String {
        let snapshot = self.snapshot.as_ref().expect("a snapshot");
        let route = |(config, route): (&crate::config::RouteConfig, &crate::live::snapshot::Route)| {
            let servers: Vec<String> =
                snapshot.serving(route.serving).eligible().map(|member| member.server.key.to_string()).collect();
            format!("{} {}{}", config.path, servers.join(","), if route.hold.is_some() { " held" } else { "" })
        };
        snapshot.config.routes.iter().zip(snapshot.routes.iter()).map(route).collect::<Vec<_>>().join(" | ")
    }

    /// Lets time pass. Returns the servers whose drain has ended, with `!` where requests were open.
    fn after(&mut self, time: Duration) -> String {
        self.now += time;
        let expired = self.registry.expire(&self.config, self.now);
        self.publish();
        let name =
            |(server, open): &(Arc<Server>, bool)| format!("{}{}", server.key.name, if *open { "!" } else { "" });
        expired.servers.iter().map(name).collect::<Vec<_>>().join(" ")
    }

    /// Only enabled and held servers keep idle connections.
    #[track_caller]
    fn assert_leaving(&self, name: &str) {
        let held = held_servers(&self.registry.holds);
        for member in self.pools.iter().flat_map(|pool| &pool.members) {
            let stays = member.membership == Membership::Enabled || held.contains(&member.server.id);
            assert_eq!(member.server.is_leaving(), !stays, "{name}: {}", member.server.key);
        }
    }

    fn server(&self, name: &str) -> Arc<Server> {
        let mut members = self.pools.iter().flat_map(|pool| &pool.members);
        Arc::clone(&members.find(|member| *member.server.key.name == *name).expect(name).server)
    }

    fn pool(&self, name: &str) -> Arc<Pool> {
        Arc::clone(self.pools.iter().find(|pool| *pool.live.name == *name).expect(name))
    }

    /// Every pool's members: name, port and status, with `*` if it takes new requests.
    fn show(&self) -> String {
        let member = |pool: &Pool, member: &Member| {
            let held = self.snapshot.iter().flat_map(|snapshot| &snapshot.held);
            let mut eligible = pool.eligible().chain(held.flat_map(|held| held.eligible()));
            let takes = eligible.any(|other| Arc::ptr_eq(&other.server, &member.server));
            let address = member.server.key.address.to_string();
            let port = address.rsplit(':').next().unwrap_or_default();
            format!(" {}={port} {}{}", member.server.key.name, member.status(), if takes { "*" } else { "" })
        };
        let pool = |pool: &Arc<Pool>| {
            let members: Vec<String> = pool.members.iter().map(|one| member(pool, one)).collect();
            format!("{}:{}", pool.live.name, members.join(","))
        };
        self.pools.iter().filter(|pool| !pool.members.is_empty()).map(pool).collect::<Vec<_>>().join(" | ")
    }
}

#[test]
fn servers_have_the_expected_status_after_edits() {
    let cases = [
        ("weights", "p: a=1 b=2", &["p: a=1:5 b=2:0"][..], "p: a=1 up*, b=2 up"),
        ("added", "p: a=1", &["p: a=1 b=2"], "p: a=1 up*, b=2 checking"),
        ("added where nothing is checked", "unchecked: a=1", &["unchecked: a=1 b=2"], "unchecked: a=1 up*, b=2 up*"),
        ("added, disabled", "p: a=1", &["p: a=1 b=2:off"], "p: a=1 up*, b=2 disabled"),
        ("removed", "p: a=1 b=2", &["p: b=2"], "p: b=2 up*, a=1 draining"),
        ("disabled", "p: a=1 b=2", &["p: a=1:off b=2"], "p: a=1 draining, b=2 up*"),
        ("disabled, removed", "p: a=1 b=2", &["p: a=1:off b=2", "p: b=2"], "p: b=2 up*, a=1 draining"),
        ("disabled at the start, removed", "p: a=1:off b=2", &["p: b=2"], "p: b=2 up*"),
        ("disabled, enabled", "p: a=1 b=2", &["p: a=1:off b=2", "p: a=1 b=2"], "p: a=1 up*, b=2 up*"),
        ("removed, back", "p: a=1 b=2", &["p: b=2", "p: a=1 b=2"], "p: a=1 up*, b=2 up*"),
        ("removed, back disabled", "p: a=1 b=2", &["p: b=2", "p: a=1:off b=2"], "p: a=1 draining, b=2 up*"),
        ("removed twice", "p: a=1 b=2", &["p: b=2", "p: a=1 b=2", "p: b=2"], "p: b=2 up*, a=1 draining"),
        ("moved", "p: a=1 b=2", &["p: a=9 b=2"], "p: a=9 checking, b=2 up*, a=1 draining"),
        ("moved and back", "p: a=1 b=2", &["p: a=9 b=2", "p: a=1 b=2"], "p: a=1 up*, b=2 up*, a=9 draining"),
        ("all new, held", "p: a=1", &["p: b=2"], "p: b=2 checking, a=1 draining*"),
        (
            "all new but down, held",
            "p: a=1 d=2:off",
            &["p: b=3 d=2:off"],
            "p: b=3 checking, d=2 disabled, a=1 draining*",
        ),
        ("held, replaced again", "p: a=1", &["p: b=2", "p: c=3"], "p: c=3 checking, a=1 draining*, b=2 draining"),
        (
            "all but new ones at weight 0, held",
            "p: a=1 b=2",
            &["p: a=1:0 c=3"],
            "p: a=1 up*, c=3 checking, b=2 draining*",
        ),
        ("weight 0 before the hold", "p: a=1:0 b=2", &["p: a=1:0 c=3"], "p: a=1 up, c=3 checking, b=2 draining*"),
        ("weight 0, held, removed", "p: a=1", &["p: a=1:0 c=3", "p: c=3"], "p: c=3 checking, a=1 draining*"),
        ("weight 0, held, undone", "p: a=1", &["p: a=1:0 c=3", "p: a=1:2 c=3"], "p: a=1 up*, c=3 checking"),
        ("weight 0 while another serves", "p: a=1 b=2", &["p: a=1:0 b=2 c=3"], "p: a=1 up, b=2 up*, c=3 checking"),
        ("held, undone", "p: a=1", &["p: b=2", "p: a=1"], "p: a=1 up*, b=2 draining"),
        ("all disabled", "p: a=1", &["p: a=1:off"], "p: a=1 draining"),
        ("pool gone", "p: a=1 | q: c=3", &["q: c=3"], "q: c=3 up* | p: a=1 draining"),
        ("pool gone, back", "p: a=1 | q: c=3", &["q: c=3", "p: a=1 | q: c=3"], "p: a=1 up* | q: c=3 up*"),
        (
            "held, pool gone",
            "p: a=1 | q: c=3",
            &["p: b=2 | q: c=3", "q: c=3"],
            "q: c=3 up* | p: a=1 draining, b=2 draining",
        ),
        (
            "same name in another pool",
            "p: a=1 | q: c=3",
            &["p: a=1 | q: a=1 c=3"],
            "p: a=1 up* | q: a=1 checking, c=3 up*",
        ),
    ];
    for (name, before, edits, after) in cases {
        let mut edited = EditedRegistry::new(before);
        for edit in edits {
            edited.edit(edit);
        }
        assert_eq!(edited.show(), after, "{name}");
        edited.assert_leaving(name);
    }
}

#[test]
fn a_server_that_stays_or_comes_back_is_the_same_server() {
    let mut edited = EditedRegistry::new("p: a=1 b=2 | q: c=3");
    let (a, b, q) = (edited.server("a"), edited.server("b"), edited.pool("q"));
    a.set_state(HealthState::Up);
    for edit in ["p: a=1:7 b=2", "p: a=1:off b=2", "p: b=2", "p: b=2 a=1"] {
        edited.edit(&format!("{edit} | q: c=3"));
        assert!(Arc::ptr_eq(&edited.server("a"), &a) && Arc::ptr_eq(&edited.server("b"), &b), "{edit}");
        assert!(Arc::ptr_eq(&edited.pool("q"), &q), "{edit}: an untouched pool");
    }
    let p = edited.pool("p");
    b.set_state(HealthState::Down);
    edited.publish();
    assert!(!Arc::ptr_eq(&edited.pool("p"), &p) && Arc::ptr_eq(&edited.pool("q"), &q));
    assert!(Arc::ptr_eq(&edited.pool("p").live, &p.live), "the balancing position");
    assert_eq!(edited.show(), "p: b=2 down, a=1 up* | q: c=3 up*");
    edited.edit("p: b=2 | q: c=3");
    assert_eq!(edited.after(DRAIN), "a");
    edited.edit("p: a=1 b=2 | q: c=3");
    assert!(!Arc::ptr_eq(&edited.server("a"), &a), "its drain had ended");
}

#[test]
fn a_drain_ends_with_the_last_request_or_at_its_deadline() {
    let (little, rest) = (Duration::from_secs(1), DRAIN);
    for (pool, open, at_once, in_time) in
        [("p", false, "a", ""), ("p", true, "", "a!"), ("sticky", false, "a", ""), ("sticky", true, "", "a!")]
    {
        let mut edited = EditedRegistry::new(&format!("{pool}: a=1 b=2"));
        let a = edited.server("a");
        a.counters().of(0).started.add(u64::from(open));
        edited.edit(&format!("{pool}: b=2"));
        assert!(!edited.registry.is_settled());
        assert_eq!(edited.after(little), at_once, "{pool}, open: {open}");
        assert_eq!(edited.after(rest), in_time, "{pool}, open: {open}");
        assert_eq!(edited.show(), format!("{pool}: b=2 up*"));
        assert!(edited.registry.is_settled());
    }
}

#[test]
fn a_plan_that_is_dropped_changes_nothing() {
    let mut edited = EditedRegistry::new("p: a=1 b=2 | q: c=3");
    let (shown, b) = (edited.show(), edited.server("b"));
    b.set_state(HealthState::Down);
    for edit in ["p: a=1 | q: c=3", "p: a=1:off b=9", "unchecked: a=1", "p: d=4 | q: c=3 | r: e=5"] {
        drop(edited.registry.plan(&Arc::new(config(edit)), edited.now, |_| None));
        assert!(edited.registry.is_settled(), "{edit}");
        assert!(edited.pools.iter().flat_map(|pool| &pool.members).all(|member| !member.server.is_leaving()), "{edit}");
    }
    assert_eq!(b.state(), HealthState::Down);
    b.set_state(HealthState::Unchecked);
    edited.publish();
    assert_eq!(edited.show(), shown);
    edited.edit("p: a=1 b=2 | q: c=3 d=4");
    assert_eq!(edited.server("d").id, ServerId(4), "ids of dropped plans are used again");
}

#[test]
fn a_plan_shows_servers_that_are_no_longer_checked_as_up_before_it_is_committed() {
    let mut edited = EditedRegistry::new("unchecked: a=1 | p: b=2");
    edited.edit("unchecked: a=1 | p: b=2 c=3");
    let mut config = (*edited.config).clone();
    let pool = Arc::make_mut(config.pools.iter_mut().find(|pool| pool.name == "p").expect("a pool"));
    pool.health.kind = crate::config::HealthKind::None;
    let config = Arc::new(config);
    let plan = edited.registry.plan(&config, edited.now, |_| None);
    let c = edited.server("c");
    assert_eq!(c.state(), HealthState::Checking);
    assert!(plan.pools.iter().flat_map(|pool| &pool.members).all(|member| member.state.serves()));
    let (built, snapshot) = (plan.pools.clone(), plan.snapshot(2, "".into(), [].into(), SystemTime::now()));
    edited.registry.commit(plan);
    assert_eq!(c.state(), HealthState::Up);
    let refreshed = edited.registry.refresh(&snapshot);
    assert!(refreshed.pools.iter().zip(&built).all(|(one, other)| Arc::ptr_eq(one, other)));
}

#[test]
fn a_route_keeps_its_counters_by_name() {
    let mut edited = EditedRegistry::new("p: a=1");
    let live = |edited: &EditedRegistry| Arc::clone(&edited.snapshot.as_ref().expect("a snapshot").routes[0].live);
    let before = live(&edited);
    edited.edit("p: a=1 b=2");
    assert!(Arc::ptr_eq(&live(&edited), &before));
}

#[test]
fn random_edits_keep_servers_and_give_them_the_configured_standing() {
    let mut rng = fastrand::Rng::with_seed(11);
    let mut edited = EditedRegistry::new("p: x=1");
    for _ in 0..2000 {
        // Most edits change little.
        let mut edit: Vec<String> = Vec::new();
        for member in &edited.config.pool("p").expect("it is always there").servers {
            let (name, port) = (&member.name, member.address.to_string());
            let port = port.rsplit(':').next().expect("a port").to_owned();
            match rng.u8(..10) {
                0 => {}
                1 => edit.push(format!("{name}={}", rng.u8(1..4))),
                2 => edit.push(format!("{name}={port}:off")),
                3 => edit.insert(0, format!("{name}={port}")),
                _ => edit.push(format!("{name}={port}:{}", member.weight)),
            }
        }
        let name = ["a", "b", "c", "d", "e"][rng.usize(..5)];
        if !edit.iter().any(|server| server.starts_with(name)) {
            edit.insert(rng.usize(..=edit.len()), format!("{name}={}", rng.u8(1..4)));
        }
        let before = edited.pool("p");
        edited.edit(&format!("p: {}", edit.join(" ")));
        let waited = rng.u8(..4) == 0;
        if waited {
            edited.after(DRAIN + HOLD);
        }
        let after = edited.pool("p");

        let configured = &edited.config.pool("p").expect("it is always there").servers;
        let membership = after.members.iter().take(configured.len()).zip(configured);
        for (member, server) in membership {
            assert_eq!(
                (&*member.server.key.name, &member.server.key.address, member.weight),
                (&*server.name, &server.address, server.weight)
            );
            assert_eq!(member.membership == Membership::Enabled, server.enabled);
        }
        let rest = || after.members.iter().skip(configured.len());
        assert!(rest().all(|member| member.membership == Membership::Removed));
        edited.assert_leaving("a random edit");
        for member in &after.members {
            let same = |other: &&Member| other.server.key == member.server.key;
            assert_eq!(after.members.iter().filter(same).count(), 1);
            if let Some(earlier) = before.members.iter().find(same) {
                assert!(Arc::ptr_eq(&earlier.server, &member.server), "{edit:?}");
            }
        }
        // An enabled server is still there, drains, or has drained.
        for gone in before.members.iter().filter(|member| member.membership == Membership::Enabled) {
            let there = after.members.iter().any(|member| Arc::ptr_eq(&member.server, &gone.server));
            assert!(there || waited, "{edit:?}");
        }
    }
}
