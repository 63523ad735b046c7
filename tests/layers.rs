//! The shape of `src/`: which module may import which, one name for one type, and doc comments that a test can judge.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The top-level modules, lowest first. A module imports only from those before it.
const LAYERS: [&str; 14] = [
    "config",
    "proxy_protocol",
    "tls",
    "transport",
    "http_client",
    "http1",
    "http2",
    "live",
    "telemetry",
    "proxy",
    "worker",
    "admin",
    "control",
    "cli",
];

/// Decisions without I/O, as paths below `src/`; each covers the modules below it too.
const PURE: [&str; 33] = [
    "config",
    "live/balance",
    "live/evidence",
    "live/health",
    "live/method",
    "live/retry_budget",
    "live/token",
    "control/health/grpc",
    "http1/chunked",
    "http1/framing",
    "http1/head",
    "http1/headers",
    "http1/host",
    "http1/name",
    "http1/path",
    "http1/persistence",
    "http1/rejection",
    "http1/target",
    "http1/trailers",
    "http2/fields",
    "http2/flood",
    "http2/head",
    "http2/request_head",
    "http2/response_head",
    "http2/websocket",
    "proxy/cookie",
    "proxy/grpc",
    "proxy/headers",
    "proxy/phases",
    "proxy/retry",
    "proxy/timeouts/body_rate",
    "proxy_protocol",
    "telemetry/log_throttle",
];

/// A file of the product, without its comments and unit tests.
struct Source {
    path: String,
    code: String,
}

