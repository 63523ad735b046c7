//! Every table of the file and the keys it knows, as data, each with what it takes and what it is for: the reader
//! refuses the rest, the schema is made of it, and the documentation is compared with it.

use std::ops::RangeInclusive;

/// One key of a table.
#[derive(Debug)]
pub struct Key {
    /// As it is typed.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What holds without it.
    pub without: Without,
    /// What it is for, as Markdown: editors show it, and so does the documentation.
    pub about: &'static str,
}

/// What holds when a key is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Without {
    /// It must not be.
    Nothing,
    /// What `defaults.rs` says.
    Default,
    /// Something that depends on the rest.
    Other,
}

/// What a key takes.
#[derive(Debug)]
pub enum Kind {
    /// A string.
    Text(Text),
    /// An array of strings.
    Texts(Text),
    /// Such as `"10s"`; whether it may be no time at all.
    Duration {
        /// Whether `"0s"` makes sense.
        zero: bool,
    },
    /// Bytes, such as `"32KiB"`.
    Size(RangeInclusive<u64>),
    /// Such as `"20%"`.
    Percent,
    /// A whole number.
    Integer(RangeInclusive<i64>),
    /// A number.
    Number(RangeInclusive<f64>),
    /// `true` or `false`.
    Boolean,
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// `[key]`
    Table(&'static [Key]),
    /// `[key]`, or `false` to turn off what it turns on.
    Switch(&'static [Key]),
    /// `[[key]]`
    Tables(&'static [Key]),
    /// `[key.NAME]`
    Named(&'static [Key]),
    /// Known only to say that it is not there yet.
    Refused,
}

/// What a string holds. What exactly is right is in `values.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text {
    /// Anything that can be seen.
    Label,
    /// Letters, digits, `.`, `_`, `-`.
    Name,
    /// `host:port`
    Address,
    /// A host name.
    Host,
    /// A host name, `*.example.com`, or `*`.
    HostPattern,
    /// Begins with `/`.
    Path,
    /// The same, or nothing.
    OptionalPath,
    /// `200-399`
    Statuses,
    /// A cookie's name.
    Cookie,
    /// `http://…`, or nothing.
    Url,
    /// A network or an IP address.
    Network,
    /// A file, or several by a glob.
    Files,
    /// A directory, or nothing.
    Directory,
    /// A level or a filter of the log.
    Filter,
}

const fn key(name: &'static str, kind: Kind, about: &'static str) -> Key {
    Key { name, kind, without: Without::Default, about }
}

const fn needed(name: &'static str, kind: Kind, about: &'static str) -> Key {
    Key { name, kind, without: Without::Nothing, about }
}

const fn derived(name: &'static str, kind: Kind, about: &'static str) -> Key {
    Key { name, kind, without: Without::Other, about }
}

const TIME: Kind = Kind::Duration { zero: true };
const SOME_TIME: Kind = Kind::Duration { zero: false };

/// The keys of the file as a whole.
pub const ROOT: &[Key] = &[
    key(
        "include",
        Kind::Texts(Text::Files),
        "more files or globs, such as `[\"conf.d/*.toml\"]`, relative to the main file, at whose top it stands",
    ),
    derived("listener", Kind::Tables(LISTENER), "where clients connect; at least one is needed"),
    derived("admin", Kind::Table(ADMIN), "the API, the metrics"),
    derived("proxy", Kind::Table(PROXY), "what concerns every request"),
    derived("reload", Kind::Table(RELOAD), "how edits are read and guarded"),
    derived("log", Kind::Table(LOG), "the process' own log and the access log"),
    derived("tracing", Kind::Table(TRACING), "where spans go, and which"),
    derived("timeouts", Kind::Table(TIMEOUTS), "how long anything may take"),
    derived("limits", Kind::Table(LIMITS), "how much of anything is accepted"),
    derived("retry", Kind::Table(RETRY), "when a failed try is followed by another"),
    derived("balance", Kind::Table(BALANCE), "how a server is chosen"),
    derived("health", Kind::Table(HEALTH), "how servers are checked"),
    derived("server", Kind::Tables(SERVER), "a server of the pool `default`"),
    derived("route", Kind::Tables(ROUTE), "which pool answers which host and path; without any, `default` answers all"),
    derived("pool", Kind::Named(POOL), "servers that can answer the same requests, for a route to name"),
];
/// `[[listener]]`.
pub const LISTENER: &[Key] = &[
    needed("address", Kind::Text(Text::Address), "`IP:port`, IPv6 in brackets. At least one listener is needed"),
    derived("name", Kind::Text(Text::Label), "its name in logs and metrics"),
    derived("tls", Kind::Refused, "not supported yet"),
];
/// `[admin]`.
pub const ADMIN: &[Key] = &[
    key(
        "address",
        Kind::Text(Text::Address),
        "where it listens. Anybody who reaches it can read everything: keep it private",
    ),
    key(
        "hosts",
        Kind::Texts(Text::Host),
        "host names it answers to, beside IP addresses and `localhost`; others get 403, so that no web page can read it \
         through a browser",
    ),
];
/// `[proxy]`.
pub const PROXY: &[Key] = &[
    key(
        "trusted_proxies",
        Kind::Texts(Text::Network),
        "networks (`\"10.0.0.0/8\"`) whose `X-Forwarded-*` and `Forwarded` are believed and extended; anybody else's are \
         replaced",
    ),
    key(
        "workers",
        Kind::Integer(0..=1024),
        "request threads; 0 is one for each core. Takes effect with the next start",
    ),
];
/// `[reload]`.
pub const RELOAD: &[Key] = &[
    key(
        "quiet",
        TIME,
        "a file written in place is read once it was unchanged for so long; one that was moved into place is read at once",
    ),
    key("poll", TIME, "how often the content is looked at, for what no file event told; `0s`: events only"),
    key(
        "max_removed",
        Kind::Percent,
        "refuse an edit that removes or disables more than this share of a pool's enabled servers. The running \
         configuration's limit counts, so raising it takes an edit of its own",
    ),
    key("allow_empty", Kind::Boolean, "let an edit leave a pool without an enabled server; otherwise it is refused"),
    key(
        "hold",
        TIME,
        "a pool whose servers are all new keeps its old ones until one of the new passes its check, at most so long",
    ),
    key(
        "state_dir",
        Kind::Text(Text::Directory),
        "where the last good configuration is kept, to start from when the file is bad; empty: nowhere",
    ),
    key("history", Kind::Integer(1..=100_000), "reloads that `/api/reloads` remembers"),
];
/// `[log]`.
pub const LOG: &[Key] = &[
    key(
        "level",
        Kind::Text(Text::Filter),
        "`error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,lb::health=debug`",
    ),
    key("format", Kind::Choice(&["text", "json"]), "`text` or `json`, for both logs"),
    key(
        "access",
        Kind::Boolean,
        "a line for each request, on standard output. The process' own log is on standard error",
    ),
];
/// `[tracing]`.
pub const TRACING: &[Key] = &[
    key(
        "zipkin",
        Kind::Text(Text::Url),
        "spans go there in Zipkin's format: `http://127.0.0.1:9411/api/v2/spans`; empty: off",
    ),
    key(
        "otlp",
        Kind::Text(Text::Url),
        "spans go there by OTLP over HTTP: `http://127.0.0.1:4318/v1/traces`; empty: off",
    ),
    key("service", Kind::Text(Text::Label), "the service's name in spans"),
    key(
        "sample",
        Kind::Number(0.0..=1.0),
        "share of the traces that begin here and are recorded, 0 to 1. A decision that came with the request is kept",
    ),
];
/// `[timeouts]`.
pub const TIMEOUTS: &[Key] = &[
    key("request_header", SOME_TIME, "for a client to send a request's head"),
    key("idle", SOME_TIME, "for a client connection to stay open without a request"),
    key("connect", SOME_TIME, "to connect to a server"),
    key("response_header", SOME_TIME, "for a server to begin its answer, from when it has the request"),
    key("body_idle", SOME_TIME, "for a body to make no progress by a single byte, in either direction"),
    key("drain", TIME, "for the open requests of what goes away to finish: a server, a listener, the process"),
];
/// `[limits]`.
pub const LIMITS: &[Key] = &[
    key(
        "header_bytes",
        Kind::Size(256..=16 << 20),
        "of a request's head, in bytes; more is answered 431, or 414 when it is the target alone",
    ),
    key("headers", Kind::Integer(1..=10_000), "fields in a request's head; more is answered 431"),
    key("body_bytes", Kind::Size(0..=u64::MAX), "of a request's body; more is answered 413. 0: no limit"),
    key(
        "body_rate",
        Kind::Size(0..=1 << 30),
        "a client that sends or reads a body slower than this a second, over `timeouts.body_idle`, is ended; waiting for \
         the server does not count",
    ),
    key(
        "connections",
        Kind::Integer(0..=10_000_000),
        "clients at once; more wait to be accepted. 0: as many as the process can hold",
    ),
];
/// `[retry]`.
pub const RETRY: &[Key] = &[
    key(
        "attempts",
        Kind::Integer(0..=100),
        "tries after the first. What was never sent may go to any other server; what was sent is tried again only if its \
         method may be executed twice and it has no body",
    ),
    key(
        "budget",
        Kind::Percent,
        "share of the requests of the last ten seconds that may be sent again, and ten more for where few come (`0%`: none at all); above \
         it failures are passed on. What was never sent does not count. Each worker counts its own",
    ),
];
/// `[balance]`.
pub const BALANCE: &[Key] = &[
    key(
        "algorithm",
        Kind::Choice(&["weighted-round-robin", "round-robin", "random", "least-connections"]),
        "the rule: `weighted-round-robin` gives each server exactly its share, `round-robin` goes from one to the next, \
         `random` draws by weight, `least-connections` takes the one with the fewest open requests for its weight",
    ),
    derived(
        "sticky",
        Kind::Switch(STICKY),
        "a client stays with its server, by a cookie: `sticky = { cookie = \"lb\", max_age = \"1h\" }`",
    ),
];
/// `[balance.sticky]`.
pub const STICKY: &[Key] = &[
    key("cookie", Kind::Text(Text::Cookie), "the cookie's name"),
    key("max_age", SOME_TIME, "how long a browser keeps it"),
];
/// `[health]`.
pub const HEALTH: &[Key] = &[
    key(
        "kind",
        Kind::Choice(&["http", "tcp", "none"]),
        "`http`: a GET; `tcp`: a connection; `none`: a server always counts as up",
    ),
    key("path", Kind::Text(Text::Path), "what an `http` check asks for"),
    key("expect", Kind::Text(Text::Statuses), "statuses that pass: `\"200\"`, `\"200-299, 404\"`"),
    key("interval", SOME_TIME, "from one check to the next, give or take a tenth"),
    key("timeout", SOME_TIME, "for a check as a whole"),
    key("rise", Kind::Integer(1..=1000), "passes in a row until a server that was down is up"),
    key(
        "fall",
        Kind::Integer(1..=1000),
        "failures in a row until it is down; as many requests in a row that fail do the same",
    ),
    key(
        "memory",
        Kind::Text(Text::OptionalPath),
        "path of the server's own Prometheus page; its `process_resident_memory_bytes` is shown as the server's memory",
    ),
];
/// `[[server]]`.
pub const SERVER: &[Key] = &[
    needed("name", Kind::Text(Text::Name), "unique in its pool; letters, digits, `.`, `_`, `-`"),
    needed(
        "address",
        Kind::Text(Text::Address),
        "where it is: `host:port`; a host name is looked up again in the background",
    ),
    key(
        "weight",
        Kind::Integer(0..=1000),
        "its share beside the others', 0 to 1000. 0 takes no new client; one whose cookie names the server still gets \
         there",
    ),
    key("enabled", Kind::Boolean, "`false`: no new request; open ones finish within `timeouts.drain`"),
];
/// `[[route]]`.
pub const ROUTE: &[Key] = &[
    derived("name", Kind::Text(Text::Label), "its name in metrics and logs"),
    key(
        "host",
        Kind::Text(Text::HostPattern),
        "whose requests it takes: `\"api.example.com\"`, `\"*.example.com\"`, or `*` for any",
    ),
    key("path", Kind::Text(Text::Path), "which paths it takes: a prefix in whole segments"),
    needed("pool", Kind::Text(Text::Name), "who answers: `default`, or one of `[pool.NAME]`"),
];
/// `[pool.NAME]`.
pub const POOL: &[Key] = &[
    derived(
        "balance",
        Kind::Table(BALANCE),
        "how one of its servers is chosen; what this leaves out, key by key, is taken from the top level",
    ),
    derived("health", Kind::Table(HEALTH), "how its servers are checked; likewise"),
    derived("retry", Kind::Table(RETRY), "when a failed try is followed by another; likewise"),
    derived("server", Kind::Tables(SERVER), "the pool's servers, `[[pool.NAME.server]]`, like `[[server]]`"),
];

/// The name of each table, as its header has it, with its keys; `*` stands for a pool's name.
pub const TABLES: &[(&str, &[Key])] = &[
    ("", ROOT),
    ("listener", LISTENER),
    ("admin", ADMIN),
    ("proxy", PROXY),
    ("reload", RELOAD),
    ("log", LOG),
    ("tracing", TRACING),
    ("timeouts", TIMEOUTS),
    ("limits", LIMITS),
    ("retry", RETRY),
    ("balance", BALANCE),
    ("balance.sticky", STICKY),
    ("health", HEALTH),
    ("server", SERVER),
    ("route", ROUTE),
    ("pool.*", POOL),
    ("pool.*.balance", BALANCE),
    ("pool.*.balance.sticky", STICKY),
    ("pool.*.health", HEALTH),
    ("pool.*.retry", RETRY),
    ("pool.*.server", SERVER),
];

/// The tables that are written `[[name]]`.
pub const ARRAYS: &[&str] = &["listener", "server", "route", "pool.*.server"];

/// The names of some keys.
pub fn names(keys: &'static [Key]) -> impl Iterator<Item = &'static str> + Clone {
    keys.iter().map(|key| key.name)
}
