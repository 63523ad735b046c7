//! Holds and drains over sequences of edits and health changes.

use std::time::{Duration, SystemTime};

use super::{DRAIN, EditedRegistry, HOLD};
use crate::live::health::HealthState;
use crate::live::server::Check;

#[test]
fn only_a_passed_check_ends_a_hold_unless_the_file_says_otherwise() {
    let second = Duration::from_secs(1);
    let held = |rule: &str| {
        let mut edited = EditedRegistry::new(&format!("p: a=1 | q: c=3 | {rule}"));
        edited.edit(&format!("p: b=2 | q: c=3 | {rule}"));
        assert_eq!(edited.after(second), "");
        assert!(edited.holds("p") && !edited.holds("q"));
        edited
    };
    let mut passed = held("keep");
    passed.server("b").set_state(HealthState::Up);
    assert_eq!(passed.after(Duration::ZERO), "a");
    assert_eq!(passed.show(), "p: b=2 up* | q: c=3 up*");

    let mut weightless = EditedRegistry::new("p: a=1");
    weightless.edit("p: a=1:0 b=2");
    assert_eq!(weightless.after(second), "");
    assert_eq!(weightless.show(), "p: a=1 up*, b=2 checking");
    weightless.server("b").set_state(HealthState::Up);
    assert_eq!(weightless.after(Duration::ZERO), "");
    assert_eq!(weightless.show(), "p: a=1 up, b=2 up*");
    assert!(weightless.registry.is_settled());

    let overdue = |edited: &EditedRegistry| {
        edited
            .snapshot
            .iter()
            .flat_map(|snapshot| snapshot.routes.iter())
            .any(|route| route.hold.is_some_and(|hold| hold.overdue))
    };
    let mut late = held("keep");
    assert!(!overdue(&late));
    assert_eq!(late.after(HOLD), "");
    assert!(overdue(&late));
    assert_eq!(late.after(HOLD * 1000), "");
    assert_eq!(late.show(), "p: b=2 checking, a=1 draining* | q: c=3 up*");
    // Other new servers have the whole time again; any other edit changes nothing.
    late.edit("p: b=2 | q: c=3 d=4 | keep");
    assert!(overdue(&late));
    late.edit("p: e=5 | q: c=3 d=4 | keep");
    assert!(!overdue(&late) && late.holds("p"));
    late.edit("p: e=5 | q: c=3 d=4 | switch");
    assert_eq!(late.after(second), "b");
    assert_eq!(late.after(HOLD), "a");

    let mut given_up = held("switch");
    assert_eq!(given_up.after(HOLD), "a");
    assert_eq!(given_up.show(), "p: b=2 checking | q: c=3 up*");
    assert!(given_up.registry.is_settled());
    // The next edit does not begin another hold for servers that were up long ago.
    given_up.edit("p: b=2 | q: c=3:7 | switch");
    assert!(given_up.registry.is_settled());

    let mut gone = held("keep");
    gone.edit("q: c=3");
    assert_eq!(gone.after(second), "a b");
    assert_eq!(gone.show(), "q: c=3 up*");

    let mut busy = held("switch");
    busy.server("a").counters().of(0).started.add(1);
    assert_eq!(busy.after(HOLD), "");
    assert_eq!(busy.show(), "p: b=2 checking, a=1 draining | q: c=3 up*");
    assert_eq!(busy.after(DRAIN), "a!");
}

#[test]
fn a_server_takes_over_unchecked_if_it_was_not_checked_in_time() {
    let mut edited = EditedRegistry::new("p: a=1 | switch");
    edited.edit("p: b=2 c=3 | switch");
    let check = Check { at: SystemTime::now(), took: HOLD, error: Some("refused".into()), refused: true, hint: None };
    edited.server("b").set_last_check(check);
    edited.now += HOLD;
    let expired = edited.registry.expire(&edited.config, edited.now);
    assert_eq!(expired.take_over.iter().map(|server| &*server.key.name).collect::<Vec<_>>(), ["c"]);
}

