//! The places in the files that a valid configuration came from, for problems that show only when it is applied.

use super::merged;
use super::report::Report;
use super::tree::{Location, TomlKind, TomlTable};
use crate::config::DEFAULT_POOL;
use crate::config::problem::{Problem, Reason};
use crate::config::source::SourceFile;

/// Larger files are not parsed again for a place.
const MAX_BYTES: usize = 1 << 20;

/// A part of a configuration that a problem concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject<'a> {
    /// The address of a listener, by its index.
    Listener(usize),
    /// `admin.address`.
    Admin,
    /// `reload.max_removed` or, if it is not in the files, the pool.
    MaxRemoved(&'a str),
    /// The first server of a pool or, if it has none, its table.
    Pool(&'a str),
    /// The address of a pool's server, by its index.
    Server(&'a str, usize),
    /// A key of a `[[certificate]]`, by the table's index.
    Certificate(usize, &'a str),
    /// A key of a listener's `tls`, by the listener's index.
    ListenerTls(usize, &'a str),
    /// A key of a pool's `upstream.tls` or, if it has none of its own, of the top level's.
    UpstreamTls(&'a str, &'a str),
    /// A key of `[acme]`.
    Acme(&'a str),
}

/// The problem at its place in the files or, if that is not in them, of the main file.
#[must_use]
pub fn locate(files: &[SourceFile], subject: Subject<'_>, reason: Reason) -> Problem {
    if files.iter().map(|file| file.bytes.len()).sum::<usize>() <= MAX_BYTES {
        // The files are valid, or their problems have been reported; places do not depend on the environment.
        let report = Report::new(files);
        let root = merged(files.len(), &|_| None, &report);
        if let Some(location) = place(&root, subject) {
            return report.problem(location, reason);
        }
    }
    Problem::of_file(files.first().map(|file| file.path.clone()).unwrap_or_default(), reason)
}

fn place(root: &TomlTable<'_>, subject: Subject<'_>) -> Option<Location> {
    match subject {
        Subject::Listener(index) => address_in(root, "listener", index),
        Subject::Admin => value(table(root, "admin")?, "address"),
        Subject::MaxRemoved(name) => {
            let limit = table(root, "reload").and_then(|reload| value(reload, "max_removed"));
            limit.or_else(|| place(root, Subject::Pool(name)))
        }
        Subject::Pool(name) => {
            let table = table(root, "pool").and_then(|pools| Some((pools.get(name)?.key, table(pools, name)?)));
            let first = pool_tables(root, name).find_map(|table| item(table, "server", 0));
            first.map(|(location, _)| location).or_else(|| Some(table?.0))
        }
        Subject::Server(name, mut index) => pool_tables(root, name).find_map(|table| {
            let found = address_in(table, "server", index);
            index = index.saturating_sub(count(table, "server"));
            found
        }),
        Subject::Certificate(index, key) => {
            let (location, certificate) = item(root, "certificate", index)?;
            value(certificate, key).or(Some(location))
        }
        Subject::ListenerTls(index, key) => {
            let (location, listener) = item(root, "listener", index)?;
            table(listener, "tls").and_then(|tls| value(tls, key)).or(Some(location))
        }
        Subject::Acme(key) => value(table(root, "acme")?, key),
        Subject::UpstreamTls(name, key) => {
            let own = table(root, "pool").and_then(|pools| table(pools, name));
            let upstreams = own.into_iter().chain([root]).filter_map(|of| table(of, "upstream"));
            upstreams.filter_map(|upstream| table(upstream, "tls")).find_map(|tls| value(tls, key))
        }
    }
}

/// The tables that have servers of a pool, in the order in which the pool has them.
fn pool_tables<'t, 'a>(root: &'t TomlTable<'a>, name: &str) -> impl Iterator<Item = &'t TomlTable<'a>> {
    let top = (name == DEFAULT_POOL).then_some(root);
    top.into_iter().chain(table(root, "pool").and_then(|pools| table(pools, name)))
}

fn table<'t, 'a>(parent: &'t TomlTable<'a>, key: &str) -> Option<&'t TomlTable<'a>> {
    if let TomlKind::Table(table) = &parent.get(key)?.value.kind { Some(table) } else { None }
}

fn value(table: &TomlTable<'_>, key: &str) -> Option<Location> {
    table.get(key).map(|entry| entry.value.location)
}

fn count(parent: &TomlTable<'_>, key: &str) -> usize {
    match parent.get(key).map(|entry| &entry.value.kind) {
        Some(TomlKind::Array(values)) => values.len(),
        _ => 0,
    }
}

/// A table of an array, and its place.
fn item<'t, 'a>(parent: &'t TomlTable<'a>, key: &str, index: usize) -> Option<(Location, &'t TomlTable<'a>)> {
    let TomlKind::Array(values) = &parent.get(key)?.value.kind else { return None };
    let value = values.get(index)?;
    if let TomlKind::Table(table) = &value.kind { Some((value.location, table)) } else { None }
}

/// The place of `address` in a table of an array.
fn address_in(parent: &TomlTable<'_>, key: &str, index: usize) -> Option<Location> {
    let (location, table) = item(parent, key, index)?;
    value(table, "address").or(Some(location))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_the_values() {
        let main = "[[listener]]\naddress = \"${A}\"\n[admin]\naddress = \"b\"\n[reload]\nmax_removed = \"1%\"\n\
                    [[server]]\naddress = \"c:1\"\n[pool.empty.balance]\n[[pool.p.server]]\naddress = \"d:1\"\n";
        let more = "[[listener]]\nname = \"x\"\naddress = \"e\"\n[[server]]\naddress = \"f:1\"\n";
        let tls = "[[certificate]]\nfile = \"a\"\nkey = \"b\"\n[[listener]]\naddress = \"g\"\n[listener.tls]\n\
                   client_ca = \"c\"\n[pool.p.upstream.tls]\nca = \"d\"\n[upstream.tls]\nca = \"e\"\n[acme]\nca = \"f\"\n";
        let files =
            [SourceFile::new("lb.toml", main), SourceFile::new("more.toml", more), SourceFile::new("tls.toml", tls)];
        let cases = [
            (Subject::Listener(0), "lb.toml", 2, 11),
            (Subject::Listener(1), "more.toml", 3, 11),
            (Subject::Listener(3), "lb.toml", 0, 0),
            (Subject::Admin, "lb.toml", 4, 11),
            (Subject::MaxRemoved("p"), "lb.toml", 6, 15),
            (Subject::Pool("default"), "lb.toml", 7, 1),
            (Subject::Pool("p"), "lb.toml", 10, 1),
            (Subject::Pool("empty"), "lb.toml", 9, 7),
            (Subject::Pool("gone"), "lb.toml", 0, 0),
            (Subject::Server("default", 1), "more.toml", 5, 11),
            (Subject::Server("p", 0), "lb.toml", 11, 11),
            (Subject::Certificate(0, "key"), "tls.toml", 3, 7),
            (Subject::Certificate(0, "directory"), "tls.toml", 1, 1),
            (Subject::Certificate(1, "file"), "lb.toml", 0, 0),
            (Subject::ListenerTls(2, "client_ca"), "tls.toml", 7, 13),
            (Subject::ListenerTls(0, "client_ca"), "lb.toml", 1, 1),
            (Subject::UpstreamTls("p", "ca"), "tls.toml", 9, 6),
            (Subject::UpstreamTls("other", "ca"), "tls.toml", 11, 6),
            (Subject::Acme("ca"), "tls.toml", 13, 6),
        ];
        for (subject, file, line, column) in cases {
            let problem = locate(&files, subject, Reason::new("wrong"));
            let found = (problem.file.to_string_lossy(), problem.line, problem.column);
            assert_eq!(found, (file.into(), line, column), "{subject:?}");
        }
        let without = [SourceFile::new("lb.toml", "[[pool.p.server]]\naddress = \"d:1\"\n")];
        let problem = locate(&without, Subject::MaxRemoved("p"), Reason::new("wrong"));
        assert_eq!((problem.line, problem.column), (1, 1));
        assert_eq!(locate(&[], Subject::Admin, Reason::new("wrong")).line, 0);
    }
}
