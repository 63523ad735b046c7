//! Valid files and their configurations. Invalid files are in `tests/bad_files.rs`.

use std::time::Duration;

use super::*;
use crate::config::{Algorithm, BalanceConfig, HostPattern, RetryConfig, StickyConfig};

const LISTENER: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\n";
const SERVER: &str = "[[server]]\nname = \"a\"\naddress = \"127.0.0.1:1\"\n";

fn sources(texts: &[&str]) -> Vec<SourceFile> {
    let file = |(index, text): (usize, &&str)| SourceFile::new(format!("{index}.toml"), *text);
    texts.iter().enumerate().map(file).collect()
}

fn parse_all(texts: &[&str]) -> Result<Config, Vec<String>> {
    let env = |name: &str| (name == "PORT").then(|| "9001".to_owned());
    let lines = |problems: Vec<Problem>| problems.iter().map(Problem::to_string).collect();
    parse(&sources(texts), &env).map_err(lines)
}

fn good(text: &str) -> Config {
    parse_all(&[text]).expect(text)
}

#[test]
fn the_smallest_file_gets_every_default() {
    let config = good(&format!("{LISTENER}{SERVER}"));
    assert_eq!(config.listeners[0].name, "127.0.0.1:0");
    assert_eq!(config.admin, AdminConfig::default());
    assert_eq!(config.routes.len(), 1);
    assert_eq!(config.routes[0].name, "default");
    assert_eq!(config.routes[0].pool.name(), DEFAULT_POOL);
    let pool = config.pool(DEFAULT_POOL).expect("the default pool");
    assert_eq!(pool.balance, BalanceConfig::default());
    assert_eq!((pool.servers[0].weight, pool.servers[0].enabled), (1, true));
}

