//! Pairs of files, and the changes between them in words.

use super::*;
use crate::config::file::parse;
use crate::config::source::SourceFile;

const BEFORE: &str = r#"
[[listener]]
address = "127.0.0.1:80"
name = "web"
[[server]]
name = "server1"
address = "127.0.0.1:8081"
[[server]]
name = "server3"
address = "127.0.0.1:8083"
weight = 6
[[route]]
name = "api"
host = "api.example.com"
pool = "api"
[[route]]
pool = "default"
[[pool.api.server]]
name = "a"
address = "127.0.0.1:9001"
"#;

fn config(text: &str) -> Config {
    parse(&[SourceFile::new("lb.toml", text)], &|_| None).expect(text)
}

fn words_between(old: &str, new: &str) -> Vec<String> {
    diff(&config(old), &config(new)).iter().map(Change::to_string).collect()
}

#[test]
fn each_change_is_described() {
    let edits: &[(&str, &str, &[&str])] = &[
        ("weight = 6", "weight = 2", &["server default/server3: weight 6 -> 2"]),
        ("weight = 6", "weight = 6\nenabled = false", &["server default/server3: disabled"]),
        ("127.0.0.1:8083", "example.com:8083", &["server default/server3: address 127.0.0.1:8083 -> example.com:8083"]),
        (
            "name = \"server3\"",
            "name = \"server4\"",
            &["server default/server3: removed", "server default/server4: added (127.0.0.1:8083, weight 6)"],
        ),
        ("127.0.0.1:80\"", "127.0.0.1:81\"", &["listener web: address 127.0.0.1:80 -> 127.0.0.1:81"]),
        (
            "name = \"web\"",
            "",
            &["listener 127.0.0.1:80: added (127.0.0.1:80)", "listener web: removed (127.0.0.1:80)"],
        ),
        ("pool = \"api\"", "pool = \"default\"", &["route api: pool api -> default"]),
        ("pool = \"api\"", "path = \"/v1\"\npool = \"api\"", &["route api: path / -> /v1"]),
        (
            "[[pool.api.server]]",
            "[pool.api.balance]\nalgorithm = \"random\"\n[[pool.api.server]]",
            &["pool api: balance.algorithm weighted-round-robin -> random"],
        ),
        (
            "[[pool.api.server]]",
            "[pool.api.balance]\nsticky = {}\n[[pool.api.server]]",
            &["pool api: balance.sticky none -> cookie lb, max_age none"],
        ),
        (
            "[[pool.api.server]]",
            "[[pool.new.server]]\nname = \"n\"\naddress = \"n:1\"\nenabled = false\n[[pool.api.server]]",
            &["pool new: added", "server new/n: added (n:1, weight 1, disabled)"],
        ),
        ("[[listener]]", "[timeouts]\ndrain = \"10s\"\n[[listener]]", &["timeouts.drain: 30s -> 10s"]),
        ("[[listener]]", "[admin]\nhosts = [\"a\", \"b\"]\n[[listener]]", &["admin.hosts: [] -> [a, b]"]),
        (
            "[[listener]]",
            "[proxy]\nworkers = 4\n[[listener]]",
            &["proxy.workers: 0 -> 4 (takes effect at the next start)"],
        ),
        (
            "[[listener]]",
            "[retry]\nbudget = \"7%\"\n[[listener]]",
            &["pool api: retry.budget 20% -> 7%", "pool default: retry.budget 20% -> 7%"],
        ),
        ("[[listener]]", "# nothing\n[[listener]]", &[]),
    ];
    for (from, to, expected) in edits {
        assert!(BEFORE.contains(from), "{from}");
        let after = BEFORE.replacen(from, to, 1);
        assert_eq!(words_between(BEFORE, &after), *expected, "{from} -> {to}");
        let back = diff(&config(&after), &config(BEFORE));
        assert_eq!(back.is_empty(), expected.is_empty(), "{from} -> {to} and back");
    }
}

#[test]
fn only_the_order_of_servers_matters() {
    let server = |name: &str| format!("[[server]]\nname = \"{name}\"\naddress = \"{name}:1\"\n");
    let listener = |port: u16| format!("[[listener]]\naddress = \"127.0.0.1:{port}\"\n");
    let old = format!("{}{}{}{}", listener(1), listener(2), server("a"), server("b"));
    let new = format!("{}{}{}{}", listener(2), listener(1), server("b"), server("a"));
    assert_eq!(words_between(&old, &new), ["pool default: servers reordered"]);
    assert_eq!(words_between(&old, &old), [] as [String; 0]);
}

#[test]
fn common_ends_never_overlap() {
    for (old, new, expected) in [
        ("", "", (0, 0)),
        ("abc", "abc", (3, 0)),
        ("abc", "abxc", (2, 1)),
        ("abc", "ac", (1, 1)),
        ("aaa", "aa", (2, 0)),
        ("aa", "aaa", (2, 0)),
        ("abc", "xyz", (0, 0)),
        ("abc", "", (0, 0)),
        ("xabc", "yabc", (0, 3)),
    ] {
        assert_eq!(common_ends(old.as_bytes(), new.as_bytes()), expected, "{old} {new}");
    }
}