#[test]
fn modules_import_only_from_lower_layers() {
    let layer = |module: &str| LAYERS.iter().position(|layer| *layer == module);
    let mut problems = Vec::new();
    let mut count = 0;
    for source in sources() {
        let modules = source.modules();
        // The crate's root may name every module.
        let Some(own) = modules.first() else { continue };
        let Some(own_layer) = layer(own) else {
            problems.push(format!("{}: {own} has no place in LAYERS", source.path));
            continue;
        };
        for import in source.imports() {
            count += 1;
            if layer(&import).is_none_or(|layer| layer > own_layer) {
                problems.push(format!("{}: {own} imports {import}", source.path));
            }
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
    assert!(count > 300, "only {count} imports");
}

#[test]
fn decisions_do_no_io() {
    let sources = sources();
    for module in PURE {
        let (file, directory) = (format!("src/{module}.rs"), format!("src/{module}/"));
        let files: Vec<_> =
            sources.iter().filter(|source| source.path == file || source.path.starts_with(&directory)).collect();
        assert!(!files.is_empty(), "src/{module} does not exist");
        for source in files {
            for library in ["tokio", "hyper", "hyper_util", "prometheus", "std::fs", "std::net::Tcp"] {
                assert_eq!(source.mention(library), None, "{} uses {library}", source.path);
            }
        }
    }
}

#[test]
fn the_proxy_has_no_sockets() {
    let mut count = 0;
    for source in sources().iter().filter(|source| source.modules().first().is_some_and(|module| module == "proxy")) {
        count += 1;
        for socket in ["TcpStream", "TcpListener", "UnixStream", "SockRef", "tokio::net"] {
            assert_eq!(source.mention(socket), None, "{} names {socket}", source.path);
        }
    }
    assert!(count > 10, "only {count} files");
}

#[test]
fn no_two_types_have_the_same_name() {
    let mut types: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources() {
        for line in source.code.lines() {
            let words: Vec<&str> = line.split_whitespace().filter(|word| !word.starts_with("pub")).collect();
            let is_type = match words.first() {
                Some(&("struct" | "enum" | "trait")) => true,
                // An indented one belongs to a trait.
                Some(&"type") => !line.starts_with(' '),
                _ => false,
            };
            if is_type && let Some(name) = words.get(1) {
                let end = name.find(|c: char| !is_word(c)).unwrap_or(name.len());
                types.entry(name[..end].to_owned()).or_default().push(source.path.clone());
            }
        }
    }
    assert!(types.len() > 150, "only {} types", types.len());
    types.retain(|_, files| files.len() > 1);
    assert!(types.is_empty(), "{types:#?}");
}

#[test]
fn every_module_that_logs_is_a_target_of_the_log_filter() {
    let mut logging: Vec<String> = Vec::new();
    for source in sources() {
        let levels = ["error", "warn", "info", "debug", "trace"];
        let is_default = |call: &str| !call.trim_start().starts_with("target:");
        let calls = levels.map(|level| format!("tracing::{level}!("));
        if calls.iter().any(|call| source.code.split(call.as_str()).skip(1).any(is_default)) {
            logging.push(["lb".to_owned()].into_iter().chain(source.modules()).collect::<Vec<_>>().join("::"));
        }
    }
    logging.extend(["lb", "lb::health"].map(str::to_owned));
    logging.sort();
    assert!(logging.len() > 20, "only {logging:?}");
    assert_eq!(logging, lb::config::log_filter::TARGETS, "correct TARGETS in src/config/log_filter.rs");
}

#[test]
fn no_comment_begins_with_a_relative_clause() {
    let files: Vec<PathBuf> = ["src", "backends", "tests", "fuzz"].into_iter().flat_map(rust_files).collect();
    assert!(files.len() > 200, "only {} files", files.len());
    let mut problems = Vec::new();
    for file in files {
        for (number, line) in (1..).zip(read(&file).lines()) {
            let comment = line.trim_start();
            let Some(text) = comment.strip_prefix("///").or_else(|| comment.strip_prefix("//!")) else { continue };
            let first = text.trim_start().split(|c: char| !is_word(c)).next();
            if text.starts_with(' ') && matches!(first, Some("What" | "Who" | "Whom")) {
                problems.push(format!("{}:{number}: {comment}", file.display()));
            }
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

impl Source {
    /// The modules of which this file is the last: `["live", "pool"]` for `src/live/pool.rs`, none for the crate's root.
    fn modules(&self) -> Vec<String> {
        let path = self.path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
        path.split('/').filter(|name| !["lib", "main"].contains(name)).map(str::to_owned).collect()
    }

    /// The top-level modules that the file names, by `crate::` or by as many `super::` as lead to the root.
    fn imports(&self) -> Vec<String> {
        let to_root = "super::".repeat(self.modules().len());
        ["crate::", &to_root]
            .into_iter()
            .flat_map(|root| self.code.match_indices(root).map(move |(start, _)| (start, start + root.len())))
            .filter(|(start, _)| !self.code[..*start].ends_with(|c: char| is_word(c) || c == ':'))
            .flat_map(|(_, end)| first_names(&self.code[end..]))
            .collect()
    }

    /// The first line that names `path`, which is a whole word or, with `::` in it, the start of a path.
    fn mention(&self, path: &str) -> Option<&str> {
        self.code.lines().find(|line| {
            line.match_indices(path).any(|(start, _)| {
                let before = line[..start].chars().next_back();
                let after = line[start + path.len()..].chars().next();
                let is_prefix = path.contains("::");
                !before.is_some_and(|c| is_word(c) || c == '"') && (is_prefix || !after.is_some_and(is_word))
            })
        })
    }
}

/// The names that a path continues with: `a` of `a::b`, or `a` and `b` of `{a::{c, d}, b}`.
fn first_names(path: &str) -> Vec<String> {
    let name = |text: &str| text.trim_start().split(|c: char| !is_word(c)).next().unwrap_or("").to_owned();
    let Some(group) = path.strip_prefix('{') else { return vec![name(path)] };
    let (mut names, mut depth, mut start) = (Vec::new(), 0_u32, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            '}' | ',' if depth == 0 => {
                names.push(name(&group[start..at]));
                start = at + 1;
            }
            _ => {}
        }
        if c == '}' && depth == 0 && start == at + 1 {
            break;
        }
    }
    // A trailing comma leaves an empty one.
    names.retain(|name| !name.is_empty());
    names
}

#[test]
fn groups_of_imports_are_read() {
    assert_eq!(first_names("config::Config;"), ["config"]);
    assert_eq!(first_names("{live::{pool, server}, config};\nfn x() { a, b }"), ["live", "config"]);
    assert_eq!(first_names("{\n    live::pool::{self, Pool},\n    proxy,\n};"), ["live", "proxy"]);
}

/// Every file of `src/`, but those of unit tests.
fn sources() -> Vec<Source> {
    let files = rust_files("src").into_iter().map(|file| (file.to_str().unwrap().to_owned(), product(&read(&file))));
    let files = files.map(|(path, code)| Source { path, code });
    let is_test = |path: &str| path.ends_with("/tests.rs") || path.contains("/tests/");
    let sources: Vec<_> = files.filter(|source| !is_test(&source.path)).collect();
    assert!(sources.len() > 100, "only {} files", sources.len());
    sources
}

/// A text without comments and without its module of tests.
fn product(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "#[cfg(test)]" {
            // Formatted code closes the module in the first column; `mod tests;` ends at once.
            while lines.peek().is_some_and(|line| line.starts_with("#[")) {
                lines.next();
            }
            if lines.next().is_some_and(|line| line.ends_with('{')) {
                lines.by_ref().find(|line| *line == "}");
            }
        } else if !line.trim_start().starts_with("//") {
            code.push_str(line.split(" // ").next().unwrap_or(line));
            code.push('\n');
        }
    }
    code
}

fn rust_files(directory: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(Path::new(directory)).unwrap() {
        let path = entry.unwrap().path();
        match path.file_name().and_then(|name| name.to_str()) {
            Some("target" | "corpus" | "artifacts") => {}
            _ if path.is_dir() => files.extend(rust_files(path.to_str().unwrap())),
            _ if path.extension().is_some_and(|extension| extension == "rs") => files.push(path),
            _ => {}
        }
    }
    files.sort();
    files
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
