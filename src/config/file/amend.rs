//! Parses only the servers that an edit of a large file changes: a few of thousands of `[[server]]` tables.
//!
//! The result is the same as that of parsing the whole file, or `None` if the whole file has to be parsed. With 10,000
//! servers that takes about ten times as long, mostly in the TOML parser.
//!
//! This is safe because a table's header begins a statement and ends the previous one, so that a text can be split at a
//! header. In a valid text without multi-line strings, each line that looks like such a header is one.

use std::collections::HashSet;
use std::sync::Arc;

use memchr::memmem;

use super::report::Report;
use super::resolve::server;
use super::{Env, merged, tables};
use crate::config::source::SourceFile;
use crate::config::{Config, DEFAULT_POOL, PoolConfig, ServerConfig};

/// The header of a server's table, on a line of its own.
const HEADER: &[u8] = b"\n[[server]]\n";

/// The delimiters of strings in which a line can look like a header.
const MULTI_LINE: [&[u8]; 2] = [b"\"\"\"", b"'''"];

/// The last valid file, if it includes no others, and its configuration. The next edit is compared with them.
#[derive(Debug, Clone)]
pub struct Baseline {
    pub file: SourceFile,
    pub config: Config,
}

/// Returns the configuration of `new`, or `None` if it may be invalid or differ from the baseline in more than servers.
#[must_use]
pub fn amend(baseline: &Baseline, new: &SourceFile, env: &Env<'_>) -> Option<Config> {
    let pool = baseline.config.pool(DEFAULT_POOL)?;
    let (old, new_bytes) = (&baseline.file.bytes[..], &new.bytes[..]);
    let is_multi_line = |text| MULTI_LINE.iter().any(|delimiter| memmem::find(text, delimiter).is_some());
    // If a header is spelled differently, or a server is in another table, headers and servers do not correspond.
    if is_multi_line(old) || is_multi_line(new_bytes) || headers(old) != pool.servers.len() {
        return None;
    }
    let (prefix, suffix) = common_ends(old, new_bytes);
    let start = memmem::rfind(&old[..prefix], HEADER)? + 1;
    let tail = memmem::find(&old[old.len() - suffix..], HEADER).map_or(0, |at| suffix - at - 1);
    // The replaced text must consist of servers too.
    read(&baseline.file.bytes.slice(start..old.len() - tail), new, env)?;
    let changed = read(&new.bytes.slice(start..new_bytes.len() - tail), new, env)?;

    let before = headers(&old[..start]);
    let after = headers(&old[old.len() - tail..]) + usize::from(tail > 0);
    let unchanged = [&pool.servers[..before], &pool.servers[pool.servers.len() - after..]];
    let mut names = HashSet::new();
    let distinct = changed.iter().all(|server| names.insert(server.name.as_str()));
    if !distinct || unchanged.iter().copied().flatten().any(|server| names.contains(server.name.as_str())) {
        return None;
    }
    let servers = [unchanged[0], &changed, unchanged[1]].concat();
    if !servers.iter().any(|server| server.enabled && server.weight > 0) {
        return None;
    }
    let amended = Arc::new(PoolConfig { servers, ..pool.without_servers() });
    let pools =
        baseline.config.pools.iter().map(|other| Arc::clone(if Arc::ptr_eq(other, pool) { &amended } else { other }));
    Some(Config { pools: pools.collect(), ..baseline.config.clone() })
}

/// Parses a text that consists of valid servers and nothing else.
fn read(text: &bytes::Bytes, file: &SourceFile, env: &Env<'_>) -> Option<Vec<ServerConfig>> {
    let part = SourceFile { path: file.path.clone(), bytes: text.clone(), hash: String::new() };
    let parts = [part];
    let report = Report::new(&parts);
    let table = merged(1, env, &report);
    let only_servers = table.iter().all(|(key, _)| key == "server");
    let mut draft = tables::read(&table, &report);
    let servers = draft.pools.remove(DEFAULT_POOL).map(|pool| pool.servers).unwrap_or_default();
    let count = servers.len();
    let servers: Vec<ServerConfig> = servers.into_iter().filter_map(server).collect();
    (only_servers && servers.len() == count && report.into_problems().is_empty()).then_some(servers)
}

/// The number of headers, not counting one on the first line.
fn headers(text: &[u8]) -> usize {
    memmem::find_iter(text, HEADER).count()
}