#[test]
fn a_pool_inherits_missing_keys_one_by_one() {
    let config = good(&format!(
        "{LISTENER}{SERVER}
        [balance]
        algorithm = \"random\"
        sticky = {{ cookie = \"c\", max_age = \"2h\" }}
        [retry]
        attempts = 5
        [pool.a.balance]
        sticky = {{ max_age = \"3h\" }}
        [pool.b.balance]
        algorithm = \"round-robin\"
        sticky = false
        [pool.b.retry]
        budget = \"1%\"
        [pool.c]
        [pool.default.retry]
        attempts = 1"
    ));
    let pool = |name: &str| config.pool(name).expect(name).clone();
    let sticky =
        |hours: u64| Some(StickyConfig { cookie: "c".to_owned(), max_age: Some(Duration::from_secs(hours * 3600)) });
    assert_eq!(pool("a").balance.algorithm, Algorithm::Random);
    assert_eq!(pool("a").balance.sticky, sticky(3));
    assert_eq!(pool("b").balance.algorithm, Algorithm::RoundRobin);
    assert_eq!(pool("b").balance.sticky, None);
    assert_eq!(pool("b").retry, RetryConfig { attempts: 5, budget: 0.01, statuses: Vec::new(), grpc: false });
    assert_eq!(pool("c").balance.sticky, sticky(2));
    assert_eq!(pool("default").retry.attempts, 1);
    assert_eq!(pool("default").servers.len(), 1);
    let names: Vec<&str> = config.pools.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c", "default"]);
}

#[test]
fn routes_are_named_after_host_and_path() {
    let config = good(&format!(
        "{LISTENER}{SERVER}
        [[route]]
        host = \"API.example.com.\"
        path = \"/v1/\"
        pool = \"default\"
        [[route]]
        host = \"*.example.com\"
        pool = \"default\"
        [[route]]
        name = \"rest\"
        pool = \"default\""
    ));
    let names: Vec<&str> = config.routes.iter().map(|route| route.name.as_str()).collect();
    assert_eq!(names, ["api.example.com/v1", "*.example.com/", "rest"]);
    assert_eq!(config.routes[1].host, HostPattern::Wildcard("example.com".to_owned()));
}

#[test]
fn each_route_has_the_index_of_its_pool() {
    let config = good(&format!(
        "{LISTENER}{SERVER}
        [[route]]
        path = \"/z\"
        pool = \"zebra\"
        [[route]]
        path = \"/a\"
        pool = \"antelope\"
        [[route]]
        pool = \"default\"
        [[pool.zebra.server]]
        name = \"z\"
        address = \"127.0.0.1:2\"
        [[pool.antelope.server]]
        name = \"a\"
        address = \"127.0.0.1:3\""
    ));
    let pools: Vec<&str> = config.routes.iter().map(|route| &*config.pools[route.pool.index()].name).collect();
    assert_eq!(pools, ["zebra", "antelope", "default"]);
}

#[test]
fn an_empty_pool_needs_allow_empty() {
    let empty = format!("{LISTENER}[reload]\nallow_empty = true\n");
    assert!(good(&empty).pool(DEFAULT_POOL).is_some_and(|pool| pool.servers.is_empty()));
    let problems = parse_all(&[LISTENER]).expect_err("no server");
    assert!(problems[0].contains("add `[[server]]`"), "{problems:?}");
    let elsewhere =
        good(&format!("{LISTENER}[[route]]\npool = \"a\"\n[[pool.a.server]]\nname = \"a\"\naddress = \"a:${{PORT}}\""));
    assert!(elsewhere.pool(DEFAULT_POOL).is_none());
    assert_eq!(elsewhere.pools[0].servers[0].address.to_string(), "a:9001");
}

#[test]
fn included_files_add_tables_and_override_nothing() {
    let other = "[[server]]\nname = \"b\"\naddress = \"127.0.0.1:2\"\n[timeouts]\nidle = \"1s\"\n";
    let main = format!("{LISTENER}{SERVER}[timeouts]\ndrain = \"2s\"\n");
    let config = parse_all(&[&main, other]).expect("joined");
    let names = config.pools[0].servers.iter().map(|server| server.name.as_str());
    assert_eq!(names.collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(config.timeouts.idle, Duration::from_secs(1));
    assert_eq!(config.timeouts.drain, Duration::from_secs(2));
    let conflicting = "include = []\n[timeouts]\ndrain = \"3s\"\n[[server]]\nname = \"a\"\naddress = \"x:1\"\n";
    let problems = parse_all(&[&main, conflicting]).expect_err("set twice");
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(problems[0].starts_with("1.toml:1:1: an included file"), "{problems:?}");
    assert!(problems[1].starts_with("1.toml:3:1: `drain` is already set in 0.toml:7"), "{problems:?}");
    assert!(problems[2].contains("already has a server `a`, in 0.toml:4"), "{problems:?}");
}

#[test]
fn includes_of_an_invalid_file_are_found() {
    let text = "include = [\"a.toml\",\n \"conf.d/*.toml\", 3]\n[[listner]\n";
    let found = includes(&SourceFile::new("lb.toml", text), &|_| None);
    let patterns: Vec<&str> = found.iter().map(|include| include.pattern.as_str()).collect();
    assert_eq!(patterns, ["a.toml", "conf.d/*.toml"]);
    assert_eq!((found[1].place.line, found[1].place.column), (2, 2));
}

#[test]
fn a_syntax_error_hides_no_problems_of_other_tables() {
    let text = "[[listener]]\naddress = 1.2.3.4:5\nnme = 1\n[timeouts]\nidel = 1\n[log]\nlevel = 1\n";
    let problems = parse_all(&[text]).expect_err("bad");
    let lines: Vec<&str> = problems.iter().filter_map(|p| p.split(':').nth(1)).collect();
    assert_eq!(lines, ["2", "5", "7"], "{problems:?}");
}

#[test]
fn an_unclosed_value_is_reported_once_at_its_start() {
    for (text, column) in
        [("include = [\"a\",\n[[listener]]\naddress = \"x\"\n[a]\nb = c\n", 11), ("x = '''abc\n\n[a]\nb = c\n", 5)]
    {
        let problems = parse_all(&[text]).expect_err(text);
        assert!(problems[0].starts_with(&format!("0.toml:1:{column}: this")), "{problems:?}");
        assert_eq!(problems.len(), 1, "{problems:?}");
    }
}

#[test]
fn the_admin_address_of_an_invalid_file_is_read() {
    let own = "[admin]\naddress = \"127.0.0.1:1234\"\n";
    let default = AdminConfig::default().address.to_string();
    let table = [
        (format!("{own}colour = 1\n[[server]]\nweight = \"heavy\"\n"), "127.0.0.1:1234"),
        (format!("[log\n{own}"), "127.0.0.1:1234"),
        (format!("{own}[[server]\nname = \"a"), "127.0.0.1:1234"),
        (String::new(), &default),
        ("[admin]\naddress = 9900\n".to_owned(), &default),
    ];
    for (text, expected) in table {
        assert!(parse_all(&[&text]).is_err(), "{text}");
        assert_eq!(admin(&sources(&[&text]), &|_| None).address.to_string(), expected, "{text}");
    }
}

#[test]
fn problems_beyond_the_limit_are_counted() {
    let servers = "[[server]]\nx = 1\n".repeat(2000);
    let problems = parse_all(&[&format!("{LISTENER}{servers}")]).expect_err("bad");
    assert_eq!(problems.len(), 1001);
    assert!(problems[1000].ends_with("and 5000 more problems"), "{}", problems[1000]);
}

/// Sets each key of `keys.rs` to a value of a type that no key takes, and expects a problem.
#[test]
fn every_key_is_read() {
    for (table, keys) in keys::TABLES.iter().filter(|(table, _)| !table.is_empty()) {
        let header = table.replace('*', "p");
        let header = match keys::ARRAYS.contains(table) {
            true => format!("[[{header}]]"),
            false => format!("[{header}]"),
        };
        for key in keys::names(keys) {
            let problems = parse_all(&[&format!("{header}\n{key} = 1979-05-27\n")]).expect_err(key);
            let at = problems.iter().any(|p| p.starts_with("0.toml:2:") && p.contains(&format!("`{key}`")));
            assert!(at, "{header} {key}: {problems:?}");
        }
    }
}
