//! Reading an edit of a large file by what it changes: of thousands of `[[server]]` tables, a few.
//!
//! What comes out is what reading all of it gives; where that is not certain nothing comes out. It is
//! certain because a header begins a statement and ends the one before: a text is the statements up to a
//! header, and those from there on. In a valid text without strings over several lines, every line that
//! is such a header is one.

use std::collections::HashSet;
use std::sync::Arc;

use memchr::memmem;

use super::report::Report;
use super::resolve::server;
use super::{Env, joined, tables};
use crate::config::source::SourceFile;
use crate::config::{Config, DEFAULT_POOL, PoolConfig, ServerConfig};

/// The header of a server's table, as lines of their own.
const HEADER: &[u8] = b"\n[[server]]\n";

/// What makes line ends mean nothing.
const MULTI_LINE: [&[u8]; 2] = [b"\"\"\"", b"'''"];

/// A file by itself, which includes none, and the configuration that it is.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its text.
    pub file: SourceFile,
    /// What it says.
    pub config: Config,
}

/// The configuration that `new` is, if it is valid and differs from a known one in few servers.
#[must_use]
pub fn amend(known: &Known, new: &SourceFile, env: &Env<'_>) -> Option<Config> {
    let pool = known.config.pool(DEFAULT_POOL)?;
    let (old, new_bytes) = (&known.file.bytes[..], &new.bytes[..]);
    let spread = |text| MULTI_LINE.iter().any(|mark| memmem::find(text, mark).is_some());
    // Were one header spelt otherwise, or a server of another table, it could not be told which is which.
    if spread(old) || spread(new_bytes) || headers(old) != pool.servers.len() {
        return None;
    }
    let (first, last) = common_ends(old, new_bytes);
    let begin = memmem::rfind(&old[..first], HEADER)? + 1;
    let end = memmem::find(&old[old.len() - last..], HEADER).map_or(0, |at| last - at - 1);
    // What is taken away is to be servers too.
    read(&known.file.bytes.slice(begin..old.len() - end), new, env)?;
    let servers = read(&new.bytes.slice(begin..new_bytes.len() - end), new, env)?;

    let before = headers(&old[..begin]);
    let after = headers(&old[old.len() - end..]) + usize::from(end > 0);
    let kept = [&pool.servers[..before], &pool.servers[pool.servers.len() - after..]];
    let mut names = HashSet::new();
    let fresh = servers.iter().all(|server| names.insert(server.name.as_str()));
    if !fresh || kept.iter().copied().flatten().any(|server| names.contains(server.name.as_str())) {
        return None;
    }
    let servers = [kept[0], &servers, kept[1]].concat();
    if !servers.iter().any(|server| server.enabled && server.weight > 0) {
        return None;
    }
    let amended = Arc::new(PoolConfig { servers, ..pool.without_servers() });
    let pools =
        known.config.pools.iter().map(|other| Arc::clone(if Arc::ptr_eq(other, pool) { &amended } else { other }));
    Some(Config { pools: pools.collect(), ..known.config.clone() })
}

/// The servers of a text that has nothing else in it, and nothing wrong.
fn read(text: &bytes::Bytes, file: &SourceFile, env: &Env<'_>) -> Option<Vec<ServerConfig>> {
    let part = SourceFile { path: file.path.clone(), bytes: text.clone(), hash: String::new() };
    let parts = [part];
    let report = Report::new(&parts);
    let table = joined(1, env, &report);
    let only_servers = table.iter().all(|(key, _)| key == "server");
    let mut draft = tables::read(&table, &report);
    let servers = draft.pools.remove(DEFAULT_POOL).map(|pool| pool.servers).unwrap_or_default();
    let count = servers.len();
    let servers: Vec<ServerConfig> = servers.into_iter().filter_map(server).collect();
    (only_servers && servers.len() == count && report.into_problems().is_empty()).then_some(servers)
}

/// How many lines are a header, but for one at the very beginning.
fn headers(text: &[u8]) -> usize {
    memmem::find_iter(text, HEADER).count()
}

/// How many bytes two texts have in common at their beginning, and how many of the rest at their end.
fn common_ends(old: &[u8], new: &[u8]) -> (usize, usize) {
    /// Compared at once.
    const PIECE: usize = 4096;
    let equal = |(a, b): &(&[u8], &[u8])| a == b;
    let pieces = old.chunks_exact(PIECE).zip(new.chunks_exact(PIECE)).take_while(equal).count() * PIECE;
    let rest = old[pieces..].iter().zip(&new[pieces..]).take_while(|(a, b)| a == b).count();
    let first = pieces + rest;
    let (old, new) = (&old[first..], &new[first..]);
    let pieces = old.rchunks_exact(PIECE).zip(new.rchunks_exact(PIECE)).take_while(equal).count() * PIECE;
    let (old, new) = (&old[..old.len() - pieces], &new[..new.len() - pieces]);
    let rest = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    (first, pieces + rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::parse;

    fn file(text: &str) -> SourceFile {
        SourceFile::new("lb.toml", text)
    }

    fn known(text: &str) -> Option<Known> {
        let config = parse(&[file(text)], &|_| None).ok()?;
        Some(Known { file: file(text), config })
    }

    fn table(name: u32, rest: &str) -> String {
        format!("[[server]]\nname = \"s{name}\"\naddress = \"127.0.0.1:{}\"\n{rest}", 1 + name)
    }

    const TOP: &str = "[[listener]]\naddress = \"127.0.0.1:1\"\n";

    #[test]
    fn common_ends_are_found_across_pieces() {
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
    fn few_servers_of_many_are_read_by_themselves() {
        let all = |changed: &str| {
            TOP.to_owned() + &(0..9).map(|n| if n == 4 { changed.to_owned() } else { table(n, "") }).collect::<String>()
        };
        let old = known(&all(&table(4, ""))).expect("valid");
        for changed in [
            table(4, "weight = 7\n"),
            table(4, "enabled = false\n# \u{fc}\n"),
            String::new(),
            table(4, "") + &table(40, ""),
        ] {
            let new = all(&changed);
            assert_eq!(amend(&old, &file(&new), &|_| None), known(&new).map(|new| new.config), "{changed}");
        }
        for changed in [table(3, ""), table(4, "wieght = 1\n"), table(4, "[health]\n"), table(4, "x = \"\"\"\n")] {
            assert_eq!(amend(&old, &file(&all(&changed)), &|_| None), None, "{changed}");
        }
    }

    #[test]
    fn whatever_is_edited_it_is_what_reading_all_gives_or_nothing() {
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
            let Some(old) = known(&text) else { continue };
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
            if let Some(config) = amend(&old, &file(&new), &|_| None) {
                amended += 1;
                assert_eq!(Some(config), known(&new).map(|new| new.config), "{text}\n-->\n{new}");
            }
        }
        assert!(amended > 100, "{amended}");
    }
}