#[test]
fn a_route_goes_to_another_pool_once_one_of_its_servers_is_up() {
    let one = "blue: a=1 | / > blue";
    // Health changes and edits in turn, from a configuration; then the servers of each route.
    let cases: [(&str, &str, &[&str], &str); 28] = [
        ("switched", one, &["blue: a=1 | green: g=2 | / > green"], "/ blue/a held"),
        ("switched, up", one, &["blue: a=1 | green: g=2 | / > green", "g up"], "/ green/g"),
        ("switched, old one gone", one, &["green: g=2 | / > green"], "/ blue/a held"),
        ("renamed", one, &["web: a=1 | / > web"], "/ blue/a held"),
        ("renamed, up", one, &["web: a=1 | / > web", "a up"], "/ web/a"),
        ("renamed and back", one, &["web: a=1 | / > web", one], "/ blue/a"),
        ("switched and back", one, &["blue: a=1 | green: g=2 | / > green", one], "/ blue/a"),
        ("nobody was up", one, &["a down", "green: g=2 | / > green"], "/ green/g held"),
        ("nobody was up, nor is the new one", one, &["a down", "green: g=2 | / > green", "g down"], "/  held"),
        ("the old one returns", one, &["a down", "green: g=2 | / > green", "g down", "a up"], "/ blue/a held"),
        ("the old one fails", one, &["green: g=2 | / > green", "a down"], "/  held"),
        ("three in a row", one, &["green: g=2 | / > green", "red: r=3 | / > red"], "/ blue/a held"),
        ("three, the second came up", one, &["green: g=2 | / > green", "g up", "red: r=3 | / > red"], "/ green/g held"),
        ("replaced while held", one, &["green: g=2 | / > green", "green: h=3 | / > green"], "/ blue/a held"),
        ("an unrelated edit", one, &["green: g=2 | / > green", "green: g=2 | x: y=9 | / > green"], "/ blue/a held"),
        ("unchecked", one, &["unchecked: g=2 | / > unchecked"], "/ unchecked/g"),
        ("an unresolved name", one, &["unchecked: g=dns | / > unchecked"], "/ blue/a held"),
        ("no new server", "p: a=1 b=2 | / > p", &["b down", "p: b=2 | / > p"], "/ "),
        ("a new server beside a down one", "p: a=1 b=2 | / > p", &["b down", "p: b=2 c=3 | / > p"], "/ p/a held"),
        ("no server that may serve", one, &["green: g=2:off | / > green"], "/ "),
        ("disabled while held", one, &["green: g=2 | / > green", "green: g=2:off | / > green"], "/ "),
        ("split", "p: a=1 b=2 | / > p", &["p: a=1 | q: b=2 | / > p | /q > q"], "/ p/a | /q p/a,p/b held"),
        (
            "split, both new",
            "p: a=1 b=2 | / > p",
            &["q: c=1 | r: d=2 | / > q | /r > r", "a down"],
            "/ p/b held | /r p/b held",
        ),
        (
            "the old servers, not what became of their pool",
            "p: a=1 b=2 | / > p",
            &["p: c=3 | q: d=4 | / > p | /q > q", "c up"],
            "/ p/c | /q p/a,p/b held",
        ),
        (
            "disabled in the old pool while held",
            "p: a=1 b=2 | / > p",
            &["p: a=1 b=2 | q: d=4 | / > q", "p: a=1:off b=2 | q: d=4 | / > q"],
            "/ p/b held",
        ),
        (
            "two old pools, one new one",
            "p: a=1 | q: b=2 | /p > p | /q > q",
            &["r: c=3 | /p > r | /q > r"],
            "/p p/a held | /q q/b held",
        ),
        (
            "a new route within a held one",
            one,
            &["green: g=2 | / > green", "green: g=2 | x: y=9 | / > green | /x > x"],
            "/ blue/a held | /x blue/a held",
        ),
        ("a path that had no route", "p: a=1 | /p > p", &["p: a=1 | q: b=2 | /p > p | /q > q"], "/p p/a | /q q/b"),
    ];
    for (name, before, steps, expected) in cases {
        let mut edited = EditedRegistry::new(before);
        for server in ["a", "b"].iter().filter(|server| before.contains(&format!("{server}="))) {
            edited.health(&format!("{server} up"));
        }
        for step in steps {
            if step.contains('>') {
                edited.edit(step)
            } else {
                edited.health(step)
            };
            edited.after(Duration::ZERO);
        }
        assert_eq!(edited.routes(), expected, "{name}");
        edited.assert_leaving(name);
    }
}

#[test]
fn new_servers_count_as_up_where_nobody_else_can_serve() {
    let cases = [
        ("a new pool without an earlier route", "p: a=1", "p: a=1 | q: b=2", "p: a=1 up* | q: b=2 up*"),
        ("a pool that was empty", "p: a=1:off", "p: a=1:off b=2", "p: a=1 disabled, b=2 up*"),
        ("a pool with another server", "p: a=1", "p: a=1 b=2", "p: a=1 up*, b=2 checking"),
    ];
    for (name, before, after, expected) in cases {
        assert_eq!(EditedRegistry::new(before).edit(after).show(), expected, "{name}");
    }
}

#[test]
fn a_later_edit_changes_the_time_of_a_drain_that_is_under_way() {
    for (drain, after, expected) in [("60s", DRAIN, ""), ("60s", DRAIN * 2, "a!"), ("10s", DRAIN / 2, "a!")] {
        let mut edited = EditedRegistry::new("p: a=1 b=2");
        edited.server("a").counters().of(0).started.add(1);
        edited.edit("p: b=2").edit(&format!("p: b=2 | drain {drain}"));
        assert_eq!(edited.after(after), expected, "{drain}");
    }
}
