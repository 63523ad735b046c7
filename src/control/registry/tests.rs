//! Edits in a row, and what each makes of the servers.

use std::sync::Arc;
use std::time::Duration;

use super::{Config, HealthState, Instant, Member, Membership, Pool, Registry, Server};
use crate::config::file::parse;
use crate::config::source::SourceFile;

const DRAIN: Duration = Duration::from_secs(30);
const HOLD: Duration = Duration::from_secs(10);

/// A registry that edits are applied to.
struct Scene {
    registry: Registry,
    config: Arc<Config>,
    pools: Vec<Arc<Pool>>,
    now: Instant,
}

/// The servers of the pools, as in `p: a=1 b=2:0 c=3:off`: name, port, and weight or `off`.
fn config(pools: &str) -> Config {
    let mut text = "[[listener]]\naddress = \"127.0.0.1:1\"\n[reload]\nallow_empty = true\n".to_owned();
    for pool in pools.split(" | ").filter(|pool| !pool.is_empty()) {
        let (name, servers) = pool.split_once(':').expect(pools);
        for server in servers.split_whitespace() {
            let (server, address) = server.split_once('=').expect(pools);
            let (port, rest) = address.split_once(':').unwrap_or((address, "1"));
            let rest = if rest == "off" { "enabled = false".to_owned() } else { format!("weight = {rest}") };
            text += &format!("[[pool.{name}.server]]\nname = \"{server}\"\naddress = \"127.0.0.1:{port}\"\n{rest}\n");
        }
        if name == "sticky" {
            text += "[pool.sticky.balance]\nsticky = { cookie = \"lb\", max_age = \"1h\" }\n";
        }
        if name == "unchecked" {
            text += "[pool.unchecked.health]\nkind = \"none\"\n";
        }
    }
    parse(&[SourceFile::new("lb.toml", text.as_str())], &|_| None).expect(&text)
}

impl Scene {
    fn new(pools: &str) -> Self {
        let (mut registry, config, now) = (Registry::new(1), Arc::new(config(pools)), Instant::now());
        registry.apply(&config, now);
        let pools = registry.pools(&config);
        Self { registry, config, pools, now }
    }

    fn edit(&mut self, pools: &str) -> &mut Self {
        self.config = Arc::new(config(pools));
        self.registry.apply(&self.config, self.now);
        self.publish()
    }

    fn publish(&mut self) -> &mut Self {
        self.pools = self.registry.pools(&self.config);
        self
    }

    /// Time passes; who was let go, with `!` where requests were open.
    fn after(&mut self, time: Duration) -> String {
        self.now += time;
        let expired = self.registry.expire(&self.config, self.now);
        self.publish();
        let name =
            |(server, open): &(Arc<Server>, bool)| format!("{}{}", server.key.name, if *open { "!" } else { "" });
        expired.servers.iter().map(name).collect::<Vec<_>>().join(" ")
    }

    fn server(&self, name: &str) -> Arc<Server> {
        let mut members = self.pools.iter().flat_map(|pool| &pool.members);
        Arc::clone(&members.find(|member| *member.server.key.name == *name).expect(name).server)
    }

    fn pool(&self, name: &str) -> Arc<Pool> {
        Arc::clone(self.pools.iter().find(|pool| *pool.live.name == *name).expect(name))
    }