/// The lengths of two texts' common prefix, and of the common suffix of what remains.
fn common_ends(old: &[u8], new: &[u8]) -> (usize, usize) {
    /// How many bytes are compared at once.
    const CHUNK: usize = 4096;
    let equal = |(a, b): &(&[u8], &[u8])| a == b;
    let chunks = old.chunks_exact(CHUNK).zip(new.chunks_exact(CHUNK)).take_while(equal).count() * CHUNK;
    let rest = old[chunks..].iter().zip(&new[chunks..]).take_while(|(a, b)| a == b).count();
    let prefix = chunks + rest;
    let (old, new) = (&old[prefix..], &new[prefix..]);
    let chunks = old.rchunks_exact(CHUNK).zip(new.rchunks_exact(CHUNK)).take_while(equal).count() * CHUNK;
    let (old, new) = (&old[..old.len() - chunks], &new[..new.len() - chunks]);
    let rest = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    (prefix, chunks + rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::parse;

    fn env(name: &str) -> Option<String> {
        (name == "W").then(|| "4".to_owned())
    }

    fn file(text: &str) -> SourceFile {
        SourceFile::new("lb.toml", text)
    }

    fn baseline(text: &str) -> Option<Baseline> {
        let config = parse(&[file(text)], &env).ok()?;
        Some(Baseline { file: file(text), config })
    }

    fn table(name: u32, rest: &str) -> String {
        format!("[[server]]\nname = \"s{name}\"\naddress = \"127.0.0.1:{}\"\n{rest}", 1 + name)
    }

    const TOP: &str = "[[listener]]\naddress = \"127.0.0.1:1\"\n";

    #[test]
    fn common_ends_are_found_across_chunks() {
        let long = vec![b'x'; 10_000];
        for (at, with) in [(0, &b"y"[..]), (5000, b"y"), (9999, b"y"), (4096, b""), (4095, b"yy")] {
            let new = [&long[..at], with, &long[at + 1..]].concat();
            let (first, last) = common_ends(&long, &new);
            assert!(first + last <= long.len().min(new.len()) && first >= at, "{at}");
            assert_eq!(long[..first], new[..first]);
            assert_eq!(long[long.len() - last..], new[new.len() - last..]);
        }
    }

    #[test]
    fn a_changed_server_is_parsed_by_itself() {
        let all = |changed: &str| {
            TOP.to_owned() + &(0..9).map(|n| if n == 4 { changed.to_owned() } else { table(n, "") }).collect::<String>()
        };
        let old = baseline(&all(&table(4, ""))).expect("valid");
        for changed in [
            table(4, "weight = 7\n"),
            table(4, "enabled = false\n# \u{fc}\n"),
            String::new(),
            table(4, "") + &table(40, ""),
        ] {
            let new = all(&changed);
            assert_eq!(amend(&old, &file(&new), &env), baseline(&new).map(|new| new.config), "{changed}");
        }
        for changed in [table(3, ""), table(4, "wieght = 1\n"), table(4, "[health]\n"), table(4, "x = \"\"\"\n")] {
            assert_eq!(amend(&old, &file(&all(&changed)), &env), None, "{changed}");
        }
    }

    #[test]
    fn any_edit_gives_the_same_as_parsing_the_whole_file_or_nothing() {
        let mut rng = fastrand::Rng::with_seed(5);
        let lines = [
            "[[server]]",
            "[[ server ]]",
            "[[server]] # one",
            "name = \"s1\"",
            "name = \"s77\"",
            "address = \"a:1\"",
            "weight = 0",
            "weight = 9",
            "weight = \"${W}\"",
            "weight = \"${V:-5}\"",
            "enabled = false",
            "[health]",
            "kind = \"none\"",
            "[pool.default]",
            "[[pool.default.server]]",
            "[server]",
            "# \"\"\"",
            "x = '''",
            "",
            "[[route]]",
            "pool = \"default\"",
            "[[pool.p.server]]",
            "[server.x]",
            "include = []",
            "name = [",
        ];
        let mut amended = 0;
        for _ in 0..4000 {
            let mut text = TOP.to_owned();
            for number in 0..rng.u32(1..8) {
                text += &table(number, ["", "weight = 2\n", "# of its own\n\n"][rng.usize(..3)]);
            }
            text +=
                ["", "[health]\nkind = \"none\"\n", "[[server]]\nname = \"z\"\naddress = \"b:1\"\n"][rng.usize(..3)];
            text.truncate(text.len() - usize::from(rng.u8(..4) == 0));
            let Some(old) = baseline(&text) else { continue };
            let mut edited: Vec<String> = text.lines().map(str::to_owned).collect();
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(..edited.len());
                match rng.u8(..4) {
                    0 => drop(edited.remove(at)),
                    1 => edited[at] = lines[rng.usize(..lines.len())].to_owned(),
                    2 => edited.insert(at, lines[rng.usize(..lines.len())].to_owned()),
                    _ => edited.splice(at..at, table(rng.u32(..12), "").lines().map(str::to_owned)).for_each(drop),
                }
            }
            let new = edited.join("\n") + ["\n", "", "\r\n"][rng.usize(..3)];
            if let Some(config) = amend(&old, &file(&new), &env) {
                amended += 1;
                assert_eq!(Some(config), baseline(&new).map(|new| new.config), "{text}\n-->\n{new}");
            }
        }
        assert!(amended > 100, "{amended}");
    }
}