    /// Every pool's members: name, port and status, `*` for those that take new requests.
    fn show(&self) -> String {
        let member = |pool: &Pool, member: &Member| {
            let takes = pool.eligible().any(|other| Arc::ptr_eq(&other.server, &member.server));
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
fn each_edit_makes_of_the_servers_what_it_says() {
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
        ("all disabled is meant", "p: a=1", &["p: a=1:off"], "p: a=1 draining"),
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
    for (what, before, edits, after) in cases {
        let mut scene = Scene::new(before);
        for edit in edits {
            scene.edit(edit);
        }
        assert_eq!(scene.show(), after, "{what}");
        // Whoever is in force keeps connections, and nobody else.
        for member in scene.pools.iter().flat_map(|pool| &pool.members) {
            assert_eq!(member.server.is_leaving(), member.membership != Membership::Enabled, "{what}");
        }
    }
}

#[test]
fn who_stays_or_comes_back_is_the_same_server() {
    let mut scene = Scene::new("p: a=1 b=2 | q: c=3");
    let (a, b, q) = (scene.server("a"), scene.server("b"), scene.pool("q"));
    a.set_state(HealthState::Up);
    for edit in ["p: a=1:7 b=2", "p: a=1:off b=2", "p: b=2", "p: b=2 a=1"] {
        scene.edit(&format!("{edit} | q: c=3"));
        assert!(Arc::ptr_eq(&scene.server("a"), &a) && Arc::ptr_eq(&scene.server("b"), &b), "{edit}");
        assert!(Arc::ptr_eq(&scene.pool("q"), &q), "{edit}: a pool that it leaves alone");
    }
    let p = scene.pool("p");
    b.set_state(HealthState::Down);
    scene.publish();
    assert!(!Arc::ptr_eq(&scene.pool("p"), &p) && Arc::ptr_eq(&scene.pool("q"), &q));
    assert!(Arc::ptr_eq(&scene.pool("p").live, &p.live), "its place in the turn");
    assert_eq!(scene.show(), "p: b=2 down, a=1 up* | q: c=3 up*");
    scene.edit("p: b=2 | q: c=3");
    assert_eq!(scene.after(DRAIN), "a");
    scene.edit("p: a=1 b=2 | q: c=3");
    assert!(!Arc::ptr_eq(&scene.server("a"), &a), "its drain was over");
}

#[test]
fn a_drain_ends_with_the_last_request_or_in_time() {
    let (little, rest) = (Duration::from_secs(1), DRAIN);
    for (pool, open, at_once, in_time) in
        [("p", false, "a", ""), ("p", true, "", "a!"), ("sticky", false, "", "a"), ("sticky", true, "", "a!")]
    {
        let mut scene = Scene::new(&format!("{pool}: a=1 b=2"));
        let a = scene.server("a");
        a.counters().of(0).started.add(u64::from(open));
        scene.edit(&format!("{pool}: b=2"));
        assert!(!scene.registry.is_settled());
        assert_eq!(scene.after(little), at_once, "{pool}, open: {open}");
        assert_eq!(scene.after(rest), in_time, "{pool}, open: {open}");
        assert_eq!(scene.show(), format!("{pool}: b=2 up*"));
        assert!(scene.registry.is_settled());
    }
}

#[test]
fn a_hold_ends_with_the_first_pass_or_in_time_or_with_its_pool() {
    let second = Duration::from_secs(1);
    let held = || {
        let mut scene = Scene::new("p: a=1 | q: c=3");
        scene.edit("p: b=2 | q: c=3");
        assert_eq!(scene.after(second), "");
        assert!(scene.pool("p").holding);
        scene
    };
    let mut passed = held();
    passed.server("b").set_state(HealthState::Up);
    assert_eq!(passed.after(Duration::ZERO), "a");
    assert_eq!(passed.show(), "p: b=2 up* | q: c=3 up*");

    let mut weightless = Scene::new("p: a=1");
    weightless.edit("p: a=1:0 b=2");
    assert_eq!(weightless.after(second), "");
    assert_eq!(weightless.show(), "p: a=1 up*, b=2 checking");
    weightless.server("b").set_state(HealthState::Up);
    assert_eq!(weightless.after(Duration::ZERO), "");
    assert_eq!(weightless.show(), "p: a=1 up, b=2 up*");
    assert!(weightless.registry.is_settled());

    let mut late = held();
    assert_eq!(late.after(HOLD), "a");
    assert_eq!(late.show(), "p: b=2 checking | q: c=3 up*");

    let mut gone = held();
    gone.edit("q: c=3");
    assert_eq!(gone.after(second), "a b");
    assert_eq!(gone.show(), "q: c=3 up*");

    let mut busy = held();
    busy.server("a").counters().of(0).started.add(1);
    assert_eq!(busy.after(HOLD), "");
    assert_eq!(busy.show(), "p: b=2 checking, a=1 draining | q: c=3 up*");
    assert_eq!(busy.after(DRAIN), "a!");
}

#[test]
fn the_counters_of_a_route_stay_with_its_name() {
    let mut scene = Scene::new("p: a=1");
    let live = |scene: &mut Scene| Arc::clone(&scene.registry.routes(&scene.config)[0].live);
    let before = live(&mut scene);
    scene.edit("p: a=1 b=2");
    assert!(Arc::ptr_eq(&live(&mut scene), &before));
}

#[test]
fn whatever_edits_come_servers_stand_as_the_file_has_them_and_stay_who_they_are() {
    let mut rng = fastrand::Rng::with_seed(11);
    let mut scene = Scene::new("p: x=1");
    for _ in 0..2000 {
        // Most edits touch little of what was there.
        let mut edit: Vec<String> = Vec::new();
        for member in &scene.config.pool("p").expect("it is always there").servers {
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
        let before = scene.pool("p");
        scene.edit(&format!("p: {}", edit.join(" ")));
        if rng.u8(..4) == 0 {
            scene.after(DRAIN + HOLD);
        }
        let after = scene.pool("p");

        let configured = &scene.config.pool("p").expect("it is always there").servers;
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
        for member in &after.members {
            assert_eq!(member.server.is_leaving(), member.membership != Membership::Enabled);
            let same = |other: &&Member| other.server.key == member.server.key;
            assert_eq!(after.members.iter().filter(same).count(), 1);
            if let Some(known) = before.members.iter().find(same) {
                assert!(Arc::ptr_eq(&known.server, &member.server), "{edit:?}");
            }
        }
        // Who was there is there, leaves, or had nothing to finish.
        for gone in before.members.iter().filter(|member| member.membership == Membership::Enabled) {
            let there = after.members.iter().any(|member| Arc::ptr_eq(&member.server, &gone.server));
            assert!(there || scene.registry.is_settled(), "{edit:?}");
        }
    }
}
